"""What every reader of a record relies on, checked when it is read: a record comes from anybody.

docs/record.md lists all fields; here are those without which the code would stumble. Nothing is said of keys beside them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, NoReturn

from bench.job.checks import brief, shaped
from bench.job.errors import ConfigError, printable
from bench.job.sampling import KINDS

COUNTERS = ("minor_faults", "major_faults", "user_seconds", "system_seconds")
LARGEST = 1e18
DEEPEST = 8  # groups in groups, of the facts of a host


class Number:
    """A finite number that is no truth value; ``positive``: greater than 0."""

    def __init__(self, positive: bool = False) -> None:
        self.positive = positive


class Or:
    """Null, or what is named."""

    def __init__(self, kind: Any) -> None:
        self.kind = kind


NUMBER, POSITIVE, TEXT = Number(), Number(positive=True), Or(str)
PRODUCT = {
    "library": TEXT,
    "version": TEXT,
    "path": TEXT,
    "product_gflops": POSITIVE,
    "threads": POSITIVE,
    "shell_line": TEXT,
    "shell_says": str,
}
ALLOWANCE = {"cpu_limit": Or(POSITIVE), "memory_limit_bytes": Or(POSITIVE)}
HOST = {
    "hostname": str,
    "cpu": {
        "model": TEXT,
        "logical": Or(POSITIVE),
        "physical": Or(POSITIVE),
        "affinity": str,
        "ghz": Or(POSITIVE),
        "governor": TEXT,
    },
    "numa": {"nodes": Or(POSITIVE), "per_node": dict},
    "memory": {"total_bytes": Or(POSITIVE), "page_bytes": POSITIVE, "thp": TEXT},
    "system": {"kernel": TEXT, "glibc": TEXT, "mitigations": dict, "distribution": TEXT},
    "container": {"runtime": TEXT, **ALLOWANCE},
    "image": Or(dict),
    "git": Or({"revision": TEXT}),
    "python": {"version": str},
    "packages": dict,
}
# Keys of the first records; a later one may be missing, and means its default then.
JOB = {
    "nodes": POSITIVE,
    "ranks_per_node": POSITIVE,
    "repeat": NUMBER,
    "seed": NUMBER,
    "allocator": {"name": str, "library": TEXT, "env": dict, "shows": str},
    "model": {"name": str, **dict.fromkeys(("layers", "hidden", "heads", "sequence", "vocabulary"), POSITIVE)},
    "train": {"micro_batch_size": POSITIVE, "global_batch_size": POSITIVE},
    "parallel": {"tensor": POSITIVE, "pipeline": POSITIVE},
    "measure": {"mode": str},
    "data": {"path": TEXT},
    "launch": dict,
}
RECORD = {
    "bench_version": str,
    "content_hash": str,
    "job": JOB,
    "status": str,
    "valid": bool,
    "error": TEXT,
    "warnings": [str],
    "started_at": datetime,
    "wall_seconds": NUMBER,
    "launch": {"launcher": str, "simulated": bool, "dropped_environment": [str]},
    "hosts": [HOST],
    "host_used_mib": Or(NUMBER),
    "ranks": Or(list),
    "derived": Or(dict),
}
PROOF = {"malloc_library": str, "sha256": str, "version": TEXT, "options": dict}
RANK = {
    "rank": NUMBER,
    "node": NUMBER,
    "hostname": str,
    "cpus": [NUMBER],
    "threads": POSITIVE,
    "proof": PROOF,
    "startup_seconds": NUMBER,
    "peak_rss_bytes": NUMBER,
    "rss_bytes": NUMBER,
    "huge_bytes": NUMBER,
    "fault_cost_seconds": Or(NUMBER),
    "micro_batches": dict,
    "iterations": dict,
}
PHASE = {"seconds": NUMBER, **dict.fromkeys(COUNTERS, NUMBER)}
DERIVED = {
    "sec_per_it": POSITIVE,
    "sec_per_it_low": Or(NUMBER),
    "sec_per_it_high": Or(NUMBER),
    "samples": [POSITIVE],
    "micro_batch_seconds": POSITIVE,
    "first_seconds": NUMBER,
    "settling_seconds": NUMBER,
    "sync_seconds": NUMBER,
    "optimizer_seconds": NUMBER,
    "micro_batches_per_it": POSITIVE,
    "sampled_micro_batches": NUMBER,
    "tflops": NUMBER,
    "est_aggr_petaflops": NUMBER,
    "aggr_petaflops_si": NUMBER,
    "mem_mib": Or(NUMBER),
    "peak_rss_bytes": NUMBER,
    **{f"{name}_per_it": NUMBER for name in COUNTERS},
    "phases": {phase: PHASE for phase in ("forward", "backward", "sync", "optimizer")},
    "rank_spread": dict.fromkeys(
        ("min_sec_per_it", "max_sec_per_it", "min_micro_batch_seconds", "max_micro_batch_seconds"), NUMBER
    ),
    "losses": [NUMBER],
    "ghz": Or(POSITIVE),
    "notes": str,
}
# Keys that not every record has: what is there is looked at.
SOMETIMES_OF_HOST = {"products": Or({"full": PRODUCT, "stock": PRODUCT})}
SOMETIMES_OF_CPU = {"flops_per_clock": Or(POSITIVE), "vector": TEXT, "ghz_source": TEXT}
SOMETIMES_OF_PRODUCT = {"product_cpus": NUMBER}
SOMETIMES_OF_DERIVED = {"cautions": [str]}
# A user's program has its command in place of the model, and phases of its own.
JOB_OF_PROGRAM = {k: v for k, v in JOB.items() if k not in ("model", "train", "parallel", "data")}
DERIVED_OF_PROGRAM = {
    "sec_per_it": POSITIVE,
    "samples": [POSITIVE],
    "peak_rss_bytes": NUMBER,
    "phases": dict,
    "notes": str,
}
MICRO_BATCHES = (
    "iteration",
    "index",
    "loss",
    "forward_seconds",
    "backward_seconds",
    "rss_bytes",
    *(f"{phase}_{name}" for phase in ("forward", "backward") for name in COUNTERS),
)
ITERATIONS = (
    "iteration",
    "wall_seconds",
    "optimizer_seconds",
    "grad_norm",
    "loss",
    *(f"optimizer_{name}" for name in COUNTERS),
)


def check_shape(record: Mapping[str, Any]) -> None:
    """Raises ConfigError, which names the key, where the record has not what its readers rely on."""
    program = is_program(record)
    expect(record, {**RECORD, "job": JOB_OF_PROGRAM} if program else RECORD, "")
    shaped(record["job"])
    for i, host in enumerate(record["hosts"]):
        check_host(host, f"hosts[{i}]")
    if not record["hosts"]:
        refuse("hosts", [], "a list of one or more")
    if not record["valid"]:
        return
    if not record["ranks"] or not record["derived"]:
        refuse("valid", True, "false where ranks or derived are missing")
    if program:
        expect(record["ranks"], [{"proof": dict, "threads": POSITIVE}], "ranks")
    for i, rank in enumerate([] if program else record["ranks"]):
        check_rank(rank, f"ranks[{i}]")
    expect(record["derived"], DERIVED_OF_PROGRAM if program else DERIVED, "derived")
    expect_where_there(record["derived"], SOMETIMES_OF_DERIVED, "derived")
    if not record["derived"]["samples"]:
        refuse("derived.samples", [], "a list of one or more")


def check_rank(rank: Mapping[str, Any], where: str) -> None:
    expect(rank, RANK, where)
    check_columns(rank["micro_batches"], MICRO_BATCHES, f"{where}.micro_batches")
    check_columns(rank["iterations"], ITERATIONS, f"{where}.iterations")
    kinds = rank["micro_batches"].get("kind")
    if not isinstance(kinds, list) or not all(isinstance(kind, str) for kind in kinds) or not set(kinds) <= set(KINDS):
        refuse(f"{where}.micro_batches.kind", kinds, "first, settling, middle or last")
    if len(kinds) != len(rank["micro_batches"]["loss"]):
        refuse(f"{where}.micro_batches.kind", kinds, "as long as the other columns")


def is_program(record: Mapping[str, Any]) -> bool:
    """Whether a user's program was measured, and not our own GPT."""
    job = record.get("job")
    program = job.get("program") if isinstance(job, dict) else None
    return isinstance(program, dict) and bool(program.get("command"))


