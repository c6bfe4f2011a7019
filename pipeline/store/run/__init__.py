"""The files of a run: what they hold, how they are written, merged, checked and read."""
