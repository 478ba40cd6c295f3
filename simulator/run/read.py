"""The policies in a scenario's `run` section: checkpoints, failures, spares, recovery, restart, prices, simulation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, cast

from hardware import units
from hardware.problems import InputError, Place
from hardware.sections import Section
from simulator.run.checkpoints import POLICIES, CheckpointPolicy, PolicyName, SavePaths
from simulator.run.fault_log import LogRow, model_of, read_log
from simulator.run.faults import FailureModel
from simulator.run.read_failures import NO_FAILURES, failure_model, preset
from simulator.run.spares import spares_needed
from simulator.run.specs import Power, Recovery, Restart, RunPrices, RunSpec, Segment, Simulation

KEYS = (
    "phases", "checkpoint", "failures", "fault_log", "spares", "recovery", "restart", "maintenance", "prices",
    "simulation",
)  # fmt: skip
DEFAULT_FAILURES = "llama-3"
INLINE = Place("inline")
MOST, MOST_WORKERS = 1_000_000, 1024


@dataclass(frozen=True, slots=True)
class RunPhase:
    """A stretch of the run with its own batch or sequence length; `tokens` None: all that the other phases leave."""

    name: str
    tokens: float | None = None
    global_batch_size: int | None = None
    seq_length: int | None = None


@dataclass(frozen=True, slots=True)
class RunPolicies:
    """What a user decides about a run; `recovery.hot_spares` None (auto) is settled when the job is known.

    `fault_log` rows replace the failure model where given. `local_bytes_per_s` and `writer_bytes_per_s` belong to the
    save paths, which the cluster does not describe. `place` is where the section stands, for messages.
    """

    phases: tuple[RunPhase, ...]
    checkpoint: CheckpointPolicy
    failures: FailureModel
    fault_log: tuple[LogRow, ...]
    recovery: Recovery
    auto_spares: bool
    restart: Restart
    prices: RunPrices | None
    simulation: Simulation
    local_bytes_per_s: float
    writer_bytes_per_s: float
    place: Place = field(default=INLINE, compare=False)


@dataclass(frozen=True, slots=True)
class JobFacts:
    """What the model, the cluster and the plan say about the run: its segments, its machines, its state and its paths.

    `replicas` counts what a shrinking job can drop (with experts, whole expert-data-parallel groups); bandwidths are
    per GPU and direction except storage's. `power` is per GPU with its share of node and fabric.
    `slow_speed` gives the speed of the job under slow faults of a class by name, where the step was simulated with it.
    `assumptions` name inputs that nobody gave; the result warns of them.
    """

    segments: tuple[Segment, ...]
    job_nodes: int
    gpus_per_node: int
    replicas: int
    dp: int
    state_bytes: float
    storage_write_bytes_per_s: float
    storage_read_bytes_per_s: float
    host_bytes_per_s: float
    nic_bytes_per_s: float
    power: Power | None = None
    replica_speed: Sequence[float] | None = None
    nodes_per_rack: int = 1
    nodes_per_pod: int = 1
    price_usd_per_gpu_hour: float | None = None
    slow_speed: Mapping[str, float] = field(default_factory=dict)
    assumptions: tuple[str, ...] = ()


def read_run(data: Mapping[str, Any], at: Place = INLINE) -> RunPolicies:
    """The policies of a `run` section; keys that are not of this room (tokens, seq_length) are left to others.

    Every part may be left out; the defaults are those of the specs, failures those of Llama 3. Raises InputError
    with every problem found.
    """
    top = Section({key: data[key] for key in KEYS if key in data}, at)
    checkpoint, local, writer = _checkpoint(_part(top, "checkpoint"))
    failures, log = _failures(top, at)
    spares = _part(top, "spares")
    recovery, auto = _spares(spares)
    recovery = _recovery(_part(top, "recovery"), recovery)
    recovery = _maintenance(top, recovery)
    policies = RunPolicies(
        phases=_phases(top, data.get("tokens")),
        checkpoint=checkpoint,
        failures=failures,
        fault_log=log,
        recovery=recovery,
        auto_spares=auto,
        restart=_restart(_part(top, "restart")),
        prices=_prices(top.section("prices")) if "prices" in top.data else None,
        simulation=_simulation(_part(top, "simulation")),
        local_bytes_per_s=local,
        writer_bytes_per_s=writer,
        place=at,
    )
    top.done()
    top.raise_problems()
    return policies


def run_spec(policies: RunPolicies, facts: JobFacts) -> RunSpec:
    """Policies and facts together: a run that can be simulated. Raises InputError where they do not fit."""
    gpus = facts.job_nodes * facts.gpus_per_node
    paths = SavePaths(
        state_bytes=facts.state_bytes,
        gpus=gpus,
        writers=max(1, gpus // facts.dp),
        storage_write_bytes_per_s=facts.storage_write_bytes_per_s,
        storage_read_bytes_per_s=facts.storage_read_bytes_per_s,
        writer_bytes_per_s=min(policies.writer_bytes_per_s, facts.nic_bytes_per_s),
        host_bytes_per_s=facts.host_bytes_per_s,
        nic_bytes_per_s=facts.nic_bytes_per_s,
        local_bytes_per_s=policies.local_bytes_per_s,
    )
    failures, recovery, log = policies.failures, policies.recovery, policies.fault_log
    if log:
        nodes = max(facts.job_nodes + recovery.spares, 1 + max(row.node for row in log))
        failures = model_of(log, nodes, facts.gpus_per_node)
    if policies.auto_spares:  # a cluster that needs more spares than it has nodes will not be saved by them
        recovery = replace(recovery, hot_spares=min(spares_needed(failures, gpus), facts.job_nodes))
    _check_fit(policies, facts, recovery)
    slow = facts.slow_speed
    failures = replace(failures, classes=tuple(replace(c, speed=slow.get(c.name, c.speed)) for c in failures.classes))
    prices = policies.prices
    if prices is None and facts.price_usd_per_gpu_hour is not None:
        prices = RunPrices(gpu_hour_usd=facts.price_usd_per_gpu_hour)
    return RunSpec(
        segments=facts.segments,
        job_nodes=facts.job_nodes,
        gpus_per_node=facts.gpus_per_node,
        replicas=facts.replicas,
        checkpoint=policies.checkpoint,
        paths=paths,
        failures=failures,
        fault_log=log,
        recovery=recovery,
        restart=policies.restart,
        prices=prices,
        power=facts.power,
        simulation=policies.simulation,
        replica_speed=facts.replica_speed,
        nodes_per_rack=facts.nodes_per_rack,
        nodes_per_pod=facts.nodes_per_pod,
        assumptions=facts.assumptions,
    )


def _check_fit(policies: RunPolicies, facts: JobFacts, recovery: Recovery) -> None:
    problems, nodes = [], facts.job_nodes + recovery.spares
    if recovery.min_replicas > facts.replicas:
        message = f"is {recovery.min_replicas}; the job has {facts.replicas} replicas that it could drop"
        problems.append(policies.place.under("recovery.min_replicas").problem(message))
    last = max((row.node for row in policies.fault_log), default=0)
    if last >= nodes:
        message = f"names node {last}; the job and its spares have nodes 0 to {nodes - 1}: give more spares"
        problems.append(policies.place.under("fault_log").problem(message))
    if problems:
        raise InputError(problems)


def segments(
    phases: tuple[RunPhase, ...], tokens: float, batch: int, seq_length: int, step_time_s: Callable[[int, int], float]
) -> tuple[Segment, ...]:
    """The phases with their tokens and step times; `step_time_s` maps (global_batch_size, seq_length) to seconds.

    `batch` and `seq_length` are the plan's, for phases that do not say. Equal phases are priced once.
    """
    rest = tokens - sum(phase.tokens or 0.0 for phase in phases)
    price = cache(step_time_s)
    found = []
    for phase in phases or (RunPhase("main"),):
        size, length = phase.global_batch_size or batch, phase.seq_length or seq_length
        share = rest if phase.tokens is None else phase.tokens
        found.append(Segment(phase.name, share, size * length, price(size, length)))
    return tuple(found)


def _phases(top: Section, tokens: object) -> tuple[RunPhase, ...]:
    """The phases in order; exactly one of them takes the tokens that the others leave."""
    if "phases" not in top.data:
        return ()
    found = []
    for part in top.sections("phases"):
        found.append(
            RunPhase(part.text("name"), part.quantity("tokens", "tokens", None), part.count("global_batch_size", None),
                  part.count("seq_length", None))
        )  # fmt: skip
        part.done()
    if sum(phase.tokens is None for phase in found) != 1:
        top.report("phases", "need exactly one without tokens: it takes what the others leave")
    given = sum(phase.tokens or 0.0 for phase in found)
    try:
        if given >= units.parse(tokens, "tokens"):
            top.report("phases", f"hold {given:.4g} tokens, the run has {tokens}: nothing is left for the main phase")
    except units.QuantityError:
        pass  # whoever reads the tokens reports them
    return tuple(found)


def _part(top: Section, key: str) -> Section:
    """A section that may be left out."""
    if key in top.data:
        return top.section(key)
    top.seen.add(key)
    return Section({}, top.place.under(key), top, key)


def _checkpoint(part: Section) -> tuple[CheckpointPolicy, float, float]:
    default = CheckpointPolicy()
    policy = CheckpointPolicy(
        policy=cast(PolicyName, part.choice("policy", POLICIES, default.policy)),
        every_s=_seconds_or(part, "every", "auto", None),
        fast_every_s=_seconds_or(part, "fast_every", "auto", None),
        peer_distance_nodes=part.count("peer_distance", default.peer_distance_nodes) or 1,
        overhead_s=part.quantity("overhead", "s", None, zero=True),
    )
    if part.data.get("fast_every") is not None and policy.policy not in ("in-memory", "tiered"):
        part.report("fast_every", f"belongs to policy in-memory or tiered; {policy.policy} writes to storage only")
    if policy.overhead_s is not None and policy.policy in ("none", "sync", "sharded"):
        part.report(
            "overhead", f"belongs to policy async, in-memory or tiered; {policy.policy} waits for the whole write"
        )
    # 3 GB/s: one NVMe drive of a node shared by its GPUs would be less, one each more; assumed.
    local = part.quantity("local_bandwidth", "bytes_per_s", 3e9)
    # 2 GB/s: torch.save is bound by one process's serialisation; assumed.
    writer = part.quantity("writer_bandwidth", "bytes_per_s", 2e9)
    part.done()
    return policy, local, writer


def _seconds_or(part: Section, key: str, word: str, default: float | None) -> float | None:
    """A time, or a word that leaves the choice to the program."""
    if part.data.get(key, word) == word:
        part.seen.add(key)
        return default
    return cast("float | None", part.quantity(key, "s"))


def _failures(top: Section, at: Place) -> tuple[FailureModel, tuple[LogRow, ...]]:
    what = top.take("failures", DEFAULT_FAILURES)
    path = top.text("fault_log", None)
    try:
        model = failure_model(what, top.place.under("failures"))
    except InputError as error:
        top.problems += error.problems
        model = preset(DEFAULT_FAILURES)
    if path is None:
        return model, ()
    if "failures" in top.data:
        top.report("fault_log", "and failures exclude each other: a log is replayed as it is")
    try:
        return NO_FAILURES, read_log(Path(at.file).parent / path)
    except InputError as error:
        top.problems += error.problems
        return NO_FAILURES, ()


def _spares(part: Section) -> tuple[Recovery, bool]:
    default = Recovery()
    auto = part.data.get("hot", "auto") == "auto"
    part.seen.add("hot")
    recovery = replace(
        default,
        hot_spares=0 if auto else _whole(part, "hot"),
        cold_spares=_whole(part, "cold") if "cold" in part.data else 0,
        hot_swap_s=part.quantity("hot_swap", "s", default.hot_swap_s, zero=True),
        cold_start_s=part.quantity("cold_start", "s", default.cold_start_s, zero=True),
    )
    part.done()
    return recovery, auto


def _whole(part: Section, key: str) -> int:
    """A whole number, zero included, of at most a million."""
    value = part.quantity(key, "count", 0, zero=True)
    if not value <= MOST or value != int(value):
        part.report(key, f"must be a whole number of at most {MOST:,}")
        return 0
    return int(value)


def _recovery(part: Section, recovery: Recovery) -> Recovery:
    found = replace(
        recovery,
        when_short=part.choice("when_short", ("wait", "shrink"), recovery.when_short),
        patience_s=part.quantity("patience", "s", recovery.patience_s, zero=True),
        min_replicas=part.count("min_replicas", recovery.min_replicas) or 1,
        regrow=part.choice("regrow", ("at-once", "at-restart"), recovery.regrow),
        evict_after=part.count("evict_after", None),
        evict_slow=part.flag("evict_slow", recovery.evict_slow),
    )
    part.done()
    return found


def _maintenance(top: Section, recovery: Recovery) -> Recovery:
    if "maintenance" not in top.data:
        return recovery
    part = top.section("maintenance")
    every, lasts = part.quantity("every", "s"), part.quantity("lasts", "s")
    found = replace(recovery, maintenance_every_s=every, maintenance_s=lasts)
    part.done()
    return found


def _restart(part: Section) -> Restart:
    default = Restart()
    restart = Restart(
        process_start_s=part.quantity("process_start", "s", default.process_start_s, zero=True),
        init_s_per_gpu=part.quantity("init_per_gpu", "s", default.init_s_per_gpu, zero=True),
        warm_up_s=part.quantity("warm_up", "s", default.warm_up_s, zero=True),
    )
    part.done()
    return restart


def _prices(part: Section) -> RunPrices:
    default = RunPrices()
    carbon = part.take("carbon", None)
    prices = RunPrices(
        gpu_hour_usd=part.quantity("gpu_hour", "usd_per_hour", None),
        capital_usd_per_gpu=part.quantity("capital_per_gpu", "usd", 0.0, zero=True),
        life_s=part.quantity("life", "s", default.life_s),
        electricity_usd_per_kwh=part.quantity("electricity", "usd_per_kwh", 0.0, zero=True),
        network_usd_per_gpu_hour=part.quantity("network_per_gpu", "usd_per_hour", 0.0, zero=True),
        storage_usd_per_hour=part.quantity("storage", "usd_per_hour", 0.0, zero=True),
        carbon_kg_per_kwh=None if carbon is None else _carbon(part, carbon),
    )
    if prices.gpu_hour_usd is None and not prices.capital_usd_per_gpu:
        part.report("gpu_hour", "is missing: give the rent, or capital_per_gpu, life and electricity")
    if prices.gpu_hour_usd is not None and prices.capital_usd_per_gpu:
        part.report("gpu_hour", "and capital_per_gpu exclude each other: machines are rented or owned")
    part.done()
    return prices


def _carbon(part: Section, given: object) -> float | None:
    """Grams or kilograms of CO2 per kWh."""
    number, _, unit = str(given).strip().partition(" ")
    factor = {"g/kWh": 1e-3, "kg/kWh": 1.0}.get(unit.strip())
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if factor is None or not 0 <= value < float("inf"):
        part.report("carbon", f"{given!r} is not a carbon intensity; write e.g. 380 g/kWh")
        return None
    return value * factor


def _simulation(part: Section) -> Simulation:
    default = Simulation()
    simulation = Simulation(
        runs=part.count("runs", default.runs) or 1,
        seed=_whole(part, "seed") if "seed" in part.data else default.seed,
        workers=part.count("workers", default.workers) or 1,
        give_up_fraction=part.quantity("give_up_below", "fraction", default.give_up_fraction),
    )
    if simulation.runs > MOST or simulation.workers > MOST_WORKERS:
        part.report(
            "runs", f"at most {MOST:,} runs on {MOST_WORKERS} workers, not {simulation.runs} on {simulation.workers}"
        )
    if not 0 < simulation.give_up_fraction < 1:
        part.report("give_up_below", "must be between 0 and 1: the share of useful time below which a run is given up")
    part.done()
    return simulation
