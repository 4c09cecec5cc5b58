"""Errors that a user can cause: one sentence each, `key=value: what is wrong`, then after a colon or semicolon what to do."""

from __future__ import annotations

import re
import resource


class RecordError(ValueError):
    """One sentence: which file, what is wrong with it."""


class ConfigError(ValueError):
    """One sentence for the user; exit code 2."""


class AllocatorError(RuntimeError):
    """One sentence: what is missing or not as asked, and what to do."""


def printable(text: str) -> str:
    """Return the text with Python's escapes for what a terminal must not act on (a line break, an escape)."""
    return (
        text
        if text.isprintable()
        else "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
    )


# How the second part of an error begins, which is what to do.
HINT = re.compile(
    r"; (?=there (?:is|are) )|"
    r"[;:] (?=(?:or )?(?:`|add |allow |apt-get |ask |bring |build |cd |choose |copy |correct |did you mean |free |give |install |keep |"
    r"leave |link |list |make |mount |move |name |put |raise |read |record |remove |rename |rerun |run |save |say |see |send |set |start |"
    r"unset |use |wait |write ))"
)


def error_lines(sentence: str) -> list[str]:
    """Return an error as it is printed: what is wrong, and in a line of its own what to do."""
    what, *rest = HINT.split(printable(sentence), maxsplit=1)
    return [f"error: {what.rstrip('.')}", *(f"hint: {words.rstrip('.')}" for words in rest)]


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
