"""Buffers, where values live in them, and the arena: who may share memory with whom."""

from __future__ import annotations

from bisect import insort
from typing import Any

import numpy as np

from ..errors import MemoryLimitError
from ..records import field, record
from ..sizes import checked_size

#: Every arena buffer starts at a multiple of this many bytes (a cache line, an AVX-512 vector).
ALIGN = 64

# How a step names a buffer: must agree with runtime/executor.pyx.
ARENA, CONST, EXTERNAL, ABSENT = 0, 1, 2, 3


@record(eq=False, slots=True)
class Buffer:
    """A piece of memory.

    Attributes:
        kind: ``ARENA`` (of the run), ``CONST`` (``array``) or ``EXTERNAL`` (the caller's array
            number ``index``).
        nbytes: its size.
        first, last: of arena memory, the first and last step that touch it; ``offset`` follows
            from them.
        offset: where it begins: in the arena, or the address of a constant once somebody asked.
        parts: for scratch memory, how many threads have an equal part of it each: 1 when all of
            them use it together, 0 when only the kernel knows. None for anything else.
    """

    kind: int
    nbytes: int
    array: np.ndarray | None = None
    index: int = -1
    first: int = -1
    last: int = -1
    offset: int = -1
    parts: int | None = None

    def __init__(
        self,
        kind: int,
        nbytes: int,
        array: np.ndarray | None = None,
        index: int = -1,
        first: int = -1,
        last: int = -1,
        offset: int = -1,
        parts: int | None = None,
    ) -> None:
        self.kind = kind
        self.nbytes = nbytes
        self.array = array
        self.index = index
        self.first = first
        self.last = last
        self.offset = offset
        self.parts = parts

    def touch(self, step: int) -> None:
        if self.first < 0:
            self.first = step
        if step > self.last:
            self.last = step


PLAIN = "plain"
CHANNELS_LAST = "channels_last"
FLAT = "flat"


@record(frozen=True)
class Place:
    """Where a value lives and how its elements lie there.

    Attributes:
        buffer: the memory.
        start: first element, in bytes from the buffer's start.
        shape: the value's logical (ONNX) shape.
        dtype: element type.
        layout: ``PLAIN``: C order of ``shape``. ``CHANNELS_LAST``: ``shape`` is (N, C, *spatial)
            and memory is [N][*spatial][C], each pixel ``pixel`` elements after the one before.
            ``FLAT``: ``shape`` is (N, C*S), flattened from channels-last, memory is [N][S][C] with
            ``channels`` = C.
        pixel: elements from one pixel to the next (C when dense).
        channels: C of a ``FLAT`` value.
    """

    buffer: Buffer
    start: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    layout: str = PLAIN
    pixel: int = 0
    channels: int = 0

    def __init__(
        self,
        buffer: Buffer,
        start: int,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        layout: str = PLAIN,
        pixel: int = 0,
        channels: int = 0,
    ) -> None:
        values = self.__dict__
        values["buffer"] = buffer
        values["start"] = start
        values["shape"] = shape
        values["dtype"] = dtype
        values["layout"] = layout
        values["pixel"] = pixel
        values["channels"] = channels

    @property
    def nbytes(self) -> int:
        return checked_size(self.shape, self.dtype.itemsize)

    @property
    def size(self) -> int:
        return checked_size(self.shape, 1)

    @property
    def dense(self) -> bool:
        """Whether no foreign elements lie between this value's own."""
        return self.layout != CHANNELS_LAST or self.pixel == self.shape[1]


@record
class Arena:
    """Assigns offsets to buffers so that those alive at the same time do not overlap.

    Greedy by size, first fit, after Pisarchyk and Lee, "Efficient Memory Management for Deep Neural
    Net Inference", 2020.
    """

    buffers: list[Buffer] = field(default_factory=list)

    def layout(self, limit: int | None = None) -> int:
        """Fix every buffer's offset; returns the arena's size in bytes.

        Raises:
            MemoryLimitError: the arena would pass ``limit`` bytes.
        """
        total = 0
        placed: list[tuple[int, int, int, int]] = []  # offset, end, first, last; by offset
        live = [b for b in self.buffers if b.first >= 0]
        for b in sorted(live, key=lambda b: (-b.nbytes, b.first)):
            size = -(-max(b.nbytes, 1) // ALIGN) * ALIGN
            first, last = b.first, b.last
            offset = 0
            for lo, hi, begin, end in placed:
                if begin <= last and first <= end:
                    if offset + size <= lo:
                        break
                    if hi > offset:
                        offset = hi
            b.offset = offset
            total = max(total, offset + size)
            insort(placed, (offset, offset + size, first, last))
        if limit is not None and total > limit:
            raise MemoryLimitError(
                f"activations need {total} bytes for these input shapes; the limit is {limit}"
            )
        return total
