"""What is affine per channel ahead of convolutions goes into their weights; what is left is merged.

Networks with learnable affine blocks after their activations (PP-LCNetV3 in PaddleOCR) multiply by
a number and add another one between every two convolutions. All arithmetic is done in float64 and
rounded to float32 once.
"""

from __future__ import annotations

import numpy as np

from ..graph import REGISTRY, Graph, Node
from ..graph.ops.binary import Add, Mul
from ..graph.ops.conv import Conv
from .affine import rounded
from .budget import current
from .match import C, Match, Names, P, Replacement, Rule, rewrite
from .types import same_dim
from .unary import is_float32


def channels_of(array: np.ndarray, rank: int, channels: int) -> np.ndarray | None:
    """One value per channel in float64 for a constant that differs along axis 1 at most."""
    shape = (1,) * (rank - array.ndim) + array.shape
    if array.ndim > rank or any(d != 1 for k, d in enumerate(shape) if k != 1):
        return None
    if array.size not in (1, channels):
        return None
    return np.broadcast_to(array.astype(np.float64).reshape(-1), channels)


def _affine(m: Match, rank: int, channels: int) -> tuple[np.ndarray, np.ndarray] | None:
    """The factor and the shift of the constants "c" and "d", as far as the pattern has them."""
    factor, shift = np.ones(channels), np.zeros(channels)
    for name in ("c", "d"):
        if name not in m.values:
            continue
        values = channels_of(m.array(name), rank, channels)
        if values is None or not np.isfinite(values).all() or not is_float32(m.graph, m[name]):
            return None
        if name == "c":
            factor = values
        else:
            shift = values
    # A product with 0 would be NaN for some inputs.
    return (factor, shift) if factor.all() else None


def _unpadded(op: Conv) -> bool:
    return op.auto_pad == "VALID" or (op.auto_pad == "NOTSET" and not any(op.pads or ()))


