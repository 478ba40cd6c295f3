"""How a training job is laid out: parallel degrees, batch, schedule, precision, recompute, overlap."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import MISSING, dataclass, field
from typing import Any, Literal

import numpy as np

from hardware import precisions
from hardware.arrays import Number, plain
from hardware.collectives import DISPATCHERS
from hardware.collectives.compression import COMPRESSIONS
from hardware.collectives.reductions import REDUCTIONS
from hardware.precisions import KEPT_FORMATS
from simulator import schedules
from simulator.fields import CHOICES, METADATA, Form, Setting, setting
from simulator.optimizers import OPTIMIZERS
from simulator.plans.balancing import kinds, read_imbalance
from simulator.plans.choices import CONTEXT_EXCHANGES, GRANULARITIES, SHARDINGS
from simulator.plans.quantized import ALL_LINEARS, Quantized
from simulator.stack import Stack, default_stack

# Instead of a layout string: the split is computed from what layers, embedding, MTP and head cost and hold.
AUTO = "auto"


LEAST_BUCKET_BYTES = 2**18  # of smaller ones a step would have too many to play


def choice(words: Iterable[str], default: str | None, description: str = "") -> Any:
    """A field that holds one of a table's words; files that give another are told these."""
    about = {METADATA: Setting(description)} if description else {}
    return field(default=default, metadata={CHOICES: tuple(words), **about})


@dataclass(frozen=True, slots=True)
class Optimizer:
    """The optimizer and the number formats it keeps; `main_params` None: no master copy beside the weights."""

    kind: str = choice(OPTIMIZERS, "adamw", "What updates the weights.")
    main_params: str | None = choice(KEPT_FORMATS, "fp32", "Format of the master copy; null: none beside the weights.")
    moments: str = choice(KEPT_FORMATS, "fp32", "Format of the moments.")
    grads: str = choice(KEPT_FORMATS, "fp32", "Format in which gradients are added up.")
    grad_reduce: str = choice(KEPT_FORMATS, "fp32", "Format in which gradients travel between replicas.")


@dataclass(frozen=True, slots=True)
class Recompute:
    """What is thrown away after forward and computed again before backward.

    `granularity` "full" recomputes whole layers: all (`method` "uniform") or the first `layers` of each stage
    ("block"). "selective" recomputes the named Megatron modules (core_attn, mlp, moe, moe_act, layernorm,
    mla_up_proj, shared_experts).
    """

    granularity: str = choice(
        GRANULARITIES, "none", "What is computed again in backward: nothing, named modules, or whole layers."
    )
    method: Literal["uniform", "block"] = setting(
        "uniform", Setting("Whole layers: all of them, or the first of each stage.")
    )
    layers: int = setting(1, Setting("Layers recomputed at a time (uniform), or of each stage (block)."))
    modules: tuple[str, ...] = setting(
        (), Setting("Megatron's modules that are recomputed selectively, as core_attn or moe_act.")
    )

    @property
    def whole_layers(self) -> bool:
        return GRANULARITIES[self.granularity].whole_layers

    @property
    def named_modules(self) -> bool:
        return GRANULARITIES[self.granularity].named_modules

    @property
    def chosen_modules(self) -> tuple[str, ...]:
        """The modules that are recomputed where not all of the layer is."""
        return self.modules if self.named_modules else ()


@dataclass(frozen=True, slots=True)
class Offload:
    """What leaves the GPU for host memory or local drives.

    Activations as Megatron's fine-grained offloading moves them (core_attn, attn_proj, qkv_linear, attn_norm, mlp_norm,
    expert_fc1, moe_act, fused_group_mlp), the inputs of fully recomputed layers (layer_input) as checkpoints of TRL,
    FSDP and torchtitan do, or all that a layer keeps (whole_layer) as Transformer Engine's offloading of layers does:
    of 20 of 80 layers, a fraction of 25 %. Optimizer states with or without gradients, and sharded parameters, as
    DeepSpeed's ZeRO and FSDP's CPUOffloadPolicy move them. `gradient_fraction` None: what the stack moves with the
    optimizer.
    """

    activation_fraction: float = setting(
        0.0, Setting("Share of what the named modules keep from forward to backward.", "100%", most=1, least=0)
    )
    modules: tuple[str, ...] = setting(
        (),
        Setting(
            "Modules whose kept activations leave: Megatron's names, layer_input, or whole_layer.", ["layer_input"]
        ),
    )
    optimizer_fraction: float = setting(
        0.0, Setting("Share of the optimizer's states in host memory, which the CPUs update.", "100%", most=1, least=0)
    )
    optimizer_overlap: bool = setting(
        False, Setting("Gradients and parameters travel while the CPUs update others.", True)
    )
    gradient_fraction: float | None = setting(
        None,
        Setting(
            "Share of the reduced gradients in host memory, at most the optimizer's; auto: as the stack does.",
            "100%",
            key="gradients",
            auto="auto",
            least=0,
            most=1,
        ),
    )
    params: Literal["gpu", "host", "nvme"] = setting(
        "gpu", Setting("Where the shards of fully sharded parameters wait: GPU, host memory or local drives.", "host")
    )


