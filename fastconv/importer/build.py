"""Structures of the file → Graph: constants, functions inlined, operators with their attributes."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import numpy as np

from ..errors import FastconvError, ModelError, UnsupportedError
from ..graph import REGISTRY, Graph, Node, Op, Sym, TensorType
from .adapt import ADAPTATIONS, Draft, adapt
from .defs import Attr, FunctionDef, GraphDef, Model, NodeDef, SparseTensorDef, TensorDef, ValueDef
from .foreign import Foreign, captures
from .tensors import numpy_dtype, sparse_to_array, to_array

#: The oldest opset that is read; before it, broadcasting was an attribute.
MIN_OPSET = 7
#: Functions may not blow a model up beyond this many nodes.
MAX_NODES = 1_000_000
#: Functions may not nest deeper than this.
MAX_CALLS = 64

READERS: dict[str, tuple[str, ...]] = {
    "int": ("INT",),
    "float": ("FLOAT", "INT"),
    "str": ("STRING",),
    "tuple[int, ...]": ("INTS",),
    "tuple[float, ...]": ("FLOATS", "INTS"),
    "tuple[str, ...]": ("STRINGS",),
    "np.ndarray": ("TENSOR",),
}


@cache
def schema(cls: type[Op]) -> dict[str, tuple[tuple[str, ...], str, bool]]:
    """The ONNX attributes of an operator: name → (attribute types, Python type, required)."""
    result = {}
    for f in dataclasses.fields(cls):
        if f.metadata.get("internal"):
            continue
        kind = str(f.type).removesuffix(" | None")
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        result[f.name] = (READERS[kind], kind, required)
    return result


@cache
def required(cls: type[Op]) -> tuple[str, ...]:
    """The attributes that an operator must have."""
    return tuple(name for name, (_, _, needed) in schema(cls).items() if needed)  # type: ignore[arg-type]


def build_graph(model: Model) -> Graph:
    """The main graph of a model.

    Raises:
        ModelError: the graph is inconsistent; names the node.
        UnsupportedError: an opset, a type or an attribute that fastconv does not know.
    """
    return Builder(model).build()


def value_type(value: ValueDef) -> TensorType:
    """The type that the file states for a value."""
    dtype = None if value.elem_type is None else numpy_dtype(value.elem_type)
    shape = value.shape
    dims = None if shape is None else tuple(Sym(d) if isinstance(d, str) else d for d in shape)
    return TensorType(dtype, dims)


class Builder:
    """Collects nodes and constants of one model."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.functions = {(f.domain, f.name, f.overload): f for f in model.functions}
        self.nodes: list[Node] = []
        self.consts: dict[str, np.ndarray] = {}
        self.made = 0
        #: Operators by class and attributes; the attributes are kept so that ids stay theirs.
        self.ops: dict[tuple[Any, ...], tuple[Op, tuple[Attr, ...]]] = {}
        self.names: set[str] = set()

    def build(self) -> Graph:
        model, g = self.model, self.model.graph
        opset = model.opset_import.get("")
        if opset is None and any(n.domain == "" for n in g.nodes):
            raise ModelError("the model names no opset for the ai.onnx domain (opset_import)")
        if opset is not None and opset < MIN_OPSET:
            raise UnsupportedError(
                f"the model uses opset {opset}; fastconv reads opset {MIN_OPSET} and newer: "
                "convert it with onnx.version_converter"
            )
        for name, t in g.initializers.items():
            self.consts[name] = self._named(self._array, t, f"initializer {name!r}")
        for name, s in g.sparse_initializers.items():
            self.consts[name] = self._named(self._dense, s, f"sparse initializer {name!r}")
        inputs = []
        types = {}
        for v in g.inputs:
            if v.name in self.consts:
                continue
            if v.kind != "tensor":
                raise UnsupportedError(
                    f"graph input {v.name!r} is a {v.kind}; only tensors can be fed"
                )
            if v.elem_type is None:
                raise ModelError(f"graph input {v.name!r} has no element type")
            inputs.append(v.name)
            types[v.name] = value_type(v)
        if not g.outputs:
            raise ModelError("the graph has no outputs")
        self.names = self._all_names(g)
        for n in g.nodes:
            self._add(n, model.opset_import, 0)
        for v in (*g.value_infos, *g.outputs):
            if v.kind == "tensor" and v.name not in types and v.elem_type is not None:
                types.setdefault(v.name, value_type(v))
        outputs = [v.name for v in g.outputs]
        graph = Graph(
            g.name, sort(self.nodes, self.consts, inputs), inputs, outputs, self.consts, types
        )
        graph.verify()
        return graph

    def _all_names(self, g: GraphDef) -> set[str]:
        names = set(g.initializers) | {v.name for v in g.inputs}
        for n in g.nodes:
            names.update(n.inputs)
            names.update(n.outputs)
        return names

    def _array(self, t: TensorDef) -> np.ndarray:
        """A stored tensor where it lies, aligned or not: plans copy what kernels read as it is."""
        return to_array(t, self.model, aligned=False)

    def _dense(self, s: SparseTensorDef) -> np.ndarray:
        return sparse_to_array(s, self.model)

    def _named(self, read: Any, value: Any, what: str) -> np.ndarray:
        try:
            return read(value)
        except FastconvError as e:
            raise type(e)(str(e) if what in str(e) else f"{what}: {e}") from None

    def _fresh(self, stem: str) -> str:
        while True:
            self.made += 1
            name = f"{stem}#{self.made}"
            if name not in self.names:
                self.names.add(name)
                return name

    def _add(self, n: NodeDef, opsets: dict[str, int], depth: int) -> None:
        if len(self.nodes) >= MAX_NODES:
            raise ModelError(f"the model has more than {MAX_NODES} nodes after inlining functions")
        function = self.functions.get((n.domain, n.op_type, n.overload))
        if function is not None:
            self._inline(n, function, depth)
            return
        name = n.name or f"{n.op_type}_{len(self.nodes)}"
        if n.domain == "" and n.op_type == "Constant":
            self._constant(n, name)
            return
        try:
            self.nodes.append(self._node(n, name, opsets))
        except FastconvError as e:
            opset = opsets.get(n.domain)
            raise type(e)(f"node {name!r} ({n.op_type}, opset {opset}): {e}") from None

    def _constant(self, n: NodeDef, name: str) -> None:
        values = {a.name: a.value for a in n.attributes.values() if a.value is not None}
        if len(values) != 1 or len(n.outputs) != 1:
            raise ModelError(f"node {name!r} (Constant) needs exactly one value and one output")
        ((key, value),) = values.items()
        makers: dict[str, Any] = {
            "value": self._array,
            "sparse_value": self._dense,
            "value_float": lambda v: np.array(v, np.float32),
            "value_floats": lambda v: np.array(v, np.float32),
            "value_int": lambda v: np.array(v, np.int64),
            "value_ints": lambda v: np.array(v, np.int64),
            "value_string": lambda v: np.array(v, object),
            "value_strings": lambda v: np.array(v, object),
        }
        if key not in makers:
            raise ModelError(f"node {name!r} (Constant) has an unknown attribute {key!r}")
        output = n.outputs[0]
        if output in self.consts:
            raise ModelError(
                f"node {name!r} (Constant) writes {output!r}, which is already defined"
            )
        try:
            self.consts[output] = makers[key](value)
        except FastconvError as e:
            raise type(e)(f"node {name!r} (Constant): {e}") from None
        except (ValueError, TypeError, AttributeError, OverflowError) as e:
            raise ModelError(f"node {name!r} (Constant): bad {key}: {e}") from None

    def _node(self, n: NodeDef, name: str, opsets: dict[str, int]) -> Node:
        opset = opsets.get(n.domain)
        if opset is None:
            raise ModelError(f"the model imports no opset for the domain {n.domain!r}")
        has_graph = any(a.type in ("GRAPH", "GRAPHS") for a in n.attributes.values())
        if has_graph or ((n.domain, n.op_type) not in REGISTRY and not self._old(n, opset)):
            return self._foreign(n, name, opsets)
        for a in n.attributes.values():
            if a.ref_attr_name:
                raise ModelError(
                    f"attribute {a.name!r} refers to {a.ref_attr_name!r} outside a function"
                )
        attrs = {a.name: a.value for a in n.attributes.values()}

        def constant(array: np.ndarray) -> str:
            key = self._fresh(f"{name}.const")
            self.consts[key] = array
            return key

        draft = Draft(n.op_type, n.domain, list(n.inputs), list(n.outputs), attrs, opset, constant)
        try:
            adapt(draft)
        except (ValueError, TypeError, OverflowError) as e:
            raise ModelError(f"an attribute has a wrong type or value: {e}") from None
        cls = REGISTRY.get((draft.domain, draft.op_type))
        if cls is None or not self._stored_as_integers(draft):
            return self._foreign(n, name, opsets)
        op = self._op(cls, draft, n)
        parts = getattr(op, "num_outputs", None)
        if parts is not None and parts != len(draft.outputs):
            raise ModelError(f"num_outputs is {parts}, but {len(draft.outputs)} outputs are named")
        while draft.inputs and not draft.inputs[-1]:
            draft.inputs.pop()
        least, most = cls.arity
        count = len(draft.inputs)
        missing = "" in (draft.inputs[:least] if most >= 0 else draft.inputs)
        if count < least or (most >= 0 and count > most) or missing:
            raise ModelError(
                f"{n.op_type} takes {least} to {most if most >= 0 else 'any number of'} inputs, "
                f"got {list(n.inputs)}"
            )
        if 0 <= cls.n_outputs < len(draft.outputs):
            raise ModelError(
                f"{n.op_type} has at most {cls.n_outputs} outputs, got {list(n.outputs)}"
            )
        return Node(op, draft.inputs, draft.outputs, name, (name,))

    def _stored_as_integers(self, draft: Draft) -> bool:
        """False for QuantizeLinear to narrow floats; says which integers, where NumPy cannot."""
        if (draft.domain, draft.op_type) != ("", "QuantizeLinear"):
            return True
        from ..graph.ops.quant import STORED

        kind = draft.attrs.get("output_dtype") or self._element(draft.inputs[2:3])
        if kind not in STORED:
            return not kind
        if STORED[kind][0].itemsize == 1:
            draft.attrs["output_dtype"] = kind
        return True

    def _element(self, names: list[str]) -> int:
        """ONNX's number for the element type that the file states for a value, else 0."""
        g = self.model.graph
        for name in filter(None, names):
            if name in g.initializers:
                return g.initializers[name].data_type
            for v in (*g.inputs, *g.value_infos, *g.outputs):
                if v.name == name:
                    return v.elem_type or 0
        return 0

    def _op(self, cls: type[Op], draft: Draft, n: NodeDef) -> Op:
        """The operator of a node. Equal nodes share one, as an operator never changes.

        Equal attributes are mostly one object (see the reader), so their identity is compared.
        """
        if draft.op_type in ADAPTATIONS or draft.op_type != n.op_type:
            return make_op(cls, draft.attrs, n)
        given = tuple(n.attributes.values())
        key = (cls, *map(id, given))
        known = self.ops.get(key)
        if known is None:
            known = self.ops[key] = (make_op(cls, draft.attrs, n), given)
        return known[0]

    def _old(self, n: NodeDef, opset: int) -> bool:
        """Whether an operator that exists no more is adapted into one that does."""
        return n.domain == "" and n.op_type in ("Upsample", "Scatter")

    def _foreign(self, n: NodeDef, name: str, opsets: dict[str, int]) -> Node:
        extra = tuple(captures(n))
        op = Foreign(n, self.model, dict(opsets), extra)
        return Node(op, [*n.inputs, *extra], list(n.outputs), name, (name,))

    def _inline(self, n: NodeDef, f: FunctionDef, depth: int) -> None:
        """Replace a call of a model-local function by its body, values renamed."""
        if depth >= MAX_CALLS:
            raise ModelError(f"function {f.domain}.{f.name} calls itself, or calls nest too deep")
        if len(n.inputs) > len(f.inputs) or len(n.outputs) > len(f.outputs):
            raise ModelError(f"node {n.name!r} does not fit the function {f.domain}.{f.name}")
        prefix = self._fresh(n.name or f.name)
        rename = dict.fromkeys(f.inputs, "")
        rename.update(zip(f.inputs, n.inputs, strict=False))
        rename.update((k, v) for k, v in zip(f.outputs, n.outputs, strict=False) if v)
        identities = [
            (k, n.outputs[f.outputs.index(k)])
            for k in f.inputs
            if k in f.outputs and f.outputs.index(k) < len(n.outputs)
        ]
        values = {**f.attribute_protos, **n.attributes}
        opsets = f.opset_import or self.model.opset_import
        for body in f.nodes:
            self._add(self._renamed(body, rename, prefix, values), opsets, depth + 1)
        for source, target in identities:
            source = dict(zip(f.inputs, n.inputs, strict=False)).get(source, "")
            self._add(NodeDef("Identity", inputs=(source,), outputs=(target,)), opsets, depth + 1)

    def _renamed(
        self, n: NodeDef, rename: dict[str, str], prefix: str, values: dict[str, Attr]
    ) -> NodeDef:
        def name(v: str) -> str:
            if not v:
                return ""
            if v not in rename:
                rename[v] = f"{prefix}/{v}"
                self.names.add(rename[v])
            return rename[v]

        attributes = {}
        for a in n.attributes.values():
            if a.ref_attr_name:
                given = values.get(a.ref_attr_name)
                if given is None:
                    continue  # not passed: the operator's default holds
                a = Attr(a.name, given.type, given.value)
            elif a.type in ("GRAPH", "GRAPHS"):
                graphs = a.value if isinstance(a.value, list) else [a.value]
                graphs = [self._renamed_graph(g, rename, prefix, values) for g in graphs]
                a = Attr(a.name, a.type, graphs if a.type == "GRAPHS" else graphs[0])
            attributes[a.name] = a
        return dataclasses.replace(
            n,
            name=f"{prefix}/{n.name or n.op_type}",
            inputs=tuple(name(i) for i in n.inputs),
            outputs=tuple(name(o) for o in n.outputs),
            attributes=attributes,
        )

    def _renamed_graph(
        self, g: GraphDef, rename: dict[str, str], prefix: str, values: dict[str, Attr]
    ) -> GraphDef:
        """A subgraph inside a function: its own names stay, what it captures is renamed."""
        own = {v.name for v in g.inputs} | set(g.initializers)
        own |= {o for n in g.nodes for o in n.outputs}
        inner = {k: v for k, v in rename.items() if k not in own}
        inner.update((k, k) for k in own)
        nodes = [self._renamed(n, inner, prefix, values) for n in g.nodes]
        outputs = [dataclasses.replace(v, name=inner.get(v.name, v.name)) for v in g.outputs]
        return dataclasses.replace(g, nodes=nodes, outputs=outputs)


