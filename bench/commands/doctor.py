"""doctor: what this host has and lacks for a fair measurement."""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.table import Table

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


def run(options: argparse.Namespace) -> int:
    """Exit code 1 if something can spoil a measurement."""
    console = Console(highlight=False)
    here = facts.host()
    table = Table("arm", "live library", "version", "faults per round")
    table.title = "Retention test: each arm in a fresh process takes, touches and frees 12, 40 and 70 MiB"
    arms, refused = read_arms()
    missing: list[str] = []
    proofs: dict[str, dict] = {}
    for arm in arms:
        if lacking := lacks_pytorch(Job(allocator=arm)):
            refused.append(lacking)
            table.add_row(arm.name, "-", "-", "-")
            continue
        try:
            proof = proofs[arm.name] = retention.check(arm)
            row = proof["malloc_library"].rpartition("/")[2], proof["version"][:24], f"{proof['retention_faults']:,}"
        except AllocatorError as error:
            missing.append(str(error))
            row = "-", "-", "-"
        table.add_row(arm.name, *row)
    console.print(table)
    console.print(
        "0 faults: freed memory is kept. All pages (31,232 of 4 KiB): all of it returns to the kernel each time.\n"
    )
    found = findings(here, load.now(), missing_allocators=missing)
    here["products"] = products(len(cores(allowed_cpus())))
    found.append(Finding("ok", limit_sentence(here)))
    found += glibc_findings(proofs, here["memory"])
    found += [Finding("warn" if gain(here["products"]) > SLOW else "ok", words) for words in products_sentences(here)]
    found += [Finding("warn", sentence, "Until then there is no such arm.") for sentence in refused]
    for finding in found:
        console.print(f"{finding.level:4}  {finding.what} {finding.advice}".rstrip(), markup=False, soft_wrap=True)
    options.answer = verdict_json.of_findings(found, [arm.name for arm in arms], proofs)
    return 1 if any(finding.level == "bad" for finding in found) else 0
