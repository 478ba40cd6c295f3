"""What torchtitan's per-operator checkpoints keep of experts, with and without expert parallelism."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from simulator.cost.recompute import recomputed_shares
from simulator.memory.activations import layer_kept
from simulator.model.spec import Attention, Layer, Model, MoE
from simulator.plans.spec import Plan, Recompute
from simulator.predict.prediction import Prediction, evaluate
from simulator.scenario.schema import load_scenario
from simulator.workload.derive import workload_of
from simulator.workload.ends import logit_bytes
from simulator.workload.ffns import ffn_work
from simulator.workload.operators import Pass
from simulator.workload.shape import shape_of
from tests.simulator.stacks import stack_of

SEQ = 4096
FFN = MoE(64, 6, 1408, shared_width=2816)
MODEL = Model("moe", 2048, 102400, (Layer(Attention(16, 16, 128, 128), FFN),))
EAGER = Plan(
    dp=8,
    micro_batch_size=1,
    global_batch_size=8,
    sharding="full",
    recompute=Recompute("selective", modules=("mlp",)),
    stack=stack_of("torchtitan-0.3"),
)
LAYERS = (
    "{repeat: %d, mixer: {kind: mla, heads: 16, q_lora_rank: null, kv_lora_rank: 512, nope_head_dim: 128, "
    "rope_head_dim: 64, v_head_dim: 128}, ffn: %s}"
)
DENSE, EXPERTS = "{kind: dense, width: 10944}", "{kind: moe, experts: 64, top_k: 6, width: 1408, shared_width: 2816}"
SIXTEEN_BILLION = f"""\
model:
  hidden: 2048
  vocab: 102400
  layers: [{LAYERS % (1, DENSE)}, {LAYERS % (26, EXPERTS)}]
cluster: {{gpus: 8, node: hgx-h100, fabric: none}}
plan:
  ep: 8
  micro_batch_size: 8
  global_batch_size: 64
  sharding: full
  recompute: {{granularity: selective, modules: [layernorm, mlp]}}
  stack: {{framework: torchtitan, flash_version: 2}}
run: {{seq_length: 4096, tokens: 1B}}
"""


def predict(tmp_path: Path, *words: str) -> Prediction:
    path = tmp_path / "scenario.yaml"
    path.write_text(SIXTEEN_BILLION, encoding="utf-8")
    return evaluate(load_scenario(path, words))


def reserved_bytes(prediction: Prediction) -> float:
    """What torchtitan prints: the allocator's peak with its fragments."""
    (stage,) = prediction.stages
    return stage.peak_memory_bytes + stage.outside_allocator_bytes["fragmentation"]


def test_sixteen_billion_on_eight_gpus(tmp_path: Path) -> None:
    """Local batch 8 does not fit with EP 8 and does with EP 1, at 96 % of 79.1 GiB; local batch 4 with EP 8 reserves
    73.3 GiB at 11,250 to 11,760 tokens/s/GPU (pytorch/torchtitan issue 1789)."""
    assert not predict(tmp_path).fits
    small = predict(tmp_path, "plan.micro_batch_size=4", "plan.global_batch_size=32")
    assert small.fits
    assert reserved_bytes(small) == pytest.approx(73.3 * 2**30, rel=0.1)
    assert small.tokens_per_s_per_gpu == pytest.approx(11_500, rel=0.1)
    alone = predict(tmp_path, "plan.ep=1")
    assert alone.fits
    assert reserved_bytes(alone) == pytest.approx(0.96 * 79.1 * 2**30, rel=0.1)


def kept_bytes(plan: Plan) -> float:
    return float(layer_kept(ffn_work(FFN, shape_of(MODEL, plan, SEQ)), plan, False).until_backward)


def test_what_arrives_is_kept_where_experts_lie_apart() -> None:
    """Two all-to-alls bring 6 copies of each token, 2048 wide in 16 bit; an imbalance adds to those on their way out.
    Grouped products' tensors are not kept; of the shared expert half of w1's and w3's outputs is, and w2's."""
    copies = 2 * SEQ * 6 * 2048
    alone, apart = (kept_bytes(replace(EAGER, ep=ep)) for ep in (1, 8))
    assert alone == 2 * SEQ * 2816 + 2 * SEQ * 2048
    assert apart - alone == 2 * copies
    assert kept_bytes(replace(EAGER, ep=8, expert_imbalance=1.5)) - alone == pytest.approx(2.5 * copies)
    assert kept_bytes(replace(EAGER, ep=8, capacity_factor=2.0)) - alone == pytest.approx(3 * copies)


def test_grouped_products_run_again_whole() -> None:
    operators = ffn_work(FFN, shape_of(MODEL, EAGER, SEQ)).operators
    shares = dict(zip([op.name for op in operators], recomputed_shares(operators, EAGER, False), strict=True))
    assert (shares["expert_fc1"], shares["expert_fc2"], shares["shared_fc1"]) == (1.0, 1.0, 0.5)
    assert shares["dispatch"] == shares["combine"] == 0.0


def test_scores_are_multiplied_in_fp32_where_nothing_is_fused() -> None:
    """20 bytes forward and 36 backward for each of 6 x 2048 elements a token; compiled models fuse them away."""
    shape = shape_of(MODEL, EAGER, SEQ)
    (scores,) = (op for op in ffn_work(FFN, shape).operators if isinstance(op, Pass) and op.name == "expert_scores")
    elements = SEQ * 6 * 2048
    assert (scores.forward_bytes, scores.backward_bytes) == (20 * elements, 36 * elements)
    for stack in (stack_of("torchtitan-0.3-compiled"), stack_of(fused_kernels=False)):
        names = [op.name for op in ffn_work(FFN, shape_of(MODEL, replace(EAGER, stack=stack), SEQ)).operators]
        assert "expert_scores" not in names


def test_the_loss_of_experts_is_compiled_alone() -> None:
    """16-bit logits and gradients though the model runs eagerly; a dense eager model keeps fp32 ones."""
    assert logit_bytes(shape_of(MODEL, EAGER, SEQ)) == (2, 2)
    dense = Model("dense", 2048, 102400, tuple(replace(layer, ffn=None) for layer in MODEL.layers))
    assert logit_bytes(workload_of(dense, EAGER, SEQ).shape) == (4, 10)
