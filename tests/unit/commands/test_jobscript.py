"""Job scripts of every kind: parsed by the shells, and run with stubs for what they start. A stub does to its copies what the real
launcher does: the same numbers, no environment where the launcher passes none."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bench import cli
from bench.commands import jobscript
from bench.paths import CHECKOUT

KINDS = {
    "srun": [],
    "requeue": ["--requeue"],
    "array": ["--array=2"],
    "mpirun": ["--launcher=mpirun"],
    "mpirun hosts": ["--launcher=mpirun", "--hosts=n1,n2"],
    "ssh": ["--launcher=ssh", "--hosts=me@n1,n2"],
    "pbs": ["--kind=pbs", "--cpus-per-task=48"],
    "pbs array": ["--kind=pbs", "--cpus-per-task=48", "--array=2", "--time=90"],
    "lsf": ["--kind=lsf", "--time=1-12", "--partition=q", "--account=p"],
    "lsf array": ["--kind=lsf", "--array=2"],
    "flux": ["--kind=flux", "--time=2:00:00", "--partition=q", "--account=p"],
    "requeue array": ["--image=b c.sif", "--requeue", "--array=2"],
}
OF_SLURM = "--job-name=bench --nodes=2 --ntasks-per-node=1 --exclusive --mem=0"
OF_PBS = "-N bench;-l select=2:ncpus=48:mpiprocs=1;-l place=scatter:excl;-j oe;-r y;-l walltime=01:30:00;-J 0-1"
WORDS = [
    "nodes=1,2",
    "repeat=0,1,2",
    'data.path="/a b/$(touch pwned)/${oc.env:HOME}/it\'s"',
    "+note='\\$HOME `touch pwned`; touch pwned \"'",
]

# pbsdsh, blaunch and sshd give a copy nothing of the environment; flux run gives all of it and a number.
STUB = f"""#!{sys.executable}
import json, os, signal, subprocess, sys
name, argv, env = os.path.basename(sys.argv[0]), sys.argv[1:], dict(os.environ)
with open(env["CALLS"], "a") as file:
    file.write(json.dumps({{"name": name, "argv": argv, "env": env}}) + "\\n")
bare = {{key: env[key] for key in ("PATH", "CALLS")}}
def start(command, given): return subprocess.run(command, env=given).returncode
code = 0
if name == "pbsdsh":
    code = max(start(argv[1:], {{**bare, "PBS_NODENUM": str(number)}}) for number in range(2))
elif name == "blaunch":
    code = start(argv[1:], {{**bare, "HOST": argv[0]}})
elif name == "ssh":
    code = start(["sh", "-c", " ".join(argv[argv.index("BatchMode=yes") + 2:])], bare)
elif name == "flux":
    command = argv[argv.index("sh"):]
    code = max(start(command, {{**env, "FLUX_TASK_RANK": str(n), "FLUX_JOB_SIZE": "2"}}) for n in range(2))
elif name == "srun":
    code = int(env.get("SRUN_CODE", "0"))
    if "USR1_TO" in env:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
        open("listening", "w").close()
        if env["USR1_TO"] == "parent":
            os.kill(os.getppid(), signal.SIGUSR1)
        signal.sigwait([signal.SIGUSR1])
        code = 130
