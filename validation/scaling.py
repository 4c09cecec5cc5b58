"""Data parallel on one host: 1 and 2 ranks of one core each, what overlapping the synchronisation is worth, 64 ranks.

    python validation/scaling.py ranks   [--allocator glibc tcmalloc] [--rounds 3]   1 and 2 ranks, with the sync share
    python validation/scaling.py overlap [--gbit 1] [--rounds 3]                     sync overlapped against serial
    python validation/scaling.py wide    [--num-ranks 64]                            the published width

`overlap` (as root) gives each of two ranks a network namespace of its own, joined by a veth pair of limited rate (tc
tbf), so that communication takes wall time but hardly any core: over one host's loopback it is nothing but CPU time,
which two ranks on two cores have not left. `wide` shares the cores out among many ranks of the tiny model; its times
mean nothing.

Goals: with sync overlapped an iteration is faster than with it serial, the whole interval of the ratio above 1; the
wide sweep over the allocators completes. `ranks` only shows. Exit code 1 when one is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

from run_job import COMMAND, record_of, results, run_job

from bench.record import records
from bench.statistics import stats
from bench.workloads import reading

# Network namespaces of the two hosts, with their addresses; another run of this script has others.
HOSTS = {f"bench{os.getpid()}a": "10.213.77.1", f"bench{os.getpid()}b": "10.213.77.2"}
INTERFACE = "veth0"


def show_ranks(args: argparse.Namespace, out: Path) -> int:
    seconds: dict[tuple[str, int], list[float]] = {}
    syncs: dict[tuple[str, int], list[float]] = {}
    cases = [(arm, ranks) for arm in args.allocator for ranks in (1, 2)]
    for turn in range(args.rounds):
        for arm, ranks in cases if turn % 2 == 0 else cases[::-1]:
            words = [
                f"+allocator={arm}",
                f"nodes={ranks}",
                "launch.threads_per_rank=1",
                f"repeat={turn}",
                *common(args),
            ]
            record = run_job(out, f"{arm}_{ranks}_r{turn}", *words)
            derived = record["derived"]
            seconds.setdefault((arm, ranks), []).append(derived["sec_per_it"])
            syncs.setdefault((arm, ranks), []).append(derived["sync_seconds"] / derived["sec_per_it"])
            print(f"round {turn}: {arm}, {ranks} ranks: {derived['sec_per_it']:.4g} s/it", flush=True)
    print(f"\n{args.model}, {args.global_batch} micro-batches per iteration, one core per rank")
    print(f"{'allocator':14s}{'ranks':>6s}{'sec/it':>10s}{'sync share':>12s}{'efficiency':>12s}")
    for arm, ranks in cases:
        mean, sync = fmean(seconds[arm, ranks]), fmean(syncs[arm, ranks])
        print(f"{arm:14s}{ranks:6d}{mean:10.4g}{sync:12.1%}{fmean(seconds[arm, 1]) / (ranks * mean):12.2f}")
    return 0


def common(args: argparse.Namespace) -> list[str]:
    seconds = f"measure.max_seconds={args.max_seconds}"
    return [f"model={args.model}", f"train.global_batch_size={args.global_batch}", seconds, *args.also]


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


@contextlib.contextmanager
def two_hosts(gbit: float) -> Iterator[None]:
    """Two network namespaces joined by a veth pair whose ends each send at most ``gbit`` Gbit/s."""
    first, second = HOSTS
    # tbf wants a burst of at least what the timer lets through at once, and of one large segment.
    burst_bytes = max(int(gbit * 1e9 / 8 / 1000), 128 << 10)
    shaping = ["root", "tbf", "rate", f"{int(gbit * 1e6)}kbit", "burst", str(burst_bytes), "latency", "50ms"]
    made = []
    try:
        for name in HOSTS:
            ip("netns", "add", name)
            made.append(name)
        ip("link", "add", INTERFACE, "netns", first, "type", "veth", "peer", "name", INTERFACE, "netns", second)
        for name, address in HOSTS.items():
            ip("-n", name, "addr", "add", f"{address}/24", "dev", INTERFACE)
            ip("-n", name, "link", "set", INTERFACE, "up")
            ip("-n", name, "link", "set", "lo", "up")
            subprocess.run(["tc", "-n", name, "qdisc", "add", "dev", INTERFACE, *shaping], check=True)
        yield
    finally:
        for name in made:
            ip("netns", "del", name)


def run_on_two_hosts(out: Path, study: str, *overrides: str) -> records.Record:
    """One copy of the command in each namespace, on one core each, as an ssh loop would start them."""
    first, _ = HOSTS
    copies = []
    for number, (name, cpu) in enumerate(zip(HOSTS, sorted(os.sched_getaffinity(0)))):
        place = {"BENCH_NODE_RANK": str(number), "BENCH_NUM_NODES": "2", "BENCH_MASTER_ADDR": HOSTS[first]}
        command = ["ip", "netns", "exec", name, "taskset", "-c", str(cpu), *COMMAND, f"study={study}", *overrides]
        env = {**os.environ, "BENCH_OUT": str(out), **place}
        copies.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    said = [copy.communicate()[0] for copy in copies]
    if any(copy.returncode for copy in copies):
        sys.exit(f"{' '.join(overrides)} failed:\n{''.join(said)}")
    return record_of(out, study)


def show_overlap(args: argparse.Namespace, out: Path) -> int:
    if os.geteuid() != 0:
        sys.exit("overlap makes network namespaces: run it as root")
    if len(os.sched_getaffinity(0)) < 2:
        sys.exit("overlap needs two cores, one for each rank")
    arm = args.allocator[-1]
    samples: dict[bool, list[list[float]]] = {True: [], False: []}
    print(f"{'round':>5s}  {'sync':12s}{'sec/it':>10s}{'sync s':>9s}{'sync share':>12s}   {arm}, {args.gbit:g} Gbit/s")
    with two_hosts(args.gbit):
        for turn in range(args.rounds):
            for overlap in (True, False) if turn % 2 == 0 else (False, True):
                words = [
                    f"+allocator={arm}",
                    "nodes=2",
                    f"repeat={turn}",
                    f"train.overlap_grad_reduce={overlap}",
                    *common(args),
                ]
                derived = run_on_two_hosts(out, f"overlap_{overlap}_r{turn}", *words)["derived"]
                samples[overlap].append(derived["samples"])
                whole, sync = derived["sec_per_it"], derived["sync_seconds"]
                mode = "overlapped" if overlap else "serial"
                print(f"{turn:5d}  {mode:12s}{whole:10.4g}{sync:9.4g}{sync / whole:12.1%}", flush=True)
    ratio = stats.ratio(samples[False], samples[True])
    limits = f"[{ratio.low:.4f}, {ratio.high:.4f}]"
    print(
        f"serial/overlapped {ratio.value:.4f} {limits}, {args.model}, {args.global_batch} micro-batches per iteration"
    )
    print("goal met: overlapping is faster" if ratio.low > 1 else "goal missed: overlapping is not shown to be faster")
    return 0 if ratio.low > 1 else 1


def show_wide(args: argparse.Namespace, out: Path) -> int:
    # Ranks that share a core start one after another, so the peers get more time than usual.
    command = [*COMMAND, "-m", "study=wide", "model=tiny", "measure=full", f"train.global_batch_size={args.num_ranks}",
               f"nodes={args.num_ranks}", f"+allocator={','.join(args.allocator)}", "launch.timeout_seconds=900",
               "launch.oversubscribe=true", "launch.threads_per_rank=1"]  # fmt: skip
    code = subprocess.run(command, env={**os.environ, "BENCH_OUT": str(out)}).returncode
    found, refused = reading.read_all([out / "wide"])
    print(f"\n{'allocator':14s}{'ranks':>6s}{'valid':>7s}{'wall s':>8s}{'peak RSS MiB':>14s}")
    for record in found:
        ranks = record["ranks"] or []
        peak = max((rank["peak_rss_bytes"] for rank in ranks), default=0) / 2**20
        arm, valid = record["job"]["allocator"]["name"], str(record["valid"])
        print(f"{arm:14s}{len(ranks):6d}{valid:>7s}{record['wall_seconds']:8.0f}{peak:14.0f}")
    whole = [record for record in found if record["valid"] and len(record["ranks"]) == args.num_ranks]
    good = code == 0 and not refused and len(whole) == len(args.allocator)
    words = f"exit code {code}, {len(whole)} whole records of {len(args.allocator)} jobs"
    print("goal met: the sweep completed" if good else f"goal missed: {words}")
    return 0 if good else 1


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("ranks", "overlap", "wide"))
    parser.add_argument("--allocator", nargs="+", default=["glibc", "tcmalloc"], help="overlap takes the last one")
    parser.add_argument("--model", default="gpt124m")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--global-batch", type=int, default=4, help="few: sync matters more; at least 4 (default 4)")
    parser.add_argument("--max-seconds", type=float, default=90, help="of measuring in each job (default 90)")
    parser.add_argument("--also", nargs="+", default=[], help="overrides for every job, such as model.sequence=256")
    parser.add_argument(
        "--gbit", type=float, default=1.0, help="rate of the link in each direction, Gbit/s (default 1)"
    )
    parser.add_argument("--num-ranks", type=int, default=64)
    parser.add_argument("--out", type=Path, help="keep the records here, and go on from those that are there")
    args = parser.parse_args(argv)
    if args.global_batch < 4:  # with one micro-batch per rank, none goes without sync for the last to be compared with
        parser.error(f"--global-batch {args.global_batch}: give at least 4")
    with results(args.out) as out:
        shows = {"ranks": show_ranks, "overlap": show_overlap, "wide": show_wide}
        return shows[args.what](args, out)


if __name__ == "__main__":
    sys.exit(main())
