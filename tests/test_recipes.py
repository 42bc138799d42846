"""What planning keeps of a node (``plan.recipes``): plans are as they are without it."""

import random

import numpy as np
import pytest
from harness import ISAS
from random_graphs import network

import fastconv
from fastconv.errors import FastconvError
from fastconv.graph import Graph, Node, Sym, TensorType
from fastconv.graph.activation import Activation
from fastconv.graph.ops.activations import Clip, LeakyRelu, Relu, Sigmoid
from fastconv.graph.ops.binary import Add, Mul
from fastconv.graph.ops.conv import Conv
from fastconv.graph.ops.logic import Identity
from fastconv.graph.ops.matmul import MatMul
from fastconv.graph.ops.move import Pad, Transpose
from fastconv.graph.ops.norm import LayerNormalization
from fastconv.graph.ops.pool import GlobalAveragePool
from fastconv.graph.ops.resize import Resize
from fastconv.graph.ops.shape import Flatten, Reshape
from fastconv.plan import PackCache, make_plan
from fastconv.plan.choice import Choices
from fastconv.plan.memory import CONST
from fastconv.plan.recipes import MOST_CHOICES, MOST_RECIPES, Recipes, follow
from fastconv.runtime.engine import Engine

F32 = np.dtype(np.float32)


def described(plan):
    """A plan's steps, with the contents of constants in place of their addresses."""
    steps = []
    for step, entry in zip(plan.steps, plan.entries, strict=True):
        places = []
        for place, ref in zip(step.places, entry[2], strict=False):
            shown = ref
            if place is not None and place.buffer.kind == CONST:
                shown = CONST, place.start, place.buffer.array.tobytes()
            form = place and (place.shape, place.dtype, place.layout, place.pixel, place.channels)
            places.append((shown, form))
        params = repr(dict(step.params))
        steps.append((step.kernel, str(step.node), params, entry[1], places, entry[3], step.macs))
    return plan.arena_size, plan.externals, steps


def planned(graph, types, packs, threads=1, isa=None, recipes=True):
    """A plan; ``recipes=False`` lowers every node for itself, as when choices are traced."""
    choices = None if recipes else Choices(trace=[])
    return make_plan(graph, types, threads, packs, isa=isa, choices=choices)


@pytest.fixture
def followed(monkeypatch):
    """The names of the nodes whose steps came by a recipe."""
    names = []

    def note(low, kind, recipe, *found, **more):
        done = follow(low, kind, recipe, *found, **more)
        if done:
            names.append(kind.node.name)
        return done

    monkeypatch.setattr("fastconv.plan.recipes.follow", note)
    return names


@pytest.mark.parametrize("chunk", range(8))
def test_random_networks_have_the_plans_that_they_have_without_recipes(chunk, followed):
    for seed in range(12 * chunk, 12 * chunk + 12):
        draw = random.Random(seed)
        net = network(draw)
        threads, isa = draw.choice([1, 2, 3]), draw.choice(ISAS)
        graph = fastconv.load(net.model.SerializeToString()).graph
        types = {n: TensorType(net.feeds[n].dtype, net.feeds[n].shape) for n in graph.inputs}
        want = described(planned(graph, types, PackCache(), threads, isa, recipes=False))
        packs = PackCache()
        for _ in range(4):
            assert described(planned(graph, types, packs, threads, isa)) == want, f"seed {seed}"
    assert followed


