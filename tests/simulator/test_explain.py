"""Logs of running jobs: every framework's lines, what is steady and what is lost, and what could explain a gap."""

from __future__ import annotations

import gzip
import json
import math
import resource
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hardware.problems import InputError
from hardware.units import format_bytes
from hardware.wiring import with_sending_at
from simulator.cost.constants import constants_for
from simulator.launch.explain.causes import causes, stack_changes, step_at
from simulator.launch.explain.compare import Explanation, explain
from simulator.launch.explain.kineto import read_trace
from simulator.launch.explain.lines import rank_of
from simulator.launch.explain.reading import LONGEST_LINE, read_log
from simulator.launch.explain.records import Log
from simulator.launch.explain.steady import Workpiece, steady_steps
from simulator.predict.simulate import simulate
from simulator.scenario.schema import Scenario, load_scenario
from tests.command import ROOT, traincast

TINY = ROOT / "scenarios" / "tiny.yaml"
START_S = 1_760_000_000.0
WORK = Workpiece(batch=64, tokens=64 * 2048, gpus=8)


def megatron(step: int, ms: float, at_s: float, batch: int = 64, total: int = 1000) -> str:
    stamp = datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M:%S")
    return (
        f" [{stamp}] iteration {step:8d}/{total:8d} | consumed samples: {step * batch:12d} | elapsed time per "
        f"iteration (ms): {ms:.1f} | throughput per GPU (TFLOP/s/GPU): 400.1 | learning rate: 1.0E-04 | global batch "
        f"size: {batch:5d} | lm loss: 2.0E+00 | grad norm: 0.3 | number of skipped iterations:   0 |\n"
    )


def run_of(steps: range, ms: float = 5000.0, begin_s: float = START_S, **others: int) -> tuple[str, float]:
    """Lines of steps of one length, and when the last was printed."""
    text, at_s = "", begin_s
    for step in steps:
        at_s += ms / 1000
        text += megatron(step, ms, at_s, **others)
    return text, at_s


def log_of(folder: Path, text: str | bytes) -> Log:
    file = folder / "run.log"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_log(file)


def tiny(*overrides: str) -> Scenario:
    scenario = load_scenario(TINY, overrides)
    return replace(scenario, run=replace(scenario.run, policies=None))


def explained(folder: Path, text: str, scenario: Scenario | None = None) -> Explanation:
    return explain(scenario or tiny(), log_of(folder, text))


# -- lines of every framework ---------------------------------------------------------------------------------------


def test_megatrons_lines_give_steps_memory_and_its_own_estimate(tmp_path: Path) -> None:
    """MB are 2^20 bytes there."""
    text = run_of(range(1, 21))[0]
    text += "[Rank 5] (after 1 iterations) memory (MB) | allocated: 10.0 | max allocated: 2048.0 | reserved: 3000.0 | "
    text += (
        "max reserved: 4096.0\nTheoretical memory footprints: weight and optimizer=1024.00 MB, activation=512.0 MB, "
    )
    text += "total=1536.0 MB\n"
    log = log_of(tmp_path, text)
    (job,) = log.jobs
    assert (job.framework, job.batch, job.total) == ("megatron", 64, 1000)
    assert (log.memory[5].allocated_bytes, log.memory[5].reserved_bytes) == (2**31, 2**32)
    assert log.theoretical_bytes == {"weight and optimizer": 2**30, "activation": 2**29, "total": 1.5 * 2**30}
    assert steady_steps(job, WORK).step_time_s == 5.0


def test_bridges_memory_is_in_decimal_gigabytes_and_primus_adds_a_mean(tmp_path: Path) -> None:
    text = run_of(range(1, 6))[0].replace("(ms): 5000.0", "(ms): 5000.0/5100.0")
    text += (
        "[Rank 0] (after 1 iterations) memory (GB) | mem-allocated-gigabytes: 5.0 | mem-max-allocated-gigabytes: 7.5 | "
    )
    text += "mem-max-reserved-gigabytes: 8.0 | mem-alloc-retires: 0\n"
    log = log_of(tmp_path, text)
    assert steady_steps(log.jobs[0], WORK).step_time_s == 5.0
    assert (log.memory[0].allocated_bytes, log.memory[0].reserved_bytes) == (7.5e9, 8e9)


