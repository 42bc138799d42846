"""Operators that fastconv has no code for: run by ``onnx.reference``, the onnx package's own.

The onnx package is imported when a model with such an operator is loaded, and only then.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import FastconvError, ModelError, UnsupportedError
from ..formats import NAMES, narrowed, widened
from ..graph import Op, TensorType
from ..graph.op import fields_only
from ..records import field
from .defs import ATTRIBUTE_TYPES, Attr, GraphDef, Model, NodeDef, SparseTensorDef, TensorDef
from .tensors import to_array

#: What to do about an operator that nothing here runs.
LEAVE_OUT = "export the model without it, or give it as a function of the model"


@fields_only
class Foreign(Op):
    """A node kept as it stands in the file.

    Attributes:
        node: the node.
        model: the model that it comes from (opsets, functions, external data).
        opsets: the opset of every domain where the node stands.
        captured: outer values that its subgraphs read; they follow the node's own inputs.
        formats: ONNX data types of those inputs that are held in another dtype.
    """

    node: NodeDef
    model: Model
    opsets: dict[str, int]
    captured: tuple[str, ...] = ()
    formats: Mapping[str, int] = field(default_factory=dict)

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other  # nodes of the file have no equality of their own

    @property
    def label(self) -> str:
        return f"{self.node.domain}.{self.node.op_type}" if self.node.domain else self.node.op_type

    @property
    def deterministic(self) -> bool:  # type: ignore[override]
        return not self.node.op_type.startswith("Random") and self.node.op_type not in (
            "Bernoulli",
            "Multinomial",
            "Dropout",
        )

    def infer(self, types, values):
        return [TensorType(None, None) for _ in self.node.outputs]

    def compute(self, xs):
        session = self.session()
        names = [*self.node.inputs, *self.captured]
        feeds = {
            n: narrowed(x, self.formats.get(n))
            for n, x in zip(names, xs, strict=True)
            if n and x is not None
        }
        outs = dict(zip(session.output_names, session.run(None, feeds), strict=True))
        return [widened(text_as_objects(outs.get(n))) for n in self.node.outputs]

    def session(self) -> Any:
        """What runs the node, made when it is first asked for.

        Raises:
            UnsupportedError: ``onnx.reference`` has no such operator, or is not installed.
        """
        session = self.__dict__.get("_session")
        if session is None:
            session = self._make_session()
            object.__setattr__(self, "_session", session)
        return session

    def _make_session(self) -> Any:
        try:
            import onnx
            import onnx.reference
        except ImportError as e:
            raise UnsupportedError(
                f"{self.label} has no native kernel and needs the onnx package: "
                "pip install 'fastconv[onnx]'"
            ) from e
        try:
            return self._evaluator(onnx)
        except FastconvError:
            raise
        except Exception as e:  # it raises whatever it likes
            message = " ".join(str(e).split()).rstrip(".") or type(e).__name__
            raise UnsupportedError(f"{self.label}: onnx.reference cannot run it: {message}") from e

    def _evaluator(self, onnx: Any) -> Any:
        names = dict.fromkeys(n for n in (*self.node.inputs, *self.captured) if n)
        inputs = [onnx.helper.make_empty_tensor_value_info(n) for n in names]
        outputs = [onnx.helper.make_empty_tensor_value_info(n) for n in self.node.outputs if n]
        graph = onnx.helper.make_graph(
            [node_to_onnx(self.node, self.model)], "node", inputs, outputs
        )
        imports = [onnx.helper.make_opsetid(d, v) for d, v in self.opsets.items()]
        model = onnx.helper.make_model(graph, opset_imports=imports)
        model.ir_version = min(model.ir_version, self.model.ir_version)
        return onnx.reference.ReferenceEvaluator(model)


def text_as_objects(value: Any) -> Any:
    """An array of text as objects, which is how strings are fed and read from files."""
    if isinstance(value, np.ndarray) and value.dtype.kind == "U":
        return value.astype(object)
    return value


def node_to_onnx(node: NodeDef, model: Model) -> Any:
    """The node as ``onnx.NodeProto``."""
    import onnx

    proto = onnx.helper.make_node(
        node.op_type, list(node.inputs), list(node.outputs), name=node.name, domain=node.domain
    )
    if node.overload:
        proto.overload = node.overload
    codes = {name: code for code, name in ATTRIBUTE_TYPES.items()}
    for a in node.attributes.values():
        value = _value_to_onnx(a, a.value, model)
        proto.attribute.append(onnx.helper.make_attribute(a.name, value, attr_type=codes[a.type]))
    return proto


def _value_to_onnx(attr: Attr, value: Any, model: Model) -> Any:
    if isinstance(value, list):
        return [_value_to_onnx(attr, v, model) for v in value]
    if isinstance(value, TensorDef):
        return tensor_to_onnx(value, model)
    if isinstance(value, GraphDef):
        return graph_to_onnx(value, model)
    if isinstance(value, SparseTensorDef):
        raise UnsupportedError(f"attribute {attr.name!r} is a sparse tensor")
    if attr.type.startswith("TYPE_PROTO"):
        raise UnsupportedError(f"attribute {attr.name!r} is a type")
    return value


def tensor_to_onnx(tensor: TensorDef, model: Model) -> Any:
    """A stored tensor as ``onnx.TensorProto``."""
    import onnx

    array = np.array(to_array(tensor, model))
    if tensor.data_type in NAMES:
        array = narrowed(array, tensor.data_type)
    return onnx.numpy_helper.from_array(array, tensor.name)


def graph_to_onnx(graph: GraphDef, model: Model) -> Any:
    """A subgraph as ``onnx.GraphProto``."""
    import onnx

    def info(v: Any) -> Any:
        if v.kind == "tensor" and v.elem_type:
            return onnx.helper.make_tensor_value_info(v.name, v.elem_type, v.shape)
        return onnx.helper.make_empty_tensor_value_info(v.name)

    return onnx.helper.make_graph(
        [node_to_onnx(n, model) for n in graph.nodes],
        graph.name or "graph",
        [info(v) for v in graph.inputs],
        [info(v) for v in graph.outputs],
        [tensor_to_onnx(t, model) for t in graph.initializers.values()],
    )


def free_names(graph: GraphDef, depth: int = 0) -> list[str]:
    """The outer values that a subgraph reads, in order of first use."""
    if depth > 64:
        raise ModelError(f"subgraph {graph.name!r} is nested more than 64 deep")
    bound = {v.name for v in graph.inputs} | set(graph.initializers)
    bound |= {o for n in graph.nodes for o in n.outputs}
    found: dict[str, None] = {}
    for n in graph.nodes:
        used = [i for i in n.inputs if i] + captures(n, depth + 1)
        found.update((u, None) for u in used if u not in bound)
    found.update((v.name, None) for v in graph.outputs if v.name not in bound)
    return list(found)


def captures(node: NodeDef, depth: int = 0) -> list[str]:
    """The outer values that a node's subgraphs read."""
    names: dict[str, None] = {}
    for a in node.attributes.values():
        graphs = a.value if isinstance(a.value, list) else [a.value]
        for g in graphs:
            if isinstance(g, GraphDef):
                names.update((n, None) for n in free_names(g, depth))
    return list(names)
