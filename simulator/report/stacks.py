"""Software stacks as documents, and on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from simulator.stack import DEFAULT, Release, Stack, names, release

NO_SOURCE = "what software does that says nothing else"


def stacks_document() -> dict[str, Any]:
    """Every release by name, newest first."""
    releases = sorted((release(name) for name in names()), key=lambda each: (each.date, each.name), reverse=True)
    return {"stacks": [_summary(each) for each in releases]}


def _summary(each: Release) -> dict[str, Any]:
    return {
        "name": each.name,
        "title": each.title,
        "date": each.date,
        "framework": each.stack.framework,
        "like": each.like,
        "default": each.name == DEFAULT,
    }


def stack_document(name: str) -> dict[str, Any]:
    """One release in full: every behaviour and every plan setting, each with its source."""
    each = release(name)
    behaviours = {
        spec.name: {"value": getattr(each.stack, spec.name), "source": each.sources.get(spec.name, NO_SOURCE)}
        for spec in fields(Stack)
        if spec.name not in ("name", "framework")
    }
    settings = {key: {"value": one.value, "source": one.source} for key, one in each.plan.items()}
    pipelined = {key: {"value": one.value, "source": one.source} for key, one in each.plan_with_pipeline.items()}
    return {
        **_summary(each),
        "source": each.source,
        "plain_fp8": each.plain_fp8,
        "behaviours": behaviours,
        "plan": settings,
        "plan_with_pipeline": pipelined,
    }


def print_stacks(document: Mapping[str, Any]) -> None:
    """A line for each release."""
    console = Console(highlight=False, soft_wrap=True)
    width = max(len(each["name"]) for each in document["stacks"])
    for each in document["stacks"]:
        default = " (taken where a plan names none)" if each["default"] else ""
        console.print(
            Text(f"{each['name']:<{width}}  {each['date']}  {each['framework']:<13}  {each['title']}{default}")
        )


def print_stack(document: Mapping[str, Any]) -> None:
    """One release: what it does, what it sets of a plan, and where each is known from."""
    console = Console(highlight=False, soft_wrap=True, width=100)
    console.print(Text(f"{document['name']}: {document['title']}, {document['date']}", style="bold cyan"))
    about = f"framework {document['framework']}; fp8 alone means {document['plain_fp8']}"
    console.print(about + (f"; like {document['like']}" if document["like"] else ""))
    heads = {
        "behaviours": "It does by itself",
        "plan": "It sets these keys of a plan that leaves them out",
        "plan_with_pipeline": "With pp above 1 also",
    }
    for part, head in heads.items():
        if not document[part]:
            continue
        console.print(Text(f"\n{head}", style="bold"))
        table = Table(box=None, pad_edge=False, show_header=False)
        for key, entry in document[part].items():
            table.add_row(f"  {key}", _shown(entry["value"]), Text(entry["source"], style="dim"))
        console.print(table)
    if document["source"]:
        console.print(Text(f"\nsource: {document['source']}", style="dim"))


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
