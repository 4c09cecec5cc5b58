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


def doc(description: str, **limits: Any) -> Meta:
    """Return what a field means, one sentence, and its limits."""
    return Meta(description=description, **limits)


MINOR_FAULTS = doc("page faults that the kernel served without reading a disk")
MAJOR_FAULTS = doc("page faults that read a disk")
USER_SECONDS = doc("CPU time in the program, all threads")
SYSTEM_SECONDS = doc("CPU time in the kernel, all threads")
SINCE_BOOT = doc("since boot, over all CPUs")


class LaunchFacts(TypedDict):
    launcher: Annotated[str, doc("`none`, or what gave the copies their numbers")]
    num_copies: Annotated[int, doc("copies of the command, one for each node")]
    master_addr: Annotated[str, doc("address of the first copy")]
    interface: Annotated[Optional[str], doc("network interface that gloo talks through")]
    secret: NotRequired[Annotated[Optional[str], doc("`BENCH_TOKEN`, or `derived`, which is weak")]]
    simulated: Annotated[bool, doc("true: the ranks of several nodes ran on one host")]
    dropped_environment: Annotated[list[str], doc("names of the caller's variables that were removed")]


class Cpu(TypedDict):
    model: Annotated[Optional[str], doc("as the kernel names it; Arm cores as lscpu decodes them")]
    vendor: Annotated[Optional[str], doc("as the kernel names it")]
    microcode: Annotated[Optional[str], doc("revision")]
    logical: Annotated[Optional[Positive], doc("logical CPUs that are online")]
    physical: Annotated[Optional[Positive], doc("cores")]
    online: Annotated[Optional[str], doc("logical CPUs in the kernel's list notation")]
    affinity: Annotated[str, doc("those that the driver may use", pattern=CPU_LIST)]
    smt: Annotated[Optional[bool], doc("whether cores run several threads")]
    ghz: Annotated[Optional[PositiveNumber], doc("clock")]
    ghz_source: Annotated[str, doc("where the clock was read")]
    vector: NotRequired[Annotated[Optional[str], doc("widest vector instructions for fp32")]]
    flops_per_clock: NotRequired[Annotated[Optional[Positive], doc("fp32 operations of a core a clock, assumed")]]
    governor: Annotated[Optional[str], doc("of the frequency")]
    turbo: Annotated[Optional[bool], doc("whether the clock may exceed the nominal one")]


class NumaNode(TypedDict):
    cpus: Annotated[Optional[str], doc("its logical CPUs")]
    memory_bytes: Annotated[Optional[int], doc("its memory")]


class Numa(TypedDict):
    nodes: Annotated[Optional[Positive], doc("how many")]
    per_node: Annotated[dict[str, NumaNode], doc("by number")]


class Memory(TypedDict):
    total_bytes: Annotated[Optional[Positive], doc("MemTotal")]
    available_bytes: Annotated[Optional[int], doc("MemAvailable")]
    swap_total_bytes: Annotated[Optional[int], doc("size of the swap")]
    swap_used_bytes: Annotated[Optional[int], doc("of it in use")]
    page_bytes: Annotated[Positive, doc("size of a page")]
    thp: Annotated[Optional[str], doc("transparent huge pages: always, madvise or never")]
    thp_defrag: Annotated[Optional[str], doc("when the kernel makes room for them")]
    thp_shmem: Annotated[Optional[str], doc("for shared memory")]
    thp_sizes: NotRequired[Annotated[dict[str, Optional[str]], doc("the same by page size, where there are several")]]
    khugepaged: NotRequired[Annotated[dict[str, int], doc("settings of the thread that makes huge pages later")]]
    hugepages_total: Annotated[Optional[int], doc("reserved huge pages")]
    hugepages_free: Annotated[Optional[int], doc("of them free")]
    hugepage_bytes: Annotated[Optional[int], doc("size of a huge page")]
    overcommit_memory: Annotated[Optional[int], doc("the kernel's setting")]
    overcommit_ratio: Annotated[Optional[int], doc("the kernel's setting")]


class System(TypedDict):
    kernel: Annotated[str, doc("release")]
    mitigations: Annotated[dict[str, Optional[str]], doc("of processor vulnerabilities, by name")]
    glibc: Annotated[Optional[str], doc("version")]
    distribution: Annotated[Optional[str], doc("its own name")]
    virtualisation: Annotated[Optional[str], doc("the hypervisor, or null")]
    perf_event_paranoid: NotRequired[Annotated[Optional[int], doc("the kernel's setting; in older records")]]


