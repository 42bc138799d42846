"""The arenas of a model: shared by its plans, handed out to one run at a time."""

from __future__ import annotations

import os
import weakref
from _thread import allocate_lock

from ..errors import MemoryLimitError
from .executor import Arena, forget_teams

#: Arenas grow in steps of one part in this many, so that slightly larger inputs find one that fits.
STEPS = 8
#: Arenas from here on have huge pages.
HUGE = 4 << 20
#: ``MADV_POPULATE_WRITE`` of Linux, which ``mmap`` does not name; and a size that pages divide.
POPULATE_WRITE, PAGE = 23, 4096

_all: weakref.WeakSet[Arenas] = weakref.WeakSet()


def _after_fork() -> None:
    """In a forked child: no lock is held, and the helping threads stayed with the parent."""
    forget_teams()
    for arenas in list(_all):
        arenas._lock = allocate_lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Arenas:
    """Hands out arenas, and keeps the free ones for the next run, whatever its shapes.

    A free arena that is too small is dropped before a larger one is made: a model whose inputs
    change from run to run settles at the largest size per concurrent run.

    Args:
        limit: bytes that all arenas, and what is held beside them, may take together, or None.

    Attributes:
        nbytes: bytes of all arenas, free and in use.
        peak: the most that ``nbytes`` has been.
        held: bytes of the values that runs in progress keep outside arenas.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.nbytes = 0
        self.peak = 0
        self.held = 0
        #: What is no longer held, and not yet taken off: appending needs no lock, which whoever
        #: frees an array (a garbage collection at any time) may have already.
        self._released: list[int] = []
        self._free: list[Arena] = []
        self._lock = allocate_lock()
        _all.add(self)

    def take(self, size: int) -> Arena | None:
        """An arena of ``size`` bytes or more; None for 0 bytes.

        Raises:
            MemoryLimitError: the limit would be passed, or the system has no memory.
        """
        if size <= 0:
            return None
        with self._lock:
            fit = min((a for a in self._free if a.size >= size), key=lambda a: a.size, default=None)
            if fit is not None:
                self._free.remove(fit)
                return fit
            wanted = _rounded(size)
            if self._free:
                small = max(self._free, key=lambda a: a.size)
                self._drop(small)
            if self.limit is not None and self._used() + wanted > self.limit:
                while self._free:
                    self._drop(self._free[-1])
                wanted = min(wanted, max(size, self.limit - self._used()))
                if self._used() + wanted > self.limit:
                    raise MemoryLimitError(
                        f"a run needs {size} bytes for activations, and runs in progress have "
                        f"{self._used()}; the limit is {self.limit}"
                    )
            self.nbytes += wanted
            self.peak = max(self.peak, self.nbytes)
        try:
            return _touched(Arena(wanted), size)
        except BaseException as e:
            with self._lock:
                self.nbytes -= wanted
            if isinstance(e, (MemoryError, OSError, OverflowError, ValueError)):
                raise MemoryLimitError(
                    f"cannot allocate {wanted} bytes for activations: {e}"
                ) from None
            raise

    def give(self, arena: Arena | None) -> None:
        """Take back what :meth:`take` handed out."""
        if arena is not None:
            with self._lock:
                self._free.append(arena)

    def room(self, nbytes: int) -> None:
        """Make sure that so many bytes more may be held; free arenas make way.

        Raises:
            MemoryLimitError: the limit would be passed.
        """
        with self._lock:
            self._make_room(nbytes)

    def hold(self, nbytes: int) -> None:
        """Count so many bytes outside arenas.

        Raises:
            MemoryLimitError: the limit is passed; they are not counted.
        """
        with self._lock:
            if self.limit is not None and self._used() + nbytes > self.limit:
                self._make_room(nbytes)
            self.held += nbytes

    def release(self, nbytes: int) -> None:
        """Take back what :meth:`hold` counted."""
        self._released.append(nbytes)

    def _make_room(self, nbytes: int) -> None:
        if self.limit is None or self._used() + nbytes <= self.limit:
            return
        while self._free and self._used() + nbytes > self.limit:
            self._drop(self._free[-1])
        if self._used() + nbytes > self.limit:
            raise MemoryLimitError(
                f"a result needs {nbytes} bytes, and runs in progress have {self._used()}; "
                f"the limit is {self.limit}"
            )

    def _used(self) -> int:
        """Bytes of arenas and of what is held, with the lock taken."""
        while self._released:
            self.held -= self._released.pop()
        return self.nbytes + self.held

    def _drop(self, arena: Arena) -> None:
        self._free.remove(arena)
        self.nbytes -= arena.size


def _touched(arena: Arena, size: int) -> Arena:
    """The arena with the pages of its first ``size`` bytes at hand, all at once.

    One by one, as they are written to, they take several times as long. Larger arenas have huge
    pages, where the system gives such; and there need not be memory for all of them yet.
    """
    if size < HUGE:
        try:
            arena.map.madvise(POPULATE_WRITE, 0, -(-size // PAGE) * PAGE)
        except (AttributeError, OSError, ValueError):
            pass  # not Linux, or before 5.14
    return arena


def _rounded(size: int) -> int:
    """``size`` rounded up to a multiple of an eighth of the power of two below it."""
    step = max(4096, 1 << max(0, size.bit_length() - 1 - STEPS.bit_length() + 1))
    return -(-size // step) * step
