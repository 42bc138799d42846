"""Threads, forks, pickles, signals: the same bits whoever runs a model, and nothing hangs."""

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import fastconv
from fastconv import InferenceSession

#: Seconds after which something that must not hang counts as hanging.
LIMIT = 60


def conv_chain(layers, channels=32):
    """A chain of 3×3 convolutions and Relu over inputs [N, channels, H, W], as bytes."""
    rng = np.random.default_rng(0)
    nodes, weights = [], []
    for i in range(layers):
        w = rng.standard_normal((channels, channels, 3, 3)).astype(np.float32) * 0.08
        weights.append(numpy_helper.from_array(w, f"w{i}"))
        nodes.append(helper.make_node("Conv", [f"x{i}", f"w{i}"], [f"c{i}"], pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"x{i + 1}"]))
    value = helper.make_tensor_value_info
    shape = ["N", channels, "H", "W"]
    graph = helper.make_graph(
        nodes, "chain", [value("x0", TensorProto.FLOAT, shape)],
        [value(f"x{layers}", TensorProto.FLOAT, shape)], weights,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return model.SerializeToString()


CHAIN = conv_chain(3)


@pytest.fixture(scope="module", params=[1, 2])
def model(request):
    return fastconv.load(CHAIN, threads=request.param)


def inputs(count, size=24):
    rng = np.random.default_rng(1)
    return [rng.standard_normal((1, 32, size, size)).astype(np.float32) for _ in range(count)]


def test_eight_threads_at_once_get_the_bits_of_one(model):
    xs = inputs(8)
    expected = [model(x) for x in xs]
    wrong = []
    start = threading.Barrier(8)

    def work(k):
        start.wait()
        for r in range(5):
            if model(xs[(k + r) % 8]).tobytes() != expected[(k + r) % 8].tobytes():
                wrong.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(LIMIT)
    assert not any(t.is_alive() for t in threads)
    assert not wrong


def test_threads_that_plan_new_shapes_at_once(model):
    xs = [np.ones((1, 32, 4 + k % 3, 5), np.float32) for k in range(6)]
    results = [None] * 6

    def work(k):
        results[k] = model(xs[k])

    threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(LIMIT)
    for x, y in zip(xs, results, strict=True):
        assert y.tobytes() == model(x).tobytes()


def test_plans_are_kept_for_a_bounded_number_of_shapes(model):
    for k in range(30):
        model(np.ones((1, 32, 3, 3 + k), np.float32))
    assert len(model._engine._plans) <= model._engine.max_plans


# Fork. Each test forks from this process, in which OpenMP has run by then.


def wait_for(pid, end=None):
    """A child's exit status; kills it after ``LIMIT`` seconds."""
    end = end or time.monotonic() + LIMIT
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "hangs"


def fork(work):
    """Run ``work()`` in a forked child; exit status 0 if it returned a true value."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = 0 if work() else 2
        finally:
            os._exit(status)
    return pid


pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


@needs_fork
def test_forked_children_run_beside_their_parent(model):
    x, other = inputs(2)
    expected, parents = model(x), model(other)
    work = lambda: all(model(x).tobytes() == expected.tobytes() for _ in range(20))  # noqa: E731
    pids = [fork(work) for _ in range(4)]
    # Parent and children share no memory that a run writes to.
    assert all(model(other).tobytes() == parents.tobytes() for _ in range(20))
    end = time.monotonic() + LIMIT
    assert [wait_for(p, end) for p in pids] == [0] * 4


@needs_fork
def test_many_forks_one_after_another(model):
    (x,) = inputs(1, 16)
    expected = model(x).tobytes()
    for _ in range(15):
        assert wait_for(fork(lambda: model(x).tobytes() == expected)) == 0
        assert model(x).tobytes() == expected


@needs_fork
def test_a_child_can_fork_and_use_threads_too(model):
    (x,) = inputs(1, 16)
    expected = model(x).tobytes()

    def grandchild():
        return model(x).tobytes() == expected

    def child():
        results = []
        t = threading.Thread(target=lambda: results.append(model(x).tobytes() == expected))
        t.start()
        t.join(LIMIT)
        first = model(x).tobytes() == expected
        return first and results == [True] and wait_for(fork(grandchild)) == 0

    assert wait_for(fork(child)) == 0


@needs_fork
def test_fork_while_other_threads_run_and_plan(model):
    (x,) = inputs(1)
    expected = model(x).tobytes()
    stop = threading.Event()

    def busy(k):
        n = 0
        while not stop.is_set():
            n += 1
            model(np.ones((1, 32, 20, 5 + (k + n) % 11), np.float32))  # plans over and over

    threads = [threading.Thread(target=busy, args=(k,)) for k in range(2)]
    for t in threads:
        t.start()
    try:
        new = np.ones((1, 32, 9, 9), np.float32)
        for _ in range(6):
            pid = fork(lambda: model(x).tobytes() == expected and model(new).shape == new.shape)
            assert wait_for(pid) == 0
    finally:
        stop.set()
        for t in threads:
            t.join(LIMIT)


@needs_fork
def test_a_child_may_load_a_model_of_its_own(model):
    (x,) = inputs(1)
    expected = model(x).tobytes()
    threads = model.threads
    assert wait_for(fork(lambda: fastconv.load(CHAIN, threads)(x).tobytes() == expected)) == 0


def run_pickled(task):
    model, x = task
    return model(x) if isinstance(model, fastconv.Model) else model.run(None, {"x0": x})[0]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_models_and_sessions_travel_to_pool_workers(method):
    if method not in multiprocessing.get_all_start_methods():
        method = "spawn"
    (x,) = inputs(1)
    m, s = fastconv.load(CHAIN, threads=2), InferenceSession(CHAIN)
    expected = m(x).tobytes()
    with multiprocessing.get_context(method).Pool(2) as pool:
        got = pool.map_async(run_pickled, [(m, x), (s, x), (m, x)]).get(LIMIT)
    assert [g.tobytes() for g in got] == [expected] * 3


def test_a_model_pickles_with_its_options(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(CHAIN)
    for source in (path, CHAIN):
        m = fastconv.load(source, threads=2, optimize=False, memory_limit=1 << 30)
        copy = pickle.loads(pickle.dumps(m))
        assert copy.threads == 2
        assert len(copy.graph.nodes) == len(m.graph.nodes)
        assert copy._engine.memory_limit == 1 << 30


# What a run does to its process.


def script(body):
    """Python code that has ``CHAIN``, run in a new process."""
    head = f"""
        import sys
        sys.path.insert(0, {os.path.dirname(__file__)!r})
        import numpy as np, fastconv, os, signal, threading, time
        from test_concurrency import CHAIN, conv_chain
    """
    code = textwrap.dedent(head) + textwrap.dedent(body)
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT, check=False
    )


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals on Windows")
@pytest.mark.parametrize(
    ("threads", "call"), [(1, "m(x)"), (2, "m(x)"), (1, "m.profile({'x0': x})")]
)
def test_ctrl_c_ends_a_single_long_run(threads, call):
    # One run of many layers takes some seconds; the interrupt comes soon after its start.
    done = script(f"""
        m = fastconv.load(conv_chain(40, 64), threads={threads})
        x = np.zeros((1, 64, 320, 320), np.float32)
        m.prepare({{"x0": x.shape}})
        # (A shell lets its background jobs ignore it.)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        start = time.monotonic()
        try:
            {call}
        except KeyboardInterrupt:
            after = time.monotonic() - start
            small = np.ones((1, 64, 8, 8), np.float32)
            assert np.isfinite(m(small)).all()
            print("interrupted after", after)
        else:
            print("ran to the end in", time.monotonic() - start)
    """)
    assert "interrupted after" in done.stdout, done.stdout + done.stderr
    assert float(done.stdout.split()[-1]) < 1.0


@pytest.mark.parametrize("threads", [1, 2])
def test_denormals_count_again_after_a_run(threads):
    tiny = np.float32(1e-30)
    m = fastconv.load(CHAIN, threads=threads)
    assert tiny * np.float32(1e-10) != 0  # a denormal number
    m(inputs(1)[0])
    assert tiny * np.float32(1e-10) != 0
    big = np.full(100_000, 1e-30, np.float32)
    assert (big * np.float32(1e-10) != 0).all()
    with pytest.raises(fastconv.InputError):
        m(np.zeros(3, np.float32))
    assert tiny * np.float32(1e-10) != 0


def test_no_thread_spins_after_a_run():
    done = script("""
        m = fastconv.load(CHAIN, threads=2)
        x = np.zeros((1, 32, 64, 64), np.float32)
        for _ in range(5):
            m(x)
        time.sleep(0.1)
        before = time.process_time()
        time.sleep(0.5)
        print(time.process_time() - before)
    """)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 0.1  # a spinning thread would take 0.5 s


def test_a_run_waits_for_no_helper_that_gets_no_processor():
    # Helper and caller share one processor: helping can only cost, and soon is given up.
    done = script("""
        import statistics
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        x = np.zeros((1, 32, 64, 64), np.float32)
        models = [fastconv.load(CHAIN, threads=t) for t in (1, 2)]
        times = [[], []]
        for m in models:
            m(x)
        for _ in range(40):
            for m, t in zip(models, times):
                start = time.process_time()
                m(x)
                t.append(time.process_time() - start)
        print(statistics.median(times[1]) / statistics.median(times[0]))
    """)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1.5


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no affinity on this system")
def test_helpers_that_move_to_another_core_keep_their_affinity():
    # Other threads keep every core busy, so that helpers are woken beside the caller now and then.
    done = script("""
        import threading
        stop = threading.Event()
        x = np.zeros((1, 32, 64, 64), np.float32)
        m = fastconv.load(CHAIN, threads=2)
        work = lambda: [hash(x.tobytes()) for _ in iter(stop.is_set, True)]
        busy = [threading.Thread(target=work)
                for _ in os.sched_getaffinity(0)]
        for t in busy:
            t.start()
        expected = m(x)
        for _ in range(60):
            np.testing.assert_array_equal(m(x), expected)
        stop.set()
        for t in busy:
            t.join()
        def masks():
            for t in tasks:
                try:
                    yield frozenset(os.sched_getaffinity(t))
                except ProcessLookupError:  # one of those that were busy: joined, and not gone yet
                    pass
        tasks = [int(t) for t in os.listdir("/proc/self/task")]
        same = False
        for _ in range(100):  # (one may be on its way at this very moment)
            same = same or set(masks()) == {frozenset(os.sched_getaffinity(0))}
            time.sleep(0 if same else 0.01)
        print(len(tasks) > 1, same)
    """)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True", "True"]


def test_threads_are_kept_for_the_next_run_and_not_for_every_model():
    done = script("""
        from fastconv.runtime import executor
        x = np.ones((1, 32, 64, 64), np.float32)
        counts = []
        for threads in (1, 2, 2, 3):
            m = fastconv.load(CHAIN, threads=threads)
            for _ in range(3):
                m(x)
            counts.append(executor.helpers())
        for threads in range(4, 40):
            fastconv.load(CHAIN, threads=threads)(x)
            assert executor.helpers() <= 64, executor.helpers()
        print(counts)
    """)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[0, 1, 1, 3]"


def test_a_node_in_python_may_fork():
    # Pieces of later steps are offered to helpers that the child does not have.
    done = script("""
        from fastconv.graph.ops.activations import Relu
        m = fastconv.load(CHAIN, threads=2, optimize=False)
        x = np.ones((1, 32, 64, 64), np.float32)
        expected = m(x).tobytes()
        from fastconv.plan.lower import LOWER
        LOWER[Relu] = lambda low, node: False
        pids, compute = [], Relu.compute
        def forking(self, arrays):
            if not pids:
                pids.append(os.fork())
            return compute(self, arrays)
        Relu.compute = forking
        same = fastconv.load(CHAIN, threads=2, optimize=False)(x).tobytes() == expected
        if pids[0] == 0:
            os._exit(0 if same else 1)
        print(same, os.waitpid(pids[0], 0)[1])
    """)
    assert done.stdout.strip() == "True 0", done.stdout + done.stderr


# What can be fed.


def test_any_array_that_holds_the_values_can_be_fed(model):
    (x,) = inputs(1)
    expected = model(x).tobytes()
    readonly = x.copy()
    readonly.flags.writeable = False
    wide = np.repeat(x, 2, axis=3)
    unaligned = np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape)
    for same in (
        np.asfortranarray(x),
        wide[..., ::2],
        x[..., ::-1].copy()[..., ::-1],
        x.astype(">f4"),
        readonly,
        unaligned,
        x.tolist(),
    ):
        assert model(same).tobytes() == expected
    np.testing.assert_array_equal(readonly, x)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((1, 32, 24, 24), np.float64),
        np.zeros((1, 32, 24, 24), np.int32),  # as many bytes
        np.zeros((1, 31, 24, 24), np.float32),
        np.zeros((32, 24, 24), np.float32),
        np.zeros((1, 32, 24, 24), "M8[s]"),  # NumPy gives no buffer of it
    ],
    ids=lambda a: f"{a.dtype}{list(a.shape)}",
)
def test_a_run_that_fitted_lets_no_wrong_input_through_after_it(model, wrong):
    model(inputs(1)[0])
    with pytest.raises(fastconv.InputError, match="x0"):
        model(wrong)
    with pytest.raises(fastconv.InputError, match="x0"):
        model.run({"x0": wrong})
    with pytest.raises(fastconv.InputError, match="no input 'more'"):
        model.run({"x0": inputs(1)[0], "more": wrong})


def test_shapes_may_change_from_run_to_run(model):
    small, large = np.ones((1, 32, 8, 8), np.float32), np.ones((2, 32, 9, 7), np.float32)
    for x in (small, large, small, small, large, large):
        assert model(x).shape == model.run({"x0": x})["x3"].shape == x.shape


def test_results_of_earlier_runs_stay_as_they_are(model):
    a, b = inputs(2)
    first = model(a)
    kept = first.copy()
    model(b)
    np.testing.assert_array_equal(first, kept)
