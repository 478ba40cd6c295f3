"""Does reading and preparing data keep up with training? Loader processes, a prefetch queue, a shared file system.

Loaders work as PyTorch's DataLoader does: batch i goes to loader i mod n, at most `prefetch` batches per loader are
asked for ahead of use, and batches are used in order.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass

import numpy as np

from simulator.fields import Setting, setting
from simulator.step.spread import Floats, mean_one

# Beyond these no machine is described any more.
MOST_SIGMA, MOST_LOADERS, MOST_LATENCY_S = 3.0, 10_000, 3600.0
MOST_DRAWS = 5_000_000  # of preparation times: bounds memory and time where very many ranks read


@dataclass(frozen=True, slots=True)
class InputPipeline:
    """Per rank: `loaders` processes, each reads `sequences` of `sequence_bytes` and prepares this batch in `prepare_s`
    (lognormal `prepare_sigma`). `readers` ranks share `storage_bytes_per_s`; one rank reads at most `rank_bytes_per_s`.
    """

    readers: int
    sequences: int
    sequence_bytes: float = setting(
        MISSING, Setting("Bytes that are read for one sequence.", "8 KiB", least=1, most=1e12)
    )
    storage_bytes_per_s: float = setting(MISSING, Setting("What the shared storage delivers to all ranks."))
    rank_bytes_per_s: float = setting(MISSING, Setting("What one rank reads at most."))
    prepare_s: float = setting(
        0.0, Setting("What preparing a micro-batch takes one loader, beside reading it.", "20 ms", least=0, most=1e6)
    )
    prepare_sigma: float = setting(
        0.0, Setting("Lognormal spread of the time to prepare.", 0.3, least=0, most=MOST_SIGMA)
    )
    loaders: int = setting(2, Setting("Loader processes of a rank that reads.", 8, most=MOST_LOADERS))
    prefetch: int = setting(
        2, Setting("Batches of each loader that are asked for ahead of their use.", 4, most=MOST_LOADERS)
    )
    latency_s: float = setting(
        0.0, Setting("Until the first byte of a read arrives.", "5 ms", least=0, most=MOST_LATENCY_S)
    )

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
    def ahead(self) -> int:
        """Batches of one rank that are asked for before the first is used."""
        return self.loaders * self.prefetch

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


def mean_starved_s(spec: InputPipeline, compute_s: float, steps: int, rng: np.random.Generator) -> float:
    """Seconds that a step waits for its data in the mean, once what was read ahead at the start is used up.

    `steps` are simulated, fewer where very many ranks read: the slowest of many varies little.
    """
    readers = spec.readers if spec.prepare_sigma else 1
    simulated = max(min(steps, MOST_DRAWS // readers), 8)
    settled = min(spec.ahead, simulated // 2)
    found = simulate_input(spec, compute_s, settled + simulated, rng)
    return float(found.starved_s[1 + settled :].mean())


def simulate_input(spec: InputPipeline, compute_s: float, steps: int, rng: np.random.Generator) -> InputResult:
    """`steps` steps of `compute_s`; all readers begin a step together (data parallelism is synchronous)."""
    readers = spec.readers if spec.prepare_sigma else 1  # without spread every reader is ready at once
    ready = np.zeros((steps, readers))
    begun = np.zeros(steps)
    starved = np.zeros(steps)
    free_s = 0.0
    for step in range(steps):
        drawn = mean_one(spec.prepare_sigma, rng.standard_normal(readers))
        asked = begun[step - spec.ahead] if step >= spec.ahead else 0.0
        idle = ready[step - spec.loaders] if step >= spec.loaders else 0.0
        ready[step] = np.maximum(asked, idle) + spec.read_s + spec.prepare_s * drawn
        begun[step] = max(free_s, float(ready[step].max()))
        starved[step] = begun[step] - free_s
        free_s = begun[step] + compute_s
    return InputResult(starved + compute_s, starved)
