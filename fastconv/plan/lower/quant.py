"""Quantised operators: scales and zero points → the integer kernels' parameters and packed weights.

The kernels know unsigned activations and signed weights. Signed activations are moved by 128
together with their zero points, by a pass where possible and else by a step; weights have their zero
points taken away, and where the difference needs more than 8 bits it is the sum of several weights
that read the same input (extra taps).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, prod
from typing import Any

import numpy as np

from ... import kernels
from ...graph import Node
from ...graph.ops.quant import (
    ConvInteger,
    DequantizeLinear,
    MatMulInteger,
    QGemm,
    QLinearAdd,
    QLinearAveragePool,
    QLinearBinary,
    QLinearConcat,
    QLinearConv,
    QLinearGlobalAveragePool,
    QLinearMatMul,
    QLinearMul,
    QLinearUnary,
    QuantizeLinear,
    limits,
    multiplier,
    sum_ratios,
)
from ...graph.window import Window
from ...sizes import checked_size
from ..lowering import F32, Lowering, aligned_zeros, lowers
from ..memory import CHANNELS_LAST, FLAT, PLAIN, Place
from .conv import triple

U8, S8, I32 = np.dtype(np.uint8), np.dtype(np.int8), np.dtype(np.int32)
BYTES = (U8, S8)
#: Kernel codes of results, as in ``kernels/qconv.pyx``.
OUT_BYTES, OUT_SUMS, OUT_FLOATS = range(3)
#: Operands of one block of rows should stay in the second-level cache.
BLOCK_BYTES, BLOCK_ROWS = 192 << 10, 512


@dataclass
class Scale:
    """A tensor's scale, and its zero point as an unsigned byte's."""

    scale: np.ndarray
    zero: int


def scale_of(low: Lowering, scale: str, zero: str, signed: bool) -> Scale | None:
    """One constant scale and zero point; None where there are several or they are computed."""
    s = low.const(scale)
    z = low.const(zero) if zero else np.zeros((), np.int8)
    if s is None or z is None or s.size != 1 or z.size != 1:
        return None
    return Scale(s.reshape(-1), int(z.reshape(-1)[0]) + (128 if signed else 0))


def fetch(low: Lowering, name: str, layout: str | None, dense: bool = True) -> Place:
    """A quantised value as unsigned bytes: a signed one is moved by 128 (once per value)."""
    place = low.place(name, layout, dense=dense)
    if place.dtype == U8:
        return place
    key = (f"{name}\0unsigned", place.layout)
    if key not in low.places:
        moved = replace(low.place(name, layout), dtype=U8)
        low.places[key] = replace(moved, buffer=low.buffer(moved.nbytes), start=0)
        flip(low, moved, low.places[key])
    return low.places[key]


def flip(low: Lowering, x: Place, y: Place) -> None:
    """A step between signed bytes and unsigned ones, 128 apart."""
    table = low.packed(("flip",), lambda: np.arange(256, dtype=np.uint8) ^ np.uint8(128))
    emit_table(low, x, table, y)


def emit_table(low: Lowering, x: Place, table: Place, y: Place) -> None:
    """y = table[x]; both dense, or channels-last with their own distance between pixels."""
    rows, cols = 1, x.size
    x_row = y_row = cols
    if not (x.dense and y.dense):
        cols = x.shape[1]
        rows, x_row, y_row = x.size // max(1, cols), x.pixel, y.pixel
    if rows * cols:
        params = dict(rows=rows, cols=cols, x_row=x_row, y_row=y_row)
        low.step("qtable", params, [x, table, y], work=4 * rows * cols)


class Output:
    """Where a quantised result goes: as unsigned bytes first if it is signed."""

    def __init__(self, low: Lowering, name: str, layout: str, channels: int = 0) -> None:
        self.low = low
        self.final = low.new(name, layout, channels)
        self.place = self.final
        self.signed = self.final.dtype == S8
        if self.signed:
            self.place = replace(
                self.final, buffer=low.buffer(self.final.nbytes), start=0, dtype=U8
            )

    def done(self) -> None:
        """To be called after the step that writes ``place``."""
        if self.signed:
            flip(self.low, self.place, self.final)


def bounds(clamp: tuple[int, int] | None, signed: bool) -> tuple[int, int]:
    """Bounds of a result as unsigned bytes."""
    lo, hi = limits(S8 if signed else U8, clamp)
    return (lo + 128, hi + 128) if signed else (lo, hi)


# Weights.


def pieces(w: np.ndarray) -> list[np.ndarray]:
    """Integers as a sum of as few signed bytes as hold them."""
    left, result = w.astype(np.int32), []
    while not result or left.any():
        part = np.clip(left, -128, 127)
        result.append(part.astype(np.int8))
        left = left - part
    return result


def pack_filters(w: np.ndarray, group: int, isa: str) -> np.ndarray:
    """Pack ``[filters][depth]`` into ``[group][panel][depth/4][lanes][4]``, depth rounded up."""
    sizes = kernels.family_constants("qconv", isa)
    lanes, unit = sizes["QVW"], sizes["QDEPTH"]
    filters, depth = w.shape
    fg = filters // group
    full, panels = -(-depth // unit) * unit, -(-fg // lanes)
    out = aligned_zeros((group, panels, full // 4, lanes, 4), np.int8)
    wide = np.zeros((group, panels * lanes, full), np.int8)
    wide[:, :fg, :depth] = w.reshape(group, fg, depth)
    out[:] = wide.reshape(group, panels, lanes, full // 4, 4).swapaxes(2, 3)
    return out


def pack_rows(v: np.ndarray, group: int, isa: str, dtype: Any) -> np.ndarray:
    """Pack one number per filter into ``[group][panel][lanes]``."""
    lanes = kernels.family_constants("qconv", isa)["QVW"]
    fg = v.size // group
    out = aligned_zeros((group, -(-fg // lanes) * lanes), dtype)
    out[:, :fg] = v.reshape(group, fg)
    return out


@dataclass
class Filters:
    """Weights ready for ``emit``, and what a kernel needs to know of them.

    Attributes:
        weights: packed.
        sums: of each filter's weights, int64.
        parts: how many taps stand for one (see ``pieces``).
    """

    weights: Place
    sums: np.ndarray
    parts: int


def filters_of(
    low: Lowering, name: str, w: np.ndarray, group: int, how: tuple[Any, ...]
) -> Filters:
    """Pack weights ``[filters][taps][channels]`` whose zero points are taken away."""
    parts = pieces(w)
    flat = np.concatenate([p.reshape(len(p), -1) for p in parts], 1)
    place = low.packed(("qconv", name, group, *how), lambda: pack_filters(flat, group, low.isa))
    return Filters(place, w.reshape(len(w), -1).sum(1, dtype=np.int64), len(parts))


def less_zero(w: np.ndarray, zero: np.ndarray | None, axis: int) -> np.ndarray:
    """Weights less their zero points, of which there may be one per index of ``axis``."""
    if zero is None:
        return w.astype(np.int32)
    shape = [1] * w.ndim
    if zero.size > 1:
        shape[axis] = zero.size
    return w.astype(np.int32) - zero.astype(np.int32).reshape(shape)


# Convolutions and matrix products.


@dataclass
class Requantise:
    """How sums become results.

    Attributes:
        out: a kernel code.
        scale: per filter (or one), float32; unused for ``OUT_SUMS``.
        zero: of the result.
        bounds: of the result.
        ratios, sum_bounds: of a residual.
    """

    out: int
    scale: np.ndarray
    zero: int = 0
    bounds: tuple[int, int] = (0, 255)
    ratios: tuple[Any, Any, Any] = (0.0, 0.0, 0.0)
    sum_bounds: tuple[int, int] = (0, 255)

    def fields(self) -> dict[str, Any]:
        return dict(
            y_zero=self.zero, lo=self.bounds[0] - self.zero, hi=self.bounds[1] - self.zero,
            y_ratio=float(self.ratios[0]), r_ratio=float(self.ratios[1]),
            offset=float(self.ratios[2]), sum_lo=self.sum_bounds[0], sum_hi=self.sum_bounds[1],
        )  # fmt: skip


def start_of(sums: np.ndarray, bias: np.ndarray | None, zero: int) -> np.ndarray:
    """What sums start from: the bias, less what the zero point of x adds, modulo 2**32."""
    start = -zero * sums
    if bias is not None:
        start = start + bias.astype(np.int64)
    return (start & 0xFFFFFFFF).astype(np.uint32).view(np.int32)


def emit(
    low: Lowering,
    x: Place,
    filters: Filters,
    start: np.ndarray,
    requantise: Requantise,
    residual: Place | None,
    y: Place,
    *,
    x_zero: int | Place,
    image: tuple[int, ...],
    out: tuple[int, int, int],
    kernel: tuple[int, int, int],
    strides: tuple[int, int, int],
    dilations: tuple[int, int, int],
    pads: tuple[int, int, int],
    channels: int,
    count: int,
    group: int,
    pixels: tuple[int, int, int],
) -> None:
    """Append one ``qconv`` step.

    Args:
        x_zero: the zero point of x, or where it lies when it is computed (``start`` is then without
            it).
        image: (n, d, h, w) of x.
        out: (d, h, w) of y.
        channels, count: input channels and filters of a group.
        pixels: elements from one pixel to the next of x, y and the residual.
    """
    sizes = kernels.family_constants("qconv", low.isa)
    lanes, tile = sizes["QVW"], sizes["QTILE"]
    n = image[0]
    rows, taps = n * prod(out), prod(kernel)
    if rows * count * group == 0:
        return
    depth = -(-taps * channels // sizes["QDEPTH"]) * sizes["QDEPTH"]
    linear = (kernel, strides, pads) == ((1, 1, 1), (1, 1, 1), (0, 0, 0)) and out == image[1:]
    panels = -(-count // lanes)
    macs = rows * count * group * taps * channels
    threads = low.threads_for(macs // 8)
    tile_rows = min(tile, ceil(rows / ceil(rows / tile))) if tile else 0
    unit = 2 * tile_rows or 12
    most = max(unit, min(BLOCK_ROWS, BLOCK_BYTES // depth) // unit * unit)
    row_blocks = ceil(rows / most)
    if threads > 1:
        row_blocks = max(row_blocks, min(ceil(rows / unit), ceil(2 * threads / group)))
        row_blocks = ceil(row_blocks / threads) * threads
    block_rows = ceil(ceil(rows / row_blocks) / unit) * unit
    block_panels = panels
    have = ceil(rows / block_rows) * group
    if threads > 1 and have < 2 * threads:
        block_panels = max(1, ceil(panels / ceil(2 * threads / have)))
        block_panels += block_panels % 2
    params = dict(
        n=n, d=image[1], h=image[2], w=image[3], pixel=pixels[0],
        od=out[0], oh=out[1], ow=out[2], y_pixel=pixels[1], r_pixel=pixels[2],
        kd=kernel[0], kh=kernel[1], kw=kernel[2],
        stride_d=strides[0], stride_h=strides[1], stride_w=strides[2],
        dilation_d=dilations[0], dilation_h=dilations[1], dilation_w=dilations[2],
        pad_d=pads[0], pad_h=pads[1], pad_w=pads[2],
        channels=channels, filters=count, group=group, depth=depth, linear=int(linear),
        block_rows=block_rows, block_panels=block_panels, tile_rows=tile_rows,
        x_zero=x_zero if isinstance(x_zero, int) else 0, out=requantise.out, **requantise.fields(),
    )  # fmt: skip
    dynamic = None if isinstance(x_zero, int) else x_zero
    sums = None
    if dynamic is not None:
        low32 = (filters.sums & 0xFFFFFFFF).astype(np.uint32).view(np.int32)
        sums = low.constant(pack_rows(low32, group, low.isa, np.int32))
    scale = np.broadcast_to(requantise.scale.astype(np.float32), (count * group,))
    step = max(1, 2 * tile_rows)
    room = -(-block_rows // step) * step * depth + block_panels * lanes * 4 + 128
    places = [
        x,
        filters.weights,
        low.constant(pack_rows(start, group, low.isa, np.int32)),
        low.constant(pack_rows(scale, group, low.isa, np.float32)),
        residual,
        dynamic,
        sums,
        low.scratch(checked_size((threads, room + 64), 1, "gathered rows")),
        y,
    ]
    low.step("qconv", params, places, macs=macs, threads=threads)


def pixel_of(place: Place | None) -> int:
    return 0 if place is None else place.pixel


@lowers(QLinearConv)
def qlinear_conv(low: Lowering, node: Node) -> Any:
    op = node.op
    assert isinstance(op, QLinearConv)
    names = [*node.inputs, *[""] * (14 - len(node.inputs))]
    xn, wn, bn, rn, yn = names[0], names[3], names[8], names[9], node.outputs[0]
    if low.dtype(xn) not in BYTES or low.dtype(yn) not in BYTES:
        return False
    w, w_scale = low.const(wn), low.const(names[4])
    w_zero = low.const(names[5]) if names[5] else np.zeros((), np.int8)
    bias = low.const(bn) if bn else None
    y_type = low.dtype(names[7]) if names[7] else U8
    xs = scale_of(low, names[1], names[2], low.dtype(xn) == S8)
    ys = scale_of(low, names[6], names[7], y_type == S8)
    xshape = low.shape(xn)
    if w is None or w_scale is None or w_zero is None or xs is None or ys is None:
        return False
    if (bn and bias is None) or len(xshape) > 5 or 0 in (*xshape, *w.shape):
        return False
    requantise = Requantise(
        OUT_BYTES, multiplier(xs.scale, w_scale.reshape(-1), ys.scale), ys.zero,
        bounds(op.clamp, y_type == S8),
    )  # fmt: skip
    residual = None
    if rn:
        rs = scale_of(low, names[10], names[11], low.dtype(rn) == S8)
        ss = scale_of(low, names[12], names[13], low.dtype(yn) == S8)
        if rs is None or ss is None or low.dtype(rn) not in BYTES:
            return False
        requantise.ratios = sum_ratios(
            (ys.scale, ys.zero), (rs.scale, rs.zero), (ss.scale, ss.zero)
        )
        requantise.sum_bounds = bounds(op.sum_clamp, low.dtype(yn) == S8)
        residual = fetch(low, rn, CHANNELS_LAST, dense=False)
    return emit_conv(low, op, xn, xs.zero, wn, w, w_zero, bias, requantise, residual, yn)


@lowers(ConvInteger)
def conv_integer(low: Lowering, node: Node) -> Any:
    op = node.op
    assert isinstance(op, ConvInteger)
    xn, wn, xz, wz = [*node.inputs, "", ""][:4]
    w = low.const(wn)
    w_zero = low.const(wz) if wz else np.zeros((), np.int8)
    if w is None or w_zero is None or low.dtype(xn) not in BYTES or low.dtype(wn) not in BYTES:
        return False
    if len(low.shape(xn)) > 5 or 0 in (*low.shape(xn), *w.shape):
        return False
    zero = run_time_zero(low, xn, xz)
    if zero is None:
        return False
    sums = Requantise(OUT_SUMS, np.zeros(1, np.float32))
    return emit_conv(low, op, xn, zero, wn, w, w_zero, None, sums, None, node.outputs[0])


def run_time_zero(low: Lowering, xn: str, name: str) -> int | Place | None:
    """The zero point of x as an unsigned byte's: a number, or where it will lie; None: several."""
    signed = low.dtype(xn) == S8
    value = low.const(name) if name else np.zeros((), np.int8)
    if value is not None:
        return int(value.reshape(-1)[0]) + 128 * signed if value.size == 1 else None
    return fetch(low, name, PLAIN) if prod(low.shape(name)) == 1 else None


