"""What ONNX's operators do no longer, and what makes types that a graph holds in wider ones."""

from __future__ import annotations

import numpy as np

from ...formats import NAMES, held_dtype, rounded
from ..core import TensorType
from ..op import Op, need, register
from ..strings import from_text
from .quant import check_scales, divided


@register
class AxisBroadcast(Op):
    """The first input with axes of size 1 behind its own, to broadcast with the second.

    Its axes are those of the second input from ``axis`` on. Source: the attributes ``broadcast``
    and ``axis`` of ONNX operators Add-6, Mul-6 and their like, and PRelu-6 (axis 1).
    """

    domain = "fastconv"
    arity = (2, 2)
    axis: int

    def shape(self, b, rank):
        """Shape ``b`` with its trailing ones, for a first input of rank ``rank``."""
        axis = self.axis + rank if self.axis < 0 else self.axis
        if len(b) == 0 or (len(b) == 1 and isinstance(b[0], int) and b[0] == 1):
            return b
        behind = rank - axis - len(b)
        need(
            axis >= 0 and behind >= 0,
            lambda: f"an input of rank {len(b)} does not fit rank {rank} from axis {axis} on",
        )
        return (*b, *[1] * behind)

    def infer(self, types, values):
        b, a = types
        if b.shape is None or a.shape is None:
            return [TensorType(b.dtype, None)]
        return [TensorType(b.dtype, self.shape(b.shape, len(a.shape)))]

    def fold(self, types, values):
        b, a = values[0], types[1]
        if b is None or a.shape is None:
            return None
        return [b.reshape(self.shape(b.shape, len(a.shape)))]

    def compute(self, xs):
        return [xs[0].reshape(self.shape(xs[0].shape, xs[1].ndim))]


@register
class CastNarrow(Op):
    """Cast to a type that a graph holds in a wider one: rounds to its values (Cast-25)."""

    domain = "fastconv"
    to: int
    saturate: int = 1
    round_mode: str = "up"

    def infer(self, types, values):
        need(self.to in NAMES, f"data type {self.to} is not one that is held in a wider one")
        return [TensorType(held_dtype(self.to), types[0].shape)]

    def compute(self, xs):
        x = np.asarray(xs[0])
        if x.dtype == object:
            x = from_text(x, np.dtype(np.float32))
        return [rounded(x, self.to, bool(self.saturate), self.round_mode)]


@register
class QuantizeNarrow(Op):
    """QuantizeLinear to floats of 8 or 4 bits, which a graph holds in float32 (QuantizeLinear-25).

    ``output_dtype`` is their ONNX number. The zero point of such types is 0.
    """

    domain = "fastconv"
    arity = (2, 3)
    axis: int = 1
    block_size: int = 0
    output_dtype: int = 0
    precision: int = 0
    saturate: int = 1

    def infer(self, types, values):
        need(self.output_dtype in NAMES, f"data type {self.output_dtype} is no narrow one")
        check_scales(self, types[0], types[1], None)
        return [TensorType(held_dtype(self.output_dtype), types[0].shape)]

    def compute(self, xs):
        with np.errstate(all="ignore"):
            y = divided(self, xs[0], xs[1])
            return [rounded(y, self.output_dtype, bool(self.saturate))]
