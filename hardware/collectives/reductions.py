"""Ways to all-reduce a buffer: what NCCL chooses, one of its algorithms, or recursive doubling as MPI has it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import log2

from hardware.arrays import Number
from hardware.collectives.closed_form import collective_s
from hardware.collectives.group import Group
from hardware.kernels.streaming import streaming_s
from hardware.specs import Cluster

Reduce = Callable[[Number, Group, Cluster], Number]


def _chosen(size_bytes: Number, group: Group, cluster: Cluster) -> Number:
    return collective_s("all_reduce", size_bytes, group, cluster).seconds


def _ring(size_bytes: Number, group: Group, cluster: Cluster) -> Number:
    return collective_s("all_reduce", size_bytes, group, cluster, "ring").seconds


def _tree(size_bytes: Number, group: Group, cluster: Cluster) -> Number:
    return collective_s("all_reduce", size_bytes, group, cluster, "tree").seconds


def recursive_doubling_s(size_bytes: Number, group: Group, cluster: Cluster) -> Number:
    """log2(ranks) rounds in which partners exchange whole buffers and add them up (Thakur, Rabenseifner and Gropp,
    Optimization of Collective Communication Operations in MPICH, 2005): few rounds, but log2(ranks) times the bytes.

    First within the scale-up domain, then between domains; a sum reads two buffers and writes one. Plain numbers.
    """
    inside, across = log2(float(group.ranks_per_domain)), log2(float(group.domains))
    pair = Group(2.0, 2.0)
    far = replace(group, ranks=2.0, ranks_per_domain=1.0, domains_per_block=1.0, lower_blocks=())
    exchanged_s = inside * collective_s("send_recv", size_bytes, pair, cluster).seconds
    exchanged_s = exchanged_s + across * collective_s("send_recv", size_bytes, far, cluster).seconds
    added_s = (inside + across) * streaming_s(cluster.accelerator, 3 * size_bytes, "elementwise")
    return exchanged_s + added_s


REDUCTIONS: Mapping[str, Reduce] = {
    "auto": _chosen,
    "ring": _ring,
    "tree": _tree,
    "recursive_doubling": recursive_doubling_s,
}
