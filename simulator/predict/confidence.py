"""How far a predicted step time may be off: the spread of like published runs, each predicted without its family.

`residuals` holds these runs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hardware.kernels import is_borrowed, scale_spread
from hardware.specs import Accelerator
from simulator.cost.constants import borrowed_spread
from simulator.model.spec import MoE
from simulator.predict.residuals import Case, Residuals, residuals
from simulator.predict.site import correction_of
from simulator.scenario.spec import Scenario

COVERAGE = 0.8
STANDARD_DEVIATIONS = 1.2816  # of a normal distribution, to either side of 80 %
# How much a run counts that is of another accelerator generation, of another kind (dense or MoE), of another software
# generation, or a factor e^3 apart in GPUs: judged, not fitted.
OTHER_GENERATION, OTHER_KIND, OTHER_STACK, SCALE_OF_GPUS = 0.25, 0.25, 0.25, 3.0


def case_of(scenario: Scenario) -> Case:
    moe = any(isinstance(layer.ffn, MoE) for layer in scenario.model.layers)
    cluster, line = scenario.cluster, scenario.plan.stack.line
    return Case(cluster.accelerator.generation.lower(), "moe" if moe else "dense", line, cluster.gpus)


def weights(case: Case, known: Residuals, without: str | None = None) -> NDArray[np.float64]:
    """How much each published run says about a case; a family counts as the square root of its rows."""
    size = {family: known.families.count(family) for family in set(known.families)}
    found = [
        (1.0 if each.generation == case.generation else OTHER_GENERATION)
        * (1.0 if each.kind == case.kind else OTHER_KIND)
        * (1.0 if each.stack == case.stack else OTHER_STACK)
        * np.exp(-abs(np.log(each.gpus / case.gpus)) / SCALE_OF_GPUS)
        * (0.0 if family == without else size[family] ** -0.5)
        for each, family in zip(known.cases, known.families, strict=True)
    ]
    return np.array(found)


def log_interval(case: Case, known: Residuals, without: str | None = None) -> tuple[float, float]:
    """Weighted quantiles of the residuals of like runs, drawn apart where few families carry the weight.

    With n families of effective weight the spread itself is known to about 1 / sqrt(2 n); it is widened by that.
    """
    weight = weights(case, known, without)
    order = np.argsort(known.errors)
    errors, share = known.errors[order], np.cumsum(weight[order]) / weight.sum()
    tail = (1 - COVERAGE) / 2
    low, middle, high = (float(errors[np.searchsorted(share, at)]) for at in (tail, 0.5, 1 - tail))
    by_family: dict[str, float] = {}
    for family, each in zip(known.families, weight, strict=True):
        by_family[family] = by_family.get(family, 0.0) + float(each)
    carried = np.array(list(by_family.values()))
    effective = carried.sum() ** 2 / (carried**2).sum()
    wider = 1 + 1 / np.sqrt(2 * effective)
    return middle + (low - middle) * wider, middle + (high - middle) * wider


def widened(interval: tuple[float, float], part: Accelerator) -> tuple[float, float]:
    """An interval of log(measured / predicted) with what a part's assumed rates add to it, in quadrature.

    Rates scaled from another part's figures may be off by a share of the scale, clocks of another generation by what
    those of two measured generations lie apart.
    """
    borrowed = borrowed_spread() if is_borrowed(part) else 0.0
    beyond = STANDARD_DEVIATIONS * np.hypot(scale_spread(part), borrowed)
    low, high = interval
    middle, half = (low + high) / 2, (high - low) / 2
    wide = float(np.hypot(half, beyond))
    return (middle - wide, middle + wide) if beyond else interval


def step_time_interval_s(scenario: Scenario, step_time_s: float) -> tuple[float, float]:
    """The 80 % interval of the step time that a run of this scenario would measure.

    Runs on the same site narrow it, and take the place of like runs elsewhere as far as they are believed."""
    low, high = widened(log_interval(case_of(scenario), residuals()), scenario.cluster.accelerator)
    known = correction_of(scenario.site)
    if known.weight:
        middle, half = (1 - known.weight) * (low + high) / 2, known.interval_fraction * (high - low) / 2
        low, high = middle - half, middle + half
    return step_time_s * float(np.exp(low)), step_time_s * float(np.exp(high))
