"""A cluster's switches from Slurm's topology.conf or topology.yaml."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from hardware.documents import read_document
from hardware.problems import InputError, Place
from hardware.sections import Section
from hardware.topology.named import Wire, network_at, read_text
from hardware.topology.network import Network

MAX_HOSTS = 1_000_000
_RANGE = re.compile(r"([0-9]{1,12})(?:-([0-9]{1,12}))?")


@dataclass(frozen=True, slots=True)
class SlurmSwitch:
    """What hangs below a switch or makes up a block."""

    children: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    is_block: bool = False


Switches = dict[str, SlurmSwitch]


# --- host lists ----------------------------------------------------------------------------------------------------


def expand_hostlist(text: str) -> list[str]:
    """Slurm's host list notation written out: "tux[0-2,7],login" -> tux0 tux1 tux2 tux7 login; zeros are kept.

    ValueError for brackets that do not match, ranges that are none, or more than a million hosts.
    """
    shown = repr(text[:60])
    hosts: list[str] = []
    for part in re.findall(r"(?:[^,\[\]]|\[[^\]]*\])+", text):
        expanded = [""]
        for piece in re.split(r"(\[[^\]]*\])", part):
            options = _ranges(piece[1:-1], shown) if piece.startswith("[") else [piece]
            if len(hosts) + len(expanded) * len(options) > MAX_HOSTS:
                raise ValueError(f"host list {shown}: stands for more than a million hosts")
            expanded = [left + right for left in expanded for right in options]
        hosts += expanded
    if text.count("[") != text.count("]") or not hosts:
        raise ValueError(f"host list {shown}: brackets do not match, or it is empty")
    return hosts


def _ranges(text: str, shown: str) -> list[str]:
    numbers: list[str] = []
    for part in text.split(","):
        match = _RANGE.fullmatch(part)
        first = int(match[1]) if match else 0
        last = int(match[2] or match[1]) if match else -1
        if not match or last < first:
            raise ValueError(f"host list {shown}: {part[:40]!r} is no range of numbers")
        if len(numbers) + last - first >= MAX_HOSTS:
            raise ValueError(f"host list {shown}: stands for more than a million hosts")
        width = len(match[1])
        numbers += [str(number).zfill(width) for number in range(first, last + 1)]
    return numbers


# --- the network ---------------------------------------------------------------------------------------------------


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
        switches = _read_switches(path)
        parents = _parents(switches)
        hosts_below = _hosts_below(switches, _root(switches, parents))
        switch_of = _switch_of_hosts(switches)
    except ValueError as error:
        raise InputError([place.problem(str(error))]) from None
    kinds: dict[str, str] = {}
    wires: list[Wire] = []
    for host, switch in switch_of.items():
        inside = f"{host}/nvswitch"
        kinds[inside] = "scale_up_switch"
        for number in range(gpus_per_node):
            gpu = f"{host}/gpu{number}"
            kinds[gpu] = "gpu"
            wires.append(Wire(gpu, inside, scale_up_bytes_per_s, 0.0, "scale_up"))
            wires.append(Wire(gpu, switch, nic_bytes_per_s, 0.0, "nic"))
    for name, switch_entry in switches.items():
        kinds[name] = "leaf" if switch_entry.hosts else "spine"
    for child, parent in parents.items():
        injected = hosts_below[child] * gpus_per_node * nic_bytes_per_s
        if injected:
            wires.append(Wire(child, parent, injected / oversubscription, 0.0, "uplink"))
    return network_at(place, Path(path).stem, kinds, wires)


@dataclass(frozen=True, slots=True)
class SlurmLevel:
    """The switches of one level, lowest first: how many, the most hosts below one of them, the most links down.

    `blocks`: they are blocks, whose hosts one scale-up domain or one leaf joins.
    """

    switches: int
    hosts_below: int
    links_down: int
    blocks: bool = False


def slurm_levels(path: str | Path) -> tuple[SlurmLevel, ...]:
    """The levels of a Slurm topology's switches, those with hosts first. InputError as `read_slurm_topology`."""
    try:
        switches = _read_switches(path)
        hosts_below = _hosts_below(switches, _root(switches, _parents(switches)))
    except ValueError as error:
        raise InputError([Place(str(path)).problem(str(error))]) from None
    levels: dict[int, list[str]] = {}
    for name in switches:
        levels.setdefault(_height(name, switches), []).append(name)
    return tuple(
        SlurmLevel(
            switches=len(names),
            hosts_below=max(hosts_below[name] for name in names),
            links_down=max(len(switches[name].children) or len(switches[name].hosts) for name in names),
            blocks=all(switches[name].is_block for name in names),
        )
        for _, names in sorted(levels.items())
    )


def _height(name: str, switches: Switches) -> int:
    """Levels of switches below one."""
    return max((1 + _height(child, switches) for child in switches[name].children), default=0)


