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
plan and ``low.streams``: by nothing else. What it does beyond steps, places and packed constants
(postponing a value, a part of a Concat's buffer, a Python step) makes none.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..graph import Graph, Node, Op, TensorType
from ..graph.ops.binary import Add, Div, Max, Mean, Min, Mul, Sub, Sum
from ..graph.ops.conv import Conv
from ..records import record
from .choice import Choices
from .places import key_of
from .recipe import Given, Kind, Made, Recipe, Whole, follow, position, sources, write

if TYPE_CHECKING:
    from .lowering import Lowering, Scaled
    from .tape import Tape

#: Results of shape rules, and recipes (some 5 kB each), that are kept for a graph; more than that:
#: begin again.
MOST, MOST_RECIPES = 1024, 1024
#: Values computed from shapes are compared by their elements if they are as few as this.
FEW_ELEMENTS = 16
#: Operators, these very classes, whose lowerings ask of constants but their types, and whether the
#: weights of a convolution are finite.
SHAPES_ONLY = frozenset({Conv, Add, Sub, Mul, Div, Min, Max, Sum, Mean})
#: Attributes that are equal only where they are the same.
PLAIN_TYPES = frozenset({int, str, type(None)})
#: Recipes that are traced while one plan is made (each takes some times as long as lowering a
#: node), recipes of different choices for one kind of node, and those of these that may hold for
#: one size alone before nothing is traced any more.
MOST_TRACED, MOST_CHOICES, MOST_NARROW = 40, 16, 2


@record(slots=True)
class Rules:
    """The types of all values of a graph, as they follow from the sizes of its inputs.

    Attributes:
        tape: gives the sizes.
        names: the values that nodes compute.
        indices: which of ``forms`` each has.
        forms: dtype and shape of each type: a shape, or which outputs of the tape it is.
        opened: of values whose first two sizes are among what follows, how many are not.
    """

    tape: Tape
    names: list[str]
    indices: list[int]
    forms: list[tuple[Any, Any]]
    opened: dict[str, int]


class Recipes:
    """The recipes of one graph, for one number of threads and one kernel build.

    Args:
        graph: the graph.
        choices: what decides between alternatives.
        alike: whether weights that differ in values alone are lowered alike.

    Attributes:
        stored: types of the graph's constants.
        inferred: what shape rules gave, by :meth:`types_key`.
        opened: as ``Lowering`` has it: the anchors of a detector, say.
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
        self.opened: dict[str, int] = {}
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
        for name, first in rules.opened.items():
            self.opened[name] = min(first, self.opened.get(name, 2))

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
        names: Sequence[str] = kind.varying
        indices: Sequence[int] = kind.places
        if low.postponed and not low.postponed.keys().isdisjoint(names):
            names, indices = self._with_sources(low, kind)
        return key_of(low, kind.number, names, indices, kind.node.outputs, sizes, given)

    def _with_sources(self, low: Lowering, kind: Kind) -> tuple[list[str], list[int]]:
        """The varying inputs, and what those of them that were postponed come from."""
        every = sources(low.postponed, kind.node)
        names = list(
            dict.fromkeys(n for n in every if n in kind.varying or (n not in self.stored and n))
        )
        return names, [every.index(n) for n in names]


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
