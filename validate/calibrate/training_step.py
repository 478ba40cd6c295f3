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
from validate.calibrate.logs.traces import seconds_by_class, trace_classes
from validate.calibrate.measuring.products import first_line
from validate.calibrate.measuring.session import is_out_of_memory
from validate.calibrate.measuring.timing import Clock, summary
from validate.calibrate.points import OUT_OF_MEMORY

MICRO_BATCHES = {"cuda": (1, 4), "cpu": (2,)}
OUTSIDE_LAYERS = ("embedding", "final_norm", "head", "cross_entropy")  # never recomputed


# ---- what is trained


@dataclass(frozen=True, slots=True)
class ModelSize:
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
        ModelSize("dense-0.5b", 1536, 16, 12, 4, 4096, 0, 0, 4096, 32000),
        ModelSize("dense-2b", 2560, 24, 20, 4, 6912, 0, 0, 4096, 32000),
        ModelSize("moe-16x0.1b", 1024, 12, 16, 4, 1024, 16, 2, 4096, 32000),
        ModelSize("moe-64x2b", 2048, 8, 16, 4, 1024, 64, 6, 4096, 32000),
    ),
    "cpu": (
        ModelSize("dense-tiny", 128, 2, 4, 2, 256, 0, 0, 128, 512),
        ModelSize("moe-tiny", 128, 2, 4, 2, 128, 4, 2, 128, 512),
    ),
}


def scenarios(kind: str, node: str | Mapping[str, Any], profile: Path) -> list[Scenario]:
    """The configurations trained on a kind of device: every size, with and without recomputation, two micro-batches."""
    place = Place(str(Path.cwd() / "step.yaml"))
    configurations = []
    for size in SIZES[kind]:
        for micro_batch_size in MICRO_BATCHES[kind]:
            for recompute in ("none", "full"):
                data = scenario_data(size, micro_batch_size, recompute, node, profile)
                configurations.append(read_scenario(Document(data, place), data["name"]))
    return configurations


def scenario_data(
    size: ModelSize, micro_batch_size: int, recompute: str, node: str | Mapping[str, Any], profile: Path
) -> dict[str, Any]:
    """One configuration as a scenario file would have it."""
    layer = {"repeat": size.layers, "mixer": mixer_data(size), "ffn": ffn_data(size)}
    return {
        "name": f"{size.name}, micro-batch {micro_batch_size}, recompute {recompute}",
        "model": {"name": size.name, "hidden": size.hidden, "vocab": size.vocab, "layers": [layer]},
        "cluster": {"gpus": 1, "node": node, "fabric": "none"},
        "hardware": {"profile": str(profile.resolve())},
        "plan": {
            "micro_batch_size": micro_batch_size,
            "global_batch_size": 2 * micro_batch_size,
            "sharding": "none",
            "recompute": {"granularity": recompute},
            "stack": {"own_loss": "eager"},  # torch.nn.functional.cross_entropy, as the step calls it
        },
        "run": {"seq_length": size.seq_length, "tokens": 1e9},
    }


def mixer_data(size: ModelSize) -> dict[str, Any]:
    head_dim = size.hidden // size.heads
    return {"kind": "attention", "heads": size.heads, "kv_heads": size.kv_heads, "head_dim": head_dim}


def ffn_data(size: ModelSize) -> dict[str, Any]:
    if not size.experts:
        return {"kind": "dense", "width": size.width}
    return {
        "kind": "moe",
        "experts": size.experts,
        "top_k": size.top_k,
        "width": size.width,
        "shared_width": size.width,
    }


# ---- measured


@dataclass(frozen=True, slots=True)
class StepMeasured:
    """Median seconds of a step with its spread; of one more step under the profiler its seconds, and those of each
    kernel class; peak bytes allocated."""

    seconds: float
    low_s: float
    high_s: float
    steps: int
    profiled_s: float
    classes_s: Mapping[str, float]
    peak_bytes: float
    losses: tuple[float, ...]


def measure_step(
    scenario: Scenario, device: Any, steps: int = 5, warmup: int = 2, clock: Clock = time.perf_counter
) -> StepMeasured:
    """Trains the scenario's model on random tokens. Raises InputError for what the torch model does not have."""
    import torch

    training = Training(scenario, device)
    for _ in range(warmup):
        training.step()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    timing = summary([step_seconds(training.step, device, clock) for _ in range(steps)])
    losses = tuple(training.losses)
    profiled = profiled_step(training.step, device, clock)
    if device.type == "cuda":
        peak_bytes = float(torch.cuda.max_memory_allocated(device))
    else:
        peak_bytes = training.optimizer.state_bytes() + profiled.cpu_peak_bytes
    return StepMeasured(
        timing.seconds,
        timing.low_s,
        timing.high_s,
        steps,
        profiled.seconds,
        profiled.classes_s,
        peak_bytes,
        losses,
    )


