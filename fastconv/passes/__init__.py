"""Graph → Graph: what is done once, when a model is loaded, so that fewer kernels run.

No pass changes a result beyond the rounding of float32: a fusion fires only where the shapes,
dtypes and constants that it needs are known, where no other node reads what would vanish, and where
that is no output of the graph. A pass can be left out by name to find the one that is to blame.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from ..errors import FastconvError, OptionError
from ..graph import UNKNOWN, Graph, TensorType
from .activations import fuse_written_out
from .affine import fold_affine, fold_pads
from .ahead import factor_sums, fold_ahead
from .budget import Budget, Change, spending
from .clean import remove_dead, remove_no_ops
from .composites import fuse_composites
from .epilogue import fuse_epilogues
from .products import fuse_products
from .types import fold_constants, hide_names, infer_types, name_types


def fuse_quantised(graph: Graph) -> Graph:
    """Compute on quantised numbers where a model in QDQ form lets it."""
    if not any(type(n.op).__name__ in ("DequantizeLinear", "QLinearConv") for n in graph.nodes):
        return graph  # and its module is not even imported
    from .quant import fuse_quantised as fuse

    return fuse(graph)


#: The passes in order, with the reason for the place each has.
PIPELINE: list[tuple[str, Callable[[Graph], Graph]]] = [
    # What no output needs must neither be computed nor stop a fusion by reading a value.
    ("dead-code", remove_dead),
    # Before constants are folded: weights would become floats.
    ("quantised", fuse_quantised),
    # Types, shapes computed by nodes and formulas' constants are known to all later passes.
    ("fold-constants", fold_constants),
    # Identity and the like stand between the nodes of patterns.
    ("no-ops", remove_no_ops),
    ("pads", fold_pads),
    # Before affine folding, which would move the "+ 3" of a hard-swish into a bias.
    ("activations", fuse_written_out),
    # After activations, which it moves; before composites, where Transposes meet and vanish.
    ("products", fuse_products),
    ("composites", fuse_composites),
    # Before epilogues: weights take what precedes the activation.
    ("affine", fold_affine),
    # After affine folding: weights ahead take what they can without a change of what is padded.
    ("ahead", fold_ahead),
    ("factors", factor_sums),
    # Last of the fusions, as a node with an activation or a residual matches no other pattern.
    ("epilogues", fuse_epilogues),
    # Constants that folding replaced.
    ("unused", remove_dead),
]


def optimize(
    graph: Graph,
    disable: Collection[str] = frozenset(),
    check: bool = True,
    budget: Budget | None = None,
) -> Graph:
    """A graph that computes the same with fewer nodes.

    Args:
        graph: left as it is; its constants are shared, not copied.
        disable: names of passes in ``PIPELINE`` to leave out.
        check: verify the graph's form before the first pass and after each.
        budget: how many changes may be made, those in subgraphs after those around them; it
            learns of each. None for all of them.

    Raises:
        OptionError: ``disable`` names no pass.
        ModelError: the graph's form is broken.
        ShapeError: the shapes in the graph do not fit together; names the node.
    """
    unknown = set(disable) - {name for name, _ in PIPELINE}
    if unknown:
        names = ", ".join(name for name, _ in PIPELINE)
        raise OptionError(f"no pass is named {', '.join(sorted(unknown))}; the passes are {names}")
    graph = graph.copy()
    inputs = {n: graph.types[n] for n in graph.inputs if n in graph.types}
    if check:
        graph.verify()
    for name, run in PIPELINE:
        if name not in disable and (budget is None or budget.enter(name)):
            with spending(budget):
                graph = run(graph)
        elif run is fold_constants:
            name_types(graph)  # the passes after it need types even so
        if check:
            graph.verify()
    hide_names(graph, inputs)
    for node in graph.nodes:
        if node.op.control:
            op: Any = node.op
            types = {
                inner: graph.type_of(outer)
                for inner, outer in zip(op.captured, node.inputs[op.own :], strict=True)
            }
            node.op = op.with_bodies(lambda body: _body(body, types, disable, check, budget))
    return graph


def _body(
    body: Graph,
    types: Mapping[str, TensorType],
    disable: Collection[str],
    check: bool,
    budget: Budget | None,
) -> Graph:
    """A subgraph, optimised; as it stands where its shapes do not fit together.

    It may be the branch of an If that never runs; if it runs, planning it says what is wrong.
    """
    try:
        return optimize(_with_types(body, types), disable, check, budget)
    except FastconvError:
        return body


def _with_types(body: Graph, types: Mapping[str, TensorType]) -> Graph:
    """A subgraph that knows what the graph around it knows of the values that it captures."""
    body = body.copy()
    for name in body.inputs:
        if name in types and types[name] != UNKNOWN:
            body.types.setdefault(name, types[name])
    return body


__all__ = ["PIPELINE", "Budget", "Change", "fold_constants", "infer_types", "optimize"]
