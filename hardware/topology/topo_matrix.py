"""One server from the matrix that `nvidia-smi topo -m` prints."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from hardware.problems import InputError, Place
from hardware.topology.named import Wire, network_at, read_text
from hardware.topology.network import Network

_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_DEVICE = re.compile(r"(GPU|NIC)[0-9]{1,5}|mlx\w+")
_NVLINKS = re.compile(r"NV([0-9]{1,3})")
# How far apart two devices are on PCIe, nearest first: one switch, several, the host bridge, the socket, beyond.
_LEVELS = ("PIX", "PXB", "PHB", "NODE", "SYS")
_MAX_DEVICES = 1024
Pairs = dict[tuple[str, str], str]


def parse_topo_matrix(text: str) -> Pairs:
    """Connection (NV4, PIX, PXB, PHB, NODE, SYS) of every pair of devices in a matrix that nvidia-smi printed.

    Trailing affinity columns and underline codes are ignored. ValueError where no matrix is found, a row is short or
    missing, or a connection is not known.
    """
    lines = [_ESCAPES.sub("", line).split() for line in text.splitlines()]
    start = next((number for number, words in enumerate(lines) if _is_header(words)), None)
    if start is None:
        raise ValueError("nvidia-smi topo -m: no header line with GPU0 was found")
    # "GPU NUMA ID" ends the header: its words are no devices.
    names = [word for word in lines[start] if _DEVICE.fullmatch(word)]
    if len(names) > _MAX_DEVICES or len(set(names)) < len(names):
        raise ValueError(f"nvidia-smi topo -m: header names {len(names)} devices, some twice or more than any server")
    rows = {words[0]: words[1:] for words in lines[start + 1 :] if words and words[0] in names}
    pairs: Pairs = {}
    for device in names:
        if device not in rows:
            raise ValueError(f"nvidia-smi topo -m: row {device} is missing")
        pairs |= _row(device, rows[device], names)
    return pairs


def _is_header(words: list[str]) -> bool:
    return bool(words) and words[0] == "GPU0" and "GPU0" not in words[1:] and "X" not in words


def _row(device: str, values: list[str], names: list[str]) -> Pairs:
    if len(values) < len(names):
        raise ValueError(f"nvidia-smi topo -m: row {device} has {len(values)} of {len(names)} columns")
    pairs: Pairs = {}
    for name, value in zip(names, values, strict=False):
        level = "SYS" if value == "SOC" else value
        if level != "X" and level not in _LEVELS and not _NVLINKS.fullmatch(level):
            known = f"NV#, {', '.join(_LEVELS)} or X are known"
            raise ValueError(f"nvidia-smi topo -m: {device} to {name} is {value[:20]!r}; {known}")
        if name != device:
            pairs[device, name] = level
    return pairs


def read_topo_matrix(path: str | Path, nvlink_bytes_per_s: float = 25e9, pcie_bytes_per_s: float = 63e9) -> Network:
    """One server from the output of `nvidia-smi topo -m`.

    The matrix has no speeds: `nvlink_bytes_per_s` is one NVLink's, `pcie_bytes_per_s` a device's PCIe port. If every
    pair of GPUs has the same number of NVLinks they are taken to meet in NVSwitches, as no GPU has so many links.
    InputError, naming file and row, for what is no such matrix.
    """
    place = Place(str(path))
    try:
        pairs = parse_topo_matrix(read_text(path))
    except ValueError as error:
        raise InputError([place.problem(str(error))]) from None
    devices = list(dict.fromkeys(device for device, _ in pairs))
    gpus = [name for name in devices if name.startswith("GPU")]
    kinds = {name: "gpu" if name in gpus else "nic" for name in devices}
    wires = _nvlinks(pairs, gpus, kinds, nvlink_bytes_per_s)
    wires += _pcie(pairs, devices, kinds, pcie_bytes_per_s)
    return network_at(place, Path(path).stem, kinds, wires)


def _nvlinks(pairs: Pairs, gpus: list[str], kinds: dict[str, str], link_bytes_per_s: float) -> list[Wire]:
    counts: dict[tuple[str, str], int] = {}
    for (one, other), value in pairs.items():
        links = _NVLINKS.fullmatch(value)
        if links and one in gpus and other in gpus and int(links[1]):
            counts[one, other] = int(links[1])
    every_pair = len(counts) == len(gpus) * (len(gpus) - 1)
    if len(gpus) > 2 and every_pair and len(set(counts.values())) == 1:
        kinds["nvswitch"] = "scale_up_switch"
        each = next(iter(counts.values()))
        return [Wire(gpu, "nvswitch", each * link_bytes_per_s, 0.0, "scale_up") for gpu in gpus]
    return [
        Wire(one, other, count * link_bytes_per_s, 0.0, "scale_up", directed=True)
        for (one, other), count in counts.items()
    ]


def _pcie(pairs: Pairs, devices: list[str], kinds: dict[str, str], port_bytes_per_s: float) -> list[Wire]:
    """A PCIe tree in which devices meet at the level that the matrix names; NVLink pairs say nothing about it."""
    wires: list[Wire] = []
    top_of = {name: name for name in devices}
    for level, name in enumerate(_LEVELS):
        near = _LEVELS[: level + 1]

        def meet(one: str, other: str, near: tuple[str, ...] = near) -> bool:
            return pairs.get((one, other)) in near

        for group in [devices] if name == "SYS" else joined_groups(devices, meet):
            tops = list(dict.fromkeys(top_of[device] for device in group))
            if len(tops) < 2:
                continue
            node = f"{name} {group[0]}"
            kinds[node] = "pci" if name in ("PIX", "PXB") else "cpu"
            wires += [Wire(top, node, port_bytes_per_s, 0.0, "pcie") for top in tops]
            top_of |= dict.fromkeys(group, node)
    return wires


def joined_groups(items: list[str], joined: Callable[[str, str], bool]) -> list[list[str]]:
    """Items in groups that are joined directly or through others, in order."""
    left = list(items)
    groups: list[list[str]] = []
    while left:
        group = [left.pop(0)]
        for member in group:
            near = [item for item in left if joined(member, item)]
            group += near
            left = [item for item in left if item not in near]
        groups.append(group)
    return groups
