"""Every legality rule has a plan that breaks it alone and one that keeps it; messages name key and remedy."""

from dataclasses import replace

import pytest

from hardware.problems import Place
from simulator.model.spec import (
    Attention,
    DenseFFN,
    Indexer,
    LatentAttention,
    Layer,
    LinearAttention,
    Mamba2,
    Mixer,
    Model,
    MoE,
)
from simulator.plans.quantized import Quantized
from simulator.plans.rules import FIRST, MEGATRON, RELEASE, RULES, UNIVERSAL, WITHOUT_EFFECT, check, without_effect
from simulator.plans.spec import Adapters, GradientReduction, LossChunks, Offload, Optimizer, Overlap, Plan, Recompute
from tests.simulator.stacks import ELSEWHERE, stack_of

GQA = Attention(16, 4, 64, 64)
EXPERTS = MoE(16, 4, 512, shared_width=512)


def model_of(mixer: Mixer = GQA, ffn: DenseFFN | MoE = EXPERTS, layers: int = 16, mtp: int = 0) -> Model:
    layer = Layer(mixer, ffn)
    return Model("test", 1024, 32000, (layer,) * layers, (layer,) * mtp)


MOE = model_of()
DDP = stack_of("pytorch-ddp-2021")
DENSE = model_of(ffn=DenseFFN(3072))
BASE = Plan(dp=8, micro_batch_size=1, global_batch_size=64)
PIPED = replace(BASE, dp=2, pp=4, vpp=2, schedule="interleaved")


def plan_with(base: Plan = BASE, **fields: object) -> Plan:
    return replace(base, **fields)  # type: ignore[arg-type]


def selective(*modules: str) -> Recompute:
    return Recompute("selective", modules=modules)


