"""A pack: records that may be given away, in one tar file, without what names their machines and people. docs/pack.md lists what goes.

What is measured stays: samples, figures, and the facts by which hosts are told apart. A packed record is sealed again and names
the seal that it had first, so that it and its origin count once.
"""

from __future__ import annotations

import gzip
import io
import re
import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.job.identity import BEGIN
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
NULLED = {"boot_id", "interface"}
OF_MOUNT = ("source", "subfolder", "options")


def stripped(record: Record) -> Record:
    """The record without names; not sealed yet."""
    names = host_names(record)
    users = user_names(record)

    def text(value: str) -> str:
        value = PATH.sub(lambda found: ".../" + found.group().rsplit("/", 1)[-1], value)
        for name, other in names.items():
            value = re.sub(rf"(?<![\w-]){re.escape(name)}(?![\w-])", other, value)
        for user in users:
            value = re.sub(rf"(?<![\w-]){re.escape(user)}(?![\w-])", "user", value)
        return value

    whole: Record = walk(
        {key: value for key, value in record.items() if key not in ("sha256", *records.IN_MEMORY)}, text
    )
    whole["launch"]["master_addr"] = "node1"
    for host in whole["hosts"]:
        mount = host.get("root_mount")
        if isinstance(mount, dict):
            host["root_mount"] = {**mount, **{key: None for key in OF_MOUNT if key in mount}}
    whole["error"] = said(whole["error"])
    whole["warnings"] = [said(sentence) for sentence in whole["warnings"]]
    return {**whole, "packed_from": first_seal(record)}


def said(sentence: str | None) -> str | None:
    return None if sentence is None else JOB_ID.sub(r"\1N", ADDRESS.sub("an address", sentence))


def walk(value: Any, text: Callable[[str], str], key: str = "") -> Any:
    """The same value with every text, and every name of a group, put through ``text``."""
    if isinstance(value, dict):
        made: dict[str, Any] = {}
        for name, inner in value.items():
            new = text(name)
            while new in made:  # two libraries of one name in two folders
                new += "~"
            made[new] = walk(inner, text, name)
        return made
    if key in NULLED:
        return None
    if key == "pid":
        return 0
    if isinstance(value, list):
        return [walk(inner, text, key) for inner in value]
    return text(value) if isinstance(value, str) else value


def host_names(record: Record) -> dict[str, str]:
    """Each host's name, long and short, and what it is called in the pack."""
    found = [host["hostname"] for host in record["hosts"]]
    found += [rank["hostname"] for rank in record["ranks"] or [] if "hostname" in rank]
    names: dict[str, str] = {}
    for number, name in enumerate(dict.fromkeys(filter(None, found)), 1):
        names[name] = f"node{number}"
        names.setdefault(name.partition(".")[0], f"node{number}")
    return dict(sorted(names.items(), key=lambda item: -len(item[0])))


def user_names(record: Record) -> list[str]:
    """Those that stand in home folders."""
    found: set[str] = set()

    def look(text: str) -> str:
        found.update(re.findall(r"/(?:home|Users)/([\w.-]+)", text))
        return text

    walk(record, look)
    return sorted(found, key=len, reverse=True)


def write_pack(path: Path, found: Sequence[Record]) -> list[Record]:
    """The pack of these records at ``path``, the same bytes each time. Raises RecordError."""
    from bench.record.crate import crate_text

    packed = [records.seal(stripped(record)) for record in found]
    top = path.name.partition(".")[0] or "pack"
    files = dict(sorted((f"{name}/record.json", record) for name, record in named(packed).items()))
    members = {name: (records.text_of(record)).encode() for name, record in files.items()}
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
    """A folder name for each record, made of its job and of nothing else."""
    made: dict[str, Record] = {}
    for record in found:
        job = record["job"]
        arm = re.sub(r"[^\w.-]", "_", job["allocator"]["name"])
        name = f"n{job['nodes']:03d}_{arm}_r{job['repeat']:02d}-{record['content_hash'][:8]}"
        made[name if name not in made else f"{name}-{record['packed_from'][:8]}"] = record
    return made


def leftovers(record: Mapping[str, Any]) -> list[str]:
    """What of a packed record still names a machine or a person, a sentence each; none in one that `pack` made."""
    if not record.get("packed_from"):
        return ["it was not made by `pack`."]
    again = stripped(dict(record))
    found = []
    for key in sorted(record):
        if key not in ("sha256", "packed_from", *records.IN_MEMORY) and again.get(key) != record[key]:
            found.append(f"{key} still has something that `pack` takes away.")
    texts: list[str] = []
    stored = {key: value for key, value in record.items() if key not in records.IN_MEMORY}
    walk(stored, lambda text: texts.append(text) or text)  # type: ignore[func-returns-value]
    found += [f"{one.group()!r} may name a person or a project." for text in texts for one in PRIVATE.finditer(text)]
    return list(dict.fromkeys(found))
