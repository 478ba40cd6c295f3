"""What a scenario holds, and reading one: every problem of the file at once, each with file, line, key and remedy."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

from hardware import catalogue
from hardware.documents import Document, read_document
from hardware.problems import InputError, Place, Problem, one_of
from hardware.profile import applied, profile_folder, read_profile
from hardware.sections import Section
from hardware.specs import Cluster
from simulator.model.catalogue import load
from simulator.model.catalogue import names as model_names
from simulator.model.huggingface import from_huggingface
from simulator.model.inline import from_mapping
from simulator.model.spec import Model
from simulator.plan.spec import Plan
from simulator.scenario.fields import json_schema, read_fields
from simulator.scenario.overrides import apply_overrides, attributed

T = TypeVar("T")
MOST_GPUS = 10_000_000


@dataclass(frozen=True, slots=True)
class Run:
    """What is trained on: sequences of `seq_length` tokens, `tokens` in all."""

    seq_length: int
    tokens: float


@dataclass(frozen=True, slots=True)
class Published:
    """What the world measured for this very scenario, with its source; what is not known is left out."""

    source: str
    step_time_s: float | None = None
    tokens_per_s_per_gpu: float | None = None
    model_flops_per_s_per_gpu: float | None = None
    mfu_fraction: float | None = None
    gpu_hours_per_1e12_tokens: float | None = None
    training_time_s: float | None = None
    peak_memory_bytes: float | None = None
    notes: str | None = None


@dataclass(frozen=True, slots=True)
class Scenario:
    """One question: this model, on this cluster, laid out by this plan, for this run.

    `file` is where it was read and `written` its data with the overrides applied.
    """

    name: str
    question: str
    model: Model
    cluster: Cluster
    plan: Plan
    run: Run
    source: str | None = None
    published: Published | None = None
    file: str = "scenario"
    written: Mapping[str, Any] = field(default_factory=dict, repr=False)


def load_scenario(path: str | Path, overrides: Sequence[str] = ()) -> Scenario:
    """The scenario in a file, with `key=value` overrides on top.

    Raises InputError with every problem found, in the order of the file.
    """
    document = read_document(path)
    if not isinstance(document.data, dict):
        raise InputError([document.place.problem("holds no scenario; write the sections model, cluster, plan and run")])
    apply_overrides(document.data, overrides)
    try:
        return read_scenario(document, Path(path).stem)
    except InputError as error:
        placed = [attributed(problem, overrides) for problem in error.problems]
        raise InputError(sorted(placed, key=lambda p: (p.line is None, p.line or 0))) from None


def read_scenario(document: Document, name: str) -> Scenario:
    """The scenario in a document that was read; `name` is its default name. Raises InputError with every problem."""
    top = Section(document.data, document.place)
    title, question = top.text("name", name), top.text("question", "")
    source = top.text("source", None)
    model = _whole(top, lambda: _read_model(top.take("model"), top.place.under("model")))
    cluster = _whole(top, lambda: _read_cluster(top.section("cluster")))
    if "hardware" in top.data:
        cluster = _whole(top, lambda: _with_profile(cluster, top.section("hardware")))
    plan = _whole(top, lambda: _read_plan(top.section("plan"), _gpus(top)))
    run = _whole(top, lambda: read_fields(Run, top.section("run")))
    known = "published" in top.data
    published = _whole(top, lambda: read_fields(Published, top.section("published"))) if known else None
    top.seen.add("published")
    top.done()
    if model and cluster and plan and run:
        top.problems += legality(model, cluster, plan, run, top.place)
    top.raise_problems()
    assert model and cluster and plan and run
    return Scenario(title, question, model, cluster, plan, run, source, published, document.place.file, document.data)


def _whole(top: Section, read: Callable[[], T]) -> T | None:
    """What `read` gives, or None where it found problems; they are kept in `top`."""
    before = len(top.problems)
    try:
        made = read()
    except InputError as error:
        top.problems += error.problems
        return None
    return made if len(top.problems) == before else None


def _read_model(written: Any, at: Place) -> Model | None:
    """A catalogue name, {huggingface: path to a config.json beside the scenario}, or a model written out."""
    if written is None:
        return None
    if isinstance(written, str):
        if written not in model_names():
            raise InputError([at.problem(f"model {one_of(written, model_names())}")])
        return load(written)
    if not isinstance(written, Mapping):
        raise InputError([at.problem("must be a catalogue name, {huggingface: path} or a model written out")])
    if "huggingface" in written:
        return _read_huggingface(Section(written, at))
    return from_mapping(written, "model", at)


def _read_huggingface(section: Section) -> Model:
    path, name = section.text("huggingface"), section.text("name", None)
    section.done()
    section.raise_problems()
    file = Path(section.place.file).parent / str(path)
    if not file.is_file():
        section.report("huggingface", f"there is no file {file}; the path is read from the scenario's folder")
        section.raise_problems()
    config = read_document(file)
    if not isinstance(config.data, Mapping):
        raise InputError([config.place.problem("holds no mapping; a Hugging Face config.json is one")])
    return from_huggingface(config.data, name or file.parent.name or file.stem, config.place, str(path))


def _read_cluster(section: Section) -> Cluster | None:
    at = section.place
    gpus, server, network = section.count("gpus"), section.take("node"), section.take("fabric")
    title = section.text("name", None)
    write = section.quantity("storage_write", "bytes_per_s", None)
    read = section.quantity("storage_read", "bytes_per_s", None)
    pue = section.quantity("pue", "count", 1.0)
    section.done()
    node = _whole(section, lambda: catalogue.node(server, at.under("node"))) if server is not None else None
    fabric = _whole(section, lambda: catalogue.fabric(network, at.under("fabric"))) if network is not None else None
    if node is None or fabric is None or not isinstance(gpus, int):
        return None
    return catalogue.cluster(gpus, node, fabric, write, read, pue, title, at)


def _with_profile(cluster: Cluster | None, section: Section) -> Cluster | None:
    """The cluster priced by the measured profile that the scenario names."""
    folder, at = section.text("profile"), section.place.under("profile")
    section.done()
    section.raise_problems()
    profile = read_profile(profile_folder(folder, section.place.file), at)
    return applied(cluster, profile, at) if cluster else None


def _gpus(top: Section) -> int | None:
    """The cluster's number of GPUs as far as it can be read, whatever else is wrong with the cluster."""
    cluster = top.data.get("cluster")
    gpus = cluster.get("gpus") if isinstance(cluster, Mapping) else None
    return gpus if _is_count(gpus) else None


