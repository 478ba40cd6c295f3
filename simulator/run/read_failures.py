"""Failure models from names, files and mappings: the presets that ship with the project and the user's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from math import log
from pathlib import Path
from statistics import stdev
from typing import Any

from hardware.documents import Document, read_document
from hardware.problems import InputError, Place, one_of
from hardware.sections import Section
from simulator.fields import object_schema, read_values
from simulator.run.durations import Duration, fixed
from simulator.run.faults import NETWORK_STATES, FailureModel, FaultClass, FaultKind, Scope, mean_time_between_s, scaled

DATA = Path(__file__).parent / "data" / "failures"
INLINE = Place("inline")
NO_FAILURES = FailureModel("none", ())
DEFAULT_FAILURES = "llama-3"
# Until a fault without `detect` is noticed. Crash: 10 s to a lost GPU, 30 s to a crashed NIC; hang: the default timeout
# (both ByteRobust, arXiv 2509.16293). Slow: detection and diagnosis under 10 min (MegaScale, arXiv 2402.15627).
# Corruption: assumed, NaN is seen at the next logged step. A planned stop announces itself.
DETECT_S: Mapping[FaultKind, float] = {
    "crash": 30.0,
    "hang": 600.0,
    "slow": 600.0,
    "corruption": 600.0,
    "planned": 0.0,
}


# No spare node takes the place of a broken switch: the job is slow until it is repaired.
UNREPLACED: tuple[Scope, ...] = ("rail", "spine")
NEVER = fixed(float("inf"))


@dataclass(frozen=True, slots=True)
class Correlation:
    """A section of a failure model that says what makes faults come together."""

    fields: tuple[str, ...]
    description: str
    example: Mapping[str, Any]


CORRELATIONS: Mapping[str, Correlation] = {
    "lemons": Correlation(
        ("lemon_fraction", "lemon_multiplier"),
        "Nodes that fail more often than others.",
        {"fraction": "1%", "multiplier": 20},
    ),
    "swings": Correlation(
        ("swing_variance", "swing_period_s"),
        "A factor on the whole rate, drawn anew for each period.",
        {"variance": 0.4, "period": "7 d"},
    ),
    "bursts": Correlation(
        ("burst_mean", "burst_window_s"),
        "Faults that follow others of their class.",
        {"mean": 0.1, "window": "1 h"},
    ),
}
# Fields that stand at the top of a failure model.
TOP_FIELDS = ("age_s", "mtbf_s", "node_mtbf_s", "rate_sigma", "generation")
RATE_KEYS = ("rate_multiplier", "mtbf", "node_mtbf")  # one at most
CLASS_FIELDS = tuple(name for name in FaultClass.__slots__ if name != "name")


def presets() -> list[str]:
    """Names of the failure models that ship with the project."""
    return sorted(path.stem for path in DATA.glob("*.yaml"))


@cache
def preset(name: str) -> FailureModel:
    """A shipped failure model, whose rate is as uncertain as the shipped models differ.

    Raises InputError for a name that is not known.
    """
    if name not in presets():
        raise InputError([INLINE.problem(f"failure model {one_of(name, [*presets(), 'none'])}")])
    return replace(_shipped(name), rate_sigma=rate_spread())


@cache
def _shipped(name: str) -> FailureModel:
    return _from_document(read_document(DATA / f"{name}.yaml"), name)


@cache
def rate_spread() -> float:
    """Standard deviation of the logarithm of the shipped models' rates of crashes and hangs per GPU."""
    return stdev(-log(mean_time_between_s(_shipped(name), 1)) for name in presets())


def failure_model(what: str | Mapping[str, Any], at: Place = INLINE) -> FailureModel:
    """A preset's name, "none", a YAML file, or a mapping: a whole model, {base: llama-3, rate_multiplier: 2}, or the
    mean time between failures of the job, {mtbf: 3 h}, or of a node, {node_mtbf: 5 years}, in the mix of the base.

    A base may be changed in its rate, `age`, `lemons`, `swings` and `bursts`. Raises InputError with every problem.
    """
    if isinstance(what, str):
        return _named(what, at)
    return _from_document(Document(what, at), "own")


def _named(what: str, at: Place) -> FailureModel:
    if what == "none":
        return NO_FAILURES
    if what.endswith((".yaml", ".yml", ".json")):
        path = Path(at.file).parent / what
        return _from_document(read_document(path), path.stem)
    if what not in presets():
        raise InputError([at.problem(f"failure model {one_of(what, [*presets(), 'none'])}, or a file in .yaml")])
    return preset(what)


