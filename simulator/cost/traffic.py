"""What every group of a plan moves in one step: the collectives of the workload as streams of bytes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from hardware.collectives import DISPATCHERS, Group, collective_s, combine_s, dispatch_s
from hardware.collectives.compression import sent_as_if_bytes
from hardware.collectives.group import across_shards
from hardware.collectives.network_use import Stream
from hardware.precisions import FORMATS
from hardware.specs import Cluster
from simulator.cost.blocks import exchanged
from simulator.cost.groups import plan_groups, shard_groups
from simulator.cost.recompute import recomputed_shares
from simulator.cost.step_times import sent_bytes
from simulator.cost.updates import gathered_layers, parts_of, reduces_whole, sharded_over
from simulator.model.spec import Layer
from simulator.plans.choices import SHARDINGS
from simulator.plans.layout import ranks_of_stages, routes, stages_of_ranks
from simulator.plans.placement import coordinates, groups
from simulator.plans.spec import Plan
from simulator.schedules import SCHEDULES
from simulator.workload.derive import Workload
from simulator.workload.operators import Exchange, Number, Routing, Work
from simulator.workload.shape import Shape
from simulator.workload.states import StageParameters, gradient_reductions, stage_widths, travels_by_layer

# Which ranks reduce what: dense and expert parameters over their own groups.
SHARERS = {"dense": "dp_cp", "expert": "edp"}


class Flow(NamedTuple):
    """A kind of traffic: its cause in the breakdown, who exchanges, and how.

    `kind`: tp, cp, etp, ep, dense, expert, and of the last two with -shards or -replicas. `inside`: of expert
    exchanges by DeepEP's kernels the part on scale-up links.
    """

    cause: str
    kind: str
    operation: str
    algorithm: str
    inside: bool = False


Traffic = dict[Flow, float]


def step_streams(workload: Workload, cluster: Cluster) -> list[Stream]:
    """Every stream of a step on the GPUs of the plan; what moves only a few bytes (norms, counters) is left out."""
    plan = workload.plan
    # DualPipe's mirror ranks share the micro-batches of a stage.
    rounds = plan.microbatches / len(ranks_of_stages(plan)[0])
    sharing = shard_groups(plan, cluster)
    by_stage = []
    for stage, params, layers in zip(
        workload.stages, workload.parameters, layers_traffic(workload, cluster), strict=True
    ):
        whole = stage.index > 0 and not travels_by_layer(plan)
        once = update_traffic(params, plan, sharing, cluster, whole)
        by_stage.append(total([{flow: size * rounds for flow, size in layers.items()}, once]))
    by_rank = [total(by_stage[stage] for stage in sorted(set(held))) for held in stages_of_ranks(plan)]
    flows = dict.fromkeys(flow for sizes in by_rank for flow in sizes if not flow.inside)
    return [*(stream(flow, by_rank, plan) for flow in flows), *pipeline_streams(plan, workload.shape, cluster)]


def total(parts: Iterable[Mapping[Flow, float]]) -> Traffic:
    found: defaultdict[Flow, float] = defaultdict(float)
    for part in parts:
        for flow, size in part.items():
            found[flow] += size
    return dict(found)


def layers_traffic(workload: Workload, cluster: Cluster) -> list[Traffic]:
    """Bytes per group of one micro-batch through each stage, forward and backward; every distinct layer once."""
    plan = workload.plan
    sharing = plan_groups(plan, cluster)

    @cache
    def layer(spec: Layer, again: bool) -> Traffic:
        return total(work_traffic(work, plan, sharing, cluster, again) for work in workload.halves(spec))

    @cache
    def end(name: str) -> Traffic:
        return work_traffic(workload.ends[name], plan, sharing, cluster, False)

    return [total(workload.parts(stage, layer, end)) for stage in workload.stages]


def work_traffic(work: Work, plan: Plan, sharing: dict[str, Group], cluster: Cluster, whole_layer: bool) -> Traffic:
    """Bytes of half a layer: forward, backward, and what is computed again before it."""
    found: list[Traffic] = []
    shares = recomputed_shares(work.operators, plan, whole_layer)
    for op, share in zip(work.operators, shares, strict=True):
        forwards = 1 + share
        if isinstance(op, Exchange):
            group = sharing[op.group]
            cause = "tp" if op.group == "etp" else op.group
            for operation, size, times in (
                (op.forward, op.forward_bytes, forwards),
                (op.backward, op.backward_bytes, 1),
                ("all_gather", op.regather_bytes, 1),
            ):
                found.append(collective_traffic(cause, op.group, operation, size, times, group, cluster))
        elif isinstance(op, Routing):
            for backward in (False, True):
                found.append(routing_traffic(op, backward, 1 if backward else forwards, plan, sharing["ep"], cluster))
    return total(found)


def collective_traffic(
    cause: str,
    kind: str,
    operation: str | None,
    size: Number,
    times: Number,
    group: Group,
    cluster: Cluster,
    algorithm: str | None = None,
) -> Traffic:
    """`times` collectives of `size` bytes by an algorithm; None: the one that NCCL's tuner takes for them."""
    if operation is None or not size or group.ranks <= 1:
        return {}
    taken = algorithm or collective_s(operation, size, group, cluster).algorithm
    return {Flow(cause, kind, operation, taken): float(size * times)}


