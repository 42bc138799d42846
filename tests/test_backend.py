"""fastconv as a backend of the onnx package (its own cases: ``test_conformance.py``)."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from fastconv import InputError, ModelError, UnsupportedError, backend


def relu_model():
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Neg", ["x"], ["2nd"])],
        "g",
        [value("x", TensorProto.FLOAT, [3])],
        [value("y", TensorProto.FLOAT, [3]), value("2nd", TensorProto.FLOAT, [3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return model


X = np.array([-1, 0, 2], np.float32)


@pytest.mark.parametrize(
    "inputs",
    [[X], (X,), X, {"x": X}, [onnx.numpy_helper.from_array(X)]],
    ids=["list", "tuple", "array", "mapping", "TensorProto"],
)
def test_outputs_come_as_a_tuple_that_names_index_too(inputs):
    got = backend.prepare(relu_model()).run(inputs)
    assert isinstance(got, tuple)
    y, negative = got
    np.testing.assert_array_equal(y, [0, 0, 2])
    np.testing.assert_array_equal(negative, [1, 0, -2])
    assert got.y is y
    assert got["2nd"] is negative


def test_run_model_and_run_node():
    np.testing.assert_array_equal(backend.run_model(relu_model(), [X], threads=1)[0], [0, 0, 2])
    node = helper.make_node("Add", ["a", "b"], ["c"])
    (c,) = backend.run_node(node, [X, X])
    np.testing.assert_array_equal(c, X + X)
    info = [(np.float32, (3,))]
    (c,) = backend.run_node(node, [X, X], outputs_info=info, opset_version=13)
    np.testing.assert_array_equal(c, X + X)
    clip = helper.make_node("Clip", ["a", "", "hi"], ["c"])
    np.testing.assert_array_equal(backend.run_node(clip, [X, np.float32(1)])[0], [-1, 0, 1])


@pytest.mark.parametrize(
    ("device", "yes"), [("CPU", True), ("CPU:0", True), ("CUDA", False), ("TPU", False)]
)
def test_the_cpu_is_the_device(device, yes):
    assert backend.supports_device(device) is yes
    if not yes:
        with pytest.raises(UnsupportedError, match=device):
            backend.prepare(relu_model(), device)


def test_compatible_models_are_those_that_load():
    model = relu_model()
    assert backend.is_compatible(model)
    assert not backend.is_compatible(model, "CUDA")
    model.graph.node[0].input[0] = "nowhere"
    assert not backend.is_compatible(model)
    with pytest.raises(ModelError, match="nowhere"):
        backend.prepare(model)
    with pytest.raises(ModelError, match="ModelProto"):
        backend.prepare(b"bytes")


def test_wrong_counts_of_arrays_are_refused():
    with pytest.raises(InputError, match=r"2 arrays given; the model takes 1: x"):
        backend.prepare(relu_model()).run([X, X])
    with pytest.raises(InputError, match=r"1 arrays given; the node takes 2: a, b"):
        backend.run_node(helper.make_node("Add", ["a", "b"], ["c"]), [X])


def test_an_output_left_out_by_a_fallback_operator_stays_left_out():
    # GRU has two outputs; asking for the second alone must not give the first.
    rng = np.random.default_rng(0)
    arrays = [
        rng.standard_normal(s).astype(np.float32) for s in ((2, 1, 3), (1, 12, 3), (1, 12, 4))
    ]
    gru = {"hidden_size": 4}
    both = backend.run_node(
        helper.make_node("GRU", ["x", "w", "r"], ["y", "h"], **gru), arrays, fallback="allow"
    )
    alone = backend.run_node(
        helper.make_node("GRU", ["x", "w", "r"], ["", "h"], **gru), arrays, fallback="allow"
    )
    np.testing.assert_array_equal(alone.h, both.h)


def test_whatever_a_fallback_operator_raises_names_the_node():
    # Loop bodies are not checked before they run.
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("MatMul", ["v", "v"], ["w"]), helper.make_node("Identity", ["c"], ["d"])],
        "body",
        [value("i", TensorProto.INT64, []), value("c", TensorProto.BOOL, []),
         value("v", TensorProto.FLOAT, None)],
        [value("d", TensorProto.BOOL, []), value("w", TensorProto.FLOAT, None)],
    )  # fmt: skip
    loop = helper.make_node("Loop", ["n", "go", "x"], ["y"], name="the loop", body=body)
    x = np.zeros((2, 3), np.float32)
    with pytest.raises(ModelError, match="'the loop'"):
        backend.run_node(loop, [np.array(2), np.array(True), x], fallback="allow")
