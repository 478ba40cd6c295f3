"""Where descriptions of machines and the launch do not agree: each told, none followed in silence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil

from hardware import catalogue
from simulator.launch.importing.clusters import Server, Switches, same_server
from simulator.launch.importing.derived import PER_NODE, first_count, last
from simulator.launch.importing.statements import GIVEN, Found, Keys, Statement

MARK = "CONTRADICTION"
NICS = "NCCL_IB_HCA"


def contradictions(
    keys: Keys, statements: Sequence[Statement], server: Server | None, switches: Switches | None, named: Found | None
) -> dict[str, str]:
    """What does not agree, by the line of the scenario that it concerns."""
    told: dict[str, list[str]] = {}
    if server is not None:
        told["cluster.node"] = [*_of_server(keys, statements, server), *_of_name(server, named)]
    if switches is not None:
        told["cluster.fabric"] = list(_of_switches(keys, switches, server, named))
    return {key: f"{MARK}: {'; '.join(texts)}" for key, texts in told.items() if texts}


def _of_server(keys: Keys, statements: Sequence[Statement], server: Server) -> Iterator[str]:
    per_node, gpus = first_count(statements, PER_NODE), keys.value("cluster.gpus")
    if per_node and per_node[0] != server.gpus:
        yield f"{per_node[1]} has {per_node[0]} GPUs a node, {server.file} has {server.gpus}, which are taken"
    elif isinstance(gpus, int) and gpus > server.gpus and gpus % server.gpus:
        yield f"the job's {gpus} GPUs are no whole servers of {server.gpus} as {server.file} has them"
    cards = last(statements, NICS)
    count = _cards(str(cards.value)) if cards else 0
    if cards and count and server.nics and count != server.nics:
        yield f"{cards.origin}: {NICS} names {count} NICs, {server.file} has {server.nics}, which are taken"


def _cards(text: str) -> int:
    """The NICs that a list names one by one; 0 for one that excludes, or names by a prefix."""
    bare = text.strip("'\"")
    if bare.startswith("^"):
        return 0
    names = [name for name in bare.strip("'\"=").split(",") if name]
    return len(names) if all(map(_is_one_card, names)) else 0


def _is_one_card(name: str) -> bool:
    """Whether a name ends in a card's number, before its port if it has one."""
    card = name.rpartition(":")[0]
    return card[-1:].isdigit() or name[-1:].isdigit()


def _of_name(server: Server, named: Found | None) -> Iterator[str]:
    if named is None or named.comment == GIVEN or not server.base or same_server(server.base, str(named.value)):
        return
    yield f"the launch names {named.value} ({named.about}), {server.file} tells {server.base}, which is taken"


def _of_switches(keys: Keys, switches: Switches, server: Server | None, named: Found | None) -> Iterator[str]:
    gpus = keys.value("cluster.gpus")
    own = _gpus_of(server, named)
    if not isinstance(gpus, int) or not own:
        return
    servers = ceil(gpus / own)
    if servers > switches.hosts:
        yield f"the job's {gpus} GPUs are {servers} servers, {switches.file} has {switches.hosts}"


def _gpus_of(server: Server | None, named: Found | None) -> int:
    """GPUs of the described server, else of the named one; 0 where neither is known."""
    if server is not None:
        return server.gpus
    return catalogue.node(str(named.value)).gpus if named else 0
