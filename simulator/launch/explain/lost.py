"""Where a job's wall time went: steady steps, and what was lost to warm-up, spikes, pauses and restarts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from simulator.launch.explain.records import Pause
from simulator.launch.explain.steady import Attempted, SteadySteps

# Time stamps are whole seconds in some logs: gaps up to so many seconds mean nothing.
STAMP_S = 2.0
LOSSES = ("warm_up", "spikes", "checkpoint", "evaluation", "checkpoint_and_evaluation", "gaps", "restarts", "repeated")


@dataclass(frozen=True, slots=True)
class LostTime:
    """`wall_s` is what the log spans, `steady_s` what its distinct steps take at the steady pace; `lost_s` by cause.

    `restarts` counts attempts after the first; `repeated_steps` were trained twice. `timed` says whether lines carry
    time stamps: without, only what lines about steps and pauses state is known. Stamps that jump back, first at
    `jump_line` (0: none do), count as none.
    """

    wall_s: float
    steady_s: float
    lost_s: dict[str, float]
    restarts: int
    repeated_steps: int
    timed: bool
    jump_line: int = 0


def lost_time(steady: SteadySteps, pauses: Sequence[Pause]) -> LostTime:
    """Adds up what each attempt lost and what lies between attempts."""
    lost = dict.fromkeys(LOSSES, 0.0)
    usual = steady.step_time_s
    jump_line = stamps_jump_at(steady)
    timed = not jump_line and all(np.isfinite(each.steps.at_s).all() for each in steady.attempts)
    for each in steady.attempts:
        slow = (each.seconds - usual) * each.covers
        lost["warm_up"] += float(slow[each.warm_up].sum())
        lost["spikes"] += float(slow[each.spike].sum())
        _add_pauses(each, pauses, timed, lost)
    repeated = _add_restarts(steady, timed, lost)
    trained = sum(int(each.covers.sum()) for each in steady.attempts)
    steady_s = (trained - repeated) * usual
    return LostTime(
        wall_s=_wall_s(steady, timed, steady_s + sum(lost.values())),
        steady_s=steady_s,
        lost_s={cause: seconds for cause, seconds in lost.items() if seconds > 0},
        restarts=len(steady.attempts) - 1,
        repeated_steps=repeated,
        timed=timed,
        jump_line=jump_line,
    )


def stamps_jump_at(steady: SteadySteps) -> int:
    """The first line of steps whose time stamp lies before that of the line ahead of it; 0 where none does."""
    at_s = np.concatenate([each.steps.at_s for each in steady.attempts])
    lines = np.concatenate([each.steps.line for each in steady.attempts])
    back = np.flatnonzero(np.diff(at_s) < -STAMP_S)
    return int(lines[back[0] + 1]) if len(back) else 0


def _wall_s(steady: SteadySteps, timed: bool, added_s: float) -> float:
    """From the start of the first line's steps to the last line's stamp; without stamps, what adds up."""
    if not timed:
        return added_s
    first, last = steady.attempts[0], steady.attempts[-1]
    begun_s = first.steps.at_s[0] - first.seconds[0] * first.covers[0]
    return float(last.steps.at_s[-1] - begun_s)


def _add_pauses(each: Attempted, pauses: Sequence[Pause], timed: bool, lost: dict[str, float]) -> None:
    """Pauses by their own word where they say how long they took; else by the gap in which they stand."""
    lines = each.steps.line
    gaps = np.diff(each.steps.at_s) - (each.seconds * each.covers)[1:] if timed else np.zeros(len(lines) - 1)
    gaps = np.where(gaps > STAMP_S, gaps, 0.0)
    inside = [pause for pause in pauses if lines[0] <= pause.line <= lines[-1]]
    kinds: dict[int, set[str]] = {}
    for pause in inside:
        place = max(int(np.searchsorted(lines, pause.line)) - 1, 0)
        kinds.setdefault(place, set()).add(pause.kind)
    said = _said(inside, lines)
    for place, by_kind in said.items():
        for kind, seconds in by_kind.items():
            lost[kind] += seconds
        if place < len(gaps):
            gaps[place] = max(0.0, gaps[place] - sum(by_kind.values()))
            kinds.pop(place, None)
    for place in np.flatnonzero(gaps).tolist():
        found = kinds.get(place, set())
        lost[_cause(found)] += float(gaps[place])


def _said(pauses: Sequence[Pause], lines: np.ndarray) -> dict[int, dict[str, float]]:
    """Seconds that pauses state, by the line of steps they follow; repeats of one pause count once."""
    found: dict[int, dict[str, float]] = {}
    for pause in pauses:
        if np.isnan(pause.seconds):
            continue
        place = max(int(np.searchsorted(lines, pause.line)) - 1, 0)
        by_kind = found.setdefault(place, {})
        by_kind[pause.kind] = max(by_kind.get(pause.kind, 0.0), pause.seconds)
    return found


def _cause(kinds: set[str]) -> str:
    if not kinds:
        return "gaps"
    return next(iter(kinds)) if len(kinds) == 1 else "checkpoint_and_evaluation"


def _add_restarts(steady: SteadySteps, timed: bool, lost: dict[str, float]) -> int:
    """Time between attempts, and steps that the later one trained again; gives their number."""
    repeated = 0
    for before, after in zip(steady.attempts, steady.attempts[1:], strict=False):
        first = int(after.steps.number[0] - after.covers[0])
        again = max(0, int(before.steps.number[-1]) - first)
        per_step = max(1, int(np.median(np.diff(before.steps.number))) if len(before.steps) > 1 else 1)
        again = again * int(np.median(before.covers)) // per_step
        repeated += again
        lost["repeated"] += again * steady.step_time_s
        if timed:
            begun_s = after.steps.at_s[0] - after.seconds[0] * after.covers[0]
            lost["restarts"] += max(0.0, float(begun_s - before.steps.at_s[-1]))
    return repeated
