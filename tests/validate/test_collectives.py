"""Published sweeps against the closed form: reading, the fit's recovery of known coefficients, the stated accuracy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hardware.collectives import OPERATIONS, Group, closed_form, collective_s
from validate.collective_fit import fit_curve, held_out, main
from validate.collectives import (
    PUBLISHED,
    collectives_document,
    collectives_text,
    group_of_row,
    links_of_row,
    part_of,
    predict,
    read_measurements,
    stated_port_bytes_per_s,
    summarise,
    write_plot,
)

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
    assert table["operation"].tolist() == ["all_reduce", "all_to_all", "dispatch"]
    assert table["measured_s"].tolist()[:2] == pytest.approx([4e-3, 25e-6])
    assert table["reason"].tolist() == ["", "", "tokens, hidden size and top-k are not in the notes"]


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
        # stas00/ml-engineering: 4 nodes of 8 B200, 4 GiB.
        (("B200-SXM-180GB", "EFA v2", 32, 4, 2**32, 22050.0), 0.15),
    ],
)
def test_single_published_all_reduces(row: tuple, limit: float) -> None:
    gpu, fabric, gpus, nodes, size, microseconds = row
    group = Group(float(gpus), gpus / nodes)
    seconds = collective_s("all_reduce", size, group, links_of_row(gpu, fabric)).seconds
    assert seconds == pytest.approx(microseconds * 1e-6, rel=limit)


def test_accuracy_on_every_published_sweep() -> None:
    """Median absolute error of time <= 10 % in a node, <= 20 % across nodes, 90th percentile <= 35 %."""
    table = read_measurements(PUBLISHED)
    summary = summarise(predict(table[~table["operation"].isin(("dispatch", "combine"))]), ["generation", "where"])
    limits = np.where(summary["where"] == "in a node", 0.10, 0.20)
    assert (summary["n"] >= 60).all()
    assert (summary["median_abs_error"] <= limits).all()
    assert (summary["p90_abs_error"] <= 0.35).all()


def test_sweeps_left_out_of_the_fit_are_predicted() -> None:
    """Four GPUs from two and eight (and H100's and B200's five to seven): within 15 % at the median."""
    table = read_measurements(PUBLISHED)
    table = table[table["reason"].eq("") & table["operation"].isin(OPERATIONS)]
    before = json.dumps(closed_form.efficiencies())
    summary = held_out(table, 4)
    assert len(summary) == 3
    assert (summary["median_abs_error"] <= 0.15).all()
    assert json.dumps(closed_form.efficiencies()) == before


def test_expert_exchanges_are_predicted_from_their_notes() -> None:
    table = read_measurements(PUBLISHED)
    predicted = predict(table[table["operation"].isin(("dispatch", "combine"))])
    assert len(predicted) == 114
    assert predicted["error_fraction"].abs().median() < 0.10
    deepep = predicted[predicted["gpu"].eq("H800-SXM")]
    assert len(deepep) == 6
    assert deepep["error_fraction"].abs().max() < 0.10


def test_document_table_and_plot(tmp_path: Path) -> None:
    file = tmp_path / "sweep.csv"
    rows = [f"a,all_reduce,H100-SXM-80GB,8,1,{2**i},{20 + 2**i / 4e5},,NVLink4,here" for i in range(10, 30)]
    unknown = ["b,all_reduce,Voodoo2,8,1,1024,20,,NVLink4,here", "c,ep_ll_dispatch,H800-SXM,8,1,1024,20,,CX7,here"]
    file.write_text(HEADER + "\n".join(rows + unknown) + "\n")
    document = collectives_document(file)
    assert (document["summary"]["n"], document["summary"]["supported"]) == (22, 20)
    reasons = [row["reason"] for row in document["rows"] if row["status"] == "unsupported"]
    assert "Voodoo2" in reasons[0]
    assert reasons[1] == "operation ep_ll_dispatch is not modelled"
    text = collectives_text(document)
    assert text.startswith("20 of 22 measurements predicted")
    assert "hopper  in a node" in text
    write_plot(document, tmp_path / "plot.html")
    assert "measured" in (tmp_path / "plot.html").read_text()


@pytest.mark.slow
def test_the_fit_stored_is_the_fit_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Fitting again from the stored efficiencies leaves accuracy where it is."""
    monkeypatch.setattr("validate.collective_fit.DATA", tmp_path)
    monkeypatch.setattr("sys.argv", ["collective_fit"])
    before = collectives_document()["summary"]["median_abs_error"]
    try:
        main()
        after = collectives_document()["summary"]["median_abs_error"]
    finally:
        closed_form.efficiencies.cache_clear()
        closed_form.forget()
    assert (tmp_path / "efficiencies.json").exists()
    assert after == pytest.approx(before, rel=0.1)