def check_host(host: Any, where: str) -> None:
    expect(host, HOST, where)
    expect_where_there(host, SOMETIMES_OF_HOST, where)
    expect_where_there(host["cpu"], SOMETIMES_OF_CPU, f"{where}.cpu")
    for path in ("full", "stock") if host.get("products") else ():
        expect_where_there(host["products"][path], SOMETIMES_OF_PRODUCT, f"{where}.products.{path}")
    refuse_depth(host, DEEPEST, where)
    for part in ("cpu", "numa", "memory", "system", "container", "git", "python", "packages"):
        refuse_lists(host.get(part), f"{where}.{part}")
    if not re.fullmatch(r"(\d{1,5}(-\d{1,5})?(,|$))*", host["cpu"]["affinity"]):
        refuse(f"{where}.cpu.affinity", host["cpu"]["affinity"], "a list of CPUs")


def check_columns(columns: Mapping[str, Any], names: Iterable[str], where: str) -> None:
    """Columns of equal length, one or more, of numbers; and ``steady``, of truths."""
    length = None
    for name in (*names, "steady"):
        column = columns.get(name)
        kinds: set[type] = {bool} if name == "steady" else {int, float}
        if not isinstance(column, list) or not column or not set(map(type, column)) <= kinds:
            refuse(f"{where}.{name}", column, "a column of " + ("truths" if name == "steady" else "numbers"))
        if name != "steady" and not (max(column) < LARGEST and min(column) > -LARGEST):
            refuse(f"{where}.{name}", max(column, key=abs), "of a size that is measured")
        if len(column) != (length := length or len(column)):
            refuse(f"{where}.{name}", len(column), f"as long as the other columns, {length}")


