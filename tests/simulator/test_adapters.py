"""Low-rank adapters beside frozen weights: parameters, memory, products and seconds, worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hardware.catalogue import cluster
from hardware.problems import InputError
from simulator.cost.groups import plan_groups, shard_groups
from simulator.cost.price import Prices, matmul_price
from simulator.cost.updates import gather_and_reduce
from simulator.memory.activations import layer_kept
from simulator.memory.states import state_bytes
from simulator.model.catalogue import load
from simulator.model.spec import Attention, DenseFFN, Half, Layer, Model, MoE
from simulator.plans.spec import Adapters, Plan
from simulator.predict.prediction import evaluate
from simulator.predict.run_spec import state_bytes as checkpoint_bytes
from simulator.scenario.schema import load_scenario
from simulator.workload.adapters import adapter_linears
from simulator.workload.derive import workload_of
from simulator.workload.operators import Matmul, Pass
from simulator.workload.states import adapter_parameters
from tests.simulator.stacks import FSDP

SEQ = 4096
ATTENTION, DENSE = Attention(32, 8, 128, 128), DenseFFN(14336)
LLAMA = Model("llama", 4096, 128256, (Layer(ATTENTION, DENSE),) * 2)
WHOLE = Plan(dp=8, micro_batch_size=1, global_batch_size=8)
LORA = replace(WHOLE, adapters=Adapters(16, ("q_proj", "v_proj", "o_proj", "down_proj")))
# Down from and up to: q 4096 -> 4096, v 4096 -> 1024, o 4096 -> 4096, w2 14336 -> 4096.
OF_LAYER = 16 * ((4096 + 4096) + (4096 + 1024) + (4096 + 4096) + (14336 + 4096))
SCENARIOS = Path(__file__).parents[2] / "scenarios"


def test_parameters_of_adapters() -> None:
    assert adapter_parameters(LLAMA, LORA) == 2 * OF_LAYER
    assert adapter_parameters(LLAMA, WHOLE) == 0
    # Megatron's adapter of the joint projection has one way down for all of it.
    joint = replace(WHOLE, adapters=Adapters(16, ("linear_qkv",)))
    assert adapter_parameters(LLAMA, joint) == 2 * 16 * (4096 + 4096 + 2 * 1024)


def test_published_count_of_llama_2_7b() -> None:
    """Rank 8 on queries and values: 4,194,304 trainable parameters (huggingface/peft prints them)."""
    plan = replace(WHOLE, adapters=Adapters(8, ("q_proj", "v_proj")))
    assert adapter_parameters(load("llama-2-7b"), plan) == 4_194_304


def test_routed_experts_have_an_adapter_each() -> None:
    moe = MoE(8, 2, 1024)
    found = adapter_linears(moe, 2048, Adapters(4, ("experts",)))
    sizes = {each.name: each.inputs * each.outputs * each.copies for each in found}
    assert sizes == {
        "expert_fc1_adapter_down": 8 * 2048 * 4,
        "expert_fc1_adapter_up": 8 * 4 * 2048,
        "expert_fc2_adapter_down": 8 * 1024 * 4,
        "expert_fc2_adapter_up": 8 * 4 * 2048,
    }
    assert {each.parallel for each in found} == {"expert_column", "expert_row"}


@pytest.mark.parametrize(("stack", "sharding"), [(FSDP, "full"), (WHOLE.stack, "full"), (WHOLE.stack, "none")])
def test_only_adapters_have_gradients_and_states(stack: object, sharding: str) -> None:
    """Weights 2 bytes, frozen ones with no fp32 copy even where FSDP shards; gradients 4 and states 12 of adapters."""
    plan = replace(LORA, stack=stack, sharding=sharding)
    shards = 8 if sharding == "full" else 1
    frozen = workload_of(LLAMA, replace(plan, adapters=None), SEQ).parameters[0].dense
    owners = state_bytes(workload_of(LLAMA, plan, SEQ).parameters, plan)
    beside = 0 if stack is FSDP else 2 * OF_LAYER  # adapters in 16 bit; FSDP keeps their fp32 copy alone
    assert owners["weights"] == pytest.approx(2 * (frozen + beside) / shards)
    assert owners["gradients"] == pytest.approx(4 * 2 * OF_LAYER / shards)
    assert owners["optimizer"] == pytest.approx(12 * 2 * OF_LAYER / shards)
    if sharding == "full":
        table = 128256 * 4096 + 4096  # the head is largest, and has no gradient
        assert owners["gathered layers"] == pytest.approx(2 * 2 * table)


def test_tensor_parallelism_splits_one_side() -> None:
    """Over tp 4 the way up of a column-parallel matrix is split, the way down of a row-parallel one."""
    plan = replace(LORA, dp=2, tp=4)
    (held,) = workload_of(LLAMA, plan, SEQ).parameters
    columns = (4096 + 4096 / 4) + (4096 + 1024 / 4)
    rows = (4096 / 4 + 4096) + (14336 / 4 + 4096)
    assert sum(held.trained) == pytest.approx(2 * 16 * (columns + rows))


def test_inputs_that_only_frozen_weights_would_need_are_not_kept() -> None:
    """w1 and w3 have no adapter: their input is dropped; the adapters keep 2 + 1 + 1 tensors of 16 columns."""
    both = [workload_of(LLAMA, plan, SEQ) for plan in (WHOLE, LORA)]
    works = [each.mixers[Half(ATTENTION)] + each.ffns[Half(DENSE)] for each in both]
    before, after = (layer_kept(work, each.plan, False).until_backward for work, each in zip(works, both, strict=True))
    assert before - after == 2 * SEQ * 4096 - 2 * SEQ * (2 + 1 + 1) * 16
    assert [t.name for t in both[1].ends["head"].saved] == ["final_norm_input", "logits"]


def test_products_of_adapters() -> None:
    mixer = workload_of(LLAMA, LORA, SEQ).mixers[Half(ATTENTION)]
    products = {op.name: (op.m, op.n, op.k, op.frozen) for op in mixer.operators if isinstance(op, Matmul)}
    assert products == {
        "qkv": (SEQ, 4096 + 2 * 1024, 4096, True),
        "qkv_adapter_down": (SEQ, 2 * 16, 4096, False),
        "qkv_adapter_up": (SEQ, 4096 + 1024, 16, False),
        "out": (SEQ, 4096, 4096, True),
        "out_adapter_down": (SEQ, 16, 4096, False),
        "out_adapter_up": (SEQ, 4096, 16, False),
    }
    (joined,) = (op for op in mixer.operators if isinstance(op, Pass) and op.name == "out_adapter_sum")
    assert (joined.forward_bytes, joined.backward_bytes) == (3 * 2 * SEQ * 4096, 2 * 2 * SEQ * 4096)


def test_frozen_weights_have_no_weight_gradient() -> None:
    gpus = cluster(8, "hgx-h100", "none")
    prices = Prices(gpus, WHOLE, plan_groups(WHOLE, gpus))
    trained = Matmul("fc1", SEQ, 4096, 4096)
    price, frozen = (matmul_price(op, prices) for op in (trained, replace(trained, frozen=True)))
    assert price.weight_s > 0
    assert frozen.weight_s == 0
    assert (frozen.forward_s, frozen.input_s) == (price.forward_s, price.input_s)
    (embedding,) = (op for op in workload_of(LLAMA, LORA, SEQ).ends["embedding"].operators if op.name == "embedding")
    assert isinstance(embedding, Pass)
    assert embedding.backward_bytes == 0


def test_frozen_weights_are_gathered_but_not_reduced() -> None:
    gpus = cluster(8, "hgx-h100", "none")
    groups = shard_groups(WHOLE, gpus)

    def moved(plan: Plan) -> tuple[float, float]:
        (held,) = workload_of(LLAMA, plan, SEQ).parameters
        gathers, reduces = gather_and_reduce(held, plan, groups, gpus, whole=False)
        return sum(gathers), sum(reduces)

    whole, lora = (moved(replace(plan, sharding="full")) for plan in (WHOLE, LORA))
    assert lora[0] == pytest.approx(whole[0], rel=0.02)
    assert lora[1] < 0.2 * whole[1]
    assert moved(LORA)[0] < 0.1 * moved(WHOLE)[0], "weights that never change stay whole on every rank"


def test_a_scenario_with_adapters() -> None:
    words = ["plan.adapters.rank=8", "plan.adapters.targets=[q_proj, v_proj]"]
    whole, lora = (load_scenario(SCENARIOS / "tiny.yaml", each) for each in ([], words))
    plain, adapted = evaluate(whole), evaluate(lora)
    assert adapted.step_time_s < plain.step_time_s
    assert adapted.peak_memory_bytes < plain.peak_memory_bytes
    assert any("MFU counts" in warning for warning in adapted.warnings)
    assert checkpoint_bytes(lora) == adapter_parameters(lora.model, lora.plan) * 14
    for targets in ("[foo]", "[]"):
        with pytest.raises(InputError, match=r"plan\.adapters\.targets"):
            load_scenario(SCENARIOS / "tiny.yaml", [f"plan.adapters.targets={targets}"])


GLM = """\
model: glm-4.5
cluster: {gpus: 16, node: hgx-h100, fabric: ndr-rail-2tier}
plan:
  ep: 16
  micro_batch_size: 1
  global_batch_size: 16
  sharding: full
  adapters: {rank: 16, targets: [q_proj, k_proj, v_proj, o_proj]}
  stack: {framework: fsdp}
run: {seq_length: 2048, tokens: 1B}
"""


def test_glm_on_sixteen_gpus(tmp_path: Path) -> None:
    """LoRA on GLM-4.6, whose sizes are GLM-4.5's, peaks at 73 GB with EP 16 and 2048 tokens (huggingface/trl pull
    request 6869); one sequence a GPU and no recomputation are assumed."""
    (tmp_path / "glm.yaml").write_text(GLM, encoding="utf-8")
    assert evaluate(load_scenario(tmp_path / "glm.yaml")).peak_memory_bytes == pytest.approx(73e9, rel=0.1)
