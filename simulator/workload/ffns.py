"""The feed-forward half of a layer on one rank: dense, or routed and shared experts with dispatch and combine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hardware.collectives import DISPATCHERS
from simulator.model.components import linears
from simulator.model.spec import FFN, DenseFFN, MoE
from simulator.workload.around import layer_embedding_work, second_norm
from simulator.workload.linears import addition, casts, column_input, matmul, norm, row_output
from simulator.workload.mixers import hyper_connection, residual
from simulator.workload.operators import Exchange, Matmul, Modules, Number, Operator, Pass, Routing, Tensor, Work
from simulator.workload.shape import Shape


def activation(name: str, width: Number, rows: Number, gated: bool, shape: Shape, modules: Modules) -> Pass:
    """SwiGLU reads two and writes one, its backward reads three and writes two; GELU one fewer each."""
    element = shape.element_bytes
    forward, backward = (3, 5) if gated else (2, 3)
    if makes_product_again(gated, shape):
        backward += 1
    unfused = 1 if shape.plan.stack.fused_kernels else 2
    return Pass(
        name,
        "elementwise",
        element * forward * width * rows * unfused,
        element * backward * width * rows * unfused,
        unfused,
        unfused,
        modules,
    )


def makes_product_again(gated: bool, shape: Shape) -> bool:
    """Whether the backward of a gated activation writes its output once more, for the weight gradient after it."""
    return gated and shape.plan.stack.gated_product == "again"


def product_saved(
    name: str, width: Number, rows: Number, gated: bool, shape: Shape, modules: Modules
) -> tuple[Tensor, ...]:
    """The input of the second linear, kept for its weight gradient unless backward makes it again."""
    if makes_product_again(gated, shape):
        return ()
    return (Tensor(name, shape.input_bytes * width * rows, modules, until_wgrad=True),)


def gate_saved(
    name: str, width: Number, rows: Number, gated: bool, shape: Shape, modules: Modules
) -> tuple[Tensor, ...]:
    """What an unfused SwiGLU keeps beside its two inputs: the activated gate.

    It is a factor of the product that PyTorch's autograd keeps both factors of (derivatives.yaml: mul saves self and
    other, silu its input); a fused one makes the gate again in backward.
    """
    if not gated or shape.plan.stack.fused_kernels:
        return ()
    return (Tensor(name, shape.element_bytes * width * rows, modules),)


def dense_work(ffn: DenseFFN, shape: Shape) -> Work:
    shape = shape.of_part("mlp")
    element, t, h = shape.element_bytes, shape.plan.tp, shape.hidden
    mlp: Modules = ("mlp",)
    fc1, fc2 = (matmul(linear, shape, mlp) for linear in linears(ffn, h))
    # Parallel blocks read what the mixer normalised and gathered.
    own_input = (
        ()
        if shape.parallel_blocks
        else (
            norm("mlp_norm", h, shape.sharded_tokens, shape, mlp),
            column_input("fc1_input", h, shape, mlp),
        )
    )
    operators: tuple[Operator, ...] = (
        *own_input,
        *casts(fc1, shape, cast_input=not shape.parallel_blocks, role="column"),
        fc1,
        activation("activation", ffn.width / t, shape.tokens, ffn.gated, shape, mlp),
        *casts(fc2, shape, role="row"),
        fc2,
        row_output("mlp_output", h, shape, mlp),
        *residual("mlp", shape),
    )
    rows = shape.sharded_tokens
    saved = [
        Tensor("fc1_output", shape.activation_bytes * (2 if ffn.gated else 1) * ffn.width / t * shape.tokens, mlp),
        *product_saved("fc2_input", ffn.width / t, shape.tokens, ffn.gated, shape, mlp),
        *gate_saved("activated_gate", ffn.width / t, shape.tokens, ffn.gated, shape, mlp),
    ]
    if not shape.parallel_blocks:
        saved += [
            Tensor("residual_2", element * h * rows),
            Tensor("fc1_input", shape.input_bytes * h * shape.kept_input_tokens, mlp, until_wgrad=True),
        ]
    if shape.plan.stack.dropout:
        saved.append(Tensor("mlp_dropout_mask", 1.0 * h * rows))
    return Work(operators, tuple(saved))


def routed_rows(moe: MoE, shape: Shape) -> Number:
    """Token copies that the hottest rank's local experts receive: A k etp, times the imbalance."""
    plan = shape.plan
    return shape.sharded_tokens * moe.top_k * plan.etp * plan.hottest_load


