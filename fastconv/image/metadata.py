"""Preprocessing and labels in a model's ``metadata_props`` (string keys and string values).

Keys that fastconv itself writes and reads:

* ``fastconv.preprocess``: a JSON object whose keys are fields of ``Preprocess``; any may be left
  out. Example: ``{"resize": 256, "resize_mode": "shortest", "interpolation": "bilinear",
  "crop": 224, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225],
  "scale": 0.00392156862745098, "color": "RGB", "layout": "NCHW"}``. Sizes are a number or
  [height, width]; null for resize or crop means none.
* ``fastconv.labels``: the labels joined by newlines, in class order, or a JSON list of strings.
* ``fastconv.output``: ``logits`` or ``probabilities``.

Keys of other writers that are understood:

* ONNX ``Image.BitmapPixelFormat``, ``Image.ColorSpaceGamma``, ``Image.NominalPixelRange`` (ONNX
  MetadataProps document; keys and values without regard to case).
* Ultralytics exports: ``names``, ``imgsz``, ``task``, ``channels``.
* timm: a ``pretrained_cfg`` (or ``timm.pretrained_cfg``) JSON object, or separate ``mean``,
  ``std``, ``input_size``, ``crop_pct``, ``crop_mode``, ``interpolation`` keys, with or without the
  ``timm.`` prefix.

Every reader here bounds the length of what it parses, and reports bad text as a ``ModelError`` that
names the key.
"""

from __future__ import annotations

import ast
import json
import os
import re
from collections.abc import Mapping
from typing import Any

from ..errors import ModelError, OptionError, UnsupportedError
from .preprocess import FIELDS, Preprocess, apply_crop_pct, as_pair, check_field

KEY_PREPROCESS = "fastconv.preprocess"
KEY_LABELS = "fastconv.labels"
KEY_OUTPUT = "fastconv.output"
OUTPUT_KINDS = ("logits", "probabilities")

#: Longest preprocessing value that is parsed, in characters.
MAX_CONFIG_CHARS = 1 << 16
#: Longest label text that is parsed, in characters (bytes for a label file).
MAX_LABEL_CHARS = 1 << 24
#: Most labels in one list.
MAX_LABELS = 200_000

_ADVICE = "correct the key or ignore the model's metadata"

#: One source's fields: name → (value, where it comes from).
Layer = dict[str, tuple[Any, str]]


def _bad(key: str, problem: object) -> ModelError:
    text = " ".join(str(problem).split())
    text = text if len(text) <= 200 else text[:197] + "..."
    return ModelError(f"metadata {key}: {text}; {_ADVICE}")


def _field(key: str, name: str, value: Any) -> Any:
    try:
        return check_field(name, value)
    except OptionError as exc:
        raise _bad(key, exc) from exc


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not a number")


def _json(key: str, text: str, limit: int) -> Any:
    if len(text) > limit:
        raise _bad(key, f"{len(text)} characters, more than {limit}")
    try:
        return json.loads(text, parse_constant=_no_constant)
    except RecursionError:
        raise _bad(key, "nested too deeply") from None
    except ValueError as exc:
        raise _bad(key, f"not valid JSON: {exc}") from exc


def fastconv_layer(metadata: Mapping[str, str]) -> Layer:
    """Fields given by ``fastconv.preprocess``.

    Raises:
        ModelError: not a JSON object, an unknown field, or a value that makes no sense.
    """
    text = metadata.get(KEY_PREPROCESS)
    if text is None:
        return {}
    config = _json(KEY_PREPROCESS, text, MAX_CONFIG_CHARS)
    if not isinstance(config, dict):
        raise _bad(KEY_PREPROCESS, "must be a JSON object")
    layer: Layer = {}
    for name, value in config.items():
        if name not in FIELDS:
            raise _bad(KEY_PREPROCESS, f"unknown field {name[:40]!r}; known: {', '.join(FIELDS)}")
        layer[name] = (_field(KEY_PREPROCESS, name, value), f"metadata {KEY_PREPROCESS}")
    if config.get("crop_pct") is None:
        layer.pop("crop_pct", None)
    if config.get("resize") is not None and config.get("crop_pct") is not None:
        raise _bad(KEY_PREPROCESS, "has both resize and crop_pct")
    return layer


