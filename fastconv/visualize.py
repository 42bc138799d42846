"""What a layer of a network makes of an image, and what its filters look like, as pictures.

>>> maps = activations(model, {"input": x}, ["conv1"])["conv1"]
>>> activation_picture(maps, "conv1").save("conv1.png")

Imports Pillow when a picture is drawn.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import OptionError
from .graph import Graph, Node
from .passes import optimize
from .runtime.engine import Engine
from .text import clean, number, times

if TYPE_CHECKING:
    from PIL.Image import Image

    from .model import Model

SCALES = ("map", "layer")
#: Pixels of a tile's longer side, of the space between tiles, and of the border.
TILE, GAP, EDGE = 112, 8, 16
#: A picture's tiles are spread over about this many pixels per row.
ROW = 1100
#: More maps than this are asked for in vain.
MAX_MAPS = 4096
TEXT, FAINT, PAPER = (29, 39, 51), (100, 112, 128), (255, 255, 255)
NAN = (255, 0, 200)
#: Colours of a scale: an odd number, so that zero has the middle one.
COLOURS = 255
#: Colours from low to high: dark to bright for values ≥ 0; blue, white, red around zero.
RISING = (
    (13, 8, 60),
    (84, 20, 118),
    (167, 44, 110),
    (229, 92, 64),
    (251, 172, 48),
    (252, 250, 190),
)
AROUND = ((20, 60, 150), (110, 160, 215), (247, 247, 247), (230, 130, 100), (150, 20, 35))


# Values.


def find_layer(model: Model, name: str) -> tuple[str, str]:
    """A node's or a value's name → (name of the value, what it is, for people).

    Names are those of the file, so that a convolution whose activation was fused into it can be
    looked at both before and after that.

    Raises:
        OptionError: there is none; lists near names.
    """
    graph = model.original
    for node in graph.nodes:
        if node.name == name:
            value = next((o for o in node.outputs if o), "")
            return value, f"{node.name} ({node.op.label})"
    made = graph.producers()
    if name in made:
        return name, f"{name} (of {made[name].op.label} {made[name].name})"
    if name in graph.inputs:
        return name, f"{name} (input)"
    names = [n.name for n in graph.nodes]
    raise OptionError(f"no layer {name!r}; {_near(name, names)}")


def _near(name: str, names: Sequence[str]) -> str:
    """Names like the one that was asked for, as text."""
    low = name.lower()
    found = [n for n in names if low and low in n.lower()][:5]
    found += difflib.get_close_matches(name, names, 5, 0.5)
    by_lower = {n.lower(): n for n in names}
    found += [by_lower[n] for n in difflib.get_close_matches(low, list(by_lower), 5, 0.5)]
    found = list(dict.fromkeys(found))[:5]
    what = "near it are" if found else "it has"
    rest = f" and {len(names) - 5} more" if not found and len(names) > 5 else ""
    return f"{what} {', '.join(map(repr, found or names[:5])) or 'none'}{rest}"


def activations(
    model: Model, feeds: Mapping[str, Any], layers: Iterable[str]
) -> dict[str, np.ndarray]:
    """Run a model and keep what layers inside it compute.

    Args:
        feeds: an array for every input.
        layers: names of nodes or values of the file (a node's first output counts).

    Returns:
        The arrays by the names given, in ONNX's axis order (N, C, H, W).

    Raises:
        OptionError: there is no such layer; lists near names.
        InputError: an array does not fit.
    """
    values = {name: find_layer(model, name)[0] for name in layers}
    graph = _upto(model, list(dict.fromkeys(values.values())))
    engine = Engine(graph, model.threads, memory_limit=model._engine.memory_limit)
    found = engine.run(model.check_feeds(feeds))
    return {name: found[value] for name, value in values.items()}


def _upto(model: Model, values: list[str]) -> Graph:
    """The optimised graph of what these values need."""
    graph = model.original.copy()
    graph.outputs = values
    options: Any = model._options
    return optimize(graph, frozenset(options["disable"])) if options["optimize"] else graph


def filters(model: Model, layer: str | None = None) -> tuple[str, np.ndarray]:
    """(name, weights) of a convolution of the file: the first one, or the layer asked for.

    The weights are (filters, input channels of a group, *kernel_shape), as the file has them:
    before batch normalisation is folded in.

    Raises:
        OptionError: there is no such layer, or it is no convolution with constant weights.
    """
    nodes = [n for n in model.original.nodes if n.op.label == "Conv"]
    if layer is not None:
        value, what = find_layer(model, layer)
        nodes = [n for n in nodes if value in n.outputs]
        if not nodes:
            raise OptionError(f"layer {what} is no convolution, so that it has no filters to show")
    if not nodes:
        raise OptionError("the model has no convolution")
    for node in nodes:
        weights = _constant(model, node)
        if weights is not None:
            return node.name, weights
    raise OptionError(f"the filters of {nodes[0].name!r} are no constants")


def _constant(model: Model, node: Node) -> np.ndarray | None:
    name = node.inputs[1]
    if name in model.original.consts:
        return model.original.consts[name]
    return optimize(_upto(model, [name])).consts.get(name)


# Pictures.


def activation_picture(
    values: np.ndarray,
    title: str,
    *,
    maps: int = 64,
    colors: str = "map",
    image: np.ndarray | None = None,
) -> Image:
    """The activation maps of one layer for one image, side by side.

    Values of shape (N, C, H, W) give C maps of the first image, (N, C, D, H, W) the middle slice of
    each; (N, C) is drawn as bars and (N, L, D) as one map of L rows.

    Args:
        values: what the layer computed.
        title: written above.
        maps: most maps to draw.
        colors: ``map``: every map has its own range of colours; ``layer``: all have one.
        image: the network's input (N, 1 or 3, H, W), drawn beside the title, or None.

    Raises:
        OptionError: the values have no form that can be drawn, or an option makes no sense.
    """
    if colors not in SCALES:
        raise OptionError(f"colors={colors!r}: expected one of {', '.join(SCALES)}")
    if not 1 <= maps <= MAX_MAPS:
        raise OptionError(f"maps={maps}: expected 1 to {MAX_MAPS}")
    array = np.asarray(values)
    shape = times(array.shape) or "scalar"
    if array.dtype.kind not in "fiub" or array.ndim < 2 or array.size == 0:
        raise OptionError(
            f"{title}: values of dtype {array.dtype} and shape {shape} are no maps to draw"
        )
    first = array[0].astype(np.float64)
    lines = [title, f"shape {shape}, from {number(_low(first))} to {number(_high(first))}"]
    if first.ndim == 1:
        return _page(lines, _bars(first), image)
    if first.ndim == 2:
        first = first[None]
    elif first.ndim > 3:
        middle = tuple(n // 2 for n in first.shape[1:-2])
        lines[1] += f", slice {times(middle)}"
        first = first[(slice(None), *middle)]
    signed = _low(first) < 0
    shown = first[:maps]
    if len(shown) < len(first):
        lines[1] += f"; the first {len(shown)} of {len(first)} maps"
    whole = _range(first, signed) if colors == "layer" else None
    tiles = [_colour(m, whole or _range(m, signed), signed) for m in shown]
    if whole is not None:
        lines.append(f"colours from {number(whole[0])} to {number(whole[1])}")
        captions = [str(k) for k in range(len(shown))]
    else:
        lines.append("each map has its own colours; beside its number its largest magnitude")
        captions = [f"{k}  {number(_magnitude(m), 3)}" for k, m in enumerate(shown)]
    if signed:
        lines[-1] += "; blue is negative, white zero, red positive"
    return _page(lines, _grid(tiles, captions), image, AROUND if signed else RISING)


def filter_picture(weights: np.ndarray, title: str, *, maps: int = 64) -> Image:
    """The filters of a convolution, side by side.

    Filters over one or three input channels are drawn in grey or in colour, where mid-grey is zero;
    of others every row is a filter and every tile in it an input channel.

    Args:
        weights: (filters, input channels, *kernel_shape).
        title: written above.
        maps: most filters, and most channels of each, to draw.

    Raises:
        OptionError: these are no filters, or ``maps`` makes no sense.
    """
    if not 1 <= maps <= MAX_MAPS:
        raise OptionError(f"maps={maps}: expected 1 to {MAX_MAPS}")
    array = np.asarray(weights)
    if array.ndim < 3 or array.size == 0 or array.dtype.kind not in "fiu":
        raise OptionError(f"{title}: weights of shape {times(array.shape)} are no filters to draw")
    lines = [
        title,
        f"{array.shape[0]} filters of {times(array.shape[2:])} over {array.shape[1]} channels",
    ]
    array = array.astype(np.float64)
    if array.ndim == 3:  # one axis: channels × taps are a picture of their own
        array = array[:, None]
    elif array.ndim > 4:
        middle = tuple(n // 2 for n in array.shape[2:-2])
        array = array[(slice(None), slice(None), *middle)]
        lines[1] += f", slice {times(middle)}"
    shown = array[:maps]
    if len(shown) < len(array):
        lines[1] += f"; the first {len(shown)} filters"
    captions = [str(k) for k in range(len(shown))]
    if array.shape[1] in (1, 3) and weights.ndim == 4:
        lines.append("each filter by its own largest weight; mid-grey is zero")
        tiles = []
        for f in shown:
            top = _magnitude(f) or 1.0
            pixels = np.nan_to_num(np.clip(0.5 + f / (2 * top), 0, 1))
            rgb = np.broadcast_to(pixels.transpose(1, 2, 0), (*f.shape[1:], 3))
            tiles.append((rgb * 255).round().astype(np.uint8))
        return _page(lines, _grid(tiles, captions, side=64))
    lines.append(
        "each filter by its own largest weight; blue is negative, white zero, red positive"
    )
    columns = min(array.shape[1], maps)
    if columns < array.shape[1]:
        lines[1] += f"; of each the first {columns} channels"
    if columns == 1:
        tiles = [_colour(f[0], _range(f, True), True) for f in shown]
        return _page(lines, _grid(tiles, captions, side=64), None, AROUND)
    tiles, captions = [], []
    for k, f in enumerate(shown):
        tiles += [_colour(c, _range(f, True), True) for c in f[:columns]]
        captions += [str(k), *[""] * (columns - 1)]
    return _page(lines, _grid(tiles, captions, side=24, columns=columns), None, AROUND)


def _finite(a: np.ndarray) -> np.ndarray:
    return a[np.isfinite(a)]


def _low(a: np.ndarray) -> float:
    finite = _finite(a)
    return float(finite.min()) if finite.size else 0.0


def _high(a: np.ndarray) -> float:
    finite = _finite(a)
    return float(finite.max()) if finite.size else 0.0


def _magnitude(a: np.ndarray) -> float:
    return max(abs(_low(a)), abs(_high(a)))


def _range(a: np.ndarray, signed: bool) -> tuple[float, float]:
    """The values of the lowest and the highest colour."""
    top = _magnitude(a)
    return (-top, top) if signed else (0.0, top)


def _colour(a: np.ndarray, ends: tuple[float, float], signed: bool) -> np.ndarray:
    """A map (H, W) as RGB bytes (H, W, 3); NaN has a colour of its own."""
    low, high = ends
    with np.errstate(all="ignore"):
        part = (a - low) / (high - low) if high > low else np.full(a.shape, 0.5 if signed else 0.0)
    table = _table(AROUND if signed else RISING)
    bad = np.isnan(a)
    index = np.clip(np.nan_to_num(part, posinf=1.0, neginf=0.0), 0, 1) * (COLOURS - 1)
    rgb = table[index.round().astype(np.uint8)]
    rgb[bad] = NAN
    return rgb


def _table(anchors: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """Colours through the anchors."""
    at = np.linspace(0, COLOURS - 1, len(anchors))
    points = np.array(anchors, np.float64)
    table = [np.interp(np.arange(COLOURS), at, points[:, c]) for c in range(3)]
    return np.stack(table, axis=1).round().astype(np.uint8)


def _font(size: int) -> Any:
    from PIL import ImageFont

    try:
        return ImageFont.load_default(size)
    except (TypeError, OSError):  # a Pillow without FreeType has one size only
        return ImageFont.load_default()


def _write(draw: Any, at: tuple[float, float], text: str, size: int, fill: Any = TEXT) -> None:
    """Text in Pillow's own font; what the font lacks is replaced."""
    font, text = _font(size), text.replace("×", "x")
    try:
        draw.text(at, clean(text), fill=fill, font=font)
    except UnicodeEncodeError:
        draw.text(at, clean(text).encode("ascii", "replace").decode(), fill=fill, font=font)


def _enlarged(tile: np.ndarray, side: int) -> Image:
    """A tile whose longer side has at least ``side`` pixels if whole pixels allow it, or fewer."""
    from PIL import Image

    picture = Image.fromarray(tile)
    longer = max(picture.size)
    if longer <= side:
        factor = max(1, round(side / longer))
        size = (picture.width * factor, picture.height * factor)
        return picture.resize(size, Image.Resampling.NEAREST)
    factor_down = side / longer
    size = (
        max(1, round(picture.width * factor_down)),
        max(1, round(picture.height * factor_down)),
    )
    return picture.resize(size, Image.Resampling.BOX)


def _grid(
    tiles: Sequence[np.ndarray],
    captions: Sequence[str],
    side: int = TILE,
    columns: int | None = None,
) -> Image:
    """Tiles in rows, each with its caption below."""
    from PIL import Image, ImageDraw

    if columns is None:  # few tiles are drawn larger
        side = max(side, min(240, ROW // max(2, math.ceil(math.sqrt(2 * len(tiles)))) - GAP))
    else:
        side = max(side, min(56, ROW // columns - 3))
    pictures = [_enlarged(t, side) for t in tiles]
    wide = max(p.width for p in pictures)
    high = max(p.height for p in pictures)
    if columns is None:
        wide = max(wide, 52 if any(len(c) > 3 for c in captions) else 20)
        columns = max(1, min(len(tiles), ROW // (wide + GAP)))
        columns = math.ceil(len(tiles) / math.ceil(len(tiles) / columns))
        gap, line = GAP, 15
    else:
        gap, line = 3, 3
    left = 30 if line == 3 else 0
    rows = math.ceil(len(tiles) / columns)
    size = (left + columns * (wide + gap) - gap, rows * (high + line + gap) - gap)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    for k, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        x, y = left + k % columns * (wide + gap), k // columns * (high + line + gap)
        sheet.paste(picture, (x, y))
        if left and caption:
            _write(draw, (0, y + high / 2 - 6), caption, 10, FAINT)
        elif caption:
            _write(draw, (x, y + high + 1), caption, 10, FAINT)
    return sheet


def _bars(values: np.ndarray) -> Image:
    """A vector as bars, the highest five with their numbers."""
    from PIL import Image, ImageDraw

    width, height, top = 960, 240, 26
    sheet = Image.new("RGB", (width, height + 2 * top), PAPER)
    draw = ImageDraw.Draw(sheet)
    finite = np.where(np.isfinite(values), values, 0.0)
    low, high = min(0.0, float(finite.min())), max(0.0, float(finite.max()))
    scale = height / ((high - low) or 1.0)
    zero = top + high * scale
    step = width / len(values)
    ends: dict[tuple[int, int], tuple[float, float]] = {}
    for k, v in enumerate(finite.tolist()):  # several that share a pixel show their extremes
        x = int(k * step)
        key = (x, max(x, int((k + 1) * step - (1 if step >= 3 else 0))))
        a, b = ends.get(key, (0.0, 0.0))
        ends[key] = (min(a, v), max(b, v))
    for (x0, x1), (a, b) in ends.items():
        if b > 0:
            draw.rectangle((x0, zero - b * scale, x1, zero), fill=AROUND[3])
        if a < 0:
            draw.rectangle((x0, zero, x1, zero - a * scale), fill=AROUND[1])
    draw.line((0, zero, width, zero), fill=FAINT)
    used: list[float] = []
    for k in np.argsort(-finite, kind="stable")[:5].tolist():
        x = min(max(0.0, (k + 0.5) * step - 20), width - 56.0)
        if all(abs(x - u) > 64 for u in used):
            used.append(x)
            y = zero - max(0.0, float(finite[k])) * scale - 14
            _write(draw, (x, y), f"{k}: {number(float(finite[k]), 3)}", 11)
    _write(draw, (0, height + top + 8), "0", 10, FAINT)
    _write(draw, (width - 40, height + top + 8), str(len(values) - 1), 10, FAINT)
    return sheet


def _page(
    lines: Sequence[str],
    sheet: Image,
    image: np.ndarray | None = None,
    colours: Sequence[tuple[int, int, int]] | None = None,
) -> Image:
    """A sheet below its title, the network's input and the scale of colours."""
    from PIL import Image, ImageDraw

    thumb = _thumbnail(image)
    head = max(26 + 18 * len(lines), 0 if thumb is None else thumb.height + 12)
    left = EDGE if thumb is None else EDGE + thumb.width + 14
    probe = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    need = [len(clean(t)) * (9 if k == 0 else 7) for k, t in enumerate(lines)]
    try:
        need = [
            int(probe.textlength(clean(t), font=_font(16 if k == 0 else 12)))
            for k, t in enumerate(lines)
        ]
    except (UnicodeEncodeError, OSError):
        pass
    width = min(4000, max(sheet.width + 2 * EDGE, left + max(need) + 2 * EDGE))
    page = Image.new("RGB", (max(width, sheet.width + 2 * EDGE), head + sheet.height + EDGE), PAPER)
    draw = ImageDraw.Draw(page)
    if thumb is not None:
        page.paste(thumb, (EDGE, 8))
    for k, line in enumerate(lines):
        _write(draw, (left, 8 + (0 if k == 0 else 6 + 18 * k)), line, 16 if k == 0 else 12,
               TEXT if k == 0 else FAINT)  # fmt: skip
    if colours is not None and page.width - left > max(need) + 180:
        bar = np.broadcast_to(_table(colours)[None], (10, COLOURS, 3))
        strip = Image.fromarray(np.ascontiguousarray(bar)).resize((128, 10))
        page.paste(strip, (page.width - EDGE - 128, 14))
    page.paste(sheet, (EDGE, head))
    return page


def _thumbnail(image: np.ndarray | None) -> Image | None:
    """The network's input as a small picture, if it looks like one."""
    if image is None or image.ndim != 4 or image.dtype.kind not in "fiu":
        return None
    first = image[0]
    if first.shape[0] not in (1, 3):
        if first.shape[2] not in (1, 3):
            return None
        first = first.transpose(2, 0, 1)
    pixels = first.astype(np.float64)
    low, high = _low(pixels), _high(pixels)
    pixels = np.nan_to_num((pixels - low) / ((high - low) or 1.0)).clip(0, 1)
    rgb = np.broadcast_to(pixels.transpose(1, 2, 0), (*pixels.shape[1:], 3))
    return _enlarged((rgb * 255).round().astype(np.uint8), 84)


__all__ = ["activation_picture", "activations", "filter_picture", "filters", "find_layer"]
