"""What a prediction rests on is said: given or assumed, with its source, in the document and in the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hardware import catalogue
from hardware.facility import network_power_w, pue
from hardware.problems import InputError
from hardware.units import format_seconds
from simulator.cost.constants import constants_for
from simulator.predict.power import gpu_power_w, step_power_w
from simulator.predict.prediction import evaluate
from simulator.predict.premises import Premise
from simulator.report.document import evaluate_document
from simulator.report.terminal import evaluation_text
from simulator.scenario.schema import load_scenario

SCENARIOS = Path(__file__).parents[2] / "scenarios"
QUICK = "run.simulation={runs: 3}"


def said(*changes: str) -> tuple[dict[str, Premise], dict[str, Any], str]:
    """The premises of the smallest scenario by topic, its run, and its report in one line."""
    prediction = evaluate(load_scenario(SCENARIOS / "tiny.yaml", [QUICK, *changes]))
    document = evaluate_document(prediction)
    by_topic = {each.topic: each for each in (*prediction.stated, *prediction.assumed)}
    return by_topic, document["run"], " ".join(evaluation_text(document).split())


def test_what_nobody_gives_is_assumed_with_its_source() -> None:
    by_topic, _, text = said()
    assumed = {topic for topic, each in by_topic.items() if each.assumed}
    machines = {"GPU power", "server power", "network power", "PUE", "water"}
    assert assumed == {"stack", "rent", "failures", "checkpoints", "spares", "restart", "routing", *machines}
    for each in by_topic.values():
        assert each.text
        assert each.source
        assert each.text in text
    assert "observed on this generation (hopper)" in by_topic["failures"].text
    assert by_topic["PUE"].text == "1.3 (air cooling)"


def test_a_fabric_that_is_left_out_is_the_usual_one_and_named(tmp_path: Path) -> None:
    scenario = tmp_path / "no-fabric.yaml"
    text = (SCENARIOS / "qwen3-235b-256xh100.yaml").read_text()
    assert text.count("  fabric: ndr-rail-2tier\n") == 1
    scenario.write_text(text.replace("  fabric: ndr-rail-2tier\n", ""))
    prediction = evaluate(load_scenario(scenario, [QUICK]))
    named = evaluate(load_scenario(SCENARIOS / "qwen3-235b-256xh100.yaml", [QUICK]))
    (premise,) = (each for each in prediction.assumed if each.topic == "fabric")
    assert premise.text == prediction.scenario.cluster.fabric.name == "ndr-rail-2tier"
    assert prediction.step_time_s == named.step_time_s
    assert "fabric" not in {each.topic for each in (*named.stated, *named.assumed)}
    with pytest.raises(InputError, match=r"cluster.fabric: is missing, and no catalogue fabric .* reaches 4096"):
        load_scenario(scenario, ["cluster.node=dgx-v100", "cluster.gpus=4096", "plan.dp=auto"])


@pytest.mark.parametrize(
    ("change", "topic", "words"),
    [
        ("run.prices={gpu_hour: 2 USD/h}", "rent", "2 USD per GPU-hour"),
        ("run.failures=rsc-1", "failures", "observed on ampere, not on hopper"),
        (
            "run.failures={mtbf: 3 h}",
            "failures",
            "every 3 h, observed on this generation (hopper), rate taken as known",
        ),
        ("run.failures=none", "failures", "none"),
        ("run.checkpoint.every=20 min", "checkpoints", "storage every 20"),
        ("run.spares.hot=2", "spares", "2 spare nodes on top of cluster.gpus; 24 GPUs are paid for"),
        ("cluster.pue=1.45", "PUE", "1.45"),
    ],
)
def test_what_the_scenario_gives_is_stated(change: str, topic: str, words: str) -> None:
    premise = said(change)[0][topic]
    assert not premise.assumed
    assert words in premise.text


def test_without_a_price_the_report_says_so() -> None:
    by_topic, run, text = said("cluster.node={base: hgx-h100, accelerator: H100-SXM-96GB}")
    assert by_topic["price"].text == "none is known of H100-SXM-96GB: no cost is given"
    assert run["cost_usd"] is None
    assert "Cost not known" in text


def test_spares_within_the_cluster_are_taken_from_its_gpus() -> None:
    by_topic, run, _ = said("cluster.gpus=16", "run.spares={hot: 1, within: true}")
    assert by_topic["spares"].text == "1 spare node among cluster.gpus; 16 GPUs are paid for in all"
    assert run["finish_s"] == said("run.spares={hot: 1}")[1]["finish_s"]
    with pytest.raises(InputError, match="give their number"):
        said("run.spares={within: true}")
    with pytest.raises(InputError, match="nothing is left for the job"):
        said("run.spares={hot: 1, within: true}")


def test_unused_slots_of_racks_are_paid_for() -> None:
    """256 GPUs as 64 of each of four racks of 72: 32 slots, of which two spare nodes of four take 8."""
    sets = [QUICK, "run.spares.hot=2"]
    path = SCENARIOS / "deepseek-v3-256xgb200.yaml"
    paid = evaluate(load_scenario(path, sets)).run
    free = evaluate(load_scenario(path, [*sets, "run.prices={gpu_hour: 4.54 USD/h, pay_unused_slots: false}"])).run
    assert paid is not None
    assert free is not None
    assert (paid.paid_gpus, paid.unused_gpus) == (288, 24)
    assert (free.paid_gpus, free.unused_gpus) == (264, 0)
    assert paid.cost_usd == pytest.approx(free.cost_usd * 288 / 264)


@pytest.mark.parametrize("name", catalogue.names("fabrics"))
def test_every_network_has_a_power_with_its_source(name: str) -> None:
    """By hand: two tiers of one 400G port per GPU take 3 switch ports and 4 optical ends, three tiers 5 and 6."""
    node = catalogue.node("hgx-h100")
    fabric = catalogue.fabric(name)
    power = network_power_w(catalogue.cluster(8, node, fabric))
    assert power.source
    assert (power.value > 0) == bool(fabric.tiers)
    by_hand = {"aws-efa": 5 * 940 / 64 + 6 * 8.5, "single-switch": 940 / 64 + 2 * 8.5, "ndr-rail-2tier": 78.0}
    if name in by_hand:
        assert power.value == pytest.approx(by_hand[name])


def test_the_pue_follows_the_cooling() -> None:
    air = catalogue.cluster(8, "hgx-h100", "ndr-rail-2tier")
    wet = catalogue.cluster(8, {"base": "hgx-h100", "cooling": "liquid"}, "ndr-rail-2tier")
    assert pue(air).value > pue(wet).value == pue(catalogue.cluster(72, "gb200-nvl72", "none")).value
    assert pue(catalogue.cluster(8, "hgx-h100", "ndr-rail-2tier", pue=1.07)).value == 1.07


def test_waiting_gpus_draw_between_idle_and_tdp() -> None:
    part = catalogue.accelerator("h100-sxm-80gb")
    waiting, moving, computing = (gpu_power_w(part, cause) for cause in ("bubble", "ep", "compute"))
    assert part.idle_w < waiting < moving < computing == part.tdp_w
    assert step_power_w(part, {"compute": 6.0, "dp": 3.0, "straggler": 1.0}) == pytest.approx(
        {"compute": 420.0, "dp": 105.0, "straggler": 0.1 * 700 * 85 / 400}
    )


def test_how_experts_are_loaded_is_assumed_though_the_plan_names_the_kind() -> None:
    """A kind is what the router does; how hot its hottest rank runs is assumed."""
    for change in ((), ("plan.expert_imbalance=aux_loss",)):
        routing = said(*change)[0]["routing"]
        assert routing.assumed
        assert "assumed between bias and none" in routing.source
    assert "routing" not in said("plan.ep=1")[0]


def test_what_an_own_accelerator_takes_of_its_base_is_said() -> None:
    """Rent, rates of failures and watts of an H100 that a part of one's own changes."""
    own = "cluster.node={base: hgx-h100, accelerator: {name: ours, memory_capacity: 120 GB}}"
    premises, _, _ = said(own, "run.failures=llama-3")
    lent = "(of its base h100"
    assert all(lent in premises[topic].text for topic in ("rent", "failures", "GPU power"))
    shipped, _, _ = said("run.failures=llama-3")
    assert not any(lent in each.text for each in shipped.values())
    watts = "cluster.node={base: hgx-h100, accelerator: {name: ours, idle: 90 W, tdp: 650 W}}"
    assert lent not in said(watts)[0]["GPU power"].text


