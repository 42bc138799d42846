"""Plans kept in files: the same bits, whatever is asked for, from as many processes as may be."""

import os
import pickle
import random
import threading

import numpy as np
import pytest
from cli_tools import build, node, onnx
from random_graphs import network
from stored_tools import (
    SHAPES,
    X,
    hit,
    load,
    made,
    normal,
    only,
    python,
    read_in,
    same,
    settle,
    settled_models,
)

import fastconv
from fastconv.cli import main
from fastconv.runtime import stored, storing

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return settled_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "plans"


# Results.


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", SHAPES)
def test_the_same_bits_with_and_without(paths, cache, name, threads):
    x = normal(*SHAPES[name])
    plain = fastconv.load(paths[name], threads=threads, cache=False)
    feeds = {plain.inputs[0].name: x}
    expected = plain.run(feeds)
    first = load(paths[name], cache, threads=threads)
    same(first.run(feeds), expected)
    second = load(paths[name], cache, threads=threads)
    assert (hit(first), hit(second)) == (False, True)
    for _ in range(3):
        same(second.run(feeds), expected)
    assert not read_in(second)
    assert (second.inputs, second.outputs) == (plain.inputs, plain.outputs)
    for attribute in ("metadata", "overridable", "opset", "producer", "ir_version", "threads"):
        assert getattr(second, attribute) == getattr(plain, attribute)


def quantised(path):
    """A chain of quantised convolutions."""
    zero, scale = np.uint8(128), np.float32(0.05)
    nodes, consts = [], {"z": zero, "s": scale, "wz": np.int8(0)}
    nodes.append(node("QuantizeLinear", ["x", "s", "z"], ["q0"], "q"))
    for k in range(3):
        consts[f"w{k}"] = RNG.integers(-127, 127, (16, 16, 3, 3), np.int8)
        names = [f"q{k}", "s", "z", f"w{k}", "s", "wz", "s", "z"]
        nodes.append(node("QLinearConv", names, [f"q{k + 1}"], f"c{k}", pads=[1] * 4))
    nodes.append(node("DequantizeLinear", ["q3", "s", "z"], ["y"], "d"))
    path.write_bytes(build(nodes, {"x": [1, 16, 9, 9]}, ["y"], consts))
    return {"x": normal(1, 16, 9, 9)}


def test_quantised_and_random_networks(tmp_path, cache):
    nets = [(tmp_path / "q.onnx", quantised(tmp_path / "q.onnx"))]
    for seed in range(60):
        net = network(random.Random(seed))
        nets.append((tmp_path / f"{seed}.onnx", net.feeds))
        onnx.save(net.model, nets[-1][0])
    settle(nets[-1][0])
    hits = 0
    for path, feeds in nets:
        expected = fastconv.load(path, threads=1, fallback="allow", cache=False).run(feeds)
        for _ in range(2):
            model = load(path, cache, fallback="allow")
            same(model.run(feeds), expected)
        hits += hit(model)
    assert hits > len(nets) // 2
    assert len(list(cache.iterdir())) == storing.MAX_ENTRIES


@pytest.mark.parametrize(
    "options",
    [{"accuracy": "strict"}, {"weights": "float16"}, {"optimize": False}, {"disable": ["affine"]}],
)
def test_options_give_their_own_results(paths, cache, options):
    x = normal(*SHAPES["branches"])
    made(paths["branches"], cache, x)
    expected = fastconv.load(paths["branches"], threads=1, **options)(x)
    for wanted in (False, True):
        model = load(paths["branches"], cache, **options)
        assert hit(model) == wanted
        for got, e in zip(model(x), expected, strict=True):
            np.testing.assert_array_equal(got, e)


def test_other_shapes_after_a_hit(paths, cache):
    xs = [normal(n, 8, h, w) for n, h, w in ((1, 12, 12), (2, 9, 14), (1, 30, 5), (3, 7, 7))]
    plain = fastconv.load(paths["small"], threads=1, cache=False)
    expected = [plain(x) for x in xs]
    made(paths["small"], cache, xs[0])
    model = load(paths["small"], cache)
    for _ in range(2):
        for x, e in zip(xs, expected, strict=True):
            np.testing.assert_array_equal(model(x), e)
    assert read_in(model)
    later = load(paths["small"], cache)
    for x, e in zip(xs, expected, strict=True):  # each was added to the entry
        np.testing.assert_array_equal(later(x), e)
    assert not read_in(later)
    assert len(list(cache.iterdir())) == 1


