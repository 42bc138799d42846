#!/usr/bin/env python3
"""Make the photographs in models/images from those that the scikit-image wheel carries.

Three are copied byte for byte; the coffee cup is re-encoded from PNG to JPEG to be small. Each is
CC0 or in the public domain: models/README.md names the photographers. Needs pillow:

    python tools/make_images.py
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from PIL import Image
from wheels import default_cache, unpacked_wheel

COPIES = {"chelsea.png": "cat.png", "camera.png": "camera.png", "rocket.jpg": "rocket.jpg"}


def main() -> None:
    images = Path(__file__).resolve().parent.parent / "models" / "images"
    parser = argparse.ArgumentParser(description="Make the photographs in models/images.")
    parser.add_argument("--out", type=Path, default=images, help="default: %(default)s")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="wheels go here")
    args = parser.parse_args()
    data = unpacked_wheel("scikit-image", args.cache) / "skimage" / "data"
    args.out.mkdir(parents=True, exist_ok=True)
    for source, name in COPIES.items():
        shutil.copyfile(data / source, args.out / name)
    coffee = Image.open(data / "coffee.png").convert("RGB")
    coffee.save(args.out / "coffee.jpg", quality=92, subsampling=0)
    for path in sorted(args.out.iterdir()):
        print(f"{path}  {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
