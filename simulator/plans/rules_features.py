"""Rules on features: recompute, overlap, experts, optimizer and precision, CUDA graphs; and settings without effect."""

from __future__ import annotations

from hardware.collectives import DISPATCHERS
from hardware.precisions import FORMATS, PRECISIONS
from simulator.model.spec import Attention, CompressedAttention, LatentAttention
from simulator.optimizers import OPTIMIZERS
from simulator.plans.case import Check, Fault, PlanCase
from simulator.plans.choices import CONTEXT_EXCHANGES, SHARDINGS
from simulator.schedules import SCHEDULES
from simulator.stack import newest

MODULES = ("core_attn", "mlp", "moe", "moe_act", "layernorm", "mla_up_proj", "shared_experts")


def _selected(case: PlanCase) -> tuple[str, ...]:
    recompute = case.plan.recompute
    return recompute.chosen_modules


def recompute_is_complete(case: PlanCase) -> Fault | None:
    recompute = case.plan.recompute
    if recompute.whole_layers and recompute.layers < 1:
        return Fault("plan.recompute.layers", recompute.layers, "must be at least 1", "1 or more layers at a time")
    chooses_operators = case.plan.stack.selective_recompute == "operators"
    if recompute.named_modules and not recompute.modules and not chooses_operators:
        return Fault(
            "plan.recompute.modules", (), "selective recompute names no module", f"some of {', '.join(MODULES)}"
        )
    return None


def recompute_modules_are_known(case: PlanCase) -> Fault | None:
    unknown = [module for module in _selected(case) if module not in MODULES]
    if not unknown:
        return None
    why = f"{', '.join(unknown)}: no such module is modelled"
    return Fault("plan.recompute.modules", case.plan.recompute.modules, why, f"some of {', '.join(MODULES)}")


def loss_chunks_hold_tokens(case: PlanCase) -> Fault | None:
    plan = case.plan
    tokens = plan.micro_batch_size * case.seq_length // plan.cp
    if plan.loss.chunks <= tokens:
        return None
    why = f"more chunks than the {tokens} tokens of a micro-batch on one rank"
    return Fault("plan.loss.chunks", plan.loss.chunks, why, f"at most {tokens}")


def router_groups_divide(case: PlanCase) -> Fault | None:
    for moe in case.facts.moe:
        if moe.experts % moe.groups or moe.group_top_k > moe.groups:
            why = f"{moe.experts} experts in {moe.groups} groups of which {moe.group_top_k} are chosen"
            return Fault("model", moe.groups, why, "groups that divide the experts, and no more chosen than there are")
    return None


def experts_with_tensor_need_sequence_parallel(case: PlanCase) -> Fault | None:
    plan = case.plan
    if not case.facts.moe or plan.tp == 1 or plan.sequence_parallel:
        return None
    return Fault("plan.sequence_parallel", False, f"experts with tp = {plan.tp} need it", "sequence_parallel true")


def tensor_overlap_needs_sequence_parallel(case: PlanCase) -> Fault | None:
    plan = case.plan
    if not plan.overlap.tp_comm or (plan.sequence_parallel and plan.tp > 1):
        return None
    why = "overlaps the gathers and scatters of sequence parallelism, which is off"
    return Fault("plan.overlap.tp_comm", True, why, "sequence_parallel true with tp above 1, or tp_comm false")


def gather_overlap_needs_reduce_overlap(case: PlanCase) -> Fault | None:
    plan = case.plan
    if not SHARDINGS[plan.sharding].shards_optimizer or not plan.overlap.param_gather or plan.overlap.grad_reduce:
        return None
    return Fault("plan.overlap.param_gather", True, "needs overlap.grad_reduce", "both true or both false")


