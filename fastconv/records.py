"""Classes with named fields that cost next to nothing to define. A leaf.

``dataclasses`` writes and compiles the methods of each class anew, which takes up to a millisecond
per class: more than all else that importing this package does. Here all classes share one set of
methods. ``dataclasses.fields`` and ``dataclasses.replace`` work as usual.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass as record
else:

    def record(cls=None, /, *, frozen=False, eq=True, slots=False):
        """Class decorator that stands for ``dataclasses.dataclass``; methods in the class stay.

        Records with slots take less memory; they are neither frozen nor compared by value.
        """
        if cls is None:
            return lambda c: record(c, frozen=frozen, eq=eq, slots=slots)
        own = vars(cls)
        methods: dict[str, Callable[..., Any] | None] = {"__repr__": _repr}
        if "__init__" not in own:
            methods["__init__"] = _init_slots if slots else _init
        if eq:
            methods["__eq__"] = _eq
            methods["__hash__"] = _hash if frozen else None
        if frozen:
            methods["__setattr__"] = _refuse
            methods["__delattr__"] = _refuse
        for name, method in methods.items():
            if name not in own:
                setattr(cls, name, method)
        cls = dataclasses.dataclass(init=False, repr=False, eq=False, slots=slots)(cls)
        fields = dataclasses.fields(cls)
        missing = dataclasses.MISSING
        cls._names = tuple(f.name for f in fields)
        cls._known = frozenset(cls._names)
        cls._defaults = {f.name: f.default for f in fields if f.default is not missing}
        cls._factories = {
            f.name: f.default_factory for f in fields if f.default_factory is not missing
        }
        return cls


def _init(self: Any, *args: Any, **kwargs: Any) -> None:
    _fill(self, self.__dict__, args, kwargs)


def _init_slots(self: Any, *args: Any, **kwargs: Any) -> None:
    values: dict[str, Any] = {}
    _fill(self, values, args, kwargs)
    for name, value in values.items():
        setattr(self, name, value)


def _fill(self: Any, values: dict[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """The values of all fields, from arguments and defaults.

    Raises:
        TypeError: a field is missing, unknown or given twice.
    """
    names = self._names
    values.update(self._defaults)
    for name, factory in self._factories.items():
        if name not in kwargs:
            values[name] = factory()
    values.update(zip(names, args))
    values.update(kwargs)
    count = len(names)
    if (
        len(values) != count
        or len(args) + len(kwargs) > count
        or (kwargs and not self._known.issuperset(kwargs))
    ):
        missing = [n for n in names if n not in values]
        extra = [n for n in values if n not in names]
        raise TypeError(
            f"{type(self).__name__} takes the fields {', '.join(names)}"
            + (f"; missing: {', '.join(missing)}" if missing else "")
            + (f"; unknown: {', '.join(extra)}" if extra else "")
        )
    twice = [n for n in names[: len(args)] if n in kwargs]
    if twice:
        raise TypeError(f"{type(self).__name__} got {twice[0]!r} twice")


def _repr(self: Any) -> str:
    pairs = (f"{f.name}={getattr(self, f.name)!r}" for f in dataclasses.fields(self) if f.repr)
    return f"{type(self).__name__}({', '.join(pairs)})"


def _eq(self: Any, other: object) -> bool:
    if type(other) is not type(self):
        return NotImplemented
    return self.__dict__ == other.__dict__


def _hash(self: Any) -> int:
    values = self.__dict__
    return hash(tuple([values[n] for n in self._names]))


def _refuse(self: Any, name: str, *_: Any) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot change {name!r}")


__all__ = ["record"]
