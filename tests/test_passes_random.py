"""Random small networks: optimised or not, and with any passes left out, the results are equal."""

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from passes_harness import Build, feeds_for, interpret

from fastconv.passes import PIPELINE, optimize

CHANNELS = 4
SHAPE = (2, CHANNELS, 4, 4)
NAMES = [name for name, _ in PIPELINE]
CONSTANTS = (0.0, 0.5, 1.0, 3.0, 6.0, 1 / 6, 2.0, -1.0)
SHAPES = ((), (1,), (CHANNELS, 1, 1), (1, CHANNELS, 1, 1), (4,), (1, 1, 4, 4))


def step(draw, b, pool):
    """Add one node or a short idiom that reads values of the pool; every value has one shape."""
    x, y = draw(st.sampled_from(pool)), draw(st.sampled_from(pool))
    kind = draw(st.sampled_from(STEPS))
    return kind(draw, b, x, y)


def conv(draw, b, x, y):
    group, bias = draw(st.sampled_from([1, 2, 4])), draw(st.booleans())
    w = b.const(b.rng.normal(size=(CHANNELS, CHANNELS // group, 3, 3)) / 6)
    extra = [b.random(CHANNELS)] if bias else []
    return b("Conv", x, w, *extra, group=group, pads=(1,) * 4)


def padded_conv(draw, b, x, y):
    mode = draw(st.sampled_from(["constant", "edge"]))
    x = b("Pad", x, b.const([0, 0, 1, 0, 0, 0, 0, 2], np.int64), b.const(0), mode=mode)
    w = b.const(b.rng.normal(size=(CHANNELS, CHANNELS, 3, 3)) / 6)
    return b("Conv", x, w, pads=(0, 0, 1, 0))


def transposed(draw, b, x, y):
    w = b.const(b.rng.normal(size=(CHANNELS, 2, 3, 3)) / 6)
    return b("ConvTranspose", x, w, group=2, pads=(1,) * 4)


def norm(draw, b, x, y):
    parts = [b.random(CHANNELS) for _ in range(3)]
    return b("BatchNormalization", x, *parts, b.const(b.rng.uniform(0.5, 2, CHANNELS)))


def with_constant(draw, b, x, y):
    value, shape = draw(st.sampled_from(CONSTANTS)), draw(st.sampled_from(SHAPES))
    op = draw(st.sampled_from(["Add", "Sub", "Mul", "Max", "Min"]))
    operands = [x, b.const(np.full(shape, value))]
    return b(op, *(operands if draw(st.booleans()) else operands[::-1]))


def binary(draw, b, x, y):
    return b(draw(st.sampled_from(["Add", "Sub", "Max"])), x, y)


def unary(draw, b, x, y):
    names = ["Relu", "Sigmoid", "Tanh", "HardSigmoid", "Abs", "LeakyRelu", "Identity", "Dropout"]
    return b(draw(st.sampled_from(names)), x)


def clip(draw, b, x, y):
    return b("Clip", x, b.const(0), b.const(draw(st.sampled_from([1, 6]))))


def gate(draw, b, x, y):
    return b("Mul", x, b(draw(st.sampled_from(["Sigmoid", "HardSigmoid", "Tanh"])), y))


def hard_swish(draw, b, x, y):
    y = b("Clip", b("Add", y, b.const(3)), b.const(0), b.const(6))
    return b("Div", b("Mul", x, y), b.const(draw(st.sampled_from([6, 5]))))


def shuffle(draw, b, x, y):
    perm = draw(st.sampled_from([(0, 2, 1, 3, 4), (0, 1, 2, 4, 3)]))
    y = b("Reshape", x, b.const([2, 2, 2, 4, 4], np.int64))
    return b("Reshape", b("Transpose", y, perm=perm), b.const(SHAPE, np.int64))


def turn(draw, b, x, y):
    return b("Transpose", x, perm=draw(st.sampled_from([(0, 1, 3, 2), (0, 1, 2, 3)])))


STEPS = (
    conv, padded_conv, transposed, norm, with_constant, binary, unary, clip, gate, hard_swish,
    shuffle, turn,
)  # fmt: skip


@st.composite
def graphs(draw):
    b = Build(draw(st.integers(0, 99)))
    pool = [b.input(*SHAPE)]
    for _ in range(draw(st.integers(1, 8))):
        # The latest values are read most, as chains are what fusions are about.
        pool.append(step(draw, b, pool[-2:] if draw(st.booleans()) else pool[-1:]))
    more = draw(st.lists(st.sampled_from(pool[1:]), max_size=2))
    return b.done(*dict.fromkeys([pool[-1], *more]))


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(graph=graphs(), disable=st.sets(st.sampled_from(NAMES), max_size=2))
def test_passes_keep_every_result(graph, disable):
    feeds = feeds_for(graph)
    wanted = interpret(graph, feeds)
    new = optimize(graph, disable)
    assert len(new.nodes) <= len(graph.nodes)
    for want, got in zip(wanted, interpret(new, feeds), strict=True):
        assert got.shape == want.shape
        assert got.dtype == want.dtype
        scale = max(1.0, float(np.abs(want).max()))
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-5 * scale)
