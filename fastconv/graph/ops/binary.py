"""Functions of two and more values, with broadcasting. Source: ONNX operators, opset 24."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from ..activation import Activation
from ..core import TensorType
from ..op import Op, broadcast, need, register
from .conv import internal
from .elementwise import activate, need_kind, power


def common_type(op: Op, types: Sequence[TensorType], dtype: Any = None) -> TensorType:
    """The type of a broadcast result; ``dtype`` overrides the inputs' common one.

    Raises:
        ShapeError: dtypes differ or shapes do not broadcast.
    """
    first = next((t.dtype for t in types if t.dtype is not None), None)
    for t in types:
        need(
            t.dtype is None or t.dtype == first,
            lambda: f"{op.label} needs inputs of one dtype, not {', '.join(map(str, types))}",
        )
    shapes = [t.shape for t in types if t.shape is not None]
    shape = broadcast(*shapes) if len(shapes) == len(types) else None
    return TensorType(first if dtype is None else np.dtype(dtype), shape)


class Binary(Op):
    """Base of broadcasting operators whose output has the inputs' dtype.

    ``activation``, set by fusion, is applied to the result.

    Class attributes:
        kernel: name of the operation in the ``binary`` kernel, or "" where there is none.
        kinds: NumPy kind letters of the dtypes that ONNX allows.
    """

    arity = (2, 2)
    kernel: ClassVar[str] = ""
    kinds: ClassVar[str] = "fiu"

    def infer(self, types, values):
        for t in types:
            need_kind(self, t.dtype, self.kinds)
        return [common_type(self, types)]

    def combine(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """The result for two inputs, in NumPy."""
        raise NotImplementedError

    def compute(self, xs):
        with np.errstate(all="ignore"):
            y = np.asarray(self.combine(xs[0], xs[1]))
        act = getattr(self, "activation", None)
        return [y if act is None else activate(act, y)]


@register
class Add(Binary):
    """y = a + b."""

    kernel = "add"
    activation: Activation | None = internal(None)

    def combine(self, a, b):
        return np.add(a, b)


@register
class Sub(Binary):
    """y = a - b."""

    kernel = "sub"
    activation: Activation | None = internal(None)

    def combine(self, a, b):
        return np.subtract(a, b)


@register
class Mul(Binary):
    """y = a * b."""

    kernel = "mul"
    activation: Activation | None = internal(None)

    def combine(self, a, b):
        return np.multiply(a, b)


@register
class Div(Binary):
    """y = a / b; integers are cut towards zero, and divided by zero give 0."""

    kernel = "div"
    activation: Activation | None = internal(None)

    def combine(self, a, b):
        if a.dtype.kind == "f":
            return np.divide(a, b)
        q = np.floor_divide(a, b)
        if a.dtype.kind == "u":
            return q
        low = (np.remainder(a, b) != 0) & ((a < 0) != (b < 0))
        return q + low.astype(q.dtype)


@register
class Pow(Binary):
    """y = a ** b in the dtype of a; the exponent may have another."""

    kernel = "pow"
    activation: Activation | None = internal(None)

    def infer(self, types, values):
        for t in types:
            need_kind(self, t.dtype, self.kinds)
        both = common_type(self, [TensorType(None, t.shape) for t in types])
        return [TensorType(types[0].dtype, both.shape)]

    def combine(self, a, b):
        if a.dtype.kind in "iu" and b.dtype.kind in "iu":
            whole = np.power(a, np.maximum(b, 0).astype(a.dtype))
            if b.dtype.kind == "u" or not (b < 0).any():
                return whole
            part = np.power(a.astype(np.float64), b)
            return np.where(b < 0, np.where(np.isfinite(part), part, 0), whole).astype(a.dtype)
        return power(a, b).astype(a.dtype)


@register
class Mod(Binary):
    """Remainder with the sign of b, or of a with ``fmod=1`` (floats needed that below opset 28)."""

    fmod: int = 0

    def combine(self, a, b):
        return np.fmod(a, b) if self.fmod else np.remainder(a, b)


class Variadic(Binary):
    """Base of operators on any number of inputs, combined from left to right."""

    arity = (1, -1)

    def compute(self, xs):
        y = xs[0]
        with np.errstate(all="ignore"):
            for x in xs[1:]:
                y = self.combine(y, x)
        return [np.asarray(y)]


@register
class Min(Variadic):
    """The smallest of the inputs; NaN if any is NaN."""

    kernel = "min"

    def combine(self, a, b):
        return np.minimum(a, b)


@register
class Max(Variadic):
    """The largest of the inputs; NaN if any is NaN."""

    kernel = "max"

    def combine(self, a, b):
        return np.maximum(a, b)


@register
class Sum(Variadic):
    """The sum of the inputs."""

    kernel = "add"
    kinds = "f"

    def combine(self, a, b):
        return np.add(a, b)


@register
class Mean(Variadic):
    """The mean of the inputs."""

    kernel = "add"
    kinds = "f"

    def combine(self, a, b):
        return np.add(a, b)

    def compute(self, xs):
        return [np.asarray(super().compute(xs)[0] / xs[0].dtype.type(len(xs)))]


class Bitwise(Binary):
    """Base of bitwise operators on integers."""

    kinds = "iu"
    ufunc: ClassVar[Any]

    def combine(self, a, b):
        return type(self).ufunc(a, b)


@register
class BitwiseAnd(Bitwise):
    """Bits set in both."""

    ufunc = np.bitwise_and


@register
class BitwiseOr(Bitwise):
    """Bits set in either."""

    ufunc = np.bitwise_or


@register
class BitwiseXor(Bitwise):
    """Bits set in one only."""

    ufunc = np.bitwise_xor


@register
class BitShift(Binary):
    """Integers shifted by b bits, ``direction`` "LEFT" or "RIGHT".

    A negative number keeps its sign to the right. Shifting by less than 0 bits, or by all of them,
    leaves the fill alone: 0, or −1 for a negative number to the right.
    """

    direction: str
    kinds = "iu"

    def infer(self, types, values):
        need(
            self.direction in ("LEFT", "RIGHT"),
            f'direction {self.direction!r} is neither "LEFT" nor "RIGHT"',
        )
        return super().infer(types, values)

    def combine(self, a, b):
        return np.left_shift(a, b) if self.direction == "LEFT" else np.right_shift(a, b)
