"""Memory of one rank over a step drawn as an SVG: owners stacked, the peak marked, the GPU's capacity as a line."""

from __future__ import annotations

from xml.sax.saxutils import escape

import numpy as np

from simulator.step.graph import Floats
from simulator.step.memory_timeline import MemoryTimeline

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 1100, 420, 70, 190, 46, 40
COLOURS = ("#4c78a8", "#9ecae9", "#f58518", "#ffbf79", "#54a24b", "#88d27a", "#b79a20", "#e45756")
GIB = 2**30


def memory_svg(held: MemoryTimeline, title: str, capacity_bytes: float) -> str:
    """Stacked areas in the order of the owners, constant between moments."""
    peak_bytes, moment_s, _ = held.peak()
    end_s = float(held.time_s[-1]) or 1.0
    top = 1.05 * max(peak_bytes, capacity_bytes)
    x = LEFT + held.time_s / end_s * (WIDTH - LEFT - RIGHT)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="22" font-size="15">{escape(title)}</text>',
    ]
    below = np.zeros(len(x))
    for number, (owner, size) in enumerate(held.by_owner.items()):
        colour = COLOURS[number % len(COLOURS)]
        parts.append(f'<path class="owner" d="{_area(x, below, below + size, top)}" fill="{colour}"/>')
        y = HEIGHT - BOTTOM - 18 * number
        parts.append(f'<rect x="{WIDTH - RIGHT + 12}" y="{y - 10}" width="12" height="12" fill="{colour}"/>')
        parts.append(f'<text x="{WIDTH - RIGHT + 29}" y="{y}">{escape(owner)}</text>')
        below = below + size
    line = _y(capacity_bytes, top)
    at = LEFT + moment_s / end_s * (WIDTH - LEFT - RIGHT)
    parts += [
        f'<path d="M{LEFT} {line:.1f}H{WIDTH - RIGHT}" stroke="#c00" stroke-dasharray="6 4"/>',
        f'<text x="{WIDTH - RIGHT + 6}" y="{line + 4:.1f}" fill="#c00">capacity {capacity_bytes / GIB:.1f} GiB</text>',
        f'<circle cx="{at:.1f}" cy="{_y(peak_bytes, top):.1f}" r="4"/>',
        f'<text x="{LEFT}" y="{HEIGHT - 12}">peak {peak_bytes / GIB:.1f} GiB at {moment_s:.4g} of {end_s:.4g} s</text>',
        *_axis(top),
        "</svg>\n",
    ]
    return "\n".join(parts)


def _y(size_bytes: float, top: float) -> float:
    return HEIGHT - BOTTOM - size_bytes / top * (HEIGHT - TOP - BOTTOM)


def _area(x: Floats, low: Floats, high: Floats, top: float) -> str:
    """Path between two step functions: along the upper one and back along the lower."""
    ahead = [f"H{right:.1f}V{_y(level, top):.1f}" for right, level in zip(x[1:], high[1:], strict=True)]
    back = [f"V{_y(level, top):.1f}H{left:.1f}" for left, level in zip(x[-2::-1], low[-2::-1], strict=True)]
    begin = f"M{x[0]:.1f} {_y(high[0], top):.1f}"
    return begin + "".join(ahead) + f"V{_y(low[-1], top):.1f}" + "".join(back) + "Z"


def _axis(top: float) -> list[str]:
    step = next(size for size in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if top / GIB / size <= 8 or size == 1000)
    marks = []
    for gib in range(0, int(top / GIB) + 1, step):
        y = _y(gib * GIB, top)
        marks.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{gib} GiB</text>')
        marks.append(f'<path d="M{LEFT} {y:.1f}h-4" stroke="black"/>')
    return marks
