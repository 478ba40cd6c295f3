"""Terms that join the step to the run, by hand: watts of a GPU, bytes of a checkpoint, waiting for the slowest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hardware.facility import network_power_w
from simulator.model.parameters import total_parameters
from simulator.plans.spec import Adapters, Optimizer
from simulator.predict.power import gpu_power_w, job_power
from simulator.predict.run_spec import host_copy_bytes, state_bytes, whole_run_spec
from simulator.predict.simulate import simulate
from simulator.scenario.schema import Scenario, load_scenario

SCENARIOS = Path(__file__).parents[2] / "scenarios"


@pytest.fixture(scope="module")
def tiny() -> Scenario:
    return load_scenario(SCENARIOS / "tiny.yaml")


def test_watts_of_a_gpu_with_its_share_of_the_server(tiny: Scenario) -> None:
    """An eighth of what the server draws beside its GPUs, and of the network; 3/4 of a step computing, 1/4 waiting."""
    cluster, part = tiny.cluster, tiny.cluster.accelerator
    assert cluster.node.gpus == 8
    shared_w = cluster.node.overhead_power_w / 8 + network_power_w(cluster).value
    power = job_power(tiny, {"compute": 3.0, "bubble": 1.0})
    waiting_w = gpu_power_w(part, "bubble")
    assert power.server_w == cluster.node.overhead_power_w / 8 > 0
    assert power.step_w == pytest.approx({"compute": 0.75 * part.power_w, "bubble": 0.25 * waiting_w})
    assert power.busy_w == pytest.approx(0.75 * part.power_w + 0.25 * waiting_w + shared_w)
    assert power.idle_w == pytest.approx(part.idle_w + shared_w)
    assert power.waiting_w == pytest.approx(waiting_w + shared_w)
    assert (power.gpu_idle_w, power.gpu_spinning_w) == pytest.approx((part.idle_w, waiting_w))


def test_bytes_of_a_checkpoint(tiny: Scenario) -> None:
    """Weights of 2 bytes, a master copy and two moments of 4; FP8 weights and no master copy; adapters alone. Copies in
    memory are shared by all GPUs: one's own and a peer's."""
    count = total_parameters(tiny.model)
    assert not tiny.model.mtp
    assert state_bytes(tiny) == count * (2 + 12)
    lean = replace(tiny.plan, optimizer=Optimizer(main_params=None, moments="bf16"))
    assert state_bytes(replace(tiny, plan=lean)) == count * (2 + 4)
    adapted = replace(tiny, plan=replace(tiny.plan, adapters=Adapters(rank=16, targets=("q_proj",))))
    assert state_bytes(adapted) == len(tiny.model.layers) * 16 * (tiny.model.hidden + 16 * 64) * 14, "16 heads of 64"
    copies = load_scenario(SCENARIOS / "tiny.yaml", ["run.checkpoint.policy=in-memory"])
    assert host_copy_bytes(copies) == pytest.approx(2 * state_bytes(tiny) / tiny.cluster.gpus)
    spec = whole_run_spec(simulate(copies))
    assert spec is not None
    assert spec.paths.state_bytes == state_bytes(tiny)


@pytest.mark.parametrize(("gpus", "late"), [(8, 1.42360), (1024, 3.24824), (100_000, 4.38432)])
def test_a_step_waits_for_the_slowest_of_its_ranks(tiny: Scenario, gpus: int, late: float) -> None:
    """Spreads of a hundredth of the step: the expected largest of 8 is 1.4236, of 1,024 3.2482, of 100,000 4.3843."""
    step = simulate(tiny).step
    slots = replace(step.slots, constants=replace(step.slots.constants, rank_noise=0.01))
    many = replace(step, slots=slots, gpus=gpus)
    assert many.straggler_s == pytest.approx(0.01 * late * step.timeline.step_time_s, rel=1e-4)
    assert many.alone_s == many.step_time_s == pytest.approx(step.timeline.step_time_s * (1 + 0.01 * late), rel=1e-6)
