"""What sizing says: for every node what is to be bought and when it is done, what limits it, and what that hangs on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from simulator.plain import flat, plain
from simulator.scenario.spec import Scenario


@dataclass(frozen=True, slots=True)
class Question:
    """What was asked; None: not limited. `gpus`: all that there is, spares within."""

    confidence: float
    finish_within_s: float | None = None
    budget_usd: float | None = None
    gpus: int | None = None
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Purchase:
    """GPUs of one kind and what they do. `gpus` = `job_gpus` + spare nodes; `paid_gpus` adds the unused slots of
    the domains that they span. Times are quantiles over runs, with failures
    and the model's own error. `at_confidence_s`: within which the asked share of runs ends; `chance_fraction`: the
    share that ends within the asked time. Costs are of the mean run, None where no price is known;
    `cost_error_usd` is the standard error of `cost_usd`."""

    gpus: int
    job_gpus: int
    spare_nodes: int
    paid_gpus: int
    plan: Mapping[str, Any]
    step_time_s: float
    step_time_interval_s: tuple[float, float]
    tokens: float
    finish_s: Mapping[str, float | None]
    at_confidence_s: float
    chance_fraction: float | None
    rent_usd: float | None
    owned_usd: float | None
    cost_usd: float | None
    cost_error_usd: float | None
    power_w: float
    energy_j: float | None


@dataclass(frozen=True, slots=True)
class Option:
    """The answer for one node: `purchase` (None: nothing is enough), what `limits` it or why it cannot be, and what
    one step smaller would come to. `fabric_reason`: why `fabric` is not the scenario's own; empty where it is.
    `tried_gpus`: GPUs of the jobs, without spares, of which a plan was searched. `scenario` evaluates to the same."""

    node: str
    accelerator: str
    fabric: str | None
    limits: str
    fabric_reason: str = ""
    purchase: Purchase | None = None
    smaller: Purchase | None = None
    tried_gpus: tuple[int, ...] = ()
    scenario: Scenario | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Part:
    """What more of one part would change: days earlier at the asked confidence, and dollars saved or spent.

    `saved_usd` is without the part's own price where `priced` is False: the most that it may cost to pay for itself.
    `saved_s_per_million_usd`: where the price is known and the cost rises.
    """

    part: str
    change: str
    saved_s: float
    saved_usd: float | None
    priced: bool
    saved_s_per_million_usd: float | None = None


@dataclass(frozen=True, slots=True)
class Assumption:
    """How far the answer hangs on one assumption: time at the asked confidence, and cost, at its low and high end."""

    assumption: str
    low: str
    high: str
    finish_s: tuple[float, float]
    cost_usd: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Sizing:
    """Options for every node, the cheapest that is enough first; parts and assumptions are of that one."""

    question: Question
    options: tuple[Option, ...]
    parts: tuple[Part, ...] = ()
    assumptions: tuple[Assumption, ...] = ()

    @property
    def answer(self) -> Option | None:
        """The cheapest option that is enough; None where none is. Without a price no budget is known to be kept."""
        return next((option for option in self.options if self._is_enough(option)), None)

    def _is_enough(self, option: Option) -> bool:
        bought = option.purchase
        if bought is None:
            return False
        return self.question.budget_usd is None or bought.cost_usd is not None

    def to_dict(self) -> dict[str, Any]:
        """The document of `traincast size --json`."""
        answer = self.answer
        return {
            "question": plain(self.question),
            "answer": answer.node if answer else None,
            "options": [_option(option) for option in self.options],
            "parts": plain(self.parts),
            "assumptions": plain(self.assumptions),
        }

    def to_frame(self) -> Any:
        """A table with a row for every node."""
        import pandas as pd

        return pd.DataFrame([flat(_option(option)) for option in self.options])


def _option(option: Option) -> dict[str, Any]:
    names = ("node", "accelerator", "fabric", "fabric_reason", "limits", "purchase", "smaller", "tried_gpus")
    return {name: plain(getattr(option, name)) for name in names}
