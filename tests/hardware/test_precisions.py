"""Precisions and number formats: bytes by hand, and what every record must keep."""

from __future__ import annotations

import pytest

from hardware.precisions import FORMATS, KEPT_FORMATS, OFFERED, PRECISIONS, REFERENCE, half_precision_peak


@pytest.mark.parametrize(
    ("name", "operand", "output"),
    [
        ("fp32", 4.0, 4.0),
        ("fp16", 2.0, 2.0),
        ("bf16", 2.0, 2.0),
        ("fp8-delayed", 1.0, 2.0),
        ("fp8-tensorwise", 1.0, 2.0),
        ("fp8-rowwise", 1.0, 2.0),
        ("fp8-blockwise", 1.03125, 2.0),  # an fp32 scale per 128
        ("mxfp8", 1.03125, 2.0),  # a byte per 32
        ("nvfp4", 0.5625, 2.0),  # a byte per 16
    ],
)
def test_bytes_of_operands_and_outputs(name: str, operand: float, output: float) -> None:
    assert PRECISIONS[name].operand_bytes == operand
    assert PRECISIONS[name].output_bytes == output


@pytest.mark.parametrize(
    ("name", "kept_low", "size"),
    [("fp32", True, 4.0), ("bf16", True, 2.0), ("fp8-rowwise", False, 2.0), ("fp8-rowwise", True, 1.0),
     ("mxfp8", True, 2.0), ("nvfp4", True, 2.0)],
)  # fmt: skip
def test_bytes_of_a_gathered_weight(name: str, kept_low: bool, size: float) -> None:
    assert PRECISIONS[name].weight_bytes(kept_low) == size


@pytest.mark.parametrize("name", PRECISIONS)
def test_contract(name: str) -> None:
    """Formats exist; what is cast down is narrower than what stays, aligned to its scales, and priced by a curve."""
    record = PRECISIONS[name]
    assert {record.format, *record.needs} <= set(FORMATS)
    assert not PRECISIONS[record.high].quantized
    assert record.quantized == (record.operand_bytes < record.output_bytes)
    assert record.quantized == (record.alignment is not None)
    assert record.curves or not record.quantized
    assert record.lacks({}) == [record.format, *record.needs]
    assert record.lacks(dict.fromkeys(FORMATS, 1.0)) == []


def test_scales_are_of_one_kind() -> None:
    for record in PRECISIONS.values():
        assert record.scales_by_tensor == (record.scales_from_history or record.scales_by_largest)
        assert not (record.scales_by_tensor and record.scales_by_row)


def test_offered_words() -> None:
    assert "tf32" in OFFERED
    assert PRECISIONS["tf32"].full_width, "weights and activations stay 32 bit wide"
    assert REFERENCE in OFFERED
    assert KEPT_FORMATS == ("fp32", "bf16", "fp16", "fp8")


def test_peak_of_mfu_is_bf16_or_what_the_part_has() -> None:
    assert half_precision_peak({"bf16": 3.0, "fp16": 2.0}) == 3.0
    assert half_precision_peak({"fp16": 2.0}) == 2.0
    assert half_precision_peak({"fp32": 1.0}) == 0.0
