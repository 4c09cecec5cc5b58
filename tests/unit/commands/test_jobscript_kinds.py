"""Scripts for PBS, LSF and Flux, arrays, requeueing and containers: parsed by their shells, and run with stubs for what they start.

A stub does to its copies what the real launcher does: the same numbers, no environment where the launcher passes none.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import cli
from bench.commands import directives, jobscript
from bench.paths import CHECKOUT

KINDS = {
    "slurm": [],
    "requeue": ["--requeue"],
    "array": ["--array=2"],
    "pbs": ["--kind=pbs", "--cpus-per-task=48"],
    "pbs array": ["--kind=pbs", "--cpus-per-task=48", "--array=2", "--time=90"],
    "lsf": ["--kind=lsf", "--time=1-12", "--partition=q", "--account=p"],
    "lsf array": ["--kind=lsf", "--array=2"],
    "flux": ["--kind=flux", "--time=2:00:00", "--partition=q", "--account=p"],
    "pbs image": ["--kind=pbs", "--cpus-per-task=48", "--image=b c.sif"],
    "podman": ["--image=localhost/bench:1", "--container=podman"],
    "enroot": ["--image=b c.sqsh", "--container=enroot"],
    "pyxis": ["--image=b.sqsh", "--container=pyxis", "--requeue", "--array=2"],
}
OF_PBS = "-N bench;-l select=2:ncpus=48:mpiprocs=1;-l place=scatter:excl;-j oe;-r y;-l walltime=01:30:00;-J 0-1".split(
    ";"
)
OF_SLURM = "--job-name=bench --nodes=2 --ntasks-per-node=1 --exclusive --mem=0 --requeue --open-mode=append --signal=B:USR1@120".split()
WORDS = ["nodes=1,2", "repeat=0,1,2", "+note='\\$HOME `touch pwned`; $(touch pwned) it'"]

# What each stands for. pbsdsh and blaunch give a copy nothing of the environment; flux run gives all of it and a number.
STUB = f"""#!{sys.executable}
import json, os, subprocess, sys
name, argv, env = os.path.basename(sys.argv[0]), sys.argv[1:], dict(os.environ)
with open(env["CALLS"], "a") as file:
    file.write(json.dumps({{"name": name, "argv": argv, "env": env}}) + "\\n")
bare = {{key: env[key] for key in ("PATH", "CALLS")}}
code = 0
if name == "pbsdsh":
    for number in range(2):
        code |= subprocess.run(argv[1:], env={{**bare, "PBS_NODENUM": str(number)}}).returncode
elif name == "blaunch":
    code = subprocess.run(argv[1:], env={{**bare, "HOST": argv[0]}}).returncode
elif name == "flux":
    command = argv[argv.index("sh"):]
    for number in range(2):
        code |= subprocess.run(command, env={{**env, "FLUX_TASK_RANK": str(number), "FLUX_JOB_SIZE": "2"}}).returncode
elif name == "srun" and "sh" in argv and "-c" in argv:
    code = subprocess.run(argv[argv.index("sh"):], env={{**env, "SLURM_PROCID": "0"}}).returncode
elif name == "srun":
    code = int(env.get("SRUN_CODE", "0"))
    if "USR1_TO" in env:
        import signal
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
        open("listening", "w").close()
        if env["USR1_TO"] == "parent":
            os.kill(os.getppid(), signal.SIGUSR1)
        signal.sigwait([signal.SIGUSR1])
        code = 130
