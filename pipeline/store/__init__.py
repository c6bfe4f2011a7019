"""The run directory: what is written where, how it is committed, checked, merged and read. Loads without torch."""
