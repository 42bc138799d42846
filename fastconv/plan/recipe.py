"""Recipes: the steps of one node with their memory named by role, written down and followed.

See ``recipes`` for what they are kept by, and ``following`` for how they come to hold for other
sizes than those they were made for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from ..graph import Node
from ..records import record
from . import lowering
from .memory import CHANNELS_LAST, CONST, EXTERNAL, FLAT, PLAIN, Buffer, Place
from .places import make_buffers, make_places, make_steps

if TYPE_CHECKING:
    from .lowering import Lowering, Scaled, Step
    from .tape import Tape

#: A recipe keeps constants of so many bytes.
SMALL_CONSTANT = 16 << 10
#: Where a node's inputs lay before it was lowered: (input, layout, place).
Given = list[tuple[int, str, Place]]
#: Which part of a plan was made for a node: how much there was of it before and after.
Made = tuple["Kind", Given, tuple[int, ...], tuple[int, ...]]
#: What appends a node's steps without a recipe.
Whole = Callable[["Lowering", Node], None]
LAYOUTS = (PLAIN, CHANNELS_LAST, FLAT)

#: Where a place of a recipe comes from: must agree with places.pyx.
NONE, INPUT, LOCAL, WITHIN, PACKED, FIXED, STORED, COMPUTED, SCALED, ROOT = range(10)
#: In place of a layout: what an input that was postponed is to be multiplied by, and what is added.
SCALE, SHIFT = "scale", "shift"


@record(slots=True)
class Kind:
    """What a node has in common with others that are planned alike.

    Attributes:
        node: the node.
        number: the same for all nodes of one kind; -1 where nothing may be kept.
        varying: the inputs that are no constants of the graph, once each.
        places: where these are among the inputs.
        shapes_only: whether constants count by their types alone.
    """

    node: Node
    number: int
    varying: tuple[str, ...]
    places: tuple[int, ...]
    shapes_only: bool


@record(slots=True)
class Part:
    """One step of a recipe, and its parameter struct once that has been packed.

    ``varying`` are the fields of ``params`` that depend on sizes: (name, position in a list or -1,
    which of the tape's outputs).
    """

    kernel: str
    params: Mapping[str, Any]
    places: tuple[tuple[Any, ...], ...]
    threads: int
    macs: int
    pieces: int
    packed: bytes | None
    varying: tuple[tuple[str, int, int], ...]


@record(slots=True)
class Recipe:
    """How a node of one kind is lowered.

    A number that depends on the sizes for which the recipe is followed is written as -1 less than
    none: ``-1 - k`` stands for what its tape gives as output ``k``.

    Attributes:
        buffers: size and parts of each arena buffer, in the order of their making.
        externals: outputs that the caller's arrays take: (which output, bytes). These count as
            buffers, after the others.
        locals: the places made: (where their memory is from, start, shape, dtype, …).
        named: which of these belongs to which input or output, in which layout.
        parts: the steps.
        constants: by a node's id, the node and the constants behind ``locals`` (None for other
            memory).
        tape: what depends on sizes, and for which it holds; None where nothing does.
        roots: buffers that are those of a Concat from now on: (which output is a part of it, which
            buffer).
        postponed: how its output would be computed, if it is postponed: (output, source, scale,
            per image, shift, least).
        forces: the input that was postponed and is to be computed first of all; -1 for none.
    """

    buffers: list[tuple[int, int | None]]
    externals: list[tuple[int, int]]
    locals: list[tuple[Any, ...]]
    named: list[tuple[bool, int, str, tuple[Any, ...]]]
    parts: list[Part]
    constants: dict[int, tuple[Node, list[Buffer | None]]]
    tape: Tape | None
    roots: list[tuple[int, int]]
    postponed: tuple[Any, ...] | None
    forces: int


class Params(Mapping[str, Any]):
    """The parameters of a step that a tape gave the struct of: put together when asked for."""

    __slots__ = ("_made", "_part", "_values")

    def __init__(self, part: Part, values: list[Any]) -> None:
        self._part = part
        self._values = values
        self._made: dict[str, Any] | None = None

    def all(self) -> dict[str, Any]:
        """Every one of them."""
        made = self._made
        if made is None:
            made = dict(self._part.params)
            for name, position, k in self._part.varying:
                if position < 0:
                    made[name] = self._values[k]
                else:
                    fields = made[name] = list(made[name])
                    fields[position] = self._values[k]
            self._made = made
        return made

    def __getitem__(self, name: str) -> Any:
        return self.all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.all())

    def __len__(self) -> int:
        return len(self._part.params)

    def __repr__(self) -> str:
        return repr(self.all())


def plainly(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as the dictionary that they are, or come to: not to be changed."""
    if isinstance(params, Params):
        return params.all()
    return params if isinstance(params, dict) else dict(params)


