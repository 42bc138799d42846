"""Depthwise convolution and groups of a few channels: geometry → parameters, packed weights."""

from __future__ import annotations

from math import ceil

import numpy as np

from ...graph.activation import Activation
from ...graph.tracing import pure
from ...graph.window import Window
from ..lowering import Lowering, aligned_zeros
from ..memory import Place

#: What the kernel takes: kernel columns, and strips side by side in a block.
MAX_KW, STRIP, MAX_TILES = 64, 8, 16
#: Vectors of so many lanes and more can be shuffled by one instruction.
SHUFFLED = 8
#: A multiply-add takes so many times as long as one of a matrix product.
SLOWER = 3
#: Input rows that a strip shares with the next output row should stay in the first-level cache.
CACHE_BYTES = 24 << 10
#: An image of so many bytes, for each thread, has left the second-level cache when it is read. (Of
#: several smaller ones each is fetched in order: asking for rows was no gain there, measured.)
FAR_BYTES = 15 << 16


def suits(win: Window, channels: int, filters: int, group: int) -> bool:
    """Whether the kernel handles this convolution: one filter per channel, 1-D or 2-D.

    Args:
        win: the window.
        channels: input channels per group.
        filters: output channels per group.
        group: number of groups.
    """
    small = channels == 1 and filters == 1 and group > 1
    return small and len(win.kernel_shape) <= 2 and win.kernel_shape[-1] <= MAX_KW


def suits_groups(low: Lowering, win: Window, channels: int, filters: int, group: int) -> bool:
    """Whether the kernel handles these groups: a vector holds one or several of them whole.

    Shuffling them within a vector takes about as long as using them twice.
    """
    vw = low.vector("VW")
    small = 1 < channels == filters <= vw and group > 1
    if not small or len(win.kernel_shape) > 2 or win.kernel_shape[-1] > MAX_KW:
        return False
    return channels == vw or (vw % channels == 0 and vw >= SHUFFLED)


