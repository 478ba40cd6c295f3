"""Failure models from names, files and mappings: the presets that ship with the project and the user's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, cast, get_args

from hardware import units
from hardware.documents import Document, read_document
from hardware.problems import InputError, Place, one_of
from hardware.sections import Section
from simulator.run.durations import Duration, exponential, fixed, lognormal
from simulator.run.faults import FailureModel, FaultClass, FaultKind, Scope, scaled

DATA = Path(__file__).parent / "data" / "failures"
INLINE = Place("inline")
NO_FAILURES = FailureModel("none", ())
DAY_S = 86400.0
# Beyond these no cluster is described any more, and the numbers of faults run away.
MOST_VARIANCE, MOST_FOLLOWERS, SHAPES = 10.0, 10.0, (0.1, 10.0)


def presets() -> list[str]:
    """Names of the failure models that ship with the project."""
    return sorted(path.stem for path in DATA.glob("*.yaml"))


@cache
def preset(name: str) -> FailureModel:
    """A shipped failure model. Raises InputError for a name that is not known."""
    if name not in presets():
        raise InputError([INLINE.problem(f"failure model {one_of(name, [*presets(), 'none'])}")])
    return _from_document(read_document(DATA / f"{name}.yaml"), name)


def failure_model(what: str | Mapping[str, Any], at: Place = INLINE) -> FailureModel:
    """A preset's name, "none", a YAML file, or a mapping: a whole model, or {base: llama-3, rate_multiplier: 2}.

    A base may be changed in `rate_multiplier`, `age`, `lemons`, `swings` and `bursts`.
    Raises InputError with every problem.
    """
    if isinstance(what, str):
        if what == "none":
            return NO_FAILURES
        if what.endswith((".yaml", ".yml", ".json")):
            path = Path(at.file).parent / what
            return _from_document(read_document(path), path.stem)
        if what not in presets():
            raise InputError([at.problem(f"failure model {one_of(what, [*presets(), 'none'])}, or a file in .yaml")])
        return preset(what)
    return _from_document(Document(what, at), "own")


def _from_document(document: Document, name: str) -> FailureModel:
    top = Section(document.data, document.place)
    top.text("about", None)
    base = top.text("base", None)
    model = NO_FAILURES
    if base is not None:
        try:
            model = failure_model(base, document.place.under("base"))
        except InputError as error:
            top.problems += error.problems
    else:
        model = replace(model, name=top.text("name", name), classes=_classes(top))
    model = replace(model, source=top.text("source", model.source))
    model = _together(top, model)
    factor = top.quantity("rate_multiplier", "count", 1.0, zero=True)
    top.done()
    top.raise_problems()
    return replace(scaled(model, factor), sources={**model.sources, **top.sources})


def _together(top: Section, model: FailureModel) -> FailureModel:
    """What makes faults come together: lemon nodes, swings of the rate, bursts, and the age of the cluster."""
    if "lemons" in top.data:
        lemons = top.section("lemons")
        fraction = lemons.quantity("fraction", "fraction") or 0.0
        if fraction >= 1:
            lemons.report("fraction", f"must be below 1, not {fraction:g}")
        multiplier = lemons.quantity("multiplier", "count") or 1.0
        model = replace(model, lemon_fraction=fraction, lemon_multiplier=multiplier)
        lemons.done()
    if "swings" in top.data:
        swings = top.section("swings")
        variance = _at_most(swings, "variance", MOST_VARIANCE)
        model = replace(model, swing_variance=variance, swing_period_s=swings.quantity("period", "s") or DAY_S)
        swings.done()
    if "bursts" in top.data:
        bursts = top.section("bursts")
        followers = _at_most(bursts, "mean", MOST_FOLLOWERS)
        model = replace(model, burst_mean=followers, burst_window_s=bursts.quantity("window", "s") or DAY_S)
        bursts.done()
    return replace(model, age_s=top.quantity("age", "s", model.age_s))


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
        classes.append(_class(str(name), section, gpu_seconds))
        section.done()
    return tuple(classes)


def _class(name: str, section: Section, gpu_seconds: float) -> FaultClass:
    kind = cast(FaultKind, section.choice("kind", get_args(FaultKind)))
    fault = FaultClass(
        name=name,
        kind=kind,
        rate_per_gpu_s=(section.quantity("count", "count", zero=True) or 0.0) / gpu_seconds,
        scope=cast(Scope, section.choice("scope", get_args(Scope), "node")),
        detect=read_duration(section, "detect", None) or fixed(0.0),
        repair=read_duration(section, "repair", None),
        outage=read_duration(section, "outage", None),
        lasts=read_duration(section, "lasts", None),
        speed=section.quantity("speed", "fraction", 1.0),
        link_fraction=section.quantity("links", "fraction", None),
        shape=section.quantity("shape", "count", 1.0),
        reference_age_s=section.quantity("reference_age", "s", 30 * DAY_S),
    )
    if not SHAPES[0] <= fault.shape <= SHAPES[1]:
        section.report("shape", f"must be between {SHAPES[0]} and {SHAPES[1]}, not {fault.shape:g}")
    if kind == "slow" and fault.lasts is None:
        section.report("lasts", "is missing: a slow fault passes by itself after some time, e.g. {mean: 72 min}")
    _check_slowness(section, fault)
    if fault.scope == "job" and fault.repair is not None:
        section.report("repair", "belongs to nodes; a fault of scope job takes none away: write none, or an outage")
    return fault


def _check_slowness(section: Section, fault: FaultClass) -> None:
    """A slow fault has either a speed or what it leaves of a node's links; no other has links."""
    links = fault.link_fraction
    if links is not None and fault.kind != "slow":
        section.report("links", f"belongs to kind slow, not {fault.kind}")
    elif links is not None and not 0 < links < 1:
        section.report("links", "must be between 0 and 1: the share of a node's link bandwidth that is left")
    elif links is not None and "speed" in section.data:
        section.report("links", "and speed exclude each other: with links the speed follows from the simulated step")
    elif fault.kind == "slow" and links is None and not 0 < fault.speed < 1:
        section.report("speed", "must be between 0 and 1: the job's speed while the fault lasts")


