"""What is stored is used only for what it was made for, sound and safe; and is never an error."""

import os
import pathlib
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from cli_tools import build, node, onnx
from stored_tools import (
    SHAPES,
    X,
    hit,
    load,
    made,
    normal,
    only,
    same,
    settle,
    settled_models,
    small,
)

import fastconv
from fastconv import kernels, tuning
from fastconv.runtime import stored, storing

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return settled_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "plans"


@pytest.fixture
def small_path(tmp_path, paths):
    """A model file of the test's own."""
    path = tmp_path / "small.onnx"
    shutil.copyfile(paths["small"], path)
    settle(path)
    return path


# Not for another.


def replaced(path):
    other = path.with_suffix(".new")
    shutil.copyfile(path, other)
    old = path.stat()
    os.utime(other, ns=(old.st_atime_ns, old.st_mtime_ns))
    os.replace(other, path)


def rewritten(path):
    """Another weight in place; size and modification time as before."""
    old = path.stat()
    data = bytearray(path.read_bytes())
    at = data.index(normal(8, 8, 3, 3).tobytes())
    data[at : at + 4] = np.float32(7).tobytes()
    with open(path, "r+b") as f:
        f.write(data)
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))


@pytest.mark.parametrize(
    "change",
    [lambda p: os.utime(p), replaced, rewritten, lambda p: p.chmod(0o640)],
    ids=["touched", "replaced", "rewritten", "mode"],
)
def test_another_file_is_not_taken_for_the_one(small_path, cache, change):
    made(small_path, cache)
    assert hit(load(small_path, cache))
    time.sleep(0.02)  # more than a step of the file system's clock
    change(small_path)
    model = load(small_path, cache)
    assert not hit(model)
    np.testing.assert_array_equal(model(X), fastconv.load(small_path.read_bytes(), threads=1)(X))


def test_links_lead_to_the_file_they_lead_to(small_path, cache, tmp_path, paths):
    link = tmp_path / "link.onnx"
    link.symlink_to(small_path)
    made(link, cache)
    assert hit(load(link, cache))
    link.unlink()
    shutil.copyfile(paths["small"], tmp_path / "other.onnx")
    link.symlink_to(tmp_path / "other.onnx")
    assert not hit(load(link, cache))


OPTIONS = [
    {"threads": 2}, {"accuracy": "strict"}, {"weights": "float16"}, {"fallback": "error"},
    {"tuned": False}, {"memory_limit": 1 << 30}, {"optimize": False}, {"disable": ("pads",)},
]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: next(iter(o)))
def test_each_option_counts(paths, cache, options):
    made(paths["small"], cache)
    assert not hit(load(paths["small"], cache, **options))
    assert hit(load(paths["small"], cache))


@pytest.mark.parametrize(
    ("where", "name", "value"),
    [
        (stored, "build", lambda: b"another"),
        (stored, "build", lambda: None),
        (stored, "cpu_name", lambda: "Another CPU"),
        (kernels, "chosen_isa", lambda: "base"),
        (kernels, "cpu_isas", lambda: ("base",)),
        (kernels, "has_vnni", lambda: None),
        (kernels, "has_openmp", lambda: None),
        (np, "__version__", "1.0"),
        (fastconv, "__version__", "0.0.1"),
        (sys, "version", "4"),
        (stored, "FORMAT", 99),
    ],
)  # fmt: skip
def test_the_machine_and_the_build_count(paths, cache, monkeypatch, where, name, value):
    made(paths["small"], cache)
    monkeypatch.setattr(where, name, value)
    assert not hit(load(paths["small"], cache))
    monkeypatch.undo()
    assert hit(load(paths["small"], cache))


def test_another_instruction_set_by_environment(paths, cache):
    code = (
        "import sys, numpy as np, fastconv\n"
        f"m = fastconv.load({str(paths['small'])!r}, threads=1, cache={str(cache)!r})\n"
        "m(np.zeros((1, 8, 12, 12), np.float32)); print(m._stored is not None)"
    )
    found = []
    for isa in (kernels.chosen_isa(), "base", "base", kernels.chosen_isa()):
        env = dict(os.environ, FASTCONV_ISA=isa)
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found.append(done.stdout.strip() == "True")
    assert found == [False, kernels.chosen_isa() == "base", True, True]


