"""What an evaluation says beyond the folded step, for people: every GPU by itself, and what surrounds the step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from hardware.units import format_bytes, format_count, format_fraction, format_rate, format_seconds

Row = tuple[str, str]

# What makes GPUs unequal, as people say it.
CAUSES = {
    "gpu_sigma": "GPU speeds",
    "jitter": "jitter",
    "slow_gpus": "slow GPUs",
    "slow_nodes": "slow nodes",
    "slow_links": "slow links",
    "experts": "expert load",
    "sequence_sigma": "sequence lengths",
    "together": "together",
}
ONLY_SPEED = "predicts speed, not loss"


def step_seconds(seconds: float) -> str:
    """A step and its parts: in seconds even above a minute, as everybody quotes them."""
    return format_seconds(seconds) if seconds < 60 else f"{seconds:,.2f} s"


def every_gpu(ranks: Mapping[str, Any]) -> Iterable[Row]:
    """The spread of the step, the tax of each cause, who is waited for."""
    mean, low, high = (step_seconds(ranks["step_time_s"][name]) for name in ("mean", "p10", "p90"))
    samples = f"{ranks['samples']} step{'s' if ranks['samples'] > 1 else ''}"
    ideal, tax = step_seconds(ranks["ideal_step_time_s"]), ranks["tax_fraction"]
    whole = f"{mean} in the mean of {samples} of {ranks['gpus']:,} GPUs"
    yield "Every GPU", f"{whole} (P10 {low}, P90 {high}), {ideal} if all were equal"
    if len(tax) == 1:
        yield "Tax", "none: the scenario's spread is empty, every GPU is alike"
        return
    assumed = "; the scenario has no spread, theirs is calibrated" if ranks["spread"] == "calibrated" else ""
    yield "Tax", ", ".join(f"{CAUSES[cause]} {100 * share:+.1f} %" for cause, share in tax.items()) + assumed
    waits = sorted(((spent, group) for group, spent in ranks["wait_s"].items() if spent > 0), reverse=True)
    yield "Waiting", "a GPU's mean, at barriers of " + ", ".join(f"{g} {step_seconds(s)}" for s, g in waits)
    waited_gpu_s = sum(spent for spent, _ in waits) * ranks["gpus"]
    for worst in ranks["blamed"][:4]:
        where = f"rank {worst['rank']} on node {worst['node']}, pipeline rank {worst['stage']}"
        yield "Waited for", f"{where}: {format_fraction(worst['blamed_gpu_s'] / waited_gpu_s)} of all waiting"


def contention(found: Mapping[str, Any]) -> Iterable[Row]:
    cause = f"if transfers took {found['communication_sms']} SMs from computation and shared ports"
    yield "Contention", f"{100 * found['slowdown_fraction']:+.1f} % {cause}; not in the step time"


def input_pipeline(found: Mapping[str, Any]) -> Iterable[Row]:
    rates = f"{found['delivered_per_s']:,.3g} micro-batches/s a replica at most, {found['used_per_s']:,.3g} used"
    if found["starved_fraction"] < 5e-4:
        yield "Input", f"keeps up: {rates}"
        return
    share, step = format_fraction(found["starved_fraction"]), step_seconds(found["step_time_s"])
    yield "Input", f"starves the GPUs {share} of the time, so that a step takes {step}: {rates}"


def local_sgd(found: Mapping[str, Any]) -> Iterable[Row]:
    together = f"{found['clusters']} such clusters: {format_count(found['tokens_per_s'])} tokens/s together"
    waiting = f"{format_fraction(found['waiting_fraction'])} of their time waiting"
    yield "Local SGD", f"{together}, {waiting}; a round {step_seconds(found['round_s'])}"
    rare, every = format_bytes(found["link_bytes_per_step"]), format_bytes(found["synchronous_bytes_per_step"])
    yield "Local SGD", f"{rare} per step over each thin link, instead of {every}; {ONLY_SPEED}"


def parameter_server(found: Mapping[str, Any]) -> Iterable[Row]:
    speed = f"{found['workers']:,} workers, {found['mode']}: {format_count(found['tokens_per_s'])} tokens/s"
    waiting = f"{format_fraction(found['waiting_fraction'])} of their time waiting"
    yield "Server", f"{speed}, {waiting}, {format_rate(found['traffic_bytes_per_s'])} through the servers"
    old = found["staleness"]
    mean = f"gradients {found['mean_staleness']:.1f} updates old in the mean"
    yield "Server", f"{mean} (P10 {old['p10']}, P90 {old['p90']}); {ONLY_SPEED}"


# Each part by the document's key that it renders.
PARTS = {
    "ranks": every_gpu,
    "contention": contention,
    "input": input_pipeline,
    "local_sgd": local_sgd,
    "parameter_server": parameter_server,
}


def beyond(document: Mapping[str, Any]) -> list[Row]:
    """The rows of every part that the document has."""
    return [row for key, rows in PARTS.items() if document.get(key) for row in rows(document[key])]
