"""Tensors of strings: Cast to and from them, operators that move them, those that refuse them."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import fastconv

STRING, FLOAT = TensorProto.STRING, TensorProto.FLOAT


def load(nodes, inputs, consts=(), **options):
    """A model with these nodes; its output is the last node's first."""
    made = [helper.make_node(*n[:3], **(n[3] if len(n) > 3 else {})) for n in nodes]
    graph = helper.make_graph(
        made, "g",
        [helper.make_tensor_value_info(n, code, shape) for n, (code, shape) in inputs.items()],
        [helper.make_empty_tensor_value_info(made[-1].output[0])],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in dict(consts).items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return fastconv.load(model.SerializeToString(), **options)


def cast(x, code):
    source = STRING if x.dtype == object else helper.np_dtype_to_tensor_dtype(x.dtype)
    return load([("Cast", ["x"], ["y"], {"to": code})], {"x": (source, ["n"])})(x)


def texts(*values):
    return np.array(values, object)


@pytest.mark.parametrize(
    ("numbers", "wanted"),
    [
        (
            np.array([1.5, 2, 0.1, 1 / 3, -0.0, 1e-5, 1e7, 123456789, 3e38], np.float32),
            ["1.5", "2", "0.1", "0.33333334", "-0", "9.9999997e-06", "10000000", "1.2345679e+08",
             "3e+38"],
        ),
        (np.array([1e-5, 1 / 3]), ["1e-05", "0.33333333"]),
        (np.array([np.nan, np.inf, -np.inf], np.float32), ["NaN", "INF", "-INF"]),
        (np.array([0.1, 65504], np.float16), ["0.099975586", "65504"]),
        (np.array([-(2**63), 2**63 - 1]), ["-9223372036854775808", "9223372036854775807"]),
        (np.array([True, False]), ["1", "0"]),
    ],
    ids=["float32", "float64", "special", "float16", "int64", "bool"],
)  # fmt: skip
def test_numbers_become_strings_as_onnxruntime_writes_them(numbers, wanted):
    got = cast(numbers, STRING)
    assert got.dtype == object
    assert got.tolist() == wanted


@pytest.mark.parametrize(
    ("strings", "dtype", "wanted"),
    [
        (["3.14", "1000", "1e-5", "1E8", " 3 "], np.float32, [3.14, 1000, 1e-5, 1e8, 3]),
        (["+INF", "inf", "-Infinity", "NaN"], np.float64, [np.inf, np.inf, -np.inf, np.nan]),
        (["12", "-3", "100.5", "1e3"], np.int64, [12, -3, 100, 1000]),
        (["9223372036854775807"], np.int64, [2**63 - 1]),
        (["18446744073709551615"], np.uint64, [2**64 - 1]),
        (["300", "-3"], np.uint8, [44, 253]),
        (["1", "0", "0.5"], np.bool_, [True, False, True]),
        (["0.1"], np.float16, [np.float16(0.1)]),
    ],
)
def test_strings_become_numbers(strings, dtype, wanted):
    got = cast(texts(*strings), helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, np.array(wanted, dtype))


@pytest.mark.parametrize("text", ["abc", "", "1_000", "1.5x"])
@pytest.mark.parametrize("code", [FLOAT, TensorProto.INT64, TensorProto.BFLOAT16])
def test_a_string_that_is_no_number_is_named(text, code):
    with pytest.raises(fastconv.InputError, match=f"'Cast_0'.*string '{text}' is no number"):
        cast(texts("1", text), code)


@pytest.mark.parametrize("text", ["inf", "nan", "1e30", "99999999999999999999"])
def test_a_string_beyond_all_integers_is_refused(text):
    with pytest.raises(fastconv.InputError, match="out of its range"):
        cast(texts(text), TensorProto.INT32)


def test_the_class_as_text_behind_a_network():
    rng = np.random.default_rng(0)
    x, w = (rng.normal(size=s).astype(np.float32) for s in ((2, 3, 4, 4), (5, 3, 4, 4)))
    model = load(
        [
            ("Conv", ["x", "w"], ["c"]),
            ("ArgMax", ["c"], ["a"], {"axis": 1, "keepdims": 0}),
            ("Cast", ["a"], ["s"], {"to": STRING}),
            ("Reshape", ["s", "shape"], ["flat"]),
            ("Concat", ["flat", "flat"], ["y"], {"axis": 0}),
        ],
        {"x": (FLOAT, ["n", 3, 4, 4])},
        {"w": w, "shape": np.array([-1])},
    )
    scores = np.einsum("nchw,fchw->nf", x, w)
    wanted = [str(k) for k in scores.argmax(1)]
    for _ in range(2):
        assert model(x).tolist() == wanted * 2


def test_strings_inside_the_graph_and_back_to_numbers():
    nodes = [
        ("Cast", ["x"], ["s"], {"to": STRING}),
        ("Concat", ["s", "more"], ["both"], {"axis": 0}),
        ("CastLike", ["both", "x"], ["f"]),
        ("Relu", ["f"], ["y"]),
    ]
    model = load(nodes, {"x": (FLOAT, [2])}, {"more": texts("-1", "2.5")})
    assert model(np.array([0.5, -3], np.float32)).tolist() == [0.5, 0, 0, 2.5]


def test_padding_adds_empty_strings():
    model = load([("Pad", ["x", "p"], ["y"])], {"x": (STRING, [1])}, {"p": np.array([1, 0])})
    assert model(texts("a")).tolist() == ["", "a"]


REFUSING = ["ReduceSum", "ReduceMax", "ArgMax", "Relu", "Softmax", "Not", "GlobalAveragePool"]


@pytest.mark.parametrize("optimize", [True, False])
@pytest.mark.parametrize("op", [*REFUSING, "Conv", "MatMul", "Add"])
def test_operators_of_numbers_refuse_strings(op, optimize):
    inputs = ["x"] if op in REFUSING else ["x", "x"]
    with pytest.raises(fastconv.ShapeError, match=f"{op}_0.*{op} takes tensors of numbers, not of"):
        load([(op, inputs, ["y"])], {"x": (STRING, [1, 1, 1, 1])}, optimize=optimize)(
            texts("a").reshape(1, 1, 1, 1)
        )
