"""Cluster and plan of a row of the older column layout, in scenario keys."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

from hardware import catalogue
from hardware.precisions import PRECISIONS
from simulator.model.spec import Model, MoE
from simulator.plans.choices import GRANULARITIES
from simulator.plans.layout import format_layout, stage_count, stages
from simulator.plans.spec import Plan
from simulator.schedules import SCHEDULES, default_schedule
from validate.columns_cells import Cells
from validate.columns_words import CellReading, normal, vocabulary
from validate.row import Unsupported

DEGREES = ("tp", "cp", "pp", "dp")
# How many GPUs a source may leave without any degree, all of them then taken as data-parallel.
FEW_GPUS = 16
LOW_PRECISION_KEYS = ("fp8_param_gather", "activation_fp8_input_store")
EXPERT_KEYS = (
    "expert_imbalance",
    "dispatcher",
    "dispatch_fp8",
    "overlap.moe_ep",
    "overlap.delay_wgrad",
    "ep",
    "etp",
    "capacity_factor",
)


def cluster_of(cells: Cells, reading: CellReading) -> dict[str, Any]:
    """`cluster` keys of a row. Raises Unsupported for an accelerator that is not known."""
    gpus = cells.need("n_gpus")
    part = reading.look_up(vocabulary()["gpus"], cells.text("gpu_type"))
    if part is None:
        raise Unsupported(f"no server known for the accelerator {cells.text('gpu_type')!r}")
    network = cells.text("internode_network")
    inside = gpus <= catalogue.node(_machine(part, "")["node"]).scale_up.domain_gpus
    kind = "" if inside or not network else reading.look_up(vocabulary()["networks"], network)
    machine = _machine(part, kind or "")
    node = catalogue.node(machine["node"])
    settings = {"cluster.gpus": gpus, "cluster.node": machine["node"]}
    listed = cells.count("gpus_per_node")
    if listed and listed != node.gpus:
        settings["cluster.node.gpus"] = listed
        reading.assumed.append(f"{listed} GPUs to a server, as the row says")
    fabric = machine["fabric"]
    if gpus <= node.scale_up.domain_gpus:
        fabric = "none"
    elif "large_fabric" in machine and gpus > catalogue.fabric(fabric).tiers[-1].reach_gpus:
        fabric = machine["large_fabric"]
    if not network and fabric != "none":
        reading.assumed.append(f"network {fabric} (the source does not say)")
    return {**settings, "cluster.fabric": fabric}


def _machine(part: str, network: str) -> Mapping[str, Any]:
    machines = [machine for machine in vocabulary()["machines"] if machine["gpu"] == part]
    exact = [machine for machine in machines if machine.get("network", "") == network]
    usual = [machine for machine in machines if "network" not in machine]
    return next(iter((*exact, *usual)))


def plan_of(cells: Cells, reading: CellReading, framework: str, model: Model) -> dict[str, Any]:
    """`plan` keys of a row, without the prefix; words go through `reading`.

    Raises Unsupported where degrees, batch or precision cannot be known.
    """
    if not cells.text("precision"):
        raise Unsupported("the source does not say the precision")
    reading.read_word("precision", "precision", cells.text("precision"))
    if "precision" not in reading.settings:
        raise Unsupported(f"precision {cells.text('precision')!r} is not known")
    reading.read_word("sharding", "sharding", cells.text("zero_stage_or_distopt"))
    if cells.text("schedule"):
        reading.read_word("schedule", "schedule", cells.text("schedule"))
    reading.read_recompute(cells.text("recompute"), framework)
    reading.read_switch("sequence_parallel", cells.text("sequence_parallel"))
    reading.read_flags(cells.text("overlap_flags"))
    settings = {**_degrees(cells, reading), **reading.settings, **_batch(cells, reading)}
    settings |= {"vpp": _virtual_stages(cells, reading, settings, framework, len(model.layers))}
    settings |= _uneven_stages(reading, settings, model)
    settings |= _routing(cells, reading, model)
    return _with_effect(settings, experts=bool(cells.count("n_experts")) or cells.text("dense_or_moe") == "moe")


def _degrees(cells: Cells, reading: CellReading) -> dict[str, int]:
    """tp, cp, pp, dp, ep, etp: the one that is left empty follows from the GPUs, several are 1 and dp fills them."""
    gpus = cells.need("n_gpus")
    stated = {name: count for name in DEGREES if (count := cells.count(name))}
    if not {"tp", "pp", "dp"} & set(stated) and gpus > FEW_GPUS:
        raise Unsupported("the source does not say tp, pp and dp")
    left, rest = divmod(gpus, prod(stated.values()))
    if rest:
        raise Unsupported(f"tp x cp x pp x dp = {prod(stated.values())} does not divide {gpus} GPUs")
    unstated = [name for name in DEGREES if name not in stated]
    flags = normal(cells.text("overlap_flags"))
    by_sequence = "cp" in unstated and any(word in flags for word in vocabulary()["fills_cp"])
    filled = "dp" if "dp" in unstated else "cp" if by_sequence else next(iter(unstated), "")
    if not filled and left != 1:
        raise Unsupported(f"tp x cp x pp x dp fills {gpus // left} of {gpus} GPUs")
    for name in unstated:
        stated[name] = left if name == filled else 1
        reading.assumed.append(f"{name} = {stated[name]}: not stated, from the number of GPUs")
    return {**stated, **{name: count for name in ("ep", "etp") if (count := cells.count(name))}}


def _batch(cells: Cells, reading: CellReading) -> dict[str, int]:
    sequences, micro = cells.count("global_batch_sequences"), cells.count("micro_batch")
    if sequences is None:
        raise Unsupported("the source does not say the global batch")
    if micro is None:
        micro = 1
        reading.assumed.append("micro_batch_size = 1: not stated; 1 is what most large runs use")
    return {"micro_batch_size": micro, "global_batch_size": sequences}


def _virtual_stages(cells: Cells, reading: CellReading, plan: Mapping[str, Any], framework: str, layers: int) -> int:
    """Virtual stages of a rank: the row's, else the framework's habit or one layer to each where it interleaves."""
    given = SCHEDULES.get(plan.get("schedule", ""))
    if plan["pp"] == 1 or (given is not None and given.placement.chunks is not None):
        return 1
    vpp = cells.count("vp")
    if vpp is None:
        usual = vocabulary()["interleaved_vpp"].get(framework, max(1, layers // plan["pp"]))
        vpp = usual if normal(cells.text("schedule")) in vocabulary()["several_stages"] else 1
        reading.assumed.append(f"vpp = {vpp}: not stated")
    return vpp


def _routing(cells: Cells, reading: CellReading, model: Model) -> dict[str, Any]:
    """Balanced experts, as benchmarks force them, unless the row's words are those of a run that learns to route."""
    if not any(isinstance(layer.ffn, MoE) for layer in model.layers):
        return {}
    words = normal(f"{cells.text('source')} {cells.text('notes')}")
    if any(each in words for each in vocabulary()["learned_routing"]):
        return {}
    reading.assumed.append("expert_imbalance = forced: benchmarks force balance, and the row says nothing else")
    return {"expert_imbalance": "forced"}


