"""What breaks, how often and how it shows: the classes of faults, the failure model, and its rates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, replace
from typing import Literal

from simulator.fields import Setting, setting
from simulator.run.arrays import Floats
from simulator.run.duration_section import DURATION
from simulator.run.durations import Duration

FaultKind = Literal["crash", "hang", "slow", "corruption", "planned"]
Scope = Literal["job", "gpu", "node", "rack", "pod", "switch", "link", "rail", "spine"]
# Scopes of the network: the job goes on without such a part, at the speed of the step simulated without it.
NETWORK_STATES: Mapping[Scope, Mapping[str, int]] = {"link": {"links": 1}, "rail": {"rails": 1}, "spine": {"spines": 1}}
KINDS: tuple[FaultKind, ...] = ("crash", "hang", "slow", "corruption", "planned")
CRASH, HANG, SLOW, CORRUPTION, PLANNED = range(len(KINDS))
STOPPING: tuple[FaultKind, ...] = ("crash", "hang")  # what counts as a failure of the job in a mean time between them
DAY_S = 86400.0
AT_ONCE = Duration("fixed")
JOB = -1  # the node of a fault that hits the job and no node in particular
# Beyond these no cluster is described any more, and the numbers of faults run away.
MOST_VARIANCE, MOST_FOLLOWERS, MOST_MULTIPLIER, MOST_RATE_SIGMA = 10.0, 10.0, 1e6, 3.0
FLATTEST, STEEPEST = 0.1, 10.0


@dataclass(frozen=True, slots=True)
class FaultClass:
    """One way to fail.

    `rate_per_gpu_s` is the hazard per GPU at cluster age `reference_age_s`; it goes as age^(shape - 1) (Weibull with
    minimal repair; shape 1: exponential; below 1: infant mortality). `scope` says what goes down with it: "job" no
    node (software, storage, a switch that is routed around), "gpu" and "node" one server, "rack" and "pod" all theirs,
    "switch" all servers below a leaf. A "slow" fault of a "link" of one server, a "rail" or a "spine" takes none: the
    job goes on without that part until it is repaired, at the speed of the step simulated so.
    `detect` runs from the fault to the moment the job knows; `repair` (None: restart in place) keeps the nodes away;
    `outage` holds the whole job up whatever the spares. A "slow" fault runs at `speed` (a fraction) and passes by
    itself after `lasts`; with `link_fraction` (None: not by links) a node's links keep that share of their bandwidth,
    and the speed follows from the step simulated with it. A "planned" one announces itself: the job saves its state
    first.
    """

    name: str
    kind: FaultKind = setting(
        MISSING,
        Setting(
            "How it shows. crash: the job stops; hang: it stands still until noticed; slow: it runs slower; "
            "corruption: it goes on with wrong values until noticed; planned: it saves first, then stops.",
            "crash",
        ),
    )
    rate_per_gpu_s: float = setting(
        MISSING,
        Setting("How many of them occurred in the exposure.", 148, key="count", dimension="count", least=0),
    )
    scope: Scope = setting(
        "node",
        Setting(
            "What goes down. job: no node; gpu or node: one server; rack, pod or (leaf) switch: all servers of one; "
            "link, rail or spine: that part of the network, which a slow job goes on without.",
            "rack",
        ),
    )
    detect: Duration = setting(
        AT_ONCE,
        Setting(
            "From the fault to the moment the job knows; by default 30 s for a crash, 10 min for a hang, a slow part "
            "or corruption.",
            "10 min",
            form=DURATION,
        ),
    )
    repair: Duration | None = setting(
        None,
        Setting(
            "How long its nodes stay away; none: they restart in place.",
            {"median": "20 h", "mean": "5 d"},
            form=DURATION,
        ),
    )
    outage: Duration | None = setting(
        None, Setting("How long it holds the whole job up, whatever the spares.", "30 min", form=DURATION)
    )
    lasts: Duration | None = setting(
        None, Setting("After how long a slow part recovers by itself.", {"mean": "72 min"}, form=DURATION)
    )
    speed: float = setting(
        1.0, Setting("The job's speed while a slow part lasts; excludes links.", "75%", dimension="fraction", most=1.0)
    )
    shape: float = setting(
        1.0,
        Setting(
            "Exponent of the Weibull law of the cluster's age: below 1 rates fall with age.",
            0.7,
            least=FLATTEST,
            most=STEEPEST,
        ),
    )
    reference_age_s: float = setting(30 * DAY_S, Setting("The cluster's age at which the count was taken.", "60 d"))
    link_fraction: float | None = setting(
        None,
        Setting(
            "What a slow fault leaves of its node's link bandwidth: the speed follows from the step simulated with it.",
            "50%",
            key="links",
            dimension="fraction",
        ),
    )

    @property
    def network_state(self) -> Mapping[str, int] | None:
        """What of the network is broken while a slow fault lasts; None where that is not its scope."""
        return NETWORK_STATES.get(self.scope) if self.kind == "slow" else None


@dataclass(frozen=True, slots=True)
class FailureModel:
    """All the ways to fail, and what makes them come together.

    `lemon_fraction` of the nodes fail `lemon_multiplier` times as often as the others. Every `swing_period_s` the
    whole rate is multiplied by a gamma factor of mean 1 and variance `swing_variance`. Each fault is followed by
    `burst_mean` others of its class on average, after exponential times of mean `burst_window_s`. None of the three
    changes the mean rate. `age_s` is the age of the cluster when the run begins. `mtbf_s` (of the whole job) or
    `node_mtbf_s` sets the mean time between crashes and hangs once the job is known, see `settled`. `rate_sigma` is how
    far the whole rate may be off, `generation` the accelerators on which it was observed.
    """

    name: str
    classes: tuple[FaultClass, ...]
    lemon_fraction: float = setting(
        0.0,
        Setting(
            "Share of the nodes that fail more often.",
            "1%",
            key="fraction",
            dimension="fraction",
            below=1.0,
            required=True,
        ),
    )
    lemon_multiplier: float = setting(
        1.0,
        Setting("How much more often they fail.", 20, key="multiplier", most=MOST_MULTIPLIER, required=True),
    )
    swing_variance: float = setting(
        0.0,
        Setting(
            "Variance of the factor of mean 1 on the whole rate.",
            0.4,
            key="variance",
            least=0,
            most=MOST_VARIANCE,
            required=True,
        ),
    )
    swing_period_s: float = setting(7 * DAY_S, Setting("How long a factor holds.", "7 d", key="period", required=True))
    burst_mean: float = setting(
        0.0,
        Setting(
            "How many faults follow each on average.", 0.1, key="mean", least=0, most=MOST_FOLLOWERS, required=True
        ),
    )
    burst_window_s: float = setting(
        3600.0, Setting("Mean time after which they follow.", "1 h", key="window", required=True)
    )
    age_s: float = setting(30 * DAY_S, Setting("The cluster's age when the run begins.", "0.5 years"))
    mtbf_s: float | None = setting(
        None,
        Setting(
            "Mean time between the job's crashes and hangs, all GPUs together: scales all rates. Excludes "
            "node_mtbf and rate_multiplier.",
            "3 h",
        ),
    )
    node_mtbf_s: float | None = setting(
        None,
        Setting(
            "Mean time between the crashes and hangs of one node: scales all rates. Excludes mtbf and rate_multiplier.",
            "5 years",
        ),
    )
    rate_sigma: float = setting(
        0.0,
        Setting(
            "Standard deviation of the logarithm of the whole rate, which is not known beforehand: each simulated run "
            "has a rate of its own. Of a shipped model without mtbf or node_mtbf: as far as the shipped models differ.",
            0.3,
            least=0,
            most=MOST_RATE_SIGMA,
        ),
    )
    generation: str = setting(
        "", Setting("Generation of the accelerators on which the failures were observed; empty: not known.", "hopper")
    )
    source: str = ""
    sources: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Machines:
    """What is exposed to faults: `job_nodes` that train and `spare_nodes` that stand by."""

    job_nodes: int
    spare_nodes: int
    gpus_per_node: int
    nodes_per_rack: int = 1
    nodes_per_pod: int = 1

    @property
    def nodes(self) -> int:
        return self.job_nodes + self.spare_nodes

    def breadth(self, scope: Scope) -> int:
        """How many nodes a fault of this scope takes at once."""
        nodes: dict[Scope, int] = {
            "job": 0,
            "gpu": 1,
            "node": 1,
            "rack": self.nodes_per_rack,
            "pod": self.nodes_per_pod,
            "switch": self.nodes_per_pod,
            "link": 1,
            "rail": 0,
            "spine": 0,
        }
        return nodes[scope]


def cumulative_hazard(fault: FaultClass, age_s: float | Floats) -> float | Floats:
    """Expected events of one class per GPU up to an age."""
    return hazard_at(fault.rate_per_gpu_s, fault.shape, fault.reference_age_s, age_s)


def hazard_at(
    rate_per_gpu_s: float | Floats, shape: float | Floats, reference_s: float | Floats, age_s: float | Floats
) -> float | Floats:
    """Expected events per GPU up to an age: rate ref / k (age / ref)^k; shapes broadcast."""
    return rate_per_gpu_s * reference_s / shape * (age_s / reference_s) ** shape


def mean_rate_per_s(fault: FaultClass, gpus: int, start_s: float, end_s: float, age_s: float) -> float:
    """Mean events per second of one class on `gpus` GPUs between two times of the run (Weibull intensity)."""
    total = cumulative_hazard(fault, age_s + end_s) - cumulative_hazard(fault, age_s + start_s)
    return gpus * float(total) / (end_s - start_s)


def rate_at_age_per_s(fault: FaultClass, gpus: int, age_s: float) -> float:
    """Events per second on `gpus` GPUs at a cluster age: GPUs x rate (age / ref)^(k - 1)."""
    aging = (age_s / fault.reference_age_s) ** (fault.shape - 1)
    return float(gpus * fault.rate_per_gpu_s * aging)


def mean_time_between_s(model: FailureModel, gpus: int, kinds: tuple[FaultKind, ...] = STOPPING) -> float:
    """Mean time between the faults of these kinds on `gpus` GPUs at the model's age, infinite if there are none."""
    stopping = [fault for fault in model.classes if fault.kind in kinds]
    rate_per_s = sum(rate_at_age_per_s(fault, gpus, model.age_s) for fault in stopping)
    return 1 / rate_per_s if rate_per_s > 0 else float("inf")


def scaled(model: FailureModel, factor: float) -> FailureModel:
    """The same model with every rate multiplied by `factor`, zero or above."""
    classes = tuple(replace(fault, rate_per_gpu_s=fault.rate_per_gpu_s * factor) for fault in model.classes)
    mtbf_s, node_mtbf_s = (_divided(time_s, factor) for time_s in (model.mtbf_s, model.node_mtbf_s))
    return replace(model, classes=classes, mtbf_s=mtbf_s, node_mtbf_s=node_mtbf_s)


def _divided(time_s: float | None, factor: float) -> float | None:
    if time_s is None:
        return None
    return time_s / factor if factor > 0 else math.inf


def settled(model: FailureModel, job_nodes: int, gpus_per_node: int) -> FailureModel:
    """The model with its rates scaled to the mean time between failures that it names, if it names one."""
    if model.mtbf_s is not None:
        wanted_s, gpus = model.mtbf_s, job_nodes * gpus_per_node
    elif model.node_mtbf_s is not None:
        wanted_s, gpus = model.node_mtbf_s, gpus_per_node
    else:
        return model
    factor = mean_time_between_s(model, gpus) / wanted_s
    return replace(scaled(model, factor), mtbf_s=None, node_mtbf_s=None)
