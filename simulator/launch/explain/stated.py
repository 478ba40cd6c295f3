"""The lines in which a job prints its own settings, each with a reader: arguments, configurations, meshes, models.

Formats as printed by: Megatron-LM (arguments, process groups), Megatron-Bridge (configuration as YAML), torchtitan
(mesh, model, checkpointing, configuration), DeepSpeed (configuration) and MLPerf's `:::MLLOG` events.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cache
from math import prod
from typing import Any

from simulator.launch.explain.records import Said, Stated, WorkSaid
from simulator.launch.importing.dialects import dialects
from simulator.launch.importing.files import printed_argument
from simulator.launch.tables import table

_GROUP = re.compile(rb"(context-parallel|tensor-model-parallel|pipeline-model-parallel) size: (\d+)")
_WORLD = re.compile(rb"using world size: (\d+)")
_LEAF = re.compile(rb"^(?:.*: )?\s*([a-z_]+): (\d+)\s*$")
_TITAN_STARTS = re.compile(
    rb"local batch size (\d+), global batch size (\d+).*?, sequence length (\d+)|"
    rb"global batch size (\d+).*?, sequence length (\d+)"
)
_MESH = re.compile(rb"\b(pp|dp_replicate|dp_shard|cp|tp|ep|etp)=(\d+)")
_OLD_MESH = re.compile(rb"device mesh with (\[['\"a-z_, ]*\]), (\[[\d, ]*\])")
_DEGREE = re.compile(rb"['\"]([a-z_]+_parallel_degree)['\"]: (\d+)")
_MODEL = re.compile(rb"Model ([\w.-]+) ([\w.-]+) size: ([\d,]+) total parameters")
_CHECKPOINTING = re.compile(rb"Applied (\w+) activation checkpointing")
_CONFIG = re.compile(rb"config\.py:\d+:print\]\s+(\w+) \.+ (.*?)\s*$")

# What a mesh's dimensions are called in torchtitan's configuration.
TITAN_DEGREES: Mapping[str, str] = {
    "tp": "tensor_parallel_degree",
    "cp": "context_parallel_degree",
    "pp": "pipeline_parallel_degree",
    "ep": "expert_parallel_degree",
}
# Dimensions of a mesh that hold every GPU once.
_WHOLE_MESH = ("pp", "dp_replicate", "dp_shard", "dp_shard_mod_ep", "dp_shard_in_ep", "cp", "tp")

# What DeepSpeed's printed configuration calls the keys of its JSON.
DEEPSPEED_KEYS: Mapping[str, str] = {
    "train_batch_size": "train_batch_size",
    "train_micro_batch_size_per_gpu": "train_micro_batch_size_per_gpu",
    "zero_optimization_stage": "zero_optimization.stage",
    "bfloat16_enabled": "bf16.enabled",
    "fp16_enabled": "fp16.enabled",
}
# Leaves of Megatron-Bridge's configuration, with the section that holds each.
BRIDGE_LEAVES: Mapping[str, str] = {
    "tensor_model_parallel_size": "model",
    "pipeline_model_parallel_size": "model",
    "virtual_pipeline_model_parallel_size": "model",
    "context_parallel_size": "model",
    "expert_model_parallel_size": "model",
    "expert_tensor_parallel_size": "model",
    "micro_batch_size": "train",
}
# MLPerf's events that say what is trained.
MLPERF_KEYS = ("submission_benchmark", "gradient_accumulation_steps")


@cache
def megatron_names() -> frozenset[str]:
    """Every argument of Megatron-LM that a scenario's key comes from, or that decides whether another acts."""
    about = dialects()["megatron"]
    rows = table(about.table).rows
    of_rows = frozenset(name for row in rows for name in (row.name, *row.also))
    deciding = [text.partition(" ")[0] for text in (*about.implies, *about.only_with.values())]
    return of_rows | about.names.keys() | frozenset(deciding)


def printed(line: bytes) -> Said:
    """`name .... value`: an argument of Megatron-LM, or a key of DeepSpeed's configuration."""
    if b"config.py:" in line:
        return _deepspeed_key(line)
    found = printed_argument(line.decode("utf-8", errors="replace"))
    if found is None:
        return Said()
    name, value = found
    if name == "--seq-length" and str(value).isdecimal():
        return Said(work=WorkSaid(seq_length=int(str(value))), settings=(Stated("megatron", name, value),))
    if name == "--world-size" and str(value).isdecimal():
        return Said(work=WorkSaid(gpus=int(str(value))))
    if name not in megatron_names():
        return Said()
    return Said(settings=(Stated("megatron", name, tuple(value) if isinstance(value, list) else value),))


