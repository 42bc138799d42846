#!/usr/bin/env python3
"""Latency of fastconv beside other CPU engines on the same ONNX files.

    pip install onnx onnxruntime openvino MNN ncnn pnnx   # whichever you want beside fastconv
    python tools/fetch_zoo.py                             # makes the networks
    python tools/compare_engines.py --threads 1,2 --results speed.json --svg docs/speed.svg

Without names of models, the twelve networks of the README. What is in the results file already is
not measured again, so an interrupted comparison goes on where it stopped; --again starts anew, and
with no time left (--minutes 0) the tables and the picture are made from what is there.

Each engine runs in a process of its own and the processes take turns, so that a slow spell of the
machine meets all of them; the ratio of each round is taken before the median. Quote the ratios: the
milliseconds belong to the machine and the hour. MNN and ncnn read their own formats: the model is
converted once, beside the file. An engine that is not installed, or cannot run a model, is left out
with a line that says why.

In the tables, "best other / fastconv" is the fastest other engine's time over fastconv's (above 1,
fastconv is faster than all of them), and "difference" is fastconv's largest difference from
onnxruntime over the largest output.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import math
import multiprocessing
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from speed_chart import chart
from wheels import default_cache
from zoo_names import CLASSIC

# From a source folder that was built in place, where fastconv is not installed.
sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent))

#: Seconds of runs that an engine does in one turn, and that a model takes on one number of threads.
TURN_SECONDS, MODEL_SECONDS = 0.06, 15.0
LEAST_ROUNDS, MOST_ROUNDS = 5, 25
#: Seconds before each turn: some engines' threads spin for 50 ms and more after a run, and would
#: take the processors of whoever is next.
REST = 0.1
#: An engine that takes longer to load, or to answer, is given up.
PATIENCE = 600

Feeds = dict[str, np.ndarray]
Go = Callable[[], np.ndarray]


def open_fastconv(path: pathlib.Path, feeds: Feeds, threads: int) -> Go:
    import fastconv

    session = fastconv.InferenceSession(str(path), threads_options(fastconv, threads))
    return lambda: session.run(None, feeds)[0]


def open_onnxruntime(path: pathlib.Path, feeds: Feeds, threads: int) -> Go:
    import onnxruntime

    options = threads_options(onnxruntime, threads)
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, feeds)[0]


def threads_options(package: Any, threads: int) -> Any:
    """The session options of onnxruntime, and of fastconv's session of the same names."""
    options = package.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    return options


