"""The mixer half of a layer on one rank: norm, projections, core attention or recurrence, residual."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from simulator.model.components import linears
from simulator.model.flops import indexer_flops_per_token
from simulator.model.recurrent import RECURRENT, AnyRecurrent
from simulator.model.spec import Attention, CompressedAttention, LatentAttention, Mixer
from simulator.plans.choices import CONTEXT_EXCHANGES
from simulator.workload.around import second_norm
from simulator.workload.linears import addition, casts, column_input, matmul, norm, row_output
from simulator.workload.operators import (
    CoreAttention,
    Exchange,
    Kernel,
    Matmul,
    Modules,
    Number,
    Operator,
    Pass,
    Scan,
    Tensor,
    Work,
)
from simulator.workload.scans import recurrence_of
from simulator.workload.shape import Shape


@dataclass(frozen=True, slots=True)
class Heads:
    """The heads of softmax attention on one tensor-parallel rank, and how far back a query sees.

    `window`: keys back (None: all); `chunk`: tokens that attend to each other alone (None: the sequence).
    """

    heads: Number
    kv_heads: Number
    qk_dim: int
    v_dim: int
    window: int | None = None
    chunk: int | None = None


def grouped_heads(mixer: Attention, tp: Number) -> Heads:
    """Multi-head and grouped-query attention; key and value heads are copied where tp has more ranks than they are."""
    kv_heads = np.maximum(1, mixer.kv_heads / tp)
    return Heads(mixer.heads / tp, kv_heads, mixer.head_dim, mixer.v_head_dim, mixer.window, mixer.chunk)


def latent_heads(mixer: LatentAttention, tp: Number) -> Heads:
    """MLA: every head has keys and values of its own, made from the latents."""
    qk_dim = mixer.nope_head_dim + mixer.rope_head_dim
    return Heads(mixer.heads / tp, mixer.heads / tp, qk_dim, mixer.v_head_dim, mixer.window)


def core_attention(
    mixer: Attention | LatentAttention, own: Heads, shape: Shape
) -> tuple[tuple[Operator, ...], tuple[Tensor, ...]]:
    """Core attention under tensor and context parallelism with its exchanges, and what it saves."""
    plan = shape.plan
    heads, kv_heads, window = own.heads, own.kv_heads, own.window
    if mixer.indexer:
        window = min(mixer.indexer.top_k, window or mixer.indexer.top_k)
    ulysses = plan.cp if CONTEXT_EXCHANGES[plan.cp_comm].splits_heads else 1
    length = min(shape.seq, own.chunk or shape.seq)
    core = CoreAttention(
        "core_attention",
        batch=shape.batch * shape.seq / length,
        queries=length / plan.cp * ulysses,
        keys=length,
        heads=heads / ulysses,
        kv_heads=np.maximum(1, kv_heads / ulysses),
        qk_dim=own.qk_dim,
        v_dim=own.v_dim,
        causal=shape.causal,
        window=window,
    )
    element = shape.element_bytes
    kv_bytes = shape.tokens * kv_heads * (own.qk_dim + own.v_dim) * element
    operators: tuple[Operator, ...] = (*context_exchange(core, kv_bytes, shape), *index_scores(mixer, shape), core)
    if shape.plan.stack.flash_attention:
        scores = Tensor("attention_lse", 4 * heads * shape.tokens, ("core_attn",))
    else:
        # Korthikanti et al. 2022: softmax output, dropout mask and dropout output, 5 bytes per score (2 without it).
        per_score = 5 if plan.stack.dropout else 2
        scores = Tensor("attention_scores", per_score * heads * shape.tokens * shape.seq, ("core_attn",))
    return operators, (scores,)


def index_scores(mixer: Attention | LatentAttention | CompressedAttention, shape: Shape) -> tuple[Operator, ...]:
    """Scores of a sparse-attention indexer over all earlier keys, replicated over tp."""
    if mixer.indexer is None:
        return ()
    flops = indexer_flops_per_token(mixer, shape.seq) * shape.tokens
    scores = Kernel("scores", flops, 4.0 * mixer.indexer.heads * mixer.indexer.head_dim * shape.tokens)
    return (Scan("index_scores", (scores,), (scores, scores)),)


def context_exchange(core: CoreAttention, kv_bytes: Number, shape: Shape) -> tuple[Exchange, ...]:
    """Keys and values around the context-parallel group: ring (hidden), all-gather, or head all-to-all."""
    plan = shape.plan
    if CONTEXT_EXCHANGES[plan.cp_comm].splits_heads:
        queries_and_outputs = core.heads * plan.cp * (core.qk_dim + core.v_dim)
        moved = shape.tokens * queries_and_outputs * shape.element_bytes + kv_bytes
        return (Exchange("ulysses", "cp", "all_to_all", "all_to_all", moved, moved),)
    gathered = kv_bytes * plan.cp
    # Backward passes keys and values around again and brings their gradients home: twice the bytes.
    return (
        Exchange(
            "kv_ring",
            "cp",
            "all_gather",
            "all_gather",
            gathered,
            2 * gathered,
            behind_attention=CONTEXT_EXCHANGES[plan.cp_comm].behind_attention,
        ),
    )


def attention_work(mixer: Attention, shape: Shape) -> Work:
    element, t, h = shape.element_bytes, shape.plan.tp, shape.hidden
    products = {linear.name: linear for linear in linears(mixer, h)}
    kv_width = np.maximum(1, mixer.kv_heads / t) * (mixer.head_dim + mixer.v_head_dim)
    q_width = mixer.heads / t * mixer.head_dim
    out_width = mixer.heads / t * mixer.v_head_dim
    core, core_saved = core_attention(mixer, grouped_heads(mixer, t), shape)
    projections = [matmul(products[name], shape) for name in products if name != "out"]
    operators: list[Operator] = [
        norm("input_norm", h, shape.sharded_tokens, shape),
        column_input("qkv_input", h, shape),
    ]
    for index, product in enumerate(projections):
        operators += [*casts(product, shape, cast_input=index == 0, role="column"), product]
    if mixer.qk_norm:
        operators.append(norm("qk_norm", q_width + kv_width / 2, shape.tokens, shape))
    if shape.rotary:
        operators.append(rope(q_width + kv_width / 2, shape, mixer.scaled_rope))
    operators += core
    out = matmul(products["out"], shape)
    operators += [*casts(out, shape, role="row"), out, *leave("attention", shape)]
    saved = [
        Tensor("residual_1", element * h * shape.sharded_tokens),
        Tensor("qkv_input", shape.input_bytes * h * shape.kept_input_tokens, until_wgrad=True),
        Tensor("qkv", element * (q_width + kv_width) * shape.tokens),
        *core_saved,
        *output_saved(out_width, shape),
    ]
    return Work(tuple(operators), tuple(saved))


def output_saved(width: Number, shape: Shape) -> tuple[Tensor, ...]:
    """The attention output, kept once for attention's backward and, quantised, once more for its projection."""
    output = Tensor("attention_output", shape.element_bytes * width * shape.tokens, until_wgrad=True)
    kept: tuple[Tensor, ...] = (output,)
    if shape.quantized:
        kept += (Tensor("projection_input", shape.input_bytes * width * shape.tokens, until_wgrad=True),)
    if shape.plan.stack.dropout:
        kept += (Tensor("attention_dropout_mask", 1.0 * shape.hidden * shape.sharded_tokens),)
    return kept


