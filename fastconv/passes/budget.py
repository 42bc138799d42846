"""A limit on how many changes passes make, by which the one that spoils a result is found.

With the limit at k the first k changes are made and no more, so that a search over k names a single
fusion; LLVM does the same with its ``-opt-bisect-limit``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from ..records import field, record


@record(frozen=True)
class Change:
    """One change to a graph.

    Attributes:
        stage: the pass.
        rule: the fusion, or "" for what a pass does outside of rules (counted once for the pass).
        nodes: names of the file's nodes that it puts together or removes.
    """

    stage: str
    rule: str = ""
    nodes: tuple[str, ...] = ()

    def __str__(self) -> str:
        what = (
            f"fusion {self.rule!r} of pass {self.stage!r}" if self.rule else f"pass {self.stage!r}"
        )
        return f"{what} on {', '.join(map(repr, self.nodes))}" if self.nodes else what


@record
class Budget:
    """Changes that may still be made, and those that were.

    Attributes:
        limit: how many may be made; None for any number.
        changes: what was done, in order.
    """

    limit: int | None = None
    changes: list[Change] = field(default_factory=list)
    _stage: str = ""

    def enter(self, stage: str) -> bool:
        """Begin a pass, which counts as a change of its own; whether it may run."""
        self._stage = stage
        return self.spend()

    def spend(self, rule: str = "", nodes: Iterable[str] = ()) -> bool:
        """Ask for one more change; whether it may be made."""
        if self.limit is not None and len(self.changes) >= self.limit:
            return False
        self.changes.append(Change(self._stage, rule, tuple(dict.fromkeys(nodes))))
        return True


_current: ContextVar[Budget | None] = ContextVar("budget", default=None)


def current() -> Budget | None:
    """The budget of the pass that runs, or None."""
    return _current.get()


@contextmanager
def spending(budget: Budget | None) -> Iterator[None]:
    """What runs inside spends from this budget."""
    token = _current.set(budget)
    try:
        yield
    finally:
        _current.reset(token)
