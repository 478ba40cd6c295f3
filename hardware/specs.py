"""What a cluster is made of, as frozen values in SI units: accelerator, node, fabric, cluster."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

from hardware.precisions import half_precision_peak
from hardware.problems import one_of

ScaleUpKind = Literal["nvswitch", "mesh", "cube_mesh"]
Cooling = Literal["air", "liquid", "immersion"]
NicTechnology = Literal["infiniband", "roce", "efa", "efa_v1", "tcpx", "tcpxo", "omnipath"]
FabricKind = Literal["rail_optimized", "clos", "multi_plane", "dragonfly", "torus", "single_switch", "custom"]
# The generations that can be priced. Where the collectives of one were not measured (Volta, processors), or NCCL does
# not know it, those of the closest or of `STAND_IN` are assumed: RCCL's tuner has the form of NCCL's.
GENERATIONS = ("volta", "ampere", "hopper", "blackwell", "cdna3", "cdna4", "cpu")
STAND_IN = "hopper"
_CLOSER = {"cdna4": "cdna3"}
# Flows of one GPU to a peer, which hashing spreads over equal links: 16 (Llama 3 paper, section 3.3.1).
FLOWS_PER_PORT = 16


def priced_as(generation: str, measured: Collection[str]) -> str:
    """The generation itself where it is among the `measured` ones, else the one that stands in for it.

    ValueError for a generation that is not known at all.
    """
    if generation in measured:
        return generation
    if generation not in GENERATIONS:
        raise ValueError(f"generation: {one_of(generation, GENERATIONS)}")
    closer = _CLOSER.get(generation, STAND_IN)
    return closer if closer in measured else STAND_IN


@dataclass(frozen=True, slots=True)
class Origin:
    """The part that another takes its kernel curves and fitted corrections from, and the figures they stand for.

    `name`: the catalogue part whose corrections hold. A part's rates are scaled by its own peaks and watts over these.
    `same_generation`: kernels of the part's own generation were measured; otherwise a sibling's stand in.
    """

    name: str
    peak_flops_per_s: Mapping[str, float]
    memory_bandwidth_bytes_per_s: float
    power_w: float
    same_generation: bool = True


@dataclass(frozen=True, slots=True)
class Accelerator:
    """One GPU as its vendor ships it.

    `peak_flops_per_s` holds dense peaks by number format; a missing format is one the part cannot compute in.
    `memory_capacity_bytes` is what a framework can allocate from, a little below what the label says.
    `kernels` names the measured kernel set that prices its operators and `kernel_scale` says by how much that
    set's compute throughput is scaled where the set was measured on a sibling part (1.0: on this very part).
    `power_limit_w`: a cap below the part's TDP (None: none). `origin`: whose curves and corrections these are (None:
    its own). `data_sheet`: peaks of the shipped part that this one changes (None: its own are its data sheet's);
    `base` is that part's name, and `own_keys` what is written on top of it, as "tdp" or "peak.bf16".
    """

    name: str
    generation: str
    peak_flops_per_s: Mapping[str, float]
    memory_capacity_bytes: float
    memory_bandwidth_bytes_per_s: float
    sm_count: int
    tdp_w: float
    idle_w: float
    host_bandwidth_bytes_per_s: float
    kernels: str
    kernel_scale: float = 1.0
    price_usd_per_hour: float | None = None
    sources: Mapping[str, str] = field(default_factory=dict)
    power_limit_w: float | None = None
    origin: Origin | None = None
    data_sheet: Mapping[str, float] | None = None
    base: str | None = None
    own_keys: tuple[str, ...] = ()

    @property
    def mfu_peak_flops_per_s(self) -> float:
        """The dense 16-bit peak that MFU refers to: the data sheet's, whatever a scenario makes of a shipped part."""
        return half_precision_peak(self.data_sheet or self.peak_flops_per_s)

    @property
    def power_w(self) -> float:
        """Watts that the part may draw for long: its TDP, or the cap below it."""
        return self.tdp_w if self.power_limit_w is None else min(self.tdp_w, self.power_limit_w)

    @property
    def corrected_as(self) -> str:
        """The catalogue part whose fitted corrections hold for this one, in small letters."""
        return (self.origin.name if self.origin else self.name).lower()


@dataclass(frozen=True, slots=True)
class ScaleUp:
    """The fast domain that joins `domain_gpus` GPUs: NVSwitch, an all-to-all mesh, or a cube mesh.

    Bandwidth is per GPU and per direction. `installed_gpus`: what the domain has where a job uses `domain_gpus` of it
    only (None: the same). `multicast` says whether the switches reduce and replicate (NVLS).
    """

    kind: ScaleUpKind
    domain_gpus: int
    bandwidth_bytes_per_s: float
    latency_s: float
    multicast: bool
    installed_gpus: int | None = None


@dataclass(frozen=True, slots=True)
class Nic:
    """The scale-out port of one GPU: bandwidth per GPU and per direction, one-way latency of the NIC pair."""

    technology: NicTechnology
    bandwidth_bytes_per_s: float
    latency_s: float


@dataclass(frozen=True, slots=True)
class Node:
    """A server (operating-system image): its GPUs, their scale-up domain, their NICs, and what else draws power.

    `gpus` counts the GPUs of one server; `scale_up.domain_gpus` may span several servers (NVL72). `host_memory_bytes`
    is what its CPUs address, `nvme_bytes_per_s` what its local drives read or write together (None: not known).
    `cooling` decides the power and water usage effectiveness that are assumed where a cluster names none.
    """

    name: str
    accelerator: Accelerator
    gpus: int
    scale_up: ScaleUp
    nic: Nic
    overhead_power_w: float
    cpu_vendor: Literal["intel", "amd", "nvidia"] = "intel"
    host_memory_bytes: float | None = None
    nvme_bytes_per_s: float | None = None
    sources: Mapping[str, str] = field(default_factory=dict)
    cooling: Cooling = "air"


@dataclass(frozen=True, slots=True)
class SwitchTier:
    """One layer of switches, lowest first.

    `oversubscription` is downlink over uplink capacity (1.0: non-blocking); `latency_s` is what crossing this
    tier and coming back down adds one way; `reach_gpus` how many GPUs sit below one block of this tier.
    """

    name: str
    radix: int
    port_bandwidth_bytes_per_s: float
    oversubscription: float
    latency_s: float
    reach_gpus: int


@dataclass(frozen=True, slots=True)
class Fabric:
    """The scale-out network by tiers. `planes` separate networks carry equal shares (multi-plane fat trees).

    `rails`: leaf switches join equal local indices of many nodes. `adaptive_routing`: packets are sprayed over
    equal paths; otherwise flows are hashed, `flows_per_port` of each GPU at once to a peer. `in_network_reduction`: the
    switches can reduce (SHARP), and `collnet` says that jobs have them do it (NCCL_COLLNET_ENABLE=1, NCCL's default
    being 0). `graph` is the file of a fabric of kind custom.
    """

    name: str
    kind: FabricKind
    tiers: tuple[SwitchTier, ...]
    rails: bool
    planes: int
    adaptive_routing: bool
    in_network_reduction: bool
    cost_usd_per_endpoint: float | None = None
    power_w_per_endpoint: float = 0.0
    sources: Mapping[str, str] = field(default_factory=dict)
    flows_per_port: int = FLOWS_PER_PORT
    collnet: bool = False
    graph: str = ""


@dataclass(frozen=True, slots=True)
class Failed:
    """Parts of the network that are broken and not yet repaired.

    `links`: NIC links, each on a server of its own; `rails`: leaf switches of whole rails; `spines`: switches that the
    leaves' uplinks lead to, each of which has one uplink of every leaf.
    """

    links: int = 0
    rails: int = 0
    spines: int = 0

    @property
    def lost_nics(self) -> int:
        """NICs that the worst server cannot use."""
        return self.rails + min(self.links, 1)


@dataclass(frozen=True, slots=True)
class Cluster:
    """`gpus` GPUs in equal nodes on one fabric.

    `pue` and `water_l_per_kwh` (of IT energy) None: the usual ones of the servers' cooling (hardware.facility).
    `efficiencies` is the file of collective coefficients measured on it (empty: the shipped ones). `failed`: what of
    its network is broken.
    """

    name: str
    gpus: int
    node: Node
    fabric: Fabric
    storage_write_bytes_per_s: float | None = None
    storage_read_bytes_per_s: float | None = None
    pue: float | None = None
    efficiencies: str = ""
    water_l_per_kwh: float | None = None
    failed: Failed = Failed()

    @property
    def accelerator(self) -> Accelerator:
        return self.node.accelerator

    @property
    def nodes(self) -> int:
        return -(-self.gpus // self.node.gpus)
