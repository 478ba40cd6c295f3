"""How fast the search covers plans, and how its time grows: run by hand, `python tests/benchmarks/plan_speed.py`.

Prints legal plans, plans played, plans per second and the peak memory of each search, and the exponents with which time
grows with plans and with GPUs. Seconds are CPU seconds of one process.
"""

from __future__ import annotations

import math
import resource
import time
from dataclasses import replace
from pathlib import Path

from simulator.planner.search import Asked, chunks_of, search_chunk
from simulator.planner.space import space_of
from simulator.planner.tally import Tally
from simulator.scenario.schema import load_scenario

KIMI = Path(__file__).parents[2] / "scenarios" / "kimi-k2-10240xh100.yaml"


def measured(gpus: int, keep: list[str]) -> tuple[int, int, float]:
    """Legal plans, plans played and CPU seconds of a search on so many GPUs."""
    base = load_scenario(KIMI, [f"cluster.gpus={gpus}"], starts_search=True)
    space, asked, tally = space_of(base, keep), Asked(), Tally()
    begun = time.process_time()
    for chunk in chunks_of(space, space.judge(), asked):
        tally.add(search_chunk(replace(chunk, limits=tally.limits(asked, asked.contests(space)))))
    return tally.legal, tally.played, time.process_time() - begun


def main() -> None:
    few = ["recompute", "cp", "dispatcher"]
    cases = [(10240, few), (10240, ["recompute", "cp"]), (10240, ["cp"]), (10240, []), (5120, ["cp"]), (2560, ["cp"])]
    found = []
    for gpus, keep in cases:
        legal, played, seconds = measured(gpus, keep)
        found.append((gpus, legal, seconds))
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{gpus:6} GPUs, {legal:9,} legal, {played:6,} played, {seconds:7.1f} s, {legal / seconds:9,.0f}/s, "
              f"{peak_mb:6.0f} MB")  # fmt: skip
    plans = math.log(found[3][2] / found[0][2]) / math.log(found[3][1] / found[0][1])
    gpus = math.log((found[2][2] / found[2][1]) / (found[5][2] / found[5][1])) / math.log(10240 / 2560)
    print(f"time grows with plans to the {plans:.2f}, time per plan with GPUs to the {gpus:.2f}")


if __name__ == "__main__":
    main()
