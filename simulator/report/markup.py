"""Rich's texts and tables as HTML, so that a page says what the terminal says, from the same rows."""

from __future__ import annotations

from collections.abc import Iterable

from markupsafe import Markup, escape
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

BLOCKS = frozenset("█░")  # what bars are drawn of: their columns only line up in letters of one width


def as_html(what: RenderableType) -> Markup:
    """Nested groups of texts and tables; TypeError for anything else. All text is escaped."""
    return Markup("\n").join(_blocks(what))


def _blocks(what: RenderableType) -> Iterable[Markup]:
    if isinstance(what, Group):
        for part in what.renderables:
            yield from _blocks(part)
    elif isinstance(what, Padding):
        yield from _blocks(what.renderable)
    elif isinstance(what, Table):
        yield _table(what)
    elif isinstance(what, (str, Text)):
        text = str(what).strip()
        if text:
            yield Markup("<p>{}</p>").format(text)
    else:
        raise TypeError(f"no HTML for {type(what).__name__}")


def _table(table: Table) -> Markup:
    rows = list(zip(*(column.cells for column in table.columns), strict=True))
    head = [column.header for column in table.columns] if table.show_header else []
    right = [column.justify == "right" for column in table.columns]
    kind = "rows" if head else "pairs"
    parts = [Markup('<table class="{}">').format(kind)]
    if head:
        parts.append(Markup("<thead>{}</thead>").format(_row(head, right, "th")))
    parts.append(Markup("<tbody>"))
    parts += [_row(row, right, "td") for row in rows]
    parts.append(Markup("</tbody></table>"))
    return Markup("\n").join(parts)


def _row(cells: Iterable[RenderableType], right: list[bool], tag: str) -> Markup:
    written = (
        Markup("<{0}{1}>{2}</{0}>").format(Markup(tag), Markup(' class="number"') if number else "", _cell(cell))
        for cell, number in zip(cells, right, strict=True)
    )
    return Markup("<tr>{}</tr>").format(Markup("").join(written))


def _cell(cell: RenderableType) -> Markup:
    if not isinstance(cell, (str, Text)):
        return as_html(cell)
    text = str(cell)
    return Markup('<span class="drawn">{}</span>').format(text) if BLOCKS & set(text) else escape(text)
