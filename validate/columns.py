"""Reads the older column layout of published runs: each row becomes scenario keys by fixed vocabularies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hardware.precisions import half_precision_peak
from hardware.problems import Place, Problem
from simulator.model.catalogue import load
from simulator.model.flops import flops_per_token
from simulator.model.inline import from_mapping
from simulator.model.spec import Model
from simulator.scenario.spec import Meter
from simulator.stack import names, release
from simulator.workload.shape import padded_vocab
from validate.columns_cells import COLUMNS, OPTIONAL, Cells
from validate.columns_model import model_of
from validate.columns_plan import cluster_of, plan_of
from validate.columns_words import CellReading, stack_entry
from validate.row import Measured, Row, Unsupported
from validate.row_scenarios import published_models, scenario_of
from validate.tables import Table

GIB = 2**30


def read_rows(table: Table, file: str, problems: list[Problem]) -> list[Row]:
    """The rows of a table in the older layout; what a row leaves unsaid or says in unknown words is said with it."""
    missing = [column for column in COLUMNS if column not in table.columns]
    unknown = [column for column in table.columns if column not in (*COLUMNS, *OPTIONAL)]
    if missing or unknown:
        what = f"columns must be the published ones, each once; missing {missing}, unknown {unknown}"
        problems.append(Problem(file, 1, "", what))
        return []
    rows = []
    for values, place in table.lines:
        cells = Cells(values)
        wrong = cells.problems() if cells.text("id") else ["has no id", *cells.problems()]
        problems += [place.problem(message) for message in wrong]
        rows.append(row_of(cells, place) if not wrong else _labelled(cells, place, {}))
    return rows


def row_of(cells: Cells, place: Place) -> Row:
    """One row in scenario keys; `unsupported` says why where there is no scenario."""
    reading, settings = CellReading(), dict[str, Any]()
    entry = stack_entry(cells.text("source"), cells.text("zero_stage_or_distopt"))
    reason = ""
    try:
        settings |= _settings(cells, entry, reading)
    except Unsupported as unsupported:
        reason = str(unsupported)
    row = _labelled(cells, place, settings)
    row = replace(row, assumed=tuple(reading.assumed), unknown_words=tuple(reading.unknown), unsupported=reason)
    return replace(row, measured=_measured(cells, row, entry))


def _labelled(cells: Cells, place: Place, settings: Mapping[str, Any]) -> Row:
    return Row(
        id=cells.text("id"),
        place=place,
        settings=settings,
        measured=(),
        source=cells.text("source"),
        gpu=cells.text("gpu_type"),
        network=cells.text("internode_network"),
        kind=cells.text("dense_or_moe"),
        quality=cells.text("quality"),
        group=cells.text("group"),
        notes=cells.text("notes"),
    )


def _settings(cells: Cells, entry: Mapping[str, Any], reading: CellReading) -> dict[str, Any]:
    """Scenario keys of a row. Raises Unsupported."""
    stack = cells.text("stack")
    if stack and stack not in names():
        raise Unsupported(f"stack {stack!r} is not known; `traincast stacks` lists the releases")
    if not stack:
        stack = entry["release"]
        reading.assumed.append(f"stack = {stack}: from the words of the source")
    cluster = cluster_of(cells, reading)
    reading.read_attention(cells.text("kv_heads_or_attention"))
    model, about_model = model_of(cells)
    reading.assumed += about_model
    plan = plan_of(cells, reading, release(stack).stack.framework, _model(model))
    return {
        "model": model,
        **cluster,
        "run.seq_length": cells.need("seq_len"),
        "plan.stack": stack,
        **{f"plan.{key}": value for key, value in plan.items()},
    }


def _model(model: str | dict[str, Any]) -> Model:
    written = published_models().get(model) if isinstance(model, str) else model
    return load(str(model)) if written is None else from_mapping(written)


def _measured(cells: Cells, row: Row, entry: Mapping[str, Any]) -> tuple[Measured, ...]:
    quantities = (_step_time(cells, row, entry), _peak_memory(cells, entry))
    return tuple(quantity for quantity in quantities if quantity is not None)


def _step_time(cells: Cells, row: Row, entry: Mapping[str, Any]) -> Measured | None:
    """Seconds per step: printed, else by arithmetic from tokens/s, TFLOP/s or MFU; None where the row has none."""
    for column, how in (("measured_step_time_s", "printed"), ("derived_step_time_s", "derived from the printed rate")):
        seconds = cells.number(column)
        if seconds:
            return Measured("step_time_s", seconds, how)
    sequences, length = row.count("plan.global_batch_size"), row.count("run.seq_length")
    gpus = row.count("cluster.gpus")
    if not (sequences and length and gpus):
        return None
    tokens, rate = sequences * length, cells.number("measured_tokens_per_s_per_gpu")
    if rate:
        return Measured("step_time_s", tokens / (rate * gpus), f"from {rate:g} tokens/s per GPU")
    counted = _flops(cells, row, entry)
    if counted is None:
        return None
    flops_per_token, flops_per_s, how = counted
    return Measured("step_time_s", tokens * flops_per_token / flops_per_s / gpus, how)


def _flops(cells: Cells, row: Row, entry: Mapping[str, Any]) -> tuple[float, float, str] | None:
    """FLOPs per token as the source counts them, FLOP/s per GPU that it prints, and how; None without either."""
    teraflops, percent = cells.number("measured_tflops_per_gpu"), cells.number("measured_mfu_pct")
    if not (teraflops or percent):
        return None
    try:
        scenario, _ = scenario_of(row)
    except Unsupported:
        return None
    convention = entry["convention"]
    vocab = int(padded_vocab(scenario.model.vocab, scenario.plan))
    per_token = float(flops_per_token(scenario.model, scenario.run.seq_length, convention, vocab))
    if percent and (not teraflops or convention == "palm"):
        peaks = scenario.cluster.accelerator.peak_flops_per_s
        peak = entry.get("peak_flops_per_s") or half_precision_peak(peaks)
        return per_token, percent / 100 * peak, f"from {percent:g} % MFU, FLOPs counted as {convention}"
    achieved = (teraflops or 0.0) * 1e12
    return per_token, achieved, f"from {teraflops:g} TFLOP/s per GPU, FLOPs counted as {convention}"


def _peak_memory(cells: Cells, entry: Mapping[str, Any]) -> Measured | None:
    """Peak memory by the meter of the row's source; None where the row has none."""
    size = cells.number("measured_peak_memory_GiB")
    if not size:
        return None
    meter: Meter = entry.get("meter", "allocated")
    return Measured("peak_memory_bytes", size * GIB, f"printed, {meter}", meter)
