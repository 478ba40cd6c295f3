"""Puts what was found together: the scenario's sections, in order, each line with its origin."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from hardware import catalogue
from simulator.fields import as_written, hints, key_of_field
from simulator.launch.importing.clusters import (
    Server,
    Switches,
    fabric_section,
    node_section,
    same_server,
    usual_fabric_name,
)
from simulator.launch.importing.statements import GIVEN, Found, Keys
from simulator.launch.importing.written import Entry
from simulator.plans.spec import Plan
from simulator.stack import Stack, release

# Steps to evaluate where a launch does not say how long it runs; a step's time does not depend on it.
STEPS = 1000


@dataclass(frozen=True, slots=True)
class Imported:
    """All that the files gave: scenario keys, the model, servers and switches, the release that runs it."""

    keys: Keys
    model: Found | None
    node: Found | None
    server: Server | None
    switches: Switches | None
    stack: str
    stack_about: str
    source: str
    contradictions: Mapping[str, str]


def entries(imported: Imported) -> Iterator[Entry]:
    """Every line of the scenario; what contradicts it stands beside it."""
    for entry in _entries(imported):
        against = imported.contradictions.get(entry.key)
        yield replace(entry, about=f"{against}; {entry.about}") if against else entry


def _entries(imported: Imported) -> Iterator[Entry]:
    yield Entry("question", "How long does a step of this launch take?")
    yield Entry("source", imported.source)
    yield _model(imported.model)
    yield from _cluster(imported)
    yield from _plan(imported)
    yield from _run(imported.keys)


def _model(found: Found | None) -> Entry:
    if found is None or found.value is None:
        about = "the model: a catalogue name ('traincast models'), {huggingface: config.json}, or written out"
        return Entry("model", None, about if found is None else f"{found.about}; {about}", missing=True)
    return Entry("model", found.value, found.about)


# -- the cluster ----------------------------------------------------------------------------------------------------


def _cluster(imported: Imported) -> Iterator[Entry]:
    gpus, node = imported.keys.found.get("cluster.gpus"), _node(imported)
    if gpus is None:
        yield Entry("cluster.gpus", None, "GPUs of the job", missing=True)
    else:
        yield Entry("cluster.gpus", gpus.value, gpus.about)
    yield node
    yield _fabric(imported, node, gpus)
    for key, example in (("storage_read", "500 GB/s"), ("storage_write", "500 GB/s")):
        yield Entry(
            f"cluster.{key}", None, f"of the file system that all share, as {example}", missing=True, optional=True
        )


def _node(imported: Imported) -> Entry:
    server, named = imported.server, imported.node
    if named is not None and named.comment == GIVEN:
        return Entry("cluster.node", named.value, named.about)
    if server is not None and server.base and named is not None and same_server(server.base, str(named.value)):
        # Siblings look alike to the file, and the launch tells which it is.
        section = node_section(replace(server, base=str(named.value)))
        about = f"{named.about}; {server.file} has its {server.told_by}{_of_cards(server)}"
        return Entry("cluster.node", section["base"] if len(section) == 1 else section, about)
    if server is not None and server.base:
        about = f"{server.file}: {server.told_by}, as {server.base} (CHECK: siblings look alike){_of_cards(server)}"
        section = node_section(server)
        return Entry("cluster.node", section["base"] if len(section) == 1 else section, about)
    if imported.node is not None:
        return Entry("cluster.node", imported.node.value, imported.node.about)
    return Entry("cluster.node", None, "the server, as hgx-h100 ('traincast hardware' lists them)", missing=True)


def _of_cards(server: Server) -> str:
    """What a file without speeds says of network cards, where they are not one for each GPU."""
    if server.nic_bytes_per_s or server.nics in (0, server.gpus):
        return ""
    told = f"; {server.nics} network cards for {server.gpus} GPUs, "
    return told + ("whose share each has" if server.nics < server.gpus else "of which one serves each (CHECK)")


def _fabric(imported: Imported, node: Entry, gpus: Found | None) -> Entry:
    """The fabric: Slurm's switches, none inside one scale-up domain, else a comment: it may be left out."""
    given = imported.keys.found.get("cluster.fabric")
    if given is not None:
        return Entry("cluster.fabric", given.value, given.about)
    known = catalogue.node(node.value) if node.value is not None else None
    if imported.switches is not None and known is not None:
        section, lender = fabric_section(imported.switches, known)
        assumed = f"bandwidth of the NICs, no oversubscription and the latencies of {lender} assumed, CHECK"
        about = f"{imported.switches.file}: reach of the switches; {assumed}"
        return Entry("cluster.fabric", section, about)
    if known is not None and gpus is not None and gpus.value <= known.scale_up.domain_gpus:
        return Entry("cluster.fabric", "none", "all GPUs are in one scale-up domain")
    likely = usual_fabric_name(known, gpus.value) if known is not None and gpus is not None else ""
    about = f"the network, as {likely or 'ndr-rail-2tier'}; without it the plainest that reaches as far"
    return Entry("cluster.fabric", None, about, missing=True, optional=True)


