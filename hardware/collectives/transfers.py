"""Each collective algorithm as phases of flows between GPUs: what is sent by whom to whom, and how often in a row.

Summed over its flows a phase asks of the links what `algorithms` states in closed form; played on a network that is
idle it takes the closed-form time, played beside other traffic it takes what that leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from hardware.arrays import Floats, Ints

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


# (source, target) of flows, one entry each.
Ends = tuple[Ints, Ints]


def _grid(ranks: Ints, g: int) -> Ints:
    """(domains, GPUs of the group in each)."""
    if g < 1 or len(ranks) % g:
        raise ValueError(f"a group of {len(ranks)} ranks does not fall into domains of {g}")
    return ranks.reshape(-1, g)


def _phase(ends: Ends, size: float, repeats: int, steps: tuple[float, float]) -> TransferPhase:
    """Flows of one size; `steps` inside domains and across."""
    return _side_by_side([(ends, size)], repeats, steps)


def _side_by_side(flows: Sequence[tuple[Ends, float]], repeats: int, steps: tuple[float, float]) -> TransferPhase:
    """One phase of several sorts of flow, each with its size."""
    return TransferPhase(
        source=np.concatenate([source for (source, _), _ in flows]),
        target=np.concatenate([target for (_, target), _ in flows]),
        size_bytes=np.concatenate([np.full(len(source), size) for (source, _), size in flows]),
        repeats=repeats,
        scale_up_steps=steps[0],
        network_steps=steps[1],
    )


def _reversed(ends: Ends) -> Ends:
    source, target = ends
    return target, source


@cache
def paths_inside(g: int) -> Ints:
    """(g, g) orders of the GPUs of a domain, each starting at another one. For even g no two orders share a hop, so
    that in a mesh they use every link once: c, c+1, c-1, c+2 ... (Walecki)."""
    position = np.arange(g)
    if g % 2:
        return (position[:, None] + position) % g
    zigzag = np.where(position % 2, (position + 1) // 2, -(position // 2))
    return (position[:, None] + zigzag) % g


@cache
def rings_inside(g: int) -> Ints:
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


def ring_orders(ranks: Ints, g: int) -> Ints:
    """(channels, n) rank orders. Across domains there are g rings; each leaves a domain on the rail by which it enters
    the next, so that every NIC carries one ring in and one out."""
    grid = _grid(ranks, g)
    if len(grid) == 1:
        return ranks[rings_inside(g)]
    inside = paths_inside(g)
    back_inside = inside[:, ::-1]
    by_domain = [domain[back_inside if number % 2 else inside] for number, domain in enumerate(grid)]
    return np.stack(by_domain, axis=1).reshape(g, -1)


def ring(operation: str, ranks: Ints, g: int, size: float) -> list[TransferPhase]:
    orders = ring_orders(ranks, g)
    channels, n = orders.shape
    k = n // g
    passes = {"all_reduce": 2, "all_gather": 1, "reduce_scatter": 1}.get(operation)
    if passes is None:
        return [_chains(operation, orders, ranks[0], size / channels, g)]
    steps, network_steps = passes * (n - 1), passes * (k - 1)
    ends = (orders.ravel(), np.roll(orders, -1, axis=1).ravel())
    return [_phase(ends, size / n / channels, steps, (steps - network_steps, network_steps))]


def _chains(operation: str, orders: Ints, root: int, size: float, g: int) -> TransferPhase:
    """Broadcast along every order from the root; for reduce the same links are used the other way round."""
    n = orders.shape[1]
    k = n // g
    from_root = np.stack([np.roll(order, -int(np.flatnonzero(order == root)[0])) for order in orders])
    ends = (from_root[:, :-1].ravel(), from_root[:, 1:].ravel())
    network_steps = float(k) if k > 1 else 0.0
    return _phase(ends if operation == "broadcast" else _reversed(ends), size, 1, (n - network_steps, network_steps))


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


def _tree_ends(grid: Ints) -> Ends:
    """Network flows of both trees on every rail, up and down."""
    edges = [edge for tree in double_tree(len(grid)) for edge in tree]
    pairs = np.array(edges, dtype=np.int64).reshape(-1, 2)
    child, parent = grid[pairs[:, 0]].ravel(), grid[pairs[:, 1]].ravel()
    return np.concatenate([child, parent]), np.concatenate([parent, child])


def _tree_steps(k: int) -> float:
    """Up the tree over k domains and down again."""
    return 2.0 * float(np.ceil(np.log2(k)))


def tree(operation: str, ranks: Ints, g: int, size: float) -> list[TransferPhase]:
    grid = _grid(ranks, g)
    chains = np.stack([grid[:, order] for order in paths_inside(g)])
    along = (chains[:, :, :-1].ravel(), chains[:, :, 1:].ravel())
    flows = [(_tree_ends(grid), size / g / 2), (along, size / g), (_reversed(along), size / g)]
    return [_side_by_side(flows, 1, (2.0 * (g - 1), _tree_steps(len(grid))))]


def _to_switch(ranks: Ints, switch: int) -> Ends:
    return ranks, np.full(len(ranks), switch)


def _nvls_flows(ranks: Ints, out: float, back: float) -> list[tuple[Ends, float]]:
    """What every GPU sends to the switch of its domain, and gets from it."""
    up = _to_switch(ranks, SWITCH)
    return [(up, out), (_reversed(up), back)]


def nvls(operation: str, ranks: Ints, g: int, size: float) -> list[TransferPhase]:
    shares = {"all_reduce": ((g + 1) / g, (g + 1) / g), "all_gather": (1 / g, 1.0), "reduce_scatter": (1.0, 1 / g)}
    out, back = shares[operation]
    flows = _nvls_flows(ranks, size * out, size * back)
    if len(_grid(ranks, g)) == 1:
        return [_side_by_side(flows, 1, (1.0, 0.0))]
    up = _to_switch(ranks, NETWORK)
    flows += [(up, size / g), (_reversed(up), size / g)]
    return [_side_by_side(flows, 1, (1.0, 1.0))]


def nvls_tree(operation: str, ranks: Ints, g: int, size: float) -> list[TransferPhase]:
    grid = _grid(ranks, g)
    through_switch = size * (g + 1) / g
    flows = _nvls_flows(ranks, through_switch, through_switch)
    flows.append((_tree_ends(grid), size / g / 2))
    return [_side_by_side(flows, 1, (1.0, _tree_steps(len(grid))))]


def collnet(operation: str, ranks: Ints, g: int, size: float) -> list[TransferPhase]:
    grid = _grid(ranks, g)
    crosses = 1.0 if len(grid) > 1 else 0.0
    up = _to_switch(ranks, NETWORK)
    flows = [(_all_pairs(grid), 2 * size / g), (up, crosses * size / g), (_reversed(up), crosses * size / g)]
    return [_side_by_side(flows, 1, (2.0 * min(1, g - 1), crosses))]


def pat(operation: str, ranks: Ints, g: int, size: float) -> list[TransferPhase]:
    """Step i sends what has been gathered, min(2^i, n - 2^i) parts, to the rank 2^i further on (reduce: reversed)."""
    n = len(ranks)
    steps = (0.0, 1.0) if n > g else (1.0, 0.0)
    phases = []
    distance = 1
    while distance < n:
        ends = (ranks, np.roll(ranks, -distance))
        parts = min(distance, n - distance)
        phases.append(_phase(_reversed(ends) if operation == "reduce_scatter" else ends, parts * size / n, 1, steps))
        distance *= 2
    return phases


def _all_pairs(groups: Ints) -> Ends:
    """Every ordered pair of different members, row by row."""
    width = groups.shape[1]
    source = np.repeat(groups, width, axis=1).ravel()
    target = np.tile(groups, (1, width)).ravel()
    different = source != target
    return source[different], target[different]


def pairwise(operation: str, ranks: Ints, g: int, size: float) -> list[TransferPhase]:
    n, k = len(ranks), len(_grid(ranks, g))
    crosses = 1.0 if k > 1 else 0.0
    if operation == "send_recv":
        return [_phase((ranks[:-1], ranks[1:]), size, 1, (1.0 - crosses, crosses))]
    return [_phase(_all_pairs(ranks[None, :]), size / n, 1, (g - 1.0, crosses))]


def hierarchical(operation: str, ranks: Ints, g: int, size: float) -> list[TransferPhase]:
    grid = _grid(ranks, g)
    k = len(grid)
    inside = _all_pairs(grid)
    if operation == "all_to_all":
        crosses = 1.0 if k > 1 else 0.0
        across = _phase(_all_pairs(grid.T), size / k, 1, (0.0, crosses))
        phases = [across, _phase(inside, size / g, 1, (g - 1.0, 0.0))]
        return [phase for phase in phases if len(phase.source)]
    near = _phase(inside, size / g, 1 if g > 1 else 0, (g - 1.0, 0.0))
    passes = 2 if operation == "all_reduce" else 1
    rounds = passes * (k - 1)
    neighbours = (grid.ravel(), np.roll(grid, -1, axis=0).ravel())
    far = _phase(neighbours, size / g / k, rounds, (0.0, float(rounds)))
    order = {"all_reduce": [near, far, near], "all_gather": [far, near], "reduce_scatter": [near, far]}[operation]
    return [phase for phase in order if phase.repeats]


def recursive_doubling(operation: str, ranks: Ints, g: int, size: float) -> list[TransferPhase]:
    """All-reduce of a power of two of ranks: in every round each exchanges its whole buffer with a partner, who is
    twice as far away as in the round before; first within the domain, then on the same rail of another one."""
    position = np.arange(len(ranks))
    phases = []
    distance = 1
    while distance < len(ranks):
        partners = ranks[position ^ distance]
        steps = (1.0, 0.0) if distance < g else (0.0, 1.0)
        phases.append(_phase((ranks, partners), size, 1, steps))
        distance *= 2
    return phases


# Each takes (operation, ranks, ranks of the group per domain, size in bytes).
PHASES: dict[str, Callable[[str, Ints, int, float], list[TransferPhase]]] = {
    "ring": ring,
    "tree": tree,
    "nvls": nvls,
    "nvls_tree": nvls_tree,
    "collnet": collnet,
    "pat": pat,
    "pairwise": pairwise,
    "hierarchical": hierarchical,
}
# With the algorithms that are built from sends rather than chosen by NCCL.
SENT_PHASES = {**PHASES, "recursive_doubling": recursive_doubling}


def expert_exchange(ranks: Ints, g: int, network_bytes: float, scale_up_bytes: float) -> list[TransferPhase]:
    """DeepEP-like dispatch of balanced routing (combine sends the same the other way): each rank sends to its own
    rail in every other domain, and what arrives fans out inside; the bytes are those of `ExchangeTime`."""
    grid = _grid(ranks, g)
    k = len(grid)
    to_each_domain = network_bytes / max(1, k - 1)
    to_each_neighbour = scale_up_bytes / max(1, g - 1)
    flows = [(_all_pairs(grid.T), to_each_domain), (_all_pairs(grid), to_each_neighbour)]
    return [_side_by_side(flows, 1, (float(g > 1), float(k > 1)))]


def push_pull(workers: Ints, servers: Ints, size: float) -> list[TransferPhase]:
    """Parameter server: every worker pushes its gradient, a shard to each server, then pulls the parameters back.

    Workers that are servers too keep their own shard at home.
    """
    source = np.repeat(workers, len(servers))
    target = np.tile(servers, len(workers))
    different = source != target
    push = (source[different], target[different])
    shard = size / len(servers)
    return [_phase(ends, shard, 1, (0.0, 1.0)) for ends in (push, _reversed(push))]


def matrix_exchange(ranks: Ints, bytes_between: Floats) -> list[TransferPhase]:
    """All-to-all with its own size for each pair: row i, column j is what rank i sends to rank j (MoE routing).

    ValueError for sizes that are not n x n, or below zero.
    """
    n = len(ranks)
    if bytes_between.shape != (n, n) or np.isnan(bytes_between).any() or (bytes_between < 0).any():
        raise ValueError(
            f"routing matrix: {n} ranks need {n} x {n} sizes of zero bytes or more, not {bytes_between.shape}"
        )
    row, column = np.nonzero(bytes_between * (1 - np.eye(n)))
    return [TransferPhase(ranks[row], ranks[column], bytes_between[row, column], 1, 0.0, 1.0)]
