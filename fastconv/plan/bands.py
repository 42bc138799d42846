"""Bands: steps that follow one another work through an image a few rows at a time.

Where the values between successive convolutions (an expansion, a depthwise one, a projection) are
larger than a core's cache, each step would write its whole output to far memory and the next would
read it back. Here such a chain of steps is repeated for one band of rows after the other, and what
lies between them stays in a buffer of few rows. Rows that a window shares with the band before are
moved to the top of that buffer rather than computed again. The idea is tile-based fusion:
Alwani, Chen, Ferdman and Milder, "Fused-Layer CNN Accelerators", 2016.

An element is computed by the same kernel with the same sums as before, so the bits do not change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..records import record
from .lowering import Lowering, Step, cut
from .memory import CHANNELS_LAST, EXTERNAL, Buffer, Place
from .places import divided, touch
from .recipe import plainly

#: Values of fewer bytes per image than this may as well be written whole.
LINK_BYTES = 1 << 20
#: With several threads, links of fewer bytes in all images together: the steps of a band wait for
#: all threads, which has to be made up for.
SHARED_BYTES = 8 << 20
#: What lies between the steps of a chain, at one time, for each thread.
BAND_BYTES = 512 << 10
#: The most rows that are computed again, as a share, and the most steps of a chain.
MOST_ANEW, MOST_STEPS = 0.05, 1000
#: More images than this are not worth as many steps.
IMAGES = 8

#: Kernels that can do some rows alone, which of their buffers is the input, and which a residual.
#: (The bits of ``winograd`` and ``amx_conv`` depend on where rows begin.)
ROW_KERNELS = {"conv": (0, 3), "conv_few": (0, None), "depthwise": (0, 3), "pool": (0, None)}


@record(frozen=True)
class Rows:
    """How a step's output rows follow from its input rows."""

    n: int
    h: int
    oh: int
    kernel: int
    stride: int
    dilation: int
    pad: int

    def needs(self, begin: int, end: int) -> tuple[int, int]:
        """The input rows, within the image, that output rows ``begin`` .. ``end`` read."""
        first = begin * self.stride - self.pad
        last = (end - 1) * self.stride - self.pad + (self.kernel - 1) * self.dilation
        return max(0, first), min(self.h, last + 1)


@record(slots=True)
class Whole:
    """A step that is cut into bands.

    Attributes:
        step: the step.
        rows: its rows.
        params: its parameters.
        row_bytes: bytes of a row of its output.
        cuts: how a band of so many rows is cut for the threads.
        tables: the pointer tables for blocks of so many rows.
    """

    step: Step
    rows: Rows
    params: dict[str, Any]
    row_bytes: int
    cuts: dict[int, dict[str, int]]
    tables: dict[int, Place]

    @staticmethod
    def of(step: Step) -> Whole:
        """A step that ``rows_of`` says something of."""
        rows = rows_of(step)
        assert rows is not None
        params = plainly(step.params)
        return Whole(step, rows, params, 4 * int(params["y_h"]), {}, {})


def rows_of(step: Step) -> Rows | None:
    """The rows of a step that can be cut into bands, or None."""
    if step.kernel not in ROW_KERNELS:
        return None
    p = plainly(step.params)
    if p.get("d", 1) != 1 or p.get("od", 1) != 1 or p.get("y_0", 0) or p["n"] > IMAGES:
        return None
    if p.get("linear") == 2:
        return None  # its fifth buffer is not the same for all images
    if step.kernel == "pool" and p["kind"] != 0:
        return None  # an average counts the padding that it meets
    residual = ROW_KERNELS[step.kernel][1]
    # (``conv_few`` finds its rows in the whole input, which may be one of the model's.)
    outer = [step.places[-1]] if step.kernel == "conv_few" else [step.places[0], step.places[-1]]
    if residual is not None:
        outer.append(step.places[residual])
    if any(q is not None and q.buffer.kind == EXTERNAL for q in outer):
        return None
    if step.kernel == "conv_few" and p["n"] > 1:
        return None
    r = Rows(p["n"], p["h"], p["oh"], p["kh"], p["stride_h"], p["dilation_h"], p["pad_h"])
    if r.oh < 2 or not p["x_h"] or not p["y_h"]:
        return None  # one row, or the plain matrix product, which has none
    # Every output row reads a row of the image, whatever the padding.
    ends = (r.needs(0, 1), r.needs(r.oh - 1, r.oh))
    return r if r.dilation > 0 and all(a < b for a, b in ends) else None


