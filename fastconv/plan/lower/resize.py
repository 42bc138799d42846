"""Resize: blends by the operator's own tables, one pass over the last two axes at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...graph import Node
from ...graph.ops.resize import Axis, AxisTable, Resize
from ...graph.tracing import pure
from ...sizes import checked_size
from ..lowering import Lowering, lowers
from ..memory import CHANNELS_LAST, PLAIN, Place
from .move import Table, memory_order, movable, take


@lowers(Resize)
def resize(low: Lowering, node: Node) -> Any:
    op, xn, yn = node.op, node.inputs[0], node.outputs[0]
    assert isinstance(op, Resize)
    values = [low.const(i) if i else None for i in node.inputs]
    late = [i for i in node.inputs[1:] if i and low.const(i) is None]
    if not movable(low, xn) or any(low.shape(i) != (0,) for i in late):
        return False
    shape = low.shape(xn)
    if 0 in low.shape(yn):
        low.new(yn)
        return None
    crop = op.coordinate_transformation_mode == "tf_crop_and_resize"
    changed = {k: a for k, a in enumerate(op.plan(shape, values)) if not a.keeps(shape[k])}
    outside = crop and any(table(op, shape[k], *a).outside is not None for k, a in changed.items())
    if changed and op.mode != "nearest" and (outside or not low.all_float32(xn)):
        return False
    images = len(shape) >= 3 and not {0, 1} & changed.keys()
    x = low.place(xn, CHANNELS_LAST if images else PLAIN)
    if not changed:
        low.alias(yn, x)
        return None
    size = low.shape(yn)
    if op.mode == "nearest":
        index = {k: Table(size[k], positions, (op, shape[k], *a)) for k, a in changed.items()}
        fill = np.array(op.extrapolation_value).astype(x.dtype)
        return take(low, yn, x, index, fill)
    axes = [a for a in memory_order(len(shape), x.layout) if a in changed]
    # Two neighbouring axes go together; the innermost pair is the height and width of an image.
    order = memory_order(len(shape), x.layout)
    current = list(shape)
    while axes:
        col: int | None = axes.pop()
        row: int | None = None
        if axes and order.index(axes[-1]) + 1 == order.index(col):  # type: ignore[arg-type]
            row = axes.pop()
        if not images:
            # One axis at a time, all that lies inside it being the vector.
            axes += [] if row is None else [row]
            row, col = col, None
        for k in (row, col):
            if k is not None:
                current[k] = size[k]
        if axes:
            y = between(low, x, tuple(current))
        else:
            y = low.new(yn, x.layout)
        blend(low, op, x, y, order, changed, row, col)
        x = y
    return None


def table(op: Resize, size: int, *axis: Any) -> AxisTable:
    """The table of an axis of ``size`` elements on which something happens."""
    found = op.axis_table(size, Axis(*axis))
    assert found is not None
    return found


def positions(op: Resize, size: int, *axis: Any) -> np.ndarray:
    """The one input position of each output position; -1 outside of the input."""
    source, _, outside = table(op, size, *axis)
    return source[:, 0] if outside is None else np.where(outside, -1, source[:, 0])


def sources(op: Resize, size: int, *axis: Any) -> np.ndarray:
    """The input positions that are blended."""
    return table(op, size, *axis).source.astype(np.int32)


def weights(op: Resize, size: int, *axis: Any) -> np.ndarray:
    """What each of them is multiplied by."""
    weight = table(op, size, *axis).weight
    assert weight is not None
    return weight.astype(np.float32)


@pure
def taps_of(op: Resize, size: int, *axis: Any) -> int:
    """How many input positions are blended."""
    return table(op, size, *axis).source.shape[1]


def between(low: Lowering, x: Place, shape: tuple[int, ...]) -> Place:
    """Memory for the result of one pass of several."""
    buffer = low.buffer(checked_size(shape, x.dtype.itemsize))
    pixel = shape[1] if x.layout == CHANNELS_LAST else 0
    return Place(buffer, 0, shape, x.dtype, x.layout, pixel)


def blend(
    low: Lowering,
    op: Resize,
    x: Place,
    y: Place,
    order: list[int],
    axes: Mapping[int, Axis],
    row: int | None,
    col: int | None,
) -> None:
    """One pass of the ``blend`` kernel: ``row``, ``col`` (the axis right inside it), or both."""
    first = row if row is not None else col
    last = col if col is not None else row
    assert first is not None
    assert last is not None
    outer, inner = order[: order.index(first)], order[order.index(last) + 1 :]
    n, c = (checked_size([x.shape[a] for a in some]) for some in (outer, inner))
    h, oh = (1, 1) if row is None else (x.shape[row], y.shape[row])
    w, ow = (1, 1) if col is None else (x.shape[col], y.shape[col])
    if row is None:
        # Every line along ``col`` is its own image of height 1.
        h = oh = 1
    places: list[Place | None] = []
    taps = []
    for k in (row, col):
        if k is None:
            places += [None, None]
            taps.append(0)
            continue
        numbers = (x.shape[k], *axes[k])
        taps.append(taps_of(op, *numbers))
        places.append(low.computed(sources, op, *numbers))
        places.append(low.computed(weights, op, *numbers))
    macs = n * c * (oh * w * taps[0] + oh * ow * taps[1])
    threads = low.threads_for(max(macs, y.nbytes))
    scratch = None
    if row is not None and col is not None:
        scratch = low.scratch(checked_size((threads, w, c), 4, "interpolation rows"), threads)
    params = dict(n=n, h=h, w=w, c=c, oh=oh, ow=ow, h_taps=taps[0], w_taps=taps[1])
    low.step("blend", params, [x, *places, scratch, y], work=macs, macs=macs, threads=threads)
