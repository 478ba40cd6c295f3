"""Jobs of a cluster beside a run: how many GPUs each holds, and whether they are the cluster's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hardware.specs import Cluster
from simulator.run.jobs import RunJob
from simulator.scenario.spec import Scenario


def job_gpus(job: RunJob, named: Scenario | None, cluster: Cluster) -> int:
    """As written, else those of the scenario that it names, else the whole cluster's."""
    if job.gpus is not None:
        return job.gpus
    return cluster.gpus if named is None else named.cluster.gpus


def lists_jobs(data: Any) -> bool:
    """Whether the data of a scenario file holds jobs of its own, which are not scheduled within others."""
    run = data.get("run") if isinstance(data, Mapping) else None
    return isinstance(run, Mapping) and "jobs" in run


def unfit_job(job: RunJob, named: Scenario | None, cluster: Cluster) -> tuple[str, str] | None:
    """What keeps a job from this cluster, as (key of the job, message)."""
    gpus = job_gpus(job, named, cluster)
    if gpus > cluster.gpus:
        return "gpus", f"{job.name} holds {gpus:,} GPUs, and the cluster has {cluster.gpus:,}"
    if job.is_own and gpus != cluster.gpus:
        return "gpus", f"is {gpus:,}; this scenario's own run takes all {cluster.gpus:,} of cluster.gpus. Leave it out"
    if named is None:
        return None
    if gpus != named.cluster.gpus:
        return "gpus", f"is {gpus:,}, and {job.scenario} runs on {named.cluster.gpus:,}. Leave it out"
    if named.cluster.node != cluster.node:
        return "scenario", f"{job.scenario} runs on {named.cluster.node.name}; the cluster has {cluster.node.name}"
    return None
