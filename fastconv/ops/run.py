"""What the functions share: checking arguments, and running one operator."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from ..errors import InputError, OptionError, ShapeError
from ..graph import REGISTRY, Graph, Node, Op, TensorType
from ..runtime.engine import Engine
from ..sizes import checked_size
from ..threads import check_threads, default_threads

Array = np.ndarray
Ints = int | Sequence[int]

F32 = np.dtype(np.float32)
FLOATS = (F32, np.dtype(np.float64), np.dtype(np.float16))

#: What is kept between calls, at most: entries, and bytes of weights and activations.
MAX_ENTRIES = 64
MAX_BYTES = 64 << 20


class Ready(NamedTuple):
    """An operator planned for some shapes, with the weights that it was planned with."""

    engine: Engine
    weights: tuple[Array, ...]
    nbytes: int


_ready: dict[Any, Ready] = {}


# Arguments.


def as_array(what: str, name: str, value: Any) -> Array:
    """``value`` as a C-contiguous float array in native byte order."""
    if not isinstance(value, np.ndarray):
        try:
            value = np.asarray(value)
        except (ValueError, TypeError) as e:
            raise InputError(f"{what}: {name} is not an array: {e}") from None
    if value.dtype not in FLOATS:
        native = value.dtype.newbyteorder("=")
        if native not in FLOATS:
            raise InputError(
                f"{what}: {name} has dtype {value.dtype}; expected float32, float64 or float16"
            )
        value = value.astype(native)
    return value if value.flags.c_contiguous else np.ascontiguousarray(value)


def same_dtype(what: str, x: Array, name: str, value: Array) -> None:
    """Raise InputError unless ``value`` has the dtype of ``x``."""
    if value.dtype != x.dtype:
        raise InputError(f"{what}: {name} has dtype {value.dtype}, but x has {x.dtype}")


def spatial(what: str, x: Any, rank: int) -> tuple[Array, bool]:
    """``x`` with a batch axis, and whether it came with one."""
    x = as_array(what, "x", x)
    if x.ndim not in (rank + 1, rank + 2):
        axes = ", ".join(("D", "H", "W")[3 - rank :] if rank > 1 else ("L",))
        raise InputError(
            f"{what}: x has rank {x.ndim} (shape {list(x.shape)}); "
            f"expected (N, C, {axes}) or (C, {axes})"
        )
    return (x, True) if x.ndim == rank + 2 else (x[None], False)


def unbatch(y: Array, batched: bool) -> Array:
    """``y`` without its batch axis, where the input came without one."""
    return y if batched else y[0]


def weight_array(what: str, x: Array, name: str, value: Any, rank: int) -> Any:
    """A weight as an array of this rank and of the dtype of ``x``; None stays None."""
    if value is None:
        return None
    value = as_array(what, name, value)
    same_dtype(what, x, name, value)
    if value.ndim != rank:
        raise InputError(
            f"{what}: {name} has rank {value.ndim} (shape {list(value.shape)}); "
            f"expected rank {rank}"
        )
    return value


def need_weight(what: str, x: Array, value: Any, rank: int) -> Array:
    """The weight that a function cannot do without."""
    if value is None:
        raise InputError(f"{what}: weight is None; expected an array of rank {rank}")
    return weight_array(what, x, "weight", value, rank)


def number(what: str, name: str, value: Any, least: int) -> int:
    """A whole number of at least ``least``, or InputError."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise InputError(f"{what}: {name} {value!r}: expected a whole number")
    n = value.__index__()
    if not least <= n < 1 << 31:
        raise InputError(f"{what}: {name} {n}: expected a number from {least} to 2**31-1")
    return n


def numbers(what: str, name: str, value: Any, count: int, least: int) -> tuple[int, ...]:
    """One number for every axis, or as many numbers as axes."""
    if isinstance(value, (list, tuple)):
        if len(value) == 1:
            value = value * count
        if len(value) != count:
            raise InputError(
                f"{what}: {name} {value!r} has {len(value)} entries; expected 1 or {count}"
            )
        return tuple(number(what, name, v, least) for v in value)
    return (number(what, name, value, least),) * count


# Running.


@lru_cache(maxsize=256)
def operator(name: str, **attrs: Any) -> Op:
    """The ONNX operator of this name with these attributes."""
    return REGISTRY["", name](**attrs)


@lru_cache(maxsize=1)
def _default_threads() -> int:
    return default_threads()


