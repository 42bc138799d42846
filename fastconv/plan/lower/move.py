"""Data movement: views where memory order allows, else one strided copy.

Every operator here is written once, in terms of logical axes and byte strides: :func:`strides`
gives those of a place in any layout, :func:`copy` turns two sets of strides into one kernel call.
What cannot be said with strides (padding, gathering) is a table of positions: :func:`take`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import numpy as np

from ...graph import Node
from ...graph.ops.indexing import Gather
from ...graph.ops.move import (
    ChannelShuffle,
    Concat,
    DepthToSpace,
    Expand,
    Pad,
    Slice,
    SpaceToDepth,
    Split,
    Tile,
    Transpose,
    pad_index,
    taken,
)
from ...graph.tracing import pure
from ...records import replace
from ..lowering import F32, Lowering, lowers
from ..memory import ARENA, CHANNELS_LAST, FLAT, PLAIN, Place

#: The kernels' limits and modes: must agree with ``kernels/move.pyx``.
MAX_RANK = 8
ROWS, ELEMENTS, MATRIX = 0, 1, 2
#: A contiguous piece longer than this is cut, so that threads can share it.
PIECE = 1 << 15
#: Segments per row of ``take``; more would make a table larger than what it moves.
MAX_SEGMENTS = 1 << 20
#: Tables of so many positions are kept for other plans.
SHORT = 2048


def movable(low: Lowering, *names: str) -> bool:
    """Whether the kernels can move these values: elements of 1, 2, 4 or 8 bytes, rank up to 8."""
    return all(
        low.dtype(n).kind not in "OUS"
        and low.dtype(n).itemsize in (1, 2, 4, 8)
        and len(low.shape(n)) <= MAX_RANK
        for n in names
    )


def source(low: Lowering, name: str, dense: bool = False) -> Place:
    """The value where it lies: plain, or channels-last (perhaps with gaps between pixels)."""
    layout = low.layout_of(name)
    return low.place(name, PLAIN if layout == FLAT else layout, dense=dense)


def unknown(low: Lowering, node: Node) -> bool:
    """Whether an input after the first is given but not known at plan time."""
    return any(i and low.const(i) is None for i in node.inputs[1:])


def memory_order(rank: int, layout: str) -> list[int]:
    """Logical axes, from the outermost to the innermost in memory."""
    if layout == CHANNELS_LAST:
        return [0, *range(2, rank), 1]
    return list(range(rank))


def strides(place: Place) -> list[int]:
    """Bytes from one element to the next along each logical axis."""
    rank, step = len(place.shape), place.dtype.itemsize
    result = [0] * rank
    for axis in reversed(memory_order(rank, place.layout)):
        result[axis] = step
        last = place.layout == CHANNELS_LAST and axis == 1
        step *= max(1, place.pixel if last else place.shape[axis])
    return result


def copy(
    low: Lowering,
    x: Place,
    y: Place,
    dims: Sequence[int],
    xs: Sequence[int],
    ys: Sequence[int],
    x_0: int = 0,
) -> None:
    """One strided copy: element i of ``y`` (at sum i·ys) is that of ``x`` at ``x_0`` + sum i·xs.

    At most eight axes may be longer than 1 (see :func:`movable`).
    """
    item = x.dtype.itemsize
    if 0 in dims:
        return
    axes = [a for a in zip(dims, xs, ys, strict=True) if a[0] > 1]
    axes.sort(key=lambda a: -a[2])
    merged: list[tuple[int, int, int]] = []
    for d, a, b in axes:
        if merged and merged[-1][1] == a * d and merged[-1][2] == b * d:
            merged[-1] = (merged[-1][0] * d, a, b)
        else:
            merged.append((d, a, b))
    n, a, b = merged.pop() if merged else (1, item, item)
    cols = 0
    if a == b == item:
        mode, n, length = ROWS, n * item, n * item
    else:
        inner = [m for m in merged if m[1] == item]
        if b == item and inner and matrix_pays(inner[-1][0], n, a, inner[-1][2], item):
            merged.remove(inner[-1])
            mode, cols, length = MATRIX, n, inner[-1][0] * n * item
            n, a, b = inner[-1][0], a // item, inner[-1][2] // item
        else:
            mode, length = ELEMENTS, n * item
    parts = 1
    if prod(m[0] for m in merged) < 4 * low.threads:
        parts = max(1, min(length // PIECE, n // 64))
    params = dict(
        dims=[m[0] for m in merged], xs=[m[1] for m in merged], ys=[m[2] for m in merged],
        x_0=x_0, n=n, x_step=a, y_step=b, cols=cols, parts=parts, mode=mode, item=item,
    )  # fmt: skip
    low.step("strided", params, [x, y], work=2 * prod(dims) * item)


def matrix_pays(rows: int, cols: int, x_col: int, y_row: int, item: int) -> bool:
    """Whether two swapped axes are large enough, or interleaved, to go through registers."""
    if x_col <= 0 or x_col % item or y_row % item:
        return False
    thin = y_row == cols * item if rows >= cols else x_col == rows * item
    return thin or min(rows, cols) >= 4


def view(low: Lowering, name: str, x: Place, offset: int) -> bool:
    """Make ``name`` a part of ``x`` without copying, where memory allows: same strides, shifted."""
    shape = low.shape(name)
    if x.buffer.kind != ARENA or 0 in shape:
        return False
    if x.layout == CHANNELS_LAST and x.shape[0] == shape[0] and x.shape[2:] == shape[2:]:
        low.alias(name, x, start=x.start + offset)
        return True
    order = memory_order(len(shape), x.layout)
    want, have = strides(replace(x, shape=shape, pixel=shape[1] if x.pixel else 0)), strides(x)
    if not x.dense or any(shape[a] > 1 and want[a] != have[a] for a in order):
        return False
    low.alias(name, x, start=x.start + offset, pixel=shape[1] if x.pixel else 0)
    return True


def part(low: Lowering, name: str, x: Place, first: Sequence[int], step: Sequence[int]) -> None:
    """The output ``name`` = x[first + i·step], as a view or a copy."""
    xs = strides(x)
    offset = sum(f * s for f, s in zip(first, xs, strict=True))
    if all(t == 1 for t in step) and view(low, name, x, offset):
        return
    y = low.new(name, x.layout)
    xs = [s * t for s, t in zip(xs, step, strict=True)]
    copy(low, x, y, y.shape, xs, strides(y), offset)


class Table(NamedTuple):
    """Positions along an axis, ``size`` of them, that follow from numbers: ``make(*numbers)``."""

    size: int
    make: Callable[..., np.ndarray]
    numbers: tuple[Any, ...]


Groups = list[tuple[int, "np.ndarray | Table | None"]]


def grouped(x: Place, tables: Mapping[int, np.ndarray | Table]) -> Groups | None:
    """The axes of ``x`` in memory order as (size, table), those without a table merged.

    None when they are more than ``take`` has room for.
    """
    groups: Groups = []
    for axis in memory_order(len(x.shape), x.layout):
        if axis in tables:
            groups.append((x.shape[axis], tables[axis]))
        elif groups and groups[-1][1] is None:
            groups[-1] = (groups[-1][0] * x.shape[axis], None)
        else:
            groups.append((x.shape[axis], None))
    tabled = [i for i, g in enumerate(groups) if g[1] is not None]
    last = groups[tabled[-1]][1]
    assert last is not None
    return groups if tabled[-1] < 4 and last.size <= MAX_SEGMENTS else None


@lru_cache(maxsize=128)
def segments_of(index: bytes, inner: int) -> np.ndarray:
    """As ``runs``, kept for other images of the same width."""
    return runs(np.frombuffer(index, np.int64), inner)


def runs(index: np.ndarray, inner: int) -> np.ndarray:
    """The runs of successive positions in a table as (first byte, bytes); -1 is filled.

    Args:
        index: positions along an axis; negative ones are filled.
        inner: bytes of a position.
    """
    before, after = index[:-1], index[1:]
    run = after - before == 1
    filled = index < 0
    if filled.any():
        run = np.where(filled[1:], filled[:-1], run & ~filled[:-1])
    starts = np.zeros(1 + np.count_nonzero(~run), np.int64)
    starts[1:] = np.flatnonzero(~run)
    starts[1:] += 1
    segments = np.empty((starts.size, 2), np.int64)
    segments[:, 0] = index[starts] * inner
    segments[filled[starts], 0] = -1
    segments[:-1, 1] = starts[1:]
    segments[-1, 1] = index.size
    segments[:, 1] -= starts
    segments[:, 1] *= inner
    return segments


def segments_by(inner: int, make: Callable[..., np.ndarray], *numbers: Any) -> np.ndarray:
    """As ``runs``, for what ``make`` makes of numbers."""
    return segments(make(*numbers), inner)


@pure
def count_by(inner: int, make: Callable[..., np.ndarray], *numbers: Any) -> int:
    """How many runs ``segments_by`` finds."""
    return len(segments_by(inner, make, *numbers))


def segments(index: np.ndarray, inner: int) -> np.ndarray:
    """As ``runs``."""
    if index.size <= SHORT and index.dtype == np.int64:
        return segments_of(index.tobytes(), inner)
    return runs(index, inner)


def offsets(*stated: Any) -> np.ndarray:
    """Where the positions of three axes lie, in bytes, one axis behind the other; -1 is filled.

    Args:
        stated: of each axis how many arguments more it has, the step from one position to the
            next, and: a number of positions, a table of them, or a function and what it takes.
    """
    parts = []
    rest = iter(stated)
    for count in rest:
        step, what = next(rest), next(rest)
        if callable(what):
            what = what(*[next(rest) for _ in range(count)])
        if isinstance(what, int):
            t = np.arange(what) * step
        else:
            t = what * step
            if (what < 0).any():
                t[what < 0] = -1
        parts.append(t.astype(np.int64, copy=False))
    return np.concatenate(parts)


def take(
    low: Lowering, name: str, x: Place, tables: Mapping[int, np.ndarray | Table], fill: Any
) -> bool:
    """The output ``name`` = x with positions along some axes taken from tables; −1 is ``fill``.

    ``x`` is dense. Returns False, having done nothing, when the axes do not suit the kernel.
    """
    groups = grouped(x, tables)
    if groups is None:
        return False
    y = low.new(name, x.layout)
    if 0 in y.shape:
        return True
    inner = x.dtype.itemsize
    if groups[-1][1] is None:
        inner *= groups.pop()[0]
    index = groups[-1][1]
    assert index is not None
    if isinstance(index, Table):
        found = low.computed(segments_by, inner, index.make, *index.numbers)
        count = count_by(inner, index.make, *index.numbers)
    else:
        found = low.constant(segments(index, inner))
        count = found.shape[0]
    step = inner * groups[-1][0]
    sizes: list[int] = []
    outer: list[Any] = []
    for size, table in reversed(groups[:-1]):
        if isinstance(table, Table):
            stated = [len(table.numbers), step, table.make, *table.numbers]
        else:
            stated = [0, step, size if table is None else table]
        outer = stated + outer
        sizes.insert(0, size if table is None else table.size)
        step *= size
    while len(sizes) < 3:
        outer = [0, 0, 1, *outer]
        sizes.insert(0, 1)
    pattern = low.constant(np.full(64 // x.dtype.itemsize, fill, x.dtype))
    places: list[Place | None] = [x, low.computed(offsets, *outer), found, pattern, y]
    n0, n1, n2 = sizes
    params = dict(n0=n0, n1=n1, n2=n2, segments=count, y_row=index.size * inner)
    low.step("take", params, places, work=2 * y.nbytes)
    return True


@lowers(Transpose)
def transpose(low: Lowering, node: Node) -> Any:
    op = node.op
    assert isinstance(op, Transpose)
    xn, yn = node.inputs[0], node.outputs[0]
    if not movable(low, xn):
        return False
    rank = len(low.shape(xn))
    perm = op.order(rank)
    x = source(low, xn)
    order = [a for a in memory_order(rank, x.layout) if x.shape[a] != 1]
    shape = low.shape(yn)
    if x.dense:
        # A new name for the same memory, if its order is one of the layouts.
        for layout in (PLAIN, CHANNELS_LAST) if rank > 2 else (PLAIN,):
            if [perm[a] for a in memory_order(rank, layout) if shape[a] != 1] == order:
                low.alias(yn, x, layout=layout, pixel=shape[1] if layout == CHANNELS_LAST else 0)
                return None
    keeps = x.layout == CHANNELS_LAST and perm[:2] == (0, 1)
    y = low.new(yn, CHANNELS_LAST if keeps else PLAIN)
    xs = strides(x)
    copy(low, x, y, y.shape, [xs[p] for p in perm], strides(y))
    return None


@lowers(Concat)
def concat(low: Lowering, node: Node) -> Any:
    op = node.op
    assert isinstance(op, Concat)
    names, yn = node.inputs, node.outputs[0]
    if not movable(low, yn):
        return False
    shape = low.shape(yn)
    axis = op.axis + len(shape) if op.axis < 0 else op.axis
    names = [n for n in names if low.shape(n)[axis]] or names[:1]
    last = any(low.layout_of(n) == CHANNELS_LAST for n in names if n not in low.known)
    layout = CHANNELS_LAST if last else PLAIN
    channels = last and axis == 1
    if channels and low.dtype(yn) == F32 and len(names) > 1 and 0 not in shape:
        return gather_slices(low, names, yn)
    xs = [low.place(n, layout, dense=not channels) for n in names]
    if len(xs) == 1:
        low.alias(yn, xs[0])
        return None
    y = low.new(yn, layout)
    if 0 in shape:
        return None
    order = memory_order(len(shape), layout)
    k = order.index(axis)
    rows = prod(shape[a] for a in order[:k])
    inner = prod(shape[a] for a in order[k + 1 :]) * y.dtype.itemsize
    sizes = [x.shape[axis] * inner for x in xs]
    pitches = [x.pixel * inner if channels else x.shape[axis] * inner for x in xs]
    parts = max(1, min(sum(sizes) // PIECE, 64)) if rows < 4 * low.threads else 1
    params = dict(rows=rows, parts=parts, sizes=sizes, strides=pitches)
    low.step("concat", params, [*xs, y], work=2 * y.nbytes)
    return None


def gather_slices(low: Lowering, names: list[str], yn: str) -> None:
    """A channel Concat whose inputs lie, or are copied, side by side in one wide buffer.

    An input that its kernel wrote straight into its part (see ``plan/slices.py``) costs nothing.
    """
    whole = low.slice_place(yn)
    start = whole.start
    for n in names:
        x = low.place(n, CHANNELS_LAST, dense=False)
        if x.buffer is not whole.buffer or x.start != start:
            y = replace(whole, start=start, shape=x.shape)
            row = x.shape[1] * x.dtype.itemsize
            low.step(
                "copy_rows",
                dict(rows=x.size // x.shape[1], bytes=row,
                     x_row=x.pixel * x.dtype.itemsize, y_row=y.pixel * y.dtype.itemsize),
                [x, y],
                work=2 * x.nbytes,
            )  # fmt: skip
            if n not in low.known:
                low.places[n, CHANNELS_LAST] = y
        start += x.shape[1] * x.dtype.itemsize


@lowers(Split)
def split(low: Lowering, node: Node) -> Any:
    op = node.op
    assert isinstance(op, Split)
    xn = node.inputs[0]
    if not movable(low, xn):
        return False
    x = source(low, xn)
    rank = len(x.shape)
    axis = op.axis + rank if op.axis < 0 else op.axis
    first = 0
    counts = low.const(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1] else None
    sizes = op.sizes(x.shape[axis], None if counts is None else [int(c) for c in counts])
    for name, size in zip(node.outputs, sizes, strict=False):
        if name:
            at = [first if a == axis else 0 for a in range(rank)]
            part(low, name, x, at, [1] * rank)
        first += int(size)  # type: ignore[arg-type]
    return None


@lowers(Slice)
def slice_(low: Lowering, node: Node) -> Any:
    op = node.op
    assert isinstance(op, Slice)
    xn = node.inputs[0]
    values = [low.const(i) if i else None for i in node.inputs]
    if not movable(low, xn) or unknown(low, node):
        return False
    x = source(low, xn)
    ranges = op.ranges(x.shape, values)
    assert ranges is not None
    first, step = [0] * len(x.shape), [1] * len(x.shape)
    for axis, bounds in ranges.items():
        r = taken(x.shape[axis], bounds)
        first[axis], step[axis] = (r.start, r.step) if len(r) else (0, 1)
    part(low, node.outputs[0], x, first, step)
    return None


@lowers(Expand, Tile)
def repeat(low: Lowering, node: Node) -> Any:
    """Copies that read along repeated axes with stride 0."""
    xn, yn = node.inputs[0], node.outputs[0]
    shape, target = low.shape(xn), low.shape(yn)
    # A repeated axis becomes two.
    pairs = zip(target[::-1], shape[::-1], strict=False)
    long = [d for d in shape if d > 1] + [t for t, d in pairs if t > d]
    if not movable(low, xn, yn) or len(long) + len(target) - len(shape) > MAX_RANK:
        return False
    x = source(low, xn) if len(shape) == len(target) else low.place(xn, PLAIN)
    if shape == target:
        low.alias(yn, x)
        return None
    y = low.new(yn, x.layout)
    extra = len(target) - len(shape)
    xs, ys = [0] * extra + strides(x), strides(y)
    dims, a, b = [], [], []
    for d, t, s, u in zip((1,) * extra + shape, target, xs, ys, strict=True):
        # Outer: how often the axis repeats; inner: the axis itself.
        dims += [t // max(1, d), d]
        a += [0, s]
        b += [u * d, u]
    copy(low, x, y, dims, a, b)
    return None


@lowers(DepthToSpace, SpaceToDepth, ChannelShuffle)
def blocks(low: Lowering, node: Node) -> Any:
    """Axes split, permuted and merged: one strided copy."""
    op, xn = node.op, node.inputs[0]
    if not movable(low, xn):
        return False
    x = source(low, xn)
    y = low.new(node.outputs[0], x.layout)
    xs, ys = strides(x), strides(y)
    if isinstance(op, ChannelShuffle):
        g, m = op.groups, x.shape[1] // op.groups
        dims = [x.shape[0], g, m, *x.shape[2:]]
        a = [xs[0], xs[1] * m, xs[1], *xs[2:]]
        return copy(low, x, y, dims, a, [ys[0], ys[1], ys[1] * g, *ys[2:]])
    assert isinstance(op, (DepthToSpace, SpaceToDepth))
    # Axes: image, channel, block row, block column, coarse row, coarse column.
    fine, coarse = (ys, xs) if isinstance(op, DepthToSpace) else (xs, ys)
    b = op.blocksize
    small = x.shape if isinstance(op, DepthToSpace) else y.shape
    n, h, w = small[0], small[2], small[3]
    channels = small[1] // (b * b)
    dims = [n, channels, b, b, h, w]
    near = [fine[0], fine[1], fine[2], fine[3], fine[2] * b, fine[3] * b]
    c = coarse[1]
    depth = [c, b * channels * c, channels * c] if op.mode == "DCR" else [b * b * c, b * c, c]
    far = [coarse[0], *depth, coarse[2], coarse[3]]
    if isinstance(op, DepthToSpace):
        return copy(low, x, y, dims, far, near)
    return copy(low, x, y, dims, near, far)


@lowers(Pad)
def pad(low: Lowering, node: Node) -> Any:
    op, xn, yn = node.op, node.inputs[0], node.outputs[0]
    assert isinstance(op, Pad)
    values = [low.const(i) if i else None for i in node.inputs]
    if not movable(low, xn) or unknown(low, node):
        return False
    x = source(low, xn, dense=True)
    amounts = op.amounts(len(x.shape), values)
    assert amounts is not None
    fill = op.constant(values, x.dtype)
    if not any(any(a) for a in amounts):
        low.alias(yn, x)
        return None
    shape = low.shape(yn)
    tables = {
        k: Table(shape[k], pad_index, (op.mode, x.shape[k], *a))
        for k, a in enumerate(amounts)
        if any(a)
    }
    return take(low, yn, x, tables, fill)


@lowers(Gather)
def gather(low: Lowering, node: Node) -> Any:
    """Constant indices, checked when the graph was planned; others run in NumPy."""
    op = node.op
    assert isinstance(op, Gather)
    xn, yn = node.inputs[0], node.outputs[0]
    indices = low.const(node.inputs[1])
    if indices is None or not movable(low, xn):
        return False
    x = low.place(xn, PLAIN)
    axis = op.axis + len(x.shape) if op.axis < 0 else op.axis
    at = indices.reshape(-1).astype(np.int64)
    at = np.where(at < 0, at + x.shape[axis], at)
    if 0 in low.shape(yn):
        low.new(yn)
        return None
    if at.size == 1:
        outer = prod(x.shape[:axis])
        inner = prod(x.shape[axis + 1 :]) * x.dtype.itemsize
        offset = int(at[0]) * inner
        if outer == 1 and x.buffer.kind == ARENA:
            low.alias(yn, x, start=x.start + offset)
            return None
        y = low.new(yn)
        row = x.shape[axis] * inner
        dims, xs, ys = [outer, y.size // outer], [row, 1], [inner, 1]
        item = x.dtype.itemsize
        copy(low, x, y, dims, [xs[0], item], [ys[0], item], offset)
        return None
    return take(low, yn, x, {axis: at}, 0)
