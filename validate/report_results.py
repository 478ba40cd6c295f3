"""Writes RESULTS.md and its figures: predicted against measured over every published run.

`python -m validate.report_results`
"""

from __future__ import annotations

import csv
import tomllib
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from simulator.cost import constants
from simulator.predict import confidence, residuals
from simulator.stack import release
from validate.ranking import rankings, share_within
from validate.recipes import read_recipes, recipe_explanations, summary_line
from validate.report_figures import scatter, strips
from validate.row import Row
from validate.rows import read_rows
from validate.runs import GROUPS, Compared, compare_all, statistics
from validate.time_to_train import read_runs, summary_lines

HERE = Path(__file__).parent
EXPLAINED = HERE / "explained.toml"
LARGE_ERROR = 0.20
GIB = 2**30
LARGE_SCALE, STRONG_SCALING_GPUS = 1000, 64


def year_of(row: Row) -> str:
    """The year of the release of software that a row ran on."""
    return release(row.settings["plan.stack"]).date[:4]


def explanations() -> Sequence[Mapping[str, Any]]:
    found: Sequence[Mapping[str, Any]] = tomllib.loads(EXPLAINED.read_text(encoding="utf-8"))["explained"]
    return found


def explanation_of(entry: Compared, quantity: str | None = None) -> str | None:
    """What explains the error of an entry, or of another `quantity` of its row; None where nothing was written."""
    wanted = quantity or entry.quantity
    for each in explanations():
        of_row = any(fnmatchcase(entry.row.id, pattern) for pattern in each["ids"])
        if of_row and each["quantity"] == wanted:
            return str(each["why"])
    return None


def unfitting(entries: Sequence[Compared]) -> list[Compared]:
    """The step times of quality A and B whose plan is predicted not to fit, though the run took place."""
    times = counted(entries, "step_time_s")
    return [e for e in times if e.prediction is not None and not e.prediction.fits]


def unfitting_table(entries: Sequence[Compared]) -> list[str]:
    rows = []
    for entry in unfitting(entries):
        assert entry.prediction is not None
        used, capacity = entry.prediction.device_memory_bytes, entry.prediction.memory_capacity_bytes
        sizes = (f"{size / GIB:.1f} GiB" for size in (used, capacity))
        rows.append([entry.row.id, *sizes, explanation_of(entry, "fits") or "not explained"])
    return table(["row", "predicted", "capacity", "why"], rows) if rows else ["None.", ""]


def counted(entries: Sequence[Compared], quantity: str) -> list[Compared]:
    return [e for e in entries if e.quantity == quantity and e.row.counts]


def left_out(together: str = "family") -> dict[str, float]:
    """Error of every row by constants fitted without its family, source or generation (`together`), as fractions."""
    with residuals.DATA.open(encoding="utf-8", newline="") as file:
        return {row["id"]: float(np.exp(-float(row[f"without_{together}"])) - 1) for row in csv.DictReader(file)}


def classes_of(row: Row) -> tuple[str, ...]:
    """The classes that a row's error counts in: its kind, at scale, strong scaling, its part, its quality."""
    gpus, kind = row.count("cluster.gpus") or 0, row.kind
    found = [kind]
    if gpus >= LARGE_SCALE:
        found.append(f"{kind} on 1,000 GPUs or more")
    dp, batch = row.count("plan.dp") or 1, row.count("plan.global_batch_size") or 1
    if gpus >= STRONG_SCALING_GPUS and batch // ((row.count("plan.micro_batch_size") or 1) * dp) <= 2:
        found.append("strong scaling (1 or 2 micro-batches on 64 GPUs or more)")
    return (*found, f"part {row.gpu.split()[0] if row.gpu else 'unknown'}", f"quality {row.quality}")


def percent(value: float | None, sign: str = "") -> str:
    return "" if value is None else f"{100 * value:{sign}.1f} %"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---" if number == 0 else "--:" for number in range(len(head))]
    return [f"| {' | '.join(line)} |" for line in (head, rule, *rows)] + [""]


def error_table(entries: Sequence[Compared], groups: Mapping[str, Callable[[Row], str]]) -> list[str]:
    """Errors of all entries and of every group."""
    rows = [error_row("all", entries)]
    for name, label in groups.items():
        for each in sorted({label(entry.row) for entry in entries}):
            rows.append(error_row(f"{name} {each}", [e for e in entries if label(e.row) == each]))
    return table(["rows", "n", "supported", "median", "mean", "90th percentile", "bias"], rows)


def error_row(label: str, entries: Sequence[Compared]) -> list[str]:
    found = statistics(entries)
    shown = [percent(found[key]) for key in ("median_abs_error", "mean_abs_error", "p90_abs_error")]
    return [label, str(found["n"]), str(found["supported"]), *shown, percent(found["bias"], "+")]


