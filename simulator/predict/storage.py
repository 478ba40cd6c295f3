"""The shared storage that a run saves to: as the cluster says, else an assumed one of its size."""

from __future__ import annotations

from dataclasses import dataclass

from hardware.specs import Cluster

# NVIDIA's H100 reference architecture, best tier, per 256 GPUs.
WRITE_BYTES_PER_S = 62e9 / 256
READ_BYTES_PER_S = 125e9 / 256
SOURCE = "assumed: NVIDIA's H100 reference architecture, best tier: 62 GB/s written and 125 GB/s read per 256 GPUs"


@dataclass(frozen=True, slots=True)
class Storage:
    """Bandwidths of the whole storage, and which of them nobody gave."""

    write_bytes_per_s: float
    read_bytes_per_s: float
    assumed: tuple[str, ...]


def storage_of(cluster: Cluster) -> Storage:
    """The cluster's storage, with what it leaves open assumed."""
    write, read = cluster.storage_write_bytes_per_s, cluster.storage_read_bytes_per_s
    given = {"storage_write": write, "storage_read": read}
    return Storage(
        write_bytes_per_s=write or WRITE_BYTES_PER_S * cluster.gpus,
        read_bytes_per_s=read or READ_BYTES_PER_S * cluster.gpus,
        assumed=tuple(key for key, bandwidth in given.items() if not bandwidth),
    )
