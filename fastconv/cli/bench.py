"""``fastconv bench``: how fast a model runs, and where the time goes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

from .. import text
from .common import (
    add_cache,
    add_input,
    add_json,
    add_model,
    add_shape,
    add_threads,
    load_model,
    note,
    parse_shapes,
    print_json,
    print_table,
    read_inputs,
    say,
    whole,
)

if TYPE_CHECKING:
    import numpy as np

    from ..model import Model
    from ..peak import Peak
    from ..plan import Plan
    from ..plan.lowering import Step

#: Without --runs: about so many seconds, within these numbers of runs.
SECONDS, LEAST, MOST = 3.0, 10, 1000
#: Runs that the profile takes the median of.
PROFILE_RUNS = 15


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "bench",
        help="measure latency, throughput, GFLOP/s and memory",
        description="Latency percentiles, throughput, GFLOP/s and their share of the measured peak "
        "of this machine, and memory. Inputs are random.",
    )
    add_model(parser)
    add_shape(parser)
    add_input(parser)
    add_threads(parser)
    add_cache(parser)
    parser.add_argument(
        "--runs",
        type=whole(1, 1_000_000),
        metavar="N",
        help=f"runs to time (default: about {SECONDS:g} seconds' worth, {LEAST} to {MOST})",
    )
    parser.add_argument(
        "--warmup", type=whole(0, 1_000_000), default=3, metavar="N", help="runs before (default 3)"
    )
    parser.add_argument(
        "--profile", action="store_true", help="show the time of every step of the plan"
    )
    add_json(parser)
    parser.set_defaults(function=main)


def main(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from ..feeds import concrete_shapes, random_feeds
    from ..inspect import describe
    from ..peak import measure_gflops, measure_peak

    start = perf_counter()
    model = load_model(args)
    load_time = perf_counter() - start
    given = read_inputs(args.input)
    shapes = parse_shapes(model, args.shape)
    shapes |= {n: a.shape for n, a in given.items()}
    sizes, notes = concrete_shapes(model, shapes)
    for line in notes:
        note(line)
    missing = [i for i in model.inputs if i.name not in given]
    feeds = {**random_feeds(model, sizes, only=[i.name for i in missing]), **given}
    feeds = model.check_feeds(feeds)
    before = measure_gflops(model.threads)
    start = perf_counter()
    model.run(feeds)
    first_run = perf_counter() - start
    seconds = time_runs(model, feeds, args.runs, args.warmup, first_run)
    rss = peak_rss()
    found = describe(model, sizes)
    profile = profile_steps(model, feeds) if args.profile else None
    # Other programs may disturb either measurement: the better one holds.
    peak = measure_peak(model.threads)
    peak = replace(peak, gflops=max(peak.gflops, before))
    result = {
        "model": args.model,
        "shapes": sizes,
        "threads": model.threads,
        "isa": peak.isa,
        "weights": args.weights,
        "tuned": found.tuned,
        "load_ms": 1e3 * load_time,
        "first_run_ms": 1e3 * first_run,
        **statistics(seconds, batch_of(model, sizes), found.totals.macs, peak),
        "peak": {"gflops": peak.gflops, "bandwidth_gb_s": peak.bandwidth, "read_gb_s": peak.read},
        "memory": {
            "peak_rss_bytes": rss,
            "arena_bytes": found.totals.arena_bytes,
            "packed_weight_bytes": model._engine.packs.nbytes,
        },
        "layers_without_kernel": [y.name for y in found.layers if y.reason is not None],
    }
    if profile is not None:
        result["steps"] = profile_rows(profile, peak)
        result["total"] = profile_total(result["steps"], peak)
    if args.json:
        print_json(result)
    else:
        show(result)
    return 0


def time_runs(
    model: Model, feeds: Mapping[str, np.ndarray], runs: int | None, warmup: int, first: float
) -> list[float]:
    """Seconds of every timed run; without ``runs``, their number follows from the warm-up."""
    pace = first
    for _ in range(warmup):
        start = perf_counter()
        model.run(feeds)
        pace = min(pace, perf_counter() - start)
    if runs is None:
        runs = int(min(MOST, max(LEAST, SECONDS / max(pace, 1e-9))))
    seconds = []
    for _ in range(runs):
        start = perf_counter()
        model.run(feeds)
        seconds.append(perf_counter() - start)
    return seconds


def batch_of(model: Model, sizes: Mapping[str, Sequence[int]]) -> int:
    """Images (first sizes) of the first input; 1 for a scalar."""
    shape = sizes[model.inputs[0].name] if model.inputs else ()
    return shape[0] if shape else 1


def statistics(seconds: Sequence[float], batch: int, macs: int, peak: Peak) -> dict[str, Any]:
    """Percentiles in ms, images a second, GFLOP/s of the median run and its share of the peak."""
    import numpy as np

    p50, p90, p99 = (float(v) for v in np.percentile(seconds, (50, 90, 99)))
    gflops = 2e-9 * macs / max(p50, 1e-9)
    return {
        "runs": len(seconds),
        "batch": batch,
        "latency_ms": {
            "min": 1e3 * min(seconds),
            "p50": 1e3 * p50,
            "p90": 1e3 * p90,
            "p99": 1e3 * p99,
        },
        "throughput": batch * len(seconds) / max(sum(seconds), 1e-9),
        "macs": macs,
        "gflops": gflops,
        "peak_share": gflops / peak.gflops,
    }


def peak_rss() -> int | None:
    """The most memory that this process has held, in bytes; None where the system does not say."""
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def profile_steps(model: Model, feeds: Mapping[str, np.ndarray]) -> list[tuple[Plan, np.ndarray]]:
    """Every part of the run with the median time of each of its steps, in nanoseconds.

    Behind a part's steps come the nodes that run in Python after them (``Plan.eager``).
    """
    import numpy as np

    samples: list[list[Any]] = []
    parts: list[Any] = []
    end = perf_counter() + SECONDS
    while len(samples) < PROFILE_RUNS and (not samples or perf_counter() < end):
        parts = model.profile(feeds)
        samples.append([times.copy() for _, times in parts])
    medians = [np.median([s[k] for s in samples], axis=0) for k in range(len(parts))]
    return [(plan, m) for (plan, _), m in zip(parts, medians, strict=True)]


#: Kernels, and which of their buffers holds weights that are not read as a rule.
PLAIN_WEIGHTS = {("winograd", 2), ("amx_winograd", 2), ("amx_conv", 7), ("gemv_fixed", 4)}


def step_bytes(step: Step) -> int:
    """Bytes that a step reads and writes at least: its inputs, weights and outputs, each once.

    Scratch memory (that no other step touches) is left out, and so are the plain weights that
    some kernels keep for results that are not finite.
    """
    from ..plan.memory import ARENA

    places = [p for k, p in enumerate(step.places) if (step.kernel, k) not in PLAIN_WEIGHTS]
    return sum(
        p.nbytes
        for p in places
        if p is not None
        and p.dtype.itemsize
        and p.buffer.parts is None
        and not (p.buffer.kind == ARENA and p.buffer.first == p.buffer.last)
    )


def profile_rows(profile: Sequence[tuple[Plan, np.ndarray]], peak: Peak) -> list[dict[str, Any]]:
    """One row per step: layer, op, kernel, output shape, ms, and how near its bounds it comes.

    Steps of one node and kernel (bands of rows, phases) are one row. A node that runs in Python
    behind a plan's steps is one too, without work and bytes: nobody counts them there.

    ``gflops`` counts the multiply-adds of direct convolution, so that Winograd's may pass the peak;
    ``gb_s`` counts every byte once, so that a step whose data are in caches may pass memory's
    bandwidth. ``bound`` is the one whose share is larger: ``arithmetic`` or ``memory``.
    """
    from ..inspect import eager_kernel

    total = sum(float(times.sum()) for _, times in profile) or 1.0
    types = {n: t for plan, _ in profile for n, t in plan.types.items()}
    rows: dict[Any, dict[str, Any]] = {}
    for part, (plan, times) in enumerate(profile):
        for index, (step, ns) in enumerate(zip(plan.steps, times)):
            node = step.node
            key = (part, index) if node is None else (part, id(node), step.kernel)
            places = [p for p in step.places if p is not None and p.dtype.itemsize]
            row = rows.setdefault(
                key,
                {
                    "layer": "" if node is None else node.name,
                    "op": "" if node is None else node.op.label,
                    "kernel": step.kernel,
                    "shape": list(places[-1].shape) if places else [],
                    "threads": step.threads,
                    "ms": 0.0,
                    "share": 0.0,
                    "macs": 0,
                    "bytes": 0,
                    "steps": 0,
                },
            )
            row["ms"] += max(float(ns), 1.0) / 1e6
            row["share"] += float(ns) / total
            row["macs"] += step.macs
            row["bytes"] += step_bytes(step)
            row["steps"] += 1
            if row["steps"] > 1 and node is not None and node.outputs[0] in plan.types:
                whole = plan.types[node.outputs[0]].shape or ()
                row["shape"] = [int(d) for d in whole]  # type: ignore[arg-type]
        for node, ns in zip(plan.eager, times[len(plan.steps) :], strict=True):
            t = types.get(next((o for o in node.outputs if o), ""))
            rows[part, id(node)] = {
                "layer": node.name,
                "op": node.op.label,
                "kernel": eager_kernel(node),
                "shape": [] if t is None or t.shape is None else list(t.shape),
                "threads": 1,
                "ms": max(float(ns), 1.0) / 1e6,
                "share": float(ns) / total,
                "macs": 0,
                "bytes": 0,
                "steps": 1,
            }
    for row in rows.values():
        row.update(rates(row["ms"] * 1e6, row["macs"], row["bytes"], peak))
    return list(rows.values())


def rates(ns: float, macs: int, moved: int, peak: Peak) -> dict[str, Any]:
    """GFLOP/s and GB/s of some work, their shares of the peaks, and the nearer bound."""
    gflops, gb_s = 2 * macs / ns, moved / ns
    arithmetic, memory = gflops / peak.gflops, gb_s / peak.memory
    bound = "arithmetic" if macs and arithmetic >= memory else "memory"
    return {
        "gflops": gflops if macs else None,
        "peak_share": arithmetic if macs else None,
        "gb_s": gb_s,
        "memory_share": memory,
        "bound": bound if macs or moved else "",
    }


def profile_total(rows: Sequence[Mapping[str, Any]], peak: Peak) -> dict[str, Any]:
    """The same of all steps together, and ``bound_ms``: the sum of every step's nearer bound."""
    ms, macs, moved = (sum(r[k] for r in rows) for k in ("ms", "macs", "bytes"))
    bounds = (max(2e-6 * r["macs"] / peak.gflops, 1e-6 * r["bytes"] / peak.memory) for r in rows)
    return {
        "ms": ms, "macs": macs, "bytes": moved, **rates(max(1e6 * ms, 1.0), macs, moved, peak),
        "bound_ms": sum(bounds),
    }  # fmt: skip


