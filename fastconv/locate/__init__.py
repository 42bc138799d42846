"""Where a model's results part from another engine's: the node, the fusion, the kernel.

Three searches, each only as far as the one before it found nothing:

1. every value of the graph as the file has it, node by node;
2. the same without keeping values inside (keeping one changes the plan: where it lies, and what
   shares its memory), by halving the graph;
3. the optimised graph: the first layer that differs, and the first single change of a pass with
   which the results differ, by halving the list of changes.

What is found is then run alone on the other engine's values, by its kernels and by its NumPy form.
Quantised models are searched otherwise (see ``quantised``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import passes
from ..compare import Difference, Other, difference
from ..errors import FastconvError
from ..graph import Graph, Node, TensorType
from ..passes import Budget, Change, optimize
from ..runtime.engine import Engine

if TYPE_CHECKING:
    from ..model import Model


@dataclass(frozen=True)
class Trial:
    """A node run alone on the other engine's values.

    Attributes:
        kernels: names of the steps that ran it (``numpy:`` where it has no kernel).
        planned: difference of what these steps gave; None if they agree.
        numpy: difference of what its NumPy form gave; None if it agrees.
        error: why it could not be run alone, or None.
    """

    kernels: tuple[str, ...] = ()
    planned: Difference | None = None
    numpy: Difference | None = None
    error: str | None = None

    def verdict(self) -> str:
        """The finding in a sentence."""
        names = ", ".join(self.kernels) or "no step"
        if self.error:
            return f"it could not be run alone: {self.error}"
        if self.planned is None and self.numpy is None:
            return (
                f"run alone on the other engine's values it agrees ({names}): differences add up "
                "before it, or the plan around it is wrong"
            )
        if self.planned is not None and self.numpy is None:
            return f"its NumPy form agrees on the same values: its kernels are to blame ({names})"
        if self.planned is None:
            return f"its kernels agree on the same values ({names}), its NumPy form does not"
        return (
            "its NumPy form differs on the same values too: what it computes is not the same, "
            "or the tolerance is below the rounding of its sums"
        )


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
        change: the first change of a pass with which the results differ, or None.
        trial: the node or layer run alone, or None.
        note: why a part of the search was not possible, or None.
    """

    node: str | None = None
    op: str | None = None
    difference: Difference | None = None
    optimized_only: bool = False
    layer: str | None = None
    sources: tuple[str, ...] = ()
    passes: tuple[str, ...] = ()
    change: Change | None = None
    trial: Trial | None = None
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
        if self.change is not None:
            found.append(f"first change that makes a difference: {self.change}")
        if self.passes:
            found.append(f"agrees without any one of these passes: {', '.join(self.passes)}")
        if self.trial is not None:
            found.append(self.trial.verdict())
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
    except FastconvError as e:
        return Location(note=f"the first node that differs was not found: {e}")
    from .quantised import QuantisedSearch, steps

    kind = QuantisedSearch if steps(model.original) else Search
    return kind(model, feeds, theirs, tolerance).run()


