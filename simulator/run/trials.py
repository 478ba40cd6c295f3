"""What may be changed of a planned run: one thing at a time, each with the run that has it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, cast

from simulator.run.checkpoint_interval import best_interval_s, every
from simulator.run.checkpoints import POLICIES, CheckpointPolicy, PolicyName
from simulator.run.faults import mean_time_between_s
from simulator.run.montecarlo import best_interval_by_simulation_s, saving_every, saving_of
from simulator.run.spares import spares_needed
from simulator.run.specs import Recovery, RunSpec

Kind = Literal["planned", "interval", "spares", "policy", "shortage", "restart", "together"]
REGROWTHS: tuple[tuple[Literal["at-once", "at-restart"], str], ...] = (
    ("at-restart", "at a restart"),
    ("at-once", "at once"),
)
SEARCH = 4.0  # the interval is sought between Daly's divided and multiplied by this
TOLERANCE = 0.05  # of the interval: the curve is flat around its best


@dataclass(frozen=True, slots=True)
class Trial:
    """A change and the run that has it."""

    kind: Kind
    change: str
    spec: RunSpec


def trials(spec: RunSpec) -> Iterator[Trial]:
    """Every change that is tried of a run, by kind."""
    yield from _intervals(spec)
    yield from _spare_counts(spec)
    yield from _policies(spec)
    yield from _shortages(spec)
    yield Trial("restart", "half detection and restart", _faster(spec, 0.5))


def together(spec: RunSpec, best: dict[Kind, RunSpec]) -> Trial | None:
    """The best choices in one run; the interval found belongs to the plan's policy, another one settles its own.

    None where there are not two choices that go together.
    """
    if len(best) < 2 or (len(best) == 2 and {"interval", "policy"} <= set(best)):
        return None
    checkpoint = best.get("policy", best.get("interval", spec)).checkpoint
    spares, shortage = best.get("spares", spec).recovery, best.get("shortage", spec).recovery
    recovery = replace(shortage, hot_spares=spares.hot_spares, cold_spares=spares.cold_spares)
    if shortage.spares != spec.recovery.spares:  # shrinking took the place of spares
        recovery = shortage
    return Trial("together", "all marked together", replace(spec, checkpoint=checkpoint, recovery=recovery))


def _intervals(spec: RunSpec) -> Iterator[Trial]:
    """Half, twice, and the best by simulation, of the interval of the tier that saves most often."""
    tier = saving_of(spec).tiers[0]
    now_s = every(tier)
    if math.isfinite(now_s):
        yield Trial("interval", "interval halved", saving_every(spec, now_s / 2))
        yield Trial("interval", "interval doubled", saving_every(spec, now_s * 2))
    mtbf_s = mean_time_between_s(spec.failures, spec.job_gpus)
    if spec.checkpoint.policy == "none" or not math.isfinite(mtbf_s):
        return
    daly_s = best_interval_s(tier, mtbf_s, spec.work_s, spec.longest_step_s)
    low_s = max(spec.longest_step_s, daly_s / SEARCH)
    high_s = min(spec.work_s, daly_s * SEARCH)
    best_s = best_interval_by_simulation_s(spec, low_s, high_s, TOLERANCE)
    yield Trial("interval", "best interval", saving_every(spec, best_s))


def _spare_counts(spec: RunSpec) -> Iterator[Trial]:
    """No spares, a quarter, half, as many as are needed, twice as many."""
    planned = spec.recovery.spares
    needed = spares_needed(spec.failures, spec.job_gpus, most=spec.job_nodes)
    counts = {0, planned // 4, planned // 2, needed, 2 * max(planned, needed, 1)}
    for count in sorted(counts - {planned}):
        hot = round(count * spec.recovery.hot_spares / planned) if planned else count
        recovery = replace(spec.recovery, hot_spares=hot, cold_spares=count - hot)
        yield Trial("spares", f"{count} spare node{'' if count == 1 else 's'}", replace(spec, recovery=recovery))


def _policies(spec: RunSpec) -> Iterator[Trial]:
    """The other ways to save, each at the interval that is best for it."""
    for name in POLICIES:
        if name not in ("none", spec.checkpoint.policy):
            policy = _with_policy(spec.checkpoint, cast(PolicyName, name))
            yield Trial("policy", f"{name} checkpoints", replace(spec, checkpoint=policy))


def _with_policy(checkpoint: CheckpointPolicy, name: PolicyName) -> CheckpointPolicy:
    return replace(checkpoint, policy=name, every_s=None, fast_every_s=None)


def _shortages(spec: RunSpec) -> Iterator[Trial]:
    """What the job does without enough nodes: wait, or go on with fewer replicas and grow at once or at a restart."""
    now = spec.recovery
    if now.when_short == "shrink":
        yield _shortage(spec, "wait if short", replace(now, when_short="wait"))
    if spec.replicas == 1:
        return
    for regrow, word in REGROWTHS:
        if (now.when_short, now.regrow) != ("shrink", regrow):
            yield _shortage(spec, f"shrink, regrow {word}", replace(now, when_short="shrink", regrow=regrow))
    if now.spares:
        recovery = replace(now, when_short="shrink", regrow="at-once", hot_spares=0, cold_spares=0)
        yield _shortage(spec, "shrink instead of spares", recovery)


def _shortage(spec: RunSpec, change: str, recovery: Recovery) -> Trial:
    return Trial("shortage", change, replace(spec, recovery=recovery))


def _faster(spec: RunSpec, factor: float) -> RunSpec:
    """Detection and restart by this factor."""
    classes = tuple(replace(fault, detect=fault.detect.scaled(factor)) for fault in spec.failures.classes)
    restart = replace(
        spec.restart,
        process_start_s=spec.restart.process_start_s * factor,
        init_s_per_gpu=spec.restart.init_s_per_gpu * factor,
        warm_up_s=spec.restart.warm_up_s * factor,
    )
    return replace(spec, failures=replace(spec.failures, classes=classes), restart=restart)
