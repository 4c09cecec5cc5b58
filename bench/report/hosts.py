"""The table of several hosts, in words: the ratio first, then what each host is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bench.job.errors import printable
from bench.process.cpus import cpu_numbers
from bench.report.tables import Table, gain_words
from bench.statistics.cells import nodes_text
from bench.statistics.hosts import OnHost, Question, side_by_side
from bench.workloads.catalogue import workload_of

if TYPE_CHECKING:
    from bench.statistics.grouping import Section

TITLE = "Hosts side by side"
LEGEND = "Seconds of two hosts do not compare; ratios may. Each host has its own section with everything that was measured on it."
HEADINGS = "Gain,95 %,Verdict,CPU,Cores,Versions,Kernel,C library,Page size,Huge pages,PyTorch,Result".split(",")
LEFT = ("Verdict", "CPU", "Versions", "Kernel", "Result")


def host_tables(found: Sequence[Section]) -> list[Table]:
    """A table for each question; none where all records are of one host."""
    asked = side_by_side(found)
    plain = [_title(question) for question in asked]
    return [
        Table(
            HEADINGS,
            [_row(one) for one in question.rows],
            title + (_apart(question, asked) if plain.count(title) > 1 else ""),
            LEFT,
        )
        for question, title in zip(asked, plain)
    ]


def _title(question: Question) -> str:
    job, pair = question.rows[0].section.job, question.rows[0].pair
    what = workload_of(job).title(job)
    return f"{what}: {question.arm} against {question.reference}, {nodes_text(pair.nodes, pair.simulated)}"


def _apart(question: Question, asked: Sequence[Question]) -> str:
    """What makes this question another one than those with the same title."""
    same = [other.job for other in asked if _title(other) == _title(question)]
    keys = sorted(key for key in question.job if any(other.get(key) != question.job[key] for other in same))
    return printable(f" ({', '.join(f'{key}={question.job[key]}' for key in keys)})")


def _row(one: OnHost) -> list[str]:
    host, pair = one.section.host, one.pair
    cpu, memory, system = host["cpu"], host["memory"], host["system"]
    versions = f"{pair.arm} {one.version or 'not told'}; {pair.reference} {one.reference_version or 'not told'}"
    cores = str(len(cpu_numbers(cpu["affinity"])) or cpu["logical"])
    page = f"{memory['page_bytes'] // 1024} KiB" if memory["page_bytes"] else None
    facts = system["kernel"], system["glibc"], page, memory["thp"], host["packages"].get("torch")
    return [
        *(*gain_words(pair), pair.word, _told(cpu["model"] or host["machine"]), cores, versions),
        *(*map(_told, facts), ", ".join(one.results)),
    ]


def _told(value: Any) -> str:
    return "not known" if value is None else str(value)
