"""Operators between DequantizeLinear and QuantizeLinear → operators on the quantised numbers.

A quantised model in QDQ form computes in float32, rounding after every operator. What is known to
give the same up to one quantisation step replaces such groups: an operator whose inputs are all
dequantised and whose only reader quantises its result reads and writes the quantised numbers
themselves. After Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", 2018, and the QDQ groups that onnxruntime's quantiser writes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..graph import Graph, Node, Op
from ..graph.ops import quant as q
from .budget import current
from .clean import remove_dead
from .types import name_types, same_shape
from .unary import as_activation

BYTES = (np.dtype(np.uint8), np.dtype(np.int8))
#: Operators that move elements, or pick the greatest: they commute with quantisation.
MOVERS = frozenset(
    {"MaxPool", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Identity"}
)


@dataclass(frozen=True)
class Quantised:
    """A quantised value: its name and the names of its scale and zero point (constants)."""

    name: str
    scale: str
    zero: str

    @property
    def inputs(self) -> list[str]:
        return [self.name, self.scale, self.zero]


class Groups:
    """One walk over the graph that replaces the groups it finds."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.maker = graph.producers()
        self.readers = graph.consumers()
        self.results = set(graph.outputs)
        self.dead: set[int] = set()
        self.stems: dict[str, int] = {}
        self.used = set(graph.types) | set(graph.consts)
        self.used |= {o for n in graph.nodes for o in n.outputs}

    def const(self, stem: str, array: np.ndarray) -> str:
        """Add a constant under a fresh name; returns the name."""
        k = self.stems.get(stem, 0)
        while (name := f"{stem}.{k}") in self.used:
            k += 1
        self.stems[stem] = k + 1
        self.used.add(name)
        self.graph.consts[name] = array
        return name

    def fold_weights(self) -> None:
        """Quantise constants that the file holds as floats before a QuantizeLinear."""
        consts = self.graph.consts
        for node in self.graph.nodes:
            if isinstance(node.op, q.QuantizeLinear) and all(i in consts for i in node.inputs if i):
                consts[node.outputs[0]] = node.op.compute([consts.get(i) for i in node.inputs])[0]
                self.dead.add(id(node))

    def parameters(self, node: Node, dtype: Any) -> tuple[str, str] | None:
        """The names of a node's one scale and one zero point, both constant, else None."""
        consts = self.graph.consts
        scale, zero = [*node.inputs[1:], ""][:2]
        if scale not in consts or consts[scale].size != 1 or dtype not in BYTES:
            return None
        if consts[scale].dtype != np.float32 or not consts[scale].reshape(())[()] > 0:
            return None
        if zero:
            ok = zero in consts and consts[zero].size == 1 and consts[zero].dtype == dtype
            return (scale, zero) if ok else None
        return scale, self.const(f"{node.name}.zero_point", np.zeros((), dtype))

    def source(self, value: str) -> Quantised | None:
        """What a float value is dequantised from, else None."""
        node = self.maker.get(value)
        if node is None or not isinstance(node.op, q.DequantizeLinear) or node.op.block_size:
            return None
        name = node.inputs[0]
        found = self.parameters(node, self.graph.type_of(name).dtype)
        return None if found is None or name in self.graph.consts else Quantised(name, *found)

    def weights(self, value: str, axis: int) -> tuple[str, str, str] | None:
        """Names of constant quantised weights, their scale(s) along ``axis`` and zero point(s)."""
        node, consts = self.maker.get(value), self.graph.consts
        if node is None or not isinstance(node.op, q.DequantizeLinear) or node.op.block_size:
            return None
        name, scale, zero = [*node.inputs, ""][:3]
        if any(i not in consts for i in node.inputs if i) or consts[name].dtype not in BYTES:
            return None
        w, s = consts[name], consts[scale]
        if s.dtype != np.float32 or s.ndim > 1 or not (s > 0).all():
            return None
        if s.size > 1 and node.op.axis % max(1, w.ndim) != axis:
            return None
        if not zero:
            zero = self.const(f"{node.name}.zero_point", np.zeros(s.shape, w.dtype))
        return name, scale, zero

    def bias(self, value: str, scale: np.ndarray) -> np.ndarray | None:
        """A constant bias as integers of this scale (one, or one per element), else None."""
        consts, node = self.graph.consts, self.maker.get(value)
        if value in consts:
            real = consts[value].astype(np.float64)
        elif node is not None and isinstance(node.op, q.DequantizeLinear):
            arrays = [consts.get(i) for i in node.inputs]
            if any(a is None for a in arrays) or node.op.block_size:
                return None
            number, given = arrays[0], arrays[1]
            assert number is not None
            assert given is not None
            plain = len(arrays) < 3 or not np.any(arrays[2])
            fits = plain and number.dtype == np.int32 and given.size in (1, number.size)
            if fits and np.allclose(given.reshape(-1), scale, rtol=1e-4, atol=0):
                return number
            real = node.op.compute(arrays)[0].astype(np.float64)
        else:
            return None
        if real.size > 1 and real.ndim > 1 and real.size != real.shape[-1]:
            return None
        number = np.rint(real.reshape(-1) / scale)
        fits = np.isfinite(number).all() and np.abs(number).max(initial=0) < 2**31
        return number.astype(np.int32) if fits else None

    def target(self, node: Node) -> tuple[Node, Quantised, tuple[int, int] | None] | None:
        """The QuantizeLinear that alone reads a node's result, what it gives, its bounds.

        Relu and Clip in between become bounds: rounding keeps order, so the quantised bound of a
        number is the bound of the quantised number.
        """
        low, high = -np.inf, np.inf
        value = node.outputs[0]
        if any(o and (o in self.results or o in self.readers) for o in node.outputs[1:]):
            return None
        while True:
            readers = self.readers.get(value, [])
            if value in self.results or len(readers) != 1:
                return None
            last = readers[0]
            if isinstance(last.op, q.QuantizeLinear):
                if last.op.output_dtype > 3:
                    return None  # fewer bits than it is stored with
                break
            act = as_activation(self.graph, last)
            if act is None or act.kind != "clip" or last.inputs[0] != value:
                return None
            low = min(max(low, act.alpha), act.beta)
            high = max(min(high, act.beta), low)
            value = last.outputs[0]
        dtype = self.graph.type_of(last.outputs[0]).dtype
        found = self.parameters(last, dtype)
        if dtype is None or found is None or last.inputs[0] != value or last.op.block_size:
            return None
        result = Quantised(last.outputs[0], *found)
        if (low, high) == (-np.inf, np.inf):
            return last, result, None
        scale, zero = (self.graph.consts[n].reshape(-1)[0] for n in found)
        with np.errstate(over="ignore"):
            ends = np.array([low, high], np.float32) / np.float32(scale)
        lo, hi = (int(v) for v in q.saturate(ends, zero, dtype))
        return last, result, (lo, hi)

    def same(self, a: Quantised, b: Quantised) -> bool:
        """Whether two values have the same type, scale and zero point."""
        consts, types = self.graph.consts, self.graph
        pairs = [(consts[a.scale], consts[b.scale]), (consts[a.zero], consts[b.zero])]
        return types.type_of(a.name).dtype == types.type_of(b.name).dtype and all(
            x.reshape(-1)[0] == y.reshape(-1)[0] for x, y in pairs
        )

    def run(self) -> None:
        """Replace every group; what then has no reader is left for ``remove_dead``."""
        self.fold_weights()
        nodes: list[Node] = []
        for node in self.graph.nodes:
            if id(node) in self.dead:
                continue
            nodes.append(node)
            rule = RULES.get(type(node.op).__name__)
            made = rule(self, node) if rule else None
            if made is None and rule is not _binary and as_activation(self.graph, node):
                made = _activation(self, node)
            if made is None:
                continue
            op, inputs, last = made
            sources = merged([node, last])
            if not allowed(f"{node.op.label} on quantised numbers", sources):
                continue
            new = Node(op, inputs, last.outputs[:1], node.name, sources)
            # At the place of its first node: what the others read besides is constant.
            nodes[-1] = new
            self.dead.add(id(last))
            between = node
            while between is not last:
                self.dead.add(id(between))
                between = self.readers[between.outputs[0]][0]
            self.maker[last.outputs[0]] = new
        self.graph.nodes = [n for n in nodes if id(n) not in self.dead]


