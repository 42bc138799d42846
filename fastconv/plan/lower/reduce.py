"""Reductions: axes and layout → [outer][count][inner], and the kernels that reduce over count."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from ...graph import Node
from ...graph.op import normalize_axis
from ...graph.ops.reduce import (
    ArgMax,
    ArgMin,
    ArgReduction,
    ReduceL1,
    ReduceL2,
    ReduceLogSum,
    ReduceLogSumExp,
    ReduceMax,
    ReduceMean,
    ReduceMin,
    ReduceProd,
    ReduceSum,
    ReduceSumSquare,
    Reduction,
    TopK,
)
from ...records import record
from ...sizes import checked_size
from ..lowering import Lowering, lowers
from ..memory import CHANNELS_LAST, FLAT, PLAIN, Place

#: Operator → (how elements are combined, what is done with the result), as in kernels/reduce.pyx.
KINDS: dict[type, tuple[int, int]] = {
    ReduceSum: (0, 0),
    ReduceMean: (0, 1),
    ReduceL1: (1, 0),
    ReduceL2: (2, 2),
    ReduceSumSquare: (2, 0),
    ReduceLogSum: (0, 3),
    ReduceLogSumExp: (3, 4),
    ReduceProd: (4, 0),
    ReduceMax: (5, 0),
    ReduceMin: (6, 0),
}


@record(frozen=True)
class Extent:
    """A value seen as [outer][count][inner]: sizes, and strides in elements; inner has stride 1."""

    outer: int
    count: int
    inner: int
    outer_step: int
    count_step: int


def memory_axes(rank: int, layout: str) -> tuple[int, ...]:
    """The logical axis of each memory dimension (a ``FLAT`` matrix counts as it is)."""
    if layout == CHANNELS_LAST:
        return (0, *range(2, rank), 1)
    return tuple(range(rank))


def memory_strides(sizes: Sequence[int], pixel: int) -> list[int]:
    """Strides in elements of the memory dimensions; ``pixel`` is that of the last but one, or 0."""
    strides = [1] * len(sizes)
    step = pixel
    for i in range(len(sizes) - 2, -1, -1):
        strides[i] = step or sizes[-1]
        step = strides[i] * sizes[i]
    return strides


def extent(shape: Sequence[int], axes: Sequence[int], layout: str, pixel: int = 0) -> Extent | None:
    """The value as [outer][count][inner] with ``axes`` as count; None if they do not lie together.

    Args:
        shape: its logical shape, without zeros.
        axes: the axes that count runs over.
        layout: its layout in memory.
        pixel: for ``CHANNELS_LAST``, elements from pixel to pixel (0: dense).
    """
    order = memory_axes(len(shape), layout)
    sizes = [shape[a] for a in order]
    groups: list[list[int]] = []  # [reduced, size, stride], neighbours of one kind merged
    for a, size, stride in zip(order, sizes, memory_strides(sizes, pixel), strict=True):
        if size == 1:
            continue
        flag = int(a in axes)
        if groups and groups[-1][0] == flag and groups[-1][2] == size * stride:
            groups[-1][1] *= size
            groups[-1][2] = stride
        else:
            groups.append([flag, size, stride])
    if groups and groups[-1][2] != 1:
        return None
    pattern = "".join("KR"[g[0]] for g in groups)
    one = [0, 1, 0]
    slots = {
        "": (one, one, one),
        "K": (one, one, *groups[:1]),
        "KK": (*groups[:1], one, *groups[1:]),
        "R": (one, *groups[:1], one),
        "KR": (*groups, one),
        "RK": (one, *groups),
        "KRK": tuple(groups),
    }.get(pattern)
    if slots is None:
        return None
    outer, count, inner = slots
    return Extent(outer[1], count[1], inner[1], outer[2], count[2])


def place_for(
    low: Lowering, name: str, axes: Sequence[int], layouts: Sequence[str]
) -> tuple[Place, Extent] | None:
    """The value in the first layout in which its axes lie together, made dense if that helps."""
    for layout in layouts:
        if layout == low.layout_of(name) and name not in low.known:
            place = low.place(name, layout, dense=False)
            found = extent(place.shape, axes, layout, place.pixel)
            if found is not None:
                return place, found
        found = extent(low.shape(name), axes, layout)
        if found is not None:
            return low.place(name, layout), found
    return None


def result_layout(layout: str, rank: int, axes: Sequence[int], keepdims: bool) -> str | None:
    """The layout in which the kernel leaves the result, None if it has no name."""
    if layout == PLAIN:
        return PLAIN
    if layout == FLAT:
        return PLAIN if 1 in axes else None
    kept = [a for a in memory_axes(rank, layout) if a not in axes]
    if keepdims:
        return CHANNELS_LAST
    if kept == sorted(kept):
        return PLAIN
    return CHANNELS_LAST if kept[0] == 0 else None


def orders(low: Lowering, name: str, axes: Sequence[int], keepdims: bool) -> list[str]:
    """Layouts to try for the input: its own first."""
    rank = len(low.shape(name))
    own = low.layout_of(name)
    wanted = [own, PLAIN, *([CHANNELS_LAST] if rank > 2 else [])]
    return [w for w in dict.fromkeys(wanted) if result_layout(w, rank, axes, keepdims)]


@lowers(*KINDS)
def reduction(low: Lowering, node: Node) -> Any:
    op = node.op
    assert isinstance(op, Reduction)
    xn = node.inputs[0]
    an = node.inputs[1] if len(node.inputs) > 1 else ""
    shape = low.shape(xn)
    if not low.all_float32(xn) or prod(shape) == 0 or (an and low.const(an) is None):
        return False
    axes = op.axes(low.const(an), len(shape))
    found = place_for(low, xn, axes, orders(low, xn, axes, bool(op.keepdims)))
    if found is None:
        return False
    x, e = found
    y = low.new(
        node.outputs[0], result_layout(x.layout, len(shape), axes, bool(op.keepdims)) or PLAIN
    )
    combine, last = KINDS[type(op)]
    low.step(
        "reduce",
        dict(
            outer=e.outer, count=e.count, inner=e.inner, x_outer=e.outer_step, x_count=e.count_step,
            combine=combine, last=last,
        ),
        [x, y], work=x.nbytes,
    )  # fmt: skip


@lowers(ArgMax, ArgMin)
def arg_reduction(low: Lowering, node: Node) -> Any:
    op = node.op
    assert isinstance(op, ArgReduction)
    xn = node.inputs[0]
    shape = low.shape(xn)
    if not low.all_float32(xn) or prod(shape) == 0 or max(shape) >= 1 << 31:
        return False
    axes = (normalize_axis(op.axis, len(shape)),)
    layouts = [w for w in orders(low, xn, axes, bool(op.keepdims)) if w != FLAT]
    found = place_for(low, xn, axes, layouts)
    if found is None:
        return False
    x, e = found
    y = low.new(
        node.outputs[0], result_layout(x.layout, len(shape), axes, bool(op.keepdims)) or PLAIN
    )
    low.step(
        "arg_reduce",
        dict(
            outer=e.outer, count=e.count, inner=e.inner, x_outer=e.outer_step, x_count=e.count_step,
            least=int(isinstance(op, ArgMin)), last=int(bool(op.select_last_index)),
        ),
        [x, y], work=x.nbytes,
    )  # fmt: skip


@lowers(TopK)
def top_k(low: Lowering, node: Node) -> Any:
    op = node.op
    assert isinstance(op, TopK)
    xn, kn = node.inputs
    shape, count = low.shape(xn), low.const(kn)
    if not low.all_float32(xn) or count is None or prod(shape) == 0 or max(shape) >= 1 << 31:
        return False
    axis = normalize_axis(op.axis, len(shape))
    outer, n, inner = prod(shape[:axis]), shape[axis], prod(shape[axis + 1 :])
    k = low.shape(node.outputs[0] or node.outputs[1])[axis]
    x = low.place(xn, PLAIN)
    names = [*node.outputs, ""][:2]
    outputs = [low.new(name, PLAIN) if name else None for name in names]
    if k == 0:
        return None
    room = candidates_room(n, k)
    work = 8 * x.nbytes  # a comparison costs about as much as moving so many bytes
    threads = low.threads_for(work) if outer * inner > 1 else 1
    scratch = low.scratch(checked_size((threads, 2 * room), 8, "candidates"), threads)
    low.step(
        "top_k", dict(outer=outer, count=n, inner=inner, k=k, largest=int(op.largest), room=room),
        [x, scratch, *outputs], work=work, threads=threads, units=outer * inner,
    )  # fmt: skip
    return None


def candidates_room(count: int, k: int) -> int:
    """How many candidates the ``top_k`` kernel keeps at a time."""
    return int(min(count, 4 * k + 256)) + 16
