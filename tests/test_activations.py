"""The activations of the kernels: accuracy, special values, and the operators made of them."""

import importlib
import math

import numpy as np
import pytest
from harness import ISAS, check_op, run_op
from hypothesis import given, settings
from hypothesis import strategies as st

from fastconv import kernels
from fastconv.errors import ShapeError
from fastconv.graph import TensorType
from fastconv.graph.activation import KINDS, RELU6, SILU, Activation
from fastconv.graph.ops import activations as acts
from fastconv.graph.ops import unary
from fastconv.graph.ops.elementwise import FORMULAS, activate

F32, INF = np.float32, float("inf")

#: One sensible set of parameters for every kind.
EXAMPLES = [
    Activation("none"), RELU6, Activation("clip", -INF, 1.0), Activation("leaky_relu", 0.1),
    Activation("sigmoid"), Activation("tanh"), SILU, Activation("silu", 1.702),
    Activation("hard_sigmoid", 0.2, 0.5), Activation("hard_swish"), Activation("gelu"),
    Activation("gelu_tanh"), Activation("elu", 0.7), Activation("selu", 1.6732632, 1.050701),
    Activation("celu", 1.5), Activation("softplus"), Activation("softsign"), Activation("mish"),
    Activation("thresholded_relu", 0.5), Activation("exp"), Activation("log"),
    Activation("sqrt"), Activation("erf"), Activation("reciprocal"), Activation("abs"),
    Activation("neg"), Activation("square"), Activation("floor"), Activation("ceil"),
    Activation("round"), Activation("sign"), Activation("sin"), Activation("cos"),
    Activation("shrink", 0.5, 0.25), *(Activation("pow", e) for e in (2, 3, -1, 0.5, 0, 1.7, -2)),
]  # fmt: skip

SPECIAL = np.array(
    [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, -1.5, 2.5, -2.5, 3.0, -3.0, 6.0, 1e-30, -1e-30, 1e-7,
     -1e-7, 20.5, -20.5, 88.0, -87.0, 88.8, -104.0, 2.0**22 + 0.5, -(2.0**23), 2.0**24, 4097.5,
     -5e4, 1e10, -1e20, 3e38, -3e38, INF, -INF, math.nan],
    F32,
)  # fmt: skip


def apply(act, x, isa=None, threads=1):
    """One activation by the ``unary`` kernel."""
    y = np.empty_like(x)
    lo, hi = (act.alpha, act.beta) if act.kind == "clip" else (-INF, INF)
    params = {"n": x.size, "act": act.code, "alpha": act.alpha, "beta": act.beta}
    kernels.run("unary", {**params, "lo": lo, "hi": hi}, [x, y], threads, isa)
    return y


def twin(act, x):
    """The activation in float64, rounded to float32."""
    with np.errstate(all="ignore"):
        return activate(act, x.astype(np.float64)).astype(F32)


def test_every_kind_has_an_example_and_a_formula():
    assert {a.kind for a in EXAMPLES} == set(KINDS) == set(FORMULAS)


@pytest.mark.parametrize("isa", ISAS)
def test_codes_agree_with_the_kernels(isa):
    module = importlib.import_module(
        f"fastconv.kernels.{kernels.home(isa, 'elementwise')}.elementwise"
    )
    assert {k: Activation(k).code for k in KINDS} == module.ACT_CODES


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("act", EXAMPLES, ids=repr)
def test_special_values(act, isa):
    got, expected = apply(act, SPECIAL, isa), twin(act, SPECIAL)
    for x, g, e in zip(SPECIAL, got, expected, strict=True):
        np.testing.assert_allclose(g, e, rtol=2e-6, atol=2e-7, err_msg=f"{act.kind}({x})")


@pytest.mark.parametrize("act", EXAMPLES, ids=repr)
def test_typical_values(act):
    x = np.random.default_rng(5).normal(0, 3, 4099).astype(F32)
    for isa in ISAS:
        np.testing.assert_allclose(apply(act, x, isa), twin(act, x), rtol=2e-6, atol=3e-7)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("act", EXAMPLES, ids=repr)
def test_bits_do_not_depend_on_the_position(act, isa):
    x = np.random.default_rng(6).normal(0, 4, 67).astype(F32)
    whole = apply(act, x, isa)
    for start, n in [(1, 66), (3, 1), (5, 15), (5, 16), (5, 17), (60, 7)]:
        part = apply(act, x[start : start + n].copy(), isa)
        assert part.tobytes() == whole[start : start + n].tobytes()