def sources(postponed: Mapping[str, Scaled], node: Node) -> list[str]:
    """A node's inputs, then the values that its postponed inputs are computed from."""
    return [*node.inputs, *[postponed[n].source for n in node.inputs if n in postponed]]


def position(low: Lowering) -> tuple[int, ...]:
    """How much there is of a plan in the making."""
    return (
        len(low.steps), len(low.arena.buffers), len(low.places), len(low.externals),
        low.computes, len(low.postponed), len(low.roots),
    )  # fmt: skip


class Unwritable(Exception):
    """A node did more than a recipe can say."""


def write(low: Lowering, made: Made) -> Recipe | None:
    """What was done for a node as a recipe; None where it cannot be said as one."""
    kind, given, (s0, b0, p0, e0, same, d0, r0), (s1, b1, p1, e1, same_after, d1, r1) = made
    if same != same_after:
        return None
    try:
        writer = Writer(low, kind, given, (b0, b1), (p0, p1), (e0, e1), (r0, r1))
        recipe = writer.recipe(low.steps[s0:s1], d1 - d0)
    except Unwritable:
        return None
    for s, part in zip(low.steps[s0:s1], recipe.parts, strict=True):
        s.part = part
    return recipe


class Writer:
    """Names the places of one node's steps by their roles."""

    def __init__(
        self,
        low: Lowering,
        kind: Kind,
        given: Given,
        buffers: tuple[int, int],
        places: tuple[int, int],
        externals: tuple[int, int],
        roots: tuple[int, int],
    ) -> None:
        self.low = low
        self.kind = kind
        self.inputs = sources(low.postponed, kind.node)
        self.outputs = list(kind.node.outputs)
        self.consts = low.graph.consts
        self.buffers = low.arena.buffers[slice(*buffers)]
        self.number = {id(b): i for i, b in enumerate(self.buffers)}
        self.added = list(islice(low.places.items(), *places))
        self.first_external = externals[0]
        self.external = low.externals[slice(*externals)]
        self.given: dict[int, tuple[Any, ...]] = {}
        self.within: dict[int, tuple[Any, ...]] = {}
        for i, layout, p in given:
            if layout in LAYOUTS:
                if i >= len(self.inputs):
                    raise Unwritable  # it is not what is scaled any more
                now = low.places[self.inputs[i], layout]
                if now is not p:  # a copy of it, made for this node, lies elsewhere
                    self.added.append(((self.inputs[i], layout), now))
                self.given[id(p)] = (INPUT, i, layout)
                self.within.setdefault(id(p.buffer), (WITHIN, (i, layout)))
            else:
                self.given[id(p)] = (SCALED, i, layout)
        self.roots = []
        for i, name in enumerate(self.outputs):
            root_name = low.root_of(name)
            root = low.roots.get(root_name)
            if root is None:
                continue
            self.within.setdefault(id(root), (ROOT, i))
            if root_name in islice(low.roots, *roots):
                if id(root) not in self.number:
                    raise Unwritable
                self.roots.append((i, self.number[id(root)]))
        if roots[1] - roots[0] != len({n for _, n in self.roots}):
            raise Unwritable
        self.made: dict[int, tuple[Any, ...]] = {}
        self.locals: list[tuple[Any, ...]] = []

    def recipe(self, steps: list[Step], postponed: int) -> Recipe:
        """The recipe; ``postponed`` values were."""
        weights = [self.consts[n] for n in self.inputs if n in self.consts]
        if self.kind.shapes_only and any(self.low.packs.known_odd(w) for w in weights):
            raise Unwritable
        parts = []
        for s in steps:
            if s.function is not None:
                raise Unwritable
            refs = tuple([self.ref(p) for p in s.places])
            params, varying = self.params(s.params)
            threads, macs, pieces = map(self.written, (s.threads, s.macs, s.pieces))
            parts.append(Part(s.kernel, params, refs, threads, macs, pieces, None, varying))
        named = []
        for (name, layout), place in self.added:
            if layout not in LAYOUTS:
                raise Unwritable
            if name in self.outputs:
                named.append((True, self.outputs.index(name), layout, self.ref(place)))
            elif name in self.inputs:
                named.append((False, self.inputs.index(name), layout, self.ref(place)))
            else:
                raise Unwritable
        buffers = [(self.written(b.nbytes), b.parts) for b in self.buffers]
        externals = []
        for name in self.external:
            whole = self.low.places.get((name, PLAIN))
            if name not in self.outputs or whole is None or whole.buffer.kind != EXTERNAL:
                raise Unwritable
            externals.append((self.outputs.index(name), self.written(whole.buffer.nbytes)))
        late = None
        if postponed:
            found = [(i, self.low.postponed.get(o)) for i, o in enumerate(self.outputs) if o]
            if postponed != 1 or len(found) != 1 or found[0][1] is None:
                raise Unwritable
            i, scaled = found[0]
            assert scaled is not None
            if scaled.node is not self.kind.node or scaled.source not in self.inputs:
                raise Unwritable
            late = (
                i, self.inputs.index(scaled.source), self.ref(scaled.scale), scaled.per_image,
                self.ref(scaled.shift), scaled.lo,
            )  # fmt: skip
        return Recipe(buffers, externals, self.locals, named, parts, {}, None, self.roots, late, -1)

    def written(self, n: Any) -> int:
        """A number of a recipe."""
        if n < 0:
            raise Unwritable
        return n

    def params(
        self, params: Mapping[str, Any]
    ) -> tuple[Mapping[str, Any], tuple[tuple[str, int, int], ...]]:
        """A step's parameters, and which depend on sizes."""
        return params, ()

    def ref(self, p: Place | None) -> tuple[Any, ...]:
        """A place by its role."""
        if p is None:
            return (NONE,)
        found = self.given.get(id(p)) or self.made.get(id(p))
        if found is None:
            found = self.made[id(p)] = (LOCAL, len(self.locals))
            self.locals.append((*self.memory(p), self.form(p)))
        return found

    def form(self, p: Place) -> tuple[Any, ...]:
        """What a place is made of besides memory."""
        return p.start, p.shape, p.dtype, p.layout, p.pixel, p.channels

    def memory(self, p: Place) -> tuple[Any, Any]:
        """Where the memory of a place is from."""
        b = p.buffer
        if id(b) in self.number:
            return LOCAL, self.number[id(b)]
        if id(b) in self.within:
            return self.within[id(b)]
        own = b.index - self.first_external
        if b.kind == EXTERNAL and 0 <= own < len(self.external):
            return LOCAL, len(self.buffers) + own
        if b.kind != CONST:
            raise Unwritable
        key = self.low.packs.key_of(b)
        if key is not None:
            return PACKED, self.named(key, True)
        for i, name in enumerate(self.inputs):
            if b.array is self.consts.get(name, self):
                return STORED, i
        assert b.array is not None
        if b.array.nbytes > SMALL_CONSTANT:
            raise Unwritable
        if self.kind.shapes_only and b.array.dtype.kind not in "iu":
            raise Unwritable  # made of weights: a table made of sizes holds integers
        return FIXED, b

    def named(self, key: Any, whole: bool = False) -> Any:
        """The key of a packed constant with the node's constants as positions.

        The first part of a key says what was done, and never names a value.
        """
        first = 2 if whole else 1  # the kernel build comes before all
        parts = list(key[:first])
        for k in key[first:]:
            if isinstance(k, tuple):
                parts.append(self.named(k) if k and isinstance(k[0], str) else k)
            elif isinstance(k, str) and k in self.consts:
                if k not in self.inputs:
                    raise Unwritable
                parts.append(_Input(self.inputs.index(k)))
            else:
                parts.append(k)
        return tuple(parts)


