"""Models, and ways to store their plans and to see what became of them, for the tests of both."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys
import textwrap
import time

import numpy as np
from cli_tools import LENET, MOBILENET, build, node

import fastconv
from fastconv.runtime import storing


def normal(*shape):
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


def branches():
    """Winograd, grouped, strided and depthwise convolution, Concat, pooling, two outputs."""
    nodes = [
        node("Conv", ["x", "w3"], ["a"], "three", pads=[1] * 4),
        node("Relu", ["a"], ["r"], "relu"),
        node("Conv", ["r", "g"], ["b"], "grouped", group=4, pads=[1] * 4),
        node("Conv", ["r", "d"], ["c"], "depthwise", group=32, pads=[1] * 4),
        node("Concat", ["b", "c"], ["e"], "join", axis=1),
        node("Conv", ["e", "p"], ["f"], "pointwise"),
        node("GlobalAveragePool", ["f"], ["m"], "mean"),
        node("Flatten", ["m"], ["v"], "flatten"),
        node("Gemm", ["v", "fc", "bias"], ["y"], "fc"),
        node("MaxPool", ["f"], ["z"], "max", kernel_shape=[2, 2], strides=[2, 2]),
    ]
    consts = {
        "w3": normal(32, 32, 3, 3), "g": normal(16, 8, 3, 3), "d": normal(32, 1, 3, 3),
        "p": normal(48, 48, 1, 1), "fc": normal(48, 10), "bias": normal(10),
    }  # fmt: skip
    return build(nodes, {"x": ["N", 32, "H", "W"]}, ["y", "z"], consts)


def small():
    """A convolution of any size."""
    nodes = [node("Conv", ["x", "w"], ["y"], "conv", pads=[1] * 4)]
    return build(nodes, {"x": ["N", 8, "H", "W"]}, ["y"], {"w": normal(8, 8, 3, 3)})


SHAPES = {"lenet": (1, 1, 28, 28), "mobilenet": (1, 3, 224, 224), "branches": (1, 32, 20, 20),
          "small": (1, 8, 12, 12)}  # fmt: skip
X = normal(*SHAPES["small"])


def settle(*paths):
    """Wait until files count as settled."""
    newest = max(os.stat(p).st_ctime_ns for p in paths)
    time.sleep(max(0, newest + storing.SETTLED - time.time_ns()) / 1e9 + 0.03)


def load(path, cache, **options):
    return fastconv.load(path, **{"threads": 1, **options}, cache=cache)


def hit(model):
    """Whether the model came from stored plans."""
    return model._stored is not None


def read_in(model):
    """Whether the model's file was read."""
    return "graph" in model.__dict__


def made(path, cache, x=X, **options):
    """Store the plan for an input; returns the result."""
    model = load(path, cache, **options)
    outs = model.run({model.inputs[0].name: x})
    assert len(list(pathlib.Path(cache).glob("*.plans"))) >= 1
    return outs


def only(cache):
    """The one entry in a folder."""
    [path] = pathlib.Path(cache).iterdir()
    return path


def same(got, expected):
    assert got.keys() == expected.keys()
    for name, array in expected.items():
        assert got[name].dtype == array.dtype
        np.testing.assert_array_equal(got[name], array)


def settled_models(folder):
    """Model files that have not changed for a while, by name."""
    found = {"lenet": folder / "lenet.onnx", "mobilenet": folder / "mobilenet.onnx"}
    shutil.copyfile(LENET, found["lenet"])
    shutil.copyfile(MOBILENET, found["mobilenet"])
    for name, make in (("branches", branches), ("small", small)):
        found[name] = folder / f"{name}.onnx"
        found[name].write_bytes(make())
    settle(*found.values())
    return found


def python(code, **options):
    """A process that runs this code."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip
