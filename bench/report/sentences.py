"""What was found in a section, in sentences: made once, for the terminal, report.md, the page and --json."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.host.products import SLOW, gain
from bench.job.quantities import count, nodes_text, number, percent, seconds
from bench.report.verdicts import SMALLER, note, pair_sentence, verdict_sentence
from bench.statistics.cause import Cause
from bench.statistics.costs import stock_gain, stock_seconds
from bench.statistics.pairing import Losses, Pair
from bench.statistics.published import published_seconds
from bench.workloads.catalogue import WORKLOADS, workload_of

if TYPE_CHECKING:
    from bench.record.records import Record
    from bench.statistics.cells import Cell
    from bench.statistics.grouping import Section

HUGE_BYTES = 64 << 20  # of huge pages: less is the interpreter's and the libraries' own


# ---- the answer


def verdict_sentences(section: Section) -> list[str]:
    """Return a sentence for each comparison, with the gain on the math library's default path; without a ratio, the reason."""
    if section.arms and not workload_of(section.job).compares_times:
        return ["No arm is called faster or slower: these times are not those of the program."]
    said = []
    for pair in section.pairs:
        gain_there = gain_by_default(section, pair)
        usual = f"; about {gain_there:.2f}x for a program started in the usual way" if gain_there else ""
        said.append(_begun(section, pair, f"{pair_sentence(pair).rstrip('.')}{usual}."))
    if not said and len(section.arms) == 1:
        return [*(measured_sentence(section, cell) for cell in section.cells), next_step(section)]
    why = "no two arms ran at the same number of nodes" if section.arms else "no run ended well"
    return said or [f"Nothing to compare: {why}."]


def gain_by_default(section: Section, pair: Pair) -> float | None:
    """Return the ratio as it would be on the math library's default path; None where it is not significant, or the path no other."""
    if pair.ratio is None or pair.word not in ("faster", "slower"):
        return None
    return stock_gain(section.both(pair), pair.ratio.value, section.host)


def head_sentences(section: Section) -> list[str]:
    """Return what goes with the verdict: the reader's own gain, the lines for the job script, and the spread of the runs."""
    return [*default_path_sentences(section), *setting_sentences(section), *spread_sentences(section)]


def default_path_sentences(section: Section) -> list[str]:
    """Return what the host's math library costs where it is slow by default, and why the gain is another there."""
    found = _slow_products(section)
    if not found:
        return []
    full, stock = found["full"], found["stock"]
    said = (
        f"{full['library']} {full['version']} takes its {stock['path']} path by default on this CPU: {stock['product_gflops']:.0f} GFLOP/s "
        f"in place of {full['product_gflops']:.0f}."
    )
    added = [(seconds, cell) for cell in section.cells if (seconds := stock_seconds(cell, section.host))]
    if added:
        times = sorted({f"{1 + seconds / cell.sec_per_it.value:.1f}" for seconds, cell in added}, key=float)
        return [
            f"{said} So a program like this one, started in the usual way, takes about {' to '.join(times[:: len(times) - 1 or 1])} times as "
            "long, in which the allocator saves the same seconds (by counting operations, not measured)."
        ]
    if section.job.launch.blas == "stock":
        said += " These runs took that path (launch.blas=stock), which hides a part of what an allocator does."
    return [said]


def setting_sentences(section: Section) -> list[str]:
    """Return the lines for the job script: of the fastest arm that is significantly faster, and of the math library."""
    faster = [(pair.ratio.value, pair) for pair in section.pairs if pair.ratio and pair.word == "faster"]
    lines = []
    if faster:
        _, best = max(faster, key=lambda one: one[0])
        words = setting_words(section.both(best)[1].records[0])
        lines.append(f"`{shlex.join(['env', *words])}` before the command ({best.arm})")
    if shell_line(section):
        says = section.host["products"]["full"]["shell_says"].rstrip(".")
        lines.append(f"`{shell_line(section)}` ({says})")
    return [f"For your job script: {'; and '.join(lines)}."] if lines else []


