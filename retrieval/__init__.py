"""What a search needs: models, shards, vectors, re-ranking, decoding, and the engine over them."""
