"""fastconv.ops: torch.nn.functional's meanings, checked against loops and closed formulas."""

import inspect
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastconv import InputError, ops
from fastconv.ops import run as machinery


def floats(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def close(got, expected, tol=2e-5):
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=tol, atol=tol * max(1, np.abs(expected).max()))


def conv_by_hand(x, w, bias, stride, padding, dilation, groups):
    """conv2d straight from its definition, in float64."""
    x = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (padding,) * 2, (padding,) * 2))
    n, _, height, width = x.shape
    filters, channels, kh, kw = w.shape
    oh = (height - (kh - 1) * dilation - 1) // stride + 1
    ow = (width - (kw - 1) * dilation - 1) // stride + 1
    y = np.zeros((n, filters, oh, ow))
    for b, f, i, j in np.ndindex(y.shape):
        g = f // (filters // groups)
        for c, u, v in np.ndindex(channels, kh, kw):
            at = x[b, g * channels + c, i * stride + u * dilation, j * stride + v * dilation]
            y[b, f, i, j] += at * w[f, c, u, v]
    return y + (0 if bias is None else bias.reshape(-1, 1, 1))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "groups"),
    [(1, 0, 1, 1), (2, 1, 1, 1), (1, 2, 2, 2), (3, 1, 1, 4)],
)
def test_conv2d_follows_its_definition(stride, padding, dilation, groups, bias):
    x, w = floats(2, 4, 7, 6), floats(8, 4 // groups, 3, 2, seed=1)
    b = floats(8, seed=2) if bias else None
    got = ops.conv2d(x, w, b, stride, padding, dilation, groups)
    assert got.dtype == np.float32
    close(got, conv_by_hand(x, w, b, stride, padding, dilation, groups))


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_unbatched_input_gives_unbatched_output(rank):
    x, w = floats(3, *(8, 7, 6)[:rank]), floats(5, 3, *(3,) * rank, seed=1)
    conv = getattr(ops, f"conv{rank}d")
    np.testing.assert_array_equal(conv(x, w, padding=1), conv(x[None], w, padding=1)[0])
    wt = floats(3, 5, *(3,) * rank, seed=1)
    transposed = getattr(ops, f"conv_transpose{rank}d")
    np.testing.assert_array_equal(transposed(x, wt), transposed(x[None], wt)[0])
    for name in ("max", "avg"):
        pool = getattr(ops, f"{name}_pool{rank}d")
        np.testing.assert_array_equal(pool(x, 2), pool(x[None], 2)[0])


@pytest.mark.parametrize("kernel", [1, 2, 3, 4])
@pytest.mark.parametrize("dilation", [1, 2])
def test_same_padding_keeps_the_size_and_puts_the_odd_one_at_the_end(kernel, dilation):
    x, w = floats(1, 2, 9), floats(3, 2, kernel, seed=1)
    total = (kernel - 1) * dilation
    padded = np.pad(x, ((0, 0), (0, 0), (total // 2, total - total // 2)))
    got = ops.conv1d(x, w, padding="same", dilation=dilation)
    assert got.shape == (1, 3, 9)
    close(got, ops.conv1d(padded, w, padding="valid", dilation=dilation))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(0, 2), st.integers(1, 2), st.sampled_from([1, 2]), st.data())
def test_transposed_convolution_is_the_gradient_of_convolution(
    stride, padding, dilation, groups, data
):
    # <conv(x), y> = <x, conv_transpose(y)> for all x and y.
    n = data.draw(st.integers(5 + dilation, 9))
    x, w = floats(1, 4, n, n), floats(6, 4 // groups, 3, 3, seed=1)
    args = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    forward = ops.conv2d(x, w, **args)
    y = floats(*forward.shape, seed=2)
    extra = (n + 2 * padding - dilation * 2 - 1) % stride
    back = ops.conv_transpose2d(y, w, output_padding=extra, **args)
    assert back.shape == x.shape
    assert np.vdot(forward, y) == pytest.approx(np.vdot(x, back), rel=1e-3, abs=1e-3)


def test_conv_transpose_bias_is_per_filter():
    x, w = floats(1, 2, 4), floats(2, 3, 2, seed=1)
    b = np.array([1, 2, 3], np.float32)
    close(ops.conv_transpose1d(x, w, b), ops.conv_transpose1d(x, w) + b[:, None])


def test_max_pool_indices_number_each_plane():
    x = floats(2, 3, 6, 5)
    y, where = ops.max_pool2d(x, (2, 3), 2, (1, 1), return_indices=True)
    assert where.dtype == np.int64
    planes, at = x.reshape(2, 3, -1), where.reshape(2, 3, -1)
    np.testing.assert_array_equal(np.take_along_axis(planes, at, 2), y.reshape(2, 3, -1))
    np.testing.assert_array_equal(y, ops.max_pool2d(x, (2, 3), 2, 1))


@pytest.mark.parametrize(("n", "ceil_mode", "size"), [(5, False, 2), (5, True, 3), (4, True, 2)])
def test_ceil_mode_takes_a_last_partial_window(n, ceil_mode, size):
    x = floats(1, 1, n)
    assert ops.max_pool1d(x, 2, ceil_mode=ceil_mode).shape == (1, 1, size)
    assert ops.avg_pool1d(x, 2, ceil_mode=ceil_mode).shape == (1, 1, size)


def test_ceil_mode_drops_a_window_that_starts_in_the_padding():
    assert ops.max_pool1d(floats(1, 1, 5), 2, 2, 1, ceil_mode=True).shape == (1, 1, 3)


def test_avg_pool_counts_padding_unless_told_not_to():
    x = np.ones((1, 1, 4, 4), np.float32)
    corner = ops.avg_pool2d(x, 3, 1, 1)[0, 0, 0, 0]
    assert corner == pytest.approx(4 / 9)
    np.testing.assert_allclose(ops.avg_pool2d(x, 3, 1, 1, count_include_pad=False), 1, rtol=1e-6)


@pytest.mark.parametrize("size", [1, 2, 3, (5, 2), (None, 3), (9, 11)])
def test_adaptive_pool_averages_even_pieces(size):
    x = floats(2, 3, 8, 9)
    got = ops.adaptive_avg_pool2d(x, size)
    oh, ow = (size, size) if isinstance(size, int) else size
    oh, ow = oh or 8, ow or 9
    assert got.shape == (2, 3, oh, ow)
    for i, j in np.ndindex(oh, ow):
        rows = slice(i * 8 // oh, math.ceil((i + 1) * 8 / oh))
        cols = slice(j * 9 // ow, math.ceil((j + 1) * 9 / ow))
        close(got[:, :, i, j], x[:, :, rows, cols].mean((2, 3)))


@pytest.mark.parametrize("shape", [(7,), (5, 7), (2, 3, 7), (0, 7)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_is_x_times_the_transposed_weight(shape, bias):
    x, w, b = floats(*shape), floats(4, 7, seed=1), floats(4, seed=2)
    got = ops.linear(x, w, b if bias else None)
    expected = x @ w.T + (b if bias else 0)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("a", "b"),
    [((3, 4), (4, 5)), ((4,), (4,)), ((4,), (4, 5)), ((3, 4), (4,)), ((2, 3, 4), (4, 5)),
     ((2, 3, 4), (2, 4, 5)), ((6, 1, 3, 4), (2, 4, 5))],
)  # fmt: skip
def test_matmul_broadcasts_as_numpy_does(a, b):
    a, b = floats(*a), floats(*b, seed=1)
    close(np.asarray(ops.matmul(a, b)), np.asarray(a @ b))


def erf(x):
    return np.vectorize(math.erf)(x)


FORMULAS = {
    "relu": lambda x: np.maximum(x, 0),
    "leaky_relu": lambda x: np.where(x < 0, 0.01 * x, x),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "gelu": lambda x: x * (1 + erf(x / math.sqrt(2))) / 2,
    "silu": lambda x: x / (1 + np.exp(-x)),
    "hardswish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "elu": lambda x: np.where(x > 0, x, np.expm1(x)),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("name", FORMULAS)
def test_element_wise_functions_follow_their_formulas(name, dtype):
    x = np.linspace(-6, 6, 1001).astype(dtype)
    got = getattr(ops, name)(x)
    assert got.dtype == dtype
    tol = {2: 3e-3, 4: 3e-6, 8: 1e-12}[x.itemsize]
    np.testing.assert_allclose(got, FORMULAS[name](x.astype(np.float64)), rtol=tol, atol=tol)


def test_options_of_element_wise_functions():
    x = np.linspace(-3, 3, 50, dtype=np.float32)
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    close(ops.gelu(x, "tanh"), x * (1 + np.tanh(inner)) / 2)
    close(ops.leaky_relu(x, 0.3), np.where(x < 0, 0.3 * x, x))
    close(ops.elu(x, 2.0), np.where(x > 0, x, 2 * np.expm1(x)))


@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 4)])
def test_softmax_sums_to_one_along_its_axis(shape):
    x = np.asarray(floats(*shape) * 30, np.float32)
    for dim in range(-max(1, x.ndim), max(1, x.ndim)):
        y = ops.softmax(x, dim)
        assert y.shape == x.shape
        np.testing.assert_allclose(y.sum(dim) if shape else y, 1, rtol=1e-5)
        np.testing.assert_allclose(np.exp(ops.log_softmax(x, dim)), y, rtol=2e-4, atol=1e-7)


@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 5), (2, 3, 4, 5)])
@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_uses_the_running_statistics(shape, affine):
    x, mean, var = floats(*shape), floats(3, seed=1), np.abs(floats(3, seed=2)) + 0.1
    w, b = (floats(3, seed=3), floats(3, seed=4)) if affine else (None, None)
    s = (1, 3) + (1,) * (len(shape) - 2)
    expected = (x - mean.reshape(s)) / np.sqrt(var.reshape(s) + 1e-3)
    if affine:
        expected = expected * w.reshape(s) + b.reshape(s)
    close(ops.batch_norm(x, mean, var, w, b, eps=1e-3), expected)


@pytest.mark.parametrize("axes", [1, 2])
def test_layer_norm_normalises_the_last_axes(axes):
    x = floats(3, 4, 5)
    shape = x.shape[-axes:]
    w, b = floats(*shape, seed=1), floats(*shape, seed=2)
    over = tuple(range(-axes, 0))
    expected = (x - x.mean(over, keepdims=True)) / np.sqrt(x.var(over, keepdims=True) + 1e-5)
    close(ops.layer_norm(x, shape), expected)
    close(ops.layer_norm(x, shape, w, b), expected * w + b)
    if axes == 1:
        close(ops.layer_norm(x, 5), expected)


# Weights, dtypes, memory.


def test_weights_changed_in_place_count():
    x, w, b = floats(1, 3, 8, 8), floats(4, 3, 3, 3, seed=1), floats(4, seed=2)
    for k in range(w.size):
        w.ravel()[k] += 1  # wherever it changes: a sample of the weights would not see it
        if k % 9 == 0:
            close(ops.conv2d(x, w, b), conv_by_hand(x, w, b, 1, 0, 1, 1))
    b[3] = 100
    close(ops.conv2d(x, w, b), conv_by_hand(x, w, b, 1, 0, 1, 1))


def test_a_weight_that_becomes_nan_or_minus_zero_counts():
    x, w = np.ones((1, 1, 4), np.float32), np.zeros((1, 1, 1), np.float32)
    assert not np.isnan(ops.conv1d(x, w)).any()
    w[:] = np.nan
    assert np.isnan(ops.conv1d(x, w)).all()


def test_what_is_kept_between_calls_is_bounded():
    for k in range(machinery.MAX_ENTRIES + 20):
        ops.relu(np.zeros(k + 1, np.float32))
    assert len(machinery._ready) <= machinery.MAX_ENTRIES
    big = np.zeros((1, 1, 1, machinery.MAX_BYTES // 8), np.float32)
    ops.conv2d(big, np.ones((1, 1, 1, 3), np.float32))
    assert sum(r.nbytes for r in machinery._ready.values()) <= machinery.MAX_BYTES


def test_results_are_the_callers_own():
    x = floats(2, 3)
    first = ops.relu(x)
    kept = first.copy()
    ops.relu(-x)
    np.testing.assert_array_equal(first, kept)
    assert not np.shares_memory(first, x)


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_other_float_types_keep_their_type(dtype):
    x, w = floats(1, 3, 6, 6), floats(4, 3, 3, 3, seed=1)
    got = ops.conv2d(x.astype(dtype), w.astype(dtype))
    assert got.dtype == dtype
    close(got.astype(np.float64), ops.conv2d(x, w).astype(np.float64),
          1e-2 if dtype == np.float16 else 1e-5)  # fmt: skip


def test_any_memory_layout_is_taken():
    x, w = floats(2, 3, 6, 5), floats(4, 3, 3, 3, seed=1)
    expected = ops.conv2d(x, w)
    readonly = x.copy()
    readonly.flags.writeable = False
    strided = np.repeat(x, 2, axis=3)[..., ::2]
    for same in (np.asfortranarray(x), x.astype(">f4"), readonly, strided):
        np.testing.assert_array_equal(ops.conv2d(same, np.asfortranarray(w)), expected)


@pytest.mark.parametrize("threads", [None, 0, 1, 2, 3])
def test_threads_do_not_change_a_bit(threads):
    x, w = floats(1, 16, 24, 24), floats(16, 16, 3, 3, seed=1)
    np.testing.assert_array_equal(ops.conv2d(x, w, threads=threads), ops.conv2d(x, w, threads=1))


# Errors.

X, W = np.zeros((1, 4, 8, 8), np.float32), np.zeros((6, 4, 3, 3), np.float32)

MISTAKES = {
    "x has rank 2": lambda: ops.conv2d(X[0, 0], W),
    "x has dtype int64": lambda: ops.relu(np.arange(3)),
    "x is not an array": lambda: ops.relu([[1.0], [1.0, 2.0]]),
    "weight is None": lambda: ops.conv2d(X, None),
    "weight has rank 3": lambda: ops.conv2d(X, W[0]),
    "weight has dtype float64": lambda: ops.conv2d(X, W.astype(np.float64)),
    "bias has rank 2": lambda: ops.conv2d(X, W, np.zeros((6, 1), np.float32)),
    "bias": lambda: ops.conv2d(X, W, np.zeros(5, np.float32)),
    "4 channels": lambda: ops.conv2d(X, W, groups=2),
    "groups 0": lambda: ops.conv2d(X, W, groups=0),
    "stride 0": lambda: ops.conv2d(X, W, stride=0),
    "stride 1.5": lambda: ops.conv2d(X, W, stride=1.5),
    r"stride \[1, 2, 3\] has 3 entries": lambda: ops.conv2d(X, W, stride=[1, 2, 3]),
    "dilation": lambda: ops.conv2d(X, W, dilation=0),
    "padding -1": lambda: ops.conv2d(X, W, padding=-1),
    "padding 'full'": lambda: ops.conv2d(X, W, padding="full"),
    'padding "same" needs stride 1': lambda: ops.conv2d(X, W, padding="same", stride=2),
    "larger than the padded input": lambda: ops.conv2d(X[:, :, :2], W),
    "output_padding 2": lambda: ops.conv_transpose2d(X, W[:4], stride=2, output_padding=2),
    "kernel_size": lambda: ops.max_pool2d(X, 0),
    "more than half": lambda: ops.max_pool2d(X, 3, padding=2),
    "output_size 0": lambda: ops.adaptive_avg_pool2d(X, 0),
    "output_size": lambda: ops.adaptive_avg_pool2d(X, (1, 2, 3)),
    "last axis": lambda: ops.linear(X, np.zeros((3, 5), np.float32)),
    "inner sizes": lambda: ops.matmul(X, X[:, :, :7]),
    "dim 4": lambda: ops.softmax(X, 4),
    "dim -5": lambda: ops.softmax(X, -5),
    "approximate 'fast'": lambda: ops.gelu(X, "fast"),
    "running_var is None": lambda: ops.batch_norm(X, np.zeros(4, np.float32), None),
    r"running_mean has shape \[3\]; expected \[4\]": lambda: ops.batch_norm(
        X, np.zeros(3, np.float32), np.zeros(3, np.float32)
    ),
    "normalized_shape": lambda: ops.layer_norm(X, (7,)),
    r"bias has shape \[7\]": lambda: ops.layer_norm(X, 8, bias=np.zeros(7, np.float32)),
    "threads=-1": lambda: ops.relu(X, threads=-1),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_name_the_function_and_the_argument(message):
    with pytest.raises(InputError, match=rf"^\w+: .*{message}"):
        MISTAKES[message]()


@pytest.mark.parametrize("name", ops.__all__)
def test_every_function_is_documented_and_takes_threads(name):
    function = getattr(ops, name)
    assert inspect.getdoc(function)
    assert inspect.signature(function).parameters["threads"].kind.name == "KEYWORD_ONLY"
