"""``fastconv verify``: compare a model's results with another engine's."""

from __future__ import annotations

import argparse
from typing import Any

from .. import text
from .common import (
    add_input,
    add_json,
    add_model,
    add_shape,
    load_model,
    note,
    parse_shapes,
    print_json,
    print_table,
    read_inputs,
    say,
    tolerance,
    whole,
)


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "verify",
        help="compare results with onnxruntime or onnx.reference",
        description="Runs the model here and with another engine on the same inputs, and shows the "
        "largest difference of every output. Exit code 1 if one passes the tolerance; then the "
        "first node that differs is named. Needs the onnx package.",
    )
    add_model(parser)
    add_shape(parser)
    add_input(parser)
    parser.add_argument(
        "--against",
        choices=("reference", "onnxruntime"),
        help="the other engine (default: onnxruntime if it is installed, else onnx.reference)",
    )
    parser.add_argument(
        "--tolerance",
        type=tolerance,
        default=1e-4,
        metavar="X",
        help="largest difference allowed, as a part of the output's largest magnitude "
        "(default 1e-4)",
    )
    parser.add_argument(
        "--seed", type=whole(0), default=0, metavar="N", help="of the random inputs (default 0)"
    )
    parser.add_argument("--threads", type=whole(0, 4096), metavar="N", help="threads per run")
    add_json(parser)
    parser.set_defaults(function=main)


def main(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from .. import compare
    from ..feeds import concrete_shapes, random_feeds
    from ..locate import locate

    other = compare.engine(args.against)
    model = load_model(args, fallback="allow")
    given = read_inputs(args.input)
    shapes = parse_shapes(model, args.shape)
    shapes |= {n: a.shape for n, a in given.items()}
    sizes, notes = concrete_shapes(model, shapes)
    for line in notes:
        note(line)
    missing = [i.name for i in model.inputs if i.name not in given]
    feeds = model.check_feeds({**random_feeds(model, sizes, args.seed, missing), **given})
    ours = model.run(feeds)
    theirs = other.run(args.model, feeds)
    found = [compare.difference(o.name, ours[o.name], theirs.get(o.name)) for o in model.outputs]
    bad = any(d.exceeds(args.tolerance) for d in found)
    where = locate(model, args.model, feeds, other, args.tolerance) if bad else None
    if args.json:
        print_json(
            {
                "model": args.model,
                "against": other.name,
                "tolerance": args.tolerance,
                "ok": not bad,
                "outputs": [d.to_dict(args.tolerance) for d in found],
                "first_difference": None if where is None else where.to_dict(),
            }
        )
        return int(bad)
    rows = [
        (
            d.name,
            text.times(d.shape) or "scalar",
            d.dtype,
            text.number(d.absolute),
            text.number(d.relative),
            d.problem or ("differs" if d.exceeds(args.tolerance) else "ok"),
        )
        for d in found
    ]
    print_table(("output", "shape", "dtype", ">absolute", ">relative", "result"), rows)
    say(f"against {other.name}, tolerance {args.tolerance:g}")
    if where is not None:
        for line in where.lines():
            say(text.clean(line))
    return int(bad)
