"""Runs a graph at any input shapes: a bounded cache of plans, a pool of contexts for each."""

from __future__ import annotations

import os
import weakref
from _thread import allocate_lock
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from .. import knobs
from ..errors import FastconvError, MemoryLimitError, ModelError, ShapeError
from ..graph import Graph, Node, TensorType
from ..plan import PackCache, Plan, annotate, check_outputs, late, make_plan, too_few
from ..plan.choice import Choices
from ..plan.lowering import Step
from ..plan.memory import ARENA, CONST
from ..sizes import machine_memory
from .arenas import Arenas
from .executor import Context, Program, Runner
from .ready import Check, Opaque, Ready

#: Views of one arena that Python steps keep.
MAX_VIEWS = 1024

#: Plans kept per graph, unless ``FASTCONV_PLANS`` says otherwise.
DEFAULT_PLANS = 8

_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


def _after_fork() -> None:
    """In a forked child: no lock is held."""
    for engine in list(_engines):
        engine._lock = allocate_lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Prepared(Ready):
    """A plan with its program and the contexts that wait to be used again."""

    def __init__(self, plan: Plan, arenas: Arenas) -> None:
        steps = [
            (*entry, None if step.function is None else python_function(step))
            for step, entry in zip(plan.steps, plan.entries, strict=True)
        ]
        used = max((s.threads for s in plan.steps), default=1)
        program = Program(steps, plan.arena_size, plan.keep, used)
        super().__init__(program, plan.externals, plan.results, plan.types, arenas)
        self.plan = plan
        #: Whether the results are all of the graph's outputs, with nothing left to do.
        self.complete = not plan.known and not plan.eager and plan.rest is None

    def whole(self, graph: Graph) -> bool:
        """Whether there is nothing to do but to run it."""
        inputs = dict.fromkeys(name for _, name in self.inputs)
        same = list(inputs) == graph.inputs and list(self.plan.results) == graph.outputs
        return self.complete and same


def python_function(step: Step) -> Callable[[Context, list[Any]], None]:
    """What the executor calls for a step without a kernel."""
    n = len(step.places) - step.n_outputs

    def view(place: Any, context: Context, externals: list[Any]) -> Any:
        if place is None:
            return None
        b = place.buffer
        if b.kind == ARENA:
            arena = context.arena
            key = (b.offset + place.start, place.shape, place.dtype)
            cached = arena.views.get(key)
            if cached is None:
                if len(arena.views) >= MAX_VIEWS:
                    arena.views.clear()
                start = context.offset_in_map(b.offset + place.start)
                flat = np.frombuffer(arena.map, place.dtype, place.size, start)
                cached = arena.views[key] = flat.reshape(place.shape)
            return cached
        if b.kind == CONST:
            return b.array.view(place.dtype).reshape(place.shape)
        return externals[b.index].reshape(place.shape)

    def call(context: Context, externals: list[Any]) -> None:
        views = [view(p, context, externals) for p in step.places]
        assert step.function is not None
        results = compute(step.node, step.function, views[:n])
        for target, result in zip(views[n:], results, strict=False):
            if target is None:
                continue
            if np.shape(result) != target.shape:  # assignment would broadcast it
                raise ShapeError(
                    f"{step.node}: computed shape {list(np.shape(result))}, but its inputs' shapes "
                    f"promise {list(target.shape)}"
                )
            target[...] = result

    return call