def blocks(rng, count, activation=None):
    """Residual blocks of equal sizes with a gate each, over an image of any size."""
    nodes, consts, name = [], {}, "x"

    def conv(x, out, shape, **attributes):
        consts[f"w_{out}"] = rng.standard_normal(shape).astype(np.float32)
        consts[f"b_{out}"] = rng.standard_normal(shape[0]).astype(np.float32)
        op = Conv(kernel_shape=shape[2:], activation=activation, **attributes)
        nodes.append(Node(op, [x, f"w_{out}", f"b_{out}"], [out], out))

    for k in range(count):
        conv(name, f"a{k}", (24, 24, 3, 3), pads=(1, 1, 1, 1))
        conv(f"a{k}", f"d{k}", (24, 1, 3, 3), pads=(1, 1, 1, 1), group=24)
        nodes.append(Node(GlobalAveragePool(), [f"d{k}"], [f"p{k}"], f"p{k}"))
        conv(f"p{k}", f"s{k}", (24, 24, 1, 1))
        nodes.append(Node(Mul(), [f"d{k}", f"s{k}"], [f"m{k}"], f"m{k}"))
        nodes.append(Node(Add(), [name, f"m{k}"], [f"y{k}"], f"y{k}"))
        name = f"y{k}"
    types = {"x": TensorType(F32, (1, 24, Sym("H"), Sym("W")))}
    return Graph("blocks", nodes, ["x"], [name], consts, types)


def image(h, w):
    return {"x": TensorType(F32, (1, 24, h, w))}


def test_layers_that_repeat_are_lowered_once_per_plan_with_their_own_weights(followed):
    graph = blocks(np.random.default_rng(0), 4)
    packs = PackCache()
    planned(graph, image(20, 13), packs)  # packs the weights
    followed.clear()
    plan = planned(graph, image(20, 12), packs)
    assert {"a2", "a3", "d2", "d3"} <= set(followed)
    assert described(plan) == described(planned(graph, image(20, 12), packs, recipes=False))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("batch", [1, 2])
def test_sizes_that_move_to_other_axes_are_followed_too(isa, batch, followed):
    """As in a block that normalises its channels, last."""
    rng = np.random.default_rng(0)
    nodes = [
        Node(Relu(), ["x"], ["r"], "r"),
        Node(Transpose(perm=(0, 2, 3, 1)), ["r"], ["t"], "t"),
        Node(Sigmoid(), ["t"], ["s"], "s"),
        Node(LayerNormalization(axis=-1), ["s", "g"], ["n"], "n"),
        Node(MatMul(), ["n", "w"], ["m"], "m"),
        Node(Transpose(perm=(0, 3, 1, 2)), ["m"], ["y"], "y"),
    ]
    consts = {"g": rng.standard_normal(6), "w": rng.standard_normal((6, 5))}
    consts = {name: a.astype(np.float32) for name, a in consts.items()}
    types = {"x": TensorType(F32, (Sym("N"), 6, Sym("H"), Sym("W")))}
    graph = Graph("nhwc", nodes, ["x"], ["y"], consts, types)
    engine = Engine(graph, 1, isa=isa)
    for size in ((9, 7), (30, 20), (50, 20), (60, 40), (5, 6), (9, 40), (33, 31)):
        x = rng.standard_normal((batch, 6, *size)).astype(np.float32)
        fresh = Engine(graph, 1, isa=isa).run({"x": x})["y"]
        assert engine.run({"x": x})["y"].tobytes() == fresh.tobytes(), size
    assert followed


def test_what_does_not_depend_on_the_image_is_not_lowered_again(followed):
    graph = blocks(np.random.default_rng(0), 1)
    packs = PackCache()
    for size in (8, 9, 10):
        planned(graph, image(size, size), packs)
    followed.clear()
    planned(graph, image(31, 17), packs)
    assert "s0" in followed


