"""Once a step: buckets, levels of sharding, whole matrices, and what sharded layers take from computing, by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hardware.catalogue import cluster
from hardware.collectives import ExpertExchange, Group, collective_s, combine_s, dispatch_s, strided_group
from hardware.collectives.group import across_shards
from hardware.kernels import gemm_s, streaming_s
from simulator.cost import step_times
from simulator.cost.constants import NEUTRAL
from simulator.cost.groups import plan_groups, shard_groups
from simulator.cost.offload import host_update_s
from simulator.cost.price import Prices
from simulator.cost.seconds import Seconds
from simulator.cost.stages import StageCost
from simulator.cost.step_times import (
    UpdateTimes,
    sent_bytes,
    shares_beside,
    stage_send_s,
    update_times,
    with_contention,
    with_lost,
)
from simulator.cost.traffic import (
    Flow,
    collective_traffic,
    ranks_of,
    routing_traffic,
    update_traffic,
    work_traffic,
)
from simulator.cost.updates import (
    buckets,
    gather_and_reduce,
    matrix_products_s,
    optimizer_s,
    reduce_s,
    reduces_whole,
    sharded_over,
    shared_numbers_s,
    with_lists,
)
from simulator.model.spec import Attention, DenseFFN, Layer, Model, MoE
from simulator.optimizers import OPTIMIZERS
from simulator.plans.layout import stages
from simulator.plans.spec import Offload, Optimizer, Overlap, Plan, Recompute
from simulator.workload.derive import workload_of
from simulator.workload.operators import Exchange, Routing, Work
from simulator.workload.shape import shape_of
from simulator.workload.states import StageParameters
from tests.simulator.stacks import ZERO3_2021, stack_of

GPUS = cluster(64, "hgx-h100", "ndr-rail-2tier")
PLAN = Plan(dp=64, micro_batch_size=1, global_batch_size=256, sharding="full")
LLAMA = Model("llama", 4096, 128256, (Layer(Attention(32, 8, 128, 128), DenseFFN(14336)),) * 4)
EXPERTS = Model("experts", 1024, 32000, (Layer(Attention(16, 16, 64, 64), MoE(16, 2, 512)),))
HELD = StageParameters(9e8, 2.1e9, ((2e8, 1e9), (3e8, 6e8), (4e8, 5e8)))


def collected_s(operation: str, size_bytes: float, group: Group) -> float:
    return float(collective_s(operation, size_bytes, group, GPUS).seconds)


# ---- gathers and reductions


def test_layers_gather_in_order_and_reduce_backwards() -> None:
    """Dense parameters over 64 ranks and experts over 8; 2 bytes gathered, 4 reduced, layer by layer."""
    plan = replace(PLAN, ep=8)
    groups = shard_groups(plan, GPUS)
    gathers, reduces = gather_and_reduce(HELD, plan, groups, GPUS, whole=False)
    dense, expert = strided_group(GPUS, 64), strided_group(GPUS, 8, 8)

    def both_s(operation: str, element: float, layer: tuple[float, float]) -> float:
        return sum(
            collected_s(operation, element * count, group) for count, group in zip(layer, (dense, expert), strict=True)
        )

    layers: Any = HELD.layers
    assert gathers == pytest.approx([both_s("all_gather", 2.0, layer) for layer in layers])
    assert reduces == pytest.approx([both_s("reduce_scatter", 4.0, layer) for layer in reversed(layers)])
    once = replace(plan, sharding="optimizer")
    gathers, reduces = gather_and_reduce(HELD, once, groups, GPUS, whole=True)
    assert gathers == pytest.approx([both_s("all_gather", 2.0, (9e8, 2.1e9))])
    assert reduces == pytest.approx([both_s("reduce_scatter", 4.0, (9e8, 2.1e9))])
    gathers, reduces = gather_and_reduce(HELD, replace(plan, sharding="none"), groups, GPUS, whole=True)
    assert gathers == (0.0,)
    assert reduces == pytest.approx([both_s("all_reduce", 4.0, (9e8, 2.1e9))])


def test_buckets_close_at_forty_million_parameters_or_a_million_a_rank() -> None:
    """30 + 9 million are fewer than 40, one more fills the bucket; of 64 ranks all go into one of 64 million."""
    layers = [(30e6, 0.0), (5e6, 4e6), (1e6, 0.0), (2.0, 1.0)]
    plan = replace(PLAN, sharding="optimizer")
    few = {"dense": Group(8.0, 8.0), "expert": Group(8.0, 8.0)}
    many = {"dense": Group(64.0, 8.0), "expert": Group(64.0, 8.0)}
    assert buckets(layers, plan, few) == [(36e6, 4e6), (2.0, 1.0)]
    assert buckets(layers, plan, many) == [(36e6 + 2, 4e6 + 1)]
    assert buckets([(50e6, 0.0), (14e6, 0.0), (1.0, 0.0)], plan, many) == [(64e6, 0.0), (1.0, 0.0)]
    assert buckets(layers, PLAN, many) == layers


def test_a_release_may_set_its_own_buckets() -> None:
    """Layers of 30 + 9 and 1 million fill a bucket of 35 million after the second layer."""
    layers = [(30e6, 0.0), (5e6, 4e6), (1e6, 0.0)]
    own = replace(PLAN, sharding="optimizer", stack=stack_of(bucket_parameters=35e6))
    groups = {"dense": Group(64.0, 8.0), "expert": Group(64.0, 8.0)}
    assert buckets(layers, own, groups) == [(35e6, 4e6), (1e6, 0.0)]


def test_a_model_without_experts_waits_for_no_expert_group() -> None:
    """Not even the latency of an empty collective over the ranks that would share experts."""
    plan = replace(PLAN, sharding="optimizer")
    groups = shard_groups(plan, GPUS)
    dense = StageParameters(9e8, 0.0, ((9e8, 0.0),))
    gathers, reduces = gather_and_reduce(dense, plan, groups, GPUS, whole=True)
    assert gathers == (collected_s("all_gather", 2 * 9e8, groups["dense"]),)
    assert reduces == (collected_s("reduce_scatter", 4 * 9e8, groups["dense"]),)


def test_prediction_modules_away_from_the_embedding_sum_its_gradient_up() -> None:
    """The last stage's copy of a 32,000 x 1,024 table in fp32, all-reduced with the first stage's; DualPipe holds both
    stages on the same ranks."""
    plan = Plan(dp=32, pp=2, micro_batch_size=1, global_batch_size=256, sharding="optimizer", schedule="1f1b")
    predicting = replace(EXPERTS, layers=EXPERTS.layers * 4, mtp=EXPERTS.layers)
    plain = replace(predicting, mtp=())

    def barrier_s(model: Model, chosen: Plan) -> float:
        return update_times(workload_of(model, chosen, 1024), GPUS, NEUTRAL).barrier_s

    table_s = collected_s("all_reduce", 32000 * 1024 * 4.0, strided_group(GPUS, 2, 32))
    assert barrier_s(predicting, plan) - barrier_s(plain, plan) == pytest.approx(table_s)
    both_ends = replace(plan, schedule="dualpipe")
    assert barrier_s(predicting, both_ends) == barrier_s(plain, both_ends)


def test_hybrid_sharding_reduces_on_two_levels() -> None:
    """1e9 gradients of 4 bytes: scattered over 16 ranks on two servers, and a sixteenth of them summed up over the
    4 groups, one rank of each; the second level of 8 ranks to a group has 8."""
    group = strided_group(GPUS, 64)
    plan = replace(PLAN, shard_group=16)
    inside, across = Group(16, 8, group.tier, group.domains_per_block), Group(4.0, 1, group.tier)
    assert sharded_over(group, plan) == inside
    assert across_shards(group, inside) == across
    expected = collected_s("reduce_scatter", 4e9, inside) + collected_s("all_reduce", 4e9 / 16, across)
    assert reduce_s(1e9, group, plan, GPUS) == pytest.approx(expected)
    server = sharded_over(group, replace(PLAN, shard_group=8))
    assert (server.ranks, server.ranks_per_domain, across_shards(group, server).ranks) == (8, 8, 8)
    assert sharded_over(group, replace(PLAN, shard_group=4)).ranks_per_domain == 4
    assert sharded_over(group, replace(PLAN, shard_group=64)) is group
    whole_s = collected_s("reduce_scatter", 4e9, group)
    assert reduce_s(1e9, group, replace(PLAN, shard_group=64), GPUS) == pytest.approx(whole_s)


def test_muon_reduces_to_shards_where_gradients_are_sharded() -> None:
    muon = replace(PLAN, sharding="optimizer", optimizer=Optimizer(kind="muon"))
    assert [reduces_whole(replace(muon, sharding=each)) for each in ("none", "optimizer", "optimizer_gradients")] == [
        True,
        True,
        False,
    ]


# ---- updates


def test_the_update_streams_the_shard_and_zeroes_the_buffer() -> None:
    """Of 1e9 dense parameters over 64 ranks and 2e9 of experts over 8: what is added to either adds up."""
    groups = shard_groups(replace(PLAN, ep=8), GPUS)
    plan = replace(PLAN, ep=8, sharding="optimizer")
    held = StageParameters(1e9, 2e9, ((1e9, 2e9),))
    rate = GPUS.accelerator.memory_bandwidth_bytes_per_s
    found = optimizer_s(held, plan, groups, GPUS)
    less = optimizer_s(StageParameters(1e9, 1e9, ((1e9, 1e9),)), plan, groups, GPUS)
    achieved = (1e9 / 8 * 42 + 4e9) / (found - less)
    assert 0.5 * rate < achieved < rate
    assert (1e9 / 64 * 42 + 2e9 / 8 * 42 + 12e9) / achieved == pytest.approx(found, rel=1e-3)


def test_what_the_host_updates_the_gpu_does_not() -> None:
    """A quarter of the state: 3 x 4 bytes of gradients and 3/4 of 30 of the update for each of an eighth of 1e9."""
    gpus = cluster(8, "hgx-h100", "none")
    plan = replace(PLAN, dp=8, sharding="optimizer", offload=Offload(optimizer_fraction=0.25))
    groups = shard_groups(plan, gpus)
    found = optimizer_s(StageParameters(1e9, 0.0, ((1e9, 0.0),)), plan, groups, gpus)
    on_gpu_s = streaming_s(gpus.accelerator, 1e9 / 8 * (12 + 0.75 * 30) + 4e9, "optimizer")
    assert found == pytest.approx(on_gpu_s + host_update_s(1e9 / 8, plan, gpus))


def test_newton_schulz_runs_five_times_on_each_matrix() -> None:
    """qkv 1024 x 3072, out 1024 x 1024 and router 16 x 1024 dealt to 8 ranks; 4 experts' 1024 x 1024 and 512 x 1024 to
    the 2 ranks that hold them; r x c: two products of r r c and one of r r r, each five times."""
    gpus = cluster(8, "hgx-h100", "none")
    plan = Plan(dp=8, ep=4, micro_batch_size=1, global_batch_size=8, optimizer=Optimizer(kind="muon"))
    products = OPTIMIZERS["muon"].products
    assert products is not None

    def iteration_s(r: int, c: int) -> float:
        return float(2 * gemm_s(gpus.accelerator, "bf16", r, r, c) + gemm_s(gpus.accelerator, "bf16", r, r, r))

    dense_s = iteration_s(1024, 3072) + iteration_s(1024, 1024) + iteration_s(16, 1024)
    experts_s = 4 * (iteration_s(1024, 1024) + iteration_s(512, 1024))
    (stage,) = stages(EXPERTS, plan)
    found = matrix_products_s(EXPERTS, stage, plan, products, gpus)
    assert found == pytest.approx(5 * (dense_s / 8 + experts_s / 2))
    alone = matrix_products_s(EXPERTS, stage, replace(plan, sharding="none"), products, gpus)
    assert alone == pytest.approx(5 * (dense_s + experts_s))
    # All of it once a step, beside the elementwise update.
    workload = workload_of(EXPERTS, plan, 1024)
    update_s = optimizer_s(workload.parameters[0], plan, shard_groups(plan, gpus), gpus)
    assert update_times(workload, gpus, NEUTRAL).optimizer_s == pytest.approx((update_s + found,))


def test_lamb_sums_two_norms_of_each_matrix() -> None:
    """Three dense matrices over 8 ranks; two of each of 4 experts over 2; numbers of 4 bytes, one all-reduce each."""
    gpus = cluster(8, "hgx-h100", "none")
    plan = Plan(dp=8, ep=4, micro_batch_size=1, global_batch_size=8, optimizer=Optimizer(kind="lamb"))
    (stage,) = stages(EXPERTS, plan)
    groups = shard_groups(plan, gpus)
    dense_s = collective_s("all_reduce", 4 * 2 * 3, strided_group(gpus, 8), gpus).seconds
    experts_s = collective_s("all_reduce", 4 * 2 * 2 * 4, strided_group(gpus, 2, 4), gpus).seconds
    found = shared_numbers_s(EXPERTS, stage, plan, groups, gpus)
    assert found == pytest.approx(dense_s + experts_s)
    workload = workload_of(EXPERTS, plan, 1024)
    update_s = optimizer_s(workload.parameters[0], plan, groups, gpus)
    assert update_times(workload, gpus, NEUTRAL).optimizer_s == pytest.approx((update_s + found,))


def test_collectives_of_data_parallelism_have_their_own_rate() -> None:
    """First stage in buckets, later ones whole; a norm of 4 bytes over all GPUs."""
    plan = Plan(dp=32, pp=2, micro_batch_size=1, global_batch_size=64, sharding="optimizer", schedule="1f1b")
    workload = workload_of(LLAMA, plan, 1024)
    full, half = (update_times(workload, GPUS, replace(NEUTRAL, dp_rate=rate)) for rate in (1.0, 0.5))
    assert [len(row) for row in full.gather_s] == [
        len(buckets(workload.parameters[0].layers, plan, shard_groups(plan, GPUS))),
        1,
    ]
    for name in ("gather_s", "reduce_s"):
        slow, fast = getattr(half, name), getattr(full, name)
        assert [list(row) for row in slow] == [pytest.approx([2 * seconds for seconds in row]) for row in fast]
    assert full.barrier_s == half.barrier_s == collected_s("all_reduce", 4.0, strided_group(GPUS, 64))


def test_collectives_inside_a_node_keep_all_of_their_bandwidth() -> None:
    """Eight ranks of one node against 16 on two, whose bytes take twice as long at half the rate."""
    plan = Plan(dp=8, micro_batch_size=1, global_batch_size=64, sharding="optimizer")

    def seconds(chosen: Plan, gpus: int, rate: float) -> tuple[tuple[float, ...], ...]:
        where = cluster(gpus, "hgx-h100", "ndr-rail-2tier")
        return update_times(workload_of(LLAMA, chosen, 1024), where, replace(NEUTRAL, dp_rate=rate)).reduce_s

    assert seconds(plan, 8, 0.5) == seconds(plan, 8, 1.0)
    across = replace(plan, dp=16)
    assert seconds(across, 16, 0.5)[0] == pytest.approx([2 * each for each in seconds(across, 16, 1.0)[0]])


def test_lists_are_sliced_matrix_by_matrix_for_every_rank() -> None:
    """4 matrices of a dense layer (qkv, out, fc1, fc2) x 64 ranks x 1 us, for gathers and for reductions."""
    plan = replace(PLAN, stack=ZERO3_2021)
    workload = workload_of(LLAMA, plan, 1024)
    idle, busy = (update_times(workload, GPUS, replace(NEUTRAL, host_s_per_kernel=seconds)) for seconds in (0.0, 1e-6))
    for name in ("gather_s", "reduce_s"):
        more = np.subtract(getattr(busy, name)[0], getattr(idle, name)[0])
        assert more == pytest.approx(np.full(6, 4 * 64 * 1e-6))


# ---- beside computing


@pytest.mark.parametrize(
    ("changes", "lost"),
    [
        ({}, (3, 3 + 7, 0)),  # gathers of 1 and 2 s beside 10 s of forward; them and reductions of 3 and 4 s backward
        ({"pp": 2, "schedule": "1f1b"}, (2, 2 + 3, 0)),  # without a slot's first gather and last reduction
        ({"pp": 2, "schedule": "zb-h1"}, (2, 2, 3)),
        ({"overlap": Overlap(param_gather=False)}, (0, 7, 0)),
        ({"overlap": Overlap(grad_reduce=False)}, (3, 3, 0)),
        ({"sharding": "optimizer"}, (0, 0, 0)),
    ],
)
def test_computing_stands_still_beside_collectives(changes: dict[str, Any], lost: tuple[float, ...]) -> None:
    stage = StageCost((), Seconds(compute_s=10.0), Seconds(compute_s=20.0), Seconds(compute_s=5.0), {}, 0.0)
    updates = UpdateTimes(((1.0, 2.0),), ((3.0, 4.0),), (0.0,), 0.0)
    (found,) = with_lost([stage], updates, replace(PLAN, **changes), replace(NEUTRAL, lost_beside_dp=0.5))
    seconds = [part.compute_s for part in (found.lost.forward, found.lost.input, found.lost.weight)]
    assert seconds == [each / 2 for each in lost]
    assert found.forward.total_s == 10 + lost[0] / 2
    (free,) = with_lost([stage], updates, PLAN, NEUTRAL)
    assert free.forward.total_s == 10


def test_no_more_is_lost_than_there_is() -> None:
    stage = StageCost((), Seconds(compute_s=10.0), Seconds(compute_s=20.0), Seconds(compute_s=5.0), {}, 0.0)
    updates = UpdateTimes(((30.0, 30.0),), ((30.0, 30.0),), (0.0,), 0.0)
    constants = replace(NEUTRAL, lost_beside_dp=0.5)
    (whole,) = with_lost([stage], updates, PLAN, constants)
    assert (whole.lost.forward.compute_s, whole.lost.input.compute_s) == (5.0, 12.5)
    (split,) = with_lost([stage], updates, replace(PLAN, pp=2, schedule="zb-h1"), constants)
    assert (split.lost.input.compute_s, split.lost.weight.compute_s) == (10.0, 2.5)


def test_what_two_streams_keep_of_their_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """DeepEP's 20 of 132 SMs, and 52 of 80 ms; or as a profile measured it, never more than all."""
    plan = replace(PLAN, dispatcher="deepep")
    assert shares_beside(plan, GPUS) == pytest.approx((112 / 132, 52 / 80))
    for measured, kept in (((1.25, 2.0), (0.8, 0.5)), ((0.9, 0.8), (1.0, 1.0))):
        slowed = dict(zip(("compute", "communication"), measured, strict=True))
        monkeypatch.setattr(step_times, "tables_of", lambda path, slowed=slowed: {"contention": slowed})
        assert shares_beside(plan, GPUS) == kept


