"""One job: one point of a sweep as frozen, plain data. These classes are the schema of the configuration.

Standard library only: the driver turns Hydra's configuration into a Job, and each rank reads the same Job back from JSON.
"""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Tuple

from bench.job.identity import canonical as canonical
from bench.job.identity import content_hash

PADDING = "BENCH_PADDING"  # beginning of the names of variables that only fill an environment up


@dataclass(frozen=True)
class Allocator:
    """One arm. ``library`` is a soname or a path to preload (None: nothing is preloaded, so glibc serves)."""

    name: str = "glibc"
    library: Optional[str] = None
    env: Dict[str, str] = field(default_factory=dict)
    shows: str = ""
    package: Optional[str] = None  # what to install on Debian or Ubuntu when the library is not there
    # What to set in place of an option of `env` that this version of the library no longer has: {} where the option
    # only silences messages. An option that is not named here must be known.
    instead: Dict[str, Dict[str, str]] = field(default_factory=dict)


def asks_for_huge_pages(env: Dict[str, str]) -> bool:
    """Return whether an arm's variables ask for transparent huge pages."""
    settings = " ".join(env.values())
    return "malloc.hugetlb=1" in settings or "thp:always" in settings or "THP_MEM_ALLOC_ENABLE" in env


@dataclass(frozen=True)
class Model:
    """A GPT in Megatron's terms. ``padded_vocabulary`` is what the embedding and the logits really hold."""

    name: str = "gpt124m"
    layers: int = 12
    hidden: int = 768
    heads: int = 12
    sequence: int = 1024
    vocabulary: int = 50257
    padded_vocabulary: int = 50304
    ops: str = "megatron"

    @property
    def num_parameters(self) -> int:
        """Return (V + s)h + l(12h^2 + 13h) + 2h: tied head, learned positions, biases everywhere."""
        h = self.hidden
        return (self.padded_vocabulary + self.sequence) * h + self.layers * (12 * h * h + 13 * h) + 2 * h


@dataclass(frozen=True)
class Train:
    """Megatron's training arguments, with its defaults."""

    micro_batch_size: int = 1
    global_batch_size: int = 1024
    dropout: float = 0.1
    activation_checkpointing: bool = True
    lr: float = 1.5e-4
    weight_decay: float = 0.01
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_eps: float = 1e-8
    clip_grad: float = 1.0
    init_method_std: float = 0.02
    overlap_grad_reduce: bool = True


@dataclass(frozen=True)
class Parallel:
    """Into how many slices each layer, and into how many stages the layers are divided: columns of the published table, 1 there."""

    tensor: int = 1
    pipeline: int = 1


class Place(NamedTuple):
    """Which slice, which replica and which stage of the model a rank holds."""

    tensor: int
    data: int
    pipeline: int


@dataclass(frozen=True)
class Measure:
    """How much is measured. ``sampled`` runs a few short iterations; ``full`` runs whole ones."""

    mode: str = "sampled"
    warmup_micro_batches: int = 4  # discarded, with a step after each: the heap settles over steps
    # sampled: micro-batches between two optimizer steps: a first, two that settle, a last, the rest middle ones
    iteration_micro_batches: int = 5
    iterations: int = 4  # iterations that count, at least: each is one draw of the heap's layout
    min_seconds: float = 0.0  # keep on measuring for so long
    max_seconds: float = 900.0  # begin no iteration, or step of a program, that would end after this
    # Steps of a program: stop when half the 95 % interval of the mean is this narrow, with at least and at most so many.
    relative_half_width: float = 0.02
    min_samples: int = 8
    max_samples: int = 200


@dataclass(frozen=True)
class Data:
    """``path``: a file whose bytes are the tokens (memory-mapped); None: synthetic tokens."""

    path: Optional[str] = None
    sha256: Optional[str] = None  # of the file: filled in where a job is composed


