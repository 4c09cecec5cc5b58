"""report.html: one file with everything in it, from the same sections and sentences as report.md."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from bench import __version__
from bench.host import likeness
from bench.job import identity
from bench.job.job import to_dict
from bench.paths import TEMPLATES
from bench.report import across, costs, hosts, tables
from bench.statistics.grouping import Section
from bench.statistics.published import published_tables

MOST_DRAWN = 4  # sections with pictures; the rest have their tables
MOST_WARNINGS = 40
MOST_VERDICTS = (
    12  # sentences that stand open; the rest are folded, or they would push the pictures off the first screens
)
MOST_CAUSES = 3  # said at the top, of the largest gains at the fewest nodes; the rest stand with the fault tax

VERDICT_WORD = r"\b(faster|slower|(less|more) time)\b|[Cc]annot tell|[Nn]o difference"
# Words of the verdict and of the cause, and the part of the section that shows why.
SHOWN_BY = (
    (VERDICT_WORD, "cause"),
    (VERDICT_WORD, "against"),  # where no cause is said
    (r"\b\d[\d.]*(x| times| %)|ratio [\d.]+", "against"),
    (r"\[[^]]+\]", "gains"),
    (r"this noise|one block|blocks disagree", "samples"),
)
CAUSE_SHOWN_BY = (
    (r"[Pp]age faults|minor faults", "tax"),
    (r"kernel's own clock|cost of a fault", "tax"),
    (r"the rest\b|The rest\b|no sure difference", "phases"),
    (r"huge pages", "over_time"),
)


def page(found: Sequence[Section], refused: tables.Refused) -> str:
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
    return (
        environment.get_template("report.html.j2").render(
            sections=[section_view(section, found[0], number) for number, section in enumerate(found)],
            most_verdicts=MOST_VERDICTS,
            beside=hosts.host_tables(found),
            beside_title=hosts.TITLE,
            beside_headings=hosts.HOSTS,
            beside_left=hosts.LEFT,
            beside_legend=hosts.LEGEND,
            across=across.across_tables(found),
            across_title=across.STILL,
            across_headings=across.ACROSS,
            keeping_title=across.KEEPS,
            keeping_headings=across.KEEPING,
            keeping_legend=across.KEEPING_LEGEND,
            invalid=tables.unusable(found, refused),
            headings=tables.HEADINGS,
            left=tables.LEFT,
            compared=tables.COMPARED,
            tax_headings=tables.TAX,
            price_headings=tables.PRICES,
            proof_headings=PROOF,
            costs_title=costs.TITLE,
            costs_headings=costs.COSTS,
            costs_legend=costs.LEGEND,
            published=published_tables(),
            published_machine=tables.PUBLISHED_MACHINE,
            version=__version__,
            first=started[0] if started else "",
            last=started[-1] if started else "",
            num_records=len(started),
        )
        + "\n"
    )


def all_records(section: Section) -> list[dict[str, Any]]:
    return [record for cell in section.cells for record in cell.records] + list(section.failed)


def section_view(section: Section, first: Section, number: int) -> dict[str, Any]:
    """What the template shows of one section: texts and rows, nothing to be computed there."""
    from bench.report.picture_data import csv_link
    from bench.report.plots import plots

    causes = tables.cause_sentences(section)
    prefix = f"s{number}-"
    drawn = plots(section, prefix) if number < MOST_DRAWN else []
    parts = {p.name[len(prefix) :] for p in drawn}
    parts |= (
        {"cause" for _ in causes[:1]}
        | {"against" for _ in section.pairs[:1]}
        | {"tax" for _ in tables.tax_table(section)[:1]}
    )
    return {
        "title": section.title,
        "configuration": configuration(section),
        "verdicts": [linked(said, SHOWN_BY, parts, prefix) for said in tables.verdict_sentences(section)],
        "words": [c.word for c in section.pairs],
        "causes": [linked(said, CAUSE_SHOWN_BY, parts, prefix) for said in causes[:MOST_CAUSES]],
        "more_causes": causes[MOST_CAUSES:],
        "notes": tables.notes_of(section),
        "slow": costs.head_sentences(section),
        "costs": costs.cost_rows(section),
        "cost_sentences": costs.cost_sentences(section),
        "plots": [
            {
                "name": p.name,
                "title": p.title,
                "caption": p.caption,
                "svg": Markup(p.svg),
                "csv": csv_link(section, p.name[len(prefix) :]),
            }
            for p in drawn
        ],
        "tables": tables.cell_tables(section),
        "reference": section.reference,
        "pairs": [tables.pair_row(section, c) for c in section.pairs],
        "memory": tables.memory_sentences(section),
        "keeping": across.keeping_rows(section),
        "tax": tables.tax_table(section),
        "prices": tables.price_table(section),
        "arms": arm_rows(section),
        "launch": launch_rows(section),
        "host": host_rows(section),
        "warnings": warning_rows(section),
        "differs": differs(section, first) if section is not first else [],
    }


def linked(sentence: str, shown_by: Sequence[tuple[str, str]], parts: Collection[str], prefix: str) -> Markup:
    """The sentence, in which the first of the words that a part of this section shows leads there. ``parts`` are those that the page has."""
    links: list[tuple[int, int, str]] = []
    for words, part in shown_by:
        found = re.search(words, sentence) if part in parts else None
        if found and all(found.end() <= start or found.start() >= end for start, end, _ in links):
            links.append((found.start(), found.end(), part))
    ends, pieces = 0, []
    for start, end, part in sorted(links):
        pieces += [
            escape(sentence[ends:start]),
            Markup('<a href="#{}{}">{}</a>').format(prefix, part, sentence[start:end]),
        ]
        ends = end
    return Markup("").join([*pieces, escape(sentence[ends:])])


def coded(sentence: str) -> Markup:
    """What stands between backticks, as in report.md, as code."""
    pieces = re.split(r"`([^`]+)`", sentence)
    return Markup("").join(Markup("<code>{}</code>").format(p) if i % 2 else escape(p) for i, p in enumerate(pieces))


def configuration(section: Section) -> str:
    job = section.job
    if job.program.command:
        keys = {
            key: value for key, value in to_dict(job)["program"].items() if value and key not in ("command", "files")
        }
        return f"{shlex.join(job.program.command)}; {', '.join(f'{key} {value}' for key, value in keys.items())}; seed {job.seed}."
    model, train = job.model, job.train
    data = "synthetic tokens" if job.data.path is None else f"tokens of {job.data.path}"
    return (
        f"{model.num_parameters:,} parameters: {model.layers} layers, hidden {model.hidden}, {model.heads} heads, sequence {model.sequence}, "
        f"{model.ops} operations; micro-batch {train.micro_batch_size}, global batch {train.global_batch_size}, dropout {train.dropout:g}, "
        f"activation checkpointing {'on' if train.activation_checkpointing else 'off'}; ranks on a node: {job.ranks_per_node}; "
        f"{job.measure.mode} mode; {data}; seed {job.seed}."
    )


PROOF = ("Arm", "What it shows", "Library that answered malloc", "Version", "SHA-256", "Environment")


def arm_rows(section: Section) -> list[list[str]]:
    """Each arm's proof: which library answered malloc in the ranks, and with which settings."""
    rows = []
    for arm in section.arms:
        record = next(cell for cell in section.cells if cell.arm == arm).records[0]
        allocator, proof = record["job"]["allocator"], record["ranks"][0]["proof"]
        env = " ".join(f"{key}={value}" for key, value in sorted(allocator["env"].items()))
        rows.append(
            [
                arm,
                allocator["shows"],
                proof["malloc_library"],
                proof["version"] or "not told",
                (proof["sha256"] or "")[:16],
                env or "none",
            ]
        )
    return rows


