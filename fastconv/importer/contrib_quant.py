"""onnxruntime's quantised operators that are not operators of graphs (see ``contrib``).

Those that are: ``graph/ops/quant.py``. Source of the meaning: as there.
"""

from __future__ import annotations

import numpy as np

from ..errors import UnsupportedError
from ..graph import REGISTRY, Op
from .adapt import Draft
from .contrib import (
    MICROSOFT,
    Contributed,
    ConvLike,
    channels_first,
    channels_last,
    contributed,
    given,
    make,
)


@contributed(MICROSOFT)
class DequantizeLinear(Contributed):
    """DequantizeLinear of ONNX."""

    arity = (2, 3)
    axis: int = 1

    def rewrite(self, d: Draft) -> Op:
        return make("DequantizeLinear", axis=self.axis)


@contributed(MICROSOFT)
class QuantizeLinear(Contributed):
    """QuantizeLinear of ONNX."""

    arity = (2, 3)
    axis: int = 1

    def rewrite(self, d: Draft) -> Op:
        return make("QuantizeLinear", axis=self.axis)


@contributed(MICROSOFT)
class QLinearConv(ConvLike):
    """QLinearConv of ONNX, of NHWC images with ``channels_last``."""

    arity = (8, 9)
    channels_last: int = 0

    def rewrite(self, d: Draft) -> Op:
        op = make(
            "QLinearConv", self.auto_pad, self.dilations, self.group, self.kernel_shape, self.pads,
            self.strides,
        )  # fmt: skip
        if not self.channels_last:
            return op
        d.inputs[0] = channels_first(d, d.inputs[0])
        return channels_last(d, op)


@contributed(MICROSOFT)
class QLinearAveragePool(Contributed):
    """The graph's operator of that name, of NHWC images with ``channels_last``."""

    arity = (2, 5)
    kernel_shape: tuple[int, ...]
    auto_pad: str = "NOTSET"
    ceil_mode: int = 0
    channels_last: int = 0
    count_include_pad: int = 0
    dilations: tuple[int, ...] | None = None
    pads: tuple[int, ...] | None = None
    strides: tuple[int, ...] | None = None

    def rewrite(self, d: Draft) -> Op:
        op = REGISTRY[MICROSOFT, "QLinearAveragePool"](
            kernel_shape=self.kernel_shape, auto_pad=self.auto_pad, ceil_mode=self.ceil_mode,
            count_include_pad=self.count_include_pad, dilations=self.dilations, pads=self.pads,
            strides=self.strides,
        )  # fmt: skip
        if not self.channels_last:
            return op
        d.inputs[0] = channels_first(d, d.inputs[0])
        return channels_last(d, op)


@contributed(MICROSOFT)
class QLinearGlobalAveragePool(Contributed):
    """The graph's operator of that name, of NHWC images with ``channels_last``."""

    arity = (2, 5)
    channels_last: int = 0

    def rewrite(self, d: Draft) -> Op:
        op = REGISTRY[MICROSOFT, "QLinearGlobalAveragePool"]()
        if not self.channels_last:
            return op
        d.inputs[0] = channels_first(d, d.inputs[0])
        return channels_last(d, op)


@contributed(MICROSOFT, name="QLinearMul")
@contributed(MICROSOFT)
class QLinearAdd(Contributed):
    """The graph's operator of that name; two NHWC images are added as the NCHW ones they were."""

    arity = (2, 8)

    def rewrite(self, d: Draft) -> Op:
        op = REGISTRY[MICROSOFT, d.op_type]()
        a, b = d.turned.get(d.inputs[0]), d.turned.get(given(d, 3))
        if a is None or b is None:
            return op
        d.inputs[0], d.inputs[3] = a, b
        return channels_last(d, op)


@contributed(MICROSOFT)
class QLinearConcat(Contributed):
    """The graph's operator of that name; NHWC images are joined as the NCHW ones they were."""

    arity = (5, -1)
    axis: int

    def rewrite(self, d: Draft) -> Op:
        images = [d.turned.get(n) for n in d.inputs[2::3]]
        if self.axis not in (3, -1) or None in images:
            return REGISTRY[MICROSOFT, "QLinearConcat"](self.axis)
        d.inputs[2::3] = [n for n in images if n]
        return channels_last(d, REGISTRY[MICROSOFT, "QLinearConcat"](1))


def scaled(d: Draft, product: str, scales: list[str], bias: str) -> Op:
    """int32 sums as numbers, times the product of the scales, plus a bias."""
    values = d.insert(make("Cast", 1), [product])
    scale = d.insert(make("Mul"), scales)
    d.inputs = [values, scale]
    if not bias:
        return make("Mul")
    d.inputs = [d.insert(make("Mul"), d.inputs), bias]
    return make("Add")


@contributed(MICROSOFT)
class DynamicQuantizeMatMul(Contributed):
    """A · B, A rounded to uint8 by its own range. Inputs: A, B, b_scale, b_zero_point, bias."""

    arity = (3, 5)

    def rewrite(self, d: Draft) -> Op:
        a, b, b_scale = d.inputs[:3]
        names = [d.fresh(k) for k in ("quantized", "scale", "zero_point")]
        d.insert(make("DynamicQuantizeLinear"), [a], names)
        more = [names[2], *filter(None, [given(d, 3)])]
        product = d.insert(make("MatMulInteger"), [names[0], b, *more])
        return scaled(d, product, [names[1], b_scale], given(d, 4))


