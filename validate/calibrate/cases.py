"""Which cases are measured: those of the user's own scenario first, then a grid around them for the fit to stand on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from hardware.collectives import OPERATIONS
from simulator.cost.inventory import is_expert, operators, products
from simulator.cost.price import high_precision
from simulator.plans.placement import GROUP_AXES, axes
from simulator.scenario.schema import Scenario
from simulator.workload.derive import workload_of
from simulator.workload.operators import CoreAttention, Matmul, Number, Pass
from simulator.workload.shape import Shape
from validate.calibrate.points import BenchCase

# A profile's number formats by the plan's precision, as the curves of `hardware.kernels` name them.
DTYPE = {
    "fp8-delayed": "fp8",
    "fp8-tensorwise": "fp8",
    "fp8-rowwise": "fp8",
    "fp8-blockwise": "fp8_block",
    "mxfp8": "fp8_block",
}
# The kind of a memory-bound pass -> the operations of `measuring.passes` that measure it.
OPS_OF_KIND = {
    "copy": ("copy",),
    "elementwise": ("add", "swiglu", "rope"),
    "norm": ("rms_norm", "rms_norm_backward"),
    "softmax_cross_entropy": ("cross_entropy",),
    "permute": ("permute", "unpermute"),
    "cast_transpose": ("quantise",),
    "strided": ("clamp",),
    "optimizer": ("adamw",),
}
MOST_ELEMENTS = 2**31  # of one tensor in a case; larger passes take proportionally longer


@dataclass(frozen=True, slots=True)
class BenchGrid:
    """The sizes of the general sweep; on a CPU small ones serve the same code.

    `groups` are (groups, rows of each), `heads` (query size, value size, query heads over key/value heads).
    """

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
    "cuda": BenchGrid(
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
    "cpu": BenchGrid(
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


def kernel_cases(kind: str, scenario: Scenario | None, dtypes: Iterable[str] = ("bf16",)) -> list[BenchCase]:
    """All cases of kernels on a kind of device (cuda, cpu): the scenario's own first, then the grid, each once."""
    own = list(scenario_cases(scenario)) if scenario else []
    own_dtypes = [case.dtype for case in own if case.family == "gemm"]
    has_experts = any(case.family == "grouped_gemm" for case in own)
    wanted = list(dict.fromkeys([*dtypes, *own_dtypes]))
    grid = grid_cases(GRIDS[kind], wanted, experts=scenario is None or has_experts)
    return list({case.key: case for case in [*own, *grid]}.values())


# ---- what a scenario runs


def scenario_cases(scenario: Scenario) -> Iterator[BenchCase]:
    """The products, attention and passes that this scenario runs on one rank."""
    plan = scenario.plan
    high = high_precision(plan)
    low = DTYPE.get(plan.precision, high)
    workload = workload_of(scenario.model, plan, scenario.run.seq_length)
    for op in operators(workload):
        if isinstance(op, Matmul):
            yield from product_cases(op, low, high)
        elif isinstance(op, CoreAttention):
            yield from attention_cases(op, high)
        elif isinstance(op, Pass):
            yield from pass_cases(op, workload.shape, scenario.model.vocab, high)


def product_cases(op: Matmul, low: str, high: str) -> Iterator[BenchCase]:
    """The forward, input-gradient and weight-gradient products; `low` and `high` are the plan's number formats."""
    if is_expert(op):
        # Nothing groups FP8 in torch: experts in low precision are priced by the dense ratio.
        family, dtype, groups = "grouped_gemm", high, {"groups": whole(op.groups)}
    else:
        family, dtype, groups = "gemm", low if op.quantized else high, {}
    for role, m, n, k in products(op):
        shape = {"m": round(m), "n": round(n), "k": round(k), "role": role}
        yield BenchCase(family, dtype, {**shape, **groups})


def attention_cases(op: CoreAttention, dtype: str) -> Iterator[BenchCase]:
    """The kernel on this rank: with context parallelism, the home block of the ring."""
    shape = {
        "batch": whole(op.batch),
        "seq_len": whole(op.queries),
        "heads": whole(op.heads),
        "kv_heads": whole(op.kv_heads),
        "qk_dim": op.qk_dim,
        "v_dim": op.v_dim,
    }
    yield from both_directions(dtype, shape, op.causal)


