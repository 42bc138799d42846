"""Runs a graph at any input shapes: a bounded cache of plans, a pool of contexts for each."""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .. import knobs
from ..errors import FastconvError, ModelError
from ..graph import Graph, Node, TensorType
from ..plan import PackCache, Plan, annotate, make_plan
from ..plan.lowering import Step
from ..plan.memory import ARENA, CONST
from .executor import Context, Program

#: Plans kept per graph, unless ``FASTCONV_PLANS`` says otherwise.
DEFAULT_PLANS = 8

_engines: weakref.WeakSet[Engine] = weakref.WeakSet()
_forked = False


def _after_fork() -> None:
    """In a forked child: no lock is held, no context is in use, and OpenMP's team is gone."""
    global _forked
    _forked = True
    for engine in list(_engines):
        engine._lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Prepared:
    """A plan with its program and the contexts that wait to be used again."""

    def __init__(self, plan: Plan, max_threads: int) -> None:
        steps = [
            (*entry, None if step.function is None else python_function(step))
            for step, entry in zip(plan.steps, plan.entries, strict=True)
        ]
        used = max((s.threads for s in plan.steps), default=1)
        self.plan = plan
        self.program = Program(steps, plan.arena_size, plan.keep, used)
        self.pool: list[Context] = []
        self.outputs = [
            (name, tuple(plan.types[name].shape or ()), plan.types[name].dtype)
            for name in plan.results
        ]
        self.order = {name: i for i, name in enumerate(plan.externals)}

    def run(self, feeds: Mapping[str, np.ndarray], times: np.ndarray | None) -> dict[str, Any]:
        """Run once; returns the plan's results by name."""
        externals: list[Any] = [None] * len(self.order)
        for name, i in self.order.items():
            if name in feeds:
                externals[i] = feeds[name]
        result = {}
        for name, shape, dtype in self.outputs:
            result[name] = externals[self.order[name]] = np.empty(shape, dtype)
        try:
            context = self.pool.pop()
        except IndexError:
            context = Context(self.program)
        try:
            if _forked and self.program.max_threads > 1:
                _run_in_thread(context, externals, times)
            else:
                context.run(externals, times)
        finally:
            self.pool.append(context)
        return result


def _run_in_thread(context: Context, externals: list[Any], times: np.ndarray | None) -> None:
    """Run in a new thread: OpenMP in a forked child hangs in the threads that used it before."""
    error: list[BaseException] = []

    def target() -> None:
        try:
            context.run(externals, times)
        except BaseException as e:
            error.append(e)

    thread = threading.Thread(target=target, name="fastconv-after-fork")
    thread.start()
    thread.join()
    if error:
        raise error[0]


def python_function(step: Step) -> Callable[[Context, list[Any]], None]:
    """What the executor calls for a step without a kernel."""
    n = len(step.places) - step.n_outputs

    def view(place: Any, context: Context, externals: list[Any], key: int) -> Any:
        if place is None:
            return None
        b = place.buffer
        if b.kind == ARENA:
            cached = context.views.get((id(step), key))
            if cached is None:
                start = context.offset_in_map(b.offset + place.start)
                flat = np.frombuffer(context.arena, place.dtype, place.size, start)
                cached = context.views[id(step), key] = flat.reshape(place.shape)
            return cached
        if b.kind == CONST:
            return b.array.view(place.dtype).reshape(place.shape)
        return externals[b.index].reshape(place.shape)

    def call(context: Context, externals: list[Any]) -> None:
        views = [view(p, context, externals, k) for k, p in enumerate(step.places)]
        assert step.function is not None
        results = step.function(views[:n])
        for target, result in zip(views[n:], results, strict=False):
            if target is not None:
                target[...] = result

    return call


