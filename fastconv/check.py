"""Everything that is wrong with a model, or that fastconv does not run, found in one go.

Loading a model stops at the first problem, as it must; this walks on past each of them. Nothing is
run: types and shapes are followed node by node, and what a broken node would give is taken from
what the file states of its outputs, where it does.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from .errors import (
    ExternalDataError,
    FastconvError,
    MemoryLimitError,
    OptionError,
    ShapeError,
    UnsupportedError,
)
from .feeds import concrete_shapes
from .graph import Graph, Node, Sym, TensorType
from .importer.build import MIN_OPSET, Builder, sort, value_type
from .importer.defs import Model as ModelDef
from .importer.defs import NodeDef, ValueDef
from .importer.foreign import LEAVE_OUT, Foreign
from .importer.proto import open_model
from .importer.tensors import numpy_dtype
from .inspect import NUMPY, examine, foreign_reason
from .model import TensorInfo, info, load
from .plan.plan import resolve
from .sizes import machine_memory
from .text import clean

Shapes = Mapping[str, Sequence[int]]
#: Levels, worst first: it cannot run; runs through onnx.reference; through NumPy; good to know.
ERROR, SLOW, PLAIN_NUMPY, NOTE = "error", "reference", "numpy", "note"

CONVERT = "convert it with onnx.version_converter, or export it again at a newer opset"
EXPORT = "the file contradicts itself: export the model again, and try onnx.checker on it"
#: What to do, by the kind of error; the first that fits.
ADVICE: tuple[tuple[type[FastconvError], str], ...] = (
    (ExternalDataError, "put the model's data file into its folder, under the name it is given"),
    (MemoryLimitError, "give smaller input shapes (--shape), or a larger memory limit"),
    (ShapeError, "try other input shapes (--shape); if none fits, export the model again"),
    (UnsupportedError, "export the model without it, or at another opset"),
    (OptionError, "give the shape with --shape NAME=1,3,224,224"),
    (FastconvError, EXPORT),
)


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, unsupported or slow.

    Attributes:
        level: ``error`` (the model cannot run), ``reference`` (it runs through onnx.reference),
            ``numpy`` (through NumPy, without a kernel) or ``note``.
        where: ``file``, ``input``, ``initializer``, ``node``, ``output`` or ``plan``.
        name: of the node or value, or None.
        op, domain, opset: of the node, or None.
        inputs: the node's inputs with dtype and shape, as text.
        reason: what is wrong.
        advice: what to do about it.
    """

    level: str
    where: str
    name: str | None
    op: str | None
    domain: str | None
    opset: int | None
    inputs: tuple[str, ...]
    reason: str
    advice: str

    def title(self) -> str:
        """What it is about, in a few words."""
        if self.op is None:
            return self.where if self.name is None else f"{self.where} {self.name!r}"
        label = f"{self.domain}.{self.op}" if self.domain else self.op
        return f"{self.where} {self.name!r} ({label}, opset {self.opset})"


@dataclass(frozen=True)
class Report:
    """What :func:`check` finds.

    Attributes:
        problems: worst first, then in the file's order.
        inputs: the shapes that were assumed, by name.
        notes: lines about sizes that nobody stated.
    """

    problems: tuple[Problem, ...]
    inputs: dict[str, tuple[int, ...]]
    notes: tuple[str, ...]

    @property
    def runs(self) -> bool:
        """Whether the model can run at all, as far as can be said without running it."""
        return not self.of(ERROR)

    @property
    def native(self) -> bool:
        """Whether it runs without onnx.reference."""
        return self.runs and not self.of(SLOW)

    def of(self, level: str) -> list[Problem]:
        """The problems of one level."""
        return [p for p in self.problems if p.level == level]

    def to_dict(self) -> dict[str, Any]:
        """The same as dictionaries, lists and plain values, for JSON."""
        problems = [asdict(p) for p in self.problems]
        return {"runs": self.runs, "native": self.native, "problems": problems}


