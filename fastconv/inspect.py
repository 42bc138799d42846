"""What a model is made of: one row per layer, with the textbook's quantities and what runs it.

Parameters, multiply-accumulates and receptive fields are those of the model as the file has it;
kernels and fusions are those of the plan that would run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from . import text
from .errors import FastconvError
from .feeds import concrete_shapes, random_feeds
from .graph import Graph, Node, SymbolicError, TensorType
from .importer.foreign import Foreign
from .plan.plan import resolve as resolve_types
from .receptive import attribute, receptive_fields, window_of
from .sizes import machine_memory

if TYPE_CHECKING:
    from .model import Model
    from .plan import Plan

#: Inputs that hold learned parameters, by operator.
PARAMETERS: dict[str, tuple[int, ...]] = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "DeformConv": (1, 3),
    "Gemm": (0, 1, 2),
    "MatMul": (0, 1),
    "Einsum": (0, 1, 2, 3),
    "PRelu": (1,),
    "BatchNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "GroupNormalization": (1, 2),
    "RMSNormalization": (1,),
    "LSTM": (1, 2, 3, 7),
    "GRU": (1, 2, 3),
    "RNN": (1, 2, 3),
    "ConvInteger": (1,),
    "MatMulInteger": (0, 1),
    "QLinearConv": (3, 8),
    "QLinearMatMul": (0, 3),
    "Gather": (0,),
}
#: Operators whose constant operand is a parameter if it has more than one element.
ARITHMETIC = frozenset({"Add", "Sub", "Mul", "Div", "Pow", "Scale"})
#: Where products have their two operands.
PRODUCTS = {
    "Conv": (0, 1),
    "ConvTranspose": (0, 1),
    "DeformConv": (0, 1),
    "ConvInteger": (0, 1),
    "QLinearConv": (0, 3),
    "Gemm": (0, 1),
    "MatMul": (0, 1),
    "MatMulInteger": (0, 1),
    "QLinearMatMul": (0, 3),
}
NATIVE, NUMPY, REFERENCE, VIEW, CONSTANT = "native", "numpy", "onnx.reference", "view", "constant"


@dataclass(frozen=True)
class Source:
    """A node of the file: its name and operator."""

    name: str
    op: str


@dataclass(frozen=True)
class Layer:
    """One node of the graph that runs.

    Attributes:
        name: the node's name.
        op: its operators joined by ``+`` when several were fused.
        sources: the nodes of the file that it stands for.
        kernel_shape, strides, dilations: sizes per spatial axis (height before width), or None.
        pads: begin pads of every axis, then end pads, or None.
        group: groups of a convolution, or None.
        output_shape: shape of the first output, in ONNX's order, or None when not known.
        volume: the first output of one image as [width, height, depth], or None.
        parameters: weights and biases as the file has them.
        parameters_per_filter: those of one filter or output unit, or None.
        macs: multiply-accumulates, padding included, additions of biases not.
        receptive_field: pixels of the input, per spatial axis, that reach one output element
            (padding included); None without spatial axes.
        runs: ``native`` (kernels), ``numpy``, ``onnx.reference``, ``view`` (no work) or
            ``constant`` (computed once, when planning).
        kernels: names of the steps that run it.
        reason: why no kernel runs it, or None.
    """

    name: str
    op: str
    sources: tuple[Source, ...]
    kernel_shape: tuple[int, ...] | None
    strides: tuple[int, ...] | None
    dilations: tuple[int, ...] | None
    pads: tuple[int, ...] | None
    group: int | None
    output_shape: tuple[int, ...] | None
    volume: tuple[int, ...] | None
    parameters: int
    parameters_per_filter: int | None
    macs: int
    receptive_field: tuple[int, ...] | None
    runs: str
    kernels: tuple[str, ...]
    reason: str | None


@dataclass(frozen=True)
class Totals:
    """Sums over a model.

    Attributes:
        layers: nodes of the graph that runs.
        nodes: nodes in the file.
        parameters: weights and biases; one that several layers share counts once.
        macs: multiply-accumulates of one run.
        arena_bytes: activations of one run, after sharing of memory.
        runs: number of layers by ``Layer.runs``.
    """

    layers: int
    nodes: int
    parameters: int
    macs: int
    arena_bytes: int
    runs: dict[str, int]


@dataclass(frozen=True)
class Description:
    """What :func:`describe` finds.

    Attributes:
        inputs, outputs: name → shape.
        opset: version of the ai.onnx operator set.
        layers: one per node of the graph that runs.
        totals: sums.
        notes: lines about sizes that nobody stated, and the like.
        tuned: the file of tuned choices and how many of them are in use, or None.
    """

    inputs: dict[str, tuple[int, ...]]
    outputs: dict[str, tuple[int, ...] | None]
    opset: int
    layers: list[Layer]
    totals: Totals
    notes: list[str] = field(default_factory=list)
    tuned: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The same as dictionaries, lists and plain values, for JSON."""
        return asdict(self)


