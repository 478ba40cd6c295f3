"""Sections on what surrounds the step: read whole, refused by name, simulated with the step's own figures."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest

from hardware.problems import InputError
from simulator.model.parameters import total_parameters
from simulator.predict.heterogeneity import every_gpu
from simulator.predict.outer_reports import InputReport, LocalSgdReport, ServerReport, reports
from simulator.predict.prediction import predict
from simulator.predict.run_spec import whole_run_spec
from simulator.predict.simulate import Simulated, simulate
from simulator.report.document import document_schema, evaluate_document
from simulator.report.printing import WIDTH
from simulator.report.terminal import evaluation_text
from simulator.scenario.schema import load_scenario, scenario_schema

TINY = Path(__file__).parents[2] / "scenarios" / "tiny.yaml"
READ = "cluster.storage_read=1 GB/s"
INPUT = ("input.sequence=8 KiB", "input.prepare=5 ms", READ)
LOCAL = ("local_sgd.clusters=4", "local_sgd.inner_steps=100", "local_sgd.link=10 Gb/s")
SERVER = ("parameter_server.server=100 GB/s", "plan.ep=1")


def simulated(*overrides: str) -> Simulated:
    return simulate(load_scenario(TINY, overrides))


def test_nothing_around_is_reported_where_nothing_is_written() -> None:
    assert reports(simulated().step) == {}


def test_input_that_keeps_up_and_that_starves() -> None:
    """Two sequences of 8 KiB over a quarter of 1 GB/s shared by 2 loaders, and 5 ms: two batches per 5.13 ms."""
    found = reports((done := simulated(*INPUT)).step)["input"]
    assert isinstance(found, InputReport)
    assert found.delivered_per_s == pytest.approx(2 / (2 * 8192 / (1e9 / 4 / 2) + 5e-3))
    assert found.used_per_s == pytest.approx(done.scenario.plan.microbatches / done.step.step_time_s)
    assert found.starved_fraction == pytest.approx(0, abs=1e-9)
    slow = reports(simulated(*INPUT, "input.prepare=100 ms").step)["input"]
    assert isinstance(slow, InputReport)
    assert slow.step_time_s == pytest.approx(done.scenario.plan.microbatches / slow.delivered_per_s, rel=0.01)
    assert slow.starved_fraction == pytest.approx(1 - done.step.step_time_s / slow.step_time_s)


def test_local_sgd_exchanges_the_model_in_fp32() -> None:
    found = reports((done := simulated(*LOCAL)).step)["local_sgd"]
    assert isinstance(found, LocalSgdReport)
    exchanged = 4 * total_parameters(done.scenario.model)
    exchange_s = 2 * 3 / 4 * exchanged / 1.25e9
    assert found.synchronous_bytes_per_step == pytest.approx(2 * 3 / 4 * exchanged)
    assert found.round_s == pytest.approx(100 * done.step.alone_s + exchange_s)
    assert found.tokens_per_s == pytest.approx(4 * 100 * 64 * 2048 / found.round_s)


def test_workers_are_replicas() -> None:
    """Synchronous equal workers, each over the NICs of its two GPUs: pull, compute, push, in turn."""
    found = reports((done := simulated(*SERVER)).step)["parameter_server"]
    assert isinstance(found, ServerReport)
    count, spent = total_parameters(done.scenario.model), done.step.timeline.breakdown()
    nic = done.scenario.cluster.node.nic.bandwidth_bytes_per_s
    computing_s = done.step.timeline.step_time_s - sum(spent[cause] for cause in ("dp", "optimizer", "barrier"))
    round_s = computing_s + count * (2 + 4) / min(100e9 / 4, 2 * nic)
    assert found.worker_steps_per_s == pytest.approx(4 / round_s)
    assert found.tokens_per_s == pytest.approx(64 * 2048 / round_s)
    assert found.staleness == {"p10": 0, "p50": 0, "p90": 0}
    loose = reports(simulated(*SERVER, "parameter_server.mode=asynchronous").step)["parameter_server"]
    assert isinstance(loose, ServerReport)
    assert loose.mean_staleness == pytest.approx(3, rel=0.1)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("input.sequence=8 KiB", "cluster.storage_read="), "cluster.storage_read: is missing"),
        (("input.sequence=8",), "has no unit"),
        (("input.readers=4", *INPUT), "readers"),
        ((*LOCAL, "local_sgd.slow.4=2"), "slow: cluster 4 does not exist"),
        ((*LOCAL, *SERVER), "write one of them"),
        ((*SERVER, "parameter_server.mode=eager"), "mode"),
        ((*SERVER, "parameter_server.slow.4=2"), "parameter_server.slow.4: does not exist; there are 0 to 3"),
        (("parameter_server.server=100 GB/s",), "whose workers share experts is not modelled"),
        ((*SERVER, "plan.sharding=full"), "keeps the parameters with the workers"),
    ],
)
def test_what_cannot_be_is_named(overrides: tuple[str, ...], words: str) -> None:
    with pytest.raises(InputError) as caught:
        load_scenario(TINY, overrides)
    assert words in "\n".join(map(str, caught.value.problems))


@pytest.mark.parametrize("overrides", [(*INPUT, *LOCAL), SERVER])
def test_documents_and_reports_hold_them(overrides: tuple[str, ...]) -> None:
    done = simulated(*overrides, "spread.slow_gpus.2=1.3")
    document = evaluate_document(predict(done), every_gpu(done, 1), reports(done.step))
    schema = document_schema("evaluate")
    jsonschema.validate(document, {**schema, "additionalProperties": False})
    text = evaluation_text(document)
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "rank 2 on node 0" in text
    assert "predicts speed, not loss" in " ".join(text.split())


def test_editors_know_the_sections() -> None:
    properties = scenario_schema()["properties"]
    assert properties["input"]["required"] == ["sequence"]
    assert set(properties["local_sgd"]["required"]) == {"clusters", "inner_steps", "link"}
    assert properties["parameter_server"]["required"] == ["server"]
    assert "readers" not in properties["input"]["properties"]


@pytest.mark.parametrize(
    ("overrides", "cause", "section"),
    [((*INPUT, "input.prepare=100 ms"), "input", "input"), (LOCAL, "exchange", "local_sgd"),
     (SERVER, "server", "parameter_server")],
)  # fmt: skip
def test_the_headline_contains_what_surrounds_the_step(overrides: tuple[str, ...], cause: str, section: str) -> None:
    prediction = predict(done := simulated(*overrides))
    report = reports(done.step)[section]
    clusters = getattr(report, "clusters", 1)
    assert prediction.breakdown_s[cause] > 0
    assert sum(prediction.breakdown_s.values()) == pytest.approx(prediction.step_time_s)
    assert all(sum(s.breakdown_s.values()) == pytest.approx(prediction.step_time_s) for s in prediction.stages)
    assert prediction.tokens_per_s == pytest.approx(clusters * 64 * 2048 / prediction.step_time_s)
    if section != "input":
        assert prediction.tokens_per_s == pytest.approx(getattr(report, "tokens_per_s"))  # noqa: B009
    assert prediction.training_time_s == pytest.approx(1e9 / prediction.tokens_per_s)
    spec = whole_run_spec(done)
    assert spec is not None
    assert spec.work_s == pytest.approx(prediction.training_time_s, rel=1e-3)
    assert spec.job_gpus == clusters * 8
    waiting = prediction.breakdown_s[cause] / prediction.step_time_s
    assert prediction.evidence["assumed"] >= waiting
    assert sum(prediction.evidence.values()) == pytest.approx(1)


@pytest.mark.parametrize("section", ["input", "local_sgd", "parameter_server"])
@pytest.mark.parametrize("written", ["", "{}", "[]", "x", "{bound: 0}", "{clusters: 1e300}", "{server: 1e300 GB/s}"])
def test_sections_that_cannot_be_read_are_refused_in_words(section: str, written: str) -> None:
    with pytest.raises(InputError):
        load_scenario(TINY, [f"{section}={written}", "plan.ep=1", READ])


def test_servers_beyond_what_is_simulated_are_refused() -> None:
    with pytest.raises(InputError, match="at most 4,096 are"):
        load_scenario(
            TINY, [*SERVER, "cluster.gpus=16384", "cluster.fabric=ndr-rail-3tier", "plan.global_batch_size=32768"]
        )