def test_torchtitans_tokens_per_gpu_become_seconds(tmp_path: Path) -> None:
    """131,072 tokens over 8 GPUs at 4,096 tokens/s each take 4 s; thousands have a comma, lines may be coloured."""
    line = "[rank0]:\x1b[32m[titan] 2025-10-30 14:32:{:02d},990 - root - INFO - step: {:2d}  loss:  6.1  "
    line += "memory:  2.50GiB(3%)  tps: 4,096  tflops: 96.17  mfu: 9.72%\x1b[39m\n"
    log = log_of(tmp_path, "".join(line.format(step, step) for step in range(1, 11)))
    (job,) = log.jobs
    assert steady_steps(job, WORK).step_time_s == 4.0
    assert log.memory[0].reserved_bytes == 2.5 * 2**30


def test_deepspeeds_samples_become_seconds(tmp_path: Path) -> None:
    """64 sequences at 32 a second: 2 s."""
    line = "[2023-11-07 01:55:{:02d},714] [INFO] [timer.py:260:stop] epoch=0/micro_step=40/global_step={}, "
    line += "RunningAvgSamplesPerSec=25.02, CurrSamplesPerSec=32.0, MemAllocated=4.32GB, MaxMemAllocated=38.5GB\n"
    log = log_of(tmp_path, "".join(line.format(step, step * 10) for step in range(1, 8)))
    assert steady_steps(log.jobs[0], WORK).step_time_s == 2.0
    assert log.memory[0].allocated_bytes == 38.5 * 2**30


def test_mlperfs_lines_give_steps_by_samples_and_timed_evaluations(tmp_path: Path) -> None:
    """Every line stands for two steps of 64; an evaluation takes 9 s."""

    def line(key: str, at_ms: int, value: object = None, **metadata: int) -> str:
        entry = {"time_ms": at_ms, "key": key, "value": value, "metadata": {"file": "x.py", "lineno": 1, **metadata}}
        return f" 0: :::MLLOG {json.dumps(entry)}\n"

    text = line("global_batch_size", 0, 64)
    for count in range(1, 9):
        at_ms = 1000 * (count * 4 + (9 if count > 4 else 0))
        text += line("tracked_stats", at_ms, {"throughput": 32.0}, step=count * 128)
        if count == 4:
            text += line("eval_start", at_ms) + line("eval_stop", at_ms + 9000)
    found = explained(tmp_path, text)
    assert (found.job.framework, found.job.batch) == ("mlperf", 64)
    assert (found.steady.step_time_s, found.steady.steps) == (2.0, 16)
    assert found.lost.lost_s == {"evaluation": 9.0}
    assert found.lost.wall_s == pytest.approx(8 * 4 + 9)


@pytest.mark.parametrize(
    ("line", "rank"), [(b"[rank7]: x", 7), (b"[Rank 12] (after", 12), (b"3: x", 3), (b"x rank", None), (b" 0: y", 0)]
)
def test_ranks_by_their_prefix(line: bytes, rank: int | None) -> None:
    assert rank_of(line) == rank


# -- odd logs -------------------------------------------------------------------------------------------------------


def test_interleaved_ranks_count_once(tmp_path: Path) -> None:
    line = "[rank{}]:[titan] 2025-10-30 14:32:{:02d},990 - root - INFO - step: {:2d}  loss: 6.1  "
    line += "memory: {}.0GiB(3%)  tps: 4,096\n"
    text = "".join(line.format(rank, step, step, rank + 1) for step in range(1, 11) for rank in (3, 0, 1, 2))
    log = log_of(tmp_path, text)
    assert (len(log.jobs), len(log.jobs[0].attempts[0]), log.other_ranks) == (1, 10, 30)
    assert {rank: held.reserved_bytes / 2**30 for rank, held in log.memory.items()} == {0: 1, 1: 2, 2: 3, 3: 4}


