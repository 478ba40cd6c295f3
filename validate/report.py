"""Comparisons as a JSON document and as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from validate.runs import Compared, summary

STACK_FROM_WORDS = "stack = "


def status_of(entry: Compared) -> tuple[str, str | None]:
    """Whether an entry is ok, uncertain (its source has words that are not understood) or unsupported, and why."""
    words = ", ".join(map(repr, entry.row.unknown_words))
    not_understood = f"words not understood: {words}" if words else None
    if entry.predicted is None:
        return "unsupported", "; ".join(filter(None, (entry.reason, not_understood)))
    return ("uncertain" if words else "ok"), not_understood


def entry_document(entry: Compared) -> dict[str, Any]:
    status, reason = status_of(entry)
    return {
        "id": entry.row.id,
        "status": status,
        "reason": reason,
        "quality": entry.row.quality or None,
        **_stack(entry),
        "quantity": entry.quantity,
        "measured": entry.measured,
        "predicted": entry.predicted,
        "error_fraction": entry.error_fraction,
        "interval": list(entry.interval) if entry.interval else None,
        "breakdown_s": dict(entry.prediction.breakdown_s) if entry.prediction else None,
        "assumptions": list(entry.assumptions),
    }


def _stack(entry: Compared) -> dict[str, Any]:
    """The release that the row was predicted on, and whether it was picked because the row names none."""
    if entry.prediction is None:
        return {"stack": None, "stack_picked": None}
    scenario = entry.prediction.scenario
    from_words = any(text.startswith(STACK_FROM_WORDS) for text in entry.assumptions)
    return {"stack": scenario.plan.stack.name, "stack_picked": from_words or scenario.stack_choice != "named"}


def runs_document(entries: Sequence[Compared]) -> dict[str, Any]:
    """Rows, and the summary of step times and of peak memory over the rows whose quality counts."""
    counted = [entry for entry in entries if entry.row.counts]
    times = [entry for entry in counted if entry.quantity == "step_time_s"]
    memory = [entry for entry in counted if entry.quantity == "peak_memory_bytes"]
    return {
        "rows": [entry_document(entry) for entry in entries],
        "summary": summary(times),
        "memory_summary": summary(memory),
    }


def runs_text(document: Mapping[str, Any]) -> str:
    """The document as plain text: one line per row, then the summaries."""
    lines = [f"{'id':<68} {'quantity':<18} {'measured':>12} {'predicted':>12} {'error':>8}"]
    for row in document["rows"]:
        if row["status"] == "unsupported":
            lines.append(f"{row['id']:<68} unsupported: {row['reason']}")
            continue
        scale = 2**30 if row["quantity"] == "peak_memory_bytes" else 1.0
        unit = "peak memory GiB" if scale > 1 else "step time s"
        lines.append(f"{row['id']:<68} {unit:<18} {row['measured'] / scale:>12.4g} {row['predicted'] / scale:>12.4g} "
                     f"{100 * row['error_fraction']:>+7.1f}%")  # fmt: skip
        if row["stack_picked"]:
            lines.append(f"{'':<68} on stack {row['stack']}, picked, as the row names none")
        if row["reason"]:
            lines.append(f"{'':<68} {row['reason']}")
    for title, key in (("step time", "summary"), ("peak memory", "memory_summary")):
        lines += ["", *summary_lines(title, document[key])]
    return "\n".join(lines) + "\n"


def summary_lines(title: str, found: Mapping[str, Any]) -> list[str]:
    lines = [f"{title}: {found['supported']} of {found['n']} supported", figures("all", found)]
    for group, labels in found["by"].items():
        lines += [figures(f"{group} {label}", figure) for label, figure in labels.items()]
    return lines


def figures(label: str, found: Mapping[str, Any]) -> str:
    if not found["supported"]:
        return f"  {label:<28} {found['n']:>4} rows, none supported"
    shown = [f"{name} {100 * found[key]:6.1f}%" for name, key in
             (("median", "median_abs_error"), ("mean", "mean_abs_error"), ("p90", "p90_abs_error"))]  # fmt: skip
    return f"  {label:<28} {found['supported']:>4} rows  {'  '.join(shown)}  bias {100 * found['bias']:+6.1f}%"
