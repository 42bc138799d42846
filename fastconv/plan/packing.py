"""Packed weights: made once for all plans of a model, in memory that costs few page faults."""

from __future__ import annotations

import mmap
from _thread import _local as local
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import numpy as np

from ..sizes import checked_size
from .memory import ALIGN, CONST, Buffer, Place

#: Sizes of a huge page, and of the address space that is asked for at once (no memory as yet).
HUGE, CHUNK = 2 << 20, 32 << 20
#: What is packed before huge pages are used: a small model takes no more memory than it needs.
SMALL = 1 << 20
#: Larger arrays get memory of their own, for which NumPy asks for huge pages by itself.
LARGE = 4 << 20


class Pool:
    """Zeroed memory in huge pages, which is never given back one by one.

    A page fault costs as much as packing a page of weights three times over; with huge pages there
    is one for 512 pages. Memory lives as long as an array in it.
    """

    def __init__(self) -> None:
        self._total = 0
        self._chunk: np.ndarray = np.empty(0, np.uint8)

    def take(self, nbytes: int) -> np.ndarray | None:
        """``nbytes`` and more from the start of a cache line, or None: use ordinary memory."""
        self._total += nbytes
        if self._total < SMALL or nbytes > LARGE or not hasattr(mmap, "MADV_HUGEPAGE"):
            return None
        size = -(-nbytes // ALIGN) * ALIGN
        chunk = self._chunk
        if size > chunk.size:
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
            try:
                pages = mmap.mmap(-1, CHUNK + HUGE, flags=flags)
                pages.madvise(mmap.MADV_HUGEPAGE)
            except OSError:  # a limit on address space, or a kernel without huge pages
                return None
            chunk = np.frombuffer(pages, np.uint8)
            chunk = chunk[-address(chunk) % HUGE :][:CHUNK]
        self._chunk = chunk[size:]
        return chunk[:size]


#: The pool in use while an array is made, by thread.
_making = local()

#: Mapped weights whose pages may be resident before they are let go of.
RELEASE_BYTES = 4 << 20


class PackCache:
    """Packed weights by key, shared by all plans of a model.

    Weights are read once, to be packed, and mostly lie in a mapped file. Their pages are let go of
    after that, so that weights take memory once; should they be needed again (by a plan of other
    kernels, or to be shown) the system reads them again.

    Args:
        constants: bytes of all constants of the model, whose plans may go by it.
    """

    def __init__(self, constants: int = 0) -> None:
        self.constants = constants
        self._arrays: dict[Hashable, np.ndarray] = {}
        self.places: dict[Hashable, Place] = {}
        self._keys: dict[int, Hashable] = {}
        self._finite: dict[int, tuple[np.ndarray, bool]] = {}
        self._maps: dict[int, mmap.mmap] = {}
        self._read = 0
        self._pool = Pool()
        #: What planning keeps of each graph, by graph and settings.
        self.recipes: dict[Hashable, Any] = {}

    def empty(self) -> PackCache:
        """One with nothing packed, for other graphs of the same model."""
        return PackCache(self.constants)

    def place(
        self, key: Hashable, make: Callable[[], np.ndarray], sources: Iterable[np.ndarray] = ()
    ) -> Place:
        """The array of :meth:`get` as a place, which all plans share."""
        array = self.get(key, make, sources)
        place = Place(Buffer(CONST, array.nbytes, array), 0, array.shape, array.dtype)
        place = self.places.setdefault(key, place)
        self._keys[id(place.buffer)] = key
        return place

    def key_of(self, buffer: Buffer) -> Hashable:
        """The key of the packed weights in a buffer, or None where there are none."""
        return self._keys.get(id(buffer))

    def get(
        self, key: Hashable, make: Callable[[], np.ndarray], sources: Iterable[np.ndarray] = ()
    ) -> np.ndarray:
        """The array made for ``key`` before, or ``make()``; C-contiguous.

        ``sources`` are the weights that ``make`` reads.
        """
        array = self._arrays.get(key)
        if array is None:
            outer = getattr(_making, "pool", None)
            _making.pool = self._pool
            try:
                array = np.ascontiguousarray(make())
            finally:
                _making.pool = outer
            array = self._arrays.setdefault(key, array)
            for source in sources:
                self.done(source)
        return array

    def finite(self, array: np.ndarray) -> bool:
        """Whether a weight holds no NaN or Inf; looked at once."""
        known = self._finite.get(id(array))
        if known is None:
            with np.errstate(all="ignore"):
                # A NaN or Inf makes the sum one; finite elements may, rarely, by overflow.
                finite = bool(np.isfinite(array.sum())) or bool(np.isfinite(array).all())
            known = self._finite[id(array)] = (array, finite)
        return known[1]

    def note_odd(self, array: np.ndarray) -> None:
        """Note that a weight holds NaN or Inf, which whoever read it found."""
        self._finite[id(array)] = array, False

    def known_odd(self, array: np.ndarray) -> bool:
        """Whether a weight was looked at, by :meth:`finite` or else, and is not finite."""
        known = self._finite.get(id(array))
        return known is not None and not known[1]

    def done(self, array: np.ndarray) -> None:
        """Note that a weight was read, and let go of pages once many are resident."""
        pages = mapping(array)
        if pages is None:
            return
        self._maps[id(pages)] = pages
        self._read += array.nbytes
        if self._read >= RELEASE_BYTES:
            self.release()

    def release(self) -> None:
        """Let go of the pages of the mapped files that weights were read from."""
        for pages in self._maps.values():
            if hasattr(mmap, "MADV_DONTNEED"):
                pages.madvise(mmap.MADV_DONTNEED)
        self._maps.clear()
        self._read = 0

    @property
    def nbytes(self) -> int:
        return sum(a.nbytes for a in self._arrays.values())


def mapping(array: np.ndarray) -> mmap.mmap | None:
    """The read-only file mapping that an array views, or None."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, memoryview):
        return base.obj if isinstance(base.obj, mmap.mmap) and base.readonly else None
    return base if isinstance(base, mmap.mmap) and not array.flags.writeable else None


def aligned_empty(shape: Sequence[int], dtype: Any = np.float32) -> np.ndarray:
    """An array that starts at a cache line, its elements not set."""
    return _aligned(shape, dtype, np.empty)


def aligned_copy(array: np.ndarray) -> np.ndarray:
    """A C-contiguous copy that starts at a cache line."""
    copy = aligned_empty(array.shape, array.dtype)
    copy[...] = array
    return copy


def address(array: np.ndarray) -> int:
    """Where an array's memory begins."""
    return array.__array_interface__["data"][0]


def aligned_zeros(shape: Sequence[int], dtype: Any = np.float32) -> np.ndarray:
    """Zeros that start at a cache line."""
    return _aligned(shape, dtype, np.zeros)


def _aligned(
    shape: Sequence[int], dtype: Any, make: Callable[[int, type[np.uint8]], np.ndarray]
) -> np.ndarray:
    dtype = np.dtype(dtype)
    nbytes = checked_size(shape, dtype.itemsize)
    pool = getattr(_making, "pool", None)
    raw = None if pool is None else pool.take(nbytes)
    if raw is None:
        raw = make(nbytes + ALIGN, np.uint8)
    start = -address(raw) % ALIGN
    return raw[start : start + nbytes].view(dtype).reshape(shape)
