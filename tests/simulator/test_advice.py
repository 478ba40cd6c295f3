"""What an error advises can be written: every value named in it, where it is one, ends the error of that key."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from hardware.problems import InputError, Problem
from simulator.scenario.schema import load_scenario
from tests.command import ROOT

TINY = ROOT / "scenarios" / "tiny.yaml"
# Values that cannot be, by key of the smallest scenario (16 experts, 8 layers, 8 GPUs, pp 2, ep 4).
WRONG: dict[str, tuple[object, ...]] = {
    "plan.tp": (3, 5, 16, -1, 0, 2.5, "x"),
    "plan.cp": (3, 5, 16, "a"),
    "plan.pp": (3, 5, 0, 16),
    "plan.vpp": (0, -3),
    "plan.ep": (3, 6, 16, 32, -2, "e"),
    "plan.etp": (2, 3, 5, 0),
    "plan.dp": (3, 16, -1),
    "plan.micro_batch_size": (3, 7, 0, 100),
    "plan.global_batch_size": (7, 30, 1, 0),
    "plan.shard_group": (-1, 0, 3, 16),
    "plan.schedule": ("1fb", "interleaved", "none", "dualpipe", "zb-h1"),
    "plan.precision": ("fp7", "mxfp8", "int8"),
    "plan.sharding": ("zero5", "ful"),
    "plan.dispatcher": ("deep", "nccl"),
    "plan.layout": ("Et|tL", "x", "E|t*7L", "Et*8|tL"),
    "plan.rank_order": ("tp-pp", "tp-cp-pp-ep-dp", "pp-tp-cp-ep-dp"),
    "plan.recompute": ("fulll", "{granularity: selective, modules: [foo]}", "{granularity: full, layers: 0}"),
    "plan.optimizer": ("sgdd", "lion", "{kind: adamw, grads: fp7}", "{kind: adamw, main_params: bf16}"),
    "plan.microbatch_group_size": (-1, 0),
    "plan.first_stage_layers": (-1, 9),
    "plan.last_stage_layers": (0,),
    "plan.expert_imbalance": (0, 0.5, -1),
    "plan.capacity_factor": (0, -1),
    "plan.cp_comm": ("ulysses", "p3p"),
    "plan.overlap": ("{tp_comm: true}", "{param_gather: true, grad_reduce: false}", "{delay_wgrad: true}"),
    "plan.offload": ("{activation: 2}", "{params: nvme}", "{params: host}", "{gradients: 50%}"),
    "plan.stack": ("megatron", "megatron-core-0.99", "deepspeed", "{framework: torchtitann}"),
    "plan.adapters": ("{rank: 8, targets: [foo]}", "{rank: 0}"),
    "plan.loss": ("{chunks: 0}", "{chunks: 100000}"),
    "plan.vocab_divisible_by": (0, -5),
    "plan.fp8_param_gather": ("true",),
    "plan.dispatch_fp8": ("true",),
    "cluster.gpus": (12, 0, 4098),
    "cluster.node": ("hgx-h1000",),
    "cluster.pue": (0, -1),
    "run.seq_length": (0, 1.5),
    "run.tokens": (0, -1),
    "run.checkpoint.policy": ("foo", "asyn"),
    "run.checkpoint.every": ("0 s", "5"),
    "run.spares.hot": (-1,),
    "run.failures": ("lama-3",),
}
CASES = [f"{key}={value}" for key, values in WRONG.items() for value in values]


def problems(*sets: str) -> tuple[Problem, ...]:
    try:
        load_scenario(TINY, sets)
    except InputError as error:
        return error.problems
    return ()


def advised(problem: Problem) -> Iterator[str]:
    """Overrides that the message names: numbers and words in the usual forms of an advice."""
    key, text = problem.key, problem.message
    last = key.rpartition(".")[2]
    remedy = text.partition("right would be: ")[2]
    values = re.fullmatch(rf"(?:{last} )?(-?\d+)(?: or (-?\d+))?", remedy)
    if values:
        yield from (f"{key}={value}" for value in values.groups() if value)
    elif other := re.fullmatch(r"(e?tp|ep|vpp) (\d+)(?:, or .*)?", remedy):
        yield f"plan.{other[1]}={other[2]}"
    elif last == "layout" and remedy:
        yield from (f"{key}={value}" for value in remedy.split(", or "))
    elif re.fullmatch(r"false|[a-z0-9-]+(?: or [a-z0-9-]+)*", remedy):
        yield from (f"{key}={value}" for value in remedy.split(" or "))
    if meant := re.search(r"did you mean (.*)\?", text):
        yield from (f"{key}={value}" for value in meant[1].split(" or "))
    if written := re.search(r"write ([a-z]+) (\d+)(?: or (\d+))?(?:, or take .* GPUs)?$", text):
        yield from (f"plan.{written[1]}={degree}" for degree in written.groups()[1:] if degree)
    if taken := re.search(r"take (\d+)(?: or (\d+))? GPUs", text):
        yield from (f"cluster.gpus={count}" for count in taken.groups() if count)
    if filled := re.search(r"(\d+) or (\d+) would", text):
        yield from (f"{key}={count}" for count in filled.groups() if count != "0")
    if example := re.search(r"(?:or write|write e\.g\.) (.*)", text):
        yield from (f"{key}={value}" for value in re.split(r", | or ", example[1]))


def complaint(problem: Problem) -> str:
    """What is wrong in words, without the values."""
    return re.sub(r"'[^']*'|[-\d.]+", "", problem.message.partition("; right would be")[0])[:40]


@pytest.mark.parametrize("wrong", CASES)
def test_what_is_advised_ends_the_error(wrong: str) -> None:
    found = problems(wrong)
    assert found
    for problem in found:
        for change in advised(problem):
            left = {(each.key, complaint(each)) for each in problems(wrong, change)}
            assert (problem.key, complaint(problem)) not in left, (change, problem.message)


def test_most_errors_advise_a_value() -> None:
    """The forms above are those that errors have: half of them name a value, and no value is negative."""
    changes = [change for wrong in CASES for problem in problems(wrong) for change in advised(problem)]
    assert len(changes) > 0.8 * len(CASES)
    assert not [change for change in changes if re.search(r"=(-\d|None|\(|\[?$)", change)]


def test_a_setting_of_a_stack_is_overruled_by_what_a_file_can_hold() -> None:
    wrong = ["plan.stack=hai-llm-2024", "plan.pp=1", "plan.schedule=dualpipe", "plan.ep=1", "plan.recompute=none"]
    texts = [problem.message for problem in problems(*wrong)]
    assert texts
    assert not [text for text in texts if "None" in text or "True" in text or "(" in text.partition("write")[2]]
