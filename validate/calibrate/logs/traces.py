"""PyTorch profiler traces: products, attention and collectives with their shapes, and the time of every kernel class.

Shapes need `record_shapes=True`; collectives carry theirs anyway (torch >= 2.2). Nothing else of a trace is kept:
no paths, no environment, no host names.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from validate.calibrate.logs.reading import Reading, list_in, mappings_in, number_in, refusal, whole_in
from validate.calibrate.measuring.timing import summary
from validate.calibrate.points import BenchCase, MeasuredPoint, problem_of

Event = Mapping[str, Any]
MOST_NAME = 100  # characters of a device's name
Outcome = MeasuredPoint | str  # a point, or why an event gives none
GPUS_PER_NODE = 8  # a trace does not tell: assumed
PRODUCTS = {"aten::mm": 0, "aten::addmm": 1}  # operator -> its first matrix among the operands
ATTENTION = {
    "aten::_scaled_dot_product_flash_attention": "forward",
    "aten::_scaled_dot_product_cudnn_attention": "forward",
    "aten::_scaled_dot_product_flash_attention_backward": "backward",
    "aten::_scaled_dot_product_cudnn_attention_backward": "backward",
}
COMMS = "record_param_comms"  # the operator by which torch's process groups tell the profiler of a collective
COLLECTIVE_KERNEL = re.compile(r"nccl|rccl", re.IGNORECASE)
FITTED_DTYPE = {"bfloat16": "bf16", "half": "fp16"}
OTHER_DTYPE = {"float": "fp32 (or tf32)", "double": "fp64"}
COLLECTIVES = {
    "allreduce": "all_reduce",
    "allreduce_coalesced": "all_reduce",
    "_allgather_base": "all_gather",
    "allgather": "all_gather",
    "all_gather": "all_gather",
    "allgather_into_tensor_coalesced": "all_gather",
    "_reduce_scatter_base": "reduce_scatter",
    "reduce_scatter": "reduce_scatter",
    "reduce_scatter_tensor_coalesced": "reduce_scatter",
    "all_to_all": "all_to_all",
    "all_to_allv": "all_to_all",
    "alltoall_base": "all_to_all",
    "broadcast": "broadcast",
}
ELEMENT_BYTES = {
    "float": 4,
    "bfloat16": 2,
    "half": 2,
    "byte": 1,
    "char": 1,
    "bool": 1,
    "short": 2,
    "int": 4,
    "long": 8,
    "double": 8,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    "float8_e4m3fnuz": 1,
    "float8_e5m2fnuz": 1,
}


def trace(text: str, path: Path) -> Reading:
    """The points of a trace, equal cases pooled. Raises InputError for what is no JSON."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise refusal(path, f"is not JSON: {error}") from None
    reading = Reading()
    by_key: dict[str, list[MeasuredPoint]] = defaultdict(list)
    events = events_of(document)
    where = device_of(document, events)
    operators = operator_points(events, path.name, where)
    collectives = collective_points(events, path.name, where)
    outcomes = [*operators, *collectives]
    for point in outcomes:
        if isinstance(point, str):
            reading.leave_out(point)
        elif problem_of(point):
            reading.add(point)
        else:
            by_key[point.key].append(point)
    for points in by_key.values():
        reading.add(pooled(points))
    if not outcomes:
        reading.leave_out("events, no matrix product, attention or collective among them", len(events))
    return reading


def pooled(points: list[MeasuredPoint]) -> MeasuredPoint:
    """One point of all that show the same case."""
    first = points[0]
    timing = summary([point.seconds for point in points])
    return replace(
        first,
        seconds=timing.seconds,
        low_s=timing.low_s,
        high_s=timing.high_s,
        repetitions=timing.repetitions,
    )


# ---- what a trace is made of


