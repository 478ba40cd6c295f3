"""What a search found: the best plans with what they would cost, ties, the trade of time against memory, and why."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from simulator.fields import as_written
from simulator.planner.candidates import KEYS, own_value
from simulator.planner.shared_error import ErrorShares, difference_interval_s
from simulator.planner.space import SPLIT_KEYS
from simulator.plans.choices import SHARDINGS
from simulator.plans.spec import Plan
from simulator.predict.prediction import Prediction
from simulator.scenario.stack_section import written_stack

# What a step is spent on when nothing is lost; all other causes bound it.
USEFUL = ("compute",)


@dataclass(frozen=True, slots=True)
class RankedPlan:
    """A plan of the result: its prediction in short. `never_ends`: why its whole run does not finish, which then has no
    end, cost or energy (None: it does, or none was simulated). `errors`: what its step rests on; `tied`: it is closer
    to the best than the prediction can tell; `behind_s`: seconds by cause that it spends more than the best."""

    rank: int
    plan: Plan
    step_time_s: float
    step_time_interval_s: tuple[float, float]
    mfu_fraction: float
    tokens_per_s: float
    peak_memory_bytes: float
    device_memory_bytes: float
    memory_free_bytes: float
    training_time_s: float
    finish_s: Mapping[str, float] | None
    cost_usd: float | None
    energy_j: float | None
    never_ends: str | None
    fits: bool
    breakdown_s: Mapping[str, float]
    errors: ErrorShares
    tied: bool = False
    behind_s: Mapping[str, float] | None = None

    @property
    def bound_by(self) -> str:
        """The cause that takes most of the step beside computing."""
        others = {cause: seconds for cause, seconds in self.breakdown_s.items() if cause not in USEFUL}
        return max(others, key=lambda cause: others[cause])

    def to_dict(self) -> dict[str, Any]:
        """One row of the document."""
        return {
            "rank": self.rank,
            "line": plan_line(self.plan),
            "step_time_s": self.step_time_s,
            "step_time_interval_s": list(self.step_time_interval_s),
            "mfu_fraction": self.mfu_fraction,
            "tokens_per_s": self.tokens_per_s,
            "peak_memory_bytes": self.peak_memory_bytes,
            "device_memory_bytes": self.device_memory_bytes,
            "memory_free_bytes": self.memory_free_bytes,
            "training_time_s": self.training_time_s,
            "finish_s": dict(self.finish_s) if self.finish_s else None,
            "cost_usd": self.cost_usd,
            "energy_j": self.energy_j,
            "never_ends": self.never_ends,
            "fits": self.fits,
            "bound_by": self.bound_by,
            "tied": self.tied,
            "behind_s": dict(self.behind_s) if self.behind_s is not None else None,
            "breakdown_s": dict(self.breakdown_s),
            "plan": {**as_written(self.plan), "stack": written_stack(self.plan.stack)},
        }


@dataclass(frozen=True, slots=True)
class FrontPoint:
    """The fastest plan that leaves at least so much of the memory free."""

    headroom_fraction: float
    plan: Plan
    step_time_s: float
    device_memory_bytes: float


@dataclass(frozen=True, slots=True)
class Gain:
    """What a key brought: the fastest plan that keeps the scenario's own value of it, against the fastest of all, both
    before layers are split by cost."""

    key: str
    own_value: Any
    best_value: Any
    kept_step_time_s: float
    gain_s: float


@dataclass(frozen=True, slots=True)
class PlanSearch:
    """The outcome of a search. `legal` plans were covered: `played`, or excluded by a proven bound; `fitting` leave
    `headroom_fraction` of the memory free. `start`: the scenario's own plan, where it is legal. `nearest`: where none
    fits, the one with the smallest memory, and `remedies` what would make it fit. `complete` False: the search was
    interrupted. `priced`: of so many of the fastest the whole run was evaluated, from which other objectives than time
    choose; `others_least`: what no other plan stays below at its predicted step, in the objective's own unit (None: by
    time, and where there are no others). `refused`: values that were asked for and that the GPU cannot run, and why."""

    plans: tuple[RankedPlan, ...]
    front: tuple[FrontPoint, ...]
    gains: tuple[Gain, ...]
    legal: int
    fitting: int
    played: int
    seconds: float
    objective: str
    headroom_fraction: float
    searched: Mapping[str, int]
    start: RankedPlan | None
    nearest: RankedPlan | None
    remedies: tuple[str, ...]
    complete: bool = True
    priced: int = 0
    others_least: float | None = None
    refused: tuple[str, ...] = ()

    @property
    def is_proven_best(self) -> bool:
        """Whether no plan can be better than the first by the objective: all were played, excluded or evaluated."""
        if not self.plans or not self.complete:
            return False
        value = value_of(self.plans[0], self.objective)
        return self.others_least is None or value <= self.others_least

    def to_dict(self) -> dict[str, Any]:
        """The document of `traincast plan --json`."""
        return {
            "plans": [each.to_dict() for each in self.plans],
            "legal": self.legal,
            "played": self.played,
            "fitting": self.fitting,
            "seconds": self.seconds,
            "complete": self.complete,
            "priced": self.priced,
            "others_least": self.others_least,
            "is_proven_best": self.is_proven_best,
            "objective": self.objective,
            "headroom_fraction": self.headroom_fraction,
            "searched": dict(self.searched),
            "refused": list(self.refused),
            "front": [
                {
                    "headroom_fraction": point.headroom_fraction,
                    "line": plan_line(point.plan),
                    "step_time_s": point.step_time_s,
                    "device_memory_bytes": point.device_memory_bytes,
                }
                for point in self.front
            ],
            "gains": [
                {
                    "key": gain.key,
                    "own_value": plain_value(gain.own_value),
                    "best_value": plain_value(gain.best_value),
                    "kept_step_time_s": gain.kept_step_time_s,
                    "gain_s": gain.gain_s,
                }
                for gain in self.gains
            ],
            "start": self.start.to_dict() if self.start else None,
            "nearest": self.nearest.to_dict() if self.nearest else None,
            "remedies": list(self.remedies),
        }

    def to_frame(self) -> Any:
        """The plans as a table, one row each, searched keys in columns of their own."""
        import pandas as pd

        return pd.DataFrame([table_row(each) for each in self.plans])


def table_row(ranked: RankedPlan) -> dict[str, Any]:
    """A plan as one flat row of numbers and words."""
    row = ranked.to_dict()
    interval, finish = row["step_time_interval_s"], row["finish_s"] or {}
    keys = {key: plain_value(own_value(ranked.plan, key)) for key in KEYS}
    split = {key: getattr(ranked.plan, key) for key in SPLIT_KEYS}
    numbers = {name: value for name, value in row.items() if not isinstance(value, dict | list)}
    return {
        **numbers,
        "step_time_low_s": interval[0],
        "step_time_high_s": interval[1],
        **{f"finish_{name}_s": finish.get(name) for name in ("p10", "p50", "p90")},
        "dp": ranked.plan.dp,
        **keys,
        **split,
    }


def plain_value(value: Any) -> Any:
    """A key's value as a word or number; composite ones in words."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if hasattr(value, "granularity"):
        return " ".join([value.granularity, *value.modules])
    return str(as_written(value))


