"""What a run of a user's program adds to a record: see bench/record/fields.py."""

from typing import Annotated, Optional

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


class Process(TypedDict):
    pid: Annotated[int, doc("its number")]
    command: Annotated[str, doc("its command line, cut short")]
    reached: Annotated[Optional[bool], doc("whether the allocator serves it; null where nothing of it could be read")]
    why: Annotated[Optional[str], doc("why the allocator does not serve it, or what memory it does not serve")]
    cpu_seconds: Annotated[Number, doc("that it was seen to use")]
    peak_rss_bytes: Annotated[int, doc("largest resident set that was seen")]


class ProgramProof(Proof):
    processes: Annotated[
        list[Process],
        doc(
            "of the first run under the allocator: each command line, those that it does not serve first; exec makes another"
        ),
    ]
    first_run_seconds: NotRequired[
        Annotated[Number, doc("of the first run under the allocator, which verifies and is not counted")]
    ]


class Run(TypedDict):
    wall_seconds: Annotated[Number, doc("from its start to its end, or to where it was stopped")]
    exit_code: Annotated[Optional[int], doc("of the command; null where it was stopped")]
    stopped: Annotated[bool, doc("true: there were steps enough, and it was ended")]
    minor_faults: Annotated[int, MINOR_FAULTS]
    major_faults: Annotated[int, MAJOR_FAULTS]
    user_seconds: Annotated[Number, USER_SECONDS]
    system_seconds: Annotated[Number, SYSTEM_SECONDS]


class Steps(TypedDict):
    seconds: Annotated[list[Number], doc("of each step", min_length=1)]
    steady: Annotated[list[bool], doc("false for warm-up, which is kept and not counted")]
    counted: Annotated[bool, doc("whether the counters cover the steady steps alone")]
    resolution: NotRequired[
        Annotated[
            float, doc("by how much rounding of the printed numbers may move their mean, as a share of it", gt=0, le=1)
        ]
    ]
    minor_faults_per_step: Annotated[Number, MINOR_FAULTS]
    major_faults_per_step: Annotated[Number, MAJOR_FAULTS]
    user_seconds_per_step: Annotated[Number, USER_SECONDS]
    system_seconds_per_step: Annotated[Number, SYSTEM_SECONDS]


class ProgramRank(Rank):
    threads: Annotated[Positive, doc("CPUs that it kept busy, on average, at least 1")]
    proof: Annotated[ProgramProof, doc("the allocator's library, and each process with or without it")]
    environment_bytes: NotRequired[Annotated[int, doc("size of its environment, the same for all allocators")]]
    variables: NotRequired[
        Annotated[dict[str, str], doc("the caller's that steer threads, arithmetic or Python, as the program got them")]
    ]
    environment_sha256: NotRequired[Annotated[str, doc("of all that it got of the caller's environment")]]
    notes: NotRequired[
        Annotated[
            list[str], doc("sentences on what no allocator reaches, what is unknown, and lines that are no steps")
        ]
    ]
    run: Annotated[Run, doc("the whole run, as the kernel accounts for the command and its children")]
    steps: Annotated[Optional[Steps], doc("what `program.rate` found; null where the run is the sample")]
    values: Annotated[list[Number], doc("what `program.check` found, how often, and the hash of its output")]
    value_steps: NotRequired[
        Annotated[list[Number], doc("the step that names each value, by `(?P<step>...)` in `program.check`")]
    ]
    peak_rss_bytes: Annotated[int, doc("most memory of all its processes together, shared pages once")]
    huge_bytes: Annotated[int, doc("transparent huge pages, the most that was seen in one process")]
    fault_cost_seconds: Annotated[Optional[Number], doc("wall seconds of a minor fault, all threads faulting")]
    without: NotRequired[Annotated[list[str], doc("sentences on what this host does not allow")]]
