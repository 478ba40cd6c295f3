"""The lines that training frameworks print, each with a reader: a needle to find it by, and what it says.

Formats as printed by: Megatron-LM and Megatron-Bridge (training_log, report_memory, theoretical memory), Primus (values
followed by a mean), torchtitan (metrics), DeepSpeed (ThroughputTimer), and MLPerf's `:::MLLOG` JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from simulator.launch.explain.records import SAMPLES, SECONDS, TOKENS_PER_GPU, Memory, Said, StepLine, WorkSaid
from simulator.launch.explain.stated import (
    bridge_leaf,
    megatron_groups,
    mlperf_event,
    printed,
    titan_checkpointing,
    titan_config,
    titan_mesh,
    titan_model,
    titan_starts,
)

MIB, GB, GIB = 2.0**20, 1e9, 2.0**30
_NUMBER = rb"([0-9][0-9.,]*(?:[eE][-+]?[0-9]+)?)"
_STAMP = re.compile(rb"(\d{4}-\d\d-\d\d)[ T](\d\d):(\d\d):(\d\d)(?:[.,](\d{1,6}))?")
_RANK = re.compile(rb"^\s*(?:\[?rank ?(\d+)\]?:|\[default\d+\]:|(\d+): )|\[Rank (\d+)\]", re.IGNORECASE)

_ELAPSED, _BATCH = b"elapsed time per iteration (ms):", b"global batch size:"
_TITAN = re.compile(rb"step:\s*(\d+)(?:/(\d+))?.*?\btps:\s*" + _NUMBER)
_TITAN_MEMORY = re.compile(rb"memory:\s*" + _NUMBER + rb"\s*GiB")
_DEEPSPEED = re.compile(rb"(?:global_step=|\s\d+/)(\d+),\s*RunningAvgSamplesPerSec=.*?CurrSamplesPerSec=" + _NUMBER)
_DEEPSPEED_MEMORY = re.compile(rb"MaxMemAllocated=" + _NUMBER + rb"GB")
_MEMORY = re.compile(rb"memory \((MB|GB)\)")
_ALLOCATED = re.compile(rb"max[ -]allocated(?:-gigabytes)?:\s*" + _NUMBER)
_RESERVED = re.compile(rb"max[ -]reserved(?:-gigabytes)?:\s*" + _NUMBER)
_THEORY = re.compile(rb"(weight and optimizer|activation|total)=\s*" + _NUMBER + rb"\s*(MB|GB)")
_TOOK = re.compile(rb"in\s*" + _NUMBER + rb"\s*seconds")
_TIMER_MS = re.compile(rb"\.+:\s*\(\s*" + _NUMBER + rb",\s*" + _NUMBER + rb"\)")


Reader = Callable[[bytes], Said | None]


def number(text: bytes) -> float:
    """A number with or without thousands separators; ValueError for what is none."""
    return float(text.replace(b",", b""))


@lru_cache(maxsize=4096)
def _minute_s(day: bytes, hour: bytes, minute: bytes) -> float:
    moment = datetime.fromisoformat(f"{day.decode()} {hour.decode()}:{minute.decode()}")
    return moment.replace(tzinfo=UTC).timestamp()


def stamp_s(line: bytes) -> float:
    """Seconds since 1970 of a line's first time stamp (as if in UTC: differences count); nan without one."""
    found = _STAMP.search(line)
    if found is None:
        return float("nan")
    day, hour, minute, second, part = found.groups()
    try:
        return _minute_s(day, hour, minute) + int(second) + (float(b"0." + part) if part else 0.0)
    except ValueError:
        return float("nan")


def rank_of(line: bytes) -> int | None:
    """The rank that a line's prefix names, if it does."""
    found = _RANK.search(line)
    digits = next((each for each in found.groups() if each), None) if found else None
    return int(digits) if digits else None


# -- one reader for each kind of line -------------------------------------------------------------------------------


def _megatron_step(line: bytes) -> Said | None:
    """` iteration     10/    1000 | ... | elapsed time per iteration (ms): 1147.6 | ... | global batch size:   16 |`.

    Taken apart without a pattern, as a long log is full of them; only one rank prints it. Primus writes the mean of
    several steps behind the time: `1147.6/1150.2`.
    """
    count = line.find(b"iteration")
    of, elapsed = line.find(b"/", count), line.find(_ELAPSED)
    bar, batch = line.find(b"|", of), line.find(_BATCH, elapsed)
    if not 0 <= count < of < bar < elapsed:
        return None
    end = line.find(b"|", elapsed)
    if end < 0:
        return None
    step = StepLine(
        framework="megatron",
        number=int(line[count + 9 : of]),
        total=int(line[of + 1 : bar]),
        states=SECONDS,
        speed=number(line[elapsed + len(_ELAPSED) : end].partition(b"/")[0]) * 1e-3,
        batch=int(line[batch + len(_BATCH) : line.find(b"|", batch)]) if batch > 0 else 0,
        at_s=stamp_s(line),
    )
    return Said(step=step)


