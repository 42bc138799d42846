"""Classes with named fields that cost next to nothing to define. A leaf.

``dataclasses`` writes and compiles the methods of each class anew, which takes up to a millisecond
per class, and importing it takes another two. Here all classes share one set of methods, and what
``dataclasses.fields`` and ``dataclasses.replace`` look for is made when they first do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

R = TypeVar("R")

#: Stands for a default that is not there.
MISSING: Any = type("Missing", (), {"__repr__": lambda self: "MISSING"})()


class Spec(NamedTuple):
    """A field: its annotation as text, its default or what makes one, and its metadata."""

    annotation: str
    default: Any = MISSING
    default_factory: Any = MISSING
    metadata: Mapping[str, Any] | None = None


if TYPE_CHECKING:
    from dataclasses import dataclass as record
    from dataclasses import field, replace
else:

    def field(*, default=MISSING, default_factory=MISSING, repr=True, metadata=None):
        """What ``dataclasses.field`` is, for records."""
        return Spec("", default, default_factory, metadata if repr else {"hidden": True})

    def replace(item, /, **changes):
        """A copy of a record without slots (or of what has ``__replace__``) with other values."""
        own = getattr(type(item), "__replace__", None)
        if own is not None:
            return own(item, **changes)
        new = object.__new__(type(item))
        values = new.__dict__
        values.update(item.__dict__)
        values.update(changes)
        return new

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
            methods["__setattr__"] = refuse
            methods["__delattr__"] = refuse
        for name, method in methods.items():
            if name not in own:
                setattr(cls, name, method)
        return with_fields(cls, slots)


def with_fields(cls: type[R], slots: bool = False) -> type[R]:
    """The class, with what its annotations say of its fields; a new class if it is to have slots.

    Gives it ``_specs`` (name → :class:`Spec`), ``_names``, ``_known``, ``_defaults`` and
    ``_factories``, those of its bases included.
    """
    own = vars(cls)
    found: dict[str, Spec] = {}
    for base in reversed(cls.__mro__[1:]):
        found.update(vars(base).get("_specs", ()))
    clear = []
    for name, annotation in cls.__annotations__.items():
        annotation = str(annotation)
        if "ClassVar" in annotation:
            continue
        default = own.get(name, MISSING)
        if isinstance(default, Spec):
            clear.append((name, default.default))
            default = Spec(annotation, *default[1:])
        else:
            default = Spec(annotation, default)
        found[name] = default
    names = tuple(found)
    extra: dict[str, Any] = {
        "_specs": found,
        "_names": names,
        "_known": frozenset(names),
        "_defaults": {n: s.default for n, s in found.items() if s.default is not MISSING},
        "_factories": {
            n: s.default_factory for n, s in found.items() if s.default_factory is not MISSING
        },
        "__match_args__": names,
        "__dataclass_fields__": _Later("__dataclass_fields__"),
        "__dataclass_params__": _Later("__dataclass_params__"),
    }
    if slots:
        body = {k: v for k, v in own.items() if k not in found}
        for name in ("__dict__", "__weakref__"):
            body.pop(name, None)
        body.update(extra, __slots__=names)
        meta: Any = type(cls)
        made: type[R] = meta(cls.__name__, cls.__bases__, body)
        return made
    for name, default in clear:
        if default is MISSING:
            delattr(cls, name)
        else:
            type.__setattr__(cls, name, default)
    for name, value in extra.items():
        type.__setattr__(cls, name, value)
    return cls


class _Later:
    """What ``dataclasses`` keeps in a class, made when it is first asked for."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: Any) -> Any:
        import dataclasses

        body: dict[str, Any] = {"__annotations__": {}}
        for name, spec in owner._specs.items():
            given = {
                k: v
                for k, v in (("default", spec.default), ("default_factory", spec.default_factory))
                if v is not MISSING
            }
            body["__annotations__"][name] = spec.annotation
            body[name] = dataclasses.field(**given, metadata=spec.metadata)
        twin = type(owner.__name__, (), {**body, "__doc__": "", "__module__": owner.__module__})
        twin = dataclasses.dataclass(init=False, repr=False, eq=False)(twin)
        return getattr(twin, self.name)


def _init(self: Any, *args: Any, **kwargs: Any) -> None:
    if len(args) == len(self._names) and not kwargs:
        self.__dict__.update(zip(self._names, args))
    else:
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
    if args and kwargs:
        twice = [n for n in names[: len(args)] if n in kwargs]
        if twice:
            raise TypeError(f"{type(self).__name__} got {twice[0]!r} twice")


def _repr(self: Any) -> str:
    shown = (n for n, s in self._specs.items() if not (s.metadata and s.metadata.get("hidden")))
    pairs = (f"{n}={getattr(self, n)!r}" for n in shown)
    return f"{type(self).__name__}({', '.join(pairs)})"


def _eq(self: Any, other: object) -> bool:
    if type(other) is not type(self):
        return NotImplemented
    return self.__dict__ == other.__dict__


def _hash(self: Any) -> int:
    values = self.__dict__
    return hash(tuple([values[n] for n in self._names]))


def refuse(self: Any, name: str, *_: Any) -> None:
    """What setting or deleting a field of a frozen record does."""
    import dataclasses

    raise dataclasses.FrozenInstanceError(f"cannot change {name!r}")


__all__ = ["MISSING", "Spec", "field", "record", "refuse", "replace", "with_fields"]