@dataclass(frozen=True, slots=True)
class Adapters:
    """Low-rank adapters (LoRA) beside frozen weights: only adapters have gradients and optimizer states."""

    rank: int = setting(16, Setting("Width of the middle of every adapter.", 16, least=1))
    targets: tuple[str, ...] = setting(
        ("q_proj", "v_proj"),
        Setting(
            "Projections that have an adapter, by Hugging Face's or Megatron's names; experts are the routed ones.",
            ["q_proj", "k_proj", "v_proj", "o_proj"],
        ),
    )


@dataclass(frozen=True, slots=True)
class LossChunks:
    """A cross-entropy that works through the tokens in parts, with head and loss in one (torchtitan, Liger, TRL,
    Megatron): the logits of all tokens never exist at once. The stack says whether backward makes them again."""

    chunks: int = setting(1, Setting("Parts of a micro-batch's tokens that have logits one after another.", 8, least=1))


@dataclass(frozen=True, slots=True)
class GradientReduction:
    """How gradients are summed over data-parallel ranks: in buckets, compressed, by an algorithm of one's own."""

    compression: str = choice(
        COMPRESSIONS,
        "none",
        "What travels of gradients: all; 8 bit with scales (fp8, int8); the largest (topk); low rank (powersgd).",
    )
    keep: float | None = setting(
        None,
        Setting(
            "Fraction of entries that topk sends (without it 0.01), or the rank of powersgd (without it 4).", 0.001
        ),
    )
    bucket_bytes: float | None = setting(
        None,
        Setting(
            "Bytes of gradients reduced at a time; without it, as the software does (40 M parameters, or layers).",
            "25 MiB",
            least=LEAST_BUCKET_BYTES,
        ),
    )
    algorithm: str = choice(
        REDUCTIONS,
        "auto",
        "How an all-reduce goes: as NCCL chooses, in a ring, a tree, or by recursive doubling.",
    )

    @property
    def is_compressed(self) -> bool:
        return self.compression != "none"


@dataclass(frozen=True, slots=True)
class Overlap:
    """Which communication is hidden behind which computation (Megatron's switches)."""

    grad_reduce: bool = setting(True, Setting("Gradients are reduced while backward runs."))
    param_gather: bool = setting(True, Setting("Parameters are gathered while forward runs."))
    tp_comm: bool = setting(False, Setting("Tensor parallelism's transfers run beside its products."))
    p2p: bool = setting(
        True, Setting("Activations travel between stages while others compute (interleaved schedules).")
    )
    moe_ep: bool = setting(False, Setting("One micro-batch's expert exchange runs beside another's computation."))
    shared_experts: bool = setting(False, Setting("Shared experts run while tokens travel to routed ones."))
    delay_wgrad: bool = setting(False, Setting("Weight gradients wait until they can hide expert exchanges."))