def open_openvino(path: pathlib.Path, feeds: Feeds, threads: int) -> Go:
    import openvino

    config = {
        "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }  # fmt: skip
    request = openvino.Core().compile_model(str(path), "CPU", config).create_infer_request()
    values = dict(enumerate(feeds.values()))

    def go() -> np.ndarray:
        request.infer(values)
        return request.get_output_tensor(0).data

    return go


def open_mnn(path: pathlib.Path, feeds: Feeds, threads: int) -> Go:
    import MNN.expr
    import MNN.nn
    import onnx

    target = path.with_suffix(".mnn")
    if not target.exists():
        tool = pathlib.Path(sys.executable).with_name("mnnconvert")
        command = [tool, "-f", "ONNX", "--modelFile", path, "--MNNModel", target, "--bizCode", "x"]
        subprocess.run(command, check=True, timeout=PATIENCE)
    outputs = [o.name for o in onnx.load(path, load_external_data=False).graph.output]
    config = {"precision": "high", "backend": 0, "numThread": threads}
    net = MNN.nn.load_module_from_file(
        str(target), list(feeds), outputs,
        runtime_manager=MNN.nn.create_runtime_manager((config,)),
    )  # fmt: skip
    values = []
    for x in feeds.values():
        values.append(MNN.expr.placeholder(x.shape, MNN.expr.NCHW))
        values[-1].write(x)
    return lambda: np.array(net.forward(values)[0].read())


def open_ncnn(path: pathlib.Path, feeds: Feeds, threads: int) -> Go:
    import ncnn

    if any(len(x) != 1 for x in feeds.values()):
        raise RuntimeError("ncnn takes one image at a time")
    base = str(path.with_name(path.stem.replace("-", "_")))
    if not os.path.exists(base + ".ncnn.param"):
        import pnnx

        tool = os.path.join(os.path.dirname(pnnx.__file__), "bin", "pnnx")
        shapes = ",".join(f"[{','.join(map(str, x.shape))}]" for x in feeds.values())
        command = [getattr(pnnx, "EXEC_PATH", tool), path, f"inputshape={shapes}", "fp16=0"]
        subprocess.run(command, check=True, timeout=PATIENCE)
    net = ncnn.Net()
    net.opt.num_threads = threads
    for flag in ("fp16_storage", "fp16_arithmetic", "fp16_packed", "bf16_storage"):
        setattr(net.opt, f"use_{flag}", False)
    if net.load_param(base + ".ncnn.param") or net.load_model(base + ".ncnn.bin"):
        raise RuntimeError("ncnn could not load the converted model")
    mats = [ncnn.Mat(np.ascontiguousarray(x[0])) for x in feeds.values()]

    def go() -> np.ndarray:
        extractor = net.create_extractor()
        for k, mat in enumerate(mats):
            extractor.input(f"in{k}", mat)
        return np.array(extractor.extract("out0")[1])

    return go


#: Engine → how it is opened, and the package that it comes in.
ENGINES: dict[str, tuple[Callable[[pathlib.Path, Feeds, int], Go], str]] = {
    "fastconv": (open_fastconv, "fastconv"),
    "onnxruntime": (open_onnxruntime, "onnxruntime"),
    "openvino": (open_openvino, "openvino"),
    "mnn": (open_mnn, "MNN"),
    "ncnn": (open_ncnn, "ncnn"),
}


def serve(engine: str, path: pathlib.Path, shapes: Any, threads: int, pipe: Any) -> None:
    """One engine's process: answers each number n with the seconds of n runs."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    try:
        rng = np.random.default_rng(0)
        feeds = {n: rng.standard_normal(s, dtype=np.float32) for n, s in shapes.items()}
        go = ENGINES[engine][0](path, feeds, threads)
        pipe.send(np.array(go(), np.float32).ravel())
        while n := pipe.recv():
            times = []
            for _ in range(n):
                start = time.perf_counter()
                go()
                times.append(time.perf_counter() - start)
            pipe.send(times)
    except EOFError:  # the comparison was interrupted
        pass
    except Exception as e:
        pipe.send(f"{type(e).__name__}: {e}".splitlines()[0][:160])


def input_shapes(path: pathlib.Path, batch: int) -> dict[str, list[int]]:
    """A shape for every input; sizes that the file leaves open as ``fastconv bench`` takes them."""
    import fastconv
    from fastconv.feeds import concrete_shapes

    model = fastconv.load(path, fallback="allow")
    sizes, _ = concrete_shapes(model)
    result = {}
    for i in model.inputs:
        shape = list(sizes[i.name])
        if batch != 1 and shape and not isinstance((i.shape or ("",))[0], int):
            shape[0] = batch
        result[i.name] = shape
    return result


class Engine:
    """The process of one engine."""

    def __init__(self, name: str, path: pathlib.Path, shapes: Any, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, there = context.Pipe()
        args = (name, path, shapes, threads, there)
        self.process = context.Process(target=serve, args=args, daemon=True)
        self.process.start()
        there.close()
        self.times: list[float] = []
        self.count = 1
        self.output = self.answer()

    def answer(self) -> Any:
        """What the process says; raises RuntimeError when it says what went wrong, or nothing."""
        try:
            got = self.pipe.recv() if self.pipe.poll(PATIENCE) else f"no answer in {PATIENCE} s"
        except (EOFError, OSError):
            got = "its process died"
        if isinstance(got, str):
            self.close()
            raise RuntimeError(got)
        return got

    def runs(self, n: int) -> list[float]:
        """Seconds of n runs."""
        self.pipe.send(n)
        return self.answer()

    def turn(self) -> None:
        """One round: a rest, a run that wakes its threads, then those that count."""
        time.sleep(REST)
        self.runs(1)
        self.times.append(statistics.median(self.runs(self.count)))

    def close(self) -> None:
        """End the process."""
        try:
            self.pipe.send(0)
        except OSError:
            pass
        self.process.join(2)
        self.process.kill()


def compare(
    path: pathlib.Path, engines: list[str], threads: int, batch: int, seconds: float
) -> dict[str, Any]:
    """Milliseconds, ratios to fastconv, differences and errors of each engine on one model."""
    shapes = input_shapes(path, batch)
    running: dict[str, Engine] = {}
    errors: dict[str, str] = {}
    try:
        for name in engines:
            try:
                engine = Engine(name, path, shapes, threads)
                pace = statistics.median(engine.runs(3))
                engine.count = max(1, min(50, int(TURN_SECONDS / pace)))
                running[name] = engine
            except RuntimeError as e:
                errors[name] = str(e)
        end, rounds = time.monotonic() + seconds, 0
        while running and rounds < MOST_ROUNDS:
            if rounds >= LEAST_ROUNDS and time.monotonic() >= end:
                break
            for name in list(running):
                try:
                    running[name].turn()
                except RuntimeError as e:
                    errors[name] = str(e)
                    del running[name]
            rounds += 1
    finally:
        for engine in running.values():
            engine.close()
    ours = running.get("fastconv")
    result: dict[str, Any] = {
        "ms": {n: 1e3 * statistics.median(e.times) for n, e in running.items()},
        "over_fastconv": {
            n: statistics.median(b / a for a, b in zip(ours.times, e.times, strict=True))
            for n, e in running.items()
            if n != "fastconv"
        } if ours else {},
        "errors": errors,
        "rounds": rounds,
    }  # fmt: skip
    if ours and "onnxruntime" in running:
        expected = running["onnxruntime"].output
        if expected.shape == ours.output.shape:
            largest = float(np.abs(expected).max()) or 1.0
            result["difference"] = float(np.abs(ours.output - expected).max()) / largest
    return result


def versions(engines: list[str]) -> dict[str, str]:
    """The installed version of each engine, and the instruction set of fastconv's kernels."""
    found = {}
    for name in engines:
        try:
            found[name] = importlib.metadata.version(ENGINES[name][1])
        except importlib.metadata.PackageNotFoundError:  # run from its source folder
            module = importlib.import_module(ENGINES[name][1])
            found[name] = str(getattr(module, "__version__", "?"))
    if "fastconv" in found:
        from fastconv.kernels import chosen_isa

        found["fastconv"] += f" ({chosen_isa()} kernels)"
    return found


def processor() -> str:
    """The processor's name and how many of them there are."""
    try:
        from fastconv.threads import cpu_name

        name = cpu_name()
    except ImportError:
        name = platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} processors"