@pytest.mark.parametrize(
    ("change", "right"),
    [
        ("cluster.pue=50", "1 to 3 is"),
        ("run.prices={gpu_hour: 2 USD/h, electricity: 90 USD/kWh}", "0 USD/kWh to 2 USD/kWh is"),
        ("run.prices={capital_per_gpu: 30 kUSD, life: 1 d}", "90 d to 30 years is"),
        ("run.prices.gpu_hour=2500 USD/h", "0.01 USD/h to 200 USD/h is"),
        ("run.prices.capital_per_gpu=30 MUSD", "0 USD to 1 MUSD is"),
        ("cluster.water_usage=300 L/kWh", "0 L/kWh to 20 L/kWh is"),
    ],
)
def test_figures_that_nothing_real_has_are_refused(change: str, right: str) -> None:
    with pytest.raises(InputError, match=f"is not believed; {right}"):
        load_scenario(SCENARIOS / "tiny.yaml", [change])


@pytest.mark.parametrize(("gpus", "paid"), [(1, "one GPU is paid for"), (2, "2 GPUs are paid for")])
def test_a_job_on_part_of_a_server_pays_for_and_powers_that_part(gpus: int, paid: str) -> None:
    """Rent of 3.5 USD per GPU and hour; at most TDP and the server's share of each GPU, times the PUE."""
    changes = (f"cluster.gpus={gpus}", "plan.pp=1", "plan.ep=1", "plan.micro_batch_size=1", "run.spares=0")
    premises, run, _ = said(*changes, "run.failures=none", "run.prices={gpu_hour: 3.5 USD/h}")
    hours = run["finish_s"]["p50"] / 3600
    assert paid in premises["spares"].text
    assert run["cost_usd"] == pytest.approx(gpus * hours * 3.5, rel=0.1)
    most_w = gpus * (700 + 575 + 78) * 1.3
    assert 0.5 * most_w < run["energy_j"] / (3600 * hours) < 1.05 * most_w


