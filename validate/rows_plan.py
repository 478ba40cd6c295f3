"""How a published row was laid out: the stack's defaults, then the row's columns, then its flags and notes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hardware.precisions import PRECISIONS
from simulator.model.spec import Model, MoE
from simulator.plan.choices import GRANULARITIES
from simulator.plan.layout import parse_layout
from simulator.plan.spec import Offload, Optimizer, Overlap, Plan, Recompute
from simulator.schedules import SCHEDULES, default_schedule
from validate.old_stacks import stack_of_flags
from validate.rows import Row, Unsupported
from validate.rows_tables import Entry, flags_of, notes_of, recipe_flags, recipes_of, stack_of, tables, words_of

PARTS = {"offload": Offload, "optimizer": Optimizer, "recompute": Recompute, "overlap": Overlap}


@dataclass(slots=True)
class Settings:
    """Keys of a plan being filled, dotted as in scenario files, and what was assumed on the way."""

    values: dict[str, Any] = field(default_factory=dict)
    assumed: list[str] = field(default_factory=list)

    def assume(self, key: str, value: Any, why: str) -> None:
        self.values[key] = value
        self.assumed.append(f"{key} = {value}: {why}")

    def said(self, changes: Mapping[str, Any]) -> None:
        self.values |= changes


def plan_of(row: Row, model: Model, gpus: int) -> tuple[Plan, list[str]]:
    """The plan of a row and what was assumed. Raises Unsupported where degrees or batch cannot be known."""
    settings = Settings()
    degrees(row, settings, gpus)
    stack = stack_of(row)
    settings.assumed.append(f"software stack: {stack['name']}")
    for key, (value, source) in stack_settings(stack, row).items():
        settings.assume(key, value, source)
    recipes = recipes_of(row) if stack.get("has_recipes") else []
    vendor_recipes([recipe for recipe in recipes if "container" not in recipe], row, settings)
    words(row, settings, stack["plain_fp8"])
    if settings.values["pp"] > 1:
        for key, (value, source) in stack.get("with_pipeline", {}).items():
            settings.assume(key, value, source)
    flags(row, settings, [recipe for recipe in recipes if "container" in recipe])
    resolve(settings, model, row)
    pipeline(row, model, settings)
    if settings.values.get("account_for_embedding"):
        for key, (value, source) in stack.get("with_ends_as_layers", {}).items():
            settings.assume(key, value, source)
    batch(row, settings)
    return build(settings.values), settings.assumed


def stack_settings(stack: Entry, row: Row) -> dict[str, Any]:
    """The stack's plan keys with their sources: of the stack it is like, its own, those of the row's accelerator."""
    plans = {other["name"]: other["plan"] for other in tables()["stacks"]}
    found = plans[stack.get("like", stack["name"])] | stack["plan"]
    for start, more in stack.get("by_gpu", {}).items():
        found |= more if row.text("gpu_type").startswith(start) else {}
    return found


def vendor_recipes(recipes: Sequence[Entry], row: Row, settings: Settings) -> None:
    """What the vendor's recipes set beside what the row says; a column that is filled is stronger."""
    stated = {key for key, column in {"ep": "ep", "micro_batch_size": "micro_batch"}.items() if row.count(column)}
    for recipe in recipes:
        for key, value in recipe["set"].items():
            if key not in stated:
                settings.assume(key, value, f"recipe, {recipe['source']}")


def degrees(row: Row, settings: Settings, gpus: int) -> None:
    """tp, cp, pp, dp, ep as the columns say; a degree left empty follows from the others or is one."""
    known = {name: row.count(name) for name in ("tp", "cp", "pp", "dp")}
    unknown = [name for name, value in known.items() if value is None]
    if row.text("tp") == row.text("pp") == row.text("dp") == "" and gpus > 16:
        raise Unsupported("the source does not say tp, pp and dp")
    product = 1
    for value in known.values():
        product *= value or 1
    if gpus % product:
        raise Unsupported(f"tp x cp x pp x dp = {product} does not divide {gpus} GPUs")
    left = gpus // product
    for name in unknown:
        taken = left if name == ("cp" if sp_attention(row) else "dp" if "dp" in unknown else name) else 1
        left //= taken
        known[name] = taken
        settings.assumed.append(f"{name} = {taken}: not stated, from the number of GPUs")
    if left != 1:
        raise Unsupported(f"tp x cp x pp x dp fills {gpus // left} of {gpus} GPUs")
    settings.said(known)
    ep = row.count("ep")
    settings.said({"ep": ep or 1})
    if row.text("dense_or_moe") == "moe" and ep is None:
        settings.assumed.append("ep = 1: not stated in the row")


