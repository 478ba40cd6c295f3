"""Softmax attention in all its variants: each record holds its sizes, its matrices and vectors, and its core's FLOPs.

A new variant is a record here, its entry in ATTENTIONS, a formula in simulator/workload and a few lines of data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from simulator.model.masks import Floats, Mask, chosen_keys, chunk_keys, keys_seen
from simulator.model.parts import Linear, Parts, Vector


@dataclass(frozen=True, slots=True)
class Indexer:
    """Lightning indexer of sparse attention: scores all keys cheaply, attends to the `top_k` best.

    `weights`: each head's score has a learned weight per token (DeepSeek); otherwise scores are merged by maximum.
    """

    heads: int
    head_dim: int
    top_k: int
    weights: bool = True

    def parts(self, query_inputs: int, hidden: int) -> Parts:
        """Queries from `query_inputs`, one shared key, one weight per head, and the key's LayerNorm.

        Replicated over tp, as Megatron-Core's DSA indexer is.
        """
        linears = [
            Linear("index_q", query_inputs, self.heads * self.head_dim, "replicated", role="indexing"),
            Linear("index_k", hidden, self.head_dim, "replicated", role="indexing"),
        ]
        if self.weights:
            linears.append(Linear("index_weights", hidden, self.heads, "replicated", role="indexing"))
        return linears, [Vector("index_k_norm", 2 * self.head_dim, False)]


@dataclass(frozen=True, slots=True)
class Attention:
    """Multi-head, grouped-query or multi-query attention.

    `window` limits the keys seen to the last so many, `chunk` to those of the same chunk (None: no limit).
    `head_dim` is the width of a query and key head, `v_head_dim` of a value head. `qk_norm` is "head" (one gain
    per head dimension), "layer" (one per whole projection) or None. `sinks` adds one logit per head.
    `scaled_rope`: rotated queries and keys are scaled as well (YaRN, arXiv 2309.00071). `output_gate` multiplies every
    channel of the output, `head_gate` every head. `keys_from` "values": one projection serves as keys and values;
    "earlier layer": neither is projected here (Gemma 4).
    """

    heads: int
    kv_heads: int
    head_dim: int
    v_head_dim: int
    window: int | None = None
    chunk: int | None = None
    qk_norm: Literal["head", "layer"] | None = None
    qkv_bias: bool = False
    out_bias: bool = False
    output_gate: bool = False
    sinks: bool = False
    scaled_rope: bool = False
    indexer: Indexer | None = None
    head_gate: bool = False
    keys_from: Literal["own", "values", "earlier layer"] = "own"

    def projected_widths(self) -> tuple[int, int, int]:
        """Outputs of the query, key and value projections."""
        queries = self.heads * self.head_dim
        if self.keys_from == "earlier layer":
            return queries, 0, 0
        keys = self.kv_heads * self.head_dim
        values = 0 if self.keys_from == "values" else self.kv_heads * self.v_head_dim
        return queries, keys, values

    def parts(self, hidden: int) -> Parts:
        queries, keys, values = self.projected_widths()
        outputs = self.heads * self.v_head_dim
        gate = outputs if self.output_gate else 0
        linears = [
            Linear("qkv", hidden, queries + keys + values + gate, "column", self.qkv_bias),
            Linear("out", outputs, hidden, "row", self.out_bias),
        ]
        if self.head_gate:
            linears.append(Linear("head_gate", hidden, self.heads, "column"))
        vectors = []
        if self.qk_norm == "head":
            vectors.append(Vector("qk_norm", (2 if keys else 1) * self.head_dim, False))
        if self.qk_norm == "layer":
            vectors.append(Vector("qk_norm", queries + keys, True))
        if self.sinks:
            vectors.append(Vector("sinks", self.heads, True))
        return joined((linears, vectors), self.indexer, hidden, hidden)

    def core_flops(self, seq_length: ArrayLike, mask: Mask) -> Floats:
        if self.chunk is not None:
            seen = chunk_keys(seq_length, self.chunk, mask)
        else:
            seen = chosen_keys(seq_length, self.window, self.indexer.top_k if self.indexer else None, mask)
        return 2 * self.heads * (self.head_dim + self.v_head_dim) * seen


@dataclass(frozen=True, slots=True)
class LatentAttention:
    """Multi-head latent attention (MLA): low-rank queries (None: full rank) and keys/values.

    `output_gate` multiplies every channel of the output, `head_gate` every head.
    """

    heads: int
    q_lora_rank: int | None
    kv_lora_rank: int
    nope_head_dim: int
    rope_head_dim: int
    v_head_dim: int
    output_gate: bool = False
    indexer: Indexer | None = None
    head_gate: bool = False
    window: int | None = None

    def query_parts(self, hidden: int) -> Parts:
        width = self.heads * (self.nope_head_dim + self.rope_head_dim)
        if self.q_lora_rank is None:
            return [Linear("q", hidden, width, "column")], []
        linears = [
            Linear("q_down", hidden, self.q_lora_rank, "replicated"),
            Linear("q_up", self.q_lora_rank, width, "column"),
        ]
        return linears, [Vector("q_norm", self.q_lora_rank, False)]

    def parts(self, hidden: int) -> Parts:
        outputs = self.heads * self.v_head_dim
        linears, vectors = self.query_parts(hidden)
        linears += [
            Linear("kv_down", hidden, self.kv_lora_rank + self.rope_head_dim, "replicated"),
            Linear("kv_up", self.kv_lora_rank, self.heads * (self.nope_head_dim + self.v_head_dim), "column"),
            Linear("out", outputs, hidden, "row"),
        ]
        vectors.append(Vector("kv_norm", self.kv_lora_rank, False))
        if self.output_gate:
            linears.append(Linear("gate", hidden, outputs, "column"))
        if self.head_gate:
            linears.append(Linear("head_gate", hidden, self.heads, "column"))
        return joined((linears, vectors), self.indexer, self.q_lora_rank or hidden, hidden)

    def core_flops(self, seq_length: ArrayLike, mask: Mask) -> Floats:
        """Training runs MLA with keys and values expanded to every head."""
        width = self.nope_head_dim + self.rope_head_dim + self.v_head_dim
        top_k = self.indexer.top_k if self.indexer else None
        return 2 * self.heads * width * chosen_keys(seq_length, self.window, top_k, mask)


@dataclass(frozen=True, slots=True)
class CompressedAttention:
    """DeepSeek-V4 attention: one shared key/value head, low-rank queries and grouped low-rank outputs.

    Keys are compressed `compress_ratio`-fold (0: not, sliding window only), beside a `window` of raw keys.
    """

    heads: int
    head_dim: int
    rope_head_dim: int
    q_lora_rank: int
    o_lora_rank: int
    o_groups: int
    window: int
    compress_ratio: int
    indexer: Indexer | None = None

    def parts(self, hidden: int) -> Parts:
        outputs = self.heads * self.head_dim
        linears = [
            Linear("q_down", hidden, self.q_lora_rank, "replicated"),
            Linear("q_up", self.q_lora_rank, outputs, "column"),
            Linear("kv", hidden, self.head_dim, "replicated"),
            Linear("out_down", outputs // self.o_groups, self.o_lora_rank, "column",
                   copies=self.o_groups, used=self.o_groups),
            Linear("out", self.o_groups * self.o_lora_rank, hidden, "row"),
        ]  # fmt: skip
        vectors = [
            Vector("q_norm", self.q_lora_rank, False),
            Vector("kv_norm", self.head_dim, False),
            Vector("sinks", self.heads, True),
        ]
        if self.compress_ratio:
            compressor_linears, compressor_vectors = self.compressor_parts("compress", hidden, self.head_dim)
            linears += compressor_linears
            vectors += compressor_vectors
        if self.indexer:
            index_linears, index_vectors = self.indexer_parts(self.indexer, hidden)
            linears += index_linears
            vectors += index_vectors
        return linears, vectors

    def compressor_parts(self, name: str, hidden: int, head_dim: int) -> Parts:
        """Values and gates per token, a learned position per slot; ratio 4 overlaps windows."""
        width = head_dim * (2 if self.compress_ratio == 4 else 1)
        linears = [Linear(name, hidden, 2 * width, "replicated")]
        positions = Vector(f"{name}_positions", self.compress_ratio * width, False)
        return linears, [positions, Vector(f"{name}_norm", head_dim, False)]

    def indexer_parts(self, indexer: Indexer, hidden: int) -> Parts:
        """Queries from the low-rank ones, a weight per head, and compressed keys of the indexer's own."""
        key_linears, key_vectors = self.compressor_parts("index_compress", hidden, indexer.head_dim)
        query_width = indexer.heads * indexer.head_dim
        linears = [
            Linear("index_q", self.q_lora_rank, query_width, "replicated", role="indexing"),
            Linear("index_weights", hidden, indexer.heads, "replicated", role="indexing"),
            *key_linears,
        ]
        return linears, key_vectors

    def core_flops(self, seq_length: ArrayLike, mask: Mask) -> Floats:
        """A window of raw keys, and the compressed ones (the indexer's choice of them where there is one).

        Megatron counts the window whole and the compressed keys causally.
        """
        seen = keys_seen(seq_length, self.window, "full" if mask == "megatron" else mask)
        if self.compress_ratio:
            slots = np.asarray(seq_length, dtype=float) / self.compress_ratio
            chosen = self.indexer.top_k if self.indexer else None
            seen = seen + keys_seen(slots, chosen, "causal" if mask == "megatron" else mask)
        return 2 * self.heads * 2 * self.head_dim * seen


def joined(parts: Parts, indexer: Indexer | None, query_inputs: int, hidden: int) -> Parts:
    """An attention's own parts followed by its indexer's."""
    if indexer is None:
        return parts
    linears, vectors = indexer.parts(query_inputs, hidden)
    return parts[0] + linears, parts[1] + vectors


AnyAttention = Attention | LatentAttention | CompressedAttention
ATTENTIONS: dict[str, type[AnyAttention]] = {
    "attention": Attention,
    "mla": LatentAttention,
    "compressed": CompressedAttention,
}
