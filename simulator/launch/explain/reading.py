"""Turns a log of any length into jobs: line by line, in little memory, whatever else stands in it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from hardware.problems import InputError, Problem
from simulator.launch.explain.lines import READERS
from simulator.launch.explain.records import (
    NOTHING_SAID,
    Attempt,
    Job,
    Log,
    Memory,
    Pause,
    Said,
    Settings,
    Stated,
    StepLine,
    WorkSaid,
)

BLOCK_BYTES = 1 << 20
LONGEST_LINE = 1 << 16
MOST_PAUSES = 100_000
# A line whose step lies so many log intervals ahead of an attempt may still be its next.
MOST_GAPS = 3
_COLOURS = re.compile(rb"\x1b\[[0-9;]*[A-Za-z]")
FORMATS = "Megatron-LM, Megatron-Bridge, torchtitan, DeepSpeed and MLPerf (:::MLLOG)"


@dataclass(slots=True)
class _Reading:
    """What was read so far; lives for one file."""

    attempts: list[Attempt] = field(default_factory=list)
    # Attempts that may go on, by what tells their job from others.
    open: dict[tuple[str, int, str], list[Attempt]] = field(default_factory=dict)
    leader: dict[tuple[str, int, str], int | None] = field(default_factory=dict)
    pauses: list[Pause] = field(default_factory=list)
    memory: dict[int, Memory] = field(default_factory=dict)
    theoretical_bytes: dict[str, float] = field(default_factory=dict)
    # What was printed of a step since an attempt began: several values are several jobs, and say nothing of one.
    batches: set[int] = field(default_factory=set)
    seq_lengths: set[int] = field(default_factory=set)
    gpus: set[int] = field(default_factory=set)
    replicas: set[int] = field(default_factory=set)
    settings: dict[tuple[str, str], set[Any]] = field(default_factory=dict)
    # MLPerf's lines of steps have no batch of their own.
    mlperf_batch: int = 0
    evaluation_begins_s: float = float("nan")
    broken: int = 0
    other_ranks: int = 0


def read_log(path: str | Path) -> Log:
    """The jobs of a log file.

    Raises InputError for a file that cannot be read, or holds no step of a training job.
    """
    reading, count = _Reading(), 0
    try:
        with open(path, "rb") as file:
            for block in log_blocks(file):
                count = _read_block(block, count, reading)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError([Problem(str(path), None, "--log", f"cannot be read: {reason}")]) from None
    if not reading.attempts:
        raise InputError([Problem(str(path), None, "--log", _nothing(count, reading))])
    return Log(
        file=str(path),
        lines=count,
        jobs=jobs_of(reading.attempts, reading.pauses),
        memory=reading.memory,
        theoretical_bytes=reading.theoretical_bytes,
        broken=reading.broken,
        other_ranks=reading.other_ranks,
    )


def _nothing(count: int, reading: _Reading) -> str:
    """Why a log says nothing of steps, and what would."""
    known = f"the step lines of {FORMATS} are known"
    if count == 0:
        return f"is empty; {known}"
    if reading.broken:
        return f"holds {reading.broken} lines about steps, all of them cut off or damaged; {known}"
    return f"holds no step of a training job in {count} lines; {known}: log every few steps (--log-interval)"


def log_blocks(file: BinaryIO) -> Iterator[bytes]:
    """Blocks of whole lines, ends and progress bars' returns alike; a line beyond LONGEST_LINE is cut there."""
    rest = b""
    while chunk := file.read(BLOCK_BYTES):
        text = rest + chunk.replace(b"\r", b"\n")
        end = text.rfind(b"\n") + 1
        rest = text[end:]
        if end:
            yield text[:end]
        if len(rest) > LONGEST_LINE:
            yield rest[:LONGEST_LINE]
            rest = b""
    if rest:
        yield rest


def _read_block(block: bytes, before: int, reading: _Reading) -> int:
    """Reads the lines of a block that hold a needle; gives the number of lines up to its end."""
    hits = sorted({place for needle, _ in READERS for place in _places(block, needle)})
    line, counted, end = before + 1, 0, -1
    for hit in hits:
        if hit < end:
            continue  # a second needle on a line that was read
        begin = block.rfind(b"\n", 0, hit) + 1
        end = block.find(b"\n", hit)
        end = len(block) if end < 0 else end
        line += block.count(b"\n", counted, begin)
        counted = begin
        _read_line(block[begin:end], line, reading)
    return line + block.count(b"\n", counted) - (1 if block.endswith(b"\n") else 0)


def _places(block: bytes, needle: bytes) -> Iterator[int]:
    place = block.find(needle)
    while place >= 0:
        yield place
        place = block.find(needle, place + len(needle))


def _read_line(line: bytes, count: int, reading: _Reading) -> None:
    for needle, read in READERS:
        if needle not in line:
            continue
        text = _COLOURS.sub(b"", line) if b"\x1b" in line else line
        try:
            said = read(text)
        except ValueError:
            said = None
        if said is None:
            reading.broken += 1
        else:
            _take(said, count, reading)
        return


def _take(said: Said, count: int, reading: _Reading) -> None:
    """Adds what a line says."""
    _take_work(said.work, reading)
    for stated in said.settings:
        _take_setting(stated, reading)
    if said.theoretical_bytes:
        reading.theoretical_bytes |= said.theoretical_bytes
    if said.memory is not None:
        rank = said.rank or 0
        reading.memory[rank] = reading.memory.get(rank, Memory()).with_more(said.memory)
    if said.pause and len(reading.pauses) < MOST_PAUSES:
        _take_pause(said, count, reading)
    if said.step is not None:
        _take_step(said.step, said.rank, count, reading)


