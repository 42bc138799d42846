from collections.abc import Callable
from typing import Any

import numpy as np

class Program:
    n_steps: int
    arena_size: int
    max_threads: int
    def __init__(
        self,
        steps: list[
            tuple[
                int,
                bytes,
                list[tuple[int, int]],
                tuple[int, int, int, int],
                Callable[[Context, list[Any]], None] | None,
            ]
        ],
        arena_size: int,
        keep: object,
        max_threads: int,
    ) -> None: ...

class Arena:
    map: Any
    views: dict[Any, np.ndarray]
    size: int
    serial: int
    def __init__(self, size: int) -> None: ...

class Context:
    program: Program
    arena: Arena
    def __init__(self, program: Program) -> None: ...
    def address(self, offset: int) -> int: ...
    def offset_in_map(self, offset: int) -> int: ...
    def run(
        self,
        externals: list[Any],
        arena: Arena | None = None,
        times: np.ndarray | None = None,
        check: Callable[[], object] | None = None,
    ) -> None: ...

class Runner:
    def __init__(
        self,
        program: Program,
        n_externals: int,
        inputs: tuple[tuple[int, str, tuple[int, ...], np.dtype[Any]], ...],
        outputs: tuple[tuple[int, str, tuple[int, ...], np.dtype[Any]], ...],
        pool: list[Context],
        arenas: Any,
    ) -> None: ...
    def run(self, feeds: Any) -> dict[str, np.ndarray] | None: ...

class Team:
    helpers: int
    generation: int
    def __init__(self, helpers: int) -> None: ...
    def serve(self) -> None: ...
    def dismiss(self) -> None: ...

def forget_teams() -> None: ...
def helpers() -> int: ...
