"""Convolutions whose taps mostly meet padding: one product per tap, of the pixels that it reaches.

With a dilation near the size of the image (the pyramids of DeepLab, Chen et al., arXiv:1706.05587)
an outer tap lies outside the image for most output pixels. Each tap's product is added to what the
taps before it gave, on its own rectangle; the tap that reaches every pixel comes last, with bias
and activation.
"""

from __future__ import annotations

from functools import partial
from math import prod
from typing import Any

import numpy as np

from ...graph.activation import Activation
from ...graph.window import Window
from ...records import replace
from ...sizes import checked_size
from ..lowering import Lowering
from ..memory import CHANNELS_LAST, Place

#: Products below this share of all are worth reading and writing the sums once per tap.
SHARE = 0.7
#: With fewer channels the sums cost as much as the products.
LEAST_CHANNELS = 64

Range = tuple[int, int]


def reached(win: Window, size: tuple[int, ...]) -> list[list[Range]]:
    """For each axis and tap, the output pixels (first, end) whose input is in the image."""
    ranges = []
    for a, n in enumerate(size):
        step, dilation, pad = win.strides[a], win.dilations[a], win.pads[a]
        axis = []
        for t in range(win.kernel_shape[a]):
            first = max(0, -(-(pad - t * dilation) // step))
            end = min(win.output[a], (n - 1 + pad - t * dilation) // step + 1)
            axis.append((first, max(first, end)))
        ranges.append(axis)
    return ranges


def order(win: Window, size: tuple[int, ...]) -> list[tuple[int, ...]] | None:
    """The taps in the order of their products, or None where one product of all is as good."""
    if len(size) != 2 or max(win.dilations) == 1 or prod(win.kernel_shape) < 3:
        return None
    ranges = reached(win, size)
    taps = list(np.ndindex(*win.kernel_shape))
    work = {t: prod(e - f for f, e in (r[i] for r, i in zip(ranges, t, strict=True))) for t in taps}
    full = prod(win.output)
    last = [t for t in taps if work[t] == full]
    if not last:
        return None
    rest = sorted((t for t in taps if t != last[-1]), key=lambda t: -work[t])
    # The first is computed for all pixels, which clears the sums of the others.
    total = 2 * full + sum(work[t] for t in rest[1:])
    if total > SHARE * full * len(taps):
        return None
    return [*(t for t in rest if work[t]), last[-1]]


def lower(
    low: Lowering,
    x: Place,
    weight: np.ndarray,
    key: tuple[Any, ...],
    bias: Place | None,
    y: Place,
    win: Window,
    group: int,
    act: Activation | None,
) -> bool:
    """Append one ``conv`` step for each tap; False where one for all is as good.

    Args:
        low: the plan in the making.
        x, y: channels-last places.
        weight: (filters, channels per group, kh, kw), pruned of taps that reach nothing.
        key: names the weights in the cache of packed ones.
        bias: packed, or None.
        win: the window, pruned.
        group: number of groups.
        act: what follows.
    """
    from .conv import emit, pack_filters, pixel_strides, wide_panels

    filters, channels = weight.shape[0], weight.shape[1]
    if channels < LEAST_CHANNELS:
        return False
    taps = order(win, x.shape[2:])
    if taps is None or len(taps) < 2:
        return False
    ranges = reached(win, x.shape[2:])
    nbytes = checked_size(y.shape, 4, "sums of taps")
    sums = Place(low.buffer(nbytes), 0, y.shape, y.dtype, CHANNELS_LAST, y.shape[1])
    _, _, sh, sw = pixel_strides(sums)
    wide = wide_panels(filters // group, low.isa)
    for k, (i, j) in enumerate(taps):
        last = k == len(taps) - 1
        whole = last or k == 0
        (top, bottom), (left, right) = ranges[0][i], ranges[1][j]
        if whole:
            top, bottom, left, right = 0, win.output[0], 0, win.output[1]
        at = top * sh + left * sw
        target = y if last else sums
        before = None if k == 0 else replace(sums, start=sums.start + 4 * at)
        packed = low.packed(
            ("conv tap", *key, i, j),
            partial(pack_filters, weight[:, None, :, i, j], group, low.isa, wide),
        )
        emit(
            low, x, packed, bias if last else None, before, target,
            kernel=(1, 1, 1), strides=(1, *win.strides),  # type: ignore[arg-type]
            dilations=(1, 1, 1),
            pads=(
                0,
                win.pads[0] - top * win.strides[0] - i * win.dilations[0],
                win.pads[1] - left * win.strides[1] - j * win.dilations[1],
            ),
            channels=channels, filters=filters // group, group=group, wide=wide,
            act=act if last else None,
            out=(1, bottom - top, right - left), y_strides=pixel_strides(target),
            y_0=0 if last else at,
        )  # fmt: skip
    return True
