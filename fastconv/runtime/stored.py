"""Finished plans in files: what a second start of a program finds, and when it holds.

An entry is one file for one model file and one set of options. It holds what the model takes and
gives, and for a few input shapes the program (kernels by name, their parameters, where buffers
lie) with the packed weights, which are mapped rather than read. ``storing`` writes it.

The file: ``MAGIC``, three sizes, a digest of these and of the header; the header (``marshal``);
from the next page on the data, each array from the start of a cache line; a page of zeros, since
nothing that a kernel reads should end where the mapping does; ``MAGIC`` and the digest again. It is
written under another name, synchronised and renamed, and never changed after that. The data have no
digest of their own: reading them all would take as long as packing.

Kernels trust parameters, so an entry is as sensitive as code. It is used only if it and its folder
belong to this user and nobody else may write to them; and only for the very model file (and files
of external data) by path, device, inode, size and times, the options, the CPU and the build of
fastconv, Python and NumPy that it was made with. Whatever is not as it should be means that there
is none.
"""

from __future__ import annotations

import marshal
import mmap
import os
import stat
import struct
import sys
import time
import weakref
from _thread import allocate_lock
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np

from .. import kernels
from ..sizes import checked_size, machine_memory
from ..threads import cpu_name
from .arenas import Arenas
from .executor import Program, Runner
from .ready import STARTED, Check, Ready, Typed

try:
    from _blake2 import blake2b  # hashlib would load OpenSSL as well
except ImportError:  # pragma: no cover
    from hashlib import blake2b

FORMAT = 1
MAGIC = b"fastconv plans" + bytes([0, FORMAT])
#: ``MAGIC``, bytes of the header, where the data begin and how many bytes they are.
SIZES = struct.Struct("<16sQQQ")
DIGEST = 32
PAGE, ALIGN = 4096, 64
SUFFIX = ".plans"
#: Kinds of buffers, as the executor numbers them.
ARENA, CONST, EXTERNAL, ABSENT = 0, 1, 2, 3
#: What an entry says of a model, apart from inputs and outputs.
SIGNATURE = ("opset", "metadata", "producer", "ir_version")
#: A header of more bytes is none of ours.
MAX_HEADER = 64 << 20


class Request:
    """What an entry must have been made for.

    Attributes:
        folder, path: where it is.
        source, real: the model's path as given (absolute), and without symbolic links.
        key: all else that a difference in means that there is none.
        stamp: the model file's.
        began: when the model was about to be read, in nanoseconds since 1970.
        limit: bytes that activations and outputs may take.
    """

    def __init__(
        self,
        folder: str,
        path: str,
        source: str,
        real: str,
        key: tuple[Any, ...],
        stamp: tuple[int, ...],
        began: int,
        limit: int,
    ) -> None:
        self.folder = folder
        self.path = path
        self.source = source
        self.real = real
        self.key = key
        self.stamp = stamp
        self.began = began
        self.limit = limit

    def again(self) -> Request | None:
        """The same with the file as it is now; None where it is gone."""
        now = time.time_ns()
        found = stamp(self.real)
        if found is None:
            return None
        return Request(
            self.folder, self.path, self.source, self.real, self.key, found, now, self.limit
        )


def stamp(path: str) -> tuple[int, ...] | None:
    """What changes when a file does; None if it is no regular file."""
    try:
        s = os.stat(path)
    except (OSError, ValueError):
        return None
    if not stat.S_ISREG(s.st_mode):
        return None
    return s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns


def _package() -> str:
    return os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


@cache
def build() -> bytes | None:
    """A digest over the files of this package: their names, sizes and times.

    None without files, and if one has changed since this process began to import them.
    """
    found = []
    folders = [_package()]
    for folder in folders:
        try:
            with os.scandir(folder) as entries:
                for e in entries:
                    name = e.name
                    if name.endswith((".py", ".so", ".pyd")):
                        s = e.stat()
                        times = s.st_mtime_ns, s.st_ctime_ns
                        if times[1] >= STARTED:
                            return None
                        found.append((folder, name, s.st_size, s.st_ino, *times))
                    elif name != "__pycache__" and e.is_dir():
                        folders.append(e.path)
        except OSError:
            return None
    found.sort()
    return blake2b(repr(found).encode(), digest_size=DIGEST).digest() if found else None


