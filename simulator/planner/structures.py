"""What a schedule on a split of layers does, whatever its slots cost: how often each rank runs what, in which order it
holds what, and what must run before its first slot and behind its last.

A stage's `content` (its layers and ends) decides what it costs; slots are counted by content.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import itemgetter
from typing import Any

import numpy as np

from hardware.arrays import Floats, Ints
from simulator.model.spec import Model
from simulator.plans.layout import StageLayers, stages, stages_of_ranks
from simulator.plans.spec import Plan
from simulator.schedules import BACKWARD, FORWARD, RankSlots, Schedule, Slot, backward_work, make_schedule

Content = tuple[Any, ...]
# One kind of slot's time: ("F" | "I" | "W", content), ("FB", forward's content, backward's content), or a send.
Kind = tuple[Any, ...]
SEND: Kind = ("send",)
# A state of a rank: micro-batches held by chunk, waiting by chunk, the chunk whose backward runs, the pair's forward.
Moment = tuple[tuple[int, ...], tuple[int, ...], int, int]


@dataclass(frozen=True, slots=True)
class Holding:
    """`stages` are those of a rank of this kind, `in_flight` by chunk the most micro-batches that it holds.

    Moments at which one kind of rank may hold most, as sums over contents: `whole` [moments, contents] micro-batches
    from forward to backward, `waiting` for their weight gradient only; `working` and `rise` [moments] number the
    content whose backward runs, and the pair that does (-1: none)."""

    stages: tuple[int, ...]
    in_flight: tuple[int, ...]
    whole: Floats
    waiting: Floats
    working: Ints
    rise: Ints


@dataclass(frozen=True, slots=True)
class Structure:
    """A schedule on stages of these `contents`: `of_stage` numbers that of every stage, `examples` a stage of each.

    `times` [bounds, kinds]: sums of slots, each of which some rank needs from the step's begin to its last slot's end,
    so that none of them is longer than the step.
    """

    contents: tuple[Content, ...]
    stages: tuple[StageLayers, ...]
    of_stage: tuple[int, ...]
    examples: tuple[int, ...]
    pairs: tuple[tuple[int, int], ...]
    kinds: tuple[Kind, ...]
    times: Floats
    holdings: tuple[Holding, ...]


@dataclass(frozen=True, slots=True)
class Walk:
    """What a schedule's ranks do, by chunk: the base of every structure on it."""

    stage_of_chunk: Ints
    moments: tuple[tuple[Moment, ...], ...]
    chains: tuple[tuple[Counter[Kind], ...], ...]


def content_of(model: Model, stage: StageLayers) -> Content:
    """What makes two stages cost the same."""
    layers = tuple(model.layers[index] for index in stage.layers)
    return stage.embedding, layers, stage.mtp, stage.head


def walk_of(schedule: Schedule, blocking: bool) -> Walk:
    """Walks through every rank's slots once. `blocking`: every send holds its rank."""
    moments = tuple(moments_of(slots, schedule.stage_of_chunk.shape[1]) for slots in schedule.ranks)
    places = slot_places(schedule)
    chains = tuple(tuple(chains_of(schedule, places, rank, blocking)) for rank in range(schedule.pp))
    return Walk(schedule.stage_of_chunk, moments, chains)


def moments_of(slots: RankSlots, chunks: int) -> tuple[Moment, ...]:
    """States of a rank: (micro-batches held by chunk, waiting by chunk, chunk whose backward runs, the pair's
    forward chunk), -1 where there is none."""
    whole, waiting = [0] * chunks, [0] * chunks
    found: set[Moment] = set()
    for slot in slots:
        kind, chunk = slot.kind, slot.chunk
        back = slot.backward_chunk if kind == "FB" else chunk
        if kind == "F":
            whole[chunk] += 1
        running = back if kind in BACKWARD else -1
        found.add((tuple(whole), tuple(waiting), running, chunk if kind == "FB" else -1))
        if kind == "FB":
            whole[chunk] += 1
        if kind in BACKWARD:
            whole[back] -= 1
            waiting[back] += kind == "I"
        if kind == "W":
            waiting[back] -= 1
    return fullest(found)


def fullest(moments: set[Moment]) -> tuple[Moment, ...]:
    """The states that hold more of something than every other one in which the same runs."""
    by_tag: dict[tuple[int, int], list[tuple[int, ...]]] = {}
    for whole, waiting, running, ahead in moments:
        by_tag.setdefault((running, ahead), []).append(whole + waiting)
    kept = []
    for (running, ahead), rows in by_tag.items():
        for row in undominated(np.array(rows)).tolist():
            half = len(row) // 2
            kept.append((tuple(row[:half]), tuple(row[half:]), running, ahead))
    return tuple(kept)


