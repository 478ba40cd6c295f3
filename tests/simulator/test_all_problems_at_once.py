"""Every problem of a scenario is told at once, also where some stand in other files or in phases."""

from __future__ import annotations

from pathlib import Path

import pytest

from hardware.problems import InputError, Problem
from simulator.scenario.schema import load_scenario
from tests.command import ROOT

TINY = ROOT / "scenarios" / "tiny.yaml"
WIDE_EP = "plan.ep=3"  # divides neither the experts nor the replicas
HEADER = "start_day,end_day,node,level,class,description\n"


def problems(*sets: str) -> tuple[Problem, ...]:
    with pytest.raises(InputError) as error:
        load_scenario(TINY, sets)
    return error.value.problems


def keys(*sets: str) -> set[str]:
    return {problem.key for problem in problems(*sets)}


def test_a_bad_fault_log_does_not_hide_what_is_wrong_with_the_plan(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text(HEADER + "one,2,0,Hardware,a,x\n", encoding="utf-8")
    alone = keys(WIDE_EP)
    together = problems(WIDE_EP, f"run.fault_log={log}")
    assert alone < {problem.key for problem in together}
    assert (str(log), 2, "start_day") in {(problem.file, problem.line, problem.key) for problem in together}


def test_a_bad_policy_does_not_hide_what_is_wrong_with_the_plan() -> None:
    assert keys(WIDE_EP, "run.checkpoint.policy=hourly") == keys(WIDE_EP) | {"run.checkpoint.policy"}


def test_a_bad_phase_does_not_hide_what_is_wrong_with_the_others_and_the_plan() -> None:
    unknown = "{name: a, tokens: 0.1B, plan: {tensor: 2}}"
    illegal = "{name: b, tokens: 0.1B, plan: {ep: 3}}"
    found = keys(f"run.phases=[{{name: main}}, {unknown}, {illegal}]", "plan.vocab_divisible_by=10000000")
    assert {"run.phases.1.plan.tensor", "run.phases.2.plan.ep", "plan.vocab_divisible_by"} <= found


def test_a_bad_server_does_not_hide_what_is_wrong_with_the_plan() -> None:
    assert keys(WIDE_EP, "cluster.node=hgx-h101") == keys(WIDE_EP) | {"cluster.node"}


def test_a_fault_log_that_names_a_node_beyond_the_cluster_says_so_when_it_is_read(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text(HEADER + "1,2,600,Hardware,a,x\n", encoding="utf-8")
    (problem,) = problems(f"run.fault_log={log}", "run.spares.hot=2")
    assert problem.key == "run.fault_log"
    assert "names node 600, which the cluster does not have: its 1 and 2 spare nodes are 0 to 2" in problem.message
    assert "give more spares" not in problem.message


@pytest.mark.parametrize("key", ["plan.tp", "plan.micro_batch_size", "run.seq_length", "cluster.gpus"])
def test_whole_floats_are_the_whole_numbers_that_they_are(key: str) -> None:
    values = {"plan.tp": 2, "plan.micro_batch_size": 1, "run.seq_length": 1024, "cluster.gpus": 16}
    whole = load_scenario(TINY, [f"{key}={values[key]}", "plan.sequence_parallel=true"])
    written = load_scenario(TINY, [f"{key}={values[key]}.0", "plan.sequence_parallel=true"])
    assert written.plan == whole.plan
    assert (written.run, written.cluster) == (whole.run, whole.cluster)


def test_a_phase_takes_whole_floats_too() -> None:
    phases = "run.phases=[{{name: main}}, {{name: b, tokens: 0.1B, plan: {{tp: {}, sequence_parallel: true}}}}]"
    plans = [load_scenario(TINY, [phases.format(tp)]).phase_plans for tp in ("2", "2.0")]
    assert plans[0] == plans[1]


def test_a_fraction_of_a_degree_is_one_problem() -> None:
    assert [problem.key for problem in problems("plan.tp=2.5")] == ["plan.tp"]


@pytest.mark.parametrize(
    ("gpus", "tp", "expected"),
    [
        (4096, 3, "write tp 2 or 4, or take 4080 or 4104 GPUs"),  # multiples of 24: servers of 8, replicas of 6
        (16, 3, "write tp 2 or 4, or take 24 GPUs"),  # 6 are fewer than half of them
        (8, 3, "write tp 2 or 4, or take 6 GPUs"),  # one server need not be full
        (8, 5, "write tp 4"),  # replicas of 10 fill 40 GPUs, and no fewer
        (4100, 8, "write tp 5 or 10, or take 4096 or 4112 GPUs"),
    ],
)
def test_gpus_that_are_advised_fill_servers_and_replicas(gpus: int, tp: int, expected: str) -> None:
    found = problems(f"cluster.gpus={gpus}", "cluster.fabric=ndr-rail-3tier", f"plan.tp={tp}")
    (message,) = (problem.message for problem in found if problem.key == "plan.tp")
    assert message.endswith(expected)
