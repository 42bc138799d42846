#!/usr/bin/env python3
"""Print which ONNX operators run natively, which through onnx.reference, and which are refused.

    python tools/operators.py            # a table
    python tools/operators.py --markdown # the lists that README.md has

An operator counts by its newest version in the installed onnx package. It is native when fastconv
has code for it, runs through the reference when the onnx package implements it or states it as a
function of other operators, and is refused otherwise. What a native operator refuses (training
forms, ranks that no kernel has) is in its docstring.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterable

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

    if domain == "" and (name in CONTROL or name in ADAPTED or name == "Constant"):
        return True
    return (domain, name) in REGISTRY


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


def wrapped(names: Iterable[str], mark: str = "") -> str:
    """Names in lines of at most 100 characters."""
    words = ", ".join(f"{mark}{n}{mark}" for n in names) or "none"
    return "\n".join(textwrap.wrap(words, 100, break_long_words=False, break_on_hyphens=False))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--markdown", action="store_true", help="as README.md has it")
    args = parser.parse_args()
    found = table()
    titles = {
        "native": "Native",
        "reference": "Through onnx.reference",
        "refused": "Refused",
    }
    for kind in KINDS:
        names = found[kind]
        if args.markdown:
            print(f"**{titles[kind]}** ({len(names)}): {', '.join(f'`{n}`' for n in names)}.\n")
        else:
            print(f"{titles[kind]} ({len(names)}):\n{textwrap.indent(wrapped(names), '  ')}\n")


if __name__ == "__main__":
    main()
