"""``fastconv verify`` finds what is broken: a node, a kernel, a fusion, a pass, or the plan."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from cli_tools import LENET
from passes_harness import Build, feeds_for, interpret

import fastconv
from fastconv import compare, kernels, locate, passes
from fastconv.cli import main
from fastconv.graph.activation import Activation
from fastconv.graph.ops.conv import Conv
from fastconv.graph.ops.pool import MaxPool
from fastconv.passes import Budget, composites, epilogue, optimize
from fastconv.passes.match import P, Replacement, Rule
from fastconv.plan.lower import LOWER
from fastconv.plan.lower.pool import AVERAGE
from fastconv.plan.memory import PLAIN


@pytest.fixture
def found(capsys):
    """What ``fastconv verify`` finds in LeNet: (lines of text, the same as JSON)."""

    def run():
        args = ["verify", LENET, "--against", "reference"]
        assert main(args) == 1
        text = capsys.readouterr().out
        assert main([*args, "--json"]) == 1
        return text, json.loads(capsys.readouterr().out)["first_difference"]

    return run


def other_kind(m):
    """The activation of a node becomes another one: a fusion that is wrong."""
    node = m.nodes["p"]
    if not epilogue.takes_activation(node.op) or node.name != "c3":
        return None
    op = dataclasses.replace(node.op, activation=Activation("leaky_relu", 0.5))
    return Replacement(op, node.inputs, node)


WRONG_FUSION = Rule("wrong activation", P("Relu", P("Conv", bind="p", rest=True)), other_kind)


def test_a_wrong_fusion_is_named_with_its_pass_and_nodes(found, monkeypatch):
    monkeypatch.setattr(epilogue, "EPILOGUES", [WRONG_FUSION, *epilogue.EPILOGUES])
    text, where = found()
    assert "only the optimised graph differs" in text
    assert "first layer that differs: 'c3' (Conv), made of c3, c3.relu" in text
    assert "fusion 'wrong activation' of pass 'epilogues' on 'c3', 'c3.relu'" in text
    assert "agrees without any one of these passes: epilogues" in text
    assert "its NumPy form differs on the same values too" in text
    assert where["change"] == {
        "stage": "epilogues", "rule": "wrong activation", "nodes": ["c3", "c3.relu"],
    }  # fmt: skip
    assert where["passes"] == ["epilogues"]
    assert where["sources"] == ["c3", "c3.relu"]


def test_of_two_wrong_fusions_the_first_is_named(found, monkeypatch):
    monkeypatch.setattr(epilogue, "EPILOGUES", [WRONG_FUSION, *epilogue.EPILOGUES])
    drop = Rule("drop", P("Relu", "x", where=lambda n: n.name == "f6.relu"), lambda m: m["x"])
    monkeypatch.setattr(composites, "COMPOSITES", [drop, *composites.COMPOSITES])
    text, where = found()
    assert "first layer that differs: 'c3'" in text
    assert (where["change"]["stage"], where["change"]["rule"]) == ("composites", "drop")
    assert where["passes"] == []  # without either of them the other still spoils the result


def test_a_pass_without_rules_is_named(found, monkeypatch):
    def spoil(graph):
        name = next(n.inputs[1] for n in graph.nodes if n.name == "c3")
        graph.consts[name] = graph.consts[name] * np.float32(1.1)
        return graph

    monkeypatch.setattr(passes, "PIPELINE", [*passes.PIPELINE, ("spoil", spoil)])
    text, where = found()
    assert "first change that makes a difference: pass 'spoil'\n" in text
    assert where["change"] == {"stage": "spoil", "rule": "", "nodes": []}
    assert where["layer"] == "c3"
    assert where["passes"] == ["spoil"]


def test_a_wrong_kernel_is_told_from_a_wrong_operator(found, monkeypatch):
    """Max pools that average: the kernel's parameters are packed wrongly."""
    table = kernels.table(kernels.chosen_isa())
    right = table["pool"]
    wrong = right._replace(pack=lambda **given: right.pack(**{**given, "kind": AVERAGE}))
    monkeypatch.setitem(table, "pool", wrong)
    text, where = found()
    assert "first node that differs: 'c1.pool' (MaxPool): value 'c1.pool_out' differs by" in text
    assert "its NumPy form agrees on the same values: its kernels are to blame (" in text
    assert "pool" in where["trial"]["kernels"]
    assert where["optimized_only"] is False
    assert where["trial"]["numpy"] is None
    assert where["trial"]["planned"]["relative"] > 0.01


def test_a_kernel_wrong_only_when_fused_is_found_through_the_fusion(found, monkeypatch):
    """The convolution forgets the activation that a fusion gave it."""
    right = LOWER[Conv]

    def forget(low, node):
        forgetful = dataclasses.replace(node.op, activation=None)
        return right(low, dataclasses.replace(node, op=forgetful))

    monkeypatch.setitem(LOWER, Conv, forget)
    text, where = found()
    assert where["optimized_only"] is True
    assert (where["layer"], where["sources"]) == ("c1", ["c1", "c1.relu"])
    assert where["change"]["rule"] == "activation into its producer"
    assert where["change"]["nodes"] == ["c1", "c1.relu"]
    assert "its NumPy form agrees on the same values: its kernels are to blame" in text


def test_a_plan_wrong_only_where_a_value_is_not_kept(found, monkeypatch):
    right = LOWER[MaxPool]

    def spoiled(low, node):
        if node.name != "c3.pool" or node.outputs[0] in low.outputs:
            return right(low, node)
        ins, outs = [low.place(node.inputs[0], PLAIN)], [low.new(node.outputs[0], PLAIN)]
        low.python_step("spoiled", lambda xs: [node.op.compute(xs)[0] * 2], ins, outs)
        return None

    monkeypatch.setitem(LOWER, MaxPool, spoiled)
    text, where = found()
    assert "with every value inside kept nothing differs: the plan is to blame" in text
    assert where["node"] == "flatten"  # the first value after the pool that can be looked at alone
    assert where["optimized_only"] is False