# rule -> (model, plan that breaks this rule and no other), on 8 GPUs at 4096 tokens unless told below
BREAKERS: dict[str, tuple[Model, Plan]] = {
    "counts_are_positive": (MOE, plan_with(dp=0)),
    "shares_are_possible": (MOE, plan_with(expert_imbalance=0.5)),
    "capacity_is_possible": (MOE, plan_with(capacity_factor=4.1)),
    "ranks_fill_cluster": (MOE, plan_with(dp=4)),
    "expert_grid_divides": (MOE, plan_with(ep=16)),
    "expert_parallelism_needs_experts": (DENSE, plan_with(ep=2)),
    "experts_divide": (model_of(ffn=MoE(12, 4, 512)), plan_with(ep=8)),
    "batch_divides": (MOE, plan_with(global_batch_size=60)),
    "heads_divide": (model_of(Attention(12, 4, 64, 64)), plan_with(dp=1, tp=8, sequence_parallel=True)),
    "query_groups_divide": (model_of(Attention(16, 6, 64, 64)), plan_with(dp=2, tp=4, sequence_parallel=True)),
    "linear_heads_divide": (
        model_of(LinearAttention("gdn", 4, 8, 64, 64, 4)),
        plan_with(dp=1, tp=8, sequence_parallel=True),
    ),
    "state_space_heads_divide": (model_of(Mamba2(16, 64, 2, 128, 4)), plan_with(dp=2, tp=4, sequence_parallel=True)),
    "all_to_all_heads_divide": (MOE, plan_with(dp=1, cp=8, cp_comm="a2a")),
    "widths_divide": (model_of(ffn=DenseFFN(3070)), plan_with(dp=2, tp=4)),
    "sequence_divides_context": (MOE, plan_with(dp=4, cp=2)),
    "sequence_divides_tensor": (MOE, plan_with(dp=4, tp=2, sequence_parallel=True)),
    "positions_suffice": (replace(DENSE, positions=2048), BASE),
    "shard_group_divides": (MOE, plan_with(shard_group=3)),
    "rank_order_is_complete": (MOE, plan_with(rank_order="tp-cp-dp-pp", stack=ELSEWHERE)),
    "pipeline_last_or_equal_grids": (MOE, plan_with(dp=4, pp=2, ep=2, schedule="1f1b", rank_order="tp-cp-ep-pp-dp")),
    "megatron_rank_orders": (MOE, plan_with(rank_order="cp-tp-ep-dp-pp")),
    "pipeline_has_schedule": (MOE, plan_with(dp=4, pp=2)),
    "chunks_match_schedule": (MOE, plan_with(dp=4, pp=2, schedule="interleaved")),
    "mirrored_pipeline_is_even": (model_of(layers=15), plan_with(dp=1, pp=3, schedule="dualpipe", stack=ELSEWHERE)),
    "mirrored_pipeline_is_fed": (
        MOE,
        plan_with(dp=2, pp=4, schedule="dualpipe", global_batch_size=12, stack=ELSEWHERE),
    ),
    "group_size_in_range": (MOE, plan_with(PIPED, microbatch_group_size=3)),
    "last_group_is_full_enough": (MOE, plan_with(PIPED, microbatch_group_size=5, global_batch_size=22)),
    "split_is_said_once": (MOE, plan_with(dp=4, pp=2, schedule="1f1b", layout="Et*8|t*8L", account_for_loss=True)),
    "pinned_ends_leave_even_middle": (MOE, plan_with(dp=2, pp=4, schedule="1f1b", first_stage_layers=3)),
    "layout_is_whole": (MOE, plan_with(dp=4, pp=2, schedule="1f1b", layout="Et*8|t*7L")),
    "layout_keeps_mtp_in_last_chunk": (
        model_of(mtp=1),
        plan_with(dp=4, pp=2, vpp=2, schedule="interleaved", layout="E|t*16m||L"),
    ),
    "megatron_schedules": (MOE, plan_with(dp=4, pp=2, schedule="gpipe")),
    "interleaving_without_overlap_needs_three_ranks": (
        MOE,
        plan_with(dp=4, pp=2, vpp=2, schedule="interleaved", overlap=Overlap(p2p=False)),
    ),
    "layers_fit_ranks": (model_of(layers=15), plan_with(dp=4, pp=2, schedule="1f1b")),
    "recompute_is_complete": (MOE, plan_with(recompute=Recompute("selective"))),
    "recompute_modules_are_known": (MOE, plan_with(recompute=selective("norm"))),
    "recomputed_modules_exist": (MOE, plan_with(recompute=selective("mla_up_proj"))),
    "kept_part_belongs_to_compression": (MOE, plan_with(gradients=GradientReduction("int8", keep=0.5))),
    "compressed_sums_can_be_scattered": (MOE, plan_with(gradients=GradientReduction("topk"))),
    "compressed_gradients_are_fp32": (
        MOE,
        plan_with(gradients=GradientReduction("int8"), optimizer=Optimizer(grad_reduce="bf16"), stack=ELSEWHERE),
    ),
    "compression_spans_all_replicas": (MOE, plan_with(gradients=GradientReduction("int8"), shard_group=2)),
    "algorithm_has_an_all_reduce": (MOE, plan_with(gradients=GradientReduction(algorithm="tree"))),
    "doubling_has_powers_of_two": (
        MOE,
        plan_with(
            dp=6, global_batch_size=60, sharding="none", gradients=GradientReduction(algorithm="recursive_doubling")
        ),
    ),
    "sharded_weights_run_unpaired": (MOE, plan_with(ep=8, sharding="full", overlap=Overlap(moe_ep=True))),
    "router_groups_divide": (model_of(ffn=MoE(16, 4, 512, groups=3)), BASE),
    "low_precision_is_aligned": (model_of(ffn=DenseFFN(3000)), plan_with(precision="mxfp8")),
    "layers_in_16_bit_exist": (
        MOE,
        plan_with(precision="mxfp8", quantized=Quantized(bf16_layers_at_start=900)),
    ),
    "mixed_widths_stay_on_the_gpu": (
        MOE,
        plan_with(
            precision="fp8-tensorwise",
            sharding="optimizer",
            fp8_param_gather=True,
            quantized=Quantized(experts=False),
            offload=Offload(optimizer_fraction=1.0),
        ),
    ),
    "whole_layers_leave_alone": (MOE, plan_with(offload=Offload(0.5, ("whole_layer", "core_attn")))),
    "experts_with_tensor_need_sequence_parallel": (MOE, plan_with(dp=4, tp=2)),
    "tensor_overlap_needs_sequence_parallel": (DENSE, plan_with(dp=4, tp=2, overlap=Overlap(tp_comm=True))),
    "gather_overlap_needs_reduce_overlap": (MOE, plan_with(overlap=Overlap(grad_reduce=False))),
    "low_precision_gather_is_possible": (MOE, plan_with(fp8_param_gather=True)),
    "expert_overlap_is_possible": (MOE, plan_with(overlap=Overlap(moe_ep=True))),
    "delayed_weight_gradients_need_expert_overlap": (MOE, plan_with(ep=8, overlap=Overlap(delay_wgrad=True))),
    "shared_overlap_has_dispatcher": (MOE, plan_with(dispatcher="allgather", overlap=Overlap(shared_experts=True))),
    "deepep_has_peers": (MOE, plan_with(dispatcher="deepep")),
    "dispatch_in_fp8_is_possible": (MOE, plan_with(ep=8, dispatch_fp8=True)),
    "expert_bias_needs_whole_experts": (model_of(ffn=MoE(16, 4, 512, bias=True)), plan_with(etp=2)),
    "shared_experts_overlap_or_recompute": (
        MOE,
        plan_with(recompute=selective("shared_experts"), overlap=Overlap(shared_experts=True)),
    ),
    "stored_input_is_gated": (
        model_of(ffn=DenseFFN(3072, gated=False)),
        plan_with(activation_fp8_input_store=True),
    ),
    "delayed_scaling_keeps_activations": (MOE, plan_with(precision="fp8-delayed", recompute=selective("moe_act"))),
    "optimizer_is_offered": (MOE, plan_with(optimizer=Optimizer("lamb"))),
    "optimizer_formats_are_offered": (MOE, plan_with(optimizer=Optimizer("sgd", moments="bf16"))),
    "gradient_formats_are_offered": (MOE, plan_with(optimizer=Optimizer(grad_reduce="bf16"))),
    "hyper_connections_stay_whole": (replace(MOE, hyper_connections=4), plan_with(recompute=Recompute("full"))),
    "sparse_attention_gathers_context": (
        model_of(LatentAttention(16, 512, 256, 64, 32, 64, indexer=Indexer(4, 64, 2048))),
        plan_with(dp=4, cp=2),
    ),
    "graphs_and_recompute_fit": (
        MOE,
        plan_with(recompute=Recompute("full"), stack=stack_of(cuda_graphs="partial")),
    ),
    "offloaded_shares_are_fractions": (MOE, plan_with(offload=Offload(1.5, ("qkv_linear",)))),
    "offload_is_complete": (MOE, plan_with(offload=Offload(0.5))),
    "offload_modules_exist": (DENSE, plan_with(offload=Offload(0.5, ("moe_act",)))),
    "offload_has_whole_backwards": (
        MOE,
        plan_with(dp=4, pp=2, schedule="zb-h1", stack=ELSEWHERE, offload=Offload(0.5, ("moe_act",))),
    ),
    "gradients_leave_with_the_optimizer": (MOE, plan_with(offload=Offload(gradient_fraction=1.0))),
    "offloaded_params_are_shards": (MOE, plan_with(offload=Offload(optimizer_fraction=1.0, params="host"))),
    "loss_chunks_hold_tokens": (MOE, plan_with(loss=LossChunks(4097))),
    "adapter_targets_exist": (MOE, plan_with(adapters=Adapters(16, ("q_a_proj",)))),
    "projection_is_offloaded_with_attention": (MOE, plan_with(offload=Offload(0.5, ("attn_proj",)))),
    "offloaded_optimizer_is_offered": (MOE, plan_with(sharding="none", offload=Offload(optimizer_fraction=1.0))),
    "flash_build_exists": (MOE, plan_with(stack=stack_of(flash_build="triton"))),
    "release_can_tp": (MOE, plan_with(dp=4, tp=2, sequence_parallel=True, stack=DDP)),
    "release_can_pp": (MOE, plan_with(dp=4, pp=2, schedule="1f1b", stack=DDP)),
    "release_can_low_precision": (MOE, plan_with(precision="fp8-tensorwise", stack=DDP)),
    "release_can_sharded_gradients": (MOE, plan_with(sharding="full", stack=DDP)),
    "release_can_sharded_gradients_with_pp": (
        MOE,
        plan_with(dp=4, pp=2, schedule="1f1b", sharding="full", stack=stack_of("deepspeed-0.19")),
    ),
}
SEQ_LENGTH = {"sequence_divides_context": 4098, "sequence_divides_tensor": 4097}
GPUS = {"mirrored_pipeline_is_even": 3, "doubling_has_powers_of_two": 6}