def allowed(rule: str, nodes: Iterable[str]) -> bool:
    """Whether one more change may be made; see ``budget``."""
    budget = current()
    return budget is None or budget.spend(rule, nodes)


def merged(nodes: Iterable[Node]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(s for n in nodes for s in n.sources or (n.name,)))


Made = tuple[Op, list[str], Node]


def _conv(g: Groups, node: Node) -> Made | None:
    op: Any = node.op
    x, w = g.source(node.inputs[0]), g.weights(node.inputs[1], 0)
    end = g.target(node)
    if x is None or w is None or end is None or op.activation is not None or node.inputs[3:]:
        return None
    shape = g.graph.type_of(node.inputs[0]).shape
    consts = g.graph.consts
    if shape is None or len(shape) > 5 or 0 in consts[w[0]].shape:
        return None
    if consts[w[0]].dtype == np.uint8 and len(shape) == 5:
        return None  # weights of more than 8 bits less their zero points have no 3-D kernel
    inputs = [*x.inputs, *w, end[1].scale, end[1].zero]
    if node.inputs[2:] and node.inputs[2]:
        scale = consts[x.scale].astype(np.float64).reshape(-1)[0] * consts[w[1]].astype(np.float64)
        bias = g.bias(node.inputs[2], scale.reshape(-1))
        if bias is None:
            return None
        inputs.append(g.const(f"{node.name}.bias", bias))
    fields = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
    new = q.QLinearConv(**{f: getattr(op, f) for f in fields}, clamp=end[2])
    return new, inputs, end[0]