@contributed(MICROSOFT)
class MatMulIntegerToFloat(Contributed):
    """A · B of quantised matrices as float32.

    Inputs: A, B, a_scale, b_scale, a_zero_point, b_zero_point, bias.
    """

    arity = (4, 7)

    def rewrite(self, d: Draft) -> Op:
        zeros = [given(d, 4), given(d, 5)]
        while zeros and not zeros[-1]:
            zeros.pop()
        product = d.insert(make("MatMulInteger"), [*d.inputs[:2], *zeros])
        return scaled(d, product, d.inputs[2:4], given(d, 6))


@contributed(MICROSOFT)
class MatMulNBits(Contributed):
    """A · Bᵀ where B (N, K) is stored in 2, 4 or 8 bits with one scale for each run of a row.

    Inputs: A, B (N, blocks, bytes per block), scales (N · blocks), zero_points, g_idx (absent),
    bias (N). The weights become float32 when the model is loaded.
    """

    arity = (3, 6)
    K: int
    N: int
    block_size: int
    accuracy_level: int = 0
    bits: int = 4
    weight_prepacked: int = 0

    def rewrite(self, d: Draft) -> Op:
        stored, scales = d.value(d.inputs[1]), d.value(d.inputs[2])
        zeros = d.value(given(d, 3)) if given(d, 3) else None
        if stored is None or scales is None or (given(d, 3) and zeros is None):
            raise UnsupportedError("MatMulNBits whose weights are computed")
        if self.bits not in (2, 4, 8) or self.weight_prepacked or given(d, 4):
            raise UnsupportedError(
                f"MatMulNBits with bits={self.bits}, weight_prepacked={self.weight_prepacked}"
                f"{' and g_idx' if given(d, 4) else ''}; 2, 4 and 8 bits in plain order are read"
            )
        blocks = -(-self.K // self.block_size)
        per_byte = 8 // self.bits
        sizes = (self.N * blocks * self.block_size // per_byte, self.N * blocks)
        if (stored.size, scales.size) != sizes:
            raise UnsupportedError(
                f"MatMulNBits with {stored.size} bytes and {scales.size} scales where N={self.N}, "
                f"K={self.K} and block_size={self.block_size} need {sizes[0]} and {sizes[1]}"
            )
        q = self._unpacked(stored.reshape(self.N, blocks, -1)).astype(np.float32)
        zero: np.ndarray = np.array(1 << (self.bits - 1), np.float32)
        if zeros is not None and zeros.dtype == np.uint8:
            rows = self._unpacked(zeros.reshape(self.N, -1))[:, :blocks]
            zero = rows.astype(np.float32)[:, :, None]
        elif zeros is not None:
            zero = zeros.reshape(self.N, blocks, 1).astype(np.float32)
        weight = (q - zero) * scales.reshape(self.N, blocks, 1).astype(np.float32)
        weight = weight.reshape(self.N, -1)[:, : self.K].T
        bias = given(d, 5)
        d.inputs = d.inputs[:1]
        d.set_input(1, np.ascontiguousarray(weight))
        if not bias:
            return make("MatMul")
        d.inputs = [d.insert(make("MatMul"), d.inputs), bias]
        return make("Add")

    def _unpacked(self, stored: np.ndarray) -> np.ndarray:
        """The numbers of each byte, lowest bits first, along the last axis."""
        shifts = np.arange(0, 8, self.bits, dtype=np.uint8)
        parts = (stored[..., None] >> shifts) & np.uint8((1 << self.bits) - 1)
        return parts.reshape(*stored.shape[:-1], -1)


def real(d: Draft, first: int) -> str:
    """The numbers of a quantised input; its scale and zero point follow it."""
    names = [n for n in (given(d, first + k) for k in range(3)) if n]
    return d.insert(make("DequantizeLinear"), names)


@contributed(MICROSOFT)
class QLinearSoftmax(Contributed):
    """Softmax of a quantised tensor. Inputs: X, X_scale, x_zero_point, y_scale, y_zero_point."""

    arity = (5, 5)
    opset: int
    axis: int = -1

    def rewrite(self, d: Draft) -> Op:
        op = make("Softmax", self.axis)
        if self.opset < 13:
            op = REGISTRY["fastconv", "FlatSoftmax"](self.axis)
        d.inputs = [d.insert(op, [real(d, 0)]), *d.inputs[3:5]]
        return make("QuantizeLinear")


@contributed(MICROSOFT)
class QLinearReduceMean(Contributed):
    """ReduceMean of a quantised tensor. Inputs as QLinearSoftmax."""

    arity = (4, 5)
    axes: tuple[int, ...]
    keepdims: int

    def rewrite(self, d: Draft) -> Op:
        axes = d.constant(np.array(self.axes, np.int64))
        mean = d.insert(make("ReduceMean", keepdims=self.keepdims), [real(d, 0), axes])
        d.inputs = [mean, *d.inputs[3:5]]
        return make("QuantizeLinear")


@contributed(MICROSOFT)
class QLinearWhere(Contributed):
    """Where of quantised tensors.

    Inputs: condition, X, x_scale, x_zero_point, Y, y_scale, y_zero_point, z_scale, z_zero_point.
    """

    arity = (9, 9)

    def rewrite(self, d: Draft) -> Op:
        chosen = d.insert(make("Where"), [d.inputs[0], real(d, 1), real(d, 4)])
        d.inputs = [chosen, *d.inputs[7:]]
        return make("QuantizeLinear")
