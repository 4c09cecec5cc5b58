"""A pack: anonymized records in one tar file. docs/how-to/share-results.md lists what is removed.

What is measured stays: samples, and the facts by which hosts are distinguished. A packed record is sealed again and names its first
seal, so that it and its origin count once.
"""

from __future__ import annotations

import gzip
import io
import re
import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.job.identity import BEGIN, last_part
from bench.job.job import from_dict
from bench.record import records
from bench.record.records import Record, first_seal

STRIPPED = (
    ("host names", "node1, node2, ..., everywhere in the record"),
    ("addresses", "`launch.master_addr` and what looks like one in `error` and `warnings`"),
    ("boot ids and process numbers", "`boot_id` is null, `pid` is 0"),
    ("network interfaces", "`launch.interface`, `job.launch.interface` are null"),
    ("paths", "those outside of /usr, /lib, /lib64, /bin, /sbin, /opt/bench keep their last part: `.../libfoo.so`"),
    (
        "user names and job ids",
        "they stand in paths, which go, and as `user` or a job number in `error` and `warnings`",
    ),
    ("disks", "`root_mount.source`, `subfolder` and `options` are null"),
)
PATH = re.compile(
    BEGIN + r"~?/(?!/|(?:usr|lib|lib64|bin|sbin|opt/bench)(?:/|\b))[^\s\"'`,;:=()\[\]{}]*[^\s\"'`,;:=()\[\]{}./]"
)
ADDRESS = re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}\b|\b(?:[0-9a-f]{1,4}:){3,7}:?[0-9a-f]{1,4}\b")
JOB_ID = re.compile(r"(?i)\b(job(?:[ _-]?id)?[ =:#]+)\d+")
# What `pack --check` looks for: folders in which people and projects are, wherever they stand, and mail addresses. It is another list
# than PATH, so that a fault of the one is found by the other.
PRIVATE = re.compile(
    r"(?<!\.\.\.)/(?:home|root|Users|scratch|work|data|mnt|media|lustre|gpfs|beegfs|nfs|afs|net|projects?|proj|tmp|var/tmp|srv|users?|"
    r"cluster|storage|p|u)/[\w.]|\b[\w.+-]+@[\w-]+\.[\w.-]+"
)
REPLACED = {"boot_id": None, "interface": None, "pid": 0}
OF_MOUNT = ("source", "subfolder", "options")


def stripped(record: Record) -> Record:
    """Return the record without names, not sealed yet."""
    names = host_names(record)
    for user in user_names(record):
        names.setdefault(user, "user")

    def strip(value: str) -> str:
        value = PATH.sub(lambda found: ".../" + last_part(found.group()), value)
        for name, other in names.items():
            value = re.sub(rf"(?<![\w-]){re.escape(name)}(?![\w-])", other, value)
        return value

    content = {key: value for key, value in record.items() if key not in ("sha256", *records.IN_MEMORY)}
    whole: Record = walk(content, strip)
    whole["launch"]["master_addr"] = "node1"
    for host in whole["hosts"]:
        mount = host.get("root_mount")
        if isinstance(mount, dict):
            host["root_mount"] = {**mount, **{key: None for key in OF_MOUNT if key in mount}}
    whole["error"] = without_addresses(whole["error"])
    whole["warnings"] = [without_addresses(sentence) for sentence in whole["warnings"]]
    return {**whole, "packed_from": first_seal(record)}


def without_addresses(sentence: str | None) -> str | None:
    return None if sentence is None else JOB_ID.sub(r"\1N", ADDRESS.sub("an address", sentence))


def walk(value: Any, strip: Callable[[str], str], key: str = "") -> Any:
    """Return the value with every text, and every name of a group, put through ``strip``."""
    if isinstance(value, dict):
        made: dict[str, Any] = {}
        for name, inner in value.items():
            new = strip(name)
            while new in made:  # two libraries of one name in two folders
                new += "~"
            made[new] = walk(inner, strip, name)
        return made
    if key in REPLACED:
        return REPLACED[key]
    if isinstance(value, list):
        return [walk(inner, strip, key) for inner in value]
    return strip(value) if isinstance(value, str) else value


def texts_of(value: Any) -> list[str]:
    """Return all texts in a record, names of groups included."""
    found: list[str] = []
    walk({k: v for k, v in value.items() if k not in records.IN_MEMORY}, lambda text: found.append(text) or text)  # type: ignore[func-returns-value]
    return found


def host_names(record: Record) -> dict[str, str]:
    """Return each host's name, long and short, with its name in the pack, the longest first."""
    found = [host["hostname"] for host in record["hosts"]]
    found += [rank["hostname"] for rank in record["ranks"] or [] if "hostname" in rank]
    names: dict[str, str] = {}
    for number, name in enumerate(dict.fromkeys(filter(None, found)), 1):
        names[name] = f"node{number}"
        names.setdefault(name.partition(".")[0], f"node{number}")
    return dict(sorted(names.items(), key=lambda item: -len(item[0])))


def user_names(record: Record) -> list[str]:
    """Return the users whose home folders stand in the record, the longest name first."""
    found = {name for text in texts_of(record) for name in re.findall(r"/(?:home|Users)/([\w.-]+)", text)}
    return sorted(found, key=len, reverse=True)


def write_pack(path: Path, found: Sequence[Record]) -> list[Record]:
    """Write the pack of these records to ``path``, always the same bytes, and return them stripped. Raises RecordError."""
    from bench.record.crate import crate_text

    packed = [records.seal(stripped(record)) for record in found]
    top = path.name.partition(".")[0] or "pack"
    files = dict(sorted((f"{name}/record.json", record) for name, record in named(packed).items()))
    members = {name: records.text_of(record).encode() for name, record in files.items()}
    members["ro-crate-metadata.json"] = crate_text(files, top).encode()
    whole = io.BytesIO()
    with gzip.GzipFile(fileobj=whole, mode="wb", mtime=0) as zipped, tarfile.open(fileobj=zipped, mode="w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(f"{top}/{name}")
            info.size, info.mode = len(content), 0o644
            tar.addfile(info, io.BytesIO(content))
    records.write_bytes(path, whole.getvalue())
    return packed


def named(found: Iterable[Record]) -> dict[str, Record]:
    """Return the records by the names of their folders."""
    made: dict[str, Record] = {}
    for record in found:
        name = from_dict(record["job"]).directory
        made[name if name not in made else f"{name}-{record['packed_from'][:8]}"] = record
    return made


def leftovers(record: Mapping[str, Any]) -> list[str]:
    """Return a sentence on each thing of a packed record that still names a machine or a person; none in one that `pack` made."""
    if not record.get("packed_from"):
        return ["it was not made by `pack`."]
    again, known = stripped(dict(record)), ("sha256", "packed_from", *records.IN_MEMORY)
    changed = [key for key in sorted(record) if key not in known and again.get(key) != record[key]]
    private = [one.group() for text in texts_of(record) for one in PRIVATE.finditer(text)]
    found = [f"{key} still has something that `pack` takes away." for key in changed]
    return list(dict.fromkeys([*found, *(f"{one!r} may name a person or a project." for one in private)]))