def machine() -> tuple[Any, ...] | None:
    """What entries depend on apart from the model and its options; None if that is not known."""
    from .. import __version__

    made = build()
    if made is None or not hasattr(os, "geteuid") or sys.implementation.name != "cpython":
        return None
    isa = kernels.chosen_isa()
    features = (kernels.cpu_isas(), kernels.has_vnni(), kernels.has_openmp(), sys.byteorder)
    return __version__, made, sys.version, np.__version__, cpu_name(), isa, *features


def request(
    folder: str, source: str, options: tuple[Any, ...], limit: int | None
) -> Request | None:
    """What to look for; None where nothing can be stored.

    Args:
        folder: the folder of entries.
        source: the model's absolute path.
        options: all options of the model, as plain values.
        limit: bytes that activations may take, or None for the machine's memory.
    """
    here = machine()
    began = time.time_ns()
    real = os.path.realpath(source)
    found = stamp(real)
    if here is None or found is None:
        return None
    key = (FORMAT, source, real, options, here)
    name = blake2b(repr(key).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    path = os.path.join(folder, name + SUFFIX)
    return Request(folder, path, source, real, key, found, began, limit or machine_memory())


def private(info: os.stat_result) -> bool:
    """Whether a file or folder is this user's, and nobody else may write to it."""
    return info.st_uid == os.geteuid() and not info.st_mode & 0o022


def folder_fits(folder: str) -> bool:
    """Whether entries in a folder may be used."""
    try:
        info = os.stat(folder)
    except (OSError, ValueError):
        return False
    return stat.S_ISDIR(info.st_mode) and private(info)


class Entry:
    """A file that is sound in itself: its mapping, where its data are, and its header."""

    def __init__(self, pages: mmap.mmap, start: int, size: int, header: dict[str, Any]) -> None:
        self.pages = pages
        self.start = start
        self.size = size
        self.header = header


def digest_of(sizes: bytes, header: bytes) -> bytes:
    return blake2b(sizes + header, digest_size=DIGEST).digest()


def read(path: str) -> Entry | None:
    """An entry, if the file is sound: owner, sizes and digest are right."""
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(path, flags)
        try:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode) or not private(info):
                return None
            total = info.st_size
            if total < SIZES.size + DIGEST:
                return None
            pages = mmap.mmap(fd, total, access=mmap.ACCESS_READ)
        finally:
            os.close(fd)
        sizes = pages[: SIZES.size]
        magic, length, start, size = SIZES.unpack(sizes)
        first = SIZES.size + DIGEST
        end = checked_size((start,)) + checked_size((size,)) + PAGE
        if magic != MAGIC or length > MAX_HEADER or first + length > start:
            return None
        if start % PAGE or end + len(MAGIC) + DIGEST != total:
            return None
        wanted = pages[SIZES.size : first]
        header = pages[first : first + length]
        if digest_of(sizes, header) != wanted or pages[end:] != MAGIC + wanted:
            return None
        content = marshal.loads(header)
        return Entry(pages, start, size, content) if isinstance(content, dict) else None
    except Exception:  # whatever is wrong with it, it is not to be used
        return None


def external(source: str, location: str) -> str:
    """Where a file of external data is, without symbolic links."""
    return os.path.realpath(os.path.join(os.path.dirname(source), location))


def holds(entry: Entry, wanted: Request, state: Callable[[str], Any]) -> bool:
    """Whether an entry was made for this model file as it is now, and all that goes with it.

    ``state`` gives the state of the tuned choices for models of a kind (``tuning.state``).
    """
    h = entry.header
    if h["key"] != wanted.key or h["stamp"] != wanted.stamp:
        return False
    for location, real, known in h["externals"]:
        if external(wanted.source, location) != real or stamp(real) != known:
            return False
    return bool(state(h["kind"]) == h["tuned"])


def find(wanted: Request, state: Callable[[str], Any]) -> Stored | None:
    """The stored plans that were asked for, or None."""
    if not folder_fits(wanted.folder):
        return None
    entry = read(wanted.path)
    try:
        if entry is None or not holds(entry, wanted, state):
            return None
        stored = Stored(entry, wanted)
    except Exception:  # as above
        return None
    try:
        os.utime(wanted.path)  # the least recently used go first
    except OSError:
        pass
    return stored


