"""3×3 convolutions of stride 1 by Winograd's algorithm on tile-matrix hardware."""

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np

from ... import kernels
from ...graph.activation import Activation
from ...graph.tracing import pure
from ...graph.window import Window
from ...sizes import checked_size
from ..lowering import Lowering, aligned_empty
from ..memory import Place
from . import winograd
from .amx import (
    ARRIVAL,
    BLOCK,
    DIGITS,
    HALF_STEP,
    MAC,
    PANEL,
    SPLIT_PIXEL,
    STEP,
    STEP_BYTES,
    TALL,
    UNIT,
    WEIGHTS,
    Shape,
)  # fmt: skip

#: Output tile side, and points of a tile.
SIDE, POINTS = 4, 36
#: Channel blocks that the kernel counts.
MAX_BLOCKS = 64
#: Tiles are done together in one group, or in two where their digits stay within this.
SPLIT_BYTES = 1 << 20
#: Products of a unit, of some of its panels, stay within this.
PRODUCT_BYTES = 1 << 20
#: Cycles for joining a panel of a tile's point.
JOIN = 30.0


def tiles_of(shape: Shape) -> int:
    """Tiles of all images."""
    return shape.n * ceil(shape.oh / SIDE) * ceil(shape.ow / SIDE)


def tiles_of_block(shape: Shape) -> int:
    """Tiles done together."""
    tiles = tiles_of(shape)
    most = 2 * TALL if 2 * TALL * POINTS * shape.blocks * DIGITS * BLOCK <= SPLIT_BYTES else TALL
    return min(tiles, most)


def cycles(shape: Shape) -> float | None:
    """An estimate of the processor cycles that it takes, or None where it does not apply."""
    if (
        shape.kernel != (3, 3)
        or shape.strides != (1, 1)
        or shape.dilations != (1, 1)
        or shape.group != 1
        or shape.blocks > MAX_BLOCKS
        or POINTS * shape.filters * shape.blocks * BLOCK * DIGITS > winograd.MAX_WEIGHT_BYTES
    ):
        return None
    tiles, together = tiles_of(shape), tiles_of_block(shape)
    blocks = ceil(tiles / together)
    # (Each block's last group may be of up to 16 tiles.)
    halves = tiles // together * ceil(together / 16) + ceil(tiles % together / 16)
    full, half = divmod(halves, 2)
    panels = ceil(shape.filters / 16) / 2
    products = panels * shape.blocks * (full * STEP + half * HALF_STEP)
    weights = shape.channels * shape.filters * DIGITS / 4
    return POINTS * (
        products
        + tiles * (shape.blocks * SPLIT_PIXEL + panels * JOIN)
        + winograd.TRANSFORM * MAC * tiles * (shape.channels + shape.filters)
        + (winograd.FETCH + winograd.REFETCH * (blocks - 1)) * MAC * weights
    )


def unit_cycles(shape: Shape, tiles: int, panels: int) -> float:
    """An estimate of the processor cycles of a point of some tiles by some panels."""
    if tiles * panels * POINTS * PANEL * 4 > PRODUCT_BYTES and panels > 1:
        return float("inf")
    full, half = divmod(ceil(tiles / 16), 2)
    products = ARRIVAL + max(WEIGHTS, full * STEP + half * HALF_STEP)
    transform = winograd.TRANSFORM * MAC * (shape.channels + panels * PANEL)
    return (
        panels * shape.blocks * products
        + tiles * (shape.blocks * SPLIT_PIXEL + panels * JOIN + transform)
        + UNIT / POINTS
    )


@pure
def shared(threads: int, *fields: Any) -> tuple[int, int]:
    """A unit's tiles and panels, for a ``Shape`` by its fields; see ``winograd.share_tiles``."""
    shape = Shape(*fields)
    most, panels = tiles_of_block(shape), ceil(shape.filters / PANEL)
    return winograd.share_tiles(
        threads, tiles_of(shape), most, panels, lambda some, each: unit_cycles(shape, some, each),
        ceil(panels * most * POINTS * PANEL * 4 / PRODUCT_BYTES),
    )  # fmt: skip


def pack(w: np.ndarray, isa: str) -> np.ndarray:
    """``[filters][channels][3][3]`` → bytes: the digits of all transformed weights, see
    ``pack_digits``, by panel and point, then what they count, as float32 [panel][point][PANEL]."""
    filters, channels = w.shape[:2]
    blocks, panels = ceil(channels / BLOCK), ceil(filters / PANEL)
    size = POINTS * blocks * STEP_BYTES
    out = aligned_empty((panels * (size + 4 * POINTS * PANEL),), np.uint8)
    digits = out[: panels * size].reshape(panels, -1)
    units = out[panels * size :].view(np.float32).reshape(panels, -1)
    # (Ordinary memory: what ``aligned_empty`` gives while weights are packed stays taken.)
    full = np.zeros((POINTS, blocks * BLOCK, PANEL), np.float32)
    some = np.empty((POINTS, 1, channels, PANEL), np.float32)
    for j in range(panels):
        part = w[j * PANEL : (j + 1) * PANEL]
        kernels.packing(isa).transform_filters(part, winograd.G[SIDE], some)
        full[:, :channels] = some[:, 0]
        kernels.packing(isa).pack_digits(full, digits[j], units[j])
    return out


def lower(
    low: Lowering,
    x: Place,
    wn: str,
    bias: Place | None,
    residual: Place | None,
    y: Place,
    shape: Shape,
    win: Window,
    act: Activation | None,
) -> None:
    """Append the one step; ``wn`` names constant weights."""
    weight = low.known[wn]
    packed = low.packed(("amx winograd", wn), lambda: pack(weight, low.isa))
    tiles, block_tiles = tiles_of(shape), tiles_of_block(shape)
    panels = ceil(shape.filters / PANEL)
    direct = 9 * shape.n * shape.oh * shape.ow * shape.channels * shape.filters
    threads = low.threads_for(direct)
    groups = ceil(panels * block_tiles * POINTS * PANEL * 4 / PRODUCT_BYTES)
    block_panels = ceil(panels / min(panels, groups))
    if threads > 1:
        block_tiles, block_panels = shared(threads, *shape.fields())
    tall = ceil(block_tiles / TALL) * TALL
    line = ceil(shape.channels / 16) * 16
    per_point = checked_size((shape.blocks, DIGITS, tall), 64, "digits")
    per_point += checked_size((block_tiles, block_panels, PANEL), 4, "products")
    own = POINTS * (per_point + 4 * (tall + line)) + 2 * DIGITS * TALL * PANEL * 4
    scratch = low.scratch(checked_size((threads, own), 1, "scratch"), threads)
    params = winograd.geometry(
        x, residual, y, shape.filters, win, SIDE, block_tiles, block_panels, act
    )
    low.step(
        "amx_winograd", params, [x, packed, low.as_stored(wn), bias, residual, scratch, y],
        macs=direct, threads=threads, units=ceil(tiles / block_tiles) * ceil(panels / block_panels),
    )  # fmt: skip
