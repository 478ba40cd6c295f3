"""Peak memory of every pipeline rank by owner: what the allocator holds, and what the device shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Protocol

import numpy as np

from hardware.collectives import DISPATCHERS
from hardware.precisions import FORMATS, PRECISIONS
from simulator.memory.activations import Kept, stage_kept
from simulator.model.spec import Model
from simulator.plan.choices import SHARDINGS
from simulator.plan.layout import stages_of_ranks
from simulator.plan.spec import Plan
from simulator.workload.derive import Workload
from simulator.workload.operators import Number
from simulator.workload.shape import Shape, padded_vocab
from simulator.workload.states import (
    StageParameters,
    accumulates_unsharded,
    factor_bytes,
    optimizer_bytes,
    parameter_bytes,
    reduces_every_microbatch,
    replica_ranks,
    shard_count,
    shares_states,
)

GIB = 2**30
# Outside the allocator: CUDA context with cuBLAS and cuDNN handles, from memory 0.5-1.2 GiB; NCCL
# buffers per communicator, 544-688 MB on one node of A100 (NVIDIA/nccl#964); a dispatcher's own.
COMMUNICATOR_BYTES = 0.5 * GIB
# "eager": the context of an A100 before CUDA loaded kernels lazily (11.7, 2022), 1573 MiB by nvidia-smi (BigScience,
# chronicles-prequel.md).
CONTEXT_BYTES = {"lazy": 0.8 * GIB, "eager": 1573 * 2**20}
# Communicators of DeepSpeed's pipeline engine beside those of the degrees: the world's, its own tensor-parallel slices,
# the whole replica's for norms and overflows, and the tied embeddings' (runtime/pipe/topology.py, Megatron's mpu).
PIPELINE_ENGINE_COMMUNICATORS = 4
# Reserved but not allocated, with expandable segments (torchtitan reports max reserved).
FRAGMENTATION_FRACTION = 0.03
# Of what comes and goes, blocks of wrong size that the allocator without expandable segments cannot use again, from
# BigScience's rows of one to eight sequences a micro-batch; states are allocated once and whole.
FIXED_SEGMENTS_FRACTION = 0.12
COMES_AND_GOES = ("activations", "working", "pipeline buffers")
# Elements that ZeRO-1 reduces at a time (reduce_bucket_size of DeepSpeed's configuration, which nobody sets).
REDUCE_BUCKET_ELEMENTS = 5e8


FSDP = ("fsdp", "fsdp2")  # engines whose shards are the fp32 master copy itself


class ScheduleSlot(Protocol):
    """What the memory walk needs of a schedule's slot."""

    @property
    def kind(self) -> str: ...
    @property
    def chunk(self) -> int: ...
    @property
    def backward_chunk(self) -> int: ...


@dataclass(frozen=True, slots=True)
class RankMemory:
    """One pipeline rank at its peak: `owners` add up to `allocated_bytes`; `device_bytes` adds what lies outside
    the allocator (`outside`)."""

    rank: int
    stages: tuple[int, ...]
    owners: dict[str, float]
    outside: dict[str, float]

    @property
    def allocated_bytes(self) -> float:
        return sum(self.owners.values())

    @property
    def device_bytes(self) -> float:
        return self.allocated_bytes + sum(self.outside.values())


def memory_report(workload: Workload, ranks: Sequence[Sequence[ScheduleSlot]]) -> tuple[RankMemory, ...]:
    """Memory of every pipeline rank, given the slots it works through (`ranks`, one sequence per rank)."""
    plan, model, shape, parameters = workload.plan, workload.model, workload.shape, workload.parameters
    kept = kept_until_reduced(workload)
    result = []
    for rank, (held, slots) in enumerate(zip(stages_of_ranks(plan), ranks, strict=True)):
        owners = state_bytes([parameters[stage] for stage in dict.fromkeys(held)], plan)
        activations, working = peak_activations(slots, [kept[stage] for stage in held])
        owners |= {"activations": activations, "working": working}
        if plan.stack.pipeline_engine in PIPELINE_BUFFERS and plan.pp > 1:
            owners["pipeline buffers"] = PIPELINE_BUFFERS[plan.stack.pipeline_engine](model, shape, held, slots)
        outside = outside_bytes(plan, owners)
        if plan.stack.optimizer_step == "flat_copies":
            outside["optimizer step"] = optimizer_step_bytes([parameters[stage] for stage in held], plan)
        result.append(RankMemory(rank, tuple(held), owners, outside))
    return tuple(result)


