"""Number formats, and the precisions that a training plan may compute in: one record each.

A precision says in which format the products of its linears run, how their operands are scaled, and what stays in a
higher format beside them. A new precision is a record here (and its measured kernels, where there are any).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Scales = Literal["none", "tensor_delayed", "tensor_current", "row", "block"]


@dataclass(frozen=True, slots=True)
class NumberFormat:
    """One number format: `bits` in memory; whether optimizer state and gradients may be kept in it (`kept`), and then
    PyTorch's name of it; whether Megatron-Core keeps main weights in it (`in_main_weights`)."""

    name: str
    bits: int
    kept: bool = False
    torch_name: str = ""
    in_main_weights: bool = False

    @property
    def bytes(self) -> float:
        return self.bits / 8

    @property
    def full_width(self) -> bool:
        """Whether it is the format of master weights (32 bit)."""
        return self.bits == 32


_FORMATS = (
    NumberFormat("fp32", 32, kept=True, torch_name="Float", in_main_weights=True),
    NumberFormat("tf32", 32),
    NumberFormat("bf16", 16, kept=True, torch_name="BFloat16"),
    NumberFormat("fp16", 16, kept=True, torch_name="Half", in_main_weights=True),
    NumberFormat("fp8", 8, kept=True, torch_name="Float8_e4m3fn"),
    NumberFormat("fp4", 4),
)
FORMATS: dict[str, NumberFormat] = {each.name: each for each in _FORMATS}
# Formats of optimizer state and gradients.
KEPT_FORMATS = tuple(each.name for each in _FORMATS if each.kept)
# The precision whose kernels every measured set holds; what has no curve of its own is scaled from its.
REFERENCE = "bf16"
# What people write who mean whichever 8-bit precision their software runs.
UNSPECIFIED_FP8 = "fp8"


@dataclass(frozen=True, slots=True)
class Precision:
    """How a training precision runs.

    `format`: of the products; `needs`: formats that the part must have beside it. `high`: the precision of what is
    not quantized (attention, head, everything between the linears). `curves`: the measured kernels that stand for it,
    best first. `scale_bytes`: of the block scales that travel with an operand, per element.
    `wgrad_rate` is what weight gradients reach of the curve beyond what the part's own role rates say, `forward_rate`
    the same of the forward. `alignment`: sides of a product must be multiples of it, the granularity of the scales
    (None: any). `column_reads`: how often torchao's cast by columns reads each 16-bit element (None: torchao has no
    such linears). `gathers_low`: weights kept in the format itself (fp8_param_gather) travel in it;
    `low_weights_need_sharding`: Megatron-Core keeps them only where weights are gathered.
    `attention_kernels`: attention can compute in it. `offered`: a plan may name it.
    """

    name: str
    format: str
    high: str = "bf16"
    curves: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    scales: Scales = "none"
    scale_bytes: float = 0.0
    wgrad_rate: float = 1.0
    forward_rate: float = 1.0
    alignment: int | None = None
    column_reads: int | None = None
    gathers_low: bool = False
    low_weights_need_sharding: bool = True
    attention_kernels: bool = True
    offered: bool = True

    @property
    def operand_bytes(self) -> float:
        """Bytes of an operand's element as read by a product and kept for its weight gradient, scales included."""
        return FORMATS[self.format].bytes + self.scale_bytes

    @property
    def output_bytes(self) -> float:
        """Bytes of an element that a product writes, and of activations between the linears."""
        return FORMATS[self.high].bytes

    @property
    def operand_bits(self) -> int:
        """Bits of an operand's element, scales apart."""
        return FORMATS[self.format].bits

    @property
    def quantized(self) -> bool:
        """Whether operands are cast down and scaled before a product."""
        return self.scales != "none"

    @property
    def full_width(self) -> bool:
        """Whether activations and weights are 32 bit wide."""
        return FORMATS[self.high].full_width

    @property
    def scales_by_tensor(self) -> bool:
        """Whether one scale holds for a whole tensor."""
        return self.scales in ("tensor_delayed", "tensor_current")

    @property
    def scales_from_history(self) -> bool:
        """Whether the scale is known before the tensor is: from the largest values of earlier steps."""
        return self.scales == "tensor_delayed"

    @property
    def scales_by_largest(self) -> bool:
        """Whether a tensor's own largest value must be known before it can be cast."""
        return self.scales == "tensor_current"

    @property
    def scales_by_row(self) -> bool:
        return self.scales == "row"

    def weight_bytes(self, kept_low: bool) -> float:
        """Bytes of one parameter as the forward reads it and the all-gather moves it, `kept_low`: weights in the
        format of the products where they can be."""
        return FORMATS[self.format].bytes if kept_low and self.gathers_low else self.output_bytes

    def lacks(self, peak_flops_per_s: Mapping[str, float]) -> list[str]:
        """The formats that a part with these peaks would need and does not compute in."""
        return [need for need in (self.format, *self.needs) if need not in peak_flops_per_s]


