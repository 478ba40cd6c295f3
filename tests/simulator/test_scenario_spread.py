"""The `spread` section: what is read of it, what model and plan add, and what is refused by name."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from hardware.problems import InputError
from simulator.scenario.resolved import scenario_yaml
from simulator.scenario.schema import Scenario, load_scenario, scenario_schema
from simulator.step.spread import Spread

TINY = (Path(__file__).parents[2] / "scenarios" / "tiny.yaml").read_text()


def load(folder: Path, section: str, *overrides: str) -> Scenario:
    path = folder / "scenario.yaml"
    path.write_text(TINY + section)
    return load_scenario(path, overrides)


def test_every_cause_is_read(tmp_path: Path) -> None:
    section = """
spread:
  gpu_sigma: 0.02
  jitter: {mixer: 0.01, ep: 0.05}
  slow_gpus: {3: 1.2, 5: 1.1}
  slow_nodes: {0: 1.05}
  slow_links: {7: 2}
  sequence_sigma: 0.3
  experts: {exponent: 0.2}
"""
    spread = load(tmp_path, section, "spread.slow_gpus.6=1.5").spread
    assert spread is not None
    assert spread.gpu_sigma == 0.02
    assert spread.jitter == {"mixer": 0.01, "ep": 0.05}
    assert spread.slow_gpus == {3: 1.2, 5: 1.1, 6: 1.5}
    assert (spread.slow_nodes, spread.slow_links, spread.sequence_sigma) == ({0: 1.05}, {7: 2.0}, 0.3)
    # 16 experts; 4 ranks route 2 sequences of 2048 tokens each to 2 experts per token.
    assert (spread.experts.exponent, spread.experts.count, spread.experts.tokens) == (0.2, 16, 4 * 2 * 2048 * 2)
    assert load(tmp_path, "").spread is None
    assert load(tmp_path, "\nspread: {}\n").spread == Spread()
    assert load(tmp_path, "\nspread: {gpu_sigma: 0}\n").spread == Spread()


def test_a_histogram_is_read_beside_the_scenario(tmp_path: Path) -> None:
    rows = [[str(layer + expert) for expert in range(16)] for layer in range(7)]
    (tmp_path / "routed.csv").write_text("\n".join(map(",".join, rows)))
    scenario = load(tmp_path, "\nspread: {experts: {histogram: routed.csv}}\n")
    assert scenario.spread is not None
    assert [len(row) for row in scenario.spread.experts.histogram] == [16] * 7
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "scenario.yaml").write_text(scenario_yaml(scenario))
    assert load_scenario(elsewhere / "scenario.yaml").spread == scenario.spread


@pytest.mark.parametrize(
    ("section", "overrides", "words"),
    [
        ("{gpu_sgima: 0.1}", (), "gpu_sgima"),
        ("{gpu_sigma: -0.1}", (), "negative"),
        ("{jitter: {mixr: 0.1}}", (), "did you mean mixer"),
        ("{jitter: 0.1}", (), "must be a mapping"),
        ("{slow_gpus: {8: 1.2}}", (), "spread.slow_gpus.8: does not exist; there are 0 to 7"),
        ("{slow_nodes: {1: 1.2}}", (), "there are 0 to 0"),
        ("{slow_gpus: {first: 1.2}}", (), "must be a whole number that counts from 0"),
        ("{experts: {exponent: 0.1}}", ("plan.expert_imbalance=1.2",), "set it to 1"),
        ("{experts: {exponent: 0.1}}", ("plan.ep=1",), "ep is 1"),
        ("{experts: {histogram: none.csv}}", (), "No such file"),
        ("{experts: {histogram: short.csv}}", (), "has 4 columns; the model has 16 experts"),
        ("{experts: {histogram: short.csv}}", (), "has 2 rows"),
        ("{experts: {histogram: short.csv, exponent: 1}}", (), "drop one of them"),
        ("{gpu_sigma: 0.1}", ("plan.rank_order=tp-cp-ep-pp-dp",), "with GPUs that differ is not modelled"),
    ],
)
def test_what_cannot_be_is_named(tmp_path: Path, section: str, overrides: tuple[str, ...], words: str) -> None:
    (tmp_path / "short.csv").write_text("1,2,3,4\n4,3,2,1\n")
    with pytest.raises(InputError) as caught:
        load(tmp_path, f"\nspread: {section}\n", *overrides)
    assert words in "\n".join(map(str, caught.value.problems))


def test_editors_know_the_section() -> None:
    known = scenario_schema()["properties"]["spread"]["properties"]
    assert set(known) == {spec.name for spec in fields(Spread)}
    assert set(known["experts"]["properties"]) == {"exponent", "histogram"}
