"""What more of one part would change, and how far an answer hangs on what is assumed: the job played again with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from math import exp

from hardware import catalogue
from hardware.problems import InputError, Place
from hardware.specs import Accelerator, Cluster
from hardware.units import format_rate
from simulator.cost.constants import CORRECTED, constants_for
from simulator.planner.job import Job, run_job, with_step
from simulator.planner.sizing import Assumption, Part
from simulator.predict.confidence import STANDARD_DEVIATIONS
from simulator.predict.simulate import Simulated, simulate, simulate_step
from simulator.predict.storage import storage_of
from simulator.run.specs import RunSpec

MORE = 2.0  # of every part alike, so that none is favoured
SWING = 0.1  # to either side, where nothing says how uncertain an assumption is
AROUND = (f"-{100 * SWING:g} %", f"+{100 * SWING:g} %")
# What auxiliary-loss-free balancing may leave where a plan assumes balanced experts, as the shipped scenarios assume.
USUAL_IMBALANCE = 1.1


def parts(job: Job, confidence: float) -> tuple[Part, ...]:
    """Each part twice as good or twice as many, the plan kept; those that save most time first."""
    cluster = job.scenario.cluster
    nic, memory = cluster.node.nic.bandwidth_bytes_per_s, cluster.accelerator.memory_bandwidth_bytes_per_s
    domain, storage = cluster.node.scale_up.domain_gpus, storage_of(cluster)
    tried: list[tuple[str, str, Callable[[], Job | None], bool]] = [
        ("NIC", f"{format_rate(nic)} -> {format_rate(MORE * nic)}", lambda: _with(job, _faster_nics(cluster)), False),
        ("HBM", f"{format_rate(memory)} -> {format_rate(MORE * memory)}", lambda: _with_memory(job), False),
        ("NVLink domain", f"{domain} -> {round(MORE * domain)} GPUs", lambda: _with(job, _wider(cluster)), False),
        ("storage", f"{format_rate(storage.write_bytes_per_s)} written -> twice, reads too",
         lambda: _with(job, _faster_storage(cluster)), False),
        ("spares", _spares_text(job), lambda: _more_spares(job), True),
    ]  # fmt: skip
    found = [_part(name, change, other, job, confidence, priced)
             for name, change, play, priced in tried if (other := play()) is not None]  # fmt: skip
    return tuple(sorted(found, key=lambda part: -part.saved_s))


def _part(name: str, change: str, other: Job, job: Job, confidence: float, priced: bool) -> Part:
    saved_s = job.finish_at(confidence) - other.finish_at(confidence)
    before, after = job.result.cost_usd, other.result.cost_usd
    saved_usd = None if before is None or after is None else before - after
    per_million = None
    if priced and saved_usd is not None and saved_usd < 0:
        per_million = saved_s / (-saved_usd / 1e6)
    return Part(name, change, saved_s, saved_usd, priced, per_million)


def _with(job: Job, cluster: Cluster) -> Job:
    """The job on another cluster; its step may be off as much as before, so that only the part makes a difference."""
    simulated = simulate(replace(job.scenario, cluster=cluster))
    return with_step(job, simulated, job.spec.uncertainty)


def _faster_nics(cluster: Cluster) -> Cluster:
    """NICs and the ports of every switch tier."""
    nic = replace(cluster.node.nic, bandwidth_bytes_per_s=MORE * cluster.node.nic.bandwidth_bytes_per_s)
    tiers = tuple(
        replace(tier, port_bandwidth_bytes_per_s=MORE * tier.port_bandwidth_bytes_per_s)
        for tier in cluster.fabric.tiers
    )
    return replace(cluster, node=replace(cluster.node, nic=nic), fabric=replace(cluster.fabric, tiers=tiers))


def _wider(cluster: Cluster) -> Cluster:
    """A scale-up domain of twice the GPUs; what a job takes of it follows from its plan."""
    scale_up = cluster.node.scale_up
    installed = scale_up.installed_gpus or scale_up.domain_gpus
    wider = replace(scale_up, domain_gpus=round(MORE * installed), installed_gpus=None)
    return replace(cluster, node=replace(cluster.node, scale_up=wider))


def _faster_storage(cluster: Cluster) -> Cluster:
    storage = storage_of(cluster)
    return replace(
        cluster,
        storage_write_bytes_per_s=MORE * storage.write_bytes_per_s,
        storage_read_bytes_per_s=MORE * storage.read_bytes_per_s,
    )


def _with_memory(job: Job) -> Job | None:
    """Twice the memory bandwidth; None for a part that the catalogue does not know, whose curves nothing scales."""
    cluster = job.scenario.cluster
    part = cluster.accelerator
    bandwidth = f"{MORE * part.memory_bandwidth_bytes_per_s:.6g} B/s"
    try:
        faster: Accelerator = catalogue.accelerator(
            {"base": part.name.lower(), "memory_bandwidth": bandwidth}, Place("size")
        )
    except InputError:
        return None
    return _with(job, replace(cluster, node=replace(cluster.node, accelerator=faster)))


def _spares_text(job: Job) -> str:
    spares = job.spec.recovery.spares
    return f"{spares} -> {_twice(spares)} nodes"


def _twice(spares: int) -> int:
    return max(1, round(MORE * spares))


def _more_spares(job: Job) -> Job:
    recovery = job.spec.recovery
    more = _twice(recovery.spares) - recovery.cold_spares
    return run_job(job.simulated, replace(job.spec, recovery=replace(recovery, hot_spares=more)))


def assumptions(job: Job, confidence: float) -> tuple[Assumption, ...]:
    """Each assumption at its low and high end; the widest first."""
    found = [
        Assumption(name, low[0], high[0], _ends(low[1], high[1], confidence), _costs(low[1], high[1]))
        for name, low, high in _swings(job)
    ]
    return tuple(sorted(found, key=lambda each: -abs(each.finish_s[1] - each.finish_s[0])))


def _ends(low: Job, high: Job, confidence: float) -> tuple[float, float]:
    return low.finish_at(confidence), high.finish_at(confidence)


def _costs(low: Job, high: Job) -> tuple[float, float] | None:
    costs = low.result.cost_usd, high.result.cost_usd
    return None if costs[0] is None or costs[1] is None else (costs[0], costs[1])


Swing = tuple[str, tuple[str, Job], tuple[str, Job]]


def _swings(job: Job) -> Iterable[Swing]:
    yield _kernel_rates(job)
    yield _models_error(job)
    if job.spec.failures.classes:
        yield _failure_rate(job)
    if job.scenario.model.has_experts:
        yield _expert_imbalance(job)
    if job.spec.prices is not None:
        yield _price(job)


def _kernel_rates(job: Job) -> Swing:
    return "kernel rates", (AROUND[1], _at_rates(job, 1 + SWING)), (AROUND[0], _at_rates(job, 1 - SWING))


def _models_error(job: Job) -> Swing:
    """The step at the ends of its interval, the same in every run."""
    uncertain = job.spec.uncertainty
    known = replace(job.spec, uncertainty=replace(uncertain, step_p10=1.0, step_p90=1.0))
    low, high = (
        (f"step {100 * (factor - 1):+.1f} %", run_job(job.simulated, _slower(known, factor)))
        for factor in (uncertain.step_p10, uncertain.step_p90)
    )
    return "model's error", low, high


def _failure_rate(job: Job) -> Swing:
    """The rate at the ends of its own 80 % interval, the same in every run."""
    sigma = job.spec.failures.rate_sigma
    factor = exp(STANDARD_DEVIATIONS * sigma) if sigma else 1 + SWING
    known = replace(job.spec, uncertainty=replace(job.spec.uncertainty, rate_sigma=0.0))
    low, high = ((f"x {rate:.2f}", run_job(job.simulated, _failing(known, rate))) for rate in (1 / factor, factor))
    return "failure rate", low, high


def _expert_imbalance(job: Job) -> Swing:
    """From balanced experts to twice the stated excess of the hottest rank."""
    stated = job.scenario.plan.expert_imbalance
    worst = 1 + 2 * (stated - 1) if stated > 1 else USUAL_IMBALANCE
    return "expert imbalance", ("1", _imbalanced(job, 1.0)), (f"{worst:.2f}", _imbalanced(job, worst))


def _price(job: Job) -> Swing:
    low, high = (run_job(job.simulated, _priced(job.spec, factor)) for factor in (1 - SWING, 1 + SWING))
    return "price", (AROUND[0], low), (AROUND[1], high)


def _slower(spec: RunSpec, factor: float) -> RunSpec:
    segments = tuple(replace(segment, step_time_s=factor * segment.step_time_s) for segment in spec.segments)
    return replace(spec, segments=segments)


def _failing(spec: RunSpec, factor: float) -> RunSpec:
    classes = tuple(replace(each, rate_per_gpu_s=factor * each.rate_per_gpu_s) for each in spec.failures.classes)
    return replace(spec, failures=replace(spec.failures, classes=classes))


def _priced(spec: RunSpec, factor: float) -> RunSpec:
    """Rent and machines dearer or cheaper."""
    prices = spec.prices
    if prices is None:
        return spec
    rent = None if prices.gpu_hour_usd is None else factor * prices.gpu_hour_usd
    machines = factor * prices.capital_usd_per_gpu
    return replace(spec, prices=replace(prices, gpu_hour_usd=rent, capital_usd_per_gpu=machines))


def _at_rates(job: Job, factor: float) -> Job:
    """All kernels so many times as fast."""
    return with_step(job, _simulated_at_rates(job.simulated, factor))


def _simulated_at_rates(done: Simulated, factor: float) -> Simulated:
    """The step, and every phase's, with all kernels so many times as fast."""
    constants = constants_for(done.scenario.cluster.accelerator, done.scenario.plan)
    faster = replace(constants, **{name: factor * getattr(constants, name) for name in _RATES})
    step = simulate_step(done.scenario, done.workload, faster)
    phases = tuple(replace(phase, done=_simulated_at_rates(phase.done, factor)) for phase in done.phases)
    return replace(done, step=step, phases=phases)


# Those on the grouped rates are counted once: they come on top of the products'.
_RATES = tuple(name for name in CORRECTED if name not in ("grouped_rate", "low_grouped_rate"))


def _imbalanced(job: Job, imbalance: float) -> Job:
    plan = replace(job.scenario.plan, expert_imbalance=imbalance)
    return with_step(job, simulate(replace(job.scenario, plan=plan)))
