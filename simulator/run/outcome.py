"""What simulated runs came to: one array element per run, and the story of a single one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from simulator.run.arrays import Bools, Floats, Ints
from simulator.run.specs import RunSpec

SETTLED_FAULTS = 256  # after so many faults the pace of a run is no longer a matter of luck


@dataclass(frozen=True, slots=True)
class Outcome:
    """Raw results of `n` runs.

    `finish_s` (n,) is infinite where the run was given up; `elapsed_s` is the wall time played, `work_s` the useful
    part of it. `lost_s` maps causes to (n,): work_s and the losses add up to elapsed_s. `lost_by_component_s` and
    `stops_by_component` are (n, components): time down and work lost, and stops of a job at work, by what had failed.
    `repairs_s` (n,): what `fault_source.repairs_s` gives for each run's first window (None: its faults are not drawn).
    """

    finish_s: Floats
    elapsed_s: Floats
    work_s: Floats
    lost_s: Mapping[str, Floats]
    lost_by_component_s: Floats
    stops_by_component: Ints
    faults: Ints
    waits_for_ever: Bools
    repairs_s: Floats | None = None


@dataclass(frozen=True, slots=True)
class RunEvent:
    """Something that happened at `time_s` of the run, with the useful work in hand just after it.

    `what` is a kind of fault ("crash", ...), "replaced" (a slow node), "rolled back" (corruption found), "regrown",
    "resumed" or "finished"; `node` is JOB where it concerns none; `effect` says what it did to the job.
    """

    time_s: float
    what: str
    component: str
    node: int
    effect: str
    work_s: float


def is_hopeless(spec: RunSpec, faults: Ints | int, now_s: Floats | float, work_s: Floats | float) -> Bools:
    """Whether a run's pace is below what is given up, and no longer a matter of luck; shapes broadcast."""
    give_up = spec.simulation.give_up_fraction
    is_early = np.less(faults, SETTLED_FAULTS) & np.less(now_s, spec.work_s / give_up)
    hopeless: Bools = ~is_early & np.less(work_s, np.multiply(give_up, now_s))
    return hopeless


def with_hopeless(spec: RunSpec, outcome: Outcome) -> Outcome:
    """The outcome with those runs given up that do little beside saving and evaluating, whatever breaks.

    Their pace is no matter of luck: a share of their time at work, by `give_up_fraction`.
    """
    pauses_s = outcome.lost_s.get("evaluation", 0.0) + outcome.lost_s["checkpoint"]
    at_work_s = outcome.work_s + pauses_s
    hopeless = np.less(outcome.work_s, spec.simulation.give_up_fraction * at_work_s)
    if not hopeless.any():
        return outcome
    return replace(outcome, finish_s=np.where(hopeless, np.inf, outcome.finish_s))


def mostly_finishes(outcome: Outcome) -> bool:
    """Whether more than half of the runs end: a result is then that of a run which finishes."""
    return bool(np.isfinite(outcome.finish_s).mean() > 0.5)


def joined(parts: Sequence[Outcome]) -> Outcome:
    """Outcomes of several batches of runs, one after the other."""
    return Outcome(
        finish_s=np.concatenate([p.finish_s for p in parts]),
        elapsed_s=np.concatenate([p.elapsed_s for p in parts]),
        work_s=np.concatenate([p.work_s for p in parts]),
        lost_s={name: np.concatenate([p.lost_s[name] for p in parts]) for name in parts[0].lost_s},
        lost_by_component_s=np.concatenate([p.lost_by_component_s for p in parts]),
        stops_by_component=np.concatenate([p.stops_by_component for p in parts]),
        faults=np.concatenate([p.faults for p in parts]),
        waits_for_ever=np.concatenate([p.waits_for_ever for p in parts]),
        repairs_s=_joined_repairs_s(parts),
    )


def _joined_repairs_s(parts: Sequence[Outcome]) -> Floats | None:
    known = [part.repairs_s for part in parts if part.repairs_s is not None]
    return np.concatenate(known) if len(known) == len(parts) else None