def _threads(what: str, threads: int | None) -> int:
    if not threads and threads is not False:
        return _default_threads()
    try:
        return check_threads(threads)
    except OptionError as e:
        raise InputError(f"{what}: {e}") from None


def apply(
    what: str,
    op: Op,
    arrays: Sequence[Array | None],
    threads: int | None,
    weights: tuple[int, ...] = (),
) -> Array:
    """Run an operator with one output; see ``apply_all``."""
    return apply_all(what, op, arrays, threads, weights)[0]


def apply_all(
    what: str,
    op: Op,
    arrays: Sequence[Array | None],
    threads: int | None,
    weights: tuple[int, ...] = (),
    n_outputs: int = 1,
) -> list[Array]:
    """Run an operator.

    Args:
        what: the function's name, for messages.
        arrays: its inputs; None for an absent one. The first is never a weight.
        weights: which of them are weights: constants of the plan.
    """
    count = _threads(what, threads)
    first = arrays[0]
    assert first is not None
    if first.dtype != F32:
        _check(what, op, arrays)
        with np.errstate(all="ignore"):
            return op.compute(_trim(arrays))[:n_outputs]
    held = [a for i in weights if (a := arrays[i]) is not None]
    key = (
        op,
        tuple([None if a is None else a.shape for a in arrays]),
        count,
        n_outputs,
        tuple([_sample(a) for a in held]),
    )
    ready = _ready.get(key)
    if ready is None or not all(map(_same_bits, ready.weights, held)):
        ready = _prepare(what, op, arrays, count, weights, n_outputs)
        _keep(key, ready)
    feeds = {f"in{i}": a for i, a in enumerate(arrays) if a is not None and i not in weights}
    outs = ready.engine.run(feeds)
    return [outs[f"out{k}"] for k in range(n_outputs)]


def _trim(arrays: Sequence[Array | None]) -> list[Array | None]:
    """Without the absent inputs at the end."""
    result = list(arrays)
    while result[-1] is None:
        result.pop()
    return result


def _check(what: str, op: Op, arrays: Sequence[Array | None]) -> None:
    """Raise InputError where the operator's shape rule does not hold."""
    types = [None if a is None else TensorType(a.dtype, a.shape) for a in _trim(arrays)]
    try:
        outs = op.infer(types, _trim(arrays))
    except ShapeError as e:
        raise InputError(f"{what}: {e}") from None
    for t in outs:
        itemsize = t.dtype.itemsize if t.dtype else 8
        checked_size(t.shape or (), itemsize, f"{what}: output")  # type: ignore[arg-type]


def _prepare(
    what: str,
    op: Op,
    arrays: Sequence[Array | None],
    threads: int,
    weights: tuple[int, ...],
    n_outputs: int,
) -> Ready:
    _check(what, op, arrays)
    names = ["" if a is None else f"in{i}" for i, a in enumerate(arrays)]
    consts = {names[i]: a.copy() for i in weights if (a := arrays[i]) is not None}
    inputs = [n for n in names if n and n not in consts]
    outputs = [f"out{k}" for k in range(n_outputs)]
    while not names[-1]:
        names.pop()
    graph = Graph(what, [Node(op, names, outputs, what)], inputs, outputs, consts)
    engine = Engine(graph, threads)
    types = {f"in{i}": a for i, a in enumerate(arrays) if a is not None and i not in weights}
    arena = engine.prepare(types).plan.arena_size
    nbytes = arena + engine.packs.nbytes + sum(c.nbytes for c in consts.values())
    return Ready(engine, tuple(consts.values()), nbytes)


def _keep(key: Any, ready: Ready) -> None:
    """Remember it, and forget the oldest beyond the limits (no lock: single steps are atomic)."""
    if ready.nbytes > MAX_BYTES:
        return
    _ready[key] = ready
    kept = list(_ready.items())
    total = sum(r.nbytes for _, r in kept)
    for k, (old, r) in enumerate(kept):
        if total <= MAX_BYTES and len(kept) - k <= MAX_ENTRIES:
            break
        _ready.pop(old, None)
        total -= r.nbytes


def _sample(a: Array) -> bytes:
    """A few of its elements: tells most arrays of one shape apart."""
    return a.reshape(-1)[:: max(1, a.size // 16)].tobytes()


def _same_bits(a: Array, b: Array) -> bool:
    return np.array_equal(a.reshape(-1).view(np.uint32), b.reshape(-1).view(np.uint32))
