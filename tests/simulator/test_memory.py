"""Memory of a pipeline rank against closed forms."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from simulator.memory.activations import Kept, layer_kept, stage_kept
from simulator.memory.outside import optimizer_step_bytes, outside_bytes
from simulator.memory.peak import most_in_flight, peak_activations
from simulator.memory.pipeline_buffers import engine_buffer_bytes, pipeline_buffer_bytes
from simulator.memory.report import memory_report
from simulator.memory.states import gathered_beside_loss_bytes, gathered_bytes, reduction_bytes, state_bytes
from simulator.model.catalogue import load
from simulator.model.parameters import total_parameters
from simulator.model.spec import Attention, DenseFFN, Layer, Model
from simulator.plans.layout import stages
from simulator.plans.spec import Optimizer, Plan, Recompute
from simulator.schedules import make_schedule
from simulator.workload.derive import workload_of
from simulator.workload.ends import logit_bytes
from simulator.workload.ffns import ffn_work
from simulator.workload.mixers import mixer_work
from simulator.workload.shape import shape_of
from simulator.workload.states import StageParameters, stage_parameters
from tests.simulator.stacks import FSDP, TORCHTITAN, stack_of

LLAMA = Model("llama", 4096, 128256, (Layer(Attention(32, 8, 128, 128), DenseFFN(14336)),) * 32)
PLAN = Plan(dp=8, micro_batch_size=1, global_batch_size=64, sharding="none")
ONE = StageParameters(1e9, 0.0, ((1e9, 0.0),))


def bytes_per_parameter(**changes: Any) -> float:
    return sum(state_bytes([ONE], replace(PLAN, **changes)).values()) / 1e9


def test_bytes_per_parameter() -> None:
    """18 without sharding; 6 + 12/S with the distributed optimizer; (2 + 4 + 12)/S with everything sharded. What is
    reduced after every backward is whole for a layer, here all there is: 4 more."""
    assert bytes_per_parameter() == 18
    assert bytes_per_parameter(sharding="optimizer") == pytest.approx(6 + 12 / 8)
    assert bytes_per_parameter(sharding="optimizer_gradients") == pytest.approx(2 + 16 / 8 + 4)
    gathered = 2 * 2 + 4
    assert bytes_per_parameter(sharding="full") == pytest.approx(18 / 8 + gathered)
    assert bytes_per_parameter(sharding="optimizer", optimizer=Optimizer(grads="bf16")) == pytest.approx(4 + 12 / 8)
    assert bytes_per_parameter(sharding="optimizer", shard_group=4) == pytest.approx(6 + 12 / 4)
    assert bytes_per_parameter(sharding="optimizer", optimizer=Optimizer(kind="muon")) == pytest.approx(6 + 8 / 8)
    assert bytes_per_parameter(sharding="optimizer", optimizer=Optimizer(moments="bf16")) == pytest.approx(6 + 8 / 8)
    assert bytes_per_parameter(precision="fp32", optimizer=Optimizer(main_params=None)) == 16


def test_fsdp2_bytes_per_parameter() -> None:
    """FSDP2 shards one fp32 copy: 16/S and what is gathered; under a pipeline, 2 + 4 whole and 16/S, and the same; with
    weights that stay whole a layer's gradient of 4."""
    gathered = 2 * 2 + 4
    fsdp = FSDP
    assert bytes_per_parameter(sharding="full", stack=fsdp) == pytest.approx(16 / 8 + gathered)
    ends = StageParameters(1e9, 0.0, ((0.3e9, 0.0), (0.4e9, 0.0), (0.3e9, 0.0)))
    alone = replace(PLAN, sharding="full", stack=TORCHTITAN)
    # Head, the pool for the largest group, and the layer, in 16 bit.
    assert sum(state_bytes([ends], alone).values()) == pytest.approx(16e9 / 8 + 2 * (0.3 + 0.4 + 0.4) * 1e9)
    for sharding in ("optimizer", "optimizer_gradients"):
        piped = bytes_per_parameter(pp=2, schedule="1f1b", stack=TORCHTITAN, sharding=sharding)
        assert piped == pytest.approx(2 + 4 + 16 / 8 + gathered)
    assert bytes_per_parameter(sharding="optimizer_gradients", stack=TORCHTITAN) == pytest.approx(2 + 16 / 8 + 4)