def _at_most(section: Section, key: str, most: float) -> float:
    """A number from zero to `most`."""
    value = float(section.quantity(key, "count", zero=True) or 0.0)
    if value > most:
        section.report(key, f"must be at most {most:g}, not {value:g}")
        return most
    return value


def read_duration(section: Section, key: str, default: Duration | None) -> Duration | None:
    """A time: "30 s", {mean: 30 s} (exponential), {median: 1 h, mean: 2 h} (lognormal), {quantiles: {0: ..., 1: ...}},
    or "none"."""
    value = section.take(key, None)
    if value is None:
        return default
    if value == "none":
        return None
    if not isinstance(value, Mapping):
        return fixed(_seconds(section, key, value))
    if set(value) == {"mean"}:
        return exponential(_seconds(section, key, value["mean"]))
    if set(value) == {"median", "mean"}:
        median, mean = (_seconds(section, key, value[k]) for k in ("median", "mean"))
        if not 0 < median <= mean:
            section.report(key, "a lognormal time has a median above zero and a mean no smaller")
            return default
        return lognormal(median, mean)
    if set(value) == {"quantiles"} and isinstance(value["quantiles"], Mapping):
        return _quantiles(section, key, value["quantiles"])
    section.report(key, "must be a time, {mean}, {median, mean}, {quantiles} or none")
    return default


def _quantiles(section: Section, key: str, given: Mapping[Any, Any]) -> Duration | None:
    try:
        points = tuple((float(q), _seconds(section, key, s)) for q, s in given.items())
    except ValueError:
        points = ()
    rising = all(a[0] < b[0] and a[1] <= b[1] for a, b in pairwise(points))
    if len(points) < 2 or not rising or points[0][0] != 0 or points[-1][0] != 1:
        section.report(key, "quantiles must rise from probability 0 to 1, e.g. {0: 1 min, 0.5: 1 h, 1: 2 d}")
        return None
    return Duration("quantiles", points=points)


def _seconds(section: Section, key: str, value: object) -> float:
    try:
        return units.parse(value, "s", bare=False)
    except units.QuantityError as error:
        section.report(key, str(error))
        return 1.0