class Engine:
    """A graph that runs at any input shapes, from any number of threads at once.

    Args:
        graph: what to run; its ``types`` say what each input must be.
        threads: threads per run.
        packs: packed weights, shared with the engines of the graph's later parts.
        memory_limit: bytes that activations may take, of all runs in progress together, or None.
        isa: the kernel build to use (default: the chosen one).
        strict: keep to direct convolution.
        choices: decides between alternatives (default: their estimated costs).
        half: store weights of fully-connected layers in half precision.
        arenas: where activations live, shared with the engines of parts and subgraphs.
    """

    def __init__(
        self,
        graph: Graph,
        threads: int,
        packs: PackCache | None = None,
        memory_limit: int | None = None,
        isa: str | None = None,
        strict: bool = False,
        choices: Choices | None = None,
        half: bool = False,
        arenas: Arenas | None = None,
    ) -> None:
        self.graph = graph
        self.arenas = arenas or Arenas(memory_limit or machine_memory())
        self.strict = strict
        self.choices = choices or Choices()
        self.half = half
        self.isa = isa
        self.threads = threads
        self.packs = packs or PackCache()
        self.memory_limit = memory_limit
        self.max_plans = int(knobs.PLANS.get() or DEFAULT_PLANS)
        self._plans: OrderedDict[tuple[Any, ...], Prepared] = OrderedDict()
        self._used: tuple[Any, ...] | None = None  # the plan of the last run: evicted last
        self._rests: dict[tuple[str, ...], Engine] = {}
        self._bodies: dict[int, Engine] = {}
        self._lock = allocate_lock()
        #: The short way to the plan of the last run, if it has one: see ``Runner``.
        self.hot: Runner | None = None
        _engines.add(self)

    def prepare(self, feeds: Mapping[str, np.ndarray | TensorType]) -> Prepared:
        """The plan for these input types, made now or found in the cache."""
        key = tuple([(feeds[n].shape, feeds[n].dtype) for n in self.graph.inputs])
        prepared = self._plans.get(key)
        if prepared is not None:
            self._used = key
            return prepared
        with self._lock:
            prepared = self._plans.get(key)
            if prepared is None:
                types = {n: _type(feeds[n]) for n in self.graph.inputs}
                plan = make_plan(
                    self.graph, types, self.threads, self.packs, self.memory_limit, self.isa,
                    self.strict, self.choices, self.half,
                )  # fmt: skip
                prepared = Prepared(plan, self.arenas)
                if prepared.whole(self.graph):
                    prepared.hot = prepared.runner(plan.types)
                if self._used is not None and self._used in self._plans:
                    self._plans.move_to_end(self._used)
                while len(self._plans) >= self.max_plans:
                    self._plans.popitem(last=False)
                self._plans[key] = prepared
                self._used = key
            return prepared

    def run(
        self,
        feeds: Mapping[str, np.ndarray],
        profile: list[Any] | None = None,
        check: Check = None,
    ) -> dict[str, np.ndarray]:
        """Run on C-contiguous arrays of the right dtypes; returns the graph's outputs by name.

        Args:
            feeds: one array for every graph input.
            profile: when given, ``(plan, nanoseconds per step)`` is appended for each plan run.
            check: when given, called before each plan is run and now and then between its steps;
                what it raises ends the run.
        """
        if check is not None:
            check()
        prepared = self.prepare(feeds)
        plan = prepared.plan
        times = None
        if profile is not None:
            times = np.zeros(len(plan.steps))
            profile.append((plan, times))
        values: dict[str, Any] = prepared.run(feeds, times, check)
        self.hot = prepared.hot
        if prepared.complete and len(values) == len(self.graph.outputs):
            return values
        fresh = {id(v) for v in values.values()}
        values.update(plan.known)
        for name, array in feeds.items():
            values.setdefault(name, array.value if isinstance(array, Opaque) else array)
        body = partial(self._run_body, check=check)
        for node in plan.eager:
            run_node(node, values, self.graph.consts, self.memory_limit, body)
        if plan.rest is not None:
            rest = self._run_rest(plan.rest, values, profile, check)
            fresh.update(map(id, rest.values()))
            values.update(rest)
        return {n: self._result(n, values, fresh) for n in self.graph.outputs}

    def _like(self, graph: Graph, packs: PackCache | None) -> Engine:
        """An engine with this one's settings, for a part of its graph or a subgraph."""
        return Engine(
            graph, self.threads, packs, self.memory_limit, self.isa, self.strict, self.choices,
            self.half, self.arenas,
        )  # fmt: skip

    def _run_body(self, body: Graph, feeds: Mapping[str, Any], check: Check = None) -> list[Any]:
        """Run the subgraph of a node; its plans are kept as this graph's own are."""
        engine = self._bodies.get(id(body))
        if engine is None:  # the graph's nodes keep the body, and with it its id
            engine = self._like(body, None)
            engine = self._bodies.setdefault(id(body), engine)
        outs = engine.run({n: fed(v) for n, v in feeds.items()}, None, check)
        return [outs[o] for o in body.outputs]

    def _result(self, name: str, values: Mapping[str, Any], fresh: set[int]) -> Any:
        """An output that shares no memory with a constant, an input or another output."""
        array = values[name] if name in values else self.graph.consts[name]
        if id(array) in fresh:
            fresh.discard(id(array))
            return array
        try:
            if isinstance(array, np.ndarray):
                return np.array(array)
            from copy import deepcopy

            return deepcopy(array)
        except MemoryError as e:
            raise MemoryLimitError(f"cannot allocate output {name!r}: {e}") from None

    def _run_rest(
        self, rest: Graph, values: Mapping[str, Any], profile: list[Any] | None, check: Check
    ) -> dict[str, Any]:
        """Run what follows the data-dependent nodes, now that their results are at hand."""
        key = tuple(n.name for n in rest.nodes)
        engine = self._rests.get(key)
        if engine is None:
            engine = self._like(rest, self.packs)
            engine = self._rests.setdefault(key, engine)
        feeds: dict[str, Any] = {}
        for n in rest.inputs:
            feeds[n] = fed(values[n] if n in values else self.graph.consts[n])
        return engine.run(feeds, profile, check)


