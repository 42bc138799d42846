"""Products with constant matrices become 1×1 convolutions, with all that follows per element."""

from collections import Counter

import numpy as np
import pytest
from passes_harness import Build, check, feeds_for, kinds

LAST = (0, 2, 3, 1)
FIRST = (0, 3, 1, 2)


def block(b, x, width, *, gamma=True):
    """A block of ConvNeXt: pixels channels-last between two Transposes."""
    y = b("Transpose", x, perm=LAST)
    y = b("LayerNormalization", y, b.random(width), b.random(width), axis=-1)
    y = b("Add", b.random(3 * width), b("MatMul", y, b.random(width, 3 * width)))
    y = b("Gelu", y)
    y = b("Add", b("MatMul", y, b.random(3 * width, width)), b.random(width))
    y = b("Transpose", y, perm=FIRST)
    if gamma:
        y = b("Mul", y, b.random(width, 1, 1))
    return b("Add", y, x)


def test_a_convnext_block_is_two_convolutions_around_nothing():
    b = Build()
    x = b.input(2, 8, 5, 4)
    new = check(
        b.done(block(b, x, 8)),
        ["Transpose", "LayerNormalization", "Transpose", "Conv+gelu", "Conv"],
        rtol=1e-4,
        atol=1e-4,
    )
    assert len(new.nodes[-1].inputs) == 4  # the residual


@pytest.mark.parametrize("shape", [(2, 5, 6), (2, 3, 4, 6), (1, 2, 3, 2, 6), ("N", "T", 6)])
def test_any_number_of_axes_that_a_convolution_may_have(shape):
    b = Build()
    y = b("MatMul", b.input(*shape), b.random(6, 7))
    y = b("Relu", b("Sub", b("Div", y, b.const(2.0)), b.random(1, 7)))
    new = check(b.done(y), ["Transpose", "Conv+clip", "Transpose"])
    assert new.type_of(new.outputs[0]).rank == len(shape)


def test_a_product_of_no_rows_stays_empty():
    b = Build()
    y = b("MatMul", b.input("N", "T", 6), b.random(6, 7))
    graph = b.done(y)
    check(graph, feeds=feeds_for(graph, sizes={"N": 2, "T": 0}))


def test_the_residual_of_a_transformer_block_goes_into_the_convolution():
    b = Build()
    x = b.input(2, 5, 6)
    y = b("Add", x, b("Add", b("MatMul", x, b.random(6, 6)), b.random(6)))
    new = check(b.done(y))
    assert kinds(new)["Add"] == 0
    assert kinds(new)["Conv"] == 1


@pytest.mark.parametrize("case", ["batched", "vector", "matrix", "computed", "float64", "six axes"])
def test_other_products_stay(case):
    b = Build()
    dtype = np.float64 if case == "float64" else np.float32
    shape = {"matrix": (5, 6), "six axes": (1, 1, 2, 1, 3, 6)}.get(case, (2, 5, 6))
    x = b.input(*shape, dtype=dtype)
    w = {"batched": (2, 6, 7), "vector": (6,)}.get(case, (6, 7))
    w = b.input(6, 7, name="w") if case == "computed" else b.random(*w, dtype=dtype)
    new = check(b.done(b("MatMul", x, w)))
    assert kinds(new) == Counter(["MatMul"])


def test_what_another_node_or_the_caller_reads_is_still_there():
    b = Build()
    x = b.input(2, 5, 6)
    product = b("MatMul", x, b.random(6, 7))
    total = b("Add", product, b.random(7))
    new = check(b.done(product, b("Relu", total), b("Abs", total)))
    assert kinds(new)["Conv"] == 1
    assert kinds(new)["Add"] == 1


@pytest.mark.parametrize(
    ("op", "shape"),
    [("Add", (5, 7)), ("Add", (5, 1)), ("Mul", (1, 2, 1, 1)), ("Add", (4, 2, 5, 7)), ("Pow", (7,))],
)
def test_what_differs_by_pixel_stays_behind_the_transpose(op, shape):
    b = Build()
    y = b("MatMul", b.input(2, 5, 6), b.random(6, 7))
    y = b(op, y, b.const(np.abs(b.rng.normal(size=shape)) + 1))
    new = check(b.done(b("Relu", y)))
    order = [type(n.op).__name__ for n in new.nodes]
    assert order[:3] == ["Transpose", "Conv", "Transpose"]


def test_a_sum_of_a_value_with_itself_stays():
    b = Build()
    y = b("MatMul", b.input(2, 5, 6), b.random(6, 7))
    assert kinds(check(b.done(b("Add", y, y))))["Add"] == 1