sys.exit(code)
"""
NAMES = "srun mpirun ssh scontrol pbsdsh blaunch flux apptainer entrypoint.sh".split()


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BENCH_OUT", raising=False)
    monkeypatch.delenv("BENCH_TOKEN", raising=False)


def script_of(options: list[str], words: list[str] = WORDS) -> str:
    return jobscript.script(cli.parse(["jobscript", *options, "--", *words])[1])


def run(script: str, folder: Path, *arguments: str, code: int = 0, **env: str) -> list[dict[str, Any]]:
    """Run a printed script with stubs in place of every command that it starts; return their calls in order."""
    for name in NAMES:
        (folder / name).write_text(STUB)
        (folder / name).chmod(0o755)
    calls, hosts = folder / "calls", folder / "hosts"
    calls.write_text("")
    hosts.write_text(f"{os.uname().nodename}\nother\nother\n")
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "CALLS": str(calls)}
    environment |= {"SLURM_CPUS_ON_NODE": "48", "LSB_DJOB_HOSTFILE": str(hosts)}
    (folder / "job.sh").write_text(script.replace("sleep 2", "sleep 0.05"))
    command = ["sh", "job.sh", *arguments]
    done = subprocess.run(command, cwd=folder, env={**environment, **env}, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert not list(folder.glob("**/pwned"))
    return [json.loads(line) for line in calls.read_text().splitlines()]


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("shell", [["sh", "-n"], ["shellcheck", "--exclude=SC2016"]], ids=lambda s: s[0])
def test_the_shells_can_parse_each(options: list[str], shell: list[str], tmp_path: Path) -> None:
    # SC2016: `$` between single quotes stays as it is, which is what is wanted here.
    if not shutil.which(shell[0]):
        pytest.skip(f"{shell[0]} is not installed")
    (tmp_path / "job.sh").write_text(script_of(options))
    checked = subprocess.run([*shell, str(tmp_path / "job.sh")], capture_output=True, text=True)
    assert (checked.returncode, checked.stdout) == (0, ""), checked.stdout
    assert "LD_PRELOAD" not in script_of(options)


@pytest.mark.parametrize(
    ("options", "mark", "wanted"),
    [
        (KINDS["requeue"], "#SBATCH ", [*OF_SLURM.split(), "--requeue", "--open-mode=append", "--signal=B:USR1@120"]),
        ("--time 1-12 --partition q --account p --cpus-per-task 24 --sbatch=--qos=x --array=2".split(), "#SBATCH ",
         [*OF_SLURM.replace("--ex", "--cpus-per-task=24 --ex").split(),
          "--time=1-12", "--partition=q", "--account=p", "--array=0-1", "--qos=x"]),
        (KINDS["pbs array"], "#PBS ", OF_PBS.split(";")),
        (KINDS["lsf"], "#BSUB ", ["-J bench", "-n 2", '-R "span[ptile=1]"', "-x", "-r", "-o bench.%J.out", "-W 36:00", "-q q", "-P p"]),
        (KINDS["lsf array"], "#BSUB ", ['-J "bench[1-2]"', "-n 2", '-R "span[ptile=1]"', "-x", "-r", "-o bench.%J_%I.out"]),
        (KINDS["flux"], "#flux: ", ["--job-name=bench", "--nodes=2", "--exclusive", "--time-limit=7200s", "--queue=q", "--bank=p"]),
        (KINDS["mpirun hosts"], "#SBATCH", []),
    ],
)  # fmt: skip
def test_directives_stand_before_the_first_command(options: list[str], mark: str, wanted: list[str]) -> None:
    script = script_of(options)
    assert [line[len(mark) :] for line in script.splitlines() if line.startswith(mark)] == wanted
    assert all(line.startswith("#") for line in script.split("set -eu")[0].splitlines())


@pytest.mark.parametrize(
    ("time", "seconds"),
    [("90", 5400), ("1:30", 90), ("2:00:00", 7200), ("1-12", 129600), ("1-2:30", 95400), ("1-2:30:05", 95405)],
)
def test_a_time_is_read_as_sbatch_reads_it(time: str, seconds: int) -> None:
    assert jobscript.seconds_of(time) == seconds


@pytest.mark.parametrize("kind", ["srun", "mpirun", "mpirun hosts", "ssh", "pbs", "lsf", "flux"])
@pytest.mark.parametrize("image", [False, True])
def test_each_copy_has_its_number_the_words_the_folder_and_the_secret(kind: str, image: bool, tmp_path: Path) -> None:
    folder = tmp_path / "it's a $(touch pwned)"
    options = [*KINDS[kind], f"--results={folder}", *(["--image=b c.sif"] if image else [f"--checkout={tmp_path}"])]
    token = "it's; $(touch pwned) \"a\\b"
    calls = run(script_of(options), tmp_path, BENCH_TOKEN=token, BENCH_OUT="/somewhere/else")
    own = kind in ("srun", "mpirun", "mpirun hosts")  # these number the copies themselves
    name = kind.split()[0] if own else "apptainer" if image else "entrypoint.sh"
    copies = sorted((call for call in calls if call["name"] == name), key=lambda c: c["env"].get("BENCH_NODE_RANK", ""))
    for number, call in enumerate(copies):
        assert call["argv"][-len(WORDS) - 1 :] == ["-m", *WORDS] and call["env"]["BENCH_TOKEN"] == token
        assert f"{folder}:/results" in call["argv"] if image else call["env"]["BENCH_OUT"] == str(folder)
        assert ("BENCH_OUT" in call["env"]) != image
        leader = "n1" if kind == "ssh" else os.uname().nodename
        assert kind == "srun" or call["env"]["BENCH_MASTER_ADDR"] == leader
        assert own or (call["env"]["BENCH_NODE_RANK"], call["env"]["BENCH_NUM_NODES"]) == (str(number), "2")
    assert len(copies) == (1 if own else 2)
    if kind == "lsf":
        assert [call["env"]["HOST"] for call in copies] == [os.uname().nodename, "other"]
    assert not any('touch pwned) "a' in word for call in calls for word in call["argv"])  # what everybody can see
    assert list(folder.iterdir()) == []
    if image:
        return
    secrets = [{call["env"]["BENCH_TOKEN"] for call in run(script_of(options), tmp_path) if call["name"] == name} for _ in range(2)]  # fmt: skip
    (first,), (second,) = secrets
    assert first != second and re.fullmatch("[0-9a-f]{32}", first), "a fresh one each time, for all copies"


# As sshd has it: the other side is in a process group of its own, and sees of a client that is gone the end of its input alone.
SSH = f"""#!{sys.executable}
import os, subprocess, sys, threading
command = " ".join(sys.argv[sys.argv.index("BatchMode=yes") + 2:])
there = subprocess.Popen(["sh", "-c", command], stdin=subprocess.PIPE, start_new_session=True)
def pump():
    while data := os.read(0, 4096):
        there.stdin.write(data), there.stdin.flush()
    there.stdin.close()
