"""A step drawn as an SVG: a row per pipeline rank, a box per slot with its micro-batch."""

from __future__ import annotations

from xml.sax.saxutils import escape

import numpy as np

from simulator.step.graph import KIND, KINDS, STREAM
from simulator.step.timeline import Timeline

WIDTH, ROW, LEFT, TOP = 1400, 26, 70, 46
COLOURS = {"F": "#4c78a8", "B": "#54a24b", "I": "#88c27f", "W": "#f2a93b", "FB": "#7b6fb3", "send_forward": "#c4c4c4",
           "send_backward": "#c4c4c4", "optimizer": "#d6616b"}  # fmt: skip
LABELS = {"F": "forward", "B": "backward", "I": "input gradient", "W": "weight gradient", "FB": "forward + backward",
          "optimizer": "optimizer"}  # fmt: skip
LATER_CHUNK_OPACITY = 0.5  # chunks after a rank's first are drawn lighter, with dark numbers
DARK = "#22303c"
GLYPH, SMALLEST = 0.56, 5.5  # width of a digit over the font size; the smallest size that can still be read


def gantt_svg(timeline: Timeline, title: str) -> str:
    """The compute streams of every pipeline rank over the step. Numbers shrink to fit their boxes, while they can
    be read."""
    graph = timeline.graph
    scale = (WIDTH - LEFT - 20) / max(timeline.step_time_s, 1e-30)
    height = TOP + ROW * graph.ranks + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
        ' font-family="sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{LEFT}" y="20" font-size="15">{escape(title)}</text>',
    ]
    for rank in range(graph.ranks):
        y = TOP + ROW * rank
        parts.append(f'<text x="8" y="{y + 16}">rank {rank}</text>')
        parts.append(f'<rect x="{LEFT}" y="{y}" width="{WIDTH - LEFT - 20}" height="{ROW - 4}" fill="#f3f3f3"/>')
    for task in np.flatnonzero(graph.stream == STREAM["compute"]).tolist():
        parts.append(_box(timeline, task, scale))
    parts += _legend(timeline, height - 16)
    return "\n".join([*parts, "</svg>\n"])


def _box(timeline: Timeline, task: int, scale: float) -> str:
    graph = timeline.graph
    kind = KINDS[graph.kind[task]]
    x, y = LEFT + timeline.start_s[task] * scale, TOP + ROW * int(graph.rank[task])
    width = (timeline.end_s[task] - timeline.start_s[task]) * scale
    opacity = LATER_CHUNK_OPACITY if graph.chunk[task] > 0 else 1
    pair = f"/{graph.backward_microbatch[task]}" if kind == "FB" else ""
    text = f"{graph.microbatch[task]}{pair}" if graph.microbatch[task] >= 0 else ""
    box = (
        f'<rect x="{x:.2f}" y="{y}" width="{max(width, 0.3):.2f}" height="{ROW - 4}" fill="{COLOURS[kind]}"'
        f' fill-opacity="{opacity}" stroke="white" stroke-width="0.5"/>'
    )
    size = min(11.0, (width - 1) / (GLYPH * len(text))) if text else 0.0
    if size >= SMALLEST:
        colour = "white" if opacity == 1 else DARK
        middle = f'x="{x + width / 2:.2f}" y="{y + 11 + 0.36 * size:.1f}" text-anchor="middle"'
        box += f'<text {middle} font-size="{size:.1f}" fill="{colour}">{text}</text>'
    return box


def _legend(timeline: Timeline, y: float) -> list[str]:
    parts, x = [], float(LEFT)
    for kind, label in LABELS.items():
        if (timeline.graph.kind == KIND[kind]).any():
            parts.append(f'<rect x="{x}" y="{y - 10}" width="12" height="12" fill="{COLOURS[kind]}"/>')
            parts.append(f'<text x="{x + 17}" y="{y}">{label}</text>')
            x += 150
    if (timeline.graph.chunk > 0).any():
        parts.append(f'<rect x="{x}" y="{y - 10}" width="12" height="12" fill="#777" fill-opacity="0.5"/>')
        parts.append(f'<text x="{x + 17}" y="{y}">lighter: later chunk of the rank</text>')
    seconds = timeline.step_time_s
    length = f"{seconds:.4g} s" if seconds >= 1 else f"{seconds * 1e3:.4g} ms"
    parts.append(f'<text x="{WIDTH - 20}" y="{y}" text-anchor="end">{length}</text>')
    return parts
