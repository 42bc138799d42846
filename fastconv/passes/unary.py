"""Which nodes are one activation: the bridge from ONNX operators to :class:`Activation`."""

from __future__ import annotations

import math

import numpy as np

from ..graph import Graph, Node
from ..graph.activation import Activation
from ..graph.ops.elementwise import Unary


def scalar_of(graph: Graph, name: str) -> float | None:
    """The value of a constant of one element, or None."""
    array = graph.consts.get(name)
    if array is None or array.size != 1 or array.dtype.kind not in "fiu":
        return None
    return float(array.reshape(()))


#: Operators whose activation depends on constant inputs, and its kind.
VARIABLE = {"Clip": "clip", "PRelu": "leaky_relu"}


def as_activation(graph: Graph, node: Node) -> Activation | None:
    """The activation that a node applies to its first input, or None.

    The caller checks the dtype: kernels apply activations to float32 alone.
    """
    op = node.op
    if not isinstance(op, Unary):
        return None
    name = type(op).__name__
    if name == "Clip":
        return _clip(graph, node)
    if name == "PRelu":
        slope = scalar_of(graph, node.inputs[1])
        return None if slope is None else Activation("leaky_relu", slope)
    return op.function


def _clip(graph: Graph, node: Node) -> Activation | None:
    """Clip with constant bounds; an absent bound is infinite."""
    bounds = [-math.inf, math.inf]
    for k, name in enumerate(node.inputs[1:3]):
        if name:
            value = scalar_of(graph, name)
            if value is None or math.isnan(value):
                return None
            bounds[k] = value
    return Activation("clip", *bounds)


def is_float32(graph: Graph, *names: str) -> bool:
    """Whether all these values are known to be float32."""
    return all(graph.type_of(n).dtype == np.float32 for n in names)
