"""Patterns over the graph, as data, and the driver that replaces what they match by one node.

A fusion is a pattern, a check and a replacement. Writing patterns as data rather than as code that
walks the graph follows the fusions of rten and the rewrite rules of tinygrad: a rule reads like the
formula that it recognises, and everything that must hold for every rule (no other reader, no graph
output inside) is checked in one place, here.

In a pattern a string is a variable (equal names match equal values), a number is a constant of one
element with that value, ``C(name)`` is any constant, and ``P(op_types, inputs...)`` is a node
with an operator of that name ("*" is any). Operands of Add, Mul, Max and Min match in either order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

import numpy as np

from ..graph import Graph, Node, Op, TensorType
from ..graph.activation import Activation
from ..graph.ops.elementwise import Unary
from ..records import field, record
from .budget import current
from .unary import VARIABLE, as_activation, scalar_of

COMMUTATIVE = frozenset({"Add", "Mul", "Max", "Min"})
#: Constants of formulas are stored as float32, often by way of a few decimal operations.
TOLERANCE = 2e-6


@record(frozen=True)
class C:
    """Any constant array, bound to a name."""

    name: str


@record(frozen=True)
class Or:
    """Any one of several patterns."""

    options: tuple[Pattern, ...]


@record(frozen=True)
class P:
    """A node whose operator is one of ``ops`` ("A|B") and whose inputs match.

    Attributes:
        bind: name of the node, and of its output value, in the match.
        rest: whether more inputs may follow those listed.
        where: a further condition on the node.
    """

    ops: tuple[str, ...]
    inputs: tuple[Pattern, ...]
    bind: str
    rest: bool
    where: Callable[[Node], bool] | None

    def __init__(
        self,
        ops: str,
        *inputs: Pattern,
        bind: str = "",
        rest: bool = False,
        where: Callable[[Node], bool] | None = None,
    ) -> None:
        for name, value in zip(
            ("ops", "inputs", "bind", "rest", "where"),
            (tuple(ops.split("|")), inputs, bind, rest, where),
            strict=True,
        ):
            object.__setattr__(self, name, value)


@record(frozen=True)
class Act:
    """A node that applies an activation ``kind`` (any when empty) to ``x``, however written."""

    kind: str
    x: Pattern
    alpha: float | None = None
    beta: float | None = None
    bind: str = ""


Pattern = str | float | C | Or | P | Act


@record
class Match:
    """What a pattern matched.

    Attributes:
        values: variable, constant and node names of the pattern → value names of the graph.
        nodes: names of the pattern → nodes.
        inner: all matched nodes, the root first.
        scalars: the constants that numbers of the pattern matched.
        acts: names of ``Act`` patterns → the activation found.
    """

    graph: Graph
    rewriter: Rewriter
    values: dict[str, str] = field(default_factory=dict)
    nodes: dict[str, Node] = field(default_factory=dict)
    inner: tuple[Node, ...] = ()
    scalars: tuple[np.ndarray, ...] = ()
    acts: dict[str, Activation] = field(default_factory=dict)

    @property
    def root(self) -> Node:
        return self.inner[0]

    def __getitem__(self, name: str) -> str:
        """The graph's name of a value of the pattern."""
        return self.values[name]

    def type(self, name: str) -> TensorType:
        """The type of a value of the pattern."""
        return self.graph.type_of(self.values[name])

    def array(self, name: str) -> np.ndarray:
        """The constant that a name of the pattern stands for."""
        return self.graph.consts[self.values[name]]

    def const(self, stem: str, array: np.ndarray) -> str:
        """Add a constant under a fresh name; returns the name."""
        name = self.rewriter.names.fresh(stem)
        self.graph.consts[name] = array
        return name

    def _with(self, **changes: object) -> Match:
        new = Match.__new__(Match)
        new.__dict__.update(self.__dict__, **changes)
        return new

    def bound(self, name: str, value: str) -> Match | None:
        """With one more value bound; None when the name is bound to another value."""
        if not name or self.values.get(name) == value:
            return self
        return None if name in self.values else self._with(values={**self.values, name: value})


@record(frozen=True)
class Replacement:
    """The node that stands in for a match, at the root's place, with the root's output.

    Attributes:
        like: the node whose name it keeps; the root's by default.
        others: matched nodes that stay, and what they read from now on.
    """

    op: Op
    inputs: Sequence[str]
    like: Node | None = None
    others: Sequence[tuple[Node, Sequence[str]]] = ()


@record(frozen=True)
class Rule:
    """A rewrite.

    Attributes:
        replace: what to put there: a :class:`Replacement`, the name of a value that equals the
            root's output, or None when a check fails.
        shared: the nodes inside may have other readers, as the replacement does without them.
    """

    name: str
    pattern: P | Act
    replace: Callable[[Match], Replacement | str | None]
    shared: bool = False


