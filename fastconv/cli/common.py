"""What the commands share: argument types, loading, reading arrays, and printing."""

from __future__ import annotations

import argparse
import json
import math
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from .. import text
from ..errors import FastconvError, InputError, OptionError
from ..sizes import checked_size

if TYPE_CHECKING:
    import numpy as np

    from ..model import Model

FALLBACKS = ("warn", "error", "allow")
#: Written in place of these where the terminal's encoding lacks them.
PLAIN = str.maketrans({"×": "x", "≥": ">=", "≤": "<=", "–": "-", "…": "..."})


# Arguments.


def whole(least: int, most: int = 1 << 31) -> Callable[[str], int]:
    """An argparse type: a whole number from ``least`` to ``most``."""

    def parse(value: str) -> int:
        try:
            n = int(value)
        except ValueError:
            n = least - 1
        if not least <= n <= most:
            limit = f"{least} or more" if most == 1 << 31 else f"{least} to {most}"
            raise argparse.ArgumentTypeError(f"{value!r} is not a whole number, {limit}")
        return n

    return parse


def tolerance(value: str) -> float:
    """An argparse type: a finite number, 0 or more."""
    try:
        x = float(value)
    except ValueError:
        x = math.nan
    if not 0 <= x < math.inf:
        raise argparse.ArgumentTypeError(f"{value!r} is not a number, 0 or more")
    return x


def add_model(parser: argparse.ArgumentParser) -> None:
    """The MODEL argument."""
    parser.add_argument("model", metavar="MODEL", help="path of an .onnx file")


def add_thread_count(parser: argparse.ArgumentParser) -> None:
    """The --threads option."""
    parser.add_argument(
        "--threads",
        type=whole(0, 4096),
        metavar="N",
        help="threads per run (default: the physical cores that this process may use)",
    )


def add_threads(parser: argparse.ArgumentParser) -> None:
    """The options that :func:`load_model` reads."""
    add_thread_count(parser)
    parser.add_argument(
        "--fallback",
        choices=FALLBACKS,
        default="warn",
        help="operators without a kernel: run them through onnx.reference and warn (the default), "
        "refuse the model, or run them silently",
    )
    parser.add_argument(
        "--weights",
        choices=("float32", "float16"),
        default="float32",
        help="float16: store the weights of fully-connected layers in half precision "
        "(arithmetic stays float32)",
    )


def add_cache(parser: argparse.ArgumentParser) -> None:
    """The --cache option."""
    parser.add_argument(
        "--cache",
        action="store_const",
        const=True,
        help="start from the finished plans of an earlier start, or keep them for the next one, "
        "in the user's cache folder (or the one that FASTCONV_CACHE names)",
    )


def add_shape(parser: argparse.ArgumentParser) -> None:
    """The --shape option, which :func:`parse_shapes` reads."""
    parser.add_argument(
        "--shape",
        action="append",
        default=[],
        metavar="NAME=1,3,224,224",
        help="shape of an input whose sizes the model leaves open; may be repeated",
    )


def add_input(parser: argparse.ArgumentParser) -> None:
    """The --input option, which :func:`read_inputs` reads."""
    parser.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="NAME=FILE.npy",
        help="array to feed to an input; may be repeated",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """The --json option."""
    parser.add_argument("--json", action="store_true", help="print JSON for programs")


def load_model(args: argparse.Namespace, **options: Any) -> Model:
    """The model that the arguments name.

    Raises:
        ModelError, UnsupportedError, OptionError: see ``fastconv.load``.
    """
    from ..model import Model

    options.setdefault("fallback", getattr(args, "fallback", "allow"))
    options.setdefault("weights", getattr(args, "weights", "float32"))
    options.setdefault("cache", getattr(args, "cache", False))
    return Model(args.model, getattr(args, "threads", None), **options)


