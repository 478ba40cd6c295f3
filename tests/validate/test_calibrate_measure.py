"""Timing and microbenchmarks on a CPU: what is run is what its name says, and every failure keeps what was measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from hardware.problems import InputError
from validate.calibrate.cases import kernel_cases
from validate.calibrate.machine import MeasuredMachine, busy_with, find_machine, part_of
from validate.calibrate.measuring.passes import OPS
from validate.calibrate.measuring.products import UnsupportedKernel, gemm, grouped_gemm
from validate.calibrate.measuring.session import FAMILIES, calibrate, measure
from validate.calibrate.measuring.timing import Deadline, Method, Stopwatch, settled, summary
from validate.calibrate.options import Options
from validate.calibrate.points import OUT_OF_MEMORY, BenchCase, Points

torch = pytest.importorskip("torch")
CPU = torch.device("cpu")
QUICK = Method(warmup=1, fewest=3, most=6, budget_s=0.01)
FAR, PAST = Deadline(60.0, clock=lambda: 0.0), Deadline(-1.0, clock=lambda: 0.0)
SMALL = {"m": 48, "n": 32, "k": 64}


pytestmark = pytest.mark.usefixtures("one_thread")


def case(**shape: object) -> BenchCase:
    return BenchCase("gemm", "bf16", {**SMALL, "role": "forward", **shape})


def ignore(_: str) -> None:
    return None


# ---- timing


def test_repetitions_stop_when_the_median_holds_still() -> None:
    assert settled([1.0] * 5, 0.01)
    assert not settled([1.0, 2.0, 1.0, 2.0, 1.5], 0.01)
    assert settled([1.0, 2.0, 1.0, 2.0, 1.5], 1.0)


def test_summary_is_the_median_with_the_middle_four_fifths() -> None:
    timing = summary([float(n) for n in range(11)])
    assert (timing.low_s, timing.seconds, timing.high_s, timing.repetitions) == (1.0, 5.0, 9.0, 11)


class Hand:
    """A clock that only the work moves."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_a_case_keeps_to_its_budget_and_its_fewest_repetitions() -> None:
    clock = Hand()
    calls: list[float] = []

    def work() -> None:
        calls.append(clock.now_s)
        clock.now_s += 0.002 * (1 + len(calls) % 2)

    method = Method(warmup=2, fewest=4, most=1000, tolerance=1e-9, budget_s=0.05)
    timing = Stopwatch(CPU, method, clock).time(work)
    assert timing.repetitions == 20, "five batches of four, 3 ms each on average, until 0.05 s are spent"
    assert len(calls) == timing.repetitions + 2
    assert (timing.low_s, timing.seconds, timing.high_s) == pytest.approx((0.002, 0.003, 0.004))


def test_repetitions_go_on_until_the_least_time_is_spent() -> None:
    """Clocks under load are not those of a first burst, however still the median holds."""
    clock = Hand()

    def work() -> None:
        clock.now_s += 0.001

    timing = Stopwatch(CPU, Method(warmup=0, fewest=5, budget_s=1.0, least_s=0.012), clock).time(work)
    assert timing.repetitions == 15


def test_a_case_takes_a_share_of_the_time_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 10 s left 3 s at most, and the method's own budget where that is less."""
    budgets: list[float] = []
    monkeypatch.setattr(Stopwatch, "time", lambda self, _: budgets.append(self.method.budget_s) or summary([1.0]))
    for left_s in (10.0, 0.01):
        method = Method(budget_s=5.0)
        points = Points(tmp_path / f"{left_s}.jsonl")
        measure([case()], points, cpu_machine(), method, Deadline(left_s, clock=lambda: 0.0), ignore)
    assert budgets == pytest.approx([3.0, 0.003])


# ---- what is run


@pytest.mark.parametrize("role", ["forward", "dgrad", "wgrad"])
def test_products_have_the_shape_of_their_role(role: str) -> None:
    assert gemm({**SMALL, "role": role}, "bf16", CPU)().shape == (48, 32)


def test_weight_gradients_accumulate_in_fp32() -> None:
    run = gemm({**SMALL, "role": "wgrad"}, "bf16", CPU)
    first = run().clone()
    second = run()
    assert second.dtype == torch.float32
    torch.testing.assert_close(second, 2 * first)


