"""What training and serving share: the manifest, the registry, and the forms an artifact can be computed in.

Imports only pydantic, fsspec and the standard library.
"""