def test_an_entry_keeps_a_few_plans_and_their_weights_once(paths, cache):
    sizes = []
    for k in range(storing.MAX_PLANS + 2):
        made(paths["branches"], cache, normal(1, 32, 16 + 2 * k, 16))
        sizes.append(only(cache).stat().st_size)
    assert len(stored.read(only(cache)).header["plans"]) == storing.MAX_PLANS
    assert sizes[-1] < sizes[0] * 1.5
    assert sizes[-1] == sizes[storing.MAX_PLANS - 1]


def test_prepare_stores_too(paths, cache):
    load(paths["small"], cache).prepare({"x": X.shape})
    model = load(paths["small"], cache)
    expected = fastconv.load(paths["small"], threads=1)(X)
    np.testing.assert_array_equal(model(X), expected)
    assert hit(model)
    assert not read_in(model)


def test_bad_feeds_are_named_as_ever(paths, cache):
    made(paths["small"], cache)
    model = load(paths["small"], cache)
    plain = fastconv.load(paths["small"], threads=1)
    for feeds in ({"x": X[0]}, {"x": X.astype(np.int64)}, {"q": X}, {"x": X[:, :3]}, {}):
        errors = []
        for m in (model, plain):
            with pytest.raises(fastconv.InputError) as caught:
                m.run(feeds)
            errors.append(str(caught.value))
        assert errors[0] == errors[1]


def test_what_the_entry_does_not_tell_is_read_from_the_file(paths, cache):
    made(paths["small"], cache)
    plain = fastconv.load(paths["small"], threads=1)
    shapes = {"x": X.shape}
    assert load(paths["small"], cache).summary(shapes) == plain.summary(shapes)
    model = load(paths["small"], cache)
    assert [n.name for n in model.graph.nodes] == ["conv"]
    [(plan, times)] = model.profile({"x": X})
    assert len(plan.steps) == len(times)
    assert model.tuned is None
    assert model.definition.graph.name == "g"
    with pytest.raises(AttributeError, match="nonsense"):
        _ = model.nonsense


def test_many_threads_read_the_file_once(paths, cache):
    made(paths["small"], cache)
    model = load(paths["small"], cache)
    xs = [normal(1, 8, 6 + k % 4, 11) for k in range(8)]
    plain = fastconv.load(paths["small"], threads=1, cache=False)
    expected = [plain(x) for x in xs]
    got, graphs = [None] * 8, set()

    def work(k):
        got[k] = model(xs[k])
        graphs.add(id(model.graph))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for g, e in zip(got, expected, strict=True):
        np.testing.assert_array_equal(g, e)
    assert len(graphs) == 1


def test_fed_initializers(tmp_path, cache):
    w = normal(4, 8, 1, 1)
    model = onnx.load_from_string(
        build([node("Conv", ["x", "w"], ["y"])], {"x": ["N", 8, "H", "W"]}, ["y"], {"w": w})
    )
    model.graph.input.append(onnx.helper.make_tensor_value_info("w", 1, w.shape))
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    settle(path)
    made(path, cache)
    found = load(path, cache)
    assert hit(found)
    assert [(o.name, o.shape) for o in found.overridable] == [("w", w.shape)]
    other = fastconv.load(path, threads=1).run({"x": X, "w": 2 * w})
    same(found.run({"x": X, "w": 2 * w}), other)
    same(found.run({"x": X}), fastconv.load(path, threads=1).run({"x": X}))


def test_memory_limits_hold(paths, cache):
    made(paths["small"], cache, memory_limit=1 << 20)
    model = load(paths["small"], cache, memory_limit=1 << 20)
    assert hit(model)
    with pytest.raises(fastconv.MemoryLimitError):
        model(np.zeros((8, 8, 256, 256), np.float32))
    record = model._stored._records[next(iter(model._stored._records))]
    model._stored.wanted.limit = record["arena"]  # as if the machine had less memory now
    assert model._stored._load(record) is None


# The interfaces.


def test_the_session_takes_an_entry(paths, cache):
    def session():
        options = fastconv.SessionOptions()
        options.intra_op_num_threads = 1
        options.add_session_config_entry("fastconv.cache", str(cache))
        return fastconv.InferenceSession(str(paths["branches"]), options)

    x = normal(*SHAPES["branches"])
    plain = fastconv.InferenceSession(str(paths["branches"]))
    expected = plain.run(None, {"x": x})
    for k in range(3):
        found = session() if k < 2 else pickle.loads(pickle.dumps(session()))
        for got, e in zip(found.run(None, {"x": x}), expected, strict=True):
            np.testing.assert_array_equal(got, e)
        assert hit(found._model) == (k > 0)
        assert found.get_inputs() == plain.get_inputs()
        assert found.get_outputs() == plain.get_outputs()
        assert read_in(found._model) == (k == 0)
        assert found.get_modelmeta() == plain.get_modelmeta()


