"""What leaves the GPU for host memory costs: seconds over the host link, and an optimizer that the CPUs run."""

from __future__ import annotations

import numpy as np

from hardware.precisions import FORMATS
from hardware.specs import Cluster
from simulator.plan.spec import Plan
from simulator.workload.operators import Number
from simulator.workload.states import parameter_bytes, update_bytes

# Host memory that a server's CPUs stream while they update parameters. Two 24-core Xeons of 2017 take 0.24 s for 10^9
# parameters (ZeRO-Offload's CPU-Adam, arXiv 2101.06840, from memory), that is 30 bytes each; newer servers have up to
# twice the memory bandwidth, so this is cautious.
HOST_UPDATE_BYTES_PER_S = 125e9


def host_link_s(size_bytes: Number, cluster: Cluster) -> Number:
    """Seconds for so many bytes between GPU and host memory, one way; the other way is free at the same time."""
    return size_bytes / cluster.accelerator.host_bandwidth_bytes_per_s


def host_update_s(shard: Number, plan: Plan, cluster: Cluster) -> Number:
    """The part of the optimizer that lives in host memory: gradients out, update on the CPUs, parameters back.

    `shard` counts a rank's own parameters. The three follow each other, or flow in pieces beside each other where the
    plan overlaps them.
    """
    count = plan.offload.optimizer_fraction * shard
    grad, parameter = FORMATS[plan.optimizer.grads].bytes, parameter_bytes(plan)
    out_s, home_s = (host_link_s(count * size, cluster) for size in (grad, parameter))
    update_s = count * update_bytes(plan) / (HOST_UPDATE_BYTES_PER_S / cluster.node.gpus)
    if plan.offload.optimizer_overlap:
        return np.maximum(update_s, np.maximum(out_s, home_s))
    return out_s + update_s + home_s
