"""Dead code, no-ops, constant folding and type inference."""

from pathlib import Path

import numpy as np
import pytest
from passes_harness import Build, check, feeds_for, kinds

from fastconv.errors import ModelError, OptionError, ShapeError
from fastconv.graph import Sym, TensorType
from fastconv.importer.build import build_graph
from fastconv.importer.proto import open_model
from fastconv.passes import PIPELINE, infer_types, optimize
from fastconv.passes.types import FOLD_LIMIT


def test_what_no_output_needs_is_dropped():
    b = Build()
    x = b.input(2, 3)
    b("Tanh", b("Add", x, b.random(3)))
    new = check(b.done(b("Abs", x)), ["Abs"])
    assert not new.consts


def test_an_unused_input_stays():
    b = Build()
    x = b.input(2, 3)
    b.input(5, name="other")
    assert check(b.done(b("Abs", x)), ["Abs"]).inputs == ["x", "other"]


INT = np.int64
NO_OPS = {
    "Identity": lambda b, x: b("Identity", x),
    "Dropout": lambda b, x: b("Dropout", x, outputs=2),
    "Dropout, off": lambda b, x: b("Dropout", x, b.const(0.5), b.const(False, bool)),
    "Cast": lambda b, x: b("Cast", x, to=1),
    "Reshape": lambda b, x: b("Reshape", x, b.const([0, -1], INT)),
    "Flatten": lambda b, x: b("Flatten", x),
    "Transpose": lambda b, x: b("Transpose", x, perm=(0, 1)),
    "Expand": lambda b, x: b("Expand", x, b.const([1, 3], INT)),
    "Tile": lambda b, x: b("Tile", x, b.const([1, 1], INT)),
    "Slice": lambda b, x: b("Slice", x, b.const([0], INT), b.const([99], INT), b.const([1], INT)),
    "Pad": lambda b, x: b("Pad", x, b.const([0] * 4, INT), b.const(7)),
    "Concat": lambda b, x: b("Concat", x, axis=0),
    "Sum": lambda b, x: b("Sum", x),
    "Clip": lambda b, x: b("Clip", x),
    "x + 0": lambda b, x: b("Add", x, b.const(0)),
    "0 + x": lambda b, x: b("Add", b.const([0, 0, 0]), x),
    "x - 0": lambda b, x: b("Sub", x, b.const(0)),
    "x * 1": lambda b, x: b("Mul", x, b.const([[1]])),
    "x / 1": lambda b, x: b("Div", x, b.const(1)),
    "x ** 1": lambda b, x: b("Pow", x, b.const(1)),
}


@pytest.mark.parametrize("form", NO_OPS.values(), ids=NO_OPS)
def test_a_no_op_is_removed(form):
    b = Build()
    y = b("Abs", form(b, b("Tanh", b.input(2, 3))))
    check(b.done(y), ["Tanh", "Abs"])


@pytest.mark.parametrize("form", NO_OPS.values(), ids=NO_OPS)
def test_a_no_op_at_the_end_leaves_its_name(form):
    b = Build()
    y = form(b, b("Tanh", b.input(2, 3)))
    check(b.done(y), ["Tanh"])


def test_a_no_op_between_an_input_and_an_output_stays():
    b = Build()
    check(b.done(b("Identity", b.input(2, 3))), ["Identity"])


def test_a_value_that_is_two_outputs_keeps_both_names():
    b = Build()
    y = b("Tanh", b.input(2, 3))
    check(b.done(b("Identity", y), y), ["Tanh", "Identity"])


def test_the_same_output_may_be_read_and_renamed():
    b = Build()
    y = b("Tanh", b.input(2, 3))
    new = check(b.done(b("Identity", y), b("Abs", y)), ["Tanh", "Abs"])
    assert new.nodes[1].inputs == [new.outputs[0]]


def test_a_sum_of_two_is_add():
    b = Build()
    x = b.input(2, 3)
    check(b.done(b("Sum", x, b.random(3))), ["Add"])
    check(b.done(b("Sum", x, x, x)), ["Sum"])