# Image.NominalPixelRange → scale, mean, std.
_PIXEL_RANGES = {
    "nominalrange_0_255": (1.0, 0.0, 1.0),
    "normalized_0_1": (1 / 255, 0.0, 1.0),
    "normalized_1_1": (1 / 255, 0.5, 0.5),
    "nominalrange_16_235": (219 / 255, -16.0, 1.0),
}
_PIXEL_FORMATS = {"gray8": "L", "rgb8": "RGB", "bgr8": "BGR"}
_UNSUPPORTED_FORMATS = {"rgb16", "bgr16", "gray16", "rgba8", "bgra8", "rgba16", "bgra16", "yuv"}


def onnx_image_layer(metadata: Mapping[str, str]) -> Layer:
    """Fields given by the ONNX ``Image.*`` keys.

    Raises:
        ModelError: an unknown value.
        UnsupportedError: a known value that fastconv cannot produce (alpha, linear gamma).
    """
    tags = {k.lower(): (k, v) for k, v in metadata.items() if k.lower().startswith("image.")}
    layer: Layer = {}
    if "image.bitmappixelformat" in tags:
        key, text = tags["image.bitmappixelformat"]
        low = text.strip().lower()
        if low in _UNSUPPORTED_FORMATS:
            raise UnsupportedError(f"metadata {key}: pixel format {low} is not supported")
        if low not in _PIXEL_FORMATS:
            raise _bad(key, f"unknown pixel format {text[:40]!r}")
        layer["color"] = (_PIXEL_FORMATS[low], "metadata Image.BitmapPixelFormat")
    if "image.colorspacegamma" in tags:
        key, text = tags["image.colorspacegamma"]
        low = text.strip().lower()
        if low == "linear":
            raise UnsupportedError(f"metadata {key}: linear light is not supported, only sRGB")
        if low != "srgb":
            raise _bad(key, f"unknown gamma {text[:40]!r}; must be Linear or SRGB")
    if "image.nominalpixelrange" in tags:
        key, text = tags["image.nominalpixelrange"]
        values = _PIXEL_RANGES.get(text.strip().lower())
        if values is None:
            raise _bad(key, f"unknown range {text[:40]!r}")
        scale, mean, std = values
        source = "metadata Image.NominalPixelRange"
        layer |= {"scale": (scale, source), "mean": ((mean,), source), "std": ((std,), source)}
    return layer


_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?")


def _numbers(key: str, text: str) -> list[float]:
    """Read "0.5", "[1, 2]", "(1, 2)" or "1,2" without evaluating anything."""
    if len(text) > 1000:
        raise _bad(key, f"{len(text)} characters, more than 1000")
    body = text.strip()
    if body[:1] + body[-1:] in ("[]", "()"):
        body = body[1:-1].rstrip().removesuffix(",")
    parts = [p.strip() for p in body.split(",")]
    if not all(_NUMBER.fullmatch(p) for p in parts):
        raise _bad(key, f"{text[:40]!r} is not a number or a list of numbers")
    return [float(p) for p in parts]


def _sizes(key: str, values: list[float]) -> list[int]:
    if not all(v == int(v) if abs(v) < 1e9 else False for v in values):
        raise _bad(key, "sizes must be whole numbers")
    return [int(v) for v in values]


def is_ultralytics(metadata: Mapping[str, str]) -> bool:
    """True if the metadata looks like that of an Ultralytics export."""
    return "imgsz" in metadata and not metadata.keys().isdisjoint({"names", "stride", "task"})


def ultralytics_layer(metadata: Mapping[str, str]) -> Layer:
    """Fields of an Ultralytics export: letterbox to ``imgsz`` with 114, pixels in 0..1, RGB.

    Classifiers (``task`` = classify) take the shorter side to ``imgsz`` and crop its centre.

    Raises:
        ModelError: ``imgsz``, ``task`` or ``channels`` cannot be read.
    """
    if not is_ultralytics(metadata):
        return {}
    size = _sizes("imgsz", _numbers("imgsz", metadata["imgsz"]))
    if len(size) not in (1, 2):
        raise _bad("imgsz", f"{len(size)} numbers; must be height and width")
    box = _field("imgsz", "resize", (size[0], size[-1]))
    base, by_size = "metadata Ultralytics", "metadata Ultralytics imgsz"
    task = metadata.get("task", "detect").strip().lower()
    by_task = f"{base} task" if "task" in metadata else base
    layer: Layer = {
        "scale": (1 / 255, base),
        "mean": ((0.0,), base),
        "std": ((1.0,), base),
        "interpolation": ("bilinear", base),
        "resize": (box, by_size),
    }
    if task == "classify":
        layer |= {"resize_mode": ("shortest", by_task), "crop": (box, by_size)}
    elif task in ("detect", "segment", "pose", "obb"):
        layer |= {
            "resize_mode": ("letterbox", by_task),
            "crop": (None, by_task),
            "pad_value": (114, by_task),
            "letterbox_center": (True, by_task),
        }
    else:
        raise _bad("task", f"unknown task {task[:40]!r}")
    channels = "3"
    if "channels" in metadata:
        channels = metadata["channels"].strip()
        if channels not in ("1", "3"):
            raise _bad("channels", f"{channels[:40]!r}; only 1 or 3 can be made from an image")
    color_source = f"{base} channels" if "channels" in metadata else base
    layer["color"] = ("L" if channels == "1" else "RGB", color_source)
    return layer


