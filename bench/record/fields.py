"""The fields of a record, declared once: decoding and docs/reference/record.schema.json and record.md come from here.

The ranks of a record are declared by their workload (bench/workloads/*/fields.py). A key that not every record has is NotRequired, which
needs annotations that are no texts. After a change: `.venv/bin/python scripts/record_schema.py` writes both files again.
"""

from typing import Annotated, Any, Optional, Union

from msgspec import Meta
from typing_extensions import NotRequired, TypedDict

COUNTERS = ("minor_faults", "major_faults", "user_seconds", "system_seconds")
CPU_LIST = r"^(\d{1,5}(-\d{1,5})?(,|$))*$"
Number = Union[int, float]  # JSON has one kind, and what was whole is printed whole
Scalar = Union[str, int, float, bool, None]
Positive = Annotated[int, Meta(gt=0)]
PositiveNumber = Union[Positive, Annotated[float, Meta(gt=0)]]


def says(description: str, **limits: Any) -> Meta:
    """Return what a field means, one sentence, and its limits."""
    return Meta(description=description, **limits)


MINOR_FAULTS = says("page faults that the kernel served without reading a disk")
MAJOR_FAULTS = says("page faults that read a disk")
USER_SECONDS = says("CPU time in the program, all threads")
SYSTEM_SECONDS = says("CPU time in the kernel, all threads")
SINCE_BOOT = says("since boot, over all CPUs")


class LaunchFacts(TypedDict):
    launcher: Annotated[str, says("`none`, or what gave the copies their numbers")]
    num_copies: Annotated[int, says("copies of the command, one for each node")]
    master_addr: Annotated[str, says("address of the first copy")]
    interface: Annotated[Optional[str], says("network interface that gloo talks through")]
    secret: NotRequired[Annotated[Optional[str], says("`BENCH_TOKEN`, or `derived`, which is weak")]]
    simulated: Annotated[bool, says("true: the ranks of several nodes ran on one host")]
    dropped_environment: Annotated[list[str], says("names of the caller's variables that were removed")]


class Cpu(TypedDict):
    model: Annotated[Optional[str], says("as the kernel names it; Arm cores as lscpu decodes them")]
    vendor: Annotated[Optional[str], says("as the kernel names it")]
    microcode: Annotated[Optional[str], says("revision")]
    logical: Annotated[Optional[Positive], says("logical CPUs that are online")]
    physical: Annotated[Optional[Positive], says("cores")]
    online: Annotated[Optional[str], says("logical CPUs in the kernel's list notation")]
    affinity: Annotated[str, says("those that the driver may use", pattern=CPU_LIST)]
    smt: Annotated[Optional[bool], says("whether cores run several threads")]
    ghz: Annotated[Optional[PositiveNumber], says("clock")]
    ghz_source: Annotated[str, says("where the clock was read")]
    vector: NotRequired[Annotated[Optional[str], says("widest vector instructions for fp32")]]
    flops_per_clock: NotRequired[Annotated[Optional[Positive], says("fp32 operations of a core a clock, assumed")]]
    governor: Annotated[Optional[str], says("of the frequency")]
    turbo: Annotated[Optional[bool], says("whether the clock may exceed the nominal one")]


class NumaNode(TypedDict):
    cpus: Annotated[Optional[str], says("its logical CPUs")]
    memory_bytes: Annotated[Optional[int], says("its memory")]


class Numa(TypedDict):
    nodes: Annotated[Optional[Positive], says("how many")]
    per_node: Annotated[dict[str, NumaNode], says("by number")]


class Memory(TypedDict):
    total_bytes: Annotated[Optional[Positive], says("MemTotal")]
    available_bytes: Annotated[Optional[int], says("MemAvailable")]
    swap_total_bytes: Annotated[Optional[int], says("size of the swap")]
    swap_used_bytes: Annotated[Optional[int], says("of it in use")]
    page_bytes: Annotated[Positive, says("size of a page")]
    thp: Annotated[Optional[str], says("transparent huge pages: always, madvise or never")]
    thp_defrag: Annotated[Optional[str], says("when the kernel makes room for them")]
    thp_shmem: Annotated[Optional[str], says("for shared memory")]
    thp_sizes: NotRequired[Annotated[dict[str, Optional[str]], says("the same by page size, where there are several")]]
    khugepaged: NotRequired[Annotated[dict[str, int], says("settings of the thread that makes huge pages later")]]
    hugepages_total: Annotated[Optional[int], says("reserved huge pages")]
    hugepages_free: Annotated[Optional[int], says("of them free")]
    hugepage_bytes: Annotated[Optional[int], says("size of a huge page")]
    overcommit_memory: Annotated[Optional[int], says("the kernel's setting")]
    overcommit_ratio: Annotated[Optional[int], says("the kernel's setting")]


