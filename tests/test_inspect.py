"""What inspect says of a model: the textbook's numbers, receptive fields, fusions, fallbacks."""

from __future__ import annotations

import numpy as np
import pytest
from cli_tools import LENET, MOBILENET, build, conv_net, node, scores

import fastconv
from fastconv import inspect, text
from fastconv.errors import InputError, OptionError

F32 = np.float32


def describe(data, shapes=None, **options):
    return inspect.describe(fastconv.load(data, fallback="allow", **options), shapes)


def test_the_textbooks_layer():
    """32×32×3 through ten 5×5 filters, stride 1, pad 2: 32×32×10 and 76 · 10 parameters."""
    (layer,) = describe(conv_net()).layers
    assert layer.volume == (32, 32, 10)
    assert layer.parameters_per_filter == 76
    assert layer.parameters == 760
    assert layer.macs == 32 * 32 * 10 * 75
    assert layer.kernel_shape == (5, 5)
    assert layer.strides == (1, 1)
    assert layer.pads == (2, 2, 2, 2)
    assert layer.receptive_field == (5, 5)
    assert layer.runs == "native"


def test_lenet_has_its_published_parameters():
    found = describe(LENET)
    assert found.totals.parameters == 61706
    assert found.totals.macs == 416520
    by_name = {y.name: y for y in found.layers}
    assert by_name["c1"].volume == (28, 28, 6)
    assert by_name["c1.pool"].receptive_field == (6, 6)
    assert by_name["c3"].receptive_field == (14, 14)
    assert by_name["c5"].parameters_per_filter == 401
    assert by_name["c5"].receptive_field == (32, 32)  # 16 and four steps of 4: the whole plane


def test_fused_nodes_are_listed_and_counted_once():
    found = describe(LENET)
    (c1,) = [y for y in found.layers if y.name == "c1"]
    assert c1.op == "Conv+Relu"
    assert [s.op for s in c1.sources] == ["Conv", "Relu"]
    plain = describe(LENET, optimize=False)
    assert len(plain.layers) == plain.totals.nodes == 12
    assert plain.totals.parameters == found.totals.parameters
    assert plain.totals.macs == found.totals.macs


def test_folded_batch_normalisation_keeps_its_parameters():
    """10 · 3 · 9 weights, 10 scales, 10 biases; running statistics are not learned."""
    rng = np.random.default_rng(1)
    consts = {"w": rng.standard_normal((10, 3, 3, 3)).astype(F32)}
    consts |= {k: np.ones(10, F32) for k in ("s", "b", "m", "v")}
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("BatchNormalization", ["c", "s", "b", "m", "v"], ["y"]),
    ]
    found = describe(build(nodes, {"x": [1, 3, 8, 8]}, ["y"], consts))
    (layer,) = found.layers
    assert layer.op == "Conv+BatchNormalization"
    assert layer.parameters == found.totals.parameters == 290
    assert layer.parameters_per_filter == 27


def test_a_shared_weight_counts_once_in_the_total():
    nodes = [node("Gemm", ["x", "w"], ["h"], "a"), node("Gemm", ["h", "w"], ["y"], "b")]
    found = describe(build(nodes, {"x": [1, 4]}, ["y"], {"w": np.ones((4, 4), F32)}))
    assert [y.parameters for y in found.layers] == [16, 16]
    assert found.totals.parameters == 16


def test_mobilenet_has_the_published_work():
    """300 million multiply-adds (Sandler et al., 2018, table 4)."""
    found = describe(MOBILENET)
    assert found.inputs == {"input": (1, 3, 224, 224)}
    assert round(found.totals.macs / 1e6) == 301
    assert found.totals.runs.keys() <= {"native", "view"}