KEPT = {
    "Add 0 of a larger shape": lambda b, x: b("Add", x, b.const([[[0]]])),
    "Add 0 that broadcasts": lambda b, x: b("Add", x, b.const(np.zeros((4, 2, 3)))),
    "Mul 1 that is 1 once": lambda b, x: b("Mul", x, b.const([1, 1, 2])),
    "0 - x": lambda b, x: b("Sub", b.const(0), x),
    "1 / x": lambda b, x: b("Div", b.const(1), x),
    "1 ** x": lambda b, x: b("Pow", b.const(1), x),
    "x * 0": lambda b, x: b("Mul", x, b.const(0)),
    "Cast": lambda b, x: b("Cast", x, to=11),
    "Reshape": lambda b, x: b("Reshape", x, b.const([3, 2], INT)),
    "Transpose": lambda b, x: b("Transpose", x),
    "Slice backwards": lambda b, x: b(
        "Slice", x, b.const([99], INT), b.const([-99], INT), b.const([1], INT), b.const([-1], INT)
    ),
    "Pad": lambda b, x: b("Pad", x, b.const([0, 0, 0, 1], INT)),
    "Dropout with its mask": lambda b, x: b("Add", *[b("Dropout", x, outputs=2)] * 2),
}


@pytest.mark.parametrize("form", list(KEPT.values())[:-1], ids=list(KEPT)[:-1])
def test_what_looks_like_a_no_op_stays(form):
    b = Build()
    graph = b.done(form(b, b("Tanh", b.input(2, 3))))
    check(graph, list(kinds(graph).elements()))


def test_a_dropout_whose_mask_is_read_stays():
    b = Build()
    y = b("Dropout", b("Tanh", b.input(2, 3)), outputs=2)
    mask = b.graph.nodes[-1].outputs[1]
    check(b.done(y, mask), ["Tanh", "Dropout"])


def test_a_dropout_that_may_be_training_stays():
    b = Build()
    x, mode = b.input(2, 3), b.input(dtype=bool, name="mode")
    y = b("Abs", b("Dropout", x, b.const(0.5), mode))
    assert kinds(optimize(b.done(y))) == {"Dropout": 1, "Abs": 1}


def test_constants_are_folded():
    b = Build()
    x = b.input(2, 3)
    c = b("Add", b("Mul", b.random(3), b.const(2)), b.const([1]))
    new = check(b.done(b("Sub", x, c), c), ["Sub"])
    assert c in new.consts


def test_shapes_are_folded():
    b = Build()
    x = b.input(2, 3, 4)
    n = b("Gather", b("Shape", x), b.const(0, INT))
    shape = b("Concat", b("Unsqueeze", n, b.const([0], INT)), b.const([-1], INT), axis=0)
    check(b.done(b("Reshape", x, shape)), ["Reshape"])


def test_a_shape_with_symbols_is_not_folded():
    b = Build()
    check(b.done(b("Shape", b.input("N", 3))), ["Shape"])


@pytest.mark.parametrize("op", ["ConstantOfShape", "Expand", "Tile"])
def test_a_small_file_does_not_become_a_large_constant(op):
    b = Build()
    n = FOLD_LIMIT // 4 + 1
    if op == "ConstantOfShape":
        y = b(op, b.const([n], INT))
    else:
        y = b(op, b.const([1.0]), b.const([n], INT))
    new = optimize(b.done(b("Add", b.input(1), y)))
    assert kinds(new) == {op: 1, "Add": 1}
    assert sum(c.nbytes for c in new.consts.values()) < 100


def test_a_constant_of_absurd_size_is_refused_or_left():
    b = Build()
    y = b("Expand", b.const([1.0]), b.const([1 << 40, 1 << 40], INT))
    graph = b.done(b("Add", b.input(1), y))
    with pytest.raises((ModelError, MemoryError), match="Expand"):
        optimize(graph)


