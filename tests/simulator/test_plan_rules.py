"""Legality rules: a contract over all of them, and agreement with Megatron-Core's recorded verdicts."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from simulator.model.spec import Attention, DenseFFN, LatentAttention, Layer, LinearAttention, Mixer, Model, MoE
from simulator.plans.case import model_facts
from simulator.plans.rules import is_legal, violations
from simulator.plans.spec import Optimizer, Overlap, Plan, Recompute, Stack

DATA = Path(__file__).parent / "data"
LINES = [json.loads(line) for line in (DATA / "megatron_oracle.jsonl").read_text().splitlines()]
HEAD, ROWS = LINES[0], LINES[1:]
NESTED = {"overlap": Overlap, "optimizer": Optimizer, "recompute": Recompute, "stack": Stack}

# Plans that Megatron-Core's own start-up lets pass and this project refuses, by rule, with the reason.
STRICTER = {
    "all_to_all_heads_divide": "Transformer Engine refuses it when the first attention runs",
    "sequence_divides_tensor": "the first scatter along the sequence refuses it",
    "low_precision_is_aligned": "Transformer Engine refuses it when the first matrix product runs",
    "recompute_is_complete": "zero layers at a time never ends; no module is no recompute",
    "recompute_modules_are_known": "Megatron-Core has modules that are not modelled here",
    "capacity_is_possible": "Megatron-Core reads a negative capacity as none and pads experts beyond all tokens",
    "layout_is_whole": "the model builder puts the loss on the last stage whatever the layout says",
}

# Megatron-Core's first complaint, by a phrase of it, and the rules that say the same thing here.
SAME = {
    r"should be divisible by the pipeline-model-parallel": {"layers_fit_ranks"},
    r"num_layers=\d+ should be divisible|num_layers_per_pipeline_rank|after enable ?account": {"layers_fit_ranks"},
    r"pipeline-model-parallel size should be greater than 1": {"pipeline_has_schedule", "layout_is_whole"},
    r"pipeline-model-parallel size should be greater than 2": {"interleaving_without_overlap_needs_three_ranks"},
    r"eval_global_batch_size": {"batch_divides"},
    r"fp8_param must|--fp8-param-gather only": {"low_precision_gather_is_possible"},
    r"seq-length should be a multiple": {"sequence_divides_context"},
    r"middle layers|middle stage|middle pipeline|layers at (first|last) stage": {"pinned_ends_leave_even_middle"},
    r"pipeline_stage must be larger than 0": {"counts_are_positive"},
    r"Bias in Moe": {"expert_bias_needs_whole_experts"},
    r"must be enabled when enabling delay_wgrad": {"delayed_weight_gradients_need_expert_overlap"},
    r"Must use --overlap-param-gather with": {"gather_overlap_needs_reduce_overlap"},
    r"expert_tensor_model_pipeline_parallel": {"expert_grid_divides"},
    r"--main-params-dtype|precision-aware": {"optimizer_formats_are_offered"},
    r"communication/GEMM overlap": {"tensor_overlap_needs_sequence_parallel"},
    r"MoE and tensor parallelism": {"experts_with_tensor_need_sequence_parallel"},
    r"overlap_moe_expert_parallel_comm|EP A2A overlap": {"expert_overlap_is_possible"},
    r"Number of experts should": {"experts_divide"},
    r"num_experts must be non None": {"expert_parallelism_needs_experts"},
    r"gdn_norm_out|Invalid choices for recompute_modules": {"recompute_modules_are_known"},
    r"mla_up_proj|moe_act in recompute_modules is": {"recomputed_modules_exist"},
    r"Delayed scaling": {"delayed_scaling_keeps_activations"},
    r"decoder layers \d+|mtp layers in layout|pipeline_model_parallel_layout must be|layout implies": {
        "layout_is_whole"
    },
    r"cannot be ?set": {"split_is_said_once"},
    r"num_attention_heads": {"heads_divide"},
    r"num_query_groups": {"query_groups_divide"},
    r"linear_num": {"linear_heads_divide"},
    r"is not divisible by \d+": {"widths_divide"},
    r"argument --optimizer|does not support the|not support Megatron-FSDP": {"optimizer_is_offered"},
    r"pp-last rank ordering": {"pipeline_last_or_equal_grids"},
    r"remainder of M": {"last_group_is_full_enough"},
    r"contiguous micro-batches in a virtual": {"group_size_in_range"},
    r"TPxEP": {"deepep_has_peers"},
    r"shared_experts recompute": {"shared_experts_overlap_or_recompute"},
    r"moe_shared_expert_overlap only": {"shared_overlap_has_dispatcher"},
    r"CUDA graph|graphed": {"graphs_and_recompute_fit"},
}


def model_of(facts: dict) -> Model:
    """The corpus' model as this project writes it."""
    if facts.get("mla"):
        mixer: Mixer = LatentAttention(facts["heads"], 512, 256, 64, 32, 64)
    else:
        mixer = Attention(
            facts["heads"], facts["kv_heads"], facts["head_dim"], facts["head_dim"], out_bias=facts["bias"]
        )
    dense = DenseFFN(facts.get("ffn", 0), bias=facts["bias"])
    ffn: DenseFFN | MoE = dense
    if "experts" in facts:
        groups = facts.get("groups", 1)
        ffn = MoE(
            facts["experts"],
            facts["top_k"],
            facts["expert_width"],
            shared_width=facts["shared_width"],
            groups=groups,
            group_top_k=facts.get("group_top_k", 1),
            bias=facts["bias"],
        )
    first = facts.get("dense_layers", 0)
    layers = [Layer(mixer, dense)] * first + [Layer(mixer, ffn)] * (facts["layers"] - first)
    if facts.get("gdn"):
        linear = LinearAttention("gdn", facts["key_heads"], facts["value_heads"], 64, 64, 4)
        layers = [Layer(mixer if i % 4 == 3 else linear, ffn) for i in range(facts["layers"])]
    return Model("test", facts["hidden"], facts["vocab"], tuple(layers), (Layer(mixer, ffn),) * facts["mtp"])