def moe_work(moe: MoE, shape: Shape) -> Work:
    """Router, dispatch, grouped experts (widths over etp), combine; shared experts split over tp beside them."""
    whole, shape = shape, shape.of_part("experts")
    element, h = shape.element_bytes, shape.hidden
    inside: Modules = ("moe",)
    tokens, rows = shape.sharded_tokens, routed_rows(moe, shape)
    width = moe.latent_width or h
    products = {linear.name: linear for linear in linears(moe, h)}
    router = matmul(products["router"], shape, inside)
    operators: list[Operator] = [norm("mlp_norm", h, tokens, shape, ("layernorm",)), router]
    operators.append(routing_pass(moe, tokens, inside))
    if "latent_down" in products:
        operators.append(matmul(products["latent_down"], shape, inside))
    operators += expert_operators(moe, width, rows, shape)
    if "latent_up" in products:
        operators.append(matmul(products["latent_up"], shape, inside))
    # Gradients of router, dispatch and shared expert meet at the norm's output.
    operators += residual("moe", shape)
    saved = [
        Tensor("residual_2", element * h * tokens),
        Tensor("router_input", element * h * tokens, ("layernorm",), until_wgrad=True),
        Tensor("router_scores", 9.0 * moe.experts * tokens, inside),
        *expert_saved(moe, width, rows, shape),
    ]
    if moe.shared_width:
        shared = shared_work(moe, whole.of_part("shared_experts"))
        operators += [*shared.operators, addition("shared_sum", h, tokens, shape, modules=inside)]
        saved += shared.saved
    return Work(tuple(operators), tuple(saved))


def routing_pass(moe: MoE, tokens: Number, modules: Modules) -> Pass:
    """Scores, top-k, maps, sorting and counts in fp32: few bytes in many small kernels.

    2.1 ms for routers and maps of four layers, both directions, in DeepSeek's profile (deepseek-ai/profile-data), are
    some fifty launches a layer and direction at 5 us; Megatron-Core's fused router needs about half.
    """
    moved = 16.0 * moe.experts * tokens
    return Pass("routing", "elementwise", moved, moved, 24, 16, modules)


def expert_operators(moe: MoE, width: int, rows: Number, shape: Shape) -> list[Operator]:
    """Permute, dispatch, grouped FC1, activation, grouped FC2, combine, un-permute."""
    plan, element = shape.plan, shape.element_bytes
    inside: Modules = ("moe",)
    fc1, fc2 = expert_matmuls(moe, width, rows, shape)
    fp8 = plan.dispatch_fp8 and shape.low  # experts in 16 bit get their tokens in 16 bit
    low = shape.input_bytes if fp8 else element
    routing = (shape.sharded_tokens, width, moe.top_k, moe.experts, moe.groups, moe.group_top_k, fp8)
    fp8_in = fp8 and shape.quantized
    passes = DISPATCHERS[plan.dispatcher].permute_passes
    out_bytes, home_bytes = (passes * 2 * size * width * rows for size in (low if fp8_in else element, element))
    products = expert_products(moe, fc1, fc2, rows, shape)
    return [
        *([Pass("permute", "permute", out_bytes, home_bytes, passes, passes, inside)] if passes else []),
        Routing("dispatch", *routing),
        *expert_tensor_exchange("all_gather", rows * width * low, plan.etp),
        *products,
        *expert_tensor_exchange("reduce_scatter", rows * width * element, plan.etp),
        Routing("combine", *routing),
        *([Pass("unpermute", "permute", home_bytes, out_bytes, passes, passes, inside)] if passes else []),
    ]


