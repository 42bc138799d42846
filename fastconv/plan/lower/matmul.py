"""Matrix products: the ``conv`` kernel on rows, weights packed at plan time or at run time."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from ...graph import Node
from ...graph.activation import Activation
from ...graph.ops.matmul import Gemm, MatMul
from ..lowering import Lowering, aligned_zeros, lowers
from ..memory import FLAT, PLAIN, Place
from . import vector
from .conv import blocks, epilogue, pack_at_run_time, pack_bias, pack_filters, pointer_table

#: Sizes of the convolution kernel that a matrix product leaves at 1, and those it leaves at 0.
ONES = (
    "n", "d", "h", "od", "oh", "kd", "kh", "kw",
    "stride_d", "stride_h", "stride_w", "dilation_d", "dilation_h", "dilation_w",
)  # fmt: skip
ZEROS = (
    "x_n", "x_d", "x_h", "y_n", "y_d", "y_h", "y_0", "r_n", "r_d", "r_h", "r_w", "r_g",
    "pad_d", "pad_h", "pad_w",
)  # fmt: skip


@lowers(Gemm)
def gemm(low: Lowering, node: Node) -> Any:
    op = node.op
    assert isinstance(op, Gemm)
    an, bn = node.inputs[0], node.inputs[1]
    cn = node.inputs[2] if len(node.inputs) > 2 else ""
    if not low.all_float32(an, bn, cn) or op.transA:
        return False
    (m, k), n = low.shape(an), low.shape(node.outputs[0])[1]
    c = low.const(cn) if cn else None
    if cn and (c is None or (c.size > 1 and c.size != c.shape[-1])):
        return False  # a bias that differs from row to row
    weight = low.const(bn)
    if (weight is None and op.alpha != 1) or 0 in (m, k, n):
        return False
    bias = None
    if c is not None and op.beta != 0:
        bias = low.packed(
            ("gemm bias", cn, n, op.beta),
            lambda: pack_bias(np.broadcast_to(c.ravel() * op.beta, (n,)), 1, low.isa),
        )
    if weight is None:
        b_k, b_n = (1, k) if op.transB else (n, 1)
        packed = pack_at_run_time(low, low.place(bn, PLAIN), 1, 1, k, n, 0, 0, b_k, b_n)
        x = low.place(an, PLAIN)
    else:
        x = low.place(an) if low.layout_of(an) == FLAT else low.place(an, PLAIN)
        channels = x.channels if x.layout == FLAT else 0

        def filters(begin: int, end: int) -> np.ndarray:
            w = weight[begin:end] if op.transB else weight[:, begin:end].T
            if channels:
                # The input lies as [S][C]: permute the weights once instead of it every time.
                w = w.reshape(-1, channels, k // channels).transpose(0, 2, 1).reshape(-1, k)
            return w if op.alpha == 1 else w * np.float32(op.alpha)

        key = ("gemm", bn, op.transB, op.alpha, channels)
        if vector.suits_half(low, weight, m, k, n) and np.isfinite(op.alpha):
            y = low.new(node.outputs[0], PLAIN)
            vector.gemv_half(
                low, key, filters, x, bias, None, y, (m, k, n), (k, 0, n), op.activation
            )
            return
        if vector.gemv_fixed(
            low, key, bn, filters, x, lambda: bias, None,
            lambda: low.new(node.outputs[0], PLAIN), (m, k, n), (k, 0, n), op.activation,
            bool(op.transB), channels, op.alpha,
        ):  # fmt: skip
            return
        packed = low.packed(key, lambda: pack_filters(filters(0, n).reshape(n, 1, k), 1, low.isa))
    y = low.new(node.outputs[0], PLAIN)
    product(low, x, packed, bias, y, m, k, n, 1, op.activation)


def product(
    low: Lowering,
    x: Place,
    packed: Place,
    bias: Place | None,
    y: Place,
    m: int,
    k: int,
    n: int,
    batch: int,
    act: Activation | None,
    x_batch: int | None = None,
) -> None:
    """The step for ``batch`` products of [m, k] and packed [k, n]."""
    if batch * m * n == 0:
        return
    if m == 1 and batch == 1:
        low.step(
            "gemv", dict(k=k, n=n, **epilogue(act)), [x, packed, bias, None, y], work=4 * k * n,
            macs=k * n, units=n // (4 * low.vector("NR")),  # the kernel does four panels at a time
        )  # fmt: skip
        return
    macs = batch * m * n * k
    threads = low.threads_for(macs)
    block_rows, block_panels = blocks(low, m, n, batch, k, 0)
    ones = dict.fromkeys(ONES, 1)
    none = dict.fromkeys(ZEROS, 0)
    params = dict(
        **ones, **none, w=m, x_w=k, ow=m, y_w=n, channels=k, filters=n, group=batch, wide=0,
        linear=1, y_linear=1, x_g=m * k if x_batch is None else x_batch, y_g=m * n,
        block_rows=block_rows, block_panels=block_panels, **epilogue(act),
    )  # fmt: skip
    zeros = low.packed(("zeros", 1), lambda: aligned_zeros((1,)))
    scratch = pointer_table(low, threads, 1, 0, block_rows)
    low.step("conv", params, [x, packed, bias, None, zeros, scratch, y], macs=macs, threads=threads)


@lowers(MatMul)
def matmul(low: Lowering, node: Node) -> Any:
    an, bn = node.inputs
    if not low.all_float32(an, bn):
        return False
    a, b = low.shape(an), low.shape(bn)
    a = a if len(a) > 1 else (1, *a)
    b = b if len(b) > 1 else (*b, 1)
    m, k, n = a[-2], a[-1], b[-1]
    a_batch, b_batch = prod(a[:-2]), prod(b[:-2])
    if b_batch == 1:
        m, batch = m * a_batch, 1
    else:
        batch = b_batch
        same = prod(low.shape(node.outputs[0])) == batch * m * n
        if not same or a_batch not in (1, batch):
            return False  # broadcasting that repeats single matrices of a batch
    if 0 in (*a, *b):
        return False
    weight = low.const(bn)
    if batch == 1 and weight is not None:
        flat = weight.reshape(k, n)
        x = low.place(an, PLAIN)
        if vector.suits_half(low, weight, m, k, n):
            y = low.new(node.outputs[0], PLAIN)
            vector.gemv_half(
                low, ("matmul", bn), lambda a, b: flat[:, a:b].T, x, None, None, y, (m, k, n),
                (k, 0, n), None,
            )  # fmt: skip
            return
        if vector.gemv_fixed(
            low, ("matmul", bn), bn, lambda a, b: flat[:, a:b].T, x, lambda: None, None,
            lambda: low.new(node.outputs[0], PLAIN), (m, k, n), (k, 0, n), None, False,
        ):  # fmt: skip
            return
    if weight is not None:
        packed = low.packed(
            ("matmul", bn),
            lambda: pack_filters(
                weight.reshape(-1, k, n).transpose(0, 2, 1).reshape(-1, 1, k), batch, low.isa
            ),
        )
    else:
        packed = pack_at_run_time(low, low.place(bn, PLAIN), batch, 1, k, n, k * n, 0, n, 1)
    x = low.place(an, PLAIN)
    y = low.new(node.outputs[0], PLAIN)
    product(
        low, x, packed, None, y, m, k, n, batch, None, 0 if a_batch == 1 and batch > 1 else None
    )
