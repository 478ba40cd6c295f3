"""ZeRO's offloading of states against DeepSpeed's own estimates, and what the hosts hold of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hardware.problems import InputError
from simulator.cost.offload import NVME_BYTES_PER_S, drive_s, fetch_s, host_update_s, leaving_s
from simulator.predict.prediction import Prediction, evaluate
from simulator.scenario.schema import load_scenario

SCENARIOS = Path(__file__).parents[2] / "scenarios"
SMALL = """\
model:
  hidden: 2560
  vocab: 32000
  layers: {repeat: 32, mixer: {kind: attention, heads: 32, head_dim: 80}, ffn: {kind: dense, width: 6912}}
cluster: {gpus: 8, node: hgx-h100, fabric: none}
plan:
  micro_batch_size: 1
  global_batch_size: 8
  sharding: full
  recompute: {granularity: full}
  offload: {optimizer: 100%}
  stack: {framework: deepspeed}
run: {seq_length: 512, tokens: 1B, checkpoint: {policy: sharded}}
"""
LLAMA_70B = """\
model: llama-2-70b
cluster: {gpus: 4, node: {base: dgx-a100-80, gpus: 4, scale_up: {domain_gpus: 4}}, fabric: none}
plan:
  micro_batch_size: 4
  global_batch_size: 16
  sharding: full
  recompute: {granularity: full}
  offload: {optimizer: 100%}
  stack: {framework: deepspeed}
run: {seq_length: 512, tokens: 1B, checkpoint: {policy: sharded}}
"""
# 32 layers of 4 x 2560 x 2560 + 3 x 2560 x 6912 and two norms, two tables of 32000 (padded to 32000), a last norm.
PARAMETERS = 32 * (4 * 2560**2 + 3 * 2560 * 6912 + 2 * 2560) + 2 * 32000 * 2560 + 2560


def predict(tmp_path: Path, text: str, *words: str) -> Prediction:
    path = tmp_path / "scenario.yaml"
    path.write_text(text, encoding="utf-8")
    return evaluate(load_scenario(path, words))


def on_gpu(prediction: Prediction) -> float:
    """Weights, gradients, optimizer states and what is gathered of the parameters."""
    owners = prediction.stages[0].memory_bytes
    return sum(size for owner, size in owners.items() if owner not in ("activations", "working"))


def test_gradients_follow_the_optimizer(tmp_path: Path) -> None:
    """Of 2.7e9 parameters over 8 GPUs 2 bytes stay, and 4 bytes of a matrix of 2560 x 2 x 6912: 0.82 GB. DeepSpeed's
    estimator counts the two halves of that matrix apart: 0.75 GB (deepspeedai/DeepSpeed pull request 1536)."""
    states = on_gpu(predict(tmp_path, SMALL))
    assert states == pytest.approx(2 * PARAMETERS / 8 + 4 * 2560 * 2 * 6912)
    assert states == pytest.approx(0.75e9, rel=0.2)


def test_gradients_may_stay(tmp_path: Path) -> None:
    """4 bytes of fp32 gradients and 2 of autograd's for each parameter of the shard, on the GPU again."""
    stay, leave = (predict(tmp_path, SMALL, f"plan.offload.gradients={share}") for share in ("0", "auto"))
    assert on_gpu(stay) - on_gpu(leave) == pytest.approx(6 * PARAMETERS / 8)
    assert stay.host_memory.owners["optimizer"] == leave.host_memory.owners["optimizer"]
    assert "gradients" not in stay.host_memory.owners


def test_hosts_hold_what_left(tmp_path: Path) -> None:
    """12 bytes of states and 4 of gradients for each parameter, half as much of buffers: 1.5 x 16 bytes, as
    DeepSpeed's estimator; 63.7 GiB of 2,851 M parameters."""
    host = predict(tmp_path, SMALL).host_memory
    expected = {"optimizer": 12 * PARAMETERS, "gradients": 4 * PARAMETERS, "pinned buffers": 8 * PARAMETERS}
    assert host.owners == pytest.approx(expected)
    assert host.used_bytes / PARAMETERS * 2851e6 / 2**30 == pytest.approx(63.7, rel=0.001)


def test_llama_70b_fills_the_hosts_first(tmp_path: Path) -> None:
    """About 36 GiB of states on each of 4 GPUs of 80 GB; 1.5 TiB on the host, which 1 TB cannot hold (deepspeedai
    issue 5290)."""
    enough = predict(tmp_path, LLAMA_70B)
    assert enough.fits
    assert on_gpu(enough) / 2**30 == pytest.approx(36, rel=0.2)
    less = predict(tmp_path, LLAMA_70B, "cluster.node.host_memory=1 TB")
    assert less.device_memory_bytes == enough.device_memory_bytes
    assert not less.fits
    assert any("does not fit in host memory" in warning for warning in less.warnings)
    assert less.host_memory.used_bytes == pytest.approx(1.5 * 16 * 68_976_648_192, rel=1e-3)


