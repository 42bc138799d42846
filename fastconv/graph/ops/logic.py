"""Comparisons, logic, selection and conversion. Source: ONNX operators, opset 24."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from ...errors import UnsupportedError
from ...formats import NAMES
from ..core import TensorType
from ..op import Op, broadcast, need, register
from ..strings import from_text, is_text, to_text
from .binary import common_type
from .elementwise import Unary, need_kind

#: ONNX data type code → NumPy dtype, for the types that NumPy has.
DTYPES = {
    1: np.float32, 2: np.uint8, 3: np.int8, 4: np.uint16, 5: np.int16, 6: np.int32, 7: np.int64,
    8: np.object_, 9: np.bool_, 10: np.float16, 11: np.float64, 12: np.uint32, 13: np.uint64,
    14: np.complex64, 15: np.complex128,
}  # fmt: skip


class Comparison(Op):
    """Base of broadcasting operators with a bool result."""

    arity = (2, 2)
    kinds: ClassVar[str] = "fiub"
    ufunc: ClassVar[Any]

    def infer(self, types, values):
        for t in types:
            if not is_text(t.dtype):  # strings can be compared
                need_kind(self, t.dtype, self.kinds)
        return [common_type(self, types, np.bool_)]

    def compute(self, xs):
        return [np.asarray(type(self).ufunc(xs[0], xs[1])).astype(np.bool_, copy=False)]


@register
class Equal(Comparison):
    """a == b; NaN equals nothing."""

    ufunc = np.equal


@register
class Greater(Comparison):
    """a > b."""

    ufunc = np.greater


@register
class GreaterOrEqual(Comparison):
    """a >= b."""

    ufunc = np.greater_equal


@register
class Less(Comparison):
    """a < b."""

    ufunc = np.less


@register
class LessOrEqual(Comparison):
    """a <= b."""

    ufunc = np.less_equal


@register
class And(Comparison):
    """Both true."""

    kinds = "b"
    ufunc = np.logical_and


@register
class Or(Comparison):
    """Either true."""

    kinds = "b"
    ufunc = np.logical_or


@register
class Xor(Comparison):
    """One true, not both."""

    kinds = "b"
    ufunc = np.logical_xor


@register
class Not(Unary):
    """The opposite of a bool."""

    kinds = "b"

    def compute(self, xs):
        return [np.asarray(np.logical_not(xs[0]))]


@register
class BitwiseNot(Unary):
    """All bits inverted."""

    kinds = "iu"

    def compute(self, xs):
        return [np.asarray(np.bitwise_not(xs[0]))]


class Test(Op):
    """Base of operators that ask a question of each float."""

    __test__ = False  # no test class for pytest

    def infer(self, types, values):
        need_kind(self, types[0].dtype)
        return [TensorType(np.dtype(np.bool_), types[0].shape)]


@register
class IsNaN(Test):
    """Whether x is NaN."""

    def compute(self, xs):
        return [np.asarray(np.isnan(xs[0]))]


@register
class IsInf(Test):
    """Whether x is infinite, of the wanted signs."""

    detect_negative: int = 1
    detect_positive: int = 1

    def compute(self, xs):
        x = xs[0]
        yes = np.zeros(np.shape(x), np.bool_)
        if self.detect_negative:
            yes = yes | np.isneginf(x)
        if self.detect_positive:
            yes = yes | np.isposinf(x)
        return [np.asarray(yes)]


@register
class Where(Op):
    """a where the condition is true, else b; all three broadcast."""

    arity = (3, 3)

    def infer(self, types, values):
        need_kind(self, types[0].dtype, "b")
        result = common_type(self, types[1:])
        if result.shape is None or types[0].shape is None:
            return [TensorType(result.dtype, None)]
        return [TensorType(result.dtype, broadcast(types[0].shape, result.shape))]

    def compute(self, xs):
        return [np.asarray(np.where(xs[0], xs[1], xs[2]))]


def convert(x: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """Conversion as ONNX's Cast: floats are cut towards zero, anything but 0 is true."""
    if is_text(dtype):
        return to_text(x)
    if is_text(x.dtype):
        return from_text(x, dtype)
    with np.errstate(all="ignore"):
        return np.asarray(x).astype(dtype, copy=False)


@register
class Cast(Op):
    """Conversion to the ONNX data type ``to``. ``saturate`` and ``round_mode`` concern float8 only.

    Casts to types that NumPy lacks (bfloat16, float8, 4-bit) become ``CastNarrow``.

    Raises from ``infer``:
        UnsupportedError: ``to`` is no data type that is known.
    Raises from ``compute``:
        InputError: a string that is to become a number is none.
    """

    to: int
    saturate: int = 1
    round_mode: str = "up"

    def target(self) -> np.dtype[Any]:
        """The NumPy dtype of the result."""
        if self.to not in DTYPES:
            raise UnsupportedError(
                f"Cast to ONNX data type {self.to}, which is not known; known are "
                f"{', '.join(map(str, sorted({*DTYPES, *NAMES})))}"
            )
        return np.dtype(DTYPES[self.to])

    def infer(self, types, values):
        return [TensorType(self.target(), types[0].shape)]

    def compute(self, xs):
        return [convert(xs[0], self.target())]


@register
class CastLike(Op):
    """Conversion to the dtype of the second input."""

    arity = (2, 2)
    saturate: int = 1
    round_mode: str = "up"

    def infer(self, types, values):
        target = types[1].dtype
        return [TensorType(np.dtype(object) if is_text(target) else target, types[0].shape)]

    def compute(self, xs):
        return [convert(xs[0], xs[1].dtype)]


@register
class Identity(Op):
    """y = x, of any type."""

    def infer(self, types, values):
        return [TensorType(types[0].dtype, types[0].shape)]

    def compute(self, xs):
        return [xs[0]]


@register
class Dropout(Op):
    """Inference form: the identity; the second output is a mask of trues.

    Raises from ``infer`` and ``compute``:
        UnsupportedError: ``training_mode`` is true and the ratio is not 0.
    """

    arity = (1, 3)
    n_outputs = 2
    seed: int | None = None

    def _check(self, ratio: np.ndarray | None, training: np.ndarray | None) -> None:
        if training is not None and bool(training.any()) and (ratio is None or bool(ratio.any())):
            raise UnsupportedError(
                "Dropout with training_mode=true and a ratio other than 0 drops values at random; "
                "export the model in inference mode"
            )

    def infer(self, types, values):
        x = types[0]
        need_kind(self, x.dtype)
        for name, t in zip(("ratio", "training_mode"), types[1:], strict=False):
            if t is not None and t.shape is not None:
                need(all(d == 1 for d in t.shape), f"{name} {t} must be a scalar")
        padded = [*values, None, None]
        known_ratio = len(types) < 2 or types[1] is None or padded[1] is not None
        if known_ratio:
            self._check(padded[1], padded[2])
        return [TensorType(x.dtype, x.shape), TensorType(np.dtype(np.bool_), x.shape)]

    def compute(self, xs):
        padded = [*xs, None, None]
        self._check(padded[1], padded[2])
        return [xs[0], np.ones(np.shape(xs[0]), np.bool_)]
