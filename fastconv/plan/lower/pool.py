"""Pools: geometry → parameters of the kernels ``pool``, ``max_pool_indices``, ``global_pool``."""

from __future__ import annotations

from math import prod
from typing import Any

from ...graph import Node
from ...graph.ops.pool import (
    AveragePool,
    GlobalAveragePool,
    GlobalLpPool,
    GlobalMaxPool,
    LpPool,
    MaxPool,
    Pool,
)
from ..lowering import Lowering, lowers
from ..memory import CHANNELS_LAST, PLAIN, Place
from .conv import pixel_strides, triple

#: Kernel codes, as ``enum Kind`` in ``kernels/pool.pyx`` has them.
MAX, AVERAGE, LP1, LP2, LP = range(5)


def kind_of(op: Any) -> tuple[int, int]:
    """(kernel code, p) of an operator."""
    if isinstance(op, (MaxPool, GlobalMaxPool)):
        return MAX, 0
    if isinstance(op, (AveragePool, GlobalAveragePool)):
        return AVERAGE, 0
    return {1: LP1, 2: LP2}.get(op.p, LP), op.p


@lowers(MaxPool, AveragePool, LpPool)
def pool(low: Lowering, node: Node) -> Any:
    op = node.op
    assert isinstance(op, Pool)
    xn, yn = node.inputs[0], node.outputs[0]
    zn = node.outputs[1] if len(node.outputs) > 1 else ""
    shape = low.shape(xn)
    if len(shape) > 5 or not low.all_float32(xn):
        if isinstance(op, MaxPool) and not zn and len(shape) <= 5 and low.dtype(xn).itemsize == 1:
            from . import quant  # only quantised models need it

            return quant.max_pool(low, xn, yn, op.window(shape))
        if isinstance(op, MaxPool) and not zn:
            # Without indices, which NumPy finds slowly.
            ins, outs = [low.place(xn, PLAIN)], [low.new(yn, PLAIN)]
            low.python_step(f"numpy:{op.label}", op.maximum, ins, outs)  # type: ignore[arg-type]
            return None
        return False
    win = op.window(shape)
    rank = len(win.kernel_shape)
    x = low.place(xn, CHANNELS_LAST, dense=False)
    if yn:
        y = low.new(yn, CHANNELS_LAST)
    else:
        # The graph wants the indices alone; the kernel writes both.
        out = low.shape(zn)
        y = Place(low.buffer(4 * prod(out)), 0, out, x.dtype, CHANNELS_LAST, out[1])
    kind, p = kind_of(op)
    whole = win.kernel_shape == shape[2:] and not any(win.pads) and set(win.output) == {1}
    if whole and set(win.dilations) == {1} and not zn:
        emit_global(low, x, y, kind, p)
        return None
    xs, ys = pixel_strides(x), pixel_strides(y)
    d, h, w = triple(shape[2:], 1)
    od, oh, ow = triple(y.shape[2:], 1)
    kd, kh, kw = triple(win.kernel_shape, 1)
    channels, taps = shape[1], prod(win.kernel_shape)
    steps = triple(op.index_steps(shape), 0) if isinstance(op, MaxPool) else (0, 0, 0)
    sd, sh, sw = triple(win.strides, 1)
    dd, dh, dw = triple(win.dilations, 1)
    pd, ph, pw = triple(win.pads[:rank], 0)
    ed, eh, ew = triple(win.pads[rank:], 0)
    z = low.new(zn, CHANNELS_LAST) if zn else None
    if y.size == 0:
        return None
    work = y.size * taps
    threads = low.threads_for(work)
    vw = low.vector("VW")
    params = dict(
        n=shape[0], d=d, h=h, w=w, x_n=xs[0], x_d=xs[1], x_h=xs[2], x_w=xs[3],
        od=od, oh=oh, ow=ow, y_n=ys[0], y_d=ys[1], y_h=ys[2], y_w=ys[3],
        kd=kd, kh=kh, kw=kw, stride_d=sd, stride_h=sh, stride_w=sw,
        dilation_d=dd, dilation_h=dh, dilation_w=dw, pad_d=pd, pad_h=ph, pad_w=pw,
        end_d=ed, end_h=eh, end_w=ew, channels=channels,
        block=block(shape[0] * od * oh, channels, vw, threads), kind=kind, p=p,
        count_include_pad=int(bool(getattr(op, "count_include_pad", 0))),
        step_d=steps[0], step_h=steps[1], step_w=steps[2],
    )  # fmt: skip
    if z is None:
        low.step("pool", params, [x, y], work=work, threads=threads)
    else:
        low.step("max_pool_indices", params, [x, y, z], work=work, threads=threads)


def block(rows: int, channels: int, vw: int, threads: int) -> int:
    """Channels of one unit of work: all, unless there are too few rows for the threads."""
    n = channels
    while n >= 8 * vw and rows * (channels // n) < 4 * threads:
        n = n // (2 * vw) * vw
    return n


@lowers(GlobalAveragePool, GlobalMaxPool, GlobalLpPool)
def global_pool(low: Lowering, node: Node) -> Any:
    xn = node.inputs[0]
    if not low.all_float32(xn):
        return False
    x = low.place(xn, CHANNELS_LAST, dense=False)
    emit_global(low, x, low.new(node.outputs[0], CHANNELS_LAST), *kind_of(node.op))


def emit_global(low: Lowering, x: Place, y: Place, kind: int, p: int) -> None:
    """Append one ``global_pool`` step."""
    n, channels = x.shape[:2]
    pixels = prod(x.shape[2:])
    if n * channels == 0:
        return
    params = dict(
        n=n, pixels=pixels, channels=channels, x_n=pixels * x.pixel, x_p=x.pixel, kind=kind, p=p
    )  # fmt: skip
    low.step("global_pool", params, [x, y], work=x.nbytes)
