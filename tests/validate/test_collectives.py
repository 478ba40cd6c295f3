"""Published sweeps against the closed form: reading, the fit's recovery of known coefficients, the stated accuracy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hardware.collectives import Group, collective_s
from validate.collectives import fit_curve, links_of_row, predict, read_measurements, summarise

HEADER = "sweep_id,op,gpu,n_gpus,n_nodes,size_bytes,time_us,algbw_GBps,fabric,source\n"


def test_rows_are_read_in_si_units_and_times_follow_from_bandwidths(tmp_path: Path) -> None:
    file = tmp_path / "sweep.csv"
    file.write_text(
        HEADER
        + "a,all_reduce,H100-SXM-80GB,8,1,1000000000,,250.0,NVLink4,here\n"
        + "a,alltoall,A100-SXM-80GB,8,1,1048576,25.0,,NVLink,here\n"
        + "a,ep_dispatch,B200-SXM-180GB,8,1,,30.0,,NVLink,here\n"
    )
    table = read_measurements(file)
    assert table["operation"].tolist() == ["all_reduce", "all_to_all"]
    assert table["measured_s"].tolist() == pytest.approx([4e-3, 25e-6])


def test_missing_columns_and_unknown_machines_are_named(tmp_path: Path) -> None:
    file = tmp_path / "sweep.csv"
    file.write_text("op,gpu\nall_reduce,H100\n")
    with pytest.raises(ValueError, match="columns missing: sweep_id, n_gpus"):
        read_measurements(file)
    with pytest.raises(ValueError, match="H100-SXM-80GB"):
        links_of_row("Voodoo2", "NVLink")
    with pytest.raises(ValueError, match="RoCE"):
        links_of_row("H100-SXM-80GB", "token ring")


def test_fit_recovers_the_coefficients_that_made_the_data() -> None:
    rng = np.random.default_rng(3)
    n, size = (x.ravel() for x in np.meshgrid([2.0, 4.0, 8.0], 2.0 ** np.arange(9, 30)))
    truth = (20e-6 + 2 * (n - 1) * 3e-6) + size * (2 * (n - 1) / n + 0.5 / n) / (0.8 * 300e9)
    rows = pd.DataFrame({"n_gpus": n, "n_nodes": 1, "size_bytes": size})
    rows["measured_s"] = truth * rng.lognormal(0, 0.01, len(n))
    fixed_s, step_s, efficiency, copies, sharpness = fit_curve(rows, "all_reduce", "ring", 300e9)
    assert (fixed_s, step_s, efficiency, sharpness) == pytest.approx((20e-6, 3e-6, 0.8, 1.0), rel=0.1)
    assert copies == pytest.approx(0.5, abs=0.15)


def test_summary_counts_errors_by_group() -> None:
    table = pd.DataFrame({"who": ["a", "a", "b"], "error_fraction": [0.1, -0.3, 0.5]})
    summary = summarise(table, ["who"])
    assert summary["median_abs_error"].tolist() == pytest.approx([0.2, 0.5])
    assert summary["bias"].tolist() == pytest.approx([-0.1, 0.5])


@pytest.mark.parametrize(
    ("row", "limit"),
    [
        # One row each from published sweeps: DGX Cloud benchmarking (H100), Azure (A100), AWS p5 across two nodes.
        (("H100-SXM-80GB", "NVLink4/NVSwitch", 8, 1, 2**30, 4029.4), 0.10),
        (("A100-SXM-80GB", "NVLink", 8, 1, 2**30, 8237.8), 0.10),
        (("H100-SXM-80GB", "EFA v2 32x100G/node", 16, 2, 2**30, 4607.6), 0.20),
        (("H100-SXM-80GB", "NVLink4/NVSwitch", 8, 1, 2**16, 19.54), 0.20),
    ],
)
def test_single_published_all_reduces(row: tuple, limit: float) -> None:
    gpu, fabric, gpus, nodes, size, microseconds = row
    group = Group(float(gpus), gpus / nodes)
    seconds = collective_s("all_reduce", size, group, links_of_row(gpu, fabric)).seconds
    assert seconds == pytest.approx(microseconds * 1e-6, rel=limit)


PUBLISHED = Path(__file__).parents[2] / "validate" / "data" / "collectives.csv"


@pytest.mark.skipif(not PUBLISHED.exists(), reason="the published sweeps are not in this checkout")
def test_accuracy_on_every_published_sweep() -> None:
    """Median absolute error of time <= 10 % in a node, <= 20 % across nodes, 90th percentile <= 35 %."""
    summary = summarise(predict(read_measurements(PUBLISHED)), ["generation", "where"])
    limits = np.where(summary["where"] == "in a node", 0.10, 0.20)
    assert (summary["n"] >= 60).all()
    assert (summary["median_abs_error"] <= limits).all()
    assert (summary["p90_abs_error"] <= 0.35).all()
