"""What ``fastconv tune`` found out: a small JSON file, where it is kept, and when it holds.

The file is in the cache folder, or beside the model as ``MODEL.tune.json``. It holds for one model,
one processor and one version of fastconv; for any other it is ignored, as is a file that cannot be
read. It only ever says which of the alternatives on offer to take, so it cannot change what is
computed beyond what the planner may choose by itself.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from . import knobs
from .errors import OptionError
from .kernels import cpu_isas
from .records import field, record
from .threads import cpu_name

if TYPE_CHECKING:
    from .graph import Graph

#: Version of the file's form.
FORMAT = 1
SUFFIX = ".tune.json"
#: A larger file is none of ours.
MAX_BYTES = 4 << 20
#: Bytes at each end of every weight that go into a model's digest.
SAMPLE = 64


class TuneWarning(UserWarning):
    """A file of tuned choices is ignored; the model runs with estimated ones."""


@record(frozen=True)
class Tuned:
    """The choices of one file.

    Attributes:
        path: the file.
        choices: decision (see ``plan/choice.py``) → name of the alternative.
        timings: decision → alternative → milliseconds, as measured when tuning.
    """

    path: str
    choices: Mapping[str, str] = field(default_factory=dict)
    timings: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def cache_folder() -> str | None:
    """Where tuned files are kept: ``FASTCONV_CACHE``, else ``fastconv`` in the user's cache folder.

    That is ``$XDG_CACHE_HOME`` (when absolute) or ``~/.cache``, as the XDG Base Directory
    Specification has it, and ``~/Library/Caches`` on macOS. None without a home folder.
    """
    given = knobs.CACHE.get()
    if given:
        return os.path.abspath(given)
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):
        home = os.path.expanduser("~")
        if not os.path.isabs(home):
            return None
        base = os.path.join(home, "Library/Caches" if sys.platform == "darwin" else ".cache")
    return os.path.join(base, "fastconv")


def machine() -> dict[str, Any]:
    """What tuned choices depend on apart from the model."""
    from . import __version__

    return {"cpu": cpu_name(), "isas": list(cpu_isas()), "fastconv": __version__}


def model_digest(graph: Graph) -> str:
    """A digest of a graph as the file has it: nodes, attributes, types, and samples of weights."""
    import hashlib

    h = hashlib.sha256()

    def add(*parts: object) -> None:
        h.update("\x1f".join(map(str, parts)).encode("utf-8", "backslashreplace") + b"\x1e")

    def add_array(array: np.ndarray) -> None:
        add(array.dtype, array.shape)
        if array.dtype == object:
            return
        flat = array.reshape(-1)
        n = max(1, SAMPLE // max(1, array.dtype.itemsize))
        h.update(flat[:n].tobytes())
        h.update(flat[-n:].tobytes())

    for name in graph.inputs:
        add("input", name, graph.types.get(name))
    for node in graph.nodes:
        add("node", node.op.label, node.inputs, node.outputs)
        for value in node.op._values():
            if isinstance(value, np.ndarray):
                add_array(value)
            elif isinstance(value, (int, float, str, tuple, type(None))):
                add(value)
    for name, array in graph.consts.items():
        add("constant", name)
        add_array(array)
    add("outputs", *graph.outputs)
    return h.hexdigest()


def stem(graph: Graph) -> str:
    """The beginning of a cached file's name: cheap to find out, so that most need no digest."""
    return f"{len(graph.nodes)}-{len(graph.consts)}-"


def cached_path(graph: Graph) -> str | None:
    """The file for this model on this machine in the cache folder; None without such a folder."""
    import hashlib
    import json

    folder = cache_folder()
    if folder is None:
        return None
    here = hashlib.sha256(json.dumps(machine(), sort_keys=True).encode()).hexdigest()
    name = f"{stem(graph)}{model_digest(graph)[:24]}-{here[:8]}{SUFFIX}"
    return os.path.join(folder, name)


def beside(source: str) -> str:
    """The file beside a model's."""
    return source + SUFFIX


def find(source: str | bytes, graph: Graph) -> Tuned | None:
    """The tuned choices for a model: those beside its file, else those in the cache, else None.

    Warns:
        TuneWarning: a file is there that cannot be used; says which and why.
    """
    if isinstance(source, str):
        path = beside(source)
        if os.path.lexists(path):
            tuned = read(path, graph)
            if tuned is not None:
                return tuned
    folder = cache_folder()
    if folder is None:
        return None
    found = _files_of(folder, stem(graph))
    cached = cached_path(graph) if found else None
    return read(cached, graph) if cached is not None and os.path.lexists(cached) else None


