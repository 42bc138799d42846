"""If, Loop, Scan and SequenceMap, and sequences and optional values, run by the engine itself."""

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastconv
from fastconv import InputError, MemoryLimitError, ModelError
from fastconv.graph.ops.control import Control, evaluate


def model(text):
    m = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 17]>\n{text}')
    onnx.checker.check_model(m)
    return m.SerializeToString()


def load(text, **options):
    return fastconv.load(model(text), threads=1, fallback="error", **options)


def same_as_onnxruntime(text, **feeds):
    """Run natively and compare with onnxruntime; returns the outputs."""
    got = load(text).run(feeds)
    session = onnxruntime.InferenceSession(model(text), providers=["CPUExecutionProvider"])
    for g, e in zip(got.values(), session.run(None, feeds), strict=True):
        assert type(g) is type(e)
        for a, b in zip(g, e, strict=True) if isinstance(g, list) else [(g, e)]:
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    return got


X = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)

CHOICE = """
g (float[2,3,4] x, bool c) => (float[2,3,4] y) {
    t = Neg (x)
    r = If (c) <
        then_branch = one () => (float[2,3,4] a) { b = Relu (t)  a = Add (b, x) },
        else_branch = two () => (float[2,3,4] d) { d = Mul (t, t) }
    >
    y = Sub (r, t)
}"""


@pytest.mark.parametrize("condition", [True, False])
def test_a_branch_reads_values_of_the_graph_around_it(condition):
    same_as_onnxruntime(CHOICE, x=X, c=np.array(condition))


def test_a_condition_of_several_elements_is_an_error():
    text = CHOICE.replace("bool c", "bool[n] c")
    with pytest.raises(InputError, match=r"one element, not shape \[2\]"):
        load(text).run({"x": X, "c": np.array([True, False])})


BY_SHAPE = """
g (float[n,c] x) => (float[k] y) {
    s = Shape (x)
    zero = Constant <value_ints = [0]> ()
    one = Constant <value = int64[1] {1}> ()
    n = Gather (s, zero)
    c = Equal (n, one)
    y = If (c) <
        then_branch = one () => (float[k] a) { a = Squeeze (x, zero) },
        else_branch = two () => (float[k] d) { w = Constant <value_floats = [1.0, 2.0, 3.0]> ()
                                              m = Mul (x, w)  d = ReduceMax <keepdims = 0> (m) }
    >
}"""


@pytest.mark.parametrize("rows", [1, 2])
def test_an_if_that_asks_for_a_shape_is_decided_when_the_plan_is_made(rows):
    m = load(BY_SHAPE)
    x = np.arange(3 * rows, dtype=np.float32).reshape(rows, 3)
    plan = m.prepare({"x": x.shape}).plan
    assert plan.rest is None
    assert not plan.eager
    expected = x[0] if rows == 1 else (x * [1, 2, 3]).max()
    np.testing.assert_array_equal(m(x), expected)


def test_weights_of_one_name_in_both_branches_are_kept_apart():
    text = BY_SHAPE.replace("float[k] y", "float[k,m] y")
    text = (
        text[: text.index("then_branch")]
        + """
        then_branch = one () => (float[k,m] a) {
            w = Constant <value = float[3,2] {1, 2, 3, 4, 5, 6}> ()  a = MatMul (x, w) },
        else_branch = two () => (float[k,m] a) {
            w = Constant <value = float[3,3] {1, 0, 0, 0, 5, 0, 0, 0, 9}> ()  a = MatMul (x, w) }
    >
}"""
    )
    m = load(text)
    weights = np.arange(1, 7, dtype=np.float32).reshape(3, 2), np.diag(np.float32([1, 5, 9]))
    for rows in (1, 2, 1, 3):
        x = np.arange(3 * rows, dtype=np.float32).reshape(rows, 3)
        np.testing.assert_array_equal(m(x), x @ weights[rows > 1])


def test_the_branch_that_does_not_run_may_be_impossible():
    text = BY_SHAPE.replace("Squeeze (x, zero)", "Reshape (x, c7)  ").replace(
        "then_branch = one () => (float[k] a) {",
        "then_branch = one () => (float[k] a) { c7 = Constant <value_ints = [7]> ()",
    ).replace("float[n,c] x", "float[2,3] x")  # fmt: skip
    m = load(text)
    assert m(np.arange(6, dtype=np.float32).reshape(2, 3)) == 15


