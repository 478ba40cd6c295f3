"""The step of a job that has lost something: fewer data-parallel replicas, or links of less bandwidth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from hardware.wiring import with_sending_at
from simulator.plans.layout import schedule_name
from simulator.plans.spec import Plan
from simulator.predict.simulate import simulate_step
from simulator.scenario.spec import Scenario
from simulator.schedules import make_schedule

LEAST_SIMULATED = 0.5  # of the replicas: with fewer, speed falls in proportion


@dataclass(frozen=True, slots=True)
class ReplicaSpeeds(Sequence[float]):
    """Speed with r = 0 ... `replicas` replicas, as a fraction of the whole job's, the global batch being kept.

    Each count is simulated when first asked for: as many GPUs and micro-batches as its replicas have. Below
    LEAST_SIMULATED of the replicas, speed is proportional to their number.
    """

    scenario: Scenario
    step_time_s: float
    replicas: int
    known: dict[int, float] = field(default_factory=dict, compare=False)

    def __len__(self) -> int:
        return self.replicas + 1

    def __getitem__(self, count: int) -> float:  # type: ignore[override]  # counts only, no slices
        if not 0 <= count <= self.replicas:
            raise IndexError(count)
        if count == self.replicas:
            return 1.0
        least = max(1, round(LEAST_SIMULATED * self.replicas))
        if count < least:
            return self[least] * count / least
        if count not in self.known:
            self.known[count] = min(1.0, self.step_time_s / self._step_time_s(count))
        return self.known[count]

    def _step_time_s(self, count: int) -> float:
        plan, cluster = shrunk(self.scenario.plan, count, self.replicas), self.scenario.cluster
        scenario = replace(self.scenario, plan=plan, cluster=replace(cluster, gpus=plan.gpus))
        return simulate_step(scenario).step_time_s


def shrunk(plan: Plan, count: int, replicas: int) -> Plan:
    """The plan with `count` of `replicas` equal parts of its data parallelism: the fullest replica's micro-batches.

    Where the schedule cannot run their number, its group size changes; where that does not help, another is added.
    """
    dp = plan.dp * count // replicas
    least = -(-plan.global_batch_size // (plan.micro_batch_size * dp))
    for microbatches, group in _candidates(plan, least):
        try:
            make_schedule(schedule_name(plan), plan.pp, plan.vpp, microbatches, group)
        except ValueError:
            continue
        batch = microbatches * plan.micro_batch_size * dp
        return replace(plan, dp=dp, global_batch_size=batch, microbatch_group_size=group)
    raise ValueError(f"{plan.schedule} cannot run {least} or a few more micro-batches")


def _candidates(plan: Plan, least: int) -> Iterator[tuple[int, int | None]]:
    for microbatches in range(least, least + 2 * plan.pp + 1):
        yield microbatches, plan.microbatch_group_size
        if plan.vpp > 1:
            yield from ((microbatches, group) for group in range(plan.pp, microbatches + 1))


def speed_without(scenario: Scenario, step_time_s: float, broken: Mapping[str, int]) -> float:
    """Speed of the job once so many more links, rails or spines are broken."""
    failed = scenario.cluster.failed
    more = {name: getattr(failed, name) + count for name, count in broken.items()}
    cluster = replace(scenario.cluster, failed=replace(failed, **more))
    step = simulate_step(replace(scenario, cluster=cluster))
    return min(1.0, step_time_s / step.step_time_s)


def speed_with_links(scenario: Scenario, step_time_s: float, bandwidth_fraction: float) -> float:
    """Speed of the job while a node's links carry this fraction of their bandwidth.

    Collectives run at the pace of their slowest member and the others wait for it at the step's barriers, so every
    link is simulated with that bandwidth: a bound for groups that the node does not belong to.
    """
    degraded = replace(scenario, cluster=with_sending_at(scenario.cluster, bandwidth_fraction))
    step = simulate_step(degraded)
    return min(1.0, step_time_s / step.step_time_s)
