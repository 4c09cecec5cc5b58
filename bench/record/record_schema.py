"""The fields of a record, declared once: docs/record.schema.json and the tables of docs/record.md are generated from here.

A field is one line: its kind, one sentence, and the schema number that it came with where that is not 1 (a record of an
earlier number need not have it), or SOMETIMES where any record may lack it. Kinds are `string`, `number`, `integer`, `boolean`,
or the name of another section; after it
`?` means or null, `[]` a list of them, `{}` an object with such values under any names, read from the left: `number[]?` is a
list of numbers, or null. `any` is anything. The keys of `job` are those of the dataclasses in job.py.

A record of a user's program (`job.program`) has `OF_PROGRAM` in the place of our GPT's ranks and figures.

After a change: `.venv/bin/python scripts/record_schema.py` writes both files again.
"""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from bench.job.job import Job
from bench.record.program_fields import COUNTED, OF_PROGRAM, PROGRAM, SOMETIMES, Field
from bench.record.records import COUNTERS, SCHEMA

assert tuple(COUNTED) == COUNTERS


def columns(phase: str, kind: str) -> dict[str, Field]:
    """The counters of one phase as fields."""
    return {f"{phase}_{name}": (kind, f"{says}, in this phase") for name, says in COUNTED.items()}


SECTIONS: dict[str, dict[str, Field]] = {
    "record": {
        "schema": ("integer", "number of this layout"),
        "sha256": ("string", "over the canonical JSON (sorted keys, no spaces) of everything else in the record"),
        "content_hash": ("string", "over what decides the measurement, by content: no paths, no limits of time"),
        "measured_code": ("string?", "over the timed code without its comments, 12 digits", 2),
        "derived_code": ("string?", "over the bytes of the files that made `derived` (bench/workloads/gpt/figures.py says which), 12 digits", 2),
        "rederived_from": ("string?", "where `rederive --write` made the figures: `sha256` of the record as it was first written", SOMETIMES),
        "packed_from": ("string?", "in a pack: `sha256` of the record as it was first written", SOMETIMES),
        "bench_version": ("string", "version of this program"),
        "status": ("string", "`ok` or `failed`"),
        "valid": ("boolean", "whether numbers may be drawn from it"),
        "error": ("string?", "one sentence on what went wrong, or null"),
        "warnings": ("string[]", "sentences that mark a noisy run: other programs, steal, throttling, major faults"),
        "started_at": ("string", "ISO 8601 with UTC offset"),
        "wall_seconds": ("number", "duration of the whole job, start-up included"),
        "job": ("job", "the configuration, key for key as in `conf/config.yaml`"),
        "launch": ("launch", "how it was started"),
        "hosts": ("host[]", "facts of each node, the first copy's first; one entry when nodes are simulated"),
        "load": ("load", "how busy the first host was"),
        "host_used_mib": ("number?", "MiB in use on the first host after the first iteration: the published Mem column"),
        "ranks": ("rank[]?", "what each rank measured; null if the job failed"),
        "derived": ("derived?", "figures computed from `ranks`; null if the job failed"),
    },
    "launch": {
        "launcher": ("string", "`none`, or what gave the copies their numbers"),
        "num_copies": ("integer", "copies of the command, one for each node"),
        "master_addr": ("string", "address of the first copy"),
        "interface": ("string?", "network interface that gloo talks through"),
        "secret": ("string?", "by what the copies proved that they belong together: BENCH_TOKEN, or derived, which is weak", 2),
        "simulated": ("boolean", "true: the ranks of several nodes ran on one host"),
        "dropped_environment": ("string[]", "names of the caller's variables that were removed"),
    },
    "host": {
        "hostname": ("string", "name of the node"),
        "boot_id": ("string?", "one for each start of a kernel: who says the same is on the same machine", 2),
        "machine": ("string", "architecture, as `uname -m`"),
        "products": ("any", "by path (`full`, `stock`): how fast it multiplies matrices; measured for large models", SOMETIMES),
        "cpu": ("cpu", "the processor"),
        "numa": ("numa", "NUMA nodes"),
        "memory": ("memory", "sizes and settings of the memory"),
        "system": ("system", "kernel and C library"),
        "container": ("container", "runtime and cgroup limits"),
        "root_mount": ("root_mount", "how `/` is mounted"),
        "image": ("any", "identity of the image (revision, flavour, digest of its content), or null natively"),
        "python": ("string{}", "version, implementation, build and compiler of Python"),
        "packages": ("string?{}", "versions of the packages that matter; null where one is not installed"),
        "git": ("git?", "revision of the checkout; null without git and in images"),
    },
    "cpu": {
        "model": ("string?", "as the kernel names it; Arm cores as lscpu decodes them"),
        "vendor": ("string?", "as the kernel names it"),
        "microcode": ("string?", "revision"),
        "logical": ("integer?", "logical CPUs that are online"),
        "physical": ("integer?", "cores"),
        "online": ("string?", "logical CPUs in the kernel's list notation"),
        "affinity": ("string", "those that the driver may use"),
        "smt": ("boolean?", "whether cores run several threads"),
        "ghz": ("number?", "clock"),
        "ghz_source": ("string", "where the clock was read"),
        "vector": ("string?", "widest vector instructions for fp32", 2),
        "flops_per_clock": ("integer?", "fp32 operations of one core in one clock, its pipes assumed (`bench/host/vector.py`)", 2),
        "governor": ("string?", "of the frequency"),
        "turbo": ("boolean?", "whether the clock may exceed the nominal one"),
    },
    "numa": {
        "nodes": ("integer?", "how many"),
        "per_node": ("numa_node{}", "by number"),
    },
    "numa_node": {
        "cpus": ("string?", "its logical CPUs"),
        "memory_bytes": ("integer?", "its memory"),
    },
    "memory": {
        "total_bytes": ("integer?", "MemTotal"),
        "available_bytes": ("integer?", "MemAvailable"),
        "swap_total_bytes": ("integer?", "size of the swap"),
        "swap_used_bytes": ("integer?", "of it in use"),
        "page_bytes": ("integer", "size of a page"),
        "thp": ("string?", "transparent huge pages: always, madvise or never"),
        "thp_defrag": ("string?", "when the kernel makes room for them"),
        "thp_shmem": ("string?", "for shared memory"),
        "thp_sizes": ("string?{}", "by size of page, where the kernel has several: always, inherit, madvise or never", 3),
        "khugepaged": ("integer{}", "settings of the kernel's thread that makes huge pages later, by name", SOMETIMES),
        "hugepages_total": ("integer?", "reserved huge pages"),
        "hugepages_free": ("integer?", "of them free"),
        "hugepage_bytes": ("integer?", "size of a huge page"),
        "overcommit_memory": ("integer?", "the kernel's setting"),
        "overcommit_ratio": ("integer?", "the kernel's setting"),
    },
    "system": {
        "kernel": ("string", "release"),
        "mitigations": ("string?{}", "of processor vulnerabilities, by name"),
        "glibc": ("string?", "version"),
        "distribution": ("string?", "its own name"),
        "virtualisation": ("string?", "the hypervisor, or null"),
        "perf_event_paranoid": ("integer?", "the kernel's setting; in older records", SOMETIMES),
    },
    "container": {
        "runtime": ("string", "`none`, `docker`, `apptainer`, `podman` or what the runtime calls itself"),
        "cgroup_version": ("integer?", "1 or 2"),
        "cpu_limit": ("number?", "in CPUs"),
        "memory_limit_bytes": ("integer?", "the lowest that holds"),
    },
    "root_mount": {
        "fstype": ("string?", "kind of file system"),
        "source": ("string?", "device"),
        "subfolder": ("string?", "folder of it that is mounted"),
        "options": ("string?", "of the mount"),
        "read_only": ("boolean?", "whether it is"),
        "image_fstypes": ("string[]", "kinds of file system here through which an image is read"),
    },
    "git": {
        "revision": ("string", "commit"),
        "dirty": ("boolean", "whether anything differs from it"),
    },
    "load": {
        "before": ("busy", "before the ranks started"),
        "after": ("busy", "after they ended"),
    },
    "busy": {
        "time": ("number", "seconds of the wall clock"),
        "monotonic": ("number", "seconds of the clock that nobody sets, for durations", 2),
        "load_1min": ("number?", "load average of a minute"),
        **{f"cpu_{name}_seconds": ("number?", "since boot, over all CPUs")
           for name in ("total", "user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")},
        "running_processes": ("integer?", "at that moment"),
        "clock_ghz": ("number?", "mean clock of the cores"),
        "thermal_throttles": ("integer?", "times that a core was slowed down for its heat, since boot"),
        "cgroup_throttled_seconds": ("number?", "that the cgroup's CPU limit held threads back, since it was made"),
        "major_faults": ("integer?", "of the host, since boot"),
        "swap_in_pages": ("integer?", "since boot"),
        "swap_out_pages": ("integer?", "since boot"),
        "memory_available_bytes": ("integer?", "MemAvailable"),
        "huge_page_faults": ("integer{}", "faults of the host since boot that were served with a huge page, by its size", 3),
        "huge_page_fallbacks": ("integer{}", "faults that found no huge page of that size and took a smaller one, since boot", SOMETIMES),
        "huge_page_collapses": ("integer?", "huge pages that khugepaged made of small ones, since boot", SOMETIMES),
        "compaction_stalls": ("integer?", "times that a process waited for memory to be compacted, since boot", SOMETIMES),
    },
    "rank": {
        "rank": ("integer", "number of the process"),
        "node": ("integer", "number of its node"),
        "hostname": ("string", "name of its host"),
        "pid": ("integer", "process number there"),
        "cpus": ("integer[]", "logical CPUs that it is bound to"),
        "threads": ("integer", "torch's threads"),
        "openmp": ("openmp?", "how OpenMP's threads were bound, and where each was allowed at the end", 2),
        "environment": ("any", "variables that steer threads, arithmetic, torch and the allocator, as the rank was given them", 3),
        "environment_bytes": ("integer?", "of its environment when it was started, zeros included: the same for all arms", 2),
        "memory_node": ("integer?", "NUMA node that its memory is bound to; null where it is not bound"),
        "proof": ("proof", "which library answers `malloc`, before torch is imported"),
        "proof_end": ("proof", "the same at the end"),
        "startup_seconds": ("number", "from the start of the process to the first micro-batch"),
        "peak_rss_bytes": ("integer", "largest resident set"),
        "rss_bytes": ("integer", "resident set at the end"),
        "huge_bytes": ("integer", "transparent huge pages at the end"),
        "fault_cost_seconds": ("number?", "wall seconds of one minor fault here, this rank's threads faulting at once; null if not known"),
        "parameters_sha256": ("string", "over the trained parameters: the same bits, the same training"),
        "blas": ("any", "the library that multiplies matrices: version, the path that was asked for and the one that it takes", 2),
        "without": ("string[]", "sentences on what this host refuses and the rank does without", 2),
        "software": ("any", "versions of the rank's own Python and torch", 2),
        "micro_batches": ("micro_batches", "the samples, as columns of equal length"),
        "iterations": ("iterations", "the optimizer steps, as columns of equal length"),
    },
    "openmp": {
        "proc_bind": ("string?", "`OMP_PROC_BIND` as the rank was started with; null: OpenMP was told nothing", 2),
        "places": ("string?", "`OMP_PLACES`: a logical CPU for each thread", 2),
        "allowed": ("string[]", "`Cpus_allowed_list` of each thread of a parallel region, in the order of their numbers", 2),
    },
    "proof": {
        "malloc_library": ("string", "path of the library that `malloc` resolves to"),
        "sha256": ("string?", "of that file"),
        "version": ("string?", "as the allocator tells it"),
        "options": ("any", "its live options, as the allocator tells them"),
        "unconfirmed": ("string[]", "options that are set and that this allocator cannot be asked about", 2),
        "dropped": ("string[]", "options of the arm that this version no longer knows: replaced as `allocator.instead` says", SOMETIMES),
        "tunables": ("string{}", "`glibc.malloc.*` in the rank's environment, as its loader lists them; none before glibc 2.33", SOMETIMES),
        "libraries": ("string{}", "each library that does the arm's work, by path, with its SHA-256", 2),
        "library_path": ("string?", "the rank's `LD_LIBRARY_PATH`", 2),
        "tensor_memory": ("any", "at the end: how the live allocator was seen to serve a real tensor", SOMETIMES),
    },
    "micro_batches": {
        "iteration": ("integer[]", "which optimizer step"),
        "index": ("integer[]", "which micro-batch in it"),
        "kind": ("string[]", "`first` (makes the gradients), `settling` (the two behind it), `middle`, `last` (synchronises them)"),
        "steady": ("boolean[]", "false for warm-up, which is kept and not counted"),
        "loss": ("number[]", "as the rank computed it"),
        "forward_seconds": ("number[]", "wall time"),
        **columns("forward", "number[]"),
        "backward_seconds": ("number[]", "wall time"),
        **columns("backward", "number[]"),
        "rss_bytes": ("integer[]", "resident set afterwards"),
    },
    "iterations": {
        "iteration": ("integer[]", "which optimizer step"),
        "steady": ("boolean[]", "false for warm-up"),
        "wall_seconds": ("number[]", "micro-batches and step"),
        "optimizer_seconds": ("number[]", "clip, step and zero"),
        **columns("optimizer", "number[]"),
        "grad_norm": ("number[]", "before clipping"),
        "loss": ("number[]", "mean of its micro-batches"),
    },
    "derived": {
        "sec_per_it": ("number", "`n * mean(middle) + (first - middle) + settling + sync + optimizer`; full mode: mean of the iterations"),
        "sec_per_it_low": ("number?", "lower end of the 95 % interval of that mean within this job (Student's t); null if nothing repeats"),
        "sec_per_it_high": ("number?", "its upper end"),
        "samples": ("number[]", "each steady middle micro-batch as a whole iteration, or the counted iterations; arms are compared by these"),
        "micro_batch_seconds": ("number", "mean of the middle ones"),
        "first_seconds": ("number", "what the first micro-batch of an iteration takes beyond a middle one; noise may make it a little negative"),
        "settling_seconds": ("number", "what the two behind the first take beyond two middle ones: they fault in what the step gave back", 3),
        "sync_seconds": ("number", "what the last one takes beyond a middle one; noise may make it a little negative"),
        "optimizer_seconds": ("number", "mean of the steps"),
        "micro_batches_per_it": ("integer", "in a whole iteration of one rank"),
        "sampled_micro_batches": ("integer", "those that `sec_per_it` rests on"),
        "cautions": ("string[]", "sentences on samples that are fewer than asked for", 2),
        "tflops": ("number", "per node; hardware FLOPs, recomputation included where activations are checkpointed"),
        "est_aggr_petaflops": ("number", "`tflops * nodes / 1024`, as the published column has it"),
        "aggr_petaflops_si": ("number", "`tflops * nodes / 1000`"),
        "mem_mib": ("number?", "`host_used_mib`"),
        "peak_rss_bytes": ("integer", "the largest rank's peak"),
        **{f"{name}_per_it": ("number", f"{says}; summed over the ranks of a node, the largest node") for name, says in COUNTED.items()},
        "phases": ("phases", "where the time and the faults of an iteration are"),
        "rank_spread": ("rank_spread", "the fastest and the slowest rank"),
        "losses": ("number[]", "mean over the ranks, in order; all arms must agree on these"),
        "ghz": ("number?", "clock of the first host"),
        "notes": ("string", "the Notes column"),
    },
    "phases": {name: ("phase", "of a whole iteration") for name in ("forward", "backward", "sync", "optimizer")},
    "phase": {"seconds": ("number", "wall time"), **{name: ("number", says) for name, says in COUNTED.items()}},
    "rank_spread": {
        "min_sec_per_it": ("number", "of the fastest rank"),
        "max_sec_per_it": ("number", "of the slowest"),
        "min_micro_batch_seconds": ("number", "of the fastest rank"),
        "max_micro_batch_seconds": ("number", "of the slowest"),
    },
    **PROGRAM,
}  # fmt: skip


