"""Terms of the memory report one by one: each has a value worked out by hand that changes when the term does."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hardware.catalogue import cluster
from hardware.collectives import collective_s, strided_group
from hardware.kernels import streaming_s
from simulator.cost.groups import shard_groups
from simulator.cost.step_times import update_times
from simulator.cost.updates import optimizer_s
from simulator.memory.activations import Kept, layer_kept, stage_kept, widest_gradients
from simulator.memory.outside import COMMUNICATOR_BYTES, outside_bytes
from simulator.memory.peak import peak_activations
from simulator.memory.report import memory_report
from simulator.memory.states import state_bytes
from simulator.model.spec import Attention, DenseFFN, Layer, Model
from simulator.plans.layout import stages
from simulator.plans.spec import Offload, Plan, Recompute
from simulator.schedules import make_schedule
from simulator.workload.derive import workload_of
from simulator.workload.ffns import ffn_work
from simulator.workload.mixers import mixer_work
from simulator.workload.operators import Work
from simulator.workload.shape import shape_of
from simulator.workload.states import StageParameters, stage_parameters
from tests.simulator.stacks import stack_of

SEQ = 8192
LAYER = Layer(Attention(32, 8, 128, 128), DenseFFN(14336))
LLAMA = Model("llama", 4096, 128256, (LAYER,) * 32)
PLAN = Plan(dp=8, micro_batch_size=1, global_batch_size=64, sharding="none")


def layer_work(plan: Plan) -> Work:
    shape = shape_of(LLAMA, plan, SEQ)
    assert LAYER.mixer
    assert LAYER.ffn
    return mixer_work(LAYER.mixer, shape) + ffn_work(LAYER.ffn, shape)


@pytest.mark.parametrize("tp", [1, 4])
def test_a_tied_head_copies_its_share_of_the_table(tp: int) -> None:
    """Split over tp like the embedding: the last stage of a tied model holds as much as that of an untied one, and the
    whole model one table of 128256 x 4096 over tp more than its parameters."""
    plan = replace(PLAN, tp=tp, pp=4, vocab_divisible_by=1)
    tied = replace(LLAMA, tied_embeddings=True)
    own, copied = (stage_parameters(model, plan, stages(model, plan)) for model in (LLAMA, tied))
    table = 128256 * 4096 / tp
    assert copied[-1].dense == own[-1].dense
    assert copied[-1].dense - copied[1].dense == pytest.approx(table + 4096)
    assert copied[0].dense - copied[1].dense == pytest.approx(table)


def test_tied_tables_are_summed_over_both_ends() -> None:
    """Gradients of 128256 x 4096 / tp in fp32, all-reduced between the first and the last stage."""
    plan = replace(PLAN, tp=4, pp=4, dp=1, global_batch_size=8, vocab_divisible_by=1, schedule="1f1b")
    gpus = cluster(16, "hgx-h100", "ndr-rail-2tier")
    tied = replace(LLAMA, tied_embeddings=True)
    own, shared = (update_times(workload_of(model, plan, SEQ), gpus).barrier_s for model in (LLAMA, tied))
    ends = strided_group(gpus, 2, 12)
    expected_s = collective_s("all_reduce", 128256 * 4096 / 4 * 4.0, ends, gpus).seconds
    assert shared - own == pytest.approx(expected_s)


def test_whole_gradients_are_zeroed() -> None:
    """Per parameter of the shard 3 x 4 bytes of gradients and 30 of the update (12 read, 12 written, 4, 2); of the
    whole buffer 4 bytes written."""
    gpus = cluster(8, "hgx-h100", "none")
    held = StageParameters(1e9, 0.0, ((1e9, 0.0),))
    plan = replace(PLAN, sharding="optimizer")
    seconds = optimizer_s(held, plan, shard_groups(plan, gpus), gpus)
    assert seconds == pytest.approx(streaming_s(gpus.accelerator, 1e9 / 8 * (12 + 30) + 4e9, "optimizer"))


def test_widest_gradients_are_of_one_product() -> None:
    """Of FC1, 16 bit: 8192 tokens x (2 x 14336 outputs + 4096 inputs)."""
    work = layer_work(PLAN)
    assert widest_gradients(work) == 2 * SEQ * (2 * 14336 + 4096)
    assert layer_kept(work, PLAN, whole_layer_again=False).working == widest_gradients(work)
    assert widest_gradients(layer_work(replace(PLAN, tp=2))) == 2 * SEQ * (14336 + 4096)


@pytest.mark.parametrize("every", [1, 2, 4])
def test_uniform_recompute_keeps_one_input_for_so_many_layers(every: int) -> None:
    """An input of 2 x 8192 x 4096 bytes for every group of layers, and the group's other tensors again at once."""
    work = layer_work(PLAN)
    layer_input = 2 * SEQ * 4096
    rest = sum(tensor.bytes for tensor in work.saved) - layer_input
    plan = replace(PLAN, recompute=Recompute("full", layers=every))
    kept = layer_kept(work, plan, whole_layer_again=True)
    assert kept.until_backward == layer_input / every
    assert kept.working == pytest.approx(rest * every + widest_gradients(work))
    by_block = layer_kept(work, replace(plan, recompute=Recompute("full", "block", every)), whole_layer_again=True)
    assert by_block.until_backward == layer_input


