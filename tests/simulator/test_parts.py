"""Parts that differ from measured ones: what they keep of their base, what scales, and laws of better machines."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest

from hardware import catalogue
from hardware.kernels import clock_scale, evidence, gemm_s, kernel_set
from hardware.kernels.scaling import SCALE_ERROR, peak_scale, scaling_words
from hardware.problems import InputError
from simulator.cost.constants import borrowed_spread, clocked, constants_for, entries
from simulator.predict.prediction import Prediction, evaluate
from simulator.predict.simulate import simulate_step
from simulator.scenario.schema import Scenario, load_scenario
from tests.simulator.machines import BETTER

SCENARIOS = Path(__file__).parents[2] / "scenarios"
KIMI = SCENARIOS / "kimi-k2-10240xh100.yaml"


def predicted(change: str = "", path: Path = KIMI) -> Prediction:
    """The scenario with one change of its accelerator, `key: value`."""
    node = [f"cluster.node={{base: hgx-h100, accelerator: {{{change}}}}}"] if change else []
    return evaluate(load_scenario(path, node))


@pytest.fixture(scope="module")
def shipped() -> Prediction:
    return predicted()


@pytest.mark.parametrize("change", ["price: 2 USD/h", "tdp: 700 W", "power_limit: 700 W", "peak: {bf16: 989 TFLOP/s}"])
def test_a_derived_part_with_an_unchanged_key_predicts_its_base(shipped: Prediction, change: str) -> None:
    derived = predicted(change)
    assert derived.step_time_s == shipped.step_time_s
    assert derived.step_time_interval_s == shipped.step_time_interval_s
    assert derived.evidence == shipped.evidence
    assert not [text for text in derived.warnings if "scaled from" in text]


@pytest.mark.parametrize("change", ["power_limit: 500 W", "tdp: 500 W"])
def test_less_power_slows_by_the_cube_root_of_the_watts_above_idle(shipped: Prediction, change: str) -> None:
    part = catalogue.accelerator({"base": "h100-sxm-80gb", **dict([change.split(": ")])})
    assert clock_scale(part) == pytest.approx(((500 - 70) / (700 - 70)) ** (1 / 3))
    derived = predicted(change)
    assert derived.step_time_s > 1.03 * shipped.step_time_s
    assert derived.evidence["assumed"] > shipped.evidence["assumed"]
    assert any("sustained clock x 0.88 (500 W for 700 W)" in text for text in derived.warnings)
    assert width(derived) > width(shipped)


def test_the_clock_of_a_part_with_less_to_feed_says_so() -> None:
    """Half the products at the same watts: the law gives the clock 2^(1/3), 1.26, and 700 W for 700 W alone do not."""
    part = catalogue.accelerator({"base": "h100-sxm-80gb", "peak": {"bf16": "494.5 TFLOP/s", "fp16": "494.5 TFLOP/s"}})
    (words,) = scaling_words(part)
    assert "sustained clock x 1.26 (700 W for 700 W, which feed 0.5 of the peak)" in words


def test_the_power_law_lies_within_what_published_runs_at_two_limits_allow() -> None:
    """H100 ran at 500 and at 700 W; other things than the clock differ too (memory, software)."""
    law = ((500 - 70) / (700 - 70)) ** (1 / 3)
    by_name = {entry["name"]: entry for entry in entries()}
    for bits in (16, 8):
        slow, fast = (by_name[f"{bits}-bit products, Hopper at {watts} W"] for watts in (500, 700))
        assert slow["low"] / fast["value"] < law < slow["high"] / fast["value"]


def test_more_power_ends_at_the_clock_of_short_benchmarks() -> None:
    assert clocked(0.8, 1.1) == pytest.approx(0.88)
    assert clocked(0.8, 2.0) == 1.0
    assert clocked(1.038, 2.0) == 1.038, "what was fitted above it stays"
    assert clocked(0.8, 0.5) == 0.4


def test_peaks_act_both_ways_and_memory_remains() -> None:
    base = catalogue.accelerator("h100")
    large, thin = (8192, 8192, 8192), (16, 8192, 8192)
    for factor in (0.5, 2.0, 10.0):
        part = replace(base, peak_flops_per_s={key: factor * peak for key, peak in base.peak_flops_per_s.items()})
        assert gemm_s(base, "bf16", *large) / gemm_s(part, "bf16", *large) == pytest.approx(factor, rel=0.45)
        assert evidence(part, "gemm") == "assumed"
    assert gemm_s(part, "bf16", *thin) > 0.5 * gemm_s(base, "bf16", *thin), "bound by its weight's bytes"


@pytest.mark.untraced
def test_a_peak_that_a_plan_does_not_use_leaves_its_interval() -> None:
    """In 16 bit an 8-bit peak of a twentieth says nothing of the step."""
    whole, slow = (predicted(f"peak: {{fp8: {peak} TFLOP/s}}") for peak in (1979, 100))
    assert slow.step_time_s == whole.step_time_s
    assert slow.step_time_interval_s == pytest.approx(whole.step_time_interval_s)
    changed = predicted("peak: {bf16: 500 TFLOP/s}")
    assert ratio(changed) > ratio(whole)


def ratio(prediction: Prediction) -> float:
    low_s, high_s = prediction.step_time_interval_s
    return high_s / low_s


@pytest.mark.untraced
def test_tenfold_and_thousandfold_peaks_differ() -> None:
    steps = [predicted(f"peak: {{bf16: {peak} TFLOP/s}}").step_time_s for peak in (500, 989, 2000, 4000)]
    assert steps == sorted(steps, reverse=True)
    assert len(set(steps)) == len(steps)


def test_a_smaller_chip_needs_its_share_of_the_watts() -> None:
    base = catalogue.accelerator("h100")
    half = replace(base, peak_flops_per_s={key: peak / 2 for key, peak in base.peak_flops_per_s.items()}, tdp_w=385.0)
    assert clock_scale(half) == pytest.approx(1.0), "(385 - 70) of (700 - 70) / 2"


def test_an_own_part_is_scaled_from_the_part_whose_kernels_it_names(tmp_path: Path) -> None:
    base = catalogue.accelerator("h100")
    text = (
        "name: X1\ngeneration: hopper\npeak: {bf16: 1978 TFLOP/s}\nmemory_capacity: 64 GiB\nmemory_bandwidth: 2 TB/s\n"
        "sm_count: 132\ntdp: 700 W\nidle: 70 W\nhost_bandwidth: 50 GB/s\nkernels: h100-sxm-80gb\n"
    )
    (tmp_path / "gpu.yaml").write_text(text)
    (tmp_path / "said.yaml").write_text(text + "kernel_scale: 1.5\n")
    own = catalogue.accelerator(str(tmp_path / "gpu.yaml"))
    assert peak_scale(own, "bf16") == 2.0
    assert own.corrected_as == base.corrected_as == "h100-sxm-80gb"
    said = catalogue.accelerator(str(tmp_path / "said.yaml"))
    assert peak_scale(said, "bf16") == 1.0, "its own word on the scale stands alone"
    assert said.kernel_scale == 1.5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"power_limit": "900 W"}, "above the part's 700 W"),
        ({"power_limit": "60 W"}, "no more than the part draws idle"),
        ({"tdp": "50 W"}, "no more than the 70 W"),
        ({"derived from": "mi300x"}, "is not known"),
    ],
)
def test_what_no_part_can_draw_is_refused(change: dict[str, str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        catalogue.accelerator({"base": "h100", **change})


@pytest.mark.parametrize(
    ("name", "sibling"),
    [("mi300x", "h100-sxm-80gb"), ("mi325x", "h100-sxm-80gb"), ("mi355x", "gb300-nvl72"), ("v100", "a100-sxm-80gb")],
)
def test_parts_without_measured_kernels_take_a_siblings_rates_and_say_so(name: str, sibling: str) -> None:
    part = catalogue.accelerator(name)
    plan = load_scenario(SCENARIOS / "tiny.yaml").plan
    expected = constants_for(catalogue.accelerator(sibling), plan)
    found = constants_for(part, plan)
    assert (found.gemm_rate, found.low_gemm_rate) == (expected.gemm_rate, expected.low_gemm_rate)
    assert found.gemm_rate < 1
    assert evidence(part, "gemm", "fp16") == "assumed"


@pytest.mark.untraced
def test_an_unmeasured_generation_is_assumed_warned_of_and_less_sure() -> None:
    path = SCENARIOS / "qwen3-235b-256xh100.yaml"
    known = evaluate(load_scenario(path))
    amd = evaluate(load_scenario(path, ["cluster.node=mi355x-platform"]))
    assert amd.evidence["assumed"] > 0.9, "kernels and collectives of another generation"
    assert any("no kernel of MI355X's generation (cdna4) was measured" in text for text in amd.warnings)
    assert width(amd) > max(width(known), 2 * 1.28 * borrowed_spread()), "like runs' spread and the borrowed clock's"


def test_the_errors_of_borrowing_and_scaling_come_from_the_measured_parts() -> None:
    """Five sustained clocks of three generations; seven parts' products beside their peaks."""
    rates = {"ampere": [0.8766], "hopper": [0.8113, 0.701], "blackwell": [0.6633, 0.7625]}
    apart = [math.log(a / b) for one, other in combinations(rates, 2) for a in rates[one] for b in rates[other]]
    assert borrowed_spread() == pytest.approx(float(np.sqrt(np.mean(np.square(apart)))), rel=0.15)
    plan = load_scenario(SCENARIOS / "tiny.yaml").plan
    names = ("a100-sxm-80gb", "h100-sxm-80gb", "h200-sxm-141gb", "b200-sxm-180gb", "b300-sxm-288gb", "gb200-nvl72",
             "gb300-nvl72")  # fmt: skip
    parts = [catalogue.accelerator(name) for name in names]
    reached = [kernel_set(part.kernels).gemm["bf16"].sustained_flops_per_s * constants_for(part, plan).gemm_rate
               for part in parts]  # fmt: skip
    off = []
    for (one, a), (other, b) in combinations(zip(parts, reached, strict=True), 2):
        if one.generation != other.generation:
            promised = math.log(one.peak_flops_per_s["bf16"] / other.peak_flops_per_s["bf16"])
            off.append((math.log(a / b) - promised) / promised)
    assert pytest.approx(float(np.sqrt(np.mean(np.square(off)))), rel=0.2) == SCALE_ERROR


