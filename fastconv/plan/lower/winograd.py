"""3×3 convolutions of stride 1 by Winograd's algorithm, where that is cheaper.

The cost of each way is counted in multiply-adds that take as long: products, transforms, and
fetching the weights, which F(4×4) has four times as many of.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, prod
from typing import Any

import numpy as np

from ... import kernels
from ...graph.activation import Activation
from ...graph.tracing import pure
from ...graph.window import Window
from ...sizes import checked_size
from ..lowering import Lowering, aligned_empty
from ..memory import Place

#: Multiply-adds that take as long as fetching one float of the weights from beyond the caches.
FETCH = 16.0
#: The same for a float of the weights that a later block of tiles fetches again.
REFETCH = 4.0
#: Multiply-adds that take as long as transforming one float of a tile.
TRANSFORM = 10.0
#: The direct convolution, whose error is the least, is kept unless it costs clearly more.
CLEARLY = 0.95
#: Tiles that are done together: enough to pay for fetching the weights.
BLOCK_TILES = 48
#: Filters must be few enough that transformed weights stay below this many bytes.
MAX_WEIGHT_BYTES = 256 << 20

SQRT2 = 2.0**0.5
#: Output tile side by the name of the alternative.
SIDES = {"direct": 0, "winograd2": 2, "winograd4": 4}
#: The matrices G (weights) of F(m, 3), by m.
G = {
    4: np.array(
        [
            [1, 0, 0],
            *([-1 / 1.5, -s * SQRT2 / 2 / 1.5, -0.5 / 1.5] for s in (1, -1)),
            *([1 / 6, s * SQRT2 / 6, 2 / 6] for s in (1, -1)),
            [0, 0, 1],
        ]
    ),
    2: np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]]),
}


def costs(
    low: Lowering, x: tuple[int, ...], out: tuple[int, ...], filters: int, win: Window, group: int
) -> dict[str, float]:
    """The cost of every way to do a convolution with vectors: direct, and Winograd's."""
    n, c = x[:2]
    if (
        low.strict
        or group != 1
        or win.kernel_shape != (3, 3)
        or win.strides != (1, 1)
        or win.dilations != (1, 1)
        or c < 8
        or filters < 8
    ):
        return {"direct": prod(out) * n * c // group * filters * prod(win.kernel_shape)}
    found = {"direct": (9.0 * n * out[0] * out[1] + 9 * FETCH) * c * filters * CLEARLY}
    for m in (4, 2):
        p = (m + 2) ** 2
        tiles = n * ceil(out[0] / m) * ceil(out[1] / m)
        blocks = ceil(tiles / BLOCK_TILES)
        cost = p * c * filters * (tiles + FETCH + REFETCH * (blocks - 1))
        cost += TRANSFORM * p * tiles * (c + filters)
        if p * c * filters * 4 <= MAX_WEIGHT_BYTES:
            found[f"winograd{m}"] = cost
    return found


def choose(
    low: Lowering, x: tuple[int, ...], out: tuple[int, ...], filters: int, win: Window, group: int
) -> int:
    """The output tile side, 4 or 2, or 0 for the direct convolution: the cheapest, or as timed."""
    found = costs(low, x, out, filters, win, group)
    return SIDES[low.choose("conv", found)] if len(found) > 1 else 0


def tiles_of_block(low: Lowering, tiles: int) -> int:
    """Tiles done together: ``BLOCK_TILES`` unless half or twice as many were faster."""
    sizes = [s for s in (BLOCK_TILES, BLOCK_TILES // 2, 2 * BLOCK_TILES) if 0 < s < 2 * tiles]
    if len(sizes) < 2:
        return BLOCK_TILES
    found = {f"tiles{s}": 1 + 0.01 * k for k, s in enumerate(sizes)}
    return int(low.choose("tiles", found).removeprefix("tiles"))


def share_tiles(
    threads: int,
    tiles: int,
    most: int,
    panels: int,
    unit: Callable[[int, int], float],
    groups: int = 1,
) -> tuple[int, int]:
    """How threads share tiles (``most`` at a time) and panels of filters: a unit's of each.

    Args:
        threads: how many.
        tiles: of all images.
        most: the most tiles of a unit.
        panels: how many.
        unit: the cost of a unit of so many tiles and panels.
        groups: so many groups of panels may be needed, though there be fewer threads.
    """
    best = (float("inf"), 0, 0)
    least = ceil(tiles / most)
    some_panels = sorted(
        {ceil(panels / g) for g in range(1, min(panels, max(threads, groups)) + 1)}
    )
    for k in range(least, min(tiles, least + 2 * threads) + 1):
        some = ceil(tiles / k)
        for each in some_panels:
            units = ceil(tiles / some) * ceil(panels / each)
            # (What is nearly as fast in fewer units is better.)
            cost = ceil(units / threads) * unit(some, each) * (1 + 0.02 * units / threads)
            best = min(best, (cost, -some, each))
    return -best[1], best[2]


@pure
def shared(
    threads: int, tiles: int, most: int, panels: int, channels: int, nr: int
) -> tuple[int, int]:
    """A unit's tiles and panels, of ``nr`` filters; see ``share_tiles``."""

    # (Each unit transforms its input for itself.)
    def unit(some: int, each: int) -> float:
        products = channels * each * nr * (some + FETCH)
        return products + TRANSFORM * some * (channels + each * nr)

    return share_tiles(threads, tiles, most, panels, unit)


def transform_weights(w: np.ndarray, m: int, isa: str) -> np.ndarray:
    """``[filters][channels][3][3]`` → ``[point][panel][channels][NR]``, made in float64."""
    filters, channels = w.shape[:2]
    nr = kernels.constants(isa)["NR"]
    out = aligned_empty((len(G[m]) ** 2, -(-filters // nr), channels, nr))
    kernels.packing(isa).transform_filters(w, G[m], out)
    return out


def geometry(
    x: Place,
    residual: Place | None,
    y: Place,
    filters: int,
    win: Window,
    m: int,
    block_tiles: int,
    block_panels: int,
    act: Activation | None,
) -> dict[str, Any]:
    """The parameters of a kernel that does tiles of m × m outputs."""
    from .conv import epilogue, pixel_strides

    xn, _, xh, xw = pixel_strides(x)
    yn, _, yh, yw = pixel_strides(y)
    rn, _, rh, rw = pixel_strides(residual) if residual is not None else (0, 0, 0, 0)
    n, channels, h, w = x.shape
    oh, ow = y.shape[2:]
    return dict(
        n=n, h=h, w=w, channels=channels, x_n=xn, x_h=xh, x_w=xw, oh=oh, ow=ow, filters=filters,
        y_n=yn, y_h=yh, y_w=yw, r_n=rn, r_h=rh, r_w=rw, pad_h=win.pads[0], pad_w=win.pads[1], m=m,
        tiles_h=ceil(oh / m), tiles_w=ceil(ow / m), block_tiles=block_tiles,
        block_panels=block_panels, **epilogue(act),
    )  # fmt: skip


def lower(
    low: Lowering,
    x: Place,
    wn: str,
    bias: Place | None,
    residual: Place | None,
    y: Place,
    win: Window,
    m: int,
    act: Activation | None,
) -> None:
    """Append the one step; ``wn`` names constant weights."""
    weight = low.known[wn]
    filters, channels = weight.shape[:2]
    n, (oh, ow) = x.shape[0], y.shape[2:]
    nr = low.vector("NR")
    packed = low.packed(("winograd", wn, m), lambda: transform_weights(weight, m, low.isa))
    plain = low.as_stored(wn)
    tiles_h, tiles_w = ceil(oh / m), ceil(ow / m)
    tiles = n * tiles_h * tiles_w
    panels = -(-filters // nr)
    blocks = ceil(tiles / tiles_of_block(low, tiles))
    macs = (m + 2) ** 2 * tiles * channels * filters
    threads = low.threads_for(macs)
    block_tiles, block_panels = ceil(tiles / blocks), panels
    if threads > 1:
        block_tiles, block_panels = shared(threads, tiles, block_tiles, panels, channels, nr)
    row = -(-channels // 16) * 16 + block_panels * nr
    scratch = low.scratch(
        checked_size((threads, (m + 2) ** 2, block_tiles, row), 4, "tiles"), threads
    )
    params = geometry(x, residual, y, filters, win, m, block_tiles, block_panels, act)
    direct = 9 * n * oh * ow * channels * filters
    low.step(
        "winograd", params, [x, packed, plain, bias, residual, scratch, y], macs=direct,
        threads=threads,
    )  # fmt: skip
