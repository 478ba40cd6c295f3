"""Named software stacks: every release states behaviours with sources; scenarios name, change and are refused them."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import get_args

import pytest

from hardware.documents import read_document
from hardware.problems import InputError
from simulator.model.spec import DenseFFN, Layer, Model
from simulator.plans.spec import Plan
from simulator.predict.prediction import evaluate
from simulator.predict.premises import premises
from simulator.report.document import stack_document
from simulator.scenario.resolved import resolved
from simulator.scenario.schema import load_scenario, read_scenario
from simulator.stack import DEFAULT, Stack, names, newest, release
from simulator.stack.effects import overruled
from simulator.stack.losses import logit_bytes, loss_of
from simulator.stack.spec import Framework
from simulator.workload.ffns import ffn_work
from simulator.workload.shape import shape_of

TINY = Path(__file__).parents[2] / "scenarios" / "tiny.yaml"


@pytest.mark.parametrize("name", names())
def test_every_release_says_where_each_value_is_known_from(name: str) -> None:
    found = release(name)
    assert found.title
    assert found.plain_fp8
    assert found.stack.name == name
    known = {spec.name for spec in fields(Stack)}
    assert set(found.sources) <= known
    settings = [*found.plan.values(), *found.plan_with_pipeline.values()]
    assert all(source.strip() for source in (*found.sources.values(), *(setting.source for setting in settings)))


def test_a_plan_that_names_no_stack_runs_on_the_newest_megatron_core() -> None:
    assert newest("megatron-core").name == DEFAULT, "Bridge, of the same date, is recipes over it"
    scenario = load_scenario(TINY)
    assert scenario.plan.stack.name == DEFAULT
    assert scenario.stack_choice == "default"


@pytest.mark.parametrize("framework", get_args(Framework))
def test_a_framework_alone_is_short_for_its_newest_release(framework: Framework) -> None:
    scenario = load_scenario(TINY, [f"plan.stack={{framework: {framework}}}", "plan.pp=1"])
    assert scenario.plan.stack.name == newest(framework).name


def test_a_plan_that_names_a_framework_is_told_of_stacks() -> None:
    with pytest.raises(InputError) as raised:
        load_scenario(TINY, ["plan.framework=torchtitan"])
    assert [problem.key for problem in raised.value.problems] == ["plan.framework"]
    assert f"Write stack: {newest('torchtitan').name}" in raised.value.problems[0].message


def test_advice_of_another_stack_can_be_followed() -> None:
    """Beside a base no framework may stand, so a release is what to write."""
    with pytest.raises(InputError) as raised:
        load_scenario(TINY, ["plan.stack={base: megatron-core-0.16}", "plan.schedule=dualpipe"])
    problem = next(each for each in raised.value.problems if each.key == "plan.schedule")
    name = problem.message.rpartition("plan.stack ")[2]
    assert load_scenario(TINY, [f"plan.stack={name}", "plan.schedule=dualpipe"]).plan.stack.name == name


def test_behaviours_change_a_release_and_nothing_else_of_it() -> None:
    base = release("megatron-core-0.16").stack
    plain = load_scenario(TINY, ["plan.stack={base: megatron-core-0.16, flash_version: 2}"]).plan.stack
    assert plain == replace(base, flash_version=2)
    below = load_scenario(TINY, ["plan.stack=megatron-core-0.16", "plan.stack.flash_version=2"]).plan.stack
    assert below == plain


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("torchtitan-2025-07", "did you mean torchtitan-2025-06"),
        ("torchtitan", "is a framework; write a release of it, as torchtitan-0.3"),
        ("{base: megatron-core-0.16, framework: torchtitan}", "follows from base"),
        ("{framework: jax}", "is not known"),
        ("{base: megatron-core-0.16, flash_vers: 2}", "flash_version"),
        ("{base: megatron-core-0.16, casts: none}", "choose from"),
        ("{bass: megatron-core-0.16}", "did you mean base"),
        ("{xyzzy: 1}", "base, "),
        ("7", "must be the name of a release"),
    ],
)
def test_what_is_not_known_is_refused_with_the_nearest_names(written: str, words: str) -> None:
    with pytest.raises(InputError) as raised:
        load_scenario(TINY, [f"plan.stack={written}"])
    assert len(raised.value.problems) == 1
    assert words in raised.value.problems[0].message
    assert raised.value.problems[0].key.startswith("plan.stack")


def test_a_release_sets_the_plan_keys_that_the_scenario_leaves_out() -> None:
    """What is written stands, the rest is the release's, and the scenario says which is which."""
    split = ["plan.stack=torchtitan-0.3", "plan.pp=1", "plan.cp=2"]
    scenario = load_scenario(TINY, split)
    written = load_scenario(TINY, [*split, "plan.cp_comm=p2p"])
    assert scenario.plan.cp_comm == "allgather"
    assert scenario.stack_settings["cp_comm"] == "allgather"
    assert written.plan.cp_comm == "p2p"
    assert "cp_comm" not in written.stack_settings


