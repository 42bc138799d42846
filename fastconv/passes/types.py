"""Type inference over a whole graph, and constant folding, which needs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..errors import FastconvError, MemoryLimitError, ShapeError, UnsupportedError
from ..graph import UNKNOWN, Dim, Graph, Node, SymbolicError, TensorType, is_static
from ..graph.core import annotate
from ..graph.strings import refuse_text
from ..sizes import checked_size
from .dims import WINDOWED, Dims, hide

#: A folded result may have this many bytes even if it is larger than what it is computed from.
FOLD_LIMIT = 64 << 20
#: Operators whose output size depends on data but is bounded by a small multiple of the input's.
BOUNDED = frozenset({"NonZero", "Unique", "Compress", "NonMaxSuppression"})
#: Operators whose output has the dtype of their first input.
SAME_DTYPE = frozenset(
    {
        "Reshape",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "Transpose",
        "Expand",
        "Tile",
        "Slice",
        "Pad",
        "Gather",
        "Concat",
        "Resize",
        "Upsample",
        "DepthToSpace",
        "SpaceToDepth",
        "ReduceMean",
        "ReduceSum",
        "ReduceMax",
        "ReduceMin",
        "MatMul",
        "Gemm",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Pow",
        "Softmax",
        "LogSoftmax",
        "Split",
    }
)


def same_dim(a: Dim, b: Dim) -> bool:
    """Whether two dimensions are known to be equal."""
    return a is not None and b is not None and bool(a == b)


def same_shape(a: TensorType, b: TensorType) -> bool:
    """Whether two values are known to have equal shapes, by number or by symbol."""
    if a.shape is None or b.shape is None or len(a.shape) != len(b.shape):
        return False
    return all(map(same_dim, a.shape, b.shape))


def infer_types(graph: Graph) -> None:
    """Fill ``graph.types`` with what is known of every value; input types stay as they are.

    Raises:
        ShapeError: the inputs of a node, all of known shape, do not fit the operator; names the
            node, the operator and the shapes. Where a shape is not wholly known nothing is raised:
            the plan for concrete shapes checks again.
    """
    inputs = {n: graph.type_of(n) for n in graph.inputs}
    name_types(graph)
    hide_names(graph, inputs)


def name_types(graph: Graph) -> None:
    """As :func:`infer_types`, with names for the sizes that are not known (see ``dims``)."""
    dims = start(graph)
    for node in graph.nodes:
        _record(graph, node, infer_node(graph, node, dims))


def start(graph: Graph) -> Dims:
    """Forget all types but those of the inputs, and name the sizes that these leave open."""
    dims = Dims()
    graph.types = {n: dims.of_input(n, graph.types[n]) for n in graph.inputs if n in graph.types}
    return dims


def hide_names(graph: Graph, inputs: Mapping[str, TensorType]) -> None:
    """Put unknown sizes back in place of the names that passes worked with."""
    graph.types = {n: hide(t) for n, t in graph.types.items()} | dict(inputs)


def infer_node(graph: Graph, node: Node, dims: Dims) -> list[TensorType]:
    """The types of one node's outputs from those of its inputs; see :func:`infer_types`."""
    types = [graph.type_of(i) if i else None for i in node.inputs]
    values = [graph.consts.get(i) if i else None for i in node.inputs]
    found = None
    try:
        refuse_text(node.op, types)
    except FastconvError as e:
        raise annotate(node, e, types) from None
    if all(t is None or t.static for t in types):
        try:
            found = node.op.infer(types, values)
        except (SymbolicError, NotImplementedError) as e:
            if isinstance(e, UnsupportedError):
                raise annotate(node, e, types) from None
        except FastconvError as e:
            raise annotate(node, e, types) from None
        except (ValueError, LookupError, TypeError, ArithmeticError, AttributeError) as e:
            raise annotate(node, ShapeError(str(e)), types) from e
    else:
        # Rules know some tricks with symbols and others with unknown sizes.
        for form in (types, [None if t is None else _without_symbols(t) for t in types]):
            try:
                found = node.op.infer(form, values)
                break
            except (SymbolicError, FastconvError, ValueError, LookupError, TypeError):
                continue
            except (AttributeError, ArithmeticError, NotImplementedError):
                continue
    if (
        found is not None
        and len(found) < len(node.outputs)
        and all(t is None or t.static for t in types)
    ):
        count, named = len(found), len(node.outputs)
        raise annotate(node, ShapeError(f"it gives {count} outputs, but {named} are named"), types)
    found = list(found if found is not None else _fallback(node, types))[: len(node.outputs)]
    found += [UNKNOWN] * (len(node.outputs) - len(found))
    return dims.of_node(node, types, found)


