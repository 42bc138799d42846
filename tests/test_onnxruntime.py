"""fastconv.onnxruntime against onnxruntime itself: the same names, values, results and errors."""

import inspect
import json
import pathlib
import pickle
import threading
import time

import numpy as np
import onnxruntime as theirs
import pytest
from onnx import TensorProto, helper
from test_concurrency import conv_chain

import fastconv
import fastconv.onnxruntime as ours
from fastconv.onnxruntime.capi import onnxruntime_pybind11_state as state

#: Seconds within which a run must have ended; a busy machine takes longer than the 0.05 s meant.
LATE = 0.6

BOTH = pytest.mark.parametrize("ort", [theirs, ours], ids=["onnxruntime", "fastconv"])

#: Parts of onnxruntime that fastconv does not have; programs find them missing by name.
ABSENT = {
    "AdapterFormat", "LoraAdapter",  # adapters
    "ModelCompiler", "OrtCompileApiFlags", "OrtEpContextData", "OrtEpContextDataBuffer",
    "OrtExternalInitializerInfo",  # compiling for other devices
    "ModelPackage", "ModelPackageComponentContext", "ModelPackageContext", "ModelPackageOptions",
    "ModelPackageWriteMode",
    "OrtEpAssignedNode", "OrtEpAssignedSubgraph", "OrtMemoryInfoDeviceType", "OrtSyncStream",
    "OrtSparseFormat", "SparseTensor",
    "import_capi_exception", "contextlib", "onnxruntime_validation",  # its own imports
}  # fmt: skip