@dataclass(frozen=True, slots=True)
class Plan:
    """One parallelism plan; degrees carry Megatron-Core's names and meaning.

    `dp` counts data-parallel replicas of the dense part: GPUs / (tp cp pp). Experts are folded into tp x cp x dp:
    expert data parallelism is tp cp dp / (ep etp). `layout` is a Megatron pipeline layout string; a file may say auto.
    `expert_imbalance` is the hottest rank's share of routed tokens over the mean (1.0: balanced); a file may name a
    kind of balancing instead (simulator.plans.balancing), and without either has that of its model.
    `rank_order` names the axes of the rank line, fastest first, as Megatron's order string does.
    `quantized`: which linears compute in `precision` where that is below 16 bit. `fp8_param_gather` keeps the weights
    themselves in FP8; `activation_fp8_input_store` saves activation-function
    inputs in FP8. `sharding` "full" is ZeRO-3 / FSDP; `shard_group` limits it to so many ranks (HSDP; None: all
    of dp x cp).
    """

    dp: int = setting(MISSING, Setting("Data-parallel replicas; without it, what the GPUs leave.", 8))
    micro_batch_size: int = setting(MISSING, Setting("Sequences that a replica works on at a time.", 1))
    global_batch_size: int = setting(MISSING, Setting("Sequences of a step, over all replicas.", 1024))
    tp: int = setting(1, Setting("Tensor-parallel ranks, which share every matrix.", 4))
    cp: int = setting(1, Setting("Context-parallel ranks, which share every sequence.", 2))
    pp: int = setting(1, Setting("Pipeline stages.", 8))
    vpp: int = setting(1, Setting("Virtual stages on each pipeline rank (interleaved schedules).", 2))
    ep: int = setting(1, Setting("Expert-parallel ranks, over which the experts are spread.", 8))
    etp: int = setting(1, Setting("Tensor-parallel ranks of every expert.", 2))
    sequence_parallel: bool = setting(
        False, Setting("Norms and residuals are shared by tensor-parallel ranks as well.")
    )
    cp_comm: str = choice(CONTEXT_EXCHANGES, "p2p", "How context-parallel ranks exchange keys and values.")
    schedule: str = choice(schedules.OFFERED, "none", "The order of forwards and backwards; follows from pp and vpp.")
    microbatch_group_size: int | None = setting(
        None, Setting("Micro-batches in a row on a virtual stage; without it, pp.")
    )
    layout: str | None = setting(None, Setting("Layers of every stage as Megatron writes it: Et|(tt|)*29tL."))
    first_stage_layers: int | None = setting(None, Setting("Layers of the first stage, where they differ.", 3))
    last_stage_layers: int | None = setting(None, Setting("Layers of the last stage, where they differ.", 2))
    account_for_embedding: bool = setting(
        False, Setting("The embedding counts as a layer where layers are shared out.")
    )
    account_for_loss: bool = setting(False, Setting("The head counts as a layer where layers are shared out."))
    sharding: str = choice(
        SHARDINGS,
        "optimizer",
        "What data-parallel ranks share: optimizer states (ZeRO-1), gradients too (ZeRO-2), all (ZeRO-3, FSDP).",
    )
    shard_group: int | None = setting(
        None, Setting("Ranks that share one copy of what is sharded (HSDP); without it, all of dp x cp.")
    )
    optimizer: Optimizer = Optimizer()
    precision: str = choice(precisions.OFFERED, "bf16", "What products compute in, all or those that it names.")
    quantized: Quantized = ALL_LINEARS
    fp8_param_gather: bool = setting(False, Setting("Weights are kept and gathered in 8 bit."))
    activation_fp8_input_store: bool = setting(False, Setting("Inputs of activation functions are kept in 8 bit."))
    recompute: Recompute = Recompute()
    offload: Offload = Offload()
    loss: LossChunks = LossChunks()
    adapters: Adapters | None = setting(None, Setting("Low-rank adapters that are trained beside frozen weights."))
    overlap: Overlap = Overlap()
    gradients: GradientReduction = GradientReduction()
    dispatcher: str = choice(DISPATCHERS, "alltoall", "What carries tokens to their experts.")
    dispatch_fp8: bool = setting(False, Setting("Tokens travel to their experts in 8 bit."))
    expert_imbalance: float = setting(
        1.0,
        Setting(
            "Tokens of the hottest expert rank over the mean, or what balances it (forced, bias, aux_loss, none).",
            "aux_loss",
            form=Form(read_imbalance, {"anyOf": [{"type": "number", "minimum": 1}, {"enum": sorted(kinds())}]}),
        ),
    )
    capacity_factor: float | None = setting(
        None,
        Setting(
            "Tokens to which every expert is padded or cut, over the mean: 0.5 to experts / top_k. "
            "Without it, all that arrive (dropless)."
        ),
    )
    vocab_divisible_by: int = setting(128, Setting("The vocabulary is padded to a multiple of this times tp.", 128))
    rank_order: str = setting("tp-cp-ep-dp-pp", Setting("Axes of the rank line, fastest first."))
    stack: Stack = field(default_factory=default_stack)

    @property
    def hottest_load(self) -> Number:
        """Tokens of the hottest expert rank over the mean: a full capacity, or the imbalance where ranks share experts
        out."""
        if self.capacity_factor is not None:
            return self.capacity_factor
        return plain(np.where(np.asarray(self.ep) > 1, self.expert_imbalance, 1.0))

    @property
    def recomputes_logits(self) -> bool:
        """Whether the backward of a loss in chunks makes every chunk's logits again."""
        return self.loss.chunks > 1 and self.stack.chunked_loss == "recomputed"

    @property
    def reruns_layers(self) -> bool:
        """Whether whole layers run again before their backward: full recomputation, in software that obeys it."""
        return self.recompute.whole_layers and self.stack.full_recompute == "obeyed"

    @property
    def microbatches(self) -> int:
        """Micro-batches per data-parallel replica and step."""
        return self.global_batch_size // (self.micro_batch_size * self.dp)

    @property
    def gpus(self) -> int:
        return self.tp * self.cp * self.pp * self.dp

    @property
    def is_paired(self) -> bool:
        """Whether forward and backward of different micro-batches run beside each other, to hide expert traffic."""
        return schedules.SCHEDULES[self.schedule].pairs or (self.overlap.moe_ep and self.ep > 1)

    @property
    def puts_off_weights(self) -> bool:
        """Whether weight gradients run apart from their input gradients: split backwards, and pairs as delay_wgrad asks
        or as schedules of pairs do by themselves (deepseek-ai/DualPipe)."""
        record = schedules.SCHEDULES[self.schedule]
        return record.splits_every_backward or record.pairs or (self.overlap.delay_wgrad and self.is_paired)

    @property
    def expert_dp(self) -> int:
        """Replicas of each routed expert's weights."""
        return self.tp * self.cp * self.dp // (self.ep * self.etp)
