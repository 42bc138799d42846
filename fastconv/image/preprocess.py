"""uint8 image → input tensor: resize, centre crop, normalise, lay out.

For a pixel byte ``p`` of channel ``c`` the tensor holds ``(p * scale - mean[c]) / std[c]``. The 256
possible results of each channel are computed once in float64 and rounded once to the tensor's
dtype, so the whole normalisation is a table lookup and is exact.

Size rules follow torchvision's ``Resize`` and ``CenterCrop`` (truncated long side, half-to-even
crop offsets); letterbox padding follows the YOLO detectors (rounded size, odd padding pixel after).
Resampling is Pillow's, which antialiases when it shrinks.
"""

from __future__ import annotations

import functools
import math
import numbers
import operator
import re
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from ..errors import ImageError, InputError, OptionError
from ..sizes import checked_size
from .decode import DEFAULT_MAX_PIXELS

#: Longest side, in pixels, that ``resize`` and ``crop`` may ask for.
MAX_SIDE = 1 << 16

RESIZE_MODES = ("shortest", "longest", "exact", "letterbox")
INTERPOLATIONS = ("nearest", "box", "bilinear", "bicubic", "lanczos")
COLORS = ("RGB", "BGR", "L")
LAYOUTS = ("NCHW", "NHWC")
DTYPES = ("float32", "float16", "float64", "uint8", "int8", "uint16", "int16", "int32")

Size = int | tuple[int, int]


