"""Optimizers: bytes kept and moved per parameter, and the FLOPs of what is computed on whole matrices, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hardware import catalogue
from hardware.precisions import PRECISIONS
from hardware.specs import Cluster
from simulator.cost.groups import shard_groups
from simulator.cost.updates import matrix_products_s, reduces_whole, shared_numbers_s
from simulator.model.spec import Attention, Layer, Model, MoE
from simulator.optimizers import OPTIMIZERS
from simulator.plans.layout import stages
from simulator.plans.spec import Optimizer, Plan
from simulator.workload.states import factor_bytes, stage_parameters


@pytest.mark.parametrize(
    ("name", "state_bytes"), [("adamw", 12.0), ("lamb", 12.0), ("sgd", 8.0), ("muon", 8.0), ("adafactor", 4.0)]
)
def test_state_in_fp32(name: str, state_bytes: float) -> None:
    """A master copy of 4 bytes, and 4 for each moment."""
    assert OPTIMIZERS[name].state_bytes(main_bytes=4.0, moment_bytes=4.0) == state_bytes


def test_update_of_adam_moves_thirty_bytes() -> None:
    """4 of the gradient and 12 of the state read, 12 written, 2 of the new parameter written."""
    assert OPTIMIZERS["adamw"].update_bytes(gradient_bytes=4.0, state_bytes=12.0, parameter_bytes=2.0) == 30.0


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_products_run_in_a_precision_and_want_whole_matrices(name: str) -> None:
    record = OPTIMIZERS[name]
    assert record.needs_whole_matrices == (record.products is not None)
    if record.products is not None:
        assert record.products.precision in PRECISIONS
        assert record.products.iterations >= 1


def test_newton_schulz_flops() -> None:
    """Five iterations of 2 (2 r^2 c) + 2 r^3 on a matrix of 3 x 5."""
    products = OPTIMIZERS["muon"].products
    assert products is not None
    flops = sum(2 * m * n * k for m, n, k in products.shapes(3, 5))
    assert products.iterations * flops == 5 * (2 * 2 * 9 * 5 + 2 * 27)


def test_lamb_passes_update_and_weight_again() -> None:
    """Adam's 30 bytes; the update written, read for its norm and read again (3 x 4); the weight read for its own."""
    assert OPTIMIZERS["lamb"].update_bytes(4.0, 12.0, 2.0, main_bytes=4.0) == 30.0 + 12.0 + 4.0


def test_adafactor_reads_the_gradient_for_means_and_for_clipping() -> None:
    """4 of the gradient and 4 of the weight read, 4 and 2 written, and the gradient twice more."""
    assert OPTIMIZERS["adafactor"].update_bytes(4.0, 4.0, 2.0, main_bytes=4.0) == 14.0 + 8.0


@pytest.fixture
def h100s() -> Cluster:
    return catalogue.cluster(8, "hgx-h100", "single-switch")


EXPERTS = Model("experts", 1024, 32000, (Layer(Attention(16, 16, 64, 64), MoE(16, 2, 512)),))


def plan_of(kind: str, **changes: object) -> Plan:
    plan = Plan(dp=8, ep=4, micro_batch_size=1, global_batch_size=64, optimizer=Optimizer(kind=kind))
    return replace(plan, **changes)  # type: ignore[arg-type]


def test_adafactor_keeps_a_number_for_each_row_and_column() -> None:
    """qkv 1024 x 3072, out 1024 x 1024 and router 1024 x 16 over 8 ranks; 4 experts of 1024 x 1024 (gate and up) and
    512 x 1024 over 2 ranks."""
    plan = plan_of("adafactor")
    (stage,) = stage_parameters(EXPERTS, plan, stages(EXPERTS, plan))
    dense, experts = 4096 + 2048 + 1040, 4 * (2048 + 1536)
    assert factor_bytes(stage, plan) == 4.0 * (dense / 8 + experts / 2)
    assert factor_bytes(stage, plan_of("adamw")) == 0.0


def test_numbers_that_ranks_share() -> None:
    """LAMB adds up two norms of a matrix, Adafactor its rows, its columns and one mean, Adam nothing."""
    assert [OPTIMIZERS[name].shared_numbers(3, 5) for name in ("lamb", "adafactor", "adamw")] == [2, 9, 0]


def test_sharded_lamb_waits_for_its_norms(h100s: Cluster) -> None:
    plan = plan_of("lamb")
    (stage,) = stages(EXPERTS, plan)
    groups = shard_groups(plan, h100s)
    assert shared_numbers_s(EXPERTS, stage, plan, groups, h100s) > 0
    assert shared_numbers_s(EXPERTS, stage, replace(plan, sharding="none"), groups, h100s) == 0
    assert shared_numbers_s(EXPERTS, stage, plan_of("adamw"), groups, h100s) == 0


def test_experts_matrices_are_dealt_to_the_ranks_that_hold_them(h100s: Cluster) -> None:
    """Ranks of 8: with ep 8 each expert lives on one of them, with ep 4 on two that share its products: 16 / 8 whole
    matrices a rank either way."""
    products = OPTIMIZERS["muon"].products
    assert products is not None
    seconds = [
        matrix_products_s(EXPERTS, stages(EXPERTS, plan)[0], plan, products, h100s)
        for plan in (plan_of("muon", ep=4), plan_of("muon", ep=8))
    ]
    assert seconds[0] == pytest.approx(seconds[1])


def test_muon_needs_whole_gradients() -> None:
    """All-reduced, twice what a reduce-scatter moves; Adam's shards take theirs."""
    assert reduces_whole(plan_of("muon"))
    assert not reduces_whole(plan_of("adamw"))
    assert reduces_whole(plan_of("adamw", sharding="none"))