def test_rows_of_unknown_parts_are_unsupported_one_by_one(tmp_path: Path) -> None:
    file = tmp_path / "sweep.csv"
    notes = "tokens=4096 hidden=7168 topk=8 experts=256 sms=24"
    file.write_text(
        HEADER.replace("source", "source,notes")
        + f"a,ep_dispatch,MI355X,8,1,,30.0,,NVLink,here,{notes}\n"
        + "b,all_reduce,Voodoo2,8,1,1000,10.0,,NVLink,here,\n"
        + "c,all_reduce,H100-SXM-80GB,many,1,1000,10.0,,NVLink,here,\n"
        + "d,all_reduce,H100-SXM-80GB,8,1,1000000,40.0,,NVLink,here,\n"
    )
    document = collectives_document(file)
    assert [row["status"] for row in document["rows"]] == ["unsupported"] * 3 + ["ok"]
    assert "MI355X" in document["rows"][0]["reason"]
    assert document["summary"]["supported"] == 1
    file.write_text(HEADER + "b,all_reduce,Voodoo2,8,1,1000,10.0,,NVLink,here\n")
    assert collectives_document(file)["summary"]["median_abs_error"] is None


def test_every_row_is_predicted_or_refused_alone(tmp_path: Path) -> None:
    """One bad row of each kind among good ones; the good ones are those whose reason is empty."""
    notes = "tokens={} hidden=7168 topk={} experts=256 sms=24"
    rows = [
        ("all_reduce,GB200-NVL72,72,18,1073741824,2500,,NVLink", "", ""),
        ("all_reduce,GB300 NVL72,144,36,1073741824,2500,,InfiniBand XDR", "", ""),
        ("all_reduce,H20,16,2,1073741824,9000,,RoCE 400G", "", ""),
        ("all_reduce,H100,8,1,1073741824,4000,,", "", ""),
        ("all_reduce,MI300X,16,2,1073741824,6000,,RoCE", "", ""),
        ("all_reduce,H100-SXM-80GB,12,5,1073741824,9000,,CX7", "", "12 GPUs do not lie evenly on 5 nodes"),
        ("all_reduce,H100-SXM-80GB,1,1,1073741824,9000,,CX7", "", "one GPU exchanges nothing"),
        ("all_reduce,H100-SXM-80GB,inf,1,1073741824,9000,,CX7", "", "has no number of GPUs and nodes"),
        ("all_reduce,H100-SXM-80GB,8,1,inf,9000,,CX7", "", "has no size or no time"),
        ("all_reduce,H100-SXM-80GB,16,2,1024,9000,,token ring", "", "fabric 'token ring'"),
        ("gather,H100-SXM-80GB,8,1,1024,9000,,CX7", "", "operation gather is not modelled"),
        ("ep_dispatch,H100-SXM-80GB,8,1,,,100,CX7", notes.format(0, 8), "a routing that no model has"),
        ("ep_dispatch,H100-SXM-80GB,8,1,,,100,CX7", notes.format(4096, 256), "a routing that no model has"),
    ]
    file = tmp_path / "sweep.csv"
    lines = [f"a,{row},here,{note}\n" for row, note, _ in rows]
    file.write_text(HEADER.replace("source", "source,notes") + "".join(lines))
    found = collectives_document(file)["rows"]
    for row, (_, _, reason) in zip(found, rows, strict=True):
        assert row["status"] == ("unsupported" if reason else "ok")
        assert reason in (row["reason"] or "")


def test_trays_of_one_rack_are_one_place() -> None:
    """72 GPUs in 18 trays need no network; 144 have two places."""
    row = {"gpu": "gb200", "n_gpus": 72.0, "n_nodes": 18.0}
    assert group_of_row(row).domains == 1
    assert group_of_row({**row, "n_gpus": 144.0, "n_nodes": 36.0}).domains == 2


@pytest.mark.parametrize(
    ("fabric", "gigabytes_per_s"),
    [
        ("EFA v1 4x100G/node", 6.25),
        ("EFA v2 3200G/node", 50),
        ("RoCE 16x100G/node", 25),
        ("CX7 400G", 50),
        ("RoCE", None),
    ],
)
def test_ports_are_as_fast_as_the_fabric_says(fabric: str, gigabytes_per_s: float | None) -> None:
    """Gb/s of a server are shared by its eight GPUs."""
    stated = stated_port_bytes_per_s(fabric, 8.0)
    assert stated == (None if gigabytes_per_s is None else pytest.approx(gigabytes_per_s * 1e9))


def test_tcpxo_is_not_tcpx() -> None:
    links = [links_of_row("H100", f"GPUDirect-{name} 8x200G/node") for name in ("TCPXO", "TCPX")]
    assert [each.nic_technology for each in links] == ["tcpxo", "tcpx"]


def test_short_names_of_parts_mean_one_part() -> None:
    assert part_of("h20") == "H20-SXM-96GB"
    assert part_of("H200") == "H200-SXM-141GB"
    assert part_of("GB300 NVL72") == "GB300-NVL72"
    with pytest.raises(ValueError, match="H10"):
        part_of("H10")
