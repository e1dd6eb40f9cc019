"""From a queued input to its logits: admission, queues, blocks, and the worker that computes them.

Knows nothing about HTTP, gRPC or image files.
"""
