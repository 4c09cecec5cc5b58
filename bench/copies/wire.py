"""The wire between two copies: lines of JSON over one TCP connection, from a peer that has this job's secret.

Each side proves that it has the secret without sending it: HMAC-SHA-256 over both sides' fresh challenges, the follower first. After
that each line carries a MAC over its direction, its number and its text, so that nothing can be added, changed, left out or replayed.
Nothing is encrypted, and nothing that arrives is executed.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import os
import secrets
import select
import socket
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.copies.messages import is_message
from bench.record.records import refuse_constant

MAX_KEEPALIVE = 32767  # seconds, which is what the kernel takes
HANDSHAKE_SECONDS = 5.0  # from connecting to the end of the proof
PROOF_BYTES = 32  # of a challenge, and of an HMAC-SHA-256
MAX_BYTES = 1 << 30  # of a message, which the parts of a record of many ranks are far from


@dataclass(frozen=True)
class Secret:
    """What only the copies of one job have. ``source``: where it is from, for the record; `derived` is weak."""

    key: bytes
    source: str


def secret_of(launcher: str, environ: Mapping[str, str]) -> Secret:
    """Return BENCH_TOKEN's secret, else that of what the launcher gave all copies, which others on the cluster may read as well."""
    if token := environ.get("BENCH_TOKEN"):
        return Secret(derive("token", token), "BENCH_TOKEN")
    return Secret(derive("weak", *step_names(launcher, environ)), "derived")


def step_names(launcher: str, environ: Mapping[str, str]) -> list[str]:
    """Return the user, and what names this job step, alike on every copy.

    mpirun's copies have PMIX_NAMESPACE in common, but in a Slurm job not the step. What ssh started has nothing in common: the first
    copy may be in a Slurm job, and the others are not.
    """
    names: tuple[str, ...] = ("SLURM_JOB_ID", "SLURM_STEP_ID", "TORCHELASTIC_RUN_ID", "MASTER_PORT")
    if launcher == "bench":
        names = ()
    elif "PMIX_NAMESPACE" in environ:
        names = ("PMIX_NAMESPACE",)
    return [str(os.getuid()), *(environ.get(name, "") for name in names)]


def derive(*words: str) -> bytes:
    return hmac.new(b"bench control connection", json.dumps(words).encode(), "sha256").digest()


class Refused(Exception):
    """The other side is not a copy of this job, or did not prove it in time."""


class Connection:
    """One message at a time over a socket, each with its MAC. A broken connection reads as None, once and for all."""

    def __init__(self, sock: socket.socket, timeout_seconds: float, key: bytes, leads: bool):
        self.socket, self.pending, self.alive = sock, b"", True
        self.key, self.leads, self.sent, self.received = key, leads, 0, 0
        keep_alive(sock, timeout_seconds)

    def mac(self, by_leader: bool, number: int, text: bytes) -> bytes:
        head = f"{'leader' if by_leader else 'follower'} {number} ".encode()
        return hmac.new(self.key, head + text, "sha256").hexdigest().encode()

    def send(self, message: dict[str, Any]) -> None:
        text = json.dumps(message).encode()
        line = self.mac(self.leads, self.sent, text) + b" " + text + b"\n"
        self.sent += 1
        try:
            self.socket.sendall(line)
        except OSError:
            self.alive = False

    def receive(self, timeout_seconds: float | None = None) -> dict[str, Any] | None:
        """Return the next message; None when the other side is gone or the time is over."""
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while b"\n" not in self.pending:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not self.alive or not select.select([self.socket], [], [], left)[0]:
                return None
            self.read()
        return self.take()

    def messages(self) -> list[dict[str, Any]]:
        """Return all messages that have arrived whole; read nothing."""
        return list(iter(self.take, None))

    def take(self) -> dict[str, Any] | None:
        """Return the next message that has arrived whole; None where there is none, or a wrong one ended the connection."""
        if b"\n" not in self.pending:
            return None
        line, _, self.pending = self.pending.partition(b"\n")
        claimed, _, text = line.partition(b" ")
        if hmac.compare_digest(claimed, self.mac(not self.leads, self.received, text)):
            self.received += 1
            with contextlib.suppress(ValueError, RecursionError):  # the last of JSON that is nested deeply
                message: dict[str, Any] = json.loads(text, parse_constant=refuse_constant)
                if is_message(message, by_leader=not self.leads):
                    return message
        self.alive, self.pending = False, b""  # somebody may be between the two: nothing after it can be trusted either
        return None

    def read(self) -> None:
        """Read what has arrived; at the end of the stream the connection is no longer alive."""
        try:
            chunk = self.socket.recv(1 << 16)
        except OSError:
            chunk = b""
        self.pending += chunk
        self.alive = bool(chunk) and len(self.pending) <= MAX_BYTES

    def close(self) -> None:
        self.alive = False
        self.socket.close()


def keep_alive(sock: socket.socket, timeout_seconds: float) -> None:
    """Detect within ``timeout_seconds`` a peer whose network is gone.

    Probe an idle connection, and give up unacknowledged data. Where both are set the kernel gives up at the first probe after
    TCP_USER_TIMEOUT, which is thus at most 7/8 of the time allowed.
    """
    sock.settimeout(None)  # clear the connect timeout
    # A peer that has stopped reading, as a stopped process does, must not stop us as well: then a send fails (struct timeval).
    limit = struct.pack("ll", *divmod(int(timeout_seconds * 1e6), 10**6))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value, most in (
        (socket.TCP_KEEPIDLE, max(1, timeout_seconds / 4), MAX_KEEPALIVE),
        (socket.TCP_KEEPINTVL, max(1, timeout_seconds / 8), MAX_KEEPALIVE),
        (socket.TCP_KEEPCNT, 4, MAX_KEEPALIVE),
        (socket.TCP_USER_TIMEOUT, timeout_seconds * 750, (1 << 31) - 1),
    ):
        sock.setsockopt(socket.IPPROTO_TCP, option, int(min(value, most)))


def authenticate(sock: socket.socket, secret: Secret, timeout_seconds: float, leads: bool) -> Connection:
    """Return the connection after both sides have proved the secret. Raises Refused, the socket closed.

    A proof is over both challenges and the role: it cannot be sent back, nor used for another connection.
    """
    mine, deadline = secrets.token_bytes(PROOF_BYTES), time.monotonic() + HANDSHAKE_SECONDS

    def mac(what: bytes) -> bytes:
        return hmac.new(secret.key, what + challenges, "sha256").digest()

    try:
        sock.settimeout(HANDSHAKE_SECONDS)
        sock.sendall(mine)
        theirs = receive_bytes(sock, deadline)
        challenges = mine + theirs if leads else theirs + mine
        for proves_now, proof in ((not leads, mac(b"follower")), (leads, mac(b"leader"))):
            if proves_now:
                sock.sendall(proof)
            elif not hmac.compare_digest(receive_bytes(sock, deadline), proof):
                raise Refused("it does not have this job's secret")
        return Connection(sock, timeout_seconds, mac(b"session"), leads)
    except (Refused, OSError) as error:
        sock.close()
        raise Refused(str(error)) from error


def receive_bytes(sock: socket.socket, deadline: float) -> bytes:
    """Return the next challenge or proof, of a peer that has not proved anything yet. Raises Refused or OSError."""
    found = b""
    while len(found) < PROOF_BYTES:
        sock.settimeout(max(0.001, deadline - time.monotonic()))
        chunk = sock.recv(PROOF_BYTES - len(found))
        if not chunk:
            raise Refused("it closed the connection")
        found += chunk
    return found
