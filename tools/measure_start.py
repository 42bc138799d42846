#!/usr/bin/env python3
"""Time from process start to the first result, and peak memory, of fastconv beside other engines.

    pip install onnxruntime openvino MNN ncnn pnnx      # whichever you want beside fastconv
    python tools/measure_start.py --threads 1,2 ~/.cache/fastconv-zoo/mobilenet_v2.onnx …

Every figure comes from a fresh process that imports NumPy and one engine, loads the model, and runs
it on an array of its first input's shape (open sizes: 1 for the batch, --size for the others).
Engines take turns, round after round, so that a slow spell of the machine meets all of them, and an
engine that is not installed is left out. A first process that is not counted sees to it that files
are in the page cache and Python modules compiled, as they are after an installation. MNN and ncnn
read their own formats: the model is converted once, beside the file, and names of inputs and
outputs are given to them rather than read from the ONNX file.

fastconv-cached is fastconv with stored plans (cache=), from its second start on: the process that
is not counted writes them into a folder made for the measurement. fastconv itself has none.

start is the wall time until the first result is there, interpreter's start included; user and
system are the processor's time for the same, on all threads: on a busy machine they are the surer
figures. peak is the most memory that was resident until --runs runs were done (VmHWM); anonymous
and file are what was resident then, of its own and of mapped files. All are medians; the ratios in
brackets, of other engines to the first one, are medians of the rounds' ratios.
"""

from __future__ import annotations

import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    import numpy as np

Names = list[str]

#: Environment variable that tells the children of fastconv-cached their folder.
CACHE = "MEASURE_START_CACHE"

# The children import nothing that their engine does not need: hence the imports inside functions.


def open_numpy(
    path: str, ins: Names, outs: Names, x: np.ndarray, threads: int
) -> Callable[[], Any]:
    return lambda: x.sum()


def open_fastconv(
    path: str, ins: Names, outs: Names, x: np.ndarray, threads: int
) -> Callable[[], Any]:
    import fastconv

    model = fastconv.load(path, threads=threads, fallback="error")
    feeds = {ins[0]: x}
    return lambda: model.run(feeds)


def open_fastconv_cached(
    path: str, ins: Names, outs: Names, x: np.ndarray, threads: int
) -> Callable[[], Any]:
    import fastconv

    model = fastconv.load(path, threads=threads, fallback="error", cache=os.environ[CACHE])
    feeds = {ins[0]: x}
    return lambda: model.run(feeds)