def pass_cases(op: Pass, shape: Shape, vocab: int, dtype: str) -> Iterator[BenchCase]:
    """A memory-bound pass over this rank's tokens, as far as one tensor of MOST_ELEMENTS goes."""
    rows = int(min(shape.tokens, MOST_ELEMENTS // shape.hidden))
    for name in OPS_OF_KIND.get(op.kind, ()):
        width = vocab if name == "cross_entropy" else shape.hidden
        fitting = min(rows, MOST_ELEMENTS // width)
        yield BenchCase("streaming", dtype, {"op": name, "rows": fitting, "width": width})


def whole(number: Number) -> int:
    """A count of a scenario of scalars as an integer; the experts' share of a rank may be a fraction."""
    return max(1, round(float(number)))


def both_directions(dtype: str, shape: Mapping[str, Any], causal: bool = True) -> Iterator[BenchCase]:
    """Attention of one shape, forward and backward."""
    for role in ("forward", "backward"):
        yield BenchCase("attention", dtype, {**shape, "causal": int(causal), "role": role})


# ---- the general grid


def grid_cases(grid: BenchGrid, dtypes: Iterable[str], experts: bool) -> Iterator[BenchCase]:
    """The general sweep: every pair of columns and depths, rows in turn, so that each value meets each other."""
    for dtype in dtypes:
        yield from grid_products(grid, dtype)
    if experts:
        yield from grid_experts(grid)
    yield from grid_attention(grid)
    yield from grid_passes(grid)
    for size in grid.transfers_bytes:
        for direction in ("h2d", "d2h"):
            yield BenchCase("transfer", "uint8", {"size_bytes": size, "direction": direction})
    for mode in ("eager", "graph"):
        yield BenchCase("launch", "none", {"mode": mode})


def grid_products(grid: BenchGrid, dtype: str) -> Iterator[BenchCase]:
    weights = [(n, k) for n in grid.columns for k in grid.depths]
    for index, (n, k) in enumerate(weights):
        for step, role in enumerate(("forward", "dgrad", "forward", "wgrad")):
            rows = grid.rows[(index + step) % len(grid.rows)]
            yield BenchCase("gemm", dtype, product_shape(rows, n, k, role))


def grid_experts(grid: BenchGrid) -> Iterator[BenchCase]:
    for index, (groups, rows) in enumerate(grid.groups):
        for step, n in enumerate(grid.columns[:4]):
            k = grid.depths[(index + step) % len(grid.depths)]
            for role in ("forward", "dgrad", "wgrad"):
                yield BenchCase("grouped_gemm", "bf16", {**product_shape(rows, n, k, role), "groups": groups})


def product_shape(rows: int, n: int, k: int, role: str) -> dict[str, Any]:
    """The product of `rows` tokens with a weight [n, k]; a weight gradient sums over the tokens."""
    if role == "wgrad":
        return {"m": n, "n": k, "k": rows, "role": role}
    return {"m": rows, "n": n, "k": k, "role": role}


def grid_attention(grid: BenchGrid) -> Iterator[BenchCase]:
    kv_heads = 4
    for length in grid.lengths:
        batch = max(1, grid.lengths[-1] // (2 * length))
        for qk_dim, v_dim, ratio in grid.heads:
            shape = {
                "batch": batch,
                "seq_len": length,
                "heads": kv_heads * ratio,
                "kv_heads": kv_heads,
                "qk_dim": qk_dim,
                "v_dim": v_dim,
            }
            yield from both_directions("bf16", shape)


def grid_passes(grid: BenchGrid) -> Iterator[BenchCase]:
    for ops in OPS_OF_KIND.values():
        for op in ops:
            for elements in grid.elements:
                width = min(4096, elements // 256)
                yield BenchCase("streaming", "bf16", {"op": op, "rows": elements // width, "width": width})


# ---- groups of ranks


@dataclass(frozen=True, slots=True)
class GroupWanted:
    """A kind of communicator to measure: groups of `ranks` ranks, each `stride` apart, that cover the world."""

    name: str
    ranks: int
    stride: int


def groups_wanted(world: int, per_node: int, scenario: Scenario | None) -> list[GroupWanted]:
    """The groups that a plan uses as far as this machine holds them, within a node, across nodes, and everybody."""
    wanted = [GroupWanted("world", world, 1)]
    if 1 < per_node < world:
        wanted += [GroupWanted("node", per_node, 1), GroupWanted("strided", world // per_node, per_node)]
    elif world >= 4 and world % 2 == 0:
        wanted += [GroupWanted("half", world // 2, 1), GroupWanted("strided", world // 2, 2)]
    if scenario:
        wanted += plan_groups_wanted(world, scenario)
    return list({(group.ranks, group.stride): group for group in wanted}.values())


def plan_groups_wanted(world: int, scenario: Scenario) -> Iterator[GroupWanted]:
    """The groups of the scenario's plan that divide a world of so many ranks."""
    for name in ("tp", "cp", "dp_cp", "ep", "edp"):
        grid, members = GROUP_AXES[name]
        line = [axis for axis in axes(scenario.plan, grid) if axis.name in members]
        ranks = prod(axis.size for axis in line)
        stride = min(axis.stride for axis in line)
        if ranks > 1 and world % (ranks * stride) == 0:
            yield GroupWanted(name, ranks, stride)


def collective_cases(kind: str, ranks: int, stride: int, nodes: int, at_once: int) -> Iterator[BenchCase]:
    """Every operation over all sizes on one group."""
    # Nothing in a training step reduces to one rank; experts are never quite balanced.
    operations = [name for name in OPERATIONS if name != "reduce"]
    for operation in [*operations, "all_to_all_skewed"]:
        for size in GRIDS[kind].sizes_bytes:
            shape = {
                "operation": operation,
                "size_bytes": max(size, 8 * ranks),
                "n_gpus": ranks,
                "stride": stride,
                "n_nodes": nodes,
                "at_once": at_once,
            }
            yield BenchCase("collective", "fp32", shape)