def test_ends_are_gathered_in_16_bit() -> None:
    """FP8 all-gather of linears beside ends of 1e9: head and pool of 2e9 bytes, a layer of 1.2e9 at one byte each;
    embedding and head in one group double the first two."""
    plan = replace(PLAN, sharding="full", precision="fp8-tensorwise", fp8_param_gather=True, stack=TORCHTITAN)
    end, layer = (1e9, 0.0), (1.2e9, 0.0)
    stage = StageParameters(3.2e9, 0.0, (end, layer, end))
    assert gathered_beside_loss_bytes(stage, plan) == pytest.approx(2 * 2e9 + 1.2e9)
    joint = replace(plan, stack=replace(TORCHTITAN, joint_ends=True))
    assert gathered_beside_loss_bytes(stage, joint) == pytest.approx(2 * 4e9 + 1.2e9)
    assert reduction_bytes(stage, plan) == pytest.approx(6 * 1.2e9)
    assert gathered_bytes([StageParameters(3.6e9, 0.0, (layer,) * 2)], plan) == pytest.approx(6 * 1.2e9)


def test_fixed_segments_waste_what_comes_and_goes() -> None:
    """Without expandable segments, 12 % of activations; with them, 3 % of everything."""
    owners = {"weights": 10e9, "activations": 4e9, "working": 1e9}
    assert outside_bytes(PLAN, owners)["fragmentation"] == pytest.approx(0.03 * 15e9)
    fixed = replace(PLAN, stack=stack_of(expandable_segments=False))
    assert outside_bytes(fixed, owners)["fragmentation"] == pytest.approx(0.12 * 5e9)


def test_operator_checkpointing_of_llama() -> None:
    """Per token of a layer in 16 bit: input h, q, v, attention's output with its fp32 log-sums, and w1's output."""
    plan = replace(PLAN, stack=TORCHTITAN, recompute=Recompute("selective", modules=("mlp",)))
    shape = shape_of(LLAMA, plan, 8192)
    layer = mixer_work(LLAMA.layers[0].mixer, shape) + ffn_work(LLAMA.layers[0].ffn, shape)
    kept = layer_kept(layer, plan, False)
    per_token = 2 * (4096 + 4096 + 1024 + 4096 + 14336) + 4 * 32
    assert kept.until_backward == pytest.approx(8192 * per_token)
    eager = replace(plan, stack=replace(TORCHTITAN, fused_kernels=False))
    assert layer_kept(layer, eager, False).until_backward == pytest.approx(8192 * (per_token + 2 * 4096)), "w2's output"
    ends = stage_kept(workload_of(LLAMA, plan, 8192))[0].until_backward - 32 * kept.until_backward
    assert ends == pytest.approx(8192 * 2 * (2 * 4096 + 128256)), "the head is not recomputed"


@pytest.mark.parametrize(
    ("compiled", "tp", "saved", "working"), [(True, 1, 2, 2), (False, 1, 4, 10), (False, 8, 4, 14)]
)
def test_loss_bytes_per_logit(compiled: bool, tp: int, saved: float, working: float) -> None:
    """Compiled: 16-bit logits and gradient. Eager: fp32 log-softmax, two (loss parallel: three) fp32 tensors beside it,
    and the 16-bit block that fits none of them."""
    plan = replace(PLAN, tp=tp, stack=replace(TORCHTITAN, fused_loss=compiled))
    assert logit_bytes(shape_of(LLAMA, plan, 8192)) == (saved, working)


