"""Convolutions with dilations near the size of the image, a product for each tap."""

import numpy as np
import pytest
from harness import check_op
from hypothesis import given, settings
from hypothesis import strategies as st
from test_depthwise import arrays, kernel_of

from fastconv.graph.activation import Activation
from fastconv.graph.ops.conv import Conv


@settings(max_examples=30, deadline=None)
@given(
    size=st.tuples(st.integers(5, 14), st.integers(5, 14)),
    dilations=st.tuples(st.integers(1, 10), st.integers(2, 12)),
    strides=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    group=st.sampled_from([1, 2]),
    act=st.sampled_from([None, Activation("clip", 0.0, 6.0), Activation("silu", 1.0)]),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_such_convolution_matches_its_twin(size, dilations, strides, group, act, seed):
    rng = np.random.default_rng(seed)
    x, w, b = arrays(rng, (2, 64 * group, *size), (6 * group, 64, 3, 3), (6 * group,))
    op = Conv(dilations=dilations, pads=dilations * 2, strides=strides, group=group, activation=act)
    check_op(op, [x, w, b], atol=1e-5)


def steps(dilation, channels=64, size=14):
    x, w = arrays(np.random.default_rng(0), (1, channels, size, size), (8, channels, 3, 3))
    return kernel_of(Conv(dilations=(dilation,) * 2, pads=(dilation,) * 4), [x, w]).count("conv")


def test_there_are_as_many_products_as_taps_that_reach_the_image():
    assert steps(12) == 9
    assert steps(14) == 1  # all but the middle one reach nothing


@pytest.mark.parametrize(("dilation", "channels"), [(1, 64), (2, 64), (12, 32)])
def test_where_most_taps_reach_most_pixels_or_channels_are_few_there_is_one(dilation, channels):
    assert steps(dilation, channels) <= 1


def test_a_tap_of_infinity_reaches_only_its_pixels():
    x, w = arrays(np.random.default_rng(0), (1, 64, 9, 9), (4, 64, 3, 3))
    x[0, 3, 0, 0] = np.inf
    check_op(Conv(dilations=(7, 7), pads=(7,) * 4), [x, w], atol=1e-5)


def test_a_convolution_with_a_residual_is_one_product():
    x, w, r = arrays(np.random.default_rng(0), (1, 64, 9, 9), (4, 64, 3, 3), (1, 4, 9, 9))
    check_op(Conv(dilations=(7, 7), pads=(7,) * 4), [x, w, None, r], atol=1e-5)