def test_an_operator_without_a_kernel_that_computes_something_else(found, monkeypatch):
    compute = MaxPool.compute
    monkeypatch.delitem(LOWER, MaxPool)
    monkeypatch.setattr(MaxPool, "compute", lambda self, xs: [compute(self, xs)[0] * 2])
    text, where = found()
    assert where["node"] == "c1.pool"
    assert "its NumPy form differs on the same values too" in text
    assert where["trial"]["kernels"] == ["numpy:MaxPool"]


def test_passes_left_out_at_load_stay_left_out(monkeypatch):
    monkeypatch.setattr(epilogue, "EPILOGUES", [WRONG_FUSION, *epilogue.EPILOGUES])
    feeds = {"input": np.random.default_rng(0).normal(size=(1, 1, 28, 28)).astype(np.float32)}
    model = fastconv.load(LENET, disable=["no-ops", "affine"])
    where = locate.locate(model, LENET, feeds, compare.Reference(), 1e-4)
    assert where.passes == ("epilogues",)
    assert where.change.rule == "wrong activation"


def test_when_nothing_differs_nothing_is_blamed():
    feeds = {"input": np.zeros((1, 1, 28, 28), np.float32)}
    where = locate.locate(fastconv.load(LENET), LENET, feeds, compare.Reference(), 1e-3)
    assert where == locate.Location(note="no value differs when the model is run again")


@pytest.mark.parametrize("wrong", range(-1, 12))
@pytest.mark.parametrize("n", [0, 1, 2, 7, 12])
def test_halving_finds_the_first(n, wrong):
    first = wrong if 0 <= wrong < n else None
    assert locate.first_true(n, lambda k: first is not None and k >= first) == first


def chain():
    """Two convolutions with batch normalisation, hard-swish written out, and a residual sum."""
    b = Build(3)
    x = b.input(1, 4, 5, 5)
    stats = [b.random(4) for _ in range(3)] + [b.const(np.ones(4))]
    y = b("BatchNormalization", b("Conv", x, b.random(4, 4, 3, 3), pads=(1,) * 4), *stats)
    y = b("Clip", b("Add", y, b.const(3)), b.const(0), b.const(6))
    y = b("Identity", b("Div", y, b.const(6)))
    z = b("Conv", b("Relu", y), b.random(4, 4, 1, 1))
    return b.done(b("Relu", b("Add", z, x)))


def test_every_part_of_the_changes_computes_the_same():
    graph = chain()
    every = Budget()
    whole = optimize(graph, budget=every)
    assert {c.stage for c in every.changes} == {name for name, _ in passes.PIPELINE}
    assert len([c for c in every.changes if c.rule]) > 4
    assert all(c.nodes for c in every.changes if c.rule)
    wanted = interpret(graph, feeds_for(graph))
    sizes = []
    for limit in range(len(every.changes) + 1):
        budget = Budget(limit)
        part = optimize(graph, budget=budget)
        assert budget.changes == every.changes[:limit]
        sizes.append(len(part.nodes))
        got = interpret(part, feeds_for(graph))
        np.testing.assert_allclose(got[0], wanted[0], rtol=1e-4, atol=1e-4)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == len(graph.nodes)
    assert sizes[-1] == len(whole.nodes) == len(optimize(graph).nodes)


def test_a_budget_is_spent_by_its_own_passes_alone():
    budget = Budget(0)
    optimize(chain(), budget=budget)
    assert budget.changes == []
    assert len(optimize(chain()).nodes) < len(chain().nodes)


def branch():
    """An If whose taken branch holds a convolution and a Relu."""
    import onnx
    from onnx import helper, numpy_helper

    def value(name, shape=None):
        return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)

    then = [helper.make_node("Conv", ["x", "w"], ["c"], name="c3", pads=[1] * 4),
            helper.make_node("Relu", ["c"], ["t"], name="relu")]  # fmt: skip
    otherwise = [helper.make_node("Neg", ["x"], ["e"])]
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=0),
        helper.make_node("Greater", ["mean", "low"], ["yes"]),
        helper.make_node(
            "If", ["yes"], ["y"], name="if",
            then_branch=helper.make_graph(then, "then", [], [value("t")]),
            else_branch=helper.make_graph(otherwise, "else", [], [value("e")]),
        ),
    ]  # fmt: skip
    w = np.random.default_rng(0).normal(size=(3, 3, 3, 3)).astype(np.float32)
    consts = {"w": w, "low": np.float32(-100)}
    inits = [numpy_helper.from_array(np.asarray(a), n) for n, a in consts.items()]
    graph = helper.make_graph(nodes, "g", [value("x", [1, 3, 6, 6])], [value("y")], inits)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_wrong_fusion_in_a_branch_is_named(tmp_path, monkeypatch):
    path = tmp_path / "branch.onnx"
    path.write_bytes(branch().SerializeToString())
    monkeypatch.setattr(epilogue, "EPILOGUES", [WRONG_FUSION, *epilogue.EPILOGUES])
    feeds = {"x": np.random.default_rng(1).normal(size=(1, 3, 6, 6)).astype(np.float32)}
    where = locate.locate(fastconv.load(str(path)), str(path), feeds, compare.Reference(), 1e-4)
    assert where.layer == "if"
    assert where.change == passes.Change("epilogues", "wrong activation", ("c3", "relu"))
    assert where.passes == ("epilogues",)
