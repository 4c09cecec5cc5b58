"""Verdicts in words: of one arm against another, of a result that another was to reproduce, and of a gate."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bench.job.quantities import nodes_text, percent_bound
from bench.statistics.gate import Gated
from bench.statistics.pairing import Pair
from bench.statistics.reproduction import Agreement
from bench.statistics.stats import FEW_BLOCKS, NAN, Ratio, verdict

TOO_WIDE = math.e - 1  # an interval that reaches 172 % to each side limits nothing
FASTER, SMALLER = ("faster", "slower"), ("smaller", "larger")  # what a ratio above 1 is, and one below


def verdict_text(ratio: Ratio | None) -> str:
    """Return the verdict in a cell of a table: its word, and for "no difference" what it is not larger than."""
    if ratio is None:
        return "invalid"
    found = verdict(ratio)
    return f"{found.word} larger than {percent_bound(found.reach)}" if found.word == "no difference" else found.word


def verdict_sentence(ratio: Ratio, arm: str, reference: str, directions: tuple[str, str] = FASTER) -> str:
    """Return what the interval supports, with the figures; without a full stop, because a clause may follow."""
    word, figures = verdict(ratio).word, _figures(ratio.value, ratio.low, ratio.high)
    if math.isnan(ratio.low):
        seen = _times(ratio, arm, reference, directions)
        return f"cannot tell: {seen} in one block; only more blocks show how much runs differ"
    if ratio.says_nothing:
        seen = f"ratio {_figures(ratio.value, NAN, NAN)}, with an interval unknown: the {ratio.num_blocks} blocks disagree too much"
        return f"cannot tell {arm} from {reference}: {seen}; look for what disturbed them, or add blocks"
    if word == "no difference":
        return f"{arm} against {reference}: {verdict_text(ratio)} (ratio {figures})"
    if word != "cannot tell":
        return _times(ratio, arm, reference, directions)
    smallest = (
        "of more than twofold"
        if ratio.smallest_detectable > 1
        else f"from {percent_bound(ratio.smallest_detectable)} on"
    )
    return f"cannot tell {arm} from {reference}: ratio {figures}; with this noise {ratio.num_blocks} blocks show only differences {smallest}"


def pair_sentence(pair: Pair) -> str:
    if pair.ratio is None:
        return f"no comparison of {pair.arm} with {pair.reference}: {pair.invalid}"
    return verdict_sentence(pair.ratio, pair.arm, pair.reference)


def note(ratio: Ratio) -> str:
    """Return a caution about the interval, or an empty string."""
    if ratio.num_blocks == 1:
        return "only 1 block: there is no interval before a second shows how runs differ"
    if ratio.num_blocks < FEW_BLOCKS:
        return f"only {ratio.num_blocks} blocks: between-block variance is poorly estimated, hence the wide interval"
    return ""


def show(ratio: Ratio) -> str:
    if math.isnan(ratio.low):
        return f"{ratio.value:.2f}x (one run, no interval)"
    return f"{ratio.value:.2f}x [{ratio.low:.2f}, {ratio.high:.2f}]"


def agreement_sentence(one: Agreement, tolerance: float) -> str:
    """Return what ``one`` is of, and why its word is that word."""
    nodes, arm, simulated = one.point
    seen = " in A, ".join(show(side) if isinstance(side, Ratio) else f"{side:.4g} s/it" for side in one.seen) + " in B"
    what = f"{arm} at {nodes_text(nodes, simulated)}: {seen}"
    if one.why:
        return f"{one.word} because {one.why}" + (f"; {what}" if any(one.seen) else "")
    apart = f"{one.away:+.1%} apart"
    known = "" if one.singles else f" ±{one.half:.1%}"  # one run has no interval
    single = f"{' and '.join(one.singles)} {'is a single run' if len(one.singles) == 1 else 'are single runs'}, whose spread is unknown"
    though = f", though {'; '.join(one.conditions)} differ{'s' * (len(one.conditions) == 1)} (A, B)" * bool(
        one.conditions
    )
    if one.word == "not reproduced":
        far = (
            f"{apart}, more than {tolerance:.0%}, but {single}"
            if one.singles
            else f"significantly more than {tolerance:.0%} apart"
        )
        return f"{one.word}: {what}, {far}{though}"
    if one.word == "within tolerance":
        return f"{one.word}: {what}, {apart}{f', and {single}' * bool(one.singles)}{though}"
    if one.word == "reproduced":
        return f"{one.word}: {what}, {apart}{known}, all of it within {tolerance:.0%}"
    needed = f"about {one.blocks} blocks" if one.blocks else "more than 1000 blocks"
    reason = (
        f"{apart}{known} crosses the tolerance of {tolerance:.0%}"
        if one.half <= TOO_WIDE
        else "the intervals are too wide"
    )
    return f"{one.word} because {reason}: {what}; {needed} on each side would decide"


def gate_sentences(found: Sequence[Gated], limit: float) -> list[str]:
    """Return a sentence for each verdict of a gate, and one for all of them."""
    words, said = [one.word for one in found], [gate_sentence(one, limit) for one in found]
    if "failed" in words:
        return [*said, f"The gate failed: {words.count('failed')} of {len(words)}, exit code 1."]
    if "undecided" in words:
        return [*said, f"The gate is undecided for {words.count('undecided')} of {len(words)}, and none failed."]
    return [*said, f"The gate passed: none of {len(words)} takes more than {limit:.1%} more time."]


def gate_sentence(one: Gated, limit: float) -> str:
    nodes, arm, simulated = one.point
    what = f"{one.word}: {arm} at {nodes_text(nodes, simulated)}" if arm else one.word
    if one.slower is None:
        return f"{what}: {one.why}."
    measure = "its own time" if one.of_times else "its time, as a share of the reference's,"
    change = f"{measure} changed by {one.slower.value:+.1%}"
    if math.isnan(one.slower.low):
        return f"{what}: {change}, but {one.why}; measure 5 blocks on each side, repeat=0,1,2,3,4."
    figures = f"{change} (95 %: {one.slower.low:+.1%} to {one.slower.high:+.1%})"
    if one.word != "undecided":
        return (
            f"{what}: {figures}, all of it {'beyond' if one.word == 'failed' else 'below'} the limit of {limit:+.1%}."
        )
    needed = f"about {one.blocks}" if one.blocks else "more than 1000"
    return f"{what}: {figures} crosses the limit of {limit:+.1%}; {needed} blocks on each side would decide."


def _figures(value: float, low: float, high: float) -> str:
    digits = 3 if abs(value - 1) < 0.1 and abs(high - low) < 0.1 else 2
    return f"{value:.{digits}f}" if math.isnan(low) else f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _times(ratio: Ratio, arm: str, reference: str, directions: tuple[str, str]) -> str:
    value, low, high, direction = ratio.value, ratio.low, ratio.high, directions[0]
    if value < 1:  # 0.8x faster reads as faster: turn it round
        value, low, high, direction = 1 / value, 1 / high, 1 / low, directions[1]
    figures, _, limits = _figures(value, low, high).partition(" ")
    return f"{arm} is {figures}x {limits + ' ' if limits else ''}{direction} than {reference}"
