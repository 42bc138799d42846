"""Networks that need torch to export or large wheels: ``python tools/fetch_zoo.py``, then
``pytest -m zoo``. Each one fails, not skips, when its file is missing."""

import numpy as np
import pytest
from real import ZOO, assert_close, assert_same_top, onnxruntime_outputs

import fastconv

pytestmark = pytest.mark.zoo

CLASSIFIERS = [
    "resnet18", "resnet50", "vgg16", "alexnet", "squeezenet1_1", "mobilenet_v2",
    "mobilenet_v3_large", "efficientnet_b0", "shufflenet_v2_x1_0", "densenet121", "googlenet",
    "inception_v3", "resnext50_32x4d", "regnet_y_400mf", "convnext_tiny", "efficientnet_v2_s",
    "mnasnet1_0", "efficientnet_lite0", "mobilenet_v2_imagenet",
]  # fmt: skip
SEGMENTERS = ["lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large"]
SIZES = {
    "mtcnn_pnet": [(1, 3, 12, 12), (1, 3, 93, 118), (2, 3, 240, 320)],
    "mtcnn_rnet": [(1, 3, 24, 24), (5, 3, 24, 24)],
    "mtcnn_onet": [(1, 3, 48, 48), (3, 3, 48, 48)],
}


def compare(name, shape, threads=1, tolerance=1e-4, top=False):
    path = ZOO / f"{name}.onnx"
    assert path.is_file(), f"{path} is missing: run python tools/fetch_zoo.py first"
    model = fastconv.load(path, threads=threads, fallback="error")
    (i,) = model.inputs
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    got = list(model.run({i.name: x}).values())
    for g, e in zip(got, onnxruntime_outputs(path, {i.name: x}), strict=True):
        assert_close(g, e, tolerance)
        if top:
            assert_same_top(g, e)
    return got


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_matches_onnxruntime_and_two_threads_give_the_same_bits(name):
    side = 299 if name == "inception_v3" else 224
    one = compare(name, (1, 3, side, side), threads=1, top=True)
    two = compare(name, (1, 3, side, side), threads=2)
    assert one[0].tobytes() == two[0].tobytes()


@pytest.mark.parametrize("name", SEGMENTERS)
def test_a_segmenter_matches_onnxruntime(name):
    compare(name, (1, 3, 224, 224))


@pytest.mark.parametrize(("name", "shape"), [(n, s) for n, v in SIZES.items() for s in v])
def test_a_face_detector_stage_matches_onnxruntime(name, shape):
    compare(name, shape)
