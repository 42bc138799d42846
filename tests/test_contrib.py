"""onnxruntime's own operators give its results, and models that it saved optimised load."""

import warnings

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import fastconv
from fastconv.errors import InputError, ModelError, UnsupportedError
from fastconv.importer import contrib, nchwc
from fastconv.importer.contrib import CONTRIBUTED, MICROSOFT, NCHWC

ort = pytest.importorskip("onnxruntime")
F32, I64 = TensorProto.FLOAT, TensorProto.INT64


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def model_of(nodes, feeds, consts=None, outputs=None, opset=17):
    """The bytes of a model of these nodes."""
    outputs = outputs or {nodes[-1].output[0]: F32}
    graph = helper.make_graph(
        nodes,
        "contributed",
        [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for n, a in feeds.items()
        ],
        [helper.make_tensor_value_info(n, t, None) for n, t in outputs.items()],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in (consts or {}).items()],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=9).SerializeToString()


def session(data, level="ORT_DISABLE_ALL", save=None):
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    options.log_severity_level = 4
    if save is not None:
        options.optimized_model_filepath = str(save)
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def agree(data, feeds, tolerance=2e-5):
    """fastconv without a fallback, optimised and not, equals onnxruntime."""
    expected = session(data).run(None, feeds)
    for optimize in (True, False):
        got = fastconv.load(data, fallback="error", threads=1, optimize=optimize).run(feeds)
        for want, have in zip(expected, got.values(), strict=True):
            assert have.dtype == want.dtype
            assert have.shape == want.shape
            np.testing.assert_allclose(have, want, rtol=tolerance, atol=tolerance)


def node(op, inputs, outputs=("y",), domain=MICROSOFT, **attributes):
    return helper.make_node(op, list(inputs), list(outputs), domain=domain, **attributes)


# Operators one by one. Upper-case names are constants, the others are fed.

