"""More terms of memory by hand: outside the allocator, on hosts, in copies of weights, and while pairs run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from simulator.memory.activations import Kept, layer_kept, offloaded_tensors, received_rows, routed_copies
from simulator.memory.host import HostMemory, fullest_node, offloaded_state_bytes
from simulator.memory.outside import optimizer_step_bytes, outside_bytes
from simulator.memory.peak import most_in_flight, pair_rise, peak_activations
from simulator.memory.states import (
    caches_quantized_weights,
    gathered_beside_loss_bytes,
    gathered_bytes,
    gathers_layers,
    keeps_autograd_gradients,
    resident_weights,
    state_bytes,
)
from simulator.plans.spec import Offload, Optimizer, Plan, Recompute
from simulator.schedules import Slot, make_schedule
from simulator.workload.operators import Matmul, Routing, Tensor, Work
from simulator.workload.states import StageParameters
from tests.simulator.stacks import FSDP, TORCHTITAN, stack_of

GIB = 2**30
PLAN = Plan(dp=8, micro_batch_size=1, global_batch_size=64, sharding="none")
ONE = StageParameters(1e9, 0.0, ((1e9, 0.0),))


def states(**changes: Any) -> dict[str, float]:
    """Bytes of each owner for a parameter."""
    return {owner: size / 1e9 for owner, size in state_bytes([ONE], replace(PLAN, **changes)).items()}


# ---- states


def test_copies_of_weights_in_fp8() -> None:
    """By rows and by columns, a byte and a 128th of a scale's 4 each, where they last for several micro-batches and the
    weights are not FP8 themselves."""
    cached: dict[str, Any] = {"precision": "fp8-blockwise", "stack": stack_of(quantized_weights="cached")}
    assert states(**cached)["quantized weights"] == 2 * (1 + 4 / 128)
    for other in (
        {"global_batch_size": 8}, {"precision": "bf16"}, {"fp8_param_gather": True},
        {"stack": stack_of(quantized_weights="recast")},
    ):  # fmt: skip
        assert "quantized weights" not in states(**{**cached, **other})


def test_gradients_before_they_are_reduced_to_shards() -> None:
    """ZeRO-2: the largest layer's, 0.5e9 in the dtype of the reduction; DeepSpeed's buffers of 5e8 elements in 16 bit,
    two where one is reduced beside the backward, and none of the kind in its optimizer's step."""
    layers = StageParameters(0.9e9, 0.3e9, ((0.2e9, 0.3e9), (0.4e9, 0.0), (0.3e9, 0.0)))
    plan = replace(PLAN, sharding="optimizer_gradients")

    def buckets(plan: Plan) -> float | None:
        return state_bytes([layers], plan).get("gradient buckets")

    assert buckets(plan) == 4 * 0.5e9
    assert buckets(replace(plan, optimizer=Optimizer(grad_reduce="bf16"))) == 2 * 0.5e9
    allocated = replace(plan, stack=stack_of("deepspeed-0.19"), optimizer=Optimizer(grads="bf16"))
    assert buckets(allocated) == 2 * 5e8 * 2
    assert buckets(replace(allocated, overlap=replace(plan.overlap, grad_reduce=False))) == 5e8 * 2
    assert optimizer_step_bytes([layers], allocated) == pytest.approx(1.2e9 / 8 * (2 + 4))
    others = ({"sharding": "optimizer"}, {"sharding": "full"}, {"dp": 1},
              {"stack": stack_of(gradient_shards="last_microbatch")})  # fmt: skip
    assert [buckets(replace(plan, **other)) for other in others] == [None] * 4


@pytest.mark.parametrize(
    ("schedule", "batch", "whole"), [("interleaved", 32, 3.0), ("interleaved", 64, 4.0), ("1f1b", 32, 4.0)]
)
def test_whole_gradients_of_chunks_that_take_turns(schedule: str, batch: int, whole: float) -> None:
    """Chunks of 1e9 and 3e9 parameters on four ranks: with 4 micro-batches an interleaved rank has reduced one's fp32
    gradients before the other's begin; with 8, or in one chunk, all are there at once."""
    plan = replace(
        PLAN, pp=4, vpp=2, global_batch_size=batch, schedule=schedule, sharding="optimizer", stack=TORCHTITAN
    )
    held = [ONE, StageParameters(3e9, 0.0, ((3e9, 0.0),))]
    assert state_bytes(held, plan)["unsharded gradients"] == whole * 1e9 * 4


