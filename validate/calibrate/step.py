"""A measured training step beside its prediction: time, kernel classes and peak memory of the same scenario."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from hardware.documents import Document
from hardware.problems import Place
from simulator.cost.constants import constants_for
from simulator.cost.groups import plan_groups
from simulator.cost.inventory import is_expert, operators
from simulator.cost.price import Prices, price
from simulator.cost.recompute import is_recomputed, recomputed_modules
from simulator.cost.step_times import update_times
from simulator.predict.prediction import Prediction, evaluate
from simulator.scenario.schema import Scenario, read_scenario
from simulator.workload.derive import workload_of
from simulator.workload.operators import CoreAttention, Exchange, Matmul, Pass, Routing
from simulator.workload.shape import padded_vocab
from validate.calibrate.classes import by_class
from validate.calibrate.points import OUT_OF_MEMORY
from validate.calibrate.products import first_line
from validate.calibrate.traces import trace_classes


@dataclass(frozen=True, slots=True)
class StepMeasured:
    """Median seconds of a step with its spread, seconds by kernel class of one step, peak bytes allocated."""

    seconds: float
    low_s: float
    high_s: float
    steps: int
    classes_s: Mapping[str, float]
    peak_bytes: float
    losses: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Size:
    """One model to train: sizes of attention and feed-forward; experts 0 for a dense one."""

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    width: int
    experts: int
    top_k: int
    seq_length: int
    vocab: int


SIZES = {
    "cuda": (
        Size("dense-0.5b", 1536, 16, 12, 4, 4096, 0, 0, 4096, 32000),
        Size("dense-2b", 2560, 24, 20, 4, 6912, 0, 0, 4096, 32000),
        Size("moe-16x0.1b", 1024, 12, 16, 4, 1024, 16, 2, 4096, 32000),
        Size("moe-64x2b", 2048, 8, 16, 4, 1024, 64, 6, 4096, 32000),
    ),
    "cpu": (
        Size("dense-tiny", 128, 2, 4, 2, 256, 0, 0, 128, 512),
        Size("moe-tiny", 128, 2, 4, 2, 128, 4, 2, 128, 512),
    ),
}
MICRO_BATCHES = {"cuda": (1, 4), "cpu": (2,)}


def scenarios(kind: str, node: str | Mapping[str, Any], profile: Path) -> list[Scenario]:
    """The configurations trained on a kind of device: every size, with and without recomputation, two micro-batches."""
    found = []
    for size in SIZES[kind]:
        for micro in MICRO_BATCHES[kind]:
            for recompute in ("none", "full"):
                data = document(size, micro, recompute, node, profile)
                found.append(read_scenario(Document(data, Place(str(Path.cwd() / "step.yaml"))), data["name"]))
    return found


def document(size: Size, micro: int, recompute: str, node: str | Mapping[str, Any], profile: Path) -> dict[str, Any]:
    """One configuration as a scenario file would have it."""
    ffn: dict[str, Any] = {"kind": "dense", "width": size.width}
    if size.experts:
        ffn = {
            "kind": "moe",
            "experts": size.experts,
            "top_k": size.top_k,
            "width": size.width,
            "shared_width": size.width,
        }
    mixer = {"kind": "attention", "heads": size.heads, "kv_heads": size.kv_heads, "head_dim": size.hidden // size.heads}
    return {
        "name": f"{size.name}, micro-batch {micro}, recompute {recompute}",
        "model": {"name": size.name, "hidden": size.hidden, "vocab": size.vocab,
                  "layers": [{"repeat": size.layers, "mixer": mixer, "ffn": ffn}]},
        "cluster": {"gpus": 1, "node": node, "fabric": "none"},
        "hardware": {"profile": str(profile.resolve())},
        "plan": {"micro_batch_size": micro, "global_batch_size": 2 * micro, "sharding": "none",
                 "recompute": {"granularity": recompute}},
        "run": {"seq_length": size.seq_length, "tokens": 1e9},
    }  # fmt: skip


def measure_step(scenario: Scenario, device: Any, steps: int = 5, warmup: int = 2) -> StepMeasured:
    """Trains the scenario's model on random tokens. Raises InputError for what the torch model does not have."""
    import torch

    from validate.calibrate.model import Transformer, check
    from validate.calibrate.optimizer import MainAdam

    model, plan = scenario.model, scenario.plan
    check(model, plan, scenario.file)
    torch.manual_seed(0)
    vocab, length = int(padded_vocab(model.vocab, plan)), scenario.run.seq_length
    network = Transformer(model, plan, vocab, length, device)
    optimizer = MainAdam(network.parameters())
    optimizer.collect()
    tokens = torch.randint(model.vocab, (plan.microbatches, plan.micro_batch_size, length + 1), device=device)

    def step() -> float:
        losses = []
        for batch in tokens:
            loss = network(batch[:, :-1], batch[:, 1:].contiguous())
            (loss / plan.microbatches).backward()
            losses.append(loss.detach())
        optimizer.step()
        return float(sum(losses)) / plan.microbatches

    losses = [step() for _ in range(warmup)]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = []
    for _ in range(steps):
        seconds.append(timed(step, device, losses))
    classes, cpu_peak = profiled(step, device)
    peak = (
        float(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else optimizer.held_bytes() + cpu_peak
    )
    low, middle, high = (float(each) for each in np.quantile(seconds, [0.1, 0.5, 0.9]))
    return StepMeasured(middle, low, high, steps, classes, peak, tuple(losses))


def timed(step: Any, device: Any, losses: list[float]) -> float:
    """Wall seconds of one step, the device idle before and after."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begun = time.perf_counter()
    losses.append(step())
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begun


def profiled(step: Any, device: Any) -> tuple[dict[str, float], float]:
    """Seconds by kernel class of one step, and (on a CPU) the peak of allocated bytes."""
    # Kineto prints its own marks on stderr, which nothing here can stop.
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    with profile(activities=activities, profile_memory=device.type == "cpu", acc_events=True) as run:
        step()
    with TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        run.export_chrome_trace(str(file))
        document = json.loads(file.read_text(encoding="utf-8"))
    if device.type == "cuda":
        return trace_classes(document), 0.0
    spent = [(event.key, event.self_cpu_time_total * 1e-6) for event in run.key_averages()]
    return by_class(spent), peak_of(document)


def peak_of(document: Mapping[str, Any]) -> float:
    """Most bytes allocated on the CPU above what was there when the trace began, as torch's profiler counts them."""
    live = [event["args"]["Total Allocated"] for event in document["traceEvents"] if event.get("name") == "[memory]"]
    return float(max(live, default=0))


def predicted_classes(scenario: Scenario) -> dict[str, float]:
    """Seconds by kernel class of one step on one rank, as the prediction prices them; recomputation included."""
    plan, cluster = scenario.plan, scenario.cluster
    constants = constants_for(cluster.accelerator, plan)
    prices = Prices(cluster, plan, plan_groups(plan, cluster), constants=constants)
    again = recomputed_modules(plan, True)
    found: dict[str, float] = defaultdict(float)
    workload = workload_of(scenario.model, plan, scenario.run.seq_length)
    for op, count in operators(workload).items():
        if isinstance(op, Routing | Exchange):
            continue
        cost = price(op, prices)
        repeated = cost.forward_s if is_recomputed(op.modules, again) and op.name not in ENDS else 0.0
        spent = cost.forward_s + cost.input_s + cost.weight_s + repeated
        found[predicted_class(op)] += float(count * plan.microbatches * spent)
    updates = update_times(workload, cluster)
    found["optimizer"] += updates.optimizer_s[0]
    return dict(sorted(found.items(), key=lambda item: -item[1]))


ENDS = ("embedding", "final_norm", "head", "cross_entropy")  # outside the layers, never recomputed


def predicted_class(op: Any) -> str:
    if isinstance(op, Matmul):
        return "grouped_gemm" if is_expert(op) else "gemm"
    if isinstance(op, CoreAttention):
        return "attention"
    return op.kind if isinstance(op, Pass) else "other"


def row_of(scenario: Scenario, measured: StepMeasured, predicted: Prediction) -> dict[str, Any]:
    """Measured beside predicted, with errors relative to the measurement."""
    found = {
        "name": scenario.name,
        "step_time_measured_s": measured.seconds,
        "step_time_spread_s": [measured.low_s, measured.high_s],
        "step_time_predicted_s": predicted.step_time_s,
        "step_time_error_fraction": predicted.step_time_s / measured.seconds - 1,
        "classes_measured_s": dict(measured.classes_s),
        "classes_predicted_s": predicted_classes(scenario),
        "peak_memory_predicted_bytes": predicted.peak_memory_bytes,
        "loss_first": measured.losses[0],
        "loss_last": measured.losses[-1],
    }
    if measured.peak_bytes:
        found["peak_memory_measured_bytes"] = measured.peak_bytes
        found["peak_memory_error_fraction"] = predicted.peak_memory_bytes / measured.peak_bytes - 1
    return found


def compare(scenarios: Iterable[Scenario], device: Any, tick: Callable[[str], None]) -> list[dict[str, Any]]:
    """One row per scenario; one that fails (does not fit in memory, say) tells so and the next is trained."""
    import torch

    from validate.calibrate.measure import is_out_of_memory

    rows = []
    for scenario in scenarios:
        try:
            rows.append(row_of(scenario, measure_step(scenario, device), evaluate(scenario)))
        except (RuntimeError, MemoryError) as error:
            failed = OUT_OF_MEMORY if is_out_of_memory(error) else first_line(error)
            rows.append({"name": scenario.name, "failed": failed})
            if device.type == "cuda":
                torch.cuda.empty_cache()
        tick(scenario.name)
    return rows
