"""A scenario and its prediction as one flat mapping of dotted keys, which the tables of targets speak of."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from hardware.precisions import FORMATS
from simulator.fields import as_written
from simulator.launch.express import Inexpressible
from simulator.launch.forecast import STORAGE, Forecast
from simulator.launch.hybrid import pattern
from simulator.launch.model_facts import model_facts
from simulator.launch.phases import Stretch, step_count
from simulator.model.spec import Model
from simulator.optimizers import OPTIMIZERS
from simulator.plans.case import PlanCase
from simulator.plans.case import model_facts as rule_facts
from simulator.plans.choices import SHARDINGS
from simulator.plans.layout import format_layout, stages
from simulator.plans.quantized import keeps_16_bit_parts, with_16_bit_layers
from simulator.plans.rules_pipeline import layers_fit_ranks
from simulator.plans.spec import Plan
from simulator.run.read import RunPolicies
from simulator.scenario.schema import Run, Scenario


@dataclass(frozen=True, slots=True)
class Facts:
    """Keys with their values, and what of the scenario has no key that a target could be told."""

    values: Mapping[str, Any]
    inexpressible: tuple[Inexpressible, ...]


def scenario_facts(scenario: Scenario, forecast: Forecast, stretch: Stretch | None = None) -> Facts:
    """Everything that a launch says of a scenario, by key; `stretch`: the phase of a run that it is."""
    of_model, problems = model_facts(scenario.model, scenario.run.seq_length)
    values = {
        **of_model,
        **plan_facts(scenario.model, scenario.plan, scenario.run.seq_length),
        **run_facts(scenario.run, scenario.plan, forecast),
        **_phase_facts(stretch),
    }
    if "model.hybrid" in values:
        values["model.hybrid"] = pattern(scenario.model, scenario.plan)
    return Facts(values, (*problems, *_phases(scenario.run)))


# -- the plan -------------------------------------------------------------------------------------------------------


def plan_facts(model: Model, plan: Plan, seq_length: int) -> dict[str, Any]:
    """Keys `plan.*` as a file writes them, `plan.stack.*`, and the figures that follow from several of them."""
    written = as_written(plan)
    written.pop("stack")
    facts = dict(_flat("plan", written))
    facts["plan.adapters"] = f"rank {plan.adapters.rank}" if plan.adapters else None
    facts["plan.offload.gradients"] = _or_auto(plan.offload.gradient_fraction)
    facts |= {f"plan.stack.{spec.name}": getattr(plan.stack, spec.name) for spec in fields(plan.stack)}
    facts["plan.layout"] = stated_layout(model, plan, seq_length)
    facts["plan.microbatches"] = plan.microbatches
    facts["plan.local_batch_size"] = plan.global_batch_size // plan.dp if plan.pp > 1 else plan.micro_batch_size
    facts["plan.optimizer_instances"] = plan.dp * plan.cp // plan.shard_group if plan.shard_group else 1
    facts["plan.bf16_ends"] = plan.quantized.bf16_layers_at_start + plan.quantized.bf16_layers_at_end > 0
    facts["plan.filter_fqns"] = filtered_modules(model, plan)
    facts["plan.precision_aware_optimizer"] = is_precision_aware(plan)
    facts |= _shards(plan)
    facts |= _compiled(model, plan)
    if plan.pp > 1:
        facts["plan.stage_modules"] = stage_modules(model, plan)
    return facts


def _or_auto(value: float | None) -> float | str:
    return "auto" if value is None else value


def _flat(prefix: str, written: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in written.items():
        if isinstance(value, Mapping):
            yield from _flat(f"{prefix}.{key}", value)
        else:
            yield f"{prefix}.{key}", tuple(value) if isinstance(value, list) else value


def stated_layout(model: Model, plan: Plan, seq_length: int) -> str | None:
    """The plan's layout string, or that of a split which no other words describe: stages of unequal size."""
    if plan.layout is not None or plan.pp == 1:
        return plan.layout
    case = PlanCase(rule_facts(model), plan, plan.gpus, seq_length)
    if layers_fit_ranks(case) is None:
        return None
    return format_layout(tuple(stage.symbols for stage in stages(model, plan)))


def is_precision_aware(plan: Plan) -> bool:
    """Whether Megatron's Adam must keep states below 32 bit, or in host memory: its precision-aware optimizer."""
    optimizer = plan.optimizer
    if not OPTIMIZERS[optimizer.kind].precision_aware or not SHARDINGS[plan.sharding].shards_optimizer:
        return False
    kept = [optimizer.moments] + ([optimizer.main_params] if optimizer.main_params else [])
    return plan.offload.optimizer_fraction > 0 or any(not FORMATS[name].full_width for name in kept)