def test_truncated_and_damaged_lines_are_counted_and_left_out(tmp_path: Path) -> None:
    good = run_of(range(1, 11))[0]
    text = good + megatron(11, 5000, START_S)[:120] + "\n:::MLLOG {broken\n" + "x" * (3 * LONGEST_LINE)
    log = log_of(tmp_path, text.encode() + b"\xff\xfe\n" + megatron(12, float("nan"), START_S).encode())
    assert len(log.jobs[0].attempts[0]) == 10
    assert log.broken == 3


def test_a_restart_in_the_middle_is_one_job_and_its_repeated_steps_are_lost(tmp_path: Path) -> None:
    """40 steps of 5 s, 300 s until the next process prints, from the checkpoint of step 30: ten steps again."""
    first, end_s = run_of(range(1, 41))
    second, _ = run_of(range(31, 61), begin_s=end_s + 300)
    found = explained(tmp_path, first + "Traceback (most recent call last):\n" + second)
    assert (found.lost.restarts, found.lost.repeated_steps) == (1, 10)
    assert found.lost.lost_s == {"restarts": pytest.approx(300), "repeated": pytest.approx(50)}
    assert found.lost.wall_s == pytest.approx(40 * 5 + 300 + 30 * 5)
    assert found.lost.wall_s == pytest.approx(found.lost.steady_s + sum(found.lost.lost_s.values()))


@pytest.mark.parametrize("interleaved", [False, True])
def test_two_jobs_in_one_file_are_told_apart_and_one_explained(tmp_path: Path, interleaved: bool) -> None:
    ours = run_of(range(1, 31), 5000)[0].splitlines(keepends=True)
    other = run_of(range(501, 541), 9000, batch=16)[0].splitlines(keepends=True)
    mixed = [line for pair in zip(ours, other, strict=False) for line in pair] if interleaved else [*other, *ours]
    found = explained(tmp_path, "".join(mixed))
    assert len(found.log.jobs) == 2
    assert (found.job.batch, found.steady.step_time_s) == (64, 5.0)
    assert "batch 16, steps 501" in found.others[0]
    chosen = 1 + [job.batch for job in found.log.jobs].index(16)
    second = explain(tiny(), found.log, job=chosen)
    assert second.steady.step_time_s == 9.0
    assert "is it the right scenario" in second.notes[0]
    with pytest.raises(InputError, match="3 does not exist; the log holds 1: megatron"):
        explain(tiny(), found.log, job=3)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("", "is empty"),
        ("NCCL INFO nothing here\n" * 5, "holds no step of a training job in 5 lines"),
        (
            megatron(1, 5000, START_S)[:100] + " elapsed time per iteration\n",
            "1 lines about steps, all",
        ),
    ],
)
def test_a_log_with_nothing_usable_gets_a_clear_answer(tmp_path: Path, text: str, answer: str) -> None:
    with pytest.raises(InputError, match=answer):
        log_of(tmp_path, text)
    with pytest.raises(InputError, match="no such file"):
        read_log(tmp_path / "missing.log")


@pytest.mark.slow
def test_a_log_of_200_mb_takes_seconds_and_little_memory(tmp_path: Path) -> None:
    """Every second line is a step: far more than real logs hold."""
    noise = "node17: [rank3] NCCL INFO Channel 07/0 : 3[3] -> 4[4] via P2P/CUMEM, and more of what logs are full of\n"
    file = tmp_path / "big.log"
    with file.open("w") as out:
        for step in range(1, 520_001):
            out.write(megatron(step, 5000, START_S + 5 * step, total=520_000) + noise)
    assert file.stat().st_size > 200e6
    before_kib, begun_s = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    log = read_log(file)
    assert time.process_time() - begun_s < 10
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib) / 1024 < 500
    assert len(log.jobs[0].attempts[0]) == 520_000


# -- steady, lost ---------------------------------------------------------------------------------------------------