def test_a_result_no_larger_than_its_inputs_is_folded():
    b = Build()
    n = FOLD_LIMIT // 4 + 1
    big = "big"
    b.graph.consts[big] = np.broadcast_to(np.float32(2), (n,))
    b.graph.nodes = []
    y = b("ReduceMean", b("Abs", big), b.const([0], INT))
    new = optimize(b.done(b("Add", b.input(1), y)))
    assert kinds(new) == {"Add": 1}


def test_types_are_inferred():
    b = Build()
    x = b.input("N", 3, 8, 8)
    y = b("Conv", x, b.random(4, 3, 3, 3), strides=(2, 2))
    z = b("Flatten", b("Relu", y))
    graph = b.done(z)
    infer_types(graph)
    assert graph.types[y] == TensorType(np.dtype(np.float32), (Sym("N"), 4, 3, 3))
    assert graph.types[z] == TensorType(np.dtype(np.float32), (Sym("N"), 36))


def test_dtypes_survive_sizes_that_are_not_known():
    b = Build()
    x = b.input("N", 3, "H", "W")
    y = b("Conv", x, b.random(4, 3, 3, 3), auto_pad="SAME_UPPER", strides=(2, 2))
    z = b("Conv", y, b.random(4, 4, 3, 3), auto_pad="SAME_UPPER")
    graph = b.done(b("Relu", b("Add", z, y)))
    infer_types(graph)
    assert graph.types[y].dtype == np.float32
    assert graph.types[y].shape[:2] == (Sym("N"), 4)
    assert kinds(optimize(graph)) == {"Conv": 1, "Conv+clip": 1}


@pytest.mark.parametrize("disable", [set(), {"fold-constants"}])
def test_an_error_names_the_node_and_the_shapes(disable):
    b = Build()
    y = b("Conv", b.input(1, 5, 8, 8), b.random(4, 3, 3, 3))
    with pytest.raises(ShapeError, match=r"'Conv_0' \(Conv\).*float32\[1, 5, 8, 8\]"):
        optimize(b.done(y), disable)


def test_an_error_in_folding_names_the_node():
    b = Build()
    y = b("Add", b.random(3), b.random(4))
    with pytest.raises(ShapeError, match=r"'Add_0' \(Add\).*float32\[3\], float32\[4\]"):
        optimize(b.done(b("Mul", b.input(4), y)))


def test_an_unknown_pass_cannot_be_left_out():
    b = Build()
    with pytest.raises(OptionError, match=r"no pass is named fuse-all; the passes are dead-code,"):
        optimize(b.done(b("Abs", b.input(1))), {"fuse-all"})


def test_every_pass_can_be_left_out():
    b = Build()
    x = b.input(1, 2, 4, 4)
    y = b("Conv", b("Identity", x), b.random(2, 2, 1, 1), b("Abs", b.random(2)))
    y = b("Mul", y, b("Sigmoid", y))
    graph = b.done(b("Add", b("Mul", y, b.random(2, 1, 1)), b.const(0)))
    for name, _ in PIPELINE:
        check(graph, disable={name})
    check(graph, list(kinds(graph).elements()), disable={n for n, _ in PIPELINE})


def test_a_broken_graph_is_refused():
    b = Build()
    b("Abs", "nowhere")
    b.graph.outputs = ["v0"]
    with pytest.raises(ModelError, match="nowhere"):
        optimize(b.graph)


def residual_block(b, x, **attrs):
    first = b("Relu", b("Conv", x, b.random(4, 4, 3, 3), **attrs))
    second = b("Conv", first, b.random(4, 4, 3, 3), **attrs)
    return b("Relu", b("Add", second, x))


@pytest.mark.parametrize("shape", [(None, 4, None, None), ("N", 4, "H", "W"), ("?", 4, "?", "?")])
@pytest.mark.parametrize("attrs", [{"pads": (1,) * 4}, {"auto_pad": "SAME_LOWER"}])
def test_a_conv_that_keeps_its_size_keeps_its_symbol(shape, attrs):
    b = Build()
    y = residual_block(b, b("Tanh", b.input(*shape)), **attrs)
    assert kinds(optimize(b.done(y))) == {"Tanh": 1, "Conv+clip": 2}