threading.Thread(target=pump, daemon=True).start()
code = there.wait()
os._exit(code)
"""
COPY_THERE = f"""#!{sys.executable}
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
name = "copy" + os.environ["BENCH_NODE_RANK"]
open(name, "w").close()
signal.sigtimedwait([signal.SIGTERM], 30) and os.rename(name, name + "-ended")
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_when_the_ssh_script_ends_so_does_the_sweep_on_each_host(number: signal.Signals, tmp_path: Path) -> None:
    for name, text in (("ssh", SSH), ("entrypoint.sh", COPY_THERE)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "job.sh").write_text(script_of([*KINDS["ssh"], f"--checkout={tmp_path}"], ["nodes=2"]).replace("sleep 2", "sleep 0.05").replace(
        f"cd {shlex.quote(os.getcwd())}", f"cd {shlex.quote(str(tmp_path))}"))  # fmt: skip
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    script = subprocess.Popen(["sh", "job.sh"], cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL)

    def seen(names: str) -> bool:
        end = time.monotonic() + 15
        while not (there := len(list(tmp_path.glob(names))) == 2) and time.monotonic() < end:
            time.sleep(0.05)
        return there

    try:
        assert seen("copy[01]")
        script.send_signal(number)
        assert seen("copy[01]-ended")
    finally:
        script.kill()
        script.wait()


def test_srun_and_mpirun_are_told_the_cores_and_keep_copies_alive(tmp_path: Path) -> None:
    (call,) = run(script_of([]), tmp_path)
    assert {"--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=48", "--kill-on-bad-exit=0"} <= set(call["argv"])
    assert call["env"]["BENCH_OUT"] == str(tmp_path / "results")
    (call,) = run(script_of(["--cpus-per-task=24"]), tmp_path)
    assert "--cpus-per-task=24" in call["argv"]
    (call,) = run(script_of(KINDS["mpirun"]), tmp_path)
    assert call["argv"][:2] == ["-N", "1"] and call["env"]["SRUN_CPUS_PER_TASK"] == "48"
    assert call["argv"][call["argv"].index("BENCH_TOKEN") - 1] == "-x"
    (call,) = run(script_of(KINDS["mpirun hosts"]), tmp_path)
    assert call["argv"][:4] == ["--host", "n1,n2", "-N", "1"]


def test_the_folder_is_that_of_the_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BENCH_OUT", "o'ut")
    (call,) = run(script_of([]), tmp_path, BENCH_OUT="/somewhere/else")
    assert call["env"]["BENCH_OUT"] == str(tmp_path / "o'ut") and (tmp_path / "o'ut").is_dir()
    run(script_of([f"--results={tmp_path / 'given'}"]), tmp_path)
    assert (tmp_path / "given").is_dir()


