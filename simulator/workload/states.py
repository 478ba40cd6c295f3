"""Parameters that one rank of each virtual stage holds, by how data parallelism shards them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hardware.precisions import FORMATS, PRECISIONS
from simulator.model.components import layer_linears, linears, norm_size
from simulator.model.parameters import (
    Split,
    embedding_parameters,
    head_parameters,
    layer_parameters,
    linear_parameters,
    model_parameters,
    mtp_modules,
    mtp_parameters,
)
from simulator.model.spec import Layer, Model
from simulator.optimizers import OPTIMIZERS
from simulator.plans.choices import SHARDINGS
from simulator.plans.layout import StageLayers
from simulator.plans.quantized import keeps_16_bit_parts, part_of, with_16_bit_layers
from simulator.plans.spec import Plan
from simulator.schedules import SCHEDULES
from simulator.workload.adapters import adapter_linears
from simulator.workload.operators import Number
from simulator.workload.shape import padded_vocab


@dataclass(frozen=True, slots=True)
class StageParameters:
    """Parameters on one rank of a stage: `dense` are replicated over dp x cp, `expert` over expert data parallelism.

    `layers`: the same, layer by layer (embedding first, head last), as fully sharded plans gather them.
    `largest_matrix`: parameters of the largest module of a decoder layer. `adapters`: those that are trained beside
    frozen weights, among the others and layer by layer (None: all are trained). `factors`: rows and columns of the
    matrices, dense and experts', for optimizers that keep moments of these. `in_16_bit`: layer by layer, those of
    linears that a plan below 16 bit leaves in 16 bit (empty: none).
    """

    dense: Number
    expert: Number
    layers: tuple[tuple[Number, Number], ...]
    largest_matrix: Number = 0.0
    adapters: tuple[tuple[Number, Number], ...] | None = None
    factors: tuple[Number, Number] = (0.0, 0.0)
    in_16_bit: tuple[tuple[Number, Number], ...] = ()

    @property
    def trained_layers(self) -> tuple[tuple[Number, Number], ...]:
        """Dense and expert parameters that have gradients, layer by layer."""
        return self.layers if self.adapters is None else self.adapters

    @property
    def trained(self) -> tuple[Number, Number]:
        """Dense and expert parameters that have gradients."""
        if self.adapters is None:
            return self.dense, self.expert
        return sum(dense for dense, _ in self.adapters), sum(expert for _, expert in self.adapters)

    @property
    def wide(self) -> StageParameters:
        """The linears that stay in 16 bit, as a stage of their own."""
        dense, expert = (sum(pair[kind] for pair in self.in_16_bit) for kind in (0, 1))
        return StageParameters(dense, expert, self.in_16_bit)


def local(split: Split, plan: Plan) -> tuple[Number, Number]:
    """Dense and expert parameters on one rank."""
    return split.sharded / plan.tp + split.replicated, split.expert / (plan.ep * plan.etp)


def stage_parameters(model: Model, plan: Plan, stages: Sequence[StageLayers]) -> tuple[StageParameters, ...]:
    """One entry per virtual stage."""
    vocab = padded_vocab(model.vocab, plan)
    embedding, head = embedding_parameters(model, vocab), head_parameters(model, vocab)
    matrices = {layer: largest_matrix(model, layer, plan) for layer in set(model.layers)}
    adapters = {layer: layer_adapters(model, layer, plan) for layer in set(model.layers) | set(model.mtp)}
    known = {layer: layer_parameters(model, layer).all for layer in set(model.layers)}
    wide = {layer: linears_in_16_bit(model, layer, plan) for layer in set(model.layers) | set(model.mtp)}
    result = []
    for stage in stages:
        held: list[tuple[Split, Split, Split]] = []
        own = [model.layers[index] for index in stage.layers]
        modules = mtp_modules(model)[: stage.mtp]
        if stage.embedding or has_embedding_copy(model, plan, stage):
            held.append((embedding, Split(), Split()))
        held += [(known[layer], adapters[layer], wide[layer]) for layer in own]
        held += [(mtp_parameters(model, each).all, adapters[each], wide[each]) for each in modules]
        if stage.head:
            held.append((head + Split(replicated=norm_size(model)), Split(), Split()))
        layers = tuple(local(weights + beside, plan) for weights, beside, _ in held)
        result.append(
            StageParameters(
                dense=sum(d for d, _ in layers),
                expert=sum(e for _, e in layers),
                layers=layers,
                largest_matrix=max((matrices[layer] for layer in own), default=0.0),
                adapters=None if plan.adapters is None else tuple(local(beside, plan) for _, beside, _ in held),
                factors=factor_counts(model, plan, stage),
                in_16_bit=tuple(local(left, plan) for _, _, left in held) if keeps_16_bit_parts(plan) else (),
            )
        )
    return tuple(result)


def linears_in_16_bit(model: Model, layer: Layer, plan: Plan) -> Split:
    """Parameters of a layer's linears that a plan below 16 bit leaves in 16 bit."""
    found = Split()
    if not keeps_16_bit_parts(plan):
        return found
    for component in (layer.mixer, layer.ffn):
        for linear in linears(component, model.hidden):
            part = part_of(component, linear) if component is not None else None
            if part is not None and (layer.in_16_bit or not getattr(plan.quantized, part)):
                found = found + linear_parameters(linear)
    return found


