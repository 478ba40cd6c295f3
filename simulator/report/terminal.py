"""An evaluation for people: 100 columns, colours on a terminal, plain text elsewhere.

Works from the document, so that a stored result.json renders as the run did.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from hardware.units import (
    format_bytes,
    format_count,
    format_energy,
    format_flops_rate,
    format_fraction,
    format_rate,
    format_seconds,
    format_usd,
)
from simulator.plan.choices import GRANULARITIES, SHARDINGS
from simulator.report.alternatives import alternatives_table
from simulator.report.beyond import beyond, step_seconds
from simulator.report.links import links_table

WIDTH = 100
BAR = 34
GIB = 2**30
# Owners of memory, by their first word, that are too long for a column.
SHORT = {
    "gradients": "grads",
    "optimizer": "optim",
    "activations": "activ",
    "quantized": "quant",
    "gathered": "gather",
    "working": "work",
}


# How people write what may be known of a published run.
ANSWERS = {
    "step_time_s": ("step time", step_seconds),
    "tokens_per_s_per_gpu": ("tokens/s/GPU", "{:,.1f}".format),
    "model_flops_per_s_per_gpu": ("per GPU", format_flops_rate),
    "mfu_fraction": ("MFU", format_fraction),
    "training_time_s": ("training time", format_seconds),
    "peak_memory_bytes": ("peak memory", format_bytes),
}


def print_evaluation(document: Mapping[str, Any]) -> None:
    """Prints the report on stdout: in colour on a terminal, as plain text elsewhere."""
    console = Console(highlight=False)
    if console.is_terminal:
        console = Console(highlight=False, width=max(60, min(WIDTH, console.width)))
        console.print(evaluation(document, _can_print_blocks(console)))
    else:
        sys.stdout.write(evaluation_text(document, _can_print_blocks(console)))


def evaluation_text(document: Mapping[str, Any], blocks: bool = True) -> str:
    """The report as plain text, for a file or a pipe."""
    stream = io.StringIO()
    Console(file=stream, highlight=False, width=WIDTH, no_color=True).print(evaluation(document, blocks))
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


def evaluation(document: Mapping[str, Any], blocks: bool = True) -> Group:
    """The whole report; `blocks` False draws bars in ASCII."""
    parts: list[RenderableType] = [
        _title(document["scenario"]),
        _understood(document),
        _step(document, blocks),
        _figures(document),
        *([links_table(document["network"])] if document.get("network") else []),
        *([Group("", _pairs(rows))] if (rows := beyond(document)) else []),
        *([alternatives_table(document["alternatives"])] if document.get("alternatives") else []),
        _memory(document, blocks),
        _footer(document),
    ]
    return Group(*parts)


def _can_print_blocks(console: Console) -> bool:
    try:
        "█░".encode(console.encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _title(scenario: Mapping[str, Any]) -> RenderableType:
    title = Text(scenario["name"], style="bold cyan")
    question = [Text(scenario["question"].strip(), style="italic")] if scenario["question"] else []
    return Group(title, *question, "")


def _understood(document: Mapping[str, Any]) -> RenderableType:
    scenario = document["scenario"]
    model, cluster, plan, run = (scenario[name] for name in ("model", "cluster", "plan", "run"))
    mtp = f" + {model['mtp_layers']} MTP" if model["mtp_layers"] else ""
    tokens = plan["global_batch_size"] * run["seq_length"]
    replicas = (
        f"{plan['microbatches']:,} micro-batches of {plan['micro_batch_size']} on each of {plan['dp']:,} replicas"
    )
    return _pairs(
        [
            (
                "Model",
                f"{model['name']}: {format_count(document['parameters_total'])} parameters, "
                f"{format_count(document['parameters_active'])} active, {model['layers']}{mtp} layers",
            ),
            (
                "Cluster",
                f"{cluster['gpus']:,} x {cluster['accelerator']} in {cluster['nodes']:,} "
                f"node{'s' if cluster['nodes'] > 1 else ''} of {cluster['gpus_per_node']}; {cluster['fabric']}",
            ),
            (
                "Links",
                f"{format_rate(cluster['scale_up_bytes_per_s'])} within {cluster['scale_up_gpus']} GPUs, "
                f"{format_rate(cluster['scale_out_bytes_per_s'])} beyond (per GPU and direction)",
            ),
            ("Plan", ", ".join(_layout(plan))),
            ("Stack", _stack(scenario["stack"])),
            (
                "Batch",
                f"{plan['global_batch_size']:,} sequences of {run['seq_length']:,} = {format_count(tokens)} tokens; "
                f"{replicas}",
            ),
        ]
    )


def _stack(stack: Mapping[str, Any]) -> str:
    """The software that the prediction stands on, and what of it the scenario says otherwise or leaves to it."""
    unnamed = "" if stack["named"] else ", as none is named"
    changed = ", ".join(f"{name} {_word(value)}" for name, value in stack["changed"].items())
    settings = ", ".join(f"{name} {_word(value)}" for name, value in stack["settings"].items())
    with_changes = f"; changed: {changed}" if changed else ""
    with_settings = f"; it sets {settings}" if settings else ""
    return f"{stack['title']} ({stack['name']}{unnamed}){with_changes}{with_settings}"


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _layout(plan: Mapping[str, Any]) -> Iterable[str]:
    """The plan in the field's short words, defaults left out."""
    for degree in ("tp", "cp", "ep", "etp", "pp", "vpp"):
        if plan[degree] > 1:
            yield f"{degree} {plan[degree]}"
    yield f"dp {plan['dp']}"
    if plan["sequence_parallel"]:
        yield "sequence parallel"
    if plan["pp"] > 1:
        yield plan["schedule"]
    yield plan["precision"]
    yield SHARDINGS[plan["sharding"]].label + (f" over {plan['shard_group']}" if plan["shard_group"] else "")
    yield plan["optimizer"]["kind"]
    if plan["ep"] > 1:
        yield f"{plan['dispatcher']} dispatch" + (" in fp8" if plan["dispatch_fp8"] else "")
    offload = plan["offload"]
    if offload["activation_fraction"]:
        yield f"{format_fraction(offload['activation_fraction'])} of {'+'.join(offload['modules'])} offloaded"
    if offload["optimizer_fraction"]:
        yield f"{format_fraction(offload['optimizer_fraction'])} of the optimizer on the host"
    if offload["gradient_fraction"] is not None:
        yield f"{format_fraction(offload['gradient_fraction'])} of the gradients on the host"
    if offload["params"] != "gpu":
        yield f"parameters on {'local drives' if offload['params'] == 'nvme' else 'the host'}"
    if plan["adapters"]:
        yield f"adapters of rank {plan['adapters']['rank']} on {'+'.join(plan['adapters']['targets'])}"
    if plan["loss"]["chunks"] > 1:
        yield f"loss in {plan['loss']['chunks']} chunks"
    recompute = plan["recompute"]
    granularity = GRANULARITIES[recompute["granularity"]]
    if granularity.whole_layers:
        yield "full recompute"
    elif granularity.named_modules:
        yield f"recompute {'+'.join(recompute['modules'])}"


