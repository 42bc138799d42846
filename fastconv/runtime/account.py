"""What a run keeps in memory outside arenas: values that live between the parts of its plan."""

from __future__ import annotations

import weakref
from collections.abc import Collection, Iterable
from typing import Any

import numpy as np

from .arenas import Arenas

#: Bytes that an array takes besides its elements, about.
OVERHEAD = 128


class _Held(weakref.ref):
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
        self._kept: set[int] = set()

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
        if nbytes:
            self.arenas.release(nbytes)

    def add(self, values: Iterable[Any]) -> None:
        """Count values: arrays, sequences of such, or None.

        Raises:
            MemoryLimitError: the limit is passed.
        """
        for value in values:
            if isinstance(value, np.ndarray):
                if value.nbytes >= self.least:
                    self._add(owner(value))
            elif isinstance(value, list):
                self.add(value)

    def _add(self, array: np.ndarray) -> None:
        key = id(array)
        if key in self._held:
            return
        for constants in self._exempt.values():
            if key in constants:
                return
        size = array.nbytes + OVERHEAD
        self.arenas.hold(size)
        held = self._held[key] = _Held(array, self._freed)
        held.key, held.size = key, size

    def keep(self, values: Collection[Any]) -> None:
        """Count values that plans keep for later runs, and do not :meth:`give` them away."""
        if values:
            self.add(values)
            self._kept |= ids(values)

    def give(self, value: Any) -> bool:
        """Whether the caller may have a value as it is: nobody else has any of its memory.

        That is so once for each array.
        """
        found = ids([value])
        free = found <= self._held.keys() and not found & self._kept
        free = free and all(map(_whole, value if isinstance(value, list) else [value]))
        self._kept |= found
        return free

    def _freed(self, held: Any) -> None:
        if self._held.pop(held.key, None) is not None:
            self.arenas.release(held.size)

    def close(self) -> None:
        """End the run: what it gives no longer counts."""
        held, self._held = self._held, {}
        for h in held.values():
            self.arenas.release(h.size)


def _whole(value: Any) -> bool:
    """Whether an array is all of the memory that it is in."""
    if not isinstance(value, np.ndarray):
        return value is None
    flags = value.flags
    return flags.c_contiguous and flags.writeable and value.nbytes == owner(value).nbytes


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
