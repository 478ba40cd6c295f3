"""Stacked horizontal bars as an SVG: what a whole consists of, one bar for each of its bearers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, LEFT, RIGHT, ROW, TOP = 1100, 130, 110, 24, 16
LEGEND_ROW, LETTER = 22, 7.0  # height of a line of the legend; width of a letter at its size
COLOURS = (
    "#4c78a8",
    "#f58518",
    "#54a24b",
    "#e45756",
    "#72b7b2",
    "#b279a2",
    "#eeca3b",
    "#9d755d",
    "#9ecae9",
    "#88d27a",
    "#bab0ac",
    "#ff9da6",
)


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: its label, and its parts by name in the order in which they are stacked."""

    label: str
    parts: Mapping[str, float]

    @property
    def total(self) -> float:
        return sum(self.parts.values())


def bars_svg(bars: Sequence[Bar], written: Callable[[float], str], limit: tuple[str, float] | None = None) -> str:
    """The bars below each other on one scale, totals beside them, a legend below; `limit`: a named line to stay under.

    `written` gives sizes as people read them. Parts that are nowhere above zero are left out.
    """
    names = [name for name in _names(bars) if any(bar.parts.get(name, 0.0) > 0 for bar in bars)]
    colours = {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(names)}
    longest = max([bar.total for bar in bars] + ([limit[1]] if limit else [])) or 1.0
    scale = (WIDTH - LEFT - RIGHT) / longest
    bottom = TOP + ROW * len(bars)
    legend, legend_height = _legend(colours, bottom + 30)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + 22 + legend_height}"'
        ' font-family="sans-serif" font-size="12">'
    ]
    for number, bar in enumerate(bars):
        parts += _drawn(bar, TOP + ROW * number, scale, colours, written)
    if limit:
        name, size = limit
        x = LEFT + size * scale
        parts.append(f'<path d="M{x:.1f} {TOP - 6}V{bottom}" stroke="#c00" stroke-dasharray="5 4"/>')
        words = escape(f"{name} {written(size)}")
        parts.append(f'<text x="{x:.1f}" y="{bottom + 12}" fill="#c00" text-anchor="end">{words}</text>')
    return "\n".join([*parts, *legend, "</svg>\n"])


def _names(bars: Sequence[Bar]) -> list[str]:
    return list(dict.fromkeys(name for bar in bars for name in bar.parts))


def _drawn(bar: Bar, y: float, scale: float, colours: Mapping[str, str], written: Callable[[float], str]) -> list[str]:
    middle = y + ROW / 2 + 3
    drawn = [f'<text x="{LEFT - 8}" y="{middle:.1f}" text-anchor="end">{escape(bar.label)}</text>']
    x = float(LEFT)
    for name, colour in colours.items():
        width = max(bar.parts.get(name, 0.0), 0.0) * scale
        if width > 0:
            tip = escape(f"{name} {written(bar.parts[name])}")
            box = f'x="{x:.2f}" y="{y}" width="{width:.2f}" height="{ROW - 5}" fill="{colour}"'
            drawn.append(f"<rect {box}><title>{tip}</title></rect>")
        x += width
    drawn.append(f'<text x="{x + 6:.1f}" y="{middle:.1f}">{escape(written(bar.total))}</text>')
    return drawn


def _legend(colours: Mapping[str, str], y: float) -> tuple[list[str], float]:
    """Boxes with names, in as many lines as they need, and the height of all."""
    drawn, x, line = [], float(LEFT), 0
    for name, colour in colours.items():
        width = 17 + LETTER * len(name) + 20
        if x + width > WIDTH - 10 and x > LEFT:
            x, line = float(LEFT), line + 1
        at = y + LEGEND_ROW * line
        drawn.append(f'<rect x="{x:.1f}" y="{at - 10}" width="12" height="12" fill="{colour}"/>')
        drawn.append(f'<text x="{x + 17:.1f}" y="{at}">{escape(name)}</text>')
        x += width
    return drawn, LEGEND_ROW * (line + 1)
