"""The file of points: it grows point by point, survives a torn end, and refuses what is not a point."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hardware.problems import InputError
from validate.calibrate.points import OUT_OF_MEMORY, BenchCase, MeasuredPoint, Points, frame

SHAPE = {"m": 128, "n": 256, "k": 64, "role": "forward"}


def point(seconds: float = 1e-3, **shape: object) -> MeasuredPoint:
    return MeasuredPoint(
        "gemm", "bf16", {**SHAPE, **shape}, seconds, 0.9 * seconds, 1.2 * seconds, 9, where={"gpu": "x"}
    )


def test_key_does_not_depend_on_the_order_of_dimensions() -> None:
    turned = dict(reversed(SHAPE.items()))
    assert BenchCase("gemm", "bf16", SHAPE).key == BenchCase("gemm", "bf16", turned).key
    assert BenchCase("gemm", "bf16", SHAPE).key != BenchCase("gemm", "fp8", SHAPE).key


def test_every_point_is_on_disk_at_once_and_read_back(tmp_path: Path) -> None:
    points = Points(tmp_path / "new" / "points.jsonl")
    points.add(point())
    points.add(point(2e-3, m=512))
    again = Points(points.path)
    assert again.by_key == points.by_key
    assert len(points.path.read_text().splitlines()) == 2


def test_a_torn_last_line_is_dropped_and_the_rest_kept(tmp_path: Path) -> None:
    points = Points(tmp_path / "points.jsonl")
    points.add(point())
    whole = points.path.read_text()
    points.path.write_text(whole + whole[: len(whole) // 2])
    again = Points(points.path)
    assert list(again.by_key) == [point().key]
    again.add(point(m=512))
    assert len(Points(points.path).by_key) == 2, "what is added after a torn line stands on a line of its own"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("not json", "not a JSON object"),
        ("[1, 2]", "not a JSON object"),
        ('{"family": "gemm", "dtype": "bf16"}', "lacks"),
        ('{"family": "gemm", "dtype": "bf16", "shape": {}, "code": "x"}', "code"),
        ('{"family": "gemm", "dtype": "bf16", "shape": {"m": [1]}}', "shape"),
        ('{"family": "gemm", "dtype": "bf16", "shape": {}, "seconds": true}', "seconds"),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: str, words: str) -> None:
    file = tmp_path / "points.jsonl"
    file.write_text(f"{line}\n")
    with pytest.raises(InputError) as caught:
        Points(file)
    assert "points.jsonl:1" in str(caught.value)
    assert words in str(caught.value)


def test_out_of_memory_is_not_tried_again_but_other_failures_are(tmp_path: Path) -> None:
    points = Points(tmp_path / "points.jsonl")
    big, odd = BenchCase("gemm", "bf16", {**SHAPE, "m": 1}), BenchCase("gemm", "bf16", {**SHAPE, "m": 2})
    points.add(MeasuredPoint("gemm", "bf16", big.shape, failed=OUT_OF_MEMORY))
    points.add(MeasuredPoint("gemm", "bf16", odd.shape, failed="launch failure"))
    assert points.has(big)
    assert not points.has(odd)
    assert points.usable() == []


def test_numbers_that_json_lacks_are_left_out(tmp_path: Path) -> None:
    points = Points(tmp_path / "points.jsonl")
    points.add(MeasuredPoint("gemm", "bf16", SHAPE, failed="x"))
    assert "seconds" not in json.loads(points.path.read_text())


def test_frame_has_a_column_per_dimension() -> None:
    table = frame([point(), point(2e-3, m=512)], "gemm", "bf16")
    assert list(table.latency_us) == [1000.0, 2000.0]
    assert table.spread.tolist() == pytest.approx([0.3, 0.3])
    assert set(SHAPE) < set(table.columns)
