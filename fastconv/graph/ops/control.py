"""Operators that run subgraphs: If, Loop, Scan and SequenceMap.

A subgraph is a graph of its own (``bodies``). Its inputs are those that ONNX gives it, then the
values of the graphs around it that it reads; a node hands these over as inputs behind its own
(``captured`` names them). Planning stops at such a node: what it gives is known when it has run.
``execute`` holds the rules of the operator and is given a function that runs a graph, so it serves
the runtime, which plans each subgraph, and the naive twin ``compute``, which does not.

Source: ONNX operators If-25, Loop-25, Scan-25, Scan-8 and SequenceMap-17.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from ...errors import InputError, MemoryLimitError, ModelError, UnsupportedError
from ..core import Graph, Node
from ..op import Op, fields_only, need, normalize_axis
from .logic import Identity
from .sequence import Dynamic, sequence

#: Runs a graph on its inputs by name; returns its outputs in order.
Run = Callable[[Graph, Mapping[str, Any]], list[Any]]

#: Raises MemoryLimitError unless there is room for so many bytes more.
Room = Callable[[int], None]


def no_limit(nbytes: int) -> None:
    """There is always room."""


_serials = itertools.count(1)


def evaluate(graph: Graph, feeds: Mapping[str, Any]) -> list[Any]:
    """Run a graph node by node in NumPy: the naive twin of the runtime."""
    values: dict[str, Any] = {**graph.consts, **feeds}
    for node in graph.nodes:
        outs = node.op.compute([values[i] if i else None for i in node.inputs])
        values.update((n, o) for n, o in zip(node.outputs, outs, strict=False) if n)
    return [values[o] for o in graph.outputs]


@fields_only
class Control(Dynamic):
    """Base.

    Attributes:
        bodies: subgraphs by attribute name.
        own: how many of the node's inputs are the operator's own; captured values follow.
        captured: the captured values' names in the subgraphs.
        opset: the ONNX opset of the node.
        serial: no two operators of a process have the same.
    """

    arity = (0, -1)
    n_outputs = -1
    control = True
    #: The subgraphs that the operator must have.
    wanted: ClassVar[tuple[str, ...]] = ("body",)
    bodies: dict[str, Graph]
    own: int
    captured: tuple[str, ...] = ()
    opset: int = 25
    serial: int = 0

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other  # graphs have no equality of their own

    def __repr__(self) -> str:
        return f"{self.label}({', '.join(self.bodies)})"

    @classmethod
    def make(
        cls,
        bodies: dict[str, Graph],
        settings: dict[str, Any],
        own: int,
        captured: tuple[str, ...],
        opset: int,
    ) -> Control:
        """The operator from its subgraphs and its other attributes.

        Raises:
            ModelError: a subgraph is missing, or has the wrong number of inputs.
            UnsupportedError: an attribute is unknown.
        """
        if set(bodies) != set(cls.wanted):
            raise ModelError(f"{cls.__name__} needs the subgraphs {', '.join(cls.wanted)}")
        made = cls(bodies, own, captured, opset, next(_serials))
        for name, value in settings.items():
            made.configure(name, value)
        made.check()
        return made

    def configure(self, name: str, value: Any) -> None:
        """Take an attribute that is no subgraph."""
        raise UnsupportedError(f"attribute {name!r} is not known to fastconv for {self.label}")

    def check(self) -> None:
        """Raise ModelError where the subgraphs do not fit the operator."""

    def given(self, body: Graph) -> list[str]:
        """The inputs of a subgraph that are not captured."""
        mine = set(self.captured)
        return [i for i in body.inputs if i not in mine]

    def with_bodies(self, change: Callable[[Graph], Graph]) -> Control:
        """A copy with each subgraph replaced."""
        copy = object.__new__(type(self))
        for key, value in self.__dict__.items():
            object.__setattr__(copy, key, value)
        object.__setattr__(copy, "bodies", {k: change(g) for k, g in self.bodies.items()})
        return copy

    def output_format(self, k: int) -> int | None:
        """The ONNX data type of output ``k`` where it is held in another dtype."""
        body = self.bodies[self.wanted[0]]
        at = k + self.first_output
        return body.formats.get(body.outputs[at]) if at < len(body.outputs) else None

    #: The subgraph's output that the first output comes from.
    first_output: ClassVar[int] = 0

    def execute(self, xs: Sequence[Any], run: Run, room: Room = no_limit) -> list[Any]:
        """Run the operator.

        Args:
            xs: the operator's own inputs, then the captured values.
            run: runs a graph.
            room: asked before outputs are stacked.

        Raises:
            InputError: an input does not fit.
            MemoryLimitError: there is no room for the stacked outputs.
        """
        raise NotImplementedError

    def compute(self, xs):
        return self.execute(xs, evaluate)

    def _feeds(self, body: Graph, xs: Sequence[Any], values: Sequence[Any]) -> dict[str, Any]:
        """The inputs of a subgraph by name."""
        feeds = dict(zip(self.captured, xs[self.own :], strict=True))
        names = self.given(body)
        if len(names) != len(values):
            raise ModelError(
                f"the subgraph {body.name!r} takes {len(names)} inputs, but gets {len(values)}"
            )
        feeds.update(zip(names, values, strict=True))
        return {n: feeds[n] for n in body.inputs}


def flag(value: np.ndarray, what: str) -> bool:
    """A condition as a bool.

    Raises:
        InputError: it has not exactly one element.
    """
    if not isinstance(value, np.ndarray) or value.size != 1:
        shape = list(value.shape) if isinstance(value, np.ndarray) else type(value).__name__
        raise InputError(f"{what} must have one element, not shape {shape}")
    return bool(value.reshape(()))


def scalar_like(value: Any, body: Graph, name: str, dtype: Any) -> np.ndarray:
    """A scalar in the shape that the subgraph's input ``name`` has: () or (1,)."""
    stated = body.type_of(name).shape
    return np.full((1,) if stated is not None and len(stated) == 1 else (), value, dtype)