def tiny():
    """y = relu(x), z = k: two inputs, two types, a named, an unknown and fixed sizes."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"], "relu"), helper.make_node("Neg", ["k"], ["z"])],
        "net",
        [value("x", TensorProto.FLOAT, ["batch", 3, None, 8]), value("k", TensorProto.INT64, [2])],
        [value("y", TensorProto.FLOAT, ["batch", 3, None, 8]), value("z", TensorProto.INT64, [2])],
        doc_string="the graph",
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, model_version=3,
        producer_name="maker", domain="org.example", doc_string="a model",
    )  # fmt: skip
    helper.set_model_props(model, {"classes": "cat,dog"})
    return model


MODEL = tiny().SerializeToString()


@pytest.fixture
def feeds():
    rng = np.random.default_rng(1)
    return {"x": rng.standard_normal((2, 3, 5, 8)).astype(np.float32), "k": np.array([3, -4])}


def session(ort, *args, **kwargs):
    return ort.InferenceSession(MODEL, *args, providers=["CPUExecutionProvider"], **kwargs)


# Names and values, attribute by attribute.


def test_every_public_name_is_there_or_known_to_be_absent():
    tools = {"quantization", "transformers", "tools", "datasets"}  # there once imported
    public = {n for n in dir(theirs) if not n.startswith("_")} - ABSENT - tools
    assert public <= set(dir(ours))
    assert not ABSENT & set(dir(ours))
    for name in dir(ours):
        assert getattr(ours, name) is not None
    with pytest.raises(AttributeError, match="LoraAdapter"):
        _ = ours.LoraAdapter


def test_every_exception_is_there():
    real = theirs.capi.onnxruntime_pybind11_state
    names = [n for n in dir(real) if isinstance(getattr(real, n), type)]
    names = [n for n in names if issubclass(getattr(real, n), Exception)]
    assert len(names) >= 10
    for name in names:
        assert issubclass(getattr(state, name), Exception)


ENUMS = [
    n for n in dir(theirs) if hasattr(getattr(theirs, n), "__members__") and n not in ABSENT
]  # fmt: skip


@pytest.mark.parametrize("name", ENUMS)
def test_enumerations_have_the_same_members_and_text(name):
    mine, real = getattr(ours, name), getattr(theirs, name)
    assert {k: int(v) for k, v in mine.__members__.items()} == {
        k: int(v) for k, v in real.__members__.items()
    }
    for k, v in real.__members__.items():
        assert getattr(mine, k) == int(v)
        assert mine(int(v)).value == int(v)
        if name != "OrtDeviceVendorId":
            assert str(getattr(mine, k)) == f"{getattr(mine, k)}" == str(v)


@pytest.mark.parametrize("name", ["SessionOptions", "RunOptions"])
def test_options_have_the_same_fields_with_the_same_defaults(name):
    mine, real = getattr(ours, name)(), getattr(theirs, name)()
    fields = [n for n in dir(real) if not n.startswith("_")]
    for field in fields:
        if "ep_context_data" in field:
            continue  # compiled models of other devices
        value = getattr(real, field)
        if callable(value):
            assert callable(getattr(mine, field))
        else:
            assert getattr(mine, field) == (int(value) if hasattr(value, "name") else value)
            setattr(mine, field, getattr(mine, field))
    with pytest.raises(AttributeError):
        mine.nonsense = 1


@pytest.mark.parametrize("name", ["InferenceSession", "OrtValue", "IOBinding", "OrtDevice"])
def test_classes_have_the_same_methods_with_the_same_parameters(name):
    mine, real = getattr(ours, name), getattr(theirs, name)
    for method in dir(real):
        if method.startswith("_") or "sparse" in method or "graph_assignment" in method:
            continue
        want, got = getattr(real, method), getattr(mine, method)
        if inspect.isfunction(want) and inspect.isfunction(got):
            names = [p for p in inspect.signature(want).parameters if p != "vendor_id"]
            given = list(inspect.signature(got).parameters)
            assert given[: len(names)] == names or "ids" in given, method


@BOTH
def test_module_functions(ort):
    assert "CPUExecutionProvider" in ort.get_available_providers()
    assert "CPUExecutionProvider" in ort.get_all_providers()
    assert ort.get_device() == "CPU"
    major, minor, patch = ort.__version__.split(".")
    assert (int(major), int(minor)) >= (1, 17)
    assert patch.isdecimal()
    assert ort.get_version_string() == ort.__version__ == ort.version
    assert ort.has_collective_ops() is False
    assert isinstance(ort.get_build_info(), str)
    assert ort.get_ep_devices()[0].ep_name == "CPUExecutionProvider"
    for call in (ort.disable_telemetry_events, ort.enable_telemetry_events):
        assert call() is None
    ort.set_seed(3)
    ort.set_default_logger_verbosity(0)
    ort.set_default_logger_severity(2)
    with pytest.raises(RuntimeError):
        ort.set_default_logger_severity(9)
    assert ort.OrtDevice.make("cpu", 0).device_type() == 0
    with pytest.raises(Exception, match="Unsupported device type: abacus"):
        ort.OrtDevice.make("abacus", 0)


# Sessions.


def test_inputs_outputs_and_metadata_read_the_same():
    a, b = session(theirs), session(ours)
    for method in ("get_inputs", "get_outputs", "get_overridable_initializers"):
        mine = [(n.name, n.type, n.shape, str(n)) for n in getattr(b, method)()]
        assert mine == [(n.name, n.type, n.shape, str(n)) for n in getattr(a, method)()]
    mine, real = b.get_modelmeta(), a.get_modelmeta()
    for field in [f for f in dir(real) if not f.startswith("_")]:
        assert getattr(mine, field) == getattr(real, field)
    assert b.get_providers() == a.get_providers()
    assert b.get_provider_options() == a.get_provider_options()
    assert b.get_input_memory_infos()[1].name == a.get_input_memory_infos()[1].name


def test_outputs_have_the_shape_that_is_stated_and_sizes_that_are_inferred():
    value = helper.make_tensor_value_info
    m = helper.make_model(
        helper.make_graph(
            [helper.make_node("GlobalAveragePool", ["x"], ["y"])], "g",
            [value("x", TensorProto.FLOAT, ["n", 3, "h", "w"])],
            [value("y", TensorProto.FLOAT, ["batch", "channels", None, 1])],
        ),
        opset_imports=[helper.make_opsetid("", 17)], ir_version=8,
    ).SerializeToString()  # fmt: skip
    shapes = [
        ort.InferenceSession(m, providers=["CPUExecutionProvider"]).get_outputs()[0].shape
        for ort in (theirs, ours)
    ]
    assert shapes == [["batch", 3, 1, 1]] * 2
    assert ours.InferenceSession(m).get_modelmeta().version == (1 << 63) - 1


@pytest.mark.parametrize("element", [TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E5M2FNUZ])
def test_small_floats_have_the_names_that_onnxruntime_gives_them(element):
    value = helper.make_tensor_value_info
    m = helper.make_model(
        helper.make_graph(
            [helper.make_node("Identity", ["x"], ["y"])], "g", [value("x", element, [2])],
            [value("y", element, [2])],
        ),
        opset_imports=[helper.make_opsetid("", 21)], ir_version=10,
    ).SerializeToString()  # fmt: skip
    types = [
        ort.InferenceSession(m, providers=["CPUExecutionProvider"]).get_outputs()[0].type
        for ort in (theirs, ours)
    ]
    assert types[0] == types[1]


def test_an_output_size_that_is_computed_has_no_name():
    value = helper.make_tensor_value_info
    m = helper.make_model(
        helper.make_graph(
            [helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[3, 3])], "g",
            [value("x", TensorProto.FLOAT, ["n", 3, "h", None])],
            [value("y", TensorProto.FLOAT, None)],
        ),
        opset_imports=[helper.make_opsetid("", 17)], ir_version=8,
    ).SerializeToString()  # fmt: skip
    shapes = [
        ort.InferenceSession(m, providers=["CPUExecutionProvider"]).get_outputs()[0].shape
        for ort in (theirs, ours)
    ]
    assert shapes == [["n", 3, None, None]] * 2


@BOTH
@pytest.mark.parametrize("op", ["Nonsense", "Relu"])
def test_an_operator_that_nobody_has_is_refused_when_the_model_is_loaded(ort, op):
    m = tiny()
    m.graph.node[0].op_type = op
    m.graph.node[0].domain = "org.example"
    m.opset_import.append(helper.make_opsetid("org.example", 1))
    fail = ort.capi.onnxruntime_pybind11_state
    o = ort.SessionOptions()
    o.log_severity_level = 4
    with pytest.raises((fail.Fail, fail.InvalidGraph, fail.NotImplemented), match=op):
        ort.InferenceSession(m.SerializeToString(), o, providers=["CPUExecutionProvider"])


@BOTH
@pytest.mark.parametrize("kind", ["bytes", "str", "pathlib"])
def test_a_session_is_made_from_bytes_and_paths(ort, kind, feeds, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(MODEL)
    source = {"bytes": MODEL, "str": str(path), "pathlib": path}[kind]
    s = ort.InferenceSession(source, providers=["CPUExecutionProvider"])
    y, z = s.run(None, feeds)
    np.testing.assert_array_equal(y, np.maximum(feeds["x"], 0))
    np.testing.assert_array_equal(z, [-3, 4])
    assert [r.tolist() for r in s.run(["z"], feeds)] == [[-3, 4]]


BROKEN = tiny()
BROKEN.graph.node[0].input[0] = "nowhere"

LOADS = {
    "no such file": ("/no/such/model.onnx", "NoSuchFile", fastconv.ModelError),
    "junk": (b"no model at all", "InvalidProtobuf", fastconv.ModelError),
    "not a model": (None, None, fastconv.OptionError),
}


@pytest.mark.parametrize("case", LOADS)
def test_a_failed_load_raises_an_instance_of_both_exceptions(case):
    source, name, own = LOADS[case]
    for ort in (theirs, ours):
        wanted = getattr(ort.capi.onnxruntime_pybind11_state, name) if name else TypeError
        with pytest.raises(wanted) as e:
            ort.InferenceSession(source)
    assert isinstance(e.value, own)
    assert isinstance(pickle.loads(pickle.dumps(e.value)), (wanted, own))


def test_an_unsound_graph_and_missing_code_have_their_own_classes(tmp_path):
    with pytest.raises(state.InvalidGraph, match="nowhere") as e:
        ours.InferenceSession(BROKEN.SerializeToString())
    assert isinstance(e.value, fastconv.ModelError)
    o = ours.SessionOptions()
    o.add_session_config_entry("fastconv.fallback", "error")
    m = helper.make_model(
        helper.make_graph(
            [helper.make_node("Det", ["x"], ["y"])], "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 2])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [])],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
    )  # fmt: skip
    with pytest.raises(state.NotImplemented, match="Det") as e:
        ours.InferenceSession(m.SerializeToString(), o)
    assert isinstance(e.value, fastconv.UnsupportedError)


FEEDS = {
    "missing": (lambda f: f.pop("k"), ValueError),
    "unknown": (lambda f: f.update(q=f["k"]), "InvalidArgument"),
    "dtype": (lambda f: f.update(x=f["x"].astype(np.float64)), "InvalidArgument"),
    "rank": (lambda f: f.update(x=f["x"][0]), "InvalidArgument"),
    "size": (lambda f: f.update(x=f["x"][:, :2]), "InvalidArgument"),
}


@BOTH
@pytest.mark.parametrize("case", FEEDS)
def test_bad_feeds_raise_what_onnxruntime_raises(ort, case, feeds):
    change, name = FEEDS[case]
    change(feeds)
    kind = getattr(ort.capi.onnxruntime_pybind11_state, name) if isinstance(name, str) else name
    with pytest.raises(kind) as e:
        session(ort).run(None, feeds)
    if ort is ours:
        assert isinstance(e.value, fastconv.InputError)
        assert str(e.value).startswith("[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : ")


@BOTH
def test_unknown_outputs_and_wrong_options(ort, feeds):
    with pytest.raises(ort.capi.onnxruntime_pybind11_state.InvalidArgument, match="nope"):
        session(ort).run(["nope"], feeds)
    with pytest.raises(TypeError):
        ort.InferenceSession(MODEL, ["CPUExecutionProvider"])
    with pytest.raises(RuntimeError, match="nope"):
        ort.SessionOptions().get_session_config_entry("nope")


def test_a_node_that_fails_is_a_runtime_exception():
    value = helper.make_tensor_value_info
    m = helper.make_model(
        helper.make_graph(
            [helper.make_node("Add", ["a", "b"], ["y"], "sum")], "g",
            [value("a", TensorProto.FLOAT, ["n"]), value("b", TensorProto.FLOAT, ["m"])],
            [value("y", TensorProto.FLOAT, [None])],
        ),
        opset_imports=[helper.make_opsetid("", 17)], ir_version=8,
    ).SerializeToString()  # fmt: skip
    feed = {"a": np.ones(2, np.float32), "b": np.ones(3, np.float32)}
    for ort in (theirs, ours):
        fail = ort.capi.onnxruntime_pybind11_state
        with pytest.raises((fail.RuntimeException, fail.Fail, fail.InvalidArgument), match="sum"):
            ort.InferenceSession(m, providers=["CPUExecutionProvider"]).run(None, feed)


@BOTH
def test_terminate_ends_a_run(ort, feeds):
    s, o = session(ort), ort.RunOptions()
    o.logid = "a run"
    s.run(None, feeds, o)
    o.terminate = True
    with pytest.raises(ort.capi.onnxruntime_pybind11_state.Fail, match="terminate flag"):
        s.run(None, feeds, o)
    o.terminate = False
    s.run(None, feeds, o)


def test_terminate_ends_a_run_that_has_begun():
    # NonZero cuts the plan: the flag is looked at where the rest begins.
    value = helper.make_tensor_value_info
    m = helper.make_model(
        helper.make_graph(
            [helper.make_node("NonZero", ["x"], ["n"]), helper.make_node("Neg", ["n"], ["y"])],
            "g", [value("x", TensorProto.FLOAT, ["a"])], [value("y", TensorProto.INT64, [1, "b"])],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
    )  # fmt: skip
    s, o = ours.InferenceSession(m.SerializeToString()), ours.RunOptions()
    asked = []

    class Late(ours.RunOptions):
        """Options whose flag is up from the second time that it is looked at."""

        @property
        def terminate(self):
            asked.append(1)
            return len(asked) > 1

    x = np.array([1, 0, 2], np.float32)
    np.testing.assert_array_equal(s.run(None, {"x": x}, o)[0], [[0, -2]])
    late = Late.__new__(Late)
    with pytest.raises(state.Fail, match="terminate"):
        s.run(None, {"x": x}, late)
    assert len(asked) == 2


@pytest.mark.parametrize("profiling", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
def test_terminate_from_another_thread_ends_a_long_run(threads, profiling, tmp_path):
    options, o = ours.SessionOptions(), ours.RunOptions()
    options.intra_op_num_threads = threads
    options.enable_profiling = profiling
    options.profile_file_prefix = str(tmp_path / "profile")
    s = ours.InferenceSession(conv_chain(40, 64), options)
    s.run(None, {"x0": np.zeros((1, 64, 8, 8), np.float32)}, o)  # the flag is down
    x = np.zeros((1, 64, 320, 320), np.float32)  # some seconds, in 40 steps or more
    s._model.prepare({"x0": x.shape})
    raised = []

    def end():
        o.terminate = True
        raised.append(time.monotonic())

    threading.Timer(0.2, end).start()
    with pytest.raises(state.Fail, match="terminate flag"):
        s.run(None, {"x0": x}, o)
    assert raised, "it ended before it was told to"
    assert time.monotonic() - raised[0] < LATE
    o.terminate = False
    assert not s.run(None, {"x0": np.zeros((1, 64, 8, 8), np.float32)}, o)[0].any()


def test_terminate_ends_a_loop_between_its_rounds():
    value = helper.make_tensor_value_info
    flag, number = TensorProto.BOOL, TensorProto.FLOAT
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Neg", ["v"], ["w"])],
        "body", [value("i", TensorProto.INT64, []), value("go", flag, []), value("v", number, [2])],
        [value("on", flag, []), value("w", number, [2])],
    )  # fmt: skip
    m = helper.make_model(
        helper.make_graph(
            [helper.make_node("Loop", ["n", "", "x"], ["y"], body=body)], "g",
            [value("n", TensorProto.INT64, []), value("x", number, [2])],
            [value("y", number, [2])],
        ),
        opset_imports=[helper.make_opsetid("", 17)], ir_version=8,
    ).SerializeToString()  # fmt: skip
    s, o = ours.InferenceSession(m), ours.RunOptions()
    x = np.ones(2, np.float32)
    np.testing.assert_array_equal(s.run(None, {"n": np.array(3), "x": x}, o)[0], -x)
    threading.Timer(0.2, setattr, (o, "terminate", True)).start()
    start = time.monotonic()
    with pytest.raises(state.Fail, match="terminate flag"):
        s.run(None, {"n": np.array(1 << 40), "x": x}, o)
    assert time.monotonic() - start < 0.2 + LATE


@BOTH
def test_run_async_calls_back_with_results_or_a_message(ort, feeds):
    s, done, got = session(ort), threading.Event(), []

    def back(results, data, error):
        got.append((results, data, error))
        done.set()

    s.run_async(None, feeds, back, "data")
    assert done.wait(20)
    (results, data, error) = got.pop()
    assert (data, error) == ("data", "")
    np.testing.assert_array_equal(results[1], [-3, 4])
    done.clear()
    s.run_async(None, {**feeds, "x": feeds["x"][0]}, back, 7)
    assert done.wait(20)
    results, data, error = got.pop()
    assert (results, data) == ([], 7)
    assert "rank" in error
    with pytest.raises(ValueError, match="'k'"):
        s.run_async(None, {"x": feeds["x"]}, back, None)


def test_subclasses_pickle_their_own_way(feeds):
    copy = pickle.loads(pickle.dumps(Pickled(MODEL)))
    assert type(copy) is Pickled
    assert copy.remade
    assert len(copy.run(None, feeds)) == 2


class Pickled(ours.InferenceSession):
    """Pickles by what it was made from, as programs make onnxruntime's session do."""

    def __init__(self, source, **kwargs):
        super().__init__(source, **kwargs)
        self.source, self.remade = source, False

    def __getstate__(self):
        return {"source": self.source}

    def __setstate__(self, values):
        self.__init__(values["source"])
        self.remade = True


