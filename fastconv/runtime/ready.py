"""A program on named arrays: what finished plans and stored ones have in common."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import MemoryLimitError
from .arenas import Arenas
from .executor import Context, Program, Runner

#: When what makes and runs plans began to be imported, in nanoseconds since 1970.
STARTED = time.time_ns()

#: Raises to end a run.
Check = Callable[[], object] | None


class Typed:
    """Sizes and element type of a program's input or output."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.shape = shape
        self.dtype = dtype


class Opaque:
    """A fed value that is no tensor (a sequence, an absent optional): only Python nodes read it."""

    shape = None
    dtype = None

    def __init__(self, value: Any) -> None:
        self.value = value


class Ready:
    """A program, and the contexts that wait to be used again.

    Args:
        program: the program.
        externals: names of the arrays that it takes, in order.
        results: which of them it fills.
        types: sizes and dtypes of (at least) those.
        arenas: where activations live.
    """

    def __init__(
        self,
        program: Program,
        externals: Sequence[str],
        results: Sequence[str],
        types: Mapping[str, Any],
        arenas: Arenas,
    ) -> None:
        self.arenas = arenas
        self.program = program
        self.pool: list[Context] = []
        self.n_externals = len(externals)
        index = {name: i for i, name in enumerate(externals)}
        filled = set(results)
        self.inputs = [(i, name) for name, i in index.items() if name not in filled]
        self.outputs: list[tuple[int, str, Any, Any]] = [
            (index[name], name, types[name].shape, types[name].dtype) for name in results
        ]
        #: The short way to run it, where there is nothing to do but to run it.
        self.hot: Runner | None = None

    def runner(self, types: Mapping[str, Any]) -> Runner | None:
        """The short way to run this program; None where its inputs are not plain numbers."""
        ins: list[tuple[int, str, tuple[int, ...], np.dtype[Any]]] = []
        for i, name in self.inputs:
            shape, dtype = types[name].shape, types[name].dtype
            if shape is None or dtype is None or dtype.kind not in "biuf":
                return None
            ins.append((i, name, tuple([int(d) for d in shape]), dtype))
        return Runner(
            self.program, self.n_externals, tuple(ins), tuple(self.outputs), self.pool, self.arenas
        )

    def run(
        self, feeds: Mapping[str, np.ndarray], times: np.ndarray | None, check: Check = None
    ) -> dict[str, Any]:
        """Run once; returns the results by name."""
        externals: list[Any] = [None] * self.n_externals
        for i, name in self.inputs:
            externals[i] = feeds[name]
        result = {}
        try:
            for i, name, shape, dtype in self.outputs:
                result[name] = externals[i] = np.empty(shape, dtype)
        except MemoryError as e:
            raise MemoryLimitError(f"cannot allocate the outputs: {e}") from None
        self._run(externals, times, check)
        return result

    def _run(self, externals: list[Any], times: np.ndarray | None, check: Check) -> None:
        arena = self.arenas.take(self.program.arena_size)
        try:
            try:
                context = self.pool.pop()
            except IndexError:
                context = Context(self.program)
            try:
                context.run(externals, arena, times, check)
            finally:
                self.pool.append(context)
        except MemoryError as e:
            raise e if isinstance(e, MemoryLimitError) else MemoryLimitError(str(e)) from None
        finally:
            self.arenas.give(arena)


__all__ = ["Check", "Opaque", "Ready", "Typed"]
