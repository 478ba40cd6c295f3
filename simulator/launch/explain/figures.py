"""A log's figures beside a prediction: step time and what follows from it, memory by stage, a traced step by cause."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from simulator.launch.explain.kineto import TracedStep
from simulator.launch.explain.records import Memory
from simulator.launch.explain.steady import SteadySteps, Workpiece
from simulator.plans.placement import coordinates
from simulator.predict.prediction import Prediction
from simulator.scenario.schema import Scenario


@dataclass(frozen=True, slots=True)
class Figure:
    """One quantity measured and predicted; `interval` is where 80 % of like runs lie (None: none is known)."""

    quantity: str
    measured: float
    predicted: float
    interval: tuple[float, float] | None = None

    @property
    def difference_fraction(self) -> float:
        return self.measured / self.predicted - 1


@dataclass(frozen=True, slots=True)
class StageMemory:
    """The fullest rank of a pipeline stage that the log names, beside the prediction for the stage, in bytes.

    `reserved` is compared with the allocator's peak and its fragmentation; nan where the log does not say.
    """

    stage: int
    ranks: int
    allocated_bytes: float
    predicted_allocated_bytes: float
    reserved_bytes: float
    predicted_reserved_bytes: float


@dataclass(frozen=True, slots=True)
class TraceFigure:
    """One cause of a rank's step: traced (exposed, on that rank) and predicted (of its stage), in seconds."""

    cause: str
    traced_s: float
    predicted_s: float


def figures(
    steady: SteadySteps, work: Workpiece, prediction: Prediction, flops_ratio: float = 1.0
) -> tuple[Figure, ...]:
    """Step time and what follows from it; `flops_ratio`: model FLOPs of the log's step over the predicted one's."""
    measured_s, predicted_s = steady.step_time_s, prediction.step_time_s
    low, high = prediction.step_time_interval_s
    at_high, at_low = predicted_s / high, predicted_s / low
    tokens_per_s, per_gpu = prediction.tokens_per_s, prediction.tokens_per_s_per_gpu
    measured_mfu = prediction.mfu_fraction * flops_ratio * predicted_s / measured_s
    return (
        Figure("step_time_s", measured_s, predicted_s, (low, high)),
        Figure(
            "tokens_per_s",
            work.tokens / measured_s,
            tokens_per_s,
            (tokens_per_s * at_high, tokens_per_s * at_low),
        ),
        Figure(
            "tokens_per_s_per_gpu",
            work.tokens / work.gpus / measured_s,
            per_gpu,
            (per_gpu * at_high, per_gpu * at_low),
        ),
        Figure("mfu_fraction", measured_mfu, prediction.mfu_fraction),
    )


def figures_without_model(steady: SteadySteps, work: Workpiece, prediction: Prediction) -> tuple[Figure, ...]:
    """Step time and tokens beside a prediction of another model or GPU count: what counts both is left out."""
    return tuple(
        each
        for each in figures(steady, work, prediction)
        if each.quantity not in ("tokens_per_s_per_gpu", "mfu_fraction")
    )


def stage_memory(memory: Mapping[int, Memory], scenario: Scenario, prediction: Prediction) -> tuple[StageMemory, ...]:
    """Memory of the ranks that the log names, by the pipeline stage that each is of."""
    plan = scenario.plan
    by_stage: dict[int, list[Memory]] = {}
    for rank, held in memory.items():
        if 0 <= rank < plan.gpus:
            by_stage.setdefault(int(coordinates(plan, rank).pp), []).append(held)
    found = []
    for stage, ranks in sorted(by_stage.items()):
        report = prediction.stages[stage]
        fragments = report.outside_allocator_bytes.get("fragmentation", 0.0)
        found.append(
            StageMemory(
                stage=stage,
                ranks=len(ranks),
                allocated_bytes=float(np.fmax.reduce([each.allocated_bytes for each in ranks])),
                predicted_allocated_bytes=report.peak_memory_bytes,
                reserved_bytes=float(np.fmax.reduce([each.reserved_bytes for each in ranks])),
                predicted_reserved_bytes=report.peak_memory_bytes + fragments,
            )
        )
    return tuple(found)


def trace_figures(trace: TracedStep, prediction: Prediction) -> tuple[TraceFigure, ...]:
    """A traced step by cause beside the prediction of the rank's stage (of the mean where the rank is not known).

    On the device a rank waits inside its communication kernels: the bubble stands with pipeline sends there.
    """
    scenario = prediction.scenario
    spent = prediction.breakdown_s
    if 0 <= trace.rank < scenario.plan.gpus:
        spent = prediction.stages[int(coordinates(scenario.plan, trace.rank).pp)].breakdown_s
    own = {"compute": trace.compute_s, **trace.exposed_s, "idle": trace.idle_s}
    predicted = {
        "compute": spent["compute"] + spent["optimizer"],
        **{cause: spent[cause] for cause in ("tp", "cp", "ep", "dp")},
        "pp": spent["pp"] + spent["bubble"],
        "idle": spent["host"],
        "communication": spent["barrier"] + spent["straggler"],
    }
    names = [name for name in (*predicted, *own) if own.get(name, 0.0) or predicted.get(name, 0.0)]
    return tuple(TraceFigure(name, own.get(name, 0.0), predicted.get(name, 0.0)) for name in dict.fromkeys(names))
