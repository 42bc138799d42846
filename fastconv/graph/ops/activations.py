"""Activation operators. Source of the maths: the ONNX operator specification, opset 24."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ...records import field
from ..activation import RELU, Activation
from ..core import TensorType
from ..op import broadcast, fields_only, need, register
from .elementwise import Unary, need_kind


@fields_only
class FusedActivation(Unary):
    """An activation that fusion recognised in several nodes; no ONNX file holds it."""

    domain: ClassVar[str] = "fastconv"
    activation: Activation = field(default=RELU, metadata={"internal": True})

    @property
    def function(self) -> Activation:
        return self.activation


@register
class Relu(Unary):
    """y = max(x, 0), any signed number."""

    kinds = "fi"

    @property
    def function(self) -> Activation:
        return RELU

    def compute(self, xs):
        return [np.maximum(xs[0], xs[0].dtype.type(0))]


@register
class LeakyRelu(Unary):
    """y = x for x ≥ 0, alpha * x below."""

    alpha: float = 0.01

    @property
    def function(self) -> Activation:
        return Activation("leaky_relu", self.alpha)


@register
class PRelu(Unary):
    """y = x for x ≥ 0, slope * x below; the slope broadcasts to x (one-way)."""

    kinds = "fiu"
    arity = (2, 2)

    def infer(self, types, values):
        x, slope = types
        need_kind(self, x.dtype, self.kinds)
        need(
            x.dtype is None or slope.dtype is None or x.dtype == slope.dtype,
            lambda: f"input {x} and slope {slope} differ in dtype",
        )
        if x.shape is not None and slope.shape is not None:
            need(
                len(broadcast(x.shape, slope.shape)) == len(x.shape)
                and broadcast(x.shape, slope.shape) == x.shape,
                lambda: f"slope {slope} does not broadcast to the input {x}",
            )
        return [TensorType(x.dtype, x.shape)]

    def compute(self, xs):
        x, slope = xs
        with np.errstate(all="ignore"):
            return [np.where(x < 0, x * slope, x)]


@register
class Clip(Unary):
    """y = min(max(x, min), max); either bound, a scalar, may be absent."""

    kinds = "fiu"
    arity = (1, 3)

    def infer(self, types, values):
        x = types[0]
        need_kind(self, x.dtype, self.kinds)
        for name, t in zip(("min", "max"), types[1:], strict=False):
            if t is None:
                continue
            need(
                x.dtype is None or t.dtype is None or x.dtype == t.dtype,
                lambda: f"input {x} and {name} {t} differ in dtype",
            )
            if t.shape is not None:
                scalar = all(d == 1 for d in t.shape)
                need(scalar, lambda: f"{name} {t} must be a scalar")
        return [TensorType(x.dtype, x.shape)]

    def compute(self, xs):
        y = xs[0]
        if len(xs) > 1 and xs[1] is not None:
            y = np.maximum(y, xs[1].reshape(()))
        if len(xs) > 2 and xs[2] is not None:
            y = np.minimum(y, xs[2].reshape(()))
        return [y]


@register
class Sigmoid(Unary):
    """y = 1 / (1 + e**-x)."""

    @property
    def function(self) -> Activation:
        return Activation("sigmoid")


@register
class Tanh(Unary):
    """Hyperbolic tangent."""

    @property
    def function(self) -> Activation:
        return Activation("tanh")


@register
class HardSigmoid(Unary):
    """y = max(0, min(1, alpha * x + beta))."""

    alpha: float = 0.2
    beta: float = 0.5

    @property
    def function(self) -> Activation:
        return Activation("hard_sigmoid", self.alpha, self.beta)


@register
class HardSwish(Unary):
    """y = x * max(0, min(1, x / 6 + 1 / 2))."""

    @property
    def function(self) -> Activation:
        return Activation("hard_swish")


@register
class Elu(Unary):
    """y = x for x > 0, alpha * (e**x - 1) below."""

    alpha: float = 1.0

    @property
    def function(self) -> Activation:
        return Activation("elu", self.alpha)


@register
class Selu(Unary):
    """y = gamma * x for x > 0, gamma * alpha * (e**x - 1) below."""

    alpha: float = 1.67326319217681884765625
    gamma: float = 1.05070102214813232421875

    @property
    def function(self) -> Activation:
        return Activation("selu", self.alpha, self.gamma)


@register
class Celu(Unary):
    """y = x for x > 0, alpha * (e**(x / alpha) - 1) below."""

    alpha: float = 1.0

    @property
    def function(self) -> Activation:
        return Activation("celu", self.alpha)


@register
class Softplus(Unary):
    """y = log(1 + e**x), without overflow."""

    @property
    def function(self) -> Activation:
        return Activation("softplus")


@register
class Softsign(Unary):
    """y = x / (1 + abs(x))."""

    @property
    def function(self) -> Activation:
        return Activation("softsign")


@register
class Mish(Unary):
    """y = x * tanh(log(1 + e**x))."""

    @property
    def function(self) -> Activation:
        return Activation("mish")


@register
class Gelu(Unary):
    """y = x * (1 + erf(x / sqrt(2))) / 2, or with ``approximate="tanh"`` its tanh form."""

    approximate: str = "none"

    @property
    def function(self) -> Activation:
        return Activation("gelu_tanh" if self.approximate == "tanh" else "gelu")

    def infer(self, types, values):
        need(
            self.approximate in ("none", "tanh"),
            f'approximate {self.approximate!r} is neither "none" nor "tanh"',
        )
        return super().infer(types, values)


@register
class Swish(Unary):
    """y = x * sigmoid(alpha * x)."""

    alpha: float = 1.0

    @property
    def function(self) -> Activation:
        return Activation("silu", self.alpha)


@register
class ThresholdedRelu(Unary):
    """y = x for x > alpha, else 0."""

    alpha: float = 1.0

    @property
    def function(self) -> Activation:
        return Activation("thresholded_relu", self.alpha)


@register
class Shrink(Unary):
    """y = x + bias for x < -lambd, x - bias for x > lambd, else 0."""

    kinds = "fiu"
    bias: float = 0.0
    lambd: float = 0.5

    @property
    def function(self) -> Activation:
        return Activation("shrink", self.lambd, self.bias)