class Stack:
    """Arrays that become one, with a new axis, as long as there is room for that."""

    def __init__(self, room: Room) -> None:
        self.arrays: list[np.ndarray] = []
        self.room = room
        self.nbytes = 0

    def add(self, array: Any) -> None:
        """Append.

        Raises:
            InputError: it is no tensor, or its shape differs from the others'.
            MemoryLimitError: there is no room for the array of them all beside them.
        """
        if not isinstance(array, np.ndarray):
            raise InputError("a subgraph's output that is to be stacked is no tensor")
        if self.arrays and array.shape != self.arrays[0].shape:
            raise InputError(
                f"iteration {len(self.arrays)} gives shape {list(array.shape)}, the ones before "
                f"{list(self.arrays[0].shape)}: they cannot be stacked"
            )
        self.nbytes += array.nbytes + 64
        try:
            self.room(self.nbytes)
        except MemoryLimitError as e:
            raise MemoryLimitError(
                f"the outputs of {len(self.arrays) + 1} iterations need {self.nbytes} bytes: {e}"
            ) from None
        self.arrays.append(array)

    def joined(self, body: Graph, name: str, axis: int = 0, backwards: bool = False) -> np.ndarray:
        """One array; without iterations, an empty one of the type stated for ``name``."""
        if not self.arrays:
            t = body.type_of(name)
            shape = [d if isinstance(d, int) else 0 for d in t.shape or ()]
            shape.insert(normalize_axis(axis, len(shape) + 1), 0)
            return np.empty(shape, t.dtype or np.float32)
        arrays = self.arrays[::-1] if backwards else self.arrays
        need(-arrays[0].ndim - 1 <= axis <= arrays[0].ndim, f"axis {axis} is out of range")
        return np.stack(arrays, axis)


