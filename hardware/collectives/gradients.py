"""Reducing gradients as frameworks do: in buckets (DDP), fused by the clock (Horovod), compressed, or over servers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hardware.collectives.closed_form import BelowBound, collective_s
from hardware.collectives.group import Group, links_of
from hardware.specs import Cluster

Floats = NDArray[np.float64]
# Streaming kernels reach 83-89 % of HBM peak (Azure AI benchmarking guide, triad on A100, H100 and H200).
_STREAM_FRACTION = 0.85
# Passes over the gradient that selecting the largest entries takes (assumed: histogram, threshold, compaction).
_TOPK_PASSES = 3.0


@dataclass(frozen=True, slots=True)
class Reduced:
    """When each bucket's reduction started and ended, and how much of it lies behind the end of backward."""

    start_s: Floats
    end_s: Floats
    bucket_bytes: Floats
    exposed_s: float


def ddp_buckets(
    tensor_bytes: Floats, bucket_bytes: float = 25 * 2**20, first_bytes: float = 2**20
) -> NDArray[np.int64]:
    """Bucket of each tensor, tensors in the order in which their gradients become ready (last layer first).

    A bucket is closed once it holds its size or more; the first is small so that communication starts early
    (torch DistributedDataParallel: bucket_cap_mb 25, first bucket 1 MiB).
    """
    bucket, held, number = np.zeros(len(tensor_bytes), np.int64), 0.0, 0
    for i, size in enumerate(np.asarray(tensor_bytes, dtype=float).tolist()):
        bucket[i] = number
        held += size
        if held >= (first_bytes if number == 0 else bucket_bytes):
            number, held = number + 1, 0.0
    return bucket


def fusion_buckets(
    ready_s: Floats, tensor_bytes: Floats, cycle_s: float = 1e-3, threshold_bytes: float = 128 * 2**20
) -> NDArray[np.int64]:
    """Bucket of each tensor when all that became ready within a cycle are fused, up to a threshold.

    Horovod: HOROVOD_CYCLE_TIME 1 ms, HOROVOD_FUSION_THRESHOLD 128 MiB.
    """
    cycle = np.floor(np.asarray(ready_s) / cycle_s)
    bucket, held, number = np.zeros(len(cycle), np.int64), 0.0, 0
    for i, size in enumerate(np.asarray(tensor_bytes, dtype=float).tolist()):
        full = i > 0 and (cycle[i] != cycle[i - 1] or held + size > threshold_bytes)
        number, held = (number + 1, size) if full else (number, held + size)
        bucket[i] = number
    return bucket


def reduce_buckets(
    ready_s: Floats,
    tensor_bytes: Floats,
    bucket: NDArray[np.int64],
    group: Group,
    cluster: Cluster,
    operation: str = "all_reduce",
) -> Reduced:
    """Buckets reduced one after another on one stream, each from when its last tensor is ready."""
    count = int(bucket.max()) + 1
    size = np.bincount(bucket, tensor_bytes, count).astype(float)
    ready = np.zeros(count)
    np.maximum.at(ready, bucket, ready_s)
    lasts = collective_s(operation, size, group, cluster).seconds
    start, end, free = np.zeros(count), np.zeros(count), 0.0
    for i in range(count):
        start[i] = max(ready[i], free)
        free = end[i] = start[i] + lasts[i]
    return Reduced(start, end, size, float(max(0.0, free - np.max(ready_s))))


@dataclass(frozen=True, slots=True)
class Compressed:
    """Time of a compressed all-reduce, its two parts, and the bytes that leave each rank."""

    seconds: float
    compress_s: float
    exchange_s: float
    sent_bytes: float


def _stream_s(size_bytes: float, cluster: Cluster) -> float:
    return size_bytes / (_STREAM_FRACTION * cluster.accelerator.memory_bandwidth_bytes_per_s)


def _plain(size: float, keep: float, group: Group, cluster: Cluster) -> Compressed:
    seconds = collective_s("all_reduce", size, group, cluster).seconds
    return Compressed(seconds, 0.0, seconds, size * 2 * (group.ranks - 1) / group.ranks)


