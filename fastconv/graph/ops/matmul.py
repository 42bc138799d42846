"""Matrix products. Source of the maths: ONNX operators Gemm-13, MatMul-13, Einsum-12."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..activation import Activation
from ..core import TensorType
from ..op import Op, broadcast, need, register
from .conv import internal
from .elementwise import activate


@register
class Gemm(Op):
    """y = alpha * A' @ B' + beta * C with optional transposes; C broadcasts to [M, N]."""

    arity = (2, 3)
    alpha: float = 1.0
    beta: float = 1.0
    transA: int = 0
    transB: int = 0
    activation: Activation | None = internal(None)

    def infer(self, types, values):
        a, b = types[0], types[1]
        if a.shape is None or b.shape is None:
            return [TensorType(a.dtype, (None, None))]
        need(
            len(a.shape) == 2 and len(b.shape) == 2, lambda: f"Gemm needs matrices, not {a} and {b}"
        )
        need(a.dtype == b.dtype, lambda: f"{a} and {b} differ in dtype")
        m, k = a.shape[::-1] if self.transA else a.shape
        k2, n = b.shape[::-1] if self.transB else b.shape
        if isinstance(k, int) and isinstance(k2, int):
            need(k == k2, lambda: f"inner sizes {k} and {k2} of {a} and {b} differ")
        if len(types) > 2 and types[2] is not None and types[2].shape is not None:
            got = broadcast((m, n), types[2].shape)
            need(
                got == (m, n) or not all(isinstance(d, int) for d in (*got, m, n)),
                lambda: f"C {types[2]} does not broadcast to [{m}, {n}]",
            )
        return [TensorType(a.dtype, (m, n))]

    def compute(self, xs):
        a, b = xs[0], xs[1]
        y = (a.T if self.transA else a) @ (b.T if self.transB else b)
        if self.alpha != 1:
            y = y * np.asarray(self.alpha, np.float64)
        if len(xs) > 2 and xs[2] is not None:
            y = y + (xs[2] if self.beta == 1 else xs[2] * np.asarray(self.beta, np.float64))
        if self.activation is not None:
            y = activate(self.activation, y)
        return [np.asarray(y).astype(a.dtype, copy=False)]


@register
class MatMul(Op):
    """NumPy's matmul, with its broadcasting of leading dimensions."""

    arity = (2, 2)

    def infer(self, types, values):
        a, b = types
        if a.shape is None or b.shape is None:
            return [TensorType(a.dtype, None)]
        need(
            len(a.shape) > 0 and len(b.shape) > 0, lambda: f"MatMul needs rank 1 or more: {a}, {b}"
        )
        need(a.dtype == b.dtype, lambda: f"{a} and {b} differ in dtype")
        k, k2 = a.shape[-1], b.shape[-2] if len(b.shape) > 1 else b.shape[0]
        if isinstance(k, int) and isinstance(k2, int):
            need(k == k2, lambda: f"inner sizes {k} and {k2} of {a} and {b} differ")
        shape = broadcast(a.shape[:-2], b.shape[:-2])
        if len(a.shape) > 1:
            shape += (a.shape[-2],)
        if len(b.shape) > 1:
            shape += (b.shape[-1],)
        return [TensorType(a.dtype, shape)]

    def compute(self, xs):
        return [np.asarray(np.matmul(xs[0], xs[1])).astype(xs[0].dtype, copy=False)]


@register
class Einsum(Op):
    """NumPy's einsum."""

    arity = (1, -1)
    equation: str

    def infer(self, types, values):
        if any(t.shape is None for t in types):
            return [TensorType(types[0].dtype, None)]
        sizes: dict[str, Any] = {}
        left, _, right = self.equation.replace(" ", "").partition("->")
        terms = left.split(",")
        need(
            len(terms) == len(types),
            lambda: f"equation {self.equation!r} has {len(terms)} operands",
        )
        if "." in left:
            return [TensorType(types[0].dtype, None)]
        for term, t in zip(terms, types, strict=True):
            need(
                len(term) == len(t.shape),
                lambda: f"term {term!r} of {self.equation!r} does not fit {t}",
            )
            for letter, d in zip(term, t.shape, strict=True):
                if not isinstance(sizes.get(letter), int) or sizes[letter] == 1:
                    sizes[letter] = d
        if "->" not in self.equation:
            right = "".join(sorted(c for c in sizes if left.count(c) == 1))
        need(
            all(c in sizes for c in right),
            lambda: f"equation {self.equation!r} names unknown letters",
        )
        return [TensorType(types[0].dtype, tuple(sizes[c] for c in right))]

    def compute(self, xs):
        y = np.einsum(self.equation.replace(" ", ""), *xs, optimize=True)
        return [np.asarray(y).astype(xs[0].dtype, copy=False)]
