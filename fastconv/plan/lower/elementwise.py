"""Element-wise operators: any layout in, the same layout out."""

from __future__ import annotations

from typing import Any

from ...graph import Node
from ...graph.activation import RELU, Activation
from ...graph.ops.elementwise import Relu
from ..lowering import Lowering, lowers
from .conv import epilogue


@lowers(Relu)
def unary(low: Lowering, node: Node) -> Any:
    if not low.all_float32(node.inputs[0]):
        return False
    emit_unary(low, node, RELU)


def emit_unary(low: Lowering, node: Node, act: Activation) -> None:
    """One pass over the value, in the layout it has."""
    x = low.place(node.inputs[0])
    y = low.new(node.outputs[0], x.layout, x.channels)
    low.step("unary", dict(n=x.size, **epilogue(act)), [x, y], work=2 * x.nbytes)
