"""Runs a graph at any input shapes: a bounded cache of plans, a pool of contexts for each."""

from __future__ import annotations

import os
import weakref
from _thread import allocate_lock
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import prod
from time import perf_counter_ns
from typing import Any

import numpy as np

from .. import knobs
from ..errors import FastconvError, MemoryLimitError, ModelError, ShapeError
from ..graph import Graph, Node, TensorType
from ..plan import PackCache, Plan, annotate, late, make_plan, output_bytes, python_bytes, too_few
from ..plan.choice import Choices
from ..plan.lowering import Step
from ..plan.memory import ARENA, CONST
from ..sizes import machine_memory
from .account import Account, ids
from .arenas import Arenas
from .executor import Context, Program, Runner
from .ready import Check, Opaque, Ready

#: Views of one arena that Python steps keep.
MAX_VIEWS = 1024

#: Without a limit of the caller's, smaller arrays outside arenas are not counted.
COUNTED = 1 << 16
#: Operators that show their input's memory in another shape.
VIEWS = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})

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
        #: Bytes that a run takes besides the arena.
        self.nbytes = python_bytes(plan.steps)
        self.nbytes += sum(prod(shape) * dtype.itemsize for _, _, shape, dtype in self.outputs)

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
        self.arenas = arenas or Arenas()
        if self.arenas.limit is None:
            self.arenas.limit = memory_limit or machine_memory()
        self.strict = strict
        self.choices = choices or Choices()
        self.half = half
        self.isa = isa
        self.threads = threads
        # (Now, as planning may add the constants of a branch that it chooses.)
        self.packs = packs or PackCache(sum(a.nbytes for a in graph.consts.values()))
        self.memory_limit = memory_limit
        self.max_plans = int(knobs.PLANS.get() or DEFAULT_PLANS)
        self._plans: OrderedDict[tuple[Any, ...], Prepared] = OrderedDict()
        self._used: tuple[Any, ...] | None = None  # the plan of the last run: evicted last
        self._rests: dict[tuple[str, ...], Engine] = {}
        self._bodies: dict[int, Engine] = {}
        self._lock = allocate_lock()
        self._const_ids: tuple[int, frozenset[int]] = (0, frozenset())
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
            profile: when given, ``(plan, nanoseconds)`` is appended for each plan run: those of its
                steps, then those of the nodes that run in Python after them (``Plan.eager``).
            check: when given, called before each plan is run and now and then between its steps;
                what it raises ends the run.
        """
        if check is not None:
            check()
        prepared = self.prepare(feeds)
        if prepared.complete:
            return self._run_whole(prepared, feeds, profile, check)
        account = Account(self.arenas, 0 if self.memory_limit else COUNTED)
        account.enter(0, ids(map(_opened, feeds.values())))
        try:
            values = self._run(prepared, dict(feeds), profile, check, account)
            for name, value in values.items():
                if account.give(value):
                    values[name] = [*value] if isinstance(value, list) else value
                    continue
                account.room(_nbytes(value))
                values[name] = _copied(name, value)
                account.add([values[name]])
            return values
        finally:
            account.close()

    def _run_within(
        self,
        feeds: dict[str, Any],
        profile: list[Any] | None,
        check: Check,
        account: Account,
    ) -> dict[str, Any]:
        """Run as a part of another engine's run, and on its account.

        What it gives may be an input or a constant, or share memory with one.
        """
        if check is not None:
            check()
        return self._run(self.prepare(feeds), feeds, profile, check, account)

    def _run_whole(
        self,
        prepared: Prepared,
        feeds: Mapping[str, Any],
        profile: list[Any] | None,
        check: Check,
    ) -> dict[str, Any]:
        """Run a plan that nothing follows."""
        values: dict[str, Any] = prepared.run(feeds, _times(prepared.plan, profile), check)
        self.hot = prepared.hot
        if len(values) == len(self.graph.outputs):
            return values
        for name in self.graph.outputs:
            if name not in values:
                value = _opened(feeds[name]) if name in feeds else self.graph.consts[name]
                values[name] = _copied(name, value)
        return {n: values[n] for n in self.graph.outputs}

    def _run(
        self,
        prepared: Prepared,
        feeds: dict[str, Any],
        profile: list[Any] | None,
        check: Check,
        account: Account,
    ) -> dict[str, Any]:
        """Run a plan and what follows it; ``feeds`` is emptied once nothing reads them any more."""
        plan = prepared.plan
        times = _times(plan, profile)
        account.enter(id(self), self._constants())
        reserved = account.reserve(prepared.nbytes)
        try:
            values: dict[str, Any] = prepared.run(feeds, times, check)
        finally:
            account.release(reserved)
        account.add(values.values())
        self.hot = prepared.hot
        consts = self.graph.consts
        if prepared.complete:
            if len(values) != len(self.graph.outputs):
                for n in self.graph.outputs:
                    if n not in values:
                        values[n] = _opened(feeds[n]) if n in feeds else consts[n]
            return values
        account.keep(plan.known.values())
        values = {
            **{n: _opened(a) for n, a in feeds.items()},
            **values,
            **plan.known,
        }
        body = partial(self._run_body, check=check, account=account)
        for k, node in enumerate(plan.eager, len(plan.steps)):
            start = perf_counter_ns()
            run_node(node, values, consts, account, body)
            if times is not None:
                times[k] = perf_counter_ns() - start
        if plan.rest is not None:
            rest_feeds = self._rest_feeds(plan.rest, values, account)
            values = {n: values[n] for n in self.graph.outputs if n in values}
            feeds.clear()
            values |= self._rest(plan.rest)._run_within(rest_feeds, profile, check, account)
        return {n: values[n] if n in values else consts[n] for n in self.graph.outputs}

    def _constants(self) -> frozenset[int]:
        """Ids of the arrays that hold the graph's constants."""
        consts = self.graph.consts
        if self._const_ids[0] != len(consts):  # planning may add some: see ``plan.resolve``
            self._const_ids = len(consts), ids(consts.values())
        return self._const_ids[1]

    def _like(self, graph: Graph, packs: PackCache | None) -> Engine:
        """An engine with this one's settings, for a part of its graph or a subgraph."""
        return Engine(
            graph, self.threads, packs or self.packs.empty(), self.memory_limit, self.isa,
            self.strict, self.choices, self.half, self.arenas,
        )  # fmt: skip

    def _run_body(
        self, body: Graph, feeds: Mapping[str, Any], check: Check, account: Account
    ) -> list[Any]:
        """Run the subgraph of a node; its plans are kept as this graph's own are."""
        engine = self._bodies.get(id(body))
        if engine is None:  # the graph's nodes keep the body, and with it its id
            engine = self._like(body, None)
            engine = self._bodies.setdefault(id(body), engine)
        account.add(feeds.values())  # slices that a Scan takes, captured values
        given = {n: _fed(n, v, account) for n, v in feeds.items()}
        outs = engine._run_within(given, None, check, account)
        return [outs[o] for o in body.outputs]

    def _rest(self, rest: Graph) -> Engine:
        """The engine of what follows the data-dependent nodes."""
        key = tuple(n.name for n in rest.nodes)
        engine = self._rests.get(key)
        if engine is None:
            engine = self._like(rest, self.packs)
            engine = self._rests.setdefault(key, engine)
        return engine

    def _rest_feeds(
        self, rest: Graph, values: Mapping[str, Any], account: Account
    ) -> dict[str, Any]:
        """What it takes, now that their results are at hand."""
        consts = self.graph.consts
        return {n: _fed(n, values[n] if n in values else consts[n], account) for n in rest.inputs}


