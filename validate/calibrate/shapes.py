"""Which cases are measured: those of the user's own scenario first, then a grid around them for the fit to stand on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod

from hardware.collectives import OPERATIONS
from simulator.cost.inventory import is_expert, operators, products
from simulator.cost.price import high_precision
from simulator.plan.placement import GROUP_AXES, axes
from simulator.scenario.schema import Scenario
from simulator.workload.derive import workload_of
from simulator.workload.operators import CoreAttention, Matmul, Number, Pass
from validate.calibrate.points import Case

# A profile's number formats by the plan's precision, as the curves of `hardware.kernels` name them.
DTYPE = {
    "fp8-delayed": "fp8",
    "fp8-tensorwise": "fp8",
    "fp8-rowwise": "fp8",
    "fp8-blockwise": "fp8_block",
    "mxfp8": "fp8_block",
}
OP_OF = {"copy": ("copy",), "elementwise": ("add", "swiglu", "rope"), "norm": ("rms_norm", "rms_norm_backward"),
         "softmax_cross_entropy": ("cross_entropy",), "permute": ("permute", "unpermute"),
         "cast_transpose": ("quantise",), "strided": ("clamp",), "optimizer": ("adamw",)}  # fmt: skip
MOST_ELEMENTS = 2**31  # of one tensor in a case; larger passes take proportionally longer


@dataclass(frozen=True, slots=True)
class Grid:
    """The sizes of the general sweep. On a CPU small ones serve the same code."""

    rows: tuple[int, ...]
    columns: tuple[int, ...]
    depths: tuple[int, ...]
    groups: tuple[tuple[int, int], ...]
    lengths: tuple[int, ...]
    heads: tuple[tuple[int, int, int], ...]
    elements: tuple[int, ...]
    sizes_bytes: tuple[int, ...]
    transfers_bytes: tuple[int, ...]


GRIDS = {
    "cuda": Grid(
        rows=(1024, 4096, 8192, 16384),
        columns=(1024, 2048, 4096, 7168, 16384),
        depths=(512, 2048, 4096, 8192, 18432),
        groups=((8, 256), (8, 1024), (8, 4096), (32, 128), (32, 512), (32, 2048)),
        lengths=(512, 1024, 2048, 4096, 8192, 16384, 32768),
        heads=((64, 64, 2), (128, 128, 4), (192, 128, 1)),
        elements=(2**22, 2**24, 2**26, 2**28),
        sizes_bytes=(*(8 * 4**step for step in range(16)), 2**34),
        transfers_bytes=(2**20, 2**24, 2**28),
    ),
    "cpu": Grid(
        rows=(128, 256, 512),
        columns=(128, 256, 384, 512),
        depths=(128, 256, 512),
        groups=((4, 64), (4, 128), (8, 32)),
        lengths=(128, 256, 384),
        heads=((32, 32, 2), (64, 64, 1)),
        elements=(2**14, 2**16, 2**18),
        sizes_bytes=(64, 2**13, 2**19),
        transfers_bytes=(),
    ),
}


def kernel_cases(kind: str, scenario: Scenario | None, dtypes: Iterable[str] = ("bf16",)) -> list[Case]:
    """All cases of kernels, the scenario's own first, each once."""
    own = list(scenario_cases(scenario)) if scenario else []
    wanted = list(dict.fromkeys([*dtypes, *(case.dtype for case in own if case.family == "gemm")]))
    grid = list(grid_cases(GRIDS[kind], wanted, scenario is None or any(c.family == "grouped_gemm" for c in own)))
    return list({case.key: case for case in [*own, *grid]}.values())


