"""Reshapes: the same memory under another shape, whatever its layout, wherever that is possible."""

from __future__ import annotations

from typing import Any

from ...graph import Node
from ...graph.ops.shape import Flatten, Reshape, Squeeze, Unsqueeze
from ..lowering import Lowering, lowers
from ..memory import CHANNELS_LAST, FLAT, PLAIN


@lowers(Reshape, Flatten, Squeeze, Unsqueeze)
def reshape(low: Lowering, node: Node) -> Any:
    """An alias: channels-last where images and channels stay, FLAT where they end as one row."""
    xn, yn = node.inputs[0], node.outputs[0]
    shape, target = low.shape(xn), low.shape(yn)
    layout = low.layout_of(xn)
    if layout == CHANNELS_LAST and 0 not in shape:
        if len(target) >= 3 and target[:2] == shape[:2]:
            low.alias(yn, low.place(xn, CHANNELS_LAST, dense=False))
            return
        n, c = shape[0], shape[1]
        one = c == 1 or all(d == 1 for d in shape[2:])
        if len(target) == 2 and target[0] == n and not one:
            x = low.place(xn, CHANNELS_LAST)
            low.alias(yn, x, layout=FLAT, channels=c, pixel=0)
            return
    if layout == FLAT:
        x = low.place(xn, FLAT)
        if target == shape:
            low.alias(yn, x)
            return
        if len(target) >= 3 and target[:2] == (shape[0], x.channels):
            low.alias(yn, x, layout=CHANNELS_LAST, channels=0, pixel=x.channels)
            return
    low.alias(yn, low.place(xn, PLAIN))