def test_session_entries_reach_the_engine(feeds):
    o = ours.SessionOptions()
    o.add_session_config_entry("fastconv.memory_limit", "100")
    o.add_session_config_entry("session.intra_op.allow_spinning", "0")
    with pytest.raises(fastconv.MemoryLimitError):
        ours.InferenceSession(MODEL, o).run(None, feeds)
    o.add_session_config_entry("fastconv.memory", "1")
    with pytest.raises(fastconv.OptionError, match=r"fastconv\.memory_limit"):
        ours.InferenceSession(MODEL, o)


def test_global_threads_serve_sessions_that_ask_for_them():
    ours.set_global_thread_pool_sizes(2, 1)
    try:
        o = ours.SessionOptions()
        o.intra_op_num_threads = 1
        assert ours.InferenceSession(MODEL, o)._model.threads == 1
        o.use_per_session_threads = False
        assert ours.InferenceSession(MODEL, o)._model.threads == 2
    finally:
        ours.set_global_thread_pool_sizes()


# Profiles.


@BOTH
def test_a_profile_is_a_chrome_trace_with_an_event_per_node(ort, feeds, tmp_path):
    o = ort.SessionOptions()
    o.enable_profiling = True
    o.profile_file_prefix = str(tmp_path / "profile")
    s = session(ort, o)
    before = time.monotonic_ns()
    for _ in range(3):
        s.run(None, feeds)
    took = time.monotonic_ns() - before
    path = s.end_profiling()
    assert path.startswith(str(tmp_path / "profile_"))
    assert path.endswith(".json")
    events = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    assert {e["ph"] for e in events} == {"X"}
    nodes = [e for e in events if e["cat"] == "Node" and e["args"].get("op_name") == "Relu"]
    assert [e["name"] for e in nodes] == ["relu_kernel_time"] * 3
    for e in nodes:
        assert e["args"]["output_type_shape"] == [{"float": [2, 3, 5, 8]}]
        assert 0 <= e["dur"] * 1000 <= took
    runs = [e for e in events if e["name"] == "model_run"]
    assert len(runs) == 3
    for e, run in zip(nodes, sorted(runs, key=lambda e: e["ts"]), strict=True):
        assert run["ts"] <= e["ts"] + 1
        assert e["ts"] + e["dur"] <= run["ts"] + run["dur"] + 1
    assert s.end_profiling() == ""
    assert session(ort).end_profiling() == ""
    s.run(None, feeds)


