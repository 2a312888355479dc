"""Which pictures and films are copies of one another, over plain arrays: candidates by hash, stacks by name, groups."""