def _titan_step(line: bytes) -> Said | None:
    found = _TITAN.search(line)
    if found is None:
        return None
    held = _TITAN_MEMORY.search(line)
    memory = Memory(reserved_bytes=number(held[1]) * GIB) if held else None
    step = StepLine(
        framework="torchtitan",
        number=int(found[1]),
        total=int(found[2] or 0),
        states=TOKENS_PER_GPU,
        speed=number(found[3]),
        at_s=stamp_s(line),
    )
    return Said(rank_of(line), step, memory)


def _deepspeed_step(line: bytes) -> Said | None:
    found = _DEEPSPEED.search(line)
    if found is None:
        return None
    held = _DEEPSPEED_MEMORY.search(line)
    memory = Memory(allocated_bytes=number(held[1]) * GIB) if held else None
    step = StepLine(
        framework="deepspeed",
        number=int(found[1]),
        total=0,
        states=SAMPLES,
        speed=number(found[2]),
        at_s=stamp_s(line),
    )
    return Said(rank_of(line), step, memory)


def _memory(line: bytes) -> Said | None:
    unit, allocated, reserved = _MEMORY.search(line), _ALLOCATED.search(line), _RESERVED.search(line)
    if unit is None or (allocated is None and reserved is None):
        return None
    # Megatron-LM's MB are 2^20 bytes; Megatron-Bridge's GB are 10^9.
    scale = MIB if unit[1] == b"MB" else GB
    memory = Memory(
        number(allocated[1]) * scale if allocated else float("nan"),
        number(reserved[1]) * scale if reserved else float("nan"),
    )
    return Said(rank_of(line), memory=memory)


def _theory(line: bytes) -> Said | None:
    parts = {name.decode(): number(size) * (MIB if unit == b"MB" else GIB) for name, size, unit in
             _THEORY.findall(line)}  # fmt: skip
    return Said(theoretical_bytes=parts) if parts else None


def _save(line: bytes) -> Said | None:
    took = _TOOK.search(line)
    return Said(rank_of(line), pause="checkpoint", pause_s=number(took[1]) if took else float("nan"))


def _save_timer(line: bytes) -> Said | None:
    took = _TIMER_MS.search(line)
    return Said(pause="checkpoint", pause_s=number(took[2]) * 1e-3) if took else None


def _evaluation(line: bytes) -> Said | None:
    return Said(rank_of(line), pause="evaluation")


def _mllog(line: bytes) -> Said | None:
    begin = line.find(b"{")
    try:
        entry = json.loads(line[begin:]) if begin >= 0 else None
    except ValueError:
        return None
    return _mllog_entry(entry) if isinstance(entry, dict) else None


def _mllog_entry(entry: Mapping[str, Any]) -> Said:
    key, value = entry.get("key"), entry.get("value")
    at_s = _float(entry.get("time_ms")) * 1e-3
    if key == "global_batch_size" and isinstance(value, int):
        return Said(work=WorkSaid(batch=value))
    if key in MLLOG_LENGTHS and isinstance(value, int):
        return Said(work=WorkSaid(seq_length=value))
    if settings := mlperf_event(key, value):
        return Said(settings=settings)
    if key == "eval_start":
        return Said(pause="evaluation", begins_s=at_s)
    if key == "eval_stop":
        return Said(pause="evaluation", ends_s=at_s)
    if key != "tracked_stats" or not isinstance(value, dict):
        return Said()
    metadata = entry.get("metadata")
    counted = metadata if isinstance(metadata, dict) else {}
    where = next((counted[name] for name in ("step", "samples_count", "epoch_num") if name in counted), None)
    for name, states in MLLOG_SPEEDS.items():
        speed = _float(value.get(name))
        if speed > 0 and isinstance(where, int):
            return Said(step=StepLine("mlperf", where, 0, states, speed, at_s=at_s))
    return Said()


# What MLPerf's logs call the tokens of a sequence.
MLLOG_LENGTHS = ("max_sequence_length", "sequence_length", "seq_length")

# What MLPerf's tracked statistics call a step's time, or samples a second.
MLLOG_SPEEDS = {
    "train_step_time": SECONDS,
    "train_step_timing": SECONDS,
    "step_time": SECONDS,
    "throughput": SAMPLES,
}


def _float(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else float("nan")


# What a line holds, and who reads it; the first that it holds counts.
READERS: tuple[tuple[bytes, Reader], ...] = (
    (b"elapsed time per iteration", _megatron_step),
    (b"RunningAvgSamplesPerSec", _deepspeed_step),
    (b":::MLLOG", _mllog),
    (b" tps:", _titan_step),
    (b" memory (", _memory),
    (b"Theoretical memory", _theory),
    (b"using world size: ", megatron_groups),
    (b" seq_length: ", bridge_leaf),
    (b"_parallel_size: ", bridge_leaf),
    (b" micro_batch_size: ", bridge_leaf),
    (b", sequence length ", titan_starts),
    (b" device mesh with ", titan_mesh),
    (b"_parallel_degree", titan_config),
    (b" total parameters", titan_model),
    (b" activation checkpointing", titan_checkpointing),
    (b"saving checkpoint at iteration", _save),
    (b"Finished saving the checkpoint", _save),
    (b"save-checkpoint ..", _save_timer),
    (b"validation loss at", _evaluation),
    (b"validate step:", _evaluation),
    (b"Checkpoint is about to be saved", _save),
    (b"is about to be saved!", _save),
    (b" ..", printed),
)
