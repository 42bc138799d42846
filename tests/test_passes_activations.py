"""Activations written out as several nodes: each form fires, and near misses do not."""

import math

import numpy as np
import pytest
from passes_harness import Build, check, kinds

from fastconv.graph.activation import Activation
from fastconv.passes import optimize


def shifted(b, x, last=6.0, shift=3.0):
    return b("Clip", b("Add", x, b.const(shift)), b.const(0), b.const(last))


ROOT_2 = math.sqrt(2)


def gelu_sum(b, x, root=ROOT_2):
    return b("Add", b.const(1), b("Erf", b("Div", x, b.const(root))))


def tanh_sum(b, x, cube):
    inner = b("Add", x, b("Mul", cube, b.const(0.044715)))
    return b("Add", b("Tanh", b("Mul", b.const(math.sqrt(2 / math.pi)), inner)), b.const(1))


def cubed(b, x):
    return b("Mul", x, b("Mul", x, x))


FORMS = {
    "silu": (
        lambda b, x: b("Mul", x, b("Sigmoid", x)),
        lambda b, x: b("Mul", b("Sigmoid", x), x),
        lambda b, x: b("Mul", b("Sigmoid", b("Mul", x, b.const(1.702))), x),
        lambda b, x: b("Mul", x, b("Sigmoid", b("Mul", b.const([1.5]), x))),
    ),
    "hard_swish": (
        lambda b, x: b("Mul", x, b("HardSigmoid", x, alpha=1 / 6, beta=0.5)),
        lambda b, x: b("Div", b("Mul", x, shifted(b, x)), b.const(6)),
        lambda b, x: b("Mul", b("Mul", shifted(b, x), x), b.const(1 / 6)),
        lambda b, x: b("Mul", x, b("Div", shifted(b, x), b.const(6))),
        lambda b, x: b("Mul", b("Mul", shifted(b, x), b.const(1 / 6)), x),
        lambda b, x: b("Mul", b("Div", x, b.const(6)), shifted(b, x)),
    ),
    "hard_sigmoid": (
        lambda b, x: b("Div", shifted(b, x), b.const(6)),
        lambda b, x: b("Mul", b.const([1 / 6]), shifted(b, x)),
    ),
    "gelu": (
        lambda b, x: b("Mul", b("Mul", x, gelu_sum(b, x)), b.const(0.5)),
        lambda b, x: b("Mul", b("Mul", b.const(0.5), x), gelu_sum(b, x)),
        lambda b, x: b("Mul", x, b("Mul", gelu_sum(b, x), b.const(0.5))),
        lambda b, x: b("Div", b("Mul", gelu_sum(b, x), x), b.const(2)),
        lambda b, x: b(
            "Mul",
            b("Mul", x, b.const(0.5)),
            b("Add", b("Erf", b("Mul", x, b.const(0.70710677))), b.const(1)),
        ),
    ),
    "gelu_tanh": (
        lambda b, x: b("Mul", b("Mul", b.const(0.5), x), tanh_sum(b, x, cubed(b, x))),
        lambda b, x: b("Mul", b("Mul", x, tanh_sum(b, x, cubed(b, x))), b.const(0.5)),
        lambda b, x: b("Mul", b("Mul", x, b.const(0.5)), tanh_sum(b, x, b("Pow", x, b.const(3)))),
        lambda b, x: b(
            "Mul",
            b("Mul", x, b.const(0.5)),
            b(
                "Add",
                b.const(1),
                b(
                    "Tanh",
                    b(
                        "Mul",
                        b("Mul", x, b.const(0.7978845608)),
                        b("Add", b.const(1), b("Mul", b("Mul", x, x), b.const(0.044715))),
                    ),
                ),
            ),
        ),
    ),
    "mish": (
        lambda b, x: b("Mul", x, b("Tanh", b("Softplus", x))),
        lambda b, x: b("Mul", b("Tanh", b("Log", b("Add", b("Exp", x), b.const(1)))), x),
    ),
    "leaky_relu": (lambda b, x: b("Max", b("Mul", x, b.const(0.1)), x),),
    "clip": (lambda b, x: b("Min", b("Max", x, b.const(-1)), b.const(2)),),
}


@pytest.mark.parametrize(
    ("kind", "form"), [(kind, form) for kind, forms in FORMS.items() for form in forms]
)
@pytest.mark.parametrize("shape", [(2, 3, 4, 4), ("N", 7)])
def test_a_written_out_activation_becomes_one_node(kind, form, shape):
    b = Build()
    y = form(b, b.input(*shape))
    new = check(b.done(y), [f"FusedActivation+{kind}"])
    assert new.nodes[0].inputs == ["x"]
    assert len(new.nodes[0].sources) == len(b.graph.nodes)


