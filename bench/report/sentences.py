"""What was found in a section, in sentences, for the answer, report.md, the page and --json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.host.products import SLOW, gain, preload
from bench.job.quantities import count, nodes_text, number, percent, seconds
from bench.statistics.cause import Cause
from bench.statistics.costs import stock_gain
from bench.statistics.pairing import Pair
from bench.statistics.published import published_seconds

if TYPE_CHECKING:
    from bench.record.records import Record
    from bench.statistics.cells import Cell
    from bench.statistics.grouping import Section

HUGE_BYTES = 64 << 20  # of huge pages: less is the interpreter's and the libraries' own
MOST = 0.5  # of the time saved: what is less is not called the cause


def gain_by_default(section: Section, pair: Pair) -> float | None:
    """Return the ratio as it would be on the math library's default path; None where it is not significant, or the path no other."""
    if pair.ratio is None or pair.word not in ("faster", "slower"):
        return None
    return stock_gain(section.both(pair), pair.ratio.value, section.host)


def default_path_sentence(section: Section, pair: Pair | None = None) -> str:
    """Return what the math library's default path costs, the variable that changes it, and the speed-up of ``pair`` there.

    Empty where the default path is not slow."""
    found = _slow_products(section)
    if not found:
        return ""
    full, stock = found["full"], found["stock"]
    figures = f"{stock['product_gflops']:.0f} of {full['product_gflops']:.0f} GFLOP/s"
    said = f"{full['library']} takes its {stock['path']} path by default ({figures})"
    said += f": `{shell_line(section)}`" if shell_line(section) else ""
    there = gain_by_default(section, pair) if pair else None
    if there:
        return f"{said}; about {there:.2f}x without it" if shell_line(section) else f"{said}: about {there:.2f}x there"
    return f"{said}; these runs took it (launch.blas=stock)" if section.job.launch.blas == "stock" else said


def shell_line(section: Section) -> str | None:
    """Return the line that gives a program a faster path of the math library; None where none does, or none is needed."""
    found = _slow_products(section)
    return found["full"]["shell_line"] if found else None


def _slow_products(section: Section) -> Mapping[str, Any] | None:
    """Return the host's products where the library is slow by default; None else."""
    found = section.host.get("products")
    return found if found and gain(found) > SLOW else None


def setting_words(record: Record) -> list[str]:
    """Return the arm's environment as it was in force, NAME=VALUE each, and what is preloaded: the allocator, and the math library's path."""
    allocator, proof = record["job"]["allocator"], record["ranks"][0]["proof"]
    dropped = proof.get("dropped", [])
    env = {key: value for key, value in allocator["env"].items() if key not in dropped}
    env.update(pair for name in dropped for pair in (allocator.get("instead") or {}).get(name, {}).items())
    words, preloads = [f"{key}={value}" for key, value in sorted(env.items())], []
    if allocator["library"]:
        # The file; the soname is a link beside it that outlives an upgrade. A pack cuts the folder.
        folder, _, name = proof["malloc_library"].rpartition("/")
        soname = next((one for one in allocator["library"].split(",") if one and name.startswith(one)), name)
        preloads.append(f"{folder}/{soname}" if folder.startswith("/") else soname)
    if record["job"]["launch"]["blas"] == "full" and (path := preload(record["hosts"][0])):
        preloads.append(path)
    return words + [f"LD_PRELOAD={':'.join(preloads)}"] * bool(preloads)


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
    limits = f" (95% CI {number(interval.low)} to {number(interval.high)})" if cell.num_blocks > 1 else ""
    said = f"{cell.arm} at {nodes_text(*cell.at)}: {number(interval.value)} s per iteration{limits}"
    theirs = published_seconds(section, cell.arm, cell.nodes)
    return said + (f"; the published table has {number(theirs)} s, one run on another machine" if theirs else "")


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
        f"{how} -m +allocator=glibc,{other if arm == 'glibc' else arm} (and the other arguments of this command) adds {other} to compare "
        "with, and runs only what is missing"
    )


# ---- why


def cause_sentences(section: Section) -> list[str]:
    """Return one for each comparison of two blocks or more: one shows no difference that could be explained."""
    explained = [(c, c.cause) for c in section.pairs if c.cause and c.ratio and c.ratio.num_blocks > 1]
    return [f"{row_name(section, c)}: {cause_sentence(cause, c.reference, c.arm)}." for c, cause in explained]


def cause_sentence(cause: Cause, reference: str, arm: str) -> str:
    """Return the share of page faults in the time that ``arm`` saves or loses, as measured; without a full stop."""
    whole, unit = cause.whole, "iteration" if len(cause.phases) > 1 else cause.phases[0].phase
    faults = f"{count(abs(whole.minor_faults))} {'fewer' if whole.minor_faults >= 0 else 'more'} per {unit}"
    if not cause.significant:
        return f"no significant difference to explain; page faults: {faults}"
    what = "saved" if whole.seconds > 0 else "lost"
    part = percent(cause.kernel_share) if cause.kernel_share > 0 else "none"
    share = f"{part} of the time {what} is system CPU time"
    lead = "page faults" if cause.kernel_share >= MOST else "not page faults alone"
    if whole.minor_faults * whole.seconds <= 0:
        said = f"not page faults ({arm} has {faults}); {share}"
    elif cause.fault_seconds is None:
        said = f"{lead}: {faults} (cost not measured); {share}"
    elif cause.predicted_seconds is None:
        said = f"{lead}: {faults} (cost lost in the noise of this host); {share}"
    elif cause.agrees:
        said = f"{lead}: {faults}; {share}"
    else:
        predicted = cause.predicted_seconds / whole.seconds
        lead = "page faults" if predicted > 1 else "not page faults alone"
        said = f"{lead}: {faults} (the model predicts {percent(predicted)} of the time {what}); {share}"
    if max(cause.huge_bytes) > HUGE_BYTES:
        before, after = (size / 2**20 for size in cause.huge_bytes)
        said += f"; huge pages: {after:,.0f} MiB ({reference} {before:,.0f})"
    return said


def row_name(section: Section, pair: Pair) -> str:
    """``tcmalloc``, or ``tcmalloc, 2 nodes`` where the number of nodes is not plain."""
    return pair.arm + place(section, pair).replace(" at", ",")


def place(section: Section, pair: Pair) -> str:
    """Return " at 2 nodes"; empty where the number of nodes is plain."""
    plain = not pair.simulated and len({c.at for c in section.pairs}) == 1
    return "" if plain else f" at {nodes_text(*pair.at)}"
