"""From files to uint8 tensors, and from tensors to augmented batches."""
