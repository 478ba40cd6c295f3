"""What a release of training software does by itself, as named behaviours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from simulator.fields import Setting, setting

# The newest generation of flash attention that was measured.
NEWEST_FLASH = 3
Framework = Literal["megatron-core", "torchtitan", "fsdp", "deepspeed", "deepseek", "ddp"]


@dataclass(frozen=True, slots=True)
class Stack:
    """What the software does by itself: kernels fused or not, what it keeps, casts, gathers, launches and overlaps.

    `name` is the release (`traincast stacks` lists them); `framework` decides whose legality rules hold and for which
    launch files can be written, nothing else. `framework_rules`: the framework's own rules hold; a fork, a trainer
    built on it or a later release may be free of them.

    Attention: `flash_version` is the generation of flash attention: 1 (2022), 2 (2023), 3 (and fused attention of cuDNN
    9; on Ampere 2 and 3 are one); `flash_build` the kernels of the first: CUDA, or Triton's of 2023.
    `context_attention`: under context parallelism one kernel works off the ring ("ring_kernel"), or every part of the
    context is a call of its own whose results are merged unfused ("call_per_part").

    Kernels: `dropout` on attention and residuals. `fused_kernels`: norms, activations, dropout and additions are fused,
    by hand or by a compiler. `fused_experts`: activation, biases and casts between them run inside the grouped
    products (CuTe DSL grouped MLP of Transformer Engine, 2026). `low_precision_experts`: experts' rows are "padded" to
    the scales' blocks and multiplied one by one or few at a time. `expert_scores` scale experts' outputs in a "fused"
    kernel or in fp32 kernels of their own ("eager"). `scaled_rope`: a rotary embedding with a scale is
    "fused" like any, or "eager" (Megatron-Core's rope_utils.py). `small_kernels` names whose memory-bound kernels run.
    `casts`: how linears are quantised (see simulator.workload.linears). `quantized_weights`: copies for products are
    "cached" over a step's micro-batches or "recast". `delayed_scaling`: products scaled by history and
    their scale updates are those of the libraries of early 2025 ("early") or of later ones ("current").
    `host_modules`: plain PyTorch modules ("eager") dispatch several operations for every kernel, a "library"'s or a
    compiler's about one (simulator/cost/data/dispatches.toml).
    `cuda_graphs`: "router" holds the experts' router and preprocessing, "partial" attention too, "full" the whole
    iteration.

    Vocabulary: `vocabulary` is "padded" to a multiple of `plan.vocab_divisible_by` x tp, or "as_is": each tensor rank
    holds a whole number of its rows, and products of an odd number of columns are slow.

    Loss: `fused_loss`: cross-entropy works on 16-bit logits (Transformer Engine's kernels, torch.compile in torchtitan,
    flash-attention's xentropy with FSDP); otherwise as `own_loss` says (simulator.stack.losses). A fused loss needs
    fused kernels; `fused_loss_alone`: of models "with_experts" the loss is compiled though the model runs eagerly.
    `chunked_loss`: where a plan's loss works in chunks, backward makes the logits again ("recomputed"), or each chunk's
    gradients are made at once ("with_forward"). `head_backward`: the loss's tensors live "with_logits" or are freed
    before the projection's backward ("after_loss").

    Recomputation: `full_recompute`: asked for, it is "obeyed", or "left_out" by an engine that was not told of it.
    `selective_recompute` chooses "modules" or single "operators". `early_stop`: PyTorch's checkpoints
    (2.1 and later) recompute no further than backward needs. `column_inputs`: a column-parallel linear keeps its
    "sharded" input and gathers again, or keeps it "gathered".

    Gradients: `gradient_accumulation`: weight gradients are added to the main gradients by the product itself
    ("fused"), by a kernel after it ("hook": Megatron-LM before 2022-02 or without the fusion), or cast and then added
    ("cast": DeepSpeed's BF16_Optimizer). `embedding_gradient`: the embedding's is "added" to a main gradient or left
    to autograd ("autograd"). `autograd_gradients`: 16-bit gradients are "freed" once added, or "kept" beside fp32 ones.
    `async_tp_backward`: the input gradient of a column-parallel linear is reduced beside its weight gradient
    (Megatron-LM since 2021-09, Transformer Engine).

    Data parallelism: `sharding_engine` holds and moves shards in "buckets" (Megatron's distributed optimizer, ZeRO),
    layer by layer ("fsdp", "fsdp2"), or parameter by parameter through lists of tensors ("lists": DeepSpeed's ZeRO-3 of
    2021). `joint_ends`: embedding and head form one FSDP2 group, as in torchtitan before July 2025 (pull request 1094).
    `optimizer_step`: works "in_place", or through "flat_copies" of gradients or parameters (DeepSpeed).
    `offloaded_gradients`: where the optimizer runs on the host, reduced gradients "stay" on the GPU until its step, or
    "follow" it to host memory as they are reduced. `gathered_unit`: fully sharded parameters are whole for a "layer" at
    a time, or for one "module" with parameters of its own.

    `gradient_shards`: where the plan shards gradients and not weights (ZeRO-2), each rank reduces its gradients to
    shards after "every_microbatch", or adds whole ones up and reduces them after the "last_microbatch".
    `gradient_buckets`: until then those of one "layer" are whole, or buffers are "allocated" for them (DeepSpeed).

    `bucket_parameters`: how many a bucket of gradients holds at least (0: as Megatron-Core chooses, the larger of 40
    million and a million per rank). `parameter_gathers`: a sharded optimizer's parameters are gathered beside a
    step's first forwards, by all stages from the beginning of the step ("ahead"; Megatron's align_param_gather), or by
    each once the first micro-batch has reached it ("as_reached").

    Pipelines: `pipeline_engine`: buffers are "allocated" per send, or held by "torch" (torch.distributed.pipelining) or
    "deepspeed". `pipeline_sends`: every rank sends its "share" of a stage's output and tensor ranks gather it again, or
    sends it "whole".

    Memory: `expandable_segments`: PyTorch's allocator may grow its blocks, as most launch scripts ask it to since 2023.
    `cuda_context`: kernels are loaded "lazy" (CUDA 11.7, 2022, and later) or "eager".
    """

    name: str = ""
    framework: Framework = setting(
        "megatron-core", Setting("Whose legality rules hold, and for which software launch files can be written.")
    )
    framework_rules: bool = setting(
        True, Setting("Whether the framework's own rules hold; a fork or a trainer on top may be free of them.")
    )
    flash_attention: bool = setting(True, Setting("Whether attention is one fused kernel that never holds the scores."))
    flash_version: int = setting(
        3, Setting("Generation of flash attention: 1, 2, or 3, which cuDNN 9's fused attention counts as.", 2, least=1,
                   most=NEWEST_FLASH))  # fmt: skip
    flash_build: Literal["cuda", "triton"] = setting(
        "cuda", Setting("Kernels of the first flash attention: CUDA's, or Triton's of 2023.")
    )
    context_attention: Literal["ring_kernel", "call_per_part"] = setting(
        "ring_kernel",
        Setting("Under context parallelism: one kernel works off the ring, or a call for each part of the context."),
    )
    dropout: bool = setting(False, Setting("Whether attention and residuals have dropout."))
    fused_kernels: bool = setting(
        True, Setting("Whether norms, activations, dropout and additions are fused, by hand or by a compiler.")
    )
    fused_experts: bool = setting(
        False, Setting("Whether activation, biases and casts run inside the grouped products of experts.")
    )
    low_precision_experts: Literal["plain", "padded"] = setting(
        "plain", Setting("Rows of experts as they come, or padded to the blocks of the scales.")
    )
    gated_product: Literal["kept", "again"] = setting(
        "kept", Setting("The output of a gated activation is kept for the weight gradient, or made again in backward.")
    )
    expert_scores: Literal["fused", "eager"] = setting(
        "fused", Setting("Experts' outputs are scaled in a fused kernel, or in fp32 kernels of their own.")
    )
    scaled_rope: Literal["fused", "eager"] = setting(
        "fused", Setting("A rotary embedding with a scale is fused like any, or runs eagerly.")
    )
    small_kernels: Literal["unlisted", "megatron", "deepspeed", "torchtitan", "fsdp"] = setting(
        "unlisted", Setting("Whose memory-bound kernels run.")
    )
    casts: Literal["separate", "transformer_engine", "torchao", "late_transpose"] = setting(
        "separate", Setting("How the inputs and weights of low-precision linears are quantised.")
    )
    quantized_weights: Literal["recast", "cached"] = setting(
        "recast", Setting("Quantised weights are made for every micro-batch, or kept over a step.")
    )
    delayed_scaling: Literal["early", "current"] = setting(
        "current", Setting("Products scaled by history as in the libraries of early 2025, or of later ones.")
    )
    host_modules: Literal["library", "eager"] = setting(
        "library",
        Setting("Operations that the host dispatches per kernel: as libraries and compilers, or as plain modules."),
    )
    cuda_graphs: Literal["none", "router", "partial", "full"] = setting(
        "none", Setting("What CUDA graphs hold: nothing, the experts' router, attention too, or the whole iteration.")
    )
    vocabulary: Literal["padded", "as_is"] = setting(
        "padded", Setting("The vocabulary is padded for the products' sake, or taken as it is.")
    )
    fused_loss: bool = setting(False, Setting("Whether cross-entropy works on 16-bit logits in fused kernels."))
    fused_loss_alone: Literal["never", "with_experts"] = setting(
        "never", Setting("Whether the loss of models with experts is compiled though the model runs eagerly.")
    )
    own_loss: Literal["eager", "streamed", "log_softmax"] = setting(
        "eager", Setting("How a loss that is not fused runs.")
    )
    chunked_loss: Literal["recomputed", "with_forward"] = setting(
        "recomputed", Setting("A loss in chunks: backward makes logits again, or gradients are made with the forward.")
    )
    head_backward: Literal["with_logits", "after_loss"] = setting(
        "with_logits", Setting("The loss's tensors live beside the logits' backward, or are freed before it.")
    )
    full_recompute: Literal["obeyed", "left_out"] = setting(
        "obeyed", Setting("Full recomputation runs layers again where it is asked for, or is left out.")
    )
    selective_recompute: Literal["modules", "operators"] = setting(
        "modules", Setting("Selective recomputation chooses modules, or single operators.")
    )
    early_stop: bool = setting(False, Setting("Whether recomputation goes no further than backward needs."))
    column_inputs: Literal["sharded", "gathered"] = setting(
        "sharded", Setting("A column-parallel linear keeps its sharded input and gathers again, or keeps it gathered.")
    )
    gradient_accumulation: Literal["fused", "hook", "cast"] = setting(
        "fused", Setting("Weight gradients are added up in the product, by a kernel after it, or cast and then added.")
    )
    embedding_gradient: Literal["added", "autograd"] = setting(
        "autograd", Setting("The embedding's gradient is added to a main gradient, or left to autograd.")
    )
    autograd_gradients: Literal["freed", "kept"] = setting(
        "freed", Setting("16-bit gradients are freed once added, or kept beside the fp32 ones.")
    )
    async_tp_backward: bool = setting(
        False, Setting("Whether the input gradient of a column-parallel linear is reduced beside its weight gradient.")
    )
    sharding_engine: Literal["buckets", "fsdp", "fsdp2", "lists"] = setting(
        "buckets",
        Setting("How sharded states move: in buckets, layer by layer (fsdp, fsdp2), or through lists of tensors."),
    )
    gradient_shards: Literal["every_microbatch", "last_microbatch"] = setting(
        "every_microbatch",
        Setting("Sharded gradients are reduced after every micro-batch, or whole ones after the last."),
    )
    gradient_buckets: Literal["layer", "allocated"] = setting(
        "layer",
        Setting("Gradients on their way to ZeRO-2's reduction: a layer at a time, or two buckets held for the run."),
    )
    parameter_gathers: Literal["ahead", "as_reached"] = setting(
        "ahead", Setting("Stages gather updated parameters from the step's beginning, or each once reached.")
    )
    bucket_parameters: float = setting(
        0.0, Setting("Parameters of a gradient bucket; 0: the larger of 40 million and a million per rank.", 1.34e8)
    )
    joint_ends: bool = setting(False, Setting("Whether embedding and head form one FSDP2 group."))
    optimizer_step: Literal["in_place", "flat_copies"] = setting(
        "in_place", Setting("The optimizer works in place, or through flat copies.")
    )
    offloaded_gradients: Literal["stay", "follow"] = setting(
        "stay", Setting("Beside an optimizer on the host, gradients stay on the GPU or follow it.")
    )
    gathered_unit: Literal["layer", "module"] = setting(
        "layer", Setting("Fully sharded parameters are whole for a layer at a time, or for one module.")
    )
    pipeline_engine: Literal["allocated", "torch", "deepspeed"] = setting(
        "allocated", Setting("Whose buffers pipelines use: allocated per send, or held by torch or DeepSpeed.")
    )
    pipeline_sends: Literal["whole", "share"] = setting(
        "whole", Setting("Each rank sends its stage's whole output, or a share that is gathered again.")
    )
    expandable_segments: bool = setting(True, Setting("Whether PyTorch's allocator may grow its blocks."))
    cuda_context: Literal["lazy", "eager"] = setting(
        "lazy", Setting("Kernels are loaded when first used, or all at the start.")
    )

    @property
    def line(self) -> str:
        """The line of software that published runs are grouped by: a framework, or all of it before flash attention."""
        return self.framework if self.flash_attention else "unfused"