def kept_until_reduced(workload: Workload) -> tuple[Kept, ...]:
    """What one micro-batch leaves on every stage, a backward's gradients on their way to the reduction included."""
    kept = stage_kept(workload)
    if not (frees_logits_before_layers(workload.plan) and shares_states(workload.plan)):
        return kept
    reducing = [reduction_bytes(params, workload.plan) for params in workload.parameters]
    return tuple(replace(k, working=max(k.working, size)) for k, size in zip(kept, reducing, strict=True))


def state_bytes(held: Sequence[StageParameters], plan: Plan) -> dict[str, float]:
    """Weights, gradients and optimizer state of one rank (Megatron-Core's dist_optimizer.md)."""
    whole: Number = sum(stage.dense + stage.expert for stage in held)
    sharded = sharded_parameters(held, plan)
    sharding = SHARDINGS[plan.sharding]
    weights = sharded if sharding.shards_weights else whole
    under_pipeline = accumulates_unsharded(plan)
    grads = sharded if reduces_every_microbatch(plan) or under_pipeline else whole
    states = sharded if sharding.shards_optimizer else whole
    shared = shares_states(plan)
    if sharding.shards_weights and plan.stack.sharding_engine in FSDP and shared:
        weights = 0.0  # The shards are the fp32 master copy itself; 16-bit weights exist only while gathered.
    factors: Number = sum(factor_bytes(stage, plan) for stage in held)
    kept_on_gpu = 1 - plan.offload.optimizer_fraction
    found = {
        "weights": weights * parameter_bytes(plan),
        "gradients": grads * FORMATS[plan.optimizer.grads].bytes,
        "optimizer": (states * optimizer_bytes(plan.optimizer) + factors) * kept_on_gpu,
    }
    widened = FORMATS[plan.optimizer.grads].full_width and not PRECISIONS[plan.precision].full_width
    if plan.stack.autograd_gradients == "kept" and widened:
        # Autograd leaves 16-bit gradients, which BF16_Optimizer adds to its fp32 ones.
        found["16-bit gradients"] = grads * 2.0
    if under_pipeline:
        # FSDP2 under a pipeline adds whole gradients up, in the dtype of the reduction, until the last micro-batch.
        found["unsharded gradients"] = whole * FORMATS[plan.optimizer.grad_reduce].bytes
    if caches_quantized_weights(plan):
        # Row- and column-wise copies, kept over the step's micro-batches so that each weight is cast once.
        found["quantized weights"] = 2 * weights * PRECISIONS[plan.precision].operand_bytes
    if (sharding.shards_weights and shared) or under_pipeline:
        beside_loss = frees_logits_before_layers(plan)
        gathered = gathered_beside_loss_bytes(held[0], plan) if beside_loss else gathered_bytes(held, plan)
        found["gathered layers"] = gathered
    return {owner: float(size) for owner, size in found.items()}


def gathered_bytes(held: Sequence[StageParameters], plan: Plan) -> float:
    """The largest layer gathered, the next one on its way, and its gradient before the reduction."""
    largest = max(float(dense + expert) for stage in held for dense, expert in stage.layers)
    return largest * (2 * parameter_bytes(plan) + FORMATS[plan.optimizer.grad_reduce].bytes)