def make_op(cls: type[Op], attrs: dict[str, Any], n: NodeDef) -> Op:
    """An operator from its attributes' values.

    Raises:
        ModelError: a required attribute is missing, or one has the wrong type.
        UnsupportedError: an attribute that the operator does not have.
    """
    known = schema(cls)  # type: ignore[arg-type]  # mypy looks at instances' __hash__ here
    values = {}
    for name, value in attrs.items():
        if name not in known:
            raise UnsupportedError(f"attribute {name!r} is not known to fastconv for {n.op_type}")
        types, kind, _ = known[name]
        given = n.attributes.get(name)
        if given is not None and given.type not in types:
            raise ModelError(f"attribute {name!r} is {given.type}, expected {' or '.join(types)}")
        values[name] = attr_value(name, value, kind)
    for name in required(cls):  # type: ignore[arg-type]
        if name not in values:
            raise ModelError(f"{n.op_type} needs an attribute {name!r}")
    return cls(**values)


def attr_value(name: str, v: Any, kind: str) -> Any:
    """An attribute's value as the Python type of its field."""
    if isinstance(v, TensorDef):
        return to_array(v)
    if isinstance(v, bytes):
        raise ModelError(f"attribute {name!r} is not UTF-8 text")
    if kind.startswith("tuple"):
        return tuple(float(x) for x in v) if "float" in kind else tuple(v)
    return float(v) if kind == "float" else v


