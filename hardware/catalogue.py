"""The hardware that ships with the project and the user's own: accelerators, nodes, fabrics and whole clusters.

Everything takes the same three forms: a catalogue name ("h100"), a YAML file ("my/gpu.yaml"), or a mapping, which may
change an entry: {base: hgx-h100, nic: {bandwidth: 50 GB/s}}. Values carry their unit; a source may stand beside each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast, get_args

from hardware.documents import Document, read_document
from hardware.own_parts import peaks_of_multiprocessors, report_unbelieved
from hardware.precisions import FORMATS, REFERENCE
from hardware.problems import InputError, Place, Problem, known_name, one_of
from hardware.sections import Section
from hardware.specs import (
    FLOWS_PER_PORT,
    GENERATIONS,
    Accelerator,
    Cluster,
    Cooling,
    Fabric,
    FabricKind,
    Nic,
    NicTechnology,
    Node,
    Origin,
    ScaleUp,
    ScaleUpKind,
    SwitchTier,
)
from hardware.wiring import idle_keys

Kind = Literal["accelerators", "nodes", "fabrics"]
DATA = Path(__file__).parent / "data"
INLINE = Place("inline")
# Where merged data name the shipped entry that they go back to; files that write it are refused.
ROOT = "derived from"
CHANGED = " (changed)"  # ends the name of an entry that a scenario changes
# Figures that a prediction names as assumed unless the user gives them, and how the sources of given ones begin.
PREMISES = frozenset({"price", "overhead_power", "power_per_endpoint"})
GIVEN = "given"
# The sets of measured kernels that price operators; a part that was not measured names a sibling's and a scale.
KERNEL_SETS = (
    "a100-sxm-80gb",
    "h100-sxm-80gb",
    "h200-sxm-141gb",
    "b200-sxm-180gb",
    "b300-sxm-288gb",
    "gb200-nvl72",
    "gb300-nvl72",
)


def accelerator(what: str | Mapping[str, Any], at: Place = INLINE) -> Accelerator:
    """A GPU by catalogue name, file or mapping; `at` is where the question stands, for messages and relative files.

    Raises InputError with every problem found.
    """
    return _read_accelerator(_entry("accelerators", what, at))


def node(what: str | Mapping[str, Any], at: Place = INLINE) -> Node:
    """A server by catalogue name, file or mapping; its accelerator again by name, file or mapping."""
    return _read_node(_entry("nodes", what, at))


def fabric(what: str | Mapping[str, Any], at: Place = INLINE) -> Fabric:
    """A scale-out network by catalogue name, file or mapping."""
    return _read_fabric(_entry("fabrics", what, at))


def cluster(
    gpus: int,
    node: str | Mapping[str, Any] | Node,
    fabric: str | Mapping[str, Any] | Fabric | None,
    storage_write_bytes_per_s: float | None = None,
    storage_read_bytes_per_s: float | None = None,
    pue: float | None = None,
    name: str | None = None,
    at: Place = INLINE,
) -> Cluster:
    """`gpus` GPUs in servers of one kind on one fabric, None: the usual one. Raises InputError where they do not go
    together."""
    problems: list[Problem] = []
    server: Node | None = None
    network: Fabric | None = None
    try:
        server = node if isinstance(node, Node) else _read_node(_entry("nodes", node, at.under("node")))
    except InputError as error:
        problems += error.problems
    counted = isinstance(gpus, int) and not isinstance(gpus, bool) and gpus >= 1
    if not counted:
        problems.append(at.under("gpus").problem(f"must be a whole number above zero, not {gpus!r}"))
    try:
        if isinstance(fabric, Fabric):
            network = fabric
        elif fabric is not None:
            network = _read_fabric(_entry("fabrics", fabric, at.under("fabric")))
        elif server and counted:
            network = usual_fabric(server, gpus, at)
    except InputError as error:
        problems += error.problems
    if counted and server and network:
        problems += [at.under(key).problem(text) for key, text in _misfits(gpus, server, network)]
    if pue is not None and not pue >= 1.0:
        problems.append(at.under("pue").problem(f"is total over IT power and cannot be below 1, not {pue!r}"))
    if problems:
        raise InputError(problems)
    server, network = cast(Node, server), cast(Fabric, network)
    title = name or f"{gpus} x {server.accelerator.name}"
    return Cluster(title, gpus, server, network, storage_write_bytes_per_s, storage_read_bytes_per_s, pue)


def usual_fabric(node: Node, gpus: int, at: Place = INLINE) -> Fabric:
    """The plainest catalogue fabric whose ports match the node's NICs and which reaches `gpus`: none inside one
    scale-up domain, then rails before Clos, fewest tiers, reducing switches with InfiniBand.

    Raises InputError where none fits.
    """
    if gpus <= node.scale_up.domain_gpus:
        return fabric("none")
    known = [fabric(name) for name in names("fabrics")]
    fitting = [each for each in known if each.tiers and not _misfits(gpus, node, each) and _ports_match(each, node)]
    if not fitting:
        message = f"is missing, and no catalogue fabric with ports of {node.name}'s NICs reaches {gpus} GPUs; name one"
        raise InputError([at.under("fabric").problem(message)])
    infiniband = node.nic.technology == "infiniband"
    return min(
        fitting,
        key=lambda each: (
            each.planes, not each.rails, len(each.tiers), each.in_network_reduction != infiniband, each.name
        ),
    )  # fmt: skip


def _ports_match(network: Fabric, node: Node) -> bool:
    """The NIC's speed is the leaf's, and a leaf has ports for its share of such servers' GPUs beside its uplinks."""
    leaf, rails = network.tiers[0], node.gpus if network.rails else 1
    down = leaf.reach_gpus / rails
    up = down / leaf.oversubscription if len(network.tiers) > 1 else 0.0
    # With one port per GPU the planes are dealt out by rail.
    if down + up > leaf.radix or rails % network.planes:
        return False
    return abs(network.tiers[0].port_bandwidth_bytes_per_s / node.nic.bandwidth_bytes_per_s - 1) < 1e-6