def expert_overlap_is_possible(case: PlanCase) -> Fault | None:
    plan, recompute = case.plan, case.plan.recompute
    if not plan.overlap.moe_ep:
        return None
    problems = [
        (plan.ep == 1, "ep is 1"),
        (plan.pp > 1 and plan.vpp == 1, "pp above 1 without vpp"),
        (bool(case.facts.moe) and not DISPATCHERS[plan.dispatcher].can_overlap, f"dispatcher is {plan.dispatcher}"),
        (PRECISIONS[plan.precision].full_width, f"precision is {plan.precision}"),
        (recompute.whole_layers, "recompute is full"),
        ("moe" in _selected(case), "recompute.modules has moe"),
        (plan.overlap.shared_experts, "overlap.shared_experts is on"),
        (case.facts.mtp > 1, f"the model has {case.facts.mtp} MTP modules"),
    ]
    found = [text for wrong, text in problems if wrong]
    return (
        Fault("plan.overlap.moe_ep", True, "; ".join(found), "overlap.moe_ep false, or change those") if found else None
    )


def delayed_weight_gradients_need_expert_overlap(case: PlanCase) -> Fault | None:
    if not case.plan.overlap.delay_wgrad or case.plan.overlap.moe_ep:
        return None
    return Fault(
        "plan.overlap.delay_wgrad", True, "fills the gaps of overlap.moe_ep, which is off", "both true, or false"
    )


def shared_overlap_has_dispatcher(case: PlanCase) -> Fault | None:
    shared = any(moe.shared_width for moe in case.facts.moe)
    if not case.plan.overlap.shared_experts or not shared or DISPATCHERS[case.plan.dispatcher].can_overlap:
        return None
    why = f"the {case.plan.dispatcher} dispatcher leaves nothing to overlap"
    able = " or ".join(name for name, each in DISPATCHERS.items() if each.can_overlap)
    return Fault("plan.overlap.shared_experts", True, why, f"dispatcher {able}")


def deepep_has_peers(case: PlanCase) -> Fault | None:
    plan = case.plan
    if not case.facts.moe or not DISPATCHERS[plan.dispatcher].needs_peers or plan.etp * plan.ep > 1:
        return None
    return Fault("plan.dispatcher", plan.dispatcher, "needs ep x etp above 1", "dispatcher alltoall, or a larger ep")


def dispatch_in_fp8_is_possible(case: PlanCase) -> Fault | None:
    if not case.plan.dispatch_fp8:
        return None
    why = "Megatron-Core sends bf16 with every dispatcher modelled here"
    return Fault("plan.dispatch_fp8", True, why, f"false, or plan.stack {newest('deepseek').name}")


def expert_bias_needs_whole_experts(case: PlanCase) -> Fault | None:
    if case.plan.etp == 1 or not any(moe.bias for moe in case.facts.moe):
        return None
    return Fault("plan.etp", case.plan.etp, "experts with bias cannot be split", "etp 1")


def recomputed_modules_exist(case: PlanCase) -> Fault | None:
    needs = {"mla_up_proj": (case.facts.latent, "latent attention"), "moe_act": (bool(case.facts.moe), "experts")}
    for module, (present, what) in needs.items():
        if module in _selected(case) and not present:
            return Fault(
                "plan.recompute.modules", case.plan.recompute.modules, f"{module} needs {what}", f"drop {module}"
            )
    return None


def shared_experts_overlap_or_recompute(case: PlanCase) -> Fault | None:
    shared = any(moe.shared_width for moe in case.facts.moe)
    if "shared_experts" not in _selected(case) or not case.plan.overlap.shared_experts or not shared:
        return None
    why = "shared_experts cannot be recomputed while overlap.shared_experts is on"
    return Fault("plan.recompute.modules", case.plan.recompute.modules, why, "one of the two")


def stored_input_is_gated(case: PlanCase) -> Fault | None:
    if not case.plan.activation_fp8_input_store or all(ffn.gated for ffn in case.facts.dense + case.facts.moe):
        return None
    why = "only a gated (SwiGLU) activation can store its input in fp8"
    return Fault("plan.activation_fp8_input_store", True, why, "false")


def delayed_scaling_keeps_activations(case: PlanCase) -> Fault | None:
    clash = [module for module in ("moe_act", "layernorm") if module in _selected(case)]
    if not PRECISIONS[case.plan.precision].scales_from_history or not clash:
        return None
    why = f"delayed scaling excludes recompute of {', '.join(clash)}"
    return Fault(
        "plan.recompute.modules", case.plan.recompute.modules, why, "drop them, or fp8-tensorwise or -blockwise"
    )


