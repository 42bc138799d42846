"""``fastconv run``: photographs, digits, arrays, detectors, labels, files written."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
from cli_tools import IMAGES, LENET, MOBILENET, build, conv_net, node, scores
from PIL import Image

import fastconv
from fastconv import image
from fastconv.cli import main


@pytest.fixture
def call(capsys):
    """Run the command line; returns (exit code, stdout, stderr)."""

    def run(*args):
        code = main([str(a) for a in args])
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def saved(tmp_path):
    """Write a model's bytes to a file."""

    def save(data, name="model.onnx"):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return save


@pytest.fixture
def colours(tmp_path):
    """Three 2×2 images: red, green and blue."""
    folder = tmp_path / "colours"
    folder.mkdir()
    for k, name in enumerate(("0red", "1green", "2blue")):
        pixels = np.zeros((2, 2, 3), np.uint8)
        pixels[..., k] = 255
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


def best(out):
    return [r["top"][0] for r in json.loads(out)["results"]]


def test_a_photograph_of_a_cat_is_a_cat(call):
    code, out, err = call("run", MOBILENET, IMAGES / "cat.png")
    assert code == 0
    assert out.splitlines()[0].split() == ["rank", "class", "label", "probability"]
    first = out.splitlines()[2]
    assert "Egyptian cat" in first
    assert float(first.split()[-2]) == pytest.approx(71.7, abs=0.1)  # models/README.md
    assert err == ""


def test_every_digit_is_read_right(call):
    code, out, _ = call("run", LENET, IMAGES / "digit_*.png", "--json", "--top", 3)
    assert code == 0
    assert [t["label"] for t in best(out)] == list("0123456789")
    found = json.loads(out)
    assert found["softmax"] is True
    assert found["preprocess"]["mean"] == {
        "value": [0.1307],
        "source": "metadata fastconv.preprocess",
    }
    for r in found["results"]:
        assert r["output"] == "logits"
        assert len(r["top"]) == 3
        p = [t["probability"] for t in r["top"]]
        assert p == sorted(p, reverse=True)
        assert 0 < sum(p) <= 1 + 1e-9


@pytest.mark.parametrize("batch", [1, 3, 10, 64])
def test_a_batch_changes_no_result(call, batch):
    code, out, _ = call("run", LENET, IMAGES / "digit_*.png", "--json", "--batch", batch)
    assert code == 0
    alone = fastconv.load(LENET)
    pre = image.resolve({}, alone.metadata, alone.inputs[0].shape).pre
    for k, t in enumerate(best(out)):
        y = alone(image.apply(image.decode(IMAGES / f"digit_{k}.png", "L"), pre))[0]
        p = np.exp(y - y.max())
        assert t["probability"] == pytest.approx(float(p.max() / p.sum()), rel=1e-5)


def test_a_fixed_batch_is_filled_up(call, saved, colours):
    path = saved(scores(batch=2))
    code, out, _ = call("run", path, colours, "--preset", "0-1", "--json", "--top", 1)
    assert code == 0
    assert [t["index"] for t in best(out)] == [0, 1, 2]
    code, _, err = call("run", path, colours, "--preset", "0-1", "--batch", 3)
    assert code == 2
    assert "fixed at 2" in err


def test_verbose_says_where_every_value_comes_from(call):
    code, out, err = call("run", LENET, IMAGES / "digit_3.png", "--verbose", "--mean", "0.2")
    assert code == 0
    lines = {line.split()[0]: line for line in err.splitlines() if line}
    assert lines["mean"].endswith("flag")
    assert lines["std"].endswith("metadata fastconv.preprocess")
    assert "softmax applied: metadata fastconv.output is logits" in err
    assert "preprocessing" not in out


