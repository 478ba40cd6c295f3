"""Small SVG figures drawn by hand: a scatter of predicted against measured, and strips of errors by group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from math import ceil, floor, log10

import numpy as np

PALETTE = ("#3b6fb6", "#d1743c", "#3f9b62", "#b5485d", "#7b5ea7", "#8a7a3d", "#4aa3a8", "#666666", "#c14f9a", "#2f2f2f")
FONT = 'font-family="sans-serif" font-size="11"'


def document(width: int, height: int, title: str, body: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
    back = f'<rect width="{width}" height="{height}" fill="white"/>'
    name = f"<title>{escape(title)}</title>"
    caption = f'<text x="{width / 2:.0f}" y="16" text-anchor="middle" {FONT} font-weight="bold">{escape(title)}</text>'
    return "\n".join([head, name, back, caption, *body, "</svg>", ""])


def text(x: float, y: float, words: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {FONT}>{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, colour: str = "#bbb", dash: str = "") -> str:
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"{dashed}/>'


def scatter(title: str, points: Sequence[tuple[float, float, str]], unit: str) -> str:
    """Points (measured, predicted, group) on logarithmic axes, with the diagonal and lines 20 % off."""
    size, left, top = 420, 55, 28
    values = [value for point in points for value in point[:2]]
    low, high = floor(log10(min(values))), ceil(log10(max(values)))

    def at(value: float) -> float:
        return (log10(value) - low) / (high - low) * size

    body = [f'<rect x="{left}" y="{top}" width="{size}" height="{size}" fill="none" stroke="#888"/>']
    for power in range(low, high + 1):
        step = (power - low) / (high - low) * size
        body += [line(left + step, top, left + step, top + size, "#eee"),
                 text(left + step, top + size + 15, tick(power)),
                 line(left, top + size - step, left + size, top + size - step, "#eee"),
                 text(left - 5, top + size - step + 4, tick(power), "end")]  # fmt: skip
    for factor, dash in ((1.0, ""), (1.2, "3 3"), (1 / 1.2, "3 3")):
        shift = log10(factor) / (high - low) * size
        body.append(line(left + max(0.0, -shift), top + size - max(0.0, shift), left + size - max(0.0, shift),
                         top + max(0.0, -shift), "#999", dash))  # fmt: skip
    groups = sorted({group for _, _, group in points})
    colours = {group: PALETTE[number % len(PALETTE)] for number, group in enumerate(groups)}
    body += [
        f'<circle cx="{left + at(measured):.1f}" cy="{top + size - at(predicted):.1f}" r="3" '
        f'fill="{colours[group]}" fill-opacity="0.65"/>'
        for measured, predicted, group in points
    ]
    for number, group in enumerate(groups):
        y = top + 14 + 15 * number
        body += [f'<circle cx="{left + size + 14}" cy="{y - 4}" r="4" fill="{colours[group]}"/>',
                 text(left + size + 23, y, group, "start")]  # fmt: skip
    body += [
        text(left + size / 2, top + size + 32, f"measured, {unit}"),
        f'<g transform="translate(13 {top + size / 2:.0f}) rotate(-90)">{text(0, 0, f"predicted, {unit}")}</g>',
    ]
    return document(left + size + 130, top + size + 42, title, body)


def tick(power: int) -> str:
    return f"{10.0**power:g}"


def strips(title: str, groups: Mapping[str, Sequence[float]], limit: float = 0.6) -> str:
    """One line to a group: its errors as dots, its median as a bar; errors beyond `limit` stand at the edge."""
    width, left, top, row = 460, 120, 34, 22
    height = row * len(groups)

    def at(error: float) -> float:
        return left + (min(max(error, -limit), limit) + limit) / (2 * limit) * width

    body = []
    for error in np.linspace(-limit, limit, 7):
        body += [line(at(error), top, at(error), top + height, "#ccc" if abs(error) > 1e-9 else "#888"),
                 text(at(error), top + height + 15, f"{100 * error:+.0f} %")]  # fmt: skip
    for number, (group, errors) in enumerate(groups.items()):
        y = top + row * (number + 0.5)
        body.append(text(left - 8, y + 4, f"{group} ({len(errors)})", "end"))
        body += [
            f'<circle cx="{at(e):.1f}" cy="{y:.1f}" r="3" fill="{PALETTE[0]}" fill-opacity="0.4"/>' for e in errors
        ]
        middle = at(float(np.median(errors)))
        body.append(f'<rect x="{middle - 1.5:.1f}" y="{y - 8:.1f}" width="3" height="16" fill="{PALETTE[3]}"/>')
    return document(left + width + 30, top + height + 26, title, body)