@pytest.mark.parametrize(
    ("degrees", "count"),
    [
        ({"dp": 1}, 0),
        ({"dp": 8}, 2),  # data parallel, and experts' replicas
        ({"dp": 1, "cp": 8}, 3),  # context, data x context parallel, and experts' replicas
        ({"dp": 8, "ep": 8}, 2),  # data and expert parallel
        ({"dp": 8, "ep": 4}, 3),
        ({"dp": 1, "tp": 8, "etp": 8}, 2),  # tensor and expert tensor parallel
        ({"dp": 2, "tp": 2, "cp": 2, "pp": 2, "ep": 2}, 6),  # tp, cp, dp x cp, pp, ep, experts' replicas
    ],
)
def test_communicators_of_the_degrees_in_use(degrees: dict[str, int], count: int) -> None:
    plan = replace(PLAN, **degrees)
    assert outside_bytes(plan, {})["communicators"] == count * COMMUNICATOR_BYTES


def test_deepspeeds_pipeline_engine_has_four_communicators_more() -> None:
    plan = replace(PLAN, dp=1, pp=2, stack=stack_of("megatron-deepspeed-2022"))
    assert outside_bytes(plan, {})["communicators"] == (1 + 4) * COMMUNICATOR_BYTES
    assert outside_bytes(replace(plan, pp=1), {})["communicators"] == 0


def test_what_comes_back_lies_there_twice() -> None:
    """Of q, k and v (16 bit, 32 + 2 x 8 heads of 128) the half that left: for the layer at hand and the next one."""
    work = layer_work(PLAN)
    moved = replace(PLAN, offload=Offload(0.5, ("core_attn",)))
    plain, less = (layer_kept(work, plan, whole_layer_again=False) for plan in (PLAN, moved))
    away = 0.5 * 2 * SEQ * (32 + 2 * 8) * 128
    assert less.offloaded == away
    assert less.working - plain.working == 2 * away


def test_what_left_does_not_wait_for_weight_gradients() -> None:
    """The input of q, k and v, 4096 wide, would have."""
    work = layer_work(PLAN)
    moved = replace(PLAN, offload=Offload(0.5, ("qkv_linear",)))
    plain, less = (layer_kept(work, plan, whole_layer_again=False) for plan in (PLAN, moved))
    assert plain.until_wgrad - less.until_wgrad == less.offloaded == 0.5 * 2 * SEQ * 4096


def test_mirrored_ranks_of_dualpipe_share_the_optimizer() -> None:
    """2 + 4 bytes whole and 12 over 2 x 8 replicas."""
    held = StageParameters(1e9, 0.0, ((1e9, 0.0),))
    plan = replace(PLAN, pp=4, schedule="dualpipe", sharding="optimizer")
    assert sum(state_bytes([held], plan).values()) == pytest.approx(1e9 * (6 + 12 / 16))


def test_dualpipe_fills_before_it_pairs() -> None:
    """Four ranks: the ends start three forwards one way and one the other, whose split backward frees all but a quarter
    until its weight gradient; then pairs of four layers hold a layer more (4.25). Ranks inside hold p + 1 = 5."""
    schedule = make_schedule("dualpipe", 4, 1, 20)
    kept = Kept(1.0, 0.25, 0.1, layers=4)
    peaks = [peak_activations(slots, [kept, kept]) for slots in schedule.ranks]
    assert peaks == [pytest.approx((held, 0.1)) for held in (4.25, 5.0, 5.0, 4.25)]


def test_dualpipe_holds_both_its_stages() -> None:
    """Rank 1 of 4 holds at most three micro-batches of stage 1 and two of stage 2, with equal layers: five."""
    plan = replace(PLAN, dp=4, pp=4, global_batch_size=80, schedule="dualpipe")
    workload = workload_of(LLAMA, plan, SEQ)
    report = memory_report(workload, make_schedule("dualpipe", 4, 1, 20).ranks)
    kept = stage_kept(workload)
    assert kept[1].until_backward == kept[2].until_backward
    assert report[1].owners["activations"] == pytest.approx(5 * float(kept[1].until_backward))
