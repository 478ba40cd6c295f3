"""The step on every GPU by itself: the same task graph, with an array over the GPUs of a stage for every task.

Pipeline slots run layer by layer; communication is a barrier of its group. Ranks of a stage are numbered as
Megatron-Core does, tp fastest, then cp, then dp; an expert group is etp * ep consecutive ranks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from simulator.step.graph import KIND, KINDS, Floats, TaskGraph, slot_pieces, topological_levels
from simulator.step.phases import COMMUNICATION, HOST, Op, Phase, Program
from simulator.step.spread import Spread, compute_factors, expert_factors, link_factors, mean_one, rank_shares

SlotKey = tuple[str, int, int]
ProgramOf = Callable[[str, int, int], Program]  # (slot kind, forward stage, backward stage) -> phases
# A GPU that is late for a barrier may be late because of another, for which it waited in this smaller group.
FINER = {"tp": "", "cp": "tp", "ep": "cp"}
SLOTS = frozenset(KIND[kind] for kind in ("F", "B", "I", "W", "FB"))
SENDS = frozenset({KIND["send_forward"], KIND["send_backward"]})


@dataclass(frozen=True, slots=True)
class Grid:
    """The ranks of one pipeline stage: tp x cp x dp of them, expert groups of `expert_group` (ep * etp)."""

    pp: int
    dp: int
    tp: int = 1
    cp: int = 1
    ep: int = 1
    etp: int = 1
    gpus_per_node: int = 8

    def __post_init__(self) -> None:
        if self.stage_gpus % self.expert_group:
            raise ValueError(f"ep * etp ({self.expert_group}) must divide tp * cp * dp ({self.stage_gpus})")

    @property
    def stage_gpus(self) -> int:
        return self.tp * self.cp * self.dp

    @property
    def expert_group(self) -> int:
        return self.ep * self.etp

    @property
    def gpus(self) -> int:
        return self.pp * self.stage_gpus

    def grouped(self, values: Floats, group: str) -> Floats:
        """A view of [stage_gpus] with the members of each group along axis 1."""
        if group == "tp":
            return values.reshape(-1, self.tp, 1)
        if group == "cp":
            return values.reshape(self.dp, self.cp, self.tp)
        if group == "ep":
            return values.reshape(-1, self.expert_group, 1)
        if group == "dp":
            return values.reshape(1, self.dp * self.cp, self.tp)
        raise ValueError(f"group {group!r} is not one of tp, cp, ep, dp")


@dataclass(frozen=True, slots=True)
class RankResult:
    """One simulated step: seconds [pp, stage_gpus] per GPU.

    `wait_s`: by group, time at its barriers for slower members ("world": from a GPU's last work to the gradient
    norm, the drain of the pipeline included). `blame_s`: time that others waited for this GPU.
    """

    step_time_s: float
    end_s: Floats
    wait_s: dict[str, Floats]
    blame_s: Floats

    def worst(self, count: int = 10) -> list[tuple[int, float]]:
        """The `count` most waited-for global ranks, with the seconds that others waited for each."""
        blame = self.blame_s.ravel()
        order = np.argsort(-blame, kind="stable")[:count]
        return [(int(rank), float(blame[rank])) for rank in order if blame[rank] > 0]


@dataclass(slots=True)
class _Run:
    """State of one simulated step."""

    graph: TaskGraph
    grid: Grid
    spread: Spread
    seed: int
    stage_of_chunk: np.ndarray
    compute: Floats  # [pp, stage_gpus]
    link: Floats
    sequence: Floats  # [microbatches, stage_gpus] or empty
    rng: np.random.Generator
    waits: dict[str, Floats]
    blame: Floats
    excess: Floats  # own operations beyond their nominal time [pp, stage_gpus]
    culprits: dict[str, np.ndarray]  # by group: whom each GPU last waited for there, by number within its stage
    first_piece: np.ndarray
    pieces: np.ndarray
    program_of: ProgramOf
    programs: dict[SlotKey, Program] = field(default_factory=dict)
    piece_s: dict[int, Floats] = field(default_factory=dict)
    shares: dict[int, Floats] = field(default_factory=dict)
    loads: dict[tuple[int, int], Floats] = field(default_factory=dict)  # of the slot at hand

    def barrier(self, clock: Floats, group: str, rank: int) -> Floats:
        """Everyone starts with the latest of its group."""
        members = self.grid.grouped(clock, group)
        if members.shape[1] == 1:
            return clock
        latest = members.max(axis=1)
        waited = latest[:, None] - members
        if waited.any():
            self.waits[group][rank] += waited.reshape(-1)
            self.charge(members, waited, group, rank)
        return _to_members(latest, members.shape[1])

    def charge(self, members: Floats, waited: Floats, group: str, rank: int) -> None:
        """Blames what the members of each group waited on its last one, or on whom that one had waited for."""
        outer, size, inner = members.shape
        lost = waited.sum(axis=1)
        last = (np.arange(outer)[:, None] * size + members.argmax(axis=1)) * inner + np.arange(inner)
        if group == "dp":
            np.add.at(self.blame, self.slowest_of_pipelines(last), lost)
            return
        guilty = self.culprits[FINER[group]][rank][last] if FINER[group] else last
        np.add.at(self.blame[rank], guilty, lost)
        self.culprits[group][rank] = _to_members(guilty, size)

    def slowest_of_pipelines(self, late: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A late replica is as late as its slowest stage makes it: (stage, number) of the GPU that lost most in its
        own operations, among those that each stage of the pipeline last waited for."""
        candidates = self.culprits["ep"][:, late]
        stages = np.arange(self.grid.pp).reshape(-1, *np.ones(late.ndim, dtype=int))
        slowest = self.excess[stages, candidates].argmax(axis=0)
        return slowest, np.take_along_axis(candidates, slowest[None], axis=0)[0]

    def jitter(self, kernel: str) -> Floats | float:
        sigma = self.spread.jitter.get(kernel, 0.0)
        return mean_one(sigma, self.rng.standard_normal(self.grid.stage_gpus, dtype=np.float32)) if sigma else 1.0

    def expert_load(self, layer: int, microbatch: int) -> Floats:
        """The same in forward and backward of a layer and micro-batch, whichever runs first."""
        grid, load, key = self.grid, self.spread.experts, (layer, microbatch)
        if key not in self.loads:
            if layer not in self.shares:
                self.shares[layer] = rank_shares(load, layer, grid.ep, load.count or grid.ep)
            draw = np.random.default_rng([self.seed, *key])
            groups = grid.stage_gpus // grid.expert_group
            factors = expert_factors(self.shares[layer], load.tokens, groups, draw)
            self.loads[key] = np.repeat(factors.reshape(-1), grid.etp)
        return self.loads[key]

    def communicate(self, seconds: float, group: str, rank: int, clock: Floats, load: Floats | None) -> Floats:
        """A collective of the group: all start together and take as long as the slowest member's part."""
        start = self.barrier(clock, group, rank)
        factor: Floats | float = self.jitter(group)
        if self.spread.slow_links:
            factor = factor * self.link[rank]
        if load is not None:
            factor = factor * load
        if isinstance(factor, float):
            return start + seconds * factor
        self.excess[rank] += seconds * (factor - 1)
        members = self.grid.grouped(factor, group)
        slowest = members.max(axis=1)
        if self.spread.slow_links and members.shape[1] > 1:
            self.charge(members, seconds * (slowest[:, None] - members), group, rank)
        return start + seconds * _to_members(slowest, members.shape[1])

    def run_op(self, op: Op, rank: int, clock: Floats, microbatch: int) -> Floats:
        uneven = op.layer >= 0 and op.kernel in ("experts", "ep") and self.spread.experts
        load = self.expert_load(op.layer, microbatch) if uneven else None
        if op.kernel in COMMUNICATION:
            return self.communicate(op.seconds, op.kernel, rank, clock, load)
        if op.kernel == HOST:
            return clock + op.seconds
        factor = self.compute[rank] * self.jitter(op.kernel)
        if load is not None:
            factor = factor * load
        if op.kernel == "mixer" and len(self.sequence):
            factor = factor * self.sequence[microbatch]
        busy = op.seconds * factor
        self.excess[rank] += busy - op.seconds
        computed: Floats = clock + busy
        return computed


