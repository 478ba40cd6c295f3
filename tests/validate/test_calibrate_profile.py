"""Profiles: written, read back, refused where damaged, and felt by the prediction of a scenario that names one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hardware.catalogue import accelerator
from hardware.kernels import evidence, gemm_s, streaming_s
from hardware.problems import InputError
from hardware.profile import forget, read_profile
from simulator.cost.constants import constants_for
from simulator.cost.inventory import beyond_profile
from simulator.cost.step_times import COMMUNICATION_FRACTION, shares_beside
from simulator.predict.prediction import evaluate
from simulator.predict.simulate import scenario_workload
from simulator.scenario.resolved import scenario_yaml
from simulator.scenario.schema import load_scenario
from validate.calibrate.cases import GRIDS, grid_cases, kernel_cases
from validate.calibrate.measuring.passes import moved_bytes
from validate.calibrate.options import Options
from validate.calibrate.points import MeasuredPoint, Points
from validate.calibrate.profile_files import finish

# On one worker of pytest-xdist, so that what the tests share is made once.
pytestmark = pytest.mark.xdist_group("calibrated profile")
ROOT = Path(__file__).parents[2]
H100 = accelerator("h100")
WHERE = {"gpu": "NVIDIA H100 80GB HBM3", "part": "h100-sxm-80gb", "device": "cuda", "torch": "2.13.0", "driver": "580"}
RATE, BANDWIDTH, FIXED_S = 400e12, 2.0e12, 4e-6  # of an imaginary slow H100


def slow_s(family: str, shape: dict[str, Any]) -> float:
    """A roofline: seconds on the imaginary machine."""
    if family == "attention":
        pairs = shape["batch"] * shape["heads"] * shape["seq_len"] ** 2 / 2
        flops = 2 * pairs * (shape["qk_dim"] + shape["v_dim"]) * (2.5 if shape["role"] == "backward" else 1.0)
        return flops / (0.6 * RATE) + FIXED_S
    if family == "streaming":
        return moved_bytes(shape) / BANDWIDTH + FIXED_S
    groups, m, n, k = (shape.get(name, 1) for name in ("groups", "m", "n", "k"))
    written = 8 if shape["role"] == "wgrad" else 2
    moved = groups * (2 * k * (m + n) + written * m * n)
    return max(2 * groups * m * n * k / RATE, moved / BANDWIDTH) + FIXED_S


def slow_points(cases: Any) -> Iterator[MeasuredPoint]:
    for case in cases:
        if case.family in ("gemm", "grouped_gemm", "attention", "streaming"):
            seconds = slow_s(case.family, dict(case.shape))
            yield MeasuredPoint(case.family, case.dtype, case.shape, seconds, seconds, seconds, 9, where=WHERE)


def ring_points() -> Iterator[MeasuredPoint]:
    for ranks in (2, 4, 8):
        for size in (2**10, 2**14, 2**18, 2**22, 2**26, 2**30):
            shape = {
                "operation": "all_reduce",
                "size_bytes": size,
                "n_gpus": ranks,
                "stride": 1,
                "n_nodes": 1,
                "at_once": 1,
            }
            seconds = 2e-5 * ranks + size * 2 * (ranks - 1) / ranks / 100e9
            yield MeasuredPoint("collective", "fp32", shape, seconds, seconds, seconds, 9, where=WHERE)


def filled(folder: Path, cases: Any) -> Path:
    points = Points(folder / "points.jsonl")
    for point in [*slow_points(cases), *ring_points()]:
        points.add(point)
    assert finish(Options(folder), []) is not None
    return folder


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return filled(tmp_path_factory.mktemp("p") / "slow", grid_cases(GRIDS["cuda"], ["bf16"], experts=True))


@pytest.fixture
def copied(profile: Path, tmp_path: Path) -> Iterator[Path]:
    yield Path(shutil.copytree(profile, tmp_path / "copy"))
    forget()


def scenario(*overrides: str) -> Any:
    return load_scenario(ROOT / "scenarios/tiny.yaml", list(overrides))


def beyond(held: Any) -> tuple[str, ...]:
    return beyond_profile(scenario_workload(held), held.cluster)


# ---- what is written


def test_a_profile_is_readable_text_with_its_provenance(profile: Path) -> None:
    head = json.loads((profile / "profile.json").read_text())
    assert head["version"] == 1
    assert head["part"] == "h100-sxm-80gb"
    assert head["machine"]["gpu"] == WHERE["gpu"]
    assert head["machine"]["torch"] == "2.13.0"
    assert "gemm bf16" in (profile / "REPORT.md").read_text()
    for name in ("kernels.json", "collectives.json"):
        assert (profile / name).read_text().count("\n") > 30, (
            "one number to a line, so that two profiles can be compared"
        )


def test_fitting_again_gives_the_same_files(profile: Path, copied: Path) -> None:
    assert finish(Options(copied), []) is not None
    for name in ("kernels.json", "collectives.json"):
        assert (copied / name).read_bytes() == (profile / name).read_bytes()


def test_a_profile_prices_what_it_measured(profile: Path) -> None:
    with_profile = scenario(f"hardware.profile={profile}").cluster.accelerator
    measured = slow_s("gemm", {"m": 8192, "n": 7168, "k": 8192, "role": "forward"})
    assert gemm_s(with_profile, "bf16", 8192, 7168, 8192) == pytest.approx(measured, rel=0.05)
    assert gemm_s(H100, "bf16", 8192, 7168, 8192) < 0.7 * measured
    assert streaming_s(with_profile, 2**30, "norm") == pytest.approx(2**30 / BANDWIDTH, rel=0.05)
    assert evidence(with_profile, "gemm") == "measured"
    assert evidence(with_profile, "norm") == "measured"


# ---- a scenario that names one


def test_predictions_rest_on_the_profile(profile: Path) -> None:
    before, after = evaluate(scenario()), evaluate(scenario(f"hardware.profile={profile}"))
    assert after.step_time_s > 1.05 * before.step_time_s
    assert after.evidence["measured"] > 0.5


def test_a_scenario_file_names_it_beside_itself_and_resolves_to_the_same(copied: Path, tmp_path: Path) -> None:
    written = yaml.safe_load((ROOT / "scenarios/tiny.yaml").read_text())
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({**written, "hardware": {"profile": "copy"}}))
    loaded = load_scenario(file)
    again = tmp_path / "elsewhere" / "again.yaml"
    again.parent.mkdir()
    again.write_text(scenario_yaml(loaded))
    assert evaluate(load_scenario(again)).step_time_s == evaluate(loaded).step_time_s


def test_collectives_of_the_profile_are_used(profile: Path) -> None:
    from hardware.collectives import Group, collective_s

    group = Group(8.0, 8.0)
    slow = collective_s("all_reduce", 2**30, group, scenario(f"hardware.profile={profile}").cluster).seconds
    assert slow == pytest.approx(1.6e-4 + 2**30 * 1.75 / 100e9, rel=0.05)
    assert collective_s("all_reduce", 2**30, group, scenario().cluster).seconds < 0.6 * slow


def test_shapes_beyond_the_measured_ones_are_told(profile: Path, tmp_path: Path) -> None:
    near = beyond(scenario(f"hardware.profile={profile}"))
    assert beyond(scenario()) == ()
    far = scenario(f"hardware.profile={profile}", "run.seq_length=131072", "plan.micro_batch_size=1")
    told = evaluate(far).warnings
    assert any("extrapolated" in each for each in told)
    assert any("seq_len 131072 of 512 to 32768" in each for each in beyond(far))
    assert not any("seq_len" in each for each in near)


def test_measuring_the_scenario_first_leaves_nothing_beyond(tmp_path: Path) -> None:
    mine = filled(tmp_path / "mine", kernel_cases("cuda", scenario()))
    missing = beyond(scenario(f"hardware.profile={mine}"))
    assert not [each for each in missing if each.startswith(("gemm", "grouped_gemm", "attention"))]


def test_another_part_is_refused(profile: Path) -> None:
    with pytest.raises(InputError, match="measured on h100-sxm-80gb") as caught:
        scenario(f"hardware.profile={profile}", "cluster.node=hgx-b200")
    assert "hardware.profile" in str(caught.value)


def test_rates_that_correct_shipped_curves_do_not_touch_measured_ones(profile: Path) -> None:
    plain, own = scenario(), scenario(f"hardware.profile={profile}")
    assert constants_for(plain.cluster.accelerator, plain.plan).gemm_rate != 1.0
    rates = constants_for(own.cluster.accelerator, own.plan)
    assert (rates.gemm_rate, rates.grouped_rate, rates.attention_rate, rates.streaming_rate) == (1.0, 1.0, 1.0, 1.0)
    assert rates.host_s_per_kernel == constants_for(plain.cluster.accelerator, plain.plan).host_s_per_kernel


def test_measured_contention_takes_the_place_of_the_published(copied: Path) -> None:
    damaged(copied / "collectives.json", lambda d: d.update(contention={"compute": 1.25, "communication": 2.0}))
    own = scenario(f"hardware.profile={copied}")
    assert shares_beside(own.plan, own.cluster) == (0.8, 0.5)
    plain = scenario()
    assert shares_beside(plain.plan, plain.cluster)[1] == COMMUNICATION_FRACTION


def test_a_sibling_keeps_its_scale(profile: Path) -> None:
    """An H800 computes as an H100 does: the catalogue prices it by H100 curves, and so by an H100 profile."""
    part = scenario(f"hardware.profile={profile}", "cluster.node=hgx-h800").cluster.accelerator
    assert part.kernels.endswith("kernels.json")
    assert evidence(part, "gemm") == "fitted"


def test_a_folder_without_a_profile_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"profile\.json"):
        scenario(f"hardware.profile={tmp_path}")


# ---- a damaged profile


def damaged(path: Path, change: Callable[[dict], object]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def _curve(document: dict) -> dict:
    return document["gemm"]["bf16"]["curve"]


DAMAGE: list[tuple[str, Callable[[dict], object], str]] = [
    ("kernels.json", lambda d: _curve(d).pop("k_half"), "gemm.bf16.curve.k_half: is missing"),
    ("kernels.json", lambda d: _curve(d).update(k_half="12"), "k_half: must be a number"),
    ("kernels.json", lambda d: _curve(d).update(latency_s=-1.0), "latency_s: must be a number of at least 0"),
    ("kernels.json", lambda d: _curve(d).update(bandwidth_fraction=1.7), "cannot be above 1"),
    ("kernels.json", lambda d: _curve(d).update(extra=1.0), "extra"),
    ("kernels.json", lambda d: d["attention"].pop("bf16"), "attention.bf16"),
    ("kernels.json", lambda d: d["role_rates"]["gemm"].pop("wgrad"), "role_rates.gemm.wgrad"),
    ("kernels.json", lambda d: d["streaming"].update(magic={"fraction": 0.5}), "magic"),
    ("collectives.json", lambda d: d["scale_up"]["hopper"].update(all_ruduce={}), "all_ruduce"),
    ("collectives.json", lambda d: d["scale_up"]["hopper"]["all_reduce"].update({"ring/LL": [1, 2]}), "five numbers"),
    ("collectives.json", lambda d: d["contention"].update(compute="much"), "contention.compute"),
    ("profile.json", lambda d: d.update(version=99), "version: is 99"),
    ("profile.json", lambda d: d.pop("part"), "part: is missing"),
    ("profile.json", lambda d: d.update(files=["points.jsonl"]), "kernels.json"),
]


@pytest.mark.parametrize(("name", "change", "words"), DAMAGE, ids=[words for _, _, words in DAMAGE])
def test_a_damaged_profile_names_file_and_key(copied: Path, name: str, change: Callable, words: str) -> None:
    damaged(copied / name, change)
    with pytest.raises(InputError) as caught:
        scenario(f"hardware.profile={copied}")
    assert name in str(caught.value)
    assert words in str(caught.value)


def test_all_damage_is_told_at_once(copied: Path) -> None:
    damaged(copied / "kernels.json", lambda d: _curve(d).update(k_half=None, ramp=2.0))
    damaged(copied / "collectives.json", lambda d: d.pop("source"))
    with pytest.raises(InputError) as caught:
        read_profile(copied)
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize("text", ["", "{", "\x00\x01", "[1]", '{"name": 1e999}'])
def test_a_file_that_is_no_document_is_refused(copied: Path, text: str) -> None:
    (copied / "kernels.json").write_text(text)
    with pytest.raises(InputError, match=r"kernels\.json"):
        read_profile(copied)


def test_a_missing_file_is_refused(copied: Path) -> None:
    (copied / "collectives.json").unlink()
    with pytest.raises(InputError, match=r"collectives\.json"):
        read_profile(copied)