@pytest.mark.parametrize("isa", ISAS)
def test_weights_that_are_not_finite_are_not_taken_for_finite_ones(isa):
    graph = blocks(np.random.default_rng(1), 5)
    graph.consts["w_a1"][0, 0, 0, 0] = np.nan
    packs = PackCache()
    for size in (8, 40, 8, 40, 8, 40, 40):
        want = described(planned(graph, image(size, size), PackCache(), isa=isa, recipes=False))
        assert described(planned(graph, image(size, size), packs, isa=isa)) == want


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (LeakyRelu(alpha=0.0), LeakyRelu(alpha=-0.0)),
        tuple(Conv(activation=Activation("leaky_relu", a)) for a in (0.0, -0.0)),
        (Conv(group=1), Conv(group=2)),
        (Resize(extrapolation_value=0.0), Resize(extrapolation_value=-0.0)),
    ],
)  # fmt: skip
def test_operators_that_are_written_differently_are_of_different_kinds(one, other):
    nodes = [Node(op, ["x"], [f"y{k}"], f"n{k}") for k, op in enumerate((one, other, one))]
    recipes = Recipes(Graph("g", nodes, ["x"], ["y0", "y1", "y2"]), Choices())
    first, second, third = (recipes.kind(n).number for n in nodes)
    assert first == third != second


def test_constants_whose_values_count_keep_nodes_apart():
    consts = {f"hi{k}": np.float32(v) for k, v in enumerate((1.0, 2.0))}
    nodes = [Node(Clip(), ["x", "", f"hi{k}"], [f"y{k}"], f"n{k}") for k in range(2)]
    types = {"x": TensorType(F32, (2, Sym("N")))}
    graph = Graph("clips", nodes, ["x"], ["y0", "y1"], consts, types)
    engine = Engine(graph, 1)
    for n in (3, 4, 5, 3, 4, 3, 4):
        outs = engine.run({"x": np.full((2, n), 9, np.float32)})
        assert (outs["y0"] == 1).all()
        assert (outs["y1"] == 2).all()


def test_any_sequence_of_shapes_gives_the_results_of_a_fresh_engine():
    rng = np.random.default_rng(2)
    graph = blocks(rng, 3, Activation("clip", 0.0, 6.0))
    engine = Engine(graph, 2)
    for h, w in [(8, 8), (33, 20), (1, 64), (33, 20), (20, 33), (64, 64), (5, 7)]:
        x = rng.standard_normal((1, 24, h, w)).astype(np.float32)
        got = engine.run({"x": x})["y2"]
        assert got.tobytes() == Engine(graph, 2).run({"x": x})["y2"].tobytes()


def same_as_without(nodes, consts, inputs, outputs):
    """Whether a graph's plans, made again and again, are as they are without recipes."""
    types = {n: TensorType(F32, (1, 16, 5, Sym("W"))) for n in inputs}
    graph = Graph("g", nodes, inputs, outputs, consts, types)
    packs = PackCache()
    for width in (5, 6, 5, 7):
        given = {n: TensorType(F32, (1, 16, 5, width)) for n in inputs}
        want = described(planned(graph, given, PackCache(), recipes=False))
        for _ in range(2):
            assert described(planned(graph, given, packs)) == want


def pooled(x, name):
    return Node(GlobalAveragePool(), [x], [name], name)


def test_a_layout_that_an_input_gets_later_is_not_asked_for():
    nodes = []
    for k in range(3):
        nodes += [
            pooled(f"x{k}", f"p{k}"),
            Node(Identity(), [f"p{k}"], [f"i{k}"], f"i{k}"),
            Node(Flatten(), [f"p{k}"], [f"f{k}"], f"f{k}"),  # p is plain, too, from here on
            Node(LeakyRelu(), [f"i{k}"], [f"y{k}"], f"y{k}"),
            Node(LeakyRelu(), [f"f{k}"], [f"z{k}"], f"z{k}"),
        ]
    outputs = [f"{n}{k}" for k in range(3) for n in "yz"]
    same_as_without(nodes, {}, ["x0", "x1", "x2"], outputs)


