"""Terms of operators and half layers one by one: a value worked out by hand for each changes when the term does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hardware.catalogue import cluster
from hardware.collectives import ExpertExchange, Group, collective_s, combine_s, dispatch_s
from hardware.kernels import (
    attention_s,
    gemm_s,
    grouped_gemm_s,
    scan_s,
    streaming_s,
)
from simulator.cost import constants as constants_module
from simulator.cost.blocks import (
    Exchanges,
    backward_seconds,
    block_cost,
    exchanged,
    forward_seconds,
    routing_price,
)
from simulator.cost.constants import NEUTRAL, Constants, clocked, combined, constants_for, entries, holds_for
from simulator.cost.groups import plan_groups
from simulator.cost.launches import launches
from simulator.cost.price import Price, Prices, price
from simulator.cost.seconds import Seconds
from simulator.plans.spec import Overlap, Plan, Recompute
from simulator.workload.operators import (
    CoreAttention,
    Exchange,
    Kernel,
    Matmul,
    Operator,
    Pass,
    Routing,
    Scan,
    Work,
)
from tests.simulator.stacks import stack_of

GPUS = cluster(64, "hgx-h100", "ndr-rail-2tier")
PART = GPUS.accelerator
PLAN = Plan(dp=64, ep=64, micro_batch_size=1, global_batch_size=64, dispatcher="deepep")
SIXTY_FOUR = Group(64.0, 8.0)


def prices_of(constants: Constants = NEUTRAL, **changes: Any) -> Prices:
    plan = replace(PLAN, **changes)
    return Prices(GPUS, plan, plan_groups(plan, GPUS), constants)


def routing(name: str, **changes: Any) -> Routing:
    """4096 tokens, 7168 wide, to 8 of 256 experts."""
    given: dict[str, Any] = {"groups": 1, "group_top_k": 1, "fp8": True, **changes}
    return Routing(name, 4096, 7168, 8, 256, **given)  # type: ignore[arg-type]


# ---- expert traffic


def test_a_tokens_groups_limit_its_domains() -> None:
    """To four of eight groups: of 4 domains they hit 4 (1 - C(6, 4) / C(8, 4)) = 22/7, of 8 four, of 16 eight."""
    op = routing("dispatch", groups=8, group_top_k=4)
    limits = [exchanged(op, Group(8.0 * domains, 8.0), 1.0).domain_limit for domains in (4, 8, 16)]
    assert limits == pytest.approx([22 / 7, 4.0, 8.0])
    assert exchanged(routing("dispatch"), SIXTY_FOUR, 1.0).domain_limit is None


def test_the_backward_of_dispatch_travels_like_combine() -> None:
    """Out in FP8 and home in 16 bit, at the rate of expert exchanges; the hottest rank sets the pace."""
    moved = ExpertExchange(4096, 7168, 256, 8, None, 1.5)
    out_s = dispatch_s(moved, plan_groups(PLAN, GPUS)["ep"], GPUS, "deepep", True).seconds
    home_s = combine_s(moved, plan_groups(PLAN, GPUS)["ep"], GPUS, "deepep").seconds
    assert out_s < 0.7 * home_s
    prices = prices_of(Constants(ep_rate=0.5), expert_imbalance=1.5)
    assert routing_price(routing("dispatch"), prices) == pytest.approx((2 * out_s, 2 * home_s))
    assert routing_price(routing("combine"), prices) == pytest.approx((2 * home_s, 2 * out_s))
    padded = prices_of(Constants(ep_rate=0.5), expert_imbalance=4.0, capacity_factor=1.5)
    assert routing_price(routing("dispatch"), padded) == pytest.approx((2 * out_s, 2 * home_s))


def test_hybrideps_copies_on_arrival() -> None:
    """16 experts on 8 ranks, two a token: it reaches 8 (1 - C(14, 2) / C(16, 2)) = 29/15 GPUs; they are read, and two
    copies written (going home the other way round), 7168 wide in FP8 with a scale for each 128, or in 16 bit."""
    op = Routing("dispatch", 4096, 7168, 2, 16, 1, 1, fp8=True)
    prices = prices_of(Constants(streaming_rate=0.8), dp=8, ep=8, dispatcher="hybridep", expert_imbalance=1.25)
    moved, group = ExpertExchange(4096, 7168, 16, 2, None, 1.25), prices.groups["ep"]
    rows = 4096 * 1.25 * (29 / 15 + 2)
    out_s, home_s = routing_price(op, prices)
    alone_s = [
        dispatch_s(moved, group, GPUS, "hybridep", True).seconds,
        combine_s(moved, group, GPUS, "hybridep").seconds,
    ]
    low, high = rows * 7168 * (1 + 4 / 128), rows * 7168 * 2
    assert out_s - alone_s[0] == pytest.approx(streaming_s(PART, low, "permute") / 0.8)
    assert home_s - alone_s[1] == pytest.approx(streaming_s(PART, high, "permute") / 0.8)


def test_an_exchange_without_a_gather_in_backward_pays_no_latency_of_one() -> None:
    """A ring of keys gathers nothing again; with sequence parallelism a gather takes what it takes alone."""
    prices = prices_of(cp=4, tp=2, dp=8)
    assert price(replace(RING, forward_bytes=1e6), prices).regather_s == 0.0
    again = price(replace(GATHER, regather_bytes=1e6), prices)
    assert again.regather_s == pytest.approx(float(collective_s("all_gather", 1e6, Group(2.0, 2.0), GPUS).seconds))


def test_a_block_keeps_its_exchanges_apart() -> None:
    """Towards the experts go dispatch and, in backward, combine; home the other two. Again, before backward, both."""
    shared = Matmul("shared_fc1", 4096, 2048, 7168, modules=("shared_experts",))
    work = Work((routing("dispatch"), shared, routing("combine")), ())
    prices = prices_of(recompute=Recompute("full"))
    cost = block_cost(work, prices, whole_layer_again=True)
    out_s, home_s = routing_price(routing("dispatch"), prices)
    assert cost.routing_forward == cost.routing_backward == Exchanges(out_s, home_s)
    assert cost.routing_forward.total_s == out_s + home_s
    assert cost.routing_recompute_s == pytest.approx(out_s + home_s)
    whole = price(shared, prices)
    assert cost.shared_s == (whole.forward_s, whole.input_s + whole.weight_s)
    assert cost.forward.total_s == whole.forward_s
    assert cost.input.total_s == pytest.approx(whole.input_s + whole.forward_s)
    assert cost.weight.total_s == whole.weight_s
    assert dict(cost.evidence_s) == pytest.approx({"measured": whole.forward_s + whole.input_s + whole.weight_s})
    once = block_cost(work, prices_of(), whole_layer_again=True)
    assert once.routing_recompute_s == 0
    assert once.input.total_s == whole.input_s


# ---- half a layer

ROW, COLUMN = Matmul("out", 1, 1, 1), Matmul("qkv", 1, 1, 1, column=True)
ATTENTION = CoreAttention("core_attention", 1, 1, 1, 1, 1, 1, 1, True)


def test_a_collective_waits_for_the_last_of_its_ranks() -> None:
    """Arrivals spread by 10 us: the last of 8 ranks is 1.42360 spreads late, whatever they exchange."""
    waits = replace(NEUTRAL, collective_wait_s=1e-5)
    for size_bytes in (1e3, 1e8):
        op = Exchange("in", "tp", "all_gather", "reduce_scatter", size_bytes, size_bytes)
        prompt, late = (price(op, prices_of(constants, dp=8, tp=8, ep=1)) for constants in (NEUTRAL, waits))
        assert late.forward_s - prompt.forward_s == pytest.approx(1.4236e-5, rel=1e-4)
        assert late.input_s - prompt.input_s == pytest.approx(1.4236e-5, rel=1e-4)
        assert late.regather_s == prompt.regather_s == 0.0, "nothing to gather again"
        assert price(op, prices_of(waits)) == price(op, prices_of()), "one rank waits for nobody"


GATHER = Exchange("in", "tp", "all_gather", "reduce_scatter", before_column=True)
SCATTER = Exchange("out", "tp", "reduce_scatter", "all_gather")
EXPERTS = Exchange("experts", "etp", "all_gather", "reduce_scatter")
RING = Exchange("ring", "cp", "send_recv", "send_recv", behind_attention=True)
HEADS = Exchange("heads", "cp", "all_to_all", "all_to_all")
NORM = Pass("norm", "norm", 1, 1)


def priced_forward(gather_s: float = 3.0) -> list[tuple[Operator, Price]]:
    seconds: list[tuple[Operator, float]] = [
        (COLUMN, 6.0), (ROW, 4.0), (ATTENTION, 4.0), (NORM, 1.0), (GATHER, gather_s), (SCATTER, 2.0), (EXPERTS, 0.5),
        (RING, 5.0), (HEADS, 0.25),
    ]  # fmt: skip
    return [(op, Price(forward_s=each, input_s=100.0, weight_s=100.0)) for op, each in seconds]


@pytest.mark.parametrize(
    ("gather_s", "changes", "tp_s"),
    [
        (3.0, {}, 3 + 2 + 0.5),
        (3.0, {"overlap": Overlap(tp_comm=True)}, 5 / 4 + 0.5),  # the last of four chunks
        (13.0, {"overlap": Overlap(tp_comm=True)}, 15 - 10 + 0.5),  # what outlasts 10 s of products
        (3.0, {"overlap": Overlap(tp_comm=True), "precision": "fp8-rowwise"}, 3 + 2 / 4 + 0.5),  # reductions alone
    ],
)
def test_forward_of_half_a_layer(gather_s: float, changes: dict[str, Any], tp_s: float) -> None:
    """Products 10 s, attention 4, a pass 1; of the ring's 5 s one outlasts attention, heads change places openly."""
    done = forward_seconds(priced_forward(gather_s), replace(PLAN, **changes))
    assert done == Seconds(compute_s=15.0, tp_s=pytest.approx(tp_s), cp_s=0.25 + 1.0)


