"""Operators that read or write at positions given as data.

Source: ONNX operators Gather-13, GatherElements-13, GatherND-13, ScatterElements-18, ScatterND-18,
OneHot-11, NonZero-13, Compress-11, Unique-11 and TensorScatter-24.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...errors import InputError
from ...sizes import checked_size
from ..core import TensorType
from ..op import Op, need, normalize_axis, register
from .shape import INT64, dims_product

REDUCTIONS: dict[str, Callable[..., Any] | None] = {
    "none": None,
    "add": np.add.at,
    "mul": np.multiply.at,
    "max": np.maximum.at,
    "min": np.minimum.at,
}


def in_range(indices: np.ndarray, size: int, what: str) -> np.ndarray:
    """Indices counted from the front.

    Raises:
        InputError: one lies outside −size … size−1; names it.
    """
    if indices.dtype.kind not in "iu":
        raise InputError(f"indices must be int32 or int64, not {indices.dtype}")
    if indices.size:
        low, high = int(indices.min()), int(indices.max())
        if low < -size or high >= size:
            bad = low if low < -size else high
            raise InputError(f"index {bad} is out of range for {what} of size {size}")
    return np.where(indices < 0, indices + size, indices).astype(np.intp)


def check_known(indices: np.ndarray | None, size: Any, what: str) -> None:
    """The same check when the graph is planned, for indices and sizes known then."""
    if indices is not None and isinstance(size, int):
        try:
            in_range(indices, size, what)
        except InputError as e:
            need(False, str(e))


def integer_type(t: TensorType) -> None:
    need(t.dtype is None or t.dtype.kind in "iu", f"indices must be integers, not {t}")


@register
class Gather(Op):
    """Slices of ``data`` along ``axis`` at ``indices`` (any shape; negative ones from the end)."""

    arity = (2, 2)
    axis: int = 0

    def infer(self, types, values):
        x, i = types
        integer_type(i)
        if x.shape is None:
            return [TensorType(x.dtype, None)]
        axis = normalize_axis(self.axis, len(x.shape))
        check_known(values[1], x.shape[axis], f"axis {axis}")
        if i.shape is None:
            return [TensorType(x.dtype, None)]
        return [TensorType(x.dtype, (*x.shape[:axis], *i.shape, *x.shape[axis + 1 :]))]

    def compute(self, xs):
        x, indices = xs
        axis = normalize_axis(self.axis, x.ndim)
        at = in_range(indices, x.shape[axis], f"axis {axis}")
        return [np.take(x, at, axis)]


def along_axis(indices: np.ndarray, axis: int) -> tuple[Any, ...]:
    """Fancy index that keeps every coordinate but that of ``axis``."""
    grid: list[Any] = list(np.ogrid[tuple(slice(n) for n in indices.shape)])
    grid[axis] = indices
    return tuple(grid)


def check_along(x: tuple[Any, ...], i: tuple[Any, ...], axis: int) -> None:
    """Indices of an element-wise gather or scatter may not reach beyond the data."""
    need(len(x) == len(i), f"indices of rank {len(i)} do not fit data of rank {len(x)}")
    for k, (a, b) in enumerate(zip(x, i, strict=True)):
        if k != axis and isinstance(a, int) and isinstance(b, int):
            need(b <= a, f"indices {list(i)} reach beyond data {list(x)} on axis {k}")


@register
class GatherElements(Op):
    """y[i, j, k] = data[i, indices[i, j, k], k] (for axis 1)."""

    arity = (2, 2)
    axis: int = 0

    def infer(self, types, values):
        x, i = types
        integer_type(i)
        if x.shape is not None:
            axis = normalize_axis(self.axis, len(x.shape))
            check_known(values[1], x.shape[axis], f"axis {axis}")
            if i.shape is not None:
                check_along(x.shape, i.shape, axis)
        return [TensorType(x.dtype, i.shape)]

    def compute(self, xs):
        x, indices = xs
        axis = normalize_axis(self.axis, x.ndim)
        check_along(x.shape, indices.shape, axis)
        at = in_range(indices, x.shape[axis], f"axis {axis}")
        return [x[along_axis(at, axis)]]


@register
class ScatterElements(Op):
    """A copy of ``data`` with data[i, indices[i, j, k], k] (axis 1) set to updates[i, j, k].

    ``reduction`` (none, add, mul, max, min) combines with what is there.
    """

    arity = (3, 3)
    axis: int = 0
    reduction: str = "none"

    def infer(self, types, values):
        x, i, u = types
        integer_type(i)
        need(self.reduction in REDUCTIONS, f"reduction {self.reduction!r} is not known")
        need(x.dtype == u.dtype, f"data {x} and updates {u} differ in dtype")
        if x.shape is not None:
            axis = normalize_axis(self.axis, len(x.shape))
            check_known(values[1], x.shape[axis], f"axis {axis}")
            if i.shape is not None:
                check_along(x.shape, i.shape, axis)
        return [TensorType(x.dtype, x.shape)]

    def compute(self, xs):
        x, indices, updates = xs
        axis = normalize_axis(self.axis, x.ndim)
        check_along(x.shape, indices.shape, axis)
        need(
            indices.shape == updates.shape,
            f"indices {list(indices.shape)} and updates {list(updates.shape)} differ in shape",
        )
        at = along_axis(in_range(indices, x.shape[axis], f"axis {axis}"), axis)
        return [scatter(x, at, updates, self.reduction)]


def scatter(x: np.ndarray, at: tuple[Any, ...], updates: np.ndarray, reduction: str) -> np.ndarray:
    """A copy of ``x`` with the updates at a fancy index put in, or combined with what is there."""
    y = np.array(x)
    function = REDUCTIONS[reduction]
    if function is None:
        y[at] = updates
    else:
        function(y, at, updates)
    return y


def nd_index(
    shape: tuple[int, ...], indices: np.ndarray, batch_dims: int = 0
) -> tuple[np.ndarray, ...]:
    """The last axis of ``indices`` as a fancy index into axes ``batch_dims``… of ``shape``."""
    depth = indices.shape[-1]
    parts = [
        in_range(indices[..., k], shape[batch_dims + k], f"axis {batch_dims + k}")
        for k in range(depth)
    ]
    batch = [
        np.arange(shape[k]).reshape(-1, *(1,) * (indices.ndim - 2 - k)) for k in range(batch_dims)
    ]
    return (*batch, *parts)


@register
class GatherND(Op):
    """Slices of ``data`` at index tuples: the last axis of ``indices``."""

    arity = (2, 2)
    batch_dims: int = 0

    def infer(self, types, values):
        x, i = types
        integer_type(i)
        if x.shape is None or i.shape is None or len(i.shape) == 0:
            need(i.shape is None or len(i.shape) > 0, "indices must have rank 1 or more")
            return [TensorType(x.dtype, None)]
        b, depth = self.batch_dims, i.shape[-1]
        need(0 <= b < min(len(x.shape), len(i.shape)), f"batch_dims {b} is out of range")
        for k in range(b):
            both = isinstance(x.shape[k], int) and isinstance(i.shape[k], int)
            need(not both or x.shape[k] == i.shape[k], f"{x} and {i} differ on batch axis {k}")
        if not isinstance(depth, int):
            return [TensorType(x.dtype, None)]
        need(b + depth <= len(x.shape), f"index tuples of {depth} do not fit {x}")
        if values[1] is not None:
            for k in range(depth):
                check_known(values[1][..., k], x.shape[b + k], f"axis {b + k}")
        return [TensorType(x.dtype, (*i.shape[:-1], *x.shape[b + depth :]))]

    def compute(self, xs):
        types = [TensorType(x.dtype, x.shape) for x in xs]
        shape = self.infer(types, [None, None])[0].shape
        x, indices = xs
        at = nd_index(x.shape, indices, self.batch_dims)
        return [(x[at] if at else np.broadcast_to(x, shape)).reshape(shape)]


@register
class ScatterND(Op):
    """A copy of ``data`` with the slices at index tuples replaced by, or combined with, updates."""

    arity = (3, 3)
    reduction: str = "none"

    def infer(self, types, values):
        x, i, u = types
        integer_type(i)
        need(self.reduction in REDUCTIONS, f"reduction {self.reduction!r} is not known")
        need(x.dtype == u.dtype, f"data {x} and updates {u} differ in dtype")
        if x.shape is not None and i.shape is not None:
            need(len(i.shape) > 0, "indices must have rank 1 or more")
            depth = i.shape[-1]
            if isinstance(depth, int):
                need(depth <= len(x.shape), f"index tuples of {depth} do not fit {x}")
                if values[1] is not None:
                    for k in range(depth):
                        check_known(values[1][..., k], x.shape[k], f"axis {k}")
        return [TensorType(x.dtype, x.shape)]

    def compute(self, xs):
        x, indices, updates = xs
        self.infer([TensorType(a.dtype, a.shape) for a in xs], [None] * 3)
        shape = (*indices.shape[:-1], *x.shape[indices.shape[-1] :])
        need(
            updates.shape == shape,
            f"updates have shape {list(updates.shape)}; indices ask for {list(shape)}",
        )
        at = nd_index(x.shape, indices)
        if at:
            return [scatter(x, at, updates, self.reduction)]
        # Empty index tuples name the whole of the data, once per tuple.
        y = x[None]
        for u in updates.reshape(-1, *x.shape):
            y = scatter(y, (np.zeros(1, np.intp),), u[None], self.reduction)
        return [y[0]]


@register
class OneHot(Op):
    """values[1] where the new axis' coordinate is the index, values[0] elsewhere.

    Inputs: indices, depth (a scalar), values = [off, on]. An index outside −depth … depth−1 gives
    a slice of off values.
    """

    arity = (3, 3)
    axis: int = -1

    def infer(self, types, values):
        i, _, v = types
        if i.shape is None:
            return [TensorType(v.dtype, None)]
        axis = normalize_axis(self.axis, len(i.shape) + 1)
        depth = None if values[1] is None else self.depth(values[1])
        return [TensorType(v.dtype, (*i.shape[:axis], depth, *i.shape[axis:]))]

    @staticmethod
    def depth(array: np.ndarray) -> int:
        """The depth as an integer ≥ 0."""
        need(array.size == 1, f"depth must be a scalar, not of shape {list(array.shape)}")
        value = int(array.reshape(()).item())
        need(value >= 0, f"depth {value} is negative")
        return value

    def compute(self, xs):
        indices, depth, values = xs
        depth = self.depth(depth)
        need(values.shape == (2,), f"values must be [off, on], not of shape {list(values.shape)}")
        axis = normalize_axis(self.axis, indices.ndim + 1)
        checked_size((*indices.shape, depth), values.dtype.itemsize, "one-hot result")
        at = np.expand_dims(np.where(indices < 0, indices + depth, indices), axis)
        place = np.arange(depth).reshape(-1, *(1,) * (indices.ndim - axis))
        return [np.where(at == place, values[1], values[0])]


@register
class NonZero(Op):
    """Coordinates of the elements that are not zero, int64 [rank, count]."""

    def infer(self, types, values):
        return [TensorType(INT64, (types[0].rank, None))]

    def compute(self, xs):
        x = xs[0]
        if x.ndim == 0:
            return [np.empty((0, np.count_nonzero(x)), np.int64)]
        return [np.stack(np.nonzero(x)).astype(np.int64)]


@register
class Compress(Op):
    """The slices along ``axis`` (or elements of the flattened input) where the condition holds."""

    arity = (2, 2)
    axis: int | None = None

    def infer(self, types, values):
        x = types[0]
        if self.axis is None:
            return [TensorType(x.dtype, (None,))]
        if x.shape is None:
            return [TensorType(x.dtype, None)]
        axis = normalize_axis(self.axis, len(x.shape))
        return [TensorType(x.dtype, (*x.shape[:axis], None, *x.shape[axis + 1 :]))]

    def compute(self, xs):
        x, condition = xs
        need(condition.ndim == 1, f"condition has rank {condition.ndim}, not 1")
        axis = None if self.axis is None else normalize_axis(self.axis, x.ndim)
        size = x.size if axis is None else x.shape[axis]
        need(
            condition.size <= size or not condition[size:].any(),
            f"condition has {condition.size} entries for {size} elements",
        )
        return [np.compress(condition[:size], x, axis)]


@register
class Unique(Op):
    """Different elements (or slices along ``axis``), and int64 [k] lists: where each is met first,
    the result's index for every input, and how often each occurs."""

    n_outputs = 4
    axis: int | None = None
    sorted: int = 1

    def infer(self, types, values):
        x = types[0]
        lists = [TensorType(INT64, (None,))] * 3
        if self.axis is None:
            lists[1] = TensorType(INT64, (None if x.shape is None else dims_product(x.shape),))
            return [TensorType(x.dtype, (None,)), *lists]
        if x.shape is None:
            return [TensorType(x.dtype, None), *lists]
        axis = normalize_axis(self.axis, len(x.shape))
        lists[1] = TensorType(INT64, (x.shape[axis],))
        return [TensorType(x.dtype, (*x.shape[:axis], None, *x.shape[axis + 1 :])), *lists]

    def compute(self, xs):
        x = xs[0]
        axis = None if self.axis is None else normalize_axis(self.axis, x.ndim)
        if axis is None:
            x, axis = x.reshape(-1), 0
        _, first, inverse, counts = np.unique(
            x, return_index=True, return_inverse=True, return_counts=True, axis=axis
        )
        inverse = inverse.reshape(-1)
        if not self.sorted:
            order = np.argsort(first)
            rank = np.empty_like(order)
            rank[order] = np.arange(order.size)
            first, inverse, counts = first[order], rank[inverse], counts[order]
        lists = [a.astype(np.int64) for a in (first, inverse, counts)]
        return [np.take(x, first, axis), *lists]


