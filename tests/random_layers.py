"""Steps of random networks that compute: each adds a node, or a few that belong together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from grower import Grower, Refused


def window(g: Grower, x: str, kernel: Sequence[int], dilate: bool = True) -> dict[str, Any]:
    """Strides, dilations and pads for a window."""
    attrs: dict[str, Any] = {}
    n = len(kernel)
    if g.chance(40):
        attrs["strides"] = [g.int(1, 3) for _ in range(n)]
    if dilate and g.chance(25):
        attrs["dilations"] = [g.int(1, 2) for _ in range(n)]
    how = g.int(0, 9)
    if how < 5:
        attrs["pads"] = [min(g.int(0, 2), kernel[k % n] - 1) for k in range(2 * n)]
    elif how < 7 and "dilations" not in attrs:
        attrs["auto_pad"] = g.pick(["SAME_UPPER", "SAME_LOWER", "VALID"])
    elif how < 9:
        attrs["pads"] = [(k - 1) // 2 for k in kernel] * 2
    return attrs


def conv(g: Grower) -> None:
    x = g.image()
    c = g.values[x].shape[1]
    group = g.pick([d for d in range(1, c + 1) if c % d == 0]) if g.chance(40) else 1
    most = 10 if g.chance(75) else 40
    out = group * g.int(1, max(1, most // group))
    kernel = [g.pick([1, 1, 2, 3, 3, 5]), g.pick([1, 3])] if g.chance(50) else [g.pick([1, 3])] * 2
    weight = g.weight(out, c // group, *kernel, fan=c // group * math.prod(kernel))
    bias = [g.weight(out)] if g.chance(50) else []
    attrs = window(g, x, kernel)
    if g.chance(50):
        attrs["kernel_shape"] = kernel
    if group > 1 or g.chance(20):
        attrs["group"] = group
    g("Conv", x, weight, *bias, **attrs)


def conv_1d(g: Grower) -> None:
    x = g.value(lambda a: a.ndim == 3)
    c = g.values[x].shape[1]
    k = g.pick([1, 2, 3])
    g("Conv", x, g.weight(g.int(1, 6), c, k, fan=c * k), **window(g, x, [k]))


def conv_transpose(g: Grower) -> None:
    x = g.image()
    c = g.values[x].shape[1]
    group = g.pick([d for d in range(1, c + 1) if c % d == 0]) if g.chance(30) else 1
    kernel = [g.int(1, 4), g.int(1, 4)]
    attrs: dict[str, Any] = {"strides": [g.int(1, 3), g.int(1, 3)]} if g.chance(70) else {}
    strides = attrs.get("strides", [1, 1])
    if g.chance(50):
        attrs["pads"] = [min(g.int(0, 1), kernel[k % 2] - 1) for k in range(4)]
    if g.chance(30):
        attrs["output_padding"] = [g.int(0, s - 1) for s in strides]
    if g.chance(20):
        attrs["dilations"] = [g.int(1, 2), g.int(1, 2)]
    out = g.int(1, 4)
    weight = g.weight(c, out, *kernel, fan=c)
    bias = [g.weight(out * group)] if g.chance(50) else []
    g("ConvTranspose", x, weight, *bias, group=group, **attrs)


def pool(g: Grower) -> None:
    x = g.image(2)
    kernel = [g.int(1, 3), g.int(1, 3)]
    op = g.pick(["MaxPool", "AveragePool"])
    attrs = window(g, x, kernel, dilate=op == "MaxPool" or g.opset >= 19)
    if g.chance(25) and "auto_pad" not in attrs:
        attrs["ceil_mode"] = 1
    if op == "AveragePool" and g.chance(40) and not attrs.get("ceil_mode"):
        attrs["count_include_pad"] = 1
    g(op, x, kernel_shape=kernel, **attrs)


def global_pool(g: Grower) -> None:
    x = g.image()
    if g.chance(70):
        g(g.pick(["GlobalAveragePool", "GlobalAveragePool", "GlobalMaxPool"]), x)
    else:
        reduce(g, x, [2, 3] if g.chance(50) else [-1, -2], 1)


def reduce(g: Grower, x: str, axes: Sequence[int], keep: int) -> str:
    op = g.pick(["ReduceMean", "ReduceMean", "ReduceMax"])
    if g.opset >= 18:
        return g(op, x, g.ints(*axes), keepdims=keep)
    return g(op, x, axes=list(axes), keepdims=keep)


def reduction(g: Grower) -> None:
    x = g.value(lambda a: a.ndim >= 2)
    rank = g.values[x].ndim
    axes = sorted({g.int(0, rank - 1) for _ in range(g.int(1, 2))})
    reduce(g, x, axes, 1 if len(axes) == rank else g.int(0, 1))


def batch_norm(g: Grower) -> None:
    x = g.value(lambda a: a.ndim in (2, 3, 4))
    c = g.values[x].shape[1]
    var = g.const(g.rng.uniform(0.5, 2, c))
    parts = [g.weight(c), g.weight(c), g.weight(c)]
    g("BatchNormalization", x, *parts, var, epsilon=g.pick([1e-5, 1e-3]))


def other_norm(g: Grower) -> None:
    x = g.image()
    if g.values[x].std(axis=(2, 3)).min() < 0.1:
        raise Refused  # dividing by next to nothing makes much of rounding
    c = g.values[x].shape[1]
    if g.opset < 17 or g.chance(50):
        g("InstanceNormalization", x, g.weight(c), g.weight(c))
    else:
        axis = g.pick([1, 2])
        shape = g.values[x].shape[axis:]
        g("LayerNormalization", x, g.weight(*shape), g.weight(*shape), axis=axis)


ACTIVATIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("Relu", {}), ("Relu", {}), ("Sigmoid", {}), ("Tanh", {}), ("LeakyRelu", {"alpha": 0.2}),
    ("Elu", {"alpha": 0.7}), ("HardSigmoid", {}), ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
    ("HardSwish", {}), ("Softplus", {}), ("Softsign", {}), ("Selu", {}), ("Celu", {"alpha": 0.6}),
    ("Abs", {}), ("Neg", {}), ("Erf", {}), ("Identity", {}), ("Dropout", {}), ("Exp", {}),
)  # fmt: skip


def activation(g: Grower) -> None:
    op, attrs = g.pick(ACTIVATIONS)
    g(op, g.value(), **attrs)


def clip(g: Grower) -> None:
    low, high = g.pick([(0, 6), (0, 1), (-1, 1), (0, None), (None, 2)])
    x = g.value()
    ends = ["" if v is None else g.const(v) for v in (low, high)]
    g("Clip", x, *(ends if ends[1] else ends[:1]))


def prelu(g: Grower) -> None:
    x = g.image()
    g("PRelu", x, g.weight(g.values[x].shape[1], 1, 1) if g.chance(60) else g.weight(1))


def gate(g: Grower) -> None:
    """x · f(x), or hard-swish written out."""
    x = g.value()
    if g.chance(60):
        g("Mul", *g.draw.sample([x, g(g.pick(["Sigmoid", "HardSigmoid", "Tanh"]), x)], 2))
        return
    y = g("Clip", g("Add", x, g.const(3)), g.const(0), g.const(6))
    g("Div", g("Mul", x, y), g.const(g.pick([6, 5])))


def gelu(g: Grower) -> None:
    x = g.value()
    e = g("Add", g("Erf", g("Div", x, g.const(math.sqrt(2)))), g.const(1))
    g("Mul", g("Mul", x, e), g.const(0.5))


def with_constant(g: Grower) -> None:
    x = g.value()
    shape = list(g.values[x].shape)
    shape = [d if g.chance(40) else 1 for d in shape][g.int(0, len(shape)) :]
    number = g.pick([0.0, 1.0, 0.5, 2.0, -1.0, 1 / 6])
    k = g.const(np.full(shape, number)) if g.chance(50) else g.weight(*shape)
    op = g.pick(["Add", "Sub", "Mul", "Mul", "Add", "Max", "Min", "Div"])
    if op == "Div":
        g("Div", x, g.const(np.full(shape, g.pick([2.0, 6.0, -0.5]))))
        return
    g(op, *g.draw.sample([x, k], 2))


def binary(g: Grower) -> None:
    """Two values whose shapes broadcast: residuals, gates, sums of branches."""
    a = g.value()
    shape = g.values[a].shape

    def fits(other: np.ndarray) -> bool:
        try:
            return np.broadcast_shapes(shape, other.shape) is not None
        except ValueError:
            return False

    b = g.value(fits)
    ops = ["Add", "Add", "Add", "Sub", "Mul", "Max", "Min", "Sum"]
    g(g.pick(ops), *g.draw.sample([a, b], 2))


def residual(g: Grower) -> None:
    """y + f(y) with the convolution in the middle and an activation behind it."""
    x = g.image()
    c = g.values[x].shape[1]
    group = c if g.chance(30) else 1
    if g.chance(20):  # or with one of the two spread over the other
        small = g("GlobalAveragePool", x)
        of, other = (x, small) if g.chance(50) else (small, x)
        y = g("Conv", of, g.weight(c, c, 1, 1, fan=c))
        g("Add", *g.draw.sample([other, y], 2))
        return
    y = g("Conv", x, g.weight(c, c // group, 3, 3, fan=9 * c // group), pads=[1] * 4, group=group)
    if g.chance(50):
        y = g("Relu", y)
        y = g("Conv", y, g.weight(c, c, 1, 1, fan=c), g.weight(c))
    y = g("Add", *g.draw.sample([x, y], 2))
    if g.chance(60):
        g("Relu", y)


def squeeze_excite(g: Grower) -> None:
    x = g.image()
    c = g.values[x].shape[1]
    m = g.int(1, 4)
    y = g("GlobalAveragePool", x)
    if g.chance(70):
        y = g("Relu", g("Conv", y, g.weight(m, c, 1, 1, fan=c), g.weight(m)))
        y = g("Conv", y, g.weight(c, m, 1, 1, fan=m), g.weight(c))
    else:
        y = g("Relu", g("Gemm", g("Flatten", y), g.weight(m, c, fan=c), transB=1))
        y = g("Gemm", y, g.weight(c, m, fan=m), g.weight(c), transB=1)
        y = g("Reshape", y, g.ints(0, c, 1, 1))
    g("Mul", *g.draw.sample([x, g(g.pick(["Sigmoid", "HardSigmoid"]), y)], 2))


def dense(g: Grower) -> None:
    x = g.value(lambda a: a.ndim >= 2)
    if g.values[x].ndim > 2:
        x = g("Flatten", x)
    k = g.values[x].shape[1]
    m = g.int(1, 8)
    if g.chance(60):
        turned = g.int(0, 1)
        weight = g.weight(m, k, fan=k) if turned else g.weight(k, m, fan=k)
        bias = [g.weight(*g.pick([(m,), (1, m), (1,)]))] if g.chance(70) else []
        extra = {"alpha": 0.5, "beta": 2.0} if g.chance(15) else {}
        y = g("Gemm", x, weight, *bias, transB=turned, **extra)
    else:
        y = g("MatMul", x, g.weight(k, m, fan=k))
        if g.chance(60):
            y = g("Add", y, g.weight(m))
    if g.chance(40):
        g("Relu", y)


def matmul(g: Grower) -> None:
    x = g.value(lambda a: a.ndim >= 3)
    k = g.values[x].shape[-1]
    if g.chance(50):
        g("MatMul", x, g.weight(k, g.int(1, 6), fan=k))
    else:  # attention's form: two values that both come from the graph
        rank = g.values[x].ndim
        perm = [*range(rank - 2), rank - 1, rank - 2]
        g("Softmax", g("MatMul", x, g("Transpose", x, perm=perm)), axis=-1)


def softmax(g: Grower) -> None:
    x = g.value(lambda a: a.ndim >= 1)
    rank = g.values[x].ndim
    g(g.pick(["Softmax", "LogSoftmax"]), x, axis=g.int(-rank, rank - 1))
