"""From samples to a conclusion: intervals, ratios between arms paired by block, and a verdict.

The unit of repetition is the block (every arm once, in fresh processes), not the sample: samples of one process share
its heap layout, clock and neighbors, so a thousand of them say nothing about the next process (Kalibera & Jones,
"Rigorous benchmarking in reasonable time", ISMM 2013). A ratio is therefore formed within each block, and its
interval comes from how blocks disagree.

Why no bootstrap: its percentiles are too narrow for few blocks, and resampling the samples too counts their noise twice,
because the block means hold it already (Davison & Hinkley, "Bootstrap methods and their application", 1997, section
3.8). With both repaired, what is left is Student's t on the log ratios of the blocks. `validation/coverage.py` compares.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import nctdtrinc, stdtrit

from bench.job.series import correlation_factor, standard_error

FEW_BLOCKS = 5  # fewer than this are flagged, and their interval may not be narrower than that of the samples alone
MAX_BLOCKS = 10_000
FEWEST_BLOCKS = 3  # with two there is one degree of freedom, and t is 12.7 where it is 4.3 with three: an interval that tells nothing
SAYS_NOTHING = 10.0  # an interval that reaches beyond ten times its value is said in words: it limits nothing
LARGEST_EQUIVALENCE = 0.05  # "no difference larger than x" is a finding only up to this x
WORDS = ("faster", "slower", "no difference", "cannot tell")
NAN = float("nan")
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A value with its confidence limits, all in the unit of the samples; the limits are NaN for a single sample."""

    value: float
    low: float
    high: float

    def at_least(self, share: float) -> Interval:
        """Return the interval with limits no nearer to the value than ``share`` of it; NaN stays."""
        if math.isnan(self.low) or not share:
            return self
        return Interval(self.value, min(self.low, self.value / (1 + share)), max(self.high, self.value * (1 + share)))


@dataclass(frozen=True)
class Ratio:
    """reference/arm with confidence limits: 1.5 means that the arm takes 1/1.5 of the reference's time (or memory)."""

    value: float
    low: float  # NaN for one block, which does not show how runs differ
    high: float
    num_blocks: int
    smallest_detectable: float  # relative difference found with 80 % power, e.g. 0.03; NaN like the limits
    standard_error: float  # of log(value); of one block by its samples alone, NaN where it has a single sample
    degrees: float  # of freedom of the standard error
    confidence: float = CONFIDENCE

    @property
    def says_nothing(self) -> bool:
        return self.high > SAYS_NOTHING * self.value

    def at_least(self, share: float) -> Ratio:
        """Return the ratio with limits no nearer to it than ``share``, and a standard error that has such limits."""
        if math.isnan(self.low) or not share:
            return self
        error = max(self.standard_error, math.log1p(share) / _t(self.degrees))
        half = _t(self.degrees) * error
        return replace(
            self,
            low=self.value * bounded_exp(-half),
            high=self.value * bounded_exp(half),
            standard_error=error,
            smallest_detectable=_smallest_detectable(error, self.degrees),
        )


@dataclass(frozen=True)
class Verdict:
    """``word``: one of WORDS.

    ``reach``: the largest relative difference that the interval holds, which is what "no difference" is not larger than; NaN
    where there is no interval.
    """

    word: str
    reach: float


def mean_interval(samples: Sequence[float]) -> Interval:
    """Student's t interval on the mean of samples (any unit) that are independent.

    Raises ValueError for no samples or samples that are not finite.
    """
    values = _finite(samples, "samples")
    mean = float(values.mean())
    if len(values) < 2:
        return Interval(mean, NAN, NAN)
    half = _t(len(values) - 1) * float(values.std(ddof=1)) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half)