def shell_line(section: Section) -> str | None:
    """Return the line that gives a program a faster path of the math library; None where none does, or none is needed."""
    found = _slow_products(section)
    return found["full"]["shell_line"] if found else None


def _slow_products(section: Section) -> Mapping[str, Any] | None:
    """Return the host's products where the library is slow by default; None else."""
    found = section.host.get("products")
    return found if found and gain(found) > SLOW else None


def setting_words(record: Record) -> list[str]:
    """Return the arm's environment as it was in force, NAME=VALUE each, and its preload."""
    allocator, proof = record["job"]["allocator"], record["ranks"][0]["proof"]
    dropped = proof.get("dropped", [])
    env = {key: value for key, value in allocator["env"].items() if key not in dropped}
    env.update(pair for name in dropped for pair in (allocator.get("instead") or {}).get(name, {}).items())
    words = [f"{key}={value}" for key, value in sorted(env.items())]
    if allocator["library"]:
        # The file; the soname is a link beside it that outlives an upgrade. A pack cuts the folder.
        folder, _, name = proof["malloc_library"].rpartition("/")
        soname = next((one for one in allocator["library"].split(",") if one and name.startswith(one)), name)
        words.append(f"LD_PRELOAD={folder}/{soname}" if folder.startswith("/") else f"LD_PRELOAD={soname}")
    return words


def spread_sentences(section: Section) -> list[str]:
    """Return one line for each number of nodes: every arm's fastest and slowest run."""
    said: dict[str, list[str]] = {}
    for cell in section.cells:
        if cell.extremes:
            low, high = (seconds(value).split() for value in cell.extremes)
            runs = f"{cell.arm} {low[0]}{f' {low[1]}' * (low[1] != high[1])} to {' '.join(high)}"
            where = f" at {nodes_text(*cell.at)}" * (cell.at != (1, False))
            each = said.setdefault(where, [])
            each.append(runs if each else f"{runs} per {cell.unit}")
    return [f"From run to run{where}: {', '.join(each)}." for where, each in said.items()]


def measured_sentence(section: Section, cell: Cell) -> str:
    """Return what one arm alone took, beside the published row where the workload is the published one."""
    interval = cell.sec_per_it
    limits = f" (95 %: {number(interval.low)} to {number(interval.high)})" if cell.num_blocks > 1 else ""
    said = f"{cell.arm} at {nodes_text(*cell.at)}: {number(interval.value)} s per iteration{limits}"
    theirs = published_seconds(section, cell.arm, cell.nodes)
    return said + (f"; the published table has {number(theirs)} s, one run on another machine." if theirs else ".")


def next_step(section: Section) -> str:
    """Return the command that adds the arm to compare with. It is a sweep that this run is a part of, so that it is not run again."""
    arm, image = section.arms[0], section.host.get("image") or {}
    other = "tcmalloc" if arm == "glibc" else "glibc"
    # The words before the overrides are those that the reader typed: another command would be another image, or none.
    if image.get("sif"):
        how = f"apptainer run {Path(image['sif']).name}"
    else:
        how = "the same `docker run` with" if image.get("built_by") == "docker" else "mallocost"
    return (
        f"One arm alone is not compared with anything: {how} -m +allocator=glibc,{other if arm == 'glibc' else arm} (and the other words of "
        f"this command, if there were any) adds {other} to this block, and runs only what is missing."
    )


# ---- why


def cause_sentences(section: Section) -> list[str]:
    """Return one for each comparison of two blocks or more: one shows no difference that could be explained."""
    explained = [(c, c.cause) for c in section.pairs if c.cause and c.ratio and c.ratio.num_blocks > 1]
    return [_begun(section, c, cause_sentence(cause, c.reference, c.arm)) for c, cause in explained]


