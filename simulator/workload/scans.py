"""The kernels that a recurrent mixer's scan launches, chunk by chunk, forward and backward.

Chunks are where the state is written to memory: within one, tokens meet as in attention; between them the state is
passed on. FLOPs are those of the small products, of triangles half the square; bytes are those of each tensor once.
"""

from __future__ import annotations

from simulator.model.spec import LinearAttention, Mamba2
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