def _gemm(g: Groups, node: Node) -> Made | None:
    op: Any = node.op
    x, w = g.source(node.inputs[0]), g.weights(node.inputs[1], 0 if op.transB else 1)
    end = g.target(node)
    if x is None or w is None or end is None or op.activation is not None or op.transA:
        return None
    consts = g.graph.consts
    if 0 in consts[w[0]].shape or not op.alpha > 0:
        return None
    inputs = [*x.inputs, *w, "", end[1].scale, end[1].zero]
    if node.inputs[2:] and node.inputs[2] and op.beta != 0:
        scale = consts[x.scale].astype(np.float64).reshape(-1)[0] * consts[w[1]].astype(np.float64)
        bias = g.bias(node.inputs[2], scale.reshape(-1) * (op.alpha / op.beta))
        if bias is None or bias.size not in (1, consts[w[0]].shape[0 if op.transB else 1]):
            return None
        inputs[6] = g.const(f"{node.name}.bias", bias)
    return q.QGemm(alpha=op.alpha, transB=op.transB, clamp=end[2]), inputs, end[0]


def _matmul(g: Groups, node: Node) -> Made | None:
    x, w = g.source(node.inputs[0]), g.weights(node.inputs[1], 1)
    end = g.target(node)
    if x is None or w is None or end is None:
        return None
    matrix = g.graph.consts[w[0]]
    if matrix.ndim != 2 or 0 in matrix.shape:
        return None
    return q.QLinearMatMul(clamp=end[2]), [*x.inputs, *w, end[1].scale, end[1].zero], end[0]


def _binary(g: Groups, node: Node) -> Made | None:
    a, b = g.source(node.inputs[0]), g.source(node.inputs[1])
    end = g.target(node)
    if a is None or b is None or end is None:
        return None
    ta, tb, ty = (g.graph.type_of(n) for n in (a.name, b.name, end[1].name))
    if not ta.dtype == tb.dtype == ty.dtype:
        return None
    if not same_shape(ta, tb) and not (_per_channel(ta, tb) or _per_channel(tb, ta)):
        return None
    cls: Any = q.QLinearAdd if type(node.op).__name__ == "Add" else q.QLinearMul
    return cls(clamp=end[2]), [*a.inputs, *b.inputs, end[1].scale, end[1].zero], end[0]


def _per_channel(a: Any, b: Any) -> bool:
    """Whether b has one value per image and channel of a."""
    if a.shape is None or b.shape is None or len(a.shape) != len(b.shape) or len(a.shape) < 3:
        return False
    same = all(x is not None and x == y for x, y in zip(a.shape[:2], b.shape[:2], strict=True))
    return same and all(d == 1 for d in b.shape[2:])


def _mover(g: Groups, node: Node) -> Made | None:
    x, end = g.source(node.inputs[0]), g.target(node)
    if x is None or end is None or end[2] is not None or not g.same(x, end[1]):
        return None
    rank = g.graph.type_of(node.inputs[0]).rank
    if type(node.op).__name__ == "MaxPool" and (rank is None or rank > 5):
        return None
    return node.op, [x.name, *node.inputs[1:]], end[0]


def _pool(g: Groups, node: Node) -> Made | None:
    x, end = g.source(node.inputs[0]), g.target(node)
    if x is None or end is None:
        return None
    tx, ty = g.graph.type_of(x.name), g.graph.type_of(end[1].name)
    if tx.dtype != ty.dtype or tx.rank is None or tx.rank > 5:
        return None
    inputs = [*x.inputs, end[1].scale, end[1].zero]
    op: Any = node.op
    if type(op).__name__ == "GlobalAveragePool":
        return q.QLinearGlobalAveragePool(clamp=end[2]), inputs, end[0]
    if op.ceil_mode and op.count_include_pad:
        return None
    names = [f.name for f in dataclasses.fields(op)]
    new = q.QLinearAveragePool(**{n: getattr(op, n) for n in names}, clamp=end[2])
    return new, inputs, end[0]


