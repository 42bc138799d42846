"""Small networks through onnxruntime's quantiser: the same results as its integer kernels."""

import collections
import pathlib

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from PIL import Image

import fastconv

RNG = np.random.default_rng(0)


class Inputs(CalibrationDataReader):
    """A few random images."""

    def __init__(self):
        self.items = iter([{"x": image(k)} for k in range(3)])

    def get_next(self):
        return next(self.items, None)


def image(seed):
    return np.random.default_rng(seed).normal(size=(1, 3, 32, 32)).astype(np.float32)


def network(path):
    """A stem, an inverted residual, a branch that is joined by Concat, gates, and a classifier."""
    nodes, weights = [], {}

    def add(op, *inputs, **attrs):
        out = f"v{len(nodes)}"
        nodes.append(helper.make_node(op, list(inputs), [out], name=f"{op}{len(nodes)}", **attrs))
        return out

    def const(array):
        name = f"w{len(weights)}"
        weights[name] = numpy_helper.from_array(array, name)
        return name

    def conv(x, filters, channels, size, group=1, **attrs):
        w = RNG.normal(size=(filters, channels // group, size, size)) / size
        w = (w / np.sqrt(channels // group)).astype(np.float32)
        bias = const((0.1 * RNG.normal(size=filters)).astype(np.float32))
        pads = [size // 2] * 4
        return add("Conv", x, const(w), bias, group=group, pads=pads, **attrs)

    bounds = [const(np.float32(0)), const(np.float32(6))]
    x = add("Relu", conv("x", 16, 3, 3, strides=[2, 2]))
    y = add("Clip", conv(x, 72, 16, 1), *bounds)
    y = add("Clip", conv(y, 72, 72, 3, group=72), *bounds)
    x = add("Add", conv(y, 16, 72, 1), x)
    y = add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    z = add("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
    y = add("Concat", y, z, axis=1)
    gate = add("Sigmoid", conv(add("GlobalAveragePool", y), 32, 32, 1))
    y = add("Mul", y, gate)
    y = add("LeakyRelu", conv(y, 40, 32, 3), alpha=0.1)
    y = add("Flatten", add("GlobalAveragePool", y))
    fc = const(RNG.normal(size=(40, 10)).astype(np.float32))
    y = add("Gemm", y, fc, const(RNG.normal(size=10).astype(np.float32)))
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "net", [info("x", TensorProto.FLOAT, [1, 3, 32, 32])],
        [info(y, TensorProto.FLOAT, [1, 10])], list(weights.values()),
    )  # fmt: skip
    m = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(m, path)


@pytest.fixture(scope="module")
def quantised(tmp_path_factory):
    """A function from format and types to the path of the quantised network (made once)."""
    folder = tmp_path_factory.mktemp("quant")
    network(folder / "float.onnx")
    made = {}

    def make(form, activations, weights=QuantType.QInt8, per_channel=True):
        key = (form, activations, weights, per_channel)
        if key not in made:
            made[key] = folder / f"{len(made)}.onnx"
            quantize_static(
                folder / "float.onnx", made[key], Inputs(), quant_format=form,
                per_channel=per_channel, activation_type=activations, weight_type=weights,
            )  # fmt: skip
        return made[key]

    make.float = folder / "float.onnx"
    return make


def peer(path, **config):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    for key, value in config.items():
        options.add_session_config_entry(key.replace("__", "."), value)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def output_step(path):
    """The quantisation step of the network's result."""
    graph = onnx.load(path).graph
    last = next(n for n in graph.node if n.output[0] == graph.output[0].name)
    assert last.op_type == "DequantizeLinear"
    scales = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    return float(scales[last.input[1]].reshape(()))


CASES = {
    "QDQ, unsigned": (QuantFormat.QDQ, QuantType.QUInt8),
    "QDQ, signed": (QuantFormat.QDQ, QuantType.QInt8),
    "QDQ, unsigned, one scale": (QuantFormat.QDQ, QuantType.QUInt8, QuantType.QInt8, False),
    "QDQ, unsigned weights": (QuantFormat.QDQ, QuantType.QUInt8, QuantType.QUInt8, False),
    "QOperator": (QuantFormat.QOperator, QuantType.QUInt8),
    "QOperator, signed": (QuantFormat.QOperator, QuantType.QInt8),
    "QOperator, unsigned weights": (
        QuantFormat.QOperator,
        QuantType.QUInt8,
        QuantType.QUInt8,
        False,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_as_onnxruntimes_integer_kernels(quantised, case):
    path = quantised(*CASES[case])
    step = output_step(path)
    # Without this entry, onnxruntime computes signed QDQ models in floats on x86.
    other = peer(path, session__qdqisint8allowed="1")
    for threads in (1, 2):
        options = fastconv.SessionOptions()
        options.intra_op_num_threads = threads
        mine = fastconv.InferenceSession(str(path), options)
        for seed in (0, 7):
            got, want = (
                mine.run(None, {"x": image(seed)})[0],
                other.run(None, {"x": image(seed)})[0],
            )
            assert np.abs(got - want).max() <= 1.001 * step


@pytest.mark.parametrize("case", CASES)
def test_every_step_is_a_kernel_and_convolutions_are_integer_ones(quantised, case):
    found = fastconv.load(quantised(*CASES[case]), threads=1)
    plans = [plan for plan, _ in found.profile({"x": image(0)})]
    names = collections.Counter(s.kernel for plan in plans for s in plan.steps)
    assert not any(n.startswith("numpy") for n in names), names
    assert not any(n in names for n in ("conv", "depthwise", "winograd", "gemv")), names


def test_dynamically_quantised_weights(quantised, tmp_path):
    path = tmp_path / "dynamic.onnx"
    quantize_dynamic(quantised.float, path, weight_type=QuantType.QInt8)
    kinds = {n.op_type for n in onnx.load(path).graph.node}
    assert {"MatMulInteger", "DynamicQuantizeLinear"} <= kinds or "ConvInteger" in kinds
    got = fastconv.InferenceSession(str(path)).run(None, {"x": image(0)})[0]
    want = peer(path).run(None, {"x": image(0)})[0]
    assert np.abs(got - want).max() <= 0.02 * np.abs(want).max()


# A real network and photographs.

ROOT = pathlib.Path(__file__).parents[1] / "models"


def photograph(name):
    """A photograph as the bundled MobileNetV2 expects it."""
    picture = Image.open(ROOT / "images" / name).convert("RGB").resize((224, 224))
    x = (np.asarray(picture, np.float32) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    return x.transpose(2, 0, 1)[None].astype(np.float32)


class Photographs(CalibrationDataReader):
    """One photograph."""

    def __init__(self):
        self.items = iter([{"input": photograph("cat.png")}])

    def get_next(self):
        return next(self.items, None)


@pytest.mark.parametrize("activations", [QuantType.QUInt8, QuantType.QInt8])
def test_photographs_give_the_integers_of_onnxruntime(activations, tmp_path):
    path = tmp_path / "photographs.onnx"
    quantize_static(
        ROOT / "mobilenet_v2.onnx", path, Photographs(), quant_format=QuantFormat.QDQ,
        per_channel=True, activation_type=activations,
    )  # fmt: skip
    other = peer(path, session__qdqisint8allowed="1")
    cat = photograph("cat.png")
    views = [cat, cat[:, :, ::-1].copy(), np.roll(cat, 50, 2), photograph("coffee.jpg")]
    want = [other.run(None, {"input": x})[0] for x in views]
    for threads in (1, 2):
        model = fastconv.load(path, threads=threads)
        for x, w in zip(views, want, strict=True):
            np.testing.assert_array_equal(model(x), w)
    # The same bits at any position of a batch.
    np.testing.assert_array_equal(model(np.concatenate(views)), np.concatenate(want))
