"""Operators of detectors and of learned warps, in NumPy.

Source: ONNX operators DeformConv-22, RoiAlign-22, MaxRoiPool-22, NonMaxSuppression-11,
AffineGrid-20, Col2Im-18; "Deformable ConvNets v2" (arXiv 1811.11168), "Mask R-CNN"
(arXiv 1703.06870) and "Fast R-CNN" (arXiv 1504.08083).
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np

from ...errors import InputError, UnsupportedError
from ...sizes import checked_size
from ..core import TensorType
from ..op import Op, need, register
from ..window import check_window, resolve_window
from .shape import INT64, dims_product


def need_rank(t: TensorType, rank: int, what: str) -> None:
    """Raise ShapeError where a rank is known and wrong."""
    need(t.rank in (None, rank), lambda: f"{what} must have rank {rank}, not {t}")


@register
class DeformConv(Op):
    """2-D convolution whose taps are moved by learned offsets and scaled by a mask.

    Inputs: X (N, C, H, W), W (M, C/group, kh, kw), offset (N, offset_group·kh·kw·2, oH, oW) in
    pixels, y before x, B (M) and mask (N, offset_group·kh·kw, oH, oW). Between pixels X is
    interpolated bilinearly; outside it is 0.
    """

    arity = (3, 5)
    dilations: tuple[int, ...] | None = None
    group: int = 1
    kernel_shape: tuple[int, ...] | None = None
    offset_group: int = 1
    pads: tuple[int, ...] | None = None
    strides: tuple[int, ...] | None = None

    def infer(self, types, values):
        x, w, offset = types[:3]
        if x.rank is None or w.rank is None:
            return [TensorType(x.dtype, None)]
        if x.rank != 4:
            raise UnsupportedError(f"DeformConv of rank {x.rank}: only images (rank 4) are done")
        for t, what in ((w, "W"), (offset, "offset")):
            need_rank(t, 4, what)
        if self.kernel_shape is not None:
            given, own = list(self.kernel_shape), list(w.shape[2:])
            need(given == own, lambda: f"kernel_shape {given} is not the weight's {own}")
        need(self.group >= 1 and self.offset_group >= 1, "group and offset_group must be positive")
        if isinstance(x.shape[1], int):
            need(
                w.shape[1] * self.group == x.shape[1] and x.shape[1] % self.offset_group == 0,
                f"{x} does not fit the weight {w}, group {self.group} and offset_group "
                f"{self.offset_group}",
            )
        need(w.shape[0] % self.group == 0, f"{w} does not divide into {self.group} groups")
        win = resolve_window(x.shape[2:], w.shape[2:], self.strides, self.dilations, self.pads)
        taps = self.offset_group * w.shape[2] * w.shape[3]
        mask = types[4] if len(types) > 4 else None
        for t, count, what in ((offset, 2 * taps, "offset"), (mask, taps, "mask")):
            if t is not None and t.static and x.static:
                wanted = (x.shape[0], count, *win.output)
                need(t.shape == wanted, f"{what} {t} must have shape {list(wanted)}")
        if len(types) > 3 and types[3] is not None and types[3].static:
            need(types[3].shape == (w.shape[0],), f"bias {types[3]} needs {w.shape[0]} values")
        return [TensorType(x.dtype, (x.shape[0], w.shape[0], *win.output))]

    def compute(self, xs):
        x, w, offset, bias, mask = [*xs, None, None][:5]
        n, c = x.shape[:2]
        filters, _, kh, kw = w.shape
        win = resolve_window(x.shape[2:], (kh, kw), self.strides, self.dilations, self.pads)
        oh, ow = win.output
        g, og, taps = self.group, self.offset_group, kh * kw
        wide = np.result_type(x.dtype, np.float32)
        checked_size((c, taps, oh, ow), 4 * np.dtype(wide).itemsize, "sampled input")
        # Where every tap reads without its offset: (taps, oH, oW).
        ky, kx = (k.reshape(-1, 1, 1) for k in np.indices((kh, kw)))
        top, left = win.pads[:2]
        row = ky * win.dilations[0] - top + (np.arange(oh) * win.strides[0]).reshape(1, -1, 1)
        col = kx * win.dilations[1] - left + (np.arange(ow) * win.strides[1]).reshape(1, 1, -1)
        out = np.empty((n, filters, oh * ow), wide)
        weights = w.reshape(g, filters // g, -1).astype(wide, copy=False)
        for i in range(n):
            shift = offset[i].reshape(og, taps, 2, oh, ow).astype(wide, copy=False)
            columns = np.empty((c, taps, oh * ow), wide)
            for k in range(og):
                part = slice(k * (c // og), (k + 1) * (c // og))
                columns[part] = bilinear(
                    x[i, part],
                    (row + shift[k, :, 0]).reshape(-1),
                    (col + shift[k, :, 1]).reshape(-1),
                ).reshape(c // og, taps, oh * ow)
                if mask is not None:
                    columns[part] *= mask[i].reshape(og, taps, oh * ow)[k]
            out[i] = (weights @ columns.reshape(g, -1, oh * ow)).reshape(filters, -1)
        if bias is not None:
            out += bias[:, None]
        return [out.reshape(n, filters, oh, ow).astype(x.dtype, copy=False)]


def bilinear(image: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Sample an image (C, H, W) at points; it is 0 outside. Returns (C, points)."""
    c, height, width = image.shape
    # A border of zeros, one pixel in front and two behind: every corner of every point is inside.
    padded = np.zeros((c, height + 3, width + 3), image.dtype)
    padded[:, 1:-2, 1:-2] = image
    flat = padded.reshape(c, -1)
    with np.errstate(invalid="ignore"):
        y = np.nan_to_num(np.clip(y, -1, height), nan=-1.0)
        x = np.nan_to_num(np.clip(x, -1, width), nan=-1.0)
    y0, x0 = np.floor(y), np.floor(x)
    fy, fx = y - y0, x - x0
    at = (y0.astype(np.intp) + 1) * (width + 3) + x0.astype(np.intp) + 1
    below = at + width + 3
    upper = flat[:, at] * (1 - fx) + flat[:, at + 1] * fx
    lower = flat[:, below] * (1 - fx) + flat[:, below + 1] * fx
    return upper * (1 - fy) + lower * fy


