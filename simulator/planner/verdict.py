"""Which of two predictions is better, and by what: whether it fits and finishes, when, or what it costs.

The time of the whole run is that of all tokens and what the run loses beside it. The first is off as steps are off, and
what both steps rest on cancels; the second differs as it was played, within the noise of so many runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import hypot, inf, isfinite, sqrt
from typing import Literal

from simulator.predict.confidence import STANDARD_DEVIATIONS
from simulator.predict.prediction import Prediction

Interval = tuple[float, float]
Word = Literal[
    "faster",
    "slower",
    "cheaper",
    "costs more",
    "the same",
    "cannot be told apart",
    "does not finish",
    "fits",
    "does not fit",
]
Measure = Literal["training", "finish P50", "finish P90", "cost", "whether it finishes", "whether it fits"]
# Of a figure: a difference below is none.
ROUNDING = 1e-9
# Standard error of a normal distribution's percentile over n draws, in standard deviations / sqrt(n):
# sqrt(p (1 - p)) / density(p).
PERCENTILE_ERRORS = {"p50": 1.2533, "p90": 1.7094}


@dataclass(frozen=True, slots=True)
class Verdict:
    """The `word` for the second against the first, `judged_by` the measure that told them apart (None: none did).

    `finish_interval_s`: 80 % interval, seconds, of how much later the second's median run ends; None where a run was
    not simulated or does not finish.
    """

    word: Word
    judged_by: Measure | None
    finish_interval_s: Interval | None = None


def verdict(first: Prediction, second: Prediction, tokens_interval_s: Interval) -> Verdict:
    """The second against the first; `tokens_interval_s`: the interval of the difference of their training times.

    How fast it would be says nothing for one that does not fit in memory, or against one that does not.
    """
    if not second.fits:
        return Verdict("does not fit", "whether it fits")
    if not first.fits:
        return Verdict("fits", "whether it fits")
    if first.run is None or second.run is None:
        return _of_time(first, second, tokens_interval_s)
    if not second.run.finishes:
        return Verdict("does not finish", "whether it finishes")
    if not first.run.finishes:
        return Verdict("faster", "whether it finishes")
    return _of_runs(first, second, tokens_interval_s)


def _of_time(first: Prediction, second: Prediction, interval_s: Interval) -> Verdict:
    """By the time that all tokens take, where no run was simulated."""
    word = _word(interval_s, first.training_time_s)
    if word is not None:
        return Verdict(word, "training")
    same = _is_none(interval_s, first.training_time_s)
    return Verdict("the same" if same else "cannot be told apart", None)


def _of_runs(first: Prediction, second: Prediction, tokens_interval_s: Interval) -> Verdict:
    """By the median run's end, else by the 90th percentile's, else by cost."""
    measures: dict[Measure, str] = {"finish P50": "p50", "finish P90": "p90"}
    intervals = {name: _finish_interval_s(first, second, tokens_interval_s, name) for name in measures.values()}
    finish_interval_s = intervals["p50"]
    for measure, name in measures.items():
        word = _word(intervals[name], _finish_s(first, name))
        if word is not None:
            return Verdict(word, measure, finish_interval_s)
    cost_interval_usd = _cost_interval_usd(first, second, finish_interval_s)
    cost_usd = _cost_usd(first)
    if _word(cost_interval_usd, cost_usd) is not None:
        dearer = cost_interval_usd[0] > 0
        return Verdict("costs more" if dearer else "cheaper", "cost", finish_interval_s)
    figures = [(interval, _finish_s(first, name)) for name, interval in intervals.items()]
    same = all(_is_none(interval, figure) for interval, figure in (*figures, (cost_interval_usd, cost_usd)))
    return Verdict("the same" if same else "cannot be told apart", None, finish_interval_s)


def _word(interval: Interval, figure: float) -> Literal["faster", "slower"] | None:
    """What an interval without zero says; a difference below ROUNDING of the figure says nothing."""
    if _is_none(interval, figure):
        return None
    low, high = interval
    if low > 0:
        return "slower"
    return "faster" if high < 0 else None


def _is_none(interval: Interval, figure: float) -> bool:
    least = ROUNDING * abs(figure) if isfinite(figure) else 0.0
    return all(abs(end) <= least for end in interval)


def _finish_interval_s(first: Prediction, second: Prediction, tokens_interval_s: Interval, name: str) -> Interval:
    """How much later a percentile of the second's runs ends; infinite where one of them never does."""
    ends_s = _finish_s(first, name), _finish_s(second, name)
    if not all(map(isfinite, ends_s)):
        later_s = 0.0 if ends_s[0] == ends_s[1] else inf if ends_s[1] == inf else -inf
        return later_s, later_s
    lost_s = ends_s[0] - first.training_time_s, ends_s[1] - second.training_time_s
    lost_more_s = lost_s[1] - lost_s[0]
    low_s, high_s = tokens_interval_s
    noise_s = 0.0
    if abs(lost_more_s) > ROUNDING * ends_s[0]:
        errors_s = _sampling_error_s(first, name), _sampling_error_s(second, name)
        # Runs of one seed meet the same faults: the noise of a difference is not above the difference itself.
        noise_s = min(STANDARD_DEVIATIONS * hypot(*errors_s), abs(lost_more_s))
    middle_s = (low_s + high_s) / 2 + lost_more_s
    half_s = hypot((high_s - low_s) / 2, noise_s)
    return middle_s - half_s, middle_s + half_s


def _sampling_error_s(prediction: Prediction, name: str) -> float:
    """Standard error of a percentile of what the runs lose, over so many runs.

    The step's own error is drawn alike for all runs of a seed: of the spread of the ends it is left out.
    """
    run = prediction.run
    if run is None or not isfinite(run.finish_s.p90):
        return 0.0
    spread_s = _deviation((run.finish_s.p10, run.finish_s.p90))
    step_share = _deviation(prediction.step_time_interval_s) / prediction.step_time_s
    of_step_s = step_share * run.finish_s.p50
    lost_spread_s = sqrt(max(0.0, spread_s**2 - of_step_s**2))
    return PERCENTILE_ERRORS[name] * lost_spread_s / sqrt(run.runs)


def _deviation(interval: Interval) -> float:
    """The standard deviation of a normal distribution with this 80 % interval."""
    low, high = interval
    return (high - low) / 2 / STANDARD_DEVIATIONS


def _cost_interval_usd(first: Prediction, second: Prediction, finish_interval_s: Interval) -> Interval:
    """How much more the second costs in the mean: off as its time is off; none where a cost is not known."""
    costs = [each.run.cost_usd if each.run else None for each in (first, second)]
    if costs[0] is None or costs[1] is None:
        return 0.0, 0.0
    more_usd = costs[1] - costs[0]
    low_s, high_s = finish_interval_s
    usd_per_s = (costs[0] + costs[1]) / (_finish_s(first, "p50") + _finish_s(second, "p50"))
    half_usd = (high_s - low_s) / 2 * usd_per_s
    return more_usd - half_usd, more_usd + half_usd


def _finish_s(prediction: Prediction, name: str) -> float:
    return float(getattr(prediction.run.finish_s, name)) if prediction.run else inf


def _cost_usd(prediction: Prediction) -> float:
    return (prediction.run.cost_usd or 0.0) if prediction.run else 0.0