class FieldError(OptionError):
    """An ``OptionError`` about one field of ``Preprocess``, named by ``field``."""

    def __init__(self, field: str, value: object, problem: str) -> None:
        shown = repr(value)
        shown = shown if len(shown) <= 80 else shown[:77] + "..."
        super().__init__(f"{field}={shown}: {problem}")
        self.field = field
        self._parts = (field, value, problem)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._parts


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes a model's input tensor.

    Attributes:
        resize: target size in pixels, an int or (height, width); None leaves the size alone.
        resize_mode: "shortest": keep the aspect ratio, shorter side = size, or for (h, w) the
            smallest image that covers h×w; "longest": longer side = size, or fit inside h×w;
            "exact" (alias "stretch"): h×w, an int meaning a square, ratio not kept; "letterbox":
            fit inside h×w, then pad to h×w with ``pad_value``.
        interpolation: "nearest", "box", "bilinear", "bicubic" or "lanczos", as Pillow.
        crop: centre crop after the resize, an int (square) or (height, width); smaller images are
            padded with ``pad_value``. None: no crop.
        scale, mean, std: the tensor holds ``(pixel * scale - mean) / std``, pixel in 0..255. mean
            and std have one value for all channels or one per channel, in the tensor's channel
            order (B, G, R for color "BGR").
        color: "RGB", "BGR" or "L" (one grey channel).
        layout: "NCHW" or "NHWC".
        dtype: the tensor's NumPy dtype name. An integer dtype must hold every result exactly.
        pad_value: byte, or one per channel in (R, G, B) order; None means 114 for letterbox bars
            and 0 where a crop pads.
        letterbox_center: True splits the padding between both sides; False pads right and bottom.
        crop_pct: another way to give ``resize``: floor(crop / crop_pct) per side. Converted, so it
            reads back as None.

    Raises:
        OptionError: a value makes no sense; the message names field and value.
    """

    resize: Size | None = None
    resize_mode: str = "shortest"
    interpolation: str = "bilinear"
    crop: Size | None = None
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    color: str = "RGB"
    layout: str = "NCHW"
    dtype: str = "float32"
    pad_value: int | tuple[int, ...] | None = None
    letterbox_center: bool = True
    crop_pct: float | None = None

    def __post_init__(self) -> None:
        for f in fields(self):
            object.__setattr__(self, f.name, check_field(f.name, getattr(self, f.name)))
        if self.crop_pct is not None:
            if self.resize is not None:
                raise FieldError("crop_pct", self.crop_pct, f"given with resize={self.resize}")
            if self.crop is None:
                raise FieldError("crop_pct", self.crop_pct, "needs crop")
            resize = apply_crop_pct(self.crop, self.crop_pct)
            object.__setattr__(self, "resize", check_field("resize", resize))
            object.__setattr__(self, "crop_pct", None)
        if self.resize is None and self.resize_mode in ("exact", "letterbox"):
            raise FieldError("resize_mode", self.resize_mode, "needs resize")
        for name in ("mean", "std", "pad_value"):
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) not in (1, self.channels):
                raise FieldError(
                    name,
                    value,
                    f"{len(value)} values, but color {self.color} has {self.channels} channel(s)",
                )
        lookup_table(self)

    @property
    def channels(self) -> int:
        """Channels of the tensor: 3, or 1 for color "L"."""
        return 1 if self.color == "L" else 3

    @property
    def decode_mode(self) -> str:
        """The ``mode`` to pass to ``decode``: "RGB" or "L"."""
        return "L" if self.color == "L" else "RGB"

    @property
    def output_size(self) -> tuple[int, int] | None:
        """(height, width) of the tensor if it does not depend on the image, else None."""
        if self.crop is not None:
            return as_pair(self.crop)
        if self.resize is not None and self.resize_mode in ("exact", "letterbox"):
            return as_pair(self.resize)
        return None


def as_pair(size: Size) -> tuple[int, int]:
    """An int size as a square: 224 → (224, 224)."""
    return (size, size) if isinstance(size, int) else size


def apply_crop_pct(crop: Size, crop_pct: float) -> Size:
    """Resize target for a centre crop that keeps ``crop_pct`` of each side: floor(crop / pct)."""
    if isinstance(crop, int):
        return math.floor(crop / crop_pct)
    return math.floor(crop[0] / crop_pct), math.floor(crop[1] / crop_pct)


def check_field(name: str, value: Any) -> Any:
    """Validate one ``Preprocess`` field and return it in its normal form.

    Raises:
        OptionError: the field is unknown or the value makes no sense.
    """
    if name in ("resize", "crop"):
        return None if value is None else _check_size(name, value)
    if name in ("mean", "std"):
        items = value if isinstance(value, (list, tuple, np.ndarray)) else [value]
        if not 1 <= len(items) <= 3 or len(items) == 2:
            raise FieldError(name, value, "must be one number, or one per channel")
        numbers_ = tuple(_check_number(name, v, value) for v in items)
        if name == "std" and 0.0 in numbers_:
            raise FieldError(name, value, "must not be zero (the tensor is divided by it)")
        return numbers_
    if name == "scale":
        if _check_number(name, value, value) == 0.0:
            raise FieldError(name, value, "must not be zero")
        return float(value)
    if name == "crop_pct":
        if value is None:
            return None
        if not 0.01 <= _check_number(name, value, value) <= 1.0:
            raise FieldError(name, value, "must be between 0.01 and 1")
        return float(value)
    if name == "pad_value":
        return _check_pad_value(value)
    if name == "letterbox_center":
        if not isinstance(value, (bool, np.bool_)):
            raise FieldError(name, value, "must be true or false")
        return bool(value)
    if name == "resize_mode" and value == "stretch":
        return "exact"
    choices = _CHOICES.get(name)
    if choices is None:
        raise OptionError(f"{name}: no such preprocessing field; known: {', '.join(FIELDS)}")
    if not isinstance(value, str) or value not in choices:
        raise FieldError(name, value, f"must be one of {', '.join(choices)}")
    return value


_CHOICES = {
    "resize_mode": RESIZE_MODES,
    "interpolation": INTERPOLATIONS,
    "color": COLORS,
    "layout": LAYOUTS,
    "dtype": DTYPES,
}
#: Names of the fields of ``Preprocess``.
FIELDS = tuple(f.name for f in fields(Preprocess))


def _check_int(name: str, v: Any, value: Any) -> int:
    if isinstance(v, (bool, np.bool_)):
        raise FieldError(name, value, "must be whole numbers")
    try:
        return operator.index(v)
    except TypeError:
        raise FieldError(name, value, "must be whole numbers") from None


def _check_size(name: str, value: Any) -> Size:
    pair = isinstance(value, (list, tuple))
    items = list(value) if pair else [value]
    if pair and len(items) != 2:
        raise FieldError(name, value, "must be one number or (height, width)")
    sides = [_check_int(name, v, value) for v in items]
    if not all(1 <= s <= MAX_SIDE for s in sides):
        raise FieldError(name, value, f"must be between 1 and {MAX_SIDE} pixels")
    return (sides[0], sides[1]) if pair else sides[0]


def _check_number(name: str, v: Any, value: Any) -> float:
    if isinstance(v, (bool, np.bool_)) or not isinstance(v, numbers.Real):
        raise FieldError(name, value, "must be a number")
    try:
        number = float(v)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise FieldError(name, value, "must be finite")
    return number


def _check_pad_value(value: Any) -> int | tuple[int, ...] | None:
    if value is None:
        return None
    items = value if isinstance(value, (list, tuple)) else [value]
    pads = tuple(_check_int("pad_value", v, value) for v in items)
    if len(pads) not in (1, 3) or not all(0 <= p <= 255 for p in pads):
        raise FieldError("pad_value", value, "must be one or three bytes (0..255)")
    return pads[0] if len(pads) == 1 else pads


def parse_field(name: str, text: str) -> Any:
    """Read a ``Preprocess`` field from command-line text.

    Sizes: ``256``, ``256x320`` (height × width) or ``none``; lists: ``0.5,0.5,0.5``; numbers may be
    quotients such as ``1/255``; letterbox_center: ``true`` or ``false``.

    Raises:
        OptionError: the text does not make a valid value.
    """
    raw = text.strip()
    low = raw.lower()
    if name in ("resize", "crop", "pad_value"):
        if low == "none":
            return None
        parts = re.split(r"[x×,]", low)
        if not all(re.fullmatch(r"\s*\d{1,9}\s*", p) for p in parts):
            raise FieldError(name, text, "must be N, HxW or none")
        whole = [int(p) for p in parts]
        return check_field(name, whole[0] if len(whole) == 1 else whole)
    if name in ("mean", "std"):
        return check_field(name, [_parse_number(name, p, text) for p in raw.split(",")])
    if name in ("scale", "crop_pct"):
        return check_field(name, _parse_number(name, raw, text))
    if name == "letterbox_center":
        return check_field(name, {"true": True, "false": False}.get(low, text))
    for choice in _CHOICES.get(name, ()):
        if choice.lower() == low:
            return choice
    return check_field(name, low if name == "resize_mode" else raw)


def _parse_number(name: str, part: str, text: str) -> float:
    try:
        top, slash, bottom = part.partition("/")
        return float(top) / float(bottom) if slash else float(top)
    except (ValueError, ZeroDivisionError):
        raise FieldError(name, text, "must be numbers such as 0.5 or 1/255") from None


@functools.lru_cache(maxsize=16)
def lookup_table(pre: Preprocess) -> np.ndarray:
    """The normalised value of every byte: array (channels, 256) of ``pre.dtype``, read-only.

    Raises:
        OptionError: a result overflows the dtype or, for an integer dtype, is not a whole number.
    """
    shape = (pre.channels, 1)
    mean = np.broadcast_to(np.array(pre.mean, dtype=np.float64)[:, None], shape)
    std = np.broadcast_to(np.array(pre.std, dtype=np.float64)[:, None], shape)
    dtype = np.dtype(pre.dtype)
    with np.errstate(all="ignore"):
        exact = (np.arange(256, dtype=np.float64) * pre.scale - mean) / std
        if dtype.kind == "f":
            table = exact.astype(dtype)
            fits = bool(np.isfinite(table).all())
        else:
            whole = np.rint(exact)
            info = np.iinfo(dtype)
            fits = bool(np.isfinite(exact).all() and (np.abs(exact - whole) < 1e-6).all())
            fits = fits and bool((whole >= info.min).all() and (whole <= info.max).all())
            table = whole.astype(dtype) if fits else np.zeros_like(exact, dtype=dtype)
    if not fits:
        raise FieldError(
            "dtype",
            pre.dtype,
            f"cannot hold (pixel * scale - mean) / std for scale={pre.scale:g}, "
            f"mean={list(pre.mean)}, std={list(pre.std)}",
        )
    table.flags.writeable = False
    return table


@dataclass(frozen=True)
class LetterboxInfo:
    """Where the image ended up in the tensor; needed to map detections back. Sizes in pixels.

    Attributes:
        source_size: (height, width) of the decoded image.
        resized_size: (height, width) after the resize.
        output_size: (height, width) of the tensor.
        pads: (top, left, bottom, right) added around the resized image; negative where cropped.
    """

    source_size: tuple[int, int]
    resized_size: tuple[int, int]
    output_size: tuple[int, int]
    pads: tuple[int, int, int, int]

    @property
    def scale(self) -> tuple[float, float]:
        """(vertical, horizontal) factor from source pixels to tensor pixels."""
        return (
            self.resized_size[0] / self.source_size[0],
            self.resized_size[1] / self.source_size[1],
        )

    def to_source(self, boxes: np.ndarray) -> np.ndarray:
        """Map boxes (..., 4) as x1, y1, x2, y2 in tensor pixels to source pixels, clipped."""
        boxes = np.asarray(boxes, dtype=np.float64)
        if boxes.ndim < 1 or boxes.shape[-1] != 4:
            raise InputError(f"boxes: shape {list(boxes.shape)}, must end in 4 (x1, y1, x2, y2)")
        (height, width), (sy, sx) = self.source_size, self.scale
        top, left = self.pads[:2]
        out = (boxes - [left, top, left, top]) / [sx, sy, sx, sy]
        return np.clip(out, 0, [width, height, width, height])


def plan_geometry(height: int, width: int, pre: Preprocess) -> LetterboxInfo:
    """Sizes and pads that ``apply`` will use for an image of height × width; allocates nothing.

    Raises:
        ImageError: the resized image would pass the pixel limit (an extreme aspect ratio).
        MemoryLimitError: a size would overflow.
    """
    new_h, new_w = _resized_size(height, width, pre)
    top = left = bottom = right = 0
    if pre.resize is not None and pre.resize_mode == "letterbox":
        box_h, box_w = as_pair(pre.resize)
        top, bottom = _letterbox_pads(box_h - new_h, pre.letterbox_center)
        left, right = _letterbox_pads(box_w - new_w, pre.letterbox_center)
    out_h, out_w = new_h + top + bottom, new_w + left + right
    if pre.crop is not None:
        crop_h, crop_w = as_pair(pre.crop)
        before_h, after_h = _crop_pads(out_h, crop_h)
        before_w, after_w = _crop_pads(out_w, crop_w)
        top, bottom = top + before_h, bottom + after_h
        left, right = left + before_w, right + after_w
        out_h, out_w = crop_h, crop_w
    itemsize = np.dtype(pre.dtype).itemsize
    for what, h, w in (("resized image", new_h, new_w), ("input tensor", out_h, out_w)):
        checked_size((pre.channels, h, w), itemsize, what)
        if h * w > DEFAULT_MAX_PIXELS:
            raise ImageError(
                f"image of {width}×{height} pixels: {what} would be {w}×{h}, "
                f"more than {DEFAULT_MAX_PIXELS} pixels; use another resize, resize_mode or crop"
            )
    return LetterboxInfo(
        (height, width), (new_h, new_w), (out_h, out_w), (top, left, bottom, right)
    )


def _resized_size(height: int, width: int, pre: Preprocess) -> tuple[int, int]:
    if pre.resize is None:
        return height, width
    box_h, box_w = as_pair(pre.resize)
    if pre.resize_mode == "exact":
        return box_h, box_w
    if pre.resize_mode == "letterbox":
        ratio = min(box_h / height, box_w / width)
        return (
            min(box_h, max(1, round(height * ratio))),
            min(box_w, max(1, round(width * ratio))),
        )
    # Compared as products: the height sets the ratio if box_h / height is the larger ratio
    # (shortest) or the smaller one (longest). The other side is truncated, as in torchvision.
    by_height = box_h * width >= box_w * height
    if pre.resize_mode == "longest":
        by_height = box_h * width <= box_w * height
    if by_height:
        return box_h, max(1, int(box_h * width / height))
    return max(1, int(box_w * height / width)), box_w


def _letterbox_pads(space: int, centre: bool) -> tuple[int, int]:
    before = space // 2 if centre else 0
    return before, space - before


def _crop_pads(size: int, crop: int) -> tuple[int, int]:
    """(before, after) pads that turn ``size`` into ``crop``; negative pads crop."""
    if crop >= size:
        before = (crop - size) // 2
    else:
        before = -round((size - crop) / 2)  # half to even, as torchvision
    return before, crop - size - before


def apply(img: np.ndarray, pre: Preprocess) -> np.ndarray:
    """Turn a decoded image into a batch of one.

    Args:
        img: uint8 (H, W, 3) in RGB order or (H, W, 1) grey, as ``decode`` returns.
        pre: what to do.

    Returns:
        C-contiguous array of ``pre.dtype``, (1, C, H, W) for layout NCHW or (1, H, W, C) for NHWC.

    Raises:
        InputError: ``img`` is not such an array.
        ImageError, MemoryLimitError: see ``plan_geometry``.
    """
    return apply_with_info(img, pre)[0]


def apply_with_info(img: np.ndarray, pre: Preprocess) -> tuple[np.ndarray, LetterboxInfo]:
    """As ``apply``, with the ``LetterboxInfo`` that maps tensor pixels back to image pixels."""
    if not isinstance(img, np.ndarray) or img.dtype != np.uint8 or img.ndim != 3:
        got = f"{img.dtype} {list(img.shape)}" if isinstance(img, np.ndarray) else type(img)
        raise InputError(f"image: must be a uint8 array (H, W, C), not {got}")
    if img.shape[2] not in (1, 3) or 0 in img.shape:
        raise InputError(f"image: shape {list(img.shape)}, must be (H, W, 3) or (H, W, 1)")
    info = plan_geometry(img.shape[0], img.shape[1], pre)
    pixels = _place(_resample(img, pre, info.resized_size), pre, info)

    table = lookup_table(pre)
    channels = range(pre.channels)
    source = [2 - c for c in channels] if pre.color == "BGR" else list(channels)
    height, width = info.output_size
    if pre.layout == "NCHW":
        out = np.empty((1, pre.channels, height, width), dtype=pre.dtype)
        planes = out[0]
    else:
        out = np.empty((1, height, width, pre.channels), dtype=pre.dtype)
        planes = out[0].transpose(2, 0, 1)
    for c in channels:
        # A byte is always a valid index; "clip" only spares NumPy a buffer.
        table[c].take(pixels[:, :, source[c]], out=planes[c], mode="clip")
    return out, info


def _resample(img: np.ndarray, pre: Preprocess, size: tuple[int, int]) -> np.ndarray:
    """Resize to (height, width) and give the channels of ``pre.decode_mode``; (H, W, C)."""
    if size == img.shape[:2] and img.shape[2] == pre.channels:
        return img
    from PIL import Image

    picture = Image.fromarray(img[:, :, 0] if img.shape[2] == 1 else np.ascontiguousarray(img))
    if picture.mode != pre.decode_mode:
        picture = picture.convert(pre.decode_mode)
    if size != img.shape[:2]:
        method = Image.Resampling[pre.interpolation.upper()]
        picture = picture.resize((size[1], size[0]), method)
    array = np.asarray(picture)
    return array[:, :, None] if array.ndim == 2 else array


def _place(pixels: np.ndarray, pre: Preprocess, info: LetterboxInfo) -> np.ndarray:
    """Crop and pad (H, W, C) as ``info.pads`` say."""
    height, width = info.resized_size
    top, left, bottom, right = info.pads
    inner = pixels[max(0, -top) : height - max(0, -bottom), max(0, -left) : width - max(0, -right)]
    if max(info.pads) <= 0:
        return inner
    pad = pre.pad_value
    if pad is None:
        pad = 114 if pre.resize_mode == "letterbox" else 0
    out = np.empty((*info.output_size, pre.channels), dtype=np.uint8)
    out[...] = pad
    y, x = max(0, top), max(0, left)
    out[y : y + inner.shape[0], x : x + inner.shape[1]] = inner
    return out
