"""Runs one operator through plan, kernels and executor, for comparison with its NumPy twin.

``run_op`` builds a one-node graph and runs it with a given kernel build and number of threads;
``check_op`` compares it with the operator's own ``compute`` in float64 and demands the same bits
from 1, 2 and 3 threads, for every kernel build that this machine can run. With several threads each
step is shared, however small, and cut into as many pieces as there can be.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from fastconv import kernels
from fastconv.graph import Graph, Node, Op, TensorType
from fastconv.graph.op import fields_only
from fastconv.plan import lowering
from fastconv.plan.lowering import lowers
from fastconv.plan.memory import CHANNELS_LAST
from fastconv.runtime.engine import Engine

ISAS = kernels.runnable_isas()


@fields_only
class ToChannelsLast(Op):
    """Identity whose result lies channels-last, so that the next operator meets that layout."""

    def infer(self, types, values):
        return [types[0]]

    def compute(self, xs):
        return [xs[0]]


@lowers(ToChannelsLast)
def _to_channels_last(low, node):
    low.alias(node.outputs[0], low.place(node.inputs[0], CHANNELS_LAST))


def run_op(
    op: Op,
    arrays: Sequence[np.ndarray | None],
    *,
    n_outputs: int = 1,
    consts: Sequence[int] = (),
    threads: int = 1,
    isa: str | None = None,
    channels_last: Sequence[int] = (),
    native: bool = True,
) -> list[np.ndarray]:
    """Run one operator.

    Args:
        op: the operator.
        arrays: its inputs; None for an absent optional one.
        consts: which inputs the graph holds as constants.
        channels_last: which inputs (rank ≥ 3) reach the operator in channels-last layout.
        native: fail if the plan has a Python step (that is, if no kernel was used).
    """
    names = ["" if a is None else f"in{i}" for i, a in enumerate(arrays)]
    feeds = {n: a for i, (n, a) in enumerate(zip(names, arrays)) if n and i not in consts}
    nodes, inputs = [], list(names)
    for i in channels_last:
        nodes.append(Node(ToChannelsLast(), [names[i]], [f"cl{i}"], f"cl{i}"))
        inputs[i] = f"cl{i}"
    outputs = [f"out{k}" for k in range(n_outputs)]
    nodes.append(Node(op, inputs, outputs, "node"))
    graph = Graph(
        "test", nodes, list(feeds), outputs,
        {names[i]: arrays[i] for i in consts if arrays[i] is not None},
        {n: TensorType(a.dtype, a.shape) for n, a in feeds.items()},
    )  # fmt: skip
    graph.verify()
    engine = Engine(graph, threads, isa=isa)
    feeds = {n: np.ascontiguousarray(a) if a.ndim else a for n, a in feeds.items()}
    if native:
        with shared_steps(threads):
            plan = engine.prepare(feeds).plan
        slow = [s.kernel for s in plan.steps if s.function is not None]
        assert not slow, f"no kernel was used: {slow}"
        assert not plan.eager, f"not planned: {plan.eager}"
    with shared_steps(threads):
        result = engine.run(feeds)
    return [result[o] for o in outputs]


@contextmanager
def shared_steps(threads: int):
    """Plans made meanwhile share every step between the threads, in many pieces."""
    kept = lowering.PARALLEL_WORK, lowering.PIECE_WORK
    if threads > 1:
        lowering.PARALLEL_WORK = lowering.PIECE_WORK = 1
    try:
        yield
    finally:
        lowering.PARALLEL_WORK, lowering.PIECE_WORK = kept


def check_op(
    op: Op,
    arrays: Sequence[np.ndarray | None],
    *,
    rtol: float = 1e-5,
    atol: float = 1e-6,
    isas: Sequence[str] = ISAS,
    threads: Sequence[int] = (1, 2, 3),
    **options: Any,
) -> None:
    """Compare an operator's kernels with its NumPy twin; see ``run_op`` for the options.

    The tolerance is ``atol * scale + rtol * |expected|`` with scale the largest finite magnitude
    expected (at least 1).
    """
    wide = [a.astype(np.float64) if a is not None and a.dtype == np.float32 else a for a in arrays]
    with np.errstate(all="ignore"):
        expected = op.compute(wide)
    for isa in isas:
        first = None
        for t in threads:
            got = run_op(op, arrays, isa=isa, threads=t, **options)
            if first is None:
                first = got
                for g, e in zip(got, expected, strict=False):
                    assert g.shape == e.shape, f"{isa}: shape {g.shape}, expected {e.shape}"
                    finite = np.abs(e[np.isfinite(e)]) if e.dtype.kind == "f" else np.array([])
                    scale = max(1.0, float(finite.max())) if finite.size else 1.0
                    np.testing.assert_allclose(
                        g, e, rtol=rtol, atol=atol * scale, err_msg=f"{op} with {isa} kernels"
                    )
            else:
                for g, f in zip(got, first, strict=True):
                    assert g.tobytes() == f.tobytes(), f"{op}: {t} threads change bits ({isa})"
