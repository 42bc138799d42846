"""Fully-connected layers of one or a few rows: bound by reading their weights once from memory.

``gemv`` reads float32 weights packed as for ``conv`` and gives the same bits.

``gemv_fixed`` reads weights that come from far memory as whole numbers of 24 bits times a unit,
which an output's weights for 128 inputs share: three quarters of the bytes. Each weight is off by
at most 2**-24 of the largest of these (or 2**-126); as the sums of 128 products are summed apart,
results are nearer to exact ones than those of ``gemv``. ``accuracy="strict"`` goes without it.

``gemv_half`` reads weights stored in half precision (``load(..., weights="float16")``) and computes
in float32. Every column of the weights is first divided by the power of two that brings its largest
magnitude into [1, 2), and the sums are multiplied by it again, so that no weight is out of
float16's range: each is off by at most 2**-11 of its own magnitude, or 2**-25 of its column's
largest if that is more.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from math import prod

import numpy as np

from ... import kernels
from ...graph.activation import Activation
from ...graph.window import Window
from ..lowering import Lowering, aligned_empty, aligned_zeros
from ..memory import Place

#: More rows than this use the weights often enough to be bound by arithmetic.
MOST_ROWS = 16
#: Smaller matrices gain nothing from fewer bytes.
LEAST_SIZE = 1 << 14
#: Smaller matrices are read as fast in float32, from caches that are near (measured).
LEAST_FIXED = 1 << 19
#: The same in a model whose weights are too many for those caches (``low.streams``).
LEAST_STREAMED = 1 << 15
#: Weights that are packed at a time.
FIXED_BYTES = 1 << 20
#: Rows of weights handled at a time while packing.
CHUNK = 512

Rows = Callable[[int, int], np.ndarray]


def suits_half(low: Lowering, weight: np.ndarray | None, m: int, k: int, n: int) -> bool:
    """Whether the weights of a product [m, k] × [k, n] are stored in half precision."""
    if not low.half or weight is None or m > MOST_ROWS or k * n < LEAST_SIZE:
        return False
    with np.errstate(all="ignore"):
        return bool(np.isfinite(weight.min()) and np.isfinite(weight.max()))


def column_scales(rows: Rows, n: int, nr: int) -> np.ndarray:
    """The power of two for each of n columns, then ones up to whole panels of ``nr``."""
    scale = aligned_zeros((-(-n // nr) * nr,))
    scale += 1
    for f in range(0, n, CHUNK):
        largest = np.abs(rows(f, min(n, f + CHUNK))).max(axis=1)
        exponent = np.frexp(largest)[1] - 1
        part = np.ldexp(np.float32(1), np.clip(exponent, -126, 127))
        scale[f : f + part.size] = np.where(largest > 0, part, 1)
    return scale


def pack_half(rows: Rows, scale: np.ndarray, n: int, k: int, nr: int) -> np.ndarray:
    """Pack ``[n][k]`` over ``scale`` into ``[panel][k][nr]`` as binary16 (uint16).

    Args:
        rows: gives the rows from one number to another, float32.
        scale: from :func:`column_scales`.
        n, k: outputs and inputs of the layer.
        nr: columns of a panel.
    """
    panels = -(-n // nr)
    out = aligned_zeros((panels, k, nr), np.uint16)
    for p in range(panels):
        part = rows(p * nr, min(n, (p + 1) * nr)) / scale[p * nr : min(n, (p + 1) * nr), None]
        out[p, :, : part.shape[0]] = part.astype(np.float16).view(np.uint16).T
    return out


def gemv_half(
    low: Lowering,
    key: tuple[Hashable, ...],
    rows: Rows,
    x: Place,
    bias: Place | None,
    residual: Place | None,
    y: Place,
    sizes: tuple[int, int, int],
    row_strides: tuple[int, int, int],
    act: Activation | None,
) -> None:
    """Append one ``gemv_half`` step.

    Args:
        low: the plan in the making.
        key: names what the weights are made of.
        rows: gives the weights' rows (one per output) from one number to another.
        x, residual, y: rows of floats.
        bias: padded to whole panels, or None.
        sizes: (m, k, n).
        row_strides: floats from one row to the next of x, residual and y.
        act: what follows.
    """
    from .conv import epilogue

    m, k, n = sizes
    nr = low.vector("NR")
    scale = low.packed(("half scale", *key), lambda: column_scales(rows, n, nr))
    factors = scale.buffer.array
    assert factors is not None
    packed = low.packed(("half", *key), lambda: pack_half(rows, factors, n, k, nr))
    x_row, r_row, y_row = row_strides
    low.step(
        "gemv_half",
        dict(
            m=m, k=k, n=n, x_row=x_row, r_row=r_row, y_row=y_row, w_n=0, w_k=0, channels=0, gain=1,
            **epilogue(act),
        ),
        [x, packed, scale, bias, residual, y], work=2 * k * n, macs=m * k * n,
    )  # fmt: skip


class NotFinite(Exception):
    """Weights hold NaN or infinity: they stay in float32."""


def pack_fixed(
    low: Lowering, rows: Rows, n: int, k: int, stored: np.ndarray | None = None
) -> np.ndarray:
    """Pack ``[n][k]`` as ``gemv_fixed`` reads it (bytes).

    Args:
        low: the plan in the making.
        rows: gives the rows from one number to another, float32.
        n, k: outputs and inputs of the layer.
        stored: what the rows are made from, if it is [n][k] too: its memory is let go of by and by.

    Raises:
        NotFinite: a weight is NaN or infinite.
    """
    module = kernels.packing(low.isa)
    out = aligned_empty((module.fixed_bytes(n, k),), np.uint8)
    nr = low.vector("NR")
    step = max(1, FIXED_BYTES // (4 * k * nr)) * nr
    at = 0
    for a in range(0, n, step):
        b = min(n, a + step)
        end = at + module.fixed_bytes(b - a, k)
        if not module.pack_fixed(rows(a, b).reshape(b - a, 1, k), out[at:end]):
            raise NotFinite
        at = end
        if stored is not None:
            low.packs.done(stored[a:b])
    return out


def gemv_fixed(
    low: Lowering,
    key: tuple[Hashable, ...],
    name: str,
    rows: Rows,
    x: Place,
    bias: Callable[[], Place | None],
    residual: Place | None,
    y: Callable[[], Place],
    sizes: tuple[int, int, int],
    row_strides: tuple[int, int, int],
    act: Activation | None,
    by_rows: bool = True,
    channels: int = 0,
    gain: float = 1.0,
) -> bool:
    """Append one ``gemv_fixed`` step; False, having done nothing, where that does not suit.

    The arguments are as for :func:`gemv_half`, and

    Args:
        name: the constant that the rows are made from.
        bias, y: make these places.
        by_rows: whether it is [n][k].
        channels: of an input that lies as [pixel][channel] and whose weights do not; or 0.
        gain: what the constant is multiplied by.
    """
    from .conv import epilogue

    m, k, n = sizes
    weight = low.known[name]
    least = LEAST_STREAMED if low.streams else LEAST_FIXED
    if (
        low.strict or not weight.flags.c_contiguous or k * n < least or low.vector("VW") < 8
        or m > kernels.family_constants("matmul", low.isa)["FIXED_ROWS"]
        or low.packs.known_odd(weight)
    ):  # fmt: skip
        return False
    stored = weight.reshape(n, k) if by_rows else None
    try:
        packed = low.packed(("fixed", *key), lambda: pack_fixed(low, rows, n, k, stored))
    except NotFinite:
        low.packs.note_odd(weight)
        return False
    x_row, r_row, y_row = row_strides
    low.step(
        "gemv_fixed",
        dict(
            m=m, k=k, n=n, x_row=x_row, r_row=r_row, y_row=y_row, w_n=k if by_rows else 1,
            w_k=1 if by_rows else n, channels=channels, gain=gain, **epilogue(act),
        ),
        [x, packed, bias(), residual, low.as_stored(name), y()], work=3 * k * n, macs=m * k * n,
        units=n // (4 * low.vector("NR")) if m == 1 else None,  # four panels at a time
    )  # fmt: skip
    return True


def lower_conv(
    low: Lowering,
    x: Place,
    wn: str,
    bias: Callable[[], Place | None],
    residual: Place | None,
    y: Place,
    win: Window,
    group: int,
    act: Activation | None,
) -> bool:
    """A 1×1 convolution of images of one pixel as matrix times vector; False where it is none.

    Args:
        low: the plan in the making.
        x, residual, y: channels-last places.
        wn: name of the constant weights.
        bias: makes the packed bias.
        win, group: the convolution's.
        act: what follows.
    """
    from .conv import epilogue, pack_filters

    pixels = prod(x.shape[2:]) * prod(y.shape[2:]) * prod(win.kernel_shape)
    if group != 1 or pixels != 1 or any(win.pads):
        return False
    weight = low.known[wn]
    (m, k), n = x.shape[:2], y.shape[1]
    flat = weight.reshape(n, k)
    strides = x.pixel, residual.pixel if residual else 0, y.pixel
    if suits_half(low, weight, m, k, n):
        gemv_half(
            low, ("conv", wn), lambda a, b: flat[a:b], x, bias(), residual, y, (m, k, n), strides,
            act,
        )  # fmt: skip
        return True
    if gemv_fixed(
        low, ("conv", wn), wn, lambda a, b: flat[a:b], x, bias, residual, lambda: y, (m, k, n),
        strides, act,
    ):  # fmt: skip
        return True
    if m != 1:
        return False
    packed = low.packed(
        ("conv", wn, 1, 1, 0, *[(0, 1)] * len(win.kernel_shape)),
        lambda: pack_filters(weight.reshape(n, 1, k), 1, low.isa),
    )
    low.step(
        "gemv", dict(k=k, n=n, **epilogue(act)), [x, packed, bias(), residual, y],
        work=4 * k * n, macs=k * n,
    )  # fmt: skip
    return True