@pytest.mark.parametrize("role", ["forward", "dgrad", "wgrad"])
def test_grouped_products_have_one_matrix_per_group(role: str) -> None:
    made = grouped_gemm({"groups": 3, **SMALL, "role": role}, "bf16", CPU)()
    assert made.shape == ((3, 48, 32) if role == "wgrad" else (3 * 48, 32))


def test_fp8_that_the_device_lacks_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedKernel, match="128"):
        gemm({**SMALL, "role": "forward"}, "fp8_block", CPU)
    with pytest.raises(UnsupportedKernel, match="fp8"):
        grouped_gemm({"groups": 2, **SMALL, "role": "forward"}, "fp8", CPU)


def test_every_family_and_operation_runs() -> None:
    cases = kernel_cases("cpu", None)
    seen = {}
    for each in cases:
        seen.setdefault((each.family, each.shape.get("op"), each.shape.get("role"), each.shape.get("mode")), each)
    assert {name for _, name, _, _ in seen} >= set(OPS)
    for each in seen.values():
        if each.shape.get("mode") != "graph":
            FAMILIES[each.family](each.shape, each.dtype, CPU)()


# ---- failures keep what was measured


def cpu_machine() -> MeasuredMachine:
    return find_machine("cpu")


def test_what_does_not_fit_in_memory_is_noted_and_the_next_is_measured(tmp_path: Path) -> None:
    points = Points(tmp_path / "points.jsonl")
    huge = case(m=2**22, n=2**22, k=2**22)
    measure([huge, case()], points, cpu_machine(), QUICK, FAR, ignore)
    assert points.by_key[huge.key].failed == OUT_OF_MEMORY
    assert points.by_key[case().key].usable
    assert points.has(huge), "it would not fit the next time either"


def test_interrupted_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [case(m=16 * n) for n in range(1, 6)]
    done: list[int] = []

    def interrupted(shape: dict, dtype: str, device: object) -> object:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(shape["m"])
        return lambda: None

    monkeypatch.setitem(FAMILIES, "gemm", interrupted)
    with pytest.raises(KeyboardInterrupt):
        measure(cases, Points(tmp_path / "p.jsonl"), cpu_machine(), QUICK, FAR, ignore)
    monkeypatch.setitem(FAMILIES, "gemm", lambda shape, *_: lambda: done.append(-shape["m"]))
    points = Points(tmp_path / "p.jsonl")
    assert len(points.usable()) == 2
    measure(cases, points, cpu_machine(), QUICK, FAR, ignore)
    assert len(points.usable()) == 5
    assert {-m for m in done if m < 0} == {48, 64, 80}, "the first two were not measured again"


def test_what_time_did_not_suffice_for_is_told(tmp_path: Path) -> None:
    skipped = measure([case()], Points(tmp_path / "p"), cpu_machine(), QUICK, PAST, ignore)
    assert skipped == [case().key]


def test_a_busy_device_is_refused_unless_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (1000.0, 0.0, 0.0))
    with pytest.raises(InputError, match="--shared"):
        calibrate(Options(tmp_path / "profile", device="cpu"))
    assert not (tmp_path / "profile").exists()


@pytest.mark.parametrize(("percent", "busy"), [(1.0, False), (87.0, True)])
def test_a_busy_gpu_is_told_by_its_utilisation(percent: float, busy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("validate.calibrate.machine.reading", lambda _: {"utilization_percent": percent})
    assert bool(busy_with(MeasuredMachine("cuda", 0, "h200-sxm-141gb", {}))) is busy


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match="no GPU"):
        find_machine("cuda")


@pytest.mark.parametrize(
    ("device", "memory", "part"),
    [
        ("NVIDIA H200", 150e9, "h200-sxm-141gb"),
        ("NVIDIA H100 80GB HBM3", 85e9, "h100-sxm-80gb"),
        ("NVIDIA A100-SXM4-80GB", 0, "a100-sxm-80gb"),
        ("NVIDIA A100-SXM4-40GB", 0, "a100-sxm-40gb"),
        ("H100-SXM-80GB", 0, "h100-sxm-80gb"),
        ("NVIDIA H100 PCIe", 0, ""),
        ("NVIDIA H100 NVL", 0, ""),
        ("NVIDIA GeForce RTX 4090", 0, ""),
    ],
)
def test_devices_are_found_in_the_catalogue(device: str, memory: float, part: str) -> None:
    assert part_of(device, memory) == part
