"""Numbers that are multiplied and added ahead of convolutions, and sums of x and x times s."""

import numpy as np
import pytest
from passes_harness import Build, check, kinds


def affine(b, x, *, mul=(1,), add=(1,)):
    """x · c + d with constants of these shapes."""
    if mul is not None:
        x = b("Mul", b.const(b.rng.uniform(0.5, 2, mul)), x)
    return x if add is None else b("Add", x, b.random(*add))


@pytest.mark.parametrize("shape", [(1,), (6, 1, 1), (1, 6, 1, 1)])
@pytest.mark.parametrize("group", [1, 2, 6])
@pytest.mark.parametrize("bias", [True, False])
def test_a_factor_and_a_shift_go_into_a_convolution_without_padding(shape, group, bias):
    b = Build()
    x = affine(b, b("Relu", b.input("N", 6, 5, 5)), mul=shape, add=shape)
    y = b("Conv", x, b.random(12, 6 // group, 3, 3), *([b.random(12)] if bias else []), group=group)
    new = check(b.done(y), ["Relu", "Conv"], rtol=1e-4, atol=1e-4)
    assert len(new.nodes[1].inputs) == 3


@pytest.mark.parametrize(("mul", "add"), [((6, 1, 1), None), (None, (6, 1, 1))])
def test_one_of_them_alone(mul, add):
    b = Build()
    x = affine(b, b("Relu", b.input(2, 6, 5, 5)), mul=mul, add=add)
    check(b.done(b("Conv", x, b.random(4, 6, 1, 1))), ["Relu", "Conv"], rtol=1e-4, atol=1e-4)


def test_with_padding_the_sum_stays_and_the_factor_goes():
    b = Build()
    x = affine(b, b("Relu", b.input("N", 6, 5, 5)), mul=(6, 1, 1))
    y = b("Conv", x, b.random(6, 1, 3, 3), b.random(6), group=6, pads=(1, 1, 1, 1))
    check(b.done(y), ["Relu", "Add", "Conv"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER"])
def test_with_automatic_padding_the_sum_stays(auto_pad):
    b = Build()
    x = affine(b, b("Relu", b.input(2, 6, 5, 5)), mul=None)
    y = b("Conv", x, b.random(4, 6, 3, 3), auto_pad=auto_pad)
    check(b.done(y), ["Relu", "Add", "Conv"])


def test_what_two_convolutions_read_is_one_pass():
    b = Build()
    x = affine(b, b("Relu", b.input(2, 6, 5, 5)), add=(6, 1, 1))
    y = b("Conv", x, b.random(4, 6, 3, 3), pads=(1, 1, 1, 1))
    new = check(b.done(y, b("Conv", x, b.random(4, 6, 1, 1))))
    assert kinds(new)["BatchNormalization"] == 1
    assert kinds(new)["Mul"] + kinds(new)["Add"] == 0


@pytest.mark.parametrize("value", [0.0, np.inf, np.nan])
@pytest.mark.parametrize("where", ["c", "d"])
def test_factors_of_zero_and_what_is_not_finite_stay(value, where):
    b = Build()
    x = b("Relu", b.input(2, 6, 5, 5))
    x = b("Mul", x, b.const([value if where == "c" else 2.0]))
    x = b("Add", x, b.const([value if where == "d" and value else 1.5]))
    y = b("Conv", x, b.random(4, 6, 1, 1))
    new = check(b.done(y))
    if where == "c" or value != 0:
        assert kinds(new)["Mul"] == 1


@pytest.mark.parametrize("shape", [(5,), (5, 1), (2, 1, 1, 1)])
def test_constants_that_differ_by_pixel_stay(shape):
    b = Build()
    x = affine(b, b("Relu", b.input(2, 6, 5, 5)), mul=shape, add=None)
    y = b("Conv", x, b.random(4, 6, 1, 1))
    check(b.done(y), ["Relu", "Mul", "Conv"])


def test_an_inside_that_is_a_result_stays():
    b = Build()
    product = affine(b, b("Relu", b.input(2, 6, 5, 5)), add=None)
    total = b("Add", product, b.random(6, 1, 1))
    new = check(b.done(product, b("Conv", total, b.random(4, 6, 1, 1))), rtol=1e-4, atol=1e-4)
    assert kinds(new)["Mul"] == 1


@pytest.mark.parametrize("swap", [False, True])
def test_x_plus_x_times_s_is_one_product(swap):
    b = Build()
    x = b("Relu", b.input("N", 6, 4, 5))
    s = b("Sigmoid", b.input("N", 6, 1, 1, name="s"))
    y = b("Add", b("Mul", s, x), x) if swap else b("Add", x, b("Mul", x, s))
    check(b.done(y), ["Relu", "Sigmoid", "Add", "Mul"])


@pytest.mark.parametrize("case", ["read", "other", "pixels", "broadcast", "result"])
def test_sums_that_are_not_x_and_x_times_s_stay(case):
    b = Build()
    x = b("Relu", b.input(2, 6, 4, 5))
    shape = {"pixels": (2, 6, 4, 5), "broadcast": (1, 6, 1, 1)}.get(case, (2, 6, 1, 1))
    s = b("Sigmoid", b.input(*shape, name="s"))
    product = b("Mul", x, s)
    y = b("Add", b("Abs", x) if case == "other" else x, product)
    more = [b("Abs", product)] if case == "read" else [product] if case == "result" else []
    new = check(b.done(y, *more))
    assert [type(n.op).__name__ for n in new.nodes if type(n.op).__name__ in ("Add", "Mul")] == [
        "Mul",
        "Add",
    ]
