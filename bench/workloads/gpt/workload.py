"""The GPT as a workload."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.host.load import stalls
from bench.job.job import Job, Model, Parallel, Train
from bench.job.sampling import micro_batches
from bench.record.records import Record
from bench.workloads.gpt.figures import checked_ranks, derive
from bench.workloads.gpt.flops import tflops
from bench.workloads.workload import OnRunEvent, Outcome, Workload

if TYPE_CHECKING:
    from bench.copies.launcher import Copy
    from bench.copies.rendezvous import Part
    from bench.report.tables import Table
    from bench.statistics.cells import Cell
    from bench.statistics.grouping import Section

WORTH_TIMING = 50_000_000  # parameters: with a smaller model, timing the products would take longer than the runs


class Gpt(Workload):
    """The training of a GPT, by ranks of our own on one node or several."""

    turn = "micro-batch"
    pauses = True
    shorter = "a smaller model"
    compared = "losses"
    uses_pytorch = True
    code = tuple(
        f"workloads/gpt/rank/{name}.py" for name in ("trainer", "gpt", "ops_*", "slices", "data", "dropout", "blas")
    )
    pictures = ("gains", "phases", "samples", "over_time", "against_nodes", "pareto")

    def title(self, job: Job) -> str:
        sizes = (("TP", job.parallel.tensor), ("PP", job.parallel.pipeline))
        divided = ", ".join(f"{name} {size}" for name, size in sizes if size > 1)
        return f"{job.model.name} ({divided})" if divided else job.model.name

    def description(self, job: Job) -> str:
        model, train = job.model, job.train
        tensor, pipeline = job.parallel.tensor, job.parallel.pipeline
        divided = f"; tensor parallel {tensor}, pipeline parallel {pipeline}" if tensor * pipeline > 1 else ""
        data = "synthetic tokens" if job.data.path is None else f"tokens of {job.data.path}"
        return (
            f"{model.num_parameters:,} parameters: {model.layers} layers, hidden {model.hidden}, {model.heads} heads, "
            f"sequence {model.sequence}, {model.ops} operations; micro-batch {train.micro_batch_size}, "
            f"global batch {train.global_batch_size}, dropout {train.dropout:g}, activation checkpointing "
            f"{'on' if train.activation_checkpointing else 'off'}; ranks on a node: {job.ranks_per_node}{divided}; "
            f"{job.measure.mode} mode; {data}; seed {job.seed}."
        )

    def check_host(self, jobs: Sequence[Job], copy: Copy, host: Mapping[str, Any]) -> None:
        from bench.workloads.gpt.fits import check_host, check_network

        check_host(jobs, copy, host)
        check_network(jobs, copy)

    def rank_bytes(self, job: Job) -> int | None:
        return job.rank_bytes

    def wants_products(self, job: Job) -> bool:
        return job.model.num_parameters >= WORTH_TIMING and job.launch.python is None

    def fewest_samples(self, job: Job) -> int | None:
        return micro_batches(job, 1)  # what is left out by design, and one iteration

    def recorded_as(self, job: Job) -> Job | None:
        """Return two steps of warm-up and an iteration that ends with a settled micro-batch; a trace is of one rank."""
        measure = replace(
            job.measure,
            mode="sampled",
            warmup_micro_batches=2,
            iterations=1,
            iteration_micro_batches=3,
            min_seconds=0.0,
        )
        return replace(job, measure=measure) if job.num_ranks == 1 else None

    def run_block(
        self, jobs: Sequence[Job], folders: Sequence[Path], parts: Sequence[Part], on_event: OnRunEvent
    ) -> list[Outcome]:
        from bench.workloads.gpt.turns import run_ranks

        return run_ranks(jobs, parts, on_event)

    def checked_ranks(self, ranks: Any) -> list[dict[str, Any]]:
        return checked_ranks(ranks)

    def given(self, job: Job, ranks_here: int) -> dict[str, Any]:
        from bench.workloads.gpt.ranks import given

        return given(job, ranks_here)

    def disturbances(self, ranks: Sequence[Mapping[str, Any]]) -> list[str]:
        return stalls(ranks)

    def state(self, job: Job, event: Mapping[str, Any]) -> str:
        if event["event"] != "micro_batch":
            return ""
        loss = f" loss {event['loss']:.2f}" if "loss" in event else ""  # which only a pipeline's last stage has
        return f"iteration {event['iteration']}.{event['index']}{loss}"

    def expected_seconds(self, job: Job, turns: int, elapsed_seconds: float) -> float | None:
        """Return the time of all iterations; in sampled mode of one counted iteration at least, and of more within measure.max_seconds."""
        pace, measure = elapsed_seconds / turns, job.measure
        least, least_of_all = pace * micro_batches(job), pace * micro_batches(job, 1)
        if measure.mode == "full":
            return least
        return max(min(max(least, measure.min_seconds), measure.max_seconds), least_of_all)

    def figures(self, record: Record) -> dict[str, Any]:
        return derive(record)

    def num_samples(self, record: Record) -> int:
        return len(record["ranks"][0]["micro_batches"]["kind"])

    def tflops(self, job: Job, sec_per_it: float) -> float | None:
        return tflops(job, sec_per_it)

    def is_published(self, job: Job) -> bool:
        """Return whether it is the published program, which the defaults describe: its operations, dropout and checkpointing too."""
        published = (Model(), Train(), Parallel(), 1)
        return (replace(job.model, name=Model.name), job.train, job.parallel, job.ranks_per_node) == published

    def summary(self, figures: Mapping[str, Any]) -> str:
        faults = figures["minor_faults_per_it"] / figures["micro_batches_per_it"]
        return (
            f"{figures['sec_per_it']:.1f} s/it, {figures['micro_batch_seconds']:.3f} s/micro-batch, "
            f"{faults:,.0f} minor faults/micro-batch ({figures['notes']})"
        )

    def notes(self, cell: Cell) -> str:
        first = cell.records[0]
        if cell.job.measure.mode == "full":
            said = f"full {sum(first['ranks'][0]['iterations']['steady'])} it"
        else:
            done = [record["derived"]["sampled_micro_batches"] for record in cell.records]
            span = f"{min(done)}" if min(done) == max(done) else f"{min(done)}-{max(done)}"
            said = f"sampled {span}/{first['derived']['micro_batches_per_it']}"
        return said + ", simulated nodes" * cell.simulated

    def cautions(self, record: Record) -> list[str]:
        said: list[str] = list(record["derived"].get("cautions", []))
        if any(rank.get("proof_end") is None for rank in record["ranks"]):
            said.append("a rank was not there any more, or could not be asked, to prove its allocator at the end.")
        return said

    def columns(self, job: Job) -> dict[str, Any]:
        from bench.workloads.gpt.tables import columns

        return columns(job)

    def tables(self, section: Section) -> list[Table]:
        from bench.workloads.gpt.tables import tables

        return tables(section)

    def table_for_paper(self, section: Section) -> Table:
        from bench.workloads.gpt.tables import table_for_paper

        return table_for_paper(section)