def slot_places(schedule: Schedule) -> dict[tuple[bool, int, int], tuple[int, Slot]]:
    """(is forward, micro-batch, stage) -> the rank and the slot that does it, for micro-batches of any rank's first
    forward or last backward."""
    found: dict[tuple[bool, int, int], tuple[int, Slot]] = {}
    of_chunk = schedule.stage_of_chunk.tolist()
    first = {slots[0].microbatch for slots in schedule.ranks}
    last = {backward_work(last_backward(slots)[1])[0] for slots in schedule.ranks}
    for rank, slots in enumerate(schedule.ranks):
        for slot in slots:
            if slot.microbatch in first and slot.kind in FORWARD:
                found[True, slot.microbatch, of_chunk[rank][slot.chunk]] = (rank, slot)
            if slot.kind in BACKWARD:
                microbatch, chunk = backward_work(slot)
                if microbatch in last:
                    found[False, microbatch, of_chunk[rank][chunk]] = (rank, slot)
    return found


def last_backward(slots: RankSlots) -> tuple[int, Slot]:
    """A rank's last slot with an input gradient, and where it stands."""
    index = next(index for index in range(len(slots) - 1, -1, -1) if slots[index].kind in BACKWARD)
    return index, slots[index]


def chains_of(
    schedule: Schedule, places: dict[tuple[bool, int, int], tuple[int, Slot]], rank: int, blocking: bool
) -> list[Counter[Kind]]:
    """What runs one after the other because of a rank, counted by stage: before its first slot, its own slots, behind
    its last backward.

    Two sums: to the rank's last backward and on to the first stage; all of its own slots.
    """
    slots, of_chunk = schedule.ranks[rank], schedule.stage_of_chunk.tolist()
    head: Counter[Kind] = Counter()
    if slots[0].kind == "F":
        before = range(of_chunk[rank][slots[0].chunk])
        ways = [places[True, slots[0].microbatch, stage] for stage in before]
        add_chain(head, ways, of_chunk, [*(at for at, _ in ways), rank])
    index, last = last_backward(slots)
    own = head + counted(slots, of_chunk[rank], schedule.stages, blocking)
    until_last = head + counted(slots[: index + 1], of_chunk[rank], schedule.stages, blocking)
    if blocking:
        until_last -= Counter({SEND: sends(last.kind, *_stages(last, of_chunk[rank]), of_chunk[rank], schedule.stages)})
    microbatch, chunk = backward_work(last)
    tail = [places[False, microbatch, stage] for stage in range(of_chunk[rank][chunk] - 1, -1, -1)]
    add_chain(until_last, tail, of_chunk, [rank, *(at for at, _ in tail)])
    return [own, until_last]


def _stages(slot: Slot, held: Sequence[int]) -> tuple[int, int]:
    return held[slot.chunk], held[slot.backward_chunk if slot.kind == "FB" else slot.chunk]


def counted(slots: Sequence[Slot], held: Sequence[int], stage_count: int, blocking: bool) -> Counter[Kind]:
    """How often the slots' kinds of time occur, sends that hold the rank included."""
    found: Counter[Kind] = Counter()
    for (kind, chunk, back), count in Counter(map(itemgetter(0, 2, 4), slots)).items():
        forward, backward = held[chunk], held[back if kind == "FB" else chunk]
        for name in slot_kinds(kind, forward, backward):
            found[name] += count
        if blocking:
            found[SEND] += count * sends(kind, forward, backward, held, stage_count)
    return found


def sends(kind: str, forward: int, backward: int, held: Sequence[int], stage_count: int) -> int:
    """Messages that a slot sends to other ranks."""
    onwards = kind in FORWARD and forward + 1 < stage_count and forward + 1 not in held
    back = kind in BACKWARD and backward > 0 and backward - 1 not in held
    return onwards + back


def add_chain(
    counter: Counter[Kind], ways: Sequence[tuple[int, Slot]], of_chunk: Sequence[Sequence[int]], ranks: Sequence[int]
) -> None:
    """Adds slots of other ranks, and the sends between these."""
    for at, slot in ways:
        counter.update(slot_kinds(slot.kind, *_stages(slot, of_chunk[at])))
    counter[SEND] += sum(one != other for one, other in pairwise(ranks))


def slot_kinds(kind: str, forward: int, backward: int) -> list[Kind]:
    """The kinds of time that a slot takes, by stage: a whole backward is both of its halves."""
    if kind == "FB":
        return [("FB", forward, backward)]
    return [("I", backward), ("W", backward)] if kind == "B" else [(kind, forward)]


