"""The nouns of the workload: operators on one rank for one micro-batch, and the tensors kept for backward.

Shapes are those of one rank. Every number may be a scalar or a NumPy array (one element per plan).
`modules` are the Megatron-Core recompute modules that an operator or tensor belongs to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hardware.arrays import Number as Number

GroupKind = Literal["tp", "cp", "ep", "etp"]
Modules = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Matmul:
    """`y[m, n] = x[m, k] w[k, n]`, `groups` of them (routed experts); backward has dgrad [m, k] and wgrad [k, n].

    `quantized`: runs in the low precision of the plan (FP8, FP4), where it has one. `column`: column-parallel over tp.
    `frozen`: its weight is not trained, so that it has no weight gradient.
    """

    name: str
    m: Number
    n: Number
    k: Number
    groups: Number = 1
    quantized: bool = True
    modules: Modules = ()
    column: bool = False
    frozen: bool = False


@dataclass(frozen=True, slots=True)
class CoreAttention:
    """Softmax attention of `batch` sequences: `queries` on this rank against up to `keys` keys per query."""

    name: str
    batch: Number
    queries: Number
    keys: Number
    heads: Number
    kv_heads: Number
    qk_dim: int
    v_dim: int
    causal: bool
    window: int | None = None
    modules: Modules = ("core_attn",)


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel of a scan: FLOPs of its small products, and bytes read plus written."""

    name: str
    flops: Number
    bytes: Number


@dataclass(frozen=True, slots=True)
class Scan:
    """Kernels known by their FLOPs and bytes alone, one after another: chunked scans of linear attention and
    state-space mixers, scores of a sparse-attention indexer."""

    name: str
    forward: tuple[Kernel, ...]
    backward: tuple[Kernel, ...]
    modules: Modules = ()


@dataclass(frozen=True, slots=True)
class Pass:
    """A memory-bound operator: bytes read plus written, and kernels launched, forward and backward.

    `weight_bytes`: what it moves right before the weight gradient, in one more kernel.
    """

    name: str
    kind: str
    forward_bytes: Number
    backward_bytes: Number
    forward_kernels: Number = 1
    backward_kernels: Number = 1
    modules: Modules = ()
    weight_bytes: Number = 0.0


@dataclass(frozen=True, slots=True)
class Exchange:
    """A collective of a layer and its adjoint in backward; bytes by nccl-tests' convention for the operation.

    `regather_bytes`: an all-gather in backward that runs beside an input gradient (sequence parallelism gathers
    a linear's input again for its weight gradient). `behind_attention`: runs beside core attention (ring CP).
    `before_column`: enters column-parallel linears; its adjoint may run beside their weight gradients.
    """

    name: str
    group: GroupKind
    forward: str | None
    backward: str | None
    forward_bytes: Number = 0.0
    backward_bytes: Number = 0.0
    regather_bytes: Number = 0.0
    behind_attention: bool = False
    modules: Modules = ()
    before_column: bool = False


@dataclass(frozen=True, slots=True)
class Routing:
    """Expert dispatch or combine: `tokens` on this rank, `width` wide, to `top_k` of `experts`.

    A token's experts lie in at most `group_top_k` of `groups` equal expert groups. `fp8`: towards the experts
    (forward dispatch, gradient of combine) tokens travel in FP8, home always in 16 bit.
    """

    name: Literal["dispatch", "combine"]
    tokens: Number
    width: int
    top_k: int
    experts: int
    groups: int
    group_top_k: int
    fp8: bool
    modules: Modules = ("moe",)


@dataclass(frozen=True, slots=True)
class Tensor:
    """Bytes that stay allocated from forward to backward, unless one of `modules` is recomputed.

    `until_wgrad`: still needed by the weight gradient when that is delayed (inputs of linears).
    """

    name: str
    bytes: Number
    modules: Modules = ()
    until_wgrad: bool = False


Operator = Matmul | CoreAttention | Scan | Pass | Exchange | Routing


@dataclass(frozen=True, slots=True)
class Work:
    """The operators of half a layer (a mixer or an ffn with its norm and residual), and what they save."""

    operators: tuple[Operator, ...]
    saved: tuple[Tensor, ...]

    def __add__(self, other: Work) -> Work:
        return Work(self.operators + other.operators, self.saved + other.saved)


NOTHING = Work((), ())
