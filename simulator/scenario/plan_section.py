"""The scenario's `plan` section: what is written, what its software stack sets, and what follows from the rest."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

from hardware import catalogue
from hardware.precisions import PRECISIONS, UNSPECIFIED_FP8
from hardware.problems import InputError
from hardware.sections import Section
from hardware.specs import Cluster
from simulator.fields import read_fields
from simulator.model.spec import Model
from simulator.plans.balancing import balancing_of_model
from simulator.plans.case import divisors, near
from simulator.plans.choices import GRANULARITIES
from simulator.plans.spec import Plan
from simulator.scenario.precision_section import write_out_precision
from simulator.scenario.stack_section import (
    ChosenStack,
    PlanFacts,
    misplaced_framework,
    read_stack,
    stack_settings,
    with_settings,
)
from simulator.schedules import default_schedule
from simulator.stack import DEFAULT, Stack, default_stack, release

MOST_GPUS = 10_000_000
NEAR = 2  # times the GPUs of the scenario, or a part of them: other clusters are no advice


@dataclass(frozen=True, slots=True)
class Machines:
    """What a plan is read for: the job's GPUs, None where they cannot be read, and how many a server holds."""

    gpus: int | None
    gpus_per_node: int = 1


def spare_gpus_within(data: Mapping[str, Any], gpus_per_node: int) -> int:
    """GPUs of the spare nodes that are among cluster.gpus (run.spares.within), as far as they can be read."""
    run = data.get("run")
    spares = run.get("spares") if isinstance(run, Mapping) else None
    if not isinstance(spares, Mapping) or spares.get("within") is not True:
        return 0
    counts = [spares.get(key) for key in ("hot", "cold")]
    return gpus_per_node * sum(count for count in counts if isinstance(count, int) and _is_count(count))


def without_spares(cluster: Cluster, spare_gpus: int, top: Section) -> Cluster | None:
    """The cluster that is left for the job; None, with a problem added to `top`, where nothing is."""
    if spare_gpus < cluster.gpus:
        return replace(cluster, gpus=cluster.gpus - spare_gpus)
    message = f"takes {spare_gpus} of cluster.gpus {cluster.gpus}: nothing is left for the job; give fewer spares"
    top.problems.append(top.place.under("run").under("spares").problem(message))
    return None


def _gpus_of(top: Section, spare_gpus: int) -> int | None:
    cluster = top.data.get("cluster")
    gpus = cluster.get("gpus") if isinstance(cluster, Mapping) else None
    if not isinstance(gpus, int) or not _is_count(gpus):
        return None
    return gpus - spare_gpus if gpus > spare_gpus else None


def machines_of(top: Section, cluster: Cluster | None, spare_gpus: int) -> Machines:
    """The job's GPUs and those of a server as far as they can be read, whatever else is wrong with the cluster."""
    gpus = _gpus_of(top, spare_gpus)
    if cluster is not None:
        return Machines(gpus, cluster.node.gpus)
    written = top.data.get("cluster")
    server = written.get("node") if isinstance(written, Mapping) else None
    if not isinstance(server, str | Mapping):
        return Machines(gpus)
    try:
        return Machines(gpus, catalogue.node(server, top.place.under("cluster.node")).gpus)
    except InputError:
        return Machines(gpus)


def read_plan_stack(top: Section) -> ChosenStack:
    """The software stack that the plan names, whatever else is wrong with the plan."""
    plan = top.data.get("plan")
    written = plan.get("stack") if isinstance(plan, Mapping) else None
    return read_stack(written, top.place.under("plan").under("stack"))


def read_plan(
    section: Section, machines: Machines, model: Model | None, chosen: ChosenStack | None, settings: dict[str, Any]
) -> Plan:
    """The plan as written, with what follows from the rest: what its stack sets unless it is written (added to
    `settings`), dp fills the GPUs, the schedule follows pp and vpp."""
    section.seen.add("stack")
    if "framework" in section.data:
        section.seen.add("framework")
        section.report("framework", misplaced_framework(section.data["framework"]))
    stack = chosen.stack if chosen else default_stack()
    plain_fp8 = chosen.release.plain_fp8 if chosen else release(DEFAULT).plain_fp8
    if write_out_precision(section, model, plain_fp8):
        settings["precision"] = plain_fp8
    if chosen:
        if section.data.get("precision") == UNSPECIFIED_FP8:
            section.data = {**section.data, "precision": chosen.release.plain_fp8}
            settings["precision"] = chosen.release.plain_fp8
        facts = _plan_facts(section.data, machines.gpus, model)
        if facts:
            found = stack_settings(chosen, section.data, facts)
            section.data = with_settings(section.data, found)
            settings |= found
    degrees = {name: section.data.get(name, 1) for name in ("tp", "cp", "pp", "vpp")}
    if all(map(_is_count, degrees.values())):
        vpp = degrees.pop("vpp")
        schedule = default_schedule(degrees["pp"], vpp)
        section.data = {"schedule": schedule, **section.data}
        _fill_gpus(section, machines, degrees)
    _leave_out_main_params(section)
    _name_recomputed_modules(section, stack)
    _name_balancing(section, model)
    if not section.broken:
        section.data = {"dp": 1, **section.data}  # a stand-in where dp could not be derived: that was reported
    return read_fields(Plan, section, known={"stack": stack})


