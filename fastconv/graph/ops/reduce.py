"""Reductions, ArgMax, ArgMin, TopK and CumSum.

Source of the maths: the ONNX operators of the same names in their newest form (opset 18 to 28), in
which ``axes`` is an input. Sums of 16-bit floats are formed in float32, of float32 in float64.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from ..core import TensorType
from ..op import Op, fields_only, need, normalize_axis, register


def is_small_float(dtype: np.dtype[Any]) -> bool:
    """Whether a dtype is a float of 16 bits or fewer (bfloat16 and its kin have kind V)."""
    return dtype.kind not in "biu" and dtype.itemsize < 4


def widen(x: np.ndarray) -> np.ndarray:
    """Small floats as float32, anything else as it is."""
    return x.astype(np.float32) if is_small_float(x.dtype) else x


def resolve_axes(axes: np.ndarray | None, noop: int, rank: int) -> tuple[int, ...]:
    """The axes to reduce, counted from the front, in rising order.

    Args:
        axes: the ``axes`` input, or None when absent.
        noop: ``noop_with_empty_axes``: whether absent or empty axes mean none rather than all.
        rank: rank of the data.

    Raises:
        ShapeError: an axis is out of range, or given twice.
    """
    if axes is not None:
        need(axes.dtype.kind in "iu", f"axes must be integers, not {axes.dtype}")
    wanted = [] if axes is None else [int(a) for a in np.ravel(axes)]
    if not wanted:
        return () if noop else tuple(range(rank))
    found = sorted(normalize_axis(a, rank, "axes entry") for a in wanted)
    need(len(set(found)) == len(found), lambda: f"axes {wanted} name an axis twice")
    return tuple(found)


@fields_only
class Reduction(Op):
    """Base of the operators that reduce over ``axes``; NaN and Inf propagate as in NumPy."""

    arity = (1, 2)
    keepdims: int = 1
    noop_with_empty_axes: int = 0

    def axes(self, axes: np.ndarray | None, rank: int) -> tuple[int, ...]:
        """The resolved axes for the value of the second input."""
        return resolve_axes(axes, self.noop_with_empty_axes, rank)

    def infer(self, types, values):
        x = types[0]
        if x.shape is None:
            return [TensorType(x.dtype, None)]
        rank = len(x.shape)
        given = types[1] if len(types) > 1 else None
        if given is not None and values[1] is None:
            empty = given.shape is not None and 0 in [d for d in given.shape if isinstance(d, int)]
            if not empty:
                return [TensorType(x.dtype, (None,) * rank if self.keepdims else None)]
            axes = self.axes(None, rank)
        else:
            axes = self.axes(values[1] if given is not None else None, rank)
        if self.keepdims:
            shape = tuple(1 if i in axes else d for i, d in enumerate(x.shape))
        else:
            shape = tuple(d for i, d in enumerate(x.shape) if i not in axes)
        return [TensorType(x.dtype, shape)]

    def compute(self, xs):
        x = xs[0]
        axes = self.axes(xs[1] if len(xs) > 1 else None, x.ndim)
        with np.errstate(all="ignore"):
            out = self.reduce(widen(x), axes, bool(self.keepdims))
            return [np.asarray(out).astype(x.dtype, copy=False)]

    def reduce(self, x: np.ndarray, axes: tuple[int, ...], keepdims: bool) -> np.ndarray:
        """The reduction of an array whose dtype is wide enough to compute in."""
        raise NotImplementedError


def total(x: np.ndarray, axes: tuple[int, ...], keepdims: bool) -> np.ndarray:
    """Sum: of float32 in float64; of integers in their own dtype, wrapping around."""
    dtype = np.float64 if x.dtype == np.float32 else x.dtype
    return np.asarray(np.sum(x, axis=axes, keepdims=keepdims, dtype=dtype))


@register
class ReduceSum(Reduction):
    """Sum; 0 over no elements."""

    def reduce(self, x, axes, keepdims):
        return total(x, axes, keepdims)


@register
class ReduceMean(Reduction):
    """Mean; of integers rounded towards zero; NaN (0 for integers) over no elements."""

    def reduce(self, x, axes, keepdims):
        if x.dtype.kind in "iub" and x.dtype.itemsize < 4:
            x = x.astype(np.int64)  # ONNX has no such mean; its sum would wrap around
        s = total(x, axes, keepdims)
        count = int(np.prod([x.shape[a] for a in axes], dtype=np.int64))
        if x.dtype.kind not in "iu":
            return s / count if count else np.full_like(s, np.nan)
        if count == 0:
            return np.zeros_like(s)
        q = s // count
        return q + ((q < 0) & (q * count != s))


@register
class ReduceMax(Reduction):
    """Largest element (False < True); over no elements the dtype's least value, −∞ for floats."""

    def reduce(self, x, axes, keepdims):
        least: Any = -np.inf
        if x.dtype.kind in "iu":
            least = np.iinfo(x.dtype).min
        elif x.dtype.kind == "b":
            least = False
        return np.max(x, axis=axes, keepdims=keepdims, initial=least)