def sp_attention(row: Row) -> bool:
    return "Ulysses" in row.text("overlap_flags")


def words(row: Row, settings: Settings, plain_fp8: str) -> None:
    """The columns of words: precision, sharding, schedule, recompute, sequence parallelism."""
    by_model = words_of(row, "model_name")
    if by_model is not None:
        settings.said(by_model["set"])
        settings.assumed.append(by_model["assumed"])
    for column in ("precision", "zero_stage_or_distopt", "schedule", "recompute"):
        entry, text = words_of(row, column), row.text(column)
        if entry is None and text.startswith("selective ["):
            continue
        if entry is None:
            settings.assumed.append(f"{column}: {f'{text!r} is not understood' if text else 'not stated'}")
            continue
        settings.said(entry.get("set", {}))
        if "assumed" in entry:
            settings.assumed.append(entry["assumed"])
    inside = row.text("recompute").partition("[")[2].partition("]")[0]
    if inside:
        renamed = {"act": "moe_act", "shared_expert": "shared_experts"}
        modules = [renamed.get(word.strip(), word.strip()) for word in inside.split(",")]
        settings.said({"recompute.granularity": "selective", "recompute.modules": modules})
    if settings.values.get("precision") == "plain_fp8":
        settings.assume("precision", plain_fp8, "what the stack means by fp8")
    if row.text("sequence_parallel") in ("on", "off"):
        settings.said({"sequence_parallel": row.text("sequence_parallel") == "on"})


def flags(row: Row, settings: Settings, recipes: Sequence[Entry]) -> None:
    """Overlap flags, weaker the recipe of the row's own container, weaker still the newest recipe, and the notes."""
    quoted, unknown_quoted = flags_of(recipe_flags(row.text("notes")))
    stated, unknown = flags_of(row.text("overlap_flags"))
    if is_newest_recipe(row):
        quoted, stated = [*quoted, *stated], []
    if quoted:
        settings.assumed.append("settings of the newest recipe, which may differ from the version measured")
    modules = quoted_modules(row.text("notes"))
    if modules and not row.text("recompute"):
        settings.said({"recompute.modules": modules, "recompute.granularity": "selective"})
    flagged(quoted, settings)
    vendor_recipes(recipes, row, settings)
    flagged([*stated, *notes_of(row)], settings)
    settings.assumed += [f"flag {token!r} is not understood" for token in (*unknown_quoted, *unknown)]


def flagged(entries: Sequence[Entry], settings: Settings) -> None:
    for entry in entries:
        settings.said(entry.get("set", {}))
        if "ignored" in entry and "not modelled" in entry["ignored"]:
            settings.assumed.append(entry["ignored"])


def is_newest_recipe(row: Row) -> bool:
    """Whether the row's flags were copied from the newest recipe rather than printed beside the measurement."""
    return "overlap from HEAD recipe" in row.text("notes") or "(HEAD recipe)" in row.text("overlap_flags")


def quoted_modules(notes: str) -> list[str]:
    text = notes.replace('\\"', "").partition('"recompute_modules": "[')[2].partition("]")[0]
    return [word.strip() for word in text.split(",") if word.strip()]


def resolve(settings: Settings, model: Model, row: Row) -> None:
    """Values that refer to others: etp as tp, sequence parallelism without tp, routing as the data is."""
    values, moe = settings.values, any(isinstance(layer.ffn, MoE) for layer in model.layers)
    stated = row.count("etp")
    if stated:
        values["etp"] = stated
    elif values.get("etp") == "tp":
        values["etp"] = values["tp"]
    if not moe:
        values |= {"ep": 1, "etp": 1}
    inside = values["tp"] * values["cp"] * values["dp"]
    if inside % (values.get("ep", 1) * values.get("etp", 1)):
        settings.assume("etp", 1, "ep x etp does not divide tp x cp x dp otherwise")
    if values["tp"] == 1:
        values |= {"sequence_parallel": False, "overlap.tp_comm": False}
    if not values.get("sequence_parallel"):
        values["overlap.tp_comm"] = False
    if values.get("expert_imbalance") == "natural":
        number, why = tables()["assumed"]["natural_imbalance"]
        values["expert_imbalance"] = number
        if moe:
            settings.assumed.append(f"expert_imbalance = {number}: {why}")
    precision = PRECISIONS[values.get("precision", "bf16")]
    if not precision.quantized:
        values |= {"fp8_param_gather": False, "activation_fp8_input_store": False}
    elif not precision.gathers_low:
        values["fp8_param_gather"] = False
        settings.assumed.append("weights kept in 16 bit beside their quantised copies")
    if values.get("recompute.modules") and not GRANULARITIES[values.get("recompute.granularity", "none")].named_modules:
        values["recompute.modules"] = []