def describe(model: Model, shapes: Mapping[str, Sequence[int]] | None = None) -> Description:
    """Describe a model at these input shapes; sizes left open get the defaults of
    :func:`concrete_shapes`.

    A model whose shapes depend on data, or that needs ``onnx.reference``, is run once on random
    numbers to learn them.

    Raises:
        OptionError, InputError: ``shapes`` does not fit the model.
        ShapeError: shapes in the graph do not fit together.
    """
    return study(model, shapes)[0]


def study(
    model: Model, shapes: Mapping[str, Sequence[int]] | None = None
) -> tuple[Description, dict[str, TensorType]]:
    """As :func:`describe`, and the type of every value that is known."""
    sizes, notes = concrete_shapes(model, shapes)
    plans: list[Plan] = [model.prepare(sizes).plan]
    types: dict[str, TensorType] = {}
    if plans[0].eager:
        try:
            plans = _run_once(model, sizes, types)
        except FastconvError as e:
            notes.append(f"shapes that depend on data are not known: {e}")
    for plan in plans:
        types.update(plan.types)
    facts = _Facts(model.original, model.inputs, sizes, types)
    runs = _Runs(plans, types)
    layers = [_layer(node, facts, runs, types) for node in model.graph.nodes]
    counts: dict[str, int] = {}
    for layer in layers:
        counts[layer.runs] = counts.get(layer.runs, 0) + 1
    totals = Totals(
        layers=len(layers),
        nodes=len(model.original.nodes),
        parameters=facts.all_parameters(),
        macs=sum(facts.macs(n) for n in model.original.nodes),
        arena_bytes=max(p.arena_size for p in plans),
        runs=counts,
    )
    outputs = {o.name: facts.shape(o.name) or _static(types.get(o.name)) for o in model.outputs}
    tuned = None
    if model.tuned is not None:
        tuned = f"{model.tuned.path} ({len(model._engine.choices.used)} choices in use)"
    return Description(sizes, outputs, model.opset, layers, totals, notes, tuned), types


def _run_once(
    model: Model, sizes: Mapping[str, Sequence[int]], types: dict[str, TensorType]
) -> list[Plan]:
    """The plans of every part of one run; adds the outputs' types to ``types``."""
    parts: list[Any] = []
    outputs = model.run_checked(model.check_feeds(random_feeds(model, sizes)), parts)
    for name, array in outputs.items():
        if isinstance(array, np.ndarray):
            types[name] = TensorType(array.dtype, array.shape)
    return [plan for plan, _ in parts]


def _static(t: TensorType | None) -> tuple[int, ...] | None:
    return None if t is None or not t.static else tuple(int(d) for d in t.shape or ())  # type: ignore[arg-type]


