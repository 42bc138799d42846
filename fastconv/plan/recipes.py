"""What planning a node came to, kept so that the same work is not done twice.

Most of what a plan does for a node follows from the operator, the sizes of its inputs and where
these lie. Layers of a network repeat; and where sizes do not depend on those of the image (squeeze
and excitation, heads behind a global pool), they are the same in every plan of a model. A
:class:`Recipe` is the steps of one node with their memory named by role (input 0, output 0, scratch
memory) rather than by buffer; following it for another node appends the same steps.

Two nodes are of one kind if they have equal operators and the very same constants, which may hold
axes or sizes. For ``SHAPES_ONLY`` it is enough that these are of the same types: what a
convolution's steps are does not depend on the values of its weights, but for whether these are
finite.

So a lowering may go by its node's operator and constants, by types, by where inputs lie and which
of them share memory, by ``low.outputs`` and ``low.slices`` of its outputs, and by settings of the
plan: by nothing else. What it does beyond steps, places and packed constants (postponing a value, a
part of a Concat's buffer, a Python step) makes none.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from ..graph import Graph, Node, Op, TensorType
from ..graph.ops.binary import Add, Div, Max, Mean, Min, Mul, Sub, Sum
from ..graph.ops.conv import Conv
from ..records import record
from . import lowering
from .choice import Choices
from .memory import ARENA, CHANNELS_LAST, CONST, FLAT, PLAIN, Buffer, Place

if TYPE_CHECKING:
    from .lowering import Lowering, Scaled, Step
    from .tape import Tape

#: Results of shape rules, and recipes (some 5 kB each), that are kept for a graph; more than that:
#: begin again.
MOST, MOST_RECIPES = 1024, 1024
#: A recipe keeps constants of so many bytes.
SMALL_CONSTANT = 16 << 10
#: Values computed from shapes are compared by their elements if they are as few as this.
FEW_ELEMENTS = 16
#: Operators, these very classes, whose lowerings ask of constants but their types, and whether the
#: weights of a convolution are finite.
SHAPES_ONLY = frozenset({Conv, Add, Sub, Mul, Div, Min, Max, Sum, Mean})
#: Attributes that are equal only where they are the same.
PLAIN_TYPES = frozenset({int, str, type(None)})
#: Where a node's inputs lay before it was lowered: (input, layout, place).
Given = list[tuple[int, str, Place]]
#: Which part of a plan was made for a node: how much there was of it before and after.
Made = tuple["Kind", Given, tuple[int, ...], tuple[int, ...]]
#: What appends a node's steps without a recipe.
Whole = Callable[["Lowering", Node], None]
LAYOUTS = (PLAIN, CHANNELS_LAST, FLAT)

#: Where a place of a recipe comes from.
NONE, INPUT, LOCAL, WITHIN, PACKED, FIXED, STORED, COMPUTED, SCALED, ROOT = range(10)
#: In place of a layout: what an input that was postponed is to be multiplied by, and what is added.
SCALE, SHIFT = "scale", "shift"

#: Recipes that are traced while one plan is made (each takes some times as long as lowering a
#: node), recipes of different choices for one kind of node, and those of these that may hold for
#: one size alone before nothing is traced any more.
MOST_TRACED, MOST_CHOICES, MOST_NARROW = 16, 16, 2


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
    locals: list[tuple[Any, ...]]
    named: list[tuple[bool, int, str, tuple[Any, ...]]]
    parts: list[Part]
    constants: dict[int, tuple[Node, list[Buffer | None]]]
    tape: Tape | None
    roots: list[tuple[int, int]]
    postponed: tuple[Any, ...] | None
    forces: int


@record(slots=True)
class Rules:
    """The types of all values of a graph, as they follow from the sizes of its inputs.

    Attributes:
        tape: gives the sizes.
        names: the values that nodes compute.
        indices: which of ``forms`` each has.
        forms: dtype and shape of each type: a shape, or which outputs of the tape it is.
    """

    tape: Tape
    names: list[str]
    indices: list[int]
    forms: list[tuple[Any, Any]]


class Params(Mapping[str, Any]):
    """The parameters of a step that a tape gave the struct of: put together when asked for."""

    __slots__ = ("_made", "_part", "_values")

    def __init__(self, part: Part, values: list[Any]) -> None:
        self._part = part
        self._values = values
        self._made: dict[str, Any] | None = None

    def _all(self) -> dict[str, Any]:
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
        return self._all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._part.params)

    def __repr__(self) -> str:
        return repr(self._all())


class Recipes:
    """The recipes of one graph, for one number of threads and one kernel build.

    Args:
        graph: the graph.
        choices: what decides between alternatives.
        alike: whether weights that differ in values alone are lowered alike.

    Attributes:
        stored: types of the graph's constants.
        inferred: what shape rules gave, by :meth:`types_key`.
    """

    def __init__(self, graph: Graph, choices: Choices, alike: bool = True) -> None:
        self.graph = graph
        self.choices = choices
        self._alike = alike
        self._kinds: dict[int, Kind] = {}
        self._numbers: dict[Hashable, int] = {}
        self._values: dict[int, np.ndarray] = {}  # constants whose ids are in numbered keys
        self.stored = {n: TensorType(a.dtype, a.shape) for n, a in graph.consts.items()}
        self.inferred: dict[Hashable, list[TensorType]] = {}
        self._recipes: dict[Hashable, Recipe | None] = {}
        self._traced: dict[Hashable, list[Recipe]] = {}
        self._narrow: dict[Hashable, int] = {}  # how often tracing led to nothing
        self._rules: dict[Hashable, list[Rules]] = {}
        self._untraced = 0
        self._seen: set[int] = set()  # hashes of keys: enough to tell what is worth keeping

    def kind(self, node: Node) -> Kind:
        """What kind of node this is; the kind keeps the node, and with it its id."""
        kind = self._kinds.get(id(node))
        if kind is None:
            if len(self._kinds) > 4 * len(self.graph.nodes) + MOST:
                self._forget()  # the nodes of an If's branches are new in each plan
            kind = self._kinds[id(node)] = self._kind(node)
        return kind

    def _forget(self) -> None:
        """Drop all that is known by the ids of nodes."""
        self._kinds.clear()
        self._recipes.clear()
        self._traced.clear()
        self._narrow.clear()

    def _kind(self, node: Node) -> Kind:
        op, consts = node.op, self.graph.consts
        shapes_only = self._alike and type(op) in SHAPES_ONLY
        names = list(node.inputs)
        fixed: list[Hashable] = []
        for name in names:
            array = consts.get(name)
            if not name:
                fixed.append("")
            elif array is None:
                fixed.append(names.index(name))
            elif shapes_only:
                first = next(i for i, n in enumerate(names) if consts.get(n) is array)
                fixed.append((array.dtype, array.shape, array.flags.c_contiguous,
                              array.flags.aligned, first))  # fmt: skip
            else:
                self._values[id(array)] = array  # an id says which it is while it is kept
                fixed.append(("value", id(array), names.index(name)))
        number = -1
        if not (op.control or op.dynamic) and op.deterministic:
            try:
                key = (type(op), written(op), tuple(fixed), tuple([bool(o) for o in node.outputs]))
                number = self._numbers.setdefault(key, len(self._numbers))
            except TypeError:  # an attribute that is an array
                number = -1
        varying = tuple(dict.fromkeys(n for n in names if n and n not in consts))
        return Kind(node, number, varying, tuple([names.index(n) for n in varying]), shapes_only)

    # Shape rules.

    def types_key(
        self, node: Node, types: Mapping[str, TensorType], known: Mapping[str, np.ndarray]
    ) -> tuple[Any, ...] | None:
        """What the types of a node's outputs depend on; None where that is not to be said."""
        kind = self._kinds.get(id(node)) or self.kind(node)
        if kind.number < 0:
            return None
        key: list[Any] = [kind.number]
        for name in kind.varying:
            t = types.get(name)
            if t is not None:
                key.append(t.shape)
                key.append(t.dtype)
                continue
            array = known.get(name)
            if array is None or array.size > FEW_ELEMENTS:
                return None
            key.append((array.shape, array.dtype, array.tobytes()))
        return tuple(key)

    def keep_inferred(self, key: Hashable, types: list[TensorType]) -> None:
        """Note what a shape rule gave."""
        if len(self.inferred) >= MOST:
            self.inferred.clear()
        self.inferred[key] = types

    def resolved(self, types: dict[str, TensorType]) -> list[Node] | None:
        """The graph's nodes, all types entered, if these follow from those of its inputs alone."""
        key = []
        sizes: list[int] = []
        for name in self.graph.inputs:
            t = types[name]
            shape: Any = t.shape
            if shape is None:
                return None
            key.append((t.dtype, len(shape), shape[:2]))
            sizes += shape[2:]
        for rules in self._rules.get(tuple(key), ()):
            found = rules.tape.run(sizes)
            if found is not None:
                values = found[0]
                made = [
                    TensorType(dtype, tuple(values[s]) if type(s) is slice else s)
                    for dtype, s in rules.forms
                ]
                types.update(zip(rules.names, [made[k] for k in rules.indices]))
                return self.graph.nodes
        return None

    def keep_resolved(self, types: Mapping[str, TensorType]) -> None:
        """Note how the types of all values follow from those of the inputs."""
        if self._untraced >= MOST_NARROW:
            return
        from . import following

        key = []
        for name in self.graph.inputs:
            t = types[name]
            shape: Any = t.shape
            if shape is None:
                return
            key.append((t.dtype, len(shape), shape[:2]))
        rules = following.trace_rules(self.graph, types, self.stored)
        if rules is None:
            self._untraced += 1
            return
        if len(self._rules) >= MOST_CHOICES:
            self._rules.clear()
        choices = self._rules.setdefault(tuple(key), [])
        choices.insert(0, rules)
        del choices[MOST_CHOICES:]

    # Lowering.

    def lower(self, low: Lowering, node: Node, whole: Callable[[Lowering, Node], None]) -> None:
        """Append a node's steps: by a recipe if there is one, else as ``whole`` does.

        What ``whole`` does becomes a recipe, for sizes for which the same is to be done; or where
        that cannot be, for these sizes when a node of the same kind comes a second time.
        """
        kind = self.kind(node)
        given: Given = []
        sizes: list[int] = []
        general = self._key(low, kind, given, sizes)
        if general is None:
            return whole(low, node)
        matched = False
        if sizes:
            choices = self._traced.get(general, ())
            for i, choice in enumerate(choices):
                found = choice.tape.run(sizes)  # type: ignore[union-attr]
                if found is not None:
                    matched = True
                    if i:
                        choices.insert(0, choices.pop(i))  # type: ignore[union-attr]
                    if choice.forces >= 0:
                        low.compute(node.inputs[choice.forces])
                        return self.lower(low, node, whole)
                    if follow(low, kind, choice, found[0], found[1], whole):
                        return None
                    break
        key = (general, *sizes)
        recipe = self._recipes.get(key, self)  # itself: none was tried
        if recipe is self and key in low.fresh:
            recipe = self._keep(key, low, low.fresh[key])
        if isinstance(recipe, Recipe) and follow(low, kind, recipe, whole=whole):
            return None
        before = position(low)
        postponed = dict(low.postponed)
        whole(low, node)
        if recipe is self:
            made = kind, given, before, position(low)
            if low.computes != before[4]:
                if sizes and low.computes == before[4] + 1 and not matched:
                    self._trace(low, general, sizes, made, postponed, whole)
                return None
            if sizes and not matched and self._trace(low, general, sizes, made, postponed, whole):
                return None
            if hash(key) in self._seen:
                self._keep(key, low, made)
            else:
                low.fresh[key] = made
                if len(self._seen) >= MOST:
                    self._seen.clear()
                self._seen.add(hash(key))
        return None

    def _trace(
        self,
        low: Lowering,
        key: Hashable,
        sizes: list[int],
        made: Made,
        postponed: Mapping[str, Scaled],
        whole: Whole,
    ) -> bool:
        """Whether what was done for a node became a recipe for other sizes too."""
        if low.traced >= MOST_TRACED or self._narrow.get(key, 0) >= MOST_NARROW:
            return False
        from . import following

        low.traced += 1
        if len(self._narrow) + len(self._traced) >= MOST_RECIPES:
            self._narrow.clear()
            self._traced.clear()
        recipe, narrow = following.trace(low, made, sizes, postponed, whole)
        if recipe is None or narrow:
            self._narrow[key] = MOST_NARROW if recipe is None else self._narrow.get(key, 0) + 1
        if recipe is None:
            return False
        choices = self._traced.setdefault(key, [])
        choices.insert(0, recipe)
        del choices[MOST_CHOICES:]
        return True

    def _keep(self, key: Hashable, low: Lowering, made: Made) -> Recipe | None:
        if len(self._recipes) >= MOST_RECIPES:
            self._recipes.clear()
        recipe = self._recipes[key] = write(low, made)
        return recipe

    def _key(
        self, low: Lowering, kind: Kind, given: Given, sizes: list[int]
    ) -> tuple[Any, ...] | None:
        """What the steps of a node depend on; None where it has to be lowered for itself.

        ``given`` is filled with the places of its inputs, and ``sizes`` with the spatial sizes of
        its inputs and outputs, on which they depend besides.
        """
        if kind.number < 0:
            return None
        key: list[Any] = [kind.number]
        types, places, postponed = low.types, low.places, low.postponed
        buffers: list[int] = []
        names: Sequence[str] = kind.varying
        indices: Sequence[int] = kind.places
        for name in names:
            if name in postponed:
                names, indices = self._with_sources(low, kind)
                break
        for name, i in zip(names, indices):
            t = types.get(name)
            if t is None:
                return None
            shape: Any = t.shape
            key.append(len(shape))
            if len(shape) > 2:
                key.append(shape[:2])
                sizes += shape[2:]
            else:
                key.append(shape)
            key.append(t.dtype)
            if name in postponed:
                scaled = postponed[name]
                if scaled.source in postponed:
                    return None
                key.append((SCALED, repr(scaled.lo), scaled.per_image, names.index(scaled.source)))
                for layout, p in (SCALE, scaled.scale), (SHIFT, scaled.shift):
                    if p is None:
                        key.append(None)
                        continue
                    b = id(p.buffer)
                    if b not in buffers:
                        buffers.append(b)
                    form = (p.buffer.kind, p.layout, p.dtype, len(p.shape), p.shape[:2])
                    key.append((form, p.start, p.pixel, p.channels, buffers.index(b)))
                    sizes += p.shape[2:]
                    given.append((i, layout, p))
                continue
            for layout in LAYOUTS:
                p = places.get((name, layout))
                if p is None:
                    key.append(None)
                    continue
                b = id(p.buffer)
                if b not in buffers:
                    buffers.append(b)
                # Which places share memory counts: an output may share it with one of them.
                key.append((p.buffer.kind, p.start, p.pixel, p.channels, buffers.index(b)))
                given.append((i, layout, p))
        for name in kind.node.outputs:
            if not name:
                continue
            sizes += types[name].shape[2:]  # type: ignore[index, arg-type]
            key.append(name in low.outputs)
            key.append(name in low.due)
            part = low.slices.get(name)
            if part is None:
                continue
            root: Any = types[part.root].shape
            sizes += root[2:]
            memory = low.roots.get(part.root)
            if memory is not None and id(memory) not in buffers:
                buffers.append(id(memory))
            at = -1 if memory is None else buffers.index(id(memory))
            key.append((part.channel, part.root == name, root[:2], len(root), at))
        return tuple(key)

    def _with_sources(self, low: Lowering, kind: Kind) -> tuple[list[str], list[int]]:
        """The varying inputs, and what those of them that were postponed come from."""
        every = sources(low.postponed, kind.node)
        names = list(
            dict.fromkeys(n for n in every if n in kind.varying or (n not in self.stored and n))
        )
        return names, [every.index(n) for n in names]


