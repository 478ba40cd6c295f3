"""Scenarios side by side: `compare` predicts each, and says how it differs from the first and how sure that is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hardware.problems import Problem
from hardware.units import format_bytes
from simulator.plain import flat
from simulator.planner.comparison import Column, Comparison, Difference, Figures
from simulator.planner.shared_error import ErrorShares, difference_interval_s, error_shares
from simulator.planner.verdict import verdict
from simulator.predict.prediction import Prediction, predict
from simulator.predict.simulate import simulate
from simulator.scenario.legal import validated
from simulator.scenario.resolved import resolved
from simulator.scenario.spec import Scenario, check_scenario

# Of a scenario file, what says nothing of the question's inputs.
WORDS = ("name", "question", "source", "published")
Progress = Callable[[int, int], None]  # (columns done, columns in all)


@dataclass(frozen=True, slots=True)
class Entry:
    """One scenario to compare, or why it cannot be; `written` is its data as far as it was read."""

    name: str
    scenario: Scenario | None = None
    problems: tuple[Problem, ...] = ()
    written: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Predicted:
    """A prediction and what its step's error is made of."""

    prediction: Prediction
    errors: ErrorShares

    @property
    def tokens_errors(self) -> ErrorShares:
        """The errors of the time that all tokens take."""
        return self.errors * (self.prediction.training_time_s / self.prediction.step_time_s)


def compare(entries: Sequence[Scenario | Entry], progress: Progress | None = None) -> Comparison:
    """Predicts every scenario and compares it with the first that can be predicted.

    Scenarios are named by themselves; an `Entry` brings its own name, or the reasons why it is refused.
    """
    columns: list[Column] = []
    reference: _Predicted | None = None
    for number, entry in enumerate(_named(entries)):
        predicted = _predicted(entry.scenario) if entry.scenario is not None else None
        reference = reference or predicted
        columns.append(_column(entry, predicted, reference))
        if progress is not None:
            progress(number + 1, len(entries))
    return Comparison(tuple(columns), differing_inputs(columns))


def _named(entries: Sequence[Scenario | Entry]) -> list[Entry]:
    """Entries under names that occur once: later ones of a name are numbered."""
    named: list[Entry] = []
    counts: Counter[str] = Counter()
    for each in entries:
        if not isinstance(each, Entry):
            check_scenario(each, "compare")
        entry = each if isinstance(each, Entry) else Entry(each.name, each)
        counts[entry.name] += 1
        number = counts[entry.name]
        named.append(entry if number == 1 else replace(entry, name=f"{entry.name} ({number})"))
    return named


def _predicted(scenario: Scenario) -> _Predicted:
    done = simulate(validated(scenario))
    return _Predicted(predict(done), error_shares(done))


def _column(entry: Entry, predicted: _Predicted | None, reference: _Predicted | None) -> Column:
    if predicted is None or entry.scenario is None:
        refused = tuple(f"{problem.key}: {problem.message}" if problem.key else problem.message
                        for problem in entry.problems)  # fmt: skip
        return Column(entry.name, _inputs(entry.written), refused)
    is_first = reference is None or predicted is reference
    return Column(
        name=entry.name,
        inputs=_inputs(resolved(entry.scenario)),
        unfit=unfit(predicted.prediction),
        warnings=predicted.prediction.warnings,
        figures=figures(predicted.prediction),
        difference=None if is_first or reference is None else _difference(reference, predicted),
    )


def _inputs(data: Mapping[str, Any]) -> dict[str, Any]:
    """A scenario's data by dotted keys; those of a phase stand under its name."""
    return {key: value for key, value in flat(_by_phase(data)).items() if key.split(".")[0] not in WORDS}


def _by_phase(data: Mapping[str, Any]) -> Mapping[str, Any]:
    run = data.get("run")
    phases = run.get("phases") if isinstance(run, Mapping) else None
    if (
        not isinstance(run, Mapping)
        or not isinstance(phases, list)
        or not all(isinstance(phase, Mapping) for phase in phases)
    ):
        return data
    named = {str(phase.get("name", number)): dict(phase) for number, phase in enumerate(phases)}
    for phase in named.values():
        phase.pop("name", None)
    return {**data, "run": {**run, "phases": named}}


