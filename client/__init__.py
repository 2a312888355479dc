"""A server's index from Python, by the same types as an index on this machine."""
