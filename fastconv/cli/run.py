"""``fastconv run``: classify images, or feed arrays."""

from __future__ import annotations

import argparse
import os
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any

from .. import text
from ..errors import FastconvError, ImageError, InputError, OptionError
from .common import (
    add_cache,
    add_input,
    add_json,
    add_model,
    add_threads,
    load_model,
    note,
    print_json,
    print_table,
    progress,
    read_inputs,
    whole,
)
from .flags import add_flags, read_flags

if TYPE_CHECKING:
    import numpy as np

    from ..image import Resolved
    from ..model import Model, TensorInfo

#: A sum this far from 1 still counts as that of probabilities.
SUM_TOLERANCE = 1e-3
STAGES = ("decode", "prepare", "run")


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "run",
        help="classify images, or run a model on arrays",
        description="Prints the most probable classes of every image. A model whose output is no "
        "vector of classes gets a summary of its outputs instead.",
    )
    add_model(parser)
    parser.add_argument(
        "images", nargs="*", metavar="IMAGE", help="image file, directory or glob pattern"
    )
    add_input(parser)
    parser.add_argument("--output", metavar="FILE.npz", help="write the model's raw outputs")
    parser.add_argument(
        "--top", type=whole(1), default=5, metavar="K", help="classes to show (default 5)"
    )
    parser.add_argument(
        "--labels", metavar="FILE", help="class names: one a line, or JSON (default: the model's)"
    )
    parser.add_argument(
        "--batch",
        type=whole(1, 1 << 16),
        metavar="N",
        help="images per run (default 1, or what the model fixes)",
    )
    add_threads(parser)
    add_cache(parser)
    add_json(parser)
    parser.add_argument(
        "--verbose",
        action="store_true",
        help="say on stderr how images were prepared and where each value comes from",
    )
    add_flags(parser)
    parser.set_defaults(function=main)


@dataclass
class Result:
    """What the model made of one image (or of the arrays given: image None)."""

    image: str | None
    outputs: dict[str, Any]


@dataclass
class Session:
    """A run of the command.

    Attributes:
        model: the model.
        arrays: what --input gave.
        target: the input that takes images, or None.
        batch: images per run.
        resolved: how images are prepared, or None without images.
        failures: images that could not be read: (name, message).
        raw: the outputs of every run, for --output.
        seconds: time spent in decoding, preparing and running.
    """

    model: Model
    arrays: dict[str, np.ndarray]
    target: TensorInfo | None = None
    batch: int = 1
    fixed: bool = False
    resolved: Resolved | None = None
    failures: list[tuple[str, str]] = field(default_factory=list)
    raw: list[dict[str, Any]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))


