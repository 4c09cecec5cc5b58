"""A pack names nobody, is read like the folder it came from, and says what is wrong with one that was sent in."""

from __future__ import annotations

import gzip
import io
import json
import re
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import builders
import pytest
from rocrate.rocrate import ROCrate

from bench.job.errors import ConfigError, RecordError
from bench.paths import CHECKOUT
from bench.record import records
from bench.record.anonymize import leftovers, stripped
from bench.record.crate import PROFILE
from bench.record.packs import unpacked
from bench.workloads import reading

pytestmark = pytest.mark.usefixtures("undrawn")

SMOKE = CHECKOUT / "tests" / "data" / "smoke"
SECRETS = (
    "cn042",
    "cluster.example",
    "alice",
    "/scratch",
    "10.1.2.3",
    "0c3c2b1a-boot",
    "eth7",
    "job 4711",
    "job_4711",
    "nvme0n1",
    "987654",
)


@pytest.fixture
def named(tmp_path: Path) -> Path:
    """A folder with six records that name a host, a user, a job, paths, addresses."""
    for number, path in enumerate(sorted(SMOKE.glob("*/record.json"))):
        record = json.loads(path.read_text())
        host, rank = record["hosts"][0], record["ranks"][0]
        host.update(hostname="cn042.cluster.example", boot_id="0c3c2b1a-boot")
        host["root_mount"]["source"] = "/dev/nvme0n1p2"
        rank.update(hostname="cn042", pid=987654)
        rank["proof"]["malloc_library"] = "/home/alice/lib/libtcmalloc.so.4"
        rank["proof"]["libraries"] = {
            "/home/alice/lib/libtcmalloc.so.4": "ab" * 32,
            "/scratch/x/libtcmalloc.so.4": "cd" * 32,
        }
        record["launch"].update(master_addr="10.1.2.3", interface="eth7")
        record["job"]["launch"]["interface"] = "eth7"
        record["job"]["data"]["path"] = "/scratch/alice/tokens.bin"
        record["warnings"] = ["On cn042 other programs of alice (job 4711, 10.1.2.3) wrote to /scratch/job_4711/tmp."]
        records.write(tmp_path / "d" / "cn042" / path.parent.name / "record.json", record)
        assert number < 6
    return tmp_path / "d"


def pack(folder: Path, name: str = "ours.tar.gz") -> Path:
    to = folder.parent / name
    assert builders.run_command("pack", str(folder), "-o", str(to)) == 0
    return to


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {m.name: (tar.extractfile(m) or io.BytesIO()).read() for m in tar}


def test_nothing_in_a_pack_names_the_machine_or_the_user(named: Path) -> None:
    before = b"".join(path.read_bytes() for path in named.rglob("record.json")).decode()
    assert all(secret in before for secret in SECRETS)
    path = pack(named)
    text = " ".join(name + content.decode() for name, content in members(path).items())
    assert [secret for secret in SECRETS if secret in text] == []
    with tarfile.open(path) as tar:
        assert {(m.uid, m.gid, m.uname, m.gname, m.mtime) for m in tar} == {(0, 0, "", "", 0)}
    assert path.read_bytes() == pack(named, "ours.tgz").read_bytes(), "the same records, the same bytes"


@pytest.mark.parametrize(
    "text",
    [
        "/usr/lib:/scratch/proj42/alice/lib:/opt/x/lib",
        "gcc -I/scratch/alice/include -L/work/alice/lib -isystem/home/alice/include",
        "-Wl,-rpath,/scratch/alice/lib -Wl,-rpath=/lustre/alice/lib",
        "sh -c 'cd \"/data/alice/my run\" && ./a'",
        "TMPDIR=/tmp/alice python ~/alice/train.py",
    ],
)
def test_every_path_of_a_text_is_cut_and_the_check_finds_one_that_was_left(text: str) -> None:
    record = json.loads(next(SMOKE.glob("*/record.json")).read_text())
    record["ranks"][0]["proof"]["library_path"] = text
    packed = stripped(record)
    cut = packed["ranks"][0]["proof"]["library_path"]
    assert not re.search("(alice|my)/|/(scratch|proj42|work|lustre|data|home|tmp|opt)", cut), cut
    assert leftovers(packed) == []
    packed["ranks"][0]["proof"]["library_path"] = "-X/home/bob/lib"  # as if an option were not known
    assert any("/home/b" in sentence for sentence in leftovers(packed))


def test_what_is_measured_stays_and_the_record_verifies(named: Path) -> None:
    origin = {records.first_seal(r): r for r in reading.collect([named]).records}
    found = reading.collect([pack(named)])
    assert len(found.records) == 6 and not found.refused
    for record in found.records:
        first = origin[record["packed_from"]]
        assert record["derived"] == first["derived"] and record["content_hash"] == first["content_hash"]
        assert record["ranks"][0]["micro_batches"] == first["ranks"][0]["micro_batches"]
        proof = record["ranks"][0]["proof"]
        assert proof["malloc_library"] == ".../libtcmalloc.so.4" and len(proof["libraries"]) == 2
        assert leftovers(record) == []
    together = reading.collect([named, pack(named)])
    assert len(together.records) == 6, "a packed record and its origin count once"


