"""Verdicts in words: of one arm against another, and of a result that another was to reproduce."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bench.statistics.cells import nodes_text
from bench.statistics.pairing import Pair
from bench.statistics.reproduction import Agreement
from bench.statistics.stats import FEW_BLOCKS, NAN, Ratio, verdict

TOO_WIDE = math.e - 1  # an interval that reaches 172 % to each side says nothing
FASTER, SMALLER = ("faster", "slower"), ("smaller", "larger")  # what a ratio above 1 is, and one below


def verdict_text(ratio: Ratio | None) -> str:
    """The verdict in a cell of a table: its word, and for "no difference" what it is not larger than."""
    if ratio is None:
        return "invalid"
    said = verdict(ratio)
    return f"{said.word} larger than {_percent(said.reach)}" if said.word == "no difference" else said.word


def verdict_sentence(ratio: Ratio, arm: str, reference: str, directions: tuple[str, str] = FASTER) -> str:
    """What the interval supports, with the figures; without a full stop, for a clause may follow."""
    said = verdict(ratio)
    if ratio.num_blocks == 1 or math.isnan(ratio.low):
        seen = _times(ratio, arm, reference, directions)
        return f"cannot tell: {seen} in one block; only more blocks show how much runs differ"
    if ratio.says_nothing:
        seen = f"ratio {_figures(ratio.value, NAN, NAN)}, with an interval unknown: the {ratio.num_blocks} blocks disagree too much"
        return f"cannot tell {arm} from {reference}: {seen}; look for what disturbed them, or add blocks"
    figures = _figures(ratio.value, ratio.low, ratio.high)
    if said.word == "no difference":
        return f"{arm} against {reference}: {verdict_text(ratio)} (ratio {figures})"
    if said.word != "cannot tell":
        return _times(ratio, arm, reference, directions)
    smallest = (
        "only differences of more than twofold"
        if ratio.smallest_detectable > 1
        else f"only differences from {_percent(ratio.smallest_detectable)} on"
    )
    return f"cannot tell {arm} from {reference}: ratio {figures}; with this noise {ratio.num_blocks} blocks show {smallest}"


def pair_sentence(pair: Pair) -> str:
    if pair.ratio is None:
        return f"no comparison of {pair.arm} with {pair.reference}: {pair.invalid}"
    return verdict_sentence(pair.ratio, pair.arm, pair.reference)


def memory_sentence(pair: Pair) -> str:
    """The same of peak memory; empty where there is no comparison."""
    if pair.memory is None:
        return ""
    return verdict_sentence(pair.memory, f"peak memory of {pair.arm}", f"that of {pair.reference}", SMALLER)


def note(ratio: Ratio) -> str:
    """Why to be careful with an interval; empty where there is no reason."""
    if math.isnan(ratio.low):
        return "only 1 block of single values: nothing repeats, so there is no interval"
    if ratio.num_blocks == 1:
        return "only 1 block: the interval is too narrow, for it knows the noise within runs but not how runs differ"
    if ratio.num_blocks < FEW_BLOCKS:
        return (
            f"only {ratio.num_blocks} blocks: how much blocks differ is hardly known, and the interval is wide for it"
        )
    return ""


def show(ratio: Ratio) -> str:
    if math.isnan(ratio.low):
        return f"{ratio.value:.2f}x (one run, no interval)"
    return f"{ratio.value:.2f}x [{ratio.low:.2f}, {ratio.high:.2f}]"


def agreement_sentence(one: Agreement, tolerance: float) -> str:
    """What ``one`` is of, and why its word is that word."""
    if one.why:
        return f"{one.word} because {one.why}"
    nodes, arm, simulated = one.point
    seen = " in A, ".join(show(side) if isinstance(side, Ratio) else f"{side:.4g} s/it" for side in one.seen) + " in B"
    what = f"{arm} at {nodes_text(nodes, simulated)}: {seen}"
    if one.other_arm:
        return f"{one.word} because {arm} is not the same arm in both (library, version or settings); {what}"
    apart, half = f"{one.away:+.1%} apart", one.half
    single = f"{' and '.join(one.singles)} {'is a single run' if len(one.singles) == 1 else 'are single runs'}, whose spread is not known"
    if one.word == "not reproduced":
        surely = f"which is surely more than {tolerance:.0%} apart"
        sure = f"{apart}, more than {tolerance:.0%}, but {single}" if one.singles else surely
        return f"{one.word}: {what}, {sure}{_though(one.conditions)}"
    if one.word == "within tolerance":
        return f"{one.word}: {what}, {apart}{f', and {single}' * bool(one.singles)}{_though(one.conditions)}"
    if one.word == "reproduced":
        return f"{one.word}: {what}, {apart} ±{half:.1%}, all of it within {tolerance:.0%}"
    needed = (
        f"about {one.blocks} blocks on each side would decide"
        if one.blocks
        else "more than 1000 blocks on each side would be needed"
    )
    if half > TOO_WIDE:
        return f"{one.word} because the intervals are too wide to tell: {what}; {needed}"
    return f"{one.word} because {apart} ±{half:.1%} is neither surely within {tolerance:.0%} nor surely outside: {what}; {needed}"


def _though(conditions: Sequence[str]) -> str:
    return f", though {'; '.join(conditions)} differ{'s' * (len(conditions) == 1)} (A, B)" if conditions else ""


def _percent(difference: float) -> str:
    """Rounded up, since it stands for a bound; never "0.0 %"."""
    return f"{max(math.ceil(difference * 1000 - 1e-6), 1) / 10:.1f} %"


def _figures(value: float, low: float, high: float) -> str:
    digits = 3 if abs(value - 1) < 0.1 and abs(high - low) < 0.1 else 2
    if math.isnan(low):
        return f"{value:.{digits}f}"
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _times(ratio: Ratio, arm: str, reference: str, directions: tuple[str, str]) -> str:
    value, low, high, direction = ratio.value, ratio.low, ratio.high, directions[0]
    if value < 1:  # 0.8x faster reads as faster: turn it round
        value, low, high, direction = 1 / value, 1 / high, 1 / low, directions[1]
    figures, _, limits = _figures(value, low, high).partition(" ")
    return f"{arm} is {figures}x {limits + ' ' if limits else ''}{direction} than {reference}"