@pytest.mark.parametrize(
    ("changes", "sent", "gathered"),
    [
        ({"tp": 8, "sequence_parallel": True}, 1 / 8, 0.0),
        ({"tp": 8}, 1 / 8, 1.0),
        ({"tp": 8, "stack": stack_of(pipeline_sends="whole")}, 1.0, 0.0),
        ({"tp": 1, "dp": 32}, 1.0, 0.0),
    ],
)
def test_activations_between_stages(changes: dict[str, Any], sent: float, gathered: float) -> None:
    """8192 tokens 4096 wide in 16 bit: whole, or in shares that tensor ranks gather again where they arrive."""
    given = {"dp": 4, "pp": 2, "schedule": "1f1b", "stack": stack_of(pipeline_sends="share"), **changes}
    plan = replace(PLAN, sharding="optimizer", **given)
    whole = 8192 * 4096 * 2
    shape = shape_of(LLAMA, plan, 8192)
    assert sent_bytes(shape) == (sent * whole, gathered * whole)
    expected = collected_s("send_recv", sent * whole, strided_group(GPUS, 2, 32))
    if gathered:
        expected += collected_s("all_gather", whole, strided_group(GPUS, 8))
    assert stage_send_s(shape, Prices(GPUS, plan, plan_groups(plan, GPUS))) == pytest.approx(expected)