class Container(TypedDict):
    runtime: Annotated[str, doc("`none`, `docker`, `apptainer`, `podman` or what the runtime calls itself")]
    cgroup_version: Annotated[Optional[int], doc("1 or 2")]
    cpu_limit: Annotated[Optional[PositiveNumber], doc("in CPUs")]
    memory_limit_bytes: Annotated[Optional[Positive], doc("the lowest that holds")]


class RootMount(TypedDict):
    fstype: Annotated[Optional[str], doc("kind of file system")]
    source: Annotated[Optional[str], doc("device")]
    subfolder: Annotated[Optional[str], doc("folder of it that is mounted")]
    options: Annotated[Optional[str], doc("of the mount")]
    read_only: Annotated[Optional[bool], doc("whether it is")]
    image_fstypes: NotRequired[
        Annotated[list[str], doc("file systems through which an image is read; in older records")]
    ]


class Git(TypedDict):
    revision: Annotated[str, doc("commit")]
    dirty: Annotated[bool, doc("whether anything differs from it")]


class Product(TypedDict):
    library: Annotated[Optional[str], doc("name of the math library")]
    version: Annotated[Optional[str], doc("its version")]
    path: Annotated[Optional[str], doc("the code path that it takes")]
    product_gflops: Annotated[PositiveNumber, doc("speed of a matrix product, 10^9 operations a second")]
    threads: Annotated[Positive, doc("threads that it was given")]
    product_cpus: NotRequired[Annotated[Number, doc("CPUs that it kept busy")]]
    shell_line: Annotated[Optional[str], doc("what sets this path in a shell")]
    shell_says: Annotated[str, doc("what that line does")]


class Products(TypedDict):
    full: Annotated[dict[str, Any], doc("a Product: the path of what the CPU can do, and more")]
    stock: Annotated[dict[str, Any], doc("a Product: the default path")]


class Host(TypedDict):
    hostname: Annotated[str, doc("name of the node")]
    boot_id: NotRequired[Annotated[Optional[str], doc("one for each start of a kernel; equal on one machine")]]
    machine: Annotated[str, doc("architecture, as `uname -m`")]
    products: NotRequired[Annotated[Optional[Products], doc("how fast it multiplies matrices; for large models")]]
    cpu: Annotated[Cpu, doc("the processor")]
    numa: Annotated[Numa, doc("NUMA nodes")]
    memory: Annotated[Memory, doc("sizes and settings of the memory")]
    system: Annotated[System, doc("kernel and C library")]
    container: Annotated[Container, doc("runtime and cgroup limits")]
    root_mount: Annotated[RootMount, doc("how `/` is mounted")]
    image: Annotated[Optional[dict[str, Scalar]], doc("revision, flavor, digest of its content; null natively")]
    python: Annotated[dict[str, str], doc("version, implementation, build and compiler of Python")]
    packages: Annotated[dict[str, Optional[str]], doc("versions of packages; null where not installed")]
    git: Annotated[Optional[Git], doc("revision of the checkout; null without git and in images")]


class Busy(TypedDict):
    time: Annotated[Number, doc("seconds of the wall clock")]
    monotonic: NotRequired[Annotated[Number, doc("seconds of the monotonic clock, for durations")]]
    load_1min: Annotated[Optional[Number], doc("load average of a minute")]
    cpu_total_seconds: Annotated[Optional[Number], SINCE_BOOT]
    cpu_user_seconds: Annotated[Optional[Number], SINCE_BOOT]
    cpu_nice_seconds: Annotated[Optional[Number], SINCE_BOOT]
    cpu_system_seconds: Annotated[Optional[Number], SINCE_BOOT]
    cpu_idle_seconds: Annotated[Optional[Number], SINCE_BOOT]
    cpu_iowait_seconds: Annotated[Optional[Number], SINCE_BOOT]
    cpu_irq_seconds: Annotated[Optional[Number], SINCE_BOOT]
    cpu_softirq_seconds: Annotated[Optional[Number], SINCE_BOOT]
    cpu_steal_seconds: Annotated[Optional[Number], SINCE_BOOT]
    running_processes: Annotated[Optional[int], doc("at that moment")]
    clock_ghz: Annotated[Optional[Number], doc("mean clock of the cores")]
    thermal_throttles: Annotated[Optional[int], doc("times that a core was slowed down for its heat, since boot")]
    cgroup_throttled_seconds: Annotated[Optional[Number], doc("that the cgroup's CPU limit held threads back")]
    major_faults: Annotated[Optional[int], doc("of the host, since boot")]
    swap_in_pages: Annotated[Optional[int], doc("since boot")]
    swap_out_pages: Annotated[Optional[int], doc("since boot")]
    memory_available_bytes: Annotated[Optional[int], doc("MemAvailable")]
    huge_page_faults: NotRequired[Annotated[dict[str, int], doc("faults since boot that got a huge page, by size")]]
    huge_page_fallbacks: NotRequired[Annotated[Optional[dict[str, int]], doc("those that got a smaller page instead")]]
    huge_page_collapses: NotRequired[Annotated[Optional[int], doc("huge pages made by khugepaged, since boot")]]
    compaction_stalls: NotRequired[Annotated[Optional[int], doc("waits for memory to be compacted, since boot")]]


