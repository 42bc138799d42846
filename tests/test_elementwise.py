"""Binary, variadic, logical and converting operators against NumPy and ONNX's reference."""

import importlib
import math

import numpy as np
import onnx
import pytest
from harness import ISAS, ToChannelsLast, check_op, run_op
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from onnx.reference import ReferenceEvaluator

from fastconv import kernels
from fastconv.errors import ShapeError, UnsupportedError
from fastconv.graph import Graph, Node, Op, TensorType
from fastconv.graph.activation import RELU, SILU, Activation
from fastconv.graph.op import REGISTRY, fields_only
from fastconv.graph.ops import binary, logic
from fastconv.graph.ops.activations import PRelu
from fastconv.plan.lower.binary import CODES, RANK, collapse
from fastconv.plan.lowering import lowers
from fastconv.plan.memory import CHANNELS_LAST, FLAT
from fastconv.runtime.engine import Engine

F32 = np.float32
PAIRS = [binary.Add, binary.Sub, binary.Mul, binary.Div, binary.Min, binary.Max]


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(0, 2, shape).astype(F32)


@pytest.mark.parametrize("isa", ISAS)
def test_codes_agree_with_the_kernels(isa):
    module = importlib.import_module(
        f"fastconv.kernels.{kernels.home(isa, 'elementwise')}.elementwise"
    )
    assert module.BINARY_CODES == CODES
    assert module.CONSTANTS["BINARY_RANK"] == RANK


@st.composite
def broadcasts(draw):
    """An operator, two arrays that broadcast, which are constants, which are channels-last."""
    rank = draw(st.integers(0, 5))
    full = [draw(st.sampled_from([1, 2, 3, 5, 17])) for _ in range(rank)]
    shapes = []
    for _ in range(2):
        own = [d if draw(st.booleans()) else 1 for d in full]
        shapes.append(own[draw(st.integers(0, rank)) :] if draw(st.booleans()) else own)
    if draw(st.booleans()):
        shapes[draw(st.integers(0, 1))] = full
    consts = draw(st.sampled_from([[], [0], [1]]))
    last = [i for i in (0, 1) if i not in consts and len(shapes[i]) >= 3 and draw(st.booleans())]
    act = draw(st.sampled_from([None, RELU, Activation("tanh")]))
    op = draw(st.sampled_from(PAIRS))
    op = op() if op in (binary.Min, binary.Max) else op(activation=act)
    return op, shapes, consts, last, draw(st.integers(0, 99))


@settings(max_examples=150, deadline=None)
@given(broadcasts())
def test_any_broadcast_in_any_layout(case):
    op, shapes, consts, last, seed = case
    arrays = [normal(*s, seed=seed + i) for i, s in enumerate(shapes)]
    if isinstance(op, binary.Div):
        arrays[1] = np.abs(arrays[1]) + F32(0.5)
    check_op(op, arrays, consts=consts, channels_last=last, threads=(1,))


LARGE = [
    ((2, 24, 37, 41), (2, 24, 37, 41)),
    ((2, 24, 37, 41), (2, 24, 1, 1)),
    ((2, 24, 37, 41), (1, 24, 1, 1)),
    ((2, 3, 112, 120), (3, 1, 1)),
    ((2, 24, 37, 41), ()),
    ((2, 24, 37, 41), (41,)),
    ((2, 24, 37, 41), (2, 1, 37, 41)),
    ((2, 24, 37, 41), (2, 24, 37, 1)),
    ((1, 24, 37, 41), (3, 24, 37, 41)),
    ((70001,), (70001,)),
]


@pytest.mark.parametrize("shapes", LARGE, ids=str)
@pytest.mark.parametrize("last", [[], [0], [1], [0, 1]], ids=str)
@pytest.mark.parametrize("consts", [[], [1]], ids=str)
def test_threads_do_not_change_bits(shapes, last, consts):
    last = [i for i in last if len(shapes[i]) >= 3 and i not in consts]
    op = binary.Mul(activation=SILU)
    arrays = [normal(*s, seed=i) for i, s in enumerate(shapes)]
    check_op(op, arrays, channels_last=last, consts=consts)
    check_op(binary.Sub(), arrays[::-1], channels_last=[1 - i for i in last],
             consts=[1 - i for i in consts], threads=(1, 3))  # fmt: skip


