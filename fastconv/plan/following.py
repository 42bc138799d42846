"""Recipes for other sizes: a node is lowered once more, with sizes that note what becomes of them.

See ``tracing`` for how that goes, and ``recipes`` for what comes of it. A recipe is kept only if it
gives, for the sizes at hand, what lowering the node gave, parameter structs included.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from .. import kernels
from ..errors import FastconvError
from ..graph import Graph, SymbolicError, TensorType
from ..graph.tracing import Recorder, Traced, Untraceable, plain
from .lowering import Lowering, Scaled
from .memory import CONST, Buffer, Place
from .recipe import (
    COMPUTED,
    FIXED,
    LAYOUTS,
    SCALE,
    SHIFT,
    Given,
    Made,
    Part,
    Recipe,
    Unwritable,
    Whole,
    Writer,
    computed,
    position,
    sources,
    write,
)
from .recipes import Rules
from .tape import Tape

#: What tracing may come to an end with.
FAILURES = (
    Untraceable, Unwritable, FastconvError, TypeError, ValueError, KeyError, OverflowError,
    IndexError, AttributeError,
)  # fmt: skip
#: Where the fields of parameter structs lie: (kernel build, kernel, field, position) → (bytes from
#: the start, kind); None where that cannot be told.
Fields = dict[tuple[str, str, str, int], tuple[int, int] | None]
_fields: Fields = {}
#: Marks in a field, and how many bytes of an integer they are.
MARK, LONG, SHORT, SINGLE = -1, 0, 1, 2
#: What depends on sizes in a parameter struct: (bytes from the start, kind, number of the value).
Patch = tuple[int, int, int]


class Forced(Exception):
    """A value that was postponed is computed after all: which input of the node."""


class TracedLowering(Lowering):
    """The lowering of one node whose sizes are traced."""

    recorder: Recorder
    made: dict[int, tuple[Any, ...]]

    def packed(self, key: tuple[Hashable, ...], make: Callable[[], np.ndarray]) -> Place:
        exact = tuple([k.recorder.exact(k) if type(k) is Traced else k for k in key])
        return super().packed(exact, make)

    def compute(self, name: str) -> None:
        assert self.node is not None
        raise Forced(self.node.inputs.index(name))

    def computed(self, function: Callable[..., np.ndarray], *sizes: Any) -> Place:
        place = self.constant(function(*[plain(s) for s in sizes]))
        self.made[id(place.buffer)] = function, sizes
        return place


class TracedWriter(Writer):
    """Writes a recipe in which some numbers are outputs of a tape."""

    low: TracedLowering

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.outputs_of_tape: list[Any] = []
        self._slots: dict[int, int] = {}
        self._shapes: dict[tuple[Any, ...], slice] = {}

    def slot(self, n: Any) -> int:
        """Which output of the tape a traced number is."""
        k = self._slots.get(n.index)
        if k is None:
            k = self._slots[n.index] = len(self.outputs_of_tape)
            self.outputs_of_tape.append(n)
        return k

    def written(self, n: Any) -> int:
        if type(n) is Traced:
            return -1 - self.slot(n)
        return super().written(n)

    def params(
        self, params: Mapping[str, Any]
    ) -> tuple[Mapping[str, Any], tuple[tuple[str, int, int], ...]]:
        plainly: dict[str, Any] = {}
        varying = []
        for name, value in params.items():
            if type(value) is Traced:
                varying.append((name, -1, self.slot(value)))
                value = value.value
            elif type(value) in (list, tuple):
                for i, v in enumerate(value):
                    if type(v) is Traced:
                        varying.append((name, i, self.slot(v)))
                value = [plain(v) for v in value]
            plainly[name] = value
        return plainly, tuple(varying)

    def form(self, p: Place) -> tuple[Any, ...]:
        shape: Any = p.shape
        if any(type(d) is Traced for d in shape):
            key = tuple([(d.index,) if type(d) is Traced else d for d in shape])
            if key not in self._shapes:
                count = len(self.outputs_of_tape)
                self._shapes[key] = slice(count, count + len(shape))
                self.outputs_of_tape += shape
            shape = self._shapes[key]
        start, pixel, channels = map(self.written, (p.start, p.pixel, p.channels))
        return start, shape, p.dtype, p.layout, pixel, channels

    def memory(self, p: Place) -> tuple[Any, Any]:
        found = self.low.made.get(id(p.buffer))
        if found is None:
            return super().memory(p)
        function, sizes = found
        return COMPUTED, (
            function,
            tuple([[self.slot(s)] if type(s) is Traced else s for s in sizes]),
        )


def trace(
    low: Lowering,
    made: Made,
    sizes: list[int],
    postponed: Mapping[str, Scaled],
    whole: Whole,
) -> tuple[Recipe | None, bool]:
    """What was done for a node as a recipe for other sizes, and whether it holds for these alone.

    Args:
        low: the plan in the making.
        made: what lowering the node did.
        sizes: those of its inputs and outputs, in the order of ``Recipes``.
        postponed: the values that were before that.
        whole: lowers a node.
    """
    (s0, _, _, _, computes, *_), (s1, _, _, _, computes_after, *_) = made[2:]
    forced = computes_after != computes
    real = None if forced else write(low, made)
    if real is None and not forced:
        return None, True
    kind = made[0]
    recorder = Recorder()
    try:
        shadow, given = shadow_of(low, made, sizes, postponed, recorder)
        begin = position(shadow)
        try:
            whole(shadow, kind.node)
        except Forced as e:
            if real is not None or position(shadow) != begin:
                return None, True
            tape = tape_of(recorder, [], [])
            recipe = Recipe([], [], [], [], [], {}, tape, [], None, e.args[0])
            return recipe, recorder.narrow
        if real is None:
            return None, True
        end = position(shadow)
        if end[4] != begin[4]:
            return None, True
        writer = TracedWriter(
            shadow,
            kind,
            given,
            (0, end[1]),
            (begin[2], end[2]),
            (begin[3], end[3]),
            (begin[6], end[6]),
        )
        recipe = writer.recipe(shadow.steps, end[5] - begin[5])
        table = kernels.table(low.isa)
        structs = []
        parts = []
        for part in recipe.parts:
            struct = table[part.kernel].pack(**part.params)
            structs.append(struct)
            patches = []
            for name, at, k in part.varying:
                where = field_of(low.isa, part, name, at)
                if where is None:
                    return None, True
                value = recorder.number(writer.outputs_of_tape[k], where[1] == SINGLE)
                patches.append((*where, value))
            parts.append((struct, patches))
        recipe.tape = tape_of(recorder, writer.outputs_of_tape, parts)
        found = recipe.tape.run(sizes)
        if found is None or not equal(real, recipe, found[0], low):
            return None, True
        wanted = [table[p.kernel].pack(**p.params) for p in real.parts]
        if found[1] != wanted:
            return None, True
    except FAILURES:
        return None, True
    for step, struct in zip(low.steps[s0:s1], structs, strict=True):
        step.part = None
        step.packed = struct
    return recipe, recorder.narrow


def tape_of(
    recorder: Recorder, outputs: Sequence[Any], parts: list[tuple[bytes, list[Patch]]]
) -> Tape:
    """The tape of what was recorded, which gives ``outputs``: traced values or numbers."""
    places = [recorder.number(o) for o in outputs]
    return Tape(
        recorder.inputs, recorder.values, recorder.floats, recorder.code, recorder.calls, places,
        parts,
    )  # fmt: skip


def trace_rules(
    graph: Graph, types: Mapping[str, TensorType], stored: Mapping[str, TensorType]
) -> Rules | None:
    """How the types of all values follow from the sizes of the inputs; None if they do not so.

    Args:
        graph: a graph in which nothing but constants is known at plan time.
        types: the type of every value for some sizes.
        stored: those of its constants.
    """
    recorder = Recorder()
    found: dict[str, TensorType] = {}
    outputs: list[Any] = []
    forms: dict[tuple[Any, ...], int] = {}
    listed: list[tuple[Any, Any]] = []
    names: list[str] = []
    indices: list[int] = []
    try:
        for name in graph.inputs:
            t = types[name]
            shape: Any = t.shape
            sizes: Any = [recorder.size(d) for d in shape[2:]]
            found[name] = TensorType(t.dtype, (*shape[:2], *sizes))
        for node in graph.nodes:
            op = node.op
            if op.control or op.dynamic or not op.deterministic:
                return None
            ins = [None if not i else stored.get(i) or found[i] for i in node.inputs]
            values = [graph.consts.get(i) if i else None for i in node.inputs]
            if op.fold(ins, values) is not None:
                return None
            outs = op.infer(ins, values)
            for name, t in zip(node.outputs, outs, strict=False):
                if not name:
                    continue
                shape = t.shape
                if t.dtype != types[name].dtype or tuple(map(plain, shape)) != types[name].shape:
                    return None
                found[name] = t
                traced: list[Any] = [(d.index,) if type(d) is Traced else d for d in shape]
                key = (t.dtype, *traced)
                if key not in forms:
                    forms[key] = len(listed)
                    if not any(type(d) is Traced for d in shape):
                        listed.append((t.dtype, shape))
                    else:
                        listed.append((t.dtype, slice(len(outputs), len(outputs) + len(shape))))
                        outputs += shape
                names.append(name)
                indices.append(forms[key])
        tape = tape_of(recorder, outputs, [])
    except (*FAILURES, SymbolicError):
        return None
    if recorder.narrow:
        return None
    opened = {}
    for name in names:
        shape = found[name].shape
        first = next((i for i, d in enumerate(shape[:2]) if type(d) is Traced), 2)
        if first < 2:
            opened[name] = first
    return Rules(tape, names, indices, listed, opened)


def shadow_of(
    low: Lowering,
    made: Made,
    sizes: list[int],
    late: Mapping[str, Scaled],
    recorder: Recorder,
) -> tuple[TracedLowering, Given]:
    """A plan in the making in which there are a node's inputs alone, of traced sizes."""
    kind, given = made[:2]
    node = kind.node
    left = iter(sizes)

    def traced(shape: Any, first: int = 2) -> Any:
        return (*shape[:first], *[recorder.size(next(left)) for _ in shape[first:]])

    # Forms of places by identity: what scales a postponed input has sizes of its own.
    names = sources(late, node)
    scales = {(i, layout): p for i, layout, p in given if layout not in LAYOUTS}
    shapes: dict[tuple[int, str], Any] = {}
    types: dict[str, TensorType] = {}
    for name in dict.fromkeys(n for n in names if n in low.types):
        t = low.types[name]
        types[name] = TensorType(t.dtype, traced(t.shape, low.opened.get(name, 2)))
        for at, p in scales.items():
            if names[at[0]] == name:
                shapes[at] = traced(p.shape)
    for name in node.outputs:
        if not name:
            continue
        t = low.types[name]
        types[name] = TensorType(t.dtype, traced(t.shape, low.opened.get(name, 2)))
        part = low.slices.get(name)
        if part is not None:
            t = low.types[part.root]
            types[part.root] = TensorType(t.dtype, traced(t.shape))
    if next(left, None) is not None:
        raise Untraceable("sizes of something else")
    buffers: dict[int, Buffer] = {}

    def memory(b: Buffer) -> Buffer:
        if b.kind == CONST:
            return b
        return buffers.setdefault(id(b), Buffer(b.kind, b.nbytes, None, b.index))

    places: dict[tuple[str, str], Place] = {}
    postponed: dict[str, Scaled] = {}
    copies: Given = []
    found: dict[tuple[int, str], Place] = {}
    for i, layout, p in given:
        name = names[i]
        if layout in LAYOUTS and p.shape != low.types[name].shape:
            raise Untraceable("a place of another shape than its value")
        shape: Any = types[name].shape if layout in LAYOUTS else shapes[i, layout]
        copy = Place(memory(p.buffer), p.start, shape, p.dtype, p.layout, p.pixel, p.channels)
        if layout in LAYOUTS:
            places[name, layout] = copy
        found[i, layout] = copy
        copies.append((i, layout, copy))
    for i, layout in scales:
        if layout == SCALE:
            s = late[names[i]]
            shift = found.get((i, SHIFT))
            postponed[names[i]] = Scaled(
                None, s.source, found[i, SCALE], s.per_image, shift, s.lo, lambda: None
            )
    roots = {}
    for name in node.outputs:
        root = low.root_of(name)
        if root in list(low.roots)[: made[2][6]]:
            roots[root] = memory(low.roots[root])
    shadow = TracedLowering(
        low.graph, types, low.known, low.threads, low.packs, low.isa, low.strict, low.choices,
        low.half, places=places, outputs=low.outputs, slices=low.slices, roots=roots,
        postponed=postponed, due=low.due,
    )  # fmt: skip
    shadow.recorder = recorder
    shadow.made = {}
    shadow.node = node
    return shadow, copies


