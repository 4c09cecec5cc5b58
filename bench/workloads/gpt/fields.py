"""What a rank of our GPT adds to a record: see bench/record/fields.py."""

from typing import Annotated, Any, Literal, Optional

from msgspec import Meta
from typing_extensions import NotRequired, TypedDict

from bench.record.fields import (
    MAJOR_FAULTS,
    MINOR_FAULTS,
    SYSTEM_SECONDS,
    USER_SECONDS,
    Number,
    Positive,
    Proof,
    Rank,
    doc,
)

Column = Annotated[list[Number], Meta(min_length=1)]
Kind = Literal["first", "settling", "middle", "last"]


class OpenMP(TypedDict):
    proc_bind: Annotated[Optional[str], doc("`OMP_PROC_BIND` of the rank; null: not set")]
    places: Annotated[Optional[str], doc("`OMP_PLACES`: a logical CPU for each thread")]
    allowed: Annotated[list[str], doc("`Cpus_allowed_list` of each thread of a parallel region")]


class MicroBatches(TypedDict):
    iteration: Annotated[list[int], doc("which optimizer step")]
    index: Annotated[list[int], doc("which micro-batch in it")]
    kind: Annotated[list[Kind], doc("`first`, `settling` (after it), `middle`, `last` (synchronizes the gradients)")]
    steady: Annotated[list[bool], doc("false for warm-up, which is kept and not counted")]
    loss: Annotated[Column, doc("as the rank computed it")]
    forward_seconds: Annotated[Column, doc("wall time")]
    forward_minor_faults: Annotated[Column, MINOR_FAULTS]
    forward_major_faults: Annotated[Column, MAJOR_FAULTS]
    forward_user_seconds: Annotated[Column, USER_SECONDS]
    forward_system_seconds: Annotated[Column, SYSTEM_SECONDS]
    backward_seconds: Annotated[Column, doc("wall time")]
    backward_minor_faults: Annotated[Column, MINOR_FAULTS]
    backward_major_faults: Annotated[Column, MAJOR_FAULTS]
    backward_user_seconds: Annotated[Column, USER_SECONDS]
    backward_system_seconds: Annotated[Column, SYSTEM_SECONDS]
    rss_bytes: Annotated[list[int], doc("resident set afterwards")]
    forward_collective_seconds: NotRequired[Annotated[Column, doc("of a divided model: in tensor-parallel reductions")]]
    forward_waiting_seconds: NotRequired[
        Annotated[Column, doc("of a divided model: for what passes between stages, with the pipeline's bubble")]
    ]
    backward_collective_seconds: NotRequired[Annotated[Column, doc("as forward_collective_seconds")]]
    backward_waiting_seconds: NotRequired[Annotated[Column, doc("as forward_waiting_seconds")]]


class Iterations(TypedDict):
    iteration: Annotated[list[int], doc("which optimizer step")]
    steady: Annotated[list[bool], doc("false for warm-up")]
    wall_seconds: Annotated[Column, doc("micro-batches and step")]
    optimizer_seconds: Annotated[Column, doc("clip, step and zero")]
    optimizer_minor_faults: Annotated[Column, MINOR_FAULTS]
    optimizer_major_faults: Annotated[Column, MAJOR_FAULTS]
    optimizer_user_seconds: Annotated[Column, USER_SECONDS]
    optimizer_system_seconds: Annotated[Column, SYSTEM_SECONDS]
    grad_norm: Annotated[Column, doc("before clipping")]
    loss: Annotated[Column, doc("mean of its micro-batches")]


class GptRank(Rank):
    threads: Annotated[Positive, doc("torch's threads")]
    openmp: NotRequired[Annotated[Optional[OpenMP], doc("how OpenMP's threads were bound")]]
    environment: NotRequired[
        Annotated[dict[str, str], doc("variables that steer threads, arithmetic and the allocator, as given")]
    ]
    environment_bytes: NotRequired[
        Annotated[Optional[int], doc("size of its environment, the same for all allocators")]
    ]
    memory_node: Annotated[Optional[int], doc("NUMA node that its memory is bound to; null where it is not bound")]
    proof: Annotated[Proof, doc("which library answers `malloc`, before torch is imported")]
    proof_end: Annotated[Optional[Proof], doc("the same at the end")]
    startup_seconds: Annotated[Number, doc("from the start of the process to the first micro-batch")]
    peak_rss_bytes: Annotated[int, doc("largest resident set")]
    rss_bytes: Annotated[int, doc("resident set at the end")]
    huge_bytes: Annotated[int, doc("transparent huge pages at the end")]
    fault_cost_seconds: Annotated[Optional[Number], doc("wall seconds of a minor fault, all threads faulting")]
    parameters_sha256: Annotated[Optional[str], doc("over the trained parameters: the same bits, the same training")]
    blas: NotRequired[Annotated[dict[str, Any], doc("the math library: version, the path asked for, the path taken")]]
    without: NotRequired[Annotated[list[str], doc("sentences on what this host does not allow")]]
    software: NotRequired[Annotated[dict[str, Any], doc("versions of the rank's own Python and torch")]]
    micro_batches: Annotated[MicroBatches, doc("the samples, as columns of equal length")]
    iterations: Annotated[Iterations, doc("the optimizer steps, as columns of equal length")]
