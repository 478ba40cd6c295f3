"""The machine at hand: its device, what it is in the catalogue, who else works on it, clocks and power (read only)."""

from __future__ import annotations

import datetime
import os
import platform
import re
import shutil
import subprocess
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hardware import catalogue
from hardware.problems import InputError, Problem

QUERY = (
    "clocks.sm",
    "clocks.mem",
    "power.draw",
    "temperature.gpu",
    "utilization.gpu",
    "clocks_throttle_reasons.active",
)
FIELDS = ("sm_clock_mhz", "memory_clock_mhz", "power_w", "temperature_c", "utilization_percent", "throttle_reasons")
IDENTITY = ("gpu", "driver", "torch", "cuda", "rocm", "nccl", "sm_count", "memory_bytes")
BUSY_PERCENT = 10.0  # an idle GPU reads 0 to 2 % between the queries


@dataclass(frozen=True, slots=True)
class Machine:
    """A device that torch can use. `kind` is cuda (ROCm too) or cpu; `part` is its catalogue name, "" if unknown."""

    kind: str
    index: int
    part: str
    facts: Mapping[str, Any]

    @property
    def device(self) -> str:
        return f"cuda:{self.index}" if self.kind == "cuda" else "cpu"

    @property
    def where(self) -> dict[str, Any]:
        """What every point measured here carries."""
        return {**self.facts, "part": self.part, "device": self.kind, "date": today()}


def find_machine(wanted: str = "auto", index: int = 0, part: str = "") -> Machine:
    """The device asked for. Raises InputError where it is not there, saying what is.

    `part` overrides the catalogue name that is otherwise read off the device's own.
    """
    import torch

    cuda = torch.cuda.is_available()
    if wanted == "cuda" and not cuda:
        raise InputError([Problem("--device", None, "", "torch sees no GPU here; install a CUDA or ROCm build of "
                                  "torch, look at nvidia-smi, or take --device cpu")])  # fmt: skip
    if wanted == "cpu" or not cuda:
        facts = {"gpu": cpu_name(), "driver": "none", "torch": torch.__version__, "threads": torch.get_num_threads()}
        return Machine("cpu", 0, part or "cpu", facts)
    properties = torch.cuda.get_device_properties(index)
    facts = {
        "gpu": properties.name,
        "driver": driver_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda or "",
        "rocm": torch.version.hip or "",
        "nccl": nccl_version(),
        "sm_count": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
    }
    found = part or part_of(properties.name, properties.total_memory)
    return Machine("cuda", index, found, {key: value for key, value in facts.items() if value != ""})


def today() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")


def cpu_name() -> str:
    """The processor's name as the system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def part_of(device: str, memory_bytes: float = 0.0) -> str:
    """The catalogue's accelerator that a device's or log's name means: "NVIDIA H100 80GB HBM3" is h100-sxm-80gb.

    By the model's letters and digits, then the memory in the name or as given. "" where none or several fit, and for
    cards on PCIe, which the catalogue does not have.
    """
    text = device.lower()
    known = catalogue.names("accelerators")
    if text in known:
        return text
    if "pcie" in text or "nvl" in text.split():
        return ""
    words = set(re.findall(r"[a-z0-9]+", text))
    alike = [name for name in known if name.split("-")[0] in words]
    sizes = [word for word in words if word.endswith("gb") and word[:-2].isdigit()]
    if sizes and any(name.endswith(sizes[0]) for name in alike):
        alike = [name for name in alike if name.endswith(sizes[0])]
    if memory_bytes:
        alike = [
            name for name in alike if abs(catalogue.accelerator(name).memory_capacity_bytes / memory_bytes - 1) < 0.1
        ]
    return alike[0] if len(alike) == 1 else ""


def machine_of(points: Iterable[Any]) -> Machine:
    """The machine that points were measured on, by what they carry. Raises InputError where they are of several.

    So a profile can be fitted anywhere, and from logs alone.
    """
    found: dict[str, dict[str, Any]] = {}
    for point in points:
        found.setdefault(str(point.where.get("part", "")), {}).update(point.where)
    if len(found) > 1:
        parts = ", ".join(sorted(found))
        raise InputError(
            [Problem("points", None, "", f"are of several parts ({parts}); give each a profile of its own")]
        )
    part, facts = next(iter(found.items()), ("", {}))
    kept = {name: facts[name] for name in (*IDENTITY, "threads") if name in facts}
    return Machine(str(facts.get("device", "cuda")), 0, part, {"gpu": "unknown", "torch": "none", **kept})


def nccl_version() -> str:
    import torch

    if not torch.distributed.is_available() or not torch.distributed.is_nccl_available():
        return ""
    return ".".join(str(each) for each in torch.cuda.nccl.version())


def driver_version() -> str:
    return query_gpu(0, ("driver_version",)).get("driver_version", "")


def query_gpu(index: int, names: tuple[str, ...]) -> dict[str, str]:
    """What nvidia-smi reads of a GPU (it only reads); empty without it."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return {}
    visible = [each for each in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if each]
    target = visible[index] if index < len(visible) else str(index)
    command = [program, f"--id={target}", f"--query-gpu={','.join(names)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    values = [each.strip() for each in done.stdout.strip().splitlines()[0].split(",")] if done.stdout.strip() else []
    return dict(zip(names, values, strict=False))


def reading(machine: Machine) -> dict[str, float]:
    """Clocks, power, temperature and load of the GPU at this moment; empty where they cannot be read."""
    if machine.kind != "cuda":
        return {}
    found = {}
    for field, text in zip(FIELDS, query_gpu(machine.index, QUERY).values(), strict=False):
        try:
            found[field] = float(int(text, 16) if text.startswith("0x") else float(text))
        except ValueError:
            continue  # "[N/A]" where the part does not tell
    return found


def busy_with(machine: Machine) -> str:
    """What else runs on the device, in words; "" where it is ours alone. Asked before anything of ours runs."""
    if machine.kind == "cpu":
        load = os.getloadavg()[0] / (os.cpu_count() or 1)
        return f"the load is {load:.1f} per core" if load > 1.2 else ""
    used = reading(machine).get("utilization_percent", 0.0)
    return f"other work keeps the GPU {used:.0f} % busy" if used > BUSY_PERCENT else ""


class Sampler:
    """Reads clocks and power in the background while work runs, so that a point has them under load."""

    def __init__(self, machine: Machine, every_s: float = 1.0) -> None:
        self.machine, self.every_s = machine, every_s
        self.found: dict[str, float] = {}
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._read, daemon=True)

    def latest(self) -> dict[str, float]:
        """The last reading; empty before the first and where nothing can be read."""
        return dict(self.found)

    def _read(self) -> None:
        while not self.ended.wait(self.every_s):
            self.found = reading(self.machine)

    def __enter__(self) -> Sampler:
        if self.machine.kind == "cuda":
            self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        if self.thread.is_alive():
            self.thread.join(timeout=30)
