"""Transposed convolutions as convolutions of stride 1 writing every other pixel or whole rows.

Output pixels modulo the stride (phases) read a few taps each, so every phase is a convolution
(Dumoulin & Visin, arXiv:1603.07285). Where the taps of all phases of a row read the same input
pixels, as with a kernel as large as the stride, they are the columns of one matrix product whose
rows lie in the output as they are.
"""

from __future__ import annotations

from functools import partial
from math import gcd, prod
from typing import Any

import numpy as np

from ...graph import Node
from ...graph.activation import Activation
from ...graph.ops.conv import ConvTranspose
from ...graph.window import Window
from ..lowering import Lowering
from ..memory import CHANNELS_LAST, Place
from .conv import (
    bias_place,
    emit,
    epilogue,
    pack_bias,
    pack_filters,
    pixel_strides,
    triple,
    wide_panels,
)

Axis = tuple[list[int], int, int, int]


def lower(low: Lowering, node: Node) -> Any:
    """One ``gemv`` or ``conv`` step, or one per row or pixel of a stride."""
    op = node.op
    assert isinstance(op, ConvTranspose)
    xn, wn = node.inputs[0], node.inputs[1]
    bn = node.inputs[2] if len(node.inputs) > 2 else ""
    xs, ws = low.shape(xn), low.shape(wn)
    weight = low.const(wn)
    if len(xs) > 5 or not low.all_float32(xn, wn, bn) or weight is None or 0 in (*xs, *ws):
        return False
    win = op.window(xs, ws)
    group, filters, channels = op.group, ws[1], ws[0] // op.group
    x = low.place(xn, CHANNELS_LAST, dense=False)
    y = low.new(node.outputs[0], CHANNELS_LAST, strided=True)
    ks = triple(win.kernel_shape, 1)
    full = weight.reshape(group, channels, filters, *ks)
    act = op.activation
    costly = act is not None and act.kind != "clip"
    if group == 1 and y.dense and one_pixel(xs, win):
        return product(low, x, wn, bn, full, y, act)
    wide = group == 1 and y.dense and whole_rows(win, triple(y.shape[2:], 1)[2])
    columns = filters * (win.strides[-1] if wide else 1)
    # An activation of few columns would be computed for whole panels.
    later = costly and y.dense and columns <= low.vector("NR") // 2
    (rows if wide else phases)(low, x, wn, bn, full, y, win, group, None if later else act)
    if later:
        low.step("unary", dict(n=y.size, **epilogue(act)), [y, y], work=2 * y.nbytes)
    return None


def one_pixel(x: tuple[int, ...], win: Window) -> bool:
    """Whether the input is one pixel and the output the kernel, weighted by it."""
    dense = all(k == o and d == 1 for k, o, d in zip(
        win.kernel_shape, win.output, win.dilations, strict=True))  # fmt: skip
    return x[0] == prod(x[2:]) == 1 and dense and not any(win.pads)


def product(
    low: Lowering, x: Place, wn: str, bn: str, full: np.ndarray, y: Place, act: Activation | None
) -> None:
    """One pixel: a matrix of all taps and filters times a vector."""
    _, channels, filters, *ks = full.shape
    n = filters * prod(ks)
    packed = low.packed(
        ("conv_transpose", wn, "product"),
        lambda: pack_filters(np.moveaxis(full[0], (0, 1), (-1, -2)).reshape(n, 1, -1), 1, low.isa),
    )
    low.step(
        "gemv", dict(k=channels, n=n, **epilogue(act)),
        [x, packed, repeated_bias(low, bn, prod(ks)), None, y], work=4 * channels * n,
        macs=channels * n, units=n // (4 * low.vector("NR")),
    )  # fmt: skip


def repeated_bias(low: Lowering, name: str, times: int) -> Place | None:
    """The packed bias for the filters ``times`` over."""
    bias = low.const(name) if name else None
    if bias is None:
        return None
    return low.packed(
        ("conv_transpose bias", name, times), lambda: pack_bias(np.tile(bias, times), 1, low.isa)
    )


def whole_rows(win: Window, width: int) -> bool:
    """Whether pixel i of a row gives just the pixels from ``i * stride`` on, one tap each."""
    rank = len(win.kernel_shape)
    step = win.strides[-1]
    return (
        win.kernel_shape[-1] == step
        and win.dilations[-1] == 1
        and win.pads[rank - 1] == 0
        and width % step == 0
    )


