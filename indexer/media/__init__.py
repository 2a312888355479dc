"""Bytes to pixels or text, with every limit and every error."""
