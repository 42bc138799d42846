#!/usr/bin/env python3
"""Latency of fastconv beside other CPU engines on the same ONNX files, in one run.

    pip install onnxruntime openvino MNN ncnn pnnx      # whichever you want beside fastconv
    python tools/fetch_zoo.py                           # makes the networks
    python tools/compare_engines.py --threads 1 ~/.cache/fastconv-zoo/resnet50.onnx …

Each engine runs in a process of its own and the processes take turns, so that a slow spell of the
machine meets all of them; the ratio of each round is taken before the median. Quote the ratios: the
milliseconds belong to the machine and the hour. MNN and ncnn read their own formats: the model is
converted once, beside the file.

Columns: median milliseconds per engine; best/fastconv is the fastest other engine's time over
fastconv's (above 1, fastconv is faster than all of them); error is fastconv's largest difference
from onnxruntime over the largest output.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

ROUND_SECONDS = 0.06


def open_fastconv(path: pathlib.Path, x: np.ndarray, threads: int) -> Callable[[], np.ndarray]:
    import fastconv

    model = fastconv.load(path, threads=threads, fallback="error")
    return lambda: model(x)


def open_onnxruntime(path: pathlib.Path, x: np.ndarray, threads: int) -> Callable[[], np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feeds = {session.get_inputs()[0].name: x}
    return lambda: session.run(None, feeds)[0]


def open_openvino(path: pathlib.Path, x: np.ndarray, threads: int) -> Callable[[], np.ndarray]:
    import openvino

    config = {
        "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }  # fmt: skip
    request = openvino.Core().compile_model(str(path), "CPU", config).create_infer_request()

    def go() -> np.ndarray:
        request.infer({0: x})
        return request.get_output_tensor(0).data

    return go


def open_mnn(path: pathlib.Path, x: np.ndarray, threads: int) -> Callable[[], np.ndarray]:
    import MNN.expr
    import MNN.nn
    import onnx

    target = path.with_suffix(".mnn")
    if not target.exists():
        tool = pathlib.Path(sys.executable).with_name("mnnconvert")
        command = [tool, "-f", "ONNX", "--modelFile", path, "--MNNModel", target, "--bizCode", "x"]
        subprocess.run(command, check=True)
    graph = onnx.load(path).graph
    fixed = {i.name for i in graph.initializer}
    config = {"precision": "high", "backend": 0, "numThread": threads}
    net = MNN.nn.load_module_from_file(
        str(target), [i.name for i in graph.input if i.name not in fixed],
        [o.name for o in graph.output],
        runtime_manager=MNN.nn.create_runtime_manager((config,)),
    )  # fmt: skip
    feed = MNN.expr.placeholder(x.shape, MNN.expr.NCHW)
    feed.write(x)
    return lambda: np.array(net.forward([feed])[0].read())


def open_ncnn(path: pathlib.Path, x: np.ndarray, threads: int) -> Callable[[], np.ndarray]:
    import ncnn

    stem = str(path.with_suffix("")).rsplit(os.sep, 1)
    base = os.sep.join([stem[0], stem[1].replace("-", "_")])
    if not os.path.exists(base + ".ncnn.param"):
        import pnnx

        tool = os.path.join(os.path.dirname(pnnx.__file__), "bin", "pnnx")
        shape = f"inputshape=[{','.join(map(str, x.shape))}]"
        subprocess.run([getattr(pnnx, "EXEC_PATH", tool), path, shape, "fp16=0"], check=True)
    net = ncnn.Net()
    net.opt.num_threads = threads
    for flag in ("fp16_storage", "fp16_arithmetic", "fp16_packed", "bf16_storage"):
        setattr(net.opt, f"use_{flag}", False)
    if net.load_param(base + ".ncnn.param") or net.load_model(base + ".ncnn.bin"):
        raise RuntimeError("ncnn could not load the converted model")
    mat = ncnn.Mat(np.ascontiguousarray(x[0]))

    def go() -> np.ndarray:
        extractor = net.create_extractor()
        extractor.input("in0", mat)
        return np.array(extractor.extract("out0")[1])

    return go


OPENERS = {
    "fastconv": open_fastconv,
    "onnxruntime": open_onnxruntime,
    "openvino": open_openvino,
    "mnn": open_mnn,
    "ncnn": open_ncnn,
}


def serve(engine: str, path: pathlib.Path, shape: list[int], threads: int, pipe: Any) -> None:
    """One engine's process: answers each number n with the seconds of n runs."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    try:
        x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
        go = OPENERS[engine](path, x, threads)
        pipe.send(np.array(go(), np.float32).ravel())
        while n := pipe.recv():
            times = []
            for _ in range(n):
                start = time.perf_counter()
                go()
                times.append(time.perf_counter() - start)
            pipe.send(times)
    except Exception as e:
        pipe.send(f"{type(e).__name__}: {e}".splitlines()[0])


