"""Convolutions and transposed convolutions."""

from __future__ import annotations

from typing import Any

from ..errors import InputError
from .run import (
    Array,
    Ints,
    apply,
    need_weight,
    number,
    numbers,
    operator,
    spatial,
    unbatch,
    weight_array,
)


def conv1d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Ints = 1,
    padding: Ints | str = 0,
    dilation: Ints = 1,
    groups: int = 1,
    *,
    threads: int | None = None,
) -> Array:
    """Convolution of (N, C, L) or (C, L); see ``conv2d``."""
    return _conv(1, x, weight, bias, stride, padding, dilation, groups, threads)


def conv2d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Ints = 1,
    padding: Ints | str = 0,
    dilation: Ints = 1,
    groups: int = 1,
    *,
    threads: int | None = None,
) -> Array:
    """Convolution (cross-correlation) over two spatial axes.

    Args:
        x: (N, C, H, W) or (C, H, W).
        weight: (filters, C/groups, kernel height, kernel width).
        bias: (filters,).
        stride, dilation: one number, or one per spatial axis.
        padding: zeros on both sides of each axis; ``"valid"`` for none, ``"same"`` for an output of
            the input's size (stride 1 only; an odd one goes to the end).
        groups: both C and filters are cut into this many groups.

    Returns:
        (N, filters, H', W'), or without N.

    Raises:
        InputError: an argument does not fit.
    """
    return _conv(2, x, weight, bias, stride, padding, dilation, groups, threads)


def conv3d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Ints = 1,
    padding: Ints | str = 0,
    dilation: Ints = 1,
    groups: int = 1,
    *,
    threads: int | None = None,
) -> Array:
    """Convolution of (N, C, D, H, W) or (C, D, H, W); see ``conv2d``."""
    return _conv(3, x, weight, bias, stride, padding, dilation, groups, threads)


def conv_transpose1d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
    *,
    threads: int | None = None,
) -> Array:
    """Transposed convolution of (N, C, L) or (C, L); see ``conv_transpose2d``."""
    return _transposed(
        1, x, weight, bias, stride, padding, output_padding, groups, dilation, threads
    )


def conv_transpose2d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
    *,
    threads: int | None = None,
) -> Array:
    """Transposed convolution, the gradient of ``conv2d`` with respect to its input.

    Args:
        x: (N, C, H, W) or (C, H, W).
        weight: (C, filters/groups, kernel height, kernel width).
        bias: (filters,).
        stride, dilation: one number, or one per spatial axis.
        padding: rows and columns taken off both sides of the output.
        output_padding: what to add to the end of each axis; less than stride or dilation.
        groups: both C and filters are cut into this many groups.

    Raises:
        InputError: an argument does not fit.
    """
    return _transposed(
        2, x, weight, bias, stride, padding, output_padding, groups, dilation, threads
    )


def conv_transpose3d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
    *,
    threads: int | None = None,
) -> Array:
    """Transposed convolution of (N, C, D, H, W) or (C, D, H, W); see ``conv_transpose2d``."""
    return _transposed(
        3, x, weight, bias, stride, padding, output_padding, groups, dilation, threads
    )


def _conv(
    rank: int,
    x: Any,
    weight: Any,
    bias: Any,
    stride: Ints,
    padding: Ints | str,
    dilation: Ints,
    groups: int,
    threads: int | None,
) -> Array:
    what = f"conv{rank}d"
    x, batched = spatial(what, x, rank)
    weight = need_weight(what, x, weight, rank + 2)
    bias = weight_array(what, x, "bias", bias, 1)
    strides = numbers(what, "stride", stride, rank, 1)
    dilations = numbers(what, "dilation", dilation, rank, 1)
    pads: tuple[int, ...] | None = None
    auto_pad = "NOTSET"
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise InputError(f'{what}: padding {padding!r}: expected "same", "valid" or numbers')
        if padding == "same":
            if any(s != 1 for s in strides):
                raise InputError(f'{what}: padding "same" needs stride 1, not {stride}')
            auto_pad = "SAME_UPPER"
    else:
        pads = numbers(what, "padding", padding, rank, 0) * 2
    op = operator(
        "Conv",
        auto_pad=auto_pad,
        pads=pads,
        strides=strides,
        dilations=dilations,
        group=number(what, "groups", groups, 1),
    )
    return unbatch(apply(what, op, [x, weight, bias], threads, weights=(1, 2)), batched)


def _transposed(
    rank: int,
    x: Any,
    weight: Any,
    bias: Any,
    stride: Ints,
    padding: Ints,
    output_padding: Ints,
    groups: int,
    dilation: Ints,
    threads: int | None,
) -> Array:
    what = f"conv_transpose{rank}d"
    x, batched = spatial(what, x, rank)
    weight = need_weight(what, x, weight, rank + 2)
    bias = weight_array(what, x, "bias", bias, 1)
    strides = numbers(what, "stride", stride, rank, 1)
    dilations = numbers(what, "dilation", dilation, rank, 1)
    extra = numbers(what, "output_padding", output_padding, rank, 0)
    if any(e >= max(s, d) for e, s, d in zip(extra, strides, dilations, strict=True)):
        raise InputError(
            f"{what}: output_padding {output_padding} must be less than stride {stride} "
            f"or dilation {dilation}"
        )
    op = operator(
        "ConvTranspose",
        pads=numbers(what, "padding", padding, rank, 0) * 2,
        strides=strides,
        dilations=dilations,
        output_padding=extra,
        group=number(what, "groups", groups, 1),
    )
    return unbatch(apply(what, op, [x, weight, bias], threads, weights=(1, 2)), batched)
