"""The fields that a record of a user's program has in the place of our GPT's: a part of record_schema.py, which says how they are written."""

from __future__ import annotations

from typing import Union

Field = Union[tuple[str, str], tuple[str, str, int]]  # kind, sentence, schema number

COUNTED = {
    "minor_faults": "page faults that the kernel served without reading a disk",
    "major_faults": "page faults that read a disk",
    "user_seconds": "CPU time in the program, all threads",
    "system_seconds": "CPU time in the kernel, all threads",
}
SOMETIMES = 1000  # larger than any schema number
OF_PROGRAM = {"ranks": "program_part[]?", "derived": "program_derived?"}  # in a record whose job has a program
PROGRAM: dict[str, dict[str, Field]] = {
    "program_part": {
        "rank": ("integer", "0"),
        "node": ("integer", "0"),
        "hostname": ("string", "name of the host"),
        "pid": ("integer", "process number of the command"),
        "cpus": ("integer[]", "logical CPUs that it was allowed"),
        "threads": ("integer", "CPUs that it kept busy, on average, at least 1"),
        "proof": ("program_proof", "the arm's library, and each process that carried it or did not"),
        "environment_bytes": ("integer", "of the environment that it was started with, zeros included: the same for all arms", 2),
        "run": ("program_run", "the run as a whole, by the kernel's account of the command and all that came of it"),
        "steps": ("program_steps?", "what `program.rate` found in its output; null where the run is the sample"),
        "values": ("number[]", "what `program.check` found, and how often, and the hash of its output: alike in every arm"),
        "peak_rss_bytes": ("integer", "largest resident set, of all its processes together"),
        "huge_bytes": ("integer", "transparent huge pages, the most that a look saw in one process"),
        "fault_cost_seconds": ("number?", "wall seconds of one minor fault here, so many threads faulting at once"),
        "without": ("string[]", "sentences on what this host refuses, where it does", SOMETIMES),
    },
    "program_proof": {
        "malloc_library": ("string", "path of the library that `malloc` resolves to, in a small process of the arm's own"),
        "sha256": ("string?", "of that file"),
        "version": ("string?", "as the allocator tells it"),
        "options": ("any", "its live options, as the allocator tells them"),
        "unconfirmed": ("string[]", "options that are set and that this allocator cannot be asked about"),
        "dropped": ("string[]", "options of the arm that this version no longer knows: replaced as `allocator.instead` says", SOMETIMES),
        "tunables": ("string{}", "`glibc.malloc.*` in the arm's environment, as the loader lists them; none before glibc 2.33", SOMETIMES),
        "libraries": ("string{}", "each library that does the arm's work, by path, with its SHA-256"),
        "library_path": ("string?", "that process's `LD_LIBRARY_PATH`"),
        "processes": ("program_process[]", "each process that was seen, in the order of being seen; an exec makes another of one"),
    },
    "program_process": {
        "pid": ("integer", "its number"),
        "command": ("string", "its command line, cut short"),
        "reached": ("boolean?", "whether it carries the arm; null where too little of it was seen"),
        "why": ("string?", "why the arm does not serve it, or, where it reached it, what memory is not the arm's"),
        "cpu_seconds": ("number", "that it was seen to use"),
        "peak_rss_bytes": ("integer", "largest resident set that was seen"),
    },
    "program_run": {
        "wall_seconds": ("number", "from its start to its end, or to where it was stopped"),
        "exit_code": ("integer?", "of the command; null where it was stopped"),
        "stopped": ("boolean", "true: there were steps enough, and it was ended"),
        **{name: ("number" if name.endswith("seconds") else "integer", f"{says}, of all its processes") for name, says in COUNTED.items()},
    },
    "program_steps": {
        "seconds": ("number[]", "of each step"),
        "steady": ("boolean[]", "false for warm-up, which is kept and not counted"),
        "counted": ("boolean", "whether the counters below are of the steady steps alone; false: too few to tell them from the start"),
        **{f"{name}_per_step": ("number", f"{says}, of all its processes") for name, says in COUNTED.items()},
    },
    "program_derived": {
        "sec_per_it": ("number", "mean of the steady steps, or the whole run"),
        "sec_per_it_low": ("number?", "lower end of the 95 % interval of that mean within this run; null if nothing repeats"),
        "sec_per_it_high": ("number?", "its upper end"),
        "samples": ("number[]", "the steady steps, or the one run"),
        "micro_batch_seconds": ("number", "`sec_per_it`"),
        "micro_batches_per_it": ("integer", "1"),
        "sampled_micro_batches": ("integer", "steps that `sec_per_it` rests on, or 1"),
        "mem_mib": ("number?", "null"),
        "peak_rss_bytes": ("integer", "as in `ranks`"),
        **{f"{name}_per_it": ("number", f"{says}, of a step or the run") for name, says in COUNTED.items()},
        "phases": ("phase{}", "one, named `step` or `run`"),
        "losses": ("number[]", "`values`"),
        "ghz": ("number?", "clock of the host"),
        "notes": ("string", "how many steps of how many, or `whole run`"),
    },
}  # fmt: skip