def rope(width: Number, shape: Shape, scaled: bool = False) -> Pass:
    """Rotary embedding of queries and keys: reads and writes them.

    The fused kernel knows no scale: with one, Megatron-Core (rope_utils.py) multiplies, negates, concatenates and adds
    queries and keys in PyTorch, 12 passes over them forward and 14 backward in as many kernels.
    """
    once = shape.element_bytes * width * shape.tokens
    if scaled and shape.plan.stack.scaled_rope == "eager":
        return Pass("rope", "strided", 12 * once, 14 * once, 12, 14)
    return Pass("rope", "elementwise", 2 * once, 2 * once)


def leave(name: str, shape: Shape) -> tuple[Operator, ...]:
    """The mixer's output is summed over tp and joins the residual stream, in parallel blocks later with the ffn's."""
    if shape.parallel_blocks:
        return ()
    return (row_output(f"{name}_output", shape.hidden, shape), *residual(name, shape))


def residual(name: str, shape: Shape) -> tuple[Operator, ...]:
    """The block's output joins the residual stream; with dropout in the same kernel where fused, in three where
    not (bias, dropout, addition of 2021-22 software)."""
    joined = addition(f"{name}_residual", shape.hidden, shape.sharded_tokens, shape)
    if not shape.plan.stack.dropout:
        return (joined,)
    mask = 1.0 * shape.sharded_tokens * shape.hidden
    if shape.plan.stack.fused_kernels:
        return (
            replace(joined, forward_bytes=joined.forward_bytes + mask, backward_bytes=joined.backward_bytes + mask),
        )
    unfused = 2 * shape.sharded_tokens * shape.hidden * shape.element_bytes * 2 + mask
    return (joined, Pass(f"{name}_dropout", "elementwise", unfused, unfused, 2, 2))


