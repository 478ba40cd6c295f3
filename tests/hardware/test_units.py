"""Quantities as people write them, their SI values, and the words for a wrong one."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardware import units


@pytest.mark.parametrize(
    ("text", "dimension", "value"),
    [
        ("400 GB/s", "bytes_per_s", 400e9),
        ("400 Gb/s", "bytes_per_s", 50e9),
        ("400Gbps", "bytes_per_s", 50e9),
        ("80 GB", "bytes", 80e9),
        ("80 GiB", "bytes", 85899345920),
        ("1 TiB", "bytes", 2**40),
        ("8 b", "bytes", 1),
        ("3 us", "s", 3e-6),
        ("20 us", "s", 2e-5),
        ("2 h", "s", 7200),
        ("54 d", "s", 4665600),
        ("989 TFLOP/s", "flops_per_s", 9.89e14),
        ("1.979 PFLOPS", "flops_per_s", 1.979e15),
        ("3.8e25 FLOPs", "flops", 3.8e25),
        ("700 W", "w", 700),
        ("10.2 kW", "w", 10200),
        ("1 kWh", "j", 3.6e6),
        ("2.5 USD/h", "usd_per_hour", 2.5),
        ("80 USD/MWh", "usd_per_kwh", 0.08),
        ("14.8T", "tokens", 14.8e12),
        ("300B tokens", "tokens", 3e11),
        ("45%", "fraction", 0.45),
        ("1e12", "tokens", 1e12),
        (1e12, "bytes", 1e12),
        (7, "count", 7),
        ("  1_000 ", "count", 1000),
        (".5 s", "s", 0.5),
    ],
)
def test_si_value(text: object, dimension: str, value: float) -> None:
    assert units.parse(text, dimension) == value


@pytest.mark.parametrize(
    ("text", "dimension", "words"),
    [
        ("400 GB", "bytes_per_s", ["measures bytes", "400 GB/s (bytes) or 400 Gb/s (bits)"]),
        ("400 gb/s", "bytes_per_s", ["upper and lower case", "GB/s or Gb/s"]),
        ("5 parsec", "s", ["'parsec' is not a unit of s", "3 us"]),
        ("700 W", "s", ["measures w"]),
        ("fast", "bytes_per_s", ["not a finite number"]),
        ("", "s", ["not a finite number"]),
        ("inf s", "s", ["not a finite number"]),
        ("nan", "count", ["not a finite number"]),
        ("1e400", "bytes", ["not finite"]),
        (math.inf, "bytes", ["not a finite number"]),
        (math.nan, "bytes", ["not a finite number"]),
        ("-3 us", "s", ["negative"]),
        (-1, "count", ["negative"]),
        (True, "count", ["True is not a quantity"]),
        (None, "count", ["not a quantity"]),
        ([1], "count", ["not a quantity"]),
        (10**400, "count", ["not finite"]),
        ("0x10", "count", ["'x10' is not a unit"]),
    ],
)
def test_refusal_says_what_is_right(text: object, dimension: str, words: list[str]) -> None:
    with pytest.raises(units.QuantityError) as error:
        units.parse(text, dimension)
    for word in words:
        assert word in str(error.value)
    assert len(str(error.value)) < 300


def test_number_of_too_many_digits_to_print() -> None:
    with pytest.raises(units.QuantityError, match="not finite"):
        units.parse(10**9000, "count")


def test_bare_number_can_be_refused() -> None:
    with pytest.raises(units.QuantityError, match=r"no unit.*400 GB/s"):
        units.parse(400, "bytes_per_s", bare=False)
    assert units.parse(0.4, "fraction", bare=False) == 0.4


@given(st.floats(0, 1e15), st.sampled_from(sorted(units.UNITS)))
def test_every_unit_scales_linearly(number: float, dimension: str) -> None:
    for unit, factor in units.UNITS[dimension].items():
        assert units.parse(f"{number!r} {unit}", dimension) == pytest.approx(number * factor, rel=1e-12)


@given(st.text(max_size=20), st.sampled_from(sorted(units.UNITS)))
def test_any_text_is_a_finite_value_or_a_clear_refusal(text: str, dimension: str) -> None:
    try:
        value = units.parse(text, dimension)
    except units.QuantityError as error:
        value, words = 0.0, str(error)
    else:
        words = units.EXAMPLES[dimension]
    assert math.isfinite(value)
    assert value >= 0
    assert units.EXAMPLES[dimension] in words or "case matter" in words


def test_every_example_is_a_quantity_of_its_dimension() -> None:
    assert set(units.EXAMPLES) == set(units.UNITS)
    for dimension, words in units.EXAMPLES.items():
        for example in words.replace(" or ", ", ").split(", "):
            assert units.parse(example.split(" (")[0], dimension) > 0


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (units.format_bytes(79.11 * 2**30), "79.11 GiB"),
        (units.format_bytes(0), "0 B"),
        (units.format_bytes(1536), "1.5 KiB"),
        (units.format_rate(5e10), "50 GB/s"),
        (units.format_rate(3.35e12), "3.35 TB/s"),
        (units.format_seconds(19.926), "19.93 s"),
        (units.format_seconds(3e-6), "3 us"),
        (units.format_seconds(0), "0 ns"),
        (units.format_seconds(5400), "1.5 h"),
        (units.format_seconds(59.999999), "1 min"),
        (units.format_flops(3.2e18), "3.2 EFLOP"),
        (units.format_flops_rate(9.89e14), "989 TFLOP/s"),
        (units.format_flops_rate(2.5e15), "2500 TFLOP/s"),
        (units.format_flops_rate(2e18), "2 EFLOP/s"),
        (units.format_power(10200), "10.2 kW"),
        (units.format_energy(3.6e9), "1 MWh"),
        (units.format_usd(5.576e6), "5.576 million USD"),
        (units.format_usd(4390), "4,390 USD"),
        (units.format_usd(2), "2 USD"),
        (units.format_count(6.71e11), "671 B"),
        (units.format_count(12), "12"),
        (units.format_fraction(0.4567), "45.7 %"),
        (units.format_seconds(math.inf), "inf"),
    ],
)
def test_shown_to_people(text: str, shown: str) -> None:
    assert text == shown


@given(st.floats(1e-9, 1e9))
def test_shown_seconds_read_back(value: float) -> None:
    assert units.parse(units.format_seconds(value), "s") == pytest.approx(value, rel=6e-4)


@given(st.floats(1, 1e17))
def test_shown_bytes_read_back(value: float) -> None:
    assert units.parse(units.format_bytes(value), "bytes") == pytest.approx(value, rel=6e-4)
