"""Graphs that no engine should run: each gives one of our exceptions, and names the node.

The kernels trust the sizes that they are given, so whatever does not fit must stop before them:
when the model is loaded, as far as the file says enough, or when shapes come with the arrays.
"""

from __future__ import annotations

import resource
import subprocess
import sys

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import fastconv
from fastconv import FastconvError, MemoryLimitError, ModelError

HUGE = 1 << 62
F, I64, F64 = np.float32, np.int64, np.float64


def zeros(*shape, dtype=F):
    return np.zeros(shape, dtype)


def ints(*values):
    return np.array(values, I64)


def make(op, arrays, attrs, outputs=1, opset=18, consts=(), open_dims=False):
    """One node named "bad" over inputs a0, a1 …; those in ``consts`` are initializers."""
    names = [f"a{k}" if a is not None else "" for k, a in enumerate(arrays)]
    inputs, initializers = [], []
    for k, (name, a) in enumerate(zip(names, arrays, strict=True)):
        if a is None:
            continue
        if k in consts:
            initializers.append(numpy_helper.from_array(a, name))
            continue
        shape = [f"d{k}_{i}" for i in range(a.ndim)] if open_dims else a.shape
        code = helper.np_dtype_to_tensor_dtype(a.dtype)
        inputs.append(helper.make_tensor_value_info(name, code, shape))
    ys = [f"y{k}" for k in range(outputs)]
    node = helper.make_node(op, names, ys, name="bad", **attrs)
    unknown = [helper.make_tensor_value_info(y, TensorProto.FLOAT, None) for y in ys]
    graph = helper.make_graph([node], "g", inputs, unknown, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 8
    return model.SerializeToString(), {v.name: arrays[names.index(v.name)] for v in inputs}


X = zeros(1, 4, 5, 5)
W = zeros(6, 4, 3, 3)
C4 = zeros(4)

#: Id → (operator, inputs, attributes[, number of outputs]).
BAD = {
    "Conv: other rank": ("Conv", [X, zeros(6, 4, 3)], {}),
    "Conv: no spatial axis": ("Conv", [zeros(1, 4), zeros(6, 4)], {}),
    "Conv: channels": ("Conv", [X, zeros(6, 3, 3, 3)], {}),
    "Conv: group does not divide": ("Conv", [X, W], {"group": 3}),
    "Conv: group 0": ("Conv", [X, W], {"group": 0}),
    "Conv: negative group": ("Conv", [X, W], {"group": -1}),
    "Conv: filters do not divide": ("Conv", [X, zeros(5, 2, 3, 3)], {"group": 2}),
    "Conv: kernel larger than input": ("Conv", [X, zeros(6, 4, 7, 7)], {}),
    "Conv: kernel_shape not the weight's": ("Conv", [X, W], {"kernel_shape": [5, 5]}),
    "Conv: kernel of size 0": ("Conv", [X, zeros(6, 4, 0, 3)], {}),
    "Conv: stride 0": ("Conv", [X, W], {"strides": [0, 1]}),
    "Conv: negative stride": ("Conv", [X, W], {"strides": [-1, 1]}),
    "Conv: one stride for two axes": ("Conv", [X, W], {"strides": [1]}),
    "Conv: dilation 0": ("Conv", [X, W], {"dilations": [0, 0]}),
    "Conv: huge dilation": ("Conv", [X, W], {"dilations": [HUGE, HUGE]}),
    "Conv: negative pads": ("Conv", [X, W], {"pads": [-1, 0, 0, 0]}),
    "Conv: three pads": ("Conv", [X, W], {"pads": [1, 1, 1]}),
    "Conv: huge pads": ("Conv", [X, W], {"pads": [HUGE, 0, 0, 0]}),
    "Conv: auto_pad": ("Conv", [X, W], {"auto_pad": "SOME"}),
    "Conv: bias length": ("Conv", [X, W, zeros(5)], {}),
    "Conv: bias rank": ("Conv", [X, W, zeros(6, 1)], {}),
    "Conv: dtypes": ("Conv", [X, W.astype(F64)], {}),
    "Conv: no weight": ("Conv", [X], {}),
    "ConvTranspose: channels": ("ConvTranspose", [X, zeros(3, 4, 3, 3)], {}),
    "ConvTranspose: group": ("ConvTranspose", [X, zeros(4, 4, 3, 3)], {"group": 3}),
    "ConvTranspose: negative output_padding": (
        "ConvTranspose", [X, zeros(4, 4, 3, 3)], {"output_padding": [-1, 0]}),
    "ConvTranspose: short output_padding": (
        "ConvTranspose", [X, zeros(4, 4, 3, 3)],
        {"output_padding": [1], "output_shape": [10, 8], "strides": [3, 2]}),
    "ConvTranspose: pads eat the output": (
        "ConvTranspose", [X, zeros(4, 4, 3, 3)], {"pads": [4, 4, 4, 4]}),
    "ConvTranspose: bias": ("ConvTranspose", [X, zeros(4, 4, 3, 3), zeros(3)], {}),
    "MaxPool: no kernel_shape": ("MaxPool", [X], {}),
    "MaxPool: kernel 0": ("MaxPool", [X], {"kernel_shape": [0, 1]}),
    "MaxPool: kernel rank": ("MaxPool", [X], {"kernel_shape": [2, 2, 2]}),
    "MaxPool: kernel larger than input": ("MaxPool", [X], {"kernel_shape": [9, 9]}),
    "MaxPool: huge kernel": ("MaxPool", [X], {"kernel_shape": [HUGE, HUGE]}),
    "MaxPool: empty image": ("MaxPool", [zeros(1, 4, 0, 5)], {"kernel_shape": [2, 2]}),
    "MaxPool: rank 2": ("MaxPool", [zeros(3, 4)], {"kernel_shape": [2]}),
    "AveragePool: stride 0": ("AveragePool", [X], {"kernel_shape": [2, 2], "strides": [0, 0]}),
    "AveragePool: negative pads": (
        "AveragePool", [X], {"kernel_shape": [2, 2], "pads": [-1, 0, 0, 0]}),
    "LpPool: p 0": ("LpPool", [X], {"kernel_shape": [2, 2], "p": 0}),
    "LpPool: huge p": ("LpPool", [X], {"kernel_shape": [2, 2], "p": HUGE}),
    "GlobalAveragePool: rank 2": ("GlobalAveragePool", [zeros(2, 3)], {}),
    "Gemm: inner sizes": ("Gemm", [zeros(2, 3), zeros(4, 5)], {}),
    "Gemm: rank": ("Gemm", [zeros(2, 3, 4), zeros(4, 5)], {}),
    "Gemm: C larger than the product": ("Gemm", [zeros(2, 3), zeros(3, 5), zeros(4, 2, 5)], {}),
    "Gemm: C of another length": ("Gemm", [zeros(2, 3), zeros(3, 5), zeros(4)], {}),
    "MatMul: inner sizes": ("MatMul", [zeros(2, 3), zeros(4, 5)], {}),
    "MatMul: batches": ("MatMul", [zeros(2, 2, 3), zeros(3, 3, 5)], {}),
    "MatMul: scalar": ("MatMul", [zeros(), zeros(3)], {}),
    "Add: no broadcast": ("Add", [zeros(2, 3), zeros(2, 4)], {}),
    "Add: dtypes": ("Add", [zeros(2), zeros(2, dtype=F64)], {}),
    "Where: no broadcast": ("Where", [zeros(2, dtype=bool), zeros(3), zeros(3)], {}),
    "Where: condition not bool": ("Where", [zeros(3), zeros(3), zeros(3)], {}),
    "PRelu: slope per nothing": ("PRelu", [X, zeros(3, 1, 1)], {}),
    "PRelu: slope larger than x": ("PRelu", [zeros(3), zeros(2, 3)], {}),
    "BatchNormalization: scale": ("BatchNormalization", [X, zeros(3), C4, C4, C4], {}),
    "BatchNormalization: variance": ("BatchNormalization", [X, C4, C4, C4, zeros(9)], {}),
    "BatchNormalization: no variance": ("BatchNormalization", [X, C4, C4, C4], {}),
    "InstanceNormalization: scale": ("InstanceNormalization", [X, zeros(3), C4], {}),
    "InstanceNormalization: bias": ("InstanceNormalization", [X, C4, zeros(4, 1)], {}),
    "LayerNormalization: scale": ("LayerNormalization", [X, zeros(4)], {}),
    "LayerNormalization: axis": ("LayerNormalization", [X, zeros(5)], {"axis": 4}),
    "LRN: size 0": ("LRN", [X], {"size": 0}),
    "Softmax: axis": ("Softmax", [X], {"axis": 4}),
    "ReduceMean: axis": ("ReduceMean", [X, ints(4)], {}),
    "ReduceMean: axes of floats": ("ReduceMean", [X, zeros(1)], {}),
    "ArgMax: axis": ("ArgMax", [X], {"axis": -5}),
    "ArgMax: empty axis": ("ArgMax", [zeros(2, 0)], {"axis": 1}),
    "TopK: k larger than the axis": ("TopK", [zeros(4), ints(5)], {}, 2),
    "TopK: negative k": ("TopK", [zeros(4), ints(-1)], {}, 2),
    "Concat: sizes": ("Concat", [zeros(2, 3), zeros(3, 3)], {"axis": 1}),
    "Concat: ranks": ("Concat", [zeros(2, 3), zeros(2)], {"axis": 0}),
    "Concat: axis": ("Concat", [zeros(2, 3), zeros(2, 3)], {"axis": 2}),
    "Concat: dtypes": ("Concat", [zeros(2), ints(1)], {"axis": 0}),
    "Concat: scalars": ("Concat", [zeros(), zeros()], {"axis": 0}),
    "Split: sum": ("Split", [zeros(6), ints(2, 3)], {}, 2),
    "Split: negative": ("Split", [zeros(6), ints(7, -1)], {}, 2),
    "Split: more outputs than parts": ("Split", [zeros(6), ints(6)], {}, 2),
    "Split: num_outputs": ("Split", [zeros(6)], {"num_outputs": 3}, 2),
    "Split: huge num_outputs": ("Split", [zeros(6)], {"num_outputs": HUGE}, 2),
    "Split: too many parts": ("Split", [zeros(3)], {"num_outputs": 5}, 5),
    "Slice: step 0": ("Slice", [zeros(4), ints(0), ints(4), ints(0), ints(0)], {}),
    "Slice: axis": ("Slice", [zeros(4), ints(0), ints(4), ints(1)], {}),
    "Slice: axis twice": ("Slice", [X, ints(0, 0), ints(1, 1), ints(2, -2)], {}),
    "Slice: lengths": ("Slice", [zeros(4), ints(0, 0), ints(4)], {}),
    "Transpose: no permutation": ("Transpose", [X], {"perm": [0, 1, 1, 2]}),
    "Transpose: short": ("Transpose", [X], {"perm": [1, 0]}),
    "Transpose: out of range": ("Transpose", [X], {"perm": [0, 1, 2, 4]}),
    "Reshape: number of elements": ("Reshape", [zeros(4), ints(3)], {}),
    "Reshape: huge": ("Reshape", [zeros(4), ints(HUGE, HUGE)], {}),
    "Reshape: does not divide": ("Reshape", [zeros(4), ints(3, -1)], {}),
    "Reshape: two unknowns": ("Reshape", [zeros(4), ints(-1, -1)], {}),
    "Reshape: -2": ("Reshape", [zeros(4), ints(-2)], {}),
    "Reshape: copies a missing axis": ("Reshape", [zeros(4), ints(4, 0)], {}),
    "Flatten: axis": ("Flatten", [X], {"axis": 5}),
    "Squeeze: size": ("Squeeze", [X, ints(1)], {}),
    "Unsqueeze: axis": ("Unsqueeze", [X, ints(7)], {}),
    "Unsqueeze: axis twice": ("Unsqueeze", [X, ints(0, 0)], {}),
    "Expand: no broadcast": ("Expand", [zeros(3), ints(4)], {}),
    "Expand: negative": ("Expand", [zeros(1), ints(-4)], {}),
    "Tile: lengths": ("Tile", [X, ints(1, 1)], {}),
    "Tile: negative": ("Tile", [zeros(3), ints(-1)], {}),
    "Pad: lengths": ("Pad", [X, ints(1, 1)], {}),
    "Pad: crops too much": ("Pad", [zeros(3), ints(-2, -2)], {}),
    "Pad: mode": ("Pad", [zeros(3), ints(1, 1)], {"mode": "mirror"}),
    "Pad: reflect nothing": ("Pad", [zeros(0), ints(1, 1)], {"mode": "reflect"}),
    "Gather: index": ("Gather", [zeros(3), ints(3)], {}),
    "Gather: floats": ("Gather", [zeros(3), zeros(1)], {}),
    "Gather: axis": ("Gather", [zeros(3), ints(0)], {"axis": 1}),
    "GatherElements: index": ("GatherElements", [zeros(3), ints(-4)], {}),
    "GatherND: index": ("GatherND", [zeros(2, 2), ints(2, 0)], {}),
    "GatherND: too many": ("GatherND", [zeros(2), ints(0, 0)], {}),
    "ScatterND: index": ("ScatterND", [zeros(2, 2), ints(5, 0)[None], zeros(1)], {}),
    "ScatterND: updates": ("ScatterND", [zeros(2, 2), ints(0, 0)[None], zeros(3)], {}),
    "ScatterElements: index": ("ScatterElements", [zeros(3), ints(9), zeros(1)], {}),
    "ScatterElements: updates": ("ScatterElements", [zeros(3), ints(1), zeros(2)], {}),
    "DepthToSpace: does not divide": ("DepthToSpace", [X], {"blocksize": 3}),
    "DepthToSpace: block 0": ("DepthToSpace", [X], {"blocksize": 0}),
    "SpaceToDepth: does not divide": ("SpaceToDepth", [X], {"blocksize": 2}),
    "OneHot: negative depth": ("OneHot", [ints(1), ints(-1), zeros(2)], {}),
    "OneHot: values": ("OneHot", [ints(1), ints(3), zeros(3)], {}),
    "Range: delta 0": ("Range", [ints(0)[0], ints(5)[0], ints(0)[0]], {}),
    "Range: endless": ("Range", [F(0), F(np.inf), F(1)], {}),
    "ConstantOfShape: negative": ("ConstantOfShape", [ints(-1)], {}),
    "ConstantOfShape: floats": ("ConstantOfShape", [zeros(2)], {}),
    "Cast: unknown type": ("Cast", [zeros(2)], {"to": 999}),
    "Clip: vector bound": ("Clip", [zeros(3), zeros(3)], {}),
    "Resize: zero scale": ("Resize", [X, None, np.array([1, 1, 0, 1], F)], {}),
    "Resize: NaN scale": ("Resize", [X, None, np.array([1, 1, np.nan, 1], F)], {}),
    "Resize: lengths": ("Resize", [X, None, np.ones(3, F)], {}),
    "Resize: neither": ("Resize", [X], {}),
    "Resize: both": ("Resize", [X, None, np.ones(4, F), ints(1, 4, 5, 5)], {}),
    "Resize: from nothing": ("Resize", [zeros(1, 1, 0, 2), None, None, ints(1, 1, 4, 4)], {}),
    "Resize: mode": ("Resize", [X, None, np.ones(4, F)], {"mode": "spline"}),
    "GridSample: batch": ("GridSample", [X, zeros(2, 3, 3, 2)], {}),
    "LSTM: initial state": (
        "LSTM",
        [zeros(1, 2, 4), zeros(1, 12, 4), zeros(1, 12, 3), None, None, zeros(7, 2, 3)],
        {"hidden_size": 3}),
    "GRU: recurrence weight": (
        "GRU", [zeros(1, 2, 4), zeros(1, 9, 4), zeros(1, 8, 3)], {"hidden_size": 3}),
    "unknown operator": ("NoSuchOperator", [X], {}),
    "too many outputs": ("Relu", [X], {}, 2),
    "too many inputs": ("Relu", [X, X], {}),
}  # fmt: skip

BOMBS = {
    "ConstantOfShape": ("ConstantOfShape", [ints(1 << 20, 1 << 20)], {}),
    "ConstantOfShape overflow": ("ConstantOfShape", [ints(HUGE, HUGE)], {}),
    "Expand": ("Expand", [zeros(1), ints(1 << 20, 1 << 20)], {}),
    "Tile": ("Tile", [zeros(1), ints(1 << 40)], {}),
    "Range": ("Range", [ints(0)[0], ints(HUGE)[0], ints(1)[0]], {}),
    "Range of floats": ("Range", [F(0), F(1e30), F(1e-30)], {}),
    "Resize": ("Resize", [X, None, np.array([1, 1, 1e5, 1e5], F)], {}),
    "Resize sizes": ("Resize", [X, None, None, ints(1, 4, 1 << 20, 1 << 20)], {}),
    "Upsample": ("Upsample", [X, np.array([1, 1, 1e5, 1e5], F)], {}, 1, 9),
    "Pad": ("Pad", [zeros(1, 1), ints(0, 0, 1 << 20, 1 << 20)], {}),
    "OneHot": ("OneHot", [ints(1), ints(1 << 40), zeros(2)], {}),
    "CenterCropPad": ("CenterCropPad", [zeros(1, 1), ints(1 << 20, 1 << 20)], {}),
    "Conv pads": ("Conv", [X, W], {"pads": [1 << 20] * 4}),
}


def refused(op, arrays, attrs, outputs=1, opset=18, consts=(), open_dims=False):
    data, feeds = make(op, arrays, attrs, outputs, opset, consts, open_dims)
    with pytest.raises(FastconvError) as caught:
        fastconv.load(data, threads=1, fallback="allow", memory_limit=1 << 30).run(feeds)
    return caught.value


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_an_error_that_names_the_node(case):
    op, arrays, *rest = BAD[case]
    error = refused(op, arrays, *rest)
    assert isinstance(error, FastconvError)
    assert "'bad'" in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize("case", BAD)
def test_and_so_it_is_when_shapes_come_with_the_arrays(case):
    op, arrays, *rest = BAD[case]
    assert "'bad'" in str(refused(op, arrays, *rest, open_dims=True))


@pytest.mark.parametrize("case", BAD)
def test_and_when_all_but_the_first_input_are_constants(case):
    op, arrays, *rest = BAD[case]
    assert "'bad'" in str(refused(op, arrays, *rest, consts=range(1, len(arrays))))


@pytest.mark.parametrize("constant", [False, True], ids=["fed", "constant"])
@pytest.mark.parametrize("case", BOMBS)
def test_a_few_bytes_do_not_become_a_large_allocation(case, constant):
    op, arrays, attrs, *rest = BOMBS[case]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    consts = range(len(arrays)) if constant else ()
    error = refused(op, arrays, attrs, *rest, consts=consts)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert isinstance(error, MemoryLimitError | ModelError)
    assert grown < 400_000  # kilobytes


def test_a_result_of_another_shape_than_promised_is_not_broadcast(monkeypatch):
    from fastconv.graph.ops.unary import Abs

    monkeypatch.setattr(Abs, "compute", lambda self, xs: [np.float64(1)])
    data, feeds = make("Abs", [zeros(3, dtype=F64)], {})
    with pytest.raises(ModelError, match=r"'bad'.*computed shape \[\].*promise \[3\]"):
        fastconv.load(data).run(feeds)


FLIPS = """
import sys, warnings, itertools
import numpy as np, fastconv
warnings.simplefilter("ignore")
data = open(sys.argv[1], "rb").read()
rng = np.random.default_rng(int(sys.argv[2]))
x = np.zeros((1, 1, 28, 28), np.float32)
ran = refused = 0
for _ in range(int(sys.argv[3])):
    bad = bytearray(data)
    for k in rng.integers(0, len(bad), rng.integers(1, 4)):
        bad[k] = rng.integers(0, 256)
    if rng.random() < 0.1:
        del bad[rng.integers(0, len(bad)) :]
    try:
        model = fastconv.load(bytes(bad), threads=1, fallback="error", memory_limit=1 << 28)
        model.run({i.name: x for i in model.inputs})
        ran += 1
    except fastconv.FastconvError:
        refused += 1
print(ran, refused)
"""


@pytest.mark.parametrize("seed", [0, 1])
def test_flipped_bytes_of_a_real_model_run_or_are_refused(seed, tmp_path):
    """In a process of its own: a crash is seen as an exit status."""
    data, _ = small_network()
    path = tmp_path / "net.onnx"
    path.write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-c", FLIPS, str(path), str(seed), "400"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-500:]
    ran, refused_ = map(int, done.stdout.split())
    assert min(ran, refused_) > 10


def small_network():
    """A convolutional network whose bytes are mostly structure."""
    rng = np.random.default_rng(0)
    consts = {
        "w": rng.standard_normal((4, 1, 3, 3)),
        "s": np.ones(4),
        "z": np.zeros(4),
        "f": rng.standard_normal((2, 4)),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["1"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("BatchNormalization", ["1", "s", "z", "z", "s"], ["2"]),
        helper.make_node("Relu", ["2"], ["3"]),
        helper.make_node("MaxPool", ["3"], ["4"], kernel_shape=[3, 3], strides=[2, 2]),
        helper.make_node("Concat", ["4", "4"], ["5"], axis=1),
        helper.make_node("Split", ["5"], ["6", "7"], axis=1, num_outputs=2),
        helper.make_node("Add", ["6", "7"], ["8"]),
        helper.make_node("GlobalAveragePool", ["8"], ["9"]),
        helper.make_node("Flatten", ["9"], ["10"]),
        helper.make_node("Gemm", ["10", "f"], ["11"], transB=1),
        helper.make_node("Softmax", ["11"], ["y"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, [1, 1, 28, 28])],
        [value("y", TensorProto.FLOAT, [1, 2])],
        [numpy_helper.from_array(a.astype(F), n) for n, a in consts.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 8
    return model.SerializeToString(), zeros(1, 1, 28, 28)


def test_the_small_network_is_sound():
    data, x = small_network()
    np.testing.assert_allclose(fastconv.load(data)(x), [[0.5, 0.5]])


@pytest.mark.parametrize(
    ("op", "attrs"),
    [
        ("MaxPool", {"kernel_shape": [2, 2]}),
        ("AveragePool", {"kernel_shape": [2, 2], "pads": [1, 1, 1, 1]}),
        ("LpPool", {"kernel_shape": [2, 2]}),
        ("GlobalAveragePool", {}),
        ("GlobalMaxPool", {}),
        ("Relu", {}),
        ("Sigmoid", {}),
        ("Softmax", {"axis": 1}),
        ("LRN", {"size": 3}),
        ("Transpose", {"perm": [0, 2, 3, 1]}),
        ("Flatten", {}),
        ("DepthToSpace", {"blocksize": 2}),
        ("SpaceToDepth", {"blocksize": 2}),
        ("ReduceMax", {"axes": [1]}),
        ("ReduceMean", {"axes": [2, 3]}),
        ("ArgMax", {"axis": 1}),
    ],
)
def test_an_empty_batch_gives_an_empty_result(op, attrs):
    for batch in (0, 2):
        data, feeds = make(op, [zeros(batch, 4, 4, 4)], attrs, opset=13, open_dims=True)
        (y,) = fastconv.load(data).run(feeds).values()
        assert y.shape[0] == batch
        assert (y.size == 0) == (batch == 0)
