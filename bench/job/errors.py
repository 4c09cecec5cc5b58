"""Errors that a user can cause: one sentence each, with the key, the value and the way out."""

from __future__ import annotations

import re
import resource


class RecordError(ValueError):
    """One sentence: which file, what is wrong with it."""


class ConfigError(ValueError):
    """One sentence for the user; exit code 2."""


class AllocatorError(RuntimeError):
    """One sentence: what is missing or not as asked, and the way out."""


def printable(text: str) -> str:
    """What a terminal must not act on (a line break, an escape) in Python's words for it."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


# How Python, torch (DefaultCPUAllocator), C and the loader say that there was no memory.
NO_MEMORY = re.compile(
    r"MemoryError|bad_alloc|DefaultCPUAllocator|can't allocate memory|cannot allocate memory|failed to map segment|not enough memory|"
    r"can't start new thread|Resource temporarily unavailable",
    re.IGNORECASE,
)


def memory_limit() -> str | None:
    """The limit of this process's address space or data in words, as ``ulimit`` counts it; None where there is none."""
    for name, flag in (("RLIMIT_AS", "-v"), ("RLIMIT_DATA", "-d")):
        limit = resource.getrlimit(getattr(resource, name))[0]
        if limit != resource.RLIM_INFINITY:
            return f"ulimit {flag} {limit >> 10}"
    return None


def with_memory_limit(sentence: str) -> str:
    """The sentence, and the memory limit where that may be why. Arms differ in what they reserve: one may run where another
    does not."""
    limit = memory_limit()
    if limit is None or not NO_MEMORY.search(sentence):
        return sentence
    return f"{sentence.rstrip('.')}; this process has a memory limit ({limit}): raise it, or `ulimit {limit.split()[1]} unlimited`."
