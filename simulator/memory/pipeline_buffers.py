"""What pipeline engines hold all step long to send and receive activations."""

from __future__ import annotations

from collections.abc import Sequence

from simulator.model.spec import Model
from simulator.workload.operators import Number
from simulator.workload.shape import Shape, padded_vocab


def pipeline_buffer_bytes(model: Model, shape: Shape, held: Sequence[int], in_flight: Sequence[int]) -> Number:
    """What torch.distributed.pipelining holds all step long on a rank with the virtual stages `held`.

    Of every micro-batch, each stage has a buffer for its input and one for its output's gradient, allocated once, and
    keeps its output; the first stage receives no input, the last no gradient, and its output is the logits. Inputs of
    micro-batches in flight count as the activations that they become.
    """
    plan, last = shape.plan, shape.plan.pp * shape.plan.vpp - 1
    hidden = shape.sharded_tokens * shape.hidden
    whole_logits = shape.tokens * padded_vocab(model.vocab, plan) / plan.tp
    last_output = whole_logits if plan.loss.chunks == 1 else hidden
    elements: Number = 0.0
    for chunk, stage in enumerate(held):
        elements += plan.microbatches * (last_output if stage == last else 2 * hidden)
        elements += (plan.microbatches - in_flight[chunk]) * hidden if stage else 0.0
    return elements * shape.element_bytes


def engine_buffer_bytes(model: Model, shape: Shape, held: Sequence[int], in_flight: Sequence[int]) -> Number:
    """What DeepSpeed's pipeline engine holds on a rank (runtime/pipe/engine.py).

    It sends 1/tp of a stage's output and keeps that share of every micro-batch in flight, and receives inputs and
    gradients in like shares; a backward restores the whole output and gradient.
    """
    hidden = shape.element_bytes * shape.tokens * shape.hidden
    shares = in_flight[0] + 2
    return hidden * (shares / shape.plan.tp + 2)


PIPELINE_BUFFERS = {"torch": pipeline_buffer_bytes, "deepspeed": engine_buffer_bytes}
