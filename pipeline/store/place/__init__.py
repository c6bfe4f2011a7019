"""Where a run lies, a folder or an object store, and which process owns it."""
