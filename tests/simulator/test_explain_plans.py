"""Logs of jobs that ran another plan, model or framework than the scenario: named first, with what to set."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from hardware.problems import InputError
from simulator.launch import launch
from simulator.launch.explain.compare import explain
from simulator.launch.explain.other_plan import other_plan
from simulator.launch.explain.reading import read_log
from simulator.launch.explain.records import Job
from simulator.predict.simulate import simulate
from simulator.scenario.schema import load_scenario
from simulator.scenario.site_section import read_site
from tests.command import traincast
from tests.simulator.launch_draws import FORECAST, drawn
from tests.simulator.test_explain import TINY, explained, log_of, run_of, tiny
from tests.simulator.test_launch_rules import arguments

STEPS = run_of(range(1, 31), 500.0)[0]
OTHER_DEGREES = """\
  tensor_model_parallel_size ............................ 2
  pipeline_model_parallel_size .......................... 1
  sequence_parallel ..................................... True
"""
TITAN = "".join(f"[rank0]:[titan] - root - INFO - step: {step}  loss: 6.1  tps: 40,000\n" for step in range(1, 11))


def as_printed(name: str, value: object) -> str:
    """An argument as Megatron-LM prints it."""
    dots = "." * (48 - len(name))
    return f"  {name} {dots} {value}\n"


def job_of(folder: Path, text: str) -> Job:
    return log_of(folder, text).jobs[0]


def test_megatrons_arguments_name_another_plan_first_and_what_makes_the_scenario_the_logs(tmp_path: Path) -> None:
    """tp 2 and pp 1 in the log, tp 1 and pp 2 in the scenario: the log's own step is predicted."""
    text = OTHER_DEGREES
    found = explained(tmp_path, text + STEPS)
    assert found.other_plan is not None
    told = {each.key: (each.log, each.scenario) for each in found.other_plan.differences}
    assert (told["plan.tp"], told["plan.pp"]) == ((2, 1), (1, 2))
    assert "plan.tp is 2 in the log and 1 in the scenario" in found.other_plan.text
    alike = load_scenario(TINY, found.other_plan.overrides)
    assert found.own_step_time_s == pytest.approx(simulate(alike).step.step_time_s)
    assert found.next[0].startswith("another plan: compare the log with its own (--set plan.tp=2")
    again = explain(replace(alike, run=replace(alike.run, policies=None)), log_of(tmp_path, text + STEPS))
    assert again.other_plan is None


def test_causes_explain_what_the_logs_own_plan_leaves(tmp_path: Path) -> None:
    """A log as fast as its own plan is predicted leaves nothing to explain; the plan explains all of the gap."""
    text = OTHER_DEGREES
    ours = simulate(tiny("plan.tp=2", "plan.pp=1", "plan.sequence_parallel=true")).step.step_time_s
    file = tmp_path / "run.log"
    file.write_text(text + run_of(range(1, 31), 1000 * ours)[0])
    found = explain(tiny(), read_log(file))
    assert (found.causes, found.stacks) == ((), ())
    assert found.rest_s == pytest.approx(0, abs=1e-4)
    document = json.loads(traincast("explain", str(TINY), "--log", str(file), "--json").stdout)
    assert document["other_plan"]["explains_fraction"] == pytest.approx(1, abs=0.01)
    assert document["other_plan"]["set"] == list(found.other_plan.overrides if found.other_plan else ())
    told = traincast("explain", str(TINY), "--log", str(file)).stdout
    assert told.index("the log ran another plan") < told.index("step time")


def test_shares_of_causes_add_up_to_less_together_than_one_by_one(tmp_path: Path) -> None:
    found = explained(tmp_path, run_of(range(1, 31), 1000.0 * 1.3 * simulate(tiny()).step.step_time_s)[0])
    shares = [each.explains_fraction for each in found.causes]
    assert shares
    assert all(0 < share <= 1 for share in shares)
    assert max(shares) - 1e-9 <= found.together_fraction <= min(1, sum(shares))


def test_an_illegal_plan_of_the_log_is_named_and_not_predicted(tmp_path: Path) -> None:
    found = explained(tmp_path, as_printed("tensor_model_parallel_size", 3) + STEPS)
    assert found.other_plan is not None
    assert found.other_plan.scenario is None
    assert found.other_plan.why_not
    assert found.own_step_time_s == found.prediction.step_time_s


