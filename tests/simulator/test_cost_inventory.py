"""Operators of a model under a plan, counted, and which of their shapes a measured profile does not cover."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest

from hardware.catalogue import cluster
from simulator.cost import inventory
from simulator.cost.inventory import beyond_profile, exceeded, exchanges_beyond, operators, products
from simulator.model.spec import Attention, DenseFFN, Layer, Model, MoE
from simulator.plans.spec import Plan
from simulator.workload.derive import workload_of
from simulator.workload.operators import Exchange, Matmul

GPUS = cluster(8, "hgx-h100", "none")
PLAN = Plan(dp=8, ep=8, micro_batch_size=1, global_batch_size=64)
ATTENTION = Attention(32, 8, 128, 128)
MODEL = Model("model", 4096, 32000, (Layer(ATTENTION, DenseFFN(14336)),) * 3 + (Layer(ATTENTION, MoE(16, 2, 512)),) * 2)
WORKLOAD = workload_of(MODEL, PLAN, 8192)


def test_operators_are_counted_over_all_layers() -> None:
    counted: Counter[str] = Counter()
    for op, times in operators(WORKLOAD).items():
        counted[op.name] += times
    assert (counted["qkv"], counted["fc1"], counted["expert_fc1"], counted["head"]) == (5, 3, 2, 1)


def test_a_product_and_its_gradients_by_their_own_dimensions() -> None:
    assert products(Matmul("a", 2, 3, 5)) == (
        ("forward", 2.0, 3.0, 5.0),
        ("dgrad", 2.0, 5.0, 3.0),
        ("wgrad", 3.0, 5.0, 2.0),
    )


def test_what_lies_outside_a_range() -> None:
    """A thousandth beyond either end is rounding; what has no range was not asked."""
    measured = {"m": [10, 100], "n": [10, 100]}
    assert exceeded({"m": 100.05, "n": 9.995, "k": 1e9}, measured) == []
    assert exceeded({"m": 101.0, "n": 9.0}, measured) == ["m 101 of 10 to 100", "n 9 of 10 to 100"]
    assert exceeded({"m": 101.0}, None) == []


def covering(**changes: object) -> SimpleNamespace:
    """A profile that measured everything."""
    wide = {name: [1.0, 1e9] for name in ("m", "n", "k", "seq_len", "qk_dim")}
    families = ("gemm", "grouped_gemm", "attention")
    return SimpleNamespace(measured_range={**{family: {"bf16": wide} for family in families}, **changes})


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({}, []),
        ({"grouped_gemm": {}}, ["grouped_gemm expert_fc1 (not measured)", "grouped_gemm expert_fc2 (not measured)"]),
        ({"attention": {"bf16": {"seq_len": [1, 4096], "qk_dim": [256, 512]}}},
         ["attention core_attention (qk_dim 128 of 256 to 512, seq_len 8192 of 1 to 4096)"]),
        ({"attention": {}}, ["attention core_attention (not measured)"]),
        ({"gemm": {"bf16": {"m": [1, 1e9], "n": [1, 1e9], "k": [1, 30000]}}},
         ["gemm head (k 32000 of 1 to 30000)"]),
    ],
)  # fmt: skip
def test_what_a_profile_did_not_measure(
    changes: dict[str, object], named: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head's input gradient sums over 32,000 columns, products of 4096 x 28,672 over fewer."""
    assert beyond_profile(WORKLOAD, GPUS) == (), "the shipped curves tell no range"
    monkeypatch.setattr(inventory, "kernel_set", lambda kernels: covering(**changes))
    assert list(beyond_profile(WORKLOAD, GPUS)) == named


def test_collectives_of_a_size_that_no_group_had(monkeypatch: pytest.MonkeyPatch) -> None:
    ranges = {"all_gather": {"size_bytes": [1e3, 1e6], "ranks": [2, 8]}, "reduce_scatter": {"ranks": [2, 2]}}
    monkeypatch.setattr(inventory, "tables_of", lambda path: {"measured_range": ranges})
    op = Exchange("in", "tp", "all_gather", "reduce_scatter", 2e6, 1e6)
    plan = replace(PLAN, dp=2, tp=4, ep=1)
    assert dict(exchanges_beyond(op, plan, GPUS)) == {
        "all_gather": ["size_bytes 2e+06 of 1000 to 1e+06"],
        "reduce_scatter": ["ranks 4 of 2 to 2"],
    }
    assert not dict(exchanges_beyond(op, PLAN, GPUS)), "one rank exchanges nothing"
    assert not dict(exchanges_beyond(replace(op, forward=None, backward="all_to_all"), plan, GPUS))
