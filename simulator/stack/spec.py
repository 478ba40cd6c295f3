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

    Loss: `fused_loss`: cross-entropy works on 16-bit logits (Transformer Engine's kernels, torch.compile in torchtitan,
    flash-attention's xentropy with FSDP); otherwise as `own_loss` says (simulator.stack.losses). A fused loss needs
    fused kernels; `fused_loss_alone`: of models "with_experts" the loss is compiled though the model runs eagerly.
    `chunked_loss`: where a plan's loss works in chunks, backward makes the logits again ("recomputed"), or each chunk's
    gradients are made at once ("with_forward"). `head_backward`: the loss's tensors live "with_logits" or are freed
    before the projection's backward ("after_loss").

    Recomputation: `selective_recompute` chooses "modules" or single "operators". `early_stop`: PyTorch's checkpoints
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

    Pipelines: `pipeline_engine`: buffers are "allocated" per send, or held by "torch" (torch.distributed.pipelining) or
    "deepspeed". `pipeline_sends`: every rank sends its "share" of a stage's output and tensor ranks gather it again, or
    sends it "whole".

    Memory: `expandable_segments`: PyTorch's allocator may grow its blocks, as most launch scripts ask it to since 2023.
    `cuda_context`: kernels are loaded "lazy" (CUDA 11.7, 2022, and later) or "eager".
    """

    name: str = ""
    framework: Framework = "megatron-core"
    framework_rules: bool = True
    flash_attention: bool = True
    flash_version: int = setting(
        3, Setting("Generation of flash attention: 1, 2, or 3, which cuDNN 9's fused attention counts as.", 2, least=1,
                   most=NEWEST_FLASH))  # fmt: skip
    flash_build: Literal["cuda", "triton"] = "cuda"
    context_attention: Literal["ring_kernel", "call_per_part"] = "ring_kernel"
    dropout: bool = False
    fused_kernels: bool = True
    fused_experts: bool = False
    low_precision_experts: Literal["plain", "padded"] = "plain"
    expert_scores: Literal["fused", "eager"] = "fused"
    scaled_rope: Literal["fused", "eager"] = "fused"
    small_kernels: Literal["unlisted", "megatron", "deepspeed", "torchtitan", "fsdp"] = "unlisted"
    casts: Literal["separate", "transformer_engine", "torchao", "late_transpose"] = "separate"
    quantized_weights: Literal["recast", "cached"] = "recast"
    delayed_scaling: Literal["early", "current"] = "current"
    host_modules: Literal["library", "eager"] = "library"
    cuda_graphs: Literal["none", "router", "partial", "full"] = "none"
    fused_loss: bool = False
    fused_loss_alone: Literal["never", "with_experts"] = "never"
    own_loss: Literal["eager", "streamed", "log_softmax"] = "eager"
    chunked_loss: Literal["recomputed", "with_forward"] = "recomputed"
    head_backward: Literal["with_logits", "after_loss"] = "with_logits"
    selective_recompute: Literal["modules", "operators"] = "modules"
    early_stop: bool = False
    column_inputs: Literal["sharded", "gathered"] = "sharded"
    gradient_accumulation: Literal["fused", "hook", "cast"] = "fused"
    embedding_gradient: Literal["added", "autograd"] = "autograd"
    autograd_gradients: Literal["freed", "kept"] = "freed"
    async_tp_backward: bool = False
    sharding_engine: Literal["buckets", "fsdp", "fsdp2", "lists"] = "buckets"
    gradient_shards: Literal["every_microbatch", "last_microbatch"] = "every_microbatch"
    gradient_buckets: Literal["layer", "allocated"] = "layer"
    joint_ends: bool = False
    optimizer_step: Literal["in_place", "flat_copies"] = "in_place"
    offloaded_gradients: Literal["stay", "follow"] = "stay"
    gathered_unit: Literal["layer", "module"] = "layer"
    pipeline_engine: Literal["allocated", "torch", "deepspeed"] = "allocated"
    pipeline_sends: Literal["whole", "share"] = "whole"
    expandable_segments: bool = True
    cuda_context: Literal["lazy", "eager"] = "lazy"

    @property
    def line(self) -> str:
        """The line of software that published runs are grouped by: a framework, or all of it before flash attention."""
        return self.framework if self.flash_attention else "unfused"
