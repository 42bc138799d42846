"""LSTM, GRU and RNN: one matrix product of all inputs, then a kernel that goes step by step."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...graph import Node
from ...graph.ops.recurrent import GRU, LSTM, RNN, Recurrent
from ...sizes import checked_size
from ..lowering import F32, Lowering, lowers
from ..memory import PLAIN, Place
from .conv import pack_bias, pack_filters
from .matmul import product

#: As in kernels/recurrent.pyx.
KINDS = {"lstm": 0, "gru": 1, "gru, two products": 2, "tanh": 4, "relu": 5}


def kind_of(op: Recurrent) -> int | None:
    """The kernel's number for an operator; None for forms that it does not know."""
    names = tuple(n.lower() for n in op.activations or op.defaults * op.directions)
    if op.clip or op.layout:
        return None
    if isinstance(op, RNN):
        return KINDS.get(names[0]) if len(set(names)) == 1 else None
    if names != op.defaults * op.directions:
        return None
    if isinstance(op, GRU):
        return KINDS["gru" if op.linear_before_reset else "gru, two products"]
    return None if getattr(op, "input_forget", 0) else KINDS["lstm"]


def pack_state(r: np.ndarray, gates: int, width: int) -> np.ndarray:
    """R (directions, gates · H, H) as [direction][panel][state unit][gate][width]."""
    d, _, h = r.shape
    panels = -(-h // width)
    padded = np.zeros((d, gates, panels * width, h), np.float32)
    padded[:, :, :h] = r.reshape(d, gates, h, h)
    parts = padded.reshape(d, gates, panels, width, h).transpose(0, 2, 4, 1, 3)
    return np.ascontiguousarray(parts).reshape(d, -1)


@lowers(LSTM, GRU, RNN)
def recurrent(low: Lowering, node: Node) -> Any:
    op = node.op
    if type(op) not in (LSTM, GRU, RNN):
        return False  # one that inherits this has other inputs
    assert isinstance(op, Recurrent)
    names = [*node.inputs, *[""] * (8 - len(node.inputs))]
    xn, wn, rn, bn, lens, hn, cn, peepholes = names
    w, r, b = low.const(wn), low.const(rn), low.const(bn) if bn else None
    kind = kind_of(op)
    if kind is None or lens or peepholes or w is None or r is None or (bn and b is None):
        return False
    if not low.all_float32(xn, wn, rn, bn, hn, cn):
        return False
    time, batch, width = low.shape(xn)
    directions, rows, hidden = r.shape
    if 0 in (time, batch, width, hidden):
        return False
    gates, vw = op.gates, low.vector("VW")
    n = directions * rows
    # What the inputs give to all gates of both directions, biases added.
    whole = b if b is not None else np.zeros((directions, 2 * rows), np.float32)
    added = whole[:, :rows] + whole[:, rows:]
    second = None
    if kind == KINDS["gru"]:  # its hidden gate's second bias is scaled by the reset gate
        added[:, 2 * hidden :] = whole[:, 2 * hidden : rows]
        second = low.packed(
            ("recurrent bias", bn, directions, hidden),
            lambda: np.ascontiguousarray(whole[:, rows + 2 * hidden :]),
        )
    bias = low.packed(
        ("recurrent input bias", bn, kind, n), lambda: pack_bias(added.reshape(-1), 1, low.isa)
    )
    filters = low.packed(
        ("recurrent inputs", wn), lambda: pack_filters(w.reshape(n, 1, width), 1, low.isa)
    )
    x = low.place(xn, PLAIN)
    count = checked_size((time, batch, n), 4, "projected inputs")
    projected = Place(low.buffer(count), 0, (time * batch, n), F32)
    product(low, x, filters, bias, projected, time * batch, width, n, 1, None)

    def states() -> np.ndarray:
        if kind != KINDS["gru, two products"]:
            return pack_state(r, gates, vw)
        first, hid = r[:, : 2 * hidden], r[:, 2 * hidden :]
        return np.concatenate([pack_state(first, 2, vw), pack_state(hid, 1, vw)], axis=1)

    weights = low.packed(("recurrent states", rn, kind, vw), states)
    outputs = [*node.outputs, *[""] * (3 - len(node.outputs))]
    state = (directions, batch, hidden)
    places: list[Place | None] = []
    for name, shape in zip(outputs, ((time, *state), state, state), strict=True):
        if name:
            places.append(low.new(name, PLAIN))
        elif len(places) < op.n_outputs:
            size = checked_size(shape, 4, "states")
            places.append(Place(low.buffer(size), 0, shape, F32))
        else:
            places.append(None)
    scratch = low.scratch(2 * checked_size(state, 4, "gates"), 1)
    low.step(
        "recurrent",
        dict(
            time=time, batch=batch, directions=directions, hidden=hidden, kind=kind,
            reverse=int(op.direction == "reverse"),
        ),
        [
            projected, weights, second, low.place(hn, PLAIN) if hn else None,
            low.place(cn, PLAIN) if cn else None, scratch, *places,
        ],
        work=2 * time * batch * n * hidden, units=directions * -(-batch // 4),
    )  # fmt: skip
    return None
