"""``fastconv info``: what this installation and this machine are."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from typing import Any

from .. import __version__, knobs, threads
from .common import add_json, print_json, print_table

#: Packages whose version is shown.
PACKAGES = ("numpy", "pillow", "rich", "onnx", "onnxruntime", "ml_dtypes")


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "info",
        help="show version, processor, instruction sets, threads, knobs and optional packages",
        description="Version, processor, instruction sets (built, runnable and chosen), threads "
        "and why so many, environment variables and optional packages.",
    )
    add_json(parser)
    parser.set_defaults(function=main)


def versions() -> dict[str, str | None]:
    """Installed version of every package of ``PACKAGES``; None when it is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def collect() -> dict[str, Any]:
    """Everything that the command shows.

    Raises:
        OptionError: a ``FASTCONV_*`` variable has a value that makes no sense.
    """
    from .. import kernels, tuning

    allowed = threads.affinity()
    quota = threads.quota()
    number = threads.default_threads()
    cores = threads.physical(allowed)
    if knobs.THREADS.get() is not None:
        why = f"{knobs.THREADS.name} is set"
    elif quota is not None and number < cores:
        why = f"the CPU quota allows {quota:g} of {cores} physical cores"
    else:
        why = f"physical cores among the {len(allowed)} processors that this process may use"
    if not kernels.has_openmp():
        why += "; built without OpenMP, so every kernel runs on one"
    return {
        "version": __version__,
        "python": platform.python_version(),
        "platform": f"{sys.platform} {platform.machine()}",
        "cpu": threads.cpu_name(),
        "processors": os.cpu_count() or 1,
        "affinity": len(allowed),
        "physical_cores": cores,
        "quota": quota,
        "isa": {
            "built": list(kernels.built_isas()),
            "runnable": list(kernels.runnable_isas()),
            "chosen": kernels.chosen_isa(),
        },
        "openmp": kernels.has_openmp(),
        "threads": {"default": number, "reason": why},
        "tuned": {"folder": tuning.cache_folder(), "files": tuning.cached_files()},
        "knobs": {k.name: {"value": k.get(), "help": k.help} for k in knobs.ALL},
        "packages": versions(),
    }


def main(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    found = collect()
    if args.json:
        print_json(found)
        return 0
    isa = found["isa"]
    quota = "none" if found["quota"] is None else f"{found['quota']:g} processors"
    rows = [
        ("fastconv", found["version"]),
        ("python", f"{found['python']} ({found['platform']})"),
        ("processor", found["cpu"]),
        (
            "processors",
            f"{found['processors']}, allowed {found['affinity']}, "
            f"physical cores {found['physical_cores']}, quota {quota}",
        ),
        (
            "instruction sets",
            f"built {' '.join(isa['built'])}; runnable {' '.join(isa['runnable'])}; "
            f"chosen {isa['chosen']}",
        ),
        ("openmp", "yes" if found["openmp"] else "no"),
        ("threads", f"{found['threads']['default']}: {found['threads']['reason']}"),
    ]
    tuned = found["tuned"]
    rows.append(("tuned models", f"{tuned['files']} in {tuned['folder'] or 'no cache folder'}"))
    for name, knob in found["knobs"].items():
        rows.append((name, f"{knob['value'] or 'not set'}: {knob['help']}"))
    for name, version in found["packages"].items():
        rows.append((name, version or "not installed"))
    print_table(("what", "value"), rows)
    return 0