def _to_members(values: Floats, size: int) -> Floats:
    """One value per group [outer, inner] handed to each of its `size` members, in rank order."""
    return np.repeat(values[:, None], size, axis=1).reshape(-1)


def simulate_ranks(
    graph: TaskGraph, stage_of_chunk: np.ndarray, program_of: ProgramOf, grid: Grid, spread: Spread, seed: int = 0
) -> RankResult:
    """One step of every GPU. `graph` and `stage_of_chunk` are those of the folded step (build_graph, Schedule);
    `program_of` says what each slot does layer by layer. Without spread the result equals the folded step."""
    run = _start(graph, grid, spread, seed, stage_of_chunk, program_of)
    ends: dict[int, Floats] = {}
    left = np.bincount(graph.preds, minlength=len(graph)).tolist()
    last = np.zeros((grid.pp, grid.stage_gpus))
    for task in np.concatenate(topological_levels(graph)).tolist():
        preds = graph.preds[graph.pred_indptr[task] : graph.pred_indptr[task + 1]].tolist()
        if graph.rank[task] < 0:
            ends[task] = _all_ranks(run, task, preds, ends)
        else:
            clock = np.zeros(grid.stage_gpus)
            for pred in preds:
                clock = np.maximum(clock, ends[pred])
            ends[task] = _run_task(run, task, clock)
        rank = int(graph.rank[task])
        if rank >= 0:
            np.maximum(last[rank], ends[task], out=last[rank])
        for pred in preds:
            left[pred] -= 1
        for used_up in (*preds, task):
            if left[used_up] == 0:
                ends.pop(used_up, None)
    return RankResult(float(last.max()), last, run.waits, run.blame)


