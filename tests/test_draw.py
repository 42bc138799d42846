"""``inspect --graph``: the picture shows every layer, edge and shape, and lets no name do harm."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from cli_tools import LENET, MOBILENET, build, node

import fastconv
from fastconv import draw, picture
from fastconv.cli import main
from fastconv.errors import OptionError

F32 = np.float32
SVG = "{http://www.w3.org/2000/svg}"
EVIL = (
    "</title></text><script>alert(1)</script>\"'><![CDATA[ ]]>&amp;\x00\x1b\u202e\n--><b onload=x>"
)


def draw_svg(path, **options):
    found = picture.picture(fastconv.load(path, fallback="allow"), **options)
    return found, ElementTree.fromstring(draw.svg(found, "m"))


def boxes(tree):
    return [g for g in tree.iter(f"{SVG}g") if g.get("class") == "box"]


def texts(element):
    return ["".join(t.itertext()) for t in element.iter(f"{SVG}text")]


def test_lenet_is_drawn_with_its_layers_shapes_and_kernels():
    found, tree = draw_svg(LENET)
    drawn = [texts(b) for b in boxes(tree)]
    assert drawn[0] == ["input"]
    assert drawn[1] == ["Conv + Relu", "5×5", "c1", "conv_few"]
    assert drawn[-1] == ["logits"]
    assert len(drawn) == 8 + 2
    shapes = [texts(g)[0] for g in tree.iter(f"{SVG}g") if g.get("class") == "shape"]
    assert shapes[:3] == ["1×1×28×28", "1×6×28×28", "1×6×14×14"]
    assert "ms" not in " ".join(" ".join(t) for t in drawn)
    facts = dict(found.boxes[1].facts)
    assert facts["parameters"] == "156"
    assert facts["receptive field"] == "5×5"
    assert facts["made of"] == "c1, c1.relu"
    assert "float32[6, 1, 5, 5]" in facts["input 1"]


def test_without_optimisation_every_node_of_the_file_is_drawn():
    model = fastconv.load(LENET, optimize=False)
    assert len(picture.picture(model).boxes) == 12 + 2


def test_every_value_is_an_edge_from_its_maker_to_its_reader():
    found, tree = draw_svg(MOBILENET)
    graph = fastconv.load(MOBILENET).graph
    inner = {(n.name, i) for n in graph.nodes for i in n.inputs if i and i not in graph.consts}
    ends = [(found.boxes[w.head].name, w.value) for w in found.wires]
    assert set(ends) == inner | {("logits", "logits")}
    wires = [p for p in tree.iter(f"{SVG}path") if p.get("class") == "wire"]
    assert len(wires) == len(found.wires)
    for w in found.wires:
        assert w.tail < w.head
        assert w.label


def test_times_are_shown_when_measured():
    found, tree = draw_svg(LENET, runs=2)
    times = [b.milliseconds for b in found.boxes if b.runs == "native"]
    assert len(times) == 7
    assert all(t > 0 for t in times)
    assert sum(times) <= found.total * 1.0001
    shares = [b.share for b in found.boxes if b.share is not None]
    assert 0.5 < sum(shares) <= 1.0001
    drawn = " ".join(texts(boxes(tree)[1]))
    assert re.search(r"[\d.]+ (ms|µs) · [\d.]+ %", drawn)
    assert any("of the time" in t for t in texts(tree))


def test_fallbacks_have_a_colour_of_their_own_and_a_legend():
    nodes = [
        node("Relu", ["x"], ["r"], "relu"),
        node("Det", ["r"], ["d"], "det"),
        node("Cast", ["d"], ["e"], "cast", to=11),
        node("Sinh", ["e"], ["y"], "sinh"),
    ]
    found, tree = draw_svg(build(nodes, {"x": [2, 3, 3]}, ["y"]))
    by_name = {b.name: b for b in found.boxes}
    assert by_name["det"].runs == "onnx.reference"
    assert by_name["sinh"].runs == "numpy"
    assert "no kernel" in dict(by_name["det"].facts)["because"]
    drawn = {texts(b)[0]: ElementTree.tostring(b, "unicode") for b in boxes(tree)}
    for mode, name in (("onnx.reference", "Det"), ("numpy", "Sinh")):
        border, _, meaning = draw.FALLBACKS[mode]
        assert border in drawn[name]
        assert border not in drawn["Relu"]
        assert meaning in texts(tree)
    assert draw.FALLBACKS["numpy"][2] not in texts(draw_svg(LENET)[1])


def test_several_outputs_leave_a_box_side_by_side():
    nodes = [node("Split", ["x"], ["a", "b"], axis=1), node("Concat", ["b", "a"], ["y"], axis=1)]
    data = build(nodes, {"x": [1, 4, 2, 2]}, ["y"], opset=12)
    found, tree = draw_svg(data)
    ports = [(w.value, w.port, w.ports) for w in found.wires if found.boxes[w.tail].name == "split"]
    assert sorted(ports) == [("a", 0, 2), ("b", 1, 2)]
    starts = {
        re.match(r"M([\d.]+)", p.get("d")).group(1)
        for p in tree.iter(f"{SVG}path")
        if p.get("class") == "wire" and found.boxes[int(p.get("data-tail"))].name == "split"
    }
    assert len(starts) == 2


@pytest.fixture
def evil():
    """A model whose every name tries to break out."""
    nodes = [
        node("Conv", [EVIL + "x", EVIL + "w"], [EVIL + "c"], EVIL + "conv"),
        node("Det", [EVIL + "c"], [EVIL + "y"], "</script><script>" + EVIL),
    ]
    return build(
        nodes, {EVIL + "x": [1, 1, 3, 3]}, [EVIL + "y"], {EVIL + "w": np.ones((1, 1, 1, 1), F32)}
    )


class Tags(HTMLParser):
    """Counts the elements and attributes of a page as a browser would see them."""

    def __init__(self):
        super().__init__()
        self.seen, self.attributes, self.scripts, self.inside = [], set(), [], None

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.attributes |= {name for name, _ in attrs}
        self.inside = tag if tag == "script" else None
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside:
            self.scripts[-1] += data


def test_names_do_no_harm_in_svg(evil):
    _, tree = draw_svg(evil)
    tags = {e.tag.removeprefix(SVG) for e in tree.iter()}
    assert tags <= {"svg", "defs", "marker", "path", "rect", "g", "text", "title"}
    attributes = {a for e in tree.iter() for a in e.attrib}
    assert not [a for a in attributes if a.startswith("on") or "href" in a]
    shown = " ".join(texts(tree))
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert "alert(1)" in ElementTree.tostring(tree, "unicode")  # as text, in a title


def test_names_do_no_harm_in_html(evil):
    found = picture.picture(fastconv.load(evil, fallback="allow"))
    page = draw.html(found, EVIL)
    tags = Tags()
    tags.feed(page)
    tags.close()
    assert tags.seen.count("script") == 2
    assert "b" not in tags.seen
    assert not [a for a in tags.attributes if a.startswith("on") or a in ("href", "src")]
    data = json.loads(tags.scripts[0])
    assert len(data["facts"]) == len(data["search"]) == len(found.boxes)
    assert any("alert(1)" in value for rows in data["facts"] for _, value in rows)
    digest = base64.b64encode(hashlib.sha256(tags.scripts[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page  # no other script may run
    assert "default-src 'none'" in page


def test_a_page_needs_nothing_from_elsewhere():
    page = draw.html(picture.picture(fastconv.load(LENET)), "lenet")
    addresses = set(re.findall(r"https?://[^\"' <>]+", page))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a name, not an address
    for word in ("@import", "url(http", "fetch(", "XMLHttpRequest", "innerHTML", "eval("):
        assert word not in page


def test_the_command_writes_the_form_that_the_ending_names(capsys, tmp_path):
    for ending, start in (("svg", "<?xml"), ("html", "<!DOCTYPE html>"), ("HTML", "<!DOCTYPE")):
        path = tmp_path / f"graph.{ending}"
        assert main(["inspect", LENET, "--graph", str(path)]) == 0
        assert path.read_text(encoding="utf-8").startswith(start)
    assert "graph.svg" in capsys.readouterr().out
    path = tmp_path / "p.svg"
    assert main(["inspect", LENET, "--graph", str(path), "--profile", "2", "--threads", "1"]) == 0
    assert " %" in path.read_text(encoding="utf-8")


def test_a_node_that_runs_in_python_has_its_time_and_its_share_of_the_run(tmp_path):
    nodes = [node("Relu", ["x"], ["a"]), node("Det", ["a"], ["d"]), node("Erf", ["d"], ["y"])]
    path = tmp_path / "m.onnx"
    path.write_bytes(build(nodes, {"x": [40, 40, 8, 8]}, ["y"], {}))
    found, tree = draw_svg(str(path), runs=2)
    layers = [b for b in found.boxes if b.milliseconds is not None]
    assert len(layers) == 3
    assert sum(b.milliseconds for b in layers) == pytest.approx(found.total)
    assert sum(b.share for b in layers) == pytest.approx(1)
    (det,) = (texts(b) for b in boxes(tree) if "Det" in texts(b)[0])
    assert re.search(r"[\d.]+ (µs|ms) · [\d.]+ %", " ".join(det))


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--graph", "x.png"], ".svg or .html"),
        (["--graph", "nosuch/x.svg"], "nosuch/x.svg"),
        (["--graph", "x.svg", "--shape", "1,2,28,28"], "input"),
        (["--profile"], "--graph"),
        (["--graph", "x.svg", "--profile", "0"], "whole number"),
    ],
)
def test_wrong_options_are_one_line(capsys, args, words):
    assert main(["inspect", LENET, *args]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert words in err


@pytest.mark.parametrize(
    ("name", "title", "width", "shown"),
    [
        ("short", "Conv", 200, "short"),
        ("/features/denseblock1/denselayer2/conv1/Conv", "Conv", 200, "…/denselayer2/conv1"),
        ("a" * 90, "Conv", 100, None),
    ],
)
def test_long_names_keep_what_tells_most(name, title, width, shown):
    found = draw.fit_name(picture.Box("other", title, name), width, 10)
    assert len(found) * 10 * draw.EM <= width
    if shown is None:
        assert found.startswith("aa")
        assert "…" in found
    else:
        assert found.endswith(shown.removeprefix("…"))


def test_a_file_of_another_ending_is_refused_before_the_model_is_read():
    with pytest.raises(OptionError, match=r"x\.pdf"):
        draw.form_of("x.pdf")
