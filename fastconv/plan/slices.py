"""Concat without a pass over memory: producers write straight into their part of the result.

For a channel Concat of channels-last values, each input's pixel is a piece of the result's wider
pixel. This finds, before anything is lowered, which values can live inside a Concat's buffer. A
value that feeds several Concats (DenseNet) is given to the last and widest one; the others' results
are then views of the same buffer wherever their inputs lie there side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..graph import Node, Op


class Slice(NamedTuple):
    """A value's part of a Concat's result: which result, and its first channel there."""

    root: str
    channel: int


def assign_slices(
    nodes: Sequence[Node],
    concat: type[Op],
    ranks: dict[str, int],
    channels: dict[str, int],
    fixed: set[str],
) -> dict[str, Slice]:
    """Which values live inside which Concat result.

    Args:
        nodes: the nodes to be lowered, in order.
        concat: the Concat operator (with ``axis``).
        ranks, channels: rank and channel count of every float32 value that may take part.
        fixed: values that must not move: graph inputs, constants.
    """
    slices: dict[str, Slice] = {}
    for node in reversed(nodes):
        if not isinstance(node.op, concat):
            continue
        out = node.outputs[0]
        rank = ranks.get(out, 0)
        axis = node.op.axis  # type: ignore[attr-defined]
        if rank < 3 or axis not in (1, 1 - rank):
            continue
        if any(i not in channels for i in node.inputs):
            continue
        if out not in slices and (view := side_by_side(node.inputs, slices, channels)):
            slices[out] = view
        root, channel = slices.get(out, Slice(out, 0))
        for name in node.inputs:
            if name not in slices and name not in fixed and node.inputs.count(name) == 1:
                slices[name] = Slice(root, channel)
            channel += channels[name]
    return slices


def side_by_side(
    names: Sequence[str], slices: dict[str, Slice], channels: dict[str, int]
) -> Slice | None:
    """Where a Concat of these values lies already, if they follow one another in one result."""
    first = slices.get(names[0])
    if first is None:
        return None
    at = first.channel
    for name in names:
        if slices.get(name) != Slice(first.root, at):
            return None
        at += channels[name]
    return first
