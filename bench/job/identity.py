"""What makes two jobs the same experiment: the only definition, by content. Resume, grouping, comparison and packs use it.

Versions and hashes count. Paths, time limits and descriptions are information: the same command in another folder, by another user
or from a pack, which cuts paths, is the same experiment. Functions take a job as plain data with all of its keys: `job.to_dict`, or of a
record that was read.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

# Versions of an interpreter (launch.software) are facts of a record's host, where they are compared (likeness.SAME_TIMES).
INFORMATION = ("launch.interface", "launch.python", "launch.software", "program.directory", "data.path", "replay.trace")
PLACE = ("nodes", "repeat", "group")  # which cell, block and group of interleaved runs of an experiment a job is
AMOUNT = ("measure.mode", "measure.iteration_micro_batches")  # of `measure`, what is no mere amount
# Where a path may begin: not within a word or another path, but right after an option of a compiler.
BEGIN = r"(?:(?<![\w./-])|(?<=-[ILBF])|(?<=-isystem))"
# A path, and what a pack leaves of one (.../name).
PATH = re.compile(BEGIN + r"(?:~|\.\.\.)?(?:/[^\s\"'`,;:=()\[\]{}/]+)+")


def canonical(value: Any) -> str:
    """Return JSON with one spelling (sorted keys, no spaces), as hashes need."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def identity(job: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the job has in common with others of its experiment, by dotted names: all but arm, nodes and block."""
    content = {key: value for key, value in flat(job).items() if not _is_information(key)}
    if "program" in job:
        if content.get("program.name") is None:
            content.pop("program.name", None)
        files, command = job["program"].get("files", {}), content["program.command"]
        names = {last_part(path.rstrip("~")) for path in files}
        # Sorted: a pack has other names of the files, and so another order.
        content["program.files"] = sorted([last_part(path.rstrip("~")), sha256] for path, sha256 in files.items())
        content["program.command"] = [last_part(word) if last_part(word) in names else word for word in command]
    elif (path := job.get("data", {}).get("path")) is not None and content.get("data.sha256") is None:
        content["data.sha256"] = last_part(path)  # a record from before the file was hashed
    return {key: without_folders(value) for key, value in content.items()}


def arm(job: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arm's setting; which file of the library served is in each rank's proof."""
    allocator = job["allocator"]
    return {key: without_folders(allocator.get(key)) for key in ("name", "library", "env")}


def content_hash(job: Mapping[str, Any]) -> str:
    """Return the SHA-256, as 64 hex digits, over all that decides the job's measurement on a host."""
    setting = {key: job["allocator"].get(key) for key in ("name", "library", "env")}
    content = [identity(job), {key: job[key] for key in PLACE if key in job}, setting, job["launch"].get("software")]
    return hashlib.sha256(canonical(content).encode()).hexdigest()


def is_amount(key: str) -> bool:
    """Return whether this key of an identity is an amount, in which two results of one experiment may differ."""
    return key.startswith("measure.") and key not in AMOUNT


def followed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return an identity without what of a program changes from commit to commit: its files, and the command of one with a label."""
    changing = ("program.files", "program.command" if content.get("program.name") is not None else "program.files")
    return {key: value for key, value in content.items() if key not in changing}


def flat(facts: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested keys as dotted names."""
    found: dict[str, Any] = {}
    for key, value in facts.items():
        found.update(flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value})
    return found


def without_folders(value: Any) -> Any:
    """Return the value with each path in its texts cut to the last part."""
    if isinstance(value, str):
        return PATH.sub(lambda found: last_part(found.group()), value)
    if isinstance(value, Mapping):
        return {key: without_folders(inner) for key, inner in value.items()}
    return [without_folders(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def last_part(path: str) -> str:
    return path.rpartition("/")[2]


def _is_information(key: str) -> bool:
    return (
        key in (*INFORMATION, *PLACE)
        or key.startswith(("allocator.", "program.files."))
        or "timeout" in key
        or key.endswith("silence_seconds")
    )
