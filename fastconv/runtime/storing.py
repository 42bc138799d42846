"""Writes the files that ``stored`` reads. Nothing here is an error to anybody: it is tried."""

from __future__ import annotations

import marshal
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .. import kernels
from ..plan.packing import address
from ..sizes import checked_size
from .engine import Prepared
from .stored import (
    ALIGN,
    CONST,
    DIGEST,
    MAGIC,
    MAX_HEADER,
    PAGE,
    SIZES,
    SUFFIX,
    Entry,
    Request,
    build,
    digest_of,
    folder_fits,
    holds,
    read,
    stamp,
)

#: Plans of an entry; entries of a folder, and their bytes together.
MAX_PLANS = 4
MAX_ENTRIES = 32
MAX_BYTES = 4 << 30
#: Seconds after which a file that was not finished is taken away.
ABANDONED = 3600
#: A file that was changed so shortly before it was read (ns) may change again unnoticed: the times
#: that file systems keep advance in steps.
SETTLED = 100_000_000


def store(
    wanted: Request,
    portrait: Mapping[str, Any],
    state: Callable[[str], Any],
    key: Any,
    prepared: Prepared,
) -> bool:
    """Add a plan to the entry of a model, if it can be stored.

    Args:
        wanted: what the entry is for, as it was when the model was read.
        portrait: ``signature``, ``kind``, ``tuned`` and ``externals`` of the header.
        state: as of ``stored.holds``.
        key: ``stored.plan_key`` of the plan.
        prepared: the plan.

    Returns:
        Whether there is room for a further one.
    """
    try:
        return _store(wanted, portrait, state, key, prepared)
    except Exception:  # a cache that cannot be written is no reason to stop
        return False


def _store(
    wanted: Request,
    portrait: Mapping[str, Any],
    state: Callable[[str], Any],
    key: Any,
    prepared: Prepared,
) -> bool:
    if prepared.hot is None or any(s.function is not None for s in prepared.plan.steps):
        return True
    stamps = [stamp(wanted.real), *(e[2] for e in portrait["externals"])]
    if stamps[0] != wanted.stamp:
        return False
    if not all(s is not None and max(s[3:]) < wanted.began - SETTLED for s in stamps):
        return False
    make_folder(wanted.folder)
    if not folder_fits(wanted.folder):
        return False
    if state(portrait["kind"]) != portrait["tuned"] or build.__wrapped__() != build():
        return False
    header: dict[str, Any] = {**portrait, "key": wanted.key, "stamp": wanted.stamp, "plans": []}
    data = Data()
    old = read(wanted.path)
    if old is not None and holds(old, wanted, state):
        if len(old.header["plans"]) >= MAX_PLANS:
            return False
        for record in old.header["plans"]:
            if record["key"] == key:
                return True
            header["plans"].append(moved(record, old, data))
    header["plans"].append(picture(prepared, key, data))
    write(wanted.folder, wanted.path, header, data)
    tidy(wanted.folder, wanted.path)
    return len(header["plans"]) < MAX_PLANS


def make_folder(folder: str) -> None:
    """Make a folder that is this user's alone, unless there is one."""
    parent = os.path.dirname(folder)
    if parent and not os.path.isdir(parent):
        os.makedirs(parent, 0o700, exist_ok=True)
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        pass


