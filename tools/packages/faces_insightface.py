"""insightface's model zoo classes: pickled sessions, ``get_model`` and ArcFace's preprocessing.

Its trained models are not on PyPI: the recogniser here is a small network with random weights.
"""

import os
import pickle
import tempfile

import cv2
import inputs
import numpy as np
from insightface.model_zoo import model_zoo
from onnx import TensorProto, checker, helper, numpy_helper, save

rng = np.random.default_rng(0)
weights = {
    "w1": rng.standard_normal((16, 3, 3, 3)) / 5,
    "w2": rng.standard_normal((32, 16, 3, 3)) / 12,
    "w3": rng.standard_normal((128, 32)) / 6,
}
nodes = [
    helper.make_node("Conv", ["data", "w1"], ["a"], strides=[2, 2], pads=[1] * 4),
    helper.make_node("Relu", ["a"], ["b"]),
    helper.make_node("Conv", ["b", "w2"], ["c"], strides=[2, 2], pads=[1] * 4),
    helper.make_node("Relu", ["c"], ["d"]),
    helper.make_node("GlobalAveragePool", ["d"], ["e"]),
    helper.make_node("Flatten", ["e"], ["f"]),
    helper.make_node("Gemm", ["f", "w3"], ["out"], transB=1),
]
value = helper.make_tensor_value_info
graph = helper.make_graph(
    nodes,
    "faces",
    [value("data", TensorProto.FLOAT, [None, 3, 112, 112])],
    [value("out", TensorProto.FLOAT, [None, 128])],
    [numpy_helper.from_array(w.astype(np.float32), n) for n, w in weights.items()],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
checker.check_model(model)
with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "arcface.onnx")
    save(model, path)
    recogniser = model_zoo.get_model(path)
    recogniser.prepare(-1)
    face = cv2.resize(cv2.imread(os.fspath(inputs.picture("astronaut.png"))), (112, 112))
    session = model_zoo.PickableInferenceSession(path)
    copy = pickle.loads(pickle.dumps(session))
    blob = rng.random((2, 3, 112, 112), np.float32)
    inputs.show(
        {
            "kind": type(recogniser).__name__,
            "features": recogniser.get_feat(face),
            "copy": [type(copy).__name__, copy.run(None, {"data": blob})[0]],
            "shape": [session.get_inputs()[0].shape[1:], session.get_outputs()[0].type],
        }
    )
