"""OrtValue and IOBinding behave as onnxruntime's do, on the same inputs."""

import numpy as np
import onnxruntime as theirs
import pytest
from onnx import TensorProto, helper

import fastconv
import fastconv.onnxruntime as ours

BOTH = pytest.mark.parametrize("ort", [theirs, ours], ids=["onnxruntime", "fastconv"])
value = helper.make_tensor_value_info
MODEL = helper.make_model(
    helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Neg", ["k"], ["z"])],
        "net",
        [value("x", TensorProto.FLOAT, ["n", 3]), value("k", TensorProto.INT64, [2])],
        [value("y", TensorProto.FLOAT, ["n", 3]), value("z", TensorProto.INT64, [2])],
    ),
    opset_imports=[helper.make_opsetid("", 17)],
    ir_version=8,
).SerializeToString()
X = np.array([[1, -2, 3], [-4, 5, -6]], np.float32)
K = np.array([7, -8])
Y = np.maximum(X, 0)


def session(ort):
    return ort.InferenceSession(MODEL, providers=["CPUExecutionProvider"])


@BOTH
@pytest.mark.parametrize(
    "dtype", ["f4", "f8", "f2", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?"]
)
def test_a_value_describes_its_array(ort, dtype):
    a = np.ones((2, 3), dtype)
    v = ort.OrtValue.ortvalue_from_numpy(a)
    names = {"f4": "float", "f8": "double", "f2": "float16", "?": "bool"}
    assert v.data_type() == f"tensor({names.get(dtype, np.dtype(dtype).name)})"
    assert v.shape() == [2, 3]
    assert v.element_type() == helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    assert (v.device_name(), v.has_value(), v.is_tensor()) == ("cpu", True, True)
    assert (v.is_sparse_tensor(), v.is_tensor_sequence()) == (False, False)
    assert v.tensor_size_in_bytes() == a.nbytes
    np.testing.assert_array_equal(v.numpy(), a)
    np.testing.assert_array_equal(np.asarray(v), a)
    assert np.asarray(v, dtype="f8").dtype == np.float64


@BOTH
def test_a_value_shares_memory_with_its_array(ort):
    a = X.copy()
    v = ort.OrtValue.ortvalue_from_numpy(a)
    assert v.data_ptr() == a.ctypes.data
    a[0, 0] = 9
    assert v.numpy()[0, 0] == 9
    v.update_inplace(-a)
    assert a[0, 0] == -9
    np.testing.assert_array_equal(np.from_dlpack(v), a)
    back = ort.OrtValue.from_dlpack(a)
    assert back.data_ptr() == a.ctypes.data


@BOTH
def test_room_for_a_value_and_types_that_numpy_lacks(ort):
    v = ort.OrtValue.ortvalue_from_shape_and_type([2, 3], np.float32)
    assert v.numpy().shape == (2, 3)
    b = ort.OrtValue.ortvalue_from_shape_and_type([2, 3], TensorProto.BFLOAT16)
    assert (b.data_type(), b.tensor_size_in_bytes()) == ("tensor(bfloat16)", 12)
    with pytest.raises(RuntimeError):
        b.numpy()
    bits = np.array([0x3F80, 0x4000], np.uint16)
    v = ort.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, TensorProto.BFLOAT16)
    assert (v.data_type(), v.shape()) == ("tensor(bfloat16)", [2])


@BOTH
@pytest.mark.parametrize(
    "call",
    [lambda o: o.ortvalue_from_numpy([1, 2]),
     lambda o: o.ortvalue_from_numpy(np.array(["a"], object)),
     lambda o: o.ortvalue_from_numpy(X, "cuda", 0)],
    ids=["list", "strings", "cuda"],
)  # fmt: skip
def test_what_no_value_is_made_of_is_a_runtime_error(ort, call):
    with pytest.raises(RuntimeError):
        call(ort.OrtValue)


def test_nonsense_sizes_are_refused():
    with pytest.raises(fastconv.OptionError, match="negative"):
        ours.OrtValue.ortvalue_from_shape_and_type([2, -1], np.float32)
    with pytest.raises(fastconv.MemoryLimitError):
        ours.OrtValue.ortvalue_from_shape_and_type([1 << 40, 1 << 20], np.float32)
    with pytest.raises(fastconv.InputError, match="same"):
        ours.OrtValue.ortvalue_from_numpy(X.copy()).update_inplace(X[:1])


@BOTH
def test_runs_take_and_give_values(ort):
    s = session(ort)
    v = {n: ort.OrtValue.ortvalue_from_numpy(a) for n, a in (("x", X), ("k", K))}
    y, z = s.run_with_ort_values(None, v)
    assert isinstance(y, ort.OrtValue)
    np.testing.assert_array_equal(y.numpy(), Y)
    np.testing.assert_array_equal(z.numpy(), -K)
    (z,) = s.run_with_ort_values(["z"], v)
    assert z.data_type() == "tensor(int64)"


