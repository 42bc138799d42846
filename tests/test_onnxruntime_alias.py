"""``install`` and ``python -m fastconv.onnxruntime`` make ``import onnxruntime`` mean fastconv."""

import importlib.metadata
import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

import fastconv.onnxruntime as ours

ROOT = pathlib.Path(ours.__file__).parents[2]

#: What programs import, and what they ask about the package.
PROGRAM = """
import importlib.metadata, importlib.util, json, sys
import onnxruntime, onnxruntime as ort
import onnxruntime.backend
import onnxruntime.capi._pybind_state as C
import onnxruntime.capi.onnxruntime_inference_collection
from onnxruntime import InferenceSession, SessionOptions
from onnxruntime.capi import onnxruntime_pybind11_state
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, NoSuchFile
from onnxruntime.capi.onnxruntime_validation import check_training_module
try:
    InferenceSession("no.onnx")
except NoSuchFile as e:
    error = type(e).__name__
print(json.dumps({
    "name": ort.__name__, "session": InferenceSession.__module__, "error": error,
    "same": C.InvalidArgument is InvalidArgument is ort.capi._pybind_state.InvalidArgument,
    "spec": importlib.util.find_spec("onnxruntime") is not None,
    "submodule": importlib.util.find_spec("onnxruntime.capi") is not None,
    "version": [importlib.metadata.version("onnxruntime"), ort.__version__],
    "distribution": importlib.metadata.distribution("onnxruntime").metadata["Name"],
    "argv": sys.argv[1:], "main": __name__, "path": sys.path[0],
    "file": globals().get("__file__"),
}))
"""


def run(*arguments, code=0):
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert done.returncode == code, done.stderr
    return done


def check(output):
    found = json.loads(output.splitlines()[-1])
    assert found["name"] == "fastconv.onnxruntime"
    assert found["session"].startswith("fastconv.")
    assert found["error"] == "NoSuchFile"
    assert found["same"]
    assert found["spec"]
    assert found["submodule"]
    assert found["version"] == [ours.__version__] * 2
    assert found["distribution"] == "onnxruntime"
    return found


def test_a_script_runs_with_its_arguments(tmp_path):
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    found = check(run("-m", "fastconv.onnxruntime", str(script), "a", "-b").stdout)
    assert (found["argv"], found["main"]) == (["a", "-b"], "__main__")
    assert found["path"] == str(tmp_path)
    relative = os.path.relpath(script, ROOT)
    found = check(run("-m", "fastconv.onnxruntime", relative).stdout)
    assert found["file"] == str(script)  # as with the interpreter itself


def test_a_module_and_a_line_of_code_run(tmp_path):
    (tmp_path / "some_program.py").write_text(PROGRAM)
    code = f"import os; import fastconv.onnxruntime.__main__ as m; os.chdir({str(tmp_path)!r})\n"
    code += "m.main(['-m', 'some_program', 'x'])"
    assert check(run("-c", code).stdout)["argv"] == ["x"]
    assert check(run("-m", "fastconv.onnxruntime", "-c", PROGRAM, "y").stdout)["argv"] == ["y"]


@pytest.mark.parametrize("arguments", [[], ["-m"], ["/no/such/program.py"]])
def test_a_command_line_without_a_program_explains_itself(arguments):
    done = run("-m", "fastconv.onnxruntime", *arguments, code=2)
    assert done.stderr
    assert "Traceback" not in done.stderr


def test_the_exit_status_of_a_script_is_the_commands(tmp_path):
    script = tmp_path / "program.py"
    script.write_text("raise SystemExit(7)")
    run("-m", "fastconv.onnxruntime", str(script), code=7)


def test_install_replaces_a_loaded_onnxruntime_with_a_warning_and_uninstall_puts_it_back():
    import onnxruntime as real

    before = importlib.metadata.version("onnxruntime")
    with pytest.warns(UserWarning, match="imported before"):
        ours.install()
    try:
        import onnxruntime
        import onnxruntime.capi.onnxruntime_pybind11_state as state

        assert onnxruntime is ours
        assert state.Fail.__module__.startswith("fastconv.")
        assert ours.__spec__.name == "fastconv.onnxruntime"
        assert importlib.metadata.version("onnxruntime") == ours.__version__
        ours.install()  # twice is once
    finally:
        ours.uninstall()
    import onnxruntime

    assert onnxruntime is real
    assert importlib.metadata.version("onnxruntime") == before
    ours.uninstall()


def test_parts_that_neither_has_are_missing():
    code = "import fastconv.onnxruntime as f; f.install(); import onnxruntime.nonsense"
    done = run("-c", code, code=1)
    assert "ModuleNotFoundError: No module named 'onnxruntime.nonsense'" in done.stderr


def test_the_quantiser_of_an_installed_onnxruntime_calibrates_on_our_sessions():
    code = (
        "import fastconv.onnxruntime as f; f.install()\n"
        "import onnxruntime.quantization.calibrate as c\n"
        "print(c.onnxruntime.__name__, c.__spec__.name)"
    )
    assert run("-c", code).stdout.split() == [
        "fastconv.onnxruntime",
        "onnxruntime.quantization.calibrate",
    ]