def test_inputs_that_share_memory_are_not_taken_for_ones_that_do_not():
    rng = np.random.default_rng(3)
    w = rng.standard_normal((16, 16, 1, 1)).astype(np.float32)
    consts = {"w": w, "shape": np.int64([1, 16, 1, 1])}
    nodes, outputs = [], []
    for k, other in enumerate(["x0", "x1", "x0", "x1"]):
        nodes += [pooled("x0", f"p{k}"), Node(Flatten(), [f"p{k}"], [f"f{k}"], f"f{k}")]
        added = f"f{k}"
        if other == "x1":
            nodes += [pooled("x1", f"o{k}"), Node(Flatten(), [f"o{k}"], [f"g{k}"], f"g{k}")]
            nodes.append(Node(LeakyRelu(), [f"f{k}"], [f"r{k}"], f"r{k}"))
            outputs.append(f"r{k}")
            added = f"g{k}"
        nodes.append(Node(Reshape(), [added, "shape"], [f"a{k}"], f"a{k}"))
        # Its residual is the memory of its input, or that of another value.
        nodes.append(Node(Conv(), [f"p{k}", "w", "", f"a{k}"], [f"c{k}"], f"c{k}"))
        nodes.append(Node(LeakyRelu(), [f"c{k}"], [f"y{k}"], f"y{k}"))
        outputs.append(f"y{k}")
    same_as_without(nodes, consts, ["x0", "x1"], outputs)


@pytest.mark.parametrize(("isa", "threads"), [(isa, t) for isa in ISAS for t in (1, 2)])
def test_plans_of_any_sizes_are_as_they_are_without_recipes(isa, threads):
    rng = np.random.default_rng(4)
    graph = blocks(rng, 2, Activation("clip", 0.0, 6.0))
    packs = PackCache()
    draw = random.Random(5)
    for _ in range(16):
        types = image(draw.randint(1, 90), draw.randint(1, 90))
        want = described(planned(graph, types, packs, threads, isa, recipes=False))
        assert described(planned(graph, types, packs, threads, isa)) == want


def test_new_sizes_are_planned_without_lowering_a_node_again(followed):
    graph = blocks(np.random.default_rng(6), 2)
    packs = PackCache()
    for size in range(40, 64, 4):
        planned(graph, image(size, size + 8), packs, isa=ISAS[0])
    followed.clear()
    planned(graph, image(53, 59), packs, isa=ISAS[0])
    assert {n.name for n in graph.nodes if type(n.op) is Conv} <= set(followed)


def test_what_is_kept_of_a_graph_is_bounded():
    graph = blocks(np.random.default_rng(7), 1)
    packs = PackCache()
    draw = random.Random(8)
    for _ in range(120):
        planned(graph, image(draw.randint(1, 300), draw.randint(1, 300)), packs)
    (recipes,) = (r for r in packs.recipes.values() if isinstance(r, Recipes))
    assert max(map(len, recipes._traced.values())) <= MOST_CHOICES
    assert len(recipes._traced) + len(recipes._recipes) <= 2 * MOST_RECIPES


def test_tables_that_a_recipe_makes_have_the_shapes_of_their_sizes():
    """Positions and weights for an image of another size are more of them, or fewer."""
    consts = {
        "scales": np.float32([1, 1, 2, 1.5]), "pads": np.int64([0, 0, 1, 2, 0, 0, 0, 1]),
    }  # fmt: skip
    nodes = [
        Node(Resize(mode="linear"), ["x", "", "scales"], ["r"], "r"),
        Node(Resize(mode="nearest"), ["r", "", "scales"], ["s"], "s"),
        Node(Pad(mode="reflect"), ["s", "pads"], ["y"], "y"),
    ]
    same_as_without(nodes, consts, ["x"], ["y"])


def test_a_size_that_no_tape_can_hold_is_refused_as_without_recipes():
    graph = blocks(np.random.default_rng(9), 1)
    packs = PackCache()
    for size in (8, 9, 10):
        planned(graph, image(size, size), packs)
    for sizes in ((1 << 63, 8), (8, 1 << 64), (1 << 62, 1 << 62)):
        with pytest.raises(FastconvError):
            planned(graph, image(*sizes), packs)
