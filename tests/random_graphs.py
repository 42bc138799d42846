"""Random networks of the operators that convolutional networks use, with the right answers.

See ``grower`` for how one grows, ``random_layers`` and ``random_moves`` for what it grows by.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from grower import F32, OPSETS, Grower, Network, Refused, code
from onnx import TensorProto, helper, numpy_helper
from random_layers import (
    activation,
    batch_norm,
    binary,
    clip,
    conv,
    conv_1d,
    conv_transpose,
    dense,
    gate,
    gelu,
    global_pool,
    matmul,
    other_norm,
    pool,
    prelu,
    reduction,
    residual,
    softmax,
    squeeze_excite,
    with_constant,
)
from random_moves import (
    concat,
    constant_branch,
    expand,
    gather,
    pad,
    reshape,
    resize,
    shuffle,
    slice_,
    space,
    split,
    transpose,
)

STEPS: tuple[tuple[Callable[[Grower], None], int], ...] = (
    (conv, 12), (batch_norm, 5), (activation, 8), (binary, 7), (with_constant, 5), (residual, 4),
    (pool, 5), (concat, 5), (clip, 3), (gate, 3), (gelu, 1), (squeeze_excite, 3), (split, 3),
    (conv_transpose, 3), (global_pool, 2), (reduction, 2), (other_norm, 2), (prelu, 1),
    (shuffle, 3), (resize, 3), (pad, 3), (slice_, 3), (transpose, 3), (reshape, 3), (dense, 3),
    (matmul, 2), (softmax, 2), (space, 1), (gather, 2), (constant_branch, 1), (expand, 1),
    (conv_1d, 2),
)  # fmt: skip
WEIGHTED = [step for step, weight in STEPS for _ in range(weight)]


def network(draw: Any, most: int = 9) -> Network:
    """A random network.

    Args:
        draw: the methods of random.Random that ``Choices`` has.
        most: most steps.
    """
    g = Grower(draw, draw.choice(OPSETS))
    g.rng = np.random.default_rng(draw.randrange(1 << 15))
    channels = g.int(1, 8) if g.chance(70) else g.pick([12, 16, 17, 24, 32, 33])
    shape = (g.int(1, 2), channels, g.int(1, 9), g.int(1, 9))
    g.feeds["x"] = g.values["x"] = g.rng.standard_normal(shape).astype(F32)
    if g.chance(25):
        other = shape if g.chance(50) else (shape[0], g.int(1, 4), *shape[2:])
        g.feeds["z"] = g.values["z"] = g.rng.standard_normal(other).astype(F32)
    wanted, tries = g.int(1, most), 0
    while wanted and tries < 60:
        tries += 1
        state = len(g.nodes), len(g.made)
        kept = set(g.values)
        try:
            g.pick(WEIGHTED)(g)
            wanted -= 1
        except Refused:  # without what the step had added so far
            del g.nodes[state[0] :], g.made[state[1] :]
            for name in g.values.keys() - kept:
                del g.values[name]
                g.consts.pop(name, None)
    if not g.made:
        g("Relu", "x")
    outputs = [g.made[-1]]
    outputs += [g.pick(g.made) for _ in range(g.pick([0, 0, 1, 2, 3]))]
    return finish(g, list(dict.fromkeys(outputs)))


def finish(g: Grower, outputs: list[str]) -> Network:
    """The model; sizes of its inputs are open now and then."""
    sizes = {d: f"d{d}" for a in g.feeds.values() for d in a.shape if g.chance(20)}
    inputs = []
    for name, array in g.feeds.items():
        dims = [sizes.get(d, d) for d in array.shape]
        inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, dims))
    graph = helper.make_graph(
        g.nodes,
        "random",
        inputs,
        [helper.make_tensor_value_info(o, code(g.values[o]), g.values[o].shape) for o in outputs],
        [numpy_helper.from_array(a, n) for n, a in g.consts.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", g.opset)])
    model.ir_version = 10
    return Network(model, g.feeds, {o: g.values[o] for o in outputs}, g.values)


def shrink(found: Network, fails: Callable[[Network], bool]) -> Network:
    """The smallest part of a network that still fails: fewer outputs, and values fed from outside.

    Every value is known, so that any can be an input.
    """
    model = found.model
    names = [o for n in model.graph.node for o in n.output]
    best, feeds = found, dict(found.feeds)
    for name in names:  # the first value that is wrong by itself
        part = _part(found, [name], feeds)
        if fails(part):
            best = part
            break
    outputs = list(best.expected)
    for name in reversed([o for n in best.model.graph.node for o in n.output]):
        if name not in outputs and found.values[name].dtype == F32:
            part = _part(found, outputs, {**feeds, name: found.values[name]})
            if fails(part):
                best, feeds = part, {**feeds, name: found.values[name]}
    return best


def _part(found: Network, outputs: list[str], feeds: dict[str, np.ndarray]) -> Network:
    """What some outputs need when these values are fed."""
    wanted, nodes = set(outputs), []
    for node in reversed(found.model.graph.node):
        if wanted.intersection(node.output) and not set(node.output) <= feeds.keys():
            nodes.insert(0, node)
            wanted.update(node.input)
    made = {o for n in nodes for o in n.output}
    feeds = {n: a for n, a in feeds.items() if n in wanted and n not in made}
    consts = [t for t in found.model.graph.initializer if t.name in wanted]
    graph = helper.make_graph(
        nodes,
        "part",
        [helper.make_tensor_value_info(n, code(a), a.shape) for n, a in feeds.items()],
        [helper.make_tensor_value_info(o, code(found.values[o]), None) for o in outputs],
        consts,
    )
    model = helper.make_model(graph, opset_imports=found.model.opset_import)
    model.ir_version = 10
    values = {n: found.values[n] for n in {*wanted, *made} if n in found.values}
    return Network(model, feeds, {o: found.values[o] for o in outputs}, values)


__all__ = ["Network", "Refused", "network", "shrink"]