def names(kind: Kind) -> list[str]:
    """The catalogue's names of one kind, sorted."""
    return sorted(path.stem for path in (DATA / kind).glob("*.yaml"))


def aliases(kind: Kind) -> dict[str, str]:
    """Other names by which entries of one kind are known, each with the catalogue name."""
    return dict(_aliases()[kind])


def _misfits(gpus: int, server: Node, network: Fabric) -> list[tuple[str, str]]:
    """What keeps a node and a fabric from making a cluster of so many GPUs, as (key, words)."""
    if gpus > server.gpus and gpus % server.gpus:
        return [("gpus", f"{gpus} do not fill servers of {server.gpus}; {gpus - gpus % server.gpus} or "
                 f"{gpus - gpus % server.gpus + server.gpus} would")]  # fmt: skip
    if network.graph:
        # How many GPUs a graph holds is checked where it is read.
        return []
    reach = network.tiers[-1].reach_gpus if network.tiers else server.scale_up.domain_gpus
    if gpus > reach:
        return [("fabric", f"{network.name} joins at most {reach} GPUs of {server.name}, {gpus} are wanted; take one "
                 f"with more tiers, or planes")]  # fmt: skip
    return []


def _entry(kind: Kind, what: object, at: Place) -> Section:
    """The raw mapping that a name, file or mapping stands for, bases merged, ready to be read."""
    if isinstance(what, str):
        document = _named(kind, what, at)
    elif isinstance(what, Mapping):
        document = Document(what, at)
    else:
        raise InputError([at.problem(f"must be a catalogue name, a file or a mapping, not {what!r}")])
    written = _cited(document.data)
    if not _is_shipped(kind, document.place):
        written = _with_givers(written)
    section = Section(written, document.place, of_machine=True)
    if ROOT in section.data:
        raise InputError([section.place.under(ROOT).problem("is not known; write base: and a catalogue name")])
    base = section.data.get("base")
    if base is None:
        return section
    if not isinstance(base, str):
        raise InputError([section.place.under("base").problem(f"must be a catalogue name, not {base!r}")])
    below = _entry(kind, base, section.place.under("base"))
    changes = {key: value for key, value in section.data.items() if key != "base"}
    changes.setdefault("name", f"{below.data['name']}{CHANGED}")
    if kind == "accelerators":
        changes |= peaks_of_multiprocessors(below.data, changes)
        if ROOT not in below.data and _is_shipped(kind, below.place):
            changes[ROOT] = Path(below.place.file).stem
    return Section(_merge(below.data, changes), section.place, of_machine=True)


