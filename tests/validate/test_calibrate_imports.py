"""Logs as points: nccl-tests text and JSON, PyTorch traces, published tables; what is private never leaves the log."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from hardware.problems import InputError
from validate.calibrate.logs.read import read_log
from validate.calibrate.logs.traces import kernel_class, trace_classes
from validate.calibrate.measuring.group_sweep import BUS_FACTOR, bus_bandwidth
from validate.calibrate.points import MeasuredPoint, line_of

# Laid out as nccl-tests prints it; times as in its published sample for 8 H100 (13.67 us at 8 B).
TEXT = """# nccl-tests version 2.17.1 nccl-headers=22703 nccl-library=22703
# Collective test starting: all_reduce_perf
# nThread 1 nGpus 1 minBytes 8 maxBytes 33554432 step: 2(factor) warmup iters: 5 iters: 20
#
# Using devices
{devices}
#
#                                                              out-of-place                       in-place
#       size         count      type   redop    root     time   algbw   busbw  #wrong     time   algbw   busbw  #wrong
#        (B)    (elements)                               (us)  (GB/s)  (GB/s)             (us)  (GB/s)  (GB/s)
           8             2     float     sum      -1    13.67    0.00    0.00       0    13.03    0.00    0.00       0
    33554432       8388608     float     sum      -1   163.10  205.73  360.02       0   162.20  206.87  362.02    N/A