# Parts of a layer as torchtitan's decoders call their modules.
TITAN_MODULES = {"attention": "attention", "mlp": "feed_forward"}


def filtered_modules(model: Model, plan: Plan) -> tuple[str, ...]:
    """Names in torchtitan's modules whose linears stay in 16 bit; a filter takes every module with it in its name."""
    if not keeps_16_bit_parts(plan):
        return ()
    parts = [name for part, name in TITAN_MODULES.items() if not getattr(plan.quantized, part)]
    marked = with_16_bit_layers(model, plan)
    return (*parts, *(f"layers.{index}." for index, layer in enumerate(marked.layers) if layer.in_16_bit))


def _shards(plan: Plan) -> dict[str, int]:
    """Data parallelism as replicas of groups that shard, context parallelism apart (it shards too)."""
    sharded = SHARDINGS[plan.sharding].shards_optimizer
    group = max(1, plan.shard_group // plan.cp) if plan.shard_group else plan.dp
    shards = group if sharded else 1
    return {"plan.shards": shards, "plan.replicas": plan.dp // shards}


def _compiled(model: Model, plan: Plan) -> dict[str, Any]:
    """What torch.compile must do for the kernels that were predicted."""
    stack = plan.stack
    has_experts = model.has_experts
    loss_alone = stack.fused_loss_alone == "with_experts" and has_experts
    parts = ("model", "loss") if stack.fused_kernels else ("loss",) if loss_alone else ()
    return {"plan.compile.enable": bool(parts), "plan.compile.components": parts}


def stage_modules(model: Model, plan: Plan) -> tuple[tuple[str, ...], ...]:
    """Names of the modules of each virtual stage, as torchtitan's decoders call them."""
    result = []
    for stage in stages(model, plan):
        names = ["tok_embeddings"] if stage.embedding else []
        names += [f"layers.{layer}" for layer in stage.layers]
        names += ["norm", "lm_head"] if stage.head else []
        result.append(tuple(names))
    return tuple(result)


# -- the run --------------------------------------------------------------------------------------------------------


def run_facts(run: Run, plan: Plan, forecast: Forecast) -> dict[str, Any]:
    """Keys `run.*`: length, checkpoints in steps, and whether the job restarts by itself."""
    policies = run.policies
    facts: dict[str, Any] = {
        "run.seq_length": run.seq_length,
        "run.steps": step_count(run.tokens, plan.global_batch_size, run.seq_length),
        "run.restarts": _names_spares(policies),
    }
    facts |= _evaluation_facts(policies, plan.global_batch_size * run.seq_length)
    return facts if policies is None else facts | _checkpoint_facts(policies, forecast)


def _evaluation_facts(policies: RunPolicies | None, step_tokens: int) -> dict[str, Any]:
    """Steps between evaluations, and global batches of one (0: none); these are unknown where only its time is."""
    evaluation = policies.evaluation if policies else None
    if evaluation is None:
        return {"run.evaluation.batches": 0}
    facts: dict[str, Any] = {"run.evaluation.every": evaluation.every_steps}
    if evaluation.tokens is not None:
        facts["run.evaluation.batches"] = max(1, round(evaluation.tokens / step_tokens))
    return facts


def _names_spares(policies: RunPolicies | None) -> bool:
    """Whether the scenario itself asks for hot spares, which a launcher must put in the place of lost nodes."""
    return policies is not None and not policies.auto_spares and policies.recovery.hot_spares > 0


def _checkpoint_facts(policies: RunPolicies, forecast: Forecast) -> dict[str, Any]:
    checkpoint = policies.checkpoint
    facts: dict[str, Any] = {"run.checkpoint.policy": checkpoint.policy}
    facts["run.checkpoint.replication_jump"] = checkpoint.peer_distance_nodes
    for tier, every_s in forecast.checkpoint_every_s.items():
        key = "run.checkpoint.every_steps" if tier == STORAGE else "run.checkpoint.fast_every_steps"
        if math.isfinite(every_s):
            facts[key] = max(1, round(every_s / forecast.step_time_s))
    return facts


def _phase_facts(stretch: Stretch | None) -> dict[str, Any]:
    """Keys of a phase: frameworks count steps from the first phase's first on, as checkpoints carry the count."""
    if stretch is None:
        return {}
    return {
        "run.steps": stretch.steps_before + stretch.steps,
        "run.phases.goes_on": stretch.goes_on,
        "run.phases.reshards": stretch.reshards,
        "run.phases.hands_over": stretch.number < stretch.count,
    }


def _phases(run: Run) -> Iterator[Inexpressible]:
    phases = run.policies.phases if run.policies else ()
    if len(phases) > 1:
        names = " ".join(phase.name for phase in phases)
        yield Inexpressible(
            "run.phases", names, "one launch has one batch and one sequence length; launch each phase (--phase NAME)"
        )
