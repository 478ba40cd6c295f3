"""The two ends of the model on one rank: embedding, multi-token-prediction glue, head and loss."""

from __future__ import annotations

import numpy as np

from simulator.model.spec import Model
from simulator.stack import losses
from simulator.stack.losses import loss_of
from simulator.workload.linears import casts, column_input, norm, row_output
from simulator.workload.operators import Exchange, Matmul, Modules, Number, Operator, Pass, Tensor, Work
from simulator.workload.shape import Shape, padded_vocab
from simulator.workload.states import accumulation_bytes


def embedding_work(model: Model, shape: Shape) -> Work:
    """Vocabulary-parallel lookup; backward adds fp32 gradients row by row, so no matrix product.

    The gradient is a table as large as the embedding: zeroed, filled, and added to the main gradient of stacks that
    keep one, by a kernel of its own even where weight gradients' products accumulate by themselves.
    """
    element, h, plan = shape.element_bytes, shape.hidden, shape.plan
    table = padded_vocab(model.vocab, plan) / plan.tp * h
    added: Number = 0.0
    if plan.stack.embedding_gradient == "added":
        own = plan.stack.gradient_accumulation
        added = table * (element + accumulation_bytes(plan, "hook" if own == "fused" else own))
    backward = (element + 8.0) * h * shape.tokens + added
    looked_up = Pass("embedding", "copy", 2 * element * h * shape.tokens, backward, 2, 4)
    masked = plan.stack.dropout
    saved = (Tensor("embedding_dropout_mask", 1.0 * h * shape.sharded_tokens),) if masked else ()
    return Work((looked_up, row_output("embedding_output", h, shape)), saved)


# What a loss in chunks computes again in backward, as recomputation chooses operators.
CHUNKED: Modules = ("chunked_loss",)


def loss_pass(logits: Number, shape: Shape) -> Pass:
    """Vocabulary-parallel cross-entropy as passes over the logits (`logits`: their number on one rank)."""
    chunks = shape.plan.loss.chunks
    loss = loss_of(shape.plan.stack, shape.experts)
    return Pass(
        "cross_entropy",
        loss.kind,
        forward_bytes=logits * loss.forward_bytes,
        backward_bytes=logits * loss.backward_bytes,
        forward_kernels=loss.forward_kernels * chunks,
        backward_kernels=loss.backward_kernels * chunks,
        modules=CHUNKED,
    )


def head_work(model: Model, shape: Shape) -> Work:
    """Final norm, output projection over the padded vocabulary, vocabulary-parallel cross-entropy.

    The projection is in 16 bit unless the plan quantises the head. A loss in chunks multiplies as often, and keeps no
    logits.
    """
    element, h, plan = shape.element_bytes, shape.hidden, shape.plan
    linear = shape.of_part("head")
    columns = padded_vocab(model.vocab, plan) / plan.tp
    logits = shape.tokens * columns
    chunks, low = plan.loss.chunks, linear.quantized
    head = Matmul("head", shape.tokens / chunks, columns, h, chunks, quantized=low, modules=CHUNKED, column=True)
    operators: tuple[Operator, ...] = (
        norm("final_norm", h, shape.sharded_tokens, shape),
        column_input("head_input", h, linear if low else shape),
        *casts(head, linear, role="column"),
        head,
        # Maximum, predicted logit and sum of exponentials, one fp32 value per token each.
        Exchange("loss_reduction", "tp", "all_reduce", None, forward_bytes=3 * 4.0 * shape.tokens, modules=CHUNKED),
        loss_pass(logits, shape),
    )
    saved = [
        Tensor("final_norm_input", element * h * shape.sharded_tokens),
        Tensor("head_input", (linear.input_bytes if low else element) * h * shape.sharded_tokens, until_wgrad=True),
    ]
    if chunks == 1:
        saved.append(Tensor("logits", logit_bytes(shape)[0] * logits))
    return Work(operators, tuple(saved))


def head_working_bytes(model: Model, shape: Shape) -> Number:
    """What the head's backward allocates for a moment beside its saved tensors.

    The gradient of the logits, the gathered input with its gradient, and the placeholder gradient of the weight that
    Megatron-Core's fused accumulation returns. Where the loss frees its tensors before the projection's backward, that
    holds one gradient of the logits; with tensor parallelism the gathered input stays through both. A loss in chunks
    holds logits and gradients of one chunk.
    """
    if shape.plan.loss.chunks > 1:
        return chunked_head_bytes(model, shape)
    columns = padded_vocab(model.vocab, shape.plan) / shape.plan.tp
    if shape.plan.stack.head_backward == "after_loss":
        gathered = shape.element_bytes * shape.tokens * shape.hidden * (1.0 if shape.plan.tp > 1 else 0.0)
        of_loss, of_kept = logit_bytes(shape)[1], logit_bytes(shape)[0]
        projection = (shape.element_bytes - of_kept) * shape.tokens * columns
        projection += shape.element_bytes * (shape.tokens + trained_columns(columns, shape)) * shape.hidden
        return gathered + np.maximum(of_loss * shape.tokens * columns, projection)
    return (
        logit_bytes(shape)[1] * shape.tokens * columns
        + shape.element_bytes * (2 * shape.tokens + trained_columns(columns, shape)) * shape.hidden
    )


def trained_columns(columns: Number, shape: Shape) -> Number:
    """Columns of the head whose weights have gradients: none beside adapters."""
    return columns if shape.plan.adapters is None else 0.0


def chunked_head_bytes(model: Model, shape: Shape) -> Number:
    """Logits of one chunk with their gradient, beside the gathered input, its gradient and the weight's."""
    plan = shape.plan
    columns = padded_vocab(model.vocab, plan) / plan.tp
    chunk_logits = shape.tokens / plan.loss.chunks * columns
    around = shape.element_bytes * (2 * shape.tokens + trained_columns(columns, shape)) * shape.hidden
    return sum(logit_bytes(shape)) * chunk_logits + around


def logit_bytes(shape: Shape) -> tuple[float, float]:
    """Bytes per logit that the loss keeps for backward, and that its backward allocates beside them."""
    return losses.logit_bytes(shape.plan.stack, shape.element_bytes, split=shape.plan.tp > 1, experts=shape.experts)


def mtp_glue_work(model: Model, shape: Shape) -> Work:
    """Joins hidden state and next token's embedding: two norms, concatenation, a 2h x h projection."""
    shape = shape.of_part("mtp")
    element, h = shape.element_bytes, shape.hidden
    rows = shape.sharded_tokens
    return Work(
        (
            *embedding_work(model, shape).operators,
            norm("mtp_embedding_norm", h, rows, shape),
            norm("mtp_hidden_norm", h, rows, shape),
            column_input("mtp_input", 2 * h, shape),
            Matmul("mtp_projection", shape.tokens, h / shape.plan.tp, 2 * h, quantized=shape.quantized, column=True),
        ),
        (
            Tensor("mtp_norm_inputs", 2 * element * h * rows),
            Tensor("mtp_projection_input", shape.input_bytes * 2 * h * rows, until_wgrad=True),
        ),
    )
