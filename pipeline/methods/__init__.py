"""The discovery methods, one paper, one file. This list is all there is: config, `circuits list`, schema and docs
derive from it. Loads without torch."""