def chains(steps: Sequence[Step], least: int = 0) -> list[list[int]]:
    """Runs of successive steps, by index, whose links are large and read by the next step alone.

    The largest link of a run has ``least`` bytes or more.
    """
    large = [s.kernel in ROW_KERNELS and link_bytes(s) >= LINK_BYTES for s in steps]
    if not any(large):
        return []
    links = [s.places[-1] for s, much in zip(steps, large, strict=True) if much]
    users: dict[int, set[int]] = {id(q.buffer): set() for q in links if q is not None}
    for i, s in enumerate(steps):
        for q in s.places:
            if q is not None and (found_users := users.get(id(q.buffer))) is not None:
                found_users.add(i)
    rows = [rows_of(s) if large[i] or (i and large[i - 1]) else None for i, s in enumerate(steps)]
    found: list[list[int]] = []
    run: list[int] = []
    for i in range(len(steps)):
        if run and not linked(steps, rows, i - 1, users):
            if len(run) > 1:
                found.append(run)
            run = []
        if rows[i] is not None:
            run.append(i)
    if len(run) > 1:
        found.append(run)
    return [r for r in found if max(link_bytes(steps[i]) for i in r[:-1]) >= least]


def link_bytes(step: Step) -> int:
    """Bytes of a step's output, in all images."""
    place = step.places[-1]
    return place.nbytes if place is not None else 0


def linked(
    steps: Sequence[Step], rows: Sequence[Rows | None], i: int, users: dict[int, set[int]]
) -> bool:
    """Whether step ``i`` writes a large value that only step ``i + 1`` reads, as its input."""
    before, after = rows[i], rows[i + 1]
    if before is None or after is None or before.n != after.n:
        return False
    y, x = steps[i].places[-1], steps[i + 1].places[0]
    assert y is not None
    return (
        x is not None
        and steps[i + 1].kernel != "conv_few"  # it looks for its rows in a whole input
        and x == y
        and y.layout == CHANNELS_LAST
        and y.start == 0
        and y.dense
        and users.get(id(y.buffer)) == {i, i + 1}
        and sum(q is not None and q.buffer is y.buffer for q in steps[i + 1].places) == 1
        and sum(q is not None and q.buffer is y.buffer for q in steps[i].places) == 1
        and y.nbytes // before.n >= LINK_BYTES
    )


def apply(low: Lowering) -> None:
    """Cut the chains among the steps of a plan in the making into bands."""
    todo = chains(low.steps, 0 if low.threads == 1 else SHARED_BYTES)
    if not todo:
        return
    steps, at = low.steps, 0
    low.steps = []
    for chain in todo:
        low.steps += steps[at : chain[0]]
        parts = [Whole.of(steps[i]) for i in chain]
        windows = divide(low, parts)
        if windows:
            emit(low, parts, windows)
        else:
            low.steps += [w.step for w in parts]
        at = chain[-1] + 1
    low.steps += steps[at:]
    touch([s.places for s in low.steps], low.arena.buffers)