class Search:
    """A search for the first difference.

    Args:
        model: the model.
        feeds: its inputs.
        theirs: the other engine's values, of nodes inside and of outputs, by name.
        tolerance: largest relative difference that is none.
    """

    def __init__(
        self,
        model: Model,
        feeds: Mapping[str, np.ndarray],
        theirs: Mapping[str, Any],
        tolerance: float,
    ) -> None:
        self.model, self.feeds, self.theirs, self.tolerance = model, feeds, theirs, tolerance
        self.strict = model._engine.strict
        disable: Any = model._options["disable"]
        self.disabled: frozenset[str] = frozenset(disable)

    def run(self) -> Location:
        """Search; what fails on the way becomes a note."""
        original, optimized = self.model.original, self.model.graph
        try:
            found = self.first(original)
            if found is not None:
                node, gap = found
                return self._at(node, original, gap)
            if self.outputs_differ(original):
                return self._halve(original, optimized_only=False)
            if optimized is original:
                return Location(note="no value differs when the model is run again")
            return self._optimized(optimized)
        except FastconvError as e:
            return Location(note=f"the first node that differs was not found: {e}")

    def _at(self, node: Node, graph: Graph, gap: Difference) -> Location:
        return Location(node.name, node.op.label, gap, trial=self.trial(node, graph))

    def _optimized(self, graph: Graph) -> Location:
        found, differ = self.first(graph), self.outputs_differ(graph)
        if found is None and not differ:
            return Location(note="no value differs when the model is run again")
        blame = self.blamed_passes() if differ else ()
        change = self.guilty_change() if differ else None
        if found is not None:
            where = self._layer(*found, graph)
        else:
            where = self._halve(graph, optimized_only=True)
        return replace(where, passes=blame, change=change)

    def _layer(self, node: Node, gap: Difference, graph: Graph) -> Location:
        """A node of the optimised graph alone."""
        return Location(
            op=node.op.label,
            difference=gap,
            optimized_only=True,
            layer=node.name,
            sources=tuple(node.sources),
            trial=self.trial(node, graph),
        )

    # Running.

    def values(self, graph: Graph, names: Iterable[str]) -> dict[str, Any]:
        """The values of these names, from a copy of the graph that has them as outputs."""
        graph = graph.copy()
        graph.outputs = list(names)
        packs = self.model._engine.packs.empty()
        return Engine(graph, self.model.threads, packs, strict=self.strict).run(self.feeds)

    def gaps(self, ours: Mapping[str, Any]) -> list[Difference]:
        """The differences beyond the tolerance."""
        found = [difference(n, y, self.theirs[n]) for n, y in ours.items() if n in self.theirs]
        return [d for d in found if d.exceeds(self.tolerance)]

    def outputs_differ(self, graph: Graph) -> bool:
        """Whether a graph gives outputs that differ, with nothing else kept."""
        names = [o.name for o in self.model.outputs if o.name in self.theirs]
        return bool(self.gaps(self.values(graph, names)))

    # Searching.

    def first(self, graph: Graph) -> tuple[Node, Difference] | None:
        """The first node with an output that differs, in the graph's order, all of them kept."""
        names = [o for n in graph.nodes for o in n.outputs if o in self.theirs]
        gaps = {d.name: d for d in self.gaps(self.values(graph, names))}
        for node in graph.nodes:
            for name in node.outputs:
                if name in gaps:
                    return node, gaps[name]
        return None

    def _halve(self, graph: Graph, optimized_only: bool) -> Location:
        """The first node whose output differs when nothing before it is kept."""
        taps = [(n, o) for n in graph.nodes for o in n.outputs[:1] if o in self.theirs]
        differs: dict[int, Difference] = {}

        def wrong(k: int) -> bool:
            name = taps[k][1]
            outputs = self.values(graph, [name])
            gaps = self.gaps(outputs)
            if gaps:
                differs[k] = gaps[0]
            return bool(gaps)

        k = first_true(len(taps), wrong)
        kept = "with every value inside kept nothing differs: the plan is to blame"
        if k is None:
            return Location(
                optimized_only=optimized_only,
                note=f"{kept} (memory shared by values, or the layout of one)",
            )
        node = taps[k][0]
        note = f"{kept}; {node.name!r} is the first to differ when what is before it is not kept"
        where = Location(difference=differs[k], optimized_only=optimized_only, note=note)
        if optimized_only:
            sources = tuple(node.sources)
            return replace(where, layer=node.name, op=node.op.label, sources=sources)
        return replace(where, node=node.name, op=node.op.label)

    def blamed_passes(self) -> tuple[str, ...]:
        """The passes without which, left out one at a time, the outputs agree."""
        names = [name for name, _ in passes.PIPELINE if name not in self.disabled]
        return tuple(n for n in names if not self.outputs_differ(self._without({n})))

    def _without(self, names: Collection[str]) -> Graph:
        return optimize(self.model.original, self.disabled | set(names))

    def guilty_change(self) -> Change | None:
        """The first change with which the outputs differ, all before it made and none after."""
        every = Budget()
        optimize(self.model.original, self.disabled, budget=every)

        def wrong(k: int) -> bool:
            return self.outputs_differ(
                optimize(self.model.original, self.disabled, budget=Budget(k + 1))
            )

        k = first_true(len(every.changes), wrong)
        return None if k is None else every.changes[k]

    def value(self, name: str, graph: Graph) -> Any:
        """What a value inside a graph is for the other engine; None if it has no such value."""
        return self.feeds.get(name, self.theirs.get(name))

    def trial(self, node: Node, graph: Graph) -> Trial:
        """Run a node alone on the other engine's values."""
        arrays: dict[str, Any] = {}
        for name in node.inputs:
            if name and name not in graph.consts:
                value = self.value(name, graph)
                if not isinstance(value, np.ndarray):
                    return Trial(error=f"the other engine has no value {name!r}")
                arrays[name] = np.ascontiguousarray(value) if value.ndim else value
        consts = {i: graph.consts[i] for i in node.inputs if i in graph.consts}
        outputs = [o for o in node.outputs if o in self.theirs]
        types = {n: TensorType(a.dtype, a.shape) for n, a in arrays.items()}
        alone = Graph("alone", [node], list(arrays), outputs, consts, types)
        try:
            packs = self.model._engine.packs.empty()
            engine = Engine(alone, self.model.threads, packs, strict=self.strict)
            parts: list[Any] = []
            gaps = self.gaps(engine.run(arrays, parts))
            kernels = tuple(
                dict.fromkeys(s.kernel for plan, _ in parts for s in plan.steps if s.node)
            )
            with np.errstate(all="ignore"):
                found = node.op.compute(
                    [consts.get(i, arrays.get(i)) if i else None for i in node.inputs]
                )
        except FastconvError as e:
            return Trial(error=str(e))
        except Exception as e:  # a NumPy form may raise whatever NumPy does
            return Trial(error=f"{type(e).__name__}: {e}")
        named = {n: y for n, y in zip(node.outputs, found, strict=False) if n in self.theirs}
        other = self.gaps(named)
        return Trial(kernels, gaps[0] if gaps else None, other[0] if other else None)


def first_true(n: int, wrong: Callable[[int], bool]) -> int | None:
    """The least k below n with ``wrong(k)`` and not ``wrong(k - 1)``, by halving; None if the last
    is not wrong."""
    if n == 0 or not wrong(n - 1):
        return None
    low, high = -1, n - 1  # low is right, high is wrong
    while high - low > 1:
        middle = (low + high) // 2
        if wrong(middle):
            high = middle
        else:
            low = middle
    return high


__all__ = ["Location", "Search", "Trial", "locate"]