IDLE: dict[str, tuple[Model, Plan]] = {
    "sequence_parallel_without_tensor": (MOE, plan_with(sequence_parallel=True)),
    "expert_settings_without_experts": (DENSE, plan_with(etp=2)),
    "group_size_without_interleaving": (MOE, plan_with(microbatch_group_size=4)),
    "recompute_of_absent_modules": (MOE, plan_with(recompute=selective("mlp"))),
    "shared_overlap_without_shared_experts": (DENSE, plan_with(overlap=Overlap(shared_experts=True))),
    "main_params_beside_whole_weights": (MOE, plan_with(precision="fp32", optimizer=Optimizer(main_params="fp32"))),
    "quantized_without_effect": (MOE, plan_with(quantized=Quantized(experts=False))),
    "offload_without_effect": (MOE, plan_with(offload=Offload(optimizer_overlap=True))),
    "expert_overlap_without_traffic": (MOE, plan_with(stack=ELSEWHERE, overlap=Overlap(moe_ep=True))),
    "delayed_weight_gradients_without_effect": (MOE, plan_with(stack=ELSEWHERE, overlap=Overlap(delay_wgrad=True))),
    "modules_beside_chosen_operators": (
        MOE,
        plan_with(recompute=selective("core_attn"), stack=stack_of("torchtitan-0.3")),
    ),
    "layers_that_do_not_run_again": (
        DENSE,
        plan_with(recompute=Recompute(granularity="full"), stack=stack_of(full_recompute="left_out")),
    ),
    "padding_without_effect": (DENSE, plan_with(vocab_divisible_by=64, stack=stack_of(vocabulary="as_is"))),
    "behaviours_without_effect": (MOE, plan_with(stack=stack_of(fused_loss=True, own_loss="eager"))),
}