def test_plain_runs_take_values_too():
    feed = {"x": ours.OrtValue.ortvalue_from_numpy(X), "k": K}
    np.testing.assert_array_equal(session(ours).run(["y"], feed)[0], Y)


# Bindings.


@BOTH
def test_a_binding_runs_on_what_is_bound(ort):
    s = session(ort)
    b = s.io_binding()
    x = X.copy()
    b.bind_cpu_input("x", x)
    b.bind_ortvalue_input("k", ort.OrtValue.ortvalue_from_numpy(K))
    b.bind_output("z")
    b.bind_output("y", "cpu")
    s.run_with_iobinding(b)
    z, y = b.copy_outputs_to_cpu()
    np.testing.assert_array_equal(y, Y)
    np.testing.assert_array_equal(z, -K)
    x *= 2  # a bound array is read on every run
    b.synchronize_inputs()
    s.run_with_iobinding(b, ort.RunOptions())
    np.testing.assert_array_equal(b.get_outputs()[1].numpy(), 2 * Y)
    b.clear_binding_outputs()
    with pytest.raises(RuntimeError, match="At least one output"):
        s.run_with_iobinding(b)


@BOTH
def test_memory_of_the_callers_is_bound_by_its_address(ort):
    s = session(ort)
    b = s.io_binding()
    x, y = X.copy(), np.zeros((2, 3), np.float32)
    b.bind_input("x", "cpu", 0, np.float32, x.shape, x.ctypes.data)
    b.bind_cpu_input("k", K)
    b.bind_output("y", "cpu", 0, np.float32, y.shape, y.ctypes.data)
    z = ort.OrtValue.ortvalue_from_shape_and_type([2], np.int64)
    b.bind_ortvalue_output("z", z)
    s.run_with_iobinding(b)
    np.testing.assert_array_equal(y, Y)
    np.testing.assert_array_equal(z.numpy(), -K)
    assert b.get_outputs()[0].data_ptr() == y.ctypes.data


@BOTH
def test_bindings_that_do_not_fit_are_runtime_errors(ort):
    s = session(ort)
    b = s.io_binding()
    with pytest.raises(RuntimeError, match="nope"):
        b.bind_cpu_input("nope", X)
    b.bind_cpu_input("x", X.astype(np.float64))
    b.bind_cpu_input("k", K)
    b.bind_output("y")
    with pytest.raises(RuntimeError, match=r"x|data type"):
        s.run_with_iobinding(b)
    b.bind_cpu_input("x", X)
    small = np.zeros((1, 3), np.float32)
    b.bind_output("y", "cpu", 0, np.float32, small.shape, small.ctypes.data)
    with pytest.raises(RuntimeError, match="y"):
        s.run_with_iobinding(b)
    with pytest.raises(ValueError, match="session that created it"):
        session(ort).run_with_iobinding(b)


def test_null_pointers_and_other_devices_are_refused():
    b = session(ours).io_binding()
    with pytest.raises(fastconv.OptionError, match="null"):
        b.bind_input("x", "cpu", 0, np.float32, (2, 3), 0)
    with pytest.raises(fastconv.OptionError, match="element_type"):
        b.bind_output("y", buffer_ptr=4096)
    with pytest.raises(fastconv.UnsupportedError, match="cuda"):
        b.bind_output("y", "cuda")
    with pytest.raises(fastconv.InputError, match="no output"):
        b.bind_output("nope")


@BOTH
def test_vectors_of_values(ort):
    s = session(ort)
    state = ort.capi.onnxruntime_pybind11_state
    make = [ort.OrtValue.ortvalue_from_numpy(a)._ortvalue for a in (X, K)]
    feeds, fetches = state.OrtValueVector(), state.OrtValueVector()
    for v in make:
        feeds.push_back(v)
    device = ort.OrtDevice.make("cpu", 0)._get_c_device()
    s.run_with_ortvaluevector(
        ort.RunOptions(), ["x", "k"], feeds, ["y", "z"], fetches, [device, device]
    )
    assert len(fetches) == 2
    np.testing.assert_array_equal(fetches[0].numpy(), Y)


def test_tensors_are_copied_between_values():
    a, b = X.copy(), np.zeros_like(X)
    values = [ours.OrtValue.ortvalue_from_numpy(v) for v in (a, b)]
    ours.copy_tensors(values[:1], values[1:])
    np.testing.assert_array_equal(a, b)
    with pytest.raises(fastconv.OptionError, match="2 values"):
        ours.copy_tensors(values, values[:1])
