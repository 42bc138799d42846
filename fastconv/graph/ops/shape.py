"""Operators that rename, measure or make up shapes: none of them computes with the elements.

Source: the ONNX operators of the same names in opset 21 (``Reshape-21``, ``Shape-21`` and so on).
The helpers at the top serve ``move``, ``indexing`` and ``resize`` too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...errors import ShapeError
from ...sizes import checked_size
from ..core import TensorType
from ..op import Op, need, normalize_axis, register
from ..symbols import Dim, Sym, is_static

INT64 = np.dtype(np.int64)


def dims_product(dims: Sequence[Dim]) -> Any:
    """The product of dimensions; None when one of them is unknown."""
    result: Any = 1
    for d in dims:
        if d is None:
            return None
        result = d * result if isinstance(d, Sym) else result * d
    return result


def integers(values: Sequence[np.ndarray | None], i: int, what: str = "input") -> list[int] | None:
    """Input ``i`` as a list of integers, or None when it is absent or not known yet.

    Raises:
        ShapeError: it does not hold integers, or has more than one axis.
    """
    array = values[i] if i < len(values) else None
    if array is None:
        return None
    need(array.dtype.kind in "iu", f"{what} must hold integers, not {array.dtype}")
    need(array.ndim <= 1, f"{what} has shape {list(array.shape)}; it must be a list")
    return [int(v) for v in array.reshape(-1)]


def needed(xs: Sequence[np.ndarray | None], i: int, what: str) -> list[int]:
    """The same for an input that must be there, in ``compute``."""
    result = integers(xs, i, what)
    assert result is not None
    return result


def given(types: Sequence[Any], i: int) -> bool:
    """Whether optional input ``i`` is there (a type or an array)."""
    return i < len(types) and types[i] is not None


def optional(xs: Sequence[Any], i: int) -> Any:
    """Optional input ``i``, or None."""
    return xs[i] if i < len(xs) else None


def axes_of(axes: Sequence[int], rank: int) -> list[int]:
    """Axes counted from the front.

    Raises:
        ShapeError: one is out of range, or two are the same.
    """
    result = [normalize_axis(a, rank) for a in axes]
    need(len(set(result)) == len(result), f"axes {list(axes)} name the same axis twice")
    return result


def list_length(t: TensorType) -> int | None:
    """How many entries a 1-D input has, where that is known."""
    if t.shape is not None and len(t.shape) == 1 and isinstance(t.shape[0], int):
        return t.shape[0]
    return None


def reshaped(shape: Sequence[Dim] | None, target: Sequence[int], allowzero: int) -> tuple[Dim, ...]:
    """The shape that ``Reshape`` gives a value of ``shape`` (None: unknown rank).

    Dimensions that occur on both sides are cancelled before −1 is worked out, so that symbolic and
    zero sizes come out right.

    Raises:
        ShapeError: the number of elements would change, or the target makes no sense.
    """
    target = list(target)
    need(all(t >= -1 for t in target), f"target shape {target} has an entry below -1")
    need(target.count(-1) <= 1, f"target shape {target} has more than one -1")
    if allowzero and 0 in target:
        need(-1 not in target, f"target shape {target} has both 0 and -1 with allowzero set")
    result: list[Dim] = list(target)
    for i, t in enumerate(target):
        if t == 0 and not allowzero:
            if shape is not None:
                need(
                    i < len(shape),
                    f"target shape {target} copies dimension {i}, the input has only {len(shape)}",
                )
            result[i] = None if shape is None else shape[i]
    if shape is None:
        return tuple(None if d == -1 else d for d in result)
    left = list(shape)
    wanted = []
    for d in result:
        if d is not None and d in left:
            left.remove(d)
        elif d != -1:
            wanted.append(d)

    def message() -> str:
        return f"a value of shape {list(shape)} cannot be reshaped to {target}"

    if is_static(tuple(left)) and is_static(tuple(wanted)):
        have, want = dims_product(left), dims_product(wanted)
        if -1 in target:
            need(want > 0 and have % want == 0, message)
            result[target.index(-1)] = have // want
        elif have != want:
            # What was cancelled may hold a zero: then both sides are empty.
            need(is_static(tuple(shape)) and 0 in shape and 0 in result, message)
    elif -1 in target:
        numbers = dims_product([d for d in left if isinstance(d, int)])
        others = dims_product([d for d in left if not isinstance(d, int)])
        below = dims_product(wanted)
        known = isinstance(below, int) and below > 0 and numbers % below == 0
        size = None if not known or others is None else others * (numbers // below)
        result[target.index(-1)] = size
    return tuple(result)


@register
class Reshape(Op):
    """The same elements in another shape; 0 copies a dimension, −1 takes what is left."""

    arity = (2, 2)
    allowzero: int = 0

    def infer(self, types, values):
        x, target = types[0], integers(values, 1, "shape")
        if target is None:
            n = list_length(types[1])
            return [TensorType(x.dtype, None if n is None else (None,) * n)]
        return [TensorType(x.dtype, reshaped(x.shape, target, self.allowzero))]

    def compute(self, xs):
        target = needed(xs, 1, "shape")
        return [np.reshape(xs[0], reshaped(xs[0].shape, target, self.allowzero))]


@register
class Flatten(Op):
    """To two axes: all before ``axis``, and all from it on."""

    axis: int = 1

    def split_at(self, rank: int) -> int:
        """``axis`` counted from the front; it may be the rank itself."""
        need(-rank <= self.axis <= rank, f"axis {self.axis} is out of range for rank {rank}")
        return self.axis + rank if self.axis < 0 else self.axis

    def infer(self, types, values):
        x = types[0]
        if x.shape is None:
            return [TensorType(x.dtype, (None, None))]
        k = self.split_at(len(x.shape))
        return [TensorType(x.dtype, (dims_product(x.shape[:k]), dims_product(x.shape[k:])))]

    def compute(self, xs):
        k = self.split_at(xs[0].ndim)
        shape = xs[0].shape
        return [xs[0].reshape(dims_product(shape[:k]), dims_product(shape[k:]))]


@register
class Squeeze(Op):
    """Drops axes of size 1: those of input ``axes``, or all."""

    arity = (1, 2)

    def infer(self, types, values):
        x, axes = types[0], integers(values, 1, "axes")
        if x.shape is None or (given(types, 1) and axes is None):
            return [TensorType(x.dtype, None)]
        if axes is None:
            if not is_static(x.shape):
                return [TensorType(x.dtype, None)]
            return [TensorType(x.dtype, tuple(d for d in x.shape if d != 1))]
        axes = axes_of(axes, len(x.shape))
        for a in axes:
            d = x.shape[a]
            need(not isinstance(d, int) or d == 1, f"axis {a} of {x} has size {d}, not 1")
        return [TensorType(x.dtype, tuple(d for i, d in enumerate(x.shape) if i not in axes))]

    def compute(self, xs):
        types = [TensorType(x.dtype, x.shape) if x is not None else None for x in xs]
        return [xs[0].reshape(self.infer(types, xs)[0].shape)]


@register
class Unsqueeze(Op):
    """Inserts axes of size 1 at the positions ``axes`` of the result."""

    arity = (2, 2)

    def infer(self, types, values):
        x, axes = types[0], integers(values, 1, "axes")
        if x.shape is None or axes is None:
            n = list_length(types[1])
            if x.shape is None or n is None:
                return [TensorType(x.dtype, None)]
            return [TensorType(x.dtype, (None,) * (len(x.shape) + n))]
        rank = len(x.shape) + len(axes)
        axes = axes_of(axes, rank)
        rest = iter(x.shape)
        return [TensorType(x.dtype, tuple(1 if i in axes else next(rest) for i in range(rank)))]

    def compute(self, xs):
        types = [TensorType(x.dtype, x.shape) for x in xs]
        return [xs[0].reshape(self.infer(types, xs)[0].shape)]


@register
class Shape(Op):
    """The input's dimensions ``start`` to ``end`` as an int64 list."""

    start: int = 0
    end: int | None = None

    def infer(self, types, values):
        x = types[0]
        n = None if x.shape is None else len(x.shape[self.start : self.end])
        return [TensorType(INT64, (n,))]

    def fold(self, types, values):
        shape = types[0].shape
        part = None if shape is None else shape[self.start : self.end]
        return [np.array(part, INT64)] if is_static(part) else None

    def compute(self, xs):
        return [np.array(xs[0].shape[self.start : self.end], INT64)]


