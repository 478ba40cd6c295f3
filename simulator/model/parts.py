"""What a mixer or ffn is made of: matrices and vectors, the one list that parameters, FLOPs and GEMM shapes follow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Parallel = Literal["column", "row", "replicated", "expert_column", "expert_row"]


@dataclass(frozen=True, slots=True)
class Linear:
    """A matrix of `inputs` x `outputs`, how tensor parallelism splits it, and whether it has a bias.

    `copies` such matrices exist (experts, output groups) and each token passes `used` of them. `role` tells apart
    the router and gates, the indexer and the residual mixing, whose FLOPs conventions leave out.
    """

    name: str
    inputs: int
    outputs: int
    parallel: Parallel
    bias: bool = False
    copies: int = 1
    used: int = 1
    role: Literal["compute", "routing", "indexing", "residual"] = "compute"


@dataclass(frozen=True, slots=True)
class Vector:
    """Parameters outside matrix products (gains, convolution taps, decay rates, sinks): `size` of them per layer."""

    name: str
    size: int
    sharded: bool


Parts = tuple[list[Linear], list[Vector]]