_TIMM_CONFIG_KEYS = ("timm.pretrained_cfg", "pretrained_cfg")
_TIMM_KEYS = ("mean", "std", "input_size", "crop_pct", "crop_mode", "interpolation")


def timm_layer(metadata: Mapping[str, str]) -> Layer:
    """Fields of a timm ``pretrained_cfg``, whole or as separate keys.

    ``input_size`` is (C, H, W). ``crop_mode`` "center" is resize by ``crop_pct`` (0.875 unless
    given) then centre crop; "squash" stretches before the crop; "border" fits the whole image
    and pads with the mean.

    Raises:
        ModelError: a value cannot be read or makes no sense.
    """
    config: dict[str, tuple[Any, str]] = {}  # name → (value, key for messages)
    for key in _TIMM_CONFIG_KEYS:
        if key in metadata:
            parsed = _json(key, metadata[key], MAX_LABEL_CHARS)
            if not isinstance(parsed, dict):
                raise _bad(key, "must be a JSON object")
            config = {n: (parsed[n], f"{key} {n}") for n in _TIMM_KEYS if parsed.get(n) is not None}
            break
    else:
        for name in _TIMM_KEYS:
            for key in (f"timm.{name}", name):
                if key in metadata:
                    text = metadata[key]
                    plain = name in ("crop_mode", "interpolation")
                    value: Any = text.strip() if plain else _numbers(key, text)
                    if name == "crop_pct" and len(value) == 1:
                        value = value[0]
                    config[name] = (value, key)
                    break
    return _timm_fields(config)


def _timm_fields(config: dict[str, tuple[Any, str]]) -> Layer:
    layer: Layer = {}
    for name in ("mean", "std"):
        if name in config:
            value, key = config[name]
            layer[name] = (_field(key, name, value), f"timm {name}")
    if layer:
        source = next(iter(layer.values()))[1]
        layer |= {"scale": (1 / 255, source), "color": ("RGB", source)}
        if all(len(value) == 1 for value, _ in layer.values() if isinstance(value, tuple)):
            del layer["color"]  # one value fits any number of channels
    if "interpolation" in config:
        value, key = config["interpolation"]
        # "random" is a training augmentation; timm evaluates such models with bilinear.
        value = "bilinear" if value == "random" else value
        layer["interpolation"] = (_field(key, "interpolation", value), "timm interpolation")
    if "input_size" in config:
        value, key = config["input_size"]
        if not isinstance(value, list) or len(value) != 3:
            raise _bad(key, "must be [channels, height, width]")
        if not all(isinstance(v, (int, float)) and abs(v) < 1e9 for v in value):
            raise _bad(key, "sizes must be whole numbers")
        channels, height, width = _sizes(key, [float(v) for v in value])
        if channels not in (1, 3):
            raise _bad(key, f"{channels} channels; only 1 or 3 can be made from an image")
        layer["color"] = ("L" if channels == 1 else "RGB", "timm input_size")
        layer["crop"] = (_field(key, "crop", (height, width)), "timm input_size")
    if "crop_pct" in config:
        value, key = config["crop_pct"]
        if value is not None:
            layer["crop_pct"] = (_field(key, "crop_pct", value), "timm crop_pct")
    elif "crop" in layer:
        layer["crop_pct"] = (0.875, "timm input_size")
    if "crop_mode" in config and "crop_pct" in layer:
        _timm_crop_mode(config["crop_mode"], layer)
    elif "crop_pct" in layer:
        layer["resize_mode"] = ("shortest", layer["crop_pct"][1])
    return layer


