"""Resize and GridSample: interpolation on the grid of elements.

Sources: ONNX operators Resize-19 and GridSample-22. Resize is separable, so one function makes the
table of every axis (``Resize.axis_table``): which input positions each output position blends, and
with what weights. ``compute`` and the kernel both work from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from ...sizes import checked_size
from ..core import TensorType
from ..op import Op, need, register
from ..symbols import Dim, is_static
from ..tracing import pure
from .shape import axes_of, given, integers, optional

COORDINATES = (
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "tf_crop_and_resize",
)
NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
#: The rounding of Resize-10, which had no attribute for it: down, or up where an axis shrinks.
OPSET_10 = "opset 10"
POLICIES = ("stretch", "not_larger", "not_smaller")
#: More taps than this for one output element would be a mistake (or an attack).
MAX_TABLE = 1 << 28


class Axis(NamedTuple):
    """What happens to one axis: ``scale``, output size, and the part of it that ``roi`` names."""

    scale: float
    out: Dim
    start: float = 0.0
    end: float = 1.0

    def keeps(self, size: int) -> bool:
        """Whether nothing happens to an axis of so many elements."""
        same = self.out == size and abs(self.scale - 1) < 1e-9
        return same and (self.start, self.end) == (0.0, 1.0)


class AxisTable(NamedTuple):
    """How an axis of the result is blended from the input's.

    Attributes:
        source: int64 [out, taps], each inside the input.
        weight: float64 [out, taps], or None for one tap of weight 1.
        outside: bool [out]: positions that show the extrapolation value; None when there are none.
    """

    source: np.ndarray
    weight: np.ndarray | None
    outside: np.ndarray | None


def coordinates(mode: str, size: int, axis: Axis, dtype: Any) -> np.ndarray:
    """The input coordinate of every output position of an axis.

    Where a size is a fraction (a scale that does not divide), align_corners, half_pixel_symmetric
    and tf_crop_and_resize use the fraction, as the ONNX reference does.
    """
    out = int(axis.out)  # type: ignore[arg-type]
    y = np.arange(out, dtype=dtype)
    scale = dtype(axis.scale)
    length = axis.scale * size
    if mode == "align_corners":
        return y * 0 if length == 1 else y * dtype(size - 1) / dtype(length - 1)
    if mode == "asymmetric":
        return y / scale
    if mode == "tf_crop_and_resize":
        span = (axis.end - axis.start) * (size - 1)
        first = axis.start * (size - 1)
        return y * 0 + dtype(first + span / 2) if length == 1 else (
            y * dtype(span) / dtype(length - 1) + dtype(first)
        )  # fmt: skip
    if mode == "pytorch_half_pixel" and out == 1:
        return y * 0
    x = (y + dtype(0.5)) / scale - dtype(0.5)
    if mode == "half_pixel_symmetric":
        x = x + dtype(size / 2 * (1 - out / length))
    return x


def nearest_index(x: np.ndarray, mode: str) -> np.ndarray:
    """Coordinates rounded to whole positions."""
    if mode == "floor":
        return np.floor(x)
    if mode == "ceil":
        return np.ceil(x)
    half = x.dtype.type(0.5)
    return np.ceil(x - half) if mode == "round_prefer_floor" else np.floor(x + half)


def cubic(t: np.ndarray, a: float) -> np.ndarray:
    """Cubic convolution of Keys, 1981, equation (4), at distance ``t``."""
    t = np.abs(t)
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
    return np.where(t <= 1, near, np.where(t < 2, far, 0.0))


def triangle(t: np.ndarray, a: float) -> np.ndarray:
    """Linear interpolation's weight at distance ``t``."""
    return np.clip(1 - np.abs(t), 0, 1)


#: What ``Resize.plan`` said: shape rule, lowering and computation ask for the same.
_plans: dict[Any, list[Axis]] = {}
MOST_PLANS = 256
#: Tables of axes that are not longer than this, which images of one width have in common.
_tables: dict[Any, Any] = {}
LONG = 2048


