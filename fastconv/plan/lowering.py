"""Turns the nodes of a graph with known shapes into steps: the part that all operators share."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .. import kernels
from ..graph import Graph, Node, Op, TensorType
from ..lazy import LazyTable, importer
from ..records import field, record, replace
from ..sizes import checked_size
from .choice import Choices, cheapest
from .memory import (
    ARENA,
    CHANNELS_LAST,
    CONST,
    EXTERNAL,
    FLAT,
    PLAIN,
    Arena,
    Buffer,
    Place,
)
from .packing import PackCache, aligned_copy
from .packing import aligned_empty as aligned_empty  # what lowerings pack with
from .packing import aligned_zeros as aligned_zeros
from .packing import mapping as mapping
from .recipe import Made, Part
from .slices import Slice

F32 = np.dtype(np.float32)

#: Work (multiply-adds, or bytes moved) below which a step stays on one thread: starting a team
#: costs some microseconds. A half of it is worth a further one.
PARALLEL_WORK = 1 << 17
#: Pieces per thread into which a shared step is cut, so that a thread that another process holds up
#: leaves its part to the others, and the work below which a piece is not worth claiming.
PIECES = 8
PIECE_WORK = 1 << 17


@record
class Step:
    """One kernel call, or one Python function call, of a plan.

    ``part`` is what it is in a recipe, if it came by one or became one; ``packed`` its parameter
    struct, if that is known already.
    """

    kernel: str
    node: Node | None
    params: Mapping[str, Any]
    places: list[Place | None]
    threads: int = 1
    macs: int = 0
    pieces: int = 1
    function: Callable[[Sequence[np.ndarray | None]], Sequence[np.ndarray]] | None = None
    n_outputs: int = 1
    part: Part | None = None
    packed: bytes | None = None

    def __init__(
        self,
        kernel: str,
        node: Node | None,
        params: Mapping[str, Any],
        places: list[Place | None],
        threads: int = 1,
        macs: int = 0,
        pieces: int = 1,
        function: Callable[[Sequence[np.ndarray | None]], Sequence[np.ndarray]] | None = None,
        n_outputs: int = 1,
    ) -> None:
        self.kernel = kernel
        self.node = node
        self.params = params
        self.places = places
        self.threads = threads
        self.macs = macs
        self.pieces = pieces
        self.function = function
        self.n_outputs = n_outputs
        self.part = None
        self.packed = None


LowerFunction = Callable[["Lowering", Node], Any]


#: A model with constants of more bytes finds few of them in near caches when it is run again.
NEAR_BYTES = 2 << 20


class Lowerings(LazyTable[type[Op], LowerFunction]):
    """Operator class → function. Classes inherit it; families are imported when needed."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._known: dict[type[Op], LowerFunction] = {}  # what ``get`` found before

    def get(  # type: ignore[override]
        self, cls: type[Op], default: LowerFunction | None = None
    ) -> LowerFunction | None:
        """The function for an operator: its own, else that of its nearest base."""
        known = self._known.get(cls)
        if known is not None:
            return known
        family = self._where(cls)
        if family is not None:
            self._load(family)
        found = self._inherited(cls)
        if found is None and not self._complete:
            self.complete()
            found = self._inherited(cls)
        if found is None:
            return default
        self._known[cls] = found
        return found

    def __setitem__(self, cls: type[Op], function: LowerFunction) -> None:
        super().__setitem__(cls, function)
        self._known.clear()

    def __delitem__(self, cls: type[Op]) -> None:
        super().__delitem__(cls)
        self._known.clear()

    def _inherited(self, cls: type[Op]) -> LowerFunction | None:
        return next(
            (dict.__getitem__(self, b) for b in cls.__mro__ if dict.__contains__(self, b)), None
        )


def _all_families() -> Iterable[str]:
    from . import lower

    return lower.__all__


def _where(cls: type[Op]) -> str | None:
    """The family that lowers an operator: mostly named as the module that the class is from."""
    package, _, module = cls.__module__.rpartition(".")
    if not package.endswith("graph.ops"):
        return None
    return {
        "activations": "elementwise", "unary": "elementwise", "logic": "elementwise",
        "elementwise": "elementwise", "indexing": "move",
        "recurrent_quant": "recurrent", "control": None, "sequence": None,
        "spectral": None,
        "attention": None, "loss": None, "random": None,
    }.get(module, module)  # fmt: skip


