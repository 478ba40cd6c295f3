"""What PyTorch's checkpoints run again, and what torchao casts, against hand counts of one Llama-3.1-8B layer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from simulator.cost.recompute import recomputed_shares
from simulator.model.catalogue import load
from simulator.plans.spec import Plan, Recompute
from simulator.workload.ffns import ffn_work
from simulator.workload.mixers import mixer_work
from simulator.workload.operators import Pass
from simulator.workload.shape import Shape, shape_of
from tests.simulator.stacks import TORCHTITAN as COMPILED
from tests.simulator.stacks import stack_of

MODEL = load("llama-3.1-8b")  # hidden 4096, 32 heads and 8 key/value heads of 128, width 14336
TORCHTITAN = Plan(dp=1, micro_batch_size=1, global_batch_size=1, sharding="full", stack=COMPILED)
S = 8192


def shares(plan: Plan) -> dict[str, float]:
    shape, layer = shape_of(MODEL, plan, S), MODEL.layers[0]
    assert layer.mixer
    assert layer.ffn
    return {
        op.name: float(share)
        for work in (mixer_work(layer.mixer, shape), ffn_work(layer.ffn, shape))
        for op, share in zip(work.operators, recomputed_shares(work.operators, plan, True), strict=True)
    }


def test_a_full_checkpoint_stops_behind_the_last_activation() -> None:
    """From PyTorch 2.1 on the last product is not run again; reentrant checkpoints run everything again."""
    full = replace(TORCHTITAN, recompute=Recompute("full"))
    early = shares(full)
    assert early.pop("fc2") == 0.0
    assert {early[name] for name in ("qkv", "out", "fc1", "activation")} == {1.0}
    late = replace(full, stack=replace(full.stack, early_stop=False))
    assert set(shares(late).values()) == {1.0}
    megatron = replace(full, stack=stack_of())
    assert set(shares(megatron).values()) == {1.0}


def test_torchtitan_keeps_every_second_product() -> None:
    """Of q, k, v, out, w1, w3, w2 the second, fourth and sixth run again: k is 1024 of 6144 columns, w3 half of fc1."""
    found = shares(replace(TORCHTITAN, recompute=Recompute("selective", modules=("mlp",))))
    assert found["qkv"] == pytest.approx(1024 / 6144)
    assert (found["out"], found["fc1"], found["fc2"]) == (1.0, 0.5, 0.0)
    assert (found["input_norm"], found["activation"], found["core_attention"]) == (1.0, 1.0, 0.0)


def test_nothing_runs_again_without_recomputation() -> None:
    assert set(shares(TORCHTITAN).values()) == {0.0}


def cast_bytes(shape: Shape) -> tuple[float, float]:
    """Forward and backward bytes of the casts around the output projection."""
    layer = MODEL.layers[0]
    assert layer.mixer
    passes = [op for op in mixer_work(layer.mixer, shape).operators if isinstance(op, Pass)]
    mine = [op for op in passes if op.name in ("out_cast", "out_columns")]
    return float(sum(op.forward_bytes for op in mine)), float(sum(op.backward_bytes for op in mine))


@pytest.mark.parametrize(
    ("precision", "input_weight", "backward"),
    [
        # Bytes of an element: forward of input and weight; backward of input, output gradient and weight.
        ("fp8-tensorwise", (3, 5), (3, 6, 3)),
        ("fp8-rowwise", (3, 3), (5 + 4, 8, 5 + 4)),
    ],
)
def test_torchao_casts_by_rows_and_by_columns(
    precision: str, input_weight: tuple[float, float], backward: tuple[float, float, float]
) -> None:
    """8,192 tokens by 4,096 in, 4,096 out; scaling the outputs of row-scaled products reads and writes 16 bit."""
    plan = replace(TORCHTITAN, precision=precision)  # type: ignore[arg-type]
    tokens, weight = S * 4096, 4096 * 4096
    found = cast_bytes(shape_of(MODEL, plan, S))
    assert found[0] == pytest.approx(input_weight[0] * tokens + input_weight[1] * weight)
    assert found[1] == pytest.approx((backward[0] + backward[1]) * tokens + backward[2] * weight)
