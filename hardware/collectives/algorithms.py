"""What each collective algorithm asks of the links: sequential steps, and bytes over each GPU's links per byte of size.

Sizes follow nccl-tests: all-gather and reduce-scatter count the total buffer, all-to-all one rank's send buffer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from hardware.arrays import Number

OPERATIONS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "reduce", "send_recv")


class Demand(NamedTuple):
    """Steps one after another, and bytes out of the busiest GPU per byte of size, by kind of link.

    `messages` go out over the NIC without waiting for each other; each costs its posting, not a hop.
    """

    scale_up_steps: Number
    network_steps: Number
    scale_up: Number
    network: Number
    messages: Number = 0.0


def ring(operation: str, n: Number, g: Number, k: Number) -> Demand:
    """Chunks go round all n ranks; on k domains each of the g rings leaves a domain through its own NIC.

    All-reduce 2(n-1) steps and 2(n-1)/n of the size; all-gather and reduce-scatter half of that; broadcast
    and reduce stream the whole buffer along n ranks (textbook; NCCL tuning.cc for the steps).
    """
    passes = {"all_reduce": 2.0, "all_gather": 1.0, "reduce_scatter": 1.0}.get(operation)
    steps: Number
    network_steps: Number
    share: Number
    if passes is None:
        steps = n * 1.0
        network_steps = np.where(k > 1, k * 1.0, 0.0)
        share = 1.0
    else:
        steps = passes * (n - 1)
        network_steps = passes * (k - 1)
        share = passes * (n - 1) / n
    # With k domains one hop in every g of a ring is on the network, the others on scale-up.
    hops_inside = np.where(k > 1, (g - 1) / g, 1.0)
    return Demand(
        scale_up_steps=steps - network_steps,
        network_steps=network_steps,
        scale_up=share * hops_inside,
        network=np.where(k > 1, share / g, 0.0),
    )


def _tree_network(g: Number, k: Number) -> Number:
    """Bytes per NIC of a double binary tree: a domain sends up once and down twice at half data (k = 2: once)."""
    sends = np.where(k > 2, 2.0, np.where(k > 1, 1.0, 0.0))
    return sends / g


def _tree_depth(k: Number) -> Number:
    return np.ceil(np.log2(k))


def tree(operation: str, n: Number, g: Number, k: Number) -> Demand:
    """Double binary tree over domains, chains inside that start at different GPUs: up once, down once."""
    return Demand(
        scale_up_steps=2.0 * (g - 1),
        network_steps=2.0 * _tree_depth(k),
        scale_up=2.0 * (g - 1) / g,
        network=_tree_network(g, k),
    )


def _nvls_share(operation: str, g: Number) -> Number:
    """The switch pulls the whole buffer from each GPU, and each GPU multicasts its 1/g of the result."""
    share = (g + 1) / g if operation == "all_reduce" else 1.0
    return np.where(g > 1, share, 0.0)


def nvls(operation: str, n: Number, g: Number, k: Number) -> Demand:
    """Scale-up switches reduce and multicast; across domains the network switches reduce (SHARP)."""
    crosses = np.where(k > 1, 1.0, 0.0)
    return Demand(
        scale_up_steps=1.0,
        network_steps=crosses,
        scale_up=_nvls_share(operation, g),
        network=crosses / g,
    )


def nvls_tree(operation: str, n: Number, g: Number, k: Number) -> Demand:
    """NVLS inside each domain, double binary tree across."""
    return Demand(
        scale_up_steps=1.0,
        network_steps=2.0 * _tree_depth(k),
        scale_up=_nvls_share(operation, g),
        network=_tree_network(g, k),
    )


def collnet(operation: str, n: Number, g: Number, k: Number) -> Demand:
    """Reduce-scatter and all-gather inside each domain, reduction by the network switches across (SHARP)."""
    crosses = np.where(k > 1, 1.0, 0.0)
    return Demand(
        scale_up_steps=2.0 * np.minimum(1.0, g - 1.0),
        network_steps=crosses,
        scale_up=2.0 * (g - 1) / g,
        network=crosses / g,
    )


def pat(operation: str, n: Number, g: Number, k: Number) -> Demand:
    """Parallel aggregated trees: log2 n steps, every byte crosses a NIC once per receiver; one GPU per domain."""
    steps = np.ceil(np.log2(n))
    return Demand(
        scale_up_steps=np.where(k > 1, 0.0, steps),
        network_steps=np.where(k > 1, steps, 0.0),
        scale_up=np.where(k > 1, (g - 1) / n, (n - 1) / n),
        network=np.where(k > 1, (n - g) / n, 0.0),
    )


def pairwise(operation: str, n: Number, g: Number, k: Number) -> Demand:
    """Every rank sends to every other directly: size/n each.

    send_recv: the whole size to the next rank, all at once; from the last one of a domain into another.
    """
    if operation == "send_recv":
        crosses = np.where(k > 1, 1.0, 0.0)
        inside = np.where(g > 1, 1.0, 0.0)
        return Demand(scale_up_steps=1.0 - crosses, network_steps=crosses, scale_up=inside, network=crosses)
    return Demand(
        scale_up_steps=g - 1.0,
        network_steps=np.where(k > 1, 1.0, 0.0),
        scale_up=(g - 1) / n,
        network=(n - g) / n,
        messages=n - g,
    )


def hierarchical(operation: str, n: Number, g: Number, k: Number) -> Demand:
    """Inside each domain first and last, across domains between equal local indices (k ranks per ring).

    All-reduce: reduce-scatter, all-reduce of size/g, all-gather. All-gather, reduce-scatter: two levels.
    All-to-all: exchange across equal indices, then inside the domain.
    """
    if operation == "all_to_all":
        return Demand(
            scale_up_steps=g - 1.0,
            network_steps=np.where(k > 1, 1.0, 0.0),
            scale_up=(g - 1) / g,
            network=(k - 1) / k,
            messages=k - 1.0,
        )
    passes = 2.0 if operation == "all_reduce" else 1.0
    return Demand(
        scale_up_steps=passes * (g - 1),
        network_steps=passes * (k - 1),
        scale_up=passes * (g - 1) / g,
        network=passes * (k - 1) / n,
    )


# Each takes (operation, ranks n, ranks per domain g, domains k); numbers may be arrays that broadcast.
ALGORITHMS: dict[str, Callable[[str, Number, Number, Number], Demand]] = {
    "ring": ring,
    "tree": tree,
    "nvls": nvls,
    "nvls_tree": nvls_tree,
    "collnet": collnet,
    "pat": pat,
    "pairwise": pairwise,
    "hierarchical": hierarchical,
}
PROTOCOLS = ("LL", "LL128", "Simple")
_PROTOCOLS_OF = {"ring": PROTOCOLS, "tree": PROTOCOLS, "pairwise": ("LL", "Simple")}
_OFFERED = {
    "all_reduce": ("ring", "tree", "nvls", "nvls_tree", "collnet", "hierarchical"),
    "all_gather": ("ring", "nvls", "pat", "hierarchical"),
    "reduce_scatter": ("ring", "nvls", "pat", "hierarchical"),
    "all_to_all": ("pairwise", "hierarchical"),
    "broadcast": ("ring",),
    "reduce": ("ring",),
    "send_recv": ("pairwise",),
}


def candidates(operation: str, algorithm: str | None = None, protocol: str | None = None) -> list[tuple[str, str]]:
    """The (algorithm, protocol) pairs that exist for an operation, or those left after fixing one or both.

    Both are fixed as NCCL_ALGO and NCCL_PROTO do it: one name, several with commas, or all but those after a ^.
    ValueError names what is wrong and what could be asked instead.
    """
    if operation not in _OFFERED:
        raise ValueError(f"operation {operation!r}: choose one of {', '.join(OPERATIONS)}")
    offered = _OFFERED[operation]
    algorithms = _fixed(algorithm, offered, f"does not do {operation}", "algorithm") or offered
    # NCCL takes no hierarchical exchange of its own accord: frameworks build it from smaller groups.
    if not asked_for(algorithm):
        algorithms = tuple(name for name in algorithms if name != "hierarchical")
    protocols = _fixed(protocol, PROTOCOLS, "is none", "protocol") or PROTOCOLS
    existing = [(name, each) for name in algorithms for each in protocols_of(name)]
    chosen = [(name, each) for name, each in existing if each in protocols]
    if not chosen:
        known = ", ".join(sorted({each for _, each in existing}))
        raise ValueError(f"{operation}: algorithm {algorithm!r} has no protocol {protocol!r}; it has {known}")
    return chosen


def protocols_of(algorithm: str) -> tuple[str, ...]:
    return _PROTOCOLS_OF.get(algorithm, ("Simple",))


def asked_for(algorithm: str | None) -> bool:
    """Whether a setting names what shall run, rather than nothing or what shall not."""
    return algorithm is not None and not algorithm.startswith("^")


def _fixed(setting: str | None, offered: tuple[str, ...], wrong: str, kind: str) -> tuple[str, ...]:
    """The names that a setting leaves of those offered; none without a setting."""
    if setting is None:
        return ()
    names = setting.removeprefix("^").split(",")
    for name in names:
        if name not in offered:
            raise ValueError(f"{kind} {name!r} {wrong}: choose one of {', '.join(offered)}")
    return tuple(name for name in offered if (name in names) == asked_for(setting))
