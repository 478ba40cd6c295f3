"""The golden file: what every shipped scenario, published row and 300 drawn plans are predicted to take and hold.

A change that means to leave predictions alone is held against it by `test_golden.py`. One that means to change them
renews it, and the difference is read like any other:

    python -m tests.golden.golden
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any

from hardware.documents import Document
from hardware.problems import Place
from simulator.predict.prediction import Prediction, evaluate, predict
from simulator.predict.simulate import simulate
from simulator.scenario.schema import read_scenario
from tests.predicted import SCENARIOS, published, shipped
from validate.row import Row, Unsupported
from validate.row_scenarios import scenario_of, step_only
from validate.rows import read_rows

FOLDER = Path(__file__).parent
# Inputs of the drawn plans: one whole scenario a line. Drawn once, kept as they are.
PLANS = FOLDER / "plans.jsonl"
GOLDEN = FOLDER / "golden.jsonl"
TOLERANCE = 1e-9
# Of seconds and shares that are the difference of equal figures only rounding is left.
ROUNDING = 1e-12


def figures(prediction: Prediction) -> dict[str, Any]:
    """What must not move: step time and its causes in seconds, bytes of every stage, quantiles of the whole run."""
    found: dict[str, Any] = {
        "step_time_s": prediction.step_time_s,
        "breakdown_s": prediction.breakdown_s,
        "peak_memory_bytes": [stage.peak_memory_bytes for stage in prediction.stages],
        "device_memory_bytes": [stage.device_memory_bytes for stage in prediction.stages],
    }
    run = prediction.run
    if run is not None:
        found["run"] = {
            "finish_s": run.finish_s.to_dict(),
            "goodput_fraction": run.goodput_fraction,
            "lost_s": dict(run.lost_s),
            "cost_usd": run.cost_usd,
            "energy_j": run.energy_j,
        }
    return found


def scenario(name: str) -> dict[str, Any]:
    return figures(shipped(name))


@cache
def rows() -> dict[str, Row]:
    return {each.id: each for each in read_rows()}


@cache
def row_predictions() -> dict[str, Prediction]:
    """The predictions that the published rows are compared with, by row."""
    return {each.row.id: each.prediction for each in published() if each.prediction is not None}


def row(identifier: str) -> dict[str, Any]:
    """The figures of a published row, or why it has none."""
    known = row_predictions().get(identifier)
    if known is not None:
        return figures(known)
    found = rows()[identifier]
    try:
        return figures(predict(simulate(step_only(scenario_of(found)[0]))))
    except (Unsupported, ValueError) as reason:
        return {"unsupported": str(reason)}


def drawn(number: int) -> dict[str, Any]:
    written = json.loads(PLANS.read_text(encoding="utf-8").splitlines()[number])
    place = Place(str(SCENARIOS / f"drawn-{number}.yaml"))
    return figures(evaluate(read_scenario(Document(written, place), f"drawn-{number}")))


def cases() -> dict[str, Callable[[], dict[str, Any]]]:
    """Every case by its name."""
    scenarios = sorted(path.stem for path in SCENARIOS.glob("*.yaml"))
    plans = PLANS.read_text(encoding="utf-8").splitlines()
    return {
        **{f"scenario {name}": partial(scenario, name) for name in scenarios},
        **{f"row {identifier}": partial(row, identifier) for identifier in rows()},
        **{f"plan {number}": partial(drawn, number) for number in range(len(plans))},
    }


def read_golden() -> dict[str, dict[str, Any]]:
    lines = GOLDEN.read_text(encoding="utf-8").splitlines()
    return {entry.pop("case"): entry for entry in map(json.loads, lines)}


def differences(golden: Any, now: Any, where: str = "") -> Iterator[str]:
    """Places where two trees of figures differ by more than the tolerance; causes of no seconds may come and go."""
    if isinstance(golden, dict) and isinstance(now, dict):
        for key in sorted({*golden, *now}):
            yield from differences(golden.get(key, 0.0), now.get(key, 0.0), f"{where}.{key}")
    elif isinstance(golden, list) and isinstance(now, list) and len(golden) == len(now):
        for index, pair in enumerate(zip(golden, now, strict=True)):
            yield from differences(*pair, f"{where}[{index}]")
    elif isinstance(golden, int | float) and isinstance(now, int | float):
        if abs(golden - now) > TOLERANCE * max(abs(golden), abs(now)) + ROUNDING:
            yield f"{where}: {golden!r} in the golden file, {now!r} now"
    elif golden != now:
        yield f"{where}: {golden!r} in the golden file, {now!r} now"


def _figures_of(name: str) -> dict[str, Any]:
    return {"case": name, **json.loads(json.dumps(cases()[name]()))}


def renew(processes: int = 2) -> None:
    """Writes the golden file anew from what is predicted now."""
    of_rows = {name: _figures_of(name) for name in cases() if name.startswith("row ")}
    others = [name for name in cases() if name not in of_rows]
    with ProcessPoolExecutor(processes) as pool:
        of_others = dict(zip(others, pool.map(_figures_of, others, chunksize=16), strict=True))
    lines = [json.dumps((of_rows | of_others)[name]) for name in cases()]
    GOLDEN.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    renew()
