"""The cross-entropies of software stacks: passes over the logits, and bytes that wait for backward."""

from __future__ import annotations

from dataclasses import dataclass

from simulator.stack.spec import Stack


@dataclass(frozen=True, slots=True)
class Loss:
    """A vocabulary-parallel cross-entropy, per logit.

    `kind` is the streaming curve that its passes follow, `forward_bytes` and `backward_bytes` what they move, in
    `forward_kernels` and `backward_kernels`. Kept for backward are `kept_bytes` (None: one 16-bit copy, or whatever an
    activation takes). Backward allocates `gradient_bytes` beside them, on top of one activation's element, and
    `split_gradient_bytes` more where the vocabulary is split over tensor ranks.
    """

    kind: str
    forward_bytes: float
    backward_bytes: float
    forward_kernels: int
    backward_kernels: int
    kept_bytes: float | None
    gradient_bytes: float
    split_gradient_bytes: float = 0.0


# Transformer Engine reads 16-bit logits for maximum and sum, once more to write the gradient in place, and scales that
# in backward (transformer_engine/common/triton/cross_entropy.py): few bytes at a low rate, so 8 and 8 bytes as SimuMax
# counts them, to which the measured fractions of bandwidth refer.
FUSED = Loss("softmax_cross_entropy", 8.0, 8.0, 2, 1, None, 0.0)
# Megatron-Core's own streams fp32: logits with their maximum (6 bytes), exponentials with their sum and their copy back
# (16), normalisation (8), and in backward scaling (8) and cast (6) (megatron/core/fusions/fused_cross_entropy.py,
# compiled by parts).
STREAMED = Loss("elementwise", 30.0, 14.0, 4, 2, 4.0, 0.0)
# Casts to fp32 and reductions in kernels of their own; the fp32 copy has an fp32 gradient beside the 16-bit logits.
EAGER = Loss("softmax_cross_entropy", 26.0, 14.0, 9, 4, 4.0, 4.0)
# torchtitan's eager loss keeps the fp32 log-softmax; backward adds the gradient before and after log-softmax, four such
# tensors under loss parallelism, which writes (gradient + exp(x)) * scale without fusing
# (torch.distributed.tensor.parallel.loss). The block that the 16-bit logits left is too small for any of them and stays
# reserved.
LOG_SOFTMAX = Loss("softmax_cross_entropy", 26.0, 14.0, 9, 4, 4.0, 8.0, 4.0)
OWN = {"eager": EAGER, "streamed": STREAMED, "log_softmax": LOG_SOFTMAX}


def loss_of(stack: Stack, experts: bool = False) -> Loss:
    """The cross-entropy that a stack runs; a fused or compiled one needs fused kernels, or a loss compiled alone.

    `experts`: the model has routed experts.
    """
    alone = experts and stack.fused_loss_alone == "with_experts"
    if stack.fused_loss and (stack.fused_kernels or alone):
        return FUSED
    own = OWN[stack.own_loss]
    return EAGER if own is STREAMED and not stack.fused_kernels else own


def logit_bytes(stack: Stack, element_bytes: float, split: bool, experts: bool = False) -> tuple[float, float]:
    """Bytes per logit that the loss keeps for backward, and that its backward allocates beside them.

    `element_bytes` of an activation; `split`: the vocabulary is split over tensor ranks; `experts`: see `loss_of`.
    """
    loss = loss_of(stack, experts)
    kept = element_bytes if loss.kept_bytes is None else loss.kept_bytes
    more = loss.split_gradient_bytes if split else 0.0
    return kept, element_bytes + loss.gradient_bytes + more