def _take_work(work: WorkSaid, reading: _Reading) -> None:
    if work.batch:
        reading.mlperf_batch = work.batch
        reading.batches.add(work.batch)
    if work.seq_length:
        reading.seq_lengths.add(work.seq_length)
    if work.gpus:
        reading.gpus.add(work.gpus)
    if work.replicas:
        reading.replicas.add(work.replicas)


def _take_setting(stated: Stated, reading: _Reading) -> None:
    """A second value is enough to know that the setting says nothing of one job."""
    values = reading.settings.setdefault((stated.dialect, stated.name), set())
    if len(values) < 2:
        values.add(stated.value)


def _settings_of_next(reading: _Reading) -> Settings:
    """The settings of the attempt that begins, as far as one job has printed them since the last began."""
    settings = {key: next(iter(values)) for key, values in reading.settings.items() if len(values) == 1}
    reading.settings.clear()
    return settings


def _work_of_next(reading: _Reading) -> WorkSaid:
    """What the attempt that begins trains a step, as far as one job has said so since the last began."""
    printed = (reading.batches, reading.seq_lengths, reading.gpus, reading.replicas)
    work = WorkSaid(*map(_only, printed))
    for values in printed:
        values.clear()
    return work


def _only(values: set[int]) -> int:
    return next(iter(values)) if len(values) == 1 else 0


def _take_pause(said: Said, count: int, reading: _Reading) -> None:
    if not np.isnan(said.begins_s):
        reading.evaluation_begins_s = said.begins_s
        return
    seconds = said.pause_s if np.isnan(said.ends_s) else said.ends_s - reading.evaluation_begins_s
    reading.pauses.append(Pause(said.pause, count, seconds))


def _take_step(step: StepLine, rank: int | None, count: int, reading: _Reading) -> None:
    """Adds a step to the attempt that it goes on, or begins another; repeats by other ranks are only counted."""
    if not step.speed > 0 or not np.isfinite(step.speed):
        reading.broken += 1
        return
    if step.framework == "mlperf" and not step.batch and reading.mlperf_batch:
        step = step._replace(batch=reading.mlperf_batch)
    key = (step.framework, step.total, step.states)
    if reading.leader.setdefault(key, rank) != rank:
        reading.other_ranks += 1
        return
    attempts = reading.open.setdefault(key, [])
    attempt = _continued(attempts, step)
    if attempt is None:
        work, settings = _work_of_next(reading), _settings_of_next(reading)
        attempt = Attempt(step.framework, step.total, step.states, work, settings)
        attempts.append(attempt)
        reading.attempts.append(attempt)
    elif attempt.last == step.number:
        reading.other_ranks += 1
        return
    attempt.add(step, count)


def _continued(attempts: list[Attempt], step: StepLine) -> Attempt | None:
    """The attempt that a step goes on: the one just before it, else the newest of its batch if its numbers still rise.

    A batch that grows goes on with its attempt only where the numbers do.
    """
    if len(attempts) == 1 and attempts[0].goes_on(step):
        return attempts[0]
    alike = [each for each in attempts if not step.batch or each.batch[-1] == step.batch]
    near = [each for each in alike or attempts if 0 <= step.number - each.last <= MOST_GAPS * each.gap]
    if near:
        # An attempt that printed nothing since a later one began has ended.
        going_on = [each for each in near if each.line[-1] >= near[-1].line[0]]
        return min(going_on, key=lambda each: (step.number - each.last, -each.line[-1]))
    if alike and step.number > alike[-1].last:
        return alike[-1]
    return None


# -- jobs -----------------------------------------------------------------------------------------------------------


def jobs_of(attempts: Iterable[Attempt], pauses: list[Pause]) -> tuple[Job, ...]:
    """Attempts put together: one after another with one batch they are restarts, side by side they are jobs."""
    groups: list[list[Attempt]] = []
    for attempt in attempts:
        group = next((each for each in reversed(groups) if _restarts(each[-1], attempt)), None)
        if group is None:
            groups.append([attempt])
        else:
            group.append(attempt)
    return tuple(_job(group, pauses, alone=len(groups) == 1) for group in groups)


def _restarts(before: Attempt, after: Attempt) -> bool:
    """Whether an attempt goes on with the job of another that ended before it."""
    alike = (before.framework, before.total, before.states) == (after.framework, after.total, after.states)
    apart = before.line[-1] < after.line[0]
    resumed = after.number[0] <= before.last + MOST_GAPS * before.gap
    # A restart prints the same of its steps.
    alike = alike and (before.said == after.said or NOTHING_SAID in (before.said, after.said))
    alike = alike and _agree(before.settings, after.settings)
    return alike and apart and resumed and _usual_batch(before) == _usual_batch(after)


def _agree(one: Settings, other: Settings) -> bool:
    """Whether no setting that both print has two values."""
    return all(other[key] == value for key, value in one.items() if key in other)


def _usual_batch(attempt: Attempt) -> int:
    return int(np.median(np.array(attempt.batch)))


def _job(group: list[Attempt], pauses: list[Pause], alone: bool) -> Job:
    first, last = group[0].line[0], group[-1].line[-1]
    own = tuple(pause for pause in pauses if alone or first <= pause.line <= last)
    said = WorkSaid(
        next((each.said.batch for each in group if each.said.batch), 0),
        next((each.said.seq_length for each in group if each.said.seq_length), 0),
        next((each.said.gpus for each in group if each.said.gpus), 0),
        next((each.said.replicas for each in group if each.said.replicas), 0),
    )
    steps = tuple(each.steps() for each in group)
    settings = {key: value for each in reversed(group) for key, value in each.settings.items()}
    return Job(group[0].framework, group[0].total, group[0].states, steps, own, said, settings)
