"""The graph of a model as an SVG picture, or as a page that pans, zooms and shows facts on hover.

Names in a model come from whoever made the file: every text is stripped of control characters and
escaped, and the page's policy lets no script run but its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from . import layered, text
from .errors import OptionError
from .picture import CONSTANT, NUMPY, REFERENCE, VIEW, Box, Picture, Wire, picture

if TYPE_CHECKING:
    from .model import Model

WIDTH, GAP, MARGIN = 210.0, 50.0, 24.0
ROW, PAD, BAND = 15.0, 8.0, 22.0
#: How far a line goes straight down before it turns, beside the shape that is written there.
STEM = 18.0
#: Average width of a character, in parts of the font's size; of bold type.
EM, BOLD = 0.58, 0.66
FONT = "system-ui, 'Segoe UI', 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif"
INK, FAINT, LINE, PAPER = "#1d2733", "#5b6776", "#93a0b0", "#ffffff"
#: Colours of the upper part of a box, by its kind.
COLOURS = {
    "convolution": "#cfe2ff",
    "matrix product": "#e0d4fb",
    "pooling": "#cdeed6",
    "normalisation": "#fbd7e5",
    "activation": "#c9eef0",
    "arithmetic": "#e6efbf",
    "movement": "#e3e7ed",
    "other": "#eee7dd",
    "input": "#2f3e52",
    "output": "#2f3e52",
}
#: (border, fill of the lower part, what the legend says) of what no kernel runs.
FALLBACKS = {
    NUMPY: ("#e08a00", "#fff1d6", "runs through NumPy"),
    REFERENCE: ("#d32f2f", "#ffdedb", "runs through onnx.reference"),
}
#: Bars of time: up to this share of the run, this colour.
HEAT = ((0.02, "#b9c4d2"), (0.05, "#f2c14e"), (0.10, "#ef8a3c"), (1.01, "#d64545"))


def draw(
    model: Model,
    path: str | os.PathLike[str],
    shapes: Mapping[str, Sequence[int]] | None = None,
    runs: int = 0,
) -> None:
    """Draw a model's graph into a file; its ending, .svg or .html, says in what form.

    Args:
        shapes: input shapes; sizes left open get defaults.
        runs: how often to run the model to measure times; 0 for none.

    Raises:
        OptionError: another ending, or shapes that name no input.
        InputError, ShapeError: the shapes do not fit.
        OSError: the file cannot be written.
    """
    form = form_of(path)
    found = picture(model, shapes, runs)
    source = model._source if isinstance(model._source, str) else ""
    name = os.path.basename(source) or model.graph.name or "model"
    page = html(found, name) if form == "html" else svg(found, name)
    with open(path, "w", encoding="utf-8") as f:
        f.write(page)


def form_of(path: str | os.PathLike[str]) -> str:
    """``svg`` or ``html``, by a file's ending.

    Raises:
        OptionError: it has another.
    """
    ending = os.path.splitext(os.fspath(path))[1].lower().removeprefix(".")
    if ending not in ("svg", "html"):
        raise OptionError(f"{os.fspath(path)}: a graph is drawn to a file ending in .svg or .html")
    return ending


# Texts.


def safe(value: object) -> str:
    """Text for the content of an element or a quoted attribute."""
    return escape(text.clean(value), {'"': "&quot;", "'": "&#39;"})


def fit(value: str, width: float, size: float, em: float = EM) -> str:
    """A text shortened to a width, without its middle."""
    value = text.clean(value)
    room = int(width / (size * em))
    if text.width(value) <= room:
        return value
    keep = max(2, room - 1)
    tail = keep // 2
    return f"{value[: keep - tail]}…{value[-tail:]}"


def fit_name(box: Box, width: float, size: float) -> str:
    """A layer's name shortened to a width: of a path the beginning goes, as its end tells most."""
    value, room = text.clean(box.name), int(width / (size * EM))
    if text.width(value) <= room:
        return value
    parts = value.split("/")
    if len(parts) > 2 and parts[-1] and box.title.startswith(parts[-1]):
        parts.pop()  # exporters end every name with the operator, which the box shows anyway
    while len(parts) > 1 and text.width("/".join(parts)) + 1 >= room:
        parts.pop(0)
    short = "/".join(parts)
    short = short if short == value or value.startswith(short) else f"…/{short}"
    return fit(short, width, size)


