"""An evaluation as one HTML page: what the terminal says, with pictures, and nothing that is loaded from elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from rich.console import Group

from hardware.units import format_bytes, format_fraction, format_seconds, format_usd
from simulator.report.bars import Bar, bars_svg
from simulator.report.beyond import step_seconds
from simulator.report.markup import as_html
from simulator.report.memory_table import held_bytes
from simulator.report.printing import printable_values, with_error
from simulator.report.terminal import sections

# Parts of the terminal's report in the order of the page, under the headings that they share.
CHAPTERS = {
    "Scenario": ("understood",),
    "Step": ("step", "figures", "phases", "beyond"),
    "Memory": ("memory",),
    "Network": ("network",),
    "What would change": ("alternatives",),
    "Sources": ("assumed", "footer"),
}
# A page stays small: pictures above this size are left to files of their own.
MOST_PICTURE_BYTES = 600_000


@dataclass(frozen=True, slots=True)
class Card:
    """One of the figures on top; `good` False where the answer is no."""

    label: str
    figure: str
    note: str
    good: bool = True


@dataclass(frozen=True, slots=True)
class Section:
    """A chapter of the page: its pictures, and its rows below them."""

    title: str
    pictures: Sequence[Markup]
    text: Markup


def evaluation_page(document: Mapping[str, Any], drawn: Mapping[str, str]) -> str:
    """The page of an `evaluate` document; `drawn`: SVG pictures of the simulated step by the chapter they belong to."""
    document = printable_values(document)
    stages, capacity = document["stages"], ("capacity", document["memory_capacity_bytes"])
    step_chart = bars_svg(_stage_bars(stages, lambda stage: stage["breakdown_s"]), step_seconds)
    memory_chart = bars_svg(_stage_bars(stages, held_bytes), format_bytes, capacity)
    charts = {"Step": [step_chart, *_run_chart(document)], "Memory": [memory_chart]}
    parts = sections(document)
    chapters = []
    for title, names in CHAPTERS.items():
        present = [parts[name] for name in names if name in parts]
        if present:
            more = [drawn[title]] if len(drawn.get(title, "")) in range(1, MOST_PICTURE_BYTES) else []
            pictures = [Markup(svg) for svg in [*charts.get(title, []), *more]]
            chapters.append(Section(title, pictures, as_html(Group(*present))))
    scenario = document["scenario"]
    page: str = _template().render(
        name=scenario["name"],
        question=scenario["question"],
        cards=list(_cards(document)),
        warnings=document["warnings"],
        sections=chapters,
    )
    return page


def _template() -> Any:
    folder = Path(__file__).parent / "templates"
    environment = Environment(
        loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("page.html.j2")


def _cards(document: Mapping[str, Any]) -> Iterable[Card]:
    low, high = document["step_time_interval_s"]
    interval = f"P10 {step_seconds(low)}, P90 {step_seconds(high)}"
    yield Card("Step time", step_seconds(document["step_time_s"]), interval)
    peak = format_fraction(document["mfu_fraction"])
    yield Card("MFU", peak, f"{document['tokens_per_s_per_gpu']:,.0f} tokens/s/GPU")
    used, capacity = document["device_memory_bytes"], document["memory_capacity_bytes"]
    verdict = "fits" if document["fits"] else "does not fit"
    yield Card("Memory", verdict, f"{format_bytes(used)} of {format_bytes(capacity)}", document["fits"])
    run = document["run"]
    if run is None:
        yield Card("Training", format_seconds(document["training_time_s"]), "without failures")
        return
    if not run["finishes"]:
        yield Card("Whole run", "never ends", run["reason"] or "", good=False)
        return
    finish = run["finish_s"]
    note = f"P10 {format_seconds(finish['p10'])}, P90 {format_seconds(finish['p90'])}"
    yield Card("Whole run in the median", format_seconds(finish["p50"]), note)
    if run["cost_usd"] is not None:
        cost = with_error(run["cost_usd"], run.get("cost_error_usd"), format_usd)
        median = (run["cost_quantiles_usd"] or {}).get("p50")
        beside = "" if median is None else f"{format_usd(median)} in the median; "
        yield Card("Cost in the mean", cost, f"{beside}{run['paid_gpus']:,} GPUs paid for")


def _run_chart(document: Mapping[str, Any]) -> Iterable[str]:
    """Where the time of the whole run goes beyond the work, in the mean."""
    run = document["run"]
    spent_s = run["lost_s"] if run else {}
    lost = {name.replace("_", " "): seconds for name, seconds in spent_s.items() if seconds > 0}
    if lost:
        yield bars_svg([Bar("lost in the run", lost)], format_seconds)


def _stage_bars(
    stages: Sequence[Mapping[str, Any]], parts_of: Callable[[Mapping[str, Any]], Mapping[str, float]]
) -> list[Bar]:
    """A bar for each run of neighbouring pipeline ranks with the same figures."""
    bars = []
    for parts, group in groupby(stages, key=parts_of):
        ranks = [stage["rank"] for stage in group]
        label = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]}-{ranks[-1]}"
        bars.append(Bar(label, parts))
    return bars