def time_interval(samples: Sequence[float]) -> Interval:
    """Student's t interval on the mean of positive, perhaps autocorrelated samples (seconds) of one run, on the scale of logarithms.

    Its limits are mean/f and mean*f, so that no time is below zero. It covers the noise within this run alone. Raises ValueError for
    no samples or samples that are not finite and positive.
    """
    values = _positive(samples, "samples")
    mean = float(values.mean())
    if len(values) < 2:
        return Interval(mean, NAN, NAN)
    half = _t(len(values) - 1) * standard_error(values.tolist()) / mean
    return Interval(mean, mean * bounded_exp(-half), mean * bounded_exp(half))


def ratio(reference: Sequence[Sequence[float]], arm: Sequence[Sequence[float]]) -> Ratio:
    """Return how many times less time (or memory) the arm takes than the reference, paired by block.

    Element b of `reference` and of `arm` holds the steady samples of block b (seconds, or bytes; one sample is
    enough). The value is the geometric mean over blocks of mean(reference[b]) / mean(arm[b]); whatever slows a whole
    block cancels. The limits are Student's t on the logarithms of those, B-1 degrees of freedom. Raises ValueError
    for unequal or no blocks, or for samples that are not finite and positive.

    With fewer than five blocks the samples within blocks have an interval too, as if no two runs differed (Welch's t, its
    degrees of freedom over all blocks, B-1 at the least), and the wider of the two is taken: three runs that agree by luck
    otherwise give a narrow one. Taking the wider is a convention for few studies (Jackson, Law, Ruecker & Schwarzer, Stat.
    Med. 36:3923, 2017). Never narrower than Student's t of the blocks, it covers the true value as often. One block has
    no limits: its samples do not show how runs differ.
    """
    if len(reference) != len(arm):
        raise ValueError(
            f"the reference has {len(reference)} blocks, the allocator {len(arm)}: pass only blocks with both"
        )
    if len(reference) == 0:
        raise ValueError("there are no blocks to compare: pass at least one block with both")
    sides = zip(_log_means(reference, " of the reference"), _log_means(arm, " of the allocator"))
    pairs = [(one - two, *_mean_variance([within, other])) for (one, within), (two, other) in sides]
    log_ratios = np.array([pair[0] for pair in pairs])
    num_blocks = len(pairs)
    centre = float(log_ratios.mean())
    variance, degrees = _of_a_block(log_ratios.tolist(), [(2 * pair[1], pair[2]) for pair in pairs])
    error = math.sqrt(variance / num_blocks)
    half = NAN if num_blocks == 1 else _t(degrees) * error
    return Ratio(
        value=bounded_exp(centre),
        low=bounded_exp(centre - half),
        high=bounded_exp(centre + half),
        num_blocks=num_blocks,
        smallest_detectable=NAN if num_blocks == 1 else _smallest_detectable(error, degrees),
        standard_error=error,
        degrees=degrees,
    )


@dataclass(frozen=True)
class LogMean:
    """The mean of a logarithm over independent runs, its standard error, and the degrees of freedom of that.

    ``error`` is NaN where nothing repeats; ``single``: there is one run, whose error says nothing about how runs differ.
    """

    value: float
    error: float
    degrees: float
    num_blocks: int

    @property
    def single(self) -> bool:
        return self.num_blocks == 1


def log_mean(blocks: Sequence[Sequence[float]]) -> LogMean:
    """Return the mean time of blocks (samples of one process each): what stands for an arm that has nothing to be paired with.

    The block is what repeats, so the error is of the blocks' means; with fewer than five it is that of the samples within where
    those give the wider interval, as in `ratio`. Raises ValueError for no blocks, or samples that are not finite and positive.
    """
    if len(blocks) == 0:
        raise ValueError("there are no blocks: pass at least one")
    means, within = zip(*_log_means(blocks))
    variance, degrees = _of_a_block(means, within)
    return LogMean(float(np.mean(means)), math.sqrt(variance / len(means)), degrees, len(means))


def of_ratio(one: Ratio) -> LogMean:
    return LogMean(math.log(one.value), one.standard_error, one.degrees, one.num_blocks)


