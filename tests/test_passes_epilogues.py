"""Activations and residual sums into the operators whose kernels apply them."""

import numpy as np
import pytest
from passes_harness import Build, check, interpret, kinds

from fastconv.graph import Node
from fastconv.graph.activation import Activation
from fastconv.passes import optimize


def conv(b, x, channels=4, filters=4, size=3, bias=True, **attrs):
    attrs.setdefault("pads", (size // 2,) * 4)
    group = attrs.get("group", 1)
    w = b.random(filters, channels // group, size, size)
    return b("Conv", x, w, *([b.random(filters)] if bias else []), **attrs)


ACTS = {
    "clip": lambda b, x: b("Relu", x),
    "clip 0 6": lambda b, x: b("Clip", x, b.const(0), b.const(6)),
    "clip to 6": lambda b, x: b("Clip", x, "", b.const(6)),
    "leaky_relu": lambda b, x: b("LeakyRelu", x, alpha=0.2),
    "sigmoid": lambda b, x: b("Sigmoid", x),
    "tanh": lambda b, x: b("Tanh", x),
    "hard_swish": lambda b, x: b("HardSwish", x),
    "hard_sigmoid": lambda b, x: b("HardSigmoid", x),
    "silu": lambda b, x: b("Mul", x, b("Sigmoid", x)),
}
PRODUCERS = {
    "Conv": conv,
    "ConvTranspose": lambda b, x: b("ConvTranspose", x, b.random(4, 2, 3, 3), b.random(2)),
    "Gemm": lambda b, x: b("Gemm", b("Flatten", x), b.random(100, 3), b.random(3)),
    "Add": lambda b, x: b("Add", x, b.random(4, 5, 5)),
    "Mul": lambda b, x: b("Mul", x, b.random(4, 1, 1)),
    "BatchNormalization": lambda b, x: b(
        "BatchNormalization", x, *(b.random(4) for _ in range(3)), b.const([1, 2, 3, 4])
    ),
}


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("producer", PRODUCERS)
def test_an_activation_joins_its_producer(producer, act):
    b = Build()
    y = ACTS[act](b, PRODUCERS[producer](b, b.input(2, 4, 5, 5)))
    new = check(b.done(y))
    assert kinds(new)[f"{producer}+{act.split()[0]}"] == 1
    assert type(new.nodes[-1].op).__name__ == producer
    assert new.nodes[-1].name.startswith(producer)
    assert len(new.nodes[-1].sources) >= 2


def test_bounds_of_clip_are_kept():
    b = Build()
    y = b("Clip", conv(b, b.input(1, 4, 5, 5)), b.const(-0.5), b.const(0.75))
    new = check(b.done(y))
    assert new.nodes[0].op.activation == Activation("clip", -0.5, 0.75)


def test_clip_with_a_bound_from_a_node_stays():
    b = Build()
    low = b.input(name="low")
    y = b("Clip", conv(b, b.input(1, 4, 5, 5)), low)
    check(b.done(y), ["Conv", "Clip"])


def test_only_one_activation_fits():
    b = Build()
    y = b("Tanh", b("Relu", conv(b, b.input(1, 4, 5, 5))))
    check(b.done(y), ["Conv+clip", "Tanh"])


def test_an_activation_stays_when_the_value_has_another_reader():
    b = Build()
    c = conv(b, b.input(1, 4, 5, 5))
    check(b.done(b("Relu", c), b("Tanh", c)), ["Conv", "Relu", "Tanh"])


def test_an_activation_stays_when_the_value_is_an_output():
    b = Build()
    c = conv(b, b.input(1, 4, 5, 5))
    check(b.done(b("Relu", c), c), ["Conv", "Relu"])


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_an_activation_stays_in_other_dtypes(dtype):
    b = Build()
    x = b.input(1, 2, 4, 4, dtype=dtype)
    y = b("Relu", b("Conv", x, b.random(2, 2, 3, 3, dtype=dtype)))
    check(b.done(y), ["Conv", "Relu"], rtol=1e-2)


def residual(b, left, right):
    return b("Relu", b("Add", left, right))


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("batch", [2, "N"])
def test_a_residual_sum_and_its_activation_join_the_conv(swap, bias, batch):
    b = Build()
    x = b.input(batch, 4, 5, 5)
    y = conv(b, b("Relu", conv(b, x)), bias=bias)
    z = residual(b, x, y) if swap else residual(b, y, x)
    new = check(b.done(z), ["Conv+clip", "Conv+clip"])
    assert new.nodes[1].inputs[3] == "x"
    assert (new.nodes[1].inputs[2] != "") == bias


def test_of_two_convs_the_later_takes_the_sum():
    b = Build()
    x = b.input(1, 4, 5, 5)
    first, second = conv(b, x), conv(b, x)
    new = check(b.done(residual(b, first, second)), ["Conv", "Conv+clip"])
    assert new.nodes[1].inputs[3] == first
    assert new.nodes[1].name == "Conv_1"


def test_the_earlier_conv_takes_the_sum_when_the_later_has_another_reader():
    b = Build()
    x = b.input(1, 4, 5, 5)
    first, second = conv(b, x), conv(b, x)
    new = check(b.done(residual(b, first, second), b("Tanh", second)))
    assert kinds(new) == {"Conv": 1, "Conv+clip": 1, "Tanh": 1}
    fused = next(n for n in new.nodes if len(n.inputs) == 4)
    assert fused.inputs[3] == second


def test_a_residual_computed_after_the_conv_is_in_order():
    b = Build()
    x = b.input(1, 4, 5, 5)
    y = conv(b, x)
    other = b("Sigmoid", b("Abs", x))
    check(b.done(b("Add", y, other)), ["Abs", "Sigmoid", "Conv"])


@pytest.mark.parametrize(
    "shape", [(1, 4, 1, 1), (4, 1, 1), (1, 4, 5, 1), (3, 4, 5, 5), (1, 1, 4, 5, 5), ("M", 4, 5, 5)]
)
def test_a_sum_that_broadcasts_stays(shape):
    b = Build()
    y = conv(b, b.input(1, 4, 5, 5))
    graph = b.done(b("Add", y, b.input(*shape, name="r")))
    check(graph, ["Conv", "Add"])


def test_a_sum_with_unknown_sizes_stays():
    b = Build()
    x = b.input("N", 4, "H", "H")
    other = b.input("N", 4, "H", "W", name="r")
    check(b.done(b("Add", conv(b, x), other)), ["Conv", "Add"])


def test_a_conv_added_to_itself_stays():
    b = Build()
    y = conv(b, b.input(1, 4, 5, 5))
    check(b.done(b("Add", y, y)), ["Conv", "Add"])


def test_the_sum_stays_when_the_conv_has_an_activation():
    b = Build()
    x = b.input(1, 4, 5, 5)
    y = b("Relu", conv(b, x))
    check(b.done(b("Relu", b("Add", y, x))), ["Conv+clip", "Add+clip"])


def test_a_second_residual_stays():
    b = Build()
    x = b.input(1, 4, 5, 5)
    y = b("Add", b("Add", conv(b, x), x), b("Abs", x))
    check(b.done(y), ["Abs", "Conv", "Add"])


def test_squeeze_and_excitation_of_a_residual_block():
    b = Build()
    x = b.input("N", 4, 6, 6)
    y = conv(b, x, group=4)
    y = b("Mul", y, b("HardSigmoid", conv(b, b("Abs", y), size=1)))
    z = b("Add", conv(b, y), x)
    new = check(b.done(z))
    assert kinds(new) == {"Conv": 2, "Abs": 1, "Conv+hard_sigmoid": 1, "Mul": 1}


def test_a_fused_graph_optimises_to_itself():
    b = Build()
    x = b.input(1, 4, 5, 5)
    once = optimize(b.done(residual(b, conv(b, x), x)))
    twice = optimize(once)
    assert twice.nodes == once.nodes
    assert twice.nodes is not once.nodes
    feeds = {"x": np.ones((1, 4, 5, 5), np.float32)}
    assert interpret(once, feeds)[0].tobytes() == interpret(twice, feeds)[0].tobytes()
    assert all(isinstance(n, Node) for n in twice.nodes)