# ---- traffic


def moved(traffic: dict[Flow, float]) -> dict[tuple[str, str], float]:
    return {(flow.kind, flow.operation): size for flow, size in traffic.items() if size}


def test_bytes_of_a_step_by_level_of_sharding() -> None:
    """Four micro-batches: full sharding gathers twice for each and reduces after each; otherwise both once."""
    plan = replace(PLAN, ep=8)
    groups = shard_groups(plan, GPUS)
    full = moved(update_traffic(HELD, plan, groups, GPUS, whole=False))
    assert full == pytest.approx({
        ("dense", "all_gather"): 8 * 2 * 9e8, ("expert", "all_gather"): 8 * 2 * 2.1e9,
        ("dense", "reduce_scatter"): 4 * 4 * 9e8, ("expert", "reduce_scatter"): 4 * 4 * 2.1e9,
    })  # fmt: skip
    once = moved(update_traffic(HELD, replace(plan, sharding="optimizer"), groups, GPUS, whole=True))
    assert once == pytest.approx({flow: size / (8 if "gather" in flow[1] else 4) for flow, size in full.items()})
    alone = moved(update_traffic(HELD, replace(plan, sharding="none"), groups, GPUS, whole=True))
    assert alone == pytest.approx({("dense", "all_reduce"): 4 * 9e8, ("expert", "all_reduce"): 4 * 2.1e9})
    muon = replace(plan, sharding="optimizer", shard_group=16, optimizer=Optimizer(kind="muon"))
    dense = {
        key: size for key, size in moved(update_traffic(HELD, muon, groups, GPUS, True)).items() if "dense" in key[0]
    }
    assert dense == pytest.approx({("dense", "all_reduce"): 4 * 9e8, ("dense-shards", "all_gather"): 2 * 9e8})