sys.exit(code)
"""
NAMES = ("srun", "scontrol", "pbsdsh", "blaunch", "flux", "apptainer", "podman", "enroot", "entrypoint.sh")


@pytest.fixture(autouse=True)
def no_folder_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BENCH_OUT", raising=False)
    monkeypatch.delenv("BENCH_TOKEN", raising=False)


def script_of(options: list[str], words: list[str] = WORDS) -> str:
    return jobscript.script(cli.parse(["jobscript", *options, "--", *words])[1])


def run(script: str, folder: Path, *arguments: str, code: int = 0, **env: str) -> list[dict[str, Any]]:
    for name in NAMES:
        (folder / name).write_text(STUB)
        (folder / name).chmod(0o755)
    calls = folder / "calls"
    calls.write_text("")
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "CALLS": str(calls), "SLURM_CPUS_ON_NODE": "48", **env}
    (folder / "job.sh").write_text(script)
    done = subprocess.run(["sh", "job.sh", *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    return [json.loads(line) for line in calls.read_text().splitlines()]


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize(
    "shell", [["sh", "-n"], ["bash", "-n"], ["shellcheck", "--exclude=SC2016"]], ids=lambda s: s[0]
)
def test_the_shells_can_parse_each(options: list[str], shell: list[str], tmp_path: Path) -> None:
    if not shutil.which(shell[0]):
        pytest.skip(f"{shell[0]} is not installed")
    (tmp_path / "job.sh").write_text(script_of(options))
    checked = subprocess.run([*shell, str(tmp_path / "job.sh")], capture_output=True, text=True)
    assert (checked.returncode, checked.stdout) == (0, ""), checked.stdout


@pytest.mark.parametrize(
    ("name", "mark", "wanted"),
    [
        ("pbs array", "#PBS ", OF_PBS),
        ("lsf", "#BSUB ", ["-J bench", "-n 2", '-R "span[ptile=1]"', "-x", "-r", "-o bench.%J.out", "-W 36:00", "-q q", "-P p"]),
        ("lsf array", "#BSUB ", ['-J "bench[1-2]"', "-n 2", '-R "span[ptile=1]"', "-x", "-r", "-o bench.%J_%I.out"]),
        ("flux", "#flux: ", ["--job-name=bench", "--nodes=2", "--exclusive", "--time-limit=7200s", "--queue=q", "--bank=p"]),
        ("requeue", "#SBATCH ", OF_SLURM),
    ],
)  # fmt: skip
def test_directives_stand_before_the_first_command(name: str, mark: str, wanted: list[str]) -> None:
    script = script_of(KINDS[name])
    assert [line[len(mark) :] for line in script.splitlines() if line.startswith(mark)] == wanted
    assert all(line.startswith("#") for line in script.split("set -eu")[0].splitlines())


@pytest.mark.parametrize(
    ("time", "seconds"),
    [("90", 5400), ("1:30", 90), ("2:00:00", 7200), ("1-12", 129600), ("1-2:30", 95400), ("1-2:30:05", 95405)],
)
def test_a_time_is_read_as_sbatch_reads_it(time: str, seconds: int) -> None:
    assert directives.seconds_of(time) == seconds


@pytest.mark.parametrize("kind", ["pbs", "lsf", "flux"])
@pytest.mark.parametrize("image", [False, True])
def test_each_copy_has_its_number_the_words_the_folder_and_the_secret(kind: str, image: bool, tmp_path: Path) -> None:
    folder = tmp_path / "it's a $(touch pwned)"
    options = [*KINDS[kind], f"--results={folder}", *(["--image=b c.sif"] if image else [f"--checkout={tmp_path}"])]
    hosts = tmp_path / "hosts"
    hosts.write_text(f"{os.uname().nodename}\nother\nother\n")
    calls = run(script_of(options), tmp_path, LSB_DJOB_HOSTFILE=str(hosts), BENCH_TOKEN="it's; secret")
    copies = [call for call in calls if call["name"] == ("apptainer" if image else "entrypoint.sh")]
    copies.sort(key=lambda call: call["env"]["BENCH_NODE_RANK"])
    assert [call["env"]["BENCH_NODE_RANK"] for call in copies] == ["0", "1"]
    for call in copies:
        assert call["argv"][-len(WORDS) - 1 :] == ["-m", *WORDS]
        assert call["env"]["BENCH_NUM_NODES"] == "2" and call["env"]["BENCH_TOKEN"] == "it's; secret"
        assert call["env"]["BENCH_MASTER_ADDR"] == os.uname().nodename
        assert f"{folder}:/results" in call["argv"] if image else call["env"]["BENCH_OUT"] == str(folder)
        assert ("BENCH_OUT" in call["env"]) != image
    if kind == "lsf":
        assert [call["env"]["HOST"] for call in copies] == [os.uname().nodename, "other"]
    assert not any("secret" in word for call in calls for word in call["argv"])  # what everybody can see
    assert list(folder.iterdir()) == [] and not list(tmp_path.glob("**/pwned"))


@pytest.mark.parametrize(
    ("name", "variable", "first"), [("array", "SLURM_ARRAY_TASK_ID", 0), ("pbs array", "PBS_ARRAY_INDEX", 0), ("lsf array", "LSB_JOBINDEX", 1)]
)  # fmt: skip
def test_the_jobs_of_an_array_share_the_blocks_out(name: str, variable: str, first: int, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text(f"{os.uname().nodename}\n")
    script = script_of([*KINDS[name], f"--checkout={tmp_path}"], ["nodes=2", "repeat=0,1,2", "+experiment=smoke"])
    blocks = []
    for number in range(2):
        env = {variable: str(first + number), "LSB_DJOB_HOSTFILE": str(hosts)}
        calls = [call for call in run(script, tmp_path, **env) if "repeat=0,1,2" in call["argv"]]
        assert calls and all(call["argv"][-2] == f"study=smoke-part{number}" for call in calls)
        blocks.append(calls[0]["argv"][-1])
    assert blocks == ["repeat=0,2", "repeat=1"]
    run(script, tmp_path, code=2, **{variable: "9", "LSB_DJOB_HOSTFILE": str(hosts)})


def test_before_the_time_limit_the_copies_are_told_and_the_job_goes_back_into_the_queue(tmp_path: Path) -> None:
    script = script_of(["--requeue"])
    told = {"USR1_TO": "parent", "SLURM_JOB_ID": "77"}
    calls = run(script, tmp_path, code=130, **told)
    assert [call["argv"] for call in calls if call["name"] == "scontrol"] == [["requeue", "77"]]
    calls = run(script, tmp_path, code=130, SLURM_RESTART_COUNT="20", **told)  # no end of it: something is wrong
    assert not [call for call in calls if call["name"] == "scontrol"]
    calls = run(script, tmp_path, code=1, SRUN_CODE="1", SLURM_JOB_ID="77")  # a job that failed is not tried again
    assert not [call for call in calls if call["name"] == "scontrol"]


def test_a_signal_before_the_shell_knows_its_copies_ends_nothing_and_reaches_them(tmp_path: Path) -> None:
    known = "copies=$!\n"
    script = script_of(["--requeue"])
    assert script.count(known) == 1
    early = script.replace(known, f"kill -USR1 $$\nuntil [ -e listening ]; do sleep 0.05; done\n{known}")
    calls = run(early, tmp_path, code=130, USR1_TO="copies", SLURM_JOB_ID="77")
    assert [call["argv"] for call in calls if call["name"] == "scontrol"] == [["requeue", "77"]]


def test_a_dry_run_plans_for_as_many_hosts_and_starts_nothing(tmp_path: Path) -> None:
    (call,) = run(script_of([f"--checkout={tmp_path}"]), tmp_path, "--dry-run")
    assert call["name"] == "entrypoint.sh" and call["argv"] == ["plan", "--no-look", "--copies=2", *WORDS]
    (call,) = run(script_of(["--image=b.sif", "--kind=flux"]), tmp_path, "--dry-run")
    assert call["name"] == "apptainer" and call["argv"][-5:] == ["--no-look", "--copies=2", *WORDS]


def test_containers_see_the_launcher_the_folder_and_the_image(tmp_path: Path) -> None:
    results = tmp_path / "out"
    options = [f"--results={results}"]
    (call,) = run(script_of([*KINDS["podman"], *options]), tmp_path)
    line = call["argv"]
    assert {"--network=host", "--uts=host", "--cgroups=disabled", "SLURM_*", f"{results}:/results"} <= set(line)
    assert line[-len(WORDS) - 2 :] == ["localhost/bench:1", "-m", *WORDS]
    (call,) = run(script_of([*KINDS["pyxis"][:2], *options]), tmp_path)
    assert {"--container-image=b.sqsh", f"--container-mounts={results}:/results"} <= set(call["argv"])
    assert call["argv"][-len(WORDS) - 4 :] == ["/bin/busybox", "sh", "/opt/bench/entrypoint.sh", "-m", *WORDS]
    calls = run(script_of([*KINDS["enroot"], *options]), tmp_path, BENCH_TOKEN="x")
    (call,) = [one for one in calls if one["name"] == "enroot"]
    assert {f"--mount={results}:/results", "--env=SLURM_PROCID", "--env=BENCH_TOKEN", "b c.sqsh"} <= set(call["argv"])
    assert call["argv"][-len(WORDS) - 1 :] == ["-m", *WORDS] and not list(tmp_path.glob("**/pwned"))


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--kind=pbs"], "--cpus-per-task N"),
        (["--kind=pbs", "--hosts=a,b"], "leave --launcher and --hosts out"),
        (["--kind=flux", "--array=2"], "--array is of Slurm, PBS and LSF"),
        (["--array=2", "--", "repeat=0"], "repeat=0 has 1"),
        (["--requeue", "--launcher=mpirun"], "with srun"),
        (["--container=podman"], "--image bench.sqsh"),
        (["--container=pyxis", "--image=b", "--kind=lsf"], "is for srun here"),
    ],
)
def test_mistakes_are_one_sentence(argv: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["jobscript", *argv]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and re.search(re.escape(words), err), err


def test_the_first_name_prints_the_same_script() -> None:
    one, two = (jobscript.script(cli.parse([name, "--", "nodes=2"])[1]) for name in ("slurm", "jobscript"))
    assert one.replace("bench slurm", "bench jobscript") == two and str(CHECKOUT) in one
