"""PyTorch profiler traces: products, attention and collectives with their shapes, and the time of every kernel class.

Shapes need `record_shapes=True`; collectives carry theirs anyway (torch >= 2.2). Nothing else of a trace is kept:
no paths, no environment, no host names.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from validate.calibrate.classes import by_class
from validate.calibrate.points import Point

DTYPE = {"c10::bfloat16": "bf16", "c10::half": "fp16", "bfloat16": "bf16", "half": "fp16"}
PRODUCTS = ("aten::mm", "aten::addmm")
ATTENTION = {"forward": ("aten::_scaled_dot_product_flash_attention", "aten::_scaled_dot_product_cudnn_attention"),
             "backward": ("aten::_scaled_dot_product_flash_attention_backward",
                          "aten::_scaled_dot_product_cudnn_attention_backward")}  # fmt: skip
NCCL = {"allreduce": "all_reduce", "allreduce_coalesced": "all_reduce", "_allgather_base": "all_gather",
        "all_gather": "all_gather", "allgather_into_tensor_coalesced": "all_gather",
        "_reduce_scatter_base": "reduce_scatter", "reduce_scatter": "reduce_scatter",
        "all_to_all": "all_to_all", "all_to_allv": "all_to_all", "alltoall_base": "all_to_all",
        "broadcast": "broadcast"}  # fmt: skip
GPUS_PER_NODE = 8  # a trace does not tell: assumed
ELEMENT_BYTES = {"float": 4, "bfloat16": 2, "half": 2, "byte": 1, "char": 1, "int": 4, "long": 8, "double": 8,
                 "float8_e4m3fn": 1}  # fmt: skip


def kernels_of(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The GPU kernels of a trace; on a CPU its operators stand for them."""
    events = [event for event in document.get("traceEvents", []) if isinstance(event, dict) and event.get("ph") == "X"]
    kernels = [event for event in events if event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")]
    return kernels or [event for event in events if event.get("cat") == "cpu_op"]


def trace_classes(document: Mapping[str, Any]) -> dict[str, float]:
    """Seconds by kernel class."""
    return by_class((str(event.get("name", "")), float(event.get("dur", 0.0)) * 1e-6) for event in kernels_of(document))


def trace_points(document: Mapping[str, Any], name: str) -> list[Point]:
    """Points of what a trace shows with shapes: the median over equal cases."""
    gathered: dict[str, list[Point]] = defaultdict(list)
    gpu = device_of(document)
    for point in [*operator_points(document, name, gpu), *collective_points(document, name, gpu)]:
        gathered[point.key].append(point)
    return [pooled(points) for points in gathered.values()]


def pooled(points: list[Point]) -> Point:
    low, middle, high = (float(each) for each in np.quantile([point.seconds for point in points], [0.1, 0.5, 0.9]))
    first = points[0]
    return Point(
        first.family, first.dtype, first.shape, middle, low, high, len(points), source=first.source, where=first.where
    )


def device_of(document: Mapping[str, Any]) -> str:
    found = document.get("deviceProperties") or [{}]
    return str(found[0].get("name", "")) if isinstance(found[0], dict) else ""


def operator_points(document: Mapping[str, Any], name: str, gpu: str) -> Iterator[Point]:
    """Products and attention: a torch operator with its shapes, and the kernels that it launched."""
    spent: dict[Any, float] = defaultdict(float)
    events = [event for event in document.get("traceEvents", []) if isinstance(event, dict)]
    on_gpu = any(event.get("cat") == "kernel" for event in events)
    for event in events:
        if event.get("cat") == "kernel":
            spent[arguments(event).get("External id")] += float(event.get("dur", 0.0))
    for event in events:
        if event.get("cat") != "cpu_op":
            continue
        given = arguments(event)
        microseconds = spent.get(given.get("External id"), 0.0) if on_gpu else float(event.get("dur", 0.0))
        case = product_case(event) or attention_case(event)
        if case is None or microseconds <= 0:
            continue
        family, dtype, shape = case
        seconds = microseconds * 1e-6
        yield Point(
            family,
            dtype,
            shape,
            seconds,
            seconds,
            seconds,
            1,
            source=f"trace {name}",
            where={"gpu": gpu} if gpu else {},
        )


def arguments(event: Mapping[str, Any]) -> Mapping[str, Any]:
    found = event.get("args")
    return found if isinstance(found, dict) else {}


def product_case(event: Mapping[str, Any]) -> tuple[str, str, dict[str, Any]] | None:
    """m, n, k of a matrix product and its role by the layout of the operands; None without 16-bit shapes."""
    given = arguments(event)
    if event.get("name") not in PRODUCTS:
        return None
    dims, strides, types = (given.get(key) or [] for key in ("Input Dims", "Input Strides", "Input type"))
    first = 1 if event["name"] == "aten::addmm" else 0
    try:
        (m, k), (_, n) = dims[first], dims[first + 1]
        dtype = DTYPE.get(str(types[first]).lower())
        role = role_of(strides[first], strides[first + 1])
    except (IndexError, ValueError, TypeError):
        return None
    return ("gemm", dtype, {"m": int(m), "n": int(n), "k": int(k), "role": role}) if dtype and role else None


def role_of(left: Any, right: Any) -> str | None:
    """TN is a forward product, NN an input gradient, NT (left operand transposed) a weight gradient."""
    if left[0] == 1 and left[1] != 1:
        return "wgrad" if right[1] == 1 else None
    return "forward" if right[0] == 1 and right[1] != 1 else "dgrad"


def attention_case(event: Mapping[str, Any]) -> tuple[str, str, dict[str, Any]] | None:
    """Causal self-attention by its [batch, heads, length, head_dim] operands."""
    role = next((role for role, names in ATTENTION.items() if event.get("name") in names), None)
    if role is None:
        return None
    given = arguments(event)
    dims, types = given.get("Input Dims") or [], given.get("Input type") or []
    first = 1 if role == "backward" else 0
    try:
        batch, heads, length, qk_dim = dims[first]
        _, kv_heads, keys, v_dim = dims[first + 2]
        dtype = DTYPE.get(str(types[first]).lower())
        causal = "True" in [str(each) for each in given.get("Concrete Inputs") or []]
    except (IndexError, ValueError, TypeError):
        return None
    if not dtype or not causal or keys != length:
        return None
    return "attention", dtype, {"batch": batch, "seq_len": length, "heads": heads, "kv_heads": kv_heads,
                                "qk_dim": qk_dim, "v_dim": v_dim, "causal": 1, "role": role}  # fmt: skip


def collective_points(document: Mapping[str, Any], name: str, gpu: str) -> Iterator[Point]:
    """NCCL kernels with the arguments that torch's process groups leave on them; sizes as nccl-tests counts.

    In a training step a kernel's time holds the wait for late ranks: such points are upper bounds.
    """
    for event in document.get("traceEvents", []):
        if (
            not isinstance(event, dict)
            or event.get("cat") != "kernel"
            or "nccl" not in str(event.get("name", "")).lower()
        ):
            continue
        given = arguments(event)
        operation = NCCL.get(str(given.get("Collective name", "")).lower())
        element = ELEMENT_BYTES.get(str(given.get("dtype", "")).lower())
        try:
            ranks = int(given["Group size"])
            elements = max(int(given["In msg nelems"]), int(given["Out msg nelems"]))
        except (KeyError, TypeError, ValueError):
            continue
        if operation is None or element is None or ranks < 2 or elements < 1:
            continue
        seconds = float(event.get("dur", 0.0)) * 1e-6
        shape = {"operation": operation, "size_bytes": elements * element, "n_gpus": ranks, "stride": 1,
                 "n_nodes": -(-ranks // GPUS_PER_NODE), "at_once": 1}  # fmt: skip
        source = f"trace {name}, nodes of 8 assumed"
        yield Point("collective", "fp32", shape, seconds, seconds, seconds, 1, "", source, {"gpu": gpu} if gpu else {})
