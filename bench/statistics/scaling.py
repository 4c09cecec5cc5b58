"""How seconds per iteration fall with the number of nodes: several models, averaged, and how wrong they were before.

A fixed amount of work is shared by N nodes (strong scaling). No measured row tells which term will lead at more nodes
than were measured, so there are seven shapes of t(N) [seconds per iteration], with coefficients >= 0:

    a/N + b               Amdahl 1967. a: the micro-batches. b: what no node is spared: the optimizer, and the bytes of a
                          ring all-reduce, 2(N-1)/N times the gradients (Patarasuk and Yuan 2009)
    a/N + b + c log2 N    the start-up of each round of a tree or of recursive doubling (Thakur et al. 2005)
    a/N + b + c (N-1)     the start-up of each step of a ring, 2(N-1) of them (Thakur et al. 2005); the same curve as the
                          universal scalability law, with which more nodes become slower at last (Gunther 2007)
    each of these three + d/N for N > 1: what a micro-batch costs more as soon as there is company
    a N^-p                a line in log t against log N (Barnes et al. 2008)

They are fitted by least squares on predicted / measured (no run at one node is as exact, in seconds, as one at 64), and
weighed by Akaike's criterion. The prediction is the weighted mean of their logarithms; its variance is the sum of

- between  the weighted variance of the shapes' predictions around that mean (Buckland et al. 1997, who average standard
           deviations; variances give the wider interval)
- scatter  of one run, from the residuals of each arm's closest shape; 2 % is assumed before, worth two runs
- bend     (s log2(N / largest measured))^2: beyond the largest measured number the curve may bend away from all shapes,
           by the same unknown share in each doubling. s is what the model's own forecasts were wrong by: in each arm the
           rows up to a node count predict the next (Dawid 1984). What is assumed before, worth two forecasts: a doubling
           may bring anything from half the time to none, uniform on [0, ln 2], so s = ln 2 / sqrt(12) = 0.20.

Scatter and forecasts are pooled over the arms: they ran on the same hosts and network, and what slows one may come to
the other. The uncertainty of the coefficients has no term of its own; the errors of the forecasts contain it.

The step d/N is there because the published table has it (glibc), so the shapes were chosen with all 14 rows in sight:
the twelve checks below test the intervals, not that choice. They are all inside without the step, too, and with an
assumed scatter of 1, 2 or 3 %, each assumption worth 1, 2 or 4; without the bend, 8 of the 12 are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import optimize, stats

from bench.statistics.published import read_published

REACH = 2  # times the largest measured number of nodes; beyond that, `predict` refuses
FITTED_UP_TO = (8, 16, 32)  # nodes: where the twelve checks cut the published table
ASSUMED_SCATTER = 0.02  # relative standard deviation of a run
ASSUMED_RUNS = 2  # that it is worth, beside the measured ones
ASSUMED_BEND = float(np.log(2) / np.sqrt(12))  # standard deviation of log seconds, for each doubling
ASSUMED_FORECASTS = 2  # that it is worth, beside the model's own

TERMS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "1/N": lambda nodes: 1 / nodes,
    "1/N for N > 1": lambda nodes: (nodes > 1) / nodes,
    "1": lambda nodes: np.ones_like(nodes),
    "log2 N": lambda nodes: np.log2(nodes),
    "N-1": lambda nodes: nodes - 1,
}
SHAPES = (
    ("1/N", "1"),
    ("1/N", "1", "log2 N"),
    ("1/N", "1", "N-1"),
    ("1/N", "1", "1/N for N > 1"),
    ("1/N", "1", "1/N for N > 1", "log2 N"),
    ("1/N", "1", "1/N for N > 1", "N-1"),
)

Points = Sequence[tuple[int, float]]  # (nodes, seconds per iteration); several of one node count are repeats


@dataclass(frozen=True)
class Curve:
    """One shape fitted to one arm. `terms` are keys of TERMS; () is the power law, with coefficients (log a, -p)."""

    terms: tuple[str, ...]
    coefficients: tuple[float, ...]
    weight: float  # Akaike's, of all curves of this arm; they sum to 1

    def log_seconds(self, nodes: np.ndarray) -> np.ndarray:
        values = _columns(self.terms, nodes) @ np.array(self.coefficients)
        return np.log(values) if self.terms else values


@dataclass(frozen=True)
class Fit:
    """All shapes fitted to one arm, and what the arms together tell about being wrong."""

    curves: tuple[Curve, ...]
    scatter: float  # relative standard deviation of one run
    bend: float  # standard deviation of log seconds for each doubling beyond the largest measured number of nodes
    degrees_of_freedom: float  # of `bend`
    nodes: tuple[int, ...]  # the node counts that were measured, ascending


@dataclass(frozen=True)
class Prediction:
    """Seconds per iteration at `nodes`, and the interval in which a new single run is expected to fall."""

    nodes: int
    seconds: float
    low: float
    high: float

    @property
    def factor(self) -> float:
        """The width: `high` is `seconds` times this, `low` is `seconds` divided by it."""
        return self.high / self.seconds


@dataclass(frozen=True)
class Check:
    """One measured row held against the prediction from rows of up to `fitted_up_to` nodes."""

    allocator: str
    fitted_up_to: int
    measured_seconds: float
    prediction: Prediction

    @property
    def error(self) -> float:
        return self.prediction.seconds / self.measured_seconds - 1

    @property
    def inside(self) -> bool:
        return self.prediction.low <= self.measured_seconds <= self.prediction.high

    @property
    def times_fitted(self) -> float:
        """How many times the largest fitted number of nodes this row has."""
        return self.prediction.nodes / self.fitted_up_to


def fit(arms: Mapping[str, Points]) -> dict[str, Fit]:
    """Fit all shapes to every arm. `arms` maps a name to its (nodes, seconds) points.

    Raises ValueError, in one sentence, where there are too few points or impossible ones.
    """
    for name, points in arms.items():
        if any(n < 1 or not np.isfinite(s) or s <= 0 for n, s in points):
            raise ValueError(f"{name}: a scaling model needs nodes >= 1 and seconds > 0, not {list(points)}")
        if len(_node_counts(points)) < 3:
            raise ValueError(
                f"{name}: a scaling model needs at least 3 different node counts, not {_node_counts(points)}; "
                "add some to the sweep, as in nodes=1,2,4,8"
            )
    scatter = _scatter(arms)
    forecasts = [forecast for points in arms.values() for forecast in _forecasts(points, scatter)]
    freedom = ASSUMED_FORECASTS + sum(doublings**2 for doublings, _ in forecasts)
    squares = ASSUMED_FORECASTS * ASSUMED_BEND**2 + sum(error**2 for _, error in forecasts)
    return {
        name: Fit(
            curves=_curves(points, scatter),
            scatter=scatter,
            bend=float(np.sqrt(squares / freedom)),
            degrees_of_freedom=freedom,
            nodes=tuple(_node_counts(points)),
        )
        for name, points in arms.items()
    }


def predict(fitted: Fit, nodes: Sequence[int], confidence: float = 0.95, reach: float = REACH) -> list[Prediction]:
    """Predict seconds per iteration, with the interval (default 95 %) of one further run.

    Time is positive and its errors are relative, so the interval is taken on the logarithm, with Student's t. Beyond
    `reach` times the largest measured number this raises ValueError: there another term may lead than in any measured
    row (at several hundred nodes others saw the gain of an allocator shrink and change its sign), and an interval that
    holds all of that says nothing. The checks give a larger `reach`, to see how the intervals grow.
    """
    smallest, largest = min(fitted.nodes), max(fitted.nodes)
    for n in nodes:
        if n < smallest:
            raise ValueError(
                f"nodes={n} was not measured, and fewer nodes cannot be predicted from more; add nodes={n} to the sweep"
            )
        if n > reach * largest:
            raise ValueError(
                f"nodes={n} is more than {reach:g} times the largest measured number of nodes, {largest}, "
                f"so its time cannot be known; measure nodes={-(-n // 2)} or more first"
            )
    at = np.array(nodes, dtype=float)
    mean, between = _average(fitted.curves, at)
    beyond = np.maximum(0.0, np.log2(at / largest))
    error = np.sqrt(between + fitted.scatter**2 + (fitted.bend * beyond) ** 2)
    quantile = float(stats.t.ppf(0.5 + confidence / 2, fitted.degrees_of_freedom))
    # Points that contradict each other may ask for more than exp can hold; e^50 says "no idea" well enough.
    seconds, factor = np.exp(mean), np.exp(np.minimum(quantile * error, 50.0))
    return [Prediction(int(n), float(s), float(s / f), float(s * f)) for n, s, f in zip(nodes, seconds, factor)]


def check_published(path: Path | None = None) -> list[Check]:
    """Fit the published rows of up to 8, 16 and 32 nodes, and hold all larger ones against what that predicts: twelve."""
    published = read_published(path)
    checks = []
    for cut in FITTED_UP_TO:
        fits = fit({name: [(n, s) for n, s in points if n <= cut] for name, points in published.items()})
        for name, points in published.items():
            larger = [(n, s) for n, s in points if n > cut]
            ahead = predict(fits[name], [n for n, _ in larger], reach=float("inf"))
            checks += [Check(name, cut, measured, p) for (_, measured), p in zip(larger, ahead)]
    return checks


def track_record() -> str:
    """One sentence on how far off the model was, and how wide its intervals, where the answer is known."""
    checks = check_published()
    near, far = (
        (max(abs(c.error) for c in some), [c.prediction.factor for c in some])
        for some in ([c for c in checks if (c.times_fitted > REACH) == beyond] for beyond in (False, True))
    )
    cuts = f"{', '.join(map(str, FITTED_UP_TO[:-1]))} or {FITTED_UP_TO[-1]}"
    return (
        f"Fitted to the published rows of up to {cuts} nodes, it was off by up to {100 * near[0]:.0f} % at twice as many (intervals of a "
        f"factor {min(near[1]):.1f} to {max(near[1]):.1f} either way) and {100 * far[0]:.0f} % further out ({min(far[1]):.1f} to "
        f"{max(far[1]):.1f}); {sum(c.inside for c in checks)} of {len(checks)} rows lay inside."
    )


def _node_counts(points: Points) -> list[int]:
    return sorted({int(n) for n, _ in points})


def _columns(terms: Sequence[str], nodes: np.ndarray) -> np.ndarray:
    """What the coefficients multiply, [nodes, terms]."""
    if not terms:
        return np.stack([np.ones_like(nodes), np.log(nodes)], axis=1)
    return np.stack([TERMS[term](nodes) for term in terms], axis=1)


def _solve(points: Points) -> list[tuple[tuple[str, ...], np.ndarray, float]]:
    """Every shape that these points can tell: its terms, its coefficients, the sum of its squared relative residuals."""
    nodes = np.array([n for n, _ in points], dtype=float)
    seconds = np.array([s for _, s in points], dtype=float)
    design = _columns((), nodes)
    line = np.linalg.lstsq(design, np.log(seconds), rcond=None)[0]
    solved: list[tuple[tuple[str, ...], np.ndarray, float]] = [
        ((), line, float(np.sum((np.log(seconds) - design @ line) ** 2)))
    ]
    for terms in SHAPES:
        design = _columns(terms, nodes) / seconds[:, None]
        if np.linalg.matrix_rank(design) == len(terms):  # too few node counts, or none of them 1: some terms look alike
            coefficients, norm = optimize.nnls(design, np.ones_like(seconds))
            solved.append((terms, coefficients, float(norm**2)))
    return solved


def _scatter(arms: Mapping[str, Points]) -> float:
    """Relative standard deviation of a run: around each arm's closest curve, and what is assumed before."""
    squares, freedom = ASSUMED_RUNS * ASSUMED_SCATTER**2, ASSUMED_RUNS
    for points in arms.values():
        _, coefficients, residual = min(_solve(points), key=lambda solved: solved[2])
        free = len(points) - int(np.count_nonzero(coefficients))
        if free > 0:  # a curve that can go through every point tells nothing
            squares, freedom = squares + residual, freedom + free
    return float(np.sqrt(squares / freedom))


