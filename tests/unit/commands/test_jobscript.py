from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench import cli
from bench.commands import jobscript
from bench.paths import CHECKOUT


@pytest.fixture(autouse=True)
def no_folder_is_set(monkeypatch):
    monkeypatch.delenv("BENCH_OUT", raising=False)


def script_of(words: list[str]) -> str:
    return jobscript.script(cli.parse(["slurm", *words])[1])


AWKWARD = [
    "+experiment=smoke",
    "nodes=1,2",
    'data.path="/a b/$(touch pwned)/${oc.env:HOME}/it\'s"',
    "+note='\\$HOME `touch pwned`; touch pwned \"'",
]

# Stands in for srun, mpirun or ssh: writes down how it was called, and for ssh runs what it is given, as sshd would.
STUB = f"""#!{sys.executable}
import json, os, subprocess, sys
name = os.path.basename(sys.argv[0])
call = {{"name": name, "argv": sys.argv[1:], "env": dict(os.environ)}}
with open(os.environ["CALLS"], "a") as file:
    file.write(json.dumps(call) + "\\n")
if name == "ssh":
    host = [word for word in sys.argv[1:] if not word.startswith("-") and "=" not in word][0]
    words = sys.argv[sys.argv.index(host) + 1:]
    os.environ.pop("BENCH_TOKEN", None)  # sshd hands on no variables
    sys.exit(subprocess.run(["sh", "-c", " ".join(words)]).returncode)
"""


def run(script: str, folder: Path, **env: str) -> list[dict]:
    """Run a printed script with stubs in place of every command that it starts; return their calls in order."""
    for name in ("srun", "mpirun", "ssh", "apptainer", "entrypoint.sh"):
        (folder / name).write_text(STUB)
        (folder / name).chmod(0o755)
    calls = folder / "calls"
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "CALLS": str(calls), "SLURM_CPUS_ON_NODE": "48", **env}
    done = subprocess.run(["sh", "-s"], input=script, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in calls.read_text().splitlines()]


def test_srun_gets_every_word_as_it_was_written(tmp_path):
    results = tmp_path / "it's a $(touch pwned) folder"
    script = script_of(["--results", str(results), "--", *AWKWARD])
    (call,) = run(script, tmp_path)
    entrypoint = str(CHECKOUT / "entrypoint.sh")
    assert call["argv"][call["argv"].index(entrypoint) :] == [entrypoint, "-m", *AWKWARD]
    assert call["env"]["BENCH_OUT"] == str(results) and results.is_dir()
    assert not (tmp_path / "pwned").exists()


def test_srun_is_told_its_cores_and_keeps_copies_alive(tmp_path):
    (call,) = run(script_of(["--", "nodes=1,2"]), tmp_path)
    assert {"--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=48", "--kill-on-bad-exit=0"} <= set(call["argv"])
    assert call["env"]["BENCH_OUT"] == str(tmp_path / "results")


@pytest.mark.parametrize("image", [False, True])
def test_the_folder_that_is_set_when_the_script_is_written_is_the_scripts(tmp_path, monkeypatch, image):
    folder = tmp_path / "it's $(touch pwned)"
    monkeypatch.setenv("BENCH_OUT", str(folder))
    options = ["--image=b.sif"] if image else []
    (call,) = run(script_of([*options, "--", "nodes=2"]), tmp_path, BENCH_OUT="/somewhere/else")
    assert f"{folder}:/results" in call["argv"] if image else call["env"]["BENCH_OUT"] == str(folder)
    assert folder.is_dir() and not (tmp_path / "pwned").exists()
    run(script_of([*options, "--results", str(tmp_path / "given"), "--", "nodes=2"]), tmp_path)
    assert (tmp_path / "given").is_dir()


def test_a_relative_folder_is_that_of_the_moment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BENCH_OUT", "out")
    assert f"results={tmp_path / 'out'}\n" in script_of(["--", "nodes=2"])


@pytest.mark.parametrize("given, wanted", [([], "48"), (["--cpus-per-task=24"], "24")])
def test_cores_are_all_of_the_node_or_as_given(tmp_path, given, wanted):
    (call,) = run(script_of([*given, "--", "nodes=2"]), tmp_path)
    assert f"--cpus-per-task={wanted}" in call["argv"]


