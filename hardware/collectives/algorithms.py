"""What each collective algorithm asks of the links: sequential steps, and bytes over each GPU's links per byte of size.

Sizes follow nccl-tests: all-gather and reduce-scatter count the total buffer, all-to-all one rank's send buffer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from hardware.collectives.group import Number

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
    if passes is None:
        steps, network_steps, share = n * 1.0, np.where(k > 1, k * 1.0, 0.0), 1.0
    else:
        steps, network_steps, share = passes * (n - 1), passes * (k - 1), passes * (n - 1) / n
    # With k domains one hop in every g of a ring is on the network, the others on scale-up.
    inside = np.where(k > 1, (g - 1) / g, 1.0)
    return Demand(steps - network_steps, network_steps, share * inside, np.where(k > 1, share / g, 0.0))


def _tree_network(g: Number, k: Number) -> Number:
    """Bytes per NIC of a double binary tree: a domain sends up once and down twice at half data (k = 2: once)."""
    return np.where(k > 2, 2.0, np.where(k > 1, 1.0, 0.0)) / g


def tree(operation: str, n: Number, g: Number, k: Number) -> Demand:
    """Double binary tree over domains, chains inside that start at different GPUs: up once, down once."""
    return Demand(2.0 * (g - 1), 2.0 * np.ceil(np.log2(k)), 2.0 * (g - 1) / g, _tree_network(g, k))


def _nvls_share(operation: str, g: Number) -> Number:
    """The switch pulls the whole buffer from each GPU, and each GPU multicasts its 1/g of the result."""
    return np.where(g > 1, (g + 1) / g if operation == "all_reduce" else 1.0, 0.0)


def nvls(operation: str, n: Number, g: Number, k: Number) -> Demand:
    """Scale-up switches reduce and multicast; across domains the network switches reduce (SHARP)."""
    return Demand(1.0, np.where(k > 1, 1.0, 0.0), _nvls_share(operation, g), np.where(k > 1, 1.0 / g, 0.0))


def nvls_tree(operation: str, n: Number, g: Number, k: Number) -> Demand:
    """NVLS inside each domain, double binary tree across."""
    return Demand(1.0, 2.0 * np.ceil(np.log2(k)), _nvls_share(operation, g), _tree_network(g, k))


def collnet(operation: str, n: Number, g: Number, k: Number) -> Demand:
    """Reduce-scatter and all-gather inside each domain, reduction by the network switches across (SHARP)."""
    return Demand(
        2.0 * np.minimum(1.0, g - 1.0), np.where(k > 1, 1.0, 0.0), 2.0 * (g - 1) / g, np.where(k > 1, 1.0, 0) / g
    )


def pat(operation: str, n: Number, g: Number, k: Number) -> Demand:
    """Parallel aggregated trees: log2 n steps, every byte crosses a NIC once per receiver; one GPU per domain."""
    return Demand(np.where(k > 1, 0.0, np.ceil(np.log2(n))), np.where(k > 1, np.ceil(np.log2(n)), 0.0),
                  np.where(k > 1, (g - 1) / n, (n - 1) / n), np.where(k > 1, (n - g) / n, 0.0))  # fmt: skip


def pairwise(operation: str, n: Number, g: Number, k: Number) -> Demand:
    """Every rank sends to every other directly: size/n each. send_recv: the whole size to one peer."""
    if operation == "send_recv":
        inside = np.where(g > 1, 1.0, 0.0)
        return Demand(inside, 1.0 - inside, inside, 1.0 - inside)
    return Demand(g - 1.0, np.where(k > 1, 1.0, 0.0), (g - 1) / n, (n - g) / n, n - g)


def hierarchical(operation: str, n: Number, g: Number, k: Number) -> Demand:
    """Inside each domain first and last, across domains between equal local indices (k ranks per ring).

    All-reduce: reduce-scatter, all-reduce of size/g, all-gather. All-gather, reduce-scatter: two levels.
    All-to-all: exchange across equal indices, then inside the domain.
    """
    if operation == "all_to_all":
        return Demand(g - 1.0, np.where(k > 1, 1.0, 0.0), (g - 1) / g, (k - 1) / k, k - 1.0)
    passes = 2.0 if operation == "all_reduce" else 1.0
    return Demand(passes * (g - 1), passes * (k - 1), passes * (g - 1) / g, passes * (k - 1) / n)


ALGORITHMS: dict[str, Callable[[str, Number, Number, Number], Demand]] = {
    "ring": ring, "tree": tree, "nvls": nvls, "nvls_tree": nvls_tree, "collnet": collnet, "pat": pat,
    "pairwise": pairwise, "hierarchical": hierarchical,
}  # fmt: skip
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
    # NCCL takes no hierarchical exchange of its own accord: frameworks build it from smaller groups.
    algorithms = _fixed(algorithm, offered, f"does not do {operation}", "algorithm") or offered
    algorithms = tuple(a for a in algorithms if a != "hierarchical" or asked_for(algorithm))
    protocols = _fixed(protocol, PROTOCOLS, "is none", "protocol") or PROTOCOLS
    kept = [(a, p) for a in algorithms for p in _PROTOCOLS_OF.get(a, ("Simple",)) if p in protocols]
    if not kept:
        known = sorted({p for a in algorithms for p in _PROTOCOLS_OF.get(a, ("Simple",))})
        raise ValueError(
            f"{operation}: algorithm {algorithm!r} has no protocol {protocol!r}; it has {', '.join(known)}"
        )
    return kept


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
