"""A scenario to start from: model, cluster and a plan that is legal and, if any is, fits; every key with what it means.

The comments are those of the tables that read scenario files; keys that one may leave out stand there as comments, with
their defaults or an example.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import ceil, inf
from typing import Any

from hardware import catalogue
from hardware.documents import Document
from hardware.precisions import REFERENCE
from hardware.problems import InputError, Place, Problem
from hardware.specs import Cluster
from simulator.launch.importing.written import flow
from simulator.model.catalogue import load
from simulator.model.parameters import total_parameters
from simulator.model.spec import Model, MoE
from simulator.plans.case import divisors
from simulator.plans.spec import AUTO
from simulator.predict.simulate import simulate
from simulator.scenario.schema import Scenario, read_scenario, scenario_schema
from simulator.stack import DEFAULT

SEQ_LENGTH, TOKENS = 4096, "1T"
# Judged: micro-batches of a replica per pipeline stage, which keep the bubble small.
MICROBATCHES_PER_STAGE = 4
MOST_TRIALS = 40
SPARSE_TRIALS = 20
# Pipeline stages of the plans that are tried first, and the most of any.
STAGES = (1, 2, 4, 8, 16, 32)
MOST_STAGES = 64
# Ranks that experts are spread over; on fewer GPUs than the first all of them.
EXPERT_DEGREES = (8, 16, 32, 64)
# Judged: memory beyond what is predicted (other libraries, fragmentation, uneven experts), as a share of the GPU's.
HEADROOM = 0.10
# Weights and gradients in 16 bit.
LEAST_BYTES_PER_PARAM = 4
# Longer lists of words are for `traincast schema scenario`.
MOST_WORDS = 14
# What parts without bf16 (Volta) train in.
OLDER_PRECISION = "fp16"
INDENT = "  "
WIDTH = 118


def starting_scenario(model: str, gpus: int, node: str, fabric: str | None = None) -> str:
    """The text of a scenario for a catalogue model on so many GPUs of a node.

    `fabric` None: the plainest of the catalogue that fits. Raises InputError where there is no such cluster, or no
    legal plan for it.
    """
    place = Place("command line")
    server = catalogue.node(node, place.under("--node"))
    network = fabric or catalogue.usual_fabric(server, gpus, place).name
    cluster = catalogue.cluster(gpus, server, network, at=place)
    chosen = load(model)
    written, about = starting_plan(chosen, model, cluster, node, network)
    sections = {
        "question": f"How long does {model} take on {gpus:,} GPUs?",
        "model": model,
        "cluster": {"gpus": gpus, "node": node, "fabric": network},
        "plan": written,
        "run": {"seq_length": seq_length(chosen), "tokens": TOKENS},
    }
    return "\n".join([*_head(about), *_body(sections, _following(sections))]) + "\n"


def _following(sections: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of the plan that are left out and follow from others: what they are for this plan."""
    data = {key: value for key, value in sections.items() if key != "question"}
    plan = read_scenario(Document(data, Place("start")), "start").plan
    return {"dp": plan.dp, "schedule": plan.schedule}


def seq_length(model: Model) -> int:
    """Tokens of a sequence: SEQ_LENGTH, or as many as the model has positions for."""
    return min(SEQ_LENGTH, model.positions) if model.positions else SEQ_LENGTH


def _head(about: str) -> Iterator[str]:
    yield "# A scenario to start from, made by `traincast init`. Keys in front of which a # stands are left out: what"
    yield "# they show is the default, what follows from others, or an example. `traincast evaluate FILE` predicts it."
    yield from _comment(f"The plan: {about}.", "")


# -- a plan to start from -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tried:
    """What trying plans one after another led to: the first with memory to spare, or the one that needs least, with
    its bytes on the fullest GPU; how many were simulated, and what rules refused others."""

    written: Mapping[str, Any] | None
    memory_bytes: float
    trials: int
    refused: tuple[Problem, ...]