def test_dimensions_collapse_to_the_fewest():
    assert collapse([2, 3, 4], [12, 4, 1], [12, 4, 1]) == ([24], [1], [1])
    assert collapse([2, 3, 4], [12, 4, 1], [0, 0, 0]) == ([24], [1], [0])
    assert collapse([2, 3, 4], [12, 4, 1], [4, 0, 1]) == ([2, 3, 4], [12, 4, 1], [4, 0, 1])
    assert collapse([2, 1, 6, 4], [24, 0, 4, 1], [4, 0, 0, 1])[0] == [2, 6, 4]
    assert collapse([1, 1], [0, 0], [0, 0]) == ([1], [1], [1])


def test_channels_last_meets_plain_in_channels_last():
    """A residual connection between layouts: one conversion, and the sum stays channels-last."""
    graph = Graph(
        "t",
        [Node(ToChannelsLast(), ["a"], ["c"], "c"), Node(binary.Add(), ["b", "c"], ["y"], "add")],
        ["a", "b"], ["y"],
        types={n: TensorType(np.dtype(F32), (2, 3, 4, 5)) for n in "ab"},
    )  # fmt: skip
    feeds = {"a": normal(2, 3, 4, 5), "b": normal(2, 3, 4, 5, seed=1)}
    engine = Engine(graph, 1)
    kernels = [s.kernel for s in engine.prepare(feeds).plan.steps]
    assert kernels == ["transpose32", "transpose32", "binary", "transpose32"]
    np.testing.assert_array_equal(engine.run(feeds)["y"], feeds["a"] + feeds["b"])


def test_squeeze_and_excitation_scale_needs_no_conversion():
    graph = Graph(
        "t",
        [Node(ToChannelsLast(), ["a"], ["c"], "c"), Node(binary.Mul(), ["c", "s"], ["y"], "mul")],
        ["a", "s"], ["y"],
        types={"a": TensorType(np.dtype(F32), (2, 6, 4, 5)),
               "s": TensorType(np.dtype(F32), (2, 6, 1, 1))},
    )  # fmt: skip
    feeds = {"a": normal(2, 6, 4, 5), "s": normal(2, 6, 1, 1, seed=1)}
    engine = Engine(graph, 1)
    kernels = [s.kernel for s in engine.prepare(feeds).plan.steps]
    assert kernels == ["transpose32", "binary", "transpose32"]
    np.testing.assert_array_equal(engine.run(feeds)["y"], feeds["a"] * feeds["s"])


@fields_only
class ToFlat(Op):
    """Flatten whose result keeps the memory of its channels-last input."""

    def infer(self, types, values):
        n, c, *s = types[0].shape
        return [TensorType(types[0].dtype, (n, c * math.prod(s)))]

    def compute(self, xs):
        return [xs[0].reshape(len(xs[0]), -1)]


@lowers(ToFlat)
def _to_flat(low, node):
    x = low.place(node.inputs[0], CHANNELS_LAST)
    low.alias(node.outputs[0], x, layout=FLAT, channels=x.shape[1], pixel=0)


@pytest.mark.parametrize("shape", [(30,), (1, 30), (2, 30), (2, 1), (1, 1), (), "same", "plain"])
@pytest.mark.parametrize("const", [True, False])
def test_flattened_channels_last(shape, const):
    a = normal(2, 5, 3, 2)
    nodes = [Node(ToFlat(), ["a"], ["f"], "f"), Node(binary.Sub(), ["b", "f"], ["y"], "sub")]
    feeds, consts = {"a": a}, {}
    if shape == "same":
        feeds["b4"] = b = normal(2, 5, 3, 2, seed=1)
        b = b.reshape(2, 30)
        nodes.insert(0, Node(ToFlat(), ["b4"], ["b"], "g"))
    else:
        b = normal(*((2, 30) if shape == "plain" else shape), seed=1)
        (consts if const else feeds)["b"] = b
    types = {n: TensorType(v.dtype, v.shape) for n, v in feeds.items()}
    engine = Engine(Graph("t", nodes, list(feeds), ["y"], consts, types), 1)
    np.testing.assert_array_equal(engine.run(feeds)["y"], b - a.reshape(2, 30))


