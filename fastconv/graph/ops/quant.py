"""Quantised tensors: q stands for the number (q − zero_point) · scale.

Source of the maths: ONNX operators QuantizeLinear-25, DequantizeLinear-25,
DynamicQuantizeLinear-11, QLinearConv-10, QLinearMatMul-21, ConvInteger-10 and MatMulInteger-10, and
onnxruntime's contributed operators (domain com.microsoft), which its quantiser writes. Sums of
products are exact; they are requantised as onnxruntime does it: rounded half to even after one
float32 multiplication by ``x_scale * w_scale / y_scale``, the zero point added, saturated.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...errors import UnsupportedError
from ...sizes import checked_size
from ..activation import Activation
from ..core import TensorType
from ..op import Op, broadcast, need, normalize_axis, register
from ..window import Window
from .conv import Conv, internal
from .elementwise import activate
from .pool import cells, counts, padded, resolve_window
from .quant_sums import first_is_inner, fused, sum_ratios

F32 = np.dtype(np.float32)
I32 = np.dtype(np.int32)
U8 = np.dtype(np.uint8)
MICROSOFT = "com.microsoft"
#: Quantised types by ONNX's number: the NumPy type that holds them, and their bounds.
STORED: dict[int, tuple[Any, int, int]] = {
    2: (U8, 0, 255),
    3: (np.dtype(np.int8), -128, 127),
    4: (np.dtype(np.uint16), 0, 65535),
    5: (np.dtype(np.int16), -32768, 32767),
    21: (U8, 0, 15),
    22: (np.dtype(np.int8), -8, 7),
    25: (U8, 0, 3),
    26: (np.dtype(np.int8), -2, 1),
}
#: Float types by ONNX's number.
FLOATS: dict[int, np.dtype[Any]] = {1: F32, 10: np.dtype(np.float16), 11: np.dtype(np.float64)}
#: Bounds of a result within those of its type, in quantised numbers.
Clamp = tuple[int, int] | None


def limits(dtype: np.dtype[Any], clamp: Clamp = None) -> tuple[int, int]:
    """The least and the greatest quantised number."""
    info = np.iinfo(dtype)
    return clamp or (int(info.min), int(info.max))


def spread(p: np.ndarray, shape: tuple[int, ...], axis: int, block: int = 0) -> np.ndarray:
    """Scales or zero points so that they broadcast against a tensor of ``shape``.

    Args:
        p: one for all, one per index of ``axis``, or (with ``block``) one per run of ``block``.

    Raises:
        ShapeError: the shapes do not fit.
    """
    if block == 0 and p.size == 1 and p.ndim <= 1:
        return p.reshape(())
    axis = normalize_axis(axis, len(shape))
    if block:
        want = tuple(-(-n // block) if a == axis else n for a, n in enumerate(shape))
        need(
            p.shape == want,
            lambda: f"scales of shape {list(p.shape)} where block_size {block} needs {list(want)}",
        )
        return np.repeat(p, block, axis)[(*[slice(None)] * axis, slice(shape[axis]))]
    need(
        p.ndim == 1 and p.shape[0] == shape[axis],
        lambda: f"scales of shape {list(p.shape)} for axis {axis} of a tensor {list(shape)}",
    )
    return p.reshape(-1, *(1,) * (len(shape) - 1 - axis))


def check_scales(op: Any, x: TensorType, scale: TensorType, zero: TensorType | None) -> None:
    """Whether scales and zero points fit a tensor, as far as shapes are known.

    Raises:
        ShapeError: they do not.
    """
    need(op.block_size >= 0, lambda: f"block_size {op.block_size} is negative")
    for t in (scale, zero):
        if t is None or t.shape is None or x.shape is None:
            continue
        sizes = tuple(d for d in t.shape if isinstance(d, int))
        whole = tuple(d for d in x.shape if isinstance(d, int))
        if len(sizes) == len(t.shape) and len(whole) == len(x.shape):
            spread(np.broadcast_to(np.int8(0), sizes), whole, op.axis, op.block_size)


def saturate(v: np.ndarray, zero: Any, dtype: np.dtype[Any], clamp: Clamp = None) -> np.ndarray:
    """Round half to even, add the zero point, stay within bounds; a NaN gives the least number."""
    lo, hi = limits(dtype, clamp)
    zero = np.asarray(zero, np.int64)
    v = np.where(np.isnan(v), -np.inf, v)
    v = np.rint(np.clip(v.astype(np.float64), lo - zero, hi - zero))
    return (v.astype(np.int64) + zero).astype(dtype)


def real(q: np.ndarray, scale: np.ndarray, zero: np.ndarray | None) -> np.ndarray:
    """The float32 numbers that a quantised tensor stands for; one scale, one zero point."""
    z = 0 if zero is None else int(zero.reshape(-1)[0])
    return (q.astype(np.int32) - z).astype(F32) * np.float32(scale.reshape(-1)[0])


def zero_of(zero: np.ndarray | None) -> int:
    return 0 if zero is None else int(zero.reshape(-1)[0])


def multiplier(x: np.ndarray, w: np.ndarray, y: np.ndarray) -> np.ndarray:
    """x · w / y in float32, in the order in which onnxruntime computes it."""
    one = np.float32
    return (x.astype(one).reshape(-1)[0] * w.astype(one)) / one(y.reshape(-1)[0])


def as_float(t: TensorType | None) -> TensorType | None:
    return None if t is None else TensorType(F32, t.shape)


def dtype_of(t: TensorType | None, default: np.dtype[Any] = U8) -> np.dtype[Any]:
    """The type of what a zero point belongs to."""
    return default if t is None or t.dtype is None else t.dtype


@register
class QuantizeLinear(Op):
    """saturate(round(x / y_scale) + y_zero_point): per tensor, index of ``axis``, or block."""

    arity = (2, 3)
    axis: int = 1
    block_size: int = 0
    output_dtype: int = 0
    precision: int = 0
    saturate: int = 1

    def stored(self, zero: Any) -> tuple[np.dtype[Any], Clamp]:
        """The result's type and bounds.

        Raises:
            UnsupportedError: it is a float type of 8 or fewer bits.
        """
        if zero is not None and zero.dtype is not None and not self.output_dtype:
            if zero.dtype.kind not in "iu":
                raise UnsupportedError(
                    "QuantizeLinear to 8-bit and 4-bit floats is not supported; to integers it is"
                )
            return zero.dtype, None
        if (self.output_dtype or 2) not in STORED:
            raise UnsupportedError(f"QuantizeLinear with output_dtype {self.output_dtype}")
        dtype, lo, hi = STORED[self.output_dtype or 2]
        return dtype, (lo, hi)

    def infer(self, types, values):
        zero = types[2] if len(types) > 2 else None
        check_scales(self, types[0], types[1], zero)
        return [TensorType(self.stored(zero)[0], types[0].shape)]

    def compute(self, xs):
        x, scale = xs[0], xs[1]
        zero = xs[2] if len(xs) > 2 else None
        dtype, clamp = self.stored(zero)
        z = 0 if zero is None else spread(zero, x.shape, self.axis, self.block_size)
        with np.errstate(all="ignore"):
            return [saturate(divided(self, x, scale), z, dtype, clamp)]


def divided(op: Any, x: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """x / y_scale in the ``precision`` that an operator asks for."""
    exact: Any = FLOATS.get(op.precision) or (x.dtype if x.dtype.kind == "f" else scale.dtype)
    exact = F32 if exact == np.float16 and op.precision != 10 else exact
    return x.astype(exact) / spread(scale, x.shape, op.axis, op.block_size).astype(exact)


@register
class DequantizeLinear(Op):
    """(x − x_zero_point) · x_scale: per tensor, per index of ``axis``, or per block."""

    arity = (2, 3)
    axis: int = 1
    block_size: int = 0
    output_dtype: int = 0

    def result(self, scale: np.dtype[Any] | None) -> np.dtype[Any]:
        """The result's type.

        Raises:
            UnsupportedError: NumPy lacks it (bfloat16).
        """
        if self.output_dtype and self.output_dtype not in FLOATS:
            raise UnsupportedError(f"DequantizeLinear with output_dtype {self.output_dtype}")
        return FLOATS.get(self.output_dtype) or scale or F32

    def infer(self, types, values):
        check_scales(self, types[0], types[1], types[2] if len(types) > 2 else None)
        return [TensorType(self.result(types[1].dtype), types[0].shape)]

    def compute(self, xs):
        x, scale = xs[0], xs[1]
        zero = xs[2] if len(xs) > 2 else None
        dtype = self.result(scale.dtype)
        s = spread(scale, x.shape, self.axis, self.block_size)
        wide: Any = x
        if x.dtype.kind in "iu":
            wide = x.astype(np.int64)
            if zero is not None:
                wide = wide - spread(zero, x.shape, self.axis, self.block_size).astype(np.int64)
        exact = np.float64 if scale.dtype == np.float64 else F32
        return [(wide.astype(exact) * s.astype(exact)).astype(dtype)]


@register
class DynamicQuantizeLinear(Op):
    """uint8 numbers, scale and zero point of a float32 tensor, from its own range (0 included)."""

    n_outputs = 3

    def infer(self, types, values):
        return [TensorType(U8, types[0].shape), TensorType(F32, ()), TensorType(U8, ())]

    def compute(self, xs):
        x = xs[0].astype(F32, copy=False)
        low = np.float32(min(0, x.min(initial=0)))
        high = np.float32(max(0, x.max(initial=0)))
        scale = (high - low) / np.float32(255)
        if not scale > 0:
            scale = np.float32(1)
        zero = np.uint8(np.rint(np.clip(-low / scale, 0, 255)))
        y = saturate(x / scale, zero, U8)
        return [y, np.asarray(scale, F32), np.asarray(zero, U8)]


class IntegerConv(Op):
    """What quantised convolutions share: the fields of Conv."""

    auto_pad: str
    dilations: tuple[int, ...] | None
    group: int
    kernel_shape: tuple[int, ...] | None
    pads: tuple[int, ...] | None
    strides: tuple[int, ...] | None

    def conv(self) -> Conv:
        """The convolution of real numbers with these attributes."""
        return Conv(
            self.auto_pad, self.dilations, self.group, self.kernel_shape, self.pads, self.strides
        )

    def window(self, x: tuple[Any, ...], w: tuple[Any, ...]) -> Window:
        """The resolved window for input shape ``x`` and weight shape ``w``."""
        return self.conv().window(x, w)

    def sums(self, x: np.ndarray, x_zero: Any, w: np.ndarray, w_zero: Any) -> np.ndarray:
        """Exact sums of products as int64."""
        wide = np.float64  # exact up to 2**53
        wz = np.asarray(0 if w_zero is None else w_zero).astype(wide)
        wz = wz.reshape(-1, *(1,) * (w.ndim - 1)) if wz.size > 1 else wz.reshape(())
        xw = [x.astype(wide) - zero_of(x_zero), w.astype(wide) - wz]
        return self.conv().compute(xw)[0].astype(np.int64)


@register
class QLinearConv(IntegerConv):
    """Convolution of quantised x and w, B (int32, scale x_scale · w_scale) added, requantised.

    Inputs x, x_scale, x_zero_point, w, w_scale, w_zero_point, y_scale, y_zero_point, B; scales and
    zero points of w may be one per filter. Passes may bound the result (``clamp``), and add a
    quantised residual with the inputs r, r_scale, r_zero_point, s_scale, s_zero_point: the result
    is then the quantised sum, bounded by ``sum_clamp``, of the residual and the convolution if
    ``residual_first`` and else of the convolution and the residual (it matters to rounding).
    """

    arity = (8, 14)
    auto_pad: str = "NOTSET"
    dilations: tuple[int, ...] | None = None
    group: int = 1
    kernel_shape: tuple[int, ...] | None = None
    pads: tuple[int, ...] | None = None
    strides: tuple[int, ...] | None = None
    clamp: Clamp = internal(None)
    sum_clamp: Clamp = internal(None)
    residual_first: bool = internal(False)

    def infer(self, types, values):
        x, w = types[0], types[3]
        bias = types[8] if len(types) > 8 else None
        out = self.conv().infer([as_float(x), as_float(w), as_float(bias)], [None] * 3)[0]
        return [TensorType(dtype_of(types[13] if len(types) > 13 else types[7]), out.shape)]

    def compute(self, xs):
        xs = [*xs, *[None] * (14 - len(xs))]
        x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, bias = xs[:9]
        acc = self.sums(x, x_zero, w, w_zero)
        per = (-1, *(1,) * (w.ndim - 2))
        if bias is not None:
            acc += bias.astype(np.int64).reshape(per)
        m = multiplier(x_scale, w_scale.reshape(-1), y_scale)
        m = m.reshape(per) if m.size > 1 else m.reshape(())
        y = saturate(acc.astype(F32) * m, zero_of(y_zero), y_zero.dtype, self.clamp)
        if xs[9] is None:
            return [y]
        add = QLinearAdd(clamp=self.sum_clamp, signed=y_zero.dtype == np.int8)
        pair = [[y, y_scale, y_zero], xs[9:12]]
        first, second = reversed(pair) if self.residual_first else pair
        return add.compute([*first, *second, *xs[12:14]])


@register
class ConvInteger(IntegerConv):
    """Convolution of x − x_zero_point and w − w_zero_point: exact int32 sums."""

    arity = (2, 4)
    auto_pad: str = "NOTSET"
    dilations: tuple[int, ...] | None = None
    group: int = 1
    kernel_shape: tuple[int, ...] | None = None
    pads: tuple[int, ...] | None = None
    strides: tuple[int, ...] | None = None

    def infer(self, types, values):
        out = self.conv().infer([as_float(types[0]), as_float(types[1])], [None, None])[0]
        return [TensorType(I32, out.shape)]

    def compute(self, xs):
        x, w, x_zero, w_zero = [*xs, None, None][:4]
        return [self.sums(x, x_zero, w, w_zero).astype(I32)]


def matrix_shape(a: TensorType, b: TensorType) -> tuple[Any, ...] | None:
    """The shape of a matrix product, by the rule of MatMul."""
    from .matmul import MatMul

    return MatMul().infer([as_float(a), as_float(b)], [None, None])[0].shape


def centred(q: np.ndarray, zero: np.ndarray | None, column: bool) -> np.ndarray:
    """q − zero as float64; several zero points belong to rows, or to columns."""
    z = np.asarray(0 if zero is None else zero).astype(np.float64)
    if z.ndim == 1 and z.size > 1 and not column:
        z = z[:, None]
    return q.astype(np.float64) - (z if z.size > 1 else z.reshape(()))


@register
class QLinearMatMul(Op):
    """Matrix product of quantised a and b, requantised.

    Inputs a, a_scale, a_zero_point, b, b_scale, b_zero_point, y_scale, y_zero_point; several scales
    belong to rows of a or columns of b.
    """

    arity = (8, 8)
    clamp: Clamp = internal(None)

    def infer(self, types, values):
        return [TensorType(dtype_of(types[7]), matrix_shape(types[0], types[3]))]

    def compute(self, xs):
        a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = xs
        acc = np.matmul(centred(a, a_zero, False), centred(b, b_zero, True))
        if a_scale.size > 1 or y_scale.size > 1:
            rows = a_scale.reshape(-1, 1) if a_scale.ndim == 1 else a_scale
            m = rows.astype(F32) * b_scale.astype(F32) / y_scale.astype(F32)
        else:
            m = multiplier(a_scale, b_scale, y_scale)
            m = m if m.size > 1 else m.reshape(())
        return [saturate(acc.astype(F32) * m, y_zero, y_zero.dtype, self.clamp)]


@register
class MatMulInteger(Op):
    """Matrix product of A − a_zero_point and B − b_zero_point: exact int32 sums."""

    arity = (2, 4)

    def infer(self, types, values):
        return [TensorType(I32, matrix_shape(types[0], types[1]))]

    def compute(self, xs):
        a, b, a_zero, b_zero = [*xs, None, None][:4]
        y = np.matmul(centred(a, a_zero, False), centred(b, b_zero, True))
        return [np.asarray(y).astype(np.int64).astype(I32)]


@register
class QGemm(Op):
    """alpha · A' @ B' + C of quantised A and B; C is int32 of scale alpha · a_scale · b_scale.

    Inputs A, a_scale, a_zero_point, B, b_scale, b_zero_point, C, y_scale, y_zero_point; the last
    three are optional, and without y_scale the result is float32. Several scales belong to columns.
    """

    domain = MICROSOFT
    arity = (6, 9)
    alpha: float = 1.0
    transA: int = 0
    transB: int = 0
    clamp: Clamp = internal(None)

    def infer(self, types, values):
        from .matmul import Gemm

        c = types[6] if len(types) > 6 else None
        op = Gemm(transA=self.transA, transB=self.transB)
        shape = op.infer([as_float(types[0]), as_float(types[3]), as_float(c)], [None] * 3)[0].shape
        quantised = len(types) > 7 and types[7] is not None
        zero = types[8] if len(types) > 8 else None
        return [TensorType(dtype_of(zero) if quantised else F32, shape)]

    def compute(self, xs):
        a, a_scale, a_zero, b, b_scale, b_zero, c, y_scale, y_zero = [*xs, None, None, None][:9]
        a = centred(a, a_zero, False).T if self.transA else centred(a, a_zero, False)
        bz = b_zero[:, None] if self.transB and b_zero.ndim == 1 and b_zero.size > 1 else b_zero
        b = centred(b, bz, True)
        acc = (a @ (b.T if self.transB else b)).astype(np.int64)
        if c is not None:
            acc = acc + c.astype(np.int64)
        m = np.float32(self.alpha) * a_scale.astype(F32).reshape(-1)[0] * b_scale.astype(F32)
        m = m if m.size > 1 else m.reshape(())
        if y_scale is None:
            return [(acc.astype(F32) * m).astype(F32)]
        dtype = U8 if y_zero is None else y_zero.dtype
        m = m / np.float32(y_scale.reshape(-1)[0])
        return [saturate(acc.astype(F32) * m, zero_of(y_zero), dtype, self.clamp)]


class QLinearBinary(Op):
    """What quantised sums and products share. Inputs A, A_scale, A_zero_point, B, B_scale,
    B_zero_point, C_scale, C_zero_point; shapes broadcast.

    Unsigned bytes may stand for ``signed`` ones, 128 less: what is rounded are those, zero points
    included.
    """

    domain = MICROSOFT
    arity = (2, 8)
    clamp: Clamp
    signed: bool

    def infer(self, types, values):
        a, b = types[0], types[3]
        known = a.shape is not None and b.shape is not None
        need(a.dtype == b.dtype, lambda: f"{a} and {b} differ in dtype")
        return [TensorType(a.dtype, broadcast(a.shape, b.shape) if known else None)]


@register
class QLinearAdd(QLinearBinary):
    """The sum of two quantised tensors, requantised.

    In the arithmetic of onnxruntime's kernel, since a sum of whole numbers of steps is often a tie.
    """

    domain = MICROSOFT
    arity = (2, 8)
    clamp: Clamp = internal(None)
    signed: bool = internal(False)

    def compute(self, xs):
        a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = [*xs, None][:8]
        dtype = a.dtype if y_zero is None else y_zero.dtype
        moved = [self.moved(t) for t in (a, b, dtype)]
        terms = [
            (a.astype(np.int32) - moved[0], a_scale, zero_of(a_zero) - moved[0]),
            (b.astype(np.int32) - moved[1], b_scale, zero_of(b_zero) - moved[1]),
        ]
        if first_is_inner(a.shape, b.shape):
            terms.reverse()
        (a, *qa), (b, *qb) = terms
        ra, rb, offset = sum_ratios(qa, qb, (y_scale, zero_of(y_zero) - moved[2]))
        v = fused(a.astype(F32), ra, fused(b.astype(F32), rb, offset))
        return [saturate(v, moved[2], dtype, self.clamp)]

    def moved(self, t: Any) -> int:
        """What numbers of this array or type are more than those that are added."""
        return 128 if self.signed and np.dtype(getattr(t, "dtype", t)) == U8 else 0


@register
class QLinearMul(QLinearBinary):
    """The product of two quantised tensors, requantised."""

    domain = MICROSOFT
    arity = (2, 8)
    clamp: Clamp = internal(None)
    signed: bool = internal(False)

    def compute(self, xs):
        a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = [*xs, None][:8]
        m = multiplier(a_scale, b_scale, y_scale).reshape(())
        product = (a.astype(I32) - zero_of(a_zero)) * (b.astype(I32) - zero_of(b_zero))
        moved = 128 if self.signed and a.dtype == U8 else 0
        v = product.astype(F32) * m + np.float32(zero_of(y_zero) - moved)
        return [saturate(v, moved, a.dtype, self.clamp)]


@register
class QLinearAveragePool(Op):
    """AveragePool of a quantised tensor, requantised. Inputs x, x_scale, x_zero_point, y_scale,
    y_zero_point.

    The mean of few numbers is often a tie, so this is onnxruntime's arithmetic: the dequantised
    numbers are averaged in float32, and the zero point (of ``signed`` bytes, 128 less) is added
    before rounding.
    """

    domain = MICROSOFT
    arity = (2, 5)
    kernel_shape: tuple[int, ...]
    auto_pad: str = "NOTSET"
    ceil_mode: int = 0
    channels_last: int = 0
    count_include_pad: int = 0
    dilations: tuple[int, ...] | None = None
    pads: tuple[int, ...] | None = None
    strides: tuple[int, ...] | None = None
    clamp: Clamp = internal(None)
    signed: bool = internal(False)

    def window(self, x: tuple[Any, ...]) -> Window:
        """The resolved window for input shape ``x``."""
        refuse_channels_last(self)
        return resolve_window(
            x[2:], self.kernel_shape, self.strides, self.dilations, self.pads, self.auto_pad,
            bool(self.ceil_mode),
        )  # fmt: skip

    def infer(self, types, values):
        x = types[0]
        if x.shape is None:
            return [x]
        need(len(x.shape) >= 3, f"{self.label} needs an input of rank 3 or more, not {x}")
        return [TensorType(x.dtype, (*x.shape[:2], *self.window(x.shape).output))]

    def compute(self, xs):
        x, x_scale, x_zero, y_scale, y_zero = [*xs, None][:5]
        win = self.window(x.shape)
        total = np.zeros((*x.shape[:2], *win.output), F32)
        for _, piece in cells(padded(real(x, x_scale, x_zero), win, 0), win):
            total += piece
        rank = len(win.kernel_shape)
        count: Any = np.ones((1,) * rank, np.int64)
        for a in range(rank):
            n = counts(x.shape[2 + a], a, win, bool(self.count_include_pad))
            count = count * np.maximum(n, 1).reshape(-1, *(1,) * (rank - 1 - a))
        moved = 128 if self.signed and x.dtype == U8 else 0
        v = total / count.astype(F32) / np.float32(y_scale.reshape(-1)[0])
        return [saturate(v + np.float32(zero_of(y_zero) - moved), moved, x.dtype, self.clamp)]


def refuse_channels_last(op: Any) -> None:
    """Raises UnsupportedError for a layout that only onnxruntime's own optimiser writes."""
    if op.channels_last:
        raise UnsupportedError(f"{op.label} with channels_last=1; save the model before optimising")