class _Facts:
    """The textbook's quantities of the nodes as the file has them."""

    def __init__(
        self,
        graph: Graph,
        inputs: Iterable[Any],
        sizes: Mapping[str, Sequence[int]],
        found: Mapping[str, TensorType],
    ) -> None:
        self.graph = graph
        self.types: dict[str, TensorType] = {n: t for n, t in found.items() if t.static}
        self.types |= {
            i.name: TensorType(graph.types[i.name].dtype, tuple(sizes[i.name])) for i in inputs
        }
        self.known: dict[str, np.ndarray] = dict(graph.consts)
        resolve_types(graph, self.types, self.known, machine_memory())
        self.fields = receptive_fields(graph, self.shape, self.known)
        self.by_name: dict[str, list[Node]] = {}
        for n in graph.nodes:
            self.by_name.setdefault(n.name, []).append(n)

    def shape(self, name: str) -> tuple[int, ...] | None:
        """A value's shape, or None when not known."""
        if name in self.known:
            return tuple(self.known[name].shape)
        return _static(self.types.get(name))

    def nodes(self, names: Iterable[str]) -> list[Node]:
        """The file's nodes of these names (where several share one, each is given once)."""
        found = []
        for name in names:
            same = self.by_name.get(name, [])
            if same:
                found.append(same.pop(0) if len(same) > 1 else same[0])
        return found

    def parameters(self, node: Node) -> dict[str, int]:
        """A node's learned inputs: name → number of elements."""
        op = node.op.label
        found = {}
        for k, name in enumerate(node.inputs):
            array = self.known.get(name) if name else None
            if array is None or array.dtype == object:
                continue
            real = array.dtype.kind == "f"
            operand = op in ARITHMETIC and real and array.size > 1
            if operand or (k in PARAMETERS.get(op, ()) and (real or op != "Gather")):
                found[name] = array.size
        return found

    def per_filter(self, node: Node) -> int | None:
        """Parameters of one filter of a convolution, or of one output of a dense layer."""
        op = node.op.label
        weight = self.known.get(node.inputs[1]) if len(node.inputs) > 1 else None
        if weight is None or weight.ndim < 2 or op not in ("Conv", "ConvTranspose", "Gemm"):
            return None
        if op == "Conv":
            filters = weight.shape[0]
        elif op == "Gemm":
            filters = weight.shape[0] if attribute(node.op, "transB") else weight.shape[1]
        else:
            filters = weight.shape[1] * (attribute(node.op, "group") or 1)
        bias = len(node.inputs) > 2 and self.known.get(node.inputs[2]) is not None
        return weight.size // max(1, filters) + int(bias)

    def all_parameters(self) -> int:
        """All learned elements, each counted once."""
        found: dict[str, int] = {}
        for node in self.graph.nodes:
            if not all(o in self.known for o in node.outputs if o):
                found |= self.parameters(node)
        return sum(found.values())

    def macs(self, node: Node) -> int:
        """Multiply-accumulates of a node; 0 for what is no product, or of unknown shape."""
        op = node.op.label
        if all(o in self.known for o in node.outputs if o):
            return 0
        if op in ("LSTM", "GRU", "RNN"):
            x, w, r = (self.shape(i) for i in node.inputs[:3])
            return 0 if not (x and w and r) else x[0] * x[1] * (prod(w) + prod(r))
        if op == "Einsum":
            return self._einsum(node)
        if op not in PRODUCTS:
            return 0
        a, b = (self.shape(node.inputs[k]) for k in PRODUCTS[op])
        y = self.shape(node.outputs[0])
        if a is None or b is None or y is None:
            return 0
        if op == "ConvTranspose":
            return prod(a) * prod(b[1:])
        if "Conv" in op:
            return prod(y) * prod(b[1:])
        if op == "Gemm":
            return prod(y) * (a[0] if attribute(node.op, "transA") else a[1])
        return prod(y) * (a[-1] if a else 0)

    def _einsum(self, node: Node) -> int:
        equation = str(attribute(node.op, "equation")).replace(" ", "")
        terms, shapes = equation.split("->")[0].split(","), [self.shape(i) for i in node.inputs]
        sizes: dict[str, int] = {}
        for term, shape in zip(terms, shapes, strict=False):
            if shape is None or "." in term:
                return 0
            sizes |= dict(zip(term, shape, strict=False))
        return prod(sizes.values()) if len(terms) > 1 else 0


class _Runs:
    """What the plans do with every node."""

    def __init__(self, plans: Iterable[Plan], types: Mapping[str, TensorType]) -> None:
        self.types = types
        self.steps: dict[int, list[str]] = {}
        self.eager: set[int] = set()
        self.seen: set[str] = set()
        for plan in plans:
            self.eager |= {id(n) for n in plan.eager}
            self.seen |= plan.types.keys()
            for s in plan.steps:
                if s.node is not None:
                    self.steps.setdefault(id(s.node), []).append(s.kernel)

    def of(self, node: Node) -> tuple[str, tuple[str, ...], str | None]:
        """(runs, names of the steps, reason) of a node."""
        if isinstance(node.op, Foreign):
            return REFERENCE, (), foreign_reason(node.op)
        names = tuple(dict.fromkeys(self.steps.get(id(node), ())))
        if any(n.startswith("numpy:") for n in names):
            given = ", ".join(str(self.types[i]) for i in node.inputs if i in self.types)
            return NUMPY, names, f"no kernel for this form of it, on {given or 'constants'}"
        if names:
            return NATIVE, names, None
        if id(node) in self.eager:
            return NUMPY, (eager_kernel(node),), "its output's shape depends on data"
        return (VIEW if node.outputs[0] in self.seen else CONSTANT), (), None


def examine(model: Model, plan: Plan) -> Callable[[Node], tuple[str, tuple[str, ...], str | None]]:
    """What a plan of the model does with a node: (``Layer.runs``, names of the steps, reason)."""
    return _Runs([plan], plan.types).of


def eager_kernel(node: Node) -> str:
    """What stands for the kernel of a node that runs in Python after a plan's steps."""
    return REFERENCE if isinstance(node.op, Foreign) else f"numpy:{node.op.label}"


def foreign_reason(op: Foreign) -> str:
    """Why an operator runs through ``onnx.reference``."""
    if any(a.type in ("GRAPH", "GRAPHS") for a in op.node.attributes.values()):
        return "it has a subgraph, which fastconv does not plan"
    if op.node.domain:
        return f"fastconv has no operators of the domain {op.node.domain!r}"
    return f"fastconv has no kernel for {op.node.op_type}"