def test_bytes_of_hybrid_sharding() -> None:
    """Dense gradients scattered inside 16 ranks, a sixteenth summed up across; experts' 8 ranks shard among all."""
    plan = replace(PLAN, ep=8, shard_group=16, sharding="optimizer")
    found = moved(update_traffic(HELD, plan, shard_groups(plan, GPUS), GPUS, whole=True))
    assert found == pytest.approx({
        ("dense-shards", "reduce_scatter"): 4 * 9e8, ("dense-shards", "all_gather"): 2 * 9e8,
        ("dense-replicas", "all_reduce"): 4 * 9e8 / 16,
        ("expert", "reduce_scatter"): 4 * 2.1e9, ("expert", "all_gather"): 2 * 2.1e9,
    })  # fmt: skip


def test_who_shares_a_level() -> None:
    plan = Plan(dp=4, micro_batch_size=1, global_batch_size=4, shard_group=2)
    assert ranks_of("dense", plan).tolist() == [[0, 1, 2, 3]]
    assert ranks_of("dense-shards", plan).tolist() == [[0, 1], [2, 3]]
    assert ranks_of("dense-replicas", plan).tolist() == [[0, 2], [1, 3]]
    mirrored = Plan(dp=2, pp=4, micro_batch_size=1, global_batch_size=16, schedule="dualpipe")
    assert ranks_of("dense", mirrored).tolist() == [[0, 1, 6, 7], [2, 3, 4, 5]]
    assert ranks_of("tp", mirrored).tolist() == [[rank] for rank in range(8)]