def test_delayed_scaling_is_slow_in_the_libraries_of_early_2025_alone() -> None:
    path = SCENARIOS / "deepseek-v3-256xgb200.yaml"
    plan = replace(load_scenario(path).plan, precision="fp8-delayed")
    part = catalogue.accelerator("gb200")
    early = replace(plan, stack=replace(plan.stack, delayed_scaling="early"))
    assert constants_for(part, early).low_gemm_rate < 0.9 * constants_for(part, plan).low_gemm_rate
    hopper = catalogue.accelerator("h100")
    assert constants_for(hopper, early) == constants_for(hopper, plan)


# ---- 32-bit training


FP32_RUN = [
    "model=llama-3-70b",
    "cluster={gpus: 16, node: dgx-a100-80, fabric: hdr-rail-2tier}",
    "plan={tp: 8, pp: 2, sequence_parallel: true, micro_batch_size: 1, global_batch_size: 32, precision: fp32, "
    "recompute: {granularity: full}}",
    "run={seq_length: 4096, tokens: 1B}",
]


def fp32_run(*more: str) -> Prediction:
    return evaluate(load_scenario(SCENARIOS / "tiny.yaml", [*FP32_RUN, *more]))


def test_fp32_weights_are_their_own_main_copy() -> None:
    """Llama-3-70B on 16 GPUs: 70.55e9 / 16 parameters with weight, gradient and two moments of 4 bytes: 65.7 GiB."""
    found = fp32_run()
    memory = found.stages[0].memory_bytes
    states = memory["weights"] + memory["gradients"] + memory["optimizer"]
    assert states == pytest.approx(65.7 * 2**30, rel=1e-3)
    assert found.fits
    assert not [text for text in found.warnings if "main_params" in text]


