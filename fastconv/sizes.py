"""The one checked multiply: every element or byte count is computed here before it is allocated.

A leaf: imports only ``errors``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import cache
from math import prod

from .errors import MemoryLimitError

#: No tensor may have more bytes than this (2**48); anything larger is an attack or a mistake.
MAX_BYTES = 1 << 48


def checked_size(shape: Iterable[int], itemsize: int = 1, what: str = "tensor") -> int:
    """Return ``itemsize * prod(shape)`` in bytes.

    Args:
        shape: dimensions, each ≥ 0.
        itemsize: bytes per element.
        what: named in the error.

    Raises:
        MemoryLimitError: a dimension is negative, or the product passes ``MAX_BYTES``.
    """
    shape = tuple(shape)
    total = prod(shape, start=itemsize)
    if 0 < total <= MAX_BYTES and (not shape or min(shape) > 0):
        return total
    total = itemsize
    empty = False
    for d in shape:
        if d < 0:
            raise MemoryLimitError(f"{what}: negative dimension in shape {list(shape)}")
        if d == 0:
            empty = True
            continue
        total *= d
        if total > MAX_BYTES:
            raise MemoryLimitError(
                f"{what}: shape {list(shape)} × {itemsize} bytes exceeds {MAX_BYTES} bytes"
            )
    return 0 if empty else total


_CGROUP = "/sys/fs/cgroup"


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as f:
            return f.read().strip()
    except OSError:
        return ""


def memory_quota() -> int | None:
    """Bytes of memory that the container allows this process, or None without a limit.

    Reads cgroup v2 (``memory.max`` of this process's group and every group above it) and v1.
    """
    limits = []
    for line in _read("/proc/self/cgroup").splitlines() or ["0::/"]:
        number, controllers, path = (*line.split(":", 2), "", "")[:3]
        if number == "0":
            folder, name = _CGROUP, "memory.max"
        elif "memory" in controllers.split(","):
            folder, name = f"{_CGROUP}/memory", "memory.limit_in_bytes"
        else:
            continue
        while True:
            text = _read(f"{folder}{path.rstrip('/')}/{name}")
            if text.isdecimal():
                limits.append(int(text))
            if path in ("", "/"):
                break
            path = path.rsplit("/", 1)[0]
    return min(limits) if limits else None


@cache
def machine_memory() -> int:
    """Bytes of memory that this process may use: the machine's, or its container's if less."""
    limits = [MAX_BYTES]
    try:
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        pass
    quota = memory_quota()
    if quota is not None:
        limits.append(quota)
    return max(1, min(limits))