def best(cell: dict[str, Any]) -> float | None:
    """The fastest other engine's time over fastconv's."""
    return min(cell["over_fastconv"].values(), default=None)


def mean(values: list[float]) -> float:
    """The geometric mean."""
    return math.exp(sum(map(math.log, values)) / len(values)) if values else math.nan


def table(cells: dict[str, Any], engines: list[str], named: dict[str, str]) -> str:
    """A Markdown table of one number of threads, with the geometric means below."""
    heads = [f"{e} {named.get(e, '')}".strip() for e in engines]
    lines = [
        "| network | " + " | ".join(heads) + " | best other / fastconv | onnxruntime / fastconv "
        "| difference |",
        "|---" * (len(engines) + 4) + "|",
    ]
    bests, orts = [], []
    for name, cell in cells.items():
        b, o, d = best(cell), cell["over_fastconv"].get("onnxruntime"), cell.get("difference")
        bests += [b] if b else []
        orts += [o] if o else []
        row = [f"{cell['ms'][e]:.2f}" if e in cell["ms"] else "–" for e in engines]
        row += [f"{v:.2f}" if v else "–" for v in (b, o)]
        row.append("–" if d is None else f"{d:.0e}")
        lines.append(f"| {name} | " + " | ".join(row) + " |")
    if bests:
        lines.append("")
        lines.append(
            f"Geometric means: best other / fastconv {mean(bests):.2f} (worst {min(bests):.2f})"
            + (f", onnxruntime / fastconv {mean(orts):.2f}." if orts else ".")
        )
    return "\n".join(lines)


