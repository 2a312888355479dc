"""What an index is on disk: manifest, shards, vectors, and the one writer."""
