"""The run directory: what lies where, how it is committed, checked, merged and read. Loads without torch."""