@register
class TensorScatter(Op):
    """A cache with an update written into it, from another position on for each entry of axis 0.

    Inputs: past_cache, update (smaller along ``axis``), write_indices (axis 0; default zeros). Mode
    ``circular`` goes on at the front.
    """

    arity = (2, 3)
    axis: int = -2
    mode: str = "linear"

    def infer(self, types, values):
        cache, update = types[:2]
        need(self.mode in ("linear", "circular"), lambda: f"mode {self.mode!r} is not known")
        if cache.static and update.static:
            axis = normalize_axis(self.axis, len(cache.shape))
            need(axis > 0, "axis 0 is that of the write_indices")
            same = [
                a == b or (k == axis and b <= a)
                for k, (a, b) in enumerate(zip(cache.shape, update.shape, strict=False))
            ]
            need(
                all(same) and len(cache.shape) == len(update.shape),
                lambda: f"update {update} does not fit the cache {cache}",
            )
        return [cache]

    def compute(self, xs):
        cache, update, at = [*xs, None][:3]
        axis = normalize_axis(self.axis, cache.ndim)
        size, count = cache.shape[axis], update.shape[axis]
        at = np.zeros(len(cache), np.int64) if at is None else at
        out = cache.copy()
        for k, start in enumerate(at):
            where = np.arange(count) + start
            if self.mode == "circular":
                where %= size
            where = in_range(where, size, "write_indices")
            view, part = np.moveaxis(out[k], axis - 1, 0), np.moveaxis(update[k], axis - 1, 0)
            view[where] = part
        return [out]