# -- the plan -------------------------------------------------------------------------------------------------------


def plan_defaults() -> dict[str, Any]:
    """The scenario's own values of plan keys, flat."""
    return flat_plan(Plan(1, 1, 1))


def flat_plan(plan: Plan) -> dict[str, Any]:
    """Values of a plan by dotted key, its stack apart."""
    written = as_written(plan)
    written.pop("stack")
    flat: dict[str, Any] = {}
    for key, value in written.items():
        if isinstance(value, Mapping):
            flat |= {f"plan.{key}.{name}": item for name, item in value.items()}
        else:
            flat[f"plan.{key}"] = value
    return flat


def _plan(imported: Imported) -> Iterator[Entry]:
    keys = imported.keys
    for key in ("plan.micro_batch_size", "plan.global_batch_size"):
        if key not in keys.found:
            yield Entry(
                key, None, "sequences of a micro-batch" if "micro" in key else "sequences of a step", missing=True
            )
    for key in plan_keys():
        found = keys.found.get(key)
        if found is not None and found.value is not None:
            yield Entry(key, found.value, found.about)
    behaviours = {key.removeprefix("plan.stack."): found for key, found in keys.found.items()
                  if key.startswith("plan.stack.") and _is_behaviour(key) and found.value is not None}  # fmt: skip
    own = release(imported.stack).stack
    changed = {name: found for name, found in behaviours.items() if getattr(own, name) != found.value}
    if not changed:
        yield Entry("plan.stack", imported.stack, imported.stack_about)
        return
    yield Entry("plan.stack.base", imported.stack, imported.stack_about)
    for name, found in changed.items():
        yield Entry(f"plan.stack.{name}", found.value, found.about)


def _is_behaviour(key: str) -> bool:
    return key.removeprefix("plan.stack.") in {spec.name for spec in fields(Stack)}


def plan_keys() -> list[str]:
    """Keys of a plan in the order of its fields, those of its parts below them."""
    known = hints(Plan)
    ordered = [
        f"plan.{key_of_field(spec, known[spec.name])}" for spec in fields(Plan) if spec.name not in ("dp", "stack")
    ]
    flat = [*plan_defaults(), "plan.offload.gradients"]
    return [
        key for top in ordered for key in [top, *(each for each in flat if each.startswith(f"{top}."))] if key in flat
    ]


# -- the run --------------------------------------------------------------------------------------------------------


def _run(keys: Keys) -> Iterator[Entry]:
    length = keys.found.get("run.seq_length")
    if length is None:
        yield Entry("run.seq_length", None, "tokens of a sequence", missing=True)
    else:
        yield Entry("run.seq_length", length.value, length.about)
    amount = next((key for key in ("run.tokens", "run.steps", "run.samples") if key in keys.found), None)
    if amount is not None:
        yield Entry(amount, keys.found[amount].value, keys.found[amount].about)
    else:
        yield Entry("run.steps", STEPS, "how much is trained; a step's time does not depend on it", missing=True)
    yield from _checkpoint(keys)
    yield from _evaluation(keys)
    yield Entry("run.prices", None, "as {gpu_hour: 2.5 USD/h}; without it the catalogue's", missing=True, optional=True)


def _checkpoint(keys: Keys) -> Iterator[Entry]:
    """How the launch saves; intervals in steps stand in comments, as a scenario has them in time."""
    policy = keys.found.get("run.checkpoint.policy")
    intervals = {
        name: keys.found[f"run.checkpoint.{name}_steps"]
        for name in ("every", "fast_every")
        if keys.value(f"run.checkpoint.{name}_steps") is not None
    }
    if policy is None or policy.value is None:
        if "every" in intervals:
            found = intervals["every"]
            about = f"{{every: a time, as 30 min}}; the launch saves every {found.value} steps ({found.about})"
            yield Entry("run.checkpoint", None, about, missing=True, optional=True)
        return
    yield Entry("run.checkpoint.policy", policy.value, policy.about)
    for name, found in intervals.items():
        about = f"a time, as 30 min; the launch saves every {found.value} steps ({found.about})"
        yield Entry(f"run.checkpoint.{name}", None, about, missing=True, optional=True)
    jump = keys.found.get("run.checkpoint.replication_jump")
    if jump is not None and jump.value is not None:
        yield Entry("run.checkpoint.peer_distance", jump.value, jump.about)


def _evaluation(keys: Keys) -> Iterator[Entry]:
    """Pauses for evaluation, where what one takes is told; else what is told of them, in a comment."""
    every, tokens = keys.found.get("run.evaluation.every"), keys.found.get("run.evaluation.tokens")
    if every is not None and tokens is not None:
        yield Entry("run.evaluation.every", every.value, every.about)
        yield Entry("run.evaluation.tokens", tokens.value, tokens.about)
    elif every is not None:
        about = f"{{every: {every.value}, lasts: a time, as 2 min}}; the launch does not tell what one takes"
        yield Entry("run.evaluation", None, f"{about} ({every.about})", missing=True, optional=True)