def _from_document(document: Document, name: str) -> FailureModel:
    top = Section(document.data, document.place)
    top.text("about", None)
    model = _base(top, name)
    model = replace(model, source=top.text("source", model.source))
    for key, correlation in CORRELATIONS.items():
        model = _with_correlation(top, key, correlation, model)
    model = _with_age_and_rate(top, model)
    factor = top.quantity("rate_multiplier", "count", 1.0, zero=True)
    _check_rate(top, model)
    top.done()
    top.raise_problems()
    return replace(scaled(model, factor), sources={**model.sources, **top.sources})


def _base(top: Section, name: str) -> FailureModel:
    """The model that the rest changes: a base, classes written out, or the default's mix under a given MTBF."""
    only_mtbf = ("mtbf" in top.data or "node_mtbf" in top.data) and "classes" not in top.data
    base = top.text("base", DEFAULT_FAILURES if only_mtbf else None)
    if base is None and not any(key in top.data for key in ("classes", "exposure", "defaults")):
        names = ", ".join(name for name in presets() if name != DEFAULT_FAILURES)
        top.report(
            "base", f"is missing: add base: {DEFAULT_FAILURES} (or {names}), or exposure and classes of your own"
        )
        return NO_FAILURES
    if base is None:
        return replace(NO_FAILURES, name=top.text("name", name), classes=_classes(top))
    try:
        return failure_model(base, top.place.under("base"))
    except InputError as error:
        top.problems += error.problems
        return NO_FAILURES


def _with_correlation(top: Section, key: str, correlation: Correlation, model: FailureModel) -> FailureModel:
    if key not in top.data:
        return model
    section = top.section(key)
    values = read_values(FailureModel, section, correlation.fields)
    section.done()
    return replace(model, **values)


def _with_age_and_rate(top: Section, model: FailureModel) -> FailureModel:
    """The cluster's age, where the rate was observed, and a mean time between failures in place of the base's: that is
    taken as known."""
    given = read_values(FailureModel, top, TOP_FIELDS)
    if "age" in top.data:
        model = replace(model, age_s=given["age_s"])
    if "mtbf" in top.data or "node_mtbf" in top.data:
        model = replace(model, mtbf_s=given["mtbf_s"], node_mtbf_s=given["node_mtbf_s"], rate_sigma=0.0)
    if "rate_sigma" in top.data:
        model = replace(model, rate_sigma=given["rate_sigma"])
    if "generation" in top.data:
        model = replace(model, generation=given["generation"])
    return model


def _check_rate(top: Section, model: FailureModel) -> None:
    given = [key for key in RATE_KEYS if key in top.data]
    if len(given) > 1:
        top.report(given[0], f"and {' and '.join(given[1:])} exclude each other: each sets the rate")
    is_mtbf = model.mtbf_s is not None or model.node_mtbf_s is not None
    if is_mtbf and not top.problems and mean_time_between_s(model, 1) == float("inf"):
        top.report(given[0], "needs a class of kind crash or hang, whose rate it sets")


def _classes(top: Section) -> tuple[FaultClass, ...]:
    """The classes with the defaults filled in; rates are counts over the exposure in GPU-seconds."""
    exposure = top.section("exposure")
    gpu_seconds = float(exposure.count("gpus") or 1) * (exposure.quantity("time", "s") or 1.0)
    exposure.done()
    defaults = top.take("defaults", {})
    given = top.take("classes")
    if not isinstance(defaults, Mapping) or not isinstance(given, Mapping):
        top.report("classes", "and defaults must be mappings, of class names to what is known of each")
        return ()
    place = top.place.under("classes")
    classes = []
    for name, data in given.items():
        merged = {**defaults, **data} if isinstance(data, Mapping) else data
        section = Section(merged, place.under(name), top, f"classes.{name}")
        classes.append(_read_class(str(name), section, gpu_seconds))
        section.done()
    return tuple(classes)


def _read_class(name: str, section: Section, gpu_seconds: float) -> FaultClass:
    values = read_values(FaultClass, section, CLASS_FIELDS)
    count = values.pop("rate_per_gpu_s") or 0.0
    values["detect"] = _detection(section, values["kind"], values["detect"])
    if values["scope"] in UNREPLACED:
        values["detect"] = NEVER
    fault = FaultClass(name=name, rate_per_gpu_s=count / gpu_seconds, **values)
    _check_slowness(section, fault)
    if fault.scope == "job" and fault.repair is not None:
        section.report("repair", "belongs to nodes; a fault of scope job takes none away: write none, or an outage")
    return fault


