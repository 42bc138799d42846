"""The preprocessing options of ``fastconv run``."""

from __future__ import annotations

import argparse
from typing import Any

from ..errors import OptionError

#: Field of ``image.Preprocess`` → metavar and help.
FIELDS = {
    "resize": ("N|HxW|none", "resize to this many pixels (see --resize-mode), or not at all"),
    "resize_mode": ("MODE", "shortest (side gets --resize pixels), longest, exact or letterbox"),
    "interpolation": ("NAME", "nearest, box, bilinear, bicubic or lanczos"),
    "crop": ("N|HxW|none", "cut this out of the centre after resizing, or nothing"),
    "crop_pct": ("X", "resize so that --crop is this part of each side (0 to 1)"),
    "scale": ("X", "multiply pixels 0..255 by this, for example 1/255"),
    "mean": ("X,X,X", "then subtract this, one number or one per channel"),
    "std": ("X,X,X", "then divide by this, one number or one per channel"),
    "color": ("ORDER", "RGB, BGR or L (grey)"),
    "layout": ("ORDER", "NCHW or NHWC"),
    "pad_value": ("N", "byte (or R,G,B) for letterbox bars and where a crop pads"),
    "letterbox_center": ("BOOL", "true: bars on both sides; false: right and bottom"),
}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add one option for every field, --preset, --letterbox and --ignore-metadata."""
    group = parser.add_argument_group(
        "preprocessing",
        "An option overrules the model's metadata, and those a preset. Write negative numbers "
        "with an equals sign: --mean=-1,0,1.",
    )
    group.add_argument(
        "--preset",
        metavar="NAME",
        help="imagenet, imagenet-inception, tf, caffe, 0-1 or raw",
    )
    for name, (metavar, text) in FIELDS.items():
        group.add_argument("--" + name.replace("_", "-"), metavar=metavar, help=text)
    group.add_argument(
        "--letterbox",
        nargs="?",
        const="",
        metavar="N|HxW",
        help="fit the image into the model's size (or this one) and fill the rest with bars",
    )
    group.add_argument(
        "--ignore-metadata",
        action="store_true",
        help="do not use what the model's metadata say of images, labels and outputs",
    )


def read_flags(args: argparse.Namespace) -> dict[str, Any]:
    """What ``image.resolve`` takes: the fields that were given, and the preset.

    Raises:
        OptionError: a value makes no sense, or two options contradict each other.
    """
    from ..image import parse_field

    flags: dict[str, Any] = {"preset": args.preset}
    for name in FIELDS:
        value = getattr(args, name)
        if value is not None:
            flags[name] = parse_field(name, value)
    if args.letterbox is not None:
        if flags.get("resize_mode", "letterbox") != "letterbox":
            raise OptionError("--letterbox and --resize-mode contradict each other")
        flags["resize_mode"] = "letterbox"
        if args.letterbox:
            if "resize" in flags:
                raise OptionError("--letterbox N and --resize: give one of the two")
            flags["resize"] = parse_field("resize", args.letterbox)
    return flags
