"""Quantised convolutions and matrix products: geometry, scales → integer kernels' parameters.

The kernels know unsigned activations and signed weights. Weights have their zero points taken away;
where the difference needs more than 8 bits it is the sum of several weights that read the same
input (extra taps).
"""

from __future__ import annotations

from math import ceil, prod
from typing import Any

import numpy as np

from ... import kernels
from ...graph import Node
from ...graph.ops.quant import (
    ConvInteger,
    MatMulInteger,
    QGemm,
    QLinearConv,
    QLinearMatMul,
    multiplier,
)
from ...graph.ops.quant_sums import sum_ratios
from ...graph.window import Window
from ...records import record
from ...sizes import checked_size
from ..lowering import F32, Lowering, aligned_zeros, lowers
from ..memory import CHANNELS_LAST, FLAT, PLAIN, Place
from .conv import triple
from .qbase import BYTES, S8, U8, Output, bounds, fetch, scale_of

#: Kernel codes of results, as in ``kernels/qconv.pyx``.
OUT_BYTES, OUT_SUMS, OUT_FLOATS = range(3)
#: Operands of one block of rows should stay in the second-level cache.
BLOCK_BYTES, BLOCK_ROWS = 256 << 10, 512
#: Units of work per thread, so that a thread that is held up leaves some to others; but no fewer
#: rows than these, since every unit reads all weights.
PARTS, PART_ROWS = 4, 96


def pieces(w: np.ndarray) -> list[np.ndarray]:
    """Integers as a sum of as few signed bytes as hold them."""
    left = w.astype(np.int32)
    result: list[np.ndarray] = []
    while not result or left.any():
        part = np.clip(left, -128, 127)
        result.append(part.astype(np.int8))
        left = left - part
    return result


