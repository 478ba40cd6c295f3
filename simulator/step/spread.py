"""How unequal a cluster is: speeds of GPUs, nodes and links, loads of experts, lengths of sequences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simulator.fields import METADATA, Setting, setting

Floats = NDArray[np.float64]
KERNEL_CLASSES = ("mixer", "ffn", "experts", "tp", "cp", "ep", "pp", "dp", "optimizer")


@dataclass(frozen=True, slots=True)
class ExpertLoad:
    """How routed tokens spread over experts.

    `exponent`: popularity of the i-th favourite falls as i^-exponent, in another random order in every layer
    (0: balanced); there are `count` experts (0: one per rank). `histogram` [layers with experts, experts]: tokens
    counted in a real run instead; layers beyond its rows take them again from the top. `tokens`: token copies that
    one expert group routes per micro-batch; their count per rank varies as a multinomial does (0: no such noise).
    """

    exponent: float = 0.0
    count: int = 0
    histogram: tuple[tuple[float, ...], ...] = ()
    tokens: float = 0.0

    def __bool__(self) -> bool:
        return bool(self.exponent or self.histogram or self.tokens)


def read_histogram(path: Path) -> tuple[tuple[float, ...], ...]:
    """Routed tokens [layers, experts] from a CSV file without header: a row per layer, a column per expert."""
    rows = [line.split(",") for line in path.read_text().splitlines() if line.strip()]
    wrong = []
    for number, row in enumerate(rows, start=1):
        if len(row) != len(rows[0]):
            wrong.append(f"line {number}: {len(row)} experts, but line 1 has {len(rows[0])}")
        bad = [cell for cell in row if not cell.strip().replace(".", "", 1).isdigit()]
        if bad:
            wrong.append(f"line {number}: {bad[0].strip()!r} is not a count of tokens")
    if wrong or not rows:
        raise ValueError(f"{path}: " + ("; ".join(wrong) or "no rows; one line of token counts per layer"))
    return tuple(tuple(float(cell) for cell in row) for row in rows)


@dataclass(frozen=True, slots=True)
class Spread:
    """Causes of inequality; the default has none.

    `gpu_sigma`: lognormal spread of GPU speed that lasts the step. `jitter`: lognormal sigma drawn anew for every
    operation, by kernel class (KERNEL_CLASSES). Both have mean 1.
    `slow_gpus`, `slow_nodes`, `slow_links`: how many times slower (>= 1) a rank's computation, all ranks of a
    node, or the network traffic of a rank is. `sequence_sigma`: lognormal spread of mixer work per micro-batch.
    """

    gpu_sigma: float = setting(0.0, Setting("Lognormal spread of GPU speed, for the whole step."))
    jitter: Mapping[str, float] = field(
        default_factory=dict,
        metadata={METADATA: Setting("Lognormal sigma drawn anew for every operation, by class of kernels.")},
    )
    slow_gpus: Mapping[int, float] = field(
        default_factory=dict,
        metadata={METADATA: Setting("How many times slower the computation of a rank is, by rank.")},
    )
    slow_nodes: Mapping[int, float] = field(
        default_factory=dict, metadata={METADATA: Setting("How many times slower all ranks of a node are, by node.")}
    )
    slow_links: Mapping[int, float] = field(
        default_factory=dict,
        metadata={METADATA: Setting("How many times slower the network traffic of a rank is, by rank.")},
    )
    experts: ExpertLoad = ExpertLoad()
    sequence_sigma: float = setting(0.0, Setting("Lognormal spread of the work of mixers, by micro-batch."))

    def causes(self) -> dict[str, Spread]:
        """Each cause that is present, alone."""
        return {
            f.name: replace(Spread(), **{f.name: getattr(self, f.name)}) for f in fields(self) if getattr(self, f.name)
        }


def mean_one(sigma: float, normal: NDArray[np.floating]) -> Floats:
    """Lognormal factors of mean 1 from standard normals."""
    computed: Floats = np.exp(sigma * normal - sigma * sigma / 2).astype(np.float64, copy=False)
    return computed


def compute_factors(spread: Spread, gpus: int, gpus_per_node: int, rng: np.random.Generator) -> Floats:
    """How many times slower than nominal each global rank computes, over the whole step [gpus]."""
    factors = mean_one(spread.gpu_sigma, rng.standard_normal(gpus)) if spread.gpu_sigma else np.ones(gpus)
    for rank, factor in spread.slow_gpus.items():
        factors[_inside(rank, gpus, factor, "slow_gpus")] *= factor
    nodes = -(-gpus // gpus_per_node)
    for node, factor in spread.slow_nodes.items():
        first = _inside(node, nodes, factor, "slow_nodes") * gpus_per_node
        factors[first : first + gpus_per_node] *= factor
    return factors


def link_factors(spread: Spread, gpus: int) -> Floats:
    """How many times slower than nominal each global rank's network traffic is [gpus]."""
    factors = np.ones(gpus)
    for rank, factor in spread.slow_links.items():
        factors[_inside(rank, gpus, factor, "slow_links")] *= factor
    return factors


def _inside(index: int, count: int, factor: float, key: str) -> int:
    if not 0 <= index < count:
        raise ValueError(f"{key}: {index} does not exist; there are 0 to {count - 1}")
    if not (np.isfinite(factor) and factor > 0):
        raise ValueError(f"{key}: {index} has factor {factor}; how many times slower, a positive number")
    return index


def expert_factors(shares: Floats, tokens: float, groups: int, rng: np.random.Generator) -> Floats:
    """Tokens that each rank of each expert group gets over the mean [groups, ep], for one layer and micro-batch.

    `shares` [ep] are those of the layer, `rng` decides the noise: multinomial counts in their normal limit.
    """
    ep = len(shares)
    if not tokens:
        return np.broadcast_to(shares * ep, (groups, ep))
    deviation = np.sqrt(shares * (1 - shares) / tokens)
    return np.maximum(0.0, shares + deviation * rng.standard_normal((groups, ep))) * ep


def rank_shares(load: ExpertLoad, layer: int, ep: int, experts: int) -> Floats:
    """Share of a layer's routed tokens that goes to each rank of an expert group [ep]; adds up to 1."""
    if load.histogram:
        counts = np.asarray(load.histogram[layer % len(load.histogram)], dtype=np.float64)
        if len(counts) % ep or counts.sum() <= 0 or (counts < 0).any():
            raise ValueError(f"expert histogram: {len(counts)} counts, not negative, must divide over ep {ep}")
        computed: Floats = counts.reshape(ep, -1).sum(axis=1) / counts.sum()
        return computed
    popularity = np.arange(1, experts + 1) ** -float(load.exponent)
    order = np.random.default_rng([layer, experts]).permutation(experts)
    drawn: Floats = popularity[order].reshape(ep, -1).sum(axis=1) / popularity.sum()
    return drawn
