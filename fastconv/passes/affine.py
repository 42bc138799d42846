"""What is affine per channel, or pads with zeros, goes into the weights of the operator before it.

Folding of batch normalization: Jacob et al., arXiv:1712.05877, section 3.2. All arithmetic is done
in float64 and rounded to float32 once.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..graph import REGISTRY, Graph, Node
from ..records import replace
from .match import C, Match, P, Replacement, Rule, rewrite
from .unary import is_float32

PRODUCERS = "Conv|ConvTranspose|Gemm|MatMul"


def _batch_norm(m: Match) -> Replacement | None:
    """act-free BatchNormalization: (x − mean) · scale / √(var + epsilon) + bias."""
    op: Any = m.root.op
    if getattr(op, "training_mode", 0):
        return None
    scale, bias, mean, var = (m.array(k).astype(np.float64) for k in ("s", "b", "m", "v"))
    with np.errstate(all="ignore"):
        factor = scale / np.sqrt(var + op.epsilon)
        shift = bias - mean * factor
    return _fold(m, factor, shift)


def _arithmetic(m: Match) -> Replacement | None:
    """Add, Sub, Mul or Div by a constant with one value per channel, or one in all."""
    name, c = type(m.root.op).__name__, m.array("c")
    rank = _rank(m.nodes["p"], m.graph)
    values = None if rank is None else _per_channel(c, rank)
    if values is None or c.dtype != np.float32:
        return None
    one, zero = np.ones_like(values), np.zeros_like(values)
    if name in ("Mul", "Div"):
        if not np.all(values != 0) or not np.isfinite(values).all():
            return None  # a product with 0 or infinity is NaN for some results
        return _fold(m, values if name == "Mul" else 1 / values, zero)
    return _fold(m, one, values if name == "Add" else -values)


def _per_channel(c: np.ndarray, rank: int) -> np.ndarray | None:
    """A constant that differs along axis 1 at most, as a list in float64; None for others."""
    shape = (1,) * (rank - c.ndim) + c.shape
    if c.ndim > rank or any(d != 1 for k, d in enumerate(shape) if k != 1):
        return None
    return c.astype(np.float64).reshape(-1)


def _rank(node: Node, graph: Graph) -> int | None:
    """The rank of what Conv, ConvTranspose, Gemm or a product with a matrix gives."""
    name = type(node.op).__name__
    if name == "MatMul":
        return 2 if graph.type_of(node.inputs[0]).rank == 2 else None
    return 2 if name == "Gemm" else graph.type_of(node.inputs[1]).rank


def _fold(m: Match, factor: np.ndarray, shift: np.ndarray) -> Replacement | None:
    """The producer "p" with weights times ``factor`` and bias times ``factor`` plus ``shift``."""
    node, graph = m.nodes["p"], m.graph
    name, op = type(node.op).__name__, node.op
    x, wn = node.inputs[:2]
    bn = node.inputs[2] if len(node.inputs) > 2 else ""
    if any(node.inputs[3:]) or wn not in graph.consts or (bn and bn not in graph.consts):
        return None
    if not is_float32(graph, x, wn, *([bn] if bn else []), m.root.outputs[0]):
        return None
    if _rank(node, graph) is None or (name == "MatMul" and ("", "Gemm") not in REGISTRY):
        return None
    w = graph.consts[wn]
    bias = graph.consts[bn].astype(np.float64) if bn else np.zeros(())
    if name == "Gemm" and bn:
        bias = bias * op.beta  # type: ignore[attr-defined]
    axis = _filter_axis(node, w)
    if axis is None:
        return None
    filters = w.shape[axis] * (op.group if name == "ConvTranspose" else 1)  # type: ignore[attr-defined]
    if factor.shape not in ((filters,), (1,)) or factor.shape != shift.shape:
        return None
    if bias.ndim > 1 and bias.shape[:-1] != (1,) * (bias.ndim - 1):
        return None  # Gemm may add another row to every row
    bias = bias.reshape(-1)
    if bias.size not in (1, filters):
        return None
    factor, shift = np.broadcast_to(factor, filters), np.broadcast_to(shift, filters)
    inputs = [x, wn]
    if np.any(factor != 1):
        scaled = _scale(w, factor, axis, node)
        if scaled is None:
            return None
        inputs[1] = m.const(wn, scaled)
    total = rounded(bias * factor + shift)
    if total is None:
        return None
    if bn or np.any(shift != 0):
        inputs.append(m.const(bn or f"{node.name}.bias", total))
    if name == "Gemm":
        op = replace(op, beta=1.0)  # type: ignore[call-arg]
    elif name == "MatMul":  # with a bias it is Gemm
        op = REGISTRY["", "Gemm"]()
    return Replacement(op, inputs, node)


def _filter_axis(node: Node, w: np.ndarray) -> int | None:
    """The axis of the weights that counts filters (for ConvTranspose: within a group)."""
    name = type(node.op).__name__
    if name == "Conv":
        return 0 if w.ndim >= 3 else None
    if name == "ConvTranspose":
        return 1 if w.ndim >= 3 and w.shape[0] % max(1, node.op.group) == 0 else None  # type: ignore[attr-defined]
    if w.ndim != 2:
        return None
    return 0 if name == "Gemm" and node.op.transB else 1  # type: ignore[attr-defined]


def _scale(w: np.ndarray, factor: np.ndarray, axis: int, node: Node) -> np.ndarray | None:
    """Weights with every filter times its factor; None where float32 does not hold the result."""
    wide = w.astype(np.float64)
    if type(node.op).__name__ == "ConvTranspose":
        group = node.op.group  # type: ignore[attr-defined]
        split = wide.reshape(group, w.shape[0] // group, *w.shape[1:])
        by = factor.reshape(group, 1, w.shape[1], *(1,) * (w.ndim - 2))
        return rounded((split * by).reshape(w.shape))
    by = factor.reshape(tuple(-1 if a == axis else 1 for a in range(w.ndim)))
    return rounded(wide * by)


def rounded(array: np.ndarray) -> np.ndarray | None:
    """float32, unless that makes something infinite (or it is not finite already)."""
    with np.errstate(over="ignore"):
        narrow = array.astype(np.float32)
    return narrow if np.isfinite(narrow).all() else None


PRODUCER = P(PRODUCERS, "x", C("w"), bind="p", rest=True)
NORM = P("BatchNormalization", "x", C("s"), C("b"), "m", "v", bind="p")


def _after_norm(m: Match) -> Replacement | None:
    """A BatchNormalization that stays, with its scale and bias changed."""
    node, graph, c = m.nodes["p"], m.graph, m.array("c")
    name, rank = type(m.root.op).__name__, m.type("x").rank
    if rank is None or rank < 2 or getattr(node.op, "training_mode", None):
        return None
    values = _per_channel(c, rank)
    scale, bias = (m.array(k).astype(np.float64) for k in ("s", "b"))
    if values is None or values.size not in (1, scale.size) or scale.shape != bias.shape:
        return None
    if not is_float32(graph, m["x"], m["s"], m["b"], m["c"], m.root.outputs[0]):
        return None
    if name in ("Mul", "Div"):
        if not np.all(values != 0) or not np.isfinite(values).all():
            return None
        values = values if name == "Mul" else 1 / values
        scale, bias = scale * values, bias * values
    else:
        bias = bias + (values if name == "Add" else -values)
    new_scale, new_bias = rounded(scale), rounded(bias)
    if new_scale is None or new_bias is None:
        return None
    inputs = [m["x"], m.const(m["s"], new_scale), m.const(m["b"], new_bias), *node.inputs[3:]]
    return Replacement(node.op, inputs, node)


BATCH_NORM = [
    Rule(
        "BatchNormalization into weights",
        P("BatchNormalization", PRODUCER, C("s"), C("b"), C("m"), C("v")),
        _batch_norm,
    ),
    Rule("Add or Mul into weights", P("Add|Mul", PRODUCER, C("c")), _arithmetic),
    Rule("Sub or Div into weights", P("Sub|Div", PRODUCER, C("c")), _arithmetic),
    Rule("Add or Mul into BatchNormalization", P("Add|Mul", NORM, C("c")), _after_norm),
    Rule("Sub or Div into BatchNormalization", P("Sub|Div", NORM, C("c")), _after_norm),
]


def fold_affine(graph: Graph) -> Graph:
    """BatchNormalization, and arithmetic with constants per channel, into the weights before it."""
    return rewrite(graph, BATCH_NORM)


def _pad_into_conv(m: Match) -> Replacement | None:
    """Conv of Pad with zeros on the spatial axes, as one Conv with larger pads."""
    graph, pad, conv = m.graph, m.nodes["pad"], m.root
    op: Any = conv.op
    weight = graph.type_of(conv.inputs[1])
    if getattr(pad.op, "mode", "constant") != "constant" or weight.rank is None:
        return None
    extra = [*pad.inputs[2:], "", ""][:2]
    if any(e and e not in graph.consts for e in extra):
        return None
    if extra[0] and graph.consts[extra[0]].any():
        return None
    rank = weight.rank
    pads = m.array("pads").reshape(-1).tolist()
    axes = graph.consts[extra[1]].reshape(-1).tolist() if extra[1] else list(range(rank))
    if len(pads) != 2 * len(axes) or any(not -rank <= a < rank for a in axes):
        return None
    axes = [a % rank for a in axes]
    if len(set(axes)) != len(axes) or min(pads, default=0) < 0:
        return None
    before = dict(zip(axes, pads, strict=False))
    after = dict(zip(axes, pads[len(axes) :], strict=True))
    if any(before.get(a, 0) or after.get(a, 0) for a in (0, 1)):
        return None
    if op.auto_pad not in ("NOTSET", "VALID"):
        return None
    n = rank - 2
    own = op.pads if op.pads and op.auto_pad == "NOTSET" else (0,) * (2 * n)
    if len(own) != 2 * n:
        return None
    new = [own[k] + before.get(k + 2, 0) for k in range(n)]
    new += [own[n + k] + after.get(k + 2, 0) for k in range(n)]
    op = replace(op, pads=tuple(new), auto_pad="NOTSET")
    return Replacement(op, [m["x"], *conv.inputs[1:]])


PADS = [
    Rule(
        "Pad into Conv",
        P("Conv", P("Pad", "x", C("pads"), bind="pad", rest=True), "w", rest=True),
        _pad_into_conv,
    )
]


def fold_pads(graph: Graph) -> Graph:
    """Zero padding before a convolution into the convolution's pads."""
    return rewrite(graph, PADS)
