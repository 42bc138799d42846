"""``fastconv inspect``, ``bench``, ``verify`` and ``info``, and what all commands share."""

from __future__ import annotations

import dataclasses
import errno
import io
import json
import os
import re
import subprocess
import sys

import numpy as np
import onnx
import pytest
from cli_tools import IMAGES, LENET, MOBILENET, build, conv_net, node

import fastconv
from fastconv import compare, kernels, passes
from fastconv.cli import main
from fastconv.cli.common import print_table, progress
from fastconv.graph import REGISTRY
from fastconv.peak import measure_peak
from fastconv.plan.lower import LOWER


@pytest.fixture
def call(capsys):
    """Run the command line; returns (exit code, stdout, stderr)."""

    def run(*args):
        code = main([str(a) for a in args])
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def textbook(tmp_path):
    path = tmp_path / "textbook.onnx"
    path.write_bytes(conv_net())
    return path


@pytest.fixture
def foreign(tmp_path):
    """A model with a node of another domain and one that has no kernel."""
    nodes = [
        node("Det", ["x"], ["d"], "det"),
        node("Mystery", ["d"], ["y"], "mystery", domain="com.example"),
    ]
    path = tmp_path / "foreign.onnx"
    path.write_bytes(build(nodes, {"x": [2, 3, 3]}, ["y"]))
    return path