def show(r: Mapping[str, Any]) -> None:
    """Print the result for people."""
    latency, memory = r["latency_ms"], r["memory"]
    shapes = ", ".join(
        f"{text.clean(n)} {text.times(s) or 'scalar'}" for n, s in r["shapes"].items()
    )
    rss = memory["peak_rss_bytes"]
    rows = [
        ("input", shapes),
        ("threads", f"{r['threads']} ({r['isa']} kernels)"),
        ("tuned", r["tuned"] or "no"),
        ("load", f"{r['load_ms']:.1f} ms"),
        ("first run", f"{r['first_run_ms']:.2f} ms"),
        (
            "latency",
            " | ".join(f"{k} {v:.3f} ms" for k, v in latency.items()) + f" ({r['runs']} runs)",
        ),
        ("throughput", f"{r['throughput']:.1f} images/s (batch {r['batch']})"),
        ("work", f"{r['macs']:,} multiply-accumulates"),
        (
            "speed",
            f"{r['gflops']:.1f} GFLOP/s, {100 * r['peak_share']:.1f} % of the measured peak of "
            f"{r['peak']['gflops']:.1f}",
        ),
        (
            "bandwidth",
            f"{r['peak']['read_gb_s']:.1f} GB/s measured reading, "
            f"{r['peak']['bandwidth_gb_s']:.1f} GB/s copying",
        ),
        (
            "memory",
            f"{'?' if rss is None else text.memory(rss)} at most; activations "
            f"{text.memory(memory['arena_bytes'])}, packed weights "
            f"{text.memory(memory['packed_weight_bytes'])}",
        ),
    ]
    print_table(("what", "value"), rows)
    if "steps" not in r:
        return
    say()
    cells = [
        (s["layer"], s["op"], s["kernel"], text.times(s["shape"]), *rate_cells(s))
        for s in r["steps"]
    ]
    total = r["total"]
    cells.append(("all", "", "", "", *rate_cells({**total, "share": 1.0})))
    headers = (
        "layer", "op", "kernel", "output", ">ms", ">% time", ">GFLOP/s", ">% peak", ">GB/s",
        ">% memory", "nearer bound",
    )  # fmt: skip
    print_table(headers, cells)
    say()
    say(
        f"steps {total['ms']:.3f} ms of {latency['p50']:.3f} ms (p50); "
        f"at their nearer bounds they would take {total['bound_ms']:.3f} ms"
    )


def rate_cells(s: Mapping[str, Any]) -> tuple[str, ...]:
    """The cells from ms on of a row of the profile."""
    return (
        f"{s['ms']:.4f}",
        f"{100 * s['share']:.1f}",
        "" if s["gflops"] is None else f"{s['gflops']:.1f}",
        "" if s["peak_share"] is None else f"{100 * s['peak_share']:.1f}",
        f"{s['gb_s']:.1f}" if s["bytes"] else "",
        f"{100 * s['memory_share']:.1f}" if s["bytes"] else "",
        s["bound"],
    )
