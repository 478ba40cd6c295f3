"""The report calls one thing by one name and says what each figure is of: phase, peak, links, rates, who gave it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hardware.problems import InputError
from simulator.planner.compare import compare
from simulator.planner.resized import on_cluster, why_fabric
from simulator.planner.variants import entries
from simulator.predict.prediction import Prediction, evaluate
from simulator.report.document import evaluate_document
from simulator.report.terminal import evaluation_text
from simulator.scenario.schema import load_scenario
from tests.command import ROOT

TINY = ROOT / "scenarios" / "tiny.yaml"
QUICK = "run.simulation={runs: 3}"
PHASES = "run.phases=[{name: main}, {name: long, tokens: 0.1B, seq_length: 8192, plan: {recompute: full}}]"
FASTER = "cluster.node={base: hgx-h100, accelerator: {peak: {bf16: 1978 TFLOP/s}}}"


def predicted(*sets: str) -> Prediction:
    return evaluate(load_scenario(TINY, [QUICK, *sets]))


def told(prediction: Prediction) -> str:
    return " ".join(evaluation_text(evaluate_document(prediction)).split())


def document(*sets: str) -> dict[str, Any]:
    return evaluate_document(predicted(*sets))


# ---- phases


def test_figures_of_one_phase_name_it() -> None:
    text = told(predicted(PHASES))
    for block in ("Step time", "Throughput", "Model FLOPs", "Work", "Network", "Memory"):
        assert ", phase main" in text[text.index(block) :][:260], block
    assert ", phase" not in told(predicted())


def test_every_phase_has_its_speed_mfu_and_memory_in_report_and_document() -> None:
    text, phases = told(predicted(PHASES)), document(PHASES)["phases"]
    alone = predicted("run.seq_length=8192", "plan.recompute=full")
    long = phases[1]
    assert long["tokens_per_s"] == alone.tokens_per_s
    assert long["tokens_per_s_per_gpu"] == alone.tokens_per_s_per_gpu
    assert long["model_flops_per_s_per_gpu"] == alone.model_flops_per_s_per_gpu
    assert long["gpu_hours_per_1e12_tokens"] == pytest.approx(alone.gpu_hours_per_1e12_tokens)
    row = text[text.index(" long 100 M") :]
    assert row.index(f"{100 * alone.mfu_fraction:.1f} %") < row.index("GiB") < row.index("recompute.granularity full")


# ---- peak


def test_mfu_refers_to_the_data_sheet_where_the_scenario_changes_the_peak() -> None:
    changed, text = predicted(FASTER), told(predicted(FASTER))
    assert changed.mfu_peak_flops_per_s == 989e12
    assert changed.mfu_fraction == pytest.approx(changed.model_flops_per_s_per_gpu / 989e12)
    half = f"({50 * changed.mfu_fraction:.1f} % of the 1978 TFLOP/s that the scenario makes of it)"
    assert f"MFU of the data sheet's dense 16-bit peak of 989 TFLOP/s {half}" in text


def test_a_part_of_the_users_own_has_its_own_data_sheet(tmp_path: Path) -> None:
    part = (ROOT / "hardware" / "data" / "accelerators" / "h100-sxm-80gb.yaml").read_text(encoding="utf-8")
    own = tmp_path / "gpu.yaml"
    own.write_text(part.replace("bf16: {value: 989", "bf16: {value: 1100"), encoding="utf-8")
    prediction = predicted(f"cluster.node={{base: hgx-h100, accelerator: {own}}}")
    assert prediction.mfu_peak_flops_per_s == prediction.scenario.cluster.accelerator.peak_flops_per_s["bf16"]
    assert "scenario makes of it" not in told(prediction)


# ---- links


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("cluster.node=mi300x-platform", "448 GB/s within domains of 8, 50 GB/s GPU to leaf"),
        (
            "cluster.fabric={base: ndr-rail-2tier, tiers: [{name: leaf, radix: 64, port_bandwidth: 25 GB/s, "
            "latency: 1us, reach_gpus: 256}]}",
            "450 GB/s within domains of 8, 25 GB/s GPU to leaf",
        ),
    ],
)
def test_links_have_the_names_and_speeds_of_the_network_table(change: str, words: str) -> None:
    """A mesh's seven links together, and a port slower than its NIC."""
    assert f"Links {words} (per GPU and direction)" in told(predicted(change))


