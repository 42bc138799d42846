"""Experiments of ONNX 1.0, which onnxruntime kept and old exporters wrote, and what ONNX itself
states as two operators (see ``contrib``).

Source of the meaning: onnxruntime's schemas of these operators, in the domain of ONNX.
"""

from __future__ import annotations

import numpy as np

from ..errors import UnsupportedError
from ..graph import Op
from .adapt import Draft
from .contrib import Contributed, contributed, make, scalar


@contributed("")
class Affine(Contributed):
    """alpha · x + beta."""

    alpha: float = 1.0
    beta: float = 0.0

    def rewrite(self, d: Draft) -> Op:
        d.inputs = [d.insert(make("Mul"), [d.inputs[0], d.constant(scalar(self.alpha))])]
        d.set_input(1, scalar(self.beta))
        return make("Add")


@contributed("")
class Scale(Contributed):
    """scale · x."""

    scale: float = 1.0

    def rewrite(self, d: Draft) -> Op:
        d.set_input(1, scalar(self.scale))
        return make("Mul")


@contributed("")
class ScaledTanh(Contributed):
    """alpha · tanh(beta · x)."""

    alpha: float = 1.0
    beta: float = 1.0

    def rewrite(self, d: Draft) -> Op:
        inner = d.insert(make("Mul"), [d.inputs[0], d.constant(scalar(self.beta))])
        d.inputs = [d.insert(make("Tanh"), [inner])]
        d.set_input(1, scalar(self.alpha))
        return make("Mul")


@contributed("")
class ParametricSoftplus(Contributed):
    """alpha · log(1 + exp(beta · x))."""

    alpha: float = 1.0
    beta: float = 1.0

    def rewrite(self, d: Draft) -> Op:
        inner = d.insert(make("Mul"), [d.inputs[0], d.constant(scalar(self.beta))])
        d.inputs = [d.insert(make("Softplus"), [inner])]
        d.set_input(1, scalar(self.alpha))
        return make("Mul")


@contributed("")
class ImageScaler(Contributed):
    """scale · x + bias per channel, for NCHW images."""

    bias: tuple[float, ...] = ()
    scale: float = 1.0

    def rewrite(self, d: Draft) -> Op:
        d.inputs = [d.insert(make("Mul"), [d.inputs[0], d.constant(scalar(self.scale))])]
        d.set_input(1, np.array(self.bias or (0,), np.float32).reshape(-1, 1, 1))
        return make("Add")


@contributed("")
class Crop(Contributed):
    """NCHW images without ``border`` (left, top, right, bottom), or ``scale`` (height, width) of
    them from the left top corner of that."""

    border: tuple[int, ...] = ()
    scale: tuple[int, ...] = ()

    def rewrite(self, d: Draft) -> Op:
        if len(self.border) != 4 or len(self.scale) not in (0, 2):
            raise UnsupportedError(
                f"Crop with border {list(self.border)} and scale {list(self.scale)}: 4 numbers, "
                "and none or 2, are needed"
            )
        left, top, right, bottom = self.border
        ends = (
            [top + self.scale[0], left + self.scale[1]]
            if self.scale
            else [-bottom or 1 << 62, -right or 1 << 62]
        )
        for k, values in enumerate(([top, left], ends, [2, 3]), 1):
            d.set_input(k, np.array(values, np.int64))
        return make("Slice")


@contributed("")
class SwiGLU(Contributed):
    """Swish of A, times B (ONNX operator SwiGLU-28)."""

    arity = (2, 2)
    alpha: float = 1.0

    def rewrite(self, d: Draft) -> Op:
        d.inputs = [d.insert(make("Swish", self.alpha), d.inputs[:1]), d.inputs[1]]
        return make("Mul")
