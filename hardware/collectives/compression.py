"""All-reduce of gradients that are compressed on the way: what is sent, and what compressing them costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from hardware.arrays import Floats, Number
from hardware.collectives.closed_form import collective_s
from hardware.collectives.group import Group
from hardware.kernels.streaming import streaming_s
from hardware.specs import Cluster

FP32_BYTES = 4
SCALE_GROUP = 128  # elements that share one fp32 scale
# Passes over the gradient that selecting the largest entries takes (assumed: histogram, threshold, compaction).
_TOPK_PASSES = 3.0
# Products of PowerSGD that read the gradient or write its estimate; at small ranks they are bound by memory.
_POWERSGD_PASSES = 3.0
_USUAL_KEEP = {"topk": 0.01, "powersgd": 4.0}


@dataclass(frozen=True, slots=True)
class Compressed:
    """Time of compressed all-reduces, one entry per gradient: its two parts, and the bytes that leave each rank."""

    compress_s: Floats
    exchange_s: Floats
    sent_bytes: Floats

    @property
    def seconds(self) -> Floats:
        return self.compress_s + self.exchange_s


def _collective_s(operation: str, size: Number, group: Group, cluster: Cluster) -> Floats:
    return np.asarray(collective_s(operation, size, group, cluster).seconds, dtype=float)


def _moved_s(size: Number, cluster: Cluster) -> Floats:
    """Seconds of kernels that read and write so many bytes."""
    return np.asarray(streaming_s(cluster.accelerator, size, "elementwise"), dtype=float)


def _round_trip(size: Floats, ranks: Number) -> Floats:
    """Bytes that leave each rank when a buffer is scattered and gathered again."""
    return np.asarray(size * 2 * (ranks - 1) / ranks)


def _plain(size: Floats, keep: float, group: Group, cluster: Cluster) -> Compressed:
    exchange_s = _collective_s("all_reduce", size, group, cluster)
    return Compressed(np.zeros_like(size), exchange_s, _round_trip(size, group.ranks))


def _small(size: Floats) -> Floats:
    """Bytes of fp32 values once each is one byte, with a scale for every group."""
    return size / FP32_BYTES * (1 + FP32_BYTES / SCALE_GROUP)


def _scattered(size: Floats, group: Group, cluster: Cluster) -> Compressed:
    """Quantised chunks are exchanged inside every domain and summed in fp32, then quantised again and exchanged
    between domains (qgZ of ZeRO++, arXiv 2306.10209): over NICs goes what is left of a domain's sum.
    """
    g, k = float(group.ranks_per_domain), float(group.domains)
    small, moved, exchange_s = _small(size), np.zeros_like(size), np.zeros_like(size)
    if g > 1:
        moved = moved + size + small + small + size / g
        exchange_s = exchange_s + _collective_s("all_to_all", small, Group(g, g), cluster)
    if k > 1:
        share, share_small = size / g, small / g
        between = replace(group, ranks=k, ranks_per_domain=1.0)
        moved = moved + share + share_small + share_small + share / k
        exchange_s = exchange_s + _collective_s("all_to_all", share_small, between, cluster)
    return Compressed(_moved_s(moved, cluster), exchange_s, _round_trip(small, group.ranks) / 2)


def _quantised(size: Floats, keep: float, group: Group, cluster: Cluster) -> Compressed:
    """One byte for four and a scale per 128: chunks are summed where they belong, quantised again and gathered."""
    ranks, small = group.ranks, _small(size)
    summed = _scattered(size, group, cluster)
    quantise_own = size / ranks + small / ranks
    expand_all = small + size
    compress_s = summed.compress_s + _moved_s(quantise_own + expand_all, cluster)
    exchange_s = summed.exchange_s + _collective_s("all_gather", small, group, cluster)
    return Compressed(compress_s, exchange_s, _round_trip(small, ranks))


def _topk(size: Floats, keep: float, group: Group, cluster: Cluster) -> Compressed:
    """The largest fraction `keep` of entries, value and index of 4 bytes each, gathered from all and added up."""
    own = size * keep * 2
    gathered = group.ranks * own
    compress_s = _moved_s(_TOPK_PASSES * size + gathered + size, cluster)
    exchange_s = _collective_s("all_gather", gathered, group, cluster)
    return Compressed(compress_s, exchange_s, np.asarray(own * (group.ranks - 1)))


def _powersgd(size: Floats, keep: float, group: Group, cluster: Cluster) -> Compressed:
    """PowerSGD of rank `keep`: a square matrix M goes as P = M Q and Q = M' P, both all-reduced in fp32."""
    side = np.sqrt(size / FP32_BYTES)
    factor = FP32_BYTES * keep * side
    compress_s = _moved_s(_POWERSGD_PASSES * size, cluster)
    exchange_s = 2 * _collective_s("all_reduce", factor, group, cluster)
    return Compressed(compress_s, exchange_s, 2 * _round_trip(factor, group.ranks))