@pytest.mark.parametrize(
    ("kernels", "field"),
    [
        # (kernel, stride, dilation) of every layer; the field is 1 + sum of (extent - 1) * jump.
        ([(3, 1, 1), (3, 1, 1)], 5),
        ([(3, 2, 1), (3, 1, 1)], 7),
        ([(2, 2, 1), (2, 2, 1), (2, 2, 1)], 8),
        ([(3, 1, 2), (3, 1, 4)], 13),
        ([(1, 1, 1)], 1),
        ([(7, 2, 1), (3, 2, 1), (3, 1, 1)], 19),
    ],
)
def test_receptive_field_of_a_chain(kernels, field):
    nodes, consts, value = [], {}, "x"
    for k, (size, stride, dilation) in enumerate(kernels):
        consts[f"w{k}"] = np.ones((1, 1, size, size), F32)
        nodes.append(
            node("Conv", [value, f"w{k}"], [f"v{k}"], f"c{k}", strides=[stride] * 2,
                 dilations=[dilation] * 2)
        )  # fmt: skip
        value = f"v{k}"
    found = describe(build(nodes, {"x": [1, 1, 64, 64]}, [value], consts))
    assert found.layers[-1].receptive_field == (field, field)


def test_receptive_field_by_perturbation():
    """The pixels whose change reaches one output pixel are as many as inspect says."""
    nodes = [
        node("Conv", ["x", "w"], ["a"], "c0", strides=[2, 1], dilations=[1, 2]),
        node("MaxPool", ["a"], ["b"], "p", kernel_shape=[2, 3], strides=[2, 1]),
        node("Conv", ["b", "w"], ["y"], "c1"),
    ]
    data = build(nodes, {"x": [1, 1, 40, 30]}, ["y"], {"w": np.ones((1, 1, 3, 3), F32)})
    model = fastconv.load(data, threads=1)
    field = inspect.describe(model).layers[-1].receptive_field
    base = np.random.default_rng(0).random((1, 1, 40, 30)).astype(F32)
    y = model(base)
    at = (0, 0, y.shape[2] // 2, y.shape[3] // 2)
    reached = np.zeros((40, 30), bool)
    for r in range(40):
        for c in range(30):
            x = base.copy()
            x[0, 0, r, c] += 100
            reached[r, c] = model(x)[at] != y[at]
    rows, columns = np.flatnonzero(reached.any(1)), np.flatnonzero(reached.any(0))
    assert field == (np.ptp(rows) + 1, np.ptp(columns) + 1)


def test_of_two_branches_the_wider_field_counts():
    nodes = [
        node("Conv", ["x", "w"], ["a"], "wide", pads=[2, 2, 2, 2]),
        node("Relu", ["x"], ["r"]),
        node("Concat", ["a", "r"], ["y"], axis=1),
    ]
    found = describe(build(nodes, {"x": [1, 1, 9, 9]}, ["y"], {"w": np.ones((1, 1, 5, 5), F32)}))
    assert found.layers[-1].receptive_field == (5, 5)


def test_transposes_carry_the_axes_along():
    """A channels-last export: height and width keep their fields through the transposes."""
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]),
        node("Conv", ["t", "w"], ["c"], strides=[2, 1]),
        node("Transpose", ["c"], ["u"], "back", perm=[0, 2, 3, 1]),
        node("Relu", ["u"], ["y"]),
    ]
    data = build(nodes, {"x": [1, 12, 9, 3]}, ["y"], {"w": np.ones((4, 3, 5, 3), F32)})
    assert describe(data, optimize=False).layers[-1].receptive_field == (5, 3)


@pytest.mark.parametrize(
    ("nodes", "consts", "macs"),
    [
        ([node("MatMul", ["x", "w"], ["y"])], {"w": np.ones((5, 7), F32)}, 2 * 3 * 4 * 5 * 7),
        ([node("MatMul", ["x", "t"], ["y"])], {"t": np.ones((2, 3, 5, 6), F32)}, 720),
        (
            [node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2])],
            {"w": np.ones((3, 8, 2, 2), F32)},
            2 * 3 * 4 * 5 * 8 * 4,
        ),
        (
            [node("Einsum", ["x", "w"], ["y"], equation="abcd,de->abce")],
            {"w": np.ones((5, 7), F32)},
            840,
        ),
    ],
    ids=["matmul", "batched-matmul", "conv-transpose", "einsum"],
)
def test_multiply_accumulates(nodes, consts, macs):
    assert describe(build(nodes, {"x": [2, 3, 4, 5]}, ["y"], consts)).totals.macs == macs