def test_gradients_that_autograd_left_beside_wide_ones() -> None:
    kept = stack_of(autograd_gradients="kept")
    assert states(stack=kept)["16-bit gradients"] == 2.0
    for other in ({"optimizer": Optimizer(grads="bf16")}, {"precision": "fp32"}, {"stack": stack_of()}):
        assert not keeps_autograd_gradients(replace(PLAN, **{"stack": kept, **other}))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"sharding": "optimizer", "offload": Offload(optimizer_fraction=0.25)}, (2, 4, 12 / 8 * 0.75)),
        ({"sharding": "optimizer_gradients", "offload": Offload(optimizer_fraction=0.5, gradient_fraction=0.25)},
         (2, 4 / 8 * 0.75, 12 / 8 * 0.5)),
        ({"sharding": "full", "offload": Offload(params="host", optimizer_fraction=1.0)}, (0, 4 / 8, 0)),
        ({"sharding": "full", "stack": FSDP}, (0, 4 / 8, 12 / 8)),
        ({"sharding": "full", "stack": FSDP, "dp": 1, "global_batch_size": 8}, (2, 4, 12)),
        ({"sharding": "full"}, (2 / 8, 4 / 8, 12 / 8)),
        ({"sharding": "full", "shard_group": 2}, (2 / 2, 4 / 2, 12 / 2)),
    ],
)  # fmt: skip
def test_bytes_of_a_parameter_on_the_gpu(changes: dict[str, Any], expected: tuple[float, ...]) -> None:
    """Weight, gradient and optimizer state, over 8 ranks or a group, less what the plan offloads."""
    found = states(**changes)
    assert (found["weights"], found["gradients"], found["optimizer"]) == pytest.approx(expected)


def test_who_gathers_layers() -> None:
    """Sharded weights that other ranks, or the host, hold."""
    full = replace(PLAN, sharding="full")
    alone = replace(full, dp=1, global_batch_size=8)
    assert [gathers_layers(plan) for plan in (PLAN, full, alone)] == [False, True, False]
    assert gathers_layers(replace(alone, offload=Offload(params="host", optimizer_fraction=1.0)))
    assert not gathers_layers(replace(PLAN, sharding="optimizer"))


def test_the_largest_layer_or_module_is_gathered() -> None:
    """Weights of a layer twice in 16 bit and its gradient in fp32; of a module four bytes for each parameter."""
    held = StageParameters(6e9, 0.0, ((1e9, 0.0), (3e9, 1e9), (2e9, 0.0)), largest_matrix=5e8)
    assert gathered_bytes([held], replace(PLAN, sharding="full")) == 8 * 4e9
    frozen = replace(held, adapters=((0.0, 0.0), (1e6, 0.0), (0.0, 0.0)))
    assert gathered_bytes([frozen], replace(PLAN, sharding="full")) == 4 * 4e9 + 4 * 1e6
    modules = replace(PLAN, sharding="full", stack=stack_of(gathered_unit="module"))
    assert gathered_bytes([replace(held, largest_matrix=1.0), held], modules) == 4 * 5e8


def test_experts_and_dense_weights_shard_over_their_own_ranks() -> None:
    """8 GPUs, experts over 4: dense weights over 8 ranks, experts' over 2."""
    held = StageParameters(8e9, 2e9, ((8e9, 2e9),))
    plan = replace(PLAN, sharding="full", ep=4)
    assert resident_weights([held], plan) == 1e9 + 1e9
    assert resident_weights([held, held], replace(plan, sharding="optimizer")) == 20e9


# ---- activations


def test_kept_bytes_add_up_and_working_sets_do_not() -> None:
    found = Kept(1.0, 2.0, 3.0, 4, 5.0) + Kept(10.0, 20.0, 1.0, 40, 50.0)
    assert found == Kept(11.0, 22.0, 3.0, 44, 55.0)


WORK = Work(
    (Matmul("fc1", 10, 20, 30, groups=2), Matmul("fc2", 10, 5, 7)),
    (
        Tensor("residual_1", 100.0), Tensor("qkv", 40.0, ("core_attn",), until_wgrad=True),
        Tensor("fc1_output", 60.0, ("mlp",)), Tensor("mlp_input", 8.0, ("mlp",), until_wgrad=True),
    ),
)  # fmt: skip
WIDEST = 2 * 2 * 10 * (20 + 30)


