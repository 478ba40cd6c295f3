"""What a scenario holds: model, cluster, plan and run, the phases of the run, and what surrounds the step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, replace
from os import PathLike
from typing import Any, Literal

from hardware.specs import Cluster
from simulator.fields import Setting, setting
from simulator.model.spec import Model
from simulator.plans.spec import Plan
from simulator.run.budget import Budget
from simulator.run.read import RunPolicies
from simulator.scenario.distillation_section import Distillation
from simulator.scenario.outer_sections import NOTHING_AROUND, Surroundings
from simulator.scenario.site_section import Site
from simulator.scenario.stack_section import Choice
from simulator.step.spread import Spread

# torch.cuda.max_memory_allocated, max_memory_reserved, or all that the device shows (nvidia-smi).
Meter = Literal["allocated", "reserved", "device"]


@dataclass(frozen=True, slots=True)
class Run:
    """What is trained on: sequences of `seq_length` tokens, `tokens` in all; `policies` say how the run is kept up
    (None: nothing ever breaks, and the whole run is not simulated).

    `tokens` is nan for a `budget` in days (None: `tokens` is all that was said) until the step has been simulated.
    """

    seq_length: int
    tokens: float
    policies: RunPolicies | None = None
    budget: Budget | None = None

    def with_step_time(self, global_batch_size: int, step_time_s: float) -> Run:
        """The run with the tokens that its days leave time for."""
        if self.budget is None or self.budget.days is None:
            return self
        return replace(self, tokens=self.budget.tokens_in_all(global_batch_size, step_time_s))


@dataclass(frozen=True, slots=True)
class Published:
    """What the world measured for this very scenario, with its source; what is not known is left out.

    `flops_convention` names how FLOPs and MFU were counted (simulator.model.flops), `memory_meter` what read the peak:
    memory that PyTorch allocated or reserved, or all that the device shows.
    """

    source: str = setting(MISSING, Setting("Where it was published."))
    step_time_s: float | None = setting(None, Setting("Seconds of a step, measured."))
    tokens_per_s_per_gpu: float | None = setting(None, Setting("Tokens per second and GPU, measured."))
    model_flops_per_s_per_gpu: float | None = setting(None, Setting("Model FLOP/s of a GPU, measured."))
    mfu_fraction: float | None = setting(None, Setting("Model FLOPs over the dense peak, as published."))
    flops_convention: str | None = setting(None, Setting("How FLOPs were counted, as megatron or palm."))
    training_time_s: float | None = setting(None, Setting("Time of the whole training, measured."))
    peak_memory_bytes: float | None = setting(None, Setting("Memory at its peak, measured."))
    memory_meter: Meter = setting(
        "allocated", Setting("What read it: memory that PyTorch allocated or reserved, or all that the device shows.")
    )
    notes: str | None = setting(None, Setting("What else is to be known of the measurement."))


@dataclass(frozen=True, slots=True)
class Scenario:
    """One question: this model, on this cluster, laid out by this plan, for this run.

    `phase_plans` are the plans of those phases of the run that change the plan, by the phase's number.
    `spread` says what makes GPUs unequal (None: nothing does), `around` what surrounds the step, `site` what runs on
    the same site measured, `distillation` the teacher that the model learns from (None: it learns from data alone),
    `job_scenarios` what other jobs of the cluster run, by their names.
    `file` is where it was read and `written` its data with the overrides applied; `warnings`
    name settings that are legal and change nothing. `stack_choice` says how the file came to the release of the plan's
    software stack; `stack_settings` are the plan's keys, dotted, that the stack decided.
    """

    name: str
    question: str
    model: Model
    cluster: Cluster
    plan: Plan
    run: Run
    source: str | None = None
    published: Published | None = None
    spread: Spread | None = None
    around: Surroundings = NOTHING_AROUND
    phase_plans: Mapping[int, Plan] = field(default_factory=dict)
    site: Site | None = None
    distillation: Distillation | None = None
    job_scenarios: Mapping[str, Scenario] = field(default_factory=dict)
    file: str = "scenario"
    written: Mapping[str, Any] = field(default_factory=dict, repr=False)
    warnings: tuple[str, ...] = ()
    stack_choice: Choice = field(default="named", compare=False)
    stack_settings: Mapping[str, Any] = field(default_factory=dict, compare=False)


def check_scenario(given: object, verb: str) -> None:
    """Raises TypeError where a verb gets anything but a scenario, as a file's path, and says how to load it."""
    if isinstance(given, Scenario):
        return
    if isinstance(given, str | PathLike):
        path = str(given)
        message = f"takes a Scenario, not the path {path!r}. Write {verb}(load_scenario({path!r}))"
    else:
        message = f"takes a Scenario, as load_scenario(path) gives it, not {type(given).__name__}"
    raise TypeError(f"{verb} {message}")