def test_warm_up_spikes_and_a_checkpoint_are_told_from_steady_steps(tmp_path: Path) -> None:
    """Two slow first steps (15 and 3 s more), one of 9 s (4 more), and 30 s in which a checkpoint is written."""
    text, at_s = "", START_S
    for step in range(1, 101):
        ms = {1: 20_000.0, 2: 8_000.0, 50: 9_000.0}.get(step, 5_000.0)
        at_s += ms / 1000
        text += megatron(step, ms, at_s)
        if step == 60:
            text += "saving checkpoint at iteration      60 to /x\n"
            at_s += 30
    found = explained(tmp_path, text)
    assert found.steady.step_time_s == 5.0
    assert found.lost.lost_s == pytest.approx({"warm_up": 18, "spikes": 4, "checkpoint": 30})
    assert found.lost.wall_s == pytest.approx(500 + 18 + 4 + 30)


def test_a_pause_that_states_its_length_is_not_counted_again(tmp_path: Path) -> None:
    first, end_s = run_of(range(1, 11))
    told = (
        "(min, max) time across ranks (ms):\n    save-checkpoint ................................: (11000.0, 12000.0)\n"
    )
    second, _ = run_of(range(11, 21), begin_s=end_s + 12)
    assert explained(tmp_path, first + told + second).lost.lost_s == {"checkpoint": 12.0}


def test_drift_over_hours_is_beyond_the_noise_or_none(tmp_path: Path) -> None:
    """5 s growing to 6 s over 3,000 steps: the last third takes 0.667 s (12.9 %) more than the first, 2.8 hours on."""
    text, at_s = "", START_S
    for step in range(1, 3001):
        ms = 5000 + 1000 * step / 3000
        at_s += ms / 1000
        text += megatron(step, ms, at_s)
    drift = explained(tmp_path, text).drift
    assert drift is not None
    assert drift.change_fraction == pytest.approx((5 + 5 / 6) / (5 + 1 / 6) - 1, rel=0.01)
    assert drift.hours == pytest.approx(3.06, rel=0.02)
    assert explained(tmp_path, run_of(range(1, 301))[0]).drift is None


def test_averages_over_a_log_interval_stand_for_their_steps(tmp_path: Path) -> None:
    text = "".join(megatron(step, 5000, START_S + 5 * step) for step in range(10, 210, 10))
    found = explained(tmp_path, text)
    assert found.steady.steps == 200
    assert found.lost.wall_s == pytest.approx(1000)


@pytest.mark.parametrize("first", [1, 1001])
def test_a_first_step_that_is_printed_alone_stands_for_itself(tmp_path: Path, first: int) -> None:
    """33 s for the first step, then 5 s each, printed every 50 steps: 28 s of warm-up, not 28 s times 49."""
    text, at_s = megatron(first, 33_000.0, START_S + 33, total=2000), START_S + 33
    for step in range(first + 49, first + 300, 50):
        at_s += 5.0 * (49 if step == first + 49 else 50)
        text += megatron(step, 5_000.0, at_s, total=2000)
    found = explained(tmp_path, text)
    assert found.lost.lost_s == pytest.approx({"warm_up": 28})
    assert found.lost.wall_s == pytest.approx(33 + 5 * 299)
    assert found.steady.steps == 299


# -- against the prediction -----------------------------------------------------------------------------------------


def test_memory_is_compared_by_the_stage_of_each_rank(tmp_path: Path) -> None:
    """pp 2 on 8 GPUs: ranks 0 to 3 are the first stage."""
    line = "[Rank {}] (after 1 iterations) memory (MB) | allocated: 1.0 | max allocated: {} | reserved: 1.0 | "
    line += "max reserved: {}\n"
    text = (
        run_of(range(1, 11))[0]
        + line.format(0, 100.0, 200.0)
        + line.format(3, 150.0, 180.0)
        + line.format(4, 90.0, 95.0)
    )
    found = explained(tmp_path, text)
    stages = [(row.stage, row.ranks, row.allocated_bytes / 2**20, row.reserved_bytes / 2**20) for row in found.memory]
    assert stages == [(0, 2, 150, 200), (1, 1, 90, 95)]
    assert found.memory[0].predicted_allocated_bytes == found.prediction.stages[0].peak_memory_bytes


