"""report.html: one file with everything in it, from the same parts as report.md, with pictures and facts beside."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from bench import __version__
from bench.host import likeness
from bench.job import identity
from bench.job.errors import printable
from bench.job.job import to_dict
from bench.paths import TEMPLATES
from bench.report.answer import WIDEST, pasted
from bench.report.document import Part, end_parts, hosts_parts, section_parts
from bench.report.sentences import setting_words
from bench.report.tables import Refused, Table
from bench.statistics.grouping import Section
from bench.workloads.catalogue import workload_of

MOST_DRAWN = 4  # sections with pictures; the rest have their tables
MOST_WARNINGS = 40
FACTS = ("Fact", "Value")
DIFFERS = ("What", "First section", "Here")
ARMS = ("Allocator", "Purpose", "Library providing malloc", "Version", "SHA-256", "Environment")


def page(found: Sequence[Section], refused: Refused) -> str:
    """Return the whole page as text. Needs matplotlib, which takes a second to load."""
    how: Any = {"autoescape": True, "undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    environment = Environment(loader=FileSystemLoader(TEMPLATES), **how)
    environment.filters["coded"] = coded
    environment.filters["pasted"] = lambda words: "\n".join(pasted(words, WIDEST))
    started = sorted(record["started_at"] for section in found for record in section.all_records)
    parts = hosts_parts(found)
    for number, section in enumerate(found):
        parts += page_parts(section, found[0], number)
    groups: list[list[Part]] = []
    for part in [*parts, *end_parts(found, refused)]:
        groups[len(groups) :] = [[]] if part.level == 2 else []
        groups[-1].append(part)
    text = environment.get_template("report.html.j2").render(
        groups=groups,
        title=found[0].title if found else "",
        version=__version__,
        first=started[0] if started else "",
        last=started[-1] if started else "",
        num_records=len(started),
    )
    return text + "\n"


def page_parts(section: Section, first: Section, number: int) -> list[Part]:
    """Return the parts of report.md, with the figures after the answer and the facts at the end."""
    from bench.report.plots import plots

    head, *parts = section_parts(section)
    drawn = plots(section, f"s{number}-") if number < MOST_DRAWN else []
    differing = differs(section, first) if section is not first else []
    warnings, described = warning_rows(section), workload_of(section.job).description(section.job)
    return [
        head,
        *([Part("", plots=drawn)] if drawn else []),
        *([_facts("Separate section: different settings or host", differing, DIFFERS)] if differing else []),
        *parts,
        _facts("Allocators and verification", arm_rows(section), ARMS, folded=True),
        _facts("Configuration and launch", launch_rows(section), lead=[described], folded=True),
        _facts("Host", host_rows(section), folded=True),
        *([_facts("Runs with interference", warnings)] if warnings else []),
    ]


def _facts(title: str, rows: Sequence[Sequence[str]], headings: Sequence[str] = FACTS, **how: Any) -> Part:
    return Part(title, tables=[Table(headings, rows, left=headings)], **how)


def coded(sentence: str) -> Markup:
    """Return the sentence with what stands between backticks, as in report.md, as code."""
    pieces = re.split(r"`([^`]+)`", sentence)
    return Markup("").join(Markup("<code>{}</code>").format(p) if i % 2 else escape(p) for i, p in enumerate(pieces))


def arm_rows(section: Section) -> list[list[str]]:
    """Return each arm's verification: which library provided malloc in the ranks, and with which settings."""
    rows = []
    for arm in section.arms:
        record = next(cell for cell in section.cells if cell.arm == arm).records[0]
        proof = record["ranks"][0]["proof"]
        words = " ".join(word for word in setting_words(record) if not word.startswith("LD_PRELOAD=")) or "none"
        words += f" (this version has dropped {', '.join(proof['dropped'])})" if proof.get("dropped") else ""
        known = proof["malloc_library"], proof["version"] or "unknown", (proof["sha256"] or "")[:16]
        rows.append([arm, record["job"]["allocator"]["shows"], *known, words])
    return rows


