"""The networks: float32 [N, C, H, W] or [N, F] in, raw logits [N, K] out.

They know nothing about data, training or export.
"""
