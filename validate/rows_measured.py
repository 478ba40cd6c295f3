"""What a published row measured, as quantities that a prediction has too: step time, peak memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from simulator.model.flops import flops_per_token
from simulator.model.spec import Model
from simulator.plan.spec import Plan
from simulator.predict.prediction import Prediction
from simulator.workload.shape import padded_vocab
from validate.rows import Row
from validate.rows_tables import first_match

Meter = Literal["allocated", "reserved", "device"]
GIB = 2**30
# How sources that print only TFLOP/s or MFU counted FLOPs, and the peak of their MFU, from their READMEs and papers:
# pattern of the source -> convention, peak (None: the 16-bit peak of the part).
CONVENTIONS = (
    {"match": "Llama 3 Herd", "convention": "palm", "peak": 989e12},
    # Causal: counted whole, the long-context sweep would be slower the longer the sequence, by just attention's half.
    {"match": "Parallel Folding", "convention": "megatron", "peak": 989.5e12},
    {"match": "dgxc", "convention": "palm", "peak": None},
    {"match": "SC'21", "convention": "megatron-2021-recompute", "peak": None},
    {"match": "llm-foundry", "convention": "palm", "peak": None},
    {"match": "torchtitan", "convention": "torchtitan", "peak": None},
    {"match": "Korthikanti", "convention": "megatron-2021", "peak": None},
    {"match": "Insights into DeepSeek", "convention": "deepseek-causal", "peak": None},
    {"match": "", "convention": "megatron", "peak": None},
)
# What a source's peak memory is read from: pattern of the source or notes -> meter.
METERS = (
    {"match": "nvidia-smi|device memory", "meter": "device"},
    {"match": r"max reserved|torchtitan", "meter": "reserved"},
    {"match": "", "meter": "allocated"},
)


@dataclass(frozen=True, slots=True)
class Measured:
    """One measured quantity in SI units, and how it was read from the row."""

    quantity: Literal["step_time_s", "peak_memory_bytes"]
    value: float
    how: str
    meter: Meter = "allocated"


def step_time(row: Row, model: Model, plan: Plan, peak_flops_per_s: float) -> Measured | None:
    """Seconds per step: printed, else by arithmetic from tokens/s, TFLOP/s or MFU; None where the row has none."""
    tokens, gpus = plan.global_batch_size * row.need("seq_len"), row.need("n_gpus")
    printed, rate = row.number("measured_step_time_s"), row.number("measured_tokens_per_s_per_gpu")
    if printed:
        return Measured("step_time_s", printed, "measured_step_time_s")
    if row.number("derived_step_time_s"):
        return Measured("step_time_s", row.number("derived_step_time_s") or 0.0, "derived_step_time_s")
    if rate:
        return Measured("step_time_s", tokens / (rate * gpus), "measured_tokens_per_s_per_gpu")
    entry = first_match(CONVENTIONS, row.text("source"))
    assert entry is not None
    achieved = (row.number("measured_tflops_per_gpu") or 0.0) * 1e12
    how = f"measured_tflops_per_gpu counted as {entry['convention']}"
    if row.number("measured_mfu_pct") and (not achieved or entry["convention"] == "palm"):
        achieved = (row.number("measured_mfu_pct") or 0.0) / 100 * (entry["peak"] or peak_flops_per_s)
        how = f"measured_mfu_pct counted as {entry['convention']}"
    if not achieved:
        return None
    vocab = int(padded_vocab(model.vocab, plan))
    per_token = float(flops_per_token(model, row.need("seq_len"), entry["convention"], vocab))
    return Measured("step_time_s", tokens * per_token / achieved / gpus, how)


def peak_memory(row: Row) -> Measured | None:
    """Peak memory by the source's meter; None where the row has none."""
    size = row.number("measured_peak_memory_GiB")
    if not size:
        return None
    entry = first_match(METERS, f"{row.text('notes')} {row.text('source')}")
    assert entry is not None
    return Measured("peak_memory_bytes", size * GIB, f"measured_peak_memory_GiB, {entry['meter']}", entry["meter"])


def predicted(prediction: Prediction, measured: Measured) -> float:
    """The same quantity of a prediction, memory by the same meter."""
    if measured.quantity == "step_time_s":
        return prediction.step_time_s
    if measured.meter == "device":
        return prediction.device_memory_bytes
    if measured.meter == "reserved":
        return max(s.peak_memory_bytes + s.outside_allocator_bytes["fragmentation"] for s in prediction.stages)
    return prediction.peak_memory_bytes