COMPRESSIONS: dict[str, Callable[[Floats, float, Group, Cluster], Compressed]] = {
    "none": _plain,
    "fp8": _quantised,
    "int8": _quantised,
    "topk": _topk,
    "powersgd": _powersgd,
}


# fp32 remainder of every gradient, added to the next step's: what was not sent is not lost (Deep Gradient Compression,
# arXiv 1712.01887; PowerSGD, arXiv 1905.13727). Quantised gradients go without (ZeRO++, arXiv 2306.10209).
FEEDBACK_BYTES: dict[str, float] = {"topk": 4.0, "powersgd": 4.0}
# Those whose sums can be scattered: what is sent of an entry does not depend on the other ranks' entries.
SCATTERED = ("none", "fp8", "int8")


def compressed_reduce_scatter(size_bytes: Number, compression: str, group: Group, cluster: Cluster) -> Compressed:
    """Reduce-scatter of fp32 gradients of `size_bytes`, one byte for four on the way.

    ValueError for compressions whose sums cannot be scattered.
    """
    if compression not in SCATTERED:
        raise ValueError(f"compression {compression!r}: choose one of {', '.join(SCATTERED)} to scatter sums")
    size = np.asarray(size_bytes, dtype=float)
    if compression == "none":
        exchange_s = _collective_s("reduce_scatter", size, group, cluster)
        return Compressed(np.zeros_like(size), exchange_s, _round_trip(size, group.ranks) / 2)
    return _scattered(size, group, cluster)


def sent_as_if_bytes(size_bytes: float, compression: str, group: Group, cluster: Cluster, keep: float | None) -> float:
    """Bytes of uncompressed gradients whose reduction would send as much as that of `size_bytes` compressed."""
    ranks = float(group.ranks)
    if compression == "none" or ranks == 1:
        return size_bytes
    sent = compressed_all_reduce(size_bytes, compression, group, cluster, keep).sent_bytes
    return float(sent) * ranks / (2 * (ranks - 1))


def compressed_all_reduce(
    size_bytes: Number, compression: str, group: Group, cluster: Cluster, keep: float | None = None
) -> Compressed:
    """All-reduce of fp32 gradients of `size_bytes` (one, or an array of them), compressed.

    `keep` is the fraction of entries for topk (None: 0.01) and the rank for powersgd (None: 4). ValueError for other
    compressions or a `keep` that is not positive.
    """
    if compression not in COMPRESSIONS:
        raise ValueError(f"compression {compression!r}: choose one of {', '.join(COMPRESSIONS)}")
    if keep is not None and compression not in _USUAL_KEEP:
        raise ValueError(
            f"compression {compression}: nothing to keep; leave keep out, or use {' or '.join(_USUAL_KEEP)}"
        )
    if compression == "powersgd" and keep is not None and np.any(keep > np.sqrt(np.asarray(size_bytes) / FP32_BYTES)):
        raise ValueError(f"compression powersgd: rank {keep:g} is beyond the sides of the smallest gradient's matrix")
    if keep is None:
        keep = _USUAL_KEEP.get(compression, 1.0)
    if not keep > 0 or (compression == "topk" and keep > 1):
        raise ValueError(f"compression {compression}: keep must be a fraction (topk) or a rank (powersgd), not {keep}")
    size = np.asarray(size_bytes, dtype=float)
    return COMPRESSIONS[compression](size, keep, group, cluster)