def test_pipeline_buffers() -> None:
    """1F1B of 4 ranks and 8 micro-batches: gradient and output of each, the last's logits instead, and inputs of those
    that are not in flight: on rank r, at most 4 - r are."""
    plan = replace(PLAN, pp=4, schedule="1f1b", stack=TORCHTITAN)
    shape = shape_of(LLAMA, plan, 8192)
    ranks = make_schedule("1f1b", 4, 1, plan.microbatches).ranks
    hidden, logits = 8192 * 4096 * 2, 8192 * 128256 * 2
    assert pipeline_buffer_bytes(LLAMA, shape, (0,), [most_in_flight(ranks[0], 0)]) == 16 * hidden
    assert pipeline_buffer_bytes(LLAMA, shape, (1,), [most_in_flight(ranks[1], 0)]) == (16 + 8 - 3) * hidden
    assert pipeline_buffer_bytes(LLAMA, shape, (3,), [most_in_flight(ranks[3], 0)]) == 8 * logits + (8 - 1) * hidden


DEEPSPEED = stack_of("megatron-deepspeed-2022")


def test_deepspeed_step() -> None:
    """ZeRO-1: a bucket of 5e8 gradients in 16 bit, the shard in 16 bit and in fp32; BF16_Optimizer: all parameters."""
    of_16_bit = replace(PLAN, sharding="optimizer", stack=DEEPSPEED, optimizer=Optimizer(grads="bf16"))
    assert optimizer_step_bytes([ONE], of_16_bit) == pytest.approx(2 * 5e8 + 6 * 1e9 / 8)
    assert optimizer_step_bytes([ONE], replace(of_16_bit, optimizer=Optimizer())) == pytest.approx(2e9)
    assert optimizer_step_bytes([ONE], replace(of_16_bit, sharding="none")) == 0


def test_deepspeed_pipeline_buffers() -> None:
    """Rank 0 of 4 keeps 1/tp of four outputs, receives two more such shares, and restores one output and gradient."""
    plan = replace(PLAN, pp=4, tp=8, schedule="1f1b", stack=DEEPSPEED)
    ranks = make_schedule("1f1b", 4, 1, plan.microbatches).ranks
    hidden = 8192 * 4096 * 2
    found = engine_buffer_bytes(LLAMA, shape_of(LLAMA, plan, 8192), (0,), [most_in_flight(ranks[0], 0)])
    assert found == pytest.approx(hidden * (6 / 8 + 2))


def test_experts_shard_over_their_own_replicas() -> None:
    """Experts divide by expert data parallelism, which may be 1: then sharding saves nothing on them."""
    plan = replace(PLAN, sharding="optimizer", ep=8)
    held = StageParameters(0.0, 1e9, ((0.0, 1e9),))
    assert sum(state_bytes([held], plan).values()) == pytest.approx(18e9)


@pytest.mark.parametrize(("pp", "ep"), [(1, 1), (4, 8), (16, 64)])
def test_every_parameter_has_a_home(pp: int, ep: int) -> None:
    """Local parameters of all stages, times the ranks that share them, are the model's."""
    model = load("deepseek-v3")
    plan = replace(PLAN, pp=pp, ep=ep, dp=64, vocab_divisible_by=1, schedule="dualpipe" if pp > 1 else "none")
    held = stage_parameters(model, plan, stages(model, plan))
    dense, expert = sum(s.dense for s in held), sum(s.expert for s in held) * ep
    mtp = 11_610_067_968
    assert dense + expert == pytest.approx(total_parameters(model) + mtp, rel=1e-9)


def test_tied_embedding_lives_twice() -> None:
    tied = replace(LLAMA, tied_embeddings=True)
    plan = replace(PLAN, pp=4, vocab_divisible_by=1)
    held = stage_parameters(tied, plan, stages(tied, plan))
    assert sum(s.dense for s in held) == pytest.approx(total_parameters(tied) + tied.vocab * tied.hidden)