def _files_of(folder: str, kind: str) -> list[str]:
    """The files in a cache folder for models whose :func:`stem` this is."""
    try:
        with os.scandir(folder) as entries:
            return [e.path for e in entries if e.name.startswith(kind) and e.name.endswith(SUFFIX)]
    except OSError:
        return []


def state(source: str, kind: str) -> list[tuple[Any, ...]]:
    """What changes when :func:`find` may give something else for a model of this :func:`stem`.

    That is: the files that it would look at, with their sizes and times.
    """
    paths = [beside(source)] if os.path.lexists(beside(source)) else []
    folder = cache_folder()
    if folder is not None:
        paths += sorted(_files_of(folder, kind))
    found: list[tuple[Any, ...]] = []
    for path in paths:
        try:
            s = os.stat(path)
            found.append((path, s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns))
        except OSError:
            found.append((path,))
    return found


def read(path: str, graph: Graph) -> Tuned | None:
    """The choices in a file, or None with a warning that says why not.

    Warns:
        TuneWarning: it cannot be read, is damaged, or belongs to another model, processor or
            version.
    """
    try:
        return _parse(path, graph)
    except OSError as e:
        reason = f"cannot be read ({e.strerror or e})"
    except RecursionError:
        reason = "is damaged (nested too deeply)"
    except ValueError as e:
        reason = str(e)
    warnings.warn(
        f"{path}: {reason}; it is ignored (run fastconv tune to make it anew)",
        TuneWarning,
        stacklevel=2,
    )
    return None


def _parse(path: str, graph: Graph) -> Tuned:
    """The same; raises ValueError with the reason."""
    import json

    if not os.path.isfile(path):
        raise ValueError("is not a file")
    with open(path, "rb") as f:
        data = f.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"is larger than {MAX_BYTES} bytes")
    try:
        content = json.loads(data)
    except ValueError as e:
        raise ValueError(f"is damaged (no JSON: {e})") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError("is damaged, or was made by another version of fastconv")
    for name, value in machine().items():
        if content.get(name) != value:
            what = {"cpu": "processor", "isas": "processor"}.get(name, f"version of {name}")
            raise ValueError(f"was made for another {what} ({content.get(name)!r}, not {value!r})")
    if content.get("model") != model_digest(graph):
        raise ValueError("was made for another model, or the model has changed")
    choices, timings = {}, {}
    entries = content.get("choices")
    if not isinstance(entries, dict):
        raise ValueError("is damaged (no choices)")
    for key, entry in entries.items():
        if not isinstance(entry, dict) or not isinstance(entry.get("choice"), str):
            raise ValueError(f"is damaged (choice {key[:40]!r})")
        choices[key] = entry["choice"]
        ms = entry.get("ms")
        timings[key] = {
            k: float(v) for k, v in (ms if isinstance(ms, dict) else {}).items()
            if isinstance(v, (int, float))
        }  # fmt: skip
    return Tuned(path, choices, timings)


def write(
    path: str,
    graph: Graph,
    choices: Mapping[str, str],
    timings: Mapping[str, Mapping[str, float]],
) -> None:
    """Write a file, in one piece or not at all; what is there for other shapes or threads stays.

    Raises:
        OptionError: the place cannot be written to.
    """
    import json
    import tempfile

    merged: dict[str, Any] = {}
    if os.path.lexists(path):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TuneWarning)
            old = read(path, graph)
        if old is not None:
            merged = {k: {"choice": c, "ms": old.timings[k]} for k, c in old.choices.items()}
    merged |= {k: {"choice": c, "ms": timings.get(k, {})} for k, c in choices.items()}
    content = {"format": FORMAT, **machine(), "model": model_digest(graph), "choices": merged}
    folder = os.path.dirname(path) or "."
    temporary = None
    try:
        os.makedirs(folder, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=".tune-", dir=folder)
        with open(handle, "w", encoding="utf-8") as f:
            json.dump(content, f, indent=1)
            f.write("\n")
        os.replace(temporary, path)
    except OSError as e:
        if temporary is not None:
            try:
                os.unlink(temporary)
            except OSError:
                pass
        raise OptionError(
            f"{path}: cannot write ({e.strerror or e}); {knobs.CACHE.name} names another folder"
        ) from None


def cached_files() -> int:
    """How many tuned files the cache folder holds."""
    folder = cache_folder()
    try:
        with os.scandir(folder or "") as entries:
            return sum(e.name.endswith(SUFFIX) for e in entries)
    except OSError:
        return 0


__all__ = [
    "SUFFIX",
    "TuneWarning",
    "Tuned",
    "beside",
    "cache_folder",
    "cached_files",
    "cached_path",
    "find",
    "machine",
    "model_digest",
    "read",
    "state",
    "stem",
    "write",
]
