"""Does reading and preparing data keep up with training? Loader processes, a prefetch queue, a shared file system.

Loaders work as PyTorch's DataLoader does: batch i goes to loader i mod n, at most `prefetch` batches per loader are
asked for ahead of use, and batches are used in order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulator.step.spread import Floats, mean_one


@dataclass(frozen=True, slots=True)
class InputPipeline:
    """Per rank: `loaders` processes, each reads `sequences` of `sequence_bytes` and prepares this batch in `prepare_s`
    (lognormal `prepare_sigma`). `readers` ranks share `storage_bytes_per_s`; one rank reads at most `rank_bytes_per_s`.
    """

    readers: int
    sequences: int
    sequence_bytes: float
    storage_bytes_per_s: float
    rank_bytes_per_s: float
    prepare_s: float = 0.0
    prepare_sigma: float = 0.0
    loaders: int = 2
    prefetch: int = 2
    latency_s: float = 0.0

    def __post_init__(self) -> None:
        names = ("readers", "storage_bytes_per_s", "rank_bytes_per_s", "loaders", "prefetch")
        wrong = [f"{name} must be positive, not {getattr(self, name)}" for name in names if not getattr(self, name) > 0]
        if wrong:
            raise ValueError("; ".join(wrong))

    @property
    def read_s(self) -> float:
        """One batch while all loaders of all ranks read: the narrower of the rank's path and its share of storage."""
        share = min(self.rank_bytes_per_s, self.storage_bytes_per_s / self.readers) / self.loaders
        return self.latency_s + self.sequences * self.sequence_bytes / share

    @property
    def batches_per_s(self) -> float:
        """What one rank's loaders deliver at most, in the mean."""
        return self.loaders / (self.read_s + self.prepare_s)


@dataclass(frozen=True, slots=True)
class InputResult:
    """`starved_s` [steps]: how long each step waited for the slowest rank's batch; `step_s` that and computing."""

    step_s: Floats
    starved_s: Floats

    @property
    def starved_fraction(self) -> float:
        return float(self.starved_s.sum() / self.step_s.sum())


def simulate_input(spec: InputPipeline, compute_s: float, steps: int, rng: np.random.Generator) -> InputResult:
    """`steps` steps of `compute_s`; all readers begin a step together (data parallelism is synchronous)."""
    ready = np.zeros((steps, spec.readers))
    begun = np.zeros(steps)
    starved = np.zeros(steps)
    ahead = spec.loaders * spec.prefetch
    free_s = 0.0
    for step in range(steps):
        drawn = mean_one(spec.prepare_sigma, rng.standard_normal(spec.readers))
        asked = begun[step - ahead] if step >= ahead else 0.0
        idle = ready[step - spec.loaders] if step >= spec.loaders else 0.0
        ready[step] = np.maximum(asked, idle) + spec.read_s + spec.prepare_s * drawn
        begun[step] = max(free_s, float(ready[step].max()))
        starved[step] = begun[step] - free_s
        free_s = begun[step] + compute_s
    return InputResult(starved + compute_s, starved)
