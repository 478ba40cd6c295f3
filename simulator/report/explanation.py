"""A job's log against its prediction, as a document and on the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hardware.units import format_bytes, format_seconds
from simulator.launch.explain.compare import AGREES_FRACTION, Explanation
from simulator.plain import plain
from simulator.report.printing import signed

# What people call a figure, its unit, and how many of these the SI unit has.
SHOWN: Mapping[str, tuple[str, float]] = {
    "step_time_s": ("step time (s)", 1.0),
    "tokens_per_s": ("tokens/s", 1.0),
    "tokens_per_s_per_gpu": ("tokens/s/GPU", 1.0),
    "mfu_fraction": ("MFU (%)", 100.0),
}


def explanation_document(found: Explanation, fitted: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The document of `traincast explain --json`; `fitted`: what a site correction made of the run would change."""
    return {
        "scenario": found.scenario.name,
        "log": {
            "file": found.log.file,
            "lines": found.log.lines,
            "broken_lines": found.log.broken,
            "jobs": [job.name() for job in found.log.jobs],
            "explained": found.job.name(),
            "framework": found.job.framework,
            "theoretical_memory_bytes": plain(found.log.theoretical_bytes),
        },
        "steady": {
            "step_time_s": found.steady.step_time_s,
            "quartiles_s": list(found.steady.quartiles_s),
            "steps": found.steady.steps,
            "warm_up_lines": sum(int(each.warm_up.sum()) for each in found.steady.attempts),
            "spikes": sum(int(each.spike.sum()) for each in found.steady.attempts),
            "drift": plain(found.drift),
        },
        "figures": [{**plain(each), "difference_fraction": each.difference_fraction} for each in found.figures],
        "breakdown_s": plain(found.prediction.breakdown_s),
        "trace": [plain(each) for each in found.trace],
        "memory": [_finite(plain(each)) for each in found.memory],
        "lost": plain(found.lost),
        "gap_s": found.gap_s,
        "other_plan": _other_plan(found),
        "rest_s": found.rest_s,
        "causes": [plain(each) for each in found.causes],
        "together_fraction": found.together_fraction,
        "stacks": [plain(each) for each in found.stacks],
        "next": list(found.next),
        "notes": list(found.notes),
        "fitted": plain(fitted),
    }


def _other_plan(found: Explanation) -> dict[str, Any] | None:
    """What the job ran otherwise, and how much of the gap that explains."""
    other = found.other_plan
    if other is None:
        return None
    effect_s = found.own_step_time_s - found.uncorrected_s
    whole_s = found.run.measured_s - found.uncorrected_s
    share = effect_s / whole_s if whole_s else 0.0
    return {
        "text": other.text,
        "differences": [
            {"key": each.key, "log": plain(each.log), "scenario": plain(each.scenario)} for each in other.differences
        ],
        "set": list(other.overrides),
        "step_time_s": found.own_step_time_s if other.scenario is not None else None,
        "effect_s": effect_s,
        "explains_fraction": max(0.0, min(1.0, share)),
        "comparable": found.comparable,
        "slower_fraction": found.run.measured_s / found.own_step_time_s - 1,
        "why_not": other.why_not,
    }


def _finite(record: Mapping[str, Any]) -> dict[str, Any]:
    """nan, which JSON has not, becomes None: the log does not say."""
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in record.items()}


def print_explanation(document: Mapping[str, Any]) -> None:
    """The document for people."""
    console = Console(highlight=False, soft_wrap=True)
    log, steady = document["log"], document["steady"]
    console.print(Text(f"{log['explained']} of {log['file']}, against {document['scenario']}", style="bold"))
    low, high = steady["quartiles_s"]
    console.print(
        f"{_counted(steady['steps'], 'steady step')}, half of them from {format_seconds(low)} to "
        f"{format_seconds(high)}; {_counted(steady['warm_up_lines'], 'line')} of warm-up, "
        f"{_counted(steady['spikes'], 'spike')}"
    )
    if steady["drift"]:
        drift = steady["drift"]
        console.print(f"drift: {100 * drift['change_fraction']:+.1f} % over {drift['hours']:.1f} h")
    for note in document["notes"]:
        console.print(Text(f"note: {note}", style="yellow"))
    _print_other_plan(console, document)
    _print_figures(console, document)
    _print_memory(console, document)
    _print_trace(console, document)
    _print_lost(console, document)
    _print_causes(console, document)
    if document["next"]:
        console.print(Text("\nLook next", style="bold"))
        for number, text in enumerate(document["next"], 1):
            console.print(Text(f"  {number}. {text}"))
    _print_fitted(console, document)


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _print_other_plan(console: Console, document: Mapping[str, Any]) -> None:
    """First cause: the job's own plan is not the scenario's."""
    other = document["other_plan"]
    if not other:
        return
    console.print(Text(other["text"], style="bold yellow"))
    if other["set"]:
        console.print(Text("  the scenario as the log ran: " + " ".join(f"--set {each}" for each in other["set"])))
    if other["step_time_s"] is None:
        console.print(Text(f"  it cannot be predicted so: {other['why_not']}"))
        return
    step_time, slower = format_seconds(other["step_time_s"]), other["slower_fraction"]
    rest = f"{100 * abs(slower):.1f} % {'slower' if slower > 0 else 'faster'} than its own plan's prediction"
    # A plan that moves the step beyond the measured one explains no share of the gap.
    beyond = document["rest_s"] * other["effect_s"] < 0 and abs(slower) > AGREES_FRACTION
    share = ""
    if other["comparable"] and not beyond:
        share = f", which explains {100 * other['explains_fraction']:.0f} % of the gap"
    console.print(f"  predicted so: {step_time} a step{share}; the run is {rest}")


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, show_edge=False)
    table.add_column(columns[0])
    for name in columns[1:]:
        table.add_column(name, justify="right")
    return table