def _deepspeed_key(line: bytes) -> Said:
    found = _CONFIG.search(line)
    if found is not None and found[1] == b"world_size" and found[2].isdigit():
        return Said(work=WorkSaid(replicas=int(found[2])))
    key = DEEPSPEED_KEYS.get(found[1].decode()) if found else None
    if found is None or key is None:
        return Said()
    value = found[2].decode("utf-8", errors="replace")
    batch = int(value) if key == "train_batch_size" and value.isdecimal() else 0
    return Said(work=WorkSaid(batch=batch), settings=(Stated("deepspeed", key, value),))


def megatron_groups(line: bytes) -> Said:
    """`using world size: 16, data-parallel size: 2, tensor-model-parallel size: 8`.

    Sizes stay text, as the printed arguments that repeat them are."""
    world = _WORLD.search(line)
    sizes = tuple(Stated("megatron", f"--{name.decode()}-size", size.decode()) for name, size in _GROUP.findall(line))
    return Said(work=WorkSaid(gpus=int(world[1])) if world else WorkSaid(), settings=sizes)


def bridge_leaf(line: bytes) -> Said:
    """A line of the printed configuration; other text that holds the words says nothing."""
    found = _LEAF.match(line)
    if found is None:
        return Said()
    name, count = found[1].decode(), int(found[2])
    if name == "seq_length":
        return Said(work=WorkSaid(seq_length=count))
    section = BRIDGE_LEAVES.get(name)
    return Said(settings=(Stated("bridge", f"{section}.{name}", count),)) if section else Said()


# -- torchtitan -----------------------------------------------------------------------------------------------------


def titan_starts(line: bytes) -> Said:
    """The batches with which the trainer starts; the replica's own is its micro-batch where no pipeline cuts it."""
    found = _TITAN_STARTS.search(line)
    if found is None:
        return Said()
    if found[1] is None:
        return Said(work=WorkSaid(int(found[4]), int(found[5])))
    local = Stated("torchtitan", "training.local_batch_size", int(found[1]))
    return Said(work=WorkSaid(int(found[2]), int(found[3])), settings=(local,))


def titan_mesh(line: bytes) -> Said:
    """The degrees of the device mesh: `pp=1, dp_shard=8, tp=2`, or `['dp_shard', 'tp'], [4, 2]` without those of 1."""
    degrees = {name.decode(): int(size) for name, size in _MESH.findall(line)} or _old_mesh(line)
    if not degrees:
        return Said()
    gpus = prod(size for name, size in degrees.items() if name in _WHOLE_MESH)
    return Said(work=WorkSaid(gpus=gpus), settings=tuple(_titan_degrees(degrees)))


def _old_mesh(line: bytes) -> dict[str, int]:
    """The older releases' mesh; degrees of 1 are not printed, and that of experts only as a part of the shards."""
    found = _OLD_MESH.search(line)
    if found is None:
        return {}
    names, sizes = (ast.literal_eval(part.decode()) for part in found.groups())
    given = dict(zip(names, sizes, strict=False))
    return {"tp": 1, "cp": 1, "pp": 1, **given} | ({} if "dp_shard_in_ep" in given else {"ep": 1})


def _titan_degrees(degrees: Mapping[str, int]) -> Iterator[Stated]:
    for name, size in degrees.items():
        if name in TITAN_DEGREES:
            yield Stated("torchtitan", f"parallelism.{TITAN_DEGREES[name]}", size)


def titan_config(line: bytes) -> Said:
    """Degrees in a printed configuration, as JSON or as Python writes it."""
    found = {name.decode(): int(size) for name, size in _DEGREE.findall(line)}
    known = TITAN_DEGREES.values()
    return Said(settings=tuple(Stated("torchtitan", f"parallelism.{name}", size) for name, size in found.items()
                               if name in known))  # fmt: skip


def titan_model(line: bytes) -> Said:
    found = _MODEL.search(line)
    if found is None:
        return Said()
    name = f"{found[1].decode()}-{found[2].decode()}"
    params = int(found[3].replace(b",", b""))
    return Said(settings=(Stated("torchtitan", "model", name), Stated("torchtitan", "params", params)))


def titan_checkpointing(line: bytes) -> Said:
    found = _CHECKPOINTING.search(line)
    if found is None:
        return Said()
    return Said(settings=(Stated("torchtitan", "activation_checkpoint", found[1].decode()),))


# -- MLPerf ---------------------------------------------------------------------------------------------------------


def mlperf_event(key: Any, value: Any) -> tuple[Stated, ...]:
    """What an event says of the job's plan."""
    known = key in MLPERF_KEYS and isinstance(value, int | str) and not isinstance(value, bool)
    return (Stated("mlperf", key, value),) if known else ()