def _concat(g: Groups, node: Node) -> Made | None:
    parts, end = [g.source(i) for i in node.inputs], g.target(node)
    rank = g.graph.type_of(node.outputs[0]).rank
    if end is None or end[2] is not None or rank is None or rank < 3:
        return None
    axis = node.op.axis  # type: ignore[attr-defined]
    if axis not in (1, 1 - rank) or any(p is None for p in parts):
        return None
    inputs = [end[1].scale, end[1].zero, *(i for p in parts if p for i in p.inputs)]
    return q.QLinearConcat(axis=axis), inputs, end[0]


def _activation(g: Groups, node: Node) -> Made | None:
    act = as_activation(g.graph, node)
    x, end = g.source(node.inputs[0]), g.target(node)
    if act is None or x is None or end is None or end[2] is not None:
        return None
    op = q.QLinearActivation(kind=act.kind, alpha=act.alpha, beta=act.beta)
    return op, [*x.inputs, end[1].scale, end[1].zero], end[0]


RULES: dict[str, Any] = {
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Add": _binary,
    "Mul": _binary,
    "AveragePool": _pool,
    "GlobalAveragePool": _pool,
    "Concat": _concat,
    **dict.fromkeys(MOVERS, _mover),
}


def fuse_residuals(graph: Graph) -> None:
    """A quantised sum of a convolution's result, which nobody else reads, into the convolution."""
    maker, readers, results = graph.producers(), graph.consumers(), set(graph.outputs)
    order = {id(n): k for k, n in enumerate(graph.nodes)}
    gone: set[int] = set()
    for node in graph.nodes:
        if not isinstance(node.op, q.QLinearAdd) or len(node.inputs) < 8 or not node.inputs[7]:
            continue
        found = []
        for k in (0, 3):
            conv = maker.get(node.inputs[k])
            if conv is None or not isinstance(conv.op, q.QLinearConv) or len(conv.inputs) > 9:
                continue
            value, other = node.inputs[k], node.inputs[3 - k]
            if value in results or len(readers[value]) != 1 or value == other:
                continue
            if other in graph.consts or not node.inputs[5 - k] or not node.inputs[2 + k]:
                continue
            same = same_shape(graph.type_of(value), graph.type_of(other))
            if same and parameters_agree(graph, conv, node, k):
                found.append((order[id(conv)], k, conv))
        if not found:
            continue
        _, k, conv = max(found, key=lambda f: f[0])
        sources = merged([conv, node])
        if not allowed("residual into its convolution", sources):
            continue
        op: Any = conv.op
        inputs = [*conv.inputs, *[""] * (9 - len(conv.inputs))]
        inputs += [*node.inputs[3 - k : 6 - k], *node.inputs[6:8]]
        node.sources = sources
        node.name = conv.name
        new = dataclasses.replace(op, sum_clamp=node.op.clamp, residual_first=k == 3)
        node.op, node.inputs = new, inputs
        gone.add(id(conv))
    graph.nodes = [n for n in graph.nodes if id(n) not in gone]


def parameters_agree(graph: Graph, conv: Node, add: Node, k: int) -> bool:
    """Whether a sum reads a convolution's result with the scale and zero point it was given."""
    for mine, its in zip(conv.inputs[6:8], add.inputs[k + 1 : k + 3], strict=True):
        a, b = graph.consts.get(mine), graph.consts.get(its)
        if a is None or b is None or a.size != 1 or b.size != 1 or a.reshape(()) != b.reshape(()):
            return False
    return True


#: Per operator: (input, its zero point), and the zero point of the output; the last says whether
#: all of them must be of one type.
ZEROS: dict[str, tuple[tuple[tuple[int, int], ...], int, bool]] = {
    "QuantizeLinear": ((), 2, False),
    "DequantizeLinear": (((0, 2),), -1, False),
    "QLinearMatMul": (((0, 2),), 7, False),
    "QGemm": (((0, 2),), 8, False),
    "QLinearAdd": (((0, 2), (3, 5)), 7, True),
    "QLinearMul": (((0, 2), (3, 5)), 7, True),
    "QLinearAveragePool": (((0, 2),), 4, True),
    "QLinearGlobalAveragePool": (((0, 2),), 4, True),
    "QLinearActivation": (((0, 2),), 4, False),
}