def test_what_would_do_nothing_is_not_listed_as_set() -> None:
    """Context exchange at cp 1, sequence parallelism at tp 1 and pipeline sends at pp 1 mean nothing."""
    alone = load_scenario(TINY, ["plan.stack=torchtitan-0.3", "plan.pp=1"])
    assert "cp_comm" not in alone.stack_settings
    assert "sequence_parallel" not in alone.stack_settings
    old = load_scenario(TINY, ["plan.stack=megatron-lm-2021", "plan.pp=1", "plan.precision=fp16"])
    assert "overlap.p2p" not in old.stack_settings


def test_torchtitan_shards_the_sequence_wherever_it_splits_layers() -> None:
    overrides = ["plan.stack=torchtitan-0.3", "plan.pp=1", "plan.tp=2"]
    assert load_scenario(TINY, overrides).plan.sequence_parallel
    assert not load_scenario(TINY, [*overrides, "plan.sequence_parallel=false"]).plan.sequence_parallel


@pytest.mark.parametrize(
    ("overrides", "choice", "name"),
    [
        (["plan.stack=torchtitan-0.3", "plan.pp=1"], "named", "torchtitan-0.3"),
        (["plan.stack={base: megatron-core-0.16}"], "named", "megatron-core-0.16"),
        (["plan.stack={framework: megatron-core}"], "newest of framework", DEFAULT),
        (["plan.stack={}"], "default", DEFAULT),
        (["plan.stack={base: null}"], "default", DEFAULT),
        (["plan.stack.flash_version=2"], "default", DEFAULT),
        ([], "default", DEFAULT),
    ],
)
def test_how_the_release_was_chosen_is_said(overrides: list[str], choice: str, name: str) -> None:
    scenario = load_scenario(TINY, overrides)
    assert (scenario.stack_choice, scenario.plan.stack.name) == (choice, name)
    document = stack_document(scenario)
    assert (document["named"], document["choice"]) == (choice == "named", choice)
    unnamed = [] if choice == "named" else ["stack"]
    assert [premise.topic for premise in premises(scenario, None, None)] == [*unnamed, "routing"]


@pytest.mark.parametrize(
    ("overrides", "key", "words"),
    [
        (["plan.stack=hai-llm-2024", "plan.global_batch_size=16"], "plan.global_batch_size",
         "stack hai-llm-2024 sets plan.schedule to dualpipe, write plan.schedule: 1f1b to overrule it"),
        (["plan.stack={base: hai-llm-2024}", "plan.pp=1", "plan.tp=8", "plan.ep=1", "plan.etp=1"], "", ""),
        (["plan.stack=torchtitan-0.3", "plan.schedule=dualpipe", "plan.global_batch_size=16"],
         "plan.global_batch_size", ""),
    ],
)  # fmt: skip
def test_an_error_says_where_a_setting_of_the_stack_is_to_blame(overrides: list[str], key: str, words: str) -> None:
    """And only there: what the scenario wrote itself is not laid at the stack's door."""
    if not key:
        assert load_scenario(TINY, overrides).plan.schedule == "none"
        return
    with pytest.raises(InputError) as raised:
        load_scenario(TINY, overrides)
    problem = next(each for each in raised.value.problems if each.key == key)
    assert words in problem.message
    assert ("sets plan." in problem.message) == bool(words)


