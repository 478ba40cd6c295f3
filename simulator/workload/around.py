"""What a model adds around its mixers and ffns: a second norm, and an embedding of its own for every layer."""

from __future__ import annotations

from simulator.model.components import layer_embedding_matrices
from simulator.workload.linears import matmul, norm
from simulator.workload.operators import Pass, Tensor, Work
from simulator.workload.shape import Shape


def second_norm(name: str, shape: Shape) -> Work:
    """The norm behind a mixer or ffn of models that have one on both sides; its input is kept for its backward."""
    if shape.block_norms != "sandwich":
        return Work((), ())
    output_bytes = shape.element_bytes * shape.hidden * shape.sharded_tokens
    operator = norm(f"{name}_second_norm", shape.hidden, shape.sharded_tokens, shape)
    return Work((operator,), (Tensor(f"{name}_second_norm_input", output_bytes),))


def layer_embedding_work(shape: Shape) -> Work:
    """A layer's embedding of its tokens (Gemma 3n): looked up, added to a projection, gated, and projected back.

    Kept: the hidden state that the gate reads, and gate, embedding and their product, the input of the last projection.
    """
    width = shape.layer_embedding
    if not width:
        return Work((), ())
    once = shape.element_bytes * width * shape.tokens
    products = [matmul(linear, shape) for linear in layer_embedding_matrices(shape.hidden, width)]
    gating = Pass("layer_embedding_gating", "elementwise", 6 * once, 9 * once, 3, 3)
    hidden_bytes = shape.element_bytes * shape.hidden * shape.sharded_tokens
    saved = (Tensor("layer_embedding_input", hidden_bytes), Tensor("layer_embedding", 3 * once, until_wgrad=True))
    return Work((*products, gating), saved)
