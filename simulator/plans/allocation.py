"""How many GPUs of each scale-up domain a job takes: whole servers, so that its groups do not straddle domains."""

from __future__ import annotations

from dataclasses import replace

from hardware.specs import Cluster
from simulator.plans.spec import Plan


def gpus_per_domain(plan: Plan, cluster: Cluster) -> int:
    """GPUs of one domain that the job uses where domains span servers (NVL72), as a scheduler's segment sets it.

    The most that divide the job evenly and hold whole expert groups and whole tp x cp groups, or are held whole by
    them; all of the domain where nothing fits or a server is its own domain.
    """
    domain, server = cluster.node.scale_up.domain_gpus, cluster.node.gpus
    if domain <= server:
        return domain
    blocks = (plan.ep * plan.etp, plan.tp * plan.cp)
    for used in range(domain, 0, -server):
        if plan.gpus % used == 0 and all(used % block == 0 or block % used == 0 for block in blocks):
            return used
    return domain


def allocated(plan: Plan, cluster: Cluster) -> Cluster:
    """The cluster as the job sees it: its domains cut to what the job takes of each."""
    return with_domains(cluster, gpus_per_domain(plan, cluster))


def with_domains(cluster: Cluster, used: int) -> Cluster:
    """The cluster of which a job takes `used` GPUs of every domain."""
    scale_up = cluster.node.scale_up
    if used == scale_up.domain_gpus:
        return cluster
    installed = scale_up.installed_gpus or scale_up.domain_gpus
    scale_up = replace(scale_up, domain_gpus=used, installed_gpus=installed)
    return replace(cluster, node=replace(cluster.node, scale_up=scale_up))


def unused_gpus(cluster: Cluster) -> int:
    """GPUs of the domains that an allocated cluster spans which the job does not use; none within one domain."""
    scale_up = cluster.node.scale_up
    installed = scale_up.installed_gpus or scale_up.domain_gpus
    domains = -(-cluster.gpus // scale_up.domain_gpus)
    return domains * installed - cluster.gpus if domains > 1 else 0