def starting_plan(model: Model, name: str, cluster: Cluster, node: str, fabric: str) -> tuple[dict[str, Any], str]:
    """The first legal plan that leaves HEADROOM of memory free, least model parallelism first, and why.

    Usual degrees come before all others that divide the GPUs. Where none leaves so much, the one that needs least
    memory. Raises InputError where none is legal.
    """
    capacity = cluster.accelerator.memory_capacity_bytes
    enough = (1 - HEADROOM) * capacity
    rounds: list[Tried] = []
    for candidates in (usual_candidates(model, cluster), other_candidates(model, cluster)):
        wanted = [each for each in candidates if _may_fit(model, capacity, each)] or candidates
        rounds.append(_tried(wanted, partial(_scenario_of, name, cluster, node, fabric, model), enough))
        if rounds[-1].memory_bytes <= enough:
            break
    trials = sum(each.trials for each in rounds)
    best = min(rounds, key=lambda each: each.memory_bytes)
    if best.written is None:
        refused = [problem for each in rounds for problem in each.refused]
        message = f"no plan to start from is legal for {name} on {cluster.gpus:,} GPUs: {_why_none(refused)}"
        raise InputError([Problem("command line", None, "--gpus", message)])
    free = 1 - best.memory_bytes / capacity
    about = _first(free, trials) if best.memory_bytes <= enough else _least(free, trials, cluster.gpus, best.written)
    return dict(best.written), about


def _tried(
    plans: Sequence[Mapping[str, Any]],
    scenario_of: Callable[[Mapping[str, Any]], Scenario | InputError],
    enough_bytes: float,
) -> Tried:
    """Plans simulated in their order until one needs no more than `enough_bytes`.

    Of what MOST_TRIALS leave, as many more as SPARSE_TRIALS, evenly spread up to the last.
    """
    best: Mapping[str, Any] | None = None
    least_bytes, trials = inf, 0
    refused: list[Problem] = []
    waiting = deque(plans)
    while waiting:
        written = waiting.popleft()
        scenario = scenario_of(written)
        if isinstance(scenario, InputError):
            refused += scenario.problems
            continue
        trials += 1
        memory_bytes = max(rank.device_bytes for rank in simulate(scenario).memory)
        if memory_bytes < least_bytes:
            best, least_bytes = written, memory_bytes
        if memory_bytes <= enough_bytes:
            break
        if trials == MOST_TRIALS and waiting:
            waiting = deque(list(waiting)[:: ceil(len(waiting) / SPARSE_TRIALS)])
    return Tried(best, least_bytes, trials, tuple(refused))


def _why_none(refused: Sequence[Problem]) -> str:
    """The first rule that a plan broke; without a plan, which counts the experts' ranks divide."""
    if refused:
        return f"{refused[0].key}: {refused[0].message}"
    return f"{EXPERT_DEGREES[0]} expert ranks or more do not divide them; take a multiple of {EXPERT_DEGREES[0]} GPUs"


def _first(free: float, trials: int) -> str:
    return (
        f"the first of {trials} tried, least model parallelism first, that is legal and leaves {100 * HEADROOM:.0f} % "
        f"of memory or more free ({100 * free:.0f} %); no search was made: `traincast plan FILE` finds faster ones"
    )


def _least(free: float, trials: int, gpus: int, written: Mapping[str, Any]) -> str:
    offload = "keep optimizer states on the host (plan.offload.optimizer: 100%)"
    advice = f"{_divisible_words(gpus)}take more GPUs, or {offload if 'recompute' in written else 'recompute more'}"
    if free < 0:
        return f"none of {trials} tried fits in memory; this one needs least: {advice}"
    return (
        f"none of {trials} tried leaves {100 * HEADROOM:.0f} % of memory free; this one leaves most, "
        f"{100 * free:.0f} %, and may run out of it: {advice}"
    )


def _divisible_words(gpus: int) -> str:
    """Advice where few expert ranks and stages divide the GPUs."""
    most = EXPERT_DEGREES[-1]
    if gpus < most or gpus % most == 0:
        return ""
    below = gpus // most * most
    return f"few expert ranks and stages divide {gpus:,} GPUs, more divide {below:,} or {below + most:,}; or "


def _may_fit(model: Model, capacity_bytes: float, written: Mapping[str, Any]) -> bool:
    """Whether weights and gradients alone, if all of them were split by every degree, leave room on a GPU."""
    ranks = int(written.get("tp", 1) * written.get("pp", 1) * written.get("ep", 1))
    return total_parameters(model) * LEAST_BYTES_PER_PARAM / ranks < capacity_bytes


