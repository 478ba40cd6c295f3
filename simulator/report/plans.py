"""A search of plans for people, and the files that it leaves."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from dataclasses import replace
from math import isfinite

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from hardware.problems import Place
from hardware.units import format_bytes, format_count, format_energy, format_fraction, format_seconds, format_usd
from simulator.planner.candidates import FREED, own_value
from simulator.planner.doubles import ROUNDING
from simulator.planner.outcome import played_start
from simulator.planner.planning import Progress
from simulator.planner.result import PlanSearch, RankedPlan, plain_value, plan_line, value_of
from simulator.plans.spec import Plan
from simulator.report.folder import json_text
from simulator.scenario.phases import phases_of
from simulator.scenario.resolved import scenario_yaml
from simulator.scenario.spec import Scenario

WIDTH = 100
# How what is minimised is written.
VALUES: dict[str, Callable[[float], str]] = {"cost": format_usd, "energy": format_energy, "finish": format_seconds}
# Seconds below which a difference of two plans' causes is not worth a word, as a share of the step.
WORTH_TELLING = 0.002
BESIDE_COMPUTE = "most lost to"
# Of a step: smaller shares are written as none.
LEAST_SHARE = 5e-4


def print_phases(scenario: Scenario) -> None:
    """Which plan is searched, where the run has phases with plans of their own."""
    names = ", ".join(phase.name for phase in phases_of(scenario))
    if names:
        sys.stdout.write(f"Phases     {names}: the scenario's own plan is searched; for a phase's write --phase NAME\n")


def print_start(scenario: Scenario) -> None:
    """The scenario's own plan, before the search begins."""
    from simulator.scenario.legal import problems

    broken = problems(scenario, Place(scenario.file))
    if broken:
        sys.stdout.write(f"Start      the scenario's own plan is not legal ({broken[0].key}); searching around it\n")
    else:
        own = played_start(scenario)
        free = scenario.cluster.accelerator.memory_capacity_bytes - own.device_bytes
        room = f"{format_bytes(free)} free" if free >= 0 else f"does not fit by {format_bytes(-free)}"
        sys.stdout.write(f"Start      {format_seconds(own.step_time_s)}, {room}: {plan_line(own.plan)}\n")
    sys.stdout.flush()


def progress_words(progress: Progress) -> str:
    """How far a search is, in one line."""
    words = [f"{format_fraction(progress.share_done)} of the space", f"{progress.covered:,} legal plans"]
    words.append(f"{progress.plans_per_s:,.0f}/s")
    if isfinite(progress.best_s):
        words.append(f"best {format_seconds(progress.best_s)}")
    if isfinite(progress.left_s) and progress.left_s >= 1:
        words.append(f"{format_seconds(float(round(progress.left_s)))} left")
    return ", ".join(words)


def print_search(scenario: Scenario, found: PlanSearch) -> None:
    """Prints the result on stdout: in colour on a terminal, as plain text elsewhere."""
    console = Console(highlight=False)
    if console.is_terminal:
        # A narrower terminal breaks lines rather than leaving out figures.
        Console(highlight=False, width=max(WIDTH, console.width)).print(search_report(scenario, found))
    else:
        sys.stdout.write(search_text(scenario, found))


def search_text(scenario: Scenario, found: PlanSearch) -> str:
    """The result as plain text."""
    stream = io.StringIO()
    Console(file=stream, highlight=False, width=WIDTH, no_color=True).print(search_report(scenario, found))
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


def search_report(scenario: Scenario, found: PlanSearch) -> Group:
    parts: list[RenderableType] = [covered(found)]
    if found.plans:
        parts += [
            plans_table(found),
            *endless(found),
            *ties(found),
            *runner_up(found),
            *against_start(found),
            *gains(found),
        ]
        parts += [front_table(scenario, found)]
    elif found.nearest is not None:
        parts.append(nothing_fits(scenario, found, found.nearest))
    else:
        parts.append(Text("Interrupted before any plan was played."))
    return Group(*parts)


def endless(found: PlanSearch) -> list[RenderableType]:
    """Plans whose whole run does not finish, and why, told by the first of them."""
    plans = [each for each in found.plans if each.never_ends is not None]
    if not plans:
        return []
    ranks = ", ".join(str(each.rank) for each in plans)
    return [Text(f"The whole run of {ranks} does not finish: {plans[0].never_ends}.", style="red")]


