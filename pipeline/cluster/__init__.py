"""What the process that owns a run does with Ray: reaching it, and a pool of actors that are watched and replaced."""
