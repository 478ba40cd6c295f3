"""What a profile says to a reader: what was measured, how well the fits hold on shapes kept out, what to mind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from validate.calibrate.points import Points

HEAD = """# {name}

Measured on {gpu} ({part}), torch {torch}, driver {driver}, {made}: {points} points.

Errors are relative, of points that the fit never saw: products with whole weight matrices left out (five folds),
attention, passes and collectives with single shapes or sizes left out. Intervals of the fitted numbers (95 %, from the
same folds) stand beside the numbers in kernels.json. All points are in points.jsonl.

| fit | points | median | p90 | bias |
|---|--:|--:|--:|--:|"""


def page(documents: Mapping[str, Any], points: Points) -> str:
    """REPORT.md of a profile."""
    head, kernels = documents["profile.json"], documents["kernels.json"]
    machine = head["machine"]
    lines = [HEAD.format(name=head["name"], gpu=machine["gpu"], part=head["part"], torch=machine["torch"],
                         driver=machine.get("driver", "unknown"), made=head["made"], points=head["points"])]  # fmt: skip
    lines += [
        f"| {name} | {error['rows']} | {error['median']:.1%} | {error['p90']:.1%} | {error['bias']:+.1%} |"
        for name, error in head["summary"]["held_out"].items()
    ]
    if kernels["borrowed"]:
        lines += ["", f"Not measured here, taken from elsewhere: {', '.join(kernels['borrowed'])}."]
    lines += ["", *(f"- {note}" for note in kernels["notes"])] if kernels["notes"] else []
    lines += [f"- {count} x {name}" for name, count in head["summary"]["failed"].items()]
    lines += machine_lines(points)
    return "\n".join(lines) + "\n"


def machine_lines(points: Points) -> list[str]:
    """What the fits do not carry: transfers, launches, spread between repetitions, clocks and power."""
    found = [""]
    usable = points.usable()
    for point in usable:
        if point.family == "transfer":
            rate = point.shape["size_bytes"] / point.seconds
            found.append(f"- {point.shape['direction']} {point.shape['size_bytes'] / 2**20:g} MiB: {rate / 1e9:.1f} GB/s")
        elif point.family == "launch":
            found.append(f"- launch, {point.shape['mode']}: {point.seconds * 1e6:.1f} us for 50 kernels")
    jitter = [point for point in usable if point.family == "jitter"]
    if len(jitter) > 1:
        seconds = sorted(point.seconds for point in jitter)
        found.append(f"- the same product on {len(jitter)} ranks at once: the slowest takes {seconds[-1] / seconds[len(seconds) // 2]:.3f} "
                     f"times the median's time")  # fmt: skip
    spreads = sorted((point.high_s - point.low_s) / point.seconds for point in usable if point.repetitions > 1)
    if spreads:
        found.append(f"- repetitions: the middle four fifths span {spreads[len(spreads) // 2]:.1%} of the median (median case)")
    for name, unit in (("sm_clock_mhz", "MHz"), ("power_w", "W"), ("temperature_c", "C")):
        values = sorted(point.where[name] for point in usable if name in point.where)
        if values:
            found.append(f"- {name.rsplit('_', 1)[0].replace('_', ' ')} while measuring: {values[0]:g} to {values[-1]:g} {unit}")
    return found


def told(result: Mapping[str, Any], out: Any) -> str:
    """What the command line shows at the end."""
    if "profile" not in result:
        return f"No profile in {out} yet.\n"
    profile = result["profile"]
    lines = [f"Profile of {profile['part']} in {out}: {profile['points']} points.", ""]
    lines += [f"  {'held out':34} {'points':>6} {'median':>8} {'p90':>8}"]
    lines += [
        f"  {name:34} {error['rows']:6d} {error['median']:8.1%} {error['p90']:8.1%}"
        for name, error in profile["summary"]["held_out"].items()
    ]
    lines += prediction_lines(result.get("prediction")) + step_lines(result.get("step") or [])
    lines += ["", f"Use it in a scenario: hardware: {{profile: {out}}}"]
    return "\n".join(lines) + "\n"


def step_lines(rows: list[Mapping[str, Any]]) -> list[str]:
    """Measured training steps beside their predictions."""
    if not rows:
        return []
    lines = ["", f"  {'training step':44} {'measured':>10} {'predicted':>10} {'error':>8} {'memory error':>13}"]
    for row in rows:
        if "failed" in row:
            lines.append(f"  {row['name']:44} {row['failed']}")
            continue
        memory = row.get("peak_memory_error_fraction")
        shown = f"{memory:+13.1%}" if memory is not None else f"{'not read':>13}"
        lines.append(f"  {row['name']:44} {row['step_time_measured_s']:9.4g}s {row['step_time_predicted_s']:9.4g}s "
                     f"{row['step_time_error_fraction']:+8.1%} {shown}")  # fmt: skip
    return lines


def prediction_lines(change: Mapping[str, Any] | None) -> list[str]:
    if not change:
        return []
    before, after = change["step_time_before_s"], change["step_time_after_s"]
    lines = ["", f"{change['scenario']}: step time {before:.4g} s as the scenario has it, {after:.4g} s by this profile ({after / before - 1:+.1%})."]
    shares = ", ".join(f"{name} {share:.0%}" for name, share in change["evidence_after"].items())
    return [*lines, f"  busy time rests on: {shares}", *(f"  warning: {warning}" for warning in change["warnings"])]
