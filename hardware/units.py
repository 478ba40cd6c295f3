"""Human quantities ("400 Gb/s", "80 GiB", "3 us") to SI floats and back; k, M, G are powers of 1000, Ki of 1024."""

from __future__ import annotations

import math
import re

_K = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_KI = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50}
_BYTES = {f"{p}B": f for p, f in (_K | _KI).items()} | {f"{p}b": f / 8 for p, f in _K.items()}
YEAR_S = 365.25 * 86400.0  # Julian
_FLOPS = {f"{p}{unit}": f for unit in ("FLOP", "FLOPs") for p, f in _K.items()}

# Dimension -> unit -> factor to SI. The dimension's name is the suffix that such a value carries in the code.
UNITS: dict[str, dict[str, float]] = {
    "bytes": _BYTES,
    "bytes_per_s": {f"{unit}/s": f for unit, f in _BYTES.items()} | {f"{p}bps": f / 8 for p, f in _K.items()},
    "s": {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
    | {"hours": 3600.0, "days": 86400.0, "year": YEAR_S, "years": YEAR_S},
    "flops": _FLOPS,
    "flops_per_s": {f"{unit}/s": f for unit, f in _FLOPS.items()} | {f"{p}FLOPS": f for p, f in _K.items()},
    "w": {f"{p}W": f for p, f in (_K | {"m": 1e-3}).items()},
    "j": {f"{p}J": f for p, f in _K.items()} | {f"{p}Wh": 3600 * f for p, f in _K.items()},
    "usd": {"USD": 1.0, "kUSD": 1e3, "MUSD": 1e6, "$": 1.0, "k": 1e3, "M": 1e6, "B": 1e9},
    "usd_per_hour": {"USD/h": 1.0, "$/h": 1.0},
    "usd_per_kwh": {"USD/kWh": 1.0, "USD/MWh": 1e-3},
    "kg_per_kwh": {"kg/kWh": 1.0, "g/kWh": 1e-3},
    "l_per_kwh": {"L/kWh": 1.0, "l/kWh": 1.0, "m3/MWh": 1.0},
    "usd_per_m3": {"USD/m3": 1.0, "$/m3": 1.0},
    "tokens": {"": 1.0, "tokens": 1.0} | {f"{p}{t}": f for t in ("", " tokens") for p, f in
                                           {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}.items()},
    "fraction": {"": 1.0, "%": 0.01},
    "count": {"": 1.0},
}  # fmt: skip
EXAMPLES = {
    "bytes": "80 GiB or 80 GB",
    "bytes_per_s": "400 GB/s (bytes) or 400 Gb/s (bits)",
    "s": "3 us, 20 ms, 1.5 s or 2 h",
    "flops": "1e21 FLOP",
    "flops_per_s": "989 TFLOP/s",
    "w": "700 W",
    "j": "1 kWh",
    "usd": "4390 USD",
    "usd_per_hour": "2.5 USD/h",
    "usd_per_kwh": "0.08 USD/kWh",
    "kg_per_kwh": "380 g/kWh",
    "l_per_kwh": "0.36 L/kWh",
    "usd_per_m3": "2 USD/m3",
    "tokens": "14.8T or 1e12",
    "fraction": "0.45 or 45%",
    "count": "4",
}
# Smallest and largest that a part of a machine or a link can have: far outside of them lie slips of the pen.
PLAUSIBLE = {
    "bytes": ("1 MB", "1 PB"),
    "bytes_per_s": ("1 kB/s", "10 PB/s"),
    "s": ("0.001 ns", "1 s"),
    "flops_per_s": ("1 MFLOP/s", "1 EFLOP/s"),
    "w": ("1 mW", "10 MW"),
    "usd_per_hour": ("0.0001 USD/h", "100000 USD/h"),
    "usd": ("0.0001 USD", "1000000 USD"),
    "fraction": ("0.0001", "10000"),
    "count": ("1", "1000000000"),
}
# Dimension -> (least above zero, most) in SI of any other value: no model or run has less or more, and arithmetic would
# overflow.
REAL: dict[str, tuple[float, float]] = {
    "bytes": (1e-3, 1e24),
    "bytes_per_s": (1.0, 1e18),
    "s": (1e-15, 1e11),
    "flops": (1.0, 1e36),
    "flops_per_s": (1.0, 1e24),
    "w": (1e-6, 1e12),
    "j": (1e-6, 1e24),
    "usd": (1e-9, 1e15),
    "usd_per_hour": (1e-9, 1e12),
    "usd_per_kwh": (1e-9, 1e6),
    "kg_per_kwh": (1e-9, 1e6),
    "l_per_kwh": (1e-9, 1e3),
    "usd_per_m3": (1e-9, 1e6),
    "fraction": (1e-12, 1e6),
    "count": (1e-12, 1e19),
}
_QUANTITY = re.compile(r"\s*([-+]?(?:[0-9][0-9_]*\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)\s*(.*?)\s*", re.DOTALL)


class QuantityError(ValueError):
    """A text or number that is not a quantity of the wanted dimension; the message says what would be."""


def parse(value: object, dimension: str, bare: bool = True) -> float:
    """A finite, non-negative SI float from a number (already SI) or a text with a unit of the dimension.

    `bare` False refuses numbers without a unit, except where the dimension has none (count, fraction, tokens).
    Raises QuantityError naming the units that would be right, KeyError for an unknown dimension.
    """
    units = UNITS[dimension]
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise QuantityError(f"{_shown(value)} is not a quantity; write e.g. {EXAMPLES[dimension]}")
    if isinstance(value, int) and value.bit_length() > 1024:
        raise QuantityError(f"a number of {value.bit_length()} bits is not finite; write e.g. {EXAMPLES[dimension]}")
    match = _QUANTITY.fullmatch(value if isinstance(value, str) else repr(value))
    if match is None:
        raise QuantityError(f"{_shown(value)} is not a finite number with a unit; write e.g. {EXAMPLES[dimension]}")
    number, unit = match.groups()
    if unit not in units and not (bare and not unit):
        raise QuantityError(_wrong_unit(value, unit, dimension))
    factor = units.get(unit, 1.0)
    # Dividing by a whole number rounds once, multiplying by its inexact inverse twice: 20 us is 2e-05, not 1.99..e-05.
    amount = float(number) * factor if factor >= 1 else float(number) / round(1 / factor)
    if not math.isfinite(amount):
        raise QuantityError(f"{_shown(value)} is not finite; write e.g. {EXAMPLES[dimension]}")
    if amount < 0:
        raise QuantityError(f"{_shown(value)} is negative; write e.g. {EXAMPLES[dimension]}")
    return amount


def implausible(amount: float, dimension: str) -> str | None:
    """Words for an amount that no part of a machine has; None for zero and for what one could have."""
    if amount == 0 or dimension not in PLAUSIBLE:
        return None
    low, high = PLAUSIBLE[dimension]
    if parse(low, dimension) <= amount <= parse(high, dimension):
        return None
    return f"{amount:g} is more or less than any machine has; write a value between {low} and {high}"


def unreal(amount: float, dimension: str) -> str | None:
    """What is wrong with an SI amount that nothing real has; None where it is zero or plausible."""
    least, most = REAL.get(dimension, (0.0, math.inf))
    if amount == 0 or math.isnan(amount) or least <= amount <= most:
        return None
    unit = next(unit for unit, factor in UNITS[dimension].items() if factor == 1.0)
    written, plausible = f"{amount:g} {unit}".rstrip(), f"{least:g} to {most:g} {unit}".rstrip()
    return f"{written} is beyond anything real; {plausible} is read"


def _wrong_unit(value: object, unit: str, dimension: str) -> str:
    right = EXAMPLES[dimension]
    if not unit:
        return f"{_shown(value)} has no unit; write e.g. {right}"
    others = [name for name, units in UNITS.items() if unit in units]
    if others:
        return f"{_shown(value)}: {unit!r} measures {others[0]}, here {dimension} is wanted; write e.g. {right}"
    same = [known for known in UNITS[dimension] if known.lower() == unit.lower()]
    if same:
        return f"{_shown(value)}: {unit!r} is not a unit, upper and lower case matter; write {' or '.join(same)}"
    return f"{_shown(value)}: {unit!r} is not a unit of {dimension}; write e.g. {right}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _scaled(value: float, steps: tuple[tuple[float, str], ...]) -> str:
    """The value in the largest unit not above it, with four significant figures; `steps` from large to small."""
    if not math.isfinite(value):
        return str(value)
    factor, unit = next((step for step in steps if abs(value) >= step[0] * 0.99995), steps[-1])
    return f"{_four_figures(value / factor)} {unit}".rstrip()


def _four_figures(value: float) -> str:
    if value == 0:
        return "0"
    digits = max(0, 3 - math.floor(math.log10(abs(value)) + 1e-12))
    text = f"{value:.{min(digits, 12)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def format_bytes(value: float) -> str:
    """Bytes in binary units: 85 * 2**30 -> "85 GiB"."""
    return _scaled(value, ((2.0**50, "PiB"), (2.0**40, "TiB"), (2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"),
                           (1.0, "B")))  # fmt: skip


def format_rate(value: float) -> str:
    """Bytes per second in decimal units: 5e10 -> "50 GB/s"."""
    return _scaled(value, ((1e15, "PB/s"), (1e12, "TB/s"), (1e9, "GB/s"), (1e6, "MB/s"), (1e3, "kB/s"), (1.0, "B/s")))


def format_seconds(value: float) -> str:
    """Seconds from nanoseconds to days: 1.5e-6 -> "1.5 us", 5400 -> "1.5 h"."""
    return _scaled(value, ((86400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms"), (1e-6, "us"),
                           (1e-9, "ns")))  # fmt: skip


def format_flops(value: float) -> str:
    """A count of floating-point operations: 3.2e21 -> "3200 EFLOP"."""
    return _scaled(value, ((1e18, "EFLOP"), (1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP"), (1.0, "FLOP")))


def format_flops_rate(value: float) -> str:
    """Floating-point operations per second: 9.89e14 -> "989 TFLOP/s"; of whole clusters in PFLOP/s or EFLOP/s."""
    if 1e12 <= abs(value) < 1e16:
        return f"{_four_figures(value / 1e12)} TFLOP/s"
    return _scaled(value, ((1e18, "EFLOP/s"), (1e15, "PFLOP/s"), (1e9, "GFLOP/s"), (1.0, "FLOP/s")))


def format_power(value: float) -> str:
    return _scaled(value, ((1e9, "GW"), (1e6, "MW"), (1e3, "kW"), (1.0, "W")))


def format_energy(value: float) -> str:
    """Joules as people buy them: 3.6e9 -> "1 MWh"."""
    return _scaled(value, ((3.6e12, "GWh"), (3.6e9, "MWh"), (3.6e6, "kWh"), (1.0, "J")))


def format_volume(cubic_metres: float) -> str:
    """Cubic metres of water: 1234.5 -> "1,234 m3"."""
    return f"{cubic_metres:,.0f} m3" if cubic_metres >= 100 else f"{_four_figures(cubic_metres)} m3"


def format_usd(value: float) -> str:
    """US dollars: 5.576e6 -> "5.576 million USD", 5576 -> "5,576 USD"."""
    if 1e3 <= abs(value) < 1e6:
        return f"{value:,.0f} USD"
    return _scaled(value, ((1e9, "billion USD"), (1e6, "million USD"), (1.0, "USD")))


def format_count(value: float) -> str:
    """Parameters or tokens: 6.71e11 -> "671 B"."""
    return _scaled(value, ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K"), (1.0, "")))


def format_fraction(value: float) -> str:
    """A fraction in per cent: 0.4567 -> "45.7 %"."""
    return f"{100 * value:.1f} %"
