"""Products with constant matrices, in networks that hold pixels channels-last, as 1×1 Conv.

``MatMul`` of (N, …, K) and a constant (K, M) is a convolution of (N, K, …) with a 1×1 kernel and
two Transposes, which cost nothing: channels-last is how kernels lay out images. What follows per
element (a bias, an activation, a factor for each channel, a residual sum) moves ahead of the second
Transpose, where later passes put it into the convolution; ConvNeXt (Liu et al., arXiv:2201.03545)
and mixers and transformers of images are built so.
"""

from __future__ import annotations

from collections.abc import Callable

from ..graph import Graph, Node, Op, TensorType
from ..graph.ops.conv import Conv
from ..graph.ops.move import Transpose
from .budget import current
from .match import Names
from .types import same_shape
from .unary import as_activation, is_float32

#: Convolutions have one to three spatial axes.
RANKS = (3, 4, 5)
ARITHMETIC = ("Add", "Sub", "Mul", "Div")


def first_perm(rank: int) -> tuple[int, ...]:
    """The Transpose that brings the last axis to the place of channels."""
    return (0, rank - 1, *range(1, rank - 1))


def last_perm(rank: int) -> tuple[int, ...]:
    """The Transpose that brings channels to the last axis."""
    return (0, *range(2, rank), 1)


def permuted(t: TensorType, perm: tuple[int, ...]) -> TensorType:
    """The type of a value after a Transpose."""
    return TensorType(t.dtype, None if t.shape is None else tuple(t.shape[p] for p in perm))


class _Products:
    """The state of the pass: who makes and reads each value, and what is new."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.names = Names(graph)
        self.readers = graph.consumers()
        #: Nodes to put at the place of the last node of a chain, whose other nodes go.
        self.placed: dict[int, list[Node]] = {}
        self.gone: set[int] = set()

    def run(self) -> Graph:
        graph = self.graph
        for node in graph.nodes:
            if type(node.op).__name__ == "MatMul" and self._suits(node):
                self._convert(node)
        if self.placed:
            nodes: list[Node] = []
            for node in graph.nodes:
                if id(node) not in self.gone:
                    nodes += self.placed.get(id(node), [node])
            graph.nodes = nodes
        return graph

    def _suits(self, node: Node) -> bool:
        """A product with a constant matrix, of a value whose rank a convolution may have."""
        graph, (x, w) = self.graph, node.inputs
        array = graph.consts.get(w)
        if array is None or array.ndim != 2 or 0 in array.shape or x in graph.consts:
            return False
        if getattr(node.op, "activation", None) is not None:
            return False
        if not is_float32(graph, x, w, node.outputs[0]):
            return False
        shape = graph.type_of(x).shape
        return shape is not None and len(shape) in RANKS and shape[-1] == array.shape[0]

    def _convert(self, node: Node) -> None:
        graph, budget = self.graph, current()
        chain = self._chain(node)
        sources = tuple(dict.fromkeys(s for n in chain for s in n.sources or (n.name,)))
        if budget is not None and not budget.spend("MatMul as 1x1 Conv", sources):
            return
        rank = graph.type_of(node.inputs[0]).rank
        assert rank is not None
        new: list[Node] = []

        def transposed(value: str, stem: str) -> str:
            """A value with channels in front."""
            return self._emit(
                new, Transpose(first_perm(rank)), [value], f"{stem}.first", node,
                permuted(graph.type_of(value), first_perm(rank)),
            )  # fmt: skip

        w = self.names.fresh(node.inputs[1])
        matrix = graph.consts[node.inputs[1]]
        graph.consts[w] = matrix.T.reshape(*matrix.shape[::-1], *(1,) * (rank - 2))
        x = transposed(node.inputs[0], node.inputs[0])
        value = self._emit(
            new, Conv(), [x, w], f"{node.outputs[0]}.conv", node,
            permuted(graph.type_of(node.outputs[0]), first_perm(rank)), sources,
        )  # fmt: skip
        before = node.outputs[0]
        for step in chain[1:]:
            inputs = list(step.inputs)
            for k, name in enumerate(inputs):
                if name == before:
                    inputs[k] = value
                elif type(step.op).__name__ in ARITHMETIC:
                    inputs[k] = self._operand(name, rank, transposed)
            before = step.outputs[0]
            out = permuted(graph.type_of(before), first_perm(rank))
            value = self._emit(new, step.op, inputs, f"{before}.first", step, out)
        new.append(
            Node(Transpose(last_perm(rank)), [value], [before], f"{node.name}.last", sources)
        )
        self.gone.update(id(n) for n in chain[:-1])
        self.placed[id(chain[-1])] = new

    def _emit(
        self,
        new: list[Node],
        op: Op,
        inputs: list[str],
        stem: str,
        like: Node,
        kind: TensorType,
        sources: tuple[str, ...] = (),
    ) -> str:
        """Add a node of one output; returns the output's name."""
        out = self.names.fresh(stem)
        self.graph.types[out] = kind
        name = f"{like.name}.first" if isinstance(op, Transpose) else like.name
        new.append(Node(op, inputs, [out], name, sources or like.sources or (like.name,)))
        return out

    def _operand(self, name: str, rank: int, transposed: Callable[[str, str], str]) -> str:
        """The other operand of a sum or product, with channels in front."""
        array = self.graph.consts.get(name)
        if array is None:
            return transposed(name, name)
        if array.size == 1:
            return name
        new = self.names.fresh(name)
        self.graph.consts[new] = array.reshape(-1, *(1,) * (rank - 2))
        return new

    def _chain(self, node: Node) -> list[Node]:
        """The product and what can be computed on its result with channels in front."""
        chain = [node]
        while True:
            value = chain[-1].outputs[0]
            readers = self.readers.get(value, [])
            if (
                value in self.graph.outputs
                or len(readers) != 1
                or not self._moves(readers[0], value)
            ):
                return chain
            chain.append(readers[0])

    def _moves(self, node: Node, value: str) -> bool:
        """Whether a reader of ``value`` does the same to each element wherever its axes lie."""
        graph, op = self.graph, node.op
        if id(node) in self.placed or id(node) in self.gone or len(node.outputs) != 1:
            return False
        if not is_float32(graph, value, node.outputs[0]):
            return False
        if as_activation(graph, node) is not None:
            rank = graph.type_of(value).rank or 0
            consts = [graph.consts[i] for i in node.inputs[1:] if i]
            return node.inputs[0] == value and all(c.ndim <= rank for c in consts)
        if type(op).__name__ not in ARITHMETIC or node.inputs.count(value) != 1:
            return False
        (other,) = (i for i in node.inputs if i != value)
        mine, theirs = graph.type_of(value), graph.type_of(other)
        array = graph.consts.get(other)
        if not is_float32(graph, other) or mine.shape is None or theirs.shape is None:
            return False
        if array is None:
            return type(op).__name__ == "Add" and same_shape(mine, theirs)
        if array.ndim > len(mine.shape):
            return False
        return array.size == 1 or (
            array.shape[-1] == array.size == mine.shape[-1] and array.size > 0
        )


def fuse_products(graph: Graph) -> Graph:
    """Products with constant matrices, of three axes and more, into 1×1 convolutions."""
    if not any(type(n.op).__name__ == "MatMul" for n in graph.nodes):
        return graph
    return _Products(graph).run()
