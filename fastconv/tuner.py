"""Times the alternatives that the planner has for a model on this machine, inside the model.

For every kind of decision there are as many plans as a node has alternatives: in the first, every
node is computed as estimated; in the second, every node by its second alternative; and so on. The
plans run in turns, so that a slow spell of the machine meets all of them, and each step is timed
where it stands, with the caches as its neighbours leave them. What is kept for a decision is the
alternative with the best ratio, round by round, to the estimated one, and only if it is clearly
better. At the end, the model with all that was chosen runs in turns with the model as estimated.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from .feeds import random_feeds
from .plan import PackCache
from .plan.choice import Choices, Decision
from .runtime.engine import Engine

if TYPE_CHECKING:
    from .model import Model

#: An alternative replaces the estimated one if its time is below this share of it.
CLEARLY = 0.97
#: Kinds of decisions that others depend on.
FIRST = ("amx", "conv")
#: Alternatives whose estimated cost is more than this many times the least are not timed.
HOPELESS = 6.0
#: Rounds for each kind of decision: at least, and at most within the seconds given.
LEAST_ROUNDS, MOST_ROUNDS = 5, 60


@dataclass
class Outcome:
    """What was measured for one decision.

    Attributes:
        kind, key: the decision's.
        nodes: names of the nodes that it is for.
        milliseconds: alternative → median time of all those nodes together in one run.
        estimate: the alternative with the least estimated cost.
        choice: the one to take.
    """

    kind: str
    key: str
    nodes: list[str]
    milliseconds: dict[str, float]
    estimate: str
    choice: str


@dataclass
class Tuning:
    """What :func:`tune` found.

    Attributes:
        outcomes: one per decision.
        before, after: milliseconds of a run as estimated and as tuned (medians).
        speedup: time as estimated over time as tuned: the median of the rounds' ratios.
        kept: whether the choices are worth keeping: the whole run did not get slower.
    """

    outcomes: list[Outcome] = field(default_factory=list)
    before: float = 0.0
    after: float = 0.0
    speedup: float = 1.0
    kept: bool = True

    @property
    def choices(self) -> dict[str, str]:
        """Decision → alternative to take, as far as they are kept."""
        return {o.key: o.choice if self.kept else o.estimate for o in self.outcomes}

    @property
    def timings(self) -> dict[str, dict[str, float]]:
        """Decision → alternative → milliseconds."""
        return {o.key: o.milliseconds for o in self.outcomes}


def tune(
    model: Model,
    shapes: Mapping[str, Sequence[int]],
    seconds: float = 20.0,
    progress: Callable[[str], None] = lambda line: None,
) -> Tuning:
    """Time the alternatives for these input shapes with the model's number of threads.

    Args:
        model: the model; what it runs itself is left as it is.
        shapes: a shape for every input.
        seconds: about how long to measure, planning apart.
        progress: told what is being done, line by line.

    Raises:
        FastconvError: the model does not run at these shapes.
    """
    feeds = model.check_feeds(random_feeds(model, shapes))
    packs = model._engine.packs.empty()
    first = _Run(model, packs, {})
    first.times(feeds)
    share = seconds / (len({d.kind for d in first.decisions}) + 1)
    result = Tuning()
    record: dict[str, str] = {}
    done: list[str] = []
    while True:
        # Kinds that are settled may have taken decisions of other kinds away, or brought some.
        base = _Run(model, packs, record)
        base.times(feeds)
        # The algorithm first: what blocks there are to choose from depends on it.
        kinds = {d.kind for d in base.decisions} - set(done)
        if not kinds:
            break
        kind = min(kinds, key=lambda k: (k not in FIRST, k))
        found = [d for d in base.decisions if d.kind == kind]
        outcomes = _time_kind(model, packs, record, found, feeds, share, progress)
        result.outcomes += outcomes
        record |= {o.key: o.choice for o in outcomes}
        done.append(kind)
        gc.collect()
    if any(o.choice != o.estimate for o in result.outcomes):
        progress("the whole model, as estimated and as tuned")
        _compare(model, packs, record, feeds, share, result)
    else:
        times = [first.seconds(feeds) for _ in range(LEAST_ROUNDS)]
        result.before = result.after = 1e3 * float(np.median(times))
    return result


class _Run:
    """An engine of its own with forced choices, and what it decided."""

    def __init__(self, model: Model, packs: PackCache, record: Mapping[str, str]) -> None:
        own = model._engine
        self.decisions: list[Decision] = []
        self.engine = Engine(
            model.graph, own.threads, packs, own.memory_limit, own.isa, own.strict,
            Choices(dict(record), self.decisions), own.half,
        )  # fmt: skip

    def times(self, feeds: Mapping[str, np.ndarray]) -> dict[int, float]:
        """One run: nanoseconds by node, as ``id(node)``."""
        parts: list[Any] = []
        self.engine.run(feeds, parts)
        spent: dict[int, float] = {}
        for plan, times in parts:
            for step, ns in zip(plan.steps, times, strict=True):
                spent[id(step.node)] = spent.get(id(step.node), 0.0) + float(ns)
        return spent

    def seconds(self, feeds: Mapping[str, np.ndarray]) -> float:
        """One run: seconds in all."""
        start = perf_counter()
        self.engine.run(feeds)
        return perf_counter() - start


def _options(decision: Decision) -> list[str]:
    """Alternatives worth timing, the estimated one first."""
    order = sorted(decision.costs, key=lambda name: decision.costs[name])
    least = decision.costs[order[0]]
    return [name for name in order if decision.costs[name] <= HOPELESS * least]


def _time_kind(
    model: Model,
    packs: PackCache,
    record: Mapping[str, str],
    decisions: Sequence[Decision],
    feeds: Mapping[str, np.ndarray],
    seconds: float,
    progress: Callable[[str], None],
) -> list[Outcome]:
    """Time every alternative of these decisions, all of one kind."""
    options = {d.key: _options(d) for d in decisions}
    nodes: dict[str, dict[int, str]] = {key: {} for key in options}
    for d in decisions:
        nodes[d.key][id(d.node)] = d.node.name
    variants = max(map(len, options.values()), default=0)
    if variants < 2:
        return []
    forced = [
        {key: names[v % len(names)] for key, names in options.items()} for v in range(variants)
    ]
    runs = [_Run(model, packs, {**record, **f}) for f in forced]
    progress(f"{decisions[0].kind}: {len(options)} decisions, {variants} alternatives")
    for run in runs:
        run.times(feeds)  # plans, packs, and fetches what it packed
    samples: list[list[dict[str, float]]] = []  # round, variant, decision
    end = perf_counter() + seconds
    while len(samples) < LEAST_ROUNDS or (perf_counter() < end and len(samples) < MOST_ROUNDS):
        turn: list[dict[str, float]] = [{} for _ in runs]
        for k in range(variants):
            v = (k + len(samples)) % variants
            spent = runs[v].times(feeds)
            turn[v] = {key: sum(spent.get(i, 0.0) for i in ids) for key, ids in nodes.items()}
        samples.append(turn)
    return [
        _outcome(d, names, list(nodes[key].values()), forced, samples)
        for key, names in options.items()
        for d in [next(d for d in decisions if d.key == key)]
    ]


def _outcome(
    decision: Decision,
    names: Sequence[str],
    nodes: list[str],
    forced: Sequence[Mapping[str, str]],
    samples: Sequence[Sequence[Mapping[str, float]]],
) -> Outcome:
    """Which alternative of one decision to take."""
    key = decision.key
    times: dict[str, list[float]] = {name: [] for name in names}
    ratios: dict[str, list[float]] = {name: [] for name in names}
    for turn in samples:
        for spent, choices in zip(turn, forced, strict=True):
            times[choices[key]].append(spent[key])
            ratios[choices[key]].append(spent[key] / max(turn[0][key], 1.0))
    best, choice = CLEARLY, names[0]
    for name in names[1:]:
        ratio = float(np.median(ratios[name]))
        if ratio < best:
            best, choice = ratio, name
    milliseconds = {name: round(1e-6 * float(np.median(t)), 6) for name, t in times.items()}
    return Outcome(decision.kind, key, nodes, milliseconds, names[0], choice)


def _compare(
    model: Model,
    packs: PackCache,
    record: Mapping[str, str],
    feeds: Mapping[str, np.ndarray],
    seconds: float,
    result: Tuning,
) -> None:
    """Time the whole run as estimated and as tuned, and decide whether to keep the choices."""
    runs = [_Run(model, packs, {}), _Run(model, packs, record)]
    for run in runs:
        run.seconds(feeds)
    times: list[tuple[float, float]] = []
    end = perf_counter() + seconds
    while len(times) < LEAST_ROUNDS or (perf_counter() < end and len(times) < 10 * MOST_ROUNDS):
        pair = [0.0, 0.0]
        for k in (0, 1) if len(times) % 2 else (1, 0):
            pair[k] = runs[k].seconds(feeds)
        times.append((pair[0], pair[1]))
    result.before, result.after = (1e3 * float(v) for v in np.median(times, axis=0))
    result.speedup = float(np.median([a / b for a, b in times]))
    result.kept = result.speedup >= 1.0