def _layer(node: Node, facts: _Facts, runs: _Runs, types: Mapping[str, TensorType]) -> Layer:
    sources = facts.nodes(node.sources or (node.name,))
    mode, kernels, reason = runs.of(node)
    value = next((o for o in node.outputs if o), "")
    shape = _static(types.get(value)) or facts.shape(value)
    try:
        window = window_of(node, facts.shape)
    except (FastconvError, SymbolicError):
        window = None
    parameters: dict[str, int] = {}
    for n in sources:
        parameters |= facts.parameters(n)
    labels = [n.op.label for n in sources] or [node.op.label]
    filters = [p for p in map(facts.per_filter, sources) if p is not None]
    group = attribute(node.op, "group")
    return Layer(
        name=node.name,
        op="+".join(labels),
        sources=tuple(Source(n.name, n.op.label) for n in sources),
        kernel_shape=None if window is None else tuple(window.kernel_shape),
        strides=None if window is None else tuple(window.strides),
        dilations=None if window is None else tuple(window.dilations),
        pads=None if window is None else tuple(window.pads),
        group=group if isinstance(group, int) else None,
        output_shape=shape,
        volume=volume(shape),
        parameters=0 if mode == CONSTANT else sum(parameters.values()),
        parameters_per_filter=filters[0] if len(filters) == 1 else None,
        macs=sum(map(facts.macs, sources)),
        receptive_field=facts.fields.get(value),
        runs=mode,
        kernels=kernels,
        reason=reason,
    )


def volume(shape: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """One image's part of an output as (width, height, ..., depth); None when it has no such form.

    [N, C, H, W] is (W, H, C) and [N, C] is (1, 1, C).
    """
    if shape is None or len(shape) < 2:
        return None
    if len(shape) == 2:
        return (1, 1, shape[1])
    return (*reversed(shape[2:]), shape[1])


def pad_text(pads: Sequence[int] | None) -> str:
    """Pads as people write them: ``2``, ``1×3`` (height × width), or ``0,0:1,1`` (begin:end)."""
    if pads is None:
        return ""
    half = len(pads) // 2
    begin, end = pads[:half], pads[half:]
    if tuple(begin) != tuple(end):
        return ",".join(map(str, begin)) + ":" + ",".join(map(str, end))
    return str(begin[0]) if len(set(begin)) == 1 else text.times(begin)


def side_text(sizes: Sequence[int] | None) -> str:
    """Sizes along the spatial axes: one number when all are equal."""
    if not sizes:
        return ""
    return str(sizes[0]) if len(set(sizes)) == 1 else text.times(sizes)


HEADERS = (
    "layer", "op", ">kernel", ">stride", ">pad", ">output W×H×D", ">params", ">per filter",
    ">MACs", ">field", "runs as",
)  # fmt: skip


def rows(d: Description) -> list[list[str]]:
    """The cells of the table under ``HEADERS``."""
    result = []
    for y in d.layers:
        result.append(
            [
                y.name,
                y.op,
                text.times(y.kernel_shape),
                side_text(y.strides),
                pad_text(y.pads),
                text.times(y.volume) if y.volume else text.times(y.output_shape),
                text.count(y.parameters) if y.parameters else "",
                text.count(y.parameters_per_filter),
                text.count(y.macs) if y.macs else "",
                text.times(y.receptive_field),
                ", ".join(y.kernels) or y.runs,
            ]
        )
    return result


def footer(d: Description) -> list[str]:
    """The lines below the table: totals, and every layer without a kernel with the reason."""
    t = d.totals
    runs = ", ".join(f"{n} {kind}" for kind, n in t.runs.items())
    lines = [
        f"{t.layers} layers from {t.nodes} nodes (opset {d.opset}): {runs}",
        f"parameters {t.parameters:,}; multiply-accumulates {t.macs:,}; "
        f"activations {text.memory(t.arena_bytes)}",
    ]
    if d.tuned is not None:
        lines.append(f"tuned: {text.clean(d.tuned)}")
    for y in d.layers:
        if y.reason is not None:
            lines.append(f"{text.clean(y.name)} ({y.op}) runs as {y.runs}: {y.reason}")
    return lines


def heading(d: Description) -> str:
    """The line above the table: input and output shapes."""

    def part(values: Mapping[str, Sequence[int] | None]) -> str:
        return ", ".join(
            f"{text.clean(n)} [{'?' if s is None else ', '.join(map(str, s))}]"
            for n, s in values.items()
        )

    return f"{part(d.inputs)} -> {part(d.outputs)}"


def render(d: Description) -> str:
    """The description as plain text: a heading, a table of layers and totals."""
    return "\n".join([heading(d), "", text.table(HEADERS, rows(d)), "", *footer(d), *d.notes])