def layer_adapters(model: Model, layer: Layer, plan: Plan) -> Split:
    """Parameters of a layer's adapters; none without."""
    if plan.adapters is None:
        return Split()
    halves = (layer.mixer, layer.ffn)
    matrices = [each for half in halves for each in adapter_linears(half, model.hidden, plan.adapters)]
    return sum(map(linear_parameters, matrices), Split())


def adapter_parameters(model: Model, plan: Plan) -> int:
    """Parameters of all adapters of a model."""
    return sum(layer_adapters(model, layer, plan).total for layer in (*model.layers, *mtp_modules(model)))


def largest_matrix(model: Model, layer: Layer, plan: Plan) -> Number:
    """Parameters on one rank of a decoder layer's largest module: one matrix, or one matrix of all its experts."""
    sizes = (local(linear_parameters(linear), plan) for linear in layer_linears(model, layer))
    return max((dense + expert for dense, expert in sizes), default=0.0)


def has_embedding_copy(model: Model, plan: Plan, stage: StageLayers) -> bool:
    """A tied head or an MTP module away from the first stage keeps its own copy of the embedding.

    DualPipe holds first and last stage on the same ranks, which share it.
    """
    needs = (stage.head and model.tied_embeddings) or stage.mtp > 0
    return needs and not stage.embedding and not SCHEDULES[plan.schedule].shares_ends


def parameter_bytes(plan: Plan) -> float:
    """Bytes of one parameter as the forward reads it and the all-gather moves it."""
    return PRECISIONS[plan.precision].weight_bytes(kept_low=plan.fp8_param_gather)


def wider_bytes(plan: Plan) -> float:
    """Bytes by which a weight that stays in 16 bit is wider than one in the plan's format."""
    return PRECISIONS[plan.precision].output_bytes - parameter_bytes(plan)


def stage_widths(stage: StageParameters, plan: Plan) -> tuple[Number, Number]:
    """Bytes of a dense and of an expert parameter of a stage, in the mean, as forwards read and gathers move them."""
    narrow = parameter_bytes(plan)
    if not stage.in_16_bit:
        return narrow, narrow
    wide = stage.wide
    return (
        narrow + wider_bytes(plan) * share_of(wide.dense, stage.dense),
        narrow + wider_bytes(plan) * share_of(wide.expert, stage.expert),
    )


def model_width(model: Model, plan: Plan) -> float:
    """Bytes of a parameter of the whole model in the mean, as forwards read it."""
    narrow = parameter_bytes(plan)
    if not keeps_16_bit_parts(plan):
        return narrow
    marked = with_16_bit_layers(model, plan)
    layers = (*marked.layers, *mtp_modules(marked))
    wide = sum(linears_in_16_bit(marked, layer, plan).total for layer in layers)
    counted = model_parameters(model)
    whole = counted.main.total + sum(module.total for module in counted.mtp)
    return narrow + wider_bytes(plan) * wide / whole


def share_of(part: Number, whole: Number) -> Number:
    """A part over its whole; nothing of nothing."""
    return part / np.maximum(1.0, whole)


def main_params_bytes(plan: Plan) -> float:
    """Bytes per parameter of the copy that the optimizer updates; none where the weights are 32 bit themselves
    (Megatron-Core's FP32Optimizer, torch.optim)."""
    if plan.optimizer.main_params is None or PRECISIONS[plan.precision].full_width:
        return 0.0
    return FORMATS[plan.optimizer.main_params].bytes


def optimizer_bytes(plan: Plan) -> float:
    """Optimizer state per parameter: master copy and moments."""
    optimizer = plan.optimizer
    return OPTIMIZERS[optimizer.kind].state_bytes(main_params_bytes(plan), FORMATS[optimizer.moments].bytes)


def offloaded_gradient_fraction(plan: Plan) -> float:
    """Share of the reduced gradients that waits in host memory: as the plan says, or as its stack does by itself."""
    offload = plan.offload
    if offload.gradient_fraction is not None:
        return offload.gradient_fraction
    return offload.optimizer_fraction if plan.stack.offloaded_gradients == "follow" else 0.0


def update_bytes(plan: Plan, weight_bytes: Number | None = None) -> Number:
    """Bytes per parameter that the optimizer's elementwise update reads and writes; a weight is `weight_bytes` wide
    (None: as the plan's precision has it)."""
    optimizer = plan.optimizer
    gradient_bytes = FORMATS[optimizer.grads].bytes
    main_bytes = main_params_bytes(plan)
    record, state = OPTIMIZERS[optimizer.kind], optimizer_bytes(plan)
    width = parameter_bytes(plan) if weight_bytes is None else weight_bytes
    return record.update_bytes(gradient_bytes, state, width, main_bytes)


