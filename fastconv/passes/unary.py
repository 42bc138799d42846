"""Which nodes are one activation: the bridge from ONNX operators to :class:`Activation`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..graph import REGISTRY, Graph, Node
from ..graph.activation import KINDS, Activation
from ..graph.ops.elementwise import FORMULAS

#: Operators without attributes and the kind they are.
PLAIN_KINDS = {
    "Sigmoid": "sigmoid", "Tanh": "tanh", "HardSwish": "hard_swish", "Softplus": "softplus",
    "Softsign": "softsign", "Mish": "mish", "Exp": "exp", "Log": "log", "Sqrt": "sqrt",
    "Erf": "erf", "Reciprocal": "reciprocal", "Abs": "abs", "Neg": "neg", "Floor": "floor",
    "Ceil": "ceil", "Round": "round", "Sign": "sign", "Sin": "sin", "Cos": "cos",
}  # fmt: skip
#: Operators with attributes: kind, the attribute that is alpha, the attribute that is beta.
FIELD_KINDS = {
    "LeakyRelu": ("leaky_relu", "alpha", None),
    "HardSigmoid": ("hard_sigmoid", "alpha", "beta"),
    "Elu": ("elu", "alpha", None),
    "Celu": ("celu", "alpha", None),
    "Selu": ("selu", "alpha", "gamma"),
    "ThresholdedRelu": ("thresholded_relu", "alpha", None),
    "Swish": ("silu", "alpha", None),
}


def known_kind(kind: str) -> bool:
    """Whether kernels and the NumPy form both know this kind."""
    return kind in KINDS and kind in FORMULAS


def scalar_of(graph: Graph, name: str) -> float | None:
    """The value of a constant of one element, or None."""
    array = graph.consts.get(name)
    if array is None or array.size != 1 or array.dtype.kind not in "fiu":
        return None
    return float(array.reshape(()))


def as_activation(graph: Graph, node: Node) -> Activation | None:
    """The activation that a node applies to its first input, or None.

    The caller checks the dtype: kernels apply activations to float32 alone.
    """
    name, op = type(node.op).__name__, node.op
    found: Activation | None = None
    if op.domain == "fastconv":
        return op.activation if name == "FusedActivation" else None  # type: ignore[attr-defined]
    if op.domain:
        return None
    if name == "Relu":
        found = Activation("clip", 0.0, math.inf)
    elif name == "Clip":
        found = _clip(graph, node)
    elif name == "PRelu":
        slope = scalar_of(graph, node.inputs[1])
        rank = graph.type_of(node.inputs[0]).rank
        if slope is not None and graph.consts[node.inputs[1]].ndim <= (rank or 0):
            found = Activation("leaky_relu", slope)
    elif name == "Gelu":
        tanh = getattr(op, "approximate", "none") == "tanh"
        found = Activation("gelu_tanh" if tanh else "gelu")
    elif name in PLAIN_KINDS:
        found = Activation(PLAIN_KINDS[name])
    elif name in FIELD_KINDS:
        kind, *fields = FIELD_KINDS[name]
        found = Activation(kind, *(float(getattr(op, f)) if f else 0.0 for f in fields))
    if found is None or not known_kind(found.kind):
        return None
    return found


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


def fused_activation(act: Activation) -> Any:
    """The operator that stands for a written-out activation; None when there is none such."""
    cls: Any = REGISTRY.get(("fastconv", "FusedActivation"))
    return cls(activation=act) if cls is not None and known_kind(act.kind) else None


def is_float32(graph: Graph, *names: str) -> bool:
    """Whether all these values are known to be float32."""
    return all(graph.type_of(n).dtype == np.float32 for n in names)
