"""Pauses of a run in which the model is evaluated: how often, and what each is for."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, replace

from simulator.fields import Setting, setting
from simulator.run.outcome import Outcome


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Pauses for evaluation: after every so many steps, for a time or for a forward pass over so many tokens.

    Exactly one of `tokens` and `pause_s` is given. Every phase of the run evaluates with its own plan.
    """

    every_steps: int = setting(MISSING, Setting("Steps from one evaluation to the next.", 500, key="every"))
    tokens: float | None = setting(
        None, Setting("Tokens of one evaluation: a forward pass over them is simulated. Excludes lasts.", "20M")
    )
    pause_s: float | None = setting(
        None, Setting("How long training pauses for one evaluation. Excludes tokens.", "2 min", key="lasts")
    )


def with_evaluation(outcome: Outcome, share: float) -> Outcome:
    """The outcome once a share of what was played as work is told apart as evaluation."""
    if share == 0:
        return outcome
    evaluated_s = share * outcome.work_s
    lost_s = {**outcome.lost_s, "evaluation": evaluated_s}
    return replace(outcome, work_s=outcome.work_s - evaluated_s, lost_s=lost_s)
