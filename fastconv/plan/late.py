"""Kernels for operators whose results' sizes depend on data: no plan has them, Python calls them.

Each function takes the operator and its inputs, and gives what ``compute`` gives, or None for forms
that the kernel does not know.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import kernels
from ..sizes import checked_size

#: With fewer candidates than these per row, on average, all rows are sorted at once.
FEW = 64


def suppressed(op: Any, xs: Sequence[np.ndarray | None], isa: str) -> list[np.ndarray] | None:
    """NonMaxSuppression: candidates are sorted here, and compared with the boxes kept there."""
    boxes, scores = xs[0], xs[1]
    most, overlap, least = op.limits(xs)
    assert boxes is not None
    assert scores is not None
    if boxes.dtype != np.float32 or scores.dtype != np.float32 or boxes.ndim != 3:
        return None
    images, classes, count = scores.shape
    most = min(most, count)
    if not most or not images or boxes.shape != (images, count, 4):
        return None
    corners = np.empty((images, 5, count), np.float32)
    for n in range(images):
        sides = np.ascontiguousarray(boxes[n].T)
        if op.center_point_box:
            found, corners[n, 4] = op.corners(boxes[n])
            corners[n, :4] = found.T
            continue
        low = np.minimum(sides[:2], sides[2:], out=corners[n, :2])
        high = np.maximum(sides[:2], sides[2:], out=corners[n, 2:4])
        with np.errstate(all="ignore"):
            size = high - low
            np.multiply(size[0], size[1], out=corners[n, 4])
    lists = images * classes
    rows = scores.reshape(lists, count)
    order, begin = candidates(rows, least)
    checked_size((lists, 5, most), 4, "kept boxes")
    kept = np.empty((lists, most), np.int64)
    counts = np.empty(lists, np.int64)
    scratch = np.empty((lists, 5, most), np.float32)
    kernel = kernels.table(isa)["suppress"]
    params = kernel.pack(lists=lists, classes=classes, boxes=count, most=most, threshold=overlap)
    kernels.call(kernel.address, params, [corners, order, begin, scratch, kept, counts], 1)
    of_list = np.repeat(np.arange(lists), counts)
    result = np.empty((len(of_list), 3), np.int64)
    result[:, 0], result[:, 1] = of_list // classes, of_list % classes
    result[:, 2] = kept[np.arange(most) < counts[:, None]]
    return [result]


def candidates(rows: np.ndarray, least: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Indices of each row's scores above ``least`` (None: all), best first, equal ones in order.

    Returns:
        the indices of all rows one behind the other; where each row's begin, and where they end.
    """
    if least is None:
        order = np.concatenate([best_first(-row) for row in rows])
        return order, np.arange(len(rows) + 1, dtype=np.int64) * rows.shape[1]
    at = np.flatnonzero(rows > np.float32(least))
    width = rows.shape[1]
    begin = np.searchsorted(at, np.arange(len(rows) + 1) * width)
    values = -rows.reshape(-1)[at]
    if len(at) < FEW * len(rows):
        at = at[np.lexsort((values, at // width))] % width
        return at.astype(np.int64, copy=False), begin.astype(np.int64, copy=False)
    at %= width
    for k in np.flatnonzero(np.diff(begin) > 1):
        part = slice(begin[k], begin[k + 1])
        at[part] = at[part][best_first(values[part])]
    return at.astype(np.int64, copy=False), begin.astype(np.int64, copy=False)


def best_first(values: np.ndarray) -> np.ndarray:
    """The order that sorts values, equal ones as they come."""
    order = np.argsort(values)  # much faster than the stable sort, where no two are equal
    ordered = values[order]
    if (ordered[1:] == ordered[:-1]).any() or (len(ordered) and np.isnan(ordered[-1])):
        order = np.argsort(values, kind="stable")
    return order.astype(np.int64, copy=False)


#: Operator's name → function.
LATE: dict[str, Callable[[Any, Sequence[np.ndarray | None], str], list[np.ndarray] | None]] = {
    "NonMaxSuppression": suppressed,
}


def compute(op: Any, xs: Sequence[Any], isa: str | None = None) -> Any:
    """What an operator computes, by its kernel if it has one for these inputs, else in NumPy."""
    fast = LATE.get(type(op).__name__)
    if fast is not None:
        outputs = fast(op, xs, isa or kernels.chosen_isa())
        if outputs is not None:
            return outputs
    return op.compute(xs)