# Out of bounds values : 0 OK
# Avg bus bandwidth    : 180.01
# Collective test concluded: all_reduce_perf
"""
DEVICE = "#  Rank {rank:2d} Group  0 Pid  12345 on {host} device  {slot} [0000:{slot:02x}:00] NVIDIA H100 80GB HBM3"


def text(ranks: int = 8, per_node: int = 8) -> str:
    lines = [DEVICE.format(rank=r, host=f"secret-host-{r // per_node}", slot=r % per_node) for r in range(ranks)]
    return TEXT.format(devices="\n".join(lines))


def document(ranks: int = 8, per_node: int = 8) -> dict[str, Any]:
    """As `-J` writes it: the whole environment stands in it."""
    devices = [
        {
            "rank": r,
            "group": 0,
            "pid": 77,
            "hostname": f"secret-host-{r // per_node}",
            "device": r,
            "device_info": "NVIDIA H200",
        }
        for r in range(ranks)
    ]
    timed = {"time": 163.1, "alg_bw": 205.73, "bus_bw": 360.02, "nwrong": 0.0}
    return {
        "version": 3,
        "start_time": "2026-01-01",
        "args": ["/home/secret-user/build/alltoall_perf", "-J", "x.json"],
        "env": ["AWS_SECRET_ACCESS_KEY=hunter2", "USER=secret-user"],
        "nccl_version": 22703,
        "config": {"nthreads": 1, "ngpus": 1, "devices": devices},
        "results": [
            {
                "size": 33554432,
                "count": 8388608,
                "type": "float",
                "redop": "sum",
                "root": "-1",
                "out_of_place": timed,
                "in_place": timed,
                "actual_iterations": 20,
                "experiment_name": "AlltoAll",
            }
        ],
    }


def logged(path: Path) -> list[MeasuredPoint]:
    return list(read_log(path).points.values())


def written(tmp_path: Path, name: str, content: str | dict) -> Path:
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_nccl_text(tmp_path: Path) -> None:
    points = logged(written(tmp_path, "run.log", text()))
    assert [p.shape["size_bytes"] for p in points] == [8, 33554432]
    assert [p.seconds for p in points] == pytest.approx([13.67e-6, 163.1e-6])
    assert {(p.shape["operation"], p.shape["n_gpus"], p.shape["n_nodes"]) for p in points} == {("all_reduce", 8, 1)}
    assert points[0].where == {"gpu": "NVIDIA H100 80GB HBM3", "nccl": "2.27.3"}


def test_bandwidths_are_those_that_nccl_tests_printed(tmp_path: Path) -> None:
    large = logged(written(tmp_path, "run.log", text()))[-1]
    algbw, busbw = bus_bandwidth("all_reduce", large.shape["size_bytes"], 8, large.seconds)
    assert (algbw / 1e9, busbw / 1e9) == pytest.approx((205.73, 360.02), rel=1e-3)
    assert BUS_FACTOR["all_gather"](4) == BUS_FACTOR["all_to_all"](4) == 0.75


def test_nodes_are_counted_by_their_hosts(tmp_path: Path) -> None:
    assert logged(written(tmp_path, "run.log", text(16, 8)))[0].shape["n_nodes"] == 2


def test_a_text_without_the_program_is_named_by_its_file(tmp_path: Path) -> None:
    bare = text().replace("Collective test starting: all_reduce_perf", "").replace("concluded: all_reduce_perf", "")
    with pytest.raises(InputError, match="which collective"):
        logged(written(tmp_path, "run.log", bare))
    assert logged(written(tmp_path, "reduce_scatter.log", bare))[0].shape["operation"] == "reduce_scatter"


def test_nccl_json(tmp_path: Path) -> None:
    (point,) = logged(written(tmp_path, "x.json", document(16, 8)))
    assert point.shape["operation"] == "all_to_all"
    assert (point.shape["n_gpus"], point.shape["n_nodes"]) == (16, 2)
    assert point.seconds == pytest.approx(163.1e-6)


@pytest.mark.parametrize("content", [text(), document()], ids=["text", "json"])
def test_what_is_private_is_dropped(tmp_path: Path, content: str | dict) -> None:
    kept = "".join(line_of(point) for point in logged(written(tmp_path, "all_reduce.log", content)))
    for word in ("secret", "hunter2", "12345", "AWS", "Pid"):
        assert word not in kept


@pytest.mark.parametrize(
    "change",
    [lambda d: d.pop("config"), lambda d: d.update(results=[{"size": "x"}]), lambda d: d.update(results=3)],
)
def test_a_broken_json_is_refused(tmp_path: Path, change: Any) -> None:
    broken = document()
    change(broken)
    with pytest.raises(InputError, match="nccl-tests"):
        logged(written(tmp_path, "x.json", broken))


@pytest.mark.parametrize(
    ("name", "content"), [("a.txt", "hello"), ("b.json", "{}"), ("c.csv", "a,b\n1,2\n"), ("d.gz", "x")]
)
def test_a_file_that_is_no_log_is_refused(tmp_path: Path, name: str, content: str) -> None:
    with pytest.raises(InputError, match=name):
        logged(written(tmp_path, name, content))


def test_no_measurement_in_a_log_is_refused(tmp_path: Path) -> None:
    empty = document()
    empty["results"][0]["out_of_place"] = {"time": 0.0}
    with pytest.raises(InputError, match="no measurement"):
        logged(written(tmp_path, "x.json", empty))


# ---- traces


def cpu_trace(tmp_path: Path) -> Path:
    """A real trace of two products, forward and weight gradient, with shapes."""
    torch = pytest.importorskip("torch")
    from torch.profiler import ProfilerActivity, profile

    x, w = torch.randn(64, 32, dtype=torch.bfloat16), torch.randn(128, 32, dtype=torch.bfloat16)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True, acc_events=True) as run:
        y = x @ w.t()
        y.t() @ x
        torch.softmax(y, -1)
    path = tmp_path / "trace.json"
    run.export_chrome_trace(str(path))
    return path


def seconds_of_products(path: Path) -> list[float]:
    events = json.loads(path.read_text())["traceEvents"]
    return [1e-6 * event["dur"] for event in events if event.get("name") == "aten::mm"]


def test_products_of_a_real_trace(tmp_path: Path) -> None:
    path = cpu_trace(tmp_path)
    points = logged(path)
    shapes = {(p.shape["role"], p.shape["m"], p.shape["n"], p.shape["k"]) for p in points if p.family == "gemm"}
    assert shapes == {("forward", 64, 128, 32), ("wgrad", 128, 32, 64)}
    assert sorted(p.seconds for p in points) == pytest.approx(sorted(seconds_of_products(path)))


def test_a_packed_trace_is_the_same(tmp_path: Path) -> None:
    path = cpu_trace(tmp_path)
    packed = tmp_path / "packed.json.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert {p.key for p in logged(packed)} == {p.key for p in logged(path)}


def gpu_trace() -> dict[str, Any]:
    """The events that torch's profiler writes for a GPU: an operator with shapes, its kernel, and a collective's."""
    operator = {
        "ph": "X",
        "cat": "cpu_op",
        "name": "aten::mm",
        "ts": 1.0,
        "dur": 9.0,
        "args": {
            "External id": 7,
            "Input type": ["c10::BFloat16", "c10::BFloat16"],
            "Input Dims": [[4096, 1024], [1024, 2048]],
            "Input Strides": [[1024, 1], [1, 1024]],
        },
    }
    attention = {
        "ph": "X",
        "cat": "cpu_op",
        "name": "aten::_scaled_dot_product_flash_attention",
        "ts": 1.0,
        "dur": 9.0,
        "args": {
            "External id": 8,
            "Input type": ["c10::BFloat16"] * 3,
            "Concrete Inputs": ["", "", "", "0.", "True", "False"],
            "Input Dims": [[1, 16, 4096, 128], [1, 4, 4096, 128], [1, 4, 4096, 128]],
        },
    }
    kernel = {
        "ph": "X",
        "cat": "kernel",
        "name": "nvjet_tst_128x256",
        "ts": 5.0,
        "dur": 30.0,
        "args": {"External id": 7},
    }
    flash = {
        "ph": "X",
        "cat": "kernel",
        "name": "flash_fwd_kernel",
        "ts": 40.0,
        "dur": 100.0,
        "args": {"External id": 8},
    }
    moved = {
        "ph": "X",
        "cat": "kernel",
        "name": "ncclDevKernel_AllGather_RING_LL",
        "ts": 200.0,
        "dur": 50.0,
        "args": {
            "Collective name": "_allgather_base",
            "In msg nelems": 1000,
            "Out msg nelems": 8000,
            "Group size": 8,
            "dtype": "BFloat16",
            "Process Group Name": "default_pg",
        },
    }
    return {"deviceProperties": [{"name": "NVIDIA H200"}], "traceEvents": [operator, attention, kernel, flash, moved]}


def test_kernels_of_a_gpu_trace_go_to_their_operators(tmp_path: Path) -> None:
    points = {p.family: p for p in logged(written(tmp_path, "rank0.json", gpu_trace()))}
    product, moved = points["gemm"], points["collective"]
    assert dict(product.shape) == {"m": 4096, "n": 2048, "k": 1024, "role": "forward"}
    assert product.seconds == pytest.approx(30e-6)
    assert points["attention"].shape["kv_heads"] == 4
    assert points["attention"].seconds == pytest.approx(100e-6)
    assert (moved.shape["operation"], moved.shape["size_bytes"], moved.shape["n_gpus"]) == ("all_gather", 16000, 8)
    assert "assumed" in moved.source
    assert product.where["gpu"] == "NVIDIA H200"


def test_time_by_kernel_class_adds_up() -> None:
    spent = trace_classes(gpu_trace())
    assert spent == pytest.approx({"attention": 100e-6, "communication": 50e-6, "gemm": 30e-6})


@pytest.mark.parametrize(
    ("kernel", "name"),
    [
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64", "gemm"),
        ("nvjet_hsh_256x128_64x4_1x2_h_bz_coopA_TNT", "gemm"),
        ("void flash_fwd_kernel<Flash_fwd_kernel_traits<128, 128, 64>>", "attention"),
        ("ncclDevKernel_ReduceScatter_Sum_bf16_RING_LL", "communication"),
        ("void at::native::(anonymous namespace)::multi_tensor_apply_kernel<FusedAdamMathFunctor>", "optimizer"),
        ("void at::native::vectorized_elementwise_kernel<4, silu>", "elementwise"),
        ("triton_poi_fused_mul_silu_0", "elementwise"),
        ("void at::native::indexSelectLargeIndex", "permute"),
        ("void cunn_SoftMaxForward", "softmax_cross_entropy"),
        ("Memcpy DtoD (Device -> Device)", "copy"),
        ("Cijk_Ailk_Bljk_BBS_BH_MT256x256x64", "gemm"),
        ("something_unheard_of", "other"),
    ],
)
def test_kernel_classes(kernel: str, name: str) -> None:
    assert kernel_class(kernel) == name
