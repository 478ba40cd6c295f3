"""Weights, gradients and optimizer state of one rank, and what fully sharded layers hold gathered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from hardware.arrays import plain
from hardware.collectives.compression import FEEDBACK_BYTES
from hardware.precisions import FORMATS, PRECISIONS
from simulator.plans.choices import FSDP, SHARDINGS
from simulator.plans.spec import Plan
from simulator.schedules import SCHEDULES
from simulator.workload.operators import Number
from simulator.workload.states import (
    StageParameters,
    accumulates_unsharded,
    factor_bytes,
    main_params_bytes,
    offloaded_gradient_fraction,
    optimizer_bytes,
    parameter_bytes,
    reduces_every_microbatch,
    replica_ranks,
    shard_count,
    shares_states,
    wider_bytes,
)

# Elements that DeepSpeed reduces at a time (reduce_bucket_size of its configuration, which nobody sets).
REDUCE_BUCKET_ELEMENTS = 5e8


def state_bytes(held: Sequence[StageParameters], plan: Plan) -> dict[str, Number]:
    """Bytes of weights, gradients and optimizer state of one rank, by owner (Megatron-Core's dist_optimizer.md).

    What the plan offloads is not among them (see `simulator.memory.host`).
    """
    counts = resident_counts(held, plan)
    factors: Number = sum(factor_bytes(stage, plan) for stage in held)
    found = {
        "weights": counts.weights * parameter_bytes(plan) + wide_weights(held, plan) * wider_bytes(plan),
        "gradients": counts.gradients * FORMATS[plan.optimizer.grads].bytes,
        "optimizer": counts.states * optimizer_bytes(plan) + factors * (1 - plan.offload.optimizer_fraction),
    }
    remainder = FEEDBACK_BYTES.get(plan.gradients.compression, 0.0)
    if remainder:
        found["error feedback"] = counts.whole * remainder
    if keeps_autograd_gradients(plan):
        found["16-bit gradients"] = counts.gradients * 2.0
    under_pipeline = accumulates_unsharded(plan)
    if under_pipeline:
        # FSDP2 under a pipeline adds whole gradients up, in the dtype of the reduction, until the last micro-batch.
        found["unsharded gradients"] = unsharded_gradients(held, plan) * FORMATS[plan.optimizer.grad_reduce].bytes
    if not SHARDINGS[plan.sharding].shards_weights and reduces_every_microbatch(plan) and shares_states(plan):
        found["gradient buckets"] = gradient_bucket_bytes(held, plan)
    if caches_quantized_weights(plan):
        # Row- and column-wise copies, kept over the step's micro-batches so that each weight is cast once.
        copied = counts.weights - wide_weights(held, plan)
        found["quantized weights"] = 2 * copied * PRECISIONS[plan.precision].operand_bytes
    if gathers_layers(plan) or under_pipeline:
        beside_loss = frees_logits_before_layers(plan)
        gathered = gathered_beside_loss_bytes(held[0], plan) if beside_loss else gathered_bytes(held, plan)
        found["gathered layers"] = gathered
    return {owner: plain(size) for owner, size in found.items()}


def unsharded_gradients(held: Sequence[StageParameters], plan: Plan) -> Number:
    """Most parameters of a rank whose whole gradients are added up at once.

    A stage's gradients are reduced after its last backward. An interleaved schedule works through the micro-batches in
    groups of pp and through its chunks in turn: with one group, a chunk's last backward comes before the next one's
    first (torch.distributed.pipelining, ScheduleInterleaved1F1B).
    """
    sizes = [sum(stage.trained) for stage in held]
    if not SCHEDULES[plan.schedule].interleaves:
        return sum(sizes)
    return np.where(np.asarray(plan.microbatches) <= plan.pp, largest(sizes), sum(sizes))


@dataclass(frozen=True, slots=True)
class ResidentCounts:
    """Parameters whose weights, gradients and optimizer states one rank holds on the GPU; `whole` are the trained ones
    of its stages, `sharded` its share of them."""

    whole: Number
    sharded: Number
    weights: Number
    gradients: Number
    states: Number


def resident_counts(held: Sequence[StageParameters], plan: Plan) -> ResidentCounts:
    """How many parameters of each kind stay on the GPU, given what is trained, what is sharded, what is offloaded."""
    whole: Number = sum(sum(stage.trained) for stage in held)
    sharded = sharded_trained(held, plan)
    sharding = SHARDINGS[plan.sharding]
    gradients = sharded if reduces_every_microbatch(plan) or accumulates_unsharded(plan) else whole
    states = sharded if sharding.shards_optimizer else whole
    return ResidentCounts(
        whole=whole,
        sharded=sharded,
        weights=resident_weights(held, plan),
        gradients=gradients * (1 - offloaded_gradient_fraction(plan)),
        states=states * (1 - plan.offload.optimizer_fraction),
    )


def resident_weights(held: Sequence[StageParameters], plan: Plan) -> Number:
    """Parameters that one rank holds as weights on the GPU.

    FSDP's shards are the fp32 master copy itself: 16-bit weights that are trained exist only while gathered.
    """
    if plan.offload.params != "gpu":
        return 0.0
    if not SHARDINGS[plan.sharding].shards_weights:
        return sum(stage.dense + stage.expert for stage in held)
    are_masters = plan.stack.sharding_engine in FSDP and shares_states(plan) and main_params_bytes(plan) > 0
    masters = sharded_trained(held, plan) if are_masters else 0.0
    return sharded_parameters(held, plan) - masters


def wide_weights(held: Sequence[StageParameters], plan: Plan) -> Number:
    """Of the weights that one rank holds on the GPU, those of linears that a plan below 16 bit leaves in 16 bit."""
    wide = [stage.wide for stage in held if stage.in_16_bit]
    return resident_weights(wide, plan) if wide else 0.0


def keeps_autograd_gradients(plan: Plan) -> bool:
    """Whether autograd's 16-bit gradients stay beside the fp32 ones that BF16_Optimizer adds them to."""
    widened = FORMATS[plan.optimizer.grads].full_width and not PRECISIONS[plan.precision].full_width
    return plan.stack.autograd_gradients == "kept" and widened


def sharded_parameters(held: Sequence[StageParameters], plan: Plan) -> Number:
    """A rank's share of the parameters of its stages, frozen ones too."""
    return over_replicas([(stage.dense, stage.expert) for stage in held], plan)


def sharded_trained(held: Sequence[StageParameters], plan: Plan) -> Number:
    """Parameters whose optimizer state one rank keeps."""
    return over_replicas([stage.trained for stage in held], plan)


def over_replicas(counts: Sequence[tuple[Number, Number]], plan: Plan) -> Number:
    """Dense and expert parameters, each divided by the ranks that share its optimizer state."""
    copies = replica_ranks(plan)
    dense: Number = sum(count for count, _ in counts)
    expert: Number = sum(count for _, count in counts)
    return dense / shard_count(plan, copies["dense"]) + expert / shard_count(plan, copies["expert"])


def caches_quantized_weights(plan: Plan) -> bool:
    """TransformerEngine keeps low-precision copies beside 16-bit weights unless the weights themselves are FP8."""
    casts_once = plan.stack.quantized_weights == "cached" and plan.microbatches > 1
    return casts_once and PRECISIONS[plan.precision].quantized and not plan.fp8_param_gather


def gathers_layers(plan: Plan) -> bool:
    """Whether layers are gathered while they are in use: from other ranks, or from where the plan offloads them."""
    elsewhere = shares_states(plan) or plan.offload.params != "gpu"
    return SHARDINGS[plan.sharding].shards_weights and elsewhere


def frees_logits_before_layers(plan: Plan) -> bool:
    """torchtitan without a pipeline: one stage with both ends, whose loss is over when the layers' backward begins."""
    return plan.stack.sharding_engine == "fsdp2" and plan.pp == 1 and SHARDINGS[plan.sharding].shards_weights


def largest(sizes: Sequence[Number]) -> Number:
    """The largest of several sizes, each of which may be an array."""
    return reduce(np.maximum, sizes)


def gathered_bytes(held: Sequence[StageParameters], plan: Plan) -> Number:
    """The largest layer gathered, the next one on its way, and its gradient before the reduction.

    Where modules are gathered one by one, the largest matrix of a decoder layer and its gradient, both as the forward
    reads it: 4 bytes for each of its parameters in 16 bit (DeepSpeed's estimate_zero3_model_states_mem_needs).
    """
    if plan.stack.gathered_unit == "module":
        return 2 * parameter_bytes(plan) * largest([stage.largest_matrix for stage in held])
    reduced = FORMATS[plan.optimizer.grad_reduce].bytes
    weights = [size for stage in held for size in layer_bytes(stage, plan)]
    trained = [sum(pair) for stage in held for pair in stage.trained_layers]
    return largest([2 * size + reduced * count for size, count in zip(weights, trained, strict=True)])


def layer_bytes(stage: StageParameters, plan: Plan) -> list[Number]:
    """Bytes of every layer's weights as forwards read them, ends included."""
    wide = stage.in_16_bit or ((0.0, 0.0),) * len(stage.layers)
    narrow, wider = parameter_bytes(plan), wider_bytes(plan)
    return [narrow * sum(pair) + wider * sum(left) for pair, left in zip(stage.layers, wide, strict=True)]


def gradient_bucket_bytes(held: Sequence[StageParameters], plan: Plan) -> Number:
    """What holds gradients before they are reduced to shards (ZeRO-2): the largest layer's, in the dtype of the
    reduction, or DeepSpeed's flat buffers in the dtype of the weights.

    DeepSpeed allocates these for a backward whole, whatever fills them, and a second one to fill while the first is
    reduced (backward of runtime/zero/stage_1_and_2.py: contiguous_gradients, overlap_comm).
    """
    if plan.stack.gradient_buckets == "allocated":
        buffers = 2 if plan.overlap.grad_reduce else 1
        return buffers * REDUCE_BUCKET_ELEMENTS * max(2.0, parameter_bytes(plan))
    layers = [sum(trained) for stage in held for trained in stage.trained_layers]
    return largest(layers) * FORMATS[plan.optimizer.grad_reduce].bytes


def gathered_beside_loss_bytes(stage: StageParameters, plan: Plan) -> Number:
    """What torchtitan's FSDP2 holds gathered when the loss is at its peak, without a pipeline.

    The group of the head stays gathered from forward to backward; all-gathers land in a pool of their own stream, as
    large as the largest group, from which every group is copied; the last layer is gathered. Embedding and head are
    read in 16 bit whatever the linears' precision (torchtitan parallelize_llama.py, PyTorch's fully_shard).
    """
    sizes = [dense + expert for dense, expert in stage.layers]
    element = max(2.0, parameter_bytes(plan))
    head = (sizes[0] + sizes[-1] if plan.stack.joint_ends else sizes[-1]) * element
    layer = largest(layer_bytes(stage, plan)[1:-1])
    return head + largest([head, sizes[0] * element, layer]) + layer


def reduction_bytes(stage: StageParameters, plan: Plan) -> Number:
    """The largest layer's gradient as it is reduced, and as autograd left it."""
    sizes = [dense + expert for dense, expert in stage.trained_layers[1:-1]]
    return largest(sizes) * (2.0 + FORMATS[plan.optimizer.grad_reduce].bytes)
