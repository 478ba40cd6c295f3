"""Low-rank adapters beside frozen weights (LoRA, arXiv 2106.09685): their matrices, and what freezing saves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from simulator.model.components import linears
from simulator.model.parts import Linear, Parallel
from simulator.model.spec import FFN, Attention, DenseFFN, Mixer, MoE
from simulator.plans.adapters import PROJECTIONS, WHOLE
from simulator.plans.spec import Adapters
from simulator.workload.operators import Matmul, Operator, Pass, Tensor, Work
from simulator.workload.shape import Shape

Component = Mixer | FFN
# Inputs that only the weight gradients of these matrices need; of a mixer's, any but the output projection's.
ONLY_FOR_WEIGHTS: Mapping[str, tuple[str, ...]] = {
    "qkv_input": tuple(name for name in PROJECTIONS if name.startswith(("q", "kv"))),
    "mixer_input": ("qkv_gate", "qkv_beta", "in"),
    "projection_input": ("out",),
    "fc1_input": ("fc1",),
    "fc2_input": ("fc2",),
    "router_input": ("shared_fc1",),
    "shared_fc2_input": ("shared_fc2",),
    "expert_fc1_input": ("expert_fc1",),
    "expert_fc2_input": ("expert_fc2",),
    "head_input": (),
    "mtp_projection_input": (),
}
# How tensor parallelism splits the two matrices of an adapter, as it splits the matrix that they adapt.
SPLITS: Mapping[Parallel, tuple[Parallel, Parallel]] = {
    "column": ("replicated", "column"),
    "row": ("row", "replicated"),
    "replicated": ("replicated", "replicated"),
    "expert_column": ("expert_column", "expert_column"),
    "expert_row": ("expert_row", "expert_row"),
}


def adapter_widths(component: Component, linear: Linear, targets: Iterable[str]) -> tuple[int, ...]:
    """Output widths of the adapters beside a matrix, one for each target that it holds."""
    chosen = set(targets)
    if WHOLE.get(linear.name) in chosen:
        return (linear.outputs,)
    parts = zip(PROJECTIONS.get(linear.name, ()), projection_widths(component, linear), strict=False)
    return tuple(width for word, width in parts if word in chosen and width)


def projection_widths(component: Component, linear: Linear) -> tuple[int, ...]:
    """Outputs of the projections that a matrix joins, in the order of `PROJECTIONS`."""
    if linear.name == "qkv" and isinstance(component, Attention):
        return component.projected_widths()
    if PROJECTIONS.get(linear.name) == ("gate_proj", "up_proj") and isinstance(component, DenseFFN | MoE):
        return (linear.outputs // 2,) * 2 if component.gated else (0, linear.outputs)
    return (linear.outputs,)


def adapter_linears(component: Component | None, hidden: int, adapters: Adapters) -> list[Linear]:
    """The two matrices of every adapter of a mixer or ffn; those beside one matrix stand together."""
    found = []
    for linear in linears(component, hidden):
        widths = () if component is None else adapter_widths(component, linear, adapters.targets)
        if widths:
            down_split, up_split = SPLITS[linear.parallel]
            ranks = adapters.rank * len(widths)
            name, copies = linear.name, linear.copies
            found.append(Linear(f"{name}_adapter_down", linear.inputs, ranks, down_split, copies=copies))
            found.append(Linear(f"{name}_adapter_up", adapters.rank, sum(widths), up_split, copies=copies))
    return found


def frozen(work: Work) -> Work:
    """Work whose weights are not trained: no weight gradients, no inputs kept for them, no embedding's gradient."""
    operators = tuple(_frozen(op) for op in work.operators)
    return Work(operators, tuple(tensor for tensor in work.saved if tensor.name not in ONLY_FOR_WEIGHTS))


def _frozen(op: Operator) -> Operator:
    if isinstance(op, Matmul):
        return replace(op, frozen=True)
    if isinstance(op, Pass) and op.name == "embedding":
        return replace(op, backward_bytes=0.0, backward_kernels=0)
    return op


def with_adapters(work: Work, component: Component, shape: Shape) -> Work:
    """Half a layer with frozen weights and its adapters' products, and the inputs that these need."""
    adapters = shape.plan.adapters
    if adapters is None:
        return work
    found = {linear.name: linear for linear in linears(component, shape.hidden)}
    widths = {name: adapter_widths(component, linear, adapters.targets) for name, linear in found.items()}
    adapted = {name for name, each in widths.items() if each}
    operators: list[Operator] = []
    saved = [t for t in work.saved if not _is_dropped(t.name, adapted)]
    for op in work.operators:
        operators.append(_frozen(op))
        if isinstance(op, Matmul) and op.name in adapted:
            share = sum(widths[op.name]) / found[op.name].outputs
            products = adapter_operators(op, adapters.rank, len(widths[op.name]), share, shape)
            middle_bytes = shape.element_bytes * op.groups * op.m * adapters.rank * len(widths[op.name])
            saved.append(Tensor(f"{op.name}_adapter", middle_bytes, op.modules, until_wgrad=True))
            operators += products
    return Work(tuple(operators), tuple(saved))


def _is_dropped(tensor: str, adapted: set[str]) -> bool:
    readers = ONLY_FOR_WEIGHTS.get(tensor)
    return readers is not None and adapted.isdisjoint(readers)


def adapter_operators(op: Matmul, rank: int, count: int, share: float, shape: Shape) -> list[Operator]:
    """Products down to the rank and up again in 16 bit, and the sum with the frozen matrix's output.

    `count` adapters stand beside the matrix and reach `share` of its outputs.
    """
    down = replace(op, name=f"{op.name}_adapter_down", n=rank * count, quantized=False, column=False)
    up = replace(op, name=f"{op.name}_adapter_up", n=op.n * share, k=rank, quantized=False, column=False)
    reached_bytes = shape.element_bytes * op.groups * op.m * op.n * share
    # Scaled and added: reads both and writes their sum; backward scales the gradient.
    joined = Pass(f"{op.name}_adapter_sum", "elementwise", 3 * reached_bytes, 2 * reached_bytes, modules=op.modules)
    return [down, up, joined]
