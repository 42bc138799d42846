"""Where each preprocessing value comes from, and what wins."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fastconv.errors import ImageError, ModelError, OptionError
from fastconv.image import PRESETS, Preprocess, apply, resolve

OPEN = ("N", 3, "H", "W")
FIXED = (1, 3, 224, 224)
ULTRA = {"names": "{0: 'a'}", "imgsz": "[480, 640]", "stride": "32", "task": "detect"}
TIMM = {
    "pretrained_cfg": json.dumps(
        {
            "input_size": [3, 288, 288],
            "crop_pct": 0.95,
            "interpolation": "bicubic",
            "mean": [0.5, 0.4, 0.3],
            "std": [0.2, 0.2, 0.1],
            "num_classes": 10,
        }
    )
}
FASTCONV = {"fastconv.preprocess": json.dumps({"mean": 0.1, "std": 0.3, "interpolation": "box"})}
IMAGE_TAGS = {"Image.BitmapPixelFormat": "Bgr8", "Image.NominalPixelRange": "Normalized_1_1"}


def test_nothing_said_gives_imagenet_and_says_so():
    got = resolve({}, {}, OPEN)
    assert got.pre == Preprocess(
        resize=256,
        crop=224,
        scale=1 / 255,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )
    assert got.sources["mean"] == "preset imagenet"
    assert got.sources["crop"] == "preset imagenet"
    assert len(got.notices) == 1
    assert got.notices[0].startswith("preset imagenet applied to resize, crop, scale, mean, std:")


@pytest.mark.parametrize(("side", "resize"), [(224, 256), (299, 342), (384, 439), (32, 37)])
def test_fixed_size_sets_the_crop_and_scales_the_preset_resize(side, resize):
    got = resolve({}, {}, (1, 3, side, side))
    assert got.pre.crop == (side, side)
    assert got.pre.resize == resize
    assert got.sources["crop"] == "model input shape"
    assert got.sources["resize"] == "preset imagenet"
    assert apply(np.zeros((50, 70, 3), np.uint8), got.pre).shape == (1, 3, side, side)


def test_fixed_size_that_is_not_square():
    got = resolve({}, {}, (1, 3, 224, 448))
    assert (got.pre.resize, got.pre.crop) == ((256, 512), (224, 448))


@pytest.mark.parametrize(
    ("shape", "layout", "color"),
    [
        ((1, 3, 224, 224), "NCHW", "RGB"),
        ((1, 224, 224, 3), "NHWC", "RGB"),
        ((1, 1, 28, 28), "NCHW", "L"),
        ((1, 28, 28, 1), "NHWC", "L"),
        (("N", None, None, 3), "NHWC", "RGB"),
        ((1, 3, 224, 3), "NCHW", "RGB"),
    ],
)
def test_layout_and_grey_from_the_shape(shape, layout, color):
    got = resolve({}, {}, shape)
    assert (got.pre.layout, got.pre.color) == (layout, color)
    assert got.sources["layout"] == "model input shape"
    if color == "L":
        assert got.sources["color"] == "model input shape"
        assert got.sources["mean"] == "preset 0-1"
        assert (got.pre.resize, got.pre.resize_mode) == ((28, 28), "exact")


def test_a_known_layout_overrules_the_guess():
    assert resolve({}, {}, (1, 3, 224, 3), input_layout="NHWC").pre.layout == "NHWC"


def test_an_open_shape_takes_the_layout_from_flag_then_metadata():
    metadata = {"fastconv.preprocess": '{"layout": "NHWC"}'}
    got = resolve({}, metadata, ("N", "a", "b", "c"))
    assert (got.pre.layout, got.sources["layout"]) == ("NHWC", "metadata fastconv.preprocess")
    got = resolve({"layout": "NCHW"}, metadata, ("N", "a", "b", "c"))
    assert (got.pre.layout, got.sources["layout"]) == ("NCHW", "flag")


@pytest.mark.parametrize(
    ("flags", "metadata", "mean", "source"),
    [
        ({"mean": 0.7}, FASTCONV | IMAGE_TAGS | ULTRA | TIMM, (0.7,), "flag"),
        ({"preset": "tf"}, FASTCONV | IMAGE_TAGS | ULTRA | TIMM, (1.0,), "preset tf"),
        ({}, FASTCONV | IMAGE_TAGS | ULTRA | TIMM, (0.1,), "metadata fastconv.preprocess"),
        ({}, IMAGE_TAGS | ULTRA | TIMM, (0.5,), "metadata Image.NominalPixelRange"),
        ({}, ULTRA | TIMM, (0.0,), "metadata Ultralytics"),
        ({}, TIMM, (0.5, 0.4, 0.3), "timm mean"),
        ({}, {"unrelated": "x"}, (0.485, 0.456, 0.406), "preset imagenet"),
    ],
)
def test_precedence_of_the_mean(flags, metadata, mean, source):
    got = resolve(flags, metadata, OPEN)
    assert (got.pre.mean, got.sources["mean"]) == (mean, source)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("resize", 300),
        ("resize_mode", "longest"),
        ("interpolation", "lanczos"),
        ("crop", 200),
        ("scale", 0.5),
        ("mean", (3.0,)),
        ("std", (4.0,)),
        ("color", "BGR"),
        ("pad_value", 9),
        ("letterbox_center", False),
    ],
)
@pytest.mark.parametrize("metadata", [{}, TIMM, FASTCONV])
def test_every_flag_wins_and_is_recorded(field, value, metadata):
    got = resolve({field: value}, metadata, OPEN)
    assert getattr(got.pre, field) == value
    assert got.sources[field] == "flag"


def test_every_field_of_fastconv_metadata_is_recorded():
    config = {
        "resize": [40, 50],
        "resize_mode": "letterbox",
        "interpolation": "nearest",
        "crop": None,
        "scale": 2.0,
        "mean": [1, 2, 3],
        "std": [4, 5, 6],
        "color": "BGR",
        "layout": "NCHW",
        "dtype": "float32",
        "pad_value": [1, 2, 3],
        "letterbox_center": False,
    }
    got = resolve({}, {"fastconv.preprocess": json.dumps(config)} | ULTRA | TIMM, ("N", "C", 0, 0))
    assert got.pre == Preprocess(**config)
    assert set(got.sources.values()) == {"metadata fastconv.preprocess"}


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("NominalRange_0_255", [0.0, 255.0]),
        ("normalized_0_1", [0.0, 1.0]),
        ("Normalized_1_1", [-1.0, 1.0]),
        ("NominalRange_16_235", [16.0, 235.0]),
    ],
)
def test_onnx_pixel_range_gives_the_named_range(text, want):
    got = resolve({}, {"Image.NominalPixelRange": text}, (1, 1, 1, 2))
    img = np.array([[[0], [255]]], np.uint8)
    np.testing.assert_allclose(apply(img, got.pre).ravel(), want, rtol=1e-6)
    for name in ("scale", "mean", "std"):
        assert got.sources[name] == "metadata Image.NominalPixelRange"


@pytest.mark.parametrize(
    ("text", "channels", "color"), [("Gray8", 1, "L"), ("RGB8", 3, "RGB"), ("bgr8", 3, "BGR")]
)
def test_onnx_pixel_format_keys_ignore_case(text, channels, color):
    got = resolve({}, {"IMAGE.bitmappixelformat": text}, (1, channels, "h", "w"))
    assert got.pre.color == color
    assert got.sources["color"] == "metadata Image.BitmapPixelFormat"


def test_a_preset_for_rgb_is_turned_round_for_a_bgr_tensor():
    got = resolve({}, {"Image.BitmapPixelFormat": "Bgr8"}, OPEN)
    assert got.pre.mean == (0.406, 0.456, 0.485)
    assert got.pre.std == (0.225, 0.224, 0.229)
    assert resolve({"color": "BGR"}, TIMM, OPEN).pre.mean == (0.3, 0.4, 0.5)
    assert resolve({"color": "RGB"}, IMAGE_TAGS, OPEN).pre.mean == (0.5,)
    assert resolve({"color": "BGR", "mean": [1, 2, 3]}, TIMM, OPEN).pre.mean == (1.0, 2.0, 3.0)


def test_ultralytics_detector():
    got = resolve({}, ULTRA, ("N", 3, "h", "w"))
    assert got.pre == Preprocess(
        resize=(480, 640), resize_mode="letterbox", pad_value=114, scale=1 / 255
    )
    assert got.sources["resize"] == "metadata Ultralytics imgsz"
    assert got.sources["resize_mode"] == "metadata Ultralytics task"
    assert got.notices == []


def test_ultralytics_classifier_and_channels():
    got = resolve({}, ULTRA | {"task": "classify", "imgsz": "224", "channels": "1"}, (1, 1, 0, 0))
    assert got.pre == Preprocess(resize=(224, 224), crop=(224, 224), scale=1 / 255, color="L")
    assert got.sources["color"] == "metadata Ultralytics channels"


def test_other_peoples_sizes_give_way_to_a_fixed_shape():
    got = resolve({}, ULTRA, (1, 3, 320, 320))
    assert (got.pre.resize, got.sources["resize"]) == ((320, 320), "model input shape")
    got = resolve({}, TIMM, FIXED)
    assert (got.pre.crop, got.sources["crop"]) == ((224, 224), "model input shape")
    assert (got.pre.resize, got.sources["resize"]) == ((235, 235), "timm crop_pct")


def test_timm_config():
    got = resolve({}, TIMM, OPEN)
    assert got.pre == Preprocess(
        resize=(303, 303),
        crop=(288, 288),
        interpolation="bicubic",
        scale=1 / 255,
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.2, 0.1),
    )
    assert got.sources["crop"] == "timm input_size"
    assert got.sources["std"] == "timm std"
    assert got.notices == []


@pytest.mark.parametrize("prefix", ["", "timm."])
def test_timm_separate_keys(prefix):
    keys = {
        "mean": "(0.5, 0.4, 0.3)",
        "std": "[0.2,0.2,0.1]",
        "input_size": "(3, 288, 288)",
        "crop_pct": "0.95",
        "interpolation": "bicubic",
    }
    got = resolve({}, {prefix + k: v for k, v in keys.items()}, OPEN)
    assert got == resolve({}, TIMM, OPEN)


@pytest.mark.parametrize(
    ("crop_mode", "want"),
    [
        ("center", {"resize": (250, 250), "resize_mode": "shortest"}),
        ("squash", {"resize": (250, 250), "resize_mode": "exact"}),
        ("border", {"resize": (250, 250), "resize_mode": "longest", "pad_value": (128, 102, 76)}),
    ],
)
def test_timm_crop_modes(crop_mode, want):
    config = {"input_size": [3, 200, 200], "crop_pct": 0.8, "crop_mode": crop_mode}
    config["mean"] = [0.5, 0.4, 0.3]
    got = resolve({}, {"pretrained_cfg": json.dumps(config)}, OPEN)
    assert got.pre.crop == (200, 200)
    assert {k: getattr(got.pre, k) for k in want} == want


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_asked_for_gives_no_notice(name):
    got = resolve({"preset": name}, {}, FIXED)
    assert got.notices == []
    assert got.sources["scale"] == f"preset {name}"
    for field in ("scale", "mean", "std"):
        assert getattr(got.pre, field) == PRESETS[name][field]


@pytest.mark.parametrize(
    ("preset", "low", "high"),
    [
        ("imagenet-inception", -1, 1),
        ("tf", -1, 1),
        ("0-1", 0, 1),
        ("raw", 0, 255),
    ],
)
def test_preset_ranges(preset, low, high):
    pre = resolve({"preset": preset}, {}, (1, 3, 1, 2)).pre
    img = np.repeat(np.array([[[0], [255]]], np.uint8), 3, axis=2)
    pre = Preprocess(scale=pre.scale, mean=pre.mean, std=pre.std)
    np.testing.assert_allclose(apply(img, pre)[0, :, 0], [[low, high]] * 3, rtol=1e-6)


def test_caffe_is_bgr_with_its_mean_in_that_order():
    pre = resolve({"preset": "caffe"}, {}, FIXED).pre
    assert (pre.color, pre.mean, pre.scale) == ("BGR", (103.939, 116.779, 123.68), 1.0)


def test_scale_only_presets_stretch_to_a_fixed_size_and_otherwise_keep_it():
    pre = resolve({"preset": "raw"}, {}, (1, 3, 40, 50)).pre
    assert (pre.resize, pre.resize_mode, pre.crop) == ((40, 50), "exact", None)
    pre = resolve({"preset": "raw"}, {}, OPEN).pre
    assert (pre.resize, pre.crop) == (None, None)


@pytest.mark.parametrize(
    ("flags", "resize", "mode", "crop"),
    [
        ({"resize": 300}, 300, "shortest", 224),
        ({"crop": 299}, 342, "shortest", 299),
        ({"crop": 100, "resize": 110}, 110, "shortest", 100),
        ({"crop": 100, "crop_pct": 0.5}, 200, "shortest", 100),
        ({"crop_pct": 1.0}, 224, "shortest", 224),
        ({"resize": (64, 96)}, (64, 96), "exact", None),
        ({"resize": 640, "resize_mode": "letterbox"}, 640, "letterbox", None),
        ({"resize_mode": "letterbox"}, 224, "letterbox", None),
        ({"resize_mode": "longest"}, 224, "longest", 224),
        ({"resize": None, "crop": None}, None, "shortest", None),
        ({"resize": None}, None, "shortest", 224),
    ],
)
def test_geometry_flags_make_a_coherent_whole(flags, resize, mode, crop):
    pre = resolve(flags, {}, OPEN).pre
    assert (pre.resize, pre.resize_mode, pre.crop) == (resize, mode, crop)


def test_geometry_flags_with_a_fixed_size():
    pre = resolve({"resize_mode": "letterbox"}, TIMM, FIXED).pre
    assert (pre.resize, pre.crop) == ((224, 224), None)
    pre = resolve({"resize": 240}, ULTRA | {"task": "classify"}, FIXED).pre
    assert (pre.resize, pre.crop) == (240, (224, 224))


@pytest.mark.parametrize(
    ("flags", "metadata", "shape", "error", "words"),
    [
        ({"crop": 299}, {}, FIXED, OptionError, ["crop=299×299 (flag)", "224×224"]),
        ({"crop": None}, {}, FIXED, OptionError, ["crop=None (flag)", "224×224"]),
        ({"color": "L"}, {}, FIXED, OptionError, ["color=L (flag)", "takes 3"]),
        ({"layout": "NHWC"}, {}, FIXED, OptionError, ["layout=NHWC (flag)"]),
        ({"dtype": "float16"}, {}, FIXED, OptionError, ["dtype=float16 (flag)"]),
        ({"preset": "resnet"}, {}, FIXED, OptionError, ["preset='resnet'", "imagenet"]),
        ({"preset": "imagenet"}, {}, (1, 1, 8, 8), OptionError, ["color=RGB (preset imagenet)"]),
        ({"size": 3}, {}, FIXED, OptionError, ["size"]),
        ({"mean": [1, 2, 3], "color": "L"}, {}, (1, 1, 8, 8), OptionError, ["mean=", "flag"]),
        ({"resize": 9, "crop_pct": 0.9}, {}, FIXED, OptionError, ["resize and crop_pct"]),
        ({}, {"fastconv.preprocess": '{"crop": 99}'}, FIXED, ModelError, ["crop=99×99"]),
        ({}, {"fastconv.preprocess": '{"layout": "NHWC"}'}, FIXED, ModelError, ["layout=NHWC"]),
        ({}, {"fastconv.preprocess": '{"dtype": "uint8"}'}, FIXED, ModelError, ["dtype"]),
        ({}, {"fastconv.preprocess": '{"color": "L"}'}, FIXED, ModelError, ["color=L"]),
        ({}, {"Image.BitmapPixelFormat": "Gray8"}, FIXED, ModelError, ["color=L"]),
        ({}, TIMM, (1, 1, 28, 28), ModelError, ["takes 1"]),
        ({}, {"crop_pct": "0.9"}, OPEN, None, []),
        ({}, {}, (1, 4, 64, 64), ImageError, ["4 channels"]),
        ({}, {}, (1, 64, 56, 56), ImageError, ["64 channels"]),
        ({}, {}, (1, 3), ImageError, ["rank 2"]),
    ],
)
def test_contradictions_name_the_value_and_its_source(flags, metadata, shape, error, words):
    if error is None:
        assert resolve(flags, metadata, shape).pre.resize == 248
        return
    with pytest.raises(error) as info:
        resolve(flags, metadata, shape)
    for word in words:
        assert word in str(info.value)


def test_integer_inputs_get_raw_pixels_unless_told_otherwise():
    got = resolve({}, {}, FIXED, "uint8")
    assert (got.pre.dtype, got.pre.scale) == ("uint8", 1.0)
    assert got.sources["dtype"] == "model input dtype"
    assert "preset raw applied" in got.notices[0]
    with pytest.raises(OptionError, match=r"uint8.*scale: preset imagenet"):
        resolve({"preset": "imagenet"}, {}, FIXED, "uint8")
    with pytest.raises(ModelError, match=r"uint8.*scale: metadata Ultralytics"):
        resolve({}, ULTRA, FIXED, "uint8")
    with pytest.raises(ImageError, match="dtype int64"):
        resolve({}, {}, FIXED, "int64")


def test_a_mean_in_the_wrong_unit_is_noticed():
    got = resolve({"mean": [123.7, 116.3, 103.5]}, {}, FIXED)
    assert any("perhaps scale should be 1" in line for line in got.notices)
    got = resolve({"mean": [123.7, 116.3, 103.5], "std": 58.0, "scale": 1.0}, {}, FIXED)
    assert not any("perhaps" in line for line in got.notices)