def zeros_of(node: Node) -> tuple[tuple[tuple[int, int], ...], int, bool] | None:
    """As ``ZEROS``; (0, −1) is an input without a zero point, which the output shares."""
    name = type(node.op).__name__
    if name == "QLinearConv":
        return (((0, 2), (9, 11)), 13, False) if len(node.inputs) > 9 else (((0, 2),), 7, False)
    if name == "QLinearConcat":
        return tuple((k, k + 2) for k in range(2, len(node.inputs), 3)), 1, False
    if name in MOVERS:
        return ((0, -1),), -1, True
    return ZEROS.get(name)


def make_unsigned(graph: Graph) -> None:
    """Signed values inside the graph → unsigned ones, 128 more, with their zero points.

    The kernels know unsigned activations; the numbers that they stand for stay the same. Values
    that others than quantised operators read or write, and inputs and outputs of the graph, stay.
    """
    signed = {
        o
        for n in graph.nodes
        for o in n.outputs[:1]
        if graph.type_of(o).dtype == np.int8 and o not in graph.outputs
    }
    parent = {v: v for v in signed}

    def root(v: str) -> str:
        while parent[v] != v:
            parent[v] = parent[parent[v]]
            v = parent[v]
        return v

    stays: set[str] = set()
    for node in graph.nodes:
        known = zeros_of(node)
        taken = {k for k, _ in known[0]} if known else set()
        values = [i for k, i in enumerate(node.inputs) if i in signed]
        stays.update(i for k, i in enumerate(node.inputs) if i in signed and k not in taken)
        values += [o for o in node.outputs if o in signed]
        if known is None or not all(zero_known(graph, node, *pair) for pair in pairs(node, known)):
            stays.update(values)
        elif known[2]:
            data = [node.inputs[k] for k, _ in known[0]] + node.outputs[:1]
            if any(v not in signed for v in data):
                stays.update(values)
            else:
                for v in data:
                    parent[root(v)] = root(data[0])
    kept = {root(v) for v in stays}
    moved = {v for v in signed if root(v) not in kept}
    if not moved or not allowed("signed values as unsigned ones", ()):
        return
    names: dict[str, str] = {}
    for node in graph.nodes:
        known = zeros_of(node)
        if known is None:
            continue
        for value, zero in pairs(node, known):
            if value in moved and zero >= 0:
                old = node.inputs[zero]
                if old not in names:
                    names[old] = graph.fresh(f"{old}.unsigned")
                    array = graph.consts[old].astype(np.int16) + 128
                    graph.consts[names[old]] = array.astype(np.uint8)
                node.inputs[zero] = names[old]
        if node.outputs[0] in moved:
            _move_clamp(node)
            if isinstance(node.op, (q.QLinearBinary, q.QLinearAveragePool)):
                node.op = dataclasses.replace(node.op, signed=True)  # type: ignore[call-arg]
            if isinstance(node.op, q.QuantizeLinear) and node.op.output_dtype:
                node.op = dataclasses.replace(node.op, output_dtype=2)  # type: ignore[call-arg]
    for v in moved:
        graph.types[v] = dataclasses.replace(graph.types[v], dtype=np.dtype(np.uint8))


def pairs(node: Node, known: Any) -> list[tuple[str, int]]:
    """(value, number of its zero point's input) of a node's quantised inputs and output."""
    found = [(node.inputs[k], z) for k, z in known[0]]
    return [*found, (node.outputs[0], known[1])]


def zero_known(graph: Graph, node: Node, value: str, zero: int) -> bool:
    """Whether the zero point of a signed value is a constant, or there is none to be changed."""
    if zero < 0 or graph.type_of(value).dtype != np.int8:
        return True
    return zero < len(node.inputs) and node.inputs[zero] in graph.consts


def _move_clamp(node: Node) -> None:
    name = "sum_clamp" if len(node.inputs) > 9 and isinstance(node.op, q.QLinearConv) else "clamp"
    clamp = getattr(node.op, name, None)
    if clamp is not None:
        moved = {name: (clamp[0] + 128, clamp[1] + 128)}
        node.op = dataclasses.replace(node.op, **moved)


def fuse_quantised(graph: Graph) -> Graph:
    """Compute on quantised numbers where a model in QDQ form lets it."""
    if not any(isinstance(n.op, QUANTISED) for n in graph.nodes):
        return graph
    name_types(graph)
    Groups(graph).run()
    graph = remove_dead(graph)
    fuse_residuals(graph)
    make_unsigned(graph)
    return remove_dead(graph)


QUANTISED = (q.DequantizeLinear, q.QLinearConv)
