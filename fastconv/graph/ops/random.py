"""Random numbers: NumPy's Mersenne Twister, seeded by ``seed`` or by the system.

Source: ONNX operators RandomNormal-22, RandomUniform-22, their ``Like`` forms, Bernoulli-22 and
Multinomial-22, which leave the generator open. With a seed every run gives the same numbers.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from ...errors import InputError, UnsupportedError
from ...sizes import checked_size
from ..core import TensorType
from ..op import Op, fields_only, need, register

#: Types of results by ONNX's number. 16-bit floats are held in float32.
TYPES: dict[int, Any] = {
    1: np.float32, 2: np.uint8, 3: np.int8, 4: np.uint16, 5: np.int16, 6: np.int32, 7: np.int64,
    9: np.bool_, 10: np.float32, 11: np.float64, 12: np.uint32, 13: np.uint64, 16: np.float32,
}  # fmt: skip


def result_type(code: int | None, default: np.dtype[Any] | None) -> np.dtype[Any] | None:
    """The dtype that an attribute names.

    Raises:
        UnsupportedError: there is no such type.
    """
    if not code:
        return default
    if code not in TYPES:
        raise UnsupportedError(f"random numbers of data type {code}")
    return np.dtype(TYPES[code])


@fields_only
class Random(Op):
    """Base: a generator."""

    deterministic: ClassVar[bool] = False
    seed: float | None = None

    def generator(self) -> np.random.RandomState:
        """A generator in its first state."""
        if self.seed is None or self.seed != self.seed:
            return np.random.RandomState()
        return np.random.RandomState(int(self.seed) & 0xFFFFFFFF)


@fields_only
class Drawn(Random):
    """Base: numbers of one distribution, in a given shape or that of the input."""

    def draw(self, shape: tuple[int, ...]) -> np.ndarray:
        """The numbers, as float64."""
        raise NotImplementedError

    def infer(self, types, values):
        if not types:
            shape = tuple(self.shape)  # type: ignore[attr-defined]
            need(all(d >= 0 for d in shape), lambda: f"shape {list(shape)} has a negative entry")
            return [TensorType(result_type(self.dtype, None), shape)]  # type: ignore[attr-defined]
        dtype = result_type(self.dtype, types[0].dtype)  # type: ignore[attr-defined]
        return [TensorType(dtype, types[0].shape)]

    def compute(self, xs):
        given = [TensorType(x.dtype, x.shape) for x in xs]
        (t,) = self.infer(given, list(xs))
        checked_size(t.shape, 8, "random numbers")
        return [self.draw(t.shape).astype(t.dtype)]


@fields_only
class Normal(Drawn):
    """Base: numbers around ``mean`` with standard deviation ``scale``."""

    mean: float = 0.0
    scale: float = 1.0

    def draw(self, shape):
        return self.generator().standard_normal(shape) * self.scale + self.mean


@fields_only
class Uniform(Drawn):
    """Base: numbers from ``low`` to below ``high``."""

    high: float = 1.0
    low: float = 0.0

    def draw(self, shape):
        return self.generator().random_sample(shape) * (self.high - self.low) + self.low


@register
class RandomNormal(Normal):
    """Normally distributed numbers of a given shape."""

    arity = (0, 0)
    dtype: int = 1
    shape: tuple[int, ...] = ()


@register
class RandomUniform(Uniform):
    """Uniformly distributed numbers of a given shape."""

    arity = (0, 0)
    dtype: int = 1
    shape: tuple[int, ...] = ()


@register
class RandomNormalLike(Normal):
    """Normally distributed numbers in the input's shape."""

    dtype: int | None = None


@register
class RandomUniformLike(Uniform):
    """Uniformly distributed numbers in the input's shape."""

    dtype: int | None = None


@register
class Bernoulli(Random):
    """1 with the probability that each element of the input is, else 0."""

    dtype: int | None = None

    def infer(self, types, values):
        return [TensorType(result_type(self.dtype, types[0].dtype), types[0].shape)]

    def compute(self, xs):
        x = xs[0]
        if x.size and not (x.min() >= 0 and x.max() <= 1):
            raise InputError("Bernoulli needs probabilities from 0 to 1")
        dtype = result_type(self.dtype, x.dtype)
        return [self.generator().binomial(1, p=x).astype(dtype)]


@register
class Multinomial(Random):
    """Indices of classes, drawn by their unnormalised log-probabilities (batch, classes).

    Output: (batch, sample_size).
    """

    dtype: int = 6
    sample_size: int = 1

    def infer(self, types, values):
        x = types[0]
        need(x.rank in (None, 2), lambda: f"Multinomial needs (batch, classes), not {x}")
        need(self.sample_size >= 1, lambda: f"sample_size {self.sample_size} must be positive")
        need(self.dtype in (6, 7), lambda: f"dtype {self.dtype} must be int32 (6) or int64 (7)")
        batch = x.shape[0] if x.shape is not None else None
        return [TensorType(result_type(self.dtype, None), (batch, self.sample_size))]

    def compute(self, xs):
        x = xs[0].astype(np.float64)
        need(x.ndim == 2 and x.shape[1] > 0, lambda: f"no classes in {list(x.shape)}")
        checked_size((x.shape[0], self.sample_size), 8, "samples")
        with np.errstate(all="ignore"):
            steps = np.cumsum(np.exp(x - x.max(axis=1, keepdims=True)), axis=1)
        points = self.generator().random_sample((x.shape[0], self.sample_size)) * steps[:, -1:]
        rows = [np.searchsorted(s, p, side="right") for s, p in zip(steps, points, strict=True)]
        drawn = np.array(rows).reshape(points.shape)
        return [np.minimum(drawn, x.shape[1] - 1).astype(TYPES[self.dtype])]