@fields_only
class If(Control):
    """The outputs of one of two subgraphs, chosen by a bool with one element."""

    wanted = ("then_branch", "else_branch")

    def check(self) -> None:
        for name, body in self.bodies.items():
            if self.given(body):
                raise ModelError(f"{name} must have no inputs, but has {self.given(body)}")
        counts = {len(b.outputs) for b in self.bodies.values()}
        if len(counts) != 1:
            raise ModelError("the branches of If differ in their number of outputs")

    def chosen(self, condition: np.ndarray) -> Graph:
        """The subgraph that runs under this condition."""
        return self.bodies["then_branch" if flag(condition, "the condition") else "else_branch"]

    def execute(self, xs, run, room=no_limit):
        body = self.chosen(xs[0])
        return run(body, self._feeds(body, xs, []))

    def inlined(
        self, node: Node, condition: np.ndarray
    ) -> tuple[list[Node], dict[str, np.ndarray]]:
        """The chosen subgraph as nodes of the graph around ``node``, and its constants.

        Values have names of their own there, the same ones each time; those of one branch differ
        from those of the other, which may have equal names in the file.
        """
        body = self.chosen(condition)
        branch = "then" if body is self.bodies["then_branch"] else "else"
        prefix = f"{node.name}#{self.serial}/{branch}/"
        names = {o: prefix + o for n in body.nodes for o in n.outputs if o}
        names.update((c, prefix + c) for c in body.consts)
        names.update(zip(self.captured, node.inputs[self.own :], strict=True))
        names[""] = ""
        made = {o for n in body.nodes for o in n.outputs}
        copies = []
        for inner, outer in zip(body.outputs, node.outputs, strict=False):
            if outer and inner in made:
                made.remove(inner)
                names[inner] = outer
            elif outer:  # a constant, a captured value, or one that is an output already
                copies.append((inner, outer))
        nodes = [
            Node(n.op, [names[i] for i in n.inputs], [names[o] for o in n.outputs],
                 prefix + n.name, n.sources)
            for n in body.nodes
        ]  # fmt: skip
        nodes += [
            Node(Identity(), [names[i]], [o], f"{prefix}{i}", node.sources) for i, o in copies
        ]
        return nodes, {names[c]: a for c, a in body.consts.items()}


@fields_only
class Loop(Control):
    """Repeats a subgraph: at most M times, while its condition holds.

    Inputs: M (int64 scalar, may be absent), cond (bool, may be absent), carried values …; the
    subgraph maps (iteration, cond, carried …) to (cond, carried …, scan outputs …). Outputs: the
    carried values at the end, and the scan outputs of all iterations, stacked.
    """

    first_output = 1

    def check(self) -> None:
        body = self.bodies["body"]
        have, wanted = len(self.given(body)), max(2, self.own)
        if have != wanted:
            raise ModelError(f"the body of Loop has {have} inputs, but {wanted} are wanted")
        if len(body.outputs) < wanted - 1:
            raise ModelError(
                f"the body of Loop has {len(body.outputs)} outputs; at least {wanted - 1} are "
                "wanted: the condition and the carried values"
            )

    def execute(self, xs, run, room=no_limit):
        body = self.bodies["body"]
        own = [*xs[: self.own], None, None][: max(2, self.own)]
        most, cond, carried = own[0], own[1], list(own[2:])
        if most is not None and most.size != 1:
            raise InputError(f"M must be a scalar, not of shape {list(most.shape)}")
        trips = None if most is None else int(most.reshape(()))
        go = True if cond is None else flag(cond, "the condition of Loop")
        n = len(carried)
        stacks = [Stack(room) for _ in body.outputs[1 + n :]]
        names = self.given(body)
        it = 0
        while go and (trips is None or it < trips):
            first = [
                scalar_like(it, body, names[0], np.int64),
                scalar_like(go, body, names[1], np.bool_),
            ]
            outs = run(body, self._feeds(body, xs, [*first, *carried]))
            go = flag(outs[0], "the condition that the body of Loop gives")
            carried = outs[1 : 1 + n]
            for stack, out in zip(stacks, outs[1 + n :], strict=True):
                stack.add(out)
            it += 1
        scans = [s.joined(body, o) for s, o in zip(stacks, body.outputs[1 + n :], strict=True)]
        return [*carried, *scans]


