"""When the samples of one job are steady, and when there are enough of them.

Runs inside the rank between iterations, so standard library only and a few microseconds of work.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, stdev


def steady_start(samples: Sequence[float]) -> int:
    """Index of the first steady sample: the change point that the marginal standard error rule finds.

    MSER picks the truncation that minimises the squared standard error of the mean of what is left
    (K. P. White, "An effective truncation heuristic for bias reduction in simulation output", Simulation 69, 1997).
    At most half of the samples are given up: a series that is still falling then has no steady part, and the wide
    interval of what is left says so. At least two samples are left over.
    """
    best, best_error = 0, math.inf
    for start in range(len(samples) // 2 + 1):
        rest = samples[start:]
        if len(rest) < 2:
            break
        mean = fmean(rest)
        error = sum((x - mean) ** 2 for x in rest) / len(rest) ** 2
        if error < best_error:
            best, best_error = start, error
    return best


def student_t(df: int, confidence: float = 0.95) -> float:
    """Two-sided quantile of Student's t, for the stopping rule only (the driver's intervals come from SciPy).

    Exact for 1 and 2 degrees of freedom, else Cornish-Fisher's expansion in the normal quantile (Abramowitz and
    Stegun 26.7.5), within 0.3 % from 3 degrees of freedom on.
    """
    p = 0.5 + confidence / 2
    if df == 1:
        return math.tan(math.pi * (p - 0.5))
    if df == 2:
        a = 2 * p - 1
        return a * math.sqrt(2 / (1 - a * a))
    z = NormalDist().inv_cdf(p)
    g1 = (z**3 + z) / 4
    g2 = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    g3 = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    g4 = (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160
    return z + g1 / df + g2 / df**2 + g3 / df**3 + g4 / df**4


def relative_half_width(samples: Sequence[float]) -> float:
    """Half the 95 % interval of the mean, as a share of the mean; infinite for fewer than two samples."""
    if len(samples) < 2:
        return math.inf
    return student_t(len(samples) - 1) * stdev(samples) / math.sqrt(len(samples)) / fmean(samples)