def _detection(section: Section, kind: FaultKind, given: Duration | None) -> Duration:
    """The time to detection given, or the default of the kind: only a planned stop is known at once."""
    written = section.take("detect", None)
    if given is not None and written is not None:
        return given
    if written == "none" and kind != "planned":
        section.report("detect", "must be a time; leave it out for the default of its kind")
    return fixed(DETECT_S.get(kind, 0.0))


def _check_slowness(section: Section, fault: FaultClass) -> None:
    """A slow fault passes, and has either a speed or what it leaves of a node's links; no other has links.

    One of a part of the network has neither: its speed is simulated."""
    links = fault.link_fraction
    if fault.scope in NETWORK_STATES and fault.kind != "slow":
        section.report("scope", f"{fault.scope} belongs to kind slow, not {fault.kind}: the job goes on without it")
        return
    if fault.kind == "slow" and fault.lasts is None:
        section.report("lasts", "is missing: a slow fault passes by itself after some time, e.g. {mean: 72 min}")
    if links is not None and fault.kind != "slow":
        section.report("links", f"belongs to kind slow, not {fault.kind}")
    elif links is not None and not 0 < links < 1:
        section.report("links", "must be between 0 and 1: the share of a node's link bandwidth that is left")
    elif links is not None and "speed" in section.data:
        section.report("links", "and speed exclude each other: with links the speed follows from the simulated step")
    elif fault.network_state is not None:
        _check_simulated(section, fault)
    elif fault.kind == "slow" and links is None and not 0 < fault.speed < 1:
        section.report("speed", "must be between 0 and 1: the job's speed while the fault lasts")


def _check_simulated(section: Section, fault: FaultClass) -> None:
    for key in ("speed", "links"):
        if key in section.data:
            section.report(key, f"does not go with scope {fault.scope}, whose speed is simulated. Leave it out")


# -- JSON Schema ----------------------------------------------------------------------------------------------------


def failures_schema() -> dict[str, Any]:
    """The JSON Schema of what `failure_model` takes."""
    model = object_schema(FailureModel, TOP_FIELDS, "A failure model: a base that is changed, or classes written out.")
    fault = object_schema(FaultClass, CLASS_FIELDS, "One way to fail.")
    defaults = {**fault, "description": "What holds for every class that does not say otherwise.", "required": []}
    model["properties"] |= {
        "base": _text("The failure model that is changed; with mtbf or node_mtbf alone, llama-3's mix.", "llama-3"),
        "name": _text("Name of a model written out.", "our cluster"),
        "about": _text("What the model describes.", "Our cluster in 2025"),
        "source": _text("Where the figures come from.", "https://example.org/incidents"),
        "rate_multiplier": {
            "type": "number",
            "minimum": 0,
            "default": 1,
            "description": "Factor on all rates. Excludes mtbf and node_mtbf.",
            "examples": [2],
        },
        "exposure": _exposure_schema(),
        "defaults": {**defaults, "examples": [{"kind": "crash", "detect": "30 s"}]},
        "classes": {
            "type": "object",
            "description": "The ways to fail, by name.",
            "additionalProperties": {**fault, "required": []},  # a key may stand among the defaults
            "examples": [{"GPU": {"kind": "crash", "count": 148}}],
        },
    }
    for key, correlation in CORRELATIONS.items():
        section = object_schema(FailureModel, correlation.fields, correlation.description)
        model["properties"][key] = {**section, "examples": [dict(correlation.example)]}
    named = {"type": "string", "examples": [*presets(), "none", "model.yaml"]}
    return {
        "anyOf": [named, model],
        "description": "What fails how often: a shipped model, none, a YAML file, or a mapping.",
        "default": DEFAULT_FAILURES,
        "examples": ["rsc-1", {"mtbf": "3 h"}, {"base": "llama-3", "rate_multiplier": 2}],
    }


def _text(description: str, example: str) -> dict[str, Any]:
    return {"type": "string", "description": description, "examples": [example]}


def _exposure_schema() -> dict[str, Any]:
    return {
        "type": "object",
        "description": "The GPUs and the time in which the classes' counts were taken.",
        "properties": {
            "gpus": {"type": "integer", "minimum": 1, "description": "Number of GPUs.", "examples": [16384]},
            "time": {"type": ["number", "string"], "description": "Time they were watched.", "examples": ["54 d"]},
        },
        "required": ["gpus", "time"],
        "additionalProperties": False,
        "examples": [{"gpus": 16384, "time": "54 d"}],
    }
