"""What torchtitan's words imply: shards and replicas, batches of a replica and of its pipeline, stages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import ceil

from simulator.launch.facts import TITAN_MODULES
from simulator.launch.importing.follows import replicas, virtual_stages
from simulator.launch.importing.statements import Keys, Reading, Statement, typed
from simulator.plans.choices import SHARDINGS
from simulator.schedules import SCHEDULES

# A layer as a filter names it, and modules that compute in 16 bit whatever a filter says.
_LAYER = re.compile(r"layers\.(\d+)\.?")
HIGH_ANYWAY = ("output", "lm_head", "router", "router.gate", "gate")
# Stages of a rank under schedules with several, unless modules or layers per stage say otherwise.
STAGES_PER_RANK = 2
# Where releases name the Float8 recipe; precisions by its names.
FLOAT8_RECIPE = ("quantize.linear.float8.recipe_name", "float8.recipe_name", "converters.recipe_name")
FLOAT8_PRECISIONS = {
    "tensorwise": "fp8-tensorwise",
    "rowwise": "fp8-rowwise",
    "rowwise_with_gw_hp": "fp8-rowwise",
}
# Names of the converter in releases of 2025, whose configuration without a recipe scales whole tensors.
FLOAT8_OF_2025 = ("model.converters", "converters")
FLOAT8_WORDS_OF_2025 = ("float8", "quantize.linear.float8")


def command_line_last(readings: Sequence[Reading]) -> tuple[list[Reading], list[str]]:
    """Readings with files before command lines, which torchtitan lets override them; and what is overridden."""
    ordered = sorted(readings, key=_is_command_line)
    in_files: dict[str, Statement] = {}
    notes = []
    for reading in ordered:
        for each in reading.statements:
            name = each.name.removeprefix("--").replace("-", "_")
            other = in_files.get(name)
            if not _is_command_line(reading):
                in_files[name] = each
            elif other is not None and typed(other.value) != typed(each.value):
                notes.append(f"{each.origin}: {each.name} {each.value} overrides {other.value} of {other.origin}")
    return ordered, notes


def _is_command_line(reading: Reading) -> bool:
    return any(each.name.startswith("--") for each in reading.statements)


def torchtitan(keys: Keys, statements: Sequence[Statement]) -> None:
    """Adds what torchtitan's settings decide together."""
    _shards(keys)
    _tokens(keys)
    _batches(keys)
    _stages(keys)
    _filters(keys)
    _float8(keys, statements)
    if keys.value("plan.tp", 1) not in (1, None) and "plan.sequence_parallel" not in keys.found:
        keys.add("plan.sequence_parallel", True, (), "not given: torchtitan's default")


def _shards(keys: Keys) -> None:
    """Shards and copies decide the sharding; context-parallel ranks shard as well."""
    dp, cp = replicas(keys), keys.value("plan.cp", 1) or 1
    if not dp:
        return
    copies, shards = keys.value("plan.replicas", 1) or 1, keys.value("plan.shards", -1)
    origins = keys.origins("plan.replicas", "plan.shards")
    shards = dp // copies if shards in (-1, None) else shards
    if shards * cp == 1:
        keys.add("plan.sharding", "none", origins, "no shards")
        return
    keys.add("plan.sharding", _sharding(keys), origins, f"{shards * cp} shards")
    if copies > 1:
        keys.add("plan.shard_group", shards * cp, origins, f"{copies} copies")


def _sharding(keys: Keys) -> str:
    """Weights are gathered for every pass, unless they are kept after forward (by default under pipelines).

    Pipelines add up whole gradients until the last micro-batch.
    """
    pipelined = keys.value("plan.pp", 1) not in (1, None)
    said = SHARDINGS.get(str(keys.value("plan.sharding")))
    gathers = said.shards_weights if said is not None and said.shards_optimizer else not pipelined
    wanted = (True, gathers or not pipelined, gathers)
    return next(
        name
        for name, each in SHARDINGS.items()
        if (each.shards_optimizer, each.shards_gradients, each.shards_weights) == wanted
    )


