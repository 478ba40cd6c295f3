"""Each collective algorithm as phases of flows between GPUs: what is sent by whom to whom, and how often in a row.

Summed over its flows a phase asks of the links what `algorithms` states in closed form; played on a network that is
idle it takes the closed-form time, played beside other traffic it takes what that leaves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
# Ends of a flow that are no GPU: the switch of its scale-up domain, and the network switches that reduce.
SWITCH, NETWORK = -1, -2


@dataclass(frozen=True, slots=True)
class TransferPhase:
    """Flows that run at once, `repeats` times in a row; each moves `size_bytes` from `source` to `target`.

    `scale_up_steps` and `network_steps` count the hops that wait for each other over all repeats.
    """

    source: Ints
    target: Ints
    size_bytes: Floats
    repeats: int
    scale_up_steps: float
    network_steps: float


Ranks = NDArray[np.int64]


def _grid(ranks: Ranks, g: int) -> NDArray[np.int64]:
    """(domains, GPUs of the group in each)."""
    if g < 1 or len(ranks) % g:
        raise ValueError(f"a group of {len(ranks)} ranks does not fall into domains of {g}")
    return ranks.reshape(-1, g)


def _phase(source: Ints, target: Ints, size: float, repeats: int, steps: tuple[float, float]) -> TransferPhase:
    return TransferPhase(source, target, np.full(len(source), size), repeats, *steps)


@cache
def paths_inside(g: int) -> NDArray[np.int64]:
    """(g, g) orders of the GPUs of a domain, each starting at another one. For even g no two orders share a hop, so
    that in a mesh they use every link once: c, c+1, c-1, c+2 ... (Walecki)."""
    zigzag = np.array([(i + 1) // 2 if i % 2 else -(i // 2) for i in range(g)]) if g % 2 == 0 else np.arange(g)
    return (np.arange(g)[:, None] + zigzag) % g


@cache
def rings_inside(g: int) -> NDArray[np.int64]:
    """Rings over a domain that share no hop: g - 1 of them up to 8 GPUs, found by search; none exist for 4 and 6
    (Tillson), which go round both ways. Larger domains are behind switches, where one ring is as good."""
    if g > 8 or g < 3:
        return np.arange(g)[None, :]
    if g in (4, 6):
        return np.stack([np.arange(g), -np.arange(g) % g])
    free = [[a != b for b in range(g)] for a in range(g)]
    rings: list[list[int]] = []

    def extend(path: list[int]) -> bool:
        here = path[-1]
        if len(path) == g:
            if not free[here][0]:
                return False
            free[here][0] = False
            rings.append(path)
            if len(rings) == g - 1 or begin():
                return True
            rings.pop()
            free[here][0] = True
            return False
        return any(step(path, there) for there in range(g - 1, 0, -1) if free[here][there] and there not in path)

    def step(path: list[int], there: int) -> bool:
        free[path[-1]][there] = False
        if extend([*path, there]):
            return True
        free[path[-1]][there] = True
        return False

    def begin() -> bool:
        return step([0], len(rings) + 1)

    begin()
    return np.array(rings)


def ring_orders(ranks: Ranks, g: int) -> NDArray[np.int64]:
    """(channels, n) rank orders. Across domains there are g rings; each leaves a domain on the rail by which it enters
    the next, so that every NIC carries one ring in and one out."""
    grid = _grid(ranks, g)
    k = len(grid)
    if k == 1:
        return ranks[rings_inside(g)]
    inside = paths_inside(g)
    return np.stack([grid[d][inside if d % 2 == 0 else inside[:, ::-1]] for d in range(k)], axis=1).reshape(g, -1)


def ring(operation: str, ranks: Ranks, g: int, size: float) -> list[TransferPhase]:
    orders = ring_orders(ranks, g)
    channels, n = orders.shape
    k = n // g
    passes = {"all_reduce": 2, "all_gather": 1, "reduce_scatter": 1}.get(operation)
    if passes is None:
        # A chain from the root; for reduce the same links are used the other way round.
        start = np.stack([np.roll(order, -int(np.flatnonzero(order == ranks[0])[0])) for order in orders])
        ends = (start[:, :-1].ravel(), start[:, 1:].ravel())
        source, target = ends if operation == "broadcast" else ends[::-1]
        across = float(k) if k > 1 else 0.0
        return [_phase(source, target, size / channels, 1, (n - across, across))]
    steps, across = passes * (n - 1), passes * (k - 1)
    source, target = orders.ravel(), np.roll(orders, -1, axis=1).ravel()
    return [_phase(source, target, size / n / channels, steps, (steps - across, across))]


def _binary_tree(k: int) -> list[tuple[int, int]]:
    """(child, parent) edges of NCCL's binary tree over k domains: 0 above the largest power of two, odd ones leaves."""
    edges = []
    for node in range(1, k):
        bit = node & -node
        parent = (node ^ bit) | (bit << 1)
        edges.append((node, parent if parent < k else node ^ bit))
    return edges