def hyper_connection(name: str, shape: Shape) -> Work:
    """What several residual streams cost a block beyond one (manifold-constrained hyper-connections): the streams are
    read to be normed and to predict the mix, read again to make the block's input, and read and written to mix the
    block's output in; backward does it for values and gradients. All streams are kept.
    """
    if shape.streams == 1:
        return Work((), ())
    n, element, rows = shape.streams, shape.element_bytes, shape.sharded_tokens
    one = element * rows * shape.hidden
    forward = (4 * n + 2) * one - 3 * one  # the plain residual addition is counted with the block
    mix = Matmul(f"{name}_stream_mix", rows, n * (n + 2), n * shape.hidden, quantized=False)
    passes = Pass(f"{name}_streams", "elementwise", forward, 2 * forward, 3, 6)
    return Work((mix, passes), (Tensor(f"{name}_streams", (n - 1) * one),))


def latent_attention_work(mixer: LatentAttention, shape: Shape) -> Work:
    """MLA: replicated down-projections on the token shard, gathered latents, then heads split over tp."""
    element, t, h = shape.element_bytes, shape.plan.tp, shape.hidden
    up: Modules = ("mla_up_proj",)
    products = {linear.name: linear for linear in linears(mixer, h)}
    qk_dim = mixer.nope_head_dim + mixer.rope_head_dim
    latent = (mixer.q_lora_rank or 0) + mixer.kv_lora_rank
    core, core_saved = core_attention(mixer, latent_heads(mixer, t), shape)
    operators: list[Operator] = [norm("input_norm", h, shape.sharded_tokens, shape, ("layernorm",))]
    down = [matmul(linear, shape) for linear in products.values() if linear.parallel == "replicated"]
    for index, product in enumerate(down):
        operators += [*casts(product, shape, cast_input=index == 0), product]
    gathered = latent + mixer.rope_head_dim if mixer.q_lora_rank else h + mixer.kv_lora_rank + mixer.rope_head_dim
    operators += [column_input("latents", gathered, shape), norm("latent_norm", latent, shape.tokens, shape, up)]
    for linear in products.values():
        if linear.parallel == "column":
            product = matmul(linear, shape, up)
            operators += [*casts(product, shape), product]
    heads = mixer.heads / t
    # Queries are rotated in place in their rotary part; keys are put together from content and one rotary key.
    rotated = 2 * heads * mixer.rope_head_dim + heads * (mixer.nope_head_dim + qk_dim)
    operators.append(replace(rope(rotated / 2, shape), modules=up))
    out = matmul(products["out"], shape)
    operators += [
        *core,
        *casts(out, shape, role="row"),
        out,
        *leave("attention", shape),
    ]
    # Latents are kept as they leave the down-projections and, normed, as inputs of the up-projections.
    latents = element * (latent + mixer.rope_head_dim) + shape.input_bytes * latent
    saved = [
        Tensor("residual_1", element * h * shape.sharded_tokens),
        Tensor("qkv_input", shape.input_bytes * h * shape.sharded_tokens, ("layernorm",), until_wgrad=True),
        Tensor("latents", latents * shape.tokens, until_wgrad=True),
        Tensor("qkv", element * heads * (2 * qk_dim + mixer.v_head_dim) * shape.tokens, up),
        *core_saved,
        *output_saved(heads * mixer.v_head_dim, shape),
    ]
    return Work(tuple(operators), tuple(saved))