@pytest.mark.parametrize("kind", ["abs", "neg", "floor", "ceil", "round", "sign", "sqrt", "tanh"])
def test_negative_zero_keeps_its_sign(kind):
    for isa in ISAS:
        y = apply(Activation(kind), np.array([-0.0], F32), isa)
        assert np.signbit(y[0]) == (kind != "abs" and kind != "neg"), (kind, isa)


EXACT = {
    "exp": (np.exp, 1.1), "tanh": (np.tanh, 2.3), "log": (np.log, 1.0), "sin": (np.sin, 2.3),
    "cos": (np.cos, 2.3), "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), 5.3),
    "erf": (np.vectorize(math.erf, otypes=[float]), 1.5),
    "elu": (lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))), 1.5),
    "softplus": (lambda x: np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))), 3.0),
}  # fmt: skip


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", EXACT)
def test_error_in_units_of_the_last_place(kind, isa):
    rng = np.random.default_rng(7)
    n = 1 << 14
    bits = rng.integers(0, 1 << 32, n, dtype=np.uint32).view(F32)
    bits = bits[np.isfinite(bits)]
    x = np.concatenate([bits, rng.uniform(-88, 88, n), rng.normal(0, 2, 2 * n)]).astype(F32)
    x = x[np.abs(x) > 1.2e-38]
    if kind == "log":
        x = np.abs(x)
    function, bound = EXACT[kind]
    with np.errstate(all="ignore"):
        exact = function(x.astype(np.float64))
    normal = (np.abs(exact) > 1.2e-38) & (np.abs(exact) < 3.4e38)
    if kind == "sigmoid":
        normal &= x > -87.33  # documented as 0 below
    got, exact = apply(Activation(kind, 1.0), x, isa)[normal], exact[normal]
    error = np.abs(got - exact) / np.spacing(np.abs(exact).astype(F32))
    # Without fused multiply-add every polynomial rounds twice as often.
    assert error.max() <= bound * (1.5 if isa == "base" else 1.0), x[normal][error.argmax()]


@pytest.mark.parametrize("isa", ISAS)
def test_error_of_gelu(isa):
    """Relative to the result where it is large or x is small, absolute in the negative tail."""
    rng = np.random.default_rng(9)
    x = np.concatenate([rng.normal(0, 2, 1 << 15), rng.uniform(-20, 20, 1 << 14), SPECIAL[:16]])
    x = x.astype(F32)
    exact = x * np.vectorize(math.erfc)(-x.astype(np.float64) / math.sqrt(2)) / 2
    error = np.abs(apply(Activation("gelu"), x, isa) - exact)
    relative = 6.5 if isa != "base" else 10
    bound = np.where(x > -1, relative * np.spacing(np.abs(exact).astype(F32)), 7e-8)
    assert (error <= bound).all(), x[(error / bound).argmax()]
    # The tails are exact.
    y = apply(Activation("gelu"), np.array([-20.0, -1e30, 20.0, 1e30, INF], F32), isa)
    np.testing.assert_array_equal(y, np.array([0.0, 0.0, 20.0, 1e30, INF], F32))


@pytest.mark.parametrize("exponent", [-3.0, -0.5, 0.3, 1.9, 7.0, 31.0, 150.5, -INF, INF, math.nan])
def test_power_is_that_of_c(exponent):
    rng = np.random.default_rng(8)
    x = np.concatenate([SPECIAL, rng.normal(0, 3, 500), np.exp(rng.uniform(-80, 80, 500))])
    x = x.astype(F32)
    with np.errstate(all="ignore"):
        exact = np.power(x.astype(np.float64), float(F32(exponent))).astype(F32)
    for isa in ISAS:
        got = apply(Activation("pow", exponent), x, isa)
        np.testing.assert_array_equal(np.isnan(got), np.isnan(exact))
        ok = np.isfinite(exact) & (np.abs(exact) > 1.2e-38)
        np.testing.assert_array_max_ulp(got[ok], exact[ok], 1)
        np.testing.assert_array_equal(got[np.isinf(exact)], exact[np.isinf(exact)])


OPERATORS = [
    acts.Relu(), acts.LeakyRelu(), acts.LeakyRelu(alpha=-2.0), acts.Sigmoid(), acts.Tanh(),
    acts.HardSigmoid(), acts.HardSwish(), acts.Elu(alpha=2.0), acts.Selu(), acts.Celu(alpha=0.5),
    acts.Softplus(), acts.Softsign(), acts.Mish(), acts.Gelu(), acts.Gelu(approximate="tanh"),
    acts.Swish(), acts.Swish(alpha=2.0), acts.ThresholdedRelu(), acts.Shrink(bias=0.1),
    acts.FusedActivation(SILU), unary.Erf(), unary.Exp(), unary.Abs(), unary.Neg(), unary.Floor(),
    unary.Ceil(), unary.Round(), unary.Sign(), unary.Sin(), unary.Cos(),
]  # fmt: skip


