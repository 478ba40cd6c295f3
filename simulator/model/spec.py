"""What a model is: a list of layers, each (mixer, ffn), between an embedding and a head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from simulator.model.attention import (
    ATTENTIONS,
    AnyAttention,
    Attention,
    CompressedAttention,
    Indexer,
    LatentAttention,
)
from simulator.model.feedforward import FFN, FFNS, DenseFFN, MoE
from simulator.model.recurrent import (
    RECURRENT,
    AnyRecurrent,
    LightningAttention,
    LinearAttention,
    Mamba1,
    Mamba2,
    ShortConvolution,
)

__all__ = [
    "FFN",
    "FFNS",
    "MIXERS",
    "Attention",
    "CompressedAttention",
    "DenseFFN",
    "Half",
    "Indexer",
    "LatentAttention",
    "Layer",
    "LightningAttention",
    "LinearAttention",
    "Mamba1",
    "Mamba2",
    "Mixer",
    "MoE",
    "Model",
    "ShortConvolution",
]

Mixer = AnyAttention | AnyRecurrent
MIXERS: dict[str, type[Mixer]] = {**ATTENTIONS, **RECURRENT}


@dataclass(frozen=True, slots=True)
class Half:
    """A mixer or an ffn as a layer computes it: `in_16_bit` whatever the plan's precision is."""

    part: Mixer | FFN
    in_16_bit: bool = False


@dataclass(frozen=True, slots=True)
class Layer:
    """One block; hybrids write a layer with only a mixer or only an ffn.

    `in_16_bit`: its linears compute in 16 bit where the plan's precision is lower; a plan marks its layers so.
    """

    mixer: Mixer | None
    ffn: FFN | None
    in_16_bit: bool = False

    @property
    def halves(self) -> tuple[Half | None, Half | None]:
        """The mixer's and the ffn's half, None where the layer has none."""
        mixer = None if self.mixer is None else Half(self.mixer, self.in_16_bit)
        return mixer, None if self.ffn is None else Half(self.ffn, self.in_16_bit)


@dataclass(frozen=True, slots=True)
class Model:
    """A decoder (or encoder, `causal=False`) language model.

    `mtp` lists the layers of multi-token-prediction modules, one per depth, sharing embedding and head; with
    `mtp_shared` all depths pass the same module, whose weights exist once (Megatron's mtp_use_repeated_layer).
    `norm` counts parameters per norm and channel: "rms" one, "layer" two, "none" none. `block_norms`: each mixer and
    ffn has a norm before (or after) it, "sandwich" one on both sides, "shared" the ffn uses the mixer's.
    `positions` > 0: a learned position table. `layer_embedding` > 0: every layer adds its own embedding of each token,
    so wide, from a table of `layer_vocab` rows, through a gate (Gemma 3n). `hyper_connections` is the residual-stream
    multiplicity of mHC (1: a plain residual). `parallel_blocks`: mixer and dense ffn of a layer read the same input and
    their outputs are summed (PaLM, arXiv 2204.02311 section 2; GPT-NeoX), so that tensor parallelism exchanges once
    where it would twice.
    """

    name: str
    hidden: int
    vocab: int
    layers: tuple[Layer, ...]
    mtp: tuple[Layer, ...] = ()
    mtp_shared: bool = False
    tied_embeddings: bool = False
    norm: Literal["rms", "layer", "none"] = "rms"
    positions: int = 0
    causal: bool = True
    hyper_connections: int = 1
    parallel_blocks: bool = False
    source: str = ""
    block_norms: Literal["single", "sandwich", "shared"] = "single"
    layer_embedding: int = 0
    layer_vocab: int = 0

    @property
    def has_experts(self) -> bool:
        """Whether any layer is a mixture of experts."""
        return any(isinstance(layer.ffn, MoE) for layer in self.layers)
