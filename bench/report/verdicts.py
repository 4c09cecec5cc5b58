"""Verdicts in words: of one arm against another, of a result that another was to reproduce, and of a gate."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bench.job.quantities import nodes_text, percent_bound
from bench.statistics.gate import Gated
from bench.statistics.pairing import Pair
from bench.statistics.reproduction import Agreement
from bench.statistics.stats import FEW_BLOCKS, Ratio, verdict

TOO_WIDE = math.e - 1  # an interval that reaches 172 % to each side limits nothing


def verdict_text(ratio: Ratio | None) -> str:
    """Return the verdict in a cell of a table."""
    if ratio is None:
        return "invalid"
    found = verdict(ratio)
    if found.word == "no difference":
        return f"equivalent within {percent_bound(found.reach)}"
    return "inconclusive" if found.word == "cannot tell" else found.word


def verdict_sentence(ratio: Ratio, arm: str, reference: str, where: str = "", more: str = "") -> str:
    """Return what the interval supports, with its figures, and no full stop.

    ``where`` and ``more`` follow the names and the number of blocks: " at 2 nodes", ", losses identical".
    """
    word, blocks = verdict(ratio).word, blocks_text(ratio.num_blocks) + more
    if word in ("faster", "slower"):
        seen = ratio.value, ratio.low, ratio.high
        if word == "slower":  # 0.8x faster reads as faster: turn it round
            seen = 1 / ratio.value, 1 / ratio.high, 1 / ratio.low
        times, limits = _figures(*seen)
        return f"{arm} is {times}x {word} than {reference}{where} (95% CI {limits}, {blocks})"
    if word == "no difference":
        reach = percent_bound(verdict(ratio).reach)
        return f"equivalent: {arm} and {reference} differ by {reach} at most{where} (95% CI, {blocks})"
    times, limits = _figures(ratio.value, ratio.low, ratio.high)
    what = f"inconclusive: {arm} {times}x vs. {reference}{where}"
    if math.isnan(ratio.low):
        return f"{what} (no CI: needs 2 blocks{more})"
    if ratio.says_nothing:
        return f"{what} (no CI: the {blocks_text(ratio.num_blocks)} disagree too much{more})"
    least = ratio.smallest_detectable
    can = f"can detect {percent_bound(least)} or more" if least <= 1 else "can detect a factor of 2 or more"
    return f"{what} (95% CI {limits}, {blocks}; {can})"


def pair_sentence(pair: Pair, where: str = "", more: str = "") -> str:
    """Return the verdict on two arms, or why they are not compared."""
    if pair.ratio is None:
        return f"no comparison of {pair.arm} with {pair.reference}{where}: {pair.invalid.rstrip('.')}"
    return verdict_sentence(pair.ratio, pair.arm, pair.reference, where, more)


def blocks_text(blocks: int) -> str:
    return f"{blocks} block{'s' * (blocks != 1)}"


def note(ratio: Ratio) -> str:
    """Return a caution about the interval, or an empty string."""
    return f"only {blocks_text(ratio.num_blocks)}" if ratio.num_blocks < FEW_BLOCKS else ""


def show(ratio: Ratio) -> str:
    if math.isnan(ratio.low):
        return f"{ratio.value:.2f}x (one run, no CI)"
    return f"{ratio.value:.2f}x (95% CI {ratio.low:.2f} to {ratio.high:.2f})"


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
    figures = f"{change} (95% CI {one.slower.low:+.1%} to {one.slower.high:+.1%})"
    if one.word != "undecided":
        return (
            f"{what}: {figures}, all of it {'beyond' if one.word == 'failed' else 'below'} the limit of {limit:+.1%}."
        )
    needed = f"about {one.blocks}" if one.blocks else "more than 1000"
    return f"{what}: {figures} crosses the limit of {limit:+.1%}; {needed} blocks on each side would decide."


def _figures(value: float, low: float, high: float) -> tuple[str, str]:
    """Return a ratio and its limits, with more digits where they are near 1."""
    digits = 3 if abs(value - 1) < 0.1 and abs(high - low) < 0.1 else 2
    return f"{value:.{digits}f}", f"{low:.{digits}f} to {high:.{digits}f}"
