"""Costs of blocks, layers and stages: identities, bounds, and DeepSeek's published profile of one overlapped pair."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from simulator.cost.blocks import BlockCost, block_cost
from simulator.cost.constants import NEUTRAL
from simulator.cost.groups import plan_groups
from simulator.cost.layers import LayerCost, forward, input_gradient, pair, slowing, weight_gradient
from simulator.cost.price import Prices
from simulator.cost.seconds import Seconds
from simulator.cost.stages import forward_wait_s
from simulator.cost.step_times import pair_seconds, slot_times, update_times
from simulator.plans.spec import Overlap, Plan, Recompute
from simulator.scenario.schema import Scenario
from simulator.workload.derive import workload_of
from simulator.workload.ffns import ffn_work
from simulator.workload.mixers import mixer_work
from simulator.workload.shape import shape_of


def layer_cost(scenario: Scenario, **changes: object) -> LayerCost:
    """One MoE layer of the scenario under a changed plan."""
    plan = replace(scenario.plan, **changes)  # type: ignore[arg-type]
    shape = shape_of(scenario.model, plan, scenario.run.seq_length)
    prices = Prices(scenario.cluster, plan, plan_groups(plan, scenario.cluster))
    layer = scenario.model.layers[-1]
    assert layer.mixer
    assert layer.ffn
    return LayerCost(
        block_cost(mixer_work(layer.mixer, shape), prices, plan.recompute.granularity == "full"),
        block_cost(ffn_work(layer.ffn, shape), prices, plan.recompute.granularity == "full"),
    )


def test_seconds_add_up() -> None:
    left, right = Seconds(1.0, 2.0, 3.0, 4.0, 5.0), Seconds(compute_s=0.5)
    assert (left + right).total_s == 15.5
    assert (left * 2).by_cause() == {"compute": 2.0, "tp": 4.0, "cp": 6.0, "ep": 8.0, "host": 10.0}


def test_no_group_no_traffic(deepseek: Scenario) -> None:
    cost = layer_cost(deepseek, ep=1)
    done = forward(cost, deepseek.plan)
    assert (done.tp_s, done.cp_s, done.ep_s) == (0.0, 0.0, 0.0)
    assert layer_cost(deepseek).ffn.routing_forward.total_s > 0


def test_full_recompute_adds_one_forward(deepseek: Scenario) -> None:
    plain = layer_cost(deepseek, recompute=Recompute())
    again = layer_cost(deepseek, recompute=Recompute("full"))
    plan = deepseek.plan
    added = input_gradient(again, plan).total_s - input_gradient(plain, plan).total_s
    assert added == pytest.approx(forward(plain, plan).total_s)
    assert weight_gradient(again).total_s == weight_gradient(plain).total_s


def test_pair_is_between_its_bounds(deepseek: Scenario) -> None:
    """At least the computing and at least the traffic of both halves; at most one after the other."""
    cost, plan = layer_cost(deepseek), deepseek.plan
    together = pair(cost, cost).total_s
    computing = cost.mixer.forward + cost.mixer.input + cost.mixer.weight
    computing = computing + cost.ffn.forward + cost.ffn.input + cost.ffn.weight
    traffic = cost.ffn.routing_forward.total_s + cost.ffn.routing_backward.total_s
    serial = forward(cost, plan) + input_gradient(cost, plan) + weight_gradient(cost)
    assert max(computing.total_s, traffic) * (1 - 1e-12) <= together <= serial.total_s * (1 + 1e-12)


def test_tp_overlap_leaves_the_last_chunk(deepseek: Scenario) -> None:
    from simulator.cost.blocks import exposed_tp_s

    plan = replace(deepseek.plan, overlap=Overlap(tp_comm=True))
    assert exposed_tp_s(1.0, 10.0, plan) == 0.25
    assert exposed_tp_s(1.0, 0.5, plan) == 0.5
    assert exposed_tp_s(1.0, 10.0, deepseek.plan) == 1.0


def test_shared_expert_hides_traffic(deepseek: Scenario) -> None:
    cost = layer_cost(deepseek)
    hidden = replace(deepseek.plan, overlap=Overlap(shared_experts=True))
    saved = forward(cost, deepseek.plan).ep_s - forward(cost, hidden).ep_s
    assert saved == pytest.approx(min(cost.ffn.shared_s[0], cost.ffn.routing_forward.total_s))


def test_imbalance_slows_experts_and_traffic(deepseek: Scenario) -> None:
    even, skewed = layer_cost(deepseek), layer_cost(deepseek, expert_imbalance=1.5)
    assert skewed.ffn.routing_forward.total_s > 1.3 * even.ffn.routing_forward.total_s
    assert skewed.ffn.forward.compute_s > 1.2 * even.ffn.forward.compute_s
    assert skewed.mixer.forward == even.mixer.forward


def test_prices_take_arrays(deepseek: Scenario) -> None:
    """Many plans priced at once cost what each costs alone."""
    sizes = np.array([1, 2, 4])
    many = layer_cost(deepseek, micro_batch_size=sizes)
    for index, size in enumerate(sizes.tolist()):
        one = layer_cost(deepseek, micro_batch_size=size)
        for phase in ("forward", "input", "weight"):
            wide, narrow = getattr(many.ffn, phase).total_s, getattr(one.ffn, phase).total_s
            assert np.broadcast_to(wide, 3)[index] == pytest.approx(narrow)


def test_stages_alike_are_priced_once(deepseek: Scenario) -> None:
    times = slot_times(workload_of(deepseek.model, deepseek.plan, deepseek.run.seq_length), deepseek.cluster)
    assert len({id(stage) for stage in times.stages}) == 3
    assert times.stages[0].forward.total_s < times.stages[1].forward.total_s


def test_updates_of_every_stage(deepseek: Scenario) -> None:
    workload = workload_of(deepseek.model, deepseek.plan, deepseek.run.seq_length)
    times = update_times(workload, deepseek.cluster)
    assert len(times.gather_s) == len(times.reduce_s) == 16
    assert len(times.gather_s[0]) > len(times.gather_s[1]) == 1
    # fp32 gradients of a middle stage pass every GPU's NVLink (200 GB/s) once, and eight of them a NIC (50 GB/s).
    size = 4 * workload.parameters[5].dense
    assert sum(times.reduce_s[5]) > max(size * 255 / 256 / 200e9, size * 31 / 32 / 8 / 50e9)


def test_published_profile_of_an_overlapped_pair(deepseek: Scenario) -> None:
    """DeepSeek's H800 trace of four layers, forward beside backward: 129 ms, of which 124.3 ms computing.

    A profile of seconds, so priced without the clocks that long training sustains. The lone forward of its pipeline
    takes 58 ms (1.13 s over 19.6 slots, arXiv 2505.09343 table 4).
    """
    plan = replace(deepseek.plan, expert_imbalance=1.0)
    times = slot_times(workload_of(deepseek.model, plan, deepseek.run.seq_length), deepseek.cluster, NEUTRAL)
    pairs = pair_seconds(times, plan)
    assert pairs is not None
    # Stages 7 and 8 both hold four MoE layers.
    assert sum(seconds[7, 8] for seconds in pairs.values()) == pytest.approx(0.129, rel=0.08)
    assert pairs["compute"][7, 8] == pytest.approx(0.1243, rel=0.08)
    assert times.stages[7].forward.total_s == pytest.approx(0.058, rel=0.1)


def test_only_what_runs_beside_traffic_is_slowed() -> None:
    """10 s of computing beside 4 s of traffic that leaves it 3/4: one second more. All of it beside: 10 / (3/4)."""
    assert slowing(10.0, 4.0, 0.75) == pytest.approx(1.1)
    assert slowing(10.0, 20.0, 0.75) == pytest.approx(1 / 0.75)


def test_partial_graphs_never_hold_the_experts(deepseek: Scenario) -> None:
    """Shapes behind the dispatch depend on the routing; all before it can be captured."""
    counts = {
        graphs: layer_cost(deepseek, stack=replace(deepseek.plan.stack, cuda_graphs=graphs))
        for graphs in ("none", "router", "partial", "full")
    }
    assert counts["partial"].mixer.forward_kernels == counts["full"].mixer.forward_kernels == 0
    assert counts["router"].mixer.forward_kernels == counts["none"].mixer.forward_kernels > 0
    some, every = counts["partial"].ffn, counts["none"].ffn
    assert 0 < some.forward_kernels == some.waiting_kernels <= every.waiting_kernels < every.forward_kernels
    assert counts["full"].ffn.forward_kernels == counts["full"].ffn.waiting_kernels == 0


def test_the_gpu_waits_behind_a_synchronisation() -> None:
    """1 s of mixer, then the host needs 3 s for experts that compute 2 s: the GPU waits 1 s in every layer."""
    mixer = BlockCost(forward=Seconds(compute_s=1.0), forward_kernels=1)
    experts = BlockCost(forward=Seconds(compute_s=2.0), forward_kernels=30, waiting_kernels=30)
    plan = Plan(dp=1, micro_batch_size=1, global_batch_size=1)
    assert forward_wait_s([LayerCost(mixer, experts)] * 4, plan, 0.1) == pytest.approx(4.0)
    free = LayerCost(mixer, replace(experts, waiting_kernels=0))
    assert forward_wait_s([free] * 4, plan, 0.1) == pytest.approx(4 * 31 * 0.1 - 4 * 3.0)
