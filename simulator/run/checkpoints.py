"""Checkpoint policies: what a save costs, when it is safe, what it survives, and how long it takes to load."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from simulator.fields import Setting, setting
from simulator.run.work_clock import SaveGrid

PolicyName = Literal["none", "sync", "sharded", "async", "in-memory", "tiered"]
# What a save stops beside its copy to host memory (planning, agreeing, launching). Asynchronous: DCP left under 0.5 s
# of 50 s for 8B parameters on 512 H100, Nemotron 3 under 1 s of 60 s. In memory: ByteRobust (arXiv 2509.16293) saves
# every step at 0.01 to 0.04 s.
ASYNC_OVERHEAD_S = 0.5
MEMORY_OVERHEAD_S = 0.02
# One NVMe drive of a node shared by its GPUs would be less, one each more; assumed.
LOCAL_BYTES_PER_S = 3e9
# torch.save is bound by one process's serialisation; assumed.
WRITER_BYTES_PER_S = 2e9
POLICY_HELP = (
    "How the training state is saved. none: never; sync: the ranks of one replica write while all wait; sharded: all "
    "write their share while all wait; async: all wait for the copy to host memory only; in-memory: copies on a peer "
    "node before asynchronous storage; tiered: local drives before asynchronous storage."
)
# How often practice saves to shared storage. Llama 3's goodput above 90 % leaves 16.7 min per interruption, of which a
# restart takes about half: 15 min lose the other half (arXiv 2407.21783). Research clusters of Meta project with 60 min
# (arXiv 2410.21680).
LEAST_EVERY_S = 900.0
EVERYTHING = 10**9  # nodes: a tier outside the cluster survives any loss within it


@dataclass(frozen=True, slots=True)
class CheckpointPolicy:
    """How the training state is saved.

    `every_s` is the interval to storage in seconds of work (None: the best one for the failure rate, see
    `checkpoint_interval.best_interval_s`, but at least `least_every_s`); `fast_every_s` that of copies in host
    memory or on local drives (None: the same rule with their cost). `peer_distance_nodes` is how far the peer of an
    in-memory copy is: it survives events of at most so many neighbouring nodes. `overhead_s` is what an
    asynchronous or in-memory save stops beside its copy to host memory (None: as measured elsewhere). The
    bandwidths are of save paths that no cluster describes.
    """

    policy: PolicyName = setting("async", Setting(POLICY_HELP, "in-memory"))
    every_s: float | None = setting(
        None,
        Setting(
            "Work between two saves to storage; auto: Daly's interval for the failure rate, at least least_every.",
            "30 min",
            auto="auto",
        ),
    )
    fast_every_s: float | None = setting(
        None,
        Setting(
            "Work between two copies in host memory or on local drives, of policies in-memory and tiered; auto: "
            "Daly's interval for what they cost.",
            "1 min",
            auto="auto",
        ),
    )
    least_every_s: float = setting(
        LEAST_EVERY_S,
        Setting(
            "How often saves to storage are allowed at most, where their interval is left open: the best interval, but "
            "not below this.",
            "30 min",
            least=0,
        ),
    )
    peer_distance_nodes: int = setting(
        1,
        Setting(
            "Nodes between a node and the peer that holds its in-memory copy: the copy survives the loss of so many "
            "neighbours at once.",
            8,
            key="peer_distance",
            most=10_000_000,
        ),
    )
    overhead_s: float | None = setting(
        None,
        Setting(
            "What a save of policy async, in-memory or tiered stops beside its copy to host memory; without it, what "
            "was measured elsewhere (0.5 s; in-memory 0.02 s).",
            "0.2 s",
            least=0,
        ),
    )
    local_bandwidth_bytes_per_s: float = setting(
        LOCAL_BYTES_PER_S, Setting("A GPU's share of its node's local drives, for policy tiered.", "6 GB/s")
    )
    writer_bandwidth_bytes_per_s: float = setting(
        WRITER_BYTES_PER_S,
        Setting("What one writing rank pushes to storage by policy sync, at most its NIC's bandwidth.", "1 GB/s"),
    )


@dataclass(frozen=True, slots=True)
class SavePaths:
    """What is saved and what carries it.

    `state_bytes` is one whole training state (weights, master weights, optimizer). `writers` GPUs hold a distinct
    piece of it (one data-parallel replica) and push it at `writer_bytes_per_s` when only they write; sharded
    policies spread it over all `gpus`. `host_bytes_per_s` (device to host) and `nic_bytes_per_s` are per GPU and
    direction, `local_bytes_per_s` is the local drive's share of one GPU; `storage_*` are totals of the shared storage.
    """

    state_bytes: float
    gpus: int
    writers: int
    storage_write_bytes_per_s: float
    storage_read_bytes_per_s: float
    writer_bytes_per_s: float
    host_bytes_per_s: float
    nic_bytes_per_s: float
    local_bytes_per_s: float


@dataclass(frozen=True, slots=True)
class CheckpointTier:
    """One place where checkpoints go.

    A save stops the job for `stall_s`, is safe `lag_s` later, takes `restore_s` to load, and survives events that
    take down at most `survives_nodes` nodes. `every_s` None: to be chosen, but at least `least_every_s`.
    """

    name: str
    every_s: float | None
    stall_s: float
    lag_s: float
    restore_s: float
    survives_nodes: int
    least_every_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Saving:
    """The tiers of a run with their final intervals (finest first, the last is storage), and the stall of a save
    on demand, before a planned stop."""

    tiers: tuple[CheckpointTier, ...]
    final_save_s: float
    warnings: tuple[str, ...] = ()

    @property
    def grid(self) -> SaveGrid:
        return SaveGrid(tuple(t.every_s or math.inf for t in self.tiers), tuple(t.stall_s for t in self.tiers))


def sharded_write_s(paths: SavePaths) -> float:
    """Every GPU writes an equal share through its NIC; the storage may be the limit."""
    return paths.state_bytes / min(paths.storage_write_bytes_per_s, paths.gpus * paths.nic_bytes_per_s)


def sharded_read_s(paths: SavePaths) -> float:
    """One copy is read from storage; what storage does not deliver is fanned out by the replicas meanwhile."""
    return paths.state_bytes / min(paths.storage_read_bytes_per_s, paths.gpus * paths.nic_bytes_per_s)


def snapshot_s(policy: CheckpointPolicy, paths: SavePaths, overhead_s: float) -> float:
    """Each GPU copies its share to host memory, besides the policy's overhead (or the usual one)."""
    overhead = overhead_s if policy.overhead_s is None else policy.overhead_s
    return overhead + paths.state_bytes / paths.gpus / paths.host_bytes_per_s