def launch_rows(section: Section) -> list[tuple[str, str]]:
    """How the jobs were started, over all records of the section."""
    everything = all_records(section)

    def values(of: Any) -> str:
        return ", ".join(sorted({str(of(record)) for record in everything}))

    ranks = [rank for record in everything for rank in record["ranks"] or []]
    rows = [
        ("Launcher", values(lambda r: r["launch"]["launcher"])),
        ("Copies", values(lambda r: r["launch"]["num_copies"])),
        ("Simulated nodes", values(lambda r: "yes" if r["launch"]["simulated"] else "no")),
        ("Threads of a rank", ", ".join(sorted({str(rank["threads"]) for rank in ranks})) or "none ran"),
        (
            "Allocator variables of the host that were dropped",
            ", ".join(sorted({name for r in everything for name in r["launch"]["dropped_environment"]})) or "none",
        ),
        (
            "Hosts",
            ", ".join(sorted({rank["hostname"] for rank in ranks})) or values(lambda r: r["hosts"][0]["hostname"]),
        ),
        ("Blocks", str(max((len(cell.records) for cell in section.cells), default=0))),
        ("Version of this program", values(lambda r: r["bench_version"])),
        ("Its revision", values(lambda r: revision(r["hosts"][0]))),
    ]
    return rows