def covered(found: PlanSearch) -> Text:
    rate = found.legal / found.seconds if found.seconds > 0 else 0.0
    others = "the others are proven slower" if found.complete else "the others were not reached"
    played = f", {found.played:,} were played, {others}" if found.fitting else ""
    text = (
        f"{found.legal:,} legal plans covered in {format_seconds(found.seconds)} ({rate:,.0f}/s): "
        f"{found.fitting:,} {fitting_words(found.headroom_fraction)}{played}"
    )
    if found.objective != "time" and found.plans:
        text += f". Chosen by {found.objective} among the {found.priced} fastest that fit; {others_words(found)}"
    interrupted = "; interrupted, so these are the best so far" if found.plans and not found.complete else ""
    searched = ", ".join(f"{key} ({count})" for key, count in found.searched.items())
    refused = "".join(f"Refused: {reason}\n" for reason in found.refused)
    return Text(f"{text}{interrupted}\nSearched: {searched}, layout (up to 4 splits of the layers)\n{refused}")


def others_words(found: PlanSearch) -> str:
    """What plans that were not evaluated can come to by the objective, beside the best."""
    if found.is_proven_best:
        return "no other can be better, even without a failure"
    if found.others_least is None:
        return "others were not looked at"
    least = VALUES[found.objective](found.others_least)
    if found.plans[0].never_ends is not None:
        return f"any other comes to {least} or more, without a failure; this one never ends"
    best = VALUES[found.objective](value_of(found.plans[0], found.objective))
    return f"any other comes to {least} or more, without a failure; this one to {best}"


def fitting_words(headroom_fraction: float) -> str:
    """What plans do that count as fitting."""
    return f"leave {100 * headroom_fraction:.3g} % of memory free" if headroom_fraction else "fit in memory"


def plans_table(found: PlanSearch) -> Table:
    mean_name, mean_words = MEANS.get(found.objective, ("mean USD", cost_words))
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    for name in ("#", "step", "80 % interval", "MFU", "free", "finish P50 / P90", mean_name, BESIDE_COMPUTE):
        table.add_column(name, justify="left" if name == BESIDE_COMPUTE else "right", no_wrap=True)
    for each in found.plans:
        low, high = each.step_time_interval_s
        table.add_row(
            f"{each.rank}{'=' if each.tied else ''}",
            format_seconds(each.step_time_s),
            f"{format_seconds(low)} - {format_seconds(high)}",
            format_fraction(each.mfu_fraction),
            format_bytes(each.memory_free_bytes),
            finish_words(each),
            mean_words(each),
            bound_words(each),
        )
    lines = Table.grid()
    for each in found.plans:
        lines.add_row(Text(f"{each.rank:>3}  {plan_line(each.plan)}{freed_words(found, each.plan)}"))
    whole = Table.grid()
    whole.add_row(table)
    whole.add_row("")
    whole.add_row(lines)
    return whole


def freed_words(found: PlanSearch, plan: Plan) -> str:
    """The values of the keys that were searched and that a plan's line does not hold: those that were freed, and the
    dispatcher, which sorts tokens on one rank too."""
    left_out = {*FREED, "dispatcher"} if plan.ep == 1 else FREED
    values = {key: plain_value(own_value(plan, key)) for key in found.searched if key in left_out}
    return "".join(f" {key}={value}" for key, value in values.items())


def finish_words(each: RankedPlan) -> str:
    finish = each.finish_s or {}
    words = [format_seconds(finish[name]) if name in finish else "-" for name in ("p50", "p90")]
    return " / ".join(words)


def cost_words(each: RankedPlan) -> str:
    """US dollars of the mean run; none of a run that does not finish."""
    return "-" if each.cost_usd is None else format_count(each.cost_usd)


def energy_words(each: RankedPlan) -> str:
    """Energy of the mean run; none of a run that does not finish."""
    return "-" if each.energy_j is None else format_energy(each.energy_j)


# The column of what the mean run comes to, by objective: of all others it is dollars.
MEANS: dict[str, tuple[str, Callable[[RankedPlan], str]]] = {"energy": ("mean energy", energy_words)}


def bound_words(each: RankedPlan) -> str:
    """What takes most of the step beside computing, with its share; nothing where all else takes none."""
    share = each.breakdown_s[each.bound_by] / each.step_time_s
    return f"{each.bound_by} {format_fraction(share)}" if share >= LEAST_SHARE else "-"


