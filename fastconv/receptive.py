"""Receptive fields: how many input pixels, per spatial axis, reach one element of a value.

A window of extent e on a value whose neighbouring elements lie ``jump`` input pixels apart widens
the field by (e - 1) · jump and multiplies the jump by its stride: Dumoulin and Visin, "A guide to
convolution arithmetic for deep learning", 2016; Araujo et al., "Computing Receptive Fields of
Convolutional Neural Networks", Distill, 2019. Of several inputs the widest counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

import numpy as np

from .errors import FastconvError
from .graph import Graph, Node, Op, SymbolicError
from .graph.window import Window, resolve_window
from .importer.foreign import Foreign

Shape = tuple[int, ...] | None

GLOBAL = ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
#: Operators whose every output may depend on every element of the input.
ANYWHERE = ("LSTM", "GRU", "RNN", "Attention", "GridSample", "RoiAlign", "MaxRoiPool")
#: Input pixels that one output pixel of Resize reads along an axis, less one.
INTERPOLATION = {"nearest": 0, "linear": 1, "cubic": 3}


@dataclass(frozen=True)
class Axis:
    """One spatial axis of the model's input as a value sees it.

    Attributes:
        size: elements of the value along it.
        field: input pixels that reach one element.
        jump: input pixels from one element to the next.
    """

    size: int
    field: float = 1
    jump: float = 1

    def slide(self, extent: int, stride: int, size: int) -> Axis:
        """After a window of this extent."""
        return Axis(size, self.field + (extent - 1) * self.jump, self.jump * stride)

    def collapse(self) -> Axis:
        """After everything along the axis was put together."""
        return self.slide(self.size, self.size, 1)


@dataclass(frozen=True)
class State:
    """A value's axes.

    Attributes:
        axes: the input's spatial axes by number.
        where: for each axis of the value, the input axis that it is, or None.
    """

    axes: Mapping[int, Axis]
    where: tuple[int | None, ...]

    def collapse(self, which: Callable[[int], bool] = lambda a: True) -> State:
        axes = {a: x.collapse() if which(a) else x for a, x in self.axes.items()}
        return State(axes, self.where)


def attribute(op: Op, name: str) -> Any:
    """An operator's attribute, also of one that fastconv has no class for; None if absent."""
    if isinstance(op, Foreign):
        a = op.node.attributes.get(name)
        return None if a is None else a.value
    return getattr(op, name, None)


def window_of(node: Node, shape: Callable[[str], Shape]) -> Window | None:
    """The window that a node slides over its first input, or None if it slides none.

    Raises:
        ShapeError: the attributes do not fit the shapes.
    """
    x = shape(node.inputs[0]) if node.inputs else None
    op = node.op
    if x is None or len(x) < 3:
        return None
    if op.label in GLOBAL:
        return resolve_window(x[2:], x[2:], None, None, None)
    own = getattr(op, "window", None)
    if op.label in ("Conv", "ConvTranspose") and own is not None:
        w = shape(node.inputs[1])
        return None if w is None else own(x, w)
    kernel = attribute(op, "kernel_shape")
    if kernel is None and op.label in ("Conv", "ConvInteger", "DeformConv", "QLinearConv"):
        w = shape(node.inputs[3 if op.label == "QLinearConv" else 1])
        kernel = None if w is None else w[2:]
    if kernel is None or "Transpose" in op.label or op.label == "MaxUnpool":
        return None
    return resolve_window(
        x[2:],
        kernel,
        attribute(op, "strides"),
        attribute(op, "dilations"),
        attribute(op, "pads"),
        attribute(op, "auto_pad") or "NOTSET",
        bool(attribute(op, "ceil_mode")),
    )


def receptive_fields(
    graph: Graph, shape: Callable[[str], Shape], known: Mapping[str, np.ndarray]
) -> dict[str, tuple[int, ...]]:
    """Value name → input pixels per spatial axis, for every value that an image reaches.

    Args:
        graph: as the file has it.
        shape: gives a value's concrete shape, or None.
        known: values that do not depend on the input.
    """
    states: dict[str, State] = {}
    for name in graph.inputs:
        s = shape(name)
        if s is not None and len(s) >= 3:
            last = s[1] > 4 and s[-1] <= 4
            spatial = range(1, len(s) - 1) if last else range(2, len(s))
            where = tuple(a if a in spatial else None for a in range(len(s)))
            states[name] = State({a: Axis(s[a]) for a in spatial}, where)
    for node in graph.nodes:
        ins = [(i, states[i]) for i in node.inputs if i in states and i not in known]
        if not ins or node.op.label in ("Shape", "Size"):
            continue
        for o in node.outputs:
            if o and o not in known:
                states[o] = _after(node, ins, o, shape, known)
    result = {}
    for name, state in states.items():
        if state.axes:
            result[name] = tuple(ceil(round(state.axes[a].field, 6)) for a in sorted(state.axes))
    return result


