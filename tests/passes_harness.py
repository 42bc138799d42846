"""Builds small graphs, runs them node by node in NumPy, compares them before and after passes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from fastconv.graph import REGISTRY, Graph, Node, Sym, TensorType
from fastconv.graph import ops as _ops  # noqa: F401
from fastconv.passes import optimize


class Build:
    """Collects nodes; calling it adds one and returns the name of its first output."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.graph = Graph("test", [], [], [])

    def input(self, *shape: Any, dtype: Any = np.float32, name: str = "x") -> str:
        """A graph input; a string in the shape is a symbol."""
        dims = tuple(Sym(d) if isinstance(d, str) else d for d in shape)
        self.graph.inputs.append(name)
        self.graph.types[name] = TensorType(np.dtype(dtype), dims)
        return name

    def const(self, value: Any, dtype: Any = np.float32) -> str:
        """A constant, read-only as those of a file are."""
        name = f"c{len(self.graph.consts)}"
        array = np.array(value, dtype)
        array.setflags(write=False)
        self.graph.consts[name] = array
        return name

    def random(self, *shape: int, dtype: Any = np.float32) -> str:
        """A constant of normally distributed numbers."""
        return self.const(self.rng.normal(size=shape), dtype)

    def __call__(self, op_type: str, *inputs: str, outputs: int = 1, **attrs: Any) -> str:
        k = len(self.graph.nodes)
        names = [f"v{k}" if i == 0 else f"v{k}_{i}" for i in range(outputs)]
        op = REGISTRY["", op_type](**attrs)
        self.graph.nodes.append(Node(op, list(inputs), names, f"{op_type}_{k}"))
        return names[0]

    def done(self, *outputs: str) -> Graph:
        """The graph with these outputs, verified."""
        self.graph.outputs = list(outputs)
        self.graph.verify()
        return self.graph


def interpret(graph: Graph, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Every node's ``compute`` in turn; the graph's outputs."""
    values: dict[str, Any] = {**graph.consts, **feeds, "": None}
    with np.errstate(all="ignore"):
        for node in graph.nodes:
            results = node.op.compute([values[i] for i in node.inputs])
            values.update(zip(node.outputs, results, strict=False))
    return [values[o] for o in graph.outputs]


def feeds_for(graph: Graph, seed: int = 1, sizes: dict[str, int] | None = None) -> dict[str, Any]:
    """Random inputs that fit the graph's types; symbols become ``sizes`` (default 2)."""
    rng = np.random.default_rng(seed)
    feeds = {}
    for name in graph.inputs:
        t = graph.types[name]
        shape = [d if isinstance(d, int) else (sizes or {}).get(str(d), 2) for d in t.shape or ()]
        feeds[name] = (rng.normal(size=shape) * 3).astype(t.dtype)
    return feeds


def kinds(graph: Graph) -> Counter[str]:
    """How many nodes of each operator; an activation shows as "Conv+clip"."""
    found: Counter[str] = Counter()
    for n in graph.nodes:
        act = getattr(n.op, "activation", None)
        found[type(n.op).__name__ + (f"+{act.kind}" if act is not None else "")] += 1
    return found


def check(
    graph: Graph,
    expected: Sequence[str] | None = None,
    *,
    disable: Collection[str] = (),
    feeds: dict[str, np.ndarray] | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
) -> Graph:
    """Optimise; demand equal results, an unchanged original, and the expected nodes (if given)."""
    before = {k: v.tobytes() for k, v in graph.consts.items()}
    text = [(str(n.op), list(n.inputs), list(n.outputs)) for n in graph.nodes]
    new = optimize(graph, disable)
    assert before == {k: v.tobytes() for k, v in graph.consts.items()}, "constants were changed"
    assert text == [(str(n.op), list(n.inputs), list(n.outputs)) for n in graph.nodes]
    assert new.outputs == graph.outputs
    assert new.inputs == graph.inputs
    if feeds is None:
        feeds = feeds_for(graph)
    for want, got in zip(interpret(graph, feeds), interpret(new, feeds), strict=True):
        assert got.dtype == want.dtype
        assert got.shape == want.shape
        if want.dtype.kind == "f":
            np.testing.assert_allclose(got, want, rtol=rtol, atol=atol)
        else:
            np.testing.assert_array_equal(got, want)
    if expected is not None:
        assert kinds(new) == Counter(expected)
    return new
