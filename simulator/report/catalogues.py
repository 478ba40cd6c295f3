"""The catalogues of models and hardware as documents, and on the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hardware import catalogue as parts
from hardware.units import format_bytes, format_count, format_flops_rate, format_power, format_rate
from simulator.fields import dimension_of
from simulator.model import catalogue as known_models
from simulator.model.parameters import active_parameters, total_parameters
from simulator.model.spec import Model
from simulator.plain import plain

READ: dict[parts.Kind, Any] = {"accelerators": parts.accelerator, "nodes": parts.node, "fabrics": parts.fabric}


def models_document() -> dict[str, Any]:
    """Every model by name: layers, width, parameters, source."""
    return {"models": [_model_row(known_models.load(name)) for name in known_models.names()]}


def _model_row(model: Model) -> dict[str, Any]:
    return {
        "name": model.name,
        "parameters": {"total": total_parameters(model), "active": active_parameters(model)},
        "layers": len(model.layers),
        "mtp_layers": len(model.mtp),
        "hidden": model.hidden,
        "vocab": model.vocab,
        "source": model.source,
    }


def model_document(model: Model) -> dict[str, Any]:
    """One model in full: equal neighbouring layers written once with how often they repeat."""
    stacks = [{"repeat": len(list(same)), **_layer(layer)} for layer, same in groupby(model.layers)]
    return {**_model_row(model), "layers_in_order": stacks, "mtp": [_layer(layer) for layer in model.mtp]}


def _layer(layer: Any) -> dict[str, Any]:
    return {name: _component(getattr(layer, name)) for name in ("mixer", "ffn") if getattr(layer, name) is not None}


def _component(component: Any) -> dict[str, Any]:
    return {"type": type(component).__name__, **plain(component)}


def hardware_document() -> dict[str, Any]:
    """The names of every accelerator, node and fabric, each with its entry."""
    return {kind: [plain(read(name)) for name in parts.names(kind)] for kind, read in READ.items()}


def part_document(name: str) -> list[dict[str, Any]]:
    """Every entry of that name, with its kind; a node and its accelerator may share one. Empty where there is none."""
    return [{"kind": kind[:-1], **plain(read(name))} for kind, read in READ.items() if _knows(kind, name)]


def _knows(kind: parts.Kind, name: str) -> bool:
    return parts.catalogue_name(kind, name) in parts.names(kind)


def part_names() -> list[str]:
    return sorted({name for kind in READ for name in (*parts.names(kind), *parts.aliases(kind))})


def print_models(document: Mapping[str, Any]) -> None:
    rows = (
        (m["name"], format_count(m["parameters"]["total"]), format_count(m["parameters"]["active"]), str(m["layers"]),
         str(m["hidden"]), str(m["vocab"]))
        for m in document["models"]
    )  # fmt: skip
    _print_table(("model", "total", "active", "layers", "hidden", "vocab"), rows)


def print_model(document: Mapping[str, Any]) -> None:
    """One model: its figures, then its layers."""
    console = _console()
    sizes = document["parameters"]
    console.print(Text(document["name"], style="bold cyan"))
    console.print(f"{format_count(sizes['total'])} parameters, {format_count(sizes['active'])} active; hidden "
                  f"{document['hidden']}, vocabulary {document['vocab']:,}")  # fmt: skip
    for stack in [*document["layers_in_order"], *({"repeat": "mtp", **layer} for layer in document["mtp"])]:
        inner = "; ".join(_words(stack[name]) for name in ("mixer", "ffn") if name in stack)
        console.print(f"  {stack['repeat']:>4} x {inner}")
    console.print(Text(f"source: {document['source']}", style="dim"))


def _words(component: Mapping[str, Any]) -> str:
    kept = (f"{key} {value}" for key, value in component.items() if key != "type" and value not in (None, False, 0))
    return f"{component['type']}({', '.join(kept)})"


def print_hardware(document: Mapping[str, Any]) -> None:
    """Three tables: accelerators, nodes, fabrics."""
    _print_table(
        ("accelerator", "bf16 / fp16", "fp8", "memory", "bandwidth", "power"),
        (
            (a["name"], _peak(a, "bf16", "fp16"), _peak(a, "fp8"), format_bytes(a["memory_capacity_bytes"]),
             format_rate(a["memory_bandwidth_bytes_per_s"]), format_power(a["tdp_w"]))
            for a in document["accelerators"]
        ),
    )  # fmt: skip
    _print_table(
        ("node", "GPUs", "accelerator", "scale-up", "domain", "scale-out"),
        (
            (n["name"], str(n["gpus"]), n["accelerator"]["name"], format_rate(n["scale_up"]["bandwidth_bytes_per_s"]),
             str(n["scale_up"]["domain_gpus"]), format_rate(n["nic"]["bandwidth_bytes_per_s"]))
            for n in document["nodes"]
        ),
    )  # fmt: skip
    _print_table(
        ("fabric", "kind", "tiers", "reaches", "planes"),
        (
            (f["name"], f["kind"], str(len(f["tiers"])), f"{f['tiers'][-1]['reach_gpus']:,}" if f["tiers"] else "-",
             str(f["planes"]))
            for f in document["fabrics"]
        ),
    )  # fmt: skip


def _peak(accelerator: Mapping[str, Any], *formats: str) -> str:
    peaks = accelerator["peak_flops_per_s"]
    return next((format_flops_rate(peaks[name]) for name in formats if name in peaks), "-")


def print_parts(document: Iterable[Mapping[str, Any]]) -> None:
    """Entries in full: every value by dotted key, with its source beside it."""
    for part in document:
        console = _console()
        console.print(Text(f"{part['kind']} {part['name']}", style="bold cyan"))
        sources = part["sources"]
        for key, value in _flat(part):
            source = sources.get(".".join(map(_stem, key.split("."))), "")
            console.print(Text(f"  {key:<42} {value!s:<20} {source}".rstrip()))


def _stem(name: str) -> str:
    """A field's name without its unit, as the catalogue's files and sources have it."""
    dimension = dimension_of(name)
    return name if dimension == "count" else name.removesuffix(f"_{dimension}")


def _flat(value: Any, key: str = "") -> Iterable[tuple[str, Any]]:
    """(dotted key, plain value) of everything in an entry, sources left out."""
    items = value.items() if isinstance(value, Mapping) else enumerate(value)
    for name, item in items:
        below = f"{key}.{name}" if key else str(name)
        if name == "sources":
            continue
        if isinstance(item, Mapping | list):
            yield from _flat(item, below)
        else:
            yield below, item


def _console() -> Console:
    return Console(highlight=False, soft_wrap=True, width=100)


def _print_table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for number, head in enumerate(heads):
        table.add_column(head, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console = _console()
    console.print(table)
    console.print()