def pack_groups(w: np.ndarray, vw: int) -> np.ndarray:
    """Pack ``[filters, each, *kernel_shape]`` into ``[taps][each][filters rounded up to vw]``."""
    filters, each = w.shape[:2]
    flat = w.reshape(filters, each, -1)
    out = aligned_zeros((flat.shape[2], each, -(-filters // vw) * vw))
    out[..., :filters] = flat.transpose(2, 1, 0)
    return out


def pack(w: np.ndarray, vw: int) -> np.ndarray:
    """Pack ``[channels, 1, *kernel_shape]`` into ``[taps][channels rounded up to vw]``."""
    channels = w.shape[0]
    flat = w.reshape(channels, -1)
    out = aligned_zeros((flat.shape[1], -(-channels // vw) * vw))
    out[:, :channels] = flat.T
    return out


def lower(
    low: Lowering,
    x: Place,
    wn: str,
    bn: str,
    residual: Place | None,
    y: Place,
    win: Window,
    act: Activation | None,
) -> None:
    """Append one ``depthwise`` step.

    Args:
        x, residual, y: channels-last places.
        wn, bn: names of the constant weight and bias ("" for none).
        win: the resolved window, 1-D or 2-D.
        act: what follows the residual, if anything.
    """
    from .conv import epilogue, pixel_strides, triple

    if y.size == 0:
        return
    vw = low.vector("VW")
    channels = x.shape[1]
    padded = -(-channels // vw) * vw
    weight, bias_array = low.const(wn), low.const(bn)
    assert weight is not None
    each = weight.shape[1]
    weights = low.packed(
        ("depthwise", wn), lambda: pack(weight, vw) if each == 1 else pack_groups(weight, vw)
    )
    bias = None
    if bias_array is not None:
        bias = low.packed(("depthwise bias", bn), lambda: pack(bias_array[:, None], vw))
    rank = len(win.kernel_shape)
    _, h, w = triple(x.shape[2:], 1)
    _, oh, ow = triple(y.shape[2:], 1)
    _, kh, kw = triple(win.kernel_shape, 1)
    _, stride_h, stride_w = triple(win.strides, 1)
    _, dilation_h, dilation_w = triple(win.dilations, 1)
    _, pad_h, pad_w = triple(win.pads[:rank], 0)
    xn, _, xh, xw = pixel_strides(x)
    yn, _, yh, yw = pixel_strides(y)
    rn, _, rh, rw = pixel_strides(residual) if residual is not None else (0, 0, 0, 0)
    n = x.shape[0]
    macs = y.size * kh * kw * each
    threads = low.threads_for(macs)
    block_rows, block_channels, block_tiles = blocks(
        n, oh, ow, channels, kh, (kw - 1) * dilation_w + 1, stride_w, dilation_h, vw, threads
    )
    params = dict(
        n=n, h=h, w=w, x_n=xn, x_h=xh, x_w=xw, oh=oh, ow=ow, y_n=yn, y_h=yh, y_w=yw,
        r_n=rn, r_h=rh, r_w=rw, kh=kh, kw=kw, stride_h=stride_h, stride_w=stride_w,
        dilation_h=dilation_h, dilation_w=dilation_w, pad_h=pad_h, pad_w=pad_w,
        channels=channels, tap=padded * each, each=each, lane=padded, block_rows=block_rows,
        block_channels=block_channels,
        block_tiles=block_tiles, far=int(4 * h * xh >= FAR_BYTES * threads), **epilogue(act),
    )  # fmt: skip
    kernel = "depthwise" if each == 1 else "grouped"
    work = SLOWER * macs
    low.step(kernel, params, [x, weights, bias, residual, y], work, macs=macs, threads=threads)


@pure
def blocks(
    n: int,
    oh: int,
    ow: int,
    channels: int,
    kh: int,
    extent: int,
    stride: int,
    dilation: int,
    vw: int,
    threads: int,
) -> tuple[int, int, int]:
    """How work is cut: (output rows, channels, strips side by side) of a block.

    Args:
        n, oh, ow: images, and rows and columns of the output.
        channels: number of channels.
        kh: kernel rows.
        extent: input columns that one output pixel spans.
        stride: input columns from one output pixel to the next.
        dilation: rows from one kernel row to the next.
        vw: vector lanes.
        threads: threads that share the work.
    """
    tiles = ceil(ow / STRIP)

    def rows_bytes(strips: int, width: int) -> int:
        pixels = min(strips * STRIP, ow)
        return kh * ((pixels - 1) * stride + extent) * width * 4

    # Wide windows share many columns with the strip beside them: better two strips of few channels.
    least = (2 if extent >= 6 * stride else 4) * vw
    width = max(vw, channels // vw * vw)
    while width > least and rows_bytes(1, width) > CACHE_BYTES:
        width = max(least, -(-width // (2 * vw)) * vw)
    if extent >= 6 * stride:
        width = min(width, least)
    strips = 1
    while strips < min(tiles, MAX_TILES) and rows_bytes(strips + 1, width) <= CACHE_BYTES:
        strips += 1
    if dilation > 1:
        # Rows share little with the next one down: whole rows, which lie in one piece.
        width, strips = max(vw, channels // vw * vw), MAX_TILES
    strips = ceil(tiles / ceil(tiles / strips))
    rows = oh
    if threads > 1 and n * oh * ow * 7 < channels:
        width = max(vw, min(width, channels // (4 * threads) // vw * vw))
    elif threads > 1:
        # By rows first, as convolutions are shared: what a core has written it reads soonest.
        per = n * max(1, channels // width)
        count = max(1, ceil(4 * threads / per), threads if n < threads <= oh else 1)
        rows = ceil(oh / min(oh, ceil(count / threads) * threads if n < threads else count))
    return rows, width, strips