def check(
    source: str | os.PathLike[str] | bytes | bytearray | memoryview,
    shapes: Shapes | Callable[[Sequence[TensorInfo]], Shapes] | None = None,
) -> Report:
    """Find everything that is wrong, unsupported or slow in a model, without running it.

    Args:
        source: path of an .onnx file, or its bytes.
        shapes: input shapes to check at by name, or a function that makes them from what is known
            of the inputs; sizes left open get defaults.

    Raises:
        OptionError: from that function alone.
    """
    checker = Checker()
    try:
        definition = open_model(source)
    except FastconvError as e:
        checker.error("file", None, e)
        return checker.report()
    checker.read(definition)
    checker.shapes(shapes(checker.infos) if callable(shapes) else shapes)
    if not any(p.level == ERROR for p in checker.problems):
        checker.plan(source)
    return checker.report()


class Checker:
    """Collects problems."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.sizes: dict[str, tuple[int, ...]] = {}
        self.notes: list[str] = []
        self.types: dict[str, TensorType] = {}
        self.known: dict[str, np.ndarray] = {}

    def report(self) -> Report:
        """What was found, worst first."""
        order = (ERROR, SLOW, PLAIN_NUMPY, NOTE)
        found = sorted(self.problems, key=lambda p: order.index(p.level))
        return Report(tuple(found), self.sizes, tuple(self.notes))

    def add(
        self,
        level: str,
        where: str,
        name: str | None,
        reason: str,
        advice: str,
        node: Node | NodeDef | None = None,
        opset: int | None = None,
    ) -> None:
        """Add a problem; of a node, with its operator and the shapes of its inputs."""
        op = domain = None
        inputs: tuple[str, ...] = ()
        if node is not None:
            op, domain = _operator(node)
            opset = self.definition.opset_import.get(domain) if opset is None else opset
            inputs = tuple(self._text(i) for i in node.inputs if i)
        self.problems.append(Problem(level, where, name, op, domain, opset, inputs, reason, advice))

    def error(
        self,
        where: str,
        name: str | None,
        e: FastconvError,
        node: Node | NodeDef | None = None,
        opset: int | None = None,
    ) -> None:
        """Add an exception, without the prefix that repeats the node."""
        reason, advice = str(e), next(a for kind, a in ADVICE if isinstance(e, kind))
        if reason.startswith("node ") and ": " in reason and node is not None:
            reason = reason.split("): ", 1)[-1].rsplit(" (inputs: ", 1)[0]
        self.add(ERROR, where, name, reason, advice, node, opset)

    def _text(self, name: str) -> str:
        array = self.known.get(name)
        t = self.types.get(name) if array is None else TensorType(array.dtype, array.shape)
        return f"{name} ?" if t is None else f"{name} {t}"

    # Reading.

    def read(self, definition: ModelDef) -> None:
        """The structure of the graph: nodes, constants, names."""
        self.definition = definition
        g = definition.graph
        opset = definition.opset_import.get("")
        if opset is None and any(n.domain == "" for n in g.nodes):
            reason = "the model names no opset for the ai.onnx domain (opset_import)"
            self.add(ERROR, "file", None, reason, EXPORT)
        if opset is not None and opset < MIN_OPSET:
            reason = f"the model uses opset {opset}; fastconv reads opset {MIN_OPSET} and newer"
            self.add(ERROR, "file", None, reason, CONVERT)
        builder = Collector(self)
        builder.collect()
        self.known = dict(builder.consts)
        self.graph = Graph(g.name, builder.nodes, [], [], builder.consts, {})
        self.broken, self.failed = builder.broken, builder.failed
        for v in (*g.value_infos, *g.outputs):
            if v.kind == "tensor" and v.elem_type is not None:
                self.graph.types.setdefault(v.name, self._stated(v))
        self._inputs(g.inputs)
        self._names([v.name for v in g.outputs])

    def _stated(self, v: ValueDef) -> TensorType:
        try:
            return value_type(v)
        except FastconvError as e:
            self.error("value", v.name, e)
            return TensorType(None, None)

    def _inputs(self, values: Iterable[ValueDef]) -> None:
        self.infos: list[TensorInfo] = []
        for v in values:
            if v.name in self.known or v.name in self.broken:
                continue
            if v.kind != "tensor":
                reason = f"it is a {v.kind}; only tensors can be fed"
                self.add(ERROR, "input", v.name, reason, "export the model with tensors as inputs")
            elif v.elem_type is None:
                self.add(ERROR, "input", v.name, "it has no element type", EXPORT)
            else:
                t = self._stated(v)
                self.graph.types[v.name] = t
                self.infos.append(info(v.name, t))
            self.graph.inputs.append(v.name)

    def _names(self, outputs: Sequence[str]) -> None:
        """Every value is defined once, and before it is used."""
        graph = self.graph
        made: dict[str, Node] = {}
        given = {*graph.inputs, *self.known, *self.broken}
        self.missing: dict[int, list[str]] = {}
        for node in graph.nodes:
            for name in node.outputs:
                if name and (name in made or name in given):
                    reason = f"it writes {name!r}, which is already defined"
                    self.add(ERROR, "node", node.name, reason, EXPORT, node)
                made.setdefault(name, node)
        for node in graph.nodes:
            for name in dict.fromkeys(node.inputs):
                if name and name not in made and name not in given:
                    self.missing.setdefault(id(node), []).append(name)
        for name in outputs:
            if name not in made and name not in given:
                self.add(ERROR, "output", name, "no node computes it", EXPORT)
        if not outputs:
            self.add(ERROR, "file", None, "the graph has no outputs", EXPORT)
        try:
            loose = [i for n in graph.nodes for i in n.inputs if i not in made]
            graph.nodes = sort(graph.nodes, self.known, [*graph.inputs, *loose])
        except FastconvError as e:
            self.error("file", None, e)
        graph.outputs = list(outputs)

    # Types and shapes.

    def shapes(self, given: Shapes | None) -> None:
        """Follow types and shapes through the graph, past nodes that do not fit."""
        graph = self.graph
        model: Any = SimpleNamespace(inputs=self.infos, metadata=dict(self.definition.metadata))
        try:
            self.sizes, self.notes = concrete_shapes(model, given)
        except OptionError as e:
            self.error("input", None, e)
        symbols: dict[str, int] = {}
        for i in self.infos:
            if i.name in self.sizes:
                self.types[i.name] = TensorType(i.dtype, self.sizes[i.name])
                pairs = zip(i.shape or (), self.sizes[i.name], strict=False)
                symbols |= {d: n for d, n in pairs if isinstance(d, str)}
        limit, late, blocked = machine_memory(), [], []
        lost = {name for name in self.broken if name not in self.types}
        for node in graph.nodes:
            for name in self.missing.get(id(node), ()):
                reason = f"it reads {name!r}, which is no input, constant or node's output"
                self.add(ERROR, "node", node.name, reason, EXPORT, node)
            if id(node) in self.failed:
                why, n, opset = self.failed[id(node)]
                self.error("node", node.name, why, n, opset)
                lost |= self._take_stated(node, symbols)
                continue
            if isinstance(node.op, Foreign):
                self._foreign(node, node.op)
                lost |= self._take_stated(node, symbols)
                continue
            if id(node) in self.missing or lost.intersection(node.inputs):
                blocked += [] if id(node) in self.missing else [node]
                lost |= self._take_stated(node, symbols)
                continue
            alone = Graph("", [node], [], [], {}, {})
            try:
                _, waiting = resolve(alone, self.types, self.known, limit)
            except FastconvError as e:
                self.error("node", node.name, e, node)
                lost |= self._take_stated(node, symbols)
                continue
            if waiting:
                late.append(node)
                self._take_stated(node, symbols)
            else:
                self._compare(node, symbols)
        self._unchecked(blocked, "these read what one of the above gives, of unknown shape")
        self._unchecked(late, "the shapes of these depend on data, or follow from such")

    def _unchecked(self, nodes: Sequence[Node], why: str) -> None:
        if nodes:
            names = ", ".join(repr(n.name) for n in nodes[:5])
            more = f" and {len(nodes) - 5} more" if len(nodes) > 5 else ""
            reason = f"{why}, so that their own could not be checked: {names}{more}"
            self.add(NOTE, "plan", None, reason, "check again when all else is right, or run it")

    def _take_stated(self, node: Node, symbols: Mapping[str, int]) -> set[str]:
        """Go on with what the file states of a node's outputs; those that it does not state."""
        for name in node.outputs:
            t = _at(self.graph.types.get(name), symbols)
            if name and t is not None and t.static and name not in self.types:
                self.types[name] = t
        return {o for o in node.outputs if o and o not in self.types}

    def _compare(self, node: Node, symbols: Mapping[str, int]) -> None:
        """The file's statement about an output, against what its node gives."""
        for name in node.outputs:
            stated, found = _at(self.graph.types.get(name), symbols), self.types.get(name)
            if stated is None or found is None or stated.shape is None or found.shape is None:
                continue
            fits = len(stated.shape) == len(found.shape) and all(
                not isinstance(a, int) or a == b
                for a, b in zip(stated.shape, found.shape, strict=True)
            )
            if not fits or stated.dtype not in (None, found.dtype):
                reason = f"the file says that {name!r} is {stated}, but the node gives {found}"
                self.add(NOTE, "node", node.name, reason, "nothing: what is computed counts", node)

    def _foreign(self, node: Node, op: Foreign) -> None:
        opset = op.opsets.get(op.node.domain)
        try:
            op._make_session()
        except FastconvError as e:
            if op.node.domain:
                advice = LEAVE_OUT
            else:
                advice = next(a for kind, a in ADVICE if isinstance(e, kind))
            if "pip install" in str(e):
                advice = "pip install 'fastconv[onnx]'"
            reason = f"{foreign_reason(op)}; {str(e).removeprefix(op.label + ': ')}"
            self.add(ERROR, "node", node.name, reason, advice, node, opset)
            return
        reason = f"{foreign_reason(op)}: it runs through onnx.reference, which is slow"
        advice = "export the model without it if it matters for speed"
        self.add(SLOW, "node", node.name, reason, advice, node, opset)

    # Planning.

    def plan(self, source: Any) -> None:
        """Load and plan the model, which looks sound, to see what has no kernel."""
        try:
            model = load(source, fallback="allow")
            study = examine(model, model.prepare(self.sizes).plan)
        except FastconvError as e:
            self.error("plan", None, e)
            return
        for node in model.graph.nodes:
            runs, _, reason = study(node)
            if runs != NUMPY or reason is None or "depends on data" in reason:
                continue
            floats = [self.types[i].dtype for i in node.inputs if i in self.types]
            odd = any(d is not None and d.kind == "f" and d != np.float32 for d in floats)
            advice = "convert the model to float32" if odd else "nothing, unless it takes long"
            self.add(PLAIN_NUMPY, "node", node.name, reason, advice, node)