def double_tree(k: int) -> list[list[tuple[int, int]]]:
    """Two trees such that a domain that is inside one is a leaf of the other: mirrored for even k, shifted for odd."""
    first = _binary_tree(k)
    if k % 2 == 0:
        return [first, [(k - 1 - child, k - 1 - parent) for child, parent in first]]
    return [first, [((child + 1) % k, (parent + 1) % k) for child, parent in first]]


def _tree_edges(grid: NDArray[np.int64]) -> tuple[Ints, Ints]:
    """Network flows of both trees on every rail, up and down."""
    k = len(grid)
    pairs = np.array([edge for tree in double_tree(k) for edge in tree], dtype=np.int64).reshape(-1, 2)
    child, parent = grid[pairs[:, 0]].ravel(), grid[pairs[:, 1]].ravel()
    return np.concatenate([child, parent]), np.concatenate([parent, child])


def tree(operation: str, ranks: Ranks, g: int, size: float) -> list[TransferPhase]:
    grid = _grid(ranks, g)
    k = len(grid)
    source, target = _tree_edges(grid)
    chains = np.stack([grid[:, order] for order in paths_inside(g)])
    near, far = chains[:, :, :-1].ravel(), chains[:, :, 1:].ravel()
    depth = 2.0 * np.ceil(np.log2(k))
    return [
        TransferPhase(
            np.concatenate([source, near, far]),
            np.concatenate([target, far, near]),
            np.concatenate([np.full(len(source), size / g / 2), np.full(2 * len(near), size / g)]),
            1, 2.0 * (g - 1), float(depth),
        )
    ]  # fmt: skip


def _through_switch(ranks: Ranks, out: float, back: float) -> tuple[Ints, Ints, Floats]:
    end = np.full(len(ranks), SWITCH)
    return (np.concatenate([ranks, end]), np.concatenate([end, ranks]),
            np.concatenate([np.full(len(ranks), out), np.full(len(ranks), back)]))  # fmt: skip


def nvls(operation: str, ranks: Ranks, g: int, size: float) -> list[TransferPhase]:
    k = len(_grid(ranks, g))
    share = {"all_reduce": ((g + 1) / g, (g + 1) / g), "all_gather": (1 / g, 1.0), "reduce_scatter": (1.0, 1 / g)}
    out, back = share[operation]
    source, target, sizes = _through_switch(ranks, size * out, size * back)
    if k == 1:
        return [TransferPhase(source, target, sizes, 1, 1.0, 0.0)]
    end = np.full(len(ranks), NETWORK)
    return [
        TransferPhase(
            np.concatenate([source, ranks, end]), np.concatenate([target, end, ranks]),
            np.concatenate([sizes, np.full(2 * len(ranks), size / g)]), 1, 1.0, 1.0,
        )
    ]  # fmt: skip


def nvls_tree(operation: str, ranks: Ranks, g: int, size: float) -> list[TransferPhase]:
    grid = _grid(ranks, g)
    source, target, sizes = _through_switch(ranks, size * (g + 1) / g, size * (g + 1) / g)
    up, down = _tree_edges(grid)
    return [
        TransferPhase(
            np.concatenate([source, up]), np.concatenate([target, down]),
            np.concatenate([sizes, np.full(len(up), size / g / 2)]), 1, 1.0, 2.0 * float(np.ceil(np.log2(len(grid)))),
        )
    ]  # fmt: skip


def collnet(operation: str, ranks: Ranks, g: int, size: float) -> list[TransferPhase]:
    grid = _grid(ranks, g)
    source, target = _all_pairs(grid)
    end = np.full(len(ranks), NETWORK)
    across = 1.0 if len(grid) > 1 else 0.0
    return [
        TransferPhase(
            np.concatenate([source, ranks, end]), np.concatenate([target, end, ranks]),
            np.concatenate([np.full(len(source), 2 * size / g), np.full(2 * len(ranks), across * size / g)]),
            1, 2.0 * min(1, g - 1), across,
        )
    ]  # fmt: skip


def pat(operation: str, ranks: Ranks, g: int, size: float) -> list[TransferPhase]:
    """Step i sends what has been gathered, min(2^i, n - 2^i) parts, to the rank 2^i further on (reduce: reversed)."""
    n, across = len(ranks), len(ranks) > g
    phases, distance = [], 1
    while distance < n:
        source, target = ranks, np.roll(ranks, -distance)
        if operation == "reduce_scatter":
            source, target = target, source
        steps = (0.0, 1.0) if across else (1.0, 0.0)
        phases.append(_phase(source, target, min(distance, n - distance) * size / n, 1, steps))
        distance *= 2
    return phases


