"""How seconds per iteration fall with the number of nodes: a model, its predictions, and how wrong they were before.

The model is that of a fixed amount of work shared by N nodes (strong scaling; Amdahl 1967), plus waiting:

    t(N) = a/N + b + wait(N),   wait(N) = d/N for N > 1, 0 for N = 1,   a, b, d >= 0   [seconds per iteration]

- a/N  the micro-batches, which the nodes share: the cost of the whole global batch on one node.
- b    what no node is spared: the gradient all-reduce (a ring moves 2(N-1)/N times the gradients' bytes, nearly
       constant in N: Patarasuk and Yuan 2009) and the optimizer, which every node runs on all parameters.
- d/N  what each micro-batch costs more as soon as there is company. It is there because the published table has it:
       with glibc the cost per node jumps by a quarter from one node to two and then stays; with tcmalloc hardly.

A term in log2(N) (waiting for the slowest of N) was tried on the published rows and left out: fitted on 1-16 nodes it
is zero for glibc, and for tcmalloc it doubles the error at 64. So the *shape* was chosen with all rows in sight, and
`check_published` below tests only the extrapolation of its coefficients, not the choice of the model.

Errors are relative (no run at one node is as exact, in seconds, as one at 64), so the fit is non-negative least squares
on predicted / measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import optimize, stats

from bench.analysis.published import read_published

Points = Sequence[tuple[int, float]]  # (nodes, seconds per iteration); several of one node count are repeats


@dataclass(frozen=True)
class Fit:
    """The model fitted to one arm. Seconds per iteration; `covariance` is that of (a, d, b), 3 x 3."""

    work_seconds: float  # a
    company_seconds: float  # d
    fixed_seconds: float  # b
    covariance: tuple[tuple[float, ...], ...]
    relative_error: float  # standard deviation of a point around the curve, as a fraction, pooled over the arms
    degrees_of_freedom: int
    nodes: tuple[int, ...]  # the node counts that were measured, ascending


@dataclass(frozen=True)
class Prediction:
    """Seconds per iteration at `nodes`, and the interval in which a new single run is expected to fall."""

    nodes: int
    seconds: float
    low: float
    high: float


@dataclass(frozen=True)
class Check:
    """One measured row held against the prediction made without it; `error` = predicted / measured - 1."""

    allocator: str
    measured_seconds: float
    prediction: Prediction
    error: float

    @property
    def inside(self) -> bool:
        return self.prediction.low <= self.measured_seconds <= self.prediction.high


def fit(arms: Mapping[str, Points]) -> dict[str, Fit]:
    """Fit the model to every arm. `arms` maps a name to its (nodes, seconds) points.

    The arms share one scatter, pooled from their residuals: they ran on the same hosts in the same sweep, and an arm
    with one run per node count has too few residuals to know its own. Raises ValueError, in one sentence, where there
    are too few points.
    """
    solved: dict[str, tuple[np.ndarray, np.ndarray]] = {}  # coefficients, and their covariance but for the variance
    squares, freedom = 0.0, 0
    for name, points in arms.items():
        nodes = np.array([n for n, _ in points], dtype=float)
        seconds = np.array([s for _, s in points], dtype=float)
        if np.any(nodes < 1) or not np.all(np.isfinite(seconds)) or np.any(seconds <= 0):
            raise ValueError(f"{name}: a scaling model needs nodes >= 1 and seconds > 0, not {list(points)}")
        if len(set(nodes)) < 3:
            raise ValueError(
                f"{name}: a scaling model needs at least 3 different node counts, "
                f"not {sorted({int(n) for n in nodes})}; add some to the sweep, as in nodes=1,2,4,8"
            )
        design = _terms(nodes) / seconds[:, None]
        coefficients, _ = optimize.nnls(design, np.ones_like(seconds))
        residuals = 1.0 - design @ coefficients
        squares += float(residuals @ residuals)
        freedom += len(seconds) - int(np.linalg.matrix_rank(design))
        solved[name] = (coefficients, np.linalg.pinv(design.T @ design))
    if freedom < 1:
        raise ValueError(
            "a scaling model needs more points than its three coefficients to know its own error; "
            "add node counts or repeats to the sweep, as in nodes=1,2,4,8 repeat=0,1,2"
        )
    variance = squares / freedom
    return {
        name: Fit(
            work_seconds=float(coefficients[0]),
            company_seconds=float(coefficients[1]),
            fixed_seconds=float(coefficients[2]),
            covariance=tuple(tuple(float(x) for x in row) for row in variance * inverse),
            relative_error=float(np.sqrt(variance)),
            degrees_of_freedom=freedom,
            nodes=tuple(sorted({int(n) for n, _ in arms[name]})),
        )
        for name, (coefficients, inverse) in solved.items()
    }


def predict(fitted: Fit, nodes: Sequence[int], confidence: float = 0.95) -> list[Prediction]:
    """Predict seconds per iteration, with the interval (default 95 %) of one further run.

    The interval holds the coefficients' uncertainty and the scatter of a run (Student's t). Time is positive and its
    errors are relative, so it is taken on the logarithm: it is wider upwards. It cannot know of a cause that the
    measured node counts do not show (another switch, a busier file system): a prediction is never a result.
    """
    if min(nodes, default=1) == 1 and 1 not in fitted.nodes:
        raise ValueError(
            "nodes=1 was not measured, and one node cannot be predicted from several; add nodes=1 to the sweep"
        )
    terms = _terms(np.array(nodes, dtype=float))
    seconds = terms @ np.array([fitted.work_seconds, fitted.company_seconds, fitted.fixed_seconds])
    variance = np.einsum("ni,ij,nj->n", terms, np.array(fitted.covariance), terms)
    variance += (fitted.relative_error * seconds) ** 2
    quantile = float(stats.t.ppf(0.5 + confidence / 2, fitted.degrees_of_freedom))
    # An arm whose coefficients are all but unknown may exceed what exp can hold; e^50 says "no idea" well enough.
    factor = np.exp(np.minimum(quantile * np.sqrt(variance) / seconds, 50.0))
    return [Prediction(int(n), float(s), float(s / f), float(s * f)) for n, s, f in zip(nodes, seconds, factor)]


def check_published(fitted_up_to: int = 16, path: Path | None = None) -> list[Check]:
    """Fit the published rows of up to `fitted_up_to` nodes and compare the larger ones with what that predicts."""
    published = read_published(path)
    fits = fit({name: [(n, s) for n, s in points if n <= fitted_up_to] for name, points in published.items()})
    checks = []
    for name, points in published.items():
        larger = [(n, s) for n, s in points if n > fitted_up_to]
        for (_, measured), prediction in zip(larger, predict(fits[name], [n for n, _ in larger])):
            checks.append(Check(name, measured, prediction, prediction.seconds / measured - 1))
    return checks


def honesty() -> str:
    """One sentence on how far off the model was where the answer is known."""
    checks = check_published()
    found = {
        name: ", ".join(f"{c.error:+.1%} at {c.prediction.nodes}" for c in checks if c.allocator == name)
        for name in dict.fromkeys(c.allocator for c in checks)
    }
    words = "; ".join(f"{name} {errors}" for name, errors in found.items())
    return f"Fitted on the published rows of 1 to 16 nodes, the same model is off by {words} nodes."


def _terms(nodes: np.ndarray) -> np.ndarray:
    """Columns that a, d, b multiply. Without a single-node point a and d cannot be told apart; their sum still can."""
    return np.stack([1 / nodes, (nodes > 1) / nodes, np.ones_like(nodes)], axis=1)
