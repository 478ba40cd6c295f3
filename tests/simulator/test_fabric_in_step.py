"""The fabric in a whole step: ports and graphs decide, and no class of links carries more than it can."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hardware.collectives.network_use import ClassUse, NetworkUse
from hardware.documents import Document
from hardware.problems import InputError, Place
from hardware.specs import Fabric
from simulator.predict.prediction import Prediction, evaluate, overloads
from simulator.scenario.schema import load_scenario, read_scenario

ROOT = Path(__file__).parents[2]
PLANS = (ROOT / "tests" / "golden" / "plans.jsonl").read_text(encoding="utf-8").splitlines()
TINY = ROOT / "scenarios" / "tiny.yaml"


def drawn(number: int) -> Prediction:
    place = Place(str(ROOT / "scenarios" / f"drawn-{number}.yaml"))
    return evaluate(read_scenario(Document(json.loads(PLANS[number]), place), f"drawn-{number}"))


@pytest.mark.parametrize("number", range(0, len(PLANS), 12))
def test_no_class_of_links_carries_more_than_it_can(number: int) -> None:
    prediction = drawn(number)
    used = {each.name: each.mean_fraction for each in prediction.network.classes}
    assert all(fraction <= 1 for fraction in used.values()), used
    assert not overloads(prediction.network)


def test_links_used_beyond_what_they_carry_are_named() -> None:
    full, over = (ClassUse(name, 8, 50e9, 50e9, use, use, {}) for name, use in (("nic", 1.0), ("spine", 1.2)))
    (warning,) = overloads(NetworkUse((full, over), "spine"))
    assert "'spine' would be used 120%" in warning


def kimi(fabric: Fabric | None = None) -> Prediction:
    # Few runs: at a hundredth of the speed each takes years of failures.
    scenario = load_scenario(ROOT / "scenarios" / "kimi-k2-10240xh100.yaml", ["run.simulation={runs: 2}"])
    cluster = replace(scenario.cluster, fabric=fabric or scenario.cluster.fabric)
    return evaluate(replace(scenario, cluster=cluster))


def test_leaf_ports_of_a_hundredth_slow_a_step_and_are_told() -> None:
    """Ports of 4 Gb/s instead of 400: what the NICs do takes a hundred times longer and hides behind nothing."""
    usual = kimi()
    tiers = load_scenario(ROOT / "scenarios" / "kimi-k2-10240xh100.yaml").cluster.fabric.tiers
    base = load_scenario(ROOT / "scenarios" / "kimi-k2-10240xh100.yaml").cluster.fabric
    slow = kimi(replace(base, tiers=(replace(tiers[0], port_bandwidth_bytes_per_s=0.5e9), *tiers[1:])))
    assert slow.step_time_s > 20 * usual.step_time_s
    assert any("ports of 500 MB/s" in each for each in slow.warnings)


# --- a graph -------------------------------------------------------------------------------------------------------


def scenario_on_graph(folder: Path, trunk: str, gpus: int = 16) -> Path:
    """Two servers of eight GPUs, a switch each, and one cable between the switches."""
    nodes = [{"id": f"g{i}", "kind": "gpu"} for i in range(16)] + [{"id": f"s{i}", "kind": "leaf"} for i in range(2)]
    links = [{"source": f"g{i}", "target": f"s{i // 8}", "bandwidth": "400 Gb/s"} for i in range(16)]
    links.append({"source": "s0", "target": "s1", "bandwidth": trunk})
    (folder / "wires.json").write_text(json.dumps({"name": "two", "nodes": nodes, "links": links}), encoding="utf-8")
    path = folder / "scenario.yaml"
    path.write_text(
        f"""
model: llama-2-7b
cluster:
  gpus: {gpus}
  node: hgx-h100
  fabric: {{name: two, kind: custom, graph: wires.json, tiers: []}}
plan: {{micro_batch_size: 1, global_batch_size: 16, sharding: full}}
run: {{seq_length: 2048, steps: 10}}
""",
        encoding="utf-8",
    )
    return path


def test_a_step_takes_as_long_as_the_graph_of_its_fabric_makes_it(tmp_path: Path) -> None:
    wide = evaluate(load_scenario(scenario_on_graph(tmp_path, "3200 Gb/s")))
    narrow_folder = tmp_path / "narrow"
    narrow_folder.mkdir()
    narrow = evaluate(load_scenario(scenario_on_graph(narrow_folder, "100 Gb/s")))
    assert narrow.step_time_s > 2 * wide.step_time_s


def test_a_graph_of_another_number_of_gpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has 16 nodes of kind gpu"):
        load_scenario(scenario_on_graph(tmp_path, "3200 Gb/s", gpus=32))
