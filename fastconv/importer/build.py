"""Structures of the file → Graph: constants, functions inlined, operators with their attributes."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from .. import formats
from ..errors import FastconvError, ModelError, UnsupportedError
from ..graph import REGISTRY, Graph, Node, Op, Sym, TensorType
from ..records import MISSING
from .adapt import ADAPTATIONS, Draft, adapt
from .defs import Attr, FunctionDef, GraphDef, Model, NodeDef, SparseTensorDef, TensorDef, ValueDef
from .foreign import Foreign, captures, free_names
from .tensors import numpy_dtype, sparse_to_array, to_array

#: The oldest opset that is read.
MIN_OPSET = 1
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
    for name, spec in cls._specs.items():
        if spec.metadata and spec.metadata.get("internal"):
            continue
        kind = spec.annotation.removesuffix(" | None")
        required = spec.default is MISSING and spec.default_factory is MISSING
        result[name] = (READERS[kind], kind, required)
    return result


#: Operators with subgraphs that run natively.
CONTROL = frozenset({"If", "Loop", "Scan", "SequenceMap"})
#: Operators whose first output has the element type of another input than the first.
TYPE_GIVER = {"Where": 1, "OneHot": 2, "DequantizeLinear": 1, "QuantizeLinear": 2, "CastLike": 1}
#: Operators whose outputs have an element type that has nothing to do with that of their inputs.
OWN_TYPE = {
    "Cast", "Shape", "Size", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual",
    "IsNaN", "IsInf", "Not", "And", "Or", "Xor", "NonZero", "ArgMax", "ArgMin",
    "ConstantOfShape", "EyeLike", "RandomNormalLike", "RandomUniformLike", "Bernoulli",
    "NonMaxSuppression", "DynamicQuantizeLinear", "Multinomial", "BitCast", "If", "Loop",
    "Scan", "SequenceLength", "OptionalHasElement", "SequenceEmpty",
}  # fmt: skip
#: Operators of which later outputs have that type too (of all others only the first).
ALL_OUTPUTS = frozenset({"Split", "BatchNormalization", "LSTM", "GRU", "RNN", "Unique"})


@cache
def required(cls: type[Op]) -> tuple[str, ...]:
    """The attributes that an operator must have."""
    return tuple(name for name, (_, _, needed) in schema(cls).items() if needed)  # type: ignore[arg-type]


def build_graph(model: Model, fed: frozenset[str] = frozenset()) -> Graph:
    """The main graph of a model.

    Args:
        model: the structures of the file.
        fed: initializers that are also graph inputs, and are to be inputs in this graph.

    Raises:
        ModelError: the graph is inconsistent; names the node.
        UnsupportedError: an opset, a type or an attribute that fastconv does not know.
    """
    return Builder(model).build(fed)


def value_type(value: ValueDef) -> TensorType:
    """The type that the file states for a value, in the dtype that holds it (see ``formats``)."""
    if value.kind != "tensor":
        return TensorType(None, None)
    if value.elem_type in formats.NAMES:
        dtype: Any = formats.held_dtype(value.elem_type)
    else:
        dtype = None if value.elem_type is None else numpy_dtype(value.elem_type)
    shape = value.shape
    dims = None if shape is None else tuple(Sym(d) if isinstance(d, str) else d for d in shape)
    return TensorType(dtype, dims)


class Builder:
    """Collects nodes and constants of one model."""

    def __init__(self, model: Model, depth: int = 0) -> None:
        self.model = model
        self.depth = depth
        self.functions = {(f.domain, f.name, f.overload): f for f in model.functions}
        self.nodes: list[Node] = []
        self.consts: dict[str, np.ndarray] = {}
        self.formats: dict[str, int] = {}
        self.made = 0
        #: Operators by class and attributes; the attributes are kept so that ids stay theirs.
        self.ops: dict[tuple[Any, ...], tuple[Op, tuple[Attr, ...]]] = {}
        self.names: set[str] = set()
        #: NHWC images that nodes made of NCHW ones, and these (see ``contrib``).
        self.turned: dict[str, str] = {}

    def build(self, fed: frozenset[str] = frozenset()) -> Graph:
        """The main graph; see :func:`build_graph`."""
        model, g = self.model, self.model.graph
        opsets = dict(model.opset_import)
        if "" not in opsets and any(n.domain == "" for n in g.nodes):
            if model.ir_version >= 3:
                raise ModelError("the model names no opset for the ai.onnx domain (opset_import)")
            opsets[""] = 1  # older files have no such field
        if opsets.get("", MIN_OPSET) < MIN_OPSET:
            raise UnsupportedError(
                f"the model uses opset {opsets['']}; fastconv reads opset {MIN_OPSET} and newer"
            )
        for v in g.inputs:
            if v.name in g.initializers and v.name not in fed:
                continue
            if v.kind not in ("tensor", "sequence", "optional"):
                raise UnsupportedError(
                    f"graph input {v.name!r} is a {v.kind}; only tensors, sequences and optional "
                    "values can be fed"
                )
            if v.elem_type is None:
                raise ModelError(f"graph input {v.name!r} has no element type")
        if not g.outputs:
            raise ModelError("the graph has no outputs")
        return self._graph(g, opsets, [], fed)

    def body(self, g: GraphDef, opsets: dict[str, int], outer: Builder) -> tuple[Graph, list[str]]:
        """A subgraph, whose last inputs are values of ``outer``, and the names of these.

        Those that are constants there are constants here.
        """
        if self.depth > MAX_CALLS:
            raise ModelError(f"subgraph {g.name!r} is nested more than {MAX_CALLS} deep")
        captured = []
        for name in free_names(g):
            if name in outer.formats:
                self.formats[name] = outer.formats[name]
            if name in outer.consts:
                self.consts[name] = outer.consts[name]
            else:
                captured.append(name)
        return self._graph(g, opsets, captured), captured

    def _graph(
        self,
        g: GraphDef,
        opsets: dict[str, int],
        captured: list[str],
        fed: frozenset[str] = frozenset(),
    ) -> Graph:
        initializers = {n: t for n, t in g.initializers.items() if n not in fed}
        for name, t in initializers.items():
            self.consts[name] = self._named(self._array, t, f"initializer {name!r}")
            self._state(name, t.data_type)
        for name, s in g.sparse_initializers.items():
            self.consts[name] = self._named(self._dense, s, f"sparse initializer {name!r}")
            self._state(name, s.values.data_type)
        inputs: list[str] = []
        types: dict[str, TensorType] = {}
        kinds: dict[str, str] = {}
        for v in g.inputs:
            if v.name in initializers or v.name in g.sparse_initializers:
                continue
            inputs.append(v.name)
            types[v.name] = value_type(v)
        for v in (*g.inputs, *g.value_infos, *g.outputs):
            self._state(v.name, v.elem_type)
        for v in (*g.inputs, *g.outputs):
            if v.kind != "tensor":
                kinds[v.name] = v.kind
        inputs += captured
        self.names |= self._all_names(g) | set(captured)
        for n in g.nodes:
            self._add(n, opsets, 0)
        for v in (*g.value_infos, *g.outputs):
            if v.kind == "tensor" and v.name not in types and v.elem_type is not None:
                types.setdefault(v.name, value_type(v))
        outputs = [v.name for v in g.outputs]
        graph = Graph(
            g.name, sort(self.nodes, self.consts, inputs), inputs, outputs, self.consts, types
        )
        graph.formats, graph.kinds = self.formats, kinds
        graph.verify()
        return graph

    def _state(self, name: str, elem_type: int | None) -> None:
        """Note that the file says what the elements of a value are."""
        if elem_type is not None and elem_type in formats.NAMES:
            self.formats[name] = elem_type

    def _all_names(self, g: GraphDef) -> set[str]:
        names = set(g.initializers) | {v.name for v in g.inputs}
        for n in g.nodes:
            names.update(n.inputs)
            names.update(n.outputs)
        return names

    def _array(self, t: TensorDef) -> np.ndarray:
        """A stored tensor as a graph holds it.

        It stays where it lies, aligned or not: plans copy what kernels read as it is.
        """
        array = to_array(t, self.model, aligned=False)
        return formats.widened(array) if array.dtype == np.float16 else array

    def _dense(self, s: SparseTensorDef) -> np.ndarray:
        return formats.widened(sparse_to_array(s, self.model))

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
            if isinstance(value, TensorDef):
                self._state(output, value.data_type)
        except FastconvError as e:
            raise type(e)(f"node {name!r} (Constant): {e}") from None
        except (ValueError, TypeError, AttributeError, OverflowError) as e:
            raise ModelError(f"node {name!r} (Constant): bad {key}: {e}") from None

    def _node(self, n: NodeDef, name: str, opsets: dict[str, int]) -> Node:
        opset = opsets.get(n.domain)
        if opset is None:
            raise ModelError(f"the model imports no opset for the domain {n.domain!r}")
        if n.domain == "" and n.op_type in CONTROL:
            return self._control(n, name, opsets)
        has_graph = any(a.type in ("GRAPH", "GRAPHS") for a in n.attributes.values())
        known = (n.domain, n.op_type) in REGISTRY or self._old(n, opset)
        contributed = None if has_graph or (known and not n.domain) else find_contributed(n)
        if has_graph or not (known or contributed):
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

        def insert(op: Op, inputs: list[str], outputs: list[str] | None = None) -> str:
            label = self._fresh(f"{name}.{op.label}")
            outputs = outputs or [label]
            self.nodes.append(Node(op, list(inputs), outputs, label, (name,)))
            return outputs[0]

        draft = Draft(
            n.op_type, n.domain, list(n.inputs), list(n.outputs), attrs, opset, constant, insert,
            self.formats, self.consts.get, lambda stem: self._fresh(f"{name}.{stem}"), self.model,
            self.turned,
        )  # fmt: skip
        given = dict(attrs)
        if contributed is not None:
            fits(contributed, draft, n)
            op = make_op(contributed, attrs, n).rewrite(draft)  # type: ignore[attr-defined]
            self._spread(n.op_type, list(n.inputs), list(n.outputs), given)
            return Node(op, draft.inputs, draft.outputs, name, (name,))
        try:
            adapt(draft)
        except (ValueError, TypeError, OverflowError) as e:
            raise ModelError(f"an attribute has a wrong type or value: {e}") from None
        self._say_stored(draft)
        cls = REGISTRY.get((draft.domain, draft.op_type))
        if cls is None:
            return self._foreign(n, name, opsets)
        op = self._op(cls, draft, n)
        parts = getattr(op, "num_outputs", None)
        if parts is not None and parts != len(draft.outputs):
            raise ModelError(f"num_outputs is {parts}, but {len(draft.outputs)} outputs are named")
        fits(cls, draft, n)
        self._spread(n.op_type, draft.inputs, draft.outputs, given)
        return Node(op, draft.inputs, draft.outputs, name, (name,))

    def _say_stored(self, draft: Draft) -> None:
        """Say to what QuantizeLinear rounds where the dtype that holds it does not."""
        if (draft.domain, draft.op_type) != ("", "QuantizeLinear"):
            return
        from ..graph.ops.quant import STORED

        kind = draft.attrs.get("output_dtype") or self._element(draft.inputs[2:3])
        if kind in STORED and STORED[kind][0].itemsize > 1:
            return
        if kind:
            draft.attrs["output_dtype"] = kind
        if kind and kind not in STORED:
            draft.op_type, draft.domain = "QuantizeNarrow", "fastconv"

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

    def _spread(
        self, op_type: str, inputs: list[str], outputs: list[str], attrs: dict[str, Any]
    ) -> None:
        """Note element types that outputs have from inputs, or from an attribute."""
        giver = None if op_type in OWN_TYPE else TYPE_GIVER.get(op_type, 0)
        given = ("to", "output_dtype", "output_datatype", "dtype")
        code = next((attrs[k] for k in given if attrs.get(k)), None)
        if isinstance(value := attrs.get("value"), TensorDef):  # ConstantOfShape
            code = value.data_type
        if code is None and giver is not None and giver < len(inputs):
            code = self.formats.get(inputs[giver])
        if code in formats.NAMES:
            for o in outputs if op_type in ALL_OUTPUTS else outputs[:1]:
                if o:
                    self.formats.setdefault(o, code)

    def _control(self, n: NodeDef, name: str, opsets: dict[str, int]) -> Node:
        """If, Loop, Scan or SequenceMap: its subgraphs become graphs of their own."""
        from ..graph.ops.control import CONTROL as CLASSES

        cls = CLASSES[n.op_type]
        bodies: dict[str, Graph] = {}
        captured: dict[str, None] = {}
        settings: dict[str, Any] = {}
        for a in n.attributes.values():
            if a.ref_attr_name:
                raise ModelError(
                    f"attribute {a.name!r} refers to {a.ref_attr_name!r} outside a function"
                )
            if isinstance(a.value, GraphDef):
                inner = Builder(self.model, self.depth + 1)
                bodies[a.name], read = inner.body(a.value, opsets, self)
                captured.update(dict.fromkeys(read))
            else:
                settings[a.name] = a.value
        op = cls.make(bodies, settings, len(n.inputs), tuple(captured), opsets.get("", 1))
        for k, o in enumerate(n.outputs):
            code = op.output_format(k)
            if o and code is not None:
                self.formats.setdefault(o, code)
        return Node(op, [*n.inputs, *captured], list(n.outputs), name, (name,))

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
        known = {k: self.formats[k] for k in (*n.inputs, *extra) if k in self.formats}
        op = Foreign(n, self.model, dict(opsets), extra, known)
        attrs = {a.name: a.value for a in n.attributes.values() if a.type == "INT"}
        self._spread(n.op_type, list(n.inputs), list(n.outputs), attrs)
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
        from dataclasses import replace

        return replace(
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
        from dataclasses import replace

        outputs = [replace(v, name=inner.get(v.name, v.name)) for v in g.outputs]
        return replace(g, nodes=nodes, outputs=outputs)


def fits(cls: type[Op], draft: Draft, n: NodeDef) -> None:
    """Drop absent inputs at the end.

    Raises:
        ModelError: the operator has not that many inputs or outputs.
    """
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
        raise ModelError(f"{n.op_type} has at most {cls.n_outputs} outputs, got {list(n.outputs)}")


def find_contributed(n: NodeDef) -> Any:
    """How one of onnxruntime's own operators is rewritten, or None."""
    if n.domain and not n.domain.startswith("com.microsoft"):
        return None
    from .contrib import find

    return find(n.domain, n.op_type)


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
        if given is not None and given.value is value and given.type not in types:
            raise ModelError(f"attribute {name!r} is {given.type}, expected {' or '.join(types)}")
        values[name] = attr_value(name, value, kind)
    for name in required(cls):  # type: ignore[arg-type]
        if name not in values:
            raise ModelError(f"{n.op_type} needs an attribute {name!r}")
    return cls(**values)


def attr_value(name: str, v: Any, kind: str) -> Any:
    """An attribute's value as the Python type of its field."""
    if isinstance(v, TensorDef):
        return formats.widened(to_array(v))
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
