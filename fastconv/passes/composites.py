"""Operators that exporters write out: channel shuffle, layer normalization, chained Transposes.

Channel shuffle: Zhang et al., arXiv:1707.01083. Layer normalization: Ba et al., arXiv:1607.06450;
ONNX LayerNormalization-17.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..graph import REGISTRY, Graph, Node
from ..records import replace
from .affine import rounded
from .match import C, Match, Or, P, Replacement, Rule, rewrite
from .types import same_dim
from .unary import is_float32


def _shuffle(m: Match) -> Replacement | None:
    """[N, C, H, W] → [N, g, C/g, H, W] → [N, C/g, g, H, W] → [N, C, H, W]."""
    cls: Any = REGISTRY.get(("fastconv", "ChannelShuffle"))
    x, split = m.type("x").shape, m.type("split").shape
    y = m.graph.type_of(m.root.outputs[0]).shape
    if cls is None or x is None or split is None or y is None:
        return None
    rank = len(x)
    if rank < 3 or len(split) != rank + 1 or len(y) != rank:
        return None
    if permutation(m.nodes["turn"], rank + 1) != (0, 2, 1, *range(3, rank + 1)):
        return None
    channels, groups, each = x[1], split[1], split[2]
    if not isinstance(channels, int) or not isinstance(groups, int) or not isinstance(each, int):
        return None
    if groups * each != channels or channels == 0:
        return None
    for there in ((split[0], *split[3:]), (y[0], *y[2:])):
        pairs = zip((x[0], *x[2:]), there, strict=True)
        # The number of elements is the same, so one size that is not known must be the same too.
        if sum(not same_dim(a, b) for a, b in pairs) > 1:
            return None
    if not same_dim(y[1], channels):
        return None
    return Replacement(cls(groups=groups), [m["x"]])


def permutation(node: Node, rank: int | None) -> tuple[int, ...] | None:
    """The permutation of a Transpose, None when it depends on an unknown rank."""
    perm = getattr(node.op, "perm", None)
    if perm is not None:
        return tuple(perm)
    return None if rank is None else tuple(range(rank))[::-1]


def _transposes(m: Match) -> Replacement | str | None:
    """Two Transposes in a row are one, or none."""
    rank = m.type("x").rank
    first, second = permutation(m.nodes["t"], rank), permutation(m.root, rank)
    if first is None or second is None or len(first) != len(second):
        return None
    both = tuple(first[k] for k in second)
    if both == tuple(range(len(both))):
        return m["x"]
    return Replacement(replace(m.root.op, perm=both), [m["x"]])  # type: ignore[call-arg]


def _keeps(node: Node) -> bool:
    return bool(getattr(node.op, "keepdims", 1))


def _centred(axes: str) -> P:
    """x less its mean; exporters may compute it twice, with constants of equal value for axes."""
    return P("Sub", "x", P("ReduceMean", "x", C(axes), where=_keeps))


SQUARES = (P("Pow", _centred("axes2"), 2.0), P("Mul", _centred("axes2"), _centred("axes2")))
VARIANCE = Or(tuple(P("ReduceMean", s, C("axes3"), where=_keeps) for s in SQUARES))


def _layer_norm(m: Match) -> Replacement | None:
    """(x − mean) / √(variance + eps) over the last axis."""
    cls: Any = REGISTRY.get(("", "LayerNormalization"))
    x = m.type("x")
    if cls is None or x.shape is None or not x.shape or not is_float32(m.graph, m["x"]):
        return None
    rank, width = len(x.shape), x.shape[-1]
    for name in ("axes1", "axes2", "axes3"):
        axes = m.array(name).reshape(-1).tolist()
        if axes not in ([-1], [rank - 1]):
            return None
    eps = m.array("eps")
    if not isinstance(width, int) or eps.size != 1 or eps.ndim > rank or not eps.reshape(()) >= 0:
        return None
    if any(a.ndim > rank for a in m.scalars):
        return None
    scale = m.const(f"{m.root.name}.scale", np.ones(width, np.float32))
    op = cls(axis=-1, epsilon=float(eps.reshape(())))
    return Replacement(op, [m["x"], scale])


def _norm_affine(m: Match) -> Replacement | None:
    """LayerNormalization over the last axis, then a product or sum with a constant row."""
    node, c = m.nodes["norm"], m.array("c")
    op: Any = node.op
    scale, rank = m.array("s"), m.type("x").rank
    bn = node.inputs[2] if len(node.inputs) > 2 else ""
    if rank is None or op.axis not in (-1, rank - 1) or (bn and bn not in m.graph.consts):
        return None
    if not is_float32(m.graph, m["x"], m["s"], m["c"]):
        return None
    if c.ndim > rank or c.size != scale.size or c.shape[-1:] != scale.shape[-1:]:
        return None
    wide = c.reshape(-1).astype(np.float64)
    bias = m.graph.consts[bn].astype(np.float64) if bn else np.zeros(scale.shape)
    if type(m.root.op).__name__ == "Mul":
        if not np.isfinite(wide).all() or not wide.all():
            return None
        scale, bias = scale * wide, bias * wide
    else:
        bias = bias + wide
    new_scale, new_bias = rounded(scale), rounded(bias)
    if new_scale is None or new_bias is None:
        return None
    inputs = [m["x"], m.const(m["s"], new_scale)]
    if bn or bias.any():
        inputs.append(m.const(bn or f"{node.name}.bias", new_bias))
    return Replacement(op, inputs, node)


COMPOSITES = [
    Rule(
        "channel shuffle",
        P(
            "Reshape",
            P("Transpose", P("Reshape", "x", rest=True, bind="split"), bind="turn"),
            rest=True,
        ),
        _shuffle,
    ),
    Rule(
        "Transpose of Transpose", P("Transpose", P("Transpose", "x", bind="t")), _transposes, True
    ),
    Rule(
        "LayerNormalization",
        P("Div", _centred("axes1"), P("Sqrt", P("Add", VARIANCE, C("eps")))),
        _layer_norm,
    ),
    Rule(
        "scale or bias of LayerNormalization",
        P("Add|Mul", P("LayerNormalization", "x", C("s"), bind="norm", rest=True), C("c")),
        _norm_affine,
    ),
]


def fuse_composites(graph: Graph) -> Graph:
    """Written-out operators into one node each."""
    return rewrite(graph, COMPOSITES)