def of_kind(kind: str) -> dict[str, Any]:
    """JSON Schema of a kind as the module's docstring spells it."""
    if kind.endswith("?"):
        inner = of_kind(kind[:-1])
        return {**inner, "type": [inner["type"], "null"]} if "type" in inner else {"anyOf": [inner, {"type": "null"}]}
    if kind.endswith("[]"):
        return {"type": "array", "items": of_kind(kind[:-2])}
    if kind.endswith("{}"):
        return {"type": "object", "additionalProperties": of_kind(kind[:-2])}
    if kind == "any":
        return {}
    return {"type": kind} if kind in ("string", "number", "integer", "boolean") else {"$ref": f"#/$defs/{kind}"}


def of_section(fields: Mapping[str, Field], schema: int) -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": sorted(name for name, field in fields.items() if (*field, 1)[2] <= schema),
        "properties": {name: {**of_kind(field[0]), "description": field[1]} for name, field in fields.items()},
    }


def of_annotation(hint: Any) -> dict[str, Any]:
    """JSON Schema of a dataclass of job.py or of one of its annotations. No key is required: one that is missing has its default."""
    if dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        properties = {field.name: of_annotation(hints[field.name]) for field in dataclasses.fields(hint)}
        return {"type": "object", "additionalProperties": False, "properties": properties}
    names = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
    if hint in names:
        return {"type": names[hint]}
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is dict:
        return {"type": "object", "additionalProperties": of_annotation(arguments[1])}
    if typing.get_origin(hint) in (list, tuple):
        return {"type": "array", "items": of_annotation(arguments[0])}
    return {"anyOf": [of_annotation(argument) for argument in arguments]}  # Optional[...]