def test_a_rebuilt_package_is_another_one(tmp_path, monkeypatch):
    package = tmp_path / "package"
    (package / "kernels").mkdir(parents=True)
    files = [package / "model.py", package / "kernels" / "conv.so"]
    for f in files:
        f.write_bytes(b"first")
    monkeypatch.setattr(stored, "_package", lambda: str(package))
    monkeypatch.setattr(stored, "STARTED", time.time_ns() + 10**12)
    digest = stored.build.__wrapped__
    seen = [digest()]
    assert digest() == seen[0] is not None
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "model.pyc").write_bytes(b"")
    assert digest() == seen[0]
    for f in files:
        old = f.stat()
        time.sleep(0.02)
        f.write_bytes(b"other")  # of the same size, and with the same time of modification
        os.utime(f, ns=(old.st_atime_ns, old.st_mtime_ns))
        seen.append(digest())
    (package / "more.py").write_bytes(b"")
    seen.append(digest())
    assert len(set(seen)) == 4
    monkeypatch.setattr(stored, "STARTED", files[0].stat().st_ctime_ns)
    assert digest() is None  # changed while this process runs
    shutil.rmtree(package)
    assert digest() is None


def test_tuned_choices_count(small_path, cache, monkeypatch, tmp_path):
    monkeypatch.setenv("FASTCONV_CACHE", str(tmp_path / "tuned"))
    graph = fastconv.load(small_path, threads=1, cache=False).original

    def settled_run():
        model = load(small_path, cache)
        was = hit(model)
        model(X)
        return was

    assert [settled_run() for _ in range(2)] == [False, True]
    beside = tuning.beside(str(small_path))
    tuning.write(beside, graph, {"key": "one"}, {})
    assert [settled_run() for _ in range(2)] == [False, True]
    tuning.write(beside, graph, {"key": "two"}, {})
    assert [settled_run() for _ in range(2)] == [False, True]
    os.unlink(beside)
    tuning.write(tuning.cached_path(graph), graph, {"key": "one"}, {})
    assert [settled_run() for _ in range(2)] == [False, True]
    assert load(small_path, cache).tuned.choices == {"key": "one"}
    os.unlink(tuning.cached_path(graph))
    assert [settled_run() for _ in range(2)] == [False, True]


def test_a_warning_is_given_every_time(small_path, cache):
    pathlib.Path(tuning.beside(str(small_path))).write_text("damaged")
    for _ in range(2):
        with pytest.warns(tuning.TuneWarning):
            assert not hit(load(small_path, cache))


def test_external_data_count(tmp_path, cache):
    path, data = tmp_path / "m.onnx", tmp_path / "weights.bin"
    onnx.save(
        onnx.load_from_string(small()), path, save_as_external_data=True, location=data.name,
        size_threshold=0,
    )  # fmt: skip
    settle(path, data)
    made(path, cache)
    assert hit(load(path, cache))
    time.sleep(0.02)
    values = np.fromfile(data, np.float32)
    old = data.stat()
    (values + 1).tofile(data)
    os.utime(data, ns=(old.st_atime_ns, old.st_mtime_ns))
    settle(data)
    model = load(path, cache)
    assert not hit(model)
    got = model(X)
    np.testing.assert_array_equal(got, fastconv.load(path, threads=1, cache=False)(X))
    assert hit(load(path, cache))
    os.rename(data, tmp_path / "real.bin")
    data.symlink_to("real.bin")
    assert not hit(load(path, cache))


def test_a_file_that_just_changed_is_not_stored(tmp_path, cache):
    path = tmp_path / "m.onnx"
    path.write_bytes(small())
    load(path, cache)(X)
    assert not cache.exists()


def test_a_file_that_changes_before_the_plan_is_made_is_not_stored(small_path, cache):
    model = load(small_path, cache)
    os.utime(small_path, (1, 1))
    model(X)
    assert not cache.exists()


def test_a_file_that_changed_since_a_hit_is_not_mixed_in(small_path, cache, paths):
    expected = made(small_path, cache)
    model = load(small_path, cache)
    replaced(small_path)
    same(model.run({"x": X}), expected)
    with pytest.raises(fastconv.ModelError, match="has changed since"):
        model(X[:, :, :5])
    with pytest.raises(fastconv.ModelError, match="load it again"):
        _ = model.graph
    small_path.unlink()
    same(model.run({"x": X}), expected)
    with pytest.raises(fastconv.ModelError, match="small"):
        model(X[:, :, :5])