def _timm_crop_mode(entry: tuple[Any, str], layer: Layer) -> None:
    value, key = entry
    modes = {"center": "shortest", "squash": "exact", "border": "longest"}
    if not isinstance(value, str) or value not in modes:
        raise _bad(key, f"unknown crop mode {str(value)[:40]!r}")
    layer["resize_mode"] = (modes[value], "timm crop_mode")
    if value == "border" and "mean" in layer:
        fill = [min(255, max(0, round(255 * m))) for m in layer["mean"][0]]
        layer["pad_value"] = (_field(key, "pad_value", fill), "timm crop_mode")
    if "crop" in layer and value != "center":
        # Written out because an "exact" resize otherwise stands for the whole tensor.
        pct, source = layer.pop("crop_pct")
        resize = as_pair(apply_crop_pct(layer["crop"][0], pct))
        layer["resize"] = (_field(key, "resize", resize), source)


_STRING = r"'(?:[^'\\\n]|\\.)*'|\"(?:[^\"\\\n]|\\.)*\""
_NAMES_ITEM = re.compile(rf"\s*['\"]?(\d{{1,9}})['\"]?\s*:\s*({_STRING})\s*(?:,\s*|$)")
_LIST_ITEM = re.compile(rf"\s*({_STRING})\s*(?:,\s*|$)")


def _parse_names(text: str) -> list[str]:
    """Labels from the repr of a dict {0: 'a', ...} or of a list ['a', ...].

    A scanner picks out one string literal at a time, so that only single literals ever reach
    Python's parser, however the text is nested.
    """
    if len(text) > MAX_LABEL_CHARS:
        raise _bad("names", f"{len(text)} characters, more than {MAX_LABEL_CHARS}")
    body = text.strip()
    braces = body[:1] + body[-1:]
    if braces not in ("{}", "[]"):
        raise _bad("names", "must be a dict {0: 'label', ...} or a list of strings")
    pattern = _NAMES_ITEM if braces == "{}" else _LIST_ITEM
    body = body[1:-1].strip()
    found: dict[int, str] = {}
    at = 0
    while at < len(body):
        match = pattern.match(body, at)
        if match is None:
            raise _bad("names", f"cannot read an entry at {body[at : at + 30]!r}")
        index = int(match[1]) if braces == "{}" else len(found)
        literal = match[match.re.groups]
        try:
            found[index] = ast.literal_eval(literal) if "\\" in literal else literal[1:-1]
        except (ValueError, SyntaxError) as exc:
            raise _bad("names", f"bad string at {literal[:30]!r}") from exc
        at = match.end()
    return _in_order("names", found)


def _in_order(key: str, found: dict[int, str]) -> list[str]:
    """Labels by class index; a class without one is shown by its number."""
    count = max(found, default=-1) + 1
    if count > MAX_LABELS:
        raise _bad(key, f"class {count - 1} is beyond the limit of {MAX_LABELS} labels")
    return [found.get(i, str(i)) for i in range(count)]


def _split_lines(text: str) -> list[str]:
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def labels_from_metadata(metadata: Mapping[str, str]) -> list[str] | None:
    """Class labels from ``fastconv.labels``, else Ultralytics ``names``, else None.

    ``names`` counts only if it looks like a dict or list, or stands beside other Ultralytics keys.

    Raises:
        ModelError: the value cannot be read, or has too many labels.
    """
    text = metadata.get(KEY_LABELS)
    if text is not None:
        if len(text) > MAX_LABEL_CHARS:
            raise _bad(KEY_LABELS, f"{len(text)} characters, more than {MAX_LABEL_CHARS}")
        if text.lstrip().startswith("["):
            labels = _json(KEY_LABELS, text, MAX_LABEL_CHARS)
            if not all(isinstance(label, str) for label in labels):
                raise _bad(KEY_LABELS, "every label must be a string")
        else:
            labels = _split_lines(text)
        if not labels or len(labels) > MAX_LABELS:
            raise _bad(KEY_LABELS, f"{len(labels)} labels; must be 1 to {MAX_LABELS}")
        return labels
    names = metadata.get("names")
    if names is None:
        return None
    if not is_ultralytics(metadata) and names.strip()[:1] not in ("{", "["):
        return None
    return _parse_names(names) or None


def output_from_metadata(metadata: Mapping[str, str]) -> str | None:
    """ "logits" or "probabilities" from ``fastconv.output``, or None if the key is absent.

    Raises:
        ModelError: any other value.
    """
    value = metadata.get(KEY_OUTPUT)
    if value is not None and value not in OUTPUT_KINDS:
        raise _bad(KEY_OUTPUT, f"{value[:40]!r}; must be one of {', '.join(OUTPUT_KINDS)}")
    return value


