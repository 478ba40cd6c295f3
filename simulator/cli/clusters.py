"""`traincast collective`, and which cluster a word on the command line means."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from simulator.cli.common import AsJson, check_known, print_json

if TYPE_CHECKING:
    from hardware.specs import Cluster

ClusterName = Annotated[
    str, typer.Option("--cluster", metavar="CLUSTER", help="A scenario file, or NODE-GPUS as in h100-10240.")
]
FabricName = Annotated[
    str | None, typer.Option("--fabric", metavar="NAME", help="A fabric instead of the first that fits the node.")
]


def collective(
    operation: Annotated[str, typer.Argument(metavar="OPERATION", help="all_reduce, all_gather, all_to_all ...")],
    cluster: ClusterName,
    gpus: Annotated[int, typer.Option("--gpus", help="Ranks of the communicator, in the cluster's order.")],
    stride: Annotated[int, typer.Option("--stride", help="Ranks lie so many GPUs apart.")] = 1,
    low: Annotated[str, typer.Option("--min", metavar="SIZE", help="Smallest size.")] = "8",
    high: Annotated[str, typer.Option("--max", metavar="SIZE", help="Largest size.")] = "16GiB",
    factor: Annotated[float, typer.Option("--factor", help="Step between sizes.")] = 2.0,
    algorithm: Annotated[str | None, typer.Option("--algorithm", help="As NCCL_ALGO fixes it.")] = None,
    protocol: Annotated[str | None, typer.Option("--protocol", help="As NCCL_PROTO fixes it.")] = None,
    fabric: FabricName = None,
    as_json: AsJson = False,
) -> None:
    """One collective over sizes, laid out as nccl-tests prints it."""
    from hardware.collectives import ALGORITHMS, OPERATIONS, PROTOCOLS, strided_group
    from hardware.collectives.sweep import sizes_between, sweep
    from hardware.problems import InputError, Problem
    from hardware.units import QuantityError, parse
    from simulator.report.network import collective_document, print_collective

    check_known("operation", operation, OPERATIONS)
    for kind, name, known in (("--algorithm", algorithm, tuple(ALGORITHMS)), ("--protocol", protocol, PROTOCOLS)):
        if name is not None:
            check_known(kind, name, known)
    machine = named_cluster(cluster, fabric)
    try:
        sizes = sizes_between(parse(low, "bytes"), parse(high, "bytes"), factor)
        group = strided_group(machine, gpus, stride)
        rows = sweep(operation, machine, gpus, sizes, algorithm, protocol, group)
    except (QuantityError, ValueError) as error:
        raise InputError([Problem("command line", None, "", str(error))]) from None
    document = collective_document(operation, machine, gpus, rows)
    print_json(document) if as_json else print_collective(document)


def named_cluster(text: str, fabric: str | None = None) -> Cluster:
    """The cluster of a scenario file, or NODE-GPUS on the named fabric or the smallest that fits the node's ports."""
    from hardware import catalogue
    from hardware.problems import InputError, Problem

    if text.endswith((".yaml", ".yml", ".json")) or Path(text).is_file():
        from simulator.scenario.schema import load_scenario

        return load_scenario(text).cluster
    name, _, count = text.rpartition("-")
    if not name or not count.isdigit() or int(count) < 1:
        message = f"{text!r} is neither a scenario file nor NODE-GPUS as in h100-10240"
        raise InputError([Problem("--cluster", None, "", message)])
    node = catalogue.node(name)
    return catalogue.cluster(int(count), node, fabric or catalogue.usual_fabric(node, int(count)).name)
