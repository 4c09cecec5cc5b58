"""What the analysis found, in sentences: the cause of a difference, whether all records did the same work, how faults went over time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from bench.job.quantities import count, percent, seconds
from bench.job.series import correlation_factor
from bench.report.plot_data import Series, typical_jobs
from bench.statistics.cause import Cause
from bench.statistics.pairing import Losses
from bench.workloads.catalogue import WORKLOADS, workload_of

if TYPE_CHECKING:
    from bench.statistics.grouping import Section

MOST_BARS = 48  # of a line in report.md
BARS = "▁▂▃▄▅▆▇█"


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
            f"The model (page faults x their price) predicts more than that: {figures}, {share}; a fault costs less in the program than "
            "alone, or the rest is lost elsewhere."
        )
    return f"The model (page faults x their price) agrees: {figures}, {share}; {seconds(whole - tax)} are left unexplained."


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
            f"At each number of nodes all records follow the same losses, {agreement(worst)} "
            f"({sum(check.num_compared for check in several)} values compared)."
        ]
    return [WORKLOADS[check.workload].agreement(check) for check in checks]


def agreement(check: Losses) -> str:
    return "bit for bit" if check.bit_for_bit else f"to {check.largest_difference:.1g} relative, not bit for bit"


def over_time_sentences(section: Section) -> list[str]:
    """A line for each arm that is drawn: how far its counted micro-batches lie apart, and their faults as bars, in order."""
    return (
        []
        if "over_time" not in workload_of(section.job).pictures
        else [_over_time(job) for job in typical_jobs(section)]
    )


def _over_time(job: Series) -> str:
    took, faults, warm = job.seconds[job.steady], job.minor_faults[job.steady], job.num_warm_up
    alike = correlation_factor(took.tolist())
    words = (
        f"{job.arm}, block {job.block}: {len(took)} micro-batches after {warm} of warm-up, "
        f"{seconds(took.min())} to {seconds(took.max())}, "
        f"{count(faults.min())} to {count(faults.max())} minor faults each"
    )
    if alike > 1.05:
        words += f"; neighbours are alike, so that they are worth {len(took) / alike:.0f} independent ones"
    shown = bars(job.minor_faults[:MOST_BARS])
    return f"{words}. Faults from the start of the job, `|` where counting begins: `{shown[:warm]}|{shown[warm:]}`"


def bars(values: Iterable[float]) -> str:
    """A bar for each value, from 0 to the largest."""
    values = list(values)
    top = max([1, *values])
    return "".join(BARS[min(int(len(BARS) * value / top), len(BARS) - 1)] for value in values)
