"""How much is trained: sequences of a length, and an amount in tokens, steps, samples or days."""

from __future__ import annotations

import math
from dataclasses import MISSING, dataclass

from hardware.sections import Section
from simulator.fields import Setting, read_values, setting

SECONDS_PER_DAY = 86400.0
AMOUNTS = ("tokens", "steps", "samples", "days")


@dataclass(frozen=True, slots=True)
class Budget:
    """What is trained on: exactly one of the four amounts says how much.

    A step takes the plan's global batch, a sample one sequence; days are of training at full speed, without what
    failures and checkpoints cost.
    """

    seq_length: int = setting(MISSING, Setting("Tokens of a sequence.", 4096))
    tokens: float | None = setting(None, Setting("Tokens in all; or steps, samples or days.", "14.8T"))
    steps: int | None = setting(None, Setting("Steps of the plan's global batch, instead of tokens.", 100_000))
    samples: int | None = setting(None, Setting("Sequences in all, instead of tokens.", 1_000_000))
    days: float | None = setting(
        None, Setting("Days of training at full speed, instead of tokens: what fits is trained.", 54)
    )

    def tokens_in_all(self, global_batch_size: int, step_time_s: float = math.nan) -> float:
        """Tokens of the amount given; those of days are nan until the step time is known, then whole steps."""
        if self.tokens is not None:
            return self.tokens
        tokens_per_step = global_batch_size * self.seq_length
        if self.steps is not None:
            return float(self.steps * tokens_per_step)
        if self.samples is not None:
            return float(self.samples * self.seq_length)
        if self.days is None or math.isnan(step_time_s):
            return math.nan
        steps = max(1, math.floor(self.days * SECONDS_PER_DAY / step_time_s))
        return float(steps * tokens_per_step)


def read_budget(section: Section) -> Budget:
    """The budget in a `run` section, which stays open for the policies' keys; every problem is added to it."""
    given = [name for name in AMOUNTS if section.data.get(name) is not None]
    budget = Budget(**read_values(Budget, section))
    if not given and not section.broken:
        section.report("tokens", "is missing; say how much is trained: tokens, steps, samples or days")
    elif len(given) > 1:
        section.report(given[1], f"and {given[0]} exclude each other: give one of {', '.join(AMOUNTS)}")
    elif given != ["tokens"] and "phases" in section.data:
        section.report(given[0], "cannot be shared out among phases: give the run's tokens")
    return budget
