"""A whole run small enough for tests, with everything that can go wrong in it."""

from __future__ import annotations

from dataclasses import replace

from simulator.run.checkpoints import CheckpointPolicy, SavePaths
from simulator.run.durations import exponential, fixed, lognormal
from simulator.run.faults import FailureModel, FaultClass
from simulator.run.specs import Recovery, Restart, RunSpec, Segment, Simulation

DAY = 86400.0
STATE_BYTES = 14 * 70e9


def paths(gpus: int, **changes: float) -> SavePaths:
    given = SavePaths(
        state_bytes=STATE_BYTES,
        gpus=gpus,
        writers=16,
        storage_write_bytes_per_s=100e9,
        storage_read_bytes_per_s=200e9,
        writer_bytes_per_s=2e9,
        host_bytes_per_s=50e9,
        nic_bytes_per_s=50e9,
        local_bytes_per_s=3e9,
    )
    return replace(given, **changes)


def quiet(days: float = 20.0, nodes: int = 256, every_s: float | None = 600.0, policy: str = "sharded") -> RunSpec:
    """A run in which nothing fails."""
    step_s = 10.0
    steps = days * DAY / step_s
    return RunSpec(
        segments=(Segment("main", steps * 4e6, 4e6, step_s),),
        job_nodes=nodes,
        gpus_per_node=8,
        replicas=32,
        checkpoint=CheckpointPolicy(policy, every_s),  # type: ignore[arg-type]
        paths=paths(nodes * 8),
        failures=FailureModel("none", ()),
        restart=Restart(process_start_s=100.0, init_s_per_gpu=0.0, warm_up_s=0.0),
        simulation=Simulation(runs=20),
        nodes_per_rack=4,
    )


def crashes(mtbf_s: float, gpus: int, repair_s: float = 0.0, detect_s: float = 0.0) -> FailureModel:
    """One memoryless class of crashes that hit the job every `mtbf_s` on average."""
    repair = fixed(repair_s) if repair_s else None
    scope = "node" if repair_s else "job"
    return FailureModel("one", (FaultClass("any", "crash", 1 / mtbf_s / gpus, scope, fixed(detect_s), repair),))


def stormy(policy: str = "async", every_s: float | None = None, **recovery: object) -> RunSpec:
    """A run with every kind of fault, scope and correlation, maintenance and eviction."""
    rate = 1 / (2048 * 0.4 * DAY)
    classes = (
        FaultClass("gpu", "crash", rate, "gpu", fixed(30.0), lognormal(0.85 * DAY, 5.54 * DAY)),
        FaultClass("software", "crash", rate / 4, "job", fixed(30.0), None, fixed(600.0)),
        FaultClass("hang", "hang", rate / 10, "node", fixed(600.0), exponential(DAY)),
        FaultClass("link", "slow", rate / 4, "node", lognormal(3600.0, 9000.0), exponential(DAY), None,
                   lognormal(3000.0, 9000.0), 0.75),
        FaultClass("congestion", "slow", rate / 10, "job", lognormal(3600.0, 9000.0), None, None, fixed(4000.0), 0.9),
        FaultClass("corruption", "corruption", rate / 8, "node", exponential(0.3 * DAY), exponential(DAY)),
        FaultClass("rack", "crash", rate / 80, "rack", fixed(60.0), exponential(DAY / 2), shape=0.7),
        FaultClass("preemption", "planned", rate / 50, "job", fixed(0.0), None, exponential(3600.0)),
    )  # fmt: skip
    model = FailureModel(
        "storm", classes, lemon_fraction=0.05, lemon_multiplier=8.0, swing_variance=0.4, burst_mean=0.1
    )
    given = {
        "hot_spares": 8,
        "cold_spares": 20,
        "maintenance_every_s": 7 * DAY,
        "maintenance_s": 3600.0,
        "evict_after": 3,
    }
    spec = quiet(days=10, policy=policy, every_s=every_s)
    return replace(
        spec,
        checkpoint=replace(spec.checkpoint, fast_every_s=900.0),
        failures=model,
        recovery=Recovery(**{**given, **recovery}),  # type: ignore[arg-type]
        simulation=Simulation(runs=2),
    )