def compressed_attention_work(mixer: CompressedAttention, shape: Shape) -> Work:
    """DeepSeek-V4 attention: low-rank queries, one shared key/value head, window plus compressed keys."""
    element, t, h = shape.element_bytes, shape.plan.tp, shape.hidden
    heads = mixer.heads / t
    width = heads * mixer.head_dim
    products = [matmul(linear, shape) for linear in linears(mixer, h)]
    compressed = shape.seq / mixer.compress_ratio if mixer.compress_ratio else 0
    selected = min(compressed, mixer.indexer.top_k) if mixer.indexer and compressed else compressed
    core = CoreAttention(
        "core_attention",
        batch=shape.batch,
        queries=shape.seq / shape.plan.cp,
        keys=shape.seq,
        heads=heads,
        kv_heads=1,
        qk_dim=mixer.head_dim,
        v_dim=mixer.head_dim,
        causal=shape.causal,
        window=int(mixer.window + selected),
    )
    kv_bytes = shape.tokens * mixer.head_dim * element
    operators: list[Operator] = [norm("input_norm", h, shape.sharded_tokens, shape), column_input("latents", h, shape)]
    for product in products:
        operators += [*casts(product, shape), product]
    operators += [
        rope(width + mixer.head_dim, shape),
        *context_exchange(core, kv_bytes, shape),
        *index_scores(mixer, shape),
        core,
    ]
    operators += [*leave("attention", shape)]
    saved = (
        Tensor("residual_1", element * h * shape.sharded_tokens),
        Tensor("qkv_input", shape.input_bytes * h * shape.sharded_tokens, until_wgrad=True),
        Tensor("latents", 2 * element * (mixer.q_lora_rank + mixer.head_dim) * shape.tokens, until_wgrad=True),
        Tensor("qkv", element * (width + mixer.head_dim) * shape.tokens),
        Tensor("attention_lse", 4 * heads * shape.tokens, ("core_attn",)),
        *output_saved(width, shape),
        Tensor("output_latent", element * mixer.o_groups / t * mixer.o_lora_rank * shape.tokens, until_wgrad=True),
    )
    return Work(tuple(operators), saved)


def recurrent_work(mixer: AnyRecurrent, shape: Shape) -> Work:
    """Linear attention, state spaces and short convolutions: projections around a convolution and a scan, split over
    tp."""
    element, t, h = shape.element_bytes, shape.plan.tp, shape.hidden
    recurrence = recurrence_of(mixer, shape)
    inner, convolved, scan = recurrence.inner, recurrence.convolved, recurrence.scan
    products = {linear.name: linear for linear in linears(mixer, h)}
    operators: list[Operator] = [
        norm("input_norm", h, shape.sharded_tokens, shape),
        column_input("mixer_input", h, shape),
    ]
    entering = [matmul(linear, shape) for name, linear in products.items() if name != "out"]
    for index, product in enumerate(entering):
        operators += [*casts(product, shape, cast_input=index == 0), product]
    width = sum(np.asarray(product.n) for product in entering)
    moved = 2 * element * convolved / t * shape.tokens
    operators += [
        *heads_exchange(width * element * shape.tokens, inner / t * element * shape.tokens, shape),
        # Backward convolves again, as nothing between projection and output is kept, then reads two and writes one.
        *([Pass("convolution", "elementwise", moved, 2.5 * moved, 1, 2)] if convolved else []),
        scan,
        *([norm("gated_norm", inner / t, shape.tokens, shape)] if recurrence.normed else []),
    ]
    out = matmul(products["out"], shape)
    operators += [*casts(out, shape), out, *leave("mixer", shape)]
    # Mamba keeps the projection, and its output before and after the gate and, normed, as the last product's input;
    # delta rules also keep what the convolution made.
    kept = recurrence.keeps_convolved
    between = (Tensor("convolved", element * convolved / t * shape.tokens),) if kept else ()
    saved = (
        Tensor("residual_1", element * h * shape.sharded_tokens),
        Tensor("mixer_input", shape.input_bytes * h * shape.sharded_tokens, until_wgrad=True),
        Tensor("projected", element * width * shape.tokens),
        *between,
        Tensor("scan_output", 2 * element * inner / t * shape.tokens),
        Tensor("projection_input", shape.input_bytes * inner / t * shape.tokens, until_wgrad=True),
    )
    return Work(tuple(operators), saved)


def heads_exchange(entering: Number, leaving: Number, shape: Shape) -> tuple[Operator, ...]:
    """Context parallelism of a recurrent mixer: all tokens of a share of the heads in, a share of the tokens out
    (Megatron-Core's MambaContextParallel), packed and unpacked in memory. Bytes of the projection and of the output.
    """
    if isinstance(shape.plan.cp, int) and shape.plan.cp == 1:
        return ()
    packed = 2 * 2 * (entering + leaving)
    return (
        Exchange("heads_in", "cp", "all_to_all", "all_to_all", entering, entering),
        Pass("heads_packing", "copy", packed, packed, 4, 4),
        Exchange("heads_out", "cp", "all_to_all", "all_to_all", leaving, leaving),
    )


MIXERS: dict[type, Callable[..., Work]] = {
    Attention: attention_work,
    LatentAttention: latent_attention_work,
    CompressedAttention: compressed_attention_work,
    **dict.fromkeys(RECURRENT.values(), recurrent_work),
}


def mixer_work(mixer: Mixer, shape: Shape) -> Work:
    """The mixer with what joins it to the residual stream, or streams."""
    return hyper_connection("mixer", shape) + MIXERS[type(mixer)](mixer, shape) + second_norm("mixer", shape)