def test_torchtitans_log_against_another_framework_names_both(tmp_path: Path) -> None:
    mesh = (
        "[titan] - Building device mesh with parallelism: pp=1, dp_replicate=1, dp_shard=4, cp=1, tp=2, ep=2, etp=1\n"
    )
    told = other_plan(tiny(), job_of(tmp_path, mesh + TITAN))
    assert told is not None
    assert told.differences[0].key == "plan.stack"
    assert "torchtitan in the log" in told.text
    assert {"plan.stack=torchtitan-0.3", "plan.tp=2", "plan.pp=1", "plan.ep=2"} <= set(told.overrides)


@pytest.mark.parametrize(
    ("printed", "key", "value"),
    [
        ("[titan] Building 2-D device mesh with ['dp_shard', 'tp'], [4, 2]\n", "plan.tp", 2),
        ("[titan] Building 1-D device mesh with ['dp_shard'], [16]\n", "cluster.gpus", 16),
        ('[titan] Running with args: {\n    "context_parallel_degree": 2,\n', "plan.cp", 2),
        ("[titan] Running with args: {'parallelism': {'expert_parallel_degree': 8}}\n", "plan.ep", 8),
        ("[titan] Applied full activation checkpointing to the model\n", "plan.recompute.granularity", "full"),
        ("[titan] Model llama3 8B size: 8,030,261,248 total parameters\n", "model",
         "llama3-8B of 8,030,261,248 parameters"),
    ],
)  # fmt: skip
def test_torchtitan_prints_its_settings_in_several_forms(tmp_path: Path, printed: str, key: str, value: object) -> None:
    told = other_plan(tiny(), job_of(tmp_path, printed + TITAN))
    assert told is not None
    assert {each.key: each.log for each in told.differences}[key] == value


def test_other_frameworks_settings_are_read(tmp_path: Path) -> None:
    """Megatron's groups, Bridge's YAML, DeepSpeed's configuration, MLPerf's events."""
    groups = (
        "using world size: 8, data-parallel size: 2, tensor-model-parallel size: 4, pipeline-model-parallel size: 1\n"
    )
    bridge = "model:\n  tensor_model_parallel_size: 4\n  expert_model_parallel_size: 4\n"
    for text in (groups, bridge):
        told = other_plan(tiny(), job_of(tmp_path, text + STEPS))
        assert told is not None
        assert "plan.tp=4" in told.overrides
    line = "[2024-07-10 14:14:51,806] [INFO] [config.py:1000:print]   zero_optimization_stage ...... 3\n"
    steps = "".join(f"global_step={n}, RunningAvgSamplesPerSec=9.0, CurrSamplesPerSec=80.0\n" for n in range(1, 9))
    told = other_plan(tiny(), job_of(tmp_path, line + steps))
    assert told is not None
    assert {"plan.sharding=full", "plan.stack=deepspeed-0.19"} <= set(told.overrides)
    entries = [
        {"key": "submission_benchmark", "value": "llama31_8b"},
        {"key": "gradient_accumulation_steps", "value": 4},
    ]
    entries += [{"key": "tracked_stats", "value": {"throughput": 320.0}, "metadata": {"step": n}} for n in range(1, 9)]
    told = other_plan(tiny(), job_of(tmp_path, "".join(f":::MLLOG {json.dumps(entry)}\n" for entry in entries)))
    assert told is not None
    # 64 sequences over 4 replicas in 4 accumulations are 4 each.
    assert {"model=llama-3.1-8b", "plan.micro_batch_size=4"} <= set(told.overrides)


def test_another_size_of_model_is_named_with_the_catalogues_that_has_it(tmp_path: Path) -> None:
    sizes = {"num_layers": 32, "hidden_size": 4096, "num_attention_heads": 32, "num_query_groups": 8,
             "group_query_attention": True, "ffn_hidden_size": 14336, "swiglu": True, "padded_vocab_size": 128256,
             "add_bias_linear": False, "normalization": "RMSNorm", "position_embedding_type": "rope",
             "untie_embeddings_and_output_weights": True}  # fmt: skip
    told = other_plan(tiny(), job_of(tmp_path, "".join(as_printed(*each) for each in sizes.items()) + STEPS))
    assert told is not None
    assert told.differences[0].key == "model.hidden"
    assert re.search(r"^model=\S*llama-3(\.1)?-8b", told.overrides[0])


