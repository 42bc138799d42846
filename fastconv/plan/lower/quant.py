"""Quantised operators other than convolutions and matrix products → integer kernels.

Signed activations are moved by 128 together with their zero points, by a pass where possible and
else by a step.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from ...graph import Node
from ...graph.ops.quant import (
    DequantizeLinear,
    DynamicQuantizeLinear,
    QLinearAdd,
    QLinearAveragePool,
    QLinearBinary,
    QLinearConcat,
    QLinearGlobalAveragePool,
    QLinearMul,
    QLinearUnary,
    QuantizeLinear,
    multiplier,
)
from ...graph.ops.quant_sums import first_is_inner, sum_ratios
from ...graph.window import Window
from ...records import replace
from ..lowering import F32, Lowering, lowers
from ..memory import CHANNELS_LAST, PLAIN
from . import qconv  # noqa: F401  (enters the convolutions of the same family)
from .conv import triple
from .qbase import BYTES, I32, S8, U8, Output, bounds, emit_table, fetch, scale_of

#: How the kernel combines two operands, as in ``kernels/qelementwise.pyx``.
SUM, PRODUCT, SUM_A = range(3)
#: Images of at most this many channels are quantised and made channels-last in one step.
FEW = 4


@lowers(QuantizeLinear, DequantizeLinear)
def scaled(low: Lowering, node: Node) -> Any:
    """Both directions between floats and quantised numbers: scales per tensor, axis or block."""
    op = node.op
    assert isinstance(op, (QuantizeLinear, DequantizeLinear))
    xn, sn, zn = [*node.inputs, ""][:3]
    yn = node.outputs[0]
    forward = isinstance(op, QuantizeLinear)
    stored, real = (low.dtype(yn), low.dtype(xn)) if forward else (low.dtype(xn), low.dtype(yn))
    types = BYTES if forward else (*BYTES, I32)
    if stored not in types or real != F32 or low.dtype(sn) != F32:
        return False
    if zn and low.dtype(zn) != stored:
        return False
    if isinstance(op, QuantizeLinear) and (op.output_dtype > 3 or op.precision > 1):
        return False
    shape, per = low.shape(xn), low.shape(sn)
    axis = op.axis + len(shape) if op.axis < 0 else op.axis
    single = not op.block_size and prod(per) == 1
    name = {"u": "u8", "i": "s8" if stored.itemsize == 1 else "s32"}[stored.kind]
    zero = low.place(zn, PLAIN) if zn else None
    few = single and forward and len(shape) >= 3 and 1 < shape[1] <= FEW and 0 not in shape
    if few and low.layout_of(xn) == PLAIN:
        params = dict(n=shape[0], channels=shape[1], pixels=prod(shape[2:]))
        x, y = low.place(xn, PLAIN), low.new(yn, CHANNELS_LAST)
        places = [x, low.place(sn, PLAIN), zero, y]
        low.step(f"quantize_image_{name}", params, places, work=2 * x.nbytes)
        return None
    x = low.place(xn) if single else low.place(xn, PLAIN)
    y = low.new(yn, x.layout, x.channels)
    if 0 in shape:
        return None
    if single:
        params = dict(outer=1, axis=1, inner=prod(shape), block=1, s_outer=0, s_axis=0, s_step=0)
    else:
        inner = prod(shape[axis + 1 :])
        params = dict(
            outer=prod(shape[:axis]), axis=shape[axis], inner=inner, block=1, s_outer=0, s_axis=1,
            s_step=0,
        )  # fmt: skip
        if op.block_size:
            runs = per[axis]
            params |= dict(block=op.block_size, s_outer=runs * inner, s_axis=inner, s_step=1)
        elif inner == 1:
            params |= dict(axis=1, inner=shape[axis], s_axis=0, s_step=1)
    low.step(
        f"{'' if forward else 'de'}quantize_{name}", params, [x, low.place(sn, PLAIN), zero, y],
        work=x.nbytes + y.nbytes,
    )  # fmt: skip
    return None


@lowers(DynamicQuantizeLinear)
def dynamic(low: Lowering, node: Node) -> Any:
    """A pass for the range, then QuantizeLinear with what it found."""
    yn, sn, zn = [*node.outputs, "", ""][:3]
    x = low.place(node.inputs[0])
    if x.dtype != F32 or x.size == 0:
        return False
    y = low.new(yn, x.layout, x.channels) if yn else None
    scale = low.new(sn) if sn else replace(low.scratch(4), shape=(), dtype=F32)
    zero = low.new(zn) if zn else replace(low.scratch(1), shape=(), dtype=U8)
    # The step's last place is what it writes; the executor takes both as they come.
    low.step("dynamic_range", dict(n=x.size), [x, zero, scale], work=x.nbytes, threads=1)
    if y is not None:
        one = dict(outer=1, axis=1, inner=x.size, block=1, s_outer=0, s_axis=0, s_step=0)
        low.step("quantize_u8", one, [x, scale, zero, y], work=2 * x.nbytes)
    return None


def widen(low: Lowering, node: Node) -> bool:
    """Cast of integers to float32; False where no kernel does it."""
    xn, yn = node.inputs[0], node.outputs[0]
    names = {U8: "u8", S8: "s8", I32: "s32"}
    if low.dtype(yn) != F32 or low.dtype(xn) not in names:
        return False
    x = low.place(xn)
    y = low.new(yn, x.layout, x.channels)
    if x.size:
        scale = low.packed(("one",), lambda: np.ones(1, np.float32))
        one = dict(outer=1, axis=1, inner=x.size, block=1, s_outer=0, s_axis=0, s_step=0)
        kernel = f"dequantize_{names[low.dtype(xn)]}"
        low.step(kernel, one, [x, scale, None, y], work=x.nbytes + y.nbytes)
    return True


@lowers(QLinearAdd, QLinearMul)
def qlinear_binary(low: Lowering, node: Node) -> Any:
    op = node.op
    assert isinstance(op, QLinearBinary)
    names = [*node.inputs, *[""] * (8 - len(node.inputs))]
    yn = node.outputs[0]
    signed = low.dtype(yn) == S8
    if low.dtype(yn) not in BYTES:
        return False
    scales = [scale_of(low, names[i + 1], names[i + 2], signed) for i in (0, 3)]
    y = scale_of(low, names[6], names[7], signed)
    if y is None or scales[0] is None or scales[1] is None:
        return False
    shape = low.shape(yn)
    pair = [(names[0], scales[0]), (names[3], scales[1])]
    # The kernel's b may be repeated; of a sum, either may come first.
    inner = 0 if first_is_inner(low.shape(names[0]), low.shape(names[3])) else 1
    if low.shape(names[0]) != shape:
        pair.reverse()
        inner = 1 - inner
    (an, a), (bn, b) = pair
    if low.shape(an) != shape or 0 in shape:
        return False
    per_channel = len(shape) >= 3 and low.shape(bn) == (*shape[:2], *(1,) * (len(shape) - 2))
    if low.shape(bn) != shape and not per_channel:
        return False
    last = CHANNELS_LAST in (low.layout_of(an), low.layout_of(bn)) or per_channel
    layout = CHANNELS_LAST if last and len(shape) >= 3 else PLAIN
    pa, pb = fetch(low, an, layout), fetch(low, bn, layout)
    output = Output(low, yn, layout)
    n = dict(n=1, pixels=1, channels=prod(shape), b_n=0, b_p=0)
    if low.shape(bn) != shape:
        n = dict(n=shape[0], pixels=prod(shape[2:]), channels=shape[1], b_n=shape[1], b_p=0)
    shift = 128 if signed or op.signed else 0
    if isinstance(op, QLinearMul):
        # Scales in the operator's order.
        m = multiplier(scales[0].scale, scales[1].scale, y.scale).reshape(())
        how, ratios = PRODUCT, (np.float32(m), np.float32(0), np.float32(y.zero - shift))
    else:
        terms = [(s.scale, s.zero - shift) for s in (a, b)]
        how = SUM if inner else SUM_A
        ra, rb, offset = sum_ratios(terms[1 - inner], terms[inner], (y.scale, y.zero - shift))
        ratios = (ra, rb, offset) if inner else (rb, ra, offset)
    lo, hi = bounds(op.clamp, signed)
    params = dict(
        **n, how=how, a_zero=a.zero, b_zero=b.zero, shift=shift, a_ratio=float(ratios[0]),
        b_ratio=float(ratios[1]), offset=float(ratios[2]), lo=lo - shift, hi=hi - shift,
    )  # fmt: skip
    low.step("qbinary", params, [pa, pb, output.place], work=3 * prod(shape))
    output.done()
    return None


@lowers(QLinearAveragePool, QLinearGlobalAveragePool)
def qlinear_pool(low: Lowering, node: Node) -> Any:
    op = node.op
    assert isinstance(op, (QLinearAveragePool, QLinearGlobalAveragePool))
    names = [*node.inputs, ""][:5]
    xn, yn = names[0], node.outputs[0]
    shape, signed = low.shape(xn), low.dtype(xn) == S8
    x = scale_of(low, names[1], names[2], signed)
    y = scale_of(low, names[3], names[4], signed)
    if x is None or y is None or low.dtype(xn) not in BYTES or len(shape) > 5 or 0 in shape:
        return False
    lo, hi = bounds(op.clamp, signed)
    # The sum of integers times one factor, or the mean of floats.
    how = dict(
        average=1, divisor=0, ratio=float(np.float32(x.scale[0]) / np.float32(y.scale[0])),
        y_zero=y.zero, lo=lo - y.zero, hi=hi - y.zero, y_scale=0.0, zero=0.0,
    )  # fmt: skip
    if isinstance(op, QLinearGlobalAveragePool):
        ones = (1,) * (len(shape) - 2)
        win = Window(shape[2:], ones, ones, (0,) * (2 * len(ones)), ones)
        how["divisor"] = prod(shape[2:])
    else:
        win = op.window(shape)
        if op.count_include_pad:
            if op.ceil_mode:
                return False  # windows that pass the padding divide by fewer cells
            how["divisor"] = prod(win.kernel_shape)
        shift = 128 if signed or op.signed else 0
        how |= dict(
            average=2, ratio=float(x.scale[0]), y_scale=float(y.scale[0]), y_zero=shift,
            zero=float(y.zero - shift), lo=lo - shift, hi=hi - shift,
        )  # fmt: skip
    emit_pool(low, xn, yn, win, x_zero=x.zero, **how).done()
    return None


def max_pool(low: Lowering, xn: str, yn: str, win: Window) -> None:
    """The steps of MaxPool on bytes."""
    emit_pool(
        low, xn, yn, win, average=0, x_zero=0, y_zero=0, divisor=0, ratio=0.0, lo=0.0, hi=0.0,
        y_scale=0.0, zero=0.0,
    ).done()  # fmt: skip


def emit_pool(low: Lowering, xn: str, yn: str, win: Window, **how: Any) -> Output:
    """Append one ``qpool`` step."""
    x = fetch(low, xn, CHANNELS_LAST, dense=False)
    output = Output(low, yn, CHANNELS_LAST)
    y = output.place
    rank = len(win.kernel_shape)
    d, h, w = triple(x.shape[2:], 1)
    od, oh, ow = triple(y.shape[2:], 1)
    kd, kh, kw = triple(win.kernel_shape, 1)
    sd, sh, sw = triple(win.strides, 1)
    dd, dh, dw = triple(win.dilations, 1)
    pd, ph, pw = triple(win.pads[:rank], 0)
    params = dict(
        n=x.shape[0], d=d, h=h, w=w, pixel=x.pixel, od=od, oh=oh, ow=ow, y_pixel=y.pixel,
        kd=kd, kh=kh, kw=kw, stride_d=sd, stride_h=sh, stride_w=sw,
        dilation_d=dd, dilation_h=dh, dilation_w=dw, pad_d=pd, pad_h=ph, pad_w=pw,
        channels=x.shape[1], **how,
    )  # fmt: skip
    if y.size:
        low.step("qpool", params, [x, y], work=y.size * prod(win.kernel_shape))
    return output


def byte_table(op: Any, dtype: np.dtype[Any], parameters: list[np.ndarray | None]) -> np.ndarray:
    """The results of an operator for all 256 stored bytes, as stored bytes."""
    codes = np.arange(256, dtype=np.uint8).view(dtype)
    return op.compute([codes, *parameters])[0].view(np.uint8)


def unary(low: Lowering, node: Node) -> Any:
    """A table of 256 results."""
    xn, yn = node.inputs[0], node.outputs[0]
    rest = [low.const(i) if i else None for i in node.inputs[1:]]
    if any(i and r is None for i, r in zip(node.inputs[1:], rest, strict=True)):
        return False
    if low.dtype(xn) not in BYTES or low.dtype(yn) not in BYTES:
        return False
    x = low.place(xn, dense=True)
    table = low.constant(byte_table(node.op, x.dtype, rest))
    emit_table(low, x, table, low.new(yn, x.layout, x.channels))
    return None


lowers(QLinearUnary)(unary)


@lowers(QLinearConcat)
def qlinear_concat(low: Lowering, node: Node) -> Any:
    """Each part through a table, or copied, to its place; other axes than channels in NumPy."""
    op = node.op
    assert isinstance(op, QLinearConcat)
    yn = node.outputs[0]
    shape = low.shape(yn)
    parts = list(zip(node.inputs[2::3], node.inputs[3::3], node.inputs[4::3], strict=True))
    y_scale, y_zero = low.const(node.inputs[0]), low.const(node.inputs[1])
    if op.axis not in (1, 1 - len(shape)) or len(shape) < 3 or 0 in shape:
        return False
    if y_scale is None or y_zero is None or low.dtype(yn) not in BYTES:
        return False
    if any(low.const(s) is None or low.const(z) is None for _, s, z in parts):
        return False
    if any(low.dtype(x) not in BYTES or 0 in low.shape(x) for x, _, _ in parts):
        return False
    xs = [low.place(x, CHANNELS_LAST, dense=False) for x, _, _ in parts]
    y = low.new(yn, CHANNELS_LAST)
    start = 0
    for x, (_, s, z) in zip(xs, parts, strict=True):
        one = QLinearConcat(axis=0)
        codes = np.arange(256, dtype=np.uint8).view(x.dtype)
        table = one.compute([y_scale, y_zero, codes, low.const(s), low.const(z)])[0]
        part = replace(y, start=start, shape=x.shape)
        if x.dtype == y.dtype and (table == codes).all():
            row = dict(rows=x.size // x.shape[1], bytes=x.shape[1], x_row=x.pixel, y_row=y.pixel)
            low.step("copy_rows", row, [x, part], work=2 * x.nbytes)
        else:
            emit_table(low, x, low.constant(table.view(np.uint8)), part)
        start += x.shape[1]
    return None
