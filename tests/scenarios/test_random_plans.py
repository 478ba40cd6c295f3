"""Scenarios drawn at random: each is refused in words or evaluated to the end, never something between."""

from __future__ import annotations

import random
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from hardware import catalogue
from hardware.problems import InputError
from simulator.model.catalogue import names
from simulator.plans.spec import Optimizer, Plan
from simulator.predict.heterogeneity import every_gpu
from simulator.predict.prediction import predict
from simulator.predict.simulate import Simulated, simulate
from simulator.predict.views import memory_over_step
from simulator.report.document import evaluate_document
from simulator.report.folder import json_text
from simulator.report.printing import WIDTH
from simulator.report.terminal import evaluation_text
from simulator.scenario.schema import load_scenario
from simulator.scenario.spread_section import DEFAULT_ORDER
from simulator.step.spread import Spread

TINY = Path(__file__).parents[2] / "scenarios" / "tiny.yaml"


def words(cls: type[Plan] | type[Optimizer], name: str) -> list[str]:
    """What a file may write for a field."""
    (spec,) = (each for each in fields(cls) if each.name == name)
    return list(spec.metadata["choices"])


# Key: its values, the likely ones repeated.
CHOICES: dict[str, list[Any]] = {
    "cluster.gpus": [1, 2, 8, 16, 64, 256, 1024],
    "cluster.node": catalogue.names("nodes"),
    "cluster.fabric": catalogue.names("fabrics"),
    "model": names(),
    "plan.tp": [1, 1, 2, 4, 8],
    "plan.cp": [1, 1, 1, 2],
    "plan.pp": [1, 1, 2, 4, 8],
    "plan.vpp": [1, 1, 1, 2],
    "plan.ep": [1, 1, 2, 4, 8],
    "plan.sequence_parallel": ["true", "false"],
    "plan.precision": [*words(Plan, "precision"), "bf16", "bf16"],
    "plan.sharding": words(Plan, "sharding"),
    "plan.optimizer.kind": words(Optimizer, "kind"),
    "plan.dispatcher": words(Plan, "dispatcher"),
    "plan.cp_comm": words(Plan, "cp_comm"),
    "plan.global_batch_size": [64, 256, 1024],
    "plan.micro_batch_size": [1, 2],
    "plan.recompute": ["{}", "{}", "{granularity: full}", "{granularity: selective, modules: [core_attn]}"],
    "plan.offload": [
        *["{}"] * 4,
        "{optimizer: 0.5}",
        "{activation: 0.5, modules: [qkv_linear]}",
        "{activation: 1, modules: [core_attn, moe_act]}",
    ],
    "plan.stack.framework": ["megatron-core", "torchtitan", "fsdp", "deepspeed", "deepseek"],
    "plan.stack.flash_attention": ["true", "false"],
    "run.seq_length": [128, 512, 2048, 8192],
}
SCHEDULES = ["", "", "", *words(Plan, "schedule")]


def draw(chance: random.Random) -> list[str]:
    overrides = [f"{key}={chance.choice(values)}" for key, values in CHOICES.items()]
    schedule = chance.choice(SCHEDULES)
    return [*overrides, f"plan.schedule={schedule}"] if schedule else overrides


def check_looks(done: Simulated, overrides: list[str]) -> None:
    """Memory over time peaks where the report says; all GPUs by themselves, when equal, take the folded step."""
    for held, over_time in zip(done.memory, memory_over_step(done).values(), strict=True):
        assert over_time.peak()[0] == pytest.approx(held.allocated_bytes, rel=1e-9), overrides
    if done.scenario.plan.gpus > 256 or done.scenario.plan.rank_order != DEFAULT_ORDER:
        return
    alike = replace(done, scenario=replace(done.scenario, spread=Spread()))
    assert every_gpu(alike, 1).ideal_s == pytest.approx(done.step.timeline.step_time_s, rel=1e-9), overrides


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_refused_in_words_or_evaluated_to_the_end(seed: int) -> None:
    chance, evaluated = random.Random(seed), 0
    while evaluated < 5:
        overrides = draw(chance)
        try:
            scenario = load_scenario(TINY, overrides)
        except InputError:
            continue
        done = simulate(scenario)
        prediction = predict(done)
        evaluated += 1
        check_looks(done, overrides)
        assert 0 < prediction.step_time_s < 1e9, overrides
        assert sum(prediction.breakdown_s.values()) == pytest.approx(prediction.step_time_s), overrides
        assert 0 < prediction.mfu_fraction < 1, overrides
        document = evaluate_document(prediction)
        json_text(document)
        assert max(map(len, evaluation_text(document).splitlines())) <= WIDTH, overrides
