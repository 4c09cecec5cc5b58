"""One training process: prove the allocator, pin, import torch, train, hand everything to rank 0.

    python -I -B -m bench.rank FD    (a pipe's number; what to do comes as one line of JSON on standard input)

What happens is told as lines of JSON through FD: micro-batches as they end, then the result or one sentence of failure.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from datetime import timedelta
from typing import Any

from bench import __version__
from bench.rank import blas
from bench.rank.counters import memory, unreadable
from bench.rank.fault_cost import fault_cost_seconds
from bench.rank.process import attempt, bind_memory, die_with_parent, pin
from bench.rank.proof import prove
from bench.schema.cpus import layout
from bench.schema.errors import AllocatorError, with_memory_limit
from bench.schema.job import Job, from_dict


def main() -> int:
    started, without = time.perf_counter(), unreadable()
    attempt("A rank may outlive a driver that is killed", die_with_parent, without)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the driver, which ends us
    with open(int(sys.argv[1]), "w", buffering=1) as pipe:

        def tell(event: dict[str, Any]) -> None:
            pipe.write(json.dumps(event) + "\n")

        try:
            run(json.loads(sys.stdin.readline()), tell, started, without)
        except Exception as error:  # everything goes to the driver, which knows how to say it
            tell({"event": "failed", "error": sentence(error)})
            return 1
    return 0


def run(orders: dict[str, Any], tell: Any, started: float, without: list) -> None:
    """``without``: sentences on what this host refuses and the rank does without, for the record."""
    job = from_dict(orders["job"])
    os.environ.pop("LD_PRELOAD", None)  # loaded by now; children must not inherit it
    allocator_path = orders["library"]  # not what LD_PRELOAD said: that is what is to be proved
    proof = prove(job.allocator, allocator_path)
    attempt("The rank is not pinned to its cores", lambda: pin(orders["cpus"]), without)
    memory_node = attempt(
        "The rank's memory is not bound to its cores' NUMA node", lambda: bind_memory(orders["cpus"]), without
    )
    cpus = sorted(os.sched_getaffinity(0))
    tell({"event": "proved"})

    # torch.utils.data loads pandas and pyarrow where they are installed: 66 MiB of heap that is not the workload.
    sys.modules["pandas"] = None  # type: ignore[assignment]
    import torch
    import torch.distributed as dist

    from bench.rank.trainer import Trainer

    torch.set_num_threads(orders["threads"])
    done = blas.apply(job.launch.blas)
    products = blas.ask()
    blas.check(done, products)
    me = {
        "rank": orders["rank"],
        "node": orders["node"],
        "hostname": os.uname().nodename,
        "pid": os.getpid(),
        "cpus": cpus,
        "memory_node": memory_node,
        "threads": torch.get_num_threads(),
        "proof": proof,
        "blas": {**products, **done},
        "without": without,
    }
    dist.init_process_group(
        "gloo", rank=orders["rank"], world_size=job.num_ranks, timeout=timedelta(seconds=job.launch.timeout_seconds)
    )
    refuse_mixture(job, me, torch.__version__)
    trainer = Trainer(job)
    me["startup_seconds"] = time.perf_counter() - started
    trainer.run(tell)
    me.update(micro_batches=trainer.micro_batches, iterations=trainer.iterations, **memory())
    me["proof_end"] = prove(job.allocator, allocator_path)
    blas.refuse_change(products, blas.ask())
    me["parameters_sha256"] = trainer.parameters_sha256()
    me["fault_cost_seconds"] = attempt(
        "The price of a page fault was not measured", lambda: fault_cost_seconds(me["threads"], cpus=cpus), without
    )
    everybody: list = [None] * job.num_ranks
    dist.all_gather_object(everybody, me)
    if orders["rank"] == 0:
        tell({"event": "result", "ranks": everybody})
    dist.barrier()  # nobody leaves while somebody may still talk to it


def refuse_mixture(job: Job, me: dict[str, Any], torch_version: str) -> None:
    """Every rank compares what must be the same everywhere, so that a mixed configuration fails on all of them."""
    import torch.distributed as dist

    mine = {
        "allocator library": sorted(me["proof"]["libraries"].values()),
        "allocator version": me["proof"]["version"],
        "allocator options": me["proof"]["options"],
        "configuration": job.content_hash,
        "torch": torch_version,
        "python": sys.version.split()[0],
        "bench": __version__,
        "core binding": layout(me["cpus"]),
        "threads": me["threads"],
        "matrix library": [me["blas"]["library"], me["blas"]["version"], me["blas"]["path"]],
    }
    all_of_them: list = [None] * job.num_ranks
    dist.all_gather_object(all_of_them, (me["hostname"], mine))
    first_host, first = all_of_them[0]
    for rank, (host, other) in enumerate(all_of_them):
        for what, value in other.items():
            if value != first[what]:
                raise RuntimeError(
                    f"mixed configuration: {what} is {first[what]} on rank 0 ({first_host}) but {value} on rank "
                    f"{rank} ({host}); make the nodes alike."
                )


def sentence(error: Exception) -> str:
    """The first line of what went wrong, with its kind where the words alone do not tell."""
    words = str(error).strip().splitlines() or ["no message"]
    if "Timed out waiting" in words[0]:  # gloo's words for a peer that is stopped, or out of reach
        return (
            "another rank did not answer within launch.timeout_seconds: its process hangs, is slower than the others by that much "
            "(then raise it), or the network between the nodes is down."
        )
    plain = isinstance(error, (AllocatorError, blas.BlasError, RuntimeError))
    return with_memory_limit(words[0] if plain else f"{type(error).__name__}: {words[0]}")


if __name__ == "__main__":
    sys.exit(main())