def test_plans_with_python_steps_are_not_stored(tmp_path, cache):
    path = tmp_path / "m.onnx"
    nodes = [node("Relu", ["x"], ["r"]), node("NonZero", ["r"], ["y"])]
    path.write_bytes(build(nodes, {"x": ["N", 8, "H", "W"]}, ["y"]))
    settle(path)
    for _ in range(2):
        model = load(path, cache)
        assert not hit(model)
        model(X)
    assert not cache.exists() or not list(cache.iterdir())


# Damage.


def test_no_damaged_header_is_used(paths, cache):
    made(paths["small"], cache)
    path = only(cache)
    good = path.read_bytes()
    entry = stored.read(path)
    end = entry.start + entry.size + stored.PAGE
    header = stored.SIZES.size + stored.DIGEST + len(stored.marshal.dumps(entry.header))
    places = [*RNG.integers(0, header, 150), *RNG.integers(end, len(good), 20)]
    places += [*range(stored.SIZES.size + stored.DIGEST), len(good) - 1]
    for at in places:
        bad = bytearray(good)
        bad[at] ^= 1 << int(RNG.integers(8))
        path.write_bytes(bad)
        assert stored.read(path) is None, at
    path.write_bytes(good)
    assert stored.read(path) is not None


@pytest.mark.parametrize("change", ["flip", "cut", "longer", "empty", "noise", "zeros"])
def test_damage_means_that_there_is_none(paths, cache, change):
    expected = made(paths["small"], cache)
    path = only(cache)
    good = path.read_bytes()
    for _ in range(5):
        bad = bytearray(good)
        if change == "flip":
            bad[RNG.integers(500)] ^= 16
        elif change == "cut":
            del bad[RNG.integers(len(bad)) :]
        elif change == "longer":
            bad += bytes(int(RNG.integers(1, 9000)))
        elif change == "empty":
            bad.clear()
        elif change == "noise":
            bad[:] = RNG.bytes(len(bad))
        else:
            bad[:] = bytes(len(bad))
        path.write_bytes(bad)
        model = load(paths["small"], cache)
        assert not hit(model)
        same(model.run({"x": X}), expected)
        again = load(paths["small"], cache)
        assert hit(again)
        same(again.run({"x": X}), expected)


def test_any_cut_is_noticed(paths, cache):
    made(paths["small"], cache)
    path = only(cache)
    good = path.read_bytes()
    for length in (*RNG.integers(0, len(good), 80), len(good) - 1):
        path.write_bytes(good[:length])
        assert stored.read(path) is None


@pytest.mark.parametrize("sizes", [(1 << 62, 4096, 64), (8, 1 << 63, 64), (8, 4096, (1 << 64) - 1),
                                   (8, 4097, 64), (1 << 20, 4096, 64)])  # fmt: skip
def test_sizes_that_make_no_sense(tmp_path, sizes):
    path = tmp_path / "x.plans"
    head = stored.SIZES.pack(stored.MAGIC, *sizes)
    digest = stored.digest_of(head, b"")
    path.write_bytes(head + digest + bytes(4096) + stored.MAGIC + digest)
    path.chmod(0o600)
    assert stored.read(path) is None


def test_references_outside_the_data_are_refused(paths, cache):
    made(paths["small"], cache)
    model = load(paths["small"], cache)
    [record] = model._stored._records.values()
    name, params, refs, share = record["steps"][0]
    for kind, value in ((stored.CONST, model._stored.entry.size + 1), (stored.ARENA, -1),
                        (stored.ARENA, record["arena"] + 1), (stored.EXTERNAL, 2)):  # fmt: skip
        bad = dict(record, steps=[(name, params, (*refs, (kind, value)), share)])
        assert model._stored._load(bad) is None
    assert model._stored._load(dict(record, steps=[("unknown", *record["steps"][0][1:])])) is None


def test_an_entry_that_is_replaced_or_removed_in_use(paths, cache):
    expected = made(paths["branches"], cache, normal(*SHAPES["branches"]))
    model = load(paths["branches"], cache)
    feeds = {"x": normal(*SHAPES["branches"])}
    same(model.run(feeds), expected)
    made(paths["branches"], cache, normal(1, 32, 9, 9))  # writes it anew
    same(model.run(feeds), expected)
    only(cache).unlink()
    same(model.run(feeds), expected)


# Who may write.


