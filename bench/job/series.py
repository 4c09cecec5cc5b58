"""The mean of a series of autocorrelated samples, and its standard error.

Standard library only: a rank stops by it, and the readers of records take their intervals from it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean


def correlation_factor(samples: Sequence[float]) -> float:
    """Return the variance of the mean as a multiple of s^2/n: (1 + r) / (1 - r), r the lag-1 autocorrelation.

    glibc's faults alternate between two levels from one micro-batch to the next, so the series is taken as autoregressive of order 1
    (e.g. G. E. P. Box, G. M. Jenkins, "Time series analysis", 1976). The estimate of r from n samples is too small by about
    (1 + 4r)/n (M. H. Quenouille, Biometrika 36, 1949), which is corrected, and it is clipped to [0, 0.9]: a negative r is not trusted
    to make the mean more precise than independent samples would.
    """
    n = len(samples)
    if n < 4:
        return 1.0
    mean = fmean(samples)
    away = [x - mean for x in samples]
    square = sum(a * a for a in away)
    if square == 0:
        return 1.0
    r = sum(a * b for a, b in zip(away, away[1:])) / square
    r = min(max((n * r + 1) / (n - 4) if n > 8 else r + 1 / n, 0.0), 0.9)
    return (1 + r) / (1 - r)


def standard_error(samples: Sequence[float]) -> float:
    """Return the standard error of the mean of two or more samples: sqrt(s^2/n * correlation_factor)."""
    n, mean = len(samples), fmean(samples)
    variance = sum((x - mean) ** 2 for x in samples) / (n - 1)
    return math.sqrt(variance / n * correlation_factor(samples))


def student_t(df: int, confidence: float = 0.95) -> float:
    """Return the two-sided quantile of Student's t.

    Exact for 1 and 2 degrees of freedom, else Cornish-Fisher's expansion in the normal quantile (Abramowitz and Stegun 26.7.5), within
    0.3 % from 3 degrees of freedom on.
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
    """Return half the 95 % interval of the mean, as a share of the mean; infinite for fewer than two samples."""
    if len(samples) < 2:
        return math.inf
    return student_t(len(samples) - 1) * standard_error(samples) / fmean(samples)
