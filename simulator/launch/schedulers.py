"""The schedulers that a launch can be written for: one function each, from the job to its files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from simulator.launch.job import Job
from simulator.launch.kubernetes import config_map_name, objects
from simulator.launch.text import render


@dataclass(frozen=True, slots=True)
class Work:
    """What a scheduler starts: the job and the names of the target's files, `train.sh` among them."""

    scenario_name: str
    job: Job
    vendor: str
    fault_tolerant: bool
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Scheduler:
    """One scheduler: its files, the commands that start the job, and what must be there."""

    write: Callable[[Work], dict[str, str]]
    start: Callable[[Work], tuple[str, ...]]
    needs: str


_LIST_GPUS = {"nvidia": "nvidia-smi --list-gpus", "amd": "rocm-smi --showid --csv", "none": "yes | head -n 64"}


def _slurm(work: Work) -> dict[str, str]:
    text = render(
        "job.sbatch.j2",
        scenario_name=work.scenario_name,
        job=work.job,
        fault_tolerant=work.fault_tolerant,
        list_gpus=_LIST_GPUS[work.vendor],
    )
    return {"job.sbatch": text}


def _kubernetes(work: Work) -> dict[str, str]:
    return objects(work.job, work.vendor)


def _torchrun(work: Work) -> dict[str, str]:
    return {
        "start.sh": render("start.sh.j2", job=work.job),
        "hosts.txt": render("hosts.txt.j2", job=work.job),
    }


def _start_kubernetes(work: Work) -> tuple[str, ...]:
    files = " ".join(f"--from-file={name}" for name in work.files)
    return (
        f"kubectl create configmap {config_map_name(work.job)} {files}",
        "kubectl apply -f trainjob.yaml",
        "kubectl apply -f jobset.yaml   (instead, without Kubeflow Trainer)",
    )


def _start_slurm(work: Work) -> tuple[str, ...]:
    return ("sbatch --account=ACCOUNT --partition=PARTITION job.sbatch",)


def _start_torchrun(work: Work) -> tuple[str, ...]:
    return ("bash start.sh", "NODE_RANK=n MASTER_ADDR=first-host bash train.sh   (instead, on every host)")


SCHEDULERS: dict[str, Scheduler] = {
    "slurm": Scheduler(
        _slurm,
        _start_slurm,
        "Slurm 22.05 or later (--segment: 23.11 with topology/block); pyxis where a container is named",
    ),
    "kubernetes": Scheduler(
        _kubernetes,
        _start_kubernetes,
        "Kubeflow Trainer v2 or JobSet, and your image in place of REPLACE-WITH-YOUR-IMAGE; Kueue's topology-aware "
        "scheduling for the placement, with your cluster's labels in place of those in the annotations; where a "
        "scale-up domain spans servers (NVL72), a ComputeDomain of NVIDIA's resource driver, so that NVLink joins pods",
    ),
    "torchrun": Scheduler(_torchrun, _start_torchrun, "ssh without a password between the hosts of hosts.txt"),
}