def sort(nodes: list[Node], consts: dict[str, np.ndarray], inputs: list[str]) -> list[Node]:
    """Nodes in topological order, as near to the file's order as that allows.

    Raises:
        ModelError: the graph has a cycle.
    """
    done = {"", *consts, *inputs}
    if all(_in_order(n, done) for n in nodes):
        return nodes
    made = {o for n in nodes for o in n.outputs if o}
    done = {"", *consts, *inputs}
    waiting: dict[str, list[int]] = {}
    missing = []
    ready = []
    for k, n in enumerate(nodes):
        lacks = {i for i in n.inputs if i in made and i not in done}
        missing.append(len(lacks))
        for i in lacks:
            waiting.setdefault(i, []).append(k)
        if not lacks:
            ready.append(k)
    order = []
    for k in ready:  # grows while it is walked
        order.append(nodes[k])
        for o in nodes[k].outputs:
            for w in waiting.pop(o, ()):
                missing[w] -= 1
                if missing[w] == 0:
                    ready.append(w)
    if len(order) < len(nodes):
        stuck = next(n for n, m in zip(nodes, missing, strict=True) if m)
        raise ModelError(f"{stuck} depends on its own output: the graph has a cycle")
    return order


def _in_order(node: Node, done: set[str]) -> bool:
    ok = all(i in done for i in node.inputs)
    done.update(node.outputs)
    return ok
