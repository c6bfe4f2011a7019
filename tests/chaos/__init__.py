"""Random faults against a run on a local cluster, and the proof that its results do not notice."""