def sources(postponed: Mapping[str, Scaled], node: Node) -> list[str]:
    """A node's inputs, then the values that its postponed inputs are computed from."""
    return [*node.inputs, *[postponed[n].source for n in node.inputs if n in postponed]]


def position(low: Lowering) -> tuple[int, ...]:
    """How much there is of a plan in the making."""
    return (
        len(low.steps), len(low.arena.buffers), len(low.places), len(low.externals),
        low.computes, len(low.postponed), len(low.roots),
    )  # fmt: skip


def written(op: Op) -> tuple[Hashable, ...]:
    """An operator's attributes, told apart as they are written: 0.0 equals -0.0, 1 equals True.

    Raises:
        TypeError: one is an array.
    """
    values: list[Hashable] = []
    for v in op.__dict__.values():
        t = type(v)
        if t is tuple:
            plain = PLAIN_TYPES.issuperset(map(type, v))
            values.append((v, "" if plain else repr(v)))
        elif t in PLAIN_TYPES:
            values.append(v)
        else:
            values.append((t, v, repr(v)))
    hash(tuple(values))
    return tuple(op.__dict__), *values


class Unwritable(Exception):
    """A node did more than a recipe can say."""


def write(low: Lowering, made: Made) -> Recipe | None:
    """What was done for a node as a recipe; None where it cannot be said as one."""
    kind, given, (s0, b0, p0, *same, d0, r0), (s1, b1, p1, *same_after, d1, r1) = made
    if same != same_after:
        return None
    try:
        writer = Writer(low, kind, given, (b0, b1), (p0, p1), (r0, r1))
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
        self.given: dict[int, tuple[Any, ...]] = {}
        self.within: dict[int, tuple[Any, ...]] = {}
        for i, layout, p in given:
            if layout in LAYOUTS:
                if i >= len(self.inputs) or low.places.get((self.inputs[i], layout)) is not p:
                    raise Unwritable  # it was moved, or is not what is scaled any more
                self.given[id(p)] = (INPUT, i, layout)
                self.within.setdefault(id(p.buffer), (WITHIN, (i, layout)))
            else:
                self.given[id(p)] = (SCALED, i, layout)
        self.roots = []
        for i, name in enumerate(self.outputs):
            part = low.slices.get(name)
            if part is None or part.root not in low.roots:
                continue
            root = low.roots[part.root]
            self.within.setdefault(id(root), (ROOT, i))
            if part.root in islice(low.roots, *roots):
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
        return Recipe(buffers, self.locals, named, parts, {}, None, self.roots, late, -1)

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
    inputs, outputs, places, steps = node.inputs, node.outputs, low.places, low.steps
    if low.postponed:
        inputs = sources(low.postponed, node)
    buffers = []
    for nbytes, parts in recipe.buffers:
        if nbytes < 0:
            nbytes = values[-1 - nbytes]  # type: ignore[index]
        buffers.append(Buffer(ARENA, nbytes, None, -1, -1, -1, -1, parts))
    low.arena.buffers += buffers
    made: list[Place] = []
    for (source, value, form), const in zip(recipe.locals, consts):
        if const is not None:
            memory = const
            low.keep.append(const.array)  # type: ignore[arg-type]
        elif source == LOCAL:
            memory = buffers[value]
        elif source == WITHIN:
            memory = places[inputs[value[0]], value[1]].buffer
        elif source == ROOT:
            memory = low.roots[low.slices[outputs[value]].root]
        else:
            array = computed(value, values)
            low.keep.append(array)
            memory = Buffer(CONST, array.nbytes, array)
        if values is not None:
            start, shape, dtype, layout, pixel, channels = form
            if type(shape) is slice:
                shape = tuple(values[shape])
            if start < 0:
                start = values[-1 - start]
            if pixel < 0:
                pixel = values[-1 - pixel]
            if channels < 0:
                channels = values[-1 - channels]
            made.append(Place(memory, start, shape, dtype, layout, pixel, channels))
        else:
            made.append(Place(memory, *form))
    for i, p in enumerate(recipe.parts):
        count = len(steps)
        used: list[Place | None] = []
        for r in p.places:
            if r[0] == LOCAL:
                place = made[r[1]]
            elif r[0] == INPUT:
                place = places[inputs[r[1]], r[2]]
            elif r[0] == SCALED:
                place = getattr(low.postponed[inputs[r[1]]], r[2])
            else:
                used.append(None)
                continue
            used.append(place)
            b = place.buffer
            if b.kind == ARENA:
                if b.first < 0:
                    b.first = count
                b.last = count
        if values is None:
            step = lowering.Step(p.kernel, node, p.params, used, p.threads, p.macs, p.pieces)
            step.part = p
        else:
            threads, macs, pieces = p.threads, p.macs, p.pieces
            if threads < 0:
                threads = values[-1 - threads]
            if macs < 0:
                macs = values[-1 - macs]
            if pieces < 0:
                pieces = values[-1 - pieces]
            params = Params(p, values) if p.varying else p.params
            step = lowering.Step(p.kernel, node, params, used, threads, macs, pieces)
            step.packed = structs[i]  # type: ignore[index]
        steps.append(step)
    for output, i, layout, r in recipe.named:
        name = outputs[i] if output else inputs[i]
        places[name, layout] = made[r[1]] if r[0] == LOCAL else places[inputs[r[1]], r[2]]
    for i, k in recipe.roots:
        low.roots[low.slices[outputs[i]].root] = buffers[k]
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
    return function(*[a if type(a) is not list else values[a[0]] for a in args])
