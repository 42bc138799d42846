"""Compiled modules: stubs say what they offer to Python, and parameter structs have no gaps."""

import ast
import ctypes
import importlib
import inspect
import re
import types
from pathlib import Path

import pytest

import fastconv
from fastconv import kernels

ROOT = Path(fastconv.__file__).parent
SOURCES = Path(__file__).parents[1] / "fastconv"  # an installation has none
#: Helpers that Cython adds to every module that pickles something.
GENERATED = ("__pyx", "__reduce", "__setstate", "__test__")
COMPILED = ["kernels/_cpu", "plan/places", "plan/tape", "runtime/executor"]


def stub_of(path):
    return ast.parse((ROOT / f"{path}.pyi").read_text())


def parameters(function):
    """(name, has a default) of each parameter of a stub's function, without ``self``."""
    a = function.args
    given = [x.arg for x in a.args if x.arg != "self"]
    return [(n, i >= len(given) - len(a.defaults)) for i, n in enumerate(given)]


def real_parameters(function):
    return [
        (p.name, p.default is not p.empty)
        for p in inspect.signature(function).parameters.values()
        if p.name != "self"
    ]


def public(names):
    return {n for n in names if not n.startswith("_")}


@pytest.mark.parametrize("path", COMPILED)
def test_a_stub_names_what_the_module_has(path):
    module = importlib.import_module(f"fastconv.{path.replace('/', '.')}")
    real = {n for n, v in vars(module).items() if not isinstance(v, types.ModuleType)}
    defined = [n for n in stub_of(path).body if isinstance(n, ast.FunctionDef | ast.ClassDef)]
    assert public(n.name for n in defined) == public(real)


@pytest.mark.parametrize("path", COMPILED)
def test_stub_functions_take_what_the_compiled_ones_take(path):
    module = importlib.import_module(f"fastconv.{path.replace('/', '.')}")
    checked = 0
    for node in stub_of(path).body:
        if isinstance(node, ast.FunctionDef):
            assert parameters(node) == real_parameters(getattr(module, node.name)), node.name
            checked += 1
        elif isinstance(node, ast.ClassDef):
            cls = getattr(module, node.name)
            methods = [n for n in node.body if isinstance(n, ast.FunctionDef)]
            fields = [n.target.id for n in node.body if isinstance(n, ast.AnnAssign)]
            named = {m.name for m in methods if m.name != "__init__"} | set(fields)
            assert named == public(vars(cls))
            for m in methods:
                if m.name != "__init__" and not m.decorator_list:  # not a property's
                    assert parameters(m) == real_parameters(getattr(cls, m.name)), m.name
                    checked += 1
    assert checked


def test_compiled_constructors_take_the_stub_names():
    from fastconv.runtime.executor import Arena, Context, Program

    values = {"steps": [], "arena_size": 64, "keep": None, "max_threads": 1}
    stub = {n.name: n for n in stub_of("runtime/executor").body if isinstance(n, ast.ClassDef)}
    inits = {
        name: next(n for n in cls.body if getattr(n, "name", "") == "__init__")
        for name, cls in stub.items()
    }
    assert [n for n, _ in parameters(inits["Program"])] == list(values)
    program = Program(**values)
    assert [n for n, _ in parameters(inits["Context"])] == ["program"]
    assert Context(program=program).program is program
    assert [n for n, _ in parameters(inits["Arena"])] == ["size"]
    assert len(Arena(size=program.arena_size).map) == 64


@pytest.mark.parametrize("isa", kernels.ISAS)
def test_the_stub_of_a_build_lists_every_family(isa):
    names = {
        alias.name
        for n in stub_of(f"kernels/{isa}/__init__").body
        if isinstance(n, ast.ImportFrom) and n.module == "base"
        for alias in n.names
    }
    names |= {
        n.target.id for n in stub_of(f"kernels/{isa}/__init__").body if isinstance(n, ast.AnnAssign)
    }
    assert public(names) == set(kernels.families(isa))


@pytest.mark.parametrize(
    "family", sorted({f for isa in kernels.ISAS for f in kernels.families(isa)})
)
def test_a_family_has_the_shape_that_the_stub_gives_it(family):
    """Every build that runs here: KERNELS, and CONSTANTS where the stub says _SizedFamily."""
    stated = {
        n.target.id: n.annotation.id
        for isa in kernels.ISAS
        for n in stub_of(f"kernels/{isa}/__init__").body
        if isinstance(n, ast.AnnAssign)
    }
    tables = []
    for isa in kernels.runnable_isas():
        if family not in kernels.families(isa):
            continue
        module = importlib.import_module(f"fastconv.kernels.{isa}.{family}")
        for name, (address, pack) in module.KERNELS.items():
            assert isinstance(name, str)
            assert isinstance(address, int)
            assert address
            assert callable(pack)
        sizes = getattr(module, "CONSTANTS", None)
        assert (sizes is not None) == (stated[family] == "_SizedFamily")
        assert all(isinstance(v, int) for v in (sizes or {}).values())
        tables.append(set(module.KERNELS))
    assert all(t == tables[0] for t in tables[1:])


C_TYPES = {
    "int64_t": ctypes.c_int64, "int32_t": ctypes.c_int32, "float": ctypes.c_float,
    "double": ctypes.c_double,
}  # fmt: skip


def parameter_structs():
    """(family, struct, fields as C types) of what kernels take, by their sources."""
    for path in sorted((SOURCES / "kernels").glob("*.p[yx][xd]")):
        source = path.read_text()
        sizes = {n: int(v) for n, v in re.findall(r"^    (\w+) = (\d+)\b", source, re.MULTILINE)}
        for name, body in re.findall(
            r"^cdef struct (\w+Params):\n((?:    .*\n|\n)*)", source, re.MULTILINE
        ):
            fields = []
            for line in re.sub("#.*", "", body).split("\n"):
                kind, _, declared = line.strip().partition(" ")
                for field in filter(None, (d.strip() for d in declared.split(","))):
                    _, *dims = re.split(r"[\[\]]+", field.rstrip("]"))
                    c_type = C_TYPES[kind]
                    for d in dims:
                        c_type *= int(d) if d.isdigit() else sizes[d]
                    fields.append(c_type)
            yield path.stem, name, fields


@pytest.mark.parametrize(("family", "name", "fields"), list(parameter_structs()))
def test_every_byte_of_a_parameter_struct_belongs_to_a_field(family, name, fields):
    """Others would hold anything, and plans with equal parameters would not be equal."""
    members = [(f"f{i}", c_type) for i, c_type in enumerate(fields)]
    struct = type(name, (ctypes.Structure,), {"_fields_": members})
    assert fields
    assert ctypes.sizeof(struct) == sum(map(ctypes.sizeof, fields))
