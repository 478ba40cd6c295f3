"""The wires: any fabric as typed nodes and directed links with capacities and latencies, built, read or discovered."""

from hardware.topology.build import build_network
from hardware.topology.network import Network

__all__ = ["Network", "build_network"]