@fields_only
class Scan(Control):
    """Runs a subgraph over slices of its last ``num_scan_inputs`` inputs, carrying state along.

    The subgraph maps (state …, slices …) to (state …, slices of the outputs …). Axes default to 0,
    directions (1: from the end) to 0. Before opset 9 there is a batch axis in front of all, the
    slices are along axis 1, and the first input holds each sequence's length.
    """

    num_scan_inputs: int = 0
    scan_input_axes: tuple[int, ...] = ()
    scan_input_directions: tuple[int, ...] = ()
    scan_output_axes: tuple[int, ...] = ()
    scan_output_directions: tuple[int, ...] = ()

    def configure(self, name: str, value: Any) -> None:
        if name == "directions":
            name = "scan_input_directions"
        if name == "num_scan_inputs":
            object.__setattr__(self, name, int(value))
        elif name.startswith("scan_") and hasattr(self, name):
            object.__setattr__(self, name, tuple(int(v) for v in value))
        else:
            super().configure(name, value)

    def check(self) -> None:
        body = self.bodies["body"]
        own = self.own - (1 if self.opset < 9 else 0)
        states = own - self.num_scan_inputs
        if self.num_scan_inputs < 1 or states < 0:
            raise ModelError(
                f"num_scan_inputs is {self.num_scan_inputs}; it must be from 1 to {own}"
            )
        if len(self.given(body)) != own or len(body.outputs) < states:
            raise ModelError(
                f"the body of Scan maps {len(self.given(body))} values to {len(body.outputs)}; "
                f"{own} to at least {states} are wanted"
            )
        for what, values, most in (
            ("scan_input_axes", self.scan_input_axes, self.num_scan_inputs),
            ("scan_input_directions", self.scan_input_directions, self.num_scan_inputs),
            ("scan_output_axes", self.scan_output_axes, len(body.outputs) - states),
            ("scan_output_directions", self.scan_output_directions, len(body.outputs) - states),
        ):
            if values and len(values) != most:
                raise ModelError(f"{what} {list(values)} must be {most} numbers")

    def execute(self, xs, run, room=no_limit):
        if self.opset >= 9:
            return self._scan(xs[: self.own], xs, run, room, None)
        lens, own = xs[0], xs[1 : self.own]
        batch = own[0].shape[0]
        rows = []
        for b in range(batch):
            length = None if lens is None else int(lens[b])
            rows.append(self._scan([x[b] for x in own], xs, run, room, length))
        room(sum(a.nbytes for row in rows for a in row))
        return [np.stack(column) for column in zip(*rows, strict=True)]

    def _scan(
        self, own: Sequence[Any], xs: Sequence[Any], run: Run, room: Room, length: int | None
    ) -> list[Any]:
        body = self.bodies["body"]
        n = len(own) - self.num_scan_inputs
        state, scans = list(own[:n]), own[n:]
        k = self.num_scan_inputs
        axes = [
            normalize_axis(a, x.ndim, "scan_input_axes:")
            for a, x in zip(self.scan_input_axes or (0,) * k, scans, strict=True)
        ]
        turned = self.scan_input_directions or (0,) * k
        sizes = {x.shape[a] for x, a in zip(scans, axes, strict=True)}
        if len(sizes) != 1:
            raise InputError(f"the scan inputs have different lengths: {sorted(sizes)}")
        size = sizes.pop()
        used = size if length is None else min(length, size)
        stacks = [Stack(room) for _ in body.outputs[n:]]
        for t in range(used):
            slices = [
                np.asarray(x.take(used - 1 - t if back else t, a))
                for x, a, back in zip(scans, axes, turned, strict=True)
            ]
            outs = run(body, self._feeds(body, xs, [*state, *slices]))
            state = outs[:n]
            for stack, out in zip(stacks, outs[n:], strict=True):
                stack.add(out)
        m = len(stacks)
        joined = [
            s.joined(body, o, axis, bool(back))
            for s, o, axis, back in zip(
                stacks,
                body.outputs[n:],
                self.scan_output_axes or (0,) * m,
                self.scan_output_directions or (0,) * m,
                strict=True,
            )
        ]
        if used < size:  # steps past the sequence's length give 0
            joined = [np.concatenate([j, np.zeros((size - used, *j.shape[1:]), j.dtype)])
                      for j in joined]  # fmt: skip
        return [*state, *joined]


@fields_only
class SequenceMap(Control):
    """Runs a subgraph on each tensor of a sequence; other inputs are sequences or tensors."""

    def execute(self, xs, run, room=no_limit):
        body = self.bodies["body"]
        first, others = sequence(xs[0]), xs[1 : self.own]
        for other in others:
            if isinstance(other, list) and len(other) != len(first):
                raise InputError(
                    f"the sequences have different lengths: {len(first)}, {len(other)}"
                )
        results: list[list[Any]] = [[] for _ in body.outputs]
        for i, item in enumerate(first):
            rest = [o[i] if isinstance(o, list) else o for o in others]
            outs = run(body, self._feeds(body, xs, [item, *rest]))
            for column, out in zip(results, outs, strict=True):
                column.append(out)
        return results


#: op_type → class. They are not in the registry of operators: their attributes are graphs.
CONTROL: dict[str, type[Control]] = {c.__name__: c for c in (If, Loop, Scan, SequenceMap)}

__all__: list[Any] = ["CONTROL", "Control", "If", "Loop", "Op", "Scan", "SequenceMap", "evaluate"]