def test_report_and_compare_read_a_pack_like_its_folder(named: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = pack(named)
    assert builders.run_command("report", str(path)) == 0
    assert (named.parent / "ours" / "report.html").exists()
    builders.run_command("report", str(named))
    assert (named / "ratios.csv").read_text().split(",")[14:] == (
        named.parent / "ours" / "ratios.csv"
    ).read_text().split(",")[14:]
    with tarfile.open(path) as tar:
        tar.extractall(named.parent / "by hand")
    said = []
    for one in (path, named.parent / "by hand", named):
        capsys.readouterr()
        code = builders.run_command("compare", str(one), str(one))
        said.append((code, " ".join(capsys.readouterr().out.split()).replace(str(one), "IT")))
    assert said[0] == said[1] and "tcmalloc" in said[0][1]
    assert said[2][0] == said[0][0] and said[2][1].partition(" A ")[0] == said[0][1].partition(" A ")[0]


def test_a_pack_that_was_sent_in_is_checked(named: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = pack(named)
    assert builders.run_command("pack", "--check", str(path)) == 0
    assert "6 records (glibc, tcmalloc), checksums valid, no host, user or path names" in capsys.readouterr().out

    def again(change: Any) -> str:
        bad = tmp_path / "bad.tar.gz"
        with tarfile.open(bad, "w:gz") as tar:
            for number, (name, content) in enumerate(members(path).items()):
                content = change(content) if number == 1 and name.endswith("record.json") else content
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        unpacked.__globals__["_unpacked"].cache_clear()
        assert builders.run_command("pack", "--check", str(bad)) == 1
        return capsys.readouterr().out

    def resealed(**changed: Any) -> Any:
        return lambda content: records.text_of({**json.loads(content), **changed}).encode()

    assert "was changed after it was written" in again(
        lambda content: content.replace(b'"valid":true', b'"valid": true,"x":1')
    )
    assert "warnings still has something" in again(resealed(warnings=["/home/bob/x was full."]))
    assert "was not made by `pack`" in again(resealed(packed_from=None))


@pytest.mark.parametrize("path", sorted((CHECKOUT / "gallery").glob("*.tar.gz")), ids=lambda path: path.name)
def test_every_pack_of_the_gallery_is_fit_to_be_there(path: Path) -> None:
    assert builders.run_command("pack", "--check", str(path)) == 0
    assert f"`{path.name}`" in (CHECKOUT / "gallery" / "README.md").read_text()


def test_a_crate_of_the_process_run_profile_is_in_it(named: Path, tmp_path: Path) -> None:
    with tarfile.open(pack(named)) as tar:
        tar.extractall(tmp_path / "crate")
    crate = ROCrate(tmp_path / "crate" / "ours")
    assert crate.root_dataset["conformsTo"].id == PROFILE
    actions = crate.root_dataset["mentions"]
    assert len(actions) == 6 and {action.type for action in actions} == {"CreateAction"}
    for action in actions:
        assert action["instrument"].type == "SoftwareApplication" and "agent" not in action.properties()
        (asked,), (result,) = action["object"], action["result"]
        record = reading.read(tmp_path / "crate" / "ours" / result.id)
        assert (
            json.loads(asked["value"]) == json.loads(json.dumps(record["job"]))
            or record["job"]["launch"]["blas"] == "stock"
        )
        assert result["sha256"] == record["sha256"] and action["startTime"] == record["started_at"]


@pytest.mark.parametrize(
    ("name", "type_"),
    [
        ("../record.json", tarfile.REGTYPE),
        ("/record.json", tarfile.REGTYPE),
        ("a/record.json", tarfile.SYMTYPE),
        ("a/x.py", tarfile.REGTYPE),
    ],
)
def test_only_records_inside_are_taken_out_of_a_strangers_file(name: str, type_: bytes, tmp_path: Path) -> None:
    bad = tmp_path / "bad.tar.gz"
    with tarfile.open(bad, "w:gz") as tar:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = type_, "/etc/passwd"
        tar.addfile(info, io.BytesIO(b""))
    folder = unpacked(bad)
    assert [path for path in folder.rglob("*")] == [] and not (folder.parent / "record.json").exists()


def test_a_file_that_is_cut_short_and_words_that_are_wrong_are_one_sentence(named: Path, tmp_path: Path) -> None:
    path = pack(named)
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(RecordError, match="is not a whole pack"):
        reading.collect([cut])
    for words in (["pack"], ["pack", str(named)], ["pack", str(named), "-o", "x.zip"], ["pack", "--check", str(named)]):
        with pytest.raises(ConfigError):
            builders.run_command(*words)


@pytest.mark.parametrize("kind", ["record", "name"])
def test_what_is_larger_than_any_record_is_not_read_into_memory(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Zeros compress a thousandfold, and tarfile reads a long name whole."""
    monkeypatch.setattr(records, "MOST_BYTES", 24 << 20)
    large = tarfile.TarInfo("x/record.json")
    large.size, large.type = 25 << 20, tarfile.GNUTYPE_LONGNAME if kind == "name" else tarfile.REGTYPE
    with gzip.open(tmp_path / "a.tgz", "wb", compresslevel=1) as packed:
        packed.write(large.tobuf(tarfile.GNU_FORMAT))
        for _ in range(25):
            packed.write(bytes(1 << 20))
        packed.write(tarfile.TarInfo("x/record.json").tobuf() + bytes(1024))
    tracemalloc.start()
    with pytest.raises(RecordError, match="larger than any pack|is not a whole pack"):
        unpacked(tmp_path / "a.tgz")
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()
    with open(tmp_path / "record.json", "wb") as file:
        file.truncate(25 << 20)
    with pytest.raises(RecordError, match="larger than any record"):
        records.read(tmp_path / "record.json")
