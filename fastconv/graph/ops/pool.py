"""Pooling. Source of the maths: ONNX operators MaxPool-22, AveragePool-22, LpPool-22, MaxUnpool-22,
GlobalAveragePool-22, GlobalMaxPool-22 and GlobalLpPool-22.

A last window that starts in the end padding is dropped (``ceil_mode``), so every window starts
inside the input or its begin padding.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np

from ...errors import ShapeError
from ...sizes import checked_size
from ..core import TensorType
from ..op import Op, need, register
from ..window import Window, check_window, resolve_window

INT64 = np.dtype(np.int64)


def wide(x: np.ndarray) -> np.ndarray:
    """Float16 as float32, in which sums are made; others as they are."""
    return x.astype(np.float32) if x.dtype == np.float16 else x


def sizes(win: Window) -> tuple[int, ...]:
    """The output sizes of a window over an input of known shape."""
    return tuple(int(n) for n in win.output)


def padded(x: np.ndarray, win: Window, fill: Any) -> np.ndarray:
    """``x`` with a border of ``fill`` around its spatial axes, so that every window fits."""
    rank = len(win.kernel_shape)
    before = win.pads[:rank]
    extents = [
        (o - 1) * s + (k - 1) * d + 1
        for o, s, k, d in zip(sizes(win), win.strides, win.kernel_shape, win.dilations, strict=True)
    ]
    after = [max(0, e - n - b) for e, n, b in zip(extents, x.shape[2:], before, strict=True)]
    pads = [(0, 0), (0, 0), *zip(before, after, strict=True)]
    checked_size([n + sum(p) for n, p in zip(x.shape, pads, strict=True)], 8, "padded input")
    return np.pad(x, pads, constant_values=fill)


def cells(x: np.ndarray, win: Window) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
    """For each tap of the window: the tap, and the view of padded ``x`` that all outputs read."""
    for tap in product(*map(range, win.kernel_shape)):
        at = [
            slice(t * d, t * d + (o - 1) * s + 1, s)
            for t, d, o, s in zip(tap, win.dilations, sizes(win), win.strides, strict=True)
        ]
        yield tap, x[(slice(None), slice(None), *at)]


def counts(size: int, axis: int, win: Window, padding: bool) -> np.ndarray:
    """Taps of each output along one axis that lie in the input, or also in its padding."""
    rank = len(win.kernel_shape)
    out = np.arange(sizes(win)[axis])[:, None] * win.strides[axis] - win.pads[axis]
    at = out + np.arange(win.kernel_shape[axis]) * win.dilations[axis]
    end = size + (win.pads[rank + axis] if padding else 0)
    return ((at < end) & ((at >= 0) | padding)).sum(1)


class Pool(Op):
    """What the operators with a window share (attributes of the same name are declared there)."""

    auto_pad: str
    ceil_mode: int
    dilations: tuple[int, ...] | None
    kernel_shape: tuple[int, ...]
    pads: tuple[int, ...] | None
    strides: tuple[int, ...] | None

    def window(self, x: tuple[Any, ...]) -> Window:
        """The resolved window for input shape ``x``.

        Raises:
            ShapeError: the attributes do not fit each other or the input.
        """
        return resolve_window(
            x[2:],
            self.kernel_shape,
            self.strides,
            self.dilations,
            self.pads,
            self.auto_pad,
            bool(self.ceil_mode),
        )

    def infer(self, types, values):
        x = types[0]
        if x.shape is None:
            return [TensorType(x.dtype, None)]
        need(len(x.shape) >= 3, lambda: f"{self.label} needs an input of rank 3 or more, not {x}")
        return [TensorType(x.dtype, (*x.shape[:2], *self.window(x.shape).output))]


@register
class MaxPool(Pool):
    """Maximum of each window, NCHW → NCHW, and optionally where it was found.

    Padding never wins: a window without cells gives −inf (the least integer for int8 and uint8).
    NaN wins over everything, as in ``numpy.max``. ``Indices`` are int64 positions in the flattened
    NCHW input (with ``storage_order`` 1 each plane is numbered column by column); equal maxima
    count by their first.
    """

    n_outputs = 2
    kernel_shape: tuple[int, ...]
    auto_pad: str = "NOTSET"
    ceil_mode: int = 0
    dilations: tuple[int, ...] | None = None
    pads: tuple[int, ...] | None = None
    storage_order: int = 0
    strides: tuple[int, ...] | None = None

    def infer(self, types, values):
        y = super().infer(types, values)[0]
        return [y, TensorType(INT64, y.shape)]

    def maximum(self, xs):
        """The first output alone."""
        x = xs[0]
        win = self.window(x.shape)
        low = lowest(x.dtype)
        out = np.full((*x.shape[:2], *win.output), low, x.dtype)
        for _, piece in cells(padded(x, win, low), win):
            np.maximum(out, piece, out=out)
        return [out]

    def index_steps(self, x: tuple[int, ...]) -> tuple[int, ...]:
        """How much one step along each spatial axis adds to an index."""
        plane = x[2:]
        if self.storage_order:
            return tuple(checked_size(plane[:a]) for a in range(len(plane)))
        return tuple(checked_size(plane[a + 1 :]) for a in range(len(plane)))

    def compute(self, xs):
        x = xs[0]
        win = self.window(x.shape)
        rank = len(win.kernel_shape)
        low = lowest(x.dtype)
        out = np.full((*x.shape[:2], *win.output), low, x.dtype)
        where = np.full(out.shape, -1, np.int64)
        steps = self.index_steps(x.shape)
        planes = np.arange(x.shape[0] * x.shape[1]).reshape(*x.shape[:2], *(1,) * rank)
        planes = planes * checked_size(x.shape[2:])
        for tap, piece in cells(padded(x, win, low), win):
            inside: Any = True
            index: Any = planes
            for a in range(rank):
                at = np.arange(sizes(win)[a]) * win.strides[a] - win.pads[a]
                at = (at + tap[a] * win.dilations[a]).reshape(-1, *(1,) * (rank - 1 - a))
                inside = inside & (at >= 0) & (at < x.shape[2 + a])
                index = index + at * steps[a]
            better = (piece > out) | (where < 0) | ((piece != piece) & (out == out))
            better &= inside
            np.copyto(out, piece, where=better)
            np.copyto(where, index, where=better)
        return [out, where]


def lowest(dtype: np.dtype[Any]) -> Any:
    """What every value of this dtype is at least."""
    return -np.inf if dtype.kind == "f" else np.iinfo(dtype).min


@register
class AveragePool(Pool):
    """Mean of each window, NCHW → NCHW.

    It divides by the number of cells inside the input, or with ``count_include_pad`` inside the
    input and its pads: what ``ceil_mode`` adds beyond them never counts. A window without cells
    gives 0.
    """

    kernel_shape: tuple[int, ...]
    auto_pad: str = "NOTSET"
    ceil_mode: int = 0
    count_include_pad: int = 0
    dilations: tuple[int, ...] | None = None
    pads: tuple[int, ...] | None = None
    strides: tuple[int, ...] | None = None

    def compute(self, xs):
        x = wide(xs[0])
        win = self.window(x.shape)
        rank = len(win.kernel_shape)
        out = np.zeros((*x.shape[:2], *win.output), x.dtype)
        for _, piece in cells(padded(x, win, 0), win):
            out += piece
        for a in range(rank):
            n = counts(x.shape[2 + a], a, win, bool(self.count_include_pad))
            out /= np.maximum(n, 1).astype(out.dtype).reshape(-1, *(1,) * (rank - 1 - a))
        return [out.astype(xs[0].dtype, copy=False)]


@register
class LpPool(Pool):
    """(Σ |x|^p)^(1/p) of each window, NCHW → NCHW; padding adds nothing."""

    kernel_shape: tuple[int, ...]
    auto_pad: str = "NOTSET"
    ceil_mode: int = 0
    dilations: tuple[int, ...] | None = None
    p: int = 2
    pads: tuple[int, ...] | None = None
    strides: tuple[int, ...] | None = None

    def infer(self, types, values):
        need(self.p >= 1, f"p {self.p} must be at least 1")
        return super().infer(types, values)

    def compute(self, xs):
        x = np.abs(wide(xs[0])) ** self.p
        win = self.window(x.shape)
        out = np.zeros((*x.shape[:2], *win.output), x.dtype)
        for _, piece in cells(padded(x, win, 0), win):
            out += piece
        return [(out ** (1 / self.p)).astype(xs[0].dtype, copy=False)]


class GlobalPool(Op):
    """What the pools over all spatial positions share: NCHW → NC11."""

    def infer(self, types, values):
        x = types[0]
        if x.shape is None:
            return [TensorType(x.dtype, None)]
        need(len(x.shape) >= 3, lambda: f"{self.label} needs an input of rank 3 or more, not {x}")
        return [TensorType(x.dtype, (*x.shape[:2], *(1,) * (len(x.shape) - 2)))]


def spatial(x: np.ndarray) -> tuple[int, ...]:
    """The spatial axes."""
    return tuple(range(2, x.ndim))


@register
class GlobalAveragePool(GlobalPool):
    """Mean over all spatial positions (NaN where there are none)."""

    def compute(self, xs):
        x = wide(xs[0])
        n = checked_size(x.shape[2:])
        with np.errstate(invalid="ignore"):
            y = x.sum(axis=spatial(x), keepdims=True) / np.asarray(n, x.dtype)
        return [y.astype(xs[0].dtype, copy=False)]


@register
class GlobalMaxPool(GlobalPool):
    """Maximum over all spatial positions; NaN wins (−inf where there are none)."""

    def compute(self, xs):
        x = xs[0]
        return [x.max(axis=spatial(x), keepdims=True, initial=lowest(x.dtype))]


@register
class GlobalLpPool(GlobalPool):
    """(Σ |x|^p)^(1/p) over all spatial positions."""

    p: int = 2

    def infer(self, types, values):
        need(self.p >= 1, f"p {self.p} must be at least 1")
        return super().infer(types, values)

    def compute(self, xs):
        x = np.abs(wide(xs[0])) ** self.p
        y = x.sum(axis=spatial(x), keepdims=True) ** (1 / self.p)
        return [y.astype(xs[0].dtype, copy=False)]


@register
class MaxUnpool(Op):
    """Puts each value where ``MaxPool`` found it, zeros elsewhere.

    Inputs: X (NCHW), I (int64, the shape of X: positions in the flattened unpooled tensor, whose
    size follows from the window) and optionally output_shape, a larger NCHW shape in whose leading
    corner the result then lies.
    """

    arity = (2, 3)
    kernel_shape: tuple[int, ...]
    pads: tuple[int, ...] | None = None
    strides: tuple[int, ...] | None = None

    def unpooled(self, x: tuple[Any, ...]) -> tuple[Any, ...]:
        """The shape to which the indices refer."""
        rank = len(x) - 2
        ks, ss, _, ps = check_window(
            rank, self.kernel_shape, self.strides, None, self.pads, "NOTSET"
        )
        sides = tuple(
            None if x[2 + a] is None else (x[2 + a] - 1) * ss[a] - ps[a] - ps[rank + a] + ks[a]
            for a in range(rank)
        )
        for s in sides:
            need(not isinstance(s, int) or s >= 0, f"the unpooled sizes {list(sides)} are negative")
        return (*x[:2], *sides)

    def infer(self, types, values):
        x, index = types[0], types[1]
        if x.shape is None:
            return [TensorType(x.dtype, None)]
        need(len(x.shape) >= 3, lambda: f"MaxUnpool needs an input of rank 3 or more, not {x}")
        if x.static and index.static:
            need(x.shape == index.shape, lambda: f"indices {index} do not have the shape of {x}")
        need(index.dtype in (None, INT64), f"indices {index} are not int64")
        shape = self.unpooled(x.shape)
        if len(types) > 2 and types[2] is not None:
            wanted = values[2]
            if wanted is None:
                return [TensorType(x.dtype, (None,) * len(x.shape))]
            wanted = tuple(int(d) for d in wanted.reshape(-1))
            self.check_output(wanted, shape)
            shape = wanted
        return [TensorType(x.dtype, shape)]

    def check_output(self, wanted: tuple[int, ...], shape: tuple[Any, ...]) -> None:
        """Raise ShapeError unless ``shape`` fits into the shape that was asked for."""
        need(
            len(wanted) == len(shape)
            and all(not isinstance(s, int) or w >= s for w, s in zip(wanted, shape, strict=True)),
            f"output_shape {list(wanted)} does not hold the unpooled shape {list(shape)}",
        )

    def compute(self, xs):
        x, index = xs[0], xs[1]
        shape = self.unpooled(x.shape)
        n = checked_size(shape, 1)
        checked_size(shape, x.dtype.itemsize, "unpooled tensor")
        if index.size and (index.min() < 0 or index.max() >= n):
            raise ShapeError(
                f"indices from {index.min()} to {index.max()} do not all lie in the unpooled "
                f"shape {list(shape)}, which has {n} elements"
            )
        flat = np.zeros(n, x.dtype)
        flat[index.reshape(-1)] = x.reshape(-1)
        out = flat.reshape(shape)
        if len(xs) > 2 and xs[2] is not None:
            wanted = tuple(int(d) for d in xs[2].reshape(-1))
            self.check_output(wanted, shape)
            checked_size(wanted, x.dtype.itemsize, "unpooled tensor")
            full = np.zeros(wanted, x.dtype)
            full[tuple(slice(0, s) for s in shape)] = out
            out = full
        return [out]
