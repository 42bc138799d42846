"""Functions of one value. Source of the maths: the ONNX operator specification, opset 24."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from ..activation import Activation
from ..op import register
from .elementwise import Unary


@register
class Erf(Unary):
    """The error function."""

    @property
    def function(self) -> Activation:
        return Activation("erf")


@register
class Exp(Unary):
    """e to the power of x."""

    @property
    def function(self) -> Activation:
        return Activation("exp")


@register
class Log(Unary):
    """Natural logarithm."""

    @property
    def function(self) -> Activation:
        return Activation("log")


@register
class Sqrt(Unary):
    """Square root."""

    @property
    def function(self) -> Activation:
        return Activation("sqrt")


@register
class Reciprocal(Unary):
    """y = 1 / x."""

    @property
    def function(self) -> Activation:
        return Activation("reciprocal")


@register
class Floor(Unary):
    """The largest integer not above x."""

    @property
    def function(self) -> Activation:
        return Activation("floor")


@register
class Ceil(Unary):
    """The smallest integer not below x."""

    @property
    def function(self) -> Activation:
        return Activation("ceil")


@register
class Round(Unary):
    """The nearest integer, half to even."""

    @property
    def function(self) -> Activation:
        return Activation("round")


@register
class Sin(Unary):
    """Sine of radians."""

    @property
    def function(self) -> Activation:
        return Activation("sin")


@register
class Cos(Unary):
    """Cosine of radians."""

    @property
    def function(self) -> Activation:
        return Activation("cos")


@register
class Abs(Unary):
    """Absolute value."""

    kinds = "fiu"

    @property
    def function(self) -> Activation:
        return Activation("abs")

    def compute(self, xs):
        return [np.asarray(np.absolute(xs[0]))]


@register
class Neg(Unary):
    """y = -x."""

    kinds = "fi"

    @property
    def function(self) -> Activation:
        return Activation("neg")

    def compute(self, xs):
        return [np.asarray(np.negative(xs[0]))]


@register
class Sign(Unary):
    """-1, 0 or 1."""

    kinds = "fiu"

    @property
    def function(self) -> Activation:
        return Activation("sign")

    def compute(self, xs):
        return [np.asarray(np.sign(xs[0]))]


class NumpyUnary(Unary):
    """Base of rare functions: NumPy computes them, there is no kernel."""

    ufunc: ClassVar[Callable[..., Any]]

    def compute(self, xs):
        with np.errstate(all="ignore"):
            return [np.asarray(type(self).ufunc(xs[0]))]


@register
class Tan(NumpyUnary):
    """Tangent of radians."""

    ufunc = np.tan


@register
class Asin(NumpyUnary):
    """Arc sine in radians."""

    ufunc = np.arcsin


@register
class Acos(NumpyUnary):
    """Arc cosine in radians."""

    ufunc = np.arccos


@register
class Atan(NumpyUnary):
    """Arc tangent in radians."""

    ufunc = np.arctan


@register
class Sinh(NumpyUnary):
    """Hyperbolic sine."""

    ufunc = np.sinh


@register
class Cosh(NumpyUnary):
    """Hyperbolic cosine."""

    ufunc = np.cosh


@register
class Asinh(NumpyUnary):
    """Inverse hyperbolic sine."""

    ufunc = np.arcsinh


@register
class Acosh(NumpyUnary):
    """Inverse hyperbolic cosine."""

    ufunc = np.arccosh


@register
class Atanh(NumpyUnary):
    """Inverse hyperbolic tangent."""

    ufunc = np.arctanh
