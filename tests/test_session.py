"""InferenceSession and its options behave as programs written for onnxruntime expect."""

import pickle
import warnings

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import fastconv
from fastconv import InferenceSession, InputError, OptionError, SessionOptions, UnsupportedError
from fastconv import session as ort


def model_bytes(nodes, inputs, outputs, initializers=(), **fields):
    graph = helper.make_graph(nodes, "net", inputs, outputs, initializers, doc_string="the graph")
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    for name, value in fields.items():
        setattr(model, name, value)
    return model


@pytest.fixture(scope="module")
def two_outputs():
    """y = relu(conv(x)) and z = k as a row: two inputs, two outputs, two types, a named size."""
    w = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    value = helper.make_tensor_value_info
    model = model_bytes(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["y"]),
            helper.make_node("Reshape", ["k", "flat"], ["z"]),
        ],
        [value("x", TensorProto.FLOAT, ["batch", 3, None, 8]), value("k", TensorProto.INT64, [2])],
        [
            value("y", TensorProto.FLOAT, ["batch", 4, None, 8]),
            value("z", TensorProto.INT64, [1, 2]),
        ],
        [numpy_helper.from_array(w, "w"), numpy_helper.from_array(np.array([1, 2]), "flat")],
        producer_name="maker",
        domain="org.example",
        model_version=7,
        doc_string="a model",
    )  # fmt: skip
    helper.set_model_props(model, {"classes": "cat,dog"})
    return model.SerializeToString()


@pytest.fixture
def feeds():
    x = np.random.default_rng(1).standard_normal((2, 3, 5, 8)).astype(np.float32)
    return {"x": x, "k": np.array([3, 4])}


def test_run_returns_all_outputs_or_those_asked_for_in_that_order(two_outputs, feeds):
    s = InferenceSession(two_outputs, providers=["CPUExecutionProvider"])
    y, z = s.run(None, feeds)
    assert y.shape == (2, 4, 5, 8)
    assert (y >= 0).all()
    np.testing.assert_array_equal(z, [[3, 4]])
    for names, wanted in (([], [y, z]), (["z", "y"], [z, y]), (["z"], [z]), (("y",), [y])):
        got = s.run(names, feeds)
        assert isinstance(got, list)
        for a, b in zip(got, wanted, strict=True):
            np.testing.assert_array_equal(a, b)


def test_node_args_describe_inputs_and_outputs(two_outputs):
    s = InferenceSession(two_outputs)
    assert [(i.name, i.type, i.shape) for i in s.get_inputs()] == [
        ("x", "tensor(float)", ["batch", 3, None, 8]),
        ("k", "tensor(int64)", [2]),
    ]
    assert [o.name for o in s.get_outputs()] == ["y", "z"]
    assert str(s.get_inputs()[1]) == "NodeArg(name='k', type='tensor(int64)', shape=[2])"
    assert s.get_overridable_initializers() == []


@pytest.mark.parametrize(
    ("elem", "text"),
    [("FLOAT", "float"), ("DOUBLE", "double"), ("FLOAT16", "float16"), ("UINT8", "uint8"),
     ("BOOL", "bool"), ("STRING", "string"), ("INT32", "int32")],
)  # fmt: skip
def test_types_are_written_as_onnxruntime_does(elem, text):
    value = helper.make_tensor_value_info
    t = getattr(TensorProto, elem)
    m = model_bytes([helper.make_node("Identity", ["x"], ["y"])],
                    [value("x", t, [])], [value("y", t, [])])  # fmt: skip
    s = InferenceSession(m.SerializeToString())
    assert s.get_inputs()[0].type == s.get_outputs()[0].type == f"tensor({text})"
    assert s.get_inputs()[0].shape == []


def test_a_sequence_output_has_a_sequence_type_and_gives_a_list():
    value = helper.make_tensor_value_info
    m = model_bytes(
        [helper.make_node("SequenceConstruct", ["x", "x"], ["y"])],
        [value("x", TensorProto.FLOAT, [2])],
        [helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)],
    )
    s = InferenceSession(m.SerializeToString())
    assert s.get_outputs()[0].type == "seq(tensor(float))"
    (y,) = s.run(None, {"x": np.ones(2, np.float32)})
    assert isinstance(y, list)
    assert [v.tolist() for v in y] == [[1, 1], [1, 1]]


