"""Offloading: what leaves the GPU, what it costs where nothing hides it, and that every player agrees."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from simulator.cost.offload import HOST_UPDATE_BYTES_PER_S, host_update_s
from simulator.memory.activations import OFFLOADED, stage_kept
from simulator.plans.rules_offload import MODULES
from simulator.plans.spec import Offload
from simulator.predict.simulate import Simulated, scenario_workload, simulate
from simulator.predict.views import memory_over_step
from simulator.scenario.resolved import scenario_yaml
from simulator.scenario.schema import Scenario, load_scenario
from simulator.step.layer_programs import Programs, grid_of
from simulator.step.ranks import simulate_ranks
from simulator.step.spread import Spread

SCENARIOS = Path(__file__).parents[2] / "scenarios"
SOME = Offload(0.5, ("core_attn", "moe_act"))


def scenario(name: str, offload: Offload, host_bytes_per_s: float | None = None) -> Scenario:
    loaded = load_scenario(SCENARIOS / f"{name}.yaml", ["plan.expert_imbalance=forced"])
    part = loaded.cluster.accelerator
    if host_bytes_per_s:
        part = replace(part, host_bandwidth_bytes_per_s=host_bytes_per_s)
    node = replace(loaded.cluster.node, accelerator=part)
    return replace(loaded, plan=replace(loaded.plan, offload=offload), cluster=replace(loaded.cluster, node=node))


def test_modules_are_the_same_in_rules_and_memory() -> None:
    assert set(MODULES) == set(OFFLOADED)


def test_what_leaves_is_gone_and_comes_back() -> None:
    """Half of q, k, v (2 x 2048 tokens, 16 + 2 x 4 heads of 64, 2 bytes) and of the experts' activation inputs."""
    plain, moved = (scenario("tiny", offload) for offload in (Offload(), SOME))
    kept = [stage_kept(scenario_workload(scenario)) for scenario in (plain, moved)]
    qkv = 0.5 * 2 * 2048 * (16 + 2 * 4) * 64 * 2
    # Two of 16 experts per token, balanced over ranks: as many rows as a rank has tokens, times two; gated, width 1024.
    act = 0.5 * 2 * (2 * 2048) * 2 * 2 * 1024
    for stage, (whole, less) in enumerate(zip(*kept, strict=True)):
        experts = 4 - (stage == 0)
        assert less.offloaded == pytest.approx(4 * qkv + experts * act)
        assert less.until_backward + less.offloaded == pytest.approx(whole.until_backward)
        assert whole.working <= less.working <= whole.working + 2 * (qkv + act)  # this layer's and the next one's


@pytest.mark.parametrize("name", ["tiny", "kimi-k2-10240xh100"])
def test_players_agree_and_memory_peaks_where_it_should(name: str) -> None:
    """A host link so slow that nothing hides it; lone slots and overlapped pairs."""
    done = simulate(scenario(name, SOME, 5e9))
    assert done.step.timeline.breakdown()["host"] > 0.05 * done.step.timeline.step_time_s
    programs, plan = Programs(done.step.slots, done.scenario.plan), done.scenario.plan
    grid = grid_of(plan, done.scenario.cluster.node.gpus)
    if grid.gpus < 100:
        found = simulate_ranks(done.step.timeline.graph, done.step.schedule.stage_of_chunk, programs.of, grid, Spread())
        assert found.step_time_s == pytest.approx(done.step.timeline.step_time_s, rel=1e-9)
    for held, over_time in zip(done.memory, memory_over_step(done).values(), strict=True):
        assert over_time.peak()[0] == pytest.approx(held.allocated_bytes, rel=1e-9)


def host_s(done: Simulated) -> float:
    return done.step.timeline.breakdown()["host"]


def test_a_link_hides_behind_compute_until_it_does_not() -> None:
    """Exposed on each way: bytes over bandwidth less the computation beside it, never below none."""
    fast, slow = (simulate(scenario("tiny", SOME, rate)) for rate in (1e15, 1e9))
    plain = simulate(scenario("tiny", Offload()))
    assert host_s(fast) == pytest.approx(host_s(plain))
    for stage, bare, moved in zip(range(2), plain.step.slots.stages, slow.step.slots.stages, strict=True):
        kept = stage_kept(slow.workload)[stage]
        crossing_s = kept.offloaded / 1e9
        busy = replace(bare.forward, host_s=0.0).total_s
        assert moved.forward.total_s == pytest.approx(max(busy, bare.forward.total_s, crossing_s))
        both_s = moved.input.total_s + moved.weight.total_s
        assert both_s == pytest.approx(max(bare.input.total_s + bare.weight.total_s, crossing_s))


def test_optimizer_on_the_host() -> None:
    """Its memory leaves the GPU; gradients, update and parameters follow each other, or overlap."""
    half = replace(Offload(), optimizer_fraction=0.5)
    plain, moved = (simulate(scenario("tiny", offload)) for offload in (Offload(), half))
    for before, after in zip(plain.memory, moved.memory, strict=True):
        assert after.owners["optimizer"] == pytest.approx(before.owners["optimizer"] / 2)
    plan, cluster = moved.scenario.plan, moved.scenario.cluster
    link, cpu = cluster.accelerator.host_bandwidth_bytes_per_s, HOST_UPDATE_BYTES_PER_S / cluster.node.gpus
    parts = (0.5e9 * 4 / link, 0.5e9 * (4 + 24 + 2) / cpu, 0.5e9 * 2 / link)
    assert host_update_s(1e9, plan, cluster) == pytest.approx(sum(parts))
    beside = replace(plan, offload=replace(half, optimizer_overlap=True))
    assert host_update_s(1e9, beside, cluster) == pytest.approx(max(parts))
    on_gpu_s, on_host_s = (each.step.timeline.by_kind()["optimizer"] for each in (plain, moved))
    assert (on_host_s > on_gpu_s).all()


def test_written_back_as_read(tmp_path: Path) -> None:
    words = ["plan.offload.activation=50%", "plan.offload.modules=[core_attn, moe_act]", "plan.offload.optimizer=1"]
    loaded = load_scenario(SCENARIOS / "tiny.yaml", words)
    assert loaded.plan.offload == replace(SOME, optimizer_fraction=1.0)
    (tmp_path / "again.yaml").write_text(scenario_yaml(loaded))
    assert load_scenario(tmp_path / "again.yaml").plan == loaded.plan
