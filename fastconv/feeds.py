"""Input shapes where a model leaves them open, and random inputs; for inspecting and measuring."""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .errors import FastconvError, OptionError
from .sizes import checked_size

if TYPE_CHECKING:
    from .model import Model

#: Pixels along a spatial axis whose size nothing states.
DEFAULT_SIDE = 224


def concrete_shapes(
    model: Model, shapes: Mapping[str, Sequence[int]] | None = None
) -> tuple[dict[str, tuple[int, ...]], list[str]]:
    """A shape of numbers for every input, and notes about what was assumed.

    A size that neither ``shapes`` nor the model states is 1 for the batch axis and, on the spatial
    axes of an image, what the model's metadata say of its images, else ``DEFAULT_SIDE``.

    Raises:
        OptionError: ``shapes`` names no input of the model, or holds no whole numbers.
    """
    given = dict(shapes or {})
    unknown = [n for n in given if n not in {i.name for i in model.inputs}]
    if unknown:
        names = ", ".join(i.name for i in model.inputs) or "none"
        raise OptionError(f"shape for {unknown[0]!r}: the model's inputs are {names}")
    for name, shape in given.items():
        try:
            given[name] = tuple(operator.index(d) for d in shape)
        except TypeError:
            raise OptionError(f"shape for {name!r}: {shape!r} is no list of sizes") from None
    result: dict[str, tuple[int, ...]] = {}
    notes: list[str] = []
    symbols: dict[str, int] = {}
    for i in model.inputs:
        for d, size in zip(i.shape or (), given.get(i.name, ()), strict=False):
            if isinstance(d, str):
                symbols[d] = int(size)
    for i in model.inputs:
        if i.name in given:
            result[i.name] = tuple(int(d) for d in given[i.name])
            continue
        if i.shape is None:
            raise OptionError(f"input {i.name!r} has no stated rank: give its shape")
        sides = image_sides(model, i.shape)
        shape = []
        for axis, d in enumerate(i.shape):
            if isinstance(d, int):
                shape.append(d)
            elif isinstance(d, str) and d in symbols:
                shape.append(symbols[d])
            else:
                shape.append(sides.get(axis, 1))
                if isinstance(d, str) and axis not in sides:
                    symbols[d] = shape[-1]
        if any(not isinstance(d, int) for d in i.shape):
            stated = ",".join("?" if d is None else str(d) for d in i.shape)
            notes.append(
                f"input {i.name}[{stated}] taken as {','.join(map(str, shape))}; "
                "other sizes can be asked for"
            )
        result[i.name] = tuple(shape)
    return result, notes


def image_sides(model: Model, shape: Sequence[int | str | None]) -> dict[int, int]:
    """Sizes to assume for the open axes of an input, the batch axis apart: axis → size."""
    if len(shape) < 3:
        return {}
    last = len(shape) == 4 and shape[3] in (1, 3) and shape[1] not in (1, 3)
    axes = range(1, 3) if last else range(2, len(shape))
    height = width = DEFAULT_SIDE
    if len(shape) == 4:
        from .image import resolve

        try:
            size = resolve({}, model.metadata, shape).pre.output_size
        except FastconvError:
            size = None
        height, width = size or (height, width)
    sides = dict.fromkeys(axes, DEFAULT_SIDE)
    if len(shape) == 4:
        sides.update(zip(axes, (height, width), strict=True))
    sides[3 if last else 1] = 3 if len(shape) == 4 else 1
    return sides


def random_feeds(
    model: Model,
    shapes: Mapping[str, Sequence[int]],
    seed: int = 0,
    only: Collection[str] | None = None,
) -> dict[str, np.ndarray]:
    """Seeded random arrays: floats standard normal, bytes 0..255, everything else 0 or 1.

    Args:
        shapes: of every input.
        only: names of the inputs wanted (all by default); an input's values do not depend on it.

    Raises:
        OptionError: an input holds text, which nothing sensible can be drawn for.
    """

    feeds = {}
    for k, i in enumerate(model.inputs):
        if only is not None and i.name not in only:
            continue
        rng = np.random.default_rng([seed, k])
        shape, dtype = tuple(shapes[i.name]), i.dtype
        if dtype is None or dtype.kind not in "fiub":
            raise OptionError(f"input {i.name!r} has dtype {dtype}: give its values with --input")
        checked_size(shape, 8, f"input {i.name!r}")
        if dtype.kind == "f":
            feeds[i.name] = rng.standard_normal(shape, np.float32).astype(dtype)
        else:
            top = 256 if dtype == np.uint8 else 2
            feeds[i.name] = rng.integers(0, top, shape).astype(dtype)
    return feeds
