"""STFT and the LSTM that onnxruntime's quantiser writes give what onnxruntime gives."""

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

import fastconv
from fastconv.graph import TensorType
from fastconv.graph.ops.signal import STFT


def both(nodes, feeds, outputs, **domains):
    """The outputs of a model with onnxruntime and with fastconv, natively."""
    value = helper.make_tensor_value_info
    kind = helper.np_dtype_to_tensor_dtype
    graph = helper.make_graph(
        nodes, "g", [value(n, kind(a.dtype), [None] * a.ndim) for n, a in feeds.items()],
        [value(o, TensorProto.FLOAT, None) for o in outputs],
    )  # fmt: skip
    imports = [helper.make_opsetid("", 17), *(helper.make_opsetid(d, 1) for d in domains.values())]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    ours = fastconv.load(model, fallback="error").run(feeds)
    return session.run(None, feeds), [ours[o] for o in outputs]


@pytest.mark.parametrize("onesided", [0, 1])
@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("given", ["window", "frame_length", "both"])
def test_stft(onesided, rank, given):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 100, 1)[:rank]).astype(np.float32)
    feeds = {"x": x, "step": np.array(7, np.int64)}
    names = ["x", "step", "", ""]
    if given != "frame_length":
        feeds["window"] = np.hanning(16).astype(np.float32)
        names[2] = "window"
    if given != "window":
        feeds["size"] = np.array(16, np.int64)
        names[3] = "size"
    while not names[-1]:
        names.pop()
    node = helper.make_node("STFT", names, ["y"], onesided=onesided)
    (theirs,), (ours,) = both([node], feeds, ["y"])
    assert ours.shape == (2, 13, 9 if onesided else 16, 2)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "step", "size", "words"),
    [((2, 10), 0, 4, "frame_step"), ((2, 10), 1, 0, "frame_length"), ((2, 3), 1, 4, "shorter"),
     ((2, 10, 3), 1, 4, "last axis"), ((2, 10, 2), 1, 4, "complex"), ((10,), 1, 4, "rank")],
)  # fmt: skip
def test_stft_names_what_does_not_fit(shape, step, size, words):
    types = [TensorType(np.dtype(np.float32), shape), None, None, None]
    values = [None, np.array(step), None, np.array(size)]
    with pytest.raises(fastconv.ShapeError, match=words):
        STFT().infer(types, values)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("per_channel", [False, True])
def test_quantised_lstm(direction, per_channel):
    rng = np.random.default_rng(0)
    d, time, n, h = (2 if direction == "bidirectional" else 1), 9, 5, 6
    scales = (d, 4 * h) if per_channel else (d,)
    feeds = {
        "x": rng.standard_normal((time, 1, n)).astype(np.float32),
        "w": rng.integers(-127, 128, (d, n, 4 * h)).astype(np.int8),
        "r": rng.integers(-127, 128, (d, h, 4 * h)).astype(np.int8),
        "b": rng.standard_normal((d, 8 * h)).astype(np.float32) / 3,
        "h": rng.standard_normal((d, 1, h)).astype(np.float32),
        "c": rng.standard_normal((d, 1, h)).astype(np.float32),
    }
    for name in "wr":
        feeds[f"{name}s"] = (rng.random(scales) / 99 + 0.002).astype(np.float32)
        feeds[f"{name}z"] = np.zeros(scales, np.int8)
    # onnxruntime wants the weights as constants.
    constant = [n for n in feeds if n not in "xhc"]
    nodes = [
        helper.make_node("Constant", [], [n], value=helper.make_tensor(
            n, helper.np_dtype_to_tensor_dtype(feeds[n].dtype), feeds[n].shape, feeds[n].ravel()
        ))
        for n in constant
    ]  # fmt: skip
    names = ["x", "w", "r", "b", "", "h", "c", "", "ws", "wz", "rs", "rz"]
    nodes.append(
        helper.make_node(
            "DynamicQuantizeLSTM", names, ["y", "yh", "yc"], domain="com.microsoft",
            direction=direction, hidden_size=h,
        )
    )  # fmt: skip
    feeds = {n: feeds[n] for n in "xhc"}
    theirs, ours = both(nodes, feeds, ["y", "yh", "yc"], microsoft="com.microsoft")
    assert ours[0].shape == (time, d, 1, h)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