def expert_matmuls(moe: MoE, width: int, rows: Number, shape: Shape) -> tuple[Matmul, Matmul]:
    """FC1 and FC2 of a rank's local experts, as many rows to each; widths over etp."""
    local_experts = moe.experts / shape.plan.ep
    expert_width = moe.width / shape.plan.etp
    columns = (2 if moe.gated else 1) * expert_width
    per_expert = rows / local_experts
    inside: Modules = ("moe",)
    return (
        Matmul("expert_fc1", per_expert, columns, width, local_experts, shape.quantized, inside),
        Matmul("expert_fc2", per_expert, width, expert_width, local_experts, shape.quantized, inside),
    )


def expert_products(moe: MoE, fc1: Matmul, fc2: Matmul, rows: Number, shape: Shape) -> list[Operator]:
    """Both grouped products with what stands between and behind them: casts, limits, activation, bias, scores."""
    fp8_in = shape.plan.dispatch_fp8 and shape.quantized
    if shape.plan.stack.fused_experts:
        return fused_products(moe, fc1, fc2, fp8_in, shape)
    joint = activation("expert_activation", fc2.k, rows, moe.gated, shape, ("moe", "moe_act"))
    return [
        *casts(fc1, shape, cast_input=not fp8_in),
        fc1,
        *clamp(moe, rows, shape),
        joint,
        *casts(fc2, shape, cast_grad=not fp8_in),
        fc2,
        *expert_bias(moe, rows, shape),
        *expert_scores(fc2.n, rows, shape),
    ]


def fused_products(moe: MoE, fc1: Matmul, fc2: Matmul, fp8_in: bool, shape: Shape) -> list[Operator]:
    """The grouped MLP of CuTe DSL: what the products make they quantise, activate and bias themselves.

    What arrives from other ranks is quantised before them: FC1's input forward, FC2's output gradient backward, with a
    reading of it for the bias's gradient (transformer_engine/pytorch/ops/fused/grouped_mlp.py).
    """
    found = [replace(op, backward_bytes=0.0, backward_kernels=0) for op in casts(fc1, shape, cast_input=not fp8_in)]
    found += [replace(op, forward_bytes=0.0, forward_kernels=0) for op in casts(fc2, shape, cast_grad=not fp8_in)]
    if moe.bias:
        read = shape.element_bytes * fc2.n * fc2.m * fc2.groups
        found.append(Pass("expert_bias_gradient", "elementwise", 0.0, read, 0, 1, ("moe",)))
    return [fc1, fc2, *found]


def clamp(moe: MoE, rows: Number, shape: Shape) -> tuple[Pass, ...]:
    """Limits of the activation's input, which Megatron-Core sets outside its fused activation, in PyTorch.

    Both halves of FC1's output are clamped (2 + 2 passes over an expert-wide tensor) and concatenated again (4).
    Backward: masks of half the size (1.5 for an upper limit; 4.5 for two and their conjunction), two selections by mask
    (2.5 each) and the concatenation of both gradients (4). (megatron/core/fusions/fused_bias_geglu.py of 2025-26.)
    """
    if not moe.clamped:
        return ()
    once = shape.element_bytes * moe.width / shape.plan.etp * rows
    return (Pass("expert_clamp", "strided", 8 * once, 15 * once, 3, 7, ("moe", "moe_act")),)


def expert_bias(moe: MoE, rows: Number, shape: Shape) -> tuple[Pass, ...]:
    """The bias of FC2, weighted by each token's routing probability and added expert by expert in PyTorch.

    Bias times probability (1 pass over the output), sum (3), concatenation (2); backward a product and a sum each for
    bias and probability (3 + 3) and a concatenation (2). DeepEP and HybridEP hand over fp32 probabilities, which
    make all of it fp32 with casts back: 14 and 20 passes. FC1's bias and its gradient are epilogues of its products.
    (TEGroupedMLP._apply_bias of Megatron-Core, 2025-26; derivatives of PyTorch's autograd.)
    """
    if not moe.bias:
        return ()
    once = shape.element_bytes * (moe.latent_width or shape.hidden) * rows
    wide = DISPATCHERS[shape.plan.dispatcher].wide_probabilities
    forward, backward = (14, 20) if wide else (6, 8)
    local, joined = moe.experts / shape.plan.ep, 2 if wide else 1
    return (
        Pass(
            "expert_bias",
            "strided",
            forward * once,
            backward * once,
            2 * local + joined,
            (5 if wide else 4) * local + joined,
            ("moe",),
        ),
    )


