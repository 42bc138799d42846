"""What element-wise operators share: activations in NumPy, and base classes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import numpy as np

from ...errors import ShapeError
from ..activation import Activation
from ..core import TensorType
from ..op import Op

Array = np.ndarray


def erf(x: Array) -> Array:
    """The error function, computed in double precision by the C library."""
    flat = np.fromiter(map(math.erf, np.ravel(x).tolist()), np.float64, np.size(x))
    return flat.reshape(np.shape(x))


def sigmoid(x: Array) -> Array:
    """1 / (1 + e**-x), without overflow."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e))


def power(x: Array, y: Array) -> Array:
    """x ** y as C's ``pow``; NumPy's short cuts for single exponents differ at -0 and -inf."""
    return np.power(x, np.array(np.broadcast_to(y, np.broadcast_shapes(x.shape, y.shape))))


FORMULAS: dict[str, Callable[[Array, float, float], Array]] = {
    "none": lambda x, a, b: x,
    "clip": lambda x, a, b: np.minimum(np.maximum(x, a), b),
    "leaky_relu": lambda x, a, b: np.where(x < 0, a * x, x),
    "sigmoid": lambda x, a, b: sigmoid(x),
    "tanh": lambda x, a, b: np.tanh(x),
    "silu": lambda x, a, b: x * sigmoid(a * x),
    "hard_sigmoid": lambda x, a, b: np.minimum(np.maximum(a * x + b, 0), 1),
    "hard_swish": lambda x, a, b: x * np.minimum(np.maximum(x / 6 + 0.5, 0), 1),
    "gelu": lambda x, a, b: x * 0.5 * (1 + erf(x * math.sqrt(0.5))),
    "gelu_tanh": lambda x, a, b: (
        x * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    ),
    "elu": lambda x, a, b: np.where(x > 0, x, a * np.expm1(np.minimum(x, 0))),
    "selu": lambda x, a, b: b * np.where(x > 0, x, a * np.expm1(np.minimum(x, 0))),
    "celu": lambda x, a, b: np.where(x > 0, x, a * np.expm1(x / a)),
    "softplus": lambda x, a, b: np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))),
    "softsign": lambda x, a, b: x / (1 + np.abs(x)),
    "mish": lambda x, a, b: x * np.tanh(np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))),
    "thresholded_relu": lambda x, a, b: np.where(x <= a, 0, x),
    "exp": lambda x, a, b: np.exp(x),
    "log": lambda x, a, b: np.log(x),
    "sqrt": lambda x, a, b: np.sqrt(x),
    "erf": lambda x, a, b: erf(x),
    "reciprocal": lambda x, a, b: 1 / x,
    "abs": lambda x, a, b: np.abs(x),
    "neg": lambda x, a, b: -x,
    "square": lambda x, a, b: x * x,
    "floor": lambda x, a, b: np.floor(x),
    "ceil": lambda x, a, b: np.ceil(x),
    "round": lambda x, a, b: np.rint(x),
    "sign": lambda x, a, b: np.sign(x),
    "sin": lambda x, a, b: np.sin(x),
    "cos": lambda x, a, b: np.cos(x),
    "shrink": lambda x, a, b: np.where(x < -a, x + b, np.where(x > a, x - b, 0)),
    "pow": lambda x, a, b: power(x, np.asarray(a, x.dtype)),
}


def activate(act: Activation, x: Array) -> Array:
    """An activation in NumPy, in the dtype of ``x`` (float16 by way of float32).

    This is the kernels' twin: see ``Activation`` for the parameters.
    """
    x = np.asarray(x)
    with np.errstate(all="ignore"):
        wide = x.astype(np.float32) if x.dtype == np.float16 else x
        return np.asarray(FORMULAS[act.kind](wide, act.alpha, act.beta)).astype(x.dtype, copy=False)


def need_kind(op: Op, dtype: np.dtype | None, kinds: str = "f") -> None:
    """Check an input's dtype: ``kinds`` are NumPy's kind letters (f float, iu integers, b bool).

    Raises:
        ShapeError: it is of another kind.
    """
    if dtype is None or dtype.kind in kinds:
        return
    names = {"f": "floating-point", "b": "boolean", "i": "integer", "u": "unsigned"}
    wanted = " or ".join(names[k] for k in kinds)
    raise ShapeError(f"{op.label} takes {wanted} tensors, not {dtype}")


class Unary(Op):
    """Base of operators with one input whose output has the input's type.

    Class attributes:
        kinds: NumPy kind letters of the dtypes that ONNX allows.
    """

    kinds: ClassVar[str] = "f"

    @property
    def function(self) -> Activation | None:
        """The activation that this operator is on float32, if kernels have one."""
        return None

    def infer(self, types, values):
        need_kind(self, types[0].dtype, self.kinds)
        return [TensorType(types[0].dtype, types[0].shape)]

    def compute(self, xs):
        act = self.function
        assert act is not None
        return [activate(act, xs[0])]