def by_class(entries: Sequence[Compared]) -> dict[str, list[Compared]]:
    """The entries of every class, all of them first."""
    found: dict[str, list[Compared]] = {"all": list(entries)}
    for entry in entries:
        for name in classes_of(entry.row):
            found.setdefault(name, []).append(entry)
    first = ["all", *sorted(name for name in found if name != "all" and not name.startswith(("part", "quality")))]
    return {name: found[name] for name in (*first, *sorted(set(found) - set(first)))}


def left_out_table(entries: Sequence[Compared], together: str = "family") -> list[str]:
    """The same figures where each family (source and model), source or accelerator generation is predicted by constants
    fitted on the others, and the share of rows inside intervals drawn without their own source."""
    errors, inside = left_out(together), inside_intervals()
    rows = []
    for name, group in by_class(entries).items():
        ids = [e.row.id for e in group if e.row.id in errors]
        if not ids:
            continue
        known = np.array([errors[each] for each in ids])
        size = np.abs(known)
        held = float(np.mean([inside[each] for each in ids]))
        shown = [percent(float(each)) for each in (np.median(size), size.mean(), np.quantile(size, 0.9))]
        rows.append([name, str(len(known)), *shown, percent(float(known.mean()), "+"), percent(held)])
    return table(["rows", "n", "median", "mean", "90th percentile", "bias", "in the 80 % interval"], rows)


@cache
def inside_intervals() -> dict[str, bool]:
    """Whether a row's measurement, predicted without its source, lies in the interval drawn without that source."""
    known = residuals.residuals()
    with residuals.DATA.open(encoding="utf-8", newline="") as file:
        ids = [row["id"] for row in csv.DictReader(file)]
    found = {}
    for name, case, family, error in zip(ids, known.cases, known.families, known.errors, strict=True):
        low, high = confidence.interval_of(case, known, without=residuals.source_of(family))
        found[name] = bool(low <= error <= high)
    return found


def coverage() -> float:
    """Share of rows whose measurement lies in the interval drawn without their own source."""
    return float(np.mean(list(inside_intervals().values())))


def constants_table() -> list[str]:
    rows = [
        [entry["name"], entry["constant"], f"{entry['value']:.3g}", f"{entry['low']:.3g} to {entry['high']:.3g}",
         f"{entry['prior']:g}", percent(entry.get("mean_error_without")), entry["meaning"]]
        for entry in constants.entries()
    ]  # fmt: skip
    head = ["what", "constant", "value", "80 % interval", "prior", "mean error without it", "meaning"]
    return table(head, rows)


def breakdown(entry: Compared) -> str:
    if entry.prediction is None:
        return ""
    if entry.quantity == "step_time_s":
        parts = entry.prediction.breakdown_s
    else:
        fullest = max(entry.prediction.stages, key=lambda stage: stage.peak_memory_bytes)
        parts = fullest.memory_bytes
    whole = sum(parts.values())
    largest = sorted(parts.items(), key=lambda part: -part[1])
    return ", ".join(f"{name} {100 * part / whole:.0f} %" for name, part in largest if part > 0.03 * whole)


def large_errors(entries: Sequence[Compared]) -> list[Compared]:
    return [e for e in entries if e.error_fraction is not None and abs(e.error_fraction) > LARGE_ERROR]


def large_error_table(entries: Sequence[Compared]) -> list[str]:
    """Every row off by more than 20 %, its own breakdown, and why."""
    rows = [
        [e.row.id, "time" if e.quantity == "step_time_s" else "memory", percent(e.error_fraction, "+"), breakdown(e),
         explanation_of(e) or "not explained"]
        for e in large_errors(entries)
    ]  # fmt: skip
    return table(["row", "quantity", "error", "predicted breakdown", "why"], rows)


def ranking_table(entries: Sequence[Compared]) -> list[str]:
    found = rankings(entries)
    rows = [[r.name, str(len(r.ids)), f"{r.tau:+.2f}", percent(r.regret_fraction), str(r.place)] for r in found]
    rows.append(["mean", str(sum(len(r.ids) for r in found)), f"{np.mean([r.tau for r in found]):+.2f}",
                 percent(float(np.mean([r.regret_fraction for r in found]))), ""])  # fmt: skip
    first, three = share_within(found, 1), share_within(found, 3, more_than=3)
    words = (
        f"The measured best plan is the predicted best in {percent(first)} of the sweeps, and among the predicted "
        f"first three in {percent(three)} of those with more than three runs."
    )
    return [*table(["sweep", "runs", "Kendall tau", "regret", "measured best at"], rows), words, ""]


def recipe_table() -> list[str]:
    """Published plans beside the best of the search, as they were last searched."""
    found = read_recipes()
    rows = [
        [r.id, f"{r.legal:,}", f"{r.recipe_s:.2f} s", f"{r.best_s:.2f} s", percent(r.beaten_fraction, "+"),
         "tied" if r.is_tied else "within" if r.is_within else "no", "yes" if r.fits else "no",
         r.differs.replace("|", "\\|") or "nothing"]
        for r in found
    ]  # fmt: skip
    head = ["recipe", "legal plans", "its step", "best", "longer by", "close", "fits", "what the best changes"]
    return [*table(head, rows), summary_line(found), "", *recipe_explanations(found), ""]