def optimizer_is_offered(case: PlanCase) -> Fault | None:
    plan = case.plan
    cut = SHARDINGS[plan.sharding].shards_gradients  # as FSDP does, row by row
    offered = [
        name for name, each in OPTIMIZERS.items() if each.in_megatron_core and not (cut and each.needs_whole_matrices)
    ]
    if plan.optimizer.kind in offered:
        return None
    why = f"Megatron-Core has no such optimizer with sharding {plan.sharding}"
    return Fault("plan.optimizer.kind", plan.optimizer.kind, why, " or ".join(offered))


def optimizer_formats_are_offered(case: PlanCase) -> Fault | None:
    """Moments or main weights below fp32 go through the precision-aware Adam of the distributed optimizer."""
    optimizer = case.plan.optimizer
    main = FORMATS[optimizer.main_params] if optimizer.main_params else None
    whole_weights = PRECISIONS[case.plan.precision].full_width
    if not (main.in_main_weights if main else whole_weights):
        offered = " or ".join(name for name, each in FORMATS.items() if each.in_main_weights)
        why = f"main weights are {offered}"
        return Fault("plan.optimizer.main_params", optimizer.main_params, why, offered)
    whole_moments = FORMATS[optimizer.moments].full_width
    if whole_moments and (main is None or main.full_width):
        return None
    name = "main_params" if whole_moments else "moments"
    value = getattr(optimizer, name)
    if not OPTIMIZERS[optimizer.kind].precision_aware:
        able = " or ".join(kind for kind, each in OPTIMIZERS.items() if each.precision_aware)
        why = f"only {able} keeps states below fp32"
        return Fault(f"plan.optimizer.{name}", value, why, f"fp32, or kind {able}")
    if not SHARDINGS[case.plan.sharding].shards_optimizer:
        return Fault(f"plan.optimizer.{name}", value, "needs the distributed optimizer", "fp32, or sharding optimizer")
    return None


def gradient_formats_are_offered(case: PlanCase) -> Fault | None:
    """One buffer per parameter takes the gradients and is reduced as it is: fp32, or the format of the weights."""
    plan, optimizer = case.plan, case.plan.optimizer
    weights = PRECISIONS[plan.precision].high
    if optimizer.grads != weights and not FORMATS[optimizer.grads].full_width:
        also = "" if FORMATS[weights].full_width else f" or {weights}"
        why = f"with precision {plan.precision} gradients are fp32{also}"
        return Fault("plan.optimizer.grads", optimizer.grads, why, "fp32")
    if optimizer.grad_reduce != optimizer.grads and not SHARDINGS[plan.sharding].shards_gradients:
        why = f"gradients kept in {optimizer.grads} are reduced in {optimizer.grads}"
        remedy = f"{optimizer.grads}, or optimizer.grads {optimizer.grad_reduce} as well"
        return Fault("plan.optimizer.grad_reduce", optimizer.grad_reduce, why, remedy)
    return None


def hyper_connections_stay_whole(case: PlanCase) -> Fault | None:
    if case.facts.hyper_connections == 1:
        return None
    problems = [
        ("plan.pp", case.plan.pp, case.plan.pp > 1, "pp 1"),
        (
            "plan.recompute.granularity",
            case.plan.recompute.granularity,
            case.plan.recompute.whole_layers,
            "selective or none",
        ),
        ("model", case.facts.mtp, case.facts.mtp > 0, "a model without MTP"),
    ]
    found = [(key, value, remedy) for key, value, wrong, remedy in problems if wrong]
    if not found:
        return None
    key, value, remedy = found[0]
    return Fault(key, value, "Megatron-Core cannot combine this with hyper-connections", remedy)


def sparse_attention_gathers_context(case: PlanCase) -> Fault | None:
    sparse = [
        m for m in case.facts.mixers if isinstance(m, Attention | LatentAttention | CompressedAttention) and m.indexer
    ]
    if not sparse or case.plan.cp == 1 or CONTEXT_EXCHANGES[case.plan.cp_comm].gathers_keys:
        return None
    return Fault("plan.cp_comm", case.plan.cp_comm, "sparse attention needs all keys of the group", "allgather")


