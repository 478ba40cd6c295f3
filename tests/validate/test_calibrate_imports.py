"""Logs as points: nccl-tests text and JSON, PyTorch traces, published tables; what is private never leaves the log."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest

from hardware import catalogue
from hardware.collectives import Group, collective_s
from hardware.problems import InputError, Place
from hardware.profile import applied, read_profile
from validate.calibrate.logs.points_of_part import points_of_part
from validate.calibrate.logs.read_log import read_log
from validate.calibrate.logs.reading import read_text
from validate.calibrate.logs.traces import kernel_class, trace_classes
from validate.calibrate.measuring.group_sweep import BUS_FACTOR, bus_bandwidth
from validate.calibrate.options import VerbOptions
from validate.calibrate.points import MeasuredPoint, line_of, parse_line
from validate.calibrate.verb import run

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


# ---- why a log is refused, and which part it is of


def refusal_of(tmp_path: Path, name: str, content: str | dict, part: str = "") -> str:
    with pytest.raises(InputError) as caught:
        points_of_part(written(tmp_path, name, content), part)
    return str(caught.value)


def changed_event(name: str, **arguments: Any) -> dict[str, Any]:
    """The GPU trace with that event alone (and its kernel), its arguments changed; None takes one away."""
    trace = gpu_trace()
    events = trace["traceEvents"]
    event = next(each for each in events if name in each["name"])
    event["args"] = {key: value for key, value in {**event["args"], **arguments}.items() if value is not None}
    identity = event["args"].get("External id")
    kernels = [each for each in events if each["cat"] == "kernel" and each["args"].get("External id") == identity]
    trace["traceEvents"] = [event, *(each for each in kernels if each is not event)]
    return trace


MM, FLASH, NCCL_KERNEL = "aten::mm", "flash_attention", "ncclDevKernel"


@pytest.mark.parametrize(
    ("event", "arguments", "reason"),
    [
        (MM, {"Input Dims": None}, "record_shapes=True"),
        (MM, {"Input Dims": []}, "record_shapes=True"),
        (MM, {"Input type": ["float", "float"]}, "matrix products of fp32 (or tf32)"),
        (MM, {"Input type": ["double", "double"]}, "matrix products of fp64"),
        (MM, {"Input type": None}, "matrix products of no known dtype"),
        (MM, {"Input type": ["c10::complex<float>"] * 2}, "complex"),
        (FLASH, {"Input Dims": None}, "attention without shapes"),
        (FLASH, {"Concrete Inputs": ["", "", "", "0.", "False"]}, "not causal"),
        (FLASH, {"Input type": ["float"] * 3}, "attention of fp32"),
        (NCCL_KERNEL, {"In msg nelems": None, "Out msg nelems": None}, "collectives without sizes"),
        (NCCL_KERNEL, {"Collective name": None}, "collectives without sizes"),
        (NCCL_KERNEL, {"dtype": ""}, "collectives of no known dtype"),
        (NCCL_KERNEL, {"Collective name": "send"}, "'send'"),
        (NCCL_KERNEL, {"Group size": 1}, "one rank"),
    ],
)
def test_a_trace_is_refused_with_the_reason(tmp_path: Path, event: str, arguments: dict, reason: str) -> None:
    told = refusal_of(tmp_path, "rank0.json", changed_event(event, **arguments))
    assert reason in told
    assert "(1 of them)" in told


def test_an_operator_without_its_kernels_is_told(tmp_path: Path) -> None:
    trace = gpu_trace()
    trace["traceEvents"] = [event for event in trace["traceEvents"] if event["name"] in (MM, "flash_fwd_kernel")]
    assert "kernels the trace does not hold" in refusal_of(tmp_path, "rank0.json", trace)


def test_every_reason_is_told_with_how_often(tmp_path: Path) -> None:
    trace = changed_event(MM, **{"Input type": ["float", "float"]})
    trace["traceEvents"] = 1092 * trace["traceEvents"][:1] + changed_event(NCCL_KERNEL, dtype="x")["traceEvents"]
    told = refusal_of(tmp_path, "rank0.json", trace)
    assert "fp32 (or tf32), where predictions rest on bf16 and fp16 (1,092 of them)" in told
    assert "collectives of dtype 'x' (1 of them)" in told


def test_a_trace_without_any_such_event_says_so(tmp_path: Path) -> None:
    told = refusal_of(tmp_path, "rank0.json", {"traceEvents": [{"ph": "X", "cat": "kernel", "name": "triton_add"}]})
    assert "no matrix product, attention or collective among them (1 of them)" in told


@pytest.mark.parametrize(("dtype", "element_bytes"), [("Float", 4), ("Half", 2), ("Float8_e5m2", 1), ("Long", 8)])
def test_collectives_of_every_common_dtype_are_taken(tmp_path: Path, dtype: str, element_bytes: int) -> None:
    (point,) = logged(written(tmp_path, "rank0.json", changed_event(NCCL_KERNEL, dtype=dtype)))
    assert point.shape["size_bytes"] == 8000 * element_bytes


def test_a_collective_told_by_its_launch_is_taken(tmp_path: Path) -> None:
    """torch may leave a collective's arguments on the operator alone, tied to the kernel by its identity."""
    trace = changed_event(NCCL_KERNEL)
    kernel = trace["traceEvents"][0]
    launch = {"ph": "X", "cat": "cpu_op", "name": "record_param_comms", "args": {**kernel["args"], "External id": 5}}
    trace["traceEvents"] = [launch, {**kernel, "args": {"external id": 5}}]
    (point,) = logged(written(tmp_path, "rank0.json", trace))
    assert (point.shape["operation"], point.shape["size_bytes"]) == ("all_gather", 16000)


