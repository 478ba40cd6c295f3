"""Where logs that are already there become points: nccl-tests output, PyTorch traces, published tables."""