def _into_conv(m: Match) -> Replacement | None:
    """Conv(x · c + d) with c in the weights; with d in the bias, or x + d / c where it is padded.

    Padding is with zeros, which d does not reach.
    """
    node, graph = m.root, m.graph
    op, wn = node.op, m["w"]
    assert isinstance(op, Conv)
    bn = node.inputs[2] if len(node.inputs) > 2 else ""
    w = graph.consts[wn]
    if any(node.inputs[3:]) or (bn and bn not in graph.consts) or w.ndim < 3:
        return None
    if not is_float32(graph, m["x"], wn, *([bn] if bn else []), node.outputs[0]):
        return None
    channels = w.shape[1] * op.group
    both = _affine(m, w.ndim, channels)
    if both is None or w.shape[0] % op.group or m.type("x").rank != w.ndim:
        return None
    factor, shift = both
    per = w.shape[1]
    grouped = (op.group, w.shape[0] // op.group, per, -1)
    wide = w.astype(np.float64).reshape(grouped) * factor.reshape(op.group, 1, per, 1)
    scaled = rounded(wide.reshape(w.shape))
    if scaled is None:
        return None
    if "d" in m.values and not _unpadded(op):
        return _keep_shift(m, scaled, shift / factor)
    inputs = [m["x"], wn if (factor == 1).all() else m.const(wn, scaled)]
    if "d" in m.values:
        moved = w.astype(np.float64).reshape(grouped) * shift.reshape(op.group, 1, per, 1)
        bias = graph.consts[bn].astype(np.float64) if bn else 0.0
        total = rounded(bias + moved.sum(axis=(2, 3)).reshape(-1))
        if total is None:
            return None
        inputs.append(m.const(bn or f"{node.name}.bias", total))
    elif bn:
        inputs.append(bn)
    return Replacement(op, inputs)


def _keep_shift(m: Match, scaled: np.ndarray, shift: np.ndarray) -> Replacement | None:
    """The Add stays with another constant, and reads what the Mul read."""
    narrow = rounded(shift.reshape(-1, *(1,) * (scaled.ndim - 2)))
    if "c" not in m.values or narrow is None:
        return None
    add = m.nodes["add"]
    others = [(add, [m["x"], m.const(m["d"], narrow)])]
    inputs = [add.outputs[0], m.const(m["w"], scaled), *m.root.inputs[2:]]
    return Replacement(m.root.op, inputs, others=others)


def _merge(m: Match) -> Replacement | None:
    """x · c + d, one pass instead of two: a BatchNormalization of mean 0 and variance 1."""
    t = m.type("x")
    if t.shape is None or len(t.shape) < 3 or not isinstance(t.shape[1], int):
        return None
    if not is_float32(m.graph, m["x"], m.root.outputs[0]):
        return None
    channels = t.shape[1]
    both = _affine(m, len(t.shape), channels)
    if both is None:
        return None
    consts = [*both, np.zeros(channels), np.ones(channels)]
    names = [m.const(f"{m.root.name}.{k}", c.astype(np.float32)) for k, c in enumerate(consts)]
    return Replacement(REGISTRY["", "BatchNormalization"](epsilon=0.0), [m["x"], *names])


MUL = P("Mul", "x", C("c"))
AHEAD = [
    Rule(
        "Mul and Add into the Conv after them",
        P("Conv", P("Add", MUL, C("d"), bind="add"), C("w"), rest=True),
        _into_conv,
    ),
    Rule("Mul into the Conv after it", P("Conv", MUL, C("w"), rest=True), _into_conv),
    Rule(
        "Add into the Conv after it",
        P("Conv", P("Add", "x", C("d"), bind="add"), C("w"), rest=True),
        _into_conv,
    ),
]
MERGED = [Rule("Mul and Add", P("Add", MUL, C("d")), _merge)]


class _Factored:
    """x + x · s as x · (s + 1), for s of one number per channel."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.names = Names(graph)
        self.makers = graph.producers()
        self.readers = graph.consumers()

    def run(self) -> Graph:
        graph = self.graph
        nodes: list[Node] = []
        for node in graph.nodes:
            found = self._find(node) if type(node.op) is Add else None
            if found is None or node.op.activation is not None:  # type: ignore[attr-defined]
                nodes.append(node)
                continue
            x, s, product = found
            sources = tuple(dict.fromkeys(
                n for p in (product, node) for n in p.sources or (p.name,)))  # fmt: skip
            budget = current()
            if budget is not None and not budget.spend("x + x * s", sources):
                nodes.append(node)
                continue
            one = self.names.fresh(f"{node.name}.one")
            graph.consts[one] = np.ones(1, np.float32)
            more = self.names.fresh(f"{s}.more")
            graph.types[more] = graph.type_of(s)
            nodes.append(Node(Add(), [s, one], [more], f"{node.name}.more", sources))
            nodes.append(Node(Mul(), [x, more], node.outputs, product.name, sources))
            nodes = [n for n in nodes if n is not product]
        graph.nodes = nodes
        return graph

    def _find(self, node: Node) -> tuple[str, str, Node] | None:
        """x, s and the node of their product, if this is their sum and nobody else reads that."""
        graph = self.graph
        for x, y in (node.inputs, node.inputs[::-1]):
            product = self.makers.get(y)
            if product is None or type(product.op) is not Mul or x not in product.inputs or x == y:
                continue
            s = product.inputs[1 - product.inputs.index(x)]
            if product.op.activation is not None or s == x or s in graph.consts:
                continue
            if y in graph.outputs or len(self.readers[y]) != 1:
                continue
            tx, ts = graph.type_of(x), graph.type_of(s)
            if tx.shape is None or ts.shape is None or len(tx.shape) != len(ts.shape):
                continue
            if len(tx.shape) < 3 or any(d != 1 for d in ts.shape[2:]) or tx.shape[1] != ts.shape[1]:
                continue
            if not same_dim(tx.shape[0], ts.shape[0]) or not is_float32(graph, x, s):
                continue
            return x, s, product
        return None


def fold_ahead(graph: Graph) -> Graph:
    """Products and sums with constants ahead of convolutions into these, or into one pass."""
    return rewrite(rewrite(graph, AHEAD), MERGED)


def factor_sums(graph: Graph) -> Graph:
    """x + x · s, as blocks of squeeze and excitation with a residual have it, in one pass."""
    if not any(type(n.op) is Mul for n in graph.nodes):
        return graph
    return _Factored(graph).run()
