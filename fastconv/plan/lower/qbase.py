"""What lowerings of quantised operators share: scales, and signed bytes as unsigned ones."""

from __future__ import annotations

import numpy as np

from ...graph.ops.quant import limits
from ...records import record, replace
from ..lowering import Lowering
from ..memory import Place

U8, S8, I32 = np.dtype(np.uint8), np.dtype(np.int8), np.dtype(np.int32)
BYTES = (U8, S8)


@record
class Scale:
    """A tensor's scale, and its zero point as an unsigned byte's."""

    scale: np.ndarray
    zero: int


def scale_of(low: Lowering, scale: str, zero: str, signed: bool) -> Scale | None:
    """One constant scale and zero point; None where there are several or they are computed."""
    s = low.const(scale)
    z = low.const(zero) if zero else np.zeros((), np.int8)
    if s is None or z is None or s.size != 1 or z.size != 1:
        return None
    return Scale(s.reshape(-1), int(z.reshape(-1)[0]) + (128 if signed else 0))


def fetch(low: Lowering, name: str, layout: str | None, dense: bool = True) -> Place:
    """A quantised value as unsigned bytes: a signed one is moved by 128 (once per value)."""
    place = low.place(name, layout, dense=dense)
    if place.dtype == U8:
        return place
    key = (f"{name}\0unsigned", place.layout)
    if key not in low.places:
        moved = replace(low.place(name, layout), dtype=U8)
        low.places[key] = replace(moved, buffer=low.buffer(moved.nbytes), start=0)
        flip(low, moved, low.places[key])
    return low.places[key]


def flip(low: Lowering, x: Place, y: Place) -> None:
    """A step between signed bytes and unsigned ones, 128 apart."""
    table = low.packed(("flip",), lambda: np.arange(256, dtype=np.uint8) ^ np.uint8(128))
    emit_table(low, x, table, y)


def emit_table(low: Lowering, x: Place, table: Place, y: Place) -> None:
    """y = table[x]; both dense, or channels-last with their own distance between pixels."""
    rows, cols = 1, x.size
    x_row = y_row = cols
    if not (x.dense and y.dense):
        cols = x.shape[1]
        rows, x_row, y_row = x.size // max(1, cols), x.pixel, y.pixel
    if rows * cols:
        params = dict(rows=rows, cols=cols, x_row=x_row, y_row=y_row)
        low.step("qtable", params, [x, table, y], work=4 * rows * cols)


class Output:
    """Where a quantised result goes: as unsigned bytes first if it is signed."""

    def __init__(self, low: Lowering, name: str, layout: str, channels: int = 0) -> None:
        self.low = low
        self.final = low.new(name, layout, channels)
        self.place = self.final
        self.signed = self.final.dtype == S8
        if self.signed:
            self.place = replace(
                self.final, buffer=low.buffer(self.final.nbytes), start=0, dtype=U8
            )

    def done(self) -> None:
        """To be called after the step that writes ``place``."""
        if self.signed:
            flip(self.low, self.place, self.final)


def bounds(clamp: tuple[int, int] | None, signed: bool) -> tuple[int, int]:
    """Bounds of a result as unsigned bytes."""
    lo, hi = limits(S8 if signed else U8, clamp)
    return (lo + 128, hi + 128) if signed else (lo, hi)
