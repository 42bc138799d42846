"""``fastconv inspect``: a model layer by layer."""

from __future__ import annotations

import argparse
from typing import Any

from .. import text
from ..errors import UnsupportedError
from .common import (
    add_json,
    add_model,
    add_shape,
    add_thread_count,
    load_model,
    note,
    parse_shapes,
    print_json,
    print_table,
    say,
)


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "inspect",
        help="show a model layer by layer",
        description="One row per layer: operator, kernel, stride, pad, output volume "
        "(width × height × depth), parameters, multiply-accumulates, receptive field and the "
        "kernels that run it; then totals, and what has no kernel and why.",
    )
    add_model(parser)
    add_shape(parser)
    add_thread_count(parser)
    add_json(parser)
    parser.add_argument(
        "--check",
        action="store_true",
        help="only say whether every operator has native code: exit code 0 if so, else 1",
    )
    parser.add_argument(
        "--no-optimize", action="store_true", help="show the graph as the file has it, unfused"
    )
    parser.set_defaults(function=main)


def main(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    if args.check:
        return check(args)
    from .. import inspect

    model = load_model(args, fallback="allow", optimize=not args.no_optimize)
    found = inspect.describe(model, parse_shapes(model, args.shape))
    for line in found.notes:
        note(line)
    if args.json:
        print_json({"model": args.model, **found.to_dict()})
        return 0
    say(inspect.heading(found))
    say()
    print_table(inspect.HEADERS, inspect.rows(found))
    say()
    for line in inspect.footer(found):
        say(line)
    return 0


def check(args: argparse.Namespace) -> int:
    """``--check``: every node that has no native code, with the reason."""
    from ..importer.foreign import Foreign
    from ..inspect import foreign_reason

    rows: list[dict[str, Any]] = []
    try:
        model = load_model(args, fallback="allow")
    except UnsupportedError as e:
        rows.append({"name": None, "op": None, "domain": None, "opset": None, "reason": str(e)})
    else:
        for n in model.graph.nodes:
            if isinstance(n.op, Foreign):
                node = n.op.node
                rows.append(
                    {
                        "name": n.name,
                        "op": node.op_type,
                        "domain": node.domain,
                        "opset": n.op.opsets.get(node.domain),
                        "reason": foreign_reason(n.op),
                    }
                )
    if args.json:
        print_json({"model": args.model, "native": not rows, "unsupported": rows})
    elif not rows:
        say(f"{text.clean(args.model)}: every operator runs natively")
    elif rows[0]["name"] is None:
        say(f"{text.clean(args.model)}: not supported: {text.clean(rows[0]['reason'])}")
    else:
        cells = [
            (r["name"], f"{r['domain']}.{r['op']}" if r["domain"] else r["op"], r["opset"],
             r["reason"])
            for r in rows
        ]  # fmt: skip
        print_table(("node", "op", ">opset", "reason"), cells)
    return 1 if rows else 0
