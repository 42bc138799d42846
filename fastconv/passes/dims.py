"""Names for sizes that are not known, so that passes can tell which of them are equal.

A size that the file leaves open, or that a shape rule cannot express, gets a name of its own, such
as ``#3``. The size that a window gives is named after what it follows from, so that two branches of
equal geometry have equal sizes, and one that keeps the size keeps its name: that is what a residual
sum needs to know. The names are for passes alone: :func:`hide` turns them into unknown sizes again.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from ..graph import Dim, Node, Sym, TensorType

#: In the text of every name made here, and of every expression that holds one.
MARK = "#"
#: Operators that slide a window over axes 2 and up.
WINDOWED = frozenset({"Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool"})
#: Operators whose inputs broadcast to the output.
BROADCASTING = frozenset(
    {"Add", "Sub", "Mul", "Div", "Pow", "Mod", "Max", "Min", "Sum", "Mean", "Where", "PRelu"}
    | {"And", "Or", "Xor", "Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual"}
)


class Dims:
    """Makes names of sizes; equal keys give equal names."""

    def __init__(self) -> None:
        self.names: dict[Hashable, Sym] = {}

    def name(self, key: Hashable) -> Sym:
        """The size that follows from ``key``."""
        return self.names.setdefault(key, Sym(f"{MARK}{len(self.names)}"))

    def of_input(self, value: str, t: TensorType) -> TensorType:
        """A graph input's type without unknown sizes ("?" is no name: it may stand for several)."""
        if t.shape is None:
            return t
        shape = (
            self.name(("value", value, k)) if d is None or _doubtful(d) else d
            for k, d in enumerate(t.shape)
        )
        return TensorType(t.dtype, tuple(shape))

    def of_node(
        self, node: Node, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]
    ) -> list[TensorType]:
        """What a node's shape rule found, corrected and with names for the sizes left open."""
        result = []
        for k, t in enumerate(outputs):
            value = node.outputs[k] if k < len(node.outputs) else ""
            if t.shape is None or not value:
                result.append(t)
                continue
            shape = list(t.shape)
            if type(node.op).__name__ in WINDOWED and not node.op.domain:
                self._window(node, inputs, shape)
            if type(node.op).__name__ in BROADCASTING:
                _doubt(inputs, shape)
            named = (
                self.name(("value", value, a)) if d is None else d for a, d in enumerate(shape)
            )
            result.append(TensorType(t.dtype, tuple(named)))
        return result

    def _window(self, node: Node, types: Sequence[TensorType | None], shape: list[Dim]) -> None:
        """Sizes of a sliding window that are no numbers, from input size and attributes."""
        op: Any = node.op
        x = types[0].shape if types[0] is not None else None
        if x is None or len(x) != len(shape):
            return
        shape[0] = x[0]
        n = len(x) - 2
        kernel = getattr(op, "kernel_shape", None)
        if kernel is None and len(types) > 1 and types[1] is not None and types[1].shape:
            kernel = types[1].shape[2:]
        strides, dilations = op.strides or (1,) * n, getattr(op, "dilations", None) or (1,) * n
        pads = op.pads if op.pads and op.auto_pad == "NOTSET" else (0,) * (2 * n)
        if (
            kernel is None
            or not len(kernel) == len(strides) == len(dilations) == len(pads) / 2 == n
        ):
            return
        transposed = type(op).__name__ == "ConvTranspose"
        same = not transposed and op.auto_pad.startswith("SAME")
        for a in range(n):
            size, out = x[2 + a], shape[2 + a]
            if isinstance(out, int) or not isinstance(size, Sym) or not isinstance(kernel[a], int):
                continue
            total = pads[a] + pads[n + a] - (kernel[a] - 1) * dilations[a]
            if not transposed and strides[a] == 1 and (same or total == 0):
                shape[2 + a] = size
                continue
            s = strides[a]
            key: tuple[Any, ...] = (size, s, 0 if same else total)
            if transposed or getattr(op, "ceil_mode", False):
                more = [getattr(op, f, None) for f in ("output_padding", "output_shape")]
                key += (kernel[a], dilations[a], pads[a])
                key += tuple(m[a - n] if m and len(m) >= n else 0 for m in more)
            elif same:
                out = _floored(size, s - 1, s, 0)
            else:
                # The rule's own expression differs between kernels that give the same size.
                out = _floored(size, total - 1, s, 1)
            if out is None:
                out = self.name((transposed, op.auto_pad.startswith("SAME"), key))
            shape[2 + a] = out


def _floored(size: Sym, shift: int, divisor: int, more: int) -> Any:
    """(size + shift) // divisor + more; None where the expression grows too long."""
    out = size + shift
    out = None if out is None else out // divisor
    return None if out is None else out + more


def _doubtful(d: Dim) -> bool:
    return isinstance(d, Sym) and (MARK in d.text or d.text.strip() in ("", "?", "-1", "None"))


def _doubt(inputs: Sequence[TensorType | None], shape: list[Dim]) -> None:
    """Forget sizes of a broadcast that stand beside another unknown size (either may be 1)."""
    for t in inputs:
        if t is None:
            continue
        if t.shape is None:
            shape[:] = [None] * len(shape)
            return
        for k in range(1, min(len(t.shape), len(shape)) + 1):
            d, out = t.shape[-k], shape[-k]
            if not isinstance(out, int) and d != 1 and not (d is not None and d == out):
                shape[-k] = None


def hide(t: TensorType) -> TensorType:
    """A type with the names made here replaced by unknown sizes."""
    if t.shape is None:
        return t
    return TensorType(
        t.dtype, tuple(None if isinstance(d, Sym) and MARK in d.text else d for d in t.shape)
    )
