"""Tables over several sections: one question under several C libraries and interpreters, and one on several hosts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.host.likeness import host_class
from bench.job.errors import printable
from bench.job.identity import identity, is_amount
from bench.job.job import canonical, to_dict
from bench.job.quantities import count, mebibytes, nodes_text, number
from bench.process.cpus import cpu_numbers
from bench.report.tables import Table, gain_words
from bench.report.verdicts import verdict_text
from bench.statistics.cells import Cell
from bench.statistics.pairing import Pair
from bench.workloads.catalogue import workload_of

if TYPE_CHECKING:
    from bench.statistics.grouping import Section

SOFTWARE_TITLE = "C libraries and PyTorch versions compared"
UNDER = "Allocator,Version,glibc,PyTorch,Python,Sec/it,Minor faults,System time,Huge pages,Speed-up,95% CI,Blocks,Verdict".split(
    ","
)
ANSWER = {
    "faster": "faster under the newest too",
    "slower": "slower under the newest",
    "cannot tell": "inconclusive under the newest",
    "no difference": "equivalent under the newest",
    "invalid": "no valid comparison under the newest",
}
HOSTS_TITLE = "Hosts compared"
HOSTS_LEGEND = "Times of different hosts are not comparable; ratios may be. Each host has a section of its own."
ON_HOST = "Speed-up,95% CI,Verdict,CPU,Cores,Versions,Kernel,C library,Page size,Huge pages,PyTorch,Result".split(",")


# ---- under several C libraries and interpreters


def software_tables(found: Sequence[Section]) -> list[tuple[list[str], Table]]:
    """Return sentences and a table for each configuration and host with two C libraries or interpreters.

    Return sentences and a table for each configuration and host that ran under two C libraries or interpreters, the reference first; of
    each arm the oldest software first."""
    groups: dict[str, list[Section]] = {}
    for section in found:
        if section.pairs and workload_of(section.job).uses_pytorch:
            groups.setdefault(_but_for_software(section), []).append(section)
    made = []
    for group in groups.values():
        if len({_software(section) for section in group}) < 2:
            continue
        rows = [(section, cell, _pair_of(section, cell)) for section in group for cell in section.cells]
        arms = [section.reference for section in group] + [p.arm for section in group for p in section.pairs]
        place = {arm: n for n, arm in enumerate(dict.fromkeys([*arms, *(cell.arm for _, cell, _ in rows)]))}
        rows.sort(key=lambda row: (place[row[1].arm], row[1].nodes, [_order(text) for text in _software(row[0])]))
        made.append((_software_sentences(rows), Table(UNDER, [_under(*row) for row in rows], SOFTWARE_TITLE)))
    return made


def _software(section: Section) -> tuple[str, str, str]:
    host = section.host
    return str(host["system"]["glibc"]), str(host["packages"].get("torch")), str(host["python"]["version"])


def _order(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)))


def _but_for_software(section: Section) -> str:
    """Return what two sections must share: all that records of one section share, but C library, image, interpreter and its packages."""
    host = {
        **section.host,
        "system": {**section.host["system"], "glibc": None},
        "image": None,
        "packages": {**section.host["packages"], "torch": None},
        "python": {**section.host["python"], "version": None},
    }
    return canonical([identity(to_dict(section.job)), host_class([host])])


def _pair_of(section: Section, cell: Cell) -> Pair | None:
    """Return the comparison of an arm; None for the reference."""
    return next((pair for pair in section.pairs if (pair.arm, pair.at) == (cell.arm, cell.at)), None)


def _under(section: Section, cell: Cell, pair: Pair | None) -> list[str]:
    ratio = pair.ratio if pair else None
    name = f"{cell.arm}{f', {cell.nodes} nodes' if cell.nodes > 1 else ''}"
    faults, kernel = cell.of_micro_batch("minor_faults"), cell.of_micro_batch("system_seconds")
    return [
        *(name, cell.version[:24], *_software(section), number(cell.sec_per_it.value), count(faults), number(kernel)),
        *(mebibytes(cell.huge_bytes), *(gain_words(ratio) if pair else ("1", "-"))),
        *(str(ratio.num_blocks) if ratio else "-", verdict_text(ratio) if pair else "baseline"),
    ]


def _software_sentences(rows: Sequence[tuple[Section, Cell, Pair | None]]) -> list[str]:
    """Return for each arm what it was worth under the oldest software and what it is worth under the newest."""
    said = []
    for arm, nodes in dict.fromkeys((pair.arm, pair.nodes) for _, _, pair in rows if pair):
        mine = [(section, pair) for section, _, pair in rows if pair and (pair.arm, pair.nodes) == (arm, nodes)]
        if len(mine) < 2:
            continue
        ends = mine[0], mine[-1]
        names = [
            (f"glibc {glibc}", f"PyTorch {torch}") for glibc, torch, _ in (_software(section) for section, _ in ends)
        ]
        differ = [i for i in range(2) if names[0][i] != names[1][i]] or [1]
        gains = ", ".join(
            f"{' ('.join(gain_words(pair.ratio))}) under {' and '.join(name[i] for i in differ)}"
            for (_, pair), name in zip(ends, names)
        )
        said.append(f"{arm}{f' at {nodes} nodes' if nodes > 1 else ''}: {gains}: {ANSWER[mine[-1][1].word]}")
    return said


# ---- on several hosts


def host_tables(found: Sequence[Section]) -> list[Table]:
    """Return a table for each comparison that was made on several hosts, the one with the most hosts first; the largest gain first.

    None where all records are of one host, whatever ran on it.
    """
    with_pairs = [section for section in found if section.pairs]
    if len({host_class([{**section.host, "python": None, "packages": None}]) for section in with_pairs}) < 2:
        return []
    asked: dict[str, tuple[Mapping[str, Any], list[tuple[Section, Pair]]]] = {}
    for section in with_pairs:
        for pair in section.pairs:
            key = _question(section, pair)
            asked.setdefault(canonical(key), (key, []))[1].append((section, pair))
    ordered = sorted(asked.values(), key=lambda one: -len(one[1]))
    titles = [_title(*rows[0], question) for question, rows in ordered]
    tables = []
    for (question, rows), title in zip(ordered, titles):
        same = [other for (other, _), theirs in zip(ordered, titles) if theirs == title]
        keys = sorted(key for key in question if any(other.get(key) != question[key] for other in same))
        apart = f" ({', '.join(f'{key}={question[key]}' for key in keys)})" if keys else ""
        rows.sort(key=lambda row: -row[1].ratio.value if row[1].ratio else 0.0)
        left = ("Verdict", "CPU", "Versions", "Kernel", "Result")
        tables.append(Table(ON_HOST, [_on_host(*row) for row in rows], printable(title + apart), left))
    return tables


def _question(section: Section, pair: Pair) -> dict[str, Any]:
    """Return what makes it that experiment, by dotted names, the arm's settings among them."""
    reference, arm = (cell.records[0]["job"] for cell in section.both(pair))
    job = {key: value for key, value in identity(arm).items() if not is_amount(key)}
    # The names of the settings: in a section an arm with two libraries has two labels.
    names = {"arm": arm["allocator"]["name"], "reference": reference["allocator"]["name"]}
    settings = {f"arm.{key}": arm["allocator"][key] for key in ("library", "env")}
    return {**job, **names, **settings, "nodes": pair.nodes, "simulated": pair.simulated}


def _title(section: Section, pair: Pair, question: Mapping[str, Any]) -> str:
    what = workload_of(section.job).title(section.job)
    return f"{what}: {question['arm']} against {question['reference']}, {nodes_text(*pair.at)}"


def _on_host(section: Section, pair: Pair) -> list[str]:
    host, both = section.host, section.both(pair)
    cpu, memory, system = host["cpu"], host["memory"], host["system"]
    versions = "; ".join(f"{cell.arm} {cell.version or 'unknown'}" for cell in reversed(both))
    results = {
        Path(record["path"]).parent.parent.name
        for cell in section.cells
        if cell.at == pair.at
        for record in cell.records
    }
    page = f"{memory['page_bytes'] // 1024} KiB" if memory["page_bytes"] else None
    cores = len(cpu_numbers(cpu["affinity"])) or cpu["logical"]
    facts = cpu["model"] or host["machine"], cores, versions, system["kernel"], system["glibc"], page, memory["thp"]
    known = ("unknown" if fact is None else str(fact) for fact in (*facts, host["packages"].get("torch")))
    return [*gain_words(pair.ratio), pair.word, *known, ", ".join(sorted(results))]
