"""The scenario's sections on what surrounds the step: the input pipeline, and data parallelism that is not synchronous.

They are read into the specs that are simulated; what only the plan, the cluster or the simulated step can say has a
stand-in there until the step is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from hardware.sections import Section
from hardware.specs import Cluster
from simulator.fields import hints, json_schema, key_of, read_values
from simulator.outer_loop.input_pipeline import InputPipeline
from simulator.outer_loop.local_sgd import LocalSgd
from simulator.outer_loop.parameter_server import MOST_WORKERS, ParameterServer
from simulator.plans.choices import SHARDINGS
from simulator.plans.spec import Plan

# Fields that no file gives, by section, and what stands in them until they are known.
STAND_IN: dict[str, dict[str, Any]] = {
    "input": {"readers": 1, "sequences": 1, "storage_bytes_per_s": 1.0, "rank_bytes_per_s": 1.0},
    "local_sgd": {"step_s": 1.0, "exchange_bytes": 1.0},
    "parameter_server": {
        "workers": 10_000_000,
        "step_s": 1.0,
        "parameter_bytes": 1.0,
        "gradient_bytes": 1.0,
        "worker_bytes_per_s": 1.0,
    },
}
SPECS: dict[str, Any] = {
    "input": InputPipeline,
    "local_sgd": LocalSgd,
    "parameter_server": ParameterServer,
}


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Each section that the scenario has."""

    input: InputPipeline | None = None
    local_sgd: LocalSgd | None = None
    parameter_server: ParameterServer | None = None


NOTHING_AROUND = Surroundings()


def read_surroundings(top: Section) -> Surroundings:
    """The sections as far as they are there; every problem is added to the scenario's."""
    return Surroundings(**{name: _read(name, top) for name in SPECS if name in top.data})


def _read(name: str, top: Section) -> Any:
    """The section's spec; None where a problem of it was reported."""
    before = len(top.problems)
    section = top.section(name)
    written = [spec.name for spec in fields(SPECS[name]) if spec.name not in STAND_IN[name]]
    values = read_values(SPECS[name], section, written)
    section.done()
    if len(section.problems) > before:
        return None
    try:
        return SPECS[name](**values, **STAND_IN[name])
    except ValueError as error:
        section.problems.append(section.place.problem(str(error)))
        return None


def unfit_surroundings(around: Surroundings, cluster: Cluster, plan: Plan) -> list[tuple[str, str]]:
    """What cannot be simulated of them on this cluster under this plan, as (key, message)."""
    found = []
    if around.input and cluster.storage_read_bytes_per_s is None:
        found.append(("cluster.storage_read", "is missing: the input pipeline reads from it"))
    if around.local_sgd and around.parameter_server:
        found.append(("local_sgd", "beside a parameter_server is not modelled; write one of them"))
    if around.parameter_server is None:
        return found
    if plan.ep * plan.etp > plan.tp * plan.cp:
        found.append(("plan.ep", f"{plan.ep} spreads experts over replicas, which must keep step; a parameter server "
                      "whose workers share experts is not modelled"))  # fmt: skip
    if SHARDINGS[plan.sharding].shards_weights:
        found.append(("plan.sharding", "full keeps the parameters with the workers; beside a parameter server take "
                      "optimizer"))  # fmt: skip
    if plan.dp > MOST_WORKERS:
        found.append(("parameter_server", f"has {plan.dp:,} workers (plan.dp), each simulated by itself; at most "
                      f"{MOST_WORKERS:,} are: take a larger tp, cp or pp"))  # fmt: skip
    found += [(f"parameter_server.slow.{worker}", f"does not exist; there are 0 to {plan.dp - 1}")
              for worker in around.parameter_server.slow if worker >= plan.dp]  # fmt: skip
    return found


def surroundings_schema() -> dict[str, Any]:
    """The JSON Schema of each section."""
    return {name: _schema(name) for name in SPECS}


def _schema(name: str) -> dict[str, Any]:
    made: dict[str, Any] = json_schema(SPECS[name])
    known = hints(SPECS[name])
    derived = {key_of(field, known[field]) for field in STAND_IN[name]}
    properties: Mapping[str, Any] = made["properties"]
    return {
        **made,
        "properties": {key: value for key, value in properties.items() if key not in derived},
        "required": [key for key in made["required"] if key not in derived],
    }
