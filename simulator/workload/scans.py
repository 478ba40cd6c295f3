"""The kernels that a recurrent mixer's scan launches, chunk by chunk, forward and backward.

Chunks are where the state is written to memory: within one, tokens meet as in attention; between them the state is
passed on. FLOPs are those of the small products, of triangles half the square; bytes are those of each tensor once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from simulator.model.recurrent import AnyRecurrent
from simulator.model.spec import LightningAttention, LinearAttention, Mamba1, Mamba2, ShortConvolution
from simulator.workload.operators import Kernel, Number, Scan
from simulator.workload.shape import Shape

MAMBA_CHUNK = 128  # Megatron-Core's MambaMixer
DELTA_CHUNK = 64  # flash-linear-attention


def mamba2_scan(mixer: Mamba2, shape: Shape) -> Scan:
    """mamba-ssm's mamba_split_conv1d_scan_combined between its convolutions (ssd_combined.py), which Megatron-Core
    trains with: nothing between the projection and the gated output is kept, so backward first computes decays,
    scores and states again. States are fp32 where they are made and 16 bit where products read them.
    """
    t, element, tokens = shape.plan.tp, shape.element_bytes, shape.tokens
    heads, inner, groups = mixer.heads / t, mixer.heads * mixer.head_dim / t, mixer.groups / t
    wide, input_output = element * inner, element * groups * mixer.state  # one of x, z, y; one of B, C
    scores = 4.0 * MAMBA_CHUNK * groups
    state = inner * mixer.state / MAMBA_CHUNK  # elements per token
    products, square = 2.0 * inner * mixer.state, inner * MAMBA_CHUNK
    pair = 2.0 * MAMBA_CHUNK * groups * mixer.state

    def kernel(name: str, flops: Number, size: Number) -> Kernel:
        return Kernel(name, flops * tokens, size * tokens)

    decays = kernel("chunk_cumsum", 0.0, (element + 8) * heads)
    bmm = kernel("bmm_chunk", pair, 2 * input_output + scores)
    states = kernel("chunk_state", products, wide + input_output + 8 * heads + 4 * state)
    forward = (
        decays,
        states,
        kernel("state_passing", 0.0, (4 + element) * state),
        bmm,
        kernel("chunk_scan", products + square,
               4 * wide + scores + input_output + 8 * heads + element * state),
    )  # fmt: skip
    step = kernel("decay_gradients", 0.0, 8 * heads)
    to_input_output = wide + 2 * input_output + 4 * groups * mixer.state + element * state
    backward = (
        decays,
        bmm,
        states,
        kernel("state_passing", 0.0, 8 * state),
        kernel("gate_gradient", 0.0, 6 * wide),
        kernel("state_gradient", products, wide + input_output + 4 * heads + 4 * state),
        kernel("state_passing_gradient", 0.0, (8 + 2 * element) * state),
        kernel("x_gradient", products + square, 3 * wide + scores + input_output + 12 * heads + element * state),
        kernel("b_gradient", products, to_input_output),
        kernel("c_gradient", products, to_input_output),
        kernel("score_gradient", square, 2 * wide + scores),
        *(kernel("bmm_gradient", pair, scores + 2 * input_output + 4 * groups * mixer.state),) * 2,
        kernel("decay_gradient", square, 2 * wide + scores + 4 * heads),
        *(step,) * 8,
    )
    return Scan("scan", forward, backward)


def delta_scan(mixer: LinearAttention, shape: Shape) -> Scan:
    """flash-linear-attention's chunk_gated_delta_rule, keys repeated to the value heads: the triangular system of
    each chunk is solved, keys and values are corrected by it, then states pass and outputs are read. Backward
    computes corrections and states again.
    """
    element, chunk = shape.element_bytes, DELTA_CHUNK
    heads = mixer.value_heads / shape.plan.tp
    key, value = mixer.key_head_dim, mixer.value_head_dim
    state, both = key * value, key + value
    kept = element * state / chunk

    def kernel(name: str, flops: Number, size: Number) -> Kernel:
        return Kernel(name, flops * heads * shape.tokens, size * heads * shape.tokens)

    normed = (kernel("key_norm", 0.0, 2 * element * key),) * 2
    decays = kernel("chunk_cumsum", 0.0, 8.0)
    correction = kernel("corrections", 2.0 * chunk * both, 2 * element * both + element * chunk)
    states = kernel("chunk_state", 4.0 * state, 2 * element * both + kept)
    forward = (
        *normed,
        decays,
        kernel("key_scores", 2.0 * chunk * key, element * key + 4 * chunk),
        kernel("solve", 2.0 * chunk * chunk, (4 + element) * chunk),
        correction,
        states,
        kernel("chunk_output", 2.0 * state + chunk * both, 2 * element * both + kept),
    )
    backward = (
        correction,
        states,
        kernel("value_gradient", chunk * both, 2 * element * both),
        kernel("state_gradient", 6.0 * state, element * (3 * key + 3 * value) + kept),
        kernel("key_gradient", 6.0 * state + chunk * (2 * key + value), element * (7 * key + 3 * value) + 2 * kept),
        kernel("correction_gradient", 4.0 * chunk * both, 4 * element * both + 2 * element * chunk),
        decays,
        *normed,
    )
    return Scan("scan", forward, backward)


def lightning_scan(mixer: LightningAttention, shape: Shape) -> Scan:
    """Linear attention chunk by chunk (flash-linear-attention's chunk_simple_gla, chunks of 64): states pass, then
    outputs are read and tokens of a chunk meet; backward computes the states again.
    """
    element, chunk = shape.element_bytes, DELTA_CHUNK
    heads, width = mixer.heads / shape.plan.tp, mixer.head_dim
    kept = element * width * width / chunk

    def kernel(name: str, flops: Number, size: Number) -> Kernel:
        return Kernel(name, flops * heads * shape.tokens, size * heads * shape.tokens)

    states = kernel("chunk_state", 2.0 * width * width, 2 * element * width + kept)
    output = kernel("chunk_output", 2.0 * width * width + 2.0 * chunk * width, 4 * element * width + kept)
    gradients = kernel("output_gradient", 6.0 * width * width + 6.0 * chunk * width, 7 * element * width + 2 * kept)
    return Scan("scan", (states, output), (states, kernel("state_gradient", 2.0 * width * width, kept), gradients))


def mamba1_scan(mixer: Mamba1, shape: Shape) -> Scan:
    """mamba-ssm's selective_scan: one kernel reads channels, steps and gates, and writes the gated output; backward
    runs the recurrence again and writes the gradients of all of them.
    """
    inner = mixer.inner / shape.plan.tp
    flops = 9.0 * inner * mixer.state * shape.tokens
    once = shape.element_bytes * shape.tokens
    selected = 2 * mixer.state * once
    forward = Kernel("selective_scan", flops, 4 * inner * once + selected)
    backward = Kernel("selective_scan_gradient", 3 * flops, 8 * inner * once + 2 * selected)
    return Scan("scan", (forward,), (backward,))


def gates(mixer: ShortConvolution, shape: Shape) -> Scan:
    """The products with the gates before and after a short convolution: two read and one written each."""
    width = mixer.width / shape.plan.tp * shape.tokens
    product = Kernel("gate", width, 3 * shape.element_bytes * width)
    gradient = Kernel("gate_gradient", 2 * width, 5 * shape.element_bytes * width)
    return Scan("scan", (product, product), (gradient, gradient))


@dataclass(frozen=True, slots=True)
class Recurrence:
    """What lies between the projections of a recurrent mixer.

    `inner` channels leave it, `convolved` channels pass a convolution before it (0: none), whose output is kept for
    the backward pass or not, and its output is normed or not.
    """

    inner: int
    convolved: int
    scan: Scan
    keeps_convolved: bool = True
    normed: bool = True


def delta_recurrence(mixer: LinearAttention, shape: Shape) -> Recurrence:
    inner = mixer.value_heads * mixer.value_head_dim
    convolved = 2 * mixer.key_heads * mixer.key_head_dim + inner
    return Recurrence(inner, convolved, delta_scan(mixer, shape))


def lightning_recurrence(mixer: LightningAttention, shape: Shape) -> Recurrence:
    return Recurrence(mixer.heads * mixer.head_dim, 0, lightning_scan(mixer, shape), keeps_convolved=False)


def mamba1_recurrence(mixer: Mamba1, shape: Shape) -> Recurrence:
    return Recurrence(mixer.inner, mixer.inner, mamba1_scan(mixer, shape), normed=False)


def mamba2_recurrence(mixer: Mamba2, shape: Shape) -> Recurrence:
    inner = mixer.heads * mixer.head_dim
    convolved = inner + 2 * mixer.groups * mixer.state
    return Recurrence(inner, convolved, mamba2_scan(mixer, shape), keeps_convolved=False, normed=mixer.gated_norm)


def convolution_recurrence(mixer: ShortConvolution, shape: Shape) -> Recurrence:
    return Recurrence(mixer.width, mixer.width, gates(mixer, shape), normed=False)


RECURRENCES: dict[type, Callable[[Any, Shape], Recurrence]] = {
    LinearAttention: delta_recurrence,
    LightningAttention: lightning_recurrence,
    Mamba1: mamba1_recurrence,
    Mamba2: mamba2_recurrence,
    ShortConvolution: convolution_recurrence,
}


def recurrence_of(mixer: AnyRecurrent, shape: Shape) -> Recurrence:
    """What this mixer does between its projections, on one rank."""
    return RECURRENCES[type(mixer)](mixer, shape)