def picture(results: dict[str, Any], threads: list[int], batch: int) -> str:
    """The SVG of the results."""
    panels = {}
    for t in threads:
        cells = results["cells"].get(f"{t} threads, batch {batch}", {})
        rows = [
            (name, b, c["over_fastconv"].get("onnxruntime"))
            for name, c in cells.items()
            if (b := best(c))
        ]
        if not rows:
            continue
        orts = [o for _, _, o in rows if o]
        rows.append(("geometric mean", mean([b for _, b, _ in rows]), mean(orts) if orts else None))
        panels[f"{t} thread{'s' if t > 1 else ''}"] = rows
    what = ", ".join(f"{n} {v}" for n, v in results["versions"].items())
    return chart(panels, f"float32, batch {batch}; {results['processor']}; {what}")


def save(path: pathlib.Path | None, results: dict[str, Any]) -> None:
    """Write the results, in one piece."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def numbers(value: str) -> list[int]:
    """An argparse type: whole numbers ≥ 1, comma separated."""
    try:
        found = [int(v) for v in value.split(",")]
    except ValueError:
        found = [0]
    if min(found) < 1:
        raise argparse.ArgumentTypeError(f"{value!r}: expected numbers such as 1,2")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", type=pathlib.Path)
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--threads", type=numbers, default=[1], help="such as 1,2 (default 1)")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument(
        "--seconds", type=float, default=MODEL_SECONDS,
        help="about how long to measure a model on one number of threads (default %(default)s)",
    )  # fmt: skip
    parser.add_argument("--minutes", type=float, help="begin no model after so long")
    parser.add_argument("--results", type=pathlib.Path, help="JSON file to keep results in")
    parser.add_argument("--again", action="store_true", help="measure what is there already, too")
    parser.add_argument("--svg", type=pathlib.Path, help="draw the result")
    args = parser.parse_args()
    asked = args.engines.split(",")
    if unknown := [e for e in asked if e not in ENGINES]:
        parser.error(f"no engine {unknown[0]!r}; there are {', '.join(ENGINES)}")
    engines = [e for e in asked if importlib.util.find_spec(ENGINES[e][1]) is not None]
    for e in asked:
        if e not in engines:
            print(f"{e} is not installed and left out: pip install {ENGINES[e][1]}")
    models = args.models or [default_cache() / f"{name}.onnx" for name in CLASSIC]
    if absent := [str(m) for m in models if not m.is_file()]:
        print(f"not there (tools/fetch_zoo.py makes the networks): {', '.join(absent)}")
    models = [m for m in models if m.is_file()]
    results: dict[str, Any] = {"cells": {}}
    if args.results and args.results.is_file() and not args.again:
        results = json.loads(args.results.read_text(encoding="utf-8"))
    results |= {"processor": processor(), "versions": versions(engines)}
    end = math.inf if args.minutes is None else time.monotonic() + 60 * args.minutes
    left = 0
    for path in models:
        for threads in args.threads:
            cells = results["cells"].setdefault(f"{threads} threads, batch {args.batch}", {})
            if path.stem in cells:
                continue
            if time.monotonic() >= end:
                left += 1
                continue
            cell = compare(path, engines, threads, args.batch, args.seconds)
            cells[path.stem] = cell
            save(args.results, results)
            ms = ", ".join(f"{n} {v:.2f}" for n, v in cell["ms"].items())
            ratio = best(cell)
            print(f"{path.stem}, {threads} threads: {ms} ms; best other / fastconv "
                  f"{'–' if ratio is None else f'{ratio:.2f}'}", flush=True)  # fmt: skip
            for name, what in cell["errors"].items():
                print(f"    {name} left out: {what}", flush=True)
    for threads in args.threads:
        key = f"{threads} threads, batch {args.batch}"
        order = {m.stem: results["cells"][key][m.stem] for m in models
                 if m.stem in results["cells"].get(key, {})}  # fmt: skip
        print(f"\nMilliseconds with {threads} threads, batch {args.batch}:\n")
        print(table(order, engines, results["versions"]))
    if args.svg:
        args.svg.parent.mkdir(parents=True, exist_ok=True)
        args.svg.write_text(picture(results, args.threads, args.batch), encoding="utf-8")
        print(f"\ndrawn in {args.svg}")
    if left:
        print(f"\n{left} measurements are left; the same command goes on")


if __name__ == "__main__":
    main()