def usual_candidates(model: Model, cluster: Cluster) -> list[dict[str, Any]]:
    """Plans of the degrees that most runs have: powers of two of stages and expert ranks."""
    gpus = cluster.gpus
    few = [degree for degree in divisors(gpus) if degree < EXPERT_DEGREES[0]] if gpus < EXPERT_DEGREES[0] else [1]
    shapes = _shapes(model, cluster, STAGES, (*few, *EXPERT_DEGREES))
    return _completed([_written(model, gpus, shape, by_cost=False) for shape in shapes], cluster)


def other_candidates(model: Model, cluster: Cluster) -> list[dict[str, Any]]:
    """Plans of every other number of stages that divides the GPUs, and of expert ranks that divides the experts.

    Layers are split over stages by what they cost and hold.
    """
    gpus, most = cluster.gpus, EXPERT_DEGREES[-1]
    stages = [degree for degree in divisors(gpus) if degree <= min(MOST_STAGES, len(model.layers))]
    usual = set(_shapes(model, cluster, STAGES, (1, *EXPERT_DEGREES)))
    every = _shapes(model, cluster, stages, [degree for degree in divisors(_experts(model)) if degree <= most])
    shapes = [shape for shape in every if shape not in usual]
    return _completed([_written(model, gpus, shape, by_cost=True) for shape in shapes], cluster)


