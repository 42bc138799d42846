"""Preprocessing: sizes, crops, pads and normalisation against their written-out formulas."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fastconv.errors import ImageError, InputError, OptionError
from fastconv.image import Preprocess, apply, apply_with_info, parse_field, plan_geometry
from fastconv.image.preprocess import DTYPES, INTERPOLATIONS, lookup_table

IMAGENET = {"scale": 1 / 255, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
SIDES = st.integers(1, 700)


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (height, width, channels), dtype=np.uint8)


@given(SIDES, SIDES, st.integers(1, 400))
def test_shortest_follows_torchvision_resize(height, width, size):
    """torchvision: the shorter side becomes size, the other int(size * long / short)."""
    short, long = min(height, width), max(height, width)
    want_long = int(size * long / short)
    want = (want_long, size) if width <= height else (size, want_long)
    if want_long * size > 10**8:
        return
    assert plan_geometry(height, width, Preprocess(resize=size)).resized_size == want


@given(SIDES, SIDES, SIDES, SIDES)
def test_shortest_with_two_sides_covers_and_longest_fits(height, width, h, w):
    if max(h / height, w / width) > 100:
        return
    cover = plan_geometry(height, width, Preprocess(resize=(h, w))).resized_size
    assert cover[0] >= h
    assert cover[1] >= w
    assert cover[0] == h or cover[1] == w
    fit = plan_geometry(height, width, Preprocess(resize=(h, w), resize_mode="longest"))
    assert fit.resized_size[0] <= h
    assert fit.resized_size[1] <= w
    assert fit.resized_size[0] == h or fit.resized_size[1] == w


def torchvision_center_crop(img: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """torchvision CenterCrop: zero-pad what is too small, then crop at round((side - crop) / 2)."""
    (crop_h, crop_w), (height, width) = size, img.shape[:2]
    more_h, more_w = max(0, crop_h - height), max(0, crop_w - width)
    img = np.pad(
        img,
        [(more_h // 2, (more_h + 1) // 2), (more_w // 2, (more_w + 1) // 2), (0, 0)],
    )
    top = round((img.shape[0] - crop_h) / 2.0)
    left = round((img.shape[1] - crop_w) / 2.0)
    return img[top : top + crop_h, left : left + crop_w]


@given(*[st.integers(1, 24)] * 4)
def test_centre_crop_follows_torchvision(height, width, crop_h, crop_w):
    img = noise(height, width)
    got = apply(img, Preprocess(crop=(crop_h, crop_w), layout="NHWC", dtype="uint8"))
    np.testing.assert_array_equal(got[0], torchvision_center_crop(img, (crop_h, crop_w)))


@pytest.mark.parametrize("name", INTERPOLATIONS)
def test_interpolation_is_pillows(name):
    img = noise(40, 60)
    got = apply(
        img,
        Preprocess(
            resize=(17, 90), resize_mode="exact", interpolation=name, layout="NHWC", dtype="uint8"
        ),
    )
    want = Image.fromarray(img).resize((90, 17), Image.Resampling[name.upper()])
    np.testing.assert_array_equal(got[0], np.asarray(want))


def test_whole_imagenet_pipeline_equals_its_steps():
    img = noise(300, 421)
    pil = Image.fromarray(img).resize((int(256 * 421 / 300), 256), Image.Resampling.BILINEAR)
    top, left = round((256 - 224) / 2), round((pil.width - 224) / 2)
    crop = np.asarray(pil)[top : top + 224, left : left + 224]
    want = (crop / 255 - IMAGENET["mean"]) / IMAGENET["std"]
    got = apply(img, Preprocess(resize=256, crop=224, **IMAGENET))
    assert got.shape == (1, 3, 224, 224)
    assert got.dtype == np.float32
    assert got.flags.c_contiguous
    np.testing.assert_allclose(got[0], want.transpose(2, 0, 1), rtol=1e-6, atol=1e-7)


@given(
    st.floats(1e-3, 2.0),
    st.lists(st.floats(-200, 200), min_size=3, max_size=3),
    st.lists(st.floats(0.01, 100), min_size=3, max_size=3),
)
def test_lookup_table_is_the_plain_formula_rounded_once(scale, mean, std):
    table = lookup_table(Preprocess(scale=scale, mean=mean, std=std))
    for c in range(3):
        for p in (0, 1, 127, 255):
            assert table[c, p] == np.float32((p * scale - mean[c]) / std[c])


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("color", ["RGB", "BGR", "L"])
def test_layout_and_channel_order(layout, color):
    img = noise(3, 4)
    got = apply(img, Preprocess(color=color, layout=layout, mean=10.0))
    hwc = {
        "RGB": img,
        "BGR": img[:, :, ::-1],
        "L": np.asarray(Image.fromarray(img).convert("L"))[:, :, None],
    }[color].astype(np.float32) - 10
    want = hwc.transpose(2, 0, 1) if layout == "NCHW" else hwc
    np.testing.assert_array_equal(got[0], want)
    assert got.flags.c_contiguous


def test_mean_is_in_the_tensors_channel_order():
    img = np.full((1, 1, 3), [100, 110, 120], np.uint8)
    got = apply(img, Preprocess(color="BGR", mean=[103.939, 116.779, 123.68]))
    np.testing.assert_allclose(got.ravel(), [120 - 103.939, 110 - 116.779, 100 - 123.68], rtol=1e-6)


def test_grey_image_fills_the_channels_of_a_colour_model():
    grey = noise(3, 4, 1)
    got = apply(grey, Preprocess(layout="NHWC", dtype="uint8"))
    np.testing.assert_array_equal(got[0], np.repeat(grey, 3, axis=2))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_holds_what_it_can(dtype):
    mean = 128.0 if dtype == "int8" else 0.0
    img = noise(2, 2)
    got = apply(img, Preprocess(dtype=dtype, mean=mean))
    assert got.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(got[0].transpose(1, 2, 0), img.astype(np.float64) - mean)


@pytest.mark.parametrize(
    ("height", "width", "ratio", "pads"),
    [
        (480, 640, 1.0, (80, 0, 80, 0)),
        (100, 50, 6.4, (0, 160, 0, 160)),
        (333, 640, 1.0, (153, 0, 154, 0)),
        (720, 1280, 0.5, (140, 0, 140, 0)),
    ],
)
def test_letterbox_pads_as_yolo(height, width, ratio, pads):
    img = noise(height, width)
    out, info = apply_with_info(
        img, Preprocess(resize=640, resize_mode="letterbox", dtype="uint8", layout="NHWC")
    )
    assert info.pads == pads
    assert info.scale == pytest.approx((ratio, ratio))
    assert out.shape == (1, 640, 640, 3)
    top, left, bottom, right = pads
    assert (out[0, :top] == 114).all()
    assert (out[0, 640 - bottom :] == 114).all()
    assert (out[0, :, :left] == 114).all()
    assert (out[0, :, 640 - right :] == 114).all()
    if ratio == 1.0:
        np.testing.assert_array_equal(out[0, top : top + height], img)


def test_letterbox_can_pad_one_side_and_in_colour():
    pre = Preprocess(
        resize=(4, 8),
        resize_mode="letterbox",
        letterbox_center=False,
        pad_value=(1, 2, 3),
        color="BGR",
        layout="NHWC",
        dtype="uint8",
    )
    out, info = apply_with_info(noise(4, 4), pre)
    assert info.pads == (0, 0, 0, 4)
    assert (out[0, :, 4:] == [3, 2, 1]).all()


@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.sampled_from(["letterbox", "exact", "shortest", "longest"]),
    st.booleans(),
    st.sampled_from([None, 20, 64, (30, 90)]),
)
def test_info_maps_boxes_back_whatever_the_geometry(height, width, mode, centre, crop):
    pre = Preprocess(resize=64, resize_mode=mode, letterbox_center=centre, crop=crop)
    info = plan_geometry(height, width, pre)
    (sy, sx), (top, left) = info.scale, info.pads[:2]
    source = np.array([0.0, 0.0, width, height])
    tensor = source * [sx, sy, sx, sy] + [left, top, left, top]
    np.testing.assert_allclose(info.to_source(tensor), source, atol=1e-6 * max(height, width))
    assert info.to_source(np.array([[-1e9, -1e9, 1e9, 1e9]])).tolist() == [[0, 0, width, height]]
    assert info.output_size == (
        info.resized_size[0] + info.pads[0] + info.pads[2],
        info.resized_size[1] + info.pads[1] + info.pads[3],
    )
    if height * width < 2000 and info.resized_size[0] * info.resized_size[1] < 100_000:
        assert apply(noise(height, width), pre).shape[2:] == info.output_size


def test_crop_pct_sets_the_resize_as_timm_does():
    assert Preprocess(crop=224, crop_pct=0.875).resize == 256
    assert Preprocess(crop=224, crop_pct=0.9).resize == 248  # floor(248.9)
    assert Preprocess(crop=(224, 320), crop_pct=0.875).resize == (256, 365)
    assert Preprocess(crop=224, crop_pct=0.875).crop_pct is None


def test_stretch_is_another_name_for_exact():
    assert Preprocess(resize=8, resize_mode="stretch") == Preprocess(resize=8, resize_mode="exact")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("resize", 0),
        ("resize", -3),
        ("resize", 2.5),
        ("resize", True),
        ("resize", (1, 2, 3)),
        ("resize", 1 << 17),
        ("resize", "256"),
        ("resize_mode", "crop"),
        ("resize_mode", "letterbox"),
        ("interpolation", "cubic"),
        ("crop", (224, 0)),
        ("scale", 0),
        ("scale", float("nan")),
        ("scale", "1"),
        ("mean", [1, 2]),
        ("mean", []),
        ("mean", [1, 2, float("inf")]),
        ("mean", 10**400),
        ("std", 0),
        ("std", [1, 1, 0.0]),
        ("color", "rgba"),
        ("color", ["RGB"]),
        ("layout", "CHW"),
        ("dtype", "bfloat16"),
        ("dtype", "complex64"),
        ("pad_value", 256),
        ("pad_value", (1, 2)),
        ("letterbox_center", 1),
        ("crop_pct", 0.5),
        ("crop_pct", 1.5),
    ],
)
def test_every_bad_field_is_named_with_its_value(field, value):
    with pytest.raises(OptionError, match=rf"^{field}="):
        Preprocess(**{field: value})


@pytest.mark.parametrize(
    "kwargs",
    [
        {"dtype": "uint8", **IMAGENET},
        {"dtype": "uint8", "mean": 1.0},
        {"dtype": "int8"},
        {"dtype": "float16", "scale": 1e6},
        {"std": 1e-320},
    ],
)
def test_a_dtype_that_cannot_hold_the_values_is_refused(kwargs):
    with pytest.raises(OptionError, match=r"^dtype=.*cannot hold"):
        Preprocess(**kwargs)


@pytest.mark.parametrize("kwargs", [{"mean": [1, 2, 3]}, {"pad_value": (1, 2, 3)}])
def test_three_values_do_not_fit_one_channel(kwargs):
    with pytest.raises(OptionError, match="3 values, but color L has 1 channel"):
        Preprocess(color="L", **kwargs)


def test_field_errors_survive_pickling():
    with pytest.raises(OptionError) as info:
        Preprocess(std=0)
    assert str(pickle.loads(pickle.dumps(info.value))) == str(info.value)


def test_an_extreme_aspect_ratio_is_refused_before_allocating():
    with pytest.raises(ImageError, match="resized image would be 25600000×256"):
        apply(np.zeros((1, 100_000, 3), np.uint8), Preprocess(resize=256, crop=224))


@pytest.mark.parametrize(
    "img",
    [
        None,
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_arrays_that_are_not_decoded_images_are_refused(img):
    with pytest.raises(InputError, match="image: "):
        apply(img, Preprocess())


@pytest.mark.parametrize(
    ("field", "text", "want"),
    [
        ("resize", "256", 256),
        ("resize", "256x320", (256, 320)),
        ("crop", " 224,224 ", (224, 224)),
        ("resize", "none", None),
        ("mean", "0.485, 0.456,0.406", (0.485, 0.456, 0.406)),
        ("std", "1/2", (0.5,)),
        ("scale", "1/255", 1 / 255),
        ("crop_pct", "0.875", 0.875),
        ("color", "bgr", "BGR"),
        ("layout", "nhwc", "NHWC"),
        ("resize_mode", "Stretch", "exact"),
        ("interpolation", "BICUBIC", "bicubic"),
        ("pad_value", "1,2,3", (1, 2, 3)),
        ("letterbox_center", "False", False),
    ],
)
def test_fields_from_text(field, text, want):
    assert parse_field(field, text) == want


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("resize", "big"),
        ("resize", "1x2x3"),
        ("resize", "²"),
        ("resize", "9" * 5000),
        ("mean", "a,b,c"),
        ("scale", "1/0"),
        ("scale", "nan"),
        ("color", "purple"),
        ("letterbox_center", "maybe"),
        ("speed", "fast"),
    ],
)
def test_bad_text_is_named(field, text):
    with pytest.raises(OptionError, match=f"^{field}"):
        parse_field(field, text)