def test_model_metadata(two_outputs):
    meta = InferenceSession(two_outputs).get_modelmeta()
    assert meta.producer_name == "maker"
    assert meta.graph_name == "net"
    assert meta.domain == "org.example"
    assert meta.description == "a model"
    assert meta.graph_description == "the graph"
    assert meta.version == 7
    assert meta.custom_metadata_map == {"classes": "cat,dog"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f.pop("k"), ["'k'", "missing"]),
        (lambda f: f.update(q=f["k"]), ["'q'"]),
        (lambda f: f.update(x=f["x"].astype(np.float64)), ["'x'", "float64", "float32"]),
        (lambda f: f.update(x=f["x"][0]), ["'x'", "rank 3", "rank 4", "batch"]),
        (lambda f: f.update(x=f["x"][:, :2]), ["'x'", "[2, 2, 5, 8]", "[batch, 3, ?, 8]"]),
        (lambda f: f.update(k=None), ["'k'"]),
    ],
)
def test_bad_feeds_name_the_input_what_came_and_what_is_wanted(two_outputs, feeds, change, words):
    s = InferenceSession(two_outputs)
    change(feeds)
    with pytest.raises(InputError) as e:
        s.run(None, feeds)
    assert isinstance(e.value, ValueError)
    for word in words:
        assert word in str(e.value)


def test_unknown_outputs_and_feeds_that_are_no_mapping(two_outputs, feeds):
    s = InferenceSession(two_outputs)
    with pytest.raises(InputError, match=r"'q'.*y, z"):
        s.run(["y", "q"], feeds)
    with pytest.raises(InputError, match="list"):
        s.run(None, [feeds["x"]])