def batch(row: Row, settings: Settings) -> None:
    """Micro-batch and global batch; what does not divide is reported and rounded."""
    values = settings.values
    micro, whole = row.count("micro_batch"), row.count("global_batch_sequences") or values.get("global_batch_size")
    if whole is None:
        raise Unsupported("the source does not say the global batch")
    pp = values["pp"]
    if values.pop("microbatches", None) == "pp" and micro is None and whole % (pp * values["dp"]) == 0:
        micro = whole // (pp * values["dp"])
        settings.assumed.append(f"micro_batch_size = {micro}: as many micro-batches as pipeline ranks")
    micro = micro or values.get("micro_batch_size")
    if micro is None:
        micro, why = tables()["assumed"]["micro_batch"]
        settings.assumed.append(f"micro_batch_size = {micro}: {why}")
    dp = settings.values["dp"]
    if whole % (micro * dp):
        if whole % dp == 0:
            raise Unsupported(f"micro-batch {micro} does not divide the {whole // dp} sequences of a replica")
        raise Unsupported(f"global batch {whole} does not divide over {dp} replicas of micro-batch {micro}")
    settings.said({"micro_batch_size": micro, "global_batch_size": whole})


def pipeline(row: Row, model: Model, settings: Settings) -> None:
    """Schedule, virtual stages, and whether embedding and loss count as layers."""
    values = settings.values
    pp, vpp = values["pp"], row.count("vp")
    unstated = (words_of(row, "schedule") or {}).get("unstated_vpp")
    given = SCHEDULES.get(values.get("schedule", ""))
    own_chunks = given is not None and given.placement.chunks is not None
    if pp == 1 or own_chunks or (vpp is None and unstated == "one"):
        vpp = 1
    elif vpp is None and "vpp" in values:
        vpp = values["vpp"]
    elif vpp is None and unstated == "layers":
        vpp = max(1, len(model.layers) // pp)
        settings.assumed.append(f"vpp = {vpp}: one layer to a virtual stage")
    elif vpp is None and "Parallel Folding" in row.text("source") and len(model.layers) % pp == 0:
        vpp = len(model.layers) // pp
        settings.assumed.append(f"vpp = {vpp}: not stated; one layer to a virtual stage")
    elif vpp is None:
        vpp = 1
        settings.assumed.append("vpp = 1: not stated")
    values["vpp"] = vpp
    default = default_schedule(pp, vpp)
    values["schedule"] = default if pp == 1 else values.get("schedule", default)
    can_pair = SCHEDULES[values["schedule"]].paired_as is not None
    if pp > 1 and vpp == 1 and can_pair and values.get("overlap.moe_ep"):
        values |= {"overlap.moe_ep": False, "overlap.delay_wgrad": False}
        settings.assumed.append(
            "no overlap of expert traffic: Megatron-Core pairs micro-batches only with virtual stages"
        )
    stages = pp * vpp
    if "layout" in values and len(parse_layout(values["layout"])) != stages:
        del values["layout"]
    if values.get("layout"):
        return
    if len(model.layers) % stages and not (len(model.layers) + 2) % stages:
        settings.assumed.append("embedding and loss count as a layer each, so that stages are even")
        values |= {"account_for_embedding": True, "account_for_loss": True}
    elif len(model.layers) % stages:
        settings.assumed.append("layers spread evenly over the stages, remainders as the simulator places them")


def build(values: Mapping[str, Any]) -> Plan:
    """A plan from dotted keys."""
    top = {key: value for key, value in values.items() if "." not in key}
    for part, kind in PARTS.items():
        inner = {key.partition(".")[2]: value for key, value in values.items() if key.startswith(f"{part}.")}
        inner = {key: tuple(value) if isinstance(value, list) else value for key, value in inner.items()}
        if inner.get("main_params") == "none":
            inner["main_params"] = None
        top[part] = kind(**inner)
    flags = {key.partition(".")[2]: value for key, value in values.items() if key.startswith("stack.")}
    return Plan(**top, stack=stack_of_flags(flags))
