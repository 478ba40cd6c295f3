"""What a cluster draws beside its servers, where nobody says: its network by ports, its building by kind of cooling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hardware.specs import Cluster, Cooling, Fabric

PORT_BYTES_PER_S = 50e9
PORT_W = 940 / 64  # a switch of 64 ports of 400 Gb/s draws 940 W, from memory
OPTICAL_END_W = 17 / 2  # half of NVIDIA MMS4X00-NS, 2 x 400 Gb/s (data sheet)
ASSUMED_POWER = "assumed: 14.7 W per switch port and 8.5 W per optical end of 400 Gb/s, by bandwidth"


@dataclass(frozen=True, slots=True)
class Sourced:
    """A figure and what it rests on."""

    value: float
    source: str


@dataclass(frozen=True, slots=True)
class CoolingFigures:
    """What a kind of cooling comes to: PUE, water per kWh of IT energy, and the share of the servers' heat that leaves
    them in a liquid, the rest in air."""

    pue: Sourced
    water_l_per_kwh: Sourced
    liquid_fraction: Sourced


# With a closed loop and dry coolers no water evaporates: Microsoft's design of 2024 and its immersion tanks in Quincy.
CLOSED_LOOP = "assumed: a closed loop with dry coolers (Microsoft's designs since August 2024); its fleet took 0.30"
COOLING: Mapping[Cooling, CoolingFigures] = {
    "air": CoolingFigures(
        pue=Sourced(
            1.3,
            "assumed: new large air-cooled builds reach 1.3; the average is 1.54 (Uptime Institute surveys 2024, 2025)",
        ),
        water_l_per_kwh=Sourced(
            0.36,
            "assumed: mean of all US data centres in 2023 (LBNL, Data Center Energy Usage Report 2024)",
        ),
        liquid_fraction=Sourced(0.0, "air cooling"),
    ),
    "liquid": CoolingFigures(
        pue=Sourced(
            1.1,
            "assumed: direct liquid cooling itself adds 0.02 to 0.03 (Uptime Institute), power distribution the rest; "
            "Google's fleet has 1.1",
        ),
        water_l_per_kwh=Sourced(0.0, CLOSED_LOOP),
        liquid_fraction=Sourced(115 / 132, "assumed: 115 of 132 kW of a GB200 NVL72 rack (HPE, from memory)"),
    ),
    "immersion": CoolingFigures(
        pue=Sourced(1.05, "assumed: tanks claim 1.02 to 1.03 (their makers, from memory), power distribution the rest"),
        water_l_per_kwh=Sourced(0.0, CLOSED_LOOP),
        liquid_fraction=Sourced(1.0, "immersion: all heat leaves in the liquid"),
    ),
}


def pue(cluster: Cluster) -> Sourced:
    """Total over IT power: as the cluster says, else the usual of its servers' kind of cooling."""
    if cluster.pue is not None:
        return Sourced(cluster.pue, "given: cluster.pue")
    return COOLING[cluster.node.cooling].pue


def water_l_per_kwh(cluster: Cluster) -> Sourced:
    """Litres that evaporate or drain per kWh of IT energy (WUE): as the cluster says, else the usual of its cooling."""
    if cluster.water_l_per_kwh is not None:
        return Sourced(cluster.water_l_per_kwh, "given: cluster.water_usage")
    return COOLING[cluster.node.cooling].water_l_per_kwh


def network_power_w(cluster: Cluster) -> Sourced:
    """Watts of the scale-out network per GPU: as the fabric states it per endpoint, else by ports and optical ends."""
    fabric = cluster.fabric
    if not fabric.tiers:
        return Sourced(0.0, "there is no scale-out network")
    if fabric.power_w_per_endpoint:
        return Sourced(fabric.power_w_per_endpoint, fabric.sources.get("power_per_endpoint", "the fabric's entry"))
    ports, ends = _ports_per_gpu(cluster)
    return Sourced(ports * PORT_W + ends * OPTICAL_END_W, ASSUMED_POWER)


def _ports_per_gpu(cluster: Cluster) -> tuple[float, float]:
    """(switch ports, optical ends) per GPU in units of 400 Gb/s; a torus has no switches."""
    fabric, node = cluster.fabric, cluster.node
    if fabric.kind == "torus":
        torus = fabric.tiers[0]
        width = torus.port_bandwidth_bytes_per_s / PORT_BYTES_PER_S
        return 0.0, torus.radix * width / node.gpus
    width = node.nic.bandwidth_bytes_per_s / PORT_BYTES_PER_S
    between = _cables_between_switches(fabric)
    return width * (1 + 2 * between), width * 2 * (1 + between)


def _cables_between_switches(fabric: Fabric) -> float:
    """Bandwidth of all cables between switches over that of the cables to GPUs."""
    total, share = 0.0, 1.0
    for tier in fabric.tiers[:-1]:
        share /= tier.oversubscription
        total += share
    return total