def events_of(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    return mappings_in(document.get("traceEvents"))


def name_of(event: Event) -> str:
    return str(event.get("name", ""))


def category(event: Event) -> str:
    """cpu_op, kernel, ...; torch before 1.13 wrote them with capitals, and operators as Operator."""
    name = str(event.get("cat", "")).lower()
    return "cpu_op" if name == "operator" else name


def seconds_of(event: Event) -> float:
    """Seconds that an event lasted; 0 where it does not tell."""
    microseconds = number_in(event.get("dur"))
    return microseconds * 1e-6 if microseconds > 0 else 0.0


def arguments(event: Event) -> Mapping[str, Any]:
    given = event.get("args")
    return given if isinstance(given, dict) else {}


def launch_id(event: Event) -> int | None:
    """What ties a kernel to the operator that launched it."""
    given = arguments(event)
    number = whole_in(given.get("External id", given.get("external id")))
    return number if number > 0 else None


def device_of(document: Mapping[str, Any], events: Iterable[Event]) -> dict[str, Any]:
    """Where points of the trace were measured: the GPU's name and memory, or a CPU where no kernel ran."""
    if not any(category(event) == "kernel" for event in events):
        return {"device": "cpu"}
    properties = (mappings_in(document.get("deviceProperties")) or [{}])[0]
    name = str(properties.get("name", ""))
    where: dict[str, Any] = {"gpu": name[:MOST_NAME]}
    memory = whole_in(properties.get("totalGlobalMem"))
    return {**where, "memory_bytes": memory} if memory > 0 else where


# ---- operators: products and attention


def operator_points(events: list[dict[str, Any]], name: str, where: Mapping[str, Any]) -> Iterator[Outcome]:
    """A point of every product and attention operator with the kernels that it launched, or why there is none."""
    kernels = [event for event in events if category(event) == "kernel"]
    kernel_s: dict[int | None, float] = defaultdict(float)
    for kernel in kernels:
        kernel_s[launch_id(kernel)] += seconds_of(kernel)
    kernel_s[None] = 0.0  # kernels that no operator launched
    backward = BackwardSpans(events)
    on_gpu = bool(kernels)
    for event in events:
        if category(event) != "cpu_op":
            continue
        if name_of(event) in PRODUCTS:
            case = product_case(event, backward.hold(event))
        elif name_of(event) in ATTENTION:
            case = attention_case(event)
        else:
            continue
        if isinstance(case, str):
            yield case
            continue
        seconds = kernel_s.get(launch_id(event), 0.0) if on_gpu else seconds_of(event)
        if seconds > 0:
            yield MeasuredPoint.logged(case, seconds, f"trace {name}", where)
        else:
            yield "operators whose kernels the trace does not hold"


class BackwardSpans:
    """The times in which autograd's engine ran, by thread."""

    def __init__(self, events: Iterable[Event]) -> None:
        self.spans: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for event in events:
            if name_of(event).startswith("autograd::engine::evaluate_function"):
                start = number_in(event.get("ts"))
                if start == start:
                    end = start + 1e6 * seconds_of(event)
                    self.spans[str(event.get("tid"))].append((start, end))
        for spans in self.spans.values():
            spans.sort()

    def hold(self, event: Event) -> bool:
        """Whether an event lies in the backward pass."""
        spans = self.spans.get(str(event.get("tid")), [])
        start = number_in(event.get("ts"))
        index = bisect_right(spans, (start, float("inf"))) - 1
        return index >= 0 and start < spans[index][1]


def product_case(event: Event, in_backward: bool) -> BenchCase | str:
    """m, n, k of a matrix product and its role by the layout of the operands; or why it cannot be used."""
    given = arguments(event)
    first = PRODUCTS[name_of(event)]
    operands = list_in(given.get("Input Dims"))[first : first + 2]
    if not any(list_in(operand) for operand in operands):
        return "matrix products without shapes, profile with record_shapes=True"
    left, right = (sizes_in(operand) for operand in (*operands, None, None)[:2])
    if len(left) != 2 or len(right) != 2 or left[1] != right[0]:
        return "matrix products whose operands are no two matrices"
    dtype = dtype_of(given, first)
    if dtype not in FITTED_DTYPE.values():
        return f"matrix products of {dtype}, where predictions rest on bf16 and fp16"
    strides = list_in(given.get("Input Strides"))[first : first + 2]
    if strides:
        role = role_of(*(sizes_in(each) for each in (*strides, None)[:2]))
    elif name_of(event) == "aten::addmm" or not in_backward:
        role = "forward"
    else:
        return "backward matrix products without strides, so of unknown role, profile with a newer torch"
    if role is None:
        return "matrix products in a layout that is no linear layer's"
    (m, k), (_, n) = left, right
    return BenchCase("gemm", dtype, {"m": m, "n": n, "k": k, "role": role})


def sizes_in(value: Any) -> list[int]:
    """The sizes or strides of one operand; empty where they are no whole numbers."""
    sizes = [whole_in(size) for size in list_in(value)]
    return [] if -1 in sizes else sizes


def dtype_of(given: Mapping[str, Any], operand: int) -> str:
    """bf16, fp16, or words for another number format or none."""
    types = list_in(given.get("Input type", given.get("Input Types")))
    if operand >= len(types) or not types[operand]:
        return "no known dtype"
    name = element_type(types[operand])
    return FITTED_DTYPE.get(name) or OTHER_DTYPE.get(name) or f"dtype {name[:20]!r}"


def element_type(value: Any) -> str:
    """A number format as torch calls it, without its namespace."""
    return re.sub(r"^(c10|at)::", "", str(value).lower())


def role_of(left: list[int], right: list[int]) -> str | None:
    """TN is a forward product, NN an input gradient, NT (left operand transposed) a weight gradient."""
    if len(left) != 2 or len(right) != 2:
        return None
    if left[0] == 1 and left[1] != 1:
        return "wgrad" if right[1] == 1 else None
    return "forward" if right[0] == 1 and right[1] != 1 else "dgrad"


def attention_case(event: Event) -> BenchCase | str:
    """Causal self-attention by its [batch, heads, length, head_dim] operands; or why it cannot be used."""
    role = ATTENTION[name_of(event)]
    given = arguments(event)
    first = 1 if role == "backward" else 0  # backward has the gradient before the operands
    operands = [sizes_in(operand) for operand in list_in(given.get("Input Dims"))]
    if not any(operands):
        return "attention without shapes, profile with record_shapes=True"
    operands = operands[first : first + 3]
    if [len(operand) for operand in operands] != [4, 4, 4]:
        return "attention whose operands have no four dimensions"
    query, _, value = operands
    dtype = dtype_of(given, first)
    if dtype not in FITTED_DTYPE.values():
        return f"attention of {dtype}, where predictions rest on bf16 and fp16"
    if "True" not in [str(each) for each in list_in(given.get("Concrete Inputs"))]:
        return "attention that is not causal, or does not tell"
    if query[2] != value[2]:
        return "attention of unequal queries and keys"
    shape = {
        "batch": query[0],
        "seq_len": query[2],
        "heads": query[1],
        "kv_heads": value[1],
        "qk_dim": query[3],
        "v_dim": value[3],
        "causal": 1,
        "role": role,
    }
    return BenchCase("attention", dtype, shape)


# ---- collectives


def collective_points(events: list[dict[str, Any]], name: str, where: Mapping[str, Any]) -> Iterator[Outcome]:
    """NCCL kernels with what torch's process groups tell of them; sizes as nccl-tests counts, or why there is none.

    In a training step a kernel's time holds the wait for late ranks: such points are upper bounds.
    """
    told_by_launch = {launch_id(event): arguments(event) for event in events if name_of(event) == COMMS}
    for event in events:
        if category(event) != "kernel" or not COLLECTIVE_KERNEL.search(name_of(event)):
            continue
        given = arguments(event)
        if "Collective name" not in given:
            given = told_by_launch.get(launch_id(event), given)
        case = collective_case(given)
        if isinstance(case, str):
            yield case
        else:
            yield MeasuredPoint.logged(case, seconds_of(event), f"trace {name}, nodes of 8 assumed", where)


def collective_case(given: Mapping[str, Any]) -> BenchCase | str:
    """Operation, bytes and ranks of a collective, or why it cannot be used."""
    elements = max(whole_in(given.get("In msg nelems")), whole_in(given.get("Out msg nelems")))
    ranks = whole_in(given.get("Group size"))
    if elements < 0 or ranks < 0 or "Collective name" not in given:
        return "collectives without sizes, which torch tells from 2.2 on"
    told = str(given["Collective name"]).lower()
    operation = COLLECTIVES.get(told)
    if operation is None:
        return f"collectives called {told[:40]!r}, which is not modelled"
    dtype = element_type(given.get("dtype", ""))
    if dtype not in ELEMENT_BYTES:
        return f"collectives of dtype {dtype[:20]!r}" if dtype else "collectives of no known dtype"
    if ranks < 2 or elements < 1:
        return "collectives of one rank or of no elements, where nothing is sent"
    shape = {
        "operation": operation,
        "size_bytes": elements * ELEMENT_BYTES[dtype],
        "n_gpus": ranks,
        "stride": 1,
        "n_nodes": -(-ranks // GPUS_PER_NODE),
        "at_once": 1,
    }
    return BenchCase("collective", "fp32", shape)


# ---- kernel classes

# First match wins. Names of CUDA and ROCm kernels, and of torch's own operators on a CPU.
KERNEL_CLASSES: dict[str, str] = {
    "communication": r"nccl|rccl|allreduce|all_?gather|reduce_scatter|all_?to_?all|deepep|c10d::",
    "attention": r"flash|fmha|attention|sdpa",
    "grouped_gemm": r"grouped|ptr_array|group_gemm",
    "gemm": r"gemm|cutlass|cublas|nvjet|xmma|matmul|aten::(mm|addmm|bmm|linear)\b|mkldnn_.*linear|Cijk_",
    "optimizer": r"adam|multi_tensor|foreach|lamb",
    "softmax_cross_entropy": r"cross_entropy|softmax|nll_loss|logsumexp|aten::(gather|scatter_add_?|exp_|amax)\b",
    "norm": r"rms_?norm|layer_?norm",
    "permute": r"permute|index|gather|scatter|sort|topk|bincount|histogram|embedding|cumsum|scan",
    "cast_transpose": r"cast|quant|transpose",
    "copy": r"memcpy|memset|copy|clone|fill|zero",
    "elementwise": r"elementwise|vectorized|triton_|aten::|silu|swiglu|rope",
}
_COMPILED = {name: re.compile(pattern, re.IGNORECASE) for name, pattern in KERNEL_CLASSES.items()}
ON_GPU = ("kernel", "gpu_memcpy", "gpu_memset")


def kernel_class(kernel: str) -> str:
    """The class of a kernel's or operator's name; "other" where no pattern fits."""
    return next((name for name, pattern in _COMPILED.items() if pattern.search(kernel)), "other")


def seconds_by_class(kernels: Iterable[tuple[str, float]]) -> dict[str, float]:
    """(name, seconds) pairs added up by class, the largest first."""
    total: dict[str, float] = defaultdict(float)
    for name, seconds in kernels:
        total[kernel_class(name)] += seconds
    return dict(sorted(total.items(), key=lambda item: -item[1]))


def trace_classes(document: Mapping[str, Any]) -> dict[str, float]:
    """Seconds by kernel class: of the GPU's kernels; on a CPU the operators stand for them."""
    complete = [event for event in events_of(document) if event.get("ph") == "X"]
    kernels = [event for event in complete if category(event) in ON_GPU]
    if not kernels:
        kernels = [event for event in complete if category(event) == "cpu_op"]
    return seconds_by_class((name_of(event), seconds_of(event)) for event in kernels)