def plan_line(plan: Plan) -> str:
    """A plan in one line, in Megatron's words."""
    degrees = {name: getattr(plan, name) for name in ("tp", "cp", "pp", "vpp", "ep", "etp")}
    parts = [f"{name}{degree}" for name, degree in degrees.items() if degree > 1]
    parts += [f"dp{plan.dp}", f"mbs{plan.micro_batch_size}"]
    if plan.pp > 1:
        parts.append(plan.schedule)
    if plan.layout is not None:
        parts.append(plan.layout)
    if plan.ep > 1:
        parts.append(plan.dispatcher)
    switches = [name for name in ("moe_ep", "delay_wgrad", "shared_experts", "tp_comm") if getattr(plan.overlap, name)]
    parts += [f"+{name}" for name in switches]
    parts.append(SHARDINGS[plan.sharding].label)
    recompute = plan.recompute
    if recompute.whole_layers:
        parts.append("recompute all")
    elif recompute.chosen_modules:
        parts.append(f"recompute {','.join(recompute.chosen_modules)}")
    return " ".join(parts)


def ranked_plan(prediction: Prediction, errors: ErrorShares) -> RankedPlan:
    """A prediction in short, not ranked yet."""
    run = prediction.run
    # What was spent until a run is given up is not what it costs.
    ended = run if run is not None and run.finishes else None
    finish = None
    if ended is not None:
        finish = {name: value for name, value in ended.finish_s.to_dict().items() if value is not None}
    return RankedPlan(
        rank=0,
        plan=prediction.scenario.plan,
        step_time_s=prediction.step_time_s,
        step_time_interval_s=prediction.step_time_interval_s,
        mfu_fraction=prediction.mfu_fraction,
        tokens_per_s=prediction.tokens_per_s,
        peak_memory_bytes=prediction.peak_memory_bytes,
        device_memory_bytes=prediction.device_memory_bytes,
        memory_free_bytes=prediction.memory_capacity_bytes - prediction.device_memory_bytes,
        training_time_s=prediction.training_time_s,
        finish_s=finish,
        cost_usd=ended.cost_usd if ended else None,
        energy_j=ended.energy_j if ended else None,
        never_ends=run.reason if run and not run.finishes else None,
        fits=prediction.fits,
        breakdown_s=prediction.breakdown_s,
        errors=errors,
    )


def value_of(ranked: RankedPlan, objective: str) -> float:
    """What an objective minimises, infinite of a run that does not finish; where a scenario does not say what it costs,
    the step time."""
    if objective != "time" and ranked.never_ends is not None:
        return math.inf
    if objective == "finish" and ranked.finish_s is not None:
        return ranked.finish_s["p50"]
    known = {"cost": ranked.cost_usd, "energy": ranked.energy_j, "finish": ranked.training_time_s}.get(objective)
    return ranked.step_time_s if known is None else known


def is_tied(best: RankedPlan, other: RankedPlan) -> bool:
    """Whether the prediction cannot tell two plans apart: the interval of their difference, in which errors that both
    share cancel, holds zero."""
    low_s, high_s = difference_interval_s(best.errors, other.errors)
    return low_s <= 0 <= high_s


def behind(best: RankedPlan, other: RankedPlan) -> dict[str, float]:
    """Seconds by cause that a plan spends more than the best, largest first; what it spends less is negative."""
    causes = dict.fromkeys([*best.breakdown_s, *other.breakdown_s])
    apart = {cause: other.breakdown_s.get(cause, 0.0) - best.breakdown_s.get(cause, 0.0) for cause in causes}
    return dict(sorted(apart.items(), key=lambda item: -item[1]))
