"""Reading and writing metadata and labels, including hostile text."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastconv.errors import FastconvError, ModelError, OptionError, UnsupportedError
from fastconv.image import (
    Preprocess,
    embed,
    labels_from_metadata,
    load_labels,
    output_from_metadata,
    resolve,
)

SHAPE = (1, 3, "h", "w")
ULTRA = {"imgsz": "[640, 640]", "task": "detect", "stride": "32"}


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=8), min_size=1, max_size=8))
def test_embedded_labels_come_back_whatever_they_hold(labels):
    assert labels_from_metadata(embed({}, labels=labels)) == labels


def test_plain_labels_are_joined_by_newlines():
    assert embed({}, labels=["cat", "dog"]) == {"fastconv.labels": "cat\ndog"}
    assert labels_from_metadata({"fastconv.labels": "cat\r\ndog\r\n"}) == ["cat", "dog"]


@pytest.mark.parametrize(
    "pre",
    [
        Preprocess(resize=256, crop=224, scale=1 / 255, mean=[0.4, 0.5, 0.6], std=0.2),
        Preprocess(resize=(64, 96), resize_mode="letterbox", pad_value=7, letterbox_center=False),
        Preprocess(color="BGR", layout="NHWC", interpolation="bicubic"),
        Preprocess(resize=20, resize_mode="longest", crop=(20, 20), color="L", pad_value=None),
    ],
)
def test_embedded_preprocessing_comes_back(pre):
    shape = (1, "h", "w", 3) if pre.layout == "NHWC" else (1, pre.channels, "h", "w")
    got = resolve({}, embed({"author": "me"}, pre), shape)
    assert got.pre == pre
    stated = {s for f, s in got.sources.items() if f not in ("dtype", "pad_value")}
    assert stated <= {"metadata fastconv.preprocess", "model input shape"}
    assert got.notices == []


def test_embed_copies_and_keeps_other_keys():
    before = {"author": "me", "fastconv.output": "logits"}
    after = embed(before, labels=["a"], output="probabilities")
    assert before == {"author": "me", "fastconv.output": "logits"}
    assert after == {"author": "me", "fastconv.labels": "a", "fastconv.output": "probabilities"}
    assert output_from_metadata(after) == "probabilities"
    assert output_from_metadata({}) is None


@pytest.mark.parametrize(
    "kwargs", [{"labels": []}, {"labels": [1]}, {"labels": ["x"] * 200_001}, {"output": "scores"}]
)
def test_embed_refuses_what_could_not_be_read(kwargs):
    with pytest.raises(OptionError, match=next(iter(kwargs))):
        embed({}, **kwargs)


@pytest.mark.parametrize(
    ("names", "want"),
    [
        ("{0: 'person', 1: 'bicycle'}", ["person", "bicycle"]),
        ("{1: \"it's\", 0: 'a, b: {c}'}", ["a, b: {c}", "it's"]),
        (r"{0: 'tab\t', 1: '\u00e9'}", ["tab\t", "é"]),
        ('{"0": "json", "1": "keys"}', ["json", "keys"]),
        ("{0: 'a', 2: 'c',}", ["a", "1", "c"]),
        ("['a', 'b']", ["a", "b"]),
        ("{}", None),
    ],
)
def test_ultralytics_names(names, want):
    assert labels_from_metadata({**ULTRA, "names": names}) == want


def test_fastconv_labels_come_before_names():
    assert labels_from_metadata({"names": "{0: 'a'}", "fastconv.labels": '["b"]'}) == ["b"]
    assert labels_from_metadata({"names": "free text of another tool"}) is None
    assert labels_from_metadata({}) is None


@pytest.mark.parametrize(
    "names",
    [
        "{0: 'a'",
        "person, bicycle",
        "{0: __import__('os').getcwd()}",
        "{999999999: 'far'}",
        "{-1: 'a'}",
        "{0: ['nested']}",
        "{0: '\\x'}",
        "{" + "(" * 100_000 + "}",
        "{0: " + "-" * 100_000 + "1}",
        "{" + "0: 'a'," * 3_000_000 + "}",
    ],
)
def test_hostile_names_are_model_errors(names):
    with pytest.raises(ModelError, match="metadata names: ") as info:
        labels_from_metadata({**ULTRA, "names": names})
    assert len(str(info.value)) < 300


@pytest.mark.parametrize(
    "text", ["", "[1, 2]", "[", "[" * 100_000, "\n" * 300_000, "x" * (1 << 25), "[]"]
)
def test_bad_fastconv_labels_are_model_errors(text):
    with pytest.raises(ModelError, match=r"metadata fastconv\.labels: "):
        labels_from_metadata({"fastconv.labels": text})


def test_bad_output_kind_is_a_model_error():
    with pytest.raises(ModelError, match=r"metadata fastconv\.output: 'scores'"):
        output_from_metadata({"fastconv.output": "scores"})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "not valid JSON"),
        ("[1]", "must be a JSON object"),
        ('{"size": 3}', "unknown field 'size'"),
        ('{"std": 0}', "std=0"),
        ('{"std": [1, 0, 1]}', "must not be zero"),
        ('{"mean": NaN}', "NaN is not a number"),
        ('{"scale": Infinity}', "Infinity is not a number"),
        ('{"scale": 1e999}', "must be finite"),
        ('{"mean": ' + "9" * 4000 + "}", "must be finite"),
        ('{"mean": ' + "9" * 5000 + "}", "not valid JSON"),
        ('{"crop": 99999999}', "between 1 and"),
        ('{"crop": "224"}', "whole numbers"),
        ('{"color": "CMYK"}', "color='CMYK'"),
        ('{"resize": 256, "crop_pct": 0.9}', "both resize and crop_pct"),
        ('{"mean": ' + "[" * 30_000 + "]" * 30_000 + "}", "nested too deeply"),
        ('{"mean": ' + "[" * 70_000, "more than 65536"),
    ],
)
def test_hostile_preprocess_metadata_names_the_key(text, problem):
    with pytest.raises(ModelError, match=r"^metadata fastconv\.preprocess: ") as info:
        resolve({}, {"fastconv.preprocess": text}, SHAPE)
    assert problem in str(info.value)
    assert "ignore the model's metadata" in str(info.value)


def test_null_crop_pct_counts_as_left_out():
    got = resolve({}, {"fastconv.preprocess": '{"crop_pct": null, "crop": 99}'}, SHAPE)
    assert (got.pre.crop, got.pre.resize) == (99, 113)


@pytest.mark.parametrize(
    ("metadata", "key"),
    [
        ({"Image.BitmapPixelFormat": "Purple8"}, "Image.BitmapPixelFormat"),
        ({"Image.NominalPixelRange": "0..1"}, "Image.NominalPixelRange"),
        ({"Image.ColorSpaceGamma": "2.2"}, "Image.ColorSpaceGamma"),
        ({**ULTRA, "imgsz": "__import__('os')"}, "imgsz"),
        ({**ULTRA, "imgsz": "[0, 640]"}, "imgsz"),
        ({**ULTRA, "imgsz": "[1e300]"}, "imgsz"),
        ({**ULTRA, "imgsz": "[1.5, 2]"}, "imgsz"),
        ({**ULTRA, "imgsz": "[1, 2, 3]"}, "imgsz"),
        ({**ULTRA, "imgsz": "1," * 10_000}, "imgsz"),
        ({**ULTRA, "task": "dance"}, "task"),
        ({**ULTRA, "channels": "4"}, "channels"),
        ({"mean": "nan, 0, 0"}, "mean"),
        ({"std": "[0, 1, 1]"}, "std"),
        ({"timm.std": "(1, 2)"}, "timm.std"),
        ({"crop_pct": "0"}, "crop_pct"),
        ({"pretrained_cfg": "[]"}, "pretrained_cfg"),
        ({"pretrained_cfg": '{"input_size": [3, 224]}'}, "pretrained_cfg input_size"),
        ({"pretrained_cfg": '{"input_size": [3, 1e999, 4]}'}, "pretrained_cfg input_size"),
        ({"pretrained_cfg": '{"input_size": [12, 9, 9]}'}, "pretrained_cfg input_size"),
        ({"pretrained_cfg": '{"std": 0}'}, "pretrained_cfg std"),
        ({"pretrained_cfg": '{"crop_pct": "x"}'}, "pretrained_cfg crop_pct"),
        ({"pretrained_cfg": '{"interpolation": ["a"]}'}, "pretrained_cfg interpolation"),
        ({"pretrained_cfg": '{"input_size":[3,9,9],"crop_mode":"x"}'}, "pretrained_cfg crop_mode"),
    ],
)
def test_bad_metadata_of_others_names_the_key(metadata, key):
    with pytest.raises(ModelError) as info:
        resolve({}, metadata, SHAPE)
    assert str(info.value).startswith(f"metadata {key}: ")


@pytest.mark.parametrize(
    "metadata", [{"Image.BitmapPixelFormat": "Rgba8"}, {"image.colorspacegamma": "LINEAR"}]
)
def test_valid_metadata_that_cannot_be_honoured_is_unsupported(metadata):
    with pytest.raises(UnsupportedError, match=r"(?i)metadata image\."):
        resolve({}, metadata, SHAPE)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda kids: st.lists(kids, max_size=4) | st.dictionaries(st.text(max_size=5), kids),
    max_leaves=8,
)
FIELDS = st.sampled_from([*Preprocess.__dataclass_fields__, "input_size", "crop_mode"])


@given(
    st.sampled_from(["fastconv.preprocess", "pretrained_cfg"]),
    st.dictionaries(FIELDS, JSON | st.integers(1, 300) | st.sampled_from(["L", "exact", "NHWC"])),
)
def test_any_json_resolves_or_raises_one_of_ours(key, config):
    message = ""
    try:
        got = resolve({}, {key: json.dumps(config)}, SHAPE)
        assert set(got.sources) == set(Preprocess.__dataclass_fields__) - {"crop_pct"}
    except FastconvError as exc:
        message = str(exc)
    assert "\n" not in message


@given(
    st.dictionaries(
        st.sampled_from(["names", "imgsz", "task", "mean", "std", "input_size", "crop_pct"]),
        st.text(max_size=20) | st.sampled_from(["[640, 640]", "{0: 'a'}", "0.5", "detect"]),
    )
)
def test_any_text_resolves_or_raises_one_of_ours(metadata):
    for read in (labels_from_metadata, lambda m: resolve({}, m, SHAPE)):
        try:
            read(metadata)
        except FastconvError:
            pass


@pytest.mark.parametrize(
    ("name", "content", "want"),
    [
        ("l.txt", "cat\ndog\n", ["cat", "dog"]),
        ("l.txt", "\ufeffcat\r\n\r\ndog\r\n\n\n", ["cat", "", "dog"]),
        ("l.txt", "[background]\ncat", ["[background]", "cat"]),
        ("l.json", '["cat", "dog"]', ["cat", "dog"]),
        ("l.txt", '["cat", "dog"]', ["cat", "dog"]),
        ("l.json", '{"1": "dog", "0": "cat"}', ["cat", "dog"]),
        ("l.json", '{"0": ["n01", "tench"]}', ["tench"]),
        ("config.json", '{"id2label": {"0": "cat"}, "depth": 3}', ["cat"]),
    ],
)
def test_label_files(tmp_path, name, content, want):
    path = tmp_path / name
    path.write_bytes(content.encode())
    assert load_labels(path) == want


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("l.txt", b""),
        ("l.txt", b"\n\n"),
        ("l.txt", b"\xff\xfe"),
        ("l.txt", b"x" * ((1 << 24) + 1)),
        ("l.json", b"cat"),
        ("l.json", b"3"),
        ("l.json", b"[1, 2]"),
        ("l.json", b'{"a": "b"}'),
        ("l.json", b'{"999999999": "b"}'),
        ("l.json", b"[" * 100_000),
    ],
)
def test_bad_label_files_are_named(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(OptionError, match=r"labels file .*l\.(txt|json)'") as info:
        load_labels(path)
    assert "\n" not in str(info.value)


def test_missing_label_file_or_directory(tmp_path):
    with pytest.raises(OptionError, match="no such file"):
        load_labels(tmp_path / "none.txt")
    with pytest.raises(OptionError, match="not a regular file"):
        load_labels(tmp_path)
    with pytest.raises(OptionError, match="labels file"):
        load_labels("a\0b")