@pytest.mark.parametrize(
    ("dispatcher", "operations", "copies"),
    [("alltoall", ("all_to_all", "all_to_all"), 8), ("allgather", ("all_gather", "reduce_scatter"), 64)],
)
def test_bytes_of_routed_tokens(dispatcher: str, operations: tuple[str, str], copies: int) -> None:
    """4096 tokens 7168 wide in 16 bit to 8 experts each, or to all 64 ranks; in even routing, or padded to capacity."""
    plan = replace(PLAN, ep=64, dispatcher=dispatcher, expert_imbalance=3.0)
    group = plan_groups(plan, GPUS)["ep"]
    whole = 4096 * 7168 * 2 * copies
    for name, backward, operation in (
        ("dispatch", False, operations[0]), ("dispatch", True, operations[1]),
        ("combine", False, operations[1]), ("combine", True, operations[0]),
    ):  # fmt: skip
        op = Routing(name, 4096, 7168, 8, 256, 1, 1, fp8=False)  # type: ignore[arg-type]
        found = moved(routing_traffic(op, backward, 3, plan, group, GPUS))
        assert found == pytest.approx({("ep", operation): 3 * whole})
        padded = moved(routing_traffic(op, backward, 3, replace(plan, capacity_factor=1.5), group, GPUS))
        assert padded == pytest.approx({("ep", operation): 4.5 * whole})
    assert routing_traffic(op, False, 1, plan, Group(1, 1), GPUS) == {}


