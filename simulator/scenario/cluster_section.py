"""The section `cluster` of a scenario: how many GPUs of which node on which fabric, and what the site adds."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, replace
from typing import Any

from hardware import catalogue
from hardware.problems import Place
from hardware.sections import Section
from hardware.specs import Cluster, Failed
from hardware.topology.custom import read_network
from simulator.fields import Form, Setting, read_fields, setting


def _part(kind: catalogue.Kind, what: str) -> Form:
    """A catalogue name, a file of one's own, or an entry of the catalogue with keys changed."""
    names = catalogue.names(kind)
    changed = {
        "type": "object",
        "description": f"A {what} of the catalogue with keys changed, or all keys of one (see hardware/data).",
        "properties": {"base": {"enum": names, "description": f"The {what} that is changed."}},
    }
    named = {"type": "string", "description": f"A {what} of the catalogue, or a file of one.", "examples": names}
    return Form(Section.take, {"anyOf": [named, changed]})


@dataclass(frozen=True, slots=True)
class FailedKeys:
    """Parts of the network that are broken: the step is that of a job which goes on without them."""

    links: int = setting(0, Setting("Broken NIC links, each on a server of its own.", 1, least=0))
    rails: int = setting(0, Setting("Leaf switches of whole rails: every server loses so many NICs.", 1, least=0))
    spines: int = setting(0, Setting("Switches above the leaves: every leaf loses so many of its uplinks.", 2, least=0))


@dataclass(frozen=True, slots=True)
class ClusterKeys:
    """The GPUs that train: equal nodes on one fabric, shared storage, and the building around them."""

    gpus: int = setting(MISSING, Setting("GPUs of the cluster.", 2048))
    node: Any = setting(
        MISSING,
        Setting("The server: a catalogue name, a file, or an entry changed.", "hgx-h100", form=_part("nodes", "node")),
    )
    fabric: Any = setting(
        None,
        Setting(
            "The network between nodes: a catalogue name, a file, or an entry changed; without it, the plainest of the "
            "catalogue that fits the node's ports and reaches as far.",
            "ndr-rail-2tier",
            form=_part("fabrics", "fabric"),
        ),
    )
    name: str | None = setting(None, Setting("What the cluster is called in reports.", "our cluster"))
    storage_write_bytes_per_s: float | None = setting(
        None, Setting("What the shared file system takes in all; without it, by the number of GPUs.", "1 TB/s")
    )
    storage_read_bytes_per_s: float | None = setting(
        None, Setting("What the shared file system gives in all; without it, by the number of GPUs.", "1 TB/s")
    )
    pue: float | None = setting(
        None,
        Setting(
            "Total over IT power; without it, that of the servers' cooling (air 1.3, liquid 1.1, immersion 1.05).",
            1.2,
            believed=("1", "3"),
        ),
    )
    water_l_per_kwh: float | None = setting(
        None,
        Setting(
            "Water per kWh of IT energy (WUE); without it, that of the servers' cooling (air 0.36, else none).",
            "0.3 L/kWh",
            key="water_usage",
            dimension="l_per_kwh",
            least=0,
            believed=("0 L/kWh", "20 L/kWh"),
        ),
    )
    failed: FailedKeys = FailedKeys()


def read_cluster(section: Section) -> Cluster | None:
    """The cluster of the section; None where it lacks a part. Raises InputError for parts that do not go together."""
    keys, at = read_fields(ClusterKeys, section), section.place
    if keys.node is None or not isinstance(keys.gpus, int):
        _read_alone(keys, at)
        return None
    found = catalogue.cluster(
        keys.gpus,
        keys.node,
        keys.fabric,
        keys.storage_write_bytes_per_s,
        keys.storage_read_bytes_per_s,
        keys.pue,
        keys.name,
        at,
    )
    _check_graph(section, found)
    failed = Failed(keys.failed.links, keys.failed.rails, keys.failed.spines)
    return replace(found, water_l_per_kwh=keys.water_l_per_kwh, failed=failed)


def _read_alone(keys: ClusterKeys, at: Place) -> None:
    """Raises InputError for what is wrong with the one part that is there."""
    if keys.node is not None:
        catalogue.node(keys.node, at.under("node"))
    if keys.fabric is not None:
        catalogue.fabric(keys.fabric, at.under("fabric"))


def _check_graph(section: Section, cluster: Cluster) -> None:
    graph = cluster.fabric.graph
    if graph and (drawn := read_network(graph).gpus) != cluster.gpus:
        section.report("gpus", f"is {cluster.gpus}, and the graph {graph} has {drawn} nodes of kind gpu. Write {drawn}")
