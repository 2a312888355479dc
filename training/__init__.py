"""The recipe that makes the embedded model, and fine-tuning on a user's own captions."""
