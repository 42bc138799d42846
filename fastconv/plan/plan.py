"""Graph + concrete input types → Plan: steps for the executor, cut where shapes depend on data."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from .. import kernels
from ..errors import FastconvError, MemoryLimitError, ModelError, ShapeError
from ..graph import REGISTRY, Graph, Node, SymbolicError, TensorType
from ..graph.core import annotate
from ..graph.strings import is_text, refuse_text
from ..records import record
from ..sizes import checked_size, machine_memory
from . import bands
from .choice import Choices
from .lower import LOWER
from .lowering import F32, Lowering, PackCache, Step, sharing
from .memory import CHANNELS_LAST, FLAT, PLAIN, Place
from .packing import address
from .places import references
from .recipes import Recipes
from .slices import Slice, assign_slices


@record
class Plan:
    """Everything one set of input shapes needs.

    Attributes:
        steps: kernel and Python calls in order, with their places.
        entries: what ``Program`` takes for each step, apart from Python functions.
        arena_size: bytes of activations.
        externals: names of the arrays the caller passes, in order (inputs, then outputs).
        types: concrete type of every value that was planned.
        known: graph outputs (or values the rest needs) that were computed at plan time.
        eager: nodes to run next, in Python, because their output shape depends on data.
        rest: the graph of everything after them, or None.
        keep: constants that the steps point into.
    """

    steps: list[Step]
    entries: list[tuple[int, bytes, list[tuple[int, int]], tuple[int, int, int, int]]]
    arena_size: int
    externals: list[str]
    results: list[str]
    types: dict[str, TensorType]
    known: dict[str, np.ndarray]
    eager: list[Node]
    rest: Graph | None
    keep: list[Any]
    threads: int


def make_plan(
    graph: Graph,
    inputs: Mapping[str, TensorType],
    threads: int,
    packs: PackCache,
    memory_limit: int | None = None,
    isa: str | None = None,
    strict: bool = False,
    choices: Choices | None = None,
    half: bool = False,
) -> Plan:
    """Plan a graph for concrete input types.

    Args:
        graph: the graph.
        inputs: the type of every input.
        threads: the most threads a step may use.
        packs: packed weights made before.
        memory_limit: bytes that activations may take.
        isa: the kernel build (default: the chosen one).
        strict: keep to direct convolution and float32 weights.
        choices: decides between alternatives (default: their estimated costs).
        half: store weights of fully-connected layers in half precision.

    Raises:
        ShapeError: shapes do not fit together; names the node, the operator and the shapes.
        MemoryLimitError: the activations would pass ``memory_limit`` bytes.
    """
    types: dict[str, TensorType] = {}
    for name, t in inputs.items():
        sizes = None if t.shape is None else tuple([int(d) for d in t.shape])  # type: ignore[arg-type]
        types[name] = TensorType(t.dtype, sizes)
    known: dict[str, np.ndarray] = dict(graph.consts)
    limit = memory_limit or machine_memory()
    isa = isa or kernels.chosen_isa()
    choices = choices or Choices()
    recipes = recipes_of(graph, packs, choices, (threads, isa, strict, half), not half)
    found = None if recipes is None else recipes.resolved(types)
    if found is not None:
        ready: list[Node] = found
        late: list[Node] = []
    else:
        ready, late = resolve(graph, types, known, limit, recipes)
        if recipes is not None and len(known) == len(graph.consts) and ready == graph.nodes:
            recipes.keep_resolved(types)
    eager, rest = _cut(graph, late)
    wanted = list(dict.fromkeys([*graph.outputs, *_needed(eager, rest)]))
    results = [w for w in wanted if w in types and w not in known and w not in inputs]
    low = Lowering(
        graph, types, known, threads, packs, isa, strict, choices, half,
        outputs=frozenset(results),
    )  # fmt: skip
    for name in inputs:
        t = inputs[name]
        if t.dtype is None or t.shape is None:
            continue  # no tensor: only nodes that run in Python read it
        place = Place(low.external(name, 0), 0, low.shape(name), t.dtype)
        low.places[name, PLAIN] = place
    live = _live(ready, results)
    low.slices = _slices(low, live, set(inputs))
    if recipes is not None:
        low.again = partial(recipes.lower, low, whole=_lower)
        low.opened = recipes.opened
    for node in live:
        low.node = node
        try:
            if recipes is None:
                _lower(low, node)
            else:
                recipes.lower(low, node, _lower)
        except FastconvError as e:
            ins = [value_type(i, types, known) if i else None for i in node.inputs]
            raise annotate(node, e, ins) from None
        except MemoryError as e:
            raise MemoryLimitError(f"{node}: {e}") from None
    low.node = None
    packs.release()
    for name in results:
        _deliver(low, name)
    # What refers to the plan in the making would keep it until garbage is collected.
    low.again = None
    low.postponed.clear()
    bands.apply(low)
    size = low.arena.layout(limit)
    total = size + sum(checked_size(low.shape(r), low.dtype(r).itemsize) for r in results)
    total += python_bytes(low.steps)
    if total > limit:
        raise MemoryLimitError(
            f"activations and outputs need {total} bytes for these input shapes; "
            f"the limit is {limit}"
        )
    table = kernels.table(low.isa)
    entries = []
    for s in low.steps:
        if s.function is None:
            k = table[s.kernel]
            part = s.part
            params = s.packed if part is None else part.packed
            if params is None:
                try:
                    params = k.pack(**s.params)
                except OverflowError as e:
                    text = f"{s.node}: a size or an attribute is too large: {e}"
                    raise ShapeError(text) from None
                if part is not None:
                    part.packed = params
            alone = s.threads == 1
            share = (1, s.pieces, -1, 0) if alone else sharing(s)
            entry = (k.address, params, references(s.places, address), share)
        else:
            entry = (0, b"", [], (1, 1, -1, 0))
        entries.append(entry)
    return Plan(
        low.steps, entries, size, low.externals, results, types,
        {w: known[w] for w in wanted if w in known}, eager, rest, low.keep, threads,
    )  # fmt: skip


def recipes_of(
    graph: Graph, packs: PackCache, choices: Choices, settings: tuple[Hashable, ...], alike: bool
) -> Recipes | None:
    """What planning keeps of a graph under some settings; None when every choice is traced.

    None for the first plan too: there may be no other, and what recipes need is packed by it.
    """
    if choices.trace is not None:
        return None
    key = (id(graph), id(choices) if choices.record else 0, *settings)
    found = packs.recipes.get(key)
    if found is None:
        packs.recipes[key] = graph, choices  # which keeps their ids
    elif isinstance(found, tuple):
        found = packs.recipes[key] = Recipes(graph, choices, alike)
    return found if isinstance(found, Recipes) else None


def _lower(low: Lowering, node: Node) -> None:
    """Append the steps of a node."""
    lower = LOWER.get(type(node.op))
    if lower is None or lower(low, node) is False:
        _python(low, node)


def resolve(
    graph: Graph,
    types: dict[str, TensorType],
    known: dict[str, np.ndarray],
    limit: int,
    recipes: Recipes | None = None,
) -> tuple[list[Node], list[Node]]:
    """Infer every node's types, compute what is known; returns (ready, late) nodes.

    Late nodes are those whose output shapes depend on data, and all that follows from them. An If
    whose condition is known here (it asks for a shape) gives way to the nodes of its branch, whose
    constants join those of the graph.
    """
    ready: list[Node] = []
    late: list[Node] = []
    stored = {} if recipes is None else recipes.stored
    used = 0  # bytes of the results that are computed here
    waiting = graph.nodes[::-1]
    while waiting:
        node = waiting.pop()
        if node.op.control and node.op.label == "If" and node.inputs[0] in known:
            nodes, consts = inline(node, known[node.inputs[0]])
            waiting += nodes[::-1]
            known.update(consts)
            graph.consts.update(consts)
            continue
        key = None
        if recipes is not None:
            key = recipes.types_key(node, types, known)
            found = None if key is None else recipes.inferred.get(key)
            if found is not None:
                for name, out in zip(node.outputs, found):
                    if name:
                        types[name] = out
                ready.append(node)
                continue
        ins: list[TensorType | None] = []
        values: list[np.ndarray | None] = []
        constant = True
        for i in node.inputs:
            if not i:
                ins.append(None)
                values.append(None)
                continue
            array = known.get(i)
            values.append(array)
            if array is not None:
                t: TensorType | None = stored.get(i)
                if t is None:
                    t = TensorType(array.dtype, array.shape)
            else:
                t = types.get(i)
                constant = False
                if t is None or t.dtype is None:
                    break  # it reads what is late, or a sequence or an optional value
            ins.append(t)
        if len(ins) < len(node.inputs):
            late.append(node)
            continue
        try:
            refuse_text(node.op, ins)
            folded = node.op.fold(ins, values)
            if folded is None and constant and node.op.deterministic and node.inputs:
                size = output_bytes(node, ins, values)
                if used + size > limit:
                    raise MemoryLimitError(
                        f"its results need {size} bytes, and those of other nodes that are "
                        f"computed once have {used}; the limit is {limit}"
                    )
                folded = node.op.compute(values)
                used += sum(a.nbytes for a in folded if a.base is None)
            if folded is not None:
                if len(folded) < len(node.outputs):
                    raise too_few(node, len(folded))
                for name, result in zip(node.outputs, folded, strict=False):
                    if name:
                        known[name] = result
                continue
            outs = node.op.infer(ins, values)
        except SymbolicError:
            late.append(node)
            continue
        except FastconvError as e:
            raise annotate(node, e, ins) from None
        except MemoryError as e:
            raise MemoryLimitError(f"{node}: {e}") from None
        except (ValueError, IndexError, TypeError, OverflowError) as e:
            raise annotate(node, ShapeError(str(e)), ins) from e
        except Exception as e:  # onnx.reference raises whatever it likes
            raise annotate(node, ModelError(f"{type(e).__name__}: {e}"), ins) from e
        if len(outs) < len(node.outputs):
            raise annotate(node, too_few(node, len(outs)), ins)
        static = [t.static for t, name in zip(outs, node.outputs) if name]
        if all(static) and not any(t is not None and is_text(t.dtype) for t in (*ins, *outs)):
            for name, out in zip(node.outputs, outs, strict=False):
                if name:
                    types[name] = out
            ready.append(node)
            if recipes is not None and key is not None:
                recipes.keep_inferred(key, outs)
        else:
            late.append(node)
    return ready, late


def inline(node: Node, condition: np.ndarray) -> tuple[list[Node], dict[str, np.ndarray]]:
    """The branch of an If that a condition chooses, as nodes of the graph, and its constants."""
    op: Any = node.op
    try:
        return op.inlined(node, condition)
    except FastconvError as e:
        raise annotate(node, e, [TensorType(condition.dtype, condition.shape)]) from None


def too_few(node: Node, count: int) -> ShapeError:
    """The error for a node that computes fewer values than it names (a Split's)."""
    return ShapeError(f"it gives {count} outputs, but {len(node.outputs)} are named")


def output_bytes(
    node: Node, types: Sequence[TensorType | None], values: Sequence[np.ndarray | None]
) -> int:
    """Bytes of a node's outputs, as far as they can be told without computing them.

    Raises:
        MemoryLimitError: they would pass ``sizes.MAX_BYTES``.
        ShapeError: it computes with numbers, and an input holds strings.
    """
    refuse_text(node.op, types)
    total = 0
    for t in node.op.infer(types, values):
        if t.static:
            assert t.shape is not None
            assert t.dtype is not None
            total += checked_size(t.shape, t.dtype.itemsize)  # type: ignore[arg-type]
    return total


def python_bytes(steps: Sequence[Step]) -> int:
    """The most bytes that a step in Python has in results that are not yet where they belong."""
    return max(
        (
            sum(p.nbytes for p in s.places[len(s.places) - s.n_outputs :] if p is not None)
            for s in steps
            if s.function is not None
        ),
        default=0,
    )


def value_type(
    name: str, types: Mapping[str, TensorType], known: Mapping[str, np.ndarray]
) -> TensorType:
    """A value's type, from its array when it is known."""
    if name in known:
        return TensorType(known[name].dtype, known[name].shape)
    return types[name]


def _cut(graph: Graph, late: list[Node]) -> tuple[list[Node], Graph | None]:
    """Split late nodes into those that can run now, in Python, and the graph of the rest."""
    if not late:
        return [], None
    pending = {o for n in late for o in n.outputs if o}
    eager = [n for n in late if not any(i in pending for i in n.inputs)]
    ids = {id(n) for n in eager}
    nodes = [n for n in late if id(n) not in ids]
    if not nodes:
        return eager, None
    made = {o for n in nodes for o in n.outputs}
    ins = dict.fromkeys(i for n in nodes for i in n.inputs if i and i not in made)
    consts = {i: graph.consts[i] for i in ins if i in graph.consts}
    outputs = [o for o in graph.outputs if o in made]
    return eager, Graph(graph.name, nodes, [i for i in ins if i not in consts], outputs, consts, {})


def _needed(eager: list[Node], rest: Graph | None) -> list[str]:
    """Values that what comes after the steps reads."""
    made = {o for n in eager for o in n.outputs}
    names = [i for n in eager for i in n.inputs if i]
    if rest is not None:
        names += [i for i in rest.inputs if i not in made]
    return names


def _live(nodes: list[Node], roots: list[str]) -> list[Node]:
    wanted = set(roots)
    kept = []
    for node in reversed(nodes):
        if not wanted.isdisjoint(node.outputs):
            wanted.update(node.inputs)
            wanted.discard("")  # an absent input, not an unwanted output
            kept.append(node)
    return kept[::-1]


def _slices(low: Lowering, nodes: list[Node], fixed: set[str]) -> dict[str, Slice]:
    """Which values are written straight into the buffer of the Concat that reads them."""
    joined = {v for n in nodes if type(n.op).__name__ == "Concat" for v in (*n.inputs, *n.outputs)}
    if not joined:
        return {}
    ranks, channels = {}, {}
    for name in joined:
        shape = low.shape(name)
        if low.dtype(name) == F32 and len(shape) >= 3:
            ranks[name], channels[name] = len(shape), shape[1]
    return assign_slices(nodes, REGISTRY["", "Concat"], ranks, channels, fixed | low.known.keys())


def _python(low: Lowering, node: Node) -> None:
    """A step that runs the operator's NumPy form."""
    ins = [low.place(i, PLAIN) if i else None for i in node.inputs]
    outs = [low.new(o, PLAIN) if o else None for o in node.outputs]
    low.python_step(f"numpy:{node.op.label}", node.op.compute, ins, outs)


def _deliver(low: Lowering, name: str) -> None:
    """See to it that a result ends up in the caller's array, in plain layout."""
    have = low.places.get((name, PLAIN))
    if have is not None and have.buffer.index >= 0 and low.externals[have.buffer.index] == name:
        return
    source = have or low.places[name, low.layout_of(name)]
    shape, dtype = low.shape(name), low.dtype(name)
    target = Place(low.external(name, source.nbytes), 0, shape, dtype)
    n = shape[0] if shape else 1
    if source.layout == CHANNELS_LAST:
        c = shape[1]
        low.emit_transpose(source, target, n, c, source.size // max(1, n * c))
    elif source.layout == FLAT:
        c = source.channels
        low.emit_transpose(source, target, n, c, source.size // max(1, n * c))
    else:
        row = dict(rows=1, bytes=source.nbytes, x_row=source.nbytes, y_row=source.nbytes)
        low.step("copy_rows", row, [source, target], work=source.nbytes)


__all__ = ["Plan", "make_plan", "output_bytes", "python_bytes"]