@pytest.mark.parametrize(
    ("stack", "precision", "grads"),
    [
        ("megatron-lm-2021", "fp16", "fp16"),
        ("megatron-lm-2021", "bf16", "fp32"),
        ("deepspeed-zero3-2021", "fp16", "fp16"),
        ("deepspeed-zero3-2021", "bf16", "bf16"),
        ("megatron-bridge-0.6", "bf16", "bf16"),
        ("megatron-bridge-0.6", "fp16", "fp16"),
    ],
)
def test_gradient_formats_of_a_release_follow_the_precision(stack: str, precision: str, grads: str) -> None:
    """Megatron-LM of 2021 keeps fp16 gradients in fp16 training alone; others keep them as the weights are."""
    plan = load_scenario(TINY, [f"plan.stack={stack}", "plan.pp=1", f"plan.precision={precision}"]).plan
    assert (plan.optimizer.grads, plan.optimizer.grad_reduce) == (grads, grads)


@pytest.mark.parametrize(
    ("stack", "overrides", "key"),
    [
        ("deepspeed-0.19", ["plan.sharding=full"], "plan.sharding"),
        ("deepspeed-0.19", ["plan.sharding=optimizer_gradients"], "plan.sharding"),
        ("pytorch-ddp-2021", ["plan.pp=1", "plan.sharding=full"], "plan.sharding"),
        ("pytorch-ddp-2021", ["plan.pp=1", "plan.tp=2", "plan.sequence_parallel=true"], "plan.tp"),
        ("pytorch-ddp-2021", [], "plan.pp"),
        ("llm-foundry-2024-01", [], "plan.pp"),
        ("llm-foundry-2024-01", ["plan.pp=1", "plan.tp=2", "plan.sequence_parallel=true"], "plan.tp"),
        ("pytorch-fsdp-2025", [], "plan.pp"),
        ("megatron-lm-2022", ["plan.precision=fp8-delayed"], "plan.precision"),
        ("metaseq-2022", ["plan.pp=1", "plan.precision=fp8-delayed"], "plan.precision"),
    ],
)
def test_what_a_release_cannot_do_is_refused_by_name(stack: str, overrides: list[str], key: str) -> None:
    with pytest.raises(InputError) as raised:
        load_scenario(TINY, [f"plan.stack={stack}", *overrides])
    assert [problem.key for problem in raised.value.problems] == [key]
    assert f"stack {stack} cannot: " in raised.value.problems[0].message
    freed = f"plan.stack={{base: {stack}, framework_rules: false}}"
    assert load_scenario(TINY, [freed, *overrides]).plan.stack.name == stack


def test_deepspeed_shards_less_under_a_pipeline() -> None:
    """tiny.yaml with its own sharding left out: ZeRO-3 alone, ZeRO-1 where the pipeline engine runs."""
    written = read_document(TINY)
    del written.data["plan"]["sharding"]
    shardings = {}
    for pp in (1, 2):
        written.data["plan"] |= {"pp": pp, "stack": "deepspeed-0.19"}
        shardings[pp] = read_scenario(written, "tiny").plan.sharding
    assert shardings == {1: "full", 2: "optimizer"}


def test_metaseq_has_megatrons_tensor_parallelism() -> None:
    plan = load_scenario(TINY, ["plan.stack=metaseq-2022", "plan.pp=1", "plan.tp=2"]).plan
    assert plan.tp == 2


@pytest.mark.parametrize("version", [0, 4, 7])
def test_flash_attention_has_three_generations(version: int) -> None:
    with pytest.raises(InputError, match=r"plan\.stack\.flash_version: must be .*at (most 3|least 1), not"):
        load_scenario(TINY, [f"plan.stack.flash_version={version}"])


@pytest.mark.parametrize(("version", "refused"), [(1, False), (2, True), (3, True)])
def test_triton_built_the_first_flash_attention_only(version: int, refused: bool) -> None:
    overrides = [f"plan.stack.flash_version={version}", "plan.stack.flash_build=triton"]
    if refused:
        with pytest.raises(InputError, match="flash_build"):
            load_scenario(TINY, overrides)
    else:
        assert load_scenario(TINY, overrides).plan.stack.flash_build == "triton"