def test_dimensions_are_overridden_after_a_hit(paths, cache):
    made(paths["small"], cache)
    options = fastconv.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("fastconv.cache", str(cache))
    options.add_free_dimension_override_by_name("N", 1)
    session = fastconv.InferenceSession(str(paths["small"]), options)
    assert hit(session._model)
    assert session.get_inputs()[0].shape == [1, 8, "H", "W"]
    with pytest.raises(fastconv.InputError):
        session.run(None, {"x": normal(2, 8, 12, 12)})


def test_the_command_line(paths, cache, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    np.save(tmp_path / "x.npy", X)
    args = ["run", str(paths["small"]), "--input", f"x={tmp_path / 'x.npy'}", "--threads", "1"]
    printed = []
    for more in ([], ["--cache"], ["--cache"]):
        assert main([*args, *more]) == 0
        printed.append(capsys.readouterr().out)
        assert cache.exists() == bool(more)
    assert printed[0] == printed[1] == printed[2]
    args = ["bench", str(paths["small"]), "--shape", "1,8,12,12", "--threads", "1", "--runs", "1"]
    assert main([*args, "--cache"]) == 0
    assert len(list((cache / "fastconv" / "plans").iterdir())) == 1


def test_which_folder(paths, cache, monkeypatch, tmp_path):
    def files():
        return {p.parent for p in tmp_path.rglob("*.plans")}

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    load(paths["small"], None)(X)
    load(paths["small"], False)(X)
    assert files() == set()
    load(paths["small"], True)(X)
    assert files() == {tmp_path / "xdg" / "fastconv" / "plans"}
    monkeypatch.setenv("FASTCONV_CACHE", str(tmp_path / "env"))
    load(paths["small"], False)(X)
    assert len(files()) == 1
    load(paths["small"], None)(X)
    assert tmp_path / "env" / "plans" in files()
    load(paths["small"], tmp_path / "own")(X)
    assert tmp_path / "own" in files()
    for bad in ("", 3, b"folder", "a\0b"):
        with pytest.raises(fastconv.OptionError, match="cache="):
            load(paths["small"], bad)


def test_bytes_are_not_stored(paths, cache):
    load(paths["small"].read_bytes(), cache)(X)
    assert not cache.exists()


# Processes.


def test_a_hit_imports_no_importer(paths, cache):
    made(paths["small"], cache)
    child = python(f"""
        import sys, numpy as np, fastconv
        m = fastconv.load({str(paths["small"])!r}, threads=1, cache={str(cache)!r})
        m(np.zeros((1, 8, 12, 12), np.float32))
        assert m._stored is not None
        print(*sys.modules)
    """)
    out, err = child.communicate()
    assert child.returncode == 0, err
    parts = {n.split(".")[1] for n in out.split() if n.startswith("fastconv.")}
    assert not parts & {"importer", "passes", "plan", "graph", "ops", "loading"}
    assert not {"json", "tempfile", "threading", "hashlib"} & set(out.split())


def test_processes_that_write_the_same_entry(paths, cache):
    code = f"""
        import numpy as np, fastconv
        path = {str(paths["branches"])!r}
        x = np.ones((1, 32, 20, 20), np.float32)
        want = fastconv.load(path, threads=1, cache=False).run({{"x": x}})
        for k in range(6):
            m = fastconv.load(path, threads=1, cache={str(cache)!r})
            got = m.run({{"x": x}})
            assert all((got[n] == want[n]).all() for n in want)
            m.run({{"x": x[:, :, : 8 + k]}})
    """
    children = [python(code) for _ in range(4)]
    for child in children:
        _, err = child.communicate()
        assert child.returncode == 0, err
    assert only(cache).suffix == ".plans"
    assert hit(load(paths["branches"], cache))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("locked", [False, True])
def test_a_forked_child_goes_on(paths, cache, locked):
    made(paths["small"], cache, threads=2)
    model = load(paths["small"], cache, threads=2)
    expected = model(X)
    other = fastconv.load(paths["small"], threads=2, cache=False)(X[:, :, :7])
    if locked:
        model._stored.lock.acquire()  # as if another thread were reading the file
    pid = os.fork()
    if pid == 0:
        ok = (model(X) == expected).all() and (model(X[:, :, :7]) == other).all()
        os._exit(0 if ok and hit(model) else 1)
    if locked:
        model._stored.lock.release()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    np.testing.assert_array_equal(model(X), expected)


def test_pickles(paths, cache):
    made(paths["small"], cache)
    model = load(paths["small"], cache)
    data = pickle.dumps(model)
    assert not read_in(model)
    copy = pickle.loads(data)
    assert hit(copy)
    np.testing.assert_array_equal(copy(X), model(X))
    only(cache).unlink()
    copy = pickle.loads(data)
    assert not hit(copy)
    np.testing.assert_array_equal(copy(X), model(X))
