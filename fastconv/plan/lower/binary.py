"""Broadcasting functions of two and more values: layouts are reconciled, dimensions collapsed."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from math import prod
from typing import Any

import numpy as np

from ...graph import Node
from ...graph.activation import Activation
from ...graph.op import broadcast
from ...graph.ops.activations import PRelu
from ...graph.ops.binary import Binary, Mean, Pow, Variadic
from ...graph.tracing import pure, settled
from ...records import record
from ...sizes import checked_size
from ..lowering import Lowering, Scaled, lowers
from ..memory import CHANNELS_LAST, FLAT, PLAIN, Place
from .conv import INF, epilogue

#: Outer dimensions that the kernel takes (``RANK`` in ``kernels/elementwise.pyx``).
RANK = 8
CODES = {"add": 0, "sub": 1, "mul": 2, "div": 3, "min": 4, "max": 5, "pow": 6, "prelu": 7}
#: Constant rows shorter than this are repeated so that the kernel's rows get longer.
SHORT_ROW = 64

Shape = tuple[int, ...]
#: A value's name, or an array of one element.
Operand = str | np.ndarray
#: The name of a packed constant, in the cache of such.
Key = tuple[Hashable, ...]


def strides_of(shape: Sequence[int]) -> list[int]:
    """C-order strides in elements, 0 where the size is 1."""
    strides, step = [], 1
    for d in reversed(shape):
        strides.append(0 if d == 1 else step)
        step *= d
    return strides[::-1]


def aligned(shape: Shape, rank: int) -> Shape:
    """The shape with ones in front."""
    return (1,) * (rank - len(shape)) + tuple(shape)


def memory_order(values: Sequence[int], layout: str) -> list[int]:
    """Entries per logical dimension → per dimension of memory."""
    if layout == CHANNELS_LAST:
        return [values[0], *values[2:], values[1]]
    return list(values)


def collapse(
    shape: Sequence[int], a: Sequence[int], b: Sequence[int]
) -> tuple[list[int], list[int], list[int]]:
    """The same loops in the fewest dimensions; sizes of 1 vanish, neighbours merge."""
    if a == b or not any(b):
        step = 1
        for n, s in zip(reversed(shape), reversed(a)):
            if n != 1:
                if s != step:
                    break
                step *= n
        else:  # one run of elements
            return [step], [1], [1 if a == b else 0]
    out: list[list[int]] = []
    for n, sa, sb in zip(shape, a, b, strict=True):
        if n == 1:
            continue
        if out and out[-1][1] == n * sa and out[-1][2] == n * sb:
            out[-1] = [out[-1][0] * n, sa, sb]
        else:
            out.append([n, sa, sb])
    out = out or [[1, 1, 1]]
    return [d[0] for d in out], [d[1] for d in out], [d[2] for d in out]


@record
class Value:
    """One operand.

    Attributes:
        place: its memory.
        steps: elements from one to the next, per dimension of the result's memory (0: it repeats).
        key: names its constant data for the cache of packed constants, if it has such a name.
    """

    place: Place
    steps: list[int]
    key: Hashable = None

    def __init__(self, place: Place, steps: list[int], key: Hashable = None) -> None:
        self.place = place
        self.steps = steps
        self.key = key


def shape_of(low: Lowering, operand: Operand) -> Shape:
    """The logical shape of an operand, which may be an intermediate value of a chain."""
    if isinstance(operand, np.ndarray):
        return operand.shape
    array = low.known.get(operand)
    if array is not None:
        return array.shape
    return low.places[operand, low.layout_of(operand)].shape


def cached(low: Lowering, key: Key | None, make: Callable[[], np.ndarray]) -> Place:
    """A constant kept for other plans when ``key`` is given, else for this plan alone."""
    return low.constant(make()) if key is None else low.packed(key, make)


def suits(low: Lowering, operand: Operand, shape: Shape, layout: str, channels: int) -> bool:
    """Whether ``fetch`` can give this operand for a result of ``shape`` in ``layout``."""
    own = shape_of(low, operand)
    if layout == PLAIN or prod(own) == 1 or (layout == CHANNELS_LAST and len(own) == len(shape)):
        return True
    full = aligned(own, len(shape))
    known = isinstance(operand, np.ndarray) or operand in low.known
    if layout == CHANNELS_LAST:
        return known or len(own) == len(shape) or prod(full[2:]) == 1 or full[1] == 1
    if known:
        return full[1] in (1, shape[1])
    assert isinstance(operand, str)
    place = low.places[operand, low.layout_of(operand)]
    return own == shape and place.layout == FLAT and place.channels == channels


def fetch(low: Lowering, operand: Operand, y: Place) -> Value:
    """An operand of the result ``y``, converted to a layout in which the kernel can walk it."""
    own, rank = shape_of(low, operand), len(y.shape)
    dims = 3 if y.layout == FLAT else rank
    if isinstance(operand, np.ndarray):
        assert operand.size == 1
        return Value(low.constant(operand), [0] * dims)
    if prod(own) == 1:
        return Value(low.place(operand, PLAIN), [0] * dims)
    full = aligned(own, rank)
    array = low.const(operand)
    key: Hashable = operand if operand in low.graph.consts else None
    if y.layout == PLAIN:
        return Value(low.place(operand, PLAIN), strides_of(full), key)
    if y.layout == FLAT:
        # Memory is [N][S][C] of a value (N, C*S).
        n, s, c = full[0], full[1] // y.channels, y.channels
        if array is None:
            return Value(low.place(operand), strides_of((n, s, c)))
        if full[1] == 1:
            return Value(low.place(operand, PLAIN), strides_of((n, 1, 1)))
        packed = None if key is None else ("flat", key, c)
        place = cached(low, packed, lambda: array.reshape(n, c, s).swapaxes(1, 2))
        return Value(place, strides_of((n, s, c)), packed)
    if prod(full[2:]) == 1 or full[1] == 1:
        # Plain and channels-last memory are the same.
        return Value(low.place(operand, PLAIN), memory_order(strides_of(full), CHANNELS_LAST), key)
    if array is not None:
        packed = None if key is None else ("channels_last", key, rank)
        place = cached(low, packed, lambda: np.moveaxis(array.reshape(full), 1, -1))
        return Value(place, strides_of(memory_order(full, CHANNELS_LAST)), packed)
    place = low.place(operand, CHANNELS_LAST, dense=False)
    steps = strides_of([*memory_order(own, CHANNELS_LAST)[:-1], place.pixel])
    steps[-1] = 1
    return Value(place, steps)


def choose_layout(low: Lowering, operands: Sequence[Operand], shape: Shape) -> tuple[str, int]:
    """The layout of the result, and its channels if that is ``FLAT``.

    It is that of the operands that are as large as the result; channels-last wins over plain.
    """
    names = [o for o in operands if isinstance(o, str) and o not in low.known]
    places = [low.places[n, low.layout_of(n)] for n in names]
    large = [p for p in places if p.shape == shape] or places
    for p in large:
        if p.layout != PLAIN and len(p.shape) == len(shape):
            choice = p.layout, p.channels
            if p.layout == FLAT and p.shape != shape:
                continue
            if all(suits(low, o, shape, *choice) for o in operands):
                return choice
    return PLAIN, 0


@pure
def repeats(outer: int, n: int) -> int:
    """How many of ``outer`` rows of ``n`` elements make one, of at most four short rows' length."""
    return next(t for t in range(min(outer, 4 * SHORT_ROW // n), 0, -1) if outer % t == 0)


def lengthen(low: Lowering, values: list[Value], shape: list[int], steps: list[list[int]]) -> None:
    """Repeat a short constant row (the means of 3 colours, say), so that the kernel's rows grow."""
    if len(shape) < 2 or shape[-1] >= SHORT_ROW:
        return
    n, outer = shape[-1], shape[-2]
    for v, mine, other in zip(values, steps, steps[::-1], strict=True):
        array = v.place.buffer.array
        if array is None or array.size != n or mine[-2:] != [0, 1] or other[-2:] != [n, 1]:
            continue
        times = settled(repeats(outer, n))
        if times > 1:
            key = None if v.key is None else ("repeated", v.key, times)
            v.place = cached(low, key, partial(np.tile, array.reshape(-1), times))
            shape[-2:] = [outer // times, n * times]
            other[-2] *= times
        return


def emit(
    low: Lowering,
    op: str,
    operands: Sequence[Operand],
    output: str,
    shape: Shape,
    act: Activation | None = None,
    temporary: bool = False,
) -> None:
    """Append one ``binary`` step that computes value ``output``, in a layout that suits it.

    Args:
        op: an operation of ``CODES``.
        operands: two value names, or arrays of one element.
        shape: the result's shape.
        act: applied to the result.
        temporary: whether ``output`` is no value of the graph but a name made up for a chain.
    """
    layout, channels = choose_layout(low, operands, shape)
    if temporary:
        nbytes = checked_size(shape, 4, f"part of value {output!r}")
        pixel = shape[1] if layout == CHANNELS_LAST else 0
        y = Place(low.buffer(nbytes), 0, shape, np.dtype(np.float32), layout, pixel, channels)
        low.places[output, layout] = y
    else:
        y = low.new(output, layout, channels)
    if y.size == 0:
        return
    values = [fetch(low, o, y) for o in operands]
    if layout == FLAT:
        memory = [shape[0], shape[1] // channels, channels]
    else:
        memory = memory_order(shape, layout)
    sizes, a, b = collapse(memory, values[0].steps, values[1].steps)
    lengthen(low, values, sizes, [a, b])
    pad = RANK + 1 - len(sizes)
    low.step(
        "binary",
        dict(
            n=sizes[-1],
            shape=[1] * pad + sizes[:-1],
            a_step=[0] * pad + a[:-1],
            b_step=[0] * pad + b[:-1],
            a_inner=a[-1],
            b_inner=b[-1],
            op=CODES[op],
            **epilogue(act),
        ),
        [values[0].place, values[1].place, y],
        work=y.nbytes + sum(v.place.nbytes for v in values),
    )


def chain(low: Lowering, first: str, terms: Sequence[tuple[str, Operand]], output: str) -> Any:
    """Append binary steps from left to right: ``first op name op name ...``."""
    current, shape = first, shape_of(low, first)
    for k, (op, operand) in enumerate(terms):
        shape = broadcast(shape, shape_of(low, operand))
        last = k == len(terms) - 1
        target = output if last else f"{output}#{k}"
        emit(low, op, [current, operand], target, shape, temporary=not last)
        current = target


def lowerable(low: Lowering, node: Node) -> bool:
    """Whether the kernel takes this node: float32 of no more dimensions than it can walk."""
    ranks = [len(low.shape(n)) for n in [*node.inputs, node.outputs[0]]]
    return low.all_float32(*node.inputs) and max(ranks) <= RANK + 1


def excited(low: Lowering, node: Node, compute: Callable[[], None]) -> Scaled | None:
    """The product of an image and one factor for each channel (squeeze and excitation)."""
    for x, s in (node.inputs, node.inputs[::-1]):
        shape = low.shape(x)
        if (
            len(shape) == 4
            and low.shape(s) == (*shape[:2], 1, 1)
            and prod(shape[2:]) > 1
            and x not in low.known
            and s not in low.known
            and low.layout_of(x) == CHANNELS_LAST
        ):
            factor = low.place(s)
            return Scaled(node, x, factor, True, None, -INF, compute)
    return None


def binary(low: Lowering, node: Node) -> Any:
    """One step; or one for every input but the first."""
    op, output = node.op, node.outputs[0]
    assert isinstance(op, Binary)
    if not op.kernel or not lowerable(low, node):
        return False
    if not isinstance(op, Variadic):
        act = getattr(op, "activation", None)
        compute = partial(emit, low, op.kernel, node.inputs, output, low.shape(output), act)
        free = output not in low.outputs and output not in low.slices
        if op.kernel == "mul" and act is None and free:
            scaled = excited(low, node, compute)
            if scaled is not None:
                return low.postpone(output, scaled)
        return compute()
    terms: list[tuple[str, Operand]] = [(op.kernel, n) for n in node.inputs[1:]]
    if not terms:
        low.alias(output, low.place(node.inputs[0]))
        return None
    if isinstance(op, Mean):
        terms.append(("div", np.full((), len(node.inputs), np.float32)))
    return chain(low, node.inputs[0], terms, output)


lowers(Binary)(binary)


@lowers(Pow)
def power(low: Lowering, node: Node) -> Any:
    """A constant exponent makes it a function of one value; squares are cheap."""
    op, (x, e), output = node.op, node.inputs, node.outputs[0]
    assert isinstance(op, Pow)
    exponent = low.const(e)
    if exponent is None or exponent.size != 1 or low.shape(x) != low.shape(output):
        return binary(low, node)
    if not low.all_float32(x) or len(low.shape(x)) > RANK + 1:
        return False
    value = float(exponent.reshape(()))
    if op.activation is not None:
        if value == 2:
            return emit(low, "mul", [x, x], output, low.shape(output), op.activation)
        return binary(low, node)
    if value == 1:
        low.alias(output, low.place(x, dense=False))
        return None
    return emit_unary(low, x, output, Activation("pow", value))


@lowers(PRelu)
def prelu(low: Lowering, node: Node) -> Any:
    """One step of the binary kernel."""
    if not lowerable(low, node):
        return False
    return emit(low, "prelu", node.inputs, node.outputs[0], low.shape(node.outputs[0]))


def emit_unary(low: Lowering, x: str, output: str, act: Activation) -> None:
    """One pass of an activation over a value, in the layout it has."""
    source = low.place(x)
    y = low.new(output, source.layout, source.channels)
    if source.size:
        low.step("unary", dict(n=source.size, **epilogue(act)), [source, y], work=2 * source.nbytes)
