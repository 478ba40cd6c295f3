"""Networks as the machines' own tools describe them: NCCL topology XML, `nvidia-smi topo -m`, Slurm topology files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from hardware.documents import read_document
from hardware.problems import InputError, Place, Problem
from hardware.topology.custom import Row, from_rows
from hardware.topology.network import Network, check

# One NVLink per direction by compute capability (vendor figures: 25 GB/s Volta to Hopper, 50 GB/s Blackwell).
_NVLINK = {60: 20e9, 70: 25e9, 80: 25e9, 90: 25e9, 100: 50e9}
_NVSWITCH_CLASS = "0x068000"
MAX_BYTES = 16 << 20


def _text(path: str | Path) -> str:
    place = Place(str(path))
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise InputError([place.problem(f"is larger than {MAX_BYTES >> 20} MiB")])
        return raw.decode("utf-8-sig")
    except OSError as error:
        raise InputError([place.problem(f"cannot be read: {(error.strerror or str(error)).lower()}")]) from None
    except UnicodeDecodeError:
        raise InputError([place.problem("is not UTF-8 text")]) from None


def _network(name: str, kinds: dict[str, str], rows: list[Row], place: Place) -> Network:
    try:
        network = from_rows(name, kinds, rows)
        check(network)
    except ValueError as error:
        raise InputError([place.problem(str(error))]) from None
    return network


# --- NCCL topology XML ---------------------------------------------------------------------------------------------


def read_nccl_topology(path: str | Path) -> Network:
    """One server from an NCCL_TOPO_DUMP_FILE: GPUs, NVLinks, NVSwitches, PCIe switches, NICs, CPUs.

    InputError for what is no such file, or names links without speed.
    """
    text, place = _text(path), Place(str(path))
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise InputError([place.problem("declares a document type or entities; a topology needs none")])
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise InputError([place.problem(f"is not XML: {error}")]) from None
    if root.tag != "system":
        raise InputError([place.problem(f"starts with <{root.tag}>; an NCCL topology starts with <system>")])
    kinds: dict[str, str] = {}
    rows: list[Row] = []
    problems: list[Problem] = []
    cpus = [f"cpu {cpu.get('numaid', i)}" for i, cpu in enumerate(root.iter("cpu"))]
    for name, cpu in zip(cpus, root.iter("cpu"), strict=True):
        kinds[name] = "cpu"
        for device in cpu:
            _pci(device, name, kinds, rows, problems, place)
    # The inter-socket bus as NCCL takes it for current Intel parts (topo.h, 40 GB/s).
    rows += [(a, b, 40e9, 0.0, "socket", False) for i, a in enumerate(cpus) for b in cpus[i + 1 :]]
    if not problems and "gpu" not in kinds.values():
        problems.append(place.problem("has no <gpu>"))
    if problems:
        raise InputError(problems)
    _nvlinks(root, kinds, rows)
    return _network(Path(path).stem, kinds, rows, place)


def _pci(
    device: Any, above: str, kinds: dict[str, str], rows: list[Row], problems: list[Problem], place: Place
) -> None:
    """One <pci> or <nic> element and all below it."""
    if device.tag == "nic":
        _nics(device, above, kinds, rows)
        return
    if device.tag != "pci":
        return
    label = device.get("busid", f"pci {len(kinds)}")
    speed = re.match(r"\s*([0-9.]+)", device.get("link_speed", ""))
    width = device.get("link_width", "")
    if not speed or not width.isdigit() or float(speed[1]) <= 0 or int(width) <= 0:
        problems.append(
            place.under(label).problem(f"link {device.get('link_speed')!r} x {width!r} is no PCIe speed and width")
        )
        return
    # 128b/130b coding: 32 GT/s x 16 lanes carry 63 GB/s.
    bandwidth = float(speed[1]) * 1e9 * int(width) * 128 / 130 / 8
    kinds[label] = "gpu" if device.find("gpu") is not None else "pci"
    rows.append((above, label, bandwidth, 0.0, "pcie", False))
    for child in device:
        _pci(child, label, kinds, rows, problems, place)


def _nics(nic: Any, above: str, kinds: dict[str, str], rows: list[Row]) -> None:
    for net in nic.iter("net"):
        label = f"net {net.get('name', len(kinds))}"
        kinds[label] = "nic"
        # <net speed> is in Mbit/s, latency in microseconds.
        speed = float(net.get("speed", "0")) * 1e6 / 8
        if speed > 0:
            rows.append((above, label, speed, float(net.get("latency", "0")) * 1e-6, "nic", False))


def _nvlinks(root: Any, kinds: dict[str, str], rows: list[Row]) -> None:
    switch = "nvswitch"
    for device in root.iter("pci"):
        gpu = device.find("gpu")
        if gpu is None:
            continue
        generation = max((sm for sm in _NVLINK if sm <= int(gpu.get("sm", "70"))), default=60)
        for link in gpu.iter("nvlink"):
            bandwidth = int(link.get("count", "1")) * _NVLINK[generation]
            target = link.get("target", "")
            if link.get("tclass") == _NVSWITCH_CLASS:
                kinds[switch] = "scale_up_switch"
                rows.append((device.get("busid", ""), switch, bandwidth, 0.0, "scale_up", False))
            elif target in kinds:
                rows.append((device.get("busid", ""), target, bandwidth, 0.0, "scale_up", True))


# --- nvidia-smi topo -m --------------------------------------------------------------------------------------------

_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_LEVELS = ("PIX", "PXB", "PHB", "NODE", "SYS")


def parse_topo_matrix(text: str) -> dict[tuple[str, str], str]:
    """Connection (NV4, PIX, PXB, PHB, NODE, SYS) of every pair of devices in a matrix that nvidia-smi printed.

    Trailing affinity columns and underline codes are ignored. ValueError where no matrix is found or a row is short.
    """
    lines = [_ESCAPES.sub("", line).split() for line in text.splitlines()]
    start = next(
        (
            i
            for i, words in enumerate(lines)
            if words and words[0] == "GPU0" and "GPU0" not in words[1:] and "X" not in words
        ),
        None,
    )
    if start is None:
        raise ValueError("nvidia-smi topo -m: no header line with GPU0 was found")
    names = [word for word in lines[start] if re.fullmatch(r"(GPU|NIC)\d+|mlx\w+", word)]
    # "GPU NUMA ID" ends the header: its words are no devices.
    pairs: dict[tuple[str, str], str] = {}
    for words in lines[start + 1 :]:
        if not words or words[0] not in names:
            continue
        values = words[1 : 1 + len(names)]
        if len(values) < len(names):
            raise ValueError(f"nvidia-smi topo -m: row {words[0]} has {len(values)} of {len(names)} columns")
        for name, value in zip(names, values, strict=True):
            value = "SYS" if value == "SOC" else value
            if value != "X" and value not in _LEVELS and not re.fullmatch(r"NV\d+", value):
                raise ValueError(
                    f"nvidia-smi topo -m: {words[0]} to {name} is {value!r}; NV#, {', '.join(_LEVELS)} or X are known"
                )
            if name != words[0]:
                pairs[words[0], name] = value
    return pairs


def read_topo_matrix(path: str | Path, nvlink_bytes_per_s: float = 25e9, pcie_bytes_per_s: float = 63e9) -> Network:
    """One server from the output of `nvidia-smi topo -m`.

    The matrix has no speeds: `nvlink_bytes_per_s` is one NVLink's, `pcie_bytes_per_s` a device's PCIe port. If every
    pair of GPUs has the same number of NVLinks they are taken to meet in NVSwitches, as no GPU has so many links.
    """
    place = Place(str(path))
    try:
        pairs = parse_topo_matrix(_text(path))
    except ValueError as error:
        raise InputError([place.problem(str(error))]) from None
    devices = list(dict.fromkeys(a for a, _ in pairs))
    gpus = [name for name in devices if name.startswith("GPU")]
    kinds = {name: "gpu" if name in gpus else "nic" for name in devices}
    rows = _matrix_nvlinks(pairs, gpus, kinds, nvlink_bytes_per_s)
    _matrix_pcie(pairs, devices, kinds, rows, pcie_bytes_per_s)
    return _network(Path(path).stem, kinds, rows, place)


def _matrix_nvlinks(
    pairs: dict[tuple[str, str], str], gpus: list[str], kinds: dict[str, str], link: float
) -> list[Row]:
    counts = {
        (a, b): int(value[2:]) for (a, b), value in pairs.items() if value.startswith("NV") and a in gpus and b in gpus
    }
    if len(gpus) > 2 and len(set(counts.values())) == 1 and len(counts) == len(gpus) * (len(gpus) - 1):
        kinds["nvswitch"] = "scale_up_switch"
        each = next(iter(counts.values()))
        return [(gpu, "nvswitch", each * link, 0.0, "scale_up", False) for gpu in gpus]
    return [(a, b, count * link, 0.0, "scale_up", True) for (a, b), count in counts.items()]


def _matrix_pcie(
    pairs: dict[tuple[str, str], str], devices: list[str], kinds: dict[str, str], rows: list[Row], port: float
) -> None:
    """A PCIe tree in which devices meet at the level that the matrix names; NVLink pairs say nothing about it."""
    below = {name: name for name in devices}
    for level, name in enumerate(_LEVELS):
        near = set(_LEVELS[: level + 1])
        groups = _groups(devices, lambda a, b, near=near: pairs.get((a, b)) in near)
        if name == "SYS":
            groups = [devices]
        for group in groups:
            tops = list(dict.fromkeys(below[device] for device in group))
            if len(tops) < 2:
                continue
            node = f"{name} {group[0]}"
            kinds[node] = "pci" if level < 2 else "cpu"
            rows += [(top, node, port, 0.0, "pcie", False) for top in tops]
            for device in group:
                below[device] = node


def _groups(items: list[str], joined: Any) -> list[list[str]]:
    """Items in groups that are joined directly or through others, in order."""
    left, groups = list(items), []
    while left:
        group = [left.pop(0)]
        for member in group:
            near = [item for item in left if joined(member, item)]
            group += near
            left = [item for item in left if item not in near]
        groups.append(group)
    return groups


# --- Slurm ---------------------------------------------------------------------------------------------------------


def expand_hostlist(text: str) -> list[str]:
    """Slurm's host list notation written out: "tux[0-2,7],login" -> tux0 tux1 tux2 tux7 login; zeros are kept.

    ValueError for brackets that do not match, or ranges that are none.
    """
    hosts: list[str] = []
    for part in re.findall(r"(?:[^,\[\]]|\[[^\]]*\])+", text):
        expanded = [""]
        for piece in re.split(r"(\[[^\]]*\])", part):
            options = _ranges(piece[1:-1], text) if piece.startswith("[") else [piece]
            if len(expanded) * len(options) > 1_000_000:
                raise ValueError(f"host list {text!r}: stands for more than a million hosts")
            expanded = [left + right for left in expanded for right in options]
        hosts += expanded
    if text.count("[") != text.count("]") or not hosts:
        raise ValueError(f"host list {text!r}: brackets do not match, or it is empty")
    return hosts


def _ranges(text: str, whole: str) -> list[str]:
    found: list[str] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if not match or int(match[2] or match[1]) < int(match[1]) or int(match[2] or 0) - int(match[1]) > 1_000_000:
            raise ValueError(f"host list {whole!r}: {part!r} is no range of numbers")
        found += [str(i).zfill(len(match[1])) for i in range(int(match[1]), int(match[2] or match[1]) + 1)]
    return found


def read_slurm_topology(
    path: str | Path,
    gpus_per_node: int,
    nic_bytes_per_s: float,
    scale_up_bytes_per_s: float,
    oversubscription: float = 1.0,
) -> Network:
    """The switch tree (or blocks) of a Slurm topology.conf or topology.yaml with GPUs in every host.

    The files name no speeds: `nic_bytes_per_s` is per GPU, and every switch's uplink carries what comes from below over
    `oversubscription`. InputError for switches that are their own parents, hosts without a switch, several roots.
    """
    place = Place(str(path))
    try:
        switches = _slurm_yaml(path) if Path(path).suffix in (".yaml", ".yml") else _slurm_conf(_text(path))
        hosts = {host: name for name, (children, members) in switches.items() for host in members}
        count = sum(len(members) for _, members in switches.values())
        if not hosts or len(hosts) != count:
            raise ValueError("names no hosts" if not hosts else "puts a host below two switches")
        parents = {child: name for name, (children, _) in switches.items() for child in children}
        roots = [name for name in switches if name not in parents]
        unknown = sorted(child for child in parents if child not in switches)
        if unknown or len(roots) != 1:
            raise ValueError(
                f"switches {unknown} are not defined"
                if unknown
                else f"has {len(roots)} top switches {roots}; one joins all"
            )
        weight = _hosts_below(switches, roots[0])
    except ValueError as error:
        raise InputError([place.problem(str(error))]) from None
    kinds: dict[str, str] = {}
    rows: list[Row] = []
    for host, switch in hosts.items():
        gpus = [f"{host}/gpu{i}" for i in range(gpus_per_node)]
        kinds |= dict.fromkeys(gpus, "gpu") | {f"{host}/nvswitch": "scale_up_switch"}
        rows += [(gpu, f"{host}/nvswitch", scale_up_bytes_per_s, 0.0, "scale_up", False) for gpu in gpus]
        rows += [(gpu, switch, nic_bytes_per_s, 0.0, "nic", False) for gpu in gpus]
    kinds |= {name: "leaf" if members else "spine" for name, (_, members) in switches.items()}
    for child, parent in parents.items():
        up = weight[child] * gpus_per_node * nic_bytes_per_s / oversubscription
        rows.append((child, parent, up, 0.0, "uplink", False))
    return _network(Path(path).stem, kinds, rows, place)


Switches = dict[str, tuple[list[str], list[str]]]


def _slurm_conf(text: str) -> Switches:
    """Switch -> (child switches, hosts) of topology.conf; blocks become leaves below one switch."""
    switches: Switches = {}
    blocks: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = dict(word.split("=", 1) for word in line.split("#", 1)[0].split() if "=" in word)
        fields = {key.lower(): value for key, value in words.items()}
        name = fields.get("switchname") or fields.get("blockname")
        if name is None:
            if fields and "blocksizes" not in fields:
                raise ValueError(f"line {number}: SwitchName= or BlockName= is wanted")
            continue
        if name in switches:
            raise ValueError(f"line {number}: {name} is defined twice")
        blocks += [name] if "blockname" in fields else []
        switches[name] = tuple(expand_hostlist(fields[key]) if key in fields else [] for key in ("switches", "nodes"))  # type: ignore[assignment]
    return _with_root(switches, blocks)


def _slurm_yaml(path: str | Path) -> Switches:
    data = read_document(path).data
    entries = data if isinstance(data, list) else [data]
    chosen = next((e for e in entries if isinstance(e, dict) and e.get("cluster_default")), entries[0])
    if not isinstance(chosen, dict) or not ({"tree", "block"} & set(chosen)):
        raise ValueError("a topology with tree or block is wanted")
    if "block" in chosen:
        named = {str(block["block"]): block.get("nodes", "") for block in chosen["block"]["blocks"]}
        return _with_root({name: ([], expand_hostlist(nodes)) for name, nodes in named.items()}, list(named))
    switches: Switches = {}
    for switch in chosen["tree"]["switches"]:
        name = str(switch["switch"])
        if name in switches:
            raise ValueError(f"{name} is defined twice")
        switches[name] = tuple(expand_hostlist(switch[key]) if key in switch else [] for key in ("children", "nodes"))  # type: ignore[assignment]
    return switches


def _with_root(switches: Switches, blocks: list[str]) -> Switches:
    return switches | {"between blocks": (blocks, [])} if len(blocks) > 1 else switches


def _hosts_below(switches: Switches, root: str) -> dict[str, int]:
    """Hosts below each switch; ValueError where a switch hangs below itself or is out of reach."""
    weight: dict[str, int] = {}
    order, seen = [root], {root}
    for name in order:
        for child in switches[name][0]:
            if child in seen:
                raise ValueError(f"switch {child} hangs below two switches, or below itself")
            seen.add(child)
            order.append(child)
    if len(order) < len(switches):
        raise ValueError(f"switches {sorted(set(switches) - seen)} hang below themselves")
    for name in reversed(order):
        children, members = switches[name]
        weight[name] = len(members) + sum(weight[child] for child in children)
    return weight