# PyTorch's CUTLASS kernel for row scales reaches 90 to 100 % of cuBLAS's for tensor scales with fast accumulation;
# without it, as in backward, torchao runs the cuBLAS product and scales its output in another pass (pytorch 147971,
# torchao float8_ops.py of 2025-06).
# Block scales on both sides of a weight gradient (1 x 128 each) slow it: DeepSeek's published H800 training profile has
# 65.6 / 3 TFLOP of them in 32.8 ms of kernels on two streams, which overlap by 5.2 ms: about 0.73 of the curve on the
# 112 SMs left to them. That is at the clock of training, 0.84 of the curve's (as rows decide for 8-bit products).
# mxfp8 stands on fp8_block: on Blackwell that collection ran the same block-scaled tensor-core instruction with
# power-of-two scales (1 per 128 there, 1 per 32 here); parts without FP4 have no hardware for block scales.
# tf32: weights and activations of 32 bit, every product on the tensor cores (PyTorch's allow_tf32).
# Scales: one per tensor or row (negligible), per 128 elements (blockwise, fp32), per 32 (mxfp8, 1 byte), per 16 (nvfp4,
# 1 byte). Tensor-core kernels want both sides of a product in whole blocks of the scaling granularity.
_PRECISIONS = (
    Precision("fp32", "fp32", high="fp32"),
    Precision("fp16", "fp16", high="fp16", curves=("bf16",)),
    Precision("bf16", "bf16", curves=("bf16",)),
    Precision("tf32", "tf32", high="tf32"),
    Precision("fp8-delayed", "fp8", curves=("fp8",), scales="tensor_delayed", alignment=16, gathers_low=True),
    Precision(
        "fp8-tensorwise",
        "fp8",
        curves=("fp8",),
        scales="tensor_current",
        alignment=16,
        column_reads=1,
        gathers_low=True,
    ),
    Precision(
        "fp8-rowwise",
        "fp8",
        curves=("fp8",),
        scales="row",
        forward_rate=0.95,
        alignment=16,
        column_reads=2,
        gathers_low=True,
    ),
    Precision(
        "fp8-blockwise",
        "fp8",
        curves=("fp8_block", "fp8"),
        scales="block",
        scale_bytes=4 / 128,
        wgrad_rate=0.73 / 0.84,
        alignment=128,
        gathers_low=True,
    ),
    Precision(
        "mxfp8",
        "fp8",
        curves=("fp8_block", "fp8"),
        needs=("fp4",),
        scales="block",
        scale_bytes=1 / 32,
        alignment=32,
        column_reads=1,
    ),
    Precision(
        "nvfp4",
        "fp4",
        curves=("nvfp4",),
        scales="block",
        scale_bytes=1 / 16,
        alignment=32,
        low_weights_need_sharding=False,
        attention_kernels=False,
    ),
)
PRECISIONS: dict[str, Precision] = {each.name: each for each in _PRECISIONS}
OFFERED = tuple(name for name, each in PRECISIONS.items() if each.offered)


def half_precision_peak(peak_flops_per_s: Mapping[str, float]) -> float:
    """The dense 16-bit peak that MFU refers to; 0 for a part without one."""
    return peak_flops_per_s.get("bf16", peak_flops_per_s.get("fp16", 0.0))