def structure_of(model: Model, plan: Plan, walk: Walk, buffers: bool) -> Structure:
    """The structure of a plan's schedule on its split of layers. Raises ValueError for a split that does not fit."""
    split = stages(model, plan)
    by_stage = [content_of(model, stage) for stage in split]
    contents = tuple(dict.fromkeys(by_stage))
    number = {content: index for index, content in enumerate(contents)}
    of_stage = [number[content] for content in by_stage]
    ranks = stages_of_ranks(plan)
    chains = [_by_content(chain, of_stage) for own in walk.chains for chain in own]
    bounds = {tuple(sorted(chain.items(), key=repr)) for chain in chains}
    kinds = tuple(dict.fromkeys(kind for bound in bounds for kind, _ in bound))
    place = {kind: index for index, kind in enumerate(kinds)}
    times = np.zeros((len(bounds), len(kinds)))
    for row, bound in enumerate(bounds):
        for kind, count in bound:
            times[row, place[kind]] = count
    pairs = tuple(dict.fromkeys((of_stage[a], of_stage[b]) for held in ranks for a in held for b in held))
    return Structure(
        contents=contents,
        stages=split,
        of_stage=tuple(of_stage),
        examples=tuple(of_stage.index(content) for content in range(len(contents))),
        pairs=pairs,
        kinds=kinds,
        times=undominated(times),
        holdings=holdings_of(walk, ranks, of_stage, contents, pairs, buffers),
    )


def _by_content(chain: Counter[Any], of_stage: Sequence[int]) -> Counter[Kind]:
    found: Counter[Kind] = Counter()
    for kind, count in chain.items():
        found[(kind[0], *(of_stage[stage] for stage in kind[1:]))] += count
    return found


def holdings_of(
    walk: Walk,
    ranks: Sequence[Sequence[int]],
    of_stage: Sequence[int],
    contents: tuple[Content, ...],
    pairs: tuple[tuple[int, int], ...],
    buffers: bool,
) -> tuple[Holding, ...]:
    """What ranks of the same contents (and with `buffers` as many micro-batches in flight) hold at their fullest."""
    moments: dict[tuple[Any, ...], set[tuple[Any, ...]]] = {}
    stages_held: dict[tuple[Any, ...], tuple[int, ...]] = {}
    pair_number = {pair: index for index, pair in enumerate(pairs)}
    for held, found in zip(ranks, walk.moments, strict=True):
        own = [of_stage[stage] for stage in held]
        alike = tuple(own), most_in_flight(found) if buffers else ()
        stages_held.setdefault(alike, tuple(held))
        known = moments.setdefault(alike, set())
        for whole, waiting, back, ahead in found:
            sums = np.zeros(2 * len(contents))
            for chunk, content in enumerate(own):
                sums[content] += whole[chunk]
                sums[len(contents) + content] += waiting[chunk]
            working = own[back] if back >= 0 else -1
            rise = pair_number[own[ahead], working] if ahead >= 0 else -1
            known.add((working, rise, tuple(sums.tolist())))
    return tuple(
        _holding(stages_held[own, in_flight], in_flight, found, len(contents))
        for (own, in_flight), found in moments.items()
    )


def most_in_flight(moments: Sequence[Moment]) -> tuple[int, ...]:
    """Most micro-batches of each chunk between forward and backward at once."""
    chunks = len(moments[0][0])
    return tuple(max(whole[chunk] + (ahead == chunk) for whole, _, _, ahead in moments) for chunk in range(chunks))


def _holding(
    stages_held: tuple[int, ...], in_flight: tuple[int, ...], moments: set[tuple[Any, ...]], contents: int
) -> Holding:
    """The moments that no other one exceeds in everything."""
    by_tag: dict[tuple[int, int], list[tuple[float, ...]]] = {}
    for working, rise, sums in moments:
        by_tag.setdefault((working, rise), []).append(sums)
    kept = [(tag, sums) for tag, rows in by_tag.items() for sums in undominated(np.array(rows))]
    sums = np.array([row for _, row in kept])
    return Holding(
        stages=stages_held,
        in_flight=in_flight,
        whole=sums[:, :contents],
        waiting=sums[:, contents:],
        working=np.array([working for (working, _), _ in kept]),
        rise=np.array([rise for (_, rise), _ in kept]),
    )


def undominated(rows: Floats) -> Floats:
    """The rows that no other row exceeds or equals in every column."""
    rows = np.unique(rows, axis=0)
    left = rows[np.argsort(-rows.sum(axis=1), kind="stable")]
    kept: list[Floats] = []
    while len(left):
        # No row that is left exceeds the one with the largest sum.
        kept.append(left[0])
        left = left[(left > left[0]).any(axis=1)]
    return np.array(kept)


def walk_from(name: str, pp: int, vpp: int, microbatches: int, group: int | None, blocking: bool) -> Walk:
    """The walk through the named schedule of these counts."""
    return walk_of(make_schedule(name, pp, vpp, microbatches, group), blocking)
