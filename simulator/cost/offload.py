"""What leaves the GPU for host memory costs: seconds over the host link, and an optimizer that the CPUs run."""

from __future__ import annotations

import numpy as np

from hardware.precisions import FORMATS
from hardware.specs import Cluster
from simulator.plans.spec import Plan
from simulator.workload.operators import Number
from simulator.workload.states import offloaded_gradient_fraction, parameter_bytes, update_bytes

# Host memory that a server's CPUs stream while they update parameters. Two 24-core Xeons of 2017 take 0.24 s for 10^9
# parameters (ZeRO-Offload's CPU-Adam, arXiv 2101.06840, from memory), that is 30 bytes each; newer servers have up to
# twice the memory bandwidth, so this is cautious.
HOST_UPDATE_BYTES_PER_S = 125e9
# Local drives of a node that names no rate: 25 GB/s over all of a DGX-2's drives (ZeRO-Infinity, arXiv 2104.07857,
# figure 2, from memory).
NVME_BYTES_PER_S = 25e9


def host_link_s(size_bytes: Number, cluster: Cluster) -> Number:
    """Seconds for so many bytes between GPU and host memory, one way; the other way is free at the same time."""
    return size_bytes / cluster.accelerator.host_bandwidth_bytes_per_s


def drive_s(size_bytes: Number, cluster: Cluster) -> Number:
    """Seconds in which one GPU's share of a node's local drives reads or writes so many bytes."""
    node = cluster.node
    return size_bytes * node.gpus / (node.nvme_bytes_per_s or NVME_BYTES_PER_S)


def fetch_s(shard: Number, plan: Plan, cluster: Cluster) -> Number:
    """Seconds before a gather in which a rank's share of offloaded parameters comes to the GPU.

    `shard` counts its parameters. What waits on drives crosses host memory too; both move at once, in pieces.
    """
    if plan.offload.params == "gpu":
        return 0.0
    size_bytes = shard * parameter_bytes(plan)
    link_s = host_link_s(size_bytes, cluster)
    return np.maximum(link_s, drive_s(size_bytes, cluster)) if plan.offload.params == "nvme" else link_s


def leaving_s(shard: Number, plan: Plan, cluster: Cluster) -> Number:
    """Seconds in which a rank's share of reduced gradients leaves for host memory right after the reduction."""
    if plan.stack.offloaded_gradients != "follow":
        return 0.0
    moved_bytes = shard * offloaded_gradient_fraction(plan) * FORMATS[plan.optimizer.grad_reduce].bytes
    return host_link_s(moved_bytes, cluster)


def host_update_s(shard: Number, plan: Plan, cluster: Cluster) -> Number:
    """The part of the optimizer that lives in host memory: gradients out, update on the CPUs, parameters back.

    `shard` counts a rank's own parameters. The three follow each other, or flow in pieces beside each other where the
    plan overlaps them. Gradients that have left before wait there already; offloaded parameters stay, or are written
    to the drives.
    """
    count = plan.offload.optimizer_fraction * shard
    has_left = offloaded_gradient_fraction(plan) if plan.stack.offloaded_gradients == "follow" else 0.0
    leaving = (plan.offload.optimizer_fraction - has_left) * shard
    out_s = host_link_s(leaving * FORMATS[plan.optimizer.grads].bytes, cluster)
    update_s = count * update_bytes(plan) / (HOST_UPDATE_BYTES_PER_S / cluster.node.gpus)
    home_s = home_again_s(count * parameter_bytes(plan), plan, cluster)
    if plan.offload.optimizer_overlap:
        return np.maximum(update_s, np.maximum(out_s, home_s))
    return out_s + update_s + home_s


def home_again_s(size_bytes: Number, plan: Plan, cluster: Cluster) -> Number:
    """Seconds in which updated parameters reach the place where they wait: the GPU, host memory or drives."""
    if plan.offload.params == "host":
        return 0.0
    return drive_s(size_bytes, cluster) if plan.offload.params == "nvme" else host_link_s(size_bytes, cluster)
