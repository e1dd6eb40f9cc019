"""From the registry to a worker: which versions to serve, and how a new one is tried out and loaded.

Knows nothing about requests.
"""
