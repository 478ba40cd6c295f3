"""Legal plans drawn at random for launch tests: catalogue models, clusters and plans that Megatron-Core plays."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from hardware import catalogue
from hardware.precisions import PRECISIONS
from hardware.problems import InputError
from simulator.launch.forecast import Forecast
from simulator.model.catalogue import load
from simulator.plans.case import ModelFacts, divisors, model_facts
from simulator.plans.layout import format_layout
from simulator.plans.rules import violations
from simulator.plans.spec import Optimizer, Overlap, Plan, Recompute
from simulator.scenario.schema import Scenario, load_scenario
from simulator.schedules import default_schedule

SCENARIOS = Path(__file__).parents[2] / "scenarios"
FORECAST = Forecast(10.0, (9.0, 11.0), 60e9, True, {"storage": 1800.0}, spares=2)
MODELS = (
    "deepseek-v3",
    "deepseek-v2",
    "kimi-k2",
    "qwen3-235b-a22b",
    "qwen3-30b-a3b",
    "mixtral-8x7b",
    "glm-4.5",
    "gpt-oss-120b",
    "llama-3.1-405b",
    "llama-3.1-70b",
    "llama-3-8b",
    "gpt3-175b",
    "nemotron-4-340b",
    "qwen3-8b",
)
MACHINES = (("hgx-h100", "ndr-rail-3tier"), ("hgx-b200", "ndr-rail-3tier"), ("gb200-nvl72", "nvl72-400g-2tier"))
MODULES = ("core_attn", "layernorm", "mlp", "moe_act", "moe", "mla_up_proj", "shared_experts")
DRAWN_PRECISIONS = ("bf16", "bf16", "fp8-delayed", "fp8-tensorwise", "fp8-blockwise", "mxfp8", "nvfp4")


@cache
def base() -> Scenario:
    return load_scenario(SCENARIOS / "tiny.yaml")


@cache
def facts_of(name: str) -> ModelFacts:
    return model_facts(load(name))


def drawn(count: int, seed: int = 0) -> Iterator[Scenario]:
    """`count` scenarios that break no rule."""
    chance = random.Random(seed)
    while count:
        scenario = draw(chance)
        if scenario is not None:
            count -= 1
            yield scenario


def draw(chance: random.Random) -> Scenario | None:
    """One scenario; None where the draw is not legal."""
    name = chance.choice(MODELS)
    facts = facts_of(name)
    seq_length = chance.choice((2048, 4096, 8192)) if not facts.positions else 2048
    plan = draw_plan(chance, facts)
    if violations(facts, plan, gpus=plan.gpus, seq_length=seq_length):
        return None
    node, fabric = chance.choice(MACHINES)
    try:
        cluster = catalogue.cluster(plan.gpus, catalogue.node(node), fabric)
    except InputError:
        return None
    if PRECISIONS[plan.precision].lacks(cluster.accelerator.peak_flops_per_s):
        return None
    run = replace(base().run, seq_length=seq_length)
    return replace(base(), name=name, model=load(name), cluster=cluster, plan=plan, run=run)


def draw_plan(chance: random.Random, facts: ModelFacts) -> Plan:
    tp, cp = chance.choice((1, 1, 2, 4, 8)), chance.choice((1, 1, 1, 2, 4))
    pp = chance.choice((1, 2, 4, 8, 16))
    vpp = chance.choice((1, 1, 2, 3, 4)) if pp > 1 else 1
    etp = chance.choice((1, 1, 1, tp)) if facts.moe else 1
    dp = chance.choice((1, 2, 4, 8, 16, 32))
    ep = chance.choice([d for d in divisors(tp * cp * dp) if d <= 64]) if facts.moe else 1
    sequence_parallel = tp > 1 and chance.random() < 0.8
    sharding = chance.choice(("none", "optimizer", "optimizer", "optimizer", "optimizer_gradients", "full"))
    micro, groups = chance.choice((1, 2)), chance.choice((1, 2, 4))
    return Plan(
        dp=dp,
        micro_batch_size=micro,
        global_batch_size=micro * dp * pp * groups,
        tp=tp,
        cp=cp,
        pp=pp,
        vpp=vpp,
        ep=ep,
        etp=etp,
        sequence_parallel=sequence_parallel,
        cp_comm=chance.choice(("p2p", "allgather", "a2a")),
        schedule=default_schedule(pp, vpp),
        sharding=sharding,
        precision=chance.choice(DRAWN_PRECISIONS),
        fp8_param_gather=chance.random() < 0.3,
        recompute=draw_recompute(chance),
        optimizer=draw_optimizer(chance),
        overlap=draw_overlap(chance),
        dispatcher=chance.choice(("allgather", "alltoall", "deepep", "hybridep")),
        microbatch_group_size=chance.choice((None, None, pp, pp * 2)) if vpp > 1 else None,
        capacity_factor=chance.choice((None, None, 1.25)) if facts.moe else None,
        vocab_divisible_by=chance.choice((128, 256)),
        rank_order=chance.choice(("tp-cp-ep-dp-pp",) * 4 + ("tp-cp-ep-pp-dp",)),
        **draw_split(chance, facts, pp, vpp),
    )


def draw_split(chance: random.Random, facts: ModelFacts, pp: int, vpp: int) -> dict[str, Any]:
    """How layers are split over stages: evenly, with the ends counted or pinned, or by a layout string."""
    stages, layers = pp * vpp, facts.layers
    if pp == 1:
        return {}
    kind = chance.choice(("even", "counted", "pinned", "layout", "layout"))
    if kind == "counted":
        return {"account_for_embedding": True, "account_for_loss": True}
    if kind == "pinned" and pp > 2:
        rest = layers % (pp - 2)
        middle = layers // (pp - 2) - 1
        left = rest + (pp - 2)
        return {"first_stage_layers": left // 2, "last_stage_layers": left - left // 2} if middle > 0 else {}
    if kind != "layout" or stages > layers:
        return {}
    base_count, extra = divmod(layers, stages)
    symbols = ["t" * (base_count + (stage < extra)) for stage in range(stages)]
    symbols[0] = "E" + symbols[0]
    symbols[-1] += "m" * facts.mtp + "L"
    return {"layout": format_layout(tuple(symbols))}


def draw_recompute(chance: random.Random) -> Recompute:
    kind = chance.choice(("none", "none", "selective", "full"))
    if kind == "selective":
        return Recompute(granularity=kind, modules=tuple(sorted(chance.sample(MODULES, chance.randint(1, 2)))))
    if kind == "full":
        return Recompute(granularity=kind, method=chance.choice(("uniform", "block")), layers=1)
    return Recompute()


def draw_optimizer(chance: random.Random) -> Optimizer:
    kind = chance.choice(("adamw", "adamw", "adamw", "sgd", "muon"))
    moments = chance.choice(("fp32", "fp32", "bf16", "fp8")) if kind == "adamw" else "fp32"
    grads = chance.choice(("fp32", "bf16"))
    return Optimizer(kind=kind, moments=moments, grads=grads, grad_reduce=grads)


def draw_overlap(chance: random.Random) -> Overlap:
    reduces = chance.random() < 0.8
    paired = chance.random() < 0.3
    return Overlap(
        grad_reduce=reduces,
        param_gather=reduces and chance.random() < 0.8,
        tp_comm=chance.random() < 0.2,
        p2p=chance.random() < 0.8,
        moe_ep=paired,
        shared_experts=not paired and chance.random() < 0.3,
        delay_wgrad=paired and chance.random() < 0.5,
    )


def acting(scenario: Scenario) -> Plan:
    """The plan with the default in place of every value that acts on nothing, which no launch says."""
    plan, facts = scenario.plan, model_facts(scenario.model)
    shared = any(getattr(layer.ffn, "shared_width", 0) for layer in scenario.model.layers)
    default = Plan(1, 1, 1)
    changes: dict[str, Any] = {}
    if plan.cp == 1:
        changes["cp_comm"] = default.cp_comm
    if not facts.moe:
        changes |= {"dispatcher": default.dispatcher, "capacity_factor": None}
    overlap = plan.overlap
    if plan.vpp == 1:
        overlap = replace(overlap, p2p=default.overlap.p2p)
    if plan.ep == 1:
        overlap = replace(overlap, moe_ep=False, delay_wgrad=False)
    if plan.sharding == "none":
        overlap = replace(overlap, param_gather=default.overlap.param_gather)
    if not shared:
        overlap = replace(overlap, shared_experts=False)
    return replace(plan, overlap=overlap, **changes)
