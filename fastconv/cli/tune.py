"""``fastconv tune``: time the planner's alternatives on this machine and remember the best."""

from __future__ import annotations

import argparse
import os
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

SECONDS = 20


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "tune",
        help="time alternatives on this machine and remember the best for the model",
        description="Times the algorithms and block sizes that the planner has for every layer, "
        "inside the model, and keeps the fastest in a small file that later loads use by "
        "themselves. It holds for this model, processor and version of fastconv, for the shapes "
        "and the number of threads given; tuning again for others adds to it.",
    )
    add_model(parser)
    add_shape(parser)
    add_threads(parser)
    parser.add_argument(
        "--accuracy", choices=("fast", "strict"), default="fast",
        help="strict: only time what accuracy='strict' allows (direct convolution)",
    )  # fmt: skip
    parser.add_argument(
        "--seconds", type=whole(1, 86400), default=SECONDS, metavar="S",
        help=f"about how long to measure (default {SECONDS})",
    )  # fmt: skip
    parser.add_argument(
        "--beside", action="store_true",
        help="keep the choices in MODEL.tune.json instead of the cache folder",
    )  # fmt: skip
    add_json(parser)
    parser.set_defaults(function=main)


def main(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from .. import tuning
    from ..feeds import concrete_shapes
    from ..tuner import tune

    model = load_model(args, accuracy=args.accuracy, tuned=False)
    path = tuning.beside(os.path.abspath(args.model)) if args.beside else None
    path = path or tuning.cached_path(model.original)
    if path is None:
        raise OptionError("there is no home folder to keep a cache in: give --beside")
    sizes, notes = concrete_shapes(model, parse_shapes(model, args.shape))
    for line in notes:
        note(line)
    found = tune(model, sizes, args.seconds, note)
    tuning.write(path, model.original, found.choices, found.timings)
    if args.json:
        print_json(
            {
                "model": args.model, "file": path, "shapes": sizes, "threads": model.threads,
                "before_ms": found.before, "after_ms": found.after, "speedup": found.speedup,
                "kept": found.kept,
                "decisions": [
                    {"kind": o.kind, "key": o.key, "nodes": o.nodes, "ms": o.milliseconds,
                     "estimate": o.estimate, "choice": o.choice}
                    for o in found.outcomes
                ],
            }
        )  # fmt: skip
        return 0
    rows = []
    for o in found.outcomes:
        more = f" and {len(o.nodes) - 1} more" if len(o.nodes) > 1 else ""
        gain = o.milliseconds[o.estimate] - o.milliseconds[o.choice]
        rows.append(
            (
                o.nodes[0] + more, o.kind, o.estimate, o.choice,
                ", ".join(f"{k} {v:.3f}" for k, v in o.milliseconds.items()), f"{gain:.3f}",
            )
        )  # fmt: skip
    if rows:
        print_table(("layer", "what", "estimated", "tuned", "ms", ">gain ms"), rows)
        say()
    changed = sum(o.choice != o.estimate for o in found.outcomes)
    if not changed:
        say(f"all {len(found.outcomes)} estimates hold; a run takes {found.before:.3f} ms")
    elif found.kept:
        say(
            f"{changed} of {len(found.outcomes)} decisions changed: {found.before:.3f} ms a run "
            f"became {found.after:.3f} ms, {found.speedup:.2f} times as fast"
        )
    else:
        say(f"{changed} decisions looked better, the whole run did not: the estimates are kept")
    say(f"kept in {text.clean(path)}")
    return 0