class _Input(int):
    """In the key of a packed constant: which of a node's inputs it names."""


def keyed(key: Any, inputs: list[str]) -> Any:
    """The key of a packed constant for a node with these inputs."""
    parts = []
    for k in key:
        if type(k) is _Input:
            parts.append(inputs[k])
        else:
            parts.append(keyed(k, inputs) if type(k) is tuple else k)
    return tuple(parts)


def constants(low: Lowering, node: Node, recipe: Recipe) -> list[Buffer | None] | None:
    """The constants behind a recipe's places for a node; None where one is not packed yet."""
    found: list[Buffer | None] = []
    for source, value, _ in recipe.locals:
        buffer: Buffer | None = None
        if source == PACKED:
            place = low.packs.places.get(keyed(value, node.inputs))
            if place is None:
                return None
            buffer = place.buffer
        elif source == STORED:
            array = low.graph.consts[node.inputs[value]]
            buffer = Buffer(CONST, array.nbytes, array)
        elif source == FIXED:
            buffer = value
        found.append(buffer)
    if any(p.kernel.startswith("amx") for p in recipe.parts):
        weights = [low.graph.consts[n] for n in node.inputs[:2] if n in low.graph.consts]
        if not all(low.packs.finite(w) for w in weights):
            return None
    return found