def _print_figures(console: Console, document: Mapping[str, Any]) -> None:
    other = document["other_plan"]
    apart = other is not None and not other["comparable"]
    predicted = "predicted as run" if apart and other["step_time_s"] is not None else "predicted"
    table = _table("", "measured", predicted, "80 % interval", "difference")
    for row in document["figures"]:
        name, scale = SHOWN[row["quantity"]]
        interval = row["interval"]
        within = " to ".join(_number(end * scale, 4) for end in interval) if interval else ""
        table.add_row(
            name,
            _number(row["measured"] * scale, 5),
            _number(row["predicted"] * scale, 5),
            within,
            f"{100 * row['difference_fraction']:+.1f} %",
        )
    console.print()
    console.print(table)
    if apart and other["step_time_s"] is None:
        console.print(
            "tokens/s/GPU and MFU are left out: the log is of another model or GPU count, which cannot be predicted"
        )


def _number(value: float, digits: int) -> str:
    """A figure with so many digits, large ones whole and with commas."""
    return f"{value:,.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:.{digits}g}"


def _print_memory(console: Console, document: Mapping[str, Any]) -> None:
    theory = document["log"]["theoretical_memory_bytes"]
    if document["memory"]:
        table = _table("memory of stage", "ranks", "allocated", "predicted", "reserved", "predicted")
        for row in document["memory"]:
            table.add_row(
                str(row["stage"]),
                str(row["ranks"]),
                _bytes(row["allocated_bytes"]),
                _bytes(row["predicted_allocated_bytes"]),
                _bytes(row["reserved_bytes"]),
                _bytes(row["predicted_reserved_bytes"]),
            )
        console.print()
        console.print(table)
    if theory:
        parts = ", ".join(f"{name} {format_bytes(size)}" for name, size in theory.items())
        console.print(f"the framework's own estimate: {parts}")


def _bytes(size: float | None) -> str:
    return "-" if size is None else format_bytes(size)


def _print_trace(console: Console, document: Mapping[str, Any]) -> None:
    if not document["trace"]:
        return
    table = _table("traced step", "traced", "predicted")
    for row in document["trace"]:
        table.add_row(row["cause"], format_seconds(row["traced_s"]), format_seconds(row["predicted_s"]))
    console.print()
    console.print(table)


def _print_lost(console: Console, document: Mapping[str, Any]) -> None:
    lost = document["lost"]
    if not lost["lost_s"]:
        return
    table = _table("time lost", "", "of the wall time")
    for cause, seconds in sorted(lost["lost_s"].items(), key=lambda each: -each[1]):
        table.add_row(cause.replace("_", " "), format_seconds(seconds), f"{100 * seconds / lost['wall_s']:.1f} %")
    console.print()
    console.print(table)
    if lost["restarts"]:
        console.print(f"{lost['restarts']} restarts, {lost['repeated_steps']} steps trained again")
    if not lost["timed"] and not lost["jump_line"]:
        console.print("lines carry no time stamps: only what they state is known")


def _print_causes(console: Console, document: Mapping[str, Any]) -> None:
    if document["causes"]:
        gap = "what the log's plan leaves" if document["other_plan"] else "the gap"
        table = _table(f"could explain {gap}, each alone", "now", "plausible to", "adds", "explains", "all of it at")
        for row in document["causes"]:
            table.add_row(
                f"{row['name']} ({row['scale']})",
                f"{row['now']:.3g}",
                f"{row['limit']:.3g}",
                signed(row["effect_s"], format_seconds),
                f"{100 * row['explains_fraction']:.0f} %",
                "-" if row["explained_at"] is None else f"{row['explained_at']:.3g}",
            )
        console.print()
        console.print(table)
        console.print(f"all of them at their limits together: {100 * document['together_fraction']:.0f} %")
    if document["stacks"]:
        table = _table("if the software were other", "adds", "explains")
        for name, row in _unlike(document["stacks"])[:6]:
            table.add_row(name, signed(row["effect_s"], format_seconds), f"{100 * row['explains_fraction']:.0f} %")
        console.print()
        console.print(table)


def _unlike(stacks: Sequence[Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    """Changes of the software, those that add the same to the step as one, with the names of all."""
    alike: dict[float, list[Mapping[str, Any]]] = {}
    for row in stacks:
        alike.setdefault(round(row["effect_s"], 9), []).append(row)
    found = []
    for rows in alike.values():
        first, *others = (row["name"] for row in rows)
        also = ", ".join(name.removeprefix("the release is ") for name in others)
        found.append((f"{first} (or {also})" if also else first, rows[0]))
    return found


def _print_fitted(console: Console, document: Mapping[str, Any]) -> None:
    fitted = document["fitted"]
    if not fitted:
        return
    low, high = fitted["interval_s"]
    before_low, before_high = fitted["interval_before_s"]
    console.print()
    console.print(
        f"{fitted['file']} holds {fitted['runs']} runs of this site: the step is predicted as "
        f"{format_seconds(fitted['step_time_s'])} (before {format_seconds(fitted['step_time_before_s'])}), 80 % "
        f"interval {format_seconds(low)} to {format_seconds(high)} (before {format_seconds(before_low)} to "
        f"{format_seconds(before_high)}); a scenario names it as hardware: {{site: {fitted['file']}}}"
    )
