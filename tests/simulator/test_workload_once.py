"""The workload is derived once for a scenario, whoever asks: each distinct mixer, ffn and end, and its parameters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import simulator.workload.derive as derive
from simulator.predict.prediction import evaluate
from simulator.scenario.schema import load_scenario

SCENARIOS = Path(__file__).parents[2] / "scenarios"


@pytest.mark.parametrize("name", ["tiny", "kimi-k2-10240xh100", "deepseek-v3-2048xh800"])
@pytest.mark.parametrize(("imbalance", "plays"), [("1.1", 1), ("bias", 2)])
def test_each_distinct_part_is_derived_once(
    name: str, imbalance: str, plays: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once for the step, and once for the step with hotter experts where a kind of balancing leaves them open."""
    counted: Counter[object] = Counter()

    def counting(kind: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def derived(*arguments: Any) -> Any:
            part = arguments[0] if kind in ("mixer", "ffn") else None
            counted[kind, part] += 1
            return original(*arguments)

        return derived

    for kind, function in {"mixer": "mixer_work", "ffn": "ffn_work", "parameters": "stage_parameters"}.items():
        monkeypatch.setattr(derive, function, counting(kind, getattr(derive, function)))
    for end, original in derive.ENDS.items():
        monkeypatch.setitem(derive.ENDS, end, counting(end, original))
    scenario = load_scenario(SCENARIOS / f"{name}.yaml", ["run.failures=none", f"plan.expert_imbalance={imbalance}"])
    evaluate(scenario)
    layers = {*scenario.model.layers, *scenario.model.mtp}
    expected = {("mixer", layer.mixer) for layer in layers if layer.mixer}
    expected |= {("ffn", layer.ffn) for layer in layers if layer.ffn}
    assert expected < set(counted)
    assert set(counted.values()) == {plays}
