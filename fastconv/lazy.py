"""A table whose entries are made by modules that are imported when first asked for. A leaf."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


class LazyTable(dict[K, V]):
    """A dict that modules of one package fill as they are imported.

    A key that is not there yet is looked for in the module that ``where`` names, and then in all
    of them; going through the table imports them all.

    Args:
        load: imports one module by its short name; its entries are in the table after that.
        modules: gives the short names of all modules.
        where: gives the module that a key is probably from, or None.
    """

    def __init__(
        self,
        load: Callable[[str], object],
        modules: Callable[[], Iterable[str]],
        where: Callable[[K], str | None],
    ) -> None:
        super().__init__()
        self._load = load
        self._modules = modules
        self._where = where
        self._complete = False

    def complete(self) -> None:
        """Import all modules."""
        if not self._complete:
            for name in self._modules():
                self._load(name)
            self._complete = True

    def _find(self, key: K) -> bool:
        if dict.__contains__(self, key):
            return True
        if self._complete:
            return False
        name = self._where(key)
        if name is not None:
            self._load(name)
            if dict.__contains__(self, key):
                return True
        self.complete()
        return dict.__contains__(self, key)

    def __missing__(self, key: K) -> V:
        if self._find(key):
            return dict.__getitem__(self, key)
        raise KeyError(key)

    def get(self, key: K, default: V | None = None) -> V | None:  # type: ignore[override]
        return dict.__getitem__(self, key) if self._find(key) else default

    def __contains__(self, key: object) -> bool:
        return self._find(key)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[K]:
        self.complete()
        return super().__iter__()

    def __len__(self) -> int:
        self.complete()
        return super().__len__()

    def keys(self):
        self.complete()
        return super().keys()

    def values(self):
        self.complete()
        return super().values()

    def items(self):
        self.complete()
        return super().items()


def importer(package: str) -> Callable[[str], object]:
    """A function that imports a module of ``package`` by its short name."""
    return lambda name: importlib.import_module(f"{package}.{name}")


__all__ = ["LazyTable", "importer"]
