"""DeepSeek-V3's published step beside the simulated one: `python tests/benchmarks/deepseek_phases.py`.

Published: 2,048 H800, multi-plane fat tree (arXiv 2505.09343 table 4), and the overlapped forward and backward of four
layers in DeepSeek's profile (deepseek-ai/profile-data: 129 ms, experts balanced).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from sys import path as module_path

module_path.insert(0, str(Path(__file__).parents[2]))

from simulator.cost.step_times import pair_seconds
from simulator.predict.simulate import simulate
from simulator.predict.views import phase_seconds
from simulator.scenario.schema import load_scenario

PUBLISHED = {"1F": 1.13, "bubble": 2.06, "1B": 1.99, "1W": 0.48, "1F1B": 13.95, "opt": 0.29, "step": 19.926}
PAIR_S = 0.129
MIDDLE = (7, 8)  # stages of four layers with experts each

if __name__ == "__main__":
    scenario = load_scenario(Path(__file__).parents[2] / "scenarios" / "deepseek-v3-2048xh800.yaml")
    done = simulate(scenario)
    balanced = simulate(replace(scenario, plan=replace(scenario.plan, expert_imbalance=1.0)))
    pairs = pair_seconds(balanced.step.slots, scenario.plan)
    assert pairs is not None
    rows = {**phase_seconds(done), "step": done.step.step_time_s}
    rows["pair"] = sum(float(seconds[MIDDLE]) for seconds in pairs.values())
    print(f"{'seconds':10}{'published':>12}{'simulated':>12}{'difference':>12}")
    for name, published_s in (PUBLISHED | {"pair": PAIR_S}).items():
        print(f"{name:10}{published_s:12.3f}{rows[name]:12.3f}{rows[name] - published_s:+12.3f}")
