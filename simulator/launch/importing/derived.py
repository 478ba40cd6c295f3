"""Keys that follow from several statements: GPUs of the job, batch, virtual stages, shards; and what dialects imply."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import prod
from typing import Any

from hardware import catalogue
from hardware.precisions import PRECISIONS
from simulator.launch.importing.clusters import machines
from simulator.launch.importing.dialects import dialects
from simulator.launch.importing.follows import NAMED_MODULES, names_modules, replicas, virtual_stages
from simulator.launch.importing.hybrids import hybrid_keys
from simulator.launch.importing.statements import Found, Keys, Origin, Statement, typed
from simulator.launch.importing.titan import torchtitan

# Names that state the GPUs of a job outright, the nodes, and the GPUs of a node, in the order of trust.
GPUS = ("cluster.gpus", "--gpus", "--world-size", "WORLD_SIZE", "--num_gpus", "--ntasks", "NUM_GPUS", "TOTAL_GPUS")
NODES = ("--nodes", "--nnodes", "--num_nodes", "DGXNNODES", "NNODES", "NUM_NODES", "SLURM_NNODES")
PER_NODE = (
    *("--gpus-per-node", "--nproc_per_node", "--nproc-per-node", "DGXNGPU", "GPUS_PER_NODE", "NGPUS_PER_NODE"),
    *("GPU_PER_NODE", "NPROC_PER_NODE", "--gres", "--ntasks-per-node", "--gpus_per_node"),
)
# A launcher of MLPerf's submissions without a word on it has eight.
MLPERF_PER_NODE = 8
# Steps between evaluations, and global batches of one.
EVERY, BATCHES = ("--eval-interval", "validation.eval_interval"), ("--eval-iters", "validation.eval_iters")
EVALUATION = (*EVERY, *BATCHES)
WORD_NAMES = (
    *("GPU_ARCH", "DGXSYSTEM", "--constraint", "--partition", "--gres", "--gpus-per-node", "MLPERF_SYSTEM_NAME"),
    *("MLPERF_SUBMISSION_PLATFORM", "--gpu"),
)


# What of an MLPerf configuration is read by rules.
MLPERF_SETTINGS = (
    *("MINIBS", "FP4", "FP8", "FP8_RECIPE", "CUDA_GRAPH_SCOPE", "FULL_CUDA_GRAPH", "MCORE_CUDA_GRAPH", "MODEL_SIZE"),
    "NVTE_CUTEDSL_FUSED_GROUPED_MLP",
)


def last(statements: Iterable[Statement], name: str) -> Statement | None:
    """The last statement of a name that has a value."""
    return next((each for each in reversed(list(statements)) if each.name == name and each.value is not None), None)


def count_in(value: Any) -> int | None:
    """The whole number at the end of a value: 8, "8", "gpu:h100:8", "4-8" gives none."""
    first = value[0] if isinstance(value, list) and value else value
    text = str(first).strip().rpartition(":")[2]
    return int(text) if text.isdecimal() and int(text) > 0 else None


def first_count(statements: Sequence[Statement], names: Sequence[str]) -> tuple[int, Origin] | None:
    """The first of the names that states a count."""
    for name in names:
        found = last(statements, name)
        count = count_in(found.value) if found else None
        if found and count:
            return count, found.origin
    return None


def node_of(statements: Sequence[Statement], words: Sequence[str]) -> Found | None:
    """The catalogue's node that variables, constraints or file names name."""
    told = [(str(each.value), each.origin) for name in WORD_NAMES if (each := last(statements, name))]
    for text, origin in [*told, *((word, None) for word in words)]:
        for word, name in machines()["words"].items():
            if word in text.lower():
                return Found(name, (origin,) if origin else (), f"named {word!r}; CHECK network cards and siblings")
    return None