def test_params_in_host_memory_or_on_drives(tmp_path: Path) -> None:
    """Their 2 bytes leave the GPU for either, and every gather waits for them to come."""
    gpu, host, nvme = (predict(tmp_path, SMALL, f"plan.offload.params={where}") for where in ("gpu", "host", "nvme"))
    assert on_gpu(gpu) - on_gpu(host) == pytest.approx(2 * PARAMETERS / 8)
    assert on_gpu(nvme) == on_gpu(host)
    assert host.host_memory.owners["params"] == pytest.approx(2 * PARAMETERS)
    assert nvme.host_memory.drive_bytes == pytest.approx(2 * PARAMETERS)
    assert gpu.breakdown_s["dp"] < host.breakdown_s["dp"] < nvme.breakdown_s["dp"]


def test_seconds_of_what_moves(tmp_path: Path) -> None:
    """1e9 parameters: 2 bytes in, by the host link or the node's drives; 4 bytes of gradients out as they are reduced,
    so that the update waits for the CPUs and the way home alone."""
    prediction = predict(tmp_path, SMALL)
    plan, cluster = prediction.scenario.plan, prediction.scenario.cluster
    link = cluster.accelerator.host_bandwidth_bytes_per_s
    on_drives = replace(plan, offload=replace(plan.offload, params="nvme"))
    in_memory = replace(plan, offload=replace(plan.offload, params="host"))
    assert fetch_s(1e9, plan, cluster) == 0
    assert fetch_s(1e9, in_memory, cluster) == pytest.approx(2e9 / link)
    assert fetch_s(1e9, on_drives, cluster) == drive_s(2e9, cluster) == pytest.approx(2e9 * 8 / NVME_BYTES_PER_S)
    assert leaving_s(1e9, plan, cluster) == pytest.approx(4e9 / link)
    updated_s = host_update_s(1e9, in_memory, cluster)
    assert host_update_s(1e9, plan, cluster) - updated_s == pytest.approx(2e9 / link)
    assert host_update_s(1e9, on_drives, cluster) - updated_s == pytest.approx(2e9 * 8 / NVME_BYTES_PER_S)
    stay = replace(plan, offload=replace(plan.offload, gradient_fraction=0.0))
    assert leaving_s(1e9, stay, cluster) == 0
    assert host_update_s(1e9, stay, cluster) - host_update_s(1e9, plan, cluster) == pytest.approx(4e9 / link)


def test_checkpoints_in_memory_count(tmp_path: Path) -> None:
    """One's own copy and a peer's: twice 14 bytes (weights, master copy, moments) for each parameter of the node."""
    plain = predict(tmp_path, SMALL).host_memory.owners
    copies = predict(tmp_path, SMALL, "run.checkpoint.policy=in-memory").host_memory.owners
    assert "checkpoint copies" not in plain
    assert copies["checkpoint copies"] == pytest.approx(2 * 14 * PARAMETERS)


def test_a_node_holds_the_activations_of_its_stages() -> None:
    """1F1B on two stages of four GPUs each in one node: two micro-batches of the first are in flight, one of the
    second; of every layer leave 2 x 2048 tokens of q, k, v (16 + 2 x 4 heads of 64) in 16 bit."""
    words = ["plan.offload.activation=1", "plan.offload.modules=[core_attn]", "run.checkpoint.policy=sharded"]
    prediction = evaluate(load_scenario(SCENARIOS / "tiny.yaml", words))
    layers = 4
    of_stage = layers * 2 * 2048 * (16 + 2 * 4) * 64 * 2
    assert prediction.host_memory.owners == {"activations": pytest.approx(4 * (2 + 1) * of_stage)}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("plan.offload.optimizer=0.5", "plan.offload.gradients=1"), "more gradients than optimizer states"),
        (("plan.offload.params=host", "plan.sharding=optimizer"), "only fully sharded parameters"),
        (("plan.offload.params=host", "plan.offload.optimizer=0.5"), "together with the whole optimizer"),
        (("plan.offload.params=nvme", "plan.stack=pytorch-fsdp-2025"), "FSDP offloads to host memory only"),
    ],
)
def test_what_no_engine_offers_is_refused(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    with pytest.raises(InputError, match=said):
        predict(tmp_path, SMALL, *words)
