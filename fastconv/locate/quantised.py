"""Where a quantised model's results part from another engine's.

Two engines that are both right round a few elements of a quantised value differently, by one step.
Such ties grow over the layers until every value differs, so that a comparison of whole runs names
the first tie. Here every node is judged alone, on the other engine's values, and a value of
quantised numbers agrees if few elements differ, and by one step at most (by one of each rounding
that a fused layer does).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from .. import passes
from ..compare import Difference, difference
from ..errors import FastconvError
from ..graph import Graph, Node, TensorType
from ..graph.ops.quant import DequantizeLinear
from ..passes import Budget, Change, optimize
from ..runtime.engine import Engine
from . import Location, Search, Trial, first_true

#: Operators that quantise, by how their names begin.
QUANTISERS = ("Quantize", "QLinear", "QGemm", "DynamicQuantize")
#: The part of a value's elements that may be one step off: a few in ten thousand is usual where a
#: fusion computes in integers what the file says in floats.
TIES = 0.03


def steps(graph: Graph) -> dict[str, float]:
    """What one quantisation step is, by value: 1 for quantised numbers, the scale (the largest)
    for what is dequantised from them."""
    found: dict[str, float] = {}
    for node in graph.nodes:
        if node.op.label.startswith(QUANTISERS) and node.outputs[0] not in graph.consts:
            if any(i and i not in graph.consts for i in node.inputs[:1]):
                found[node.outputs[0]] = 1.0
        elif isinstance(node.op, DequantizeLinear) and node.inputs[0] in found:
            scale = graph.consts.get(node.inputs[1])
            if scale is not None and scale.size:
                found[node.outputs[0]] = float(np.abs(scale).max())
    return found


class QuantisedSearch(Search):
    """As :class:`Search`, each node alone; see the module."""

    #: How many steps of its output a tie in the layer at hand may make.
    allowed = 1.0

    def run(self) -> Location:
        original, optimized = self.model.original, self.model.graph
        self.steps = steps(original)
        #: Nodes that could not be run alone, and why.
        self.skipped: dict[str, str] = {}
        #: Output and scale (the largest) of what quantises, by node.
        self.quantisers = {
            n.name: (n.outputs[0], float(scale.max()))
            for n in original.nodes
            if n.op.label == "QuantizeLinear"
            and (scale := original.consts.get(n.inputs[1])) is not None
            and scale.size
        }
        try:
            found = self.first_alone(original)
            if found is not None:
                return self._at(found[0], original, found[1])
            where = self._plan(original, optimized_only=False)
            if where is not None or optimized is original:
                return where or self._nothing()
            found = self.first_alone(optimized)
            if found is None:
                return self._plan(optimized, optimized_only=True) or self._nothing()
            node, gap = found
            where = self._layer(node, gap, optimized)
            return replace(where, passes=self._blamed(node), change=self._guilty(node))
        except FastconvError as e:
            return Location(note=f"the first node that differs was not found: {e}")

    def gaps(self, ours: Mapping[str, Any]) -> list[Difference]:
        """The differences beyond the tolerance that are no ties."""
        found = []
        for name, y in ours.items():
            if name not in self.theirs:
                continue
            other, step = self.theirs[name], self.steps.get(name)
            if step is not None:
                y = _signed_as(y, other)
            d = difference(name, y, other)
            tied = step is not None and _tied(y, other, step, self.allowed, d)
            if d.exceeds(self.tolerance) and not tied:
                found.append(d)
        return found

    def trial(self, node: Node, graph: Graph) -> Trial:
        self.allowed = self._allowed(node)
        return super().trial(node, graph)

    def _allowed(self, node: Node) -> float:
        """A step, and what a step of each value that was fused away is as steps of the output.

        A convolution that adds its residual rounds twice: to the scale that its own result had in
        the file, and to that of the sum.
        """
        pairs = [self.quantisers[s] for s in node.sources if s in self.quantisers]
        own = [scale for name, scale in pairs if name == node.outputs[0]]
        if not own or not own[0] > 0:
            return 1.0
        return 1.0 + sum(scale for name, scale in pairs if name != node.outputs[0]) / own[0]

    def value(self, name: str, graph: Graph) -> Any:
        """As the base, in the dtype that the value has in this graph."""
        given = super().value(name, graph)
        if name in self.steps and isinstance(given, np.ndarray):
            dtype = graph.type_of(name).dtype
            if given.dtype == np.int8 and dtype == np.uint8:  # see passes.quant.make_unsigned
                return (given.astype(np.int16) + 128).astype(np.uint8)
        return given

    def first_alone(
        self, graph: Graph, sources: set[str] | None = None
    ) -> tuple[Node, Difference] | None:
        """The first node that alone gives values that differ.

        Args:
            sources: judge only nodes made of some of these nodes of the file; None for all.
        """
        maker = graph.producers()
        for node in graph.nodes:
            if sources is not None and sources.isdisjoint(node.sources or (node.name,)):
                continue
            outputs = [o for o in node.outputs if o in self.theirs]
            gaps = self._alone(node, outputs, graph, maker) if outputs else []
            if gaps:
                return node, gaps[0]
        return None

    def _alone(
        self, node: Node, outputs: list[str], graph: Graph, maker: Mapping[str, Node]
    ) -> list[Difference]:
        """Run a node on the other engine's values; before it run what makes values that the other
        engine lacks. A node that cannot be run so is noted as skipped."""
        arrays: dict[str, np.ndarray] = {}
        consts: dict[str, np.ndarray] = {}
        needed: set[int] = set()
        waiting = [node]
        while waiting:
            last = waiting.pop()
            if id(last) in needed:
                continue
            needed.add(id(last))
            for name in last.inputs:
                if name in graph.consts:
                    consts[name] = graph.consts[name]
                elif name and name not in arrays:
                    value = self.value(name, graph)
                    if isinstance(value, np.ndarray):
                        arrays[name] = np.ascontiguousarray(value) if value.ndim else value
                    elif name in maker:
                        waiting.append(maker[name])
                    else:
                        self.skipped[node.name] = f"the other engine has no value {name!r}"
                        return []
        nodes = [n for n in graph.nodes if id(n) in needed]
        made = {o for n in nodes for o in n.outputs}
        arrays = {n: a for n, a in arrays.items() if n not in made}
        types = {n: TensorType(a.dtype, a.shape) for n, a in arrays.items()}
        self.allowed = self._allowed(node)
        alone = Graph("alone", nodes, list(arrays), outputs, consts, types)
        try:
            packs = self.model._engine.packs.empty()
            engine = Engine(alone, self.model.threads, packs, strict=self.strict)
            return self.gaps(engine.run(arrays))
        except FastconvError as e:
            self.skipped[node.name] = str(e)
            return []

    def _nothing(self) -> Location:
        """Nothing was found: what was judged, and what could not be."""
        if not self.skipped:
            return Location(note=TIED)
        name, reason = next(iter(self.skipped.items()))
        return Location(
            note=f"{TIED}; {len(self.skipped)} nodes could not be judged, first {name!r}: {reason}"
        )

    def _plan(self, graph: Graph, optimized_only: bool) -> Location | None:
        """What differs from our own values when these are not kept, else None."""
        theirs, known = self.theirs, self.steps
        names = [o for n in graph.nodes for o in n.outputs if o in theirs]
        try:
            self.theirs, self.steps = self.values(graph, names), {}
            return self._halve(graph, optimized_only) if self.outputs_differ(graph) else None
        finally:
            self.theirs, self.steps = theirs, known

    def _blamed(self, node: Node) -> tuple[str, ...]:
        sources = set(node.sources)
        names = [name for name, _ in passes.PIPELINE if name not in self.disabled]
        return tuple(n for n in names if self.first_alone(self._without({n}), sources) is None)

    def _guilty(self, node: Node) -> Change | None:
        """The first change with which what this layer is made of differs."""
        original, sources = self.model.original, set(node.sources)
        every = Budget()
        optimize(original, self.disabled, budget=every)

        def wrong(k: int) -> bool:
            part = optimize(original, self.disabled, budget=Budget(k + 1))
            return self.first_alone(part, sources) is not None

        k = first_true(len(every.changes), wrong)
        return None if k is None else every.changes[k]


TIED = (
    "every node that was judged agrees when run alone on the other engine's values, to one step of "
    "quantisation in a few elements: roundings add up over the layers; a larger --tolerance allows "
    "for them"
)


def _signed_as(ours: Any, theirs: Any) -> Any:
    """Quantised numbers that a pass made unsigned, signed as the other engine's."""
    both = isinstance(ours, np.ndarray) and isinstance(theirs, np.ndarray)
    if both and ours.dtype == np.uint8 and theirs.dtype == np.int8:
        return (ours.astype(np.int16) - 128).astype(np.int8)
    return ours


def _tied(ours: Any, theirs: Any, step: float, allowed: float, d: Difference) -> bool:
    """Whether values differ by no more than the steps allowed, and few of them."""
    if d.problem is not None or d.absolute is None or d.absolute > step * allowed * 1.001:
        return False
    apart = np.abs(ours.astype(np.float64) - theirs.astype(np.float64)) > step / 2
    return float(apart.mean()) <= TIES if apart.size > 1 / TIES else apart.sum() <= 1


__all__ = ["QuantisedSearch", "steps"]
