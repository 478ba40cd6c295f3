"""Reducing gradients as frameworks do: in buckets (DDP), fused by the clock (Horovod), or over parameter servers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hardware.arrays import Floats, Ints
from hardware.collectives.closed_form import BelowBound
from hardware.collectives.compression import Compressed, compressed_all_reduce
from hardware.collectives.group import Group
from hardware.collectives.links import links_of
from hardware.specs import Cluster
from hardware.units import parse

# torch DistributedDataParallel: bucket_cap_mb, and its first bucket.
DDP_BUCKET_BYTES = 25.0 * 2**20
DDP_FIRST_BUCKET_BYTES = 1.0 * 2**20
# HOROVOD_FUSION_THRESHOLD and HOROVOD_CYCLE_TIME.
FUSION_BYTES = 128.0 * 2**20
FUSION_CYCLE_S = 1e-3
MOST_TENSORS = 1_000_000
SCHEMES = ("ddp", "horovod", "push_pull")


@dataclass(frozen=True, slots=True)
class BucketTime:
    """One bucket: what it holds and sends, and when it is reduced, in seconds from the start of backward.

    `sent_bytes` leave each GPU; `exposed_s` is what lies behind the end of backward; `busbw_bytes_per_s` is sent bytes
    over the time of the exchange, as nccl-tests has it of an all-reduce.
    """

    tensors: int
    size_bytes: float
    sent_bytes: float
    ready_s: float
    start_s: float
    end_s: float
    compress_s: float
    exchange_s: float
    exposed_s: float
    busbw_bytes_per_s: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Reduction:
    """How gradients are reduced: `bucket_bytes` None is the scheme's own size, `keep` None the compression's own.

    `servers` are parameter servers beside the workers; with none the workers serve each other.
    """

    scheme: str = "ddp"
    bucket_bytes: float | None = None
    compression: str = "none"
    keep: float | None = None
    servers: int = 0


def tensor_sizes(text: str) -> Floats:
    """Bytes of each gradient from "64MiB,32x400MiB": one of 64 MiB, then 32 of 400 MiB.

    ValueError for what is no such list, or one of more than a million gradients.
    """
    sizes: list[float] = []
    for part in text.split(","):
        count, times, size = part.rpartition("x")
        if times and not count.strip().isdigit():
            raise ValueError(f"gradients {text!r}: {part!r} is no size; write e.g. 64MiB,32x400MiB")
        number = int(count) if times else 1
        size_bytes = parse(size, "bytes")
        if not number or not size_bytes:
            raise ValueError(f"gradients {text!r}: {part!r} is empty; write e.g. 64MiB,32x400MiB")
        if len(sizes) + number > MOST_TENSORS:
            raise ValueError(f"gradients {text!r}: are more than {MOST_TENSORS:,}")
        sizes += [size_bytes] * number
    return np.array(sizes)


def ready_times(tensor_bytes: Floats, backward_s: float) -> Floats:
    """When each gradient is ready, backward working through the tensors evenly by their size."""
    return np.cumsum(tensor_bytes) / np.sum(tensor_bytes) * backward_s


def ddp_buckets(
    tensor_bytes: Floats, bucket_bytes: float = DDP_BUCKET_BYTES, first_bytes: float = DDP_FIRST_BUCKET_BYTES
) -> Ints:
    """Bucket of each tensor, tensors in the order in which their gradients become ready (last layer first).

    A bucket is closed once it holds its size or more; the first is small so that communication starts early.
    """
    buckets = np.zeros(len(tensor_bytes), np.int64)
    number, filled = 0, 0.0
    for i, size in enumerate(tensor_bytes):
        buckets[i] = number
        filled += size
        limit = first_bytes if number == 0 else bucket_bytes
        if filled >= limit:
            number, filled = number + 1, 0.0
    return buckets


def fusion_buckets(
    ready_s: Floats, tensor_bytes: Floats, cycle_s: float = FUSION_CYCLE_S, threshold_bytes: float = FUSION_BYTES
) -> Ints:
    """Bucket of each tensor when all that became ready within a cycle are fused, up to a threshold (Horovod)."""
    cycles = np.floor(np.asarray(ready_s) / cycle_s)
    buckets = np.zeros(len(cycles), np.int64)
    number, filled = 0, 0.0
    for i, size in enumerate(tensor_bytes):
        next_cycle = i > 0 and cycles[i] != cycles[i - 1]
        too_full = i > 0 and filled + size > threshold_bytes
        if next_cycle or too_full:
            number, filled = number + 1, 0.0
        filled += size
        buckets[i] = number
    return buckets


def buckets_of(scheme: str, ready_s: Floats, tensor_bytes: Floats, bucket_bytes: float | None = None) -> Ints:
    """Bucket of each tensor by a scheme's rule; over parameter servers every tensor goes by itself.

    `bucket_bytes` None: the scheme's own size. ValueError for other schemes.
    """
    if scheme == "ddp":
        size = bucket_bytes or DDP_BUCKET_BYTES
        return ddp_buckets(tensor_bytes, size, min(size, DDP_FIRST_BUCKET_BYTES))
    if scheme == "horovod":
        return fusion_buckets(ready_s, tensor_bytes, threshold_bytes=bucket_bytes or FUSION_BYTES)
    if scheme == "push_pull":
        return np.arange(len(tensor_bytes))
    raise ValueError(f"scheme {scheme!r}: choose one of {', '.join(SCHEMES)}")


def reduce_gradients(
    tensor_bytes: Floats, backward_s: float, group: Group, cluster: Cluster, how: Reduction
) -> list[BucketTime]:
    """The buckets of gradients, in the order in which they become ready, reduced over a group while backward runs.

    ValueError for settings that do not exist or do not go together.
    """
    ready_s = ready_times(tensor_bytes, backward_s)
    buckets = buckets_of(how.scheme, ready_s, tensor_bytes, how.bucket_bytes)
    if how.scheme != "push_pull":
        if how.servers:
            raise ValueError(f"servers: {how.scheme} has none; take the scheme push_pull")
        return reduce_buckets(ready_s, tensor_bytes, buckets, group, cluster, how.compression, how.keep)
    if how.compression != "none":
        raise ValueError("compression: parameter servers exchange whole gradients here; leave it out")
    return push_pull_buckets(ready_s, tensor_bytes, buckets, int(group.ranks), how.servers, cluster)


def reduce_buckets(
    ready_s: Floats,
    tensor_bytes: Floats,
    buckets: Ints,
    group: Group,
    cluster: Cluster,
    compression: str = "none",
    keep: float | None = None,
) -> list[BucketTime]:
    """Buckets all-reduced one after another on one stream, each from when its last tensor is ready.

    Arrays are by tensor. ValueError as `compressed_all_reduce`.
    """
    sizes = bucket_sizes(tensor_bytes, buckets)
    times = compressed_all_reduce(sizes, compression, group, cluster, keep)
    return in_turn(ready_s, sizes, buckets, times)


def push_pull_buckets(
    ready_s: Floats, tensor_bytes: Floats, buckets: Ints, workers: int, servers: int, cluster: Cluster
) -> list[BucketTime]:
    """As `reduce_buckets`, each bucket pushed to parameter servers and pulled; no `servers`: the workers serve."""
    sizes = bucket_sizes(tensor_bytes, buckets)
    shared = servers == 0
    shards = workers if shared else servers
    seconds = np.array([parameter_server_s(size, workers, shards, cluster, shared) for size in sizes.tolist()])
    # A worker that serves too sends its shard to all others; one that does not only pushes.
    sent = 2 * sizes * (workers - 1) / workers if shared else sizes
    return in_turn(ready_s, sizes, buckets, Compressed(np.zeros_like(sizes), seconds, sent))


def bucket_sizes(tensor_bytes: Floats, buckets: Ints) -> Floats:
    return np.bincount(buckets, tensor_bytes).astype(float)


def in_turn(ready_s: Floats, sizes: Floats, buckets: Ints, times: Compressed) -> list[BucketTime]:
    """The buckets' times on one stream, in order: each starts when it is ready and the one before it has ended."""
    backward_s = float(np.max(ready_s))
    tensors = np.bincount(buckets)
    ready = np.zeros(len(sizes))
    np.maximum.at(ready, buckets, ready_s)
    rows = []
    end = 0.0
    for i, seconds in enumerate(times.seconds.tolist()):
        start = max(float(ready[i]), end)
        end = start + seconds
        exchange_s, sent = float(times.exchange_s[i]), float(times.sent_bytes[i])
        rows.append(
            BucketTime(
                tensors=int(tensors[i]),
                size_bytes=float(sizes[i]),
                sent_bytes=sent,
                ready_s=float(ready[i]),
                start_s=start,
                end_s=end,
                compress_s=float(times.compress_s[i]),
                exchange_s=exchange_s,
                exposed_s=max(0.0, end - max(start, backward_s)),
                busbw_bytes_per_s=sent / exchange_s if exchange_s > 0 else 0.0,
            )
        )
    return rows