def label(
    x: float,
    y: float,
    value: str,
    size: float,
    fill: str,
    anchor: str = "start",
    bold: bool = False,
) -> str:
    """A text element."""
    weight = ' font-weight="600"' if bold else ""
    side = f' text-anchor="{anchor}"' if anchor != "start" else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" fill="{fill}"{side}{weight}>'
        f"{safe(value)}</text>"
    )


def duration(milliseconds: float) -> str:
    """A time with a fitting unit."""
    if milliseconds < 0.1:
        return f"{1000 * milliseconds:.1f} µs"
    return f"{milliseconds:.2f} ms" if milliseconds < 100 else f"{milliseconds:.0f} ms"


# Boxes and lines.


def height_of(box: Box) -> float:
    """The height of a box: a line for the operator, one for the name, one for what runs it."""
    if box.kind in ("input", "output"):
        return 28.0
    last = bool(box.steps) or box.milliseconds is not None
    return BAND + PAD / 2 + ROW * (1 + last) + PAD / 2 + (6 if box.milliseconds is not None else 0)


def _box(k: int, box: Box, x: float, y: float) -> str:
    """A box at its centre."""
    w, h = WIDTH, height_of(box)
    left, top = x - w / 2, y - h / 2
    facts = "\n".join(f"{a}: {b}" for a, b in box.facts)
    parts = [f'<g class="box" data-box="{k}"><title>{_lines(facts)}</title>']
    if box.kind in ("input", "output"):
        w = min(WIDTH, max(90.0, text.width(text.clean(box.title)) * 12 * BOLD + 28))
        parts.append(
            f'<rect x="{x - w / 2:.1f}" y="{top:.1f}" width="{w:.1f}" height="{h:g}" '
            f'rx="14" fill="{COLOURS[box.kind]}"/>'
        )
        parts.append(
            label(x, y + 4, fit(box.title, w - 20, 12, BOLD), 12, "#ffffff", "middle", True)
        )
        return "".join([*parts, "</g>"])
    border, body, _ = FALLBACKS.get(box.runs, ("#a9b5c3", PAPER, ""))
    idle = box.runs in (VIEW, CONSTANT)
    dash = ' stroke-dasharray="4 3"' if idle else ""
    thick = 2.2 if box.runs in FALLBACKS else 1
    parts.append(
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{w:g}" height="{h:g}" rx="5" fill="{body}"/>'
        f'<path d="M{left:.1f} {top + BAND:.1f}v{5 - BAND:g}q0 -5 5 -5h{w - 10:g}q5 0 5 5'
        f'v{BAND - 5:g}z" fill="{COLOURS[box.kind]}"/>'
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{w:g}" height="{h:g}" rx="5" fill="none" '
        f'stroke="{border}" stroke-width="{thick:g}"{dash}/>'
    )
    side = text.width(box.window) * 10 * EM
    room = w - 2 * PAD - (side + 8 if box.window else 0)
    size = 12 if text.width(box.title) * 12 * BOLD <= room else 10
    parts.append(
        label(left + PAD, top + 15, fit(box.title, room, size, BOLD), size, INK, bold=True)
    )
    if box.window:
        parts.append(label(left + w - PAD, top + 15, box.window, 10, INK, "end"))
    line = top + BAND + PAD / 2 + 10
    parts.append(label(left + PAD, line, fit_name(box, w - 2 * PAD, 10), 10, FAINT))
    line += ROW
    time = "" if box.milliseconds is None else duration(box.milliseconds)
    if box.share is not None:
        time += f" · {100 * box.share:.1f} %"
    if box.steps:
        colour = border if box.runs in FALLBACKS else FAINT
        room = w - 2 * PAD - (text.width(time) * 10 * EM + 8 if time else 0)
        parts.append(
            label(
                left + PAD, line, fit(box.steps, room, 10), 10, colour, bold=box.runs in FALLBACKS
            )
        )
    if time:
        parts.append(label(left + w - PAD, line, time, 10, INK, "end"))
    if box.share is not None:
        colour = next(c for limit, c in HEAT if box.share < limit)
        full = w - 2 * PAD
        parts.append(
            f'<rect x="{left + PAD:.1f}" y="{top + h - 8:.1f}" width="{full:g}" height="4" rx="2" '
            f'fill="#e9edf2"/><rect x="{left + PAD:.1f}" y="{top + h - 8:.1f}" '
            f'width="{max(1.5, full * min(1.0, box.share)):.1f}" height="4" rx="2" '
            f'fill="{colour}"/>'
        )
    return "".join([*parts, "</g>"])


