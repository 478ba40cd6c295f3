"""`traincast launch`: the files that start the plan that was predicted, for a framework under a scheduler."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hardware.units import format_bytes
from simulator.cli.common import AsJson, Overrides, ScenarioFile, print_json

if TYPE_CHECKING:
    from simulator.launch import Launch

To = Annotated[
    str,
    typer.Option(
        "--to", metavar="TARGET", help="megatron, bridge, torchtitan or deepspeed; a release as megatron@0.16."
    ),
]
On = Annotated[str, typer.Option("--on", metavar="SCHEDULER", help="slurm, kubernetes or torchrun.")]
Folder = Annotated[Path, typer.Option("--out", metavar="DIR", help="A new folder for the files.")]
Partial = Annotated[
    bool,
    typer.Option(
        "--partial",
        help="Write what can be told though not all can be, and name what is left out.",
    ),
]


PhaseName = Annotated[
    str | None,
    typer.Option("--phase", metavar="NAME", help="This phase alone; without it each phase has a folder."),
]


def launch(
    scenario: ScenarioFile,
    to: To,
    out: Folder,
    on: On = "slurm",
    set_: Overrides = None,
    partial: Partial = False,
    phase: PhaseName = None,
    as_json: AsJson = False,
) -> None:
    """The files that start a scenario: arguments or recipe, environment, job file, README, manifest.

    Exit code 0 when the files were written, 1 when the target cannot be told all of the plan and nothing was (what, and
    the nearest plan that it can, are printed), 2 when the scenario cannot be read or the folder exists. --partial
    writes what can be said and exits with 0; a warning on stderr names each key that is left out, as README.md does.
    A run of several phases gives a folder for each, to be started one after another.
    """
    from simulator.launch import launch as launched
    from simulator.launch.folder import check_free, write_folder
    from simulator.launch.phases import phase_names
    from simulator.scenario.schema import load_scenario

    check_free(out)
    loaded = load_scenario(scenario, set_ or [])
    names = (phase,) if phase is not None else phase_names(loaded) or (None,)
    folders = [out] if len(names) == 1 else phase_folders(out, names)
    every = [launched(loaded, to, on, partial=partial, phase=name) for name in names]
    if all(made.files for made in every):
        for made, folder in zip(every, folders, strict=True):
            write_folder(folder, made.files)
            sys.stderr.writelines(f"warning: left out {each.text}\n" for each in made.inexpressible)
    if as_json:
        documents = [made.to_dict() for made in every]
        print_json(documents[0] if len(every) == 1 else phases_document(documents, names, folders))
    else:
        sys.stdout.write("\n".join(launch_text(*each) for each in zip(every, folders, strict=True)))
    raise typer.Exit(0 if all(made.files for made in every) else 1)


def phase_folders(out: Path, names: Sequence[str | None]) -> list[Path]:
    """A folder for each phase, in the order in which they are started."""
    from simulator.launch.text import job_name

    return [out / f"{number}-{job_name(name or '')}" for number, name in enumerate(names, 1)]


def phases_document(
    documents: Sequence[dict[str, Any]], names: Sequence[str | None], folders: Sequence[Path]
) -> dict[str, Any]:
    """The launches of all phases as one document."""
    each = zip(documents, names, folders, strict=True)
    return {
        "target": documents[0]["target"],
        "complete": all(document["complete"] for document in documents),
        "phases": [{"name": name, "folder": str(folder), **document} for document, name, folder in each],
    }


def launch_text(made: Launch, out: Path) -> str:
    """What was written, what could not be said, and the nearest plan that can."""
    lines = [f"{out}: {len(made.files)} files, start with README.md"] if made.files else ["nothing was written"]
    lines.append(_predicted(made))
    lines += [f"mind: {note}" for note in made.notes]
    if made.complete:
        return "\n".join([*lines, ""])
    left_out = "; these keys are left out, so what runs differs from what was predicted" if made.files else ""
    lines += ["", f"{made.table.title} cannot be told all of it{left_out}:"]
    lines += [f"  {each.text}" for each in made.inexpressible]
    nearest = _nearest_lines(made)
    lines += ["", *nearest, ""] if nearest else [""]
    return "\n".join(lines)


def _predicted(made: Launch) -> str:
    """The step and memory of what is launched, and the stack that they are of."""
    from simulator.report.beyond import step_seconds

    forecast = made.forecast
    step, memory = step_seconds(forecast.step_time_s), format_bytes(forecast.peak_memory_bytes)
    stack = made.scenario.plan.stack.name
    return f"predicted on {stack}: {step} a step, {memory} allocated at the peak of the fullest GPU"


def _nearest_lines(made: Launch) -> list[str]:
    from simulator.launch.assemble import NEAREST_UNFIT

    if made.nearest is None:
        unfit = NEAREST_UNFIT in made.notes
        return [] if unfit else _beyond_the_plan(made) or ["no plan near this one can be told; see the reasons above"]
    overrides = " ".join(f"--set '{each}'" for each in made.nearest.overrides)
    lines = ["the nearest plan that it can be told:", f"  {overrides}"]
    if made.nearest_step_time_s is not None:
        from simulator.report.beyond import step_seconds

        step, asked = (step_seconds(each) for each in (made.nearest_step_time_s, made.forecast.step_time_s))
        stack, of = made.nearest.plan.stack.name, made.scenario.plan.stack.name
        lines.append(f"  {step} a step on {stack} instead of {asked} on {of}")
    return lines


def _beyond_the_plan(made: Launch) -> list[str]:
    """What to set beside the plan before a plan near this one can be told; nothing where no such value is known."""
    from simulator.launch.nearest import value_text
    from simulator.launch.tables import MISSING

    others = {each.key: each.nearest for each in made.inexpressible if not each.key.startswith("plan.")}
    known = {key: value for key, value in others.items() if value is not MISSING}
    if not others or len(known) < len(others):
        return []
    overrides = " ".join(f"--set '{key}={value_text(value)}'" for key, value in known.items())
    return ["keys beside the plan must change before any plan can be told; the nearest:", f"  {overrides}"]