def test_options_become_sbatch_lines():
    options = "--time 1-12 --partition cpu --account abc --cpus-per-task 24 --sbatch=--constraint=icelake".split()
    script = script_of([*options, "--", "nodes=1,2,64"])
    lines = [line[len("#SBATCH ") :] for line in script.splitlines() if line.startswith("#SBATCH ")]
    assert lines == [
        "--job-name=bench",
        "--nodes=64",
        "--ntasks-per-node=1",
        "--cpus-per-task=24",
        "--exclusive",
        "--mem=0",
        "--time=1-12",
        "--partition=cpu",
        "--account=abc",
        "--constraint=icelake",
    ]
    header = script.split("set -eu")[0]
    assert all(line.startswith("#") for line in header.splitlines())  # sbatch stops reading at the first command


def test_image_binds_the_results_and_sets_no_place_of_its_own(tmp_path):
    script = script_of(["--image", "my bench.sif", "--results", str(tmp_path / "out"), "--", "nodes=2"])
    (call,) = run(script, tmp_path, BENCH_OUT="/somewhere/else")
    assert call["argv"][-6:] == ["run", "--bind", f"{tmp_path / 'out'}:/results", "my bench.sif", "-m", "nodes=2"]
    assert "BENCH_OUT" not in call["env"]


def test_no_script_preloads_anything(tmp_path):
    for options in ([], ["--image=b.sif"], ["--launcher=mpirun"], ["--launcher=ssh", "--hosts=a,b"]):
        assert "LD_PRELOAD" not in script_of([*options, "--", "+allocator=tcmalloc", "nodes=2"])


def test_mpirun_starts_one_copy_per_node_and_names_the_leader(tmp_path):
    (call,) = run(script_of(["--launcher=mpirun", "--", *AWKWARD]), tmp_path)
    assert call["name"] == "mpirun" and call["argv"][:2] == ["-N", "1"] and call["argv"][-len(AWKWARD) :] == AWKWARD
    assert call["env"]["BENCH_MASTER_ADDR"] and call["env"]["SRUN_CPUS_PER_TASK"] == "48"


def test_mpirun_with_hosts_needs_no_scheduler(tmp_path):
    script = script_of(["--launcher=mpirun", "--hosts=n1,n2", "--", "nodes=2"])
    assert "SBATCH" not in script
    (call,) = run(script, tmp_path)
    assert call["argv"][:4] == ["--host", "n1,n2", "-N", "1"]


def test_ssh_numbers_the_copies_and_quotes_for_the_other_side(tmp_path):
    options = ["--launcher=ssh", "--hosts=me@n1,n2", "--checkout", str(tmp_path), "--results", str(tmp_path / "a b")]
    token = "it's $(touch pwned) \"a\\b"
    calls = run(script_of([*options, "--", *AWKWARD]), tmp_path, BENCH_TOKEN=token)
    copies = sorted((c for c in calls if c["name"] == "entrypoint.sh"), key=lambda c: c["env"]["BENCH_NODE_RANK"])
    assert [c["argv"] for c in copies] == [["-m", *AWKWARD]] * 2
    settings = [{key: value for key, value in c["env"].items() if key.startswith("BENCH_")} for c in copies]
    shared = {
        "BENCH_NUM_NODES": "2",
        "BENCH_MASTER_ADDR": "n1",
        "BENCH_OUT": str(tmp_path / "a b"),
        "BENCH_TOKEN": token,
    }
    assert settings == [{"BENCH_NODE_RANK": "0", **shared}, {"BENCH_NODE_RANK": "1", **shared}]
    assert not (tmp_path / "pwned").exists()