def parse_shapes(model: Model, values: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """``NAME=1,3,224,224`` (or without ``NAME=`` where there is one input) → shapes by name.

    Raises:
        OptionError: the text is no shape, or names no input.
    """
    names = [i.name for i in model.inputs]
    result = {}
    for value in values:
        name, equals, sizes = value.rpartition("=")
        if not equals and len(names) == 1:
            name = names[0]
        if name not in names:
            raise OptionError(
                f"--shape {value}: expected NAME=1,3,224,224 with NAME one of {', '.join(names)}"
            )
        parts = [p.strip() for p in sizes.replace("x", ",").split(",")]
        if not all(p.isascii() and p.isdecimal() and len(p) <= 9 for p in parts):
            if sizes.strip():
                raise OptionError(f"--shape {value}: expected whole numbers such as 1,3,224,224")
            parts = []
        result[name] = tuple(map(int, parts))
    return result


def read_inputs(values: Iterable[str]) -> dict[str, np.ndarray]:
    """``NAME=FILE.npy`` → arrays by name.

    Raises:
        OptionError: not of that form, or a name comes twice.
        InputError: the file is missing or no .npy file; names it.
    """
    result: dict[str, Any] = {}
    for value in values:
        name, equals, path = value.partition("=")
        while equals and not os.path.exists(path) and "=" in path:
            more, _, path = path.partition("=")  # the name itself may hold a "="
            name = f"{name}={more}"
        if not equals or not name or not path:
            raise OptionError(f"--input {value}: expected NAME=FILE.npy")
        if name in result:
            raise OptionError(f"--input {name} is given twice")
        result[name] = read_array(path)
    return result


def read_array(path: str) -> np.ndarray:
    """The array in a .npy file; its claimed size is checked against the file's before it is read.

    Raises:
        InputError: the file is missing, truncated or no .npy file; names it.
    """
    import numpy as np
    from numpy.lib import format as npy

    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise InputError(f"{path}: not a regular file")
        with open(path, "rb") as f:
            version = npy.read_magic(f)
            read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, _, dtype = read(f)
            if dtype.hasobject:
                raise InputError(f"{path}: holds Python objects, not an array of numbers")
            need = checked_size(shape, dtype.itemsize, path)
            have = os.fstat(f.fileno()).st_size - f.tell()
            if have < need:
                raise InputError(f"{path}: truncated: {have} bytes of data, {need} expected")
        return np.load(path, allow_pickle=False)
    except OSError as e:
        raise InputError(f"{path}: cannot read: {e.strerror or e}") from None
    except FastconvError:
        raise
    except (ValueError, EOFError, SyntaxError) as e:
        raise InputError(f"{path}: not a .npy file: {str(e).splitlines()[0]}") from None


# Printing.


def encodable(line: str, stream: TextIO) -> str:
    """The line with signs replaced that the stream's encoding lacks."""
    try:
        line.encode(getattr(stream, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return line.translate(PLAIN)
    return line


def say(line: str = "", file: TextIO | None = None) -> None:
    """Print a line of results, to stdout unless ``file`` says otherwise."""
    stream = sys.stdout if file is None else file
    print(encodable(line, stream), file=stream)


def note(line: str) -> None:
    """Print a line about the results to stderr."""
    say(f"fastconv: {text.clean(line)}", sys.stderr)


def is_terminal(stream: TextIO) -> bool:
    """Whether somebody is looking."""
    return stream.isatty() if hasattr(stream, "isatty") else False


def print_table(
    headers: Sequence[str], rows: Sequence[Sequence[Any]], file: TextIO | None = None
) -> None:
    """Print a table (see ``text.table``); in a terminal with rich's styles.

    A table wider than the terminal is left for it to wrap, line by line.
    """
    stream = sys.stdout if file is None else file
    plain_table = text.table(headers, rows)
    if not is_terminal(stream):
        say(plain_table, stream)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for h in headers:
        justify: Any = "right" if h.startswith(">") else "left"
        grid.add_column(Text(h.removeprefix(">")), justify=justify, no_wrap=True)
    for row in rows:
        grid.add_row(*(Text(encodable(text.clean(c), stream)) for c in row))
    console = Console(file=stream, highlight=False)
    console.width = max(console.width, *map(text.width, plain_table.splitlines()))
    console.print(grid, soft_wrap=True)


def print_json(value: Any) -> None:
    """Print a value as JSON; what JSON has no number for (NaN, infinity) becomes null."""
    say(json.dumps(plain(value), indent=2, ensure_ascii=True, allow_nan=False))


def plain(value: Any) -> Any:
    """A value made of what JSON knows; NumPy scalars become Python's, NaN and infinity None."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


@contextmanager
def progress(total: int, what: str) -> Iterator[Callable[[], None]]:
    """A progress bar on stderr, if that is a terminal and there is more than one thing to do."""
    if total < 2 or not is_terminal(sys.stderr):
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)