class Engine:
    """A graph that runs at any input shapes, from any number of threads at once.

    Args:
        graph: what to run; its ``types`` say what each input must be.
        threads: threads per run.
        packs: packed weights, shared with the engines of the graph's later parts.
        memory_limit: bytes that one context's activations may take, or None.
        isa: the kernel build to use (default: the chosen one).
    """

    def __init__(
        self,
        graph: Graph,
        threads: int,
        packs: PackCache | None = None,
        memory_limit: int | None = None,
        isa: str | None = None,
    ) -> None:
        self.graph = graph
        self.isa = isa
        self.threads = threads
        self.packs = packs or PackCache()
        self.memory_limit = memory_limit
        self.max_plans = int(knobs.PLANS.get() or DEFAULT_PLANS)
        self._plans: OrderedDict[tuple[Any, ...], Prepared] = OrderedDict()
        self._rests: dict[tuple[str, ...], Engine] = {}
        self._lock = threading.Lock()
        _engines.add(self)

    def prepare(self, feeds: Mapping[str, np.ndarray | TensorType]) -> Prepared:
        """The plan for these input types, made now or found in the cache."""
        key = tuple([(feeds[n].shape, feeds[n].dtype) for n in self.graph.inputs])
        prepared = self._plans.get(key)
        if prepared is not None:
            return prepared
        with self._lock:
            prepared = self._plans.get(key)
            if prepared is None:
                types = {
                    n: TensorType(feeds[n].dtype, tuple(feeds[n].shape or ()))
                    for n in self.graph.inputs
                }
                plan = make_plan(
                    self.graph, types, self.threads, self.packs, self.memory_limit, self.isa
                )
                prepared = Prepared(plan, self.threads)
                while len(self._plans) >= self.max_plans:
                    self._plans.popitem(last=False)
                self._plans[key] = prepared
            return prepared

    def run(
        self, feeds: Mapping[str, np.ndarray], profile: list[Any] | None = None
    ) -> dict[str, np.ndarray]:
        """Run on C-contiguous arrays of the right dtypes; returns the graph's outputs by name.

        Args:
            feeds: one array for every graph input.
            profile: when given, ``(plan, nanoseconds per step)`` is appended for each plan run.
        """
        prepared = self.prepare(feeds)
        plan = prepared.plan
        times = None
        if profile is not None:
            times = np.zeros(len(plan.steps))
            profile.append((plan, times))
        values: dict[str, Any] = prepared.run(feeds, times)
        if not plan.known and not plan.eager and len(values) == len(self.graph.outputs):
            return values
        values.update(plan.known)
        for name, array in feeds.items():
            values.setdefault(name, array)
        for node in plan.eager:
            run_node(node, values, self.graph.consts)
        if plan.rest is not None:
            values.update(self._run_rest(plan.rest, values, profile))
        return {n: self._result(n, values) for n in self.graph.outputs}

    def _result(self, name: str, values: Mapping[str, Any]) -> Any:
        array = values[name] if name in values else self.graph.consts[name]
        return array.copy() if isinstance(array, np.ndarray) and not array.flags.owndata else array

    def _run_rest(
        self, rest: Graph, values: Mapping[str, Any], profile: list[Any] | None
    ) -> dict[str, Any]:
        """Run what follows the data-dependent nodes, now that their results are at hand."""
        key = tuple(n.name for n in rest.nodes)
        engine = self._rests.get(key)
        if engine is None:
            engine = Engine(rest, self.threads, self.packs, self.memory_limit, self.isa)
            engine = self._rests.setdefault(key, engine)
        feeds = {}
        for n in rest.inputs:
            v = values[n] if n in values else self.graph.consts[n]
            feeds[n] = np.ascontiguousarray(v) if isinstance(v, np.ndarray) and v.ndim else v
        return engine.run(feeds, profile)


def run_node(node: Node, values: dict[str, Any], consts: Mapping[str, np.ndarray]) -> None:
    """Run one node in Python on the values at hand, and add its outputs to them."""
    ins: Sequence[Any] = [
        None if not i else values[i] if i in values else consts[i] for i in node.inputs
    ]
    try:
        outs = node.op.compute(ins)
    except (FastconvError, ValueError, IndexError, TypeError, OverflowError, RuntimeError) as e:
        types = [TensorType(v.dtype, v.shape) if isinstance(v, np.ndarray) else None for v in ins]
        error = e if isinstance(e, FastconvError) else ModelError(f"{type(e).__name__}: {e}")
        raise annotate(node, error, types) from e
    for name, out in zip(node.outputs, outs, strict=False):
        if name:
            values[name] = np.asarray(out) if not isinstance(out, list) else out