def test_a_layer_that_recomputes_modules_by_hand() -> None:
    """MLP tensors of 68 bytes come back for a moment, beside gradients of the widest product; half of q, k, v leaves
    and lies there twice when it is back."""
    whole = layer_kept(WORK, PLAN, whole_layer_again=False)
    assert whole == Kept(208.0, 48.0, WIDEST, 0, 0.0)
    selective = replace(PLAN, recompute=Recompute("selective", modules=("mlp",)))
    assert layer_kept(WORK, selective, whole_layer_again=False) == Kept(140.0, 40.0, 68.0 + WIDEST, 0, 0.0)
    away = replace(selective, offload=Offload(0.5, ("core_attn",)))
    assert layer_kept(WORK, away, whole_layer_again=False) == Kept(120.0, 20.0, 68.0 + WIDEST + 40.0, 0, 20.0)
    assert offloaded_tensors(away, WORK) == {"qkv"}
    whole_layer = replace(selective, offload=Offload(0.25, ("whole_layer",)))
    # A quarter of all that selective recomputation leaves; it lies there twice when it is back.
    assert layer_kept(WORK, whole_layer, whole_layer_again=False) == Kept(105.0, 30.0, 68.0 + WIDEST + 70.0, 0, 35.0)


def test_rows_that_arrive_from_other_ranks() -> None:
    """100 tokens to 4 experts each: the hottest rank gets 1.5 times as many, or its capacity; home come their own."""
    dispatch, combine = (Routing(name, 100, 8, 4, 16, 1, 1, fp8=False) for name in ("dispatch", "combine"))  # type: ignore[arg-type]
    plan = replace(PLAN, ep=8, expert_imbalance=1.5)
    assert [routed_copies(op, plan) for op in (dispatch, combine)] == [600.0, 400.0]
    assert routed_copies(dispatch, replace(plan, capacity_factor=2.0)) == 800.0
    found = received_rows(Work((dispatch, combine), ()), plan)
    assert [(tensor.name, tensor.bytes) for tensor in found] == [("dispatch", 2 * 600 * 8), ("combine", 2 * 400 * 8)]
    assert received_rows(Work((dispatch, combine), ()), replace(plan, ep=1)) == []


def test_pairs_fill_while_they_free() -> None:
    """Four layers of one micro-batch fill while four of another free: a layer more at worst. Two free at half the pace:
    before the second is freed three of four have filled. An empty backward frees nothing."""
    ahead = Kept(8.0, layers=4)
    assert pair_rise(ahead, Kept(8.0, layers=4)) == 2.0
    assert pair_rise(ahead, Kept(8.0, layers=2)) == 4.0
    assert pair_rise(ahead, Kept(0.0, layers=1)) == 8.0
    assert pair_rise(Kept(8.0), Kept(4.0)) == 8.0


def test_the_walk_to_the_peak() -> None:
    """Two forwards of 10; an input gradient beside 5 of working memory leaves 4 until the weight gradient."""
    kept = [Kept(10.0, 4.0, 5.0)]
    walk = [Slot(kind, microbatch, 0) for kind, microbatch in (("F", 0), ("F", 1), ("I", 0), ("F", 2), ("W", 0))]  # type: ignore[arg-type]
    assert peak_activations(walk[:2], kept) == (20.0, 0.0)
    assert peak_activations(walk[:3], kept) == (20.0, 5.0)
    assert peak_activations(walk, kept) == (20.0, 5.0)
    assert peak_activations([*walk, Slot("F", 3, 0)], kept) == (30.0, 0.0)  # 30 - 6 - 4 + 10
    assert peak_activations([*walk[:4], Slot("F", 3, 0)], kept) == (34.0, 0.0)
    pair = [Slot("F", 0, 0), Slot("FB", 1, 0, 0, 0)]
    assert peak_activations(pair, [Kept(8.0, 0.0, 3.0, layers=4)]) == (10.0, 3.0)


def test_micro_batches_in_flight() -> None:
    slots = make_schedule("1f1b", 4, 1, 8).ranks
    assert [most_in_flight(rank, 0) for rank in slots] == [4, 3, 2, 1]
    assert most_in_flight(slots[0], 1) == 0
    split = [Slot("F", 0, 0), Slot("I", 0, 0), Slot("F", 1, 0), Slot("FB", 2, 0, 1, 0)]
    assert most_in_flight(split, 0) == 2


# ---- outside the allocator


