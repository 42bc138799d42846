"""Builds the extension modules: every kernel family once per instruction set.

Each kernel source ``fastconv/kernels/<family>.pyx`` becomes ``fastconv.kernels.<isa>.<family>`` for
every instruction set of the target machine, from a copy of the source in the build folder, so that
each has its own module name and object file. The rest is compiled once. Without OpenMP in the
compiler the build says so and makes a single-threaded engine. ``FASTCONV_BUILD_ISAS`` (comma
separated) restricts the instruction sets while developing.
"""

import hashlib
import multiprocessing
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile

from Cython import __version__ as cython_version
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = pathlib.Path(__file__).resolve().parent
KERNELS = "fastconv/kernels"
GENERATED = pathlib.Path("build") / "cython"
#: Kernel sources; those named after an instruction set (``amx_conv``) are compiled for it alone.
SOURCES = sorted(p.stem for p in (ROOT / KERNELS).glob("[a-z]*.pyx"))
#: Compiled once, for the lowest instruction set.
PLAIN = [
    "fastconv/kernels/_cpu.pyx",
    "fastconv/plan/places.pyx",
    "fastconv/plan/tape.pyx",
    "fastconv/runtime/executor.pyx",
]
ISAS = {
    "x86_64": {
        "base": ["-march=x86-64"],
        "v3": ["-march=x86-64-v3"],
        "v4": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
        "amx": [
            "-march=x86-64-v4",
            "-mprefer-vector-width=512",
            "-mamx-tile",
            "-mamx-int8",
        ],
    },
    "aarch64": {"base": ["-march=armv8-a"]},
}
#: Instruction sets that add kernels of their own to those of another.
EXTENDING = ("amx",)
#: Sources compiled for such an instruction set besides its own.
AGAIN = {"amx": ["qconv"]}
#: Instructions that some sources use beyond what the name of the instruction set promises; the
#: kernel table looks whether the CPU has them.
FURTHER = {
    key: ["-mavx512vnni"] for key in (("v4", "qconv"), ("v4", "qdepthwise"), ("amx", "qconv"))
}
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": False,
    "freethreading_compatible": True,
}
C_FILES = "build/c"
CYTHON_OPTIONS = {"include_path": ["."], "build_dir": C_FILES, "quiet": True}
CFLAGS = ["-O3", "-fno-math-errno", "-fno-trapping-math", "-fno-semantic-interposition", "-g0"]
KERNEL_FLAGS = ["-DCYTHON_INLINE=inline __attribute__((always_inline))"]


def machine_isas() -> dict[str, list[str]]:
    """The instruction sets to build for, with the compiler's flags for each."""
    machine = platform.machine().lower()
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)
    isas = ISAS.get(machine, {"base": []})
    wanted = os.environ.get("FASTCONV_BUILD_ISAS")
    if wanted:
        names = [name.strip() for name in wanted.split(",")]
        unknown = sorted(set(names) - isas.keys())
        if unknown:
            sys.exit(
                f"FASTCONV_BUILD_ISAS: no {', '.join(unknown)} on this machine; "
                f"it has {', '.join(isas)}"
            )
        isas = {k: v for k, v in isas.items() if k in names}
    return isas


def families(isa: str) -> list[str]:
    """The kernel sources compiled for one instruction set."""
    owner = {stem: next((e for e in EXTENDING if stem.startswith(f"{e}_")), "") for stem in SOURCES}
    own = [s for s in SOURCES if owner[s] == (isa if isa in EXTENDING else "")]
    return own + AGAIN.get(isa, [])


def copy_if_changed(src: pathlib.Path, dst: pathlib.Path) -> None:
    """Copy unless the same text is there already, so that make-style time stamps stay useful."""
    dst.parent.mkdir(parents=True, exist_ok=True)
    if not dst.exists() or dst.read_bytes() != src.read_bytes():
        shutil.copyfile(src, dst)