def divide(low: Lowering, parts: Sequence[Whole]) -> list[list[tuple[int, int]]]:
    """The rows of every band: of the chain's input, of each link and of its output.

    Nothing where whole steps are better: where so few rows fit that many would be computed again,
    or there would be very many steps.
    """
    geometry = [w.rows for w in parts]
    oh = geometry[-1].oh
    stated = [
        (r.h, r.kernel, r.stride, r.dilation, r.pad, w.row_bytes)
        for r, w in zip(geometry, parts, strict=True)
    ]
    room = BAND_BYTES * low.threads
    count = divided(stated, oh, geometry[0].n, room, MOST_ANEW, MOST_STEPS)
    return [needed(geometry, oh * k // count, oh * (k + 1) // count) for k in range(count)]


def kept(have: tuple[int, int], want: tuple[int, int]) -> tuple[int, int]:
    """Which of the rows ``want`` a link has that holds ``have``: from the first on, or none.

    They are moved to the top, so they must not overlap where they go.
    """
    end = min(have[1], want[1])
    shift = want[0] - have[0]
    if end <= want[0] or shift < 0 or 0 < shift < end - want[0]:
        return want[0], want[0]
    return want[0], end


def emit(
    low: Lowering, parts: Sequence[Whole], windows: Sequence[Sequence[tuple[int, int]]]
) -> None:
    """Append a chain's steps, band by band."""
    row_bytes = [w.row_bytes for w in parts[:-1]]
    buffers = [
        low.buffer(max(w[k + 1][1] - w[k + 1][0] for w in windows) * row_bytes[k])
        for k in range(len(row_bytes))
    ]
    for image in range(parts[0].rows.n):
        have = [(0, 0)] * len(buffers)
        for window in windows:
            for k, whole in enumerate(parts):
                begin, end = window[k + 1]
                source = None if k == 0 else (buffers[k - 1], window[k][0])
                if k == len(buffers):
                    part(low, whole, image, (begin, end), source, None)
                    continue
                keep = keep_rows(low, buffers[k], row_bytes[k], have[k], (begin, end), whole.step)
                have[k] = (begin, end)
                if keep < end:
                    target = (buffers[k], begin)
                    part(low, whole, image, (keep, end), source, target)


def needed(geometry: Sequence[Rows], begin: int, end: int) -> list[tuple[int, int]]:
    """The rows of the chain's input, of each link and of its output for a band of the last."""
    out = [(begin, end)]
    for r in reversed(geometry):
        out.append(r.needs(*out[-1]))
    return out[::-1]


def keep_rows(
    low: Lowering,
    buffer: Buffer,
    size: int,
    have: tuple[int, int],
    want: tuple[int, int],
    step: Step,
) -> int:
    """Move the rows that a link holds already to its top; returns the first row that is new."""
    first, end = kept(have, want)
    shift, rows = first - have[0], end - first
    if rows == 0 or shift == 0:
        return end
    place = step.places[-1]
    assert place is not None
    old = Place(buffer, shift * size, (rows * size,), place.dtype)
    new = Place(buffer, 0, (rows * size,), place.dtype)
    move = dict(rows=rows, bytes=size, x_row=size, y_row=size)
    append(low, Step("copy_rows", step.node, move, [old, new]), 2 * rows * size, step)
    return end


def part(
    low: Lowering,
    whole: Whole,
    image: int,
    rows: tuple[int, int],
    source: tuple[Buffer, int] | None,
    target: tuple[Buffer, int] | None,
) -> None:
    """Append a step for some rows of one image.

    Args:
        low: the plan in the making.
        whole: the whole step.
        image: which image.
        rows: the output rows.
        source: where the input's rows lie, and the number of the first; None for its own place.
        target: the same of the output.
    """
    begin, end = rows
    step, r = whole.step, whole.rows
    p = whole.params.copy()
    places = step.places.copy()
    p["oh"] = end - begin
    if step.kernel == "conv_few":
        p["pad_h"] = r.pad - begin * r.stride
    else:
        first, last = r.needs(begin, end)
        p["n"], p["h"] = 1, last - first
        p["pad_h"] = r.pad + first - begin * r.stride
        places[0] = moved(places[0], p["x_n"], p["x_h"], image, (first, last), source)
    places[-1] = moved(places[-1], p["y_n"], p["y_h"], image, rows, target)
    residual = ROW_KERNELS[step.kernel][1]
    if residual is not None and places[residual] is not None:
        places[residual] = moved(places[residual], p["r_n"], p["r_h"], image, rows, None)
    sizes = whole.cuts.get(end - begin)
    if sizes is None:
        sizes = whole.cuts[end - begin] = blocks(low, step, p)
    p.update(sizes)
    macs = step.macs * (end - begin) // (r.oh * r.n)
    work = macs or (end - begin) * p["y_h"] * p["kh"] * p["kw"]
    if step.kernel == "depthwise" and source is not None:
        p["far"] = 0  # a link's rows are near, whatever the image's are
    if step.kernel == "conv":
        # Where a thread's part of the table begins follows from the size of a block.
        places[5] = table(low, whole, p)
    append(low, Step(step.kernel, step.node, p, places, 1, macs), work, step)


def table(low: Lowering, whole: Whole, p: dict[str, Any]) -> Place:
    """The scratch memory of a ``conv`` step for its blocks of rows; bands of one size share it."""
    found = whole.tables.get(p["block_rows"])
    if found is None:
        from .lower.conv import pointer_table

        taps = p["kd"] * p["kh"] * p["kw"]
        found = pointer_table(low, whole.step.threads, taps, p["wide"], p["block_rows"])
        whole.tables[p["block_rows"]] = found
    return found


def blocks(low: Lowering, step: Step, p: dict[str, Any]) -> dict[str, int]:
    """How a band's step is cut for the threads: as one of an image of so many rows is."""
    if step.kernel == "conv":
        from .lower import conv

        depth = p["kd"] * p["kh"] * p["kw"] * p["channels"]
        sizes = conv.blocks(low, p["oh"] * p["ow"], p["filters"], p["group"], depth, p["wide"])
        return dict(block_rows=sizes[0], block_panels=sizes[1])
    if step.kernel == "depthwise":
        from .lower import depthwise

        extent = (p["kw"] - 1) * p["dilation_w"] + 1
        rows, width, strips = depthwise.blocks(
            1, p["oh"], p["ow"], p["channels"], p["kh"], extent, p["stride_w"], p["dilation_h"],
            low.vector("VW"), step.threads,
        )  # fmt: skip
        return dict(block_rows=rows, block_channels=width, block_tiles=strips)
    return {}


def moved(
    place: Place | None,
    image_step: int,
    row_step: int,
    image: int,
    rows: tuple[int, int],
    window: tuple[Buffer, int] | None,
) -> Place:
    """Some rows of one image of a place; steps in elements."""
    assert place is not None
    shape = (1, place.shape[1], rows[1] - rows[0], *place.shape[3:])
    if window is None:
        buffer = place.buffer
        start = place.start + 4 * (image * image_step + rows[0] * row_step)
    else:
        buffer = window[0]
        start = 4 * (rows[0] - window[1]) * row_step
    return Place(buffer, start, shape, place.dtype, place.layout, place.pixel, place.channels)


def append(low: Lowering, new: Step, work: int, whole: Step) -> None:
    """Append a step, shared by threads as its work deserves, at most as the whole one was."""
    new.threads = min(whole.threads, low.threads_for(work))
    if new.threads > 1:
        new.pieces = cut(new.threads, work, None, new.places)
        if any(q is not None and (q.buffer.parts or 0) > new.threads for q in new.places):
            new.pieces = new.threads  # each has the scratch memory of its number
    low.steps.append(new)
