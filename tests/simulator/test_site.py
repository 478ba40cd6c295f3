"""Site corrections: what measured runs make of the next prediction, and of its interval."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from hardware.problems import InputError
from simulator.launch.explain.site_fit import site_text, with_run
from simulator.predict.residuals import residuals
from simulator.predict.site import correction_of, spreads
from simulator.scenario.schema import load_scenario
from simulator.scenario.site_section import Site, SiteRun, read_site
from tests.command import ROOT


def site(*ratios: float) -> Site:
    return Site("site.yaml", tuple(SiteRun(ratio, 1.0, f"run {number}") for number, ratio in enumerate(ratios)))


def test_without_runs_nothing_changes() -> None:
    assert correction_of(None).factor == 1
    assert correction_of(None).interval_fraction == 1


def test_the_two_parts_of_an_error_add_up_to_about_the_whole() -> None:
    """Variance within families and between them; residuals of families of one row tell of both."""
    known, whole = spreads(), float(np.std(residuals().errors))
    assert known.site > 0
    assert math.hypot(known.site, known.plan) == pytest.approx(whole, rel=0.15)


def test_one_run_is_believed_by_the_sites_share_of_the_variance() -> None:
    """w = b^2 / (b^2 + s^2); what is left over is (b^2 (1 - w) + s^2) / (b^2 + s^2)."""
    b, s = spreads().site ** 2, spreads().plan ** 2
    weight = b / (b + s)
    found = correction_of(site(1.2))
    assert found.weight == pytest.approx(weight)
    assert found.factor == pytest.approx(1.2**weight)
    assert found.interval_fraction == pytest.approx(math.sqrt((b * (1 - weight) + s) / (b + s)))


def test_more_runs_are_believed_more_and_narrow_the_interval() -> None:
    one, many = correction_of(site(1.2)), correction_of(site(*[1.2] * 20))
    assert one.weight < many.weight < 1
    assert many.interval_fraction < one.interval_fraction < 1
    assert one.factor < many.factor < 1.2
    assert correction_of(site(1.25, 0.8)).factor == pytest.approx(1), "runs that are off by opposite ways"


def test_a_site_file_is_written_read_and_grows_by_scenario(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text(site_text(with_run(file, SiteRun(5.1, 4.9, "small", 64, 100))))
    file.write_text(site_text(with_run(file, SiteRun(8.0, 7.0, "large", 256, 40))))
    file.write_text(site_text(with_run(file, SiteRun(5.2, 4.9, "small", 64, 200))))
    read = read_site(file)
    assert [(run.scenario, run.measured_s, run.steps) for run in read.runs] == [("large", 8.0, 40), ("small", 5.2, 200)]
    assert "# Effect: predicted steps times" in file.read_text()


def test_a_scenario_names_a_site_file_beside_it(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(site_text(site(1.1)))
    text = (ROOT / "scenarios" / "tiny.yaml").read_text() + "hardware: {site: site.yaml}\n"
    (tmp_path / "tiny.yaml").write_text(text)
    loaded = load_scenario(tmp_path / "tiny.yaml")
    assert loaded.site is not None
    assert loaded.site.runs[0].measured_s == pytest.approx(1.1)
    (tmp_path / "site.yaml").write_text("runs: []\n")
    with pytest.raises(InputError, match="holds no run"):
        load_scenario(tmp_path / "tiny.yaml")
    (tmp_path / "site.yaml").unlink()
    with pytest.raises(InputError, match="no such file"):
        load_scenario(tmp_path / "tiny.yaml")
