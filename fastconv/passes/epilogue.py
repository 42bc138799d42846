"""Activations and residual sums that a kernel applies while it writes its result."""

from __future__ import annotations

from ..graph import Graph, Op
from ..records import replace
from .match import Act, Match, P, Replacement, Rule, rewrite
from .types import same_shape
from .unary import is_float32


def takes_activation(op: Op) -> bool:
    """Whether passes may give the operator an activation, and it has none yet."""
    spec = op._specs.get("activation")
    internal = spec is not None and bool(spec.metadata and spec.metadata.get("internal"))
    return internal and op.activation is None  # type: ignore[attr-defined]


def _into_producer(m: Match) -> Replacement | None:
    """A node with the activation that followed it; kernels have it for float32 alone."""
    node = m.nodes["p"]
    if not takes_activation(node.op) or not is_float32(m.graph, m["p"], *node.inputs[:1]):
        return None
    op = replace(node.op, activation=m.acts["act"])  # type: ignore[call-arg]
    return Replacement(op, node.inputs, node)


def _later(m: Match) -> bool:
    """Whether the other operand of the sum is a convolution that could take it, and runs later."""
    node = m.rewriter.maker.get(m["r"])
    if node is None or type(node.op) is not type(m.nodes["conv"].op) or any(node.inputs[3:]):
        return False
    alone = m.rewriter.sole_reader(m["r"]) is m.root and takes_activation(node.op)
    return alone and m.rewriter.position(node) > m.rewriter.position(m.nodes["conv"])


def _residual(m: Match) -> Replacement | None:
    """act(Conv(x, w, b) + r) as Conv with r as fourth input, at the place of the sum.

    Moving the convolution down to the sum is always in order: nobody else reads its result. The
    shapes must be known to be equal, as a sum that broadcasts has another shape than the Conv.
    """
    graph, conv, other = m.graph, m.nodes["conv"], m["r"]
    if not takes_activation(conv.op) or any(conv.inputs[3:]) or other in graph.consts:
        return None
    if _later(m):
        return None
    made = conv.outputs[0]
    if not is_float32(graph, made, other, *conv.inputs[:2]):
        return None
    if not same_shape(graph.type_of(made), graph.type_of(other)):
        return None
    inputs = [*conv.inputs[:3], *([""] * (3 - len(conv.inputs))), other]
    return Replacement(conv.op, inputs, conv)


EPILOGUES = [
    Rule(
        "residual into Conv",
        P("Add", P("Conv", "x", "w", bind="conv", rest=True), "r"),
        _residual,
    ),
    Rule(
        "activation into its producer",
        Act("", P("*", bind="p", rest=True), bind="act"),
        _into_producer,
    ),
]


def fuse_epilogues(graph: Graph) -> Graph:
    """Residual sums into Conv, and activations into the operators whose kernels apply them."""
    return rewrite(graph, EPILOGUES)