def main(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    check_output(args.output)
    flags = read_flags(args)
    model = load_model(args)
    metadata = {} if args.ignore_metadata else model.metadata
    session = Session(model, read_inputs(args.input))
    images = prepare(session, args, flags, metadata)
    labels = Labels(args, model, metadata)
    results: list[Result] = []
    with progress(len(images), "images") as advance:
        if session.target is None:
            results.append(Result(None, model.run(session.arrays)))
            session.raw.append(results[0].outputs)
        else:
            for chunk in batches(session, images, advance):
                results += run_chunk(session, chunk)
    if args.verbose:
        explain(session, len(results))
    if args.output:
        write_outputs(args.output, session.raw, [r.image for r in results])
    report(args, session, labels, results)
    for _, message in session.failures:
        print(f"fastconv: error: {text.clean(message)}", file=sys.stderr)
    return 2 if session.failures else 0


def check_output(path: str | None) -> None:
    """Refuse a place for --output that cannot be written to before any work is done."""
    if path is None:
        return
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        raise OptionError(f"--output {path}: no such folder {folder!r}")
    if os.path.isdir(path):
        raise OptionError(f"--output {path}: is a folder")


def prepare(
    session: Session, args: argparse.Namespace, flags: dict[str, Any], metadata: Mapping[str, str]
) -> list[str]:
    """Settle which input takes images and how they are prepared; returns the image files.

    Raises:
        InputError: inputs are missing, or there are more than images can be for.
        ImageError: no such images, or the model takes none.
        OptionError: options make no sense for this model.
    """
    from ..image import expand_paths, resolve

    model = session.model
    names = ", ".join(i.name for i in model.inputs)
    for name in session.arrays:
        if all(i.name != name for i in model.inputs):
            raise InputError(f"--input {name}: the model's inputs are {names}")
    free = [i for i in model.inputs if i.name not in session.arrays]
    if not args.images:
        if free:
            raise InputError(
                f"nothing given for input {free[0].name!r}: give an image, or "
                f"--input {free[0].name}=FILE.npy"
            )
        return []
    if len(free) != 1:
        names = ", ".join(i.name for i in free) or "none are left"
        raise InputError(
            f"images are for one input, and the model's inputs without --input are: {names}"
        )
    paths = expand_paths(args.images)
    session.target = target = free[0]
    if target.shape is None:
        raise ImageError(f"the model's input {target.name!r} has no stated rank; give it --input")
    session.resolved = resolve(flags, metadata, target.shape, str(target.dtype))
    for line in session.resolved.notices:
        note(line)
    size = target.shape[0]
    if isinstance(size, int) and size > 0:
        session.fixed, session.batch = True, size
        if args.batch not in (None, size):
            raise OptionError(f"--batch {args.batch}: the model's batch is fixed at {size}")
    else:
        session.batch = args.batch or 1
    return paths


def batches(
    session: Session, images: Sequence[str], advance: Any
) -> Iterator[list[tuple[str, np.ndarray]]]:
    """Images decoded and prepared, in runs of at most ``session.batch`` of one shape."""
    from ..image import apply, decode

    assert session.resolved is not None
    pre = session.resolved.pre
    chunk: list[tuple[str, Any]] = []
    for path in images:
        start = perf_counter()
        try:
            pixels = decode(path, pre.decode_mode)
            middle = perf_counter()
            tensor = apply(pixels, pre)
        except FastconvError as e:
            if len(images) == 1:
                raise
            message = str(e)
            name = message if os.path.basename(path) in message else f"{path}: {message}"
            session.failures.append((path, name))
            advance()
            continue
        session.seconds["decode"] += middle - start
        session.seconds["prepare"] += perf_counter() - middle
        if chunk and chunk[0][1].shape != tensor.shape:
            yield chunk
            chunk = []
        chunk.append((path, tensor))
        if len(chunk) == session.batch:
            yield chunk
            chunk = []
        advance()
    if chunk:
        yield chunk


def run_chunk(session: Session, chunk: Sequence[tuple[str, np.ndarray]]) -> list[Result]:
    """Run images of one shape together, and give each its part of the outputs.

    A model whose batch is fixed gets the last image again for every place left over.
    """
    import numpy as np

    assert session.target is not None
    tensors = [t for _, t in chunk]
    size = session.batch if session.fixed else len(chunk)
    tensors += [tensors[-1]] * (size - len(chunk))
    feeds = {**session.arrays, session.target.name: np.concatenate(tensors)}
    start = perf_counter()
    outputs = session.model.run(feeds)
    session.seconds["run"] += perf_counter() - start
    n = len(chunk)
    if size == 1:
        session.raw.append(outputs)
        return [Result(chunk[0][0], outputs)]
    parts: list[dict[str, Any]] = [{} for _ in range(n)]
    whole_run = {}
    for name, y in outputs.items():
        split = isinstance(y, np.ndarray) and y.ndim > 0 and y.shape[0] == size
        whole_run[name] = y[:n] if split else y
        for k in range(n):
            parts[k][name] = y[k : k + 1] if split else y
    session.raw.append(whole_run)
    return [Result(path, part) for (path, _), part in zip(chunk, parts, strict=True)]


class Labels:
    """Which output is a vector of classes, what the classes are called, and how to score them."""

    def __init__(self, args: argparse.Namespace, model: Model, metadata: Mapping[str, str]) -> None:
        from ..image import labels_from_metadata, load_labels, output_from_metadata

        self.asked = args.labels
        self.names = load_labels(args.labels) if args.labels else labels_from_metadata(metadata)
        self.kind = output_from_metadata(metadata)
        self.top = args.top
        self.softmax: set[bool] = set()
        self.unfit = False

    def find(self, outputs: Mapping[str, Any]) -> str | None:
        """The name of the output that holds one score per class, or None.

        That is one of shape [1, classes] (or [1, classes, 1, 1] and the like) with as many classes
        as there are labels; without labels, the model's only output if it has that form.
        """
        found = {n: c for n, y in outputs.items() if (c := classes(y)) is not None}
        if self.names is not None:
            fits = [n for n, c in found.items() if c == len(self.names)]
            if fits:
                return fits[0]
            if self.asked:
                form = ", ".join(f"{n} has {c}" for n, c in found.items())
                raise OptionError(
                    f"labels file {self.asked!r} has {len(self.names)} labels, but "
                    + (f"of the outputs {form} classes" if form else "no output holds classes")
                )
        return next(iter(found)) if len(found) == len(outputs) == 1 else None

    def best(self, y: np.ndarray) -> list[dict[str, Any]]:
        """The most probable classes, best first: index, label (None without one), probability."""
        import numpy as np

        scores = np.asarray(y, np.float64).reshape(-1)
        raw = self.kind == "logits"
        if self.kind is None:
            raw = not ((scores >= 0).all() and abs(scores.sum() - 1) <= SUM_TOLERANCE)
        self.softmax.add(raw)
        if raw:
            with np.errstate(all="ignore"):
                scores = np.exp(scores - scores.max())
                scores = scores / scores.sum()
        # A stable sort of what is negated keeps equal scores in class order; NaN comes last.
        order = np.argsort(-scores, kind="stable")[: self.top]
        named = self.names
        if named is not None and len(named) != scores.size:
            named, self.unfit = None, True
        return [
            {
                "index": int(k),
                "label": None if named is None else named[k],
                "probability": float(scores[k]),
            }
            for k in order
        ]

    def how(self) -> str:
        """Whether softmax was applied, and why."""
        if self.kind is not None:
            done = "applied" if self.kind == "logits" else "not applied"
            return f"softmax {done}: metadata fastconv.output is {self.kind}"
        if self.softmax == {True, False}:
            return "softmax applied where an output was no probabilities already"
        if self.softmax == {True}:
            return "softmax applied: the outputs are no probabilities yet"
        return "softmax not applied: the outputs are probabilities already"


def classes(y: Any) -> int | None:
    """How many classes an output of one image holds, or None if it is no vector of scores."""
    import numpy as np

    if not isinstance(y, np.ndarray) or y.dtype.kind != "f" or y.ndim < 2:
        return None
    if y.shape[0] != 1 or y.size != y.shape[1] or y.size < 2:
        return None
    return int(y.shape[1])


def summary(outputs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Name, shape, dtype, min, mean and max of every output."""
    import numpy as np

    rows = []
    for name, y in outputs.items():
        numbers = isinstance(y, np.ndarray) and y.dtype.kind in "fiub" and y.size > 0
        if numbers:
            with np.errstate(all="ignore"):
                low, mean, high = float(y.min()), float(y.mean(dtype=np.float64)), float(y.max())
        rows.append(
            {
                "name": name,
                "shape": list(y.shape) if isinstance(y, np.ndarray) else [len(y)],
                "dtype": str(y.dtype) if isinstance(y, np.ndarray) else type(y).__name__,
                "min": low if numbers else None,
                "mean": mean if numbers else None,
                "max": high if numbers else None,
            }
        )
    return rows


def report(
    args: argparse.Namespace, session: Session, labels: Labels, results: Sequence[Result]
) -> None:
    """Print the results as tables, or as JSON."""
    found: list[dict[str, Any]] = []
    for r in results:
        name = labels.find(r.outputs)
        row: dict[str, Any] = {"image": r.image}
        if name is None:
            row["outputs"] = summary(r.outputs)
        else:
            row["output"] = name
            row["top"] = labels.best(r.outputs[name])
            if any(t["probability"] != t["probability"] for t in row["top"]):
                note(
                    f"{r.image or name}: output {name!r} holds NaN; its probabilities mean nothing"
                )
        found.append(row)
    if labels.unfit and labels.names is not None:
        note(f"the model's metadata name {len(labels.names)} classes, the output another number")
    if args.verbose and labels.softmax:
        note(labels.how())
    if args.json:
        pre = session.resolved
        print_json(
            {
                "model": args.model,
                "softmax": (labels.softmax == {True}) if labels.softmax else None,
                "preprocess": None if pre is None else preprocess_dict(pre),
                "results": found,
                "errors": [{"image": i, "message": m} for i, m in session.failures],
            }
        )
        return
    many = len(found) > 1
    cells = []
    for row in found:
        for k, t in enumerate(row.get("top", ())):
            label = f"class {t['index']}" if t["label"] is None else t["label"]
            cell = [k + 1, t["index"], label, f"{100 * t['probability']:.2f} %"]
            cells.append([row["image"] if k == 0 else "", *cell] if many else cell)
    if cells:
        headers = [">rank", ">class", "label", ">probability"]
        print_table(["image", *headers] if many else headers, cells)
    cells = []
    for row in found:
        for k, o in enumerate(row.get("outputs", ())):
            numbers = [text.number(o[key]) for key in ("min", "mean", "max")]
            cell = [o["name"], text.times(o["shape"]) or "scalar", o["dtype"], *numbers]
            cells.append([row["image"] if k == 0 else "", *cell] if many else cell)
    if cells:
        headers = ["output", "shape", "dtype", ">min", ">mean", ">max"]
        print_table(["image", *headers] if many else headers, cells)
        if labels.names is not None and not args.json:
            note(
                "no output is a vector of classes with these labels; outputs are summed up instead"
            )


def preprocess_dict(resolved: Resolved) -> dict[str, dict[str, Any]]:
    """Every preprocessing field with its value and its source."""
    return {
        name: {"value": getattr(resolved.pre, name), "source": source}
        for name, source in resolved.sources.items()
    }


def explain(session: Session, n: int) -> None:
    """--verbose: how images were prepared, and where the time went."""
    if session.resolved is not None:
        rows = [
            (name, shown(entry["value"]), entry["source"])
            for name, entry in preprocess_dict(session.resolved).items()
        ]
        print_table(("preprocessing", "value", "from"), rows, sys.stderr)
        parts = ", ".join(f"{k} {1e3 * v:.1f} ms" for k, v in session.seconds.items())
        note(f"{n} images, batch {session.batch}, threads {session.model.threads}: {parts}")


def shown(value: Any) -> str:
    """A preprocessing value as text."""
    if isinstance(value, tuple):
        return ", ".join(shown(v) for v in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def write_outputs(
    path: str, raw: Sequence[Mapping[str, Any]], images: Sequence[str | None]
) -> None:
    """Write outputs as .npz: each under its own name, batches one after the other.

    Where the runs' shapes do not fit together, run number k has its own array, ``NAME.k``. The
    image files are in ``fastconv.images``.

    Raises:
        InputError: an output is no array of numbers.
        OSError: the file cannot be written.
    """
    import numpy as np

    arrays: dict[str, np.ndarray] = {}
    for name in raw[0] if raw else ():
        runs = [r[name] for r in raw]
        if any(not isinstance(y, np.ndarray) or y.dtype == object for y in runs):
            raise InputError(f"--output: output {name!r} is no array of numbers")
        if len(runs) == 1:
            arrays[name] = runs[0]
        elif all(y.ndim and y.shape[1:] == runs[0].shape[1:] for y in runs):
            arrays[name] = np.concatenate(runs)
        else:
            arrays |= {f"{name}.{k}": y for k, y in enumerate(runs)}
    if any(i is not None for i in images):
        arrays["fastconv.images"] = np.array([i or "" for i in images])
    try:
        with zipfile.ZipFile(path, "w") as z:
            for name, y in arrays.items():
                with z.open(name + ".npy", "w", force_zip64=True) as f:
                    np.lib.format.write_array(f, np.asanyarray(y), allow_pickle=False)
    except OSError as e:
        e.filename = e.filename or path
        raise
