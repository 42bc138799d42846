"""Dead code, and nodes that hand on what they read."""

from __future__ import annotations

import numpy as np

from ..graph import REGISTRY, Graph, live_nodes
from .match import C, Match, P, Replacement, Rule, rewrite
from .types import same_shape


def remove_dead(graph: Graph) -> Graph:
    """Drop nodes, constants and types that no graph output depends on; inputs stay."""
    graph.nodes = list(live_nodes(graph, graph.outputs))[::-1]
    used = {i for n in graph.nodes for i in n.inputs} | set(graph.outputs)
    graph.consts = {k: v for k, v in graph.consts.items() if k in used}
    made = {o for n in graph.nodes for o in n.outputs} | set(graph.inputs) | used
    graph.types = {k: t for k, t in graph.types.items() if k in made}
    for node in graph.nodes:
        if len(node.outputs) > 1:  # tell operators with optional outputs which are wanted
            node.outputs = [o if k == 0 or o in used else "" for k, o in enumerate(node.outputs)]
    return graph


def _same_type(m: Match) -> str | None:
    """The input, if the output is known to have its dtype and shape."""
    x, y = m.type("x"), m.graph.type_of(m.root.outputs[0])
    same = x.dtype is not None and x.dtype == y.dtype and same_shape(x, y)
    return m["x"] if same else None


def _dropout(m: Match) -> str | None:
    """Dropout at inference; with a training_mode that may be true it draws random numbers."""
    mode = m.root.inputs[2] if len(m.root.inputs) > 2 else ""
    if mode and (mode not in m.graph.consts or m.graph.consts[mode].any()):
        return None
    return m["x"]


def _cast(m: Match) -> str | None:
    x, y = m.type("x"), m.graph.type_of(m.root.outputs[0])
    return m["x"] if x.dtype is not None and x.dtype == y.dtype else None


def _transpose(m: Match) -> str | None:
    perm = getattr(m.root.op, "perm", None)
    rank = m.type("x").rank
    if perm is None:
        return m["x"] if rank is not None and rank <= 1 else None
    return m["x"] if tuple(perm) == tuple(range(len(perm))) else None


def _slice(m: Match) -> str | None:
    """Slice that keeps the shape, stepping forwards."""
    steps = m.root.inputs[4] if len(m.root.inputs) > 4 else ""
    if steps and (steps not in m.graph.consts or (m.graph.consts[steps] != 1).any()):
        return None
    return _same_type(m)


def _pad(m: Match) -> str | None:
    return None if m.array("pads").any() else m["x"]


def _clip(m: Match) -> str | None:
    return None if any(m.root.inputs[1:]) else m["x"]


def _sum(m: Match) -> Replacement | str | None:
    """Sum of two is Add, which other patterns know; Sum of one is that one."""
    inputs = m.root.inputs
    if len(inputs) == 1:
        return m["x"]
    return Replacement(REGISTRY["", "Add"](), inputs) if len(inputs) == 2 else None


def _sole(m: Match) -> str | None:
    return m["x"] if len(m.root.inputs) == 1 else None


def _neutral(m: Match) -> str | None:
    """x + 0, x − 0, x · 1, x / 1, x ** 1, where the constant changes neither shape nor dtype.

    The one difference is that −0 + 0 is +0, which compares equal to what is kept.
    """
    value = 0 if type(m.root.op).__name__ in ("Add", "Sub") else 1
    array = m.array("c")
    if array.size == 0 or not np.all(array == value):
        return None
    return _same_type(m)


NO_OPS = [
    Rule("Identity", P("Identity", "x"), lambda m: m["x"]),
    Rule("Dropout", P("Dropout", "x", rest=True), _dropout),
    Rule("Cast to the same dtype", P("Cast|CastLike", "x", rest=True), _cast),
    Rule(
        "a reshape to the same shape",
        P("Reshape|Flatten|Squeeze|Unsqueeze|Expand|Tile|PadChannels", "x", rest=True),
        _same_type,
    ),
    Rule("Transpose of nothing", P("Transpose", "x"), _transpose),
    Rule("Slice of everything", P("Slice", "x", rest=True), _slice),
    Rule("Pad by nothing", P("Pad", "x", C("pads"), rest=True), _pad),
    Rule("Clip without bounds", P("Clip", "x", rest=True), _clip),
    Rule("Sum of one or two", P("Sum", "x", rest=True), _sum),
    Rule("Concat of one", P("Concat", "x", rest=True), _sole),
    Rule("a neutral constant", P("Add|Mul", "x", C("c")), _neutral),
    Rule("a neutral constant", P("Sub|Div|Pow", "x", C("c")), _neutral),
]


def remove_no_ops(graph: Graph) -> Graph:
    """Remove nodes whose output equals their input."""
    return rewrite(graph, NO_OPS)
