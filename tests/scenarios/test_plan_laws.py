"""Laws that hold for every legal plan, on the drawn plans of the golden file with one setting changed at a time."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from itertools import pairwise

import pytest

from hardware.collectives import collective_s
from hardware.documents import Document
from hardware.problems import Place
from simulator.cost.groups import shard_groups
from simulator.memory.states import state_bytes
from simulator.plans.allocation import allocated
from simulator.plans.rules import check
from simulator.plans.spec import Overlap, Plan
from simulator.predict.prediction import link_use
from simulator.predict.simulate import scenario_workload, simulate, simulate_step
from simulator.scenario.schema import Scenario, read_scenario
from simulator.workload.states import reduces_every_microbatch
from tests.golden.golden import PLANS
from tests.simulator.machines import BETTER

DRAWN = range(0, 300, 6)
FEW = DRAWN[::17]


@cache
def drawn(number: int) -> Scenario:
    written = json.loads(PLANS.read_text(encoding="utf-8").splitlines()[number])
    scenario = read_scenario(Document(written, Place("drawn.yaml")), "drawn")
    return replace(scenario, cluster=allocated(scenario.plan, scenario.cluster))


def is_legal(scenario: Scenario) -> bool:
    return not check(scenario.model, scenario.plan, gpus=scenario.cluster.gpus, seq_length=scenario.run.seq_length)


def with_plan(scenario: Scenario, **changes: object) -> Scenario:
    return replace(scenario, plan=replace(scenario.plan, **changes))  # type: ignore[arg-type]


def check_better_machines(scenario: Scenario) -> None:
    """Whatever is half as good again, the step takes no longer."""
    step_s = simulate_step(scenario).step_time_s
    for what, better in BETTER.items():
        assert simulate_step(better(scenario, 1.5)).step_time_s <= step_s * (1 + 1e-9), what


@pytest.mark.parametrize("number", FEW)
def test_a_better_machine_never_makes_a_step_slower(number: int) -> None:
    check_better_machines(drawn(number))


@pytest.mark.slow
@pytest.mark.parametrize("number", DRAWN)
def test_a_better_machine_makes_no_step_slower(number: int) -> None:
    check_better_machines(drawn(number))


def check_links(scenario: Scenario) -> None:
    """A step that were shorter than its busiest link is busy would be no step."""
    for use in link_use(simulate(scenario)).classes:
        assert use.mean_fraction <= use.busiest_fraction * (1 + 1e-9), use.name
        assert use.busiest_fraction <= 1, use.name


@pytest.mark.parametrize("number", FEW)
def test_no_class_of_links_carries_more_than_it_can(number: int) -> None:
    check_links(drawn(number))


@pytest.mark.slow
@pytest.mark.parametrize("number", DRAWN)
def test_no_link_carries_more_than_it_can(number: int) -> None:
    check_links(drawn(number))


def may_lose(name: str, plan: Plan) -> bool:
    """Where hiding one thing uncovers another, as in reality.

    Pairs take over from the shared expert what it hid without slowing anything, and fill gradients late that are
    reduced after every micro-batch; weight gradients put off no longer hide reductions over tensor ranks.
    """
    if name == "moe_ep":
        return plan.overlap.shared_experts or reduces_every_microbatch(plan) or plan.overlap.delay_wgrad
    return name == "delay_wgrad" and plan.tp > 1


@pytest.mark.slow
@pytest.mark.parametrize("number", DRAWN)
def test_switching_an_overlap_on_never_loses(number: int) -> None:
    scenario = drawn(number)
    for name in Overlap.__dataclass_fields__:
        on, off = (
            with_plan(scenario, overlap=replace(scenario.plan.overlap, **{name: value})) for value in (True, False)
        )
        if is_legal(on) and is_legal(off) and not may_lose(name, on.plan):
            fast_s, slow_s = simulate_step(on).step_time_s, simulate_step(off).step_time_s
            assert fast_s <= slow_s * (1 + 1e-9), name


def states(scenario: Scenario) -> list[dict[str, float]]:
    """Weights, gradients and optimizer state of every virtual stage."""
    return [state_bytes([held], scenario.plan) for held in scenario_workload(scenario).parameters]


@pytest.mark.parametrize("number", DRAWN)
def test_sharding_more_never_keeps_more_of_anything(number: int) -> None:
    """Beside what is gathered for the layer at hand, every state is at most what less sharding keeps."""
    kept = []
    for sharding in ("none", "optimizer", "optimizer_gradients", "full"):
        scenario = with_plan(drawn(number), sharding=sharding)
        owners = ("weights", "gradients", "optimizer", "unsharded gradients")
        kept.append([sum(stage.get(owner, 0.0) for owner in owners) for stage in states(scenario)])
    if drawn(number).plan.stack.sharding_engine == "fsdp2":
        pytest.skip("FSDP2 under a pipeline adds whole gradients up where fewer words shard them")
    for less, more in pairwise(kept):
        assert all(after <= before * (1 + 1e-12) for before, after in zip(less, more, strict=True))


@pytest.mark.parametrize("number", DRAWN)
def test_weights_of_a_gpu_never_rise_with_tensor_ranks(number: int) -> None:
    scenario = drawn(number)
    plan = scenario.plan
    if plan.dp % 2 or plan.ep * plan.etp > plan.dp * plan.cp * plan.tp:
        pytest.skip("an odd number of replicas")
    split = with_plan(scenario, tp=2 * plan.tp, dp=plan.dp // 2, etp=plan.etp, sharding="none")
    whole = with_plan(scenario, sharding="none")
    for before, after in zip(states(whole), states(split), strict=True):
        assert after["weights"] <= before["weights"] * 1.001  # the vocabulary is padded to more ranks


def reduction_s(scenario: Scenario) -> float:
    """Seconds of 1 GB of dense gradients over all replicas."""
    group = shard_groups(scenario.plan, scenario.cluster)["dense"]
    return float(collective_s("all_reduce", 1e9, group, scenario.cluster).seconds)


@pytest.mark.slow
@pytest.mark.parametrize("number", DRAWN)
def test_more_replicas_never_speed_a_gpu_up(number: int) -> None:
    """Twice the replicas with twice the batch: the same work a GPU and no less to reduce, where nothing is sharded."""
    one = with_plan(drawn(number), sharding="none")
    plan = one.plan
    two = with_plan(one, dp=2 * plan.dp, global_batch_size=2 * plan.global_batch_size)
    two = replace(two, cluster=replace(two.cluster, gpus=2 * two.cluster.gpus))
    if not (is_legal(one) and is_legal(two)):
        pytest.skip("not legal without sharding")
    if reduction_s(two) < reduction_s(one):
        pytest.skip("the curves of one server and of several differ by more than the added ranks cost")
    assert simulate_step(two).step_time_s >= simulate_step(one).step_time_s * (1 - 1e-9)
