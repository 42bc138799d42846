"""The kernel families built for one instruction set: one compiled module each."""

from collections.abc import Callable
from typing import Any, Protocol

class _Family(Protocol):
    """A compiled kernel family.

    ``KERNELS`` maps a kernel's name to its C address and the function that packs keyword sizes into
    the bytes of its parameter struct.
    """

    KERNELS: dict[str, tuple[int, Callable[..., bytes]]]

class _SizedFamily(_Family, Protocol):
    """A family with compile-time sizes that plans must know, such as ``VW``, ``MR`` and ``NR``."""

    CONSTANTS: dict[str, int]

class _PackFamily(_Family, Protocol):
    """The family that packs weights; see its functions' docstrings."""

    def fixed_bytes(self, filters: int, channels: int) -> int: ...
    def pack_digits(self, panels: Any, out: Any, units: Any) -> None: ...
    def pack_filters(self, w: Any, group: int, out: Any, block: int = 0, wide: int = 0) -> None: ...
    def pack_fixed(self, w: Any, out: Any) -> bool: ...
    def transform_filters(self, w: Any, g: Any, out: Any) -> None: ...

conv: _SizedFamily
deform: _Family
depthwise: _SizedFamily
detect: _Family
elementwise: _SizedFamily
matmul: _SizedFamily
move: _Family
norm: _Family
pack: _PackFamily
pool: _Family
qconv: _SizedFamily
qdepthwise: _SizedFamily
qelementwise: _Family
recurrent: _Family
reduce: _Family
resize: _Family
winograd: _Family
