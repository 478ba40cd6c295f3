"""One server from the topology that NCCL or RCCL found on it (NCCL_TOPO_DUMP_FILE), an XML file."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree.ElementTree import Element

from hardware.problems import InputError, Place, Problem
from hardware.topology.named import Wire, network_at, read_xml
from hardware.topology.network import Network
from hardware.units import implausible

# One NVLink per direction by compute capability (vendor figures: 25 GB/s Volta to Hopper, 50 GB/s Blackwell).
_NVLINK = {60: 20e9, 70: 25e9, 80: 25e9, 90: 25e9, 100: 50e9}
# One xGMI link per direction by architecture (vendor figures, both directions together: MI50 to MI100 92 GB/s, MI200
# 100, MI300 128, MI350 153.6). RCCL before 6.0 writes numbers instead of names.
_XGMI = {"gfx906": 46e9, "gfx908": 46e9, "gfx90a": 50e9, "gfx942": 64e9, "gfx950": 76.8e9}
_OLD_NAMES = {"906": "gfx906", "908": "gfx908", "910": "gfx90a", "940": "gfx942", "942": "gfx942"}
# NCCL's own figures (topo.h): the bus between current Intel sockets, a link inside one chip, a NIC of unknown speed.
_SOCKET_BYTES_PER_S = 40e9
_LOCAL_BYTES_PER_S = 5000e9
_UNKNOWN_NIC_MBITS = 10_000.0
# What the other end of an NVLink is, by PCI class.
_NVSWITCH, _CPU, _GPU = "0x068000", "0x068001", "0x03"
# Elements by the one that holds them. <gin> lists a NIC of <net> once more for kernels that start transfers.
_BELOW = {
    "system": ("cpu",),
    "cpu": ("pci", "nic"),
    "pci": ("pci", "gpu", "nic", "pcilink"),
    "gpu": ("nvlink", "xgmi", "c2c"),
    "nic": ("net", "gin"),
}
_MAX_DEPTH = 32
_PCIE_SPEED = re.compile(r"\s*(\d{1,4}(?:\.\d{1,3})?)(?![\d.])")


@dataclass(slots=True)
class _Reading:
    """What was read so far; lives for one file."""

    place: Place
    kinds: dict[str, str] = field(default_factory=dict)
    wires: list[Wire] = field(default_factory=list)
    # (GPU, its CPU, its element): their links are made when all devices are known.
    gpus: list[tuple[str, str, Element]] = field(default_factory=list)
    pcilinks: list[tuple[str, str]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def report(self, label: str, message: str) -> None:
        self.problems.append(self.place.under(label).problem(message))

    def add(self, label: str, kind: str) -> None:
        if label in self.kinds:
            self.report(label, "is listed twice")
        self.kinds[label] = kind

    def number(self, label: str, element: Element, key: str, default: str, negative: bool = False) -> float:
        """A finite attribute, not negative unless allowed; NaN, and a problem, where it is none."""
        text = element.get(key, default)
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if math.isfinite(value) and (negative or value >= 0):
            return value
        self.report(label, f"<{element.tag} {key}={text[:40]!r}>: {key} must be a number of at least 0")
        return math.nan

    def connect(self, wire: Wire, directed: bool = False) -> None:
        """Adds a link with a speed that a machine can have; NaN is a speed that was refused already."""
        if math.isnan(wire.bytes_per_s) or math.isnan(wire.latency_s):
            return
        for amount, dimension in ((wire.bytes_per_s, "bytes_per_s"), (wire.latency_s, "s")):
            wrong = implausible(amount, dimension)
            if wrong:
                self.report(wire.source, f"link to {wire.target}: {wrong}")
                return
        if wire.bytes_per_s > 0:
            self.wires.append(wire._replace(directed=directed))
        else:
            self.report(wire.source, f"link to {wire.target}: has no bandwidth")


def read_nccl_topology(path: str | Path) -> Network:
    """One server: GPUs, NVLinks, xGMI links, NVSwitches, PCIe switches, NICs, CPUs.

    Links to GPUs that the file does not list (hidden from the job) are left out, as NCCL does. InputError, naming
    every element and value, for what is no such file, elements that are not understood, and values that are no speed.
    """
    place = Place(str(path))
    root = read_xml(path)
    if root.tag != "system":
        raise InputError([place.problem(f"starts with <{root.tag}>; an NCCL topology starts with <system>")])
    reading = _Reading(place)
    for number, cpu in enumerate(_understood(root, "system", reading)):
        label = f"cpu {cpu.get('numaid', number)}"
        reading.add(label, "cpu")
        for device in _understood(cpu, label, reading):
            _read_device(device, label, label, 0, reading)
    cpus = [label for label, kind in reading.kinds.items() if kind == "cpu"]
    for i, one in enumerate(cpus):
        for other in cpus[i + 1 :]:
            reading.connect(Wire(one, other, _SOCKET_BYTES_PER_S, 0.0, "socket"))
    for gpu, cpu_label, element in reading.gpus:
        _read_gpu_links(gpu, cpu_label, element, reading)
    for one, other in reading.pcilinks:
        if other in reading.kinds:
            reading.connect(Wire(one, other, _LOCAL_BYTES_PER_S, 0.0, "pcie"), directed=True)
    if not reading.problems and not reading.gpus:
        reading.problems.append(place.problem("has no <gpu>"))
    if reading.problems:
        raise InputError(reading.problems)
    return network_at(place, Path(path).stem, reading.kinds, reading.wires)


def _understood(element: Element, label: str, reading: _Reading) -> list[Element]:
    """The elements below one, those that are not understood reported by name."""
    known = _BELOW[element.tag]
    for child in element:
        if child.tag not in known:
            names = ", ".join(f"<{name}>" for name in known)
            reading.report(label, f"<{child.tag}> is not understood; below <{element.tag}> stand {names}. Remove it "
                           f"to read the rest")  # fmt: skip
    return [child for child in element if child.tag in known]


def _read_device(device: Element, above: str, cpu: str, depth: int, reading: _Reading) -> None:
    """One <pci> or <nic> element and all below it."""
    if device.tag == "nic":
        _read_nics(device, above, reading)
        return
    label = device.get("busid", f"pci {len(reading.kinds)}").lower()
    if depth > _MAX_DEPTH:
        reading.report(label, f"<pci> is nested deeper than {_MAX_DEPTH} levels")
        return
    gpu = device.find("gpu")
    reading.add(label, "pci" if gpu is None else "gpu")
    _connect_pcie(device, above, label, reading)
    for child in _understood(device, label, reading):
        if child.tag == "gpu":
            reading.gpus.append((label, cpu, child))
        elif child.tag == "pcilink":
            reading.pcilinks.append((label, child.get("target", "").lower()))
        else:
            _read_device(child, label, cpu, depth + 1, reading)


def _connect_pcie(device: Element, above: str, label: str, reading: _Reading) -> None:
    """The link up from a device. 128b/130b coding: 32 GT/s x 16 lanes carry 63 GB/s."""
    speed_text, width_text = device.get("link_speed", ""), device.get("link_width", "")
    speed = _PCIE_SPEED.match(speed_text)
    transfers_per_s = float(speed[1]) * 1e9 if speed else 0.0
    lanes = int(width_text) if re.fullmatch(r"[0-9]{1,3}", width_text) else 0
    if not transfers_per_s or not lanes:
        reading.report(label, f"link {speed_text[:40]!r} x {width_text[:40]!r} is no PCIe speed and width")
        return
    reading.connect(Wire(above, label, transfers_per_s * lanes * 128 / 130 / 8, 0.0, "pcie"))


def _read_nics(nic: Element, above: str, reading: _Reading) -> None:
    """The networks of a card. <net speed> is in Mbit/s, -1 or 0 where it is not known; latency in microseconds."""
    for net in _understood(nic, above, reading):
        if net.tag != "net":
            continue
        label = f"net {net.get('name', len(reading.kinds))}"
        reading.add(label, "nic")
        mbits = reading.number(label, net, "speed", "0", negative=True)
        if mbits in (-1.0, 0.0):
            mbits = _UNKNOWN_NIC_MBITS
        if mbits < 0:
            reading.report(label, f"<net speed={net.get('speed')!r}>: speed must be a number of at least 0, or -1")
            continue
        latency_us = reading.number(label, net, "latency", "0")
        reading.connect(Wire(above, label, mbits * 1e6 / 8, latency_us * 1e-6, "nic"))


def _read_gpu_links(gpu: str, cpu: str, element: Element, reading: _Reading) -> None:
    for link in _understood(element, gpu, reading):
        count = reading.number(gpu, link, "count", "1")
        if link.tag == "c2c":
            # <c2c bw> is in MB/s per link.
            megabytes_per_s = reading.number(gpu, link, "bw", "0")
            reading.connect(Wire(gpu, cpu, count * megabytes_per_s * 1e6, 0.0, "cpu_link"))
        elif link.tag == "xgmi":
            _connect_gpus(gpu, link, count * _xgmi_bytes_per_s(gpu, element, reading), reading)
        else:
            _read_nvlink(gpu, cpu, link, count * _nvlink_bytes_per_s(gpu, element, reading), reading)


def _read_nvlink(gpu: str, cpu: str, link: Element, bytes_per_s: float, reading: _Reading) -> None:
    end = link.get("tclass", _GPU)
    if end.startswith(_NVSWITCH):
        reading.kinds["nvswitch"] = "scale_up_switch"
        reading.connect(Wire(gpu, "nvswitch", bytes_per_s, 0.0, "scale_up"))
    elif end.startswith(_CPU):
        reading.connect(Wire(gpu, cpu, bytes_per_s, 0.0, "cpu_link"))
    elif end.startswith(_GPU):
        _connect_gpus(gpu, link, bytes_per_s, reading)
    else:
        known = f"{_GPU} (GPU), {_NVSWITCH} (NVSwitch) and {_CPU} (CPU)"
        reading.report(gpu, f"<nvlink tclass={end[:40]!r}> is not understood; known are {known}")


def _connect_gpus(gpu: str, link: Element, bytes_per_s: float, reading: _Reading) -> None:
    """Each GPU lists its own direction."""
    target = link.get("target", "").lower()
    if target in reading.kinds:
        reading.connect(Wire(gpu, target, bytes_per_s, 0.0, "scale_up"), directed=True)


def _nvlink_bytes_per_s(gpu: str, element: Element, reading: _Reading) -> float:
    capability = reading.number(gpu, element, "sm", "70")
    return _NVLINK[max((sm for sm in _NVLINK if sm <= capability), default=60)]


def _xgmi_bytes_per_s(gpu: str, element: Element, reading: _Reading) -> float:
    name = element.get("gcn", "")
    # "gfx942:sramecc+:xnack-" names features behind the architecture.
    architecture = name.split(":")[0].lower()
    speed = _XGMI.get(_OLD_NAMES.get(architecture, architecture))
    if speed is None:
        reading.report(gpu, f"<gpu gcn={name[:40]!r}>: its xGMI speed is not known; known are {', '.join(_XGMI)}")
        return math.nan
    return speed
