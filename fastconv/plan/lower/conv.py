"""Convolutions: geometry → the ``conv`` kernel's parameters, and weights → packed panels."""

from __future__ import annotations

from math import ceil, prod
from typing import Any

import numpy as np

from ... import kernels
from ...graph import Node
from ...graph.activation import Activation
from ...graph.ops.conv import Conv, ConvTranspose
from ...graph.tracing import pure
from ...graph.window import Window
from ...sizes import checked_size
from ..lowering import Lowering, Scaled, aligned_empty, aligned_zeros, lowers
from ..memory import CHANNELS_LAST, PLAIN, Place
from . import amx, amx_winograd, depthwise, dilated, vector, winograd

INF = float("inf")

#: Packed weights of one group of panels should stay in the second-level cache.
PANEL_BYTES = 1 << 20
#: Rows of one unit of work: enough tiles to pay for fetching its weights.
BLOCK_ROWS = 96
#: Output channels that the vector units compute at a time, where there are tile matrices too.
VECTOR = 16
#: Groups of so many channels take twice the time of their multiply-adds (measured, about).
FEW = 20
#: With at most this many input channels, kernel rows are merged into one tap each.
STAGE_CHANNELS = 8
#: A tile's inputs are gathered where there are at most so many channels, and products in a sum.
GATHER_CHANNELS, MOST_PRODUCTS = 4, 512


def epilogue(act: Activation | None) -> dict[str, Any]:
    """The epilogue fields of a kernel's parameters for an activation."""
    if act is None or act.kind == "none":
        return dict(act=0, lo=-INF, hi=INF, alpha=0.0, beta=0.0)
    if act.kind == "clip":
        return dict(act=act.code, lo=act.alpha, hi=act.beta, alpha=act.alpha, beta=act.beta)
    return dict(act=act.code, lo=-INF, hi=INF, alpha=act.alpha, beta=act.beta)


def triple(values: tuple[int, ...], fill: int) -> tuple[int, int, int]:
    """Spatial values padded in front to (depth, height, width)."""
    if len(values) == 2:
        return fill, values[0], values[1]
    padded = (fill,) * (3 - len(values)) + tuple(values)
    return padded  # type: ignore[return-value]


def pixel_strides(place: Place) -> tuple[int, int, int, int]:
    """Strides in elements of a channels-last place: (image, depth, height, width)."""
    shape, p = place.shape, place.pixel
    if len(shape) == 4:
        h, w = shape[2], shape[3]
        return h * w * p, h * w * p, w * p, p
    d, h, w = triple(shape[2:], 1)
    return d * h * w * p, h * w * p, w * p, p


