"""A campaign of faults: what a sweep loses, and whether it ends, when a host, a user or a stranger does something at a bad moment.

    python -m validation faults [--faults 60] [--seed 1] [--alone] [--kinds WORD,WORD] [--only N] [--jobs 2] [--out FILE]

Each fault has a sweep of three small jobs of its own, of which two are there already; where runs are interleaved, of two arms. At a
random moment of the third one of the kinds of fault_kinds.py happens; then the same command is started again. Counted, and each must be 0:

- lost: a valid record from before that is not there any more, byte for byte (but what the fault itself took);
- hangs: a command that has not ended in the time that its kind allows, or a start after it that does not;
- processes: drivers and ranks that are there 15 s after the command has ended;
- wrong: a valid record with other losses than without a fault, or a next start that does not complete all three;
- silent: a command that ended by itself, and not well, without a sentence, or with a traceback.

Everything follows from the seed and the number of the fault: `--only N` tries that one again, and keeps its folder. Two copies of the
command are tried on this host too.
With --out the outcome of each fault is kept in a file, and the same command goes on where it was stopped.
Exit code 1 where a count is not 0.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from fault_kinds import ALONE, COPIES, INTERLEAVED, INTERLEAVED_COPIES, KINDS, small_disk
from fault_scene import Scene, are_alike
from run_job import parser_of

COUNTED = ("lost", "hangs", "processes", "wrong", "silent")
START_SECONDS = 180.0  # for a command that nothing disturbs


@dataclass
class Result:
    number: int
    kind: str
    where: str
    moment: float
    seconds: float
    what: dict[str, str]  # counted thing: in words


def kept(file: Path | None, seed: int, plan: Sequence[tuple[int, tuple[str, str]]]) -> list[Result]:
    """Outcomes in ``file`` of faults of ``plan``; those of another plan end the campaign, as does a line that is half of one."""
    if file is None or not file.exists():
        return []
    found = []
    for number, line in enumerate(file.read_text().splitlines(), 1):
        try:
            words = json.loads(line)
            seed_then, result = words.pop("seed"), Result(**words)
        except (ValueError, TypeError, KeyError, AttributeError):
            sys.exit(f"faults: {file}, line {number}, is no outcome: {line[:60]!r}; remove that line, and start again")
        if seed_then != seed or (result.number, (result.kind, result.where)) not in plan:
            sys.exit(
                f"faults: {file} is of another campaign (line {number}: seed {seed_then}, {result.kind}); give another --out"
            )
        found.append(result)
    return found


def keep(file: Path | None, seed: int, result: Result) -> None:
    if file is not None:
        with open(file, "a") as f:
            f.write(json.dumps({"seed": seed, **asdict(result)}) + "\n")


@dataclass
class Base:
    """The same sweep undisturbed: its records, its losses, and how long one job takes."""

    folder: Path
    losses: dict[str, list[Any]]
    seconds: float


def make_base(where: str, root: Path) -> Base:
    scene = Scene(where, root)
    for repeats in ("repeat=0,2", "repeat=1"):
        begun = time.monotonic()
        scene.start(repeats)
        codes = scene.end(START_SECONDS)
        seconds = time.monotonic() - begun
        said = scene.clear()
        if codes is None or any(codes):
            sys.exit(f"faults: the sweep does not run undisturbed ({where}, {codes}):\n{said}")
    base = Base(scene.out, scene.losses(), seconds)
    for path in (scene.out / "smoke").glob("*_r01-*"):
        shutil.rmtree(path)
    return base


def try_one(number: int, seed: int, name: str, where: str, base: Base, root: Path) -> Result:
    rng, kind = random.Random(f"{seed}/{number}"), KINDS[name]
    moment = rng.uniform(0.0, 0.85 * base.seconds)
    scene = Scene(where, root)
    what: dict[str, str] = {}
    with small_disk(scene.out) if name == "disk full" else contextlib.nullcontext():
        shutil.copytree(base.folder / "smoke", scene.out / "smoke")
        before = scene.contents()
        if kind.before:
            kind.act(scene, rng)
        scene.start()
        if kind.training:
            wait_for_training(scene)
        if not kind.before:
            time.sleep(rng.uniform(0.0, 0.5) if kind.training else moment)
        fault = time.monotonic()
        if not kind.before:
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                kind.act(scene, rng)
        codes = scene.end(kind.limit_seconds)
        seconds = time.monotonic() - fault
        if codes is None:
            what["hangs"] = f"no end {kind.limit_seconds:g} s after it: {list(map(str, scene.everything()))}"
        left = scene.left()
        if left and codes is not None:
            what["processes"] = "; ".join(left)
        said = scene.clear()
        now = scene.contents()
        # A record of what is another host now (fewer CPUs) is set aside in its folder, whole.
        lost = [
            one
            for one, data in before.items()
            if one not in kind.touches and now.get(one) != data and not scene.has(data)
        ]
        if lost:
            what["lost"] = ", ".join(lost)
        if codes is not None and (complaint := silence(codes, said, name)):
            what["silent"] = complaint
        scene.repair()
        what.update(next_start(scene, base))
    if what:
        (root / "said-at-the-fault").write_text(said)
    else:
        shutil.rmtree(root, ignore_errors=True)
    return Result(number, name, where, moment, seconds, what)


def silence(codes: Sequence[int], said: str, name: str) -> str | None:
    """Who ends by itself and not well says why, without a traceback."""
    if "Traceback" in said:
        return "a traceback: " + said[said.index("Traceback") :].strip().splitlines()[-1]
    ended = any(code > 0 for code in codes)
    if ended and name != "reader of the output gone" and "mallocost: " not in said and "error: " not in said:
        return f"no sentence, exit codes {list(codes)}: {said[-200:]!r}"
    return None


def next_start(scene: Scene, base: Base) -> dict[str, str]:
    """Return what is wrong with the same command after the fault: it must complete everything, with the same figures."""
    scene.start()
    codes = scene.end(START_SECONDS)
    said = scene.clear()
    if codes is None:
        return {"hangs": "the next start did not end"}
    if any(codes):
        return {"wrong": f"the next start ended with {codes}: {said[-400:]}"}
    losses = {name: value for name, value in scene.losses().items() if name in base.losses}  # r3 is of another command
    if not are_alike(losses, base.losses):
        missing = sorted(set(base.losses) - set(losses))
        return {"wrong": f"records missing: {missing}" if missing else "other losses than without a fault"}
    return {}


def wait_for_training(scene: Scene) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        ranks = scene.found("rank")
        with contextlib.suppress(psutil.Error):
            if ranks and all(rank.num_threads() > 2 and rank.cpu_times().user > 1.0 for rank in ranks):
                return
        time.sleep(0.05)


def chosen(number: int, seed: int, scenes: Sequence[str], wanted: Sequence[str]) -> list[tuple[str, str]]:
    """Kind and scene of each fault: all kinds once in a shuffled order, then again."""
    rng = random.Random(seed)
    found: list[tuple[str, str]] = []
    pairs = [(name, where) for name, kind in KINDS.items() for where in kind.where if where in scenes]
    pairs = [pair for pair in pairs if not wanted or any(word in pair[0] for word in wanted)]
    if os.geteuid():
        pairs = [pair for pair in pairs if pair[0] != "disk full"]
    while pairs and len(found) < number:
        names = sorted({name for name, _ in pairs})
        rng.shuffle(names)
        found += [(name, rng.choice([where for one, where in pairs if one == name])) for name in names]
    return found[:number]


def main(argv: list[str] | None = None) -> int:
    parser = parser_of(__doc__, out=False)
    parser.add_argument("--faults", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--alone", action="store_true", help="single copies on this host only")
    parser.add_argument("--kinds", default="", help="only kinds with one of these words in their names")
    parser.add_argument("--only", type=int, help="only the fault of this number")
    parser.add_argument("--jobs", type=int, default=2, help="faults at a time (default: %(default)s)")
    parser.add_argument(
        "--out", type=Path, help="file of the outcomes, one line each; what is in it is not tried again"
    )
    args = parser.parse_args(argv)
    scenes = [ALONE, INTERLEAVED, *(() if args.alone else (COPIES, INTERLEAVED_COPIES))]
    plan = list(enumerate(chosen(args.faults, args.seed, scenes, [w for w in args.kinds.split(",") if w])))
    if args.only is not None:
        plan = [one for one in plan if one[0] == args.only]
    if not plan:
        print("no fault has such a name or number")
        return 2
    done = kept(args.out, args.seed, plan)
    plan = [one for one in plan if one[0] not in {result.number for result in done}]
    root = Path(tempfile.mkdtemp(prefix="bench-faults-"))
    bases = {where: make_base(where, root / f"base-{where}") for where in sorted({where for _, (_, where) in plan})}

    def run(one: tuple[int, tuple[str, str]]) -> Result:
        number, (name, where) = one
        result = try_one(number, args.seed, name, where, bases[where], root / str(number))
        line = f"{number:4} {result.kind} ({where}), at {result.moment:.2f} s: ended after {result.seconds:.1f} s"
        print(line + "".join(f"; {what.upper()}: {words}" for what, words in result.what.items()), flush=True)
        keep(args.out, args.seed, result)
        return result

    with ThreadPoolExecutor(args.jobs) as pool:
        results = done + list(pool.map(run, plan))
    return judged(results, args.seed, root)


def judged(results: Sequence[Result], seed: int, root: Path) -> int:
    counts = Counter(what for result in results for what in result.what)
    longest = max(results, key=lambda result: result.seconds)
    print(
        f"{len(results)} faults of {len({r.kind for r in results})} kinds, seed {seed}: "
        + ", ".join(f"{what} {counts[what]}" for what in COUNTED)
    )
    print(
        f"longest time from a fault to the end of the command: {longest.seconds:.1f} s ({longest.kind}, {longest.where})"
    )
    if counts:
        print(
            f"what these said is in {root}; again: python -m validation faults --faults {len(results)} --seed {seed} --only N"
        )
        return 1
    shutil.rmtree(root, ignore_errors=True)
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