def test_a_log_of_the_scenarios_own_launch_ran_no_other_plan(tmp_path: Path) -> None:
    """Thirty drawn plans, exported for Megatron and printed as it prints its arguments."""
    told = []
    for scenario in drawn(30, seed=7):
        made = launch(scenario, "megatron", "torchrun", forecast=FORECAST, partial=True)
        other = other_plan(scenario, job_of(tmp_path, as_printed_all(arguments(made)) + STEPS))
        refused = {each.key for each in made.inexpressible}
        told += [each.text for each in other.differences if each.key not in refused] if other else []
    assert told == []


def test_what_does_nothing_beside_the_others_is_no_other_plan(tmp_path: Path) -> None:
    """Megatron prints every argument, those of features that are off too; Muon's sharding has a name of its own."""
    off = {"fp8": None, "fp8_recipe": "delayed", "fine_grained_activation_offloading": False,
           "activation_offload_fraction": 1.0, "optimizer_cpu_offload": False, "optimizer_offload_fraction": 1.0,
           "use_megatron_fsdp": False, "data_parallel_sharding_strategy": "optim_grads_params", "bf16": True,
           "context_parallel_size": 1, "cp_comm_type": ["p2p"], "use_precision_aware_optimizer": False,
           "main_grads_dtype": "torch.float32", "exp_avg_dtype": "torch.float32", "exp_avg_sq_dtype": "torch.float32",
           "use_distributed_optimizer": False, "use_layer_wise_distributed_optimizer": True,
           "optimizer": "muon"}  # fmt: skip
    text = "".join(as_printed(*each) for each in off.items())
    scenario = tiny("plan.optimizer.kind=muon")
    assert other_plan(scenario, job_of(tmp_path, text + STEPS)) is None


def as_printed_all(words: list[str]) -> str:
    """Arguments as parsed and printed: names with underscores, several values as a list, a switch as True."""
    starts = [place for place, word in enumerate(words) if word.startswith("--")]
    text = ""
    for start, end in zip(starts, [*starts[1:], len(words)], strict=True):
        values = words[start + 1 : end]
        value = values if len(values) > 1 else values[0] if values else True
        text += as_printed(words[start].removeprefix("--").replace("-", "_"), value)
    return text


@pytest.mark.parametrize("ms", [0.1, 1.0])
def test_steps_faster_than_the_gpus_can_compute_are_refused_as_other_units(tmp_path: Path, ms: float) -> None:
    with pytest.raises(InputError, match=r"an MFU of \d+ %, which the GPUs cannot reach.*in other units"):
        explained(tmp_path, run_of(range(1, 31), ms)[0])


GROUPS = (
    "using world size: 8, data-parallel size: 2, context-parallel size: 1, hierarchical context-parallel sizes: None, "
    "tensor-model-parallel size: 2, pipeline-model-parallel size: 1\n"
)


def test_groups_before_the_arguments_take_nothing_from_them(tmp_path: Path) -> None:
    """Megatron prints its degrees twice: in a line of groups, and among its arguments."""
    dumped, both = (other_plan(tiny(), job_of(tmp_path, start + OTHER_DEGREES + STEPS)) for start in ("", GROUPS))
    assert dumped is not None
    assert "plan.sequence_parallel=true" in dumped.overrides
    assert both == dumped


def test_the_world_of_printed_arguments_is_the_logs_gpus(tmp_path: Path) -> None:
    """16 GPUs in the arguments alone, where the scenario has 8."""
    found = explained(tmp_path, as_printed("world_size", 16) + STEPS)
    assert found.other_plan is not None
    assert found.other_plan.overrides == ("cluster.gpus=16",)
    per_gpu = next(each for each in found.figures if each.quantity == "tokens_per_s_per_gpu")
    assert per_gpu.measured == pytest.approx(64 * 2048 / 0.5 / 16)


def test_deepspeeds_world_counts_replicas(tmp_path: Path) -> None:
    """A world of 4 of the scenario's 2 stages is its 8 GPUs; one of 8 is 16."""
    steps = "".join(f"global_step={n}, RunningAvgSamplesPerSec=9.0, CurrSamplesPerSec=80.0\n" for n in range(1, 9))
    line = "[2026-01-01 10:00:00,000] [INFO] [config.py:1001:print]   world_size ................... {}\n"
    alike, apart = (other_plan(tiny(), job_of(tmp_path, line.format(world) + steps)) for world in (4, 8))
    assert alike is not None
    assert "cluster.gpus" not in {each.key for each in alike.differences}
    assert apart is not None
    assert {each.key: each.log for each in apart.differences}["cluster.gpus"] == 16