def priced_backward(reduce_s: float, regather_s: float = 4.0) -> list[tuple[Operator, Price]]:
    given: list[tuple[Operator, Price]] = [
        (COLUMN, Price(input_s=20.0, weight_s=30.0)),
        (ROW, Price(input_s=6.0, weight_s=7.0)),
        (ATTENTION, Price(input_s=8.0)),
        (NORM, Price(input_s=1.0)),
        (GATHER, Price(input_s=reduce_s, regather_s=regather_s)),
        (SCATTER, Price(input_s=2.0)),
        (EXPERTS, Price(input_s=0.5)),
        (RING, Price(input_s=11.0)),
        (HEADS, Price(input_s=0.25)),
    ]
    return [(op, replace(each, forward_s=100.0)) for op, each in given]


@pytest.mark.parametrize(
    ("beside", "reduce_s", "tp_s"),
    [
        (False, 9.0, 9 + 2),
        (True, 9.0, 2 + 9 / 10),  # hidden behind 30 s of the column's weight gradient, but for a tenth of the SMs
        (True, 50.0, 2 + 20 + 30 / 10),  # 20 s outlast it
    ],
)
def test_backward_of_half_a_layer(beside: bool, reduce_s: float, tp_s: float) -> None:
    """24 of 240 SMs carry collectives: 4 s of gathering again beside 26 s of products cost a tenth of them."""
    plan = replace(PLAN, stack=stack_of(async_tp_backward=beside))
    done = backward_seconds(priced_backward(reduce_s), plan, 240)
    assert done == Seconds(compute_s=35.0, tp_s=pytest.approx(tp_s + 0.4 + 0.5), cp_s=0.25 + 3.0)


