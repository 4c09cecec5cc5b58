"""The images, built and run for real: as anybody, anywhere, with whatever arguments, and with the native command's results."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster import finish, need, slurm
from ways import NO_PAGE, NOBODY, ROOT, SMOKE, Done, Way, library, losses, records, run

import bench
from bench.allocators.library import resolve
from bench.job.job import Allocator

# The first test of a session builds the images.
pytestmark = [pytest.mark.system, pytest.mark.timeout(1500)]

# Nothing in these may be split, expanded or run, by any shell on the way.
TORTURE = [
    "two words",
    "  spaces  ",
    "single'quote",
    'double"quote',
    "${HOME}",
    "$(touch /tmp/bench-was-here)",
    "`touch /tmp/bench-was-here`",
    "; touch /tmp/bench-was-here",
    "a\\b\\n",
    "*",
    "[a-z]?",
    "~",
    "!!",
    "#",
    "%s%d",
    "-n",
    "--",
    "",
    "ünï→",
    "&& false",
    "<in >out",
    "{a,b}",
]


Sweep = Callable[[Way], tuple[Path, Done]]


@pytest.fixture(scope="module")
def sweep() -> Iterator[Sweep]:
    """The smoke sweep over two allocators, run once per way into a folder that anybody may write to."""
    ran: dict[str, tuple[Path, Done]] = {}

    def sweep_of(way: Way) -> tuple[Path, Done]:
        if way.name not in ran:
            out = Path(tempfile.mkdtemp(prefix="bench sweep "))
            out.chmod(0o777)
            ran[way.name] = out, way(["-m", *SMOKE, "+allocator=glibc,tcmalloc"], out=out)
        return ran[way.name]

    yield sweep_of
    for out, _ in ran.values():
        shutil.rmtree(out)


def test_the_smoke_sweep_leaves_records_that_belong_to_the_caller(way: Way, sweep: Sweep) -> None:
    out, done = sweep(way)
    assert done.returncode == 0, done.stderr
    found = records(out)
    assert {name: library(record).split(".so")[0] for name, record in found.items()} == {
        "glibc": "libc",
        "tcmalloc": "libtcmalloc",
    }
    owner = {"native": os.getuid(), "docker": int(NOBODY.split(":")[0])}.get(way.name, (out / "smoke").stat().st_uid)
    assert {path.stat().st_uid for path in (out / "smoke").rglob("*")} == {owner}


def test_mallocost_is_the_command_in_the_image_too(way: Way) -> None:
    """On the PATH of a shell that is opened in it, and ./mallocost in the checkout."""
    if way.name == "native":
        done = run([ROOT / "mallocost", "--version"])
    elif way.name == "docker":
        done = run(["docker", "run", "--rm", "--network=none", "--entrypoint=mallocost", way.image, "--version"])
    else:
        done = run(["apptainer", "--silent", "exec", way.image, "mallocost", "--version"])
    assert (done.returncode, done.stdout) == (0, f"{bench.__version__}\n"), done.stderr


def test_the_record_tells_the_image_and_how_the_root_is_mounted(way: Way, sweep: Sweep) -> None:
    host = records(sweep(way)[0])["tcmalloc"]["hosts"][0]
    if way.name == "native":
        assert host["image"] is None and host["root_mount"]["fstype"] not in ("overlay", "squashfs")
        return
    engine = "docker" if way.name == "docker" else "apptainer"
    base = run(["scripts/images.sh", "base"])
    assert base.stdout.strip() in (
        "python:3.9-slim-bookworm",
        "bench-base:stand-in-bookworm",
        os.environ.get("BASE_IMAGE"),
    )
    assert ("no image registry answers" in base.stderr) == (base.stdout.strip() == "bench-base:stand-in-bookworm")
    image = host["image"]
    assert (image["base"], image["built_by"], image["flavor"]) == (base.stdout.strip(), engine, "pypi")
    assert len(image["content_sha256"]) == 64 and image["revision"] and image["version"]
    assert host["container"]["runtime"] == engine
    assert host["root_mount"]["read_only"]
    if engine == "apptainer":
        assert image["sif"] == way.image and len(image["sif_sha256"]) == 64


def test_the_same_sweep_gives_the_same_losses_and_content_hashes(way: Way, sweep: Sweep) -> None:
    need((ROOT / ".venv").is_dir(), "no environment: run make setup")
    native, here = records(sweep(Way("native", None))[0]), records(sweep(way)[0])
    for name in ("glibc", "tcmalloc"):
        assert here[name]["content_hash"] == native[name]["content_hash"]
        assert here[name]["job"] == native[name]["job"]
        assert losses(here[name]) == losses(native[name]) != []
        assert here[name]["ranks"][0]["parameters_sha256"] == native[name]["ranks"][0]["parameters_sha256"]
        # All of it but what Debian calls its library's file: the package versions of the lock, the same interpreter.
        assert here[name]["hosts"][0]["packages"] == native[name]["hosts"][0]["packages"]


def test_arguments_arrive_as_they_were_given(way: Way, scratch: Path) -> None:
    """`slurm` prints its own words back, quoted, in the script: one more round trip through a shell."""
    marker = Path("/tmp/bench-was-here")
    marker.unlink(missing_ok=True)
    words = [
        "slurm",
        "--image",
        "bench.sif",
        *(f"--sbatch={word}" for word in TORTURE),
        "--",
        "+allocator=tcmalloc",
        "study='a ${b} $(c)'",
    ]
    done = way(words, folder=scratch)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("# Printed by: ")]
    assert shlex.split(line.removeprefix("# Printed by: ")) == ["python", "-m", "bench", *words]
    refused = way(["$(touch /tmp/bench-was-here) ${HOME} 'x'"], folder=scratch)
    assert refused.returncode == 2 and refused.stderr.startswith(
        "error: $(touch /tmp/bench-was-here) ${HOME} 'x' is not a command"
    )
    assert not marker.exists() and sorted(scratch.iterdir()) == []


def test_an_arm_and_a_model_come_from_a_folder_outside(way: Way, folder: Path, scratch: Path) -> None:
    shutil.copy(str(resolve(Allocator("jemalloc", "libjemalloc.so.2"))), folder / "libmine.so")
    for group in ("allocator", "model"):
        (folder / group).mkdir()
    (folder / "allocator" / "mine.yaml").write_text(
        f"name: mine\nlibrary: {folder}/libmine.so\npackage: null\nenv: {{MALLOC_CONF: 'dirty_decay_ms:-1'}}\nshows: from outside\n"
    )
    (folder / "model" / "mine.yaml").write_text(
        (ROOT / "conf/model/tiny.yaml").read_text().replace("name: tiny", "name: mine")
    )
    words = [*SMOKE, NO_PAGE, "+allocator=mine", "model=mine"]
    done = way(words, out=scratch, env={"BENCH_CONF": str(folder)}, folder=folder)
    assert done.returncode == 0, done.stderr
    record = records(scratch)["mine"]
    assert library(record) == "libmine.so" and record["job"]["model"]["name"] == "mine"
    assert record["ranks"][0]["proof"]["options"]["opt.dirty_decay_ms"] == "-1"


def test_python_files_of_the_user_are_not_imported(way: Way, scratch: Path, folder: Path) -> None:
    """Neither from the current folder nor from ~/.local, which Apptainer mounts with the rest of the home."""
    local = folder / ".local/lib/python3.9/site-packages"
    local.mkdir(parents=True)
    for name in ("bench", "json", "torch", "usercustomize", "sitecustomize"):
        for place in (folder, local):
            (place / f"{name}.py").write_text("raise SystemExit('imported from where it should not be')\n")
    env = {"HOME": str(folder), "PYTHONPATH": str(folder), "PYTHONUSERBASE": str(folder / ".local")}
    done = way([*SMOKE, NO_PAGE, "+allocator=tcmalloc"], out=scratch, env=env, folder=folder)
    assert done.returncode == 0, done.stderr
    assert library(records(scratch)["tcmalloc"]).startswith("libtcmalloc")


def test_a_results_folder_that_cannot_be_written_is_one_sentence(way: Way, folder: Path) -> None:
    need(os.getuid() == 0 or way.name == "native", "needs a folder that belongs to somebody else")
    if way.name == "native":
        out = Path("/proc/bench")  # even root cannot make this one
    else:
        out = folder / "locked"
        out.mkdir(mode=0o755)
    done = way([*SMOKE, "+allocator=tcmalloc"], out=out)
    assert done.returncode == 2, done.stderr
    line = next(line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert (
        "Traceback" not in done.stderr
        and "results cannot be written" in line
        and ("/proc/bench" if way.name == "native" else "/results") in line
    )


def test_the_docker_image_runs_as_an_ordinary_user_and_sets_no_variable_that_an_arm_may(docker_image: str) -> None:
    done = run(["docker", "image", "inspect", docker_image])
    config = json.loads(done.stdout)[0]["Config"]
    user, group = config["User"].split(":")
    assert user.isdecimal() and int(user) > 0 and group.isdecimal()
    assert isinstance(config["Entrypoint"], list) and config["Entrypoint"][0] != "/bin/sh"
    names = {variable.split("=")[0] for variable in config["Env"]}
    assert not [
        name
        for name in names
        if name.startswith(("LD_", "OMP_", "MKL_", "KMP_", "MALLOC", "TCMALLOC", "GLIBC", "BENCH_"))
    ]
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in config["Labels"].items()}
    assert labels["version"] == bench.__version__ and labels["base.name"] and labels["bench.torch-flavor"] == "pypi"
    assert labels["revision"] == "unknown" or len(labels["revision"].removesuffix("-dirty")) == 40
    assert labels["title"] == "mallocost" and labels["licenses"] == "MIT"
    assert labels["source"] == "unknown" or labels["source"].startswith("https://")
    assert "@" not in labels["source"], "no password of whoever cloned it"


def test_a_change_of_code_rebuilds_the_code_alone_and_what_is_rebuilt_is_alike(docker_image: str, folder: Path) -> None:
    """That every package, downloaded and compiled once more, makes the same files is shown by the two images, below."""

    def layers(image: str) -> list[str]:
        return json.loads(run(["docker", "image", "inspect", "-f", "{{json .RootFS.Layers}}", image]).stdout)

    files = "Dockerfile .dockerignore bench conf entrypoint.sh requirements.lock scripts".split()
    files += ["requirements-mimalloc.lock", "requirements-torch2.lock"]
    assert run(["cp", "-a", *files, folder]).returncode == 0
    # Another time stamp is no other content; another entrypoint.sh is, and everything from there on is made anew.
    (folder / "requirements.lock").touch()
    (folder / "bench" / "__init__.py").touch()
    with open(folder / "entrypoint.sh", "a") as f:
        f.write("# changed\n")
    changed = f"{docker_image}-changed"
    try:
        done = run([folder / "scripts/images.sh", "image"], {"IMAGE": changed}, timeout=600)
        assert done.returncode == 0, done.stderr
        # The base's, the installer, Debian's packages, the locks, Python's packages, the second lock.
        assert layers(changed)[:6] == layers(docker_image)[:6] and layers(changed)[6:] != layers(docker_image)[6:]
        compared = run(["scripts/images.sh", "compare", docker_image, changed])
    finally:
        run(["docker", "rmi", changed])
    differ = {line.split()[-1] for line in compared.stdout.splitlines() if line.startswith(("<", ">"))}
    assert compared.returncode == 1, compared.stdout + compared.stderr
    # project.txt has the digests of the code.
    assert differ == {"/opt/bench/entrypoint.sh", "/opt/bench/project.txt"}, compared.stdout


def test_both_images_hold_the_same_packages_and_files(docker_image: str, sif: Path) -> None:
    """Two builds, in which every package is downloaded and compiled: by Docker, and by Apptainer from the same base."""
    done = run(["scripts/images.sh", "compare", docker_image, sif])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "have the same" in done.stdout


def test_apptainer_test_help_labels_and_apps(sif: Path, scratch: Path) -> None:
    def apptainer(*words: object, env: dict[str, str] | None = None) -> str:
        done = run(["apptainer", "--silent", *words], env or {}, cwd=scratch)
        assert done.returncode == 0, done.stderr
        return done.stdout

    apptainer("test", sif)
    assert sorted(scratch.iterdir()) == []
    assert "apptainer run bench.sif +allocator=tcmalloc" in apptainer("run-help", sif)
    labels = apptainer("inspect", "--labels", sif)
    assert (
        "org.opencontainers.image.revision" in labels
        and f"org.opencontainers.image.version: {bench.__version__}" in labels
    )
    script = apptainer("run", "--app", "slurm", sif, "--nodes", "2", "--", "+allocator=tcmalloc")
    assert f"/results {sif}" in script and "#SBATCH --nodes=2" in script
    apptainer("run", "--bind", f"{scratch}:/results", sif, *SMOKE)
    (scratch / "smoke" / "report.html").unlink()
    apptainer("run", "--app", "report", sif, "smoke")
    assert (scratch / "smoke" / "report.html").stat().st_size > 10_000


def test_a_cpu_only_build_needs_the_wheel_s_address() -> None:
    need(shutil.which("docker") is not None, "no Docker engine: run scripts/provision.sh")
    done = run(["scripts/images.sh", "image"], {"TORCH_FLAVOR": "cpu", "TORCH_WHEEL": "", "IMAGE": "bench:refused"})
    assert done.returncode != 0 and "TORCH_FLAVOR=cpu needs TORCH_WHEEL=URL#sha256=DIGEST" in done.stdout + done.stderr


def test_the_bill_of_materials_is_valid_and_names_what_is_installed(docker_image: str, tmp_path: Path) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    done = run(["scripts/images.sh", "sbom"], {"IMAGE": docker_image, "SBOM": str(tmp_path / "sbom.json")})
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "sbom.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    listed = {component["purl"].split("?")[0] for component in json.loads(text)["components"]}
    assert {"pkg:pypi/torch@1.10.2", "pkg:pypi/numpy@1.26.4"} <= listed
    assert any(purl.startswith("pkg:deb/debian/libjemalloc2@") for purl in listed)
    assert any(purl.startswith("pkg:pypi/cmeel-mimalloc@3") for purl in listed), "what is unpacked beside Python too"
    labels = json.loads(run(["docker", "image", "inspect", "-f", "{{json .Config.Labels}}", docker_image]).stdout)
    assert labels["bench.sbom.sha256"] == hashlib.sha256(text.encode()).hexdigest()


def test_a_signed_sif_is_verified_by_the_key_beside_it_and_a_changed_one_is_not(sif: Path, folder: Path) -> None:
    """The copy shares its blocks with the other tests' file where the file system can do that."""
    mine, keys = folder / "mine.sif", folder / "keys"
    assert run(["cp", "--reflink=auto", sif, mine]).returncode == 0
    owner = mine.stat().st_uid
    done = run(["scripts/images.sh", "sign"], {"SIF": str(mine), "KEYS": str(keys)})
    assert done.returncode == 0 and "signed and verified" in done.stdout, done.stderr
    assert (keys / "sign.pem").stat().st_mode & 0o077 == 0 and mine.stat().st_uid == owner
    assert (folder / "mine.sif.pem").read_text() == (keys / "verify.pem").read_text()

    def verified() -> bool:
        return run(["apptainer", "--silent", "verify", "--key", f"{mine}.pem", mine]).returncode == 0

    assert verified()
    labels = run(["apptainer", "--silent", "inspect", "--labels", mine]).stdout
    (digest,) = [line.split()[-1] for line in labels.splitlines() if line.startswith("bench.sbom.sha256")]
    inside = run(["apptainer", "--silent", "exec", mine, "sha256sum", "/opt/bench/sbom.json"])
    assert inside.stdout.split()[0] == digest
    with open(mine, "r+b") as f:
        f.seek(mine.stat().st_size // 2)
        byte = f.read(1)
        f.seek(-1, os.SEEK_CUR)
        f.write(bytes([byte[0] ^ 1]))
    assert not verified()


def test_a_printed_job_script_runs_the_sweep_from_the_sif_on_two_slurm_nodes(sif: Path, scratch: Path) -> None:
    overrides = [*SMOKE, NO_PAGE, "nodes=1,2", "+allocator=glibc,tcmalloc", "launch.threads_per_rank=1"]
    with slurm(2) as cluster:
        cluster.directory.chmod(0o755)  # the Apptainer of scripts/provision.sh runs as another user
        printed = run(
            ["apptainer", "--silent", "run", "--app", "slurm", sif, "--results", scratch, "--", *overrides],
            cwd=Path("/tmp"),
        )
        assert printed.returncode == 0, printed.stderr
        (cluster.directory / "job.sh").write_text(printed.stdout)
        done = finish(cluster.start(cluster.head, ["sbatch", "--wait", "--output=job.out", "job.sh"]), 240)
        output = (cluster.directory / "job.out").read_text()
    assert done.returncode == 0, output
    found = {
        (r["job"]["nodes"], r["job"]["allocator"]["name"]): r
        for r in map(read, (scratch / "smoke").glob("*/record.json"))
    }
    assert sorted(found) == [(1, "glibc"), (1, "tcmalloc"), (2, "glibc"), (2, "tcmalloc")]
    for (nodes, name), record in found.items():
        assert library(record).split(".so")[0] == {"glibc": "libc", "tcmalloc": "libtcmalloc"}[name]
        assert (record["launch"]["launcher"], record["launch"]["simulated"]) == ("slurm", False)
        assert [host["hostname"] for host in record["hosts"]] == ["n1", "n2"][:nodes]
        assert all(host["image"]["sif"] == str(sif) for host in record["hosts"])


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())
