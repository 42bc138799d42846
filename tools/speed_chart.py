"""Draws the result of compare_engines.py as an SVG: bars of other engines' time over fastconv's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

#: One panel: (title, [(network, best other / fastconv, onnxruntime / fastconv or None)], means).
Row = tuple[str, float, float | None]

WIDTH, LABELS, GAP, TOP, BOTTOM = 460, 132, 28, 104, 34
ROW, BAR = 30, 11
INK, FAINT, GRID = "#1f2328", "#59636e", "#d8dee4"
BEST, ORT = "#0b6e99", "#e0a458"


def ticks(most: float) -> list[float]:
    """Where the axis is labelled, from 0 to past ``most``."""
    step = next(s for s in (0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0) if most / s <= 7)
    return [step * k for k in range(int(most / step) + 2)]


def text(
    x: float, y: float, value: str, size: int, anchor: str = "start", more: str = f'fill="{INK}"'
) -> str:
    """One SVG text element; ``more`` are further attributes."""
    place = f'x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}"'
    return f"<text {place} {more}>{escape(value)}</text>"


def bar(x: float, y: float, scale: float, colour: str, value: float) -> str:
    """A bar with its number behind it, clear of the line at 1."""
    end, line = x + value * scale, x + scale
    box = f'<rect x="{x:.1f}" y="{y:.1f}" width="{end - x:.1f}" height="{BAR}" fill="{colour}"/>'
    at = line + 4 if line - 30 < end < line else end + 4
    return box + text(at, y + BAR - 2, f"{value:.2f}", 10, more=f'fill="{FAINT}"')


def panel(left: float, title: str, rows: Sequence[Row], most: float) -> list[str]:
    """The bars of one number of threads."""
    x0, width = left + LABELS, WIDTH - LABELS - 44
    marks = ticks(most)
    scale = width / marks[-1]
    bottom = TOP + ROW * len(rows)
    out = [text(x0, TOP - 12, title, 13, more=f'fill="{INK}" font-weight="600"')]
    for t in marks:
        x = x0 + t * scale
        out.append(f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{bottom}" stroke="{GRID}"/>')
        out.append(text(x, bottom + 14, f"{t:g}", 10, "middle", f'fill="{FAINT}"'))
    for k, (name, best, ort) in enumerate(rows):
        y = TOP + ROW * k + 3
        mean = name.startswith("geometric")
        weight = ' font-weight="600"' if mean else ""
        if mean:
            out.append(
                f'<line x1="{left + 4}" y1="{y - 3}" x2="{x0 + width:.1f}" y2="{y - 3}" '
                f'stroke="{FAINT}"/>'
            )
        out.append(text(x0 - 8, y + BAR + 4, name, 11, "end", f'fill="{INK}"{weight}'))
        out.append(bar(x0, y, scale, BEST, best))
        if ort is not None:
            out.append(bar(x0, y + BAR + 1, scale, ORT, ort))
    x = x0 + scale
    out.append(
        f'<line x1="{x:.1f}" y1="{TOP - 4}" x2="{x:.1f}" y2="{bottom}" stroke="{INK}" '
        'stroke-width="1.5"/>'
    )
    return out


def chart(panels: Mapping[str, Sequence[Row]], subtitle: str) -> str:
    """The picture.

    Args:
        panels: title → rows from top to bottom; each is a network with the fastest other engine's
            time over fastconv's, and onnxruntime's (None where it was not measured).
        subtitle: the machine, and what was run.
    """
    most = max((v for rows in panels.values() for r in rows for v in r[1:] if v), default=1.0)
    height = TOP + BOTTOM + ROW * max((len(r) for r in panels.values()), default=1)
    width = len(panels) * WIDTH + max(0, len(panels) - 1) * GAP
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="system-ui, -apple-system, Segoe UI, sans-serif" '
        'role="img">',
        "<title>Time of other CPU engines over fastconv's</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        text(12, 22, "Time of other CPU engines over fastconv's: above 1, fastconv is faster", 15,
             more=f'fill="{INK}" font-weight="600"'),
        text(12, 40, subtitle, 11, more=f'fill="{FAINT}"'),
    ]  # fmt: skip
    for colour, label, dx in ((BEST, "fastest other engine", 0), (ORT, "onnxruntime", 150)):
        out.append(
            f'<rect x="{12 + dx}" y="52" width="11" height="11" fill="{colour}"/>'
            + text(28 + dx, 62, label, 11)
        )
    for k, (title, rows) in enumerate(panels.items()):
        out += panel(k * (WIDTH + GAP), title, rows, most)
    return "\n".join([*out, "</svg>", ""])