def test_torchtitans_selective_recompute_asks_for_no_modules() -> None:
    """It chooses operators by itself; modules that a scenario writes all the same change nothing and are warned of."""
    plain = ["plan.stack=torchtitan-0.3", "plan.pp=1", "plan.recompute.granularity=selective"]
    without = load_scenario(TINY, plain)
    beside = load_scenario(TINY, [*plain, "plan.recompute.modules=[core_attn]"])
    assert not any("recompute" in warning for warning in without.warnings)
    assert any(warning.startswith("plan.recompute.modules") for warning in beside.warnings)
    first, second = evaluate(without), evaluate(beside)
    assert first.step_time_s == second.step_time_s
    assert first.peak_memory_bytes == second.peak_memory_bytes
    none = evaluate(load_scenario(TINY, [*plain, "plan.recompute.granularity=none"]))
    assert first.peak_memory_bytes < none.peak_memory_bytes


def test_behaviours_that_another_overrules_are_marked() -> None:
    """Eager torchtitan's own loss runs in dense models; compiled, its fused one."""
    eager, compiled = release("torchtitan-0.3").stack, release("torchtitan-0.3-compiled").stack
    assert "own_loss runs" in overruled(eager)["fused_loss"]
    assert "own_loss" not in overruled(eager)
    assert {"own_loss", "fused_loss_alone", "expert_scores"} <= set(overruled(compiled))
    assert "fused_loss" not in overruled(compiled)


@pytest.mark.parametrize(
    ("deciding", "key", "values"),
    [
        (["flash_attention=false"], "flash_version", ("1", "2")),
        (["fused_kernels=false", "fused_loss_alone=never", "own_loss=eager"], "fused_loss", ("true", "false")),
        (["fused_loss=true"], "own_loss", ("log_softmax", "eager")),
        (["fused_loss=true"], "fused_loss_alone", ("with_experts", "never")),
        (["fused_kernels=true"], "expert_scores", ("eager", "fused")),
        (["sharding_engine=buckets"], "joint_ends", ("true", "false")),
    ],
)
def test_an_overruled_behaviour_moves_nothing_and_is_named(
    deciding: list[str], key: str, values: tuple[str, str]
) -> None:
    before = [f"plan.stack.{each}" for each in deciding]
    first, second = (load_scenario(TINY, [*before, f"plan.stack.{key}={value}"]) for value in values)
    assert key in overruled(first.plan.stack)
    if getattr(first.plan.stack, key) != getattr(release(DEFAULT).stack, key):
        assert any(f"plan.stack.{key}" in warning for warning in first.warnings)
    assert evaluate(first).step_time_s == evaluate(second).step_time_s
    assert evaluate(first).peak_memory_bytes == evaluate(second).peak_memory_bytes


def test_graphs_take_ever_more_launches_from_the_host() -> None:
    """Where launches decide (short sequences); experts' shapes depend on the routing, so partial graphs leave them."""
    graphs = ("none", "router", "partial", "full")
    overrides = [["run.seq_length=256", f"plan.stack.cuda_graphs={graph}"] for graph in graphs]
    host_s = [evaluate(load_scenario(TINY, each)).breakdown_s.get("host", 0.0) for each in overrides]
    assert host_s == sorted(host_s, reverse=True)
    assert len(set(host_s)) == 4


@pytest.mark.parametrize("cp", [1, 2, 4])
def test_lists_of_tensors_are_never_quicker_than_fsdp2(cp: int) -> None:
    """Their collectives take multiprocessors from the products beside them all the same, and they copy every tensor."""
    sharded = ["plan.sharding=full", "plan.pp=1", "plan.ep=1", f"plan.cp={cp}", "run.seq_length=8192"]
    lists, fsdp2 = (
        evaluate(load_scenario(TINY, [*sharded, f"plan.stack.sharding_engine={engine}"])).step_time_s
        for engine in ("lists", "fsdp2")
    )
    assert lists > fsdp2


def test_an_unfused_gate_is_kept_for_backward() -> None:
    """A SwiGLU of 4096 over 2 x 2048 tokens keeps 2 bytes of each activated gate; a fused one makes it again."""
    kept = {}
    for fused in (True, False):
        plan = Plan(1, 2, 2, stack=replace(release(DEFAULT).stack, fused_kernels=fused))
        model = Model("dense", 1024, 32000, (Layer(None, DenseFFN(4096)),))
        kept[fused] = sum(tensor.bytes for tensor in ffn_work(DenseFFN(4096), shape_of(model, plan, 2048)).saved)
    assert kept[False] - kept[True] == pytest.approx(2 * 4096 * 2 * 2048)