def gathered_beside_loss_bytes(stage: StageParameters, plan: Plan) -> float:
    """What torchtitan's FSDP2 holds gathered when the loss is at its peak, without a pipeline.

    The group of the head stays gathered from forward to backward; all-gathers land in a pool of their own stream, as
    large as the largest group, from which every group is copied; the last layer is gathered. Embedding and head are
    read in 16 bit whatever the linears' precision (torchtitan parallelize_llama.py, PyTorch's fully_shard).
    """
    sizes = [float(dense + expert) for dense, expert in stage.layers]
    element = max(2.0, parameter_bytes(plan))
    head = (sizes[0] + sizes[-1] if plan.stack.joint_ends else sizes[-1]) * element
    layer = max(sizes[1:-1]) * parameter_bytes(plan)
    return head + max(head, sizes[0] * element, layer) + layer


def reduction_bytes(stage: StageParameters, plan: Plan) -> float:
    """The largest layer's gradient as it is reduced, and as autograd left it."""
    sizes = [float(dense + expert) for dense, expert in stage.layers[1:-1]]
    return max(sizes) * (2.0 + FORMATS[plan.optimizer.grad_reduce].bytes)


def frees_logits_before_layers(plan: Plan) -> bool:
    """torchtitan without a pipeline: one stage with both ends, whose loss is over when the layers' backward begins."""
    return plan.stack.sharding_engine == "fsdp2" and plan.pp == 1 and SHARDINGS[plan.sharding].shards_weights


def pipeline_buffer_bytes(model: Model, shape: Shape, held: Sequence[int], slots: Sequence[ScheduleSlot]) -> float:
    """What torch.distributed.pipelining holds all step long on a rank with the virtual stages `held`.

    Of every micro-batch, each stage has a buffer for its input and one for its output's gradient, allocated once, and
    keeps its output; the first stage receives no input, the last no gradient, and its output is the logits. Inputs of
    micro-batches in flight count as the activations that they become.
    """
    plan, last = shape.plan, shape.plan.pp * shape.plan.vpp - 1
    hidden = shape.sharded_tokens * shape.hidden
    logits = shape.tokens * padded_vocab(model.vocab, plan) / plan.tp
    elements: Number = 0.0
    for chunk, stage in enumerate(held):
        elements += plan.microbatches * (logits if stage == last else 2 * hidden)
        elements += (plan.microbatches - most_in_flight(slots, chunk)) * hidden if stage else 0.0
    return float(elements * shape.element_bytes)


def engine_buffer_bytes(model: Model, shape: Shape, held: Sequence[int], slots: Sequence[ScheduleSlot]) -> float:
    """What DeepSpeed's pipeline engine holds on a rank (runtime/pipe/engine.py).

    It sends 1/tp of a stage's output and keeps that share of every micro-batch in flight, and receives inputs and
    gradients in like shares; a backward restores the whole output and gradient.
    """
    hidden = shape.element_bytes * shape.tokens * shape.hidden
    shares = most_in_flight(slots, 0) + 2
    return float(hidden * (shares / shape.plan.tp + 2))


PIPELINE_BUFFERS = {"torch": pipeline_buffer_bytes, "deepspeed": engine_buffer_bytes}


def optimizer_step_bytes(held: Sequence[StageParameters], plan: Plan) -> float:
    """What DeepSpeed's optimizer step reserves when no activation lives, in blocks larger than any activation's.

    With 16-bit gradients (runtime/zero/stage_1_and_2.py): a bucket to reduce, and the shard's gradients put together in
    16 bit and cast to fp32. BF16_Optimizer gathers all parameters in one flat tensor before they are copied home
    (all_gather over a list of tensors).
    """
    whole = float(sum(stage.dense + stage.expert for stage in held))
    if not SHARDINGS[plan.sharding].gathers_once:
        return 0.0
    if FORMATS[plan.optimizer.grads].full_width:
        return whole * parameter_bytes(plan)
    element = FORMATS[plan.optimizer.grads].bytes
    return REDUCE_BUCKET_ELEMENTS * element + float(sharded_parameters(held, plan)) * (element + 4.0)


