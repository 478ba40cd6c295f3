"""`traincast collective`, over sizes or of gradients in buckets, and which cluster a word on the command line means."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from simulator.cli.common import AsJson, check_known, print_json

if TYPE_CHECKING:
    from hardware.specs import Cluster

ClusterName = Annotated[
    str, typer.Option("--cluster", metavar="CLUSTER", help="A scenario file, or NODE-GPUS as in h100-10240.")
]
FabricName = Annotated[
    str | None, typer.Option("--fabric", metavar="NAME", help="A fabric instead of the first that fits the node.")
]


Gpus = Annotated[int, typer.Option("--gpus", min=1, help="Ranks of the communicator, in the cluster's order.")]
Stride = Annotated[int, typer.Option("--stride", min=1, help="Ranks lie so many GPUs apart.")]


class OperationGroup(TyperGroup):
    """`collective gradients` is a command of its own; any other word is the OPERATION of the table over sizes."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        named = bool(args) and args[0] in self.commands
        return super().resolve_command(ctx, args if named else ["OPERATION", *args])


app = typer.Typer(cls=OperationGroup, no_args_is_help=True, rich_markup_mode=None)
# Options before the OPERATION belong to its command.
ANY_ORDER = {"ignore_unknown_options": True, "allow_interspersed_args": False}


@app.callback(context_settings=ANY_ORDER)
def collective() -> None:
    """One collective over sizes, as nccl-tests prints it, or `gradients`, reduced in buckets behind backward."""


@app.command("OPERATION")
def over_sizes(
    operation: Annotated[str, typer.Argument(metavar="OPERATION", help="all_reduce, all_gather, all_to_all ...")],
    cluster: ClusterName,
    gpus: Gpus,
    stride: Stride = 1,
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
    from hardware.collectives.size_table import size_table, sizes_between
    from hardware.problems import InputError, Problem
    from simulator.report.network import collective_document, print_collective

    check_known("operation", operation, OPERATIONS)
    for kind, name, known in (("--algorithm", algorithm, tuple(ALGORITHMS)), ("--protocol", protocol, PROTOCOLS)):
        if name is not None:
            check_known(kind, name, known)
    check_offered(operation, algorithm, protocol)
    machine = named_cluster(cluster, fabric)
    smallest, largest = size_option("--min", low), size_option("--max", high)
    if smallest > largest:
        raise InputError([Problem("--min", None, "", f"{low} is above --max {high}; give the smaller of both")])
    if not factor > 1:
        raise InputError([Problem("--factor", None, "", f"{factor:g} leads to no larger size; give more than 1, as 2")])
    with blamed_on("--factor"):
        sizes = sizes_between(smallest, largest, factor)
    with blamed_on("--gpus" if stride == 1 else "--gpus, --stride"):
        group = strided_group(machine, gpus, stride)
    with blamed_on("--algorithm" if algorithm else "OPERATION"):
        rows = size_table(operation, machine, gpus, sizes, algorithm, protocol, group)
    document = collective_document(operation, machine, gpus, rows)
    print_json(document) if as_json else print_collective(document)


@app.command()
def gradients(
    cluster: ClusterName,
    gpus: Gpus,
    layers: Annotated[
        str, typer.Option("--layers", metavar="SIZES", help="Gradients, first ready first: 64MiB,32x400MiB.")
    ],
    stride: Stride = 1,
    backward: Annotated[str, typer.Option("--backward", metavar="TIME", help="How long backward takes.")] = "0 s",
    scheme: Annotated[str, typer.Option("--scheme", help="ddp, horovod or push_pull (parameter servers).")] = "ddp",
    bucket: Annotated[
        str | None, typer.Option("--bucket", metavar="SIZE", help="ddp 25MiB, horovod 128MiB unless given.")
    ] = None,
    compression: Annotated[str, typer.Option("--compression", help="none, fp8, int8, topk or powersgd.")] = "none",
    keep: Annotated[
        float | None, typer.Option("--keep", help="topk: fraction of entries (0.01); powersgd: rank (4).")
    ] = None,
    servers: Annotated[
        int, typer.Option("--servers", min=0, help="push_pull: servers beside the workers; 0: they serve each other.")
    ] = 0,
    fabric: FabricName = None,
    as_json: AsJson = False,
) -> None:
    """Gradients of fp32 reduced in buckets while backward runs: bytes, seconds, what is exposed, bus bandwidth."""
    from hardware.collectives import strided_group
    from hardware.collectives.compression import COMPRESSIONS
    from hardware.collectives.gradients import SCHEMES, Reduction, reduce_gradients, tensor_sizes
    from hardware.units import parse
    from simulator.report.network import gradients_document, print_gradients

    check_known("--scheme", scheme, SCHEMES)
    check_known("--compression", compression, tuple(COMPRESSIONS))
    machine = named_cluster(cluster, fabric)
    with blamed_on("--backward"):
        backward_s = parse(backward, "s")
    with blamed_on("--bucket"):
        how = Reduction(scheme, parse(bucket, "bytes") if bucket else None, compression, keep, servers)
    with blamed_on("--layers"):
        sizes = tensor_sizes(layers)
    with blamed_on("--gpus" if stride == 1 else "--gpus, --stride"):
        group = strided_group(machine, gpus, stride)
    with blamed_on("--scheme, --compression, --keep, --servers"):
        rows = reduce_gradients(sizes, backward_s, group, machine, how)
    document = gradients_document(machine, gpus, how, backward_s, rows)
    print_json(document) if as_json else print_gradients(document)


def check_offered(operation: str, algorithm: str | None, protocol: str | None) -> None:
    """Raises InputError that names the option, where the operation has no such algorithm, or that no such protocol."""
    from hardware.collectives.algorithms import candidates

    for option, fixed in (("--algorithm", (algorithm, None)), ("--protocol", (algorithm, protocol))):
        with blamed_on(option):
            candidates(operation, *fixed)


@contextmanager
def blamed_on(options: str) -> Iterator[None]:
    """A value that cannot be, as an InputError that names the options behind it."""
    from hardware.problems import InputError, Problem

    try:
        yield
    except ValueError as error:
        raise InputError([Problem(options, None, "", str(error))]) from None


def size_option(option: str, text: str) -> float:
    """Bytes that an option says, above zero. Raises InputError that names the option."""
    from hardware.problems import InputError, Problem
    from hardware.units import QuantityError, parse

    try:
        size_bytes = parse(text, "bytes")
    except QuantityError as error:
        raise InputError([Problem(option, None, "", str(error))]) from None
    if not size_bytes > 0:
        raise InputError([Problem(option, None, "", f"{text} is no size; give one above 0, as 8 or 1MiB")])
    return size_bytes


def named_cluster(text: str, fabric: str | None = None) -> Cluster:
    """The cluster of a scenario file, or NODE-GPUS on the named fabric or the smallest that fits the node's ports."""
    from hardware import catalogue
    from hardware.problems import InputError, Place, Problem

    if text.endswith((".yaml", ".yml", ".json")) or Path(text).is_file():
        from simulator.scenario.schema import load_scenario

        return load_scenario(text).cluster
    name, _, count = text.rpartition("-")
    if not name or not count.isdigit() or int(count) < 1:
        message = f"{text!r} is neither a scenario file nor NODE-GPUS as in h100-10240"
        raise InputError([Problem("--cluster", None, "", message)])
    node = catalogue.node(name, Place("--cluster"))
    network = catalogue.fabric(fabric, Place("--fabric")) if fabric else catalogue.usual_fabric(node, int(count))
    return catalogue.cluster(int(count), node, network, at=Place("--cluster"))
