"""The training loop and its parts: optimisers, checkpoints, devices, several processes, progress."""