class Training:
    """The scenario's model with its optimizer and random tokens. Raises InputError for what the model does not have."""

    def __init__(self, scenario: Scenario, device: Any) -> None:
        import torch

        from validate.calibrate.measuring.fused import MainAdam
        from validate.calibrate.transformer import Transformer, check

        model, plan = scenario.model, scenario.plan
        length = scenario.run.seq_length
        check(model, plan, scenario.file)
        torch.manual_seed(0)
        self.microbatches = plan.microbatches
        self.losses: list[float] = []
        self.network = Transformer(model, plan, int(padded_vocab(model.vocab, plan)), length, device)
        self.optimizer = MainAdam(self.network.parameters())
        self.optimizer.collect()
        sizes = (plan.microbatches, plan.micro_batch_size, length + 1)
        self.tokens = torch.randint(model.vocab, sizes, device=device)

    def step(self) -> None:
        """One step over all micro-batches; adds its mean loss to `losses`."""
        losses = []
        for batch in self.tokens:
            loss = self.network(batch[:, :-1], batch[:, 1:].contiguous())
            (loss / self.microbatches).backward()
            losses.append(loss.detach())
        self.optimizer.step()
        self.losses.append(float(sum(losses)) / self.microbatches)


def step_seconds(step: Callable[[], None], device: Any, clock: Clock) -> float:
    """Wall seconds of one step, the device idle before and after."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begun_s = clock()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - begun_s


@dataclass(frozen=True, slots=True)
class ProfiledStep:
    """One step under torch's profiler: wall seconds, seconds by kernel class, and on a CPU the peak of allocated
    bytes above what was there before."""

    seconds: float
    classes_s: Mapping[str, float]
    cpu_peak_bytes: float


def profiled_step(step: Callable[[], None], device: Any, clock: Clock) -> ProfiledStep:
    """Runs one step under the profiler."""
    # Kineto prints its own marks on stderr, which nothing here can stop.
    from torch.profiler import ProfilerActivity, profile

    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities, profile_memory=not on_gpu, acc_events=True) as run:
        seconds = step_seconds(step, device, clock)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        run.export_chrome_trace(str(file))
        trace = json.loads(file.read_text(encoding="utf-8"))
    if on_gpu:
        return ProfiledStep(seconds, trace_classes(trace), 0.0)
    spent = [(event.key, event.self_cpu_time_total * 1e-6) for event in run.key_averages()]
    return ProfiledStep(seconds, seconds_by_class(spent), cpu_peak_bytes(trace))


def cpu_peak_bytes(trace: Mapping[str, Any]) -> float:
    """Most bytes allocated on the CPU above what was there when the trace began, as torch's profiler counts them."""
    memory_events = [event for event in trace["traceEvents"] if event.get("name") == "[memory]"]
    return float(max((event["args"]["Total Allocated"] for event in memory_events), default=0))


# ---- predicted


def predicted_classes(scenario: Scenario) -> dict[str, float]:
    """Seconds by kernel class of one step on one rank, as the prediction prices them; recomputation included."""
    plan, cluster = scenario.plan, scenario.cluster
    constants = constants_for(cluster.accelerator, plan)
    prices = Prices(cluster, plan, plan_groups(plan, cluster), constants=constants)
    modules = recomputed_modules(plan, True)
    seconds: dict[str, float] = defaultdict(float)
    workload = workload_of(scenario.model, plan, scenario.run.seq_length)
    for op, count in operators(workload).items():
        if isinstance(op, Routing | Exchange):
            continue
        cost = price(op, prices)
        recomputed = is_recomputed(op.modules, modules) and op.name not in OUTSIDE_LAYERS
        forward_s = cost.forward_s * (2 if recomputed else 1)
        once_s = forward_s + cost.input_s + cost.weight_s
        seconds[predicted_class(op)] += float(count * plan.microbatches * once_s)
    updates = update_times(workload, cluster)
    seconds["optimizer"] += updates.optimizer_s[0]
    return dict(sorted(seconds.items(), key=lambda item: -item[1]))


def predicted_class(op: Any) -> str:
    if isinstance(op, Matmul):
        return "grouped_gemm" if is_expert(op) else "gemm"
    if isinstance(op, CoreAttention):
        return "attention"
    return op.kind if isinstance(op, Pass) else "other"


# ---- side by side


def row_of(scenario: Scenario, measured: StepMeasured, predicted: Prediction) -> dict[str, Any]:
    """Measured beside predicted, with errors relative to the measurement."""
    row = {
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
        row["peak_memory_measured_bytes"] = measured.peak_bytes
        row["peak_memory_error_fraction"] = predicted.peak_memory_bytes / measured.peak_bytes - 1
    return row


def compare(scenarios: Iterable[Scenario], device: Any, tick: Callable[[str], None]) -> list[dict[str, Any]]:
    """One row per scenario; one that fails (does not fit in memory, say) tells so and the next is trained."""
    import torch

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
