"""Networks from nodes and links by name, as readers of other tools' files make them, and what those readers share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np

from hardware.problems import InputError, Place
from hardware.topology.network import NODE_KINDS, Network, check

MAX_BYTES = 16 << 20
MAX_CLASSES = 100


class Wire(NamedTuple):
    """A link between two nodes by name; it goes both ways unless `directed`."""

    source: str
    target: str
    bytes_per_s: float
    latency_s: float
    link_class: str
    directed: bool = False


def read_text(path: str | Path, max_bytes: int = MAX_BYTES) -> str:
    """The text of a file. InputError for one that cannot be read, is too large, or is no UTF-8 text."""
    place = Place(str(path))
    try:
        with open(path, "rb") as file:
            raw = file.read(max_bytes + 1)
        if len(raw) > max_bytes:
            raise InputError([place.problem(f"is larger than {max_bytes >> 20} MiB")])
        return raw.decode("utf-8-sig")
    except OSError as error:
        raise InputError([place.problem(f"cannot be read: {(error.strerror or str(error)).lower()}")]) from None
    except UnicodeDecodeError as error:
        raise InputError([place.problem(f"is not UTF-8 text: byte {error.start} is wrong")]) from None


def xml_text(path: str | Path, max_bytes: int = MAX_BYTES) -> str:
    """The text of an XML file. InputError for one with entities, by which a small file could unfold to a huge one."""
    text = read_text(path, max_bytes)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise InputError([Place(str(path)).problem("declares a document type or entities; a network needs none")])
    return text


def read_xml(path: str | Path) -> ElementTree.Element:
    """The root element of an XML file. InputError for what is none."""
    try:
        return ElementTree.fromstring(xml_text(path))
    except (ElementTree.ParseError, ValueError) as error:
        raise InputError([Place(str(path)).problem(f"is not XML: {error}")]) from None


def network_at(place: Place, name: str, kinds: Mapping[str, str], wires: Sequence[Wire]) -> Network:
    """A network in which every GPU reaches every other. InputError, naming the file, where one cannot be made."""
    try:
        network = from_wires(name, kinds, wires)
        check(network)
    except ValueError as error:
        raise InputError([place.problem(str(error))]) from None
    return network


def from_wires(name: str, kinds: Mapping[str, str], wires: Sequence[Wire]) -> Network:
    """A network from named nodes (GPUs are numbered first, in order) and links.

    `kinds`: node -> one of NODE_KINDS. ValueError for a network without GPUs or links, or of too many classes.
    """
    order = sorted(kinds, key=lambda node: kinds[node] != "gpu")
    gpus = sum(kind == "gpu" for kind in kinds.values())
    back = [wire._replace(source=wire.target, target=wire.source) for wire in wires if not wire.directed]
    both = [*wires, *back]
    classes = tuple(dict.fromkeys(wire.link_class for wire in both))
    if not gpus or not both:
        raise ValueError(f"{name}: has {gpus} GPUs and {len(both)} links; a network needs some of both")
    if len(classes) > MAX_CLASSES:
        raise ValueError(f"{name}: has {len(classes)} classes of links; {MAX_CLASSES} are told apart at most")
    number = {node: i for i, node in enumerate(order)}
    source = np.array([number[wire.source] for wire in both], np.int32)
    target = np.array([number[wire.target] for wire in both], np.int32)
    # Parallel links between two nodes share a pool.
    pair = source.astype(np.int64) * len(order) + target
    _, pool = np.unique(pair, return_inverse=True)
    return Network(
        name=name,
        gpus=gpus,
        node_kind=np.array([NODE_KINDS.index(kinds[node]) for node in order], np.int8),
        source=source,
        target=target,
        capacity_bytes_per_s=np.array([wire.bytes_per_s for wire in both]),
        latency_s=np.array([wire.latency_s for wire in both]),
        link_class=np.array([classes.index(wire.link_class) for wire in both], np.int8),
        classes=classes,
        pool=pool.astype(np.int32),
        node_names=tuple(order),
    )
