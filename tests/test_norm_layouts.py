"""Normalisations and reductions on values with gaps between pixels, and on flattened ones."""

import numpy as np
import pytest
from harness import ISAS

from fastconv.graph import Graph, Node, Op, TensorType
from fastconv.graph.op import fields_only
from fastconv.graph.ops import norm, reduce
from fastconv.plan.lowering import F32, lowers
from fastconv.plan.memory import CHANNELS_LAST, FLAT, Place
from fastconv.runtime.engine import Engine

GAP = 3


@fields_only
class WithGaps(Op):
    """Identity whose result lies channels-last with foreign floats after every pixel."""

    def infer(self, types, values):
        return [types[0]]

    def compute(self, xs):
        return [xs[0]]


@lowers(WithGaps)
def with_gaps(low, node):
    x = low.place(node.inputs[0], CHANNELS_LAST)
    channels = x.shape[1]
    pixels, pixel = x.size // channels, channels + GAP
    buffer = low.buffer(pixels * pixel * 4)
    row = {"rows": pixels, "bytes": 4 * channels, "x_row": 4 * channels, "y_row": 4 * pixel}
    y = Place(buffer, 0, x.shape, F32, CHANNELS_LAST, pixel)
    low.step("copy_rows", row, [x, y])
    low.places[node.outputs[0], CHANNELS_LAST] = y


@fields_only
class Flattened(Op):
    """(N, C, ...) to (N, C * ...), left in memory as it is."""

    def infer(self, types, values):
        n, *rest = types[0].shape
        return [TensorType(types[0].dtype, (n, int(np.prod(rest))))]

    def compute(self, xs):
        return [xs[0].reshape(len(xs[0]), -1)]


@lowers(Flattened)
def flattened(low, node):
    x = low.place(node.inputs[0], CHANNELS_LAST)
    low.alias(node.outputs[0], x, layout=FLAT, pixel=0, channels=x.shape[1])


def run_after(first, op, arrays, isa, threads):
    """``op`` after ``first`` on the first array; the other arrays are constants."""
    names = [f"in{i}" for i in range(1, len(arrays))]
    nodes = [Node(first, ["x"], ["mid"], "first"), Node(op, ["mid", *names], ["y"], "node")]
    graph = Graph(
        "test", nodes, ["x"], ["y"], dict(zip(names, arrays[1:], strict=True)),
        {"x": TensorType(arrays[0].dtype, arrays[0].shape)},
    )  # fmt: skip
    return Engine(graph, threads, isa=isa).run({"x": arrays[0]})["y"]


CHANNEL = [np.linspace(0.5, 2, 5).astype(np.float32)] * 4
AXES = [np.array(a, np.int64) for a in ([2, 3], [1], [2], [3], [1, 2, 3], [0, 2, 3], [0])]
CASES = [
    *[(norm.Softmax(axis=a), []) for a in range(4)],
    *[(norm.FlatSoftmax(axis=a), []) for a in range(4)],
    (norm.LogSoftmax(axis=1), []),
    (norm.LpNormalization(axis=1), []),
    (norm.BatchNormalization(), CHANNEL),
    (norm.InstanceNormalization(), CHANNEL[:2]),
    (norm.GroupNormalization(num_groups=5), CHANNEL[:2]),
    (norm.MeanVarianceNormalization(), []),
    (norm.LayerNormalization(axis=1), [np.ones((5, 1, 1), np.float32)]),
    (norm.LRN(size=3), []),
    *[(reduce.ReduceMean(keepdims=k), [a]) for a in AXES for k in (0, 1)],
    *[(reduce.ReduceMax(noop_with_empty_axes=1, keepdims=k), []) for k in (0, 1)],
    *[(reduce.ArgMax(axis=a, keepdims=k), []) for a in range(4) for k in (0, 1)],
]


@pytest.mark.parametrize(("op", "extra"), CASES, ids=lambda v: str(v)[:60])
@pytest.mark.parametrize("shape", [(2, 5, 4, 6), (1, 5, 7, 1), (2, 5, 1, 1)])
def test_gaps_between_pixels_are_stepped_over(op, extra, shape):
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    (expected,) = op.compute([x, *extra])[:1]
    for isa in ISAS:
        for threads in (1, 2):
            got = run_after(WithGaps(), op, [x, *extra], isa, threads)
            assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
            np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5)


def test_one_channel_with_gaps():
    x = np.random.default_rng(2).standard_normal((2, 1, 4, 6)).astype(np.float32)
    one = np.ones(1, np.float32)
    for op, extra in [
        (norm.Softmax(axis=1), []),
        (norm.Softmax(axis=3), []),
        (norm.InstanceNormalization(), [one, one]),
        (reduce.ReduceMean(), [AXES[0]]),
        (reduce.ReduceMean(), [AXES[3]]),
        (reduce.ArgMax(axis=2), []),
    ]:
        expected = op.compute([x, *extra])[0]
        got = run_after(WithGaps(), op, [x, *extra], None, 1)
        np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5, err_msg=str(op))


@pytest.mark.parametrize(
    "op",
    [
        *[cls(axis=a) for cls in (norm.Softmax, norm.LogSoftmax, norm.FlatSoftmax) for a in (0, 1)],
        norm.LpNormalization(axis=1),
        *[reduce.ReduceSum(keepdims=k) for k in (0, 1)],
        *[reduce.ArgMax(axis=a, keepdims=k) for a in (0, 1) for k in (0, 1)],
    ],
    ids=str,
)
def test_flattened_values(op):
    x = np.random.default_rng(3).standard_normal((3, 5, 4, 2)).astype(np.float32)
    expected = op.compute([x.reshape(3, -1)])[0]
    got = run_after(Flattened(), op, [x], None, 1)
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("axes", [[0], [1], [0, 1]])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_reductions_of_flattened_values(axes, keepdims):
    x = np.random.default_rng(4).standard_normal((3, 5, 4, 2)).astype(np.float32)
    extra = np.array(axes, np.int64)
    op = reduce.ReduceMax(keepdims=keepdims)
    expected = op.compute([x.reshape(3, -1), extra])[0]
    np.testing.assert_array_equal(run_after(Flattened(), op, [x, extra], None, 1), expected)


def test_scales_of_a_flattened_batch_normalization():
    x = np.random.default_rng(5).standard_normal((3, 5, 4, 2)).astype(np.float32)
    extra = [np.random.default_rng(6 + i).random(40).astype(np.float32) for i in range(4)]
    op = norm.BatchNormalization()
    expected = op.compute([x.reshape(3, -1), *extra])[0]
    got = run_after(Flattened(), op, [x, *extra], None, 1)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
