"""How fast whole runs are: `python tests/benchmarks/run_speed.py` prints one line per measurement.

90 days of work on 16,384 GPUs under the Llama 3 and RSC-1 failure models with enough spares: one run in SimPy, save by
save; a hundred and a thousand in batches on one process; a thousand on two.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from sys import path as module_path

module_path.insert(0, str(Path(__file__).parents[2]))

from simulator.run.montecarlo import simulate, story
from simulator.run.read_failures import preset
from simulator.run.spares import spares_needed
from simulator.run.specs import Recovery, RunSpec, Segment, Simulation
from validate.failures import DAY_S, llama_run, read_figures


def ninety_days(failures: str, runs: int, workers: int = 1) -> RunSpec:
    model = preset(failures)
    return replace(
        llama_run(read_figures(), runs, 0),
        segments=(Segment("main", 90 * DAY_S / 10, 1.0, 10.0),),
        failures=model,
        recovery=Recovery(hot_spares=spares_needed(model, 16384)),
        simulation=Simulation(runs=runs, workers=workers),
    )


def measure(name: str, work: Callable[[], object]) -> None:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    print(f"{name:48} {time.perf_counter() - wall:8.2f} s  ({time.process_time() - cpu:.2f} s of this process)")


def main() -> None:
    for failures in ("llama-3", "rsc-1"):
        measure(f"{failures}: 1 run, SimPy", lambda f=failures: story(ninety_days(f, 1)))
        for runs, workers in ((100, 1), (1000, 1), (1000, 2)):
            spec = ninety_days(failures, runs, workers)
            measure(f"{failures}: {runs} runs, batches, {workers} processes", lambda s=spec: simulate(s))


if __name__ == "__main__":
    main()
