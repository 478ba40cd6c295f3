"""How many GPUs of which kind finish by a date with a confidence, within a budget; and what given GPUs can train.

For each node GPU counts are tried until one meets the date and the next smaller does not. Every try is a job that
`evaluate` would play alike: the fastest plan of all that share the given one's settings, the whole run over all seeds,
with failures and the model's own error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from hardware import catalogue
from hardware.problems import InputError, Place, Problem, one_of
from simulator.fields import as_written
from simulator.planner.job import Job, purchase, with_sized_spares
from simulator.planner.resized import node_name, why_fabric
from simulator.planner.size_by_budget import Purse, most_affordable
from simulator.planner.size_by_date import fewest_in_time
from simulator.planner.size_hinges import assumptions, parts
from simulator.planner.size_of_given import turned_round
from simulator.planner.sizing import Option, Purchase, Question, Sizing
from simulator.planner.tried import Choice, TriedJobs, no_job, tried_jobs
from simulator.predict.evidence import step_interval_s
from simulator.scenario.spec import Scenario, check_scenario

Progress = Callable[[int, int], None]  # (nodes done, nodes in all)


def size(
    scenario: Scenario,
    *,
    finish_within_s: float | None = None,
    confidence: float = 0.9,
    budget_usd: float | None = None,
    nodes: Sequence[str] = (),
    gpus: int | None = None,
    hinges: bool = True,
    progress: Progress | None = None,
) -> Sizing:
    """The cheapest purchase that finishes within `finish_within_s` at the confidence and costs at most `budget_usd`.

    `nodes`: catalogue names (none: the scenario's own). With `gpus`, all that there is, the question is turned round:
    the tokens that can be trained by the date within the budget. `hinges`: also what more of each part would change and
    how far the answer hangs on assumptions. Raises InputError for a question that cannot be.
    """
    check_scenario(scenario, "size")
    own = node_name(scenario)
    asked = tuple(node if node == own else catalogue.catalogue_name("nodes", node) for node in nodes)
    question = Question(confidence, finish_within_s, budget_usd, gpus, asked or (own,))
    _check(question, scenario)
    sized = with_sized_spares(scenario)
    answers: list[tuple[Option, Job | None]] = []
    for number, node in enumerate(question.nodes):
        answers.append(_answer(sized, node, question))
        if progress is not None:
            progress(number + 1, len(question.nodes))
    answers.sort(key=lambda answer: _price(answer[0], question))
    options = tuple(option for option, _ in answers)
    job = answers[0][1]
    sizing = Sizing(question, options)
    if job is None or not hinges or sizing.answer is None:
        return sizing
    return replace(sizing, parts=parts(job, confidence), assumptions=assumptions(job, confidence))


def _check(question: Question, scenario: Scenario) -> None:
    """Raises InputError for nodes that are not known and figures out of range."""
    problems = []
    known = catalogue.names("nodes")
    own = node_name(scenario)
    for node in question.nodes:
        if node not in known and node != own:
            problems.append(Problem("--node", None, "", one_of(node, known)))
    if not 0 < question.confidence < 1:
        problems.append(Problem("--confidence", None, "", f"{question.confidence:g} must lie between 0 and 100 %"))
    if question.finish_within_s is None and question.budget_usd is None and question.gpus is None:
        problems.append(Problem("size", None, "", "needs --finish-within, --budget or --gpus"))
    problems += _unsized(question, scenario)
    for option, value in (("--finish-within", question.finish_within_s), ("--budget", question.budget_usd)):
        if value is not None and not (value > 0 and math.isfinite(value)):
            problems.append(Problem(option, None, "", f"must be above zero, not {value:g}"))
    if problems:
        raise InputError(problems)


def _unsized(question: Question, scenario: Scenario) -> list[Problem]:
    """What of a scenario cannot be sized yet, by name."""
    phases = scenario.run.policies.phases if scenario.run.policies is not None else ()
    problems = []
    if question.gpus is not None and phases:
        why = "tokens cannot be shared out among phases; leave them out"
        problems.append(Problem("--gpus", None, "run.phases", why))
    if scenario.phase_plans:
        why = "phases with plans of their own cannot be sized; give their batch and length only"
        problems.append(Problem("size", None, "run.phases", why))
    if scenario.run.budget is not None and scenario.run.budget.days is not None:
        problems.append(Problem("size", None, "run.days", "leaves open what is trained; give tokens"))
    if scenario.run.policies is not None and scenario.run.policies.jobs:
        problems.append(Problem("size", None, "run.jobs", "jobs around the run cannot be sized; leave them out"))
    if scenario.around.local_sgd is not None:
        problems.append(Problem("size", None, "local_sgd", "several clusters cannot be sized; leave it out"))
    if scenario.distillation is not None:
        problems.append(
            Problem("size", None, "distillation", "a teacher beside the model cannot be sized; leave it out")
        )
    return problems


def _price(option: Option, question: Question) -> tuple[bool, float, float]:
    """What is to be small: no purchase, then dollars (none known: last), then time; turned round, the fewest tokens."""
    bought = option.purchase
    if bought is None:
        return True, 0.0, 0.0
    if question.gpus is not None:
        return False, -bought.tokens, bought.at_confidence_s
    return False, math.inf if bought.cost_usd is None else bought.cost_usd, bought.at_confidence_s


def _answer(scenario: Scenario, node: str, question: Question) -> tuple[Option, Job | None]:
    """The option for one node, and its job."""
    tried = None
    try:
        tried = tried_jobs(scenario, node)
        choice = _choice(tried, question)
        bought = purchase(choice.job) if choice.job is not None else None
    except InputError as error:
        choice, bought = no_job("; ".join(map(str, error.problems))), None
    job, smaller = choice.job, choice.smaller
    server = scenario.cluster.node if node == node_name(scenario) else catalogue.node(node, Place("size"))
    option = Option(
        node=node,
        accelerator=server.accelerator.name,
        fabric=job.scenario.cluster.fabric.name if job else None,
        limits=choice.limits,
        fabric_reason=why_fabric(scenario.cluster, job.scenario.cluster) if job else "",
        purchase=summary(job, question) if job else None,
        smaller=summary(smaller, question) if smaller else None,
        tried_gpus=tuple(sorted(tried.jobs)) if tried is not None else (),
        scenario=bought,
    )
    return option, job


def _choice(tried: TriedJobs, question: Question) -> Choice:
    """All of the GPUs that there are, else the fewest by the date, else the most that the budget pays for."""
    if question.gpus is not None:
        return turned_round(tried, question, question.gpus)
    if not tried.counts:
        return no_job("no number of whole nodes shares the global batch evenly")
    if question.finish_within_s is not None:
        return fewest_in_time(tried, question, question.finish_within_s)
    return most_affordable(tried, Purse(question.budget_usd or 0.0, question.confidence))


def summary(job: Job, question: Question) -> Purchase:
    """A job's figures."""
    scenario, result, step_s = job.scenario, job.result, job.simulated.step.step_time_s
    within_s = question.finish_within_s
    return Purchase(
        gpus=job.gpus,
        job_gpus=job.spec.job_gpus,
        spare_nodes=job.spec.recovery.spares,
        paid_gpus=job.spec.paid_gpus,
        plan=plan_words(scenario),
        step_time_s=step_s,
        step_time_interval_s=step_interval_s(job.simulated),
        tokens=job.spec.tokens,
        finish_s=result.finish_s.to_dict(),
        at_confidence_s=job.finish_at(question.confidence),
        chance_fraction=None if within_s is None else job.chance(within_s),
        rent_usd=result.rent_usd,
        owned_usd=result.owned_usd,
        cost_usd=result.cost_usd,
        cost_error_usd=result.cost_error_usd,
        power_w=job.power_w,
        energy_j=result.energy_j,
    )


def plan_words(scenario: Scenario) -> dict[str, Any]:
    """The degrees of a plan and what else the search chose."""
    plan = scenario.plan
    names = ("tp", "cp", "pp", "vpp", "ep", "etp", "dp", "micro_batch_size", "schedule", "layout")
    written = as_written(plan)
    return {name: written[name] for name in names}
