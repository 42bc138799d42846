"""``fastconv tune``: decisions, what is kept of them, and when that is ignored."""

import json
import os
import pathlib
import pickle
import re
import subprocess
import sys
import warnings

import numpy as np
import pytest
from cli_tools import LENET, build, node

import fastconv
from fastconv import tuning
from fastconv.cli import main
from fastconv.graph import Node
from fastconv.graph.ops.conv import Conv
from fastconv.plan.choice import Choices, decision_key
from fastconv.runtime.engine import Engine
from fastconv.tuner import tune
from fastconv.tuning import TuneWarning

X = np.random.default_rng(0).standard_normal((1, 32, 20, 20)).astype(np.float32)


def conv_model(seed=0, pads=(1, 1, 1, 1)):
    """A 3×3 convolution that may be done directly or by Winograd's algorithm."""
    w = np.random.default_rng(seed).standard_normal((32, 32, 3, 3)).astype(np.float32)
    nodes = [node("Conv", ["x", "w"], ["y"], "conv", pads=list(pads))]
    return build(nodes, {"x": ["N", 32, "H", "W"]}, ["y"], {"w": w})


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache folder for each test."""
    monkeypatch.setenv("FASTCONV_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(conv_model())
    return path


def forced(model, **wanted):
    """A record that takes these alternatives by kind; kinds that come up on the way too."""
    record = {}
    shapes = {"x": fastconv.graph.TensorType(X.dtype, X.shape)}
    for _ in wanted:
        trace = []
        Engine(model.graph, model.threads, choices=Choices(record, trace)).prepare(shapes)
        record |= {d.key: wanted[d.kind] for d in trace if d.kind in wanted}
    return record


def kernels_of(model):
    """The kernels that multiply."""
    return {s.kernel for s in model.prepare({"x": X.shape}).plan.steps if s.macs}


def keep(path, choice):
    """Write a file of choices beside the model and return it."""
    model = fastconv.load(path, threads=1, tuned=False)
    record = forced(model, amx="vector", conv=choice)
    file = pathlib.Path(tuning.beside(str(path)))
    tuning.write(str(file), model.original, record, {})
    return file


@pytest.fixture
def plain(path):
    """What the model gives without tuning, and the kernels that do it."""
    model = fastconv.load(path, threads=1, tuned=False)
    return model(X), kernels_of(model)


# Decisions.


def choose(choices, costs, threads=1, pads=(0, 0, 0, 0), shape=(1, 8, 9, 9)):
    n = Node(Conv(pads=pads), ["x", "w"], ["y"], "conv")
    return choices.choose("conv", n, [shape, (8, 8, 3, 3)], threads, "v3", costs)


def test_the_least_estimated_cost_wins_without_a_record():
    assert choose(Choices(), {"a": 2.0, "b": 1.0}) == "b"
    assert choose(Choices(), {"a": 1.0, "b": 1.0}) == "a"


def test_a_record_overrides_the_estimate_for_its_own_key_alone():
    key = decision_key(
        "conv", Node(Conv(pads=(0, 0, 0, 0)), [], [], ""), [(1, 8, 9, 9), (8, 8, 3, 3)], 1, "v3"
    )
    choices = Choices({key: "a"})
    costs = {"a": 2.0, "b": 1.0}
    assert choose(choices, costs) == "a"
    assert choices.used == {key}
    assert choose(choices, costs, threads=2) == "b"
    assert choose(choices, costs, pads=(1, 1, 1, 1)) == "b"
    assert choose(choices, costs, shape=(2, 8, 9, 9)) == "b"
    assert choose(choices, {"b": 1.0, "c": 2.0}) == "b"


# The file.


@pytest.mark.parametrize(("choice", "kernel"), [("direct", "conv"), ("winograd2", "winograd")])
def test_what_was_tuned_is_used_when_loading(path, choice, kernel):
    file = keep(path, choice)
    model = fastconv.load(path, threads=1)
    assert model.tuned.path == str(file)
    assert kernels_of(model) == {kernel}
    assert kernels_of(pickle.loads(pickle.dumps(model))) == {kernel}
    assert fastconv.load(path, threads=1, tuned=False).tuned is None


def test_strict_accuracy_wins_over_what_was_tuned(path):
    keep(path, "winograd4")
    assert kernels_of(fastconv.load(path, threads=1)) == {"winograd"}
    assert kernels_of(fastconv.load(path, threads=1, accuracy="strict")) == {"conv"}


def test_names_that_no_alternative_has_are_ignored(path, plain):
    file = keep(path, "direct")
    content = json.loads(file.read_text())
    for entry in content["choices"].values():
        entry["choice"] = "../../etc/passwd"
    file.write_text(json.dumps(content))
    model = fastconv.load(path, threads=1)
    assert kernels_of(model) == plain[1]
    assert model(X).tobytes() == plain[0].tobytes()


def ignored(path, plain, reason):
    """The file beside the model is ignored with one warning that gives the reason."""
    with pytest.warns(TuneWarning, match=reason) as record:
        model = fastconv.load(path, threads=1)
    assert len(record) == 1
    assert str(path) in str(record[0].message)
    assert model.tuned is None
    assert kernels_of(model) == plain[1]
    assert model(X).tobytes() == plain[0].tobytes()


DAMAGE = {
    "empty": b"",
    "binary": bytes(range(256)) * 10,
    "no object": b"[1, 2]",
    "text": b"hello",
    "deep": b"[" * 100_000,
    "another form": b'{"format": 99}',
    "a number for choices": None,
    "large": b" " * (tuning.MAX_BYTES + 1),
}


@pytest.mark.parametrize("kind", [*DAMAGE, "cut", "folder", "dangling link"])
def test_a_damaged_file_is_ignored_with_a_warning(path, plain, kind):
    file = keep(path, "direct")
    good = file.read_bytes()
    file.unlink()
    if kind == "folder":
        file.mkdir()
    elif kind == "dangling link":
        file.symlink_to("nowhere")
    elif kind == "cut":
        file.write_bytes(good[: len(good) // 2])
    elif kind == "a number for choices":
        file.write_text(json.dumps({**json.loads(good), "choices": 7}))
    else:
        file.write_bytes(DAMAGE[kind])
    ignored(path, plain, "it is ignored")


@pytest.mark.parametrize("entry", [None, 1, "direct", {}, {"choice": 3}, {"choice": ["direct"]}])
def test_a_damaged_entry_spoils_the_file(path, plain, entry):
    file = keep(path, "direct")
    content = json.loads(file.read_text())
    content["choices"] = dict.fromkeys(content["choices"], entry) or {"k": entry}
    file.write_text(json.dumps(content))
    ignored(path, plain, "damaged")


def test_another_processor_invalidates_it(path, plain, monkeypatch):
    keep(path, "direct")
    monkeypatch.setattr(tuning, "cpu_name", lambda: "Another CPU")
    ignored(path, plain, "another processor")


def test_another_version_invalidates_it(path, plain, monkeypatch):
    keep(path, "direct")
    monkeypatch.setattr(fastconv, "__version__", "9.9.9")
    ignored(path, plain, "another version of fastconv")


@pytest.mark.parametrize("changed", [conv_model(seed=1), conv_model(pads=(0, 0, 0, 0))])
def test_a_changed_model_invalidates_it(path, changed):
    keep(path, "direct")
    path.write_bytes(changed)
    with pytest.warns(TuneWarning, match="the model has changed"):
        assert fastconv.load(path, threads=1).tuned is None


def test_other_shapes_and_threads_keep_their_estimates(path):
    keep(path, "direct")
    model = fastconv.load(path, threads=2)
    model.prepare({"x": X.shape})
    assert model._engine.choices.used == set()
    model = fastconv.load(path, threads=1)
    model.prepare({"x": (1, 32, 40, 40)})
    assert model._engine.choices.used == set()


def test_tuning_for_more_shapes_adds_to_the_file(path):
    file = keep(path, "direct")
    model = fastconv.load(path, threads=1, tuned=False)
    before = json.loads(file.read_text())["choices"]
    tuning.write(str(file), model.original, {"new": "a"}, {"new": {"a": 1.5, "b": 2.0}})
    after = json.loads(file.read_text())["choices"]
    assert after == {**before, "new": {"choice": "a", "ms": {"a": 1.5, "b": 2.0}}}


def test_a_file_that_cannot_be_written_leaves_the_old_one(path, monkeypatch):
    file = keep(path, "direct")
    old = file.read_bytes()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    model = fastconv.load(path, threads=1, tuned=False)
    with pytest.raises(fastconv.OptionError, match=r"cannot write.*No space"):
        tuning.write(str(file), model.original, {"k": "a"}, {})
    assert file.read_bytes() == old
    assert sorted(p.name for p in file.parent.iterdir()) == ["model.onnx", file.name]


# The cache folder.


def test_the_cache_serves_the_same_model_from_anywhere(path, cache):
    model = fastconv.load(path, threads=1, tuned=False)
    place = tuning.cached_path(model.original)
    assert pathlib.Path(place).parent == cache
    tuning.write(place, model.original, forced(model, amx="vector", conv="direct"), {})
    assert tuning.cached_files() == 1
    assert kernels_of(fastconv.load(path.read_bytes(), threads=1)) == {"conv"}
    assert fastconv.load(path, threads=1).tuned.path == place
    beside = keep(path, "winograd2")
    assert fastconv.load(path, threads=1).tuned.path == str(beside)
    beside.write_text("damaged")
    with pytest.warns(TuneWarning):
        assert fastconv.load(path, threads=1).tuned.path == place


def test_a_cache_made_on_another_machine_is_passed_over_in_silence(path, monkeypatch):
    model = fastconv.load(path, threads=1, tuned=False)
    tuning.write(tuning.cached_path(model.original), model.original, {"k": "a"}, {})
    monkeypatch.setattr(tuning, "cpu_name", lambda: "Another CPU")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fastconv.load(path, threads=1).tuned is None


def test_where_the_cache_is(monkeypatch, tmp_path):
    assert tuning.cache_folder() == os.environ["FASTCONV_CACHE"]
    monkeypatch.delenv("FASTCONV_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert tuning.cache_folder() == str(tmp_path / "fastconv")
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    monkeypatch.setenv("HOME", str(tmp_path))
    if sys.platform == "linux":
        assert tuning.cache_folder() == str(tmp_path / ".cache" / "fastconv")


def test_a_cache_that_is_no_folder_does_no_harm(path, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    for place in ("file", "nowhere"):
        monkeypatch.setenv("FASTCONV_CACHE", str(tmp_path / place))
        assert fastconv.load(path).tuned is None


def test_loading_without_tuned_files_imports_nothing_for_them():
    code = (
        f"import sys, fastconv; fastconv.load({LENET!r});"
        "print([m for m in ('fastconv.tuner', 'json', 'tempfile') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before = "import sys, numpy; print([m for m in ('json', 'tempfile') if m in sys.modules])"
    base = subprocess.run(
        [sys.executable, "-c", before], capture_output=True, text=True, check=True
    )
    assert done.stdout == base.stdout


# Tuning.


def test_tuning_times_every_alternative_and_takes_the_fastest(path):
    model = fastconv.load(path, threads=1, tuned=False)
    found = tune(model, {"x": X.shape}, 0.1)
    assert {o.kind for o in found.outcomes} >= {"conv"} or {o.kind for o in found.outcomes} == {
        "amx"
    }
    for o in found.outcomes:
        assert len(o.milliseconds) > 1
        assert all(ms > 0 for ms in o.milliseconds.values())
        assert o.milliseconds[o.choice] <= 1.2 * min(o.milliseconds.values())
        assert o.nodes == ["conv"]
    assert found.speedup > 0
    assert kernels_of(model)  # the model itself still plans as before


def test_a_slow_estimate_is_found_out(path, monkeypatch):
    """With costs turned upside down, the measured choices are not the estimated ones."""
    from fastconv.plan.lower import winograd

    model = fastconv.load(build(
        [node("Conv", ["x", "w"], ["y"], "conv", pads=[1, 1, 1, 1])], {"x": [1, 64, 56, 56]}, ["y"],
        {"w": np.random.default_rng(0).standard_normal((64, 64, 3, 3)).astype(np.float32)},
    ), threads=1, tuned=False)  # fmt: skip
    monkeypatch.setattr(winograd, "TRANSFORM", 200.0)  # makes the direct convolution look best
    model._engine.isa = "v4" if "v4" in fastconv.kernels.runnable_isas() else None
    found = tune(model, {"x": (1, 64, 56, 56)}, 0.5)
    (outcome,) = (o for o in found.outcomes if o.kind == "conv")
    assert outcome.estimate == "direct"
    assert outcome.choice in ("winograd2", "winograd4")
    assert outcome.milliseconds[outcome.choice] < outcome.milliseconds["direct"]


def test_tuned_results_stay_within_the_same_error(path):
    model = fastconv.load(path, threads=1, tuned=False)
    exact = model(X)
    for choice in ("direct", "winograd2", "winograd4"):
        keep(path, choice)
        y = fastconv.load(path, threads=1)(X)
        assert np.abs(y - exact).max() <= 2e-5 * np.abs(exact).max()


# The command.


@pytest.mark.parametrize("beside", [False, True])
def test_the_command_keeps_what_the_next_load_uses(path, cache, capsys, beside):
    flags = ["--threads", "1", "--shape", "1,32,20,20"]
    more = ["--beside"] if beside else []
    assert main(["tune", str(path), *flags, "--seconds", "1", *more]) == 0
    out = capsys.readouterr().out
    kept = out.splitlines()[-1].removeprefix("kept in ")
    assert pathlib.Path(kept).parent == (path.parent if beside else cache)
    assert main(["inspect", str(path), *flags]) == 0
    assert re.search(r"tuned: .*\(\d+ choices in use\)", capsys.readouterr().out)
    assert main(["inspect", str(path), *flags, "--json"]) == 0
    assert kept in json.loads(capsys.readouterr().out)["tuned"]
    assert main(["bench", str(path), *flags, "--runs", "2", "--json"]) == 0
    assert kept in json.loads(capsys.readouterr().out)["tuned"]
    assert main(["info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tuned"] == {
        "folder": str(cache), "files": 0 if beside else 1,
    }  # fmt: skip


def test_the_command_as_json(path, capsys):
    args = ["tune", str(path), "--shape", "x=1,32,12,12", "--threads", "1", "--seconds", "1"]
    assert main([*args, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["shapes"] == {"x": [1, 32, 12, 12]}
    assert found["decisions"]
    assert all(d["choice"] in d["ms"] for d in found["decisions"])
    written = json.loads(pathlib.Path(found["file"]).read_text())
    assert written["fastconv"] == fastconv.__version__
    assert written["choices"].keys() == {d["key"] for d in found["decisions"]}


def test_the_command_says_when_it_cannot_write(path, capsys, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FASTCONV_CACHE", str(tmp_path / "file"))
    args = ["tune", str(path), "--shape", "1,32,12,12", "--threads", "1", "--seconds", "1"]
    assert main(args) == 2
    assert "cannot write" in capsys.readouterr().err