class Names:
    """Makes value names that a graph does not use."""

    def __init__(self, graph: Graph) -> None:
        self.used = {*graph.types, *graph.consts, *graph.inputs}
        self.used.update(o for n in graph.nodes for o in n.outputs)

    def fresh(self, stem: str) -> str:
        k = 0
        while (name := f"{stem}.{k}") in self.used:
            k += 1
        self.used.add(name)
        return name


class Rewriter:
    """Applies rules to a graph until none fires. Keeps who makes and who reads each value."""

    def __init__(self, graph: Graph, rules: Sequence[Rule], present: set[str]) -> None:
        self.graph, self.budget = graph, current()
        self.all_rules = rules
        self.present = present
        self._choose()
        self.maker = graph.producers()
        self.readers: dict[str, dict[int, Node]] = {}
        self.results = frozenset(graph.outputs)
        self.dead: set[int] = set()
        self.order: dict[int, int] = {}
        for node in graph.nodes:
            self._read(node)

    @cached_property
    def names(self) -> Names:
        """Makes names for constants."""
        return Names(self.graph)

    def _choose(self) -> None:
        """The rules that can match, by the operator of their root."""
        rules = [r for r in self.all_rules if possible(r.pattern, self.present)]
        self.everywhere = [r for r in rules if isinstance(r.pattern, Act)]
        self.rules: dict[str, list[Rule]] = {}
        for rule in rules:
            for op in rule.pattern.ops if isinstance(rule.pattern, P) else ():
                self.rules.setdefault(op, []).append(rule)

    def run(self) -> Graph:
        """Rewrite; every sweep visits the nodes in topological order."""
        changed = True
        while changed:
            changed = False
            self.order = {id(n): k for k, n in enumerate(self.graph.nodes)}
            for node in self.graph.nodes:
                while id(node) not in self.dead and self._visit(node):
                    changed = True
            self.graph.nodes = [n for n in self.graph.nodes if id(n) not in self.dead]
            self.dead.clear()
        return self.graph

    def _visit(self, node: Node) -> bool:
        rules = self.rules.get(type(node.op).__name__, ())
        if self.everywhere and isinstance(node.op, Unary):
            rules = [*rules, *self.everywhere]
        if not rules:
            return False
        if not node.outputs or not node.outputs[0] or any(map(self._used, node.outputs[1:])):
            return False
        for rule in rules:
            start = Match(self.graph, self)
            for match in self._solve(rule.pattern, node.outputs[0], start):
                if not rule.shared and not self._private(match):
                    continue
                new = rule.replace(match)
                if new is not None and self.budget is not None and not self._allowed(rule, match):
                    return False
                if isinstance(new, str):
                    if self._alias(node, new):
                        self._sweep(match)
                        return True
                elif new is not None:
                    self._put(match, new)
                    return True
        return False

    def _allowed(self, rule: Rule, m: Match) -> bool:
        assert self.budget is not None
        merged = sorted(m.inner, key=self.position)
        return self.budget.spend(rule.name, [s for n in merged for s in n.sources or (n.name,)])

    def _solve(self, p: Pattern, value: str, m: Match) -> Iterator[Match]:
        """All ways in which a pattern matches a value, given what is bound."""
        if isinstance(p, str):
            bound = m.bound(p, value)
            if bound is not None and value:
                yield bound
        elif isinstance(p, (int, float)):
            scalar = scalar_of(self.graph, value)
            if scalar is not None and math.isclose(scalar, p, rel_tol=TOLERANCE):
                yield m._with(scalars=(*m.scalars, self.graph.consts[value]))
        elif isinstance(p, C):
            bound = m.bound(p.name, value)
            if bound is not None and value in self.graph.consts:
                yield bound
        elif isinstance(p, Or):
            for option in p.options:
                yield from self._solve(option, value, m)
        else:
            node = self.maker.get(value)
            if node is None or node.outputs[0] != value:
                return
            here = m.bound(p.bind, value)
            if here is None:
                return
            here = here._with(
                nodes={**here.nodes, p.bind: node} if p.bind else here.nodes,
                inner=here.inner if any(n is node for n in here.inner) else (*here.inner, node),
            )
            yield from self._solve_node(p, node, here)

    def _solve_node(self, p: P | Act, node: Node, m: Match) -> Iterator[Match]:
        if isinstance(p, Act):
            act = as_activation(self.graph, node)
            if act is None or (p.kind and act.kind != p.kind):
                return
            for want, have in ((p.alpha, act.alpha), (p.beta, act.beta)):
                if want is not None and not math.isclose(want, have, rel_tol=TOLERANCE):
                    return
            m = m._with(acts={**m.acts, p.bind: act})
            yield from self._solve(p.x, node.inputs[0], m)
            return
        if p.ops != ("*",) and type(node.op).__name__ not in p.ops:
            return
        if getattr(node.op, "activation", None) is not None:
            return  # a node that was given an activation computes more than its name says
        if p.where is not None and not p.where(node):
            return
        n = len(p.inputs)
        if len(node.inputs) < n or (any(node.inputs[n:]) and not p.rest):
            return
        orders = [node.inputs[:n]]
        if n == 2 and type(node.op).__name__ in COMMUTATIVE:
            orders.append(node.inputs[1::-1])
        for order in orders:
            yield from self._solve_all(p.inputs, order, m)

    def _solve_all(
        self, patterns: Sequence[Pattern], values: Sequence[str], m: Match
    ) -> Iterator[Match]:
        if not patterns:
            yield m
            return
        for first in self._solve(patterns[0], values[0], m):
            yield from self._solve_all(patterns[1:], values[1:], first)

    def position(self, node: Node) -> int:
        """Where a node stands in the order of execution."""
        return self.order[id(node)]

    def sole_reader(self, value: str) -> Node | None:
        """The one node that reads a value; None if there are more or it is a graph output."""
        readers = self.readers.get(value, {})
        return None if value in self.results or len(readers) != 1 else next(iter(readers.values()))

    def _private(self, m: Match) -> bool:
        """Whether only matched nodes read the values that would vanish."""
        inner = {id(n) for n in m.inner}
        kept = {v for k, v in m.values.items() if k not in m.nodes}
        for node in m.inner[1:]:
            if any(map(self._used, node.outputs[1:])):
                return False
            out = node.outputs[0]
            if out in self.results or out in kept or not self.readers.get(out, {}).keys() <= inner:
                return False
        return True

    def _used(self, value: str) -> bool:
        return bool(value) and (value in self.results or bool(self.readers.get(value)))

    def _read(self, node: Node) -> None:
        for i in node.inputs:
            if i:
                self.readers.setdefault(i, {})[id(node)] = node

    def _forget(self, node: Node) -> None:
        for i in node.inputs:
            self.readers.get(i, {}).pop(id(node), None)

    def _put(self, m: Match, new: Replacement) -> None:
        root = m.root
        for node, inputs in new.others:
            self._forget(node)
            node.inputs = list(inputs)
            self._read(node)
        self._forget(root)
        merged = sorted(m.inner, key=lambda n: self.order[id(n)])
        root.sources = tuple(dict.fromkeys(s for n in merged for s in n.sources or (n.name,)))
        root.name = (new.like or root).name
        root.op, root.inputs, root.outputs = new.op, list(new.inputs), root.outputs[:1]
        self._read(root)
        self._sweep(m)
        new_kinds = kinds_of(new.op)
        if not self.present.issuperset(new_kinds):
            self.present.update(new_kinds)
            self._choose()

    def _sweep(self, m: Match) -> None:
        """Drop matched nodes that nobody reads any more."""
        for node in m.inner[1:]:
            if not any(map(self._used, node.outputs)) and id(node) not in self.dead:
                self._forget(node)
                self.dead.add(id(node))

    def _alias(self, root: Node, value: str) -> bool:
        """Do without a node whose output equals ``value``; false where names stand against it."""
        graph, out = self.graph, root.outputs[0]
        old, new = out, value
        if out in self.results:
            # The result's name has to stay, so it is the other value that is renamed.
            if value in self.results or value in graph.consts or value not in self.maker:
                return False
            old, new = value, out
        self._forget(root)
        self.dead.add(id(root))
        if old == value:
            maker = self.maker.pop(value)
            maker.outputs = [out if o == value else o for o in maker.outputs]
            self.maker[out] = maker
            graph.types[out] = graph.type_of(value)
        else:
            del self.maker[out]
        for reader in list(self.readers.get(old, {}).values()):
            reader.inputs = [new if i == old else i for i in reader.inputs]
            self.readers.setdefault(new, {})[id(reader)] = reader
        self.readers.pop(old, None)
        return True


