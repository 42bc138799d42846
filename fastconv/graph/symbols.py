"""Symbolic dimensions: enough arithmetic that the shape rules run unchanged on unknown sizes.

A dimension is an ``int``, a :class:`Sym` (a named size such as ``N``, or an expression of names)
or ``None`` (unknown). The rules of ``graph.ops`` compute with dimensions as with integers; where a
rule needs the order or the value of a symbol, :class:`SymbolicError` is raised and the result is
unknown.
"""

from __future__ import annotations

from typing import Any


class SymbolicError(Exception):
    """A shape rule needed the value of a symbolic dimension (internal: it never gets out)."""


class Sym:
    """A named or computed size; equal when written alike."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sym) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)

    def _combine(self, op: str, a: Any, b: Any) -> Any:
        if a is None or b is None:
            return None
        text = f"({a}{op}{b})"
        return Sym(text) if len(text) <= 80 else None

    def __add__(self, o: Any) -> Any:
        return self if _is(o, 0) else self._combine("+", self, o)

    def __radd__(self, o: Any) -> Any:
        return self if _is(o, 0) else self._combine("+", o, self)

    def __sub__(self, o: Any) -> Any:
        if self == o:
            return 0
        return self if _is(o, 0) else self._combine("-", self, o)

    def __rsub__(self, o: Any) -> Any:
        return self._combine("-", o, self)

    def __mul__(self, o: Any) -> Any:
        if _is(o, 0):
            return 0
        return self if _is(o, 1) else self._combine("*", self, o)

    __rmul__ = __mul__

    def __floordiv__(self, o: Any) -> Any:
        if self == o:
            return 1
        return self if _is(o, 1) else self._combine("//", self, o)

    def __rfloordiv__(self, o: Any) -> Any:
        return self._combine("//", o, self)

    def __mod__(self, o: Any) -> Any:
        return 0 if _is(o, 1) else self._combine("%", self, o)

    def __neg__(self) -> Any:
        return self._combine("-", 0, self)

    def _unordered(self, other: object) -> bool:
        raise SymbolicError(f"the value of {self.text} is not known")

    __lt__ = __le__ = __gt__ = __ge__ = _unordered

    def __bool__(self) -> bool:
        raise SymbolicError(f"the value of {self.text} is not known")

    def __int__(self) -> int:
        raise SymbolicError(f"the value of {self.text} is not known")

    __index__ = __int__


def _is(value: object, number: int) -> bool:
    return isinstance(value, int) and value == number


Dim = int | Sym | None


def is_static(shape: tuple[Dim, ...] | None) -> bool:
    """Whether every dimension is a number."""
    if shape is None:
        return False
    for d in shape:  # noqa: SIM110  (a generator takes three times as long)
        if not isinstance(d, int):
            return False
    return True
