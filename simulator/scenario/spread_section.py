"""The scenario's `spread` section: how unequal GPUs, nodes, links, experts and sequences are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hardware.problems import one_of
from hardware.sections import Section
from hardware.specs import Cluster
from simulator.fields import Setting, json_schema, read_fields, setting
from simulator.model.spec import Model, MoE
from simulator.plans.spec import Plan
from simulator.step.spread import KERNEL_CLASSES, ExpertLoad, Spread, read_histogram

DEFAULT_ORDER = Plan(1, 1, 1).rank_order


@dataclass(frozen=True, slots=True)
class RoutingSection:
    """How routed tokens spread over experts: balanced but for chance (nothing given), by a power law of `exponent`,
    or as counted in a run (`histogram`, a CSV file with a row per mixture-of-experts layer, a column per expert)."""

    exponent: float = setting(
        0.0, Setting("Popularity of the i-th favourite expert falls as i to this power; 0: balanced.")
    )
    histogram: str | None = setting(
        None, Setting("CSV file of tokens counted in a run: a row per layer with experts, a column per expert.")
    )


def read_spread(section: Section) -> Spread:
    """The section as written; `fitted` adds what model and plan say of the experts."""
    load = ExpertLoad()
    if "experts" in section.data:
        load = _read_routing(section.section("experts"))
    spread = read_fields(Spread, section, {"experts": load})
    for name in sorted(set(spread.jitter) - set(KERNEL_CLASSES)):
        section.report(f"jitter.{name}", one_of(name, KERNEL_CLASSES))
    return spread


def _read_routing(section: Section) -> ExpertLoad:
    routing = read_fields(RoutingSection, section)
    if routing.histogram is None:
        return ExpertLoad(exponent=routing.exponent, tokens=1.0)
    if routing.exponent:
        section.report("exponent", "is given beside a histogram, which says it all; drop one of them")
    try:
        counts = read_histogram(Path(section.place.file).parent / routing.histogram)
    except (OSError, ValueError) as error:
        section.report("histogram", f"cannot be used: {error}")
        counts = ()
    return ExpertLoad(histogram=counts, tokens=1.0)


def fitted(spread: Spread, model: Model, plan: Plan, seq_length: int) -> Spread:
    """With the experts that the model has and the token copies that one expert group routes per micro-batch."""
    experts = routed(model)
    if not spread.experts or not experts:
        return spread
    tokens = plan.ep * plan.etp * plan.micro_batch_size * seq_length / (plan.tp * plan.cp) * experts[0].top_k
    return replace(spread, experts=replace(spread.experts, count=experts[0].experts, tokens=tokens))


def routed(model: Model) -> list[MoE]:
    """The model's mixtures of experts, a row of a histogram each, multi-token prediction last."""
    return [layer.ffn for layer in model.layers + model.mtp if isinstance(layer.ffn, MoE)]


def unfit(spread: Spread, model: Model, cluster: Cluster, plan: Plan) -> list[tuple[str, str]]:
    """What cannot be simulated of a spread on this cluster under this plan, as (key, message)."""
    found = []
    nodes = -(-cluster.gpus // cluster.node.gpus)
    for key, named, count in (("slow_gpus", spread.slow_gpus, cluster.gpus), ("slow_nodes", spread.slow_nodes, nodes),
                              ("slow_links", spread.slow_links, cluster.gpus)):  # fmt: skip
        found += [(f"spread.{key}.{index}", f"does not exist; there are 0 to {count - 1}") for index in named
                  if index >= count]  # fmt: skip
    if plan.rank_order != DEFAULT_ORDER:
        found.append(
            ("plan.rank_order", f"{plan.rank_order} with GPUs that differ is not modelled; take {DEFAULT_ORDER}")
        )
    return found + (_unfit_experts(spread.experts, model, plan) if spread.experts else [])


def _unfit_experts(load: ExpertLoad, model: Model, plan: Plan) -> list[tuple[str, str]]:
    experts = routed(model)
    counts = sorted({each.experts for each in experts})
    if plan.ep == 1 or len(counts) != 1:
        why = f"the model has layers of {counts} experts" if counts else "the model has none"
        return [("spread.experts", f"needs experts spread over ep ranks, but {why if plan.ep > 1 else 'ep is 1'}")]
    found = []
    if plan.expert_imbalance != 1:
        found.append(("plan.expert_imbalance", f"{plan.expert_imbalance} assumes the imbalance that spread.experts "
                      "draws; set it to 1"))  # fmt: skip
    rows, columns = len(load.histogram), {len(row) for row in load.histogram}
    if columns - set(counts):
        found.append(("spread.experts.histogram", f"has {max(columns)} columns; the model has {counts[0]} experts"))
    if rows not in (0, 1, len(experts) - len(model.mtp), len(experts)):
        found.append(("spread.experts.histogram", f"has {rows} rows; one for all layers, or one for each of the "
                      f"{len(experts)} that have experts"))  # fmt: skip
    return found


def spread_schema() -> dict[str, Any]:
    """The JSON Schema of the section."""
    made: dict[str, Any] = json_schema(Spread)
    properties: Mapping[str, Any] = made["properties"]
    return {**made, "properties": {**properties, "experts": json_schema(RoutingSection)}}