@register
class QLinearGlobalAveragePool(Op):
    """Mean over all spatial positions of a quantised tensor, requantised. Inputs as
    QLinearAveragePool."""

    domain = MICROSOFT
    arity = (2, 5)
    channels_last: int = 0
    clamp: Clamp = internal(None)

    def infer(self, types, values):
        refuse_channels_last(self)
        x = types[0]
        if x.shape is None:
            return [x]
        need(len(x.shape) >= 3, f"{self.label} needs an input of rank 3 or more, not {x}")
        return [TensorType(x.dtype, (*x.shape[:2], *(1,) * (len(x.shape) - 2)))]

    def compute(self, xs):
        x, x_scale, x_zero, y_scale, y_zero = [*xs, None][:5]
        axes = tuple(range(2, x.ndim))
        n = checked_size(x.shape[2:])
        total = (x.astype(np.int64) - zero_of(x_zero)).sum(axis=axes, keepdims=True)
        ratio = np.float32(x_scale.reshape(-1)[0]) / np.float32(y_scale.reshape(-1)[0])
        v = total.astype(F32) * (ratio / np.float32(max(n, 1)))
        return [saturate(v, zero_of(y_zero), x.dtype, self.clamp)]


class QLinearUnary(Op):
    """A function of each element of a quantised tensor: a table of 256 results.

    Inputs x, x_scale, x_zero_point, y_scale, y_zero_point; the result has the last one's dtype.
    """

    arity = (2, 5)

    @property
    def function(self) -> Activation:
        """The function of real numbers."""
        raise NotImplementedError

    def infer(self, types, values):
        zero = types[4] if len(types) > 4 else None
        return [TensorType(dtype_of(zero, types[0].dtype), types[0].shape)]

    def compute(self, xs):
        x, x_scale, x_zero, y_scale, y_zero = [*xs, None][:5]
        v = activate(self.function, real(x, x_scale, x_zero))
        dtype = x.dtype if y_zero is None else y_zero.dtype
        with np.errstate(all="ignore"):
            return [saturate(v / np.float32(y_scale.reshape(-1)[0]), zero_of(y_zero), dtype)]


