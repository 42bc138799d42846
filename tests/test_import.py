"""Importing the package is light, and its modules import one another one way only."""

import ast
import pathlib
import subprocess
import sys

import pytest

import fastconv

ROOT = pathlib.Path(fastconv.__file__).parent

#: Packages that must be loaded only by what needs them.
HEAVY = ("onnx", "google.protobuf", "PIL", "rich", "multiprocessing", "asyncio", "unittest")


def loaded_by(code):
    """The names of the modules in ``sys.modules`` after this code ran in a new process."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT.parent,
    )
    return set(done.stdout.split())


def test_importing_the_package_loads_almost_nothing():
    new = loaded_by("import fastconv") - loaded_by("pass")
    assert {m for m in new if m.startswith("fastconv")} == {"fastconv", "fastconv.errors"}
    assert "numpy" not in new
    assert not [m for m in new if m.startswith(HEAVY)]


def test_importing_the_onnxruntime_module_loads_no_engine():
    new = loaded_by("import fastconv.onnxruntime") - loaded_by("pass")
    assert "numpy" not in new
    assert "fastconv.model" not in new


@pytest.mark.parametrize(
    "code",
    ["load", "InferenceSession", "SessionOptions", "ops", "loading",
     "Model; import fastconv.kernels as k; k.table()"],
)  # fmt: skip
def test_loading_models_needs_no_heavy_package(code):
    names = "fastconv, fastconv.loading" if code == "loading" else "fastconv"
    new = loaded_by(f"import {names}; fastconv.{code}") - loaded_by("import numpy")
    assert ("fastconv.passes" if code == "loading" else "fastconv.errors") in new
    assert not [m for m in new if m.startswith(HEAVY)]


def test_every_public_name_exists_and_is_listed():
    for name in fastconv.__all__:
        assert getattr(fastconv, name) is not None
        assert name in dir(fastconv)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = fastconv.nonsense


# Who may import whom. The name of a part is that of the module or package right under fastconv.

LEAVES = {"errors", "sizes", "knobs", "threads", "records", "lazy", "formats"}
MAY_IMPORT = {
    "errors": set(),
    "sizes": {"errors"},
    "knobs": {"errors", "records"},
    "records": set(),
    "formats": {"errors"},
    "lazy": set(),
    "threads": {"errors", "knobs"},
    "graph": LEAVES,
    "kernels": LEAVES,
    "image": LEAVES,
    "importer": LEAVES | {"graph"},
    "passes": LEAVES | {"graph"},
    "plan": LEAVES | {"graph", "kernels"},
    "runtime": LEAVES | {"graph", "kernels", "plan"},
    "tuning": LEAVES | {"kernels"},
    "model": LEAVES | {"runtime"},
    "loading": LEAVES | {"graph", "importer", "model", "passes", "plan", "runtime", "tuning"},
    "tuner": LEAVES | {"feeds", "plan", "runtime"},
    "ops": LEAVES | {"graph", "kernels", "plan", "runtime"},
    "onnxruntime": LEAVES | {"graph", "importer", "model"},
    "session": {"onnxruntime"},
    "backend": LEAVES | {"model"},
    "text": set(),
    "feeds": LEAVES,
    "peak": LEAVES | {"kernels", "plan"},
    "receptive": LEAVES | {"graph", "importer"},
    "compare": LEAVES,
    "visualize": LEAVES | {"graph", "passes", "runtime", "text"},
    "layered": set(),
    "page": set(),
    "picture": LEAVES | {"feeds", "graph", "inspect", "text"},
    "draw": LEAVES | {"layered", "page", "picture", "text"},
    "check": LEAVES | {"feeds", "graph", "importer", "inspect", "model", "plan", "text"},
    "locate": LEAVES | {"compare", "graph", "passes", "runtime"},
    "inspect": LEAVES | {"text", "feeds", "receptive", "graph", "importer", "plan"},
}


def parts_imported(path, top_level_only=False):
    """The parts of the package that a module imports (those for type checkers alone left out)."""
    package = path.relative_to(ROOT.parent).with_suffix("").parts
    package = package[:-1]  # of a module or of an __init__: the package that holds it
    found = set()

    def walk(node):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)) and top_level_only:
                continue
            if isinstance(child, ast.Import):
                names = [a.name.split(".") for a in child.names]
                found.update(n[1] for n in names if n[0] == "fastconv" and len(n) > 1)
            elif isinstance(child, ast.ImportFrom):
                base = list(package[: len(package) - child.level + 1]) if child.level else []
                base += child.module.split(".") if child.module else []
                if base == ["fastconv"]:
                    found.update(a.name for a in child.names)
                elif base[:1] == ["fastconv"]:
                    found.add(base[1])
            walk(child)

    walk(ast.parse(path.read_text(encoding="utf-8")))
    return found


def part_of(path):
    return path.relative_to(ROOT).with_suffix("").parts[0]


MODULES = sorted(p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py")
#: The command line may import everything.
TOP = ("cli", "__main__")


@pytest.mark.parametrize(
    "path",
    [p for p in MODULES if part_of(p) not in TOP],
    ids=lambda p: p.relative_to(ROOT).as_posix(),
)
def test_imports_flow_one_way(path):
    part = part_of(path)
    assert "cli" not in parts_imported(path)
    # What is imported inside a function may look further: it makes no cycle.
    assert parts_imported(path, top_level_only=True) - {part} <= MAY_IMPORT[part]


def test_the_rules_cover_every_part_and_have_no_cycle():
    parts = {part_of(p) for p in MODULES}
    assert parts == MAY_IMPORT.keys() | set(TOP)
    for part, allowed in MAY_IMPORT.items():
        for other in allowed:
            assert part not in MAY_IMPORT[other], f"{part} and {other} import each other"