def pack_filters(w: np.ndarray, group: int, isa: str) -> np.ndarray:
    """Pack ``[filters][depth]`` into ``[group][panel][depth/tap][lanes][tap]``, rounded up."""
    sizes = kernels.family_constants("qconv", isa)
    lanes, unit, tap = sizes["QVW"], sizes["QDEPTH"], sizes["QTAP"]
    dtype = np.int8 if tap == 4 else np.int16
    filters, depth = w.shape
    fg = filters // group
    full, panels = -(-depth // unit) * unit, -(-fg // lanes)
    out = aligned_zeros((group, panels, full // tap, lanes, tap), dtype)
    wide = np.zeros((group, panels * lanes, full), dtype)
    wide[:, :fg, :depth] = w.reshape(group, fg, depth)
    out[:] = wide.reshape(group, panels, lanes, full // tap, tap).swapaxes(2, 3)
    return out


def pack_rows(v: np.ndarray, group: int, isa: str, dtype: Any) -> np.ndarray:
    """Pack one number per filter into ``[group][panel][lanes]``."""
    lanes = kernels.family_constants("qconv", isa)["QVW"]
    fg = v.size // group
    out = aligned_zeros((group, -(-fg // lanes) * lanes), dtype)
    out[:, :fg] = v.reshape(group, fg)
    return out


@record
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
    """Pack weights ``[filters][taps][channels]`` whose zero points are taken away.

    ``how`` says what was done with the weights ``name``: it holds their zero points.
    """
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


@record
class Requantise:
    """How sums become results.

    Attributes:
        out: a kernel code.
        scale: per filter (or one), float32; unused for ``OUT_SUMS``.
        zero: of the result.
        bounds: of the result.
        ratios, sum_bounds: of a residual: the ratio of the result, its own, and what is added.
        r_last, shift: whether the residual is added last; what bytes are more than the numbers.
    """

    out: int
    scale: np.ndarray
    zero: int = 0
    bounds: tuple[int, int] = (0, 255)
    ratios: tuple[Any, Any, Any] = (0.0, 0.0, 0.0)
    sum_bounds: tuple[int, int] = (0, 255)
    r_last: bool = False
    shift: int = 0

    def fields(self) -> dict[str, Any]:
        return dict(
            y_zero=self.zero, lo=self.bounds[0] - self.zero, hi=self.bounds[1] - self.zero,
            y_ratio=float(self.ratios[0]), r_ratio=float(self.ratios[1]),
            offset=float(self.ratios[2]), r_last=int(self.r_last), shift=self.shift,
            sum_lo=self.sum_bounds[0] - self.shift, sum_hi=self.sum_bounds[1] - self.shift,
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
    panels, item = -(-count // lanes), 4 // sizes["QTAP"]
    macs = rows * count * group * taps * channels
    threads = low.threads_for(macs // 8)
    block_rows, block_panels = blocks(
        rows, panels, group, depth * item, taps * channels, count, 2 * tile or 12, threads
    )
    tile_rows = ceil(block_rows / ceil(block_rows / tile)) if tile else 0
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
    step = max(1, tile_rows)
    room = (-(-block_rows // step) * step * depth * item + 127) // 64 * 64
    room += (block_panels * lanes * 4 + 63) // 64 * 64
    places = [
        x,
        filters.weights,
        low.constant(pack_rows(start, group, low.isa, np.int32)),
        low.constant(pack_rows(scale, group, low.isa, np.float32)),
        residual,
        dynamic,
        sums,
        low.scratch(checked_size((threads, room), 1, "gathered rows"), threads),
        y,
    ]
    units = ceil(rows / block_rows) * ceil(panels / block_panels) * group
    low.step("qconv", params, places, macs=macs, threads=threads, units=units)


def blocks(
    rows: int, panels: int, group: int, row: int, depth: int, count: int, unit: int, threads: int
) -> tuple[int, int]:
    """Rows and panels of a unit of work: equal parts, a multiple of the threads of them.

    Rows are cut, since the kernels before and after are cut alike, and what another core has
    written is dear to read; but filters where there are few rows, or where reading half of large
    weights saves more than that costs.

    Args:
        rows, panels, group: how many there are (panels per group).
        row: bytes of a row's operands.
        depth, count: weights of a filter, and filters of a group.
        unit: rows that are computed together.
        threads: how many share the step.
    """
    most = max(unit, min(BLOCK_ROWS, BLOCK_BYTES // row))
    if threads == 1:
        return ceil(rows / ceil(rows / most)), panels
    saved = depth * count * (threads - 1) // threads
    few = rows * group < threads * unit
    if group == 1 and rows <= 2 * most and (few or saved > rows * (2 * depth + count)):
        # Every part gathers all rows.
        each = ceil(panels / (threads * (PARTS if rows == 1 else PARTS // 2)))
        return rows, each + each % 2
    parts = max(ceil(rows / most), min(PARTS * threads, rows // PART_ROWS))
    parts = max(parts, min(threads, ceil(rows / unit)))
    if group % threads:
        parts = ceil(parts / threads) * threads
    return ceil(rows / parts), panels


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
        shift = 128 if y_type == S8 else 0
        terms = [(s.scale, s.zero - shift) for s in (ys, rs)]
        last, inner = reversed(terms) if op.residual_first else terms
        ra, rb, offset = sum_ratios(last, inner, (ss.scale, ss.zero - shift))
        requantise.ratios = (rb, ra, offset) if op.residual_first else (ra, rb, offset)
        requantise.r_last, requantise.shift = op.residual_first, shift
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
    small = whole.min() >= -128 and whole.max() <= 127
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
    sizes = kernels.family_constants("qdepthwise", low.isa)
    fits = kernel[1] <= sizes["QROWS"] and (kernel[2] - 1) * dilations[2] < sizes["QCOLUMNS"]
    depthwise = channels == count == 1 and group > 1 and rank <= 2 and fits
    if depthwise and small and requantise.out == OUT_BYTES and isinstance(x_zero, int):
        flat = taps.reshape(group, -1)
        start = start_of(flat.sum(1, dtype=np.int64), bias, x_zero)
        params = dict(
            n=image[0], h=image[2], w=image[3], pixel=x.pixel, oh=out[1], ow=out[2],
            y_pixel=y.pixel, r_pixel=pixel_of(residual), kh=kernel[1], kw=kernel[2],
            stride_h=strides[1], stride_w=strides[2], dilation_h=dilations[1],
            dilation_w=dilations[2], pad_h=pads[1], pad_w=pads[2], channels=group,
            least=requantise.bounds[0], **requantise.fields(),
        )  # fmt: skip
        scale = np.broadcast_to(requantise.scale, (group,))
        lanes = sizes["QVB"]
        places = [
            x,
            low.packed(
                ("qdepthwise", wn, kernel, w_zero.tobytes()),
                lambda: pack_depthwise(flat.reshape(group, *kernel[1:]), lanes, sizes["QWIDE"]),
            ),
            low.constant(pack_channels(start, lanes, np.int32)),
            low.constant(pack_channels(scale, lanes, np.float32)),
            residual,
            low.constant(np.full(lanes, x_zero, np.uint8)),
            y,
        ]
        macs = y.size * prod(kernel)
        low.step("qdepthwise", params, places, macs=macs, threads=low.threads_for(macs // 2))
    else:
        filters = filters_of(low, wn, taps, group, ("conv", kernel, w_zero.tobytes()))
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


def pack_depthwise(w: np.ndarray, lanes: int, apart: int) -> np.ndarray:
    """Pack ``[channels][kh][kw]`` into ``[block][kw][kh/4][part][VW][4]``.

    With ``apart`` they are 16-bit integers, ``[block][kw][kh/4][part][2][VW][2]``: of four taps the
    even ones first.
    """
    channels, kh, kw = w.shape
    blocks, groups = -(-channels // lanes), -(-kh // 4)
    wide = np.zeros((blocks * lanes, kw, groups * 4), np.int8)
    wide[:channels, :, :kh] = w.swapaxes(1, 2)
    out = aligned_zeros((blocks, kw * groups, lanes, 4), np.int8)
    ordered = wide.reshape(blocks, lanes, kw * groups, 4)[:, channel_order(lanes)]
    out[:] = ordered.swapaxes(1, 2)
    if apart:
        taps = out.reshape(blocks, kw * groups, 4, lanes // 4, 2, 2)
        out = aligned_zeros((blocks, kw * groups, 4, 2, lanes // 4, 2), np.int16)
        out[:] = np.moveaxis(taps, -1, 3)
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
    emit_matrix(low, x, a.zero, bn, w, None, requantise, output.place, (weights[1].tobytes(),))
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
    emit_matrix(
        low, x, zero, bn, w, None, sums, low.new(node.outputs[0], PLAIN), (weights[1].tobytes(),)
    )
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
    how = (op.transB, x.channels if flat else 0, weights[1].tobytes())
    if requantise.out == OUT_BYTES:
        output = Output(low, yn, PLAIN)
        emit_matrix(low, x, a.zero, bn, w, bias, requantise, output.place, how)
        output.done()
    else:
        emit_matrix(low, x, a.zero, bn, w, bias, requantise, low.new(yn, PLAIN), how)
    return None