def test_full_recompute_keeps_the_layer_input() -> None:
    shape = shape_of(LLAMA, PLAN, 8192)
    layer = LLAMA.layers[0]
    assert layer.mixer
    assert layer.ffn
    work = mixer_work(layer.mixer, shape) + ffn_work(layer.ffn, shape)
    full = replace(PLAN, recompute=Recompute("full"))
    kept = layer_kept(work, full, whole_layer_again=True)
    assert kept.until_backward == 2 * 8192 * 4096
    assert kept.working > layer_kept(work, PLAN, whole_layer_again=False).working


def test_gathered_inputs_of_linears() -> None:
    """With sequence parallelism over 8, Megatron keeps an eighth of the inputs of qkv and w1, DTensor all of them."""
    kept = {}
    for inputs in ("sharded", "gathered"):
        plan = replace(PLAN, tp=8, sequence_parallel=True, stack=replace(TORCHTITAN, column_inputs=inputs))
        shape = shape_of(LLAMA, plan, 8192)
        mixer, ffn = LLAMA.layers[0].mixer, LLAMA.layers[0].ffn
        assert mixer
        assert ffn
        kept[inputs] = layer_kept(mixer_work(mixer, shape) + ffn_work(ffn, shape), plan, False).until_backward
    assert kept["gathered"] - kept["sharded"] == pytest.approx(2 * 7 / 8 * 8192 * 4096 * 2)


def test_selective_recompute_drops_what_it_names() -> None:
    model = load("deepseek-v3")
    plan = replace(PLAN, ep=8, dp=64)
    (whole,) = stage_kept(workload_of(model, plan, 4096))
    again = replace(plan, recompute=Recompute("selective", modules=("mla_up_proj",)))
    (fewer,) = stage_kept(workload_of(model, again, 4096))
    # q and k of 128 heads x 192 and v of 128 heads x 128, in 62 layers with MTP's: 131 KB per token and layer.
    assert whole.until_backward - fewer.until_backward == pytest.approx(62 * 4096 * 2 * 128 * (192 * 2 + 128))


@pytest.mark.parametrize(
    ("name", "pp", "vpp", "microbatches"),
    [("gpipe", 4, 1, 8), ("1f1b", 4, 1, 8), ("1f1b", 8, 1, 3), ("interleaved", 4, 2, 8), ("interleaved", 4, 4, 16)],
)
def test_activations_in_flight(name: str, pp: int, vpp: int, microbatches: int) -> None:
    """GPipe holds m, 1F1B min(m, p - r), interleaving min(m v, 2 (p - r - 1) + (v - 1) p + 1) / v stages."""
    schedule = make_schedule(name, pp, vpp, microbatches)
    for rank, slots in enumerate(schedule.ranks):
        counts = {
            "gpipe": microbatches,
            "1f1b": min(microbatches, pp - rank),
            "interleaved": min(microbatches * vpp, 2 * (pp - rank - 1) + (vpp - 1) * pp + 1) / vpp,
        }
        live, _ = peak_activations(slots, [Kept(1.0 / vpp, 0.0, 0.0)] * vpp)
        assert live == pytest.approx(counts[name])


def test_owners_add_up() -> None:
    plan = replace(PLAN, pp=4, schedule="1f1b", sharding="optimizer")
    schedule = make_schedule("1f1b", 4, 1, plan.microbatches)
    report = memory_report(workload_of(LLAMA, plan, 8192), schedule.ranks)
    assert [rank.rank for rank in report] == [0, 1, 2, 3]
    for rank in report:
        assert rank.allocated_bytes == pytest.approx(sum(rank.owners.values()))
        assert rank.device_bytes > rank.allocated_bytes
    # The first rank holds most micro-batches, the last one the logits.
    assert report[0].owners["activations"] > report[2].owners["activations"]
    assert report[3].owners["working"] > report[1].owners["working"]
