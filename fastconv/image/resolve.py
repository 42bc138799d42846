"""Which preprocessing a model gets, and where each value comes from.

Precedence, field by field: flags, a preset asked for by flag, ``fastconv.preprocess``, ONNX
``Image.*`` keys, Ultralytics keys, timm keys, the model's input shape, a default preset. What the
shape fixes cannot be overruled: a flag or ``fastconv.preprocess`` that contradicts it is an error,
and Ultralytics or timm sizes give way to it (exports are often made at another size).

Presets (pixel means 0..255, mean and std in the tensor's channel order):

========================  =====================================================================
imagenet                  pixel/255, mean 0.485 0.456 0.406, std 0.229 0.224 0.225, RGB
imagenet-inception        pixel/255, mean 0.5, std 0.5
tf                        pixel/127.5 - 1
caffe                     pixel - (103.939, 116.779, 123.68), BGR
0-1                       pixel/255
raw                       pixel
========================  =====================================================================

The first four resize the shorter side to 256 and crop the centre 224×224; where the crop is fixed
by something else, the resize keeps the ratio 256/224. "0-1" and "raw" stretch to the model's fixed
size, and leave the size alone if there is none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import ImageError, ModelError, OptionError
from .metadata import (
    Layer,
    fastconv_layer,
    onnx_image_layer,
    timm_layer,
    ultralytics_layer,
)
from .preprocess import (
    DTYPES,
    FIELDS,
    FieldError,
    Preprocess,
    Size,
    apply_crop_pct,
    as_pair,
    check_field,
)

_PHOTO: dict[str, Any] = {"resize": 256, "resize_mode": "shortest", "crop": 224}
PRESETS: dict[str, dict[str, Any]] = {
    "imagenet": {
        **_PHOTO,
        "scale": 1 / 255,
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "color": "RGB",
    },
    "imagenet-inception": {**_PHOTO, "scale": 1 / 255, "mean": (0.5,), "std": (0.5,)},
    "tf": {**_PHOTO, "scale": 1 / 127.5, "mean": (1.0,), "std": (1.0,)},
    "caffe": {
        **_PHOTO,
        "scale": 1.0,
        "mean": (103.939, 116.779, 123.68),
        "std": (1.0,),
        "color": "BGR",
    },
    "0-1": {"scale": 1 / 255, "mean": (0.0,), "std": (1.0,)},
    "raw": {"scale": 1.0, "mean": (0.0,), "std": (1.0,)},
}

SHAPE = "model input shape"
_CHANNELS = (1, 3, 4)
_GEOMETRY = ("resize", "resize_mode", "crop", "crop_pct")


@dataclass(frozen=True)
class Resolved:
    """The outcome of ``resolve``.

    Attributes:
        pre: the preprocessing.
        sources: for each field of ``pre`` (but crop_pct), where its value comes from: "flag",
            "metadata fastconv.preprocess", "metadata Image.NominalPixelRange",
            "metadata Ultralytics imgsz", "timm mean", "model input shape", "preset imagenet", ...
        notices: lines for stderr about values that nobody stated.
    """

    pre: Preprocess
    sources: dict[str, str]
    notices: list[str]


def resolve(
    flags: Mapping[str, Any],
    metadata: Mapping[str, str],
    input_shape: Sequence[int | str | None],
    input_dtype: str = "float32",
    input_layout: str | None = None,
) -> Resolved:
    """Settle every preprocessing field for one model.

    Args:
        flags: fields of ``Preprocess`` given by the user, plus "preset". None means "not
            given", except that the keys resize and crop, if present, count: resize=None means do
            not resize.
        metadata: the model's ``metadata_props``; pass ``{}`` to ignore them.
        input_shape: four dimensions; ints are fixed, anything else is dynamic.
        input_dtype: NumPy name of the model input's dtype.
        input_layout: "NCHW" or "NHWC" if known, else None to go by the shape.

    Raises:
        OptionError: a flag makes no sense or contradicts the model.
        ModelError: metadata cannot be read, make no sense, or contradict the model's input.
        UnsupportedError: metadata ask for something that fastconv cannot produce.
        ImageError: the model's input is not an image (rank, channels or dtype).
    """
    flag_layer, asked = _flag_layers(flags)
    layers: list[Layer] = [
        flag_layer,
        asked,
        fastconv_layer(metadata),
        onnx_image_layer(metadata),
        ultralytics_layer(metadata),
        timm_layer(metadata),
    ]
    dtype = str(input_dtype)
    if dtype not in DTYPES:
        raise ImageError(f"the model's input has dtype {dtype}; images give {', '.join(DTYPES)}")
    layout, channels, dims = _read_shape(input_shape, input_layout, layers)
    box = (dims[0], dims[1]) if dims[0] is not None and dims[1] is not None else None

    shape_layer: Layer = {"layout": layout, "dtype": (dtype, "model input dtype")}
    if channels == 1:
        shape_layer["color"] = ("L", SHAPE)
    grey = _first([*layers, shape_layer], "color", ("RGB", SHAPE))[0] == "L"
    if not dtype.startswith("float"):
        default = "raw"
    else:
        default = "0-1" if grey else "imagenet"
    layers.append(shape_layer)
    if not asked:
        layers.append({k: (v, f"preset {default}") for k, v in PRESETS[default].items()})

    merged: Layer = {}
    for layer in layers:
        for name, entry in layer.items():
            if name not in _GEOMETRY:
                merged.setdefault(name, entry)
    _match_channel_order(layers, merged)
    merged |= _geometry(layers, box)
    for name in FIELDS:
        if name != "crop_pct":
            merged.setdefault(name, (getattr(_DEFAULTS, name), "default"))

    sources = {name: source for name, (_, source) in merged.items()}
    if merged["dtype"][0] != dtype:
        given, source = merged["dtype"]
        raise _error(source)(f"dtype={given} ({source}) is not the model input's dtype {dtype}")
    pre = _build(merged, sources)
    _check_fits(pre, sources, channels, dims)
    return Resolved(pre, sources, _notices(pre, sources, default, bool(asked)))


_DEFAULTS = Preprocess()


def _match_channel_order(layers: list[Layer], merged: Layer) -> None:
    """Reverse mean and std that were stated for RGB where the tensor is BGR, and conversely.

    Only for a mean or std whose own source names its colour order, when another source with higher
    precedence turned the order round.
    """
    for name in ("mean", "std"):
        owner = next((layer for layer in layers if name in layer), {})
        pair = {owner.get("color", (None,))[0], merged.get("color", (None,))[0]}
        if pair == {"RGB", "BGR"}:
            values, source = merged[name]
            merged[name] = (tuple(reversed(values)), source)


def _flag_layers(flags: Mapping[str, Any]) -> tuple[Layer, Layer]:
    layer: Layer = {}
    for name, value in flags.items():
        if name != "preset" and (value is not None or name in ("resize", "crop")):
            layer[name] = (check_field(name, value), "flag")
    if flags.get("resize") is not None and flags.get("crop_pct") is not None:
        raise OptionError("resize and crop_pct: give one of the two, both set the resize")
    preset = flags.get("preset")
    if preset is None:
        return layer, {}
    if preset not in PRESETS:
        raise OptionError(f"preset={preset!r}: must be one of {', '.join(PRESETS)}")
    return layer, {k: (v, f"preset {preset}") for k, v in PRESETS[preset].items()}


def _first(layers: Sequence[Layer], name: str, default: tuple[Any, str]) -> tuple[Any, str]:
    return next((layer[name] for layer in layers if name in layer), default)


Dims = tuple[int | None, int | None]


def _read_shape(
    shape: Sequence[int | str | None], known: str | None, layers: list[Layer]
) -> tuple[tuple[str, str], int | None, Dims]:
    """((layout, source), channels, (height, width)); None where the model leaves it open."""
    if len(shape) != 4:
        raise ImageError(f"the model's input {_show(shape)} has rank {len(shape)}, an image has 4")
    fixed = [d if isinstance(d, int) and d > 0 else None for d in shape]
    if known is not None:
        check_field("layout", known)
        layout = (known, SHAPE)
    elif fixed[1] in _CHANNELS:
        layout = ("NCHW", SHAPE)
    elif fixed[3] in _CHANNELS:
        layout = ("NHWC", SHAPE)
    else:
        layout = _first(layers, "layout", ("NCHW", "default"))
    nchw = layout[0] == "NCHW"
    channels = fixed[1] if nchw else fixed[3]
    dims = (fixed[2], fixed[3]) if nchw else (fixed[1], fixed[2])
    if channels not in (None, 1, 3):
        raise ImageError(
            f"the model's input {_show(shape)} ({layout[0]}) has {channels} channels; "
            "an image gives 1 or 3"
        )
    wanted = _first(layers, "layout", layout)
    if wanted[0] != layout[0]:
        message = f"layout={wanted[0]} ({wanted[1]}) contradicts the model's input {_show(shape)}"
        raise _error(wanted[1])(message)
    return (wanted if wanted is not layout else layout), channels, dims


def _show(shape: Sequence[object]) -> str:
    return "[" + ", ".join("?" if d is None else str(d)[:20] for d in shape) + "]"


def _error(source: str) -> type[OptionError] | type[ModelError]:
    return ModelError if source.startswith(("metadata", "timm")) else OptionError


def _soft(source: str) -> bool:
    """True if a size from this source gives way to a size fixed by the model."""
    return source.startswith(("metadata Ultralytics", "timm", "preset"))


def _rank(layers: list[Layer], *names: str) -> int | None:
    """Index of the first layer that has one of ``names``."""
    return next((i for i, layer in enumerate(layers) if any(n in layer for n in names)), None)


def _geometry(layers: list[Layer], box: tuple[int, int] | None) -> Layer:
    """resize, resize_mode and crop, which only make sense together.

    A resize and crop from one layer are kept as a ratio when the crop is overruled, so that asking
    for a larger crop does not run off the image.
    """
    size_rank = _rank(layers, "resize", "crop_pct")
    mode_rank = _rank(layers, "resize_mode")
    crop_rank = _rank(layers, "crop")
    if size_rank is None and mode_rank is None and crop_rank is None:
        if box is None:
            return {}
        return {"resize": (box, SHAPE), "resize_mode": ("exact", SHAPE), "crop": (None, SHAPE)}

    mode = layers[mode_rank]["resize_mode"] if mode_rank is not None else ("shortest", "default")
    if size_rank is not None and (mode_rank is None or size_rank < mode_rank):
        entry = layers[size_rank].get("resize")
        if entry is not None and isinstance(entry[0], tuple):
            mode, mode_rank = ("exact", entry[1]), size_rank  # an explicit height and width
    if mode[0] in ("exact", "letterbox") and mode_rank is not None:
        return _boxed(layers, box, mode, mode_rank, size_rank, crop_rank)
    return _cropped(layers, box, mode, mode_rank, size_rank, crop_rank)


def _boxed(
    layers: list[Layer],
    box: tuple[int, int] | None,
    mode: tuple[str, str],
    mode_rank: int,
    size_rank: int | None,
    crop_rank: int | None,
) -> Layer:
    """Modes whose result has the size of ``resize``: exact and letterbox."""
    crop: tuple[Size | None, str] = (None, mode[1])
    if crop_rank is not None and crop_rank <= mode_rank:
        crop = layers[crop_rank]["crop"]
    resize: tuple[Size | None, str] | None = None
    if size_rank is not None and size_rank <= mode_rank:
        resize = layers[size_rank].get("resize")
        if resize is None and crop[0] is not None:
            pct, source = layers[size_rank]["crop_pct"]
            resize = (apply_crop_pct(crop[0], pct), source)
    if resize is not None and crop[0] is None and box is not None and _soft(resize[1]):
        resize = (box, SHAPE)
    if crop[0] is not None and box is not None and _soft(crop[1]) and as_pair(crop[0]) != box:
        if resize is not None and resize[0] is not None and _soft(resize[1]):
            resize = (_rescale(resize[0], crop[0], box), resize[1])
        crop = (box, SHAPE)
    if resize is None:  # the mode alone was asked for: fill the model's size
        lower = _first(layers, "crop", _first(layers, "resize", (None, "")))
        resize = (box, SHAPE) if box is not None else lower
    if resize[0] is None:
        raise _error(mode[1])(
            f"resize_mode={mode[0]} ({mode[1]}) needs a size, and the model's input has none; "
            "give resize"
        )
    return {"resize": resize, "resize_mode": mode, "crop": crop}


def _cropped(
    layers: list[Layer],
    box: tuple[int, int] | None,
    mode: tuple[str, str],
    mode_rank: int | None,
    size_rank: int | None,
    crop_rank: int | None,
) -> Layer:
    """Modes that keep the aspect ratio and then crop: shortest and longest."""
    crop: tuple[Size | None, str] = (None, "default")
    if crop_rank is not None:
        crop = layers[crop_rank]["crop"]
    if box is not None and (crop_rank is None or _soft(crop[1])):
        agrees = crop[0] is not None and as_pair(crop[0]) == box
        crop = crop if agrees and not crop[1].startswith("preset") else (box, SHAPE)
    resize: tuple[Size | None, str] = (None, "default")
    if size_rank is not None:
        layer = layers[size_rank]
        own = layer.get("crop", (None,))[0]
        if layer.get("resize", (None,))[0] is not None:
            resize = layer["resize"]
            assert resize[0] is not None
            if own is not None and crop[0] is not None and as_pair(own) != as_pair(crop[0]):
                resize = (_rescale(resize[0], own, crop[0]), resize[1])
        elif "crop_pct" in layer:
            pct, source = layer["crop_pct"]
            if crop[0] is None:
                raise _error(source)(
                    f"crop_pct={pct:g} ({source}) needs a crop, and the model's input has no fixed "
                    "size; give crop"
                )
            resize = (apply_crop_pct(crop[0], pct), source)
        else:
            resize = layer["resize"]  # "do not resize"
        if mode[0] == "longest" and mode_rank is not None and mode_rank < size_rank:
            # A resize meant for the shorter side would be cropped again; show the whole image.
            resize = (crop[0], crop[1]) if crop[0] is not None else resize
    return {"resize": resize, "resize_mode": mode, "crop": crop}


def _rescale(resize: Size, old_crop: Size, new_crop: Size) -> Size:
    """``resize`` scaled by new_crop / old_crop, rounded half up: 256 for 224 → 342 for 299."""
    (old_h, old_w), (new_h, new_w) = as_pair(old_crop), as_pair(new_crop)
    big_h, big_w = as_pair(resize)
    height = (2 * big_h * new_h + old_h) // (2 * old_h)
    width = (2 * big_w * new_w + old_w) // (2 * old_w)
    if isinstance(resize, int) and new_h == new_w and height == width:
        return max(1, height)
    return max(1, height), max(1, width)


def _build(merged: Layer, sources: dict[str, str]) -> Preprocess:
    try:
        return Preprocess(**{name: value for name, (value, _) in merged.items()})
    except FieldError as exc:
        source = sources.get(exc.field, "flag")
        if exc.field == "dtype":  # the numbers that do not fit are those of the normalisation
            parts = [f"{n}: {sources[n]}" for n in ("scale", "mean", "std")]
            hint = f"{exc} ({', '.join(parts)}); give scale, mean and std, or a preset"
            stated = [sources[n] for n in ("scale", "mean", "std")]
            kind = OptionError if any(s == "flag" for s in stated) else _error(stated[0])
            raise kind(hint) from exc
        raise _error(source)(f"{exc} ({source})") from exc


def _check_fits(pre: Preprocess, sources: dict[str, str], channels: int | None, dims: Dims) -> None:
    if channels is not None and channels != pre.channels:
        raise _error(sources["color"])(
            f"color={pre.color} ({sources['color']}) gives {pre.channels} channels, "
            f"but the model's input takes {channels}"
        )
    size = pre.output_size
    if size is None:
        if None in dims:
            return
        blame = "crop" if sources["crop"] != "default" else "resize"
        raise _error(sources[blame])(
            f"crop=None ({sources[blame]}) leaves the size to the image, "
            f"but the model's input is fixed at {dims[0]}×{dims[1]}"
        )
    if any(d is not None and d != s for d, s in zip(dims, size, strict=True)):
        name = "crop" if pre.crop is not None else "resize"
        want = "×".join("?" if d is None else str(d) for d in dims)
        raise _error(sources[name])(
            f"{name}={size[0]}×{size[1]} ({sources[name]}) does not fit the model's input {want}"
        )


def _notices(pre: Preprocess, sources: dict[str, str], default: str, asked: bool) -> list[str]:
    notices = []
    label = f"preset {default}"
    stated = ("resize", "crop", "scale", "mean", "std")
    guessed = [n for n in stated if sources[n] == label]
    if guessed and not asked:
        notices.append(
            f"{label} applied to {', '.join(guessed)}: neither flags nor the model's metadata say "
            "how images are prepared"
        )
    top = abs(pre.scale) * 255
    if max(abs(m) for m in pre.mean) > 2 * top:
        notices.append(
            f"mean={list(pre.mean)} ({sources['mean']}) lies far outside the pixels scaled by "
            f"{pre.scale:g} ({sources['scale']}), 0..{top:g}; perhaps scale should be 1"
        )
    return notices
