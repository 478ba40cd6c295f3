"""Models by name in launches: smaller siblings are left to fill in, and not taken for what bears their name."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulator.launch.importing.named import by_words
from tests.simulator.test_import_launch import PRIMUS, imported


@pytest.mark.parametrize(
    "word",
    ["deepseek_v2_lite", "glm4.5_air", "deepseek_v3_lite", "deepseek_v3_16b", "deepseek_v3-debugmodel", "grok-1-mini",
     "kimi-k2-0.5b", "proxy_deepseek_v3", "kimi_k2_1b"],
)  # fmt: skip
def test_a_sibling_is_not_the_model_whose_name_it_bears(word: str) -> None:
    assert by_words([word]) is None


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("deepseek_v2_236b", "deepseek-v2"),
        ("pretrain_deepseek_v3_671b_gb200_256gpus", "deepseek-v3"),
        ("nemotron_3_nano_30b_a3b", "nemotron-3-nano-30b-a3b"),
        ("deepseek_v4_flash", "deepseek-v4-flash"),
        ("llama3-70b", "llama-3-70b"),
        ("kimi_k2_1t", "kimi-k2"),
        ("config_minimax_m3_small-cluster", None),
    ],
)
def test_a_size_that_is_the_models_own_leaves_its_name(word: str, name: str | None) -> None:
    assert by_words([word]) == name


@pytest.mark.parametrize("model", ["deepseek_v2_lite", "glm4.5_air"])
def test_primus_models_of_another_size_are_left_to_fill_in(tmp_path: Path, model: str) -> None:
    found = imported(tmp_path, {"exp.yaml": PRIMUS.replace("llama3.1_8B", model)}, "cluster.gpus=8")
    assert model in found.text
    assert "model" in found.fill_in


@pytest.mark.parametrize("flavor", ["16B", "debugmodel"])
def test_torchtitans_flavor_decides_whose_model_it_is(tmp_path: Path, flavor: str) -> None:
    toml = f'[model]\nname = "deepseek_v3"\nflavor = "{flavor}"\n[training]\nlocal_batch_size = 1\nseq_len = 4096\n'
    found = imported(tmp_path, {"tt.toml": toml})
    assert "model" in found.fill_in
    assert f"deepseek_v3-{flavor.lower()} is not the catalogue's deepseek-v3" in found.text
    run = "torchrun --nnodes 2 -m torchtitan.train --training.steps 9 --model.flavor 671B\n"
    assert "model: deepseek-v3 " in imported(tmp_path, {"tt.toml": toml, "run.sh": run}).text


SIZES = (
    "torchrun --nproc_per_node 8 --nnodes 4 pretrain_gpt.py --num-layers 80 --hidden-size 8192 --ffn-hidden-size 28672 "
    "--num-attention-heads 64 --group-query-attention --num-query-groups 8 --swiglu --normalization RMSNorm "
    "--untie-embeddings-and-output-weights --position-embedding-type rope --seq-length 8192 --micro-batch-size 1 "
    "--global-batch-size 128 --tensor-model-parallel-size 8 --bf16 --disable-bias-linear --train-iters 100"
)


def test_models_of_equal_sizes_are_called_the_same_or_to_be_checked(tmp_path: Path) -> None:
    """Llama 3 and 3.1 differ in nothing that is predicted; Llama 2 in the vocabulary, which may not be told."""
    told = imported(tmp_path, {"run.sh": f"{SIZES} --vocab-size 128256\n"}).text
    assert "its sizes; the same model to a prediction as llama-3.1-70b" in told
    assert "CHECK" not in told.partition("\nmodel:")[2].partition("\n")[0]
    untold = imported(tmp_path, {"run.sh": f"{SIZES}\n"}).text
    assert "CHECK: llama-3-70b and llama-3.1-70b may be meant" in untold
    assert "model: llama-3.1-70b" in imported(tmp_path, {"llama3.1-70b.sh": f"{SIZES} --vocab-size 128256\n"}).text
