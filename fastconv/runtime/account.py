"""What a run keeps in memory outside arenas: values that live between the parts of its plan."""

from __future__ import annotations

import weakref
from collections.abc import Collection, Iterable
from typing import Any

import numpy as np

from .arenas import Arenas

#: Bytes that an array takes besides its elements, about.
OVERHEAD = 128


class _Held(weakref.ref):  # type: ignore[type-arg]
    """An array that counts, until nobody has it any more."""

    __slots__ = ("key", "size")
    key: int
    size: int


class Account:
    """Counts the arrays that one run makes outside arenas, for as long as they live.

    Results of a part, of nodes that run in Python and of subgraphs, the elements of sequences and
    what a loop carries or stacks: each counts once, from when it is made until its memory is free,
    together with the arenas and the accounts of other runs in progress. A view counts as what it
    is a view of. Inputs and constants of the model do not count. One thread uses it.

    Args:
        arenas: has the limit.
        least: smaller arrays are not counted.
    """

    def __init__(self, arenas: Arenas, least: int = 0) -> None:
        self.arenas = arenas
        self.least = least
        self._held: dict[int, _Held] = {}
        self._exempt: dict[int, Collection[int]] = {}

    def enter(self, key: int, constants: Collection[int]) -> None:
        """Leave out arrays with these ids (see :func:`ids`), which outlive the run."""
        self._exempt[key] = constants

    def room(self, nbytes: int) -> None:
        """Free arenas give way for so many bytes more.

        Raises:
            MemoryLimitError: the limit would be passed all the same.
        """
        if nbytes >= self.least:
            self.arenas.room(nbytes)

    def reserve(self, nbytes: int) -> int:
        """Count what is about to be made; returns what to :meth:`release` once it is added.

        Raises:
            MemoryLimitError: the limit would be passed.
        """
        if nbytes < self.least:
            return 0
        self.arenas.hold(nbytes)
        return nbytes

    def release(self, nbytes: int) -> None:
        """Take back a reservation."""
        self.arenas.release(nbytes)

    def add(self, value: Any) -> None:
        """Count a value: an array, a sequence of such, or None.

        Raises:
            MemoryLimitError: the limit is passed.
        """
        if isinstance(value, list):
            for item in value:
                self.add(item)
            return
        if not isinstance(value, np.ndarray):
            return
        array = owner(value)
        size, key = array.nbytes + OVERHEAD, id(array)
        if size < self.least or key in self._held:
            return
        if any(key in constants for constants in self._exempt.values()):
            return
        self.arenas.hold(size)
        held = _Held(array, self._freed)
        held.key, held.size = key, size
        self._held[key] = held

    def _freed(self, held: Any) -> None:
        if self._held.pop(held.key, None) is not None:
            self.arenas.release(held.size)

    def close(self) -> None:
        """End the run: what it gives no longer counts."""
        held, self._held = self._held, {}
        for h in held.values():
            self.arenas.release(h.size)


def owner(array: np.ndarray) -> np.ndarray:
    """The array whose memory this one shows, or itself."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def ids(values: Iterable[Any]) -> frozenset[int]:
    """The ids of the arrays that own these values' memory."""
    found: set[int] = set()
    for value in values:
        if isinstance(value, list):
            found |= ids(value)
        elif isinstance(value, np.ndarray):
            found.add(id(owner(value)))
    return frozenset(found)


__all__ = ["Account", "ids"]
