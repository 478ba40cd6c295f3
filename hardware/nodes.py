"""Servers of the catalogue and the user's own: accelerators, what joins them, and the ports to the network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast, get_args

from hardware.accelerators import accelerator
from hardware.entries import INLINE, entry, read_name
from hardware.own_parts import report_unbelieved
from hardware.problems import InputError, Place
from hardware.sections import Section
from hardware.specs import Accelerator, Cooling, Nic, NicTechnology, Node, ScaleUp, ScaleUpKind


def node(what: str | Mapping[str, Any], at: Place = INLINE) -> Node:
    """A server by catalogue name, file or mapping; its accelerator again by name, file or mapping."""
    return _read_node(entry("nodes", what, at))


def _read_node(section: Section) -> Node:
    name = read_name(section)
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
    report_unbelieved(section, "server", {"overhead_power": overhead_w})
    report_unbelieved(port, "GPU's network card", {"bandwidth": nic.bandwidth_bytes_per_s})
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
