"""No launch ends in an internal error: intervals that never come, and keys whose absence is what a target runs."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from simulator.launch import launch
from simulator.launch.nearest import with_value
from simulator.launch.tables import MISSING, table, table_names
from simulator.launch.targets import TARGETS
from simulator.plans.rules import check
from simulator.scenario.schema import Scenario, load_scenario
from tests.simulator.launch_draws import FORECAST, SCENARIOS

NEVER = replace(FORECAST, checkpoint_every_s={"storage": math.inf})


def small(*overrides: str) -> Scenario:
    given = ["model=llama-3-8b", "plan={micro_batch_size: 1, global_batch_size: 64}", *overrides]
    return load_scenario(SCENARIOS / "tiny.yaml", given)


@pytest.mark.parametrize("to", TARGETS)
def test_an_interval_that_never_comes_is_null_in_the_documents(to: str) -> None:
    made = launch(small("run.checkpoint=none"), to, partial=True, forecast=NEVER)
    manifest = json.loads(made.files["manifest.json"])
    assert manifest["prediction"]["checkpoint_every_s"] == {"storage": None}
    assert json.dumps(made.to_dict(), allow_nan=False)


@pytest.mark.parametrize("to", TARGETS)
def test_adapters_are_named_and_the_nearest_plan_has_none(to: str) -> None:
    made = launch(small("plan.adapters=16"), to, forecast=FORECAST)
    (refused,) = (each for each in made.inexpressible if each.key == "plan.adapters")
    assert refused.value == "rank 16"
    assert made.nearest is not None
    assert made.nearest.plan.adapters is None
    assert "plan.adapters=null" in made.nearest.overrides


@pytest.mark.parametrize("name", table_names())
def test_every_nearest_value_of_a_table_makes_a_plan_that_rules_can_judge(name: str) -> None:
    scenario = small("plan.adapters=16")
    rows = [each for each in table(name).fixed.values() if each.key.startswith("plan.")]
    # A schedule that is left to the degrees is worked out before rules see it.
    settable = [row for row in rows if row.nearest_value is not MISSING and row.key != "plan.schedule"]
    assert settable
    for row in settable:
        plan = with_value(scenario.plan, row.key, row.nearest_value)
        check(scenario.model, plan, gpus=scenario.cluster.gpus, seq_length=scenario.run.seq_length)
