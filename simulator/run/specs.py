"""What a whole run is: work, machines, checkpoints, failures, recovery, money and power, as frozen values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from simulator.fields import Setting, setting
from simulator.run.checkpoints import CheckpointPolicy, SavePaths
from simulator.run.fault_log import LogRow
from simulator.run.faults import FailureModel, Machines
from simulator.run.uncertainty import CERTAIN, Uncertainty

MOST_NODES, MOST_RUNS, MOST_WORKERS = 1_000_000, 1_000_000, 1024
# Causes of time down, in the order in which a stop goes through them.
DOWN = ("detection", "planned", "waiting", "restart")
LOSSES = ("lost_work", "detection", "waiting", "restart", "checkpoint", "slow", "shrunk", "planned")


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of the run with one batch and one step time: a ramp step, the main phase, the long-context phase.

    After every `evaluation_every_steps` steps (None: never) it pauses for `evaluation_pause_s`.
    """

    name: str
    tokens: float
    tokens_per_step: float
    step_time_s: float
    evaluation_every_steps: int | None = None
    evaluation_pause_s: float = 0.0

    @property
    def steps(self) -> int:
        return math.ceil(self.tokens / self.tokens_per_step - 1e-9)

    @property
    def evaluation_s(self) -> float:
        """All pauses for evaluation together."""
        if self.evaluation_every_steps is None:
            return 0.0
        return self.steps // self.evaluation_every_steps * self.evaluation_pause_s

    @property
    def work_s(self) -> float:
        """Steps and pauses for evaluation, without failures and saves."""
        return self.steps * self.step_time_s + self.evaluation_s


@dataclass(frozen=True, slots=True)
class Restart:
    """From nodes in place to the first useful step, without the loading of the checkpoint (its tier knows that).

    Communicators take `init_s_per_gpu` per GPU of the job: 0.003 for an O(n) bootstrap (MegaScale: under 30 s above
    10,000 GPUs), 0.5 for a single TCP store (MegaScale: 1,047 s at 2,048; DeepSpeed on Aurora: 0.53 s per rank).
    Process start and warm-up are assumed; with detection and a hot swap they make some 4 min on 10,000 GPUs, beside the
    3.7 min median that OLMo Hybrid reports (its mean, 38.9 min, has a tail of manual repairs that is not modelled).
    """

    process_start_s: float = setting(
        60.0, Setting("From nodes in place to Python running on all of them; assumed.", "2 min", least=0)
    )
    init_s_per_gpu: float = setting(
        0.003,
        Setting(
            "What communicators take to initialise, per GPU of the job (MegaScale: under 30 s above 10,000 GPUs).",
            "3 ms",
            key="init_per_gpu",
            dimension="s",
            least=0,
        ),
    )
    warm_up_s: float = setting(
        60.0, Setting("From communicators to steps at full speed: compilation, caches; assumed.", "30 s", least=0)
    )

    def seconds(self, gpus: int) -> float:
        return self.process_start_s + self.init_s_per_gpu * gpus + self.warm_up_s


@dataclass(frozen=True, slots=True)
class Recovery:
    """What replaces a lost node, and what the job does meanwhile.

    A hot spare takes over in `hot_swap_s`; a cold one needs `cold_start_s`, and one starts to warm up as soon as a
    hot one is used. With no node within `patience_s` the job waits for the first to come back ("wait") or goes on
    with fewer data-parallel replicas ("shrink"), no fewer than `min_replicas`, and grows again at once or at the
    next restart. A node that failed `evict_after` times (None: never) is not taken back. Slow nodes are replaced
    once detected if `evict_slow`. `maintenance_every_s` stops everything for `maintenance_s` (None: never).
    """

    hot_spares: int = setting(
        0,
        Setting(
            "Spare nodes that run and wait; auto: as many as make the run take the fewest GPU-hours, theirs included.",
            16,
            key="hot",
            least=0,
            most=MOST_NODES,
            auto="auto",
        ),
    )
    cold_spares: int = setting(
        0, Setting("Spare nodes that must start first.", 32, key="cold", least=0, most=MOST_NODES)
    )
    spares_within_cluster: bool = setting(
        False,
        Setting(
            "Whether spare nodes are among cluster.gpus, which then counts all that is bought, or on top of them. "
            "Within, their number must be given.",
            False,
            key="within",
        ),
    )
    hot_swap_s: float = setting(
        60.0, Setting("Until a hot spare is in a lost node's place.", "90 s", least=0, believed=("0 s", "7 d"))
    )
    cold_start_s: float = setting(
        1800.0, Setting("Until a cold spare is in a lost node's place.", "20 min", least=0, believed=("0 s", "90 d"))
    )
    when_short: Literal["wait", "shrink"] = setting(
        "wait", Setting("Without enough nodes: wait for one, or go on with fewer data-parallel replicas.", "shrink")
    )
    patience_s: float = setting(
        0.0, Setting("How long a job that can shrink waits for a node first, at least a hot swap.", "10 min", least=0)
    )
    min_replicas: int = setting(
        1,
        Setting(
            "The fewest replicas that a job that can shrink goes on with; those that share nodes or experts are one.",
            8,
            most=MOST_NODES,
        ),
    )
    regrow: Literal["at-once", "at-restart"] = setting(
        "at-restart",
        Setting("When a job that shrank takes nodes back: when they return, or at the next restart.", "at-once"),
    )
    evict_after: int | None = setting(
        None, Setting("A node that failed so often is not taken back; without it, every node is.", 3, most=MOST_NODES)
    )
    evict_slow: bool = setting(True, Setting("Whether slow nodes are replaced once they are detected.", False))
    maintenance_every_s: float | None = setting(
        None,
        Setting("From the start of one maintenance to that of the next.", "7 d", key="every", required=True),
    )
    maintenance_s: float = setting(
        0.0, Setting("How long a maintenance stops everything.", "1 h", key="lasts", required=True)
    )

    @property
    def spares(self) -> int:
        return self.hot_spares + self.cold_spares

    @property
    def wait_before_shrinking_s(self) -> float:
        """How long a job that can shrink waits for a node: its patience, and a hot swap in any case."""
        return max(self.patience_s, self.hot_swap_s)