def difference(one: LogMean, two: LogMean) -> tuple[float, float]:
    """Return ``two - one``, and half its interval by Welch's degrees of freedom. An error that is not known counts as none."""
    parts = [(0.0 if math.isnan(side.error) else side.error, side.degrees) for side in (one, two)]
    total = math.hypot(parts[0][0], parts[1][0])
    if total == 0:
        return two.value - one.value, 0.0
    degrees = total**4 / sum(error**4 / df for error, df in parts)
    return two.value - one.value, _t(degrees) * total


def deciding_blocks(one: LogMean, two: LogMean, limit: float, most: int = 1000) -> int | None:
    """Return how many blocks on each side bring the interval of `difference` wholly within +-limit or wholly outside.

    The difference and the spread stay what they are; None where ``most`` would not.
    """
    margin = abs(limit - abs(two.value - one.value))
    spreads = [0.0 if math.isnan(side.error) else side.error * math.sqrt(side.num_blocks) for side in (one, two)]
    for blocks in range(2, most + 1):
        sides = [LogMean(0.0, spread / math.sqrt(blocks), blocks - 1.0, blocks) for spread in spreads]
        if difference(sides[0], sides[1])[1] <= margin:
            return blocks
    return None


def needed_blocks(ratio: Ratio, half_width: float, min_blocks: int = FEW_BLOCKS) -> int:
    """Return how many blocks in all bring the interval to value / (1 + half_width) ... value * (1 + half_width), e.g. 0.04.

    It is the smallest B >= min_blocks with t(B-1) * s / sqrt(B) <= log(1 + half_width), where s is the spread between
    the blocks so far, or what the samples within suggest where they govern: measuring is done when the answer is not
    above `ratio.num_blocks`. It looks at width alone and never at where the interval lies: stopping when a difference
    becomes significant would find one always. A lucky narrow width costs coverage when min_blocks is small
    (`validation/coverage.py` measures how much). From one block it answers with what the samples suggest. At most 10,000.
    """
    if math.isnan(ratio.standard_error):
        return min_blocks
    spread = ratio.standard_error * math.sqrt(ratio.num_blocks)
    wanted = math.log1p(half_width) * (1 + 1e-12)
    enough = (b for b in range(min_blocks, MAX_BLOCKS) if _t(b - 1) * spread / math.sqrt(b) <= wanted)
    fewest = next(enough, max(MAX_BLOCKS, min_blocks))
    # Few blocks whose samples govern are better known than so few blocks tell.
    done = ratio.num_blocks >= min_blocks and _t(ratio.degrees) * ratio.standard_error <= wanted
    return min(fewest, ratio.num_blocks) if done else fewest


def verdict(ratio: Ratio, margin: float = 0.02) -> Verdict:
    """Return what the interval supports.

    An interval that lies wholly within +-margin is "no difference" even if it excludes 1: a difference that small is not worth a
    switch, and asking for more than significance keeps A/A comparisons quiet (equivalence by interval inclusion: Schuirmann,
    J. Pharmacokinet. Biopharm. 15:657, 1987). It is claimed for what reaches up to 5 %. A single block is never enough for a
    direction: it does not show how much two runs of one arm differ.
    """
    if math.isnan(ratio.low):
        return Verdict("cannot tell", NAN)
    reach = max(ratio.high, 1 / ratio.low) - 1
    if ratio.says_nothing:
        return Verdict("cannot tell", reach)
    if reach > margin and (ratio.low > 1 or ratio.high < 1):
        return Verdict("faster" if ratio.low > 1 else "slower", reach)
    return Verdict("no difference" if reach <= max(margin, LARGEST_EQUIVALENCE) else "cannot tell", reach)


def outliers(samples: Sequence[float]) -> list[bool]:
    """Return which samples lie far out; for showing them, never for deleting them.

    Modified z-score |x - median| / (1.4826 * MAD) above 3.5 (Iglewicz & Hoaglin, "How to detect and handle outliers",
    ASQC 1993). When more than half of the samples are equal the MAD is 0, and 1.2533 * mean absolute deviation takes
    its place. Fewer than three samples have no outliers. Raises ValueError for no samples or samples that are not
    finite.
    """
    values = _finite(samples, "samples")
    distance = np.abs(values - np.median(values))
    scale = 1.4826 * float(np.median(distance)) or 1.2533 * float(distance.mean())
    if len(values) < 3 or scale == 0:
        return [False] * len(values)
    return [bool(far) for far in distance / scale > 3.5]


