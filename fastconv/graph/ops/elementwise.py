"""Element-wise operators."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..activation import Activation
from ..core import TensorType
from ..op import Op, register

FORMULAS: dict[str, Callable[[np.ndarray, float, float], np.ndarray]] = {
    "none": lambda x, a, b: x,
    "clip": lambda x, a, b: np.minimum(np.maximum(x, a), b),
}


def activate(act: Activation, x: np.ndarray) -> np.ndarray:
    """An activation in NumPy; the kernels' twin."""
    return FORMULAS[act.kind](x, act.alpha, act.beta)


@register
class Relu(Op):
    """y = max(x, 0)."""

    def infer(self, types, values):
        return [TensorType(types[0].dtype, types[0].shape)]

    def compute(self, xs):
        return [np.maximum(xs[0], 0)]