@dataclass(frozen=True, slots=True)
class RunPrices:
    """What time and energy cost. Rented: `gpu_hour_usd` covers everything. Owned: capital over its life, and power.

    With both, the run is paid for as an owner does, and what rent would have been stands beside it.
    `network_usd_per_gpu_hour` and `storage_usd_per_hour` come on top of either. `carbon_kg_per_kwh` is the grid's.
    """

    gpu_hour_usd: float | None = setting(
        None,
        Setting(
            "Rent of a GPU, which covers everything; without it, the catalogue's price of the accelerator.",
            "2.5 USD/h",
            key="gpu_hour",
            dimension="usd_per_hour",
            believed=("0.01 USD/h", "200 USD/h"),
        ),
    )
    capital_usd_per_gpu: float = setting(
        0.0,
        Setting(
            "Price of an owned GPU with its share of everything; rent is then shown beside the owner's cost.",
            "30 kUSD",
            key="capital_per_gpu",
            dimension="usd",
            least=0,
            believed=("0 USD", "1 MUSD"),
        ),
    )
    life_s: float = setting(
        4 * 365.25 * 86400.0,
        Setting("Over which the capital is written off; assumed.", "4 years", believed=("90 d", "30 years")),
    )
    utilisation_fraction: float = setting(
        1.0,
        Setting(
            "Share of their life in which owned machines work: the rest of the capital falls on that time too.",
            "80%",
            key="utilisation",
            dimension="fraction",
            most=1.0,
        ),
    )
    electricity_usd_per_kwh: float = setting(
        0.0,
        Setting(
            "Price of electricity at the meter, for owned machines.",
            "80 USD/MWh",
            least=0,
            believed=("0 USD/kWh", "2 USD/kWh"),
        ),
    )
    water_usd_per_m3: float = setting(
        0.0,
        Setting(
            "Price of the water that cooling takes, for owned machines.",
            "2 USD/m3",
            key="water",
            dimension="usd_per_m3",
            least=0,
        ),
    )
    network_usd_per_gpu_hour: float = setting(
        0.0,
        Setting(
            "Price of the network on top, per GPU.",
            "0.05 USD/h",
            key="network_per_gpu",
            dimension="usd_per_hour",
            least=0,
        ),
    )
    storage_usd_per_hour: float = setting(
        0.0, Setting("Price of the shared storage on top, as a whole.", "40 USD/h", least=0)
    )
    carbon_kg_per_kwh: float | None = setting(
        None, Setting("CO2 of the grid's electricity.", "380 g/kWh", least=0, believed=("0 kg/kWh", "2 kg/kWh"))
    )
    pay_unused_slots: bool = setting(
        True,
        Setting(
            "Whether a job that spans several scale-up domains (NVL72) pays for the GPUs it leaves unused in them.",
            False,
        ),
    )


@dataclass(frozen=True, slots=True)
class Power:
    """Watts per GPU with its share of the node and the fabric: training, and stopped or standing by; and the PUE.

    `server_w` and `fabric_w` are the shares within both. `step_w` splits what the GPU itself draws while training by
    cause of the step (empty: not split). `waiting_w` is drawn while the job hangs in a collective (None: `idle_w`).
    `water_l_per_kwh` is taken per kWh of IT energy; `liquid_fraction` of the servers' heat leaves them in a liquid.
    """

    busy_w: float
    idle_w: float
    pue: float = 1.0
    server_w: float = 0.0
    fabric_w: float = 0.0
    step_w: Mapping[str, float] = field(default_factory=dict)
    waiting_w: float | None = None
    water_l_per_kwh: float = 0.0
    liquid_fraction: float = 0.0

    @property
    def gpu_step_w(self) -> Mapping[str, float]:
        """What one GPU draws in the mean over a step, by cause."""
        return self.step_w or {"training": self.busy_w - self.server_w - self.fabric_w}

    @property
    def gpu_idle_w(self) -> float:
        return self.idle_w - self.server_w - self.fabric_w

    @property
    def gpu_spinning_w(self) -> float:
        """What one GPU draws while it waits in a collective that nobody ends."""
        waiting_w = self.idle_w if self.waiting_w is None else self.waiting_w
        return waiting_w - self.server_w - self.fabric_w


