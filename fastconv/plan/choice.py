"""Which of several ways a node is computed: the cheapest by estimate, or what was timed.

A lowering that has alternatives names them with estimated costs, ``low.choose("conv", {"direct":
9e6, "winograd4": 4e6})``, and gets one name back: the one with the least cost, unless a record made
by ``fastconv tune`` on this machine says otherwise. An alternative that must not be used (strict
accuracy, a form that a kernel does not take) is simply not named, so no record can bring it back.

A cost is a number of multiply-adds of the register tile that take as long. With P multiply-adds a
second (half of what ``fastconv bench`` calls the peak) and B bytes a second from memory, fetching a
float costs 4·P/B of them: on one core with P = 65e9 and B = 15e9 some 17, from a second-level cache
about a quarter of that, and a pass over values in that cache, such as a Winograd transform, some 10
for each float. ``plan/lower/winograd.py`` has these as constants.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..graph import Node
from ..records import field, record


@record(frozen=True)
class Decision:
    """One choice that was made while planning.

    Attributes:
        kind: what was chosen, such as ``conv`` (the algorithm of a convolution).
        key: what it depends on: kind, operator, attributes, shapes, threads and instruction set.
        costs: the alternatives' estimated costs.
        chosen: the one that was taken.
        node: the node.
    """

    kind: str
    key: str
    costs: Mapping[str, float]
    chosen: str
    node: Node

    @property
    def estimate(self) -> str:
        """What would be taken without a record."""
        return cheapest(self.costs)


@record
class Choices:
    """What decides between alternatives.

    Attributes:
        record: key → name of the alternative to take; names that are not on offer are ignored.
        trace: when not None, every decision is appended.
        used: keys of the record that were asked for.
    """

    record: Mapping[str, str] = field(default_factory=dict)
    trace: list[Decision] | None = None
    used: set[str] = field(default_factory=set)

    def choose(
        self,
        kind: str,
        node: Node,
        shapes: Iterable[tuple[int, ...]],
        threads: int,
        isa: str,
        costs: Mapping[str, float],
    ) -> str:
        """One of the names of ``costs``."""
        name = cheapest(costs)
        if not self.record and self.trace is None:
            return name
        key = decision_key(kind, node, shapes, threads, isa)
        if self.record.get(key) in costs:
            name = self.record[key]
            self.used.add(key)
        if self.trace is not None:
            self.trace.append(Decision(kind, key, dict(costs), name, node))
        return name


def cheapest(costs: Mapping[str, float]) -> str:
    """The name with the least cost; the first of equals."""
    return min(costs, key=costs.__getitem__)


def decision_key(
    kind: str, node: Node, shapes: Iterable[tuple[int, ...]], threads: int, isa: str
) -> str:
    """The text that two decisions share exactly if they are between the same alternatives."""
    sizes = " ".join("x".join(map(str, s)) or "-" for s in shapes)
    return f"{kind} {node.op!r} {sizes} threads={threads} {isa}"


__all__ = ["Choices", "Decision", "cheapest", "decision_key"]