def follow(
    low: Lowering,
    kind: Kind,
    recipe: Recipe,
    values: list[Any] | None = None,
    structs: list[bytes] | None = None,
    whole: Whole | None = None,
) -> bool:
    """Append a node's steps by a recipe; False, having done nothing, where that cannot be.

    ``values`` and ``structs`` are what the recipe's tape gives for the node's sizes; ``whole`` does
    without a recipe.
    """
    node = kind.node
    own, consts = recipe.constants.get(id(node), (None, None))
    if consts is None or own is not node:
        consts = constants(low, node, recipe)
        if consts is None:
            return False
        recipe.constants[id(node)] = node, consts
    inputs, outputs, places = node.inputs, node.outputs, low.places
    if low.postponed:
        inputs = sources(low.postponed, node)
    buffers = make_buffers(recipe.buffers, values, low.arena.buffers)
    for i, nbytes in recipe.externals:
        size = nbytes if nbytes >= 0 else values[-1 - nbytes]  # type: ignore[index]
        buffers.append(low.external(outputs[i], size))
    made = make_places(recipe.locals, consts, values, buffers, inputs, outputs, low, computed)
    make_steps(recipe.parts, made, values, structs, inputs, low, node, lowering.Step, Params)
    for output, i, layout, r in recipe.named:
        name = outputs[i] if output else inputs[i]
        places[name, layout] = made[r[1]] if r[0] == LOCAL else places[inputs[r[1]], r[2]]
    for i, k in recipe.roots:
        low.roots[low.root_of(outputs[i])] = buffers[k]
    if recipe.postponed is not None:
        i, source, scale, per_image, shift, lo = recipe.postponed
        first, second = (
            made[r[1]] if r[0] == LOCAL else places[inputs[r[1]], r[2]] if r[0] == INPUT else None
            for r in (scale, shift)
        )
        assert first is not None
        assert whole is not None
        emit = partial(whole, low, node)  # which postpones nothing that is due
        low.postponed[outputs[i]] = lowering.Scaled(
            node, inputs[source], first, per_image, second, lo, emit
        )
    return True


def computed(source: tuple[Any, ...], values: list[Any] | None) -> np.ndarray:
    """A table made of sizes: ``source`` is what makes it, and of which of the values."""
    function, args = source
    assert values is not None
    found = function(*[a if type(a) is not list else values[a[0]] for a in args])
    return np.ascontiguousarray(found)  # as ``Lowering.constant`` has it