def test_bytes_of_kernels_that_send_one_copy_to_each_domain() -> None:
    """Three times what leaves a rank over its NIC and inside its server, out and home."""
    plan = replace(PLAN, ep=64, dispatcher="deepep", expert_imbalance=3.0)
    group, moves = plan_groups(plan, GPUS)["ep"], ExpertExchange(4096, 7168, 256, 8)
    op = Routing("dispatch", 4096, 7168, 8, 256, 1, 1, fp8=True)
    for backward, sent in (
        (False, dispatch_s(moves, group, GPUS, "deepep", True)), (True, combine_s(moves, group, GPUS, "deepep")),
    ):  # fmt: skip
        found = {flow.inside: size for flow, size in routing_traffic(op, backward, 3, plan, group, GPUS).items()}
        assert found == pytest.approx({False: 3 * sent.network_bytes, True: 3 * sent.scale_up_bytes})


def test_bytes_of_half_a_layer() -> None:
    """Forward, backward and what is gathered again; twice forward where the layer is recomputed."""
    op = Exchange("in", "tp", "all_gather", "reduce_scatter", 3e6, 5e6, 7e6)
    split = Exchange("experts", "etp", "all_gather", None, 2e6, 5e6)
    work = Work((op, split), ())
    plan = Plan(dp=8, tp=8, etp=8, micro_batch_size=1, global_batch_size=8)
    groups = plan_groups(plan, GPUS)
    once = work_traffic(work, plan, groups, GPUS, whole_layer=True)
    assert moved(once) == {("tp", "all_gather"): 10e6, ("tp", "reduce_scatter"): 5e6, ("etp", "all_gather"): 2e6}
    assert {flow.cause for flow in once} == {"tp"}
    again = work_traffic(work, replace(plan, recompute=Recompute("full")), groups, GPUS, whole_layer=True)
    assert moved(again) == {("tp", "all_gather"): 13e6, ("tp", "reduce_scatter"): 5e6, ("etp", "all_gather"): 4e6}
    for nothing in ((None, 1e6, groups["tp"]), ("all_gather", 0.0, groups["tp"]), ("all_gather", 1e6, Group(1, 1))):
        operation, size, group = nothing
        assert collective_traffic("tp", "tp", operation, size, 1, group, GPUS) == {}
    (flow,) = collective_traffic("tp", "tp", "all_gather", 1e9, 2, groups["tp"], GPUS)
    assert flow.algorithm == collective_s("all_gather", 1e9, groups["tp"], GPUS).algorithm


