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
    """Return the text with Python's escapes for what a terminal must not act on (a line break, an escape)."""
    return (
        text
        if text.isprintable()
        else "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
    )


# How Python, torch (DefaultCPUAllocator), C and the loader say that there was no memory.
NO_MEMORY = re.compile(
    r"MemoryError|bad_alloc|DefaultCPUAllocator|can't allocate memory|cannot allocate memory|failed to map segment|not enough memory|"
    r"can't start new thread|Resource temporarily unavailable",
    re.IGNORECASE,
)


def with_memory_limit(sentence: str) -> str:
    """Return the sentence, with this process's memory limit where that may be the cause: arms differ in what they reserve."""
    for name, flag in (("RLIMIT_AS", "-v"), ("RLIMIT_DATA", "-d")):
        limit = resource.getrlimit(getattr(resource, name))[0]
        if limit != resource.RLIM_INFINITY and NO_MEMORY.search(sentence):
            limited = f"this process has a memory limit (ulimit {flag} {limit >> 10})"
            return f"{sentence.rstrip('.')}; {limited}: raise it, or `ulimit {flag} unlimited`."
    return sentence