def test_memory_that_no_such_gpu_has_is_remarked(tmp_path: Path) -> None:
    """95 GiB reserved on a GPU of 80 GiB."""
    line = "[Rank {}] (after 1 iterations) memory (MB) | allocated: 1.0 | max allocated: {} | reserved: 1.0 | "
    line += "max reserved: {}\n"
    steps = run_of(range(1, 31))[0]
    capacity = tiny().cluster.accelerator.memory_capacity_bytes
    beyond = explained(tmp_path, steps + line.format(0, 71000, 72000) + line.format(3, 95000, 97280))
    (note,) = (each for each in beyond.notes if "more than the" in each)
    assert note.startswith(f"memory of rank 3 is 95 GiB, more than the {format_bytes(capacity)} of ")
    within = explained(tmp_path, steps + line.format(0, 71000, 72000))
    assert not any("more than the" in each for each in within.notes)


def test_a_log_as_fast_as_predicted_needs_no_explanation(tmp_path: Path) -> None:
    predicted_s = simulate(tiny()).step.step_time_s
    found = explained(tmp_path, run_of(range(1, 31), predicted_s * 1000)[0])
    assert (found.causes, found.stacks) == ((), ())
    assert found.figures[0].difference_fraction == pytest.approx(0, abs=1e-3)


def test_every_cause_is_the_prediction_with_that_one_thing_changed() -> None:
    scenario = tiny()
    predicted_s = simulate(scenario).step.step_time_s
    constants = constants_for(scenario.cluster.accelerator, scenario.plan)
    found = {cause.name: cause for cause in causes(scenario, 1.2 * predicted_s, predicted_s)}
    slower = step_at(scenario, replace(constants, host_s_per_kernel=5 * constants.host_s_per_kernel))
    assert found["host"].effect_s == pytest.approx(slower - predicted_s)
    assert "network between nodes" not in found, "eight GPUs of one domain send nothing over NICs"
    imbalance = found["imbalance of experts"]
    if imbalance.explained_at is not None:
        changed = replace(scenario, plan=replace(scenario.plan, expert_imbalance=imbalance.explained_at))
        assert simulate(changed).step.step_time_s == pytest.approx(1.2 * predicted_s, rel=0.02)


def test_a_cause_that_was_put_in_is_found_again() -> None:
    """The step of clocks at 80 %: the cause `clocks` explains it at about 0.8."""
    scenario = tiny()
    constants = constants_for(scenario.cluster.accelerator, scenario.plan)
    names = ("gemm_rate", "low_gemm_rate", "attention_rate")
    slow = replace(constants, **{name: 0.8 * getattr(constants, name) for name in names})
    found = causes(scenario, step_at(scenario, slow), step_at(scenario, constants))
    clocks = next(cause for cause in found if cause.name == "clocks")
    assert clocks.explained_at == pytest.approx(0.8, abs=0.01)
    assert clocks.explains_fraction == 1


def test_a_run_faster_than_predicted_is_not_put_down_to_clocks() -> None:
    """Clocks, power and throttling are looked at where a run is slow."""
    scenario = tiny()
    predicted_s = simulate(scenario).step.step_time_s
    assert "clocks" in {cause.name for cause in causes(scenario, 1.1 * predicted_s, predicted_s)}
    faster = {cause.name for cause in causes(scenario, 0.9 * predicted_s, predicted_s)}
    assert "clocks" not in faster
    assert "memory-bound kernels" in faster


@pytest.mark.parametrize(("ep", "top_k", "most"), [(2, 2, 2.0), (8, 2, 2.5), (8, 4, 2.0)])
def test_no_imbalance_is_proposed_that_routing_cannot_have(ep: int, top_k: int, most: float) -> None:
    """A rank gets at most all tokens, ep times the mean; with one of 8 experts, 4 to a token, at most 8 / 4 of it."""
    ffn = f"{{kind: moe, experts: 8, top_k: {top_k}, width: 1024}}"
    layers = f"{{repeat: 8, mixer: {{kind: attention, heads: 16, kv_heads: 4, head_dim: 64}}, ffn: {ffn}}}"
    scenario = tiny(f"model={{hidden: 1024, vocab: 32000, layers: {layers}}}", "plan.pp=1", f"plan.ep={ep}")
    predicted_s = simulate(scenario).step.step_time_s
    found = {cause.name: cause for cause in causes(scenario, 2 * predicted_s, predicted_s)}
    assert found["imbalance of experts"].limit == pytest.approx(most)