@pytest.mark.parametrize("micro_batch_size", [1, 4])
def test_blocks_of_fixed_size_never_waste_less(micro_batch_size: int) -> None:
    overrides = [f"plan.micro_batch_size={micro_batch_size}", "plan.recompute.granularity=full"]
    waste = []
    for expandable in ("true", "false"):
        stages = evaluate(load_scenario(TINY, [*overrides, f"plan.stack.expandable_segments={expandable}"])).stages
        waste.append([stage.outside_allocator_bytes["fragmentation"] for stage in stages])
    assert all(fixed >= grown for grown, fixed in zip(*waste, strict=True))


def test_fp8_alone_is_what_the_stack_means_by_it() -> None:
    means = {"megatron-core-0.19": "fp8-delayed", "megatron-bridge-0.6": "fp8-tensorwise"}
    for name, precision in means.items():
        found = load_scenario(TINY, [f"plan.stack={name}", "plan.precision=fp8"])
        assert found.plan.precision == precision


def test_the_resolved_scenario_names_the_release_and_what_was_changed() -> None:
    changed = load_scenario(TINY, ["plan.stack={base: megatron-core-0.16, flash_version: 2}"])
    assert resolved(changed)["plan"]["stack"] == {"base": "megatron-core-0.16", "flash_version": 2}
    unnamed = load_scenario(TINY)
    assert resolved(unnamed)["plan"]["stack"] == {"base": DEFAULT, "assumed": "default"}
    named = load_scenario(TINY, [f"plan.stack={DEFAULT}"])
    assert resolved(named)["plan"]["stack"] == DEFAULT
    again = load_scenario(TINY, ["plan.stack={base: megatron-core-0.19, assumed: default}"])
    assert again.stack_choice == unnamed.stack_choice == "default"


def test_losses_by_software() -> None:
    """Bytes per logit moved forward and backward, kept, and allocated in backward, with 2-byte activations."""
    eager = replace(release("torchtitan-0.3").stack, fused_kernels=False)
    expected = {
        release(DEFAULT).stack: (30, 14, 4, 2),
        release("megatron-core-0.16").stack: (8, 8, 2, 2),
        release("nemo-24.07").stack: (30, 14, 4, 2),
        replace(release("nemo-24.07").stack, fused_kernels=False): (26, 14, 4, 6),
        eager: (26, 14, 4, 10),
    }
    for stack, (forward, backward, kept, allocated) in expected.items():
        loss = loss_of(stack)
        assert (loss.forward_bytes, loss.backward_bytes) == (forward, backward)
        assert logit_bytes(stack, 2.0, split=False) == (kept, allocated)
    assert logit_bytes(eager, 2.0, split=True) == (4, 14)


def test_a_plan_made_in_python_has_the_default_stack() -> None:
    assert Plan(1, 1, 1).stack == release(DEFAULT).stack


def test_full_recomputation_that_the_software_leaves_out_runs_nothing_again_and_is_told() -> None:
    full = "plan.recompute.granularity=full"
    plain, obeyed = load_scenario(TINY, ["plan.recompute.granularity=none"]), load_scenario(TINY, [full])
    left_out = load_scenario(TINY, [full, "plan.stack.full_recompute=left_out"])
    assert evaluate(left_out).step_time_s == evaluate(plain).step_time_s < evaluate(obeyed).step_time_s
    assert evaluate(left_out).peak_memory_bytes == evaluate(plain).peak_memory_bytes
    assert any("plan.recompute.granularity full: does nothing" in warning for warning in left_out.warnings)
    assert not any("recompute" in warning for warning in obeyed.warnings)


def test_a_vocabulary_that_is_not_padded_has_no_multiple() -> None:
    multiple = "plan.vocab_divisible_by=64"
    padded, as_it_is = (load_scenario(TINY, [multiple, f"plan.stack.vocabulary={how}"]) for how in ("padded", "as_is"))
    assert any("plan.vocab_divisible_by 64: does nothing" in warning for warning in as_it_is.warnings)
    assert not any("vocab_divisible_by" in warning for warning in padded.warnings)