def compare(
    path: pathlib.Path, engines: list[str], shape: list[int], threads: int, rounds: int
) -> tuple[dict[str, list[float]], dict[str, np.ndarray], dict[str, str]]:
    """Each engine's median seconds in every round, its output, and what went wrong."""
    context = multiprocessing.get_context("spawn")
    pipes, outputs, errors, counts = {}, {}, {}, {}
    for engine in engines:
        here, there = context.Pipe()
        args = (engine, path, shape, threads, there)
        process = context.Process(target=serve, args=args, daemon=True)
        process.start()
        there.close()
        try:
            answer = here.recv()
        except EOFError:
            answer = "the engine's process died"
        if isinstance(answer, str):
            errors[engine] = answer
        else:
            pipes[engine], outputs[engine] = here, answer
    for engine, pipe in pipes.items():
        pipe.send(3)
        counts[engine] = max(1, min(50, int(ROUND_SECONDS / statistics.median(pipe.recv()))))
    times: dict[str, list[float]] = {engine: [] for engine in pipes}
    for _ in range(rounds):
        for engine, pipe in pipes.items():
            pipe.send(1)  # wakes its threads; not counted
            pipe.recv()
            pipe.send(counts[engine])
            times[engine].append(statistics.median(pipe.recv()))
    for pipe in pipes.values():
        pipe.send(0)
    return times, outputs, errors


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", type=pathlib.Path)
    parser.add_argument("--engines", default="fastconv,onnxruntime,openvino,mnn,ncnn")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--batch", type=int, default=1)
    args = parser.parse_args()
    engines = args.engines.split(",")
    print(f"{'network':<22}", *(f"{e:>11}" for e in engines), f"{'best/fastconv':>14}{'error':>9}")
    best = []
    for path in args.models:
        side = 299 if "inception_v3" in path.name else 224
        shape = [args.batch, 3, side, side]
        times, outputs, errors = compare(path, engines, shape, args.threads, args.rounds)
        cells = [
            f"{1e3 * statistics.median(times[e]):11.2f}" if e in times else f"{'-':>11}"
            for e in engines
        ]
        ratio = error = math.nan
        if "fastconv" in times and len(times) > 1:
            ours = times["fastconv"]
            ratio = min(
                statistics.median(b / a for a, b in zip(ours, times[e], strict=True))
                for e in times
                if e != "fastconv"
            )
            best.append(ratio)
        if "fastconv" in outputs and "onnxruntime" in outputs:
            expected = outputs["onnxruntime"]
            error = np.abs(outputs["fastconv"] - expected).max() / np.abs(expected).max()
        print(f"{path.stem:<22}", *cells, f"{ratio:14.2f}{error:9.0e}", flush=True)
        for engine, what in errors.items():
            print(f"    {engine}: {what}")
    if best:
        mean = math.exp(sum(map(math.log, best)) / len(best))
        print(f"geometric mean best/fastconv {mean:.2f}, worst {min(best):.2f}")


if __name__ == "__main__":
    main()