def _tokens(keys: Keys) -> None:
    """Batches that later releases count in tokens, as sequences."""
    length = keys.value("run.seq_length")
    for counted, key in (
        ("plan.micro_batch_tokens", "plan.local_batch_size"),
        ("plan.step_tokens", "plan.global_batch_size"),
    ):
        tokens = keys.value(counted)
        if not isinstance(tokens, int) or not isinstance(length, int) or tokens < length or key in keys.found:
            continue
        keys.add(key, tokens // length, keys.origins(counted), f"{tokens} tokens / {length}")


def _batches(keys: Keys) -> None:
    """A replica's batch is one micro-batch without a pipeline; a pipeline cuts it into its own micro-batches."""
    local, dp = keys.value("plan.local_batch_size"), replicas(keys)
    whole = keys.value("plan.global_batch_size", -1)
    if isinstance(local, int):
        _micro_batch(keys, local)
        if whole in (-1, None) and dp:
            keys.add(
                "plan.global_batch_size", local * dp, keys.origins("plan.local_batch_size"), f"{local} x {dp} replicas"
            )
        elif dp and isinstance(whole, int) and whole > local * dp and keys.value("plan.pp", 1) not in (1, None):
            keys.notes.append(
                f"torchtitan empties the pipeline after every {local} sequences of a replica, {whole // (local * dp)} "
                "times a step; the scenario has one pipeline a step"
            )
    if keys.value("plan.global_batch_size") == -1:
        del keys.found["plan.global_batch_size"]


def _micro_batch(keys: Keys, local: int) -> None:
    """The pipeline's own micro-batch (1 unless given; older releases give their number), else the replica's batch."""
    if keys.value("plan.pp", 1) in (1, None):
        keys.found["plan.micro_batch_size"] = keys.found["plan.local_batch_size"]
        return
    count = keys.value("plan.pipeline_microbatches")
    if isinstance(count, int) and count > 0 and local % count == 0:
        keys.add(
            "plan.micro_batch_size", local // count, keys.origins("plan.pipeline_microbatches"), f"{local} / {count}"
        )
    elif "plan.micro_batch_size" not in keys.found:
        keys.add("plan.micro_batch_size", 1, (), "not given: torchtitan's default under pipelines")


def _stages(keys: Keys) -> None:
    """Virtual stages from the modules of every stage, the layers of a stage, or the schedule."""
    if _stage_modules(keys):
        return
    pp, schedule = keys.value("plan.pp", 1), SCHEDULES.get(str(keys.value("plan.schedule")))
    chosen, layers = keys.value("plan.layers_per_chunk"), keys.value("model.layers")
    if not isinstance(pp, int) or pp == 1 or "plan.vpp" in keys.found:
        return
    if isinstance(chosen, int) and isinstance(layers, int):
        # The embedding and the head count as a layer each.
        keys.add("plan.vpp", max(1, ceil((layers + 2) / chosen) // pp), keys.origins("plan.layers_per_chunk"))
    elif schedule is not None and schedule.interleaves:
        keys.add("plan.vpp", STAGES_PER_RANK, keys.origins("plan.schedule"), "not given: torchtitan's default")


def _filters(keys: Keys) -> None:
    """Modules that a Float8 converter passes over: parts by their names there, and whole layers at both ends."""
    names, origins = keys.value("plan.filter_fqns"), keys.origins("plan.filter_fqns")
    if not isinstance(names, list | tuple):
        return
    keys.found.pop("plan.filter_fqns")
    for part, module in TITAN_MODULES.items():
        if module in names:
            keys.add(f"plan.quantized.{part}", False, origins, f"{module} is filtered out")
    left = {int(found.group(1)) for name in names if (found := _LAYER.fullmatch(str(name)))}
    start = next(index for index in range(len(left) + 1) if index not in left)
    if start:
        keys.add("plan.quantized.bf16_layers_at_start", start, origins, "layers are filtered out")
    if len(left) > start:
        keys.add("plan.quantized.bf16_layers_at_end", len(left) - start, origins, "layers are filtered out")
    known = (*TITAN_MODULES.values(), *HIGH_ANYWAY)
    unread = [str(name) for name in names if name not in known and not _LAYER.fullmatch(str(name))]
    if unread:
        keys.notes.append(f"filter_fqns: {', '.join(unread)} has no counterpart; these linears are predicted quantised")


def _float8(keys: Keys, statements: Sequence[Statement]) -> None:
    """How a Float8 converter scales: as its recipe says; else whole tensors in releases of 2025, rows in later ones."""
    if keys.value("plan.precision") != FLOAT8_PRECISIONS["rowwise"]:
        return
    plain = {each.name.removeprefix("--"): each for each in statements}
    recipe = next((plain[name] for name in FLOAT8_RECIPE if name in plain and typed(plain[name].value)), None)
    if recipe is not None:
        precision = FLOAT8_PRECISIONS.get(str(typed(recipe.value)))
        if precision is None:
            keys.notes.append(f"{recipe.origin}: {recipe.name} {recipe.value} is no recipe of torchtitan's Float8")
        else:
            keys.add("plan.precision", precision, (*keys.origins("plan.precision"), recipe.origin), recipe.name)
        return
    converters = [plain[name].value for name in FLOAT8_OF_2025 if name in plain]
    words = [str(word) for each in converters for word in (each if isinstance(each, list | tuple) else [each])]
    if any(word in FLOAT8_WORDS_OF_2025 for word in words):
        about = "converters; recipe_name not given: tensorwise in torchtitan of 2025"
        keys.add("plan.precision", FLOAT8_PRECISIONS["tensorwise"], keys.origins("plan.precision"), about)


def _stage_modules(keys: Keys) -> bool:
    """A layout string from the modules of every stage; whether they are given."""
    modules = keys.value("plan.stage_modules")
    if not isinstance(modules, list) or not all(isinstance(stage, list | tuple) for stage in modules):
        return False
    stages = ["".join(_symbol(str(name)) for name in stage) for stage in modules]
    layout = "|".join(stages)
    if layout.startswith("E") and layout.endswith("L"):
        keys.add("plan.layout", layout, keys.origins("plan.stage_modules"), "modules of the stages")
        virtual_stages(keys, ())
    return True


def _symbol(name: str) -> str:
    """What a module is in a layout string; a norm stands with the loss."""
    if name.startswith("layers."):
        return "t"
    return {"tok_embeddings": "E", "output": "L", "lm_head": "L"}.get(name, "")
