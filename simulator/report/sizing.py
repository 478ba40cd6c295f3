"""A sizing for people: the answer on top, a column for every node, what limits each, what the answer hangs on.

Works from the document of `traincast size`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from hardware.units import (
    format_count,
    format_energy,
    format_fraction,
    format_power,
    format_seconds,
    format_usd,
)
from simulator.report.beyond import step_seconds
from simulator.report.printing import pairs, print_report
from simulator.report.run_rows import usd_words

LEAST_CHANGE = 1e-4  # of a time or a cost: smaller ones are not seen in the four digits that are printed

# Which jobs a sizing looks at (`gpu_counts`).
SIZES = (
    "job sizes are whole nodes whose replicas share the batch evenly, at the plan's tp, cp and pp, or a quarter, half "
    "or twice of that pp; no other size was looked at"
)


def print_sizing(document: Mapping[str, Any]) -> None:
    """Prints the report on stdout: in colour on a terminal, as plain text elsewhere."""
    print_report(sizing(document))


def sizing(document: Mapping[str, Any]) -> Group:
    """The whole report."""
    return Group(
        _answer(document),
        *([_table(document)] if any(option["purchase"] for option in document["options"]) else []),
        Group("", pairs(_limits(document))),
        *([_parts(document)] if document["parts"] else []),
        *([_assumptions(document)] if document["assumptions"] else []),
    )


def _answer(document: Mapping[str, Any]) -> RenderableType:
    if document["answer"] is None:
        return Group(Text(f"Nothing is enough: {_asked(document['question'])}", style="bold red"))
    chosen = _chosen(document)
    bought = chosen["purchase"]
    gpus = f"{bought['gpus']:,} x {chosen['accelerator']}"
    spares = f"{bought['job_gpus']:,} in the job, {bought['spare_nodes']:,} spare nodes within"
    head = Text.assemble((gpus, "bold green"), f" in {chosen['node']} ({spares})")
    return Group(head, Text(_asked(document["question"]), style="italic"), "")


def _chosen(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """The option that is the answer."""
    answer: Mapping[str, Any] = next(each for each in document["options"] if each["node"] == document["answer"])
    return answer


def _asked(question: Mapping[str, Any]) -> str:
    """The question in words."""
    words = []
    if question["gpus"] is not None:
        words.append(f"on {question['gpus']:,} GPUs in all")
    if question["finish_within_s"] is not None:
        share = format_fraction(question["confidence"])
        words.append(f"done within {format_seconds(question['finish_within_s'])} in {share} of the runs")
    if question["budget_usd"] is not None:
        words.append(f"a mean run that costs at most {format_usd(question['budget_usd'])}")
    return ", ".join(words)


def _table(document: Mapping[str, Any]) -> RenderableType:
    options = [option for option in document["options"] if option["purchase"]]
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("")
    for option in options:
        table.add_column(Text(option["node"], style="bold"), justify="right", overflow="fold")
    rows = [dict(_rows(option, document["question"])) for option in options]
    for name in dict.fromkeys(name for row in rows for name in row):
        table.add_row(name, *(row.get(name, "") for row in rows))
    return table


def _rows(option: Mapping[str, Any], question: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    bought = option["purchase"]
    yield "GPUs bought", f"{bought['gpus']:,}"
    yield "  paid for", f"{bought['paid_gpus']:,}"
    yield "  in the job", f"{bought['job_gpus']:,}"
    yield "  spare nodes", f"{bought['spare_nodes']:,}"
    yield "fabric", option["fabric"]
    plan = bought["plan"]
    yield "plan", " ".join(f"{name} {value}" for name, value in plan.items() if _says_something(name, value))
    low, high = bought["step_time_interval_s"]
    yield "step time", f"{step_seconds(bought['step_time_s'])} ({step_seconds(low)} .. {step_seconds(high)})"
    yield "tokens", format_count(bought["tokens"])
    for name in ("p10", "p50", "p90"):
        ends = bought["finish_s"][name]
        yield f"{name.upper()}", "never" if ends is None else format_seconds(ends)
    if bought["chance_fraction"] is not None:
        yield "in time", f"{format_fraction(bought['chance_fraction'])} of the runs"
    for name, words in (("rent_usd", "rent"), ("owned_usd", "owned")):
        yield words, "-" if bought[name] is None else usd_words(bought, name)
    yield "power", format_power(bought["power_w"])
    if bought["energy_j"] is not None:
        yield "energy", format_energy(bought["energy_j"])


def _says_something(name: str, value: Any) -> bool:
    return value is not None and (value != 1 or name == "micro_batch_size") and value != "none"


def _limits(document: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    bought = [option for option in document["options"] if option["purchase"]]
    if len(bought) > 1:
        yield "", f"decided by {_decided_by(document['question'], bought)}"
    for option in document["options"]:
        words = "limited by" if option["purchase"] else "no answer:"
        yield option["node"], f"{words} {option['limits']}"
        if option["fabric_reason"]:
            yield option["node"], f"on {option['fabric']}: {option['fabric_reason']}"
        if option["tried_gpus"]:
            sizes = ", ".join(f"{count:,}" for count in option["tried_gpus"])
            yield option["node"], f"jobs tried: {sizes} GPUs"
    if any(option["tried_gpus"] for option in document["options"]):
        yield "", SIZES


def _decided_by(question: Mapping[str, Any], bought: Sequence[Mapping[str, Any]]) -> str:
    """What puts one node before another, and which nodes that cannot be weighed come last."""
    if question["gpus"] is not None:
        return "the tokens, the most first"
    unpriced = [option["node"] for option in bought if option["purchase"]["cost_usd"] is None]
    if not unpriced:
        return "the cost of the mean run, the least first"
    names, remedy = ", ".join(unpriced), "write run.prices.gpu_hour"
    if len(unpriced) == len(bought):
        return f"the time, the earliest end first: no price of {names} is known; {remedy}"
    they = "it comes" if len(unpriced) == 1 else "they come"
    known = f"no price of {names} is known, so {they} behind every priced node: {remedy}"
    return f"the cost of the mean run, the least first; {known}"


def _parts(document: Mapping[str, Any]) -> RenderableType:
    """What twice of each part would change."""
    head = Text.assemble(("What more would buy", "bold"), "  each part twice as good, the plan kept")
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_edge=False)
    for name in ("", "", "earlier by", "worth"):
        table.add_column(name, justify="left" if not name else "right", overflow="fold")
    table.columns[3].justify = "left"
    bought = _chosen(document)["purchase"]
    for row in document["parts"]:
        saved_s = _seen(row["saved_s"], bought["at_confidence_s"])
        saved_usd = None if row["saved_usd"] is None else _seen(row["saved_usd"], bought["cost_usd"])
        worth = _worth(row, saved_s, saved_usd)
        table.add_row(row["part"], row["change"], _earlier(saved_s), worth)
    return Group("", head, Padding(table, (0, 0, 0, 2)))


def _seen(change: float, whole: float | None) -> float:
    """A change as far as it is seen in the digits of the whole; 0 below."""
    return change if abs(change) >= LEAST_CHANGE * (whole or 0.0) else 0.0


def _earlier(saved_s: float) -> str:
    if saved_s == 0:
        return "0"
    return format_seconds(saved_s) if saved_s > 0 else f"{format_seconds(-saved_s)} later"


def _worth(row: Mapping[str, Any], saved_s: float, saved_usd: float | None) -> str:
    """What the part is worth, in dollars of the mean run; the time saved is that of the asked confidence."""
    if saved_usd is None:
        return "no price is known"
    if saved_usd > 0:
        if saved_s < 0:
            return f"the mean run costs {format_usd(saved_usd)} less"
        return f"saves {format_usd(saved_usd)}" if row["priced"] else f"pays for itself below {format_usd(saved_usd)}"
    if saved_usd == 0:
        return "nothing" if saved_s <= 0 else "nothing: the mean run costs the same"
    more = f"costs {format_usd(-saved_usd)}" if row["priced"] else f"the mean run costs {format_usd(-saved_usd)} more"
    if saved_s <= 0:
        return f"{more} and gains nothing"
    if row["saved_s_per_million_usd"] is None:
        return more
    return f"{more}: {format_seconds(row['saved_s_per_million_usd'])} for a million USD"


def _assumptions(document: Mapping[str, Any]) -> RenderableType:
    share = format_fraction(document["question"]["confidence"])
    head = Text.assemble(("What it hangs on", "bold"), f"  when {share} of the runs have ended, and the mean cost")
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_edge=False)
    for name in ("", "from", "to", "ends", "cost"):
        table.add_column(name, overflow="fold")
    for row in document["assumptions"]:
        ends = " .. ".join("never" if end is None else format_seconds(end) for end in row["finish_s"])
        costs = "-" if row["cost_usd"] is None else " .. ".join(map(format_usd, row["cost_usd"]))
        table.add_row(row["assumption"], row["low"], row["high"], ends, costs)
    return Group("", head, Padding(table, (0, 0, 0, 2)))