def test_folders_and_files_are_private(paths, cache):
    before = os.umask(0)
    try:
        made(paths["small"], cache / "deeper")
    finally:
        os.umask(before)
    assert (cache / "deeper").stat().st_mode & 0o777 == 0o700
    assert only(cache / "deeper").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o622])
def test_entries_that_others_may_write_are_ignored(paths, cache, mode):
    made(paths["small"], cache)
    only(cache).chmod(mode)
    assert not hit(load(paths["small"], cache))


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o1777])
def test_folders_that_others_may_write_to_are_left_alone(paths, cache, mode):
    made(paths["small"], cache)
    cache.chmod(mode)
    assert not hit(load(paths["small"], cache))
    only(cache).unlink()
    load(paths["small"], cache)(X)
    assert list(cache.iterdir()) == []


def test_entries_of_another_user_are_ignored(paths, cache, monkeypatch):
    made(paths["small"], cache)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert not hit(load(paths["small"], cache))


def test_links_are_not_followed(paths, cache, tmp_path):
    made(paths["small"], cache)
    path = only(cache)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert not hit(load(paths["small"], cache))
    path.unlink()
    os.mkfifo(path)
    assert not hit(load(paths["small"], cache))
    path.unlink()
    path.mkdir()
    model = load(paths["small"], cache)
    assert not hit(model)
    model(X)


@pytest.mark.parametrize("call", ["open", "mkdir", "replace", "fsync", "scandir", "utime"])
def test_a_disk_that_cannot_be_written_to(paths, cache, monkeypatch, call):
    expected = fastconv.load(paths["small"], threads=1, cache=False).run({"x": X})
    real = getattr(os, call)

    def full(target, *args, **kwargs):
        if call == "fsync" or str(target).startswith(str(cache)):
            raise OSError(28, "No space left on device")
        return real(target, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        for _ in range(2):
            same(load(paths["small"], cache).run({"x": X}), expected)
    left = list(cache.iterdir()) if cache.exists() else []
    assert not [p for p in left if p.suffix == ".tmp"]
    same(load(paths["small"], cache).run({"x": X}), expected)


@pytest.mark.parametrize("folder", ["/proc/nowhere", "file/plans", "file"])
def test_a_folder_that_cannot_be(paths, tmp_path, folder):
    (tmp_path / "file").write_text("")
    for _ in range(2):
        model = load(paths["small"], tmp_path / folder)
        assert not hit(model)
        assert model(X).shape == X.shape


# Bounds.


def test_the_folder_does_not_grow_beyond_its_bounds(small_path, cache, monkeypatch):
    monkeypatch.setattr(storing, "MAX_ENTRIES", 3)
    names = []
    for k in range(6):
        made(small_path, cache, memory_limit=(1 << 30) + k)
        new = {p.name for p in cache.iterdir()} - set(names)
        names += new
        os.utime(cache / names[-1], (k + 1, k + 1))
    assert {p.name for p in cache.iterdir()} == set(names[3:])
    assert hit(load(small_path, cache, memory_limit=(1 << 30) + 3))  # which uses it
    made(small_path, cache, memory_limit=1 << 31)
    kept = {p.name for p in cache.iterdir()}
    assert names[3] in kept
    assert names[4] not in kept
    assert len(kept) == 3


def test_the_bytes_are_bounded_too(small_path, cache, monkeypatch):
    made(small_path, cache)
    size = only(cache).stat().st_size
    monkeypatch.setattr(storing, "MAX_BYTES", int(2.5 * size))
    for k in range(4):
        made(small_path, cache, memory_limit=(1 << 30) + k)
        assert sum(p.stat().st_size for p in cache.iterdir()) <= 2.5 * size
    monkeypatch.setattr(storing, "MAX_BYTES", size // 2)
    before = set(cache.iterdir())
    load(small_path, cache, accuracy="strict")(X)
    assert set(cache.iterdir()) == before


def test_what_was_never_finished_is_taken_away_and_the_rest_left(small_path, cache):
    cache.mkdir(0o700)
    for name, age in ((".1-a.tmp", 9999), (".2-b.tmp", 1), ("mine.txt", 9999)):
        (cache / name).write_text("")
        os.utime(cache / name, (time.time() - age,) * 2)
    load(small_path, cache)(X)
    assert not (cache / ".1-a.tmp").exists()
    assert (cache / ".2-b.tmp").exists()
    assert (cache / "mine.txt").exists()