def revision(host: dict[str, Any]) -> str:
    git = host.get("git")
    return (
        f"{git['revision'][:12]}{' with changes' if git['dirty'] else ''}"
        if git
        else (host.get("image") or {}).get("revision") or "unknown"
    )


def host_rows(section: Section) -> list[tuple[str, str]]:
    host = section.host
    cpu, memory, system, container = host["cpu"], host["memory"], host["system"], host["container"]

    def told(value: Any, unit: str = "") -> str:
        return (
            "not known" if value is None else "yes" if value is True else "no" if value is False else f"{value}{unit}"
        )

    def gib(size: float | None) -> str:
        return "none" if not size else f"{size / 2**30:.1f} GiB"

    exposed = sorted(name for name, state in system["mitigations"].items() if state and state.startswith("Vulnerable"))
    mitigated = sorted(
        f"{name} ({state.partition(': ')[2]})"
        for name, state in system["mitigations"].items()
        if state and state.startswith("Mitigation")
    )
    image = host.get("image") or {}
    return [
        ("CPU", f"{told(cpu['model'])}, microcode {told(cpu['microcode'])}"),
        (
            "Clock",
            f"{told(cpu['ghz'], ' GHz')} ({cpu['ghz_source']}), governor {told(cpu['governor'])}, turbo {told(cpu['turbo'])}",
        ),
        (
            "Cores",
            f"{told(cpu['physical'])} physical, {told(cpu['logical'])} logical, SMT {told(cpu['smt'])}, allowed {told(cpu['affinity'])}",
        ),
        ("NUMA nodes", told(host["numa"]["nodes"])),
        ("Memory", f"{gib(memory['total_bytes'])}, swap {gib(memory['swap_total_bytes'])}"),
        (
            "Pages",
            f"{told(memory['page_bytes'], ' bytes')}; transparent huge pages {told(memory['thp'])}, "
            f"defragmentation {told(memory['thp_defrag'])}",
        ),
        ("Overcommit", told(memory["overcommit_memory"])),
        ("Kernel", system["kernel"]),
        ("Mitigations in force", "; ".join(mitigated) or "none"),
        ("Open to", ", ".join(exposed) or "none that the kernel names"),
        ("C library", f"glibc {told(system['glibc'])}, {told(system['distribution'])}"),
        ("Virtual machine", told(system["virtualisation"])),
        (
            "Container",
            f"{container['runtime']}, CPU limit {told(container['cpu_limit'])}, memory limit {gib(container['memory_limit_bytes'])}",
        ),
        (
            "Image",
            ", ".join(f"{key} {image[key]}" for key in ("version", "flavor", "content_sha256") if image.get(key))
            or "none",
        ),
        ("Python", f"{host['python']['version']}, {host['python']['compiler']}"),
        ("Packages", ", ".join(f"{name} {version}" for name, version in sorted(host["packages"].items()) if version)),
    ]


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
        (key, str(there.get(key)), str(here.get(key))) for key in {**there, **here} if there.get(key) != here.get(key)
    ]
    rows += [(name, str(a), str(b)) for name, a, b in likeness.differences(first.host, section.host)[:12]]
    return rows
