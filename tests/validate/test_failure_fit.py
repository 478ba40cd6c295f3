"""The fit finds again what a fault log was made of."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from simulator.run.durations import lognormal
from simulator.run.fault_log import LogRow
from simulator.run.fault_timeline import draw, draw_lemons
from simulator.run.faults import FailureModel, FaultClass, Machines, mean_time_between_s
from simulator.run.read_failures import failure_model
from validate.failure_fit import as_document, fit, fit_bursts, fit_lemons, main

DAY = 86400.0


def synthetic(model: FailureModel, nodes: int, days: float, seed: int) -> list[LogRow]:
    rng = np.random.default_rng(seed)
    machines = Machines(nodes, 0, 8)
    t = draw(model, machines, (0.0, days * DAY), draw_lemons(model, machines, rng), rng)
    names = [c.name for c in model.classes]
    return [
        LogRow(start, start + repair, int(node), "", names[kind], "")
        for start, repair, node, kind in zip(t.time_s, t.repair_s, t.node, t.component, strict=True)
    ]


def known(**together: float) -> FailureModel:
    repair = lognormal(DAY, 3 * DAY)
    classes = (FaultClass("a", "crash", 4 / (8 * 1000 * DAY), "node", repair=repair),
               FaultClass("b", "crash", 1 / (8 * 1000 * DAY), "node", repair=repair))  # fmt: skip
    return replace(FailureModel("known", classes), **together)


def test_fit_finds_rates_and_repairs() -> None:
    fitted = fit(synthetic(known(), 2000, 300.0, 1), 2000, 300 * DAY)
    assert fitted.counts["a"] == pytest.approx(2400, abs=4 * math.sqrt(2400))
    median, mean = fitted.repair_s["a"]
    assert median == pytest.approx(DAY, rel=0.1)
    assert mean == pytest.approx(3 * DAY, rel=0.15)


def test_fit_finds_lemons() -> None:
    fitted = fit(synthetic(known(lemon_fraction=0.1, lemon_multiplier=10.0), 2000, 300.0, 2), 2000, 300 * DAY)
    assert fitted.lemon_fraction == pytest.approx(0.1, abs=0.02)
    assert fitted.lemon_multiplier == pytest.approx(10.0, rel=0.15)
    assert fitted.log_likelihood > fitted.uniform_log_likelihood + 100


def test_fit_finds_no_lemons_among_equals() -> None:
    counts = np.random.default_rng(3).poisson(1.5, 2000)
    fraction, multiplier, likelihood = fit_lemons(counts)
    uniform = counts * np.log(counts.mean()) - counts.mean() - [math.lgamma(c + 1) for c in counts]
    assert likelihood < uniform.sum() + 4
    assert fraction * (multiplier - 1) < 0.2


def test_fit_finds_bursts_and_swings() -> None:
    model = known(burst_mean=0.4, burst_window_s=60.0, swing_variance=0.5)
    fitted = [fit(synthetic(model, 400, 700.0, seed), 400, 700 * DAY) for seed in range(4)]
    assert np.mean([f.burst_mean for f in fitted]) == pytest.approx(0.4, rel=0.2)
    assert np.mean([f.swing_variance for f in fitted]) == pytest.approx(0.5, rel=0.35)
    even = fit_bursts(np.random.default_rng(4).uniform(0, 100 * DAY, 500), 100 * DAY)
    assert even[0] < 0.02


def test_fitted_document_is_read_back(tmp_path: Path) -> None:
    log = synthetic(known(lemon_fraction=0.1, lemon_multiplier=10.0), 200, 200.0, 5)
    lines = ["start_day,end_day,node,level,class,description"]
    lines += [f"{r.start_s / DAY},{r.end_s / DAY},{r.node},Hardware,{r.component},text" for r in log]
    (tmp_path / "log.csv").write_text("\n".join(lines))
    out = tmp_path / "model.yaml"
    main([str(tmp_path / "log.csv"), "--nodes", "200", "--days", "200", "--out", str(out)])
    model = failure_model(str(out))
    fitted = fit(log, 200, 200 * DAY)
    assert out.read_text() == as_document(fitted, 8, f"Fitted to {tmp_path / 'log.csv'}", str(tmp_path / "log.csv"))
    assert mean_time_between_s(model, 1600) == pytest.approx(200 * DAY / len(log))
    assert model.lemon_multiplier == fitted.lemon_multiplier
