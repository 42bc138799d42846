from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

@dataclass(eq=False)
class Buffer:
    kind: int
    nbytes: int
    array: np.ndarray | None = None
    index: int = -1
    first: int = -1
    last: int = -1
    offset: int = -1
    parts: int | None = None
    def touch(self, step: int) -> None: ...

@dataclass(frozen=True)
class Place:
    buffer: Buffer
    start: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    layout: str = "plain"
    pixel: int = 0
    channels: int = 0
    @property
    def nbytes(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def dense(self) -> bool: ...

def arrange(buffers: list[Buffer]) -> int: ...
def touch(used: list[list[Place | None]], buffers: list[Buffer]) -> None: ...
def divided(
    stated: list[tuple[int, int, int, int, int, int]],
    oh: int,
    images: int,
    room: int,
    most_anew: float,
    most_steps: int,
) -> int: ...
def references(
    places: list[Place | None], address: Callable[[np.ndarray], int]
) -> list[tuple[int, int]]: ...
def make_buffers(
    stated: list[tuple[int, int | None]], values: list[Any] | None, arena: list[Buffer]
) -> list[Buffer]: ...
def make_places(
    stated: list[tuple[Any, ...]],
    constants: list[Buffer | None],
    values: list[Any] | None,
    buffers: list[Buffer],
    inputs: list[str],
    outputs: list[str],
    low: Any,
    computed: Callable[[tuple[Any, ...], list[Any] | None], np.ndarray],
) -> list[Place]: ...
def make_steps(
    stated: list[Any],
    made: list[Place],
    values: list[Any] | None,
    structs: list[bytes] | None,
    inputs: list[str],
    low: Any,
    node: Any,
    step_class: type[Any],
    late_params: type[Any],
) -> None: ...
def key_of(
    low: Any,
    kind: int,
    names: Sequence[str],
    indices: Sequence[int],
    outputs: list[str],
    sizes: list[int],
    given: list[tuple[int, str, Place]],
) -> tuple[Any, ...] | None: ...
