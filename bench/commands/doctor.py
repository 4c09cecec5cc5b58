"""doctor: what this host has and lacks for a fair measurement."""

from __future__ import annotations

import argparse

from bench.allocators import retention
from bench.allocators.catalogue import read_arms
from bench.driver.fits import lacks_pytorch
from bench.host import facts, load
from bench.host.findings import Finding, findings, glibc_findings
from bench.host.products import SLOW, gain, limit_sentence, products, products_sentences
from bench.host.topology import cores
from bench.job.errors import AllocatorError
from bench.job.job import Job
from bench.process.cpus import allowed_cpus
from bench.report import verdict_json
from bench.report.answer import Line, columns, printed
from bench.report.tables import Table
from bench.report.terminal import print_lines

LABELS = {"ok": "OK", "warn": "WARN", "bad": "FAIL"}  # of a finding, the least first
RETENTION = (
    "retention test: a fresh process allocates, touches and frees 12, 40 and 70 MiB; 0 faults a round: the allocator retains memory; "
    "31,232 (of 4 KiB): it returns all of it to the kernel"
)


def run(options: argparse.Namespace) -> int:
    """Exit code 1 if something can spoil a measurement."""
    here = facts.host()
    rows = []
    arms, refused = read_arms()
    missing: list[str] = []
    proofs: dict[str, dict] = {}
    for arm in arms:
        if lacking := lacks_pytorch(Job(allocator=arm)):
            refused.append(lacking)
            rows.append([arm.name, "-", "-", "-"])
            continue
        try:
            proof = proofs[arm.name] = retention.check(arm)
            row = proof["malloc_library"].rpartition("/")[2], proof["version"][:24], f"{proof['retention_faults']:,}"
        except AllocatorError as error:
            missing.append(str(error))
            row = "-", "-", "-"
        rows.append([arm.name, *row])
    found = findings(here, load.now(), missing_allocators=missing)
    here["products"] = products(len(cores(allowed_cpus())))
    found.append(Finding("ok", limit_sentence(here)))
    found += glibc_findings(proofs, here["memory"])
    found += [Finding("warn" if gain(here["products"]) > SLOW else "ok", words) for words in products_sentences(here)]
    found += [Finding("warn", sentence, "Until then it cannot be used.") for sentence in refused]
    counts = {level: sum(finding.level == level for finding in found) for level in LABELS}
    fit = "this host may spoil a measurement" if counts["bad"] else "this host is fit for a fair measurement"
    lines = [Line("Result", f"{fit} ({counts['bad']} FAIL, {counts['warn']} WARN, {counts['ok']} OK)")]
    found.sort(key=lambda finding: -list(LABELS).index(finding.level))
    lines += [Line(LABELS[one.level], f"{one.what} {one.advice}".rstrip()) for one in found]
    left = ("Allocator", "Library", "Version")
    table = Table(("Allocator", "Library", "Version", "Faults a round"), rows, left=left)
    print_lines(printed([*lines, Line("Memory", RETENTION, table=table)], columns()))
    options.answer = verdict_json.of_findings(found, [arm.name for arm in arms], proofs)
    return 1 if any(finding.level == "bad" for finding in found) else 0
