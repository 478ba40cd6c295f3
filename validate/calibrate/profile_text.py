"""What a profile says to a reader: what was measured, how well the fits hold on shapes kept out, what to mind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from validate.calibrate.measuring.passes import LAUNCHES
from validate.calibrate.points import MeasuredPoint, Points, spread_of

HEAD = """# {name}

Measured on {gpu} ({part}), torch {torch}, driver {driver}, {made}: {points} points.

Errors are relative, of points that the fit never saw: products with whole weight matrices left out (five folds),
attention, passes and collectives with single shapes or sizes left out. Intervals of the fitted numbers (95 %, from the
same folds) stand beside the numbers in kernels.json and collectives.json. All points are in points.jsonl.

| fit | points | median | p90 | bias |
|---|--:|--:|--:|--:|"""


# ---- REPORT.md


def page(documents: Mapping[str, Any], points: Points) -> str:
    """REPORT.md of a profile."""
    head = documents["profile.json"]
    kernels = documents.get("kernels.json", {})
    collectives = documents.get("collectives.json", {})
    machine = {name: head["machine"].get(name, "unknown") for name in ("gpu", "torch", "driver")}
    identity = {name: head[name] for name in ("name", "part", "made", "points")}
    lines = [HEAD.format(**identity, **machine)]
    lines += [error_row(name, error) for name, error in head["summary"]["held_out"].items()]
    lines.append("")
    if kernels.get("borrowed"):
        lines.append(f"- not measured here, taken from elsewhere: {', '.join(kernels['borrowed'])}")
    notes = [
        *kernels.get("notes", []),
        *collectives.get("notes", []),
        *(f"{count} x {name}" for name, count in head["summary"]["failed"].items()),
        *machine_lines(points.usable()),
    ]
    lines += [f"- {note}" for note in notes]
    return "\n".join(lines) + "\n"


def error_row(name: str, error: Mapping[str, Any]) -> str:
    cells = [
        name,
        str(error["rows"]),
        f"{error['median']:.1%}",
        f"{error['p90']:.1%}",
        f"{error['bias']:+.1%}",
    ]
    return f"| {' | '.join(cells)} |"


def machine_lines(points: list[MeasuredPoint]) -> Iterator[str]:
    """What the fits do not carry: transfers, launches, jitter, groups at once, clocks and power."""
    for point in points:
        if point.family == "transfer":
            size_bytes, direction = point.shape["size_bytes"], point.shape["direction"]
            size_mib = size_bytes / 2**20
            rate_gb = size_bytes / point.seconds / 1e9
            yield f"{direction} {size_mib:g} MiB: {rate_gb:.1f} GB/s"
        elif point.family == "launch":
            mode, microseconds = point.shape["mode"], point.seconds * 1e6
            yield f"launch, {mode}: {microseconds:.1f} us for {LAUNCHES} kernels"
    yield from spread_lines(points)
    for name, unit in (("sm_clock_mhz", "MHz"), ("power_w", "W"), ("temperature_c", "C")):
        values = [point.where[name] for point in points if isinstance(point.where.get(name), int | float)]
        if values:
            what = name.rsplit("_", 1)[0]
            yield f"{what} while measuring: {min(values):g} to {max(values):g} {unit}"


def spread_lines(points: list[MeasuredPoint]) -> Iterator[str]:
    """How much ranks, groups and repetitions of one case differ."""
    jitter_s = [point.seconds for point in points if point.family == "jitter"]
    if len(jitter_s) > 1:
        ratio = max(jitter_s) / median(jitter_s)
        yield f"the same product on {len(jitter_s)} ranks at once: {ratio:.3f} slowest over median"
    slowdowns = [together_s / alone_s for alone_s, together_s in beside_siblings(points)]
    if slowdowns:
        yield f"groups of one kind all at once: {median(slowdowns):.2f} times the time of one alone (median)"
    spreads = [spread_of(point) for point in points if point.repetitions > 1]
    if spreads:
        yield f"repetitions: the middle four fifths span {median(spreads):.1%} of the median (median case)"


def beside_siblings(points: list[MeasuredPoint]) -> list[tuple[float, float]]:
    """Seconds of a collective on one group alone, and with all its sibling groups at once."""
    alone_s: dict[Any, float] = {}
    together_s: dict[Any, float] = {}
    for point in points:
        if point.family != "collective":
            continue
        key = tuple(point.shape.get(name) for name in ("operation", "size_bytes", "n_gpus", "stride"))
        target = alone_s if point.shape.get("at_once", 1) == 1 else together_s
        target[key] = point.seconds
    return [(alone_s[key], seconds) for key, seconds in together_s.items() if key in alone_s]


# ---- the command line


def told(result: Mapping[str, Any], out: Path) -> str:
    """What the command line shows at the end."""
    if "profile" not in result:
        return f"No profile in {out} yet.\n"
    profile = result["profile"]
    lines = [f"Profile of {profile['part']} in {out}: {profile['points']} points.", ""]
    lines.append(f"  {'held out':42} {'points':>6} {'median':>8} {'p90':>8}")
    for name, error in profile["summary"]["held_out"].items():
        lines.append(error_line(name, error))
    lines += prediction_lines(result.get("prediction"))
    lines += step_lines(result.get("step") or [])
    lines += ["", f"Use it in a scenario: hardware: {{profile: {out}}}"]
    return "\n".join(lines) + "\n"


def error_line(name: str, error: Mapping[str, Any]) -> str:
    cells = [
        f"  {name:42}",
        f"{error['rows']:6d}",
        f"{error['median']:8.1%}",
        f"{error['p90']:8.1%}",
    ]
    return " ".join(cells)


def step_lines(rows: list[Mapping[str, Any]]) -> list[str]:
    """Measured training steps beside their predictions."""
    if not rows:
        return []
    heading = f"  {'training step':44} {'measured':>10} {'predicted':>10} {'error':>8} {'memory error':>13}"
    return ["", heading, *(step_line(row) for row in rows)]


def step_line(row: Mapping[str, Any]) -> str:
    if "failed" in row:
        return f"  {row['name']:44} {row['failed']}"
    measured, predicted = row["step_time_measured_s"], row["step_time_predicted_s"]
    error = row["step_time_error_fraction"]
    memory_error = row.get("peak_memory_error_fraction")
    cells = [
        f"  {row['name']:44}",
        f"{measured:9.4g}s",
        f"{predicted:9.4g}s",
        f"{error:+8.1%}",
        f"{memory_error:+13.1%}" if memory_error is not None else f"{'not read':>13}",
    ]
    return " ".join(cells)


def prediction_lines(change: Mapping[str, Any] | None) -> list[str]:
    """How the user's own prediction changed, and what it now rests on."""
    if not change:
        return []
    before, after = change["step_time_before_s"], change["step_time_after_s"]
    change_fraction = after / before - 1
    step = f"step time {before:.4g} s as the scenario has it, {after:.4g} s by this profile ({change_fraction:+.1%})"
    shares = ", ".join(f"{name} {share:.0%}" for name, share in change["evidence_after"].items())
    warnings = [f"  warning: {warning}" for warning in change["warnings"]]
    return [
        "",
        f"{change['scenario']}: {step}",
        f"  busy time rests on: {shares}",
        *warnings,
    ]
