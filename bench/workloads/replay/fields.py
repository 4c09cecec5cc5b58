"""What a replay adds to a record: see bench/record/fields.py."""

from typing import Annotated

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


class Segments(TypedDict):
    kind: Annotated[list[int], doc("0 before the first mark, 1 a step, any other a phase between steps", min_length=1)]
    number: Annotated[list[int], doc("of the mark at which it begins")]
    calls: Annotated[list[int], doc("of malloc and its kind, and of free")]
    seconds: Annotated[list[Number], doc("wall seconds")]
    minor_faults: Annotated[list[int], MINOR_FAULTS]
    major_faults: Annotated[list[int], MAJOR_FAULTS]
    user_seconds: Annotated[list[Number], USER_SECONDS]
    system_seconds: Annotated[list[Number], SYSTEM_SECONDS]
    peak_rss_bytes: Annotated[list[int], doc("largest resident set up to the end of the segment")]
    steady: Annotated[list[bool], doc("true for steps that count")]


class ReplayRank(Rank):
    threads: Annotated[Positive, doc("threads that take turns, as recorded")]
    proof: Annotated[Proof, doc("the allocator's library, which served the replayer before and after the replay")]
    environment_bytes: NotRequired[Annotated[int, doc("size of its environment, the same for all allocators")]]
    segments: Annotated[Segments, doc("the trace from mark to mark, one entry each")]
    calls: Annotated[Positive, doc("calls that were made")]
    calls_hash: Annotated[int, doc("over kind, thread, block, alignment and size of each call in its order, 52 bits")]
    peak_rss_bytes: Annotated[int, doc("largest resident set")]
    huge_bytes: Annotated[int, doc("0: not measured")]
