"""How far a predicted step time may be off: the spread of like published runs, each predicted without its source.

`residuals` holds these runs.
"""

from __future__ import annotations

from collections.abc import Collection
from math import prod

import numpy as np
from numpy.typing import NDArray

from hardware.catalogue import CHANGED
from hardware.kernels import is_borrowed, scale_spread
from hardware.precisions import PRECISIONS
from hardware.specs import Accelerator
from simulator.cost.constants import borrowed_spread
from simulator.predict.residuals import Case, Residuals, residuals, source_of
from simulator.predict.site import correction_of
from simulator.scenario.spec import Scenario

COVERAGE = 0.8
STANDARD_DEVIATIONS = 1.2816  # of a normal distribution, to either side of 80 %
# How much a run counts that is of another accelerator generation, of another kind (dense or MoE), of another software
# generation, or a factor e^2 apart in GPUs: judged, not fitted.
OTHER_GENERATION, OTHER_KIND, OTHER_STACK, OTHER_PART, SCALE_OF_GPUS = 0.25, 0.1, 0.1, 0.5, 2.0
# How much wider the interval is on a part, a server or a network that no published run used, and where the stack is
# not named: judged. A part that nobody measured is known half as well.
UNMEASURED = {"part": 2.0, "node": 1.2, "fabric": 1.2}
UNNAMED_STACK = 1.2
# With as few micro-batches on as many GPUs a step is largely what it costs once, floors and latencies that rest on thin
# evidence: how much wider its interval is. Judged on the strong scaling of small models.
FEW_MICROBATCHES, MANY_GPUS, ONCE = 2, 64, 1.7
# Standard deviation of the logarithm of seconds whose evidence is assumed: judged, a factor of 1.35 either way.
ASSUMED_SPREAD = 0.3


def case_of(scenario: Scenario) -> Case:
    moe = scenario.model.has_experts
    cluster, line = scenario.cluster, scenario.plan.stack.line
    part = cluster.accelerator
    kind = "moe" if moe else "dense"
    # What is derived from a base is known as the base is; how far its rates were scaled widens elsewhere.
    known = [name.removesuffix(CHANGED) for name in (part.name, cluster.node.name, cluster.fabric.name)]
    return Case(
        generation=part.generation.lower(),
        kind=kind,
        stack=line,
        gpus=cluster.gpus,
        part=known[0],
        node=known[1],
        fabric=known[2],
        microbatches=scenario.plan.microbatches,
    )


def unmeasured(case: Case, known: Residuals, without: str | None = None) -> dict[str, str]:
    """Which of part, node and fabric no published run used but those of the source `without`, by name."""
    others = [each for each, family in zip(known.cases, known.families, strict=True) if source_of(family) != without]
    found = {}
    for what in UNMEASURED:
        own = getattr(case, what)
        if own and own not in {getattr(each, what) for each in others}:
            found[what] = own
    return found


def unmeasured_warnings(scenario: Scenario) -> list[str]:
    """What the interval is wider for, as warnings."""
    return [
        f"no published run on {what} {name} is among those that predictions are held against: the interval of the step "
        f"is {UNMEASURED[what]:g} times as wide for it"
        for what, name in unmeasured(case_of(scenario), residuals()).items()
    ]


def weights(case: Case, known: Residuals, without: str | None = None) -> NDArray[np.float64]:
    """How much each published run says about a case; a family counts as the square root of its rows, one of the source
    `without` nothing."""
    size = {family: known.families.count(family) for family in set(known.families)}
    found = [
        (1.0 if each.generation == case.generation else OTHER_GENERATION)
        * (1.0 if each.kind == case.kind else OTHER_KIND)
        * (1.0 if each.stack == case.stack else OTHER_STACK)
        * (1.0 if each.part == case.part else OTHER_PART)
        * np.exp(-abs(np.log(each.gpus / case.gpus)) / SCALE_OF_GPUS)
        * (0.0 if source_of(family) == without else size[family] ** -0.5)
        for each, family in zip(known.cases, known.families, strict=True)
    ]
    return np.array(found)


def log_interval(case: Case, known: Residuals, without: str | None = None) -> tuple[float, float]:
    """Weighted quantiles of the residuals of like runs, of all sources but `without`, drawn apart where few families
    carry the weight or a step has few micro-batches.

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
    if case.microbatches <= FEW_MICROBATCHES and case.gpus >= MANY_GPUS:
        wider *= ONCE
    return middle + (low - middle) * wider, middle + (high - middle) * wider


def interval_of(case: Case, known: Residuals, without: str | None = None) -> tuple[float, float]:
    """`log_interval`, as much wider as nobody but the source `without` measured the case's part, server or network."""
    low, high = log_interval(case, known, without)
    factor = prod(UNMEASURED[what] for what in unmeasured(case, known, without))
    middle, half = (low + high) / 2, factor * (high - low) / 2
    return middle - half, middle + half


def widened(
    interval: tuple[float, float],
    part: Accelerator,
    formats: Collection[str],
    factor: float = 1.0,
    assumed_fraction: float = 0.0,
) -> tuple[float, float]:
    """An interval of log(measured / predicted), `factor` times as wide, with what assumed rates add in quadrature.

    A part's rates, of products in `formats`, that are scaled from another part's may be off by a share of the scale,
    clocks of another generation by what those of two measured generations lie apart, seconds that rest on assumptions
    by ASSUMED_SPREAD.
    """
    borrowed = borrowed_spread() if is_borrowed(part) else 0.0
    spreads = (scale_spread(part, formats), borrowed, ASSUMED_SPREAD * assumed_fraction)
    beyond = STANDARD_DEVIATIONS * float(np.linalg.norm(spreads))
    low, high = interval
    middle, half = (low + high) / 2, factor * (high - low) / 2
    wide = float(np.hypot(half, beyond))
    return middle - wide, middle + wide


def step_time_interval_s(scenario: Scenario, step_time_s: float, assumed_fraction: float) -> tuple[float, float]:
    """The 80 % interval of the step time that a run of this scenario would measure.

    `assumed_fraction`: share of the step whose evidence is assumed. Runs on the same site narrow it, and take the place
    of like runs elsewhere as far as they are believed.
    """
    case, known = case_of(scenario), residuals()
    factor = 1.0 if scenario.stack_choice == "named" else UNNAMED_STACK
    part = scenario.cluster.accelerator
    precision = PRECISIONS[scenario.plan.precision]
    formats = (precision.format, PRECISIONS[precision.high].format)
    low, high = widened(interval_of(case, known), part, formats, factor, assumed_fraction)
    site = correction_of(scenario.site)
    if site.weight:
        middle, half = (1 - site.weight) * (low + high) / 2, site.interval_fraction * (high - low) / 2
        low, high = middle - half, middle + half
    return step_time_s * float(np.exp(low)), step_time_s * float(np.exp(high))