def test_an_operator_without_a_kernel_is_named_with_the_reason():
    nodes = [node("Relu", ["x"], ["r"]), node("Det", ["r"], ["y"], "det")]
    found = describe(build(nodes, {"x": [2, 3, 3]}, ["y"]))
    (layer,) = [y for y in found.layers if y.name == "det"]
    assert layer.runs == "onnx.reference"
    assert "Det" in layer.reason
    assert layer.output_shape == (2,)  # learned from a run
    assert "det (Det) runs as onnx.reference" in inspect.render(found)


def test_shapes_that_depend_on_data_are_learned_from_a_run():
    nodes = [
        node("NonZero", ["x"], ["n"]),
        node("Transpose", ["n"], ["t"], perm=[1, 0]),
        node("Cast", ["t"], ["f"], to=1),
        node("MatMul", ["f", "w"], ["y"]),
    ]
    found = describe(build(nodes, {"x": [2, 3]}, ["y"], {"w": np.ones((2, 5), F32)}))
    assert found.outputs == {"y": (6, 5)}
    assert found.totals.macs == 6 * 2 * 5
    (layer,) = [y for y in found.layers if y.name == "nonzero"]
    assert layer.runs == "numpy"
    assert "depends on data" in layer.reason


def test_a_dtype_without_a_kernel_is_marked_numpy():
    data = build(
        [node("Conv", ["x", "w"], ["y"])],
        {"x": [1, 1, 5, 5]},
        ["y"],
        {"w": np.ones((1, 1, 3, 3))},
        dtype=11,
    )
    (layer,) = describe(data).layers
    assert layer.runs == "numpy"
    assert layer.kernels == ("numpy:Conv",)
    assert layer.macs == 81


def test_open_sizes_get_defaults_and_a_note():
    found = describe(conv_net("h", "w", "n"))
    assert found.inputs == {"x": (1, 3, 224, 224)}
    assert len(found.notes) == 1
    assert "1,3,224,224" in found.notes[0]
    assert describe(conv_net()).notes == []


def test_metadata_say_how_large_images_are():
    metadata = {"fastconv.preprocess": '{"resize": 40, "crop": 36}'}
    nodes = [node("Relu", ["x"], ["y"])]
    found = describe(build(nodes, {"x": ["n", 3, "h", "w"]}, ["y"], metadata=metadata))
    assert found.inputs == {"x": (1, 3, 36, 36)}


def test_equal_symbols_get_equal_sizes():
    nodes = [node("Add", ["a", "b"], ["y"])]
    data = build(nodes, {"a": ["n", 4], "b": ["n", 4]}, ["y"])
    assert describe(data, {"a": (5, 4)}).inputs == {"a": (5, 4), "b": (5, 4)}


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(OptionError, match="nosuch"):
        describe(conv_net(), {"nosuch": (1,)})
    with pytest.raises(InputError, match="x"):
        describe(conv_net(), {"x": (1, 3, 16, 16)})


def test_summary_is_the_rendered_description():
    model = fastconv.load(scores())
    lines = model.summary().splitlines()
    assert lines == inspect.render(inspect.describe(model)).splitlines()
    assert all(line == line.rstrip() for line in lines)


@pytest.mark.parametrize(
    ("pads", "shown"),
    [((2, 2, 2, 2), "2"), ((1, 3, 1, 3), "1×3"), ((0, 0, 1, 1), "0,0:1,1"), (None, "")],
)
def test_pads_as_text(pads, shown):
    assert inspect.pad_text(pads) == shown


def test_tables_align_wide_and_escape_control_characters():
    lines = text.table(["name", ">n"], [["猫", 1], ["a\nb\x1b[31m", 22]]).splitlines()
    assert lines[2].endswith(" 1")
    assert len({text.width(line) for line in lines[1:]}) == 1
    assert "\\n" in lines[3]
    assert "\x1b" not in lines[3]
