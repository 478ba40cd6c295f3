"""Adds a measured run to a site correction: a small readable file that scenarios name under `hardware.site`."""

from __future__ import annotations

from dataclasses import replace
from math import exp
from pathlib import Path

import yaml

from simulator.predict.evidence import step_interval_s
from simulator.predict.simulate import simulate
from simulator.predict.site import correction_of
from simulator.scenario.schema import Scenario
from simulator.scenario.site_section import Site, SiteRun, read_site

HEAD = """\
# Runs measured on one site, beside what traincast predicted for each; made by 'traincast explain --fit'.
# A scenario names it:
#   hardware: {site: FILE}
# Errors that sites have in common are then corrected as far as these runs are believed (simulator/predict/site.py).
"""


def with_run(path: str | Path, run: SiteRun) -> Site:
    """The correction in a file, if there is one, with a run added; a run of the same scenario is replaced.

    Raises InputError where the file is no correction.
    """
    before = read_site(path).runs if Path(path).exists() else ()
    kept = tuple(each for each in before if (each.scenario, each.gpus) != (run.scenario, run.gpus))
    return Site(str(path), (*kept, run))


def site_text(site: Site) -> str:
    """The file of a correction."""
    runs = [
        {
            "scenario": run.scenario,
            "gpus": run.gpus,
            "steps": run.steps,
            "measured": f"{run.measured_s:.6g} s",
            "predicted": f"{run.predicted_s:.6g} s",
        }
        for run in site.runs
    ]
    known = correction_of(site)
    effect = (
        f"# Effect: predicted steps times {known.factor:.4f} (the runs' mean of {100 * (_ratio(site) - 1):+.1f} % is "
        f"believed to {100 * known.weight:.0f} %); intervals {100 * known.interval_fraction:.0f} % as wide.\n"
    )
    return HEAD + effect + str(yaml.safe_dump({"runs": runs}, sort_keys=False, allow_unicode=True))


def _ratio(site: Site) -> float:
    return exp(site.log_error)


def effect_on(scenario: Scenario, site: Site) -> tuple[float, tuple[float, float]]:
    """The scenario's step and its 80 % interval under the correction."""
    corrected = simulate(replace(scenario, site=site))
    return corrected.step.step_time_s, step_interval_s(corrected)