def test_figures_of_another_count_of_gpus_stand_beside_the_logs_own_prediction(tmp_path: Path) -> None:
    """16 GPUs where the scenario has 8: every predicted figure lies in its own interval."""
    found = explained(tmp_path, as_printed("world_size", 16) + STEPS)
    own = simulate(tiny("cluster.gpus=16")).step.step_time_s
    shown = {each.quantity: each for each in found.figures}
    assert shown["step_time_s"].predicted == pytest.approx(own)
    assert shown["tokens_per_s_per_gpu"].predicted == pytest.approx(64 * 2048 / own / 16)
    for figure in found.figures[:3]:
        assert figure.interval is not None
        assert figure.interval[0] < figure.predicted < figure.interval[1]
    assert found.run.predicted_s == pytest.approx(own)
    assert "figures are set beside the prediction of what the log ran" in found.notes[0]


MODEL_UNKNOWN = "[titan] Model llama3 99Z size: 99,000,000,000 total parameters\n"


def test_a_model_that_is_not_known_leaves_no_figures_by_model_and_no_causes(tmp_path: Path) -> None:
    found = explained(tmp_path, MODEL_UNKNOWN + TITAN)
    assert found.beside is None
    assert [each.quantity for each in found.figures] == ["step_time_s", "tokens_per_s"]
    assert (found.causes, found.stacks, found.memory) == ((), (), ())


def test_a_fit_is_against_what_the_log_ran_and_refused_where_that_is_not_known(tmp_path: Path) -> None:
    """A log as fast as its own plan is predicted teaches nothing new of the site."""
    ours = simulate(tiny("plan.tp=2", "plan.pp=1", "plan.sequence_parallel=true")).step.step_time_s
    file, site = tmp_path / "run.log", tmp_path / "site.yaml"
    file.write_text(OTHER_DEGREES + run_of(range(1, 31), 1000 * ours)[0])
    document = json.loads(traincast("explain", str(TINY), "--log", str(file), "--fit", str(site), "--json").stdout)
    fitted = document["fitted"]
    assert fitted["step_time_s"] == pytest.approx(fitted["step_time_before_s"], rel=1e-3)
    assert read_site(site).runs[0].predicted_s == pytest.approx(ours, rel=1e-5)
    before = site.read_text()
    unknown_batch = run_of(range(1, 31), 500.0, batch=66)[0]
    for text in (as_printed("tensor_model_parallel_size", 3) + STEPS, MODEL_UNKNOWN + TITAN, unknown_batch):
        file.write_text(text)
        refused = traincast("explain", str(TINY), "--log", str(file), "--fit", str(site))
        assert refused.returncode == 2
        assert "nothing is fitted" in refused.stderr
    assert site.read_text() == before


def test_stamps_that_jump_back_are_not_used(tmp_path: Path) -> None:
    """An hour back between steps 20 and 21: nothing negative is lost, and line 21 is named."""
    first, at_s = run_of(range(1, 21), 500.0)
    second, _ = run_of(range(21, 41), 500.0, begin_s=at_s - 3600)
    found = explained(tmp_path, first + second)
    assert (found.lost.timed, found.lost.jump_line) == (False, 21)
    assert found.lost.wall_s == pytest.approx(40 * 0.5)
    assert any("time stamps jump back at line 21" in note for note in found.notes)


def test_a_run_faster_than_its_own_plan_is_not_sent_to_throttling(tmp_path: Path) -> None:
    """13 % less than its own plan's prediction: no cause of slowness is looked for."""
    ours = simulate(tiny("plan.tp=2", "plan.pp=1", "plan.sequence_parallel=true")).step.step_time_s
    file = tmp_path / "run.log"
    file.write_text(OTHER_DEGREES + run_of(range(1, 31), 1000 * 0.87 * ours)[0])
    told = traincast("explain", str(TINY), "--log", str(file)).stdout
    assert re.search(r"the run is 1[23]\.\d % faster than its own plan's prediction", told)
    assert "the run is faster than predicted" in told
    assert "throttle" not in told
