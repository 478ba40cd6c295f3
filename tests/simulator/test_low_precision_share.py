"""Part of a model below 16 bit: by module, by layer, by share; the plain precisions are its two ends."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from hardware.problems import InputError
from simulator.launch import Launch, launch
from simulator.launch.importing.importer import import_launch
from simulator.memory.states import state_bytes
from simulator.model.spec import Attention, DenseFFN, Half, Layer, Model, MoE
from simulator.planner.options import SearchOptions
from simulator.planner.planning import plan as search
from simulator.plans.layout import stages
from simulator.plans.quantized import ALL_LINEARS, Quantized, with_16_bit_layers
from simulator.plans.rules import check, without_effect
from simulator.plans.spec import Plan
from simulator.predict.prediction import Prediction, evaluate
from simulator.scenario.resolved import scenario_yaml
from simulator.scenario.schema import load_scenario
from simulator.workload.derive import workload_of
from simulator.workload.ends import head_work
from simulator.workload.operators import Matmul, Routing, Work
from simulator.workload.shape import shape_of
from simulator.workload.states import model_width, stage_parameters
from tests.simulator.launch_draws import FORECAST
from tests.simulator.test_launch_round_trip import WAYS, again

SCENARIOS = Path(__file__).parents[2] / "scenarios"
EXAMPLE = SCENARIOS / "examples" / "low-precision-share.yaml"
SEQ = 4096
ATTENTION, DENSE = Attention(32, 8, 128, 128), DenseFFN(16384)
EXPERTS = MoE(experts=16, top_k=2, width=2048, shared_width=2048)
DENSE_MODEL = Model("dense", 4096, 128000, (Layer(ATTENTION, DENSE),) * 8)
SPARSE_MODEL = Model("sparse", 4096, 128000, (Layer(ATTENTION, EXPERTS),) * 4)
PLAN = Plan(dp=4, micro_batch_size=1, global_batch_size=16, precision="fp8-tensorwise", ep=4)
# Of a layer: queries, keys and values 4096 x 6144, output 4096 x 4096; three matrices of 4096 x 16384.
ATTENTION_PARAMETERS = 4096 * (6144 + 4096)
MLP_PARAMETERS = 3 * 4096 * 16384


def quantized_products(work: Work) -> set[str]:
    return {op.name for op in work.operators if isinstance(op, Matmul) and op.quantized}


def saved_bytes(work: Work, name: str) -> float:
    return sum(float(tensor.bytes) for tensor in work.saved if tensor.name == name)


# ---- modules


@pytest.mark.parametrize(
    ("part", "left"),
    [
        ("attention", {"qkv", "out"}),
        ("experts", {"expert_fc1", "expert_fc2"}),
        ("shared_experts", {"shared_fc1", "shared_fc2"}),
    ],
)
def test_a_part_in_16_bit_leaves_the_others_below(part: str, left: set[str]) -> None:
    plain = workload_of(SPARSE_MODEL, PLAN, SEQ)
    mixed = workload_of(SPARSE_MODEL, replace(PLAN, quantized=Quantized(**{part: False})), SEQ)  # type: ignore[arg-type]
    for halves in ("mixers", "ffns"):
        ((half, work),) = getattr(plain, halves).items()
        gone = quantized_products(work) - quantized_products(getattr(mixed, halves)[half])
        assert gone == left & quantized_products(work)


def test_saved_inputs_are_as_wide_as_their_product_reads_them() -> None:
    """4,096 tokens: FC1's input 4096 and FC2's 16384 wide, 1 byte each below 16 bit and 2 in 16; one operand of the
    projection is kept beside attention's output only where it is quantised."""
    low, high = (
        workload_of(DENSE_MODEL, replace(PLAN, ep=1, quantized=Quantized(mlp=mlp, attention=mlp)), SEQ)
        for mlp in (True, False)
    )
    for name, width in (("fc1_input", 4096), ("fc2_input", 16384)):
        ffn = Half(DENSE)
        sizes = saved_bytes(low.ffns[ffn], name), saved_bytes(high.ffns[ffn], name)
        assert sizes == (SEQ * width, 2 * SEQ * width)
    mixer = Half(ATTENTION)
    assert saved_bytes(low.mixers[mixer], "projection_input") == SEQ * 4096
    assert saved_bytes(high.mixers[mixer], "projection_input") == 0


