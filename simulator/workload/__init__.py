"""What one pipeline stage does with one micro-batch: operators with shapes, and the tensors they leave behind."""
