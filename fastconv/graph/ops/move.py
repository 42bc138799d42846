"""Operators that move elements without computing with them.

Source: ONNX operators Transpose-21, Concat-13, Split-18, Slice-13, Expand-13, Tile-13, Pad-21,
DepthToSpace-13, SpaceToDepth-13 (with the ``mode`` of a later opset), Trilu-14,
ReverseSequence-10 and CenterCropPad-18.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...errors import InputError
from ...sizes import checked_size
from ..core import TensorType
from ..op import Op, broadcast, need, normalize_axis, register
from ..strings import is_text
from ..symbols import Dim
from .shape import axes_of, given, integers, list_length, needed, optional

#: Slice bounds beyond this mean "to the end".
FAR = 1 << 31


def types_of(xs: Sequence[Any]) -> list[Any]:
    """The types of arrays, to run a shape rule on them."""
    return [None if x is None else TensorType(x.dtype, x.shape) for x in xs]


@register
class Transpose(Op):
    """Axis i of the result is axis ``perm[i]`` of the input; without ``perm`` axes are reversed."""

    perm: tuple[int, ...] | None = None

    def order(self, rank: int) -> tuple[int, ...]:
        """``perm`` in full.

        Raises:
            ShapeError: it is not a permutation of the axes.
        """
        if self.perm is None:
            return tuple(range(rank))[::-1]
        need(
            sorted(self.perm) == list(range(rank)),
            f"perm {list(self.perm)} is not a permutation of {rank} axes",
        )
        return tuple(self.perm)

    def infer(self, types, values):
        x = types[0]
        if x.shape is None:
            return [TensorType(x.dtype, None if self.perm is None else (None,) * len(self.perm))]
        return [TensorType(x.dtype, tuple(x.shape[p] for p in self.order(len(x.shape))))]

    def compute(self, xs):
        return [np.transpose(xs[0], self.order(xs[0].ndim))]


@register
class Concat(Op):
    """The inputs one after the other along ``axis``."""

    arity = (1, -1)
    axis: int

    def infer(self, types, values):
        dtype = types[0].dtype
        for t in types:
            known = t.dtype is not None and dtype is not None
            need(not known or t.dtype == dtype, lambda: f"dtypes of {types[0]} and {t} differ")
        shapes = [t.shape for t in types if t.shape is not None]
        if not shapes:
            return [TensorType(dtype, None)]
        rank = len(shapes[0])
        need(rank > 0, "scalars cannot be concatenated")
        axis = normalize_axis(self.axis, rank)
        result: list[Any] = list(shapes[0])
        for s in shapes[1:]:
            need(len(s) == rank, lambda: f"shapes {list(shapes[0])} and {list(s)} differ in rank")
            for k, d in enumerate(s):
                if k != axis and isinstance(d, int):
                    have = result[k]
                    need(
                        not isinstance(have, int) or have == d,
                        lambda: f"shapes {list(shapes[0])} and {list(s)} differ on axis {k}",
                    )
                    result[k] = d
        total: Any = 0
        for t in types:
            d = None if t.shape is None else t.shape[axis]
            total = None if d is None or total is None else total + d
        result[axis] = total
        return [TensorType(dtype, tuple(result))]

    def compute(self, xs):
        self.infer(types_of(xs), [None] * len(xs))
        return [np.concatenate(xs, self.axis)]


@register
class Split(Op):
    """Parts of the input along ``axis``: sizes from input ``split``, or ``num_outputs`` equal ones.

    Where the axis does not divide, the last part is smaller.
    """

    arity = (1, 2)
    n_outputs = -1
    axis: int = 0
    num_outputs: int | None = None

    def sizes(self, size: Dim, split: list[int] | None) -> list[Dim]:
        """The parts' sizes along the axis."""
        if split is not None:
            need(all(s >= 0 for s in split), f"split {split} has a negative entry")
            need(
                not isinstance(size, int) or sum(split) == size,
                f"split {split} does not add up to the axis' size {size}",
            )
            return list(split)
        n = self.num_outputs
        need(n is not None and n >= 1, "Split needs input split or num_outputs of at least 1")
        assert n is not None
        if not isinstance(size, int):
            return [size] if n == 1 else [None] * n
        part = -(-size // n)
        last = size - part * (n - 1)
        need(last >= 0, lambda: f"axis of size {size} cannot be split into {n} parts of {part}")
        return [*[part] * (n - 1), last]

    def infer(self, types, values):
        x, split = types[0], integers(values, 1, "split")
        if given(types, 1) and split is None:
            n = list_length(types[1]) or self.num_outputs or 1
            if x.shape is None:
                return [TensorType(x.dtype, None)] * n
            sizes: list[Dim] = [None] * n
        else:
            if x.shape is None:
                return [TensorType(x.dtype, None)] * (len(split or ()) or self.num_outputs or 1)
            axis = normalize_axis(self.axis, len(x.shape))
            sizes = self.sizes(x.shape[axis], split)
        axis = normalize_axis(self.axis, len(x.shape))
        return [TensorType(x.dtype, (*x.shape[:axis], s, *x.shape[axis + 1 :])) for s in sizes]

    def compute(self, xs):
        x, split = xs[0], integers(xs, 1, "split")
        axis = normalize_axis(self.axis, x.ndim)
        sizes: Any = self.sizes(x.shape[axis], split)
        return np.split(x, np.cumsum(sizes)[:-1].astype(int), axis)


@register
class Slice(Op):
    """data[starts : ends : steps] on the given axes (default: the first ones)."""

    arity = (3, 5)

    def ranges(self, shape: Sequence[Dim], values: Sequence[Any]) -> dict[int, Any] | None:
        """Axis → (start, stop, step) as ``slice`` takes them; None when an input is not known.

        Raises:
            ShapeError: lists of different length, a step of 0 or an axis out of range.
        """
        starts, ends = integers(values, 1, "starts"), integers(values, 2, "ends")
        if starts is None or ends is None:
            return None
        axes, steps = integers(values, 3, "axes"), integers(values, 4, "steps")
        axes = list(range(len(starts))) if axes is None else axes
        steps = [1] * len(starts) if steps is None else steps
        need(
            len(starts) == len(ends) == len(axes) == len(steps),
            f"starts, ends, axes and steps have {len(starts)}, {len(ends)}, {len(axes)} and "
            f"{len(steps)} entries",
        )
        need(all(steps), f"steps {steps} has a 0")
        axes = axes_of(axes, len(shape))
        return {a: (s, e, t) for a, s, e, t in zip(axes, starts, ends, steps, strict=True)}

    @staticmethod
    def length(size: Dim, bounds: tuple[int, int, int]) -> Dim:
        """Elements that (start, stop, step) takes of an axis."""
        start, stop, step = bounds
        if isinstance(size, int):
            return len(taken(size, bounds))
        if step == 1 and start == 0 and stop >= FAR - 1:
            return size
        if step == -1 and start == -1 and stop <= 1 - FAR:
            return size
        return 0 if step > 0 and 0 <= stop <= start else None

    def infer(self, types, values):
        x = types[0]
        if x.shape is None:
            return [TensorType(x.dtype, None)]
        unknown = any(given(types, i) and optional(values, i) is None for i in range(1, 5))
        axes = integers(values, 3, "axes")
        if unknown:
            touched = range(len(x.shape)) if axes is None else axes_of(axes, len(x.shape))
            if axes is None and not given(types, 3):
                touched = range(list_length(types[1]) or len(x.shape))
            shape = tuple(None if k in touched else d for k, d in enumerate(x.shape))
            return [TensorType(x.dtype, shape)]
        ranges = self.ranges(x.shape, values)
        assert ranges is not None
        shape = tuple(
            self.length(d, ranges[k]) if k in ranges else d for k, d in enumerate(x.shape)
        )
        return [TensorType(x.dtype, shape)]

    def compute(self, xs):
        ranges = self.ranges(xs[0].shape, xs)
        assert ranges is not None
        index = [slice(None)] * xs[0].ndim
        for k, bounds in ranges.items():
            r = taken(xs[0].shape[k], bounds)
            index[k] = slice(r.start, None if r.stop < 0 else r.stop, r.step)
        return [xs[0][tuple(index)]]


def taken(size: int, bounds: tuple[int, int, int]) -> range:
    """The positions that (start, stop, step) takes of an axis.

    As Python's slices, but a start in front of the axis is its first element with a negative step
    too (Slice-13: starts are clamped to [0, size − 1]).
    """
    start, stop, step = slice(*bounds).indices(size)
    return range(max(start, 0) if size else start, stop, step)


@register
class Expand(Op):
    """Broadcasts to the given shape; a 1 in it keeps the input's size."""

    arity = (2, 2)

    def infer(self, types, values):
        x, shape = types[0], integers(values, 1, "shape")
        if shape is None or x.shape is None:
            n = list_length(types[1]) if shape is None else len(shape)
            if x.shape is None or n is None:
                return [TensorType(x.dtype, None)]
            return [TensorType(x.dtype, (None,) * max(n, len(x.shape)))]
        need(all(d >= 0 for d in shape), f"shape {shape} has a negative entry")
        result = broadcast(x.shape, tuple(shape))
        checked_size([d for d in result if isinstance(d, int)], 1, "expanded value")
        return [TensorType(x.dtype, result)]

    def compute(self, xs):
        shape = self.infer(types_of(xs), xs)[0].shape
        return [np.broadcast_to(xs[0], shape)]


@register
class Tile(Op):
    """The input repeated ``repeats[i]`` times along axis i."""

    arity = (2, 2)

    def infer(self, types, values):
        x, repeats = types[0], integers(values, 1, "repeats")
        if x.shape is None:
            return [TensorType(x.dtype, None)]
        if repeats is None:
            return [TensorType(x.dtype, (None,) * len(x.shape))]
        need(len(repeats) == len(x.shape), f"repeats {repeats} does not have an entry per axis")
        need(all(r >= 0 for r in repeats), f"repeats {repeats} has a negative entry")
        sizes = [None if d is None else d * r for d, r in zip(x.shape, repeats, strict=True)]
        return [TensorType(x.dtype, tuple(sizes))]

    def compute(self, xs):
        shape = self.infer(types_of(xs), xs)[0].shape
        checked_size(shape, xs[0].dtype.itemsize)
        return [np.tile(xs[0], needed(xs, 1, "repeats"))]


PAD_MODES = ("constant", "reflect", "edge", "wrap")


def pad_index(mode: str, size: int, begin: int, end: int) -> np.ndarray:
    """Which input position each output position of a padded axis shows; −1 is the constant.

    Negative pads crop first, and what is left is padded (as onnxruntime does).

    Raises:
        ShapeError: nothing is left to reflect or repeat.
    """
    low, high = max(0, -begin), size - max(0, -end)
    left, begin, end = high - low, max(begin, 0), max(end, 0)
    need(left >= 0, lambda: f"pads crop {low} and {size - high} from an axis of size {size}")
    checked_size((begin + left + end,), 8, "padded axis")
    i = np.arange(-begin, left + end)
    if mode == "constant":
        return np.where((i >= 0) & (i < left), i + low, -1)
    need(left > 0 or i.size == 0, f"mode {mode!r} cannot pad an axis of size 0")
    if mode == "reflect":
        period = max(1, 2 * (left - 1))
        i = i % period
        i = np.minimum(i, period - i) if left > 1 else i * 0
    elif mode == "wrap":
        i = i % max(1, left)
    return np.clip(i, 0, max(0, left - 1)) + low


@register
class Pad(Op):
    """Adds ``pads`` = [begin of each axis…, end of each axis…] elements; negative ones crop.

    Inputs: data, pads, constant_value (scalar, default 0), axes (default all).
    """

    arity = (2, 4)
    mode: str = "constant"

    def amounts(self, rank: int, values: Sequence[Any]) -> list[tuple[int, int]] | None:
        """(begin, end) of every axis, or None when an input is not known."""
        need(self.mode in PAD_MODES, f"mode {self.mode!r} is not one of {', '.join(PAD_MODES)}")
        pads = integers(values, 1, "pads")
        if pads is None:
            return None
        axes = integers(values, 3, "axes")
        axes = list(range(rank)) if axes is None else axes_of(axes, rank)
        n = len(axes)
        need(len(pads) == 2 * n, f"pads {pads} needs 2 entries for each of {n} axes")
        result = [(0, 0)] * rank
        for a, begin, end in zip(axes, pads[:n], pads[n:], strict=True):
            result[a] = begin, end
        return result

    def infer(self, types, values):
        x = types[0]
        need(self.mode in PAD_MODES, f"mode {self.mode!r} is not one of {', '.join(PAD_MODES)}")
        if x.shape is None:
            return [TensorType(x.dtype, None)]
        unknown = given(types, 3) and optional(values, 3) is None
        amounts = None if unknown else self.amounts(len(x.shape), values)
        if amounts is None:
            return [TensorType(x.dtype, (None,) * len(x.shape))]
        if given(types, 2):
            c = types[2]
            need(c.dtype == x.dtype, lambda: f"constant_value {c} and data {x} differ in dtype")
        sizes: list[Any] = []
        for d, (b, e) in zip(x.shape, amounts, strict=True):
            size = None if d is None else d + (b + e)
            if isinstance(d, int):
                size = d + b + e
                need(size >= 0, lambda: f"pads {b} and {e} leave {size} of an axis of size {d}")
                need(
                    self.mode == "constant" or d + min(b, 0) + min(e, 0) > 0 or size == 0,
                    f"mode {self.mode!r} cannot pad an axis of size 0",
                )
                checked_size((size,), 8, "padded axis")
            sizes.append(size)
        return [TensorType(x.dtype, tuple(sizes))]

    @staticmethod
    def constant(xs: Sequence[Any], dtype: np.dtype[Any]) -> np.ndarray:
        """The constant value as a scalar array."""
        value = optional(xs, 2)
        if value is None:
            return np.array("", object) if is_text(dtype) else np.zeros((), dtype)
        need(value.size == 1, f"constant_value has shape {list(value.shape)}; it must be a scalar")
        return value.reshape(()).astype(dtype)

    def compute(self, xs):
        y = xs[0]
        amounts = self.amounts(y.ndim, xs)
        assert amounts is not None
        fill = self.constant(xs, y.dtype)
        checked_size(
            [max(0, d + b + e) for d, (b, e) in zip(y.shape, amounts, strict=True)],
            y.dtype.itemsize,
        )
        for axis, (begin, end) in enumerate(amounts):
            if begin or end:
                index = pad_index(self.mode, y.shape[axis], begin, end)
                outside = index < 0
                if not y.shape[axis]:
                    shape = (*y.shape[:axis], index.size, *y.shape[axis + 1 :])
                    y = np.full(shape, fill)
                    continue
                y = np.take(y, np.maximum(index, 0), axis)
                y[(slice(None),) * axis + (outside,)] = fill
        return [y]


def block_check(x: TensorType, size: int, mode: str) -> None:
    need(x.shape is None or len(x.shape) == 4, lambda: f"needs an input of rank 4, not {x}")
    need(size >= 1, lambda: f"blocksize {size} must be at least 1")
    need(mode in ("DCR", "CRD"), f"mode {mode!r} is neither DCR nor CRD")


def divided(d: Dim, by: int, what: str) -> Dim:
    """A dimension divided exactly; a symbolic one only by 1."""
    if isinstance(d, int):
        need(d % by == 0, lambda: f"{what} {d} does not divide by {by}")
        return d // by
    return d if by == 1 or d is None else d // by


@register
class DepthToSpace(Op):
    """Channels to blocks of ``blocksize``² pixels: NCHW → N, C/b², H·b, W·b.

    ``mode``: channels are ordered (block row, block column, channel) for DCR, and
    (channel, block row, block column) for CRD, which is torch's pixel shuffle.
    """

    blocksize: int
    mode: str = "DCR"

    def infer(self, types, values):
        x, b = types[0], self.blocksize
        block_check(x, b, self.mode)
        if x.shape is None:
            return [TensorType(x.dtype, (None,) * 4)]
        n, c, h, w = x.shape
        c = divided(c, b * b, "channel count")
        h, w = (None if d is None else d * b for d in (h, w))
        return [TensorType(x.dtype, (n, c, h, w))]

    def compute(self, xs):
        shape = self.infer(types_of(xs), [None])[0].shape
        (n, c, h, w), b = xs[0].shape, self.blocksize
        if self.mode == "DCR":
            y = xs[0].reshape(n, b, b, c // (b * b), h, w).transpose(0, 3, 4, 1, 5, 2)
        else:
            y = xs[0].reshape(n, c // (b * b), b, b, h, w).transpose(0, 1, 4, 2, 5, 3)
        return [y.reshape(shape)]


@register
class SpaceToDepth(Op):
    """The reverse of DepthToSpace: NCHW → N, C·b², H/b, W/b."""

    blocksize: int
    mode: str = "DCR"

    def infer(self, types, values):
        x, b = types[0], self.blocksize
        block_check(x, b, self.mode)
        if x.shape is None:
            return [TensorType(x.dtype, (None,) * 4)]
        n, c, h, w = x.shape
        c = None if c is None else c * (b * b)
        return [TensorType(x.dtype, (n, c, divided(h, b, "height"), divided(w, b, "width")))]

    def compute(self, xs):
        shape = self.infer(types_of(xs), [None])[0].shape
        (n, c, h, w), b = xs[0].shape, self.blocksize
        y = xs[0].reshape(n, c, h // b, b, w // b, b)
        y = y.transpose(0, 3, 5, 1, 2, 4) if self.mode == "DCR" else y.transpose(0, 1, 3, 5, 2, 4)
        return [y.reshape(shape)]


@register
class ChannelShuffle(Op):
    """Channels seen as [groups][channels of a group], transposed: NCHW → NCHW (ShuffleNet, 2017).

    Made by a pass from Reshape, Transpose and Reshape; not an ONNX operator.
    """

    domain = "fastconv"
    groups: int

    def infer(self, types, values):
        x = types[0]
        need(
            x.shape is None or len(x.shape) >= 2,
            lambda: f"needs an input of rank 2 or more, not {x}",
        )
        need(self.groups >= 1, f"groups {self.groups} must be at least 1")
        if x.shape is not None:
            divided(x.shape[1], self.groups, "channel count")
        return [TensorType(x.dtype, x.shape)]

    def compute(self, xs):
        n, c, *rest = self.infer(types_of(xs), [None])[0].shape
        y = xs[0].reshape(n, self.groups, c // self.groups, *rest)
        return [y.swapaxes(1, 2).reshape(xs[0].shape)]


@register
class Trilu(Op):
    """The upper (or lower) triangle of the last two axes from diagonal ``k`` on, else zeros."""

    arity = (1, 2)
    upper: int = 1

    def infer(self, types, values):
        x = types[0]
        need(
            x.shape is None or len(x.shape) >= 2,
            lambda: f"needs an input of rank 2 or more, not {x}",
        )
        return [TensorType(x.dtype, x.shape)]

    def compute(self, xs):
        x, k = xs[0], optional(xs, 1)
        self.infer(types_of([x]), [None])
        need(k is None or k.size == 1, "k must be a scalar")
        rows, cols = x.shape[-2:]
        diagonal = 0 if k is None else max(-rows, min(int(k.reshape(()).item()), cols))
        keep = np.arange(cols) - np.arange(rows)[:, None]
        mask = keep >= diagonal if self.upper else keep <= diagonal
        return [np.where(mask, x, np.zeros((), x.dtype))]


@register
class ReverseSequence(Op):
    """The first ``sequence_lens[b]`` steps of every batch entry, backwards."""

    arity = (2, 2)
    batch_axis: int = 1
    time_axis: int = 0

    def infer(self, types, values):
        x = types[0]
        if x.shape is not None:
            need(len(x.shape) >= 2, lambda: f"needs an input of rank 2 or more, not {x}")
            axes_of((self.batch_axis, self.time_axis), len(x.shape))
            lens = types[1].shape
            need(lens is None or len(lens) == 1, f"sequence_lens {types[1]} must be a list")
        return [TensorType(x.dtype, x.shape)]

    def compute(self, xs):
        x, lens = xs
        self.infer(types_of(xs), [None, None])
        batch, time = axes_of((self.batch_axis, self.time_axis), x.ndim)
        steps, size = x.shape[time], x.shape[batch]
        need(lens.shape == (size,), lambda: f"sequence_lens needs {size} entries, not {lens.size}")
        if lens.size and not (lens.min() >= 0 and lens.max() <= steps):
            raise InputError(f"sequence_lens must be from 0 to {steps}: {lens.tolist()}")
        t = np.arange(steps)
        at = np.where(t < lens[:, None], lens[:, None] - 1 - t, t)  # [batch, time]
        at = at if batch < time else at.T
        shape = [1] * x.ndim
        shape[batch], shape[time] = size, steps
        return [np.take_along_axis(x, at.reshape(shape), time)]


@register
class CenterCropPad(Op):
    """Crops or zero-pads around the centre to the sizes of input ``shape`` on ``axes``."""

    arity = (2, 2)
    axes: tuple[int, ...] | None = None

    def sizes(self, shape: Sequence[Dim], target: list[int]) -> list[Dim]:
        """The result's shape."""
        axes = axes_of(range(len(shape)) if self.axes is None else self.axes, len(shape))
        need(len(target) == len(axes), f"shape {target} needs {len(axes)} entries")
        need(all(t >= 0 for t in target), f"shape {target} has a negative entry")
        result = list(shape)
        for a, t in zip(axes, target, strict=True):
            result[a] = t
        return result

    def infer(self, types, values):
        x, target = types[0], integers(values, 1, "shape")
        if x.shape is None:
            return [TensorType(x.dtype, None)]
        if target is None:
            axes = axes_of(range(len(x.shape)) if self.axes is None else self.axes, len(x.shape))
            shape = tuple(None if k in axes else d for k, d in enumerate(x.shape))
            return [TensorType(x.dtype, shape)]
        return [TensorType(x.dtype, tuple(self.sizes(x.shape, target)))]

    def compute(self, xs):
        x, target = xs[0], integers(xs, 1, "shape")
        assert target is not None
        shape: Any = self.sizes(x.shape, target)
        checked_size(shape, x.dtype.itemsize)
        y = np.zeros(shape, x.dtype)
        src, dst = [], []
        for have, want in zip(x.shape, shape, strict=True):
            n = min(have, want)
            src.append(slice((have - n) // 2, (have - n) // 2 + n))
            dst.append(slice((want - n) // 2, (want - n) // 2 + n))
        y[tuple(dst)] = x[tuple(src)]
        return [y]