def _without_symbols(t: TensorType) -> TensorType:
    if t.shape is None:
        return t
    return TensorType(t.dtype, tuple(d if isinstance(d, int) else None for d in t.shape))


def _fallback(node: Node, types: Sequence[TensorType | None]) -> list[TensorType]:
    """What can be said without the shape rule, which needed more than is known."""
    name = type(node.op).__name__
    first = types[0] if types else None
    if node.op.domain or first is None:
        return [UNKNOWN] * len(node.outputs)
    if name in WINDOWED and first.shape is not None:
        return [TensorType(first.dtype, _window_shape(node, first.shape, types))]
    if name in WINDOWED or name in SAME_DTYPE:
        return [TensorType(first.dtype, None)] * len(node.outputs)
    return [UNKNOWN] * len(node.outputs)


def _window_shape(
    node: Node, x: tuple[Dim, ...], types: Sequence[TensorType | None]
) -> tuple[Dim, ...]:
    """Batch, and channels where known."""
    name, channels = type(node.op).__name__, x[1] if len(x) > 1 else None
    w = types[1] if len(types) > 1 else None
    if name.startswith("Conv"):
        channels = w.shape[0] if name == "Conv" and w is not None and w.shape else None
    return (x[0], channels, *[None] * (len(x) - 2))


def _record(graph: Graph, node: Node, types: Sequence[TensorType]) -> None:
    for name, t in zip(node.outputs, types, strict=True):
        if name:
            graph.types[name] = t


def fold_constants(graph: Graph) -> Graph:
    """Infer all types, and compute what depends on constants or on known types alone.

    A node is left in place if its result is larger than both ``FOLD_LIMIT`` and its inputs (a few
    bytes of file must not become gigabytes in memory), or if its size cannot be known beforehand.

    Raises:
        ShapeError: as :func:`infer_types`.
    """
    dims = start(graph)
    nodes = []
    for node in graph.nodes:
        arrays = _folded(graph, node, dims)
        if arrays is None:
            _record(graph, node, infer_node(graph, node, dims))
            nodes.append(node)
            continue
        for name, array in zip(node.outputs, arrays, strict=False):
            if name:
                graph.consts[name] = np.asarray(array)
                graph.types[name] = graph.type_of(name)
    graph.nodes = nodes
    return graph


def _folded(graph: Graph, node: Node, dims: Dims) -> list[np.ndarray] | None:
    """The outputs of a node that can and may be computed now, else None."""
    types = [graph.type_of(i) if i else None for i in node.inputs]
    values = [graph.consts.get(i) if i else None for i in node.inputs]
    try:
        found = node.op.fold(types, values)
        if found is not None:
            return found if len(found) >= len(node.outputs) else None
        if not node.op.deterministic:
            return None
        if any(v is None and i for v, i in zip(values, node.inputs, strict=True)):
            return None
        if not _affordable(node, infer_node(graph, node, dims), values):
            return None
        with np.errstate(all="ignore"):
            found = node.op.compute(values)
        return found if len(found) >= len(node.outputs) else None
    except (SymbolicError, NotImplementedError, AttributeError):
        return None  # not known yet, or without a NumPy form: planning has the last word
    except FastconvError as e:
        raise (e if str(e).startswith("node ") else annotate(node, e, types)) from None
    except (ValueError, IndexError, TypeError, OverflowError) as e:
        if all(t is None or t.static for t in types):
            raise annotate(node, ShapeError(str(e)), types) from e
        return None
    except MemoryError as e:
        raise MemoryLimitError(f"{node}: {e}") from None


def _affordable(
    node: Node, outputs: Sequence[TensorType], values: Sequence[np.ndarray | None]
) -> bool:
    """Whether computing a node from constants stays within bounds."""
    given = sum(v.nbytes for v in values if v is not None)
    total = 0
    for name, t in zip(node.outputs, outputs, strict=True):
        if not name:
            continue
        if t.dtype is None or t.shape is None or not is_static(t.shape):
            if type(node.op).__name__ in BOUNDED and given <= FOLD_LIMIT:
                continue
            return False
        shape = [d for d in t.shape if isinstance(d, int)]
        total += checked_size(shape, t.dtype.itemsize, "folded result")
    return total <= max(FOLD_LIMIT, given)
