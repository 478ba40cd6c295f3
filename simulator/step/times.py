"""How long the slots of a step take: seconds per virtual stage, by cause, and what data parallelism adds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from simulator.schedules import P2p

Floats = NDArray[np.float64]
ByCause = Mapping[str, Floats]

# What a slot's own time is made of; waiting (pp, dp, bubble, barrier) and the optimizer are not slot time.
SLOT_CAUSES = ("compute", "tp", "cp", "ep", "host")


def total(parts: ByCause) -> Floats:
    """Seconds of all causes together."""
    return np.asarray(sum(np.asarray(part, dtype=np.float64) for part in parts.values()))


@dataclass(frozen=True, slots=True)
class DataParallel:
    """What data parallelism and the optimizer add to a step, seconds.

    `gather_s`, `reduce_s`: for each virtual stage the durations of its parameter all-gathers (in the order the
    forward uses them) and gradient reduce-scatters (in the order the backward fills them). Several buckets are
    hidden piece by piece behind the stage's first forward and last backward; one bucket waits for the whole
    slot. Megatron makes several only on the first stage (distributed_data_parallel.py disables
    bucketing on later stages and chunks).
    `gather_every_microbatch`: parameters are gathered again before each forward and backward (ZeRO-3 / FSDP), at most
    one bucket ahead of its use; `reduce_every_microbatch`: gradients are reduced after each backward (ZeRO-2 too).
    `gather_as_reached`: a stage asks for its parameters when the step's first forward has reached it, so that its first
    gather is exposed; otherwise it gathers from the start of the step.
    Without `gather_overlap` / `reduce_overlap` the whole of it stands before the first / after the last slot, or
    before and after every slot where it belongs to every micro-batch.
    `optimizer_s` is per pipeline rank; `grad_norm_s` the all-reduce that every rank waits for before it.
    """

    gather_s: tuple[tuple[float, ...], ...] = ()
    reduce_s: tuple[tuple[float, ...], ...] = ()
    gather_overlap: bool = True
    reduce_overlap: bool = True
    gather_every_microbatch: bool = False
    reduce_every_microbatch: bool = False
    gather_as_reached: bool = False
    grad_norm_s: float = 0.0
    optimizer_s: tuple[float, ...] = ()

    @property
    def gathers_block(self) -> bool:
        """Whether every slot waits for a gather of its own that starts when the slot before has ended."""
        return self.gather_every_microbatch and not self.gather_overlap

    @property
    def reduces_block(self) -> bool:
        """Whether every slot waits for the reduction of the slot before."""
        return self.reduce_every_microbatch and not self.reduce_overlap


@dataclass(frozen=True, slots=True)
class StageTimes:
    """Seconds of each slot kind by cause (keys of SLOT_CAUSES), arrays over virtual stages [stages].

    `backward_s` None: input plus weight half. `pair_s` [stages of the forward, stages of the backward]; None:
    an overlapped pair takes its two halves one after the other.
    `send_forward_s[s]` carries activations from stage s to s + 1, `send_backward_s[s]` gradients from s to s - 1;
    a hop between chunks of one rank is free. `p2p`: "overlapped" sends run on their own stream; "blocking" ones
    hold the sender's compute stream until they are through (Megatron's 1F1B); "steady" ones block while a rank
    has no backward or no forward left to hide them (Megatron's interleaved schedule).
    """

    forward_s: ByCause
    input_backward_s: ByCause
    weight_backward_s: ByCause
    send_forward_s: Floats
    send_backward_s: Floats
    backward_s: ByCause | None = None
    pair_s: ByCause | None = None
    p2p: P2p = "overlapped"
    data_parallel: DataParallel = field(default_factory=DataParallel)

    @property
    def stages(self) -> int:
        return len(self.send_forward_s)

    def by_cause(self, kind: str, stage: NDArray[np.int64], backward_stage: NDArray[np.int64]) -> Floats:
        """Seconds by cause [slots, causes] of slots of one kind on these stages (-1 where there is none)."""
        halves = (self.input_backward_s, self.weight_backward_s)
        backward = (self.backward_s,) if self.backward_s is not None else halves
        if kind == "FB" and self.pair_s is not None:
            return _columns((self.pair_s,), (stage, backward_stage))
        if kind == "FB":
            return _columns((self.forward_s,), (stage,)) + _columns(backward, (backward_stage,))
        tables = {"F": (self.forward_s,), "B": backward, "I": halves[:1], "W": halves[1:]}[kind]
        return _columns(tables, (stage,))


def _columns(tables: tuple[ByCause, ...], at: tuple[NDArray[np.int64], ...]) -> Floats:
    columns = np.zeros((len(at[0]), len(SLOT_CAUSES)))
    for table in tables:
        unknown = sorted(set(table) - set(SLOT_CAUSES))
        if unknown:
            raise ValueError(f"causes {', '.join(unknown)} are not slot time; use {', '.join(SLOT_CAUSES)}")
        for cause, seconds in table.items():
            columns[:, SLOT_CAUSES.index(cause)] += np.asarray(seconds, dtype=np.float64)[at]
    return columns


def check(times: StageTimes, stages: int, ranks: int) -> None:
    """Raises ValueError listing every array of the wrong length and every duration that is not finite and >= 0."""
    tables = {"forward_s": times.forward_s, "input_backward_s": times.input_backward_s,
              "weight_backward_s": times.weight_backward_s, "backward_s": times.backward_s or {},
              "send": {"send_forward_s": times.send_forward_s, "send_backward_s": times.send_backward_s}}  # fmt: skip
    wanted: list[tuple[str, Floats, tuple[int, ...]]] = [
        (f"{name}[{key}]", np.asarray(v), (stages,)) for name, table in tables.items() for key, v in table.items()
    ]
    wanted += [(f"pair_s[{key}]", np.asarray(v), (stages, stages)) for key, v in (times.pair_s or {}).items()]
    data = times.data_parallel
    wrong = [f"{name}: shape {v.shape}, expected {shape}" for name, v, shape in wanted if v.shape != shape]
    wrong += [f"{name}: every duration must be finite and not negative" for name, v, _ in wanted if not _valid(v)]
    for name, rows in (("gather_s", data.gather_s), ("reduce_s", data.reduce_s)):
        if rows and len(rows) != stages:
            wrong.append(f"{name}: {len(rows)} stages, expected {stages}")
        if not all(_valid(np.asarray(row)) for row in rows):
            wrong.append(f"{name}: every duration must be finite and not negative")
    if data.optimizer_s and len(data.optimizer_s) != ranks:
        wrong.append(f"optimizer_s: {len(data.optimizer_s)} ranks, expected {ranks}")
    if not _valid(np.asarray([*data.optimizer_s, data.grad_norm_s])):
        wrong.append("optimizer_s, grad_norm_s: every duration must be finite and not negative")
    if wrong:
        raise ValueError("; ".join(wrong))


def _valid(seconds: Floats) -> bool:
    return bool(np.all(np.isfinite(seconds)) and np.all(seconds >= 0))
