"""What the job's GPUs draw, by what they do: computing, moving data, waiting in a collective, standing."""

from __future__ import annotations

from collections.abc import Mapping

from hardware.facility import COOLING, network_power_w, pue, water_l_per_kwh
from hardware.specs import Accelerator
from simulator.run.specs import Power
from simulator.scenario.spec import Scenario

COMPUTING = ("compute", "optimizer")
MOVING = ("tp", "cp", "ep", "dp")
# Communication kernels while data moves: training of GPT-NeoX on A100s falls to half of the TDP at its
# synchronisation, RoBERTa to 75 %, Flan-T5 to idle (POLCA, arXiv 2308.12908; from memory).
MOVING_FRACTION = 0.5
# A kernel that spins until another rank sends: 85 W of an A100's 400 W in Perseus' public optimiser (arXiv 2312.06902).
WAITING_FRACTION = 85 / 400
POWER_SOURCE = (
    "computing at TDP; moving data at 50 % of it (POLCA, arXiv 2308.12908, training of GPT-NeoX, from memory); waiting "
    "in a collective at 21 % (Perseus, arXiv 2312.06902: 85 W of an A100's 400 W)"
)


def gpu_power_w(part: Accelerator, cause: str) -> float:
    """Watts of one GPU while a step spends its time on `cause`, never above the part's cap; what is neither work nor
    transfer is waiting."""
    if cause in COMPUTING:
        return part.power_w
    fraction = MOVING_FRACTION if cause in MOVING else WAITING_FRACTION
    drawn_w = max(part.idle_w, fraction * part.tdp_w)
    return min(drawn_w, part.power_w)


def step_power_w(part: Accelerator, breakdown_s: Mapping[str, float]) -> dict[str, float]:
    """Watts of one GPU in the mean over a step, by cause of its time: power while it lasts x share of the step."""
    step_s = sum(breakdown_s.values())
    return {cause: gpu_power_w(part, cause) * seconds / step_s for cause, seconds in breakdown_s.items()}


def job_power(scenario: Scenario, breakdown_s: Mapping[str, float]) -> Power:
    """Watts per GPU with its share of server and network, training and else."""
    cluster, part = scenario.cluster, scenario.cluster.accelerator
    server_w = cluster.node.overhead_power_w / cluster.node.gpus
    fabric_w = network_power_w(cluster).value
    step_w = step_power_w(part, breakdown_s)
    shared_w = server_w + fabric_w
    return Power(
        busy_w=sum(step_w.values()) + shared_w,
        idle_w=part.idle_w + shared_w,
        pue=pue(cluster).value,
        server_w=server_w,
        fabric_w=fabric_w,
        step_w=step_w,
        waiting_w=gpu_power_w(part, "waiting") + shared_w,
        water_l_per_kwh=water_l_per_kwh(cluster).value,
        liquid_fraction=COOLING[cluster.node.cooling].liquid_fraction.value,
    )