def test_experts_of_mirrored_pipelines_reduce_past_the_ranks_that_share_them() -> None:
    """64 GPUs, two directions of two stages, experts over 8: the 8 ranks with the same experts lie 8 apart, so each
    in a node of its own; 16 with tensor ranks of 4 for attention lie 4 apart, two in a node."""
    plan = Plan(tp=4, pp=2, dp=8, ep=8, micro_batch_size=1, global_batch_size=64, schedule="dualpipe")
    found = shard_groups(plan, GPUS)
    assert found["expert"] == strided_group(GPUS, 8, 8)
    assert found["dense"] == strided_group(GPUS, 16, 4)


def test_what_collectives_take_from_computing_waits_with_what_waits_already() -> None:
    """A step's gather after the first (2 s) and reduction before the last (4 s) stand beside computing; half of their
    6 seconds is lost, before an optimizer that waits a second already."""
    stage = StageCost((), Seconds(compute_s=10.0), Seconds(compute_s=20.0), Seconds(compute_s=5.0), {}, 0.0)
    updates = UpdateTimes(((1.0, 2.0),), ((4.0, 3.0),), (0.0,), 1.0)
    plan = replace(PLAN, sharding="optimizer")
    found = with_contention(updates, [stage], plan, replace(NEUTRAL, lost_beside_dp=0.5))
    assert found.barrier_s == 1.0 + 0.5 * (2.0 + 4.0)


def test_matrices_travel_through_lists_with_a_copy_of_their_bytes() -> None:
    """Zeroed, written and read: three times a layer's 16-bit parameters; gathered half as often again with full
    recomputation."""
    plan = replace(PLAN, stack=ZERO3_2021, sharding="full", recompute=Recompute("full"))
    layers = [(1e8, 0.0), (2e8, 1e8)]
    copied = [float(streaming_s(GPUS.accelerator, 3 * 2 * size, "copy")) for size in (1e8, 3e8)]
    gathers, reduces = with_lists(((1.0, 2.0), (3.0, 4.0)), layers, 0.25, plan, GPUS)
    assert gathers == pytest.approx([1.5 * (1.0 + 0.25 + copied[0]), 1.5 * (2.0 + 0.25 + copied[1])])
    assert reduces == pytest.approx([3.0 + 0.25 + copied[1], 4.0 + 0.25 + copied[0]])