def test_what_an_own_accelerator_leaves_to_its_base_is_named_with_its_figures(tmp_path: Path) -> None:
    """Formats of an own peak count one by one, and a part in a file of its own like one written in the scenario."""
    (tmp_path / "ours.yaml").write_text("name: ours\nbase: h100-sxm-80gb\ntdp: 500 W\npeak: {bf16: 500 TFLOP/s}\n")
    scenario = (SCENARIOS / "tiny.yaml").read_text().replace("node: hgx-h100", OWN_NODE)
    (tmp_path / "own.yaml").write_text(scenario)
    prediction = evaluate(load_scenario(tmp_path / "own.yaml", [QUICK]))
    told = {each.topic: each.text for each in prediction.assumed}
    kept = told["accelerator"].removeprefix("ours has of its base h100-sxm-80gb: ").split(", ")
    assert {"peak.fp8 1979 TFLOP/s", "memory_capacity 79.11 GiB", "memory_bandwidth 3.35 TB/s", "sm_count 132"} < {
        *kept
    }
    assert not [each for each in kept if each.startswith(("peak.bf16", "tdp"))]
    assert told["GPU power"].startswith("500 W computing, 70 W idle (of its base h100-sxm-80gb)")
    assert "accelerator" not in said()[0], "a shipped part is what its name says"


OWN_NODE = "node: {base: hgx-h100, accelerator: ours.yaml}"


def test_what_collectives_wait_for_is_said_where_there_are_any() -> None:
    """The last of two ranks is 0.5642 spreads late; without tensor or context parallelism nobody waits."""
    by_topic, _, text = said("plan.tp=2", "plan.sequence_parallel=true")
    late = by_topic["late ranks"]
    assert late.assumed
    assert "for the last of 2 ranks, counted as tp" in late.text
    assert late.text in text
    tiny = load_scenario(SCENARIOS / "tiny.yaml")
    wait_s = constants_for(tiny.cluster.accelerator, tiny.plan).collective_wait_s
    assert f"waits {format_seconds(0.56419 * wait_s)} for" in late.text
    alone, _, _ = said()
    assert "late ranks" not in alone
