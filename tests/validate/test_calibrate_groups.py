"""Groups of ranks: which are measured, how they are counted, and what happens when a rank is lost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from simulator.scenario.schema import load_scenario
from validate.calibrate.cases import GRIDS, collective_cases, groups_wanted
from validate.calibrate.measuring.group_sweep import join, skewed_shares
from validate.calibrate.options import VerbOptions
from validate.calibrate.points import Points
from validate.calibrate.torch_ranks import PeerLost, RankPlace, free_port, slurm_job

torch = pytest.importorskip("torch")

ROOT = Path(__file__).parents[2]


def wanted(world: int, per_node: int, scenario: object = None) -> set[tuple[int, int]]:
    return {(each.ranks, each.stride) for each in groups_wanted(world, per_node, scenario)}  # type: ignore[arg-type]


def test_everybody_a_node_and_one_rank_of_each_node() -> None:
    assert wanted(32, 8) == {(32, 1), (8, 1), (4, 8)}
    assert wanted(8, 8) == {(8, 1), (4, 1), (4, 2)}
    assert wanted(2, 2) == {(2, 1)}


def test_the_groups_of_a_plan_are_measured_as_far_as_the_machine_holds_them() -> None:
    plan = load_scenario(
        ROOT / "scenarios/tiny.yaml", ["plan.tp=2", "plan.pp=1", "plan.ep=4", "plan.sequence_parallel=true"]
    )
    found = wanted(8, 8, plan)
    assert {(2, 1), (4, 2), (4, 1), (2, 4)} <= found, "tp, strided dp, folded ep, and expert data parallelism"
    large = load_scenario(ROOT / "scenarios/deepseek-v3-2048xh800.yaml")
    assert all(ranks * stride <= 16 for ranks, stride in wanted(16, 8, large))


def test_sizes_run_from_8_bytes_to_16_gib() -> None:
    sizes = GRIDS["cuda"].sizes_bytes
    assert (sizes[0], sizes[-1]) == (8, 16 * 2**30)
    cases = list(collective_cases("cuda", 8, 1, 1, 1))
    assert {case.shape["operation"] for case in cases} >= {"all_reduce", "all_gather", "reduce_scatter", "all_to_all",
                                                           "all_to_all_skewed", "broadcast", "send_recv"}  # fmt: skip


@pytest.mark.parametrize(("elements", "ranks"), [(64, 4), (2, 2), (8, 8), (1024, 3), (5, 1)])
def test_skewed_shares_send_everything_and_most_to_the_first(elements: int, ranks: int) -> None:
    shares = skewed_shares(elements, ranks)
    assert sum(shares) == elements
    assert len(shares) == ranks
    assert min(shares) >= 0
    assert shares[0] == max(shares)


@pytest.mark.skipif(torch.distributed.is_nccl_available(), reason="needs a torch without NCCL")
def test_a_torch_without_nccl_is_told() -> None:
    with pytest.raises(PeerLost, match="no NCCL"):
        join(RankPlace(0, 2, 2), SimpleNamespace(type="cuda"))


def test_ranks_that_do_not_come_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    with pytest.raises(PeerLost, match="did not come together"):
        join(RankPlace(0, 2, 2), torch.device("cpu"), timeout_s=1.0)


DYING = """
import os, sys
from pathlib import Path
from validate.calibrate import torch_ranks as ranks
from validate.calibrate.measuring import group_sweep, session
from validate.calibrate.options import Options

def dying_at_the_fourth(options):
    if ranks.rank_place().rank == 1:
        measure_case = group_sweep.GroupSweep._measure_case
        def dying(self, case, communicator, count=[0]):
            count[0] += 1
            if count[0] == 4:
                os._exit(9)
            measure_case(self, case, communicator)
        group_sweep.GroupSweep._measure_case = dying
    return session.calibrate(options, clock=lambda: 0.0)

if __name__ == "__main__":
    options = Options(Path(sys.argv[1]), device="cpu", case_s=0.005, parts=("collectives",), shared=True)
    try:
        ranks.on_ranks(dying_at_the_fourth, options, 2)
    except ranks.PeerLost as error:
        print("LOST", error)
"""


def test_a_rank_that_dies_mid_collective_ends_the_others_and_keeps_the_points(tmp_path: Path) -> None:
    script = tmp_path / "dying.py"
    script.write_text(DYING)
    command = [sys.executable, str(script), str(tmp_path / "profile")]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
    assert "LOST a rank ended" in ended.stdout, ended.stderr
    usable = Points(tmp_path / "profile" / "points.jsonl").usable()
    assert len([point for point in usable if point.family == "collective"]) == 3


def environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def test_the_slurm_file_starts_one_rank_per_gpu_and_quotes_its_arguments(tmp_path: Path) -> None:
    asked = VerbOptions(tmp_path / "my profile", tmp_path / "a.yaml", ("plan.tp=2",), part="h100-sxm-80gb", processes=8,
                  slurm_nodes=16, budget_s=900)  # fmt: skip
    text = slurm_job(asked)
    assert "#SBATCH --nodes=16" in text
    assert "--nproc-per-node=8" in text
    assert f"--out '{tmp_path}/my profile'" in text
    assert "--set plan.tp=2 --part h100-sxm-80gb" in text
    assert "#SBATCH --time=30" in text
    checked = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=False)
    assert checked.returncode == 0, checked.stderr


def test_the_slurm_files_arguments_are_those_of_the_module(tmp_path: Path) -> None:
    import shlex

    from validate.calibrate.__main__ import parsed

    asked = VerbOptions(tmp_path / "p", tmp_path / "a.yaml", ("plan.tp=2", "plan.pp=1"), processes=8, slurm_nodes=2)
    line = slurm_job(asked).split("-m validate.calibrate ")[1]
    options = parsed(shlex.split(line))
    assert options.overrides == ("plan.tp=2", "plan.pp=1")
    assert options.budget_s == asked.budget_s
    assert options.out == tmp_path / "p"