@register
class ReduceMin(Reduction):
    """Smallest element; over no elements the dtype's greatest value, +∞ for floats."""

    def reduce(self, x, axes, keepdims):
        greatest: Any = np.inf
        if x.dtype.kind in "iu":
            greatest = np.iinfo(x.dtype).max
        elif x.dtype.kind == "b":
            greatest = True
        return np.min(x, axis=axes, keepdims=keepdims, initial=greatest)


@register
class ReduceProd(Reduction):
    """Product; 1 over no elements."""

    def reduce(self, x, axes, keepdims):
        return np.prod(x, axis=axes, keepdims=keepdims, dtype=x.dtype)


@register
class ReduceL1(Reduction):
    """Sum of absolute values."""

    def reduce(self, x, axes, keepdims):
        return total(np.abs(x), axes, keepdims)


@register
class ReduceL2(Reduction):
    """Square root of the sum of squares."""

    def reduce(self, x, axes, keepdims):
        return np.sqrt(total(np.square(x), axes, keepdims))


@register
class ReduceSumSquare(Reduction):
    """Sum of squares."""

    def reduce(self, x, axes, keepdims):
        return total(np.square(x), axes, keepdims)


@register
class ReduceLogSum(Reduction):
    """Logarithm of the sum; −∞ over no elements."""

    def reduce(self, x, axes, keepdims):
        return np.log(total(x, axes, keepdims))


@register
class ReduceLogSumExp(Reduction):
    """Logarithm of the sum of exponentials, without overflow; −∞ over no elements.

    Where all elements are −∞ the result is −∞, as in onnxruntime and torch.
    """

    def reduce(self, x, axes, keepdims):
        if x.dtype.kind != "f":
            x = x.astype(np.float64)
        m = np.max(x, axis=axes, keepdims=True, initial=-np.inf)
        m = np.where(np.isfinite(m), m, 0).astype(x.dtype, copy=False)
        s = np.log(total(np.exp(x - m), axes, True)) + m
        return s if keepdims else np.squeeze(s, axis=axes)


@fields_only
class ArgReduction(Op):
    """Base of ArgMax and ArgMin: an index along ``axis``, int64; NaN wins, as in NumPy."""

    axis: int = 0
    keepdims: int = 1
    select_last_index: int = 0
    find: ClassVar[Any]

    def infer(self, types, values):
        x = types[0]
        if x.shape is None:
            return [TensorType(np.dtype(np.int64), None)]
        need(len(x.shape) > 0, lambda: f"{self.label} needs an input of rank 1 or more, not {x}")
        axis = normalize_axis(self.axis, len(x.shape))
        size = x.shape[axis]
        need(not isinstance(size, int) or size > 0, lambda: f"axis {axis} of {x} has no elements")
        shape = [*x.shape[:axis], *([1] if self.keepdims else []), *x.shape[axis + 1 :]]
        return [TensorType(np.dtype(np.int64), tuple(shape))]

    def compute(self, xs):
        x = widen(xs[0])
        axis = normalize_axis(self.axis, x.ndim)
        need(x.shape[axis] > 0, lambda: f"axis {axis} of shape {list(x.shape)} has no elements")
        if self.select_last_index:
            index = x.shape[axis] - 1 - type(self).find(np.flip(x, axis), axis)
        else:
            index = type(self).find(x, axis)
        index = np.asarray(index, np.int64)
        return [np.expand_dims(index, axis) if self.keepdims else index]