@pytest.mark.parametrize("op", [binary.Min(), binary.Max()], ids=repr)
def test_minimum_and_maximum_propagate_nan(op):
    x = np.array([math.nan, 1, math.nan, -math.inf, 2], F32)
    y = np.array([0, math.nan, math.nan, math.inf, 3], F32)
    for isa in ISAS:
        (z,) = run_op(op, [x, y], isa=isa)
        np.testing.assert_array_equal(z, op.compute([x, y])[0])


def test_division_follows_ieee():
    x = np.array([1, -1, 0, math.inf, math.nan], F32)
    y = np.array([0, 0, 0, math.inf, 1], F32)
    for isa in ISAS:
        with np.errstate(all="ignore"):
            np.testing.assert_array_equal(run_op(binary.Div(), [x, y], isa=isa)[0], x / y)


@pytest.mark.parametrize("op", [binary.Min, binary.Max, binary.Sum, binary.Mean])
@pytest.mark.parametrize("n", [1, 2, 3, 5])
@pytest.mark.parametrize("last", [[], [0]])
def test_variadic_operators(op, n, last):
    shapes = [(2, 3, 4, 5), (3, 1, 1), (2, 3, 4, 5), (), (5,)][:n]
    check_op(op(), [normal(*s, seed=i) for i, s in enumerate(shapes)], channels_last=last)


def test_a_chain_may_grow():
    check_op(binary.Sum(), [normal(3, 1), normal(1, 4, seed=1), normal(2, 3, 4, seed=2)])


@pytest.mark.parametrize("exponent", [1, 2, 3, 0.5, -1, 0, 1.5])
@pytest.mark.parametrize("act", [None, RELU])
@pytest.mark.parametrize("const", [[1], []])
def test_power_of_positive_numbers(exponent, act, const):
    x = np.abs(normal(2, 3, 5, 4)) + F32(0.1)
    op = binary.Pow(activation=act)
    check_op(op, [x, np.array(exponent, F32)], consts=const, channels_last=[0])


def test_power_of_negative_bases():
    x = np.array([-2, -2, -2, -0.0, -0.0, 0, 1, -8], F32)
    y = np.array([3, 2, 0.5, 3, -3, 0, math.nan, 1 / 3], F32)
    expected = [-8, 4, math.nan, -0.0, -math.inf, 1, 1, math.nan]
    for isa in ISAS:
        np.testing.assert_array_equal(run_op(binary.Pow(), [x, y], isa=isa)[0], F32(expected))


def test_power_with_mixed_dtypes_has_the_base_dtype():
    x = np.array([2, 3, -4], F32)
    (y,) = run_op(binary.Pow(), [x, np.array([2, 3, 1])], native=False)
    assert y.dtype == F32
    np.testing.assert_array_equal(y, [4, 27, -4])
    (z,) = run_op(binary.Pow(), [np.array([2, 1, -1]), np.array([-1, -5, -3])], native=False)
    np.testing.assert_array_equal(z, [0, 1, -1])


@pytest.mark.parametrize("slope", [(5, 1, 1), (1,), (2, 5, 7, 6), (6,), ()], ids=str)
@pytest.mark.parametrize("last", [[], [0]])
@pytest.mark.parametrize("const", [[1], []])
def test_prelu(slope, last, const):
    check_op(PRelu(), [normal(2, 5, 7, 6), normal(*slope, seed=1)], channels_last=last,
             consts=const)  # fmt: skip


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.int8])
def test_integer_division_cuts_towards_zero(dtype):
    a, b = np.array([7, -7, 7, -7, 6, 0], dtype), np.array([2, 2, -2, -2, 3, 5], dtype)
    (q,) = run_op(binary.Div(), [a, b], native=False)
    assert q.dtype == dtype
    np.testing.assert_array_equal(q, [3, -3, -3, 3, 2, 0])


def reference(op_type, arrays, attributes, n_outputs=1):
    """What ONNX's reference implementation computes for one node."""
    names = ["" if a is None else f"x{i}" for i, a in enumerate(arrays)]
    outputs = [f"y{i}" for i in range(n_outputs)]
    node = helper.make_node(op_type, names, outputs, **attributes)
    info = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in zip(names, arrays, strict=True)
        if n
    ]
    results = [onnx.helper.make_empty_tensor_value_info(o) for o in outputs]
    graph = helper.make_graph([node], "g", info, results)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)])
    feeds = {n: a for n, a in zip(names, arrays, strict=True) if n}
    with np.errstate(all="ignore"):
        return ReferenceEvaluator(model).run(None, feeds)


