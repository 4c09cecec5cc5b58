"""The wire between two copies: lines of JSON over one TCP connection, from a peer that has this job's secret.

Each side proves that it has the secret without sending it: HMAC-SHA-256 over the other's fresh challenge, both ways, as
multiprocessing.connection does. After that each line carries a MAC over its direction, its number and its text, so that nothing can be
added, changed, left out or replayed. Nothing is encrypted, and nothing that arrives is executed.
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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bench.copies.messages import is_message
from bench.record.records import refuse_constant

MAX_KEEPALIVE = 32767  # seconds, which is what the kernel takes
HANDSHAKE_SECONDS = 5.0  # from connecting to the end of the proof
MAX_HANDSHAKE_BYTES = 1024
CHALLENGE_BYTES = 32
MAX_BYTES = 1 << 30  # of a message, which the parts of a record of many ranks are far from


@dataclass(frozen=True)
class Secret:
    """What only the copies of one job have. ``source``: where it is from, for the record."""

    key: bytes
    source: str
    weak: bool


def secret_of(launcher: str, environ: Mapping[str, str]) -> Secret:
    """Return BENCH_TOKEN's secret, else that of what the launcher gave all copies, which others on the cluster may read as well."""
    if token := environ.get("BENCH_TOKEN"):
        return Secret(derived("token", token), "BENCH_TOKEN", False)
    return Secret(derived("weak", *job_words(launcher, environ)), "derived", True)


def job_words(launcher: str, environ: Mapping[str, str]) -> list[str]:
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


def derived(*words: str) -> bytes:
    return hmac.new(b"bench control connection", json.dumps(words).encode(), "sha256").digest()


class Refused(Exception):
    """The other side is not a copy of this job, or did not prove it in time."""


class Connection:
    """One message at a time over a socket, each with its MAC. A broken connection reads as None, once and for all."""

    def __init__(self, sock: socket.socket, timeout_seconds: float, key: bytes, leads: bool, pending: bytes = b""):
        self.socket, self.pending, self.alive = sock, pending, True
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
        return self.next()

    def messages(self) -> list[dict[str, Any]]:
        """Return all messages that have arrived whole; read nothing."""
        found = []
        while b"\n" in self.pending and (message := self.next()) is not None:
            found.append(message)
        return found

    def next(self) -> dict[str, Any] | None:
        line, _, self.pending = self.pending.partition(b"\n")
        claimed, _, text = line.partition(b" ")
        if not hmac.compare_digest(claimed, self.mac(not self.leads, self.received, text)):
            return self.drop()  # somebody is between the two: nothing after it can be trusted either
        self.received += 1
        try:
            message: dict[str, Any] = json.loads(text, parse_constant=refuse_constant)
        except (ValueError, RecursionError):  # the last of JSON that is nested deeply
            return self.drop()
        return message if is_message(message, by_leader=not self.leads) else self.drop()

    def drop(self) -> dict[str, Any] | None:
        self.alive, self.pending = False, b""
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


def welcome_in(sock: socket.socket, secret: Secret, timeout_seconds: float) -> Connection:
    """Return the connection after the leader's side of the proof. Raises Refused, the socket closed."""
    with closed_if_refused(sock):
        peer = Handshake(sock, HANDSHAKE_SECONDS)
        challenge = secrets.token_hex(CHALLENGE_BYTES)
        peer.send({"bench": 1, "challenge": challenge})
        answer = peer.receive("challenge", "proof")
        theirs = answer["challenge"]
        must_match(answer["proof"], proof(secret, "follower", challenge, theirs))
        peer.send({"proof": proof(secret, "leader", challenge, theirs)})
        return Connection(sock, timeout_seconds, mac_of(secret, "session", challenge, theirs), True, peer.rest)


def enter(sock: socket.socket, secret: Secret, timeout_seconds: float) -> Connection:
    """Return the connection after the follower's side of the proof, in which the leader proves itself too. Raises Refused, the socket
    closed."""
    with closed_if_refused(sock):
        peer = Handshake(sock, HANDSHAKE_SECONDS)
        theirs = peer.receive("challenge")["challenge"]
        challenge = secrets.token_hex(CHALLENGE_BYTES)
        peer.send({"challenge": challenge, "proof": proof(secret, "follower", theirs, challenge)})
        must_match(peer.receive("proof")["proof"], proof(secret, "leader", theirs, challenge))
        return Connection(sock, timeout_seconds, mac_of(secret, "session", theirs, challenge), False, peer.rest)


@contextlib.contextmanager
def closed_if_refused(sock: socket.socket) -> Iterator[None]:
    try:
        yield
    except (Refused, OSError, ValueError, RecursionError) as error:  # the last of JSON that is nested deeply
        sock.close()
        raise Refused(str(error)) from error


def mac_of(secret: Secret, *words: str) -> bytes:
    return hmac.new(secret.key, json.dumps(words).encode(), "sha256").digest()


def proof(secret: Secret, who: str, leaders: str, followers: str) -> str:
    """Return the MAC over both challenges and the role: an answer cannot be sent back, nor used for another connection."""
    return mac_of(secret, who, leaders, followers).hex()


def must_match(claimed: str, right: str) -> None:
    if not hmac.compare_digest(claimed.encode(), right.encode()):
        raise Refused("it does not know this job's secret")


class Handshake:
    """Short lines of JSON, for a short time, with a peer that has not proved anything yet."""

    def __init__(self, sock: socket.socket, seconds: float):
        self.socket, self.rest, self.deadline = sock, b"", time.monotonic() + seconds

    def send(self, message: dict[str, Any]) -> None:
        self.socket.settimeout(max(0.001, self.deadline - time.monotonic()))
        self.socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self, *keys: str) -> dict[str, str]:
        """Return a line that has these keys, all of them texts. Raises Refused, OSError or ValueError."""
        while b"\n" not in self.rest:
            self.socket.settimeout(max(0.001, self.deadline - time.monotonic()))
            chunk = self.socket.recv(MAX_HANDSHAKE_BYTES)
            self.rest += chunk
            if not chunk:
                raise Refused("it closed the connection")
            if len(self.rest) > MAX_HANDSHAKE_BYTES and b"\n" not in self.rest[:MAX_HANDSHAKE_BYTES]:
                raise Refused("it sent something else")
        line, _, self.rest = self.rest.partition(b"\n")
        message = json.loads(line)
        if not isinstance(message, dict) or not all(isinstance(message.get(key), str) for key in keys):
            raise Refused("it sent something else")
        return message