def _read_switches(path: str | Path) -> Switches:
    return _read_yaml(path) if Path(path).suffix in (".yaml", ".yml") else _parse_conf(read_text(path))


def _switch_of_hosts(switches: Switches) -> dict[str, str]:
    """The switch above each host."""
    switch_of = {host: name for name, switch in switches.items() for host in switch.hosts}
    if not switch_of:
        raise ValueError("names no hosts")
    if len(switch_of) != sum(len(switch.hosts) for switch in switches.values()):
        raise ValueError("puts a host below two switches")
    return switch_of


def _parents(switches: Switches) -> dict[str, str]:
    _switch_of_hosts(switches)
    return {child: name for name, switch in switches.items() for child in switch.children}


def _root(switches: Switches, parents: dict[str, str]) -> str:
    """The switch above all others."""
    undefined = sorted(child for child in parents if child not in switches)
    if undefined:
        raise ValueError(f"switches {undefined[:8]} are not defined")
    roots = [name for name in switches if name not in parents]
    if len(roots) != 1:
        raise ValueError(f"has {len(roots)} top switches {roots[:8]}; one joins all")
    return roots[0]


def _hosts_below(switches: Switches, root: str) -> dict[str, int]:
    """Hosts below each switch; ValueError where a switch hangs below itself or is out of reach."""
    order, seen = [root], {root}
    for name in order:
        for child in switches[name].children:
            if child in seen:
                raise ValueError(f"switch {child} hangs below two switches, or below itself")
            seen.add(child)
            order.append(child)
    if len(order) < len(switches):
        raise ValueError(f"switches {sorted(set(switches) - seen)[:8]} hang below themselves")
    count: dict[str, int] = {}
    for name in reversed(order):
        switch = switches[name]
        count[name] = len(switch.hosts) + sum(count[child] for child in switch.children)
    return count


# --- the files -----------------------------------------------------------------------------------------------------


def _parse_conf(text: str) -> Switches:
    """The switches of topology.conf; blocks become leaves below one switch."""
    switches: Switches = {}
    blocks: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#", 1)[0].split()
        settings = [word.partition("=") for word in words if "=" in word]
        fields = {key.lower(): value for key, _, value in settings}
        name = fields.get("switchname") or fields.get("blockname")
        if name is None:
            if fields and "blocksizes" not in fields:
                raise ValueError(f"line {number}: SwitchName= or BlockName= is wanted")
            continue
        if name in switches:
            raise ValueError(f"line {number}: {name} is defined twice")
        if "blockname" in fields:
            blocks.append(name)
        try:
            switches[name] = _switch(fields.get("switches"), fields.get("nodes"), "blockname" in fields)
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
    return _with_root(switches, blocks)


def _switch(children: str | None, hosts: str | None, is_block: bool) -> SlurmSwitch:
    return SlurmSwitch(
        is_block=is_block,
        children=tuple(expand_hostlist(children)) if children is not None else (),
        hosts=tuple(expand_hostlist(hosts)) if hosts is not None else (),
    )


def _with_root(switches: Switches, blocks: list[str]) -> Switches:
    if len(blocks) < 2:
        return switches
    return switches | {"between blocks": SlurmSwitch(children=tuple(blocks))}


def _read_yaml(path: str | Path) -> Switches:
    """The switches of topology.yaml: of the topology marked `cluster_default`, else of the first."""
    document = read_document(path)
    entries = document.data if isinstance(document.data, list) else [document.data]
    defaults = [i for i, entry in enumerate(entries) if isinstance(entry, dict) and entry.get("cluster_default")]
    chosen = defaults[0] if defaults else 0
    entry = entries[chosen] if entries else None
    if not isinstance(entry, dict) or not ({"tree", "block"} & set(entry)):
        raise ValueError("a topology with tree or block is wanted")
    place = document.place.under(chosen) if isinstance(document.data, list) else document.place
    top = Section(entry, place)
    if "block" in entry:
        switches = _named_switches(top.section("block"), "blocks", "block")
        switches = _with_root(switches, list(switches))
    else:
        switches = _named_switches(top.section("tree"), "switches", "switch")
    top.raise_problems()
    return switches


def _named_switches(above: Section, key: str, name_key: str) -> Switches:
    """The switches or blocks of a list, by name."""
    switches: Switches = {}
    for part in above.sections(key):
        name, children, hosts = part.take(name_key), part.text("children", None), part.text("nodes", None)
        if not isinstance(name, str | int):
            part.report(name_key, "must be a name")
        elif str(name) in switches:
            part.report(name_key, f"{name} is defined twice")
        else:
            try:
                switches[str(name)] = _switch(children, hosts, name_key == "block")
            except ValueError as error:
                part.report("nodes", str(error))
    return switches
