"""ultralytics' ONNX backend: YOLOv8n and a segmenter, exported from its own definitions.

Trained weights are not on PyPI, so these are random; what is compared is the raw output and what
the package makes of it.
"""

import os

import inputs
import numpy as np
import torch
from ultralytics import YOLO
from ultralytics.nn.autobackend import AutoBackend

models = [n for n in os.listdir(os.environ["PACKAGES_WORK"]) if n.endswith(".onnx")]
assert models
found = {}
for name in sorted(models):
    path = os.path.join(os.environ["PACKAGES_WORK"], name)
    backend = AutoBackend(path, device=torch.device("cpu"))
    x = torch.from_numpy(np.random.default_rng(0).random((1, 3, 320, 320), np.float32))
    y = backend(x)
    y = y if isinstance(y, (list, tuple)) else [y]
    found[name] = [np.asarray(v)[..., ::50] for v in y]
    task = "segment" if "seg" in name else "detect"
    results = YOLO(path, task=task)(os.fspath(inputs.street("bus.jpg")), imgsz=320, conf=1e-7)
    found[name + " boxes"] = len(results[0].boxes)
inputs.show(found)