def test_a_branch_may_give_a_captured_value_a_constant_or_one_value_twice():
    text = """
    g (float[2] x) => (float[2] p, float[1] q, float[2] r, float[2] s) {
        n = Shape (x)
        two = Constant <value = int64[1] {2}> ()
        c = Equal (n, two)
        p, q, r, s = If (c) <
            then_branch = one () => (float[2] x, float[1] k, float[2] e, float[2] e)
                { k = Constant <value_floats = [7.0]> ()  e = Exp (x) },
            else_branch = two () => (float[2] x, float[1] l, float[2] x, float[2] x)
                { l = Constant <value_floats = [8.0]> () }
        >
    }"""
    x = np.float32([0, 1])
    m = fastconv.load(
        onnx.parser.parse_model(
            f'<ir_version: 9, opset_import: ["" : 17]>\n{text}'
        ).SerializeToString(),
        fallback="error",
    )
    got = m.run({"x": x})
    for name, expected in {"p": x, "q": [7], "r": np.exp(x), "s": np.exp(x)}.items():
        np.testing.assert_allclose(got[name], expected, rtol=1e-6)
    assert got["r"] is not got["s"]


LOOP = """
g (int64 n, bool go, float[2] x, float limit) => (float[2] last, float[k,2] all, int64[k] its) {
    last, all, its = Loop (n, go, x) <
        body = step (int64 i, bool c, float[2] v) => (bool d, float[2] w, float[2] o, int64 j) {
            w = Add (v, x)
            m = ReduceMax <keepdims = 0> (w)
            d = Less (m, limit)
            o = Neg (w)
            j = Identity (i)
        }
    >
}"""


@pytest.mark.parametrize(("n", "go", "limit"), [(5, True, 99), (50, True, 7), (3, False, 9)])
def test_a_loop_ends_by_count_or_by_condition(n, go, limit):
    feeds = dict(
        n=np.array(n), go=np.array(go), x=np.float32([1, 2]), limit=np.array(limit, np.float32)
    )
    got = same_as_onnxruntime(LOOP, **feeds)
    assert got["all"].shape[0] == (0 if not go else min(n, 5 if limit == 99 else 3))


def test_the_stacked_outputs_of_a_loop_count_towards_the_memory_limit():
    m = load(LOOP, memory_limit=4000)
    feeds = dict(n=np.array(1 << 40), go=np.array(True), x=np.zeros(2, np.float32))
    with pytest.raises(MemoryLimitError, match="iterations need"):
        m.run({**feeds, "limit": np.float32(1)})


def test_shapes_may_grow_from_iteration_to_iteration():
    text = """
    g (int64 n, float[1] x) => (float[k] y) {
        t = Constant <value = bool {1}> ()
        y = Loop (n, t, x) <
            body = step (int64 i, bool c, float[a] v) => (bool d, float[b] w) {
                d = Identity (c)
                w = Concat <axis = 0> (v, x)
            }
        >
    }"""
    y = load(text).run({"n": np.array(20), "x": np.float32([3])})["y"]
    assert y.tolist() == [3] * 21


SCAN = """
g (float[3] h, float[4,3,2] u, float[3,5] v) => (float[3] last, float[3,2,5] ys) {{
    last, ys = Scan <num_scan_inputs = 2, scan_input_axes = [{a}, 1],
                     scan_input_directions = [{d}, 1], scan_output_axes = [2],
                     scan_output_directions = [{e}],
        body = step (float[3] s, float[3,2] p, float[3] q) => (float[3] t, float[3,2] o) {{
            r = Add (s, q)
            t = Tanh (r)
            ax = Constant <value = int64[1] {{1}}> ()
            f = Unsqueeze (t, ax)
            o = Mul (f, p)
        }}
    > (h, u, v)
}}"""


@pytest.mark.parametrize("d", [0, 1])
@pytest.mark.parametrize("e", [0, 1])
def test_scan_slices_along_any_axis_in_either_direction(d, e):
    rng = np.random.default_rng(0)
    text = SCAN.format(a=0, d=d, e=e).replace("float[4,3,2] u", "float[5,3,2] u")
    h, u, v = (rng.standard_normal(s).astype(np.float32) for s in ((3,), (5, 3, 2), (3, 5)))
    same_as_onnxruntime(text, h=h, u=u, v=v)


def test_scan_inputs_of_different_lengths_are_an_error():
    text = SCAN.format(a=0, d=0, e=0)
    h, u, v = (np.zeros(s, np.float32) for s in ((3,), (4, 3, 2), (3, 5)))
    with pytest.raises(InputError, match=r"different lengths: \[4, 5\]"):
        load(text).run({"h": h, "u": u, "v": v})


