"""float16, bfloat16 and the small types: held in wider ones, rounded where ONNX casts."""

import sys

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import fastconv
from fastconv import InputError, UnsupportedError, formats
from fastconv.cli import main

CODES = sorted(formats.NAMES)
NAMES = [formats.NAMES[c] for c in CODES]


def every_value(code):
    """All numbers of a type, in the dtype that callers see."""
    dtype = formats.outer_dtype(code)
    bits = {"float16": 16, "bfloat16": 16}.get(dtype.name)
    if bits:
        return np.arange(1 << 16, dtype=np.uint16).view(dtype)
    return np.arange(256, dtype=np.uint8).view(dtype)


@pytest.mark.parametrize("code", [c for c in CODES if c not in (21, 22, 23, 25, 26, 27, 28)],
                         ids=formats.NAMES.get)  # fmt: skip
def test_every_value_survives_being_held(code):
    x = every_value(code)
    held = formats.widened(x)
    assert held.dtype == formats.held_dtype(code)
    back = formats.narrowed(held, code)
    assert back.dtype == x.dtype
    np.testing.assert_array_equal(back.astype(np.float32), x.astype(np.float32))


@pytest.mark.parametrize("code", [10, 16, 17, 18, 19, 20, 23, 27, 28], ids=formats.NAMES.get)
def test_rounding_is_that_of_the_type_itself(code):
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.standard_normal(2000) * s for s in (1e-3, 1, 30)]).astype(np.float32)
    got = formats.rounded(x, code, saturate=False)
    with np.errstate(all="ignore"):
        expected = x.astype(formats.outer_dtype(code)).astype(np.float32)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    ("code", "x", "expected"),
    [
        (16, [3.4028234e38, np.nan, -np.inf, 3.4e38], [np.inf, np.nan, -np.inf, np.inf]),
        (17, [1e9, -1e9, np.nan, np.inf], [448, -448, np.nan, 448]),
        (21, [3.9, 16, -1], [3, 0, 15]),
        (22, [7.9, -8, 9], [7, -8, -7]),
        (26, [1, 2, -3], [1, -2, 1]),
        (24, [1, 1.1, 0.3, 4], [1, 2, 0.5, 4]),
    ],
)
def test_what_is_out_of_range_saturates_or_wraps(code, x, expected):
    got = formats.rounded(np.float32(x), code)
    np.testing.assert_array_equal(got, np.array(expected, got.dtype))


@pytest.mark.parametrize(("mode", "expected"), [("up", 4), ("down", 2), ("nearest", 4)])
def test_powers_of_two_round_as_asked(mode, expected):
    assert formats.rounded(np.float32([3]), 24, round_mode=mode) == expected


def test_small_floats_need_ml_dtypes_and_say_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    assert formats.rounded(np.float32([1.00001]), 16) == 1  # bfloat16 does not
    assert formats.rounded(np.float32([9]), 22) == -7
    with pytest.raises(UnsupportedError, match="float8_e5m2 needs the ml_dtypes package"):
        formats.rounded(np.float32([1]), 19)


def half_model(code, dtype):
    """Conv → Relu → Cast to float32 and back → Add, all of one 16-bit type."""
    rng = np.random.default_rng(1)
    w = rng.standard_normal((4, 3, 3, 3)).astype(dtype)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Cast", ["b"], ["c"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["c"], ["d"], to=code),
        helper.make_node("Add", ["d", "b"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "half",
        [helper.make_tensor_value_info("x", code, [1, 3, "h", 8])],
        [helper.make_tensor_value_info("y", code, [1, 4, "k", 6])],
        [numpy_helper.from_array(w, "w")],
    )
    m = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    m.ir_version = 8
    return m, w


@pytest.mark.parametrize(
    ("code", "dtype", "tolerance"), [(10, np.float16, 2e-3), (16, ml_dtypes.bfloat16, 2e-2)]
)
def test_16_bit_models_run_in_float32_and_keep_their_types(code, dtype, tolerance):
    m, w = half_model(code, dtype)
    model = fastconv.load(m.SerializeToString(), threads=1, fallback="error")
    x = np.random.default_rng(2).standard_normal((1, 3, 8, 8)).astype(dtype)
    assert model.inputs[0].dtype == model.outputs[0].dtype == dtype
    y = model(x)
    assert y.dtype == dtype
    conv = sum(
        np.einsum(
            "nchw,fc->nfhw",
            x.astype(np.float64)[:, :, i : i + 6, j : j + 6],
            w.astype(np.float64)[:, :, i, j],
        )
        for i in range(3)
        for j in range(3)
    )
    expected = 2 * np.maximum(conv, 0)
    np.testing.assert_allclose(y.astype(np.float64), expected, rtol=tolerance, atol=tolerance)
    kernels = {s.kernel for s in model.prepare({"x": x.shape}).plan.steps}
    assert any(k.startswith("conv") for k in kernels), kernels
    # What is held may be fed as well, and is rounded first.
    np.testing.assert_array_equal(model(x.astype(np.float32)), y)
    with pytest.raises(InputError, match="has dtype float64"):
        model(x.astype(np.float64))


def test_four_bit_integers_are_fed_and_returned():
    node = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.UINT4)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.INT4, [4])],
        [helper.make_tensor_value_info("y", TensorProto.UINT4, [4])],
    )
    m = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    model = fastconv.load(m.SerializeToString(), fallback="error")
    y = model(np.array([0, 1, 7, -1], ml_dtypes.int4))
    assert y.dtype == ml_dtypes.uint4
    assert y.astype(np.int32).tolist() == [0, 1, 7, 15]


def test_without_ml_dtypes_inputs_and_outputs_are_what_is_held(monkeypatch):
    m, _ = half_model(16, ml_dtypes.bfloat16)
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    model = fastconv.load(m.SerializeToString(), threads=1)
    assert model.inputs[0].dtype == np.float32
    assert model(np.zeros((1, 3, 8, 8), np.float32)).dtype == np.float32


def test_an_operator_of_the_reference_gets_the_types_of_the_file():
    m = onnx.parser.parse_model("""
    <ir_version: 10, opset_import: ["" : 26]>
    g (float16[2] x) => (int16[2] y) { y = BitCast <to = 5> (x) }""")
    model = fastconv.load(m.SerializeToString(), fallback="allow")
    x = np.float16([1, -2])
    assert model(x).tolist() == x.view(np.int16).tolist()


def test_a_float16_model_is_inspected_and_verified(tmp_path, capsys):
    m, _ = half_model(10, np.float16)
    path = tmp_path / "half.onnx"
    onnx.save(m, path)
    assert main(["inspect", str(path), "--shape", "x=1,3,8,8"]) == 0
    assert "conv" in capsys.readouterr().out.lower()
    for other in ("onnxruntime", "reference"):
        command = ["verify", str(path), "--shape", "x=1,3,8,8", "--tolerance", "0.01"]
        assert main([*command, "--against", other]) == 0