@register
class Resize(Op):
    """Interpolates along any axes. Inputs: X, roi, scales, sizes (one of the last two).

    Integers are rounded to nearest and clipped to their range after interpolation in float64.
    """

    arity = (1, 4)
    antialias: int = 0
    axes: tuple[int, ...] | None = None
    coordinate_transformation_mode: str = "half_pixel"
    cubic_coeff_a: float = -0.75
    exclude_outside: int = 0
    extrapolation_value: float = 0.0
    keep_aspect_ratio_policy: str = "stretch"
    mode: str = "nearest"
    nearest_mode: str = "round_prefer_floor"

    def check(self) -> None:
        """Refuse attribute values that do not exist.

        Raises:
            ShapeError: naming the attribute.
        """
        for name, known in (
            ("mode", ("nearest", "linear", "cubic")),
            ("coordinate_transformation_mode", COORDINATES),
            ("nearest_mode", (*NEAREST, OPSET_10)),
            ("keep_aspect_ratio_policy", POLICIES),
        ):
            value = getattr(self, name)
            need(value in known, f"{name} {value!r} is not one of {', '.join(known)}")
        need(
            not (self.antialias and self.mode == "nearest"), "antialias goes with linear and cubic"
        )

    def plan(self, shape: Sequence[Dim], values: Sequence[Any]) -> list[Axis]:
        """Every axis' scale and output size.

        Args:
            shape: the input's.
            values: the arrays of the inputs; roi, scales and sizes must be there or None.

        Raises:
            ShapeError: lists of the wrong length, or sizes that make no sense.
        """
        if not isinstance(shape, tuple) or not is_static(shape):
            return self._plan(shape, values)
        key = (self, shape, *[None if v is None else (v.dtype, v.tobytes()) for v in values[1:4]])
        try:
            found = _plans.get(key)
        except TypeError:  # traced sizes
            return self._plan(shape, values)
        if found is None:
            found = self._plan(shape, values)
            if len(_plans) >= MOST_PLANS:
                _plans.clear()
            _plans[key] = found
        return list(found)

    def _plan(self, shape: Sequence[Dim], values: Sequence[Any]) -> list[Axis]:
        self.check()
        rank = len(shape)
        axes = axes_of(range(rank) if self.axes is None else self.axes, rank)
        n = len(axes)
        roi, scales = optional(values, 1), optional(values, 2)
        sizes = integers(values, 3, "sizes")
        scales = None if scales is None or scales.size == 0 else scales
        sizes = sizes or None
        need(scales is not None or sizes is not None, "needs input scales or sizes")
        need(scales is None or sizes is None, "has both scales and sizes; only one may be given")
        parts = [(0.0, 1.0)] * n
        if self.coordinate_transformation_mode == "tf_crop_and_resize":
            need(roi is not None and roi.size == 2 * n, f"roi needs 2 entries for each of {n} axes")
            flat = [float(r) for r in roi.reshape(-1)]
            parts = list(zip(flat[:n], flat[n:], strict=True))
        result = [Axis(1.0, d) for d in shape]
        if scales is not None:
            factors = scales.reshape(-1).tolist()
            need(scales.size == n, lambda: f"scales {factors} needs an entry for each of {n} axes")
            for a, s, part in zip(axes, factors, parts, strict=True):
                if not 0 < s < np.inf:
                    need(False, f"scale {s} on axis {a} is not positive")
                result[a] = Axis(s, scaled(shape[a], s), *part)
            return result
        assert sizes is not None
        need(len(sizes) == n, f"sizes {sizes} needs an entry for each of {n} axes")
        need(all(s >= 0 for s in sizes), f"sizes {sizes} has a negative entry")
        ratios: list[float | None] = []
        for a, s in zip(axes, sizes, strict=True):
            d = shape[a]
            need(d != 0 or s == 0, f"axis {a} of size 0 cannot be resized to {s}")
            ratios.append(1.0 if d == 0 else s / d if isinstance(d, int) else None)
        if self.keep_aspect_ratio_policy == "stretch":
            for a, s, ratio, part in zip(axes, sizes, ratios, parts, strict=True):
                result[a] = Axis(1.0 if ratio is None else ratio, s, *part)
            return result
        known = [r for r in ratios if r is not None]
        choose = min if self.keep_aspect_ratio_policy == "not_larger" else max
        for a, part in zip(axes, parts, strict=True):
            d, ratio = shape[a], choose(known) if len(known) == n else None
            size = int(ratio * d + 0.5) if ratio is not None and isinstance(d, int) else None
            result[a] = Axis(ratio or 1.0, size, *part)
        return result

    def infer(self, types, values):
        x = types[0]
        self.check()
        if x.shape is None:
            return [TensorType(x.dtype, None)]
        late = [i for i in (2, 3) if given(types, i) and optional(values, i) is None]
        if any(types[i].shape != (0,) for i in late):
            axes = axes_of(range(len(x.shape)) if self.axes is None else self.axes, len(x.shape))
            shape = tuple(None if k in axes else d for k, d in enumerate(x.shape))
            return [TensorType(x.dtype, shape)]
        if self.coordinate_transformation_mode == "tf_crop_and_resize":
            roi = types[1] if given(types, 1) else None
            need(roi is not None, "tf_crop_and_resize needs input roi")
            values = [
                v if i != 1 or v is not None else self.any_roi(x) for i, v in enumerate(values)
            ]
        shape = tuple(a.out for a in self.plan(x.shape, values))
        if is_static(shape):
            checked_size(shape, 8, "resized value")  # type: ignore[arg-type]
        return [TensorType(x.dtype, shape)]

    def any_roi(self, x: TensorType) -> np.ndarray:
        """Some roi of the right length: the shape does not depend on it."""
        n = len(x.shape or ()) if self.axes is None else len(self.axes)
        return np.repeat([0.0, 1.0], n)

    def tables(self, shape: Sequence[int], values: Sequence[Any]) -> dict[int, AxisTable]:
        """The table of every axis that changes."""
        result = {}
        for k, axis in enumerate(self.plan(shape, values)):
            table = self.axis_table(shape[k], axis)
            if table is not None:
                result[k] = table
        return result

    def axis_table(self, size: int, axis: Axis) -> AxisTable | None:
        """The table of one axis with ``size`` input elements; None when nothing happens on it."""
        out: Any = axis.out
        if out > LONG or size > LONG:
            return self._axis_table(size, axis)
        key = (self, repr(self.cubic_coeff_a), size, axis)
        found = _tables.get(key, self)
        if found is self:
            found = self._axis_table(size, axis)
            if len(_tables) >= MOST_PLANS:
                _tables.clear()
            _tables[key] = found
        return found

    def _axis_table(self, size: int, axis: Axis) -> AxisTable | None:
        out, mode = int(axis.out), self.coordinate_transformation_mode  # type: ignore[arg-type]
        crop = mode == "tf_crop_and_resize"
        if axis.keeps(size):
            return None
        need(out <= MAX_TABLE, f"an axis of {out} elements is too long to interpolate")
        if self.mode == "nearest":
            # float32, as other engines compute it: which neighbour is nearest hangs on rounding.
            x = coordinates(mode, size, axis, np.float32)
        else:
            x = coordinates(mode, size, axis, np.float64)
        outside = (x < 0) | (x > size - 1) if crop else None
        outside = outside if outside is not None and outside.any() else None
        last = max(0, size - 1)
        # Coordinates far outside (a roi can name any) all mean the same; keep them small.
        # (They lie on a line, so that its ends tell; a NaN passes neither comparison.)
        least, most = -4.0 - size, 2.0 * size + 4
        if out and not (least <= x[0] <= most and least <= x[-1] <= most):
            x = np.clip(np.nan_to_num(x), least, most)
        if self.mode == "nearest":
            rounding = self.nearest_mode
            if rounding == OPSET_10:
                rounding = "ceil" if axis.scale < 1 else "floor"
            index = nearest_index(x, rounding).astype(np.int64)
            np.minimum(index, last, out=index)
            np.maximum(index, 0, out=index)
            return AxisTable(index[:, None], None, outside)
        support, function = (1, triangle) if self.mode == "linear" else (2, cubic)
        stretch = min(axis.scale, 1.0) if self.antialias else 1.0
        start = int(np.floor(-support / stretch)) + 1
        taps = np.arange(start, 2 - start)
        checked_size((out, taps.size), 8, "interpolation table")
        need(out * taps.size <= MAX_TABLE, f"scale {axis.scale} needs {taps.size} taps per element")
        # The pixel left of x, itself not counted: the fraction lies in (0, 1].
        left = np.ceil(x) - 1
        weight = function((taps - (x - left)[:, None]) * stretch, self.cubic_coeff_a)
        if self.antialias:
            weight = weight / weight.sum(1, keepdims=True)
        index = left.astype(np.int64)[:, None] + taps
        if self.exclude_outside:
            weight = np.where((index < 0) | (index > last), 0.0, weight)
            total = weight.sum(1, keepdims=True)
            weight = weight / np.where(total == 0, 1.0, total)
        return AxisTable(np.clip(index, 0, last), weight, outside)

    def compute(self, xs):
        x = xs[0]
        shape = self.infer([None if v is None else TensorType(v.dtype, v.shape) for v in xs], xs)
        size = checked_size(shape[0].shape, 8, "resized value")
        if size == 0 and is_static(shape[0].shape):
            return [np.zeros(shape[0].shape, x.dtype)]  # tables of its long axes would be useless
        tables = self.tables(x.shape, xs)
        blend = any(t.weight is not None for t in tables.values())
        y = x.astype(np.float64) if blend else x
        # The axes that shrink most come first: less to do for the others.
        for k in sorted(tables, key=lambda k: tables[k].source.shape[0] / max(1, x.shape[k])):
            t = tables[k]
            if t.weight is None:
                y = np.take(y, t.source[:, 0], k)
                continue
            total: Any = 0.0
            for tap in range(t.source.shape[1]):
                w = t.weight[:, tap].reshape(-1, *(1,) * (y.ndim - 1 - k))
                total = total + np.take(y, t.source[:, tap], k) * w
            y = total
        for k, t in tables.items():
            if t.outside is not None:
                y = y.copy() if y is x else y
                y[(slice(None),) * k + (t.outside,)] = self.extrapolation_value
        if blend and x.dtype.kind in "iu":
            info = np.iinfo(x.dtype)
            y = np.clip(np.round(y), info.min, info.max)
        return [y.astype(x.dtype, copy=False)]