def expert_scores(width: Number, rows: Number, shape: Shape) -> tuple[Pass, ...]:
    """Experts' outputs times their routing scores, where eager PyTorch does it after the experts in fp32.

    Cast up, product and cast down: 6 + 8 + 6 bytes an element. Backward casts the gradient up (6), multiplies it by the
    scores (8) and by the output (12, then 4 to sum it up for the scores), and casts it down (6). torchtitan/models/moe.
    """
    if shape.plan.stack.expert_scores != "eager" or shape.plan.stack.fused_kernels:
        return ()
    elements = width * rows
    return (Pass("expert_scores", "elementwise", 20.0 * elements, 36.0 * elements, 3, 5, ("moe",)),)


def expert_tensor_exchange(operation: str, total_bytes: Number, etp: int) -> tuple[Exchange, ...]:
    """Expert tensor parallelism gathers every peer's tokens and reduce-scatters the partial outputs."""
    if isinstance(etp, int) and etp == 1:
        return ()
    adjoint = {"all_gather": "reduce_scatter", "reduce_scatter": "all_gather"}[operation]
    return (Exchange(f"expert_{operation}", "etp", operation, adjoint, total_bytes, total_bytes, modules=("moe",)),)


def expert_saved(moe: MoE, width: int, rows: Number, shape: Shape) -> tuple[Tensor, ...]:
    """FC1 input as received, FC1 output (and clamped, where not in the kernel), and the activation's output with its
    gate (where not fused), per routed token copy."""
    expert_width = moe.width / shape.plan.etp
    inside: Modules = ("moe", "moe_act")
    gate = gate_saved("expert_activated_gate", expert_width, rows, moe.gated, shape, inside)
    limited: tuple[Tensor, ...] = ()
    if moe.clamped and not shape.plan.stack.fused_experts:
        size = shape.element_bytes * (2 if moe.gated else 1) * expert_width * rows
        limited = (Tensor("expert_clamped", size, inside),)
    return (
        Tensor("expert_fc1_input", shape.input_bytes * width * rows, ("moe",), until_wgrad=True),
        Tensor("expert_fc1_output", shape.activation_bytes * (2 if moe.gated else 1) * expert_width * rows, ("moe",)),
        *limited,
        *(() if shape.plan.stack.fused_experts else gate),
        *product_saved("expert_fc2_input", expert_width, rows, moe.gated, shape, inside),
    )


def shared_work(moe: MoE, shape: Shape) -> Work:
    """The shared expert: a dense feed-forward on every token, split over tp."""
    t, h = shape.plan.tp, shape.hidden
    modules: Modules = ("moe", "shared_experts")
    products = {linear.name: linear for linear in linears(moe, h)}
    fc1, fc2 = (matmul(products[name], shape, modules) for name in ("shared_fc1", "shared_fc2"))
    operators: tuple[Operator, ...] = (
        column_input("shared_input", h, shape, modules),
        *casts(fc1, shape),
        fc1,
        activation("shared_activation", moe.shared_width / t, shape.tokens, moe.gated, shape, modules),
        *casts(fc2, shape),
        fc2,
        row_output("shared_output", h, shape, modules),
    )
    width = moe.shared_width / t * shape.tokens
    saved = (
        Tensor("shared_fc1_output", shape.activation_bytes * (2 if moe.gated else 1) * width, modules),
        *product_saved("shared_fc2_input", moe.shared_width / t, shape.tokens, moe.gated, shape, modules),
        *gate_saved("shared_activated_gate", moe.shared_width / t, shape.tokens, moe.gated, shape, modules),
    )
    return Work(operators, saved)


FFNS: dict[type, Callable[..., Work]] = {DenseFFN: dense_work, MoE: moe_work}


def ffn_work(ffn: FFN, shape: Shape) -> Work:
    """The feed-forward with what joins it to the residual stream, or streams."""
    added = second_norm("ffn", shape) + layer_embedding_work(shape)
    return hyper_connection("ffn", shape) + FFNS[type(ffn)](ffn, shape) + added