def plan_of(fields: dict) -> Plan:
    fields = dict(fields)
    for name, kind in NESTED.items():
        if name in fields:
            inner = {key: tuple(value) if isinstance(value, list) else value for key, value in fields[name].items()}
            fields[name] = kind(**inner)
    return Plan(**fields)


LAYOUTS = [json.loads(line) for line in (DATA / "megatron_oracle.layouts.jsonl").read_text().splitlines()[1:]]
FACTS = {name: model_facts(model_of(facts)) for name, facts in HEAD["models"].items()}


@pytest.mark.parametrize("model", sorted(FACTS))
def test_verdicts_are_megatrons(model: str) -> None:
    wrong = []
    for row in ROWS:
        if row["model"] != model:
            continue
        asked = {"gpus": row["gpus"], "seq_length": row["seq_length"]}
        found = violations(FACTS[model], plan_of(row["plan"]), **asked)
        assert is_legal(FACTS[model], plan_of(row["plan"]), **asked) == (not found)
        broken = {violation.rule for violation in found}
        expected = not row["accepted"]
        if expected != bool(broken) and not (row["accepted"] and broken <= STRICTER.keys()):
            wrong.append((row["plan"], row["seq_length"], row["message"], sorted(broken)))
    assert not wrong, "\n".join(map(str, wrong))


@pytest.mark.parametrize("model", sorted(FACTS))
def test_refusals_are_for_megatrons_reason(model: str) -> None:
    wrong = []
    for row in ROWS:
        if row["model"] != model or row["accepted"]:
            continue
        found = violations(FACTS[model], plan_of(row["plan"]), gpus=row["gpus"], seq_length=row["seq_length"])
        same = next((rules for phrase, rules in SAME.items() if re.search(phrase, row["message"])), set())
        broken = {violation.rule for violation in found}
        if not broken & (same | {"counts_are_positive"}):
            wrong.append((row["plan"], row["message"], sorted(broken)))
    assert not wrong, "\n".join(map(str, wrong))


def test_every_listed_difference_occurs() -> None:
    """A stricter rule that the corpus never shows would be an excuse without a fact."""
    seen = set()
    for row in ROWS:
        if row["accepted"]:
            found = violations(
                FACTS[row["model"]], plan_of(row["plan"]), gpus=row["gpus"], seq_length=row["seq_length"]
            )
            seen |= {violation.rule for violation in found}
    assert seen == STRICTER.keys()


def test_a_stack_may_be_free_of_its_frameworks_rules_but_not_of_arithmetic() -> None:
    plan = Plan(dp=3, micro_batch_size=1, global_batch_size=6, optimizer=Optimizer(kind="lamb"))
    facts = next(iter(FACTS.values()))
    bound = {violation.rule for violation in violations(facts, plan, gpus=4, seq_length=4096)}
    free = replace(plan, stack=replace(plan.stack, framework_rules=False))
    unbound = {violation.rule for violation in violations(facts, free, gpus=4, seq_length=4096)}
    assert "optimizer_is_offered" in bound - unbound
    assert unbound
    assert unbound < bound


# A layout whose last stage is empty: Megatron-Core's check passes it, its model builder puts the loss there anyway.
LOSS_BEFORE_LAST_STAGE = {"Et|tL|"}


@pytest.mark.parametrize("row", LAYOUTS, ids=lambda row: f"{row['layout']} on {row['pp']}")
def test_layout_verdicts_are_megatrons(row: dict) -> None:
    vpp = max(1, len(row["stages"] or "") // row["pp"])
    schedule = "interleaved" if vpp > 1 else "1f1b"
    plan = Plan(dp=1, micro_batch_size=1, global_batch_size=64, pp=row["pp"], vpp=vpp, schedule=schedule)
    layer = Layer(Attention(8, 8, 64, 64), DenseFFN(1024))
    facts = model_facts(Model("test", 512, 1000, (layer,) * row["num_layers"], (layer,) * row["mtp"]))
    found = violations(facts, replace(plan, layout=row["layout"]), gpus=row["pp"], seq_length=4096)
    assert {violation.rule for violation in found} <= {"layout_is_whole", "layout_keeps_mtp_in_last_chunk"}
    assert bool(found) == (not row["accepted"] or row["layout"] in LOSS_BEFORE_LAST_STAGE)


def test_a_proposed_degree_breaks_no_rule_at_all() -> None:
    """384 experts on 144 ranks of a stage: ep 48 divides both; 64 and 96 only the experts, 36 and 72 only the ranks."""
    from hardware.problems import InputError
    from simulator.scenario.schema import load_scenario
    from tests.command import ROOT

    changes = ["cluster.gpus=1152", "plan.tp=1", "plan.cp=1", "plan.pp=8", "plan.global_batch_size=1440"]
    for ep in (63, 64, 72, 96):
        with pytest.raises(InputError) as caught:
            load_scenario(ROOT / "scenarios" / "kimi-k2-10240xh100.yaml", [*changes, f"plan.ep={ep}"])
        told = [each.message for each in caught.value.problems if each.key == "plan.ep"]
        assert told
        assert all("right would be: ep 48" in message for message in told), told
