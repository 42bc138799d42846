"""The kernels, built once per instruction set, and the table that names them.

``table()`` gives the kernels of the instruction set in use: name → :class:`Kernel`, whose
``address`` the executor calls and whose ``pack`` turns keyword sizes into the family's parameter
struct. Each family module (``conv.pyx``, ``pool.pyx`` …) lists its own kernels in ``KERNELS``; that
is the only place where a kernel is registered.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from .. import knobs
from ..errors import OptionError
from ..lazy import LazyTable
from ._cpu import call, cpu_isas, has_openmp, has_vnni

#: The kernel families, each one source file compiled per instruction set.
FAMILIES = (
    "conv",
    "deform",
    "depthwise",
    "detect",
    "elementwise",
    "matmul",
    "move",
    "norm",
    "pack",
    "pool",
    "qconv",
    "qdepthwise",
    "qelementwise",
    "recurrent",
    "reduce",
    "resize",
    "winograd",
)

#: Instruction sets from lowest to highest.
ISAS = ("base", "v3", "v4", "amx")

#: Instruction sets that add families of their own to those of a lower one: (that, the families).
EXTENDS = {"amx": ("v4", ("amx_conv", "amx_winograd", "qconv"))}

#: Families whose v4 build needs byte dot products besides; without them v3's serve in their place.
VNNI = ("qconv", "qdepthwise")

#: The kernels of each family: one found here costs the loading of its family alone, any other
#: that of all families.
FAMILY_KERNELS = {
    "amx_conv": "amx_conv",
    "amx_winograd": "amx_winograd",
    "conv": "conv conv_few stage",
    "deform": "deform",
    "depthwise": "depthwise grouped",
    "detect": "suppress top_k",
    "elementwise": "unary binary",
    "matmul": "pack_b gemv gemv_fixed gemv_half read",
    "move": "transpose8 transpose16 transpose32 transpose64 copy_rows strided concat take",
    "norm": "axis_norm scale_shift channel_stats group_affine layer_norm lrn",
    "pool": "pool max_pool_indices global_pool",
    "qconv": "qconv",
    "qdepthwise": "qdepthwise",
    "qelementwise": "quantize_u8 quantize_s8 quantize_image_u8 quantize_image_s8 dequantize_u8 "
    "dequantize_s8 dequantize_s32 dynamic_range qbinary qtable qpool",
    "recurrent": "recurrent",
    "reduce": "reduce arg_reduce",
    "resize": "blend",
    "winograd": "winograd",
}


class Kernel(NamedTuple):
    """One compiled kernel: its name, its C address, and the function that packs its parameters."""

    name: str
    address: int
    pack: Callable[..., bytes]


def families(isa: str) -> tuple[str, ...]:
    """The families that are compiled for an instruction set itself."""
    return EXTENDS[isa][1] if isa in EXTENDS else FAMILIES


@cache
def built_isas() -> tuple[str, ...]:
    """The instruction sets that this installation holds kernels for, lowest first."""

    def built(isa: str) -> bool:
        lower, own = EXTENDS.get(isa, ("", FAMILIES))
        found = importlib.util.find_spec(f"{__name__}.{isa}.{own[0]}") is not None
        return found and (not lower or built(lower))

    return tuple(i for i in ISAS if built(i))


@cache
def runnable_isas() -> tuple[str, ...]:
    """The instruction sets that are both built and run by this CPU, lowest first."""
    cpu = cpu_isas()
    return tuple(i for i in built_isas() if i in cpu)


@cache
def chosen_isa() -> str:
    """The instruction set in use: the highest runnable one, or what ``FASTCONV_ISA`` asks for.

    Raises:
        OptionError: ``FASTCONV_ISA`` names one that is not built or that this CPU cannot run.
    """
    wanted = knobs.ISA.get()
    runnable = runnable_isas()
    if not runnable:
        built = ", ".join(built_isas()) or "nothing"
        raise OptionError(
            f"this installation has kernels for {built} alone, which this CPU cannot run: "
            "install fastconv again on this machine"
        )
    if wanted is None:
        return runnable[-1]
    if wanted not in runnable:
        raise OptionError(
            f"FASTCONV_ISA={wanted}: this machine runs {', '.join(runnable)} of this installation"
        )
    return wanted


@cache
def table(isa: str | None = None) -> Mapping[str, Kernel]:
    """All kernels by name for one instruction set (the chosen one by default)."""
    build: str = isa or chosen_isa()
    _, own = EXTENDS.get(build, (build, ()))
    if own:
        cpu_isas()  # which asks the operating system for what these kernels need
    result: LazyTable[str, Kernel]

    def load(family: str) -> None:
        module = importlib.import_module(f"{__name__}.{home(build, family)}.{family}")
        for name, (address, pack) in module.KERNELS.items():
            result.setdefault(name, Kernel(name, address, pack))

    families = (*own, *FAMILIES)
    where = {k: f for f, names in FAMILY_KERNELS.items() if f in families for k in names.split()}
    result = LazyTable(load, lambda: families, where.get)
    return result


def home(isa: str, family: str) -> str:
    """The build that a family of an instruction set comes from."""
    lower, own = EXTENDS.get(isa, ("", FAMILIES))
    if family not in own:
        return home(lower, family)
    return "v3" if isa == "v4" and family in VNNI and not has_vnni() else isa


@cache
def family_constants(family: str, isa: str | None = None) -> Mapping[str, int]:
    """What a family's ``CONSTANTS`` say in one build: sizes that its packed weights depend on."""
    isa = isa or chosen_isa()
    return importlib.import_module(f"{__name__}.{home(isa, family)}.{family}").CONSTANTS


@cache
def constants(isa: str | None = None) -> Mapping[str, int]:
    """Compile-time sizes of one build: ``VW`` (float lanes) and ``MR`` (rows of the GEMM tile)."""
    isa = isa or chosen_isa()
    isa = EXTENDS.get(isa, (isa,))[0]
    return importlib.import_module(f"{__name__}.{isa}.conv").CONSTANTS


@cache
def packing(isa: str | None = None) -> Any:
    """The module of one build that packs weights: ``pack_filters`` and its like."""
    isa = isa or chosen_isa()
    isa = EXTENDS.get(isa, (isa,))[0]
    return importlib.import_module(f"{__name__}.{isa}.pack")


def run(
    name: str,
    params: Mapping[str, Any],
    buffers: Sequence[Any],
    threads: int = 1,
    isa: str | None = None,
) -> None:
    """Run one kernel on NumPy arrays, outputs last; for ``fastconv.ops`` and the tests.

    Nothing is validated here: callers check shapes first.
    """
    kernel = table(isa)[name]
    call(kernel.address, kernel.pack(**params), list(buffers), threads)


__all__ = [
    "EXTENDS",
    "FAMILIES",
    "ISAS",
    "Kernel",
    "built_isas",
    "chosen_isa",
    "constants",
    "cpu_isas",
    "families",
    "family_constants",
    "has_openmp",
    "packing",
    "run",
    "runnable_isas",
    "table",
]