def downsampled(b, x, **attrs):
    attrs = {"kernel": 3, "strides": (2, 2), "pads": (1,) * 4} | attrs
    return b("Conv", x, b.random(4, 4, *(attrs.pop("kernel"),) * 2), **attrs)


@pytest.mark.parametrize("attrs", [{}, {"kernel": 1, "pads": (0,) * 4}, {"pads": (2, 2, 0, 0)}])
def test_branches_of_equal_geometry_have_equal_sizes(attrs):
    b = Build()
    x = b.input(None, 4, None, None)
    y = b("Add", downsampled(b, x), downsampled(b, x, **attrs))
    check(b.done(y), ["Conv", "Conv"], feeds={"x": np.ones((1, 4, 7, 8), np.float32)})


@pytest.mark.parametrize("attrs", [{}, {"auto_pad": "SAME_UPPER", "pads": None}])
def test_sizes_stay_comparable_however_deep_the_network(attrs):
    b = Build()
    x = b.input(None, 4, None, "width_of_the_image")
    for _ in range(12):
        x = b("Add", downsampled(b, x, **attrs), downsampled(b, x, **attrs))
    assert kinds(optimize(b.done(x))) == {"Conv": 24}


@pytest.mark.parametrize(
    "attrs",
    [{"kernel": 2, "pads": (0,) * 4}, {"strides": (1, 1)}, {"dilations": (2, 2)}, {"kernel": 1}],
)
def test_branches_of_other_geometry_have_other_sizes(attrs):
    b = Build()
    x = b.input(None, 4, None, None)
    y = b("Add", downsampled(b, x), downsampled(b, x, **attrs))
    assert kinds(optimize(b.done(y))) == {"Conv": 2, "Add": 1}


@pytest.mark.parametrize("shape", [(None, 4, None, None), ("?", 4, "?", "?")])
def test_sizes_of_two_inputs_are_not_taken_to_be_equal(shape):
    b = Build()
    x, r = b.input(*shape), b.input(*shape, name="r")
    y = b("Conv", x, b.random(4, 4, 1, 1))
    assert kinds(optimize(b.done(b("Add", y, r)))) == {"Conv": 1, "Add": 1}


@pytest.mark.parametrize("pads", [(0,) * 4, (1, 1, 0, 1), (2,) * 4])
def test_a_conv_that_changes_its_size_changes_its_symbol(pads):
    b = Build()
    x = b.input(1, 4, None, None)
    y = b("Conv", x, b.random(4, 4, 3, 3), pads=pads)
    assert kinds(optimize(b.done(b("Add", y, x)))) == {"Conv": 1, "Add": 1}


def test_a_broadcast_of_two_symbols_is_neither():
    b = Build()
    x = b.input(1, 4, "H", "W")
    y = b("Conv", x, b.random(4, 4, 1, 1))
    wide = b("Mul", x, b.input(1, 4, "I", "W", name="r"))  # H may be 1 where I is not
    assert kinds(optimize(b.done(b("Add", y, wide)))) == {"Conv": 1, "Mul": 1, "Add": 1}


def test_names_that_passes_give_to_sizes_do_not_show():
    b = Build()
    x = b.input(None, 4, None, "W")
    graph = b.done(b("Relu", b("Conv", x, b.random(4, 4, 1, 1))))
    new = optimize(graph)
    infer_types(graph)
    for g in (graph, new):
        assert g.types["x"].shape == (None, 4, None, Sym("W"))
        assert g.types["v1"].shape == (None, 4, None, Sym("W"))


def test_bundled_lenet_computes_the_same():
    model = Path(__file__).parent.parent / "models" / "lenet5.onnx"
    graph = build_graph(open_model(model))
    new = check(graph, feeds=feeds_for(graph))
    assert kinds(new)["Relu"] == 0
    assert len(new.nodes) < len(graph.nodes)
    assert {s for n in new.nodes for s in n.sources or (n.name,)} == {n.name for n in graph.nodes}
