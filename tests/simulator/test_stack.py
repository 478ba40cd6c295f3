"""Named software stacks: every release states behaviours with sources; scenarios name, change and are refused them."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import get_args

import pytest

from hardware.problems import InputError
from simulator.plan.spec import Plan
from simulator.scenario.resolved import resolved
from simulator.scenario.schema import load_scenario
from simulator.stack import DEFAULT, Stack, names, newest, release
from simulator.stack.losses import logit_bytes, loss_of
from simulator.stack.spec import Framework

TINY = Path(__file__).parents[2] / "scenarios" / "tiny.yaml"


@pytest.mark.parametrize("name", names())
def test_every_release_says_where_each_value_is_known_from(name: str) -> None:
    found = release(name)
    assert found.title
    assert found.plain_fp8
    assert found.stack.name == name
    known = {spec.name for spec in fields(Stack)}
    assert set(found.sources) <= known
    settings = [*found.plan.values(), *found.plan_with_pipeline.values()]
    assert all(source.strip() for source in (*found.sources.values(), *(setting.source for setting in settings)))


def test_a_plan_that_names_no_stack_runs_on_the_newest_megatron_core() -> None:
    assert newest("megatron-core").name == DEFAULT, "Bridge, of the same date, is recipes over it"
    scenario = load_scenario(TINY)
    assert scenario.plan.stack.name == DEFAULT
    assert not scenario.stack_named


@pytest.mark.parametrize("framework", get_args(Framework))
def test_a_framework_alone_is_short_for_its_newest_release(framework: Framework) -> None:
    scenario = load_scenario(TINY, [f"plan.stack={{framework: {framework}}}", "plan.pp=1"])
    assert scenario.plan.stack.name == newest(framework).name


def test_behaviours_change_a_release_and_nothing_else_of_it() -> None:
    base = release("megatron-core-0.16").stack
    plain = load_scenario(TINY, ["plan.stack={base: megatron-core-0.16, flash_version: 2}"]).plan.stack
    assert plain == replace(base, flash_version=2)
    below = load_scenario(TINY, ["plan.stack=megatron-core-0.16", "plan.stack.flash_version=2"]).plan.stack
    assert below == plain


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("torchtitan-2025-07", "did you mean torchtitan-2025-06"),
        ("torchtitan", "is a framework; write a release of it, as torchtitan-0.3"),
        ("{base: megatron-core-0.16, framework: torchtitan}", "follows from base"),
        ("{framework: jax}", "is not known"),
        ("{base: megatron-core-0.16, flash_vers: 2}", "flash_version"),
        ("{base: megatron-core-0.16, casts: none}", "choose from"),
        ("7", "must be the name of a release"),
    ],
)
def test_what_is_not_known_is_refused_with_the_nearest_names(written: str, words: str) -> None:
    with pytest.raises(InputError) as raised:
        load_scenario(TINY, [f"plan.stack={written}"])
    assert len(raised.value.problems) == 1
    assert words in raised.value.problems[0].message
    assert raised.value.problems[0].key.startswith("plan.stack")


def test_a_release_sets_the_plan_keys_that_the_scenario_leaves_out() -> None:
    """What is written stands, the rest is the release's, and the scenario says which is which."""
    scenario = load_scenario(TINY, ["plan.stack=torchtitan-0.3", "plan.pp=1", "plan.vpp=1", "plan.schedule=none"])
    written = load_scenario(TINY, ["plan.stack=torchtitan-0.3", "plan.pp=1", "plan.vpp=1", "plan.schedule=none",
                                   "plan.cp_comm=p2p"])  # fmt: skip
    assert scenario.plan.cp_comm == "allgather"
    assert scenario.stack_settings["cp_comm"] == "allgather"
    assert written.plan.cp_comm == "p2p"
    assert "cp_comm" not in written.stack_settings


def test_fp8_alone_is_what_the_stack_means_by_it() -> None:
    means = {"megatron-core-0.19": "fp8-delayed", "megatron-bridge-0.6": "fp8-tensorwise"}
    for name, precision in means.items():
        found = load_scenario(TINY, [f"plan.stack={name}", "plan.precision=fp8"])
        assert found.plan.precision == precision


def test_the_resolved_scenario_names_the_release_and_what_was_changed() -> None:
    changed = load_scenario(TINY, ["plan.stack={base: megatron-core-0.16, flash_version: 2}"])
    assert resolved(changed)["plan"]["stack"] == {"base": "megatron-core-0.16", "flash_version": 2}
    assert resolved(load_scenario(TINY))["plan"]["stack"] == DEFAULT


def test_losses_by_software() -> None:
    """Bytes per logit moved forward and backward, kept, and allocated in backward, with 2-byte activations."""
    eager = replace(release("torchtitan-0.3").stack, fused_kernels=False)
    expected = {
        release(DEFAULT).stack: (8, 8, 2, 2),
        release("nemo-24.07").stack: (30, 14, 4, 2),
        replace(release("nemo-24.07").stack, fused_kernels=False): (26, 14, 4, 6),
        eager: (26, 14, 4, 10),
    }
    for stack, (forward, backward, kept, allocated) in expected.items():
        loss = loss_of(stack)
        assert (loss.forward_bytes, loss.backward_bytes) == (forward, backward)
        assert logit_bytes(stack, 2.0, split=False) == (kept, allocated)
    assert logit_bytes(eager, 2.0, split=True) == (4, 14)


def test_a_plan_made_in_python_has_the_default_stack() -> None:
    assert Plan(1, 1, 1).stack == release(DEFAULT).stack
