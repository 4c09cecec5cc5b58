"""One training process: prove the allocator, pin, import torch, train, hand everything to the driver.

    python -I -B -m bench.workloads.gpt.rank FD    (a pipe's number; what to do comes as lines of JSON on standard input)

What happens is told as lines of JSON through FD: ``proved``; ``ready`` with what must be alike on all ranks, after which the rank
waits for ``go``; in an interleaved run ``waits`` before each micro-batch and layer, until ``turn``; micro-batches as they end; ``part``, the
rank's part of the record, as soon as it has trained; ``after``, what is measured after that; then it waits for ``end``. Or ``failed``,
with one sentence.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import time
from datetime import timedelta
from typing import Any, Callable

import bench
from bench.job.errors import AllocatorError, with_memory_limit
from bench.job.job import from_dict
from bench.process.counters import memory, unreadable
from bench.process.cpus import allowed_cpus
from bench.process.fault_cost import fault_cost_seconds
from bench.process.process import bind_memory, die_with_parent, on_all, optional, pin, take_off_padding
from bench.process.proof import prove
from bench.workloads.gpt.rank import blas, openmp
from bench.workloads.gpt.rank.alike import alike
from bench.workloads.gpt.rank.marks import BETWEEN, MICRO_BATCH, marked
from bench.workloads.gpt.rank.orders import Orders, Tell, Turns
from bench.workloads.gpt.rank.tensor_memory import tensor_memory

# A batch system sends these to every process of a job, a terminal SIGINT: they are for the driver, which ends us.
FOR_THE_DRIVER = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2, signal.SIGXCPU)
NO_LIMIT = timedelta(days=365)


def say_where() -> None:
    """Python's stacks go to the log where the rank crashes, and where the driver asks one that hangs (SIGUSR1)."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # where the next two are refused, the question ends nobody
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)


def main() -> int:
    started, without = time.perf_counter(), unreadable()
    optional(die_with_parent, "A rank may outlive a driver that is killed", without)
    for number in FOR_THE_DRIVER:
        signal.signal(number, signal.SIG_IGN)
    optional(say_where, "A rank that crashes or hangs cannot say where it was", without)
    orders = Orders()
    with open(int(sys.argv[1]), "w", buffering=1) as pipe:

        def tell(event: dict[str, Any]) -> None:
            pipe.write(json.dumps(event) + "\n")

        try:
            run(orders, tell, started, without)
        except Exception as error:  # everything goes to the driver, which knows how to say it
            tell({"event": "failed", "error": sentence(error)})
            return 1
    return 0


