"""Softmax and its kin, and the normalisations.

Source of the maths: the ONNX operators of the same names in their newest form. 16-bit floats are
computed in float32, which is what ``stash_type`` 1 asks for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...errors import UnsupportedError
from ..activation import Activation
from ..core import TensorType
from ..op import Op, broadcast, fields_only, need, normalize_axis, register
from ..symbols import SymbolicError
from .conv import internal
from .elementwise import activate
from .reduce import widen


class SameType(Op):
    """Base of operators whose only output has the type of the first input."""

    def infer(self, types, values):
        self.check(types)
        return [TensorType(types[0].dtype, types[0].shape)]

    def check(self, types: Sequence[TensorType | None]) -> None:
        """Raise ShapeError if the inputs do not fit."""


def softmax(x: np.ndarray, axis: int, log: bool) -> np.ndarray:
    """exp(x) / sum(exp(x)) over an axis, or its logarithm, without overflow; keeps the dtype."""
    if x.size == 0:
        return x.copy()
    wide = widen(x)
    with np.errstate(all="ignore"):
        wide = wide - wide.max(axis=axis, keepdims=True)
        e = np.exp(wide)
        s = e.sum(axis=axis, keepdims=True)
        out = wide - np.log(s) if log else e / s
    return out.astype(x.dtype, copy=False)


def hardmax(x: np.ndarray, axis: int) -> np.ndarray:
    """One at the first largest element along an axis, zero elsewhere."""
    out = np.zeros_like(x)
    if x.size:
        first = np.expand_dims(np.argmax(widen(x), axis=axis), axis)
        np.put_along_axis(out, first, np.ones((), x.dtype), axis)
    return out


@fields_only
class AxisOp(SameType):
    """Base: an operator over one axis (opset 13 and later)."""

    axis: int = -1

    def check(self, types):
        if types[0].shape is not None:
            normalize_axis(self.axis, len(types[0].shape))


@register
class Softmax(AxisOp):
    """exp(x) / sum(exp(x)) over ``axis``."""

    def compute(self, xs):
        return [softmax(xs[0], self.axis, False)]


@register
class LogSoftmax(AxisOp):
    """log(Softmax(x)) over ``axis``, computed without the detour."""

    def compute(self, xs):
        return [softmax(xs[0], self.axis, True)]


@register
class Hardmax(AxisOp):
    """One at the first largest element along ``axis``, zero elsewhere."""

    def compute(self, xs):
        return [hardmax(xs[0], self.axis)]


@fields_only
class FlatOp(SameType):
    """Base: the meaning before opset 13. Axes from ``axis`` on are flattened into one row."""

    domain = "fastconv"
    axis: int = 1

    def check(self, types):
        if types[0].shape is not None:
            self.first(len(types[0].shape))

    def first(self, rank: int) -> int:
        """The first axis of the row, 0 to rank."""
        return rank if self.axis == rank else normalize_axis(self.axis, rank)

    def rows(self, x: np.ndarray) -> np.ndarray:
        """The input as a matrix."""
        axis = self.first(x.ndim)
        outer = int(np.prod(x.shape[:axis], dtype=np.int64))
        inner = int(np.prod(x.shape[axis:], dtype=np.int64))
        return x.reshape(outer, inner)


@register
class FlatSoftmax(FlatOp):
    """Softmax-1 and Softmax-11."""

    def compute(self, xs):
        return [softmax(self.rows(xs[0]), 1, False).reshape(xs[0].shape)]


@register
class FlatLogSoftmax(FlatOp):
    """LogSoftmax-1 and LogSoftmax-11."""

    def compute(self, xs):
        return [softmax(self.rows(xs[0]), 1, True).reshape(xs[0].shape)]


@register
class FlatHardmax(FlatOp):
    """Hardmax-1 and Hardmax-11."""

    def compute(self, xs):
        return [hardmax(self.rows(xs[0]), 1).reshape(xs[0].shape)]


@register
class LpNormalization(AxisOp):
    """x / (L1 or L2 norm over ``axis``); 0 where the norm is 0."""

    p: int = 2

    def check(self, types):
        AxisOp.check(self, types)
        need(self.p in (1, 2), f"p is {self.p}; LpNormalization knows 1 and 2")

    def compute(self, xs):
        x = widen(xs[0])
        with np.errstate(all="ignore"):
            if self.p == 1:
                norm = np.abs(x).sum(axis=self.axis, keepdims=True)
            else:
                norm = np.sqrt(np.square(x).sum(axis=self.axis, keepdims=True))
            out = np.where(norm == 0, 0, x / norm)
        return [out.astype(xs[0].dtype, copy=False)]


def check_channels(types: Sequence[TensorType | None], names: Sequence[str], rank: int) -> None:
    """Raise ShapeError unless inputs 1, 2, … have one value per channel and x has that rank."""
    x = types[0]
    if x is None or x.shape is None:
        return
    need(len(x.shape) >= rank, lambda: f"the input must have rank {rank} or more, not {x}")
    channels = x.shape[1] if len(x.shape) > 1 else 1
    for t, name in zip(types[1:], names, strict=False):
        if t is None or t.shape is None:
            continue
        own = t.shape
        need(len(own) == 1, lambda: f"{name} {t} must have rank 1")
        if isinstance(own[0], int) and isinstance(channels, int):
            need(own[0] == channels, lambda: f"{name} {t} needs one value per channel ({channels})")


def per_channel(v: np.ndarray, rank: int) -> np.ndarray:
    """A vector shaped so that it broadcasts along axis 1."""
    return widen(v).reshape(-1, *(1,) * (rank - 2)) if rank > 1 else widen(v)


@register
class BatchNormalization(SameType):
    """scale · (x − mean) / √(var + epsilon) + B per channel, with the given statistics.

    Inputs: x (N, C, …), scale, B, mean, var, each (C).

    Raises:
        UnsupportedError: ``training_mode`` is 1.
    """

    arity = (5, 5)
    epsilon: float = 1e-5
    momentum: float = 0.9
    training_mode: int = 0
    activation: Activation | None = internal(None)

    def check(self, types):
        self.refuse_training()
        check_channels(types, ("scale", "B", "input_mean", "input_var"), 1)

    def refuse_training(self) -> None:
        """Raise UnsupportedError in training mode."""
        if self.training_mode:
            raise UnsupportedError(
                "BatchNormalization with training_mode=1 computes statistics of the batch; export "
                "the model in evaluation mode"
            )

    def compute(self, xs):
        self.refuse_training()
        x = widen(xs[0])
        scale, b, mean, var = (per_channel(v, x.ndim) for v in xs[1:5])
        with np.errstate(all="ignore"):
            out = (x - mean) * (scale / np.sqrt(var + self.epsilon)) + b
            return [finished(out, self.activation, xs[0])]


def finished(out: np.ndarray, act: Activation | None, x: np.ndarray) -> np.ndarray:
    """Activation, then the dtype of ``x``."""
    if act is not None:
        out = activate(act, out)
    return out.astype(x.dtype, copy=False)


def standardize(x: np.ndarray, axes: tuple[int, ...], epsilon: float) -> np.ndarray:
    """(x − mean) / √(variance + epsilon) over axes, statistics in float64 for float32."""
    if x.size == 0:
        return x
    dtype = np.float64 if x.dtype == np.float32 else x.dtype
    mean = x.mean(axis=axes, keepdims=True, dtype=dtype)
    var = np.square(x - mean).mean(axis=axes, keepdims=True)
    return (x - mean) / np.sqrt(var + epsilon)


@register
class InstanceNormalization(SameType):
    """Each channel of each image to zero mean and unit variance, then scale and B (C)."""

    arity = (3, 3)
    epsilon: float = 1e-5
    activation: Activation | None = internal(None)

    def check(self, types):
        check_channels(types, ("scale", "B"), 3)

    def compute(self, xs):
        x = widen(xs[0])
        with np.errstate(all="ignore"):
            out = standardize(x, tuple(range(2, x.ndim)), self.epsilon)
            out = out * per_channel(xs[1], x.ndim) + per_channel(xs[2], x.ndim)
            return [finished(out, self.activation, xs[0])]


def check_stash(stash_type: int) -> None:
    """Raise UnsupportedError unless the statistics are asked for in float32 or float64."""
    if stash_type not in (1, 11):
        raise UnsupportedError(
            f"stash_type {stash_type}: statistics are computed in float32 (1) or float64 (11)"
        )


@register
class GroupNormalization(SameType):
    """Groups of channels of each image to zero mean and unit variance; scale and bias are (C)."""

    arity = (3, 3)
    num_groups: int
    epsilon: float = 1e-5
    stash_type: int = 1
    activation: Activation | None = internal(None)

    def check(self, types):
        check_stash(self.stash_type)
        check_channels(types, ("scale", "bias"), 2)
        self.check_groups(types[0])

    def check_groups(self, x: TensorType) -> None:
        """Raise ShapeError unless the channels divide into the groups."""
        need(self.num_groups >= 1, f"num_groups is {self.num_groups}; it must be at least 1")
        if x.shape is not None and isinstance(x.shape[1], int):
            need(
                x.shape[1] % self.num_groups == 0,
                f"{x.shape[1]} channels do not divide into {self.num_groups} groups",
            )

    def compute(self, xs):
        return [
            self.normalize(xs[0], per_channel(xs[1], xs[0].ndim), per_channel(xs[2], xs[0].ndim))
        ]

    def normalize(self, x: np.ndarray, scale: np.ndarray, bias: np.ndarray) -> np.ndarray:
        """The result for scale and bias that broadcast against ``x``."""
        n = x.shape[0]
        size = int(np.prod(x.shape[1:], dtype=np.int64)) // self.num_groups
        rows = widen(x).reshape(n, self.num_groups, size)
        with np.errstate(all="ignore"):
            out = standardize(rows, (2,), self.epsilon).reshape(x.shape) * scale + bias
            return finished(out, self.activation, x)


@register
class GroupNormalization18(GroupNormalization):
    """The form of opset 18: scale and bias have one value per group."""

    domain = "fastconv"

    def check(self, types):
        x = types[0]
        if x.shape is not None:
            need(len(x.shape) >= 2, lambda: f"the input must have rank 2 or more, not {x}")
        self.check_groups(x)
        for t, name in zip(types[1:], ("scale", "bias"), strict=False):
            if t.shape is not None and all(isinstance(d, int) for d in t.shape):
                need(
                    t.shape == (self.num_groups,),
                    f"{name} {t} needs one value per group ({self.num_groups})",
                )

    def compute(self, xs):
        x = xs[0]
        each = x.shape[1] // self.num_groups
        scale, bias = (per_channel(np.repeat(v, each), x.ndim) for v in xs[1:3])
        return [self.normalize(x, scale, bias)]


@fields_only
class RowNormalization(Op):
    """Base: normalise over all axes from ``axis`` on; Scale (and B) broadcast to the input."""

    axis: int = -1
    epsilon: float = 1e-5
    stash_type: int = 1

    def check(self, types: Sequence[TensorType | None]) -> None:
        """Raise ShapeError or UnsupportedError if the inputs or attributes do not fit."""
        check_stash(self.stash_type)
        x = types[0]
        if x is None or x.shape is None:
            return
        normalize_axis(self.axis, len(x.shape))
        for t in types[1:]:
            if t is None or t.shape is None:
                continue
            try:
                fits = broadcast(x.shape, t.shape) == x.shape
            except SymbolicError:
                continue
            static = all(isinstance(d, int) for d in (*x.shape, *t.shape))
            need(fits or not static, lambda: f"{t} does not broadcast to the input {x}")

    def axes(self, rank: int) -> tuple[int, ...]:
        """The axes that are normalised over."""
        return tuple(range(normalize_axis(self.axis, rank), rank))


@register
class LayerNormalization(RowNormalization):
    """Zero mean and unit variance over the last axes, then · Scale + B.

    Outputs: Y as x; Mean and InvStdDev (float32 for ``stash_type`` 1), with size 1 on those axes.
    """

    arity = (2, 3)
    n_outputs = 3

    def infer(self, types, values):
        self.check(types)
        x = types[0]
        stat = np.dtype(np.float64 if self.stash_type == 11 else np.float32)
        if x.shape is None:
            return [TensorType(x.dtype, None), TensorType(stat, None), TensorType(stat, None)]
        axes = self.axes(len(x.shape))
        small = (*x.shape[: axes[0]], *(1,) * len(axes))
        return [TensorType(x.dtype, x.shape), TensorType(stat, small), TensorType(stat, small)]

    def compute(self, xs):
        check_stash(self.stash_type)
        x = widen(xs[0])
        axes = self.axes(x.ndim)
        stat = np.float64 if self.stash_type == 11 else np.float32
        with np.errstate(all="ignore"):
            mean = x.mean(axis=axes, keepdims=True, dtype=np.float64)
            var = np.square(x - mean).mean(axis=axes, keepdims=True)
            inverse = 1 / np.sqrt(var + self.epsilon)
            out = (x - mean) * inverse * widen(xs[1])
            if len(xs) > 2 and xs[2] is not None:
                out = out + widen(xs[2])
        return [out.astype(xs[0].dtype, copy=False), mean.astype(stat), inverse.astype(stat)]


@register
class RMSNormalization(RowNormalization):
    """x / √(mean(x²) + epsilon) over the last axes, then · scale."""

    arity = (2, 2)

    def infer(self, types, values):
        self.check(types)
        return [TensorType(types[0].dtype, types[0].shape)]

    def compute(self, xs):
        check_stash(self.stash_type)
        x = widen(xs[0])
        with np.errstate(all="ignore"):
            square = np.square(x).mean(axis=self.axes(x.ndim), keepdims=True)
            out = x / np.sqrt(square + self.epsilon) * widen(xs[1])
        return [out.astype(xs[0].dtype, copy=False)]


@register
class LRN(SameType):
    """Local response normalisation across channels (Krizhevsky et al., 2012).

    y[c] = x[c] / (bias + alpha / size · Σ x[i]²)**beta, i from c − ⌊(size−1)/2⌋ to
    c + ⌈(size−1)/2⌉, clipped to the channels.
    """

    size: int
    alpha: float = 1e-4
    beta: float = 0.75
    bias: float = 1.0

    def check(self, types):
        need(self.size >= 1, f"size is {self.size}; it must be at least 1")
        x = types[0]
        need(
            x.shape is None or len(x.shape) >= 2,
            lambda: f"LRN needs an input of rank 2 or more, not {x}",
        )

    def compute(self, xs):
        x = widen(xs[0])
        channels = x.shape[1]
        before, after = (self.size - 1) // 2, self.size // 2
        squares = np.square(x)
        total = np.zeros_like(x)
        for shift in range(max(-before, 1 - channels), min(after, channels - 1) + 1):
            # total[c] += squares[c + shift] where that channel exists.
            lo, hi = max(0, -shift), channels - max(0, shift)
            total[:, lo:hi] += squares[:, lo + shift : hi + shift]
        with np.errstate(all="ignore"):
            out = x / (self.bias + self.alpha / self.size * total) ** self.beta
        return [out.astype(xs[0].dtype, copy=False)]


@register
class MeanVarianceNormalization(SameType):
    """(x − mean) / (√variance + 1e-9) over ``axes``, as ONNX's function body has it."""

    axes: tuple[int, ...] = (0, 2, 3)

    def check(self, types):
        if types[0].shape is not None:
            self.resolve(len(types[0].shape))

    def resolve(self, rank: int) -> tuple[int, ...]:
        """The axes counted from the front, in rising order."""
        axes = tuple(sorted(normalize_axis(a, rank, "axes entry") for a in self.axes))
        need(len(set(axes)) == len(axes), lambda: f"axes {list(self.axes)} name an axis twice")
        return axes

    def compute(self, xs):
        x = widen(xs[0])
        axes = self.resolve(x.ndim)
        if x.size == 0:
            return [xs[0].copy()]
        dtype: Any = np.float64 if x.dtype == np.float32 else x.dtype
        with np.errstate(all="ignore"):
            centred = x - x.mean(axis=axes, keepdims=True, dtype=dtype)
            deviation = np.sqrt(np.square(centred).mean(axis=axes, keepdims=True))
            out = centred / (deviation + 1e-9)
        return [out.astype(xs[0].dtype, copy=False)]