def test_contexts_and_buffers_of_dispatchers() -> None:
    assert outside_bytes(PLAN, {})["context"] == 0.8 * GIB
    assert outside_bytes(replace(PLAN, stack=stack_of(cuda_context="eager")), {})["context"] == 1573 * 2**20
    spread = replace(PLAN, ep=8, dispatcher="deepep")
    assert outside_bytes(spread, {})["expert buffers"] == 1.5 * GIB
    assert "expert buffers" not in outside_bytes(replace(spread, ep=1), {})
    assert "expert buffers" not in outside_bytes(replace(spread, dispatcher="alltoall"), {})
    loose = replace(PLAN, stack=stack_of(expandable_segments=False))
    assert outside_bytes(loose, {"weights": 1e9, "pipeline buffers": 1e9})["fragmentation"] == pytest.approx(0.12e9)


def test_the_optimizers_step_needs_nothing_where_weights_stay_sharded() -> None:
    plan = replace(PLAN, stack=stack_of("megatron-deepspeed-2022"), sharding="optimizer")
    both = [ONE, StageParameters(1e9, 2e9, ())]
    assert optimizer_step_bytes(both, plan) == pytest.approx(2 * 4e9)
    assert optimizer_step_bytes(both, replace(plan, sharding="full")) == 0


# ---- hosts


def test_owners_of_the_fullest_node() -> None:
    """Four stages of two GPUs on nodes of four: the last two hold 2 x (3 + 4). Stages of eight fill nodes of four."""
    owners = [{"a": 1.0}, {"a": 2.0}, {"a": 3.0}, {"b": 4.0}]
    plan = replace(PLAN, pp=4, dp=2, schedule="1f1b")
    assert fullest_node(owners, plan, 4) == {"a": 6.0, "b": 8.0}
    assert fullest_node(owners, plan, 8) == {"a": 12.0, "b": 8.0}
    assert fullest_node(owners, replace(plan, dp=8), 4) == {"b": 16.0}


def test_states_that_wait_in_host_memory() -> None:
    """12 bytes for each of a rank's eighth, and 4 of gradients; weights where no engine keeps them as its masters."""
    plan = replace(PLAN, sharding="full", offload=Offload(optimizer_fraction=1.0, gradient_fraction=0.5, params="host"))
    found = offloaded_state_bytes([ONE], plan)
    assert found == {"optimizer": 1.5e9, "gradients": 0.25e9, "params": 0.25e9}
    masters = offloaded_state_bytes([ONE], replace(plan, stack=TORCHTITAN))
    assert masters["params"] == 0.0
    assert offloaded_state_bytes([ONE], replace(plan, stack=TORCHTITAN, precision="fp32"))["params"] == 0.5e9
    on_gpu = replace(plan, offload=Offload(optimizer_fraction=0.5))
    assert offloaded_state_bytes([ONE], on_gpu) == {"optimizer": 0.75e9, "gradients": 0.0, "params": 0.0}


def test_a_host_fits_what_it_has() -> None:
    assert [HostMemory({"a": 3.0, "b": 4.0}, capacity).fits for capacity in (None, 7.0, 6.9)] == [True, True, False]


def test_nothing_kept_adds_nothing() -> None:
    found = Kept(1.0, 2.0, 3.0, 4, 5.0)
    assert found + Kept() == Kept() + found == found


def test_copies_in_low_precision_last_from_the_second_micro_batch_on() -> None:
    """Eight replicas of one sample: 8 samples a step are one micro-batch each, 16 are two."""
    cached = replace(PLAN, precision="fp8-blockwise", stack=stack_of(quantized_weights="cached"))
    for batch, lasts in ((8, False), (16, True)):
        assert caches_quantized_weights(replace(cached, global_batch_size=batch)) is lasts


def test_what_is_gathered_when_the_loss_is_at_its_peak() -> None:
    """Embedding 5, layers 3 and 2, head 1, in 2 bytes: the head, the pool as large as the embedding, the larger layer;
    with joint ends embedding and head are one group, which the pool is as large as."""
    held = StageParameters(11.0, 0.0, ((5.0, 0.0), (2.0, 1.0), (2.0, 0.0), (1.0, 0.0)))
    plan = replace(PLAN, sharding="full")
    for joint, expected in ((False, 2 * 1 + 2 * 5 + 2 * 3), (True, 2 * 6 + 2 * 6 + 2 * 3)):
        assert gathered_beside_loss_bytes(held, replace(plan, stack=stack_of(joint_ends=joint))) == expected
