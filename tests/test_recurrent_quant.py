"""The LSTM that onnxruntime's dynamic quantiser writes gives what onnxruntime gives."""

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

import fastconv


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


def test_quantised_lstm_without_scales_is_refused():
    value = helper.make_tensor_value_info
    names = ["x", "w", "r", "", "", "", "", "", "ws", "wz", "rs"]
    kinds = [1, 3, 3, 0, 0, 0, 0, 0, 1, 3, 1]
    node = helper.make_node("DynamicQuantizeLSTM", names, ["y"], domain="com.microsoft")
    graph = helper.make_graph(
        [node], "g", [value(n, k, None) for n, k in zip(names, kinds) if n], [value("y", 1, None)]
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=imports)
    with pytest.raises(fastconv.ShapeError, match="R_zero_point"):
        fastconv.load(model.SerializeToString()).run(
            {"x": np.ones((2, 1, 3), np.float32), "w": np.ones((1, 3, 8), np.int8),
             "r": np.ones((1, 2, 8), np.int8), "ws": np.ones(1, np.float32),
             "wz": np.zeros(1, np.int8), "rs": np.ones(1, np.float32)}
        )  # fmt: skip
