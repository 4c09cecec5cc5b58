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
from bench.report import hosts
from bench.report.document import OVER_TIME, Part, end_parts, section_parts
from bench.report.tables import Refused, Table
from bench.statistics.grouping import Section
from bench.workloads.catalogue import workload_of

MOST_DRAWN = 4  # sections with pictures; the rest have their tables
MOST_WARNINGS = 40
MOST_VERDICTS = (
    12  # sentences that stand open; the rest are folded, or they would push the pictures off the first screens
)

FACTS = ("Fact", "Value")
DIFFERS = ("What", "First section", "Here")
PROOF = ("Arm", "What it shows", "Library that answered malloc", "Version", "SHA-256", "Environment")


def page(found: Sequence[Section], refused: Refused) -> str:
    """The whole page as text. Needs matplotlib, which takes a second to load."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["coded"] = coded
    started = sorted(record["started_at"] for section in found for record in all_records(section))
    beside = hosts.host_tables(found)
    groups = [[Part(hosts.TITLE, 2, lead=[hosts.LEGEND]), *(Part(table.title, tables=[table]) for table in beside)]]
    groups = groups if beside else []
    groups += [page_parts(section, found[0], number) for number, section in enumerate(found)]
    for part in end_parts(found, refused):
        groups[len(groups) :] = [[]] if part.level == 2 else []
        groups[-1].append(part)
    text = environment.get_template("report.html.j2").render(
        groups=groups,
        title=found[0].title if found else "",
        most_verdicts=MOST_VERDICTS,
        version=__version__,
        first=started[0] if started else "",
        last=started[-1] if started else "",
        num_records=len(started),
    )
    return text + "\n"


def page_parts(section: Section, first: Section, number: int) -> list[Part]:
    """The parts of report.md, with the pictures after the notes and the facts at the end."""
    from bench.report.plots import plots

    head, *parts = section_parts(section)
    drawn = plots(section, f"s{number}-") if number < MOST_DRAWN else []
    differing = differs(section, first) if section is not first else []
    warnings = warning_rows(section)
    return [
        head,
        *([_facts("Set apart from the first section, because", differing, DIFFERS)] if differing else []),
        *([Part("", plots=drawn)] if drawn else []),
        *(part for part in parts if part.title != OVER_TIME),
        _facts("The arms, and the proof of each", arm_rows(section), PROOF, folded=True),
        _facts(
            "Configuration and launch",
            launch_rows(section),
            lead=[workload_of(section.job).description(section.job)],
            folded=True,
        ),
        _facts("Host", host_rows(section), folded=True),
        *([_facts("Noisy jobs", warnings)] if warnings else []),
    ]


def _facts(title: str, rows: Sequence[Sequence[str]], headings: Sequence[str] = FACTS, **how: Any) -> Part:
    return Part(title, tables=[Table(headings, rows, left=headings)], **how)


def all_records(section: Section) -> list[dict[str, Any]]:
    return [record for cell in section.cells for record in cell.records] + list(section.failed)


def coded(sentence: str) -> Markup:
    """What stands between backticks, as in report.md, as code."""
    pieces = re.split(r"`([^`]+)`", sentence)
    return Markup("").join(Markup("<code>{}</code>").format(p) if i % 2 else escape(p) for i, p in enumerate(pieces))


def arm_rows(section: Section) -> list[list[str]]:
    """Each arm's proof: which library answered malloc in the ranks, and with which settings."""
    rows = []
    for arm in section.arms:
        record = next(cell for cell in section.cells if cell.arm == arm).records[0]
        allocator, proof = record["job"]["allocator"], record["ranks"][0]["proof"]
        dropped = proof.get("dropped", [])
        env = {key: value for key, value in allocator["env"].items() if key not in dropped}
        env.update(pair for name in dropped for pair in allocator.get("instead", {}).get(name, {}).items())
        words = " ".join(f"{key}={value}" for key, value in sorted(env.items())) or "none"
        words += f" (this version has dropped {', '.join(dropped)})" if dropped else ""
        known = proof["malloc_library"], proof["version"] or "not told", (proof["sha256"] or "")[:16]
        rows.append([arm, allocator["shows"], *known, words])
    return rows


