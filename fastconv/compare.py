"""Compare a model's values with another engine's, and find the first node that differs.

Needs the onnx package, which is imported on use.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import FastconvError, OptionError, UnsupportedError
from .formats import FLOAT16, NAMES, narrowed
from .graph import Graph
from .passes import PIPELINE, optimize
from .runtime.engine import Engine

if TYPE_CHECKING:
    from .model import Model

#: Largest model that protobuf can write out whole.
MAX_PROTO = 2**31 - 1


@dataclass(frozen=True)
class Difference:
    """How far apart two arrays of one name are.

    Attributes:
        name, shape, dtype: of our array.
        absolute: largest absolute difference; None where the arrays cannot be compared.
        relative: the same divided by the largest magnitude of the other array (by 1 if that is 0).
        problem: why they cannot be compared, or where only one holds NaN or infinity; else None.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    absolute: float | None
    relative: float | None
    problem: str | None = None

    def exceeds(self, tolerance: float) -> bool:
        """Whether the difference is more than a part ``tolerance`` of the magnitude."""
        return self.problem is not None or (self.relative or 0.0) > tolerance

    def to_dict(self, tolerance: float) -> dict[str, Any]:
        return {**asdict(self), "ok": not self.exceeds(tolerance)}


def difference(name: str, ours: Any, theirs: Any) -> Difference:
    """Compare two arrays. Equal infinities, and NaN in the same places, are no difference."""
    if theirs is None:
        return Difference(name, (), "", None, None, "the other engine has no such output")
    if isinstance(ours, list) or isinstance(theirs, list):
        return _sequence(name, ours, theirs)
    a, b = np.asarray(ours), np.asarray(theirs)
    found = (name, tuple(a.shape), str(a.dtype))
    if a.shape != b.shape:
        return Difference(*found, None, None, f"shape {list(a.shape)} against {list(b.shape)}")
    if a.dtype != b.dtype:
        return Difference(*found, None, None, f"dtype {a.dtype} against {b.dtype}")
    if a.dtype.kind not in "fiubc":
        same = bool((a == b).all())
        return Difference(*found, None if not same else 0.0, None, None if same else "text differs")
    wide = np.complex128 if a.dtype.kind == "c" else np.float64
    x, y = a.astype(wide), b.astype(wide)
    with np.errstate(all="ignore"):
        same = (x == y) | (np.isnan(x) & np.isnan(y))
        finite = np.isfinite(x) & np.isfinite(y)
        gap = np.where(same, 0.0, np.abs(x - y))
        apart = gap[finite | same]
        magnitude = np.abs(y[np.isfinite(y)])
    absolute = float(apart.max()) if apart.size else 0.0
    scale = float(magnitude.max()) if magnitude.size else 0.0
    odd = int((~finite & ~same).sum())
    problem = f"{odd} elements are NaN or infinite in one alone" if odd else None
    return Difference(*found, absolute, absolute / (scale or 1.0), problem)


def _sequence(name: str, ours: Any, theirs: Any) -> Difference:
    if not (isinstance(ours, list) and isinstance(theirs, list)) or len(ours) != len(theirs):
        return Difference(name, (), "sequence", None, None, "sequences of different lengths")
    parts = [difference(name, a, b) for a, b in zip(ours, theirs, strict=True)]
    worst = max(parts, key=lambda d: (d.problem is not None, d.relative or 0.0), default=None)
    if worst is None:
        return Difference(name, (0,), "sequence", 0.0, 0.0)
    return Difference(name, (len(ours),), "sequence", worst.absolute, worst.relative, worst.problem)


class Other:
    """Another engine: runs a model file on arrays, and can give every value inside."""

    name = ""

    def run(self, path: str, feeds: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """The outputs of the model in a file, by name.

        Raises:
            UnsupportedError: the engine cannot run the model.
        """
        return self.run_proto(path, _load(path), feeds)

    def run_all(
        self, path: str, feeds: Mapping[str, np.ndarray], names: Sequence[str]
    ) -> dict[str, Any]:
        """The values of these names, from a model that has them all as outputs."""
        model = _load(path)
        have = {o.name for o in model.graph.output}
        made = {o for n in model.graph.node for o in n.output if o}
        for name in names:
            if name in made and name not in have:
                model.graph.output.add().name = name
        return self.run_proto(path, model, feeds)

    def run_proto(self, path: str, model: Any, feeds: Mapping[str, np.ndarray]) -> dict[str, Any]:
        raise NotImplementedError


class Reference(Other):
    """``onnx.reference`` of the onnx package."""

    name = "onnx.reference"

    def run_proto(self, path: str, model: Any, feeds: Mapping[str, np.ndarray]) -> dict[str, Any]:
        from onnx.reference import ReferenceEvaluator

        names = [o.name for o in model.graph.output]
        codes = {i.name: i.type.tensor_type.elem_type for i in model.graph.input}
        try:
            with np.errstate(all="ignore"):
                results = ReferenceEvaluator(model).run(names, _narrow(feeds, codes))
        except Exception as e:
            raise UnsupportedError(f"onnx.reference cannot run the model: {_line(e)}") from e
        return dict(zip(names, map(_array, results), strict=True))


class OnnxRuntime(Other):
    """onnxruntime on the CPU."""

    name = "onnxruntime"

    def run(self, path: str, feeds: Mapping[str, np.ndarray]) -> dict[str, Any]:
        return self._run(os.fspath(path), feeds)

    def run_proto(self, path: str, model: Any, feeds: Mapping[str, np.ndarray]) -> dict[str, Any]:
        if model.ByteSize() > MAX_PROTO:
            raise UnsupportedError("the model is too large to be given new outputs")
        return self._run(model.SerializeToString(), feeds)

    def _run(self, source: Any, feeds: Mapping[str, np.ndarray]) -> dict[str, Any]:
        import onnxruntime  # type: ignore[import-untyped]

        try:
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 3
            session = onnxruntime.InferenceSession(
                source, options, providers=["CPUExecutionProvider"]
            )
            names = [o.name for o in session.get_outputs()]
            codes = {i.name: FLOAT16 for i in session.get_inputs() if i.type == "tensor(float16)"}
            return dict(zip(names, session.run(names, _narrow(feeds, codes)), strict=True))
        except Exception as e:
            raise UnsupportedError(f"onnxruntime cannot run the model: {_line(e)}") from e


def _narrow(feeds: Mapping[str, Any], codes: Mapping[str, int]) -> dict[str, Any]:
    """Arrays in the element types of the file, where fastconv holds them in wider ones."""
    return {n: narrowed(a, c) if (c := codes.get(n)) in NAMES else a for n, a in feeds.items()}


def _line(error: Exception) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]


