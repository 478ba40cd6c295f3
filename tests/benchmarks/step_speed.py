"""How fast the step engines are: `python tests/benchmarks/step_speed.py` prints one line per measurement.

SimPy player: tasks per second against bare SimPy processes that do the same count of timeouts on the same
count of streams. Rank-resolved player: seconds for real scenarios, and with peak memory for more GPUs. Seconds are
those of this process on a CPU.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable, Generator
from itertools import pairwise
from pathlib import Path
from sys import path as module_path
from typing import Any

import numpy as np
import simpy

module_path.insert(0, str(Path(__file__).parents[2]))

from simulator.predict.simulate import simulate
from simulator.scenario.schema import load_scenario
from simulator.scenario.spread_section import routed
from simulator.schedules import make_schedule
from simulator.step.build import build_graph
from simulator.step.graph import TaskGraph, stream_starts
from simulator.step.layer_programs import Programs, grid_of
from simulator.step.phases import Op, Phase, Program, folded
from simulator.step.player import play
from simulator.step.ranks import Grid, simulate_ranks
from simulator.step.spread import ExpertLoad, Spread
from simulator.step.sweep import sweep_timeline
from simulator.step.times import StageTimes

SCENARIOS = Path(__file__).parents[2] / "scenarios"
CASES = [("dualpipe", 16, 1, 120), ("1f1b", 16, 1, 128), ("interleaved", 16, 4, 128), ("zb-v", 16, 2, 128)]


def seconds(work: Callable[[], object], repeats: int = 5) -> float:
    """Best of several runs."""
    best = float("inf")
    for _ in range(repeats):
        begin = time.process_time()
        work()
        best = min(best, time.process_time() - begin)
    return best


def bare(graph: TaskGraph) -> None:
    """As many timeouts on as many processes, none waiting for another."""
    env = simpy.Environment()
    durations, starts = graph.duration_s.tolist(), stream_starts(graph).tolist()

    def stream(first: int, last: int) -> Generator[simpy.Event, Any, None]:
        for task in range(first, last):
            yield env.timeout(durations[task])

    for first, last in pairwise(starts):
        env.process(stream(first, last))
    env.run()


def times(stages: int) -> StageTimes:
    rng = np.random.default_rng(0)
    halves = ({"compute": 0.05 + 0.01 * rng.random(stages)} for _ in range(3))
    return StageTimes(*halves, np.full(stages, 1e-3), np.full(stages, 1e-3))


def players() -> None:
    for name, pp, vpp, m in CASES:
        schedule = make_schedule(name, pp, vpp, m)
        graph = build_graph(schedule, times(schedule.stages))
        built_s = seconds(lambda s=schedule: build_graph(s, times(s.stages)))  # type: ignore[misc]
        played_s, bare_s = seconds(lambda g=graph: play(g)), seconds(lambda g=graph: bare(g))  # type: ignore[misc]
        swept_s = seconds(lambda g=graph: sweep_timeline(g))  # type: ignore[misc]
        print(
            f"{name} pp={pp} vpp={vpp} m={m}: {len(graph)} tasks; build {built_s * 1e3:.1f} ms, "
            f"SimPy player {played_s * 1e3:.1f} ms = {len(graph) / played_s:,.0f} tasks/s, "
            f"{bare_s / played_s:.0%} of bare SimPy; sweep {swept_s * 1e3:.1f} ms"
        )


def program_of(kind: str, stage: int, back: int) -> Program:
    """Four mixture-of-experts layers per stage."""
    if kind == "W":
        return (Phase(tuple(Op(0.9e-3, "experts", layer) for layer in range(4))),)
    scale = 2.0 if kind == "B" else 1.0
    kernels = (("mixer", 1e-3 * scale), ("ep", 3e-4), ("experts", 1e-3 * scale), ("ep", 4e-4))
    return (Phase(tuple(Op(second, kernel, layer) for layer in range(4) for kernel, second in kernels)),)


def ranks(dp: int) -> None:
    schedule = make_schedule("1f1b", 16, 1, 64)
    stages = schedule.stages
    rows = {kind: folded(program_of(kind, 0, 0)) for kind in "FIW"}
    columns = [{cause: np.full(stages, s) for cause, s in rows[kind].items()} for kind in "FIW"]
    graph = build_graph(schedule, StageTimes(*columns, np.full(stages, 2e-4), np.full(stages, 2e-4)))  # type: ignore[arg-type]
    jitter = dict.fromkeys(("mixer", "experts", "ep"), 0.02)
    load = ExpertLoad(exponent=0.2, count=384, tokens=4096 * 8 * 64)
    spread = Spread(gpu_sigma=0.02, jitter=jitter, slow_gpus={77: 1.2}, experts=load, sequence_sigma=0.05)
    grid = Grid(16, dp=dp, ep=64)
    begin = time.process_time()
    simulate_ranks(graph, schedule.stage_of_chunk, program_of, grid, spread)
    spent = time.process_time() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{grid.gpus:,} GPUs, 64 micro-batches, 64 layers, all causes: {spent:.1f} s, process peak {peak:.0f} MiB")


def real(name: str) -> None:
    """One step of a scenario layer by layer on every GPU: all alike, and with every cause of inequality."""
    done = simulate(load_scenario(SCENARIOS / f"{name}.yaml", ["plan.expert_imbalance=1"]))
    scenario, step = done.scenario, done.step
    grid, programs = grid_of(scenario.plan, scenario.cluster.node.gpus), Programs(step.slots, scenario.plan)
    jitter = dict.fromkeys(("mixer", "ffn", "experts", "tp", "ep", "dp"), 0.02)
    load = ExpertLoad(exponent=0.2, count=max((moe.experts for moe in routed(scenario.model)), default=0), tokens=1e6)
    uneven = Spread(gpu_sigma=0.02, jitter=jitter, slow_gpus={77: 1.2}, experts=load, sequence_sigma=0.05)
    for what, spread in (("all alike", Spread()), ("all causes", uneven)):
        begin = time.process_time()
        found = simulate_ranks(step.timeline.graph, step.schedule.stage_of_chunk, programs.of, grid, spread)
        spent = time.process_time() - begin
        against = found.step_time_s / step.timeline.step_time_s - 1
        print(f"{name}, {grid.gpus:,} GPUs, {what}: {spent:.2f} s, step {against:+.1e} against the folded one")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpus", type=int, nargs="*", default=[10240, 131072])
    chosen = parser.parse_args()
    players()
    for name in ("llama-3.1-405b-16384xh100", "kimi-k2-10240xh100"):
        real(name)
    for gpus in chosen.gpus:
        ranks(gpus // 16)