def _step(document: Mapping[str, Any], blocks: bool) -> RenderableType:
    total = document["step_time_s"]
    head = Text.assemble(("Step time  ", "bold"), (step_seconds(total), "bold green"))
    if "step_time_interval_s" in document:
        low, high = document["step_time_interval_s"]
        head.append(f"   between {step_seconds(low)} and {step_seconds(high)}")
    table = Table(box=None, show_header=False, padding=(0, 1), pad_edge=False)
    for _ in range(2):
        table.add_column()
    table.add_column(justify="right")
    table.add_column(justify="right")
    done = 0.0
    for cause, seconds in document["breakdown_s"].items():
        if abs(seconds) < 5e-5 * total:
            continue
        table.add_row(cause, _waterfall(done / total, seconds / total, blocks), step_seconds(seconds),
                      format_fraction(seconds / total))  # fmt: skip
        done += seconds
    return Group("", head, Padding(table, (0, 0, 0, 2)))


def _waterfall(start: float, share: float, blocks: bool) -> Text:
    """A bar that begins where the one above ended."""
    full, empty = ("█", " ") if blocks else ("#", " ")
    begin = min(round(start * BAR), BAR - 1)
    end = min(max(round((start + share) * BAR), begin + 1), BAR)
    return Text(empty * begin + full * (end - begin) + empty * (BAR - end), style="blue")


