"""Traced sizes and tapes: what a tape gives is what Python gives."""

from math import ceil, floor, prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastconv import kernels
from fastconv.graph import tracing
from fastconv.graph.tracing import Recorder, Traced, Untraceable, pure, settled
from fastconv.plan import following, tape
from fastconv.plan.following import tape_of

sizes = st.lists(st.integers(1, 5000), min_size=2, max_size=2)


@pure
def parts(n, by):
    return -(-n // by), n % by


def sums(h, w):
    """Arithmetic as lowerings do it, with branches."""
    area = prod((3, h, w))
    rows = max(7, ceil(h / max(1, round(w / 96))))
    many = 2 if area > 50_000 else 1
    if h % 2 and not w % 3:
        rows += floor(area * 0.37)
    cost = min({"a": 2.5 * h + w, "b": area / 17}.values())
    return [area, rows, many, -h // 3, (w - h) % 7, abs(h - w), *parts(w, 8), ceil(cost), 1.5 * h]


def traced(values, function):
    recorder = Recorder()
    outputs = function(*[recorder.size(v) for v in values])
    return tape_of(recorder, outputs, []), recorder


@settings(max_examples=300, deadline=None)
@given(sizes, st.lists(sizes, min_size=1, max_size=8))
def test_a_tape_gives_what_python_gives_or_nothing(first, others):
    made, recorder = traced(first, sums)
    assert not recorder.narrow
    assert made.run(first)[0] == sums(*first)
    for other in others:
        found = made.run(other)
        if found is not None:
            assert found[0] == sums(*other)
            assert [type(v) for v in found[0]] == [type(v) for v in sums(*other)]


def test_a_tape_holds_where_comparisons_come_out_alike():
    made, _ = traced([8, 9], lambda h, w: [h + w if h < w else 0])
    assert made.run([3, 100])[0] == [103]
    assert made.run([100, 3]) is None


@pytest.mark.parametrize(
    "use",
    [
        lambda h: list(range(h)),
        lambda h: [0] * h,
        lambda h: np.zeros(h),
        lambda h: np.array([h], np.int64),
        str,
        int,
        float,
        lambda h: f"{h:d}",
        lambda h: (1, 2, 3, 4, 5)[h],
    ],
)
def test_whoever_asks_for_the_number_itself_is_given_it_for_that_number_alone(use):
    made, recorder = traced([4], lambda h: [use(h) is None])
    assert recorder.narrow
    assert made.run([4]) is not None
    assert made.run([5]) is None


@pytest.mark.parametrize("use", [hash, lambda h: {h: 1}, lambda h: h << 1, lambda h: h**2])
def test_what_no_tape_can_say_is_refused(use):
    with pytest.raises(TypeError):
        use(Recorder().size(4))


def test_traced_sizes_are_integers_to_isinstance_and_settled_ones_are():
    recorder = Recorder()
    h = recorder.size(4)
    assert isinstance(h, int)
    assert isinstance(h / 2, float)
    assert type(settled(h)) is int
    assert not recorder.narrow
    with pytest.raises(Untraceable):
        Recorder().number(h)


@pytest.mark.parametrize("values", [[1 << 40, 1 << 40], [1, 0]])
def test_numbers_out_of_range_end_a_run(values):
    made, _ = traced([5, 3], lambda h, w: [h * w * 3, h // w])
    assert made.run(values) is None


def test_a_pure_function_that_raises_ends_a_run():
    @pure
    def half(n):
        if n % 2:
            raise ValueError("odd")
        return n // 2

    made, _ = traced([8], lambda h: [half(h)])
    assert made.run([6])[0] == [3]
    assert made.run([7]) is None


def test_a_tape_refuses_what_would_reach_outside_of_it():
    most = tracing.MOST_VALUES
    assert tape.Tape(1, [4] * most, [False] * most, [], [], [], []).n_values == most
    with pytest.raises(ValueError, match="values"):
        tape.Tape(1, [4] * (most + 1), [False] * (most + 1), [], [], [], [])
    with pytest.raises(ValueError, match="no value 7"):
        tape.Tape(1, [4], [False], [], [], [7], [])
    with pytest.raises(ValueError, match="no field"):
        tape.Tape(1, [4], [False], [], [], [], [(b"1234", [(0, 0, 0)])])
    with pytest.raises(ValueError, match="2 sizes"):
        tape.Tape(1, [4], [False], [], [], [0], []).run([1, 2])
    assert tape.Tape(1, [4], [False], [], [], [0], []).run([1 << 63]) is None


def test_fields_of_parameter_structs_are_found_where_they_are():
    part = following.Part(
        "unary", dict(n=5, act=1, lo=0.0, hi=6.0, alpha=0.0, beta=0.0), (), 1, 0, 1, None, ()
    )
    isa = kernels.chosen_isa()
    pack = kernels.table(isa)["unary"].pack
    h = Traced(Recorder(), 0, 5)
    assert isinstance(h, int)
    for name, value in (("n", 77), ("act", 3), ("hi", 2.5)):
        at, kind = following.field_of(isa, part, name, -1)
        made = bytearray(pack(**part.params))
        dtype = (np.int64, np.int32, np.float32)[kind]
        made[at : at + np.dtype(dtype).itemsize] = dtype(value).tobytes()
        assert bytes(made) == pack(**{**part.params, name: value})