def run(orders: Orders, tell: Tell, started: float, without: list) -> None:
    """``without``: sentences on what this host refuses and the rank does without, for the record."""
    order = orders.next()
    without += order.get("without", [])  # what the driver knows already
    job = from_dict(order["job"])
    environment_bytes = optional(take_off_padding, "The length of the environment is not known", without)
    os.environ.pop("LD_PRELOAD", None)  # loaded by now; children must not inherit it
    allocator_path = order["library"]  # not what LD_PRELOAD said: that is what is to be proved
    proof = prove(job.allocator, allocator_path)
    optional(lambda: pin(order["cpus"]), "The rank is not pinned to its cores", without)
    memory_node = optional(
        lambda: bind_memory(order["cpus"]), "The rank's memory is not bound to its cores' NUMA node", without
    )
    cpus = allowed_cpus()
    tell({"event": "proved"})

    # torch.utils.data loads pandas and pyarrow where they are installed: 66 MiB of heap that is not the workload.
    sys.modules["pandas"] = None  # type: ignore[assignment]
    import torch
    import torch.distributed as dist

    from bench.workloads.gpt.rank.parallel import initialize_groups
    from bench.workloads.gpt.rank.rendezvous import RankStore
    from bench.workloads.gpt.rank.trainer import Trainer

    # OMP_NUM_THREADS has told the number; this tells MKL too. PyTorch 1.10 reads /proc/cpuinfo for it, and aborts where that is hidden.
    if os.path.exists("/proc/cpuinfo") or torch.get_num_threads() != order["threads"]:
        torch.set_num_threads(order["threads"])
    done = blas.apply(job.launch.blas)
    products = blas.ask()
    blas.check(done, products)
    me = {
        "rank": order["rank"],
        "node": order["node"],
        "hostname": os.uname().nodename,
        "pid": os.getpid(),
        "cpus": cpus,
        "environment_bytes": environment_bytes,
        "environment": order.get("environment"),
        "memory_node": memory_node,
        "threads": torch.get_num_threads(),
        "proof": proof,
        "blas": {**products, **done},
        "without": without,
        "software": {"python": sys.version.split()[0], "torch": str(torch.__version__)},
    }
    tell({"event": "ready", "rank": me["rank"], "hostname": me["hostname"], "alike": alike(job, me, torch.__version__)})
    orders.wait_for("go")
    # A slow peer is no lost peer: in full mode a rank may be hours between two collectives. The drivers notice who hangs
    # or is gone; a limit for a collective is only there if it is asked for.
    limit = job.launch.collective_timeout_seconds
    with on_all(order["cpus"]):
        dist.init_process_group(
            "gloo",
            store=RankStore(orders, tell, job.launch.timeout_seconds),
            rank=order["rank"],
            world_size=job.num_ranks,
            timeout=timedelta(seconds=limit) if limit else NO_LIMIT,
        )
        groups = initialize_groups(job, timedelta(seconds=limit) if limit else NO_LIMIT)
    tell({"event": "connected"})
    turns = Turns(orders, tell, order.get("interleaved", False))
    pause = turns.wait if turns.interleaved else None
    trainer = Trainer(job, turns.clock, marked(MICRO_BATCH, turns.wait, after=True), groups, pause)
    me["startup_seconds"] = time.perf_counter() - started
    trainer.run(marked(BETWEEN, tell, after=False))

    me.update(micro_batches=trainer.micro_batches, iterations=trainer.iterations)
    peak = {
        "peak_rss_bytes": max(trainer.micro_batches["rss_bytes"]),
        "rss_bytes": trainer.micro_batches["rss_bytes"][-1],
    }
    me.update(after_training("The peak of memory was not measured", memory, without) or peak)
    tell({"event": "part", "part": me})  # from here on nothing can cost the samples
    proof_end = after_training(
        "The allocator was not proved again", lambda: prove(job.allocator, allocator_path), without
    )
    if proof_end is not None:
        proof_end["tensor_memory"] = after_training(
            "Whose memory a tensor is in was not asked",
            lambda: tensor_memory(job.allocator.name, proof["malloc_library"], empty_tensor),
            without,
        )
    at_end = after_training("The matrix library was not asked again", blas.ask, without)
    if at_end is not None:
        blas.refuse_change(products, at_end)
    digest = after_training("The parameters were not hashed", trainer.parameters_sha256, without)
    price = after_training(
        "The price of a page fault was not measured", lambda: fault_cost_seconds(me["threads"], cpus=cpus), without
    )
    threads = after_training(
        "OpenMP's threads were not asked where they run",
        lambda: openmp.threads(me["threads"], os.environ, blas.loaded()),
        without,
    )
    without += openmp.unbound(threads, cpus)
    values = {
        "proof_end": proof_end,
        "parameters_sha256": digest,
        "fault_cost_seconds": price,
        "openmp": threads,
        "without": without,
    }
    tell({"event": "after", "values": values})
    orders.wait_for("end")  # nobody leaves while somebody may still talk to it


def empty_tensor(size_bytes: int) -> tuple:
    import torch

    tensor = torch.empty(size_bytes, dtype=torch.uint8)
    return tensor.data_ptr(), tensor


def after_training(what: str, ask: Callable[[], Any], without: list) -> Any:
    """Return what ``ask()`` gives, or None and a sentence more in ``without``.

    Only another allocator or matrix library than was asked for is an error.
    """
    try:
        return ask()
    except (AllocatorError, blas.BlasError):
        raise
    except Exception as error:
        without.append(f"{what} ({sentence(error).rstrip('.')}).")
        return None


def sentence(error: Exception) -> str:
    """Return the first line of an error, with its kind where the text alone is not clear."""
    words = str(error).strip().splitlines() or ["no message"]
    if "Timed out waiting" in words[0]:  # gloo's words for a peer that is stopped, or out of reach
        return (
            "another rank did not answer within launch.timeout_seconds (launch.collective_timeout_seconds, if that is set): its "
            "process hangs, it is slower than the others by that much, or the network between the nodes is down."
        )
    if "cannot enable executable stack" in words[0]:
        return executable_stack(words[0].partition(":")[0])
    plain = isinstance(error, (AllocatorError, blas.BlasError, RuntimeError))
    return with_memory_limit(words[0] if plain else f"{type(error).__name__}: {words[0]}")


def executable_stack(library: str) -> str:
    """Return what to do about a library that glibc 2.41 and later do not load; `make setup` does it for our own PyTorch."""
    script = os.path.join(os.path.dirname(bench.__path__[0]), "scripts", "clear_execstack.py")
    return (
        f"{sys.executable} cannot import torch: {library} asks for an executable stack, which glibc 2.41 and later do not give; run "
        f"`{sys.executable} {script} {sys.prefix}`, or, for an arm that sets no GLIBC_TUNABLES, add "
        f"+allocator.env.GLIBC_TUNABLES='\"glibc.rtld.execstack=2\"'."
    )


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Everything is told. What torch, gloo and an allocator do at the end of a process is of no use to anybody, and some of
    # it aborts or hangs: gloo's thread when a peer's connection closes, an allocator whose own thread is still running.
    os._exit(code)