class System(TypedDict):
    kernel: Annotated[str, says("release")]
    mitigations: Annotated[dict[str, Optional[str]], says("of processor vulnerabilities, by name")]
    glibc: Annotated[Optional[str], says("version")]
    distribution: Annotated[Optional[str], says("its own name")]
    virtualisation: Annotated[Optional[str], says("the hypervisor, or null")]
    perf_event_paranoid: NotRequired[Annotated[Optional[int], says("the kernel's setting; in older records")]]


class Container(TypedDict):
    runtime: Annotated[str, says("`none`, `docker`, `apptainer`, `podman` or what the runtime calls itself")]
    cgroup_version: Annotated[Optional[int], says("1 or 2")]
    cpu_limit: Annotated[Optional[PositiveNumber], says("in CPUs")]
    memory_limit_bytes: Annotated[Optional[Positive], says("the lowest that holds")]


class RootMount(TypedDict):
    fstype: Annotated[Optional[str], says("kind of file system")]
    source: Annotated[Optional[str], says("device")]
    subfolder: Annotated[Optional[str], says("folder of it that is mounted")]
    options: Annotated[Optional[str], says("of the mount")]
    read_only: Annotated[Optional[bool], says("whether it is")]
    image_fstypes: Annotated[list[str], says("kinds of file system here through which an image is read")]


class Git(TypedDict):
    revision: Annotated[str, says("commit")]
    dirty: Annotated[bool, says("whether anything differs from it")]


class Product(TypedDict):
    library: Annotated[Optional[str], says("name of the math library")]
    version: Annotated[Optional[str], says("its version")]
    path: Annotated[Optional[str], says("the code path that it takes")]
    product_gflops: Annotated[PositiveNumber, says("speed of a matrix product, 10^9 operations a second")]
    threads: Annotated[Positive, says("threads that it was given")]
    product_cpus: NotRequired[Annotated[Number, says("CPUs that it kept busy")]]
    shell_line: Annotated[Optional[str], says("what sets this path in a shell")]
    shell_says: Annotated[str, says("what that line does")]


class Products(TypedDict):
    full: Annotated[dict[str, Any], says("a Product: the path of what the CPU can do, and more")]
    stock: Annotated[dict[str, Any], says("a Product: the default path")]


class Host(TypedDict):
    hostname: Annotated[str, says("name of the node")]
    boot_id: NotRequired[Annotated[Optional[str], says("one for each start of a kernel; equal on one machine")]]
    machine: Annotated[str, says("architecture, as `uname -m`")]
    products: NotRequired[Annotated[Optional[Products], says("how fast it multiplies matrices; for large models")]]
    cpu: Annotated[Cpu, says("the processor")]
    numa: Annotated[Numa, says("NUMA nodes")]
    memory: Annotated[Memory, says("sizes and settings of the memory")]
    system: Annotated[System, says("kernel and C library")]
    container: Annotated[Container, says("runtime and cgroup limits")]
    root_mount: Annotated[RootMount, says("how `/` is mounted")]
    image: Annotated[Optional[dict[str, Scalar]], says("revision, flavor, digest of its content; null natively")]
    python: Annotated[dict[str, str], says("version, implementation, build and compiler of Python")]
    packages: Annotated[dict[str, Optional[str]], says("versions of packages; null where not installed")]
    git: Annotated[Optional[Git], says("revision of the checkout; null without git and in images")]