def factor_bytes(stage: StageParameters, plan: Plan) -> Number:
    """Bytes of the row and column moments of a stage's matrices on one rank."""
    if not OPTIMIZERS[plan.optimizer.kind].factored_moments:
        return 0.0
    copies = replica_ranks(plan)
    shared = stage.factors[0] / shard_count(plan, copies["dense"])
    shared += stage.factors[1] / shard_count(plan, copies["expert"])
    return shared * FORMATS[plan.optimizer.moments].bytes


def stage_matrices(model: Model, plan: Plan, stage: StageLayers) -> list[tuple[int, int, float, bool]]:
    """Matrices of a stage's layers that the optimizer updates: rows, columns, how many one rank holds, and whether they
    are experts'. Frozen ones are left out; those of adapters beside them are too small to count."""
    if plan.adapters is not None:
        return []
    linears = Counter(linear for index in stage.layers for linear in layer_linears(model, model.layers[index]))
    matrices = []
    for linear, count in linears.items():
        expert = linear.parallel.startswith("expert")
        copies = count * linear.copies / (plan.ep if expert else 1)
        matrices.append((linear.inputs, linear.outputs, copies, expert))
    return matrices


def factor_counts(model: Model, plan: Plan, stage: StageLayers) -> tuple[Number, Number]:
    """Rows and columns of dense and of expert matrices on one rank, together."""
    counts: dict[bool, Number] = {False: 0.0, True: 0.0}
    for rows, columns, copies, expert in stage_matrices(model, plan, stage):
        counts[expert] += copies * (rows + columns) / (plan.etp if expert else plan.tp)
    return counts[False], counts[True]


def accumulation_bytes(plan: Plan, how: str) -> float:
    """Bytes per parameter and micro-batch that join a weight's gradient to its main gradient outside the product.

    "hook" reads both and writes the sum (main_grad.add_ of Megatron's data-parallel hook); "cast" first writes an fp32
    copy (BF16_Optimizer.update_hp_grads of DeepSpeed); "fused" leaves nothing (wgrad_gemm_accum_fp32).
    """
    entering = PRECISIONS[plan.precision].output_bytes
    main = FORMATS[plan.optimizer.grads].bytes
    return {"fused": 0.0, "hook": entering + 2 * main, "cast": entering + main + 3 * main}[how]


def replica_ranks(plan: Plan) -> dict[str, Number]:
    """Ranks that hold the same dense and the same expert parameters.

    DualPipe's mirrored ranks hold the same stages, so every parameter has twice the replicas (deepseek-ai/DualPipe).
    """
    copies = SCHEDULES[plan.schedule].placement.copies
    return {"dense": copies * plan.dp * plan.cp, "expert": copies * plan.expert_dp}


def gradient_reductions(plan: Plan) -> int:
    """Gradient reductions of one rank in a step: one for every micro-batch that it works on, or one in all."""
    copies = SCHEDULES[plan.schedule].placement.copies
    return plan.microbatches // copies if reduces_every_microbatch(plan) else 1


def reduces_every_microbatch(plan: Plan) -> bool:
    """Whether a rank reduces gradients to its shard after every backward, so that none stay whole."""
    sharding = SHARDINGS[plan.sharding]
    if sharding.shards_weights:
        return True
    every = plan.stack.gradient_shards == "every_microbatch" and not accumulates_unsharded(plan)
    return sharding.shards_gradients and every


def gathers_as_reached(plan: Plan) -> bool:
    """Whether a stage asks for its updated parameters only when a step's first micro-batch has reached it."""
    return plan.stack.parameter_gathers == "as_reached"


def accumulates_unsharded(plan: Plan) -> bool:
    """torchtitan's FSDP2 under a pipeline: parameters gathered once a step, gradients reduced once."""
    engine = plan.stack.sharding_engine == "fsdp2" and plan.pp > 1
    return engine and SHARDINGS[plan.sharding].gathers_once and shares_states(plan)


def shares_states(plan: Plan) -> bool:
    """Whether any rank keeps less than the whole optimizer state: a shard group of one rank gathers nothing."""
    return any(np.any(np.asarray(shard_count(plan, ranks)) > 1) for ranks in replica_ranks(plan).values())


def travels_by_layer(plan: Plan) -> bool:
    """Whether buckets are layers: where weights are gathered, or gradients reduced, for every micro-batch."""
    return SHARDINGS[plan.sharding].shards_weights or reduces_every_microbatch(plan)


def shard_count(plan: Plan, ranks: Number) -> Number:
    """Ranks that share the optimizer state of one parameter; HSDP limits them to its shard group."""
    if not SHARDINGS[plan.sharding].shards_optimizer:
        return 1
    return np.minimum(ranks, plan.shard_group) if plan.shard_group else ranks