def _read_plan(section: Section, gpus: int | None) -> Plan:
    """The plan as written, with what follows from the rest: dp fills the GPUs, the schedule follows pp and vpp."""
    degrees = {name: section.data.get(name, 1) for name in ("tp", "cp", "pp", "vpp")}
    if all(map(_is_count, degrees.values())):
        vpp = degrees.pop("vpp")
        schedule = "none" if degrees["pp"] == 1 else "1f1b" if vpp == 1 else "interleaved"
        section.data = {"schedule": schedule, **section.data}
        if gpus is not None:
            _fill_gpus(section, gpus, degrees)
    if not section.broken:
        section.data = {"dp": 1, **section.data}  # a stand-in where dp could not be derived: that was reported
    return read_fields(Plan, section)


def _fill_gpus(section: Section, gpus: int, degrees: Mapping[str, int]) -> None:
    """Derives dp where it was left out; reports a plan that does not use every GPU of the cluster exactly once."""
    replica = math.prod(degrees.values())
    written, dp = " x ".join(f"{name} {degree}" for name, degree in degrees.items()), section.data.get("dp")
    if gpus % replica:
        products = dict(zip(degrees, accumulate(degrees.values(), operator.mul), strict=True))
        culprit = next(name for name, product in products.items() if gpus % product)
        nearest = " or ".join(str(n * replica) for n in (gpus // replica, gpus // replica + 1) if n)
        section.report(culprit, f"{written} = {replica} GPUs to a replica does not divide the cluster's {gpus}; change "
                       f"a degree, or take {nearest} GPUs")  # fmt: skip
    elif dp is None:
        section.data = {"dp": gpus // replica, **section.data}
    elif _is_count(dp) and dp * replica != gpus:
        section.report("dp", f"is {dp}, but {written} x dp {dp} = {dp * replica} GPUs and the cluster has {gpus}; "
                       f"leave dp out, or write {gpus // replica}")  # fmt: skip


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value < MOST_GPUS


def legality(model: Model, cluster: Cluster, plan: Plan, run: Run, top: Place) -> list[Problem]:
    return []


def scenario_schema() -> dict[str, Any]:
    """The JSON Schema of scenario files, for editors; own hardware and models written out stay free-form in it."""
    plan = json_schema(Plan)
    plan["required"] = [name for name in plan["required"] if name != "dp"]
    part = {"anyOf": [{"type": "string"}, {"type": "object"}]}
    cluster = {
        "gpus": {"type": "integer", "minimum": 1},
        "node": {**part, "examples": catalogue.names("nodes")},
        "fabric": {**part, "examples": catalogue.names("fabrics")},
        "name": {"type": "string"},
        "pue": {"type": "number", "minimum": 1},
        **{name: {"type": "string", "examples": ["1 TB/s"]} for name in ("storage_write", "storage_read")},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "traincast scenario",
        "type": "object",
        "properties": {
            **dict.fromkeys(("name", "question", "source"), {"type": "string"}),
            "model": {**part, "examples": model_names()},
            "cluster": {
                "type": "object",
                "properties": cluster,
                "required": ["gpus", "node", "fabric"],
                "additionalProperties": False,
            },
            "hardware": {
                "type": "object",
                "properties": {"profile": {"type": "string", "examples": ["profiles/mycluster"]}},
                "required": ["profile"],
                "additionalProperties": False,
            },
            "plan": plan,
            "run": json_schema(Run),
            "published": json_schema(Published),
        },
        "required": ["model", "cluster", "plan", "run"],
        "additionalProperties": False,
    }