def shell(*args, **options):
    """The command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "fastconv", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=60,
        **options,
    )


# inspect


def test_inspect_shows_the_textbooks_layer(call, textbook):
    code, out, err = call("inspect", textbook)
    assert (code, err) == (0, "")
    (row,) = [line.split() for line in out.splitlines() if line.startswith("conv ")]
    assert row[:9] == ["conv", "Conv", "5×5", "1", "2", "32×32×10", "760", "76", "768,000"]
    assert "parameters 760" in out


def test_inspect_as_json(call):
    code, out, err = call("inspect", LENET, "--json")
    assert code == 0
    assert err.count("\n") == 1  # the batch size that was assumed
    found = json.loads(out)
    assert found["totals"]["parameters"] == 61706
    fields = {f.name for f in dataclasses.fields(fastconv.inspect.Layer)}
    assert all(layer.keys() == fields for layer in found["layers"])
    assert found["inputs"] == {"input": [1, 1, 28, 28]}


@pytest.mark.parametrize("shape", ["input=4,1,28,28", "4,1,28,28", "4x1x28x28"])
def test_inspect_takes_a_shape(call, shape):
    code, out, err = call("inspect", LENET, "--shape", shape, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["outputs"] == {"logits": [4, 10]}


@pytest.mark.parametrize("shape", ["y=1,2", "input=1,a", "input=1,1,29,29", "input=1", "input=-1"])
def test_inspect_refuses_a_wrong_shape(call, shape):
    code, out, err = call("inspect", LENET, "--shape", shape)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1


def test_check_says_yes(call):
    code, out, err = call("inspect", LENET, "--check")
    assert (code, err) == (0, "")
    assert "every operator runs natively" in out
    code, out, _ = call("inspect", LENET, "--check", "--json")
    assert json.loads(out) == {"model": LENET, "runs": True, "native": True, "problems": []}


def test_a_fallback_is_one_plain_line(call, foreign, tmp_path):
    path = tmp_path / "det.onnx"
    path.write_bytes(build([node("Det", ["x"], ["y"], "det")], {"x": [2, 3, 3]}, ["y"]))
    np.save(tmp_path / "x.npy", np.eye(3, dtype=np.float32)[None].repeat(2, 0))
    args = ("run", path, "--input", f"x={tmp_path / 'x.npy'}")
    code, _, err = call(*args)
    assert code == 0
    assert err.startswith("fastconv: warning: these operators run through onnx.reference")
    assert err.count("\n") == 1
    assert call(*args, "--fallback", "allow")[2] == ""
    code, _, err = call(*args, "--fallback", "error")
    assert code == 2
    assert "det" in err


# bench


def test_bench_as_json(call, textbook):
    code, out, err = call("bench", textbook, "--runs", 5, "--json", "--profile", "--threads", 1)
    assert (code, err) == (0, "")
    found = json.loads(out)
    latency = found["latency_ms"]
    assert 0 < latency["min"] <= latency["p50"] <= latency["p90"] <= latency["p99"]
    assert found["runs"] == 5
    assert found["macs"] == 768_000
    assert found["gflops"] == pytest.approx(2 * 768_000 / latency["p50"] / 1e6)
    assert found["peak_share"] == pytest.approx(found["gflops"] / found["peak"]["gflops"])
    assert found["memory"]["peak_rss_bytes"] > 1 << 20
    assert found["memory"]["arena_bytes"] > 0
    assert sum(s["share"] for s in found["steps"]) == pytest.approx(1)
    (conv,) = (s for s in found["steps"] if s["macs"])
    assert conv["macs"] == 768_000
    assert conv["bound"] == "arithmetic"


def test_the_profile_compares_every_step_with_its_nearer_bound(call):
    code, out, _ = call("bench", MOBILENET, "--runs", 2, "--threads", 1, "--profile", "--json")
    assert code == 0
    found = json.loads(out)
    peak = found["peak"]
    memory = max(peak["bandwidth_gb_s"], peak["read_gb_s"])
    for s in found["steps"]:
        assert s["gb_s"] == pytest.approx(s["bytes"] / s["ms"] / 1e6)
        assert s["memory_share"] == pytest.approx(s["gb_s"] / memory)
        if s["macs"]:
            assert s["gflops"] == pytest.approx(2 * s["macs"] / s["ms"] / 1e6)
            assert s["peak_share"] == pytest.approx(s["gflops"] / peak["gflops"])
            nearer = "arithmetic" if s["peak_share"] >= s["memory_share"] else "memory"
            assert s["bound"] == nearer
        else:
            assert (s["gflops"], s["bound"]) == (None, "memory")
    total = found["total"]
    assert total["ms"] == pytest.approx(sum(s["ms"] for s in found["steps"]))
    assert total["macs"] == found["macs"]
    assert total["bound_ms"] > 0
    (classifier,) = (s for s in found["steps"] if s["kernel"].startswith("gemv"))
    # Weights padded to whole panels, input, bias and output, each once.
    each = {"gemv": 4, "gemv_fixed": 3}[classifier["kernel"]]
    assert 1 <= classifier["bytes"] / (each * 1280 * 1000 + 4 * (1280 + 2000)) < 1.05


def test_scratch_memory_is_not_counted_as_moved(call, tmp_path):
    rng = np.random.default_rng(0)
    w = rng.standard_normal((64, 64, 3, 3)).astype(np.float32)
    conv = node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
    path = tmp_path / "m.onnx"
    path.write_bytes(build([conv], {"x": [1, 64, 40, 40]}, ["y"], {"w": w}))
    code, out, _ = call("bench", path, "--runs", 1, "--threads", 1, "--profile", "--json")
    assert code == 0
    (step,) = (s for s in json.loads(out)["steps"] if s["macs"])
    # At most: input and output, and weights transformed for F(4×4), which are 36/9 as many.
    assert step["bytes"] <= 4 * (2 * 64 * 40 * 40 + 4 * w.size + 1024)


#: Text of a model, and the layer that runs in Python behind a plan's steps: (op, kernel, shape).
IN_PYTHON = {
    "reference": (
        "g (float[9,9,8,8] x) => (float[9,9] y) { a = Relu (x)  d = Det (a)  y = Erf (d) }",
        ("Det", "onnx.reference", [9, 9]),
    ),
    "loop": (
        """g (float[9] x) => (float[9] y) {
            a = Relu (x)
            n = Constant <value_int = 20> ()
            d = Loop (n, , a) <body = b (int64 i, bool go, float[9] v) => (bool on, float[9] w) {
                on = Identity (go)  w = Exp (v) }>
            y = Erf (d)
        }""",
        ("Loop", "numpy:Loop", [9]),
    ),
    "data": (
        """g (float[40,50] x) => (float[k,2] y) {
            a = Relu (x)  n = NonZero (a)  t = Transpose (n)  y = Cast <to = 1> (t)
        }""",
        ("NonZero", "numpy:NonZero", None),
    ),
}


@pytest.mark.parametrize("name", IN_PYTHON)
def test_the_profile_has_the_times_of_nodes_that_run_in_python(call, tmp_path, name):
    text, (op, kernel, shape) = IN_PYTHON[name]
    path = tmp_path / "m.onnx"
    m = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{text}')
    onnx.save(m, path)
    args = ("bench", path, "--runs", 2, "--threads", 1, "--profile", "--fallback", "allow")
    code, out, _ = call(*args, "--json")
    assert code == 0
    found = json.loads(out)
    ops = [s["op"] for s in found["steps"]]
    assert 0 < ops.index(op) < len(ops) - 1  # in the order that they run in
    (step,) = (s for s in found["steps"] if s["op"] == op)
    assert (step["kernel"], step["gflops"], step["bound"]) == (kernel, None, "")
    assert step["shape"] == shape if shape else step["shape"][0] == 2
    assert step["ms"] > 0.001
    assert sum(s["share"] for s in found["steps"]) == pytest.approx(1)
    assert found["total"]["ms"] == pytest.approx(sum(s["ms"] for s in found["steps"]))
    assert step["share"] == pytest.approx(step["ms"] / found["total"]["ms"], rel=1e-3)
    code, out, _ = call(*args)
    assert code == 0
    assert kernel in out


def test_bench_for_people(call):
    code, out, err = call(
        "bench", LENET, "--runs", 3, "--warmup", 0, "--shape", "2,1,28,28", "--profile"
    )
    assert (code, err) == (0, "")
    for word in (
        "p50", "p90", "p99", "min", "images/s (batch 2)", "GFLOP/s", "(3 runs)", "% peak",
        "% memory", "nearer bound", "\nall ", "GB/s measured reading",
    ):  # fmt: skip
        assert word in out


@pytest.mark.parametrize("isa", kernels.runnable_isas())
def test_the_peak_is_alike_when_measured_twice(isa):
    peak = measure_peak(1, isa)
    assert peak.gflops > 1
    assert peak.bandwidth > 0.1
    assert peak.read > 0.1
    assert peak.memory == max(peak.bandwidth, peak.read)
    again = measure_peak(1, isa)
    assert 1 / 3 < again.gflops / peak.gflops < 3


# verify


@pytest.mark.parametrize("against", ["reference", None])
def test_verify_agrees_on_lenet(call, against):
    extra = () if against is None else ("--against", against)
    code, out, _ = call("verify", LENET, *extra)
    assert code == 0
    assert out.splitlines()[2].split()[-1] == "ok"


def test_verify_as_json_with_given_input(call, tmp_path):
    np.save(tmp_path / "x.npy", np.ones((2, 1, 28, 28), np.float32))
    args = ("--input", f"input={tmp_path / 'x.npy'}", "--against", "reference", "--json")
    code, out, _ = call("verify", LENET, *args)
    assert code == 0
    found = json.loads(out)
    assert found["ok"] is True
    assert found["against"] == "onnx.reference"
    assert found["first_difference"] is None
    (output,) = found["outputs"]
    assert output["shape"] == [2, 10]
    assert 0 <= output["relative"] < 1e-4


def test_verify_names_the_first_node_that_differs(call, monkeypatch):
    pool = REGISTRY["", "MaxPool"]
    compute = pool.compute
    monkeypatch.delitem(LOWER, pool)
    monkeypatch.setattr(pool, "compute", lambda self, xs: [compute(self, xs)[0] * np.float32(1.01)])
    code, out, _ = call("verify", LENET, "--against", "reference")
    assert code == 1
    assert "first node that differs: 'c1.pool' (MaxPool)" in out
    code, out, _ = call("verify", LENET, "--against", "reference", "--json")
    found = json.loads(out)["first_difference"]
    assert code == 1
    assert found["node"] == "c1.pool"
    assert found["optimized_only"] is False


def test_verify_tells_that_a_pass_is_to_blame(call, monkeypatch):
    def spoil(graph):
        graph = graph.copy()
        name = next(n.inputs[1] for n in graph.nodes if n.name == "c3")
        graph.consts[name] = graph.consts[name] * np.float32(1.1)
        return graph

    pipeline = [*passes.PIPELINE, ("spoil", spoil)]
    monkeypatch.setattr(passes, "PIPELINE", pipeline)
    code, out, _ = call("verify", LENET, "--against", "reference")
    assert code == 1
    assert "only the optimised graph differs" in out
    assert "first layer that differs: 'c3'" in out
    assert "agrees without any one of these passes: spoil" in out


def test_verify_at_tolerance_zero_still_names_a_node(call):
    """Sums are added up in another order, so that some last bits differ."""
    code, out, _ = call("verify", LENET, "--tolerance", 0, "--against", "reference")
    assert code == 1
    assert "first node that differs" in out


@pytest.mark.parametrize("value", ["-1", "x", "nan", "inf"])
def test_verify_refuses_a_wrong_tolerance(call, value):
    code, _, err = call("verify", LENET, f"--tolerance={value}")
    assert code == 2
    assert "--tolerance" in err


def test_verify_without_the_onnx_package(call, monkeypatch):
    monkeypatch.setattr(compare, "find_spec", lambda name: None)
    code, out, err = call("verify", LENET)
    assert (code, out) == (2, "")
    assert err == ("fastconv: error: verify needs the onnx package: pip install 'fastconv[onnx]'\n")


def test_verify_when_the_other_engine_cannot(call, foreign):
    code, out, err = call("verify", foreign, "--against", "reference")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("a", "b", "absolute", "relative", "exceeds"),
    [
        ([1.0, 2.0], [1.0, 4.0], 2.0, 0.5, True),
        ([np.nan, 1.0], [np.nan, 1.0], 0.0, 0.0, False),
        ([np.inf, 1.0], [np.inf, 1.0], 0.0, 0.0, False),
        ([np.inf, 1.0], [-np.inf, 1.0], 0.0, 0.0, True),
        ([np.nan, 1.0], [0.0, 1.0], 0.0, 0.0, True),
        ([0.5], [0.0], 0.5, 0.5, True),
        ([], [], 0.0, 0.0, False),
    ],
)
def test_differences(a, b, absolute, relative, exceeds):
    d = compare.difference("y", np.array(a, np.float32), np.array(b, np.float32))
    assert (d.absolute, d.relative) == (absolute, relative)
    assert d.exceeds(1e-4) is exceeds


def test_other_shapes_and_dtypes_are_differences():
    ones = np.ones((2, 3), np.float32)
    assert "shape" in compare.difference("y", ones, ones.T).problem
    assert "dtype" in compare.difference("y", ones, ones.astype(np.float64)).problem
    assert compare.difference("y", ones, None).exceeds(1.0)


# info


def test_info(call):
    code, out, err = call("info")
    assert (code, err) == (0, "")
    for word in ("fastconv", "processor", "instruction sets", "openmp", "threads", "numpy"):
        assert f"\n{word} " in f"\n{out}"
    code, out, _ = call("info", "--json")
    found = json.loads(out)
    assert found["version"] == fastconv.__version__
    assert found["isa"]["chosen"] in found["isa"]["runnable"]
    names = ("ISA", "THREADS", "PLANS", "CACHE", "STORE")
    assert set(found["knobs"]) == {f"FASTCONV_{name}" for name in names}
    folder = os.path.join(os.environ["XDG_CACHE_HOME"], "fastconv")
    assert found["tuned"] == {"folder": folder, "files": 0}
    assert found["packages"]["numpy"] == np.__version__


def test_info_says_why_so_many_threads(call, monkeypatch):
    monkeypatch.setenv("FASTCONV_THREADS", "3")
    found = json.loads(call("info", "--json")[1])
    assert found["threads"] == {"default": 3, "reason": "FASTCONV_THREADS is set"} or (
        found["threads"]["default"] == 3 and "without OpenMP" in found["threads"]["reason"]
    )
    monkeypatch.setenv("FASTCONV_THREADS", "many")
    code, _, err = call("info")
    assert code == 2
    assert "FASTCONV_THREADS='many'" in err


# What all commands share.


def test_help_lists_the_commands(call):
    code, out, _ = call("--help")
    assert code == 0
    for command in ("run", "inspect", "bench", "tune", "verify", "info"):
        assert f"\n    {command} " in out
        code, text, _ = call(command, "--help")
        assert code == 0
        assert text.startswith(f"usage: fastconv {command}")
    assert call("--version")[1] == f"fastconv {fastconv.__version__}\n"


@pytest.mark.parametrize("args", [[], ["nosuch"], ["run"], ["--nosuch"]])
def test_no_such_command(call, args):
    code, out, err = call(*args)
    assert (code, out) == (2, "")
    assert err.startswith("fastconv: error: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("command", ["run", "inspect", "bench", "verify"])
@pytest.mark.parametrize("kind", ["missing", "folder", "text"])
def test_files_that_are_no_models(call, tmp_path, command, kind):
    path = tmp_path / "model.onnx"
    if kind == "folder":
        path.mkdir()
    elif kind == "text":
        path.write_text("This is no model.\n" * 10)
    code, out, err = call(command, path)
    assert (code, out) == (2, "")
    assert err.startswith("fastconv: error: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err


def test_names_in_a_model_cannot_reach_the_terminal(call, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(build([node("Relu", ["x"], ["y"], "\x1b[2Jevil\nname")], {"x": [1]}, ["y"]))
    code, out, _ = call("inspect", path)
    assert code == 0
    assert "\x1b" not in out
    assert "\\x1b[2Jevil\\nname" in out


def test_a_process_of_its_own():
    done = shell("run", LENET, IMAGES / "digit_7.png", "--top", 1)
    assert done.returncode == 0
    assert done.stdout.splitlines()[2].split()[2] == "7"
    assert done.stderr == ""
    done = shell("run", LENET, "nosuch.png")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "fastconv: error: nosuch.png: no such file\n"


def test_an_encoding_without_the_signs():
    done = shell("inspect", LENET, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0
    assert "28x28x6" in done.stdout


def test_a_full_disk_is_one_line(call, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("fastconv.cli.info.print_table", full)
    assert call("info") == (2, "", "fastconv: error: No space left on device\n")


class Terminal(io.StringIO):
    """A stream that somebody looks at."""

    encoding = "utf-8"

    def isatty(self):
        return True


def test_tables_in_a_terminal_hold_the_same_cells(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    screen = Terminal()
    print_table(("name", ">n"), [("first", 1), ("[bold]second[/]", 22)], screen)
    shown = re.sub("\x1b[^m]*m", "", screen.getvalue())
    assert [line.split() for line in shown.splitlines()] == [
        ["name", "n"],
        ["first", "1"],
        ["[bold]second[/]", "22"],
    ]


def test_progress_is_shown_to_terminals_alone(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    for stream, shown in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr("sys.stderr", stream)
        with progress(3, "images") as advance:
            for _ in range(3):
                advance()
        assert ("images" in stream.getvalue()) is shown


def test_a_closed_pipe_is_quiet():
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "fastconv", "info"],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize(("closed", "code"), [(1, 0), (2, 2)])
def test_a_closed_stream_is_no_error_of_its_own(closed, code):
    image = str(IMAGES / "digit_7.png") if closed == 1 else "nosuch.png"
    command = f'"{sys.executable}" -m fastconv run "{LENET}" "{image}" {closed}>&-'
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")


def test_an_interrupt_is_quiet(call, monkeypatch):
    def interrupt(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("fastconv.model.Model.__init__", interrupt)
    assert call("inspect", LENET) == (130, "", "")


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from fastconv.cli import main; main(['--help']);"
        "print([m for m in ('numpy', 'rich', 'PIL', 'onnx') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]"
