"""Recall, speed and index benchmarks, their datasets and metrics."""