class Busy(TypedDict):
    time: Annotated[Number, says("seconds of the wall clock")]
    monotonic: NotRequired[Annotated[Number, says("seconds of the clock that nobody sets, for durations")]]
    load_1min: Annotated[Optional[Number], says("load average of a minute")]
    cpu_total_seconds: Annotated[Optional[Number], SINCE_BOOT]
    cpu_user_seconds: Annotated[Optional[Number], SINCE_BOOT]
    cpu_nice_seconds: Annotated[Optional[Number], SINCE_BOOT]
    cpu_system_seconds: Annotated[Optional[Number], SINCE_BOOT]
    cpu_idle_seconds: Annotated[Optional[Number], SINCE_BOOT]
    cpu_iowait_seconds: Annotated[Optional[Number], SINCE_BOOT]
    cpu_irq_seconds: Annotated[Optional[Number], SINCE_BOOT]
    cpu_softirq_seconds: Annotated[Optional[Number], SINCE_BOOT]
    cpu_steal_seconds: Annotated[Optional[Number], SINCE_BOOT]
    running_processes: Annotated[Optional[int], says("at that moment")]
    clock_ghz: Annotated[Optional[Number], says("mean clock of the cores")]
    thermal_throttles: Annotated[Optional[int], says("times that a core was slowed down for its heat, since boot")]
    cgroup_throttled_seconds: Annotated[Optional[Number], says("that the cgroup's CPU limit held threads back")]
    major_faults: Annotated[Optional[int], says("of the host, since boot")]
    swap_in_pages: Annotated[Optional[int], says("since boot")]
    swap_out_pages: Annotated[Optional[int], says("since boot")]
    memory_available_bytes: Annotated[Optional[int], says("MemAvailable")]
    huge_page_faults: NotRequired[Annotated[dict[str, int], says("faults since boot that got a huge page, by size")]]
    huge_page_fallbacks: NotRequired[Annotated[Optional[dict[str, int]], says("those that got a smaller page instead")]]
    huge_page_collapses: NotRequired[Annotated[Optional[int], says("huge pages made by khugepaged, since boot")]]
    compaction_stalls: NotRequired[Annotated[Optional[int], says("waits for memory to be compacted, since boot")]]


class Load(TypedDict):
    before: Annotated[Busy, says("before the ranks started")]
    after: Annotated[Busy, says("after they ended")]


class Proof(TypedDict):
    malloc_library: Annotated[str, says("path of the library that `malloc` resolves to")]
    sha256: Annotated[Optional[str], says("of that file")]
    version: Annotated[Optional[str], says("as the allocator reports it")]
    options: Annotated[dict[str, Any], says("its live options")]
    unconfirmed: NotRequired[Annotated[list[str], says("options that are set and cannot be asked for")]]
    dropped: NotRequired[Annotated[list[str], says("options that this version dropped (`allocator.instead`)")]]
    tunables: NotRequired[Annotated[dict[str, str], says("`glibc.malloc.*` of the loader, from glibc 2.33 on")]]
    libraries: NotRequired[Annotated[dict[str, str], says("SHA-256 of each library of the arm, by path")]]
    library_path: NotRequired[Annotated[Optional[str], says("the rank's `LD_LIBRARY_PATH`")]]
    tensor_memory: NotRequired[Annotated[Optional[str], says("at the end: how a tensor's memory was verified")]]


class Rank(TypedDict):
    """What each workload's ranks have in common."""

    rank: Annotated[int, says("number of the process")]
    node: Annotated[int, says("number of its node")]
    hostname: Annotated[str, says("name of its host")]
    pid: Annotated[int, says("process number there")]
    cpus: Annotated[list[int], says("logical CPUs that it may use")]


class RecordFile(TypedDict):
    schema: Annotated[int, says("number of this layout")]
    sha256: Annotated[str, says("over the canonical JSON (sorted keys, no spaces) of everything else in the record")]
    content_hash: Annotated[str, says("over what decides the measurement, by content: no paths, no time limits")]
    measured_code: NotRequired[Annotated[Optional[str], says("over the timed code without its comments, 12 digits")]]
    packed_from: NotRequired[Annotated[Optional[str], says("in a pack: `sha256` of the record before it was packed")]]
    bench_version: Annotated[str, says("version of this program")]
    status: Annotated[str, says("`ok` or `failed`")]
    valid: Annotated[bool, says("whether numbers may be drawn from it")]
    error: Annotated[Optional[str], says("one sentence on what went wrong, or null")]
    warnings: Annotated[list[str], says("sentences that mark a noisy run: steal, throttling, major faults")]
    interleaved_with: NotRequired[
        Annotated[list[str], says("`content_hash` of the runs that were alive at the same time and alternated with it")]
    ]
    started_at: Annotated[str, says("ISO 8601 with UTC offset")]
    wall_seconds: Annotated[Number, says("duration of the run's own turns, start-up included")]
    job: Annotated[dict[str, Any], says("the configuration, with the keys of `conf/config.yaml`")]
    launch: Annotated[LaunchFacts, says("how it was started")]
    hosts: Annotated[list[Host], says("facts of each node; one entry if nodes are simulated", min_length=1)]
    load: Annotated[Load, says("how busy the first host was")]
    host_used_mib: Annotated[Optional[Number], says("MiB in use on the first host after the first iteration")]
    ranks: Annotated[Optional[list[Any]], says("what each rank measured, by workload; null if the job failed")]
