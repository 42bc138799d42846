"""What onnxruntime's own operators need beyond ONNX's (``importer/contrib.py`` rewrites them).

Source of the meaning: onnxruntime's contributed operators FusedMatMul, Inverse and CropAndResize.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...errors import InputError
from ...sizes import checked_size
from ..core import TensorType
from ..op import Op, need, register


@register
class MatrixTranspose(Op):
    """Swaps the last two axes, or moves the first axis behind the other leading ones, or both.

    ``batch`` comes first: (a, b, c, k) → (b, c, a, k); then ``last``: (…, m, k) → (…, k, m).
    """

    domain = "fastconv"
    last: int = 1
    batch: int = 0

    def order(self, rank: int) -> tuple[int, ...]:
        """The permutation for a rank; vectors stay as they are."""
        axes = list(range(rank))
        if rank < 2:
            return tuple(axes)
        if self.batch:
            axes = [*axes[1:-1], 0, axes[-1]]
        if self.last:
            axes[-2:] = axes[:-3:-1]
        return tuple(axes)

    def infer(self, types, values):
        x = types[0]
        if x.shape is None:
            return [x]
        return [TensorType(x.dtype, tuple(x.shape[a] for a in self.order(len(x.shape))))]

    def compute(self, xs):
        return [xs[0].transpose(self.order(xs[0].ndim))]


@register
class MatrixInverse(Op):
    """The inverse of each matrix (…, n, n).

    Raises:
        InputError: a matrix has none.
    """

    domain = "fastconv"

    def infer(self, types, values):
        x = types[0]
        if x.shape is not None:
            need(len(x.shape) >= 2, lambda: f"the inverse needs matrices, not {x}")
            a, b = x.shape[-2:]
            if isinstance(a, int) and isinstance(b, int):
                need(a == b, lambda: f"{x} is not square")
        return [x]

    def compute(self, xs):
        wide = np.result_type(xs[0].dtype, np.float32)
        try:
            return [np.linalg.inv(xs[0].astype(wide, copy=False)).astype(xs[0].dtype, copy=False)]
        except np.linalg.LinAlgError:
            raise InputError("a matrix is singular: it has no inverse") from None


@register
class PadChannels(Op):
    """Zeros behind the channels (axis 1), up to a multiple of ``block``."""

    domain = "fastconv"
    block: int

    def infer(self, types, values):
        x = types[0]
        if x.shape is None:
            return [x]
        need(len(x.shape) >= 2, lambda: f"channels are axis 1, which {x} has not")
        c = x.shape[1]
        full = -(-c // self.block) * self.block if isinstance(c, int) else None
        return [TensorType(x.dtype, (x.shape[0], full, *x.shape[2:]))]

    def compute(self, xs):
        x = xs[0]
        more = -x.shape[1] % self.block
        checked_size((x.shape[0], x.shape[1] + more, *x.shape[2:]), x.itemsize, "padded channels")
        return [np.pad(x, [(0, 0), (0, more), *[(0, 0)] * (x.ndim - 2)])]


@register
class CropAndResize(Op):
    """Boxes of images, resampled to one size with the corners of box and result aligned.

    Inputs: X (N, C, H, W), boxes (R, 4) as y1, x1, y2, x2 where 0 and 1 are the first and the last
    pixel's centre, the image of each box (R), and (height, width) of the result. Output (R, C,
    height, width). Points outside give ``extrapolation_value``.
    """

    domain = "com.microsoft"
    arity = (4, 4)
    extrapolation_value: float = 0.0
    mode: str = "bilinear"

    def infer(self, types, values):
        x, boxes, batch = types[:3]
        for t, rank, what in ((x, 4, "X"), (boxes, 2, "rois"), (batch, 1, "batch_indices")):
            need(t.rank in (None, rank), lambda: f"{what} must have rank {rank}, not {t}")
        need(self.mode in ("bilinear", "nearest"), f"mode {self.mode!r} is not known")
        sides: tuple[Any, ...] = (None, None)
        if values[3] is not None:
            need(values[3].size == 2, "crop_size needs two numbers: height and width")
            sides = tuple(int(v) for v in values[3])
            need(min(sides) > 0, lambda: f"crop_size {list(sides)} must be positive")
        count = boxes.shape[0] if boxes.shape is not None else None
        return [TensorType(x.dtype, (count, x.shape[1] if x.shape else None, *sides))]

    def compute(self, xs):
        x, boxes, batch, size = xs
        n, c, h, w = x.shape
        sides = tuple(int(v) for v in size)
        checked_size((len(boxes), c, *sides), 8, "crops")
        if len(batch) != len(boxes):
            raise InputError(f"{len(boxes)} rois, but {len(batch)} batch_indices")
        if batch.size and (batch.min() < 0 or batch.max() >= n):
            raise InputError(f"batch_indices outside the {n} images")
        out = np.empty((len(boxes), c, *sides), x.dtype)
        for k, (box, image) in enumerate(zip(boxes, batch, strict=True)):
            ys, inside_y = _positions(box[0], box[2], sides[0], h)
            xs_, inside_x = _positions(box[1], box[3], sides[1], w)
            inside = inside_y[:, None] & inside_x
            if self.mode == "nearest":
                part = x[image][:, _half_away(ys)][:, :, _half_away(xs_)]
            else:
                part = _blend(x[image], ys, xs_)
            out[k] = np.where(inside, part, np.asarray(self.extrapolation_value, x.dtype))
        return [out]


def _positions(start: Any, end: Any, count: int, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the points of one axis lie, clipped to the image, and which of them are inside it."""
    one = np.float32
    if count > 1:
        step = (one(end) - one(start)) * one(limit - 1) / one(count - 1)
        at = one(start) * one(limit - 1) + np.arange(count, dtype=one) * step
    else:
        at = np.array([one(0.5) * (one(start) + one(end)) * one(limit - 1)], one)
    inside = (at >= 0) & (at <= limit - 1)
    return np.where(inside, at, 0), inside


def _half_away(at: np.ndarray) -> np.ndarray:
    return np.floor(at + np.float32(0.5)).astype(np.intp)


def _blend(image: np.ndarray, ys: np.ndarray, xs: np.ndarray) -> np.ndarray:
    top, left = np.floor(ys).astype(np.intp), np.floor(xs).astype(np.intp)
    bottom, right = np.ceil(ys).astype(np.intp), np.ceil(xs).astype(np.intp)
    fy, fx = (ys - top)[:, None], xs - left
    upper = image[:, top][:, :, left] * (1 - fx) + image[:, top][:, :, right] * fx
    lower = image[:, bottom][:, :, left] * (1 - fx) + image[:, bottom][:, :, right] * fx
    return upper * (1 - fy) + lower * fy