@register
class ArgMax(ArgReduction):
    """Index of the largest element."""

    find = staticmethod(np.argmax)


@register
class ArgMin(ArgReduction):
    """Index of the smallest element."""

    find = staticmethod(np.argmin)


def scalar(value: np.ndarray, what: str) -> int:
    """The integer in a tensor of one element.

    Raises:
        ShapeError: it has another number of elements.
    """
    need(value.size == 1, lambda: f"{what} must be one integer, not shape {list(value.shape)}")
    return int(value.reshape(-1)[0])


@register
class TopK(Op):
    """The K largest (or smallest) elements along an axis, sorted, and their indices (int64).

    Of equal elements the one with the lower index comes first. NaN counts as larger than any
    number, as in torch and NumPy. ``sorted`` 0 leaves the order open; the result is sorted all the
    same.
    """

    arity = (2, 2)
    n_outputs = 2
    axis: int = -1
    largest: int = 1
    sorted: int = 1

    def infer(self, types, values):
        x = types[0]
        index = np.dtype(np.int64)
        if x.shape is None:
            return [TensorType(x.dtype, None), TensorType(index, None)]
        axis = normalize_axis(self.axis, len(x.shape))
        k = None if values[1] is None else scalar(values[1], "K")
        if k is not None:
            self.check(k, x.shape[axis])
        shape = (*x.shape[:axis], k, *x.shape[axis + 1 :])
        return [TensorType(x.dtype, shape), TensorType(index, shape)]

    def check(self, k: int, size: Any) -> None:
        """Raise ShapeError unless 0 ≤ k ≤ size."""
        need(k >= 0, f"K is {k}; it must not be negative")
        if isinstance(size, int):
            need(k <= size, lambda: f"K is {k}, but axis {self.axis} has {size} elements")

    def compute(self, xs):
        x = xs[0]
        axis = normalize_axis(self.axis, x.ndim)
        k = scalar(xs[1], "K")
        self.check(k, x.shape[axis])
        keys = widen(x)
        if self.largest:
            # A stable rising sort of the reversed array, read backwards: falling, and of equal
            # elements the first one first.
            order = np.argsort(np.flip(keys, axis), axis=axis, kind="stable")
            order = x.shape[axis] - 1 - np.flip(order, axis)
        else:
            order = np.argsort(keys, axis=axis, kind="stable")
        order = np.take(order, np.arange(k), axis=axis).astype(np.int64, copy=False)
        return [np.take_along_axis(x, order, axis), order]


@register
class CumSum(Op):
    """Running sum along an axis (second input, one integer).

    ``exclusive`` leaves each element out of its own sum; ``reverse`` sums from the end.
    """

    arity = (2, 2)
    ufunc: ClassVar[np.ufunc] = np.add
    exclusive: int = 0
    reverse: int = 0

    def infer(self, types, values):
        x = types[0]
        if values[1] is not None and x.shape is not None:
            normalize_axis(scalar(values[1], "axis"), len(x.shape))
        return [TensorType(x.dtype, x.shape)]

    def compute(self, xs):
        x = xs[0]
        axis = normalize_axis(scalar(xs[1], "axis"), x.ndim)
        source = widen(x)
        if self.reverse:
            source = np.flip(source, axis)
        dtype = np.float64 if source.dtype == np.float32 else source.dtype
        with np.errstate(all="ignore"):
            if self.exclusive:
                out = np.full(source.shape, self.ufunc.identity, dtype)
                at = [slice(None)] * x.ndim
                to = list(at)
                at[axis], to[axis] = slice(0, -1), slice(1, None)
                self.ufunc.accumulate(source[tuple(at)], axis, out=out[tuple(to)])
            else:
                out = self.ufunc.accumulate(source, axis, dtype)
            if self.reverse:
                out = np.flip(out, axis)
            return [out.astype(x.dtype, copy=False)]


@register
class CumProd(CumSum):
    """Running product along an axis; ``exclusive`` and ``reverse`` as for the sum."""

    ufunc = np.multiply