def finite(value: float) -> float | None:
    """Return ``value``, or None where JSON could not hold it."""
    return value if math.isfinite(value) else None


def _finite(samples: Sequence[float], what: str) -> np.ndarray:
    values = np.asarray(samples, dtype=float)
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"{what}: expected a list of at least one number, got an array of shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{what}: sample {int(np.argmin(np.isfinite(values)))} is not a finite number")
    return values


def _positive(samples: Sequence[float], what: str) -> np.ndarray:
    values = _finite(samples, what)
    if values.min() <= 0:
        raise ValueError(f"{what}: sample {values.min():g} is not positive, and is no time and no size")
    return values


def _t(degrees: float) -> float:
    return float(stdtrit(degrees, 0.5 + CONFIDENCE / 2))


def _of_a_block(logs: Sequence[float], within: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return the variance of one block's logarithm, and its degrees of freedom.

    ``within``: of each block both by its samples; NaN for a single sample. The samples of B blocks have B-1 degrees of freedom at
    the least: autocorrelation already enlarged their variance, and would else be counted twice.
    """
    known = [part for part in within if not math.isnan(part[0])]
    variance, degrees = _mean_variance(known) if known else (NAN, 1.0)
    of_samples = (variance, max(degrees, len(logs) - 1.0))
    if len(logs) == 1:
        return of_samples
    of_blocks = (float(np.var(logs, ddof=1)), len(logs) - 1.0)
    if len(logs) >= FEW_BLOCKS or not known:
        return of_blocks
    return max(of_blocks, of_samples, key=lambda one: _t(one[1]) * math.sqrt(one[0]))


def _mean_variance(parts: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return the mean of variances, and its degrees of freedom (Welch, Biometrika 34, 1947)."""
    total = sum(variance for variance, _ in parts)
    divisor = sum(variance**2 / degrees for variance, degrees in parts)
    return total / len(parts), total**2 / divisor if divisor > 0 else sum(degrees for _, degrees in parts)


def _log_means(blocks: Sequence[Sequence[float]], of: str = "") -> list[tuple[float, tuple[float, float]]]:
    """Return of each block the logarithm of the mean, and of that the variance by the samples within, and its degrees of freedom.

    By the delta method, var(mean) / mean^2; NaN for one sample. Autocorrelated samples count as fewer independent ones, as for a rank
    when it stops.
    """
    found = []
    for block, samples in enumerate(blocks):
        values = _positive(samples, f"block {block}{of}")
        listed = values.tolist()
        within = (NAN, NAN)
        if len(listed) > 1:
            error = standard_error(listed) / (sum(listed) / len(listed))
            within = (error**2, max(1.0, len(listed) / correlation_factor(listed) - 1))
        found.append((math.log(float(values.mean())), within))
    return found


def _smallest_detectable(error: float, degrees: float) -> float:
    """Return the true relative difference that a two-sided 5 % t test finds with 80 % power; `error` is of the log ratio.

    The noncentrality at which a noncentral t exceeds its critical value in 80 % of cases, times the standard error of
    the log ratio (Cohen, "Statistical power analysis", 1988, chapter 2; Bloom's minimum detectable effect, Eval. Rev.
    19:547, 1995, is its approximation by central t, 14 % too small for two blocks).
    """
    if math.isnan(error):
        return NAN
    return bounded_exp(float(nctdtrinc(degrees, 0.2, _t(degrees))) * error) - 1


def bounded_exp(x: float) -> float:
    return x if math.isnan(x) else math.exp(min(max(x, -700.0), 700.0))  # two wild blocks would overflow a float