def differing_inputs(columns: Sequence[Column]) -> dict[str, tuple[Any, ...]]:
    """Every key whose value is not the same in all columns; a refused one, whose plan is not filled in, differs only in
    what it writes."""
    accepted = [column for column in columns if not column.refused] or list(columns)
    keys = dict.fromkeys(key for column in columns for key in column.inputs)
    rows: dict[str, tuple[Any, ...]] = {}
    for key in keys:
        written = [column.inputs.get(key) for column in accepted]
        refused = [column.inputs[key] for column in columns if column.refused and key in column.inputs]
        values = [*written, *refused]
        if any(value != values[0] for value in values):
            rows[key] = tuple(column.inputs.get(key) for column in columns)
    return rows


def unfit(prediction: Prediction) -> tuple[str, ...]:
    """Why the answer to a prediction is no; empty where it fits and finishes."""
    reasons = []
    fullest, capacity = prediction.device_memory_bytes, prediction.memory_capacity_bytes
    if fullest > capacity:
        stage = max(prediction.stages, key=lambda stage: stage.device_memory_bytes)
        needs = f"pipeline rank {stage.rank} needs {format_bytes(fullest)} of {format_bytes(capacity)}"
        reasons.append(f"does not fit in memory: {needs}")
    if not prediction.host_memory.fits:
        reasons.append("does not fit in host memory")
    reasons += [f"phase {phase.name} does not fit in memory" for phase in prediction.phases if not phase.fits]
    if prediction.run is not None and not prediction.run.finishes:
        reasons.append(f"does not finish: {prediction.run.reason}")
    return tuple(reasons)


def figures(prediction: Prediction) -> Figures:
    """A prediction's figures for a column."""
    fullest = max(prediction.stages, key=lambda stage: stage.device_memory_bytes)
    run = prediction.run
    # What was spent until a run is given up is not what it costs.
    ended = run if run is not None and run.finishes else None
    return Figures(
        step_time_s=prediction.step_time_s,
        step_time_interval_s=prediction.step_time_interval_s,
        tokens_per_step=prediction.tokens_per_step,
        tokens_per_s_per_gpu=prediction.tokens_per_s_per_gpu,
        mfu_fraction=prediction.mfu_fraction,
        breakdown_s=prediction.breakdown_s,
        memory_bytes={**fullest.memory_bytes, **fullest.outside_allocator_bytes},
        device_memory_bytes=prediction.device_memory_bytes,
        memory_capacity_bytes=prediction.memory_capacity_bytes,
        training_time_s=prediction.training_time_s,
        finish_s=run.finish_s.to_dict() if run else None,
        goodput_fraction=run.goodput_fraction if run else None,
        cost_usd=ended.cost_usd if ended else None,
        cost_error_usd=ended.cost_error_usd if ended else None,
        energy_j=ended.energy_j if ended else None,
    )


def _difference(first: _Predicted, second: _Predicted) -> Difference:
    """The second less the first, with intervals."""
    one, other = figures(first.prediction), figures(second.prediction)
    tokens_interval_s = difference_interval_s(first.tokens_errors, second.tokens_errors)
    judged = verdict(first.prediction, second.prediction, tokens_interval_s)
    return Difference(
        verdict=judged.word,
        judged_by=judged.judged_by,
        step_time_s=other.step_time_s - one.step_time_s,
        step_time_interval_s=difference_interval_s(first.errors, second.errors),
        training_time_s=other.training_time_s - one.training_time_s,
        training_time_interval_s=tokens_interval_s,
        breakdown_s=_less(other.breakdown_s, one.breakdown_s),
        memory_bytes=_less(other.memory_bytes, one.memory_bytes),
        device_memory_bytes=other.device_memory_bytes - one.device_memory_bytes,
        mfu_fraction=other.mfu_fraction - one.mfu_fraction,
        finish_s=_less_known(other.finish_s, one.finish_s),
        finish_interval_s=judged.finish_interval_s,
        cost_usd=_less_or_none(other.cost_usd, one.cost_usd),
        energy_j=_less_or_none(other.energy_j, one.energy_j),
    )


def _less(second: Mapping[str, float], first: Mapping[str, float]) -> dict[str, float]:
    return {name: second.get(name, 0.0) - first.get(name, 0.0) for name in _names(first, second)}


def _names(*mappings: Mapping[str, Any]) -> Iterable[str]:
    return dict.fromkeys(name for mapping in mappings for name in mapping)


def _less_or_none(second: float | None, first: float | None) -> float | None:
    return None if second is None or first is None else second - first


def _less_known(
    second: Mapping[str, float | None] | None, first: Mapping[str, float | None] | None
) -> dict[str, float | None] | None:
    if second is None or first is None:
        return None
    return {name: _less_or_none(second[name], first[name]) for name in first}
