"""Encoded bytes to pixels, frames, cues and passages, and from a place back to its image. Knows no index, no model."""