def ambiguous_table(entries: Sequence[Compared]) -> list[str]:
    """Rows marked before they were predicted; none of the figures above counts them."""
    rows = [
        [e.row.id, percent(e.error_fraction, "+"), e.row.ambiguous]
        for e in entries
        if e.row.ambiguous and e.quantity == "step_time_s"
    ]
    return table(["row", "error", "what is ambiguous"], rows)


def unsupported_table(entries: Sequence[Compared]) -> list[str]:
    rows = [[e.row.id, e.row.quality, e.reason] for e in entries if e.predicted is None]
    return table(["row", "quality", "why not"], rows)


def results(entries: Sequence[Compared]) -> str:
    times, memory = counted(entries, "step_time_s"), counted(entries, "peak_memory_bytes")
    groups = {**GROUPS, "year": year_of}
    lines = [
        "# Predicted against measured", "",
        "Made by `python -m validate.report_results` from the rows of `published/runs`. Errors are (predicted - "
        "measured) / measured over rows of quality A and B; rows of quality C are predicted but not counted.", "",
        "![predicted against measured](figures/step_time.svg)", "",
        "## Step time, each source left out of the fit", "",
        "Each source is predicted by constants fitted on all others: the error to expect of a run that somebody else "
        "makes. Defaults of software stacks are not rebuilt.", "", *left_out_table(times, "source"),
        f"80 % intervals, drawn without a row's own source, hold {percent(coverage())} of the rows.", "",
        "## Step time, each family left out of the fit", "",
        "Each family (source and model) is predicted by constants fitted on all others.", "",
        *left_out_table(times, "family"),
        "## Step time, each accelerator generation left out of the fit", "",
        "The error to expect of a generation that nobody has measured: its clocks are the priors.", "",
        *left_out_table(times, "generation"),
        "## Rows that their source leaves ambiguous", "", *ambiguous_table(entries),
        "## Whole runs of MLPerf Training", "", *summary_lines(read_runs()), "",
        "## Step time, constants fitted on all rows but those of DSV3 and KORTH, which test them", "",
        *error_table(times, groups),
        "![by source](figures/by_source.svg)", "", "![by accelerator](figures/by_gpu.svg)", "",
        "![by scale](figures/by_scale.svg)", "", "![by year](figures/by_year.svg)", "",
        "## Constants", "",
        "All that is fitted. Rates divide seconds. `mean error without it`: of all rows, with this constant at its "
        "neutral value.", "", *constants_table(),
        "## Peak memory", "", "By the meter of each source: allocator, reserved, or device. One constant is fitted: "
        "the share that allocators of 2021-22 lose to fragmentation (BigScience's rows).", "",
        *error_table(memory, {"source": GROUPS["source"], "gpu": GROUPS["gpu"]}),
        "## Runs that are predicted not to fit", "",
        "They ran, so something of them is read or priced wrongly.", "", *unfitting_table(entries),
        "## Order of plans", "",
        "Sweeps at equal work: agreement of the order, what the predicted best costs over the measured best, and at "
        "which place of the predicted order the measured best stands.", "",
        *ranking_table(entries),
        "## Published recipes against the search", "",
        "Made by `python -m validate.recipes` (minutes; `traincast validate --plans` shows the same): every legal plan "
        "around a vendor's recipe is searched, of mixtures of experts those with its recomputation, dispatcher and "
        "delayed or shared-expert overlaps (`recipes.toml`). Both steps are predicted. tied: the two are closer than "
        "the prediction can tell, errors that they share left out; within: the best lies within the 80 % interval of "
        "the recipe's own step.", "", *recipe_table(),
        "## Rows off by more than 20 %", "", *large_error_table([*times, *memory]),
        "## Rows not supported", "", *unsupported_table(entries),
    ]  # fmt: skip
    return "\n".join(lines)


def figures(entries: Sequence[Compared]) -> dict[str, str]:
    """SVG documents by file name."""
    times = [e for e in counted(entries, "step_time_s") if e.error_fraction is not None]
    points = [(e.measured or 0.0, e.predicted or 0.0, GROUPS["gpu"](e.row)) for e in times]
    found = {"step_time.svg": scatter("Step time of published runs", points, "s")}
    for name, label in {**GROUPS, "year": year_of}.items():
        labels = sorted({label(e.row) for e in times})
        errors = {each: [e.error_fraction or 0.0 for e in times if label(e.row) == each] for each in labels}
        found[f"by_{name}.svg"] = strips(f"Error of step time by {name}", errors)
    return found


def main() -> None:
    entries = compare_all(read_rows(), processes=2)
    written = {HERE / "RESULTS.md": results(entries)}
    written |= {HERE / "figures" / name: text for name, text in figures(entries).items()}
    for path, text in written.items():
        path.parent.mkdir(exist_ok=True)
        aside = path.with_suffix(".aside")
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)


if __name__ == "__main__":
    main()
