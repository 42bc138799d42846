"""Steps of random networks that move, cut and join: each adds a node or a few."""

from __future__ import annotations

from typing import Any

import numpy as np
from grower import Grower


def shuffle(g: Grower) -> None:
    x = g.value(lambda a: a.ndim == 4 and a.shape[1] > 1)
    n, c, h, w = g.values[x].shape
    k = g.pick([d for d in range(2, c + 1) if c % d == 0])
    y = g("Reshape", x, g.ints(n, k, c // k, h, w))
    perm = [0, 2, 1, 3, 4] if g.chance(80) else [0, 1, 2, 4, 3]
    g("Reshape", g("Transpose", y, perm=perm), g.ints(n, -1, h, w))


def concat(g: Grower) -> None:
    a = g.value(lambda v: v.ndim >= 2)
    shape = g.values[a].shape
    axis = g.pick([1, 1, 1, 0, len(shape) - 1])

    def fits(v: np.ndarray) -> bool:
        return v.ndim == len(shape) and all(
            i == axis or p == q for i, (p, q) in enumerate(zip(v.shape, shape, strict=True))
        )

    parts = [a, *(g.value(fits) for _ in range(g.int(1, 2)))]
    g("Concat", *g.draw.sample(parts, len(parts)), axis=axis if g.chance(70) else axis - len(shape))


def split(g: Grower) -> None:
    x = g.value(lambda a: a.ndim >= 2 and max(a.shape[1:]) > 1)
    shape = g.values[x].shape
    axis = g.pick([i for i in range(1, len(shape)) if shape[i] > 1])
    first = g.int(1, shape[axis] - 1)
    if g.chance(60) or g.opset < 18:
        g("Split", x, g.ints(first, shape[axis] - first), outputs=2, axis=axis)
    else:
        g("Split", x, outputs=2, axis=axis, num_outputs=2)


def resize(g: Grower) -> None:
    x = g.image()
    mode = g.pick(["nearest", "linear", "cubic"])
    attrs: dict[str, Any] = {"mode": mode}
    if mode == "nearest":
        attrs |= {
            "coordinate_transformation_mode": "asymmetric",
            "nearest_mode": g.pick(["floor", "ceil"]),
        }
    else:
        attrs["coordinate_transformation_mode"] = g.pick(["half_pixel", "align_corners"])
    if g.chance(60):
        half = 0.5 if attrs["coordinate_transformation_mode"] == "half_pixel" else 2
        scales = [1, 1, g.pick([1, 2, 2, 3]), g.pick([1, 2, 2, half])]
        g("Resize", x, "", g.const(scales), **attrs)
    else:
        n, c = g.values[x].shape[:2]
        attrs["coordinate_transformation_mode"] = "half_pixel"
        attrs.pop("nearest_mode", None)
        attrs["mode"] = "linear"
        g("Resize", x, "", "", g.ints(n, c, g.int(1, 9), g.int(1, 9)), **attrs)


def pad(g: Grower) -> None:
    x = g.image(2)
    mode = g.pick(["constant", "constant", "constant", "reflect", "edge"])
    most = 1 if mode == "reflect" else 2
    pads = [0, 0, *(g.int(0, most) for _ in range(2))] * 2
    if g.chance(15) and mode == "constant":
        pads[1] = 1
    value = [g.const(g.pick([0, 0, 0.5]))] if mode == "constant" and g.chance(70) else []
    y = g("Pad", x, g.ints(*pads), *value, mode=mode)
    if g.chance(60):
        c = g.values[y].shape[1]
        g("Conv", y, g.weight(g.int(1, 6), c, 3, 3, fan=9 * c))


def slice_(g: Grower) -> None:
    x = g.value(lambda a: a.ndim >= 2 and max(a.shape) > 1)
    shape = g.values[x].shape
    axis = g.pick([i for i in range(len(shape)) if shape[i] > 1])
    step = g.pick([1, 1, 1, 2, -1])
    start, end = g.int(0, shape[axis] // 2), g.pick([shape[axis], shape[axis] - 1, 1 << 40, -1])
    if step < 0:
        start, end = -1, g.pick([-(1 << 40), 0])
    g("Slice", x, g.ints(start), g.ints(end), g.ints(axis), g.ints(step))


def transpose(g: Grower) -> None:
    x = g.value(lambda a: a.ndim >= 2)
    rank = g.values[x].ndim
    if rank == 4 and g.chance(60):
        perm = g.pick([[0, 2, 3, 1], [0, 3, 1, 2]])
    else:
        perm = g.draw.sample(list(range(rank)), rank)
    y = g("Transpose", x, perm=perm)
    if g.chance(50):  # there and back, with something between that does not mind
        y = g("Relu", y) if g.chance(50) else y
        g("Transpose", y, perm=[perm.index(k) for k in range(rank)])


def reshape(g: Grower) -> None:
    x = g.value(lambda a: a.ndim >= 2)
    shape = g.values[x].shape
    kind = g.int(0, 5)
    if kind == 0:
        g("Flatten", x, axis=g.pick([1, 1, 1, 0, 2]))
    elif kind == 1:
        g("Reshape", x, g.ints(shape[0], -1))
    elif kind == 2 and len(shape) == 4:
        g("Reshape", x, g.ints(0, 0, -1))
    elif kind == 3 and len(shape) == 3:
        g("Reshape", x, g.ints(0, 0, 1, -1))
    elif kind == 4:
        axis = g.int(0, len(shape))
        y = g("Unsqueeze", x, g.ints(axis))
        if g.chance(50):
            g("Squeeze", g("Sigmoid", y), g.ints(axis))
    else:
        whole = g("Shape", x)
        g("Reshape", g("Abs", x), whole)


def space(g: Grower) -> None:
    if g.chance(50):
        x = g.value(lambda a: a.ndim == 4 and a.shape[1] % 4 == 0)
        g("DepthToSpace", x, blocksize=2, mode=g.pick(["DCR", "CRD"]))
    else:
        x = g.value(lambda a: a.ndim == 4 and not a.shape[2] % 2 and not a.shape[3] % 2)
        g("SpaceToDepth", x, blocksize=2)


def gather(g: Grower) -> None:
    x = g.value(lambda a: a.ndim >= 2)
    shape = g.values[x].shape
    axis = g.int(0, len(shape) - 1)
    if g.chance(50):
        index = g.ints(*(g.int(0, shape[axis] - 1) for _ in range(g.int(1, 3))))
    else:
        index = g.const(g.int(-shape[axis], shape[axis] - 1), np.int64)
    g("Gather", x, index, axis=axis)


def constant_branch(g: Grower) -> None:
    """A node of constants alone, for folding."""
    shape = g.values[g.value()].shape[-1:]
    k = g(g.pick(["Relu", "Exp", "Neg"]), g.const(g.rng.standard_normal(shape)))
    g.made.remove(k)
    g("Add", g.value(lambda a: a.shape[-1:] == shape), k)


def expand(g: Grower) -> None:
    x = g.value(lambda a: 1 in a.shape)
    shape = [d if d > 1 else g.int(1, 3) for d in g.values[x].shape]
    g("Expand", x, g.ints(*shape))
