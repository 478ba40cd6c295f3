"""What the device shows beyond the allocator's peak: context, communicators, fragmentation, the optimizer's step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from hardware.collectives import DISPATCHERS
from hardware.precisions import FORMATS
from simulator.memory.states import REDUCE_BUCKET_ELEMENTS, sharded_trained
from simulator.plans.choices import SHARDINGS
from simulator.plans.spec import Plan
from simulator.stack import Stack
from simulator.workload.operators import Number
from simulator.workload.states import StageParameters, parameter_bytes

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


def outside_bytes(plan: Plan, owners: Mapping[str, Number]) -> dict[str, Number]:
    """What the device shows beyond the allocator's peak."""
    sizes = (plan.tp, plan.cp, plan.dp * plan.cp, plan.pp, plan.ep * plan.etp, plan.expert_dp)
    communicators = sum(1 for size in sizes if np.any(np.asarray(size) > 1))
    if plan.stack.pipeline_engine == "deepspeed" and plan.pp > 1:
        communicators += PIPELINE_ENGINE_COMMUNICATORS
    found: dict[str, Number] = {
        "context": CONTEXT_BYTES[plan.stack.cuda_context],
        "communicators": communicators * COMMUNICATOR_BYTES,
        "fragmentation": fragmentation_bytes(plan.stack, owners),
    }
    buffer_bytes = DISPATCHERS[plan.dispatcher].buffer_bytes
    if buffer_bytes and plan.ep > 1:
        found["expert buffers"] = buffer_bytes
    return found


def fragmentation_bytes(stack: Stack, owners: Mapping[str, Number]) -> Number:
    """What the allocator reserves beyond what its `owners` hold."""
    growing: Number = FRAGMENTATION_FRACTION * sum(owners.values())
    if stack.expandable_segments:
        return growing
    # Blocks of fixed size waste what those that grow do, and more where much comes and goes.
    comes_and_goes = sum(owners.get(owner, 0.0) for owner in COMES_AND_GOES)
    return np.maximum(growing, FIXED_SEGMENTS_FRACTION * comes_and_goes)


def optimizer_step_bytes(held: Sequence[StageParameters], plan: Plan) -> Number:
    """What DeepSpeed's optimizer step reserves when no activation lives, in blocks larger than any activation's.

    With 16-bit gradients (runtime/zero/stage_1_and_2.py): ZeRO-1's bucket to reduce (ZeRO-2's lies beside activations:
    `gradient_bucket_bytes`), and the shard's gradients put together in 16 bit and cast to fp32. BF16_Optimizer gathers
    all parameters in one flat tensor before they are copied home (all_gather over a list of tensors).
    """
    whole: Number = sum(sum(stage.trained) for stage in held)
    if not SHARDINGS[plan.sharding].gathers_once:
        return 0.0
    if FORMATS[plan.optimizer.grads].full_width:
        return whole * parameter_bytes(plan)
    element = FORMATS[plan.optimizer.grads].bytes
    bucket = 0.0 if SHARDINGS[plan.sharding].shards_gradients else REDUCE_BUCKET_ELEMENTS * element
    return bucket + sharded_trained(held, plan) * (element + 4.0)
