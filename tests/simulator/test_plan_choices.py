"""Sharding, recompute granularity and context exchange: what each word means for counts and bytes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from simulator.memory.report import state_bytes
from simulator.plans.choices import CONTEXT_EXCHANGES, GRANULARITIES, SHARDINGS
from simulator.plans.spec import Plan, Recompute
from simulator.stack import Stack, default_stack
from simulator.workload.states import StageParameters, gradient_reductions
from tests.simulator.stacks import FSDP, TORCHTITAN

MEGATRON = default_stack()


@pytest.mark.parametrize(
    ("name", "gathers", "reductions", "reduction"),
    [
        ("none", 0, 1, "all_reduce"),
        ("optimizer", 1, 1, "reduce_scatter"),
        ("optimizer_gradients", 1, 8, "reduce_scatter"),
        ("full", 16, 8, "reduce_scatter"),
    ],
)
def test_collectives_of_a_step_of_eight_microbatches(name: str, gathers: int, reductions: int, reduction: str) -> None:
    sharding = SHARDINGS[name]
    plan = Plan(dp=2, micro_batch_size=1, global_batch_size=16, sharding=name)
    assert (sharding.gathers(8), gradient_reductions(plan), sharding.reduction) == (gathers, reductions, reduction)
    assert sharding.gathers_once == (gathers == 1)


def test_gradients_that_stay_whole_are_reduced_once() -> None:
    """Meta's trainer adds whole gradients up; ZeRO-2 that shards them reduces for each of the 8 micro-batches."""
    plan = Plan(dp=2, micro_batch_size=1, global_batch_size=16, sharding="optimizer_gradients")
    whole = replace(plan, stack=replace(plan.stack, gradient_shards="last_microbatch"))
    held = [StageParameters(1e9, 0.0, ((0.25e9, 0.0),) * 4)]
    assert (gradient_reductions(plan), gradient_reductions(whole)) == (8, 1)
    assert state_bytes(held, whole)["gradients"] == 4e9
    assert state_bytes(held, plan)["gradients"] == 2e9


@pytest.mark.parametrize("stack", [MEGATRON, FSDP, TORCHTITAN])
def test_a_shard_group_of_one_rank_gathers_nothing(stack: Stack) -> None:
    """2 + 4 + 12 bytes a parameter, whatever the words say that nobody else shares."""
    held = [StageParameters(1e9, 0.0, ((0.25e9, 0.0),) * 4)]
    for sharding in SHARDINGS:
        alone = Plan(dp=1, pp=2, micro_batch_size=1, global_batch_size=16, sharding=sharding, stack=stack)
        assert sum(state_bytes(held, alone).values()) == 18e9


def test_who_shards_weights_shards_gradients_and_who_shards_these_shards_the_optimizer() -> None:
    for sharding in SHARDINGS.values():
        assert sharding.shards_weights <= sharding.shards_gradients <= sharding.shards_optimizer


def test_modules_count_only_where_they_are_chosen() -> None:
    for name, granularity in GRANULARITIES.items():
        recompute = Recompute(name, modules=("mlp",))
        assert recompute.chosen_modules == (("mlp",) if granularity.named_modules else ())
        assert not (recompute.whole_layers and recompute.named_modules)


def test_a_context_group_exchanges_in_one_way() -> None:
    for exchange in CONTEXT_EXCHANGES.values():
        assert exchange.splits_heads + exchange.behind_attention + exchange.gathers_keys == 1
