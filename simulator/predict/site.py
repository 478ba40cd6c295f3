"""What runs measured on one site say of the next prediction there: by how much it moves, and how sure it then is.

Errors of predictions have a part that a site (hardware, network, software as installed there) has in common, and a part
of each plan. Published runs tell the two apart: families (one source and model) differ by the first, runs of a family
by the second. With n runs of mean log error r, the site's own part is believed to w r, w = b^2 / (b^2 + s^2 / n), where
b and s are the standard deviations of the two parts; what stays unknown is b^2 (1 - w) + s^2.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import exp, sqrt

import numpy as np

from simulator.predict.residuals import residuals
from simulator.scenario.site_section import Site


@dataclass(frozen=True, slots=True)
class Spreads:
    """Standard deviations of log(measured / predicted): of sites, and of plans on one site."""

    site: float
    plan: float


@dataclass(frozen=True, slots=True)
class Correction:
    """`factor` multiplies predicted steps, of which the runs' own error had a share of `weight`.

    `interval_fraction`: how wide the interval of a corrected prediction is, over that without a correction.
    """

    factor: float
    weight: float
    interval_fraction: float


NONE = Correction(1.0, 0.0, 1.0)


@cache
def spreads() -> Spreads:
    """Both parts from the published runs' residuals, by the variance within and between families."""
    known = residuals()
    by_family: dict[str, list[float]] = {}
    for family, error in zip(known.families, known.errors, strict=True):
        by_family.setdefault(family, []).append(float(error))
    groups = [np.array(errors) for errors in by_family.values()]
    within = sum(float(((each - each.mean()) ** 2).sum()) for each in groups)
    plan_variance = within / (len(known.errors) - len(groups))
    means = np.array([each.mean() for each in groups])
    # The mean of a family's k runs still scatters by the plans' variance over k.
    scatter = plan_variance * float(np.mean([1 / len(each) for each in groups]))
    return Spreads(site=sqrt(max(float(means.var(ddof=1)) - scatter, 0.0)), plan=sqrt(plan_variance))


def correction_of(site: Site | None) -> Correction:
    """What a site's runs make of a prediction there; nothing without a site."""
    if site is None:
        return NONE
    known = spreads()
    shared, own = known.site**2, known.plan**2
    weight = shared / (shared + own / len(site.runs)) if shared else 0.0
    left = (shared * (1 - weight) + own) / (shared + own)
    return Correction(exp(weight * site.log_error), weight, sqrt(left))