def _all_pairs(groups: NDArray[np.int64]) -> tuple[Ints, Ints]:
    """Every ordered pair of different members, row by row."""
    width = groups.shape[1]
    source, target = np.repeat(groups, width, axis=1).ravel(), np.tile(groups, (1, width)).ravel()
    return source[source != target], target[source != target]


def pairwise(operation: str, ranks: Ranks, g: int, size: float) -> list[TransferPhase]:
    n, k = len(ranks), len(_grid(ranks, g))
    if operation == "send_recv":
        inside = 1.0 if g > 1 else 0.0
        return [_phase(ranks[:1], ranks[1:2], size, 1, (inside, 1.0 - inside))]
    source, target = _all_pairs(ranks[None, :])
    return [_phase(source, target, size / n, 1, (g - 1.0, 1.0 if k > 1 else 0.0))]


def hierarchical(operation: str, ranks: Ranks, g: int, size: float) -> list[TransferPhase]:
    grid = _grid(ranks, g)
    k = len(grid)
    if operation == "all_to_all":
        inside, across = _all_pairs(grid), _all_pairs(grid.T)
        phases = [
            _phase(*across, size / k, 1, (0.0, 1.0 if k > 1 else 0.0)),
            _phase(*inside, size / g, 1, (g - 1.0, 0.0)),
        ]
        return [phase for phase in phases if len(phase.source)]
    near = _phase(*_all_pairs(grid), size / g, 1 if g > 1 else 0, (g - 1.0, 0.0))
    passes = 2 if operation == "all_reduce" else 1
    far = _phase(
        grid.ravel(), np.roll(grid, -1, axis=0).ravel(), size / g / k, passes * (k - 1), (0.0, passes * (k - 1.0))
    )
    order = {"all_reduce": [near, far, near], "all_gather": [far, near], "reduce_scatter": [near, far]}[operation]
    return [phase for phase in order if phase.repeats]


PHASES: dict[str, Callable[[str, Ranks, int, float], list[TransferPhase]]] = {
    "ring": ring, "tree": tree, "nvls": nvls, "nvls_tree": nvls_tree, "collnet": collnet, "pat": pat,
    "pairwise": pairwise, "hierarchical": hierarchical,
}  # fmt: skip


def expert_exchange(ranks: Ranks, g: int, network_bytes: float, scale_up_bytes: float) -> list[TransferPhase]:
    """DeepEP-like dispatch of balanced routing (combine sends the same the other way): each rank sends to its own
    rail in every other domain, and what arrives fans out inside; the bytes are those of `ExchangeTime`."""
    grid = _grid(ranks, g)
    k = len(grid)
    across, inside = _all_pairs(grid.T), _all_pairs(grid)
    sizes = [
        np.full(len(across[0]), network_bytes / max(1, k - 1)),
        np.full(len(inside[0]), scale_up_bytes / max(1, g - 1)),
    ]
    ends = [np.concatenate(pair) for pair in zip(across, inside, strict=True)]
    return [TransferPhase(ends[0], ends[1], np.concatenate(sizes), 1, float(g > 1), float(k > 1))]


def push_pull(workers: Ranks, servers: Ranks, size: float) -> list[TransferPhase]:
    """Parameter server: every worker pushes its gradient, a shard to each server, then pulls the parameters back.

    Workers that are servers too keep their own shard at home.
    """
    source, target = np.repeat(workers, len(servers)), np.tile(servers, len(workers))
    source, target = source[source != target], target[source != target]
    push = _phase(source, target, size / len(servers), 1, (0.0, 1.0))
    return [push, _phase(target, source, size / len(servers), 1, (0.0, 1.0))]


def matrix_exchange(ranks: Ranks, bytes_between: NDArray[np.float64]) -> list[TransferPhase]:
    """All-to-all with its own size for each pair: row i, column j is what rank i sends to rank j (MoE routing)."""
    n = len(ranks)
    if bytes_between.shape != (n, n) or np.isnan(bytes_between).any() or (bytes_between < 0).any():
        raise ValueError(
            f"routing matrix: {n} ranks need {n} x {n} sizes of zero bytes or more, not {bytes_between.shape}"
        )
    row, column = np.nonzero(bytes_between * (1 - np.eye(n)))
    return [TransferPhase(ranks[row], ranks[column], bytes_between[row, column], 1, 0.0, 1.0)]
