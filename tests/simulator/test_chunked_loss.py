"""A loss that works in chunks: what it holds, what it runs again, and a published run that needs it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hardware.problems import InputError
from simulator.cost.recompute import recomputed_shares
from simulator.memory.activations import stage_kept
from simulator.model.spec import Attention, DenseFFN, Layer, Model
from simulator.plans.spec import LossChunks, Plan
from simulator.predict.prediction import Prediction, evaluate
from simulator.scenario.schema import load_scenario
from simulator.workload.derive import workload_of
from simulator.workload.operators import Matmul
from tests.simulator.stacks import stack_of

SEQ = 8192
VOCAB = 128256
LLAMA = Model("llama", 4096, VOCAB, (Layer(Attention(32, 8, 128, 128), DenseFFN(14336)),) * 2)
PLAN = Plan(dp=8, micro_batch_size=1, global_batch_size=64, stack=stack_of("pytorch-fsdp-2025"))
LONG = """\
model: qwen3-8b
cluster: {gpus: 8, node: hgx-h100, fabric: none}
plan:
  cp: 8
  micro_batch_size: 1
  global_batch_size: 1
  sharding: full
  recompute: {granularity: full}
  loss: {chunks: 512}
  stack: {framework: fsdp, flash_version: 3}
run: {seq_length: 1048576, tokens: 1B}
"""
OFFLOADED = ("plan.offload.activation=1", "plan.offload.modules=[layer_input]")


def predict(tmp_path: Path, *words: str) -> Prediction:
    path = tmp_path / "scenario.yaml"
    path.write_text(LONG, encoding="utf-8")
    return evaluate(load_scenario(path, words))


def test_a_million_tokens_on_eight_gpus(tmp_path: Path) -> None:
    """380 s and 56.2 GB with the layers' inputs in host memory, and too much without (huggingface/trl pull request
    6846; its chunks have 256 of a rank's 131,072 tokens)."""
    run = predict(tmp_path, *OFFLOADED)
    assert run.fits
    assert run.device_memory_bytes == pytest.approx(56.2e9, rel=0.1)
    assert run.step_time_s == pytest.approx(380, rel=0.1)
    # 36 layers of 131072 x 4096 in 16 bit on each of 8 GPUs.
    assert run.host_memory.owners["activations"] == pytest.approx(8 * 36 * 131072 * 4096 * 2)
    assert not predict(tmp_path).fits
    assert not predict(tmp_path, "plan.loss.chunks=1", *OFFLOADED).fits


def test_one_chunk_holds_its_logits() -> None:
    """Nothing of the logits is kept; backward holds 2 + 2 bytes of a sixteenth of them, beside the head's input, its
    gradient and the weight's in 16 bit."""
    whole, parts = (stage_kept(workload_of(LLAMA, replace(PLAN, loss=LossChunks(n)), SEQ))[0] for n in (1, 16))
    assert whole.until_backward - parts.until_backward == 2 * SEQ * VOCAB
    assert parts.working == 4 * SEQ * VOCAB / 16 + 2 * 4096 * (2 * SEQ + VOCAB)
    assert whole.working - parts.working == 2 * SEQ * VOCAB - 4 * SEQ * VOCAB / 16


@pytest.mark.parametrize(("how", "again"), [("recomputed", 1.0), ("with_forward", 0.0)])
def test_logits_are_made_again_where_the_stack_does(how: str, again: float) -> None:
    plan = replace(PLAN, loss=LossChunks(16), stack=replace(PLAN.stack, chunked_loss=how))
    head = workload_of(LLAMA, plan, SEQ).ends["head"]
    shares = dict(zip([op.name for op in head.operators], recomputed_shares(head.operators, plan, False), strict=True))
    assert (shares["head"], shares["cross_entropy"], shares["final_norm"]) == (again, again, 0.0)
    once = workload_of(LLAMA, replace(plan, loss=LossChunks(1)), SEQ).ends["head"]
    assert not any(recomputed_shares(once.operators, replace(plan, loss=LossChunks(1)), False))
    (product,) = (op for op in head.operators if isinstance(op, Matmul))
    assert (product.groups, product.m) == (16, SEQ / 16)


def test_more_chunks_than_tokens_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="more chunks than the 131072 tokens"):
        predict(tmp_path, "plan.loss.chunks=131073")
