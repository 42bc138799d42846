"""From file structures to the graph: attributes, old operator forms, functions, order, errors."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

import fastconv
from fastconv.errors import ModelError, UnsupportedError
from fastconv.importer.build import build_graph
from fastconv.importer.proto import parse_model


def model(nodes, inputs, outputs, opset=17, inits=(), functions=(), extra=()):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
        [numpy_helper.from_array(a, n) for n, a in inits],
    )
    imports = [helper.make_opsetid("", opset), *extra]
    m = helper.make_model(graph, opset_imports=imports, functions=list(functions))
    m.ir_version = 8
    return m


def graph_of(m):
    return build_graph(parse_model(m.SerializeToString()))


def same_as_onnxruntime(m, *feeds):
    """Run a model with fastconv and onnxruntime (the reference knows no old forms) and compare."""
    import onnxruntime

    names = [i.name for i in m.graph.input]
    session = onnxruntime.InferenceSession(m.SerializeToString())
    expected = session.run(None, dict(zip(names, feeds, strict=True)))
    loaded = fastconv.load(m.SerializeToString(), threads=1, fallback="error")
    got = loaded.run(dict(zip(names, feeds, strict=True)))
    for e, g in zip(expected, got.values(), strict=True):
        assert e.shape == g.shape
        np.testing.assert_allclose(g, e, rtol=1e-5, atol=1e-5)


X = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)

OLD_FORMS = {
    "Clip-6": (7, helper.make_node("Clip", ["x"], ["y"], min=-0.5, max=0.5)),
    "Slice-1": (
        9,
        helper.make_node("Slice", ["x"], ["y"], starts=[1, 0], ends=[3, -2], axes=[1, 3]),
    ),
    "Pad-2": (9, helper.make_node("Pad", ["x"], ["y"], pads=[0, 0, 1, 2, 0, 0, 3, 4], value=1.5)),
    "Squeeze-1": (11, helper.make_node("Squeeze", ["s"], ["y"], axes=[0, 2])),
    "Unsqueeze-1": (11, helper.make_node("Unsqueeze", ["x"], ["y"], axes=[0, 5])),
    "ReduceSum-1": (11, helper.make_node("ReduceSum", ["x"], ["y"], axes=[2, 3], keepdims=0)),
    "ReduceMean-13": (13, helper.make_node("ReduceMean", ["x"], ["y"], axes=[1])),
    "ReduceMax-11": (11, helper.make_node("ReduceMax", ["x"], ["y"], axes=[-1])),
    "Split-2": (11, helper.make_node("Split", ["x"], ["y", "z"], axis=3, split=[3, 5])),
    "Split-11 even": (11, helper.make_node("Split", ["x"], ["y", "z"], axis=3)),
    "Softmax-1": (11, helper.make_node("Softmax", ["x"], ["y"])),
    "Softmax-1 axis": (11, helper.make_node("Softmax", ["x"], ["y"], axis=2)),
    "LogSoftmax-11": (11, helper.make_node("LogSoftmax", ["x"], ["y"], axis=1)),
    "Upsample-7": (
        7, helper.make_node("Upsample", ["x"], ["y"], mode="nearest", scales=[1.0, 1.0, 2.0, 3.0]),
    ),
    "Resize-10": (
        10, helper.make_node("Resize", ["x", "grow"], ["y"], mode="nearest"),
    ),
    "Resize-10 smaller": (
        10, helper.make_node("Resize", ["x", "shrink"], ["y"], mode="nearest"),
    ),
    "Resize-10 linear": (
        10, helper.make_node("Resize", ["x", "shrink"], ["y"], mode="linear"),
    ),
    "Dropout-7": (7, helper.make_node("Dropout", ["x"], ["y"], ratio=0.4)),
}  # fmt: skip


@pytest.mark.parametrize("case", OLD_FORMS)
def test_an_old_form_of_an_operator_means_what_it_meant(case):
    opset, node = OLD_FORMS[case]
    x = np.zeros((1, 3, 1, 8), np.float32) + X[:1, :, :1] if "s" in node.input else X
    scales = {"grow": (1, 1, 2, 2.5), "shrink": (1, 1, 0.6, 0.4)}
    consts = [(n, np.array(s, np.float32)) for n, s in scales.items() if n in node.input]
    m = model([node], [(node.input[0], x.shape)], list(node.output), opset, inits=consts)
    same_as_onnxruntime(m, x)


def test_a_function_is_inlined_with_its_attributes_and_defaults():
    f = parser.parse_function(
        """<opset_import: ["" : 17], domain: "my">
        leaky <alpha> (x) => (y) { t = LeakyRelu <alpha: float = @alpha> (x)  y = Neg (t) }"""
    )
    nodes = [
        helper.make_node("leaky", ["x"], ["a"], domain="my", alpha=0.5),
        helper.make_node("leaky", ["a"], ["b"], domain="my", alpha=0.1),
    ]
    m = model(nodes, [("x", X.shape)], ["b"], functions=[f], extra=[helper.make_opsetid("my", 1)])
    g = graph_of(m)
    assert [n.op.label for n in g.nodes] == ["LeakyRelu", "Neg", "LeakyRelu", "Neg"]
    assert g.nodes[0].op.alpha == pytest.approx(0.5)
    same_as_onnxruntime(m, X)


def test_a_function_that_calls_itself_is_refused():
    f = parser.parse_function(
        '<opset_import: ["" : 17, "my" : 1], domain: "my"> f (x) => (y) { y = my.f (x) }'
    )
    node = helper.make_node("f", ["x"], ["y"], domain="my")
    m = model([node], [("x", [1])], ["y"], functions=[f], extra=[helper.make_opsetid("my", 1)])
    with pytest.raises(ModelError, match="calls itself"):
        graph_of(m)


def test_functions_that_double_at_every_level_are_refused_before_memory_runs_out():
    functions = []
    for k in range(40):
        body = "y = Neg (x)" if k == 0 else f"t = my.f{k - 1} (x)  y = my.f{k - 1} (t)"
        text = f'<opset_import: ["" : 17, "my" : 1], domain: "my"> f{k} (x) => (y) {{ {body} }}'
        functions.append(parser.parse_function(text))
    node = helper.make_node("f39", ["x"], ["y"], domain="my")
    m = model(
        [node], [("x", [1])], ["y"], functions=functions, extra=[helper.make_opsetid("my", 1)]
    )
    import fastconv.importer.build as build

    old, build.MAX_NODES = build.MAX_NODES, 10_000
    try:
        with pytest.raises(ModelError, match="more than 10000 nodes"):
            graph_of(m)
    finally:
        build.MAX_NODES = old


def test_nodes_in_any_order_are_sorted():
    nodes = [
        helper.make_node("Neg", ["b"], ["c"]),
        helper.make_node("Abs", ["a"], ["b"]),
        helper.make_node("Neg", ["x"], ["a"]),
    ]
    g = graph_of(model(nodes, [("x", [2])], ["c"]))
    assert [n.outputs[0] for n in g.nodes] == ["a", "b", "c"]


BROKEN = {
    "cycle": (
        [helper.make_node("Neg", ["b"], ["a"]), helper.make_node("Neg", ["a"], ["b"])], "cycle",
    ),
    "missing input": ([helper.make_node("Neg", ["nowhere"], ["b"])], "nowhere"),
    "written twice": (
        [helper.make_node("Neg", ["x"], ["b"]), helper.make_node("Abs", ["x"], ["b"])], "already",
    ),
    "no such output": ([helper.make_node("Neg", ["x"], ["z"])], "'b'"),
    "too many inputs": ([helper.make_node("Neg", ["x", "x"], ["b"])], "takes 1 to 1 inputs"),
    "attribute type": ([helper.make_node("Softmax", ["x"], ["b"], axis="one")], "axis"),
    "missing attribute": ([helper.make_node("Cast", ["x"], ["b"])], "'to'"),
    "empty constant": ([helper.make_node("Constant", [], ["b"])], "exactly one value"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_an_inconsistent_graph_is_refused_with_its_reason(case):
    nodes, words = BROKEN[case]
    with pytest.raises(ModelError, match=words):
        graph_of(model(nodes, [("x", [2])], ["b"]))


def test_an_attribute_that_nobody_reads_is_refused():
    with pytest.raises(UnsupportedError, match="colour"):
        graph_of(model([helper.make_node("Relu", ["x"], ["b"], colour=3)], [("x", [2])], ["b"]))


@pytest.mark.parametrize(
    ("opset", "outputs", "attrs"),
    [(9, ["y", "m", "v", "sm", "sv"], {}), (15, ["y", "m", "v"], {"training_mode": 1})],
)
def test_batch_normalization_in_training_mode_is_refused(opset, outputs, attrs):
    node = helper.make_node("BatchNormalization", ["x", *"abcd"], outputs, **attrs)
    inits = [(n, np.ones(3, np.float32)) for n in "abcd"]
    with pytest.raises(UnsupportedError, match="training mode"):
        graph_of(model([node], [("x", X.shape)], ["y"], opset, inits=inits))


def test_before_opset_7_the_second_operand_may_start_at_an_axis():
    bias = np.arange(3, dtype=np.float32)
    node = helper.make_node("Add", ["x", "bias"], ["y"], broadcast=1, axis=1)
    m = model([node], [("x", X.shape)], ["y"], opset=6, inits=[("bias", bias)])
    y = fastconv.load(m.SerializeToString())(X)
    np.testing.assert_array_equal(y, X + bias[:, None, None])


def test_before_opset_7_slopes_are_per_channel():
    slopes = np.array([0.5, 0.25, 0.125], np.float32)
    node = helper.make_node("PRelu", ["x", "slopes"], ["y"])
    m = model([node], [("x", X.shape)], ["y"], opset=6, inits=[("slopes", slopes)])
    y = fastconv.load(m.SerializeToString())(-X)
    np.testing.assert_allclose(y, np.where(X < 0, -X, -X * slopes[:, None, None]))


def test_before_opset_6_casts_name_their_type():
    node = helper.make_node("Cast", ["x"], ["y"], to="INT32")
    m = model([node], [("x", [2])], ["y"], opset=5)
    y = fastconv.load(m.SerializeToString())(np.float32([1.5, -2.5]))
    assert y.dtype == np.int32
    assert y.tolist() == [1, -2]


def test_an_initializer_that_is_also_an_input_is_a_constant():
    w = np.ones((1, 3, 1, 1), np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    m = model([node], [("x", X.shape), ("w", w.shape)], ["y"], inits=[("w", w)])
    assert graph_of(m).inputs == ["x"]


def test_an_unknown_operator_is_named_when_fallback_is_an_error():
    m = model([helper.make_node("Det", ["x"], ["y"], name="d")], [("x", [2, 2])], ["y"])
    with pytest.raises(
        UnsupportedError, match=r"'d' \(Det, opset \d+\); load with fallback='warn'"
    ):
        fastconv.load(m.SerializeToString(), fallback="error")
    with pytest.warns(fastconv.FallbackWarning, match="Det"):
        loaded = fastconv.load(m.SerializeToString())
    x = np.array([[1, 2], [3, 4]], np.float32)
    np.testing.assert_allclose(loaded(x), -2, rtol=1e-6)


def test_if_runs_with_the_outer_values_that_its_branches_read():
    then = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["t"])], "then", [],
        [helper.make_tensor_value_info("t", TensorProto.FLOAT, [2])],
    )  # fmt: skip
    other = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["e"])], "else", [],
        [helper.make_tensor_value_info("e", TensorProto.FLOAT, [2])],
    )  # fmt: skip
    nodes = [
        helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other),
        helper.make_node("Relu", ["y"], ["z"]),
    ]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("c", TensorProto.BOOL, []),
         helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [2])],
    )  # fmt: skip
    m = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    m.ir_version = 8
    onnx.checker.check_model(m)
    loaded = fastconv.load(m.SerializeToString(), fallback="error")
    x = np.array([1, -2], np.float32)
    assert loaded(np.array(True), x).tolist() == [2, 0]
    assert loaded(np.array(False), x).tolist() == [0, 2]


@pytest.mark.parametrize("opset", [11, 17])
def test_a_loop_stacks_what_its_iterations_give(opset):
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Add", ["v", "x"], ["w"]),
            helper.make_node("ReduceMean", ["w"], ["scalar"], keepdims=0),
            helper.make_node("ReduceMean", ["w"], ["vector"], axes=[0, 1, 2], keepdims=0),
            helper.make_node("Identity", ["c"], ["d"]),
        ],
        "body",
        [
            value("i", TensorProto.INT64, []),
            value("c", TensorProto.BOOL, []),
            value("v", TensorProto.FLOAT, None),
        ],
        [
            value("d", TensorProto.BOOL, []),
            *[value(n, TensorProto.FLOAT, None) for n in ("w", "scalar", "vector", "w")],
        ],
    )
    outputs = ["last", "scalars", "vectors", "all"]
    node = helper.make_node("Loop", ["n", "go", "x"], outputs, body=body)
    inits = [("n", np.array(3)), ("go", np.array(True))]
    m = model([node], [("x", X.shape)], outputs, opset, inits=inits)
    got = fastconv.load(m.SerializeToString(), fallback="error").run({"x": X})
    states = np.stack([X * k for k in (2, 3, 4)])
    np.testing.assert_allclose(got["last"], states[-1], rtol=1e-5)
    np.testing.assert_allclose(got["all"], states, rtol=1e-5)
    np.testing.assert_allclose(got["scalars"], states.mean((1, 2, 3, 4)), atol=1e-5)
    np.testing.assert_allclose(got["vectors"], states.mean((1, 2, 3)), atol=1e-5)