def _uneven_stages(reading: CellReading, plan: Mapping[str, Any], model: Model) -> dict[str, Any]:
    """How layers that do not divide into the stages are spread: the ends counted as layers, else as even as it goes."""
    if "layout" in plan:
        return {}
    schedule = plan.get("schedule", default_schedule(plan["pp"], plan["vpp"]))
    bare = Plan(dp=1, micro_batch_size=1, global_batch_size=1, pp=plan["pp"], vpp=plan["vpp"],
                schedule=schedule)  # fmt: skip
    count, layers = stage_count(bare), len(model.layers)
    if layers % count == 0:
        return {}
    if (layers + 2) % count == 0:
        reading.assumed.append("embedding and loss count as a layer each, so that stages are even")
        return {"account_for_embedding": True, "account_for_loss": True}
    layout = format_layout(tuple(stage.symbols for stage in stages(model, bare)))
    reading.assumed.append(f"layout = {layout}: layers spread as evenly as they go")
    return {"layout": layout}


def _with_effect(plan: dict[str, Any], experts: bool) -> dict[str, Any]:
    """The plan without settings that its degrees, precision or model leave no place for."""
    dropped = []
    if plan["pp"] == 1:
        dropped.append("schedule")
    if plan["tp"] == 1:
        dropped += ["sequence_parallel", "overlap.tp_comm"]
    if plan.get("sequence_parallel") is False:
        dropped.append("overlap.tp_comm")
    if not experts:
        dropped += EXPERT_KEYS
    precision = PRECISIONS.get(plan["precision"])
    if precision is not None and not precision.quantized:
        dropped += LOW_PRECISION_KEYS
    if not GRANULARITIES[plan.get("recompute.granularity", "none")].named_modules:
        dropped.append("recompute.modules")
    return {key: value for key, value in plan.items() if key not in dropped}
