"""Scenarios on better machines: one property of their parts, links or hosts so many times as good."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hardware.specs import Accelerator, Cluster, Nic, ScaleUp, SwitchTier
from simulator.cost.offload import NVME_BYTES_PER_S
from simulator.scenario.schema import Scenario


def on(scenario: Scenario, cluster: Cluster) -> Scenario:
    return replace(scenario, cluster=cluster)


def with_node(scenario: Scenario, **changes: Any) -> Scenario:
    cluster = scenario.cluster
    return on(scenario, replace(cluster, node=replace(cluster.node, **changes)))


def with_part(scenario: Scenario, **changes: Any) -> Scenario:
    part: Accelerator = replace(scenario.cluster.accelerator, **changes)
    return with_node(scenario, accelerator=part)


def with_scale_up(scenario: Scenario, **changes: Any) -> Scenario:
    scale_up: ScaleUp = replace(scenario.cluster.node.scale_up, **changes)
    return with_node(scenario, scale_up=scale_up)


def with_nic(scenario: Scenario, **changes: Any) -> Scenario:
    nic: Nic = replace(scenario.cluster.node.nic, **changes)
    return with_node(scenario, nic=nic)


def with_tiers(scenario: Scenario, better: Callable[[SwitchTier], SwitchTier]) -> Scenario:
    cluster = scenario.cluster
    tiers = tuple(better(tier) for tier in cluster.fabric.tiers)
    return on(scenario, replace(cluster, fabric=replace(cluster.fabric, tiers=tiers)))


def faster_peaks(scenario: Scenario, by: float) -> Scenario:
    peaks = scenario.cluster.accelerator.peak_flops_per_s
    return with_part(scenario, peak_flops_per_s={key: by * peak for key, peak in peaks.items()})


def faster_memory(scenario: Scenario, by: float) -> Scenario:
    rate = scenario.cluster.accelerator.memory_bandwidth_bytes_per_s
    return with_part(scenario, memory_bandwidth_bytes_per_s=by * rate)


def larger_memory(scenario: Scenario, by: float) -> Scenario:
    return with_part(scenario, memory_capacity_bytes=by * scenario.cluster.accelerator.memory_capacity_bytes)


def more_power(scenario: Scenario, by: float) -> Scenario:
    return with_part(scenario, tdp_w=by * scenario.cluster.accelerator.tdp_w)


def faster_host(scenario: Scenario, by: float) -> Scenario:
    rate = scenario.cluster.accelerator.host_bandwidth_bytes_per_s
    return with_part(scenario, host_bandwidth_bytes_per_s=by * rate)


def faster_drives(scenario: Scenario, by: float) -> Scenario:
    rate = scenario.cluster.node.nvme_bytes_per_s or NVME_BYTES_PER_S
    return with_node(scenario, nvme_bytes_per_s=by * rate)


def faster_scale_up(scenario: Scenario, by: float) -> Scenario:
    rate = scenario.cluster.node.scale_up.bandwidth_bytes_per_s
    return with_scale_up(scenario, bandwidth_bytes_per_s=by * rate)


def quicker_scale_up(scenario: Scenario, by: float) -> Scenario:
    return with_scale_up(scenario, latency_s=scenario.cluster.node.scale_up.latency_s / by)


def faster_nic(scenario: Scenario, by: float) -> Scenario:
    return with_nic(scenario, bandwidth_bytes_per_s=by * scenario.cluster.node.nic.bandwidth_bytes_per_s)


def quicker_nic(scenario: Scenario, by: float) -> Scenario:
    return with_nic(scenario, latency_s=scenario.cluster.node.nic.latency_s / by)


def faster_ports(scenario: Scenario, by: float) -> Scenario:
    def better(tier: SwitchTier) -> SwitchTier:
        return replace(tier, port_bandwidth_bytes_per_s=by * tier.port_bandwidth_bytes_per_s)

    return with_tiers(scenario, better)


def quicker_switches(scenario: Scenario, by: float) -> Scenario:
    return with_tiers(scenario, lambda tier: replace(tier, latency_s=tier.latency_s / by))


def wider_uplinks(scenario: Scenario, by: float) -> Scenario:
    return with_tiers(scenario, lambda tier: replace(tier, oversubscription=max(1.0, tier.oversubscription / by)))


BETTER: dict[str, Callable[[Scenario, float], Scenario]] = {
    "peak": faster_peaks,
    "memory bandwidth": faster_memory,
    "memory capacity": larger_memory,
    "power": more_power,
    "host bandwidth": faster_host,
    "drives": faster_drives,
    "scale-up bandwidth": faster_scale_up,
    "scale-up latency": quicker_scale_up,
    "NIC bandwidth": faster_nic,
    "NIC latency": quicker_nic,
    "port bandwidth": faster_ports,
    "switch latency": quicker_switches,
    "uplinks": wider_uplinks,
}
