"""An evaluation for people: 100 columns, colours on a terminal, plain text elsewhere.

Works from the document, so that a stored result.json renders as the run did.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from hardware.units import (
    format_bytes,
    format_count,
    format_flops_rate,
    format_fraction,
    format_seconds,
)
from simulator.plans.choices import GRANULARITIES, SHARDINGS
from simulator.plans.quantized import PARTS
from simulator.report.alternatives import alternatives_table
from simulator.report.beyond import beyond, step_seconds
from simulator.report.job_rows import job_rows
from simulator.report.links import link_speeds, links_table
from simulator.report.memory_table import memory_table
from simulator.report.phases import of_phase, phases_table
from simulator.report.premises import premise_rows
from simulator.report.printing import can_print_blocks, pairs, print_report, printable_values, report_text
from simulator.report.run_rows import run_rows

BAR = 34
# How people write what may be known of a published run.
ANSWERS = {
    "step_time_s": ("step time", step_seconds),
    "tokens_per_s_per_gpu": ("tokens/s/GPU", "{:,.1f}".format),
    "model_flops_per_s_per_gpu": ("model FLOPs per GPU", format_flops_rate),
    "mfu_fraction": ("MFU", format_fraction),
    "training_time_s": ("training time", format_seconds),
    "peak_memory_bytes": ("peak memory", format_bytes),
}


def print_evaluation(document: Mapping[str, Any]) -> None:
    """Prints the report on stdout."""
    print_report(evaluation(document, can_print_blocks()))


def evaluation_text(document: Mapping[str, Any], blocks: bool = True) -> str:
    """The report as plain text, for a file or a pipe."""
    return report_text(evaluation(document, blocks))


def evaluation(document: Mapping[str, Any], blocks: bool = True) -> Group:
    """The whole report; `blocks` False draws bars in ASCII."""
    return Group(*sections(document, blocks).values())


def sections(document: Mapping[str, Any], blocks: bool = True) -> dict[str, RenderableType]:
    """The parts of the report in their order, by name. No text of the document steers the terminal."""
    document = printable_values(document)
    phase = of_phase(document)
    parts: dict[str, RenderableType] = {
        "title": _title(document["scenario"]),
        "understood": _understood(document),
        "step": _step(document, blocks),
        "figures": _figures(document),
    }
    if document.get("phases"):
        parts["phases"] = phases_table(document)
    if document.get("network"):
        parts["network"] = links_table(document["network"], phase)
    if rows := beyond(document):
        parts["beyond"] = Group("", pairs(rows))
    if document.get("alternatives"):
        parts["alternatives"] = alternatives_table(document["alternatives"])
    parts["memory"] = memory_table(document, blocks, phase)
    if rows := premise_rows(document):
        parts["assumed"] = Group("", pairs(rows))
    parts["footer"] = _footer(document)
    return parts


def _title(scenario: Mapping[str, Any]) -> RenderableType:
    title = Text(scenario["name"], style="bold cyan")
    question = [Text(scenario["question"].strip(), style="italic")] if scenario["question"] else []
    return Group(title, *question, "")


def _understood(document: Mapping[str, Any]) -> RenderableType:
    scenario = document["scenario"]
    model, cluster, plan, run = (scenario[name] for name in ("model", "cluster", "plan", "run"))
    mtp = f" + {model['mtp_layers']} MTP" if model["mtp_layers"] else ""
    tokens = plan["global_batch_size"] * run["seq_length"]
    every = f"on each of {plan['dp']:,} replicas" if plan["dp"] > 1 else "on one replica"
    microbatches = f"{plan['microbatches']:,} micro-batch{'es' if plan['microbatches'] > 1 else ''}"
    replicas = f"{microbatches} of {plan['micro_batch_size']} {every}"
    return pairs(
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
            ("Links", link_speeds(document)),
            ("Plan", ", ".join(_layout(plan))),
            ("Stack", _stack(scenario["stack"])),
            (
                "Batch",
                f"{plan['global_batch_size']:,} sequences of {run['seq_length']:,} = {format_count(tokens)} tokens; "
                f"{replicas}",
            ),
        ]
    )


# How the release of the software was chosen, in words.
CHOICES = {
    "named": "",
    "newest of framework": ", the newest of the framework, as no release is named",
    "default": ", the default, as none is named",
}


def _stack(stack: Mapping[str, Any]) -> str:
    """The software that the prediction stands on, and what of it the scenario says otherwise or leaves to it."""
    unnamed = CHOICES[stack["choice"]]
    changed = ", ".join(f"{name} {_word(value)}" for name, value in stack["changed"].items())
    settings = ", ".join(f"{name} {_word(value)}" for name, value in stack["settings"].items())
    with_changes = f"; changed: {changed}" if changed else ""
    with_settings = f"; it sets {settings}" if settings else ""
    with_fp8 = f"; its fp8 is {stack['fp8_means']}" if stack.get("fp8_means") else ""
    return f"{stack['title']} ({stack['name']}{unnamed}){with_changes}{with_settings}{with_fp8}"


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


ENDS = (("first", "bf16_layers_at_start"), ("last", "bf16_layers_at_end"))


def _left_in_16_bit(quantized: Mapping[str, Any]) -> str:
    """Which linears a plan below 16 bit leaves in 16 bit, or quantises beyond the usual."""
    left = [part.replace("_", " ") for part in PARTS if part != "head" and not quantized[part]]
    left += [f"the {word} {_layers(quantized[key])}" for word, key in ENDS if quantized[key]]
    text = f" (16 bit in {', '.join(left)})" if left else ""
    return text + (" and in the head" if quantized["head"] else "")


def _layers(count: int) -> str:
    return "layer" if count == 1 else f"{count} layers"


def _layout(plan: Mapping[str, Any]) -> Iterable[str]:
    """The plan in the field's short words, defaults left out."""
    for degree in ("tp", "cp", "ep", "etp", "pp", "vpp"):
        if plan[degree] > 1:
            yield f"{degree} {plan[degree]}"
    yield f"dp {plan['dp']}"
    if plan["sequence_parallel"] and plan["tp"] > 1:
        yield "sequence parallel"
    if plan["pp"] > 1:
        yield plan["schedule"]
    if plan["layout"]:
        yield f"layout {plan['layout']}"
    yield plan["precision"] + _left_in_16_bit(plan["quantized"])
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
        left_out = plan["stack"]["full_recompute"] == "left_out"
        yield "full recompute, which the software leaves out" if left_out else "full recompute"
    elif granularity.named_modules:
        chooses_operators = plan["stack"]["selective_recompute"] == "operators"
        yield "selective recompute" if chooses_operators else f"recompute {'+'.join(recompute['modules'])}"