@register
class Size(Op):
    """The number of elements, an int64 scalar."""

    def infer(self, types, values):
        return [TensorType(INT64, ())]

    def fold(self, types, values):
        shape = types[0].shape
        return [np.array(checked_size(shape), INT64)] if is_static(shape) else None

    def compute(self, xs):
        return [np.array(xs[0].size, INT64)]


@register
class ConstantOfShape(Op):
    """An array of the shape that the input lists, filled with ``value`` (float32 zero)."""

    value: np.ndarray | None = None

    def fill(self) -> np.ndarray:
        """The value as a scalar array."""
        if self.value is None:
            return np.zeros((), np.float32)
        need(self.value.size == 1, f"value has {self.value.size} elements, not 1")
        return self.value.reshape(())

    def infer(self, types, values):
        shape = integers(values, 0, "shape")
        if shape is None:
            n = list_length(types[0])
            return [TensorType(self.fill().dtype, None if n is None else (None,) * n)]
        need(all(d >= 0 for d in shape), f"shape {shape} has a negative entry")
        checked_size(shape, self.fill().dtype.itemsize)
        return [TensorType(self.fill().dtype, tuple(shape))]

    def compute(self, xs):
        shape, fill = needed(xs, 0, "shape"), self.fill()
        need(all(d >= 0 for d in shape), f"shape {shape} has a negative entry")
        checked_size(shape, fill.dtype.itemsize)
        # One element seen many times: takes no memory until somebody needs the whole.
        return [np.broadcast_to(fill, shape)]


