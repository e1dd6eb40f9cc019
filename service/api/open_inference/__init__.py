"""The Open Inference Protocol, version 2, over REST, with its binary tensor and classification extensions.

https://github.com/kserve/open-inference-protocol, and for the extensions Triton's documentation; the public
`tritonclient` package is the proof of it.
"""