def open_onnxruntime(
    path: str, ins: Names, outs: Names, x: np.ndarray, threads: int
) -> Callable[[], Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feeds = {ins[0]: x}
    return lambda: session.run(None, feeds)


def open_openvino(
    path: str, ins: Names, outs: Names, x: np.ndarray, threads: int
) -> Callable[[], Any]:
    import openvino

    config = {
        "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }  # fmt: skip
    request = openvino.Core().compile_model(path, "CPU", config).create_infer_request()

    def go() -> Any:
        request.infer({0: x})
        return request.get_output_tensor(0).data

    return go


def open_mnn(path: str, ins: Names, outs: Names, x: np.ndarray, threads: int) -> Callable[[], Any]:
    import MNN.expr
    import MNN.nn
    import numpy as np

    config = {"precision": "high", "backend": 0, "numThread": threads}
    manager = MNN.nn.create_runtime_manager((config,))
    net = MNN.nn.load_module_from_file(mnn_file(path), ins, outs, runtime_manager=manager)
    feed = MNN.expr.placeholder(x.shape, MNN.expr.NCHW)
    feed.write(x)
    return lambda: np.array(net.forward([feed])[0].read())


def open_ncnn(path: str, ins: Names, outs: Names, x: np.ndarray, threads: int) -> Callable[[], Any]:
    import ncnn
    import numpy as np

    net = ncnn.Net()
    net.opt.num_threads = threads
    for flag in ("fp16_storage", "fp16_arithmetic", "fp16_packed", "bf16_storage"):
        setattr(net.opt, f"use_{flag}", False)
    base = ncnn_base(path)
    if net.load_param(base + ".ncnn.param") or net.load_model(base + ".ncnn.bin"):
        raise RuntimeError("ncnn could not load the converted model")
    mat = ncnn.Mat(np.ascontiguousarray(x[0]))

    def go() -> Any:
        extractor = net.create_extractor()
        extractor.input("in0", mat)
        return np.array(extractor.extract("out0")[1])

    return go


OPENERS = {
    "fastconv": open_fastconv,
    "fastconv-cached": open_fastconv_cached,
    "onnxruntime": open_onnxruntime,
    "openvino": open_openvino,
    "mnn": open_mnn,
    "ncnn": open_ncnn,
    "numpy": open_numpy,
}


def mnn_file(path: str) -> str:
    return os.path.splitext(path)[0] + ".mnn"


def ncnn_base(path: str) -> str:
    folder, name = os.path.split(os.path.splitext(path)[0])
    return os.path.join(folder, name.replace("-", "_"))


def child(arguments: Sequence[str]) -> None:
    """A fresh process: load, run, report; ``arguments`` are those that ``launch`` gives."""
    engine, path, ins, outs, sizes, threads, runs, begun = arguments
    report = os.dup(1)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    import numpy as np

    shape = [int(d) for d in sizes.split(",")]
    x = np.full(shape, 0.5, np.float32)
    go = OPENERS[engine](path, ins.split("\t"), outs.split("\t"), x, int(threads))
    go()
    now = time.monotonic_ns()
    spent = os.times()
    for _ in range(int(runs) - 1):
        go()
    figures = {
        "start": (now - int(begun)) / 1e6,
        "user": 1e3 * spent.user,
        "system": 1e3 * spent.system,
    }
    with open("/proc/self/status") as f:
        for line in f:
            key, value = line.split(":", 1)
            if key in ("VmHWM", "RssAnon", "RssFile"):
                figures[key] = int(value.split()[0]) / 1024
    os.write(report, repr(figures).encode())


def launch(
    engine: str, path: str, names: tuple[Names, Names], shape: list[int], threads: int, runs: int
) -> dict[str, float] | str:
    """One fresh process's figures, or what went wrong in it."""
    import ast
    import subprocess

    ins, outs = ("\t".join(n) for n in names)
    command = [
        sys.executable, os.path.abspath(__file__), "--child", engine, path, ins, outs,
        ",".join(map(str, shape)), str(threads), str(runs),
    ]  # fmt: skip
    environment = dict(os.environ, OMP_NUM_THREADS=str(threads))
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(
        [*command, str(time.monotonic_ns())], capture_output=True, env=environment, check=False
    )
    if done.returncode == 0:
        return ast.literal_eval(done.stdout.decode())
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"ended with status {done.returncode}"


def describe(path: str, size: int) -> tuple[tuple[Names, Names], list[int]]:
    """Names of inputs and outputs, and the shape to feed the first input."""
    import fastconv

    model = fastconv.load(path)
    first = model.inputs[0].shape
    if first is None:
        sys.exit(f"{path}: the first input has no known rank")
    shape = [d if isinstance(d, int) else 1 if k == 0 else size for k, d in enumerate(first)]
    return ([i.name for i in model.inputs], [o.name for o in model.outputs]), shape


def convert(path: str, engines: list[str], shape: list[int]) -> None:
    """Make the files of the engines that do not read ONNX, unless they are there."""
    import subprocess

    if "mnn" in engines and not os.path.exists(mnn_file(path)):
        tool = os.path.join(os.path.dirname(sys.executable), "mnnconvert")
        command = [tool, "-f", "ONNX", "--modelFile", path, "--MNNModel", mnn_file(path)]
        subprocess.run([*command, "--bizCode", "x"], stdout=subprocess.DEVNULL, check=False)
    if "ncnn" in engines and not os.path.exists(ncnn_base(path) + ".ncnn.param"):
        try:
            import pnnx  # type: ignore[import-not-found]
        except ImportError:
            return
        tool = os.path.join(os.path.dirname(pnnx.__file__), "bin", "pnnx")
        sizes = f"inputshape=[{','.join(map(str, shape))}]"
        command = [getattr(pnnx, "EXEC_PATH", tool), path, sizes, "fp16=0"]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=False)


COLUMNS = {
    "start": "start ms", "user": "user ms", "system": "system ms",
    "VmHWM": "peak MiB", "RssAnon": "anonymous", "RssFile": "file",
}  # fmt: skip


def measure(path: str, engines: list[str], threads: int, rounds: int, runs: int, size: int) -> None:
    """Print the table of one model."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="fastconv-start-") as folder:
        os.environ[CACHE] = folder
        os.environ.pop("FASTCONV_CACHE", None)
        _measure(path, engines, threads, rounds, runs, size)


def _measure(
    path: str, engines: list[str], threads: int, rounds: int, runs: int, size: int
) -> None:
    import statistics

    names, shape = describe(path, size)
    convert(path, engines, shape)
    found: dict[str, list[dict[str, float]]] = {}
    errors = {}
    for engine in engines:  # also reads every file once, which is not counted
        got = launch(engine, path, names, shape, threads, 1)
        if isinstance(got, str):
            errors[engine] = got
        else:
            found[engine] = []
    for _ in range(rounds):
        for engine, figures in found.items():
            got = launch(engine, path, names, shape, threads, runs)
            if isinstance(got, str):
                sys.exit(f"{engine}: {got}")
            figures.append(got)
    plural = "s" if threads > 1 else ""
    print(f"\n{os.path.basename(path)}, {shape}, {threads} thread{plural}, {rounds} rounds")
    print(f"{'':<15}", *(f"{title:>17}" for title in COLUMNS.values()))
    reference = next(iter(found), "")
    for engine, figures in found.items():
        cells = []
        for key in COLUMNS:
            text = f"{statistics.median(f[key] for f in figures):.1f}"
            base = [f[key] for f in found[reference]]
            if engine != reference and min(base) > 0:
                pairs = zip(figures, base, strict=True)
                text += f" ({statistics.median(f[key] / b for f, b in pairs):.2f})"
            cells.append(f"{text:>17}")
        print(f"{engine:<15}", *cells, flush=True)
    for engine, what in errors.items():
        print(f"{engine:<15} left out: {what}")


def main() -> None:
    import argparse

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", metavar="model.onnx")
    parser.add_argument(
        "--engines", default="fastconv,onnxruntime,openvino,mnn,ncnn",
        help="default: %(default)s; 'numpy' is the floor: an interpreter that imports NumPy alone; "
        "'fastconv-cached' takes finished plans from an earlier start",
    )  # fmt: skip
    parser.add_argument("--threads", default="1", help="such as 1,2; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=7, help="default: %(default)s")
    parser.add_argument("--runs", type=int, default=10, help="for memory; default: %(default)s")
    parser.add_argument("--size", type=int, default=224, help="default: %(default)s")
    args = parser.parse_args()
    engines = args.engines.split(",")
    unknown = [e for e in engines if e not in OPENERS]
    if unknown:
        parser.error(f"no engine is named {unknown[0]}; there are {', '.join(OPENERS)}")
    try:
        threads = [int(t) for t in args.threads.split(",")]
    except ValueError:
        parser.error(f"--threads {args.threads}: expected numbers, such as 1,2")
    if min(*threads, args.rounds, args.runs) < 1 or args.size < 1:
        parser.error("threads, rounds, runs and size are numbers above 0")
    for path in args.models:
        if not os.path.isfile(path):
            parser.error(f"{path}: no such file")
        for t in threads:
            measure(path, engines, t, args.rounds, args.runs, args.size)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2:])
    else:
        main()
