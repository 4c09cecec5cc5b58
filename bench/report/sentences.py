"""What the analysis found, in sentences: the cause of a difference, and whether all records did the same work."""

from __future__ import annotations

from collections.abc import Sequence

from bench.job.words import count, percent, seconds
from bench.statistics.cause import Cause
from bench.statistics.cells import nodes_text
from bench.statistics.pairing import Losses


def cause_sentence(cause: Cause, reference: str, arm: str) -> str:
    """The cause of what ``arm`` gains or loses against ``reference``, with the figures that it rests on."""
    faults = f"{count(abs(cause.minor_faults))} minor faults {_a_unit(cause)}"
    against, state = f"{arm} against {reference}", cause.state
    if state == "no sure difference":
        than = "fewer" if cause.minor_faults >= 0 else "more"
        return f"{against}: there is no sure difference to explain; {arm} takes {faults} {than}."
    if state == "no price":
        return f"{against}: the cost of a fault was not measured, so that the difference is not explained."
    if state == "price in the noise":
        price = f"median {(cause.fault_seconds or 0.0) * 1e6:.2f} µs"
        return f"{against}: the cost of a fault drowns in the noise of this host ({price}), so that the difference is not explained."
    what, than = "gain" if cause.seconds > 0 else "loss", "fewer" if cause.minor_faults > 0 else "more"
    if state == "not faults":
        said = f"Page faults do not explain the {what}: {arm} takes {faults} {than} than {reference}."
    else:
        said = _by_the_model(cause, what, than)
    return " ".join([_by_clock(cause, arm, what), said, *([_what_else(cause)] if cause.leaves_a_rest else [])])


def _a_unit(cause: Cause) -> str:
    return f"a {cause.phases[0].name}" if len(cause.phases) == 1 else "an iteration"


def _by_the_model(cause: Cause, what: str, than: str) -> str:
    """What the faults make up, where they make up something."""
    tax, whole = abs(cause.tax_seconds or 0.0), abs(cause.seconds)
    of = "against" if cause.state == "more than all" else "of"
    figures = (
        f"{count(abs(cause.minor_faults))} {than} minor faults at {(cause.fault_seconds or 0.0) * 1e6:.2f} µs each are "
        f"{seconds(tax)} {of} the {seconds(whole)} {'gained' if cause.seconds > 0 else 'lost'} {_a_unit(cause)}"
    )
    of_it = cause.share or 0.0
    low, high = cause.share_range or (of_it, of_it)
    share = f"{percent(of_it)} of it ({percent(low)} to {percent(high)} over the blocks and the prices seen)"
    if cause.state == "clock disagrees":
        return (
            f"The model of page faults does not agree with that clock: {figures}, which would be {share}; so the {what} is not put down to "
            "page faults."
        )
    if cause.state == "more than all":
        return (
            f"Page faults account for more than all of the {what}: {figures}, {share}; a fault costs less in the program than alone, or the "
            "rest is lost elsewhere."
        )
    return f"By the model that is page faults: {figures}, {share}; {seconds(whole - tax)} are left unexplained."


def _by_clock(cause: Cause, arm: str, what: str) -> str:
    kernel, user = cause.kernel_share or 0.0, cause.user_share or 0.0
    return (
        f"{arm}: by the kernel's own clock {percent(kernel)} of the {what} of {seconds(abs(cause.seconds))} is time in the kernel, "
        f"{percent(user)} in the program, {percent(1 - kernel - user)} waiting."
    )


def _what_else(cause: Cause) -> str:
    """Evidence for what the tax leaves over: the phase it is in, and the kind of time that it is."""
    most = max(cause.phases, key=lambda phase: phase.left_seconds * (1 if cause.seconds > 0 else -1))
    left = seconds(abs(most.left_seconds))
    words = f"Most of the rest is in the {most.name} phase ({left})" if len(cause.phases) > 1 else f"The rest is {left}"
    tax = abs(cause.tax_seconds or 0.0)
    in_kernel = abs(cause.system_seconds) / cause.threads - tax
    if cause.system_seconds * cause.seconds > 0 and in_kernel > 0:
        words += f"; {seconds(in_kernel)} of it the kernel did work for beyond the price of these faults"
    if cause.user_seconds * cause.seconds > 0:
        words += f"; {seconds(abs(cause.user_seconds) / cause.threads)} is the program's own time, as when caches must be filled again"
    waiting = cause.seconds - (cause.system_seconds + cause.user_seconds) / cause.threads
    if waiting * cause.seconds > 0 and abs(waiting) > 0.05 * abs(cause.seconds):
        words += f"; {seconds(abs(waiting))} is cores that wait, as when one thread faults and the others have nothing to do meanwhile"
    differ = [one for one in cause.huge_faults if abs(one[1] - one[2]) > 0.01 * max(cause.minor_faults, 1e5)]
    if differ:
        by_size = ", ".join(f"{count(two)} of {size} in place of {count(one)}" for size, one, two in differ)
        words += f"; in a job the host's faults were served with huge pages, {by_size}"
    if max(cause.huge_bytes) > 64 << 20:
        before, after = (size / 2**20 for size in cause.huge_bytes)
        words += (
            f"; and huge pages served {after:,.0f} MiB in place of {before:,.0f}, which saves address translation too"
        )
    return words + "."


def losses_sentences(checks: Sequence[Losses]) -> list[str]:
    """One for each number of nodes; one for all of them where all is well."""
    several = [check for check in checks if check.num_records > 1]
    if len(several) > 1 and not any(check.disagreeing for check in several):
        worst = max(several, key=lambda check: check.largest_difference)
        return [
            f"At each number of nodes all records follow the same losses, {_agreement(worst)} "
            f"({sum(check.num_compared for check in several)} values compared)."
        ]
    return [_values_sentence(check) if check.of_program else _losses_sentence(check) for check in checks]


def _losses_sentence(check: Losses) -> str:
    where = f"At {nodes_text(check.nodes, check.simulated)}"
    if check.num_records < 2:
        return f"{where} there is one record, so no losses to compare."
    if check.disagreeing:
        return (
            f"{where} the losses of {', '.join(check.disagreeing)} disagree (by up to {check.largest_difference:.2g} relative): "
            "they did not do the same work, and no comparison with them is valid."
        )
    return f"{where} all {check.num_records} records follow the same losses, {_agreement(check)} ({check.num_compared} values compared)."


def _values_sentence(check: Losses) -> str:
    """Of a program: what program.check found in its output."""
    if check.disagreeing:
        differ = f"{check.largest_difference:.2g} relative"
        return f"{', '.join(check.disagreeing)} printed other values (by up to {differ}): no comparison is valid."
    if not check.num_compared:
        return f"All {check.num_records} runs ended as they should; what they computed was not compared (check='REGEX' compares a value)."
    return f"All {check.num_records} runs printed the same values, {_agreement(check)} ({check.num_compared} compared)."


def _agreement(check: Losses) -> str:
    return "bit for bit" if check.bit_for_bit else f"to {check.largest_difference:.1g} relative, not bit for bit"