def _after(
    node: Node,
    ins: Sequence[tuple[str, State]],
    output: str,
    shape: Callable[[str], Shape],
    known: Mapping[str, np.ndarray],
) -> State:
    """The state of a node's output."""
    name, state = ins[0]
    op = node.op.label
    x, y = shape(name), shape(output)
    try:
        window = window_of(node, shape)
    except (FastconvError, SymbolicError):
        window = None
    if window is not None and len(state.where) == len(window.kernel_shape) + 2:
        return _slide(state, window, op == "ConvTranspose")
    if op == "Transpose":
        perm = attribute(node.op, "perm") or range(len(state.where))[::-1]
        return State(state.axes, tuple(state.where[p] for p in perm))
    if op in ("Resize", "Upsample") and x and y and len(x) == len(y) == len(state.where):
        mode = attribute(node.op, "mode") or "nearest"
        return _resize(state, x, y, INTERPOLATION.get(str(mode), 1))
    if op.startswith("Reduce") and x is not None:
        return _reduce(state, x, y)
    if op in ("Softmax", "LogSoftmax", "Hardmax"):
        axis = attribute(node.op, "axis")
        a = state.where[-1 if axis is None else int(axis)] if state.where else None
        return state.collapse(lambda k: k == a)
    if op in ("Gemm", "MatMul", "MatMulInteger", "QLinearMatMul", "Einsum"):
        return _product(node, state, y, known, ins)
    if op in ANYWHERE:
        return State(state.collapse().axes, (None,) * len(y or ()))
    return _join([s for _, s in ins], y)


def _slide(state: State, window: Window, transposed: bool) -> State:
    axes = dict(state.axes)
    for k, a in enumerate(state.where[2:]):
        if a is None:
            continue
        extent = (window.kernel_shape[k] - 1) * window.dilations[k] + 1
        stride, size = window.strides[k], int(window.output[k])  # type: ignore[arg-type]
        if transposed:
            before = axes[a]
            field = before.field + (ceil(extent / stride) - 1) * before.jump
            axes[a] = Axis(size, field, before.jump / stride)
        else:
            axes[a] = axes[a].slide(extent, stride, size)
    return State(axes, (None, None, *state.where[2:]))


def _resize(state: State, x: tuple[int, ...], y: tuple[int, ...], taps: int) -> State:
    axes = dict(state.axes)
    for k, a in enumerate(state.where):
        if a is not None and x[k] != y[k] and y[k]:
            before = axes[a]
            field = before.field + taps * before.jump
            axes[a] = Axis(y[k], field, before.jump * x[k] / y[k])
    return State(axes, state.where)


def _reduce(state: State, x: tuple[int, ...], y: Shape) -> State:
    """Which axes were reduced is told from the shapes: axes are an input, and may be left out."""
    if y is None:
        return State(state.collapse().axes, ())
    if len(x) == len(y):
        gone = {a for a, p, q in zip(state.where, x, y, strict=False) if p != q}
        return state.collapse(lambda k: k in gone)
    left, where = list(y), list[int | None]()
    for a, p in zip(state.where, x, strict=False):
        if left and left[0] == p:
            left.pop(0)
            where.append(a)
    kept = set(where)
    return State(state.collapse(lambda k: k not in kept).axes, tuple(where))


def _product(
    node: Node,
    state: State,
    y: Shape,
    known: Mapping[str, np.ndarray],
    ins: Sequence[tuple[str, State]],
) -> State:
    """With a constant the summed axis collapses, and spatial axes folded into it; else all do."""
    rank = len(y or ())
    constant = any(i in known for i in node.inputs[:2])
    if not constant or len(ins) > 1 or rank <= 2 or node.op.label == "Einsum":
        return State(state.collapse().axes, (None,) * rank)
    summed = state.where[-1] if state.where else None
    where = (*state.where[:-1], None) if len(state.where) == rank else (None,) * rank
    return State(state.collapse(lambda k: k == summed).axes, where)


def _join(states: Sequence[State], y: Shape) -> State:
    """Element-wise and other operators: the widest field of every axis, places kept if they can
    be told."""
    axes: dict[int, Axis] = {}
    for s in states:
        for a, x in s.axes.items():
            have = axes.get(a, x)
            axes[a] = Axis(max(have.size, x.size), max(have.field, x.field), max(have.jump, x.jump))
    rank = None if y is None else len(y)
    same = next((s.where for s in states if len(s.where) == rank), None)
    where = same if same is not None else (None,) * (rank or 0)
    if y is not None:
        for k, number in enumerate(where):
            if number is not None:
                axes[number] = replace(axes[number], size=y[k])
    return State(axes, where)
