"""`traincast hardware`, `traincast models`, `traincast schema`: what is known by name, and what files must look like."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from simulator.cli.common import AsJson, print_json, refused

Name = Annotated[str | None, typer.Argument(metavar="[NAME]", help="One entry in full; all of them when left out.")]


def models(name: Name = None, as_json: AsJson = False) -> None:
    """The model catalogue: sizes, and one model layer by layer."""
    from simulator.report.catalogues import model_document, models_document, print_model, print_models

    if name is None:
        document = models_document()
        show: Any = print_models
    else:
        document = model_document(name)
        show = print_model
    print_json(document) if as_json else show(document)


def hardware(name: Name = None, as_json: AsJson = False) -> None:
    """The hardware catalogue: accelerators, nodes and fabrics, and one entry with the source of every value."""
    from simulator.report.catalogues import hardware_document, part_document, print_hardware, print_part

    if name is None:
        document = hardware_document()
        show: Any = print_hardware
    else:
        document = part_document(name)
        show = print_part
    print_json(document) if as_json else show(document)


def schema(
    what: Annotated[str, typer.Argument(metavar="WHAT", help="scenario (the input file), or a verb's JSON document.")],
) -> None:
    """Prints the JSON Schema of scenario files (for editors) or of a verb's --json document."""
    from simulator.report.document import document_schemas
    from simulator.scenario.schema import scenario_schema

    known = {"scenario": scenario_schema, **document_schemas()}
    if what not in known:
        raise refused("schema", what, known)
    print_json(known[what]())