def test_nics_behind_slower_ports_count_as_fast_as_these() -> None:
    """At half of what is sent a step takes what it takes on NICs of half the ports' speed."""
    scenario = tiny("cluster.gpus=64", "cluster.fabric=edr-2tier", "plan.ep=8")
    port = scenario.cluster.fabric.tiers[0].port_bandwidth_bytes_per_s
    assert port < scenario.cluster.node.nic.bandwidth_bytes_per_s
    slower = with_sending_at(scenario.cluster, 0.5)
    assert slower.node.nic.bandwidth_bytes_per_s == pytest.approx(port / 2)


def test_lost_behaviours_of_the_software_are_predicted_as_scenarios_would_be() -> None:
    scenario = tiny()
    unfused = simulate(tiny("plan.stack.fused_kernels=false")).step.step_time_s
    predicted_s = simulate(scenario).step.step_time_s
    changes = {change.name: change for change in stack_changes(scenario, unfused, predicted_s)}
    assert changes["kernels are not fused"].step_time_s == pytest.approx(unfused)
    assert changes["kernels are not fused"].explains_fraction == 1


@pytest.mark.parametrize(
    ("printed", "length"),
    [
        ("  seq_length ...................................... 1024\n", 1024),
        ("0:   seq_length .................................... 1024\n  decoder_seq_length ..... 64\n", 1024),
        ("model:\n  seq_length: 1024\ndataset:\n  seq_length: 1024\n", 1024),
        ("  seq_length .... 1024\n  seq_length .... 4096\n", 0),
        ("a word on seq_length: 1024 is better\n", 0),
    ],
)
def test_the_length_of_a_sequence_is_what_the_job_prints(tmp_path: Path, printed: str, length: int) -> None:
    """Megatron's arguments and Bridge's configuration; two lengths before the first step are two jobs, and say none."""
    log = log_of(tmp_path, printed + run_of(range(1, 11))[0])
    assert log.jobs[0].seq_length == length


def test_a_logs_own_batch_and_sequence_price_its_tokens_and_are_predicted(tmp_path: Path) -> None:
    """128 sequences of 1,024 tokens in 5 s are 26,214.4 tokens/s, whatever the scenario (64 of 2,048) says."""
    printed = "  seq_length ...................................... 1024\n"
    found = explained(tmp_path, printed + run_of(range(1, 31), batch=128)[0])
    figures = {each.quantity: each for each in found.figures}
    assert figures["tokens_per_s"].measured == 128 * 1024 / 5
    assert figures["tokens_per_s_per_gpu"].measured == 128 * 1024 / 5 / 8
    alike = tiny("plan.global_batch_size=128", "run.seq_length=1024")
    assert found.prediction.step_time_s == simulate(alike).step.step_time_s
    assert figures["mfu_fraction"].measured == pytest.approx(
        found.prediction.mfu_fraction * found.prediction.step_time_s / 5
    )
    assert "128 sequences a step where the scenario's plan.global_batch_size is 64" in found.notes[0]
    assert "1024 tokens a sequence where the scenario's run.seq_length is 2048" in found.notes[0]
    assert "--set plan.global_batch_size=128 --set run.seq_length=1024" in found.notes[0]


