"""Which values every key of a plan may take in a search: what the scenario's model, cluster and plan allow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

from hardware.collectives import DISPATCHERS
from hardware.precisions import OFFERED, PRECISIONS
from simulator.plans.case import ModelFacts, divisors
from simulator.plans.choices import CONTEXT_EXCHANGES
from simulator.plans.spec import Offload, Optimizer, Plan, Recompute
from simulator.scenario.spec import Scenario
from simulator.schedules import OFFERED as SCHEDULES_OFFERED

# Context parallelism that leaves a rank fewer tokens than this is not tried: its exchanges cost more than its work.
LEAST_TOKENS = 1024
# The largest micro-batch tried, in sequences.
MOST_SEQUENCES = 4
# Modules whose recomputation costs little beside what it frees.
CHEAP_MODULES = ("layernorm", "mla_up_proj", "moe_act")
Candidates = Callable[[Scenario, ModelFacts], Sequence[Any]]


def tensor_degrees(scenario: Scenario, facts: ModelFacts) -> list[int]:
    """Divisors of the GPU count within one scale-up domain."""
    cluster = scenario.cluster
    return [d for d in divisors(cluster.gpus) if d <= cluster.node.scale_up.domain_gpus]


def context_degrees(scenario: Scenario, facts: ModelFacts) -> list[int]:
    """Divisors of the GPU count that leave every rank LEAST_TOKENS of a sequence."""
    most = max(1, scenario.run.seq_length // LEAST_TOKENS)
    return [d for d in divisors(scenario.cluster.gpus) if d <= most]


def pipeline_degrees(scenario: Scenario, facts: ModelFacts) -> list[int]:
    """Divisors of the GPU count, at most one rank to a layer."""
    return [d for d in divisors(scenario.cluster.gpus) if d <= facts.layers]


def chunk_counts(scenario: Scenario, facts: ModelFacts) -> list[int]:
    """Chunks per rank: powers of two, at least two layers to a pair of them."""
    return [1 << shift for shift in range(12) if 1 << shift <= max(1, facts.layers // 2)]


def expert_degrees(scenario: Scenario, facts: ModelFacts) -> list[int]:
    """Divisors of every layer's experts."""
    common = set(divisors(facts.moe[0].experts)) if facts.moe else {1}
    for moe in facts.moe:
        common &= set(divisors(moe.experts))
    return sorted(common)


def expert_tensor_degrees(scenario: Scenario, facts: ModelFacts) -> list[int]:
    """No split of an expert, or one within a scale-up domain."""
    if not facts.moe:
        return [1]
    return tensor_degrees(scenario, facts)


def batch_sizes(scenario: Scenario, facts: ModelFacts) -> list[int]:
    """Powers of two up to MOST_SEQUENCES."""
    return [1 << shift for shift in range(MOST_SEQUENCES.bit_length())]


def recomputations(scenario: Scenario, facts: ModelFacts) -> list[Recompute]:
    """Nothing, the cheap modules in every combination, these with the expensive ones, and all of every layer."""
    whole = Recompute(granularity="full")
    if scenario.plan.stack.selective_recompute == "operators":
        return [Recompute(), Recompute("selective", modules=("core_attn",)), whole]
    has = {"mla_up_proj": facts.latent, "moe_act": bool(facts.moe)}
    cheap = [module for module in CHEAP_MODULES if has.get(module, True)]
    expensive: list[tuple[str, ...]] = [("core_attn",)]
    if facts.dense:
        expensive.append(("mlp",))
    if facts.moe:
        expensive.append(("moe",))
        expensive.append(("core_attn", "moe"))
    chosen = [modules for count in range(1, len(cheap) + 1) for modules in combinations(cheap, count)]
    beside_moe = [module for module in cheap if module != "moe_act"]
    for modules in expensive:
        chosen.append((*(beside_moe if "moe" in modules else cheap), *modules))
    return [Recompute(), *(Recompute("selective", modules=modules) for modules in chosen), whole]


def precisions(scenario: Scenario, facts: ModelFacts) -> list[str]:
    """What the GPU computes in."""
    peaks = scenario.cluster.accelerator.peak_flops_per_s
    return [name for name in OFFERED if not PRECISIONS[name].lacks(peaks)]


def offloads(scenario: Scenario, facts: ModelFacts) -> list[Offload]:
    """Nothing, or the whole optimizer in host memory."""
    own = scenario.plan.offload
    return [own, replace(own, optimizer_fraction=0.0), replace(own, optimizer_fraction=1.0, optimizer_overlap=True)]


def optimizers(scenario: Scenario, facts: ModelFacts) -> list[Optimizer]:
    """Moments in 32 or in 16 bit."""
    own = scenario.plan.optimizer
    return [own, replace(own, moments="fp32"), replace(own, moments="bf16")]


def shard_groups(scenario: Scenario, facts: ModelFacts) -> list[int | None]:
    """All replicas, or those of a scale-up domain (HSDP)."""
    return [None, scenario.cluster.node.scale_up.domain_gpus]


def switch(scenario: Scenario, facts: ModelFacts) -> list[bool]:
    return [False, True]


def experts_switch(scenario: Scenario, facts: ModelFacts) -> list[bool]:
    return [False, True] if facts.moe else [False]


def dispatchers(scenario: Scenario, facts: ModelFacts) -> list[str]:
    """Those that the part has kernels for."""
    if not facts.moe:
        return [scenario.plan.dispatcher]
    generation = scenario.cluster.accelerator.generation
    return [name for name, each in DISPATCHERS.items() if each.runs_on(generation)]


def words(names: Sequence[Any]) -> Candidates:
    """The same candidates for every scenario."""
    return lambda scenario, facts: list(names)


# What is searched unless it is kept, in the order in which plans are made: what rules reject early comes first.
SEARCHED: dict[str, Candidates] = {
    "tp": tensor_degrees,
    "cp": context_degrees,
    "pp": pipeline_degrees,
    "micro_batch_size": batch_sizes,
    "sequence_parallel": switch,
    "ep": expert_degrees,
    "schedule": words(SCHEDULES_OFFERED),
    "vpp": chunk_counts,
    "sharding": words(("optimizer", "full")),
    "overlap.moe_ep": experts_switch,
    "overlap.delay_wgrad": experts_switch,
    "overlap.shared_experts": experts_switch,
    "dispatcher": dispatchers,
    "recompute": recomputations,
}
# What is searched only where it is freed.
FREED: dict[str, Candidates] = {
    "etp": expert_tensor_degrees,
    "overlap.tp_comm": switch,
    "precision": precisions,
    "cp_comm": words(tuple(CONTEXT_EXCHANGES)),
    "offload": offloads,
    "optimizer": optimizers,
    "shard_group": shard_groups,
    "rank_order": words(["tp-cp-ep-dp-pp", "tp-cp-ep-pp-dp"]),
    "overlap.grad_reduce": switch,
    "overlap.param_gather": switch,
    "overlap.p2p": switch,
    "fp8_param_gather": switch,
    "activation_fp8_input_store": switch,
    "microbatch_group_size": words([None]),
}
# Keys of the plan that a search sets itself, so that they are neither kept nor freed by name.
FOLLOWING = ("dp", "layout", "first_stage_layers", "last_stage_layers", "account_for_embedding", "account_for_loss")
KEYS = (*SEARCHED, *FREED)


def own_value(plan: Plan, key: str) -> Any:
    """The plan's own value of a key."""
    return getattr(plan.overlap, key.removeprefix("overlap.")) if key.startswith("overlap.") else getattr(plan, key)