def test_tokens_travel_in_16_bit_to_experts_in_16_bit() -> None:
    plan = replace(PLAN, dispatch_fp8=True)
    for experts in (True, False):
        work = workload_of(SPARSE_MODEL, replace(plan, quantized=Quantized(experts=experts)), SEQ).ffns[Half(EXPERTS)]
        routed = [op.fp8 for op in work.operators if isinstance(op, Routing)]
        assert routed == [experts, experts]


def test_a_quantised_head_reads_and_keeps_8_bit() -> None:
    both = [head_work(DENSE_MODEL, shape_of(DENSE_MODEL, replace(PLAN, quantized=Quantized(head=head)), SEQ))
            for head in (False, True)]  # fmt: skip
    assert [quantized_products(work) for work in both] == [set(), {"head"}]
    assert [saved_bytes(work, "head_input") for work in both] == [2 * SEQ * 4096, SEQ * 4096]
    assert [any(op.name == "head_cast" for op in work.operators) for work in both] == [False, True]


# ---- layers and shares


def test_first_and_last_layers_compute_in_16_bit() -> None:
    plan = replace(PLAN, ep=1, quantized=Quantized(bf16_layers_at_start=1, bf16_layers_at_end=2))
    marked = with_16_bit_layers(DENSE_MODEL, plan)
    assert [layer.in_16_bit for layer in marked.layers] == [True, *[False] * 5, True, True]
    work = workload_of(DENSE_MODEL, plan, SEQ)
    assert quantized_products(work.ffns[Half(DENSE)]) == {"fc1", "fc2"}
    assert quantized_products(work.ffns[Half(DENSE, in_16_bit=True)]) == set()
    assert with_16_bit_layers(DENSE_MODEL, replace(plan, precision="bf16")) is DENSE_MODEL


def test_weights_are_as_wide_as_their_products_read_them() -> None:
    """fp8_param_gather on one stage: 1 byte a parameter, 2 those of three layers' linears and of the others' mlp."""
    plan = replace(PLAN, ep=1, dp=8, fp8_param_gather=True)
    (plain,) = stage_parameters(DENSE_MODEL, plan, stages(DENSE_MODEL, plan))
    chosen = replace(plan, quantized=Quantized(mlp=False, bf16_layers_at_start=1, bf16_layers_at_end=2))
    marked = with_16_bit_layers(DENSE_MODEL, chosen)
    (mixed,) = stage_parameters(marked, chosen, stages(marked, chosen))
    wide = 3 * ATTENTION_PARAMETERS + 8 * MLP_PARAMETERS
    assert mixed.wide.dense == wide
    assert state_bytes([mixed], chosen)["weights"] == plain.dense + wide
    assert model_width(DENSE_MODEL, chosen) == pytest.approx(1 + wide / plain.dense, rel=1e-3)  # the padding apart
    assert model_width(DENSE_MODEL, plan) == 1.0


def test_copies_of_quantised_weights_are_those_of_quantised_linears() -> None:
    """Transformer Engine keeps two copies of 1 byte; none of a layer in 16 bit."""
    plan = replace(PLAN, ep=1)
    chosen = replace(plan, quantized=Quantized(bf16_layers_at_start=3))
    sizes = []
    for each in (plan, chosen):
        marked = with_16_bit_layers(DENSE_MODEL, each)
        sizes.append(state_bytes(stage_parameters(marked, each, stages(marked, each)), each)["quantized weights"])
    assert sizes[0] - sizes[1] == 2 * 3 * (ATTENTION_PARAMETERS + MLP_PARAMETERS)


@pytest.mark.parametrize(
    ("share", "start", "end"), [("100%", 0, 0), ("90%", 0, 1), ("75%", 1, 1), ("50%", 2, 2), ("0.2", 3, 3)]
)
def test_a_share_is_taken_from_the_middle_layers(share: str, start: int, end: int) -> None:
    """Of eight equal layers, to the nearest whole one; the last end gives up one more."""
    plan = load_scenario(EXAMPLE, [f"plan.precision.share={share}"]).plan
    assert (plan.quantized.bf16_layers_at_start, plan.quantized.bf16_layers_at_end) == (start, end)


def peak(prediction: Prediction) -> float:
    return prediction.peak_memory_bytes


