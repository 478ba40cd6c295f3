"""The matrices and vectors of layers: those of each mixer or ffn, and what a model adds around them."""

from __future__ import annotations

from simulator.model.parts import Linear, Vector
from simulator.model.spec import FFN, DenseFFN, Layer, Mixer, Model, MoE

NORM_PARAMETERS = {"rms": 1, "layer": 2, "none": 0}


def linears(component: Mixer | FFN | None, hidden: int) -> list[Linear]:
    """The matrices of one mixer or ffn (None: none)."""
    return [] if component is None else component.parts(hidden)[0]


def vectors(component: Mixer | FFN | None, hidden: int) -> list[Vector]:
    """The parameters of one mixer or ffn that are not in a matrix (None: none)."""
    return [] if component is None else component.parts(hidden)[1]


def norm_size(model: Model) -> int:
    """Parameters of one norm over the hidden size: a gain, and for LayerNorm a bias."""
    return model.hidden * NORM_PARAMETERS[model.norm]


def block_norms(model: Model, component: Mixer | FFN) -> int:
    """Norms of one residual block that have parameters of their own."""
    if model.block_norms == "sandwich":
        return 2
    borrowed = model.block_norms == "shared" and isinstance(component, DenseFFN | MoE)
    return 0 if borrowed else 1


def layer_embedding_matrices(hidden: int, width: int) -> list[Linear]:
    """What turns a layer's own embedding of a token into an addition to its output (Gemma 3n).

    The token's embedding is projected to the width and added to it, gated by the hidden state, and projected back.
    """
    return [
        Linear("layer_embedding_in", hidden, width, "replicated"),
        Linear("layer_embedding_gate", hidden, width, "replicated"),
        Linear("layer_embedding_out", width, hidden, "replicated"),
    ]


def layer_embedding_linears(model: Model, component: Mixer | FFN | None) -> list[Linear]:
    """The matrices of a layer's own embedding, counted with the layer's ffn; none in models without."""
    if not model.layer_embedding or not isinstance(component, DenseFFN | MoE):
        return []
    return layer_embedding_matrices(model.hidden, model.layer_embedding)


def block_linears(model: Model, component: Mixer | FFN | None) -> list[Linear]:
    """Matrices of one residual block: the mixer or ffn and, with hyper-connections, the mix of residual streams.

    mHC reads all streams (streams x hidden) and yields pre, post and streams x streams mixing weights.
    """
    matrices = linears(component, model.hidden) + layer_embedding_linears(model, component)
    if component is not None and model.hyper_connections > 1:
        streams = model.hyper_connections
        inputs, outputs = streams * model.hidden, streams * (streams + 2)
        matrices.append(Linear("hyper_connection", inputs, outputs, "replicated", role="residual"))
    return matrices


def block_vectors(model: Model, component: Mixer | FFN | None) -> list[Vector]:
    """Vectors of one residual block: its mixer's or ffn's own, its norms, the hyper-connection's bias and scales."""
    if component is None:
        return []
    norms = block_norms(model, component) * norm_size(model)
    own = [*vectors(component, model.hidden), Vector("block_norm", norms, False)]
    if model.hyper_connections > 1:
        streams = model.hyper_connections
        own.append(Vector("hyper_connection_bias_and_scale", streams * (streams + 2) + 3, False))
    return own


def layer_linears(model: Model, layer: Layer) -> list[Linear]:
    """Every matrix of one layer, mixer first."""
    return block_linears(model, layer.mixer) + block_linears(model, layer.ffn)


def mtp_linears(model: Model) -> list[Linear]:
    """The projection that joins the previous depth's hidden state and the next token's embedding (2h to h)."""
    return [Linear("mtp_projection", 2 * model.hidden, model.hidden, "column")]