def load_labels(path: str | os.PathLike[str]) -> list[str]:
    """Read a label file: one label a line (UTF-8), or JSON.

    JSON may be a list of strings, a dict {"0": "cat", ...}, a dict of lists whose last element is
    the label ({"0": ["n01440764", "tench"]}), or an object holding such a dict as ``id2label``.
    A file that does not parse as JSON is text, unless its suffix is ``.json``.

    Raises:
        OptionError: missing, unreadable, too long, empty, or of another form; names the file.
    """
    name = os.fspath(path)

    def bad(problem: str) -> OptionError:
        return OptionError(f"labels file {name!r}: {problem}")

    try:
        if not os.path.exists(name):
            raise bad("no such file")
        if not os.path.isfile(name):
            raise bad("not a regular file")
        with open(name, "rb") as file:
            data = file.read(MAX_LABEL_CHARS + 1)
    except (OSError, ValueError) as exc:
        if isinstance(exc, OptionError):
            raise
        raise bad(f"cannot read: {getattr(exc, 'strerror', None) or exc}") from exc
    if len(data) > MAX_LABEL_CHARS:
        raise bad(f"longer than {MAX_LABEL_CHARS} bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise bad(f"not UTF-8 text (byte {exc.start})") from exc
    labels: list[str] | None = None
    is_json = name.lower().endswith(".json")
    if is_json or text.lstrip()[:1] in ("[", "{"):
        try:
            labels = _labels_from_json(json.loads(text))
        except RecursionError:
            raise bad("nested too deeply") from None
        except ModelError as exc:
            raise bad(str(exc)) from exc
        except ValueError as exc:
            if is_json:
                raise bad(f"not a JSON list or dict of labels: {exc}") from exc
    if labels is None:
        labels = _split_lines(text)
        while labels and not labels[-1].strip():
            labels.pop()
    if not labels or len(labels) > MAX_LABELS:
        raise bad(f"{len(labels)} labels; must be 1 to {MAX_LABELS}")
    return labels


def _labels_from_json(data: Any) -> list[str]:
    if isinstance(data, dict) and isinstance(data.get("id2label"), dict):
        data = data["id2label"]
    if isinstance(data, list):
        data = dict(enumerate(data))
    if not isinstance(data, dict):
        raise ValueError("must be a list or a dict")
    found: dict[int, str] = {}
    for key, value in data.items():
        if isinstance(value, list) and value:
            value = value[-1]
        if not isinstance(value, str):
            raise ValueError(f"label {str(key)[:40]!r} is not a string")
        if not re.fullmatch(r"\d{1,9}", str(key), re.ASCII):
            raise ValueError(f"class index {str(key)[:40]!r} is not a number")
        found[int(key)] = value
    return _in_order("labels", found)


def embed(
    metadata: Mapping[str, str],
    pre: Preprocess | None = None,
    labels: list[str] | None = None,
    output: str | None = None,
) -> dict[str, str]:
    """Return a copy of ``metadata`` with the ``fastconv.*`` keys set; None leaves a key alone.

    dtype is left out of ``fastconv.preprocess``, because the model's input states it.

    Raises:
        OptionError: ``labels`` is empty, too long or not strings, or ``output`` is not a kind.
    """
    out = dict(metadata)
    if pre is not None:
        config = {n: getattr(pre, n) for n in FIELDS if n not in ("dtype", "crop_pct")}
        for name in ("mean", "std"):
            config[name] = list(config[name])
        if config["pad_value"] is None:
            del config["pad_value"]
        out[KEY_PREPROCESS] = json.dumps(config)
    if labels is not None:
        if not all(isinstance(label, str) for label in labels):
            raise OptionError("labels: every label must be a string")
        if not 1 <= len(labels) <= MAX_LABELS:
            raise OptionError(f"labels: {len(labels)} given; must be 1 to {MAX_LABELS}")
        text = "\n".join(labels)
        # Labels that the plain form could not give back are written as JSON.
        plain = not text.lstrip().startswith("[") and _split_lines(text) == list(labels)
        out[KEY_LABELS] = text if plain else json.dumps(list(labels))
        if len(out[KEY_LABELS]) > MAX_LABEL_CHARS:
            raise OptionError(f"labels: more than {MAX_LABEL_CHARS} characters in all")
    if output is not None:
        if output not in OUTPUT_KINDS:
            raise OptionError(f"output={output!r}: must be one of {', '.join(OUTPUT_KINDS)}")
        out[KEY_OUTPUT] = output
    return out
