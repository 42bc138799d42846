"""QDQ groups become quantised operators, and stay as they are where they must."""

import numpy as np
import pytest
from passes_harness import Build, interpret, kinds

from fastconv.graph.ops import quant as q
from fastconv.passes import optimize
from fastconv.runtime.engine import Engine

DTYPES = {"uint8": np.uint8, "int8": np.int8}


class QBuild(Build):
    """A graph whose activations are quantised in ``dtype``."""

    def __init__(self, dtype="uint8"):
        super().__init__()
        self.dtype = DTYPES[dtype]
        self.zero = 120 if dtype == "uint8" else -8

    def quantize(self, x, scale=0.05, zero=None):
        zero = self.zero if zero is None else zero
        return self("QuantizeLinear", x, self.const(scale), self.const(zero, self.dtype))

    def dequantize(self, x, scale=0.05, zero=None):
        zero = self.zero if zero is None else zero
        return self("DequantizeLinear", x, self.const(scale), self.const(zero, self.dtype))

    def qdq(self, x, scale=0.05, zero=None):
        return self.dequantize(self.quantize(x, scale, zero), scale, zero)

    def weights(self, *shape, axis=0, dtype=np.int8):
        info = np.iinfo(dtype)
        w = self.const(self.rng.integers(info.min, info.max + 1, shape), dtype)
        scale = self.const(self.rng.uniform(0.001, 0.003, shape[axis]))
        return self("DequantizeLinear", w, scale, axis=axis)

    def bias(self, n):
        b = self.const(self.rng.integers(-900, 900, n), np.int32)
        return self("DequantizeLinear", b, self.const(0.0001))

    def conv(self, x, filters=6, channels=4, size=3, bias=True):
        w = self.weights(filters, channels, size, size)
        return self("Conv", x, w, *([self.bias(filters)] if bias else []), pads=(size // 2,) * 4)


GROUPS = {
    "Conv": (lambda b, x: b.conv(x), "QLinearConv"),
    "Conv without bias": (lambda b, x: b.conv(x, bias=False), "QLinearConv"),
    "Conv, Relu": (lambda b, x: b("Relu", b.conv(x)), "QLinearConv"),
    "Conv, Clip": (lambda b, x: b("Clip", b.conv(x), b.const(-1), b.const(2)), "QLinearConv"),
    "Gemm": (
        lambda b, x: b("Gemm", b.qdq(b("Flatten", x)), b.weights(100, 7, axis=1), b.bias(7)),
        "QGemm",
    ),
    "MatMul": (lambda b, x: b("MatMul", x, b.weights(5, 7, axis=1)), "QLinearMatMul"),
    "Add": (lambda b, x: b("Add", x, b.qdq(b("Neg", x), 0.04)), "QLinearAdd"),
    "Mul by a channel": (
        lambda b, x: b("Mul", x, b.qdq(b("GlobalMaxPool", x), 0.04)),
        "QLinearMul",
    ),
    "AveragePool": (lambda b, x: b("AveragePool", x, kernel_shape=(2, 2)), "QLinearAveragePool"),
    "GlobalAveragePool": (lambda b, x: b("GlobalAveragePool", x), "QLinearGlobalAveragePool"),
    "MaxPool": (lambda b, x: b("MaxPool", x, kernel_shape=(2, 2)), "MaxPool"),
    "Transpose": (lambda b, x: b("Transpose", x, perm=(0, 2, 3, 1)), "Transpose"),
    "Relu": (lambda b, x: b("Relu", x), "QLinearActivation"),
    "Sigmoid": (lambda b, x: b("Sigmoid", x), "QLinearActivation"),
    "HardSwish": (lambda b, x: b("HardSwish", x), "QLinearActivation"),
    "Concat": (
        lambda b, x: b("Concat", x, b.qdq(b("Abs", x), 0.07), axis=1),
        "QLinearConcat",
    ),
}


def feeds(graph):
    x = np.random.default_rng(3).normal(size=(2, 4, 5, 5)).astype(np.float32) * 2
    return {graph.inputs[0]: x}


def steps_off(graph, new, scale):
    """How far, in quantisation steps, the optimised graph is from the one in floats."""
    want, got = interpret(graph, feeds(graph))[0], interpret(new, feeds(graph))[0]
    run = Engine(new, 1).run(feeds(graph))[new.outputs[0]]
    np.testing.assert_allclose(run, got, atol=1.01 * scale)
    assert np.ptp(want) > 5 * scale, "the test's values say nothing"
    return np.abs(want - got).max() / scale


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", GROUPS)
def test_a_group_becomes_one_operator(name, dtype):
    make, kind = GROUPS[name]
    b = QBuild(dtype)
    x = b.qdq(b.input(2, 4, 5, 5))
    graph = b.done(b.qdq(make(b, x)))
    new = optimize(graph)
    assert kinds(new)[kind] >= 1
    assert steps_off(graph, new, 0.05) <= 1.01
    # In the plan, values inside are bytes without sign: one table step at most would betray others.
    plan = Engine(new, 1).prepare(feeds(new)).plan
    assert not [s.kernel for s in plan.steps if s.function is not None]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_residual_block_is_one_chain_of_convolutions(dtype):
    b = QBuild(dtype)
    x = b.qdq(b.input(2, 4, 5, 5))
    y = b.qdq(b("Relu", b.conv(x, 4)))
    y = b.qdq(b.conv(y, 4))
    graph = b.done(b.qdq(b("Relu", b("Add", y, x))))
    new = optimize(graph)
    assert kinds(new) == {"QuantizeLinear": 1, "QLinearConv": 2, "DequantizeLinear": 1}
    assert all(new.types[n.outputs[0]].dtype == np.uint8 for n in new.nodes[:-1])
    assert steps_off(graph, new, 0.05) <= 2.01
    plan = Engine(new, 1).prepare(feeds(new)).plan
    assert [s.kernel for s in plan.steps].count("qconv") == 2
    assert "qtable" not in [s.kernel for s in plan.steps]


def test_weights_that_the_file_quantises_itself():
    b = QBuild()
    x = b.qdq(b.input(2, 4, 5, 5))
    w = b.random(6, 4, 1, 1)
    scale, zero = b.const(0.02), b.const(0, np.int8)
    w = b("DequantizeLinear", b("QuantizeLinear", w, scale, zero), scale, zero)
    new = optimize(b.done(b.qdq(b("Conv", x, w))))
    assert kinds(new)["QLinearConv"] == 1


def test_a_float_bias_is_rounded_to_the_sums_scale():
    b = QBuild()
    x = b.qdq(b.input(2, 4, 5, 5))
    graph = b.done(b.qdq(b("Conv", x, b.weights(6, 4, 1, 1), b.random(6))))
    new = optimize(graph)
    assert kinds(new)["QLinearConv"] == 1
    assert steps_off(graph, new, 0.05) <= 1.01


def two_readers(b, x):
    y = b.conv(x)
    return [b.qdq(y), b("Exp", y)]


def a_result_inside(b, x):
    y = b.conv(x)
    return [b.qdq(y), y]


def a_relu_that_others_read(b, x):
    y = b("Relu", b.conv(x))
    return [b.qdq(y), b("Neg", y)]


def a_float_input(b, x):
    return [b.qdq(b.conv(b("Neg", x)))]


def no_quantised_result(b, x):
    return [b.conv(x)]


def float_weights(b, x):
    return [b.qdq(b("Conv", x, b.random(6, 4, 1, 1)))]


def computed_weights(b, x):
    return [b.qdq(b("Conv", x, b.qdq(b("GlobalMaxPool", x))))]


def scales_along_another_axis(b, x):
    return [b.qdq(b("Conv", x, b.weights(6, 4, 1, 1, axis=1)))]


def a_scale_per_channel_of_the_activation(b, x):
    y = b("Neg", x)
    scale, zero = b.const([0.1, 0.2, 0.3, 0.4]), b.const([1, 2, 3, 4], b.dtype)
    y = b("DequantizeLinear", b("QuantizeLinear", y, scale, zero), scale, zero)
    return [b.qdq(b.conv(y))]


def sums_that_broadcast(b, x):
    return [b.qdq(b("Add", x, b.qdq(b("ReduceMax", x, b.const([0, 2], np.int64)))))]


def sums_of_two_types(b, x):
    y = b("QuantizeLinear", b("Neg", x), b.const(0.1), b.const(0, np.int8))
    y = b("DequantizeLinear", y, b.const(0.1), b.const(0, np.int8))
    return [b.qdq(b("Add", x, y))]


def a_pool_that_changes_scale(b, x):
    return [b.qdq(b("MaxPool", x, kernel_shape=(2, 2)), 0.07)]


def a_pool_whose_indices_are_read(b, x):
    y = b("MaxPool", x, kernel_shape=(2, 2), outputs=2)
    return [b.qdq(y), y + "_1"]


def a_scale_that_is_computed(b, x):
    scale = b("ReduceMax", b("Abs", x), keepdims=0)
    zero = b.const(0, b.dtype)
    y = b("DequantizeLinear", b("QuantizeLinear", b.conv(x), scale, zero), scale, zero)
    return [y]


KEPT = {
    two_readers: "Conv",
    a_result_inside: "Conv",
    a_relu_that_others_read: "Conv+clip",
    a_float_input: "Conv",
    no_quantised_result: "Conv",
    float_weights: "Conv",
    computed_weights: "Conv",
    scales_along_another_axis: "Conv",
    a_scale_per_channel_of_the_activation: "Conv",
    sums_that_broadcast: "Add",
    sums_of_two_types: "Add",
    a_pool_that_changes_scale: "MaxPool",
    a_pool_whose_indices_are_read: "MaxPool",
    a_scale_that_is_computed: "Conv",
}


@pytest.mark.parametrize("make", KEPT, ids=lambda f: f.__name__)
def test_what_is_no_group_stays_in_floats(make):
    b = QBuild()
    x = b.qdq(b.input(2, 4, 5, 5))
    graph = b.done(*make(b, x))
    new = optimize(graph)
    assert kinds(new)[KEPT[make]] == 1
    assert not kinds(new).keys() & {"QLinearConv", "QLinearAdd", "QLinearMul", "QLinearConcat"}
    for want, got in zip(interpret(graph, feeds(graph)), interpret(new, feeds(graph)), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=0.051)


def test_a_residual_that_others_read_is_not_fused():
    b = QBuild()
    x = b.qdq(b.input(2, 4, 5, 5))
    y = b.qdq(b.conv(x, 4))
    graph = b.done(b.qdq(b("Add", y, x)), b("Exp", y))
    new = optimize(graph)
    assert kinds(new)["QLinearAdd"] == 1
    assert steps_off(graph, new, 0.05) <= 2.01


def test_a_sum_that_reads_with_another_scale_is_not_fused():
    b = QBuild()
    x = b.qdq(b.input(2, 4, 5, 5))
    y = b.dequantize(b.quantize(b.conv(x, 4)), 0.06)
    new = optimize(b.done(b.qdq(b("Add", y, x))))
    assert kinds(new)["QLinearAdd"] == 1


def test_signed_results_of_the_graph_keep_their_type():
    b = QBuild("int8")
    x = b.qdq(b.input(2, 4, 5, 5))
    inside = b.quantize(b.conv(x))
    graph = b.done(b.quantize(b.conv(b.dequantize(inside), 5, 6)), inside)
    new = optimize(graph)
    assert kinds(new) == {"QuantizeLinear": 1, "QLinearConv": 2}
    got = Engine(new, 2).run(feeds(graph))
    for name, want in zip(graph.outputs, interpret(graph, feeds(graph)), strict=True):
        assert got[name].dtype == want.dtype == np.int8
        assert np.abs(got[name].astype(int) - want).max() <= 1


def test_signed_inputs_of_the_graph_keep_their_type():
    b = QBuild("int8")
    x = b.dequantize(b.input(2, 4, 5, 5, dtype=np.int8))
    graph = b.done(b.qdq(b("Relu", b.conv(x))))
    new = optimize(graph)
    x8 = np.random.default_rng(0).integers(-128, 128, (2, 4, 5, 5)).astype(np.int8)
    want = interpret(graph, {"x": x8})[0]
    got = Engine(new, 1).run({"x": x8})[new.outputs[0]]
    np.testing.assert_allclose(got, want, atol=0.0501)


def test_the_pass_can_be_left_out():
    b = QBuild()
    graph = b.done(b.qdq(b.conv(b.qdq(b.input(2, 4, 5, 5)))))
    new = optimize(graph, {"quantised"})
    assert kinds(new)["Conv"] == 1
    assert not any(isinstance(n.op, q.QLinearConv) for n in new.nodes)
