"""Launches read into scenarios: every format, whence lines come, what is left to fill in, what is never done."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from hardware.problems import InputError
from simulator.launch.importing.importer import ImportedScenario, import_launch
from simulator.launch.importing.models import layer_pattern
from simulator.launch.importing.shell import read_script
from simulator.scenario.schema import Scenario, load_scenario
from tests.command import traincast

COMMON = """\
export USE_DIST_OPTIMIZER=True
export MICRO_BATCH_SIZE=1
export FP8=True
export FP8_RECIPE="tensorwise"
export OVERLAP_GRAD_REDUCE=True
export WANDB_API_KEY=do-not-copy
"""
LLAMA_405B = """\
source $(dirname ${BASH_SOURCE[0]})/config_common.sh
export MINIBS=288
export TENSOR_MODEL_PARALLEL=8
export PIPELINE_MODEL_PARALLEL=8
export INTERLEAVED_PIPELINE=8
export CONTEXT_PARALLEL=2
export TP_COMM_OVERLAP=True
export DGXNNODES=64
export WALLTIME=$((5 + ${NEXP:-1} * ($MINIBS + 5)))
export MODEL_SIZE="405b"
export MAX_STEPS=300
export ASYM_PP_EMBED=True
export ASYM_PP_LOSS=True
"""
DEEPSEEK_V3 = """\
export MINIBS=480
export MICRO_BATCH_SIZE=1
export TENSOR_MODEL_PARALLEL=2
export PIPELINE_MODEL_PARALLEL=4
export INTERLEAVED_PIPELINE=4
export CONTEXT_PARALLEL=1
export EXPERT_PARALLEL=32
export PIPELINE_LAYOUT="Et*4|(t*4|)*14tmL"
export DGXNNODES=64
export DGXNGPU=4
export FP8=True
export FP8_RECIPE=mxfp8
export RECOMPUTE_MODULES="mlp"
export CUDA_GRAPH_SCOPE="full_iteration"
export MOE_TOKEN_DISPATCHER_TYPE=flex
export MOE_FLEX_DISPATCHER_BACKEND=hybridep
export NVTE_CUTEDSL_FUSED_GROUPED_MLP=1
export OVERLAP_MOE_EXPERT_PARALLEL_COMM=True
"""
SBATCH = """\
#!/bin/bash
#SBATCH --nodes=16
#SBATCH --gpus-per-node=8
#SBATCH --constraint=h100
export HF_TOKEN=hf_do_not_copy
TP=4
MODEL_ARGS=(
    --num-layers 32 --hidden-size 4096 --ffn-hidden-size 14336
    --num-attention-heads 32 --group-query-attention --num-query-groups 8   # a comment
    --swiglu --normalization RMSNorm --disable-bias-linear --untie-embeddings-and-output-weights
    --position-embedding-type rope --max-position-embeddings 8192 --vocab-size 128256
)
PLAN_ARGS="
    --tensor-model-parallel-size $TP --sequence-parallel \\
    --pipeline-model-parallel-size $((TP / 2)) \\
    --num-layers-per-virtual-pipeline-stage 4
"
srun --container-image=x python pretrain_gpt.py "${MODEL_ARGS[@]}" $PLAN_ARGS \\
  --micro-batch-size 1 --global-batch-size ${GBS:-256} --seq-length 8192 --train-iters 5000 --bf16 \\
  --use-distributed-optimizer --overlap-grad-reduce --save $(touch HACKED)/x --lr $LR
cat > other.sh <<'EOF'
--global-batch-size 7
EOF
"""
DEEPSPEED = """\
{
 "train_batch_size": 512,
 "train_micro_batch_size_per_gpu": 4,
 "zero_optimization": {"stage": 3, "overlap_comm": true, "offload_optimizer": {"device": "cpu"}},
 "bf16": {"enabled": true},
 "wandb": {"enabled": true, "key": "do-not-copy"}
}
"""
PRIMUS = """\
modules:
  pre_trainer:
    framework: megatron
    model: llama3.1_8B.yaml
    overrides:
      train_iters: 50
      micro_batch_size: 2
      global_batch_size: 128
      seq_length: 8192
      tensor_model_parallel_size: ${PRIMUS_TP:2}
      overlap_grad_reduce: true
