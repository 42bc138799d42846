"""Activation maps and filters: the right numbers, drawn as pictures that show them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from cli_tools import IMAGES, LENET, MOBILENET, build, node
from PIL import Image

import fastconv
from fastconv import visualize
from fastconv.cli import main
from fastconv.errors import OptionError
from fastconv.visualize import activation_picture, activations, filter_picture, filters

F32 = np.float32
DIGIT = str(IMAGES / "digit_7.png")


@pytest.fixture(scope="module")
def lenet():
    return fastconv.load(LENET, threads=1)


@pytest.fixture
def feeds():
    return {"input": np.random.default_rng(0).random((1, 1, 28, 28)).astype(F32)}


def colours(picture):
    pixels = np.asarray(picture).astype(np.uint32)
    found = np.unique(pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2]).tolist()
    return {(c >> 16, c >> 8 & 255, c & 255) for c in found}


# Values.


def test_activations_are_those_before_and_after_a_fused_activation(lenet, feeds):
    found = activations(lenet, feeds, ["c1", "c1.relu", "c1_out", "logits", "input"])
    assert found["c1"].shape == (1, 6, 28, 28)
    assert found["c1"].min() < 0
    np.testing.assert_allclose(found["c1.relu"], np.maximum(found["c1"], 0), atol=1e-6)
    np.testing.assert_array_equal(found["c1_out"], found["c1"])
    np.testing.assert_array_equal(found["input"], feeds["input"])
    np.testing.assert_allclose(found["logits"], lenet(feeds["input"]), rtol=1e-5, atol=1e-5)


def test_activations_agree_with_onnx(lenet, feeds):
    from fastconv.compare import Reference

    names = ["c1", "c1.pool", "c3.relu", "f6"]
    found = activations(lenet, feeds, names)
    theirs = Reference().run_all(LENET, feeds, [f"{n}_out" for n in names])
    for name in names:
        np.testing.assert_allclose(found[name], theirs[f"{name}_out"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("asked", "near"),
    [("c2", "c1"), ("POOL", "c1.pool"), ("c1.relo", "c1.relu"), ("F6", "f6"), ("zzz", "it has")],
)
def test_an_unknown_layer_lists_near_names(lenet, asked, near):
    with pytest.raises(OptionError) as caught:
        visualize.find_layer(lenet, asked)
    assert repr(asked) in str(caught.value)
    assert near in str(caught.value)
    assert "\n" not in str(caught.value)


def test_filters_are_the_files(lenet):
    name, weights = filters(lenet)
    assert name == "c1"
    assert weights.shape == (6, 1, 5, 5)
    np.testing.assert_array_equal(weights, lenet.original.consts["c1.weight"])
    assert filters(lenet, "c3")[1].shape == (16, 6, 5, 5)
    assert filters(lenet, "c3_out")[0] == "c3"
    with pytest.raises(OptionError, match="no convolution"):
        filters(lenet, "f6")


def test_filters_that_nodes_compute_from_constants():
    nodes = [node("Mul", ["w", "two"], ["v"]), node("Conv", ["x", "v"], ["y"])]
    consts = {"w": np.ones((2, 3, 3, 3), F32), "two": np.array(2, F32)}
    model = fastconv.load(build(nodes, {"x": [1, 3, 5, 5]}, ["y"], consts))
    assert (filters(model)[1] == 2).all()
    nodes = [node("Conv", ["x", "w"], ["y"])]
    model = fastconv.load(build(nodes, {"x": [1, 3, 5, 5], "w": [2, 3, 3, 3]}, ["y"]))
    with pytest.raises(OptionError, match="no constants"):
        filters(model)


def test_a_model_without_a_convolution():
    model = fastconv.load(build([node("Relu", ["x"], ["y"])], {"x": [1, 3]}, ["y"]))
    with pytest.raises(OptionError, match="no convolution"):
        filters(model)


# Pictures.


def test_every_map_is_a_tile_of_its_own_colours():
    """One bright pixel per map, at another place in each: it is found again in the picture."""
    maps = np.zeros((1, 4, 5, 5), F32)
    for k in range(4):
        maps[0, k, k, k] = k + 1
    pixels = np.asarray(activation_picture(maps, "t"))
    bright, dark = visualize.RISING[-1], visualize.RISING[0]
    tiles = (pixels == dark).all(-1)
    lit = (pixels == bright).all(-1)
    assert lit.sum() * 24 == tiles.sum()  # one pixel in 25, all enlarged alike
    same = np.asarray(activation_picture(maps, "t", colors="layer"))
    assert (same == bright).all(-1).sum() * 4 == lit.sum()  # only the largest is that bright


def test_signed_values_are_blue_and_red_around_white():
    maps = np.array([[[[-1.0, 0.0], [0.0, 1.0]]]], F32)
    found = colours(activation_picture(maps, "t"))
    assert {visualize.AROUND[0], visualize.AROUND[2], visualize.AROUND[-1]} <= found


def test_nan_and_infinity_are_seen_and_harm_nothing():
    maps = np.zeros((1, 2, 3, 3), F32)
    maps[0, 0] = [[np.nan, 1, np.inf], [0, 0, 0], [0, 0, 0]]
    found = colours(activation_picture(maps, "t"))
    assert visualize.NAN in found
    assert visualize.RISING[-1] in found
    everything = np.full((1, 1, 2, 2), np.nan, F32)
    assert visualize.NAN in colours(activation_picture(everything, "t"))


@pytest.mark.parametrize(
    "shape",
    [(1, 1, 1, 1), (1, 3, 224, 224), (2, 7, 1, 9), (1, 2, 4, 5, 6), (1, 10), (1, 5000), (1, 1),
     (1, 12, 20), (1, 300, 3, 3), (1, 2, 1, 3000)],
    ids=str,
)  # fmt: skip
def test_values_of_every_rank_are_drawn(shape):
    values = np.random.default_rng(0).normal(size=shape).astype(F32)
    picture = activation_picture(values, "t", image=np.zeros((1, 3, 8, 8), F32))
    assert picture.mode == "RGB"
    assert 100 < picture.width <= 4000
    assert picture.height <= 6000
    assert len(colours(picture)) > 3


def test_only_so_many_maps_are_drawn():
    values = np.ones((1, 100, 4, 4), F32)
    few, many = (activation_picture(values, "t", maps=n) for n in (4, 100))
    assert few.width * few.height < many.width * many.height


@pytest.mark.parametrize(
    ("values", "options"),
    [
        (np.zeros(3, F32), {}),
        (np.zeros((1, 0, 2, 2), F32), {}),
        (np.array([["a", "b"]], object), {}),
        (np.zeros((1, 1, 2, 2), F32), {"maps": 0}),
        (np.zeros((1, 1, 2, 2), F32), {"colors": "rainbow"}),
    ],
)
def test_what_cannot_be_drawn_is_refused(values, options):
    with pytest.raises(OptionError):
        activation_picture(values, "t", **options)


def test_colour_filters_show_their_colours():
    """A filter that looks for red is red on mid-grey."""
    weights = np.zeros((1, 3, 3, 3), F32)
    weights[0, 0, 1, 1] = 0.3
    found = colours(filter_picture(weights, "t"))
    assert (255, 128, 128) in found
    assert (128, 128, 128) in found


@pytest.mark.parametrize(
    "shape", [(8, 1, 3, 3), (8, 3, 7, 7), (4, 16, 3, 3), (4, 2, 9), (2, 1, 3, 3, 3)]
)
def test_filters_of_every_form_are_drawn(shape):
    weights = np.random.default_rng(0).normal(size=shape)
    picture = filter_picture(weights, "t")
    assert len(colours(picture)) > 8
    with pytest.raises(OptionError):
        filter_picture(weights.reshape(weights.shape[0], -1), "t")


def test_titles_from_a_file_may_hold_anything():
    maps = np.ones((1, 1, 2, 2), F32)
    picture = activation_picture(maps, "猫\x1b[2J\n\u202e" + "x" * 3000)
    assert picture.width <= 4000


# The command.


def test_the_command_draws_activations(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["visualize", LENET, DIGIT, "--layer", "c1"]) == 0
    assert capsys.readouterr().out == "lenet5.c1.png: c1, 1×6×28×28\n"
    with Image.open("lenet5.c1.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > 300
    args = ["visualize", LENET, DIGIT, "--layer", "f6", "-o", "bars.png", "--json"]
    assert main(args) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["layer"], found["shape"], found["picture"]) == ("f6", [1, 84], "bars.png")


def test_the_command_draws_filters(capsys, tmp_path):
    path = tmp_path / "filters.png"
    assert main(["visualize", MOBILENET, "--filters", "-o", str(path)]) == 0
    assert "features.0.0, 32×3×3×3" in capsys.readouterr().out
    with Image.open(path) as picture:
        assert len(colours(picture)) > 100


def test_arrays_can_be_given_in_place_of_an_image(capsys, tmp_path):
    np.save(tmp_path / "x.npy", np.ones((2, 1, 28, 28), F32))
    path = tmp_path / "y.png"
    args = ["--layer", "c3", "--input", f"input={tmp_path / 'x.npy'}", "-o", str(path)]
    assert main(["visualize", LENET, *args]) == 0
    assert "2×16×10×10" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([DIGIT, "--layer", "c7"], "near it are 'c5'"),
        ([DIGIT], "--layer"),
        (["--layer", "c1"], "input"),
        ([DIGIT, "--filters"], "takes no image"),
        (["--filters", "--layer", "f6"], "no convolution"),
        ([DIGIT, "--layer", "c1", "-o", "x.gif"], ".png"),
        ([DIGIT, "--layer", "c1", "-o", "nosuch/x.png"], "nosuch"),
        ([DIGIT, "--layer", "c1", "--maps", "0"], "whole number"),
        (["nosuch.png", "--layer", "c1"], "nosuch.png"),
    ],
)
def test_wrong_options_are_one_line(capsys, args, words):
    assert main(["visualize", LENET, *args]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1].startswith("fastconv: error: ")
    assert words in err.splitlines()[-1]


def test_the_pictures_name_is_fit_for_a_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    nodes = [node("Relu", ["x"], ["y"], "../../a/b c:<d>")]
    path = tmp_path / "m.onnx"
    path.write_bytes(build(nodes, {"x": [1, 3, 4, 4]}, ["y"]))
    assert main(["visualize", str(path), DIGIT, "--layer", "../../a/b c:<d>"]) == 0
    assert [p.name for p in tmp_path.glob("*.png")] == ["m..._.._a_b_c_d.png"]
