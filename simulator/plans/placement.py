"""Where ranks stand: rank to coordinates, process groups, and how a group lies on nodes and scale-up domains.

Two grids share the ranks (Megatron-Core's folding): the dense grid tp x cp x dp x pp and the expert grid
etp x ep x edp x pp. The order string names the axes, fastest first; ranks fill nodes and domains in sequence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from hardware.collectives import Group
from hardware.collectives.group import spacing_gpus
from hardware.specs import Cluster
from hardware.wiring import reaches_gpus
from simulator.plans.spec import Plan

IntArray = np.ndarray
DENSE = ("tp", "cp", "dp", "pp")
EXPERT = ("etp", "ep", "edp", "pp")
_ORDER_TOKENS = {
    "dense": {"tp": "tp", "cp": "cp", "dp": "dp", "pp": "pp"},
    "expert": {"tp": "etp", "ep": "ep", "dp": "edp", "pp": "pp"},
}

GROUP_AXES: dict[str, tuple[str, tuple[str, ...]]] = {
    "tp": ("dense", ("tp",)),
    "cp": ("dense", ("cp",)),
    "dp": ("dense", ("dp",)),
    "pp": ("dense", ("pp",)),
    "tp_cp": ("dense", ("tp", "cp")),
    "dp_cp": ("dense", ("cp", "dp")),
    "tp_dp_cp": ("dense", ("tp", "cp", "dp")),
    "tp_pp": ("dense", ("tp", "pp")),
    "etp": ("expert", ("etp",)),
    "ep": ("expert", ("ep",)),
    "edp": ("expert", ("edp",)),
    "tp_ep": ("expert", ("etp", "ep")),
    "tp_ep_pp": ("expert", ("etp", "ep", "pp")),
}


@dataclass(frozen=True, slots=True)
class Axis:
    """One parallel dimension on the rank line: `size` ranks, `stride` ranks apart."""

    name: str
    size: int
    stride: int


@dataclass(frozen=True, slots=True)
class Coordinates:
    """Position of a rank (or an array of ranks) in both grids."""

    tp: int | IntArray
    cp: int | IntArray
    dp: int | IntArray
    pp: int | IntArray
    etp: int | IntArray
    ep: int | IntArray
    edp: int | IntArray


@dataclass(frozen=True, slots=True)
class GroupSpan:
    """How the groups of one kind lie on equal blocks of consecutive ranks (nodes or scale-up domains).

    `smallest` and `largest` are the fewest and most ranks of one group in a block it touches, `blocks` the most
    blocks one group touches, `groups_per_block` the most groups that touch one block; `even` where all groups agree.
    """

    smallest: int
    largest: int
    blocks: int
    groups_per_block: int

    @property
    def even(self) -> bool:
        return self.smallest == self.largest


@dataclass(frozen=True, slots=True)
class GroupGeometry:
    """A process group as the network sees it; where groups differ, the worst of them.

    `ranks_per_domain` and `ranks_per_node` are the fewest ranks that a group keeps together on a domain or node it
    touches, `domains` and `nodes` how many it touches; `groups_per_node` how many groups of this kind meet on one
    node and share its NICs; `aligned` says that every group lies alike and fills its share of each domain evenly.
    """

    kind: str
    ranks: int
    strides: tuple[int, ...]
    ranks_per_domain: int
    domains: int
    ranks_per_node: int
    nodes: int
    groups_per_node: int
    aligned: bool


def axes(plan: Plan, grid: str) -> tuple[Axis, ...]:
    """The axes of the "dense" or "expert" grid, fastest first. Raises ValueError for a bad order string."""
    names = _ORDER_TOKENS[grid]
    tokens = plan.rank_order.split("-")
    if sorted(tokens) != ["cp", "dp", "ep", "pp", "tp"]:
        raise ValueError(f"rank_order {plan.rank_order!r}: must name tp, cp, ep, dp and pp once each, joined by '-'")
    sizes = {"tp": plan.tp, "cp": plan.cp, "dp": plan.dp, "pp": plan.pp, "etp": plan.etp, "ep": plan.ep}
    result, stride = [], 1
    for token in tokens:
        if token not in names:
            continue
        name = names[token]
        size = plan.expert_dp if name == "edp" else sizes[name]
        result.append(Axis(name, size, stride))
        stride *= size
    if stride != plan.gpus:
        raise ValueError(f"{grid} grid holds {stride} ranks, the plan {plan.gpus}: ep x etp must divide tp x cp x dp")
    return tuple(result)


def coordinates(plan: Plan, rank: int | IntArray) -> Coordinates:
    """Position of `rank` (a scalar or an array of any shape) in the dense and the expert grid."""
    found = {axis.name: rank // axis.stride % axis.size for grid in ("expert", "dense") for axis in axes(plan, grid)}
    return Coordinates(**found)


def rank_of(
    plan: Plan, *, tp: int | IntArray = 0, cp: int | IntArray = 0, dp: int | IntArray = 0, pp: int | IntArray = 0
) -> int | IntArray:
    """The rank at a position of the dense grid; scalars or broadcastable arrays."""
    position = {"tp": tp, "cp": cp, "dp": dp, "pp": pp}
    return sum(position[axis.name] * axis.stride for axis in axes(plan, "dense"))


def groups(plan: Plan, kind: str) -> IntArray:
    """Ranks of every process group of a kind, shape (n_groups, size), in Megatron-Core's order.

    `kind` is a key of GROUP_AXES or "embedding": first and last pipeline rank of each pipeline.
    """
    if kind == "embedding":
        pipelines = groups(plan, "pp")
        return pipelines[:, [0, -1]] if plan.pp > 1 else pipelines
    grid, members = _group_axes(kind)
    line = axes(plan, grid)
    ranks = np.arange(plan.gpus).reshape([axis.size for axis in reversed(line)])
    inner = [i for i, axis in enumerate(reversed(line)) if axis.name in members]
    outer = [i for i, axis in enumerate(reversed(line)) if axis.name not in members]
    size = math.prod(axis.size for axis in line if axis.name in members)
    return ranks.transpose(outer + inner).reshape(-1, size)


def _group_axes(kind: str) -> tuple[str, tuple[str, ...]]:
    if kind not in GROUP_AXES:
        raise ValueError(f"group kind {kind!r} is none of {', '.join(GROUP_AXES)}, embedding")
    return GROUP_AXES[kind]


def geometry(plan: Plan, kind: str, cluster: Cluster) -> GroupGeometry:
    """How the groups of a kind lie on the cluster, without listing all ranks. `kind`: a key of GROUP_AXES."""
    grid, members = _group_axes(kind)
    line = tuple((axis.size, axis.stride, axis.name in members) for axis in axes(plan, grid))
    domain = spread(line, min(cluster.node.scale_up.domain_gpus, plan.gpus))
    node = spread(line, min(cluster.node.gpus, plan.gpus))
    inside = [axis for axis in line if axis[2]]
    return GroupGeometry(
        kind=kind,
        ranks=math.prod(size for size, _, _ in inside),
        strides=tuple(stride for _, stride, _ in inside),
        ranks_per_domain=domain.smallest,
        domains=domain.blocks,
        ranks_per_node=node.smallest,
        nodes=node.blocks,
        groups_per_node=node.groups_per_block,
        aligned=domain.even and node.even,
    )


def process_group(plan: Plan, kind: str, cluster: Cluster) -> Group:
    """The groups of a kind as `hardware.collectives` prices them; where groups differ, the one in most domains.

    Exact for groups over several axes and for groups that straddle domains or blocks of the fabric.
    """
    grid, members = _group_axes(kind)
    line = tuple((axis.size, axis.stride, axis.name in members) for axis in axes(plan, grid))
    ranks = math.prod(size for size, _, inside in line if inside)
    per_domain = ranks / spread(line, min(cluster.node.scale_up.domain_gpus, plan.gpus)).blocks
    reaches = reaches_gpus(cluster.node, cluster.fabric)
    blocks = [spread(line, min(reach, plan.gpus)) for reach in reaches]
    tier = next((index for index, block in enumerate(blocks) if block.blocks == 1), max(len(blocks) - 1, 0))
    below = [float(max(1, block.smallest // per_domain)) for block in blocks[:tier]]
    stride = min((step for size, step, inside in line if inside and size > 1), default=1)
    spacing = float(spacing_gpus(cluster, per_domain, stride))
    return Group(
        ranks=float(ranks),
        ranks_per_domain=per_domain,
        tier=tier,
        domains_per_block=below[-1] if below else 1.0,
        spacing_gpus=spacing,
        lower_blocks=tuple(below[:-1]),
    )


@lru_cache(maxsize=4096)
def spread(line: tuple[tuple[int, int, bool], ...], block: int) -> GroupSpan:
    """How groups over the marked axes of `line` (size, stride, in the group) lie on blocks of `block` ranks.

    Exact: a group is one set of offsets shifted by a base, and how it falls on blocks depends on the base modulo
    the block only.
    """
    members = math.prod(size for size, _, inside in line if inside)
    period = max((size * stride for size, stride, inside in line if inside and size > 1), default=1)
    if block % period == 0:
        # Groups lie in aligned windows of one period, and blocks are whole windows.
        return GroupSpan(members, members, 1, _groups_per_block(line, block, True, members))
    offsets, residues = np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64)
    for size, stride, inside in line:
        if inside:
            offsets = (stride * np.arange(size)[:, None] + offsets).ravel()
        else:
            steps = min(size, block // math.gcd(stride, block))
            residues = np.unique((residues[:, None] + stride * np.arange(steps)) % block)
    smallest, largest, blocks = len(offsets), 0, 0
    for base in residues:
        counts = np.bincount((offsets + base) // block)
        counts = counts[counts > 0]
        smallest, largest = min(smallest, int(counts.min())), max(largest, int(counts.max()))
        blocks = max(blocks, len(counts))
    return GroupSpan(smallest, largest, blocks, _groups_per_block(line, block, smallest == largest, largest))


def _groups_per_block(line: tuple[tuple[int, int, bool], ...], block: int, even: bool, count: int) -> int:
    world = math.prod(size for size, _, _ in line)
    if even and world % block == 0:
        return block // count
    period = math.lcm(block, max((size * stride for size, stride, inside in line if inside), default=1))
    size = min(period, world)
    ranks = np.minimum(np.arange(-(-size // block) * block), size - 1).reshape(-1, block)
    group = np.zeros_like(ranks)
    for axis_size, stride, inside in line:
        if not inside:
            group += ranks // stride % axis_size * stride
    group.sort(axis=1)
    return 1 + int((np.diff(group, axis=1) != 0).sum(axis=1).max())