"""
BRIDGE = """\
torchrun --nnodes 16 --nproc_per_node 8 run_recipe.py --recipe qwen3_235b_a22b_pretrain_config \\
  model.tensor_model_parallel_size=2 model.pipeline_model_parallel_size=8 model.expert_model_parallel_size=8 \\
  train.micro_batch_size=1 train.global_batch_size=2048 model.seq_length=4096 \\
  model.pipeline_model_parallel_layout="Et*11|(t*12|)*6t*11L" "model.recompute_modules=[moe_act,layernorm]" \\
  model.recompute_granularity=selective
"""
PRINTED = """\
 > building
  world_size ...................................... 16
  tensor_model_parallel_size ...................... 2
  num_layers ...................................... 32
  hidden_size ..................................... 4096
  num_attention_heads ............................. 32
  group_query_attention ........................... True
  num_query_groups ................................ 8
  ffn_hidden_size ................................. 14336
  swiglu .......................................... True
  add_bias_linear ................................. False
  normalization ................................... RMSNorm
  untie_embeddings_and_output_weights ............. True
  position_embedding_type ......................... rope
  micro_batch_size ................................ 1
  global_batch_size ............................... 128
  seq_length ...................................... 8192
  recompute_granularity ........................... None
  hf_token ........................................ do-not-copy