def launch_rows(section: Section) -> list[tuple[str, str]]:
    """Return how the runs were started, over all records of the section."""
    everything = section.all_records
    ranks = [rank for record in everything for rank in record["ranks"] or []]
    launches = [record["launch"] for record in everything]

    def each(values: Iterable[Any]) -> str:
        return ", ".join(sorted({str(value) for value in values}))

    return [
        ("Launcher", each(launch["launcher"] for launch in launches)),
        ("Copies", each(launch["num_copies"] for launch in launches)),
        ("Simulated nodes", each("yes" if launch["simulated"] else "no" for launch in launches)),
        ("Threads of a rank", each(rank["threads"] for rank in ranks) or "none ran"),
        (
            "Allocator variables of the host that were dropped",
            each(n for one in launches for n in one["dropped_environment"]) or "none",
        ),
        ("Hosts", each(rank["hostname"] for rank in ranks) or each(r["hosts"][0]["hostname"] for r in everything)),
        ("Blocks", str(max((cell.num_blocks for cell in section.cells), default=0))),
        ("Version of this program", each(r["bench_version"] for r in everything)),
        ("Git revision", each(revision(r["hosts"][0]) for r in everything)),
    ]


def revision(host: dict[str, Any]) -> str:
    git = host.get("git")
    if not git:
        return (host.get("image") or {}).get("revision") or "unknown"
    return f"{git['revision'][:12]}{' with changes' if git['dirty'] else ''}"


def host_rows(section: Section) -> list[tuple[str, str]]:
    host = section.host
    cpu, memory, system, container = (_known(host[part]) for part in ("cpu", "memory", "system", "container"))
    image, python = host.get("image") or {}, host["python"]
    sizes = [host["memory"]["total_bytes"], host["memory"]["swap_total_bytes"], host["container"]["memory_limit_bytes"]]
    total, swap, limit = (f"{size / 2**30:.1f} GiB" if size else "none" for size in sizes)
    states = {name: state or "" for name, state in sorted(host["system"]["mitigations"].items())}
    exposed = [name for name, state in states.items() if state.startswith("Vulnerable")]
    mitigated = [f"{name} ({s.partition(': ')[2]})" for name, s in states.items() if s.startswith("Mitigation")]
    image_facts = [f"{key} {image[key]}" for key in ("version", "flavor", "content_sha256") if image.get(key)]
    return [
        ("CPU", cpu("{model}, microcode {microcode}")),
        ("Clock", cpu("{ghz} GHz ({ghz_source}), governor {governor}, turbo {turbo}")),
        ("Cores", cpu("{physical} physical, {logical} logical, SMT {smt}, allowed {affinity}")),
        ("NUMA nodes", _known(host["numa"])("{nodes}")),
        ("Memory", f"{total}, swap {swap}"),
        ("Pages", memory("{page_bytes} bytes; transparent huge pages {thp}, defragmentation {thp_defrag}")),
        ("Overcommit", memory("{overcommit_memory}")),
        ("Kernel", system("{kernel}")),
        ("Mitigations in force", "; ".join(mitigated) or "none"),
        ("Unmitigated", ", ".join(exposed) or "none that the kernel names"),
        ("C library", system("glibc {glibc}, {distribution}")),
        ("Virtual machine", system("{virtualisation}")),
        ("Container", container("{runtime}, CPU limit {cpu_limit}") + f", memory limit {limit}"),
        ("Image", ", ".join(image_facts) or "none"),
        ("Python", f"{python['version']}, {python['compiler']}"),
        ("Packages", ", ".join(f"{name} {version}" for name, version in sorted(host["packages"].items()) if version)),
    ]


def _known(facts: Mapping[str, Any]) -> Callable[[str], str]:
    """Return a function that fills in ``{key}`` of a text; what is unknown is named so."""
    words = {None: "unknown", True: "yes", False: "no"}
    known = {key: words[value] if value is None or isinstance(value, bool) else value for key, value in facts.items()}
    return lambda text: text.format_map(known)


def warning_rows(section: Section) -> list[tuple[str, str]]:
    noisy = [record for record in section.all_records if record["warnings"]]
    rows = [(Path(record["path"]).parent.name, " ".join(record["warnings"])) for record in noisy[:MOST_WARNINGS]]
    return rows + ([("and more", f"{len(noisy) - MOST_WARNINGS} further runs")] if len(noisy) > MOST_WARNINGS else [])


def differs(section: Section, first: Section) -> list[tuple[str, str, str]]:
    """Return why this section is not the first one: configuration and facts that differ (name, there, here)."""
    apart = ("allocator", "repeat", "nodes")
    there, here = (
        identity.flat({k: v for k, v in to_dict(one.job).items() if k not in apart}) for one in (first, section)
    )
    keys = [key for key in {**there, **here} if there.get(key) != here.get(key)]
    rows = [(key, printable(str(there.get(key))), printable(str(here.get(key)))) for key in keys]
    rows += [(name, str(a), str(b)) for name, a, b in likeness.differences(first.host, section.host)[:12]]
    return rows