def sharded_parameters(held: Sequence[StageParameters], plan: Plan) -> Number:
    """Parameters whose optimizer state one rank keeps."""
    copies = replica_ranks(plan)
    dense: Number = sum(stage.dense for stage in held)
    expert: Number = sum(stage.expert for stage in held)
    return dense / shard_count(plan, copies["dense"]) + expert / shard_count(plan, copies["expert"])


def most_in_flight(slots: Sequence[ScheduleSlot], chunk: int) -> int:
    """Most micro-batches of a chunk between forward and backward at once."""
    live = most = 0
    for slot in slots:
        live += slot.kind in ("F", "FB") and slot.chunk == chunk
        most = max(most, live)
        live -= slot.kind in ("B", "I", "FB") and (slot.backward_chunk if slot.kind == "FB" else slot.chunk) == chunk
    return most


def caches_quantized_weights(plan: Plan) -> bool:
    """TransformerEngine keeps low-precision copies beside 16-bit weights unless the weights themselves are FP8."""
    casts_once = plan.stack.quantized_weights == "cached" and plan.microbatches > 1
    return casts_once and PRECISIONS[plan.precision].quantized and not plan.fp8_param_gather


def peak_activations(slots: Sequence[ScheduleSlot], kept: Sequence[Kept]) -> tuple[float, float]:
    """Walk a rank's slots to the moment it holds most: bytes of live micro-batches, and of the backward's working set.

    A forward adds its chunk's tensors; a full backward or input gradient frees them when it is done, except the
    inputs of linears, which wait for their weight gradient. `kept` is by chunk.
    """

    @cache
    def rise(chunk: int, backward_chunk: int) -> float:
        return pair_rise(kept[chunk], kept[backward_chunk])

    live: Number = 0.0
    peak: Number = 0.0
    working = 0.0
    for slot in slots:
        back = kept[slot.backward_chunk if slot.kind == "FB" else slot.chunk]
        beside = 0.0
        held: Number = live
        if slot.kind in ("F", "FB"):
            held += rise(slot.chunk, slot.backward_chunk) if slot.kind == "FB" else kept[slot.chunk].until_backward
            live += kept[slot.chunk].until_backward
        if slot.kind in ("B", "I", "FB"):
            beside = float(back.working)
            live -= back.until_backward - (back.until_wgrad if slot.kind == "I" else 0.0)
        if slot.kind == "W":
            live -= back.until_wgrad
        if held + beside > peak + working:
            peak, working = held, beside
    return float(peak), working


def pair_rise(ahead: Kept, back: Kept) -> float:
    """Most that an overlapped pair holds beyond what it began with: its halves work layer by layer at an even pace,
    so that a forward's layer fills after the backward's layers before it were freed."""
    fills, frees = max(1, ahead.layers), max(1, back.layers)
    return max(
        (step + 1) / fills * float(ahead.until_backward) - step * frees // fills / frees * float(back.until_backward)
        for step in range(fills)
    )


def outside_bytes(plan: Plan, owners: Mapping[str, float]) -> dict[str, float]:
    """What the device shows beyond the allocator's peak."""
    sizes = (plan.tp, plan.cp, plan.dp * plan.cp, plan.pp, plan.ep * plan.etp, plan.expert_dp)
    communicators = sum(1 for size in sizes if np.any(np.asarray(size) > 1))
    if plan.stack.pipeline_engine == "deepspeed" and plan.pp > 1:
        communicators += PIPELINE_ENGINE_COMMUNICATORS
    fragmentation = FRAGMENTATION_FRACTION * sum(owners.values())
    if not plan.stack.expandable_segments:
        fragmentation = FIXED_SEGMENTS_FRACTION * sum(owners.get(owner, 0.0) for owner in COMES_AND_GOES)
    found = {
        "context": CONTEXT_BYTES[plan.stack.cuda_context],
        "communicators": communicators * COMMUNICATOR_BYTES,
        "fragmentation": fragmentation,
    }
    buffer_bytes = DISPATCHERS[plan.dispatcher].buffer_bytes
    if buffer_bytes and plan.ep > 1:
        found["expert buffers"] = buffer_bytes
    return found
