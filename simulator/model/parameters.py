"""How many parameters a model has, by layer and by how parallelism splits them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from simulator.model.components import block_linears, block_vectors, mtp_linears, norm_size
from simulator.model.parts import Linear, Vector
from simulator.model.spec import FFN, Layer, Mixer, Model


@dataclass(frozen=True, slots=True)
class Split:
    """Parameters in the three classes that parallelism treats apart.

    `sharded` are divided by tp, `replicated` held whole by every tp rank, `expert` divided by ep x etp.
    """

    sharded: int = 0
    replicated: int = 0
    expert: int = 0

    @property
    def total(self) -> int:
        return self.sharded + self.replicated + self.expert

    def __add__(self, other: Split) -> Split:
        return Split(self.sharded + other.sharded, self.replicated + other.replicated, self.expert + other.expert)


@dataclass(frozen=True, slots=True)
class LayerParameters:
    """One layer's mixer and ffn, each with its norm."""

    mixer: Split
    ffn: Split

    @property
    def all(self) -> Split:
        return self.mixer + self.ffn

    @property
    def total(self) -> int:
        return self.all.total


@dataclass(frozen=True, slots=True)
class ModelParameters:
    """Every parameter of a model by place; `head` is empty where the embedding is tied to it.

    `layers` stand in model order. `mtp` holds one entry per depth: its layer, its projection and its norms.
    """

    embedding: Split
    layers: tuple[LayerParameters, ...]
    final_norm: Split
    head: Split
    mtp: tuple[LayerParameters, ...]

    @property
    def main(self) -> Split:
        """Everything but multi-token prediction."""
        return sum((layer.all for layer in self.layers), self.embedding + self.final_norm + self.head)


def linear_parameters(linear: Linear) -> Split:
    """Weights and bias of a matrix; the bias of a row-split matrix is added after the sum, so every rank keeps it."""
    weights = linear.inputs * linear.outputs * linear.copies
    bias = linear.outputs * linear.copies if linear.bias else 0
    if linear.parallel in ("expert_column", "expert_row"):
        return Split(expert=weights + bias)
    if linear.parallel == "replicated":
        return Split(replicated=weights + bias)
    if linear.parallel == "row":
        return Split(sharded=weights, replicated=bias)
    return Split(sharded=weights + bias)


def vector_parameters(vector: Vector) -> Split:
    return Split(sharded=vector.size) if vector.sharded else Split(replicated=vector.size)


def parts_parameters(linears: Iterable[Linear], vectors: Iterable[Vector]) -> Split:
    """The sum over matrices and vectors."""
    in_matrices = sum(map(linear_parameters, linears), Split())
    return sum(map(vector_parameters, vectors), in_matrices)


def block_parameters(model: Model, component: Mixer | FFN | None) -> Split:
    """One mixer or ffn with its norm (None: nothing)."""
    return parts_parameters(block_linears(model, component), block_vectors(model, component))


def layer_parameters(model: Model, layer: Layer) -> LayerParameters:
    return LayerParameters(block_parameters(model, layer.mixer), block_parameters(model, layer.ffn))


def embedding_parameters(model: Model, padded_vocab: int | None = None) -> Split:
    """Token table and those of the layers' own embeddings (split over tp), and learned positions."""
    table = (padded_vocab or model.vocab) * model.hidden
    layer_tables = model.layer_vocab * len(model.layers) * model.layer_embedding
    return Split(sharded=table + layer_tables, replicated=model.positions * model.hidden)


def head_parameters(model: Model, padded_vocab: int | None = None) -> Split:
    """Output projection (none where tied) and the weights that merge hyper-connection streams before it."""
    merge = model.hyper_connections * (model.hyper_connections * model.hidden + 1) + 1
    return Split(
        sharded=0 if model.tied_embeddings else (padded_vocab or model.vocab) * model.hidden,
        replicated=merge if model.hyper_connections > 1 else 0,
    )


def mtp_modules(model: Model) -> tuple[Layer, ...]:
    """The prediction modules that have weights of their own."""
    return model.mtp[:1] if model.mtp_shared else model.mtp


def mtp_parameters(model: Model, layer: Layer) -> LayerParameters:
    """One depth: a whole layer, the 2h-to-h projection and three norms (embedding, hidden state, output)."""
    own = layer_parameters(model, layer)
    return LayerParameters(
        own.mixer + parts_parameters(mtp_linears(model), [Vector("mtp_norms", 3 * norm_size(model), False)]), own.ffn
    )


def model_parameters(model: Model, padded_vocab: int | None = None) -> ModelParameters:
    """Count everything; each distinct layer is counted once. `padded_vocab` None: the vocabulary as it is."""
    distinct = {layer: layer_parameters(model, layer) for layer in set(model.layers)}
    return ModelParameters(
        embedding=embedding_parameters(model, padded_vocab),
        layers=tuple(distinct[layer] for layer in model.layers),
        final_norm=Split(replicated=norm_size(model)),
        head=head_parameters(model, padded_vocab),
        mtp=tuple(mtp_parameters(model, layer) for layer in mtp_modules(model)),
    )


def total_parameters(model: Model) -> int:
    """Parameters of the main model, without multi-token prediction and vocabulary padding."""
    return model_parameters(model).main.total


def idle_parameters(model: Model, layer: Layer) -> int:
    """Parameters of a layer that one token does not pass: the experts it is not routed to."""
    return sum(
        (linear.copies - linear.used) * (linear.inputs + int(linear.bias)) * linear.outputs
        for component in (layer.mixer, layer.ffn)
        for linear in block_linears(model, component)
    )


def active_parameters(model: Model, input_embedding: bool = True) -> int:
    """Parameters that one token passes in the main model; vendors differ on counting the input embedding."""
    idle = {layer: idle_parameters(model, layer) for layer in set(model.layers)}
    unused = sum(idle[layer] for layer in model.layers)
    skipped = 0 if input_embedding or model.tied_embeddings else embedding_parameters(model).total
    return total_parameters(model) - unused - skipped