@dataclass(frozen=True)
class Launch:
    """How ranks start. Nothing here changes what is computed (but its last digits), and much of it how fast."""

    threads_per_rank: Optional[int] = None  # None: all cores of the rank
    oversubscribe: bool = False  # more ranks than cores are allowed: for trying the machinery
    interface: Optional[str] = None  # None: the one that routes to the leader
    timeout_seconds: float = 300.0  # to find the peers, and for the ranks to connect
    collective_timeout_seconds: Optional[float] = None  # None: a slow rank is waited for, a dead one is noticed
    silence_seconds: Optional[float] = None  # no rank sends anything for so long: it hangs. None: by the job's pace
    job_timeout_seconds: Optional[float] = None  # a job that takes longer has failed. None: no limit
    blas: str = "full"  # the math library's path: `full` what the CPU can do, `stock` as the wheel comes
    python: Optional[str] = None  # interpreter of the ranks, with its own PyTorch; None: the one that runs this command
    software: Optional[str] = None  # versions of that interpreter: filled in where a job is composed


@dataclass(frozen=True)
class Program:
    """A command of the user's, measured from outside in place of our GPT. Without ``command`` there is none."""

    command: List[str] = field(default_factory=list)
    name: Optional[str] = None  # a label that stays when command and files change; None: the command is the label
    directory: str = ""  # where it runs
    files: Dict[str, str] = field(default_factory=dict)  # SHA-256 of each file that the command names
    rate: Optional[str] = None  # regular expression of the line that ends a step; None: the whole run is one sample
    stop_after_steps: Optional[int] = None  # end it after so many; None: by the rules of `measure`
    check: Optional[str] = None  # regular expression of a value that every arm must print alike
    same_output: bool = False  # every arm must print the same bytes
    terminal: bool = False  # its output is a pseudo-terminal, for a program that prints lines late without one
    timeout_seconds: float = 86400.0  # a run that takes longer is ended, and has failed


@dataclass(frozen=True)
class Replay:
    """A recorded trace of malloc and free, replayed in place of our GPT. ``trace`` is empty for the other workloads."""

    trace: str = ""  # the file
    sha256: Optional[str] = None  # of the file
    warmup_steps: int = 2  # steps of the trace that are replayed and not counted
    steps: Optional[int] = None  # that count after them; None: all
    pace: str = "none"  # when a call is made: `none` at once, `original` when the program made it


