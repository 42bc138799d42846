"""The graph: typed values in single-assignment form, nodes that hold an operator, a verifier."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from ..errors import FastconvError, ModelError
from ..records import field, record
from .op import Op
from .symbols import Dim, is_static


@record(frozen=True)
class TensorType:
    """Element type and shape of a value.

    Attributes:
        dtype: NumPy dtype, or None when unknown.
        shape: dimensions in ONNX's order (NCHW), or None when even the rank is unknown.
    """

    dtype: np.dtype[Any] | None
    shape: tuple[Dim, ...] | None

    def __init__(self, dtype: np.dtype[Any] | None, shape: tuple[Dim, ...] | None) -> None:
        values = self.__dict__
        values["dtype"] = dtype
        values["shape"] = shape

    @property
    def rank(self) -> int | None:
        return None if self.shape is None else len(self.shape)

    @property
    def static(self) -> bool:
        """Whether dtype and every dimension are known."""
        return self.dtype is not None and is_static(self.shape)

    def __str__(self) -> str:
        name = "?" if self.dtype is None else str(self.dtype)
        if self.shape is None:
            return f"{name}[unknown rank]"
        return f"{name}[{', '.join('?' if d is None else str(d) for d in self.shape)}]"


UNKNOWN = TensorType(None, None)


@record
class Node:
    """One operator application.

    Attributes:
        op: the operator with its attributes.
        inputs: value names; an empty string is an absent optional input.
        outputs: value names; an empty string is an output nobody wants.
        name: the ONNX node's name (made up where the file has none).
        sources: names of all ONNX nodes that were fused into this one, itself included.
    """

    op: Op
    inputs: list[str]
    outputs: list[str]
    name: str
    sources: tuple[str, ...] = ()

    def __init__(
        self,
        op: Op,
        inputs: list[str],
        outputs: list[str],
        name: str,
        sources: tuple[str, ...] = (),
    ) -> None:
        self.op = op
        self.inputs = inputs
        self.outputs = outputs
        self.name = name
        self.sources = sources

    def __str__(self) -> str:
        return f"node {self.name!r} ({self.op.label})"


@record
class Graph:
    """Nodes in topological order over named values.

    Attributes:
        inputs: the values that a caller feeds, in order.
        outputs: names of the results, in order.
        consts: arrays known from the file or computed from such.
        types: what is known of every value's type (inputs always, others after inference).
        formats: ONNX data types of values that are held in another dtype (``fastconv.formats``).
        kinds: inputs and outputs that are no tensors: ``"sequence"`` or ``"optional"``.
    """

    name: str
    nodes: list[Node]
    inputs: list[str]
    outputs: list[str]
    consts: dict[str, np.ndarray] = field(default_factory=dict)
    types: dict[str, TensorType] = field(default_factory=dict)
    formats: dict[str, int] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)

    def producers(self) -> dict[str, Node]:
        """The node that computes each value."""
        return {o: n for n in self.nodes for o in n.outputs if o}

    def consumers(self) -> dict[str, list[Node]]:
        """The nodes that read each value, once per node; graph outputs are not listed here."""
        readers: dict[str, list[Node]] = {}
        for n in self.nodes:
            for i in dict.fromkeys(n.inputs):
                if i:
                    readers.setdefault(i, []).append(n)
        return readers

    def type_of(self, name: str) -> TensorType:
        """What is known of a value's type."""
        if name in self.consts:
            c = self.consts[name]
            return TensorType(c.dtype, tuple(c.shape))
        return self.types.get(name, UNKNOWN)

    def fresh(self, stem: str) -> str:
        """A value name that the graph does not use yet."""
        used = self.types.keys() | self.consts.keys()
        used = used | {o for n in self.nodes for o in n.outputs}
        k = 0
        while (name := f"{stem}.{k}") in used:
            k += 1
        return name

    def copy(self) -> Graph:
        """A copy whose node list and dictionaries can be changed freely; arrays are shared."""
        nodes = [Node(n.op, list(n.inputs), list(n.outputs), n.name, n.sources) for n in self.nodes]
        return Graph(
            self.name,
            nodes,
            list(self.inputs),
            list(self.outputs),
            dict(self.consts),
            dict(self.types),
            dict(self.formats),
            dict(self.kinds),
        )

    def verify(self) -> None:
        """Check the form: every value defined once, before it is used, and outputs exist.

        Raises:
            ModelError: naming the node and the value.
        """
        defined = set(self.consts)
        for name in self.inputs:
            if name in defined:
                raise ModelError(f"graph input {name!r} is defined twice")
            defined.add(name)
        for node in self.nodes:
            for name in node.inputs:
                if name and name not in defined:
                    raise ModelError(
                        f"{node} reads {name!r}, which nothing before it computes: "
                        "the graph is not in topological order, or a value is missing"
                    )
            for name in node.outputs:
                if name and name in defined:
                    raise ModelError(f"{node} writes {name!r}, which is already defined")
                if name:
                    defined.add(name)
        for name in self.outputs:
            if name not in defined:
                raise ModelError(f"graph output {name!r} is computed by no node")


def live_nodes(graph: Graph, roots: Iterable[str]) -> Iterator[Node]:
    """The nodes that ``roots`` depend on, in reverse order."""
    wanted = set(roots)
    for node in reversed(graph.nodes):
        if any(o in wanted for o in node.outputs):
            wanted.update(i for i in node.inputs if i)
            yield node


def annotate(node: Node, error: FastconvError, types: Sequence[TensorType | None]) -> FastconvError:
    """The same error with the node, its operator and its input shapes in front."""
    shapes = ", ".join("-" if t is None else str(t) for t in types)
    return type(error)(f"{node}: {error} (inputs: {shapes})")