def extensions() -> list[Extension]:
    depends = [str(p) for p in (ROOT / KERNELS).glob("*.h")] + [
        str(p) for p in (ROOT / KERNELS).glob("*.pxd")
    ]
    depends = [os.path.relpath(p, ROOT) for p in depends]
    common = {"include_dirs": [KERNELS], "depends": depends}
    result = []
    for isa, flags in machine_isas().items():
        for family in families(isa):
            source = GENERATED / KERNELS / isa / f"{family}.pyx"
            copy_if_changed(ROOT / KERNELS / f"{family}.pyx", ROOT / source)
            name = f"fastconv.kernels.{isa}.{family}"
            own = FURTHER.get((isa, family), [])
            result.append(
                Extension(
                    name,
                    [source.as_posix()],
                    extra_compile_args=CFLAGS + KERNEL_FLAGS + flags + own,
                    **common,
                )
            )
    for path in PLAIN:
        name = path.removesuffix(".pyx").replace("/", ".")
        result.append(Extension(name, [path], extra_compile_args=list(CFLAGS), **common))
    return result


class BuildExt(build_ext):
    """Adds OpenMP where the compiler has it, and compiles on every core."""

    def build_extensions(self) -> None:
        flags = self.openmp_flags()
        for ext in self.extensions:
            ext.extra_compile_args = ext.extra_compile_args + flags
            ext.extra_link_args = [*flags, "-Wl,-s"] if sys.platform != "darwin" else flags
        self.parallel = self.parallel or multiprocessing.cpu_count()
        super().build_extensions()

    def openmp_flags(self) -> list[str]:
        with tempfile.TemporaryDirectory() as folder:
            test = pathlib.Path(folder, "omp.c")
            test.write_text("#include <omp.h>\nint main(void){return omp_get_max_threads() < 1;}\n")
            compiler = self.compiler.compiler_so[0]
            command = [compiler, "-fopenmp", str(test), "-o", str(test.with_suffix(""))]
            try:
                subprocess.run(command, check=True, capture_output=True)
            except (OSError, subprocess.CalledProcessError):
                print("fastconv: this C compiler has no OpenMP; building a single-threaded engine")
                return []
        return ["-fopenmp"]


def fingerprint() -> str:
    """A digest of all that the generated C files depend on."""
    digest = hashlib.sha256(f"{cython_version} {DIRECTIVES} {CYTHON_OPTIONS}".encode())
    for path in sorted(p for p in (ROOT / "fastconv").rglob("*") if p.suffix in (".pyx", ".pxd")):
        digest.update(f"\n{path.relative_to(ROOT).as_posix()}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def modules() -> list[Extension]:
    """The extensions with their C files, which are generated unless they are there already.

    Cython goes by time stamps, also of its own files, and pip installs Cython anew for every build:
    it would generate, and the compiler would compile, everything again for the same sources.
    """
    (ROOT / GENERATED).mkdir(parents=True, exist_ok=True)
    exts = extensions()
    stamp = ROOT / C_FILES / "fingerprint"
    if stamp.exists() and stamp.read_text() == fingerprint():
        generated = [f"{C_FILES}/{ext.sources[0].removesuffix('.pyx')}.c" for ext in exts]
        if all((ROOT / c).exists() for c in generated):
            for ext, c in zip(exts, generated):
                ext.sources = [c]
            return exts
    stamp.unlink(missing_ok=True)
    exts = cythonize(
        exts,
        nthreads=multiprocessing.cpu_count() if sys.platform == "linux" else 0,
        compiler_directives=DIRECTIVES,
        **CYTHON_OPTIONS,
    )
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.write_text(fingerprint())
    return exts


packages = [
    str(p.parent.relative_to(ROOT)).replace(os.sep, ".")
    for p in sorted((ROOT / "fastconv").rglob("__init__.py"))
]
setup(
    ext_modules=modules(),
    cmdclass={"build_ext": BuildExt},
    packages=packages,
    # Sources of compiled parts (MANIFEST.in) belong in source distributions alone.
    include_package_data=False,
    package_data={"fastconv": ["py.typed"], "": ["*.pyi"]},
)
