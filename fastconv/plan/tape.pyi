from collections.abc import Callable
from typing import Any

class Tape:
    n_inputs: int
    n_values: int
    n_code: int
    def __init__(
        self,
        n_inputs: int,
        start: list[int | float],
        floats: list[bool],
        code: list[tuple[str, int, int, int]],
        calls: list[tuple[Callable[..., Any], tuple[Any, ...], tuple[int, ...]]],
        outputs: list[int],
        parts: list[tuple[bytes, list[tuple[int, int, int]]]],
    ) -> None: ...
    def run(self, sizes: list[int]) -> tuple[list[Any], list[bytes]] | None: ...
