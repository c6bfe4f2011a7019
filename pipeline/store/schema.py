"""The columns of every file, and values to and from tables.

Knows column names, types and order. Does not know paths, footers or how files are written.
"""

SCHEMA_VERSION = 1