def _lines(value: str) -> str:
    """Several lines for a title element."""
    return "\n".join(safe(line) for line in value.split("\n"))


def _spread(count: int, width: float, step: float) -> list[float]:
    """Offsets of ``count`` ends along a side, around its middle."""
    step = min(step, width / max(1, count))
    return [(k - (count - 1) / 2) * step for k in range(count)]


def _ends(found: Picture, plan: layered.Layout) -> tuple[list[float], list[float]]:
    """Where every line leaves its box and where it arrives: x by wire."""
    starts = [
        plan.x[w.tail] + _spread(w.ports, WIDTH * 0.8, WIDTH * 0.8 / w.ports)[w.port]
        for w in found.wires
    ]
    arriving: dict[int, list[tuple[float, int]]] = {}
    for k, w in enumerate(found.wires):
        route = plan.routes[k]
        arriving.setdefault(w.head, []).append((route[-1][0] if route else starts[k], k))
    stops = [0.0] * len(found.wires)
    for head, group in arriving.items():
        for offset, (_, k) in zip(_spread(len(group), WIDTH * 0.7, 16), sorted(group), strict=True):
            stops[k] = plan.x[head] + offset
    return starts, stops


def _path(start: tuple[float, float], stop: tuple[float, float], route: Iterable[tuple]) -> str:
    """A line from a box down to another: straight through layers, curved between them."""
    x, y = start
    parts = [f"M{x:.1f} {y:.1f}"]
    if stop[1] - y > 2 * STEM:
        y += STEM
        parts.append(f"V{y:.1f}")
    for px, top, bottom in [*route, (stop[0], stop[1], stop[1])]:
        if abs(px - x) < 0.5:
            parts.append(f"V{top:.1f}")
        else:
            half = (y + top) / 2 + 4
            parts.append(f"C{x:.1f} {half:.1f} {px:.1f} {half:.1f} {px:.1f} {top:.1f}")
        if bottom > top:
            parts.append(f"V{bottom:.1f}")
        x, y = px, bottom
    return "".join(parts)


def _wires(found: Picture, plan: layered.Layout) -> tuple[list[str], list[str]]:
    """The lines, and the shapes written beside where they begin."""
    starts, stops = _ends(found, plan)
    lines, names, done = [], [], set()
    for k, w in enumerate(found.wires):
        y0 = plan.y[w.tail] + height_of(found.boxes[w.tail]) / 2
        y1 = plan.y[w.head] - height_of(found.boxes[w.head]) / 2
        data = f'class="wire" data-tail="{w.tail}" data-head="{w.head}"'
        route = plan.routes[k]
        if route is None:  # too long to be drawn: a stub at both ends
            lines.append(
                f'<path {data} d="M{starts[k]:.1f} {y0:.1f}v12M{stops[k]:.1f} {y1 - 14:.1f}'
                f'v10" stroke-dasharray="2 2"/>'
            )
            near = fit_name(found.boxes[w.tail], 90, 9)
            names.append(label(stops[k] + 4, y1 - 8, f"from {near}", 9, FAINT))
        else:
            path = _path((starts[k], y0), (stops[k], y1 - 5), route)
            lines.append(
                f'<path {data} d="{path}" marker-end="url(#arrow)">'
                f"<title>{safe(w.value)}: {safe(w.label or 'shape not known')}</title></path>"
            )
        if w.label and (w.tail, w.port) not in done and (w.ports <= 2 or w.port == 0):
            done.add((w.tail, w.port))
            names.append(_shape(starts[k], y0, w))
    return lines, names


def _shape(x: float, y: float, w: Wire) -> str:
    """A shape beside the beginning of a line, on paper of its own so that it can be read."""
    size = 10.0
    width = text.width(w.label) * size * EM + 6
    left = x + 4 if w.ports == 1 or w.port == w.ports - 1 else x - width - 4
    return (
        f'<g class="shape"><rect x="{left:.1f}" y="{y + 4:.1f}" width="{width:.1f}" height="13" '
        f'fill="{PAPER}" fill-opacity="0.85"/>'
        + label(left + 3, y + 14, w.label, size, "#3b5b86")
        + "</g>"
    )


