"""BatchNormalization, arithmetic per channel, and zero padding into the weights and pads."""

import numpy as np
import pytest
from passes_harness import Build, check, feeds_for, interpret, kinds

from fastconv.graph import TensorType
from fastconv.passes import optimize


def norm(b, x, channels, **attrs):
    scale, bias, mean = (b.random(channels) for _ in range(3))
    var = b.const(b.rng.uniform(0.5, 2, channels))
    return b("BatchNormalization", x, scale, bias, mean, var, **attrs)


def producer(b, kind, bias, dtype=np.float32):
    """A node with 6 channels or columns; returns its output."""
    if kind.startswith("conv"):
        x = b.input(2, 4, 5, 5, dtype=dtype)
        group = 2 if kind.endswith("group") else 1
        rows, columns = (6, 4 // group) if kind.startswith("conv ") else (4, 6 // group)
        op = "Conv" if kind.startswith("conv ") else "ConvTranspose"
        w = b.random(rows, columns, 3, 3, dtype=dtype)
        return b(op, x, w, *([b.random(6, dtype=dtype)] if bias else []), group=group)
    x = b.input(3, 4, dtype=dtype)
    if kind == "matmul":
        return b("MatMul", x, b.random(4, 6, dtype=dtype))
    trans = kind == "gemm trans"
    w = b.random(*((6, 4) if trans else (4, 6)), dtype=dtype)
    extra = [b.random(*((1, 6) if trans else (6,)), dtype=dtype)] if bias else []
    return b("Gemm", x, w, *extra, transB=int(trans), alpha=0.5, beta=2.0)


KINDS = ["conv ", "conv group", "convT", "convT group", "gemm", "gemm trans", "matmul"]
NAMES = dict(zip(KINDS, ["Conv"] * 2 + ["ConvTranspose"] * 2 + ["Gemm"] * 3, strict=True))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_batch_normalization_joins_its_producer(kind, bias):
    b = Build()
    y = norm(b, producer(b, kind, bias), 6, epsilon=1e-3)
    check(b.done(y), [NAMES[kind]])


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div"])
@pytest.mark.parametrize("shape", ["channel", "batch", "scalar", "one"])
@pytest.mark.parametrize("kind", KINDS)
def test_arithmetic_per_channel_joins_its_producer(kind, shape, op):
    b = Build()
    y = producer(b, kind, True)
    spatial = (1, 1) if kind.startswith("conv") else ()
    full = {"channel": (6,), "batch": (1, 6), "scalar": (), "one": (1,)}[shape]
    c = b.random(*full, *(spatial if shape in ("channel", "batch") else ()))
    check(b.done(b(op, y, c)), [NAMES[kind]])


@pytest.mark.parametrize("kind", ["conv ", "gemm"])
def test_a_whole_chain_folds(kind):
    b = Build()
    y = norm(b, producer(b, kind, False), 6)
    y = b("Add", b("Mul", b.const(0.5), y), b.const(3))
    new = check(b.done(b("Relu", y)), [NAMES[kind] + "+clip"])
    assert len(new.consts) == 2
    assert new.nodes[0].sources[0] == new.nodes[0].name


def test_weights_that_two_convs_share_stay_apart():
    b = Build()
    x, w = b.input(1, 2, 4, 4), b.random(2, 2, 3, 3)
    new = check(b.done(norm(b, b("Conv", x, w), 2), b("Conv", x, w)), ["Conv", "Conv"])
    assert len({n.inputs[1] for n in new.nodes}) == 2


def test_the_arithmetic_is_rounded_once():
    b = Build()
    x, w = b.input(1, 1, 3, 3), b.const(np.full((1, 1, 1, 1), 0.1))
    y = b("Conv", x, w)
    for _ in range(3):
        y = b("BatchNormalization", y, *(b.const([v]) for v in (0.3, 0.7, 0.2, 0.9)))
    check(b.done(y), ["Conv"], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("op", "shape"),
    [
        ("Add", (6,)),
        ("Mul", (5, 1)),
        ("Add", (2, 6, 1, 1)),
        ("Add", (1, 1, 6, 1, 1)),
        ("Mul", (1, 1, 1, 1, 1)),
        ("Mul", (6, 5, 6)),
    ],
)
def test_arithmetic_that_is_not_per_channel_stays(op, shape):
    b = Build()
    x = b.input(2, 4, 7, 8)
    y = b("Conv", x, b.random(6, 4, 3, 3))
    check(b.done(b(op, y, b.random(*shape))), ["Conv", op])


def test_arithmetic_that_adds_channels_stays():
    b = Build()
    y = b("Conv", b.input(1, 2, 4, 4), b.random(1, 2, 3, 3))
    check(b.done(b("Mul", y, b.random(5, 1, 1))), ["Conv", "Mul"])


def test_a_constant_divided_by_a_conv_stays():
    b = Build()
    y = b("Conv", b.input(1, 2, 4, 4), b.random(3, 2, 3, 3))
    check(b.done(b("Div", b.random(3, 1, 1), y)), ["Conv", "Div"])


@pytest.mark.parametrize("value", [0.0, np.inf, np.nan])
@pytest.mark.parametrize("op", ["Mul", "Div"])
def test_factors_that_make_nan_stay(op, value):
    b = Build()
    y = b("Conv", b.input(1, 2, 4, 4), b.random(2, 2, 3, 3))
    graph = b.done(b(op, y, b.const([[[2.0]], [[value]]])))
    feeds = {"x": np.full((1, 2, 4, 4), np.inf, np.float32)}
    check(graph, ["Conv", op], feeds=feeds)


def test_factors_that_overflow_stay():
    b = Build()
    y = b("Conv", b.input(1, 1, 4, 4), b.const(np.full((1, 1, 1, 1), 1e30)))
    check(b.done(b("Mul", y, b.const(1e20))), ["Conv", "Mul"])


def test_a_negative_variance_stays():
    b = Build()
    y = b("Conv", b.input(1, 2, 4, 4), b.random(1, 2, 3, 3))
    y = b("BatchNormalization", y, *(b.const([v]) for v in (1, 0, 0, -1)))
    check(b.done(y), ["Conv", "BatchNormalization"])


def test_batch_normalization_in_training_mode_stays():
    b = Build()
    y = norm(b, b("Conv", b.input("N", 2, 4, 4), b.random(3, 2, 3, 3)), 3, training_mode=1)
    new = optimize(b.done(y))
    assert kinds(new) == {"Conv": 1, "BatchNormalization": 1}


def test_it_stays_when_the_conv_has_another_reader_or_is_an_output():
    for output in (True, False):
        b = Build()
        c = b("Conv", b.input(1, 2, 4, 4), b.random(3, 2, 3, 3))
        y = norm(b, c, 3)
        expected = ["Conv", "BatchNormalization"] + ([] if output else ["Abs"])
        check(b.done(y, c if output else b("Abs", c)), expected)


def test_it_stays_when_weights_are_fed():
    b = Build()
    x, w = b.input(1, 2, 4, 4), b.input(3, 2, 3, 3, name="w")
    check(b.done(norm(b, b("Conv", x, w), 3)), ["Conv", "BatchNormalization"])


def test_it_stays_when_a_statistic_is_fed():
    b = Build()
    c = b("Conv", b.input(1, 2, 4, 4), b.random(3, 2, 3, 3))
    scale = b.input(3, name="s")
    y = b("BatchNormalization", c, scale, b.random(3), b.random(3), b.const([1, 2, 3]))
    check(b.done(y), ["Conv", "BatchNormalization"])


@pytest.mark.parametrize("kind", KINDS)
def test_it_stays_in_float64(kind):
    b = Build()
    y = producer(b, kind, False, dtype=np.float64)
    graph = b.done(b("Mul", y, b.const(3, np.float64)))
    check(graph, list(kinds(graph).elements()))


@pytest.mark.parametrize("shape", [(2, 3, 4), (5, 2, 3, 4), (4,)])
def test_products_of_other_ranks_stay(shape):
    b = Build()
    y = b("MatMul", b.input(*shape), b.random(4, 6))
    check(b.done(b("Add", y, b.random(6))), ["MatMul", "Add"], disable=["products"])


def test_a_product_with_a_bias_keeps_its_weights():
    b = Build()
    w = b.random(4, 6)
    y = b("Add", b.random(6), b("MatMul", b.input("N", 4), w))
    new = check(b.done(y), ["Gemm"])
    assert new.nodes[0].inputs[1] == w
    assert new.consts[w] is b.graph.consts[w]


@pytest.mark.parametrize("shape", [(6, 6), (6, 1)])
def test_a_gemm_whose_c_has_rows_stays(shape):
    b = Build()
    y = b("Gemm", b.input(6, 4), b.random(4, 6), b.random(*shape))
    check(b.done(b("Mul", y, b.const(2))), ["Gemm", "Mul"])


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div"])
@pytest.mark.parametrize("shape", [(3, 1, 1), (1, 3, 1, 1), (1,), ()])
def test_arithmetic_joins_a_batch_normalization_that_stays(op, shape):
    b = Build()
    y = norm(b, b("Abs", b.input(2, 3, 4, 4)), 3)
    check(b.done(b("Relu", b(op, y, b.random(*shape)))), ["Abs", "BatchNormalization+clip"])


@pytest.mark.parametrize("shape", [(4, 4), (2, 3, 1, 1), (1, 1, 1, 4), (1, 1, 3, 1, 1)])
@pytest.mark.parametrize("op", ["Add", "Mul"])
def test_other_arithmetic_after_batch_normalization_stays(op, shape):
    b = Build()
    y = norm(
        b, b("Abs", b.input(2, 3, 4, 4) if shape[-3:] != (3, 1, 1) else b.input(2, 3, 3, 3)), 3
    )
    check(b.done(b(op, y, b.random(*shape))), ["Abs", "BatchNormalization", op])


def test_zero_times_a_batch_normalization_stays():
    b = Build()
    y = norm(b, b("Abs", b.input(2, 3, 4, 4)), 3)
    check(b.done(b("Mul", y, b.const(0))), ["Abs", "BatchNormalization", "Mul"])


def test_it_can_be_left_out():
    b = Build()
    y = norm(b, b("Conv", b.input(1, 2, 4, 4), b.random(3, 2, 3, 3)), 3)
    check(b.done(y), ["Conv", "BatchNormalization"], disable={"affine"})


def pad(b, x, pads, *more, mode="constant"):
    return b("Pad", x, b.const(pads, np.int64), *more, mode=mode)


@pytest.mark.parametrize("attrs", [{}, {"pads": (1, 2, 0, 1)}, {"auto_pad": "VALID"}])
@pytest.mark.parametrize("value", ["absent", "empty", "zero"])
def test_zero_padding_joins_the_conv(attrs, value):
    b = Build()
    more = {"absent": [], "empty": ["", ""], "zero": [b.const(0)]}[value]
    y = pad(b, b.input(1, 2, 4, 5), [0, 0, 1, 2, 0, 0, 3, 0], *more)
    new = check(b.done(b("Conv", y, b.random(3, 2, 3, 3), **attrs)), ["Conv"])
    own = attrs.get("pads", (0,) * 4)
    assert new.nodes[0].op.pads == tuple(a + e for a, e in zip(own, (1, 2, 3, 0), strict=True))


def test_zero_padding_of_named_axes_joins_the_conv():
    b = Build()
    y = pad(b, b.input(1, 2, 4, 5), [1, 2, 3, 4], "", b.const([-1, 2], np.int64))
    new = check(b.done(b("Conv", y, b.random(3, 2, 3, 3))), ["Conv"])
    assert new.nodes[0].op.pads == (2, 1, 4, 3)


@pytest.mark.parametrize(
    ("pads", "value", "mode"),
    [
        ([0, 0, 1, 1, 0, 0, 1, 1], 1.0, "constant"),
        ([0, 0, 1, 1, 0, 0, 1, 1], 0.0, "reflect"),
        ([0, 0, 1, 1, 0, 0, 1, 1], 0.0, "edge"),
        ([1, 0, 1, 1, 0, 0, 1, 1], 0.0, "constant"),
        ([0, 0, 1, -1, 0, 0, 1, 1], 0.0, "constant"),
    ],
)
def test_other_padding_stays(pads, value, mode):
    b = Build()
    y = pad(b, b.input(1, 2, 5, 6), pads, b.const(value), mode=mode)
    check(b.done(b("Conv", y, b.random(3, 2, 3, 3))), ["Pad", "Conv"])


def test_padding_of_channels_stays():
    b = Build()
    y = pad(b, b.input(1, 2, 5, 6), [0, 1, 0, 0, 0, 0, 0, 0])
    check(b.done(b("Conv", y, b.random(3, 3, 3, 3))), ["Pad", "Conv"])


def test_padding_before_a_conv_with_same_padding_stays():
    b = Build()
    y = pad(b, b.input(1, 2, 5, 6), [0, 0, 1, 1, 0, 0, 1, 1])
    y = b("Conv", y, b.random(3, 2, 3, 3), auto_pad="SAME_UPPER", strides=(2, 2))
    check(b.done(y), ["Pad", "Conv"])


def test_padding_with_another_reader_stays():
    b = Build()
    y = pad(b, b.input(1, 2, 5, 6), [0, 0, 1, 1, 0, 0, 1, 1])
    check(b.done(b("Conv", y, b.random(3, 2, 3, 3)), b("Abs", y)), ["Pad", "Conv", "Abs"])


def test_padding_by_fed_amounts_stays():
    b = Build()
    x, pads = b.input(1, 2, 5, 6), b.input(8, dtype=np.int64, name="pads")
    graph = b.done(b("Conv", b("Pad", x, pads), b.random(3, 2, 3, 3)))
    feeds = feeds_for(graph) | {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])}
    assert kinds(optimize(graph)) == {"Pad": 1, "Conv": 1}
    np.testing.assert_array_equal(interpret(optimize(graph), feeds), interpret(graph, feeds))


def test_unknown_types_stop_folding():
    b = Build()
    x = b.input(1, 2, 4, 4)
    b.graph.types[x] = TensorType(None, None)
    graph = b.done(norm(b, b("Conv", x, b.random(3, 2, 3, 3)), 3))
    assert kinds(optimize(graph)) == {"Conv": 1, "BatchNormalization": 1}