def test_the_times_of_a_profile_are_those_of_the_nodes(tmp_path):
    # A convolution of a thousand times the work of the other takes most of the run.
    rng = np.random.default_rng(0)
    value = helper.make_tensor_value_info
    big = rng.standard_normal((64, 4, 7, 7)).astype(np.float32)
    small = rng.standard_normal((1, 64, 1, 1)).astype(np.float32)
    m = helper.make_model(
        helper.make_graph(
            [helper.make_node("Conv", ["x", "big"], ["a"], "big", pads=[3] * 4),
             helper.make_node("MaxPool", ["a"], ["b"], "pool", kernel_shape=[8, 8], strides=[8, 8]),
             helper.make_node("Conv", ["b", "small"], ["y"], "small"),
             helper.make_node("NonZero", ["y"], ["n"], "where"),
             helper.make_node("Neg", ["n"], ["z"], "neg")],
            "g", [value("x", TensorProto.FLOAT, [1, 4, 96, 96])],
            [value("z", TensorProto.INT64, [4, None])],
            [helper.make_tensor(n, 1, v.shape, v.ravel()) for n, v in
             (("big", big), ("small", small))],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
    )  # fmt: skip
    o = ours.SessionOptions()
    o.enable_profiling = True
    o.profile_file_prefix = str(tmp_path / "p")
    s = ours.InferenceSession(m.SerializeToString(), o)
    x = rng.standard_normal((1, 4, 96, 96)).astype(np.float32)
    for _ in range(4):
        s.run(None, {"x": x})
    events = json.loads(pathlib.Path(s.end_profiling()).read_text(encoding="utf-8"))
    total = {}
    for e in events:
        if e["cat"] == "Node":  # a node may take several steps
            key = e["name"].removesuffix("_kernel_time")
            total[key] = total.get(key, 0) + e["dur"]
    assert {"big", "small", "where", "neg"} <= total.keys()
    assert total["big"] > 3 * total["small"] > 0


def test_a_profile_that_cannot_be_written_says_where(tmp_path):
    o = ours.SessionOptions()
    o.enable_profiling = True
    o.profile_file_prefix = str(tmp_path / "no" / "folder")
    with pytest.raises(state.Fail, match="folder"):
        session(ours, o).end_profiling()
