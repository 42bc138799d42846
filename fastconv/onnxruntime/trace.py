"""Profiles of a session as a Chrome trace: a JSON list that chrome://tracing and Perfetto read.

The format is Google's "Trace Event Format": complete events (``ph`` X) with microseconds.
"""

from __future__ import annotations

import datetime
import json
import os
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import OptionError
from ..graph import TensorType
from .errors import Fail, status

#: onnxruntime's limit too; what happens later is dropped, and the trace says so.
MAX_EVENTS = 1_000_000

_NAMES = {"float32": "float", "float64": "double", "object": "string"}


class Trace:
    """The events of one session; safe to use from many threads.

    Args:
        prefix: start of the file's name; the time and ``.json`` follow.

    Attributes:
        start: when it began, in nanoseconds of ``time.monotonic_ns``.
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.start = time.monotonic_ns()
        self._events: list[dict[str, Any]] | None = []
        self._dropped = 0
        self._lock = threading.Lock()

    @property
    def active(self) -> bool:
        """Whether it has not been written yet."""
        return self._events is not None

    def add(self, cat: str, name: str, start: int, duration: float, **args: Any) -> None:
        """Add an event that began at ``start`` (ns) and lasted ``duration`` (ns)."""
        event = {
            "cat": cat,
            "pid": os.getpid(),
            "tid": threading.get_native_id(),
            "dur": round(duration / 1000, 3),
            "ts": round((start - self.start) / 1000, 3),
            "ph": "X",
            "name": name,
            "args": args,
        }
        with self._lock:
            if self._events is None:
                return
            if len(self._events) < MAX_EVENTS:
                self._events.append(event)
            else:
                self._dropped += 1

    def add_run(self, parts: Parts, start: int, end: int) -> None:
        """Add a run: an event per step that was timed, and one for the whole."""
        for (plan, times), began in zip(parts, parts.began, strict=True):
            at = float(began)
            for index, (step, duration) in enumerate(zip(plan.steps, times)):
                self._add_step(plan, index, step, int(at), float(duration))
                at += float(duration)
            # Those whose shapes depend on data run in Python.
            for node, duration in zip(plan.eager, times[len(plan.steps) :], strict=True):
                self.add(
                    "Node", f"{node.name or node.op.label}_kernel_time", int(at), float(duration),
                    op_name=node.op.label, provider="CPUExecutionProvider", kernel="python",
                )  # fmt: skip
                at += float(duration)
        self.add("Session", "model_run", start, end - start)

    def _add_step(self, plan: Any, index: int, step: Any, start: int, duration: float) -> None:
        node = step.node
        label = node.op.label if node is not None else ""
        name = (node.name or f"{label}_{index}") if node is not None else step.kernel
        n = len(step.places) - step.n_outputs
        names = ([*node.inputs], [*node.outputs]) if node is not None else ([], [])
        self.add(
            "Node",
            f"{name}_kernel_time",
            start,
            duration,
            op_name=label,
            provider="CPUExecutionProvider",
            kernel=step.kernel,
            node_index=str(index),
            threads=str(step.threads),
            input_type_shape=_types(plan, names[0]),
            output_type_shape=_types(plan, names[1]),
            output_size=str(sum(p.nbytes for p in step.places[n:] if p is not None)),
            multiply_accumulates=str(step.macs),
        )

    def finish(self) -> str:
        """Write the file and stop; returns its name, "" when that was done before.

        Raises:
            OptionError: the file cannot be written.
        """
        with self._lock:
            events, self._events = self._events, None
        if events is None:
            return ""
        if self._dropped:
            events.append({"name": f"{self._dropped} events dropped", "ph": "M", "pid": 0})
        now = datetime.datetime.now()
        path = f"{self.prefix}_{now:%Y-%m-%d_%H-%M-%S}_{now.microsecond // 1000:03d}.json"
        try:
            with open(path, "w", encoding="utf-8") as f:
                f.write("[\n" + ",\n".join(map(json.dumps, events)) + "\n]\n")
        except OSError as e:
            error = OptionError(f"{path}: the profile cannot be written: {e.strerror or e}")
            raise status(error, Fail) from None
        return path


class Parts(list[tuple[Any, np.ndarray]]):
    """What an engine appends ``(plan, times)`` to; notes when each part began."""

    def __init__(self) -> None:
        super().__init__()
        self.began: list[int] = []

    def append(self, item: tuple[Any, np.ndarray]) -> None:
        """Note that a part begins now."""
        self.began.append(time.monotonic_ns())
        super().append(item)


def _types(plan: Any, names: Sequence[str]) -> list[dict[str, list[int]]]:
    result = []
    for name in names:
        t = plan.types.get(name)
        if isinstance(t, TensorType) and t.dtype is not None and t.shape is not None:
            kind = _NAMES.get(t.dtype.name, t.dtype.name)
            result.append({kind: [int(d) for d in t.shape if isinstance(d, int)]})
    return result


__all__ = ["Parts", "Trace"]