def _with_givers(data: Any) -> Any:
    """A user's own entry whose figures of money and power say that they are given, beside any source they have."""
    if not isinstance(data, Mapping):
        return data
    marked = dict(data)
    for key in PREMISES & data.keys():
        value = data[key]
        if isinstance(value, Mapping) and "value" in value:
            marked[key] = {**value, "source": f"{GIVEN}: {value.get('source') or key}"}
        elif value is not None:
            marked[key] = {"value": value, "source": f"{GIVEN}: {key}"}
    return marked


def _is_shipped(kind: Kind, place: Place) -> bool:
    return Path(place.file).parent == DATA / kind


def _named(kind: Kind, name: str, at: Place) -> Document:
    if name.endswith((".yaml", ".yml", ".json")):
        return read_document(Path(at.file).parent / name)
    stem = catalogue_name(kind, name)
    if stem not in names(kind):
        raise InputError([at.problem(f"{kind[:-1]} {one_of(name, [*names(kind), *_aliases()[kind]])}")])
    return _shipped(kind, stem)


def catalogue_name(kind: Kind, text: str) -> str:
    """The name of the shipped entry that the text spells or is another name of; else the text itself."""
    name = known_name(text, [*names(kind), *_aliases()[kind]])
    return _aliases()[kind].get(name, name) if name not in names(kind) else name


@cache
def _shipped(kind: Kind, stem: str) -> Document:
    return read_document(DATA / kind / f"{stem}.yaml")


@cache
def _aliases() -> dict[str, dict[str, str]]:
    return cast("dict[str, dict[str, str]]", read_document(DATA / "aliases.yaml").data)


def _merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The base with the changes on top: mappings go key by key, anything else (a value with its source too) whole."""
    merged = dict(base)
    for key, new in changes.items():
        old = merged.get(key)
        if isinstance(new, Mapping) and "value" not in new and isinstance(old, Mapping) and "value" not in old:
            merged[key] = _merge(old, new)
        elif isinstance(new, Mapping) and isinstance(old, str) and "base" not in new:
            merged[key] = {"base": old, **new}
        else:
            merged[key] = new
    return merged


def _cited(data: Any, references: Mapping[str, Any] | None = None) -> Any:
    """The data with each source that names one of the entry's references written out, and the references gone."""
    if isinstance(data, list):
        return [_cited(item, references) for item in data]
    if not isinstance(data, Mapping):
        return data
    if references is None:
        found = data.get("references")
        if not isinstance(found, Mapping):
            return data
        references, data = found, {key: value for key, value in data.items() if key != "references"}
    cited = {key: _cited(value, references) for key, value in data.items()}
    if "value" in cited and "source" in cited:
        cited["source"] = references.get(str(cited["source"]), cited["source"])
    return cited


def _open(section: Section) -> str:
    """Reads what every entry has, and returns its name."""
    section.text("about", None)
    return cast(str, section.text("name"))


def _read_accelerator(section: Section) -> Accelerator:
    name = _open(section)
    peaks = section.section("peak")
    peak = {str(key): peaks.quantity(str(key), "flops_per_s") for key in peaks.data if key in FORMATS}
    for key in peaks.data:
        if key not in peak:
            peaks.report(str(key), one_of(key, FORMATS))
    if not peak and not peaks.broken:
        peaks.report(REFERENCE, "is missing: give the dense peak of at least one number format")
    tdp_w = section.quantity("tdp", "w")
    idle_w = section.quantity("idle", "w", zero=True)
    sm_count = section.count("sm_count")
    report_unbelieved(section, {"tdp": tdp_w, "idle": idle_w, "sm_count": sm_count})
    found = Accelerator(
        name=name,
        generation=_read_generation(section),
        peak_flops_per_s=peak,
        memory_capacity_bytes=section.quantity("memory_capacity", "bytes"),
        memory_bandwidth_bytes_per_s=section.quantity("memory_bandwidth", "bytes_per_s"),
        sm_count=sm_count,
        tdp_w=tdp_w,
        idle_w=idle_w,
        host_bandwidth_bytes_per_s=section.quantity("host_bandwidth", "bytes_per_s"),
        kernels=_read_kernels(section),
        kernel_scale=section.quantity("kernel_scale", "fraction", 1.0),
        price_usd_per_hour=section.quantity("price", "usd_per_hour", None, zero=True),
        sources=section.sources,
        power_limit_w=_read_power_limit(section, tdp_w, idle_w),
    )
    base = section.take(ROOT, None)
    corrections = section.choice("corrections", names("accelerators"), None)
    section.done()
    section.raise_problems()
    origin = _origin(found, base, corrections, "kernel_scale" in section.data)
    shipped = accelerator(base) if base is not None else None
    return replace(found, origin=origin, data_sheet=shipped.peak_flops_per_s if shipped else None)


