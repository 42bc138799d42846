"""Makes ``import onnxruntime`` mean this package, for the rest of the process."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

NAME = "onnxruntime"
OURS = __package__

#: Parts of onnxruntime that are Python and run on any ``onnxruntime.InferenceSession``: taken from
#: the onnxruntime that is installed, if one is.
FOREIGN = ("datasets", "quantization", "tools", "transformers")


class Alias:
    """Loads a module of this package under a second name: the same object."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module of this package."""
        module = importlib.import_module(OURS + spec.name[len(NAME) :])
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing left to run; the import system replaced the spec, so put it back."""
        module.__spec__ = self._spec


class Finder:
    """Finds ``onnxruntime`` and its submodules here, and the distribution of that name."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: Any = None
    ) -> ModuleSpec | None:
        """Where a module is, None for those of other packages."""
        if fullname != NAME and not fullname.startswith(f"{NAME}."):
            return None
        ours = OURS + fullname[len(NAME) :]
        try:
            found = importlib.util.find_spec(ours)
        except ModuleNotFoundError:
            return None  # below a foreign part, which has its own path
        if found is not None:
            package = found.submodule_search_locations is not None
            loader: Any = Alias()  # importlib.abc, which has the base classes, is slow to import
            spec = ModuleSpec(fullname, loader, origin=found.origin, is_package=package)
            spec.has_location = True
            if package:
                spec.submodule_search_locations = list(found.submodule_search_locations or ())
            return spec
        if fullname.split(".")[1] in FOREIGN:
            real = PathFinder.find_spec(NAME, None)
            if real is not None:
                return PathFinder.find_spec(fullname, real.submodule_search_locations)
        return None

    def find_distributions(self, context: Any = None) -> Iterator[Any]:
        """The distribution ``onnxruntime``, for ``importlib.metadata``."""
        name = getattr(context, "name", None)
        if name is None or name.lower() == NAME:
            yield _distribution()


def _distribution() -> Any:
    import importlib.metadata
    import pathlib

    from . import __version__

    folder = pathlib.Path(__file__).parent

    class Distribution(importlib.metadata.Distribution):
        """What ``importlib.metadata`` says of onnxruntime."""

        def read_text(self, filename: str) -> str | None:
            return {
                "METADATA": f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {__version__}\n"
                "Summary: fastconv in the place of onnxruntime\n",
                "top_level.txt": f"{NAME}\n",
            }.get(filename)

        def locate_file(self, path: Any) -> Any:
            return folder.parent / path

    return Distribution()


_finder = Finder()


def install() -> None:
    """Make ``import onnxruntime`` (and its submodules) mean this package from now on.

    ``importlib.util.find_spec`` and ``importlib.metadata`` find it too. Other processes are not
    affected. Call it before the first ``import onnxruntime``: a module that already holds the real
    one keeps it, and a warning says so.
    """
    if _finder in sys.meta_path:
        return
    loaded = _loaded()
    if loaded:
        warnings.warn(
            "onnxruntime was imported before fastconv.onnxruntime.install(): modules that hold it "
            "keep it",
            stacklevel=2,
        )
        _replaced.update(loaded)
        for name in loaded:
            del sys.modules[name]
    sys.meta_path.insert(0, _finder)
    importlib.invalidate_caches()


def uninstall() -> None:
    """Undo :func:`install`; modules that hold this package keep it."""
    if _finder not in sys.meta_path:
        return
    sys.meta_path.remove(_finder)
    for name in _loaded():
        del sys.modules[name]
    sys.modules.update(_replaced)
    _replaced.clear()


_replaced: dict[str, ModuleType] = {}


def _loaded() -> dict[str, ModuleType]:
    return {n: m for n, m in sys.modules.items() if n == NAME or n.startswith(f"{NAME}.")}


__all__ = ["install", "uninstall"]
