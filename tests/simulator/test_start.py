"""`traincast init`: a complete scenario that can be read, is legal, and fits where one does."""

from __future__ import annotations

from pathlib import Path

import pytest

from hardware.documents import parse_document
from hardware.problems import InputError
from simulator.launch.start import starting_scenario, uneven_layout
from simulator.plans.layout import parse_layout
from simulator.predict.prediction import predict
from simulator.predict.simulate import simulate
from simulator.scenario.schema import load_scenario, scenario_schema
from tests.command import traincast


@pytest.mark.parametrize(
    ("model", "gpus", "node"),
    [("kimi-k2", 4096, "hgx-h200"), ("llama-3.1-8b", 8, "hgx-h100"), ("qwen3-235b-a22b", 128, "gb200-nvl72")],
)
def test_what_is_written_evaluates_and_fits(tmp_path: Path, model: str, gpus: int, node: str) -> None:
    file = tmp_path / "start.yaml"
    file.write_text(starting_scenario(model, gpus, node))
    loaded = load_scenario(file)
    assert (loaded.model.name, loaded.cluster.gpus, loaded.cluster.node.name) == (model, gpus, node)
    assert predict(simulate(loaded)).fits
    used = max(rank.device_bytes for rank in simulate(loaded).memory)
    capacity = loaded.cluster.accelerator.memory_capacity_bytes
    assert used <= 0.9 * capacity
    told = " ".join(line.removeprefix("# ") for line in file.read_text().splitlines() if line.startswith("# "))
    assert f"leaves 10 % of memory or more free ({100 * (1 - used / capacity):.0f} %)" in told


def test_every_section_and_every_key_of_it_stands_in_the_file_with_its_description() -> None:
    text = starting_scenario("llama-3.1-8b", 8, "hgx-h100")
    words = " ".join(text.replace("#", " ").split())
    for section, schema in scenario_schema()["properties"].items():
        assert f"{section}:" in text
        for key, inner in schema.get("properties", {}).items():
            assert f"{key}:" in text, f"{section}.{key}"
            assert " ".join(inner.get("description", "").split()) in words, f"{section}.{key}"


def test_keys_that_are_commented_out_hold_what_can_be_read() -> None:
    """Every line without its mark is YAML of its own."""
    for line in starting_scenario("llama-3.1-8b", 8, "hgx-h100").splitlines():
        bare = line.strip().removeprefix("#").strip()
        if bare.split(":")[0].isidentifier() and ": " in bare and not bare.endswith("."):
            assert parse_document(bare).data is not None


def test_layers_that_do_not_divide_are_spread_as_evenly_as_they_go() -> None:
    stages = parse_layout(uneven_layout(61, 1, 8))
    assert [stage.count("t") for stage in stages] == [8, 8, 8, 8, 8, 7, 7, 7]
    assert (stages[0][0], stages[-1][-2:]) == ("E", "mL")


def test_gpus_that_fill_no_server_and_unknown_names_are_refused() -> None:
    with pytest.raises(InputError, match="do not fill servers of 8"):
        starting_scenario("llama-3.1-8b", 12, "hgx-h100", "ndr-rail-2tier")
    done = traincast("init", "--model", "lama-3.1-8b", "--gpus", "8", "--node", "hgx-h100")
    assert (done.returncode, "llama-3.1-8b" in done.stderr) == (2, True)


def test_experts_on_ranks_that_do_not_divide_the_gpus_are_refused() -> None:
    with pytest.raises(InputError, match="8 expert ranks or more do not divide them; take a multiple of 8 GPUs"):
        starting_scenario("qwen3-30b-a3b", 6, "hgx-h200")


def test_tensor_ranks_share_sequences_too(tmp_path: Path) -> None:
    file = tmp_path / "start.yaml"
    file.write_text(starting_scenario("llama-3.1-405b", 128, "hgx-h200"))
    plan = load_scenario(file).plan
    assert (plan.tp, plan.sequence_parallel) == (8, True)


@pytest.mark.parametrize(
    ("model", "gpus", "node", "said"),
    [
        ("qwen3-8b", 2, "hgx-h100", "leaves 10 % of memory free; this one leaves most"),
        ("llama-3.1-70b", 8, "hgx-h200", "tried fits in memory; this one needs least"),
        ("gpt3-175b", 64, "dgx-a100-80", "leaves 10 % of memory or more free"),
        ("llama-3.1-70b", 8, "hgx-h200", "take more GPUs, or keep optimizer states on the host"),
        ("kimi-k2", 536, "hgx-h200", "few expert ranks and stages divide 536 GPUs, more divide 512 or 576"),
        ("qwen3-30b-a3b", 4, "hgx-h200", "this one leaves most"),
    ],
)
def test_the_head_says_how_the_plan_was_chosen(model: str, gpus: int, node: str, said: str) -> None:
    lines = starting_scenario(model, gpus, node).splitlines()
    assert said in " ".join(line.removeprefix("# ") for line in lines[:6])


@pytest.mark.parametrize(
    ("model", "gpus", "node", "pp", "ep"),
    [
        ("kimi-k2", 1000, "hgx-h200", 25, 8),
        ("kimi-k2", 504, "hgx-h200", 7, 24),
        ("deepseek-v3", 360, "gb200-nvl72", 15, 8),
    ],
)
def test_degrees_that_are_no_powers_of_two_are_tried_where_those_do_not_fit(
    model: str, gpus: int, node: str, pp: int, ep: int, tmp_path: Path
) -> None:
    """61 layers on 25, 7 or 15 stages, split by what they cost; experts on as many ranks as divide both."""
    file = tmp_path / "start.yaml"
    file.write_text(starting_scenario(model, gpus, node))
    assert "leaves 10 % of memory or more free" in " ".join(file.read_text().splitlines()[:6]).replace("# ", "")
    scenario = load_scenario(file)
    assert "  layout: auto\n" in file.read_text()
    assert (scenario.plan.pp, scenario.plan.ep) == (pp, ep)
    capacity = scenario.cluster.accelerator.memory_capacity_bytes
    assert max(rank.device_bytes for rank in simulate(scenario).memory) <= 0.9 * capacity


def test_parts_without_bf16_start_in_fp16(tmp_path: Path) -> None:
    (tmp_path / "start.yaml").write_text(starting_scenario("bert-large", 8, "dgx-v100"))
    scenario = load_scenario(tmp_path / "start.yaml")
    assert scenario.plan.precision == "fp16"
    assert predict(simulate(scenario)).fits


def test_deep_pipelines_are_reached_where_many_plans_before_them_do_not_fit(tmp_path: Path) -> None:
    """DeepSeek-V3 on 2,048 GPUs of 80 GB fits on eight stages or more; dozens of plans with fewer come first."""
    (tmp_path / "start.yaml").write_text(starting_scenario("deepseek-v3", 2048, "hgx-h800"))
    scenario = load_scenario(tmp_path / "start.yaml")
    assert scenario.plan.pp >= 8
    assert predict(simulate(scenario)).fits


def test_a_model_with_learned_positions_starts_with_no_longer_sequences(tmp_path: Path) -> None:
    (tmp_path / "start.yaml").write_text(starting_scenario("gpt3-175b", 64, "dgx-a100-80"))
    loaded = load_scenario(tmp_path / "start.yaml")
    assert loaded.run.seq_length == loaded.model.positions == 2048
