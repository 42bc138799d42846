#!/usr/bin/env python3
"""Time single kernels: kernel × shape → ms, GFLOP/s and GB/s, and their share of this machine's peak.

    python tools/bench_kernels.py                     # the built-in shapes
    python tools/bench_kernels.py --family depthwise  # one family
    python tools/bench_kernels.py --model resnet50.onnx   # every distinct step of a network

Each row is the best of several runs. Arithmetic counts a multiply-add as two operations; bytes are
the inputs, weights and outputs, each once.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

import fastconv
from fastconv import kernels
from fastconv.graph import Graph, Node, TensorType
from fastconv.graph.ops.conv import Conv
from fastconv.graph.ops.matmul import Gemm
from fastconv.graph.ops.norm import Softmax
from fastconv.graph.ops.pool import AveragePool, GlobalAveragePool, MaxPool
from fastconv.peak import measure_peak
from fastconv.runtime.engine import Engine

#: (channels, filters, side, kernel, stride, group) of layers that networks are made of.
CONVOLUTIONS = {
    "conv": [
        (3, 64, 224, 7, 2, 1), (3, 32, 224, 3, 2, 1), (64, 64, 56, 1, 1, 1), (64, 256, 56, 1, 1, 1),
        (256, 64, 56, 1, 1, 1), (64, 64, 56, 3, 1, 1), (128, 128, 28, 3, 1, 1),
        (256, 256, 14, 3, 1, 1), (512, 512, 7, 3, 1, 1), (1024, 256, 14, 1, 1, 1),
        (16, 96, 112, 1, 1, 1), (24, 144, 56, 1, 1, 1), (144, 24, 56, 1, 1, 1),
        (160, 960, 7, 1, 1, 1), (960, 320, 7, 1, 1, 1), (128, 128, 28, 3, 1, 32),
    ],
    "depthwise": [
        (32, 32, 112, 3, 1, 32), (96, 96, 112, 3, 2, 96), (144, 144, 56, 3, 1, 144),
        (384, 384, 14, 3, 1, 384), (960, 960, 7, 3, 1, 960), (240, 240, 28, 5, 1, 240),
        (672, 672, 14, 5, 1, 672), (96, 96, 56, 7, 1, 96),
    ],
}  # fmt: skip
OTHERS = {
    "gemm": [(Gemm(transB=1), [(1, 2048), (1000, 2048)]), (Gemm(transB=1), [(1, 9216), (4096, 9216)])],
    "pool": [
        (MaxPool(kernel_shape=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1)), [(1, 64, 112, 112)]),
        (AveragePool(kernel_shape=(2, 2), strides=(2, 2)), [(1, 256, 56, 56)]),
        (GlobalAveragePool(), [(1, 1280, 7, 7)]),
    ],
    "softmax": [(Softmax(axis=1), [(1, 1000)]), (Softmax(axis=-1), [(12, 197, 197)])],
}


def graphs(family: str | None) -> Iterator[tuple[str, Graph, dict[str, np.ndarray]]]:
    """One-node graphs of the built-in shapes."""
    rng = np.random.default_rng(0)

    def array(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    def graph(op: Any, xs: list[np.ndarray]) -> tuple[Graph, dict[str, np.ndarray]]:
        consts = {f"c{i}": a for i, a in enumerate(xs[1:])}
        types = {"x": TensorType(xs[0].dtype, xs[0].shape)}
        node = Node(op, ["x", *consts], ["y"], "node")
        return Graph("bench", [node], ["x"], ["y"], consts, types), {"x": xs[0]}

    for name, shapes in CONVOLUTIONS.items():
        for c, f, side, k, s, g in shapes if family in (None, name) else ():
            op = Conv(strides=(s, s), pads=(k // 2,) * 4, group=g)
            label = f"{side}²×{c}→{f} {k}×{k} s{s} g{g}"
            yield label, *graph(op, [array(1, c, side, side), array(f, c // g, k, k), array(f)])
    for name, cases in OTHERS.items():
        for op, dims in cases if family in (None, name) else ():
            label = f"{op.label} {' '.join('×'.join(map(str, d)) for d in dims)}"
            yield label, *graph(op, [array(*d) for d in dims])


def measure(engine: Engine, feeds: dict[str, np.ndarray], runs: int) -> Iterator[tuple[Any, float]]:
    """Every step with its best time in seconds."""
    best: list[np.ndarray] = []
    for _ in range(runs):
        parts: list[Any] = []
        engine.run(feeds, parts)
        times = [t for _, t in parts]
        best = times if not best else [np.minimum(a, b) for a, b in zip(best, times, strict=True)]
    for (plan, _), times in zip(parts, best, strict=True):
        yield from zip(plan.steps, times * 1e-9, strict=True)


def step_bytes(step: Any) -> int:
    """Bytes of a step's inputs, weights and outputs, each once."""
    return sum(p.nbytes for p in step.places if p is not None)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--family", choices=[*CONVOLUTIONS, *OTHERS])
    parser.add_argument("--model", help="time the steps of this .onnx file instead")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--isa", choices=kernels.runnable_isas())
    args = parser.parse_args()
    peak = measure_peak(args.threads, args.isa)
    isa = args.isa or kernels.chosen_isa()
    print(f"{isa}, {args.threads} threads: {peak.gflops:.0f} GFLOP/s, {peak.bandwidth:.1f} GB/s")
    print(f"{'kernel':<14}{'shape':<48}{'ms':>9}{'GFLOP/s':>9}{'peak':>6}{'GB/s':>8}{'peak':>6}")
    if args.model:
        warnings.simplefilter("ignore")
        model = fastconv.load(args.model, threads=args.threads)
        rng = np.random.default_rng(0)
        feeds = {}
        for i in model.inputs:
            default = [1, 3, 224, 224] if len(i.shape or ()) == 4 else [1] * 9
            shape = [d if isinstance(d, int) else default[k] for k, d in enumerate(i.shape or ())]
            feeds[i.name] = rng.standard_normal(shape).astype(i.dtype)
        cases = [("", model.graph, feeds)]
    else:
        cases = list(graphs(args.family))
    seen = set()
    for label, graph, feeds in cases:
        for step, seconds in measure(Engine(graph, args.threads, isa=args.isa), feeds, args.runs):
            if not label and step.node is None:
                continue
            if label and step.macs == 0 and len(graph.nodes) == 1 and "transpose" in step.kernel:
                continue
            shapes = [p.shape for p in step.places if p is not None]
            text = label or " → ".join("×".join(map(str, s)) for s in (shapes[0], shapes[-1]))
            key = (step.kernel, text, step.macs)
            if key in seen:
                continue
            seen.add(key)
            flops = 2 * step.macs / seconds / 1e9
            rate = step_bytes(step) / seconds / 1e9
            print(
                f"{step.kernel:<14}{text:<48}{seconds * 1e3:9.3f}{flops:9.1f}"
                f"{flops / peak.gflops:6.0%}{rate:8.1f}{rate / peak.bandwidth:6.0%}"
            )


if __name__ == "__main__":
    main()
