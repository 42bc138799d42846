"""Softmax and its kin, and the normalisations: any layout in, mostly the same layout out."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from ...graph import Node
from ...graph.activation import Activation
from ...graph.op import normalize_axis
from ...graph.ops.norm import (
    LRN,
    BatchNormalization,
    FlatLogSoftmax,
    FlatOp,
    FlatSoftmax,
    GroupNormalization,
    GroupNormalization18,
    InstanceNormalization,
    LayerNormalization,
    LogSoftmax,
    LpNormalization,
    MeanVarianceNormalization,
    RMSNormalization,
    RowNormalization,
    Softmax,
)
from ...sizes import checked_size
from ..lowering import F32, Lowering, Scaled, lowers
from ..memory import CHANNELS_LAST, PLAIN, Place
from . import amx
from .conv import INF, epilogue
from .reduce import extent, place_for

#: As in kernels/norm.pyx.
SOFTMAX, LOG_SOFTMAX, LP1, LP2 = range(4)

#: Pixels whose statistics are taken together, plain and channels-last: the second pass over them
#: finds them in the cache.
STATS_PIXELS = {PLAIN: 2048, CHANNELS_LAST: 512}


def emit_axis(low: Lowering, node: Node, kind: int, axes: Sequence[int]) -> Any:
    """One ``axis_norm`` step over axes that lie together in memory."""
    name = node.inputs[0]
    shape = low.shape(name)
    if not low.all_float32(name) or prod(shape) == 0:
        return False
    found = place_for(low, name, axes, list(dict.fromkeys([low.layout_of(name), PLAIN])))
    if found is None:
        return False
    x, e = found
    y = low.new(node.outputs[0], x.layout, x.channels)
    out = extent(shape, axes, y.layout)
    assert out is not None
    if (out.outer, out.count, out.inner) != (e.outer, e.count, e.inner):
        # The input has gaps and the output has none: [rows][channels] describes both.
        out = e.__class__(e.outer, e.count, e.inner, e.count * e.inner, e.inner)
    low.step(
        "axis_norm",
        dict(
            outer=e.outer, count=e.count, inner=e.inner, x_outer=e.outer_step, x_count=e.count_step,
            y_outer=out.outer_step, y_count=out.count_step, kind=kind,
        ),
        [x, y], work=8 * x.nbytes,
    )  # fmt: skip


@lowers(Softmax, LogSoftmax, LpNormalization)
def over_axis(low: Lowering, node: Node) -> Any:
    op = node.op
    assert isinstance(op, (Softmax, LogSoftmax, LpNormalization))
    if isinstance(op, LpNormalization):
        kind = LP1 if op.p == 1 else LP2
    else:
        kind = SOFTMAX if isinstance(op, Softmax) else LOG_SOFTMAX
    return emit_axis(low, node, kind, [normalize_axis(op.axis, len(low.shape(node.inputs[0])))])


@lowers(FlatSoftmax, FlatLogSoftmax)
def flat_softmax(low: Lowering, node: Node) -> Any:
    op = node.op
    assert isinstance(op, FlatOp)
    rank = len(low.shape(node.inputs[0]))
    kind = SOFTMAX if isinstance(op, FlatSoftmax) else LOG_SOFTMAX
    return emit_axis(low, node, kind, range(op.first(rank), rank))


def emit_scale(
    low: Lowering,
    x: Place,
    y: Place,
    scale: Place,
    shift: Place,
    per_image: bool,
    act: Activation | None,
) -> None:
    """One ``scale_shift`` step; x and y are plain (N, C, …) or channels-last."""
    n, c = (x.shape[0], x.shape[1]) if len(x.shape) > 1 else (prod(x.shape), 1)
    s = prod(x.shape[2:])
    plain = x.layout == PLAIN and s > 1
    low.step(
        "scale_shift",
        dict(
            n=n, c=c, s=s, x_s=x.pixel or c, y_s=y.pixel or c, scale_n=c if per_image else 0,
            plain=int(plain), **epilogue(act),
        ),
        [x, scale, shift, y], work=2 * x.nbytes,
    )  # fmt: skip


def image_place(low: Lowering, name: str) -> Place:
    """A value of (N, C, …) in the layout it has, channels-last with gaps or plain."""
    if low.layout_of(name) == CHANNELS_LAST:
        return low.place(name, CHANNELS_LAST, dense=False)
    return low.place(name, PLAIN)


@lowers(BatchNormalization)
def batch_normalization(low: Lowering, node: Node) -> Any:
    op = node.op
    assert isinstance(op, BatchNormalization)
    xn, *rest = node.inputs
    parts = [low.const(r) for r in rest]
    if not low.all_float32(xn, *rest) or prod(low.shape(xn)) == 0:
        return False
    if any(p is None for p in parts):
        return False
    scale, b, mean, var = (np.asarray(p, np.float64) for p in parts)
    key = ("batch_norm", *rest, op.epsilon)

    def factors() -> np.ndarray:
        with np.errstate(all="ignore"):
            f = scale / np.sqrt(var + op.epsilon)
            return np.stack([f, b - mean * f]).astype(np.float32)

    both = low.packs.get(key, factors)
    f, shift = low.constant(both[0]), low.constant(both[1])
    act, output = op.activation, node.outputs[0]

    def compute() -> None:
        x = image_place(low, xn)
        emit_scale(low, x, low.new(output, x.layout), f, shift, False, act)

    rectified = act is not None and act.kind == "clip" and act.alpha <= 0 and act.beta == INF
    if (
        (act is None or rectified)
        and amx.may_scale(low, output)
        and low.layout_of(xn) == CHANNELS_LAST
        and np.isfinite(both).all()
    ):
        lo = act.alpha if act is not None else -INF
        return low.postpone(output, Scaled(node, xn, f, False, shift, lo, compute))
    compute()
    return None


def emit_moments(
    low: Lowering,
    node: Node,
    *,
    group: int,
    scale: Place | None = None,
    bias: Place | None = None,
    per_group: bool = False,
    across: bool = False,
    epsilon: float = 0.0,
    std_epsilon: float = 0.0,
    act: Activation | None = None,
) -> None:
    """Statistics of blocks of pixels, their merging into a scale and a shift, and those applied.

    Three steps, because each needs the one before whole. ``group`` channels share statistics,
    with ``across`` over all images.
    """
    x = image_place(low, node.inputs[0])
    n, c, s = x.shape[0], x.shape[1], prod(x.shape[2:])
    pixels = STATS_PIXELS[x.layout]
    blocks = -(-s // pixels)
    stats = Place(
        low.buffer(checked_size((n, blocks, 2, c), 4, "statistics")), 0, (n, blocks, 2, c), F32
    )
    block = dict(n=n, c=c, s=s, block=pixels)
    low.step(
        "channel_stats",
        dict(**block, x_s=x.pixel or c, plain=int(x.layout == PLAIN)),
        [x, stats],
        work=2 * x.nbytes,
    )
    both = Place(low.buffer(checked_size((2, n, c), 4, "scales")), 0, (2, n, c), F32)
    low.step(
        "group_affine",
        dict(
            **block, group=group, across=int(across), per_group=int(per_group), epsilon=epsilon,
            std_epsilon=std_epsilon,
        ),
        [stats, scale, bias, both], work=4 * stats.nbytes,
    )  # fmt: skip
    y = low.new(node.outputs[0], x.layout)
    shift = Place(both.buffer, n * c * 4, (n, c), F32)
    emit_scale(low, x, y, both, shift, True, act)


@lowers(InstanceNormalization, GroupNormalization, GroupNormalization18)
def group_normalization(low: Lowering, node: Node) -> Any:
    op = node.op
    assert isinstance(op, (InstanceNormalization, GroupNormalization))
    xn, sn, bn = node.inputs
    shape = low.shape(xn)
    if not low.all_float32(xn, sn, bn) or prod(shape) == 0:
        return False
    emit_moments(
        low,
        node,
        group=1 if isinstance(op, InstanceNormalization) else shape[1] // op.num_groups,
        scale=low.place(sn, PLAIN),
        bias=low.place(bn, PLAIN),
        per_group=isinstance(op, GroupNormalization18),
        epsilon=op.epsilon,
        act=op.activation,
    )


@lowers(MeanVarianceNormalization)
def mean_variance(low: Lowering, node: Node) -> Any:
    op = node.op
    assert isinstance(op, MeanVarianceNormalization)
    shape = low.shape(node.inputs[0])
    if not low.all_float32(node.inputs[0]) or prod(shape) == 0 or len(shape) < 2:
        return False
    axes = op.resolve(len(shape))
    spatial = tuple(range(2, len(shape)))
    if axes not in (spatial, (0, *spatial), (1, *spatial), (0, 1, *spatial)):
        return False
    group = shape[1] if 1 in axes else 1
    emit_moments(low, node, group=group, across=0 in axes, std_epsilon=1e-9)


@lowers(LayerNormalization, RMSNormalization)
def row_normalization(low: Lowering, node: Node) -> Any:
    op = node.op
    assert isinstance(op, RowNormalization)
    xn, sn, *more = node.inputs
    bn = more[0] if more else ""
    shape = low.shape(xn)
    if not low.all_float32(xn, sn, bn) or prod(shape) == 0 or op.stash_type != 1:
        return False
    wanted = tuple(shape[op.axes(len(shape))[0] :])
    scale = row_vector(low, sn, wanted)
    bias = row_vector(low, bn, wanted) if bn else None
    if scale is None or (bn and bias is None):
        return False
    x = low.place(xn, PLAIN)
    y = low.new(node.outputs[0])
    extra = [low.new(o) if o else None for o in node.outputs[1:]]
    cols = prod(wanted)
    low.step(
        "layer_norm",
        dict(
            rows=prod(shape) // cols, cols=cols, epsilon=op.epsilon,
            rms=int(isinstance(op, RMSNormalization)),
        ),
        [x, scale, bias, *extra, *[None] * (2 - len(extra)), y], work=2 * x.nbytes,
    )  # fmt: skip


def row_vector(low: Lowering, name: str, wanted: tuple[int, ...]) -> Place | None:
    """Scale or bias with one value per element of a row; None where they differ between rows."""
    shape = low.shape(name)
    while len(shape) > len(wanted) and shape[0] == 1:
        shape = shape[1:]
    if shape == wanted:
        return low.place(name, PLAIN)
    array = low.const(name)
    if array is None or len(shape) > len(wanted):
        return None
    return low.packed(
        ("row_vector", name, wanted),
        lambda: np.broadcast_to(array.reshape(shape), wanted).astype(np.float32),
    )


@lowers(LRN)
def local_response(low: Lowering, node: Node) -> Any:
    op = node.op
    assert isinstance(op, LRN)
    xn = node.inputs[0]
    shape = low.shape(xn)
    if not low.all_float32(xn) or prod(shape) == 0:
        return False
    c = shape[1]
    before, after = min((op.size - 1) // 2, c), min(op.size // 2, c)
    size = before + 1 + after
    if len(shape) > 2:
        x = low.place(xn, CHANNELS_LAST, dense=False)
        y = low.new(node.outputs[0], CHANNELS_LAST)
    else:
        x = low.place(xn, PLAIN)
        y = low.new(node.outputs[0])
    work = x.nbytes * size
    threads = low.threads_for(work)
    width = c + size + 2 * low.vector("VW")
    scratch = low.scratch(checked_size((threads, width), 4, "squares"), threads)
    low.step(
        "lrn",
        dict(
            rows=prod(shape) // c, c=c, x_row=x.pixel or c, y_row=c, before=before, size=size,
            alpha=op.alpha / op.size, beta=op.beta, bias=op.bias,
        ),
        [x, scratch, y], work=work, threads=threads,
    )  # fmt: skip
