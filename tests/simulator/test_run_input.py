"""Run sections that cannot be, or that no one means, are answered with one true message."""

from __future__ import annotations

from pathlib import Path

import pytest

from hardware.problems import InputError
from hardware.units import format_energy, format_usd
from simulator.predict import run_spec
from simulator.predict.prediction import predict
from simulator.predict.run_spec import on_usable_cores, run_spec_before_spares
from simulator.predict.simulate import simulate
from simulator.report.document import evaluate_document
from simulator.report.run_rows import run_rows
from simulator.scenario.schema import load_scenario

SCENARIOS = Path(__file__).parents[2] / "scenarios"
TINY = SCENARIOS / "tiny.yaml"
DENSE = (
    "model=llama-3.1-8b",
    "cluster={gpus: 64, node: hgx-h100}",
    "plan={tp: 2, micro_batch_size: 1, global_batch_size: 128}",
    "run={seq_length: 8192, tokens: 1T}",
)


def problems(*changes: str) -> list[str]:
    with pytest.raises(InputError) as found:
        run_spec_before_spares(simulate(load_scenario(TINY, [*DENSE, *changes])))
    return [str(each) for each in found.value.problems]


def test_spares_that_take_every_node_are_the_only_problem() -> None:
    (only,) = problems("run.spares={hot: 8, within: true}")
    assert "nothing is left for the job" in only


def test_too_many_replicas_to_go_on_with_names_the_option_and_what_counts() -> None:
    change = "run.recovery={when_short: shrink, min_replicas: 32}"
    (only,) = problems(change)
    assert only.startswith(f"--set {change}: run.recovery.min_replicas: is 32; of the 32 replicas (dp)")
    assert "8 in all. Write 8 or less" in only


def test_a_rate_of_no_failure_model_says_to_add_a_base() -> None:
    (only,) = problems("run.failures={rate_multiplier: 0}")
    assert "run.failures.base: is missing: add base: llama-3" in only


def test_no_more_processes_start_than_there_are_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_spec, "usable_cores", lambda: 2)
    done = simulate(load_scenario(TINY, [*DENSE, "run.simulation={workers: 100}"]))
    spec = run_spec_before_spares(done)
    assert spec is not None
    assert spec.simulation.workers == 2
    assert any("100 are more than the 2 usable cores" in each for each in spec.assumptions)
    assert on_usable_cores(spec) is spec


def told(*changes: str) -> str:
    few = "run.simulation={runs: 20}"
    return " ".join(predict(simulate(load_scenario(TINY, [*DENSE, few, *changes]))).warnings)


def test_saves_that_come_after_the_run_are_told() -> None:
    assert "36,525.0 days, and the run's work takes" in told("run.checkpoint={every: 100 years}")
    assert "saved to storage" not in told("run.checkpoint={every: 1 h}")


def test_more_spares_than_nodes_are_told_where_they_are_stated() -> None:
    assert "run.spares: 9 spare nodes for a job of 8" in told("run.spares=9")
    assert "run.spares:" not in told("run.spares=8")


def test_a_swap_of_years_is_not_believed() -> None:
    (only,) = problems("run.spares={hot_swap: 10 years}")
    assert "10 years is not believed; 0 s to 7 d is" in only


def test_median_and_mean_are_named_beside_each_other() -> None:
    document = evaluate_document(predict(simulate(load_scenario(TINY, [*DENSE, "run.simulation={runs: 20}"]))))
    rows = [f"{name} {text}" for name, text in run_rows(document["run"], 1e12)]
    (cost,) = [row for row in rows if row.startswith("Cost")]
    (energy,) = [row for row in rows if row.startswith("Energy") and "P10" in row]
    mean = document["run"]["cost_usd_per_trillion_tokens"]
    assert f"{format_usd(mean)} in the mean" in cost.partition("per 10^12 tokens")[2]
    assert f"{format_energy(document['run']['energy_j'])} in the mean" in energy