def _curves(points: Points, scatter: float) -> tuple[Curve, ...]:
    """The shapes with their Akaike weights at a known scatter: exp(-squares / (2 scatter^2) - number of coefficients)."""
    solved = _solve(points)
    logs = np.array([-squares / (2 * scatter**2) - len(coefficients) for _, coefficients, squares in solved])
    weights = np.exp(logs - logs.max())
    return tuple(
        Curve(terms, tuple(float(c) for c in coefficients), float(weight))
        for (terms, coefficients, _), weight in zip(solved, weights / weights.sum())
    )


def _average(curves: Sequence[Curve], nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The weighted mean of the curves' log seconds at `nodes`, and the weighted variance around it."""
    weights = np.array([curve.weight for curve in curves])
    logs = np.stack([curve.log_seconds(nodes) for curve in curves])
    mean = weights @ logs
    return mean, weights @ (logs - mean) ** 2


def _forecasts(points: Points, scatter: float) -> list[tuple[float, float]]:
    """For each node count but the first three: doublings from the one before, and measured over predicted (logarithm)."""
    counts, found = _node_counts(points), []
    for last, count in zip(counts[2:], counts[3:]):
        curves = _curves([(n, s) for n, s in points if n <= last], scatter)
        mean, _ = _average(curves, np.array([count], dtype=float))
        measured = np.mean([np.log(s) for n, s in points if n == count])
        found.append((float(np.log2(count / last)), float(measured - mean[0])))
    return found
