"""The environment of one rank: the host's without what is foreign, then the arm, then the threads, all padded to one length."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from bench.host.foreign import FOREIGN
from bench.job.job import PADDING, Allocator
from bench.process import options, proof

ROOM_VARIABLES, ROOM_BYTES = 16, 4096  # for what an arm adds; one that needs more gets twice as much, and so on


def environment(
    allocator: Allocator, path: str | None, threads: int, base: Mapping[str, str], cpus: Sequence[int] = ()
) -> dict[str, str]:
    """Return the environment of one rank, made of ``base`` and the arm with its library at ``path``.

    ``cpus``: OpenMP binds one thread to each of them, in this order; empty: it binds nothing. An arm's own OMP_PROC_BIND and OMP_PLACES
    win.
    """
    before = {k: v for k, v in base.items() if not k.startswith(FOREIGN)}
    if cpus:
        before.update(OMP_PROC_BIND="close", OMP_PLACES=places(cpus))
    number = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    before.update(number)
    preload = {} if path is None else {"LD_PRELOAD": path}
    return padded({**before, **in_force(allocator, path), **number, **preload}, before)


def in_force(allocator: Allocator, path: str | None) -> dict[str, str]:
    """Return the variables of the arm to set with the library at ``path``: see `options.in_force`."""
    return options.in_force(allocator, proof.libraries_of(path)) if allocator.instead else allocator.env


def steering(env: Mapping[str, str]) -> dict[str, str]:
    """Return what of a rank's environment steers threads, arithmetic, torch and the allocator: our own and the arm's variables."""
    return {name: env[name] for name in sorted(env) if name.startswith(FOREIGN) and name != "LD_PRELOAD"}


def places(cpus: Sequence[int]) -> str:
    """Return ``OMP_PLACES`` with a place for each logical CPU."""
    return ",".join(f"{{{cpu}}}" for cpu in cpus)


def padded(env: Mapping[str, str], before: Mapping[str, str]) -> dict[str, str]:
    """Return ``env`` filled up to the variables and bytes of ``before``, which all arms have in common, and a fixed room.

    The kernel lays the variables and the pointers to them above the stack: their number and length move it, and where it is can change
    the speed by more than what is compared (Mytkowicz et al., ASPLOS 2009, section 3).
    """
    rooms = 1
    while True:
        names = [f"{PADDING}{number:02d}" for number in range(len(before) + rooms * ROOM_VARIABLES - len(env))]
        full = {**env, **dict.fromkeys(names, "")}
        left = bytes_of(before) + rooms * ROOM_BYTES - bytes_of(full)
        if names and left >= 0:
            return {**full, names[0]: "x" * left}
        rooms += 1


def bytes_of(env: Mapping[str, str]) -> int:
    """Return the bytes of the environment as exec lays it out: ``NAME=VALUE`` and a zero each."""
    return sum(len(os.fsencode(name)) + len(os.fsencode(value)) + 2 for name, value in env.items())