def _none(policy: CheckpointPolicy, paths: SavePaths) -> tuple[CheckpointTier, ...]:
    return (CheckpointTier("storage", math.inf, 0.0, 0.0, sharded_read_s(paths), EVERYTHING),)


def _sync(policy: CheckpointPolicy, paths: SavePaths) -> tuple[CheckpointTier, ...]:
    """One replica writes while all wait (torch.save from the ranks of the first replica)."""
    writers = paths.writers * paths.writer_bytes_per_s
    write_s = paths.state_bytes / min(paths.storage_write_bytes_per_s, writers)
    return (_storage(policy, paths, write_s, 0.0),)


def _sharded(policy: CheckpointPolicy, paths: SavePaths) -> tuple[CheckpointTier, ...]:
    """All write their shard while all wait."""
    return (_storage(policy, paths, sharded_write_s(paths), 0.0),)


def _async(policy: CheckpointPolicy, paths: SavePaths) -> tuple[CheckpointTier, ...]:
    """The job waits for the copy to host memory only; the shards are written behind its back."""
    stall = snapshot_s(policy, paths, ASYNC_OVERHEAD_S)
    return (_storage(policy, paths, stall, sharded_write_s(paths)),)


def _in_memory(policy: CheckpointPolicy, paths: SavePaths) -> tuple[CheckpointTier, ...]:
    """Host-memory copies, replicated to a peer node over the fabric, in front of asynchronous storage (GEMINI)."""
    share = paths.state_bytes / paths.gpus
    exchange = share / paths.nic_bytes_per_s
    load = exchange + share / paths.host_bytes_per_s
    stall = snapshot_s(policy, paths, MEMORY_OVERHEAD_S)
    fast = CheckpointTier("memory", policy.fast_every_s, stall, exchange, load, policy.peer_distance_nodes)
    return (fast, *_behind_memory(policy, paths))


def _tiered(policy: CheckpointPolicy, paths: SavePaths) -> tuple[CheckpointTier, ...]:
    """Local drives, which outlive the process but not the node, then storage."""
    share = paths.state_bytes / paths.gpus
    load = share / min(paths.local_bytes_per_s, paths.host_bytes_per_s)
    stall = snapshot_s(policy, paths, ASYNC_OVERHEAD_S)
    fast = CheckpointTier("local", policy.fast_every_s, stall, share / paths.local_bytes_per_s, load, 0)
    return (fast, *_behind_memory(policy, paths))


def _behind_memory(policy: CheckpointPolicy, paths: SavePaths) -> tuple[CheckpointTier, ...]:
    """Storage fed from the copy that the fast tier has already taken: no stall of its own."""
    return (_storage(policy, paths, 0.0, sharded_write_s(paths)),)


def _storage(policy: CheckpointPolicy, paths: SavePaths, stall_s: float, lag_s: float) -> CheckpointTier:
    """The shared storage, from which one copy is read."""
    restore_s = sharded_read_s(paths)
    return CheckpointTier("storage", policy.every_s, stall_s, lag_s, restore_s, EVERYTHING, policy.least_every_s)


POLICIES: Mapping[str, Callable[[CheckpointPolicy, SavePaths], tuple[CheckpointTier, ...]]] = {
    "none": _none,
    "sync": _sync,
    "sharded": _sharded,
    "async": _async,
    "in-memory": _in_memory,
    "tiered": _tiered,
}

# Copies of a GPU's share of the training state in host memory: one on its way to storage or drives, and with peers
# their share beside it (GEMINI).
HOST_COPIES: Mapping[str, int] = {"none": 0, "sync": 0, "sharded": 0, "async": 1, "in-memory": 2, "tiered": 1}