def fed(value: Any) -> Any:
    """A value as engines take it: contiguous, or wrapped when it is no tensor."""
    if not isinstance(value, np.ndarray):
        return Opaque(value)
    return value if value.flags.c_contiguous else np.ascontiguousarray(value)


def _type(value: Any) -> TensorType:
    return TensorType(value.dtype, None if value.shape is None else tuple(value.shape))


def compute(node: Node | None, function: Callable[..., Any], ins: Sequence[Any]) -> Any:
    """An operator's NumPy form (or onnx.reference's); whatever it raises names the node."""
    try:
        return function(ins)
    except MemoryError as e:
        raise MemoryLimitError(f"{node or 'a node'}: {e}") from None
    except Exception as e:
        if node is None:
            raise
        types = [TensorType(v.dtype, v.shape) if isinstance(v, np.ndarray) else None for v in ins]
        error = e if isinstance(e, FastconvError) else ModelError(f"{type(e).__name__}: {e}")
        raise annotate(node, error, types) from e


def run_node(
    node: Node,
    values: dict[str, Any],
    consts: Mapping[str, np.ndarray],
    memory_limit: int | None = None,
    run_body: Callable[[Graph, Mapping[str, Any]], list[Any]] | None = None,
) -> None:
    """Run one node in Python on the values at hand, and add its outputs to them.

    ``run_body`` runs the subgraphs of a node that has such (default: node by node, in NumPy).

    Raises:
        MemoryLimitError: its outputs alone would pass ``memory_limit``, or the machine's memory.
    """
    ins: Sequence[Any] = [
        None if not i else values[i] if i in values else consts[i] for i in node.inputs
    ]
    limit = memory_limit or machine_memory()

    def checked(arrays: Sequence[Any]) -> Any:
        if node.op.control and run_body is not None:
            op: Any = node.op
            return op.execute(arrays, run_body, limit)
        if not node.op.dynamic and all(a is None or isinstance(a, np.ndarray) for a in arrays):
            types = [None if a is None else TensorType(a.dtype, a.shape) for a in arrays]
            check_outputs(node, types, arrays, limit)
        return late.compute(node.op, arrays)

    outs = compute(node, checked, ins)
    if len(outs) < len(node.outputs):
        raise ShapeError(f"{node}: {too_few(node, len(outs))}")
    for name, out in zip(node.outputs, outs, strict=False):
        if name:
            values[name] = out if out is None or isinstance(out, list) else np.asarray(out)