@pytest.mark.parametrize(
    ("name", "variable", "first"),
    [("array", "SLURM_ARRAY_TASK_ID", 0), ("pbs array", "PBS_ARRAY_INDEX", 0), ("lsf array", "LSB_JOBINDEX", 1)],
)
def test_the_jobs_of_an_array_share_the_blocks_out(name: str, variable: str, first: int, tmp_path: Path) -> None:
    script = script_of([*KINDS[name], f"--checkout={tmp_path}"], ["nodes=2", "repeat=0,1,2", "+experiment=smoke"])
    blocks = []
    for number in range(2):
        calls = [c for c in run(script, tmp_path, **{variable: str(first + number)}) if "repeat=0,1,2" in c["argv"]]
        assert calls and all(call["argv"][-2] == f"study=smoke-part{number}" for call in calls)
        blocks.append(calls[0]["argv"][-1])
    assert blocks == ["repeat=0,2", "repeat=1"]
    run(script, tmp_path, code=2, **{variable: "9"})


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
    for name, options in {"entrypoint.sh": [f"--checkout={tmp_path}"], "apptainer": ["--image=b.sif", "--kind=flux"]}.items():  # fmt: skip
        (call,) = run(script_of(options), tmp_path, "--dry-run")
        assert call["name"] == name and call["argv"][-len(WORDS) - 3 :] == ["plan", "--no-look", "--copies=2", *WORDS]


def test_an_image_is_run_by_apptainer_with_the_folder_bound(tmp_path: Path) -> None:
    (call,) = run(script_of(["--image=b c.sif", f"--results={tmp_path / 'out'}"]), tmp_path)
    words = ["apptainer", "run", "--bind", f"{tmp_path / 'out'}:/results", "b c.sif", "-m", *WORDS]
    assert call["name"] == "srun" and call["argv"][-len(words) :] == words


@pytest.mark.parametrize(
    ("overrides", "nodes"),
    [
        ([], 1),
        (["nodes=1,16,2"], 16),
        (["nodes=choice(1,8)"], 8),
        (["nodes=range(1,5)"], 4),
        (["++nodes=3", "repeat=0,1"], 3),
        (["+experiment=published"], 64),
        (["+experiment=published", "nodes=1,2"], 2),
        (["experiment=mine"], 12),
    ],
)
def test_largest_number_of_nodes_in_the_overrides(overrides, nodes, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nnodes: 12\n")
    monkeypatch.setenv("BENCH_CONF", str(tmp_path))
    assert jobscript.largest_nodes(overrides) == nodes


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--nodes=2", "--", "nodes=1,4"], "nodes=4.*--nodes is 2"),
        (["--launcher=ssh", "--hosts=a,b", "--", "nodes=4"], "nodes=4.*--hosts names 2"),
        (["--launcher=ssh", "--", "nodes=4"], "add --hosts"),
        (["--hosts=a,b", "--", "nodes=2"], "--directive=--nodelist=a,b"),
        (["--hosts=a,b;rm", "--launcher=ssh"], "not a list of host names"),
        (["--time=soon"], "not a time"),
        (["--partition=a b"], "not a plain word"),
        (["--cpus-per-task=0"], "positive whole number"),
        (["--image=a.sif", "--checkout=/b"], "choose one"),
        (["--image=a.sif", "--results=/a:b"], "comma or a colon"),
        (["--nods=2"], "slurm: unrecognized arguments: --nods=2"),
        (["--", "nodes=two"], "nodes=two"),
        (["--", "nodes=0"], "nodes=0"),
        (["--", "a=1\nb=2"], "cannot be printed"),
        (["--sbatch=--qos=x\nrm -rf /"], "cannot be printed"),
        (["--kind=pbs"], "--cpus-per-task N"),
        (["--kind=pbs", "--hosts=a,b"], "leave --launcher and --hosts out"),
        (["--kind=flux", "--array=2"], "--array needs Slurm, PBS or LSF"),
        (["--array=2", "--", "repeat=0"], "repeat=0 has 1"),
        (["--requeue", "--launcher=mpirun"], "with srun"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_code_2(argv: list[str], words: str, capsys) -> None:
    assert cli.main(["slurm", *argv]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") <= 2 and re.search(words, err), err


def test_the_first_name_prints_the_same_script() -> None:
    one, two = (jobscript.script(cli.parse([name, "--", "nodes=2"])[1]) for name in ("slurm", "jobscript"))
    assert one.replace("bench slurm", "bench jobscript") == two and str(CHECKOUT) in one