def rewrite(graph: Graph, rules: Sequence[Rule]) -> Graph:
    """Apply rules until none fires; changes and returns the graph it is given."""
    present = {k for op in {id(n.op): n.op for n in graph.nodes}.values() for k in kinds_of(op)}
    if not any(possible(r.pattern, present) for r in rules):
        return graph
    return Rewriter(graph, rules, present).run()


def kinds_of(op: Op) -> tuple[str, ...]:
    """What patterns may know an operator by: its name, and "act:" before the activation it is."""
    name = type(op).__name__
    if not isinstance(op, Unary):
        return (name,)
    if name in VARIABLE:
        return (name, "act:", "act:" + VARIABLE[name])
    act = op.function
    return (name,) if act is None else (name, "act:", "act:" + act.kind)


def possible(p: Pattern, present: set[str]) -> bool:
    """Whether a pattern can match anywhere in a graph of operators of these kinds.

    A necessary condition that costs little: most rules need an operator that the graph lacks.
    """
    if isinstance(p, P):
        here = p.ops == ("*",) or any(op in present for op in p.ops)
        return here and all(possible(i, present) for i in p.inputs)
    if isinstance(p, Act):
        return "act:" + p.kind in present and possible(p.x, present)
    if isinstance(p, Or):
        return any(possible(o, present) for o in p.options)
    return True