def expect(value: Any, kind: Any, where: str) -> None:
    """Raises ConfigError where ``value`` is not as ``kind`` says: a type, `Number`, `Or`, [kind], or {key: kind}."""
    if isinstance(kind, Or):
        if value is not None:
            expect(value, kind.kind, where)
    elif isinstance(kind, Number):
        expect_number(value, kind, where)
    elif isinstance(kind, dict):
        expect_group(value, kind, where)
    elif kind is datetime:
        expect_moment(value, where)
    elif isinstance(kind, list):
        if not isinstance(value, list):
            refuse(where, value, "a list")
        for i, one in enumerate(value):
            expect(one, kind[0], f"{where}[{i}]")
    elif not isinstance(value, kind):
        refuse(where, value, {str: "a text", bool: "true or false", dict: "a group of keys", list: "a list"}[kind])


def expect_moment(value: Any, where: str) -> None:
    try:
        datetime.fromisoformat(value)
    except (TypeError, ValueError):
        refuse(where, value, "a date and time of ISO 8601")


def expect_number(value: Any, kind: Number, where: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < LARGEST:
        refuse(where, value, "a number")
    if kind.positive and not value > 0:
        refuse(where, value, "greater than 0")


def expect_group(value: Any, kind: Mapping[str, Any], where: str) -> None:
    if not isinstance(value, dict):
        refuse(where, value, "a group of keys")
    for key, inner in kind.items():
        if key not in value:
            raise ConfigError(f"{where}{'.' * bool(where)}{key} is missing.")
        expect(value[key], inner, f"{where}{'.' * bool(where)}{key}")


def expect_where_there(value: Any, kinds: Mapping[str, Any], where: str) -> None:
    """`expect` of those keys that ``value`` has."""
    expect(value, {key: kind for key, kind in kinds.items() if key in value}, where)


def refuse(where: str, value: Any, wanted: str) -> NoReturn:
    raise ConfigError(f"{printable(where)}={brief(value)} is not {wanted}.")


def refuse_depth(value: Any, left: int, where: str) -> None:
    if isinstance(value, (dict, list)):
        if not left:
            raise ConfigError(f"{where} is nested too deeply.")
        for one in value.values() if isinstance(value, dict) else value:
            refuse_depth(one, left - 1, where)


def refuse_lists(value: Any, where: str) -> None:
    """Facts that are compared, and are keys of a table: single values, in groups."""
    if isinstance(value, list):
        refuse(where, value, "a single value")
    for key, one in value.items() if isinstance(value, dict) else ():
        refuse_lists(one, f"{where}.{key}")
