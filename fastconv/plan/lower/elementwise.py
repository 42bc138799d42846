"""Functions of one value: any layout in, the same layout out; and operators that cost nothing."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...graph import Node
from ...graph.activation import Activation
from ...graph.ops.activations import Clip, FusedActivation
from ...graph.ops.elementwise import Unary
from ...graph.ops.logic import Cast, CastLike, Dropout, Identity
from ..lowering import Lowering, lowers
from .binary import RANK, chain, emit_unary
from .conv import INF


def unary(low: Lowering, node: Node) -> Any:
    """Lower an operator that is one activation on float32."""
    assert isinstance(node.op, Unary)
    act = node.op.function
    if act is None or not low.all_float32(node.inputs[0]):
        return False
    return emit_unary(low, node.inputs[0], node.outputs[0], act)


lowers(FusedActivation)(unary)
lowers(Unary)(unary)


@lowers(Clip)
def clip(low: Lowering, node: Node) -> Any:
    """Constant bounds are one ``clip`` activation; computed ones are Max and Min steps."""
    names = [*node.inputs, "", ""][:3]
    if not low.all_float32(*names):
        return False
    bounds = [low.const(names[1]) if names[1] else np.float32(-INF)]
    bounds.append(low.const(names[2]) if names[2] else np.float32(INF))
    if all(b is not None and not np.isnan(b).any() for b in bounds):
        lo, hi = (float(np.reshape(b, ())) for b in bounds)  # type: ignore[arg-type]
        return emit_unary(low, names[0], node.outputs[0], Activation("clip", lo, hi))
    shape = low.shape(names[0])
    if len(shape) > RANK + 1 or any(n and len(low.shape(n)) > len(shape) for n in names[1:]):
        return False
    terms: list[Any] = [(op, n) for op, n in (("max", names[1]), ("min", names[2])) if n]
    return chain(low, names[0], terms, node.outputs[0])


@lowers(Identity)
def identity(low: Lowering, node: Node) -> None:
    """The output shares the input's memory."""
    low.alias(node.outputs[0], low.place(node.inputs[0], dense=False))


@lowers(Dropout)
def dropout(low: Lowering, node: Node) -> Any:
    """As ``identity`` when inference mode is certain and nobody asks for the mask."""
    training = node.inputs[2] if len(node.inputs) > 2 else ""
    if any(node.outputs[1:]) or (training and low.const(training) is None):
        return False
    return identity(low, node)


@lowers(Cast, CastLike)
def cast(low: Lowering, node: Node) -> Any:
    """To the dtype it has already: as ``identity``."""
    if low.dtype(node.inputs[0]) != low.dtype(node.outputs[0]):
        return False
    return identity(low, node)
