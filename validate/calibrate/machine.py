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
class MeasuredMachine:
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


def find_machine(wanted: str = "auto", index: int = 0, part: str = "") -> MeasuredMachine:
    """The device asked for. Raises InputError where it is not there, saying what is.

    `part` overrides the catalogue name that is otherwise read off the device's own.
    """
    import torch

    cuda = torch.cuda.is_available()
    if wanted == "cuda" and not cuda:
        message = (
            "torch sees no GPU here; install a CUDA or ROCm build of torch, look at nvidia-smi, or take --device cpu"
        )
        raise InputError([Problem("--device", None, "", message)])
    if wanted == "cpu" or not cuda:
        facts = {"gpu": cpu_name(), "driver": "none", "torch": torch.__version__, "threads": torch.get_num_threads()}
        return MeasuredMachine("cpu", 0, part or "cpu", facts)
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
    named = part or part_of(properties.name, properties.total_memory)
    known_facts = {key: value for key, value in facts.items() if value != ""}
    return MeasuredMachine("cuda", index, named, known_facts)


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


# ---- the catalogue's name of a device


def part_of(device: str, memory_bytes: float = 0.0) -> str:
    """The catalogue's accelerator that a device's or log's name means: "NVIDIA H100 80GB HBM3" is h100-sxm-80gb.

    By the model's letters and digits, then the memory in the name or as given. "" where none or several fit, and for
    cards on PCIe, which the catalogue does not have.
    """
    text = device.lower()
    if text in catalogue.names("accelerators"):
        return text
    if "pcie" in text or "nvl" in text.split():
        return ""
    alike = parts_alike(device)
    if memory_bytes:
        alike = [name for name in alike if has_memory(name, memory_bytes)]
    return alike[0] if len(alike) == 1 else ""


def parts_alike(device: str) -> list[str]:
    """The catalogue's accelerators of the model that a device's name tells, and of its memory where it tells that."""
    words = words_of(device)
    alike = [name for name in catalogue.names("accelerators") if model_of(name) in words]
    sizes = {word for word in words if re.fullmatch(r"[0-9]+gb", word)}
    if not sizes:
        return alike
    of_no_size = [name for name in alike if not name.endswith("gb")]
    of_size = [name for name in alike if name.rsplit("-", 1)[-1] in sizes]
    return [*of_no_size, *of_size]


def may_be(device: str, part: str) -> bool:
    """Whether a device of that name can be the part: a name with a model's number must tell the part's model."""
    tells_model = any(character.isdigit() for character in device)
    return not tells_model or model_of(part) in words_of(device)


def words_of(device: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", device.lower()))


def model_of(part: str) -> str:
    """The model in a catalogue name: h100 of h100-sxm-80gb."""
    return part.lower().split("-")[0]


def has_memory(part: str, memory_bytes: float) -> bool:
    """Whether the part's memory is what a device tells of its own, to 10 %."""
    return abs(catalogue.accelerator(part).memory_capacity_bytes / memory_bytes - 1) < 0.1


# ---- the machine of points that exist


def machine_of(points: Iterable[Any]) -> MeasuredMachine:
    """The machine that points were measured on, by what they carry. Raises InputError where they are of several.

    So a profile can be fitted anywhere, and from logs alone.
    """
    facts_of_part: dict[str, dict[str, Any]] = {}
    for point in points:
        facts_of_part.setdefault(str(point.where.get("part", "")), {}).update(point.where)
    if len(facts_of_part) > 1:
        parts = ", ".join(sorted(facts_of_part))
        message = f"are of several parts ({parts}); give each a profile of its own"
        raise InputError([Problem("points", None, "", message)])
    part, facts = next(iter(facts_of_part.items()), ("", {}))
    identity = {name: facts[name] for name in (*IDENTITY, "threads") if name in facts}
    unknown = {"gpu": "unknown", "torch": "none"}
    return MeasuredMachine(str(facts.get("device", "cuda")), 0, part, {**unknown, **identity})


# ---- what the device tells now


def nccl_version() -> str:
    import torch

    if not torch.distributed.is_available() or not torch.distributed.is_nccl_available():
        return ""
    nccl: Any = torch.cuda.nccl
    version: tuple[int, ...] = nccl.version()
    return ".".join(str(number) for number in version)


def driver_version() -> str:
    return query_gpu(0, ("driver_version",)).get("driver_version", "")


def query_gpu(index: int, names: tuple[str, ...]) -> dict[str, str]:
    """What nvidia-smi reads of a GPU (it only reads); empty without it."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return {}
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    target = visible[index] if index < len(visible) else str(index)
    command = [program, f"--id={target}", f"--query-gpu={','.join(names)}", "--format=csv,noheader,nounits"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    first_line = output.strip().partition("\n")[0]
    values = [value.strip() for value in first_line.split(",")] if first_line else []
    return dict(zip(names, values, strict=False))


def reading(machine: MeasuredMachine) -> dict[str, float]:
    """Clocks, power, temperature and load of the GPU at this moment; empty where they cannot be read."""
    if machine.kind != "cuda":
        return {}
    values = {}
    for field, text in zip(FIELDS, query_gpu(machine.index, QUERY).values(), strict=False):
        try:
            values[field] = float(int(text, 16)) if text.startswith("0x") else float(text)
        except ValueError:
            continue  # "[N/A]" where the part does not tell
    return values


def busy_with(machine: MeasuredMachine) -> str:
    """What else runs on the device, in words; "" where it is ours alone. Asked before anything of ours runs."""
    if machine.kind == "cpu":
        load = os.getloadavg()[0] / (os.cpu_count() or 1)
        return f"the load is {load:.1f} per core" if load > 1.2 else ""
    used = reading(machine).get("utilization_percent", 0.0)
    return f"other work keeps the GPU {used:.0f} % busy" if used > BUSY_PERCENT else ""


class Sampler:
    """Reads clocks and power in the background while work runs, so that a point has them under load."""

    def __init__(self, machine: MeasuredMachine, every_s: float = 1.0) -> None:
        self.machine = machine
        self.every_s = every_s
        self.last: dict[str, float] = {}
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._read, daemon=True)

    def latest(self) -> dict[str, float]:
        """The last reading; empty before the first and where nothing can be read."""
        return dict(self.last)

    def _read(self) -> None:
        while not self.ended.wait(self.every_s):
            self.last = reading(self.machine)

    def __enter__(self) -> Sampler:
        if self.machine.kind == "cuda":
            self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        if self.thread.is_alive():
            self.thread.join(timeout=30)
