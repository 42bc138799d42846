"""Convolutions and matrix products on tile-matrix hardware: geometry and packing for ``amx_conv``.

Which convolutions go there is decided by counting processor cycles; see ``choose``.
"""

from __future__ import annotations

from functools import lru_cache
from math import ceil, prod
from typing import Any

import numpy as np

from ... import kernels
from ...graph.activation import Activation
from ...graph.tracing import pure
from ...graph.window import Window
from ...records import record, replace
from ...sizes import checked_size
from ..lowering import Lowering, Scaled, aligned_empty, aligned_zeros
from ..memory import Place

#: Input channels of a block, output channels of a panel, and the most planes of a split copy.
BLOCK, PANEL, MAX_PHASES = 64, 32, 16
#: Input channels of a group, at least.
LEAST = 4
#: Inputs of a window that are gathered, at most.
RUN_MAX = 512
#: Digits of a number; pixels of a group; pixels whose scales are found before they are split.
DIGITS, TALL, SOME = 3, 32, 8
#: The digits of a panel's weights for one block and tap.
STEP_BYTES = DIGITS * BLOCK * PANEL
#: Sums of so many products stay within 32-bit integers.
MOST_PRODUCTS = 40_000
#: Weights that are packed at a time.
PACK_BYTES = 1 << 20
#: A unit's split input should stay in the second-level cache.
SPLIT_BYTES = 768 << 10
#: So many weights stay there while pixels are done one group after the other.
WEIGHT_BYTES = 768 << 10
#: The split input of one output row is no larger.
HALO_BYTES = 2 << 20
#: Pixels whose inputs have one scale, about: few enough to share among threads, and enough to read
#: all weights for.
SCALE_PIXELS = 240

# Processor cycles, between those with and without a busy neighbour on the core: one step of TALL
# pixels of a panel, and of half as many; splitting a block of a pixel; joining and storing a panel
# of a pixel. MAC is one multiply-add of the vector units.
STEP, HALF_STEP = 1300.0, 800.0
SPLIT_PIXEL, STORE = 50.0, 60.0
#: Looking at a block of a pixel for the largest; the weights of a step as they arrive from the
#: last-level cache, at least, and what they hold up; what a unit of work costs besides.
SCAN_PIXEL, WEIGHTS, ARRIVAL, UNIT = 12.0, 700.0, 300.0, 3000.0
MAC = 1 / 27.0
#: Winograd's products on tiles must be so much cheaper, as they are less accurate than on vectors.
CLEARLY = 0.93


@record(frozen=True)
class Axis:
    """One spatial axis of the split copy; see ``AmxParams``."""

    phases: tuple[int, ...]
    taps: tuple[tuple[int, int], ...]  # of each tap: index in phases, pixels from the first
    first: int
    halo: int


@lru_cache(maxsize=1024)
def axis(kernel: int, stride: int, dilation: int, pad: int) -> Axis:
    """Where the taps of one axis read, by input coordinate modulo ``stride``."""
    at = [divmod(t * dilation - pad, stride) for t in range(kernel)]
    phases = tuple(sorted({f for _, f in at}))
    first = min(q for q, _ in at)
    taps = tuple((phases.index(f), q - first) for q, f in at)
    return Axis(phases, taps, first, max(q for q, _ in at) - first)