# ---- failures and prices


def test_the_first_order_says_whose_rates_it_takes(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text("start_day,end_day,node,level,class,description\n0.001,0.002,0,Hardware,a,x\n", encoding="utf-8")
    assert "to first order at the mean failure rate" in told(predicted())
    replayed = predicted(f"run.fault_log={{file: {log}, covers: 90 d}}")
    assert "to first order at the fault log's own rates" in told(replayed)


@pytest.mark.parametrize(
    ("change", "topic"),
    [
        ("cluster.node={base: hgx-h100, accelerator: {price: 2 USD/h}}", "rent"),
        ("cluster.node={base: hgx-h100, accelerator: {price: {value: 2 USD/h, source: our offer}}}", "rent"),
        ("cluster.node={base: hgx-h100, overhead_power: 3 kW}", "server power"),
        ("cluster.fabric={base: ndr-rail-2tier, power_per_endpoint: 40 W}", "network power"),
    ],
)
def test_a_figure_that_the_user_gives_of_the_machines_is_not_assumed(change: str, topic: str) -> None:
    prediction = predicted(change)
    assert topic in {each.topic for each in prediction.stated}
    assert topic not in {each.topic for each in prediction.assumed}
    assert topic in {each.topic for each in predicted().assumed}


# ---- stacks, sizes, comparisons, searches


def test_plain_fp8_is_the_users_and_its_recipe_the_stacks() -> None:
    short, text = document("plan.precision=fp8"), told(predicted("plan.precision=fp8"))
    stack = short["scenario"]["stack"]
    assert "precision" not in stack["settings"]
    assert stack["fp8_means"] == short["scenario"]["plan"]["precision"]
    assert f"; its fp8 is {stack['fp8_means']}" in text
    assert document("plan.precision=fp8-delayed")["scenario"]["stack"]["fp8_means"] is None


def test_size_says_which_fabric_it_takes_and_why() -> None:
    own = load_scenario(TINY).cluster
    larger = on_cluster(load_scenario(TINY), 1024, "hgx-h100").cluster
    other = on_cluster(load_scenario(TINY), 64, "hgx-b300").cluster
    assert why_fabric(own, own) == ""
    assert why_fabric(own, larger).startswith("the plainest that reaches 1,024 GPUs and their spares")
    assert "for the ports of hgx-b300" in why_fabric(own, other)


def test_a_comparison_lists_phases_by_name_and_key() -> None:
    scenario = load_scenario(TINY, [QUICK, PHASES])
    longer = load_scenario(TINY, [QUICK, PHASES.replace("8192", "16384")])
    found = compare([scenario, longer])
    assert found.inputs == {"run.phases.long.seq_length": (8192, 16384)}


def test_a_refused_column_names_the_option_that_brought_it() -> None:
    for option in ("over", "others"):
        with pytest.raises(InputError) as caught:
            entries([TINY], common=["run.checkpoint.policy=hourly"], **{option: ["plan.ep=3"]})
        files = {problem.file for problem in caught.value.problems}
        assert f"{'--over' if option == 'over' else '--with'} plan.ep=3" in files
        assert "--set plan.ep=3" not in files
        assert "--set run.checkpoint.policy=hourly" in files


def test_a_sequence_of_one_token_is_priced() -> None:
    prediction = predicted("run.seq_length=1")
    assert 0 < prediction.mfu_fraction < predicted().mfu_fraction
    assert sum(prediction.breakdown_s.values()) == pytest.approx(prediction.step_time_s)


def test_one_replica_and_one_micro_batch_are_counted_in_the_singular() -> None:
    assert "; 32 micro-batches of 2 on one replica" in told(predicted("plan.tp=4", "plan.sequence_parallel=true"))
    few = predicted("plan.tp=1", "plan.pp=1", "plan.micro_batch_size=8")
    assert "; 1 micro-batch of 8 on each of 8 replicas" in told(few)