@dataclass(frozen=True, slots=True)
class Simulation:
    """How many runs are drawn, from which seed, on how many processes, and when a run is given up.

    A run whose work stays below `give_up_fraction` of its wall time is answered with "does not finish".
    """

    runs: int = setting(200, Setting("How many runs are drawn and played.", 1000, most=MOST_RUNS))
    seed: int = setting(0, Setting("Where the random numbers start.", 7, least=0, most=MOST_RUNS))
    workers: int = setting(1, Setting("Processes that share the runs; the result is the same.", 4, most=MOST_WORKERS))
    give_up_fraction: float = setting(
        0.1,
        Setting(
            "A run whose useful time stays below this share is answered with 'does not finish'.",
            "5%",
            key="give_up_below",
            dimension="fraction",
            below=1.0,
        ),
    )


@dataclass(frozen=True, slots=True)
class RunSpec:
    """One whole training run on one cluster.

    `replicas` data-parallel replicas share `job_nodes`; `replica_speed[r]` is the speed with r of them as a fraction
    of full speed, r = 0 ... replicas (None: r / replicas, the global batch being kept), asked only for counts that
    occur. Rows of a `fault_log` are replayed for the `fault_log_s` that it covers (None: as far as it was seen to);
    only beyond are faults drawn from the failure model, then the log's own. `drawn_spares` (None: its own)
    is the number of spares for which faults are drawn first: runs that agree in it meet the same faults, however many
    spares each has.
    `unused_gpus` are paid for beside the job's and the spares', and switched off.
    `assumptions` name inputs that nobody gave; `uncertainty` is what the step time and the failure rate may be off.
    """

    segments: tuple[Segment, ...]
    job_nodes: int
    gpus_per_node: int
    replicas: int
    checkpoint: CheckpointPolicy
    paths: SavePaths
    failures: FailureModel
    recovery: Recovery = Recovery()
    restart: Restart = Restart()
    prices: RunPrices | None = None
    power: Power | None = None
    simulation: Simulation = Simulation()
    replica_speed: Sequence[float] | None = None
    nodes_per_rack: int = 1
    nodes_per_pod: int = 1
    fault_log: tuple[LogRow, ...] = ()
    fault_log_s: float | None = None
    drawn_spares: int | None = None
    unused_gpus: int = 0
    assumptions: tuple[str, ...] = ()
    uncertainty: Uncertainty = CERTAIN

    def __post_init__(self) -> None:
        if self.job_nodes % self.replicas:
            raise ValueError(
                f"{self.replicas} replicas do not share {self.job_nodes} nodes evenly: give a divisor of the node count"
            )
        if not 1 <= self.recovery.min_replicas <= self.replicas:
            raise ValueError(f"min_replicas must be between 1 and the {self.replicas} replicas of the job")
        if self.replica_speed is not None and len(self.replica_speed) != self.replicas + 1:
            raise ValueError(f"replica_speed needs {self.replicas + 1} entries, for 0 ... {self.replicas} replicas")

    @property
    def nodes_per_replica(self) -> int:
        return self.job_nodes // self.replicas

    @property
    def machines(self) -> Machines:
        spares = self.recovery.spares
        return Machines(self.job_nodes, spares, self.gpus_per_node, self.nodes_per_rack, self.nodes_per_pod)

    @property
    def drawn_machines(self) -> Machines:
        """Machines whose faults are drawn first; see `drawn_spares`."""
        return self.machines if self.drawn_spares is None else replace(self.machines, spare_nodes=self.drawn_spares)

    @property
    def work_s(self) -> float:
        """Wall time if nothing ever broke and nothing were saved, evaluation included."""
        return sum(segment.work_s for segment in self.segments)

    @property
    def evaluation_fraction(self) -> float:
        """Share of the work that is evaluation."""
        return sum(segment.evaluation_s for segment in self.segments) / self.work_s

    @property
    def tokens(self) -> float:
        return sum(segment.tokens for segment in self.segments)

    @property
    def longest_step_s(self) -> float:
        return max(segment.step_time_s for segment in self.segments)

    @property
    def job_gpus(self) -> int:
        return self.job_nodes * self.gpus_per_node

    @property
    def gpus(self) -> int:
        """All GPUs that run: the job's and the spares'."""
        return self.machines.nodes * self.gpus_per_node

    @property
    def paid_gpus(self) -> int:
        """All GPUs paid for: those that run, and unused slots of scale-up domains that spares do not fill."""
        return max(self.gpus, self.job_gpus + self.unused_gpus)

    @property
    def restart_s(self) -> float:
        return self.restart.seconds(self.job_gpus)

    def speeds(self) -> Sequence[float]:
        if self.replica_speed is not None:
            return self.replica_speed
        return tuple(r / self.replicas for r in range(self.replicas + 1))