def add_gpus(keys: Keys, statements: Sequence[Statement], dialect: str, node: str | None) -> None:
    """GPUs of the job: stated, or nodes times GPUs of a node."""
    if "cluster.gpus" in keys.found:
        return
    stated = first_count(statements, GPUS)
    nodes, per_node = first_count(statements, NODES), first_count(statements, PER_NODE)
    if nodes and per_node:
        keys.add("cluster.gpus", nodes[0] * per_node[0], (nodes[1], per_node[1]), f"{nodes[0]} x {per_node[0]}")
    elif nodes and dialect == "mlperf":
        keys.add(
            "cluster.gpus",
            nodes[0] * MLPERF_PER_NODE,
            (nodes[1],),
            f"{nodes[0]} nodes of 8, as config_common.sh has it",
        )
    elif stated:
        keys.add("cluster.gpus", stated[0], (stated[1],))
    elif nodes and node:
        gpus = catalogue.node(node).gpus
        keys.add("cluster.gpus", nodes[0] * gpus, (nodes[1],), f"{nodes[0]} x {gpus}, the node's GPUs")


def derive(keys: Keys, statements: Sequence[Statement], dialect: str) -> None:
    """Adds every key that follows, and tidies values that only the framework understands."""
    for rule in (*RULES, *OF_DIALECT.get(dialect, ()), _rank_order):
        rule(keys, statements)
    for key in [key for key in keys.found if key not in ALWAYS_KEPT and keys.found[key].value is None]:
        del keys.found[key]


ALWAYS_KEPT = ("plan.optimizer.main_params",)


def _accumulation(keys: Keys, statements: Sequence[Statement]) -> None:
    """The global batch from micro-batches in a row and replicas."""
    steps, micro, dp = keys.value("plan.microbatches"), keys.value("plan.micro_batch_size"), replicas(keys)
    if "plan.global_batch_size" in keys.found or not all(isinstance(each, int) for each in (steps, micro, dp)):
        return
    origins = keys.origins("plan.microbatches", "plan.micro_batch_size")
    keys.add("plan.global_batch_size", steps * micro * dp, origins, f"{micro} x {steps} micro-batches x {dp} replicas")


def _gradient_format(keys: Keys, statements: Sequence[Statement]) -> None:
    """Gradients are kept in the format in which they are reduced, unless another is written."""
    reduced = keys.value("plan.optimizer.grad_reduce")
    if reduced is not None and "plan.optimizer.grads" not in keys.found:
        keys.add("plan.optimizer.grads", reduced, keys.origins("plan.optimizer.grad_reduce"), "as they are reduced")


def _shard_group(keys: Keys, statements: Sequence[Statement]) -> None:
    """Ranks that share one copy, from the instances of the distributed optimizer."""
    instances, dp = keys.value("plan.optimizer_instances"), replicas(keys)
    if isinstance(instances, int) and instances > 1 and dp:
        shards = dp * keys.value("plan.cp", 1) // instances
        keys.add("plan.shard_group", shards, keys.origins("plan.optimizer_instances"), f"{instances} instances")


def _bf16_ends(keys: Keys, statements: Sequence[Statement]) -> None:
    """Layers at the ends stay in 16 bit where the switch is on: one at each end unless their numbers are given."""
    ends = ("plan.quantized.bf16_layers_at_start", "plan.quantized.bf16_layers_at_end")
    if keys.value("plan.bf16_ends") is True:
        for key in ends:
            if key not in keys.found:
                keys.add(key, 1, keys.origins("plan.bf16_ends"), "not given: Megatron-Core's default")
    elif "plan.bf16_ends" in keys.found or not keys.value("plan.filter_fqns"):
        for key in ends:
            keys.found.pop(key, None)
    keys.found.pop("plan.bf16_ends", None)


def _without_tensor_parallelism(keys: Keys, statements: Sequence[Statement]) -> None:
    """Sequence parallelism and its overlap do nothing without tensor parallelism, whatever is written."""
    if keys.value("plan.tp", 1) in (1, None):
        keys.found.pop("plan.sequence_parallel", None)
        keys.found.pop("plan.overlap.tp_comm", None)


def _rank_order(keys: Keys, statements: Sequence[Statement]) -> None:
    """An order with stages inside replicas is modelled where dense and expert replicas are as many; else the usual."""
    order, dp = keys.found.get("plan.rank_order"), replicas(keys)
    if order is None or str(order.value).endswith("pp") or keys.value("plan.pp", 1) in (1, None) or not dp:
        return
    width = (keys.value("plan.ep", 1) or 1) * (keys.value("plan.etp", 1) or 1)
    if (keys.value("plan.tp", 1) or 1) * (keys.value("plan.cp", 1) or 1) == width:
        return
    keys.notes.append(
        f"{order.about}: ranks in the order {order.value} are not modelled for these degrees; the usual order is taken"
    )
    del keys.found["plan.rank_order"]