@pytest.mark.parametrize("op", OPERATORS, ids=repr)
@pytest.mark.parametrize("layout", ["plain", "channels_last"])
def test_operators_match_their_twins_in_either_layout(op, layout):
    x = np.random.default_rng(9).normal(0, 2, (2, 5, 57, 61)).astype(F32)
    check_op(op, [x], channels_last=[0] if layout == "channels_last" else [])


@pytest.mark.parametrize("op", [unary.Log(), unary.Sqrt(), unary.Reciprocal()], ids=repr)
def test_operators_on_positive_numbers(op):
    x = np.random.default_rng(9).uniform(0.01, 5, (3, 7, 5)).astype(F32)
    check_op(op, [x], channels_last=[0])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 7), max_size=5), st.sampled_from(OPERATORS[:8]))
def test_any_shape(shape, op):
    check_op(op, [np.random.default_rng(1).normal(0, 2, shape).astype(F32)], threads=(1,))


RARE = ["Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh", "Acosh", "Atanh"]


@pytest.mark.parametrize("name", RARE)
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_rare_functions_keep_the_dtype(name, dtype):
    x = np.array([0.1, -0.3, 0.9, 1.5], dtype)
    (y,) = run_op(getattr(unary, name)(), [x], native=False)
    assert y.dtype == dtype
    ufunc = {"Asin": "arcsin", "Acos": "arccos", "Atan": "arctan", "Asinh": "arcsinh",
             "Acosh": "arccosh", "Atanh": "arctanh"}.get(name, name.lower())  # fmt: skip
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(y, getattr(np, ufunc)(x.astype(np.float64)), rtol=2e-3)


@pytest.mark.parametrize("op", [acts.Relu(), unary.Abs(), unary.Neg(), unary.Sign()], ids=repr)
@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.float16, np.float64])
def test_other_dtypes_are_computed_in_numpy(op, dtype):
    x = np.array([[-3, 0, 2]], dtype)
    (y,) = run_op(op, [x], native=False)
    expected = {"Relu": [0, 0, 2], "Abs": [3, 0, 2], "Neg": [3, 0, -2], "Sign": [-1, 0, 1]}
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, [expected[op.label]])


def test_large_integers_are_not_rounded():
    x = np.array([2**53 + 1, -(2**53) - 1], np.int64)
    np.testing.assert_array_equal(run_op(acts.Relu(), [x], native=False)[0], [2**53 + 1, 0])
    np.testing.assert_array_equal(run_op(unary.Abs(), [x], native=False)[0], np.abs(x))


@pytest.mark.parametrize("lo", [None, -0.5])
@pytest.mark.parametrize("hi", [None, 0.75])
@pytest.mark.parametrize("consts", [[1, 2], []])
def test_clip_with_constant_computed_and_absent_bounds(lo, hi, consts):
    x = np.random.default_rng(2).normal(0, 1, (2, 3, 5, 4)).astype(F32)
    x[0, 0, 0, 0] = math.nan
    bounds = [None if b is None else np.array(b, F32) for b in (lo, hi)]
    if not consts and lo is None and hi is None:
        bounds = []
    check_op(acts.Clip(), [x, *bounds], consts=consts, channels_last=[0])


def test_clip_with_crossed_bounds_gives_the_upper_one():
    x = np.array([-5, 0, 5], F32)
    (y,) = run_op(acts.Clip(), [x, np.array(2, F32), np.array(-2, F32)], consts=[1, 2])
    np.testing.assert_array_equal(y, [-2, -2, -2])


def test_clip_of_integers_keeps_the_dtype():
    x = np.array([-5, 0, 5], np.int8)
    (y,) = run_op(acts.Clip(), [x, np.array(-1, np.int8)], native=False)
    assert y.dtype == np.int8
    np.testing.assert_array_equal(y, [-1, 0, 5])


@pytest.mark.parametrize(
    ("op", "types", "message"),
    [
        (acts.Sigmoid(), [TensorType(np.dtype(np.int32), (2,))], "floating-point"),
        (acts.Gelu(approximate="erf"), [TensorType(np.dtype(F32), (2,))], "approximate 'erf'"),
        (acts.Clip(), [TensorType(np.dtype(F32), (2,)), TensorType(np.dtype(F32), (2,))], "scalar"),
        (acts.PRelu(), [TensorType(np.dtype(F32), (2,)), TensorType(np.dtype(F32), (3, 2))],
         "does not broadcast"),
    ],
)  # fmt: skip
def test_bad_inputs_are_named(op, types, message):
    with pytest.raises(ShapeError, match=message):
        op.infer(types, [None] * len(types))