def test_a_logs_own_gpus_share_its_tokens(tmp_path: Path) -> None:
    """16 GPUs where the scenario has 8: half the tokens and the MFU for each."""
    printed = "using world size: 16, data-parallel size: 16, tensor-model-parallel size: 1\n"
    apart, alike = (explained(tmp_path, start + run_of(range(1, 31), batch=64)[0]) for start in (printed, ""))
    ours, theirs = ({each.quantity: each.measured for each in found.figures} for found in (alike, apart))
    for quantity, share in (("tokens_per_s", 1.0), ("tokens_per_s_per_gpu", 0.5), ("mfu_fraction", 0.5)):
        assert theirs[quantity] == pytest.approx(share * ours[quantity])
    assert "the log is of 16 GPUs where the scenario's cluster.gpus is 8" in apart.notes[0]
    assert not any("GPUs where" in note for note in alike.notes)


def test_a_batch_that_the_plan_cannot_have_still_prices_the_logs_tokens(tmp_path: Path) -> None:
    """66 sequences are no multiple of 4 ranks of 2: MFU is 66/64 of that of the predicted step in the same time."""
    found = explained(tmp_path, run_of(range(1, 31), batch=66)[0])
    predicted_s = simulate(tiny()).step.step_time_s
    figures = {each.quantity: each for each in found.figures}
    assert found.prediction.step_time_s == predicted_s
    assert figures["tokens_per_s"].measured == 66 * 2048 / 5
    share = figures["mfu_fraction"].measured / found.prediction.mfu_fraction
    assert share == pytest.approx(66 / 64 * predicted_s / 5)
    assert "the plan is not legal with that" in found.notes[0]


def test_torchtitan_and_deepspeed_say_their_step_before_the_first(tmp_path: Path) -> None:
    """torchtitan: 32 sequences of 4,096 tokens over 8 GPUs at 4,096 tokens/s each take 4 s."""
    text = "[titan] - root - INFO - Trainer is initialized with local batch size 4, global batch size 32, gradient "
    text += "accumulation steps 1, sequence length 4096, total steps 1000 (warmup 200)\n"
    text += "".join(f"[titan] - root - INFO - step: {step}  loss: 6.1  tps: 4,096\n" for step in range(1, 11))
    found = explained(tmp_path, text)
    assert (found.job.batch, found.job.seq_length, found.steady.step_time_s) == (32, 4096, 4.0)
    text = "[INFO] [config.py:1003:print]   train_batch_size ............. 32\n"
    text += "".join(f"global_step={step}, RunningAvgSamplesPerSec=9.0, CurrSamplesPerSec=8.0\n" for step in range(1, 9))
    found = explained(tmp_path, text)
    assert (found.job.batch, found.steady.step_time_s) == (32, 4.0)


def test_mlperf_says_the_length_of_a_sequence(tmp_path: Path) -> None:
    entries = [{"key": "max_sequence_length", "value": 1024}, {"key": "global_batch_size", "value": 64}]
    entries += [{"key": "tracked_stats", "value": {"throughput": 32.0}, "metadata": {"step": n}} for n in range(1, 9)]
    found = explained(tmp_path, "".join(f":::MLLOG {json.dumps(entry)}\n" for entry in entries))
    assert (found.job.batch, found.job.seq_length) == (64, 1024)
    assert found.prediction.step_time_s == simulate(tiny("run.seq_length=1024")).step.step_time_s


# -- traces ---------------------------------------------------------------------------------------------------------


def trace_file(folder: Path, compress: bool) -> Path:
    """Two marked steps of 100 us; in the second 40 compute, 30 reduce gradients (15 hidden), 10 dispatch, 35 idle."""

    def kernel(name: str, begin: float, dur: float, group: str = "") -> dict[str, object]:
        args = {"Process Group Description": group} if group else {}
        return {"ph": "X", "cat": "kernel", "name": name, "ts": begin, "dur": dur, "args": args}

    steps = [
        {"ph": "X", "cat": "gpu_user_annotation", "name": f"ProfilerStep#{n}", "ts": 100.0 * n, "dur": 100.0}
        for n in (0, 1)
    ]
    kernels = [
        kernel("gemm", 5, 80),
        kernel("gemm", 100, 40),
        kernel("ncclDevKernel_ReduceScatter", 125, 30, "DATA_PARALLEL_GROUP_WITH_CP"),
        kernel("ncclDevKernel_SendRecv", 155, 10, "EXPERT_MODEL_PARALLEL_GROUP"),
    ]
    text = json.dumps({"distributedInfo": {"rank": 5}, "traceEvents": [*steps, *kernels, {"ph": "i"}]}).encode()
    file = folder / ("t.json.gz" if compress else "t.json")
    file.write_bytes(gzip.compress(text) if compress else text)
    return file