class Collector(Builder):
    """A builder of graphs that notes what is wrong and goes on.

    Attributes:
        broken: names of initializers that cannot be read.
        failed: id of a placeholder → the error, the node that it stands for, and its opset.
    """

    def __init__(self, checker: Checker) -> None:
        super().__init__(checker.definition)
        self.checker = checker
        self.broken: set[str] = set()
        self.failed: dict[int, tuple[FastconvError, NodeDef, int | None]] = {}

    def collect(self) -> None:
        """Read constants and nodes."""
        g = self.model.graph
        self.names = self._all_names(g)
        for name, t in (*g.initializers.items(), *g.sparse_initializers.items()):
            try:
                self.consts[name] = self._read(name, t)
            except FastconvError as e:
                self.broken.add(name)
                self.checker.error("initializer", name, e)
                self._stated(name, t)
        for n in g.nodes:
            self._add(n, self.model.opset_import, 0)

    def _read(self, name: str, value: Any) -> np.ndarray:
        from .importer.tensors import sparse_to_array, to_array

        dense = name in self.model.graph.initializers
        return (to_array if dense else sparse_to_array)(value, self.model)

    def _stated(self, name: str, t: Any) -> None:
        """Its type, if that much is sound, so that shapes can be followed all the same."""
        try:
            self.checker.types[name] = TensorType(numpy_dtype(t.data_type), tuple(t.dims))
        except (FastconvError, AttributeError):
            pass

    def _add(self, n: NodeDef, opsets: dict[str, int], depth: int) -> None:
        try:
            super()._add(n, opsets, depth)
        except FastconvError as e:
            name = n.name or f"{n.op_type}_{len(self.nodes)}"
            outputs = [o for o in n.outputs if o and o not in self.consts]
            node = Node(Foreign(n, self.model, {}), list(n.inputs), outputs, name, (name,))
            self.nodes.append(node)
            self.failed[id(node)] = (e, n, opsets.get(n.domain))