def test_gathering_again_outlasts_products_alone() -> None:
    """30 s beside 26 s of products, whatever else computes: 4 s, and a tenth of 26."""
    plan = replace(PLAN, stack=stack_of(async_tp_backward=False))
    done = backward_seconds(priced_backward(9.0, regather_s=30.0), plan, 240)
    assert done.tp_s == pytest.approx(9 + 2 + 4 + 2.6 + 0.5)


# ---- operators


@pytest.mark.parametrize(("name", "grouped"), [("qkv", False), ("expert_fc1", True)])
@pytest.mark.parametrize(("quantized", "precision"), [(True, "fp8-blockwise"), (False, "bf16")])
def test_a_product_and_its_gradients(name: str, grouped: bool, quantized: bool, precision: str) -> None:
    """[m, k][k, n], [m, n][n, k], [n, m][m, k]; four of them, each by itself or in one kernel."""
    constants = Constants(gemm_rate=0.8, low_gemm_rate=0.7, grouped_rate=0.9)
    op = Matmul(name, 512, 1024, 2048, groups=4, quantized=quantized)
    found = price(op, prices_of(constants, precision="fp8-blockwise"))
    rate = (0.7 if quantized else 0.8) * (0.9 if grouped else 1.0)
    shapes = (("forward", 512, 1024, 2048), ("dgrad", 512, 2048, 1024), ("wgrad", 1024, 2048, 512))

    def seconds(role: str, m: int, n: int, k: int) -> float:
        if grouped:
            return float(grouped_gemm_s(PART, precision, 4, m, n, k, role=role))  # type: ignore[arg-type]
        return 4 * float(gemm_s(PART, precision, m, n, k, role=role))  # type: ignore[arg-type]

    expected = [seconds(*shape) / rate for shape in shapes]
    assert (found.forward_s, found.input_s, found.weight_s) == pytest.approx(tuple(expected))
    assert (found.forward_kernels, found.backward_kernels) == (1, 2)
    frozen = price(replace(op, frozen=True), prices_of(constants, precision="fp8-blockwise"))
    assert (frozen.input_s, frozen.weight_s, frozen.backward_kernels) == (found.input_s, 0.0, 1)