def field_of(isa: str, part: Part, name: str, position: int) -> tuple[int, int] | None:
    """Where a field lies in its kernel's parameter struct, told by what changes with it."""
    key = (isa, part.kernel, name, position)
    if key not in _fields:
        _fields[key] = _field_of(isa, part, name, position)
    return _fields[key]


def _field_of(isa: str, part: Part, name: str, position: int) -> tuple[int, int] | None:
    pack = kernels.table(isa)[part.kernel].pack

    def with_value(value: Any) -> np.ndarray:
        params = dict(part.params)
        if position < 0:
            params[name] = value
        else:
            params[name] = list(params[name])
            params[name][position] = value
        return np.frombuffer(pack(**params), np.uint8)

    try:
        zero, mark = with_value(0), with_value(MARK)
    except (OverflowError, TypeError, ValueError):
        return None
    changed = np.flatnonzero(zero != mark).tolist()
    if not changed:
        return None
    first, count = changed[0], len(changed)
    if changed != list(range(first, first + count)):
        return None
    if count in (4, 8) and (mark[first : first + count] == 255).all():
        return first, LONG if count == 8 else SHORT
    at = first - 2
    if count == 2 and at >= 0 and mark[at : at + 4].tobytes() == np.float32(MARK).tobytes():
        return at, SINGLE
    return None


