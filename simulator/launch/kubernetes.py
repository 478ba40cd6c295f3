"""Kubernetes objects of a job: a Kubeflow TrainJob with its runtime, or a JobSet, over a ConfigMap of the files.

Fields are those of trainer.kubeflow.org/v1alpha1 and jobset.x-k8s.io/v1alpha2; topology annotations are Kueue's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from simulator.launch.job import Job

MOUNT = "/launch"
PORT = 29500
CONTAINER = "node"
# Kueue's annotations (kueue.sigs.k8s.io, topology-aware scheduling): all pods as near as can be, or slices in a domain.
PREFERRED = "kueue.x-k8s.io/podset-preferred-topology"
SLICE_TOPOLOGY = "kueue.x-k8s.io/podset-slice-required-topology"
SLICE_SIZE = "kueue.x-k8s.io/podset-slice-size"
# Labels that the cluster's Topology object names; change them to your own.
LEAF_LABEL = "topology.kubernetes.io/leaf"
DOMAIN_LABEL = "nvidia.com/gpu.clique"
GPU_RESOURCES = {"nvidia": "nvidia.com/gpu", "amd": "amd.com/gpu"}


def objects(job: Job, vendor: str) -> dict[str, str]:
    """The YAML files: `trainjob.yaml`, and `jobset.yaml` for clusters without Kubeflow Trainer."""
    resource = GPU_RESOURCES.get(vendor, GPU_RESOURCES["nvidia"])
    return {
        "trainjob.yaml": _documents(runtime(job, resource), train_job(job)),
        "jobset.yaml": _documents(job_set(job, resource)),
    }


def config_map_name(job: Job) -> str:
    """The ConfigMap that holds the launch's files, which every pod mounts."""
    return f"{job.name}-files"


def runtime(job: Job, resource: str) -> dict[str, Any]:
    """The TrainingRuntime that the TrainJob names: one pod a node, the launch's files mounted."""
    step = {"metadata": {"labels": {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}}, "spec": {}}
    step["spec"] = {"template": pod_template(job, resource, [])}
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainingRuntime",
        "metadata": {"name": f"{job.name}-runtime", "labels": {"trainer.kubeflow.org/framework": "torch"}},
        "spec": {
            "mlPolicy": {"numNodes": job.nodes, "torch": {}},
            "template": {"spec": {"replicatedJobs": [{"name": CONTAINER, "template": step}]}},
        },
    }


def train_job(job: Job) -> dict[str, Any]:
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"name": job.name},
        "spec": {
            "runtimeRef": {
                "apiGroup": "trainer.kubeflow.org",
                "kind": "TrainingRuntime",
                "name": f"{job.name}-runtime",
            },
            "trainer": {
                "numNodes": job.nodes,
                "numProcPerNode": job.gpus_per_node,
                "command": ["bash", f"{MOUNT}/train.sh"],
            },
        },
    }


def job_set(job: Job, resource: str) -> dict[str, Any]:
    """One indexed Job, a pod for every node: the index is the node's rank."""
    index = {"fieldRef": {"fieldPath": "metadata.annotations['batch.kubernetes.io/job-completion-index']"}}
    variables: list[dict[str, Any]] = [
        {"name": "NODE_RANK", "valueFrom": index},
        {"name": "MASTER_ADDR", "value": f"{job.name}-{CONTAINER}-0-0.{job.name}"},
        {"name": "MASTER_PORT", "value": str(PORT)},
    ]
    pods = {
        "parallelism": job.nodes,
        "completions": job.nodes,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "template": pod_template(job, resource, variables),
    }
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": job.name},
        "spec": {
            "network": {"enableDNSHostnames": True, "subdomain": job.name},
            "failurePolicy": {"maxRestarts": job.spares + job.cold_spares + 3},
            "replicatedJobs": [{"name": CONTAINER, "replicas": 1, "template": {"spec": pods}}],
        },
    }


def pod_template(job: Job, resource: str, variables: list[dict[str, Any]]) -> dict[str, Any]:
    """A pod that fills one node."""
    container = {
        "name": CONTAINER,
        "image": "REPLACE-WITH-YOUR-IMAGE",
        "command": ["bash", f"{MOUNT}/train.sh"],
        "env": variables,
        "ports": [{"containerPort": PORT}],
        "resources": {"limits": {resource: job.gpus_per_node}, "requests": {resource: job.gpus_per_node}},
        "securityContext": {"capabilities": {"add": ["IPC_LOCK"]}},
        "volumeMounts": [{"name": "launch", "mountPath": MOUNT}, {"name": "shared-memory", "mountPath": "/dev/shm"}],
    }
    spec = {
        "restartPolicy": "Never",
        "containers": [container],
        "volumes": [
            {"name": "launch", "configMap": {"name": config_map_name(job)}},
            {"name": "shared-memory", "emptyDir": {"medium": "Memory"}},
        ],
    }
    return {"metadata": {"annotations": topology(job)}, "spec": spec}


def topology(job: Job) -> dict[str, str]:
    """Kueue's words for the placement that was predicted; pods fill it in the order of their index."""
    if job.segment > 1:
        return {PREFERRED: LEAF_LABEL, SLICE_TOPOLOGY: DOMAIN_LABEL, SLICE_SIZE: str(job.segment)}
    return {PREFERRED: LEAF_LABEL} if job.nodes > 1 else {}


def _documents(*documents: Mapping[str, Any]) -> str:
    return yaml.safe_dump_all(documents, sort_keys=False, allow_unicode=True)
