"""Reads a network that no rule builds: a list of nodes and links in JSON or YAML, or a GraphML graph.

JSON: {"name": "...", "nodes": [{"id": "g0", "kind": "gpu"}, ...], "links": [{"source": "g0", "target": "s0",
"bandwidth": "400 Gb/s", "latency": "1 us", "class": "nic"}, ...]}. Links go both ways unless "directed": true. GraphML
carries the same as attributes of nodes (kind) and edges (bandwidth, latency, class).
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from hardware.documents import read_document
from hardware.problems import InputError, Place, Problem, one_of
from hardware.topology.named import Wire, network_at, xml_text
from hardware.topology.network import NODE_KINDS, Network
from hardware.units import QuantityError, implausible, parse

MAX_BYTES = 64 << 20
_TOP_KEYS = ("name", "nodes", "links", "about")
_LINK_KEYS = ("source", "target", "bandwidth", "latency", "class", "directed")


def read_network(path: str | Path) -> Network:
    """The network in a .json, .yaml or .graphml file.

    InputError lists every problem with its key: unknown kinds or nodes, bandwidths that are no quantity or zero, links
    to oneself, no GPUs, GPUs that cannot reach each other.
    """
    path = Path(path)
    if path.suffix.lower() == ".graphml":
        nodes, links = _graphml(path)
        return _assemble(path.stem, nodes, links, Place(str(path)))
    document = read_document(path)
    data = document.data if isinstance(document.data, dict) else {}
    place = document.place
    problems = [place.under(key).problem(one_of(key, _TOP_KEYS)) for key in data if key not in _TOP_KEYS]
    for key in ("nodes", "links"):
        if not isinstance(data.get(key), list):
            problems.append(place.under(key).problem("is missing: a list is wanted"))
    if problems:
        raise InputError(problems)
    return _assemble(str(data.get("name", path.stem)), data["nodes"], data["links"], place)


def _graphml(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(nodes, links) in the form of the JSON file."""
    import networkx as nx

    text = xml_text(path, MAX_BYTES)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            graph = nx.parse_graphml(text)
    except Exception as error:
        raise InputError([Place(str(path)).problem(f"is not GraphML: {type(error).__name__}: {error}")]) from None
    nodes = [{**values, "id": str(node)} for node, values in graph.nodes(data=True)]
    links = []
    for source, target, values in graph.edges(data=True):
        fields = {key: value for key, value in values.items() if key != "id"}
        links.append({"directed": graph.is_directed(), **fields, "source": str(source), "target": str(target)})
    return nodes, links


def _assemble(name: str, nodes: list[Any], links: list[Any], place: Place) -> Network:
    problems: list[Problem] = []
    kinds = _node_kinds(nodes, place.under("nodes"), problems)
    wires = [_read_link(link, kinds, place.under("links").under(i), problems) for i, link in enumerate(links)]
    if "gpu" not in kinds.values() and not problems:
        problems.append(place.under("nodes").problem("has no node of kind gpu"))
    if problems:
        raise InputError(problems)
    return network_at(place, name, kinds, [wire for wire in wires if wire is not None])


def _node_kinds(nodes: list[Any], place: Place, problems: list[Problem]) -> dict[str, str]:
    kinds: dict[str, str] = {}
    for i, node in enumerate(nodes):
        at = place.under(i)
        label = node.get("id") if isinstance(node, dict) else None
        kind = node.get("kind") if isinstance(node, dict) else None
        if not isinstance(label, str | int):
            problems.append(at.problem("needs an id"))
        elif str(label) in kinds:
            problems.append(at.problem(f"node {label!r} is listed twice"))
        elif not isinstance(kind, str) or kind not in NODE_KINDS:
            problems.append(at.under("kind").problem(one_of(kind, NODE_KINDS)))
        else:
            kinds[str(label)] = kind
    return kinds


def _read_link(link: Any, kinds: dict[str, str], at: Place, problems: list[Problem]) -> Wire | None:
    """A link, or None with the reasons added to the problems."""
    if not isinstance(link, dict):
        problems.append(at.problem("must be a mapping with source, target and bandwidth"))
        return None
    before = len(problems)
    problems += [at.under(key).problem(one_of(key, _LINK_KEYS)) for key in link if key not in _LINK_KEYS]
    for end in ("source", "target"):
        if str(link.get(end)) not in kinds:
            problems.append(at.under(end).problem(f"{str(link.get(end))[:60]!r} is not among the nodes"))
    bandwidth = _quantity(link, "bandwidth", "bytes_per_s", None, at, problems)
    latency = _quantity(link, "latency", "s", 0.0, at, problems)
    if bandwidth == 0:
        problems.append(at.under("bandwidth").problem("is zero; a link without capacity is left out instead"))
    link_class, directed = link.get("class", "link"), link.get("directed", False)
    if not isinstance(link_class, str | int):
        problems.append(at.under("class").problem("must be text"))
    if not isinstance(directed, bool):
        problems.append(at.under("directed").problem(f"must be true or false, not {str(directed)[:40]!r}"))
    if len(problems) > before:
        return None
    return Wire(str(link["source"]), str(link["target"]), bandwidth, latency, str(link_class), directed)


def _quantity(
    link: dict[str, Any], key: str, dimension: str, default: float | None, at: Place, problems: list[Problem]
) -> float:
    """A quantity that a machine can have; NaN, and a problem, where it is none."""
    try:
        amount = parse(link.get(key, default), dimension)
    except QuantityError as error:
        problems.append(at.under(key).problem(str(error)))
        return float("nan")
    wrong = implausible(amount, dimension)
    if wrong:
        problems.append(at.under(key).problem(wrong))
    return amount
