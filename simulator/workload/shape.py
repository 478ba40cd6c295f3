"""The shape of one micro-batch on one rank: what every operator's dimensions derive from."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hardware.precisions import PRECISIONS
from simulator.model.spec import Half, Model
from simulator.plans.spec import Plan
from simulator.workload.operators import Number


@dataclass(frozen=True, slots=True)
class Shape:
    """Tokens and degrees of one micro-batch.

    `tokens`: tokens of the micro-batch on one context-parallel rank; `sharded_tokens`: of these, what one
    tensor-parallel rank holds between the linears (all of them without sequence parallelism). `parallel_blocks`:
    the ffn reads what the mixer reads (see Model); `streams`: residual streams (see Model.hyper_connections). `rotary`:
    positions rotate queries and keys, as in models that have no table of them. `block_norms`, `layer_embedding`: see
    Model. `experts`: some layer has routed experts. `low`: the linears at hand compute in the plan's precision, not in
    16 bit.
    """

    hidden: int
    batch: Number
    seq: int
    tokens: Number
    sharded_tokens: Number
    plan: Plan
    causal: bool
    parallel_blocks: bool = False
    streams: int = 1
    rotary: bool = True
    block_norms: str = "single"
    layer_embedding: int = 0
    experts: bool = False
    low: bool = True

    def of_half(self, half: Half) -> Shape:
        """The shape as a half of a layer sees it."""
        return replace(self, low=False) if half.in_16_bit else self

    def of_part(self, part: str) -> Shape:
        """The shape as a part of `Quantized` sees it."""
        low = self.low and getattr(self.plan.quantized, part)
        return self if low == self.low else replace(self, low=low)

    @property
    def element_bytes(self) -> float:
        return PRECISIONS[self.plan.precision].output_bytes

    @property
    def input_bytes(self) -> float:
        """Bytes per element of a linear's saved input."""
        if not self.low:
            return self.element_bytes
        return PRECISIONS[self.plan.precision].operand_bytes

    @property
    def activation_bytes(self) -> float:
        """Bytes per element of a saved activation-function input (activation_func_fp8_input_store: FP8)."""
        return 1.0 if self.plan.activation_fp8_input_store else self.element_bytes

    @property
    def kept_input_tokens(self) -> Number:
        """Tokens of a column-parallel linear's input that wait for its weight gradient.

        Megatron keeps its shard and gathers again (arXiv 2205.05198); DTensor's linears keep what was gathered, which
        is the operand of their product (torch.distributed.tensor.parallel.ColwiseParallel).
        """
        return self.tokens if self.plan.stack.column_inputs == "gathered" else self.sharded_tokens

    @property
    def quantized(self) -> bool:
        """Whether the linears at hand compute in fewer than 16 bit."""
        return self.low and PRECISIONS[self.plan.precision].quantized


def shape_of(model: Model, plan: Plan, seq_length: int) -> Shape:
    tokens = plan.micro_batch_size * seq_length / plan.cp
    return Shape(
        hidden=model.hidden,
        batch=plan.micro_batch_size,
        seq=seq_length,
        tokens=tokens,
        sharded_tokens=tokens / plan.tp if plan.sequence_parallel else tokens,
        plan=plan,
        causal=model.causal,
        parallel_blocks=model.parallel_blocks,
        streams=model.hyper_connections,
        rotary=model.positions == 0,
        block_norms=model.block_norms,
        layer_embedding=model.layer_embedding,
        experts=model.has_experts,
    )


def padded_vocab(vocab: int, plan: Plan) -> int:
    """Vocabulary rows after Megatron's padding to a multiple of `vocab_divisible_by` x tp; of software that pads
    nothing the whole rows that its tensor ranks hold."""
    if plan.stack.vocabulary == "as_is":
        return vocab // plan.tp * plan.tp
    multiple = plan.vocab_divisible_by * plan.tp
    return -(-vocab // multiple) * multiple
