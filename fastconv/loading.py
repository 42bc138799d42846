"""Reads a model file and makes the engine that runs it: what a model is made of."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import UnsupportedError
from .formats import NAMES, outer_dtype
from .graph import Graph, Node, TensorType
from .importer.build import build_graph, value_type
from .importer.defs import DATA_TYPES, ValueDef
from .importer.foreign import LEAVE_OUT, Foreign
from .importer.proto import open_model
from .importer.tensors import numpy_dtype
from .model import FallbackWarning, info
from .passes import optimize
from .plan.choice import Choices
from .runtime.engine import Engine
from .tuning import Tuned, find, state, stem

if TYPE_CHECKING:
    from .model import Model
    from .runtime.arenas import Arenas


def read(
    source: str | bytes,
    options: Mapping[str, Any],
    fed: frozenset[str],
    arenas: Arenas | None = None,
) -> dict[str, Any]:
    """The attributes of a :class:`~fastconv.model.Model`, by name.

    Args:
        source: absolute path, or bytes.
        options: the arguments of ``fastconv.load``, checked; ``threads`` is a number.
        fed: names of initializers that are fed.
        arenas: where activations live, if that is given.

    Raises:
        ModelError, UnsupportedError: see ``fastconv.load``.
    """
    model = open_model(source)
    found: dict[str, Any] = {"definition": model, "metadata": dict(model.metadata)}
    found["opset"] = model.opset_import.get("", 0)
    values = model.graph.initializers
    found["overridable"] = [
        info(v.name, _outer_stated(v)) for v in model.graph.inputs if v.name in values
    ]
    found["producer"] = (model.producer_name, model.producer_version)
    found["ir_version"] = model.ir_version
    original = found["original"] = build_graph(model, fed)
    graph = original
    if options["optimize"]:
        graph = optimize(original, frozenset(options["disable"]))
    found["graph"] = graph
    stated = {v.name: v for v in (*model.graph.inputs, *model.graph.outputs)}
    found["_kinds"] = original.kinds
    found["inputs"] = [
        info(n, _outer(original.types[n], original, n, stated)) for n in original.inputs
    ]
    found["outputs"] = [
        info(n, _outer(_output_type(n, original, graph), original, n, stated))
        for n in original.outputs
    ]
    found["_foreign"] = _check_fallback(graph, options["fallback"])
    tuned: Tuned | None = None
    found["_tuning"] = None
    if options["tuned"]:
        if isinstance(source, str):
            found["_tuning"] = stem(original), state(source, stem(original))
        tuned = find(source, original)
    found["tuned"] = tuned
    found["_engine"] = Engine(
        graph, options["threads"], memory_limit=options["memory_limit"],
        strict=options["accuracy"] == "strict",
        choices=Choices(tuned.choices) if tuned else None,
        half=options["weights"] == "float16", arenas=arenas,
    )  # fmt: skip
    # Inputs and outputs whose values are held in another dtype than callers see.
    formats = original.formats
    found["_widened"] = {n: formats[n] for n in original.inputs if n in formats}
    found["_narrowed"] = {n: formats[n] for n in original.outputs if n in formats}
    return found


def _output_type(name: str, original: Graph, graph: Graph) -> TensorType:
    stated = original.type_of(name)
    return stated if stated.shape is not None else graph.type_of(name)


def _check_fallback(graph: Graph, fallback: str) -> bool:
    """Whether operators run through ``onnx.reference``, having said so if need be.

    Raises:
        UnsupportedError: ``fallback`` is "error", or ``onnx.reference`` has not all of them.
    """
    foreign = [(n, n.op) for n in all_nodes(graph) if isinstance(n.op, Foreign)]
    if not foreign or fallback == "show":
        return bool(foreign)
    lacking = []
    for node, op in foreign:
        try:
            op.session()
        except UnsupportedError as e:
            lacking.append((node, op, e))
    if lacking:
        reason = str(lacking[0][2]).removeprefix(f"{lacking[0][1].label}: ")
        advice = "" if "pip install" in reason else f"; {LEAVE_OUT}"
        raise UnsupportedError(
            f"no native kernel for {_rows([(n, op) for n, op, _ in lacking])}; {reason}{advice}"
        ) from lacking[0][2]
    if fallback == "error":
        raise UnsupportedError(
            f"no native kernel for {_rows(foreign)}; "
            "load with fallback='warn' to run them through onnx.reference"
        )
    if fallback == "allow":
        return True
    labels = ", ".join(sorted({op.label for _, op in foreign}))
    warnings.warn(
        f"these operators run through onnx.reference, which is slow: {labels}",
        FallbackWarning,
        stacklevel=5,
    )
    return True


def _rows(nodes: Sequence[tuple[Node, Foreign]]) -> str:
    """Nodes with their operators and the opsets of these."""
    rows = [
        f"node {n.name!r} ({op.label}, opset {op.opsets.get(op.node.domain)})"
        for n, op in nodes[:20]
    ]
    more = f" and {len(nodes) - 20} more" if len(nodes) > 20 else ""
    return "; ".join(rows) + more


def _outer(t: TensorType, graph: Graph, name: str, stated: Mapping[str, ValueDef]) -> TensorType:
    """An input's or output's type as callers see it; of a sequence, that of its tensors."""
    code = graph.formats.get(name)
    if code is not None:
        return TensorType(outer_dtype(code) or t.dtype, t.shape)
    if name in graph.kinds and (elem := stated[name].elem_type) is not None:
        return TensorType(numpy_dtype(elem), None)
    return t


def _outer_stated(value: ValueDef) -> TensorType:
    """The type that the file states for an initializer that can be fed, as callers see it."""
    t = value_type(value)
    if value.elem_type in NAMES:
        return TensorType(outer_dtype(value.elem_type) or t.dtype, t.shape)
    return t


def all_nodes(graph: Graph) -> Iterator[Node]:
    """The nodes of a graph and of the subgraphs in it."""
    for node in graph.nodes:
        yield node
        if node.op.control:
            op: Any = node.op
            for body in op.bodies.values():
                yield from all_nodes(body)


def stated_outputs(model: Model) -> list[tuple[Any, str, str | None] | None]:
    """What the file states of each output: sizes, kind of value, ONNX's name of the element type.

    Sizes that only inference knows take the place of names. None for an output without statement.
    """
    values = {v.name: v for v in model.definition.graph.outputs}
    found: list[tuple[Any, str, str | None] | None] = []
    for o in model.outputs:
        stated = values.get(o.name)
        if stated is None:
            found.append(None)
            continue
        dims: Any = o.shape
        if stated.shape is not None:
            dims = list(stated.shape)
            inferred = model.graph.type_of(o.name).shape
            if inferred is not None and len(inferred) == len(dims):
                dims = [
                    i if isinstance(i, int) and not isinstance(s, int) else s
                    for s, i in zip(dims, inferred, strict=True)
                ]
        code = stated.elem_type
        name = None if code is None else DATA_TYPES.get(code, "?").lower()
        found.append((None if dims is None else tuple(dims), stated.kind, name))
    return found


def portrait(model: Model) -> dict[str, Any] | None:
    """What an entry of stored plans says of a model; None if its plans are not to be stored.

    They are not where there is more to a run than the plan, or something to warn about.
    """
    from .runtime.stored import SIGNATURE, external, stamp

    original, graph, source = model.original, model.graph, model._source
    if not isinstance(source, str) or model._foreign or model._kinds:
        return None
    if model._widened or model._narrowed:
        return None
    if graph.inputs != original.inputs or graph.outputs != original.outputs:
        return None
    kind, tuned = model._tuning or ("", [])
    if tuned and model.tuned is None:
        return None
    externals = []
    for location in model.definition.external_files:
        real = external(os.path.abspath(source), location)
        externals.append((location, real, stamp(real)))
    values = {"inputs": model.inputs, "outputs": model.outputs, "overridable": model.overridable}
    signature: dict[str, Any] = {n: getattr(model, n) for n in SIGNATURE}
    for name, infos in values.items():
        dtypes = [i.dtype for i in infos]
        if any(d is not None and np.dtype(d.str) != d for d in dtypes):
            return None  # not one of NumPy's own
        codes = [None if d is None else d.str for d in dtypes]
        signature[name] = [(i.name, i.shape, c) for i, c in zip(infos, codes, strict=True)]
    signature["names"] = list(original.inputs)
    signature["stated"] = stated_outputs(model)
    return {"signature": signature, "kind": kind, "tuned": tuned, "externals": externals}


__all__ = ["all_nodes", "portrait", "read", "stated_outputs"]
