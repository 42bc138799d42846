#!/usr/bin/env python3
"""Runs a model over many random input sizes and says whether its memory stays flat.

    python tools/soak.py MODEL [--runs 2000] [--sizes 200] [--range 32 480] [--memory-limit MIB]
    python tools/soak.py MODEL --plan 160x160 480x480     # planning beside running, nothing else

The model has one image input (N, C, H, W), whose H and W are open. Sizes are multiples of
``--multiple``. Every run is fed noise. Printed after every tenth of the runs: resident memory, and
the median times of runs whose size was planned already and of plans made. The exit status is 1
where resident memory grew, from the first fifth of the runs to the end, by more than
``--tolerance`` MiB. With ``--plan``, each size is planned several times by a model just loaded but
warm (its weights are packed, its modules imported), and run.
"""

from __future__ import annotations

import argparse
import pathlib
import random
import statistics
import sys
import time

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))

import fastconv  # noqa: E402

MIB = 1 << 20


def resident() -> float:
    """MiB of this process that are in memory (Linux)."""
    with open("/proc/self/status", encoding="ascii") as f:
        line = next(line for line in f if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def input_of(model: fastconv.Model, height: int, width: int) -> tuple[str, tuple[int, ...]]:
    """The image input's name, and its shape at a size; batch and open channels are 1 and 3."""
    spec = model.inputs[0]
    if spec.shape is None or len(spec.shape) != 4:
        raise SystemExit(f"input {spec.name!r} has shape {spec.shape}: no (N, C, H, W) image")
    n, c = (d if isinstance(d, int) else fill for d, fill in zip(spec.shape, (1, 3), strict=False))
    return spec.name, (n, c, height, width)


def plan_time(model: fastconv.Model, height: int, width: int, repeats: int) -> tuple[float, float]:
    """Median seconds to plan a size, and to run it."""
    name, shape = input_of(model, height, width)
    x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    model.run({name: x})  # weights are packed once per model, not for every size
    plans, runs = [], []
    for k in range(repeats):
        # Other sizes push this one out of the cache of plans.
        for other in range(1, 10):
            model.prepare({name: (*shape[:2], 32 * other, 64 + 32 * k)})
        start = time.perf_counter()
        model.prepare({name: shape})
        plans.append(time.perf_counter() - start)
        model.run({name: x})
        start = time.perf_counter()
        model.run({name: x})
        runs.append(time.perf_counter() - start)
    return statistics.median(plans), statistics.median(runs)


def soak(model: fastconv.Model, args: argparse.Namespace) -> float:
    """Run; returns by how many MiB resident memory grew after the first fifth."""
    rng = random.Random(args.seed)
    low, high = (max(1, v // args.multiple) for v in args.range)
    every = [(h, w) for h in range(low, high + 1) for w in range(low, high + 1)]
    rng.shuffle(every)
    sizes = [(h * args.multiple, w * args.multiple) for h, w in every[: args.sizes]]
    noise = np.random.default_rng(args.seed)
    peak_early = peak = 0.0
    plans: list[float] = []
    runs: list[float] = []
    print(f"{len(sizes)} sizes, loaded: {resident():.0f} MiB", flush=True)
    for i in range(args.runs):
        h, w = sizes[i] if i < len(sizes) else rng.choice(sizes)
        name, shape = input_of(model, h, w)
        x = noise.standard_normal(shape, dtype=np.float32)
        start = time.perf_counter()
        model.prepare({name: shape})
        planned = time.perf_counter()
        model.run({name: x})
        plans.append(planned - start)
        runs.append(time.perf_counter() - planned)
        peak = max(peak, resident())
        if i < args.runs // 5:
            peak_early = peak
        if (i + 1) % max(1, args.runs // 10) == 0:
            print(
                f"{i + 1:6} runs  {resident():6.0f} MiB (most {peak:.0f})  "
                f"run {1e3 * statistics.median(runs):6.2f} ms  "
                f"plan {1e3 * statistics.median(plans):6.2f} ms",
                flush=True,
            )
            plans, runs = [], []
    return peak - peak_early


def main() -> int:
    """Exit status 1 where memory grew."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--sizes", type=int, default=200, help="how many different ones")
    parser.add_argument("--range", type=int, nargs=2, default=(32, 480), metavar="PIXELS")
    parser.add_argument("--multiple", type=int, default=32, help="of which sizes are multiples")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--memory-limit", type=int, metavar="MIB")
    parser.add_argument("--tolerance", type=float, default=8, metavar="MIB")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plan", nargs="+", metavar="HxW", help="time plans of these sizes")
    args = parser.parse_args()
    limit = None if args.memory_limit is None else args.memory_limit * MIB
    model = fastconv.load(args.model, threads=args.threads, memory_limit=limit)
    if args.plan:
        for text in args.plan:
            h, w = map(int, text.split("x"))
            plan, run = plan_time(model, h, w, repeats=5)
            print(f"{text:>10}  plan {1e3 * plan:6.2f} ms  run {1e3 * run:6.2f} ms  "
                  f"plan / run {plan / run:.2f}", flush=True)  # fmt: skip
        return 0
    grown = soak(model, args)
    print(f"grew by {grown:.1f} MiB after the first {args.runs // 5} runs")
    return int(grown > args.tolerance)


if __name__ == "__main__":
    sys.exit(main())
