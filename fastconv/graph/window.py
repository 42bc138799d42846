"""Geometry of sliding windows: auto_pad, pads, output sizes (Conv, ConvTranspose, every pool).

Source: ONNX operators Conv-22, ConvTranspose-22, MaxPool-22, AveragePool-22.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from ..records import record
from .op import need
from .symbols import Dim
from .tracing import settled

AUTO_PADS = ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")


@record(frozen=True)
class Window:
    """A window over the spatial axes, every attribute spelled out per axis.

    Attributes:
        kernel_shape, strides, dilations: sizes per spatial axis.
        pads: begin pads of every axis, then end pads, as ONNX has them.
        output: output size per axis (int, Sym or None; all int when the input's sizes are).
    """

    kernel_shape: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    output: tuple[Any, ...]

    def __init__(
        self,
        kernel_shape: tuple[int, ...],
        strides: tuple[int, ...],
        dilations: tuple[int, ...],
        pads: tuple[int, ...],
        output: tuple[Any, ...],
    ) -> None:
        values = self.__dict__
        values["kernel_shape"] = kernel_shape
        values["strides"] = strides
        values["dilations"] = dilations
        values["pads"] = pads
        values["output"] = output


def check_window(
    rank: int,
    kernel_shape: Sequence[int],
    strides: Sequence[int] | None,
    dilations: Sequence[int] | None,
    pads: Sequence[int] | None,
    auto_pad: str,
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Fill in defaults and check lengths and signs.

    Raises:
        ShapeError: naming the attribute and its value.
    """
    strides = tuple(strides or (1,) * rank)
    dilations = tuple(dilations or (1,) * rank)
    pads = tuple(pads or (0,) * (2 * rank))
    kernel_shape = tuple(kernel_shape)
    need(
        auto_pad in AUTO_PADS, lambda: f"auto_pad {auto_pad!r} is not one of {', '.join(AUTO_PADS)}"
    )
    for what, v, n in (
        ("kernel_shape", kernel_shape, rank),
        ("strides", strides, rank),
        ("dilations", dilations, rank),
        ("pads", pads, 2 * rank),
    ):
        need(len(v) == n, lambda: f"{what} {list(v)} has {len(v)} entries where {n} are needed")
        least = 0 if what == "pads" else 1
        need(
            all(least <= d < 1 << 31 for d in v),
            lambda: f"{what} {list(v)} has an entry outside {least} to 2**31-1",
        )
    return kernel_shape, strides, dilations, pads


def resolve_window(
    spatial: Sequence[Dim],
    kernel_shape: Sequence[int],
    strides: Sequence[int] | None,
    dilations: Sequence[int] | None,
    pads: Sequence[int] | None,
    auto_pad: str = "NOTSET",
    ceil_mode: bool = False,
) -> Window:
    """The window of a convolution or pool over an input of these spatial sizes.

    With ``ceil_mode`` a last window that starts in the right-hand padding is dropped, as ONNX and
    torch have it.

    Raises:
        ShapeError: bad attributes, or the window does not fit into the padded input.
        SymbolicError: a SAME pad needs the value of a symbol.
    """
    try:
        return _resolved(spatial, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    except TypeError:  # a list among the arguments, or arithmetic with an unknown size
        return _resolve(spatial, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)


def _resolve(
    spatial: Sequence[Dim],
    kernel_shape: Sequence[int],
    strides: Sequence[int] | None,
    dilations: Sequence[int] | None,
    pads: Sequence[int] | None,
    auto_pad: str,
    ceil_mode: bool,
) -> Window:
    rank = len(spatial)
    ks, ss, ds, ps = _checked(
        rank, tuple(kernel_shape), tuple(strides or ()), tuple(dilations or ()), tuple(pads or ()),
        auto_pad,
    )  # fmt: skip
    begin, end, out = list(ps[:rank]), list(ps[rank:]), []
    for a in range(rank):
        size: Any = spatial[a]  # None in arithmetic is a TypeError: the caller knows no type then
        extent = (ks[a] - 1) * ds[a] + 1
        if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            n = (size + ss[a] - 1) // ss[a]
            total = settled(max(0, (n - 1) * ss[a] + extent - size))
            small = total // 2
            begin[a] = small if auto_pad == "SAME_UPPER" else total - small
            end[a] = total - begin[a]
            out.append(n)
            continue
        if auto_pad == "VALID":
            begin[a] = end[a] = 0
        room = None if size is None else size + begin[a] + end[a] - extent
        if isinstance(room, int):
            need(
                # Rounded up, one window may reach past the end of an input smaller than it is.
                # An empty axis stays empty under a window of 1: a product of no rows becomes one.
                room >= 0 or (ceil_mode and room > -ss[a]) or (extent == 1 and room == -1),
                lambda: (
                    f"the window (kernel_shape {list(ks)}, dilations {list(ds)}) is larger than "
                    f"the padded input (spatial {list(spatial)}, pads {[*begin, *end]})"
                ),
            )
        if room is None:
            out.append(None)
        elif ceil_mode:
            n = (room + ss[a] - 1) // ss[a] + 1
            if isinstance(n, int) and (n - 1) * ss[a] >= size + begin[a]:
                n -= 1
            out.append(n)
        else:
            out.append(room // ss[a] + 1)
    return Window(ks, ss, ds, (*begin, *end), tuple(out))


#: The layers of a network repeat a few geometries, each of which is asked for several times.
_resolved = lru_cache(maxsize=1024)(_resolve)
_checked = lru_cache(maxsize=1024)(check_window)