@register
class RoiAlign(Op):
    """Regions of feature maps, resampled to one size.

    Inputs: X (N, C, H, W), rois (R, 4) as x1, y1, x2, y2, and the image of each region (R). Output:
    (R, C, output_height, output_width). ``sampling_ratio`` points per bin and axis (0: as many as
    a bin has pixels, rounded up) are averaged, or (mode ``max``) the largest weighted corner taken.
    """

    arity = (3, 3)
    coordinate_transformation_mode: str = "half_pixel"
    mode: str = "avg"
    output_height: int = 1
    output_width: int = 1
    sampling_ratio: int = 0
    spatial_scale: float = 1.0

    def infer(self, types, values):
        x, rois, batch = types
        for t, rank, what in ((x, 4, "X"), (rois, 2, "rois"), (batch, 1, "batch_indices")):
            need_rank(t, rank, what)
        if rois.shape is not None and isinstance(rois.shape[1], int):
            need(rois.shape[1] == 4, lambda: f"rois {rois} must have 4 columns")
        need(self.mode in ("avg", "max"), f"mode {self.mode!r} must be avg or max")
        need(
            self.coordinate_transformation_mode in ("half_pixel", "output_half_pixel"),
            f"coordinate_transformation_mode {self.coordinate_transformation_mode!r} is not known",
        )
        need(self.output_height >= 1 and self.output_width >= 1, "the output size must be positive")
        need(self.sampling_ratio >= 0, "sampling_ratio must not be negative")
        count = rois.shape[0] if rois.shape is not None else None
        channels = x.shape[1] if x.shape is not None else None
        return [TensorType(x.dtype, (count, channels, self.output_height, self.output_width))]

    def compute(self, xs):
        x, rois, batch = xs
        _, c, height, width = x.shape
        size = (self.output_height, self.output_width)
        checked_size((len(rois), c, *size), 8, "regions")
        if batch.size and (batch.min() < 0 or batch.max() >= x.shape[0]):
            raise InputError(
                f"batch_indices run from {batch.min()} to {batch.max()}, but there are "
                f"{x.shape[0]} images"
            )
        if len(batch) != len(rois):
            raise InputError(f"{len(rois)} rois, but {len(batch)} batch_indices")
        wide = np.result_type(x.dtype, np.float32)
        out = np.zeros((len(rois), c, *size), wide)
        half = self.coordinate_transformation_mode == "half_pixel"
        for k, (roi, image) in enumerate(zip(rois.astype(np.float64), batch, strict=True)):
            x1, y1, x2, y2 = roi * self.spatial_scale - (0.5 if half else 0.0)
            axes = []
            for start, end, bins, limit in ((y1, y2, size[0], height), (x1, x2, size[1], width)):
                if not np.isfinite(end - start):
                    raise InputError(f"region {k} is {roi.tolist()}: not finite")
                length = end - start if half else max(end - start, 1.0)
                axes.append(self._points(start, length, bins, limit))
            if not all(len(a[0]) for a in axes):
                continue  # an empty region gives 0
            (ylo, yhi, yw), (xlo, xhi, xw) = axes
            checked_size((c, len(ylo), len(xlo)), 8, f"samples of region {k}")
            rows = x[image].astype(wide, copy=False)
            corners = [
                rows[:, a][:, :, b] * (wa[:, None] * wb)
                for a, wa in ((ylo, 1 - yw[0]), (yhi, yw[0]))
                for b, wb in ((xlo, 1 - xw[0]), (xhi, xw[0]))
            ]
            inside = yw[1][:, None] & xw[1]
            if self.mode == "avg":
                samples = np.where(inside, sum(corners), 0)
            else:
                samples = np.where(inside, np.maximum.reduce(corners), 0)
            samples = samples.reshape(c, size[0], -1, size[1], len(xlo) // size[1])
            reduce = np.mean if self.mode == "avg" else np.max
            out[k] = reduce(samples, axis=(2, 4))
        return [out.astype(x.dtype, copy=False)]

    def _points(self, start: float, length: float, bins: int, limit: int) -> tuple[Any, Any, Any]:
        """Sample points of one axis: lower and upper pixel, (weight of the upper, inside)."""
        per_bin = self.sampling_ratio or max(0, int(np.ceil(length / bins)))
        checked_size((bins, per_bin), 8, "sample points")
        step = length / bins
        at = (
            start + (np.arange(bins)[:, None] + (np.arange(per_bin) + 0.5) / max(per_bin, 1)) * step
        )
        at = at.reshape(-1)
        inside = (at >= -1) & (at <= limit)
        at = np.clip(at, 0, limit - 1)
        low = np.floor(at).astype(np.intp)
        return low, np.minimum(low + 1, limit - 1), (at - low, inside)


@register
class MaxRoiPool(Op):
    """The largest value in each bin of regions of feature maps.

    Inputs: X (N, C, H, W) and rois (R, 5): the image, then x1, y1, x2, y2, which are scaled by
    ``spatial_scale`` and rounded to pixels, the last of them inside. Bins overlap by what their
    borders share of a pixel. Output (R, C, *pooled_shape); an empty bin gives 0.
    """

    arity = (2, 2)
    pooled_shape: tuple[int, ...]
    spatial_scale: float = 1.0

    def infer(self, types, values):
        x, rois = types
        need_rank(x, 4, "X")
        need_rank(rois, 2, "rois")
        if rois.shape is not None and isinstance(rois.shape[1], int):
            need(rois.shape[1] == 5, lambda: f"rois {rois} must have 5 columns")
        size = tuple(self.pooled_shape)
        need(len(size) == 2 and min(size) >= 1, lambda: f"pooled_shape {list(size)} is no size")
        count = rois.shape[0] if rois.shape is not None else None
        return [TensorType(x.dtype, (count, x.shape[1] if x.shape else None, *size))]

    def compute(self, xs):
        x, rois = xs
        n, c, height, width = x.shape
        checked_size((len(rois), c, *self.pooled_shape), 8, "regions")
        if not np.isfinite(rois).all():
            raise InputError("a region's corners are not finite")
        out = np.zeros((len(rois), c, *self.pooled_shape), x.dtype)
        scale = np.float32(self.spatial_scale)
        for k, roi in enumerate(rois.astype(np.float32)):
            image = int(roi[0])
            if not 0 <= image < n:
                raise InputError(f"region {k} is of image {image}, but there are {n} images")
            # Halves go away from zero, as in C's round.
            corners = roi[1:] * scale
            x1, y1, x2, y2 = np.trunc(corners + np.copysign(np.float32(0.5), corners)).tolist()
            rows = _bins(y1, y2, self.pooled_shape[0], height)
            columns = _bins(x1, x2, self.pooled_shape[1], width)
            for i, (top, bottom) in enumerate(rows):
                band = x[image, :, top:bottom].max(axis=1) if bottom > top else None
                for j, (left, right) in enumerate(columns):
                    if band is not None and right > left:
                        out[k, :, i, j] = band[:, left:right].max(axis=1)
        return [out]


def _bins(start: float, end: float, count: int, limit: int) -> list[tuple[int, int]]:
    """First and one past the last pixel of each bin of a region, inside the image."""
    size = np.float32(max(end - start + 1, 1)) / np.float32(count)
    edges = np.arange(count + 1, dtype=np.float32) * size
    low = np.clip(np.floor(edges[:-1]) + start, 0, limit).astype(int)
    high = np.clip(np.ceil(edges[1:]) + start, 0, limit).astype(int)
    return list(zip(low.tolist(), high.tolist(), strict=True))


@register
class NonMaxSuppression(Op):
    """Greedy suppression of boxes that overlap a better one of their class.

    Inputs: boxes (N, boxes, 4) as corners y1, x1, y2, x2 in any order (``center_point_box`` 1: x, y
    of the centre, width, height), scores (N, classes, boxes), max_output_boxes_per_class (default
    0), iou_threshold (0) and score_threshold. Output: int64 rows of image, class, box; within a
    class the best first. A box goes when its overlap is above the threshold, not at it.
    """

    arity = (2, 5)
    center_point_box: int = 0

    def infer(self, types, values):
        boxes, scores = types[:2]
        need_rank(boxes, 3, "boxes")
        need_rank(scores, 3, "scores")
        if boxes.static and scores.static:
            b, s = boxes.shape, scores.shape
            need(
                b[2] == 4 and b[0] == s[0] and b[1] == s[2],
                f"boxes {boxes} must be [N, boxes, 4] for scores {scores}, [N, classes, boxes]",
            )
        need(self.center_point_box in (0, 1), "center_point_box must be 0 or 1")
        return [TensorType(INT64, (None, 3))]

    def limits(self, xs: Any) -> tuple[int, float, float | None]:
        """Most boxes per class, the largest overlap, and the score to pass (None: any)."""
        most, overlap, least = [*xs[2:], None, None, None][:3]
        return (
            0 if most is None or not most.size else max(0, int(most.reshape(-1)[0])),
            0.0 if overlap is None or not overlap.size else float(overlap.reshape(-1)[0]),
            None if least is None or not least.size else float(least.reshape(-1)[0]),
        )

    def compute(self, xs):
        boxes, scores = xs[:2]
        most, overlap, floor = self.limits(xs)
        found: list[tuple[int, int, int]] = []
        for n in range(scores.shape[0] if most else 0):
            corners, area = self.corners(boxes[n])
            for c in range(scores.shape[1]):
                score = scores[n, c]
                order = np.argsort(-score, kind="stable")
                if floor is not None:
                    order = order[score[order] > floor]
                kept: list[int] = []
                while len(order) and len(kept) < most:
                    best, order = order[0], order[1:]
                    kept.append(int(best))
                    order = order[~_overlaps(corners, area, best, order, overlap)]
                found += [(n, c, k) for k in kept]
        return [np.array(found, np.int64).reshape(-1, 3)]

    def corners(self, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Boxes as y1, x1, y2, x2 with y1 ≤ y2 and x1 ≤ x2, and their areas."""
        b = boxes.astype(np.float32, copy=False)
        if self.center_point_box:
            half = b[:, [3, 2]] / 2
            low, high = b[:, [1, 0]] - half, b[:, [1, 0]] + half
        else:
            low, high = np.minimum(b[:, :2], b[:, 2:]), np.maximum(b[:, :2], b[:, 2:])
        size = high - low
        return np.concatenate([low, high], axis=1), size[:, 0] * size[:, 1]


def _overlaps(
    corners: np.ndarray, area: np.ndarray, box: int, others: np.ndarray, threshold: float
) -> np.ndarray:
    """Which of ``others`` share more than ``threshold`` of the union with ``box``."""
    a, b = corners[box], corners[others]
    side = np.minimum(a[2:], b[:, 2:]) - np.maximum(a[:2], b[:, :2])
    shared = np.where((side > 0).all(axis=1), side[:, 0] * side[:, 1], 0)
    union = area[box] + area[others] - shared
    real = (shared > 0) & (area[box] > 0) & (area[others] > 0) & (union > 0)
    with np.errstate(all="ignore"):
        return real & (shared / union > np.float32(threshold))


@register
class AffineGrid(Op):
    """Sampling points of an affine map, for GridSample.

    Inputs: theta (N, 2, 3) or (N, 3, 4), size (N, C, H, W) or (N, C, D, H, W). Output: (N, H, W, 2)
    or (N, D, H, W, 3), coordinates from −1 to 1 with x first. ``align_corners`` 1: ±1 are the
    centres of the outer pixels, else their edges.
    """

    arity = (2, 2)
    align_corners: int = 0

    def infer(self, types, values):
        theta, size = types
        need_rank(theta, 3, "theta")
        need_rank(size, 1, "size")
        if values[1] is None:
            rank = size.shape[0] if size.shape and isinstance(size.shape[0], int) else None
            return [TensorType(theta.dtype, None if rank is None else (None,) * rank)]
        dims = [int(d) for d in values[1]]
        need(len(dims) in (4, 5), f"size {dims} must have 4 or 5 entries")
        need(all(d >= 0 for d in dims), f"size {dims} has a negative entry")
        k = len(dims) - 2
        if theta.static:
            need(
                theta.shape == (dims[0], k, k + 1),
                f"theta {theta} must be {[dims[0], k, k + 1]} for size {dims}",
            )
        shape = (dims[0], *dims[2:], k)
        checked_size(shape, 8, "grid")
        return [TensorType(theta.dtype, shape)]

    def compute(self, xs):
        theta, size = xs
        (t,) = self.infer([TensorType(theta.dtype, theta.shape), TensorType(INT64, size.shape)], xs)
        axes = []
        for n in t.shape[1:-1]:
            steps = np.arange(n, dtype=np.float64)
            if self.align_corners:
                axes.append(2 * steps / max(n - 1, 1) - 1)
            else:
                axes.append((2 * steps + 1) / n - 1)
        mesh = np.meshgrid(*axes, indexing="ij")
        points = np.stack([*mesh[::-1], np.ones_like(mesh[0])], axis=-1)
        out = points.reshape(-1, points.shape[-1]) @ np.swapaxes(theta.astype(np.float64), 1, 2)
        return [out.reshape(t.shape).astype(theta.dtype)]


@register
class Col2Im(Op):
    """Sums columns of patches back into images.

    Inputs: (N, C·patch, L), image_shape and block_shape (both of the spatial axes). Output:
    (N, C, *image_shape).
    """

    arity = (3, 3)
    dilations: tuple[int, ...] | None = None
    pads: tuple[int, ...] | None = None
    strides: tuple[int, ...] | None = None

    def infer(self, types, values):
        x, image = types[:2]
        need_rank(x, 3, "the input")
        if x.shape is None or values[1] is None or values[2] is None:
            rank = image.shape[0] if image.shape and isinstance(image.shape[0], int) else None
            return [TensorType(x.dtype, None if rank is None else (None,) * (rank + 2))]
        sides, ks = [int(d) for d in values[1]], [int(d) for d in values[2]]
        need(len(sides) == len(ks), f"image_shape {sides} and block_shape {ks} differ in rank")
        win = resolve_window(sides, ks, self.strides, self.dilations, self.pads)
        patch, count = dims_product(tuple(ks)), dims_product(win.output)
        if isinstance(x.shape[1], int):
            need(x.shape[1] % patch == 0, f"{x} does not hold patches of {patch}")
        if isinstance(x.shape[2], int):
            need(x.shape[2] == count, f"{x} must have {count} columns")
        return [TensorType(x.dtype, (x.shape[0], x.shape[1] // patch, *sides))]

    def compute(self, xs):
        x = xs[0]
        types = [TensorType(a.dtype, a.shape) for a in xs]
        (t,) = self.infer(types, [None, *xs[1:]])
        sides, ks = t.shape[2:], tuple(int(d) for d in xs[2])
        rank = len(ks)
        _, strides, dilations, pads = check_window(
            rank, ks, self.strides, self.dilations, self.pads, "NOTSET"
        )
        win = resolve_window(sides, ks, strides, dilations, pads)
        padded = [s + pads[i] + pads[i + rank] for i, s in enumerate(sides)]
        checked_size((*t.shape[:2], *padded), 8, "padded image")
        out = np.zeros((*t.shape[:2], *padded), x.dtype)
        columns = x.reshape(*t.shape[:2], *ks, *win.output)
        for tap in product(*map(range, ks)):
            at = tuple(
                slice(k * d, k * d + (o - 1) * s + 1, s)
                for k, d, o, s in zip(tap, dilations, win.output, strides, strict=True)
            )
            out[(slice(None), slice(None), *at)] += columns[(slice(None), slice(None), *tap)]
        inner = tuple(slice(pads[i], pads[i] + s) for i, s in enumerate(sides))
        return [np.ascontiguousarray(out[(slice(None), slice(None), *inner)])]