def _figures(document: Mapping[str, Any]) -> RenderableType:
    per_gpu = document["tokens_per_s_per_gpu"]
    counted = f"of the dense 16-bit peak, counted as {document['flops_convention']}"
    mfu = f"{format_fraction(document['mfu_fraction'])} MFU {counted}"
    tokens = document["scenario"]["run"]["tokens"]
    rows = [
        ("Throughput", f"{format_count(document['tokens_per_s'])} tokens/s, {per_gpu:,.1f} tokens/s/GPU"),
        ("Model FLOPs", f"{format_flops_rate(document['model_flops_per_s_per_gpu'])} per GPU, {mfu}"),
        ("Cost in time", f"{document['gpu_hours_per_1e12_tokens']:,.0f} GPU-hours per 10^12 tokens"),
        (
            "Training",
            f"{format_count(tokens)} tokens in {format_seconds(document['training_time_s'])}, without failures",
        ),
    ]
    rows += [("Whole run", text) for text in _run(document["run"])]
    return Group("", _pairs(rows))


def _run(run: Mapping[str, Any] | None) -> Iterable[str]:
    """The run with its failures: when it ends, what it costs, where the time goes."""
    if run is None:
        return
    if not run["finishes"]:
        yield f"does not finish: {run['reason']}"
        return
    ends = run["finish_s"]
    yield (f"{format_seconds(ends['p50'])} with failures (P10 {format_seconds(ends['p10'])}, P90 "
           f"{format_seconds(ends['p90'])}), goodput {format_fraction(run['goodput_fraction'])} "
           f"({format_fraction(run['first_order_goodput_fraction'])} to first order)")  # fmt: skip
    yield from _policies(run)
    lost = sorted(((spent, cause) for cause, spent in run["lost_s"].items() if spent > 0), reverse=True)
    costs = run["lost_cost_usd"]
    if lost:
        price = {cause: f" = {format_count(costs[cause])} USD" if costs else "" for _, cause in lost}
        yield "lost: " + ", ".join(
            f"{cause.replace('_', ' ')} {format_seconds(spent)}{price[cause]}" for spent, cause in lost
        )
    bill = [format_usd(run["cost_usd"])] if run["cost_usd"] is not None else []
    if run["cost_usd_per_trillion_tokens"] is not None:
        bill.append(f"{format_usd(run['cost_usd_per_trillion_tokens'])} per 10^12 tokens")
    bill += [format_energy(run["energy_j"])] if run["energy_j"] is not None else []
    bill += [f"{run['carbon_kg'] / 1000:,.0f} t CO2"] if run["carbon_kg"] is not None else []
    if bill:
        yield ", ".join(bill)


def _policies(run: Mapping[str, Any]) -> Iterable[str]:
    """How often it is interrupted, and what is done about it."""
    between = run["mean_time_between_interruptions_s"]
    said = [f"interrupted every {format_seconds(between)}" if between else "never interrupted"]
    saved = run["checkpoint_every_s"].values()
    saves = [f"{tier} every {format_seconds(every)}" for tier, every in run["checkpoint_every_s"].items() if every]
    best_s = run["best_every_s"]
    best = f" (Daly's best: {format_seconds(best_s)})" if best_s and best_s not in saved else ""
    said.append(f"checkpoints to {', '.join(saves)} of work{best}" if saves else "no checkpoints")
    said.append(f"{run['spares']:,} spare nodes ({run['spares_needed']:,} suffice 99 % of the time)")
    yield "; ".join(said)