@pytest.mark.parametrize(
    "providers",
    [["CUDAExecutionProvider", "CPUExecutionProvider"], [("CUDAExecutionProvider", {"id": 0})]],
)
def test_unknown_providers_warn_and_the_cpu_serves(two_outputs, feeds, providers):
    with pytest.warns(UserWarning, match="'CUDAExecutionProvider' is not in available provider"):
        s = InferenceSession(two_outputs, providers=providers)
    assert s.get_providers() == ["CPUExecutionProvider"]
    assert s.get_provider_options() == {"CPUExecutionProvider": {}}
    assert len(s.run(None, feeds)) == 2
    with pytest.warns(UserWarning, match="'X'"):
        s.set_providers(["X"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        s.set_providers(["CPUExecutionProvider"], [{}])
    s.enable_fallback()
    s.disable_fallback()


@pytest.mark.parametrize(
    ("providers", "options"),
    [(7, None), ([1], None), ([ort.CPU], [{}, {}])],
)
def test_nonsense_providers_are_refused(two_outputs, providers, options):
    with pytest.raises(OptionError, match="provider"):
        InferenceSession(two_outputs, providers=providers, provider_options=options)


def test_module_functions_and_enums():
    assert ort.get_available_providers() == ort.get_all_providers() == ["CPUExecutionProvider"]
    assert ort.get_device() == "CPU"
    assert ort.GraphOptimizationLevel.ORT_ENABLE_ALL == 99
    assert ort.ExecutionMode.ORT_SEQUENTIAL == 0


# Options.


def test_options_have_onnxruntimes_names_and_defaults():
    o = SessionOptions()
    assert (o.intra_op_num_threads, o.inter_op_num_threads) == (0, 0)
    assert o.enable_mem_pattern
    assert o.enable_cpu_mem_arena
    assert o.enable_mem_reuse
    assert not o.enable_profiling
    assert o.log_severity_level == -1
    assert o.graph_optimization_level == ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    o.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    o.graph_optimization_level = 1
    assert o.graph_optimization_level is ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    assert "ORT_PARALLEL" in repr(o)


def test_misspelt_options_and_wrong_types_raise():
    o = SessionOptions()
    with pytest.raises(AttributeError, match="intra_op_threads"):
        o.intra_op_threads = 4
    for name, value in (("intra_op_num_threads", "4"), ("enable_profiling", "x"), ("logid", 3)):
        with pytest.raises(TypeError, match=name):
            setattr(o, name, value)
    with pytest.raises(OptionError, match="ORT_DISABLE_ALL"):
        o.graph_optimization_level = 5
    with pytest.raises(AttributeError):
        ort.RunOptions().nope = 1


def test_config_entries():
    o = SessionOptions()
    o.add_session_config_entry("session.x", "1")
    assert o.get_session_config_entry("session.x") == "1"
    with pytest.raises(OptionError, match=r"session\.y"):
        o.get_session_config_entry("session.y")
    r = ort.RunOptions()
    r.add_run_config_entry("a", "b")
    assert r.get_run_config_entry("a") == "b"


@pytest.mark.parametrize("n", [0, 1, 2])
def test_thread_count_is_that_of_the_options(two_outputs, feeds, n):
    o = SessionOptions()
    o.intra_op_num_threads = n
    s = InferenceSession(two_outputs, o)
    assert s.get_session_options() is o
    assert s._model.threads == (n or fastconv.load(two_outputs).threads)
    np.testing.assert_array_equal(s.run(["z"], feeds, ort.RunOptions())[0], [[3, 4]])
    o.intra_op_num_threads = -2
    with pytest.raises(OptionError, match="threads=-2"):
        InferenceSession(two_outputs, o)


def test_without_optimisation_every_node_stays(two_outputs, feeds):
    o = SessionOptions()
    o.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    plain, fast = InferenceSession(two_outputs, o), InferenceSession(two_outputs)
    assert len(plain._model.graph.nodes) == 3
    assert len(fast._model.graph.nodes) < 3
    for a, b in zip(plain.run(None, feeds), fast.run(None, feeds), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


def test_dimension_override_fixes_a_named_size(two_outputs, feeds):
    o = SessionOptions()
    o.add_free_dimension_override_by_name("batch", 2)
    s = InferenceSession(two_outputs, o)
    assert s.get_inputs()[0].shape == [2, 3, None, 8]
    assert s.get_outputs()[0].shape == [2, 4, None, 8]
    s.run(None, feeds)
    feeds["x"] = feeds["x"][:1]
    with pytest.raises(InputError, match="wants"):
        s.run(None, feeds)
    with pytest.raises(OptionError):
        o.add_free_dimension_override_by_name("batch", -1)


def test_what_cannot_be_done_is_refused(two_outputs, tmp_path):
    o = SessionOptions()
    with pytest.raises(UnsupportedError, match=r"ops\.so"):
        o.register_custom_ops_library("ops.so")
    with pytest.raises(UnsupportedError, match="'w'"):
        o.add_initializer("w", None)
    with pytest.raises(UnsupportedError, match="DATA_BATCH"):
        o.add_free_dimension_override_by_denotation("DATA_BATCH", 1)
    o.optimized_model_filepath = tmp_path / "no" / "folder.onnx"
    with pytest.raises(OptionError, match="optimized_model_filepath"):
        InferenceSession(two_outputs, o)
    with pytest.raises(OptionError, match="SessionOptions"):
        InferenceSession(two_outputs, ["CPUExecutionProvider"])


@pytest.mark.parametrize("from_path", [True, False])
def test_the_optimised_model_is_written_as_it_came(two_outputs, tmp_path, from_path):
    o = SessionOptions()
    o.optimized_model_filepath = tmp_path / "out.onnx"
    source = two_outputs
    if from_path:
        source = tmp_path / "in.onnx"
        source.write_bytes(two_outputs)
    InferenceSession(source, o)
    assert (tmp_path / "out.onnx").read_bytes() == two_outputs


def test_errors_only_logging_silences_the_fallback_warning():
    value = helper.make_tensor_value_info
    node = helper.make_node("Det", ["x"], ["y"])
    m = model_bytes(
        [node], [value("x", TensorProto.FLOAT, [2, 2])], [value("y", TensorProto.FLOAT, [])]
    )
    with pytest.warns(fastconv.FallbackWarning, match="Det"):
        InferenceSession(m.SerializeToString())
    o = SessionOptions()
    o.log_severity_level = 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        s = InferenceSession(m.SerializeToString(), o)
    assert s.run(None, {"x": np.eye(2, dtype=np.float32)})[0] == 1


@pytest.mark.parametrize("from_path", [True, False])
def test_sessions_pickle(two_outputs, feeds, tmp_path, from_path):
    o = SessionOptions()
    o.intra_op_num_threads = 2
    o.add_session_config_entry("a", "b")
    source = two_outputs
    if from_path:
        source = tmp_path / "m.onnx"
        source.write_bytes(two_outputs)
    s = InferenceSession(source, o)
    copy = pickle.loads(pickle.dumps(s))
    assert copy.get_session_options().intra_op_num_threads == 2
    assert copy.get_session_options().get_session_config_entry("a") == "b"
    for a, b in zip(s.run(None, feeds), copy.run(None, feeds), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", ["constant", "input"])
def test_an_output_never_shares_memory_with_the_model_or_the_feeds(kind):
    # Writing to a result must change neither the next result nor what was fed.
    value = helper.make_tensor_value_info
    if kind == "constant":
        init = [numpy_helper.from_array(np.ones(4, np.float32), "a")]
        node = helper.make_node("Add", ["a", "a"], ["y"])
    else:
        init, node = [], helper.make_node("Identity", ["x"], ["y"])
    m = model_bytes([node], [value("x", TensorProto.FLOAT, [4])],
                    [value("y", TensorProto.FLOAT, [4])], init)  # fmt: skip
    x = np.ones(4, np.float32)
    s = InferenceSession(m.SerializeToString())
    first = s.run(None, {"x": x})[0]
    kept = first.copy()
    first[:] = 99
    np.testing.assert_array_equal(x, 1)
    np.testing.assert_array_equal(s.run(None, {"x": x})[0], kept)


def test_onnx_models_are_read_from_paths_too(two_outputs, feeds, tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(onnx.load_from_string(two_outputs), path)
    for p in (path, str(path)):
        assert InferenceSession(p).run(["z"], feeds)[0].shape == (1, 2)