def _fed(name: str, value: Any, account: Account) -> Any:
    """A value as engines take it: contiguous, or wrapped when it is no tensor."""
    if not isinstance(value, np.ndarray):
        return Opaque(value)
    if value.flags.c_contiguous:
        return value
    try:
        account.room(value.nbytes)
    except MemoryLimitError as e:
        raise MemoryLimitError(f"the value {name!r}: {e}") from None
    value = np.ascontiguousarray(value)
    account.add([value])
    return value


def _times(plan: Plan, profile: list[Any] | None) -> np.ndarray | None:
    """Where the times of a plan go, if they are wanted: see :meth:`Engine.run`."""
    if profile is None:
        return None
    times = np.zeros(len(plan.steps) + len(plan.eager))
    profile.append((plan, times))
    return times


def _copied(name: str, value: Any) -> Any:
    """An output that shares no memory with a constant, an input or another output."""
    try:
        if isinstance(value, np.ndarray):
            return np.array(value)
        from copy import deepcopy

        return deepcopy(value)
    except MemoryError as e:
        raise MemoryLimitError(f"cannot allocate output {name!r}: {e}") from None


def _opened(value: Any) -> Any:
    """What was fed, without the wrapper."""
    return value.value if isinstance(value, Opaque) else value


def _nbytes(value: Any) -> int:
    """Bytes of an array, or of a sequence's."""
    if isinstance(value, list):
        return sum(map(_nbytes, value))
    return value.nbytes if isinstance(value, np.ndarray) else 0


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
    account: Account,
    run_body: Callable[[Graph, Mapping[str, Any]], list[Any]],
) -> None:
    """Run one node in Python on the values at hand, and add its outputs to them.

    ``run_body`` runs the subgraphs of a node that has such.

    Raises:
        MemoryLimitError: with its outputs the run would pass its limit. Where their sizes can be
            foreseen nothing is computed; else the outputs have been, and are dropped.
    """
    ins: Sequence[Any] = [
        None if not i else values[i] if i in values else consts[i] for i in node.inputs
    ]
    op: Any = node.op

    def checked(arrays: Sequence[Any]) -> Any:
        if op.control:
            return op.execute(arrays, run_body, account.room)
        size = 0
        if op.dynamic:
            size = op.foreseen(arrays)
        elif op.label not in VIEWS and all(a is None or isinstance(a, np.ndarray) for a in arrays):
            types = [None if a is None else TensorType(a.dtype, a.shape) for a in arrays]
            size = output_bytes(node, types, arrays)
        reserved = account.reserve(size)
        try:
            outs = late.compute(op, arrays)
        finally:
            account.release(reserved)
        account.add(outs)
        return outs

    outs = compute(node, checked, ins)
    if len(outs) < len(node.outputs):
        raise ShapeError(f"{node}: {too_few(node, len(outs))}")
    for name, out in zip(node.outputs, outs, strict=False):
        if name:
            values[name] = out if out is None or isinstance(out, list) else np.asarray(out)
