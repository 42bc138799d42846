#!/usr/bin/env python3
"""Quantises networks with onnxruntime's static quantiser; times integer inference beside float32.

    python tools/fetch_zoo.py                       # makes the float32 networks
    python tools/measure_quantised.py --threads 1 resnet50 mobilenet_v2

Weights get one scale per filter, activations one each, from a few random inputs: good enough to
time and to compare engines, not to classify. Every engine and model runs in a process of its own
and the processes take turns; the ratio of each round is taken before the median.

Columns: median milliseconds per run; how many times faster fastconv's integer run is than
fastconv's float32, onnxruntime's integer and onnxruntime's float32 one; and the largest difference
between the two engines' integer results, in quantisation steps. onnxruntime computes signed QDQ
models in float32 on x86 unless told otherwise: it is told for the difference, and timed as it comes
(its integer kernels for them are slower still).
"""

from __future__ import annotations

import argparse
import multiprocessing
import pathlib
import statistics
import time
from typing import Any

import numpy as np
from wheels import default_cache

ACTIVATIONS = {"u8": "QUInt8", "s8": "QInt8"}
#: Seconds before each turn: onnxruntime's threads spin for some 50 ms after a run, and would take
#: the processors of whoever is next.
REST = 0.1


def quantise(source: pathlib.Path, target: pathlib.Path, activations: str) -> None:
    """Write the QDQ form of a network: int8 weights per filter, activations of the given type."""
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    value = onnx.load(source, load_external_data=False).graph.input[0]
    shape = [d.dim_value or 1 for d in value.type.tensor_type.shape.dim]
    rng = np.random.default_rng(0)

    class Inputs(CalibrationDataReader):
        left = 6

        def get_next(self) -> dict[str, np.ndarray] | None:
            self.left -= 1
            if self.left < 0:
                return None
            return {value.name: rng.standard_normal(shape, dtype=np.float32)}

    quantize_static(
        source, target, Inputs(), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=getattr(QuantType, ACTIVATIONS[activations]), weight_type=QuantType.QInt8,
    )  # fmt: skip


def result_step(path: pathlib.Path) -> float:
    """The quantisation step of the network's first result."""
    import onnx

    graph = onnx.load(path).graph
    last = next(n for n in graph.node if graph.output[0].name in n.output)
    scales = {i.name: onnx.numpy_helper.to_array(i) for i in graph.initializer}
    return float(scales[last.input[1]].reshape(())) if last.op_type == "DequantizeLinear" else 1.0


def open_model(
    engine: str, path: pathlib.Path, threads: int, integers: bool = False
) -> tuple[Any, list[int]]:
    """A function that runs the model on one input, and the input's shape.

    With ``integers`` onnxruntime uses its integer kernels for signed activations too.
    """
    if engine == "fastconv":
        import fastconv

        model = fastconv.load(path, threads=threads, fallback="error")
        shape = [d if isinstance(d, int) else 1 for d in model.inputs[0].shape or ()]
        return model, shape
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    if integers:
        options.add_session_config_entry("session.qdqisint8allowed", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    info = session.get_inputs()[0]
    shape = [d if isinstance(d, int) else 1 for d in info.shape]
    return lambda x: session.run(None, {info.name: x})[0], shape


def serve(pipe: Any, engine: str, path: pathlib.Path, threads: int, seconds: float) -> None:
    """A process of its own: answers every request with the time of one run."""
    run, shape = open_model(engine, path, threads)
    x = np.random.default_rng(1).standard_normal(shape, dtype=np.float32)
    run(x)
    pipe.send(np.asarray(open_model(engine, path, threads, integers=True)[0](x)))
    while pipe.recv():
        times = []
        stop = time.perf_counter() + seconds
        while time.perf_counter() < stop or len(times) < 3:
            start = time.perf_counter()
            run(x)
            times.append(time.perf_counter() - start)
        pipe.send(statistics.median(times))


def measure(source: pathlib.Path, kind: str, folder: pathlib.Path, args: argparse.Namespace) -> str:
    """One row of the table."""
    path = folder / f"{source.stem}.{kind}.onnx"
    if not path.exists():
        quantise(source, path, kind)
    context = multiprocessing.get_context("spawn")
    workers = []
    for engine, file in (
        ("fastconv", path), ("fastconv", source), ("onnxruntime", path), ("onnxruntime", source)
    ):  # fmt: skip
        mine, theirs = context.Pipe()
        arguments = (theirs, engine, file, args.threads, args.seconds)
        process = context.Process(target=serve, args=arguments, daemon=True)
        process.start()
        workers.append((mine, process))
    results = [pipe.recv() for pipe, _ in workers]
    rounds = []
    for _ in range(args.rounds):
        times = []
        for pipe, _ in workers:
            time.sleep(REST)
            pipe.send(True)
            times.append(pipe.recv())
        rounds.append(times)
    for pipe, process in workers:
        pipe.send(False)
        process.join()
    ms = [1e3 * statistics.median(t[k] for t in rounds) for k in range(4)]
    ratio = [statistics.median(t[k] / t[0] for t in rounds) for k in range(1, 4)]
    steps = np.abs(results[0] - results[2]).max() / result_step(path)
    cells = [f"{v:8.2f}" for v in ms] + [f"{v:6.2f}×" for v in ratio] + [f"{steps:5.1f}"]
    return f"{source.stem + ' ' + kind:24}" + " ".join(cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="+", help="names of fetched networks, or files")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=0.06, help="of one engine's turn")
    parser.add_argument("--activations", default="u8,s8", help="u8, s8 or both")
    parser.add_argument("--folder", type=pathlib.Path, help="where the quantised files go")
    args = parser.parse_args()
    folder = args.folder or default_cache() / "quantised"
    folder.mkdir(parents=True, exist_ok=True)
    print(f"{'ms':24}" + " ".join(f"{c:>8}" for c in ("fc int8", "fc f32", "ort int8", "ort f32"))
          + "   /f32   /ort i8 /ort f32 steps")  # fmt: skip
    for name in args.models:
        given = pathlib.Path(name)
        source = given if given.exists() else default_cache() / f"{name}.onnx"
        for kind in args.activations.split(","):
            print(measure(source, kind, folder, args), flush=True)


if __name__ == "__main__":
    main()
