"""The script that compares engines, and the picture that it draws."""

import json
import pathlib
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest
from cli_tools import LENET

TOOLS = pathlib.Path(__file__).parents[1] / "tools"
sys.path.insert(0, str(TOOLS))

import compare_engines  # noqa: E402
from speed_chart import BEST, ORT, chart, ticks  # noqa: E402


def bars(svg, colour):
    """Widths of the bars of a colour, from top to bottom, without the legend's."""
    rects = ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}rect")
    return [float(r.get("width")) for r in rects if r.get("fill") == colour][1:]


def test_bars_are_as_long_as_their_numbers():
    svg = chart({"1 thread": [("a", 1.5, 2.0), ("b", 0.75, None)]}, "a machine")
    first, second = bars(svg, BEST)
    assert first / second == pytest.approx(2, rel=0.01)
    (ort,) = bars(svg, ORT)
    assert ort / first == pytest.approx(2 / 1.5, rel=0.01)


def test_every_panel_has_the_same_scale():
    svg = chart({"1 thread": [("a", 1.0, None)], "2 threads": [("a", 3.0, None)]}, "a machine")
    first, second = bars(svg, BEST)
    assert second / first == pytest.approx(3, rel=0.01)


def test_names_are_escaped():
    svg = chart({"1 thread": [("<a>&b", 1.0, 1.0)]}, "a < b")
    texts = [t.text for t in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
    assert "<a>&b" in texts
    assert "a < b" in texts


@pytest.mark.parametrize("most", [0.1, 0.9, 1.0, 2.6, 7.0, 40.0])
def test_the_axis_goes_from_nothing_to_past_the_longest_bar(most):
    marks = ticks(most)
    assert marks[0] == 0
    assert marks[-1] > most
    assert len(marks) <= 9


def test_the_table_names_the_fastest_other_engine_and_what_is_missing():
    cells = {
        "net": {
            "ms": {"fastconv": 10.0, "onnxruntime": 15.0, "mnn": 12.0},
            "over_fastconv": {"onnxruntime": 1.5, "mnn": 1.2},
            "difference": 2e-6,
        }
    }
    engines = ["fastconv", "onnxruntime", "mnn", "ncnn"]
    lines = compare_engines.table(cells, engines, {}).splitlines()
    assert lines[2] == "| net | 10.00 | 15.00 | 12.00 | – | 1.20 | 1.50 | 2e-06 |"
    assert lines[-1].startswith("Geometric means: best other / fastconv 1.20 (worst 1.20)")


def test_engines_take_turns_and_what_was_measured_is_kept(tmp_path):
    results, svg = tmp_path / "speed.json", tmp_path / "pictures" / "speed.svg"
    command = [
        sys.executable, TOOLS / "compare_engines.py", LENET, tmp_path / "absent.onnx",
        "--engines", "fastconv,onnxruntime", "--seconds", "0",
        "--results", results, "--svg", svg,
    ]  # fmt: skip
    for turn in range(2):
        done = subprocess.run(
            list(map(str, command)), capture_output=True, text=True, timeout=120, check=True
        )
        assert ("lenet5, 1 threads" in done.stdout) == (turn == 0)
        assert "| lenet5 | " in done.stdout
        assert "absent.onnx" in done.stdout
    cell = json.loads(results.read_text())["cells"]["1 threads, batch 1"]["lenet5"]
    assert cell["errors"] == {}
    assert cell["over_fastconv"]["onnxruntime"] > 0
    assert cell["difference"] < 1e-4
    assert len(bars(svg.read_text(), BEST)) == 2  # the network and the mean


def test_an_unknown_engine_is_refused():
    command = [sys.executable, TOOLS / "compare_engines.py", "--engines", "abacus"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "abacus" in done.stderr
