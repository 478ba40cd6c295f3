"""Scenario files: what a good one gives, and that a broken one gets every error it deserves, where it stands."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path

import pytest

from hardware.problems import InputError, Problem
from simulator.fields import json_schema
from simulator.predict.simulate import simulate
from simulator.scenario.resolved import scenario_yaml
from simulator.scenario.schema import Scenario, load_scenario, scenario_schema

GOOD = """\
question: Is it read?
model:
  hidden: 1024
  vocab: 32000
  layers:
    - mixer: {kind: attention, heads: 16, kv_heads: 4, head_dim: 64}
      ffn: {kind: dense, width: 4096}
    - repeat: 7
      mixer: {kind: attention, heads: 16, kv_heads: 4, head_dim: 64}
      ffn: {kind: moe, experts: 16, top_k: 2, width: 1024}
cluster:
  gpus: 8
  node: hgx-h100
  fabric: single-switch
plan:
  pp: 2
  ep: 4
  micro_batch_size: 2
  global_batch_size: 64
  precision: bf16
run:
  seq_length: 2048
  tokens: 1e9
"""


def test_days_become_tokens_once_the_step_is_known(tmp_path: Path) -> None:
    scenario = load(tmp_path, changed("tokens: 1e9", "days: 2"))
    assert math.isnan(scenario.run.tokens)
    simulated = simulate(scenario)
    steps = math.floor(2 * 86400 / simulated.step.step_time_s)
    assert simulated.scenario.run.tokens == steps * 64 * 2048
    assert load(tmp_path, changed("tokens: 1e9", "steps: 10")).run.tokens == 10 * 64 * 2048


def test_a_resolved_scenario_finds_the_files_of_its_run(tmp_path: Path) -> None:
    log = "start_day,end_day,node,level,class,description\n1,2,0,Hardware Failure,GPU,x\n"
    (tmp_path / "log.csv").write_text(log)
    resolved = scenario_yaml(load(tmp_path, GOOD + "  fault_log: {file: log.csv, covers: 90 d}\n"))
    (tmp_path / "elsewhere").mkdir()
    policies = load(tmp_path / "elsewhere", resolved).run.policies
    assert policies is not None
    assert [row.start_s for row in policies.fault_log] == [86400.0]


def write(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "scenario.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def changed(old: str, new: str) -> str:
    assert GOOD.count(old) == 1, old
    return GOOD.replace(old, new)


def problems(path: Path, overrides: tuple[str, ...] = ()) -> tuple[Problem, ...]:
    with pytest.raises(InputError) as caught:
        load_scenario(path, overrides)
    return caught.value.problems


def load(tmp_path: Path, text: str = GOOD, overrides: tuple[str, ...] = ()) -> Scenario:
    return load_scenario(write(tmp_path, text), overrides)


def test_a_good_scenario_is_understood(tmp_path: Path) -> None:
    scenario = load(tmp_path)
    assert scenario.name == "scenario"
    assert scenario.question == "Is it read?"
    assert len(scenario.model.layers) == 8
    assert scenario.cluster.nodes == 1
    assert (scenario.run.seq_length, scenario.run.tokens) == (2048, 1e9)
    assert scenario.plan.dp == 4  # 8 GPUs / (tp 1 x cp 1 x pp 2)
    assert scenario.plan.microbatches == 8  # 64 sequences / (4 replicas x 2)


@pytest.mark.parametrize(
    ("old", "new", "schedule"),
    [
        ("  pp: 2\n", "", "none"),
        ("  pp: 2\n", "  pp: 2\n", "1f1b"),
        ("  pp: 2\n", "  pp: 2\n  vpp: 2\n", "interleaved"),
        ("  pp: 2\n", "  pp: 2\n  schedule: gpipe\n  stack: {framework: deepspeed}\n", "gpipe"),
    ],
)
def test_the_schedule_follows_pp_and_vpp_unless_written(tmp_path: Path, old: str, new: str, schedule: str) -> None:
    assert load(tmp_path, changed(old, new)).plan.schedule == schedule


def test_numbers_and_words_are_yaml_1_2(tmp_path: Path) -> None:
    assert load(tmp_path, changed("tokens: 1e9", "tokens: 14.8T")).run.tokens == 14.8e12
    (problem,) = problems(write(tmp_path, changed("precision: bf16", "precision: bf16\n  sequence_parallel: yes")))
    assert "true or false, not 'yes'" in problem.message
    assert load(tmp_path, changed("Is it read?", "no")).question == "no"


# Name, the file's text, and of every problem expected: line, key, words of the message.
BROKEN: list[tuple[str, str | bytes, list[tuple[int | None, str, str]]]] = [
    ("wrong key", changed("global_batch_size", "global_batchsize"), [
        (15, "plan.global_batch_size", "missing"),
        (19, "plan.global_batchsize", "did you mean global_batch_size"),
    ]),
    ("wrong section", changed("cluster:", "clusters:"), [
        (11, "clusters", "did you mean cluster"),
        (None, "cluster", "missing"),
    ]),
    ("wrong type", changed("ep: 4", "ep: four"), [(17, "plan.ep", "whole number of at least 1, not 'four'")]),
    ("wrong word", changed("precision: bf16", "precision: bf61"), [(20, "plan.precision", "did you mean bf16")]),
    ("wrong unit", changed("tokens: 1e9", "tokens: 5 GiB"), [(23, "run.tokens", "measures bytes, here tokens")]),
    ("unit missing", changed("node: hgx-h100", "node: {base: hgx-h100, nic: {bandwidth: 50}}"), [
        (13, "cluster.node.nic.bandwidth", "has no unit; write e.g. 400 GB/s"),
    ]),
    ("negative count", changed("pp: 2", "pp: -2"), [(16, "plan.pp", "at least 1, not -2")]),
    ("zero GPUs", changed("gpus: 8", "gpus: 0"), [(12, "cluster.gpus", "at least 1, not 0")]),
    ("half a stage", changed("pp: 2", "pp: 2.5"), [(16, "plan.pp", "whole number of at least 1, not 2.5")]),
    ("indivisible degrees", changed("pp: 2", "pp: 3"), [
        (16, "plan.pp", "3 GPUs to a replica does not divide the cluster's 8; write pp 2 or 4, or take 6 GPUs"),
    ]),
    ("dp that does not fill", changed("pp: 2", "pp: 2\n  dp: 8"), [
        (17, "plan.dp", "16 GPUs and the cluster has 8; leave dp out, or write 4"),
    ]),
    ("unfilled server", changed("gpus: 8", "gpus: 12"), [(12, "cluster.gpus", "8 or 16 would")]),
    ("unknown node", changed("hgx-h100", "hgx-h1000"), [(13, "cluster.node", "did you mean hgx-h100")]),
    ("unknown GPU", changed("node: hgx-h100", "node: {base: hgx-h100, accelerator: h1000}"), [
        (13, "cluster.node.accelerator", "did you mean h100"),
    ]),
    ("unknown model", "model: deepseek-v33\n" + GOOD[GOOD.index("cluster:"):], [
        (1, "model", "did you mean deepseek-v3"),
    ]),
    ("a model that contradicts itself", changed("top_k: 2", "top_k: 32"), [
        (10, "model.layers.1.ffn.top_k", "32 is more than 16 experts"),
    ]),
    ("config.json not there", "model: {huggingface: no/config.json}\n" + GOOD[GOOD.index("cluster:"):], [
        (1, "model.huggingface", "there is no file"),
    ]),
    ("duplicate key", changed("  pp: 2\n", "  pp: 2\n  pp: 4\n"), [(17, "plan.pp", "given twice, first on line 16")]),
    ("YAML bomb", "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: [*c, *c]\n", [
        (2, "", "alias *a: write the value out"),
    ]),
    ("1e400", changed("1e9", "1e400"), [(23, "run.tokens", "1e400 is not a finite number")]),
    ("infinity", changed("1e9", ".inf"), [(23, "run.tokens", ".inf is not a finite number")]),
    ("not a number", changed("1e9", ".nan"), [(23, "run.tokens", ".nan is not a finite number")]),
    ("empty file", "", [(None, "", "write the sections model, cluster, plan and run")]),
    ("only a comment", "# later\n", [(None, "", "write the sections model, cluster, plan and run")]),
    ("a list", "- model\n- plan\n", [(None, "", "write the sections model, cluster, plan and run")]),
    ("two documents", f"{GOOD}---\n{GOOD}", [(24, "", "a second document begins here")]),
    ("a tag", changed("pp: 2", "pp: !!python/object/apply:os.abort []"), [(16, "", "tags are not read")]),
    ("too deep", "model: " + "[" * 5000, [(1, "", "nested deeper than")]),
    ("too large", "# " + "x" * (5 << 20), [(None, "", "larger than 1 MiB")]),
    ("not UTF-8", b"question: caf\xe9\n", [(1, "", "not UTF-8 text; save it as UTF-8")]),
    ("a NUL byte", b"question: a\x00b\n", [(None, "", "not valid YAML")]),
    ("a tab", changed("  pp: 2", "\tpp: 2"), [(16, "", "indent with spaces")]),
    ("an open bracket", changed("pp: 2", "pp: [2"), [(17, "", "not valid YAML")]),
    ("a huge number", changed("pp: 2", "pp: " + "9" * 5000), [(16, "plan.pp", "not a finite number")]),
    ("sections that are no mappings", GOOD[: GOOD.index("plan:")] + "plan: 7\nrun: []\n", [
        (15, "plan", "must be a mapping"),
        (16, "run", "must be a mapping"),
    ]),
    ("empty sections", GOOD[: GOOD.index("plan:")] + "plan:\nrun:\n", [
        (15, "plan", "is empty"),
        (16, "run", "is empty"),
    ]),
    ("modules not a list", changed("precision: bf16", "recompute: {granularity: selective, modules: moe_act}"), [
        (20, "plan.recompute.modules", "must be a list of words"),
    ]),
    ("FLOPs of an unknown count", GOOD + "published: {source: a paper, mfu: 40%}\n", [
        (24, "published.flops_convention", "is missing: say how FLOPs were counted"),
    ]),
    ("indivisible batch", changed("global_batch_size: 64", "global_batch_size: 63"), [
        (19, "plan.global_batch_size", "right would be: 56 or 64"),
    ]),
    ("more expert ranks than experts", changed("ep: 4", "ep: 32"), [
        (17, "plan.ep", "right would be"),
        (17, "plan.ep", "right would be"),
    ]),
    ("a format the GPU lacks", changed("hgx-h100", "dgx-v100"), [
        (20, "plan.precision", "V100-SXM2-32GB cannot compute in bf16; it can in fp32, fp16"),
    ]),
    ("what is not modelled", changed("precision: bf16", "sharding: full\n  overlap: {moe_ep: true}\n"
        "  stack: {framework: deepseek}"), [(20, "plan.sharding", "are not modelled where micro-batches run in")]),
    ("an optimizer the GPU cannot run", changed("hgx-h100", "dgx-v100").replace("precision: bf16",
        "precision: fp16\n  optimizer: {kind: muon}"), [(21, "plan.optimizer.kind", "muon computes in bf16")]),
    ("beyond anything real", changed("global_batch_size: 64", "global_batch_size: 64000000").replace("seq_length: 2048",
        "seq_length: 4e18").replace("1e9", "1e300"), [
        (19, "plan.global_batch_size", "8000000 micro-batches per replica make 16000000 slots"),
        (22, "run.seq_length", "4e+18 is beyond 1e+09"),
        (23, "run.tokens", "1e+300 is beyond 1e+18"),
    ]),
    ("less than one step", changed("1e9", "1000"), [(23, "run.tokens", "1000 is less than one step: 64 x 2048")]),
    ("policies of the run", GOOD + "  checkpoint: {every: 5 GiB}\n  failurs: {}\n", [
        (24, "run.checkpoint.every", "measures bytes"),
        (25, "run.failurs", "did you mean failures"),
    ]),
    ("everything at once", GOOD.replace("top_k", "topk").replace("gpus: 8", "gpus: many").replace("ep: 4", "ep: -4")
        .replace("precision", "precison").replace("1e9", "a lot"), [
        (10, "model.layers.1.ffn.top_k", "missing"),
        (10, "model.layers.1.ffn.topk", "did you mean top_k"),
        (12, "cluster.gpus", "whole number"),
        (17, "plan.ep", "at least 1"),
        (20, "plan.precison", "did you mean precision"),
        (23, "run.tokens", "write e.g. 14.8T"),
    ]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN])
def test_broken_scenarios_get_every_error_they_deserve(
    tmp_path: Path, text: str | bytes, expected: list[tuple[int | None, str, str]]
) -> None:
    path = write(tmp_path, text)
    found = problems(path)
    assert [(problem.line, problem.key) for problem in found] == [(line, key) for line, key, _ in expected]
    for problem, (_, _, words) in zip(found, expected, strict=True):
        assert problem.file == str(path)
        assert words in problem.message


def test_settings_without_effect_are_warned_of(tmp_path: Path) -> None:
    (warning,) = load(tmp_path, changed("ep: 4", "ep: 4\n  overlap: {shared_experts: true}")).warnings
    assert "plan.overlap.shared_experts" in warning
    assert "no shared experts" in warning
    assert load(tmp_path).warnings == ()


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    os.mkfifo(tmp_path / "pipe.yaml")
    for name, words in [
        ("scenari.yaml", "did you mean"),
        ("", "is a directory"),
        ("pipe.yaml", "no regular file"),
        ("a\0b.yaml", "cannot be read"),
    ]:
        (problem,) = problems(tmp_path / name)
        assert words in problem.message


def test_overrides_follow_the_same_rules_as_the_file(tmp_path: Path) -> None:
    scenario = load(
        tmp_path,
        overrides=("plan.tp=2", "plan.sequence_parallel=true",
                   "plan.recompute={granularity: selective, modules: [moe_act]}", "run.tokens=2e9",
                   "plan.optimizer.kind=muon", "cluster.node=hgx-h800", "plan.layout="),
    )  # fmt: skip
    assert (scenario.plan.tp, scenario.plan.dp) == (2, 2)
    assert scenario.plan.recompute.modules == ("moe_act",)
    assert scenario.plan.optimizer.kind == "muon"
    assert scenario.run.tokens == 2e9
    assert "H800" in scenario.cluster.accelerator.name
    assert scenario.plan.layout is None


@pytest.mark.parametrize(
    ("override", "key", "words"),
    [
        ("plan.tpp=2", "plan.tpp", "did you mean tp"),
        ("plan.pp=3", "plan.pp", "does not divide the cluster's 8"),
        ("plan.pp.x=3", "plan.pp", "nothing below it to set"),
        ("plan", "plan", "section.key=value"),
        ("plan.=3", "plan.", "section.key=value"),
        ("run.tokens=1e400", "run.tokens", "not a finite number"),
        ("run.tokens=[1", "run.tokens", "not valid YAML"),
        ("cluster.node=h10000", "cluster.node", "did you mean h100"),
        ("model.hidden=wide", "model.hidden", "whole number"),
    ],
)
def test_broken_overrides_are_named_themselves(tmp_path: Path, override: str, key: str, words: str) -> None:
    (problem,) = problems(write(tmp_path, GOOD), (override,))
    assert (problem.file, problem.line, problem.key) == (f"--set {override}", None, key)
    assert words in problem.message


def test_problems_of_other_files_name_those_files(tmp_path: Path) -> None:
    (tmp_path / "gpu.yaml").write_text("base: h100\n\ntdp: 500 V\n")
    (tmp_path / "config.json").write_text('{\n"model_type": "llama",\n"hidden_size": "wide"\n}')
    text = changed("node: hgx-h100", "node: {base: hgx-h100, accelerator: gpu.yaml}")
    text = "model: {huggingface: config.json}\n" + text[text.index("cluster:") :].replace("pp: 2", "pp: x")
    found = problems(write(tmp_path, text), ("tdp=5", "hidden_size=7"))
    where = [(Path(problem.file).name, problem.line, problem.key) for problem in found]
    assert where[0] == ("scenario.yaml", 7, "plan.pp")
    assert {("--set tdp=5", None, "tdp"), ("gpu.yaml", 3, "tdp"), ("config.json", 3, "hidden_size")} <= set(where)


def test_a_hugging_face_config_beside_the_scenario(tmp_path: Path) -> None:
    (tmp_path / "my-llama").mkdir()
    (tmp_path / "my-llama" / "config.json").write_text(
        '{"model_type": "llama", "hidden_size": 2048, "num_hidden_layers": 4, "num_attention_heads": 16,'
        '"num_key_value_heads": 4, "intermediate_size": 5632, "vocab_size": 32000, "tie_word_embeddings": false}'
    )
    text = "model: {huggingface: my-llama/config.json}\n" + GOOD[GOOD.index("cluster:") :].replace("ep: 4", "ep: 1")
    model = load(tmp_path, text).model
    assert (model.name, model.hidden, len(model.layers)) == ("my-llama", 2048, 4)


def test_the_resolved_scenario_reads_back_the_same_from_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "gpu.yaml").write_text("base: h100\ntdp: 500 W\n")
    text = changed("node: hgx-h100", "node: {base: hgx-h100, accelerator: gpu.yaml}")
    scenario = load(tmp_path, text, ("plan.tp=2", "plan.sequence_parallel=true"))
    assert scenario.cluster.accelerator.tdp_w == 500
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    again = load_scenario(write(elsewhere, scenario_yaml(scenario)))
    assert replace(again, file=scenario.file, written=scenario.written) == scenario


def test_the_editor_schema_lists_what_the_reader_takes() -> None:
    schema = scenario_schema()
    plan = schema["properties"]["plan"]["properties"]
    assert schema["required"] == ["model", "cluster", "plan", "run"]
    assert "dp" not in schema["properties"]["plan"]["required"]
    name, mapping = plan["precision"]["anyOf"]
    assert name["enum"][:3] == ["fp32", "fp16", "bf16"]
    assert set(mapping["properties"]) >= {"base", "attention", "mlp", "experts", "head", "share"}
    described = {"description": "Tensor-parallel ranks, which share every matrix."}
    assert plan["tp"] == {"type": "integer", "minimum": 1, "default": 1, "examples": [4], **described}
    modules = plan["recompute"]["properties"]["modules"]
    listed = {"description": "Megatron's modules that are recomputed selectively, as core_attn or moe_act."}
    assert modules == {"type": "array", "items": {"type": "string"}, **listed}
    assert schema["properties"]["published"]["properties"]["step_time"]["anyOf"][0]["type"] == ["number", "string"]
    assert json_schema(bool) == {"type": "boolean"}
