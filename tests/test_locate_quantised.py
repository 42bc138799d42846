"""``fastconv verify`` on quantised models: ties are no faults, and faults are found among them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import fastconv
from fastconv import compare, locate
from fastconv.graph.ops.quant import QuantizeLinear
from fastconv.locate import quantised
from fastconv.passes import quant
from fastconv.plan.lower import LOWER

QUANTISED = "quantised"


def qdq(dtype, blocks=3):
    """Convolutions with Relu and a residual sum in QDQ form, of activations of ``dtype``."""
    rng, zero = np.random.default_rng(0), np.array(128 if dtype == np.uint8 else 0, dtype)
    consts = {"s": np.float32(0.05), "z": zero}
    nodes = []

    def node(op, inputs, output, **attributes):
        nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def quantised(x):
        return node("DequantizeLinear", [node("QuantizeLinear", [x, "s", "z"], f"{x}.q"), "s", "z"],
                    f"{x}.d")  # fmt: skip

    before = x = quantised("x")
    for k in range(blocks):
        consts[f"w{k}"] = rng.integers(-127, 128, (4, 4, 3, 3)).astype(np.int8)
        consts[f"ws{k}"] = np.float32(0.002)
        w = node("DequantizeLinear", [f"w{k}", f"ws{k}"], f"wd{k}")
        before, y = x, node("Conv", [x, w], f"conv{k}", pads=[1] * 4)
        x = quantised(node("Relu", [y], f"relu{k}") if k < blocks - 1 else y)
    x = node("QuantizeLinear", [node("Add", [x, before], "sum"), "s", "z"], "y")
    code = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        nodes, "qdq",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 9, 9])],
        [helper.make_tensor_value_info("y", code, [1, 4, 9, 9])],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in consts.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


FEEDS = {"x": np.random.default_rng(1).normal(size=(1, 4, 9, 9)).astype(np.float32)}


class Altered(compare.Reference):
    """The reference, whose output ``y`` is changed in its first elements."""

    def __init__(self, elements=0, by=0):
        self.elements, self.by = elements, by

    def run_proto(self, path, model, feeds):
        found = super().run_proto(path, model, feeds)
        y = found["y"].reshape(-1)
        y[: self.elements] = (y[: self.elements].astype(np.int64) + self.by).astype(y.dtype)
        return found


@pytest.fixture(params=[np.uint8, np.int8], ids=["uint8", "int8"])
def search(request, tmp_path):
    """Locates the first difference from an engine in a model of quantised convolutions."""
    path = str(tmp_path / "qdq.onnx")
    onnx.save(qdq(request.param), path)

    def run(other=None):
        return locate.locate(fastconv.load(path), path, FEEDS, other or Altered(), 1e-4)

    return run


@pytest.mark.parametrize("elements", [0, 1, 3])
def test_ties_of_a_few_elements_are_no_fault(search, elements):
    where = search(Altered(elements, 1))
    assert (where.node, where.layer, where.change) == (None, None, None)
    assert "roundings add up" in where.note


def test_what_could_not_be_judged_is_said(search, monkeypatch):
    class Refusing(quantised.Engine):
        def __init__(self, graph, *more, **options):
            if any(n.name.startswith("conv1") for n in graph.nodes):
                raise fastconv.ShapeError("no such plan")
            super().__init__(graph, *more, **options)

    assert "could not be judged" not in search().note
    monkeypatch.setattr(quantised, "Engine", Refusing)
    note = search().note
    assert "could not be judged" in note
    assert "'conv1': no such plan" in note


@pytest.mark.parametrize(("elements", "by"), [(1, 2), (40, 1)], ids=["two steps", "many elements"])
def test_more_than_a_tie_is_a_node_that_differs(search, elements, by):
    where = search(Altered(elements, by))
    assert (where.node, where.op, where.difference.absolute) == ("y", "QuantizeLinear", by)
    assert where.optimized_only is False


def test_a_wrong_quantiser_is_named(search, monkeypatch):
    compute = QuantizeLinear.compute
    monkeypatch.delitem(LOWER, QuantizeLinear)
    monkeypatch.setattr(QuantizeLinear, "compute", lambda self, xs: [compute(self, xs)[0] // 2])
    assert search().node == "x.q"


def test_a_wrong_quantised_fusion_is_named_with_its_pass(search, monkeypatch):
    right = quant.RULES["Conv"]

    def rolled(groups, node):
        made = right(groups, node)
        if made and node.name == "conv1":
            weights = groups.graph.consts[made[1][3]]
            made[1][3] = groups.const("rolled", np.roll(weights, 1, 0))
        return made

    monkeypatch.setitem(quant.RULES, "Conv", rolled)
    where = search()
    assert where.optimized_only is True
    assert (where.layer, where.op) == ("conv1", "QLinearConv")
    assert where.passes == (QUANTISED,)
    assert where.change.stage == QUANTISED
    assert where.change.rule == "Conv on quantised numbers"
    assert "conv1" in where.change.nodes
    assert where.trial.planned is not None


def test_a_wrong_residual_is_told_from_its_convolution(search, monkeypatch):
    right = quant.fuse_residuals

    def shifted(graph):
        right(graph)
        for node in graph.nodes:
            if len(node.inputs) > 9:
                zero = graph.consts[node.inputs[11]]
                graph.consts["shifted"] = (zero + 9).astype(zero.dtype)
                node.inputs[11] = "shifted"

    monkeypatch.setattr(quant, "fuse_residuals", shifted)
    where = search()
    assert (where.layer, where.op) == ("conv2", "QLinearConv")
    assert where.change.rule == "residual into its convolution"
    assert {"conv2", "sum"} <= set(where.change.nodes)