@pytest.mark.parametrize(("how", "moved", "kernels"), [("hook", 2 + 4 + 4, 3), ("cast", 2 + 4 + 4 + 4 + 4, 4)])
def test_gradients_that_no_product_adds_up(how: str, moved: int, kernels: int) -> None:
    """Bytes for each of 4 x 1024 x 2048 weights, in kernels of their own."""
    op = Matmul("qkv", 512, 1024, 2048, groups=4)
    fused = price(op, prices_of(stack=stack_of(gradient_accumulation="fused")))
    own = price(op, prices_of(Constants(streaming_rate=0.5), stack=stack_of(gradient_accumulation=how)))
    product_s = 4 * gemm_s(PART, "bf16", 1024, 2048, 512, role="wgrad", accumulate=False)
    added_s = streaming_s(PART, moved * 4 * 1024 * 2048, "elementwise") / 0.5
    assert own.weight_s == pytest.approx(product_s + added_s)
    assert own.backward_kernels == kernels
    assert own.forward_s == fused.forward_s


@pytest.mark.parametrize(("causal", "foreign_keys"), [(True, 1024), (False, 2048)])
def test_attention_over_a_ring(causal: bool, foreign_keys: int) -> None:
    """2048 queries of 8192 keys: the block at home, then three foreign ones, of which causality needs half."""
    op = CoreAttention("core_attention", 1, 2048, 8192, 16, 4, 128, 128, causal)
    found = price(op, prices_of(Constants(attention_rate=0.5)))

    def seconds(keys: int, causal: bool, backward: bool) -> float:
        shape: dict[str, Any] = {"batch": 1, "heads": 16, "kv_heads": 4, "qk_dim": 128, "v_dim": 128, "window": None}
        return float(
            attention_s(PART, "bf16", queries=2048, keys=keys, causal=causal, backward=backward, flash=True, **shape)
        )

    expected = [seconds(2048, causal, back) + 3 * seconds(foreign_keys, False, back) for back in (False, True)]
    assert (found.forward_s, found.input_s) == pytest.approx((2 * expected[0], 2 * expected[1]))
    assert (found.forward_kernels, found.backward_kernels) == (1, 3)
    unfused = price(op, prices_of(stack=stack_of(flash_attention=False)))
    assert (unfused.forward_kernels, unfused.backward_kernels) == (5, 8)


def test_passes_and_scans() -> None:
    """A kernel moves its share of the bytes; what moves before the weight gradient, in one more."""
    op = Pass("norm", "norm", 8e9, 12e9, forward_kernels=2, backward_kernels=3, weight_bytes=1e9)
    found = price(op, prices_of(Constants(streaming_rate=0.5)))
    assert found.forward_s == pytest.approx(2 * 2 * streaming_s(PART, 4e9, "norm"))
    assert found.input_s == pytest.approx(2 * 3 * streaming_s(PART, 4e9, "norm"))
    assert found.weight_s == pytest.approx(2 * streaming_s(PART, 1e9, "norm"))
    assert (found.forward_kernels, found.backward_kernels) == (2, 3)
    assert price(replace(op, weight_bytes=0.0), prices_of()).weight_s == 0.0
    kernels = (Kernel("a", 1e12, 1e6), Kernel("b", 1e6, 1e9))
    scan = price(Scan("scan", kernels, (*kernels, Kernel("c", 1e12, 0.0))), prices_of())
    each_s = [scan_s(PART, 1e12, 1e6), scan_s(PART, 1e6, 1e9), scan_s(PART, 1e12, 0.0)]
    assert (scan.forward_s, scan.input_s) == pytest.approx((sum(each_s[:2]), sum(each_s)))
    assert (scan.forward_kernels, scan.backward_kernels) == (2, 3)


# ---- launches


