"""Kernels of chunked scans against counts by hand and a published speed."""

from dataclasses import replace

import pytest

from hardware.catalogue import accelerator
from hardware.kernels import launch_s, scan_s
from simulator.model.spec import LightningAttention, LinearAttention, Mamba1, Mamba2, ShortConvolution
from simulator.plans.spec import Plan
from simulator.workload.mixers import mixer_work
from simulator.workload.operators import Exchange, Matmul, Pass, Scan
from simulator.workload.scans import delta_scan, mamba2_scan, recurrence_of
from simulator.workload.shape import Shape


def shape(tokens: int, tp: int = 1) -> Shape:
    plan = Plan(dp=1, micro_batch_size=1, global_batch_size=1, tp=tp)
    return Shape(512, 1, tokens, tokens, tokens / tp, plan, True)


def total(scan: Scan, what: str, direction: str) -> float:
    return float(sum(getattr(kernel, what) for kernel in getattr(scan, direction)))


def test_state_space_scan_counts_its_products() -> None:
    """Per token: states and outputs 2 x 2 heads x head_dim x states, chunks of 128 half filled, scores per group."""
    mixer = Mamba2(heads=8, head_dim=64, groups=2, state=128, conv_kernel=4)
    inner, scan = 8 * 64, mamba2_scan(mixer, shape(1024))
    forward = 4 * inner * 128 + inner * 128 + 2 * 128 * 2 * 128
    assert total(scan, "flops", "forward") == pytest.approx(1024 * forward)
    # Backward makes states and scores again, then two products for every one of the forward's.
    again = 2 * inner * 128 + 2 * 128 * 2 * 128
    assert total(scan, "flops", "backward") == pytest.approx(1024 * (again + 2 * forward + inner * 128))


@pytest.mark.parametrize("mixer", [Mamba2(8, 64, 8, 128, 4), LinearAttention("gdn", 4, 8, 128, 128, 4)])
def test_scans_split_over_heads(mixer: Mamba2 | LinearAttention) -> None:
    build = mamba2_scan if isinstance(mixer, Mamba2) else delta_scan
    whole, half = build(mixer, shape(512)), build(mixer, shape(512, tp=2))
    for direction in ("forward", "backward"):
        for what in ("flops", "bytes"):
            assert total(half, what, direction) == pytest.approx(total(whole, what, direction) / 2)


def test_chunk_scan_runs_at_its_published_speed() -> None:
    """tile-ai/tilelang benchmark/mamba2, Triton on an H800: 91 to 110 TFLOP/s for batch 8, 80 heads of 64, 128 states
    and chunks of 256."""
    tokens, inner = 8 * 8192, 80 * 64
    flops = tokens * inner * (256 + 2 * 128)
    seconds = scan_s(accelerator("h800-sxm-80gb"), flops, tokens * (2 * 2 * inner + 2 * inner * 128 / 256))
    assert 88e12 < flops / seconds < 112e12


def test_a_scan_kernel_never_outruns_memory() -> None:
    part = accelerator("h100-sxm-80gb")
    assert scan_s(part, 0.0, 0.0) == pytest.approx(launch_s(part))
    assert scan_s(part, 1.0, 1e9) > 1e9 / part.memory_bandwidth_bytes_per_s


def test_context_parallel_recurrence_exchanges_its_heads() -> None:
    """Projection in and output out, both ways; nothing moves where the context is whole."""
    mixer = Mamba2(heads=8, head_dim=64, groups=8, state=128, conv_kernel=4)
    whole = shape(1024)
    split = replace(whole, plan=replace(whole.plan, cp=2))
    moved = [op for op in mixer_work(mixer, split).operators if isinstance(op, Exchange) and op.group == "cp"]
    assert [op.forward_bytes for op in moved] == [2 * 1024 * (2 * 512 + 2 * 8 * 128 + 8), 2 * 1024 * 512]
    assert not [op for op in mixer_work(mixer, whole).operators if isinstance(op, Exchange) and op.group == "cp"]


def test_residual_streams_cost_their_passes_and_their_copies() -> None:
    """Four streams: read twice, read and written once more around the block, beside what one stream costs."""
    one = shape(1024)
    four = replace(one, streams=4)
    mixer = Mamba2(heads=8, head_dim=64, groups=8, state=128, conv_kernel=4)
    more = set(mixer_work(mixer, four).operators) - set(mixer_work(mixer, one).operators)
    assert sum(op.forward_bytes for op in more if isinstance(op, Pass)) == (4 * 4 + 2 - 3) * 2 * 1024 * 512
    assert sum(op.m * op.n * op.k for op in more if isinstance(op, Matmul)) == 1024 * 24 * 4 * 512
    kept = [sum(tensor.bytes for tensor in mixer_work(mixer, each).saved) for each in (four, one)]
    assert kept[0] - kept[1] == 3 * 2 * 1024 * 512


def test_lightning_scan_counts_states_and_what_meets_within_chunks() -> None:
    """Per token and head of 32: a state is updated and read, and half a chunk of 64 meets twice."""
    scan = recurrence_of(LightningAttention(heads=4, head_dim=32), shape(256)).scan
    assert total(scan, "flops", "forward") == pytest.approx(256 * 4 * (2 * 2 * 32 * 32 + 2 * 2 * 32 * 32))
    assert total(scan, "flops", "backward") > 2 * total(scan, "flops", "forward") * 0.99


def test_selective_scan_counts_nine_operations_per_state() -> None:
    """Bytes of one token: x, z, step and output of 64 channels, B and C of 16 states, two bytes each."""
    recurrence = recurrence_of(Mamba1(inner=64, state=16, step_rank=4, conv_kernel=4), shape(100))
    assert total(recurrence.scan, "flops", "forward") == 100 * 9 * 64 * 16
    assert total(recurrence.scan, "bytes", "forward") == 100 * 2 * (4 * 64 + 2 * 16)
    assert (recurrence.inner, recurrence.convolved, recurrence.normed) == (64, 64, False)


def test_short_convolution_is_gated_twice() -> None:
    recurrence = recurrence_of(ShortConvolution(width=64, kernel=3), shape(100))
    assert total(recurrence.scan, "flops", "forward") == 2 * 100 * 64
    assert total(recurrence.scan, "bytes", "forward") == 2 * 3 * 2 * 100 * 64


@pytest.mark.parametrize("mixer", [LightningAttention(8, 64), Mamba1(512, 16, 32, 4), ShortConvolution(512, 3)])
def test_every_recurrence_splits_over_tensor_ranks(mixer: LightningAttention | Mamba1 | ShortConvolution) -> None:
    whole, half = recurrence_of(mixer, shape(512)).scan, recurrence_of(mixer, shape(512, tp=2)).scan
    assert total(half, "flops", "forward") == pytest.approx(total(whole, "flops", "forward") / 2)
    assert total(half, "bytes", "forward") < total(whole, "bytes", "forward")