def scenario_cases(scenario: Scenario) -> Iterator[Case]:
    """The products, attention and passes that this scenario runs on one rank."""
    plan = scenario.plan
    low, high = DTYPE.get(plan.precision, high_precision(plan)), high_precision(plan)
    workload = workload_of(scenario.model, plan, scenario.run.seq_length)
    shape = workload.shape
    for op in operators(workload):
        if isinstance(op, Matmul):
            family = "grouped_gemm" if is_expert(op) else "gemm"
            # Nothing groups FP8 in torch: experts in low precision are priced by the dense ratio.
            dtype = low if op.quantized and family == "gemm" else high
            extra = {"groups": whole(op.groups)} if family == "grouped_gemm" else {}
            for role, m, n, k in products(op):
                yield Case(family, dtype, {"m": round(m), "n": round(n), "k": round(k), "role": role, **extra})
        elif isinstance(op, CoreAttention):
            yield from attention_cases(op, high)
        elif isinstance(op, Pass):
            rows = int(min(shape.tokens, MOST_ELEMENTS // shape.hidden))
            for name in OP_OF.get(op.kind, ()):
                width = scenario.model.vocab if name == "cross_entropy" else shape.hidden
                yield Case("streaming", high, {"op": name, "rows": min(rows, MOST_ELEMENTS // width), "width": width})


def whole(number: Number) -> int:
    """A count of a scenario of scalars as an integer; the experts' share of a rank may be a fraction."""
    return max(1, round(float(number)))


def attention_cases(op: CoreAttention, dtype: str) -> Iterator[Case]:
    """The kernel on this rank: with context parallelism, the home block of the ring."""
    sizes = (whole(op.batch), whole(op.queries), whole(op.heads), whole(op.kv_heads), op.qk_dim, op.v_dim)
    yield from both_ways(dtype, sizes, op.causal)


def both_ways(dtype: str, sizes: tuple[int, int, int, int, int, int], causal: bool = True) -> Iterator[Case]:
    """Attention forward and backward of (batch, length, heads, key/value heads, query size, value size)."""
    names = ("batch", "seq_len", "heads", "kv_heads", "qk_dim", "v_dim")
    shape = dict(zip(names, sizes, strict=True))
    for role in ("forward", "backward"):
        yield Case("attention", dtype, {**shape, "causal": int(causal), "role": role})


def grid_cases(grid: Grid, dtypes: Iterable[str], experts: bool) -> Iterator[Case]:
    """The general sweep: every pair of columns and depths, rows in turn, so that each value meets each other."""
    for dtype in dtypes:
        for index, (n, k) in enumerate((n, k) for n in grid.columns for k in grid.depths):
            for step, role in enumerate(("forward", "dgrad", "forward", "wgrad")):
                m = grid.rows[(index + step) % len(grid.rows)]
                mnk = (m, n, k) if role != "wgrad" else (n, k, m)
                yield Case("gemm", dtype, {**dict(zip("mnk", mnk, strict=True)), "role": role})
    if experts:
        yield from expert_cases(grid)
    for length in grid.lengths:
        for qk_dim, v_dim, ratio in grid.heads:
            batch = max(1, grid.lengths[-1] // (2 * length))
            yield from both_ways("bf16", (batch, length, 4 * ratio, 4, qk_dim, v_dim))
    for ops in OP_OF.values():
        for op in ops:
            for elements in grid.elements:
                width = min(4096, elements // 256)
                yield Case("streaming", "bf16", {"op": op, "rows": elements // width, "width": width})
    for size in grid.transfers_bytes:
        for direction in ("h2d", "d2h"):
            yield Case("transfer", "uint8", {"size_bytes": size, "direction": direction})
    for mode in ("eager", "graph"):
        yield Case("launch", "none", {"mode": mode})


def expert_cases(grid: Grid) -> Iterator[Case]:
    for index, (groups, rows) in enumerate(grid.groups):
        for step, n in enumerate(grid.columns[:4]):
            k = grid.depths[(index + step) % len(grid.depths)]
            for role in ("forward", "dgrad", "wgrad"):
                mnk = (rows, n, k) if role != "wgrad" else (n, k, rows)
                yield Case(
                    "grouped_gemm", "bf16", {**dict(zip("mnk", mnk, strict=True)), "groups": groups, "role": role}
                )


@dataclass(frozen=True, slots=True)
class GroupWanted:
    """A kind of communicator to measure: `ranks` ranks, `stride` apart; the first `at_once` groups run together."""

    name: str
    ranks: int
    stride: int


def groups_wanted(world: int, per_node: int, scenario: Scenario | None) -> list[GroupWanted]:
    """The groups that a plan uses as far as this machine holds them, within a node, across nodes, and everybody."""
    found = [GroupWanted("world", world, 1)]
    if 1 < per_node < world:
        found += [GroupWanted("node", per_node, 1), GroupWanted("strided", world // per_node, per_node)]
    elif world >= 4 and world % 2 == 0:
        found += [GroupWanted("half", world // 2, 1), GroupWanted("strided", world // 2, 2)]
    if scenario:
        for name in ("tp", "cp", "dp_cp", "ep", "edp"):
            grid, members = GROUP_AXES[name]
            line = [axis for axis in axes(scenario.plan, grid) if axis.name in members]
            ranks, stride = prod(axis.size for axis in line), min(axis.stride for axis in line)
            if ranks > 1 and world % (ranks * stride) == 0:
                found.append(GroupWanted(name, ranks, stride))
    return list({(each.ranks, each.stride): each for each in found}.values())


def collective_cases(kind: str, ranks: int, stride: int, nodes: int, at_once: int) -> Iterator[Case]:
    """Every operation over all sizes on one group."""
    # Nothing in a training step reduces to one rank; experts are never quite balanced.
    for operation in [*(each for each in OPERATIONS if each != "reduce"), "all_to_all_skewed"]:
        for size in GRIDS[kind].sizes_bytes:
            shape = {"operation": operation, "size_bytes": max(size, 8 * ranks), "n_gpus": ranks, "stride": stride,
                     "n_nodes": nodes, "at_once": at_once}  # fmt: skip
            yield Case("collective", "fp32", shape)