def _shapes(
    model: Model, cluster: Cluster, stages: Sequence[int], expert_ranks: Sequence[int]
) -> list[tuple[int, int, int]]:
    """(tp, pp, ep) that divide the GPUs, least model parallelism first, then fewest tensor ranks, then expert ranks."""
    gpus, domain, experts = cluster.gpus, min(cluster.node.gpus, 8), _experts(model)
    least_ep = 1 if experts == 1 else min(gpus, EXPERT_DEGREES[0])
    shapes = [
        (tp, pp, ep)
        for tp in divisors(domain)
        for pp in stages
        for ep in expert_ranks
        if experts % ep == 0 and ep >= least_ep
        if gpus % (tp * pp) == 0 and (gpus // pp) % ep == 0
    ]
    return sorted(shapes, key=lambda shape: (shape[0] * shape[1], shape[0], shape[2]))


def _experts(model: Model) -> int:
    return next((layer.ffn.experts for layer in model.layers if isinstance(layer.ffn, MoE)), 1)


def _completed(plans: Sequence[dict[str, Any]], cluster: Cluster) -> list[dict[str, Any]]:
    """The plans in a precision that the accelerator has, and last with whole layers recomputed too."""
    if REFERENCE not in cluster.accelerator.peak_flops_per_s:
        plans = [plan | {"precision": OLDER_PRECISION} for plan in plans]
    again = {"recompute": {"granularity": _whole_layers()}}
    return [*plans, *(plan | again for plan in plans)]


def _whole_layers() -> str:
    """The granularity that recomputes whole layers."""
    from simulator.plans.choices import GRANULARITIES

    return next(name for name, each in GRANULARITIES.items() if each.whole_layers)


def _written(model: Model, gpus: int, shape: tuple[int, int, int], by_cost: bool) -> dict[str, Any]:
    """The plan's keys; uneven layers are spread evenly by their number, or by cost and memory."""
    tp, pp, ep = shape
    dp = gpus // (tp * pp)
    written: dict[str, Any] = {
        "tp": tp,
        "pp": pp,
        "ep": ep,
        "sequence_parallel": tp > 1,
        "micro_batch_size": 1,
        "global_batch_size": dp * max(1, MICROBATCHES_PER_STAGE * pp),
        "stack": DEFAULT,
    }
    layers = len(model.layers)
    if pp > 1 and layers % pp:
        written["layout"] = AUTO if by_cost else uneven_layout(layers, len(model.mtp), pp)
    return {key: value for key, value in written.items() if _says_something(key, value)}


def _says_something(key: str, value: Any) -> bool:
    """Whether a value is another than that of a key left out: a degree of 1, or false."""
    if isinstance(value, bool):
        return value
    return value != 1 or key.endswith("batch_size")


def uneven_layout(layers: int, mtp: int, pp: int) -> str:
    """A layout string that spreads layers as evenly as they go, the last stages first to have one fewer."""
    fewest, more = divmod(layers, pp)
    stages = ["t" * (fewest + (stage < more)) for stage in range(pp)]
    return "|".join(["E" + stages[0], *stages[1:]]) + "m" * mtp + "L"


def _scenario_of(
    name: str, cluster: Cluster, node: str, fabric: str, model: Model, written: Mapping[str, Any]
) -> Scenario | InputError:
    """The scenario of a plan; the rules that it breaks where it is not legal."""
    data = {
        "model": name,
        "cluster": {"gpus": cluster.gpus, "node": node, "fabric": fabric},
        "plan": dict(written),
        "run": {"seq_length": seq_length(model), "tokens": TOKENS},
    }
    try:
        scenario = read_scenario(Document(data, Place("start")), "start")
    except InputError as error:
        return error
    return replace(scenario, run=replace(scenario.run, policies=None))


# -- the file -------------------------------------------------------------------------------------------------------


def _body(sections: Mapping[str, Any], following: Mapping[str, Any]) -> Iterator[str]:
    """Every section of the schema, those given with their values; `following`: values of plan keys that follow."""
    for name, schema in scenario_schema()["properties"].items():
        yield ""
        value = sections.get(name)
        if isinstance(value, Mapping) and "properties" in schema:
            yield from _comment(schema.get("description", ""), "")
            yield f"{name}:"
            yield from _keys(schema, value, INDENT, live=True, following=following if name == "plan" else {})
        else:
            yield from _key(name, schema, value, "", live=value is not None)


def _keys(
    schema: Mapping[str, Any], given: Mapping[str, Any], indent: str, live: bool, following: Mapping[str, Any]
) -> Iterator[str]:
    """Every key of a section: given ones with their values, the others as comments."""
    for name, inner in schema["properties"].items():
        value = given.get(name, following.get(name))
        yield from _key(name, inner, value, indent, live and name in given)


def _key(name: str, schema: Mapping[str, Any], value: Any, indent: str, live: bool) -> Iterator[str]:
    """One key: what it means, and its value; without one the default or an example, as a comment."""
    yield from _comment(schema.get("description", ""), indent)
    mark = "" if live else "# "
    mapping = _mapping_of(schema)
    if mapping is not None and "examples" not in schema and not isinstance(value, str):
        yield f"{indent}{mark}{name}:"
        inner = value if isinstance(value, Mapping) else {}
        for line in _keys(mapping, inner, indent + INDENT, live, {}):
            yield line if live or line.lstrip().startswith("#") else f"{indent}# {line.strip()}"
        return
    shown = value if value is not None else _shown(schema)
    yield f"{indent}{mark}{name}: {flow(shown)}{_choices(schema)}"


def _mapping_of(schema: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The branch of a schema that describes a mapping with known keys."""
    branches = [schema, *schema.get("anyOf", ())]
    return next((branch for branch in branches if branch.get("properties")), None)


def _shown(schema: Mapping[str, Any]) -> Any:
    """The example, else the default, else what the type suggests."""
    if schema.get("examples"):
        return schema["examples"][0]
    if "default" in schema:
        return schema["default"]
    branches = [schema, *schema.get("anyOf", ())]
    choices = next((branch["enum"] for branch in branches if branch.get("enum")), None)
    if choices:
        return choices[0]
    return None


def _choices(schema: Mapping[str, Any]) -> str:
    """The words that a key takes, as a comment behind it."""
    branches = [schema, *schema.get("anyOf", ())]
    words = [str(word) for branch in branches for word in branch.get("enum", ())]
    return f"  # {', '.join(dict.fromkeys(words))}" if 0 < len(words) <= MOST_WORDS else ""


def _comment(text: str, indent: str) -> Iterator[str]:
    """A description as comment lines of a readable width."""
    line = ""
    for word in text.split():
        if line and len(indent) + 2 + len(line) + 1 + len(word) > WIDTH:
            yield f"{indent}# {line}"
            line = word
        else:
            line = f"{line} {word}".strip()
    if line:
        yield f"{indent}# {line}"