def launch_rows(section: Section) -> list[tuple[str, str]]:
    """How the jobs were started, over all records of the section."""
    everything = all_records(section)
    ranks = [rank for record in everything for rank in record["ranks"] or []]

    def each(values: Iterable[Any]) -> str:
        return ", ".join(sorted({str(value) for value in values}))

    def of(read: Callable[[dict[str, Any]], Any]) -> str:
        return each(map(read, everything))

    dropped = each(name for record in everything for name in record["launch"]["dropped_environment"])
    hostnames = each(rank["hostname"] for rank in ranks) or of(lambda r: r["hosts"][0]["hostname"])
    return [
        ("Launcher", of(lambda r: r["launch"]["launcher"])),
        ("Copies", of(lambda r: r["launch"]["num_copies"])),
        ("Simulated nodes", of(lambda r: "yes" if r["launch"]["simulated"] else "no")),
        ("Threads of a rank", each(rank["threads"] for rank in ranks) or "none ran"),
        ("Allocator variables of the host that were dropped", dropped or "none"),
        ("Hosts", hostnames),
        ("Blocks", str(max((len(cell.records) for cell in section.cells), default=0))),
        ("Version of this program", of(lambda r: r["bench_version"])),
        ("Its revision", of(lambda r: revision(r["hosts"][0]))),
    ]


def revision(host: dict[str, Any]) -> str:
    git = host.get("git")
    if not git:
        return (host.get("image") or {}).get("revision") or "unknown"
    return f"{git['revision'][:12]}{' with changes' if git['dirty'] else ''}"


def host_rows(section: Section) -> list[tuple[str, str]]:
    host = section.host
    cpu, memory, system, container = (_told(host[part]) for part in ("cpu", "memory", "system", "container"))
    image, python = host.get("image") or {}, host["python"]

    def gib(size: float | None) -> str:
        return f"{size / 2**30:.1f} GiB" if size else "none"

    states = {name: state or "" for name, state in sorted(host["system"]["mitigations"].items())}
    exposed = [name for name, state in states.items() if state.startswith("Vulnerable")]
    mitigated = [f"{name} ({s.partition(': ')[2]})" for name, s in states.items() if s.startswith("Mitigation")]
    image_facts = [f"{key} {image[key]}" for key in ("version", "flavor", "content_sha256") if image.get(key)]
    limit = gib(host["container"]["memory_limit_bytes"])
    sizes = gib(host["memory"]["total_bytes"]), gib(host["memory"]["swap_total_bytes"])
    return [
        ("CPU", cpu("{model}, microcode {microcode}")),
        ("Clock", cpu("{ghz} GHz ({ghz_source}), governor {governor}, turbo {turbo}")),
        ("Cores", cpu("{physical} physical, {logical} logical, SMT {smt}, allowed {affinity}")),
        ("NUMA nodes", _told(host["numa"])("{nodes}")),
        ("Memory", f"{sizes[0]}, swap {sizes[1]}"),
        ("Pages", memory("{page_bytes} bytes; transparent huge pages {thp}, defragmentation {thp_defrag}")),
        ("Overcommit", memory("{overcommit_memory}")),
        ("Kernel", system("{kernel}")),
        ("Mitigations in force", "; ".join(mitigated) or "none"),
        ("Open to", ", ".join(exposed) or "none that the kernel names"),
        ("C library", system("glibc {glibc}, {distribution}")),
        ("Virtual machine", system("{virtualisation}")),
        ("Container", container("{runtime}, CPU limit {cpu_limit}") + f", memory limit {limit}"),
        ("Image", ", ".join(image_facts) or "none"),
        ("Python", f"{python['version']}, {python['compiler']}"),
        ("Packages", ", ".join(f"{name} {version}" for name, version in sorted(host["packages"].items()) if version)),
    ]


def _told(facts: Mapping[str, Any]) -> Callable[[str], str]:
    """Fills in ``{key}`` of a text; what is unknown is said so."""
    words = {None: "not known", True: "yes", False: "no"}
    known = {key: words[value] if value is None or isinstance(value, bool) else value for key, value in facts.items()}
    return lambda text: text.format_map(known)


def warning_rows(section: Section) -> list[tuple[str, str]]:
    noisy = [record for record in all_records(section) if record["warnings"]]
    rows = [(Path(record["path"]).parent.name, " ".join(record["warnings"])) for record in noisy[:MOST_WARNINGS]]
    return rows + ([("and more", f"{len(noisy) - MOST_WARNINGS} further jobs")] if len(noisy) > MOST_WARNINGS else [])


def differs(section: Section, first: Section) -> list[tuple[str, str, str]]:
    """Why this section is not the first one: configuration and facts that differ (name, there, here)."""
    there, here = (
        identity.flat({k: v for k, v in to_dict(s.job).items() if k not in ("allocator", "repeat", "nodes")})
        for s in (first, section)
    )
    rows = [
        (key, printable(str(there.get(key))), printable(str(here.get(key))))
        for key in {**there, **here}
        if there.get(key) != here.get(key)
    ]
    rows += [(name, str(a), str(b)) for name, a, b in likeness.differences(first.host, section.host)[:12]]
    return rows
