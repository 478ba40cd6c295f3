"""Parallel transformer blocks: one pair of tensor-parallel exchanges, everything else as in serial blocks."""

from dataclasses import replace

import pytest

from hardware.problems import InputError
from simulator.model.catalogue import load
from simulator.model.inline import from_mapping
from simulator.plans.spec import Plan
from simulator.workload.ffns import ffn_work
from simulator.workload.mixers import mixer_work
from simulator.workload.operators import Exchange, Matmul, Work
from simulator.workload.shape import shape_of


def layer_work(parallel: bool) -> Work:
    gpt = replace(load("megascale-175b"), parallel_blocks=parallel)
    plan = Plan(dp=1, micro_batch_size=1, global_batch_size=1, tp=8, sequence_parallel=True)
    shape = shape_of(gpt, plan, 2048)
    return mixer_work(gpt.layers[0].mixer, shape) + ffn_work(gpt.layers[0].ffn, shape)


def exchanged_bytes(work: Work) -> float:
    exchanges = [op for op in work.operators if isinstance(op, Exchange) and op.group == "tp"]
    return sum(op.forward_bytes + op.backward_bytes + op.regather_bytes for op in exchanges)


def test_exchanges_halve_and_products_stay() -> None:
    serial, parallel = layer_work(False), layer_work(True)
    assert exchanged_bytes(parallel) == exchanged_bytes(serial) / 2
    products = [[op for op in work.operators if isinstance(op, Matmul)] for work in (serial, parallel)]
    assert products[0] == products[1]


def test_one_input_is_saved_instead_of_two() -> None:
    shard = 2048 * 12288 / 8 * 2
    kept = [sum(tensor.bytes for tensor in layer_work(parallel).saved) for parallel in (False, True)]
    assert kept[0] - kept[1] == 2 * shard


def test_experts_in_parallel_blocks_are_refused() -> None:
    moe = {"mixer": {"kind": "attention", "heads": 8}, "ffn": {"kind": "moe", "experts": 8, "top_k": 2, "width": 512}}
    with pytest.raises(InputError, match="parallel_blocks"):
        from_mapping({"hidden": 512, "vocab": 1000, "layers": moe, "parallel_blocks": True})
