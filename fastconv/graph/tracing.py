"""Sizes that note what is computed from them: how a lowering is followed for other sizes.

A lowering is ordinary Python code on integers. Given :class:`Traced` sizes instead, it does what it
does for the numbers behind them, and a :class:`Recorder` notes each sum and the outcome of each
comparison. For other sizes for which every comparison comes out the same, the code would do the
same with the sums done anew: a ``Tape`` (``plan/tape.pyx``) does those. (Tracing with
guards, as just-in-time compilers for tensor programs have it: Ansel et al., "PyTorch 2: Faster
Machine Learning Through Dynamic Python Bytecode Transformation and Graph Compilation", 2024.)

Soundness rests on there being no other way to a number than through the methods of ``Traced``:
whoever needs the number itself (an index, a text) gets it together with the comparison that it is
this one. It cannot be hashed, so it is no key of a dictionary or a cache; a function that is one of
numbers alone is marked :func:`pure` and called, not looked into.

Code must not ask for ``type(size) is int``: ``isinstance(size, int)`` holds for a traced integer.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from operator import add, floordiv, mod, mul, sub, truediv
from typing import Any, TypeVar

import numpy as np

Number = int | float
F = TypeVar("F", bound=Callable[..., Any])

#: Results of a pure function that are kept.
MOST_RESULTS = 1024
#: Values of a tape, as ``plan/tape.pyx`` has it.
MOST_VALUES = 2048
#: Integers beyond this are not all doubles.
EXACT = 1 << 53
NUMBERS = (int, float, bool)


class Untraceable(Exception):
    """What was traced did something that a tape does not say."""


class Recorder:
    """Notes what is computed from some sizes.

    Attributes:
        values: every number met, as it was; the first are the sizes.
        floats: which of them are floats.
        code, calls: as ``Tape`` takes them.
        narrow: whether a number itself was asked for, so that a tape holds for that alone.
    """

    def __init__(self) -> None:
        self.values: list[Number] = []
        self.floats: list[bool] = []
        self.code: list[tuple[str, int, int, int]] = []
        self.calls: list[tuple[Callable[..., Any], tuple[Any, ...], tuple[int, ...]]] = []
        self.narrow = False
        self.inputs = 0
        self._found: dict[tuple[Any, ...], int] = {}

    def size(self, value: int) -> Traced:
        """The next size that a tape is run for; all come before any sum."""
        if len(self.values) != self.inputs:
            raise Untraceable("a size after a sum")
        self.inputs += 1
        return Traced(self, self._new(int(value)), int(value))

    def number(self, value: Any, as_float: bool = False) -> int:
        """The number of a value among ``values``; of a float if ``as_float``."""
        if type(value) is Traced:
            if value.recorder is not self:
                raise Untraceable("a size of another trace")
            i = value.index
        elif type(value) in NUMBERS:
            value = int(value) if type(value) is bool else value
            key = ("constant", repr(value))
            found = self._found.get(key)
            i = self._new(value) if found is None else found
            self._found[key] = i
        else:
            raise Untraceable(f"a {type(value).__name__} among sizes")
        if as_float and not self.floats[i]:
            if not -EXACT <= self.values[i] <= EXACT:
                raise Untraceable("an integer that is no double")
            i = self._do("float", float(self.values[i]), i, i)
        return i

    def _new(self, value: Number) -> int:
        if len(self.values) >= MOST_VALUES:
            raise Untraceable("too many sums")
        if type(value) is int and not -(1 << 62) < value < 1 << 62:
            raise Untraceable("a large integer")
        self.values.append(value)
        self.floats.append(type(value) is float)
        return len(self.values) - 1

    def _do(self, op: str, value: Number, a: int, b: int) -> int:
        """An instruction for a value, unless there is the same already."""
        found = self._found.get((op, a, b))
        if found is None:
            found = self._new(value)
            self.code.append((op, found, a, b))
            self._found[op, a, b] = found
        return found

    def sum(self, op: str, function: Callable[[Any, Any], Any], a: Any, b: Any) -> Any:
        """``function(a, b)``, noted as ``op``."""
        x = a.value if type(a) is Traced else a
        y = b.value if type(b) is Traced else b
        value = function(x, y)
        both = not (type(x) is float or type(y) is float or op == "/")
        if not both and op in ("//", "%"):
            raise Untraceable(f"{op} of floats")
        i, j = self.number(a, not both), self.number(b, not both)
        return Traced(self, self._do(op if both else f"f{op}", value, i, j), value)

    def turn(self, op: str, function: Callable[[Any], int], a: Traced) -> Any:
        """A float rounded to an integer."""
        if not self.floats[a.index]:
            return a
        value = function(a.value)
        if not abs(value) < 4e15:
            raise Untraceable("a large float")
        return Traced(self, self._do(op, value, a.index, a.index), value)

    def compare(self, op: str, a: Any, b: Any) -> bool:
        """Whether ``a op b``; a tape holds where it does, or does not, as here."""
        x = a.value if type(a) is Traced else a
        y = b.value if type(b) is Traced else b
        result = x < y if op == "<" else x <= y if op == "<=" else x == y
        floats = type(x) is float or type(y) is float
        i, j = self.number(a, floats), self.number(b, floats)
        op = f"f{op}" if floats else op
        if (i != j or floats) and (op, i, j) not in self._found:
            self.code.append((op, int(result), i, j))
            self._found[op, i, j] = -1
        return result

    def exact(self, a: Traced) -> Any:
        """The number itself."""
        self.narrow = True
        if self.floats[a.index] and a.value == 0:
            raise Untraceable("the sign of a zero")
        self.compare("==", a, a.value)
        return a.value

    def call(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """What a pure function of numbers (and of what hashes) gives: numbers."""
        given = tuple([a.value if type(a) is Traced else a for a in args])
        results = function(*given)
        many = type(results) is tuple
        where = tuple([[a.index] if type(a) is Traced else a for a in args])
        made = []
        for r in results if many else (results,):
            if type(r) is not int and type(r) is not float:
                raise Untraceable(f"a {type(r).__name__} from a pure function")
            made.append(Traced(self, self._new(r), r))
        self.code.append(("call", 0, len(self.calls), 0))
        self.calls.append((function, where, tuple([m.index for m in made])))
        return tuple(made) if many else made[0]


def plain(value: Any) -> Any:
    """The number behind a traced value, of whose use no tape says; anything else as it is."""
    return value.value if type(value) is Traced else value


def settled(value: Any) -> Any:
    """A size that is one of few numbers, such as a pad: a tape holds for the number it is."""
    if type(value) is not Traced:
        return value
    value.recorder.compare("==", value, value.value)
    return value.value


def pure(function: F) -> F:
    """Decorator of a function of hashable positional arguments that gives one or several numbers.

    What it gives must follow from the arguments alone. Results are kept; where an argument is
    traced, the tape calls the function anew and asks nothing of how it comes by its result.
    """
    kept = lru_cache(maxsize=MOST_RESULTS)(function)

    @wraps(function)
    def call(*args: Any) -> Any:
        for a in args:
            if type(a) is Traced:
                return a.recorder.call(kept, args)
        return kept(*args)

    return call  # type: ignore[return-value]


def _arithmetic(op: str, function: Callable[[Any, Any], Any]) -> tuple[Any, Any]:
    def forward(self: Traced, other: Any) -> Any:
        if type(other) is Traced or type(other) in NUMBERS:
            return self.recorder.sum(op, function, self, other)
        return NotImplemented

    def backward(self: Traced, other: Any) -> Any:
        if type(other) in NUMBERS:
            return self.recorder.sum(op, function, other, self)
        return NotImplemented

    return forward, backward


class Traced:
    """A number, an int or a float, that notes what is done with it."""

    __slots__ = ("index", "recorder", "value")
    #: NumPy leaves arithmetic with it to it, which refuses.
    __array_ufunc__ = None
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, recorder: Recorder, index: int, value: Number) -> None:
        self.recorder = recorder
        self.index = index
        self.value = value

    @property  # type: ignore[misc]
    def __class__(self) -> Any:  # what isinstance asks for
        return type(self.value)

    __add__, __radd__ = _arithmetic("+", add)
    __sub__, __rsub__ = _arithmetic("-", sub)
    __mul__, __rmul__ = _arithmetic("*", mul)
    __truediv__, __rtruediv__ = _arithmetic("/", truediv)
    __floordiv__, __rfloordiv__ = _arithmetic("//", floordiv)
    __mod__, __rmod__ = _arithmetic("%", mod)

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> Any:
        return other // self, other % self

    def __neg__(self) -> Any:
        # (0 - 0.0 is 0.0, while -0.0 is another number.)
        return self * -1

    def __pos__(self) -> Any:
        return self

    def __abs__(self) -> Any:
        return 0 - self if self <= 0 else self  # (of -0.0 too)

    def __ceil__(self) -> Any:
        from math import ceil

        return self.recorder.turn("ceil", ceil, self)

    def __floor__(self) -> Any:
        from math import floor

        return self.recorder.turn("floor", floor, self)

    def __round__(self, digits: int | None = None) -> Any:
        if digits is not None:
            raise Untraceable("decimal digits")
        return self.recorder.turn("round", round, self)

    def __lt__(self, other: Any) -> Any:
        return self._compare("<", self, other, other)

    def __le__(self, other: Any) -> Any:
        return self._compare("<=", self, other, other)

    def __gt__(self, other: Any) -> Any:
        return self._compare("<", other, self, other)

    def __ge__(self, other: Any) -> Any:
        return self._compare("<=", other, self, other)

    def __eq__(self, other: object) -> Any:
        return self._compare("==", self, other, other)

    def __ne__(self, other: object) -> Any:
        found = self._compare("==", self, other, other)
        return found if found is NotImplemented else not found

    def _compare(self, op: str, a: Any, b: Any, other: Any) -> Any:
        if type(other) is Traced or type(other) in NUMBERS:
            return self.recorder.compare(op, a, b)
        if isinstance(other, (int, float, np.generic)):
            raise Untraceable(f"a {type(other).__name__} beside a size")
        return NotImplemented

    def __bool__(self) -> bool:
        return not self.recorder.compare("==", self, 0)

    def __index__(self) -> int:
        if self.recorder.floats[self.index]:
            raise TypeError("a float is no index")
        return int(self.recorder.exact(self))

    def __int__(self) -> int:
        return int(self.recorder.exact(self))

    __trunc__ = __int__

    def __float__(self) -> float:
        return float(self.recorder.exact(self))

    def __repr__(self) -> str:
        return repr(self.recorder.exact(self))

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(self.recorder.exact(self), spec)

    def __reduce__(self) -> Any:
        raise Untraceable("a copy")


__all__ = ["Number", "Recorder", "Traced", "Untraceable", "plain", "pure", "settled"]
