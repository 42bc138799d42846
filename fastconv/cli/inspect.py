"""``fastconv inspect``: a model layer by layer."""

from __future__ import annotations

import argparse
from types import SimpleNamespace
from typing import Any

from .. import text
from ..errors import OptionError
from .common import (
    add_json,
    add_model,
    add_shape,
    add_threads,
    load_model,
    note,
    parse_shapes,
    print_json,
    print_table,
    say,
    whole,
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
    add_json(parser)
    parser.add_argument(
        "--check",
        action="store_true",
        help="list everything that is wrong, unsupported or slow, without running: exit code 0 if "
        "every operator runs natively, 1 if some run through onnx.reference, 2 if it cannot run",
    )
    parser.add_argument(
        "--no-optimize", action="store_true", help="show the graph as the file has it, unfused"
    )
    parser.add_argument(
        "--graph",
        metavar="FILE.svg|FILE.html",
        help="draw the graph as it runs, with shapes and kernels; the page pans and zooms",
    )
    parser.add_argument(
        "--profile",
        nargs="?",
        type=whole(1, 10_000),
        const=10,
        metavar="RUNS",
        help="with --graph: measure every layer's time over so many runs (default 10)",
    )
    add_threads(parser)
    parser.set_defaults(function=main)


def main(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    if args.check:
        return check(args)
    if args.profile and not args.graph:
        raise OptionError("--profile goes with --graph; for a table of times use bench --profile")
    if args.graph:
        return graph(args)
    from .. import inspect

    model = load_model(args, fallback="show", optimize=not args.no_optimize)
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


def graph(args: argparse.Namespace) -> int:
    """``--graph``: draw the graph into a file."""
    from ..draw import draw, form_of

    form_of(args.graph)
    model = load_model(args, fallback="show", optimize=not args.no_optimize)
    draw(model, args.graph, parse_shapes(model, args.shape), args.profile or 0)
    if args.json:
        print_json({"model": args.model, "graph": args.graph})
    else:
        say(f"{text.clean(args.graph)}: the graph of {text.clean(args.model)}")
    return 0


def check(args: argparse.Namespace) -> int:
    """``--check``: everything that is wrong, unsupported or slow, at once."""
    from ..check import check, lines, summary

    def shapes(inputs: Any) -> Any:
        return parse_shapes(SimpleNamespace(inputs=inputs), args.shape)  # type: ignore[arg-type]

    report = check(args.model, shapes)
    if args.json:
        print_json({"model": args.model, **report.to_dict()})
    else:
        say(f"{text.clean(args.model)}: {summary(report)}")
        for line in lines(report):
            say(line)
    return 2 if not report.runs else 0 if report.native else 1
