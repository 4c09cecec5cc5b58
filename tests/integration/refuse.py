"""A program whose kernel says no: ``python refuse.py RULE[;RULE...] -- program words`` (x86-64).

A rule is ``NAME=ERRNO`` or ``NAME(ARGUMENT=VALUE)=ERRNO``: that system call, always or with that argument, is answered by that
error, in the program and in all that it starts. It is a filter of seccomp(2), which an ordinary user may set too.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import struct
import sys

CALLS = {
    "madvise": 28,
    "socket": 41,
    "fork": 57,
    "flock": 73,
    "getrusage": 98,
    "sigaltstack": 131,
    "statfs": 137,
    "prctl": 157,
    "sched_setaffinity": 203,
    "sched_getaffinity": 204,
    "set_mempolicy": 238,
    "memfd_create": 319,
}
LOAD, IF_EQUAL, RETURN = 0x20, 0x15, 0x06  # BPF: load a word, jump unless equal, end
NUMBER, ARGUMENTS = 0, 16  # offsets in struct seccomp_data
ALLOW, ANSWER = 0x7FFF0000, 0x00050000  # SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO
SET_NO_NEW_PRIVILEGES, SET_SECCOMP, WITH_FILTER = 38, 22, 2  # prctl(2)


class Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]


def instruction(code: int, value: int, if_not: int = 0) -> bytes:
    """One instruction; ``if_not``: how many are passed over where a comparison fails."""
    return struct.pack("HBBI", code, 0, if_not, value)


def rule(text: str) -> bytes:
    match = re.fullmatch(r"(\w+)(?:\((\d)=(\d+)\))?=(\w+)", text)
    assert match, text
    name, argument, value, error = match.groups()
    answer = instruction(RETURN, ANSWER | getattr(errno, error))
    if argument is not None:
        answer = instruction(LOAD, ARGUMENTS + 8 * int(argument)) + instruction(IF_EQUAL, int(value), 1) + answer
    length = len(answer) // 8
    return instruction(LOAD, NUMBER) + instruction(IF_EQUAL, CALLS[name], length) + answer


def refuse(rules: str) -> None:
    """From here on, for this process and its children."""
    code = b"".join(map(rule, rules.split(";"))) + instruction(RETURN, ALLOW)
    buffer = ctypes.create_string_buffer(code, len(code))
    described = Filter(len(code) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0) or libc.prctl(SET_SECCOMP, WITH_FILTER, ctypes.byref(described)):
        sys.exit(f"the filter was refused: {os.strerror(ctypes.get_errno())}")


if __name__ == "__main__":
    refuse(sys.argv[1])
    program = sys.argv[sys.argv.index("--") + 1 :]
    os.execvp(program[0], program)
