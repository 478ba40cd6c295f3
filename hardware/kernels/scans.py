"""Seconds of the kernels of a chunked scan (state-space and linear-attention mixers), which Triton compiles."""

from __future__ import annotations

import numpy as np

from hardware.arrays import Number, floats, plain
from hardware.kernels.streaming import streaming_s
from hardware.specs import Accelerator

# mamba-ssm 2.2.6 under Triton 3.5 runs its chunk scan (64 wide heads, 128 states) at 90 to 110 TFLOP/s on an H800, the
# causal half of a chunk counted (tile-ai/tilelang, benchmark/mamba2), a tenth of what a plain product reaches: the
# decays are exponentiated and multiplied in registers between small products, work that grows with SMs and clock and
# not with the tensor cores. So it is kept per SM on every part; other kernels of the family, and the backward ones,
# are assumed to be like it.
FLOPS_PER_S_PER_SM = 95e12 / 132


def scan_s(accelerator: Accelerator, flops: Number, read_and_write_bytes: Number) -> Number:
    """Seconds of one kernel of a scan: the slower of its small products and its bytes, and one launch."""
    compute_s = floats(flops) / (FLOPS_PER_S_PER_SM * accelerator.sm_count)
    return plain(np.maximum(compute_s, streaming_s(accelerator, read_and_write_bytes, "elementwise")))
