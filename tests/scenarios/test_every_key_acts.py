"""Every key of a scenario moves the answer in the direction that it should: one row each, and no key without one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from hardware.problems import InputError
from simulator.plans.layout import stages
from simulator.predict.prediction import Prediction, evaluate
from simulator.run.result import RunResult
from simulator.scenario.key_reference import moves
from simulator.scenario.schema import load_scenario, scenario_schema

SCENARIOS = Path(__file__).parents[2] / "scenarios"
FIGURES: dict[str, Callable[[Prediction], float]] = {
    "step": lambda prediction: prediction.step_time_s,
    "memory": lambda prediction: max(stage.peak_memory_bytes for stage in prediction.stages),
    "device": lambda prediction: max(stage.device_memory_bytes for stage in prediction.stages),
    "run": lambda prediction: run_of(prediction).finish_s.p50,
    "restart": lambda prediction: run_of(prediction).lost_s["restart"],
    "energy": lambda prediction: known(run_of(prediction).energy_j),
    "water": lambda prediction: known(run_of(prediction).water_m3),
    "cost": lambda prediction: known(run_of(prediction).cost_usd),
    "carbon": lambda prediction: known(run_of(prediction).carbon_kg),
}


# Figures as the key reference names them.
MOVED: dict[str, Callable[[Prediction], float | None]] = {
    "step": lambda prediction: prediction.step_time_s,
    "memory": lambda prediction: prediction.device_memory_bytes,
    "run": lambda prediction: prediction.run.finish_s.p50 if prediction.run else None,
    "cost": lambda prediction: prediction.run.cost_usd if prediction.run else None,
    "energy": lambda prediction: prediction.run.energy_j if prediction.run else None,
    "water": lambda prediction: prediction.run.water_m3 if prediction.run else None,
    "carbon": lambda prediction: prediction.run.carbon_kg if prediction.run else None,
}
SAME_FIGURE = {"device": "memory", "restart": "run"}


class Acts(NamedTuple):
    """Writing `value` for `key` moves `figure` up or down (`sign` 1 or -1) in `scenario` with the keys of `given`."""

    key: str
    value: str
    figure: str
    sign: int
    given: tuple[str, ...] = ()
    scenario: str = "tiny"


ALONE = ("plan.pp=1", "plan.ep=1")
SEQUENCE = (*ALONE, "plan.tp=2", "plan.sequence_parallel=true")
PAIRED = ("plan.pp=1", "plan.ep=8", "plan.overlap.moe_ep=true")
ELSEWHERE = "plan.stack=pytorch-fsdp-2025"
# A trainer on it that adds tensor parallelism of its own.
FREE = "plan.stack={base: pytorch-fsdp-2025, framework_rules: false}"
SPREAD = ("cluster.gpus=16", "cluster.fabric=ndr-rail-2tier")
DEEP = ("plan.pp=4", "plan.ep=2")
LINK = "cluster.fabric=ndr-rail-2tier"
WIDE = (*PAIRED, "cluster.gpus=64", LINK, "plan.ep=16", "plan.global_batch_size=256")
PLAIN = ("cluster.gpus=64", LINK, *ALONE, "plan.global_batch_size=256", "plan.sharding=none", ELSEWHERE)
SLOW = "cluster.node={base: hgx-h100, nic: {bandwidth: 12.5 GB/s}}"
SAVING = ("run.tokens=10T", "run.checkpoint.policy=sync")
WHOLE = ("plan.recompute.granularity=full",)
CHOSEN = ("plan.recompute.granularity=selective", "plan.recompute.modules=[core_attn]")
OFFLOADED = ("plan.offload.activation=0.5", "plan.offload.modules=[core_attn]")

EIGHT_BITS, EIGHT_LAYERS = ("plan.precision=fp8-tensorwise",), "examples/low-precision-share"
WIDE_BATCH = (*EIGHT_BITS, "plan.micro_batch_size=8", "run.seq_length=4096")
ON_HOST = ("plan.offload.optimizer=1", "plan.sharding=full", "plan.stack=deepspeed-0.19", *ALONE)

# Eight servers, of which one breaks every three hours and is away for days.
FLEET = ("cluster.gpus=64", LINK, *ALONE, "plan.global_batch_size=256", "run.tokens=1T", "run.failures={mtbf: 3 h}",
         "run.simulation.runs=40")  # fmt: skip
SHORT = (*FLEET, "run.failures={mtbf: 12 h}", "run.spares.hot=0")
SHRINKING = (*SHORT, "run.recovery.when_short=shrink")
STEPS = ("run.tokens=null", "run.steps=1000")
COPIES = (*FLEET, "run.checkpoint.policy=in-memory")
# The job stops and every server stays, with what it has on its drives.
CRASHES = "run.failures={exposure: {gpus: 64, time: 10 d}, classes: {software: {kind: crash, scope: job, count: 80}}}"
OWNED = (*FLEET, "run.prices.capital_per_gpu=30 kUSD", "run.prices.electricity=80 USD/MWh")
PAUSING = ("run.evaluation.every=1000", "run.evaluation.lasts=1 min")

RUN_ROWS = (
    Acts("run.steps", "2000", "run", 1, STEPS),
    Acts("run.samples", "1000000", "run", 1, ("run.tokens=null", "run.samples=500000")),
    Acts("run.days", "2", "run", 1, ("run.tokens=null", "run.days=1")),
    Acts("run.checkpoint.policy", "sync", "run", 1, FLEET),
    Acts("run.checkpoint.fast_every", "1 h", "run", 1, COPIES),
    Acts("run.checkpoint.least_every", "3 h", "run", 1, FLEET),
    Acts("run.checkpoint.overhead", "20 s", "run", 1, FLEET),
    Acts("run.checkpoint.local_bandwidth", "0.01 GB/s", "restart", 1,
         (*FLEET, "run.checkpoint.policy=tiered", CRASHES)),
    Acts("run.checkpoint.writer_bandwidth", "0.01 GB/s", "run", 1, (*FLEET, "run.checkpoint.policy=sync")),
    Acts("run.spares.hot", "4", "run", -1, SHORT),
    Acts("run.spares.cold", "4", "run", -1, SHORT),
    Acts("run.spares.within", "true", "run", 1, (*FLEET, "run.spares.hot=4")),
    Acts("run.spares.hot_swap", "1 h", "run", 1, (*FLEET, "run.spares.hot=4")),
    Acts("run.spares.cold_start", "10 h", "run", 1, (*SHORT, "run.spares.cold=8")),
    Acts("run.recovery.when_short", "shrink", "run", -1, SHORT),
    Acts("run.recovery.patience", "10 h", "run", 1, SHRINKING),
    Acts("run.recovery.min_replicas", "8", "run", 1, SHRINKING),
    Acts("run.recovery.regrow", "at-once", "run", -1, SHRINKING),
    Acts("run.restart.process_start", "1 h", "restart", 1, FLEET),
    Acts("run.restart.init_per_gpu", "10 s", "restart", 1, FLEET),
    Acts("run.restart.warm_up", "1 h", "restart", 1, FLEET),
    Acts("run.maintenance.every", "3 h", "run", 1, (*FLEET, "run.maintenance.lasts=1 h", "run.maintenance.every=12 h")),
    Acts("run.maintenance.lasts", "4 h", "run", 1, (*FLEET, "run.maintenance.lasts=1 h", "run.maintenance.every=6 h")),
    Acts("run.evaluation.every", "100", "run", 1, PAUSING),
    Acts("run.evaluation.lasts", "10 min", "run", 1, PAUSING),
    Acts("run.evaluation.tokens", "100M", "run", 1, ("run.evaluation.every=1000", "run.evaluation.tokens=10M")),
    Acts("run.prices.gpu_hour", "5 USD/h", "cost", 1, (*FLEET, "run.prices.gpu_hour=2 USD/h")),
    Acts("run.prices.capital_per_gpu", "60 kUSD", "cost", 1, OWNED),
    Acts("run.prices.life", "8 years", "cost", -1, OWNED),
    Acts("run.prices.utilisation", "50%", "cost", 1, OWNED),
    Acts("run.prices.electricity", "160 USD/MWh", "cost", 1, OWNED),
    Acts("run.prices.water", "20 USD/m3", "cost", 1, OWNED),
    Acts("run.prices.network_per_gpu", "0.5 USD/h", "cost", 1, OWNED),
    Acts("run.prices.storage", "40 USD/h", "cost", 1, OWNED),
    Acts("run.prices.carbon", "380 g/kWh", "carbon", 1, (*OWNED, "run.prices.carbon=100 g/kWh")),
    Acts("run.prices.pay_unused_slots", "false", "cost", -1, ("run.prices.gpu_hour=4 USD/h", "run.failures=none"),
         "deepseek-v3-256xgb200"),
    Acts("run.failures", "{mtbf: 1 h}", "run", 1, FLEET),
)  # fmt: skip
# Which runs are drawn and by how many processes, and what has tests of its own: copies on distant servers
# (test_run_checkpoints), lemons and slow parts (test_run_read, test_run_stories), runs that are given up
# (test_run_terms), phases, jobs and logs of faults (test_phases, test_jobs, test_run_log).
RUN_ELSEWHERE = {
    "run.simulation.runs", "run.simulation.seed", "run.simulation.workers", "run.simulation.give_up_below",
    "run.checkpoint.peer_distance", "run.recovery.evict_after", "run.recovery.evict_slow",
    "run.phases", "run.jobs", "run.fault_log",
}  # fmt: skip

ROWS = (
    *RUN_ROWS,
    Acts("plan.micro_batch_size", "4", "memory", 1),
    Acts("plan.global_batch_size", "128", "step", 1),
    Acts("plan.tp", "2", "memory", -1, (*ALONE, "plan.sequence_parallel=true")),
    Acts("plan.cp", "2", "memory", -1, ALONE),
    Acts("plan.pp", "4", "memory", -1, ("plan.ep=2",)),
    Acts("plan.vpp", "2", "step", -1, ("plan.global_batch_size=16",)),
    Acts("plan.ep", "2", "memory", 1),
    Acts("plan.etp", "2", "step", 1, ("plan.pp=1", "plan.tp=2", "plan.sequence_parallel=true")),
    Acts("plan.sequence_parallel", "true", "memory", -1, (*ALONE, "plan.tp=2", FREE)),
    Acts("plan.cp_comm", "allgather", "step", 1, (*ALONE, "plan.cp=2", "run.seq_length=16384")),
    Acts("plan.schedule", "gpipe", "memory", 1, ("plan.stack=hai-llm-2024",)),
    Acts("plan.microbatch_group_size", "8", "memory", 1, ("plan.vpp=2", "plan.schedule=interleaved")),
    Acts("plan.layout", "Et|tttttttL", "step", 1),
    Acts("plan.first_stage_layers", "1", "step", 1),
    Acts("plan.last_stage_layers", "1", "step", 1),
    Acts("plan.sharding", "none", "memory", 1),
    Acts("plan.shard_group", "2", "memory", 1),
    Acts("plan.optimizer.kind", "sgd", "memory", -1),
    Acts("plan.optimizer.main_params", "fp16", "memory", -1),
    Acts("plan.optimizer.moments", "bf16", "memory", -1),
    Acts("plan.optimizer.grads", "bf16", "memory", -1, (*ALONE, ELSEWHERE)),
    Acts("plan.optimizer.grad_reduce", "bf16", "step", -1, ("plan.sharding=full", *ALONE, ELSEWHERE)),
    Acts("plan.precision", "fp32", "step", 1),
    Acts("plan.quantized.attention", "false", "step", 1, EIGHT_BITS, EIGHT_LAYERS),
    Acts("plan.quantized.mlp", "false", "step", 1, EIGHT_BITS, EIGHT_LAYERS),
    Acts("plan.quantized.experts", "false", "memory", 1, WIDE_BATCH),
    Acts("plan.quantized.shared_experts", "false", "memory", 1, WIDE_BATCH),
    Acts("plan.quantized.mtp", "false", "step", 1, (), "deepseek-v3-2048xh800"),
    Acts("plan.quantized.head", "true", "step", -1, EIGHT_BITS, EIGHT_LAYERS),
    Acts("plan.quantized.bf16_layers_at_start", "2", "step", 1, EIGHT_BITS, EIGHT_LAYERS),
    Acts("plan.quantized.bf16_layers_at_end", "2", "step", 1, EIGHT_BITS, EIGHT_LAYERS),
    Acts("plan.fp8_param_gather", "true", "memory", -1, ("plan.precision=fp8-tensorwise",)),
    Acts("plan.activation_fp8_input_store", "true", "memory", -1),
    Acts("plan.recompute.granularity", "full", "memory", -1),
    Acts("plan.recompute.method", "block", "step", -1, WHOLE),
    Acts("plan.recompute.layers", "3", "memory", -1, (*WHOLE, "plan.recompute.method=block")),
    Acts("plan.recompute.modules", "[moe]", "step", 1, CHOSEN),
    Acts("plan.offload.activation", "1", "memory", -1, OFFLOADED),
    Acts("plan.offload.modules", "[core_attn, attn_proj]", "memory", -1, OFFLOADED),
    Acts("plan.offload.optimizer", "1", "memory", -1),
    Acts("plan.offload.optimizer_overlap", "true", "step", -1, ("plan.offload.optimizer=1",)),
    Acts("plan.offload.gradients", "1", "memory", -1, ("plan.offload.optimizer=1",)),
    Acts("plan.offload.params", "host", "memory", -1, ON_HOST),
    Acts("plan.loss.chunks", "8", "memory", -1, (*ALONE, "run.seq_length=8192", ELSEWHERE)),
    Acts("plan.adapters", "{rank: 8, targets: [linear_qkv]}", "memory", -1),
    Acts("plan.gradients.compression", "int8", "step", -1, (*PLAIN[:5], SLOW)),
    Acts("plan.gradients.keep", "0.1", "step", 1, (*PLAIN, "plan.gradients.compression=topk")),
    Acts("plan.gradients.bucket", "1 MiB", "step", 1, PLAIN),
    Acts("plan.gradients.algorithm", "recursive_doubling", "step", 1, PLAIN),
    Acts("plan.overlap.grad_reduce", "false", "step", 1, ("plan.overlap.param_gather=false",)),
    Acts("plan.overlap.param_gather", "false", "step", 1),
    Acts("plan.overlap.tp_comm", "true", "step", -1, SEQUENCE),
    Acts("plan.overlap.p2p", "false", "step", 1, (*DEEP, "plan.vpp=2")),
    Acts("plan.overlap.moe_ep", "true", "step", -1, PAIRED[:2]),
    Acts("plan.overlap.shared_experts", "true", "step", -1),
    Acts("plan.overlap.delay_wgrad", "false", "step", 1, (), "kimi-k2-10240xh100"),
    Acts("plan.dispatcher", "allgather", "step", 1, ("plan.pp=1", "plan.ep=8")),
    Acts("plan.dispatch_fp8", "true", "step", -1, ("plan.dispatcher=deepep", "plan.stack=hai-llm-2024")),
    Acts("plan.expert_imbalance", "1.5", "step", 1),
    Acts("plan.capacity_factor", "2", "step", 1),
    Acts("plan.vocab_divisible_by", "8192", "memory", 1),
    Acts("plan.rank_order", "tp-cp-ep-pp-dp", "step", 1, (*SPREAD, "plan.ep=1")),
    Acts("plan.stack", "pytorch-ddp-2021", "step", 1, ALONE),
    Acts("cluster.gpus", "16", "step", -1, (LINK,)),
    Acts("cluster.node", "dgx-a100-80", "step", 1),
    Acts("cluster.node", "{base: hgx-h100, accelerator: {power_limit: 400 W}}", "step", 1),
    Acts("cluster.node", "{base: hgx-h100, accelerator: {peak: {bf16: 2000 TFLOP/s}}}", "step", -1),
    Acts("cluster.fabric", "edr-2tier", "step", 1, WIDE),
    Acts("cluster.pue", "1.5", "energy", 1),
    Acts("cluster.water_usage", "1 L/kWh", "water", 1),
    Acts("cluster.failed.links", "1", "step", 1, WIDE),
    Acts("cluster.failed.rails", "2", "step", 1, WIDE),
    Acts("cluster.failed.spines", "16", "step", 1, (*WIDE, "cluster.fabric=clos-400g-2tier")),
    Acts("cluster.storage_write", "0.01 GB/s", "run", 1, SAVING),
    Acts("cluster.storage_read", "0.01 GB/s", "restart", 1, SAVING),
    Acts("run.seq_length", "4096", "step", 1),
    Acts("run.tokens", "2B", "run", 1),
    Acts("run.checkpoint.every", "30 s", "run", 1, SAVING),
)  # fmt: skip
# A name that people read, a count that follows from others and is checked, and two keys that turn illegal layouts into
# legal ones (below).
WITHOUT_A_ROW = {"cluster.name", "plan.dp", "plan.account_for_embedding", "plan.account_for_loss"}


def run_of(prediction: Prediction) -> RunResult:
    assert prediction.run is not None
    return prediction.run


def known(figure: float | None) -> float:
    assert figure is not None
    return figure


@cache
def answer(scenario: str, overrides: tuple[str, ...]) -> Prediction:
    return evaluate(load_scenario(SCENARIOS / f"{scenario}.yaml", list(overrides)))


@pytest.mark.untraced
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.key)
def test_key_moves_the_answer(row: Acts) -> None:
    figure = FIGURES[row.figure]
    before = figure(answer(row.scenario, row.given))
    after = figure(answer(row.scenario, (*row.given, f"{row.key}={row.value}")))
    assert row.sign * (after - before) > 1e-6 * before, f"{row.figure} goes from {before!r} to {after!r}"
    first, second = (answer(row.scenario, given) for given in (row.given, (*row.given, f"{row.key}={row.value}")))
    assert moved(first, second) <= set(moves()[row.key])


def moved(first: Prediction, second: Prediction) -> set[str]:
    """The figures of the key reference in which two answers differ."""
    pairs = ((name, figure(first), figure(second)) for name, figure in MOVED.items())
    return {name for name, one, other in pairs if one != other and not near(one, other)}


def near(one: float | None, other: float | None) -> bool:
    return one is not None and other is not None and abs(one - other) <= 1e-6 * abs(one)


def test_what_the_reference_says_moves_is_what_rows_move() -> None:
    """Every word stands for a figure that some row of the key moves."""
    by_key: dict[str, set[str]] = {}
    for row in ROWS:
        by_key.setdefault(row.key, set()).add(SAME_FIGURE.get(row.figure, row.figure))
    assert set(by_key) == set(moves())
    assert all(figures <= set(moves()[key]) for key, figures in by_key.items())


def leaves(schema: Mapping[str, Any], prefix: str) -> Iterator[str]:
    """Dotted keys of a section that hold a value."""
    for key, inner in schema["properties"].items():
        if "properties" in inner:
            yield from leaves(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


@pytest.mark.parametrize("section", ["plan", "cluster", "run"])
def test_every_key_has_a_row(section: str) -> None:
    keys = set(leaves(scenario_schema()["properties"][section], f"{section}."))
    assert keys - WITHOUT_A_ROW - RUN_ELSEWHERE == {row.key for row in ROWS if row.key.startswith(f"{section}.")}


@pytest.mark.parametrize("key", ["plan.account_for_embedding", "plan.account_for_loss"])
def test_ends_that_count_as_layers_make_stages_even(key: str) -> None:
    """94 layers on 32 stages: three each where embedding and head count, two beside them; no even split without."""
    path = SCENARIOS / "qwen3-235b-256xh100.yaml"
    scenario = load_scenario(path)
    assert [len(stage.layers) for stage in stages(scenario.model, scenario.plan)] == [2, *[3] * 30, 2]
    with pytest.raises(InputError, match="layers"):
        load_scenario(path, [f"{key}=false"])


def test_replicas_are_checked_against_the_cluster() -> None:
    with pytest.raises(InputError, match=r"plan\.dp: is 2"):
        load_scenario(SCENARIOS / "tiny.yaml", ["plan.dp=2"])