def _name_recomputed_modules(section: Section, stack: Stack) -> None:
    """Selective recomputation without a word on modules is that of attention's core (Megatron-LM's default)."""
    recompute = section.data.get("recompute")
    if not isinstance(recompute, Mapping) or "modules" in recompute or stack.selective_recompute == "operators":
        return
    granularity = GRANULARITIES.get(str(recompute.get("granularity")))
    if granularity is not None and granularity.named_modules:
        section.data = {**section.data, "recompute": {**recompute, "modules": ["core_attn"]}}


def _name_balancing(section: Section, model: Model | None) -> None:
    """Experts are as unevenly loaded as the balancing of their model leaves them, unless the plan says otherwise."""
    if model is not None and model.has_experts:
        section.data = {"expert_imbalance": balancing_of_model(model.name)[0].kind, **section.data}


def _leave_out_main_params(section: Section) -> None:
    """32-bit weights have no main copy beside them unless one is asked for."""
    precision = PRECISIONS.get(str(section.data.get("precision")))
    optimizer = section.data.get("optimizer", {})
    if precision is None or not precision.full_width or not isinstance(optimizer, Mapping):
        return
    section.data = {**section.data, "optimizer": {"main_params": None, **optimizer}}


def _plan_facts(plan: Mapping[str, Any], gpus: int | None, model: Model | None) -> PlanFacts | None:
    """What decides which settings of a stack apply; None where the degrees cannot be read."""
    degrees = {name: plan.get(name, 1) for name in ("tp", "cp", "pp", "ep")}
    if not all(map(_is_count, degrees.values())):
        return None
    precision = PRECISIONS.get(str(plan.get("precision", "bf16")))
    return PlanFacts(
        **degrees,
        gpus=gpus or math.prod(degrees.values()),
        experts=model is not None and model.has_experts,
        quantized=precision is not None and precision.quantized,
        eight_bit=precision is not None and precision.quantized and precision.operand_bits == 8,
        fp8=precision is not None and precision.gathers_low,
        weights=precision.high if precision is not None else "bf16",
    )


def _fill_gpus(section: Section, machines: Machines, degrees: Mapping[str, int]) -> None:
    """Derives dp where it was left out; reports a plan that does not use every GPU of the cluster exactly once."""
    gpus, replica = machines.gpus, math.prod(degrees.values())
    if gpus is None:
        return
    written, dp = " x ".join(f"{name} {degree}" for name, degree in degrees.items()), section.data.get("dp")
    if gpus % replica:
        products = dict(zip(degrees, accumulate(degrees.values(), operator.mul), strict=True))
        culprit = next(name for name, product in products.items() if gpus % product)
        why = f"{written} = {replica} GPUs to a replica does not divide the cluster's {gpus}"
        section.report(culprit, f"{why}; {_right_degrees(machines, degrees, culprit)}")
    elif dp is None:
        section.data = {"dp": gpus // replica, **section.data}
    elif _is_count(dp) and dp * replica != gpus:
        section.report("dp", f"is {dp}, but {written} x dp {dp} = {dp * replica} GPUs and the cluster has {gpus}; "
                       f"leave dp out, or write {gpus // replica}")  # fmt: skip


def _right_degrees(machines: Machines, degrees: Mapping[str, int], culprit: str) -> str:
    """What to write instead: the culprit's nearest values that divide the cluster, or a cluster of about its size."""
    gpus, replica = machines.gpus or 1, math.prod(degrees.values())
    others = replica // degrees[culprit]
    words = "change a degree"
    if gpus % others == 0:
        words = f"write {culprit} {near(degrees[culprit], divisors(gpus // others))}"
    alike = [count for count in _possible_gpus(machines, gpus, replica) if gpus <= NEAR * count <= NEAR**2 * gpus]
    return f"{words}, or take {near(gpus, alike)} GPUs" if alike else words


def _possible_gpus(machines: Machines, gpus: int, replica: int) -> list[int]:
    """Numbers of GPUs around `gpus` that whole replicas and whole servers fill; within one server replicas alone."""
    whole = math.lcm(replica, machines.gpus_per_node)
    around = [gpus // whole * whole, (gpus // whole + 1) * whole]
    within_one = range(replica, machines.gpus_per_node, replica)
    return [count for count in (*within_one, *around) if count > 0]


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value < MOST_GPUS