@dataclass(frozen=True)
class Job:
    """Everything that decides what one job runs."""

    workload: str = "gpt"  # what is run: a key of OWN_PARTS
    nodes: int = 1
    ranks_per_node: int = 1
    repeat: int = 0
    group: int = 0  # of the reference arm: which group of interleaved runs it is in, where a block has several
    seed: int = 1234
    allocator: Allocator = field(default_factory=Allocator)
    model: Model = field(default_factory=Model)
    train: Train = field(default_factory=Train)
    parallel: Parallel = field(default_factory=Parallel)
    measure: Measure = field(default_factory=Measure)
    data: Data = field(default_factory=Data)
    launch: Launch = field(default_factory=Launch)
    program: Program = field(default_factory=Program)
    replay: Replay = field(default_factory=Replay)

    @property
    def num_ranks(self) -> int:
        return self.nodes * self.ranks_per_node

    @property
    def dp(self) -> int:
        return self.num_ranks // (self.parallel.tensor * self.parallel.pipeline)

    @property
    def num_micro_batches(self) -> int:
        """Return how many micro-batches one rank runs in one whole iteration."""
        return self.train.global_batch_size // (self.train.micro_batch_size * self.dp)

    def place(self, rank: int) -> Place:
        """Return the place of a rank in Megatron's order: slices next to one another, then replicas, then stages."""
        others, tensor = divmod(rank, self.parallel.tensor)
        pipeline, data = divmod(others, self.dp)
        return Place(tensor, data, pipeline)

    @property
    def rank_bytes(self) -> int:
        """Return an estimate of the memory in bytes of the rank that needs most: enough to refuse what cannot fit, not a prediction."""
        return max(map(self.stage_bytes, {0, self.parallel.pipeline - 1}))

    def stage_bytes(self, stage: int) -> int:
        """Return the estimate for a rank of one stage.

        Weights, gradients, Adam's two moments and DDP's buckets at 4 bytes a parameter each; the logits twice; a saved activation per
        layer; one layer's blocks (all layers' without checkpointing): eight of [heads, S, S], twelve of [S, 4H], and, where heads are
        divided, twelve of [S, H], which are not; and 0.25 GiB for Python and torch themselves. A stage keeps the activations of as many
        micro-batches as there are stages from it on, and has no buckets.
        """
        m, t, p = self.model, self.parallel.tensor, self.parallel.pipeline
        tokens, layers = self.train.micro_batch_size * m.sequence, m.layers // p
        first, last = stage == 0, stage == p - 1
        matrices = m.padded_vocabulary * m.hidden * (first or last) + layers * (12 * m.hidden**2 + 7 * m.hidden)
        whole = m.sequence * m.hidden * first + layers * 6 * m.hidden + 2 * m.hidden * last
        alive = min(p - stage, self.num_micro_batches)
        blocks = (1 if self.train.activation_checkpointing else layers * alive) * (
            (8 * m.heads * m.sequence + 12 * 4 * m.hidden) // t + 12 * m.hidden * (t - 1) // t
        )
        logits = 2 * m.padded_vocabulary // t * last
        held = (5 if p == 1 else 4) * (matrices // t + whole)
        return 4 * (held + tokens * (logits + alive * layers * m.hidden + blocks)) + (1 << 28)

    @property
    def content_hash(self) -> str:
        return content_hash(to_dict(self))

    @property
    def directory(self) -> str:
        """Return the name of the job's folder, which needs no quotes in a shell or for Hydra."""
        group = f"g{self.group}" if self.group else ""
        return f"n{self.nodes:03d}_{self.allocator.name}_r{self.repeat:02d}{group}-{self.content_hash[:8]}"


# The workloads, and which parts of a job each has for itself. The other parts belong to all of them.
OWN_PARTS: Dict[str, Tuple[str, ...]] = {
    "gpt": ("model", "train", "parallel", "data"),
    "program": ("program",),
    "replay": ("replay",),
}


def _plain(part: Any) -> Dict[str, Any]:
    values = {one.name: getattr(part, one.name) for one in dataclasses.fields(part)}
    return {key: copy.deepcopy(value) if isinstance(value, (dict, list)) else value for key, value in values.items()}


def to_dict(job: Job) -> Dict[str, Any]:
    """Return the job as plain data, without the parts of other workloads."""
    # Not dataclasses.asdict, which copies each number by a call of its own, and reading many records would wait for that.
    content = {key: _plain(value) if key in PARTS else value for key, value in _plain(job).items()}
    for workload, parts in OWN_PARTS.items():
        for part in parts if workload != job.workload else ():
            del content[part]
    if not job.group:
        del content["group"]
    for part, key in (("launch", "python"), ("launch", "software"), ("data", "sha256")):
        if part in content and content[part][key] is None:
            del content[part][key]
    return content


def workload_name(values: Mapping[str, Any]) -> str:
    """Return which workload a job's plain data is of."""
    return str(values.get("workload", "gpt"))


PARTS: Dict[str, Any] = {
    kind.__name__.lower(): kind for kind in (Allocator, Model, Train, Parallel, Measure, Data, Launch, Program, Replay)
}


def from_dict(values: Dict[str, Any]) -> Job:
    """Return the job of plain data (the inverse of `to_dict`). Raises TypeError on a key that Job does not have."""
    parts = {key: PARTS[key](**value) if key in PARTS else value for key, value in values.items()}
    return Job(**{**parts, "workload": workload_name(values)})
