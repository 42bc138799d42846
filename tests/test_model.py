"""``fastconv.load`` and ``Model``: what they take, and what they say when it makes no sense."""

from __future__ import annotations

import pathlib

import numpy as np
import onnx
import pytest
from cli_tools import LENET, build, node
from onnx import TensorProto, helper

import fastconv
from fastconv import InputError, MemoryLimitError, OptionError, UnsupportedError


@pytest.fixture(scope="module")
def model():
    return fastconv.load(LENET, threads=1)


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).standard_normal((2, 1, 28, 28)).astype(np.float32)


@pytest.mark.parametrize("kind", [pathlib.Path, str, bytes, bytearray, memoryview])
def test_a_model_comes_as_a_path_or_as_bytes(kind, model, x):
    source = kind(LENET) if kind in (pathlib.Path, str) else kind(pathlib.Path(LENET).read_bytes())
    np.testing.assert_array_equal(fastconv.load(source)(x), model(x))


@pytest.mark.parametrize("source", [None, 5, ["x.onnx"], np.zeros(3, np.uint8)])
def test_other_sources_are_refused(source):
    with pytest.raises(OptionError, match=f"as a path or as bytes, not as {type(source).__name__}"):
        fastconv.load(source)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *[("threads", v) for v in (-1, 1.5, "2", True, 10**6)],
        *[("memory_limit", v) for v in (-1, 0, 1.5, "1", True)],
        *[("fallback", v) for v in ("x", None, 1)],
        *[("disable", v) for v in ("affine", ["nosuch"])],
    ],
)
def test_options_that_make_no_sense_are_named(option, value):
    with pytest.raises(OptionError, match="nosuch" if value == ["nosuch"] else option):
        fastconv.load(LENET, **{option: value})


def test_numpy_numbers_are_numbers_too(x):
    model = fastconv.load(LENET, threads=np.int64(2), memory_limit=np.int64(1000))
    assert model.threads == 2
    with pytest.raises(MemoryLimitError, match="the limit is 1000"):
        model(x)


def test_outputs_to_compute_are_a_list_of_names(model, x):
    (name,) = model.run({"input": x}, ["logits"])
    assert name == "logits"
    with pytest.raises(InputError, match=r"expected a list of names, \['logits'\]"):
        model.run({"input": x}, "logits")


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({"image": (1, 1, 28, 28)}, "no input 'image'; the model takes input"),
        ({"input": (-1, 1, 28, 28)}, "negative size"),
        ({"input": (1, 28, 28)}, "rank 3"),
    ],
)
def test_shapes_to_plan_for_are_checked(model, shapes, words):
    with pytest.raises(InputError, match=words):
        model.prepare(shapes)


@pytest.mark.parametrize("shape", ["x", (1.5, 1, 28, 28), 7])
def test_a_summary_is_for_sizes_that_are_whole_numbers(model, shape):
    with pytest.raises(OptionError, match="shape for 'input'"):
        model.summary({"input": shape})


def test_text_from_the_reference_is_text_as_it_is_fed():
    text = np.array(["Monday", "tuesday"], object)
    graph = helper.make_graph(
        [node("StringNormalizer", ["x"], ["y"], case_change_action="LOWER")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.STRING, [2])],
        [helper.make_tensor_value_info("y", TensorProto.STRING, [2])],
    )
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    y = fastconv.load(data.SerializeToString(), fallback="allow")(text)
    assert y.dtype == object
    assert y.tolist() == ["monday", "tuesday"]


def of_domain(op, domain, version):
    """One node of another domain than ONNX's own; the model imports that domain alone."""
    graph = helper.make_graph(
        [node(op, ["x"], ["y"], "odd", domain=domain)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])],
        [helper.make_empty_tensor_value_info("y")],
    )
    imports = [helper.make_opsetid(domain, version)]
    return helper.make_model(graph, opset_imports=imports, ir_version=9).SerializeToString()


def test_the_opset_of_a_refusal_is_that_of_the_operators_domain():
    data = of_domain("Binarizer", "ai.onnx.ml", 3)
    with pytest.raises(UnsupportedError, match=r"'odd' \(ai.onnx.ml.Binarizer, opset 3\)"):
        fastconv.load(data, fallback="error")
    x = np.array([[-1, 0, 2]] * 2, np.float32)
    assert fastconv.load(data, fallback="allow")(x).tolist() == [[0, 0, 1]] * 2


@pytest.mark.parametrize("fallback", ["error", "warn", "allow"])
@pytest.mark.parametrize(("op", "domain"), [("Foo", "com.example"), ("ZipMap", "ai.onnx.ml")])
def test_what_the_reference_lacks_too_is_refused_at_load(op, domain, fallback):
    with pytest.raises(UnsupportedError) as refused:
        fastconv.load(of_domain(op, domain, 3), fallback=fallback)
    assert f"node 'odd' ({domain}.{op}, opset 3); onnx.reference cannot run it" in str(
        refused.value
    )
    assert "export the model without it" in str(refused.value)
    assert "fallback=" not in str(refused.value)


def test_a_model_that_nothing_runs_can_be_looked_at():
    shown = fastconv.load(of_domain("Foo", "com.example", 3), fallback="show")
    assert shown.graph.nodes[0].op.label == "com.example.Foo"
    with pytest.raises(UnsupportedError, match="cannot run it"):
        shown(np.zeros((2, 3), np.float32))


def test_memory_is_limited_where_shapes_depend_on_data():
    data = onnx.load_from_string(
        build([node("Expand", ["x", "n"], ["y"])], {"x": [1], "n": [1]}, ["y"])
    )
    data.graph.input[1].type.tensor_type.elem_type = TensorProto.INT64
    model = fastconv.load(data.SerializeToString(), memory_limit=1 << 20)
    one = np.ones(1, np.float32)
    assert model.run({"x": one, "n": np.array([1000])})["y"].shape == (1000,)
    with pytest.raises(MemoryLimitError, match=r"'expand'.*the limit is 1048576"):
        model.run({"x": one, "n": np.array([1 << 19])})


OVERRIDABLE = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[1,2,h,w] x, float[3,2,1,1] k = {1, 2, 3, 4, 5, 6}, float[3] b = {0, 0, 0})
    => (float[1,3,h,w] y) { c = Conv (x, k, b)  y = Relu (c) }"""


def test_an_initializer_that_is_also_an_input_can_be_fed():
    model = fastconv.load(onnx.parser.parse_model(OVERRIDABLE).SerializeToString(), threads=1)
    x = np.ones((1, 2, 3, 3), np.float32)
    assert [i.name for i in model.inputs] == ["x"]
    assert [(o.name, o.shape) for o in model.overridable] == [("k", (3, 2, 1, 1)), ("b", (3,))]
    y = lambda **feeds: model.run({"x": x, **feeds})["y"][0, :, 0, 0].tolist()  # noqa: E731
    assert y() == [3, 7, 11]
    assert y(b=np.float32([1, -8, 0])) == [4, 0, 11]
    assert y(k=np.ones((3, 2, 1, 1), np.float32)) == [2, 2, 2]
    assert y(k=np.zeros((3, 2, 1, 1), np.float32), b=np.float32([1, 2, 3])) == [1, 2, 3]
    assert y() == [3, 7, 11]
    with pytest.raises(InputError, match=r"'b' has shape \[2\]"):
        y(b=np.zeros(2, np.float32))
    with pytest.raises(InputError, match="no input 'c'"):
        y(c=x)
