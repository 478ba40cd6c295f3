"""Groups and links that the tests of collectives share, with figures that can be worked with by hand."""

from __future__ import annotations

from typing import Any

from hardware.collectives import Group, Links
from hardware.collectives.closed_form import MEASURED_LINK_S

NVL = Group(8.0, 8.0)
EIGHT_NODES = Group(64.0, 8.0)
EIGHT_GPUS = Group(8.0, 1.0)


def links(generation: str = "hopper", **changes: Any) -> Links:
    """NVLink of 450 GB/s and a NIC of 50 GB/s for each GPU; 2.8 us between NICs of a leaf, 3.7 us through the spine."""
    fields: dict[str, Any] = {
        "generation": generation,
        "cpu_vendor": "intel",
        "scale_up_bytes_per_s": 450e9,
        "scale_up_latency_s": MEASURED_LINK_S,
        "multicast": True,
        "nic_bytes_per_s": 50e9,
        "nic_technology": "infiniband",
        "tier_latencies_s": (2.8e-6, 3.7e-6),
        "tier_oversubscription": (1.0, 4.0),
        "in_network_reduction": True,
    }
    return Links(**{**fields, **changes})