def graphs_and_recompute_fit(case: PlanCase) -> Fault | None:
    """A graph may lie inside a recomputed module or outside it, never partly; random numbers stay outside graphs."""
    plan, selected = case.plan, _selected(case)
    graphs = plan.stack.cuda_graphs
    if graphs == "none":
        return None
    moe_graphed = graphs == "full"
    problems = [
        (not moe_graphed and plan.recompute.whole_layers, "full recompute needs whole-step graphs"),
        (
            not moe_graphed and bool(case.facts.moe) and "moe" in selected,
            "the router is graphed, moe is recomputed",
        ),
        (plan.stack.dropout and "core_attn" in selected, "dropout inside recomputed, graphed attention"),
        (
            plan.stack.dropout and moe_graphed and bool({"mlp", "moe"} & set(selected)),
            "dropout inside a recomputed graph",
        ),
        (
            plan.stack.dropout and not case.facts.moe and graphs == "partial" and "mlp" in selected,
            "dropout inside a recomputed, graphed mlp",
        ),
        (
            graphs == "partial" and plan.overlap.delay_wgrad and _biased(case),
            "delayed weight gradients of a graphed bias",
        ),
    ]
    found = [text for wrong, text in problems if wrong]
    return (
        Fault("plan.stack.cuda_graphs", graphs, "; ".join(found), "cuda_graphs none, or change those")
        if found
        else None
    )


def _biased(case: PlanCase) -> bool:
    facts = case.facts
    return any(a.qkv_bias or a.out_bias for a in facts.attentions) or any(ffn.bias for ffn in facts.dense + facts.moe)


def sequence_parallel_without_tensor(case: PlanCase) -> Fault | None:
    if not case.plan.sequence_parallel or case.plan.tp > 1:
        return None
    return Fault("plan.sequence_parallel", True, "does nothing at tp = 1", "false")


def main_params_beside_whole_weights(case: PlanCase) -> Fault | None:
    """Optimizers update 32-bit weights in place (FP32Optimizer of Megatron-Core, torch.optim)."""
    main = case.plan.optimizer.main_params
    if main is None or not PRECISIONS[case.plan.precision].full_width:
        return None
    why = f"does nothing: with precision {case.plan.precision} the weights are the fp32 copy"
    return Fault("plan.optimizer.main_params", main, why, "null, or leave it out")


def expert_settings_without_experts(case: PlanCase) -> Fault | None:
    plan = case.plan
    if case.facts.moe:
        return None
    named = {
        "etp": plan.etp > 1,
        "capacity_factor": plan.capacity_factor is not None,
        "dispatch_fp8": plan.dispatch_fp8,
    }
    for name, given in named.items():
        if given:
            return Fault(f"plan.{name}", getattr(plan, name), "does nothing: the model has no experts", "leave it out")
    return None


def group_size_without_interleaving(case: PlanCase) -> Fault | None:
    plan = case.plan
    if plan.microbatch_group_size is None or SCHEDULES[plan.schedule].interleaves:
        return None
    why = f"does nothing with schedule {plan.schedule}"
    return Fault("plan.microbatch_group_size", plan.microbatch_group_size, why, "leave it out")


def recompute_of_absent_modules(case: PlanCase) -> Fault | None:
    recompute, facts = case.plan.recompute, case.facts
    if recompute.modules and not recompute.named_modules:
        why = f"does nothing with granularity {recompute.granularity}"
        return Fault("plan.recompute.modules", recompute.modules, why, "granularity selective, or no modules")
    present = {
        "mlp": bool(facts.dense),
        "moe": bool(facts.moe),
        "shared_experts": any(moe.shared_width for moe in facts.moe),
    }
    absent = [module for module in recompute.modules if not present.get(module, True)]
    if not absent:
        return None
    return Fault("plan.recompute.modules", recompute.modules, f"the model has no {', '.join(absent)}", "drop them")


