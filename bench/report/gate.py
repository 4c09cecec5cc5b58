"""The verdicts of a gate in words."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bench.statistics.cells import nodes_text
from bench.statistics.gate import Gated


def sentences(found: Sequence[Gated], limit: float) -> list[str]:
    """A sentence for each verdict, and one for all of them."""
    said = [sentence(one, limit) for one in found]
    words = [one.word for one in found]
    if "failed" in words:
        return [*said, f"The gate failed: {words.count('failed')} of {len(words)}, exit code 1."]
    if "undecided" in words:
        return [*said, f"The gate is undecided for {words.count('undecided')} of {len(words)}, and none failed."]
    return [*said, f"The gate passed: none of {len(words)} takes more than {limit:.1%} more time."]


def sentence(one: Gated, limit: float) -> str:
    nodes, arm, simulated = one.point
    what = f"{one.word}: {arm} at {nodes_text(nodes, simulated)}" if arm else one.word
    if one.slower is None:
        return f"{what}: {one.why}."
    measure = "its own time" if one.of_times else "its time, as a share of the reference's,"
    change = f"{measure} changed by {one.slower.value:+.1%}"
    if math.isnan(one.slower.low):
        return f"{what}: {change}, but {one.why}; measure 5 blocks on each side, repeat=0,1,2,3,4."
    figures = f"{change} (95 %: {one.slower.low:+.1%} to {one.slower.high:+.1%})"
    if one.word == "failed":
        return f"{what}: {figures}, all of it beyond the limit of {limit:+.1%}."
    if one.word == "passed":
        return f"{what}: {figures}, all of it below the limit of {limit:+.1%}."
    needed = f"about {one.blocks}" if one.blocks else "more than 1000"
    return f"{what}: {figures} reaches over the limit of {limit:+.1%}; {needed} blocks on each side would decide."
