"""The ``fastconv`` command: its subcommands, a module each.

Every error that a user can cause is one line on stderr and exit code 2. What a command depends on
(NumPy, Pillow, rich, onnx) is imported when the command needs it.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

from .. import __version__
from ..errors import FastconvError
from . import bench, info, inspect, run, tune, verify, visualize

#: Exit codes: a negative answer (``inspect --check``, ``verify``), and a failure.
NO, FAILED = 1, 2
INTERRUPTED, BROKEN_PIPE = 130, 141

COMMANDS = (run, inspect, visualize, bench, tune, verify, info)


class Parser(argparse.ArgumentParser):
    """Says what is wrong with the arguments in one line; takes options between positionals."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)
        self._mixing = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, but ``MODEL --json IMAGE`` works too.

        argparse itself gives the first positionals to IMAGE*, which is then content with none.
        """
        if self._mixing or not any(a.nargs == "*" for a in self._get_positional_actions()):
            return super().parse_known_args(args, namespace)
        self._mixing = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._mixing = False

    def error(self, message: str) -> NoReturn:
        line = " ".join(message.split())
        self.exit(FAILED, f"fastconv: error: {line} (see {self.prog} --help)\n")


def make_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = Parser(
        prog="fastconv",
        description="Run, inspect and measure ONNX convolutional networks on a CPU.",
    )
    parser.add_argument("--version", action="version", version=f"fastconv {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND")
    commands.required = True
    for module in COMMANDS:
        module.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0 is success, 1 a negative answer (``inspect --check``, ``verify``), 2 a failure, 130 an
    interrupt and 141 a closed pipe.
    """
    if sys.stdout is None:  # closed by whoever started the process
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if sys.stderr is None:  # print(file=None) would write to stdout
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            if not sys.warnoptions:
                warnings.simplefilter("ignore")
                warnings.simplefilter("always", UserWarning)
            args = make_parser().parse_args(argv)
            code = args.function(args)
            sys.stdout.flush()
            return code
    except SystemExit as e:  # from argparse, after --help or a wrong argument
        return e.code if isinstance(e.code, int) else FAILED
    except FastconvError as e:
        return _fail(str(e))
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # What is still buffered cannot be written either: give it somewhere to go.
        _discard_stdout()
        return BROKEN_PIPE
    except OSError as e:
        try:
            sys.stdout.flush()
        except OSError:  # it is stdout that cannot be written
            _discard_stdout()
        name = f"{e.filename}: " if e.filename else ""
        return _fail(f"{name}{e.strerror or e}")
    except MemoryError:
        return _fail("out of memory")


def _fail(message: str) -> int:
    from ..text import clean

    print("fastconv: error:", clean(" ".join(message.split())), file=sys.stderr)
    return FAILED


def _discard_stdout() -> None:
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
    except (OSError, ValueError, AttributeError):  # not a real file
        pass


def _show_warning(message: Any, *args: Any, **kwargs: Any) -> None:
    print("fastconv: warning:", " ".join(str(message).split()), file=sys.stderr)


__all__ = ["main", "make_parser"]
