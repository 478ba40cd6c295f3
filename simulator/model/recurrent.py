"""Mixers with a state instead of a score matrix: each record holds its sizes, its parts, and its core's FLOPs.

A new variant is a record here, its entry in RECURRENT, a formula in simulator/workload and a few lines of data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from simulator.model.masks import Floats, Mask
from simulator.model.parts import Linear, Parts, Vector


def constant(flops: float, seq_length: ArrayLike) -> Floats:
    """The same FLOPs per token whatever the sequence."""
    return np.full(np.shape(seq_length), float(flops))


@dataclass(frozen=True, slots=True)
class LinearAttention:
    """Gated DeltaNet ("gdn") and Kimi delta attention ("kda").

    `full_rank_gate`, `full_rank_decay`: the output gate and the decay of kda are one full matrix each, not a
    low-rank pair.
    """

    kind: Literal["gdn", "kda"]
    key_heads: int
    value_heads: int
    key_head_dim: int
    value_head_dim: int
    conv_kernel: int
    full_rank_gate: bool = False
    full_rank_decay: bool = False

    @property
    def keys(self) -> int:
        return self.key_heads * self.key_head_dim

    @property
    def values(self) -> int:
        return self.value_heads * self.value_head_dim

    def parts(self, hidden: int) -> Parts:
        decays = self.value_heads if self.kind == "gdn" else self.keys
        vectors = [
            Vector("convolution", self.conv_kernel * (2 * self.keys + self.values), True),
            Vector("norm", self.value_head_dim, False),
            Vector("decay_rate", self.value_heads, True),
            Vector("decay_bias", decays, True),
        ]
        if self.kind == "gdn":
            wide = 2 * self.keys + 2 * self.values + 2 * self.value_heads
            return [Linear("qkv_gate", hidden, wide, "column"), Linear("out", self.values, hidden, "row")], vectors
        wide = 2 * self.keys + self.values + self.value_heads
        linears = [
            Linear("qkv_beta", hidden, wide, "column"),
            *factored("decay", hidden, self.key_head_dim, self.keys, self.full_rank_decay),
            Linear("out", self.values, hidden, "row"),
            *factored("gate", hidden, self.value_head_dim, self.values, self.full_rank_gate),
        ]
        return linears, vectors

    def core_flops(self, seq_length: ArrayLike, mask: Mask) -> Floats:
        """Convolution taps and four passes over the state per head, as Megatron-LM counts Gated DeltaNet."""
        taps = self.conv_kernel * (2 * self.keys + self.values)
        state = self.value_heads * self.key_head_dim * self.value_head_dim
        return constant(2 * (taps + 4 * state), seq_length)


def factored(name: str, hidden: int, rank: int, outputs: int, full_rank: bool) -> list[Linear]:
    """A projection as one matrix, or as a replicated one down to `rank` and one up from it."""
    if full_rank:
        return [Linear(name, hidden, outputs, "column")]
    return [Linear(f"{name}_down", hidden, rank, "replicated"), Linear(f"{name}_up", rank, outputs, "column")]


@dataclass(frozen=True, slots=True)
class LightningAttention:
    """Linear attention with a fixed decay per head and a gated, normed output (MiniMax-01, arXiv 2501.08313)."""

    heads: int
    head_dim: int

    def parts(self, hidden: int) -> Parts:
        width = self.heads * self.head_dim
        linears = [Linear("qkv_gate", hidden, 4 * width, "column"), Linear("out", width, hidden, "row")]
        return linears, [Vector("norm", width, True)]

    def core_flops(self, seq_length: ArrayLike, mask: Mask) -> Floats:
        """The state is updated by keys times values, and read by the queries: a product and a sum each."""
        return constant(4 * self.heads * self.head_dim**2, seq_length)


@dataclass(frozen=True, slots=True)
class Mamba1:
    """Selective state-space mixer of `inner` channels with `state` each; steps of rank `step_rank` (arXiv 2312.00752).

    `inner_norms`: steps, inputs and outputs of the state are normed (Jamba).
    """

    inner: int
    state: int
    step_rank: int
    conv_kernel: int
    inner_norms: bool = False

    def parts(self, hidden: int) -> Parts:
        selected = self.step_rank + 2 * self.state
        linears = [
            Linear("in", hidden, 2 * self.inner, "column"),
            Linear("select", self.inner, selected, "row"),
            Linear("step", self.step_rank, self.inner, "column", bias=True),
            Linear("out", self.inner, hidden, "row"),
        ]
        vectors = [
            Vector("convolution", (self.conv_kernel + 1) * self.inner, True),
            Vector("decay_rate_and_skip", (self.state + 1) * self.inner, True),
        ]
        if self.inner_norms:
            vectors.append(Vector("inner_norms", selected, False))
        return linears, vectors

    def core_flops(self, seq_length: ArrayLike, mask: Mask) -> Floats:
        """Nine operations per channel and state, as the authors count the scan (state-spaces/mamba, issue 110)."""
        return constant(9 * self.inner * self.state, seq_length)


@dataclass(frozen=True, slots=True)
class Mamba2:
    """State-space mixer with `heads` x `head_dim` inner width; `gated_norm` before the output projection."""

    heads: int
    head_dim: int
    groups: int
    state: int
    conv_kernel: int
    gated_norm: bool = True

    def parts(self, hidden: int) -> Parts:
        inner, states = self.heads * self.head_dim, 2 * self.groups * self.state
        linears = [
            Linear("in", hidden, 2 * inner + states + self.heads, "column"),
            Linear("out", inner, hidden, "row"),
        ]
        vectors = [
            Vector("convolution", (self.conv_kernel + 1) * (inner + states), True),
            Vector("decay_rate_skip_and_step", 3 * self.heads, True),
        ]
        if self.gated_norm:
            vectors.append(Vector("norm", inner, True))
        return linears, vectors

    def core_flops(self, seq_length: ArrayLike, mask: Mask) -> Floats:
        """The scan, as Megatron-LM counts it: seven operations per inner channel and state."""
        return constant(7.0 * self.heads * self.head_dim * self.state, seq_length)


@dataclass(frozen=True, slots=True)
class ShortConvolution:
    """Gated convolution over the last `kernel` tokens of each of `width` channels (LFM2)."""

    width: int
    kernel: int

    def parts(self, hidden: int) -> Parts:
        linears = [Linear("in", hidden, 3 * self.width, "column"), Linear("out", self.width, hidden, "row")]
        return linears, [Vector("convolution", self.kernel * self.width, True)]

    def core_flops(self, seq_length: ArrayLike, mask: Mask) -> Floats:
        """The taps, a product and a sum each, and the gates before and after them."""
        return constant(2 * (self.kernel + 1) * self.width, seq_length)


def uneven_part(mixer: object) -> tuple[str, str] | None:
    """The field of a recurrent mixer that must divide another and does not, and what it does not divide."""
    if isinstance(mixer, Mamba2) and mixer.heads % mixer.groups:
        return "groups", f"{mixer.groups} does not divide {mixer.heads} heads"
    if isinstance(mixer, LinearAttention) and mixer.value_heads % mixer.key_heads:
        return "key_heads", f"{mixer.key_heads} does not divide {mixer.value_heads} value heads"
    return None


AnyRecurrent = LinearAttention | LightningAttention | Mamba1 | Mamba2 | ShortConvolution
RECURRENT: dict[str, type[AnyRecurrent]] = {
    "linear": LinearAttention,
    "lightning": LightningAttention,
    "mamba": Mamba1,
    "mamba2": Mamba2,
    "convolution": ShortConvolution,
}
