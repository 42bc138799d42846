"""Sequences and optional values: Python lists, and None for an optional without a value.

They have no place in a plan: their operators run in Python between its parts. Source: ONNX
operators SequenceConstruct-11, SequenceEmpty-11, SequenceInsert-11, SequenceErase-11,
SequenceAt-11, SequenceLength-11, SplitToSequence-11, ConcatFromSequence-11, Optional-15,
OptionalHasElement-18 and OptionalGetElement-18.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...errors import InputError
from ..op import Op, need, normalize_axis, register
from ..symbols import SymbolicError


class Dynamic(Op):
    """Base of operators whose results no shape rule can foresee."""

    dynamic = True

    def infer(self, types, values):
        raise SymbolicError(f"what {self.label} gives is known when it runs")

    def foreseen(self, xs: Sequence[Any]) -> int:
        """Bytes that ``compute`` will allocate for its outputs, where that can be told."""
        return 0


def position(index: np.ndarray, size: int, what: str, extra: int = 0) -> int:
    """A position counted from the front; ``extra`` 1 allows the one behind the last.

    Raises:
        InputError: it is out of range.
    """
    if index.size != 1:
        raise InputError(f"{what} must be a scalar, not of shape {list(index.shape)}")
    i = int(index.reshape(()))
    if not -size <= i < size + extra:
        raise InputError(f"{what} {i} is out of range for a sequence of {size}")
    return i + size if i < 0 else i


def sequence(value: Any) -> list[Any]:
    """The value, if it is a sequence.

    Raises:
        InputError: it is a tensor, or absent.
    """
    if not isinstance(value, list):
        raise InputError(f"expected a sequence, got {'nothing' if value is None else 'a tensor'}")
    return value


@register
class SequenceConstruct(Dynamic):
    """A sequence of the inputs."""

    arity = (1, -1)

    def compute(self, xs):
        return [list(xs)]


@register
class SequenceEmpty(Dynamic):
    """A sequence of nothing."""

    arity = (0, 0)
    dtype: int | None = None

    def compute(self, xs):
        return [[]]


@register
class SequenceInsert(Dynamic):
    """The sequence with a tensor put in front of a position (default: at the end)."""

    arity = (2, 3)

    def compute(self, xs):
        values = list(sequence(xs[0]))
        at = len(values)
        if len(xs) > 2 and xs[2] is not None:
            at = position(xs[2], len(values), "position", 1)
        values.insert(at, xs[1])
        return [values]


@register
class SequenceErase(Dynamic):
    """The sequence without the tensor at a position (default: the last)."""

    arity = (1, 2)

    def compute(self, xs):
        values = list(sequence(xs[0]))
        index = xs[1] if len(xs) > 1 and xs[1] is not None else np.array(-1)
        del values[position(index, len(values), "position")]
        return [values]


@register
class SequenceAt(Dynamic):
    """The tensor at a position."""

    arity = (2, 2)

    def compute(self, xs):
        values = sequence(xs[0])
        return [values[position(xs[1], len(values), "position")]]


@register
class SequenceLength(Dynamic):
    """How many tensors there are, as an int64 scalar."""

    def compute(self, xs):
        return [np.array(len(sequence(xs[0])), np.int64)]


@register
class SplitToSequence(Dynamic):
    """Pieces of a tensor along ``axis``: of the given lengths, of one length, or single slices."""

    arity = (1, 2)
    axis: int = 0
    keepdims: int = 1

    def foreseen(self, xs):
        return xs[0].nbytes  # pieces are copies, but for those that are contiguous

    def compute(self, xs):
        x = xs[0]
        axis = normalize_axis(self.axis, x.ndim)
        split = xs[1] if len(xs) > 1 else None
        size = x.shape[axis]
        if split is None:
            if not self.keepdims:
                return [[np.array(x.take(i, axis)) for i in range(size)]]
            cuts = list(range(1, size))
            if not size:
                return [[]]
        elif split.ndim == 0:
            need(split > 0, lambda: f"split is {split}; it must be at least 1")
            if not size:
                return [[]]
            cuts = list(range(int(split), size, int(split)))
        else:
            need(
                bool((split >= 0).all()) and int(split.sum()) == size,
                lambda: f"split {split.tolist()} does not add up to {size}, the size of the axis",
            )
            cuts = np.cumsum(split)[:-1].tolist()
        return [[np.ascontiguousarray(p) for p in np.split(x, cuts, axis)]]


@register
class ConcatFromSequence(Dynamic):
    """The tensors of a sequence joined along ``axis``, a new one with ``new_axis``."""

    axis: int
    new_axis: int = 0

    def foreseen(self, xs):
        return sum(a.nbytes for a in xs[0]) if isinstance(xs[0], list) else 0

    def compute(self, xs):
        values = sequence(xs[0])
        if not values:
            raise InputError("the sequence is empty")
        rank = values[0].ndim + (1 if self.new_axis else 0)
        axis = normalize_axis(self.axis, rank)
        return [np.stack(values, axis) if self.new_axis else np.concatenate(values, axis)]


@register
class Optional(Dynamic):
    """The input as an optional value; without an input, one that is absent."""

    arity = (0, 1)

    def compute(self, xs):
        return [xs[0] if xs else None]


@register
class OptionalHasElement(Dynamic):
    """Whether there is a value, as a bool scalar."""

    arity = (0, 1)

    def compute(self, xs):
        return [np.array(bool(xs) and xs[0] is not None)]


@register
class OptionalGetElement(Dynamic):
    """The value of an optional."""

    def compute(self, xs):
        if xs[0] is None:
            raise InputError("the optional value is absent")
        return [xs[0]]