def cause_sentence(cause: Cause, reference: str, arm: str) -> str:
    """Return where the time that ``arm`` saves or loses went, as measured, and whether its page faults predict that."""
    whole, unit = cause.whole, "an iteration" if len(cause.phases) > 1 else f"a {cause.phases[0].phase}"
    faults = f"{count(abs(whole.minor_faults))} {'fewer' if whole.minor_faults >= 0 else 'more'} minor faults {unit}"
    if not cause.significant:
        return f"{arm} against {reference}: no significant difference to explain; {arm} has {faults}."
    what = "saved" if whole.seconds > 0 else "lost"
    said = (
        f"{arm}: of the {seconds(abs(whole.seconds))} {what} {unit}, {percent(cause.kernel_share)} is system CPU time, "
        f"{percent(cause.user_share)} user CPU time and {percent(1 - cause.kernel_share - cause.user_share)} waiting"
    )
    if whole.minor_faults * whole.seconds <= 0:
        check = f"page faults are not the cause: {arm} has {faults}"
    elif cause.fault_seconds is None:
        check = f"{arm} has {faults}, whose cost was not measured"
    elif cause.predicted_seconds is None:
        check = f"{arm} has {faults}, whose cost is lost in the noise of this host"
    else:
        figures = f"{faults} at {cause.fault_seconds * 1e6:.2f} µs each predict {seconds(abs(cause.predicted_seconds))}"
        check = figures if cause.agrees else f"{figures}, which does not agree: the cause is not page faults alone"
    huge = ""
    if max(cause.huge_bytes) > HUGE_BYTES:
        before, after = (size / 2**20 for size in cause.huge_bytes)
        huge = f" Huge pages served {after:,.0f} MiB in place of {before:,.0f}, which saves address translation too."
    return f"{said}; {check}.{huge}"


# ---- notes


def memory_sentences(section: Section) -> list[str]:
    return [
        _begun(
            section, c, f"{verdict_sentence(c.memory, f'peak memory of {c.arm}', f'that of {c.reference}', SMALLER)}."
        )
        for c in section.pairs
        if c.memory
    ]


def notes_of(section: Section) -> list[str]:
    """Return what goes with the numbers: notes of the statistics, losses, cautions."""
    few = dict.fromkeys(filter(None, (note(c.ratio) for c in section.pairs if c.ratio)))
    unpaired = sum(c.unpaired_blocks for c in section.pairs)
    said = [f"{words[0].upper()}{words[1:]}." for words in few]
    said += [f"{unpaired} blocks lack one arm of a comparison and are left out of it."] if unpaired else []
    return said + losses_sentences(section.losses) + list(section.cautions)


def losses_sentences(checks: Sequence[Losses]) -> list[str]:
    """Return a sentence for each number of nodes; one for all of them where all is well."""
    several = [check for check in checks if check.num_records > 1]
    if len(several) > 1 and not any(check.disagreeing for check in several):
        worst = max(several, key=lambda check: check.largest_difference)
        compared = sum(check.num_compared for check in several)
        return [
            f"At each number of nodes all records follow the same losses, {agreement(worst)} ({compared} values compared)."
        ]
    return [WORKLOADS[check.workload].agreement(check) for check in checks]


def agreement(check: Losses) -> str:
    return "bit for bit" if check.bit_for_bit else f"to {check.largest_difference:.1g} relative, not bit for bit"


def row_name(section: Section, pair: Pair) -> str:
    """``tcmalloc``, or ``tcmalloc, 2 nodes`` where the number of nodes is not plain."""
    return f"{pair.arm}, {nodes_text(*pair.at)}" if _several_nodes(section, pair) else pair.arm


def _begun(section: Section, pair: Pair, sentence: str) -> str:
    """Return the sentence with its number of nodes, where that is not plain, and a capital, unless it begins with an arm's name."""
    text = f"at {nodes_text(*pair.at)} {sentence}" if _several_nodes(section, pair) else sentence
    return text[0].upper() + text[1:] if text.startswith(("at ", "cannot ", "no ", "peak ")) else text


def _several_nodes(section: Section, pair: Pair) -> bool:
    return pair.simulated or len({c.at for c in section.pairs}) > 1
