#!/usr/bin/env python3
"""Measure the bundled models: MobileNetV2's top five on each photograph, LeNet-5's accuracy.

    python tools/measure_models.py --engine onnxruntime

Any engine whose module has ``InferenceSession`` in onnxruntime's manner can be named. Images are
read by Pillow and prepared as the model's own metadata says. LeNet-5 is measured on the 1,000
digits kept out of its training (fetched into the cache) and on the sample digits.
"""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from digits import held_back, load_digits
from PIL import Image
from wheels import default_cache

MODELS = Path(__file__).resolve().parent.parent / "models"


def model_metadata(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the model's ``fastconv.preprocess`` and labels (see onnx_build.py)."""
    props = {p.key: p.value for p in onnx.load(path).metadata_props}
    return json.loads(props["fastconv.preprocess"]), props["fastconv.labels"].split("\n")


def prepare(image: Image.Image, how: dict[str, Any]) -> np.ndarray:
    """Return float32 [1, C, crop, crop] from an image, as ``fastconv.preprocess`` says."""
    image = image.convert(how["color"])
    # torchvision truncates the longer side, and rounds the crop's corner half to even.
    width, height = image.size
    scale = how["resize"] / min(width, height)
    width, height = (
        how["resize"] if side == min(image.size) else int(side * scale) for side in image.size
    )
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (round((side - how["crop"]) / 2) for side in image.size)
    image = image.crop((left, top, left + how["crop"], top + how["crop"]))
    pixels = np.asarray(image, np.float32).reshape(how["crop"], how["crop"], -1)
    x = (pixels * np.float32(how["scale"]) - np.float32(how["mean"])) / np.float32(how["std"])
    return np.ascontiguousarray(x.transpose(2, 0, 1)[None])


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the bundled models.")
    parser.add_argument("--engine", default="onnxruntime", help="default: %(default)s")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="wheels go here")
    args = parser.parse_args()
    session = importlib.import_module(args.engine).InferenceSession

    path = MODELS / "mobilenet_v2.onnx"
    how, labels = model_metadata(path)
    run = session(str(path)).run
    for file in sorted((MODELS / "images").iterdir()):
        if file.name.startswith("digit_"):
            continue
        (logits,) = run(None, {"input": prepare(Image.open(file), how)})[0].astype(np.float64)
        share = np.exp(logits - logits.max())
        share /= share.sum()
        best = np.argsort(-share)[:5]
        print(f"{file.name}: " + ", ".join(f"{labels[i]} {100 * share[i]:.1f} %" for i in best))

    path = MODELS / "lenet5.onnx"
    how, labels = model_metadata(path)
    run = session(str(path)).run
    images, truth = load_digits(args.cache)
    test = held_back(truth)
    x = np.concatenate([prepare(Image.fromarray(images[i]), how) for i in test])
    guess = run(None, {"input": x})[0].argmax(1)
    right = int((guess == truth[test]).sum())
    print(f"held-back digits right: {right} of {len(test)}")
    for file in sorted((MODELS / "images").glob("digit_*.png")):
        (logits,) = run(None, {"input": prepare(Image.open(file), how)})[0]
        print(f"{file.name}: {labels[int(logits.argmax())]}")


if __name__ == "__main__":
    main()