def _memory(document: Mapping[str, Any], blocks: bool) -> RenderableType:
    capacity, used = document["memory_capacity_bytes"], document["device_memory_bytes"]
    on_device = used <= capacity
    verdict = _verdict(on_device)
    spare = f"{format_bytes(abs(capacity - used))} {'to spare' if on_device else 'too much'}"
    head = Text.assemble(
        ("Memory  ", "bold"), verdict, f": {format_bytes(used)} of {format_bytes(capacity)} on the fullest GPU, {spare}"
    )
    owners = [owner for owner in dict.fromkeys(o for s in document["stages"] for o in _held(s))
              if any(_held(stage).get(owner) for stage in document["stages"])]  # fmt: skip
    table = Table(box=SIMPLE_HEAD if blocks else None, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("GiB on", no_wrap=True)
    table.add_column("layers", min_width=6, max_width=14, overflow="fold")
    for owner in owners:
        table.add_column(SHORT.get(owner.split()[0], owner.split()[0]), justify="right", no_wrap=True)
    table.add_column("used", justify="right")
    table.add_column("of capacity", no_wrap=True)
    for stages in _alike(document["stages"]):
        table.add_row(*_memory_row(stages, owners, capacity, blocks))
    return Group("", head, Padding(table, (0, 0, 0, 2)), *_host_memory(document["host_memory"]))


def _verdict(fits: bool) -> tuple[str, str]:
    return ("fits", "bold green") if fits else ("does not fit", "bold red")


def _host_memory(host: Mapping[str, Any]) -> Iterable[RenderableType]:
    """What the fullest node's CPUs hold, where the job needs their memory."""
    owners, capacity = host["owners"], host["capacity_bytes"]
    if not owners:
        return
    used = sum(owners.values())
    shares = ", ".join(f"{owner} {format_bytes(size)}" for owner, size in owners.items())
    if capacity is None:
        yield Text.assemble(("Host memory  ", "bold"), f"{format_bytes(used)} on the fullest node: {shares}")
        return
    amount = f": {format_bytes(used)} of {format_bytes(capacity)} on the fullest node: {shares}"
    yield Text.assemble(("Host memory  ", "bold"), _verdict(used <= capacity), amount)


def _memory_row(
    stages: list[Mapping[str, Any]], owners: list[str], capacity: float, blocks: bool
) -> Iterable[RenderableType]:
    first, last, used = stages[0], stages[-1], stages[0]["device_memory_bytes"]
    yield str(first["rank"]) + (f"-{last['rank']}" if last is not first else "")
    yield _layers(first["layers"])
    for owner in owners:
        held = _held(first).get(owner, 0)
        yield _gib(held) if held else "-"
    yield _gib(used)
    yield _gauge(used / capacity, blocks)


def _gib(held: float) -> str:
    return f"{held / GIB:.1f}" if held < 100 * GIB else f"{held / GIB:,.0f}"


def _held(stage: Mapping[str, Any]) -> dict[str, float]:
    """Memory by owner; what the device shows beyond the allocator in one."""
    return {**stage["memory_bytes"], "outside": sum(stage["outside_allocator_bytes"].values())}


def _layers(chunks: list[str]) -> str:
    """The chunks of a rank as Megatron writes layouts, long runs and equal neighbours counted: `Et*5 (tt)*6 tL`."""
    short = (re.sub(r"t{5,}", lambda run: f"t*{len(run[0])}", symbols) for symbols in chunks)
    counted = ((symbols, len(list(same))) for symbols, same in groupby(short))
    return " ".join(f"({symbols})*{count}" if count > 1 else symbols for symbols, count in counted)


def _alike(stages: list[Mapping[str, Any]]) -> Iterable[list[Mapping[str, Any]]]:
    """Consecutive stages that hold and use the same, together."""
    for _, group in groupby(stages, key=lambda s: (s["layers"], _held(s))):
        yield list(group)


def _gauge(used: float, blocks: bool, width: int = 6) -> Text:
    full, empty = ("█", "░") if blocks else ("#", ".")
    filled = min(round(used * width), width)
    style = "red" if used > 1 else "yellow" if used > 0.9 else "green"
    return Text.assemble((full * filled, style), (empty * (width - filled), "dim"), f" {100 * used:3.0f}%")


def _footer(document: Mapping[str, Any]) -> RenderableType:
    shares = sorted(document["evidence"].items(), key=lambda item: -item[1])
    evidence = ", ".join(f"{format_fraction(share)} {kind}" for kind, share in shares if share >= 5e-4)
    rows = [("Evidence", f"step time rests on {evidence}")]
    rows += [("Published", text) for text in _against(document)]
    rows += [("Warning", warning) for warning in document["warnings"]]
    return Group("", _pairs(rows))


def _against(document: Mapping[str, Any]) -> Iterable[str]:
    """The known answers, each with how far the prediction is off, then their source."""
    for row in document["against_published"]:
        words, written = ANSWERS[row["quantity"]]
        error = f"{100 * row['error_fraction']:+.1f} %"
        yield f"{words} {written(row['measured'])}, predicted {written(row['predicted'])} ({error})"
    published = document["scenario"]["published"]
    if published:
        counted = f"; FLOPs counted as {published['flops_convention']}" if published["flops_convention"] else ""
        yield f"source: {published['source']}{counted}"


def _pairs(rows: Iterable[tuple[str, str]]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 1), pad_edge=False)
    table.add_column(style="bold", no_wrap=True, min_width=12)
    table.add_column(overflow="fold")
    last = ""
    for name, text in rows:
        table.add_row("" if name == last else name, Text(text))
        last = name
    return table