def test_a_guessed_preset_is_said_on_stderr(call, saved, colours):
    code, out, err = call("run", saved(scores()), colours / "0red.png", "--json")
    assert code == 0
    assert json.loads(out)["results"]
    assert err.startswith("fastconv: preset imagenet applied")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("metadata", "softmax"),
    [({}, False), ({"fastconv.output": "logits"}, True), ({"fastconv.output": "probabilities"}, 0)],
)
def test_softmax_follows_the_metadata_else_the_values(call, saved, colours, metadata, softmax):
    """A red image's plane means are 1, 0, 0: they could be probabilities."""
    path = saved(scores(metadata=metadata))
    code, out, _ = call("run", path, colours / "0red.png", "--preset", "0-1", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["softmax"] is bool(softmax)
    expected = np.e / (np.e + 2) if softmax else 1.0
    assert best(out)[0]["probability"] == pytest.approx(expected, rel=1e-6)


def test_values_that_are_no_probabilities_get_softmax(call, saved, colours):
    path = saved(scores())
    args = ("--preset", "0-1", "--scale", "1/100", "--json", "--verbose")
    code, out, err = call("run", path, colours / "1green.png", *args)
    assert code == 0
    assert json.loads(out)["softmax"] is True
    assert "the outputs are no probabilities yet" in err


def test_labels_come_from_a_file(call, saved, colours, tmp_path):
    labels = tmp_path / "labels.txt"
    labels.write_text("red\ngreen\nblue\n")
    args = ("--preset", "0-1", "--labels", labels, "--top", 1)
    code, out, _ = call("run", saved(scores()), colours, *args)
    assert code == 0
    rows = [line.split() for line in out.splitlines()[2:]]
    assert [r[0].rsplit("/")[-1] for r in rows] == ["0red.png", "1green.png", "2blue.png"]
    assert [r[3] for r in rows] == ["red", "green", "blue"]


def test_wrong_number_of_labels(call, saved, colours, tmp_path):
    labels = tmp_path / "labels.txt"
    labels.write_text("red\ngreen\n")
    code, out, err = call("run", saved(scores()), colours, "--preset", "0-1", "--labels", labels)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "2 labels" in err
    assert "y has 3" in err


def test_labels_in_the_metadata_that_do_not_fit_are_not_used(call, saved, colours):
    path = saved(scores(metadata={"fastconv.labels": "red\ngreen"}))
    code, out, err = call("run", path, colours / "0red.png", "--preset", "0-1")
    assert code == 0
    assert "class 0" in out
    assert "name 2 classes" in err


def test_without_labels_classes_have_numbers(call, saved, colours):
    code, out, _ = call("run", saved(scores()), colours / "2blue.png", "--preset", "0-1")
    assert code == 0
    assert "class 2" in out.splitlines()[2]


def test_outputs_that_are_no_classes_are_summed_up(call, saved, colours):
    path = saved(conv_net(2, 2))
    code, out, _ = call("run", path, colours / "0red.png", "--preset", "raw")
    assert code == 0
    header, _, row = out.splitlines()
    assert header.split() == ["output", "shape", "dtype", "min", "mean", "max"]
    assert row.split()[:3] == ["y", "1×10×2×2", "float32"]
    code, out, _ = call("run", path, colours / "0red.png", "--preset", "raw", "--json")
    (summed,) = json.loads(out)["results"][0]["outputs"]
    pixels = np.zeros((1, 3, 2, 2), np.float32)
    pixels[:, 0] = 255
    y = fastconv.load(str(path))(pixels)
    assert summed["shape"] == [1, 10, 2, 2]
    assert summed["mean"] == pytest.approx(float(y.mean()), rel=1e-4)
    assert summed["max"] == pytest.approx(float(y.max()), rel=1e-4)


def test_several_outputs_are_not_guessed_at(call, saved, tmp_path):
    nodes = [node("Relu", ["x"], ["a"]), node("Neg", ["x"], ["b"])]
    path = saved(build(nodes, {"x": [1, 4]}, ["a", "b"]))
    np.save(tmp_path / "x.npy", np.ones((1, 4), np.float32))
    code, out, _ = call("run", path, "--input", f"x={tmp_path / 'x.npy'}", "--json")
    assert code == 0
    assert [o["name"] for o in json.loads(out)["results"][0]["outputs"]] == ["a", "b"]


def test_nan_becomes_null_in_json(call, saved, tmp_path):
    path = saved(build([node("Relu", ["x"], ["y"])], {"x": [1, 3]}, ["y"]))
    np.save(tmp_path / "x.npy", np.full((1, 3), np.nan, np.float32))
    code, out, err = call("run", path, "--input", f"x={tmp_path / 'x.npy'}", "--json")
    assert code == 0
    assert best(out)[0]["probability"] is None
    assert "NaN" in err


def test_outputs_are_written(call, tmp_path):
    target = tmp_path / "out.npz"
    code, *_ = call("run", LENET, IMAGES / "digit_*.png", "--output", target, "--batch", 4)
    assert code == 0
    with np.load(target) as z:
        assert sorted(z) == ["fastconv.images", "logits"]
        assert z["logits"].shape == (10, 10)
        assert (z["logits"].argmax(1) == np.arange(10)).all()
        assert z["fastconv.images"][3].endswith("digit_3.png")


def test_outputs_of_different_shapes_are_written_apart(call, saved, tmp_path):
    path = saved(build([node("Relu", ["x"], ["y"])], {"x": [1, 3, "h", "w"]}, ["y"]))
    for k in (2, 3):
        Image.new("RGB", (k, k)).save(tmp_path / f"{k}.png")
    target = tmp_path / "out.npz"
    code, *_ = call("run", path, tmp_path / "*.png", "--preset", "raw", "--output", target)
    assert code == 0
    with np.load(target) as z:
        assert z["y.0"].shape == (1, 3, 2, 2)
        assert z["y.1"].shape == (1, 3, 3, 3)


def test_letterbox_and_its_size(call, saved, colours):
    path = saved(build([node("Relu", ["x"], ["y"])], {"x": [1, 3, "h", "w"]}, ["y"]))
    args = ("run", path, colours / "0red.png", "--preset", "raw", "--letterbox", "4x6", "--json")
    code, out, _ = call(*args)
    assert code == 0
    assert json.loads(out)["results"][0]["outputs"][0]["shape"] == [1, 3, 4, 6]
    code, _, err = call(*args, "--resize-mode", "exact")
    assert code == 2
    assert "contradict" in err


def test_metadata_can_be_ignored(call):
    code, out, err = call("run", LENET, IMAGES / "digit_3.png", "--ignore-metadata", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["results"][0]["top"][0]["label"] is None
    assert found["preprocess"]["scale"]["source"] == "preset 0-1"
    assert "preset 0-1" in err


def test_a_bad_image_among_good_ones(call, tmp_path):
    shutil.copy(IMAGES / "digit_1.png", tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((IMAGES / "digit_2.png").read_bytes()[:80])
    shutil.copy(IMAGES / "digit_3.png", tmp_path / "c.png")
    code, out, err = call("run", LENET, tmp_path, "--json")
    assert code == 2
    assert [t["label"] for t in best(out)] == ["1", "3"]
    assert err.count("\n") == 1
    assert "b.png" in err
    assert json.loads(out)["errors"][0]["image"].endswith("b.png")


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (["nosuch.png"], "nosuch.png: no such file"),
        (["*.nosuch"], "no file matches"),
        ([], "--input input=FILE.npy"),
        (["{digit}", "--threads", "-1"], "--threads"),
        (["{digit}", "--threads", "x"], "--threads"),
        (["{digit}", "--top", "0"], "--top"),
        (["{digit}", "--mean", "a"], "mean='a'"),
        (["{digit}", "--std", "0"], "std"),
        (["{digit}", "--crop", "32"], "crop=32×32 (flag) does not fit"),
        (["{digit}", "--color", "RGB"], "color"),
        (["{digit}", "--preset", "nosuch"], "preset='nosuch'"),
        (["{digit}", "--labels", "nosuch.txt"], "nosuch.txt"),
        (["{digit}", "--output", "nosuch/x.npz"], "no such folder"),
        (["{digit}", "--nosuch"], "--nosuch"),
        (["{digit}", "--thre", "1"], "--thre"),
        (["{digit}", "--input", "input=nosuch.npy"], "nosuch.npy"),
        (["{digit}", "--input", "x"], "expected NAME=FILE.npy"),
        (["{digit}", "--input", "input={digit}"], "not a .npy file"),
        (["{digit}", "--input", f"input={os.devnull}"], "not a regular file"),
    ],
)
def test_wrong_arguments_get_one_line(call, args, part):
    digit = str(IMAGES / "digit_1.png")
    code, out, err = call("run", LENET, *[a.replace("{digit}", digit) for a in args])
    assert (code, out) == (2, "")
    assert err.startswith("fastconv: error: ")
    assert part in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("keep", [0, 1, 100, 5000, 248_000])
def test_a_truncated_model(call, saved, keep):
    with open(LENET, "rb") as f:
        path = saved(f.read(keep))
    code, out, err = call("run", path, IMAGES / "digit_1.png")
    assert (code, out) == (2, "")
    assert err.startswith("fastconv: error: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("content", [b"", b"hello\n", b"\xff\xd8\xff\xe0 no image", None])
def test_files_that_are_no_images(call, tmp_path, content):
    path = tmp_path / "x.png"
    path.write_bytes((IMAGES / "cat.png").read_bytes()[:1000] if content is None else content)
    code, out, err = call("run", LENET, path)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "x.png" in err


@pytest.mark.parametrize("cut", [1, 30, 200])
def test_a_truncated_array(call, tmp_path, cut):
    path = tmp_path / "x.npy"
    np.save(path, np.zeros((1, 1, 28, 28), np.float32))
    path.write_bytes(path.read_bytes()[:-cut] if cut > 1 else b"\x93NUMPY\x01\x00")
    code, out, err = call("run", LENET, "--input", f"input={path}")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "x.npy" in err


def test_an_array_that_claims_to_be_huge(call, tmp_path):
    path = tmp_path / "x.npy"
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000), }"
    header = header.ljust(117) + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    code, _, err = call("run", LENET, "--input", f"input={path}")
    assert code == 2
    assert "truncated" in err


def test_an_array_for_an_input_that_the_model_has_not(call, tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.zeros((1, 1, 28, 28), np.float32))
    code, out, err = call("run", LENET, "--input", f"image={path}")
    assert (code, out) == (2, "")
    assert err == "fastconv: error: --input image: the model's inputs are input\n"


@pytest.mark.parametrize(
    "order", ["MODEL --json IMAGE", "MODEL IMAGE --json", "--json MODEL IMAGE"]
)
def test_options_may_stand_anywhere(call, order):
    names = {"MODEL": LENET, "IMAGE": str(IMAGES / "digit_4.png")}
    code, out, err = call("run", *[names.get(w, w) for w in order.split()])
    assert (code, err) == (0, "")
    assert best(out)[0]["label"] == "4"


def test_arrays_instead_of_images(call, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((1, 1, 28, 28), np.float32))
    code, out, _ = call("run", LENET, "--input", f"input={tmp_path / 'x.npy'}", "--json")
    assert code == 0
    assert json.loads(out)["results"][0]["image"] is None
    np.save(tmp_path / "x.npy", np.zeros((1, 1, 28, 28)))
    code, _, err = call("run", LENET, "--input", f"input={tmp_path / 'x.npy'}")
    assert code == 2
    assert "float64" in err
