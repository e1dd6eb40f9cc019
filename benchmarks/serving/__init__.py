"""Argmax against other ways to serve the same TorchScript: `python -m benchmarks.serving`."""
