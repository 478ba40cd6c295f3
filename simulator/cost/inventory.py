"""Every distinct operator of a model under a plan, how often it runs, and which lie beyond a measured profile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from hardware.collectives.closed_form import tables_of
from hardware.kernels.curves import kernel_set
from hardware.precisions import PRECISIONS
from hardware.specs import Cluster
from simulator.cost.groups import plan_groups
from simulator.cost.price import high_precision
from simulator.model.spec import Layer
from simulator.plans.spec import Plan
from simulator.workload.derive import Workload
from simulator.workload.operators import CoreAttention, Exchange, Matmul, Operator, Work

ROOM = 1.001  # rounding of a shape to whole rows does not count as extrapolation


def operators(workload: Workload) -> Counter[Operator]:
    """Operator -> times per micro-batch over all stages; of one plan, not of arrays of plans."""
    counted: Counter[Operator] = Counter()

    def layer(spec: Layer, again: bool) -> tuple[Work, ...]:
        return workload.halves(spec)

    def end(name: str) -> tuple[Work, ...]:
        return (workload.ends[name],)

    for stage in workload.stages:
        for works in workload.parts(stage, layer, end):
            for work in works:
                counted.update(work.operators)
    return counted


def is_expert(op: Matmul) -> bool:
    """Whether the routed experts' grouped kernels compute it."""
    return op.name.startswith("expert_")


def products(op: Matmul) -> tuple[tuple[str, float, float, float], ...]:
    """(role, m, n, k) of a product and of its two gradients, each by its own dimensions."""
    m, n, k = (float(each) for each in (op.m, op.n, op.k))
    return (("forward", m, n, k), ("dgrad", m, k, n), ("wgrad", n, k, m))


def beyond_profile(workload: Workload, cluster: Cluster) -> tuple[str, ...]:
    """What the cluster's measured profile does not cover: products and attention outside the shapes it measured.

    Empty without a profile: the shipped curves tell their evidence, not their range.
    """
    ranges = kernel_set(cluster.accelerator.kernels).measured_range
    if not ranges:
        return ()
    plan = workload.plan
    low, high = PRECISIONS[plan.precision], PRECISIONS[high_precision(plan)]
    found: dict[str, list[str]] = {}
    for op in operators(workload):
        if isinstance(op, Exchange):
            for operation, outside in exchanges_beyond(op, plan, cluster):
                found.setdefault(f"{operation} {op.name}", []).extend(outside)
        elif isinstance(op, Matmul):
            family = "grouped_gemm" if is_expert(op) else "gemm"
            keys = low.curves if op.quantized else high.curves
            measured = next((ranges[family][key] for key in keys if key in ranges.get(family, {})), None)
            outside = [
                name for _, *mnk in products(op) for name in exceeded(dict(zip("mnk", mnk, strict=True)), measured)
            ]
            if measured is None or outside:
                found.setdefault(f"{family} {op.name}", []).extend(outside)
        elif isinstance(op, CoreAttention):
            measured = next(
                (ranges["attention"][key] for key in high.curves if key in ranges.get("attention", {})), None
            )
            outside = exceeded({"seq_len": float(op.keys), "qk_dim": float(op.qk_dim)}, measured)
            if measured is None or outside:
                found.setdefault(f"attention {op.name}", []).extend(outside)
    return tuple(f"{name} ({', '.join(sorted(set(what))) or 'not measured'})" for name, what in sorted(found.items()))


def exchanges_beyond(op: Exchange, plan: Plan, cluster: Cluster) -> Iterator[tuple[str, list[str]]]:
    """Collectives of an operator whose size or ranks no group of the profile had; none where no group was measured."""
    ranges = tables_of(cluster.efficiencies).get("measured_range", {})
    ranks = float(plan_groups(plan, cluster)[op.group].ranks)
    moved = ((op.forward, op.forward_bytes), (op.backward, op.backward_bytes))
    for operation, size in moved:
        outside = exceeded({"size_bytes": float(size), "ranks": ranks}, ranges.get(operation)) if operation else []
        if outside and ranks > 1:
            yield str(operation), outside


def exceeded(shape: Mapping[str, float], measured: Mapping[str, Any] | None) -> list[str]:
    """The dimensions that lie outside the measured range, each with both."""
    if measured is None:
        return []
    return [
        f"{name} {value:g} of {measured[name][0]:g} to {measured[name][1]:g}"
        for name, value in shape.items()
        if name in measured and not measured[name][0] / ROOM <= value <= measured[name][1] * ROOM
    ]