def test_control_flow_nests():
    text = """
    g (int64 n, float[2] x) => (float[2] y) {
        t = Constant <value = bool {1}> ()
        two = Constant <value = int64 {2}> ()
        y = Loop (n, t, x) <
            body = step (int64 i, bool c, float[2] v) => (bool d, float[2] w) {
                d = Identity (c)
                k = Mod (i, two)
                odd = Cast <to = 9> (k)
                w = If (odd) <
                    then_branch = one () => (float[2] a) { a = Add (v, x) },
                    else_branch = two () => (float[2] b) { b = Mul (v, v) }
                >
            }
        >
    }"""
    same_as_onnxruntime(text, n=np.array(5), x=np.float32([1.5, -0.5]))


def test_the_engine_agrees_with_the_naive_twin():
    m = load(LOOP)
    feeds = dict(n=np.array(4), go=np.array(True), x=np.float32([1, 2]), limit=np.float32(99))
    for got, expected in zip(m.run(feeds).values(), evaluate(m.original, feeds), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_subgraphs_are_optimised_as_the_graph_is():
    text = """
    g (bool c, float[1,2,4,4] x, float[2,2,1,1] w) => (float[1,2,4,4] y) {
        y = If (c) <
            then_branch = one () => (float[1,2,4,4] a) { b = Conv (x, w)  a = Relu (b) },
            else_branch = two () => (float[1,2,4,4] d) { d = Identity (x) }
        >
    }"""
    (node,) = [n for n in load(text).graph.nodes if isinstance(n.op, Control)]
    assert [n.op.label for n in node.op.bodies["then_branch"].nodes] == ["Conv"]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("int64 i, bool c, float[2] v", "int64 i, bool c", "has 2 inputs, but 3 are wanted"),
        ("(bool d, float[2] w, float[2] o, int64 j)", "(bool d)", "has 1 outputs"),
    ],
)
def test_a_body_that_does_not_fit_is_refused(old, new, words):
    text = LOOP.replace(old, new)
    if "bool c)" in text:
        text = text.replace("w = Add (v, x)", "w = Add (x, x)")
    m = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 17]>\n{text}')
    with pytest.raises(ModelError, match=words):
        fastconv.load(m.SerializeToString())


SEQUENCES = """
g (float[a,b] x, int64 at) => (seq(float[k,b]) s, float[j,b] joined, int64 n, float[k,b] one) {
    parts = SplitToSequence <axis = 0> (x)
    first = SequenceAt (parts, at)
    shorter = SequenceErase (parts, at)
    s = SequenceInsert (shorter, first)
    joined = ConcatFromSequence <axis = 0> (s)
    n = SequenceLength (s)
    minus = Constant <value = int64 {-1}> ()
    one = SequenceAt (s, minus)
}"""


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_sequences_behave_as_lists(data):
    rows = data.draw(st.integers(1, 5))
    at = data.draw(st.integers(-rows, rows - 1))
    x = np.arange(rows * 2, dtype=np.float32).reshape(rows, 2)
    got = load(SEQUENCES).run({"x": x, "at": np.array(at)})
    parts = [x[i : i + 1] for i in range(rows)]
    parts.append(parts.pop(at))
    for a, b in zip(got["s"], parts, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(got["joined"], np.concatenate(parts))
    np.testing.assert_array_equal(got["one"], parts[-1])
    assert got["n"] == rows


def test_a_position_outside_a_sequence_is_an_error():
    with pytest.raises(InputError, match=r"'.*' \(SequenceAt\).* 3 is out of range .* of 3"):
        load(SEQUENCES).run({"x": np.zeros((3, 2), np.float32), "at": np.array(3)})


FED = """
g (seq(float[k]) s) => (seq(float[k]) y, float[n] z) {
    y = SequenceMap (s) < body = one (float[k] a) => (float[k] b) { b = Neg (a) } >
    z = ConcatFromSequence <axis = 0> (y)
}"""


def test_sequences_are_fed_and_returned_as_lists():
    m = load(FED)
    parts = [np.float32([1, 2]), np.float32([3])]
    y, z = m(parts)
    assert [v.tolist() for v in y] == [[-1, -2], [-3]]
    assert z.tolist() == [-1, -2, -3]
    with pytest.raises(InputError, match=r"'s' is a sequence: give a list"):
        m(parts[0])
    with pytest.raises(InputError, match=r"'s\[1\]' has dtype float64; the model wants float32"):
        m([parts[0], np.float64([1])])


def test_an_absent_optional_is_none():
    text = """
    g (optional(float[2]) o) => (bool has) { has = OptionalHasElement (o) }"""
    m = load(text)
    assert m(None).tolist() is False
    assert m(np.zeros(2, np.float32)).tolist() is True
