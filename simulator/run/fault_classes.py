"""A failure model's classes as arrays, with the machines that they may strike: made once for all runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulator.run.arrays import Bools, Floats, Ints
from simulator.run.durations import Duration
from simulator.run.faults import KINDS, FailureModel, Machines

Durations = tuple[tuple[Duration, Bools], ...]  # each distinct duration, and which classes have it, (classes,)


@dataclass(frozen=True, slots=True)
class FaultClasses:
    """The classes of a failure model on some machines; shape (classes,) each.

    `gpus` are those on which a class may strike; `breadth` is how many nodes it takes at once (0: none). A class may
    lack a duration.
    """

    model: FailureModel
    machines: Machines
    rate_per_gpu_s: Floats
    shape: Floats
    reference_age_s: Floats
    gpus: Floats
    kind: Ints
    breadth: Ints
    speed: Floats
    detect: Durations
    repair: Durations
    outage: Durations
    lasts: Durations

    def __len__(self) -> int:
        return len(self.speed)


def fault_classes(model: FailureModel, machines: Machines) -> FaultClasses:
    """The arrays of a model's classes on these machines."""
    classes = model.classes
    breadth = np.array([machines.breadth(fault.scope) for fault in classes], int)
    return FaultClasses(
        model=model,
        machines=machines,
        rate_per_gpu_s=np.array([fault.rate_per_gpu_s for fault in classes], float),
        shape=np.array([fault.shape for fault in classes], float),
        reference_age_s=np.array([fault.reference_age_s for fault in classes], float),
        gpus=_exposed_gpus(machines, breadth),
        kind=np.array([KINDS.index(fault.kind) for fault in classes], int),
        breadth=breadth,
        speed=np.array([fault.speed for fault in classes], float),
        detect=_distinct([fault.detect for fault in classes]),
        repair=_distinct([fault.repair for fault in classes]),
        outage=_distinct([fault.outage for fault in classes]),
        lasts=_distinct([fault.lasts for fault in classes]),
    )


def _exposed_gpus(machines: Machines, breadth: Ints) -> Floats:
    """GPUs on which each class may strike, (classes,): what stops the job alone does not strike spares."""
    nodes = np.where(breadth == 0, machines.job_nodes, machines.nodes)
    return np.asarray(machines.gpus_per_node * nodes, float)


def _distinct(given: list[Duration | None]) -> Durations:
    """Each distinct duration in the order of its first class."""
    distinct = dict.fromkeys(each for each in given if each is not None)
    return tuple((duration, np.array([each == duration for each in given])) for duration in distinct)