def _array(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value


def _load(path: str) -> Any:
    import onnx

    try:
        return onnx.load(path)
    except Exception as e:
        raise UnsupportedError(f"the onnx package cannot read the model: {_line(e)}") from e


def engine(name: str | None) -> Other:
    """The engine asked for ("reference" or "onnxruntime"); None takes what is installed.

    Raises:
        OptionError: a package is not installed.
    """
    if find_spec("onnx") is None:
        raise OptionError("verify needs the onnx package: pip install 'fastconv[onnx]'")
    if name == "reference" or (name is None and find_spec("onnxruntime") is None):
        return Reference()
    if find_spec("onnxruntime") is None:
        raise OptionError("--against onnxruntime: not installed: pip install onnxruntime")
    return OnnxRuntime()


@dataclass(frozen=True)
class Location:
    """Where two engines part.

    Attributes:
        node, op: the first node that differs, or None when none does.
        difference: of its output, or None.
        optimized_only: whether the graph without optimisation agrees.
        layer, sources: the first node of the optimised graph that differs and what was fused into
            it, when only that graph differs.
        passes: optimisation passes without any one of which the optimised graph agrees.
        note: why a part of the search was not possible, or None.
    """

    node: str | None = None
    op: str | None = None
    difference: Difference | None = None
    optimized_only: bool = False
    layer: str | None = None
    sources: tuple[str, ...] = ()
    passes: tuple[str, ...] = ()
    note: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        """The finding as text."""
        found = []
        if self.node is not None:
            found.append(f"first node that differs: {self.node!r} ({self.op}){self._gap()}")
        if self.optimized_only:
            found.append("only the optimised graph differs; without optimisation every node agrees")
            if self.layer is not None:
                fused = f", made of {', '.join(self.sources)}" if len(self.sources) > 1 else ""
                found.append(
                    f"first layer that differs: {self.layer!r} ({self.op}){fused}{self._gap()}"
                )
            if self.passes:
                found.append(f"agrees without any one of these passes: {', '.join(self.passes)}")
        if self.note:
            found.append(self.note)
        return found

    def _gap(self) -> str:
        d = self.difference
        if d is None:
            return ""
        what = d.problem or f"differs by {d.absolute:.4g} (relative {d.relative:.4g})"
        return f": value {d.name!r} {what}"


def locate(
    model: Model, path: str, feeds: Mapping[str, np.ndarray], other: Other, tolerance: float
) -> Location:
    """The first node whose value differs, without optimisation, else in the optimised graph."""
    values = [o for n in model.original.nodes for o in n.outputs if o]
    try:
        theirs = other.run_all(path, feeds, values)
        plain = _first(model.original, feeds, theirs, tolerance, model.threads)
        if plain is not None:
            return Location(plain[0].name, plain[0].op.label, plain[1])
        fused = _first(model.graph, feeds, theirs, tolerance, model.threads)
        blame = _blame(model, feeds, theirs, tolerance)
    except FastconvError as e:
        return Location(note=f"the first node that differs was not found: {e}")
    if fused is None:
        return Location(
            optimized_only=True,
            passes=blame,
            note="no value inside the graph differs when all of them are kept",
        )
    node, gap = fused
    return Location(
        op=node.op.label,
        difference=gap,
        optimized_only=True,
        layer=node.name,
        sources=tuple(node.sources),
        passes=blame,
    )


def _values(graph: Graph, names: Iterable[str], feeds: Any, threads: int) -> dict[str, Any]:
    """The values of these names, from a copy of the graph that has them as outputs."""
    graph = graph.copy()
    graph.outputs = list(names)
    return Engine(graph, threads).run(feeds)


def _first(
    graph: Graph,
    feeds: Mapping[str, np.ndarray],
    theirs: Mapping[str, Any],
    tolerance: float,
    threads: int,
) -> tuple[Any, Difference] | None:
    """The first node with an output that differs, in the graph's order."""
    names = [o for n in graph.nodes for o in n.outputs if o in theirs]
    ours = _values(graph, names, feeds, threads)
    for node in graph.nodes:
        for name in node.outputs:
            if name in ours:
                gap = difference(name, ours[name], theirs[name])
                if gap.exceeds(tolerance):
                    return node, gap
    return None


def _blame(
    model: Model, feeds: Mapping[str, np.ndarray], theirs: Mapping[str, Any], tolerance: float
) -> tuple[str, ...]:
    """The passes without which, left out one at a time, the outputs agree."""
    found = []
    for name, _ in PIPELINE:
        graph = optimize(model.original, frozenset({name}))
        ours = _values(graph, [o.name for o in model.outputs], feeds, model.threads)
        if not any(difference(n, y, theirs.get(n)).exceeds(tolerance) for n, y in ours.items()):
            found.append(name)
    return tuple(found)