@register
class QLinearSigmoid(QLinearUnary):
    """Sigmoid of a quantised tensor."""

    domain = MICROSOFT
    arity = (2, 5)

    @property
    def function(self) -> Activation:
        return Activation("sigmoid")


@register
class QLinearLeakyRelu(QLinearUnary):
    """LeakyRelu of a quantised tensor."""

    domain = MICROSOFT
    arity = (2, 5)
    alpha: float = 0.01

    @property
    def function(self) -> Activation:
        return Activation("leaky_relu", self.alpha)


@register
class QLinearActivation(QLinearUnary):
    """Any activation of a quantised tensor; passes make it."""

    domain = "fastconv"
    arity = (2, 5)
    kind: str
    alpha: float = 0.0
    beta: float = 0.0

    @property
    def function(self) -> Activation:
        return Activation(self.kind, self.alpha, self.beta)


@register
class QLinearConcat(Op):
    """Concat of quantised tensors, each requantised. Inputs Y_scale, Y_zero_point, then x, x_scale,
    x_zero_point of each."""

    domain = MICROSOFT
    arity = (5, -1)
    axis: int

    def infer(self, types, values):
        from .move import Concat

        need(len(types) % 3 == 2, f"{len(types)} inputs where 2 and a multiple of 3 are needed")
        op = Concat(axis=self.axis)
        return op.infer([TensorType(types[1].dtype, t.shape) for t in types[2::3]], [None])

    def compute(self, xs):
        y_scale, y_zero = xs[0], xs[1]
        parts = []
        for x, scale, zero in zip(xs[2::3], xs[3::3], xs[4::3], strict=True):
            v = real(x, scale, zero) / np.float32(y_scale.reshape(-1)[0])
            parts.append(saturate(v, zero_of(y_zero), y_zero.dtype))
        return [np.concatenate(parts, self.axis)]
