"""How many seconds an operator takes on an accelerator, from fitted measurements, and how well that is known."""

from hardware.kernels.attention import attention_s, flash_rate, unfused_attention_s
from hardware.kernels.curves import kernel_set
from hardware.kernels.evidence import evidence, spread
from hardware.kernels.matmul import gemm_s, grouped_gemm_s
from hardware.kernels.scaling import clock_scale, is_borrowed, scale_spread, scaling_words
from hardware.kernels.scans import scan_s
from hardware.kernels.streaming import launch_s, streaming_s

__all__ = [
    "attention_s",
    "clock_scale",
    "evidence",
    "flash_rate",
    "gemm_s",
    "grouped_gemm_s",
    "is_borrowed",
    "kernel_set",
    "launch_s",
    "scale_spread",
    "scaling_words",
    "scan_s",
    "spread",
    "streaming_s",
    "unfused_attention_s",
]
