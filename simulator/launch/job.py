"""The job as a scheduler sees it: servers in the order that was predicted, spares, blocks of one domain or switch."""

from __future__ import annotations

from dataclasses import dataclass

from simulator.launch.forecast import Forecast
from simulator.launch.text import job_name
from simulator.scenario.schema import Scenario


@dataclass(frozen=True, slots=True)
class Job:
    """Nodes of a job. Rank r stands on node r // `gpus_per_node` in every launch.

    `segment`: so many consecutive nodes share a scale-up domain that spans servers (1: every server is its own).
    `leaf_nodes`: nodes below one switch of the lowest tier, `leaf_switches` the fewest that hold the job.
    `spares`: nodes beyond those that the job needs. `last_gpus`: GPUs used of the last node.
    """

    name: str
    gpus: int
    nodes: int
    gpus_per_node: int
    segment: int
    leaf_nodes: int
    leaf_switches: int
    spares: int
    cold_spares: int
    minutes_to_save: int

    @property
    def allocated_nodes(self) -> int:
        """Nodes that the job asks for: its own and its spares, unless domains must stay whole."""
        return self.nodes + (self.spares if self.segment == 1 else 0)


def job_of(scenario: Scenario, forecast: Forecast) -> Job:
    """The job of a scenario and its prediction."""
    cluster = scenario.cluster
    node, tiers = cluster.node, cluster.fabric.tiers
    domain_nodes = max(1, node.scale_up.domain_gpus // node.gpus)
    segment = min(domain_nodes, cluster.nodes)
    leaf_nodes = max(1, tiers[0].reach_gpus // node.gpus) if tiers else cluster.nodes
    policies = scenario.run.policies
    return Job(
        name=job_name(scenario.name),
        gpus=cluster.gpus,
        nodes=cluster.nodes,
        gpus_per_node=min(node.gpus, cluster.gpus),
        segment=segment if cluster.nodes % segment == 0 else 1,
        leaf_nodes=leaf_nodes,
        leaf_switches=-(-cluster.nodes // leaf_nodes),
        spares=forecast.spares,
        cold_spares=policies.recovery.cold_spares if policies else 0,
        minutes_to_save=10,
    )
