#!/usr/bin/env python3
"""Print which operators run natively, which through onnx.reference, and which are refused.

    python tools/operators.py            # a table
    python tools/operators.py --markdown # the lists that README.md has

It lists the operators of ONNX, and of those that onnxruntime adds the ones that run.

An operator counts by its newest version in the installed onnx package. It is native when fastconv
has code for it, runs through the reference when the onnx package implements it or states it as a
function of other operators, and is refused otherwise. What a native operator refuses (training
forms, ranks that no kernel has) is in its docstring.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import textwrap

# From a source folder that was built in place, where fastconv is not installed.
sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent))

#: Operators of older opsets, or forms, that the importer writes as others.
ADAPTED = {"Upsample", "Scatter"}
KINDS = ("native", "reference", "refused")


def schemas() -> dict[tuple[str, str], object]:
    """(domain, name) → the newest schema of every operator of the onnx package."""
    import onnx

    newest: dict[tuple[str, str], object] = {}
    for s in onnx.defs.get_all_schemas():
        key = (s.domain, s.name)
        if key not in newest or s.since_version > newest[key].since_version:  # type: ignore[attr-defined]
            newest[key] = s
    return newest


def is_native(domain: str, name: str) -> bool:
    """Whether fastconv has code for an operator."""
    from fastconv.graph import REGISTRY
    from fastconv.graph import ops as _ops  # noqa: F401  (fills the registry)
    from fastconv.graph.ops.control import CONTROL
    from fastconv.importer.contrib import find

    if domain == "" and (name in CONTROL or name in ADAPTED or name == "Constant"):
        return True
    return (domain, name) in REGISTRY or find(domain, name) is not None


def added(domain: str) -> list[str]:
    """The operators of one of onnxruntime's own domains that run."""
    from fastconv.graph import REGISTRY
    from fastconv.graph import ops as _ops  # noqa: F401  (fills the registry)
    from fastconv.importer.contrib import CONTRIBUTED, find

    find("", "")  # fills the table
    return sorted({n for d, n in [*REGISTRY, *CONTRIBUTED] if d == domain})


def in_reference(domain: str, name: str, schema: object) -> bool:
    """Whether onnx.reference can run an operator."""
    from onnx.reference.ops import load_op

    if schema.has_function or schema.has_context_dependent_function:  # type: ignore[attr-defined]
        return True
    try:
        if domain == "":
            load_op(domain, name, None)
        elif domain == "ai.onnx.ml":
            from onnx.reference.ops.aionnxml._op_list import load_op as load_ml

            load_ml(domain, name, None)
        else:
            from onnx.reference.ops.aionnx_preview_training._op_list import load_op as load_preview

            load_preview(domain, name, None)
    except Exception:  # whatever it raises for an operator that it has not
        return False
    return True


def table() -> dict[str, list[str]]:
    """native, reference, refused → sorted names (with their domain, unless that is ai.onnx)."""
    result: dict[str, list[str]] = {k: [] for k in KINDS}
    for (domain, name), schema in sorted(schemas().items()):
        if schema.deprecated and name not in ADAPTED:  # type: ignore[attr-defined]
            continue
        if is_native(domain, name):
            kind = "native"
        else:
            kind = "reference" if in_reference(domain, name, schema) else "refused"
        result[kind].append(f"{domain}.{name}" if domain else name)
    return result


def wrapped(text: str, width: int) -> str:
    """Text in lines of at most ``width`` characters."""
    return "\n".join(textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--markdown", action="store_true", help="as README.md has it")
    args = parser.parse_args()
    found = table()
    rows = [
        ("Native", found["native"]),
        ("Native, of onnxruntime's domain com.microsoft", added("com.microsoft")),
        ("Native, of its domain com.microsoft.nchwc", added("com.microsoft.nchwc")),
        ("Through onnx.reference", found["reference"]),
        ("Refused", found["refused"]),
    ]
    for title, names in rows:
        listed = ", ".join(names) or "none"
        if args.markdown:
            print(f"{wrapped(f'**{title}** ({len(names)}): {listed}.', 110)}\n")
        else:
            print(f"{title} ({len(names)}):\n{textwrap.indent(wrapped(listed, 98), '  ')}\n")


if __name__ == "__main__":
    main()