def test_a_main_copy_beside_fp32_weights_is_left_out_aloud() -> None:
    asked = fp32_run("plan.optimizer.main_params=fp32")
    assert asked.peak_memory_bytes == fp32_run().peak_memory_bytes
    assert any("main_params fp32: does nothing" in text for text in asked.warnings)


def test_fsdp_keeps_fp32_weights_where_no_main_copy_is() -> None:
    """Under full sharding the shards of a 16-bit plan are the main copy; those of a 32-bit plan are the weights."""

    def states(precision: str) -> float:
        sets = ["plan.stack=pytorch-fsdp-2025", "plan.tp=1", "plan.pp=1", "plan.sequence_parallel=false",
                "plan.sharding=full", f"plan.precision={precision}"]  # fmt: skip
        memory = fp32_run(*sets).stages[0].memory_bytes
        return memory["weights"] + memory["optimizer"]

    assert states("fp32") == states("bf16"), "12 bytes per parameter either way"


def test_tf32_products_run_on_the_tensor_cores() -> None:
    part = catalogue.accelerator("a100-sxm-80gb")
    large = (8192, 8192, 8192)
    ratio = gemm_s(part, "fp32", *large) / gemm_s(part, "tf32", *large)
    assert ratio == pytest.approx(156 / 19.5, rel=0.15)
    whole, short = fp32_run(), fp32_run("plan.precision=tf32")
    assert short.step_time_s < 0.5 * whole.step_time_s
    assert short.peak_memory_bytes == whole.peak_memory_bytes
    assert short.evidence["nominal"] > 0.5


