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
    says,
)

Column = Annotated[list[Number], Meta(min_length=1)]
Kind = Literal["first", "settling", "middle", "last"]


class OpenMP(TypedDict):
    proc_bind: Annotated[Optional[str], says("`OMP_PROC_BIND` of the rank; null: not set")]
    places: Annotated[Optional[str], says("`OMP_PLACES`: a logical CPU for each thread")]
    allowed: Annotated[list[str], says("`Cpus_allowed_list` of each thread of a parallel region")]


class MicroBatches(TypedDict):
    iteration: Annotated[list[int], says("which optimizer step")]
    index: Annotated[list[int], says("which micro-batch in it")]
    kind: Annotated[
        list[Kind], says("`first`, `settling` (after it), `middle`, `last` (synchronizes the gradients)")
    ]
    steady: Annotated[list[bool], says("false for warm-up, which is kept and not counted")]
    loss: Annotated[Column, says("as the rank computed it")]
    forward_seconds: Annotated[Column, says("wall time")]
    forward_minor_faults: Annotated[Column, MINOR_FAULTS]
    forward_major_faults: Annotated[Column, MAJOR_FAULTS]
    forward_user_seconds: Annotated[Column, USER_SECONDS]
    forward_system_seconds: Annotated[Column, SYSTEM_SECONDS]
    backward_seconds: Annotated[Column, says("wall time")]
    backward_minor_faults: Annotated[Column, MINOR_FAULTS]
    backward_major_faults: Annotated[Column, MAJOR_FAULTS]
    backward_user_seconds: Annotated[Column, USER_SECONDS]
    backward_system_seconds: Annotated[Column, SYSTEM_SECONDS]
    rss_bytes: Annotated[list[int], says("resident set afterwards")]


class Iterations(TypedDict):
    iteration: Annotated[list[int], says("which optimizer step")]
    steady: Annotated[list[bool], says("false for warm-up")]
    wall_seconds: Annotated[Column, says("micro-batches and step")]
    optimizer_seconds: Annotated[Column, says("clip, step and zero")]
    optimizer_minor_faults: Annotated[Column, MINOR_FAULTS]
    optimizer_major_faults: Annotated[Column, MAJOR_FAULTS]
    optimizer_user_seconds: Annotated[Column, USER_SECONDS]
    optimizer_system_seconds: Annotated[Column, SYSTEM_SECONDS]
    grad_norm: Annotated[Column, says("before clipping")]
    loss: Annotated[Column, says("mean of its micro-batches")]


class GptRank(TypedDict):
    rank: Annotated[int, says("number of the process")]
    node: Annotated[int, says("number of its node")]
    hostname: Annotated[str, says("name of its host")]
    pid: Annotated[int, says("process number there")]
    cpus: Annotated[list[int], says("logical CPUs that it is bound to")]
    threads: Annotated[Positive, says("torch's threads")]
    openmp: NotRequired[Annotated[Optional[OpenMP], says("how OpenMP's threads were bound")]]
    environment: NotRequired[
        Annotated[dict[str, str], says("variables that steer threads, arithmetic and the allocator, as given")]
    ]
    environment_bytes: NotRequired[Annotated[Optional[int], says("size of its environment, the same for all arms")]]
    memory_node: Annotated[Optional[int], says("NUMA node that its memory is bound to; null where it is not bound")]
    proof: Annotated[Proof, says("which library answers `malloc`, before torch is imported")]
    proof_end: Annotated[Optional[Proof], says("the same at the end")]
    startup_seconds: Annotated[Number, says("from the start of the process to the first micro-batch")]
    peak_rss_bytes: Annotated[int, says("largest resident set")]
    rss_bytes: Annotated[int, says("resident set at the end")]
    huge_bytes: Annotated[int, says("transparent huge pages at the end")]
    fault_cost_seconds: Annotated[Optional[Number], says("wall seconds of a minor fault, all threads faulting")]
    parameters_sha256: Annotated[Optional[str], says("over the trained parameters: the same bits, the same training")]
    blas: NotRequired[Annotated[dict[str, Any], says("the math library: version, the path asked for, the path taken")]]
    without: NotRequired[Annotated[list[str], says("sentences on what this host does not allow")]]
    software: NotRequired[Annotated[dict[str, Any], says("versions of the rank's own Python and torch")]]
    micro_batches: Annotated[MicroBatches, says("the samples, as columns of equal length")]
    iterations: Annotated[Iterations, says("the optimizer steps, as columns of equal length")]
