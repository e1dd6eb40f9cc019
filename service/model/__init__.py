"""One version of one model on one device: load it, check it, run batches through it.

Knows nothing about requests, sockets or the registry.
"""
