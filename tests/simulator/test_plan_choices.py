"""Sharding, recompute granularity and context exchange: what each word means for counts and bytes."""

from __future__ import annotations

import pytest

from simulator.plan.choices import CONTEXT_EXCHANGES, GRANULARITIES, SHARDINGS
from simulator.plan.spec import Recompute


@pytest.mark.parametrize(
    ("name", "gathers", "reductions", "reduction"),
    [
        ("none", 0, 1, "all_reduce"),
        ("optimizer", 1, 1, "reduce_scatter"),
        ("optimizer_gradients", 1, 1, "reduce_scatter"),
        ("full", 16, 8, "reduce_scatter"),
    ],
)
def test_collectives_of_a_step_of_eight_microbatches(name: str, gathers: int, reductions: int, reduction: str) -> None:
    sharding = SHARDINGS[name]
    assert (sharding.gathers(8), sharding.reductions(8), sharding.reduction) == (gathers, reductions, reduction)
    assert sharding.gathers_once == (gathers == 1)


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