def equal(real: Recipe, recipe: Recipe, values: list[Any], low: Lowering) -> bool:
    """Whether a traced recipe says for some values what one without a tape does."""

    def number(n: int) -> Any:
        return n if n >= 0 else values[-1 - n]

    def form(f: tuple[Any, ...]) -> tuple[Any, ...]:
        start, shape, dtype, layout, pixel, channels = f
        shape = tuple(values[shape]) if type(shape) is slice else shape
        return number(start), shape, dtype, layout, number(pixel), number(channels)

    if len(real.locals) != len(recipe.locals) or len(real.parts) != len(recipe.parts):
        return False
    for (source, value, f), (source_, value_, f_) in zip(real.locals, recipe.locals, strict=True):
        if source == FIXED and source_ in (FIXED, COMPUTED):
            array = value_.array if source_ == FIXED else computed(value_, values)
            if value.array.dtype != array.dtype or value.array.shape != array.shape:
                return False
            if value.array.tobytes() != array.tobytes():
                return False
        elif source != source_ or value != value_:
            return False
        if f != form(f_):
            return False
    for p, q in zip(real.parts, recipe.parts, strict=True):
        said = (p.kernel, p.places, p.threads, p.macs, p.pieces)
        if said != (q.kernel, q.places, number(q.threads), number(q.macs), number(q.pieces)):
            return False
        if list(p.params) != list(q.params):
            return False
    buffers = [(number(n), parts) for n, parts in recipe.buffers]
    externals = [(i, number(n)) for i, n in recipe.externals]
    rest = (real.buffers, real.externals, real.named, real.roots, real.postponed)
    return rest == (buffers, externals, recipe.named, recipe.roots, recipe.postponed)


__all__ = ["trace"]