class Data:
    """The arrays of an entry, those alike once.

    Attributes:
        parts: their offsets and bytes, in order.
        size: bytes of all.
    """

    def __init__(self) -> None:
        self.parts: list[tuple[int, np.ndarray]] = []
        self.size = 0
        self._known: dict[tuple[int, int], int] = {}
        self._alike: dict[int, list[tuple[int, np.ndarray]]] = {}

    def add(self, flat: np.ndarray) -> int:
        """The offset of these bytes."""
        where = (address(flat), flat.size)
        offset = self._known.get(where)
        if offset is None:
            alike = self._alike.setdefault(flat.size, [])
            offset = next((o for o, other in alike if same(flat, other)), None)
            if offset is None:
                offset = self.size
                self.size += -(-flat.size // ALIGN) * ALIGN
                self.parts.append((offset, flat))
                alike.append((offset, flat))
            self._known[where] = offset
        return offset


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two vectors of bytes are equal; most that are not differ early."""
    return np.array_equal(a[:PAGE], b[:PAGE]) and np.array_equal(a, b)


def picture(prepared: Prepared, key: Any, data: Data) -> dict[str, Any]:
    """What an entry says of a plan; its constants join ``data``."""
    plan = prepared.plan
    steps, parts = [], []
    for step, (_, params, refs, share) in zip(plan.steps, plan.entries, strict=True):
        places = []
        for place, (kind, value) in zip(step.places, refs, strict=True):
            if kind == CONST:
                assert place is not None
                array = place.buffer.array
                assert array is not None
                offset = data.add(array.reshape(-1).view(np.uint8))
                parts.append((offset, array.nbytes))
                value = offset + value - address(array)
            places.append((kind, int(value)))
        steps.append((step.kernel, params, tuple(places), tuple(map(int, share))))
    types = {}
    for name in plan.externals:
        t = plan.types[name]
        assert t.shape is not None
        assert t.dtype is not None
        if np.dtype(t.dtype.str) != t.dtype:
            raise ValueError("not one of NumPy's own types")
        types[name] = (tuple(map(int, t.shape)), t.dtype.str)  # type: ignore[arg-type]
    return {
        "key": key,
        "isa": kernels.chosen_isa(),
        "arena": int(plan.arena_size),
        "threads": int(prepared.program.max_threads),
        "externals": list(plan.externals),
        "results": list(plan.results),
        "types": types,
        "steps": steps,
        "parts": sorted(set(parts)),
    }


def moved(record: Mapping[str, Any], entry: Entry, data: Data) -> dict[str, Any]:
    """The record of a plan in another entry; its constants join ``data``."""
    whole = np.frombuffer(entry.pages, np.uint8, entry.size, entry.start)
    starts = [offset for offset, _ in record["parts"]]
    new = {offset: data.add(whole[offset : offset + n]) for offset, n in record["parts"]}

    def place(kind: int, value: int) -> tuple[int, int]:
        if kind != CONST:
            return kind, value
        part = max(s for s in starts if s <= value)
        return kind, value - part + new[part]

    steps = [(n, p, tuple(place(*r) for r in refs), share) for n, p, refs, share in record["steps"]]
    sizes = dict(record["parts"])
    return {**record, "steps": steps, "parts": sorted({(new[s], sizes[s]) for s in starts})}


def write(folder: str, path: str, header: Mapping[str, Any], data: Data) -> None:
    """Write an entry in one piece or not at all.

    Raises:
        OSError: it cannot be written.
        ValueError: something in it cannot be stored, or it is too large.
    """
    content = marshal.dumps(dict(header))
    start = -(-(SIZES.size + DIGEST + len(content)) // PAGE) * PAGE
    if len(content) > MAX_HEADER or checked_size((start + data.size,)) > MAX_BYTES:
        raise ValueError("too large")
    sizes = SIZES.pack(MAGIC, len(content), start, data.size)
    digest = digest_of(sizes, content)
    temporary = os.path.join(folder, f".{os.getpid()}-{os.urandom(8).hex()}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(temporary, flags, 0o600)
    try:
        with open(fd, "wb") as f:
            f.write(sizes + digest + content)
            at = SIZES.size + DIGEST + len(content)
            for offset, flat in data.parts:
                f.write(bytes(start + offset - at))
                f.write(flat.data)
                at = start + offset + flat.size
            f.write(bytes(start + data.size + PAGE - at))
            f.write(MAGIC + digest)
            f.flush()
            os.fsync(f.fileno())  # a name for data that a crash may lose would be a wrong result
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def tidy(folder: str, keep: str) -> None:
    """Take away the least recently used entries that are too many, and what was never finished."""
    found = []
    now = time.time()
    with os.scandir(folder) as entries:
        for e in entries:
            if not e.name.endswith((SUFFIX, ".tmp")):
                continue
            info = e.stat(follow_symlinks=False)
            if e.name.endswith(SUFFIX):
                found.append((e.path != keep, -info.st_mtime, info.st_size, e.path))
            elif e.name.startswith(".") and now - info.st_mtime > ABANDONED:
                remove(e.path)
    total = 0
    for count, (_, _, size, path) in enumerate(sorted(found)):
        total += size
        if count >= MAX_ENTRIES or total > MAX_BYTES:
            remove(path)


def remove(path: str) -> None:
    """Remove a file that another process may have removed before."""
    try:
        os.unlink(path)
    except OSError:
        pass


__all__ = ["store"]
