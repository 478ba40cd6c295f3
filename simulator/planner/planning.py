"""`plan()`: the search of a scenario's plans from start to end, on one process, several, or a Ray cluster."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Any

from hardware.problems import InputError, Problem, one_of
from simulator.planner.executors import Executor, Serial
from simulator.planner.options import SearchOptions
from simulator.planner.outcome import outcome, own_limits
from simulator.planner.result import PlanSearch
from simulator.planner.resume import ChunkFiles
from simulator.planner.search import Asked, Chunk, ChunkResult, chunks_of, search_chunk
from simulator.planner.space import Space, space_of
from simulator.planner.tally import Tally
from simulator.run.budget import AMOUNTS
from simulator.scenario.phases import phase_scenario, phases_of
from simulator.scenario.spec import Run, Scenario, check_scenario

DEFAULT = SearchOptions()


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a search is: `done` of `total` combinations, legal plans `covered`, seconds since it began.

    `best_s`: the best step so far, infinite where there is none."""

    done: int
    total: int
    covered: int
    best_s: float
    seconds: float

    @property
    def share_done(self) -> float:
        return self.done / self.total if self.total else 1.0

    @property
    def left_s(self) -> float:
        """Seconds that the rest takes at the pace so far; infinite before anything is done."""
        return self.seconds * (1 / self.share_done - 1) if self.done else inf

    @property
    def plans_per_s(self) -> float:
        return self.covered / self.seconds if self.seconds > 0 else 0.0


def plan(
    scenario: Scenario,
    options: SearchOptions = DEFAULT,
    *,
    executor: Executor | None = None,
    folder: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> PlanSearch:
    """Search every legal plan around the scenario's own and rank the best.

    `folder`: where chunks that are done are kept, so that a search that was killed goes on. An interrupt gives the best
    so far. Raises InputError for keys that cannot be kept or freed, an unknown phase, and a space without a legal plan.
    """
    begun = time.monotonic()
    check_scenario(scenario, "plan")
    check_price(scenario, options.objective)
    if scenario.distillation is not None:
        why = "a teacher beside the model is not searched; compare plans instead (traincast compare --over)"
        raise InputError([Problem("plan", None, "distillation", why)])
    space = space_of(searched_part(scenario, options.phase), options.keep, options.free)
    asked, judge = options.asked, space.judge()
    chunks = chunks_of(space, judge, asked)
    tally = Tally(known=own_limits(space, asked))
    complete = True

    def tell() -> None:
        if progress is not None:
            done = sum(chunks[number].combinations for number in tally.done)
            total = sum(chunk.combinations for chunk in chunks)
            best_s = min((each.step_time_s for each in tally.winners(0, 1)), default=inf)
            progress(Progress(done, total, tally.legal, best_s, time.monotonic() - begun))

    tell()
    try:
        for result in results(chunks, asked, tally, executor or Serial(), folder):
            tally.add(result)
            tell()
    except KeyboardInterrupt:
        complete = False
    if not tally.legal and complete:
        raise InputError([no_legal_plan(space, judge.rejected)])
    return outcome(space, options, tally, time.monotonic() - begun, complete)


def check_price(scenario: Scenario, objective: str) -> None:
    """Raises InputError where plans shall be ranked by the cost of a run whose GPUs have no known price."""
    policies, part = scenario.run.policies, scenario.cluster.accelerator
    if objective != "cost" or policies is None:
        return
    if policies.prices is None and part.price_usd_per_hour is None:
        remedy = "give run.prices (gpu_hour, or capital_per_gpu), or take time"
        why = f"is cost, and no price of {part.name} is known; {remedy}"
        raise InputError([Problem("--objective", None, "", why)])


def searched_part(scenario: Scenario, phase: str | None) -> Scenario:
    """The part of a scenario whose plan is searched: the named phase, or its own plan from start to end. Raises
    InputError for a phase that it does not have."""
    phases = {each.name: each for each in phases_of(scenario)}
    if phase is not None and phase not in phases:
        why = f"phase {one_of(phase, tuple(phases))}" if phases else "the run has no phases; leave the option out"
        raise InputError([Problem(f"--phase {phase}", None, "", why)])
    if not phases:
        return scenario
    policies = scenario.run.policies
    alone = scenario if phase is None else phase_scenario(scenario, phases[phase])
    run = replace(alone.run, policies=None if policies is None else replace(policies, phases=()))
    written = {**scenario.written, "run": written_alone(scenario.written["run"], None if phase is None else alone.run)}
    return replace(alone, run=run, phase_plans={}, written=written)


def written_alone(written_run: Mapping[str, Any], phase_run: Run | None) -> dict[str, Any]:
    """The run section without phases; with the tokens and the sequence length of the phase's run (None: its own)."""
    if phase_run is None:
        return {key: value for key, value in written_run.items() if key != "phases"}
    own = {"seq_length": phase_run.seq_length, "tokens": phase_run.tokens}
    return {key: value for key, value in written_run.items() if key not in ("phases", *AMOUNTS)} | own


def results(
    chunks: Sequence[Chunk], asked: Asked, tally: Tally, executor: Executor, folder: Path | None
) -> Iterable[ChunkResult]:
    """The result of every chunk: from the folder where it is known, else searched (and left in the folder)."""
    files = ChunkFiles.of(folder, chunks)
    waiting = []
    for chunk in chunks:
        known = files.read(chunk)
        if known is not None:
            yield known
        else:
            waiting.append(chunk)

    def with_limits(chunk: Chunk) -> Chunk:
        return replace(chunk, limits=tally.limits(asked, len(chunk.limits)))

    for result in executor.run(search_chunk, waiting, with_limits):
        files.write(result)
        yield result


def no_legal_plan(space: Space, rejected: Mapping[str, int]) -> Problem:
    """Which rules left nothing of the space."""
    worst = sorted(rejected, key=lambda rule: -rejected[rule])[:4]
    kept = ", ".join(f"plan.{key}" for key in KEPT_OFTEN if len(space.candidates[key]) == 1)
    why = f"no plan is legal: rejected by {', '.join(worst)}" if worst else "no plan can be made of these keys"
    remedy = f"; free one of {kept}" if kept else "; change the batch or the number of GPUs"
    return Problem(space.scenario.file, None, "plan", why + remedy)


KEPT_OFTEN = ("tp", "cp", "pp", "vpp", "ep", "micro_batch_size", "schedule")
