"""``python -m fastconv.onnxruntime [-m MODULE | -c CODE | SCRIPT] [ARGS]``.

Runs a Python program in which ``import onnxruntime`` means ``fastconv.onnxruntime``.
"""

from __future__ import annotations

import os
import runpy
import shutil
import sys

from .alias import install

USAGE = """usage: python -m fastconv.onnxruntime [-m MODULE | -c CODE | SCRIPT] [ARGS]

Runs a Python program (a file, a module, a line of code, or a command that is a Python script) in
which `import onnxruntime` means fastconv. Processes that it starts are not affected."""


def main(arguments: list[str]) -> int | None:
    """Run the program that the command line names; its arguments follow."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE, file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    first, *rest = arguments
    if first in ("-m", "-c") and not rest:
        print(f"{first} needs an argument\n{USAGE}", file=sys.stderr)
        return 2
    install()
    if first == "-m":
        sys.argv = rest
        sys.path[0] = os.getcwd()
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.argv = ["-c", *rest[1:]]
        sys.path[0] = ""
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        path = first if os.path.exists(first) else shutil.which(first)
        if path is None:
            print(f"{first}: no such file, and no such command", file=sys.stderr)
            return 2
        sys.argv = [path, *rest]
        sys.path[0] = path if os.path.isdir(path) else os.path.dirname(os.path.abspath(path))
        runpy.run_path(os.path.abspath(path), run_name="__main__")  # as ``__file__`` is
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