def test_an_older_trace_without_strides_tells_forward_products(tmp_path: Path) -> None:
    """Outside autograd's engine a product is a forward one; inside it, without strides, its role is not known."""
    trace = changed_event(MM, **{"Input Strides": None})
    (point,) = logged(written(tmp_path, "rank0.json", trace))
    assert point.shape["role"] == "forward"
    engine = {
        "ph": "X",
        "cat": "cpu_op",
        "name": "autograd::engine::evaluate_function: MmBackward0",
        "ts": 0,
        "dur": 90,
    }
    trace["traceEvents"].append(engine)
    assert "unknown role" in refusal_of(tmp_path, "rank1.json", trace)


def of_device(name: str, memory_bytes: int = 0) -> dict[str, Any]:
    return {**gpu_trace(), "deviceProperties": [{"name": name, "totalGlobalMem": memory_bytes}]}


@pytest.mark.parametrize(
    ("device", "memory_bytes", "part"),
    [
        ("NVIDIA A100-SXM4-40GB", 0, "a100-sxm-40gb"),
        ("NVIDIA A100-PG509-200", 42_285_268_992, "a100-sxm-40gb"),
        ("NVIDIA A100-PG509-210", 85_031_714_816, "a100-sxm-80gb"),
        ("NVIDIA H200", 150_000_000_000, "h200-sxm-141gb"),
    ],
)
def test_the_device_of_a_trace_decides_its_part(tmp_path: Path, device: str, memory_bytes: int, part: str) -> None:
    path = written(tmp_path, "rank0.json", of_device(device, memory_bytes))
    for wish in ("", part):
        points, _ = points_of_part(path, wish)
        assert {point.where["part"] for point in points} == {part}


@pytest.mark.parametrize(
    ("device", "wish", "words"),
    [
        ("NVIDIA A100-SXM4-40GB", "h100-sxm-80gb", "is of a100-sxm-40gb, not of h100-sxm-80gb"),
        ("NVIDIA A100-PG509-200", "h100", "is of NVIDIA A100-PG509-200, not of h100-sxm-80gb"),
        ("NVIDIA GeForce RTX 4090", "h100", "is of NVIDIA GeForce RTX 4090"),
        ("AMD Instinct MI250X", "mi300x", "is of AMD Instinct MI250X"),
        ("NVIDIA A100-PG509-200", "", "--part a100-sxm-40gb or a100-sxm-80gb"),
        ("AMD Instinct MI250X", "", "my-gpu.yaml"),
        ("", "", "does not name its device"),
    ],
)
def test_a_trace_is_not_taken_for_another_part(tmp_path: Path, device: str, wish: str, words: str) -> None:
    told = refusal_of(tmp_path, "rank0.json", of_device(device), wish)
    assert words in told
    assert "--part h100" not in told


def test_a_device_without_a_number_is_what_the_user_says(tmp_path: Path) -> None:
    points, _ = points_of_part(written(tmp_path, "rank0.json", of_device("AMD Radeon Graphics")), "mi300x")
    assert {point.where["part"] for point in points} == {"mi300x"}


def test_times_of_a_cpu_are_not_taken_for_a_gpus(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="ProfilerActivity"):
        points_of_part(cpu_trace(tmp_path), "h200")