def scaled(size: Dim, scale: Any) -> Dim:
    """floor(size × scale), in float32 as ONNX' shape inference multiplies."""
    if isinstance(size, int):
        if scale == 1 and size < 1 << 24:  # a float32 holds it
            return size
        return multiplied(size, scale)
    if size is None:
        return None
    return size * int(scale) if float(scale).is_integer() else None


@pure
def multiplied(size: int, scale: float) -> int:
    """``scaled`` of numbers."""
    product = float(np.floor(np.float32(size) * np.float32(scale)))
    need(product < 2.0**40, f"axis of size {size} times {scale} is too long")
    return int(product)


@register
class GridSample(Op):
    """Samples X (N, C, *size) at the points of grid (N, *out, rank), giving (N, C, *out).

    A point's coordinates are −1 … 1 across the axes, last axis first. With ``align_corners`` ±1 are
    the centres of the corner elements, else their outer edges. ``padding_mode`` says what lies
    outside: zeros, the border element, or a reflection. (Of cubic interpolation with borders, the
    elements are brought inside and not the point, as onnxruntime and torch have it.)
    """

    arity = (2, 2)
    align_corners: int = 0
    mode: str = "linear"
    padding_mode: str = "zeros"

    def infer(self, types, values):
        x, grid = types
        need(self.mode in ("linear", "nearest", "cubic"), f"mode {self.mode!r} is not known")
        need(
            self.padding_mode in ("zeros", "border", "reflection"),
            f"padding_mode {self.padding_mode!r} is not one of zeros, border, reflection",
        )
        if x.shape is None or grid.shape is None:
            return [TensorType(x.dtype, None if x.shape is None else (None,) * len(x.shape))]
        rank = len(x.shape) - 2
        need(rank >= 1 and len(grid.shape) == rank + 2, f"grid {grid} does not fit input {x}")
        for what, a, b in (("batch", x.shape[0], grid.shape[0]), ("rank", rank, grid.shape[-1])):
            ok = not (isinstance(a, int) and isinstance(b, int)) or a == b
            need(ok, f"input {x} and grid {grid} differ in {what}")
        return [TensorType(x.dtype, (*x.shape[:2], *grid.shape[1:-1]))]

    def compute(self, xs):
        x, grid = xs
        shape = self.infer([TensorType(a.dtype, a.shape) for a in xs], [None, None])[0].shape
        n, c, *size = x.shape
        if 0 in shape or 0 in x.shape:
            return [np.zeros(shape, x.dtype)]
        points = grid.reshape(n, -1, len(size))
        axes = [self.taps(points[..., ::-1][..., k], size[k]) for k in range(len(size))]
        flat = x.reshape(n, c, -1)
        wide = np.result_type(x.dtype, np.float32)
        total = np.zeros((n, c, points.shape[1]), wide)
        for combination in product(*axes):
            at: Any = 0
            weight: Any = 1.0
            for (index, w), d in zip(combination, size, strict=True):
                at, weight = at * d + index, weight * w
            total += np.take_along_axis(flat, at[:, None], 2) * weight[:, None].astype(wide)
        return [total.reshape(shape).astype(x.dtype, copy=False)]

    def taps(self, v: np.ndarray, size: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """(index, weight) of every tap along one axis for normalised coordinates ``v`` [n, p]."""
        half = v.dtype.type(0.5)
        at = (v + 1) * half * (size - 1) if self.align_corners else ((v + 1) * size - 1) * half
        low, high = (0.0, size - 1.0) if self.align_corners else (-0.5, size - 0.5)
        if self.mode == "nearest":
            at = np.rint(at)
        if self.padding_mode == "border" and self.mode != "cubic":
            at = np.where((at < low) | (at > high), np.clip(at, 0, size - 1), at)
        elif self.padding_mode == "reflection":
            at = reflect(at, low, high)
        if self.mode == "nearest":
            return [self.tap(at, np.ones_like(at), size, low, high)]
        base = np.floor(at)
        t = at - base
        offsets = (0, 1) if self.mode == "linear" else (-1, 0, 1, 2)
        function = triangle if self.mode == "linear" else cubic
        return [self.tap(base + o, function(t - o, -0.75), size, low, high) for o in offsets]

    def tap(
        self, at: np.ndarray, weight: np.ndarray, size: int, low: float, high: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """A whole coordinate brought inside; outside, with zeros, its weight is 0."""
        if self.padding_mode == "reflection":
            at = np.trunc(reflect(at, low, high))
        elif self.padding_mode == "zeros":
            weight = np.where((at < 0) | (at > size - 1), 0, weight)
        index = np.clip(np.nan_to_num(at), 0, size - 1).astype(np.int64)
        return index, weight


def reflect(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """Coordinates mirrored at ``low`` and ``high`` until they lie between."""
    span = high - low
    if span <= 0:
        return np.full_like(x, low)
    distance = np.where(x < low, low - x, x - high)
    turns = np.floor(distance / span)
    rest = distance - turns * span
    even = turns % 2 == 0
    below = np.where(even, low + rest, high - rest)
    above = np.where(even, high - rest, low + rest)
    return np.where(x < low, below, np.where(x > high, above, x)).astype(x.dtype)