def _quantised(size: float, keep: float, group: Group, cluster: Cluster) -> Compressed:
    """One byte for four and a scale per 128: chunks are exchanged, summed in fp32, quantised again and gathered."""
    n, small = group.ranks, size / 4 * (1 + 4 / 128)
    # Quantise all, take in n chunks and sum them, quantise the own chunk, take all apart again.
    passes = (size + small) + (small + size / n) + (size / n + small / n) + (small + size)
    exchange = collective_s("all_to_all", small, group, cluster).seconds
    exchange += collective_s("all_gather", small, group, cluster).seconds
    compress = _stream_s(passes, cluster)
    return Compressed(compress + exchange, compress, exchange, small * 2 * (n - 1) / n)


def _topk(size: float, keep: float, group: Group, cluster: Cluster) -> Compressed:
    """The largest fraction `keep` of entries, value and index of 4 bytes each, gathered from all and added up."""
    n, mine = group.ranks, size * keep * 2
    compress = _stream_s(_TOPK_PASSES * size + n * mine + size, cluster)
    exchange = collective_s("all_gather", n * mine, group, cluster).seconds
    return Compressed(compress + exchange, compress, exchange, mine * (n - 1))


def _low_rank(size: float, keep: float, group: Group, cluster: Cluster) -> Compressed:
    """PowerSGD of rank `keep`: a square matrix M goes as P = M Q and Q = M' P, both all-reduced in fp32.

    Three products read M or write its estimate; at small ranks they are bound by memory.
    """
    factor = 4 * keep * np.sqrt(size / 4)
    compress = _stream_s(3 * size, cluster)
    exchange = 2 * collective_s("all_reduce", factor, group, cluster).seconds
    return Compressed(compress + exchange, compress, exchange, 2 * factor * 2 * (group.ranks - 1) / group.ranks)


SCHEMES: dict[str, Callable[[float, float, Group, Cluster], Compressed]] = {
    "none": _plain,
    "fp8": _quantised,
    "int8": _quantised,
    "topk": _topk,
    "low_rank": _low_rank,
}


def compressed_all_reduce(
    size_bytes: float, scheme: str, group: Group, cluster: Cluster, keep: float = 0.01
) -> Compressed:
    """All-reduce of an fp32 gradient of `size_bytes`, compressed.

    `keep` is the fraction of entries for topk and the rank for low_rank. ValueError for other schemes or a `keep` that
    is not positive.
    """
    if scheme not in SCHEMES:
        raise ValueError(f"compression {scheme!r}: choose one of {', '.join(SCHEMES)}")
    if not keep > 0 or (scheme == "topk" and keep > 1):
        raise ValueError(f"compression {scheme}: keep must be a fraction (topk) or a rank (low_rank), not {keep}")
    return SCHEMES[scheme](size_bytes, keep, group, cluster)


def parameter_server_s(size_bytes: float, workers: int, servers: int, cluster: Cluster, shared: bool = False) -> float:
    """Push of every worker's gradient to sharded servers and pull of the parameters, over NICs, nothing else running.

    A server takes in workers x size / servers: with fewer servers than workers that incast is the bottleneck.
    `shared`: workers and servers are the same GPUs, and each keeps its own shard at home.
    """
    if workers < 1 or servers < 1 or (shared and workers != servers):
        raise ValueError(
            f"parameter server: {workers} workers and {servers} servers{' on the same GPUs' if shared else ''}"
        )
    links = links_of(cluster)
    own = 1 / servers if shared else 0.0
    busiest = size_bytes * max(1.0 - own, workers / servers - own)
    seconds = 2 * (busiest / links.nic_bytes_per_s + links.tier_latencies_s[-1])
    if seconds < 2 * busiest / links.nic_bytes_per_s:
        raise BelowBound(f"parameter server: {seconds} s is below what the busiest NIC needs")
    return seconds