def _start(
    graph: TaskGraph, grid: Grid, spread: Spread, seed: int, stage_of_chunk: np.ndarray, program_of: ProgramOf
) -> _Run:
    if graph.ranks != grid.pp:
        raise ValueError(f"the graph has {graph.ranks} pipeline ranks, the grid {grid.pp}")
    rng = np.random.default_rng(seed)
    shape = (grid.pp, grid.stage_gpus)
    first_piece, pieces = slot_pieces(graph)
    sequence = np.zeros((0, 0))
    if spread.sequence_sigma:
        drawn = mean_one(spread.sequence_sigma, rng.standard_normal((graph.microbatch.max() + 1, grid.dp)))
        sequence = np.repeat(drawn, grid.tp * grid.cp, axis=1)
    return _Run(
        graph=graph,
        grid=grid,
        spread=spread,
        seed=seed,
        stage_of_chunk=stage_of_chunk,
        compute=compute_factors(spread, grid.gpus, grid.gpus_per_node, rng).reshape(shape),
        link=link_factors(spread, grid.gpus).reshape(shape),
        sequence=sequence,
        rng=rng,
        waits={group: np.zeros(shape) for group in (*COMMUNICATION, "dp", "world")},
        blame=np.zeros(shape),
        excess=np.zeros(shape),
        culprits=_culprits(grid),
        first_piece=first_piece,
        pieces=pieces,
        program_of=program_of,
    )


def _culprits(grid: Grid) -> dict[str, np.ndarray]:
    """At first everyone answers for itself; a group of one has no barrier and passes on what the finer one says."""
    found = {"tp": np.tile(np.arange(grid.stage_gpus), (grid.pp, 1))}
    found["cp"] = found["tp"].copy() if grid.cp > 1 else found["tp"]
    found["ep"] = found["cp"].copy() if grid.expert_group > 1 else found["cp"]
    return found


def _all_ranks(run: _Run, task: int, preds: list[int], ends: dict[int, Floats]) -> Floats:
    """The barrier of all GPUs; whoever is last among its stage's GPUs is blamed for their wait."""
    ready = np.zeros((run.grid.pp, run.grid.stage_gpus))
    for pred in preds:
        rank = run.graph.rank[pred]
        ready[rank] = np.maximum(ready[rank], ends[pred])
    start = ready.max()
    run.waits["world"] += start - ready
    lost = (ready.max(axis=1, keepdims=True) - ready).sum(axis=1)
    np.add.at(run.blame, run.slowest_of_pipelines(ready.argmax(axis=1)), lost)
    return np.full(run.grid.stage_gpus, start + run.graph.duration_s[task])


def _run_task(run: _Run, task: int, clock: Floats) -> Floats:
    graph, kind, rank = run.graph, int(run.graph.kind[task]), int(run.graph.rank[task])
    seconds = float(graph.duration_s[task])
    if kind in SLOTS:
        return _run_slot(run, task, clock)
    if kind in SENDS:
        sent: Floats = clock + seconds * run.link[rank] * run.jitter("pp")
        return sent
    if kind in (KIND["gather"], KIND["reduce"]):
        return run.communicate(seconds, "dp", rank, clock, None)
    updated: Floats = clock + seconds * run.compute[rank] * run.jitter("optimizer")
    return updated


def _run_slot(run: _Run, task: int, clock: Floats) -> Floats:
    """A slot cut into pieces runs its phases once, in the first piece, and spreads their time evenly."""
    graph, rank, first = run.graph, int(run.graph.rank[task]), int(run.first_piece[task])
    if task != first:
        return clock + run.piece_s[first]
    kind, own = KINDS[graph.kind[task]], (int(graph.microbatch[task]), int(graph.chunk[task]))
    back = (int(graph.backward_microbatch[task]), int(graph.backward_chunk[task])) if kind == "FB" else own
    stage, back_stage = (int(run.stage_of_chunk[rank, chunk]) for _, chunk in (own, back))
    key = (kind, stage, back_stage)
    if key not in run.programs:
        run.programs[key] = run.program_of(*key)
    run.loads.clear()
    microbatches = (own[0], back[0])
    end = clock
    for phase in run.programs[key]:
        end = _run_phase(run, phase, rank, end, microbatches)
    pieces = int(run.pieces[task])
    if pieces == 1:
        return end
    run.piece_s[first] = (end - clock) / pieces
    return clock + run.piece_s[first]


def _run_phase(run: _Run, phase: Phase, rank: int, begin: Floats, microbatches: tuple[int, int]) -> Floats:
    main = beside = begin
    for op in phase.main:
        main = run.run_op(op, rank, main, microbatches[op.backward])
    for op in phase.beside:
        beside = run.run_op(op, rank, beside, microbatches[op.backward])
    return np.maximum(main, beside) if phase.beside else main
