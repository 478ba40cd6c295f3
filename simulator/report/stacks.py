"""Software stacks as documents, and on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from simulator.stack import DEFAULT, Release, Stack, names, release
from simulator.stack.effects import overruled
from simulator.stack.releases import SourcedValue

NO_SOURCE = "assumed (no source is known)"


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
    """One release in full: every behaviour and plan setting with its source, and what it cannot do.

    `assumed` behaviours have no source; `overruled` says why another behaviour leaves one without effect (null: none
    does).
    """
    each = release(name)
    return {
        **_summary(each),
        "source": each.source,
        "plain_fp8": each.plain_fp8,
        "behaviours": _behaviours(each),
        "plan": _settings(each.plan),
        "plan_with_pipeline": _settings(each.plan_with_pipeline),
        "cannot": dict(each.cannot),
    }


def _behaviours(each: Release) -> dict[str, dict[str, Any]]:
    without_effect = overruled(each.stack)
    names_of_behaviours = [spec.name for spec in fields(Stack) if spec.name not in ("name", "framework")]
    return {
        name: {
            "value": getattr(each.stack, name),
            "source": each.sources.get(name, NO_SOURCE),
            "assumed": is_assumed(each.sources.get(name)),
            "overruled": without_effect.get(name),
        }
        for name in names_of_behaviours
    }


def _settings(settings: Mapping[str, SourcedValue]) -> dict[str, dict[str, Any]]:
    return {
        key: {"value": one.value, "source": one.source, "assumed": is_assumed(one.source)}
        for key, one in settings.items()
    }


def is_assumed(source: str | None) -> bool:
    """Whether nobody says so: there is no source, or it says itself that it is assumed or from memory."""
    return source is None or any(word in source for word in ("assumed", "from memory"))


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
            table.add_row(f"  {key}", _shown(entry), Text(entry["source"], style="dim"))
        console.print(table)
    if document["cannot"]:
        console.print(Text("\nIt cannot do, and is refused with (unless framework_rules is false)", style="bold"))
    for key, source in document["cannot"].items():
        console.print(Text(f"  {key}: {source}"))
    if document["source"]:
        console.print(Text(f"\nsource: {document['source']}", style="dim"))


def _shown(entry: Mapping[str, Any]) -> str:
    """A value; with why it does nothing where another behaviour overrules it."""
    value = entry["value"]
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return f"{text} (no effect: {entry['overruled']})" if entry.get("overruled") else text
