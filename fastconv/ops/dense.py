"""Products, element-wise functions, softmax and normalisation."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from ..errors import InputError
from .run import (
    Array,
    Ints,
    apply,
    as_array,
    need_weight,
    number,
    numbers,
    operator,
    same_dtype,
    weight_array,
)


def linear(
    x: Array, weight: Array, bias: Array | None = None, *, threads: int | None = None
) -> Array:
    """``x @ weight.T + bias``.

    Args:
        x: (..., features).
        weight: (outputs, features).
        bias: (outputs,).

    Raises:
        InputError: an argument does not fit.
    """
    x = as_array("linear", "x", x)
    weight = need_weight("linear", x, weight, 2)
    bias = weight_array("linear", x, "bias", bias, 1)
    if x.ndim == 0 or x.shape[-1] != weight.shape[1]:
        raise InputError(
            f"linear: x has shape {list(x.shape)}; weight {list(weight.shape)} needs "
            f"{weight.shape[1]} in the last axis"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise InputError(
            f"linear: bias has shape {list(bias.shape)}; weight {list(weight.shape)} needs "
            f"{list(weight.shape[:1])}"
        )
    rows = x.reshape(prod(x.shape[:-1]), x.shape[-1])
    y = apply("linear", operator("Gemm", transB=1), [rows, weight, bias], threads, weights=(1, 2))
    return y.reshape(*x.shape[:-1], weight.shape[0])


def matmul(x: Array, y: Array, *, threads: int | None = None) -> Array:
    """Matrix product with NumPy's (and torch's) rules for vectors and leading axes.

    Raises:
        InputError: the shapes do not fit.
    """
    x, y = as_array("matmul", "x", x), as_array("matmul", "y", y)
    same_dtype("matmul", x, "y", y)
    return apply("matmul", operator("MatMul"), [x, y], threads)


# Element by element.


def relu(x: Array, *, threads: int | None = None) -> Array:
    """max(x, 0); NaN stays NaN."""
    return _map("relu", "Relu", x, threads)


def leaky_relu(x: Array, negative_slope: float = 0.01, *, threads: int | None = None) -> Array:
    """x where x ≥ 0, else ``negative_slope`` · x."""
    return _map("leaky_relu", "LeakyRelu", x, threads, alpha=float(negative_slope))


def sigmoid(x: Array, *, threads: int | None = None) -> Array:
    """1 / (1 + exp(−x))."""
    return _map("sigmoid", "Sigmoid", x, threads)


def tanh(x: Array, *, threads: int | None = None) -> Array:
    """Hyperbolic tangent."""
    return _map("tanh", "Tanh", x, threads)


def gelu(x: Array, approximate: str = "none", *, threads: int | None = None) -> Array:
    """x · Φ(x), Φ the normal distribution; ``approximate="tanh"`` for the tanh formula."""
    if approximate not in ("none", "tanh"):
        raise InputError(f'gelu: approximate {approximate!r}: expected "none" or "tanh"')
    return _map("gelu", "Gelu", x, threads, approximate=approximate)


def silu(x: Array, *, threads: int | None = None) -> Array:
    """x · sigmoid(x)."""
    return _map("silu", "Swish", x, threads)


def hardswish(x: Array, *, threads: int | None = None) -> Array:
    """x · min(max(x + 3, 0), 6) / 6."""
    return _map("hardswish", "HardSwish", x, threads)


def elu(x: Array, alpha: float = 1.0, *, threads: int | None = None) -> Array:
    """x where x > 0, else ``alpha`` · (exp(x) − 1)."""
    return _map("elu", "Elu", x, threads, alpha=float(alpha))


def _map(what: str, name: str, x: Any, threads: int | None, **attrs: Any) -> Array:
    return apply(what, operator(name, **attrs), [as_array(what, "x", x)], threads)


# Along an axis, and normalisation.


def softmax(x: Array, dim: int, *, threads: int | None = None) -> Array:
    """exp(x) / sum(exp(x)) along the axis ``dim``."""
    return _along("softmax", "Softmax", x, dim, threads)


def log_softmax(x: Array, dim: int, *, threads: int | None = None) -> Array:
    """log(softmax(x)) along the axis ``dim``, computed without the detour."""
    return _along("log_softmax", "LogSoftmax", x, dim, threads)


def _along(what: str, name: str, x: Any, dim: int, threads: int | None) -> Array:
    x = as_array(what, "x", x)
    shape, rank = x.shape, max(1, x.ndim)
    axis = number(what, "dim", dim, -rank)
    if axis >= rank:
        raise InputError(f"{what}: dim {dim} is out of range for x of shape {list(shape)}")
    x = x.reshape(shape or (1,))
    return apply(what, operator(name, axis=axis), [x], threads).reshape(shape)


def batch_norm(
    x: Array,
    running_mean: Array,
    running_var: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    *,
    eps: float = 1e-5,
    threads: int | None = None,
) -> Array:
    """(x − running_mean) / √(running_var + eps) · weight + bias per channel (inference only).

    Args:
        x: (N, C, ...).
        running_mean, running_var, weight, bias: (C,) each; weight None is 1, bias None is 0.

    Raises:
        InputError: an argument does not fit.
    """
    what = "batch_norm"
    x = as_array(what, "x", x)
    if x.ndim < 2:
        raise InputError(f"{what}: x has shape {list(x.shape)}; expected (N, C, ...)")
    c = x.shape[1]
    given = {"running_mean": running_mean, "running_var": running_var, "weight": weight}
    arrays: dict[str, Any] = {}
    for name, value in {**given, "bias": bias}.items():
        w = weight_array(what, x, name, value, 1)
        if w is None and name.startswith("running"):
            raise InputError(f"{what}: {name} is None; expected an array of {c} values")
        if w is not None and w.shape != (c,):
            raise InputError(f"{what}: {name} has shape {list(w.shape)}; expected [{c}]")
        arrays[name] = np.full(c, name == "weight", x.dtype) if w is None else w
    mean, var, scale, shift = arrays.values()
    op = operator("BatchNormalization", epsilon=float(eps))
    return apply(what, op, [x, scale, shift, mean, var], threads, weights=(1, 2, 3, 4))


def layer_norm(
    x: Array,
    normalized_shape: Ints,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
    *,
    threads: int | None = None,
) -> Array:
    """Zero mean and unit variance over the last axes, then · weight + bias.

    Args:
        x: any shape that ends in ``normalized_shape``.
        normalized_shape: the sizes of the axes to normalise over.
        weight, bias: of ``normalized_shape``; None is 1 and 0.

    Raises:
        InputError: an argument does not fit.
    """
    what = "layer_norm"
    x = as_array(what, "x", x)
    if hasattr(normalized_shape, "__index__"):
        normalized_shape = (normalized_shape,)  # type: ignore[assignment]
    shape = numbers(what, "normalized_shape", normalized_shape, len(normalized_shape), 0)  # type: ignore[arg-type]
    if not shape or x.shape[-len(shape) :] != shape:
        raise InputError(
            f"{what}: x has shape {list(x.shape)}, which does not end in normalized_shape "
            f"{list(shape)}"
        )
    weight = weight_array(what, x, "weight", weight, len(shape))
    bias = weight_array(what, x, "bias", bias, len(shape))
    for name, w in (("weight", weight), ("bias", bias)):
        if w is not None and w.shape != shape:
            raise InputError(f"{what}: {name} has shape {list(w.shape)}; expected {list(shape)}")
    if weight is None:
        weight = np.ones(shape, x.dtype)
    op = operator("LayerNormalization", axis=-len(shape), epsilon=float(eps))
    return apply(what, op, [x, weight, bias], threads, weights=(1, 2))
