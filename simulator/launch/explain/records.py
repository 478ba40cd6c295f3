"""What a training job's log says, as plain records: attempts with their steps, memory by rank, pauses."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
# What a step's line states of its speed.
SECONDS, TOKENS_PER_GPU, SAMPLES = "seconds", "tokens_per_s_per_gpu", "samples_per_s"


class WorkSaid(NamedTuple):
    """What a job prints of its steps before the first: sequences, tokens of a sequence, and GPUs (0: not said).

    DeepSpeed prints no GPUs but its replicas, which it calls the world."""

    batch: int = 0
    seq_length: int = 0
    gpus: int = 0
    replicas: int = 0


NOTHING_SAID = WorkSaid()


class Stated(NamedTuple):
    """One setting that a job prints of itself: whose words it is in (simulator.launch.importing.dialects), and its
    value (a list of several is a tuple)."""

    dialect: str
    name: str
    value: Any


# What a job prints of its settings: value by dialect and name.
Settings = Mapping[tuple[str, str], Any]


class Said(NamedTuple):
    """What one line says: a step, memory of a rank, a pause, what a step trains, the framework's memory estimate, or
    settings of the job.

    A pause took `pause_s` (nan: not said), or it begins at `begins_s`, or ended at `ends_s`."""

    rank: int | None = None
    step: StepLine | None = None
    memory: Memory | None = None
    pause: str = ""
    pause_s: float = float("nan")
    begins_s: float = float("nan")
    ends_s: float = float("nan")
    theoretical_bytes: Mapping[str, float] | None = None
    work: WorkSaid = NOTHING_SAID
    settings: tuple[Stated, ...] = ()


class StepLine(NamedTuple):
    """One line about steps up to `number`, of `total` (0: not said): its speed in the unit that `states` names.

    `batch`: sequences of a step (0: not said). `at_s`: when it was printed, in seconds since 1970 (nan: not said).
    """

    framework: str
    number: int
    total: int
    states: str
    speed: float
    batch: int = 0
    at_s: float = float("nan")


@dataclass(frozen=True, slots=True)
class Pause:
    """Something that stops training: `kind` checkpoint or evaluation; `seconds` nan where the log does not say."""

    kind: str
    line: int
    seconds: float = float("nan")


@dataclass(frozen=True, slots=True)
class Memory:
    """The most that one rank's allocator held (nan: not said), and the most it had reserved, in bytes."""

    allocated_bytes: float = float("nan")
    reserved_bytes: float = float("nan")

    def with_more(self, other: Memory) -> Memory:
        """The larger of both, each figure by itself."""
        return Memory(
            float(np.fmax(self.allocated_bytes, other.allocated_bytes)),
            float(np.fmax(self.reserved_bytes, other.reserved_bytes)),
        )


@dataclass(frozen=True, slots=True)
class Steps:
    """Steps in the order printed, as arrays [lines]: see `StepLine`; `line` is where each stands in the file."""

    number: NDArray[np.int64]
    speed: Floats
    at_s: Floats
    batch: NDArray[np.int64]
    line: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.number)


@dataclass(slots=True)
class Attempt:
    """One uninterrupted stretch of a job, while its log is read: steps whose numbers rise."""

    framework: str
    total: int
    states: str
    said: WorkSaid = NOTHING_SAID
    settings: Settings = field(default_factory=dict)
    number: array[int] = field(default_factory=lambda: array("q"))
    speed: array[float] = field(default_factory=lambda: array("d"))
    at_s: array[float] = field(default_factory=lambda: array("d"))
    batch: array[int] = field(default_factory=lambda: array("q"))
    line: array[int] = field(default_factory=lambda: array("q"))

    def add(self, step: StepLine, line: int) -> None:
        self.number.append(step.number)
        self.speed.append(step.speed)
        self.at_s.append(step.at_s)
        self.batch.append(step.batch)
        self.line.append(line)

    @property
    def last(self) -> int:
        return self.number[-1]

    @property
    def gap(self) -> int:
        """Steps from one line to the next, so far."""
        return self.number[-1] - self.number[-2] if len(self.number) > 1 else max(1, self.number[-1])

    def goes_on(self, step: StepLine) -> bool:
        """Whether a step is the very next line of this attempt, with its batch."""
        return self.number[-1] < step.number <= self.number[-1] + self.gap and step.batch == self.batch[-1]

    def steps(self) -> Steps:
        return Steps(
            np.array(self.number), np.array(self.speed), np.array(self.at_s), np.array(self.batch), np.array(self.line)
        )


@dataclass(frozen=True, slots=True)
class Job:
    """One training job of a log: its attempts in order, each after a restart from the one before."""

    framework: str
    total: int
    states: str
    attempts: tuple[Steps, ...]
    pauses: tuple[Pause, ...] = ()
    said: WorkSaid = NOTHING_SAID
    settings: Settings = field(default_factory=dict)

    @property
    def batch(self) -> int:
        """Sequences of a step in most lines, else as the job prints at its start; 0 where it does not say."""
        said = np.concatenate([each.batch[each.batch > 0] for each in self.attempts])
        return int(np.median(said)) if len(said) else self.said.batch

    @property
    def seq_length(self) -> int:
        """Tokens of a sequence as the job prints at its start; 0 where it does not say."""
        return self.said.seq_length

    def gpus(self, model_parallel: int) -> int:
        """GPUs that the job prints at its start; 0 where it does not say.

        Printed replicas have `model_parallel` GPUs each."""
        return self.said.gpus or self.said.replicas * model_parallel

    @property
    def lines(self) -> tuple[int, int]:
        """First and last line of the file that belong to it."""
        return int(self.attempts[0].line[0]), int(self.attempts[-1].line[-1])

    def name(self) -> str:
        """What tells it from others: framework, batch and steps."""
        batch = f"batch {self.batch}, " if self.batch else ""
        first = min(int(each.number[0]) for each in self.attempts)
        last = max(int(each.number[-1]) for each in self.attempts)
        return f"{self.framework}, {batch}steps {first} to {last}"


@dataclass(frozen=True, slots=True)
class Log:
    """A log as understood: jobs in the order of their first lines, memory by rank, and what was not understood.

    `theoretical_bytes`: the framework's own estimate by part, as it printed it. `broken`: lines cut off or damaged that
    would otherwise say something; `other_ranks`: lines of further ranks that repeat a step.
    """

    file: str
    lines: int
    jobs: tuple[Job, ...]
    memory: Mapping[int, Memory]
    theoretical_bytes: Mapping[str, float]
    broken: int
    other_ranks: int