def _expert_width(keys: Keys, statements: Sequence[Statement]) -> None:
    """A dense model has neither expert degrees nor dispatchers."""
    if keys.value("plan.ep", 1) in (1, None) and "model.hidden" in keys.found and not keys.value("model.moe.experts"):
        for key in ("plan.ep", "plan.etp", "plan.dispatcher", "plan.capacity_factor"):
            keys.found.pop(key, None)


# -- what a dialect implies -----------------------------------------------------------------------------------------


def _mlperf(keys: Keys, statements: Sequence[Statement]) -> None:
    """MINIBS is the batch of a replica; sequence parallelism is on unless it says no; precision stands in FP8 flags."""
    minibs, dp = last(statements, "MINIBS"), replicas(keys)
    count = count_in(minibs.value) if minibs else None
    if minibs and count and dp and "plan.global_batch_size" not in keys.found:
        keys.add("plan.global_batch_size", count * dp, (minibs.origin,), f"MINIBS {count} x {dp} replicas")
    if keys.value("plan.tp", 1) not in (1, None) and "plan.sequence_parallel" not in keys.found:
        keys.add("plan.sequence_parallel", True, (), "assumed: the recipes have it on with tensor parallelism")
    precision = _mlperf_precision(statements)
    if precision is not None:
        keys.found["plan.precision"] = precision
    chosen = PRECISIONS.get(str(keys.value("plan.precision")))
    if "plan.fp8_param_gather" in keys.found and (chosen is None or not chosen.gathers_low):
        del keys.found["plan.fp8_param_gather"]
    _mlperf_graphs(keys, statements)
    fused = last(statements, "NVTE_CUTEDSL_FUSED_GROUPED_MLP")
    if fused and typed(fused.value) == 1:
        keys.add("plan.stack.fused_experts", True, (fused.origin,), fused.name)
    modules = keys.found.get("plan.recompute.modules")
    if modules is not None and "plan.recompute.granularity" not in keys.found:
        keys.add("plan.recompute.granularity", NAMED_MODULES, modules.origins, "modules are named")


def _mlperf_precision(statements: Sequence[Statement]) -> Found | None:
    four, eight, recipe = (last(statements, name) for name in ("FP4", "FP8", "FP8_RECIPE"))
    known = dialects()["mlperf"].recipes
    if four and typed(four.value) in (True, 1):
        return Found(known["FP4"], (four.origin,), "FP4")
    if eight and typed(eight.value) in (False, 0):
        return Found(known["off"], (eight.origin,), "FP8 is off")
    word = known.get(str(recipe.value).strip("\"'")) if recipe else None
    if word and recipe:
        return Found(word, (recipe.origin,), "FP8_RECIPE")
    if eight and typed(eight.value) in (True, 1):
        return Found(known["not told"], (eight.origin,), "FP8, recipe not told")
    return None


def _mlperf_graphs(keys: Keys, statements: Sequence[Statement]) -> None:
    """CUDA graphs by the scope of v6.0, or the switches of v5."""
    scope, whole, layer = (
        last(statements, name) for name in ("CUDA_GRAPH_SCOPE", "FULL_CUDA_GRAPH", "MCORE_CUDA_GRAPH")
    )
    if scope:
        graphs = (
            "full" if "full_iteration" in str(scope.value) else "partial" if "attn" in str(scope.value) else "router"
        )
        keys.add("plan.stack.cuda_graphs", graphs, (scope.origin,), scope.name)
    elif whole and typed(whole.value) in (True, 1):
        keys.add("plan.stack.cuda_graphs", "full", (whole.origin,), whole.name)
    elif layer and typed(layer.value) in (True, 1):
        keys.add("plan.stack.cuda_graphs", "partial", (layer.origin,), layer.name)


def _megatron(keys: Keys, statements: Sequence[Statement]) -> None:
    """Without a width of its own an expert is as wide as tensor parallelism; selective means attention's core."""
    if keys.value("model.moe.experts") and "plan.etp" not in keys.found and keys.value("plan.tp", 1) not in (1, None):
        keys.add("plan.etp", keys.value("plan.tp"), keys.origins("plan.tp"), "not given: Megatron-LM takes tp")
    if names_modules(keys) and "plan.recompute.modules" not in keys.found:
        keys.add("plan.recompute.modules", ["core_attn"], (), "not given: Megatron-LM's default")


