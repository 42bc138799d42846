"""DeformConv: the input sampled at every tap, a band of rows at a time, then a 1×1 convolution."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from ...graph import Node
from ...graph.ops.vision import DeformConv
from ...graph.window import resolve_window
from ...sizes import checked_size
from ..lowering import F32, Lowering, aligned_zeros, lowers
from ..memory import CHANNELS_LAST, Place
from .conv import bias_place, emit, pack_filters, wide_panels

#: Samples of a band: they should stay in the second-level cache until they are multiplied.
BAND_BYTES = 1 << 20


@lowers(DeformConv)
def deform_conv(low: Lowering, node: Node) -> Any:
    op = node.op
    assert isinstance(op, DeformConv)
    xn, wn, on, bn, mn = [*node.inputs, "", ""][:5]
    weight = low.const(wn)
    xs, ws = low.shape(xn), low.shape(wn)
    if weight is None or not low.all_float32(xn, wn, on, bn, mn) or 0 in (*xs, *ws):
        return False
    win = resolve_window(xs[2:], ws[2:], op.strides, op.dilations, op.pads)
    if 0 in win.output:
        return False
    taps, filters = prod(ws[2:]), ws[0] // op.group
    depth = ws[1] * taps
    (_, channels, h, w), (oh, ow) = xs, win.output
    x = low.place(xn, CHANNELS_LAST, dense=False)
    offset = low.place(on, CHANNELS_LAST, dense=False)
    mask = low.place(mn, CHANNELS_LAST, dense=False) if mn else None
    y = low.new(node.outputs[0], CHANNELS_LAST, strided=True)
    y_w = y.pixel
    wide = wide_panels(filters, low.isa)
    packed = low.packed(
        ("deform", wn, op.group, wide),
        lambda: pack_filters(
            np.moveaxis(weight, 1, -1).reshape(ws[0], 1, depth), op.group, low.isa, wide
        ),
    )
    bias = bias_place(low, bn, op.group)
    zeros = low.packed(("zeros", channels), lambda: aligned_zeros((channels,)))
    line = checked_size((ow, op.group, depth), 4, "sampled input")
    rows = max(1, min(oh, BAND_BYTES // line))
    params = dict(
        h=h, w=w, channels=channels, pixel=x.pixel, oh=oh, ow=ow, kh=ws[2], kw=ws[3],
        stride_h=win.strides[0], stride_w=win.strides[1], dilation_h=win.dilations[0],
        dilation_w=win.dilations[1], pad_h=win.pads[0], pad_w=win.pads[1], group=op.group,
        offset_group=op.offset_group, offset_pixel=offset.pixel,
        mask_pixel=mask.pixel if mask else 0,
    )  # fmt: skip
    for n in range(xs[0]):
        for first in range(0, oh, rows):
            now = min(rows, oh - first)
            shape = (1, op.group * depth, now, ow)
            samples = Place(low.buffer(now * line), 0, shape, F32, CHANNELS_LAST, shape[1])
            low.step(
                "deform", dict(params, image=n, first=first, rows=now),
                [x, offset, mask, zeros, samples],
                work=4 * now * line,
            )  # fmt: skip
            emit(
                low, samples, packed, bias, None, y,
                kernel=(1, 1, 1), strides=(1, 1, 1), dilations=(1, 1, 1), pads=(0, 0, 0),
                channels=depth, filters=filters, group=op.group, wide=wide, act=None,
                out=(1, now, ow), y_strides=(now * y_w * ow, now * y_w * ow, y_w * ow, y_w),
                y_0=(n * oh + first) * ow * y_w,
            )  # fmt: skip
    return None
