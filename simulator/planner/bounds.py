"""Memory of every plan of a chunk, exactly, and a time that its step cannot be shorter than."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hardware.arrays import Floats
from simulator.cost.slowest import slowest_of
from simulator.cost.step_times import stage_send_s
from simulator.memory.outside import fragmentation_bytes
from simulator.planner.columns import Columns, Ints
from simulator.planner.frames import Frame, States, examples_of, frames_of, states_of, with_structure
from simulator.planner.reads import PlanView, together
from simulator.planner.shapes import Setting, shapes_of, with_surroundings
from simulator.planner.stages import StageTable, stage_table
from simulator.planner.structures import SEND, Content, Holding, Kind, Structure
from simulator.schedules import SCHEDULES


@dataclass(frozen=True, slots=True)
class Weighed:
    """A chunk of plans: device bytes of the fullest rank, the allocator's peak, and seconds that no step is below."""

    columns: Columns
    frames: tuple[Frame, ...]
    table: StageTable
    frame_of: Ints
    send_s: Floats
    late: Floats
    device_bytes: Floats
    peak_bytes: Floats
    bound_s: Floats


def weighed(setting: Setting, plans: Columns) -> Weighed:
    """Memory and the bound on the step time of every plan."""
    columns = with_structure(setting, with_surroundings(setting, plans))
    shapes = shapes_of(setting, columns)
    frames = frames_of(setting, columns)
    table = stage_table(setting, shapes, examples_of(setting, frames), pairs_of(frames))
    count = len(columns)
    send_s = together(setting.base, columns, lambda view, rows: _send_s(setting, view)).array(lambda found: found)
    late = rank_noise(setting, columns)
    device, peak, bound, frame_of = np.zeros(count), np.zeros(count), np.zeros(count), np.zeros(count, dtype=np.int64)
    for number, (frame, states) in enumerate(zip(frames, states_of(setting, columns, frames), strict=True)):
        rows, shape = frame.rows, shapes.index[frame.rows]
        peak[rows], device[rows] = memory_bytes(setting, table, frame.structure, states, shape)
        bound[rows] = least_s(table, frame.structure, shape, send_s[rows]) * (1 + late[rows])
        frame_of[rows] = number
    return Weighed(columns, tuple(frames), table, frame_of, send_s, late, device, peak, bound)


def pairs_of(frames: Sequence[Frame]) -> list[tuple[Content, Content]]:
    """The contents of all stages that run in pairs."""
    found: dict[tuple[Content, Content], None] = {}
    for frame in frames:
        if SCHEDULES[frame.order.name].pairs:
            contents = frame.structure.contents
            found |= {(contents[ahead], contents[back]): None for ahead, back in frame.structure.pairs}
    return list(found)


def _send_s(setting: Setting, view: PlanView) -> Any:
    return stage_send_s(setting.shape(view), setting.prices(view))


def rank_noise(setting: Setting, columns: Columns) -> Floats:
    """What the wait for the slowest rank adds to a step, as a fraction (see `simulator.predict.simulate.Step`)."""
    noise = np.array([each.rank_noise for each in columns.values["constants"]])[columns.codes["constants"]]
    return noise * float(slowest_of(setting.scenario.cluster.gpus))


def memory_bytes(
    setting: Setting, table: StageTable, structure: Structure, states: list[States], shape: Ints
) -> tuple[Floats, Floats]:
    """The allocator's peak and what the device shows on the fullest rank, by plan; `shape` numbers their shapes."""
    peak, device = np.zeros((2, len(shape)))
    for holding, own in zip(structure.holdings, states, strict=True):
        activations = activation_bytes(table, structure, holding, own.reduced, shape)
        owners = {"states": own.resident, "activations": activations, "pipeline buffers": own.buffers}
        allocated = own.resident + activations + own.buffers
        whole = allocated + own.outside + fragmentation_bytes(setting.base.stack, owners)
        peak, device = np.maximum(peak, allocated), np.maximum(device, whole)
    return peak, device


def activation_bytes(table: StageTable, structure: Structure, holding: Holding, reduced: Floats, shape: Ints) -> Floats:
    """Activations and the working set of a backward at the fullest moment of one kind of rank, by plan."""
    kept = [table.kept[content] for content in structure.contents]
    whole = np.array([np.broadcast_to(each.until_backward, table.count)[shape] for each in kept])
    waiting = np.array([np.broadcast_to(each.until_wgrad, table.count)[shape] for each in kept])
    working = np.array([np.maximum(np.broadcast_to(each.working, table.count)[shape], reduced) for each in kept])
    moments = holding.whole @ whole + holding.waiting @ waiting
    running, rising = np.flatnonzero(holding.working >= 0), np.flatnonzero(holding.rise >= 0)
    moments[running] += working[holding.working[running]]
    for row in rising:
        ahead, back = structure.pairs[holding.rise[row]]
        moments[row] += table.rise(structure.contents[ahead], structure.contents[back])[shape]
    return np.asarray(moments.max(axis=0))


def least_s(table: StageTable, structure: Structure, shape: Ints, send_s: Floats) -> Floats:
    """Seconds that no step of these plans is below: the longest of the sums that must run one after the other."""
    seconds = np.array([slot_seconds(table, structure.contents, kind, shape, send_s) for kind in structure.kinds])
    return np.asarray((structure.times @ seconds).max(axis=0))


def slot_seconds(table: StageTable, contents: tuple[Content, ...], kind: Kind, shape: Ints, send_s: Floats) -> Floats:
    """Seconds of one kind of slot, by plan."""
    if kind == SEND:
        return send_s
    return table.seconds[kind[0], *(contents[number] for number in kind[1:])][shape]