"""
MATRIX = (
    "\tGPU0\tGPU1\tGPU2\tGPU3\tNIC0\tCPU Affinity\nGPU0\t X \tNV18\tNV18\tNV18\tPIX\t0-55\n"
    "GPU1\tNV18\t X \tNV18\tNV18\tNODE\t0-55\nGPU2\tNV18\tNV18\t X \tNV18\tSYS\t56\n"
    "GPU3\tNV18\tNV18\tNV18\t X\tSYS\t56\nNIC0\tPIX\tNODE\tSYS\tSYS\t X \n"
)
SWITCHES = "SwitchName=s0 Nodes=tux[0-3]\nSwitchName=s1 Nodes=tux[4-7]\nSwitchName=top Switches=s[0-1]\n"


def imported(folder: Path, files: dict[str, str], *given: str) -> ImportedScenario:
    paths = []
    for name, text in files.items():
        paths.append(folder / name)
        paths[-1].write_text(text)
    return import_launch(paths, given)


def scenario(folder: Path, files: dict[str, str], *given: str) -> Scenario:
    found = imported(folder, files, *given)
    assert "do-not-copy" not in found.text
    assert "do_not_copy" not in found.text
    assert not (folder / "HACKED").exists()
    assert not Path("HACKED").exists()
    file = folder / "imported.yaml"
    file.write_text(found.text)
    return load_scenario(file)


# -- formats --------------------------------------------------------------------------------------------------------


def test_an_mlperf_config_evaluates_as_it_is(tmp_path: Path) -> None:
    """64 nodes of 8 under tp 8 x pp 8 x cp 2: 4 replicas, each of MINIBS 288 sequences a step."""
    files = {"config_DGXH100_64x8x288.sh": LLAMA_405B, "config_common.sh": COMMON}
    found = imported(tmp_path, files)
    assert found.fill_in == ()
    assert "  # fabric: " in found.text
    read = scenario(tmp_path, files, "cluster.fabric=ndr-rail-2tier")
    plan = read.plan
    assert (read.model.name, read.cluster.gpus, read.cluster.node.name) == ("llama-3.1-405b", 512, "hgx-h100")
    assert (plan.tp, plan.pp, plan.vpp, plan.cp, plan.dp, plan.global_batch_size) == (8, 8, 8, 2, 4, 4 * 288)
    assert (plan.precision, plan.overlap.tp_comm, plan.account_for_loss) == ("fp8-tensorwise", True, True)
    assert (read.run.seq_length, read.run.tokens) == (8192, 300 * 1152 * 8192)


def test_files_that_a_script_sources_are_read_beside_it_or_missed_by_name(tmp_path: Path) -> None:
    (tmp_path / "config_common.sh").write_text(COMMON)
    beside = imported(tmp_path, {"config_DGXH100.sh": LLAMA_405B})
    assert "config_common.sh:4" in beside.text
    (tmp_path / "config_common.sh").unlink()
    alone = imported(tmp_path, {"config_DGXH100.sh": LLAMA_405B})
    assert any("config_common.sh is sourced and was not given" in note for note in alone.notes)
    assert "precision" not in alone.text


def test_short_names_of_mlperf_batches_are_known(tmp_path: Path) -> None:
    text = "export NNODES=1\nexport GPUS_PER_NODE=8\nexport GBS=32\nexport MBS=2\nexport TP=1\nexport MAX_STEPS=9\n"
    read = scenario(tmp_path, {"config_MI355X_1x8x1_8b.sh": text})
    assert (read.model.name, read.plan.micro_batch_size, read.plan.global_batch_size) == ("llama-3.1-8b", 2, 32)
    assert read.cluster.node.name == "mi355x-platform"


def test_what_does_nothing_at_tp_1_and_a_models_own_depth_are_left_out(tmp_path: Path) -> None:
    text = "export MINIBS=2\nexport MICRO_BATCH_SIZE=1\nexport TENSOR_MODEL_PARALLEL=1\nexport TP_COMM_OVERLAP=True\n"
    text += 'export OVERWRITTEN_NUM_LAYERS=32\nexport MODEL_SIZE="8b"\nexport DGXNNODES=1\nexport MAX_STEPS=9\n'
    read = scenario(tmp_path, {"config_DGXH100_1x8.sh": text})
    assert (read.model.name, read.plan.overlap.tp_comm) == ("llama-3.1-8b", False)
    deeper = text.replace("LAYERS=32", "LAYERS=48")
    assert len(scenario(tmp_path, {"config_DGXH100_1x8.sh": deeper}).model.layers) == 48


def test_a_config_that_only_sources_a_missing_one_says_which(tmp_path: Path) -> None:
    text = "source $(dirname ${BASH_SOURCE[0]})/config_GB200.sh\nexport NAME=x\n"
    with pytest.raises(InputError, match=r"config_GB200\.sh is sourced and was not given"):
        imported(tmp_path, {"config_GB300.sh": text})


def test_the_mlperf_deepseek_config_brings_layout_dispatcher_and_graphs(tmp_path: Path) -> None:
    read = scenario(tmp_path, {"config_GB200_64x4.sh": DEEPSEEK_V3}, "cluster.fabric=nvl72-400g-2tier")
    plan = read.plan
    assert (read.model.name, read.cluster.node.name, plan.dp) == ("deepseek-v3", "gb200-nvl72", 32)
    assert (plan.layout, plan.vpp, plan.global_batch_size) == ("Et*4|(t*4|)*14tmL", 4, 480 * 32)
    assert (plan.precision, plan.dispatcher, plan.overlap.moe_ep) == ("mxfp8", "hybridep", True)
    assert (plan.recompute.granularity, plan.recompute.modules) == ("selective", ("mlp",))
    assert (plan.stack.cuda_graphs, plan.stack.fused_experts) == ("full", True)
    assert "assumed, CHECK: the layout has 61 layers" in (tmp_path / "imported.yaml").read_text()


def test_an_sbatch_script_is_worked_out_and_never_run(tmp_path: Path) -> None:
    """TP=4, pp = TP / 2, 32 layers over 2 stages in chunks of 4: vpp 4."""
    read = scenario(tmp_path, {"run.sbatch": SBATCH}, "cluster.fabric=ndr-rail-2tier")
    plan = read.plan
    assert (read.model.name, read.cluster.gpus) == ("llama-3-8b", 128)
    assert (plan.tp, plan.pp, plan.vpp, plan.sequence_parallel) == (4, 2, 4, True)
    assert plan.global_batch_size == 256, "the default of a variable that nothing sets"
    assert (plan.sharding, plan.overlap.grad_reduce, plan.overlap.param_gather) == ("optimizer", True, False)
    text = (tmp_path / "imported.yaml").read_text()
    assert "tp: 4" in text
    assert "# run.sbatch:14: --tensor-model-parallel-size" in text, "the line inside the quoted text"
    assert "# not given: Megatron-LM's default" in text


def test_an_argument_that_no_key_says_is_told_by_name(tmp_path: Path) -> None:
    misspelt = SBATCH.replace("--tensor-model-parallel-size", "--moe-gruped-gemm --tensor-model-parallel-size")
    assert misspelt != SBATCH
    (note,) = [each for each in imported(tmp_path, {"run.sbatch": misspelt}).notes if "no key" in each]
    assert "--moe-gruped-gemm" in note
    assert "--tensor-model-parallel-size" not in note


def test_arguments_as_a_job_prints_them(tmp_path: Path) -> None:
    read = scenario(tmp_path, {"job.log": PRINTED}, "cluster.node=hgx-h100", "cluster.fabric=ndr-rail-2tier")
    assert (read.model.name, read.cluster.gpus, read.plan.tp) == ("llama-3-8b", 16, 2)
    assert (read.plan.sharding, read.plan.recompute.granularity) == ("none", "none")


def test_deepspeeds_json_leaves_model_and_length_to_fill_in(tmp_path: Path) -> None:
    found = imported(tmp_path, {"ds.json": DEEPSPEED})
    assert set(found.fill_in) >= {"model", "cluster.gpus", "cluster.node", "run.seq_length"}
    given = ("model=llama-2-70b", "cluster.gpus=32", "cluster.node=hgx-h100", "cluster.fabric=ndr-rail-2tier",
             "run.seq_length=4096")  # fmt: skip
    plan = scenario(tmp_path, {"ds.json": DEEPSPEED}, *given).plan
    assert (plan.sharding, plan.micro_batch_size, plan.global_batch_size) == ("full", 4, 512)
    assert (plan.offload.optimizer_fraction, plan.precision) == (1.0, "bf16")


@pytest.mark.parametrize(
    ("settings", "gpus", "batch", "micro"),
    [
        (
            {"train_batch_size": 512, "train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 8},
            None,
            512,
            4,
        ),
        ({"train_batch_size": 512, "gradient_accumulation_steps": 8}, 16, 512, 4),
        ({"train_batch_size": 512}, 16, 512, 32),
        ({"train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 8}, 16, 512, 4),
        ({"train_micro_batch_size_per_gpu": 4}, 16, 64, 4),
    ],
)
def test_deepspeeds_batch_follows_from_what_is_given(
    tmp_path: Path, settings: dict[str, int], gpus: int | None, batch: int, micro: int
) -> None:
    """A step is micro-batch x accumulation x ranks: 4 x 8 x 16."""
    given = ("cluster.node=hgx-h100", "cluster.fabric=ndr-rail-2tier", "run.seq_length=4096", "model=llama-3-8b")
    given += (f"cluster.gpus={gpus}",) if gpus else ()
    read = scenario(tmp_path, {"ds.json": json.dumps({**settings, "zero_optimization": {"stage": 1}})}, *given)
    assert (read.cluster.gpus, read.plan.global_batch_size, read.plan.micro_batch_size) == (16, batch, micro)


def test_deepspeeds_contradictions_and_autos_are_told(tmp_path: Path) -> None:
    settings = {"train_batch_size": 500, "train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 8}
    found = imported(tmp_path, {"ds.json": json.dumps(settings)}, "cluster.gpus=16")
    assert any("500 sequences a step are not 4 x 8 accumulations x 16 ranks" in note for note in found.notes)
    found = imported(tmp_path, {"ds.json": json.dumps({**settings, "train_batch_size": "auto"})}, "cluster.gpus=16")
    assert any("auto is worked out by the training script" in note for note in found.notes)
    assert "global_batch_size: 512" in found.text


def test_every_setting_that_no_key_comes_from_is_named(tmp_path: Path) -> None:
    """Of every file; a script's own variables are none, an MLPerf configuration's are."""
    ds = '{"train_batch_size": 8, "gradient_clipping": 1.0, "optimizer": {"type": "AdamW", "params": {"lr": 1e-4}}}'
    (note,) = (note for note in imported(tmp_path, {"ds.json": ds}).notes if "no key" in note)
    assert note == "ds.json: no key of a scenario comes from gradient_clipping, optimizer.params.lr"
    notes = imported(tmp_path, {"config_H100.sh": LLAMA_405B.replace("config_common", "absent")}).notes
    assert any("no key of a scenario comes from WALLTIME" in note for note in notes)
    assert not any("TENSOR_MODEL_PARALLEL" in note for note in notes)
    toml = '[model]\nname = "llama3"\n[parallelism]\ntensor_parallel_degree = 2\n[metrics]\nlog_freq = 10\n'
    assert any("metrics.log_freq" in note for note in imported(tmp_path, {"job.toml": toml}).notes)


MIXTRAL = """\
python pretrain_gpt.py --disable-bias-linear --seq-length 4096 --max-position-embeddings 32768 --num-layers 32 \\
  --hidden-size 4096 --ffn-hidden-size 14336 --num-attention-heads 32 --normalization RMSNorm --swiglu \\
  --position-embedding-type rope --untie-embeddings-and-output-weights --group-query-attention --num-query-groups 8 \\
  --num-experts 8 --moe-router-topk 2 --moe-token-dispatcher-type alltoall --expert-model-parallel-size 8 --bf16
