"""Reads a network that no rule builds: a list of nodes and links in JSON or YAML, or a GraphML graph.

JSON: {"name": "...", "nodes": [{"id": "g0", "kind": "gpu"}, ...], "links": [{"source": "g0", "target": "s0",
"bandwidth": "400 Gb/s", "latency": "1 us", "class": "nic"}, ...]}. Links go both ways unless "directed": true. GraphML
carries the same as attributes of nodes (kind) and edges (bandwidth, latency, class).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hardware.documents import read_document
from hardware.problems import InputError, Place, Problem, one_of
from hardware.topology.network import NODE_KINDS, Network, check
from hardware.units import QuantityError, parse

MAX_BYTES = 64 << 20


def read_network(path: str | Path) -> Network:
    """The network in a .json, .yaml or .graphml file.

    InputError lists every problem with its key: unknown kinds or nodes, bandwidths that are no quantity or zero, links
    to oneself, no GPUs, GPUs that cannot reach each other.
    """
    path = Path(path)
    if path.suffix.lower() == ".graphml":
        name, nodes, links, place = _graphml(path)
    else:
        document = read_document(path)
        place = document.place
        data = document.data if isinstance(document.data, dict) else {}
        unknown = [key for key in data if key not in ("name", "nodes", "links", "about")]
        problems = [place.under(key).problem(one_of(key, ("name", "nodes", "links", "about"))) for key in unknown]
        problems += [place.under(key).problem("is missing: a list is wanted") for key in ("nodes", "links")
                     if not isinstance(data.get(key), list)]  # fmt: skip
        if problems:
            raise InputError(problems)
        name, nodes, links = str(data.get("name", path.stem)), data["nodes"], data["links"]
    return _assemble(name, nodes, links, place)


def _graphml(path: Path) -> tuple[str, list[dict[str, Any]], list[dict[str, Any]], Place]:
    import networkx as nx

    place = Place(str(path))
    try:
        raw = path.read_bytes()[: MAX_BYTES + 1]
    except OSError as error:
        raise InputError([place.problem(f"cannot be read: {(error.strerror or str(error)).lower()}")]) from None
    if len(raw) > MAX_BYTES:
        raise InputError([place.problem(f"is larger than {MAX_BYTES >> 20} MiB")])
    # Entities could unfold a small file into a huge one; a graph needs none.
    if b"<!DOCTYPE" in raw or b"<!ENTITY" in raw:
        raise InputError([place.problem("declares a document type or entities; a graph needs none")])
    try:
        graph = nx.parse_graphml(raw.decode("utf-8"))
    except Exception as error:
        raise InputError([place.problem(f"is not GraphML: {error}")]) from None
    nodes = [{"id": str(node), **values} for node, values in graph.nodes(data=True)]
    links = []
    for a, b, values in graph.edges(data=True):
        fields = {key: value for key, value in values.items() if key != "id"}
        links.append({"source": str(a), "target": str(b), "directed": graph.is_directed(), **fields})
    return path.stem, nodes, links, place


def _assemble(name: str, nodes: list[Any], links: list[Any], place: Place) -> Network:
    problems: list[Problem] = []
    kinds: dict[str, str] = {}
    for i, node in enumerate(nodes):
        at = place.under("nodes").under(i)
        label, kind = (node.get("id"), node.get("kind")) if isinstance(node, dict) else (None, None)
        if label is None:
            problems.append(at.problem("needs an id"))
        elif str(label) in kinds:
            problems.append(at.problem(f"node {label!r} is listed twice"))
        elif kind not in NODE_KINDS:
            problems.append(at.under("kind").problem(one_of(kind, NODE_KINDS)))
        else:
            kinds[str(label)] = kind
    rows = [_link(link, kinds, place.under("links").under(i), problems) for i, link in enumerate(links)]
    if "gpu" not in kinds.values() and not problems:
        problems.append(place.under("nodes").problem("has no node of kind gpu"))
    if problems:
        raise InputError(problems)
    try:
        network = from_rows(name, kinds, [row for row in rows if row is not None])
        check(network)
    except ValueError as error:
        raise InputError([place.problem(str(error))]) from None
    return network


Row = tuple[str, str, float, float, str, bool]


def _link(link: Any, kinds: dict[str, str], at: Place, problems: list[Problem]) -> Row | None:
    """(source, target, bytes/s, seconds, class, directed), or None with the reasons added to the problems."""
    before = len(problems)
    if not isinstance(link, dict):
        problems.append(at.problem("must be a mapping with source, target and bandwidth"))
        return None
    known = ("source", "target", "bandwidth", "latency", "class", "directed")
    problems += [at.under(key).problem(one_of(key, known)) for key in link if key not in known]
    for end in ("source", "target"):
        if str(link.get(end)) not in kinds:
            problems.append(at.under(end).problem(f"{link.get(end)!r} is not among the nodes"))
    values = []
    for key, dimension, default in (("bandwidth", "bytes_per_s", None), ("latency", "s", 0.0)):
        try:
            values.append(parse(link.get(key, default), dimension))
        except QuantityError as error:
            problems.append(at.under(key).problem(str(error)))
    if values and values[0] <= 0 and len(problems) == before:
        problems.append(at.under("bandwidth").problem("is zero; a link without capacity is left out instead"))
    if len(problems) > before:
        return None
    return (str(link["source"]), str(link["target"]), values[0], values[1], str(link.get("class", "link")),
            bool(link.get("directed", False)))  # fmt: skip


def from_rows(name: str, kinds: dict[str, str], rows: list[Row]) -> Network:
    """A network from named nodes (GPUs are numbered first, in order) and links."""
    order = sorted(kinds, key=lambda node: kinds[node] != "gpu")
    number = {node: i for i, node in enumerate(order)}
    both = [(s, t, c, lat, k) for s, t, c, lat, k, _ in rows] + [
        (t, s, c, lat, k) for s, t, c, lat, k, one in rows if not one
    ]
    classes = tuple(dict.fromkeys(row[4] for row in both))
    source = np.array([number[row[0]] for row in both], np.int32)
    target = np.array([number[row[1]] for row in both], np.int32)
    _, pool = np.unique(source.astype(np.int64) * len(order) + target, return_inverse=True)
    return Network(
        name, sum(kind == "gpu" for kind in kinds.values()),
        np.array([NODE_KINDS.index(kinds[node]) for node in order], np.int8), source, target,
        np.array([row[2] for row in both]), np.array([row[3] for row in both]),
        np.array([classes.index(row[4]) for row in both], np.int8), classes, pool.astype(np.int32), None, tuple(order),
    )  # fmt: skip
