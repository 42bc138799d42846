"""Where values live: what their memory and their layouts are called, and the arena."""

from __future__ import annotations

from ..errors import MemoryLimitError
from ..records import field, record
from .places import Buffer, Place, arrange

#: Every arena buffer starts at a multiple of this many bytes (a cache line, an AVX-512 vector).
ALIGN = 64

# How a step names a buffer: must agree with runtime/executor.pyx and places.pyx.
ARENA, CONST, EXTERNAL, ABSENT = 0, 1, 2, 3

# How a value's elements lie: see ``Place``.
PLAIN = "plain"
CHANNELS_LAST = "channels_last"
FLAT = "flat"


@record
class Arena:
    """Assigns offsets to buffers so that those alive at the same time do not overlap."""

    buffers: list[Buffer] = field(default_factory=list)

    def layout(self, limit: int | None = None) -> int:
        """Fix every buffer's offset; returns the arena's size in bytes.

        Raises:
            MemoryLimitError: the arena would pass ``limit`` bytes.
        """
        try:
            total = arrange(self.buffers)
        except OverflowError:
            raise MemoryLimitError("activations need more bytes than 64 bits can count") from None
        if limit is not None and total > limit:
            raise MemoryLimitError(
                f"activations need {total} bytes for these input shapes; the limit is {limit}"
            )
        return total


__all__ = [
    "ABSENT", "ALIGN", "ARENA", "CHANNELS_LAST", "CONST", "EXTERNAL", "FLAT", "PLAIN", "Arena",
    "Buffer", "Place",
]  # fmt: skip
