"""Real inputs that PyPI packages carry: pictures, and speech. Programs of this folder share it."""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
from typing import Any

import numpy as np


def folder(package: str, *parts: str) -> pathlib.Path:
    """A folder inside an installed package, which is not imported."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ImportError(f"{package} is not installed")
    return pathlib.Path(spec.origin).parent.joinpath(*parts)


def picture(name: str) -> pathlib.Path:
    """A picture: ``page.png`` and ``text.png`` of text, ``astronaut.png`` … of scikit-image's."""
    return folder("skimage", "data", name)


def street(name: str) -> pathlib.Path:
    """``bus.jpg`` or ``zidane.jpg`` of ultralytics'."""
    return folder("ultralytics", "assets", name)


def sign(path: pathlib.Path) -> pathlib.Path:
    """Text over a photograph, a part of it turned; written to ``path``."""
    from PIL import Image, ImageDraw, ImageFont

    image = Image.open(picture("coffee.png")).convert("RGB")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(34)
    draw.text((30, 20), "Coffee of the day 2.50", fill="white", font=font)
    layer = Image.new("L", image.size)
    ImageDraw.Draw(layer).text((40, 40), "open until 18:30", fill=255, font=font)
    turned = layer.rotate(8, translate=(20, 250))
    image.paste((250, 240, 90), mask=turned)
    image.save(path)
    return path


def speech(rate: int = 16000) -> np.ndarray:
    """Speech as float32 in [-1, 1]: the 8 kHz recording of py-webrtcvad's tests.

    It is said four times, ever more softly and with more noise, with pauses between.
    ``PACKAGES_SPEECH`` names the file. Other rates are resampled with scipy.
    """
    once = np.fromfile(os.environ["PACKAGES_SPEECH"], "<i2").astype(np.float32) / 32768
    rng = np.random.default_rng(0)
    parts = []
    for k in range(4):
        parts += [np.zeros(6000 + 4000 * k, np.float32), once / (1 + k)]
    raw = np.concatenate([*parts, np.zeros(8000, np.float32)])
    noise = rng.standard_normal(len(raw)).astype(np.float32)
    raw += noise * np.linspace(0, 0.01, len(raw), dtype=np.float32)
    if rate == 8000:
        return raw
    from scipy.signal import resample_poly

    return resample_poly(raw, rate // 8000, 1).astype(np.float32)


def show(result: Any) -> None:
    """Print what the program found, as JSON on a line of its own; NumPy values become plain."""

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return value.tolist()
        if isinstance(value, np.generic):
            return value.item()
        return str(value)

    print("\n" + json.dumps(result, default=plain))
