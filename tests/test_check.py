"""``inspect --check``: everything that is wrong, unsupported or slow, at once, without running."""

from __future__ import annotations

import json

import numpy as np
import pytest
from cli_tools import LENET, MOBILENET, build, conv_net, node
from onnx import TensorProto, helper, numpy_helper
from test_bad_graphs import BAD, make, small_network

import fastconv
from fastconv.check import check, lines, summary
from fastconv.cli import main

F32 = np.float32


def many_faults():
    """A model with a fault of every kind, and sound nodes between them."""
    nodes = [
        node("Conv", ["x", "w1"], ["a"], "conv1", pads=[1, 1, 1, 1]),
        node("Conv", ["a", "w2"], ["b"], "conv2"),
        node("Mystery", ["b"], ["c"], "mystery", domain="com.example"),
        node("Relu", ["c"], ["d"], "relu", frobnicate=3),
        node("Det", ["squares"], ["e"], "det"),
        node("Add", ["a", "nosuch"], ["f"], "add"),
        node("Gemm", ["g", "w3"], ["h"], "gemm"),
        node("Relu", ["b"], ["i"], "after"),
    ]
    inputs = {"x": ["n", 3, "h", "w"], "squares": [2, 3, 3], "g": [1, 5]}
    consts = {
        "w1": np.ones((4, 3, 3, 3), F32),
        "w2": np.ones((4, 5, 3, 3), F32),
        "w3": np.ones((4, 4), F32),
    }
    return build(nodes, inputs, ["d", "e", "f", "h", "i", "nothing"], consts)


def test_every_fault_is_listed_at_once():
    report = check(many_faults())
    found = {(p.level, p.name): p for p in report.problems}
    names = {"conv2", "mystery", "relu", "add", "gemm", "nothing"}
    assert {name for level, name in found if level == "error"} == names
    assert [p.name for p in report.of("reference")] == ["det"]
    assert not report.runs
    assert all(p.reason and p.advice for p in report.problems)
    conv = found["error", "conv2"]
    assert conv.title() == "node 'conv2' (Conv, opset 17)"
    assert conv.inputs == ("a float32[1, 4, 224, 224]", "w2 float32[4, 5, 3, 3]")
    assert "5" in conv.reason
    assert "'conv2'" not in conv.reason  # the title says it
    assert "com.example" in found["error", "mystery"].reason
    assert "frobnicate" in found["error", "relu"].reason
    assert "'nosuch'" in found["error", "add"].reason
    assert found["error", "add"].inputs[0] == "a float32[1, 4, 224, 224]"
    (note,) = report.of("note")
    assert "'after'" in note.reason


def test_exit_codes_and_json(capsys, tmp_path):
    cases = {
        0: build([node("Relu", ["x"], ["y"])], {"x": [3]}, ["y"]),
        1: build([node("Det", ["x"], ["y"], "det")], {"x": [2, 3, 3]}, ["y"]),
        2: many_faults(),
    }
    for code, data in cases.items():
        path = tmp_path / f"m{code}.onnx"
        path.write_bytes(data)
        assert main(["inspect", "--check", str(path)]) == code
        text = capsys.readouterr().out
        assert main(["inspect", "--check", "--json", str(path)]) == code
        found = json.loads(capsys.readouterr().out)
        assert (found["runs"], found["native"]) == (code < 2, code == 0)
        for p in found["problems"]:
            assert p["advice"] in text
            assert p["name"] is None or p["name"] in text


@pytest.mark.parametrize("path", [LENET, MOBILENET])
def test_real_models_have_nothing_wrong(path):
    report = check(path)
    assert report.problems == ()
    assert summary(report) == "every operator runs natively"


#: What only the values that are fed, or the shape of what is scattered, shows.
WHEN_RUN = ("Gather", "Scatter", "OneHot: values")


@pytest.mark.parametrize("consts", [False, True], ids=["fed", "constant"])
@pytest.mark.parametrize("case", [c for c in BAD if not c.startswith(WHEN_RUN)])
def test_what_does_not_load_or_run_has_an_error(case, consts):
    """The same graphs that loading or running refuses: each is found before running."""
    op, arrays, attrs, *rest = BAD[case]
    data, feeds = make(op, arrays, attrs, *rest, consts=range(1, len(arrays)) if consts else ())
    report = check(data, {n: a.shape for n, a in feeds.items()})
    late = any("depend on data" in p.reason for p in report.of("note"))
    assert late or not report.runs, report.problems
    assert late or ["'bad'" in p.title() + p.reason for p in report.of("error")] == [True]


def test_damaged_files_never_crash_it():
    data, _ = small_network()
    rng = np.random.default_rng(0)
    counts = {True: 0, False: 0}
    for _ in range(300):
        bad = bytearray(data)
        for k in rng.integers(0, len(bad), rng.integers(1, 4)):
            bad[k] = rng.integers(0, 256)
        if rng.random() < 0.1:
            del bad[rng.integers(0, len(bad)) :]
        report = check(bytes(bad))
        counts[report.runs] += 1
        assert all("\n" not in line for line in map(str, lines(report)))
        if report.runs:
            fastconv.load(bytes(bad), fallback="allow")  # does not raise
    assert min(counts.values()) > 10


