"""Quantised operators: kernels against their NumPy twins, twins against onnx's reference."""

import numpy as np
import onnx
import pytest
from harness import ISAS, run_op
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

import fastconv
from fastconv import kernels
from fastconv.errors import FastconvError, ShapeError, UnsupportedError
from fastconv.graph import TensorType
from fastconv.graph.op import REGISTRY
from fastconv.graph.ops import quant as q
from fastconv.plan.lower.qconv import blocks, pieces

TYPES = {"uint8": np.uint8, "int8": np.int8}


def numbers(rng, shape, dtype):
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max + 1, shape).astype(dtype)


def f32(value):
    return np.array(value, np.float32)


def agree(op, arrays, *, steps=0.0, threads=(1, 2, 3), isas=ISAS, **options):
    """Kernels of every build, on any number of threads, give the twin's integers (± ``steps``)."""
    want = op.compute(arrays)[:1]
    for isa in isas:
        first = None
        for t in threads:
            got = run_op(op, arrays, isa=isa, threads=t, **options)
            for g, w in zip(got, want, strict=True):
                assert (g.dtype, g.shape) == (w.dtype, w.shape)
                off = np.abs(g.astype(np.float64) - w.astype(np.float64)).max(initial=0)
                assert off <= steps, f"{isa}, {t} threads: {off} steps off"
            first = first or [g.tobytes() for g in got]
            assert first == [g.tobytes() for g in got], f"{isa}: {t} threads change bits"