def figures(overrides: tuple[str, ...]) -> tuple[float, float, float, float]:
    """Step, memory, cost and energy."""
    prediction = evaluate(load_scenario(EXAMPLE, list(overrides)))
    assert prediction.run is not None
    assert prediction.run.cost_usd is not None
    return prediction.step_time_s, peak(prediction), prediction.run.cost_usd, prediction.run.energy_j


def test_the_share_moves_step_memory_and_cost_from_one_plain_precision_to_the_other() -> None:
    shares = (0, 0.25, 0.5, 0.75, 1)
    swept = [figures((f"plan.precision.share={share}",)) for share in shares]
    assert swept[0] == pytest.approx(figures(("plan.precision=bf16", "plan.fp8_param_gather=false")), rel=1e-9)
    assert swept[-1] == pytest.approx(figures(("plan.precision=fp8-tensorwise",)), rel=1e-9)
    for figure in zip(*swept, strict=True):
        assert all(after < before for before, after in pairwise(figure)), figure


# ---- files


def test_fp8_in_a_mapping_is_what_the_stack_means_by_it() -> None:
    scenario = load_scenario(SCENARIOS / "tiny.yaml", ["plan.precision.experts=fp8"])
    assert scenario.plan.precision == scenario.stack_settings["precision"] == "fp8-delayed"
    only = Quantized(attention=False, mlp=False, shared_experts=False, mtp=False)
    assert scenario.plan.quantized == only


