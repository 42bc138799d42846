"""facenet-pytorch's MTCNN with its three networks as ONNX models finds faces.

The networks are those that ``tools/fetch_zoo.py`` exports from facenet-pytorch itself; its own code
makes the image pyramid, calls them, and picks and refines the boxes.
"""

import os
import pathlib

import inputs
import numpy as np
import onnxruntime
import torch
from facenet_pytorch.models.mtcnn import MTCNN
from PIL import Image

zoo = pathlib.Path(os.environ["PACKAGES_ZOO"])


class Network(torch.nn.Module):
    """One network, run through onnxruntime."""

    def __init__(self, name):
        super().__init__()
        self.session = onnxruntime.InferenceSession(os.fspath(zoo / f"mtcnn_{name}.onnx"))
        self.input = self.session.get_inputs()[0].name
        self.dtype_of = torch.nn.Parameter(torch.zeros(1))  # it is asked for a parameter's dtype

    def forward(self, x):
        outputs = self.session.run(None, {self.input: x.detach().numpy()})
        return tuple(torch.from_numpy(o) for o in outputs)


detector = MTCNN(keep_all=True, device="cpu")
detector.pnet, detector.rnet, detector.onet = Network("pnet"), Network("rnet"), Network("onet")
found = {}
for path in (
    inputs.picture("astronaut.png"),
    inputs.street("zidane.jpg"),
    inputs.street("bus.jpg"),
):
    with torch.no_grad():
        boxes, scores, points = detector.detect(Image.open(path).convert("RGB"), landmarks=True)
    found[path.name] = {"boxes": boxes, "scores": scores, "points": points}
assert np.shape(found["zidane.jpg"]["boxes"])[0] >= 2
inputs.show(found)