def wide_panels(filters: int, isa: str) -> int:
    """How many of a group's panels are of 3 vectors; the others, behind them, are of 2.

    A tile of 3 vectors is faster where there are registers for it. A panel that is left with one
    vector is the slowest, so there is none of those beside others.
    """
    sizes = kernels.constants(isa)
    vectors = -(-filters // sizes["VW"])
    if not sizes["MR3"] or vectors in (1, 2, 4):
        return 0
    return (vectors - (0, 4, 2)[vectors % 3]) // 3


def pack_filters(w: np.ndarray, group: int, isa: str, wide: int = 0) -> np.ndarray:
    """Pack ``[filters][taps][channels]`` into ``[group][panel][taps][channels][NR]``.

    The first ``wide`` panels have 3 vectors of filters rather than 2.
    """
    nr, vw = kernels.constants(isa)["NR"], kernels.constants(isa)["VW"]
    filters, taps, channels = w.shape
    panels = wide + max(0, -((wide * 3 * vw - filters // group) // nr))
    out = aligned_empty((group, panels * nr + wide * vw, taps, channels))
    w = w.astype(np.float32, copy=False)
    kernels.packing(isa).pack_filters(w, group, out, 0, wide)
    return out


def pack_bias(bias: np.ndarray, group: int, isa: str) -> np.ndarray:
    """Pack ``[filters]`` into ``[group][panel][NR]`` with zeros beyond the last filter."""
    nr = kernels.constants(isa)["NR"]
    fg = bias.size // group
    panels = -(-fg // nr)
    out = aligned_zeros((group, panels * nr))
    out[:, :fg] = bias.reshape(group, fg)
    return out


def blocks(
    low: Lowering,
    rows: int,
    filters: int,
    group: int,
    depth: int,
    wide: int,
    target: int = BLOCK_ROWS,
) -> tuple[int, int]:
    """How work is cut: (rows per block, about ``target``; panels per block).

    Args:
        low: the plan in the making.
        rows, filters, group, depth: output pixels; filters, and products in a sum, of each group.
        wide: panels of 3 vectors.
        target: rows of a block.
    """
    return shares(
        rows, filters, group, depth, wide, target, low.threads, low.vector("NR"),
        low.vector("MR3" if wide else "MR"),
    )  # fmt: skip


@pure
def shares(
    rows: int, filters: int, group: int, depth: int, wide: int, target: int, threads: int,
    nr: int, mr: int,
) -> tuple[int, int]:  # fmt: skip
    """What ``blocks`` gives, for the sizes of a kernel build."""
    panels = wide + max(0, -((wide * nr // 2 * 3 - filters) // nr))
    block_panels = max(1, min(panels, PANEL_BYTES // max(1, depth * nr * 4)))
    block_rows = max(mr, ceil(rows / max(1, round(rows / target))))
    if threads == 1:
        return block_rows, block_panels
    # Enough units for every thread to get an even share. Each thread does some rows, which lie in
    # its cache, with all weights; or where these are more than all pixels, some panels.
    want = 4 * threads
    row_blocks = ceil(rows / block_rows)
    if row_blocks * group < want and depth * filters > rows * (depth + filters):
        parts = ceil(want / (row_blocks * group))
        block_panels = max(1, min(block_panels, panels // parts))
    panel_blocks = ceil(panels / block_panels)
    while block_rows > 2 * mr and ceil(rows / block_rows) * panel_blocks * group < want:
        block_rows = max(mr, ceil(block_rows / 2))
    return block_rows, block_panels


def pointer_table(
    low: Lowering, threads: int, taps: int, wide: int, block_rows: int, scaled: int = 0
) -> Place:
    """Scratch memory for where the rows of a block are read and written.

    And for a tile's inputs, where there are ``scaled`` channels to be scaled.
    """
    mr = low.vector("MR")
    tiles = ceil(block_rows / (low.vector("MR3") if wide else mr))
    each = checked_size((tiles * mr, max(1, taps) + 2), 8, "pointer table")
    each += checked_size((mr, scaled), 4, "scaled rows")
    return low.scratch(checked_size((threads, each), 1, "pointer table"), threads)


def rows_of_block(low: Lowering, rows: int) -> int:
    """About how many rows a block has: ``BLOCK_ROWS`` unless half or twice as many were faster."""
    if rows <= BLOCK_ROWS:
        return BLOCK_ROWS
    sizes = (BLOCK_ROWS, BLOCK_ROWS // 2, 2 * BLOCK_ROWS)
    costs = {f"rows{s}": 1 + 0.01 * k for k, s in enumerate(sizes)}
    return int(low.choose("rows", costs).removeprefix("rows"))


@lowers(Conv)
def conv(low: Lowering, node: Node) -> Any:
    op = node.op
    assert isinstance(op, Conv)
    xn, wn = node.inputs[0], node.inputs[1]
    bn = node.inputs[2] if len(node.inputs) > 2 else ""
    rn = node.inputs[3] if len(node.inputs) > 3 else ""
    xs, ws = low.shape(xn), low.shape(wn)
    weight = low.const(wn)
    if len(xs) > 5 or not low.all_float32(xn, wn, bn, rn) or 0 in (*xs, *ws):
        return False
    win = op.window(xs, ws)
    group, filters, channels = op.group, ws[0] // op.group, ws[1]
    fixed = weight is not None and (not bn or low.const(bn) is not None)
    if fixed and depthwise.suits_groups(low, win, channels, filters, group):
        x = low.place(xn, CHANNELS_LAST, dense=False)
        r = low.place(rn, CHANNELS_LAST, dense=False) if rn else None
        y = low.new(node.outputs[0], CHANNELS_LAST, strided=True)
        return depthwise.lower(low, x, wn, bn, r, y, win, op.activation)
    tiles = fixed and amx.usable(low)
    if tiles and channels >= amx.LEAST and not depthwise.suits(win, channels, filters, group):
        shape = amx.shape_of(xs, win.output, ws[0], group, win)
        assert weight is not None
        macs = min(winograd.costs(low, xs, win.output, ws[0], win, group).values())
        macs *= -(-filters // VECTOR) * VECTOR / filters
        if group > 1 and channels <= VECTOR:
            macs *= 1 + FEW / channels
        way = amx.choose(low, shape, weight, macs)
        if shape is not None and way:
            return lower_amx(low, node, shape, win if way == "winograd" else None)
    few = weight is not None and suits_stage(xs, op.group, win)
    if few and tiles and len(xs) == 4 and prod(ws[1:]) <= amx.RUN_MAX:
        shape = amx.shape_of(xs, win.output, ws[0], group, win)
        assert shape is not None
        assert weight is not None
        flat = amx.unrolled(shape)
        macs = prod(win.output) * xs[0] * prod(ws) * -(-ws[0] // VECTOR) * VECTOR / ws[0]
        if amx.choose(low, flat, weight, macs, "amx window"):
            x = stage(low, xn, win)
            y = low.new(node.outputs[0], CHANNELS_LAST, strided=True)
            r = low.place(rn, CHANNELS_LAST, dense=False) if rn else None
            xn_, _, xh, xw = pixel_strides(x)
            runs = amx.Runs(
                shape.kernel[0], shape.kernel[1] * shape.channels, xh * shape.dilations[0],
                xn_, xh * shape.strides[0], xw * shape.strides[1],
            )  # fmt: skip
            return amx.lower(low, x, wn, bn, r, y, flat, op.activation, runs)
    if few and fixed and not rn and suits_few(ws, win.output[-1], low.vector("FEW_LANES")):
        return lower_few(low, node, win)
    scaled = low.scaled(xn)
    if scaled and not (fixed and not few and suits_scale(scaled, ws, group, win)):
        scaled = None
    source = scaled.source if scaled else xn
    x = stage(low, xn, win) if few else low.place(source, CHANNELS_LAST, dense=False)
    r = low.place(rn, CHANNELS_LAST, dense=False) if rn else None
    y = low.new(node.outputs[0], CHANNELS_LAST, strided=True)
    if fixed and depthwise.suits(win, channels, filters, group):
        return depthwise.lower(low, x, wn, bn, r, y, win, op.activation)
    if fixed and vector.lower_conv(
        low, x, wn, lambda: bias_place(low, bn, group), r, y, win, group, op.activation
    ):
        return
    m = winograd.choose(low, xs, win.output, ws[0], win, group) if fixed and not few else 0
    if m:
        bias = bias_place(low, bn, group)
        return winograd.lower(low, x, wn, bias, r, y, win, m, op.activation)
    rank = len(win.kernel_shape)
    cut: tuple[slice, ...] = ()
    if weight is not None and not few:
        win, cut = prune(win, xs[2:])
    taps = prod(win.kernel_shape)
    kernel, pads = triple(win.kernel_shape, 1), triple(win.pads[:rank], 0)
    if few:
        channels, taps = channels * kernel[2], taps // kernel[2]
        kernel, pads = (*kernel[:2], 1), (0, 0, 0)
    if weight is None:
        # Weights that are computed: tap t, channel c of filter f lies at f*C*taps + c*taps + t.
        per = ws[1] * prod(win.kernel_shape)
        wide = 0
        wp = pack_at_run_time(
            low, low.place(wn, PLAIN), group, taps, channels, filters, filters * per, 1, taps, per
        )
    else:
        w: np.ndarray = weight[(slice(None), slice(None), *cut)]
        if fixed and not few and r is None and dilated.lower(
            low, x, w, (wn, *((c.start, c.stop) for c in cut)), bias_place(low, bn, group), y,
            win, group, op.activation,
        ):  # fmt: skip
            return None
        wide = wide_panels(filters, low.isa)
        wp = low.packed(
            ("conv", wn, group, taps, wide, *((c.start, c.stop) for c in cut)),
            lambda: pack_filters(
                np.moveaxis(w, 1, -1).reshape(ws[0], taps, channels), group, low.isa, wide
            ),
        )
    emit(
        low, x, wp, bias_place(low, bn, group), r, y,
        kernel=kernel, strides=triple(win.strides, 1),
        dilations=triple(win.dilations, 1), pads=pads,
        channels=channels, filters=filters, group=group, wide=wide, act=op.activation,
        scale=scaled.scale if scaled else None,
    )  # fmt: skip


def suits_scale(scaled: Scaled, weight: tuple[int, ...], group: int, win: Window) -> bool:
    """Whether the ``conv`` kernel can scale the input on its way: a matrix product in place.

    Each tile then meets all weights in turn, so there should be more pixels than these are wide.
    """
    plain = all(s == 1 for s in (*win.kernel_shape, *win.strides)) and not any(win.pads)
    only = scaled.per_image and scaled.shift is None and scaled.lo == -INF
    return plain and only and group == 1 and weight[0] <= prod(win.output)


def suits_few(weight: tuple[int, ...], width: int, lanes: int) -> bool:
    """Whether the inputs of tiles are to be gathered: rows are long enough, and channels few."""
    return weight[1] <= GATHER_CHANNELS and prod(weight[1:]) <= MOST_PRODUCTS and width >= lanes


def lower_few(low: Lowering, node: Node, win: Window) -> None:
    """One convolution of few channels, constant weights and no residual."""
    op = node.op
    assert isinstance(op, Conv)
    xn, wn, bn = (*node.inputs, "", "")[:3]
    weight = low.known[wn]
    filters, channels = weight.shape[:2]
    rank = len(win.kernel_shape)
    _, kh, kw = triple(win.kernel_shape, 1)
    _, sh, sw = triple(win.strides, 1)
    _, dh, _ = triple(win.dilations, 1)
    _, top, left = triple(win.pads[:rank], 0)
    depth = kh * channels * kw
    wp = low.packed(
        ("few", wn),
        lambda: pack_filters(
            np.moveaxis(weight.reshape(filters, channels, kh, kw), 1, 2).reshape(filters, 1, depth),
            1,
            low.isa,
        ),
    )
    x = low.place(xn)
    n, c = x.shape[:2]
    _, h, w = triple(x.shape[2:], 1)
    x_n, x_c, x_h, x_w = c * h * w, h * w, w, 1
    if x.layout == CHANNELS_LAST:
        x_n, x_c, x_h, x_w = h * w * x.pixel, 1, w * x.pixel, x.pixel
    y = low.new(node.outputs[0], CHANNELS_LAST, strided=True)
    _, oh, ow = triple(y.shape[2:], 1)
    yn, _, yh, yw = pixel_strides(y)
    # The inputs of a whole tile are read, also where the last pixels need fewer.
    lanes = low.vector("FEW_LANES")
    line = ceil(max(left + w, (ow + lanes) * sw + kw) / lanes + 1) * lanes
    macs = n * oh * ow * filters * depth
    threads = low.threads_for(macs)
    size = checked_size((threads, kh * channels * line + depth * lanes), 4, "lines")
    params = dict(
        n=n, h=h, w=w, channels=c, x_n=x_n, x_c=x_c, x_h=x_h, x_w=x_w, oh=oh, ow=ow,
        filters=filters, y_n=yn, y_h=yh, y_w=yw, kh=kh, kw=kw, stride_h=sh, stride_w=sw,
        dilation_h=dh, pad_h=top, pad_w=left, line=line, **epilogue(op.activation),
    )  # fmt: skip
    low.step(
        "conv_few", params, [x, wp, bias_place(low, bn, 1), low.scratch(size, threads), y],
        macs=macs, threads=threads,
    )  # fmt: skip


def lower_amx(low: Lowering, node: Node, shape: amx.Shape, win: Window | None) -> None:
    """One convolution on tile-matrix hardware; ``win``: by Winograd's algorithm."""
    op = node.op
    assert isinstance(op, Conv)
    xn, wn, bn, rn = (*node.inputs, "", "")[:4]
    scaled = low.scaled(xn) if win is None else None
    x = low.place(scaled.source if scaled else xn, CHANNELS_LAST, dense=False)
    r = low.place(rn, CHANNELS_LAST, dense=False) if rn else None
    y = low.new(node.outputs[0], CHANNELS_LAST, strided=True)
    if win is not None:
        bias = bias_place(low, bn, 1)
        amx_winograd.lower(low, x, wn, bias, r, y, shape, win, op.activation)
    else:
        amx.lower(low, x, wn, bn, r, y, shape, op.activation, scaled=scaled)


def prune(win: Window, size: tuple[int, ...]) -> tuple[Window, tuple[slice, ...]]:
    """Drop outer taps that meet padding alone (large dilations on small images).

    Returns the smaller window and the taps that it keeps on each axis.
    """
    if all(k == 1 for k in win.kernel_shape):
        return win, (slice(0, 1),) * len(size)
    cut, begin = [], []
    for a, n in enumerate(size):
        step, pad = win.dilations[a], win.pads[a]
        reach = (win.output[a] - 1) * win.strides[a]
        taps = range(win.kernel_shape[a])
        live = [t for t in taps if t * step - pad < n and t * step - pad + reach >= 0]
        first, last = (live[0], live[-1]) if live else (0, 0)
        cut.append(slice(first, last + 1))
        begin.append(pad - first * step)
    kernel = tuple(c.stop - c.start for c in cut)
    pads = (*begin, *win.pads[len(size) :])
    return Window(kernel, win.strides, win.dilations, pads, win.output), tuple(cut)


def suits_stage(x: tuple[int, ...], group: int, win: Window) -> bool:
    """Whether a convolution has so few channels that a zero-bordered copy of its input pays."""
    return (
        len(x) in (3, 4)
        and group == 1
        and x[1] <= STAGE_CHANNELS
        and win.kernel_shape[-1] > 1
        and win.dilations[-1] == 1
    )


def stage(low: Lowering, name: str, win: Window) -> Place:
    """The step that makes the zero-bordered copy; returns it as a channels-last place."""
    x = low.place(name)
    n, c = x.shape[:2]
    _, h, w = triple(x.shape[2:], 1)
    rank = len(win.kernel_shape)
    (_, top, left), (_, bottom, right) = triple(win.pads[:rank], 0), triple(win.pads[rank:], 0)
    shape = (n, c, h + top + bottom, w + left + right)
    y = low.buffer(checked_size(shape, 4, "padded input"))
    x_n, x_c, x_h, x_w = c * h * w, h * w, w, 1
    if x.layout == CHANNELS_LAST:
        x_n, x_c, x_h, x_w = h * w * x.pixel, 1, w * x.pixel, x.pixel
    place = Place(y, 0, shape, x.dtype, CHANNELS_LAST, c)
    low.step(
        "stage",
        dict(n=n, h=h, w=w, channels=c, x_n=x_n, x_c=x_c, x_h=x_h, x_w=x_w,
             out_h=shape[2], out_w=shape[3], pad_h=top, pad_w=left),
        [x, place],
        work=2 * place.nbytes,
    )  # fmt: skip
    return place


def bias_place(low: Lowering, name: str, group: int) -> Place | None:
    """The packed bias of a convolution, or None."""
    if not name:
        return None
    bias = low.const(name)
    if bias is None:
        filters = low.shape(name)[0] // group
        return pack_at_run_time(low, low.place(name, PLAIN), group, 1, 1, filters, filters, 0, 0, 1)
    return low.packed(("bias", name, group), lambda: pack_bias(bias, group, low.isa))


def pack_at_run_time(
    low: Lowering, b: Place, batch: int, taps: int, k: int, n: int,
    b_batch: int, b_tap: int, b_k: int, b_n: int,
) -> Place:  # fmt: skip
    """A step that packs computed weights into panels; strides in elements, see ``pack_b``."""
    nr = low.vector("NR")
    nbytes = checked_size((batch, -(-n // nr), taps, k, nr), 4, "packed weights")
    target = low.scratch(nbytes, 1)
    low.step(
        "pack_b",
        dict(batch=batch, taps=taps, k=k, n=n, b_batch=b_batch, b_tap=b_tap, b_k=b_k, b_n=b_n),
        [b, target],
        work=nbytes,
    )
    return target


def emit(
    low: Lowering,
    x: Place,
    weights: Place,
    bias: Place | None,
    residual: Place | None,
    y: Place,
    *,
    kernel: tuple[int, int, int],
    strides: tuple[int, int, int],
    dilations: tuple[int, int, int],
    pads: tuple[int, int, int],
    channels: int,
    filters: int,
    group: int,
    wide: int,
    act: Activation | None,
    out: tuple[int, int, int] | None = None,
    y_strides: tuple[int, int, int, int] | None = None,
    y_0: int = 0,
    scale: Place | None = None,
) -> None:
    """Append one ``conv`` step.

    ``out``, ``y_strides`` and ``y_0`` are for the phases of a transposed one; ``scale`` is what the
    input is multiplied by first, [N][C], where ``suits_scale``.
    """
    taps = prod(kernel)
    out = out or triple(y.shape[2:], 1)
    n = x.shape[0]
    rows = n * prod(out)
    if rows * filters == 0:
        return
    sizes = blocks(low, rows, filters, group, taps * channels, wide, rows_of_block(low, rows))
    xn, xd, xh, xw = pixel_strides(x)
    yn, yd, yh, yw = y_strides or pixel_strides(y)
    rn, rd, rh, rw = pixel_strides(residual) if residual is not None else (0, 0, 0, 0)
    d, h, w = triple(x.shape[2:], 1)
    y_linear = (yh, yd, yn) == (out[2] * yw, out[1] * out[2] * yw, prod(out) * yw)
    linear = (
        y_linear
        and kernel == (1, 1, 1)
        and strides == (1, 1, 1)
        and pads == (0, 0, 0)
        and out == (d, h, w)
    )
    params = dict(
        n=n, d=d, h=h, w=w, x_n=xn, x_d=xd, x_h=xh, x_w=xw,
        od=out[0], oh=out[1], ow=out[2], y_n=yn, y_d=yd, y_h=yh, y_w=yw, y_0=y_0,
        r_n=rn, r_d=rd, r_h=rh, r_w=rw, kd=kernel[0], kh=kernel[1], kw=kernel[2],
        stride_d=strides[0], stride_h=strides[1], stride_w=strides[2],
        dilation_d=dilations[0], dilation_h=dilations[1], dilation_w=dilations[2],
        pad_d=pads[0], pad_h=pads[1], pad_w=pads[2],
        channels=channels, filters=filters, group=group, wide=wide,
        x_g=channels, y_g=filters, r_g=filters, linear=2 if scale else int(linear),
        y_linear=int(y_linear),
        block_rows=sizes[0], block_panels=sizes[1], **epilogue(act),
    )  # fmt: skip
    zeros = scale or low.packed(("zeros", channels), lambda: aligned_zeros((channels,)))
    macs = rows * filters * group * taps * channels
    threads = low.threads_for(macs)
    scratch = pointer_table(low, threads, taps, wide, sizes[0], channels if scale else 0)
    low.step(
        "conv", params, [x, weights, bias, residual, zeros, scratch, y], macs=macs, threads=threads
    )


@lowers(ConvTranspose)
def conv_transpose(low: Lowering, node: Node) -> Any:
    """In a module of its own, as most networks have none."""
    from . import transposed

    return transposed.lower(low, node)