def test_no_point_is_added_where_one_file_is_refused(tmp_path: Path) -> None:
    good = written(tmp_path, "all_reduce.log", text())
    bad = written(tmp_path, "rank0.json", of_device("NVIDIA A100-SXM4-40GB"))
    with pytest.raises(InputError, match="a100-sxm-40gb"):
        run(VerbOptions(tmp_path / "p", imports=(good, bad), part="h100"))
    assert not (tmp_path / "p").exists()


# ---- collectives alone


def mi300x_text(**microseconds: float) -> str:
    """An all-reduce on eight MI300X that took so long for each size, as `mib64` or `kib512`."""
    head, rows = text().replace("NVIDIA H100 80GB HBM3", "AMD Instinct MI300X").split("           8   ", 1)
    end = rows[rows.index("# Out of bounds") :]
    row = "{size} {count} float sum -1 {time} 0 0 0 {time} 0 0 0\n"
    units = {"kib": 2**10, "mib": 2**20}
    sizes = {int(name[3:]) * units[name[:3]]: time for name, time in microseconds.items()}
    return head + "".join(row.format(size=size, count=size // 4, time=time) for size, time in sizes.items()) + end


def test_collectives_alone_make_a_profile_of_collectives(tmp_path: Path) -> None:
    """Kernels stay what the catalogue has; the collective costs what was measured, here four times too much."""
    log = written(tmp_path, "all_reduce.log", mi300x_text(mib64=2000.0, mib128=4000.0, mib256=8000.0, mib512=16000.0))
    result = run(VerbOptions(tmp_path / "p", imports=(log,)))
    assert result["ok"]
    assert result["profile"]["files"] == ["collectives.json"]
    assert "kernels are the catalogue's" in (tmp_path / "p" / "REPORT.md").read_text()
    cluster = catalogue.cluster(8, catalogue.node("mi300x-platform"), "none")
    own = applied(cluster, read_profile(tmp_path / "p"), Place("test"))
    assert own.accelerator == cluster.accelerator
    group = Group(8.0, 8.0)
    assert collective_s("all_reduce", 2**28, group, own).seconds == pytest.approx(8e-3, rel=0.05)
    assert collective_s("all_reduce", 2**28, group, cluster).seconds < 4e-3


def test_logs_are_fitted_without_torch_and_nothing_else_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("validate.calibrate.verb.find_spec", lambda name: None)
    log = written(tmp_path, "all_reduce.log", mi300x_text(mib64=2000.0, mib128=4000.0, mib256=8000.0))
    assert run(VerbOptions(tmp_path / "p", imports=(log,)))["ok"]
    for options in (VerbOptions(tmp_path / "q"), VerbOptions(tmp_path / "p", fit_only=True, step=True)):
        with pytest.raises(InputError, match="torch: is not installed"):
            run(options)


def test_sizes_that_are_too_few_for_each_protocol_are_fitted_together(tmp_path: Path) -> None:
    """The tuner sends 128 KiB by LL, 128 and 256 MiB by Simple: neither has three points, both together have."""
    log = written(tmp_path, "all_reduce.log", mi300x_text(kib128=12.0, mib128=3200.0, mib256=6400.0))
    assert run(VerbOptions(tmp_path / "p", imports=(log,)))["ok"]
    curves = json.loads((tmp_path / "p" / "collectives.json").read_text())["scale_up"]["cdna3"]["all_reduce"]
    assert len(curves) == 2
    assert len({str(curve) for curve in curves.values()}) == 1
    assert "3 points fitted together" in (tmp_path / "p" / "REPORT.md").read_text()


def test_too_few_collectives_make_none_and_say_how_many(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = written(tmp_path, "all_reduce.log", mi300x_text(mib256=6400.0, mib512=9600.0))
    assert not run(VerbOptions(tmp_path / "p", imports=(log,)))["ok"]
    assert "2 points, 3 are the fewest to fit" in capsys.readouterr().err


# ---- damaged files


def test_a_small_packed_file_that_unfolds_to_a_huge_one_is_refused(tmp_path: Path) -> None:
    bomb = tmp_path / "trace.json.gz"
    bomb.write_bytes(gzip.compress(b"0" * 2**20))
    with pytest.raises(InputError, match="unpacked"):
        read_text(bomb, most_bytes=2**20 - 1)
    assert len(read_text(bomb, most_bytes=2**20)) == 2**20


COLLECTIVES_CSV = """sweep_id,op,gpu,n_gpus,n_nodes,size_bytes,time_us,algbw_GBps,fabric,source,notes
a,all_reduce,H100-SXM-80GB,8,1,1024,10.5,,NVLink,x,
a,all_reduce,H100-SXM-80GB,16,2,4096,,0.4,CX7,x,
"""
PRODUCTS_CSV = "gpu,dtype,m,n,k,latency_us\nh100-sxm-80gb,bf16,128,256,512,9.5\n"


@pytest.mark.parametrize(
    ("table", "old", "new", "words"),
    [
        (COLLECTIVES_CSV, "8,1,1024", "eight,1,1024", "collectives.csv:2: n_gpus: 'eight'"),
        (COLLECTIVES_CSV, ",0.4,", ",fast,", "collectives.csv:3: algbw_GBps: 'fast'"),
        (COLLECTIVES_CSV, "16,2,", "16,,", "collectives.csv:3: n_nodes: ''"),
        (COLLECTIVES_CSV, ",source,", ",", "more values"),
        (COLLECTIVES_CSV, "time_us,", "seconds,", "columns missing: time_us"),
        (PRODUCTS_CSV, ",512,", ",,", "collectives.csv:2: k: ''"),
        (PRODUCTS_CSV, "9.5", "1e999", "collectives.csv:2: latency_us"),
        (PRODUCTS_CSV, "gpu,dtype", "card,dtype", "lacks the columns gpu"),
        (PRODUCTS_CSV, "128,256", "9" * 30 + ",256", "impossible value"),
    ],
)
def test_a_damaged_table_names_line_and_column(tmp_path: Path, table: str, old: str, new: str, words: str) -> None:
    assert words in refusal_of(tmp_path, "collectives.csv", table.replace(old, new, 1))


STRANGE = [None, True, -1, 0, 1e308, 10**400, "x", "", [], {}, [[]], {"a": 1}, "9" * 30, "²", "1e999", [1, 2, 3]]


def mutated(value: Any, draw: random.Random) -> Any:
    """The document with one value somewhere in it replaced or taken away."""
    if isinstance(value, dict) and value and draw.random() < 0.95:
        key = draw.choice(list(value))
        if draw.random() < 0.15:
            return {name: each for name, each in value.items() if name != key}
        return {**value, key: mutated(value[key], draw)}
    if isinstance(value, list) and value and draw.random() < 0.95:
        index = draw.randrange(len(value))
        return [*value[:index], mutated(value[index], draw), *value[index + 1 :]]
    return draw.choice(STRANGE)


def scrambled(content: str, draw: random.Random) -> str:
    """The text cut off, or with a few characters replaced."""
    if draw.random() < 0.3:
        return content[: draw.randrange(len(content))]
    for _ in range(draw.randrange(1, 6)):
        start = draw.randrange(len(content))
        patch = draw.choice(["0", "-", "9" * 25, "x", ",", "\n", '"', "²", ".", "1e400", "nan", "[", "]", " "])
        content = content[:start] + patch + content[start + draw.randrange(4) :]
    return content


def points_or_refusal(path: Path, part: str) -> tuple[list[MeasuredPoint], str]:
    try:
        return points_of_part(path, part)[0], ""
    except InputError as error:
        return [], str(error)


@pytest.mark.parametrize("seed", range(8))
def test_no_damage_to_a_log_ends_in_a_traceback(tmp_path: Path, seed: int) -> None:
    """Read or refused in words: cut off, with swapped types, with numbers beyond all bounds."""
    draw = random.Random(seed)
    documents = (gpu_trace(), document(16, 8))
    texts = (text(), COLLECTIVES_CSV, PRODUCTS_CSV, *(json.dumps(each) for each in documents))
    damaged = [json.dumps(mutated(draw.choice(documents), draw)) for _ in range(60)]
    damaged += [scrambled(draw.choice(texts), draw) for _ in range(60)]
    for content in damaged:
        path = written(tmp_path, "all_reduce.log", content)
        points, refused = points_or_refusal(path, draw.choice(["", "h100", "h200"]))
        assert points or "all_reduce.log" in refused
        for point in points:
            assert parse_line(line_of(point)) == (point, ""), "what is written is what is read"


@pytest.mark.parametrize("seed", range(4))
def test_no_damage_to_a_packed_trace_ends_in_a_traceback(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    packed = gzip.compress(json.dumps(gpu_trace()).encode(), mtime=0)
    path = tmp_path / "trace.json.gz"
    for _ in range(30):
        broken = bytearray(packed)
        broken[draw.randrange(len(broken))] ^= 1 << draw.randrange(8)
        path.write_bytes(bytes(broken[: draw.randrange(1, len(broken) + 1)]))
        with pytest.raises(InputError, match=r"trace\.json\.gz"):
            points_of_part(path, "h100")