def _legend(found: Picture, width: float, name: str) -> list[str]:
    """The title, what the colours mean, and how long a run takes."""
    room = width - 2 * MARGIN
    time = "" if found.total is None else f", {duration(found.total)} a run"
    parts = [
        label(MARGIN, 26, fit(name, room, 15, BOLD), 15, INK, bold=True),
        label(MARGIN, 44, fit(found.title + time, room, 11), 11, FAINT),
    ]
    kinds = dict.fromkeys(b.kind for b in found.boxes if b.runs)
    entries = [(f'fill="{COLOURS[k]}" stroke="#a9b5c3"', k) for k in COLOURS if k in kinds]
    runs = {b.runs for b in found.boxes}
    for mode, (border, body, meaning) in FALLBACKS.items():
        if mode in runs:
            entries.append((f'fill="{body}" stroke="{border}" stroke-width="2"', meaning))
    if runs & {VIEW, CONSTANT}:
        entries.append(('fill="none" stroke="#a9b5c3" stroke-dasharray="3 2"', "no work when run"))
    if found.total is not None:
        low = 0.0
        for limit, colour in HEAT:
            to = f"{100 * low:.0f}–{100 * limit:.0f} %" if limit < 1 else f"over {100 * low:.0f} %"
            entries.append((f'fill="{colour}"', f"{to} of the time"))
            low = limit
    x, y = MARGIN, 66.0
    for style, meaning in entries:
        step = 17 + len(meaning) * 11 * BOLD + 14
        if x + step > width - MARGIN and x > MARGIN:
            x, y = MARGIN, y + 18
        parts.append(f'<rect x="{x:.1f}" y="{y - 9:.1f}" width="12" height="11" rx="2" {style}/>')
        parts.append(label(x + 17, y, meaning, 11, FAINT))
        x += step
    parts.append(f"<!--{y:.0f}-->")
    return parts


def _body(found: Picture, name: str) -> tuple[str, float, float]:
    """(elements, width, height) of the drawing."""
    sizes = [(WIDTH, height_of(b)) for b in found.boxes]
    edges = [layered.Edge(w.tail, w.head, w.value) for w in found.wires]
    plan = layered.layout(sizes, edges, gap_y=GAP)
    width = max(plan.width + 2 * MARGIN + 60, 720.0)
    legend = _legend(found, width, name)
    below = float(legend.pop()[4:-3]) + 24
    lines, names = _wires(found, plan)
    boxes = [_box(k, b, plan.x[k], plan.y[k]) for k, b in enumerate(found.boxes)]
    shift = (width - plan.width) / 2
    inner = "".join(
        [f'<g transform="translate({shift:.1f} {below:.1f})">',
         f'<g fill="none" stroke="{LINE}" stroke-width="1.3">', *lines, "</g>", *names, *boxes,
         "</g>"]
    )  # fmt: skip
    return "".join([*legend, inner]), width, plan.height + below + MARGIN


def svg(found: Picture, name: str = "model") -> str:
    """The picture as an SVG document."""
    body, width, height = _body(found, name)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + _svg(body, width, height)


def _svg(body: str, width: float, height: float) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="{FONT}">'
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="1" refY="4" '
        'markerUnits="userSpaceOnUse" markerWidth="8" markerHeight="8" orient="auto">'
        f'<path d="M0 0L8 4L0 8z" fill="{LINE}"/></marker></defs>'
        f'<rect width="100%" height="100%" fill="{PAPER}"/>{body}</svg>\n'
    )


def html(found: Picture, name: str = "model") -> str:
    """The picture as a page of its own, without anything from elsewhere."""
    from .page import page

    body, width, height = _body(found, name)
    facts = [[[text.clean(a), text.clean(b)] for a, b in box.facts] for box in found.boxes]
    search = [text.clean(f"{b.name} {b.title}").lower() for b in found.boxes]
    return page(safe(name), _svg(body, width, height), facts, search)


__all__ = ["draw", "form_of", "html", "svg"]