def test_every_rule_has_its_breaker() -> None:
    assert BREAKERS.keys() == RULES.keys()
    assert IDLE.keys() == WITHOUT_EFFECT.keys()
    assert not UNIVERSAL.keys() & MEGATRON.keys()


@pytest.mark.parametrize("rule", sorted(RULES))
def test_breaker_breaks_exactly_its_rule(rule: str) -> None:
    model, plan = BREAKERS[rule]
    found = check(model, plan, gpus=GPUS.get(rule, 8), seq_length=SEQ_LENGTH.get(rule, 4096))
    assert [violation.rule for violation in found] == [rule]
    violation = found[0]
    assert violation.owner == ("megatron-core" if rule in MEGATRON else "release" if rule in RELEASE else "universal")
    assert violation.key.split(".")[0] in ("plan", "model", "run")
    assert violation.why
    assert violation.remedy


@pytest.mark.parametrize("rule", sorted(MEGATRON))
def test_megatrons_rules_bind_megatron_only(rule: str) -> None:
    model, plan = BREAKERS[rule]
    elsewhere = replace(plan, stack=replace(plan.stack, framework="deepseek"))
    assert rule not in {violation.rule for violation in check(model, elsewhere, gpus=8, seq_length=4096)}


@pytest.mark.parametrize(
    ("model", "plan"),
    [
        (MOE, BASE),
        (DENSE, BASE),
        (MOE, PIPED),
        (model_of(layers=15), plan_with(PIPED, vpp=1, schedule="dualpipe", stack=ELSEWHERE)),
    ],
)
def test_plain_plans_keep_every_rule(model: Model, plan: Plan) -> None:
    assert check(model, plan, gpus=8, seq_length=4096) == []


@pytest.mark.parametrize("rule", sorted(IDLE))
def test_settings_without_effect_are_named(rule: str) -> None:
    model, plan = IDLE[rule]
    assert [v.rule for v in without_effect(model, plan, gpus=8, seq_length=4096)] == [rule]
    assert check(model, plan, gpus=8, seq_length=4096) == []
    assert without_effect(MOE, BASE, gpus=8, seq_length=4096) == []


def test_all_problems_come_at_once() -> None:
    plan = plan_with(dp=3, ep=5, global_batch_size=64, overlap=Overlap(delay_wgrad=True), optimizer=Optimizer("lamb"))
    found = {violation.rule for violation in check(MOE, plan, gpus=8, seq_length=4096)}
    assert found >= {
        "ranks_fill_cluster",
        "expert_grid_divides",
        "experts_divide",
        "batch_divides",
        "delayed_weight_gradients_need_expert_overlap",
        "optimizer_is_offered",
    }


def test_counts_stand_alone() -> None:
    found = check(MOE, plan_with(dp=0, tp=-1, ep=0), gpus=8, seq_length=4096)
    assert [violation.rule for violation in found] == list(FIRST)
    assert "dp, tp, ep" in found[0].why


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("experts_divide", "ep 4"),
        ("batch_divides", "56 or 64"),
        ("heads_divide", "tp 4"),
        ("query_groups_divide", "tp 2"),
        ("ranks_fill_cluster", "dp 8"),
    ],
)
def test_remedies_are_the_nearest_values_that_keep_every_rule(rule: str, expected: str) -> None:
    model, plan = BREAKERS[rule]
    found = check(model, plan, gpus=8, seq_length=4096)
    assert found[0].remedy == expected
    assert found[0].message.endswith(f"right would be: {expected}")


def test_a_violation_becomes_a_problem_with_its_line() -> None:
    model, plan = BREAKERS["experts_divide"]
    problem = check(model, plan, gpus=8, seq_length=4096)[0].problem(Place("a.yaml", lines={"plan": 3, "plan.ep": 7}))
    assert (problem.file, problem.line, problem.key) == ("a.yaml", 7, "plan.ep")
    assert "12 experts" in problem.message