@pytest.mark.parametrize(
    ("kind", "form"), [(kind, form) for kind, forms in FORMS.items() for form in forms]
)
def test_it_stays_as_written_in_float64(kind, form):
    b = Build()
    x = b.input(2, 3, dtype=np.float64)
    wide = b.const

    def const(value, dtype=np.float64):
        return wide(value, dtype)

    b.const = const
    graph = b.done(form(b, x))
    check(graph, list(kinds(graph).elements()))


#: Forms whose last node but one is inside and is no part that is an activation by itself.
CLOSED = [(k, f) for k, forms in FORMS.items() if not k.startswith("hard") for f in forms]


@pytest.mark.parametrize(("kind", "form"), CLOSED)
def test_it_stays_when_something_else_reads_the_inside(kind, form):
    b = Build()
    y = form(b, b.input(2, 3))
    inner = b.graph.nodes[-2].outputs[0]
    new = check(b.done(y, b("Abs", inner)))
    assert f"FusedActivation+{kind}" not in kinds(new)


@pytest.mark.parametrize(("kind", "form"), CLOSED)
def test_it_stays_when_the_inside_is_a_graph_output(kind, form):
    b = Build()
    y = form(b, b.input(2, 3))
    graph = b.done(y, b.graph.nodes[-2].outputs[0])
    new = optimize(graph)
    assert new.nodes[-1].outputs == [y]
    assert "FusedActivation" not in type(new.nodes[-1].op).__name__
    check(graph)


MISSES = {
    "another variable": lambda b, x: b("Mul", x, b("Sigmoid", b("Abs", x))),
    "shift of 2": lambda b, x: b("Div", b("Mul", x, shifted(b, x, shift=2.0)), b.const(6)),
    "bound of 5": lambda b, x: b("Div", b("Mul", x, shifted(b, x, last=5.0)), b.const(6)),
    "divisor of 5": lambda b, x: b("Div", b("Mul", x, shifted(b, x)), b.const(5)),
    "6 / x": lambda b, x: b("Div", b.const(6), b("Mul", x, shifted(b, x))),
    "default alpha": lambda b, x: b("Mul", x, b("HardSigmoid", x)),
    "1.4 for √2": lambda b, x: b("Mul", b("Mul", x, gelu_sum(b, x, 1.4)), b.const(0.5)),
    "0.4 for ½": lambda b, x: b("Mul", b("Mul", x, gelu_sum(b, x)), b.const(0.4)),
    "x² for x³": lambda b, x: b("Mul", b("Mul", b.const(0.5), x), tanh_sum(b, x, b("Mul", x, x))),
    "slope of 2": lambda b, x: b("Max", b("Mul", x, b.const(2)), x),
    "slope of 0": lambda b, x: b("Max", b("Mul", x, b.const(0)), x),
    "slope per channel": lambda b, x: b("Max", b("Mul", x, b.const([0.1, 0.2, 0.3])), x),
    "a constant that broadcasts": lambda b, x: b(
        "Mul", x, b("Sigmoid", b("Mul", x, b.const([[[1.5]]])))
    ),
    "a 0.5 of higher rank": lambda b, x: b("Mul", b("Mul", x, gelu_sum(b, x)), b.const([[[0.5]]])),
}


@pytest.mark.parametrize("form", MISSES.values(), ids=MISSES)
def test_a_near_miss_stays(form):
    b = Build()
    graph = b.done(form(b, b.input(2, 3)))
    new = optimize(graph, disable={"epilogues"})
    assert not any(k.startswith("FusedActivation") and "hard_sigmoid" not in k for k in kinds(new))
    check(graph)


def test_parameters_come_from_the_constants():
    b = Build()
    x = b.input(2, 3)
    y = b("Mul", x, b("Sigmoid", b("Mul", x, b.const(1.75))))
    z = b("Max", y, b("Mul", y, b.const(0.25)))
    new = check(b.done(z))
    acts = [n.op.activation for n in new.nodes]
    assert acts == [Activation("silu", 1.75), Activation("leaky_relu", 0.25)]


def test_special_values_come_out_alike():
    b = Build()
    x = b.input(5)
    graph = b.done(
        b("Div", b("Mul", x, shifted(b, x)), b.const(6)),
        b("Min", b("Max", x, b.const(-1)), b.const(2)),
        b("Max", x, b("Mul", x, b.const(0.1))),
    )
    check(graph, feeds={"x": np.array([np.nan, np.inf, -np.inf, 0, -0.0], np.float32)})
