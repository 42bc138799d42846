"""tools/soak.py runs a model at many sizes, and times plans."""

import pathlib
import subprocess
import sys

import pytest
from test_concurrency import conv_chain

TOOL = pathlib.Path(__file__).parent.parent / "tools" / "soak.py"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("soak") / "chain.onnx"
    path.write_bytes(conv_chain(3, 8))
    return path


def soak(model, *args):
    command = [sys.executable, str(TOOL), str(model), "--threads", "1", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_memory_stays_flat_over_many_sizes(model):
    done = soak(
        model, "--runs", "150", "--sizes", "30", "--range", "32", "256", "--memory-limit", "64"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "30 sizes" in done.stdout
    assert "grew by" in done.stdout


def test_growth_beyond_the_tolerance_is_an_exit_status(model):
    done = soak(model, "--runs", "20", "--sizes", "5", "--range", "32", "64", "--tolerance", "-1")
    assert done.returncode == 1, done.stdout + done.stderr


def test_plans_are_timed_beside_runs(model):
    done = soak(model, "--plan", "64x96", "32x32")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("plan / run") == 2