def shared_overlap_without_shared_experts(case: PlanCase) -> Fault | None:
    if not case.plan.overlap.shared_experts or any(moe.shared_width for moe in case.facts.moe):
        return None
    return Fault("plan.overlap.shared_experts", True, "does nothing: the model has no shared experts", "false")


def expert_overlap_without_traffic(case: PlanCase) -> Fault | None:
    if not case.plan.overlap.moe_ep or case.plan.is_paired:
        return None
    return Fault("plan.overlap.moe_ep", True, "does nothing at ep = 1", "false")


def delayed_weight_gradients_without_effect(case: PlanCase) -> Fault | None:
    plan = case.plan
    if not plan.overlap.delay_wgrad or (plan.is_paired and not SCHEDULES[plan.schedule].pairs):
        return None
    why = f"does nothing with schedule {plan.schedule}, which puts weight gradients off itself"
    if not plan.is_paired:
        why = "does nothing without overlap.moe_ep and expert traffic"
    return Fault("plan.overlap.delay_wgrad", True, why, "false")


def sharded_weights_run_unpaired(case: PlanCase) -> Fault | None:
    """What is gathered for every micro-batch would have to be gathered for both halves of a pair."""
    plan = case.plan
    if not SHARDINGS[plan.sharding].shards_weights or not plan.is_paired:
        return None
    why = "weights gathered for every micro-batch are not modelled where micro-batches run in pairs"
    remedy = "sharding optimizer_gradients, or overlap.moe_ep false and a schedule without pairs"
    return Fault("plan.sharding", plan.sharding, why, remedy)


UNIVERSAL: dict[str, Check] = {
    "recompute_is_complete": recompute_is_complete,
    "recompute_modules_are_known": recompute_modules_are_known,
    "recomputed_modules_exist": recomputed_modules_exist,
    "loss_chunks_hold_tokens": loss_chunks_hold_tokens,
    "router_groups_divide": router_groups_divide,
    "sharded_weights_run_unpaired": sharded_weights_run_unpaired,
}
MEGATRON: dict[str, Check] = {
    "experts_with_tensor_need_sequence_parallel": experts_with_tensor_need_sequence_parallel,
    "tensor_overlap_needs_sequence_parallel": tensor_overlap_needs_sequence_parallel,
    "gather_overlap_needs_reduce_overlap": gather_overlap_needs_reduce_overlap,
    "expert_overlap_is_possible": expert_overlap_is_possible,
    "delayed_weight_gradients_need_expert_overlap": delayed_weight_gradients_need_expert_overlap,
    "shared_overlap_has_dispatcher": shared_overlap_has_dispatcher,
    "deepep_has_peers": deepep_has_peers,
    "dispatch_in_fp8_is_possible": dispatch_in_fp8_is_possible,
    "expert_bias_needs_whole_experts": expert_bias_needs_whole_experts,
    "shared_experts_overlap_or_recompute": shared_experts_overlap_or_recompute,
    "stored_input_is_gated": stored_input_is_gated,
    "delayed_scaling_keeps_activations": delayed_scaling_keeps_activations,
    "optimizer_is_offered": optimizer_is_offered,
    "optimizer_formats_are_offered": optimizer_formats_are_offered,
    "gradient_formats_are_offered": gradient_formats_are_offered,
    "hyper_connections_stay_whole": hyper_connections_stay_whole,
    "sparse_attention_gathers_context": sparse_attention_gathers_context,
    "graphs_and_recompute_fit": graphs_and_recompute_fit,
}
WITHOUT_EFFECT: dict[str, Check] = {
    "sequence_parallel_without_tensor": sequence_parallel_without_tensor,
    "main_params_beside_whole_weights": main_params_beside_whole_weights,
    "expert_settings_without_experts": expert_settings_without_experts,
    "group_size_without_interleaving": group_size_without_interleaving,
    "recompute_of_absent_modules": recompute_of_absent_modules,
    "shared_overlap_without_shared_experts": shared_overlap_without_shared_experts,
    "expert_overlap_without_traffic": expert_overlap_without_traffic,
    "delayed_weight_gradients_without_effect": delayed_weight_gradients_without_effect,
}