# ---- laws of better machines


def width(prediction: Prediction) -> float:
    low, high = prediction.step_time_interval_s
    return math.log(high / low)


def random_plans(count: int) -> list[Scenario]:
    """Legal layouts of a small dense model on two servers, drawn with a fixed seed."""
    random = np.random.default_rng(12)
    found = []
    while len(found) < count:
        tp, pp = (int(random.choice((1, 2, 4))) for _ in range(2))
        sets = ["model=llama-3.1-8b", "cluster={gpus: 16, node: hgx-h100, fabric: ndr-rail-2tier}",
                f"plan={{tp: {tp}, pp: {pp}, micro_batch_size: 1, global_batch_size: 64, "
                f"sequence_parallel: {str(tp > 1).lower()}, precision: {random.choice(('bf16', 'fp8-tensorwise'))}}}",
                "run={seq_length: 4096, tokens: 1B}"]  # fmt: skip
        found.append(load_scenario(SCENARIOS / "tiny.yaml", sets))
    return found


def step_s(scenario: Scenario) -> float:
    return simulate_step(scenario).step_time_s


@pytest.mark.parametrize("what", BETTER)
def test_a_better_machine_never_makes_a_step_slower(what: str) -> None:
    for scenario in random_plans(4):
        steps = [step_s(BETTER[what](scenario, by)) for by in (0.5, 1.0, 1.5, 4.0)]
        assert all(later <= before * (1 + 1e-9) for before, later in pairwise(steps)), steps


@pytest.mark.parametrize("what", ["peak", "memory bandwidth", "power", "scale-up bandwidth", "NIC bandwidth"])
def test_what_is_the_bottleneck_moves_the_step(what: str) -> None:
    scenario = random_plans(1)[0]
    slow = BETTER[what](scenario, 0.2)
    assert step_s(BETTER[what](slow, 2.0)) < 0.99 * step_s(slow)


# ZeRO-Infinity: parameters on drives, the optimizer on the hosts, collectives for every small matrix.
FROM_DRIVES = [
    "model=llama-3.1-8b", "cluster={gpus: 64, node: hgx-h100, fabric: ndr-rail-2tier}",
    "plan={micro_batch_size: 1, global_batch_size: 64, sharding: full, recompute: {granularity: full}, "
    "stack: {framework: deepspeed}, offload: {optimizer: 100%, params: nvme}}", "run={seq_length: 1024, tokens: 1B}",
]  # fmt: skip
# Experts over the spine.
WIDE_EXPERTS = [
    "model=qwen3-30b-a3b", "cluster={gpus: 512, node: hgx-h100, fabric: ndr-rail-2tier}",
    "plan={ep: 64, micro_batch_size: 1, global_batch_size: 512, dispatcher: deepep}",
    "run={seq_length: 512, tokens: 1B}",
]  # fmt: skip


@pytest.mark.parametrize(
    ("what", "sets"),
    [
        ("host bandwidth", FROM_DRIVES), ("drives", FROM_DRIVES), ("NIC latency", FROM_DRIVES),
        ("switch latency", WIDE_EXPERTS), ("uplinks", WIDE_EXPERTS),
    ],
)  # fmt: skip
def test_hosts_latencies_and_uplinks_move_a_step_that_waits_for_them(what: str, sets: list[str]) -> None:
    slow = BETTER[what](load_scenario(SCENARIOS / "tiny.yaml", sets), 0.2)
    assert step_s(BETTER[what](slow, 2.0)) < 0.999 * step_s(slow)