def exposed_s(rows: list[BucketTime]) -> float:
    """What all buckets take beyond the end of backward."""
    return sum(row.exposed_s for row in rows)


def parameter_server_s(size_bytes: float, workers: int, servers: int, cluster: Cluster, shared: bool = False) -> float:
    """Push of every worker's gradient to sharded servers and pull of the parameters, over NICs, nothing else running.

    A server takes in workers x size / servers: with fewer servers than workers that incast is the bottleneck.
    `shared`: workers and servers are the same GPUs, and each keeps its own shard at home. ValueError for counts that
    do not go together.
    """
    if workers < 1 or servers < 1 or (shared and workers != servers):
        where = " on the same GPUs" if shared else ""
        raise ValueError(f"parameter server: {workers} workers and {servers} servers{where}")
    links = links_of(cluster)
    own_shard = 1 / servers if shared else 0.0
    into_server = workers / servers - own_shard
    out_of_worker = 1.0 - own_shard
    busiest_bytes = size_bytes * max(out_of_worker, into_server)
    transfer_s = busiest_bytes / links.nic_bytes_per_s
    seconds = 2 * (transfer_s + links.tier_latencies_s[-1])
    if seconds < 2 * transfer_s:
        raise BelowBound(f"parameter server: {seconds} s is below what the busiest NIC needs")
    return seconds