"""


def test_experts_as_wide_as_the_stated_feed_forward_are_the_catalogues(tmp_path: Path) -> None:
    """Mixtral-8x7B by --ffn-hidden-size alone, and no vocabulary."""
    assert "model: mixtral-8x7b " in imported(tmp_path, {"run.sh": MIXTRAL}).text


def test_primus_yaml_and_its_placeholders(tmp_path: Path) -> None:
    read = scenario(tmp_path, {"exp.yaml": PRIMUS}, "cluster.gpus=8", "cluster.node=mi300x")
    assert (read.model.name, read.plan.tp, read.plan.micro_batch_size) == ("llama-3.1-8b", 2, 2)
    assert read.cluster.fabric.name == "none", "eight GPUs are one scale-up domain"


def test_megatron_bridges_overrides(tmp_path: Path) -> None:
    given = ("cluster.node=hgx-h100", "cluster.fabric=ndr-rail-2tier")
    read = scenario(tmp_path, {"launch.sh": BRIDGE}, *given)
    assert (read.model.name, read.cluster.gpus) == ("qwen3-235b-a22b", 128)
    assert (read.plan.layout, read.plan.recompute.modules) == ("Et*11|(t*12|)*6t*11L", ("moe_act", "layernorm"))


def test_a_hugging_face_config_names_the_model(tmp_path: Path) -> None:
    config = {"config.json": '{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096, '
              '"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, '
              '"intermediate_size": 14336}'}  # fmt: skip
    given = ("cluster.node=hgx-h100", "cluster.gpus=16", "cluster.fabric=ndr-rail-2tier", "run.seq_length=4096")
    read = scenario(tmp_path, {**config, "ds.json": DEEPSPEED}, *given)
    assert len(read.model.layers) == 32


# -- machines -------------------------------------------------------------------------------------------------------


def test_a_scenario_runs_on_the_server_and_switches_that_were_read(tmp_path: Path) -> None:
    """Four GPUs a server, two leaves of four servers: 16 GPUs below a leaf, 32 in all."""
    files = {"topo.txt": MATRIX, "topology.conf": SWITCHES, "job.log": PRINTED}
    cluster = scenario(tmp_path, files).cluster
    assert (cluster.node.gpus, cluster.node.scale_up.domain_gpus, cluster.gpus) == (4, 4, 16)
    assert [tier.reach_gpus for tier in cluster.fabric.tiers] == [16, 32]
    assert "topology.conf" in (tmp_path / "imported.yaml").read_text()


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"topo.txt": "MATRIX", "run.sbatch": "SBATCH"}, "has 8 GPUs a node, topo.txt has 4, which are taken"),
        ({"topo.txt": "MATRIX", "run.sh": "#SBATCH --gpus=6\n"}, "the job's 6 GPUs are no whole servers of 4"),
        ({"topology.conf": "SwitchName=leaf1 Nodes=n[1-4]\n", "run.sbatch": "SBATCH"},
         "the job's 128 GPUs are 16 servers, topology.conf has 4"),
        ({"topo.txt": "MATRIX", "run.sh": "#SBATCH --constraint=a100\nexport NCCL_IB_HCA=mlx5_0,mlx5_1,mlx5_2\n"},
         "NCCL_IB_HCA names 3 NICs"),
        ({"topo.txt": "MATRIX", "run.sh": "#SBATCH --constraint=a100\n"}, "the launch names dgx-a100-80"),
    ],
)  # fmt: skip
def test_machines_that_contradict_the_launch_are_marked(tmp_path: Path, files: dict[str, str], told: str) -> None:
    """On the line that it concerns, and as a note."""
    texts = {"MATRIX": MATRIX, "SBATCH": SBATCH}
    command = "\npython pretrain_gpt.py --tensor-model-parallel-size 1 --bf16\n"
    found = imported(tmp_path, {name: texts.get(text, text + command) for name, text in files.items()})
    (marked,) = (line for line in found.text.splitlines() if "CONTRADICTION" in line and not line.startswith("#"))
    assert told in marked
    assert any(told in note for note in found.notes)


def test_a_sibling_that_the_launch_names_is_taken_for_what_the_file_cannot_tell(tmp_path: Path) -> None:
    """H200 and H100 have the same links."""
    files = {"topo.txt": MATRIX, "run.sbatch": SBATCH.replace("h100", "h200").replace("node=8", "node=4")}
    found = imported(tmp_path, files)
    assert "base: hgx-h200" in found.text
    assert "CONTRADICTION" not in found.text


def test_fewer_cards_than_gpus_share_their_bandwidth(tmp_path: Path) -> None:
    """One card of 50 GB/s for four GPUs is 12.5 GB/s each."""
    files = {"topo.txt": MATRIX, "job.log": PRINTED}
    assert "1 network cards for 4 GPUs, whose share each has" in imported(tmp_path, files).text
    read = scenario(tmp_path, files, "cluster.fabric=ndr-rail-2tier")
    assert read.cluster.node.nic.bandwidth_bytes_per_s == 12.5e9


def test_slurms_blocks_within_one_scale_up_domain_are_no_switches(tmp_path: Path) -> None:
    """Blocks of 18 servers of 4 are NVL72 domains: what is left is the one level above."""
    blocks = "BlockName=b1 Nodes=n[1-18]\nBlockName=b2 Nodes=n[19-36]\nBlockSizes=18\n"
    found = imported(tmp_path, {"topology.conf": blocks, "config_GB200.sh": DEEPSEEK_V3})
    assert "reach_gpus: 144" in found.text
    assert "reach_gpus: 72" not in found.text


# -- what must not happen -------------------------------------------------------------------------------------------


def test_files_of_two_frameworks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="several frameworks"):
        imported(tmp_path, {"ds.json": DEEPSPEED, "run.sbatch": SBATCH})


@pytest.mark.parametrize("text", ["", "echo hello\n", "\x00\x01binary", '"unclosed $(', "a=(1 2"])
def test_a_file_that_says_nothing_gets_a_clear_answer(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match="states nothing that a scenario needs"):
        imported(tmp_path, {"odd.sh": text})


def test_hostile_text_stays_text_in_the_scenario(tmp_path: Path) -> None:
    hostile = "export TENSOR_MODEL_PARALLEL=8\nexport PIPELINE_MODEL_PARALLEL=1\n" \
        "export PIPELINE_LAYOUT='E: {a}\ncluster: evil'\nexport MINIBS=4\nexport DGXNNODES=2\n"  # fmt: skip
    found = imported(tmp_path, {"config_H100 $(touch HACKED).sh": hostile})
    assert "\ncluster: evil" not in found.text
    with pytest.raises(InputError, match="8 # x is not a whole number"):
        imported(tmp_path, {"config_H100 $(touch HACKED).sh": hostile.replace("PARALLEL=8", "PARALLEL='8 # x'")})
    assert not Path("HACKED").exists()


def test_unknown_values_are_told_and_not_guessed(tmp_path: Path) -> None:
    script = "python pretrain_gpt.py --tensor-model-parallel-size $TP --micro-batch-size 1 --seq-length 4096\n"
    found = imported(tmp_path, {"run.sh": script})
    assert (
        "run.sh:1: the value of --tensor-model-parallel-size is not told by the file; plan.tp is left out"
        in found.notes
    )


def test_what_stands_in_a_branch_is_marked(tmp_path: Path) -> None:
    script = "if [ $BIG = 1 ]; then\n  TP=8\nfi\npython pretrain_gpt.py --tensor-model-parallel-size $TP --bf16\n"
    assert read_script(script).variables["TP"].branch
    exports = "export MINIBS=4\nif [ $BIG = 1 ]; then\n  export TENSOR_MODEL_PARALLEL=8\nfi\nexport DGXNNODES=2\n"
    assert "config.sh:3 (in a branch)" in imported(tmp_path, {"config.sh": exports}).text


@pytest.mark.parametrize(
    ("written", "pattern"),
    [
        ("([0]*1+[1]*3)", [0, 1, 1, 1]),
        (2, [1, 0, 1, 0]),
        ("[0,1]*2", [0, 1, 0, 1]),
        ("__import__('os')", None),
        ("[0]*10**9", None),
    ],
)
def test_layers_with_experts_by_megatrons_expression(written: object, pattern: list[int] | None) -> None:
    assert layer_pattern(written, 4) == pattern


# -- the verb -------------------------------------------------------------------------------------------------------


def test_a_hugging_face_path_is_read_from_where_the_scenario_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given from the current folder, written from that of --out."""
    for name in ("hf", "out"):
        (tmp_path / name).mkdir()
    (tmp_path / "hf" / "config.json").write_text('{"architectures": ["LlamaForCausalLM"], "vocab_size": 1}')
    (tmp_path / "ds.json").write_text(DEEPSPEED)
    monkeypatch.chdir(tmp_path)
    found = import_launch([Path("ds.json"), Path("hf/config.json")], (), Path("out"))
    assert f"huggingface: {os.path.join('..', 'hf', 'config.json')}" in found.text


def test_the_verb_writes_a_file_once_and_lists_what_to_fill_in(tmp_path: Path) -> None:
    (tmp_path / "ds.json").write_text(DEEPSPEED)
    out = tmp_path / "s.yaml"
    done = traincast("import", str(tmp_path / "ds.json"), "--out", str(out))
    assert done.returncode == 0
    assert "to fill in: model" in done.stderr
    assert "sharding: full" in out.read_text()
    again = traincast("import", str(tmp_path / "ds.json"), "--out", str(out))
    assert (again.returncode, "exists" in again.stderr) == (2, True)