#: Operator class → the function that emits its steps. It returns False to decline (a dtype or a
#: form that no kernel handles); the operator's NumPy ``compute`` then runs as a step.
LOWER = Lowerings(importer("fastconv.plan.lower"), _all_families, _where)


def lowers(*classes: type[Op]) -> Callable[[LowerFunction], LowerFunction]:
    """Decorator: this function lowers nodes of these operators."""

    def enter(function: LowerFunction) -> LowerFunction:
        for cls in classes:
            LOWER[cls] = function
        return function

    return enter


@record
class Scaled:
    """A value that is another one scaled, which some readers do on their way.

    Attributes:
        node: the node that asks for it.
        source: the other value, (N, C, …), channels-last.
        scale: what it is multiplied by, dense: [N][C] if ``per_image``, else [C].
        shift: what is then added, [C], or None.
        lo: the sum is clipped to be at least this (with a ``shift``).
        emit: appends the steps that compute it after all.
    """

    node: Node | None
    source: str
    scale: Place
    per_image: bool
    shift: Place | None
    lo: float
    emit: Callable[[], None]


@record
class Lowering:
    """The state of one plan in the making; what a lowering function works with.

    Attributes:
        graph: the graph.
        types: the concrete type of every value.
        known: values computed at plan time.
        threads: the most threads a step may use.
        choices: decides between alternatives (:meth:`choose`).
        half: whether weights of fully-connected layers are stored in half precision.
        again: lowers a node by a recipe if there is one.
        due: values that are not to be postponed any more.
        computes: how many values were computed after having been postponed.
        opened: of values whose first two sizes follow from those of the image, how many do not.
    """

    graph: Graph
    types: Mapping[str, TensorType]
    known: Mapping[str, np.ndarray]
    threads: int
    packs: PackCache
    isa: str
    strict: bool = False
    choices: Choices = field(default_factory=Choices)
    half: bool = False
    steps: list[Step] = field(default_factory=list)
    arena: Arena = field(default_factory=Arena)
    places: dict[tuple[str, str], Place] = field(default_factory=dict)
    externals: list[str] = field(default_factory=list)
    outputs: frozenset[str] = frozenset()
    slices: Mapping[str, Slice] = field(default_factory=dict)
    roots: dict[str, Buffer] = field(default_factory=dict)
    postponed: dict[str, Scaled] = field(default_factory=dict)
    node: Node | None = None
    keep: list[np.ndarray] = field(default_factory=list)
    fresh: dict[Hashable, Made] = field(default_factory=dict)
    traced: int = 0
    again: Callable[[Node], None] | None = None
    due: set[str] = field(default_factory=set)
    computes: int = 0
    opened: Mapping[str, int] = field(default_factory=dict)

    @property
    def streams(self) -> bool:
        """Whether the model's constants are more than near caches keep from run to run.

        The same for all plans of a model, whatever was planned before.
        """
        return self.packs.constants > NEAR_BYTES

    # What a node's inputs and outputs are.

    def shape(self, name: str) -> tuple[int, ...]:
        """The concrete logical shape of a value."""
        array = self.known.get(name)
        return self.types[name].shape if array is None else array.shape  # type: ignore[return-value]

    def dtype(self, name: str) -> np.dtype[Any]:
        """The element type of a value."""
        array = self.known.get(name)
        if array is not None:
            return array.dtype
        dtype = self.types[name].dtype
        assert dtype is not None
        return dtype

    def const(self, name: str) -> np.ndarray | None:
        """The array of a value that is known at plan time, else None ("" is None too)."""
        return self.known.get(name)

    def all_float32(self, *names: str) -> bool:
        """Whether every named value ("" ignored) is float32."""
        for n in names:  # noqa: SIM110  (asked for every node: no generator)
            if n and self.dtype(n) != F32:
                return False
        return True

    # Where values live.

    def postpone(self, name: str, scaled: Scaled) -> None:
        """Say how a value of the node in hand would be computed, should anybody want it.

        A reader that can do the scaling itself asks for it with :meth:`scaled`; for any other, the
        value's steps are appended when it first asks where the value lies.
        """
        if name in self.due:
            scaled.emit()
        else:
            self.postponed[name] = scaled

    def scaled(self, name: str) -> Scaled | None:
        """How a value comes from another, unless it has been computed."""
        return self.postponed.get(name)

    def compute(self, name: str) -> None:
        """Append the steps of a value that was postponed."""
        scaled = self.postponed.pop(name)
        self.computes += 1
        node, self.node = self.node, scaled.node
        self.due.add(name)
        if self.again is not None and scaled.node is not None:
            self.again(scaled.node)  # which, this time, postpones nothing
        else:
            scaled.emit()
        self.node = node

    def layout_of(self, name: str) -> str:
        """The layout in which a value was computed; constants count as plain."""
        if name in self.postponed:
            self.compute(name)
        for layout in (CHANNELS_LAST, FLAT, PLAIN):
            if (name, layout) in self.places:
                return layout
        return PLAIN

    def place(self, name: str, layout: str | None = None, dense: bool = True) -> Place:
        """Where a value lies, converted to ``layout`` first if need be (once per value).

        Args:
            name: the value.
            layout: ``PLAIN``, ``CHANNELS_LAST`` or None for whatever it has.
            dense: whether pixels must follow one another without a gap.
        """
        if name in self.postponed:
            self.compute(name)
        if layout is None:
            layout = self.layout_of(name)
        have = self.places.get((name, layout))
        if have is not None and (have.dense or not dense):
            return have
        if have is not None:
            return self._make_dense(name, have)
        if name in self.known:
            place = self._place_constant(self.known[name], layout, name)
        else:
            source = self.places[name, self.layout_of(name)]
            place = self._convert(source, layout)
        self.places[name, layout] = place
        return place

    def _place_constant(self, array: np.ndarray, layout: str, name: str) -> Place:
        if layout == CHANNELS_LAST:
            place = self.packed(("channels last", name), lambda: np.moveaxis(array, 1, -1))
            return replace(place, shape=array.shape, layout=layout, pixel=array.shape[1])
        if not array.flags.aligned:
            place = self.packed(("aligned", name), lambda: aligned_copy(array))
            return replace(place, shape=array.shape)
        return self.constant(array)

    def _convert(self, source: Place, layout: str) -> Place:
        """A step that copies ``source`` into another layout, or no step where both are the same."""
        shape = source.shape
        if source.layout == FLAT:
            n, c = shape[0], source.channels
            s = checked_size(shape) // max(1, n * c)
        else:
            n, c = shape[0], shape[1]
            s = checked_size(shape[2:])
        pixel = c if layout == CHANNELS_LAST else 0
        target = Place(source.buffer, source.start, shape, source.dtype, layout, pixel)
        if source.dense and (s == 1 or c == 1):
            return target
        target = replace(target, buffer=self.buffer(target.nbytes), start=0)
        self.emit_transpose(source, target, n, c, s)
        return target

    def emit_transpose(self, source: Place, target: Place, n: int, c: int, s: int) -> None:
        """A step that swaps [n][c][s] (plain) and [n][s][c] (channels-last)."""
        cols = c if target.layout == CHANNELS_LAST else s
        rows = s if target.layout == CHANNELS_LAST else c
        self.step(
            f"transpose{8 * source.dtype.itemsize}",
            dict(
                batch=n,
                rows=rows,
                cols=cols,
                x_batch=s * source.pixel if source.layout == CHANNELS_LAST else c * s,
                x_col=s if target.layout == CHANNELS_LAST else (source.pixel or c),
                y_batch=c * s,
                y_row=cols,
            ),
            [source, target],
            work=n * c * s * source.dtype.itemsize,
        )

    def _make_dense(self, name: str, place: Place) -> Place:
        target = replace(place, buffer=self.buffer(place.nbytes), start=0, pixel=place.shape[1])
        rows = checked_size(place.shape) // place.shape[1]
        size = place.dtype.itemsize
        self.step(
            "copy_rows",
            dict(
                rows=rows,
                bytes=place.shape[1] * size,
                x_row=place.pixel * size,
                y_row=place.shape[1] * size,
            ),
            [place, target],
            work=place.nbytes,
        )
        self.places[name, place.layout] = target
        return target

    def new(
        self, name: str, layout: str = PLAIN, channels: int = 0, strided: bool = False
    ) -> Place:
        """Memory for an output of the node in hand, in ``layout``; dense unless ``strided``.

        ``channels`` goes with ``FLAT``; give the input's (``x.channels``) to keep its layout.
        A kernel that writes pixels ``place.pixel`` apart says ``strided=True``: its output may then
        be part of a wider value (a Concat's), and no copy is needed there.
        """
        if strided and layout == CHANNELS_LAST and name in self.slices:
            return self.slice_place(name)
        shape, dtype = self.shape(name), self.dtype(name)
        nbytes = checked_size(shape, dtype.itemsize, f"value {name!r}")
        # One channel, or one pixel, lies in the caller's array as it does channels-last.
        mine = both = False
        if name in self.outputs:
            both = layout == CHANNELS_LAST and (shape[1] == 1 or checked_size(shape[2:]) == 1)
            mine = layout == PLAIN or both
        if mine and (name, PLAIN) not in self.places:
            buffer = self.external(name, nbytes)
        else:
            buffer = self.buffer(nbytes)
            both = False
        pixel = shape[1] if layout == CHANNELS_LAST else 0
        place = Place(buffer, 0, shape, dtype, layout, pixel, channels)
        self.places[name, layout] = place
        if both:
            self.places[name, PLAIN] = Place(buffer, 0, shape, dtype)
        return place

    def root_of(self, name: str) -> str:
        """The value in whose buffer ``name`` belongs: a Concat's result, or itself."""
        part = self.slices.get(name)
        return name if part is None else part.root

    def slice_place(self, name: str) -> Place:
        """The part of a Concat's buffer where ``name`` belongs; ``name`` lives there from now on.

        A value that belongs to no other's buffer gets one of its own.
        """
        root, channel = self.slices.get(name, Slice(name, 0))
        whole = self.shape(root)
        if root not in self.roots:
            self.roots[root] = self.buffer(checked_size(whole, 4, f"value {root!r}"))
        place = Place(
            self.roots[root], 4 * channel, self.shape(name), F32, CHANNELS_LAST, pixel=whole[1]
        )
        self.places[name, CHANNELS_LAST] = place
        return place

    def alias(self, name: str, place: Place, **changes: Any) -> Place:
        """Let the output ``name`` share the memory of ``place``; its shape is the output's own."""
        place = replace(place, shape=self.shape(name), dtype=self.dtype(name), **changes)
        self.places[name, place.layout] = place
        return place

    def external(self, name: str, nbytes: int) -> Buffer:
        """The caller's array for a graph input or output."""
        self.externals.append(name)
        return Buffer(EXTERNAL, nbytes, index=len(self.externals) - 1)

    def buffer(self, nbytes: int) -> Buffer:
        """Arena memory for the steps from now to the last that uses it."""
        b = Buffer(ARENA, nbytes)
        self.arena.buffers.append(b)
        return b

    def scratch(self, nbytes: int, parts: int = 0) -> Place:
        """Arena memory for the next step alone.

        Args:
            nbytes: its size.
            parts: the number of threads if the kernel uses an equal part of it in each of them; 1
                if all use it together. With 0 the step is not cut into more pieces than threads.
        """
        place = Place(self.buffer(nbytes), 0, (nbytes,), np.dtype(np.uint8))
        place.buffer.parts = parts
        return place

    def as_stored(self, name: str) -> Place:
        """A constant where it lies, in plain layout, for kernels that read at any alignment."""
        return self.constant(self.known[name])

    def constant(self, array: np.ndarray) -> Place:
        """A constant array as a place; kept alive by the plan."""
        shape = array.shape
        array = np.ascontiguousarray(array)  # which makes a list of a scalar
        self.keep.append(array)
        return Place(Buffer(CONST, array.nbytes, array), 0, shape, array.dtype)

    def computed(self, function: Callable[..., np.ndarray], *sizes: Any) -> Place:
        """A constant that ``function`` makes of numbers alone (and of what hashes)."""
        return self.constant(function(*sizes))

    def packed(self, key: tuple[Hashable, ...], make: Callable[[], np.ndarray]) -> Place:
        """A constant made once per model from weights: ``make()`` runs when ``key`` is new.

        Names of values in ``key`` say what it is made of: a value that was computed for this plan's
        shapes alone is packed for this plan alone.
        """
        place = self.packs.places.get((self.isa, *key))
        if place is not None:
            self.keep.append(place.buffer.array)  # type: ignore[arg-type]
            return place
        sources = []
        for k in key:
            array = self.known.get(k) if isinstance(k, str) else None
            if array is None:
                continue
            if k not in self.graph.consts:
                return self.constant(make())
            sources.append(array)
        place = self.packs.place((self.isa, *key), make, sources)
        self.keep.append(place.buffer.array)  # type: ignore[arg-type]
        return place

    # What is to be done.

    def step(
        self,
        kernel: str,
        params: Mapping[str, Any],
        places: list[Place | None],
        work: int = 0,
        macs: int = 0,
        threads: int | None = None,
        units: int | None = None,
    ) -> None:
        """Append a kernel call; the last place is its output.

        Args:
            kernel: name in the kernel table.
            params: the fields of its parameter struct.
            places: its buffers in the kernel's order; None is absent.
            work: bytes moved or multiply-adds, whichever is larger: decides whether it is worth
                several threads.
            macs: multiply-adds, for profiles.
            threads: overrides the decision.
            units: the most pieces that make sense.
        """
        if threads is None:
            threads = self.threads_for(max(work, macs))
        self._touch(places)
        pieces = cut(threads, max(work, macs), units, places)
        self.steps.append(Step(kernel, self.node, params, places, threads, macs, pieces))

    def threads_for(self, work: int) -> int:
        """How many threads a step with this much work gets."""
        return min(self.threads, 2 * work // PARALLEL_WORK) if work >= PARALLEL_WORK else 1

    def python_step(
        self,
        name: str,
        function: Callable[[Sequence[np.ndarray | None]], Sequence[np.ndarray]],
        inputs: list[Place | None],
        outputs: list[Place | None],
    ) -> None:
        """Append a call of a Python function on NumPy views of plain, dense places."""
        places = [*inputs, *outputs]
        self._touch(places)
        self.steps.append(
            Step(name, self.node, {}, places, 1, 0, 1, function, n_outputs=len(outputs))
        )

    def _touch(self, places: list[Place | None]) -> None:
        step = len(self.steps)
        for p in places:
            if p is not None:
                b = p.buffer
                if b.kind == ARENA:
                    if b.first < 0:
                        b.first = step
                    b.last = step

    def choose(self, kind: str, costs: Mapping[str, float]) -> str:
        """Which of several ways to compute the node in hand, named in ``costs``.

        Args:
            kind: what is chosen; a node may have several kinds of decisions.
            costs: estimated costs by name, in multiply-adds; see :mod:`fastconv.plan.choice`.
        """
        if not self.choices.record and self.choices.trace is None:
            return cheapest(costs)
        assert self.node is not None
        shapes = (self.shape(i) if i else () for i in self.node.inputs)
        return self.choices.choose(kind, self.node, shapes, self.threads, self.isa, costs)

    def vector(self, name: str) -> int:
        """Sizes of the kernel build in use: ``VW``, ``MR``, ``NR``."""
        return kernels.constants(self.isa)[name]


def cut(threads: int, work: int, units: int | None, places: Sequence[Place | None]) -> int:
    """Into how many pieces a step is cut for its threads."""
    if threads == 1 or 0 in [p.buffer.parts for p in places if p is not None]:
        return threads
    each = min(PIECES, work // (PIECE_WORK * threads))
    if units is not None:
        each = min(each, units // threads)
    return threads * max(1, each)


def sharing(step: Step) -> tuple[int, int, int, int]:
    """A step's ``(threads, pieces, scratch, size)`` as the executor wants them.

    ``scratch`` is which of its buffers has a part for every thread, of ``size`` bytes; -1 for none.
    """
    if step.threads == 1:
        return 1, step.pieces, -1, 0
    for i, p in enumerate(step.places):
        if p is not None and p.buffer.parts == step.threads:
            return step.threads, step.pieces, i, p.buffer.nbytes // step.threads
    return step.threads, step.pieces, -1, 0
