"""Job files played on stand-ins of a scheduler's commands: ranks stand where predicted, spares step in."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from simulator.launch import Launch, launch, write_launch
from simulator.launch.environment import cluster_facts, environment
from simulator.launch.facts import scenario_facts
from simulator.launch.forecast import Forecast
from simulator.launch.job import job_of
from simulator.launch.tables import table
from simulator.scenario.schema import Scenario, load_scenario
from tests.simulator.launch_draws import FORECAST, SCENARIOS

# Two nodes of the tiny scenario's server: enough for an order.
TWO_NODES = ("cluster.gpus=16", "cluster.fabric=ndr-rail-2tier", "plan.global_batch_size=128")
SRUN = """#!/usr/bin/env bash
# Stands in for srun: lists nodes when asked for their health, or keeps the host list that training got.
case "$*" in
  *train.sh*)
    count=$(ls "$OUT" | wc -l)
    cp "$SLURM_HOSTFILE" "$OUT/hosts.$count"
    echo "$START $MASTER_ADDR $*" > "$OUT/call.$count"
    exit "$(sed -n "$((count / 2 + 1))p" "$CODES")" ;;
  *) cat "$NODES" ;;
esac
"""
SCONTROL = '#!/usr/bin/env bash\necho "$*" >> "$REQUEUED"\n'


def spare_scenario(*overrides: str) -> Scenario:
    return load_scenario(SCENARIOS / "tiny.yaml", (*TWO_NODES, "run.spares={hot: 1}", *overrides))


def play(made: Launch, folder: Path, nodes: str, codes: list[int]) -> tuple[list[list[str]], list[str], str]:
    """Host lists of every attempt, the srun calls, and what was requeued."""
    write_launch(made, folder / "run")
    stand_ins, out = folder / "bin", folder / "out"
    stand_ins.mkdir()
    out.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (stand_ins / name).write_text(text)
        (stand_ins / name).chmod(0o755)
    (folder / "nodes").write_text(nodes)
    (folder / "codes").write_text("\n".join(map(str, codes)) + "\n")
    known = {"OUT": out, "NODES": folder / "nodes", "CODES": folder / "codes", "REQUEUED": folder / "requeued"}
    slurm = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "3", "SLURM_SUBMIT_DIR": str(folder / "run")}
    path = {"PATH": f"{stand_ins}:{os.environ['PATH']}"}
    script = str(folder / "run" / "job.sbatch")
    variables = {**{name: str(value) for name, value in known.items()}, **slurm, **path}
    subprocess.run(["bash", script], env=variables, check=True, capture_output=True, timeout=60)
    hosts = [each.read_text().split() for each in sorted(out.glob("hosts.*"))]
    calls = [each.read_text() for each in sorted(out.glob("call.*"))]
    requeued = (folder / "requeued").read_text() if (folder / "requeued").exists() else ""
    return hosts, calls, requeued


def test_ranks_fill_nodes_in_the_order_of_the_topology(tmp_path: Path) -> None:
    """One launcher a node, in the order of switches, then names: n10 comes after n9, s1 before s2."""
    made = launch(spare_scenario(), on="slurm", forecast=FORECAST)
    hosts, calls, requeued = play(made, tmp_path, "s2.n1 n1\ns1.n10 n10\ns1.n9 n9\n", [0])
    assert hosts == [["n9", "n10"]]
    assert "n9" in calls[0]
    assert requeued == ""


def test_one_task_for_every_gpu_without_a_launcher(tmp_path: Path) -> None:
    made = launch(load_scenario(SCENARIOS / "tiny.yaml", TWO_NODES), on="slurm", forecast=FORECAST)
    hosts, calls, _ = play(made, tmp_path, ". n1\n. n2\n. n3\n", [0])
    assert hosts == [["n1"] * 8 + ["n2"] * 8]
    assert "--ntasks=16 --nodes=2 --distribution=arbitrary" in calls[0]


def test_a_spare_takes_the_place_of_a_node_that_failed(tmp_path: Path) -> None:
    made = launch(spare_scenario(), on="slurm", forecast=FORECAST)
    hosts, _, requeued = play(made, tmp_path, ". n1\n. n3\n", [0])
    assert hosts == [["n1", "n3"]]
    assert requeued == ""


def test_too_few_nodes_go_back_to_the_queue(tmp_path: Path) -> None:
    made = launch(spare_scenario(), on="slurm", forecast=FORECAST)
    hosts, _, requeued = play(made, tmp_path, ". n1\n", [0])
    assert hosts == []
    assert requeued == "requeue 7\n"


def test_training_that_ends_early_is_started_again(tmp_path: Path) -> None:
    made = launch(spare_scenario(), on="slurm", forecast=FORECAST)
    hosts, _, requeued = play(made, tmp_path, ". n1\n. n2\n. n3\n", [1, 0])
    assert len(hosts) == 2
    assert requeued == ""


def test_hosts_of_torchrun_are_started_in_their_order(tmp_path: Path) -> None:
    made = launch(load_scenario(SCENARIOS / "tiny.yaml", TWO_NODES), on="torchrun", forecast=FORECAST)
    write_launch(made, tmp_path / "run")
    (tmp_path / "ssh").write_text('#!/usr/bin/env bash\necho "$*" >> "$OUT"\n')
    (tmp_path / "ssh").chmod(0o755)
    (tmp_path / "run" / "hosts.txt").write_text("# mine\nb\n\na\n")
    known = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "OUT": str(tmp_path / "calls")}
    subprocess.run(["bash", str(tmp_path / "run" / "start.sh")], env=known, check=True, timeout=60)
    calls = sorted((tmp_path / "calls").read_text().splitlines())
    assert [(" b " in call, "NODE_RANK=0" in call) for call in calls] == [(False, False), (True, True)]
    assert all("MASTER_ADDR=b" in call for call in calls)


def directives(made: Launch) -> list[str]:
    return [line for line in made.files["job.sbatch"].split("\n") if line.startswith("#SBATCH")]


def test_domains_of_several_servers_are_segments() -> None:
    """256 GPUs of NVL72 with expert groups of 64: the prediction takes 16 of a rack's 18 servers, and so does Slurm."""
    scenario = load_scenario(SCENARIOS / "deepseek-v3-256xgb200.yaml")
    made = launch(scenario, on="slurm", forecast=FORECAST)
    assert "#SBATCH --segment=16" in directives(made)
    assert "#SBATCH --nodes=64" in directives(made)
    kubernetes = launch(scenario, on="kubernetes", forecast=FORECAST)
    (job_set,) = yaml.safe_load_all(kubernetes.files["jobset.yaml"])
    pod = job_set["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
    assert pod["metadata"]["annotations"]["kueue.x-k8s.io/podset-slice-size"] == "16"


def test_nodes_below_one_switch_are_asked_for() -> None:
    """128 GPUs below a leaf: 256 GPUs of HGX servers, 32 nodes, want two of them."""
    made = launch(load_scenario(SCENARIOS / "qwen3-235b-256xh100.yaml"), on="slurm", forecast=FORECAST)
    tier = made.scenario.cluster.fabric.tiers[0]
    assert f"#SBATCH --switches={-(-256 // tier.reach_gpus)}@24:00:00" in directives(made)


def test_spares_and_requeue_are_carried_over() -> None:
    made = launch(spare_scenario(), on="slurm", forecast=FORECAST)
    assert f"#SBATCH --nodes={2 + FORECAST.spares}" in directives(made)
    assert "#SBATCH --requeue" in directives(made)
    assert "--enable-ft-package" in made.files["arguments.sh"]
    assert "ft_launcher" in made.files["train.sh"]


@pytest.mark.parametrize(
    ("policy", "said", "unsaid"),
    [
        ("async", ["--async-save", "--save-interval 180"], ["--no-ckpt-fully-parallel-save", "--replication"]),
        ("sync", ["--no-ckpt-fully-parallel-save", "--save-interval 180"], ["--async-save"]),
        ("in-memory", ["--non-persistent-ckpt-type local", "--replication", "--replication-jump 1"], []),
        ("none", [], ["--save-interval", "--async-save", "--exit-signal-handler"]),
    ],
)
def test_checkpoints_are_carried_over(policy: str, said: list[str], unsaid: list[str]) -> None:
    """30 min of 10 s steps are 180 steps; copies in memory every minute are six."""
    every = {} if policy == "none" else {"storage": 1800.0, "memory": 60.0}
    forecast = Forecast(10.0, (9.0, 11.0), 60e9, True, every)
    scenario = load_scenario(SCENARIOS / "tiny.yaml", (f"run.checkpoint={{policy: {policy}}}",))
    text = launch(scenario, forecast=forecast).files["arguments.sh"]
    assert all(f"  {words}" in text for words in said)
    assert not any(f"  {words}" in text for words in unsaid)
    if policy == "in-memory":
        assert "--non-persistent-save-interval 6 " in text


def exported(scenario: Scenario) -> dict[str, str]:
    chosen = table("megatron-core-0.19")
    facts = scenario_facts(scenario, FORECAST).values
    return {each.name: each.value for each in environment(chosen, scenario, facts)}


def test_variables_follow_plan_and_cluster() -> None:
    hopper = exported(load_scenario(SCENARIOS / "qwen3-235b-256xh100.yaml"))
    assert hopper["CUDA_DEVICE_MAX_CONNECTIONS"] == "32"  # expert traffic overlaps
    in_turn = exported(load_scenario(SCENARIOS / "qwen3-235b-256xh100.yaml", ("plan.overlap.moe_ep=false",)))
    assert in_turn["CUDA_DEVICE_MAX_CONNECTIONS"] == "1"
    rack = exported(load_scenario(SCENARIOS / "deepseek-v3-256xgb200.yaml"))
    assert "CUDA_DEVICE_MAX_CONNECTIONS" not in rack
    assert rack["NCCL_MNNVL_ENABLE"] == "1"
    assert rack["NCCL_GRAPH_REGISTER"] == "0"  # graphs on expandable segments
    old = exported(load_scenario(SCENARIOS / "gpt3-175b-v100.yaml"))
    assert old["CUDA_MODULE_LOADING"] == "EAGER"
    assert old["NCCL_NVLS_ENABLE"] == "0"


def test_the_job_counts_what_the_cluster_has() -> None:
    scenario = load_scenario(SCENARIOS / "kimi-k2-10240xh100.yaml")
    job, facts = job_of(scenario, FORECAST), cluster_facts(scenario)
    assert (job.nodes, job.gpus_per_node, job.segment) == (1280, 8, 1)
    assert facts["cluster.nodes"] == 1280
    document = json.loads(launch(scenario, forecast=FORECAST).files["manifest.json"])
    assert document["prediction"]["spare_nodes"] == FORECAST.spares
