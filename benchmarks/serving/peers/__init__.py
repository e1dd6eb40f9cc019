"""Scripts that start each peer in an environment of its own, where nothing of this repository can be imported."""