def test_a_resolved_scenario_keeps_its_parts(tmp_path: Path) -> None:
    scenario = load_scenario(EXAMPLE, ["plan.precision.mlp=bf16"])
    path = tmp_path / "again.yaml"
    path.write_text(scenario_yaml(scenario), encoding="utf-8")
    assert load_scenario(path).plan == scenario.plan
    assert scenario.plan.quantized.mlp is False


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("{base: fp8, router: bf16}", r"precision\.router: routers compute in 16 bit"),
        ("{base: mxfp8, mlp: nvfp4}", "mxfp8 and nvfp4 in one plan are not simulated"),
        ("{base: fp8, mlp: fp16}", r"precision\.mlp: is fp16; .* Write bf16"),
        ("{base: fp8, experts: bf16}", "the model has none"),
        ("{base: bf16, share: 50%}", r"precision\.base: is bf16, not below 16 bit"),
        ("{base: fp8, share: 150%}", "Write at most 100%"),
        ("{base: fp8, share: 50%, bf16_layers_at_end: 1}", "write one"),
        ("{base: fp8, bf16_layers_at_end: 9}", "8 together at most"),
        ("{base: fp7}", "fp7"),
    ],
)
def test_what_cannot_be_is_said(written: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_scenario(EXAMPLE, [f"plan.precision={written}"])


def test_parts_of_a_16_bit_plan_do_nothing_and_say_so() -> None:
    plan = replace(PLAN, ep=1, precision="bf16", quantized=Quantized(mlp=False))
    (idle,) = without_effect(DENSE_MODEL, plan, gpus=4, seq_length=SEQ)
    assert idle.key == "plan.quantized.mlp"
    assert not without_effect(DENSE_MODEL, replace(plan, quantized=ALL_LINEARS), gpus=4, seq_length=SEQ)


def test_sides_that_stay_in_16_bit_need_no_alignment() -> None:
    odd = replace(DENSE_MODEL, layers=(Layer(ATTENTION, DenseFFN(16392)),) * 8)
    plan = replace(PLAN, ep=1)
    rules = [{each.rule for each in check(odd, case, gpus=4, seq_length=SEQ)}
             for case in (plan, replace(plan, quantized=Quantized(mlp=False)))]  # fmt: skip
    assert "low_precision_is_aligned" in rules[0]
    assert "low_precision_is_aligned" not in rules[1]


def test_the_search_keeps_the_parts_and_plays_them() -> None:
    scenario = load_scenario(EXAMPLE, starts_search=True)
    best = search(scenario, SearchOptions(keep=["micro_batch_size", "pp", "cp"])).plans[0]
    assert best.plan.quantized == scenario.plan.quantized
    again = evaluate(replace(scenario, plan=best.plan))
    assert best.step_time_s == pytest.approx(again.step_time_s, rel=1e-9)


# ---- launch files

ENDS = Quantized(bf16_layers_at_start=1, bf16_layers_at_end=3)
LAUNCHED = {
    "megatron": ("fp8-tensorwise", ENDS),
    "megatron-0.16": ("fp8-blockwise", Quantized(bf16_layers_at_end=4)),
    "bridge-recipe": ("fp8-tensorwise", ENDS),
    "bridge-overrides": ("fp8-tensorwise", ALL_LINEARS),
    "torchtitan": ("fp8-rowwise", Quantized(attention=False, mlp=True, bf16_layers_at_start=2, bf16_layers_at_end=1)),
}


STACKS = {
    "torchtitan": ("torchtitan-0.3", "full"),
    "bridge-recipe": ("megatron-bridge-0.6", "optimizer"),
    "bridge-overrides": ("megatron-bridge-0.6", "optimizer"),
}


def launched(name: str, precision: str, quantized: Quantized) -> Launch:
    stack, sharding = STACKS.get(name, ("megatron-core-0.19", "optimizer"))
    scenario = load_scenario(EXAMPLE, ["model=llama-3.1-8b", "plan.precision=bf16", "plan.fp8_param_gather=false",
                                       f"plan.stack={stack}", f"plan.sharding={sharding}"])  # fmt: skip
    plan = replace(scenario.plan, precision=precision, quantized=quantized, micro_batch_size=1)
    return launch(replace(scenario, plan=plan), WAYS[name].to, "torchrun", forecast=FORECAST)


@pytest.mark.parametrize("name", LAUNCHED)
def test_layers_in_16_bit_come_back_from_launch_files(name: str, tmp_path: Path) -> None:
    made = launched(name, *LAUNCHED[name])
    assert made.complete, [each.text for each in made.inexpressible]
    assert again(WAYS[name], made, tmp_path).plan.quantized == LAUNCHED[name][1]


@pytest.mark.parametrize(
    ("name", "precision", "part"),
    [
        ("megatron", "fp8-tensorwise", "attention"),
        ("bridge-recipe", "mxfp8", "mlp"),
        ("torchtitan", "mxfp8", "attention"),
        ("deepspeed", "fp8-tensorwise", "mlp"),
    ],
)
def test_a_part_that_a_target_cannot_be_told_is_refused_by_name(name: str, precision: str, part: str) -> None:
    made = launched(name, precision, Quantized(**{part: False}))  # type: ignore[arg-type]
    assert f"plan.quantized.{part}" in [each.key for each in made.inexpressible]


def test_megatron_leaves_one_layer_at_each_end_unless_told_otherwise(tmp_path: Path) -> None:
    words = "--num-layers 32 --hidden-size 4096 --num-attention-heads 32 --seq-length 4096 --micro-batch-size 1 "
    words += "--global-batch-size 8 --bf16 --fp8-format hybrid --fp8-recipe tensorwise --first-last-layers-bf16"
    script = tmp_path / "run.sh"
    script.write_text(f"torchrun --nproc_per_node 8 pretrain_gpt.py {words}\n", encoding="utf-8")
    text = import_launch([script], ["cluster.node=hgx-h100", "cluster.fabric=single-switch"]).text
    assert "bf16_layers_at_start: 1" in text
    assert "bf16_layers_at_end: 1" in text


@pytest.mark.parametrize(
    ("written", "key", "why"),
    [
        ("{base: fp8, bf16_layers_at_start: 1.5}", "plan.precision.bf16_layers_at_start", "whole number, not 1.5"),
        ("{base: fp8, bf16_layers_at_end: 10.9}", "plan.precision.bf16_layers_at_end", "whole number, not 10.9"),
        ("{base: fp8, bf16_layers_at_end: 900}", "plan.precision.bf16_layers_at_end", "900 layers at the ends"),
    ],
)
def test_wrong_counts_of_layers_are_told_where_they_stand(written: str, key: str, why: str) -> None:
    with pytest.raises(InputError) as caught:
        load_scenario(EXAMPLE, [f"plan.precision={written}"])
    (problem,) = caught.value.problems
    assert problem.key == key
    assert why in problem.message


def test_layers_are_told_under_quantized_where_they_stand_there() -> None:
    with pytest.raises(InputError, match=r"plan\.quantized\.bf16_layers_at_end: 900"):
        load_scenario(EXAMPLE, ["plan.precision=fp8", "plan.quantized={bf16_layers_at_end: 900}"])


def test_a_mapping_and_quantized_are_not_written_both() -> None:
    with pytest.raises(InputError, match=r"plan\.quantized: and a mapping under precision say the same"):
        load_scenario(EXAMPLE, ["plan.quantized.mlp=false"])