@pytest.mark.parametrize("compress", [False, True])
def test_a_trace_gives_what_computes_what_is_exposed_and_what_is_idle(tmp_path: Path, compress: bool) -> None:
    step = read_trace(trace_file(tmp_path, compress))
    assert (step.rank, step.steps) == (5, 1)
    assert (step.step_time_s, step.compute_s, step.idle_s) == pytest.approx((100e-6, 40e-6, 35e-6))
    assert step.exposed_s == pytest.approx({"dp": 15e-6, "ep": 10e-6})
    assert step.hidden_s == pytest.approx({"dp": 15e-6, "ep": 0.0})


def test_traces_that_say_nothing_are_refused(tmp_path: Path) -> None:
    for text, answer in (
        ("{", "no whole JSON"),
        ("[]", "has no traceEvents"),
        ('{"traceEvents": []}', "no GPU kernels"),
    ):
        (tmp_path / "t.json").write_text(text)
        with pytest.raises(InputError, match=answer):
            read_trace(tmp_path / "t.json")


# -- the verb -------------------------------------------------------------------------------------------------------


def test_the_verb_explains_fits_a_site_and_says_what_to_look_at(tmp_path: Path) -> None:
    log, site = tmp_path / "run.log", tmp_path / "site.yaml"
    log.write_text(run_of(range(1, 41), 100.0)[0])
    arguments = ("explain", str(TINY), "--log", str(log), "--trace", str(trace_file(tmp_path, False)))
    done = traincast(*arguments, "--fit", str(site), "--json")
    document = json.loads(done.stdout)
    assert (done.returncode, document["steady"]["step_time_s"]) == (0, 0.1)
    assert document["figures"][0]["quantity"] == "step_time_s"
    assert document["trace"][0]["cause"] == "compute"
    assert document["next"]
    fitted = document["fitted"]
    assert fitted["step_time_before_s"] < fitted["step_time_s"] < 0.1
    told = traincast(*arguments)
    assert "could explain the gap" in told.stdout
    assert "Look next" in told.stdout
    evaluated = json.loads(traincast("evaluate", str(TINY), "--set", f"hardware.site={site}", "--json").stdout)
    assert evaluated["step_time_s"] == pytest.approx(fitted["step_time_s"])
    assert evaluated["step_time_interval_s"] == pytest.approx(fitted["interval_s"])
    assert math.fsum(evaluated["breakdown_s"].values()) == pytest.approx(evaluated["step_time_s"])


def test_figures_have_their_units_and_releases_that_add_the_same_stand_in_one_row(tmp_path: Path) -> None:
    """Llama 3.1 8B in FP8 a little faster than predicted: several releases of Megatron-Bridge explain as much."""
    scenario = ROOT / "scenarios" / "qwen3-235b-256xh100.yaml"
    given = ["model=llama-3.1-8b", "cluster.gpus=16", "run.seq_length=4096",
             "plan={precision: fp8, tp: 2, micro_batch_size: 2, global_batch_size: 256, stack: megatron-core-0.19}",
    ]  # fmt: skip
    log = tmp_path / "run.log"
    log.write_text(run_of(range(1, 41), 4800.0, batch=256)[0])
    sets = [part for each in given for part in ("--set", each)]
    done = traincast("explain", str(scenario), "--log", str(log), *sets)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert next(line for line in lines if line.startswith("step time")).split()[:4] == ["step", "time", "(s)", "4.8"]
    assert next(line for line in lines if line.startswith("tokens/s ")).split()[1] == "218,453"
    releases = [line for line in lines if line.startswith("the release is")]
    assert any("(or megatron-bridge-" in line for line in releases)
    effects = [tuple(line.split()[-5:]) for line in releases]
    assert len(effects) == len(set(effects))
