"""``fastconv visualize``: activation maps and filters as a picture."""

from __future__ import annotations

import argparse
import os
import re
from typing import TYPE_CHECKING, Any

from .. import text
from ..errors import OptionError
from .common import add_input, add_json, add_model, load_model, print_json, read_inputs, say, whole
from .flags import add_flags, read_flags

if TYPE_CHECKING:
    import numpy as np

    from ..model import Model


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "visualize",
        help="show a layer's activation maps or filters as a picture",
        description="Runs the model on an image and draws what a layer makes of it, a tile for "
        "each channel; or, with --filters, the filters of the first convolution (or of --layer).",
    )
    add_model(parser)
    parser.add_argument("image", nargs="?", metavar="IMAGE", help="image file")
    parser.add_argument(
        "--layer", metavar="NAME", help="the file's name of a node or of a value (see inspect)"
    )
    parser.add_argument("--filters", action="store_true", help="draw filters; needs no image")
    parser.add_argument(
        "-o", "--output", metavar="FILE.png", help="the picture (default: MODEL.LAYER.png)"
    )
    parser.add_argument(
        "--maps", type=whole(1, 4096), default=64, metavar="N", help="most maps (default 64)"
    )
    parser.add_argument(
        "--colors",
        choices=("map", "layer"),
        default="map",
        help="each map has its own range of colours (default), or the layer has one",
    )
    add_input(parser)
    add_json(parser)
    add_flags(parser)
    parser.set_defaults(function=main)


def main(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from .. import visualize

    if not args.filters and not args.layer:
        raise OptionError("--layer NAME is missing (fastconv inspect lists names), or --filters")
    if args.filters and args.image:
        raise OptionError("--filters shows the weights alone: it takes no image")
    model = load_model(args, fallback="show")
    if args.filters:
        layer, weights = visualize.filters(model, args.layer)
        path = target(args, f"{layer}.filters")
        picture = visualize.filter_picture(weights, f"filters of {layer}", maps=args.maps)
        shape = weights.shape
    else:
        layer = args.layer
        _, what = visualize.find_layer(model, layer)
        path = target(args, layer)
        feeds, image = inputs(args, model)
        values = visualize.activations(model, feeds, [layer])[layer]
        title = what if args.image is None else f"{what} on {os.path.basename(args.image)}"
        picture = visualize.activation_picture(
            values, title, maps=args.maps, colors=args.colors, image=image
        )
        shape = values.shape
    picture.save(path, "PNG")
    if args.json:
        print_json({"model": args.model, "layer": layer, "shape": list(shape), "picture": path})
    else:
        say(f"{text.clean(path)}: {text.clean(layer)}, {text.times(shape) or 'scalar'}")
    return 0


def target(args: argparse.Namespace, layer: str) -> str:
    """Where the picture goes.

    Raises:
        OptionError: the name does not end in .png, or there is no such folder.
    """
    path = args.output
    if path is None:
        stem = os.path.splitext(os.path.basename(args.model))[0]
        path = re.sub(r"[^\w.-]+", "_", f"{stem}.{layer}").strip("._")[:100] + ".png"
    if not path.lower().endswith(".png"):
        raise OptionError(f"--output {path}: a picture is written to a file ending in .png")
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        raise OptionError(f"--output {path}: no such folder {folder!r}")
    return path


def inputs(
    args: argparse.Namespace, model: Model
) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """(an array for every input, the one that the image went to or None).

    Raises:
        InputError, ImageError, OptionError: as ``fastconv run``.
    """
    import numpy as np

    from .run import Session, batches, prepare

    flags = read_flags(args)
    session = Session(model, read_inputs(args.input))
    args.images, args.batch = [args.image] if args.image else [], None
    metadata = {} if args.ignore_metadata else model.metadata
    paths = prepare(session, args, flags, metadata)
    if session.target is None:
        return session.arrays, None
    (_, tensor), *_ = next(batches(session, paths[:1], lambda: None))
    tensor = np.concatenate([tensor] * (session.batch if session.fixed else 1))
    return {**session.arrays, session.target.name: tensor}, tensor


__all__ = ["add_parser", "main"]