class Load(TypedDict):
    before: Annotated[Busy, doc("before the ranks started")]
    after: Annotated[Busy, doc("after they ended")]


class Proof(TypedDict):
    malloc_library: Annotated[str, doc("path of the library that `malloc` resolves to")]
    sha256: Annotated[Optional[str], doc("of that file")]
    version: Annotated[Optional[str], doc("as the allocator reports it")]
    options: Annotated[dict[str, Any], doc("its live options")]
    unconfirmed: NotRequired[Annotated[list[str], doc("options that are set and cannot be asked for")]]
    dropped: NotRequired[Annotated[list[str], doc("options that this version dropped (`allocator.instead`)")]]
    tunables: NotRequired[Annotated[dict[str, str], doc("`glibc.malloc.*` of the loader, from glibc 2.33 on")]]
    libraries: NotRequired[Annotated[dict[str, str], doc("SHA-256 of each library of the allocator, by path")]]
    library_path: NotRequired[Annotated[Optional[str], doc("the rank's `LD_LIBRARY_PATH`")]]
    tensor_memory: NotRequired[Annotated[Optional[str], doc("at the end: how a tensor's memory was verified")]]


class Rank(TypedDict):
    """What each workload's ranks have in common."""

    rank: Annotated[int, doc("number of the process")]
    node: Annotated[int, doc("number of its node")]
    hostname: Annotated[str, doc("name of its host")]
    pid: Annotated[int, doc("process number there")]
    cpus: Annotated[list[int], doc("logical CPUs that it may use")]


class RecordFile(TypedDict):
    schema: Annotated[int, doc("number of this layout")]
    sha256: Annotated[str, doc("over the canonical JSON (sorted keys, no spaces) of everything else in the record")]
    content_hash: Annotated[str, doc("over what decides the measurement, by content: no paths, no time limits")]
    measured_code: NotRequired[Annotated[Optional[str], doc("over the timed code without its comments, 12 digits")]]
    packed_from: NotRequired[Annotated[Optional[str], doc("in a pack: `sha256` of the record before it was packed")]]
    bench_version: Annotated[str, doc("version of this program")]
    status: Annotated[str, doc("`ok` or `failed`")]
    valid: Annotated[bool, doc("whether numbers may be drawn from it")]
    error: Annotated[Optional[str], doc("one sentence on what went wrong, or null")]
    warnings: Annotated[list[str], doc("sentences that mark a noisy run: steal, throttling, major faults")]
    interleaved_with: NotRequired[
        Annotated[list[str], doc("`content_hash` of the runs that were alive at the same time and alternated with it")]
    ]
    started_at: Annotated[str, doc("ISO 8601 with UTC offset")]
    wall_seconds: Annotated[Number, doc("duration of the run's own turns, start-up included")]
    job: Annotated[dict[str, Any], doc("the configuration, with the keys of `conf/config.yaml`")]
    launch: Annotated[LaunchFacts, doc("how it was started")]
    hosts: Annotated[list[Host], doc("facts of each node; one entry if nodes are simulated", min_length=1)]
    load: Annotated[Load, doc("how busy the first host was")]
    host_used_mib: Annotated[Optional[Number], doc("MiB in use on the first host after the first iteration")]
    ranks: Annotated[Optional[list[Any]], doc("what each rank measured, by workload; null if the job failed")]
