"""Reports: the document keeps its contract, the text fits its page, folders are only written when they are ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from hardware.problems import InputError
from simulator.model.flops import flops_per_token
from simulator.predict.prediction import evaluate
from simulator.report.document import document_schema, documented_verbs, evaluate_document
from simulator.report.folder import evaluation_files, json_text, write_results
from simulator.report.printing import WIDTH
from simulator.report.terminal import evaluation_text
from simulator.scenario.schema import Scenario, load_scenario
from tests.predicted import shipped

pytestmark = pytest.mark.xdist_group("shipped scenarios")
SCENARIOS = Path(__file__).parents[2] / "scenarios"
NAMES = ("tiny", "deepseek-v3-2048xh800", "llama-3.1-405b-16384xh100", "bert-large-64xv100")


@pytest.fixture(scope="module")
def documents() -> dict[str, dict[str, Any]]:
    return {name: evaluate_document(shipped(name)) for name in NAMES}


def scenario(name: str) -> Scenario:
    return load_scenario(SCENARIOS / f"{name}.yaml")


@pytest.mark.parametrize("verb", documented_verbs())
def test_schemas_are_schemas(verb: str) -> None:
    jsonschema.Draft202012Validator.check_schema(document_schema(verb))


@pytest.mark.parametrize("name", NAMES)
def test_the_document_keeps_its_contract(documents: dict[str, dict[str, Any]], name: str) -> None:
    document = json.loads(json_text(documents[name]))
    jsonschema.validate(document, document_schema("evaluate"))
    assert sum(document["breakdown_s"].values()) == pytest.approx(document["step_time_s"], rel=1e-6)
    assert sum(document["evidence"].values()) == pytest.approx(1)
    assert len(document["stages"]) == document["scenario"]["plan"]["pp"]
    for stage in document["stages"]:
        assert sum(stage["memory_bytes"].values()) == pytest.approx(stage["peak_memory_bytes"])
        outside = sum(stage["outside_allocator_bytes"].values())
        assert stage["peak_memory_bytes"] + outside == pytest.approx(stage["device_memory_bytes"])


def test_published_figures_are_compared_by_their_own_count(documents: dict[str, dict[str, Any]]) -> None:
    document = documents["deepseek-v3-2048xh800"]
    rows = {row["quantity"]: row for row in document["against_published"]}
    assert rows["step_time_s"]["measured"] == 19.926
    assert rows["step_time_s"]["predicted"] == document["step_time_s"]
    model = scenario("deepseek-v3-2048xh800").model
    counted = document["tokens_per_s_per_gpu"] * float(flops_per_token(model, 4096, "deepseek-causal"))
    assert rows["model_flops_per_s_per_gpu"]["predicted"] == pytest.approx(counted, rel=1e-3)
    assert documents["tiny"]["against_published"] == []


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("blocks", [True, False])
def test_the_text_fits_its_page_and_loses_nothing(
    documents: dict[str, dict[str, Any]], name: str, blocks: bool
) -> None:
    text = evaluation_text(documents[name], blocks)
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "…" not in text
    assert "\x1b" not in text
    assert blocks or text.isascii()
    for words in ("Step time", "Throughput", "MFU", "without failures", "of capacity", "Evidence"):
        assert words in text


def test_equal_scenarios_give_equal_bytes() -> None:
    first, second = (json_text(evaluate_document(evaluate(scenario("tiny")))) for _ in range(2))
    assert first == second


def test_json_refuses_what_json_has_not() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_text({"step_time_s": float("nan")})


def test_a_folder_is_ours_or_empty(tmp_path: Path, documents: dict[str, dict[str, Any]]) -> None:
    files = evaluation_files(scenario("tiny"), documents["tiny"])
    folder = tmp_path / "new" / "results"
    write_results(folder, files)
    write_results(folder, {"report.txt": "second"})
    assert sorted(path.name for path in folder.iterdir()) == [
        ".traincast",
        "report.html",
        "report.txt",
        "result.json",
        "scenario.yaml",
    ]
    assert (folder / "report.txt").read_text() == "second"
    assert load_scenario(folder / "scenario.yaml").plan == scenario("tiny").plan
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "result.json").write_text("precious")
    with pytest.raises(InputError, match="not ours"):
        write_results(theirs, files)
    assert (theirs / "result.json").read_text() == "precious"
    with pytest.raises(InputError, match="cannot be written"):
        write_results(theirs / "result.json" / "below", files)


def test_alternatives_and_money_are_reported() -> None:
    from simulator.predict.run_spec import whole_run_spec
    from simulator.predict.simulate import simulate
    from simulator.run.alternatives import alternatives

    sets = ["run.prices={gpu_hour: 2 USD/h, carbon: 400 g/kWh}", "run.simulation={runs: 5}"]
    loaded = load_scenario(SCENARIOS / "deepseek-v3-2048xh800.yaml", sets)
    spec = whole_run_spec(simulate(loaded))
    assert spec is not None
    prediction = evaluate(loaded)
    document = json.loads(json_text(evaluate_document(prediction, around={"alternatives": alternatives(spec)})))
    jsonschema.validate(document, document_schema("evaluate"))
    assert document["alternatives"][0]["finish_s"] == document["run"]["finish_s"]
    run = document["run"]
    assert run["carbon_kg"] == pytest.approx(run["energy_j"] / 3.6e6 * 0.4)
    wall_h = (run["ideal_s"] + sum(run["lost_s"].values())) / 3600
    gpus = 2048 + 8 * run["spares"]
    assert run["cost_usd"] == pytest.approx(gpus * 2 * wall_h)
    assert run["lost_cost_usd"]["restart"] == pytest.approx(gpus * 2 * run["lost_s"]["restart"] / 3600)
    for blocks in (True, False):
        text = evaluation_text(document, blocks)
        assert max(map(len, text.splitlines())) <= WIDTH
        assert all(
            words in " ".join(text.split()) for words in ("t CO2", "to first order", "What would change", "as planned")
        )
        assert blocks or text.isascii()


def test_alternatives_are_absent_when_not_asked(documents: dict[str, dict[str, Any]]) -> None:
    assert documents["tiny"].get("alternatives") is None
    assert "What would change" not in evaluation_text(documents["tiny"])