def _read_power_limit(section: Section, tdp_w: float | None, idle_w: float | None) -> float | None:
    """The cap on a part's power; it lies between what the part draws idle and its TDP."""
    limit_w: float | None = section.quantity("power_limit", "w", None)
    if tdp_w is not None and idle_w is not None and tdp_w <= idle_w:
        section.report("tdp", f"is {tdp_w:g} W, no more than the {idle_w:g} W that the part draws idle; write more")
    if limit_w is None or tdp_w is None or idle_w is None:
        return limit_w
    if limit_w > tdp_w:
        section.report("power_limit", f"is {limit_w:g} W, above the part's {tdp_w:g} W; write less, or leave it out")
    if limit_w <= idle_w:
        section.report("power_limit", f"is {limit_w:g} W, no more than the part draws idle; write above {idle_w:g} W")
    return limit_w


def _origin(part: Accelerator, base: str | None, corrections: str | None, scaled: bool) -> Origin | None:
    """Whose curves and corrections price a part; None for its own.

    A part derived from a shipped one has that one's. A part written from nothing that takes a shipped part's kernels
    has that part's, `scaled` by its own word or else by the peaks. A profile's kernels are the part's own.
    """
    if base is not None:
        return _inherited(part, accelerator(base))
    if part.kernels.endswith(".json"):
        return None
    if corrections is not None:
        return _itself(part, corrections, same_generation=False)
    if part.name.lower() in names("accelerators"):
        return _itself(part, part.name.lower(), same_generation=True)
    measured = accelerator(part.kernels)
    same = part.generation == measured.generation
    if scaled:
        return _itself(part, part.kernels, same)
    return Origin(
        part.kernels, measured.peak_flops_per_s, measured.memory_bandwidth_bytes_per_s, measured.power_w, same
    )


def _inherited(part: Accelerator, base: Accelerator) -> Origin | None:
    """The origin of a part's base; one that brings other curves or a scale of its own is scaled by nothing else."""
    origin = base.origin
    if origin is None or part.kernels.endswith(".json"):
        return None
    if (part.kernels, part.kernel_scale) == (base.kernels, base.kernel_scale):
        return origin
    return _itself(part, origin.name, origin.same_generation)


def _itself(part: Accelerator, corrections: str, same_generation: bool) -> Origin:
    """An origin with the part's own figures, so that nothing is scaled."""
    return Origin(corrections, part.peak_flops_per_s, part.memory_bandwidth_bytes_per_s, part.power_w, same_generation)


def _read_generation(section: Section) -> str:
    """One of the known generations, in any case of letters."""
    name = section.text("generation")
    if isinstance(section.data.get("generation"), str) and name.lower() not in GENERATIONS:
        nearest = f"{one_of(name.lower(), GENERATIONS)}; a new one takes the name of the nearest"
        section.report("generation", nearest)
    return cast(str, name)


def _read_kernels(section: Section) -> str:
    """The name of a shipped kernel set, or the path of a measured one (a kernels.json beside the entry's file)."""
    name = section.text("kernels")
    if not isinstance(name, str) or not name.endswith(".json"):
        return cast(str, section.choice("kernels", KERNEL_SETS))
    path = (Path(section.place.file).parent / name).resolve()
    if not path.is_file():
        section.report("kernels", f"there is no file {path}")
    return str(path)