@record(frozen=True)
class Shape:
    """A two-dimensional convolution with its sizes, as the kernel sees it."""

    n: int
    h: int
    w: int
    channels: int
    oh: int
    ow: int
    filters: int
    group: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int]

    def fields(self) -> tuple[Any, ...]:
        """All that makes a shape."""
        return (
            self.n, self.h, self.w, self.channels, self.oh, self.ow, self.filters, self.group,
            self.kernel, self.strides, self.dilations, self.pads,
        )  # fmt: skip

    @property
    def blocks(self) -> int:
        """Channel blocks of the input."""
        return ceil(self.channels / BLOCK)

    def panel_blocks(self) -> tuple[list[int], int]:
        """Each panel's first channel block, and how many blocks a panel reads."""
        panels = ceil(self.filters / PANEL)
        if self.group == 1:
            return [0] * panels, self.blocks
        fg, cg = self.filters // self.group, self.channels // self.group
        first, last = [], []
        for j in range(panels):
            g0, g1 = j * PANEL // fg, (min((j + 1) * PANEL, self.filters) - 1) // fg
            first.append(g0 * cg // BLOCK)
            last.append(((g1 + 1) * cg - 1) // BLOCK)
        count = max(b - a for a, b in zip(first, last, strict=True)) + 1
        return [min(a, self.blocks - count) for a in first], count

    def steps(self) -> int:
        """(Block, tap) steps of a panel."""
        return self.panel_blocks()[1] * prod(self.kernel)

    @property
    def pointwise(self) -> bool:
        """Whether every output pixel reads one input pixel."""
        return self.kernel == (1, 1)

    def scale_rows(self) -> int:
        """Output rows whose inputs have one scale. (Rows of their own where ``pointwise``.)"""
        if self.pointwise:
            return 1
        parts = max(1, round(self.oh * self.ow / SCALE_PIXELS))
        return ceil(self.oh / (parts + parts % 2 if parts > 1 else 1))

    def cycles(self) -> float:
        """An estimate of the processor cycles that it takes."""
        steps, panels = self.steps(), ceil(self.filters / 16) / 2
        rows = self.n * self.oh * self.ow
        border = 1 + min(self.kernel[1] - 1, 2) / (2 * self.ow) if self.kernel[1] > 1 else 1
        unit = self.oh * self.ow * border / (1 if self.pointwise else self.oh / self.scale_rows())
        groups, rest = divmod(ceil(unit / 16), 2)
        units = self.n * self.oh * self.ow * border / unit
        pixels = rows if self.pointwise else self.n * self.h * self.w
        return (
            units * panels * steps * (groups * STEP + rest * HALF_STEP)
            + pixels * self.blocks * SPLIT_PIXEL
            + rows * panels * STORE
        )


def unit_cycles(s: Shape, steps: int, scale_rows: int, rows: int, panels: int) -> float:
    """An estimate of the processor cycles of one unit of work: ``rows`` output rows of an image by
    ``panels`` of so many steps."""
    kh, kw = s.kernel
    border = 1 + min(kw - 1, 2) / (2 * s.ow)
    groups, rest = divmod(ceil(rows * s.ow * border / 16), 2)
    inputs, seen = rows * s.ow, 0
    if not s.pointwise:
        halo = (kh - 1) * s.dilations[0] + 1
        inputs = ((rows - 1) * s.strides[0] + halo) * s.w
        seen = ((scale_rows - 1) * s.strides[0] + halo) * s.w - inputs
    return (
        UNIT
        + s.blocks * (inputs * SPLIT_PIXEL + seen * SCAN_PIXEL)
        + panels * steps * (ARRIVAL + max(WEIGHTS, groups * STEP + rest * HALF_STEP))
        + panels * rows * s.ow * STORE
    )


def parts_of(whole: int) -> list[int]:
    """Every ``ceil(whole / k)``, descending."""
    found = [whole]
    while found[-1] > 1:
        found.append(ceil(whole / ceil(whole / (found[-1] - 1))))
    return found


@pure
def shared(threads: int, *fields: Any) -> tuple[float, int, int]:
    """How threads share the images of a ``Shape``, given by its fields.

    Returns:
        Estimated cycles, and a unit's rows and panels.
    """
    s = Shape(*fields)
    panels, steps = ceil(s.filters / PANEL), s.steps()
    block = s.oh if s.pointwise else s.scale_rows()
    most_rows = max(1, SPLIT_BYTES // (s.blocks * DIGITS * 64 * s.ow)) if s.pointwise else block
    widths = [each for each in parts_of(panels) if ceil(panels / each) <= threads]
    best = (float("inf"), 1, 1)
    for rows in parts_of(block):
        if rows > most_rows:
            continue
        blocks = s.n * ceil(s.oh / block) * ceil(block / rows)
        for each in widths:
            units = blocks * ceil(panels / each)
            cycles = ceil(units / threads) * unit_cycles(s, steps, block, rows, each)
            best = min(best, (cycles, rows, each))
        if blocks > 4 * threads:
            break
    return best


def shape_of(
    x: tuple[int, ...], out: tuple[int, ...], filters: int, group: int, win: Window
) -> Shape | None:
    """The convolution as one of two dimensions, or None where it has more.

    One of one dimension is a column of rows: a block of these has a scale of its own.
    """
    if len(x) not in (3, 4) or len(out) != len(x) - 2:
        return None
    rank = len(win.kernel_shape)

    def two(values: tuple[int, ...], fill: int) -> tuple[int, int]:
        return values[0], values[1] if rank == 2 else fill

    h, w = two(x[2:], 1)
    oh, ow = two(tuple(out), 1)
    return Shape(
        x[0], h, w, x[1], oh, ow, filters, group, two(win.kernel_shape, 1),
        two(win.strides, 1), two(win.dilations, 1), two(win.pads, 0),
    )  # fmt: skip


def usable(low: Lowering) -> bool:
    """Whether there are tile matrices, and they may be used."""
    return low.isa == "amx" and not low.strict


def choose(
    low: Lowering, shape: Shape | None, weight: np.ndarray, macs: float, kind: str = "amx"
) -> str:
    """What is cheapest: "amx", "winograd" on tile matrices, where there are any for this, or
    "" for the vector units' ``macs``."""
    from . import amx_winograd

    if shape is None or not usable(low):
        return ""
    if shape.channels // shape.group < LEAST or not low.packs.finite(weight):
        return ""
    costs = {"vector": macs}
    winograd = amx_winograd.cycles(shape)
    if winograd is not None:
        costs["winograd"] = winograd / MAC / CLEARLY
    ah = axis(shape.kernel[0], shape.strides[0], shape.dilations[0], shape.pads[0])
    aw = axis(shape.kernel[1], shape.strides[1], shape.dilations[1], shape.pads[1])
    phases = len(ah.phases) * len(aw.phases)
    # Long dilations: taps that meet borders alone, or a halo of many rows, are for vectors.
    row = shape.blocks * DIGITS * 64 * phases * (shape.ow + aw.halo)
    reach = max(ah.halo * shape.strides[0] - shape.h, aw.halo * shape.strides[1] - shape.w)
    if (
        phases <= MAX_PHASES
        and reach < 0
        and (not ah.halo or row * (1 + ah.halo) <= HALO_BYTES)
        and shape.steps() * BLOCK <= MOST_PRODUCTS
    ):
        costs["amx"] = shape.cycles() / MAC
    chosen = low.choose(kind, costs) if len(costs) > 1 else "vector"
    return "" if chosen == "vector" else chosen


def may_scale(low: Lowering, name: str) -> bool:
    """Whether a value that is only a scaled one may be left to the convolutions that read it."""
    return usable(low) and name not in low.outputs and name not in low.slices


def pack(w: np.ndarray, shape: Shape, isa: str) -> np.ndarray:
    """``[filters][channels per group][kh][kw]`` → bytes: the digits of all panels, see
    ``pack_digits``, then what they count, as float32 [panel][PANEL]."""
    steps, panels = shape.steps(), ceil(shape.filters / PANEL)
    out = aligned_empty((panels * (steps * STEP_BYTES + 4 * PANEL),), np.uint8)
    digits = out[: panels * steps * STEP_BYTES].reshape(panels, -1)
    units = out[panels * steps * STEP_BYTES :].view(np.float32).reshape(panels, PANEL)
    some = max(1, PACK_BYTES // (steps * BLOCK * PANEL * 4))
    for j in range(0, panels, some):
        part = slice(j, min(j + some, panels))
        kernels.packing(isa).pack_digits(panels_of(w, shape, isa, part), digits[part], units[part])
    return out


def panels_of(w: np.ndarray, shape: Shape, isa: str, part: slice) -> np.ndarray:
    """Some panels of weights, as float32 ``[panel][step][BLOCK][PANEL]``."""
    kh, kw = shape.kernel
    taps = kh * kw
    first, count = shape.panel_blocks()
    if shape.group == 1:
        # (Ordinary memory: what ``aligned_empty`` gives while weights are packed stays taken.)
        out = np.empty((part.stop - part.start, count * taps, BLOCK, PANEL), np.float32)
        flat = np.moveaxis(w.reshape(shape.filters, -1, taps), 1, -1)
        flat = flat[part.start * PANEL : part.stop * PANEL]
        kernels.packing(isa).pack_filters(flat, 1, out, BLOCK)
        return out
    out = np.zeros((part.stop - part.start, count, taps, BLOCK, PANEL), np.float32)
    fg, cg = shape.filters // shape.group, shape.channels // shape.group
    w = w.reshape(shape.filters, cg, taps)
    for j in range(part.start, part.stop):
        f0, f1 = j * PANEL, min((j + 1) * PANEL, shape.filters)
        dense = out[j - part.start].transpose(0, 2, 1, 3)  # [block][channel][tap][filter]
        for g in range(f0 // fg, (f1 - 1) // fg + 1):
            a, b = max(f0, g * fg), min(f1, (g + 1) * fg)
            c0 = g * cg - first[j] * BLOCK
            for k in range(c0 // BLOCK, (c0 + cg - 1) // BLOCK + 1):
                lo, hi = max(c0, k * BLOCK), min(c0 + cg, (k + 1) * BLOCK)
                dense[k, lo - k * BLOCK : hi - k * BLOCK, :, a - f0 : b - f0] = w[
                    a:b, lo - c0 : hi - c0
                ].transpose(1, 2, 0)
    return out


def int64_table(*values: int) -> np.ndarray:
    """The numbers as an array."""
    return np.array(values, np.int64)


def pack_bias(bias: np.ndarray | None, filters: int) -> np.ndarray:
    """``[panel][PANEL]`` with zeros beyond the last filter."""
    out = aligned_zeros((ceil(filters / PANEL) * PANEL,))
    if bias is not None:
        out[:filters] = bias
    return out


@record(frozen=True)
class Runs:
    """Where the inputs of a pixel lie in a zero-bordered image of few channels, in floats."""

    rows: int
    length: int
    step: int
    x_n: int
    x_h: int
    x_w: int


def unrolled(shape: Shape) -> Shape:
    """A convolution of few channels as one of 1×1 whose channels are all inputs of a window."""
    k = prod(shape.kernel) * shape.channels
    return Shape(
        shape.n, shape.oh, shape.ow, k, shape.oh, shape.ow, shape.filters, 1,
        (1, 1), (1, 1), (1, 1), (0, 0),
    )  # fmt: skip


def pack_runs(w: np.ndarray) -> np.ndarray:
    """``[filters][channels][kh][kw]`` → the weights of the ``unrolled`` convolution."""
    return w.transpose(0, 2, 3, 1).reshape(len(w), -1, 1, 1)


def flatten(s: Shape) -> Shape:
    """A 1×1 convolution of small images as one of longer rows."""
    if s.kernel != (1, 1) or s.strides != (1, 1) or s.pads != (0, 0) or (s.oh, s.ow) != (s.h, s.w):
        return s
    total = s.h * s.w
    if s.w >= 16:
        return s
    w = total if total <= 1024 else max(d for d in range(1, 257) if total % d == 0)
    return replace(s, h=total // w, w=w, oh=total // w, ow=w)


def lower(
    low: Lowering,
    x: Place,
    wn: str,
    bn: str,
    residual: Place | None,
    y: Place,
    shape: Shape,
    act: Activation | None,
    runs: Runs | None = None,
    scaled: Scaled | None = None,
) -> None:
    """Append the step.

    Args:
        low: the plan in the making.
        x: the input, channels-last.
        wn, bn: names of the constant weights and bias ("" for none).
        residual: added before the activation, channels-last, or None.
        y: the output, channels-last.
        shape: what ``choose`` agreed to.
        act: the activation, or None.
        runs: where a pixel's inputs are gathered from, for a shape made by ``unrolled``.
        scaled: how the input is to be scaled first, or None.
    """
    from .conv import epilogue

    weight = low.known[wn]
    bias = low.known[bn] if bn else None
    wp = low.packed(
        ("amx", wn, shape.group, shape.kernel),
        lambda: pack(weight if runs is None else pack_runs(weight), shape, low.isa),
    )
    bp = low.packed(("amx bias", bn, shape.filters), lambda: pack_bias(bias, shape.filters))
    macs = shape.n * shape.oh * shape.ow * shape.filters * shape.channels // shape.group
    macs *= prod(shape.kernel)
    threads = low.threads_for(macs)
    s = shape if runs is not None else flatten(shape)
    panels = ceil(s.filters / PANEL)
    # Where all inputs of some rows have one scale, which rows these are must not depend on threads.
    rows, each = s.oh if s.pointwise else s.scale_rows(), panels
    alone = threads == 1 or s.n >= 2 * threads
    if not alone:
        ways = [
            (*shared(threads, *way.fields()), way) for way in ([s, shape] if s != shape else [s])
        ]
        _, rows, each, s = min(ways, key=lambda way: way[0])
    ah = axis(s.kernel[0], s.strides[0], s.dilations[0], s.pads[0])
    aw = axis(s.kernel[1], s.strides[1], s.dilations[1], s.pads[1])
    first, count = s.panel_blocks()
    steps = s.steps()
    phases = [(a, b) for a in ah.phases for b in aw.phases]
    need = s.ow + aw.halo
    data = max(ceil((s.w - f) / s.strides[1]) for f in aw.phases) - aw.first
    width = max(min(data, need), need - max(0, -aw.first), s.ow)
    slack = max(0, need - width) + TALL

    def plane(rows: int) -> int:
        return (rows + ah.halo) * width + slack

    def bytes_of(rows: int) -> int:
        return checked_size((s.blocks, DIGITS, len(phases), plane(rows)), 64, "digits")

    block_n = 1
    if alone:
        while s.pointwise and rows > 1 and bytes_of(rows) > SPLIT_BYTES:
            rows = ceil(rows / 2)
        if rows == s.oh:
            block_n = max(1, min(ceil(s.n / threads), SPLIT_BYTES // bytes_of(rows)))
    scale_rows = rows if s.pointwise else s.scale_rows()
    units = ceil(s.n / block_n) * ceil(s.oh / scale_rows) * ceil(scale_rows / rows)
    units *= ceil(panels / each)
    px = plane(rows)
    offsets = [
        64 * ((b * DIGITS * len(phases) + fh * len(aw.phases) + fw) * px + qh * width + qw)
        for b in range(count)
        for fh, qh in ah.taps
        for fw, qw in aw.taps
    ]
    per_image = checked_size(((rows * width + TALL) // 16 + 1,), 64, "scales") + bytes_of(rows)
    own = 4 * ((2 * DIGITS + 1) * TALL * PANEL + SOME * (s.blocks * BLOCK + 16))
    scratch = low.scratch(checked_size((threads, own + block_n * per_image), 1, "scratch"), threads)
    yp, rp = y.pixel, residual.pixel if residual is not None else 0
    fill = [0] * (MAX_PHASES - len(phases))
    params = dict(
        n=s.n, h=s.h, w=s.w, channels=s.channels,
        x_n=runs.x_n if runs else s.h * s.w * x.pixel,
        x_h=runs.x_h if runs else s.w * x.pixel, x_w=runs.x_w if runs else x.pixel,
        run_rows=runs.rows if runs else 0, run=runs.length if runs else 0,
        run_h=runs.step if runs else 0, run_channels=weight.shape[1] if runs else 0,
        oh=s.oh, ow=s.ow, filters=s.filters, y_n=s.oh * s.ow * yp, y_h=s.ow * yp, y_w=yp,
        r_n=s.oh * s.ow * rp, r_h=s.ow * rp, r_w=rp,
        stride_h=s.strides[0], stride_w=s.strides[1], kh=s.kernel[0], kw=s.kernel[1],
        dilation_h=s.dilations[0], dilation_w=s.dilations[1], pad_h=s.pads[0], pad_w=s.pads[1],
        phases=len(phases), phase_h=[a for a, _ in phases] + fill,
        phase_w=[b for _, b in phases] + fill, width=width, first_h=ah.first, first_w=aw.first,
        halo_h=ah.halo, plane=px,
        group_channels=s.channels // s.group if s.group > 1 else 0,
        group_filters=s.filters // s.group if s.group > 1 else 0,
        blocks=s.blocks, steps=steps, block_n=block_n, block_rows=rows, block_panels=each,
        scale_rows=scale_rows, pixels_outside=int(each * steps * STEP_BYTES <= WEIGHT_BYTES),
        pre_n=s.channels if scaled and scaled.per_image else 0,
        pre_lo=scaled.lo if scaled else -float("inf"), **epilogue(act),
    )  # fmt: skip
    low.step(
        "amx_conv", params,
        [
            x, wp, bp, residual, scaled.scale if scaled else None,
            scaled.shift if scaled else None, low.computed(int64_table, *offsets, *first),
            low.as_stored(wn), scratch, y,
        ],
        macs=macs, threads=threads, units=units,
    )  # fmt: skip
