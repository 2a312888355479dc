"""Peers on the same folder, with the same architecture and weights, in turns: `python -m benchmarks.peers.run --help`."""
