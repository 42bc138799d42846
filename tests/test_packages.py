"""Packages built on onnxruntime give the same results on fastconv (see tools/try_packages.py)."""

import importlib.util
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
spec = importlib.util.spec_from_file_location("try_packages", ROOT / "tools" / "try_packages.py")
tool = importlib.util.module_from_spec(spec)
sys.modules["try_packages"] = tool
spec.loader.exec_module(tool)


@pytest.mark.packages
@pytest.mark.parametrize("name", tool.names())
def test_a_package_finds_the_same_with_fastconv(name):
    python = tool.VENV / "bin" / "python"
    assert python.exists(), "run tools/try_packages.py --install first"
    tool.prepare(python)
    outcome = tool.compare(python, name)
    assert outcome.problem == ""


@pytest.mark.parametrize(
    ("a", "b", "worst", "problem"),
    [
        ({"a": [1.0, "x"]}, {"a": [1.5, "x"]}, 0.5, False),
        ([100.0], [101.0], 0.01, False),
        ([1, 2], [1], 0, True),
        ({"a": 1}, {"b": 1}, 0, True),
        (["x"], ["y"], 0, True),
        ([None], [0.0], 0, True),
        ([float("nan")], [float("nan")], 0, False),
        ([float("nan")], [1.0], 0, True),
    ],
)
def test_results_are_compared_number_by_number(a, b, worst, problem):
    got, text = tool.difference(a, b)
    assert bool(text) == problem
    assert problem or got == pytest.approx(worst)