X = np.concatenate([normal(40), F32([0.0, 1.5, -2.5, 100.0, -100.0])]).reshape(9, 5)
POSITIVE = np.abs(X) + F32(0.1)
INTS = np.array([[7, -7, 0], [5, -128, 127]], np.int8)
BITS = np.array([[1, 2, 255], [7, 128, 0]], np.uint8)
BOOLS = np.array([True, False, True, False]), np.array([True, True, False, False])
ODD = np.array([0, 1, math.nan, math.inf, -math.inf], F32)

VARIADIC = ["Min", "Max", "Sum", "Mean"]
ON_ANYTHING = [
    "Relu", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Elu", "Selu", "Celu",
    "Softplus", "Softsign", "Mish", "Gelu", "Swish", "ThresholdedRelu", "Shrink", "Erf", "Abs",
    "Neg", "Floor", "Ceil", "Round", "Sign", "Sin", "Cos", "Tan", "Atan", "Asinh",
]  # fmt: skip

TABLE = [
    *[(n, [X], {}) for n in ON_ANYTHING],
    *[(n, [POSITIVE], {}) for n in ["Log", "Sqrt", "Reciprocal", "Exp"]],
    *[(n, [np.tanh(X)], {}) for n in ["Asin", "Acos", "Atanh", "Sinh", "Cosh"]],
    ("Acosh", [POSITIVE + 1], {}),
    ("LeakyRelu", [X], {"alpha": 0.3}),
    ("HardSigmoid", [X], {"alpha": 0.4, "beta": 0.25}),
    ("Elu", [X], {"alpha": 0.4}),
    ("Celu", [X], {"alpha": 2.0}),
    ("Selu", [X], {"alpha": 2.0, "gamma": 0.5}),
    ("Swish", [X], {"alpha": 2.0}),
    ("Gelu", [X], {"approximate": "tanh"}),
    ("ThresholdedRelu", [X], {"alpha": 0.5}),
    ("Shrink", [X], {"lambd": 0.75, "bias": 0.5}),
    ("PRelu", [X, normal(5, seed=3)], {}),
    ("Clip", [X, np.array(-1, F32), np.array(1, F32)], {}),
    ("Clip", [X, None, np.array(1, F32)], {}),
    *[(n, [X, normal(5, seed=3)], {}) for n in ["Add", "Sub", "Mul", "Div", *VARIADIC]],
    *[(n, [X, normal(5, seed=3), normal(9, 1)], {}) for n in VARIADIC],
    ("Pow", [POSITIVE, normal(5)], {}), ("Pow", [X, np.array(3, np.int64)], {}),
    ("Add", [INTS, INTS], {}), ("Div", [np.int32(INTS), np.array([2, -2, 3], np.int32)], {}),
    ("Mod", [INTS, np.array([3, -3, 5], np.int8)], {}),
    ("Mod", [INTS, np.array([3, -3, 5], np.int8)], {"fmod": 1}),
    ("Mod", [X, np.array(1.5, F32)], {"fmod": 1}),
    ("Mod", [X, np.array(-1.5, F32)], {}),
    *[(n, [np.round(X), np.round(normal(5, seed=3))], {})
      for n in ["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"]],
    *[(n, list(BOOLS), {}) for n in ["And", "Or", "Xor", "Equal"]], ("Not", [BOOLS[0]], {}),
    *[(n, [BITS, BITS[:, ::-1].copy()], {}) for n in ["BitwiseAnd", "BitwiseOr", "BitwiseXor"]],
    ("BitwiseNot", [INTS], {}),
    ("BitShift", [BITS, np.array([1, 2, 3], np.uint8)], {"direction": "LEFT"}),
    ("BitShift", [BITS, np.array([1, 2, 3], np.uint8)], {"direction": "RIGHT"}),
    *[("BitShift", [INTS, np.array([1, -1, 9], np.int8)], {"direction": d})
      for d in ["LEFT", "RIGHT"]],
    ("IsNaN", [ODD], {}), ("IsInf", [ODD], {}), ("IsInf", [ODD], {"detect_negative": 0}),
    ("IsInf", [ODD], {"detect_positive": 0}),
    ("Where", [X > 0, X, normal(5)], {}),
    ("Where", [np.array([[True], [False]]), INTS, INTS[:1]], {}),
    *[("Cast", [X], {"to": t}) for t in (1, 3, 6, 7, 9, 10, 11)],
    ("Cast", [BOOLS[0]], {"to": 1}), ("Cast", [INTS], {"to": 1}),
    ("CastLike", [X, INTS], {}), ("Identity", [X], {}), ("Dropout", [X], {}),
]  # fmt: skip