def emit_conv(
    low: Lowering,
    op: Any,
    xn: str,
    x_zero: int | Place,
    wn: str,
    w: np.ndarray,
    w_zero: np.ndarray,
    bias: np.ndarray | None,
    requantise: Requantise,
    residual: Place | None,
    yn: str,
) -> Any:
    """The steps of a convolution; False where no kernel fits."""
    xshape = low.shape(xn)
    win: Window = op.window(xshape, w.shape)
    rank = len(win.kernel_shape)
    group, count, channels = op.group, w.shape[0] // op.group, w.shape[1]
    whole = less_zero(w, w_zero, 0)
    taps = np.moveaxis(whole, 1, -1).reshape(w.shape[0], -1, channels)
    kernel = triple(win.kernel_shape, 1)
    small = -128 <= whole.min() and whole.max() <= 127
    if not small and rank > 2:
        return False  # the depth axis is needed for the parts of the weights
    x = fetch(low, xn, CHANNELS_LAST, dense=False)
    if requantise.out == OUT_BYTES:
        output = Output(low, yn, CHANNELS_LAST)
        y = output.place
    else:
        y = low.new(yn, CHANNELS_LAST)
    image = (xshape[0], *triple(xshape[2:], 1))
    out = triple(y.shape[2:], 1)
    strides, dilations = triple(win.strides, 1), triple(win.dilations, 1)
    pads = triple(win.pads[:rank], 0)
    most = kernels.family_constants("qdepthwise", low.isa)["QTAPS"] - 3
    depthwise = channels == count == 1 and group > 1 and rank <= 2 and prod(kernel) <= most
    if depthwise and small and requantise.out == OUT_BYTES and isinstance(x_zero, int):
        flat = taps.reshape(group, -1)
        start = start_of(flat.sum(1, dtype=np.int64), bias, x_zero)
        params = dict(
            n=image[0], h=image[2], w=image[3], pixel=x.pixel, oh=out[1], ow=out[2],
            y_pixel=y.pixel, r_pixel=pixel_of(residual), kh=kernel[1], kw=kernel[2],
            stride_h=strides[1], stride_w=strides[2], dilation_h=dilations[1],
            dilation_w=dilations[2], pad_h=pads[1], pad_w=pads[2], channels=group, x_zero=x_zero,
            **requantise.fields(),
        )  # fmt: skip
        scale = np.broadcast_to(requantise.scale, (group,))
        lanes = kernels.family_constants("qdepthwise", low.isa)["QVB"]
        places = [
            x,
            low.packed(("qdepthwise", wn), lambda: pack_depthwise(flat, lanes)),
            low.constant(pack_channels(start, lanes, np.int32)),
            low.constant(pack_channels(scale, lanes, np.float32)),
            residual,
            low.constant(np.full(lanes, x_zero, np.uint8)),
            y,
        ]
        macs = y.size * prod(kernel)
        low.step("qdepthwise", params, places, macs=macs, threads=low.threads_for(macs // 2))
    else:
        filters = filters_of(low, wn, taps, group, ("conv", kernel))
        parts = (kernel, dilations)
        if filters.parts > 1:
            parts = (filters.parts, *kernel[1:]), (0, *dilations[1:])
        start = start_of(filters.sums, bias, x_zero if isinstance(x_zero, int) else 0)
        emit(
            low, x, filters, start, requantise, residual, y, x_zero=x_zero, image=image, out=out,
            kernel=parts[0], strides=strides, dilations=parts[1], pads=pads, channels=channels,
            count=count, group=group, pixels=(x.pixel, y.pixel, pixel_of(residual)),
        )  # fmt: skip
    if requantise.out == OUT_BYTES:
        output.done()
    return None


def channel_order(lanes: int) -> np.ndarray:
    """The channel at each position of a block, as ``vb_zip4`` leaves them: [part][VW]."""
    part, k = np.meshgrid(np.arange(4), np.arange(lanes // 4), indexing="ij")
    return (k // 4 * 16 + 4 * part + k % 4).reshape(-1)


def pack_channels(v: np.ndarray, lanes: int, dtype: Any) -> np.ndarray:
    """Pack one number per channel into ``[block][part][VW]``."""
    blocks = -(-v.size // lanes)
    wide = np.zeros(blocks * lanes, dtype)
    wide[: v.size] = v
    out = aligned_zeros((blocks, lanes), dtype)
    out[:] = wide.reshape(blocks, lanes)[:, channel_order(lanes)]
    return out


def pack_depthwise(w: np.ndarray, lanes: int) -> np.ndarray:
    """Pack ``[channels][taps]`` into ``[block][tap group][part][VW][4]``."""
    channels, taps = w.shape
    blocks, groups = -(-channels // lanes), -(-taps // 4)
    wide = np.zeros((blocks * lanes, groups * 4), np.int8)
    wide[:channels, :taps] = w
    out = aligned_zeros((blocks, groups, lanes, 4), np.int8)
    ordered = wide.reshape(blocks, lanes, groups, 4)[:, channel_order(lanes)]
    out[:] = ordered.swapaxes(1, 2)
    return out


def emit_matrix(
    low: Lowering,
    x: Place,
    x_zero: int | Place,
    wn: str,
    w: np.ndarray,
    bias: np.ndarray | None,
    requantise: Requantise,
    y: Place,
    how: tuple[Any, ...],
) -> None:
    """The step for rows x times weights ``[columns][depth]``, zero points taken away."""
    count, k = w.shape
    rows = x.size // max(1, k)
    filters = filters_of(low, wn, w[:, None], 1, ("matrix", *how))
    start = start_of(filters.sums, bias, x_zero if isinstance(x_zero, int) else 0)
    parts = filters.parts
    emit(
        low, x, filters, start, requantise, None, y, x_zero=x_zero, image=(1, 1, 1, rows),
        out=(1, 1, rows), kernel=(parts, 1, 1), strides=(1, 1, 1),
        dilations=(0 if parts > 1 else 1, 1, 1), pads=(0, 0, 0), channels=k, count=count, group=1,
        pixels=(k, count, 0),
    )  # fmt: skip


def weights_of(low: Lowering, name: str, zero: str) -> tuple[np.ndarray, np.ndarray] | None:
    """A constant matrix and its zero points, or None."""
    w = low.const(name)
    z = low.const(zero) if zero else np.zeros((), np.int8)
    if w is None or z is None or w.ndim != 2 or w.dtype not in BYTES or z.ndim > 1:
        return None
    return w, z


@lowers(QLinearMatMul)
def qlinear_matmul(low: Lowering, node: Node) -> Any:
    op = node.op
    assert isinstance(op, QLinearMatMul)
    an, bn, yn = node.inputs[0], node.inputs[3], node.outputs[0]
    weights = weights_of(low, bn, node.inputs[5])
    b_scale = low.const(node.inputs[4])
    if weights is None or b_scale is None or b_scale.ndim > 1 or low.dtype(an) not in BYTES:
        return False
    a = scale_of(low, node.inputs[1], node.inputs[2], low.dtype(an) == S8)
    y = scale_of(low, node.inputs[6], node.inputs[7], low.dtype(yn) == S8)
    if a is None or y is None or low.dtype(yn) not in BYTES:
        return False
    if 0 in (*low.shape(an), *weights[0].shape):
        return False
    requantise = Requantise(
        OUT_BYTES, multiplier(a.scale, b_scale.reshape(-1), y.scale), y.zero,
        bounds(op.clamp, low.dtype(yn) == S8),
    )  # fmt: skip
    x = fetch(low, an, PLAIN)
    output = Output(low, yn, PLAIN)
    w = less_zero(*weights, 1).T
    emit_matrix(low, x, a.zero, bn, w, None, requantise, output.place, ())
    output.done()
    return None


@lowers(MatMulInteger)
def matmul_integer(low: Lowering, node: Node) -> Any:
    an, bn, az, bz = [*node.inputs, "", ""][:4]
    weights = weights_of(low, bn, bz)
    if weights is None or low.dtype(an) not in BYTES or 0 in (*low.shape(an), *low.shape(bn)):
        return False
    zero = run_time_zero(low, an, az)
    if zero is None:
        return False
    x = fetch(low, an, PLAIN)
    sums = Requantise(OUT_SUMS, np.zeros(1, np.float32))
    w = less_zero(*weights, 1).T
    emit_matrix(low, x, zero, bn, w, None, sums, low.new(node.outputs[0], PLAIN), ())
    return None


@lowers(QGemm)
def qgemm(low: Lowering, node: Node) -> Any:
    op = node.op
    assert isinstance(op, QGemm)
    names = [*node.inputs, *[""] * (9 - len(node.inputs))]
    an, bn, cn, yn = names[0], names[3], names[6], node.outputs[0]
    weights, b_scale = weights_of(low, bn, names[5]), low.const(names[4])
    c = low.const(cn) if cn else None
    if weights is None or b_scale is None or op.transA or low.dtype(an) not in BYTES:
        return False
    a = scale_of(low, names[1], names[2], low.dtype(an) == S8)
    n = low.shape(yn)[1]
    if a is None or 0 in (*low.shape(an), n):
        return False
    if cn and (c is None or (c.size > 1 and c.size != c.shape[-1])):
        return False  # a bias that differs from row to row
    scale = np.float32(op.alpha) * a.scale.astype(F32)[0] * b_scale.astype(F32).reshape(-1)
    requantise = Requantise(OUT_FLOATS, scale)
    if names[7]:
        y = scale_of(low, names[7], names[8], low.dtype(yn) == S8)
        if y is None:
            return False
        requantise = Requantise(
            OUT_BYTES, scale / y.scale.astype(F32), y.zero, bounds(op.clamp, low.dtype(yn) == S8)
        )
    flat = low.layout_of(an) == FLAT
    x = fetch(low, an, FLAT if flat else PLAIN)
    w = less_zero(*weights, 0 if op.transB else 1)
    w = w if op.transB else w.T
    if flat:
        # The input lies as [S][C]: permute the weights once instead of it every time.
        k = w.shape[1]
        w = w.reshape(n, x.channels, k // x.channels).swapaxes(1, 2).reshape(n, k)
    bias = None if c is None else np.broadcast_to(c.reshape(-1), (n,))
    how = (op.transB, x.channels if flat else 0)
    if requantise.out == OUT_BYTES:
        output = Output(low, yn, PLAIN)
        emit_matrix(low, x, a.zero, bn, w, bias, requantise, output.place, how)
        output.done()
    else:
        emit_matrix(low, x, a.zero, bn, w, bias, requantise, low.new(yn, PLAIN), how)
    return None


# Everything else.


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
    if forward and (op.output_dtype not in (0, 2, 3) or op.precision not in (0, 1)):
        return False
    shape, per = low.shape(xn), low.shape(sn)
    axis = op.axis + len(shape) if op.axis < 0 else op.axis
    single = not op.block_size and prod(per) == 1
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
    name = {"u": "u8", "i": "s8" if stored.itemsize == 1 else "s32"}[stored.kind]
    zero = low.place(zn, PLAIN) if zn else None
    low.step(
        f"{'' if forward else 'de'}quantize_{name}", params, [x, low.place(sn, PLAIN), zero, y],
        work=x.nbytes + y.nbytes,
    )  # fmt: skip
    return None


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
    if low.shape(names[0]) != shape:
        pair.reverse()
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
    product = isinstance(op, QLinearMul)
    ratios = sum_ratios((a.scale, a.zero), (b.scale, b.zero), (y.scale, y.zero))
    if product:
        m = multiplier(a.scale, b.scale, y.scale).reshape(())
        ratios = (np.float32(m), np.float32(0), np.float32(y.zero))
    lo, hi = bounds(op.clamp, signed)
    params = dict(
        **n, product=int(product), a_zero=a.zero, b_zero=b.zero, a_ratio=float(ratios[0]),
        b_ratio=float(ratios[1]), offset=float(ratios[2]), lo=lo, hi=hi,
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
    if isinstance(op, QLinearGlobalAveragePool):
        ones = (1,) * (len(shape) - 2)
        win = Window(shape[2:], ones, ones, (0,) * (2 * len(ones)), ones)
        divisor = prod(shape[2:])
    else:
        win = op.window(shape)
        divisor = 0
        if op.count_include_pad:
            if op.ceil_mode:
                return False  # windows that pass the padding divide by fewer cells
            divisor = prod(win.kernel_shape)
    ratio = np.float32(x.scale[0]) / np.float32(y.scale[0])
    lo, hi = bounds(op.clamp, signed)
    output = emit_pool(
        low, xn, yn, win, average=1, x_zero=x.zero, y_zero=y.zero, divisor=divisor,
        ratio=float(ratio), lo=lo - y.zero, hi=hi - y.zero,
    )  # fmt: skip
    output.done()
    return None


def max_pool(low: Lowering, xn: str, yn: str, win: Window) -> None:
    """The steps of MaxPool on bytes."""
    emit_pool(
        low, xn, yn, win, average=0, x_zero=0, y_zero=0, divisor=0, ratio=0.0, lo=0.0, hi=0.0
    ).done()


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


def _unaries() -> list[Any]:
    from ...graph.op import REGISTRY

    return [c for c in REGISTRY.values() if issubclass(c, QLinearUnary)]


lowers(*_unaries())(unary)


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
