"""From the bytes of a picture to the uint8 pixels that a model takes.

Knows nothing about HTTP.
"""