def _read_node(section: Section) -> Node:
    name = _open(section)
    part = section.take("accelerator")
    gpu: Accelerator | None = None
    if isinstance(part, (str, Mapping)):
        try:
            gpu = accelerator(part, section.place.under("accelerator"))
        except InputError as error:
            section.problems += error.problems
    elif part is not None:
        section.report("accelerator", "must be a catalogue name, a file or a mapping")
    gpus = section.count("gpus")
    up, port = section.section("scale_up"), section.section("nic")
    scale_up = ScaleUp(
        kind=up.choice("kind", get_args(ScaleUpKind)),
        domain_gpus=up.count("domain_gpus"),
        bandwidth_bytes_per_s=up.quantity("bandwidth", "bytes_per_s"),
        latency_s=up.quantity("latency", "s", zero=True),
        multicast=up.flag("multicast", False),
    )
    nic = Nic(
        technology=port.choice("technology", get_args(NicTechnology)),
        bandwidth_bytes_per_s=port.quantity("bandwidth", "bytes_per_s"),
        latency_s=port.quantity("latency", "s", zero=True),
    )
    overhead_w = section.quantity("overhead_power", "w", zero=True)
    cpu = section.choice("cpu_vendor", ("intel", "amd", "nvidia"), "intel")
    host_memory_bytes = section.quantity("host_memory", "bytes", None)
    nvme_bytes_per_s = section.quantity("nvme", "bytes_per_s", None)
    cooling = section.choice("cooling", get_args(Cooling), "air")
    if isinstance(gpus, int) and isinstance(scale_up.domain_gpus, int) and scale_up.domain_gpus % gpus:
        up.report("domain_gpus", f"must be a multiple of the server's {gpus} GPUs, not {scale_up.domain_gpus}")
    for each in (up, port, section):
        each.done()
    section.raise_problems()
    return Node(
        name=name,
        accelerator=cast(Accelerator, gpu),
        gpus=gpus,
        scale_up=scale_up,
        nic=nic,
        overhead_power_w=overhead_w,
        cpu_vendor=cpu,
        host_memory_bytes=host_memory_bytes,
        nvme_bytes_per_s=nvme_bytes_per_s,
        sources=section.sources,
        cooling=cooling,
    )


def _read_fabric(section: Section) -> Fabric:
    name = _open(section)
    kind = section.choice("kind", get_args(FabricKind))
    parts = section.sections("tiers")
    tiers = tuple(_read_tier(part) for part in parts)
    found = Fabric(
        name=name,
        kind=kind,
        tiers=tiers,
        rails=section.flag("rails", False),
        planes=section.count("planes", 1),
        adaptive_routing=section.flag("adaptive_routing", False),
        in_network_reduction=section.flag("in_network_reduction", False),
        cost_usd_per_endpoint=section.quantity("cost_per_endpoint", "usd", None, zero=True),
        power_w_per_endpoint=section.quantity("power_per_endpoint", "w", 0.0, zero=True),
        sources=section.sources,
        flows_per_port=section.count("flows_per_port", FLOWS_PER_PORT),
        collnet=section.flag("collnet", False),
        graph=_read_graph(section, kind),
    )
    if found.collnet and not found.in_network_reduction:
        section.report("collnet", "needs switches that reduce: write in_network_reduction: true, or leave collnet out")
    for key, message in [] if section.problems else idle_keys(found):
        section.report(key, message)
    reaches = [tier.reach_gpus for tier in tiers if tier.reach_gpus]
    if reaches != sorted(reaches):
        section.report("tiers", f"must be listed lowest first, reaching ever more GPUs, not {reaches}")
    section.done()
    section.raise_problems()
    return found


def _read_graph(section: Section, kind: str) -> str:
    """The path of a custom fabric's graph, beside the entry's own file; empty without one."""
    name = section.text("graph", None)
    if name is None:
        return ""
    if kind != "custom":
        section.report("graph", f"goes with kind: custom, not {kind}")
    path = (Path(section.place.file).parent / name).resolve()
    if not path.is_file():
        section.report("graph", f"there is no file {path}")
        return ""
    return str(path)


def _read_tier(part: Section) -> SwitchTier:
    tier = SwitchTier(
        name=part.text("name"),
        radix=part.count("radix"),
        port_bandwidth_bytes_per_s=part.quantity("port_bandwidth", "bytes_per_s"),
        oversubscription=part.quantity("oversubscription", "fraction", 1.0),
        latency_s=part.quantity("latency", "s", zero=True),
        reach_gpus=part.count("reach_gpus"),
    )
    part.done()
    return tier