class Stored:
    """A model's stored plans, which run as the engine's own do.

    Attributes:
        signature: what the model takes and gives.
        hot: the short way to the plan of the last run.
        arenas: where activations live; for the engine too, should there be one.
        lock: held while the model is read after all.
    """

    def __init__(self, entry: Entry, wanted: Request) -> None:
        self.entry = entry
        self.wanted = wanted
        self.signature: dict[str, Any] = entry.header["signature"]
        self.hot: Runner | None = None
        self.lock = allocate_lock()
        self.arenas = Arenas(wanted.limit)
        self._names: list[str] = self.signature["names"]
        self._records = {record["key"]: record for record in entry.header["plans"]}
        self._ready: dict[Any, Ready] = {}
        data = np.frombuffer(entry.pages, np.uint8, entry.size, entry.start)
        self._data = data
        _all.add(self)

    def attributes(self, info: Callable[..., Any]) -> dict[str, Any]:
        """The attributes of a model that its signature tells; ``info`` makes a ``TensorInfo``."""
        told: dict[str, Any] = {n: self.signature[n] for n in SIGNATURE}
        for name in ("inputs", "outputs", "overridable"):
            told[name] = [
                info(n, shape, None if code is None else np.dtype(code))
                for n, shape, code in self.signature[name]
            ]
        return {**told, "_kinds": {}, "_widened": {}, "_narrowed": {}, "_foreign": False}

    def still_holds(self, state: Callable[[str], Any]) -> bool:
        """Whether the model's files are what they were."""
        now = self.wanted.again()
        return now is not None and holds(self.entry, now, state)

    def prepare(self, feeds: Mapping[str, Any]) -> Ready | None:
        """The plan for these input types, or None if it is not among those stored."""
        key = plan_key(self._names, feeds)
        ready = self._ready.get(key)
        if ready is None:
            record = self._records.get(key)
            if record is None:
                return None
            ready = self._load(record)
            if ready is None:
                self._records.pop(key, None)
                return None
            ready = self._ready.setdefault(key, ready)
        return ready

    def _load(self, record: Mapping[str, Any]) -> Ready | None:
        """A program from its record; None if it does not fit memory or this installation."""
        types = {n: Typed(shape, np.dtype(code)) for n, (shape, code) in record["types"].items()}
        need = 0
        for name in record["results"]:
            shape, code = record["types"][name]
            need += checked_size(shape, np.dtype(code).itemsize)
        arena, externals = record["arena"], record["externals"]
        if arena + need > self.wanted.limit:
            return None
        table = kernels.table(record["isa"])
        base = self._data.__array_interface__["data"][0] if self._data.size else 0
        most = {ARENA: arena, CONST: self._data.size, EXTERNAL: len(externals) - 1, ABSENT: 0}
        steps: list[Any] = []
        for name, params, refs, share in record["steps"]:
            kernel = table.get(name)
            if kernel is None:
                return None
            places = []
            for kind, value in refs:
                if not 0 <= value <= most[kind]:
                    return None
                places.append((kind, base + value if kind == CONST else value))
            steps.append((kernel.address, params, places, share, None))
        program = Program(steps, arena, (self.entry.pages, self._data), record["threads"])
        ready = Ready(program, externals, record["results"], types, self.arenas)
        ready.hot = ready.runner(types)
        return ready

    def run(self, feeds: Mapping[str, Any], check: Check = None) -> dict[str, Any] | None:
        """Run on what the model's checks returned; None where no plan is stored for its shapes."""
        ready = self.prepare(feeds)
        if ready is None:
            return None
        if check is not None:
            check()
        outs = ready.run(feeds, None, check)
        self.hot = ready.hot
        return outs


def plan_key(names: list[str], feeds: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a plan of an entry is for: shape and dtype of every input."""
    return tuple([(feeds[n].shape, feeds[n].dtype.str) for n in names])


_all: weakref.WeakSet[Stored] = weakref.WeakSet()


def _after_fork() -> None:
    """In a forked child: no lock is held."""
    for stored in list(_all):
        stored.lock = allocate_lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

__all__ = ["Entry", "Request", "Stored", "find", "holds", "plan_key", "read", "request", "stamp"]
