"""The scenarios that ship: each reads, asks a question in plain words, names its source, and uses every GPU once."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulator.model.parameters import total_parameters
from simulator.scenario.schema import load_scenario

FOLDER = Path(__file__).parents[2] / "scenarios"
SHIPPED = sorted(FOLDER.glob("*.yaml"))
# Scenario: GPUs, parameters as published (10^9; 0.34 from arXiv 1810.04805), tokens per step as published or asked.
FACTS = {
    "deepseek-v3-2048xh800": (2048, 671, 62.9e6),
    "deepseek-v3-256xgb200": (256, 671, 16.8e6),
    "kimi-k2-10240xh100": (10240, 1040, 62.9e6),
    "qwen3-235b-256xh100": (256, 235, 33.6e6),
    "llama-3.1-405b-16384xh100": (16384, 405, 16.8e6),
    "gpt3-175b-1024xa100": (1024, 175, 1.57e6),
    "gpt3-175b-v100": (4096, 175, 3.15e6),
    "bert-large-64xv100": (64, 0.34, 8.39e6),
    "tiny": (8, 0.47, 131e3),
}


def test_the_list_is_complete() -> None:
    assert {path.stem for path in SHIPPED} == set(FACTS)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_each_is_what_its_name_says(path: Path) -> None:
    scenario = load_scenario(path)
    gpus, billions, tokens = FACTS[path.stem]
    assert scenario.cluster.gpus == scenario.plan.gpus == gpus
    assert total_parameters(scenario.model) == pytest.approx(billions * 1e9, rel=0.02)
    assert scenario.plan.global_batch_size * scenario.run.seq_length == pytest.approx(tokens, rel=0.02)


def test_the_example_of_the_guide_reads(tmp_path: Path) -> None:
    example = (FOLDER / "README.md").read_text(encoding="utf-8").split("```yaml\n")[1].split("```")[0]
    (tmp_path / "example.yaml").write_text(example, encoding="utf-8")
    scenario = load_scenario(tmp_path / "example.yaml")
    assert (scenario.plan.dp, scenario.plan.schedule) == (128, "1f1b")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_each_begins_with_its_question(path: Path) -> None:
    scenario = load_scenario(path)
    comment = path.read_text(encoding="utf-8").split("question:")[0]
    assert comment.startswith("# ")
    assert "?" in comment
    assert scenario.question.endswith("?")
    assert scenario.source or path.stem == "tiny"
    if scenario.published:
        assert "arXiv" in scenario.published.source or "Megatron-Bridge" in scenario.published.source
