"""Scoring of collections of images, on one machine or on a Ray cluster: each shard is computed once and written whole.

Knows nothing about HTTP or services that run.
"""