def test_kernels_of_experts() -> None:
    """Norm and router ahead of the routing, two grouped products of 4 experts and a pass behind it; the router again.
    One launch and a half more for each local expert and direction where no grouped kernel does it all."""
    works: list[Operator] = [
        Pass("mlp_norm", "norm", 1, 1), Matmul("router", 1, 1, 1), Matmul("expert_fc1", 1, 1, 1, groups=4),
        Matmul("expert_fc2", 1, 1, 1, groups=4), Pass("unpermute", "permute", 1, 1),
    ]  # fmt: skip
    computing = [(op, Price(backward_kernels=3)) for op in works]
    again = [(works[1], Price(forward_kernels=7))]
    work = Work((*works, routing("dispatch")), ())
    constants = Constants(expert_launches=1.5)
    host = launches(work, computing, again, prices_of(constants, stack=stack_of(fused_experts=False)))
    assert (host.forward, host.backward, host.waiting) == (6 + 5, 6 + 15 + 7, 6 + 3)
    assert host.reads
    fused = launches(work, computing, again, prices_of(constants, stack=stack_of(fused_experts=True)))
    assert (fused.forward, fused.backward, fused.waiting) == (5, 15 + 7, 3)
    padded = launches(work, computing, again, prices_of(constants, capacity_factor=1.0))
    assert (padded.waiting, padded.reads) == (0, False)
    dense = launches(Work((works[0],), ()), computing[:1], [], prices_of(constants))
    assert (dense.forward, dense.waiting, dense.reads) == (1, 0, False)


def test_experts_with_scales_that_are_found_by_expert_are_launched_one_by_one() -> None:
    """Largest value, scale and cast of each expert's tensors, or casts and swizzles of its blocks; 16 bit has none."""
    part = cluster(8, "hgx-h100", "single-switch").accelerator
    plan = Plan(dp=8, micro_batch_size=1, global_batch_size=8)
    launched = {
        precision: constants_for(part, replace(plan, precision=precision)).expert_launches
        for precision in ("bf16", "fp8-tensorwise", "mxfp8")
    }
    assert launched["fp8-tensorwise"] == launched["mxfp8"] > 10
    assert launched["bf16"] == 0


# ---- constants


def test_an_entry_holds_for_what_it_names() -> None:
    entry = {"constant": "gemm_rate", "value": 0.9}
    assert holds_for(entry, PART, PLAN)
    assert holds_for({**entry, "parts": ["h100-*"], "dispatchers": ["deepep"], "bits": ["16"]}, PART, PLAN)
    for key, word in (
        ("parts", "a100-*"), ("dispatchers", "alltoall"), ("bits", "8"), ("precisions", "fp8-*"), ("shardings", "full"),
        ("contexts", "split"),
    ):  # fmt: skip
        assert not holds_for({**entry, key: [word]}, PART, PLAN), key
    assert holds_for({**entry, "contexts": ["split"]}, PART, replace(PLAN, cp=2))
    flash = {**entry, "behaviours": {"flash_version": [3], "fused_loss": [False]}}
    assert holds_for(flash, PART, replace(PLAN, stack=stack_of(flash_version=3, fused_loss=False)))
    assert not holds_for(flash, PART, replace(PLAN, stack=stack_of(flash_version=3, fused_loss=True)))


def test_rates_multiply_and_others_replace() -> None:
    entries: list[dict[str, Any]] = [
        {"constant": "dp_rate", "value": 0.5}, {"constant": "dp_rate", "value": 0.8},
        {"constant": "rank_noise", "value": 0.1}, {"constant": "rank_noise", "value": 0.2},
        {"constant": "tp_rate", "value": 0.1, "parts": ["a100-*"]},
    ]  # fmt: skip
    found = combined(entries, PART, PLAN)
    assert found == replace(NEUTRAL, dp_rate=pytest.approx(0.4), rank_noise=0.2)


def test_a_sustained_rate_follows_the_clock_up_to_that_of_benchmarks() -> None:
    assert [clocked(0.8, scale) for scale in (1.0, 0.5, 1.1, 2.0)] == pytest.approx([0.8, 0.4, 0.88, 1.0])
    assert clocked(1.2, 1.5) == 1.2


@pytest.mark.parametrize("entry", ['constant = "gem_rate"\nvalue = 1.0', 'constant = "gemm_rate"\nvalue = "fast"'])
def test_an_entry_names_a_constant_and_a_number(entry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "constants.toml").write_text(f'[[constants]]\nname = "mine"\n{entry}\n')
    monkeypatch.setattr(constants_module, "DATA", tmp_path / "constants.toml")
    with pytest.raises(ValueError, match="'mine' must name one of gemm_rate"):
        entries.__wrapped__()