LAUNCHERS = {"srun": [], "mpirun": ["--launcher=mpirun"], "ssh": ["--launcher=ssh", "--hosts=a,b"]}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_each_script_gives_all_copies_one_secret_that_no_list_of_processes_shows(tmp_path, launcher):
    script = script_of([*LAUNCHERS[launcher], "--checkout", str(tmp_path), "--", "nodes=2"])
    secrets = []
    for _ in range(2):
        (tmp_path / "calls").unlink(missing_ok=True)
        calls = run(script, tmp_path)
        # ssh carries no environment to the other side: there the copies themselves count.
        (secret,) = {
            c["env"].get("BENCH_TOKEN")
            for c in calls
            if c["name"] == ("entrypoint.sh" if launcher == "ssh" else launcher)
        }
        assert re.fullmatch("[0-9a-f]{32}", secret or ""), secret
        assert not [c for c in calls if secret in " ".join(c["argv"])]
        secrets.append(secret)
    assert secrets[0] != secrets[1], "a fresh one each time"
    (tmp_path / "calls").unlink()
    calls = run(script, tmp_path, BENCH_TOKEN="mine")
    assert {c["env"]["BENCH_TOKEN"] for c in calls if c["name"] == "entrypoint.sh" or launcher != "ssh"} == {"mine"}
    if launcher == "mpirun":
        (call,) = calls
        assert call["argv"][call["argv"].index("BENCH_TOKEN") - 1] == "-x"


@pytest.mark.parametrize(
    "overrides, nodes",
    [
        ([], 1),
        (["nodes=4"], 4),
        (["nodes=1,16,2"], 16),
        (["nodes=choice(1,8)"], 8),
        (["nodes=range(1,5)"], 4),
        (["++nodes=3", "repeat=0,1"], 3),
        (["+experiment=published"], 64),
        (["+experiment=published", "nodes=1,2"], 2),
    ],
)
def test_largest_number_of_nodes_in_the_overrides(overrides, nodes):
    assert jobscript.largest_nodes(overrides) == nodes


def test_experiments_of_the_users_own_count_too(tmp_path, monkeypatch):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nnodes: 12\n")
    monkeypatch.setenv("BENCH_CONF", str(tmp_path))
    assert jobscript.largest_nodes(["experiment=mine"]) == 12


@pytest.mark.parametrize(
    "argv, words",
    [
        (["--nodes=2", "--", "nodes=1,4"], "nodes=4.*--nodes is 2"),
        (["--launcher=ssh", "--hosts=a,b", "--", "nodes=4"], "nodes=4.*--hosts names 2"),
        (["--launcher=ssh", "--", "nodes=4"], "add --hosts"),
        (["--hosts=a,b", "--", "nodes=2"], "--directive=--nodelist=a,b"),
        (["--hosts=a,b;rm", "--launcher=ssh"], "not a list of host names"),
        (["--ntasks-per-node=2"], "ranks_per_node=2"),
        (["--time=soon"], "not a time"),
        (["--partition=a b"], "not a plain word"),
        (["--cpus-per-task=0"], "positive whole number"),
        (["--image=a.sif", "--checkout=/b"], "choose one"),
        (["--image=a.sif", "--results=/a:b"], "comma or a colon"),
        (["--nods=2"], "slurm: unrecognized arguments: --nods=2"),
        (["--", "~nodes"], "~nodes takes a key away"),
        (["--", "nodes=two"], "nodes=two"),
        (["--", "nodes=0"], "nodes=0"),
        (["--", "a=$(b)"], "a=.* cannot be read"),
        (["--", "+experiment=nope"], "experiment=nope is not there; there are .*smoke"),
        (["--", "a=1\nb=2"], "cannot be printed"),
        (["--sbatch=--qos=x\nrm -rf /"], "cannot be printed"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_code_2(argv, words, capsys):
    assert cli.main(["slurm", *argv]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert re.search(words, err), err


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--image=b.sif", "--cpus-per-task=4"],
        ["--launcher=mpirun"],
        ["--launcher=mpirun", "--hosts=a,b", "--image=b.sif"],
        ["--launcher=ssh", "--hosts=a,b"],
        ["--launcher=ssh", "--hosts=a,b", "--image=b.sif"],
    ],
)
def test_shellcheck_likes_the_scripts(options):
    script = script_of([*options, "--", *AWKWARD])
    # SC2016: `$` between single quotes stays as it is, which is what is wanted here.
    checked = subprocess.run(["shellcheck", "--exclude=SC2016", "-"], input=script, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