def _operator(node: Node | NodeDef) -> tuple[str, str]:
    """A node's operator and domain, as the file has them where that is known."""
    if isinstance(node, NodeDef):
        return node.op_type, node.domain
    if isinstance(node.op, Foreign):
        return node.op.node.op_type, node.op.node.domain
    return node.op.label, node.op.domain


def _at(t: TensorType | None, symbols: Mapping[str, int]) -> TensorType | None:
    """A stated type with the sizes that its symbols have."""
    if t is None or t.shape is None:
        return t
    shape = tuple(symbols.get(str(d), d) if isinstance(d, Sym) else d for d in t.shape)
    return TensorType(t.dtype, shape)


def lines(report: Report) -> list[str]:
    """The report as text: for every problem what it is, the shapes, the reason and what to do.

    Problems of several nodes or values that are alike but for the name are put together.
    """
    groups: dict[tuple[Any, ...], list[Problem]] = {}
    for p in report.problems:
        reason = p.reason.replace(repr(p.name), "…") if p.name else p.reason
        alike = (p.level, p.where, p.op, p.domain, p.opset, reason, p.advice)
        groups.setdefault(alike, []).append(p)
    found = []
    for same in groups.values():
        first, rest = same[0], same[1:]
        found.append(f"{first.level}: {first.title()}")
        if rest:
            names = ", ".join(repr(p.name) for p in rest[:4])
            more = f" and {len(rest) - 4} more" if len(rest) > 4 else ""
            found.append(f"  also    {names}{more}")
        if first.inputs:
            found.append(f"  inputs  {', '.join(first.inputs)}")
        found.append(f"  what    {first.reason}")
        found.append(f"  do      {first.advice}")
    return [clean(line) for line in found]


def summary(report: Report) -> str:
    """The answer in a line."""
    counts = [
        (len(report.of(ERROR)), "error", "errors"),
        (len(report.of(SLOW)), "node through onnx.reference", "nodes through onnx.reference"),
        (len(report.of(PLAIN_NUMPY)), "node through NumPy", "nodes through NumPy"),
    ]
    found = ", ".join(f"{n} {one if n == 1 else many}" for n, one, many in counts if n)
    if not report.runs:
        return f"cannot run: {found}"
    if not report.native:
        return f"runs, but not all of it natively: {found}"
    return f"every operator runs natively{f' ({found})' if found else ''}"


__all__ = ["Checker", "Problem", "Report", "check", "lines", "summary"]