@pytest.mark.parametrize("opset", [0, -3])
def test_an_opset_that_is_not_read(opset):
    report = check(build([node("Relu", ["x"], ["y"])], {"x": [1]}, ["y"], opset=opset))
    assert f"opset {opset}" in report.problems[0].reason
    assert "version_converter" in report.problems[0].advice


def test_a_file_that_is_no_model(tmp_path):
    for data in (b"", b"This is text.\n" * 9):
        path = tmp_path / "x.onnx"
        path.write_bytes(data)
        (problem,) = check(path).problems
        assert (problem.level, problem.where) == ("error", "file")


def test_missing_weights_are_put_together(tmp_path):
    """Ten tensors of a data file that is not there: one entry in the text, ten in the report."""
    weights = []
    for k in range(10):
        t = numpy_helper.from_array(np.ones(4, F32), f"w{k}")
        t.ClearField("raw_data")
        t.data_location = TensorProto.EXTERNAL
        entry = t.external_data.add()
        entry.key, entry.value = "location", "gone.bin"
        weights.append(t)
    nodes = [helper.make_node("Sum", ["x", *(t.name for t in weights)], ["y"], name="sum")]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [4]) for n in "xy"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    report = check(path)
    assert [p.where for p in report.of("error")] == ["initializer"] * 10
    assert not report.of("note")  # their shapes are known, so that the sum was checked
    text = lines(report)
    assert len(text) < 8
    assert "'w1', 'w2', 'w3', 'w4' and 5 more" in text[1]


def test_stated_shapes_carry_on_past_an_error():
    """What follows a broken node is checked on the shape that the file states of its output."""
    nodes = [
        node("Mystery", ["x"], ["m"], "mystery", domain="com.example"),
        node("MatMul", ["m", "w"], ["y"], "matmul"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ones((4, 2), F32), "w")],
        value_info=[helper.make_tensor_value_info("m", TensorProto.FLOAT, ["n", 5])],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.example", 1)]
    data = helper.make_model(graph, opset_imports=imports).SerializeToString()
    report = check(data)
    assert [p.name for p in report.of("error")] == ["mystery", "matmul"]
    assert report.of("error")[1].inputs[0] == "m float32[1, 5]"


def test_a_statement_that_the_nodes_contradict_is_a_note():
    nodes = [helper.make_node("Flatten", ["x"], ["y"], name="flat")]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 13])
    graph = helper.make_graph(nodes, "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    report = check(model.SerializeToString())
    assert report.native
    (note,) = report.problems
    assert "float32[2, 13]" in note.reason
    assert "float32[2, 12]" in note.reason


def test_a_cycle_and_a_second_definition():
    nodes = [node("Add", ["x", "b"], ["a"], "one"), node("Relu", ["a"], ["b"], "two")]
    (problem,) = check(build(nodes, {"x": [1]}, ["a"])).of("error")
    assert "cycle" in problem.reason
    nodes = [node("Relu", ["x"], ["a"], "one"), node("Relu", ["x"], ["a"], "two")]
    (problem,) = check(build(nodes, {"x": [1]}, ["a"])).of("error")
    assert problem.name == "two"
    assert "already defined" in problem.reason


def test_other_shapes_are_checked_on_request(capsys, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(conv_net("h", "w"))
    assert main(["inspect", "--check", str(path), "--shape", "1,3,9,9"]) == 0
    assert main(["inspect", "--check", str(path), "--shape", "1,4,9,9"]) == 2
    assert "4 channels" in capsys.readouterr().out
    assert main(["inspect", "--check", str(path), "--shape", "nosuch=1"]) == 2
    assert capsys.readouterr().err.startswith("fastconv: error: --shape nosuch=1")


def test_an_input_without_rank_asks_for_its_shape():
    data = build([node("Relu", ["x"], ["y"])], {"x": None}, ["y"])
    report = check(data)
    assert "--shape" in report.of("error")[0].advice
    assert check(data, {"x": (2, 3)}).native


def test_a_dtype_without_a_kernel_is_listed_but_runs():
    data = build(
        [node("Conv", ["x", "w"], ["y"], "conv")],
        {"x": [1, 1, 5, 5]}, ["y"], {"w": np.ones((1, 1, 3, 3))}, dtype=11,
    )  # fmt: skip
    report = check(data)
    assert report.native
    (problem,) = report.of("numpy")
    assert problem.name == "conv"
    assert "float32" in problem.advice
    assert summary(report) == "every operator runs natively (1 node through NumPy)"


def test_what_runs_is_never_said_to_be_broken():
    """No false alarm: a model that loads and runs has no error."""
    nodes = [
        node("NonZero", ["x"], ["n"]),
        node("Transpose", ["n"], ["t"], perm=[1, 0]),
        node("Cast", ["t"], ["y"], to=1),
    ]
    report = check(build(nodes, {"x": [2, 3]}, ["y"]))
    assert report.native
    (note,) = report.of("note")
    assert "depend on data" in note.reason