def ties(found: PlanSearch) -> list[RenderableType]:
    tied = [each.rank for each in found.plans if each.tied]
    if not tied:
        return []
    words = ", ".join(map(str, [1, *tied]))
    return [Text(f"\n= These {len(tied) + 1} are closer than the prediction can tell: {words}.")]


def runner_up(found: PlanSearch) -> list[RenderableType]:
    """Why the second plan loses to the first."""
    if len(found.plans) < 2 or found.plans[1].behind_s is None:
        return []
    second = found.plans[1]
    late_s = second.step_time_s - found.plans[0].step_time_s
    if abs(late_s) <= ROUNDING * second.step_time_s:
        return [Text("\n1 and 2 take equally long; they differ in memory.")]
    told = {c: s for c, s in second.behind_s.items() if abs(s) >= WORTH_TELLING * second.step_time_s}  # type: ignore[union-attr]
    causes = ", ".join(f"{cause} {'+' if s > 0 else '-'}{format_seconds(abs(s))}" for cause, s in told.items())
    return [Text(f"\nWhy 2 is behind 1 by {format_seconds(late_s)}: {causes or 'no cause stands out'}.")]


def against_start(found: PlanSearch) -> list[RenderableType]:
    if found.start is None:
        return []
    own, best = found.start.step_time_s, found.plans[0].step_time_s
    capacity = found.start.device_memory_bytes + found.start.memory_free_bytes
    enough = found.start.memory_free_bytes >= found.headroom_fraction * capacity
    left = "" if enough else f" and does not {fitting_words(found.headroom_fraction)}"
    change = f"{format_fraction(abs(1 - best / own))} {'less' if best <= own else 'more'}"
    return [Text(f"The scenario's own plan takes {format_seconds(own)}{left}; the best {change}.")]


def gains(found: PlanSearch) -> list[RenderableType]:
    """What the keys brought that brought anything."""
    best = found.plans[0].step_time_s
    told = [gain for gain in found.gains if gain.gain_s >= WORTH_TELLING * best]
    if not told:
        return []
    lines = [
        f"  {gain.key}: {format_seconds(gain.gain_s)} ({plain_value(gain.own_value)} kept: "
        f"{format_seconds(gain.kept_step_time_s)}; best: {plain_value(gain.best_value)})"
        for gain in told
    ]
    against_s = told[0].kept_step_time_s - told[0].gain_s
    by_cost = best < against_s * (1 - ROUNDING)
    against = f", against {format_seconds(against_s)}, the best before layers are split by cost" if by_cost else ""
    return [Text(f"\nWhat freeing each key brought, all others free{against}:\n" + "\n".join(lines))]


def front_table(scenario: Scenario, found: PlanSearch) -> RenderableType:
    """Step time against the memory that stays free."""
    capacity = scenario.cluster.accelerator.memory_capacity_bytes
    table = Table(
        box=None, padding=(0, 1), pad_edge=False, title="\nStep time against free memory", title_justify="left"
    )
    for name in ("free", "step", "plan"):
        table.add_column(name, justify="left" if name == "plan" else "right")
    for point in found.front:
        free = format_fraction(1 - point.device_memory_bytes / capacity)
        table.add_row(
            free, format_seconds(point.step_time_s), Text(plan_line(point.plan) + freed_words(found, point.plan))
        )
    return table


def nothing_fits(scenario: Scenario, found: PlanSearch, nearest: RankedPlan) -> Text:
    capacity = scenario.cluster.accelerator.memory_capacity_bytes
    needed, wanted = nearest.device_memory_bytes, (1 - found.headroom_fraction) * capacity
    lines = [
        f"No plan can {fitting_words(found.headroom_fraction)}.",
        f"Nearest: {plan_line(nearest.plan)}{freed_words(found, nearest.plan)}: "
        f"{format_bytes(needed)} of {format_bytes(wanted)}, "
        f"{format_bytes(needed - wanted)} too much.",
        "It would fit with any of:",
        *(f"  {remedy}" for remedy in found.remedies),
    ]
    return Text("\n".join(lines))


def plan_files(scenario: Scenario, found: PlanSearch) -> dict[str, str]:
    """What a search leaves behind, by file name: best.yaml is a scenario that `evaluate` takes."""
    files = {
        "result.json": json_text(found.to_dict()),
        "report.txt": search_text(scenario, found),
        "plans.csv": found.to_frame().to_csv(index=False),
    }
    if found.plans:
        files["best.yaml"] = scenario_yaml(replace(scenario, plan=found.plans[0].plan))
    return files