def routing_traffic(op: Routing, backward: bool, times: Number, plan: Plan, group: Group, cluster: Cluster) -> Traffic:
    """Dispatch or combine; the backward of one travels like the other. Even routing: the hottest rank sets the pace,
    not the bytes of all."""
    if group.ranks <= 1:
        return {}
    out = (op.name == "dispatch") != backward
    moved = exchanged(op, group, 1.0 if plan.capacity_factor is None else plan.capacity_factor)
    if out:
        sent = dispatch_s(moved, group, cluster, plan.dispatcher, op.fp8)
    else:
        sent = combine_s(moved, group, cluster, plan.dispatcher)
    dispatcher = DISPATCHERS[plan.dispatcher]
    operation = dispatcher.out_operation if out else dispatcher.home_operation
    if operation is None:
        flow = Flow("ep", "ep", "dispatch", "experts")
        network, inside = float(sent.network_bytes * times), float(sent.scale_up_bytes * times)
        return {flow: network, flow._replace(inside=True): inside}
    # Each of the n ranks keeps its own n-th of the buffer.
    size = (sent.network_bytes + sent.scale_up_bytes) * group.ranks / (group.ranks - 1)
    return collective_traffic("ep", "ep", operation, size, times, group, cluster)


def update_traffic(
    held: StageParameters, plan: Plan, sharing: dict[str, Group], cluster: Cluster, whole: bool
) -> Traffic:
    """Gradients reduced and parameters gathered of one stage in a step; ZeRO-3 does both for every micro-batch, and
    gathers for the backward again; ZeRO-2 reduces for every micro-batch where its engine does."""
    sharding = SHARDINGS[plan.sharding]
    gathers = sharding.gathers(plan.microbatches)
    reductions = gradient_reductions(plan)
    gathered = parts_of(gathered_layers(held, plan), plan, sharing, whole)
    reduced = parts_of(held.trained_layers, plan, sharing, whole)
    found: list[Traffic] = []
    widths = stage_widths(held, plan)
    algorithm = None if plan.gradients.algorithm == "auto" else plan.gradients.algorithm
    for all_values, all_grads in zip(gathered, reduced, strict=True):
        moved = zip(sharing.items(), all_values, widths, all_grads, strict=True)
        for (name, group), count, width, trained in moved:
            shards = sharded_over(group, plan) if sharding.shards_optimizer else group
            split = shards is not group
            kind = f"{name}-shards" if split else name
            grads = travelling_bytes(trained * FORMATS[plan.optimizer.grad_reduce].bytes, group, plan, cluster)
            values = count * width
            if reduces_whole(plan):
                found.append(collective_traffic("dp", name, "all_reduce", grads, reductions, group, cluster, algorithm))
            else:
                found.append(collective_traffic("dp", kind, sharding.reduction, grads, reductions, shards, cluster))
            found.append(collective_traffic("dp", kind, "all_gather", values, gathers, shards, cluster))
            if split and not reduces_whole(plan):
                rest, copies = across_shards(group, shards), f"{name}-replicas"
                found.append(
                    collective_traffic("dp", copies, "all_reduce", grads / shards.ranks, reductions, rest, cluster)
                )
    return total(found)


def travelling_bytes(size_bytes: Number, group: Group, plan: Plan, cluster: Cluster) -> Number:
    """What stands for gradients on the wire: themselves, or as many bytes as they send compressed."""
    how = plan.gradients
    if not how.is_compressed:
        return size_bytes
    return sent_as_if_bytes(float(size_bytes), how.compression, group, cluster, how.keep)


def stream(flow: Flow, by_rank: Sequence[Traffic], plan: Plan) -> Stream:
    """A flow as what each of its groups moves, by the pipeline rank that it belongs to."""
    members = ranks_of(flow.kind, plan)
    stage = np.asarray(coordinates(plan, members[:, 0]).pp)
    size, inside = (
        np.array([moved.get(each, 0.0) for moved in by_rank])[stage] for each in (flow, flow._replace(inside=True))
    )
    scale_up = inside if flow.algorithm == "experts" else None
    return Stream(flow.cause, flow.operation, flow.algorithm, members, size, scale_up)


def ranks_of(kind: str, plan: Plan) -> np.ndarray:
    """[groups, ranks] of a flow's kind; HSDP's shard groups are runs of neighbours in their group."""
    name, _, part = kind.partition("-")
    members = groups(plan, SHARERS.get(name, name))
    if name in SHARERS and SCHEDULES[plan.schedule].placement.copies > 1:
        stage = np.asarray(coordinates(plan, members[:, 0]).pp)
        members = np.concatenate(
            [np.hstack([members[stage == r], members[stage == plan.pp - 1 - r]]) for r in range(plan.pp // 2)]
        )
    if not part:
        return members
    runs = members.reshape(len(members), -1, int(plan.shard_group or 1))
    return runs.reshape(-1, runs.shape[2]) if part == "shards" else runs.transpose(0, 2, 1).reshape(-1, runs.shape[1])


def pipeline_streams(plan: Plan, shape: Shape, cluster: Cluster) -> Iterator[Stream]:
    """Activations to the next stage and their gradients back; what was sent in shares is gathered where it arrives."""
    if plan.pp == 1:
        return
    pipelines = groups(plan, "pp")
    sent, gathered = (size * plan.microbatches for size in sent_bytes(shape))
    ways = routes(plan)
    hops: defaultdict[tuple[int, int], Number] = defaultdict(float)
    share = sent / len(ways)
    for way in ways:
        for first, second in pairwise(way):
            hops[first, second] += share
            hops[second, first] += share
    arrived = np.zeros(plan.pp)
    for (first, second), size in hops.items():
        if first != second:
            ends = pipelines[:, [first, second]]
            arrived[second] += size
            yield Stream("pp", "send_recv", "pairwise", ends, np.full(len(ends), size))
    if gathered:
        one = gathered / plan.microbatches
        for flow in collective_traffic("pp", "tp", "all_gather", one, 1, plan_groups(plan, cluster)["tp"], cluster):
            yield stream(flow, [{flow: float(size * gathered / sent)} for size in arrived.tolist()], plan)