@register
class Range(Op):
    """start, start + delta, … up to but without limit."""

    arity = (3, 3)

    def infer(self, types, values):
        dtype = types[0].dtype
        if any(v is None for v in values):
            return [TensorType(dtype, (None,))]
        return [TensorType(dtype, (self.count(values),))]

    def count(self, xs: Sequence[Any]) -> int:
        """How many numbers there are: max(0, ceil((limit − start) / delta))."""
        for x, what in zip(xs, ("start", "limit", "delta"), strict=True):
            need(x.size == 1, f"{what} must be a scalar, not of shape {list(x.shape)}")
        start, limit, delta = (x.reshape(()).item() for x in xs)
        need(delta != 0, "delta is 0")
        if xs[0].dtype.kind == "f":
            size = np.ceil((float(limit) - float(start)) / float(delta))
            need(bool(np.isfinite(size)), f"range from {start} to {limit} by {delta} has no end")
            count = max(0, int(size))
        else:
            count = len(range(start, limit, delta))
        checked_size((count,), xs[0].dtype.itemsize, "range")
        return count

    def compute(self, xs):
        n, dtype = self.count(xs), xs[0].dtype
        wide = np.float64 if dtype.kind == "f" else np.int64
        start, delta = (xs[i].reshape(()).astype(wide) for i in (0, 2))
        return [(start + np.arange(n, dtype=wide) * delta).astype(dtype)]


@register
class Constant(Op):
    """A value from the file. The importer puts constants into the graph; this serves the rest."""

    arity = (0, 0)
    value: np.ndarray | None = None
    value_float: float | None = None
    value_floats: tuple[float, ...] | None = None
    value_int: int | None = None
    value_ints: tuple[int, ...] | None = None
    value_string: str | None = None
    value_strings: tuple[str, ...] | None = None

    def array(self) -> np.ndarray:
        """The constant.

        Raises:
            ShapeError: no attribute, or several, give a value.
        """
        found = [
            np.asarray(v, d)
            for v, d in (
                (self.value, None),
                (self.value_float, np.float32),
                (self.value_floats, np.float32),
                (self.value_int, np.int64),
                (self.value_ints, np.int64),
                (self.value_string, np.str_),
                (self.value_strings, np.str_),
            )
            if v is not None
        ]
        if len(found) != 1:
            raise ShapeError(f"Constant needs exactly one value attribute; it has {len(found)}")
        return found[0]

    def infer(self, types, values):
        a = self.array()
        return [TensorType(a.dtype, a.shape)]

    def fold(self, types, values):
        return [self.array()]

    def compute(self, xs):
        return [self.array()]


#: TensorProto.DataType → NumPy dtype, for the types that NumPy has.
NUMPY_DTYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64",
    9: "bool", 10: "float16", 11: "float64", 12: "uint32", 13: "uint64",
}  # fmt: skip


@register
class EyeLike(Op):
    """Ones on diagonal ``k``, zeros elsewhere, in the input's shape (rank 2)."""

    dtype: int | None = None
    k: int = 0

    def result_dtype(self, dtype: np.dtype[Any] | None) -> np.dtype[Any] | None:
        """The dtype asked for, or the input's."""
        if self.dtype is None:
            return dtype
        need(self.dtype in NUMPY_DTYPES, f"dtype {self.dtype} is not supported")
        return np.dtype(NUMPY_DTYPES[self.dtype])

    def infer(self, types, values):
        x = types[0]
        need(x.rank in (None, 2), f"EyeLike needs an input of rank 2, not {x}")
        return [TensorType(self.result_dtype(x.dtype), x.shape or (None, None))]

    def compute(self, xs):
        shape, dtype = xs[0].shape, self.result_dtype(xs[0].dtype)
        need(len(shape) == 2, f"EyeLike needs an input of rank 2, not {len(shape)}")
        k = max(min(self.k, shape[1]), -shape[0])
        return [np.eye(shape[0], shape[1], k, dtype or np.float32)]