X = normal(0, 2, 6, 9, 7)
ROWS = normal(1, 3, 5, 8)
CASES = {
    "FusedConv, Relu": (
        node("FusedConv", ["x", "W", "B"], activation="Relu", pads=[1, 1, 1, 1]),
        {"x": X}, {"W": normal(2, 4, 6, 3, 3), "B": normal(3, 4)},
    ),
    "FusedConv, Clip": (
        node("FusedConv", ["x", "W"], activation="Clip", activation_params=[-0.5, 0.75]),
        {"x": X}, {"W": normal(2, 4, 6, 1, 1)},
    ),
    "FusedConv, LeakyRelu, Z": (
        node("FusedConv", ["x", "W", "B", "z"], activation="LeakyRelu", activation_params=[0.3]),
        {"x": X, "z": normal(4, 2, 4, 9, 7)}, {"W": normal(2, 4, 6, 1, 1), "B": normal(3, 4)},
    ),
    "FusedConv, Z without a bias": (
        node("FusedConv", ["x", "W", "", "z"], activation="Relu"),
        {"x": X, "z": normal(4, 2, 4, 9, 7)}, {"W": normal(2, 4, 6, 1, 1)},
    ),
    "FusedConv, HardSigmoid, groups": (
        node("FusedConv", ["x", "W"], activation="HardSigmoid", activation_params=[0.1, 0.4],
             group=2, strides=[2, 1]),
        {"x": X}, {"W": normal(2, 4, 3, 3, 3)},
    ),
    "FusedGemm": (
        node("FusedGemm", ["x", "W", "B"], activation="LeakyRelu", activation_alpha=0.2, transB=1,
             alpha=0.5, beta=2.0),
        {"x": ROWS[0]}, {"W": normal(2, 4, 8), "B": normal(3, 4)},
    ),
    "FusedMatMul, constant, transposed": (
        node("FusedMatMul", ["x", "W"], transB=1, alpha=0.25), {"x": ROWS}, {"W": normal(2, 6, 8)},
    ),
    "FusedMatMul, both transposed": (
        node("FusedMatMul", ["x", "z"], transA=1, transB=1),
        {"x": ROWS, "z": normal(2, 3, 4, 5)}, {},
    ),
    "FusedMatMul, leading axes moved": (
        node("FusedMatMul", ["x", "z"], transBatchA=1, transBatchB=1, transB=1),
        {"x": normal(2, 5, 2, 3, 8), "z": normal(3, 4, 2, 3, 8)}, {},
    ),
    "TransposeMatMul": (
        node("TransposeMatMul", ["x", "z"], transA=1), {"x": ROWS, "z": normal(2, 3, 5, 4)}, {},
    ),
    "Gelu": (node("Gelu", ["x"]), {"x": X}, {}),
    "QuickGelu": (node("QuickGelu", ["x"]), {"x": X}, {}),
    "QuickGelu, SiLU": (node("QuickGelu", ["x"], alpha=1.0), {"x": X}, {}),
    "FastGelu": (node("FastGelu", ["x"]), {"x": ROWS}, {}),
    "FastGelu, bias": (node("FastGelu", ["x", "B"]), {"x": ROWS}, {"B": normal(2, 8)}),
    "BiasGelu": (node("BiasGelu", ["x", "B"]), {"x": ROWS}, {"B": normal(2, 8)}),
    "SkipLayerNormalization": (
        node("SkipLayerNormalization", ["x", "z", "G", "B", "C"], epsilon=1e-5),
        {"x": ROWS, "z": normal(2, 3, 5, 8)},
        {"G": normal(3, 8), "B": normal(4, 8), "C": normal(5, 8)},
    ),
    "SkipLayerNormalization, no beta": (
        node("SkipLayerNormalization", ["x", "z", "G"]),
        {"x": ROWS, "z": normal(2, 3, 5, 8)}, {"G": normal(3, 8)},
    ),
    "SkipSimplifiedLayerNormalization": (
        node("SkipSimplifiedLayerNormalization", ["x", "z", "G"], epsilon=1e-5),
        {"x": ROWS, "z": normal(2, 3, 5, 8)}, {"G": normal(3, 8)},
    ),
    "SimplifiedLayerNormalization": (
        node("SimplifiedLayerNormalization", ["x", "G"], domain="", axis=-1, epsilon=1e-5),
        {"x": ROWS}, {"G": normal(3, 8)},
    ),
    "Trilu": (node("Trilu", ["x"], upper=0), {"x": ROWS}, {}),
    "GridSample": (
        node("GridSample", ["x", "z"], mode="bicubic", align_corners=1),
        {"x": X, "z": np.tanh(normal(2, 2, 4, 3, 2))}, {},
    ),
    "Pad": (
        node("Pad", ["x", "P", "V"], mode="constant"),
        {"x": ROWS}, {"P": np.array([0, 1, 0, 0, 2, 1]), "V": np.float32(3)},
    ),
    "ExpandDims": (node("ExpandDims", ["x", "A"]), {"x": ROWS}, {"A": np.int32(1)}),
    "GatherND": (
        node("GatherND", ["x", "A"]), {"x": ROWS}, {"A": np.array([[0, 1], [2, 3]])},
    ),
    "Inverse": (node("Inverse", ["x"]), {"x": normal(2, 3, 4, 4)}, {}),
    "ConvTransposeWithDynamicPads": (
        node("ConvTransposeWithDynamicPads", ["x", "W", "P", "B"], strides=[2, 2]),
        {"x": X},
        {"W": normal(2, 6, 3, 3, 3), "P": np.array([1, 0, 1, 1]), "B": normal(3, 3)},
    ),
    "Affine": (node("Affine", ["x"], domain="", alpha=0.5, beta=2.0), {"x": X}, {}),
    "ScaledTanh": (node("ScaledTanh", ["x"], domain="", alpha=0.5, beta=2.0), {"x": X}, {}),
    "ParametricSoftplus": (
        node("ParametricSoftplus", ["x"], domain="", alpha=0.5, beta=2.0), {"x": X}, {},
    ),
    "Scale": (node("Scale", ["x"], domain="", scale=0.5), {"x": X}, {}),
    "ImageScaler": (
        node("ImageScaler", ["x"], domain="", bias=[0.5] * 6, scale=2.0), {"x": X}, {},
    ),
    "Crop": (node("Crop", ["x"], domain="", border=[1, 2, 0, 3]), {"x": X}, {}),
    "Crop, scale": (
        node("Crop", ["x"], domain="", border=[1, 2, 0, 0], scale=[3, 4]), {"x": X}, {},
    ),
    "DynamicQuantizeMatMul": (
        node("DynamicQuantizeMatMul", ["x", "W", "S", "Z", "B"]),
        {"x": ROWS},
        {"W": np.arange(32, dtype=np.uint8).reshape(8, 4), "S": np.float32([0.1, 0.2, 0.3, 0.4]),
         "Z": np.uint8([3, 9, 14, 20]), "B": normal(2, 4)},
    ),
    "MatMulIntegerToFloat": (
        node("MatMulIntegerToFloat", ["x", "W", "S", "T", "Z", "V", "B"]),
        {"x": np.arange(40, dtype=np.uint8).reshape(5, 8)},
        {"W": np.arange(32, dtype=np.uint8).reshape(8, 4), "S": np.float32(0.1),
         "T": np.float32([0.2]), "Z": np.uint8(11), "V": np.uint8(14), "B": normal(2, 4)},
    ),
    "MatMulNBits": (
        node("MatMulNBits", ["x", "W", "S"], K=40, N=6, bits=4, block_size=16),
        {"x": normal(2, 3, 40)},
        {"W": np.random.default_rng(3).integers(0, 256, (6, 3, 8), np.uint8), "S": normal(4, 18)},
    ),
    "MatMulNBits, zero points and a bias": (
        node("MatMulNBits", ["x", "W", "S", "Z", "", "B"], K=40, N=6, bits=4, block_size=16),
        {"x": normal(2, 3, 40)},
        {"W": np.random.default_rng(3).integers(0, 256, (6, 3, 8), np.uint8), "S": normal(4, 18),
         "Z": np.random.default_rng(5).integers(0, 256, (12,), np.uint8), "B": normal(6, 6)},
    ),
    "MatMulNBits, 8 bits": (
        node("MatMulNBits", ["x", "W", "S"], K=32, N=6, bits=8, block_size=32),
        {"x": normal(2, 3, 32)},
        {"W": np.random.default_rng(3).integers(0, 256, (6, 1, 32), np.uint8), "S": normal(4, 6)},
    ),
    "MultiHeadAttention": (
        node("MultiHeadAttention", ["x", "z", "z", "B"], num_heads=2),
        {"x": ROWS, "z": normal(2, 3, 7, 8)}, {"B": normal(3, 24)},
    ),
    "MultiHeadAttention, causal, no bias": (
        node("MultiHeadAttention", ["x", "x", "x"], num_heads=4, unidirectional=1, scale=0.4),
        {"x": ROWS}, {},
    ),
    "MultiHeadAttention, attention_bias": (
        node("MultiHeadAttention", ["x", "x", "z", "", "", "A"], num_heads=2),
        {"x": ROWS, "z": normal(2, 3, 5, 12)}, {"A": normal(4, 1, 2, 5, 5)},
    ),
    "Attention": (
        node("Attention", ["x", "W", "B"], num_heads=2),
        {"x": ROWS}, {"W": normal(2, 8, 24), "B": normal(3, 24)},
    ),
    "Attention, sizes": (
        node("Attention", ["x", "W", "B"], num_heads=2, qkv_hidden_sizes=[8, 8, 4]),
        {"x": ROWS}, {"W": normal(2, 8, 20), "B": normal(3, 20)},
    ),
    "CropAndResize": (
        node("CropAndResize", ["x", "z", "I", "S"], extrapolation_value=9.0),
        {"x": X, "z": np.float32([[0.1, 0.2, 0.9, 0.7], [-0.2, 0, 1.1, 1], [0.8, 0.8, 0.1, 0.2]])},
        {"I": np.int32([0, 1, 1]), "S": np.int32([4, 3])},
    ),
    "CropAndResize, nearest, one point": (
        node("CropAndResize", ["x", "z", "I", "S"], mode="nearest"),
        {"x": X, "z": np.float32([[0.1, 0.2, 0.9, 0.7], [0.3, 0, 0.6, 1]])},
        {"I": np.int32([0, 1]), "S": np.int32([1, 5])},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_an_operator_gives_what_onnxruntime_gives(name):
    op, feeds, consts = CASES[name]
    opset = 9 if op.domain == "" and op.op_type != "SimplifiedLayerNormalization" else 17
    data = model_of([op], feeds, consts, opset=opset)
    agree(data, feeds, 2e-4 if "MatMulNBits" in name else 2e-5)


def test_the_sum_of_a_skip_normalisation_is_an_output_of_its_own():
    op = node("SkipLayerNormalization", ["x", "z", "G", "B"], ["y", "", "", "s"])
    feeds = {"x": ROWS, "z": normal(2, 3, 5, 8)}
    consts = {"G": normal(3, 8), "B": normal(4, 8)}
    agree(model_of([op], feeds, consts, {"y": F32, "s": F32}), feeds)


def test_unique_keeps_the_order_of_first_meetings():
    op = node("Unique", ["x"], ["y", "i", "n"])
    feeds = {"x": np.float32([2, 1, 1, 3, 4, 3])}
    agree(model_of([op], feeds, {}, {"y": F32, "i": I64, "n": I64}), feeds)


QUANTISED = {
    "QuantizeLinear, 16 bits": (
        node("QuantizeLinear", ["x", "S", "Z"]), {"x": ROWS},
        {"S": np.float32(0.01), "Z": np.uint16(3000)}, TensorProto.UINT16,
    ),
    "DequantizeLinear, 16 bits": (
        node("DequantizeLinear", ["x", "S", "Z"]), {"x": np.arange(9, dtype=np.int16) - 4},
        {"S": np.float32(0.01), "Z": np.int16(3)}, F32,
    ),
    "QLinearSoftmax": (
        node("QLinearSoftmax", ["x", "S", "Z", "T", "V"], opset=13, axis=-1),
        {"x": np.arange(24, dtype=np.uint8).reshape(4, 6)},
        {"S": np.float32(0.1), "Z": np.uint8(9), "T": np.float32(1 / 256), "V": np.uint8(0)},
        TensorProto.UINT8,
    ),
    "QLinearWhere": (
        node("QLinearWhere", ["c", "x", "S", "Z", "z", "T", "V", "U", "W"]),
        {"c": np.arange(24).reshape(4, 6) % 3 == 0,
         "x": np.arange(24, dtype=np.uint8).reshape(4, 6),
         "z": np.arange(24, dtype=np.uint8).reshape(4, 6) * 3},
        {"S": np.float32(0.1), "Z": np.uint8(9), "T": np.float32(0.07), "V": np.uint8(30),
         "U": np.float32(0.05), "W": np.uint8(50)},
        TensorProto.UINT8,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", QUANTISED)
def test_quantised_operators_are_at_most_a_step_away(name):
    op, feeds, consts, kind = QUANTISED[name]
    data = model_of([op], feeds, consts, {"y": kind})
    want = session(data).run(None, feeds)[0]
    got = fastconv.load(data, fallback="error").run(feeds)["y"]
    assert got.dtype == want.dtype
    step = 1 if want.dtype.kind in "iu" else 1e-6
    assert np.abs(got.astype(np.float64) - want.astype(np.float64)).max() <= step


def test_images_with_channels_last_are_those_with_channels_first():
    """onnxruntime has these on other processors than this test may run on."""
    x, w = normal(0, 2, 6, 5, 4), normal(1, 3, 4, 3, 3)
    last = node("NhwcFusedConv", ["x", "W"], ["c"], activation="Relu", pads=[1, 1, 1, 1])
    pool = node("NhwcMaxPool", ["c"], kernel_shape=[2, 2])
    first = [
        node("Transpose", ["x"], ["t"], domain="", perm=[0, 3, 1, 2]),
        node("FusedConv", ["t", "W"], ["c"], activation="Relu", pads=[1, 1, 1, 1]),
        node("MaxPool", ["c"], ["p"], domain="", kernel_shape=[2, 2]),
        node("Transpose", ["p"], domain="", perm=[0, 2, 3, 1]),
    ]
    got = fastconv.load(model_of([last, pool], {"x": x}, {"W": w}), fallback="error")(x)
    want = session(model_of(first, {"x": x}, {"W": w})).run(None, {"x": x})[0]
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


def test_operators_for_graphics_processors_follow_their_definition():
    x, z = normal(0, 2, 3, 8), normal(1, 2, 3, 8)
    bias = normal(2, 8)
    add = fastconv.load(
        model_of([node("BiasAdd", ["x", "B", "z"])], {"x": x, "z": z}, {"B": bias}),
        fallback="error",
    )
    np.testing.assert_allclose(add.run({"x": x, "z": z})["y"], x + bias + z, rtol=1e-6)
    split = fastconv.load(
        model_of([node("BiasSplitGelu", ["x", "B"])], {"x": x}, {"B": bias}), fallback="error"
    )
    plain = [
        node("Add", ["x", "B"], ["s"], domain=""),
        node("Split", ["s"], ["l", "r"], domain="", axis=-1),
        node("Gelu", ["r"], ["g"]),
        node("Mul", ["l", "g"], domain=""),
    ]
    want = session(model_of(plain, {"x": x}, {"B": bias})).run(None, {"x": x})[0]
    np.testing.assert_allclose(split(x), want, rtol=2e-5, atol=2e-5)
    soft = node("BiasSoftmax", ["x", "B"], axis=2, is_inner_broadcast=0)
    e = np.exp(x + bias)
    got = fastconv.load(model_of([soft], {"x": x}, {"B": bias}), fallback="error")(x)
    np.testing.assert_allclose(got, e / e.sum(axis=2, keepdims=True), rtol=2e-5)
    mean = node("QLinearReduceMean", ["q", "S", "Z", "T", "V"], axes=[1], keepdims=1)
    q = np.arange(24, dtype=np.uint8).reshape(4, 6)
    steps = {"S": np.float32(0.1), "Z": np.uint8(9), "T": np.float32(0.07), "V": np.uint8(30)}
    data = model_of([mean], {"q": q}, steps, {"y": TensorProto.UINT8})
    want = np.rint((q.mean(axis=1, keepdims=True) - 9) * 0.1 / 0.07) + 30
    np.testing.assert_array_equal(fastconv.load(data, fallback="error")(q), want)
    image, scale, shift = normal(3, 1, 4, 5, 6), normal(4, 6), normal(5, 6)
    norm = node("GroupNorm", ["x", "G", "B"], groups=3, activation=1)
    got = fastconv.load(model_of([norm], {"x": image}, {"G": scale, "B": shift}), fallback="error")(
        image
    )
    groups = image.reshape(1, 20, 3, 2).astype(np.float64)
    mean = groups.mean(axis=(1, 3), keepdims=True)
    groups = (groups - mean) / np.sqrt(groups.var(axis=(1, 3), keepdims=True) + 1e-5)
    y = groups.reshape(image.shape) * scale + shift
    np.testing.assert_allclose(got, y / (1 + np.exp(-y)), rtol=2e-5, atol=2e-5)


# Models that onnxruntime saved.


def small_network():
    """Channels that fill no block, depthwise and grouped convolutions, a gate, a skip, a concat,
    pools, a resize, batch normalisation that follows no convolution, and a classifier."""
    consts, nodes = {}, []

    def conv(x, y, out, inner, k, act=None, **attrs):
        consts[f"{y}w"] = normal(len(consts), out, inner, k, k) / np.float32((inner * k * k) ** 0.5)
        consts[f"{y}b"] = normal(len(consts), out)
        made = f"{y}_" if act else y
        pads = [k // 2] * 4
        nodes.append(node("Conv", [x, f"{y}w", f"{y}b"], [made], domain="", pads=pads, **attrs))
        if act:
            nodes.append(node(act, [made], [y], domain=""))

    conv("x", "a", 24, 3, 3, "Relu", strides=[2, 2])
    conv("a", "b", 24, 1, 3, "HardSwish", group=24)
    nodes.append(node("GlobalAveragePool", ["b"], ["s"], domain=""))
    conv("s", "t", 8, 24, 1, "Relu")
    conv("t", "u", 24, 8, 1, "HardSigmoid")
    nodes.append(node("Mul", ["b", "u"], ["g"], domain=""))
    conv("g", "h", 24, 24, 1)
    nodes.append(node("Add", ["h", "a"], ["r"], domain=""))
    for k, name in enumerate(("scale", "shift", "mean", "var")):
        consts[name] = np.abs(normal(50 + k, 24)) + np.float32(0.5)
    nodes.append(
        node("BatchNormalization", ["r", "scale", "shift", "mean", "var"], ["n"], domain="")
    )
    conv("n", "i", 32, 24, 3, "Sigmoid")
    conv("i", "j", 32, 32, 1, "LeakyRelu")
    nodes.append(node("Concat", ["i", "j"], ["c"], domain="", axis=1))
    nodes.append(
        node("MaxPool", ["c"], ["p"], domain="", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)
    )
    consts["sizes"] = np.float32([1, 1, 2, 2])
    nodes.append(
        node("Resize", ["p", "", "sizes"], ["q"], domain="", mode="nearest",
             nearest_mode="floor", coordinate_transformation_mode="asymmetric")
    )  # fmt: skip
    conv("q", "v", 20, 64, 1, "Relu")
    nodes.append(
        node("AveragePool", ["v"], ["w"], domain="", kernel_shape=[2, 2], count_include_pad=1)
    )
    nodes.append(node("GlobalMaxPool", ["w"], ["f_"], domain=""))
    nodes.append(node("Flatten", ["f_"], ["f"], domain=""))
    consts["fw"], consts["fb"] = normal(90, 10, 20), normal(91, 10)
    nodes.append(node("Gemm", ["f", "fw", "fb"], ["e"], domain="", transB=1))
    nodes.append(node("Relu", ["e"], domain=""))
    return nodes, consts


@pytest.mark.parametrize("level", ["BASIC", "EXTENDED", "ALL"])
def test_a_model_that_onnxruntime_saved_optimised_is_the_same_model(level, tmp_path):
    nodes, consts = small_network()
    feeds = {"x": normal(0, 1, 3, 30, 26)}
    data = model_of(nodes, feeds, consts)
    path = tmp_path / "optimised.onnx"
    want = session(data, f"ORT_ENABLE_{level}", path).run(None, feeds)[0]
    saved = onnx.load(path)
    own = {n.op_type for n in saved.graph.node if n.domain.startswith("com.microsoft")}
    assert level == "BASIC" or own
    for options in ({}, {"optimize": False}):
        got = fastconv.load(str(path), fallback="error", threads=1, **options)(feeds["x"])
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


# The blocked layout by itself, with either block.


def blocked(weight, block, split=True):
    """Weights as onnxruntime orders them, element by element."""
    m, c, kh, kw = weight.shape
    flat = []
    for outer in range(0, m, block):
        for start in range(0, c, block if split else 1):
            for i in range(kh):
                for j in range(kw):
                    for inner in range(start, start + (block if split else 1)):
                        flat += [weight[outer + o, inner, i, j] for o in range(block)]
    return np.array(flat, np.float32).reshape(weight.shape)


@pytest.mark.parametrize("block", [8, 16])
@pytest.mark.parametrize(("channels", "split"), [(32, True), (3, False), (1, False)])
def test_weights_are_put_back_in_order(block, channels, split):
    weight = normal(0, 32, channels, 3, 2)
    order = nchwc.ordered(blocked(weight, block, split), block, depthwise=channels == 1)
    np.testing.assert_array_equal(order, weight)


def nchwc_model(block, channels, filters, group=1):
    """Reordering, one convolution and reordering back, as onnxruntime writes them."""
    inner = channels // group
    weight = normal(0, filters, inner, 3, 3)
    full = -(-filters // block) * block
    wide = -(-inner // block) * block if group == 1 else inner
    padded = np.zeros((full, wide, 3, 3), np.float32)
    padded[:filters, :inner] = weight
    bias = np.zeros(full, np.float32)
    bias[:filters] = normal(1, filters)
    nodes = [
        node("ReorderInput", ["x"], ["a"], domain=NCHWC),
        node("Conv", ["a", "W", "B"], ["b"], domain=NCHWC, pads=[1, 1, 1, 1], activation="Relu"),
        node("ReorderOutput", ["b"], domain=NCHWC, channels=filters),
    ]
    feeds = {"x": normal(2, 1, channels, 5, 6)}
    data = onnx.load_from_string(model_of(nodes, feeds, {"W": blocked(padded, block), "B": bias}))
    data.opset_import.append(helper.make_opsetid(NCHWC, 1))
    plain = node("FusedConv", ["x", "W", "B"], activation="Relu", pads=[1, 1, 1, 1])
    same = model_of([plain], feeds, {"W": weight, "B": bias[:filters]})
    return data.SerializeToString(), same, feeds


@pytest.mark.parametrize(("channels", "filters"), [(24, 24), (20, 8), (40, 56)])
def test_a_model_saved_on_a_narrower_processor_tells_so_by_its_sizes(channels, filters):
    data, same, feeds = nchwc_model(8, channels, filters)
    want = session(same).run(None, feeds)[0]
    got = fastconv.load(data, fallback="error")(feeds["x"])
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("block", [8, 16])
def test_where_sizes_do_not_tell_the_block_is_this_processors(block, monkeypatch):
    monkeypatch.setattr(nchwc, "own_block", lambda: block)
    data, same, feeds = nchwc_model(block, 32, 48)
    want = session(same).run(None, feeds)[0]
    got = fastconv.load(data, fallback="error")(feeds["x"])
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    assert nchwc.own_block.__call__() in (8, 16)


def test_weights_that_fill_no_block_are_named():
    with pytest.raises(ModelError, match="do not fill blocks of 8"):
        nchwc.ordered(normal(0, 12, 8, 1, 1), 8, depthwise=False)


# What is refused.


@pytest.mark.parametrize(
    ("op", "consts", "error", "message"),
    [
        (node("FusedConv", ["x", "W"], activation="Sinh"), {"W": normal(0, 4, 6, 1, 1)},
         UnsupportedError, "'Sinh' of FusedConv"),
        (node("FusedConv", ["x"]), {}, ModelError, "takes 2 to 4 inputs"),
        (node("FusedConv", ["x", "W"], activation=3), {"W": normal(0, 4, 6, 1, 1)},
         ModelError, "attribute 'activation' is INT"),
        (node("QuickGelu", ["x"], beta=1.0), {}, UnsupportedError, "'beta' is not known"),
        (node("GroupNorm", ["x", "G", "G"], activation=0), {"G": normal(0, 6)},
         ModelError, "needs an attribute 'groups'"),
        (node("MatMulNBits", ["x", "W", "S"], K=7, N=3, bits=3, block_size=16),
         {"W": np.zeros((3, 1, 8), np.uint8), "S": normal(0, 3)}, UnsupportedError, "bits=3"),
        (node("MatMulNBits", ["x", "W", "S"], K=7, N=3, bits=4, block_size=16),
         {"W": np.zeros((3, 1, 7), np.uint8), "S": normal(0, 3)}, UnsupportedError, "21 bytes"),
        (node("ConvTransposeWithDynamicPads", ["x", "W", "x"]), {"W": normal(0, 6, 2, 3, 3)},
         UnsupportedError, "pads that are computed"),
        (node("SkipLayerNormalization", ["x", "x", "G"], ["y", "m"]), {"G": normal(0, 7)},
         UnsupportedError, "output number 2"),
        (node("Attention", ["x", "G", "", "G"], num_heads=2), {"G": normal(0, 7)},
         UnsupportedError, "mask_index"),
        (node("Crop", ["x"], domain="", border=[1, 2]), {}, UnsupportedError, "border"),
    ],
)  # fmt: skip
def test_what_cannot_be_rewritten_is_refused_by_name(op, consts, error, message):
    with pytest.raises(error, match=message):
        fastconv.load(model_of([op], {"x": X}, consts))


def test_a_singular_matrix_is_named():
    x = np.zeros((2, 2), np.float32)
    with pytest.raises(InputError, match="singular"):
        fastconv.load(model_of([node("Inverse", ["x"])], {"x": x}))(x)


def test_every_contributed_operator_is_tested_or_onnxruntime_has_none():
    assert contrib.find(MICROSOFT, "FusedConv") is not None
    assert contrib.find(MICROSOFT, "Nonsense") is None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnxruntime.capi import onnxruntime_pybind11_state as state

        known = {(s.domain, s.name) for s in state.get_all_operator_schema()}
    known |= {("", "SwiGLU")}
    assert {key for key in CONTRIBUTED if key not in known} <= {
        (MICROSOFT, "SimplifiedLayerNormalization"),
        (MICROSOFT, "LayerNormalization"),
    }
