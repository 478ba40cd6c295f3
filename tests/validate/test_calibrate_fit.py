"""Fits: known curves are found again from points made of them, and published sweeps go the same way as one's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hardware.catalogue import accelerator
from hardware.collectives.closed_form import efficiencies
from hardware.collectives.links import Links
from hardware.kernels import attention_s, gemm_s, grouped_gemm_s, kernel_set, streaming_s
from validate.calibrate.cases import GRIDS, grid_cases
from validate.calibrate.fitting.collective_curves import fit_collectives, table_of
from validate.calibrate.fitting.held_out import TooFew
from validate.calibrate.fitting.kernel_set import fit_kernels
from validate.calibrate.logs.read_log import read_log
from validate.calibrate.measuring.passes import moved_bytes
from validate.calibrate.points import MeasuredPoint
from validate.collective_fit import fit_curve, scale_up_sweeps

ROOT = Path(__file__).parents[2]
H200 = accelerator("h200")
WHERE = {"gpu": "NVIDIA H200", "part": "h200-sxm-141gb"}


def logged(path: Path) -> list[MeasuredPoint]:
    return list(read_log(path).points.values())


def seconds_of(point: MeasuredPoint, scale: float) -> float:
    """What the shipped curves of the H200 say, `scale` times slower: the machine that the fit must find again."""
    shape = point.shape
    if point.family == "gemm":
        return scale * gemm_s(H200, "bf16", shape["m"], shape["n"], shape["k"], role=shape["role"])
    if point.family == "grouped_gemm":
        mnk = (shape["m"], shape["n"], shape["k"])
        return scale * grouped_gemm_s(H200, "bf16", shape["groups"], *mnk, role=shape["role"])
    if point.family == "attention":
        return scale * attention_s(
            H200,
            "bf16",
            batch=shape["batch"],
            queries=shape["seq_len"],
            keys=shape["seq_len"],
            heads=shape["heads"],
            kv_heads=shape["kv_heads"],
            qk_dim=shape["qk_dim"],
            v_dim=shape["v_dim"],
            causal=True,
            backward=shape["role"] == "backward",
        )
    return scale * streaming_s(H200, moved_bytes(shape), "copy")


def made_of_curves(scale: float, noise: float) -> list[MeasuredPoint]:
    """The GPU grid, measured on a machine of known curves with some noise."""
    random = np.random.default_rng(1)
    found = []
    for case in grid_cases(GRIDS["cuda"], ["bf16"], experts=True):
        if case.family in ("gemm", "grouped_gemm", "attention", "streaming"):
            empty = MeasuredPoint(case.family, case.dtype, case.shape, where=WHERE)
            seconds = seconds_of(empty, scale) * float(np.exp(noise * random.standard_normal()))
            found.append(MeasuredPoint(case.family, case.dtype, case.shape, seconds, seconds, seconds, 9, where=WHERE))
    return found


@pytest.fixture(scope="module")
def fitted() -> dict:
    return fit_kernels(made_of_curves(scale=1.25, noise=0.01), H200, None, "test")


def test_products_are_found_again(fitted: dict) -> None:
    for family in ("gemm", "grouped_gemm"):
        held_out = fitted[family]["bf16"]["held_out"]["fit"]
        assert held_out["median"] < 0.03, family
        assert abs(held_out["bias"]) < 0.01
    truth = kernel_set("h200-sxm-141gb").gemm["bf16"].sustained_flops_per_s / 1.25
    assert fitted["gemm"]["bf16"]["curve"]["sustained_flops_per_s"] == pytest.approx(truth, rel=0.05)


def test_roles_are_found_again(fitted: dict) -> None:
    shipped = kernel_set("h200-sxm-141gb").role_rates
    for role in ("forward", "dgrad", "wgrad"):
        assert fitted["role_rates"]["gemm"][role] == pytest.approx(shipped["gemm"][role], abs=0.04)


def test_attention_is_found_again_with_backward_and_unequal_heads(fitted: dict) -> None:
    entry, shipped = fitted["attention"]["bf16"], kernel_set("h200-sxm-141gb").attention["bf16"]
    assert entry["held_out"]["fit"]["median"] < 0.03
    assert entry["curve"]["unequal_rate"] == pytest.approx(shipped.unequal_rate, abs=0.06)
    assert entry["curve"]["backward_rates"][0] == pytest.approx(shipped.backward_rates[0], abs=0.06)


def test_intervals_hold_the_number_and_are_not_empty(fitted: dict) -> None:
    entry = fitted["gemm"]["bf16"]
    low, high = entry["interval"]["sustained_flops_per_s"]
    assert low < entry["curve"]["sustained_flops_per_s"] < high
    assert high / low < 1.5


def test_bandwidth_shares_are_found_again(fitted: dict) -> None:
    share = H200.memory_bandwidth_bytes_per_s
    seconds = streaming_s(H200, 1e9, "copy") * 1.25
    assert fitted["streaming"]["copy"]["fraction"] == pytest.approx(1e9 / seconds / share, rel=0.03)


def test_more_noise_gives_wider_intervals(fitted: dict) -> None:
    noisy = fit_kernels(made_of_curves(scale=1.25, noise=0.08), H200, None, "test")
    widths = [np.diff(each["gemm"]["bf16"]["interval"]["sustained_flops_per_s"])[0] for each in (fitted, noisy)]
    assert widths[1] > widths[0]


def test_range_is_what_was_measured(fitted: dict) -> None:
    grid = GRIDS["cuda"]
    assert fitted["measured_range"]["attention"]["bf16"]["seq_len"] == [grid.lengths[0], grid.lengths[-1]]


def test_too_few_points_are_refused_or_borrowed() -> None:
    few = [point for point in made_of_curves(1.0, 0.0) if point.family == "gemm"][:8]
    with pytest.raises(TooFew, match="gemm bf16"):
        fit_kernels(few, H200, None, "test")
    import json

    shipped = json.loads((ROOT / "hardware/data/kernels/h200-sxm-141gb.json").read_text())
    whole = fit_kernels(few, H200, shipped, "test")
    assert whole["borrowed"] == ["gemm", "attention", "grouped_gemm"]
    assert whole["gemm"]["bf16"]["curve"] == shipped["gemm"]["bf16"]["curve"]


# ---- published measurements, the same way


def test_published_products_go_through_the_same_fit() -> None:
    points = [p for p in logged(ROOT / "hardware/data/kernels/sample_gemm.csv") if p.where["gpu"] == "h200-sxm-141gb"]
    points = [point for point in points if point.dtype == "bf16"]
    assert len(points) >= 15
    shipped = kernel_set("h200-sxm-141gb")
    rows = fit_kernels(points, H200, _raw("h200-sxm-141gb"), "published")
    sustained = rows["gemm"]["bf16"]["curve"]["sustained_flops_per_s"]
    assert sustained == pytest.approx(shipped.gemm["bf16"].sustained_flops_per_s, rel=0.1)
    assert rows["borrowed"] == ["attention", "grouped_gemm"]


def _raw(name: str) -> dict:
    import json

    return json.loads((ROOT / f"hardware/data/kernels/{name}.json").read_text())


def test_published_collectives_go_through_the_same_fit() -> None:
    table = table_of(logged(ROOT / "validate/published/collectives.csv"))
    sweeps = {sweep[:3]: sweep for sweep in scale_up_sweeps(table)}
    key = ("hopper", "all_reduce", "ring/LL")
    generation, operation, pair, rows = sweeps[key]
    curve = fit_curve(rows, operation, "ring", rows["link"].to_numpy(float))
    assert curve == pytest.approx(efficiencies()["scale_up"][generation][operation][pair], rel=0.05)


def machine(**changes: object) -> Links:
    fields = {
        "generation": "hopper",
        "cpu_vendor": "intel",
        "scale_up_bytes_per_s": 450e9,
        "scale_up_latency_s": 1e-6,
        "multicast": False,
        "nic_bytes_per_s": 50e9,
        "nic_technology": "infiniband",
        "tier_latencies_s": (2.8e-6,),
        "tier_oversubscription": (1.0,),
        "in_network_reduction": False,
    }
    return Links(**{**fields, **changes})


def ring_points(latency_s: float, efficiency: float) -> list[MeasuredPoint]:
    """All-reduce on 2, 4 and 8 GPUs by a ring of known latency per step and efficiency."""
    found = []
    for ranks in (2, 4, 8):
        for size in 2.0 ** np.arange(20, 33, 2):
            seconds = 2 * (ranks - 1) * latency_s + size * 2 * (ranks - 1) / ranks / (efficiency * 450e9)
            shape = {
                "operation": "all_reduce",
                "size_bytes": int(size),
                "n_gpus": ranks,
                "stride": 1,
                "n_nodes": 1,
                "at_once": 1,
            }
            found.append(MeasuredPoint("collective", "fp32", shape, float(seconds), where=WHERE))
    return found


def test_a_ring_of_known_speed_is_found_again() -> None:
    document = fit_collectives(ring_points(3e-6, 0.75), machine(), "infiniband", "test")
    assert document is not None
    errors = document["held_out"]["hopper all_reduce ring/Simple"]
    assert errors["median"] < 0.01
    coefficients = document["scale_up"]["hopper"]["all_reduce"]["ring/Simple"]
    assert coefficients[2] == pytest.approx(0.75, rel=0.05)
    low, high = document["interval"]["hopper all_reduce ring/Simple"]["efficiency"]
    assert low <= coefficients[2] <= high


def test_a_network_fit_leaves_the_shipped_coefficients_as_they_were() -> None:
    import json

    before = json.dumps(efficiencies())
    points = [
        MeasuredPoint(
            "collective",
            "fp32",
            {
                "operation": "all_reduce",
                "size_bytes": int(size),
                "n_gpus": ranks,
                "stride": 1,
                "n_nodes": ranks // 8,
                "at_once": 1,
            },
            4e-5 + size / 30e9,
            where=WHERE,
        )
        for ranks in (16, 32)
        for size in 2.0 ** np.arange(10, 31, 3)
    ]
    document = fit_collectives(points, machine(), "infiniband", "test")
    assert document is not None
    assert set(document["network"]) == {"infiniband"}
    assert json.dumps(efficiencies()) == before


def test_groups_that_ran_beside_others_and_skewed_exchanges_are_not_fitted() -> None:
    points = ring_points(3e-6, 0.75)
    beside = [MeasuredPoint(p.family, p.dtype, {**p.shape, "at_once": 4}, 10 * p.seconds, where=WHERE) for p in points]
    skewed = [
        MeasuredPoint(p.family, p.dtype, {**p.shape, "operation": "all_to_all_skewed"}, 1.0, where=WHERE)
        for p in points
    ]
    assert len(table_of([*points, *beside, *skewed])) == len(points)
    assert fit_collectives(beside, machine(), "infiniband", "test") is None