def conv_case(seed=0, channels=8, filters=8, size=(9, 9), kernel=(3, 3), *, n=1, group=1, x="uint8",
              w="int8", y="uint8", w_zero=0, per_channel=True, bias=True, residual=False,
              clamp=None, **attrs):  # fmt: skip
    """A QLinearConv and inputs whose results use the whole range."""
    rng = np.random.default_rng(seed)
    xs = numbers(rng, (n, channels, *size), TYPES[x])
    ws = numbers(rng, (filters, channels // group, *kernel), TYPES[w])
    w_scale = rng.uniform(0.5, 1.5, filters if per_channel else ()).astype(np.float32)
    zeros = numbers(rng, w_scale.shape, TYPES[w])
    if w_zero is not None:
        zeros[...] = w_zero
    depth = channels // group * np.prod(kernel)
    y_scale = f32(np.sqrt(depth) * 75 * 75 * 0.02 / 60)
    y_zero = np.array(-20 if y == "int8" else 110, TYPES[y])
    x_zero = np.array(5 if x == "int8" else 130, TYPES[x])
    b = rng.integers(-9000, 9000, filters).astype(np.int32) if bias else None
    op = q.QLinearConv(group=group, clamp=clamp, **attrs)
    inputs = [xs, f32(0.02), x_zero, ws, w_scale, zeros, y_scale, y_zero, b]
    if residual:
        shape = op.compute(inputs)[0].shape
        inputs += [numbers(rng, shape, TYPES[x]), f32(0.7), x_zero]
        inputs += [f32(1.3 * float(y_scale)), np.array(60, TYPES[y])]
    return op, inputs


def constants(inputs):
    """All inputs but x and the residual."""
    return [i for i in range(1, len(inputs)) if i != 9]


CONVS = {
    "1x1": dict(channels=64, filters=40, kernel=(1, 1)),
    "1x1, odd channels": dict(channels=37, filters=19, kernel=(1, 1)),
    "1x1, many rows": dict(channels=16, filters=24, kernel=(1, 1), size=(40, 41)),
    "3x3": dict(channels=24, filters=33, pads=(1, 1, 1, 1)),
    "3x3, deep": dict(channels=130, filters=70, pads=(1, 1, 1, 1), size=(7, 7)),
    "3 channels": dict(channels=3, filters=17, kernel=(7, 7), strides=(2, 2), pads=(3, 3, 3, 3)),
    "uneven pads": dict(pads=(0, 2, 1, 0), kernel=(3, 2)),
    "strides": dict(strides=(2, 3), pads=(1, 1, 1, 1), n=2),
    "1x1 with strides": dict(kernel=(1, 1), strides=(2, 2)),
    "dilated": dict(dilations=(2, 3), pads=(2, 3, 2, 3)),
    "padding alone": dict(size=(1, 1), pads=(3, 3, 3, 3)),
    "same": dict(auto_pad="SAME_LOWER", strides=(2, 2)),
    "1-D": dict(size=(21,), kernel=(5,), pads=(2, 2)),
    "3-D": dict(size=(4, 5, 6), kernel=(2, 3, 3), pads=(0, 1, 1, 1, 1, 1), n=2),
    "groups": dict(channels=12, filters=18, group=3, pads=(1, 1, 1, 1)),
    "depthwise": dict(channels=70, filters=70, group=70, pads=(1, 1, 1, 1)),
    "depthwise, stride 2": dict(channels=33, filters=33, group=33, strides=(2, 2), size=(9, 90)),
    "depthwise 5x5": dict(channels=130, filters=130, group=130, kernel=(5, 5), pads=(2, 2, 2, 2)),
    "depthwise, dilated": dict(channels=9, filters=9, group=9, dilations=(2, 2), pads=(2,) * 4),
    "depthwise, 1-D": dict(channels=9, filters=9, group=9, size=(30,), kernel=(3,)),
    "depthwise, tall": dict(channels=9, filters=9, group=9, size=(12, 3), kernel=(10, 1)),
    "depthwise, wide": dict(channels=9, filters=9, group=9, size=(2, 90), kernel=(1, 60)),
    "two filters a channel": dict(channels=5, filters=10, group=5),
    "signed x": dict(x="int8", pads=(1, 1, 1, 1)),
    "signed y": dict(y="int8"),
    "signed depthwise": dict(x="int8", y="int8", channels=8, group=8, pads=(1, 1, 1, 1)),
    "unsigned w": dict(w="uint8", w_zero=128),
    "unsigned w, zero 0": dict(w="uint8", w_zero=0, pads=(1, 1, 1, 1)),
    "w with its own zeros": dict(w_zero=None, pads=(1, 1, 1, 1)),
    "depthwise, w with zeros": dict(w="uint8", w_zero=None, channels=8, group=8),
    "one scale": dict(per_channel=False, bias=False),
    "clamped": dict(clamp=(110, 180)),
    "depthwise, clamped": dict(channels=8, group=8, clamp=(110, 180)),
}


@pytest.mark.parametrize("name", CONVS)
def test_a_quantised_convolution_gives_the_exact_integers(name):
    op, inputs = conv_case(**CONVS[name])
    agree(op, inputs, consts=constants(inputs), threads=(1, 3))


@pytest.mark.parametrize("y", TYPES)
@pytest.mark.parametrize("case", ["1x1", "3x3", "groups", "depthwise", "signed x"])
def test_a_residual_is_added_in_quantised_numbers(case, y):
    op, inputs = conv_case(**CONVS[case], y=y, residual=True)
    for changes in ({}, {"sum_clamp": (60, 90)}, {"residual_first": True}):
        changed = q.QLinearConv(**{**vars(op), **changes})
        agree(changed, inputs, consts=constants(inputs), threads=(1, 3))


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_convolution(data):
    draw = data.draw
    group = draw(st.sampled_from([1, 1, 2, 5]))
    case = dict(
        seed=draw(st.integers(0, 99)), n=draw(st.integers(1, 2)), group=group,
        channels=group * draw(st.integers(1, 20)), filters=group * draw(st.integers(1, 20)),
        size=tuple(draw(st.integers(1, 12)) for _ in range(2)),
        kernel=tuple(draw(st.integers(1, 4)) for _ in range(2)),
        strides=tuple(draw(st.integers(1, 3)) for _ in range(2)),
        pads=tuple(draw(st.integers(1, 3)) for _ in range(4)),
        x=draw(st.sampled_from(list(TYPES))), y=draw(st.sampled_from(list(TYPES))),
        w=draw(st.sampled_from(list(TYPES))), w_zero=draw(st.sampled_from([0, 3, None])),
    )  # fmt: skip
    if case["kernel"][0] > case["size"][0] + 2 or case["kernel"][1] > case["size"][1] + 2:
        case["kernel"] = (1, 1)
    op, inputs = conv_case(**case)
    agree(op, inputs, consts=constants(inputs), threads=(2,))


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_depthwise_convolution(data):
    draw = data.draw
    channels = draw(st.integers(2, 140))
    op, inputs = conv_case(
        seed=draw(st.integers(0, 99)), channels=channels, filters=channels, group=channels,
        size=(draw(st.integers(4, 9)), draw(st.integers(4, 60))),
        kernel=(draw(st.integers(1, 4)), draw(st.integers(1, 4))),
        strides=(draw(st.integers(1, 3)), draw(st.integers(1, 3))),
        pads=tuple(draw(st.integers(0, 2)) for _ in range(4)),
        residual=draw(st.booleans()),
    )  # fmt: skip
    agree(op, inputs, consts=constants(inputs), threads=(2,))


LARGE = {
    "many rows": dict(channels=32, filters=48, size=(40, 33)),
    "few rows, large weights": dict(channels=160, filters=330, size=(5, 5)),
    "few rows, one by one": dict(channels=512, filters=400, size=(7, 7), kernel=(1, 1)),
    "one row": dict(channels=1024, filters=1100, size=(1, 1), kernel=(1, 1)),
    "groups": dict(channels=48, filters=96, size=(31, 31), group=3),
}


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("name", LARGE)
def test_threads_share_rows_or_filters_of_a_large_convolution(name, residual):
    op, inputs = conv_case(residual=residual, pads=(0, 0, 0, 0), **LARGE[name])
    agree(op, inputs, consts=constants(inputs))


@pytest.mark.parametrize(("x", "w"), [(255, -128), (255, 127), (0, -128)])
def test_the_largest_products_do_not_saturate(x, w):
    op, inputs = conv_case(channels=70, filters=20, per_channel=False)
    inputs[0][...], inputs[3][...] = x, w
    inputs[6] = f32(200.0)
    agree(op, inputs, consts=constants(inputs))


@settings(max_examples=200, deadline=None)
@given(
    rows=st.integers(1, 20000), panels=st.integers(1, 300), group=st.integers(1, 9),
    depth=st.integers(1, 9000), threads=st.integers(1, 9),
)  # fmt: skip
def test_units_of_work_are_alike(rows, panels, group, depth, threads):
    each, wide = blocks(rows, panels, group, depth, depth, 16 * panels, 32, threads)
    assert 1 <= each <= rows
    assert wide >= 1
    count = -(-rows // each)
    if count > 1:
        assert wide >= panels, "cut by rows or by filters, not both"
        assert rows > (count - 1) * each
        assert each <= 512
    if count > 1 and threads > 1 and rows >= 32 * threads * threads:
        assert group * count >= threads


def test_weights_of_more_than_eight_bits_are_sums_of_signed_bytes():
    w = np.arange(-255, 256)
    parts = pieces(w)
    assert len(parts) == 3
    assert all(p.dtype == np.int8 for p in parts)
    assert (sum(p.astype(int) for p in parts) == w).all()
    assert len(pieces(np.array([-128, 127]))) == 1


def test_sums_that_leave_the_float_range_saturate():
    op, inputs = conv_case(channels=8, filters=8, group=8)
    inputs[6] = f32(1e-30)
    agree(op, inputs, consts=constants(inputs), threads=(1,))
    op, inputs = conv_case(channels=64, filters=8, kernel=(1, 1))
    inputs[6] = f32(1e-30)
    agree(op, inputs, consts=constants(inputs), threads=(1,))


def test_without_vnni_the_kernels_of_v3_serve(monkeypatch):
    # The table of v4 as a CPU without byte dot products gets it, on a problem of its packed sizes.
    with monkeypatch.context() as m:
        m.setattr(kernels, "has_vnni", lambda: False)
        for f in (kernels.table, kernels.home, kernels.family_constants):
            getattr(f, "cache_clear", lambda: None)()
        if "v4" in ISAS and "v3" in ISAS:
            assert kernels.home("v4", "qconv") == "v3"
            assert kernels.home("v4", "conv") == "v4"
            op, inputs = conv_case(channels=70, filters=40)
            agree(op, inputs, consts=constants(inputs), isas=["v4"], threads=(1,))
    for f in (kernels.table, kernels.family_constants):
        f.cache_clear()


# Matrix products.


@pytest.mark.parametrize("x", TYPES)
@pytest.mark.parametrize("w", TYPES)
@pytest.mark.parametrize("m", [1, 5, 40])
def test_quantised_matrix_products(m, w, x):
    rng = np.random.default_rng(m)
    a, b = numbers(rng, (m, 70), TYPES[x]), numbers(rng, (70, 21), TYPES[w])
    b_zero = numbers(rng, (21,), TYPES[w])
    b_scale = rng.uniform(0.5, 1.5, 21).astype(np.float32)
    zeros = [np.array(z, TYPES[x]) for z in (9, 7)]
    inputs = [a, f32(0.1), zeros[0], b, b_scale, b_zero, f32(900), zeros[1]]
    agree(q.QLinearMatMul(), inputs, consts=range(1, 8), threads=(1, 3))
    agree(q.MatMulInteger(), [a, b, inputs[2], b_zero], consts=(1, 2, 3), threads=(1,))
    # A zero point that is computed while the model runs.
    agree(q.MatMulInteger(), [a, b, inputs[2], b_zero], consts=(1, 3), threads=(1, 2))
    batch = np.stack([a, a[::-1]])
    agree(q.QLinearMatMul(), [batch, *inputs[1:]], consts=range(1, 8), threads=(1,))


@pytest.mark.parametrize("quantised", [True, False])
def test_qgemm(quantised):
    rng = np.random.default_rng(0)
    a, b = numbers(rng, (3, 50), np.uint8), numbers(rng, (20, 50), np.int8)
    c = rng.integers(-999, 999, 20).astype(np.int32)
    scale = rng.uniform(0.5, 1.5, 20).astype(np.float32)
    inputs = [a, f32(0.1), np.array(9, np.uint8), b, scale, np.zeros(20, np.int8), c]
    inputs += [f32(300), np.array(120, np.uint8)] if quantised else []
    op = q.QGemm(transB=1, alpha=0.5)
    want = op.compute(inputs)[0]
    for isa in ISAS:
        got = run_op(op, inputs, consts=range(1, len(inputs)), isa=isa)[0]
        np.testing.assert_allclose(got, want, rtol=1e-6)
        assert got.dtype == want.dtype


@pytest.mark.parametrize("dynamic", [False, True])
def test_conv_integer(dynamic):
    rng = np.random.default_rng(0)
    x, w = numbers(rng, (2, 6, 7, 7), np.uint8), numbers(rng, (10, 6, 3, 3), np.int8)
    op = q.ConvInteger(pads=(1, 1, 1, 1))
    zero = np.array(77, np.uint8)
    agree(op, [x, w, zero], consts=(1,) if dynamic else (1, 2), threads=(1, 2))
    signed = (x.astype(np.int16) - 128).astype(np.int8)
    agree(op, [signed, w, np.array(-3, np.int8)], consts=(1,) if dynamic else (1, 2), threads=(1,))


def test_nodes_that_share_weights_have_zero_points_of_their_own():
    rng = np.random.default_rng(5)
    w, m = rng.integers(0, 100, (8, 4, 1, 1), np.uint8), rng.integers(0, 100, (4, 8), np.uint8)
    text = """
    <ir_version: 9, opset_import: ["" : 18]>
    g (uint8[1,4,3,3] x, uint8[9,4] a) => (int32[1,8,3,3] y0, int32[1,8,3,3] y1, int32[9,8] b0,
                                           int32[9,8] b1)
    <uint8 zero = {0}, uint8 z0 = {3}, uint8 z1 = {40}> {
        y0 = ConvInteger (x, w, zero, z0)
        y1 = ConvInteger (x, w, zero, z1)
        b0 = MatMulInteger (a, m, zero, z0)
        b1 = MatMulInteger (a, m, zero, z1)
    }"""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(v, n) for v, n in ((w, "w"), (m, "m"))
    )
    a = rng.integers(0, 255, (9, 4), np.uint8)
    out = fastconv.load(model.SerializeToString()).run({"x": a.T.reshape(1, 4, 3, 3), "a": a})
    for k, z in enumerate((3, 40)):
        filters = w.reshape(8, 4).astype(np.int32) - z
        assert (out[f"y{k}"].reshape(8, 9) == filters @ a.T.astype(np.int32)).all()
        assert (out[f"b{k}"] == a.astype(np.int32) @ (m.astype(np.int32) - z)).all()


# Element-wise operators and pools.

SCALES = {
    "per tensor": (lambda rng, shape: f32(rng.uniform(0.1, 2)), {}),
    "a list of one": (lambda rng, shape: f32(rng.uniform(0.1, 2, 1)), {}),
    "per channel": (lambda rng, shape: f32(rng.uniform(0.1, 2, shape[1])), dict(axis=1)),
    "along the last axis": (lambda rng, shape: f32(rng.uniform(0.1, 2, shape[-1])), dict(axis=-1)),
    "blocks of 2": (
        lambda rng, shape: f32(rng.uniform(0.1, 2, (shape[0], -(-shape[1] // 2), *shape[2:]))),
        dict(axis=1, block_size=2),
    ),
    "blocks of 3, first axis": (
        lambda rng, shape: f32(rng.uniform(0.1, 2, (-(-shape[0] // 3), *shape[1:]))),
        dict(axis=0, block_size=3),
    ),
}


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("scale", SCALES)
def test_quantize_and_dequantize(scale, dtype):
    rng = np.random.default_rng(0)
    make, attrs = SCALES[scale]
    x = f32(rng.normal(size=(4, 5, 37)) * 60)
    s = make(rng, x.shape)
    zero = rng.integers(0, 100, s.shape).astype(TYPES[dtype])
    for z in ([zero], []):
        if not z and dtype == "int8":
            attrs = {**attrs, "output_dtype": 3}
        agree(q.QuantizeLinear(**attrs), [x, s, *z], threads=(1, 3))
        stored = numbers(rng, x.shape, TYPES[dtype])
        down = {k: v for k, v in attrs.items() if k != "output_dtype"}
        agree(q.DequantizeLinear(**down), [stored, s, *z], steps=1e-5, threads=(1, 3))


@pytest.mark.parametrize("values", ["both signs", "positive", "negative", "zero"])
def test_dynamic_quantisation_finds_the_range(values):
    x = f32(np.random.default_rng(0).normal(size=(3, 7, 5)))
    x = {"both signs": x, "positive": abs(x) + 3, "negative": -abs(x), "zero": 0 * x}.get(values, x)
    op = q.DynamicQuantizeLinear()
    for isa in ISAS:
        for threads in (1, 2):
            got = run_op(op, [x], n_outputs=3, isa=isa, threads=threads)
            for g, w in zip(got, op.compute([x]), strict=True):
                assert g.dtype == w.dtype
                np.testing.assert_array_equal(g, w)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32])
def test_integers_are_cast_to_floats(dtype):
    x = numbers(np.random.default_rng(0), (3, 50), dtype)
    agree(REGISTRY["", "Cast"](to=1), [x], threads=(1, 2))


@pytest.mark.parametrize("channels", [2, 3, 4, 5])
@pytest.mark.parametrize("zero", [np.uint8(3), np.int8(-3)])
def test_images_are_quantised_into_any_layout(channels, zero):
    x = f32(np.random.default_rng(0).normal(size=(2, channels, 20, 31)) * 50)
    agree(q.QuantizeLinear(), [x, f32(0.7), np.array(zero)], threads=(1, 3))
    agree(q.QuantizeLinear(), [x, f32(0.7), np.array(zero)], channels_last=(0,), threads=(1,))


def test_ties_go_to_even_and_infinities_saturate():
    x = f32([0.5, 1.5, 2.5, -0.5, -1.5, 1e30, -1e30, np.inf, -np.inf, np.nan, 3.4e38])
    want = [0, 2, 2, 0, -2, 127, -128, 127, -128, -128, 127]
    op = q.QuantizeLinear()
    for isa in ISAS:
        assert run_op(op, [x, f32(1), np.int8([0])], isa=isa)[0].tolist() == want
    assert op.compute([x, f32(1), np.int8([0])])[0].tolist() == want


def test_a_bias_is_dequantised_from_int32():
    x = np.random.default_rng(0).integers(-(2**31), 2**31, (7,)).astype(np.int32)
    agree(q.DequantizeLinear(axis=0), [x, f32(np.linspace(0.1, 1, 7))], steps=64, threads=(1,))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", ["QLinearAdd", "QLinearMul"])
@pytest.mark.parametrize("shape", [(2, 5, 3, 3), (2, 5, 1, 1)])
@pytest.mark.parametrize("last", [(), (0,), (0, 3)])
def test_quantised_sums_and_products(name, dtype, shape, last):
    rng = np.random.default_rng(0)
    t = TYPES[dtype]
    a, b = numbers(rng, (2, 5, 3, 3), t), numbers(rng, shape, t)
    y_scale = f32(3.0 if name == "QLinearAdd" else 90)
    rest = [f32(2), np.array(5, t), b, f32(1.5), np.array(60, t), y_scale, np.array(100, t)]
    op = REGISTRY["com.microsoft", name](clamp=(70, 120))
    inputs = [a, *rest]
    agree(op, inputs, consts=(1, 2, 4, 5, 6, 7), channels_last=last, threads=(1, 2))
    swapped = [*inputs[3:6], *inputs[:3], *inputs[6:]]
    agree(op, swapped, consts=(1, 2, 4, 5, 6, 7), threads=(1,))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    "attrs",
    [
        dict(kernel_shape=(3, 3), pads=(1, 1, 1, 1), strides=(2, 2)),
        dict(kernel_shape=(3, 2), pads=(1, 0, 1, 1), count_include_pad=1),
        dict(kernel_shape=(2, 2), strides=(3, 3), ceil_mode=1),
        dict(kernel_shape=(2, 2), dilations=(2, 2)),
    ],
)
def test_pools_of_bytes(attrs, dtype):
    rng = np.random.default_rng(0)
    x = numbers(rng, (2, 70, 7, 8), TYPES[dtype])
    rest = [f32(0.3), np.array(17, TYPES[dtype]), f32(0.2), np.array(90, TYPES[dtype])]
    agree(q.QLinearAveragePool(**attrs), [x, *rest], consts=(1, 2, 3, 4), threads=(1, 3))
    agree(q.QLinearGlobalAveragePool(), [x, *rest], consts=(1, 2, 3, 4), threads=(1, 3))
    attrs = {k: v for k, v in attrs.items() if k != "count_include_pad"}
    agree(REGISTRY["", "MaxPool"](**attrs), [x], threads=(1, 3))


@pytest.mark.parametrize("dtype", TYPES)
def test_activations_are_tables(dtype):
    t = TYPES[dtype]
    x = np.arange(256, dtype=np.uint8).view(t).reshape(1, 4, 8, 8)
    rest = [f32(0.05), np.array(3, t), f32(0.01), np.array(1, t)]
    ops = [q.QLinearSigmoid(), q.QLinearLeakyRelu(alpha=0.1)]
    ops += [q.QLinearActivation(kind="hard_swish"), q.QLinearActivation(kind="clip", beta=2.0)]
    for op in ops:
        agree(op, [x, *rest], consts=(1, 2, 3, 4), channels_last=(0,), threads=(1,))
        agree(op, [x, *rest], consts=(1, 2, 3, 4), threads=(1,))


def test_concat_requantises_each_part():
    rng = np.random.default_rng(0)
    parts = [numbers(rng, (2, c, 5, 6), np.uint8) for c in (3, 70, 8)]
    scales = [f32(0.5), f32(1), f32(0.25)]
    inputs = [f32(0.5), np.array(9, np.uint8)]
    for x, s, z in zip(parts, scales, (9, 30, 100), strict=True):
        inputs += [x, s, np.array(z, np.uint8)]
    fixed = [i for i in range(len(inputs)) if i not in (2, 5, 8)]
    agree(q.QLinearConcat(axis=1), inputs, consts=fixed, threads=(1, 3))


# The twins against onnx's reference.


def reference(op_type, arrays, opset=21, **attrs):
    """What onnx's reference evaluator computes."""
    names = [f"i{k}" if a is not None else "" for k, a in enumerate(arrays)]
    outputs = ["o0", "o1", "o2"] if op_type == "DynamicQuantizeLinear" else ["o0"]
    node = helper.make_node(op_type, names, outputs, **attrs)
    feeds = {n: a for n, a in zip(names, arrays, strict=True) if n}
    infos = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in feeds.items()
    ]
    results = [helper.make_empty_tensor_value_info(o) for o in outputs]
    graph = helper.make_graph([node], "g", infos, results)
    imports = [helper.make_opsetid("", opset)]
    return ReferenceEvaluator(helper.make_model(graph, opset_imports=imports)).run(None, feeds)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("dtype", TYPES)
def test_twins_quantise_as_the_reference_does(scale, dtype):
    rng = np.random.default_rng(0)
    make, attrs = SCALES[scale]
    x = f32(rng.normal(size=(6, 4, 7)) * 60)
    s = make(rng, x.shape)
    z = rng.integers(0, 100, s.shape).astype(TYPES[dtype])
    want = reference("QuantizeLinear", [x, s, z], **attrs)[0]
    got = q.QuantizeLinear(**attrs).compute([x, s, z])[0]
    assert got.dtype == want.dtype
    np.testing.assert_array_equal(got, want)
    back = reference("DequantizeLinear", [want, s, z], **attrs)[0]
    np.testing.assert_array_equal(q.DequantizeLinear(**attrs).compute([want, s, z])[0], back)


def test_twins_compute_as_the_reference_does():
    rng = np.random.default_rng(0)
    x = f32(rng.normal(size=(3, 9)))
    for got, want in zip(
        q.DynamicQuantizeLinear().compute([x]), reference("DynamicQuantizeLinear", [x]), strict=True
    ):
        np.testing.assert_array_equal(got, want)
    a, b = numbers(rng, (4, 6), np.uint8), numbers(rng, (6, 5), np.uint8)
    zeros = [np.array(7, np.uint8), np.array(9, np.uint8)]
    want = reference("MatMulInteger", [a, b, *zeros])[0]
    np.testing.assert_array_equal(q.MatMulInteger().compute([a, b, *zeros])[0], want)
    inputs = [a, f32(0.2), zeros[0], b, f32(0.3), zeros[1], f32(40), np.array(99, np.uint8)]
    want = reference("QLinearMatMul", inputs)[0]
    assert np.abs(q.QLinearMatMul().compute(inputs)[0].astype(int) - want).max() <= 1
    x, w = numbers(rng, (1, 3, 6, 6), np.uint8), numbers(rng, (4, 3, 3, 3), np.uint8)
    want = reference("ConvInteger", [x, w, zeros[0]], pads=[1, 1, 1, 1])[0]
    got = q.ConvInteger(pads=(1, 1, 1, 1)).compute([x, w, zeros[0]])[0]
    np.testing.assert_array_equal(got, want)
    op, inputs = conv_case(pads=(1, 1, 1, 1), per_channel=False)
    want = reference("QLinearConv", inputs, pads=[1, 1, 1, 1])[0]
    assert np.abs(op.compute(inputs)[0].astype(int) - want).max() <= 1


# Errors and odd types.


def model(op_type, inputs, output, **attrs):
    infos = [helper.make_tensor_value_info(n, t, s) for n, (t, s) in inputs.items()]
    node = helper.make_node(op_type, list(inputs), ["y"], **attrs)
    graph = helper.make_graph([node], "g", infos, [helper.make_tensor_value_info("y", *output)])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def test_a_model_file_with_quantize_runs():
    m = model(
        "QuantizeLinear",
        {"x": (1, [2, 3]), "s": (1, []), "z": (3, [])},
        (TensorProto.INT8, [2, 3]),
    )
    onnx.checker.check_model(m)
    x = f32([[1, 2, 300], [-1, -2, -300]])
    run = fastconv.InferenceSession(m.SerializeToString())
    got = run.run(None, {"x": x, "s": f32(1), "z": np.array(1, np.int8)})[0]
    assert got.tolist() == [[2, 3, 127], [0, -1, -128]]


@pytest.mark.parametrize("code", sorted(q.STORED))
def test_integer_types_of_every_width(code):
    dtype, lo, hi = q.STORED[code]
    op = q.QuantizeLinear(output_dtype=code)
    got = op.compute([f32([-1e9, -1.0, 1.0, 1e9]), f32(1)])[0]
    assert got.dtype == dtype
    assert got.tolist() == [lo, max(lo, -1), 1, hi]


def test_scales_that_do_not_fit_are_named():
    x = TensorType(np.dtype(np.float32), (2, 3, 4))
    scale = TensorType(np.dtype(np.float32), (5,))
    with pytest.raises(ShapeError, match=r"scales of shape \[5\] for axis 1"):
        q.QuantizeLinear().infer([x, scale], [None, None])
    with pytest.raises(ShapeError, match="block_size 2 needs"):
        q.DequantizeLinear(block_size=2).infer([x, scale], [None, None])
    with pytest.raises(ShapeError, match="out of range"):
        q.QuantizeLinear(axis=7).infer([x, scale], [None, None])
    one = TensorType(np.dtype(np.float32), ())
    with pytest.raises(UnsupportedError, match="floats"):
        q.QuantizeLinear().infer([x, one, one], [None, None, None])
    with pytest.raises(FastconvError, match="channels_last"):
        q.QLinearGlobalAveragePool(channels_last=1).infer([x], [None])


@pytest.mark.parametrize("code", [TensorProto.INT4, TensorProto.UINT4])
def test_a_four_bit_zero_point_bounds_the_result(code):
    m = model("QuantizeLinear", {"x": (1, [5])}, (code, [5]))
    m.graph.node[0].input.extend(["s", "z"])
    m.graph.initializer.append(helper.make_tensor("s", 1, [], [1.0]))
    m.graph.initializer.append(helper.make_tensor("z", code, [], [1]))
    x = f32([-100, -3, 0, 3, 100])
    got = fastconv.InferenceSession(m.SerializeToString()).run(None, {"x": x})[0]
    want = [-8, -2, 1, 4, 7] if code == TensorProto.INT4 else [0, 0, 1, 4, 15]
    assert got.tolist() == want
