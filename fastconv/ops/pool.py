"""Pooling."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from ..errors import InputError
from ..sizes import checked_size
from .run import Array, Ints, apply, apply_all, number, numbers, operator, spatial, unbatch


def max_pool1d(
    x: Array,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    threads: int | None = None,
) -> Any:
    """Maximum pooling of (N, C, L) or (C, L); see ``max_pool2d``."""
    return _max_pool(
        1, x, kernel_size, stride, padding, dilation, ceil_mode, return_indices, threads
    )


def max_pool2d(
    x: Array,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    threads: int | None = None,
) -> Any:
    """Maximum of each window; padding never wins, NaN always does.

    Args:
        x: (N, C, H, W) or (C, H, W).
        kernel_size, stride, padding, dilation: one number, or one per spatial axis; stride None
            means kernel_size, padding is at most half of kernel_size.
        ceil_mode: also take a last window that starts inside the input but leaves it.
        return_indices: return ``(maxima, indices)``: int64 positions in the flattened plane.

    Raises:
        InputError: an argument does not fit.
    """
    return _max_pool(
        2, x, kernel_size, stride, padding, dilation, ceil_mode, return_indices, threads
    )


def max_pool3d(
    x: Array,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    threads: int | None = None,
) -> Any:
    """Maximum pooling of (N, C, D, H, W) or (C, D, H, W); see ``max_pool2d``."""
    return _max_pool(
        3, x, kernel_size, stride, padding, dilation, ceil_mode, return_indices, threads
    )


def _max_pool(
    rank: int,
    x: Any,
    kernel_size: Ints,
    stride: Ints | None,
    padding: Ints,
    dilation: Ints,
    ceil_mode: bool,
    return_indices: bool,
    threads: int | None,
) -> Any:
    what = f"max_pool{rank}d"
    x, batched = spatial(what, x, rank)
    attrs = _pool_window(what, rank, kernel_size, stride, padding, ceil_mode)
    op = operator("MaxPool", dilations=numbers(what, "dilation", dilation, rank, 1), **attrs)
    if not return_indices:
        return unbatch(apply(what, op, [x], threads), batched)
    y, where = apply_all(what, op, [x], threads, n_outputs=2)
    where %= max(1, prod(x.shape[2:]))  # ONNX numbers all of (N, C, H, W), torch each plane
    return unbatch(y, batched), unbatch(where, batched)


def avg_pool1d(
    x: Array,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    *,
    threads: int | None = None,
) -> Array:
    """Average pooling of (N, C, L) or (C, L); see ``avg_pool2d``."""
    return _avg_pool(1, x, kernel_size, stride, padding, ceil_mode, count_include_pad, threads)


def avg_pool2d(
    x: Array,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    *,
    threads: int | None = None,
) -> Array:
    """Mean of each window.

    Args:
        x: (N, C, H, W) or (C, H, W).
        kernel_size, stride, padding: one number, or one per spatial axis; stride None means
            kernel_size, padding is at most half of kernel_size.
        ceil_mode: also take a last window that starts inside the input but leaves it.
        count_include_pad: whether the zeros of the padding count in the mean.

    Raises:
        InputError: an argument does not fit.
    """
    return _avg_pool(2, x, kernel_size, stride, padding, ceil_mode, count_include_pad, threads)


def avg_pool3d(
    x: Array,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    *,
    threads: int | None = None,
) -> Array:
    """Average pooling of (N, C, D, H, W) or (C, D, H, W); see ``avg_pool2d``."""
    return _avg_pool(3, x, kernel_size, stride, padding, ceil_mode, count_include_pad, threads)


def _avg_pool(
    rank: int,
    x: Any,
    kernel_size: Ints,
    stride: Ints | None,
    padding: Ints,
    ceil_mode: bool,
    count_include_pad: bool,
    threads: int | None,
) -> Array:
    what = f"avg_pool{rank}d"
    x, batched = spatial(what, x, rank)
    attrs = _pool_window(what, rank, kernel_size, stride, padding, ceil_mode)
    op = operator("AveragePool", count_include_pad=int(bool(count_include_pad)), **attrs)
    return unbatch(apply(what, op, [x], threads), batched)


def _pool_window(
    what: str, rank: int, kernel_size: Ints, stride: Ints | None, padding: Ints, ceil_mode: bool
) -> dict[str, Any]:
    kernel = numbers(what, "kernel_size", kernel_size, rank, 1)
    pads = numbers(what, "padding", padding, rank, 0)
    if any(2 * p > k for p, k in zip(pads, kernel, strict=True)):
        raise InputError(f"{what}: padding {padding} is more than half of kernel_size")
    strides = kernel if stride is None else numbers(what, "stride", stride, rank, 1)
    return {
        "kernel_shape": kernel,
        "strides": strides,
        "pads": pads * 2,
        "ceil_mode": int(bool(ceil_mode)),
    }


def adaptive_avg_pool2d(
    x: Array, output_size: int | Sequence[int | None] | None, *, threads: int | None = None
) -> Array:
    """Mean of windows that cut each axis into ``output_size`` pieces, as even as they get.

    Args:
        x: (N, C, H, W) or (C, H, W).
        output_size: one number or (height, width); None keeps the input's size.

    Raises:
        InputError: an argument does not fit.
    """
    what = "adaptive_avg_pool2d"
    x, batched = spatial(what, x, 2)
    if output_size is None or hasattr(output_size, "__index__"):
        output_size = (output_size, output_size)  # type: ignore[assignment]
    if not isinstance(output_size, Sequence) or len(output_size) != 2:
        raise InputError(f"{what}: output_size {output_size!r}: expected a number or a pair")
    sizes = [
        n if o is None else number(what, "output_size", o, 1)
        for o, n in zip(output_size, x.shape[2:], strict=True)
    ]
    if 0 in x.shape[2:]:
        raise InputError(f"{what}: x has no pixels: {list(x.shape)}")
    if sizes == [1, 1]:
        return unbatch(apply(what, operator("GlobalAveragePool"), [x], threads), batched)
    if all(n % o == 0 for o, n in zip(sizes, x.shape[2:], strict=True)):
        kernel = tuple(n // o for o, n in zip(sizes, x.shape[2:], strict=True))
        op = operator("AveragePool", kernel_shape=kernel, strides=kernel)
        return unbatch(apply(what, op, [x], threads), batched)
    checked_size((*x.shape[:2], *sizes), x.dtype.itemsize, f"{what}: output")
    for axis, o in zip((2, 3), sizes, strict=True):
        n = x.shape[axis]
        cuts = [(k * n // o, -(-(k + 1) * n // o)) for k in range(o)]
        before = (slice(None),) * axis
        x = np.stack([x[(*before, slice(a, b))].mean(axis) for a, b in cuts], axis)
    return unbatch(x, batched)
