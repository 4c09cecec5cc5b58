"""The figures of a run that is a list of samples, under the names that those of the GPT have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from bench.record.fields import COUNTERS
from bench.statistics.stats import finite, time_interval


def plain_figures(
    unit: str,
    samples: Sequence[float],
    counters: Mapping[str, float],
    peak_rss_bytes: int,
    notes: str = "",
    resolution: float = 0.0,
) -> dict[str, Any]:
    """Return times and counters of one ``unit`` (a step, a run), which takes the place of an iteration. ``samples`` are seconds.

    ``resolution``: the share by which their mean may be wrong, whatever their number; no interval is narrower.
    """
    seconds, interval = fmean(samples), time_interval(samples).at_least(resolution)
    counted = {counter: counters.get(counter, 0.0) for counter in COUNTERS}
    return {
        "sec_per_it": seconds,
        "samples": samples,
        **({"resolution": resolution} if resolution else {}),
        "sec_per_it_low": finite(interval.low),
        "sec_per_it_high": finite(interval.high),
        "micro_batch_seconds": seconds,
        "micro_batches_per_it": 1,
        "sampled_micro_batches": len(samples),
        "phases": {unit: {"seconds": seconds, **counted}},
        "mem_mib": None,
        "peak_rss_bytes": peak_rss_bytes,
        **{f"{counter}_per_it": value for counter, value in counted.items()},
        "losses": [],
        "ghz": None,
        "notes": notes,
    }
