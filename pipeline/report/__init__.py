"""What a run found, for people: figures, essentials as plain data, an offline page. Loads without torch."""
