"""`traincast hardware`, `models`, `stacks` and `schema`: what is known by name, and what the files must look like."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from simulator.cli.clusters import FabricName, named_cluster
from simulator.cli.common import AsJson, check_known, print_json

if TYPE_CHECKING:
    from hardware.topology.summary import NetworkSummary

Name = Annotated[str | None, typer.Argument(metavar="[NAME]", help="One entry in full; all of them when left out.")]


def models(name: Name = None, as_json: AsJson = False) -> None:
    """The models known by name, or one layer by layer."""
    from simulator.model import catalogue
    from simulator.report import catalogues as report

    if name is None:
        listing = report.models_document()
        print_json(listing) if as_json else report.print_models(listing)
    else:
        name = check_known("model", name, catalogue.names())
        document = report.model_document(catalogue.load(name))
        print_json(document) if as_json else report.print_model(document)


def stacks(
    name: Name = None, entry: Annotated[str | None, typer.Argument(hidden=True)] = None, as_json: AsJson = False
) -> None:
    """The software stacks that a plan can name, or what one does by itself, with sources (`show NAME`, or NAME)."""
    from simulator.report import stacks as report
    from simulator.stack import names

    if name == "show":
        name = entry
    if name is None:
        listing = report.stacks_document()
        print_json(listing) if as_json else report.print_stacks(listing)
    else:
        name = check_known("stack", name, names())
        document = report.stack_document(name)
        print_json(document) if as_json else report.print_stack(document)


def hardware(
    name: Name = None,
    entry: Annotated[str | None, typer.Argument(hidden=True)] = None,
    fabric: FabricName = None,
    as_json: AsJson = False,
) -> None:
    """The hardware known by name, one part with sources, or a network: of a cluster (`show h100-10240`), a JSON or
    GraphML graph, NCCL's topology XML, or the matrix of `nvidia-smi topo -m`."""
    from hardware.problems import InputError, Problem, known_name
    from simulator.report import catalogues as report

    if name == "show":
        name = entry
    is_file = name is not None and name.endswith((".json", ".graphml", ".xml", ".txt"))
    if name is not None:
        name = known_name(name, report.part_names())
    if name is not None and name not in report.part_names() and (is_file or fabric or name.split("-")[-1].isdigit()):
        from simulator.report.network import print_network

        network = _network_of_file(name) if is_file else _network_of_cluster(name, fabric)
        print_json(network.to_dict()) if as_json else print_network(network)
    elif fabric is not None:
        raise InputError([Problem("--fabric", None, "", _why_no_fabric(name, fabric))])
    elif name is None:
        listing = report.hardware_document()
        print_json(listing) if as_json else report.print_hardware(listing)
    else:
        check_known("hardware", name, report.part_names())
        parts = report.part_document(name)
        print_json({"parts": parts}) if as_json else report.print_parts(parts)


def _why_no_fabric(name: str | None, fabric: str) -> str:
    """Why a fabric changes nothing of a part, or of the list of all."""
    if name is None:
        return f"is of a cluster, as in 'hardware h100-1024 --fabric {fabric}'; the list of all parts has none"
    return f"is of a cluster, as in 'hardware {name}-1024 --fabric {fabric}'; {name} is a part and has none"


def _network_of_cluster(name: str, fabric: str | None) -> NetworkSummary:
    """InputError where the fabric cannot be wired for so many of these nodes."""
    from hardware.problems import InputError, Problem
    from hardware.topology.summary import summarise_cluster

    cluster = named_cluster(name, fabric)
    try:
        return summarise_cluster(cluster)
    except ValueError as error:
        raise InputError([Problem("--fabric", None, "", str(error))]) from None


def _network_of_file(path: str) -> NetworkSummary:
    """A graph, what NCCL found on a server (.xml, NCCL_TOPO_DUMP_FILE), or `nvidia-smi topo -m` in a .txt file."""
    from hardware.topology.custom import read_network
    from hardware.topology.nccl_xml import read_nccl_topology
    from hardware.topology.summary import summarise_network
    from hardware.topology.topo_matrix import read_topo_matrix

    readers = {".xml": read_nccl_topology, ".txt": read_topo_matrix}
    read = readers.get(Path(path).suffix, read_network)
    return summarise_network(read(path))


def schema(
    what: Annotated[
        str,
        typer.Argument(
            metavar="WHAT", help="scenario (the input file), keys (its reference, Markdown), or a verb's document."
        ),
    ],
) -> None:
    """The JSON Schema of scenario files or of a document."""
    from simulator.report.document import document_schema, documented_verbs
    from simulator.scenario.schema import scenario_schema

    check_known("schema", what, ["scenario", "keys", *documented_verbs()])
    if what == "keys":
        from simulator.scenario.key_reference import key_reference

        typer.echo(key_reference(), nl=False)
        return
    print_json(scenario_schema() if what == "scenario" else document_schema(what))