def _step(document: Mapping[str, Any], blocks: bool) -> RenderableType:
    total = document["step_time_s"]
    head = Text.assemble(("Step time  ", "bold"), (step_seconds(total), "bold green"))
    if "step_time_interval_s" in document:
        low, high = document["step_time_interval_s"]
        head.append(f"   (P10 {step_seconds(low)}, P90 {step_seconds(high)})")
    head.append(of_phase(document))
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
    tokens, phase = document["scenario"]["run"]["tokens"], of_phase(document)
    rows = [
        ("Throughput", f"{format_count(document['tokens_per_s'])} tokens/s, {per_gpu:,.1f} tokens/s/GPU{phase}"),
        ("Model FLOPs", f"{format_flops_rate(document['model_flops_per_s_per_gpu'])} per GPU, {_mfu(document)}{phase}"),
        ("Work", f"{document['gpu_hours_per_1e12_tokens']:,.0f} GPU-hours per 10^12 tokens{phase}"),
        (
            "Training",
            f"{format_count(tokens)} tokens in {format_seconds(document['training_time_s'])}, without failures",
        ),
    ]
    rows += run_rows(document["run"], tokens)
    rows += job_rows(document.get("jobs"))
    return Group("", pairs(rows))


def _mfu(document: Mapping[str, Any]) -> str:
    """MFU and the peak that it is of; where the scenario changes the part's peak, also that of the changed one."""
    share, peak = document["mfu_fraction"], document["mfu_peak_flops_per_s"]
    own = document["scenario"]["cluster"]["peak_flops_per_s"]
    counted = f"counted as {document['flops_convention']}"
    of = f"{format_fraction(share)} MFU of the data sheet's dense 16-bit peak of {format_flops_rate(peak)}"
    if own == peak or not own:
        return f"{of}, {counted}"
    changed = f"{format_fraction(share * peak / own)} of the {format_flops_rate(own)} that the scenario makes of it"
    return f"{of} ({changed}), {counted}"


def _footer(document: Mapping[str, Any]) -> RenderableType:
    shares = sorted(document["evidence"].items(), key=lambda item: -item[1])
    evidence = ", ".join(f"{format_fraction(share)} {kind}" for kind, share in shares if share >= 5e-4)
    rows = [("Evidence", f"step time rests on {evidence}")]
    rows += [("Published", text) for text in _against(document)]
    rows += [("Warning", warning) for warning in document["warnings"]]
    return Group("", pairs(rows))


def _against(document: Mapping[str, Any]) -> Iterable[str]:
    """The known answers, each with how far the prediction is off, then their source."""
    for row in document["against_published"]:
        words, written = ANSWERS[row["quantity"]]
        error = f"{100 * row['error_fraction']:+.1f} %"
        yield f"{words} {written(row['measured'])}, predicted {written(row['predicted'])} ({error})"
    published = document["scenario"]["published"]
    if published:
        counted = f"; FLOPs counted as {published['flops_convention']}" if published["flops_convention"] else ""
        meter = published["memory_meter"]
        metered = f"; memory as {meter}" if published["peak_memory_bytes"] and meter != "allocated" else ""
        yield f"source: {published['source']}{counted}{metered}"
