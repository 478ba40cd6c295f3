"""The points of one log that are of one accelerator: what the log says of its device decides, never the wish."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hardware import catalogue
from validate.calibrate.logs.read_log import read_log
from validate.calibrate.logs.reading import listed, number_in, refusal
from validate.calibrate.machine import may_be, part_of, parts_alike
from validate.calibrate.points import MeasuredPoint

CPU = "cpu"


def points_of_part(path: Path, part: str) -> tuple[list[MeasuredPoint], str]:
    """The points of `part` ("" for whichever the log names), each with its part's name; and what was left out.

    Raises InputError where the log does not tell its part and none is given, and where it is of other parts alone.
    """
    wanted = canonical(part)
    reading = read_log(path)
    points: list[MeasuredPoint] = []
    others: list[str] = []
    for point in reading.points.values():
        own = part_in_log(point.where, wanted)
        if not own and not wanted:
            raise refusal(path, unknown_part(str(point.where.get("gpu", ""))))
        if own and own != wanted and wanted:
            others.append(own)
            continue
        named = own or wanted
        device = CPU if named == CPU else "cuda"
        points.append(replace(point, where={**point.where, "part": named, "device": device}))
    if not points:
        other_parts = listed(sorted(set(others)))
        raise refusal(path, f"is of {other_parts}, not of {wanted}: {advice(others)}")
    notes = [f"{len(others)} of other parts left out"] if others else []
    if reading.left_out:
        notes.append(f"not used: {reading.reasons}")
    return points, "".join(f", {note}" for note in notes)


def canonical(part: str) -> str:
    """The catalogue's own name of a part ("h100" is h100-sxm-80gb); a file that describes one stays what it is."""
    if part in ("", CPU) or part.endswith((".yaml", ".yml")):
        return part
    return catalogue.accelerator(part).name.lower()


def part_in_log(where: Mapping[str, Any], wanted: str) -> str:
    """The part that a point was measured on, by what the log tells of its device; "" where that may be `wanted`.

    A device that the catalogue does not have has its own name.
    """
    if where.get("device") == CPU:
        return CPU
    device = str(where.get("gpu", ""))
    memory = number_in(where.get("memory_bytes"))
    own = part_of(device, memory if memory > 0 else 0.0)
    if own or not wanted or wanted.endswith((".yaml", ".yml")):
        return own
    return "" if may_be(device, wanted) else device


def unknown_part(device: str) -> str:
    """What to write where a log's device is not clearly one part of the catalogue."""
    if not device:
        return "does not name its device; say which it is: --part NAME (`traincast hardware` lists the names)"
    alike = parts_alike(device)
    if alike:
        return f"is of {device!r}; say which accelerator of the catalogue that is: --part {listed(alike)}"
    return f"is of {device!r}, which the catalogue does not have; describe it in a YAML file: --part my-gpu.yaml"


def advice(others: list[str]) -> str:
    known = sorted({name for name in others if name in catalogue.names("accelerators")})
    if known:
        return f"leave --part out, or write --part {listed(known)}"
    if CPU in others:
        return "it holds no GPU's kernels; profile with ProfilerActivity.CUDA"
    return "describe that part in a YAML file: --part my-gpu.yaml"
