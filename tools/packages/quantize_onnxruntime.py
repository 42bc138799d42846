"""onnxruntime's own static quantiser calibrates on sessions, here of LeNet's float model."""

import os
import tempfile

import inputs
import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static


class Reader(CalibrationDataReader):
    """Random images."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.rows = iter([{"input": rng.random((1, 1, 28, 28), np.float32)} for _ in range(8)])

    def get_next(self):
        return next(self.rows, None)


model = os.path.join(os.environ["PACKAGES_REPOSITORY"], "models", "lenet5.onnx")
with tempfile.TemporaryDirectory() as folder:
    out = os.path.join(folder, "q.onnx")
    quantize_static(model, out, Reader(), quant_format=QuantFormat.QDQ)
    q = onnx.load(out)
inputs.show({t.name: onnx.numpy_helper.to_array(t).ravel()[:20] for t in q.graph.initializer})