def record_schema(schema: int = SCHEMA) -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a record with this schema number. Unknown fields are refused everywhere but in an ``any``."""
    sections = {name: of_section(fields, schema) for name, fields in SECTIONS.items() if name != "record"}
    record = of_section(SECTIONS["record"], schema)
    for name in OF_PROGRAM:  # only said here: what they hold depends on whose record it is
        record["properties"][name] = {"description": record["properties"][name]["description"]}
    of_ours = {name: of_kind(SECTIONS["record"][name][0]) for name in OF_PROGRAM}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "record.json",
        **record,
        "if": {"required": ["job"], "properties": {"job": {"required": ["program"]}}},
        "then": {"properties": {name: of_kind(kind) for name, kind in OF_PROGRAM.items()}},
        "else": {"properties": of_ours},
        "$defs": {"job": of_annotation(Job), **sections},
    }


def table_of(section: str) -> str:
    """A section's fields as a Markdown table, and those of ``job`` with their defaults."""
    if section == "job":
        rows = [(f"`{key}`", f"`{default}`") for key, default in job_keys(Job())]
        return lines_of(("key", "default"), rows)
    return lines_of(
        ("field", "kind", "meaning"), [(f"`{name}`", field[0], field[1]) for name, field in SECTIONS[section].items()]
    )


def job_keys(part: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Dotted keys of a dataclass with their defaults, as JSON spells them."""
    found: list[tuple[str, str]] = []
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if dataclasses.is_dataclass(value):
            found += job_keys(value, f"{prefix}{field.name}.")
        else:
            found.append((prefix + field.name, json.dumps(value)))
    return found


def lines_of(headings: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in (headings, ("---",) * len(headings), *rows)]
    return "\n".join(lines) + "\n"