def rows(
    low: Lowering,
    x: Place,
    wn: str,
    bn: str,
    full: np.ndarray,
    y: Place,
    win: Window,
    group: int,
    act: Activation | None,
) -> None:
    """One convolution for each phase of the rows, its columns being all pixels of a stride."""
    filters, channels, rank = full.shape[2], full.shape[1], len(win.kernel_shape)
    yn, yd, yh, yw = pixel_strides(y)
    ks, ss = triple(win.kernel_shape, 1), triple(win.strides, 1)
    ds, ps = triple(win.dilations, 1), triple(win.pads[:rank], 0)
    size = triple(y.shape[2:], 1)
    step = ss[2]
    wide = wide_panels(step * filters, low.isa)
    for phase in np.ndindex(*(min(s, n) for s, n in zip(ss[:2], size[:2], strict=True))):
        axes = [phase_axis(*a) for a in zip(phase, ks[:2], ss, ds, ps, size, strict=False)]
        index = [a[0] for a in axes]
        wp = low.packed(
            ("conv_transpose", wn, "rows", *map(tuple, index)),
            partial(pack_rows, full, index, low.isa, wide),
        )
        emit(
            low, x, wp, repeated_bias(low, bn, step), None, y,
            kernel=(len(index[0]), len(index[1]), 1), strides=(1, 1, 1),
            dilations=(axes[0][1], axes[1][1], 1), pads=(axes[0][2], axes[1][2], 0),
            channels=channels, filters=step * filters, group=1, wide=wide, act=act,
            out=(axes[0][3], axes[1][3], size[2] // step),
            y_strides=(yn, ss[0] * yd, ss[1] * yh, step * yw),
            y_0=phase[0] * yd + phase[1] * yh,
        )  # fmt: skip


def phases(
    low: Lowering,
    x: Place,
    wn: str,
    bn: str,
    full: np.ndarray,
    y: Place,
    win: Window,
    group: int,
    act: Activation | None,
) -> None:
    """One convolution for each phase of the output grid (its pixels modulo stride)."""
    filters, channels, rank = full.shape[2], full.shape[1], len(win.kernel_shape)
    wide = wide_panels(filters, low.isa)
    bias = bias_place(low, bn, group)
    yn, *ys = pixel_strides(y)
    ks, ss = triple(win.kernel_shape, 1), triple(win.strides, 1)
    ds, ps = triple(win.dilations, 1), triple(win.pads[:rank], 0)
    size = triple(y.shape[2:], 1)
    for phase in np.ndindex(*(min(s, n) for s, n in zip(ss, size, strict=True))):
        axes = [phase_axis(*a) for a in zip(phase, ks, ss, ds, ps, size, strict=True)]
        index = [a[0] for a in axes]
        wp = low.packed(
            ("conv_transpose", wn, group, tuple(map(tuple, index))),
            partial(pack_phase, full, index, low.isa, wide),
        )
        emit(
            low, x, wp, bias, None, y,
            kernel=triple(tuple(len(i) for i in index), 1), strides=(1, 1, 1),
            dilations=triple(tuple(a[1] for a in axes), 1),
            pads=triple(tuple(a[2] for a in axes), 0),
            channels=channels, filters=filters, group=group, wide=wide, act=act,
            out=triple(tuple(a[3] for a in axes), 1),
            y_strides=(yn, *(s * t for s, t in zip(ys, ss, strict=True))),  # type: ignore[arg-type]
            y_0=sum(f * t for f, t in zip(phase, ys, strict=True)),
        )  # fmt: skip


def pack_rows(w: np.ndarray, index: list[list[int]], isa: str, wide: int) -> np.ndarray:
    """Pack the taps ``index`` (of depth and height) and all of the width, which are columns, of
    ``[1][channels][filters][kd][kh][kw]``."""
    part = w[0][:, :, index[0]][:, :, :, index[1]].transpose(4, 1, 2, 3, 0)
    columns = part.shape[0] * part.shape[1]
    return pack_filters(part.reshape(columns, -1, w.shape[1]), 1, isa, wide)


def pack_phase(w: np.ndarray, index: list[list[int]], isa: str, wide: int) -> np.ndarray:
    """Pack the taps ``index`` (by axis) of ``[group][channels][filters][kd][kh][kw]``."""
    group, channels, filters = w.shape[:3]
    at: tuple[Any, ...] = (slice(None), slice(None), slice(None), *np.ix_(*index))
    part = w[at].reshape(group, channels, filters, prod(map(len, index)))
    part = part.transpose(0, 2, 3, 1).reshape(group * filters, -1, channels)
    return pack_filters(part, group, isa, wide)


def phase_axis(phase: int, k: int, stride: int, dilation: int, pad: int, size: int) -> Axis:
    """One axis of one phase: (taps that reach it, input step per tap, pad, output pixels).

    Output o = phase + stride*i reads input (o + pad - tap*dilation) / stride where that is whole;
    the taps for which it is are an arithmetic progression, so their inputs are one too.
    """
    taps = [t for t in range(k) if (phase + pad - t * dilation) % stride == 0]
    step = -(dilation // gcd(dilation, stride))
    first = (phase + pad - taps[0] * dilation) // stride if taps else 0
    return taps, step, -first, max(0, -((phase - size) // stride))
