"""What runs again before a layer's backward: whole modules, single operators, or all up to the last product."""

from __future__ import annotations

from collections.abc import Sequence

from simulator.plans.spec import Plan
from simulator.workload.ends import CHUNKED
from simulator.workload.operators import CoreAttention, Exchange, Matmul, Number, Operator, Routing

# What follows the activation of a dense ffn; the weight gradient's own cast of the input is part of backward.
LAST = ("fc2_cast", "fc2", "mlp_output", "mlp_residual")


def recomputed_modules(plan: Plan, whole_layer: bool) -> frozenset[str] | None:
    """Modules computed again before backward; None: all of the layer."""
    if plan.reruns_layers and whole_layer:
        return None
    logits = CHUNKED if plan.recomputes_logits else ()
    return frozenset((*plan.recompute.chosen_modules, *logits))


def is_recomputed(modules: tuple[str, ...], again: frozenset[str] | None) -> bool:
    return again is None or not again.isdisjoint(modules)


def recomputed_shares(operators: Sequence[Operator], plan: Plan, whole_layer: bool) -> list[Number]:
    """Share of each operator of half a layer that runs again before its backward.

    PyTorch's non-reentrant checkpoint (2.1 and later) ends recomputation at the last tensor that backward needs, and
    torch.compile drops what none needs: the last product of a dense layer and its sum over tensor ranks run once.
    """
    if chooses_operators(plan, operators):
        return [operator_share(op, operators, plan) for op in operators]
    again = recomputed_modules(plan, whole_layer)
    early = again is None and plan.stack.early_stop
    return [float(is_recomputed(op.modules, again) and not (early and op.name in LAST)) for op in operators]


def chooses_operators(plan: Plan, operators: Sequence[Operator]) -> bool:
    """torchtitan's selective recompute chooses operators of decoder layers, not modules; ends run once."""
    chooses = plan.stack.selective_recompute == "operators" and plan.recompute.named_modules
    return chooses and any(op.name in ("input_norm", "mlp_norm") for op in operators)


def operator_share(op: Operator, operators: Sequence[Operator], plan: Plan) -> Number:
    """What torchtitan's per-operator checkpointing runs again of an operator.

    It keeps attention, what tensor parallelism reduce-scatters, and every second product of q, k, v, out, w1, w3, w2
    (its save list): k and w3 run again, out where no reduce-scattered sum of it is kept, and grouped products, which
    are not on the list. w2's output nobody needs. Norms, activations, casts and gathers run again.
    """
    if isinstance(op, CoreAttention | Routing) or op.name in LAST:
        return 0.0
    if isinstance(op, Exchange):
        return float(op.forward == "all_gather" and op.group == "tp")
    if not isinstance(op, Matmul):
        return 1.0
    if op.name.startswith("expert_"):
        return 1.0
    if op.name == "out":
        return float(not plan.sequence_parallel)
    keys = [core.kv_heads * core.qk_dim for core in operators if isinstance(core, CoreAttention)]
    return keys[0] / op.n if op.name == "qkv" and keys else 0.5