@pytest.mark.parametrize("case", TABLE, ids=lambda c: f"{c[0]}-{c[2]}")
def test_agrees_with_the_onnx_reference(case):
    op_type, arrays, attributes = case
    op = REGISTRY["", op_type](**attributes)
    (expected,) = reference(op_type, arrays, attributes)
    (got,) = run_op(op, arrays, native=False)
    assert got.dtype == expected.dtype
    assert got.shape == expected.shape
    if got.dtype.kind == "f":
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    else:
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("op", [logic.Identity(), logic.Dropout(), logic.Cast(to=1)], ids=repr)
@pytest.mark.parametrize("last", [[], [0]])
def test_operators_that_cost_nothing(op, last):
    x = normal(2, 3, 4, 5)
    np.testing.assert_array_equal(run_op(op, [x], channels_last=last)[0], x)


def test_dropout_mask_is_all_true():
    y, mask = run_op(logic.Dropout(), [normal(3, 4)], n_outputs=2, native=False)
    np.testing.assert_array_equal(y, normal(3, 4))
    assert mask.dtype == np.bool_
    assert mask.all()


@pytest.mark.parametrize("consts", [[1, 2], [1], []])
def test_dropout_in_training_mode_is_refused(consts):
    arrays = [normal(3, 4), np.array(0.5, F32), np.array(True)]
    with pytest.raises(UnsupportedError, match="training_mode"):
        run_op(logic.Dropout(), arrays, consts=consts, native=False)
    arrays[1] = np.array(0, F32)
    (y,) = run_op(logic.Dropout(), arrays, consts=consts, native=False)
    np.testing.assert_array_equal(y, arrays[0])


@pytest.mark.parametrize("to", [16, 17, 22, 99])
def test_cast_to_types_that_numpy_lacks_is_refused(to):
    with pytest.raises(UnsupportedError, match=f"data type {to}"):
        run_op(logic.Cast(to=to), [normal(2)], native=False)


def of(dtype, *shape):
    return TensorType(np.dtype(dtype), shape)


@pytest.mark.parametrize(
    ("op", "types", "message"),
    [
        (binary.Add(), [of(F32, 2, 3), of(F32, 2)], "do not broadcast"),
        (binary.Add(), [of(F32, 2), of(np.int32, 2)], "one dtype"),
        (binary.Sum(), [of(np.int32, 2)], "floating-point"),
        (binary.BitShift(direction="LEFT"), [of(F32, 2), of(F32, 2)], "BitShift"),
        (binary.BitShift(direction="UP"), [of(np.uint8, 2)] * 2, "direction 'UP'"),
        (binary.BitwiseAnd(), [of(F32, 2)] * 2, "integer"),
        (logic.And(), [of(F32, 2)] * 2, "boolean"),
        (logic.Where(), [of(F32, 2)] * 3, "boolean"),
        (logic.Where(), [of(bool, 2), of(F32, 2), of(np.float64, 2)], "one dtype"),
        (logic.IsNaN(), [of(np.int32, 2)], "floating-point"),
    ],
    ids=lambda v: repr(v)[:40],
)
def test_bad_inputs_are_named(op, types, message):
    with pytest.raises(ShapeError, match=message):
        op.infer(types, [None] * len(types))


def test_unknown_shapes_and_symbols_pass_through():
    unknown = TensorType(np.dtype(F32), None)
    assert binary.Add().infer([unknown, of(F32, 2)], [None, None]) == [unknown]
    assert binary.Add().infer([of(F32, "N", 3), of(F32, 1)], [None, None]) == [of(F32, "N", 3)]


@pytest.mark.parametrize("shape", [(0,), (2, 0, 3)])
def test_empty_tensors(shape):
    for op in (binary.Add(), binary.Sum(), binary.Pow()):
        (y,) = run_op(op, [np.zeros(shape, F32), np.zeros((1,), F32)])
        assert y.shape == shape