def _evaluation(keys: Keys, statements: Sequence[Statement]) -> None:
    """Megatron evaluates --eval-iters global batches after every --eval-interval steps; of no batches, never."""
    interval, iterations = (_last_of(statements, names) for names in (EVERY, BATCHES))
    every = count_in(interval.value) if interval else None
    batches = count_in(iterations.value) if iterations else None
    if interval is None or not every or batches == 0:
        keys.found.pop("run.evaluation.every", None)
        return
    keys.add("run.evaluation.every", every, (interval.origin,), interval.name)
    counts = (batches, keys.value("plan.global_batch_size"), keys.value("run.seq_length"))
    if iterations is not None and all(isinstance(count, int) for count in counts):
        about = f"{iterations.name}: {counts[0]} x {counts[1]} sequences x {counts[2]}"
        keys.add("run.evaluation.tokens", prod(counts), (iterations.origin,), about)


def _last_of(statements: Sequence[Statement], names: Sequence[str]) -> Statement | None:
    """The last statement of the first of these names that any has."""
    return next((found for found in (last(statements, name) for name in names) if found), None)


def _deepspeed(keys: Keys, statements: Sequence[Statement]) -> None:
    """A step is micro-batch x accumulation x ranks: what is not given follows from the others, as DeepSpeed has it."""
    _secondary_copy(keys, statements)
    for key in BATCH_KEYS:
        if keys.value(key) == "auto":
            keys.notes.append(f"{keys.found[key].about}: auto is worked out by the training script; {key} is left out")
            del keys.found[key]
    whole, micro, steps = (keys.value(key) for key in BATCH_KEYS)
    if whole and micro and steps and "cluster.gpus" not in keys.found and whole % (micro * steps) == 0:
        ranks = whole // (micro * steps) * (keys.value("plan.tp", 1) or 1)
        keys.add("cluster.gpus", ranks, keys.origins(*BATCH_KEYS), f"{whole} / ({micro} x {steps}) ranks")
    dp = replicas(keys)
    if not dp:
        return
    if whole and micro and steps and whole != micro * steps * dp:
        keys.notes.append(
            f"{keys.found[BATCH_KEYS[0]].about}: CONTRADICTION: {whole} sequences a step are not {micro} x {steps} "
            f"accumulations x {dp} ranks; {whole} are taken"
        )
    if whole and not micro and whole % ((steps or 1) * dp) == 0:
        told = f"{whole} / ({steps or 1} accumulations x {dp} ranks)"
        keys.add(BATCH_KEYS[1], whole // ((steps or 1) * dp), keys.origins(BATCH_KEYS[0], BATCH_KEYS[2]), told)
    if micro and not whole:
        told = f"{micro} x {steps or 1} accumulations x {dp} ranks"
        keys.add(BATCH_KEYS[0], micro * (steps or 1) * dp, keys.origins(BATCH_KEYS[1], BATCH_KEYS[2]), told)


def _secondary_copy(keys: Keys, statements: Sequence[Statement]) -> None:
    """hpZ keeps a second 16-bit copy of the weights in each node; what shards gradients and states stays as it is."""
    stated = last(statements, "zero_optimization.zero_hpz_partition_size")
    if stated is None or typed(stated.value) in (None, 1):
        return
    keys.notes.append(
        f"{stated.origin}: {stated.name} {stated.value} has no counterpart and is left out: hpZ keeps a second 16-bit "
        "copy of the weights in each group, while gradients and optimizer states stay sharded over all ranks"
    )


BATCH_KEYS = ("plan.global_batch_size", "plan.micro_batch_size", "plan.microbatches")

OF_DIALECT: Mapping[str, tuple[Callable[[Keys, Sequence[Statement]], None], ...]] = {
    "mlperf": (_mlperf,),
    "torchtitan": (torchtitan,),
    "megatron": (_megatron, _evaluation),
    "primus": (_evaluation,),
    "bridge": (_evaluation,),
    "deepspeed": (_deepspeed,),
}
RULES = (
    hybrid_keys,
    virtual_stages,
    _accumulation,
    _gradient_format,
    _shard_group,
    _bf16_ends,
    _without_tensor_parallelism,
    _expert_width,
)
