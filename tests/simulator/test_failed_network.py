"""Broken links, rails and spines: the step without them, and the run in which they break and are repaired."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from hardware import catalogue
from hardware.collectives import collective_s, strided_group
from hardware.collectives.links import links_of
from hardware.problems import InputError
from hardware.specs import Cluster, Failed
from simulator.predict.prediction import Prediction, evaluate
from simulator.predict.run_spec import whole_run_spec
from simulator.predict.simulate import simulate
from simulator.run.durations import fixed
from simulator.run.faults import FailureModel, FaultClass, Machines
from simulator.run.montecarlo import simulate as simulate_run
from simulator.scenario.schema import load_scenario
from tests.simulator.run_specs import quiet

SCENARIOS = Path(__file__).parents[2] / "scenarios"
RAILS = ("cluster.gpus=64", "cluster.fabric=ndr-rail-2tier", "plan.global_batch_size=256", "plan.pp=1", "plan.ep=16")
SWITCHES = (
    "run.failures={exposure: {gpus: 64, time: 1 d}, "
    "classes: {switch: {kind: slow, scope: SCOPE, count: 2, lasts: 6 h}}}"
)


def cluster(failed: Failed, fabric: str = "ndr-rail-2tier", gpus: int = 256) -> Cluster:
    return replace(catalogue.cluster(gpus, "hgx-h100", fabric), failed=failed)


def predicted(*overrides: str) -> Prediction:
    return evaluate(load_scenario(SCENARIOS / "tiny.yaml", [*RAILS, *overrides]))


@pytest.mark.parametrize(
    ("lost", "own", "share"),
    [
        (0, 8, 1.0),
        (1, 8, 7 / 8),  # eight GPUs share seven NICs
        (1, 4, 3 / 4),
        (1, 1, 1 / 2),  # alone in its group: it doubles up with a neighbour
        (2, 1, 1 / 2),  # eight GPUs on six NICs: no NIC carries three
        (5, 1, 1 / 3),
        (5, 8, 3 / 8),
        (1, 72, 7 / 8),  # a domain of several servers
    ],
)
def test_gpus_without_a_nic_share_those_that_are_left(lost: int, own: int, share: float) -> None:
    links = links_of(cluster(Failed(rails=lost)))
    assert links.surviving_fraction(own) == pytest.approx(share)


def test_a_link_slows_as_much_as_its_rail_for_whoever_it_belongs_to() -> None:
    link, rail = links_of(cluster(Failed(links=3))), links_of(cluster(Failed(rails=1)))
    assert link.surviving_fraction(8) == rail.surviving_fraction(8) == 7 / 8


def test_large_reductions_take_as_much_longer_as_bandwidth_is_lost() -> None:
    seconds = []
    for failed in (Failed(), Failed(rails=1), Failed(rails=4)):
        broken = cluster(failed)
        group = strided_group(broken, 256)
        seconds.append(float(collective_s("reduce_scatter", 64e9, group, broken).seconds))
    assert seconds[1] / seconds[0] == pytest.approx(8 / 7, rel=0.02)
    assert seconds[2] / seconds[0] == pytest.approx(2, rel=0.02)


def test_half_of_the_spines_carry_half() -> None:
    """All-to-all over 8 leaves of 32 GPUs: 224 of 255 peers are beyond the leaf, through half of its 32 uplinks."""
    whole, half = (links_of(cluster(Failed(spines=lost), "clos-400g-2tier")) for lost in (0, 16))
    assert whole.tier_oversubscription == (1.0, 1.0)
    assert half.tier_oversubscription == (1.0, 2.0)


def test_more_broken_parts_slow_the_step_more_and_leave_its_memory() -> None:
    found = [predicted("run.failures=none", f"cluster.failed.rails={rails}") for rails in (0, 1, 4, 7)]
    for less, more in pairwise(found):
        assert more.step_time_s > less.step_time_s
        assert more.training_time_s > less.training_time_s
        assert more.run is not None
        assert less.run is not None
        assert more.run.cost_usd > less.run.cost_usd
        assert more.peak_memory_bytes == less.peak_memory_bytes
    capacity = [use.capacity_bytes_per_s for use in (found[0].network.classes[1], found[2].network.classes[1])]
    assert capacity[1] == pytest.approx(capacity[0] / 2)
    assert found[1].stated[0].text == "the job goes on without 1 of its rails"


@pytest.mark.parametrize("scope", ["link", "rail"])
def test_a_run_is_slow_by_the_step_without_the_part(scope: str) -> None:
    """The speed of the class is that of the steps with and without the part, each simulated by itself."""
    done = simulate(load_scenario(SCENARIOS / "tiny.yaml", [*RAILS, SWITCHES.replace("SCOPE", scope)]))
    broken = predicted("run.failures=none", f"cluster.failed.{scope}s=1")
    spec = whole_run_spec(done)
    assert spec is not None
    assert spec.failures.classes[0].speed == pytest.approx(done.step.step_time_s / broken.step_time_s)
    assert spec.failures.classes[0].speed < 0.96


def test_a_broken_rail_slows_the_job_until_it_is_repaired() -> None:
    """One break a day for an hour at 80 %: 12 min lost a day; no node is replaced, nothing stops."""
    spec = quiet(days=20, policy="none", every_s=None)
    rail = FaultClass("rail", "slow", 1 / 86400 / 2048, "rail", fixed(float("inf")), None, None, fixed(3600.0), 0.8)
    runs = replace(spec.simulation, runs=100)
    result = simulate_run(replace(spec, failures=FailureModel("rails", (rail,)), simulation=runs))
    assert result.interruptions == {}
    assert result.lost_s["slow"] == pytest.approx(20 * 720, rel=0.06)
    assert sum(result.lost_s.values()) == pytest.approx(result.lost_s["slow"])


def test_a_leaf_switch_takes_the_servers_below_it() -> None:
    machines = Machines(64, 0, 8, nodes_per_rack=2, nodes_per_pod=4)
    assert [machines.breadth(scope) for scope in ("switch", "link", "rail", "spine")] == [4, 1, 0, 0]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["cluster.failed.rails=8"], "leaves servers of 8 GPUs without a NIC. Write less than 8"),
        (["cluster.failed.spines=32"], "leaves no uplink of the 32 that each leaf has. Write less than 32"),
        (["cluster.failed.links=9"], "each on a server of its own, and there are 8"),
        (["cluster.failed.rails=1", "cluster.fabric=clos-400g-2tier"], "has no rails: its leaves take whole servers"),
        (["cluster.failed.spines=1", "cluster.fabric=single-switch"], "has no switches above its leaves"),
        ([SWITCHES.replace("SCOPE", "rail"), "cluster.fabric=clos-400g-2tier"], "classes.switch.scope: rail: is 1"),
        ([SWITCHES.replace("SCOPE", "rail").replace("slow", "crash")], "rail belongs to kind slow, not crash"),
        ([SWITCHES.replace("SCOPE", "switch").replace("slow", "crash")], "leaves of ndr-rail-2tier join rails"),
        ([SWITCHES.replace("lasts", "speed: 50%, lasts").replace("SCOPE", "link")], "whose speed is simulated"),
    ],
)
def test_parts_that_are_not_there_cannot_break(overrides: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_scenario(SCENARIOS / "tiny.yaml", [*RAILS, *overrides])
